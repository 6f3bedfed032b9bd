package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Each test here is a defect seen in another system; see the table in the
// design of rollouts.

func TestItDoesNotSucceedWhileDevicesOnlySayThatTheyRunIt(t *testing.T) { // hawkBit #3185, #446
	w := newWorld(t, 6, 2, simple())
	w.run(func() bool {
		for i := range w.devices {
			if d := &w.devices[i]; d.Trial.Phase == twin.PhaseConfirmed {
				d.Champion.Loaded = artifact.Of([]byte("other bytes"))
			}
		}
		return false
	})
	w.want(rollout.Failed)
}

func TestItSucceedsWhenEveryDeviceAttestsTheLoadedBytes(t *testing.T) {
	w := newWorld(t, 24, 3, simple())
	w.run(nil)
	w.want(rollout.Promoted)
	if n := w.running(); n != 24 {
		t.Fatalf("%d of 24 devices run it", n)
	}
	if c := w.last.Counts; c.Done != 24 {
		t.Fatalf("counts %+v", c)
	}
}

func TestADeviceThatRestartsAfterItConfirmedHasNotFailed(t *testing.T) { // found by killing agents at random
	w := newWorld(t, 6, 2, simple())
	restarted := map[int]bool{}
	w.run(func() bool {
		for i := range w.devices {
			// Its first report after the start: the journal knows the trial,
			// the model is still being loaded.
			if d := &w.devices[i]; d.Trial.Phase == twin.PhaseConfirmed && !restarted[i] {
				restarted[i] = true
				champion := d.Champion
				d.Champion = rollout.Champion{}
				w.decide()
				w.devices[i].Champion = champion
			}
		}
		return false
	})
	w.want(rollout.Promoted)
	if len(restarted) != 6 {
		t.Fatalf("%d of 6 devices were restarted", len(restarted))
	}
}

func TestADeviceThatNeverLoadsAgainWhatItConfirmedEndsTheRollout(t *testing.T) {
	w := newWorld(t, 6, 2, simple())
	w.run(func() bool {
		for i := range w.devices {
			if d := &w.devices[i]; d.Trial.Phase == twin.PhaseConfirmed {
				d.Champion = rollout.Champion{}
			}
		}
		return false
	})
	w.idle()
	w.want(rollout.Failed)
}

func TestAnEmptyCanaryWaveHoldsAndThenFails(t *testing.T) { // flightctl
	p := simple()
	p.Waves[0].Selector = "line=nowhere"
	w := newWorld(t, 6, 2, p)
	w.decide()
	w.want(rollout.Held)
	w.idle()
	w.want(rollout.Failed)
	if w.running() != 0 {
		t.Fatal("devices run the release")
	}
}

func TestMissingDataHolds(t *testing.T) { // Kayenta, Argo Rollouts
	w := newWorld(t, 6, 2, simple())
	w.run(func() bool {
		for i := range w.devices {
			w.devices[i].Evidence = rollout.Evidence{} // shadow counts never arrive
		}
		return w.r.State == rollout.Held
	})
	if w.running() != 0 {
		t.Fatal("a device acts without any shadow data")
	}
	if v := verdict(t, w.last, rollout.GateShadow); v.Result != rollout.Inconclusive || v.N != 0 {
		t.Fatalf("verdict %+v", v)
	}
	w.idle()
	w.want(rollout.Failed)
}

func TestImpossibleCountsAreNoEvidence(t *testing.T) {
	var d rollout.Device
	d.Trial.Manifest = artifact.Of([]byte("m"))
	e := fold(d, &twin.Shadow{Windows: []twin.ShadowWindow{{Items: 60}, {Items: 60, OnlyChallenger: 40, OnlyChampion: 40}}})
	if e.Windows != 0 || e.Missed == 0 {
		t.Fatalf("evidence %+v", e)
	}
}

