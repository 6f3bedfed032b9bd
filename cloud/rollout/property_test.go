package rollout_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// draw makes up a policy that Validate accepts.
func drawPolicy(rng *rand.Rand, w *world) {
	for {
		p := simple()
		p.Waves[0].Devices = 1 + rng.IntN(5)
		if rng.IntN(2) == 0 {
			p.Waves = []rollout.Wave{p.Waves[0], {Name: "share", Share: 0.2 + 0.6*rng.Float64(), Approvals: rng.IntN(5) / 4}, p.Waves[1]}
		}
		if rng.IntN(3) == 0 {
			p.ShadowS = 0
		}
		p.Retries = rng.IntN(3)
		switch rng.IntN(4) {
		case 0:
			p.Budgets = nil
		case 1:
			p.Budgets = []rollout.Budget{{GroupBy: "line", MaxUnavailableShare: 0.3 + 0.5*rng.Float64()}, {GroupBy: "hardware", MinAvailable: 1}}
		case 2:
			p.Budgets = []rollout.Budget{{GroupBy: "line", MaxUnavailable: 1 + rng.IntN(2)}}
		}
		p.Gates = []rollout.Gate{{Name: rollout.GateSuccess, Threshold: ptr(rng.Float64())}, {Name: rollout.GateShadow}, {Name: rollout.GateNonFinite}, {Name: rollout.GateOutput}}
		if rng.IntN(3) == 0 {
			p.Gates = append(p.Gates, rollout.Gate{Name: rollout.GateLatency, Threshold: ptr(10)}, rollout.Gate{Name: rollout.GateMemory, Threshold: ptr(100)})
		}
		if rng.IntN(3) == 0 {
			p.Windows = []rollout.Window{{Name: "first", From: "22:00", To: "22:20"}, {Name: "L1", Selector: "line=L1", From: "22:30", To: "23:30"}, {Name: "rest", From: "23:00", To: "05:00"}}
		}
		w.r.Policy = p
		if rollout.Validate(w.r, w.devices) == nil {
			return
		}
	}
}

// troublesome orders something that people order on a bad day.
func troublesome(rng *rand.Rand, w *world) {
	o := &w.orders
	switch rng.IntN(6) {
	case 0, 1:
		f := rollout.Freeze{Name: fmt.Sprint("freeze-", len(o.Freezes)), Selector: []string{"", "line=L1", "hardware!=v1"}[rng.IntN(3)], By: "ada", Reason: "audit"}
		f.From = w.now.Add(time.Duration(rng.IntN(3)*100) * time.Second)
		if rng.IntN(3) > 0 {
			f.Until = f.From.Add(time.Duration(1+rng.IntN(600)) * time.Second)
		}
		o.Freezes = append(slices.Clip(o.Freezes), f)
	case 2, 3:
		o.Freezes = nil
	case 4:
		if rng.IntN(4) == 0 {
			m := w.r.Release.Manifest
			if w.r.Previous != nil && rng.IntN(2) == 0 {
				m = w.r.Previous.Manifest
			}
			o.Quarantined = append(slices.Clip(o.Quarantined), rollout.Quarantine{Manifest: m, By: "ada", Reason: "seen to fail"})
		}
	case 5:
		o.Quarantined = nil
	}
}

