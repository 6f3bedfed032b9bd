package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Decide says what follows from a rollout and its fleet at now. Equal inputs
// give equal decisions, and Apply'ing a decision and deciding again gives one
// that is not Changed.
func Decide(r Rollout, s Snapshot, now time.Time) Decision {
	d := &decider{p: r.Policy.withDefaults(), r: r.clone(), now: now, changes: map[int]*Change{}}
	d.fold(s)
	switch {
	case r.State == Queued || r.State == Superseded:
		d.say("%s", r.Reason)
	case r.State == RollingBack:
		d.rollBack()
	case r.State == Paused:
		d.pause()
	case r.State == Promoted:
		d.serveJoiners()
	case r.State.Final():
		d.rollBackRest()
	default:
		d.waves()
	}
	return d.decision(r)
}

// Apply returns the snapshot as it is once the decision is stored: what the
// hub will load next, if no device says anything meanwhile.
func Apply(s Snapshot, d Decision) Snapshot {
	out := Snapshot{Devices: slices.Clone(s.Devices), Orders: s.Orders}
	records := make(map[topic.ID]Record, len(d.Changes))
	for _, c := range d.Changes {
		records[c.Device] = c.Record
	}
	for i := range out.Devices {
		if rec, ok := records[out.Devices[i].ID]; ok {
			out.Devices[i].Record = rec
		}
	}
	return out
}

func (r Rollout) clone() Rollout {
	r.Waves = slices.Clone(r.Waves)
	r.Approvals = slices.Clone(r.Approvals)
	r.Policy.Waves = slices.Clone(r.Policy.Waves)
	return r
}

// decider is one run of Decide.
type decider struct {
	p   Policy // with defaults
	r   Rollout
	now time.Time

	devices []Device // a copy, sorted by ID
	stands  []Standing
	away    []bool              // counts against its groups' budgets
	groups  []map[string]*group // one map for each budget
	changes map[int]*Change     // by index of the device
	gates   []Verdict
	summary string
	reasons []string
	wake    time.Time
}

// group is what one budget knows about one of its groups.
type group struct {
	name        string
	size        int
	unavailable int
}

// fold sorts the devices, says where each stands and counts who is unavailable.
func (d *decider) fold(s Snapshot) {
	d.devices = slices.Clone(s.Devices)
	slices.SortFunc(d.devices, func(a, b Device) int {
		return cmp.Or(strings.Compare(a.ID.Site, b.ID.Site), strings.Compare(a.ID.Node, b.ID.Node))
	})
	d.stands = make([]Standing, len(d.devices))
	d.away = make([]bool, len(d.devices))
	d.groups = make([]map[string]*group, len(d.p.Budgets))
	for i := range d.groups {
		d.groups[i] = map[string]*group{}
	}
	for i := range d.devices {
		dev := &d.devices[i]
		d.stands[i] = stand(d.r, d.p, dev, d.now)
		d.away[i] = d.r.unavailable(d.p, dev, d.now)
		for b, budget := range d.p.Budgets {
			name := dev.Labels[budget.GroupBy]
			g := d.groups[b][name]
			if g == nil {
				g = &group{name: name}
				d.groups[b][name] = g
			}
			g.size++
			if d.away[i] {
				g.unavailable++
			}
		}
		d.wakeForSilence(dev, i)
	}
}

// wakeForSilence makes sure that a device which goes silent is noticed.
func (d *decider) wakeForSilence(dev *Device, i int) {
	st := d.stands[i].State
	if dev.Record.Offer == OfferNone || !st.started() || st == DeviceDone || st.failure() || st == DeviceReturned || st == DeviceKept {
		return
	}
	d.wakeAt(dev.SeenAt.Add(seconds(d.p.StaleS) + time.Millisecond))
	if l := dev.Record.LeaseUntil; !l.IsZero() {
		d.wakeAt(l)
		d.wakeAt(l.Add(seconds(d.p.GraceS) + time.Millisecond))
	}
	d.wakeAt(dev.SeenAt.Add(seconds(d.p.LeaseS+d.p.GraceS) + time.Millisecond))
	d.wakeAt(dev.Record.Deadline.Add(seconds(d.p.GraceS) + time.Millisecond))
}

func (d *decider) wakeAt(t time.Time) {
	if t.After(d.now) && (d.wake.IsZero() || t.Before(d.wake)) {
		d.wake = t
	}
}

