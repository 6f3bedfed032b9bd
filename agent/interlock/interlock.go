// Package interlock asks the plant whether a device may be touched now.
//
// The parties are the operator, who names predicates in the agent's
// configuration, and the agent's appliers, which ask before a release acts.
// A predicate is a value in a file, behind an HTTP address or on a topic of the
// plant's own MQTT broker, and what it has to be.
//
// It promises to fail closed: a release may act only if every predicate could
// be read now and permits. What cannot be read, is too old, too large, too late
// or of another shape forbids, with a reason that names it. A check ends within
// the sum of the predicates' timeouts.
//
// Only the agent's composition root imports it.
package interlock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Bounds of what is believed.
const (
	MaxPredicates = 16
	maxValue      = 64 << 10 // bytes of a file, an answer, a message
	maxTimeoutS   = 60
)

// Predicate is one question to the plant: exactly one of File, HTTP and MQTT.
type Predicate struct {
	// Name says in words what it asks, for the reason of waiting. Empty: where
	// it is read from.
	Name string `yaml:"name"`
	File *File  `yaml:"file"`
	HTTP *HTTP  `yaml:"http"`
	MQTT *MQTT  `yaml:"mqtt"`
}

// Value is what has to be read.
type Value struct {
	// Field is the path of a field in a JSON value, names joined by dots. Empty:
	// the whole, without space around it.
	Field string `yaml:"field"`
	// Equals is what it must be: strings as they are, numbers and true and false
	// as JSON writes them. Empty means "ok".
	Equals string `yaml:"equals"`
}

// File permits while the file at Path holds Value.
type File struct {
	Path  string `yaml:"path"` // required
	Value `yaml:",inline"`
	// MaxAgeS is how long ago the file may have been written, in seconds. 0: at
	// any time.
	MaxAgeS float64 `yaml:"max_age_s"`
}

// Set is a device's predicates. The zero value has none and permits.
type Set struct {
	asks []ask

	mu   sync.Mutex
	last error
}

// ask is a predicate made ready.
type ask struct {
	name string
	read func(ctx context.Context) error
}

// New makes a set. now is the device's clock; nil: time.Now.
func New(predicates []Predicate, now func() time.Time) (*Set, error) {
	if err := Validate(predicates); err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	s := &Set{}
	for _, p := range predicates {
		a := ask{name: p.Name}
		var where string
		switch {
		case p.File != nil:
			where, a.read = p.File.Path, p.File.reader(now)
		case p.HTTP != nil:
			where, a.read = p.HTTP.where(), p.HTTP.reader()
		default:
			where, a.read = p.MQTT.where(), p.MQTT.reader(now)
		}
		if a.name == "" {
			a.name = where
		} else {
			a.name += " (" + where + ")"
		}
		s.asks = append(s.asks, a)
	}
	return s, nil
}

// Check returns nil when every predicate was read and permits, else why not,
// naming each that forbids.
func (s *Set) Check(ctx context.Context) error {
	var closed []error
	for _, a := range s.asks {
		if err := a.read(ctx); err != nil {
			closed = append(closed, fmt.Errorf("%s %w", a.name, err))
		}
	}
	err := errors.Join(closed...)
	if len(closed) > 1 {
		said := make([]string, len(closed))
		for i, e := range closed {
			said[i] = e.Error()
		}
		err = errors.New(strings.Join(said, "; "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = err
	return err
}

// Last is what the newest Check returned; nil before the first.
func (s *Set) Last() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// unreadable is why a value is not known. It forbids.
func unreadable(format string, args ...any) error {
	return fmt.Errorf("cannot be read, which forbids: "+format, args...)
}

// judge says whether a value permits.
func (v Value) judge(b []byte) error {
	got := strings.TrimSpace(string(b))
	if v.Field != "" {
		var err error
		if got, err = field(b, v.Field); err != nil {
			return unreadable("%w", err)
		}
	}
	if want := v.wanted(); got != want {
		return fmt.Errorf("says %.60q, not %s", got, want)
	}
	return nil
}

func (v Value) wanted() string {
	if v.Equals == "" {
		return "ok"
	}
	return v.Equals
}

// field returns the scalar at a path of JSON names, as text.
func field(b []byte, path string) (string, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return "", fmt.Errorf("it is no JSON: %w", err)
	}
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return "", fmt.Errorf("it has no field %q: no object holds %q", path, name)
		}
		if v, ok = m[name]; !ok {
			return "", fmt.Errorf("it has no field %q", path)
		}
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("its field %q is no string, number or truth value", path)
}

// tooOld judges an age. A time from the future is no time to trust.
func tooOld(at, now time.Time, maxAgeS float64) error {
	age := now.Sub(at)
	switch {
	case age > seconds(maxAgeS):
		return unreadable("it is from %s ago, older than %s", age.Round(time.Second), seconds(maxAgeS))
	case age < -seconds(maxAgeS):
		return unreadable("it is from %s ahead of this device's clock", (-age).Round(time.Second))
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// timeout is a configured one, or 5 s.
func timeout(s float64) time.Duration {
	if s == 0 {
		s = 5
	}
	return seconds(s)
}

// Validate reports everything that makes the predicates unusable, joined.
func Validate(predicates []Predicate) error {
	var errs []error
	if len(predicates) > MaxPredicates {
		errs = append(errs, fmt.Errorf("%d interlocks: at most %d", len(predicates), MaxPredicates))
	}
	for i, p := range predicates {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("interlock %d: %w", i+1, fmt.Errorf(format, args...)))
		}
		kinds := 0
		if f := p.File; f != nil {
			kinds++
			if f.Path == "" {
				bad("file.path is empty: name the file to read")
			}
			if f.MaxAgeS < 0 {
				bad("file.max_age_s may not be negative")
			}
		}
		if h := p.HTTP; h != nil {
			kinds++
			if err := h.validate(); err != nil {
				bad("http: %w", err)
			}
		}
		if m := p.MQTT; m != nil {
			kinds++
			if err := m.validate(); err != nil {
				bad("mqtt: %w", err)
			}
		}
		if kinds != 1 {
			bad("want exactly one of file, http and mqtt, there are %d", kinds)
		}
	}
	return errors.Join(errs...)
}
