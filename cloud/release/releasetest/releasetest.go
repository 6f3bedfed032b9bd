// Package releasetest holds what tests of releases share: the one Exercise that
// every release.Store passes, and a store in memory.
package releasetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Exercise checks a store that starts empty.
func Exercise(t *testing.T, s release.Store) {
	t.Helper()
	t.Run("counters start at one, rise by one and are separate for each name", func(t *testing.T) {
		for want := uint64(1); want <= 3; want++ {
			if got, err := s.NextCounter(t.Context(), "counted"); err != nil || got != want {
				t.Fatalf("counter %d, %v; want %d", got, err, want)
			}
		}
		if got, err := s.NextCounter(t.Context(), "counted-too"); err != nil || got != 1 {
			t.Fatalf("counter of another name %d, %v; want 1", got, err)
		}
	})
	t.Run("counters taken at once are all different", func(t *testing.T) {
		const n = 16
		taken := make(chan uint64, n)
		for range n {
			go func() {
				c, err := s.NextCounter(t.Context(), "raced")
				if err != nil {
					t.Error(err)
				}
				taken <- c
			}()
		}
		seen := map[uint64]bool{}
		for range n {
			c := <-taken
			if seen[c] || c < 1 || c > n {
				t.Errorf("counter %d twice or out of 1 to %d", c, n)
			}
			seen[c] = true
		}
	})
	t.Run("a release comes back as it was saved", func(t *testing.T) {
		want := Release(1, "run-1")
		for range 2 { // saving twice is no error
			if err := s.SaveRelease(t.Context(), want); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.LoadRelease(t.Context(), want.Digest)
		if err != nil || !same(got, want) {
			t.Fatalf("loaded %+v, %v; want %+v", got, err, want)
		}
	})
	t.Run("an unknown digest or run is ErrNotFound", func(t *testing.T) {
		if _, err := s.LoadRelease(t.Context(), artifact.Of([]byte("nothing"))); !errors.Is(err, release.ErrNotFound) {
			t.Errorf("load: %v", err)
		}
		if _, err := s.ReleaseOfRun(t.Context(), "pump-anomaly", "no-such-run"); !errors.Is(err, release.ErrNotFound) {
			t.Errorf("of run: %v", err)
		}
		if _, err := s.ReleaseOfRun(t.Context(), "another-name", "run-1"); !errors.Is(err, release.ErrNotFound) {
			t.Errorf("of run of another name: %v", err)
		}
	})
	t.Run("a name's releases are listed newest first and found by their run", func(t *testing.T) {
		for c := uint64(2); c <= 3; c++ {
			if err := s.SaveRelease(t.Context(), Release(c, fmt.Sprintf("run-%d", c))); err != nil {
				t.Fatal(err)
			}
		}
		list, err := s.ListReleases(t.Context(), "pump-anomaly")
		if err != nil || len(list) != 3 {
			t.Fatalf("%d releases, %v; want 3", len(list), err)
		}
		for i, r := range list {
			if !same(r, Release(uint64(3-i), fmt.Sprintf("run-%d", 3-i))) {
				t.Errorf("place %d holds %s", i, r.Manifest.ID())
			}
		}
		if list, err := s.ListReleases(t.Context(), "another-name"); err != nil || len(list) != 0 {
			t.Errorf("another name has %d releases, %v", len(list), err)
		}
		if r, err := s.ReleaseOfRun(t.Context(), "pump-anomaly", "run-2"); err != nil || r.Manifest.Counter != 2 {
			t.Errorf("run-2 gave %s, %v", r.Manifest.ID(), err)
		}
	})
}

// Release returns a record of the family "pump-anomaly" for tests.
func Release(counter uint64, run string) release.Release {
	m := artifact.Manifest{
		Schema: 1, Kind: artifact.Model, Name: "pump-anomaly", Counter: counter,
		Created: time.Date(2026, 11, 22, 3, 0, int(counter), 0, time.UTC),
		Variants: []artifact.Variant{{
			Classes: []artifact.Class{"pump"},
			Files:   []artifact.File{{Path: "model.onnx", Digest: artifact.Of([]byte("model")), Size: 5, Role: artifact.RoleModel}},
		}},
		Lineage: artifact.Lineage{Run: run},
	}
	b, err := m.Encode()
	if err != nil {
		panic(err)
	}
	d := artifact.Of(b)
	return release.Release{Manifest: m, Digest: d, Key: "releases/" + d.Hex() + "/", Event: counter}
}

// same compares by the manifests' bytes, since a time may come back from a
// store with another location pointer.
func same(a, b release.Release) bool {
	x, errA := a.Manifest.Encode()
	y, errB := b.Manifest.Encode()
	return errA == nil && errB == nil && string(x) == string(y) && a.Digest == b.Digest && a.Key == b.Key && a.Event == b.Event
}

// Memory is a release.Store that forgets at exit. The zero value is ready.
type Memory struct {
	mu       sync.Mutex
	counters map[string]uint64
	releases []release.Release
}

// NextCounter implements release.Store.
func (m *Memory) NextCounter(_ context.Context, name string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counters == nil {
		m.counters = map[string]uint64{}
	}
	m.counters[name]++
	return m.counters[name], nil
}

// SaveRelease implements release.Store.
func (m *Memory) SaveRelease(_ context.Context, r release.Release) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.releases, func(o release.Release) bool { return o.Digest == r.Digest }) {
		m.releases = append(m.releases, r)
	}
	return nil
}

// LoadRelease implements release.Store.
func (m *Memory) LoadRelease(_ context.Context, d artifact.Digest) (release.Release, error) {
	return m.find(func(r release.Release) bool { return r.Digest == d })
}

// ReleaseOfRun implements release.Store.
func (m *Memory) ReleaseOfRun(_ context.Context, name, run string) (release.Release, error) {
	return m.find(func(r release.Release) bool { return r.Manifest.Name == name && r.Manifest.Lineage.Run == run })
}

func (m *Memory) find(want func(release.Release) bool) (release.Release, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.IndexFunc(m.releases, want); i >= 0 {
		return m.releases[i], nil
	}
	return release.Release{}, release.ErrNotFound
}

// ListReleases implements release.Store.
func (m *Memory) ListReleases(_ context.Context, name string) ([]release.Release, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []release.Release
	for _, r := range m.releases {
		if r.Manifest.Name == name {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b release.Release) int {
		return int(int64(b.Manifest.Counter) - int64(a.Manifest.Counter))
	})
	return list, nil
}