func (d *decider) say(format string, args ...any) { d.summary = fmt.Sprintf(format, args...) }

func (d *decider) because(format string, args ...any) {
	d.reasons = append(d.reasons, fmt.Sprintf(format, args...))
}

// change records a new Record for device i.
func (d *decider) change(i int, kind ChangeKind, why string, set func(*Record)) {
	dev := &d.devices[i]
	before := dev.Record
	set(&dev.Record)
	if dev.Record == before {
		return
	}
	if c := d.changes[i]; c != nil { // a second change in one decision: the first says what it is about
		c.Record, c.Why = dev.Record, c.Why+"; "+why
		return
	}
	d.changes[i] = &Change{Device: dev.ID, Kind: kind, Record: dev.Record, Why: why}
}

// waves moves the rollout on as far as it goes.
func (d *decider) waves() {
	d.r.State = Running
	for d.r.Wave < len(d.p.Waves) {
		if !d.wave() {
			if !d.r.State.Final() && d.r.State != RollingBack {
				d.retry()
				d.lease()
			}
			return
		}
	}
	done := 0
	for _, st := range d.stands {
		if st.State == DeviceDone {
			done++
		}
	}
	d.r.State, d.r.Ended = Promoted, d.now
	d.say("promoted: all %d waves passed, %d devices run %s-%d and attest it", len(d.p.Waves), done, d.r.Release.Name, d.r.Release.Counter)
	d.r.Reason = d.summary
	d.serveJoiners()
}

// wave looks at the wave on its way and says whether it has passed.
func (d *decider) wave() (passed bool) {
	i := d.r.Wave
	spec := d.p.Waves[i]
	if len(d.r.Waves) <= i {
		d.r.Waves = append(d.r.Waves, WaveTimes{Asked: d.now})
	}
	w := &d.r.Waves[i]
	name := spec.Name
	if name == "" {
		name = fmt.Sprint(i + 1)
	}
	from := w.Started
	if from.IsZero() {
		from = w.Asked
	}
	deadline := from.Add(seconds(spec.DeadlineS + w.PausedS))
	late := !d.now.Before(deadline)
	d.wakeAt(deadline)

	if w.Started.IsZero() {
		if n := d.approved(i); n < spec.Approvals {
			if late {
				d.fail("wave %s was not approved by %s: %d of %d people", name, clock(deadline), n, spec.Approvals)
				return false
			}
			d.r.State = Waiting
			d.hold("wave %s waits for approval: %d of %d people", name, n, spec.Approvals)
			return false
		}
		drawn, left := d.draw(i, spec)
		if len(drawn) == 0 {
			if i > 0 && left == 0 {
				// Everybody was in a wave that passed. This is not an empty
				// wave that passes: nothing is left to decide about.
				w.Started, w.Passed = d.now, d.now
				d.because("wave %s is skipped: the waves before it drew every device", name)
				d.r.Wave++
				return true
			}
			if late {
				d.fail("wave %s found no device by %s", name, clock(deadline))
				return false
			}
			d.r.State = Held
			d.hold("wave %s is empty: no device that it selects can take the release", name)
			return false
		}
		w.Started, w.Size = d.now, len(drawn)
		deadline = d.now.Add(seconds(spec.DeadlineS))
		d.wakeAt(deadline)
		for _, k := range drawn {
			d.offer(k, i+1, deadline)
		}
		d.say("wave %s begins with %d devices", name, len(drawn))
		d.r.Reason = d.summary
	}

	t := d.tally(i + 1)
	d.gates = d.gates[:0]
	ok, clear := true, true
	var waits []string
	for _, g := range d.p.Gates {
		v := evaluate(d.r, d.p, g, t)
		if g.Name == GateShadow && v.Applies && v.Result == Inconclusive {
			// An anytime-valid test is decided at the moment it crosses its
			// limit: what comes later can only turn it into a FAIL.
			if k := slices.IndexFunc(w.Gates, func(old Verdict) bool { return old.Gate == GateShadow && old.Result == Pass }); k >= 0 {
				v = w.Gates[k]
			}
		}
		d.gates = append(d.gates, v)
		if v.Result == Fail {
			d.gatesSettled(w)
			d.fail("wave %s: %s gate: %s", name, g.Name, v.Reason)
			return false
		}
		if v.Applies && v.Result != Pass {
			ok = false
			waits = append(waits, fmt.Sprintf("%s gate: %s", g.Name, v.Reason))
			if g.Name == GateShadow {
				clear = false
			}
		}
	}
	d.gatesSettled(w)
	// A failure that shows after its wave passed still counts.
	if all := d.tally(0); all.failures > t.failures {
		for _, g := range d.p.Gates {
			if v := success(g, all); g.Name == GateSuccess && v.Result == Fail {
				d.fail("over all waves so far: %s gate: %s", g.Name, v.Reason)
				return false
			}
		}
	}
	if clear && w.Cleared.IsZero() {
		w.Cleared = d.now
		d.because("wave %s may activate: %s", name, d.clearing())
	}
	if ok && t.unresolved == 0 && t.done > 0 {
		w.Passed = d.now
		d.because("wave %s passed: %d done, %d failed, %d not reached", name, t.done, t.failures, t.away)
		d.r.Wave++
		return true
	}
	if late {
		d.fail("wave %s did not pass by %s: %d done, %d failed, %d on their way, %d not reached; %s", name, clock(deadline), t.done, t.failures, t.unresolved, t.away, strings.Join(waits, "; "))
		return false
	}
	switch {
	case !clear && t.ready > 0 && t.ready == t.unresolved || t.unresolved == 0:
		d.r.State = Held
		d.hold("wave %s is held: %s", name, strings.Join(waits, "; "))
	default:
		d.r.State = Running
		d.hold("wave %s: %d of %d devices done, %d failed, %d on their way, %d not reached", name, t.done, t.devices, t.failures, t.unresolved, t.away)
	}
	return false
}

