package rollout_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// asks lets a person ask, who is called as the ledger calls people.
func (w *world) asks(who string, a rollout.Action) error {
	r, err := rollout.Ask(w.r, rollout.Request{Action: a, By: who, Reason: "test", At: w.now})
	if err == nil {
		w.r = r
		w.decide()
	}
	return err
}

func TestWhatPeopleMayAskInEachState(t *testing.T) {
	old := rollouttest.Release(1)
	for state, tc := range map[rollout.State]map[rollout.Action]string{ // "" is allowed
		rollout.Queued: {
			rollout.Pause: "waits in the queue", rollout.Resume: "waits in the queue", rollout.Abort: "", rollout.Undo: "",
			rollout.Promote: "waits in the queue", rollout.Approve: "",
		},
		rollout.Waiting: {rollout.Pause: "", rollout.Resume: "waiting and not paused", rollout.Abort: "", rollout.Undo: "", rollout.Promote: "", rollout.Approve: ""},
		rollout.Running: {rollout.Pause: "", rollout.Resume: "running and not paused", rollout.Abort: "", rollout.Undo: "", rollout.Promote: "", rollout.Approve: ""},
		rollout.Held:    {rollout.Pause: "", rollout.Resume: "held and not paused", rollout.Abort: "", rollout.Undo: "", rollout.Promote: "", rollout.Approve: ""},
		rollout.Paused: {
			rollout.Pause: "paused since 2026-11-22 22:00:00: resume or abort it", rollout.Resume: "", rollout.Abort: "", rollout.Undo: "",
			rollout.Promote: "resume or abort it", rollout.Approve: "",
		},
		rollout.RollingBack: {
			rollout.Pause: "on their way back", rollout.Resume: "on their way back", rollout.Abort: "on their way back",
			rollout.Undo: "it is being undone since 2026-11-22 22:00:00", rollout.Promote: "on their way back", rollout.Approve: "on their way back",
		},
		rollout.Promoted: {
			rollout.Pause: "was promoted", rollout.Resume: "was promoted", rollout.Abort: "undo it to go back to the release before", rollout.Undo: "",
			rollout.Promote: "was promoted", rollout.Approve: "was promoted",
		},
		rollout.Failed: {
			rollout.Pause: "ended as failed", rollout.Resume: "ended as failed", rollout.Abort: "ended as failed at 2026-11-22 22:00:00",
			rollout.Undo: "nothing to undo: it ended as failed", rollout.Promote: "ended as failed", rollout.Approve: "ended as failed",
		},
		rollout.Aborted:    {rollout.Abort: "ended as aborted", rollout.Undo: "nothing to undo: it ended as aborted"},
		rollout.Superseded: {rollout.Resume: "ended as superseded", rollout.Undo: "nothing to undo: it ended as superseded"},
	} {
		for action, want := range tc {
			r := rollout.Rollout{Name: "r-2", Release: rollouttest.Release(2), Previous: &old, Policy: simple(), Author: "user:night", State: state}
			r.PausedAt, r.RollbackFrom, r.Ended = t0, t0, t0
			_, err := rollout.Ask(r, rollout.Request{Action: action, By: "user:ada", Reason: "test", At: t0})
			if (err == nil) != (want == "") || err != nil && (!errors.Is(err, rollout.ErrNotNow) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s of one that is %s: %v, want %q", action, state, err, want)
			}
		}
	}
}

func TestApprovalsCountOnlyFromThoseWhoAreAsked(t *testing.T) {
	p := simple()
	p.Waves[0].Approvals, p.Waves[0].Approvers = 2, []string{"ben", "cleo", "night"}
	w := newWorld(t, 9, 3, p)
	w.r.Author = "user:night"
	w.decide()
	w.want(rollout.Waiting)
	for who, want := range map[string]error{"user:ada": rollout.ErrNotApprover, "user:night": rollout.ErrOwnApproval, "user:ben": nil} {
		if err := w.asks(who, rollout.Approve); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", who, err, want)
		} else if who == "user:ada" && !strings.Contains(err.Error(), "ada is not among the approvers of wave 1: ben, cleo, night") {
			t.Errorf("it says %q", err)
		}
	}
	if err := w.asks("user:ben", rollout.Approve); !errors.Is(err, rollout.ErrNotNow) {
		t.Errorf("ben approves twice: %v", err)
	}
	w.want(rollout.Waiting)
	if err := w.asks("user:cleo", rollout.Approve); err != nil {
		t.Fatal(err)
	}
	w.want(rollout.Running)
}

