package dispatch_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// shadowed is a policy whose canaries compute in the shadow until the gate is
// as sure as alpha.
func shadowed(alpha float64) rollout.Policy {
	p := proposal("", 2).Policy
	p.Waves[0].Devices = 4
	p.ShadowS = 60
	p.Gates = []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateShadow, Alpha: alpha}}
	return p
}

// badNight records a rollout of a release that flags much more than the one
// before, under a policy that wants to be very sure.
func badNight(t *testing.T) (*dispatch.Dispatcher, rollout.Rollout) {
	t.Helper()
	p, s := newPlant(12), &dispatch.Memory{}
	p.flags = func(topic.ID) (uint32, uint32) { return 6, 1 }
	d := p.hub(t, s, "a")
	q := proposal("r-2", 2)
	q.Policy = shadowed(1e-12)
	propose(t, d, q)
	for range 400 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
	v, err := d.View(t.Context(), "r-2")
	if err != nil || v.Rollout.State != rollout.Failed || !strings.Contains(v.Rollout.Reason, "shadow gate") || p.running(2) != 0 {
		t.Fatalf("the night was not a bad one: %s, %s, %v", v.Rollout.State, v.Rollout.Reason, err)
	}
	return d, v.Rollout
}

func TestABadNightReplayedUnderItsOwnPolicyIsTheSame(t *testing.T) {
	d, r := badNight(t)
	got, err := d.Replay(t.Context(), "r-2", r.Policy)
	if err != nil {
		t.Fatal(err)
	}
	why, err := d.Why(t.Context(), "r-2", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[uint64]dispatch.Stored{}
	for _, w := range why {
		if w.Actor == "" {
			recorded[w.ID] = w
		}
	}
	if got.Verdict != "decides the same" || got.Diverged != nil || got.Same != len(recorded) || len(got.Steps) != len(recorded) {
		t.Fatalf("%q: %d of %d decisions are the same", got.Verdict, got.Same, len(recorded))
	}
	for _, step := range got.Steps {
		w := recorded[step.ID]
		if step.Summary != w.Decision.Summary || mustJSON(t, step.Gates) != mustJSON(t, w.Decision.Gates) || step.Replayed != step.Recorded || !step.At.Equal(w.At) {
			t.Fatalf("decision %d: %+v, recorded %+v", step.ID, step, w.Decision)
		}
	}
	if first, last := got.Steps[0], got.Steps[len(got.Steps)-1]; first.Offered != 4 || last.Offered != 4 {
		t.Fatalf("offered to %d, then %d", first.Offered, last.Offered)
	}
}

func TestAStricterPolicyWouldHaveStoppedEarlier(t *testing.T) {
	d, r := badNight(t)
	got, err := d.Replay(t.Context(), "r-2", shadowed(0.01))
	if err != nil {
		t.Fatal(err)
	}
	if got.Diverged == nil || got.Diverged.Replayed != string(rollout.RollingBack) || got.Diverged.Recorded != string(rollout.Held) || !got.Diverged.At.Before(r.RollbackFrom) {
		t.Fatalf("%+v", got.Diverged)
	}
	want := "would have stopped on 2026-11-22 22:0"
	if !strings.HasPrefix(got.Verdict, want) || !strings.Contains(got.Verdict, " after 4 devices: wave canary: shadow gate: ") {
		t.Fatalf("%q", got.Verdict)
	}
	if got.Same != len(got.Steps)-1 || got.Diverged.ID != got.Steps[len(got.Steps)-1].ID {
		t.Fatalf("%d of %d the same", got.Same, len(got.Steps))
	}
}

func TestALaxerPolicyWouldHaveGoneOnAndTheRecordEndsThere(t *testing.T) {
	d, _ := badNight(t)
	got, err := d.Replay(t.Context(), "r-2", shadowed(1e-40))
	if err != nil {
		t.Fatal(err)
	}
	if got.Diverged == nil || got.Diverged.Recorded != string(rollout.RollingBack) || got.Diverged.Replayed != string(rollout.Held) {
		t.Fatalf("%+v: %s", got.Diverged, got.Verdict)
	}
	if !strings.HasPrefix(got.Verdict, "would have gone on at 2026-11-22 22:") || !strings.HasSuffix(got.Verdict, "; the record ends there because no device was offered more") {
		t.Fatalf("%q", got.Verdict)
	}
}

func TestAReplaySaysWhereTheRecordEnds(t *testing.T) {
	p, s := newPlant(12), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	propose(t, d, proposal("r-2", 2))
	for range 40 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
	for _, tc := range []struct {
		name   string
		policy func(*rollout.Policy)
		want   string
	}{
		{"of more canaries", func(p *rollout.Policy) { p.Waves[0].Devices = 5 }, "would have gone on with 3 devices on 2026-11-22 22:00: wave canary: 0 of 5 devices done, 0 failed, 5 on their way, 0 not reached; the record ends there because they were told nothing then"},
		{"of fewer canaries", func(p *rollout.Policy) { p.Waves[0].Devices = 1 }, "would have held 1 device back on 2026-11-22 22:00: wave canary: 0 of 1 devices done, 0 failed, 1 on their way, 0 not reached; the record ends there because they were told to go on"},
		{"of a gate that nobody reports a value for", func(p *rollout.Policy) {
			p.Gates = []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateNonFinite, MinN: 1000}}
		}, "would have held 10 devices back on "},
		{"of another name", func(p *rollout.Policy) { p.Name = "other" }, "decides the same"},
		{"of a wave for no device", func(p *rollout.Policy) { p.Waves[0].Selector = "line=L9" }, "would not have started: "},
	} {
		pol := proposal("", 2).Policy
		tc.policy(&pol)
		got, err := d.Replay(t.Context(), "r-2", pol)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if !strings.HasPrefix(got.Verdict, tc.want) {
			t.Errorf("%s: %q", tc.name, got.Verdict)
		}
	}
	if _, err := d.Replay(t.Context(), "r-9", rollout.Policy{}); !errors.Is(err, dispatch.ErrNotFound) {
		t.Errorf("an unknown rollout: %v", err)
	}
}

