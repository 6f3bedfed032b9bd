package registry

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/swellfleet/swell/protocol/artifact"
)

// Memory is a Store for tests and for a hub that keeps nothing. The zero value
// is ready.
type Memory struct {
	mu sync.Mutex
	vs map[string][]Version // by family, ascending counter

	sources     map[VersionRef]map[Source]bool
	collections []Collection // oldest first
}

// SaveVersion implements Store.
func (m *Memory) SaveVersion(_ context.Context, v Version) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, have := range m.vs[v.Family] {
		if have.Counter == v.Counter && have.Lineage.Run == v.Lineage.Run {
			return nil
		}
	}
	if m.vs == nil {
		m.vs = map[string][]Version{}
	}
	m.vs[v.Family] = append(m.vs[v.Family], v)
	slices.SortFunc(m.vs[v.Family], func(a, b Version) int { return int(a.Counter) - int(b.Counter) })
	return nil
}

// Version implements Store.
func (m *Memory) Version(_ context.Context, family string, counter uint64) (Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.vs[family] {
		if v.Counter == counter {
			return v, nil
		}
	}
	return Version{}, fmt.Errorf("%s-%d: %w", family, counter, ErrNoVersion)
}

// Versions implements Store.
func (m *Memory) Versions(_ context.Context, family string, before uint64, limit int) ([]Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Version
	for _, v := range slices.Backward(m.vs[family]) {
		if v.Counter > 0 && (before == 0 || v.Counter < before) && len(out) < limit {
			out = append(out, v)
		}
	}
	return out, nil
}

// Families implements Store.
func (m *Memory) Families(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for f := range m.vs {
		out = append(out, f)
	}
	slices.Sort(out)
	return out, nil
}

// SetStage implements Store.
func (m *Memory) SetStage(_ context.Context, family string, counter uint64, stage Stage, reason string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range m.vs[family] {
		if v.Counter == counter {
			m.vs[family][i].Stage, m.vs[family][i].Reason = stage, reason
			return nil
		}
	}
	return fmt.Errorf("%s-%d: %w", family, counter, ErrNoVersion)
}

// SaveSources implements Store.
func (m *Memory) SaveSources(_ context.Context, family string, counter uint64, from []Source) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sources == nil {
		m.sources = map[VersionRef]map[Source]bool{}
	}
	ref := VersionRef{family, counter}
	if m.sources[ref] == nil {
		m.sources[ref] = map[Source]bool{}
	}
	for _, s := range from {
		m.sources[ref][s] = true
	}
	return nil
}

// Sources implements Store.
func (m *Memory) Sources(_ context.Context, family string, counter uint64) (map[SourceKind]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[SourceKind]int{}
	for s := range m.sources[VersionRef{family, counter}] {
		out[s.Kind]++
	}
	return out, nil
}

// ReleasesOf implements Store.
func (m *Memory) ReleasesOf(_ context.Context, d artifact.Digest) ([]VersionRef, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []VersionRef
	for ref, from := range m.sources {
		for s := range from {
			if s.Digest == d {
				out = append(out, ref)
				break
			}
		}
	}
	slices.SortFunc(out, compareRefs)
	return out, nil
}

// SaveCollection implements Store.
func (m *Memory) SaveCollection(_ context.Context, c Collection) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.collections = append(m.collections, c)
	return nil
}

// Collections implements Store.
func (m *Memory) Collections(_ context.Context, limit int) ([]Collection, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Collection
	for _, c := range slices.Backward(m.collections) {
		if len(out) < limit {
			out = append(out, c)
		}
	}
	return out, nil
}
