// Package check looks at a simulated world from outside and says what breaks
// the safety properties of a rollout.
//
// The parties are the devices, whose truth it knows as no hub can, and the hub,
// whose decisions it hears of. It repeats none of the planner's bookkeeping:
// it counts from the truth about devices and from the reports that arrived.
// After an event it looks at the devices that changed, and at a group when one
// of its devices is let go. The simulator alone imports it.
package check

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/network"
	"github.com/swellfleet/swell/simulator/world"
)

const (
	// Notice is how long a device may be away before the hub has to know.
	Notice = 2 * time.Minute
	// MaxViolations bounds what is kept of a run that breaks something over and
	// over.
	MaxViolations = 20
	// onItsWay is how long a document may take after it was decided.
	onItsWay = 90 * time.Second
	// settles is how long groups may be over their budget because a device was
	// given to another one in the middle of its swap.
	settles = time.Hour
)

// Violation is a property that did not hold.
type Violation struct {
	At   time.Duration // since the start
	What string
}

// Seat is one device: what it is, and beside it what the hub was told.
type Seat struct {
	Device *device.Device
	Party  *network.Party
	Known  rollout.Device            // as folded from the reports that arrived; without a record
	Memory map[string]rollout.Record // what rollouts have committed about it, by name

	// Tried are the releases that ever acted on it.
	Tried []artifact.Digest

	shown    map[artifact.Digest]uint64 // counting windows with items that reached the hub, by challenger
	away     bool
	awayFrom time.Duration
	acting   artifact.Digest
	actFrom  time.Duration
	flying   bool
	groups   []*group          // one for each budget
	good     []artifact.Digest // confirmed here, or ordered back by the hub
	leased   time.Time         // until when it may use a permission
}

// group are the devices that share a budget.
type group struct {
	name   string
	limit  int // how many may be unavailable
	seats  []*Seat
	flying int
	loose  time.Duration // until then nothing is asked of it
}

// Checker watches one world.
type Checker struct {
	World  *world.World
	Policy rollout.Policy
	Seats  []*Seat // in the order of their IDs, once Begin was called

	violations []Violation
	byID       map[topic.ID]*Seat
	byDevice   map[*device.Device]*Seat
	groups     []map[string]*group // one map for each budget
	halts      map[artifact.Digest]halt
	banned     map[artifact.Digest]bool
	frozen     map[string]freeze
	// Canaries are the devices of the first wave, of the first rollout that had
	// one.
	Canaries []topic.ID
}

type freeze struct {
	sel   selector.Selector
	until time.Time // zero: until it is lifted
}

// halt says from when on nothing may start to act on a release.
type halt struct{ at, limit time.Duration }

// Add brings a device under watch. Call Begin after the last one.
func (c *Checker) Add(s *Seat, confirmed ...artifact.Digest) {
	s.Memory, s.shown, s.good = map[string]rollout.Record{}, map[artifact.Digest]uint64{}, confirmed
	s.away = true
	c.Seats = append(c.Seats, s)
}

// Begin sorts the devices and their groups.
func (c *Checker) Begin() {
	slices.SortFunc(c.Seats, func(a, b *Seat) int { return compareID(a.Device.ID(), b.Device.ID()) })
	c.byID, c.byDevice = map[topic.ID]*Seat{}, map[*device.Device]*Seat{}
	c.halts, c.banned, c.frozen = map[artifact.Digest]halt{}, map[artifact.Digest]bool{}, map[string]freeze{}
	c.groups = make([]map[string]*group, len(c.Policy.Budgets))
	for i := range c.groups {
		c.groups[i] = map[string]*group{}
	}
	for _, s := range c.Seats {
		c.byID[s.Device.ID()], c.byDevice[s.Device] = s, s
		c.join(s)
	}
}

// Of returns the place of a device.
func (c *Checker) Of(d *device.Device) *Seat { return c.byDevice[d] }

// Violations returns what did not hold, oldest first.
func (c *Checker) Violations() []Violation { return c.violations }

// Fault records a violation that another party saw.
func (c *Checker) Fault(format string, args ...any) {
	if len(c.violations) < MaxViolations {
		c.violations = append(c.violations, Violation{c.World.Elapsed(), fmt.Sprintf(format, args...)})
	}
}

// join books a device in its groups.
func (c *Checker) join(s *Seat) {
	s.groups = make([]*group, len(c.groups))
	for i, b := range c.Policy.Budgets {
		name, _ := s.Device.Look(b.GroupBy)
		g := c.groups[i][name]
		if g == nil {
			g = &group{name: name}
			c.groups[i][name] = g
		}
		g.seats = append(g.seats, s)
		g.limit = limit(b, len(g.seats))
		if s.flying {
			g.flying++
		}
		s.groups[i] = g
	}
}

// Relabelled says that a device has other labels now. The groups it left and
// came to may be over their budgets until it has landed.
func (c *Checker) Relabelled(s *Seat) {
	loosen := func() {
		for _, g := range s.groups {
			g.loose = c.World.Elapsed() + settles
		}
	}
	loosen()
	for i, g := range s.groups {
		g.seats = slices.DeleteFunc(g.seats, func(o *Seat) bool { return o == s })
		g.limit = limit(c.Policy.Budgets[i], len(g.seats))
		if s.flying {
			g.flying--
		}
	}
	c.join(s)
	loosen()
}