// TestWhateverHappensTheSafetyPropertiesHoldAndTheRolloutEnds lets devices
// fail, vanish, return, be re-labelled, degrade, join and leave, lets people
// pause, resume, hurry, approve, abort, freeze and quarantine, and checks every
// decision; at the end everybody stops acting. The roster, which only hears
// what has changed, decides as one that counts all devices anew: see decide.
func TestWhateverHappensTheSafetyPropertiesHoldAndTheRolloutEnds(t *testing.T) {
	ends := map[rollout.State]int{}
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, 4+rng.IntN(30), 1+rng.IntN(4), rollout.Policy{})
		w.rng, w.r.Seed = rng, seed
		drawPolicy(rng, w)
		for i := range w.devices {
			w.devices[i].MemoryMiB = 60
		}
		if rng.IntN(4) == 0 {
			w.r.Previous = nil
			for i := range w.devices {
				w.devices[i].Champion = rollout.Champion{}
			}
		}
		trouble := rng.IntN(4) * 4 // 0 to 12 troubles in 1000 device rounds
		flags := uint32(rng.IntN(3))
		w.flags = func(*rollout.Device) (uint32, uint32) { return uint32(rng.IntN(2)) * flags, uint32(rng.IntN(2)) }
		w.fate = func(_ *rollout.Device, p twin.Phase) twin.Code {
			if rng.IntN(1000) < trouble {
				return []twin.Code{twin.CodeLoad, twin.CodeFetch, twin.CodeNonFinite}[rng.IntN(3)]
			}
			return ""
		}
		for range rng.IntN(200) {
			w.decide()
			w.now = w.now.Add(time.Duration(rng.IntN(60)) * time.Second)
			for i := range w.devices {
				d := &w.devices[i]
				switch k := rng.IntN(1000); {
				case k < trouble:
					d.Connected = !d.Connected
				case k < trouble+2:
					d.Degraded = !d.Degraded
				case k < trouble+3:
					d.Labels = map[string]string{"site": "hall-1", "line": "L9"}
				case k < trouble+4:
					d.Held = !d.Held
				case k < trouble+5:
					d.Floor = uint64(rng.IntN(4))
				case k < trouble+6:
					d.Class = []artifact.Class{rollouttest.Class, "gearbox"}[rng.IntN(2)]
				}
				if d.Trial.Phase == twin.PhaseShadowing || d.Trial.Phase == twin.PhaseSoaking {
					d.Trial.LatencyP99Ms, d.MemoryMiB = float64(rng.IntN(8)), float64(60+rng.IntN(9))
				}
				if d.Connected && rng.IntN(10) > 0 {
					w.report(d)
				}
			}
			if n := len(w.devices); rng.IntN(20) == 0 && n > 3 {
				w.devices = slices.Delete(w.devices, n/2, n/2+1)
			}
			if rng.IntN(20) == 0 {
				old := rollouttest.Release(1)
				d := rollouttest.Fleet(1+rng.IntN(60), 3, &old, w.now)
				late := d[len(d)-1]
				if !slices.ContainsFunc(w.devices, func(o rollout.Device) bool { return o.ID == late.ID }) {
					w.devices = append(w.devices, late)
				}
			}
			if rng.IntN(20) == 0 {
				troublesome(rng, w)
			}
			if rng.IntN(60) == 0 {
				a := []rollout.Action{rollout.Pause, rollout.Resume, rollout.Promote, rollout.Approve, rollout.Abort}[rng.IntN(5)]
				if r, err := rollout.Ask(w.r, rollout.Request{Action: a, By: "ada", Reason: "drawn", At: w.now}); err == nil {
					w.r = r
				}
			}
		}
		w.idle()
		ends[w.r.State]++
	})
	t.Logf("ends: %v", ends)
}

func TestEqualInputsGiveEqualDecisionsInAnyOrderOfDevices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w := newWorld(t, 20, 3, simple())
		w.run(func() bool { return rng.IntN(10) == 0 })
		a := rollout.Decide(w.r, rollout.Snapshot{Devices: w.devices}, w.now)
		rng.Shuffle(len(w.devices), func(i, j int) { w.devices[i], w.devices[j] = w.devices[j], w.devices[i] })
		b := rollout.Decide(w.r, rollout.Snapshot{Devices: w.devices}, w.now)
		if len(a.Changes) != len(b.Changes) || a.Summary != b.Summary || !a.Wake.Equal(b.Wake) {
			t.Fatalf("%q with %d changes, then %q with %d", a.Summary, len(a.Changes), b.Summary, len(b.Changes))
		}
		for i := range a.Changes {
			if a.Changes[i] != b.Changes[i] {
				t.Fatalf("change %d differs", i)
			}
		}
	})
}
