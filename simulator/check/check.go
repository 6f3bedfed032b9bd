// Package check looks at a simulated world from outside and says what breaks
// the safety properties of a rollout.
//
// It knows the truth about devices that no hub can know, and repeats none of
// the planner's bookkeeping. What a single decision may hold is checked by
// cloud/rollout/rollouttest beside it.
package check

import (
	"fmt"
	"math"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/network"
	"github.com/swellfleet/swell/simulator/world"
)

// Notice is how long a device may be away before the hub has to know.
const Notice = 2 * time.Minute

// MaxViolations bounds what is kept of a run that breaks something over and over.
const MaxViolations = 20

// Violation is a property that did not hold.
type Violation struct {
	At   time.Duration // since the start
	What string
}

// Checker watches one world. Call Event after every event and Leases with
// every decision that lets devices activate.
type Checker struct {
	World   *world.World
	Net     *network.Network
	Devices []*device.Device
	Budgets []rollout.Budget
	Release artifact.Digest // the one on its way

	violations []Violation
	awaySince  map[*device.Device]time.Duration
	acting     map[*device.Device]artifact.Digest
	sizes      map[string]map[string]int // of groups, by label and value
	haltedAt   time.Duration             // 0: not halted
	haltLimit  time.Duration
}

// Violations returns what did not hold, oldest first.
func (c *Checker) Violations() []Violation { return c.violations }

// Fault records a violation that another party saw.
func (c *Checker) Fault(format string, args ...any) {
	if len(c.violations) < MaxViolations {
		c.violations = append(c.violations, Violation{c.World.Elapsed(), fmt.Sprintf(format, args...)})
	}
}

// Halted says that from limit on nothing may start to act any more.
func (c *Checker) Halted(limit time.Duration) {
	if c.haltedAt == 0 {
		c.haltedAt, c.haltLimit = c.World.Elapsed(), c.World.Elapsed()+limit
	}
}

// Event looks at every device.
func (c *Checker) Event(string) {
	if c.awaySince == nil {
		c.awaySince, c.acting, c.sizes = map[*device.Device]time.Duration{}, map[*device.Device]artifact.Digest{}, map[string]map[string]int{}
	}
	flying := make([]map[string]int, len(c.Budgets))
	for i := range flying {
		flying[i] = map[string]int{}
	}
	now := c.World.Elapsed()
	for _, d := range c.Devices {
		if c.away(d) {
			if _, ok := c.awaySince[d]; !ok {
				c.awaySince[d] = now
			}
		} else {
			delete(c.awaySince, d)
		}
		if a := d.Acting(); a != c.acting[d] {
			began := a == c.Release && c.acting[d] != "" // not a restart of what ran
			if began && c.haltedAt > 0 && now > c.haltLimit {
				c.Fault("%s starts to act on the release %s after the halt", d.ID(), now-c.haltedAt)
			}
			c.acting[d] = a
		}
		if d.InFlight() {
			for i, b := range c.Budgets {
				flying[i][d.Labels()[b.GroupBy]]++
			}
		}
	}
	for i, b := range c.Budgets {
		for name, n := range flying[i] {
			if limit := c.limit(b, name); n > limit {
				c.Fault("%s=%s has %d devices swapping or soaking at once, allowed are %d", b.GroupBy, name, n, limit)
			}
		}
	}
}

// Leases looks at the groups in which the hub has just let n devices activate.
func (c *Checker) Leases(granted map[string]bool) {
	for _, b := range c.Budgets {
		count, touched := map[string]int{}, map[string]int{}
		for _, d := range c.Devices {
			name := d.Labels()[b.GroupBy]
			since, gone := c.awaySince[d]
			switch {
			case granted[d.ID().String()]:
				touched[name]++
				count[name]++
			case d.InFlight(), gone && c.World.Elapsed()-since > Notice:
				count[name]++
			}
		}
		for name := range touched {
			if limit := c.limit(b, name); count[name] > limit {
				c.Fault("%s=%s has %d devices away or in flight with %d new leases, allowed are %d", b.GroupBy, name, count[name], touched[name], limit)
			}
		}
	}
}

func (c *Checker) away(d *device.Device) bool {
	return !d.On() || !c.Net.Reaches(d.ID().String())
}

// limit recomputes how many devices of a group may be unavailable.
func (c *Checker) limit(b rollout.Budget, name string) int {
	if c.sizes[b.GroupBy] == nil {
		c.sizes[b.GroupBy] = map[string]int{}
		for _, d := range c.Devices {
			c.sizes[b.GroupBy][d.Labels()[b.GroupBy]]++
		}
	}
	size := c.sizes[b.GroupBy][name]
	n := float64(size)
	if b.MaxUnavailable > 0 {
		n = min(n, float64(b.MaxUnavailable))
	}
	if b.MaxUnavailableShare > 0 {
		n = min(n, math.Floor(b.MaxUnavailableShare*float64(size)+1e-9))
	}
	if b.MinAvailable > 0 {
		n = min(n, float64(size-b.MinAvailable))
	}
	if b.MinAvailableShare > 0 {
		n = min(n, float64(size)-math.Ceil(b.MinAvailableShare*float64(size)-1e-9))
	}
	return int(n)
}

// AtRest looks at the world after the faults have stopped and the rollout has
// ended: every device runs what it should, and the hub counts what is true.
func (c *Checker) AtRest(r rollout.Rollout, done int) {
	runs := 0
	for _, d := range c.Devices {
		switch {
		case !d.On():
			c.Fault("%s is off at rest", d.ID())
		case d.Acting() == c.Release:
			runs++
			if r.State != rollout.Promoted && r.Previous != nil {
				c.Fault("%s still runs the release of a rollout that %s", d.ID(), r.State)
			}
		case d.Acting() == "" && d.Confirmed:
			c.Fault("nothing acts on %s", d.ID())
		}
	}
	if !r.State.Final() {
		c.Fault("the rollout has no end: %s: %s", r.State, r.Reason)
	}
	if r.State == rollout.Promoted && done > runs {
		c.Fault("the hub counts %d devices as done and %d run the release", done, runs)
	}
}
