package rollout

import (
	"fmt"
	"time"

	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Orders stand over every rollout: what people have frozen, and which releases
// nobody may run. The zero value orders nothing.
type Orders struct {
	Freezes     []Freeze     `json:"freezes,omitempty"`
	Quarantined []Quarantine `json:"quarantined,omitempty"`
}

// Freeze keeps every rollout from offering or activating anything on the
// devices it matches. Ways back stay open: a frozen line must be able to leave
// a bad release.
type Freeze struct {
	Name     string    `json:"name"`             // unique
	Selector string    `json:"selector"`         // see package selector; "" matches all
	From     time.Time `json:"from,omitzero"`    // zero: at once
	Until    time.Time `json:"until,omitzero"`   // zero: until a person lifts it
	By       string    `json:"by"`               // who ordered it
	Reason   string    `json:"reason,omitempty"` // in that person's words
}

// Quarantine forbids one release, whatever rollout moves it: none offers it,
// and one that does goes back.
type Quarantine struct {
	Manifest artifact.Digest `json:"manifest"`
	Release  string          `json:"release,omitempty"` // name and counter, for people
	By       string          `json:"by"`
	Reason   string          `json:"reason,omitempty"`
	At       time.Time       `json:"at"`
}

// Validate says what makes a freeze useless.
func (f Freeze) Validate() error {
	if f.Name == "" {
		return fmt.Errorf("cannot freeze: give it a name")
	}
	if err := ValidFleet(f.Selector); err != nil {
		return fmt.Errorf("cannot freeze %q: %w", f.Name, err)
	}
	if !f.Until.IsZero() && !f.From.Before(f.Until) {
		return fmt.Errorf("cannot freeze %q: it ends at %s and begins at %s", f.Name, clock(f.Until), clock(f.From))
	}
	return nil
}

// frozen returns why nothing new may be offered to a device now, or "", and
// when the answer may differ. Zero: never by time alone. A selector that
// cannot be read freezes everything.
func (o Orders) frozen(d *Device, now time.Time) (why string, change time.Time) {
	sooner := func(t time.Time) {
		if !t.IsZero() && t.After(now) && (change.IsZero() || t.Before(change)) {
			change = t
		}
	}
	for _, f := range o.Freezes {
		if !f.Until.IsZero() && !now.Before(f.Until) {
			continue
		}
		if s, err := selector.Parse(f.Selector); err == nil && !s.Match(d.Look) {
			continue
		}
		if now.Before(f.From) {
			sooner(f.From)
			continue
		}
		sooner(f.Until)
		if why == "" {
			why = fmt.Sprintf("frozen by %s (%s): %s", f.By, f.Name, f.Reason)
		}
	}
	return why, change
}

// quarantined returns the order against a release, if there is one.
func (o Orders) quarantined(manifest artifact.Digest) (Quarantine, bool) {
	for _, q := range o.Quarantined {
		if q.Manifest == manifest {
			return q, true
		}
	}
	return Quarantine{}, false
}