// gatesSettled keeps the verdicts with their wave.
func (d *decider) gatesSettled(w *WaveTimes) { w.Gates = slices.Clone(d.gates) }

func (d *decider) clearing() string {
	for _, v := range d.gates {
		if v.Gate == GateShadow {
			return v.Reason
		}
	}
	return "the policy has no shadow gate"
}

// hold says why nothing more is decided now.
func (d *decider) hold(format string, args ...any) {
	d.say(format, args...)
	d.r.Reason = d.summary
}

// fail begins the way back.
func (d *decider) fail(format string, args ...any) {
	d.say(format, args...)
	d.back(Failed, d.summary)
}

func (d *decider) back(end State, reason string) {
	d.r.State, d.r.End, d.r.RollbackFrom, d.r.Reason = RollingBack, end, d.now, reason
	d.rollBack()
}

func (d *decider) approved(wave int) int {
	var by []string
	for _, a := range d.r.Approvals {
		if a.Wave == wave && a.By != d.r.Author && !slices.Contains(by, a.By) {
			by = append(by, a.By)
		}
	}
	return len(by)
}

// draw returns the devices of a new wave, by index, and how many of the fleet
// no wave has drawn.
func (d *decider) draw(wave int, spec Wave) (drawn []int, left int) {
	sel, err := readSelector(spec.Selector)
	if err != nil {
		return nil, 1 // Validate refuses it; an unreadable selector chooses nobody
	}
	index := map[*Device]int{}
	var candidates []*Device
	fleet, before := 0, 0
	for i := range d.devices {
		dev := &d.devices[i]
		switch {
		case dev.Record.Wave > 0:
			fleet++
			before++
		case d.stands[i].State == DevicePending:
			fleet++
			left++
			if sel.Match(dev.Look) {
				index[dev] = i
				candidates = append(candidates, dev)
			}
		}
	}
	n := len(candidates)
	if spec.Devices > 0 {
		n = min(n, spec.Devices)
	}
	if spec.Share > 0 {
		n = min(n, max(int(math.Ceil(spec.Share*float64(fleet)-1e-9))-before, 1))
	}
	for _, dev := range order(d.r.Seed, d.p.Stratify, candidates)[:n] {
		drawn = append(drawn, index[dev])
	}
	return drawn, left
}

func (d *decider) offer(k, wave int, deadline time.Time) {
	dev := &d.devices[k]
	d.change(k, ChangeOffer, fmt.Sprintf("drawn into wave %d", wave), func(rec *Record) {
		*rec = Record{
			Wave: wave, Offer: OfferRelease, OfferedAt: d.now, Deadline: deadline,
			ScoredBefore: dev.WindowsScored, LostBefore: dev.WindowsLost, StoppedBefore: dev.StoppedMs, MemoryBefore: dev.MemoryMiB,
			Paired: dev.Champion.Manifest != "" && dev.Champion.Manifest != d.r.Release.Manifest && d.p.ShadowS > 0,
		}
	})
	d.stands[k] = stand(d.r, d.p, dev, d.now)
}

