package scenario

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/network"
	"github.com/swellfleet/swell/simulator/world"
)

// silence is after which time without a report the broker calls a device
// disconnected, and reconnect how long a device takes to subscribe again.
const (
	silence   = 45 * time.Second
	reconnect = 5 * time.Second
)

// hub is the product's dispatcher and planner on a store in memory, with a
// model of the broker and of the fleet registry before them.
type hub struct {
	w       *world.World
	net     *network.Network
	check   *check.Checker
	trace   func(format string, args ...any)
	rand    *world.Rand
	devices map[topic.ID]*device.Device
	bend    func([]rollout.Device) // nil: the truth

	facts    map[topic.ID]rollout.Device
	boots    map[topic.ID]string
	past     map[topic.ID]map[string]bool
	seq      map[topic.ID]uint64
	store    *dispatch.Memory
	rollouts map[string]rollout.Rollout // as committed, without the past
	held     map[topic.ID]bool          // by a person
	d        *dispatch.Dispatcher
	life     int  // rises with every crash
	crashing bool // the next commit is the last thing this process does
	due      bool // a look is scheduled soon
	wakeAt   time.Time
}

func newHub(w *world.World, net *network.Network, c *check.Checker, trace func(string, ...any)) *hub {
	h := &hub{
		w: w, net: net, check: c, trace: trace, rand: w.Rand("hub"), devices: map[topic.ID]*device.Device{},
		facts: map[topic.ID]rollout.Device{}, boots: map[topic.ID]string{}, past: map[topic.ID]map[string]bool{}, seq: map[topic.ID]uint64{},
		store: &dispatch.Memory{}, rollouts: map[string]rollout.Rollout{}, held: map[topic.ID]bool{},
	}
	h.start()
	w.In(10*time.Second, "sweep", h.sweep)
	return h
}

