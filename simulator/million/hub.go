package million

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/world"
)

// hub is the product's planner with a model of what is before it: a broker and
// a registry of devices. The only copy of what the hub knows is the Roster's.
type hub struct {
	*sim
	r      rollout.Rollout
	roster *rollout.Roster
	counts rollout.Counts
	busy   bool // something changed in this window

	names  string // all devices' names, one after the other
	sites  []string
	labels []map[string]string // by line and hardware
	epochs map[[3]int]string
	heard  []heard
	facts  []rollout.Device

	offers map[offerKey]uint32
	docs   map[rollout.Record]uint32 // of one decision
	leases map[leaseKey]uint32

	res Result
}

// Two records with the same key are told the same.
type offerKey struct {
	offer    rollout.Offer
	try      int
	deadline time.Time
}

type leaseKey struct {
	offer rollout.Offer
	n     int
	until time.Time
}

// heard is a device that the hub hears of, or no longer.
type heard struct {
	s *shard
	k int
}

const (
	nameLen = 8 // d0000000
	sites   = 20
	batch   = 1024 // reports at a time
)

func newHub(s *sim) (*hub, error) {
	h := &hub{sim: s, epochs: map[[3]int]string{}, offers: map[offerKey]uint32{}, leases: map[leaseKey]uint32{}, docs: map[rollout.Record]uint32{}, facts: make([]rollout.Device, 0, batch)}
	names := make([]byte, 0, s.Devices*nameLen)
	for i := range s.Devices {
		names = fmt.Appendf(names, "d%07d", i)
	}
	h.names = string(names)
	for i := range sites {
		h.sites = append(h.sites, fmt.Sprintf("plant-%02d", i))
	}
	h.labels = make([]map[string]string, 2*((s.Devices+s.Line-1)/s.Line))
	old := release(1)
	h.r = rollout.Rollout{
		Name: "r-2", Release: release(2), Previous: &old, Policy: s.policy(), Author: "night", Purpose: "simulation", Seed: s.Seed,
		Created: world.Start.Add(time.Minute),
	}
	h.r = rollout.Admit(h.r, nil).Rollout
	h.roster = rollout.NewRoster(h.r, rollout.Snapshot{})
	return h, nil
}

func (h *hub) topicID(i int) topic.ID {
	lines := len(h.labels) / 2
	return topic.ID{Site: h.sites[i/h.Line*sites/lines], Node: h.names[i*nameLen : (i+1)*nameLen]}
}

// label returns the labels of a device, which it shares with others.
func (h *hub) label(i int) map[string]string {
	line := i / h.Line
	m := &h.labels[2*line+i%2]
	if *m == nil {
		*m = map[string]string{"site": h.topicID(i).Site, "class": string(class), "line": fmt.Sprintf("L%05d", line), "hardware": fmt.Sprintf("v%d", i%2+1)}
	}
	return *m
}

// exchange hands the reports of the window that ended at at to the planner,
// sorted by device, lets it decide, and sends what it says.
func (h *hub) exchange(at time.Duration, clock *cpu) {
	now := world.Start.Add(at)
	h.busy = false
	for _, s := range h.shards {
		for w := range s.dirty {
			for b := s.dirty[w] | s.lost[w]; b != 0; b &= b - 1 {
				if h.heard = append(h.heard, heard{s, w<<6 | bits.TrailingZeros64(b)}); len(h.heard) == batch {
					h.takeIn(now, clock)
				}
			}
		}
	}
	h.takeIn(now, clock)
	for _, s := range h.shards {
		clear(s.dirty)
		clear(s.lost)
	}
	if now.Before(h.r.Created) {
		h.res.ExchangeCPU += clock.lap()
		return
	}
	h.res.ExchangeCPU += clock.lap()
	dec := h.roster.Decide(h.r, now)
	h.res.PlannerCPU += clock.lap()
	h.res.decided(dec, at)
	h.r, h.counts = dec.Rollout, dec.Counts
	h.busy = h.busy || dec.Changed
	clear(h.docs)
	for _, c := range dec.Changes {
		h.send(c, at)
	}
	h.res.ExchangeCPU += clock.lap()
}

// takeIn makes facts of what was heard, and gives them to the planner.
func (h *hub) takeIn(now time.Time, clock *cpu) {
	h.res.ExchangeCPU += clock.lap()
	for _, d := range h.heard {
		if f, ok := h.fold(d.s, d.k, now); ok {
			h.facts = append(h.facts, f)
		}
	}
	h.res.FactsCPU += clock.lap()
	for i := range h.facts {
		h.roster.Put(h.facts[i])
	}
	h.res.Reports += len(h.facts)
	h.heard, h.facts = h.heard[:0], h.facts[:0]
	h.res.PlannerCPU += clock.lap()
}