// tally sums over the devices of a wave (1 + its index), or of all for 0.
func (d *decider) tally(wave int) *tally {
	t := &tally{}
	for i := range d.devices {
		if rec := d.devices[i].Record; rec.Wave > 0 && (wave == 0 || rec.Wave == wave) {
			t.add(d.r, d.p, &d.devices[i], d.stands[i], d.now)
		}
	}
	return t
}

// paired says whether the device has a champion to compare the release with. A
// device whose agent was starting when it was drawn shows it by its evidence.
func (d *Device) paired(r Rollout) bool {
	return d.Record.Paired || d.Record.Offer == OfferRelease && d.Evidence.Manifest == r.Release.Manifest && d.Evidence.Windows > 0
}

// retry offers the release once more where a failure was not the release's.
func (d *decider) retry() {
	for i := range d.devices {
		dev := &d.devices[i]
		rec := dev.Record
		if rec.Offer != OfferRelease || d.stands[i].State != DeviceUpdating || !dev.Trial.Phase.Final() || dev.Trial.Try != rec.Try || dev.Trial.Rollout != d.r.Name {
			continue
		}
		at := rec.OfferedAt.Add(seconds(d.p.RetryS * math.Pow(2, float64(rec.Try))))
		if d.now.Before(at) {
			d.wakeAt(at)
			continue
		}
		d.change(i, ChangeRetry, d.stands[i].Reason, func(r *Record) {
			r.Try++
			r.OfferedAt = d.now
			r.LeaseUntil, r.Revoked = time.Time{}, false
		})
	}
}

// lease permits activation where the wave is cleared, the device asks for it
// and the budget of each of its groups allows one more.
func (d *decider) lease() {
	var waiting int
	var full string
	for i := range d.devices {
		dev := &d.devices[i]
		rec := dev.Record
		mine := dev.Trial.Rollout == d.r.Name && dev.Trial.Manifest == d.r.Release.Manifest && dev.Trial.Try == rec.Try
		if rec.Offer != OfferRelease || !mine || dev.Trial.Phase != twin.PhaseReady || d.stands[i].State != DeviceShadow || d.now.Before(rec.LeaseUntil) {
			continue
		}
		joiner := rec.Wave > len(d.r.Waves)
		if !joiner && d.r.Waves[rec.Wave-1].Cleared.IsZero() {
			continue
		}
		if !dev.Connected || !d.p.fresh(dev, d.now) || dev.Held {
			continue
		}
		if why := d.take(i); why != "" {
			waiting++
			full = why
			continue
		}
		d.grant(i, "its wave may activate and its groups allow it")
	}
	if waiting > 0 {
		d.because("%d devices wait for their budget: %s", waiting, full)
	}
}

func (d *decider) grant(i int, why string) {
	until := d.now.Add(seconds(d.p.LeaseS))
	d.change(i, ChangeLease, why, func(r *Record) {
		r.Lease++
		r.LeaseUntil, r.Revoked = until, false
	})
	d.wakeAt(until)
}

// take books device i as unavailable in all of its groups, or returns why one
// of them does not allow it. A device that is unavailable already costs
// nothing more, but may not be touched while its group is over the budget.
func (d *decider) take(i int) string {
	dev := &d.devices[i]
	cost := 1
	if d.away[i] {
		cost = 0
	}
	for b, budget := range d.p.Budgets {
		g := d.groups[b][dev.Labels[budget.GroupBy]]
		if limit := budget.limit(g.size); g.unavailable+cost > limit {
			return fmt.Sprintf("%s=%s has %d of %d devices unavailable, allowed are %d", budget.GroupBy, g.name, g.unavailable, g.size, limit)
		}
	}
	for b, budget := range d.p.Budgets {
		d.groups[b][dev.Labels[budget.GroupBy]].unavailable += cost
	}
	d.away[i] = true
	return ""
}

// limit returns how many of size devices may be unavailable.
func (b Budget) limit(size int) int {
	n := size
	if b.MaxUnavailable > 0 {
		n = min(n, b.MaxUnavailable)
	}
	if b.MaxUnavailableShare > 0 {
		n = min(n, int(math.Floor(b.MaxUnavailableShare*float64(size)+1e-9)))
	}
	if b.MinAvailable > 0 {
		n = min(n, size-b.MinAvailable)
	}
	if b.MinAvailableShare > 0 {
		n = min(n, size-int(math.Ceil(b.MinAvailableShare*float64(size)-1e-9)))
	}
	return max(n, 0)
}

