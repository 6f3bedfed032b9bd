package scenario

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/world"
)

const (
	silence    = 45 * time.Second // without a report the broker calls a device disconnected
	reconnect  = 5 * time.Second  // a device takes to subscribe again
	restart    = 20 * time.Second // a hub takes to start again
	brokerDown = 10 * time.Second // a broker takes to start again
	leaseTTL   = 30 * time.Second // of the dispatcher's lease
	poll       = 10 * time.Second // of a hub that nobody wakes
	crowd      = 500              // devices from which on many reports make one look
)

// hub is two of the product's dispatchers on one store in memory, of which one
// decides and the other waits for its lease, with a model of the broker and of
// the fleet registry before them.
type hub struct {
	w     *world.World
	check *check.Checker
	trace func(format string, args ...any)
	rand  *world.Rand
	store *dispatch.Memory
	nodes []*node
	gap   time.Duration // from a report to the look it makes

	seats    []*seat // by ID, once begin was called
	byID     map[topic.ID]*seat
	mark     uint64 // of the newest change
	newest   *seat  // the seats in the order of their changes
	rollouts map[string]rollout.Rollout
	onCommit func(before rollout.Rollout, c dispatch.Commit)
}

// seat is what broker and registry keep of a device.
type seat struct {
	*check.Seat
	boot  string
	boots map[string]bool
	seq   uint64
	lost  bool           // its connection broke; it subscribes again
	stale bool           // its session was lost: older documents come first
	docs  []twin.Desired // the newest documents, oldest first
	floor uint64         // of the family
	mark  uint64
	newer *seat
	older *seat
}

// node is one process of the hub.
type node struct {
	h      *hub
	name   string
	d      *dispatch.Dispatcher // nil: it is down
	life   int                  // rises with every crash
	fuse   int                  // it dies in so many persist points; 0: it lives on
	robbed bool                 // its lease is taken just before the next commit
	due    bool                 // a look is scheduled soon
	wakeAt time.Time
}

func newHub(w *world.World, c *check.Checker, trace func(string, ...any)) *hub {
	h := &hub{
		w: w, check: c, trace: trace, rand: w.Rand("hub"), store: &dispatch.Memory{}, gap: time.Second,
		byID: map[topic.ID]*seat{}, rollouts: map[string]rollout.Rollout{},
	}
	for _, name := range []string{"hub-a", "hub-b"} {
		n := &node{h: h, name: name}
		h.nodes = append(h.nodes, n)
		n.start()
	}
	w.In(poll, h.sweep)
	return h
}

// begin takes in the devices that the checker watches.
func (h *hub) begin() {
	for _, s := range h.check.Seats {
		x := &seat{Seat: s, boots: map[string]bool{}}
		h.seats = append(h.seats, x)
		h.byID[s.Device.ID()] = x
	}
	if len(h.seats) >= crowd {
		h.gap = 3 * time.Second
	}
}

// start is a new process on the same store.
func (n *node) start() {
	n.fuse, n.robbed = 0, false
	d, err := dispatch.New(dispatch.Config{
		Holder: n.name, Store: persistent{n.h.store, n}, Fleet: n.h, Publisher: n, Ledger: n, Now: n.h.w.Now,
		Log: slog.New(slog.DiscardHandler), LeaseTTL: leaseTTL, Poll: poll,
	})
	if err != nil {
		n.h.check.Fault("the hub cannot start: %v", err)
		return
	}
	n.d = d
	n.look(n.h.gap)
	life := n.life
	var again func()
	again = func() {
		if n.life == life {
			n.look(0)
			n.h.w.In(poll, again)
		}
	}
	n.h.w.In(poll, again)
}

// die ends the process; it is back after a while.
func (n *node) die() {
	n.h.trace("%s dies", n.name)
	n.d, n.due, n.wakeAt = nil, false, time.Time{}
	n.life++
	n.h.w.In(restart, func() {
		n.h.trace("%s starts again", n.name)
		n.start()
	})
}

