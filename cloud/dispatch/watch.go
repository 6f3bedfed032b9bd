package dispatch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/topic"
)

// watch is a due rollout between two looks.
type watch struct {
	stored  rollout.Rollout // as the store has it
	version uint64          // of stored
	// rollout is what the next decision starts from: stored, or what it is when
	// it leaves the queue.
	rollout rollout.Rollout
	fleet   selector.Selector
	roster  *rollout.Roster
	records map[topic.ID]rollout.Record // as stored, of devices that left too
	orders  rollout.Orders              // as the roster has them
	gates   []rollout.Verdict           // of the newest decision

	// What the next stored decision has to say beside the one before.
	changed   map[topic.ID]bool
	gone      map[topic.ID]bool
	deltas    int // stored since the last whole snapshot; wholeEvery: the next is whole
	coalesced int
	kept      uint64    // see Stored.Kept
	keptAt    time.Time // of the newest stored decision
	left      int       // see Stored.Omitted
}

// receipt says what a rollout's stored evidence has cost. It outlives the watch,
// since reading it again means to read a whole decision.
type receipt struct {
	kept uint64
	at   time.Time // of the newest stored decision
}

// watch loads a rollout and counts its devices. What the fleet changes from
// now on is in the feed behind d.mark.
func (d *Dispatcher) watch(ctx context.Context, name string) (*watch, error) {
	l, err := d.cfg.Store.Load(ctx, name)
	if err != nil {
		return nil, err
	}
	w := &watch{
		stored: l.Rollout, version: l.Version, rollout: l.Rollout, records: l.Records, orders: d.orders,
		changed: map[topic.ID]bool{}, gone: map[topic.ID]bool{}, deltas: wholeEvery,
	}
	if w.fleet, err = selector.Parse(l.Rollout.Fleet); err != nil {
		return nil, err
	}
	if w.rollout.State == rollout.Queued { // nothing of its fleet is active any more
		w.rollout.Previous = previous(l.Rollout, d.list, d.orders)
		w.rollout.State, w.rollout.Started, w.rollout.Reason = rollout.Running, d.now(), "started after the one before it ended"
	}
	bill, ok := d.bills[name]
	if !ok { // this process has not stored any
		last, err := d.cfg.Store.Decisions(ctx, name, 0, 1)
		if err != nil {
			return nil, fmt.Errorf("read the newest decision: %w", err)
		}
		if len(last) > 0 {
			bill = receipt{last[0].Kept, last[0].At}
		}
		d.bills[name] = bill
	}
	w.kept, w.keptAt = bill.kept, bill.at
	devices, err := d.cfg.Fleet.Devices(ctx)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	s, err := snapshot(l, devices, d.orders)
	if err != nil {
		return nil, err
	}
	w.roster = rollout.NewRoster(w.rollout, s)
	d.count(func(s *Stats) { s.Rebuilds++ })
	return w, nil
}

// previous returns the release that a rollout's devices go back to: the last one
// promoted that nobody has put into quarantine since. nil: none.
func previous(r rollout.Rollout, all []rollout.Rollout, o rollout.Orders) *rollout.Release {
	return rollout.LastPromoted(r.Fleet, r.Release.Kind, slices.DeleteFunc(slices.Clone(all), func(a rollout.Rollout) bool {
		_, bad := banned(o, a.Release.Manifest)
		return bad
	}))
}

// order takes in new standing orders.
func (w *watch) order(o rollout.Orders) {
	w.orders = o
	w.roster.Order(o)
}

// put takes in what is new about a device of the hub.
func (w *watch) put(dev rollout.Device) {
	rec, known := w.records[dev.ID]
	if !known && !w.fleet.Match(dev.Look) {
		w.remove(dev.ID) // it may have matched before
		return
	}
	dev = dev.For(w.rollout.Release.Kind)
	dev.Record = rec
	w.roster.Put(dev)
	w.changed[dev.ID] = true
	delete(w.gone, dev.ID)
}

func (w *watch) remove(id topic.ID) {
	if _, ok := w.roster.Device(id); !ok {
		return
	}
	w.roster.Remove(id)
	delete(w.changed, id)
	w.gone[id] = true
}

// weight says how much a decision matters to people.
type weight int

const (
	creeping weight = iota // gate values moved
	telling                // a device is told something, or a gate changed its mind
	turning                // the rollout's state or wave changed
)

