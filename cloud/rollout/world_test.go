package rollout_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

var t0 = time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world plays the devices of one rollout at the level of their reports.
type world struct {
	t       tester
	r       rollout.Rollout
	devices []rollout.Device
	now     time.Time
	last    rollout.Decision
	orders  rollout.Orders
	roster  *rollout.Roster // hears of every change, and has to decide as a fresh one does
	rng     *rand.Rand

	// flags returns what challenger and champion alone flag in a counting window.
	flags func(d *rollout.Device) (a, b uint32)
	// fate returns the code with which a device's trial ends instead of going
	// on from a phase; "" goes on.
	fate func(d *rollout.Device, p twin.Phase) twin.Code
}

// newWorld has n devices on lines, running release 1, and release 2 to roll out.
func newWorld(t tester, n, lines int, p rollout.Policy) *world {
	old := rollouttest.Release(1)
	w := &world{t: t, now: t0, rng: rand.New(rand.NewPCG(1, 2)), devices: rollouttest.Fleet(n, lines, &old, t0)}
	w.r = rollout.Rollout{Name: "r-2", Release: rollouttest.Release(2), Previous: &old, Policy: p, Author: "night", Seed: 7, Created: t0}
	w.r = rollout.Admit(w.r, nil).Rollout
	w.flags = func(*rollout.Device) (uint32, uint32) { return 0, 0 }
	w.fate = func(*rollout.Device, twin.Phase) twin.Code { return "" }
	return w
}

// simple is a policy of one canary wave and the rest.
func simple() rollout.Policy {
	return rollout.Policy{
		Name: "simple", Waves: []rollout.Wave{{Name: "canary", Devices: 3, DeadlineS: 3600}, {Name: "rest", DeadlineS: 7200}},
		ShadowS: 60, ShadowWindowS: 10, SoakS: 60, LeaseS: 120, RollbackS: 3600,
		Budgets: []rollout.Budget{{GroupBy: "line", MaxUnavailable: 1}},
	}
}

// decide decides, checks and applies.
func (w *world) decide() rollout.Decision {
	w.t.Helper()
	s := rollout.Snapshot{Devices: w.devices, Orders: w.orders}
	d := rollout.Decide(w.r, s, w.now)
	for _, bad := range rollouttest.Check(w.r, s, d, w.now) {
		w.t.Fatalf("at +%s: %s", w.now.Sub(t0), bad)
	}
	w.same(s, d)
	w.r, w.devices, w.last = d.Rollout, rollout.Apply(s, d).Devices, d
	return d
}

// same tells the roster what has changed and compares its decision.
func (w *world) same(s rollout.Snapshot, want rollout.Decision) {
	w.t.Helper()
	if w.roster == nil {
		w.roster = rollout.NewRoster(w.r, rollout.Snapshot{})
	}
	here := map[topic.ID]bool{}
	for i, d := range s.Devices {
		here[d.ID] = true
		if old, ok := w.roster.Device(d.ID); !ok || !reflect.DeepEqual(old, d) {
			if i%2 == 0 {
				d.Labels = maps.Clone(d.Labels)
			}
			w.roster.Put(d)
		}
	}
	before := w.roster.Snapshot()
	for _, d := range before.Devices {
		if !here[d.ID] {
			w.roster.Remove(d.ID)
		}
	}
	if !reflect.DeepEqual(before.Orders, s.Orders) {
		w.roster.Order(s.Orders)
	}
	if n := w.roster.Len(); n != len(s.Devices) {
		w.t.Fatalf("the roster has %d devices, want %d", n, len(s.Devices))
	}
	got := w.roster.Decide(w.r, w.now)
	if !reflect.DeepEqual(got, want) {
		w.t.Fatalf("at +%s the roster decides\n%s\nand a fresh one\n%s", w.now.Sub(t0), inWords(got), inWords(want))
	}
}

