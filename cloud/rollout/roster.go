package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// Roster is a rollout's devices with all that Decide needs counted: what one
// device's change moves is updated at once, so that a decision costs what has
// changed since the last one, and not the size of the fleet.
//
// Each device has a status (see status) with the moment until which it holds.
// Counters, the tallies of the waves and the queues for a lease are kept by
// taking a device's old status out and putting its new one in; a heap of the
// moments finds those whose status ends. Drawing a wave, a change of the
// standing orders, and the turns of a rollout as a whole (a pause, the way
// back, the promotion) look at every device.
type Roster struct {
	u       *rules
	now     time.Time // of the last decision
	mode    mode      // of the last decision: what was done about devices
	anew    bool      // look at every device before the next decision
	sorted  bool      // slots are in the order of their devices
	lent    bool      // devices belong to the caller until they change
	metrics bool      // a gate asks for metrics

	devices []*Device // by slot
	status  []status  // by slot
	gone    int       // slots without a device
	late    int       // slots that came after the roster was made
	room    []Device  // not used yet
	index   index     // empty until somebody asks for a device by its ID

	loose   []int32 // slots to look at before the next decision
	dirty   []int32 // slots looked at since the last one
	moments moments

	causes   [causes]int
	touched  int // devices that may yet run the release
	lost     int // of them those out of reach
	waves    []*wave
	hindered map[hindrance]int // devices that wait, by what they wait for
	whys     []string          // what devices have waited for since the roster was made; the first is ""
	known    map[string]int32  // their indices

	names   []names // by budget: its groups
	groups  []group
	cells   []cell
	members []int32 // groups of each cell, as many as there are budgets
	queues  []*queue
	queue   map[place]int32 // index in queues
	eased   []int32         // counted anew while queues wait for them

	pendings uint64 // rises when a device that no wave has drawn changes
	barren   uint64 // 1 + pendings when a draw for wave barrenOf found nobody; 0: none did
	barrenOf int
}

// mode is what a decision does about each device.
type mode uint8

const (
	unsettled mode = iota // nothing was done since all devices were looked at
	idle
	forward
	stopped
	joining
	back
)

// wave is what a roster knows of a wave: 1 + its index; of wave 0, all that
// are on their way back.
type wave struct {
	sums    sums
	waiting int     // devices in queues
	line    line    // of them, the first device first
	open    []int32 // indices of queues that nothing is known to block
}

// hindrance is what keeps devices of a wave from an offer (wave 0) or a lease.
type hindrance struct {
	wave int32
	why  string
}

// group is what one budget knows about one of its groups.
type group struct {
	name        string // value of the budget's label
	budget      int32
	size        int32
	unavailable int32
	cell        int32      // of those that are in this one, where it is of the first budget
	eased       bool       // listed in Roster.eased
	after       int32      // the group found after this one
	blocked     [2][]int32 // queues that wait for it, by what a device of theirs costs
}

// names finds the group of a label's value.
type names struct {
	few  []int32 // the first ones, which are looked through one by one
	rest map[string]int32
	last int32 // the group found last
}

const fewNames = 4

// cell is a combination of groups, one of each budget or of each of the first
// few, with the way to the cells that have one group more.
type cell struct {
	next [3]further
	rest map[int32]int32 // by group
}

// further is a group, and the cell that has it, too; cell 0 is nobody's.
type further struct{ group, cell int32 }

// place tells queues apart.
type place struct {
	wave, cell int32
	cost       uint8 // what a lease costs each group: 0 for a device that is away already
}

// queue holds devices of one cell and wave that wait for a lease.
type queue struct {
	place
	n      int   // how many wait
	first  int32 // of them, while leases are given
	line   line  // they, and some that have left
	listed bool  // in its wave's open list
	held   bool  // in a group's blocked list
}

// NewRoster counts a rollout's devices, which it copies.
func NewRoster(r Rollout, s Snapshot) *Roster { return newRoster(r, s, false) }

