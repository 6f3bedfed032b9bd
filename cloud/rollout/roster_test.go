package rollout_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/twin"
)

func (w *world) says(text string) {
	w.t.Helper()
	if all := w.last.Summary + "\n" + strings.Join(w.last.Reasons, "\n"); !strings.Contains(all, text) {
		w.t.Fatalf("it says %q, want %q", all, text)
	}
}

// leases returns the devices that may activate now.
func (w *world) leases() (ids []string) {
	for _, d := range w.devices {
		if _, l := w.r.Documents(d.Record); l != nil && w.now.Before(l.ExpiresAt) {
			ids = append(ids, d.ID.Node)
		}
	}
	return ids
}

// turn lets time pass and every device report.
func (w *world) turn(d time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(d)
	for i := range w.devices {
		if w.devices[i].Connected {
			w.report(&w.devices[i])
		}
	}
	w.decide()
}

// untilReady lets the canaries wait for their leases: no window is open.
func untilReady(t *testing.T) *world {
	t.Helper()
	p := simple()
	p.Windows = []rollout.Window{{Name: "early shift", From: "06:00", To: "07:00"}}
	p.Waves[0].DeadlineS = 86400
	w := newWorld(t, 9, 3, p)
	w.run(func() bool {
		return w.last.Rollout.State == rollout.Held && len(w.r.Waves) > 0 && !w.r.Waves[0].Cleared.IsZero()
	})
	return w
}

func TestDevicesActivateInTheirWindowsOnlyAndTheHubWakesWhenTheyOpen(t *testing.T) {
	w := untilReady(t)
	w.want(rollout.Held)
	w.says("3 devices may not activate now: its window opens at 2026-11-23 06:00:00")
	opens := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	for range 2000 { // devices go on reporting
		if !w.now.Before(opens) {
			break
		}
		if w.last.Wake.IsZero() || w.last.Wake.After(opens) {
			t.Fatalf("at %s it wakes at %s, and the window opens at %s", w.now, w.last.Wake, opens)
		}
		if n := w.leases(); len(n) > 0 {
			t.Fatalf("at %s %v may activate", w.now, n)
		}
		w.turn(time.Minute)
	}
	if n := w.leases(); len(n) != 3 {
		t.Fatalf("at %s %v may activate, want the 3 canaries", w.now, n)
	}
}

func TestAFreezeStopsOffersAndLeasesAndLeavesTheWayBackOpen(t *testing.T) {
	freeze := rollout.Freeze{Name: "audit", Selector: "line=L1", From: t0, Until: t0.Add(50 * time.Minute), By: "ada", Reason: "auditors are here"}

	t.Run("nothing new is offered", func(t *testing.T) {
		w := newWorld(t, 9, 3, simple())
		w.orders.Freezes = []rollout.Freeze{freeze}
		w.decide()
		if n := w.count(func(d rollout.Device) bool { return d.Record.Wave > 0 && d.Labels["line"] == "L1" }); n > 0 || w.r.Waves[0].Size != 3 {
			t.Fatalf("%d of %d canaries are frozen", n, w.r.Waves[0].Size)
		}
		w.says("3 devices are not offered the release now: frozen by ada (audit): auditors are here")
	})
	t.Run("everybody is frozen", func(t *testing.T) {
		w := newWorld(t, 9, 3, simple())
		all := freeze
		all.Selector = ""
		w.orders.Freezes = []rollout.Freeze{all}
		w.decide()
		w.want(rollout.Held)
		w.says("auditors are here")
		if !w.last.Wake.After(w.now) || w.last.Wake.After(all.Until) {
			t.Fatalf("it wakes at %s", w.last.Wake)
		}
		for range 60 {
			w.turn(time.Minute)
		}
		if w.r.Waves[0].Size != 3 {
			t.Fatalf("the freeze is over and nobody was drawn: %s", w.last.Summary)
		}
	})
	t.Run("a lease that is out is taken back", func(t *testing.T) {
		w := newWorld(t, 9, 3, simple())
		w.run(func() bool { w.decide(); return len(w.leases()) > 0 })
		now := freeze
		now.Selector, now.From = "", w.now
		w.orders.Freezes = []rollout.Freeze{now}
		w.decide()
		if n := w.leases(); len(n) > 0 {
			t.Fatalf("%v may activate within the freeze", n)
		}
	})
	t.Run("the way back is open", func(t *testing.T) {
		w := newWorld(t, 9, 3, simple())
		w.run(func() bool { return w.running() == 3 })
		open := freeze
		open.Selector, open.Until = "", time.Time{}
		w.orders.Freezes = []rollout.Freeze{open}
		w.ask(rollout.Abort)
		w.run(nil)
		w.want(rollout.Aborted)
		if w.running() != 0 {
			t.Fatalf("%d devices still run it", w.running())
		}
	})
	t.Run("a promoted release reaches those that were frozen", func(t *testing.T) {
		w := newWorld(t, 9, 3, simple())
		w.orders.Freezes = []rollout.Freeze{freeze}
		w.run(nil)
		w.want(rollout.Promoted)
		if w.running() != 6 {
			t.Fatalf("%d devices run it, want those that were not frozen", w.running())
		}
		for range 90 {
			w.turn(time.Minute)
		}
		if w.running() != 9 {
			t.Fatalf("%d devices run it after the freeze", w.running())
		}
	})
}

