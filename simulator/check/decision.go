package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

func compareID(a, b topic.ID) int {
	return cmp.Or(strings.Compare(a.Site, b.Site), strings.Compare(a.Node, b.Node))
}

// Decided looks at what a decision has stored: before is the rollout it was made
// about, after what it is now, records are those it changed, and counts what it
// counted; nil where it was not kept. What the hub knew is in the seats, whose
// Memory has not been brought up to date yet.
func (c *Checker) Decided(before, after rollout.Rollout, records map[topic.ID]rollout.Record, counts *rollout.Counts, at time.Time) {
	halted := after.State == rollout.Paused || after.State == rollout.RollingBack || after.State.Final() && after.State != rollout.Promoted
	granted := map[*Seat]bool{}
	var drawn []*Seat
	ids := slices.SortedFunc(maps.Keys(records), compareID)
	for _, id := range ids {
		s, now := c.byID[id], records[id]
		if s == nil {
			c.Fault("%s decides about %s, which is not there", after.Name, id)
			continue
		}
		old := s.Memory[after.Name]
		offers := old.Offer != rollout.OfferRelease && now.Offer == rollout.OfferRelease
		if now.Lease > old.Lease {
			granted[s] = true
		}
		leases := granted[s] && now.Offer == rollout.OfferRelease
		if offers {
			drawn = append(drawn, s)
		}
		if offers || leases {
			does := "offers its release to"
			if leases {
				does = "lets its release activate on"
			}
			if why := c.forbidden(s, after); why != "" {
				c.Fault("%s %s %s: %s", after.Name, does, s.Device.Name(), why)
			}
			if halted {
				c.Fault("%s %s %s and is %s", after.Name, does, s.Device.Name(), after.State)
			}
		}
		if leases {
			if !c.windowOpen(s, at) {
				c.Fault("%s lets %s activate and no window is open for it", after.Name, s.Device.Name())
			}
			if w := now.Wave - 1; w >= 0 && w < len(after.Waves) && after.State != rollout.Promoted && after.Waves[w].Cleared.IsZero() {
				c.Fault("%s lets %s activate and its wave is not cleared", after.Name, s.Device.Name())
			}
			if !now.LeaseUntil.After(at) {
				c.Fault("%s gives %s a lease that has ended", after.Name, s.Device.Name())
			}
		}
	}
	if len(granted) > 0 {
		c.leases(granted, at)
	}
	for s := range granted {
		s.leased = records[s.Device.ID()].LeaseUntil
	}
	if before.State == rollout.Paused && (after.State == rollout.Running || after.State == rollout.Held || after.State == rollout.Waiting) {
		c.Fault("%s goes on by itself and a person paused it", after.Name)
	}
	if w := after.Wave; w < len(after.Waves) {
		for _, v := range after.Waves[w].Gates {
			if v.Result == rollout.Pass && v.N == 0 {
				c.Fault("wave %d of %s: the %s gate says PASS and has no data", w+1, after.Name, v.Gate)
			}
		}
	}
	for w := range after.Waves {
		if after.Waves[w].Started.Equal(at) && (w >= len(before.Waves) || before.Waves[w].Started.IsZero()) && after.Waves[w].Size > 0 {
			c.draw(after, w, drawn)
		}
	}
	for w := before.Wave; w < after.Wave && w < len(after.Waves); w++ {
		c.passed(after, w, at)
	}
	if going := after.State == rollout.Running || after.State == rollout.Held; going && before.State == after.State && counts != nil {
		if n := c.silent(after, at, -1); n > counts.Failed {
			c.Fault("%s counts %d failures and %d devices that had started say nothing any more", after.Name, counts.Failed, n)
		}
	}
}