// newRoster makes a roster; lent: the devices stay the caller's, who does not
// change them, and one that changes is copied.
func newRoster(r Rollout, s Snapshot, lent bool) *Roster {
	all := s.Devices
	if !lent {
		all = slices.Clone(all)
	}
	devices := make([]*Device, len(all))
	for i := range all {
		devices[i] = &all[i]
	}
	return muster(r, s.Orders, devices, lent)
}

// muster makes a roster of devices, of which each gets the slot of its place.
func muster(r Rollout, o Orders, devices []*Device, lent bool) *Roster {
	n := len(devices)
	f := &Roster{
		u: newRules(r, o), lent: lent, anew: true, devices: devices, status: make([]status, n),
		hindered: map[hindrance]int{}, queue: map[place]int32{}, waves: []*wave{{}}, cells: []cell{{}},
		moments: moments{key: make([]int64, n), at: make([]int32, n)},
	}
	f.sorted = slices.IsSortedFunc(devices, func(a, b *Device) int { return compare(a.ID, b.ID) })
	f.metrics = slices.ContainsFunc(f.u.p.Gates, func(g Gate) bool { return g.Name == GateExpr })
	f.names, f.members = make([]names, len(f.u.p.Budgets)), make([]int32, len(f.u.p.Budgets))
	return f
}

// append gives a device a new slot.
func (f *Roster) append(d *Device) int32 {
	i := int32(len(f.devices))
	if i > 0 && f.sorted && !less(f.devices[i-1].ID, d.ID) {
		f.sorted = false
	}
	f.devices = append(f.devices, f.keep(*d))
	f.late++
	f.status = append(f.status, status{until: never})
	f.moments.grow(len(f.devices))
	f.loosen(i)
	return i
}

// keep returns a copy of a device in memory of the roster.
func (f *Roster) keep(d Device) *Device {
	if len(f.room) == 0 {
		f.room = make([]Device, 64)
	}
	p := &f.room[0]
	f.room = f.room[1:]
	*p = d
	return p
}

func less(a, b topic.ID) bool { return compare(a, b) < 0 }

func compare(a, b topic.ID) int {
	return cmp.Or(strings.Compare(a.Site, b.Site), strings.Compare(a.Node, b.Node))
}

// before says which of two slots comes first in the order of the devices.
func (f *Roster) before(a, b int32) bool {
	if f.sorted {
		return a < b
	}
	return less(f.devices[a].ID, f.devices[b].ID)
}

func (f *Roster) hash(slot int32) uint64 {
	return hashID(f.devices[slot].ID)
}

func hashID(id topic.ID) uint64 { return mix(0, id.Site, id.Node) }

// find returns the slot of a device and its place in the index.
func (f *Roster) find(id topic.ID) (place int, slot int32, ok bool) {
	if f.index.n == 0 {
		for i := range f.status {
			if f.status[i].marks&gone == 0 {
				f.index.add(int32(i), f.hash)
			}
		}
	}
	return f.index.find(hashID(id), func(slot int32) bool { return f.devices[slot].ID == id })
}

// Put takes in a device, or what is new about it; Record is the newest. Its maps
// and slices are not changed afterwards.
func (f *Roster) Put(d Device) {
	_, i, ok := f.find(d.ID)
	switch {
	case ok:
		old := f.devices[i]
		moved := !sameMap(d.Labels, old.Labels)
		if f.status[i].cause == pending && (d.Record != old.Record || d.Class != old.Class || moved && !maps.Equal(d.Labels, old.Labels)) {
			f.pendings++
		}
		f.take(i)
		if moved {
			f.status[i].marks &^= placed
		}
		*old = d
		f.loosen(i)
	default:
		n := d // d itself stays on the stack
		f.index.add(f.append(&n), f.hash)
	}
}

