package rollout_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/rollout"
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
		w.r.Policy = p
		if rollout.Validate(w.r, w.devices) == nil {
			return
		}
	}
}

// TestWhateverHappensTheSafetyPropertiesHoldAndTheRolloutEnds lets devices
// fail, vanish, return, be re-labelled, degrade and join, lets people pause,
// resume, hurry, approve and abort, and checks every decision; at the end
// everybody stops acting.
func TestWhateverHappensTheSafetyPropertiesHoldAndTheRolloutEnds(t *testing.T) {
	ends := map[rollout.State]int{}
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, 4+rng.IntN(30), 1+rng.IntN(4), rollout.Policy{})
		w.rng, w.r.Seed = rng, seed
		drawPolicy(rng, w)
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
				}
				if d.Connected && rng.IntN(10) > 0 {
					w.report(d)
				}
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
