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
// policy that can never finish is refused with the reason, and so is a release
// that somebody has put into quarantine.
func (d *Dispatcher) Propose(ctx context.Context, p Proposal, dry bool) (View, error) {
	d.proposing.Lock()
	defer d.proposing.Unlock()
	r, s, admitted, err := d.draft(ctx, p)
	if err != nil {
		return View{}, err
	}
	if err := d.refused(ctx, r, s); err != nil {
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
	first := &Stored{
		Rollout: p.Name, At: d.now(), Before: rollout.Queued, Actor: p.Author, Input: r, Snapshot: s,
		Decision: rollout.Decision{Rollout: admitted.Rollout, Summary: admitted.Rollout.Reason, Reasons: []string{p.Reason}, Changed: true},
	}
	first.price(0)
	if _, err := d.cfg.Store.Commit(ctx, Commit{Now: d.now(), Rollout: admitted.Rollout, Decision: first}); err != nil {
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

// Preview says what a proposal would do: who is in which wave, what budgets
// allow, when windows open, and why it would be refused. The rollout is as it
// would be started, or queued; nothing is stored.
func (d *Dispatcher) Preview(ctx context.Context, p Proposal) (rollout.Rollout, rollout.Preview, error) {
	r, s, admitted, err := d.draft(ctx, p)
	if err != nil {
		return r, rollout.Preview{}, err
	}
	out := r.Preview(s, d.now())
	if err := d.refused(ctx, r, s); err != nil {
		out.Refusals = append(out.Refusals, err.Error())
		out.Finish = time.Time{}
	}
	return admitted.Rollout, out, nil
}

// refused says why a standing order forbids to start a rollout, or the fleet
// does not have the devices that it is for.
func (d *Dispatcher) refused(ctx context.Context, r rollout.Rollout, s rollout.Snapshot) error {
	if q, ok := banned(s.Orders, r.Release.Manifest); ok {
		return fmt.Errorf("cannot start a rollout of %s-%d: %s put it into quarantine on %s: %s: %w", r.Release.Name, r.Release.Counter, q.By, clock(q.At), q.Reason, ErrQuarantined)
	}
	if len(s.Devices) > 0 {
		return nil
	}
	devices, err := d.cfg.Fleet.Devices(ctx)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	return rollout.NoFleet(r.Fleet, devices)
}

// draft makes the rollout that a proposal asks for, with the fleet as it would
// see it and how it would join the others.
func (d *Dispatcher) draft(ctx context.Context, p Proposal) (r rollout.Rollout, s rollout.Snapshot, a rollout.Admission, err error) {
	if p.Author == "" || p.Reason == "" {
		return r, s, a, errors.New("cannot start a rollout: say who asks and why")
	}
	all, err := d.cfg.Store.Rollouts(ctx)
	if err != nil {
		return r, s, a, fmt.Errorf("list rollouts: %w", err)
	}
	if p.Seed == 0 {
		h := fnv.New64a()
		fmt.Fprint(h, p.Name, p.Release.Manifest)
		p.Seed = h.Sum64()
	}
	if p.Release.Kind == artifact.Firmware {
		p.Policy.ShadowS = 0 // a program cannot compute in another's shadow
	}
	r = rollout.Rollout{
		Name: p.Name, Fleet: p.Fleet, Release: p.Release, Policy: p.Policy, Author: p.Author, Purpose: p.Reason, Seed: p.Seed, Created: d.now(),
	}
	if s, err = d.fleetNow(ctx, Loaded{Rollout: r}); err != nil {
		return r, s, a, err
	}
	r.Previous = previous(r, all, s.Orders)
	r.Policy = r.Policy.Expand(len(s.Devices))
	return r, s, rollout.Admit(r, all), nil
}

// fleetNow is what a rollout sees of the fleet at this moment.
func (d *Dispatcher) fleetNow(ctx context.Context, l Loaded) (rollout.Snapshot, error) {
	devices, err := d.cfg.Fleet.Devices(ctx)
	if err != nil {
		return rollout.Snapshot{}, fmt.Errorf("list devices: %w", err)
	}
	orders, err := d.Orders(ctx)
	if err != nil {
		return rollout.Snapshot{}, err
	}
	return snapshot(l, devices, orders)
}

// supersede ends a rollout that has offered nothing. One that began meanwhile
// is waited for.
func (d *Dispatcher) supersede(ctx context.Context, name, by string) error {
	_, err := d.change(ctx, name, "hub", nil, func(r rollout.Rollout) (rollout.Rollout, error) {
		r, _ = rollout.Supersede(r, by, d.now())
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
	if q.Action == rollout.Undo {
		all, err := d.cfg.Store.Rollouts(ctx)
		if err != nil {
			return View{}, fmt.Errorf("list rollouts: %w", err)
		}
		if err := rollout.MayUndo(l.Rollout, all); err != nil {
			return View{}, err
		}
	}
	if dry {
		s, err := d.fleetNow(ctx, l)
		if err != nil {
			return View{}, err
		}
		dec := rollout.Decide(r, s, q.At)
		return View{Rollout: dec.Rollout, Version: l.Version, Devices: rollout.Apply(s, dec).Devices, At: q.At, Wake: dec.Wake}, nil
	}
	if err := d.audit(ctx, q.By, "rollout."+string(q.Action), name, q.Reason, nil); err != nil {
		return View{}, err
	}
	if _, err := d.change(ctx, name, q.By, &q, func(r rollout.Rollout) (rollout.Rollout, error) { return rollout.Ask(r, q) }); err != nil {
		return View{}, err
	}
	d.Wake()
	return d.View(ctx, name)
}

// change commits f of a rollout, again while others are faster. What it stores
// as evidence is that nothing else has changed.
func (d *Dispatcher) change(ctx context.Context, name, actor string, q *rollout.Request, f func(rollout.Rollout) (rollout.Rollout, error)) (rollout.Rollout, error) {
	for range maxTries {
		l, err := d.cfg.Store.Load(ctx, name)
		if err != nil {
			return rollout.Rollout{}, err
		}
		r, err := f(l.Rollout)
		if err != nil {
			return r, err
		}
		last, err := d.cfg.Store.Decisions(ctx, name, 0, 1)
		if err != nil {
			return r, err
		}
		s := &Stored{
			Rollout: name, At: d.now(), Before: l.Rollout.State, Actor: actor, Request: q, Input: l.Rollout, Delta: true,
			Decision: rollout.Decision{Rollout: r, Summary: r.Reason, Changed: true},
		}
		if len(last) > 0 {
			s.Snapshot.Orders = last[0].Snapshot.Orders
			s.Omitted = last[0].Omitted
			s.price(last[0].Kept)
		}
		_, err = d.cfg.Store.Commit(ctx, Commit{Now: d.now(), Rollout: r, Version: l.Version, Decision: s})
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
		if len(last) > 0 {
			s, err := d.Evidence(ctx, name, last[0].ID)
			if err == nil {
				v.At, v.Devices = last[0].At, rollout.Apply(s, last[0].Decision).Devices
				return v, nil
			}
			if !errors.Is(err, ErrNoEvidence) {
				return View{}, err
			}
		}
	}
	s, err := d.fleetNow(ctx, l)
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