// fold returns what the hub knows after a device's report, or after the broker
// lost it. It is what rollout.Fold makes of the document, without the document.
func (h *hub) fold(s *shard, k int, now time.Time) (rollout.Device, bool) {
	d := &s.devices[k]
	i := s.first + k
	f, known := h.roster.Device(h.topicID(i))
	if !d.on || !d.online {
		lost := s.lost[k>>6]&(1<<(k&63)) != 0
		f.Connected = false
		return f, known && lost
	}
	b := s.table.Brief(&d.Packed)
	f.ID = h.topicID(i)
	f.Connected, f.SeenAt, f.Class, f.Arch, f.Labels = true, now, class, arch, h.label(i)
	f.Generation = max(f.Generation, b.Generation)
	f.Degraded = b.NoModel
	f.Champion = rollout.Champion{}
	if r := s.runs(d, b); r != nil {
		f.Champion = rollout.Champion{Manifest: r.Manifest, Loaded: r.Model, Counter: r.Counter, Windows: uint64(s.windows(d))}
	}
	f.WindowsScored = uint64(d.scored + s.windows(d))
	if b.Trial == nil {
		return f, true
	}
	before := f.Trial
	f.Trial = rollout.Trial{
		Rollout: b.Offer.Rollout, Manifest: b.Trial.Manifest, Mode: b.Offer.Mode, Try: b.Offer.Try, Phase: b.Phase, Code: b.Code,
		Reason: string(b.Code), Lease: b.Lease, Shadowed: d.items(), Windows: b.Windows, NonFinite: b.NonFinite, LatencyP99Ms: b.LatencyP99Ms,
		Since: time.UnixMilli(d.State.SinceMs).UTC(),
	}
	if d.closed > 0 {
		f.Trial.LatencyP99Ms = max(f.Trial.LatencyP99Ms, s.nature(d, challenger).latency())
	}
	h.busy = h.busy || before.Phase != f.Trial.Phase || before.Try != f.Trial.Try
	if b.Offer.Mode == twin.ModeTrial {
		f.Evidence = h.evidence(s, k, f, b, now)
	}
	return f, true
}

// evidence adds the counting windows that a device has closed since it
// reported last.
func (h *hub) evidence(s *shard, k int, f rollout.Device, b update.Brief, now time.Time) rollout.Evidence {
	d := &s.devices[k]
	e := f.Evidence
	if e.Manifest != b.Trial.Manifest {
		e = rollout.Evidence{Manifest: b.Trial.Manifest}
	}
	if d.closed == 0 {
		return e
	}
	epoch := h.epoch(d, b)
	if e.Epoch != epoch {
		e.Epoch, e.Next = epoch, 0
	}
	if uint64(d.closed) > e.Next+twin.MaxShadowWindows { // some were never reported
		return rollout.Fold(f, h.reported(s, k, b), now).Evidence
	}
	if uint64(d.closed) > e.Next {
		e.Bins = slices.Clone(e.Bins) // the roster counts those of before out
		for _, w := range s.shadowOf(k, d, int(e.Next)).Windows {
			e.Count(w)
		}
		e.Next = uint64(d.closed)
	}
	return e
}

// reported is the device's document, as far as the planner reads it.
func (h *hub) reported(s *shard, k int, b update.Brief) twin.Reported {
	d := &s.devices[k]
	i := s.first + k
	id := h.topicID(i)
	r := twin.Reported{
		Schema: 1, Site: id.Site, Node: id.Node, Boot: strconv.Itoa(int(d.boots)), Generation: b.Generation, Class: class, Labels: h.label(i),
		Agent: twin.Agent{Arch: arch}, Stream: twin.Stream{WindowsScored: uint64(d.scored + s.windows(d))},
		Conditions: []twin.Condition{{Type: "NoModel", Status: b.NoModel}},
	}
	if a := s.runs(d, b); a != nil {
		r.Champion = &twin.Running{Name: a.Name, Counter: a.Counter, Manifest: a.Manifest, Model: a.Model, Windows: uint64(s.windows(d))}
	}
	if b.Trial != nil {
		r.Trial = &twin.Trial{
			Rollout: b.Offer.Rollout, Name: b.Trial.Name, Counter: b.Trial.Counter, Manifest: b.Trial.Manifest, Mode: b.Offer.Mode, Try: b.Offer.Try,
			Phase: b.Phase, Code: b.Code, Reason: string(b.Code), Attempts: b.Attempts, Lease: b.Lease,
			Windows: b.Windows, NonFinite: b.NonFinite, LatencyP99Ms: b.LatencyP99Ms, Since: time.UnixMilli(d.State.SinceMs).UTC(),
		}
		if d.closed > 0 {
			r.Trial.Shadow = s.shadowOf(k, d, 0)
		}
	}
	return r
}

