// Package network is the virtual network between devices and their hub: it
// delays, drops, doubles and reorders messages and cuts devices off.
//
// Drops model QoS 1 over connections that break: the sender's own repetition
// is its business. The simulator alone imports it.
package network

import (
	"time"

	"github.com/swellfleet/swell/simulator/world"
)

// Faults say how bad a connection is. The zero value is perfect and instant.
type Faults struct {
	MinDelay, MaxDelay time.Duration // drawn for each message, so messages overtake each other
	Drop, Duplicate    float64       // probabilities
}

// Network carries messages and counts them.
type Network struct {
	w *world.World

	Sent, Dropped int
}

// New returns a network without parties.
func New(w *world.World) *Network { return &Network{w: w} }

// Party is one device's connection with the hub.
type Party struct {
	Faults Faults

	net  *Network
	rand *world.Rand
	cuts int // how many causes keep it cut
}

// Party returns the connection of the device with this name.
func (n *Network) Party(name string, f Faults) *Party {
	return &Party{Faults: f, net: n, rand: n.w.Rand("network", name)}
}

// Cut cuts the party off; Heal takes that back. Cuts of several causes add up.
func (p *Party) Cut() { p.cuts++ }

// Heal takes one Cut back.
func (p *Party) Heal() { p.cuts = max(p.cuts-1, 0) }

// Reaches says whether messages get through now.
func (p *Party) Reaches() bool { return p.cuts == 0 }

// Send delivers a message between the hub and the party, and says whether it is
// lost at once. Both being sent and arriving need the connection.
func (p *Party) Send(deliver func()) (sent bool) {
	n := p.net
	n.Sent++
	if p.cuts > 0 || p.rand.Chance(p.Faults.Drop) {
		n.Dropped++
		return false
	}
	copies := 1
	if p.rand.Chance(p.Faults.Duplicate) {
		copies = 2
	}
	arrive := func() {
		if p.cuts > 0 {
			n.Dropped++
			return
		}
		deliver()
	}
	for range copies {
		n.w.In(p.rand.Between(p.Faults.MinDelay, p.Faults.MaxDelay), arrive)
	}
	return true
}
