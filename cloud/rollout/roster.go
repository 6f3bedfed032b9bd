package rollout

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// Roster is a rollout's devices with all that Decide needs counted: what one
// device's change moves is updated at once, so that a decision costs what has
// changed since the last one.
type Roster struct {
	devices map[topic.ID]Device
	orders  Orders
}

// NewRoster counts a rollout's devices.
func NewRoster(_ Rollout, s Snapshot) *Roster {
	f := &Roster{devices: make(map[topic.ID]Device, len(s.Devices)), orders: s.Orders}
	for _, d := range s.Devices {
		f.Put(d)
	}
	return f
}

// Put takes in a device, or what is new about it. Its Record is the newest.
func (f *Roster) Put(d Device) { f.devices[d.ID] = d }

// Remove forgets a device.
func (f *Roster) Remove(id topic.ID) { delete(f.devices, id) }

// Order replaces the standing orders.
func (f *Roster) Order(o Orders) { f.orders = o }

// Decide says what follows at now, as the function Decide does on Snapshot.
// Afterwards the roster is as if the decision were stored: throw it away when
// storing it failed. r may differ from the rollout that the roster was made
// for only as Decide and Ask change it.
func (f *Roster) Decide(r Rollout, now time.Time) Decision {
	d := Decide(r, f.Snapshot(), now)
	for _, c := range d.Changes {
		dev := f.devices[c.Device]
		dev.Record = c.Record
		f.devices[c.Device] = dev
	}
	return d
}

// Snapshot returns the devices, sorted by ID, and the standing orders.
func (f *Roster) Snapshot() Snapshot {
	s := Snapshot{Devices: slices.Collect(maps.Values(f.devices)), Orders: f.orders}
	slices.SortFunc(s.Devices, func(a, b Device) int {
		return cmp.Or(strings.Compare(a.ID.Site, b.ID.Site), strings.Compare(a.ID.Node, b.ID.Node))
	})
	return s
}

// Device returns what is known of one device.
func (f *Roster) Device(id topic.ID) (Device, bool) {
	d, ok := f.devices[id]
	return d, ok
}

// Len is the number of devices.
func (f *Roster) Len() int { return len(f.devices) }
