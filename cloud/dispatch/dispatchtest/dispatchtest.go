// Package dispatchtest says what a dispatch.Store must do, as one Exercise
// that every implementation passes.
package dispatchtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

var (
	now = time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	dev = topic.ID{Site: "hall-1", Node: "pump-1"}
)

// Exercise runs every test against stores that open makes, each empty.
func Exercise(t *testing.T, open func(t *testing.T) dispatch.Store) {
	for name, test := range map[string]func(*testing.T, dispatch.Store){
		"only one hub holds the lease until it ends":            lease,
		"a commit without the lease changes nothing":            unleased,
		"a person's commit needs no lease":                      person,
		"a commit on an old version changes nothing":            versions,
		"what was committed is loaded as it was":                roundTrip,
		"generations rise by one for each device":               generations,
		"only the newest document of a device is unpublished":   unpublished,
		"decisions are returned newest first and page by page":  decisions,
		"of many commits on one version one succeeds":           race,
		"standing orders are kept and changed by one at a time": orders,
		"evidence by changes is put together again":             evidence,
		"versions show who has changed":                         changed,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func sample(name string) rollout.Rollout {
	prev := rollouttest.Release(1)
	th := 0.9
	return rollout.Rollout{
		Name: name, Fleet: "line=L1", Release: rollouttest.Release(2), Previous: &prev, Author: "user:ada", Seed: 1 << 63, State: rollout.Running, Created: now,
		Policy: rollout.Policy{Name: "p", Waves: []rollout.Wave{{Name: "all", Devices: 3}}, Gates: []rollout.Gate{{Name: rollout.GateSuccess, Threshold: &th}}},
		Waves:  []rollout.WaveTimes{{Asked: now, Started: now.Add(time.Second), Size: 3}},
	}
}

func acquire(t *testing.T, s dispatch.Store, holder string, at time.Time) bool {
	t.Helper()
	ok, err := s.Acquire(t.Context(), holder, at, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func create(t *testing.T, s dispatch.Store, name string) {
	t.Helper()
	if !acquire(t, s, "a", now) {
		t.Fatal("no lease")
	}
	if _, err := s.Commit(t.Context(), dispatch.Commit{Holder: "a", Now: now, Rollout: sample(name)}); err != nil {
		t.Fatal(err)
	}
}

func lease(t *testing.T, s dispatch.Store) {
	if !acquire(t, s, "a", now) || !acquire(t, s, "a", now.Add(20*time.Second)) {
		t.Fatal("the holder cannot take or renew it")
	}
	if acquire(t, s, "b", now.Add(49*time.Second)) {
		t.Fatal("a second hub got it while it lasts")
	}
	if !acquire(t, s, "b", now.Add(50*time.Second)) {
		t.Fatal("nobody gets it after it ended")
	}
	if acquire(t, s, "a", now.Add(51*time.Second)) {
		t.Fatal("the first hub got it back")
	}
}

func unleased(t *testing.T, s dispatch.Store) {
	create(t, s, "r")
	c := dispatch.Commit{Holder: "b", Now: now, Rollout: sample("r"), Version: 1, Records: map[topic.ID]rollout.Record{dev: {Wave: 1}}, Desired: []twin.Desired{{Schema: 1, Site: dev.Site, Node: dev.Node}}, Decision: &dispatch.Stored{}}
	for _, at := range []time.Time{now, now.Add(30 * time.Second)} {
		c.Now = at
		if _, err := s.Commit(t.Context(), c); !errors.Is(err, dispatch.ErrConflict) {
			t.Fatalf("error %v, want ErrConflict", err)
		}
		c.Holder = "a" // whose lease has ended by then
	}
	l, err := s.Load(t.Context(), "r")
	if err != nil || l.Version != 1 || len(l.Records) != 0 {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, ok, _ := s.Desired(t.Context(), dev); ok {
		t.Fatal("a document was stored")
	}
	if ds, _ := s.Decisions(t.Context(), "r", 0, 0); len(ds) != 0 {
		t.Fatal("a decision was stored")
	}
}

func person(t *testing.T, s dispatch.Store) {
	create(t, s, "r")
	r := sample("r")
	r.State = rollout.Paused
	if _, err := s.Commit(t.Context(), dispatch.Commit{Now: now, Rollout: r, Version: 1, Decision: &dispatch.Stored{Actor: "user:ada"}}); err != nil {
		t.Fatal(err)
	}
	if l, err := s.Load(t.Context(), "r"); err != nil || l.Rollout.State != rollout.Paused || l.Version != 2 {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := s.Commit(t.Context(), dispatch.Commit{Now: now, Rollout: sample("new")}); err != nil {
		t.Fatal(err)
	}
}

func versions(t *testing.T, s dispatch.Store) {
	create(t, s, "r")
	ctx := t.Context()
	if _, err := s.Commit(ctx, dispatch.Commit{Holder: "a", Now: now, Rollout: sample("r")}); !errors.Is(err, dispatch.ErrExists) {
		t.Fatalf("a taken name: %v", err)
	}
	if _, err := s.Commit(ctx, dispatch.Commit{Holder: "a", Now: now, Rollout: sample("r"), Version: 2}); !errors.Is(err, dispatch.ErrConflict) {
		t.Fatalf("a version to come: %v", err)
	}
	if _, err := s.Commit(ctx, dispatch.Commit{Holder: "a", Now: now, Rollout: sample("r"), Version: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, dispatch.Commit{Holder: "a", Now: now, Rollout: sample("r"), Version: 1}); !errors.Is(err, dispatch.ErrConflict) {
		t.Fatalf("an old version: %v", err)
	}
	if _, err := s.Load(ctx, "nobody"); !errors.Is(err, dispatch.ErrNotFound) {
		t.Fatalf("an unknown name: %v", err)
	}
}

func roundTrip(t *testing.T, s dispatch.Store) {
	ctx := t.Context()
	create(t, s, "r-1")
	late := sample("r-2")
	late.Created = now.Add(time.Minute)
	rec := rollout.Record{Wave: 1, Offer: rollout.OfferRelease, OfferedAt: now, Deadline: now.Add(time.Hour), Lease: 2, LeaseUntil: now.Add(time.Minute), Paired: true, ScoredBefore: 7}
	doc := twin.Desired{
		Schema: 1, Site: dev.Site, Node: dev.Node, IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		Model: &twin.Assignment{Rollout: "r-2", Name: "pump-anomaly", Counter: 2, Manifest: late.Release.Manifest, Mode: twin.ModeTrial, Deadline: now.Add(time.Hour), SoakS: 1.5},
		Lease: &twin.Lease{ID: "l", Manifest: late.Release.Manifest, ExpiresAt: now.Add(time.Minute)},
	}
	id, err := s.Commit(ctx, dispatch.Commit{
		Holder: "a", Now: now, Rollout: late, Records: map[topic.ID]rollout.Record{dev: rec}, Desired: []twin.Desired{doc},
		Decision: &dispatch.Stored{Rollout: "r-2", At: now, Before: rollout.Queued, Input: late, Snapshot: rollout.Snapshot{Devices: rollouttest.Fleet(2, 1, nil, now)}, Decision: rollout.Decision{Rollout: late, Summary: "begins"}},
	})
	if err != nil || id != 1 {
		t.Fatalf("id %d, %v", id, err)
	}
	l, err := s.Load(ctx, "r-2")
	if err != nil || !reflect.DeepEqual(l.Rollout, late) || !reflect.DeepEqual(l.Records, map[topic.ID]rollout.Record{dev: rec}) || l.Version != 1 {
		t.Fatalf("%+v, %v", l, err)
	}
	// Records are merged, and others stay.
	other := topic.ID{Site: "hall-2", Node: "pump-1"}
	if _, err := s.Commit(ctx, dispatch.Commit{Holder: "a", Now: now, Rollout: late, Version: 1, Records: map[topic.ID]rollout.Record{other: {Wave: 2}}}); err != nil {
		t.Fatal(err)
	}
	if l, err = s.Load(ctx, "r-2"); err != nil || len(l.Records) != 2 || l.Records[dev] != rec {
		t.Fatalf("%+v, %v", l.Records, err)
	}
	got, ok, err := s.Desired(ctx, dev)
	doc.Generation = 1
	if err != nil || !ok || !reflect.DeepEqual(got, doc) {
		t.Fatalf("%+v, %t, %v", got, ok, err)
	}
	all, err := s.Rollouts(ctx)
	if err != nil || len(all) != 2 || all[0].Name != "r-2" || all[1].Name != "r-1" {
		t.Fatalf("%+v, %v", all, err)
	}
	ds, err := s.Decisions(ctx, "r-2", 0, 0)
	if err != nil || len(ds) != 1 || ds[0].ID != 1 || ds[0].Decision.Summary != "begins" || len(ds[0].Snapshot.Devices) != 2 || !ds[0].At.Equal(now) {
		t.Fatalf("%+v, %v", ds, err)
	}
}

func generations(t *testing.T, s dispatch.Store) {
	create(t, s, "r")
	other := topic.ID{Site: "hall-1", Node: "pump-2"}
	for i := range 3 {
		c := dispatch.Commit{Holder: "a", Now: now, Rollout: sample("r"), Version: uint64(i + 1), Desired: []twin.Desired{{Schema: 1, Site: dev.Site, Node: dev.Node}}}
		if i == 2 {
			c.Desired = append(c.Desired, twin.Desired{Schema: 1, Site: other.Site, Node: other.Node})
		}
		if _, err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[topic.ID]uint64{dev: 3, other: 1} {
		if d, ok, err := s.Desired(t.Context(), id); err != nil || !ok || d.Generation != want {
			t.Fatalf("%s: generation %d, %t, %v; want %d", id, d.Generation, ok, err, want)
		}
	}
}

func unpublished(t *testing.T, s dispatch.Store) {
	ctx := t.Context()
	create(t, s, "r")
	ids := []topic.ID{dev, {Site: "hall-1", Node: "pump-2"}, {Site: "hall-1", Node: "pump-3"}}
	for i, id := range []topic.ID{ids[0], ids[1], ids[0], ids[2]} {
		c := dispatch.Commit{Holder: "a", Now: now.Add(time.Duration(i) * time.Second), Rollout: sample("r"), Version: uint64(i + 1), Desired: []twin.Desired{{Schema: 1, Site: id.Site, Node: id.Node}}}
		if _, err := s.Commit(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	want := func(limit int, nodes ...string) {
		t.Helper()
		docs, err := s.Unpublished(ctx, limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range docs {
			got = append(got, fmt.Sprintf("%s@%d", d.Node, d.Generation))
		}
		if fmt.Sprint(got) != fmt.Sprint(nodes) {
			t.Fatalf("unpublished %v, want %v", got, nodes)
		}
	}
	want(10, "pump-2@1", "pump-1@2", "pump-3@1")
	want(2, "pump-2@1", "pump-1@2")
	// pump-1 has a newer one.
	if err := s.Published(ctx, []twin.Desired{{Site: "hall-1", Node: "pump-1", Generation: 1}, {Site: "hall-1", Node: "pump-2", Generation: 1}}); err != nil {
		t.Fatal(err)
	}
	want(10, "pump-1@2", "pump-3@1")
}

func decisions(t *testing.T, s dispatch.Store) {
	create(t, s, "r")
	for i := range 5 {
		id, err := s.Commit(t.Context(), dispatch.Commit{Holder: "a", Now: now, Rollout: sample("r"), Version: uint64(i + 1), Decision: &dispatch.Stored{Rollout: "r", At: now}})
		if err != nil || id != uint64(i+1) {
			t.Fatalf("id %d, %v", id, err)
		}
	}
	for _, tc := range []struct {
		before uint64
		limit  int
		want   string
	}{{0, 0, "[5 4 3 2 1]"}, {0, 2, "[5 4]"}, {4, 2, "[3 2]"}, {1, 2, "[]"}} {
		ds, err := s.Decisions(t.Context(), "r", tc.before, tc.limit)
		if err != nil {
			t.Fatal(err)
		}
		ids := []uint64{}
		for _, d := range ds {
			ids = append(ids, d.ID)
		}
		if fmt.Sprint(ids) != tc.want {
			t.Errorf("before %d limit %d: %v, want %s", tc.before, tc.limit, ids, tc.want)
		}
	}
}

func race(t *testing.T, s dispatch.Store) {
	create(t, s, "r")
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := s.Commit(context.WithoutCancel(t.Context()), dispatch.Commit{Holder: "a", Now: now, Rollout: sample("r"), Version: 1, Desired: []twin.Desired{{Schema: 1, Site: dev.Site, Node: dev.Node}}})
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, dispatch.ErrConflict) {
				t.Errorf("error %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d commits succeeded", won.Load())
	}
	if d, ok, err := s.Desired(t.Context(), dev); err != nil || !ok || d.Generation != 1 {
		t.Fatalf("generation %d, %t, %v", d.Generation, ok, err)
	}
}

func orders(t *testing.T, s dispatch.Store) {
	ctx := t.Context()
	if o, v, err := s.Orders(ctx); err != nil || v != 0 || len(o.Freezes)+len(o.Quarantined) != 0 {
		t.Fatalf("of an empty store: %+v, version %d, %v", o, v, err)
	}
	first := rollout.Orders{
		Freezes:     []rollout.Freeze{{Name: "stocktaking", Selector: "line=L1", From: now, Until: now.Add(time.Hour), By: "user:ada", Reason: "inventory"}},
		Quarantined: []rollout.Quarantine{{Manifest: rollouttest.Release(2).Manifest, Release: "pump-anomaly-2", By: "user:bob", Reason: "false flags", At: now}},
	}
	if err := s.SaveOrders(ctx, first, 1); !errors.Is(err, dispatch.ErrConflict) {
		t.Fatalf("over a version that never was: %v", err)
	}
	if err := s.SaveOrders(ctx, first, 0); err != nil {
		t.Fatal(err)
	}
	if o, v, err := s.Orders(ctx); err != nil || v != 1 || !reflect.DeepEqual(o, first) {
		t.Fatalf("came back as %+v, version %d, %v", o, v, err)
	}
	if err := s.SaveOrders(ctx, rollout.Orders{}, 0); !errors.Is(err, dispatch.ErrConflict) {
		t.Fatalf("a second first: %v", err)
	}
	if err := s.SaveOrders(ctx, rollout.Orders{Freezes: first.Freezes}, 1); err != nil {
		t.Fatal(err)
	}
	if o, v, err := s.Orders(ctx); err != nil || v != 2 || len(o.Quarantined) != 0 {
		t.Fatalf("after the change: %+v, version %d, %v", o, v, err)
	}
	if err := s.SaveOrders(ctx, first, 1); !errors.Is(err, dispatch.ErrConflict) {
		t.Fatalf("on an old version: %v", err)
	}
}

func changed(t *testing.T, s dispatch.Store) {
	create(t, s, "r-1")
	create(t, s, "r-2")
	if _, err := s.Commit(t.Context(), dispatch.Commit{Now: now, Rollout: sample("r-1"), Version: 1}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Versions(t.Context()); err != nil || !reflect.DeepEqual(v, map[string]uint64{"r-1": 2, "r-2": 1}) {
		t.Fatalf("%v, %v", v, err)
	}
}

// outside stands for everything beside the store.
type outside struct{}

func (outside) Devices(context.Context) ([]rollout.Device, error) { return nil, nil }
func (outside) Since(context.Context, uint64) ([]rollout.Device, []topic.ID, uint64, bool, error) {
	return nil, nil, 0, false, nil
}
func (outside) Publish(context.Context, twin.Desired) error  { return nil }
func (outside) Append(context.Context, dispatch.Event) error { return nil }

// Evidence returns what a dispatcher reads back of a decision's evidence.
func Evidence(t *testing.T, s dispatch.Store, name string, id uint64) (rollout.Snapshot, error) {
	t.Helper()
	d, err := dispatch.New(dispatch.Config{Holder: "reader", Store: s, Fleet: outside{}, Publisher: outside{}, Ledger: outside{}})
	if err != nil {
		t.Fatal(err)
	}
	return d.Evidence(t.Context(), name, id)
}

func evidence(t *testing.T, s dispatch.Store) {
	create(t, s, "r")
	fleet := rollouttest.Fleet(4, 1, nil, now)
	lost, moved, back := fleet[3], fleet[1], fleet[3]
	moved.WindowsScored, moved.Record = 7, rollout.Record{Wave: 1, Offer: rollout.OfferRelease, OfferedAt: now}
	back.SeenAt = now.Add(time.Hour)
	frozen := rollout.Orders{Freezes: []rollout.Freeze{{Name: "f", By: "user:ada", Reason: "inventory"}}}
	steps := []dispatch.Stored{
		{Actor: "user:ada", Snapshot: rollout.Snapshot{Devices: fleet}},
		{Delta: true, Snapshot: rollout.Snapshot{Devices: []rollout.Device{moved}, Orders: frozen}},
		{Delta: true, Gone: []topic.ID{lost.ID}},
		{Delta: true, Actor: "user:ada"},
		{Delta: true, Snapshot: rollout.Snapshot{Devices: []rollout.Device{back}}},
		{Snapshot: rollout.Snapshot{Devices: fleet[:1]}},
		{Delta: true, Snapshot: rollout.Snapshot{Devices: []rollout.Device{back}}},
	}
	want := []rollout.Snapshot{
		{Devices: fleet},
		{Devices: []rollout.Device{fleet[0], moved, fleet[2], lost}, Orders: frozen},
		{Devices: []rollout.Device{fleet[0], moved, fleet[2]}},
		{Devices: []rollout.Device{fleet[0], moved, fleet[2]}},
		{Devices: []rollout.Device{fleet[0], moved, fleet[2], back}},
		{Devices: fleet[:1]},
		{Devices: []rollout.Device{fleet[0], back}},
	}
	for i := range steps {
		steps[i].Rollout, steps[i].At = "r", now
		if _, err := s.Commit(t.Context(), dispatch.Commit{Now: now, Rollout: sample("r"), Version: uint64(i + 1), Decision: &steps[i]}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range want {
		got, err := Evidence(t, s, "r", uint64(i+1))
		if err != nil || !reflect.DeepEqual(got, want[i]) {
			t.Errorf("decision %d: %+v, want %+v, %v", i+1, got, want[i], err)
		}
	}
	if _, err := Evidence(t, s, "r", 8); !errors.Is(err, dispatch.ErrNoEvidence) {
		t.Errorf("a decision that was never taken: %v", err)
	}
}
