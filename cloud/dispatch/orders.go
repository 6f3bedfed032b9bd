package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
)

// MaxFreezes and MaxQuarantined bound the standing orders: every decision
// carries them.
const (
	MaxFreezes     = 64
	MaxQuarantined = 1024
)

// Orders returns the standing orders.
func (d *Dispatcher) Orders(ctx context.Context) (rollout.Orders, error) {
	o, _, err := d.cfg.Store.Orders(ctx)
	if err != nil {
		return o, fmt.Errorf("read the standing orders: %w", err)
	}
	return o, nil
}

// Freeze keeps hands off the devices that f matches until it ends or somebody
// lifts it.
func (d *Dispatcher) Freeze(ctx context.Context, f rollout.Freeze) error {
	if f.From.IsZero() {
		f.From = d.now()
	}
	if err := f.Validate(); err != nil {
		return err
	}
	if f.By == "" || f.Reason == "" {
		return fmt.Errorf("cannot freeze %q: say who asks and why", f.Name)
	}
	if !f.Until.IsZero() && !f.Until.After(d.now()) {
		return fmt.Errorf("cannot freeze %q: it ends at %s, which is past", f.Name, clock(f.Until))
	}
	return d.order(ctx, Event{Actor: f.By, Action: "freeze.start", Object: "Freeze/" + f.Name, Reason: f.Reason, Detail: f}, func(o rollout.Orders) (rollout.Orders, error) {
		// Freezes that are over make room.
		o.Freezes = slices.DeleteFunc(o.Freezes, func(g rollout.Freeze) bool { return !g.Until.IsZero() && !d.now().Before(g.Until) })
		if slices.ContainsFunc(o.Freezes, func(g rollout.Freeze) bool { return g.Name == f.Name }) {
			return o, fmt.Errorf("cannot freeze %q: there is a freeze of this name: %w", f.Name, ErrExists)
		}
		if len(o.Freezes) >= MaxFreezes {
			return o, fmt.Errorf("cannot freeze %q: %d freezes hold, and no more can: lift one", f.Name, MaxFreezes)
		}
		o.Freezes = append(o.Freezes, f)
		return o, nil
	})
}

// Unfreeze lifts a freeze; ErrNoOrder when there is none of the name.
func (d *Dispatcher) Unfreeze(ctx context.Context, name, by, reason string) error {
	if by == "" || reason == "" {
		return fmt.Errorf("cannot lift freeze %q: say who asks and why", name)
	}
	return d.order(ctx, Event{Actor: by, Action: "freeze.end", Object: "Freeze/" + name, Reason: reason}, func(o rollout.Orders) (rollout.Orders, error) {
		n := len(o.Freezes)
		o.Freezes = slices.DeleteFunc(o.Freezes, func(f rollout.Freeze) bool { return f.Name == name })
		if len(o.Freezes) == n {
			return o, fmt.Errorf("cannot lift freeze %q: %w", name, ErrNoOrder)
		}
		return o, nil
	})
}

// Quarantine bans a release: no rollout offers it any more, and one that does
// goes back.
func (d *Dispatcher) Quarantine(ctx context.Context, q rollout.Quarantine) error {
	if err := q.Manifest.Validate(); err != nil {
		return fmt.Errorf("cannot quarantine %s: %w", q.Release, err)
	}
	if q.By == "" || q.Reason == "" {
		return fmt.Errorf("cannot quarantine %s: say who asks and why", q.Release)
	}
	q.At = d.now()
	return d.order(ctx, Event{Actor: q.By, Action: "quarantine.start", Object: "Release/" + string(q.Manifest), Reason: q.Reason, Detail: q}, func(o rollout.Orders) (rollout.Orders, error) {
		if old, ok := banned(o, q.Manifest); ok {
			return o, fmt.Errorf("cannot quarantine %s: %s did on %s (%s): %w", q.Release, old.By, clock(old.At), old.Reason, ErrExists)
		}
		if len(o.Quarantined) >= MaxQuarantined {
			return o, fmt.Errorf("cannot quarantine %s: %d releases are, and no more can be: lift one", q.Release, MaxQuarantined)
		}
		o.Quarantined = append(o.Quarantined, q)
		return o, nil
	})
}

// Release lifts the quarantine of a release; ErrNoOrder when there is none.
func (d *Dispatcher) Release(ctx context.Context, manifest artifact.Digest, by, reason string) error {
	if by == "" || reason == "" {
		return fmt.Errorf("cannot lift the quarantine of %s: say who asks and why", manifest.Short())
	}
	return d.order(ctx, Event{Actor: by, Action: "quarantine.end", Object: "Release/" + string(manifest), Reason: reason}, func(o rollout.Orders) (rollout.Orders, error) {
		if _, ok := banned(o, manifest); !ok {
			return o, fmt.Errorf("cannot lift the quarantine of %s: %w", manifest.Short(), ErrNoOrder)
		}
		o.Quarantined = slices.DeleteFunc(o.Quarantined, func(q rollout.Quarantine) bool { return q.Manifest == manifest })
		return o, nil
	})
}

func banned(o rollout.Orders, manifest artifact.Digest) (rollout.Quarantine, bool) {
	i := slices.IndexFunc(o.Quarantined, func(q rollout.Quarantine) bool { return q.Manifest == manifest })
	if i < 0 {
		return rollout.Quarantine{}, false
	}
	return o.Quarantined[i], true
}

// order changes the standing orders by f, again while others are faster. What
// f refuses is not written to the ledger; what it allows is, before it holds.
func (d *Dispatcher) order(ctx context.Context, e Event, f func(rollout.Orders) (rollout.Orders, error)) error {
	for try := range maxTries {
		o, version, err := d.cfg.Store.Orders(ctx)
		if err != nil {
			return fmt.Errorf("read the standing orders: %w", err)
		}
		if o, err = f(o); err != nil {
			return err
		}
		if try == 0 {
			e.At = d.now()
			if err := d.cfg.Ledger.Append(ctx, e); err != nil {
				return fmt.Errorf("write %s of %s to the ledger: %w", e.Action, e.Object, err)
			}
		}
		err = d.cfg.Store.SaveOrders(ctx, o, version)
		if err == nil {
			d.Wake()
			return nil
		}
		if !errors.Is(err, ErrConflict) {
			return fmt.Errorf("store %s of %s: %w", e.Action, e.Object, err)
		}
	}
	return fmt.Errorf("store %s of %s: %w", e.Action, e.Object, ErrConflict)
}

// maxTries bounds how often a person's change is tried while others are faster.
const maxTries = 10

// clock is a moment as people read it, in UTC.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
