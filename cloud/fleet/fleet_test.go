package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// world is a Registry over a real store, with a clock that a test moves.
type world struct {
	*fleet.Registry
	store   fleet.Store
	mu      sync.Mutex
	now     time.Time
	changes []fleet.Change
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) open(t *testing.T) {
	t.Helper()
	var err error
	w.Registry, err = fleet.Open(t.Context(), fleet.Config{Store: w.store, Log: slog.New(slog.DiscardHandler), StaleAfter: 900 * time.Millisecond, MaxDevices: 20, Now: w.clock, OnChange: func(c fleet.Change) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, c)
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T) *world {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{store: db.Fleet(), now: time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)}
	w.open(t)
	t.Cleanup(func() { w.Close(); db.Close() })
	return w
}

func id(node string) topic.ID { return topic.ID{Site: "hall-1", Node: node} }

func (w *world) enrol(t *testing.T, nodes ...string) {
	t.Helper()
	for i, n := range nodes {
		if err := w.Enrol(t.Context(), id(n), "pump", map[string]string{"line": fmt.Sprintf("l%d", i%2+1)}, w.clock().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
}

// report hands in a document and waits for its acknowledgement.
func (w *world) report(t *testing.T, doc twin.Reported) error {
	t.Helper()
	doc.Schema = 1
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return w.raw(topic.ID{Site: doc.Site, Node: doc.Node}, b)
}

func (w *world) raw(id topic.ID, b []byte) error {
	done := make(chan error, 1)
	w.Report(id, b, func(err error) { done <- err })
	return <-done
}

func healthy(node string, seq uint64) twin.Reported {
	return twin.Reported{
		Site: "hall-1", Node: node, Boot: "b1", Seq: seq, Class: "pump", Labels: map[string]string{"hw": "v2"},
		Champion: &twin.Running{Name: "pump-anomaly", Counter: 3, Manifest: artifact.Of([]byte("m3")), Model: artifact.Of([]byte("onnx"))},
		Stream:   twin.Stream{Samples: 1000 * seq, WindowsScored: 100 * seq, WindowsLost: seq},
	}
}

func (w *world) state(t *testing.T, node string) fleet.State {
	t.Helper()
	d, err := w.Get(id(node))
	if err != nil {
		t.Fatal(err)
	}
	return d.State
}

func TestADeviceShowsTheWorstThatHolds(t *testing.T) {
	trial := func(p twin.Phase) func(*twin.Reported) {
		return func(r *twin.Reported) { r.Trial = &twin.Trial{Name: "pump-anomaly", Counter: 4, Phase: p} }
	}
	condition := func(kind string) func(*twin.Reported) {
		return func(r *twin.Reported) { r.Conditions = append(r.Conditions, twin.Condition{Type: kind, Status: true}) }
	}
	for _, c := range []struct {
		name string
		with []func(*twin.Reported)
		wait time.Duration
		want fleet.State
	}{
		{"a device that does its work", nil, 0, fleet.OK},
		{"one that fetches", []func(*twin.Reported){trial(twin.PhaseFetching)}, 0, fleet.Updating},
		{"one that shadows", []func(*twin.Reported){trial(twin.PhaseShadowing)}, 0, fleet.Trial},
		{"one that soaks", []func(*twin.Reported){trial(twin.PhaseSoaking)}, 0, fleet.Updating},
		{"one that has confirmed", []func(*twin.Reported){trial(twin.PhaseConfirmed)}, 0, fleet.OK},
		{"one that rolled back", []func(*twin.Reported){trial(twin.PhaseRolledBack)}, 0, fleet.Failed},
		{"one whose disk fills", []func(*twin.Reported){condition("DiskPressure")}, 0, fleet.Degraded},
		{"one that shadows while its disk fills", []func(*twin.Reported){trial(twin.PhaseShadowing), condition("DiskPressure")}, 0, fleet.Degraded},
		{"one without data, whose disk fills too", []func(*twin.Reported){condition("SourceStalled"), condition("DiskPressure")}, 0, fleet.Failed},
		{"one that has been silent for long", nil, 910 * time.Millisecond, fleet.Offline},
		{"one that rolled back and fell silent", []func(*twin.Reported){trial(twin.PhaseRolledBack)}, 910 * time.Millisecond, fleet.Offline},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t)
			w.enrol(t, "p1")
			doc := healthy("p1", 1)
			for _, f := range c.with {
				f(&doc)
			}
			if err := w.report(t, doc); err != nil {
				t.Fatal(err)
			}
			w.pass(c.wait)
			await(t, func() bool { return w.state(t, "p1") == c.want }, func() string { return string(w.state(t, "p1")) })
		})
	}
}

