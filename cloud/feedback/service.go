package feedback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Bounds on what people say at once.
const (
	MaxBatch     = 1000 // labels in one act
	MaxStretch   = 31 * 24 * time.Hour
	maxValue     = 64              // bytes of a class name
	maxReason    = 1000            // bytes
	clockAllowed = 5 * time.Minute // how far in the future a stretch may end
)

// Act is one act of labelling, for the audit log.
type Act struct {
	By      string
	Object  string // "Device/site/node" or "Frame/HEX" of the only target, or "Labels/N"
	Reason  string
	Values  map[string]int // labels by value
	Targets []string       // the first few
	At      time.Time
}

// Detail is the act as a JSON object of the audit log.
func (a Act) Detail() json.RawMessage {
	b, err := json.Marshal(map[string]any{"values": a.Values, "targets": a.Targets})
	if err != nil {
		return nil // strings and integers always marshal
	}
	return b
}

// Config of a Service. Store, Class and Audit are required.
type Config struct {
	Store Store
	// Class returns the class of an enrolled device; ok is false for one that
	// the hub does not know.
	Class func(topic.ID) (class artifact.Class, ok bool)
	// Audit records an act before it is stored. What it records may then fail
	// to be stored, and be said again.
	Audit func(context.Context, Act) error
	Now   func() time.Time // nil: time.Now
}

// Service is the door for people. It is safe for concurrent use.
type Service struct {
	Store // everything but AddLabels is the store's own
	cfg   Config
}

// NewService returns a Service.
func NewService(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{Store: cfg.Store, cfg: cfg}
}

// AddLabels checks the labels, records the act and stores them, all or none.
// By, Class and At of each are filled in, and of a frame Device, From and To as
// well. Everything wrong is in the error, which wraps ErrInvalid.
func (s *Service) AddLabels(ctx context.Context, by, reason string, ls []Label) ([]Label, error) {
	if len(ls) == 0 || len(ls) > MaxBatch {
		return nil, fmt.Errorf("%w: %d labels: send 1 to %d at once", ErrInvalid, len(ls), MaxBatch)
	}
	if by == "" || len(reason) > maxReason || !utf8.ValidString(reason) {
		return nil, fmt.Errorf("%w: labels need somebody who says them, and a reason of at most %d bytes", ErrInvalid, maxReason)
	}
	now := s.cfg.Now().UTC()
	out := slices.Clone(ls)
	targets := map[string]bool{}
	act := Act{By: by, Object: fmt.Sprintf("Labels/%d", len(ls)), Reason: reason, Values: map[string]int{}, At: now}
	var errs []error
	for i := range out {
		l := &out[i]
		l.By, l.At = by, now
		if l.Reason == "" {
			l.Reason = reason
		}
		if err := s.check(ctx, l, now); err != nil {
			if !errors.Is(err, ErrInvalid) {
				return nil, err
			}
			errs = append(errs, fmt.Errorf("label %d: %w", i+1, err))
			continue
		}
		if targets[l.Target()] {
			errs = append(errs, fmt.Errorf("label %d: %w: %s is labelled twice in one act", i+1, ErrInvalid, object(*l)))
			continue
		}
		targets[l.Target()] = true
		act.Values[l.Value]++
		if len(act.Targets) < 20 {
			act.Targets = append(act.Targets, object(*l))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(out) == 1 {
		act.Object = object(out[0])
	}
	if err := s.cfg.Audit(ctx, act); err != nil {
		return nil, fmt.Errorf("record the labels in the audit log: %w", err)
	}
	if err := s.Store.AddLabels(ctx, out); err != nil {
		return nil, fmt.Errorf("store labels: %w", err)
	}
	return out, nil
}

func object(l Label) string {
	if l.Frame != "" {
		return "Frame/" + l.Frame.Hex()
	}
	return "Device/" + l.Device.String()
}

// check fills in what follows from the target and says what is wrong.
func (s *Service) check(ctx context.Context, l *Label, now time.Time) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	plain := l.Value == Anomaly || l.Value == Normal || l.Value == Unsure
	if len(l.Reason) > maxReason || !utf8.ValidString(l.Reason) {
		return bad("its reason is longer than %d bytes or not UTF-8", maxReason)
	}
	if l.Frame != "" {
		if err := l.Frame.Validate(); err != nil {
			return bad("%v", err)
		}
		if !plain && !className(l.Value) {
			return bad("value %q: use %s, %s, %s or a class name of at most %d bytes", l.Value, Anomaly, Normal, Unsure, maxValue)
		}
		f, err := s.Store.Frame(ctx, l.Frame)
		if errors.Is(err, ErrNoFrame) {
			return bad("no device uploaded a frame %s, or it was collected", l.Frame.Short())
		}
		if err != nil {
			return err
		}
		l.Device, l.Class, l.From, l.To = f.Device, f.Class, f.At, f.At
		return nil
	}
	if !plain {
		return bad("value %q: a stretch of time is %s, %s or %s; only frames have classes", l.Value, Anomaly, Normal, Unsure)
	}
	if err := l.Device.Validate(); err != nil {
		return bad("%v", err)
	}
	class, ok := s.cfg.Class(l.Device)
	if !ok {
		return bad("no device %s is enrolled", l.Device)
	}
	l.Class, l.From, l.To = class, l.From.UTC(), l.To.UTC()
	switch {
	case l.From.IsZero() || l.To.IsZero():
		return bad("it needs from and to, or a frame")
	case !l.To.After(l.From):
		return bad("it ends at %s and begins at %s", l.To.Format(time.RFC3339), l.From.Format(time.RFC3339))
	case l.To.Sub(l.From) > MaxStretch:
		return bad("it is %s long: label at most %s at once", l.To.Sub(l.From), MaxStretch)
	case l.To.After(now.Add(clockAllowed)):
		return bad("it ends in the future, at %s", l.To.Format(time.RFC3339))
	case l.From.Before(time.Unix(0, 0)):
		return bad("it begins before 1970")
	}
	return nil
}

func className(v string) bool {
	return v != "" && len(v) <= maxValue && utf8.ValidString(v) && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f })
}