// sameMap says whether two maps are one.
func sameMap(a, b map[string]string) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// Remove forgets a device.
func (f *Roster) Remove(id topic.ID) {
	at, i, ok := f.find(id)
	if !ok {
		return
	}
	f.take(i)
	f.index.remove(at, f.hash)
	// The slot keeps its ID, by which heaps that it lingers in are sorted.
	*f.devices[i] = Device{ID: id}
	st := &f.status[i]
	st.until, st.cause = never, uncounted
	st.marks |= gone
	f.gone++
	f.pendings++
}

// Order replaces the standing orders.
func (f *Roster) Order(o Orders) {
	f.u.order(o)
	f.pendings++
	f.anew = true
}

// Device returns what is known of one device.
func (f *Roster) Device(id topic.ID) (Device, bool) {
	if _, i, ok := f.find(id); ok {
		return *f.devices[i], true
	}
	return Device{}, false
}

// Len is the number of devices.
func (f *Roster) Len() int { return len(f.devices) - f.gone }

// Snapshot returns the devices, sorted by ID, and the standing orders.
func (f *Roster) Snapshot() Snapshot {
	s := Snapshot{Devices: make([]Device, 0, f.Len()), Orders: f.u.o}
	for i, d := range f.devices {
		if f.status[i].marks&gone == 0 {
			s.Devices = append(s.Devices, *d)
		}
	}
	if !f.sorted {
		slices.SortFunc(s.Devices, func(a, b Device) int { return compare(a.ID, b.ID) })
	}
	return s
}

// loosen has a slot looked at before the next decision.
func (f *Roster) loosen(i int32) {
	if st := &f.status[i]; st.marks&loose == 0 && !f.anew {
		st.marks |= loose
		f.loose = append(f.loose, i)
	}
}

// maxWhys bounds the sentences a roster remembers: some name a moment.
const maxWhys = 4096

// pack makes the roster anew, in the order of its devices and without slots
// that they have left.
func (f *Roster) pack() {
	devices := make([]*Device, 0, f.Len())
	for i, d := range f.devices {
		if f.status[i].marks&gone == 0 {
			devices = append(devices, d)
		}
	}
	slices.SortFunc(devices, func(a, b *Device) int { return compare(a.ID, b.ID) })
	g := muster(f.u.r, f.u.o, devices, false)
	g.u.p, g.now, g.room = f.u.p, f.now, f.room
	*f = *g
}

// look brings every status up to now.
func (f *Roster) look(now time.Time) {
	if now.Before(f.now) { // a clock was set back: what has ended may not have
		f.anew = true
	}
	// Seldom enough that it costs each device that came or left little.
	if many := max(len(f.devices)/2, 8); f.gone > many || !f.sorted && f.late > many || len(f.whys) > maxWhys {
		f.pack()
	}
	f.now = now
	if f.anew {
		f.lookAtAll()
		return
	}
	for _, i := range f.loose {
		st := &f.status[i]
		st.marks &^= loose
		if st.marks&gone == 0 {
			f.judge(i)
		}
	}
	f.loose = f.loose[:0]
	for end := nanos(now); ; {
		i, ok := f.moments.first(f.end)
		if !ok || f.moments.key[i] > end {
			return
		}
		f.judge(i)
	}
}

// lookAtAll makes every status anew, and has each see to every device.
func (f *Roster) lookAtAll() {
	for _, i := range f.loose {
		f.status[i].marks &^= loose
	}
	f.loose = f.loose[:0]
	for i := range f.status {
		if f.status[i].marks&gone == 0 {
			f.judge(int32(i))
		}
	}
	f.moments.all(f.status)
	f.settle()
	f.anew, f.mode = false, unsettled
}

func (f *Roster) end(slot int32) int64 { return f.status[slot].until }