func TestABrickedDeviceCountsAndAnUnreachableOneDoesNot(t *testing.T) { // hawkBit #693
	p := simple()
	p.Waves[0].Devices = 4
	p.Gates = []rollout.Gate{{Name: rollout.GateSuccess, Threshold: ptr(0.5)}, {Name: rollout.GateShadow}}
	w := newWorld(t, 8, 4, p)
	w.decide()
	for i := range w.devices {
		if w.devices[i].Record.Wave == 1 {
			w.devices[i].Connected = false // is never reached
			break
		}
	}
	var canaries []*rollout.Device
	w.run(func() bool {
		canaries = canaries[:0]
		for i := range w.devices {
			if w.devices[i].Record.Wave == 1 {
				canaries = append(canaries, &w.devices[i])
			}
		}
		if canaries[1].Trial.Phase == twin.PhaseSoaking {
			canaries[1].Connected = false // started, and dies in the soak
		}
		return w.r.Wave > 0 || w.r.State.Final()
	})
	if w.r.Wave != 1 {
		t.Fatalf("%s: %s", w.r.State, w.r.Reason)
	}
	v := verdictOf(t, w.r.Waves[0].Gates, rollout.GateSuccess)
	if v.N != 3 {
		t.Fatalf("the denominator is %d, want 3 started devices: %s", v.N, v.Reason)
	}
	if st := w.r.Stand(*canaries[0], w.now).State; st != rollout.DeviceUnreachable {
		t.Fatalf("the unreachable one is %s", st)
	}
	if st := w.r.Stand(*canaries[1], w.now).State; st != rollout.DeviceSilent {
		t.Fatalf("the bricked one is %s", st)
	}
}

func TestADeviceThatDiesInMidUpdateUsesUpItsLinesBudget(t *testing.T) { // flightctl
	p := simple()
	p.Waves = []rollout.Wave{{Name: "all", DeadlineS: 7200}}
	p.Gates = []rollout.Gate{{Name: rollout.GateSuccess, Threshold: ptr(0.5)}, {Name: rollout.GateShadow}}
	w := newWorld(t, 4, 1, p) // one line, one may be away
	w.run(func() bool {
		for i := range w.devices {
			if d := &w.devices[i]; d.Trial.Phase == twin.PhaseSoaking {
				d.Connected = false
			}
		}
		return w.now.Sub(t0) > time.Hour
	})
	if n := w.running(); n != 1 {
		t.Fatalf("%d devices run the release, want only the dead one", n)
	}
	reasons := strings.Join(w.last.Reasons, "; ")
	if !strings.Contains(reasons, "line=L1 has 1 of 4 devices unavailable") {
		t.Fatalf("reasons %q", reasons)
	}
}

func TestDegradedDevicesUseUpTheBudget(t *testing.T) {
	p := simple()
	p.Waves = []rollout.Wave{{Name: "all", DeadlineS: 7200}}
	w := newWorld(t, 4, 1, p)
	w.devices[3].Degraded = true
	w.run(func() bool { return w.now.Sub(t0) > time.Hour })
	for _, d := range w.devices[:3] {
		if d.Champion.Manifest == w.r.Release.Manifest {
			t.Fatalf("%s was touched while its neighbour is degraded", d.ID)
		}
	}
}

func TestCanariesAreDrawnAcrossLinesAndDifferFromNightToNight(t *testing.T) { // flightctl
	first := map[string]int{}
	for seed := range uint64(50) {
		w := newWorld(t, 60, 3, simple())
		w.r.Seed = seed
		w.decide()
		lines := map[string]bool{}
		for _, d := range w.devices {
			if d.Record.Wave == 1 {
				lines[d.Labels["line"]] = true
				first[d.ID.Node]++
			}
		}
		if len(lines) != 3 {
			t.Fatalf("seed %d: canaries on %d of 3 lines", seed, len(lines))
		}
	}
	if len(first) < 40 {
		t.Fatalf("only %d of 60 devices were ever canaries in 50 nights", len(first))
	}
}

func TestEveryOfferEndsAndAbortWorksInEveryState(t *testing.T) { // Greengrass #1161, rauc-hawkbit-updater #158
	for at := range 12 {
		w := newWorld(t, 12, 3, simple())
		n := 0
		w.run(func() bool { n++; return n > at*2 })
		if w.r.State.Final() {
			break
		}
		w.ask(rollout.Abort)
		w.run(nil)
		w.want(rollout.Aborted)
		if n := w.running(); n != 0 {
			t.Fatalf("aborted after %d rounds, %d devices still run the release", at*2, n)
		}
	}
	w := newWorld(t, 12, 3, simple())
	w.ask(rollout.Pause)
	w.idle()
	w.want(rollout.Aborted)
}

