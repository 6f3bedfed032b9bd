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
}