func await(t *testing.T, cond func() bool, got func() string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("still %s", got())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestAnAcknowledgedReportSurvivesARestart(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	if err := w.report(t, healthy("p1", 7)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	w.open(t)
	d, err := w.Get(id("p1"))
	if err != nil || d.Report.Doc.Seq != 7 || d.Totals.WindowsScored != 700 || d.Connected {
		t.Errorf("after the restart: seq %d, totals %+v, connected %t, %v", d.Report.Doc.Seq, d.Totals, d.Connected, err)
	}
}

func TestOldAndDoubledReportsChangeNothing(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	for _, seq := range []uint64{5, 3, 5, 4} {
		if err := w.report(t, healthy("p1", seq)); err != nil {
			t.Fatalf("report %d: %v", seq, err)
		}
	}
	d, _ := w.Get(id("p1"))
	if d.Report.Doc.Seq != 5 || w.Drops().Stale != 3 {
		t.Errorf("newest is %d, %d were stale", d.Report.Doc.Seq, w.Drops().Stale)
	}
	again := healthy("p1", 1)
	again.Boot, again.Stream.Samples = "b2", 9000
	if err := w.report(t, again); err != nil {
		t.Fatal(err)
	}
	if d, _ := w.Get(id("p1")); d.Report.Doc.Boot != "b2" {
		t.Error("a report of a new boot was taken for an old one")
	}
}

func TestCountersOutliveAReinstallation(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	if err := w.report(t, healthy("p1", 9)); err != nil {
		t.Fatal(err)
	}
	fresh := healthy("p1", 1)
	fresh.Boot = "b2"
	if err := w.report(t, fresh); err != nil {
		t.Fatal(err)
	}
	if d, _ := w.Get(id("p1")); d.Totals.WindowsScored != 1000 || d.Totals.WindowsLost != 10 {
		t.Errorf("totals %+v, want 900+100 scored and 9+1 lost", d.Totals)
	}
}

func TestWhatCannotBeReadIsAcknowledgedAndCounted(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	for name, b := range map[string]string{
		"no JSON": "\x00\x01", "nothing": "", "another device's document": `{"schema":1,"site":"hall-1","node":"p2"}`, "a later schema": `{"schema":9,"site":"hall-1","node":"p1"}`,
		"too much": `{"schema":1,"boot":"` + strings.Repeat("x", twin.MaxDocumentBytes) + `"}`, "depth": strings.Repeat("[", 20000),
	} {
		if err := w.raw(id("p1"), []byte(b)); err != nil {
			t.Errorf("%s: %v: sending it again would not help", name, err)
		}
	}
	if n := w.Drops().Malformed; n != 6 {
		t.Errorf("%d counted as malformed, want 6", n)
	}
	if d, _ := w.Get(id("p1")); d.Heard() {
		t.Error("a malformed report was taken in")
	}
}

// failing is a store that fails to save reports while broken.
type failing struct {
	fleet.Store
	mu     sync.Mutex
	broken bool
}

func (f *failing) SaveReports(ctx context.Context, r []fleet.Record, e []fleet.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return errors.New("the disk is full")
	}
	return f.Store.SaveReports(ctx, r, e)
}

func TestAReportThatCannotBeStoredIsNotAcknowledgedNorShown(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	f := &failing{Store: w.store, broken: true}
	w.Close()
	w.store = f
	w.open(t)
	if err := w.report(t, healthy("p1", 1)); err == nil {
		t.Error("was acknowledged")
	}
	if d, _ := w.Get(id("p1")); d.Heard() {
		t.Error("is shown though it is not stored")
	}
	f.mu.Lock()
	f.broken = false
	f.mu.Unlock()
	if err := w.report(t, healthy("p1", 1)); err != nil {
		t.Errorf("sent again: %v", err)
	}
}

func TestTheHistoryTellsWhatHappened(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	w.Connected(id("p1"))
	doc := healthy("p1", 1)
	doc.Trial = &twin.Trial{Name: "pump-anomaly", Counter: 4, Phase: twin.PhaseShadowing, Rollout: "pump-anomaly-4"}
	if err := w.report(t, doc); err != nil {
		t.Fatal(err)
	}
	doc.Seq, doc.Trial.Phase, doc.Trial.Reason = 2, twin.PhaseRolledBack, "flags 40 % of windows"
	doc.Conditions = []twin.Condition{{Type: "SourceStalled", Status: true, Message: "no rows for 10 s"}}
	if err := w.report(t, doc); err != nil {
		t.Fatal(err)
	}
	doc.Seq, doc.Conditions = 3, nil
	if err := w.report(t, doc); err != nil {
		t.Fatal(err)
	}
	list, err := w.Timeline(t.Context(), id("p1"), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range slices.Backward(list) {
		got = append(got, e.Type+" "+e.Severity+": "+e.Message)
	}
	want := []string{
		"enrolled info: Enrolled as pump", "connected info: Connected", "swap info: pump-anomaly-3 acts now", "phase info: pump-anomaly-4 is shadowing",
		"rollback warning: pump-anomaly-4 was rolled back: flags 40 % of windows", "condition critical: SourceStalled: no rows for 10 s", "condition info: SourceStalled is over",
	}
	if !slices.Equal(got, want) {
		t.Errorf("history\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAWillMessageMarksTheDeviceAndKeepsWhatItSaid(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	if err := w.report(t, healthy("p1", 4)); err != nil {
		t.Fatal(err)
	}
	if err := w.report(t, twin.Reported{Site: "hall-1", Node: "p1", Offline: true}); err != nil {
		t.Fatal(err)
	}
	if d, _ := w.Get(id("p1")); d.Connected || d.Report.Doc.Seq != 4 || d.Report.Doc.Champion == nil {
		t.Errorf("connected %t, report %+v", d.Connected, d.Report.Doc)
	}
}

func TestTheFleetIsBounded(t *testing.T) {
	w := start(t)
	for i := range 20 {
		w.enrol(t, fmt.Sprintf("p%d", i))
	}
	if err := w.Enrol(t.Context(), id("one-more"), "pump", nil, time.Time{}); !errors.Is(err, fleet.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	if err := w.report(t, healthy("stranger", 1)); !errors.Is(err, fleet.ErrFull) {
		t.Errorf("a stranger's report: %v, want ErrFull", err)
	}
	if err := w.Enrol(t.Context(), id("p3"), "pump", nil, time.Time{}); err != nil {
		t.Errorf("enrolling a known one again: %v", err)
	}
}

func TestARetiredDeviceStaysListedUntilItIsEnrolledAgain(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	d, err := w.Retire(t.Context(), id("p1"), "ada", "scrapped")
	if err != nil || d.State != fleet.Retired {
		t.Fatalf("retired: %s, %v", d.State, err)
	}
	first := d.RetiredAt
	w.pass(time.Hour)
	if d, _ = w.Retire(t.Context(), id("p1"), "ada", ""); !d.RetiredAt.Equal(first) {
		t.Error("retiring twice moved the time")
	}
	w.enrol(t, "p1")
	if d, _ := w.Get(id("p1")); d.Retired() {
		t.Error("is still retired after it was enrolled again")
	}
}

func TestLabelsOfPeopleWinOverThoseReported(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	if err := w.report(t, healthy("p1", 1)); err != nil {
		t.Fatal(err)
	}
	d, err := w.SetLabels(t.Context(), id("p1"), map[string]string{"hw": "v3", "hold": "yes"}, []string{"line"}, 0, "ada", false)
	if err != nil || !maps.Equal(d.All(), map[string]string{"hw": "v3", "hold": "yes"}) {
		t.Errorf("labels %v, %v", d.All(), err)
	}
	if !d.Facts().Held {
		t.Error("a device with the label hold is not held")
	}
	for name, set := range map[string]map[string]string{"a reserved key": {"site": "x"}, "an empty value": {"a": ""}, "a value with a comma": {"a": "b,c"}} {
		if _, err := w.SetLabels(t.Context(), id("p1"), set, nil, 0, "ada", true); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := w.SetLabels(t.Context(), id("p1"), map[string]string{"a": "b"}, nil, d.Version-1, "bob", false); !errors.Is(err, fleet.ErrChanged) {
		t.Errorf("an older version: %v, want ErrChanged", err)
	}
}

func TestSelectorsChoose(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2", "p3") // lines l1, l2, l1
	if err := w.report(t, healthy("p1", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Retire(t.Context(), id("p3"), "ada", ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ selector, want string }{
		{"", "p1 p2 p3"},
		{"site=hall-1", "p1 p2 p3"},
		{"site!=hall-1", ""},
		{"!retired", "p1 p2"},
		{"retired", "p3"},
		{"line=l1,!retired", "p1"},
		{"line in (l1,l2), !retired", "p1 p2"},
		{"line in (l1|l2)", "p1 p2 p3"},
		{"line=l1|l2", "p1 p2 p3"},
		{"line notin (l1)", "p2"},
		{"hw", "p1"},
		{"!hw", "p2 p3"},
		{"hw!=v9", "p1 p2 p3"},
		{"release=pump-anomaly-3", "p1"},
		{"connected", "p1"},
		{"state=unknown", "p2"},
		{"class=pump,node=p2", "p2"},
		{"name=hall-1/p2", "p2"},
	} {
		sel, err := selector.Parse(c.selector)
		if err != nil {
			t.Errorf("%q: %v", c.selector, err)
			continue
		}
		list, total, _, err := w.Select(sel, "", 100)
		var got []string
		for _, d := range list {
			got = append(got, d.ID.Node)
		}
		if err != nil || strings.Join(got, " ") != c.want || total != len(got) {
			t.Errorf("%q chose %v (%d), %v, want %q", c.selector, got, total, err, c.want)
		}
	}
	page, total, more, err := w.Select(selector.Selector{}, "hall-1/p1", 1)
	if err != nil || len(page) != 1 || page[0].ID.Node != "p2" || total != 3 || !more {
		t.Errorf("page after p1: %v, total %d, more %t, %v", page, total, more, err)
	}
}

func TestASelectorThatCannotBeMeantSaysWhatThereIs(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	sel, err := selector.Parse("lien=l1")
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = w.Select(sel, "", 10)
	if unknown, ok := errors.AsType[fleet.UnknownKey](err); !ok || unknown.Key != "lien" || !slices.Contains(unknown.Known, "line") {
		t.Errorf("got %v, want an UnknownKey that lists line", err)
	}
}

func TestTheCountsAddUp(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2", "p3")
	for _, n := range []string{"p1", "p2"} {
		if err := w.report(t, healthy(n, 2)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Retire(t.Context(), id("p2"), "ada", ""); err != nil {
		t.Fatal(err)
	}
	w.Flagged(3, w.clock())
	w.Flagged(4, w.clock().Add(-30*time.Minute))
	w.Flagged(5, w.clock().Add(-2*time.Hour))
	c := w.Count(func(d *fleet.Device) bool { return d.Report.Doc.Champion != nil })
	if c.Devices != 2 || c.Connected != 1 || c.Attested != 1 || c.ByState[fleet.Retired] != 1 || c.ByState[fleet.Unknown] != 1 || c.Totals.WindowsScored != 400 || c.Flagged != 7 {
		t.Errorf("counts %+v", c)
	}
	if len(c.Sites) != 1 || c.Sites[0].Devices != 2 || c.Sites[0].Lines != 1 {
		t.Errorf("sites %+v", c.Sites)
	}
}

func TestHubsOnOneStoreSeeEachOthersDevices(t *testing.T) {
	w := start(t)
	other, err := fleet.Open(t.Context(), fleet.Config{Store: w.store, Log: slog.New(slog.DiscardHandler), Refresh: 10 * time.Millisecond, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	w.enrol(t, "p1")
	if err := w.report(t, healthy("p1", 3)); err != nil {
		t.Fatal(err)
	}
	seen := func() string {
		d, err := other.Get(id("p1"))
		return fmt.Sprintf("%s seq %d connected %t, %v", d.State, d.Report.Doc.Seq, d.Connected, err)
	}
	await(t, func() bool { return seen() == "ok seq 3 connected true, <nil>" }, seen)
	if _, err := w.Retire(t.Context(), id("p1"), "ada", ""); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return strings.HasPrefix(seen(), "retired") }, seen)
}

func TestEveryChangeIsToldOnce(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	if err := w.report(t, healthy("p1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.report(t, healthy("p1", 2)); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, c := range w.changes {
		got = append(got, fmt.Sprintf("%s→%s %t", c.Was, c.State, c.Important))
	}
	if want := []string{"→unknown true", "unknown→ok true", "ok→ok false"}; !slices.Equal(got, want) {
		t.Errorf("changes %v, want %v", got, want)
	}
}

func TestTheFeedGivesWhatChangedSinceAMarkAndNothingElse(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2", "p3")
	since := func(mark uint64) (names []string, next uint64) {
		t.Helper()
		changed, next, ok := w.Since(mark)
		if !ok {
			t.Fatalf("mark %d is not known", mark)
		}
		for _, d := range changed {
			now, err := w.Get(d.ID)
			if err != nil || now.Report.Doc.Seq != d.Report.Doc.Seq || now.Retired() != d.Retired() {
				t.Fatalf("%s is given as it was: %v", d.ID, err)
			}
			names = append(names, d.ID.Node)
		}
		return names, next
	}
	_, mark, ok := w.Since(0)
	if ok {
		t.Fatal("mark 0 is answered, and nothing was ever read")
	}
	if names, next := since(mark); names != nil || next != mark {
		t.Fatalf("%v changed while nothing happened", names)
	}
	for _, node := range []string{"p1", "p3", "p1"} { // p1 twice: it is given once
		seq := w.clock().Unix()
		w.pass(time.Second)
		if err := w.report(t, healthy(node, uint64(seq))); err != nil {
			t.Fatal(err)
		}
	}
	names, next := since(mark)
	if slices.Sort(names); !slices.Equal(names, []string{"p1", "p3"}) {
		t.Fatalf("%v changed", names)
	}
	if _, err := w.Retire(t.Context(), id("p2"), "ada", "scrapped"); err != nil {
		t.Fatal(err)
	}
	w.enrol(t, "p4")
	names, last := since(next)
	if !slices.Contains(names, "p2") || !slices.Contains(names, "p4") {
		t.Fatalf("%v changed", names)
	}
	if _, _, ok := w.Since(last + 1000); ok {
		t.Fatal("a mark of another process is answered")
	}
}
