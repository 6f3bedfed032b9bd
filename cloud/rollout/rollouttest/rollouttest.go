// Package rollouttest makes fleets for tests of the planner and checks its
// decisions against the safety properties of cloud/rollout.
//
// Tests and the simulator use it; the product does not. It recomputes what it
// checks from the snapshot by itself, so that a fault of the planner is not
// repeated here.
package rollouttest

import (
	"fmt"
	"math"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Class and Arch are those of the devices that Fleet makes.
const (
	Class artifact.Class = "pump"
	Arch                 = "amd64"
)

// Release makes up counter n of the family "pump-anomaly".
func Release(n uint64) rollout.Release {
	return rollout.Release{
		Kind: artifact.Model, Name: "pump-anomaly", Counter: n, Manifest: artifact.Of(fmt.Append(nil, "manifest", n)),
		Variants: []rollout.Variant{{Classes: []artifact.Class{Class}, Loaded: artifact.Of(fmt.Append(nil, "model", n))}},
	}
}

// Fleet makes n connected devices on the given number of lines, seen at now,
// which run release champion; nil runs nothing.
func Fleet(n, lines int, champion *rollout.Release, now time.Time) []rollout.Device {
	ds := make([]rollout.Device, n)
	for i := range ds {
		d := &ds[i]
		d.ID = topic.ID{Site: "hall-1", Node: fmt.Sprintf("pump-%05d", i)}
		d.Class, d.Arch, d.Connected, d.SeenAt = Class, Arch, true, now
		d.Labels = map[string]string{
			"site": "hall-1", "class": string(Class), "line": fmt.Sprintf("L%d", i%lines+1),
			"hardware": fmt.Sprintf("v%d", i/lines%2+1),
		}
		if champion != nil {
			d.Champion = Running(*champion)
		}
	}
	return ds
}

// Running is what a device attests that runs r.
func Running(r rollout.Release) rollout.Champion {
	return rollout.Champion{Manifest: r.Manifest, Loaded: r.Variants[0].Loaded, Counter: r.Counter}
}

// Check returns what a decision breaks of the safety properties, in sentences;
// nil when nothing. Before and s are what was decided on.
func Check(before rollout.Rollout, s rollout.Snapshot, d rollout.Decision, now time.Time) []string {
	var bad []string
	fault := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	devices := map[topic.ID]rollout.Device{}
	for _, dev := range s.Devices {
		devices[dev.ID] = dev
	}
	after := d.Rollout

	offered := map[artifact.Digest]bool{}
	for i, c := range d.Changes {
		dev, ok := devices[c.Device]
		if !ok {
			fault("changes %s, which is not in the snapshot", c.Device)
			continue
		}
		if i > 0 && d.Changes[i-1].Device.String() >= c.Device.String() {
			fault("changes are not sorted at %s", c.Device)
		}
		a, l := after.Documents(c.Record)
		if a != nil {
			offered[a.Manifest] = true
		}
		fresh := dev.Record.Offer != rollout.OfferRelease && c.Record.Offer == rollout.OfferRelease
		if fresh && after.State.Final() && after.State != rollout.Promoted || fresh && (after.State == rollout.Paused || after.State == rollout.RollingBack) {
			fault("offers the release to %s while %s", c.Device, after.State)
		}
		if fresh {
			able := false
			for _, v := range after.Release.Variants {
				for _, class := range v.Classes {
					able = able || class == dev.Class && (v.Arch == "" || v.Arch == dev.Arch)
				}
			}
			if !able {
				fault("offers to %s of class %s", c.Device, dev.Class)
			}
			if after.Release.Counter < dev.Floor {
				fault("offers counter %d to %s below its floor %d", after.Release.Counter, c.Device, dev.Floor)
			}
		}
		if l != nil && c.Record.Offer == rollout.OfferRelease && c.Record.Lease > dev.Record.Lease {
			if after.State == rollout.Paused || after.State == rollout.RollingBack || after.State.Final() && after.State != rollout.Promoted {
				fault("lets %s activate while %s", c.Device, after.State)
			}
			if !l.ExpiresAt.After(now) {
				fault("gives %s a lease that has ended", c.Device)
			}
			if w := c.Record.Wave - 1; w < len(after.Waves) && after.State != rollout.Promoted {
				for _, v := range after.Waves[w].Gates {
					if v.Gate == rollout.GateShadow && v.Applies && v.Result != rollout.Pass && after.Waves[w].Cleared.IsZero() {
						fault("lets %s activate and the shadow gate says %s", c.Device, v.Result)
					}
				}
			}
		}
	}
	delete(offered, after.Release.Manifest)
	if after.Previous != nil {
		delete(offered, after.Previous.Manifest)
	}
	if len(offered) > 0 {
		fault("offers a third version")
	}

	for w := before.Wave; w < after.Wave && w < len(after.Waves); w++ {
		times := after.Waves[w]
		if times.Size == 0 && w == 0 {
			fault("the first wave is empty and passed")
		}
		if times.Size > 0 && len(times.Gates) == 0 {
			fault("wave %d passed without a verdict", w+1)
		}
		for _, v := range times.Gates {
			if v.Applies && v.Result != rollout.Pass {
				fault("wave %d passed and the %s gate said %s", w+1, v.Gate, v.Result)
			}
			if v.Result == rollout.Pass && (v.N == 0 || !v.Applies) {
				fault("the %s gate passed on no data", v.Gate)
			}
		}
	}
	bad = append(bad, budgets(before, s, d, now)...)

	again := rollout.Decide(after, rollout.Apply(s, d), now)
	if again.Changed {
		fault("deciding again changes something: %s, then %s; %d changes", d.Summary, again.Summary, len(again.Changes))
	}
	return bad
}

// budgets checks that no group that gets a new lease is over its budget then.
func budgets(before rollout.Rollout, s rollout.Snapshot, d rollout.Decision, now time.Time) []string {
	var bad []string
	given := map[topic.ID]bool{}
	for _, c := range d.Changes {
		for _, dev := range s.Devices {
			if dev.ID == c.Device && c.Record.Lease > dev.Record.Lease {
				given[c.Device] = true
			}
		}
	}
	stale := 180.0
	if before.Policy.StaleS > 0 {
		stale = before.Policy.StaleS
	}
	for _, b := range before.Policy.Budgets {
		size, away, leases := map[string]int{}, map[string]int{}, map[string]int{}
		for _, dev := range s.Devices {
			name := dev.Labels[b.GroupBy]
			size[name]++
			acting := dev.Trial.Rollout == before.Name && (dev.Trial.Phase == twin.PhaseActivating || dev.Trial.Phase == twin.PhaseSoaking)
			ended := dev.Trial.Rollout == before.Name && dev.Trial.Try == dev.Record.Try && dev.Trial.Phase.Final()
			if given[dev.ID] || acting || !dev.Connected || dev.Degraded || now.Sub(dev.SeenAt).Seconds() > stale ||
				now.Before(dev.Record.LeaseUntil) && !ended {
				away[name]++
			}
			if given[dev.ID] {
				leases[name]++
			}
		}
		for name, n := range away {
			limit := float64(size[name])
			if b.MaxUnavailable > 0 {
				limit = min(limit, float64(b.MaxUnavailable))
			}
			if b.MaxUnavailableShare > 0 {
				limit = min(limit, math.Floor(b.MaxUnavailableShare*float64(size[name])+1e-9))
			}
			if b.MinAvailable > 0 {
				limit = min(limit, float64(size[name]-b.MinAvailable))
			}
			if b.MinAvailableShare > 0 {
				limit = min(limit, float64(size[name])-math.Ceil(b.MinAvailableShare*float64(size[name])-1e-9))
			}
			if leases[name] > 0 && float64(n) > limit {
				bad = append(bad, fmt.Sprintf("%s=%s has %d of %d devices unavailable after %d new leases, allowed are %.0f", b.GroupBy, name, n, size[name], leases[name], limit))
			}
		}
	}
	return bad
}