// judge looks at a device and counts what it finds.
func (f *Roster) judge(i int32) {
	f.take(i)
	st, d := &f.status[i], f.devices[i]
	n, why := f.u.status(d, f.now)
	if n.cause == pending && (n.is(hindered) != st.is(hindered) || st.cause != pending) {
		f.pendings++
	}
	st.until, st.cause, st.bits, st.wave, st.why = n.until, n.cause, n.bits, n.wave, 0
	if why != "" {
		st.why = f.learn(why)
	}
	if st.marks&placed == 0 {
		st.cell = f.cell(d)
		st.marks |= placed
	}
	if f.anew {
		st.marks |= counted
		f.count(i, 1)
		return
	}
	f.moments.set(i, st.until)
	if st.marks&dirty == 0 {
		st.marks |= dirty
		f.dirty = append(f.dirty, i)
	}
	st.marks |= counted
	f.count(i, 1)
}

// learn returns the index of a sentence about what hinders devices.
func (f *Roster) learn(why string) int32 {
	k, ok := f.known[why]
	if !ok {
		if f.known == nil {
			f.known, f.whys = map[string]int32{}, []string{""}
		}
		k = int32(len(f.whys))
		f.whys = append(f.whys, why)
		f.known[why] = k
	}
	return k
}

// why says what hinders a device, or "".
func (f *Roster) why(st *status) string {
	if st.why == 0 {
		return ""
	}
	return f.whys[st.why]
}

// take counts a device out, if it is in.
func (f *Roster) take(i int32) {
	if st := &f.status[i]; st.marks&counted != 0 {
		f.count(i, -1)
		st.marks &^= counted
	}
}

// record gives a device a new record.
func (f *Roster) record(i int32, rec Record) {
	f.take(i)
	if f.lent {
		if f.status[i].marks&copied == 0 {
			f.status[i].marks |= copied
			d := *f.devices[i]
			f.devices[i] = &d
		}
	}
	f.devices[i].Record = rec
	f.judge(i)
}

// count adds a device to all that is counted, or takes it away.
func (f *Roster) count(i int32, sign int) {
	st, d := &f.status[i], f.devices[i]
	f.causes[st.cause] += sign
	for _, k := range f.groupsOf(st.cell) {
		g := &f.groups[k]
		g.size += int32(sign)
		if st.is(away) {
			g.unavailable += int32(sign)
		}
		if !g.eased && len(g.blocked[0])+len(g.blocked[1]) > 0 {
			g.eased = true
			f.eased = append(f.eased, k)
		}
	}
	if st.wave > 0 {
		f.wave(st.wave).sums.count(f.u, d, st, sign, f.metrics)
	}
	if st.is(touched) {
		f.touched += sign
		if !d.Connected || !st.is(fresh) {
			f.lost += sign
		}
	}
	if st.is(hindered) {
		h := hindrance{st.wave, f.why(st)}
		if f.hindered[h] += sign; f.hindered[h] == 0 {
			delete(f.hindered, h)
		}
	}
	switch {
	case !st.is(wants):
	case sign > 0:
		f.join(i)
	default:
		f.queues[st.queue-1].n--
		f.wave(f.queues[st.queue-1].wave).waiting--
		st.queue = 0
	}
}

func (f *Roster) wave(n int32) *wave {
	for int(n) >= len(f.waves) {
		f.waves = append(f.waves, &wave{})
	}
	return f.waves[n]
}

// recount adds up a wave again, after it lost a largest number.
func (f *Roster) recount(n int32) *sums {
	t := &sums{}
	for i := range f.status {
		if st := &f.status[i]; st.wave == n && st.marks&counted != 0 {
			t.count(f.u, f.devices[i], st, 1, f.metrics)
		}
	}
	return t
}

// tally returns what the gates look at of a wave (1 + its index).
func (f *Roster) tally(n int) *tally {
	return f.wave(int32(n)).sums.read(func() *sums { return f.recount(int32(n)) })
}

// all adds up the counters of the waves. Nothing else of the tally is set.
func (f *Roster) all() *tally {
	t := &tally{}
	for _, w := range f.waves[1:] {
		t.devices += w.sums.devices
		t.started += w.sums.started
		t.done += w.sums.done
		t.failures += w.sums.failures
		t.unresolved += w.sums.unresolved
		t.away += w.sums.away
		t.windows += w.sums.windows
		t.nonFinite += w.sums.nonFinite
	}
	return t
}

