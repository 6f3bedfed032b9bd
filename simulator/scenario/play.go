// Package scenario plays text scenarios: a fleet, a network, a policy and a
// release, and what happens to them, on virtual time.
//
// The planner, the dispatcher, and each device's update machine are the
// product's own. docs/scenarios.md describes the language.
package scenario

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/network"
	"github.com/swellfleet/swell/simulator/world"
)

// Options change how a scenario is played.
type Options struct {
	Seed  uint64                              // 0: the scenario's own
	Trace func(at time.Duration, what string) // nil: none
	Bend  func([]rollout.Device)              // makes the hub believe something else, to test the checkers; nil: the truth
}

// Result is what came of it.
type Result struct {
	Scenario   string
	Seed       uint64
	Rollout    rollout.Rollout
	Counts     rollout.Counts
	Decisions  int
	Devices    int
	Running    int           // devices on which the release acts at the end
	Tried      int           // devices on which it ever acted
	Harmed     int           // devices on which it acted and was unsound
	Harm       time.Duration // the sum of that time
	Events     uint64
	Virtual    time.Duration // until everything was at rest
	Sent, Lost int           // messages
	Violations []check.Violation
	Unmet      []string // expectations that did not hold
}

// OK says whether no property was violated and every expectation was met.
func (r Result) OK() bool { return len(r.Violations) == 0 && len(r.Unmet) == 0 }

const (
	family   = "pump-anomaly"
	settling = 40 * time.Minute // after the faults have stopped
)

// Play plays a scenario to its end. The same scenario, seed and code give the
// same result.
func Play(s Scenario, o Options) (Result, error) {
	if o.Seed == 0 {
		o.Seed = s.Seed
	}
	w := world.New(o.Seed)
	trace := func(format string, args ...any) {
		if o.Trace != nil {
			o.Trace(w.Elapsed(), fmt.Sprintf(format, args...))
		}
	}
	net := network.New(w)
	net.Faults = network.Faults{MinDelay: s.MinDelay, MaxDelay: s.MaxDelay, Drop: s.Drop, Duplicate: s.Duplicate}
	champion, challenger := rollouttest.Release(1), rollouttest.Release(2)
	c := &check.Checker{World: w, Net: net, Budgets: s.Policy.Budgets, Release: challenger.Manifest}
	h := newHub(w, net, c, trace)
	h.bend = o.Bend

	around, err := surroundings(s, w, net, h, c)
	if err != nil {
		return Result{}, err
	}
	byName := map[string]*device.Device{}
	for i := range s.Devices {
		labels := map[string]string{"line": fmt.Sprintf("L%d", i%s.Lines+1), "hardware": fmt.Sprintf("v%d", i/s.Lines%2+1)}
		cfg := device.Config{ID: topic.ID{Site: "hall-1", Node: fmt.Sprintf("pump-%05d", i)}, Class: rollouttest.Class, Labels: labels}
		if !s.First {
			old := local(champion)
			cfg.Champion = &old
		}
		d := device.New(around, cfg)
		h.devices[cfg.ID], byName[cfg.ID.String()] = d, d
		c.Devices = append(c.Devices, d)
		w.In(w.Rand("power on", cfg.ID.String()).Between(0, 20*time.Second), "power on", d.Power)
	}
	const name = "r-2"
	w.In(time.Minute, "propose", func() { propose(s, h, c, champion, challenger, name, o.Seed) })
	steps(s, w, net, h, c, byName, name, trace)

	tried := map[*device.Device]bool{}
	w.After = func(event string) {
		c.Event(event)
		for _, d := range c.Devices {
			if d.Acting() == challenger.Manifest {
				tried[d] = true
			}
		}
	}
	w.Run(s.For, func() bool { return false })
	if !h.current.State.Final() { // let what was begun come to its end
		w.Run(s.For+48*time.Hour, func() bool { return h.current.State.Final() })
	}
	w.Run(w.Elapsed()+settling, func() bool { return false })

	res := Result{
		Scenario: s.Name, Seed: o.Seed, Rollout: h.current, Devices: s.Devices, Tried: len(tried), Events: w.Events(), Virtual: w.Elapsed(), Sent: net.Sent, Lost: net.Dropped,
	}
	if h.d != nil {
		if v, err := h.d.View(context.Background(), name); err == nil {
			for _, d := range v.Devices {
				if v.Rollout.Stand(d, v.At).State == rollout.DeviceDone {
					res.Counts.Done++
				}
				res.Counts.Devices++
			}
		}
		if ds, err := h.d.Why(context.Background(), name, 0, 0); err == nil {
			res.Decisions = len(ds)
		}
	}
	c.AtRest(res.Rollout, res.Counts.Done)
	for _, d := range c.Devices {
		if d.Acting() == challenger.Manifest {
			res.Running++
		}
		if d.Harm > 0 {
			res.Harmed++
			res.Harm += d.Harm
		}
	}
	res.Violations = c.Violations()
	for _, e := range s.Expect {
		if why := e.unmet(res); why != "" {
			res.Unmet = append(res.Unmet, why)
		}
	}
	return res, nil
}