// start is a new process of the hub on the same store.
func (h *hub) start() {
	h.crashing = false
	d, err := dispatch.New(dispatch.Config{
		Holder: "hub", Store: watched{h.store, h}, Fleet: h, Publisher: h, Ledger: h, Now: h.w.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		h.check.Fault("the hub cannot start: %v", err)
		return
	}
	h.d = d
	h.look()
}

// crash ends the process in the middle of its next commit, or now.
func (h *hub) crash() {
	h.trace("hub crashes")
	h.crashing = true
	if h.d != nil {
		h.runOnce()
	}
	h.d = nil
	h.life++
	h.due, h.wakeAt = false, time.Time{}
	h.w.In(20*time.Second, "hub starts", func() {
		h.trace("hub starts again")
		h.start()
	})
}

// ended says whether every rollout has.
func (h *hub) ended() bool {
	for _, r := range h.rollouts {
		if !r.State.Final() {
			return false
		}
	}
	return true
}

// hold keeps rollouts off a device, or lets them near it again.
func (h *hub) hold(id topic.ID, on bool) {
	h.held[id] = on
	h.look()
}

// report takes in a device's document, if the process is there.
func (h *hub) report(r twin.Reported) {
	if h.d == nil {
		return
	}
	id := topic.ID{Site: r.Site, Node: r.Node}
	if h.past[id] == nil {
		h.past[id] = map[string]bool{}
	}
	fresh := r.Boot != h.boots[id]
	if fresh && h.past[id][r.Boot] || !fresh && r.Seq <= h.seq[id] {
		return // overtaken by a newer one
	}
	if fresh {
		h.past[id][r.Boot] = true
	}
	was := h.facts[id].Connected
	h.boots[id], h.seq[id] = r.Boot, r.Seq
	h.facts[id] = rollout.Fold(h.facts[id], r, h.w.Now())
	if fresh || !was {
		h.deliver(id) // it has subscribed
	}
	h.look()
}

// sweep marks devices that say nothing as disconnected.
func (h *hub) sweep() {
	for id, d := range h.facts {
		if d.Connected && h.w.Now().Sub(d.SeenAt) > silence {
			d.Connected = false
			h.facts[id] = d
			h.look()
		}
	}
	h.w.In(10*time.Second, "sweep", h.sweep)
}

func (h *hub) deliver(id topic.ID) {
	if err := h.d.Deliver(context.Background(), id); err != nil {
		h.check.Fault("cannot deliver to %s: %v", id, err)
	}
}

// look lets the dispatcher look soon; many reports make one look.
func (h *hub) look() {
	if h.due || h.d == nil {
		return
	}
	h.due = true
	life := h.life
	h.w.In(time.Second, "look", func() {
		if h.life == life && h.d != nil {
			h.due = false
			h.runOnce()
		}
	})
}

func (h *hub) runOnce() {
	next, err := h.d.RunOnce(context.Background())
	if err != nil && !errors.Is(err, errCrash) {
		h.check.Fault("the dispatcher fails: %v", err)
	}
	if next.IsZero() || !h.wakeAt.IsZero() && h.wakeAt.After(h.w.Now()) && !next.Before(h.wakeAt) {
		return
	}
	h.wakeAt = next
	life := h.life
	h.w.In(max(next.Sub(h.w.Now()), 200*time.Millisecond), "wake", func() {
		if h.life == life {
			h.look()
		}
	})
}

// ask hands a person's request to the hub.
func (h *hub) ask(name string, a rollout.Action, by, reason string) {
	if h.d == nil {
		h.trace("%s asks for %s, and the hub is away", by, a)
		return
	}
	if _, err := h.d.Ask(context.Background(), name, rollout.Request{Action: a, By: by, Reason: reason}, false); err != nil {
		h.trace("%s: %v", by, err)
		return
	}
	h.trace("%s: %s (%s)", by, a, reason)
	h.look()
}

// Devices implements dispatch.Fleet.
func (h *hub) Devices(context.Context) ([]rollout.Device, error) {
	ids := slices.SortedFunc(maps.Keys(h.facts), func(a, b topic.ID) int { return strings.Compare(a.String(), b.String()) })
	out := make([]rollout.Device, len(ids))
	for i, id := range ids {
		out[i] = h.facts[id]
		out[i].Labels = maps.Clone(out[i].Labels)
		out[i].Held = h.held[id]
	}
	if h.bend != nil {
		h.bend(out)
	}
	return out, nil
}

// Since implements dispatch.Fleet: all may have changed.
func (h *hub) Since(context.Context, uint64) ([]rollout.Device, []topic.ID, uint64, bool, error) {
	return nil, nil, 0, false, nil
}

// Publish implements dispatch.Publisher. A message that is lost breaks the
// connection: the device subscribes again and gets its newest document.
func (h *hub) Publish(_ context.Context, doc twin.Desired) error {
	id := topic.ID{Site: doc.Site, Node: doc.Node}
	lost := h.net.Dropped
	h.net.Send(id.String(), "desired", func() { h.devices[id].Desired(doc) })
	if h.net.Dropped > lost && h.net.Reaches(id.String()) {
		life := h.life
		h.w.In(reconnect, "resubscribe", func() {
			if h.life == life && h.d != nil {
				h.deliver(id)
			}
		})
	}
	return nil
}

// Append implements dispatch.Ledger.
func (h *hub) Append(_ context.Context, e dispatch.Event) error {
	if e.Actor == "hub" {
		h.trace("%s: %s", e.Action, e.Reason)
	}
	return nil
}

var errCrash = errors.New("the hub crashed")

// watched checks every decision on its way into the store, and is where a hub
// crashes: before the commit or after it.
type watched struct {
	*dispatch.Memory
	h *hub
}

func (s watched) Commit(ctx context.Context, c dispatch.Commit) (uint64, error) {
	h := s.h
	if h.crashing {
		if h.rand.Chance(0.5) {
			if _, err := s.Memory.Commit(ctx, c); err == nil { // done, and the process does not know
				h.rollouts[c.Rollout.Name] = c.Rollout
			}
		}
		return 0, errCrash
	}
	id, err := s.Memory.Commit(ctx, c)
	if err == nil {
		h.rollouts[c.Rollout.Name] = c.Rollout
	}
	if err != nil || c.Decision == nil || c.Decision.Actor != "" {
		return id, err
	}
	dec := c.Decision
	seen, err := h.d.Evidence(ctx, dec.Rollout, id)
	if err != nil {
		h.check.Fault("decision %d: %v", id, err)
	}
	for _, bad := range rollouttest.Check(dec.Input, seen, dec.Decision, dec.At) {
		h.check.Fault("decision %d: %s", id, bad)
	}
	granted := map[string]bool{}
	for _, ch := range dec.Decision.Changes {
		if ch.Kind == rollout.ChangeLease {
			granted[ch.Device.String()] = true
		}
	}
	if len(granted) > 0 {
		h.check.Leases(granted)
	}
	if r := dec.Decision.Rollout; r.State == rollout.RollingBack || r.State == rollout.Aborted || r.State == rollout.Failed {
		// A lease that was out may still be used, and a document be on its way.
		h.check.Halted(time.Duration((r.Policy.LeaseS + 60) * float64(time.Second)))
	}
	h.trace("%s (%d changes)", dec.Decision.Summary, len(dec.Decision.Changes))
	return id, nil
}