// counts says where the devices stand.
func (f *Roster) counts() (c Counts) {
	for k, n := range f.causes {
		c.Devices += n
		switch s := cause(k).state(); {
		case s == DevicePending:
			c.Pending += n
		case s == DeviceUnreachable:
			c.Unreachable += n
		case s == DeviceDone:
			c.Done += n
		case s.failure():
			c.Failed += n
		case s == DeviceReturned:
			c.Returned += n
		case s == DeviceKept:
			c.Kept += n
		case s == DeviceExcluded:
			c.Excluded += n
		default:
			c.InFlight += n
		}
	}
	return c
}

// cell returns the cell of a device.
func (f *Roster) cell(d *Device) int32 {
	var c int32
	for b := range f.names {
		g := f.group(int32(b), d.Labels[f.u.p.Budgets[b].GroupBy])
		if b == 0 {
			c = f.groups[g].cell
		} else {
			c = f.further(c, b, g)
		}
	}
	return c
}

// group returns the group of a budget for a label's value.
func (f *Roster) group(b int32, name string) int32 {
	n := &f.names[b]
	for _, g := range n.few {
		if f.groups[g].name == name {
			return g
		}
	}
	// Devices in the order of their IDs go through the groups in a pattern: one
	// after the other, or again and again in turn. The map is only asked where
	// the pattern breaks.
	if n.rest != nil {
		for _, g := range [...]int32{n.last, f.groups[n.last].after} {
			if k := &f.groups[g]; k.budget == b && k.name == name {
				n.last = g
				return g
			}
		}
	}
	g, ok := n.rest[name]
	if ok {
		f.groups[n.last].after, n.last = g, g
		return g
	}
	g = int32(len(f.groups))
	f.groups = append(f.groups, group{name: name, budget: b})
	switch {
	case len(n.few) < fewNames:
		n.few = append(n.few, g)
	case n.rest == nil:
		n.rest = map[string]int32{name: g}
	default:
		n.rest[name] = g
		f.groups[n.last].after, n.last = g, g
	}
	if b == 0 {
		f.groups[g].cell = f.newCell(0, 0, g)
	}
	return g
}

// newCell makes the cell of those in cell c that are in a group of budget b, too.
func (f *Roster) newCell(c int32, b int, g int32) int32 {
	n := len(f.names)
	f.members = append(f.members, f.members[int(c)*n:int(c)*n+n]...)
	next := int32(len(f.cells))
	f.cells = append(f.cells, cell{})
	f.members[int(next)*n+b] = g
	return next
}

// further returns the cell of those in cell c that are in a group of budget b, too.
func (f *Roster) further(c int32, b int, g int32) int32 {
	from := &f.cells[c]
	for i := range from.next {
		if k := &from.next[i]; k.cell != 0 && k.group == g {
			return k.cell
		}
	}
	if next, ok := from.rest[g]; ok {
		return next
	}
	next := f.newCell(c, b, g)
	from = &f.cells[c]
	for i := range from.next {
		if from.next[i].cell == 0 {
			from.next[i] = further{g, next}
			return next
		}
	}
	if from.rest == nil {
		from.rest = map[int32]int32{}
	}
	from.rest[g] = next
	return next
}

// groupsOf returns the groups of a device's cell.
func (f *Roster) groupsOf(c int32) []int32 {
	n := len(f.names)
	return f.members[int(c)*n : int(c)*n+n]
}