func weigh(before rollout.Rollout, d rollout.Decision) weight {
	if d.Rollout.State != before.State || d.Rollout.Wave != before.Wave || len(d.Rollout.Waves) != len(before.Waves) {
		return turning
	}
	if len(d.Changes) > 0 {
		return telling
	}
	if d.Rollout.Wave >= len(before.Waves) {
		return creeping
	}
	old, now := before.Waves[d.Rollout.Wave], d.Rollout.Waves[d.Rollout.Wave]
	if old.Cleared != now.Cleared || !slices.EqualFunc(old.Gates, now.Gates, func(a, b rollout.Verdict) bool {
		return a.Gate == b.Gate && a.Result == b.Result && a.Applies == b.Applies
	}) {
		return telling
	}
	return creeping
}

// The bound on what is kept of one rollout. A decision costs its device facts
// and decisionCost. Within freeFacts each that tells somebody something is
// kept, and one a minute of those between, from which a replay sees when a gate
// of another policy would have spoken. Behind it decisions are put together:
// the time between two that are kept begins with a minute and doubles with
// every doubleFacts, so that a rollout of years keeps some twenty of them more.
// A change of state or wave is always kept, and so is a person's request.
const (
	decisionCost = 64
	freeFacts    = 1 << 19
	doubleFacts  = 1 << 15
	sampleEvery  = time.Minute
	maxDoublings = 24
)

// keeps says whether a decision is stored with its evidence, or waits for the
// next that is.
func (w *watch) keeps(rank weight, now time.Time) bool {
	if rank == turning {
		return true
	}
	gap := time.Duration(0)
	if w.kept > freeFacts {
		gap = sampleEvery << min((w.kept-freeFacts)/doubleFacts, maxDoublings)
	}
	if rank == creeping {
		if !w.stored.State.Active() {
			return false
		}
		gap = max(gap, sampleEvery)
	}
	if now.Sub(w.keptAt) >= gap {
		return true
	}
	if rank == telling {
		w.coalesced++
	}
	return false
}

// maxFacts bounds the devices of one stored snapshot. Of a larger fleet those
// that the rollout has not drawn yet are left out, and counted.
const maxFacts = 250_000

// explain returns a decision with the evidence it was taken on. The roster is
// already as the decision made it; the records are not.
func (w *watch) explain(dec rollout.Decision, now time.Time) *Stored {
	s := &Stored{
		Rollout: dec.Rollout.Name, At: now, Before: w.stored.State, Input: w.rollout, Decision: dec,
		Delta: w.deltas < wholeEvery, Coalesced: w.coalesced,
	}
	if s.Delta {
		for _, id := range slices.SortedFunc(maps.Keys(w.changed), compareIDs) {
			if dev, ok := w.roster.Device(id); ok {
				s.Snapshot.Devices = append(s.Snapshot.Devices, dev)
			}
		}
		s.Gone = slices.SortedFunc(maps.Keys(w.gone), compareIDs)
		s.Snapshot.Orders = w.orders
		s.Omitted = w.left
	} else {
		s.Snapshot = w.roster.Snapshot()
	}
	for i := range s.Snapshot.Devices {
		dev := &s.Snapshot.Devices[i]
		dev.Record = w.records[dev.ID]
	}
	s.price(w.kept)
	return s
}

// price bounds the evidence and says what the rollout's evidence has cost with
// this one.
func (s *Stored) price(before uint64) {
	if over := len(s.Snapshot.Devices) - maxFacts; over > 0 {
		s.Snapshot.Devices = slices.DeleteFunc(s.Snapshot.Devices, func(d rollout.Device) bool {
			drop := over > 0 && d.Record == rollout.Record{}
			if drop {
				over--
				s.Omitted++
			}
			return drop
		})
	}
	s.Kept = before + decisionCost + uint64(len(s.Snapshot.Devices))
}

// committed brings the watch to what the store has now.
func (w *watch) committed(c Commit) {
	w.stored, w.rollout = c.Rollout, c.Rollout
	w.version++
	if s := c.Decision; s != nil {
		if s.Delta {
			w.deltas++
		} else {
			w.deltas = 1
		}
		clear(w.changed)
		clear(w.gone)
		w.coalesced, w.kept, w.keptAt, w.left = 0, s.Kept, s.At, s.Omitted
	}
	for id, rec := range c.Records {
		w.records[id] = rec
		w.changed[id] = true
	}
}