func TestAWaveIsApprovedAfterItsOtherGates(t *testing.T) {
	p := simple()
	p.Gates = gates(rollout.Gate{Name: rollout.GateApproval, MinN: 2})
	p.Waves[0].Approvers = []string{"ben", "cleo"}
	w := newWorld(t, 9, 3, p)
	w.decide()
	if err := w.asks("user:ben", rollout.Approve); !errors.Is(err, rollout.ErrNotNow) || !strings.Contains(err.Error(), "the other gates come first: the success gate of wave 1 says INCONCLUSIVE") {
		t.Fatalf("approved before there was anything to see: %v", err)
	}
	w.run(func() bool { return w.r.State == rollout.Waiting })
	v := verdict(t, w.last, rollout.GateApproval)
	if v.Result != rollout.Inconclusive || !strings.Contains(v.Reason, "0 of 2 people have approved what the wave did; asked are ben, cleo") {
		t.Fatalf("%+v", v)
	}
	if w.r.Wave != 0 || !strings.Contains(w.r.Reason, "waits for approval") {
		t.Fatalf("wave %d: %s", w.r.Wave+1, w.r.Reason)
	}
	for _, who := range []string{"user:ben", "user:cleo"} {
		if err := w.asks(who, rollout.Approve); err != nil {
			t.Fatal(err)
		}
	}
	if w.r.Wave != 1 {
		t.Fatalf("two people approved and it is in wave %d: %s", w.r.Wave+1, w.r.Reason)
	}
	w.run(func() bool { return w.r.State == rollout.Waiting })
	for _, who := range []string{"user:dora", "user:emil"} { // wave 2 asks anybody
		if err := w.asks(who, rollout.Approve); err != nil {
			t.Fatal(err)
		}
	}
	w.want(rollout.Promoted)
}

func TestAWaveThatNobodyApprovesGoesBackAtItsDeadline(t *testing.T) {
	p := simple()
	p.Gates = gates(rollout.Gate{Name: rollout.GateApproval})
	w := newWorld(t, 9, 3, p)
	w.run(nil)
	w.want(rollout.Failed)
	if w.running() != 0 || !strings.Contains(w.r.Reason, "0 of 1 people have approved") {
		t.Fatalf("%d devices run it: %s", w.running(), w.r.Reason)
	}
}

func TestHurryingDoesNotSkipApprovals(t *testing.T) {
	p := simple()
	p.Waves = []rollout.Wave{{Devices: 1}, {Devices: 2, Approvals: 1}, {Devices: 3, Approvals: 2, Approvers: []string{"ben", "cleo"}}, {}}
	w := newWorld(t, 9, 3, p)
	w.decide()
	if err := w.asks("user:ada", rollout.Promote); err != nil {
		t.Fatal(err)
	}
	last := w.r.Policy.Waves[len(w.r.Policy.Waves)-1]
	if len(w.r.Policy.Waves) != 2 || last.Approvals != 2 || !slices.Equal(last.Approvers, []string{"ben", "cleo"}) {
		t.Fatalf("%+v", w.r.Policy.Waves)
	}
}

func TestAPromotedReleaseIsUndone(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	w.run(nil)
	w.want(rollout.Promoted)
	first, promoted := w.running(), w.r
	if err := w.asks("user:ada", rollout.Undo); err != nil || first != 9 {
		t.Fatalf("%v, %d devices", err, first)
	}
	w.want(rollout.RollingBack)
	w.run(nil)
	w.want(rollout.Aborted)
	if n := w.running(); n != 0 || !strings.Contains(w.r.Reason, "undone by user:ada: test") {
		t.Fatalf("%d devices still run it: %s", n, w.r.Reason)
	}
	for _, d := range w.devices {
		if d.Champion.Manifest != w.r.Previous.Manifest {
			t.Errorf("%s runs %s", d.ID, d.Champion.Manifest.Short())
		}
	}

	alone := promoted
	alone.Previous = nil
	if _, err := rollout.Ask(alone, rollout.Request{Action: rollout.Undo, By: "ada", Reason: "test"}); err == nil || !strings.Contains(err.Error(), "no release was promoted before pump-anomaly-2") {
		t.Errorf("undone though there is nothing before it: %v", err)
	}
	other := promoted
	other.Name, other.State, other.Ended = "r-3", rollout.Running, time.Time{}
	if err := rollout.MayUndo(promoted, []rollout.Rollout{promoted, other}); err == nil || !strings.Contains(err.Error(), "rollout r-3 is running on the same fleet") {
		t.Errorf("undone under a running rollout: %v", err)
	}
	other.State, other.Ended = rollout.Promoted, promoted.Ended.Add(time.Hour)
	if err := rollout.MayUndo(promoted, []rollout.Rollout{other}); err == nil || !strings.Contains(err.Error(), "undo that one first") {
		t.Errorf("undone below a newer one: %v", err)
	}
	other.State = rollout.Failed
	if err := rollout.MayUndo(promoted, []rollout.Rollout{other}); err != nil {
		t.Errorf("a failed one is in the way: %v", err)
	}
}

