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

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
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
	// Until ends the run early; nothing is asked of it at its end. 0: it goes on
	// until all is at rest.
	Until time.Duration
	// Progress is called with every sample of the run. nil: nobody looks.
	Progress func(Point)
	// Device is the one whose life shows in the trace, as "site/node"; "": none.
	Device string
}

// Result is what came of it.
type Result struct {
	Scenario   string
	Seed       uint64
	Rollout    rollout.Rollout
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
	History  []dispatch.Stored // decisions of Rollout that were kept, oldest first
	Canaries []topic.ID        // devices of the first wave
	Series   []Point           // sampled every two minutes
	Gates    []GatePoint       // of every decision that was kept
}

// Point is a moment of a run.
type Point struct {
	At        time.Duration
	States    map[string]int // devices by where the hub says they stand in the newest rollout
	Available map[string]int // devices that are there and not in the middle of a swap, by group of the first budget
}

// GatePoint is what a gate said.
type GatePoint struct {
	At           time.Duration
	Rollout      string
	Wave         int // index
	Gate         rollout.GateName
	Result       rollout.Result
	Value        float64 // 0 where nothing was measured
	Threshold    float64
	EHarm, ESafe float64
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
	c := &check.Checker{World: w, Policy: s.Policy}
	h := newHub(w, c, trace)
	around := surroundings(cast, w, h, c)
	if o.Trace != nil && o.Device != "" {
		around.Trace = func(d *device.Device, what string) {
			if d.Name() == o.Device {
				trace("%s %s", d.Name(), what)
			}
		}
	}
	for _, m := range members {
		cfg := device.Config{ID: m.id, Class: m.class, Labels: m.labels, BitsPerS: links[m.id.String()].BitsPerS}
		var confirmed []artifact.Digest
		if !s.First {
			old := cast.local(1)
			cfg.Champion, confirmed = &old, []artifact.Digest{old.Manifest}
		}
		d := device.New(around, cfg)
		c.Add(&check.Seat{Device: d, Party: net.Party(d.Name(), links[d.Name()].faults())}, confirmed...)
		w.In(m.joins+w.Rand("power on", d.Name()).Between(0, 20*time.Second), d.Power)
	}
	c.Begin()
	h.begin()
	p := &play{s: s, w: w, h: h, c: c, cast: cast, trace: trace, refused: map[string]string{}}
	w.In(time.Minute, func() { p.propose(2) })
	p.schedule()
	rec := p.record(o.Progress)

	run := func(until time.Duration, stop func() bool) {
		if o.Until > 0 {
			until = min(until, o.Until)
		}
		w.Run(until, stop)
	}
	run(s.For, nil)
	if !h.ended() { // let what was begun come to its end
		run(s.For+48*time.Hour, h.ended)
	}
	run(w.Elapsed()+settling, nil)

	res := Result{
		Scenario: s.Name, Seed: o.Seed, Rollout: h.rollouts[first], Devices: len(members), Events: w.Events(), Virtual: w.Elapsed(), Sent: net.Sent, Lost: net.Dropped,
		Rollouts: h.rollouts, Refused: p.refused, Series: rec.series, Gates: rec.gates, Decisions: rec.decisions, Canaries: c.Canaries,
	}
	if res.History, err = h.store.Decisions(context.Background(), first, 0, 0); err != nil {
		return Result{}, err
	}
	slices.Reverse(res.History)
	for n := p.count; n >= 2 && o.Until == 0; n-- {
		if r, ok := h.rollouts[rolloutName(n)]; ok && r.State != rollout.Superseded {
			c.AtRest(r, w.Now())
			break
		}
	}
	challenger := cast.release(2).Manifest
	for _, seat := range c.Seats {
		d := seat.Device
		if d.Acting() == challenger {
			res.Running++
		}
		if slices.Contains(seat.Tried, challenger) {
			res.Tried++
		}
		if d.Harm > 0 {
			res.Harmed++
			res.Harm += d.Harm
		}
	}
	res.Violations = c.Violations()
	if o.Until == 0 {
		res.Unmet = p.unmet
		for _, e := range s.Expect {
			if why := e.unmet(res); why != "" {
				res.Unmet = append(res.Unmet, why)
			}
		}
	}
	return res, nil
}

// surroundings is what devices see of the world.
func surroundings(cast *cast, w *world.World, h *hub, c *check.Checker) *device.World {
	return &device.World{
		World:   w,
		Release: cast.nature,
		Send: func(d *device.Device, r twin.Reported) {
			s := h.byID[d.ID()]
			s.Party.Send(func() { h.report(s, r) })
		},
		Online:  func(d *device.Device) bool { return c.Of(d).Party.Reaches() },
		Fault:   func(d *device.Device, what string) { c.Fault("%s: %s", d.Name(), what) },
		Changed: c.Changed,
		Saved:   c.Saved,
	}
}

// sampleEvery is how often a run is looked at for its charts.
const sampleEvery = 2 * time.Minute

// recorder keeps what charts of a run show.
type recorder struct {
	series    []Point
	gates     []GatePoint
	decisions int // of the first rollout
}

// record begins to keep it.
func (p *play) record(progress func(Point)) *recorder {
	r := &recorder{}
	p.h.onCommit = func(_ rollout.Rollout, c dispatch.Commit) {
		if c.Decision == nil {
			return
		}
		if c.Rollout.Name == first {
			r.decisions++
		}
		for _, v := range c.Decision.Decision.Gates {
			g := GatePoint{At: p.w.Elapsed(), Rollout: c.Rollout.Name, Wave: c.Rollout.Wave, Gate: v.Gate, Result: v.Result, Threshold: v.Threshold, EHarm: v.EHarm, ESafe: v.ESafe}
			if v.Value != nil {
				g.Value = *v.Value
			}
			r.gates = append(r.gates, g)
		}
	}
	var sample func()
	sample = func() {
		r.series = append(r.series, p.point())
		if progress != nil {
			progress(r.series[len(r.series)-1])
		}
		p.w.In(sampleEvery, sample)
	}
	p.w.In(sampleEvery, sample)
	return r
}

// point says where every device stands now, by the hub's own words, and how
// many of each group are there and not in the middle of a swap.
func (p *play) point() Point {
	pt := Point{At: p.w.Elapsed(), States: map[string]int{}, Available: map[string]int{}}
	ro, now := p.h.rollouts[p.last()], p.w.Now()
	by := "line"
	if len(p.s.Policy.Budgets) > 0 {
		by = p.s.Policy.Budgets[0].GroupBy
	}
	for _, s := range p.c.Seats {
		state := rollout.DevicePending
		if ro.Name != "" && !s.Known.SeenAt.IsZero() {
			known := s.Known
			known.Record = s.Memory[ro.Name]
			state = ro.Stand(known, now).State
		}
		pt.States[string(state)]++
		group, _ := s.Device.Look(by)
		n := 0
		if s.Device.On() && s.Party.Reaches() && !s.Device.InFlight() {
			n = 1
		}
		pt.Available[group] += n
	}
	return pt
}