func TestAReplayFollowsThePeopleOfTheNight(t *testing.T) {
	p, s := newPlant(12), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	q := proposal("r-2", 2)
	q.Policy.Waves[1].Approvals = 1
	propose(t, d, q)
	for i := range 60 {
		var err error
		switch i {
		case 1:
			_, err = d.Ask(t.Context(), "r-2", rollout.Request{Action: rollout.Pause, By: "user:ada", Reason: "lunch"}, false)
		case 6:
			_, err = d.Ask(t.Context(), "r-2", rollout.Request{Action: rollout.Resume, By: "user:ada", Reason: "back"}, false)
		case 30:
			_, err = d.Ask(t.Context(), "r-2", rollout.Request{Action: rollout.Approve, By: "user:bob", Reason: "looks well"}, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
	if got := state(t, d, "r-2"); got != rollout.Promoted {
		t.Fatal(got)
	}
	if got, err := d.Replay(t.Context(), "r-2", q.Policy); err != nil || got.Verdict != "decides the same" {
		t.Fatalf("%q, %v", got.Verdict, err)
	}
	two := q.Policy
	two.Waves = []rollout.Wave{q.Policy.Waves[0], {Name: "rest", Approvals: 2}}
	if got, err := d.Replay(t.Context(), "r-2", two); err != nil || !strings.HasPrefix(got.Verdict, "would have held 10 devices back on ") || !strings.Contains(got.Verdict, "1 of 2 people") {
		t.Fatalf("%q, %v", got.Verdict, err)
	}
}

func TestEvidenceSaysWhatIsNotThere(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	propose(t, d, proposal("r-2", 2))
	if seen, err := d.Evidence(t.Context(), "r-2", 1); err != nil || len(seen.Devices) != 6 {
		t.Fatalf("%d devices, %v", len(seen.Devices), err)
	}
	for _, id := range []uint64{0, 2} {
		if _, err := d.Evidence(t.Context(), "r-2", id); !errors.Is(err, dispatch.ErrNoEvidence) {
			t.Fatalf("decision %d: %v", id, err)
		}
	}
	// A hub of before evidence by changes stored whole snapshots, and people's
	// requests without any.
	now := p.now
	old := rollout.Rollout{Name: "old", Release: rollouttest.Release(3), State: rollout.Running, Created: now}
	whole := rollout.Snapshot{Devices: p.devices}
	for i, st := range []dispatch.Stored{{Actor: "user:ada", Snapshot: whole}, {Snapshot: whole}, {Actor: "user:ada"}} {
		if _, err := s.Commit(t.Context(), dispatch.Commit{Now: now, Rollout: old, Version: uint64(i), Decision: &st}); err != nil {
			t.Fatal(err)
		}
	}
	if seen, err := d.Evidence(t.Context(), "old", 3); err != nil || len(seen.Devices) != 6 {
		t.Fatalf("%d devices, %v", len(seen.Devices), err)
	}
}

// TestEveryNightReplaysToItself plays nights with people, failing and absent
// devices, standing orders and dying hubs, drawn from a seed. Whatever happened,
// each decision follows from its stored evidence, and the night replayed under
// its own policy decides the same.
func TestEveryNightReplaysToItself(t *testing.T) {
	ends := map[rollout.State]int{}
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 5))
		p, s := newPlant(6+rng.IntN(10)), &dispatch.Memory{}
		challenger := uint32(rng.IntN(7))
		p.flags = func(topic.ID) (uint32, uint32) { return challenger, 2 }
		q := proposal("r-2", 2)
		q.Policy = shadowed([]float64{1e-3, 1e-6}[rng.IntN(2)])
		q.Policy.Retries = rng.IntN(2)
		if rng.IntN(2) == 0 {
			q.Policy.Waves = []rollout.Wave{{Name: "canary", Devices: 3}, {Name: "half", Share: 0.5, Approvals: rng.IntN(2)}, {Name: "rest"}}
		}
		propose(t, p.hub(t, s, "people"), q)
		d := p.hub(t, crashing{s, rng}, "a")
		ask := func(a rollout.Action) {
			_, err := d.Ask(t.Context(), "r-2", rollout.Request{Action: a, By: "user:bob", Reason: "because"}, false)
			if err != nil && !errors.Is(err, rollout.ErrNotNow) && !errors.Is(err, errCrash) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		for range 150 {
			if _, err := d.RunOnce(t.Context()); err != nil {
				d = p.hub(t, crashing{s, rng}, "a")
			}
			p.round()
			switch i := rng.IntN(len(p.devices)); rng.IntN(40) {
			case 0:
				ask(rollout.Pause)
			case 1, 2, 3:
				ask(rollout.Resume)
			case 4, 5, 6:
				ask(rollout.Approve)
			case 7:
				ask(rollout.Promote)
			case 8:
				if rng.IntN(6) == 0 {
					ask(rollout.Abort)
				}
			case 9:
				p.devices[i].Connected = false
			case 10, 11, 12:
				p.devices[i].Connected = true
			case 13:
				p.devices[i].Degraded = !p.devices[i].Degraded
			case 14:
				if tr := &p.devices[i].Trial; tr.Phase == twin.PhaseReady && rng.IntN(3) == 0 {
					tr.Phase, tr.Code, tr.Reason = twin.PhaseFailed, twin.CodeDisk, "the disk is full"
				}
			case 15:
				if err := d.Freeze(t.Context(), rollout.Freeze{Name: fmt.Sprint("f", p.now.Unix()), Selector: "line=L1", Until: p.now.Add(2 * time.Minute), By: "user:ada", Reason: "shift"}); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		l, err := s.Load(t.Context(), "r-2")
		if err != nil {
			t.Fatal(err)
		}
		ends[l.Rollout.State]++
		reader := p.hub(t, s, "reader")
		why, err := reader.Why(t.Context(), "r-2", 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range why {
			if w.Actor != "" {
				continue
			}
			seen, err := reader.Evidence(t.Context(), "r-2", w.ID)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if a, b := mustJSON(t, rollout.Decide(w.Input, seen, w.At)), mustJSON(t, w.Decision); a != b {
				t.Fatalf("seed %d: decision %d does not follow from its evidence:\n%s\n%s", seed, w.ID, a, b)
			}
		}
		got, err := reader.Replay(t.Context(), "r-2", q.Policy)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got.Verdict != "decides the same" {
			t.Fatalf("seed %d: %s", seed, got.Verdict)
		}
	}
	t.Logf("ends: %v", ends)
	if ends[rollout.Promoted] == 0 || ends[rollout.Failed]+ends[rollout.RollingBack] == 0 {
		t.Fatalf("the nights are all alike: %v", ends)
	}
}