func TestANightlyReleaseTakesThePlaceOfOneThatHasOfferedNothing(t *testing.T) {
	for name, lead := range map[string]func(w *world){
		"one that waits for approval": func(w *world) { w.decide(); w.want(rollout.Waiting) },
		"one paused while it waits":   func(w *world) { w.decide(); w.ask(rollout.Pause); w.want(rollout.Paused) },
		"one whose devices are frozen": func(w *world) {
			w.r.Policy.Waves[0].Approvals = 0
			w.orders = rollout.Orders{Freezes: []rollout.Freeze{{Name: "audit"}}}
			w.roster = nil
			w.decide()
			w.want(rollout.Held)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := simple()
			p.Waves[0].Approvals = 1
			w := newWorld(t, 9, 3, p)
			lead(w)
			next := newWorld(t, 9, 3, simple()).r
			next.Name = "r-3"
			a := rollout.Admit(next, []rollout.Rollout{w.r})
			if !slices.Equal(a.Superseded, []string{"r-2"}) || a.Rollout.State != rollout.Queued {
				t.Fatalf("it is %s and takes the place of %v", a.Rollout.State, a.Superseded)
			}
			r, ok := rollout.Supersede(w.r, "r-3", t0)
			if !ok || r.State != rollout.Superseded {
				t.Fatalf("%v %s", ok, r.State)
			}
			w.r = r
			w.decide()
			w.want(rollout.Superseded)
			if slices.ContainsFunc(w.devices, func(d rollout.Device) bool { return d.Record.Offer != rollout.OfferNone }) {
				t.Fatal("it offered something")
			}
		})
	}
	begun := newWorld(t, 9, 3, simple())
	begun.decide()
	next := begun.r
	next.Name = "r-3"
	if a := rollout.Admit(next, []rollout.Rollout{begun.r}); len(a.Superseded) != 0 || a.Rollout.State != rollout.Queued {
		t.Errorf("it takes the place of one that has begun: %+v", a.Superseded)
	}
	if _, ok := rollout.Supersede(begun.r, "r-3", t0); ok {
		t.Error("one that began meanwhile is superseded")
	}
}

// A night whose release failed must not keep the next night waiting for devices
// that are switched off, unless one of them may run the failed release.
func TestTheNextNightPassesAFailedOneUnlessADeviceOutOfReachMayRunIt(t *testing.T) {
	for name, tc := range map[string]struct {
		until func(d rollout.Device) bool // it goes out of reach
		waits bool
	}{
		"it is in the shadow":       {func(d rollout.Device) bool { return d.Trial.Phase == twin.PhaseShadowing }, false},
		"it was just given a lease": {func(d rollout.Device) bool { return d.Trial.Phase == twin.PhaseReady && d.Record.Lease > 0 }, true},
		"it soaks":                  {func(d rollout.Device) bool { return d.Trial.Phase == twin.PhaseSoaking }, true},
		"it runs it":                {func(d rollout.Device) bool { return d.Trial.Phase == twin.PhaseConfirmed }, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := simple()
			p.RollbackS = 86400
			w := newWorld(t, 9, 3, p)
			var away *rollout.Device
			w.run(func() bool {
				w.decide()
				i := slices.IndexFunc(w.devices, tc.until)
				if i >= 0 {
					away = &w.devices[i]
				}
				return i >= 0
			})
			if away == nil {
				t.Fatal("no device ever was")
			}
			away.Connected = false
			w.ask(rollout.Abort)
			n := 0
			w.run(func() bool { n++; return n > 100 })
			if ended := w.r.State == rollout.Aborted; ended == tc.waits {
				t.Fatalf("after %s it is %s: %v", w.now.Sub(t0), w.r.State, w.last.Reasons)
			}
			next := w.r
			next.Name, next.State = "r-3", ""
			if a := rollout.Admit(next, []rollout.Rollout{w.r}); (a.Rollout.State == rollout.Queued) != tc.waits {
				t.Fatalf("the next one is %s", a.Rollout.State)
			}
			live := map[artifact.Digest]bool{next.Release.Manifest: true, next.Previous.Manifest: true}
			for _, d := range w.devices {
				live[d.Champion.Manifest] = true
			}
			if !tc.waits && len(live) > 2 {
				t.Fatalf("%d versions would be live", len(live))
			}
		})
	}
}