func TestOneRolloutIsActiveAndOneIsQueued(t *testing.T) { // Argo, Mender
	running := newWorld(t, 3, 1, simple()).r
	second := running
	second.Name = "r-3"
	a := rollout.Admit(second, []rollout.Rollout{running})
	if a.Rollout.State != rollout.Queued || len(a.Superseded) != 0 {
		t.Fatalf("admission %+v", a)
	}
	third := running
	third.Name = "r-4"
	if b := rollout.Admit(third, []rollout.Rollout{running, a.Rollout}); b.Rollout.State != rollout.Queued || len(b.Superseded) != 1 || b.Superseded[0] != "r-3" {
		t.Fatalf("it does not absorb the one that waits: %+v", b)
	}
	running.State = rollout.Failed
	if b := rollout.Admit(third, []rollout.Rollout{running}); b.Rollout.State != rollout.Running {
		t.Fatalf("it does not pass a failed one: %+v", b)
	}
}

func TestTheWayBackLeadsToTheLastPromotedRelease(t *testing.T) { // Argo, Mender
	at := func(n uint64, s rollout.State, h int) rollout.Rollout {
		return rollout.Rollout{Release: rollouttest.Release(n), State: s, Ended: t0.Add(time.Duration(h) * time.Hour)}
	}
	got := rollout.LastPromoted("", artifact.Model, []rollout.Rollout{at(1, rollout.Promoted, 0), at(3, rollout.Failed, 3), at(2, rollout.Promoted, 1)})
	if got == nil || got.Counter != 2 {
		t.Fatalf("goes back to %+v, want 2", got)
	}
}

func TestFalseFlagsAreStoppedInTheFirstWaveBeforeTheyAct(t *testing.T) {
	w := newWorld(t, 24, 3, simple())
	w.flags = func(d *rollout.Device) (uint32, uint32) { return uint32(2 + w.rng.IntN(3)), uint32(1 + w.rng.IntN(2)) }
	w.run(nil)
	w.want(rollout.Failed)
	if w.r.Wave != 0 || w.running() != 0 || !strings.Contains(w.r.Reason, "shadow gate") {
		t.Fatalf("wave %d, %d devices, %s", w.r.Wave, w.running(), w.r.Reason)
	}
	for _, d := range w.devices {
		if d.Trial.Lease != "" {
			t.Fatalf("%s activated it", d.ID)
		}
	}
}

func TestWhatTheShadowOnceShowedIsNotUnshown(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	w.run(func() bool {
		if len(w.r.Waves) == 1 && !w.r.Waves[0].Cleared.IsZero() {
			// Afterwards a few windows disagree, too few for a verdict of harm.
			w.flags = func(*rollout.Device) (uint32, uint32) { return uint32(w.rng.IntN(2)), uint32(w.rng.IntN(2)) }
		}
		return w.r.Wave == 1
	})
	if w.r.Wave != 1 {
		t.Fatalf("%s: %s", w.r.State, w.r.Reason)
	}
}

func TestAReleaseThatCrashesAtLoadHarmsNoMoreThanTheFirstWave(t *testing.T) {
	w := newWorld(t, 24, 3, simple())
	w.fate = func(d *rollout.Device, p twin.Phase) twin.Code {
		if p == twin.PhaseLoading {
			return twin.CodeLoad
		}
		return ""
	}
	w.run(nil)
	w.want(rollout.Failed)
	if n := w.count(func(d rollout.Device) bool { return d.Trial.Rollout != "" }); n > 3 {
		t.Fatalf("%d devices tried it", n)
	}
}

func TestAFailureInTheSecondWaveBringsTheFirstBack(t *testing.T) {
	w := newWorld(t, 12, 3, simple())
	w.fate = func(d *rollout.Device, p twin.Phase) twin.Code {
		if d.Record.Wave == 2 && p == twin.PhaseSoaking {
			return twin.CodeNonFinite
		}
		return ""
	}
	w.run(nil)
	w.want(rollout.Failed)
	if n := w.running(); n != 0 {
		t.Fatalf("%d devices still run it", n)
	}
}

