// Package registrytest holds the one test that every registry.Store passes. It
// is imported by tests of the stores only.
package registrytest

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Exercise runs every promise of registry.Store against a fresh store.
func Exercise(t *testing.T, s registry.Store) {
	t.Helper()
	ctx := t.Context()
	v := func(family string, counter uint64) registry.Version {
		return registry.Version{
			Family: family, Counter: counter, Release: artifact.Of([]byte{byte(counter)}), Stage: registry.Released,
			Created: time.Date(2026, 11, int(counter), 2, 0, 0, 0, time.UTC), Card: "a card",
			Lineage: registry.Lineage{Lineage: artifact.Lineage{Run: "night-" + family, Seed: 7}, Segments: 3, Devices: 2},
			Models:  []registry.Model{{Classes: []artifact.Class{"pump"}, Kind: "pca", Threshold: 1.5, Metrics: map[string]float64{"flag_share": 0.01}}},
		}
	}
	if _, err := registry.Champion(ctx, s, "pump"); !errors.Is(err, registry.ErrNoVersion) {
		t.Fatalf("champion of an empty family: %v, want ErrNoVersion", err)
	}
	for c := uint64(1); c <= 5; c++ {
		if err := s.SaveVersion(ctx, v("pump", c)); err != nil {
			t.Fatalf("save version %d: %v", c, err)
		}
	}
	if err := s.SaveVersion(ctx, v("fan", 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveVersion(ctx, v("pump", 3)); err != nil {
		t.Errorf("saving the same version again: %v", err)
	}
	got, err := s.Version(ctx, "pump", 2)
	if err != nil || !reflect.DeepEqual(got, v("pump", 2)) {
		t.Errorf("version 2 came back as %+v, %v", got, err)
	}
	if _, err := s.Version(ctx, "pump", 9); !errors.Is(err, registry.ErrNoVersion) {
		t.Errorf("version 9: %v, want ErrNoVersion", err)
	}
	page, err := s.Versions(ctx, "pump", 4, 2)
	if err != nil || len(page) != 2 || page[0].Counter != 3 || page[1].Counter != 2 {
		t.Errorf("versions before 4: %+v, %v", page, err)
	}
	if fs, err := s.Families(ctx); err != nil || !reflect.DeepEqual(fs, []string{"fan", "pump"}) {
		t.Errorf("families %v, %v", fs, err)
	}
	for _, c := range []uint64{2, 4} {
		if err := registry.Promote(ctx, s, "pump", c, "all waves passed"); err != nil {
			t.Fatal(err)
		}
		if champ, err := registry.Champion(ctx, s, "pump"); err != nil || champ.Counter != c || champ.Reason != "all waves passed" {
			t.Errorf("champion %+v, %v, want %d", champ, err, c)
		}
	}
	if old, _ := s.Version(ctx, "pump", 2); old.Stage != registry.Superseded {
		t.Errorf("version 2 is %s, want superseded", old.Stage)
	}
	if err := s.SetStage(ctx, "pump", 9, registry.RolledBack, ""); !errors.Is(err, registry.ErrNoVersion) {
		t.Errorf("stage of a version that is not there: %v, want ErrNoVersion", err)
	}
	exerciseLineage(t, s)
}

func exerciseLineage(t *testing.T, s registry.Store) {
	t.Helper()
	ctx := t.Context()
	var from []registry.Source
	for i := range 1200 { // more than one statement's worth
		from = append(from, registry.Source{Kind: registry.FromSegment, Digest: artifact.Of([]byte{byte(i), byte(i >> 8)})})
	}
	frame := registry.Source{Kind: registry.FromFrame, Digest: artifact.Of([]byte("frame"))}
	for _, c := range []struct {
		counter uint64
		from    []registry.Source
	}{{1, from}, {2, append([]registry.Source{frame}, from[:3]...)}, {2, from[:3]}} {
		if err := s.SaveSources(ctx, "pump", c.counter, c.from); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SaveSources(ctx, "fan", 1, from[2:3]); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sources(ctx, "pump", 2); err != nil || !reflect.DeepEqual(n, map[registry.SourceKind]int{registry.FromFrame: 1, registry.FromSegment: 3}) {
		t.Errorf("sources of version 2: %v, %v", n, err)
	}
	if n, err := s.Sources(ctx, "pump", 5); err != nil || len(n) != 0 {
		t.Errorf("sources of a version without: %v, %v", n, err)
	}
	for name, c := range map[string]struct {
		d    artifact.Digest
		want []registry.VersionRef
	}{
		"of a segment of all": {from[2].Digest, []registry.VersionRef{{Family: "fan", Counter: 1}, {Family: "pump", Counter: 2}, {Family: "pump", Counter: 1}}},
		"of an old segment":   {from[1199].Digest, []registry.VersionRef{{Family: "pump", Counter: 1}}},
		"of a frame":          {frame.Digest, []registry.VersionRef{{Family: "pump", Counter: 2}}},
		"of nothing":          {artifact.Of([]byte("never")), nil},
	} {
		if got, err := s.ReleasesOf(ctx, c.d); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("releases %s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	for i := range 3 {
		if err := s.SaveCollection(ctx, registry.Collection{At: time.Date(2026, 11, 20+i, 3, 0, 0, 0, time.UTC), By: "hub", Kinds: []registry.CollectedKind{{Kind: "models", Removed: i}}}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Collections(ctx, 2); err != nil || len(got) != 2 || got[0].Kinds[0].Removed != 2 || got[1].Kinds[0].Removed != 1 {
		t.Errorf("newest collections %+v, %v", got, err)
	}
}