var errCrash = errors.New("the hub crashed")

// point is one moment at which a process may end: before and after everything
// that it makes durable or sends.
func (n *node) point() error {
	if n.fuse > 0 {
		if n.fuse--; n.fuse == 0 {
			n.die()
		}
	}
	if n.d == nil {
		return errCrash
	}
	return nil
}

// crash lets every process that works die at one of its next persist points,
// or soon where nothing is made durable.
func (h *hub) crash() {
	for _, n := range h.nodes {
		if n.d == nil {
			continue
		}
		n.fuse = 1 + h.rand.IntN(9)
		life := n.life
		h.w.In(time.Minute, func() {
			if n.life == life && n.fuse > 0 {
				n.die()
			}
		})
	}
	h.trace("the hub is about to crash")
	h.look()
}

// takeover lets the other process take the lease in the middle of the next
// decision of the one that has it, as after a long pause of the process.
func (h *hub) takeover() {
	h.trace("the lease is about to be taken over")
	for _, n := range h.nodes {
		n.robbed = true
	}
	h.look()
}

// up returns a dispatcher that answers people and devices, or nil.
func (h *hub) up() *dispatch.Dispatcher {
	for _, n := range h.nodes {
		if n.d != nil {
			return n.d
		}
	}
	return nil
}

// ended says whether every rollout has.
func (h *hub) ended() bool {
	for _, r := range h.rollouts {
		if !r.State.Final() {
			return false
		}
	}
	return len(h.rollouts) > 0
}

// note puts a device at the front of the feed.
func (h *hub) note(s *seat) {
	h.mark++
	s.mark = h.mark
	if h.newest == s {
		return
	}
	if s.newer != nil {
		s.newer.older = s.older
	}
	if s.older != nil {
		s.older.newer = s.newer
	}
	s.newer, s.older = nil, h.newest
	if h.newest != nil {
		h.newest.newer = s
	}
	h.newest = s
}

// hold keeps rollouts off a device, or lets them near it again.
func (h *hub) hold(id topic.ID, on bool) {
	s := h.byID[id]
	s.Known.Held = on
	if !s.Known.SeenAt.IsZero() {
		h.note(s)
		h.look()
	}
}

// raise sets the lowest counter that a device may still install.
func (h *hub) raise(id topic.ID, floor uint64) {
	s := h.byID[id]
	s.floor, s.Known.Floor = floor, floor
	if !s.Known.SeenAt.IsZero() {
		h.note(s)
		h.subscribe(s)
	}
}

// report takes in a device's document, if a process is there.
func (h *hub) report(s *seat, r twin.Reported) {
	if h.up() == nil {
		return
	}
	fresh := r.Boot != s.boot
	if fresh && s.boots[r.Boot] || !fresh && r.Seq <= s.seq {
		return // overtaken by a newer one
	}
	s.boots[r.Boot] = true
	was := s.Known.Connected
	s.boot, s.seq = r.Boot, r.Seq
	s.Known = rollout.Fold(s.Known, r, h.w.Now())
	h.check.Reported(s.Seat, r)
	h.note(s)
	if fresh || !was || s.lost {
		h.subscribe(s)
	}
	h.look()
}

// connected says that a device's connection is there again: a moment later it
// has subscribed.
func (h *hub) connected(id topic.ID) {
	s := h.byID[id]
	s.lost = true
	h.w.In(h.rand.Between(0, reconnect), func() {
		if s.lost && s.Party.Reaches() {
			h.subscribe(s)
		}
	})
}

// subscribe delivers the newest document once more.
func (h *hub) subscribe(s *seat) {
	d := h.up()
	if d == nil || !s.Device.On() {
		s.lost = true
		return
	}
	s.lost = false
	if s.stale && len(s.docs) > 1 { // what the broker retained is old
		h.send(s, s.docs[0])
	}
	s.stale = false
	if err := d.Deliver(context.Background(), s.Device.ID()); err != nil && !errors.Is(err, errCrash) {
		h.check.Fault("cannot deliver to %s: %v", s.Device.Name(), err)
	}
}

