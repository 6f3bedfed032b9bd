package scenario

import (
	"fmt"
	"slices"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/network"
)

// cast are the releases of a scenario: 1 is what the fleet runs, 2 the one it
// is about, 3 and so on those that come in between.
type cast struct {
	roles   map[artifact.Digest]role
	classes []artifact.Class
}

type role struct {
	device.Release
	on selector.Selector // elsewhere it is sound
}

func newCast(s Scenario) (*cast, error) {
	c := &cast{roles: map[artifact.Digest]role{}, classes: s.classes()}
	natures := []Nature{{}, s.Release}
	steps := slices.Clone(s.Steps)
	slices.SortStableFunc(steps, func(a, b Step) int { return int(a.At - b.At) })
	for _, st := range steps {
		if st.Nature != nil {
			natures = append(natures, *st.Nature)
		}
	}
	for i, n := range natures {
		on, err := selector.Parse(n.On)
		if err != nil {
			return nil, fmt.Errorf("release %d: %w", i+1, err)
		}
		r := c.local(i + 1)
		c.roles[r.Manifest] = role{device.Release{
			Release: r.Release, Head: r.Head, Body: r.Body, Unsigned: n.Unsigned, CrashAtLoad: n.CrashAtLoad, NonFinite: n.NonFinite, CrashAfter: n.CrashAfter,
			MemoryMiB: n.MemoryMiB, Flags: n.Flags, LatencyMs: n.LatencyMs, Bytes: n.Bytes,
		}, on}
	}
	return c, nil
}

// release is release n as the planner knows it: for every class of the fleet.
func (c *cast) release(n int) rollout.Release {
	r := rollouttest.Release(uint64(n))
	r.Variants[0].Classes = c.classes
	return r
}

// local is release n as a device knows it, with its bytes.
func (c *cast) local(n int) device.Release {
	r := c.release(n)
	return device.Release{
		Release: update.Release{
			Name: family, Counter: r.Counter, Manifest: r.Manifest, Model: r.Variants[0].Loaded,
			Limits: artifact.Limits{LatencyP99Ms: 100, MaxFlagShare: 0.3, MinWatchdogObs: 50},
		},
		Head: fmt.Append(nil, "manifest", r.Counter), Body: fmt.Append(nil, "model", r.Counter), // as rollouttest has them
	}
}

// nature says how a release behaves on a device.
func (c *cast) nature(m artifact.Digest, d *device.Device) (device.Release, bool) {
	r, ok := c.roles[m]
	if ok && !r.on.Match(d.Look) {
		return device.Release{Release: r.Release.Release, Head: r.Head, Body: r.Body, Bytes: r.Bytes}, true
	}
	return r.Release, ok
}

// links returns the connection of every device.
func (s Scenario) links() map[string]Link {
	out := map[string]Link{}
	members := s.members()
	for _, k := range s.Network {
		for _, m := range members {
			if selects(k.On, m.look) {
				out[m.id.String()] = k
			}
		}
	}
	return out
}

func (k Link) faults() network.Faults {
	return network.Faults{MinDelay: k.MinDelay, MaxDelay: k.MaxDelay, Drop: k.Drop, Duplicate: k.Duplicate}
}