// forbidden says why the release must not be offered to a device, or "".
func (c *Checker) forbidden(s *Seat, r rollout.Rollout) string {
	able := false
	for _, v := range r.Release.Variants {
		able = able || slices.Contains(v.Classes, s.Known.Class) && (v.Arch == "" || v.Arch == s.Known.Arch)
	}
	switch {
	case r.Fleet != "" && !within(r.Fleet, s):
		return "it is no device of the rollout's fleet"
	case !able:
		return fmt.Sprintf("the release has nothing for class %q", s.Known.Class)
	case r.Release.Counter < s.Known.Floor:
		return fmt.Sprintf("counter %d is below the device's floor %d", r.Release.Counter, s.Known.Floor)
	case s.Known.Held:
		return "a person holds it"
	case c.isFrozen(s):
		return "it is frozen"
	case c.banned[r.Release.Manifest]:
		return "the release is in quarantine"
	}
	return ""
}

// within says whether a rollout's fleet has the device in it.
func within(fleet string, s *Seat) bool {
	sel, err := selector.Parse(fleet)
	return err == nil && sel.Match(s.Known.Look)
}

// windowOpen says whether a maintenance window is open for a device, by the hours
// and days of the policy; a cycle of shifts is left to the planner's own tests.
func (c *Checker) windowOpen(s *Seat, at time.Time) bool {
	if len(c.Policy.Windows) == 0 {
		return true
	}
	for _, w := range c.Policy.Windows {
		sel, err := selector.Parse(w.Selector)
		if err != nil || !sel.Match(s.Known.Look) {
			continue
		}
		if w.EveryDays > 0 || len(w.Also)+len(w.Except) > 0 {
			return true
		}
		name := w.Zone
		if name == "" {
			name = s.Known.Labels["zone"]
		}
		zone, err := time.LoadLocation(name) // "" is UTC
		if err != nil {
			continue
		}
		local := at.In(zone)
		minute := fmt.Sprintf("%02d:%02d", local.Hour(), local.Minute())
		from, to, day := cmp.Or(w.From, "00:00"), cmp.Or(w.To, "24:00"), local
		in := from <= minute && minute < to
		if to <= from { // past midnight it is the day before that counts
			in = minute >= from || minute < to
			if minute < to {
				day = day.AddDate(0, 0, -1)
			}
		}
		if in && (len(w.Days) == 0 || slices.Contains(w.Days, strings.ToLower(day.Format("Mon")))) {
			return true
		}
	}
	return false
}

// leases looks at the groups in which devices were just let go: with those
// that are away for long enough to be noticed, swap, soak, run nothing or may
// be using a lease, no group may have more than its budget.
func (c *Checker) leases(granted map[*Seat]bool, at time.Time) {
	now := c.World.Elapsed()
	var seen []*group
	for s := range granted {
		for i, g := range s.groups {
			if slices.Contains(seen, g) || now < g.loose {
				continue
			}
			seen = append(seen, g)
			n, fresh, size := 0, 0, 0
			var whose string // one that a hub may have overlooked
			for _, o := range g.seats {
				if o.Known.SeenAt.IsZero() {
					continue // the hub does not know that there is such a device
				}
				size++
				switch {
				case granted[o]:
					n, fresh = n+1, fresh+1
				case o.flying, o.away && now-o.awayFrom > Notice, at.Before(o.leased) && !ended(o.Device.Phase()):
					n++
					if t := o.Known.Trial; o.Known.Connected && t.Phase != twin.PhaseSoaking && t.Phase != twin.PhaseActivating {
						whose = fmt.Sprintf("; %s is %s, and the hub heard %s at %s", o.Device.Name(), cmp.Or(string(o.Device.Phase()), "off"), t.Phase, o.Known.SeenAt.Format(time.TimeOnly))
					}
				}
			}
			if allowed := limit(c.Policy.Budgets[i], size); n > allowed {
				c.Fault("%s=%s has %d devices away, leased or in flight with %d new leases, allowed are %d%s", c.Policy.Budgets[i].GroupBy, g.name, n, fresh, allowed, whose)
			}
		}
	}
}

func ended(p twin.Phase) bool { return p == twin.PhaseNone || p.Final() }