func inWords(d rollout.Decision) string {
	b, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// report lets a connected device go one phase further and tell the hub.
func (w *world) report(d *rollout.Device) {
	d.SeenAt = w.now
	a, lease := w.r.Documents(d.Record)
	t := &d.Trial
	switch {
	case a == nil:
		if t.Rollout == w.r.Name && !t.Phase.Final() && t.Phase != twin.PhaseSoaking && t.Phase != twin.PhaseActivating && t.Phase != "" {
			t.Phase, t.Code = twin.PhaseDropped, twin.CodeWithdrawn
		}
		if t.Rollout == w.r.Name && t.Phase == twin.PhaseSoaking { // it acts, and is not called back: it goes on
			w.proceed(d, nil)
		}
	case t.Rollout != a.Rollout || t.Manifest != a.Manifest || t.Mode != a.Mode || t.Try != a.Try:
		if t.Rollout == w.r.Name && (t.Phase == twin.PhaseSoaking || t.Phase == twin.PhaseActivating) && (a.Mode != twin.ModeRollback || lease == nil) {
			break
		}
		*t = rollout.Trial{Rollout: a.Rollout, Manifest: a.Manifest, Mode: a.Mode, Try: a.Try, Phase: twin.PhaseFetching}
	case t.Phase.Final():
	default:
		w.proceed(d, lease)
	}
	d.WindowsScored += 10
}

func (w *world) proceed(d *rollout.Device, lease *twin.Lease) {
	t := &d.Trial
	if code := w.fate(d, t.Phase); code != "" {
		t.Phase, t.Code, t.Reason = twin.PhaseFailed, code, "as the test wants"
		if d.Champion.Manifest == w.r.Release.Manifest {
			t.Phase, d.Champion = twin.PhaseRolledBack, rollout.Champion{}
			if w.r.Previous != nil {
				d.Champion = rollouttest.Running(*w.r.Previous)
			}
		}
		return
	}
	allowed := lease != nil && lease.Manifest == t.Manifest && w.now.Before(lease.ExpiresAt)
	if t.Mode == twin.ModeRollback {
		if allowed {
			t.Phase, d.Champion = twin.PhaseConfirmed, rollouttest.Running(*w.r.Previous)
		}
		return
	}
	switch t.Phase {
	case twin.PhaseFetching:
		t.Phase = twin.PhaseLoading
	case twin.PhaseLoading:
		t.Phase = twin.PhaseReady
		if d.Record.Paired {
			t.Phase = twin.PhaseShadowing
		}
	case twin.PhaseShadowing, twin.PhaseReady:
		if d.Record.Paired {
			shadow := twin.Shadow{Index: d.Evidence.Next}
			for range 6 {
				a, b := w.flags(d)
				shadow.Windows = append(shadow.Windows, twin.ShadowWindow{OnlyChallenger: a, OnlyChampion: b, Items: max(a+b, 60)})
			}
			t.Shadowed += 360
			d.Evidence = fold(*d, &shadow)
		}
		if t.Phase == twin.PhaseReady && allowed {
			t.Phase, t.Lease = twin.PhaseSoaking, lease.ID
			d.Champion = rollouttest.Running(w.r.Release)
			break
		}
		t.Phase = twin.PhaseReady
	case twin.PhaseSoaking:
		t.Windows += 60
		t.Phase = twin.PhaseConfirmed
	}
}

// fold takes shadow windows in by the product's own fold.
func fold(d rollout.Device, s *twin.Shadow) rollout.Evidence {
	return rollout.Fold(d, twin.Reported{Site: d.ID.Site, Node: d.ID.Node, Boot: "b", Trial: &twin.Trial{
		Manifest: d.Trial.Manifest, Mode: twin.ModeTrial, Try: d.Trial.Try, Shadow: s,
	}}, d.SeenAt).Evidence
}

// run reports and decides every 30 s until the rollout ends or stop says so.
func (w *world) run(stop func() bool) {
	w.t.Helper()
	for i := 0; !w.r.State.Final() && (stop == nil || !stop()); i++ {
		if i > 2000 {
			w.t.Fatalf("no end: %s: %s", w.r.State, w.last.Summary)
		}
		w.decide()
		w.now = w.now.Add(30 * time.Second)
		for k := range w.devices {
			if w.devices[k].Connected {
				w.report(&w.devices[k])
			}
		}
	}
}

// idle lets only time pass until the rollout ends: devices and people are gone.
func (w *world) idle() {
	w.t.Helper()
	for i := 0; ; i++ {
		d := w.decide()
		if w.r.State.Final() {
			return
		}
		if d.Wake.IsZero() || !d.Wake.After(w.now) {
			w.t.Fatalf("%s waits for nothing: %s", w.r.State, d.Summary)
		}
		if i > 10_000 {
			w.t.Fatalf("no end: %s: %s", w.r.State, d.Summary)
		}
		w.now = d.Wake
	}
}

func (w *world) count(f func(rollout.Device) bool) int {
	n := 0
	for _, d := range w.devices {
		if f(d) {
			n++
		}
	}
	return n
}

func (w *world) running() int {
	return w.count(func(d rollout.Device) bool { return d.Champion.Manifest == w.r.Release.Manifest })
}

func (w *world) ask(a rollout.Action) {
	w.t.Helper()
	r, err := rollout.Ask(w.r, rollout.Request{Action: a, By: "ada", Reason: "test", At: w.now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.r = r
}

func (w *world) want(state rollout.State) {
	w.t.Helper()
	if w.r.State != state {
		w.t.Fatalf("state %s, want %s: %s", w.r.State, state, fmt.Sprint(w.r.Reason, w.last.Reasons))
	}
}
