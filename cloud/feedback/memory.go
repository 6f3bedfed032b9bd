package feedback

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/swellfleet/swell/protocol/artifact"
)

// Memory is a Store for tests. The zero value is ready.
type Memory struct {
	mu     sync.Mutex
	frames map[string]Frame // by identity
	labels map[string]Label // by target
}

// AddFrame implements Store.
func (m *Memory) AddFrame(_ context.Context, f Frame) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.frames[f.Identity()]; ok {
		return false, nil
	}
	if m.frames == nil {
		m.frames = map[string]Frame{}
	}
	m.frames[f.Identity()] = f
	return true, nil
}

// Frame implements Store.
func (m *Memory) Frame(ctx context.Context, d artifact.Digest) (Frame, error) {
	all, err := m.Frames(ctx, Query{})
	for _, f := range all {
		if f.Digest == d {
			return f, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("frame %s: %w", d.Short(), ErrNoFrame)
	}
	return Frame{}, err
}

// Frames implements Store.
func (m *Memory) Frames(_ context.Context, q Query) ([]Frame, error) {
	at, key, err := q.Place()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	labelled := map[artifact.Digest]bool{}
	for _, l := range m.labels {
		labelled[l.Frame] = true
	}
	var out []Frame
	for _, f := range m.frames {
		after := q.After == "" || f.At.After(at) || f.At.Equal(at) && f.Identity() > key
		if after && (q.Device == nil || *q.Device == f.Device) && (len(q.Classes) == 0 || slices.Contains(q.Classes, f.Class)) &&
			(q.From.IsZero() || !f.At.Before(q.From)) && (q.To.IsZero() || f.At.Before(q.To)) && !(q.Unlabelled && labelled[f.Digest]) {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, CompareFrames)
	return out[:min(len(out), q.Page())], nil
}

// RemoveFrames implements Store.
func (m *Memory) RemoveFrames(_ context.Context, ds []artifact.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, f := range m.frames {
		if slices.Contains(ds, f.Digest) {
			delete(m.frames, key)
		}
	}
	return nil
}

// AddLabels implements Store.
func (m *Memory) AddLabels(_ context.Context, ls []Label) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.labels == nil {
		m.labels = map[string]Label{}
	}
	for _, l := range ls {
		if have, ok := m.labels[l.Target()]; !ok || !l.At.Before(have.At) {
			m.labels[l.Target()] = l
		}
	}
	return nil
}

// Labels implements Store.
func (m *Memory) Labels(_ context.Context, q Query) ([]Label, error) {
	at, key, err := q.Place()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Label
	for _, l := range m.labels {
		after := q.After == "" || l.From.After(at) || l.From.Equal(at) && l.Target() > key
		if after && (q.Device == nil || *q.Device == l.Device) && (len(q.Classes) == 0 || slices.Contains(q.Classes, l.Class)) &&
			(q.From.IsZero() || !l.To.Before(q.From)) && (q.To.IsZero() || l.From.Before(q.To)) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, CompareLabels)
	return out[:min(len(out), q.Page())], nil
}

// Queue implements Store.
func (m *Memory) Queue(ctx context.Context, q Query) ([]Frame, error) {
	limit := q.Page()
	q.Unlabelled, q.After, q.Limit = true, "", 0
	frames, err := m.Frames(ctx, q)
	return Order(frames, limit), err
}