// draw looks at the devices of a new wave: every stratum has its share, and
// chance chose within it.
func (c *Checker) draw(r rollout.Rollout, w int, drawn []*Seat) {
	spec := r.Policy.Waves[w]
	if len(c.frozen) > 0 || len(drawn) == 0 {
		return // which devices a freeze leaves is the planner's to say
	}
	sel, err := selector.Parse(spec.Selector)
	if err != nil {
		return
	}
	of := "line"
	if len(r.Policy.Stratify) > 0 {
		of = r.Policy.Stratify[0]
	}
	size, got := map[string]int{}, map[string]int{}
	var places []int // of the drawn, among the candidates by name
	candidates := 0
	for _, s := range c.Seats {
		chosen := slices.Contains(drawn, s)
		if !chosen && (s.Known.SeenAt.IsZero() || s.Memory[r.Name].Offer != rollout.OfferNone || c.forbidden(s, r) != "" || !sel.Match(s.Known.Look)) {
			continue
		}
		stratum := s.Known.Labels[of]
		size[stratum]++
		if chosen {
			got[stratum]++
			places = append(places, candidates)
		}
		candidates++
	}
	n := len(places)
	for stratum, all := range size {
		share := float64(n) * float64(all) / float64(candidates)
		below := max(1, float64(len(size)*all)/float64(candidates))
		if x := float64(got[stratum]); x > share+1+1e-9 || x < share-below-1e-9 {
			c.Fault("wave %d has %d of %d devices of %s=%s, its share of %d is %.1f", w+1, got[stratum], all, of, stratum, n, share)
		}
	}
	if w == 0 && len(c.Canaries) == 0 {
		for _, s := range drawn {
			c.Canaries = append(c.Canaries, s.Device.ID())
		}
	}
	if n < 8 || candidates < 5*n {
		return
	}
	// Chance puts the mean place near the middle; the first by name do not.
	mean := 0.0
	for _, p := range places {
		mean += float64(p) / float64(n)
	}
	big := float64(candidates)
	deviation := math.Sqrt((big*big - 1) / 12 / float64(n) * (big - float64(n)) / (big - 1))
	if z := (mean - (big-1)/2) / deviation; math.Abs(z) > 5 {
		c.Fault("wave %d is not drawn by chance: its %d of %d devices lie %.1f deviations from the middle of the list of names", w+1, n, candidates, z)
	}
}

// passed looks at a wave that the decision lets pass.
func (c *Checker) passed(r rollout.Rollout, w int, at time.Time) {
	times := r.Waves[w]
	if times.Size == 0 {
		// Fair only when the waves before drew everybody.
		for _, s := range c.Seats {
			if w == 0 || !s.Known.SeenAt.IsZero() && s.Memory[r.Name].Wave == 0 && c.forbidden(s, r) == "" {
				c.Fault("wave %d of %s passed and nobody was in it, while %s waits", w+1, r.Name, s.Device.Name())
				return
			}
		}
		return
	}
	done, failed, members, windows := 0, c.silent(r, at, w), 0, uint64(0)
	for _, s := range c.Seats {
		if s.Memory[r.Name].Wave != w+1 {
			continue
		}
		members++
		windows += s.shown[r.Release.Manifest]
		t := s.Known.Trial
		if t.Rollout != r.Name || t.Manifest != r.Release.Manifest {
			continue
		}
		switch {
		case t.Phase == twin.PhaseConfirmed && s.Known.Champion.Manifest == r.Release.Manifest:
			done++
		case t.Phase == twin.PhaseFailed, t.Phase == twin.PhaseRolledBack:
			failed++
		}
	}
	if done == 0 {
		c.Fault("wave %d of %s passed and none of its %d devices runs the release", w+1, r.Name, members)
	}
	for _, g := range r.Policy.Gates {
		i := slices.IndexFunc(times.Gates, func(v rollout.Verdict) bool { return v.Gate == g.Name })
		if i < 0 {
			c.Fault("wave %d of %s passed and the %s gate was not asked", w+1, r.Name, g.Name)
			continue
		}
		v := times.Gates[i]
		if v.Applies && v.Result != rollout.Pass {
			c.Fault("wave %d of %s passed and the %s gate said %s", w+1, r.Name, g.Name, v.Result)
		}
		if v.Applies && v.N == 0 || v.Result == rollout.Pass && !v.Applies {
			c.Fault("wave %d of %s passed and the %s gate had no data", w+1, r.Name, g.Name)
		}
		if g.Name == rollout.GateShadow && v.Applies && v.Result == rollout.Pass && windows == 0 {
			c.Fault("wave %d of %s passed its shadow gate and no window of a shadow has arrived", w+1, r.Name)
		}
		if g.Name == rollout.GateSuccess && v.Value != nil && *v.Value > float64(done)/float64(done+failed)+1e-9 {
			c.Fault("wave %d of %s passed with a success of %.3g: %d are done and %d failed or fell silent", w+1, r.Name, *v.Value, done, failed)
		}
	}
}

