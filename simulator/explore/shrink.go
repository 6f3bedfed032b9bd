package explore

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/scenario"
)

// traceLines is how much of a failing run's trace is kept.
const traceLines = 60

// explain makes a failing run smaller and tells its story.
func (f *Failure) explain(name, template string, o Options) error {
	s, err := Scenario(name, template, f.Seed, o.Devices)
	if err != nil {
		return err
	}
	k := &shrinker{seed: f.Seed, until: time.Now().Add(o.Shrink), violations: f.Violations}
	s = k.shrink(s)
	f.Plays, f.Violations = k.plays, k.violations
	f.Scenario = s.String()
	first := f.Violations[0]
	f.Trace, err = Trace(s, f.Seed, first.At, subject(first.What), traceLines)
	return err
}

// Trace tells a run up to a moment, with the life of a device; "": of none. last
// is how many of its lines are kept; 0: all.
func Trace(s scenario.Scenario, seed uint64, until time.Duration, device string, last int) ([]string, error) {
	var lines []string
	_, err := scenario.Play(s, scenario.Options{Seed: seed, Until: until, Device: device, Trace: func(at time.Duration, what string) {
		if lines = append(lines, fmt.Sprintf("%10s  %s", at.Round(time.Second), what)); last > 0 && len(lines) > last {
			lines = lines[1:]
		}
	}})
	return lines, err
}

// subject is the device that a violation speaks of, or "".
func subject(what string) string {
	for word := range strings.FieldsSeq(what) {
		if word = strings.Trim(word, ":,"); strings.Count(word, "/") == 1 && !strings.Contains(word, "=") {
			return word
		}
	}
	return ""
}

// shrinker makes a failing scenario smaller: first the faults and steps, then
// the devices, then the time. It keeps what still breaks something.
type shrinker struct {
	seed       uint64
	until      time.Time
	plays      int
	violations []check.Violation
}

// fails plays a candidate.
func (k *shrinker) fails(s scenario.Scenario) bool {
	if time.Now().After(k.until) {
		return false
	}
	k.plays++
	r, err := scenario.Play(s, scenario.Options{Seed: k.seed})
	for _, why := range r.Refused {
		if why != "" {
			return false // a policy that does not fit the smaller fleet is another story
		}
	}
	if err != nil || len(r.Violations) == 0 {
		return false
	}
	k.violations = r.Violations
	return true
}

func (k *shrinker) shrink(s scenario.Scenario) scenario.Scenario {
	s.Expect = nil
	try := func(change func(*scenario.Scenario)) {
		t := s
		t.Faults, t.Steps = slices.Clone(s.Faults), slices.Clone(s.Steps)
		if change(&t); k.fails(t) {
			s = t
		}
	}
	// What comes after it cannot be its cause.
	at := k.violations[0].At
	try(func(t *scenario.Scenario) {
		t.Steps = slices.DeleteFunc(t.Steps, func(st scenario.Step) bool { return st.At > at })
	})
	// Halves of the faults first, then each by itself.
	for n := len(s.Faults); n > 0; n /= 2 {
		for i := len(s.Faults) - n; i >= 0; i -= n {
			if i+n <= len(s.Faults) {
				try(func(t *scenario.Scenario) { t.Faults = slices.Delete(t.Faults, i, i+n) })
			}
		}
	}
	for n := len(s.Steps); n > 0; n /= 2 {
		for i := len(s.Steps) - n; i >= 0; i -= n {
			if i+n <= len(s.Steps) {
				try(func(t *scenario.Scenario) { t.Steps = slices.Delete(t.Steps, i, i+n) })
			}
		}
	}
	try(func(t *scenario.Scenario) {
		for i := range t.Network {
			t.Network[i].Drop, t.Network[i].Duplicate = 0, 0
		}
	})
	for n := s.Devices() / 2; n >= 4; n /= 2 {
		before := s.Devices()
		if try(func(t *scenario.Scenario) { *t = t.WithDevices(n) }); s.Devices() == before {
			break
		}
	}
	for _, part := range []float64{1. / 3, 2. / 3, 1} {
		at := k.violations[0].At.Seconds()
		if short := (time.Duration(at*part*float64(time.Second)) + time.Minute).Round(time.Minute); short < s.For {
			before := s.For
			if try(func(t *scenario.Scenario) { t.For = short }); s.For != before {
				break
			}
		}
	}
	return s
}