func TestAQuarantinedReleaseGoesBackWhateverTheStateOfItsRollout(t *testing.T) {
	for name, reach := range map[string]func(w *world){
		"running":  func(w *world) { w.run(func() bool { return w.running() > 0 }) },
		"paused":   func(w *world) { w.run(func() bool { return w.running() > 0 }); w.ask(rollout.Pause); w.decide() },
		"queued":   func(w *world) { w.r.State, w.r.Started = rollout.Queued, time.Time{} },
		"promoted": func(w *world) { w.run(nil); w.want(rollout.Promoted) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 9, 3, simple())
			reach(w)
			w.orders.Quarantined = []rollout.Quarantine{{Manifest: w.r.Release.Manifest, By: "ada", Reason: "it hides leaks"}}
			w.decide()
			if name == "promoted" && (w.r.State != rollout.RollingBack || !w.r.Ended.IsZero()) {
				t.Fatalf("%s, ended %s", w.r.State, w.r.Ended)
			}
			w.run(nil)
			w.want(rollout.Failed)
			if w.running() != 0 || !strings.Contains(w.r.Reason, "pump-anomaly-2 is quarantined by ada: it hides leaks") {
				t.Fatalf("%d devices run it: %s", w.running(), w.r.Reason)
			}
		})
	}
	t.Run("nobody is sent back to it", func(t *testing.T) {
		w := newWorld(t, 9, 3, simple())
		w.run(func() bool { return w.running() == 3 })
		w.orders.Quarantined = []rollout.Quarantine{{Manifest: w.r.Previous.Manifest, By: "ada", Reason: "it hides leaks"}}
		w.ask(rollout.Abort)
		w.run(nil)
		w.want(rollout.Aborted)
		if w.running() != 3 || !strings.Contains(w.r.Reason, "3 devices that had activated keep the release, since pump-anomaly-1 before it is quarantined by ada") {
			t.Fatalf("%d devices run it: %s", w.running(), w.r.Reason)
		}
	})
}

func TestNoDeviceGoesBackBelowItsFloor(t *testing.T) {
	w := newWorld(t, 9, 3, simple())
	w.run(func() bool { return w.running() == 3 })
	for i := range w.devices {
		if d := &w.devices[i]; d.Champion.Manifest == w.r.Release.Manifest {
			d.Floor = 2
			break
		}
	}
	w.ask(rollout.Abort)
	w.run(nil)
	w.want(rollout.Aborted)
	if w.running() != 1 {
		t.Fatalf("%d devices run it, want the one that may not go back", w.running())
	}
	kept := slices.IndexFunc(w.devices, func(d rollout.Device) bool { return d.Floor == 2 })
	st := w.r.Stand(w.devices[kept], w.now)
	if st.State != rollout.DeviceKept || st.Reason != "keeps the release: pump-anomaly-1 before it is below the device's floor 2" {
		t.Fatalf("it is %+v", st)
	}
}

