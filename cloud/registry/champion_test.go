package registry_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/protocol/artifact"
)

// shelf is a registry with the versions 1, 2, … of family pumps, each with
// models for the classes named.
func shelf(t *testing.T, versions ...[]artifact.Class) *registry.Memory {
	t.Helper()
	m := &registry.Memory{}
	for i, classes := range versions {
		v := registry.Version{Family: "pumps", Counter: uint64(i + 1), Stage: registry.Released}
		for _, c := range classes {
			v.Models = append(v.Models, registry.Model{Classes: []artifact.Class{c}, Digest: artifact.Of([]byte{byte(i), c[0]})})
		}
		if err := m.SaveVersion(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func promote(t *testing.T, s registry.Store, counter uint64) {
	t.Helper()
	if err := registry.Promote(t.Context(), s, "pumps", counter, "test"); err != nil {
		t.Fatal(err)
	}
}

// powerless loses its power before the change of stage that left counts down to.
type powerless struct {
	registry.Store
	left int
}

func (p *powerless) SetStage(ctx context.Context, family string, counter uint64, stage registry.Stage, reason string) error {
	if p.left == 0 {
		return errPower
	}
	p.left--
	return p.Store.SetStage(ctx, family, counter, stage, reason)
}

func TestAFamilyIsNeverWithoutItsChampionWhileAnotherIsPromoted(t *testing.T) {
	for left := range 3 {
		m := shelf(t, []artifact.Class{"a"}, []artifact.Class{"a"})
		promote(t, m, 1)
		err := registry.Promote(t.Context(), &powerless{m, left}, "pumps", 2, "test")
		if want := left < 2; errors.Is(err, errPower) != want {
			t.Errorf("power for %d changes: %v", left, err)
		}
		if c, err := registry.Champion(t.Context(), m, "pumps"); err != nil || c.Counter == 0 {
			t.Errorf("power for %d changes left no champion: %v", left, err)
		}
		promote(t, m, 2) // the hub starts again
		old, err := m.Version(t.Context(), "pumps", 1)
		if c, _ := registry.Champion(t.Context(), m, "pumps"); err != nil || c.Counter != 2 || old.Stage != registry.Superseded {
			t.Errorf("champion %d, the one before it is %s, %v", c.Counter, old.Stage, err)
		}
	}
}

func TestPromotingWhatIsNotThereLeavesTheChampion(t *testing.T) {
	m := shelf(t, []artifact.Class{"a"})
	promote(t, m, 1)
	if err := registry.Promote(t.Context(), m, "pumps", 9, "test"); !errors.Is(err, registry.ErrNoVersion) {
		t.Errorf("promoted a version that is not there: %v", err)
	}
	if c, err := registry.Champion(t.Context(), m, "pumps"); err != nil || c.Counter != 1 {
		t.Errorf("champion %d, %v", c.Counter, err)
	}
}

func TestAClassThatAReleaseLeftOutKeepsItsChampion(t *testing.T) {
	m := shelf(t, []artifact.Class{"a", "b"}, []artifact.Class{"a"}, []artifact.Class{"a", "b", "c"})
	if _, err := registry.ChampionFor(t.Context(), m, "pumps", "a"); !errors.Is(err, registry.ErrNoVersion) {
		t.Errorf("nothing was promoted: %v", err)
	}
	promote(t, m, 1)
	promote(t, m, 2)
	for class, want := range map[artifact.Class]uint64{"a": 2, "b": 1, "c": 0} { // 3 is only released
		v, err := registry.ChampionFor(t.Context(), m, "pumps", class)
		if v.Counter != want || errors.Is(err, registry.ErrNoVersion) != (want == 0) {
			t.Errorf("champion of %s is version %d (%v), want %d", class, v.Counter, err, want)
		}
	}
	if err := m.SetStage(t.Context(), "pumps", 2, registry.RolledBack, "test"); err != nil {
		t.Fatal(err)
	}
	promote(t, m, 1)
	if v, err := registry.ChampionFor(t.Context(), m, "pumps", "a"); v.Counter != 1 || err != nil {
		t.Errorf("after the way back the champion is version %d, %v", v.Counter, err)
	}
}

func TestACollectionKeepsTheChampionOfEveryClass(t *testing.T) {
	h := newHouse()
	for i, classes := range [][]artifact.Class{{"a"}, {"a", "b"}, {"a"}, {"a"}, {"a"}} {
		v := registry.Version{Family: "pumps", Counter: uint64(i + 1), Stage: registry.Released, Created: h.now, Release: artifact.Of([]byte{byte(i)})}
		for _, c := range classes {
			d := artifact.Of([]byte{byte(i), c[0]})
			v.Models = append(v.Models, registry.Model{Classes: []artifact.Class{c}, Digest: d})
			h.put("models/"+d.Hex()+".onnx", "model")
		}
		if err := h.store.SaveVersion(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		promote(t, h.store, v.Counter)
	}
	h.now = h.now.Add(1000 * time.Hour)
	if _, err := h.collector().Collect(t.Context(), registry.Keep{Versions: 1, Age: 24 * time.Hour, By: "test"}); err != nil {
		t.Fatal(err)
	}
	for class, want := range map[artifact.Class]uint64{"a": 5, "b": 2} {
		v, err := registry.ChampionFor(t.Context(), h.store, "pumps", class)
		if err != nil || v.Counter != want {
			t.Errorf("champion of %s is version %d (%v), want %d", class, v.Counter, err, want)
			continue
		}
		m, _ := v.ModelFor(class)
		if _, err := h.bucket.Stat(t.Context(), "models/"+m.Digest.Hex()+".onnx"); err != nil {
			t.Errorf("the model of the champion of %s is gone: %v", class, err)
		}
	}
	if v, err := h.store.Version(t.Context(), "pumps", 3); err != nil || v.Stage != registry.Collected {
		t.Errorf("version 3 is %s (%v), want it collected", v.Stage, err)
	}
}

func TestACollectionLeavesTheModelsOfANightThatBeganMeanwhile(t *testing.T) {
	h := newHouse()
	d := artifact.Of([]byte("a model of long ago"))
	h.put("models/"+d.Hex()+".onnx", "a model of long ago")
	h.put("models/cache/entry.json", `{"digest":"`+string(d)+`"}`)
	h.now = h.now.Add(1000 * time.Hour)
	looks := 0
	c := h.collector()
	needs := c.Needs
	c.Needs = func(ctx context.Context) (registry.Needs, error) {
		n, err := needs(ctx)
		looks++
		n.Night = looks > 2 // it found the entry just before that was removed
		return n, err
	}
	if _, err := c.Collect(t.Context(), registry.Keep{Versions: 1, Age: 24 * time.Hour, By: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.bucket.Stat(t.Context(), "models/"+d.Hex()+".onnx"); err != nil {
		t.Errorf("the night's model is gone: %v", err)
	}
}
