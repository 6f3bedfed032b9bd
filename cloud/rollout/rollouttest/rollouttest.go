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
	"github.com/swellfleet/swell/cloud/rollout/calendar"
	"github.com/swellfleet/swell/cloud/selector"
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
// which run release champion; nil runs nothing. They are sorted by ID.
func Fleet(n, lines int, champion *rollout.Release, now time.Time) []rollout.Device {
	ds := make([]rollout.Device, n)
	digits := max(len(fmt.Sprint(n)), 5)
	for i := range ds {
		d := &ds[i]
		d.ID = topic.ID{Site: "hall-1", Node: fmt.Sprintf("pump-%0*d", digits, i)}
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
	changes := map[topic.ID]rollout.Record{}
	for _, c := range d.Changes {
		changes[c.Device] = c.Record
	}

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
			if !able(after.Release, &dev) {
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
	bad = append(bad, budgets(before, s, changes, now)...)
	bad = append(bad, orders(before, s, d, changes, now)...)
	bad = append(bad, draws(before, s, d, now)...)
	bad = append(bad, counted(s, d, changes, now)...)

	again := rollout.Decide(after, rollout.Apply(s, d), now)
	if again.Changed {
		fault("deciding again changes something: %s, then %s; %d changes", d.Summary, again.Summary, len(again.Changes))
	}
	return bad
}

// able says whether a release has a variant for a device.
func able(r rollout.Release, dev *rollout.Device) bool {
	for _, v := range r.Variants {
		for _, class := range v.Classes {
			if class == dev.Class && (v.Arch == "" || v.Arch == dev.Arch) {
				return true
			}
		}
	}
	return false
}

// budgets checks that no group that gets a new lease is over its budget then.
func budgets(before rollout.Rollout, s rollout.Snapshot, changes map[topic.ID]rollout.Record, now time.Time) []string {
	var bad []string
	given := map[topic.ID]bool{}
	for _, dev := range s.Devices {
		if rec, ok := changes[dev.ID]; ok && rec.Lease > dev.Record.Lease {
			given[dev.ID] = true
		}
	}
	if len(given) == 0 {
		return nil
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

// orders checks that nobody is touched outside the windows, within a freeze, by
// a quarantined release, or sent back below a floor.
func orders(before rollout.Rollout, s rollout.Snapshot, d rollout.Decision, changes map[topic.ID]rollout.Record, now time.Time) []string {
	var bad []string
	fault := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	after := d.Rollout
	banned := map[artifact.Digest]bool{}
	for _, q := range s.Orders.Quarantined {
		banned[q.Manifest] = true
	}
	if banned[after.Release.Manifest] && after.State != rollout.RollingBack && after.State != rollout.Superseded && (!after.State.Final() || after.State == rollout.Promoted) {
		fault("the release is quarantined and the rollout is %s", after.State)
	}
	for i := range s.Devices {
		dev := &s.Devices[i]
		rec, ok := changes[dev.ID]
		if !ok {
			continue
		}
		a, l := after.Documents(rec)
		if a != nil && banned[a.Manifest] {
			fault("offers %s a quarantined release", dev.ID)
		}
		if rec.Offer == rollout.OfferRollback && after.Previous.Counter < dev.Floor {
			fault("sends %s back to counter %d below its floor %d", dev.ID, after.Previous.Counter, dev.Floor)
		}
		if rec.Offer == rollout.OfferRollback && rec.Offer != dev.Record.Offer && !able(*after.Previous, dev) {
			fault("sends %s of class %s back to a release without a variant for it", dev.ID, dev.Class)
		}
		leased := l != nil && rec.Offer == rollout.OfferRelease && rec.Lease > dev.Record.Lease
		offered := rec.Offer == rollout.OfferRelease && (dev.Record.Offer != rollout.OfferRelease || rec.Try > dev.Record.Try)
		if !leased && !offered {
			continue
		}
		for _, f := range s.Orders.Freezes {
			if sel, err := selector.Parse(f.Selector); err == nil && !sel.Match(dev.Look) {
				continue
			}
			if over := !f.Until.IsZero() && !now.Before(f.Until); !over && !now.Before(f.From) {
				fault("touches %s within the freeze %q", dev.ID, f.Name)
			} else if leased && !over && l.ExpiresAt.After(f.From) {
				fault("the lease of %s reaches into the freeze %q", dev.ID, f.Name)
			}
		}
		if leased && len(before.Policy.Windows) > 0 && !(open(before.Policy, dev, now) && open(before.Policy, dev, l.ExpiresAt.Add(-time.Millisecond))) {
			fault("lets %s activate outside its windows", dev.ID)
		}
	}
	return bad
}

// open says whether one of the device's windows is open at t.
func open(p rollout.Policy, dev *rollout.Device, t time.Time) bool {
	for _, w := range p.Windows {
		if sel, err := selector.Parse(w.Selector); err != nil || !sel.Match(dev.Look) {
			continue
		}
		zone := w.Zone
		if zone == "" {
			zone = dev.Labels["zone"]
		}
		if zone == "" {
			zone = "UTC"
		}
		c, err := calendar.New(calendar.Spec{
			Zone: zone, Days: w.Days, From: w.From, To: w.To, Start: w.Start, EveryDays: w.EveryDays, On: w.On, Except: w.Except, Also: w.Also,
		})
		if err == nil && c.Open(t) {
			return true
		}
	}
	return false
}

// draws checks that a wave that begins is a stratified sample of those that
// could be in it: there is one share of which the part that every stratum of
// the first label gave is within one device.
func draws(before rollout.Rollout, s rollout.Snapshot, d rollout.Decision, now time.Time) []string {
	after := d.Rollout
	drawn := map[topic.ID]int{}
	for _, c := range d.Changes {
		if c.Kind == rollout.ChangeOffer && c.Record.OfferedAt.Equal(now) {
			drawn[c.Device] = c.Record.Wave
		}
	}
	label := "line"
	if len(before.Policy.Stratify) > 0 {
		label = before.Policy.Stratify[0]
	}
	var bad []string
	for i, w := range after.Waves {
		if w.Size == 0 || !w.Started.Equal(now) || i < len(before.Waves) && !before.Waves[i].Started.IsZero() || i >= len(after.Policy.Waves) {
			continue
		}
		sel, err := selector.Parse(after.Policy.Waves[i].Selector)
		size, gave := map[string]int{}, map[string]int{}
		for k := range s.Devices {
			dev := &s.Devices[k]
			if drawn[dev.ID] == i+1 {
				gave[dev.Labels[label]]++
			}
			may := dev.Record.Wave == 0 && dev.Record.Offer == rollout.OfferNone && (drawn[dev.ID] == 0 || drawn[dev.ID] > i) &&
				after.Stand(*dev, now).State == rollout.DevicePending
			for _, f := range s.Orders.Freezes {
				fsel, ferr := selector.Parse(f.Selector)
				if (ferr != nil || fsel.Match(dev.Look)) && !now.Before(f.From) && (f.Until.IsZero() || now.Before(f.Until)) {
					may = false
				}
			}
			if may && err == nil && sel.Match(dev.Look) {
				size[dev.Labels[label]]++
			}
		}
		from, to := 0.0, math.Inf(1)
		for name, n := range gave {
			if n > size[name] {
				bad = append(bad, fmt.Sprintf("wave %d has %d devices of %s=%s, where %d could be drawn", i+1, n, label, name, size[name]))
			}
		}
		for name, n := range size {
			from = max(from, float64(gave[name]-1)/float64(n))
			to = min(to, float64(gave[name]+1)/float64(n))
		}
		if from > to+1e-9 {
			bad = append(bad, fmt.Sprintf("wave %d is no stratified sample: %v of %v by %s", i+1, gave, size, label))
		}
	}
	return bad
}

// counted checks the decision's counters against a count of the devices one by
// one, and that one which said nothing for too long counts as a failure.
func counted(s rollout.Snapshot, d rollout.Decision, changes map[topic.ID]rollout.Record, now time.Time) []string {
	var bad []string
	var c rollout.Counts
	r := d.Rollout
	patience := 660.0 // of a lease and its grace
	if l, g := r.Policy.LeaseS, r.Policy.GraceS; l > 0 || g > 0 {
		patience = 0
		for _, v := range [][2]float64{{l, 600}, {g, 60}} {
			if patience += v[0]; v[0] == 0 {
				patience += v[1]
			}
		}
	}
	for _, dev := range s.Devices {
		if rec, ok := changes[dev.ID]; ok {
			dev.Record = rec
		}
		c.Devices++
		state := r.Stand(dev, now).State
		switch state {
		case rollout.DevicePending:
			c.Pending++
		case rollout.DeviceUnreachable:
			c.Unreachable++
		case rollout.DeviceDone:
			c.Done++
		case rollout.DeviceSilent, rollout.DeviceFailed, rollout.DeviceRolledBack:
			c.Failed++
		case rollout.DeviceReturned:
			c.Returned++
		case rollout.DeviceKept:
			c.Kept++
		case rollout.DeviceExcluded:
			c.Excluded++
		default:
			c.InFlight++
		}
		begun := dev.Trial.Rollout == r.Name && dev.Trial.Manifest == r.Release.Manifest && dev.Trial.Mode == twin.ModeTrial &&
			dev.Trial.Try >= dev.Record.Try && !dev.Trial.Phase.Final()
		if dev.Record.Offer == rollout.OfferRelease && begun && now.Sub(dev.SeenAt).Seconds() > patience+1 &&
			state != rollout.DeviceSilent && state != rollout.DeviceFailed {
			bad = append(bad, fmt.Sprintf("%s has begun and said nothing for %s, and is %s", dev.ID, now.Sub(dev.SeenAt), state))
		}
	}
	for _, q := range s.Orders.Quarantined {
		if r.Previous != nil && q.Manifest == r.Previous.Manifest {
			return bad // where a device stands without the standing orders differs
		}
	}
	if c != d.Counts {
		bad = append(bad, fmt.Sprintf("counts %+v, and one by one they are %+v", d.Counts, c))
	}
	return bad
}
