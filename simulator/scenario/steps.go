package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/world"
)

// play is one run's director: it makes happen what the scenario says.
type play struct {
	s     Scenario
	w     *world.World
	h     *hub
	c     *check.Checker
	cast  *cast
	trace func(string, ...any)

	count   int               // of the newest release proposed
	refused map[string]string // by rollout
	unmet   []string          // refusals that nobody expected
}

func rolloutName(n int) string { return fmt.Sprintf("r-%d", n) }

// last is the name of the newest rollout.
func (p *play) last() string { return rolloutName(p.count) }

// propose starts the rollout of release n as the night does.
func (p *play) propose(n int) {
	ctx := context.Background()
	p.count = n
	if n == 2 && !p.s.First {
		// The fleet runs release 1 because a rollout promoted it.
		ago := func(t time.Duration) time.Time { return p.w.Now().Add(-t) }
		past := rollout.Rollout{
			Name: rolloutName(1), Fleet: p.s.Select, Release: p.cast.release(1), Policy: p.s.Policy, Author: "night", State: rollout.Promoted, Reason: "promoted",
			Wave: len(p.s.Policy.Waves), Created: ago(24 * time.Hour), Started: ago(24 * time.Hour), Ended: ago(20 * time.Hour),
		}
		if _, err := p.h.store.Commit(ctx, dispatch.Commit{Now: p.w.Now(), Rollout: past}); err != nil {
			p.c.Fault("cannot store the past: %v", err)
		}
	}
	d := p.h.up()
	if d == nil { // nobody is there to propose to: the night tries again
		p.w.In(time.Minute, func() { p.propose(n) })
		return
	}
	_, err := d.Propose(ctx, dispatch.Proposal{
		Name: rolloutName(n), Fleet: p.s.Select, Release: p.cast.release(n), Policy: p.s.Policy, Author: "night", Reason: "scenario", Seed: p.w.Seed(),
	}, false)
	if errors.Is(err, errCrash) || errors.Is(err, dispatch.ErrExists) {
		// The hub died over it, before it was stored or after.
		if _, stored := p.h.rollouts[rolloutName(n)]; !stored {
			p.w.In(time.Minute, func() { p.propose(n) })
			return
		}
		err = nil
	}
	if err != nil {
		p.refused[rolloutName(n)] = err.Error()
		p.trace("%s is refused: %v", rolloutName(n), err)
		wanted := func(e Expectation) bool { return e.What == "refused" && e.of() == rolloutName(n) }
		if !slices.ContainsFunc(p.s.Expect, wanted) {
			p.unmet = append(p.unmet, fmt.Sprintf("%s is refused: %v", rolloutName(n), err))
		}
	}
	p.h.look()
}

// schedule schedules what the scenario says, and the faults that come by chance.
func (p *play) schedule() {
	releases := 2
	steps := slices.Clone(p.s.Steps)
	slices.SortStableFunc(steps, func(a, b Step) int { return int(a.At - b.At) })
	for _, st := range steps {
		if st.Nature != nil {
			releases++
			n := releases
			p.w.In(st.At, func() { p.propose(n) })
			continue
		}
		p.w.In(st.At, func() { p.step(st) })
	}
	for _, f := range p.s.Faults {
		for _, seat := range p.c.Seats {
			d := seat.Device
			if !selects(f.On, d.Look) {
				continue
			}
			r := p.w.Rand("fault", f.Kind, d.Name())
			var strike func()
			strike = func() {
				if p.w.Elapsed() > p.s.For {
					return // faults stop, and all must come to rest
				}
				p.strike(f.Kind, d, min(r.Exp(f.For), p.s.For-p.w.Elapsed()+time.Minute))
				p.w.In(r.Exp(f.Every), strike)
			}
			p.w.In(r.Exp(f.Every), strike)
		}
	}
}

func (p *play) step(st Step) {
	each := func(f func(*device.Device)) {
		n := 0
		for _, seat := range p.c.Seats {
			if selects(st.Who, seat.Device.Look) {
				n++
				f(seat.Device)
			}
		}
		who := st.Who
		if who == "" {
			who = "all"
		}
		p.trace("%s of %s: %d devices", st.Verb, who, n)
	}
	switch {
	case st.Verb == "hub" && st.Who == "takeover":
		p.h.takeover()
	case st.Verb == "hub":
		p.h.crash()
	case st.Verb == "broker": // sessions are lost; everybody connects and subscribes again
		for _, seat := range p.c.Seats {
			p.strike("session", seat.Device, brokerDown)
		}
	case Kinds[st.Verb] != "" || st.Verb == "partition":
		each(func(d *device.Device) { p.strike(st.Verb, d, st.For) })
	case st.Verb == "hold" || st.Verb == "unhold":
		each(func(d *device.Device) { p.h.hold(d.ID(), st.Verb == "hold") })
	case st.Verb == "relabel":
		each(func(d *device.Device) {
			m := maps.Clone(d.Labels())
			for _, l := range strings.Fields(st.Arg) {
				k, v, _ := strings.Cut(l, "=")
				m[k] = v
			}
			d.Relabel(m)
			p.c.Relabelled(p.c.Of(d))
		})
	default:
		p.person(st)
	}
}

// person lets a person ask something of the hub.
func (p *play) person(st Step) {
	by, reason := "user:ada", st.Arg
	if st.By != "" {
		by = "user:" + st.By
	}
	if reason == "" {
		reason = "as the scenario says"
	}
	now := p.w.Now()
	order := func(f func(context.Context, *dispatch.Dispatcher) error) bool { return p.h.order(by, st.Verb, f) }
	switch st.Verb {
	case "freeze":
		f := rollout.Freeze{Name: st.Who, Selector: st.Select, By: by, Reason: reason}
		if st.For > 0 {
			f.Until = now.Add(st.For)
		}
		if order(func(ctx context.Context, d *dispatch.Dispatcher) error { return d.Freeze(ctx, f) }) {
			p.c.Freeze(f)
		}
	case "unfreeze":
		if order(func(ctx context.Context, d *dispatch.Dispatcher) error { return d.Unfreeze(ctx, st.Who, by, reason) }) {
			p.c.Unfreeze(st.Who)
		}
	case "quarantine":
		bad := p.cast.release(p.count)
		banned := order(func(ctx context.Context, d *dispatch.Dispatcher) error {
			return d.Quarantine(ctx, rollout.Quarantine{Manifest: bad.Manifest, Release: fmt.Sprintf("%s-%d", bad.Name, bad.Counter), By: by, Reason: reason, At: now})
		})
		if banned {
			p.c.Ban(bad.Manifest, true)
		}
	case "lift":
		bad := p.cast.release(p.count)
		if order(func(ctx context.Context, d *dispatch.Dispatcher) error {
			return d.Release(ctx, bad.Manifest, by, reason)
		}) {
			p.c.Ban(bad.Manifest, false)
		}
	default:
		p.h.ask(p.last(), rollout.Action(st.Verb), by, reason)
	}
}
