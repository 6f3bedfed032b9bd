package scenario

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/world"
)

// Scenario is what a file says. docs/scenarios.md describes the language, and
// String writes it.
type Scenario struct {
	Name   string
	Seed   uint64
	Start  time.Time // the hub's clock at the beginning; zero: world.Start
	Fleet  []Group   // at least one
	First  bool      // devices have no model at the start
	For    time.Duration
	Select string // the devices of the rollout; "" is every device
	Policy rollout.Policy

	Network []Link // of several that match a device the last one counts
	Faults  []Fault
	Release Nature
	Steps   []Step
	Expect  []Expectation
}

// Group is a number of devices that are alike, spread over lines.
type Group struct {
	Devices int
	Lines   int            // L1 to Ln, unless Labels say the line; 0 is 1
	Node    string         // the name of a single device; "" numbers them: CLASS-00000
	Site    string         // "" is hall-1
	Class   artifact.Class // "" is pump
	// Labels are further labels. Without "hardware" the devices are v1 and v2.
	Labels map[string]string
	Exact  bool          // it has no labels but these
	Joins  time.Duration // switched on for the first time this long after the beginning
}

// Link is what connects the devices it matches with their hub. The zero value
// is perfect and instant.
type Link struct {
	On                 string        // selector; "" is every device
	MinDelay, MaxDelay time.Duration // of one message, each its own
	Drop, Duplicate    float64       // probabilities
	// BitsPerS is what a download gets. 0: a release is there within 20 s.
	BitsPerS float64
}

// Nature says how a release behaves on devices.
type Nature struct {
	Flags       float64       // times as many flags as a sound model; 0 is 1
	LatencyMs   float64       // p99 of one inference; 0 is 2
	NonFinite   time.Duration // acts so long, then yields NaN; 0: never
	CrashAfter  time.Duration // acts so long, then takes the agent down, again and again; 0: never
	MemoryMiB   float64       // grows so much in an hour in which it is loaded; 0: not
	CrashAtLoad bool
	Unsigned    bool
	Bytes       float64 // of a download; 0 is 5 MB
	On          string  // selector: elsewhere it is sound; "" is everywhere
}

// Fault strikes every device that it matches again and again, until the
// scenario's faults end.
type Fault struct {
	Kind  string        // see Kinds
	Every time.Duration // mean time between two of one device
	For   time.Duration // mean length of each
	On    string        // selector; "" is every device
}

// Step is something that happens at one time.
type Step struct {
	At     time.Duration
	Verb   string // see verbs, people and Kinds
	Who    string // the selector of devices; of a freeze its name; "crash" of the hub, "restart" of the broker
	Select string // the selector of a freeze
	For    time.Duration
	By     string // the person; "" is ada
	Arg    string // a reason, or the labels of relabel
	// Nature is that of the release proposed by this step; nil for other verbs.
	Nature *Nature
}

// Expectation is what has to be true at the end.
type Expectation struct {
	What    string // see wishes
	Rollout string // "r-2", "r-3", …; "" is the first, r-2
	Op      string // =, <=, >=, before, after, contains, lacks
	Value   string
}

// Devices returns how many devices there are.
func (s Scenario) Devices() int {
	n := 0
	for _, g := range s.Fleet {
		n += g.Devices
	}
	return n
}

// WithDevices returns the scenario with at most n devices, taken evenly from its
// groups; a group that would be empty is left out.
func (s Scenario) WithDevices(n int) Scenario {
	all := s.Devices()
	if n >= all || all == 0 {
		return s
	}
	fleet := s.Fleet
	s.Fleet = nil
	before, kept := 0, 0
	for _, g := range fleet {
		before += g.Devices
		g.Devices = n*before/all - kept
		kept += g.Devices
		if g.Devices > 0 {
			s.Fleet = append(s.Fleet, g)
		}
	}
	return s
}

// member is one device before it is made.
type member struct {
	id     topic.ID
	class  artifact.Class
	labels map[string]string
	joins  time.Duration
}

// withDefaults says site and class.
func (g Group) withDefaults() Group {
	if g.Site == "" {
		g.Site = "hall-1"
	}
	if g.Class == "" {
		g.Class = "pump"
	}
	return g
}

func nodeName(class string, i int) string { return fmt.Sprintf("%s-%05d", class, i) }

// members lists the devices of all groups, in the file's order.
func (s Scenario) members() []member {
	var out []member
	next := map[string]int{}
	for _, g := range s.Fleet {
		g = g.withDefaults()
		site, class, lines := g.Site, g.Class, max(g.Lines, 1)
		for i := range g.Devices {
			labels := map[string]string{"line": fmt.Sprintf("L%d", i%lines+1), "hardware": fmt.Sprintf("v%d", i/lines%2+1)}
			if g.Exact {
				clear(labels)
			}
			maps.Copy(labels, g.Labels)
			node := g.Node
			if node == "" {
				key := site + "/" + string(class)
				node = nodeName(string(class), next[key])
				next[key]++
			}
			out = append(out, member{topic.ID{Site: site, Node: node}, class, labels, g.Joins})
		}
	}
	return out
}

// classes lists the classes of the fleet.
func (s Scenario) classes() []artifact.Class {
	var out []artifact.Class
	for _, g := range s.Fleet {
		c := g.withDefaults().Class
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// look is what a selector sees of a device.
func (m member) look(key string) (string, bool) {
	switch key {
	case "site":
		return m.id.Site, true
	case "node":
		return m.id.Node, true
	case "name":
		return m.id.String(), true
	case "class":
		return string(m.class), true
	}
	v, ok := m.labels[key]
	return v, ok
}

// Begin is the first moment of the scenario.
func (s Scenario) Begin() time.Time {
	if s.Start.IsZero() {
		return world.Start
	}
	return s.Start
}

// Sizes counts the devices of each group that share the value of a label.
func (s Scenario) Sizes(label string) map[string]int {
	out := map[string]int{}
	for _, m := range s.members() {
		v, _ := m.look(label)
		out[v]++
	}
	return out
}