func TestADeviceThatReturnsAfterTheEndIsCalledBackToo(t *testing.T) {
	w := newWorld(t, 12, 3, simple())
	gone := -1
	w.run(func() bool {
		for i := range w.devices {
			if d := &w.devices[i]; gone < 0 && d.Trial.Phase == twin.PhaseConfirmed {
				gone = i
				d.Connected = false
				w.ask(rollout.Abort)
			}
		}
		return false
	})
	w.want(rollout.Aborted)
	if gone < 0 || w.running() != 1 {
		t.Fatalf("%d devices run it", w.running())
	}
	w.devices[gone].Connected = true
	for range 10 {
		w.now = w.now.Add(30 * time.Second)
		for i := range w.devices {
			w.report(&w.devices[i])
		}
		w.decide()
	}
	if w.running() != 0 {
		t.Fatalf("it still runs the release: %+v", w.devices[gone].Record)
	}
}

func TestTheFirstModelOfAFleetNeedsNoShadow(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	w.r.Previous = nil
	for i := range w.devices {
		w.devices[i].Champion = rollout.Champion{}
	}
	w.run(func() bool { return w.r.Wave == 1 })
	v := verdictOf(t, w.r.Waves[0].Gates, rollout.GateShadow)
	if v.Applies || v.Result == rollout.Pass || !strings.Contains(v.Reason, "not applicable") {
		t.Fatalf("verdict %+v", v)
	}
	w.run(nil)
	w.want(rollout.Promoted)
}

func TestALateJoinerGetsThePromotedRelease(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	late := w.devices[8]
	w.devices = w.devices[:8]
	w.run(nil)
	w.want(rollout.Promoted)
	w.devices = append(w.devices, late)
	for range 12 {
		w.now = w.now.Add(30 * time.Second)
		for i := range w.devices {
			w.report(&w.devices[i])
		}
		w.decide()
	}
	if w.running() != 9 {
		t.Fatalf("%d of 9 run it", w.running())
	}
}

func TestOtherClassesAndRaisedFloorsAreLeftAlone(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	w.devices[0].Class = "gearbox"
	w.devices[1].Floor = 3
	w.devices[2].Held = true
	w.run(nil)
	w.want(rollout.Promoted)
	if c := w.last.Counts; c.Excluded != 3 || c.Done != 6 {
		t.Fatalf("counts %+v", c)
	}
}

func TestATransientFailureIsRetriedAndCountsOnce(t *testing.T) {
	p := simple()
	p.Retries, p.RetryS = 2, 60
	w := newWorld(t, 3, 3, p)
	w.fate = func(d *rollout.Device, ph twin.Phase) twin.Code {
		if ph == twin.PhaseFetching && d.Record.Try < 2 {
			return twin.CodeFetch
		}
		return ""
	}
	w.run(nil)
	w.want(rollout.Promoted)
	w = newWorld(t, 3, 3, p)
	w.fate = func(*rollout.Device, twin.Phase) twin.Code { return twin.CodeFetch }
	w.run(nil)
	w.want(rollout.Failed)
	if try := w.devices[0].Record.Try; try != 2 {
		t.Fatalf("tried again %d times", try)
	}
}

func TestPeopleApproveButNotTheAuthorAndNotTwice(t *testing.T) {
	p := simple()
	p.Waves[1].Approvals = 2
	w := newWorld(t, 9, 3, p)
	w.run(func() bool { return w.r.State == rollout.Waiting })
	w.want(rollout.Waiting)
	approve := func(by string) error {
		r, err := rollout.Ask(w.r, rollout.Request{Action: rollout.Approve, By: by, Reason: "looks good", At: w.now})
		w.r = r
		return err
	}
	if err := approve("night"); err == nil {
		t.Fatal("the author approved")
	}
	if err := approve("ada"); err != nil {
		t.Fatal(err)
	}
	if err := approve("ada"); err == nil {
		t.Fatal("ada approved twice")
	}
	w.decide()
	w.want(rollout.Waiting)
	if err := approve("bob"); err != nil {
		t.Fatal(err)
	}
	w.run(nil)
	w.want(rollout.Promoted)
}

