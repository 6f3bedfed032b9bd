// Package scenario plays text scenarios: a fleet, a network, a policy and a
// release, and what happens to them, on virtual time.
//
// The planner, the dispatcher, and each device's update machine are the
// product's own. docs/scenarios.md describes the language.
package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
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
	// Rollouts are all of the run, by name: r-2 is Rollout, r-3 and so on came
	// in between. Refused says why the hub refused one; "" for the others.
	Rollouts map[string]rollout.Rollout
	Refused  map[string]string
	History  []dispatch.Stored // decisions of Rollout, oldest first
}

// OK says whether no property was violated and every expectation was met.
func (r Result) OK() bool { return len(r.Violations) == 0 && len(r.Unmet) == 0 }

const (
	family   = "pump-anomaly"
	settling = 40 * time.Minute // after the faults have stopped
	first    = "r-2"            // the rollout of the scenario's release
)

// Play plays a scenario to its end. The same scenario, seed and code give the
// same result.
func Play(s Scenario, o Options) (Result, error) {
	if o.Seed == 0 {
		o.Seed = s.Seed
	}
	w := world.New(o.Seed, s.Start)
	trace := func(format string, args ...any) {
		if o.Trace != nil {
			o.Trace(w.Elapsed(), fmt.Sprintf(format, args...))
		}
	}
	cast, err := newCast(s)
	if err != nil {
		return Result{}, err
	}
	members, links := s.members(), s.links()
	net := network.New(w)
	net.Of = func(party string) network.Faults { return links[party].faults() }
	challenger := cast.release(2)
	c := &check.Checker{World: w, Net: net, Budgets: s.Policy.Budgets, Release: challenger.Manifest}
	h := newHub(w, net, c, trace)
	h.bend = o.Bend

	around := surroundings(cast, w, net, h, c)
	for _, m := range members {
		cfg := device.Config{ID: m.id, Class: m.class, Labels: m.labels, BitsPerS: links[m.id.String()].BitsPerS}
		if !s.First {
			old := local(cast.release(1))
			cfg.Champion = &old
		}
		d := device.New(around, cfg)
		h.devices[cfg.ID] = d
		c.Devices = append(c.Devices, d)
		w.In(m.joins+w.Rand("power on", cfg.ID.String()).Between(0, 20*time.Second), "power on", d.Power)
	}
	p := &play{s: s, w: w, net: net, h: h, c: c, cast: cast, trace: trace, refused: map[string]string{}}
	w.In(time.Minute, "propose", func() { p.propose(2) })
	p.schedule()

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
	if !h.ended() { // let what was begun come to its end
		w.Run(s.For+48*time.Hour, h.ended)
	}
	w.Run(w.Elapsed()+settling, func() bool { return false })

	res := Result{
		Scenario: s.Name, Seed: o.Seed, Rollout: h.rollouts[first], Devices: len(members), Tried: len(tried), Events: w.Events(), Virtual: w.Elapsed(), Sent: net.Sent, Lost: net.Dropped,
		Rollouts: h.rollouts, Refused: p.refused,
	}
	if h.d != nil {
		if v, err := h.d.View(context.Background(), first); err == nil {
			for _, d := range v.Devices {
				if v.Rollout.Stand(d, v.At).State == rollout.DeviceDone {
					res.Counts.Done++
				}
				res.Counts.Devices++
			}
		}
		if ds, err := h.d.Why(context.Background(), first, 0, 0); err == nil {
			slices.Reverse(ds)
			res.Decisions, res.History = len(ds), ds
		}
	}
	if last := p.last(); p.refused[last] == "" {
		done := res.Counts.Done
		if last != first { // the newest release is what devices should run
			done = 0
		}
		c.Release = cast.release(p.count).Manifest
		c.AtRest(h.rollouts[last], done)
	}
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
func surroundings(cast *cast, w *world.World, net *network.Network, h *hub, c *check.Checker) *device.World {
	return &device.World{
		World:   w,
		Release: cast.nature,
		Send: func(d *device.Device, r twin.Reported) {
			net.Send(d.ID().String(), "report", func() { h.report(r) })
		},
		Online: func(d *device.Device) bool { return net.Reaches(d.ID().String()) },
		Fault:  func(d *device.Device, what string) { c.Fault("%s: %s", d.ID(), what) },
	}
}

// local is a release as a device knows it.
func local(r rollout.Release) update.Release {
	return update.Release{
		Name: family, Counter: r.Counter, Manifest: r.Manifest, Model: r.Variants[0].Loaded,
		Limits: artifact.Limits{LatencyP99Ms: 100, MaxFlagShare: 0.3, MinWatchdogObs: 50},
	}
}