// runs returns the release that the device attests; nil: none.
func (s *shard) runs(d *device, b update.Brief) *update.Release {
	if d.acting == 0 || b.Champion != &s.table.Releases[d.acting-1] {
		return nil
	}
	return b.Champion
}

// windows is how many windows the champion had scored when it was looked at,
// at the end of the window of time.
func (s *shard) windows(d *device) uint32 {
	if d.acting == 0 {
		return 0
	}
	end := uint32(s.wheel.now+1) * s.windowMs
	return (end - d.actFrom) / 1000
}

// shadowOf makes the shadow's part of a report, with the counting windows from
// from on, at most as many as a report may have.
func (s *shard) shadowOf(k int, d *device, from int) *twin.Shadow {
	first := max(from, int(d.closed)-twin.MaxShadowWindows)
	sh := &s.shadow
	*sh = twin.Shadow{
		Items: d.items(), OnlyChallenger: uint64(d.alone), OnlyChampion: uint64(d.against), LatencyP99Ms: s.nature(d, challenger).latency(),
		Index: uint64(first), Windows: sh.Windows[:0],
	}
	for w := first; w < int(d.closed); w++ {
		a, b := s.window(s.id(int32(k)), d, uint32(w))
		sh.Windows = append(sh.Windows, twin.ShadowWindow{OnlyChallenger: a, OnlyChampion: b, Items: countingMs / 1000})
	}
	return sh
}

// epoch is how rollout.Fold names a run of the agent and an attempt.
func (h *hub) epoch(d *device, b update.Brief) string {
	key := [3]int{int(d.boots), b.Offer.Try, b.Attempts}
	e, ok := h.epochs[key]
	if !ok {
		e = fmt.Sprintf("%d/%d/%d", d.boots, b.Offer.Try, b.Attempts)
		h.epochs[key] = e
	}
	return e
}

// send publishes a device's new document. It arrives in the next window, if
// the device is there.
func (h *hub) send(c rollout.Change, at time.Duration) {
	h.busy = true
	i, err := strconv.Atoi(c.Device.Node[1:])
	if err != nil {
		panic("million: a decision about " + c.Device.String())
	}
	s := h.shards[h.shardOf(i)]
	k := int32(i - s.first)
	d := &s.devices[k]
	d.generation++
	d.document = h.document(c.Record, at)
	h.res.Documents++
	if d.on && d.online {
		s.wheel.remove(k)
		s.now = uint32(at.Milliseconds())
		d.due[dueDoc] = s.now + s.between(k, d, 50, 500)
		_, t := d.at()
		s.wheel.put(k, int(t/s.windowMs))
	}
}

func (h *hub) shardOf(i int) int {
	n := i * h.Shards / h.Devices
	for n+1 < len(h.shards) && h.shards[n+1].first <= i {
		n++
	}
	return n
}

// document returns 1 + the index of the document for a device with this record.
func (h *hub) document(rec rollout.Record, at time.Duration) uint32 {
	key := rollout.Record{Offer: rec.Offer, Try: rec.Try, Deadline: rec.Deadline, Lease: rec.Lease, LeaseUntil: rec.LeaseUntil, Revoked: rec.Revoked}
	if n, ok := h.docs[key]; ok {
		return n
	}
	ms := h.startMs + at.Milliseconds()
	doc := update.Document{IssuedMs: ms, ExpiresMs: ms + (7 * 24 * time.Hour).Milliseconds()}
	a, l := h.r.Documents(rec)
	if a != nil {
		k := offerKey{rec.Offer, rec.Try, rec.Deadline}
		if h.offers[k] == 0 {
			h.table.Offers = append(h.table.Offers, *a)
			h.offers[k] = uint32(len(h.table.Offers))
		}
		doc.Want = h.offers[k]
	}
	if l != nil {
		k := leaseKey{rec.Offer, rec.Lease, rec.LeaseUntil}
		if h.leases[k] == 0 {
			h.table.Leases = append(h.table.Leases, update.Lease{ID: l.ID, Manifest: l.Manifest, ExpiresMs: l.ExpiresAt.UnixMilli()})
			h.leases[k] = uint32(len(h.table.Leases))
		}
		doc.Lease = h.leases[k]
	}
	h.documents = append(h.documents, doc)
	h.docs[key] = uint32(len(h.documents))
	return h.docs[key]
}

// heal ends all faults: who is away comes back within a minute.
func (h *hub) heal(now uint32) {
	h.healed = true
	for _, s := range h.shards {
		for i := range s.devices {
			d, k := &s.devices[i], int32(i)
			if d.due[dueFault] == never {
				continue
			}
			s.wheel.remove(k)
			s.now = now
			if d.due[dueFault] = never; !d.online {
				d.due[dueFault] = now + s.between(k, d, 0, 60_000)
			}
			_, t := d.at()
			s.wheel.put(k, int(t/s.windowMs))
		}
	}
}