// send brings a document on its way. One that is lost breaks the connection:
// the device subscribes again and gets its newest one.
func (h *hub) send(s *seat, doc twin.Desired) {
	if s.floor > 0 {
		doc.Floors = map[string]uint64{family: s.floor}
	}
	h.check.Published(s.Seat, doc, func(name string) (release, previous artifact.Digest) {
		r := h.rollouts[name]
		if r.Previous != nil {
			previous = r.Previous.Manifest
		}
		return r.Release.Manifest, previous
	})
	if !s.Party.Send(func() { s.Device.Desired(doc) }) && !s.lost {
		s.lost = true
		h.w.In(reconnect, func() {
			if s.lost && s.Party.Reaches() {
				h.subscribe(s)
			}
		})
	}
}

// sweep marks devices that say nothing as disconnected.
func (h *hub) sweep() {
	now := h.w.Now()
	for _, s := range h.seats {
		if s.Known.Connected && now.Sub(s.Known.SeenAt) > silence {
			s.Known.Connected = false
			h.note(s)
			h.look()
		}
	}
	h.w.In(poll, h.sweep)
}

// look lets the processes look soon; many reports make one look.
func (h *hub) look() {
	for _, n := range h.nodes {
		n.look(h.gap)
	}
}

func (n *node) look(after time.Duration) {
	if n.due || n.d == nil {
		return
	}
	n.due = true
	life := n.life
	n.h.w.In(after, func() {
		if n.life == life {
			n.due = false
			n.runOnce()
		}
	})
}

func (n *node) runOnce() {
	next, err := n.d.RunOnce(context.Background())
	if n.d == nil {
		return // it died over it
	}
	if err != nil && !errors.Is(err, errCrash) {
		n.h.check.Fault("the dispatcher fails: %v", err)
	}
	now := n.h.w.Now()
	if next.IsZero() || !n.wakeAt.IsZero() && n.wakeAt.After(now) && !next.Before(n.wakeAt) {
		return
	}
	n.wakeAt = next
	life := n.life
	n.h.w.In(max(next.Sub(now), 200*time.Millisecond), func() {
		if n.life == life {
			n.look(n.h.gap)
		}
	})
}

// ask hands a person's request to the hub.
func (h *hub) ask(name string, a rollout.Action, by, reason string) {
	h.order(by, string(a)+" ("+reason+")", func(ctx context.Context, d *dispatch.Dispatcher) error {
		_, err := d.Ask(ctx, name, rollout.Request{Action: a, By: by, Reason: reason}, false)
		return err
	})
}

// order hands what a person wants to the hub, and says whether it was done.
func (h *hub) order(by, what string, f func(context.Context, *dispatch.Dispatcher) error) bool {
	d := h.up()
	if d == nil {
		h.trace("%s asks for %s, and the hub is away", by, what)
		return false
	}
	if err := f(context.Background(), d); err != nil {
		h.trace("%s asks for %s: %v", by, what, err)
		return false
	}
	h.trace("%s: %s", by, what)
	h.look()
	return true
}

// Devices implements dispatch.Fleet.
func (h *hub) Devices(context.Context) ([]rollout.Device, error) {
	out := make([]rollout.Device, 0, len(h.seats))
	for _, s := range h.seats {
		if !s.Known.SeenAt.IsZero() {
			out = append(out, s.Known)
		}
	}
	return out, nil
}