func TestHurryingStillPassesEveryGate(t *testing.T) {
	p := simple()
	p.Waves = []rollout.Wave{{Name: "canary", Devices: 2}, {Name: "tenth", Share: 0.3}, {Name: "half", Share: 0.5}, {Name: "rest"}}
	w := newWorld(t, 20, 4, p)
	w.decide()
	w.ask(rollout.Promote)
	w.run(nil)
	w.want(rollout.Promoted)
	if len(w.r.Waves) != 2 || w.r.Waves[1].Size != 18 {
		t.Fatalf("waves %+v", w.r.Waves)
	}
}

func TestAPauseTakesLeasesBackAndMovesTheDeadline(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	leased := func() int {
		return w.count(func(d rollout.Device) bool {
			_, l := w.r.Documents(d.Record)
			return l != nil && d.Trial.Phase == twin.PhaseReady
		})
	}
	w.run(func() bool {
		w.decide()
		return leased() > 0
	})
	w.ask(rollout.Pause)
	w.decide()
	if leased() != 0 {
		t.Fatal("leases are left")
	}
	w.now = w.now.Add(5 * time.Hour) // longer than any deadline of the wave
	for i := range w.devices {
		w.devices[i].SeenAt = w.now
	}
	w.decide()
	w.want(rollout.Paused)
	w.ask(rollout.Resume)
	w.run(nil)
	w.want(rollout.Promoted)
}

// failsInTheRest lets the canaries succeed and every device of the second wave
// refuse the release.
func failsInTheRest(w *world) {
	w.fate = func(d *rollout.Device, _ twin.Phase) twin.Code {
		if d.Record.Wave == 2 {
			return twin.CodeGolden
		}
		return ""
	}
}

func TestDevicesThatAreCalledBackAreNoFailures(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	failsInTheRest(w)
	w.run(nil)
	w.want(rollout.Failed)
	c := w.last.Counts
	if c.Returned < 3 || c.Failed == 0 || c.Failed+c.Returned+c.Unreachable+c.Pending != 9 || c.Kept != 0 {
		t.Errorf("counts %+v, want the 3 canaries returned and those of the rest that refused failed", c)
	}
	for _, d := range w.devices {
		st := w.r.Stand(d, w.now)
		if d.Record.Wave == 1 && (st.State != rollout.DeviceReturned || d.Champion.Manifest != w.r.Previous.Manifest) {
			t.Errorf("canary %s: %+v", d.ID, st)
		}
	}
}

func TestAFirstInstallThatFailsSaysWhoKeepsIt(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	w.r.Previous, w.devices = nil, rollouttest.Fleet(9, 3, nil, t0)
	failsInTheRest(w)
	w.run(nil)
	w.want(rollout.Failed)
	if c := w.last.Counts; c.Kept != 3 || w.running() != 3 || c.Failed == 0 {
		t.Errorf("counts %+v and %d devices run it, want the 3 canaries to keep it", c, w.running())
	}
	if !strings.Contains(w.r.Reason, "3 devices that had activated keep the release") {
		t.Errorf("the rollout says %q", w.r.Reason)
	}
	w.decide()
	if strings.Count(w.r.Reason, "keep the release") != 1 || w.last.Counts.Kept != 3 {
		t.Errorf("after another look: %q, %+v", w.r.Reason, w.last.Counts)
	}
}

func verdict(t *testing.T, d rollout.Decision, g rollout.GateName) rollout.Verdict {
	t.Helper()
	return verdictOf(t, d.Gates, g)
}

func verdictOf(t *testing.T, vs []rollout.Verdict, g rollout.GateName) rollout.Verdict {
	t.Helper()
	for _, v := range vs {
		if v.Gate == g {
			return v
		}
	}
	t.Fatalf("no verdict of the %s gate in %+v", g, vs)
	return rollout.Verdict{}
}

func ptr(v float64) *float64 { return &v }