// silent counts the devices of a wave, or of all for -1, that had started the
// release and of which nothing was heard since their lease must have ended.
func (c *Checker) silent(r rollout.Rollout, at time.Time, wave int) int {
	p := r.Policy
	limit := seconds(orElse(p.LeaseS, 600)+orElse(p.GraceS, 60)) + time.Second
	n := 0
	for _, s := range c.Seats {
		rec, t := s.Memory[r.Name], s.Known.Trial
		if rec.Offer == rollout.OfferRelease && (wave < 0 || rec.Wave == wave+1) && t.Rollout == r.Name && t.Manifest == r.Release.Manifest &&
			t.Mode != twin.ModeRollback && t.Try >= rec.Try && !t.Phase.Final() && at.Sub(s.Known.SeenAt) > limit {
			n++
		}
	}
	return n
}

// AtRest looks at the world after the faults have stopped and the rollouts have
// ended: every device runs what it should, and the hub counts what is true. r is
// the newest rollout.
func (c *Checker) AtRest(r rollout.Rollout, now time.Time) {
	if !r.State.Final() {
		c.Fault("the rollout %s has no end: %s: %s", r.Name, r.State, r.Reason)
	}
	for _, s := range c.Seats {
		d := s.Device
		if d.Dead || d.Broken() {
			continue // no software brings it back
		}
		runs := d.Acting() == r.Release.Manifest
		switch {
		case !d.On():
			c.Fault("%s is off at rest", d.Name())
			continue
		case d.Acting() == "" && d.Confirmed:
			c.Fault("nothing acts on %s", d.Name())
		case runs && slices.ContainsFunc(s.groups, func(g *group) bool { return g.limit == 0 }):
			// Somebody labelled it into a group whose budget has no room at all. It
			// is not touched, not even on the way back, and the hub says so.
		case runs && r.State.Final() && r.State != rollout.Promoted && r.Previous != nil:
			rec, said := s.Memory[r.Name], ""
			for _, cond := range d.Status().Conditions {
				said += "; " + cond.Message
			}
			c.Fault("%s still runs the release of %s, which is %s; it was told %q, its lease ends at %s, its trial %s%s", d.Name(), r.Name, r.State,
				rec.Offer, rec.LeaseUntil.Format(time.TimeOnly), d.Phase(), said)
		}
		known := s.Known
		known.Record = s.Memory[r.Name]
		stand := r.Stand(known, now)
		confirmed := runs && d.Phase() == twin.PhaseConfirmed && d.Status().Trial.Rollout == r.Name && known.Record.Offer == rollout.OfferRelease
		if counted := stand.State == rollout.DeviceDone; counted != confirmed {
			c.Fault("the hub counts %s as %s (%s) and it runs %s and is %s", d.Name(), stand.State, stand.Reason, d.Acting().Short(), d.Phase())
		}
		if r.State == rollout.Promoted && !runs && (stand.State == rollout.DevicePending || stand.State == rollout.DeviceUpdating ||
			stand.State == rollout.DeviceShadow || stand.State == rollout.DeviceSoaking || stand.State == rollout.DeviceUnreachable) && c.forbidden(s, r) == "" {
			c.Fault("%s has not come to an end: %s: %s", d.Name(), stand.State, stand.Reason)
		}
	}
}
