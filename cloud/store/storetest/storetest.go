// Package storetest runs every package's Exercise against a store, and finds a
// PostgreSQL server for tests. Tests of the store and of the hub import it.
package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/auth/authtest"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/dispatch/dispatchtest"
	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/enroll/enrolltest"
	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/feedback/feedbacktest"
	"github.com/swellfleet/swell/cloud/fleet/fleettest"
	"github.com/swellfleet/swell/cloud/registry/registrytest"
	"github.com/swellfleet/swell/cloud/release/releasetest"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/cloud/store"
)

// Exercise runs every promise of the store; open returns a fresh one each time.
func Exercise(t *testing.T, open func(*testing.T) *store.DB) {
	t.Run("people", func(t *testing.T) { authtest.Exercise(t, open(t).Auth()) })
	t.Run("devices", func(t *testing.T) { fleettest.Exercise(t, open(t).Fleet()) })
	t.Run("enrolment", func(t *testing.T) {
		enrolltest.Exercise(t, func(t *testing.T) enroll.Store { return open(t).Enroll() })
	})
	t.Run("rollouts", func(t *testing.T) {
		dispatchtest.Exercise(t, func(t *testing.T) dispatch.Store { return open(t).Dispatch() })
	})
	t.Run("releases", func(t *testing.T) { releasetest.Exercise(t, open(t).Releases()) })
	t.Run("models", func(t *testing.T) { registrytest.Exercise(t, open(t).Registry()) })
	t.Run("feedback", func(t *testing.T) {
		feedbacktest.Exercise(t, func(t *testing.T) feedback.Store { return open(t).Feedback() })
	})
	t.Run("objects", func(t *testing.T) { exerciseObjects(t, open(t)) })
	t.Run("answers", func(t *testing.T) { exerciseAnswers(t, open(t)) })
}

func exerciseObjects(t *testing.T, db *store.DB) {
	ctx := t.Context()
	now := time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)
	put := func(name, doc string, version uint64, at time.Time) (store.Object, error) {
		return db.PutObject(ctx, store.Object{Kind: "Policy", Name: name, Version: version, Doc: []byte(doc)}, at)
	}
	if _, err := db.Object(ctx, "Policy", "night"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an object that is not there: %v, want ErrNotFound", err)
	}
	first, err := put("night", `{"a":1}`, 0, now)
	if err != nil || first.Version != 1 || !first.Created.Equal(now) {
		t.Fatalf("first version: %+v, %v", first, err)
	}
	if _, err := put("night", `{"a":9}`, 7, now); !errors.Is(err, store.ErrChanged) {
		t.Errorf("storing over another version: %v, want ErrChanged", err)
	}
	if _, err := put("new", `{}`, 1, now); !errors.Is(err, store.ErrChanged) {
		t.Errorf("storing a version of what is gone: %v, want ErrChanged", err)
	}
	second, err := put("night", `{"a":2}`, 1, now.Add(time.Hour))
	if err != nil || second.Version != 2 || !second.Created.Equal(now) || !second.Updated.Equal(now.Add(time.Hour)) {
		t.Errorf("second version: %+v, %v", second, err)
	}
	if got, err := db.Object(ctx, "Policy", "night"); err != nil || string(got.Doc) != `{"a":2}` {
		t.Errorf("came back as %+v, %v", got, err)
	}
	for _, name := range []string{"c", "b"} {
		if _, err := put(name, "{}", 0, now); err != nil {
			t.Fatal(err)
		}
	}
	page, err := db.Objects(ctx, "Policy", "b", 1)
	if err != nil || len(page) != 1 || page[0].Name != "c" {
		t.Errorf("page after b: %+v, %v", page, err)
	}
	if other, err := db.Objects(ctx, "Other", "", 0); err != nil || len(other) != 0 {
		t.Errorf("objects of another kind: %+v, %v", other, err)
	}
}

func exerciseAnswers(t *testing.T, db *store.DB) {
	ctx := t.Context()
	now := time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)
	a := store.Answer{Request: [32]byte{1}, Status: 201, Body: []byte(`{"x":1}`)}
	if _, ok, err := db.Answer(ctx, "user:ada", "k", now); ok || err != nil {
		t.Errorf("an answer nobody gave: %t, %v", ok, err)
	}
	if err := db.SaveAnswer(ctx, "user:ada", "k", a, now, now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := db.SaveAnswer(ctx, "user:ada", "k", store.Answer{Status: 500}, now, now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	got, ok, err := db.Answer(ctx, "user:ada", "k", now.Add(-time.Hour))
	if err != nil || !ok || got.Request != a.Request || got.Status != 201 || string(got.Body) != string(a.Body) {
		t.Errorf("the first answer came back as %+v, %t, %v", got, ok, err)
	}
	if _, ok, _ := db.Answer(ctx, "user:bob", "k", now.Add(-time.Hour)); ok {
		t.Error("somebody else's key was answered")
	}
	if _, ok, _ := db.Answer(ctx, "user:ada", "k", now.Add(time.Second)); ok {
		t.Error("an answer older than asked for came back")
	}
	if err := db.SaveAnswer(ctx, "user:ada", "k2", a, now.Add(48*time.Hour), now.Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := db.Answer(ctx, "user:ada", "k", now.Add(-time.Hour)); ok {
		t.Error("an old answer was not forgotten")
	}
}

// Upgrade runs a database of a hub before standing orders, feedback and evidence by
// changes through this hub's migrations. open opens the same database each
// time, and exec changes it behind the store's back.
func Upgrade(t *testing.T, open func(*testing.T) *store.DB, exec func(t *testing.T, statement string)) {
	now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	whole := rollout.Snapshot{Devices: rollouttest.Fleet(3, 1, nil, now)}
	db := open(t)
	r := rollout.Rollout{Name: "r-1", Release: rollouttest.Release(1), State: rollout.Running, Created: now}
	for i, d := range []dispatch.Stored{
		{Actor: "user:ada", Snapshot: whole}, {Snapshot: whole}, {Actor: "user:bob"}, // as that hub stored them
	} {
		d.Rollout, d.At = r.Name, now
		if _, err := db.Dispatch().Commit(t.Context(), dispatch.Commit{Now: now, Rollout: r, Version: uint64(i), Decision: &d}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"DROP TABLE rollout_orders", "DROP TABLE frames", "DROP TABLE labels", "DROP TABLE lineage", "DROP TABLE collections", "DELETE FROM schema_version WHERE version > 1"} {
		exec(t, statement)
	}
	db = open(t)
	t.Cleanup(func() { db.Close() })
	s := db.Dispatch()
	if l, err := s.Load(t.Context(), "r-1"); err != nil || l.Version != 3 {
		t.Fatalf("version %d, %v", l.Version, err)
	}
	for id := range uint64(3) {
		if seen, err := dispatchtest.Evidence(t, s, "r-1", id+1); err != nil || len(seen.Devices) != 3 {
			t.Errorf("the evidence of decision %d has %d devices, %v", id+1, len(seen.Devices), err)
		}
	}
	if _, version, err := s.Orders(t.Context()); err != nil || version != 0 {
		t.Errorf("orders of version %d, %v", version, err)
	}
	if err := s.SaveOrders(t.Context(), rollout.Orders{Freezes: []rollout.Freeze{{Name: "f"}}}, 0); err != nil {
		t.Error(err)
	}
}
