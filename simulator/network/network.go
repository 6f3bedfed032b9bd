// Package network is the virtual network between devices and their hub: it
// delays, drops, doubles and reorders messages and cuts sites off.
//
// A party is named "site/node"; the hub is Hub. Drops model QoS 1 over
// connections that break: the sender's own repetition is its business.
package network

import (
	"time"

	"github.com/swellfleet/swell/simulator/world"
)

// Hub names the hub.
const Hub = "hub"

// Faults say how bad the network is. The zero value is perfect and instant.
type Faults struct {
	MinDelay, MaxDelay time.Duration // drawn for each message, so messages overtake each other
	Drop, Duplicate    float64       // probabilities
}

// Network carries messages.
type Network struct {
	Faults Faults
	// Of returns the faults of one party's connection; nil: those above.
	Of func(party string) Faults

	w    *world.World
	rand *world.Rand
	cut  map[string]int // parties that are cut off, by how many causes

	Sent, Dropped, Doubled int
}

// New returns a network without faults.
func New(w *world.World) *Network {
	return &Network{w: w, rand: w.Rand("network"), cut: map[string]int{}}
}

// Cut cuts a party off; Heal takes that back. Cuts of several causes add up.
func (n *Network) Cut(party string) { n.cut[party]++ }

// Heal takes one Cut back.
func (n *Network) Heal(party string) { n.cut[party] = max(n.cut[party]-1, 0) }

// Reaches says whether messages of a party get through now.
func (n *Network) Reaches(party string) bool { return n.cut[party] == 0 }

// Send delivers a message between the hub and a party, or loses it. Both being
// sent and arriving need the connection.
func (n *Network) Send(party, what string, deliver func()) {
	n.Sent++
	f := n.Faults
	if n.Of != nil {
		f = n.Of(party)
	}
	if !n.Reaches(party) || n.rand.Chance(f.Drop) {
		n.Dropped++
		return
	}
	copies := 1
	if n.rand.Chance(f.Duplicate) {
		copies, n.Doubled = 2, n.Doubled+1
	}
	for range copies {
		n.w.In(n.rand.Between(f.MinDelay, f.MaxDelay), what+" "+party, func() {
			if !n.Reaches(party) {
				n.Dropped++
				return
			}
			deliver()
		})
	}
}