func TestAReleaseThatRunsAlreadyIsJudgedByWhatItHasShownThere(t *testing.T) {
	for name, tc := range map[string]struct {
		champion rollout.Champion
		want     rollout.State
		gate     string
	}{
		"sound":       {rollout.Champion{Windows: 500, LatencyP99Ms: 3}, rollout.Promoted, ""},
		"not finite":  {rollout.Champion{Windows: 500, NonFinite: 2}, rollout.Failed, "non-finite gate"},
		"shown none":  {rollout.Champion{}, rollout.Held, "no windows yet"},
		"other bytes": {rollout.Champion{Windows: 500, Loaded: "sha256:0"}, rollout.Failed, "success gate"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 6, 3, simple())
			for i := range w.devices {
				c := rollouttest.Running(w.r.Release)
				c.Windows, c.NonFinite, c.LatencyP99Ms = tc.champion.Windows, tc.champion.NonFinite, tc.champion.LatencyP99Ms
				if tc.champion.Loaded != "" {
					c.Loaded = tc.champion.Loaded
				}
				w.devices[i].Champion = c
			}
			for range 10 {
				w.decide()
				w.now = w.now.Add(10 * time.Second)
				for i := range w.devices {
					d := &w.devices[i]
					d.SeenAt = w.now
					d.WindowsScored += 10
					if a, _ := w.r.Documents(d.Record); a != nil && a.Mode == twin.ModeTrial { // as the agent answers an offer of what runs
						d.Trial = rollout.Trial{Rollout: a.Rollout, Manifest: a.Manifest, Mode: a.Mode, Try: a.Try, Phase: twin.PhaseConfirmed, Reason: "runs already"}
					}
				}
			}
			if w.r.State == rollout.RollingBack {
				w.r.State = w.r.End
			}
			w.want(tc.want)
			if !strings.Contains(w.r.Reason, tc.gate) {
				t.Fatalf("it says %q, want %q", w.r.Reason, tc.gate)
			}
		})
	}
}

func TestARetryWaitsFromTheFailureOnWithALotAndACap(t *testing.T) {
	p := simple()
	p.Retries, p.RetryS = 20, 60
	p.Waves[0].DeadlineS = 86400
	waits := map[time.Duration]bool{}
	for try, want := range []time.Duration{0: time.Minute, 1: 2 * time.Minute, 4: 16 * time.Minute, 9: time.Hour, 15: time.Hour} {
		if want == 0 {
			continue
		}
		w := newWorld(t, 3, 3, p)
		w.decide()
		w.turn(30 * time.Second)
		failed := w.now.Add(20 * time.Minute)
		w.now = failed.Add(10 * time.Second)
		for i := range w.devices {
			d := &w.devices[i]
			d.SeenAt, d.Record.Try = w.now, try
			d.Trial.Try, d.Trial.Phase, d.Trial.Code, d.Trial.Since = try, twin.PhaseFailed, twin.CodeFetch, failed
		}
		for w.count(func(d rollout.Device) bool { return d.Record.Try > try }) < 3 {
			before := w.devices[0].Record.Try
			if w.decide(); w.last.Wake.IsZero() || w.now.Sub(failed) > 3*time.Hour {
				t.Fatalf("try %d: it waits for ever: %s", try, w.last.Summary)
			}
			if d := w.devices[0]; d.Record.Try > before {
				wait := d.Record.OfferedAt.Sub(failed)
				if wait < want || wait > want*5/4+time.Millisecond {
					t.Fatalf("try %d is repeated %s after it failed, want %s and up to a quarter more", try, wait, want)
				}
			}
			for _, d := range w.devices {
				if d.Record.Try > try {
					waits[d.Record.OfferedAt.Sub(failed)] = true
				}
			}
			w.now = w.last.Wake
			for i := range w.devices { // the failure stays the same, however often it is reported
				w.devices[i].SeenAt = w.now
			}
		}
	}
	if len(waits) < 10 {
		t.Fatalf("only %d different waits: devices that failed together come together", len(waits))
	}
}

func TestTheHubWakesAtTheMomentADeviceBecomesSilent(t *testing.T) {
	p := simple() // its leases last 120 s, and the grace 60 s more
	p.Gates = []rollout.Gate{{Name: rollout.GateSuccess, Threshold: ptr(0.5)}}
	p.ShadowS, p.SoakS = 0, 900
	w := newWorld(t, 9, 3, p)
	w.decide()
	w.turn(30 * time.Second)
	seen, dead := w.now, slices.IndexFunc(w.devices, func(d rollout.Device) bool { return d.Record.Wave == 1 })
	for w.last.Counts.Failed == 0 {
		w.now = w.last.Wake
		if w.now.Sub(seen) > time.Hour || w.now.IsZero() {
			t.Fatalf("nobody noticed: %s", w.last.Summary)
		}
		for i := range w.devices {
			if i != dead {
				w.devices[i].SeenAt = w.now
			}
		}
		w.decide()
	}
	if got, want := w.now.Sub(seen), 180*time.Second+time.Millisecond; got != want {
		t.Fatalf("it counts as silent after %s, want %s", got, want)
	}
}