// Changed looks at a device after its power, its connection, what acts on it or
// its phase has changed.
func (c *Checker) Changed(d *device.Device) {
	s, now := c.byDevice[d], c.World.Elapsed()
	if away := !d.On() || !s.Party.Reaches(); away != s.away {
		s.away, s.awayFrom = away, now
	}
	if a := d.Acting(); a != s.acting {
		c.began(s, a)
	}
	if d.Phase().Final() {
		s.leased = time.Time{} // the trial that it was for has ended
	}
	flying := d.InFlight()
	if flying == s.flying {
		return
	}
	s.flying = flying
	for i, g := range s.groups {
		if !flying {
			g.flying--
			continue
		}
		g.flying++
		if g.flying > g.limit && now > g.loose {
			c.Fault("%s=%s has %d devices swapping or soaking at once, allowed are %d", c.Policy.Budgets[i].GroupBy, g.name, g.flying, g.limit)
		}
	}
}

// began looks at a release that starts to act. One that follows nothing is what
// a restart brings back.
func (c *Checker) began(s *Seat, a artifact.Digest) {
	now := c.World.Elapsed()
	if h, ok := c.halts[a]; ok && now > h.limit && s.acting != "" {
		c.Fault("%s starts to act on a release %s after it was halted", s.Device.Name(), (now - h.at).Round(time.Second))
	}
	if a != "" && !slices.Contains(s.Tried, a) {
		s.Tried = append(s.Tried, a)
	}
	s.acting, s.actFrom = a, now
}

// Saved looks at a journal that was made durable: the release to go back to is
// one that has soaked, or that the hub ordered back.
func (c *Checker) Saved(d *device.Device, j *update.Journal) {
	s := c.byDevice[d]
	if j.State.LastGood == 0 {
		return
	}
	m := j.Releases[j.State.LastGood-1].Manifest
	if slices.Contains(s.good, m) {
		return
	}
	acted := c.World.Elapsed() - s.actFrom
	if s.acting == m && acted.Seconds() >= c.Policy.SoakS-1 {
		s.good = append(s.good, m)
		return
	}
	if s.acting != m {
		acted = 0
	}
	c.Fault("%s overwrites the release to go back to by one that has acted for %s of the %.0f s of its soak", d.Name(), acted.Round(time.Second), c.Policy.SoakS)
	s.good = append(s.good, m) // once is enough
}

// Reported looks at a report that has arrived.
func (c *Checker) Reported(s *Seat, r twin.Reported) {
	if r.Trial == nil || r.Trial.Shadow == nil || r.Trial.Mode != twin.ModeTrial {
		return
	}
	n := uint64(0)
	for _, w := range r.Trial.Shadow.Windows {
		if w.Items > 0 {
			n++
		}
	}
	s.shown[r.Trial.Manifest] = max(s.shown[r.Trial.Manifest], n)
}

// Published looks at a document on its way to a device: no rollout may know of
// more than two releases.
func (c *Checker) Published(s *Seat, doc twin.Desired, known func(rollout string) (release, previous artifact.Digest)) {
	a := doc.Model
	if a == nil {
		return
	}
	release, previous := known(a.Rollout)
	if a.Manifest != release && a.Manifest != previous {
		c.Fault("%s is told to run a third version by %s", s.Device.Name(), a.Rollout)
	}
	if a.Mode == twin.ModeRollback && !slices.Contains(s.good, a.Manifest) {
		s.good = append(s.good, a.Manifest)
	}
}

// Freeze says that a person froze devices.
func (c *Checker) Freeze(f rollout.Freeze) {
	sel, err := selector.Parse(f.Selector)
	if err != nil {
		c.Fault("the hub took a freeze of %q: %v", f.Selector, err)
		return
	}
	c.frozen[f.Name] = freeze{sel, f.Until}
}

// Unfreeze says that a person lifted a freeze.
func (c *Checker) Unfreeze(name string) { delete(c.frozen, name) }

// Ban says whether a release is in quarantine.
func (c *Checker) Ban(m artifact.Digest, on bool) { c.banned[m] = on }

func (c *Checker) isFrozen(s *Seat) bool {
	for _, f := range c.frozen {
		if (f.until.IsZero() || c.World.Now().Before(f.until)) && f.sel.Match(s.Known.Look) {
			return true
		}
	}
	return false
}

// Stands takes in the state a rollout is in after a commit.
func (c *Checker) Stands(r rollout.Rollout) {
	m := r.Release.Manifest
	switch r.State {
	case rollout.Paused, rollout.RollingBack, rollout.Aborted, rollout.Failed, rollout.Superseded:
		if _, ok := c.halts[m]; !ok {
			// A lease that was out may still be used, and a document be on its way.
			lease := seconds(orElse(r.Policy.LeaseS, 600))
			c.halts[m] = halt{c.World.Elapsed(), c.World.Elapsed() + lease + onItsWay}
		}
	default:
		delete(c.halts, m)
	}
}

// limit recomputes how many of a group may be unavailable.
func limit(b rollout.Budget, size int) int {
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
	return max(int(n), 0)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func orElse(v, def float64) float64 {
	if v == 0 {
		return def
	}
	return v
}
