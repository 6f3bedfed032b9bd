package hub

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/cloud/store/sqlite"
)

func TestAModelsStageFollowsItsRollout(t *testing.T) {
	ctx := t.Context()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &Hub{db: db, stream: api.NewStream()}
	t.Cleanup(h.stream.Close)
	now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	for n := range uint64(3) {
		v := registry.Version{Family: "pump-anomaly", Counter: n + 1, Stage: registry.Released, Created: now}
		v.Lineage.Run = fmt.Sprint("run-", n)
		if err := db.Registry().SaveVersion(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	waves := []rollout.Wave{{Name: "all"}}
	rolls := map[uint64]rollout.Rollout{}
	versions := map[uint64]uint64{}
	to := func(n uint64, s rollout.State, wave int) {
		t.Helper()
		r, before := rolls[n], rolls[n].State
		r.Name, r.Release, r.Policy.Waves, r.Created = fmt.Sprint("r-", n), rollouttest.Release(n), waves, now
		if n > 1 {
			previous := rollouttest.Release(n - 1)
			r.Previous = &previous
		}
		r.State, r.Wave, r.Reason = s, wave, string(s)
		c := dispatch.Commit{Now: now, Rollout: r, Version: versions[n], Decision: &dispatch.Stored{Before: before}}
		if _, err := (watched{db.Dispatch(), h}).Commit(ctx, c); err != nil {
			t.Fatal(err)
		}
		rolls[n], versions[n] = r, versions[n]+1
	}
	want := func(after string, stages ...registry.Stage) {
		t.Helper()
		for i, stage := range stages {
			if v, err := db.Registry().Version(ctx, "pump-anomaly", uint64(i+1)); err != nil || v.Stage != stage {
				t.Fatalf("%s: version %d is %s, want %s, %v", after, i+1, v.Stage, stage, err)
			}
		}
	}
	to(1, rollout.Running, 0)
	to(1, rollout.Promoted, 1)
	want("1 was promoted", registry.Promoted, registry.Released, registry.Released)
	to(2, rollout.Running, 0)
	to(2, rollout.RollingBack, 0)
	want("2 goes back", registry.Promoted, registry.Released, registry.Released)
	to(2, rollout.Failed, 0)
	want("2 failed", registry.Promoted, registry.RolledBack, registry.Released)
	to(2, rollout.Running, 0) // tried once more
	to(2, rollout.Promoted, 1)
	want("2 was promoted", registry.Superseded, registry.Promoted, registry.Released)
	to(2, rollout.RollingBack, 1)
	want("2 is undone", registry.Promoted, registry.RolledBack, registry.Released)
	to(2, rollout.Aborted, 1)
	want("2 was undone", registry.Promoted, registry.RolledBack, registry.Released)

	// A hub that dies between its commit and the registry leaves it behind.
	r := rolls[1]
	r.Name, r.Release, r.State = "r-3", rollouttest.Release(3), rollout.Promoted
	if _, err := db.Dispatch().Commit(ctx, dispatch.Commit{Now: now, Rollout: r}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // every start
		if err := h.settle(ctx); err != nil {
			t.Fatal(err)
		}
		want("the next start", registry.Superseded, registry.RolledBack, registry.Promoted)
	}
}