// Since implements dispatch.Fleet, as the registry does.
func (h *hub) Since(_ context.Context, mark uint64) (changed []rollout.Device, gone []topic.ID, next uint64, ok bool, err error) {
	if mark == 0 || mark > h.mark {
		return nil, nil, h.mark, false, nil
	}
	for s := h.newest; s != nil && s.mark > mark; s = s.older {
		changed = append(changed, s.Known)
	}
	return changed, nil, h.mark, true, nil
}

// Publish implements dispatch.Publisher.
func (n *node) Publish(_ context.Context, doc twin.Desired) error {
	if err := n.point(); err != nil {
		return err
	}
	s := n.h.byID[topic.ID{Site: doc.Site, Node: doc.Node}]
	if k := len(s.docs); k == 0 || s.docs[k-1].Generation < doc.Generation {
		s.docs = append(s.docs[max(0, k-2):], doc)
	}
	n.h.send(s, doc)
	return n.point()
}

// Append implements dispatch.Ledger.
func (n *node) Append(_ context.Context, e dispatch.Event) error {
	if err := n.point(); err != nil {
		return err
	}
	if e.Actor == "hub" {
		n.h.trace("%s: %s", e.Action, e.Reason)
	}
	return nil
}

// persistent is the store as one process sees it. Every commit is checked, and
// a process may die before or after.
type persistent struct {
	*dispatch.Memory
	n *node
}

// Commit implements dispatch.Store.
func (s persistent) Commit(ctx context.Context, c dispatch.Commit) (uint64, error) {
	if err := s.n.point(); err != nil {
		return 0, err
	}
	robbed := s.n.robbed && c.Holder != ""
	if robbed {
		s.n.h.rob(s.n)
	}
	id, err := s.Memory.Commit(ctx, c)
	if err != nil {
		return id, err
	}
	if robbed {
		s.n.h.check.Fault("%s commits and the other hub holds the lease", s.n.name)
	}
	s.n.h.committed(c, id)
	if err := s.n.point(); err != nil {
		return 0, err
	}
	return id, nil
}

// Published implements dispatch.Store.
func (s persistent) Published(ctx context.Context, docs []twin.Desired) error {
	if err := s.n.point(); err != nil {
		return err
	}
	return errors.Join(s.Memory.Published(ctx, docs), s.n.point())
}

// rob gives the lease of a process to the other one, whose clock is far enough
// ahead for it.
func (h *hub) rob(n *node) {
	for _, o := range h.nodes {
		o.robbed = false
		if o != n {
			if ok, err := h.store.Acquire(context.Background(), o.name, h.w.Now().Add(leaseTTL+time.Second), leaseTTL); err != nil || !ok {
				h.check.Fault("%s cannot take a lease that has ended: %v", o.name, err)
			}
		}
	}
}

// committed brings the checker to what the store has.
func (h *hub) committed(c dispatch.Commit, id uint64) {
	r := c.Rollout
	before := h.rollouts[r.Name]
	var counts *rollout.Counts
	if c.Decision != nil && c.Decision.Actor == "" {
		counts = &c.Decision.Decision.Counts
		h.trace("%s decision %d: %s (%d changes)", r.Name, id, c.Decision.Decision.Summary, len(c.Decision.Decision.Changes))
		for _, why := range c.Decision.Decision.Reasons {
			h.trace("    %s", why)
		}
		if !c.Decision.Delta && c.Decision.Omitted == 0 { // with all its evidence it can be looked at by itself
			for _, bad := range rollouttest.Check(c.Decision.Input, c.Decision.Snapshot, c.Decision.Decision, c.Decision.At) {
				h.check.Fault("decision %d of %s: %s", id, r.Name, bad)
			}
		}
	}
	if c.Holder != "" {
		h.check.Decided(before, r, c.Records, counts, c.Now)
	}
	for dev, rec := range c.Records {
		if s := h.byID[dev]; s != nil {
			s.Memory[r.Name] = rec
		}
	}
	h.rollouts[r.Name] = r
	h.check.Stands(r)
	if h.onCommit != nil {
		h.onCommit(before, c)
	}
}
