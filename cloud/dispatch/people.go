package dispatch

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Proposal asks for a rollout.
type Proposal struct {
	Name    string // unique; e.g. "pump-anomaly-7"
	Fleet   string // selector; "" is every device
	Release rollout.Release
	Policy  rollout.Policy
	Author  string // as in the ledger; may not approve it
	Reason  string // required
	Seed    uint64 // draws the canaries; 0 derives it from name and release
}

// View is a rollout with its devices at one moment: now for one that is going,
// its last decision for one that has ended.
type View struct {
	Rollout rollout.Rollout
	Version uint64
	Devices []rollout.Device // with their records
	At      time.Time
	Wake    time.Time // when the planner looks again at the latest; zero: when something happens
}

// Propose starts a rollout, or queues it behind the active one of its fleet.
// With dry it stores nothing and says what the first decision would be. A
// policy that can never finish is refused with the reason.
func (d *Dispatcher) Propose(ctx context.Context, p Proposal, dry bool) (View, error) {
	if p.Author == "" || p.Reason == "" {
		return View{}, errors.New("cannot start a rollout: say who asks and why")
	}
	all, err := d.cfg.Store.Rollouts(ctx)
	if err != nil {
		return View{}, fmt.Errorf("list rollouts: %w", err)
	}
	if p.Seed == 0 {
		h := fnv.New64a()
		fmt.Fprint(h, p.Name, p.Release.Manifest)
		p.Seed = h.Sum64()
	}
	if p.Release.Kind == artifact.Firmware {
		p.Policy.ShadowS = 0 // a program cannot compute in another's shadow
	}
	r := rollout.Rollout{
		Name: p.Name, Fleet: p.Fleet, Release: p.Release, Policy: p.Policy, Author: p.Author, Purpose: p.Reason, Seed: p.Seed, Created: d.now(),
		Previous: rollout.LastPromoted(p.Fleet, p.Release.Kind, all),
	}
	admitted := rollout.Admit(r, all)
	devices, err := d.cfg.Fleet.Devices(ctx)
	if err != nil {
		return View{}, fmt.Errorf("list devices: %w", err)
	}
	s, err := snapshot(Loaded{Rollout: r}, devices)
	if err != nil {
		return View{}, err
	}
	if err := rollout.Validate(r, s.Devices); err != nil {
		return View{}, err
	}
	if dry {
		dec := rollout.Decide(admitted.Rollout, s, d.now())
		return View{Rollout: dec.Rollout, Devices: rollout.Apply(s, dec).Devices, At: d.now(), Wake: dec.Wake}, nil
	}
	if err := d.audit(ctx, p.Author, "rollout.start", p.Name, p.Reason, map[string]any{"release": p.Release.Manifest, "policy": p.Policy.Name, "fleet": p.Fleet}); err != nil {
		return View{}, err
	}
	c := Commit{Now: d.now(), Rollout: admitted.Rollout, Decision: &Stored{
		Rollout: p.Name, At: d.now(), Before: rollout.Queued, Actor: p.Author, Input: r, Snapshot: s,
		Decision: rollout.Decision{Rollout: admitted.Rollout, Summary: admitted.Rollout.Reason, Reasons: []string{p.Reason}, Changed: true},
	}}
	if _, err := d.cfg.Store.Commit(ctx, c); err != nil {
		return View{}, fmt.Errorf("start rollout %s: %w", p.Name, err)
	}
	for _, name := range admitted.Superseded {
		if err := d.supersede(ctx, name, p.Name); err != nil {
			return View{}, err
		}
	}
	d.Wake()
	return d.View(ctx, p.Name)
}

// supersede ends a rollout that has not started.
func (d *Dispatcher) supersede(ctx context.Context, name, by string) error {
	_, err := d.change(ctx, name, "hub", func(r rollout.Rollout) (rollout.Rollout, error) {
		if r.State != rollout.Queued {
			return r, nil // it started meanwhile and will be waited for
		}
		r.State, r.Ended, r.Reason = rollout.Superseded, d.now(), "rollout "+by+" took its place"
		return r, nil
	})
	return err
}