// join puts a device into the queue for a lease.
func (f *Roster) join(i int32) {
	st := &f.status[i]
	at := place{wave: st.wave, cell: st.cell, cost: 1}
	if f.devices[i].Record.Offer == OfferRollback {
		at.wave = 0
	}
	if st.is(away) {
		at.cost = 0
	}
	k, ok := f.queue[at]
	if !ok {
		k = int32(len(f.queues))
		f.queues = append(f.queues, &queue{place: at})
		f.queue[at] = k
	}
	q, w := f.queues[k], f.wave(at.wave)
	st.queue = k + 1
	q.n++
	w.waiting++
	if st.entered != st.queue {
		if len(q.line.slots) > 2*q.n+16 { // most of them have left
			q.line.slots = slices.DeleteFunc(q.line.slots, func(s int32) bool {
				out := f.status[s].queue != k+1 || s == i
				if out && f.status[s].entered == k+1 {
					f.status[s].entered = 0
				}
				return out
			})
			slices.SortFunc(q.line.slots, f.compare)
		}
		q.line.push(i, f.before)
		st.entered = st.queue
	}
	mark := listed
	if at.wave == 0 {
		mark = listedBack
	}
	if st.marks&mark == 0 {
		if len(w.line.slots) > 2*w.waiting+16 {
			w.line.slots = slices.DeleteFunc(w.line.slots, func(s int32) bool {
				out := !f.waits(s, at.wave)
				if out {
					f.status[s].marks &^= mark
				}
				return out
			})
			slices.SortFunc(w.line.slots, f.compare)
		}
		w.line.push(i, f.before)
		st.marks |= mark
	}
	f.list(k)
}

func (f *Roster) compare(a, b int32) int {
	if f.sorted {
		return cmp.Compare(a, b)
	}
	return compare(f.devices[a].ID, f.devices[b].ID)
}

// waits says whether a slot waits in a queue of a wave.
func (f *Roster) waits(slot, wave int32) bool {
	q := f.status[slot].queue
	return q != 0 && f.queues[q-1].wave == wave
}

// list puts a queue into its wave's list of those to try, unless a group is
// known to block it.
func (f *Roster) list(k int32) {
	if q := f.queues[k]; !q.listed && !q.held {
		q.listed = true
		w := f.wave(q.wave)
		w.open = append(w.open, k)
	}
}

// head returns the first device of a queue, and false when it is empty.
func (f *Roster) head(k int32) (slot int32, ok bool) {
	q := f.queues[k]
	for q.n > 0 && len(q.line.slots) > 0 {
		slot = q.line.slots[0]
		if f.status[slot].queue == k+1 {
			return slot, true
		}
		q.line.pop(f.before)
		if f.status[slot].entered == k+1 {
			f.status[slot].entered = 0
		}
	}
	return 0, false
}

// ease lists the queues again that wait for a group which has room now.
func (f *Roster) ease() {
	for _, k := range f.eased {
		g := &f.groups[k]
		g.eased = false
		for cost := range g.blocked {
			if int(g.unavailable)+cost > f.limit(g) {
				continue
			}
			for _, k := range g.blocked[cost] {
				f.queues[k].held = false
				if f.queues[k].n > 0 {
					f.list(k)
				}
			}
			g.blocked[cost] = g.blocked[cost][:0]
		}
	}
	f.eased = f.eased[:0]
}

func (f *Roster) limit(g *group) int { return f.u.p.Budgets[g.budget].limit(int(g.size)) }

// blocking returns the first group that does not allow a lease of a queue, or nil.
func (f *Roster) blocking(at place) *group {
	for _, k := range f.groupsOf(at.cell) {
		if g := &f.groups[k]; int(g.unavailable)+int(at.cost) > f.limit(g) {
			return g
		}
	}
	return nil
}

// full says in words that a group allows no more.
func (f *Roster) full(g *group) string {
	return fmt.Sprintf("%s=%s has %d of %d devices unavailable, allowed are %d", f.u.p.Budgets[g.budget].GroupBy, g.name, g.unavailable, g.size, f.limit(g))
}