// surroundings is what devices see of the world.
func surroundings(s Scenario, w *world.World, net *network.Network, h *hub, c *check.Checker) (*device.World, error) {
	on, err := selector.Parse(s.Release.On)
	if err != nil {
		return nil, err
	}
	champion, challenger := local(rollouttest.Release(1)), local(rollouttest.Release(2))
	return &device.World{
		World: w,
		Release: func(m artifact.Digest, labels map[string]string) (device.Release, bool) {
			switch m {
			case champion.Manifest:
				return device.Release{Release: champion}, true
			case challenger.Manifest:
				r := device.Release{Release: challenger}
				if n := s.Release; on.Match(selector.Labels(labels)) {
					r.Unsigned, r.CrashAtLoad, r.NonFinite, r.Flags, r.LatencyMs = n.Unsigned, n.CrashAtLoad, n.NonFinite, n.Flags, n.LatencyMs
				}
				return r, true
			}
			return device.Release{}, false
		},
		Send: func(d *device.Device, r twin.Reported) {
			net.Send(d.ID().String(), "report", func() { h.report(r) })
		},
		Online: func(d *device.Device) bool { return net.Reaches(d.ID().String()) },
		Fault:  func(d *device.Device, what string) { c.Fault("%s: %s", d.ID(), what) },
	}, nil
}

// local is a release as a device knows it.
func local(r rollout.Release) update.Release {
	return update.Release{
		Name: family, Counter: r.Counter, Manifest: r.Manifest, Model: r.Variants[0].Loaded,
		Limits: artifact.Limits{LatencyP99Ms: 100, MaxFlagShare: 0.3, MinWatchdogObs: 50},
	}
}

// propose starts the rollout as the night does.
func propose(s Scenario, h *hub, c *check.Checker, champion, challenger rollout.Release, name string, seed uint64) {
	ctx := context.Background()
	if !s.First {
		// The fleet runs release 1 because a rollout promoted it.
		past := rollout.Rollout{
			Name: "r-1", Release: champion, Policy: s.Policy, Author: "night", State: rollout.Promoted, Reason: "promoted",
			Wave: len(s.Policy.Waves), Created: world.Start.Add(-24 * time.Hour), Started: world.Start.Add(-24 * time.Hour), Ended: world.Start.Add(-20 * time.Hour),
		}
		if _, err := h.store.Commit(ctx, dispatch.Commit{Now: h.w.Now(), Rollout: past}); err != nil {
			c.Fault("cannot store the past: %v", err)
		}
	}
	_, err := h.d.Propose(ctx, dispatch.Proposal{Name: name, Release: challenger, Policy: s.Policy, Author: "night", Reason: "scenario", Seed: seed}, false)
	if err != nil {
		c.Fault("the rollout is refused: %v", err)
	}
	h.look()
}

// steps schedules what the scenario says, and the faults that come by chance.
func steps(s Scenario, w *world.World, net *network.Network, h *hub, c *check.Checker, byName map[string]*device.Device, name string, trace func(string, ...any)) {
	cut := func(d *device.Device, t time.Duration) {
		net.Cut(d.ID().String())
		w.In(t, "heal", func() { net.Heal(d.ID().String()) })
	}
	power := func(d *device.Device, t time.Duration) {
		if !d.On() {
			return
		}
		d.Cut()
		w.In(t, "power on", d.Power)
	}
	each := func(arg string, f func(*device.Device)) {
		if d := byName[arg]; d != nil {
			f(d)
			return
		}
		if arg == "all" {
			arg = ""
		}
		sel, err := selector.Parse(arg)
		if err != nil {
			c.Fault("%v", err)
			return
		}
		for _, d := range c.Devices {
			if sel.Match(selector.Labels(d.Labels())) {
				f(d)
			}
		}
	}
	for _, st := range s.Steps {
		w.In(st.At, st.Verb, func() {
			switch st.Verb {
			case "partition":
				trace("partition of %s for %s", st.Arg, st.For)
				each(st.Arg, func(d *device.Device) { cut(d, st.For) })
			case "power":
				trace("power cut of %s for %s", st.Arg, st.For)
				each(st.Arg, func(d *device.Device) { power(d, st.For) })
			case "hub":
				h.crash()
			default:
				h.ask(name, rollout.Action(st.Verb), "user:ada", st.Arg)
			}
		})
	}
	for _, f := range s.Faults {
		for _, d := range c.Devices {
			r := w.Rand("fault", f.Kind, d.ID().String())
			var strike func()
			strike = func() {
				if w.Elapsed() > s.For {
					return // faults stop, and all must come to rest
				}
				if f.Kind == "power" {
					power(d, r.Exp(f.For))
				} else {
					cut(d, r.Exp(f.For))
				}
				w.In(r.Exp(f.Every), f.Kind, strike)
			}
			w.In(r.Exp(f.Every), f.Kind, strike)
		}
	}
}

// unmet returns how an expectation differs from the result, or "".
func (e Expectation) unmet(r Result) string {
	var got string
	var n int
	switch e.What {
	case "state":
		got = string(r.Rollout.State)
	case "wave":
		n = r.Rollout.Wave + 1
	case "running":
		n = r.Running
	case "harmed":
		n = r.Harmed
	case "tried":
		n = r.Tried
	}
	ok := got == e.Value
	if e.What != "state" {
		got = strconv.Itoa(n)
		want, err := strconv.Atoi(e.Value)
		ok = err == nil && (e.Op == "=" && n == want || e.Op == "<=" && n <= want || e.Op == ">=" && n >= want)
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s is %s, expected %s %s", e.What, got, e.Op, e.Value)
}
