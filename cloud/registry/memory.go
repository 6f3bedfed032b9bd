package registry

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Memory is a Store for tests and for a hub that keeps nothing. The zero value
// is ready.
type Memory struct {
	mu sync.Mutex
	vs map[string][]Version // by family, ascending counter
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
