package dispatch

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Memory is a Store that forgets everything with the process, for tests and
// for the simulator. The zero value is empty and ready.
type Memory struct {
	mu       sync.Mutex
	holder   string
	until    time.Time
	rollouts map[string]*kept
	desired  map[topic.ID]*outbox
	serial   uint64
	orders   []byte
	ordered  uint64 // version of orders
}

// kept is one rollout. It and its decisions have been through JSON, so that
// nothing a SQL store would lose survives here, and no writer shares memory
// with the store. Readers must not change what they get.
type kept struct {
	version   uint64
	rollout   rollout.Rollout
	records   map[topic.ID]rollout.Record
	decisions [][]byte
}

type outbox struct {
	doc       []byte
	gen       uint64
	serial    uint64 // order of writing
	published bool
}

var _ Store = (*Memory)(nil)

// Acquire implements Store.
func (m *Memory) Acquire(_ context.Context, holder string, now time.Time, ttl time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.holder != holder && now.Before(m.until) {
		return false, nil
	}
	m.holder, m.until = holder, now.Add(ttl)
	return true, nil
}

// Rollouts implements Store.
func (m *Memory) Rollouts(context.Context) ([]rollout.Rollout, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]rollout.Rollout, 0, len(m.rollouts))
	for _, k := range m.rollouts {
		out = append(out, k.rollout)
	}
	slices.SortFunc(out, func(a, b rollout.Rollout) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

// Versions implements Store.
func (m *Memory) Versions(context.Context) (map[string]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]uint64, len(m.rollouts))
	for name, k := range m.rollouts {
		out[name] = k.version
	}
	return out, nil
}

// Load implements Store.
func (m *Memory) Load(_ context.Context, name string) (Loaded, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.rollouts[name]
	if k == nil {
		return Loaded{}, fmt.Errorf("rollout %s: %w", name, ErrNotFound)
	}
	return Loaded{Rollout: k.rollout, Version: k.version, Records: maps.Clone(k.records)}, nil
}

// Commit implements Store.
func (m *Memory) Commit(_ context.Context, c Commit) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := c.Rollout.Name
	if c.Holder != "" && (m.holder != c.Holder || !c.Now.Before(m.until)) {
		return 0, fmt.Errorf("rollout %s: %s does not hold the lease: %w", name, c.Holder, ErrConflict)
	}
	k := m.rollouts[name]
	switch {
	case c.Version == 0 && k != nil:
		return 0, fmt.Errorf("rollout %s: %w", name, ErrExists)
	case c.Version != 0 && (k == nil || k.version != c.Version):
		return 0, fmt.Errorf("rollout %s: %w", name, ErrConflict)
	case k == nil:
		k = &kept{}
	}
	// Everything that can fail comes before anything changes.
	body, err := json.Marshal(c.Rollout)
	if err != nil {
		return 0, err
	}
	var ro rollout.Rollout
	if err := json.Unmarshal(body, &ro); err != nil {
		return 0, err
	}
	docs := make([][]byte, len(c.Desired))
	for i, d := range c.Desired {
		d.Generation = 1
		if o := m.desired[topic.ID{Site: d.Site, Node: d.Node}]; o != nil {
			d.Generation = o.gen + 1
		}
		if docs[i], err = json.Marshal(d); err != nil {
			return 0, err
		}
	}
	var id uint64
	if c.Decision != nil {
		id = uint64(len(k.decisions)) + 1
		s := *c.Decision
		s.ID = id
		b, err := json.Marshal(s)
		if err != nil {
			return 0, err
		}
		k.decisions = append(k.decisions, b)
	}
	if m.rollouts == nil {
		m.rollouts, m.desired = map[string]*kept{}, map[topic.ID]*outbox{}
	}
	if k.records == nil {
		k.records = map[topic.ID]rollout.Record{}
	}
	maps.Copy(k.records, c.Records)
	k.version++
	k.rollout = ro
	m.rollouts[name] = k
	for i, d := range c.Desired {
		dev := topic.ID{Site: d.Site, Node: d.Node}
		gen := uint64(1)
		if o := m.desired[dev]; o != nil {
			gen = o.gen + 1
		}
		m.serial++
		m.desired[dev] = &outbox{doc: docs[i], gen: gen, serial: m.serial}
	}
	return id, nil
}

// Decisions implements Store.
func (m *Memory) Decisions(_ context.Context, name string, before uint64, limit int) ([]Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.rollouts[name]
	if k == nil {
		return nil, nil
	}
	list := k.decisions // the first has id 1
	if before != 0 {
		list = list[:min(uint64(len(list)), before-1)]
	}
	var out []Stored
	for _, b := range slices.Backward(list) {
		if limit > 0 && len(out) == limit {
			break
		}
		var s Stored
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Desired implements Store.
func (m *Memory) Desired(_ context.Context, id topic.ID) (d twin.Desired, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.desired[id]
	if o == nil {
		return d, false, nil
	}
	return d, true, json.Unmarshal(o.doc, &d)
}

// Unpublished implements Store.
func (m *Memory) Unpublished(_ context.Context, limit int) ([]twin.Desired, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var open []*outbox
	for _, o := range m.desired {
		if !o.published {
			open = append(open, o)
		}
	}
	slices.SortFunc(open, func(a, b *outbox) int { return cmp.Compare(a.serial, b.serial) })
	out := make([]twin.Desired, min(len(open), limit))
	for i := range out {
		if err := json.Unmarshal(open[i].doc, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Published implements Store.
func (m *Memory) Published(_ context.Context, docs []twin.Desired) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range docs {
		if o := m.desired[topic.ID{Site: d.Site, Node: d.Node}]; o != nil && o.gen == d.Generation {
			o.published = true
		}
	}
	return nil
}

// Orders implements Store.
func (m *Memory) Orders(context.Context) (o rollout.Orders, version uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ordered == 0 {
		return o, 0, nil
	}
	return o, m.ordered, json.Unmarshal(m.orders, &o)
}

// SaveOrders implements Store.
func (m *Memory) SaveOrders(_ context.Context, o rollout.Orders, version uint64) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if version != m.ordered {
		return fmt.Errorf("standing orders: %w", ErrConflict)
	}
	m.orders, m.ordered = b, version+1
	return nil
}