// pause takes leases back and waits for a person, but not for ever.
func (d *decider) pause() {
	end := d.r.PausedAt.Add(seconds(d.p.MaxPauseS))
	if !d.now.Before(end) {
		d.say("paused since %s and nobody resumed it", clock(d.r.PausedAt))
		d.back(Aborted, d.summary)
		return
	}
	d.revoke("the rollout is paused")
	// Devices on their way must not run into their deadline because of it.
	for i := range d.devices {
		rec := d.devices[i].Record
		if st := d.stands[i].State; rec.Offer == OfferRelease && st != DeviceDone && !st.failure() && rec.Deadline.Before(end) {
			d.change(i, ChangeOffer, "the pause moves its deadline", func(r *Record) {
				r.Deadline = end.Add(rec.Deadline.Sub(rec.OfferedAt))
			})
		}
	}
	d.say("paused: %s", d.r.Reason)
	d.wakeAt(end)
}

// revoke takes back every lease that has not been used.
func (d *decider) revoke(why string) {
	for i := range d.devices {
		rec := d.devices[i].Record
		if rec.Offer == OfferRelease && d.now.Before(rec.LeaseUntil) && !rec.Revoked && d.stands[i].State != DeviceSoaking && d.stands[i].State != DeviceDone {
			d.change(i, ChangeRevoke, why, func(r *Record) { r.Revoked = true })
		}
	}
}

// rollBack calls devices back and ends the rollout once they are.
func (d *decider) rollBack() {
	d.callBack()
	end := d.r.RollbackFrom.Add(seconds(d.p.RollbackS))
	left, away, kept := 0, 0, 0
	for i := range d.devices {
		dev := &d.devices[i]
		if !d.stillTouched(i) {
			if stand(d.r, d.p, dev, d.now).State == DeviceKept {
				kept++
			}
			continue
		}
		if !dev.Connected || !d.p.fresh(dev, d.now) {
			away++
		}
		left++
	}
	d.summary = d.r.Reason
	switch {
	case left == 0 && kept > 0:
		d.r.State, d.r.Ended = d.r.End, d.now
		d.r.Reason += fmt.Sprintf("; %d devices that had activated keep the release, since there is none before it to go back to", kept)
		d.summary = d.r.Reason
		d.because("no device has the release on trial")
	case left == 0:
		d.r.State, d.r.Ended = d.r.End, d.now
		d.because("no device runs the release or has it on trial")
	case !d.now.Before(end):
		d.r.State, d.r.Ended = d.r.End, d.now
		d.because("%d devices are not back by %s, %d of them out of reach; they are called back as soon as they are heard of", left, clock(end), away)
	default:
		d.because("%d devices are on their way back, %d of them out of reach", left, away)
		d.wakeAt(end)
	}
}

// stillTouched says whether device i may yet run the release because of this
// rollout.
func (d *decider) stillTouched(i int) bool {
	dev := &d.devices[i]
	if dev.Record.Offer == OfferNone {
		return false
	}
	mine := dev.Trial.Rollout == d.r.Name && dev.Trial.Manifest == d.r.Release.Manifest
	switch {
	case mine && !dev.Trial.Phase.Final():
		return true
	case dev.Champion.Manifest == d.r.Release.Manifest && d.r.Previous != nil:
		return true
	}
	// It may activate until its lease ends, unless it has reported an end since.
	return d.now.Before(dev.Record.LeaseUntil) && dev.Record.Offer != OfferRollback && !(mine && dev.Trial.Phase.Final())
}

// rollBackRest goes on calling back what comes into reach after the end.
func (d *decider) rollBackRest() {
	d.callBack()
	d.say("%s", d.r.Reason)
}

