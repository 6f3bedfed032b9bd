package dispatch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
)

// Replay says what another policy would have decided on the same evidence.
type Replay struct {
	Rollout string `json:"rollout"`
	Same    int    `json:"same"` // decisions alike, from the first on
	// Steps are the decisions replayed, oldest first; the last is Diverged when
	// there is one and the record says no more.
	Steps    []ReplayStep `json:"steps"`
	Diverged *ReplayStep  `json:"diverged,omitempty"` // the first decision that differs; nil: none
	Verdict  string       `json:"verdict"`            // a sentence
}

// ReplayStep is one recorded decision taken again.
type ReplayStep struct {
	ID       uint64            `json:"id"` // of the recorded decision
	At       time.Time         `json:"at"`
	Recorded string            `json:"recorded"` // the state that was decided
	Replayed string            `json:"replayed"` // the state that the other policy leads to
	Summary  string            `json:"summary"`  // of the replayed decision
	Offered  int               `json:"offered"`  // devices that had been offered the release by then, as replayed
	Gates    []rollout.Verdict `json:"gates,omitempty"`
}

// Evidence returns everything that a decision rested on: it puts together the
// last whole snapshot stored before it and what changed since. ErrNotFound and
// ErrNoEvidence.
func (d *Dispatcher) Evidence(ctx context.Context, name string, id uint64) (rollout.Snapshot, error) {
	var chain []Stored // newest first
	for before := id + 1; ; {
		page, err := d.cfg.Store.Decisions(ctx, name, before, wholeEvery)
		if err != nil {
			return rollout.Snapshot{}, fmt.Errorf("read decision %d of rollout %s: %w", id, name, err)
		}
		for _, s := range page {
			if len(chain) == 0 && s.ID != id {
				break
			}
			chain = append(chain, s)
			if s.whole() {
				e := evidence{}
				for _, s := range slices.Backward(chain) {
					e.take(s)
				}
				return e.snapshot(), nil
			}
			before = s.ID
		}
		if len(chain) == 0 || len(page) < wholeEvery {
			return rollout.Snapshot{}, fmt.Errorf("decision %d of rollout %s: %w", id, name, ErrNoEvidence)
		}
	}
}

// wholeEvery is how many decisions after a whole snapshot may hold the changes
// alone.
const wholeEvery = 64

// whole says whether the snapshot is not a change of the one before. Hubs of
// old stored people's requests without a snapshot.
func (s Stored) whole() bool {
	return !s.Delta && (s.Actor == "" || len(s.Snapshot.Devices) > 0)
}

// evidence is a snapshot put together out of stored ones.
type evidence struct {
	devices map[topic.ID]rollout.Device
	orders  rollout.Orders
}

func (e *evidence) take(s Stored) {
	switch {
	case s.whole():
		e.devices = make(map[topic.ID]rollout.Device, len(s.Snapshot.Devices))
	case !s.Delta:
		return // a person's request of old
	}
	e.orders = s.Snapshot.Orders
	for _, id := range s.Gone {
		delete(e.devices, id)
	}
	for _, d := range s.Snapshot.Devices {
		e.devices[d.ID] = d
	}
}

func (e *evidence) snapshot() rollout.Snapshot {
	ds := slices.Collect(maps.Values(e.devices))
	slices.SortFunc(ds, byID)
	return rollout.Snapshot{Devices: ds, Orders: e.orders}
}