// leases gives a lease to every device that waits for one in the given waves
// and whose groups allow it, in the order of the devices. It returns how many
// still wait, and for what the first of them does.
func (f *Roster) leases(waves []int32, grant func(slot int32)) (waiting int, why string) {
	f.ease()
	var heads line // queues by their first device
	before := func(a, b int32) bool { return f.before(f.queues[a].first, f.queues[b].first) }
	for _, n := range waves {
		w := f.wave(n)
		for _, k := range w.open {
			f.queues[k].listed = false
			if slot, ok := f.head(k); ok {
				f.queues[k].first = slot
				heads.push(k, before)
			}
		}
		w.open = w.open[:0]
	}
	for len(heads.slots) > 0 {
		k := heads.pop(before)
		q := f.queues[k]
		slot := q.first
		if g := f.blocking(q.place); g != nil {
			q.held = true
			g.blocked[q.cost] = append(g.blocked[q.cost], k)
			continue
		}
		grant(slot)
		if f.status[slot].queue == k+1 { // it was of no use to it
			f.list(k)
			continue
		}
		if next, ok := f.head(k); ok {
			q.first = next
			heads.push(k, before)
		}
	}
	var next int32 = -1
	for _, n := range waves {
		w := f.wave(n)
		waiting += w.waiting
		if w.waiting == 0 {
			continue
		}
		mark := listed
		if n == 0 {
			mark = listedBack
		}
		for len(w.line.slots) > 0 && !f.waits(w.line.slots[0], n) {
			f.status[w.line.pop(f.before)].marks &^= mark
		}
		if s := w.line.slots; len(s) > 0 && (next < 0 || f.before(s[0], next)) {
			next = s[0]
		}
	}
	if next >= 0 {
		if g := f.blocking(f.queues[f.status[next].queue-1].place); g != nil {
			why = f.full(g)
		}
	}
	return waiting, why
}

// each calls do for every device when what is done about devices has changed
// since the last decision, else for those that were looked at since.
func (f *Roster) each(m mode, do func(slot int32)) {
	was := f.mode
	f.mode = m
	if was != m {
		f.settle()
		for i := range f.status {
			if f.status[i].marks&gone == 0 {
				do(int32(i))
			}
		}
		return
	}
	todo := f.dirty
	f.dirty = nil
	for _, i := range todo {
		f.status[i].marks &^= dirty
	}
	for _, i := range todo {
		if f.status[i].marks&gone == 0 {
			do(i)
		}
	}
	if cap(todo) > cap(f.dirty) && len(f.dirty) == 0 {
		f.dirty = todo[:0]
	}
}

// settle forgets who was looked at.
func (f *Roster) settle() {
	for _, i := range f.dirty {
		f.status[i].marks &^= dirty
	}
	f.dirty = f.dirty[:0]
}

// candidates returns the slots of the devices that sel chooses and that may be
// offered the release.
func (f *Roster) candidates(match func(*Device) bool) []int32 {
	var out []int32
	for i := range f.status {
		if st := &f.status[i]; st.cause == pending && st.wave == 0 && !st.is(hindered) && match(f.devices[i]) {
			out = append(out, int32(i))
		}
	}
	if !f.sorted {
		slices.SortFunc(out, f.compare)
	}
	return out
}

// wakes returns when the next status ends, or the zero time. A moment is
// rounded up to the millisecond, which is what hubs count in.
func (f *Roster) wakes() time.Time {
	i, ok := f.moments.first(f.end)
	if !ok || f.moments.key[i] >= never-1 {
		return time.Time{}
	}
	const ms = int64(time.Millisecond)
	t := f.moments.key[i]
	if t < math.MaxInt64-ms {
		t += (ms - t%ms) % ms
	}
	return time.Unix(0, t).UTC()
}

// hinders returns how many devices of a wave (0: that no wave has drawn) wait
// for a window or a freeze, and the first reason by the alphabet.
func (f *Roster) hinders(wave int32) (n int, why string) {
	for h, k := range f.hindered {
		if h.wave == wave {
			n += k
			if why == "" || h.why < why {
				why = h.why
			}
		}
	}
	return n, why
}