// callBack withdraws what has not activated and sends back what has.
func (d *decider) callBack() {
	for i := range d.devices {
		dev := &d.devices[i]
		rec := dev.Record
		if rec.Offer == OfferNone {
			continue
		}
		mine := dev.Trial.Rollout == d.r.Name && dev.Trial.Manifest == d.r.Release.Manifest && dev.Trial.Mode != twin.ModeRollback
		leased := d.r.leased(d.p, dev, d.now)
		acts := dev.Champion.Manifest == d.r.Release.Manifest || mine && (dev.Trial.Phase == twin.PhaseActivating || dev.Trial.Phase == twin.PhaseSoaking)
		switch {
		case rec.Offer == OfferRelease && !acts, rec.Offer == OfferRelease && d.r.Previous == nil:
			why := "drops its trial"
			if acts {
				why = "keeps what runs: there is no release before to go back to, and its own watchdog guards it"
			}
			d.change(i, ChangeWithdraw, why, func(r *Record) {
				r.Offer = OfferWithdrawn
				d.endLease(r, leased)
			})
		case (rec.Offer == OfferRelease || rec.Offer == OfferWithdrawn) && acts && d.r.Previous != nil:
			d.change(i, ChangeRollback, fmt.Sprintf("goes back to %s-%d", d.r.Previous.Name, d.r.Previous.Counter), func(r *Record) {
				r.Offer = OfferRollback
				r.OfferedAt, r.Deadline = d.now, d.now.Add(seconds(d.p.RollbackS))
				d.endLease(r, leased)
			})
		}
	}
	// Leases for the way back, within the budgets. A lease for the release that
	// is still out may yet be used, so it is waited for, unless it is used.
	for i := range d.devices {
		dev := &d.devices[i]
		rec := dev.Record
		if rec.Offer != OfferRollback || dev.Champion.Manifest != d.r.Release.Manifest {
			continue
		}
		failed := dev.Trial.Rollout == d.r.Name && dev.Trial.Mode == twin.ModeRollback && dev.Trial.Try == rec.Try &&
			(dev.Trial.Phase == twin.PhaseFailed || dev.Trial.Phase == twin.PhaseDropped || dev.Trial.Phase == twin.PhaseRolledBack)
		if failed {
			at := rec.OfferedAt.Add(seconds(d.p.RetryS))
			if d.now.Before(at) {
				d.wakeAt(at)
				continue
			}
			d.change(i, ChangeRetry, "could not go back: "+dev.Trial.Reason, func(r *Record) {
				r.Try++
				r.OfferedAt, r.Deadline = d.now, d.now.Add(seconds(d.p.RollbackS))
			})
			rec = dev.Record
		}
		if !dev.Connected || !d.p.fresh(dev, d.now) || d.now.Before(rec.LeaseUntil) && !rec.Revoked {
			continue
		}
		if why := d.take(i); why != "" {
			d.because("%s waits to go back: %s", dev.ID, why)
			continue
		}
		d.grant(i, "may go back now")
	}
}

// endLease takes a lease back: one that may be in use is remembered until it
// has surely ended, one that was used up is forgotten.
func (d *decider) endLease(r *Record, leased bool) {
	r.Revoked = leased && !r.LeaseUntil.IsZero()
	if !leased {
		r.LeaseUntil = time.Time{}
	}
}

// serveJoiners brings the promoted release to devices that came late.
func (d *decider) serveJoiners() {
	last := d.p.Waves[len(d.p.Waves)-1]
	for i := range d.devices {
		dev := &d.devices[i]
		if dev.Record.Wave == 0 && d.stands[i].State == DevicePending && dev.Connected && d.p.fresh(dev, d.now) {
			d.offer(i, len(d.r.Waves)+1, d.now.Add(seconds(last.DeadlineS)))
		}
	}
	d.retry()
	d.lease()
	if d.summary == "" {
		d.say("%s", d.r.Reason)
	}
}

// decision gathers what was decided.
func (d *decider) decision(before Rollout) Decision {
	out := Decision{Rollout: d.r, Gates: slices.Clone(d.gates), Summary: d.summary, Reasons: d.reasons, Wake: d.wake}
	for _, i := range slices.Sorted(maps.Keys(d.changes)) {
		out.Changes = append(out.Changes, *d.changes[i])
	}
	for i := range d.devices {
		out.Counts.add(stand(d.r, d.p, &d.devices[i], d.now).State)
	}
	out.Changed = len(out.Changes) > 0 || !equal(before, d.r)
	return out
}

func (c *Counts) add(s DeviceState) {
	c.Devices++
	switch {
	case s == DevicePending:
		c.Pending++
	case s == DeviceUnreachable:
		c.Unreachable++
	case s == DeviceDone:
		c.Done++
	case s.failure():
		c.Failed++
	case s == DeviceReturned:
		c.Returned++
	case s == DeviceKept:
		c.Kept++
	case s == DeviceExcluded:
		c.Excluded++
	default:
		c.InFlight++
	}
}
