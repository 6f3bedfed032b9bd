package scenario

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/network"
	"github.com/swellfleet/swell/simulator/world"
)

// play is one run's director: it makes happen what the scenario says.
type play struct {
	s     Scenario
	w     *world.World
	net   *network.Network
	h     *hub
	c     *check.Checker
	cast  *cast
	trace func(string, ...any)

	count   int               // of the newest release proposed
	refused map[string]string // by rollout
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
			Name: rolloutName(1), Release: p.cast.release(1), Policy: p.s.Policy, Author: "night", State: rollout.Promoted, Reason: "promoted",
			Wave: len(p.s.Policy.Waves), Created: ago(24 * time.Hour), Started: ago(24 * time.Hour), Ended: ago(20 * time.Hour),
		}
		if _, err := p.h.store.Commit(ctx, dispatch.Commit{Now: p.w.Now(), Rollout: past}); err != nil {
			p.c.Fault("cannot store the past: %v", err)
		}
	}
	if p.h.d == nil { // nobody is there to propose to: the night tries again
		p.w.In(time.Minute, "propose", func() { p.propose(n) })
		return
	}
	_, err := p.h.d.Propose(ctx, dispatch.Proposal{
		Name: rolloutName(n), Release: p.cast.release(n), Policy: p.s.Policy, Author: "night", Reason: "scenario", Seed: p.w.Seed(),
	}, false)
	if err != nil {
		p.refused[rolloutName(n)] = err.Error()
		p.trace("%s is refused: %v", rolloutName(n), err)
		wanted := func(e Expectation) bool { return e.What == "refused" && e.of() == rolloutName(n) }
		if !slices.ContainsFunc(p.s.Expect, wanted) {
			p.c.Fault("the rollout is refused: %v", err)
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
			p.w.In(st.At, "propose", func() { p.propose(n) })
			continue
		}
		p.w.In(st.At, st.Verb, func() { p.step(st) })
	}
	for _, f := range p.s.Faults {
		for _, d := range p.c.Devices {
			if !selects(f.On, d.Look) {
				continue
			}
			r := p.w.Rand("fault", f.Kind, d.ID().String())
			var strike func()
			strike = func() {
				if p.w.Elapsed() > p.s.For {
					return // faults stop, and all must come to rest
				}
				p.strike(f.Kind, d, r.Exp(f.For))
				p.w.In(r.Exp(f.Every), f.Kind, strike)
			}
			p.w.In(r.Exp(f.Every), f.Kind, strike)
		}
	}
}

// strike lets one fault happen to one device for so long.
func (p *play) strike(kind string, d *device.Device, t time.Duration) {
	switch kind {
	case "offline":
		p.net.Cut(d.ID().String())
		p.w.In(t, "heal", func() { p.net.Heal(d.ID().String()) })
	case "power":
		if d.On() {
			d.Cut()
			p.w.In(t, "power on", d.Power)
		}
	}
}

func (p *play) step(st Step) {
	each := func(f func(*device.Device)) {
		n := 0
		for _, d := range p.c.Devices {
			if selects(st.Who, d.Look) {
				n++
				f(d)
			}
		}
		who := st.Who
		if who == "" {
			who = "all"
		}
		p.trace("%s of %s: %d devices", st.Verb, who, n)
	}
	switch {
	case st.Verb == "hub":
		p.h.crash()
	case st.Verb == "partition":
		each(func(d *device.Device) { p.strike("offline", d, st.For) })
	case Kinds[st.Verb] != "":
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
		})
	default:
		by, reason := st.By, st.Arg
		if by == "" {
			by = "ada"
		}
		if reason == "" {
			reason = "as the scenario says"
		}
		p.h.ask(p.last(), rollout.Action(st.Verb), "user:"+by, reason)
	}
}
