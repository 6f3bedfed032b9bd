package dispatch

import (
	"cmp"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
)

// Stats count what a dispatcher has done since it was made.
type Stats struct {
	Looks           uint64
	LookTime        time.Duration // the sum over all looks
	Rebuilds        uint64        // rollouts whose devices were all read again
	Decisions       uint64        // stored with their evidence
	Coalesced       uint64        // decisions whose evidence went into a later one's
	Changes         uint64        // records and documents changed
	Facts           uint64        // devices in stored evidence
	Published       uint64
	PublishFailures uint64
	Waiting         int // documents that wait for another try
}

// Status is how a due rollout stands by this hub's newest look.
type Status struct {
	Rollout string
	Wave    int
	Gates   []rollout.Verdict // newest; must not be changed
}

// Stats returns the counters.
func (d *Dispatcher) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// Status returns the active rollouts that this hub decides about, by name; none
// while another hub decides.
func (d *Dispatcher) Status() []Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.statuses)
}

func (d *Dispatcher) count(f func(*Stats)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.stats)
}

func (d *Dispatcher) looked(took time.Duration) {
	d.count(func(s *Stats) {
		s.Looks++
		s.LookTime += took
		s.Waiting = len(d.outbox.failed)
	})
}

// show makes the newest look readable.
func (d *Dispatcher) show() {
	var out []Status
	for name, w := range d.watches {
		if w.stored.State.Active() {
			out = append(out, Status{Rollout: name, Wave: w.stored.Wave, Gates: w.gates})
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Rollout, b.Rollout) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.statuses = out
}