// Ask takes in a person's request: it is written to the ledger first, then the
// rollout changes, and the next decision draws the consequences. With dry it
// stores nothing and says what would follow.
func (d *Dispatcher) Ask(ctx context.Context, name string, q rollout.Request, dry bool) (View, error) {
	q.At = d.now()
	l, err := d.cfg.Store.Load(ctx, name)
	if err != nil {
		return View{}, err
	}
	r, err := rollout.Ask(l.Rollout, q)
	if err != nil {
		return View{}, err
	}
	if dry {
		devices, err := d.cfg.Fleet.Devices(ctx)
		if err != nil {
			return View{}, fmt.Errorf("list devices: %w", err)
		}
		s, err := snapshot(l, devices)
		if err != nil {
			return View{}, err
		}
		dec := rollout.Decide(r, s, q.At)
		return View{Rollout: dec.Rollout, Version: l.Version, Devices: rollout.Apply(s, dec).Devices, At: q.At, Wake: dec.Wake}, nil
	}
	if err := d.audit(ctx, q.By, "rollout."+string(q.Action), name, q.Reason, nil); err != nil {
		return View{}, err
	}
	if _, err := d.change(ctx, name, q.By, func(r rollout.Rollout) (rollout.Rollout, error) { return rollout.Ask(r, q) }); err != nil {
		return View{}, err
	}
	d.Wake()
	return d.View(ctx, name)
}

// change commits f of a rollout, again while others are faster.
func (d *Dispatcher) change(ctx context.Context, name, actor string, f func(rollout.Rollout) (rollout.Rollout, error)) (rollout.Rollout, error) {
	for range maxTries {
		l, err := d.cfg.Store.Load(ctx, name)
		if err != nil {
			return rollout.Rollout{}, err
		}
		r, err := f(l.Rollout)
		if err != nil {
			return r, err
		}
		_, err = d.cfg.Store.Commit(ctx, Commit{Now: d.now(), Rollout: r, Version: l.Version, Decision: &Stored{
			Rollout: name, At: d.now(), Before: l.Rollout.State, Actor: actor, Input: l.Rollout,
			Decision: rollout.Decision{Rollout: r, Summary: r.Reason, Changed: true},
		}})
		if !errors.Is(err, ErrConflict) {
			return r, err
		}
	}
	return rollout.Rollout{}, fmt.Errorf("change rollout %s: %w", name, ErrConflict)
}

// View returns a rollout with its devices.
func (d *Dispatcher) View(ctx context.Context, name string) (View, error) {
	l, err := d.cfg.Store.Load(ctx, name)
	if err != nil {
		return View{}, err
	}
	v := View{Rollout: l.Rollout, Version: l.Version, At: d.now()}
	if l.Rollout.State.Final() {
		last, err := d.cfg.Store.Decisions(ctx, name, 0, 1)
		if err != nil {
			return View{}, err
		}
		if len(last) > 0 && len(last[0].Snapshot.Devices) > 0 {
			v.At, v.Devices = last[0].At, rollout.Apply(last[0].Snapshot, last[0].Decision).Devices
			return v, nil
		}
	}
	devices, err := d.cfg.Fleet.Devices(ctx)
	if err != nil {
		return View{}, fmt.Errorf("list devices: %w", err)
	}
	s, err := snapshot(l, devices)
	if err != nil {
		return View{}, err
	}
	v.Devices, v.Wake = s.Devices, rollout.Decide(l.Rollout, s, v.At).Wake
	return v, nil
}

// Rollouts lists all rollouts, newest first.
func (d *Dispatcher) Rollouts(ctx context.Context) ([]rollout.Rollout, error) {
	return d.cfg.Store.Rollouts(ctx)
}

// Why returns what was decided about a rollout and on what evidence, newest
// first; see Store.Decisions.
func (d *Dispatcher) Why(ctx context.Context, name string, before uint64, limit int) ([]Stored, error) {
	return d.cfg.Store.Decisions(ctx, name, before, limit)
}
