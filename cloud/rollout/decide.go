package rollout

import (
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
	return newRoster(r, s, true).Decide(r, now)
}

// Decide says what follows at now, as the function Decide does on Snapshot.
// Afterwards the roster is as if the decision were stored: throw it away when
// storing it failed. r may differ from the rollout that the roster was made
// for only as Decide and Ask change it.
func (f *Roster) Decide(r Rollout, now time.Time) Decision {
	f.u.p.Waves = r.Policy.withDefaults().Waves
	f.look(now)
	d := &decider{f: f, u: f.u, p: f.u.p, r: r.clone(), now: now}
	q, banned := f.u.o.quarantined(r.Release.Manifest)
	switch {
	case banned && (!r.State.Final() && r.State != RollingBack || r.State == Promoted):
		d.say("%s-%d is quarantined by %s: %s", r.Release.Name, r.Release.Counter, q.By, q.Reason)
		d.back(Failed, d.summary)
	case r.State == Queued || r.State == Superseded:
		f.mode = idle
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
	f   *Roster
	u   *rules
	p   Policy // with defaults
	r   Rollout
	now time.Time

	changes []Change
	slots   []int32 // of the changes
	gates   []Verdict
	summary string
	reasons []string
	wake    time.Time
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

// change records a new Record for a device.
func (d *decider) change(slot int32, kind ChangeKind, why string, set func(*Record)) {
	dev := d.f.devices[slot]
	rec := dev.Record
	set(&rec)
	if rec == dev.Record {
		return
	}
	d.f.record(slot, rec)
	st := &d.f.status[slot]
	if st.change != 0 { // a second change in one decision: the first says what it is about
		c := &d.changes[st.change-1]
		c.Record, c.Why = rec, c.Why+"; "+why
		return
	}
	d.changes, d.slots = append(d.changes, Change{Device: dev.ID, Kind: kind, Record: rec, Why: why}), append(d.slots, slot)
	st.change = int32(len(d.changes))
}

// waves moves the rollout on as far as it goes.
func (d *decider) waves() {
	d.r.State = Running
	for d.r.Wave < len(d.p.Waves) {
		if !d.wave() {
			if !d.r.State.Final() && d.r.State != RollingBack {
				d.f.each(forward, d.tend)
				d.lease()
			}
			return
		}
	}
	done := d.f.causes[done]
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
			why := "no device that it selects can take the release"
			if n, first := d.f.hinders(0); n > 0 {
				why = fmt.Sprintf("%d devices that no wave has drawn may not be offered anything: %s", n, first)
			}
			d.hold("wave %s is empty: %s", name, why)
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

	t := d.f.tally(i + 1)
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
	if d.turnedBad(t) {
		return false
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
	hindered, why := d.f.hinders(int32(i + 1))
	switch {
	case t.unresolved == 0 && t.done > 0 && onlyPeople(d.gates):
		d.r.State = Waiting
		d.hold("wave %s is done and waits for approval: %s", name, strings.Join(waits, "; "))
	case clear && hindered > 0 && hindered == t.unresolved:
		d.r.State = Held
		d.hold("wave %s is held: %d devices may not activate now: %s", name, hindered, why)
	case !clear && t.ready > 0 && t.ready == t.unresolved || t.unresolved == 0:
		d.r.State = Held
		d.hold("wave %s is held: %s", name, strings.Join(waits, "; "))
	default:
		d.r.State = Running
		d.hold("wave %s: %d of %d devices done, %d failed, %d on their way, %d not reached", name, t.done, t.devices, t.failures, t.unresolved, t.away)
	}
	return false
}

// turnedBad fails the rollout for what has shown after its wave passed: devices
// that failed later, and scores that stopped being finite later. t is the wave
// on its way.
func (d *decider) turnedBad(t *tally) bool {
	all := d.f.all()
	for _, g := range d.p.Gates {
		news := g.Name == GateSuccess && all.failures > t.failures || g.Name == GateNonFinite && all.nonFinite > t.nonFinite
		if !news {
			continue
		}
		if v := evaluate(d.r, d.p, g, all); v.Result == Fail {
			d.fail("over all waves so far: %s gate: %s", g.Name, v.Reason)
			return true
		}
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
	d.r.Ended = time.Time{} // a promoted one had ended
	d.rollBack()
}

func (d *decider) approved(wave int) int { return len(d.r.consents(wave, false)) }

// draw returns the devices of a new wave and how many of the fleet no wave has
// drawn.
func (d *decider) draw(wave int, spec Wave) (drawn []int32, left int) {
	f := d.f
	left = f.causes[pending]
	if f.barren == f.pendings+1 && f.barrenOf == wave {
		return nil, left // nobody was found, and nothing has changed about those that are left
	}
	sel, err := readSelector(spec.Selector)
	if err != nil {
		return nil, max(left, 1) // Validate refuses it; an unreadable selector chooses nobody
	}
	candidates := f.candidates(func(dev *Device) bool { return sel.Match(dev.Look) })
	n := len(candidates)
	if n == 0 {
		f.barren, f.barrenOf = f.pendings+1, wave
		return nil, left
	}
	if spec.Devices > 0 {
		n = min(n, spec.Devices)
	}
	if spec.Share > 0 {
		before := f.all().devices
		n = min(n, max(int(math.Ceil(spec.Share*float64(before+left)-1e-9))-before, 1))
	}
	drawn = candidates
	if n < len(candidates) {
		drawn = draw(d.r.Seed, d.p.Stratify, f.devices, candidates)[:n]
		slices.SortFunc(drawn, f.compare)
	}
	return drawn, left
}

func (d *decider) offer(slot int32, wave int, deadline time.Time) {
	dev := d.f.devices[slot]
	d.change(slot, ChangeOffer, fmt.Sprintf("drawn into wave %d", wave), func(rec *Record) {
		*rec = Record{
			Wave: wave, Offer: OfferRelease, OfferedAt: d.now, Deadline: deadline,
			ScoredBefore: dev.WindowsScored, LostBefore: dev.WindowsLost, StoppedBefore: dev.StoppedMs, MemoryBefore: dev.MemoryMiB,
			Paired: dev.Champion.Manifest != "" && dev.Champion.Manifest != d.r.Release.Manifest && d.p.ShadowS > 0,
		}
	})
}

// tend does what one device needs while waves are on their way: the release is
// offered once more where a failure was not the release's, and a lease is taken
// back that a freeze came in the way of.
func (d *decider) tend(slot int32) {
	switch st := &d.f.status[slot]; {
	case st.is(due) && st.cause == toRetry:
		d.change(slot, ChangeRetry, d.u.words(toRetry, d.f.devices[slot]), func(r *Record) {
			r.Try++
			r.OfferedAt = d.now
			r.LeaseUntil, r.Revoked = time.Time{}, false
		})
	case st.is(revocable) && st.why != 0:
		d.change(slot, ChangeRevoke, d.f.why(st), func(r *Record) { r.Revoked = true })
	}
}

// lease permits activation where the wave is cleared, the device asks for it,
// a window is open and the budget of each of its groups allows one more.
func (d *decider) lease() {
	var waves []int32
	for w := range d.f.waves {
		if joiners := w > len(d.r.Waves); joiners || w > 0 && !d.r.Waves[w-1].Cleared.IsZero() {
			waves = append(waves, int32(w))
		}
	}
	waiting, full := d.f.leases(waves, func(slot int32) { d.grant(slot, "its wave may activate and its groups allow it") })
	if waiting > 0 {
		d.because("%d devices wait for their budget: %s", waiting, full)
	}
	d.hindrances("may not activate now", waves)
	d.hindrances("are not offered the release now", []int32{0})
}

// maxHindrances bounds how many reasons of one kind a decision tells.
const maxHindrances = 8

// hindrances tells why devices of some waves wait for windows and freezes.
func (d *decider) hindrances(what string, waves []int32) {
	n := map[string]int{}
	for h, k := range d.f.hindered {
		if slices.Contains(waves, h.wave) {
			n[h.why] += k
		}
	}
	for i, why := range slices.Sorted(maps.Keys(n)) {
		if i == maxHindrances {
			d.because("devices %s for %d more reasons", what, len(n)-i)
			return
		}
		d.because("%d devices %s: %s", n[why], what, why)
	}
}

func (d *decider) grant(slot int32, why string) {
	until := d.now.Add(d.u.lease)
	// A freeze that is to begin ends the lease.
	if dev := d.f.devices[slot]; dev.Record.Offer == OfferRelease && len(d.u.o.Freezes) > 0 {
		if _, change := d.u.o.frozen(dev, d.now); change.After(d.now) && change.Before(until) {
			until = change
		}
	}
	d.change(slot, ChangeLease, why, func(r *Record) {
		r.Lease++
		r.LeaseUntil, r.Revoked = until, false
	})
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
	d.f.each(stopped, func(slot int32) {
		st, rec := &d.f.status[slot], d.f.devices[slot].Record
		if st.is(revocable) {
			d.change(slot, ChangeRevoke, "the rollout is paused", func(r *Record) { r.Revoked = true })
		}
		// Devices on their way must not run into their deadline because of it.
		if rec.Offer == OfferRelease && st.cause != done && !st.cause.state().failure() && rec.Deadline.Before(end) {
			d.change(slot, ChangeOffer, "the pause moves its deadline", func(r *Record) {
				r.Deadline = end.Add(rec.Deadline.Sub(rec.OfferedAt))
			})
		}
	})
	d.say("paused: %s", d.r.Reason)
	d.wakeAt(end)
}

// rollBack calls devices back and ends the rollout once they are.
func (d *decider) rollBack() {
	d.callBack()
	end := d.r.RollbackFrom.Add(seconds(d.p.RollbackS))
	left, away, kept := d.f.touched, d.f.lost, d.f.causes[keeps]
	d.summary = d.r.Reason
	switch {
	case left == 0 && kept > 0:
		d.r.State, d.r.Ended = d.r.End, d.now
		why := d.u.noReturn
		if why == "" {
			why = fmt.Sprintf("%s-%d before it is below their floors or has no variant for them", d.r.Previous.Name, d.r.Previous.Counter)
		}
		d.r.Reason += fmt.Sprintf("; %d devices that had activated keep the release, since %s", kept, why)
		d.summary = d.r.Reason
		d.because("no device has the release on trial")
	case left == 0:
		d.r.State, d.r.Ended = d.r.End, d.now
		d.because("no device runs the release or has it on trial")
	case left == away && !d.risky():
		// The next rollout need not wait for them.
		d.r.State, d.r.Ended = d.r.End, d.now
		d.because("%d devices out of reach have the release on trial, and none of them runs it or may activate it; they drop it as soon as they are heard of", left)
	case !d.now.Before(end):
		d.r.State, d.r.Ended = d.r.End, d.now
		d.because("%d devices are not back by %s, %d of them out of reach; they are called back as soon as they are heard of", left, clock(end), away)
	default:
		d.because("%d devices are on their way back, %d of them out of reach", left, away)
		d.wakeAt(end)
	}
}

// risky says whether a device that is not back runs the release, by all that is
// known of it, or may yet activate it.
func (d *decider) risky() bool {
	k := &instant{now: d.now}
	for i := range d.f.status {
		if dev := d.f.devices[i]; d.f.status[i].is(touched) && (d.u.runs(dev) || d.u.leased(dev, k)) {
			return true
		}
	}
	return false
}

// rollBackRest goes on calling back what comes into reach after the end.
func (d *decider) rollBackRest() {
	d.callBack()
	d.say("%s", d.r.Reason)
}

// callBack withdraws what has not activated and sends back what has.
func (d *decider) callBack() {
	d.f.each(back, d.recall)
	// Leases for the way back, within the budgets. A lease for the release that
	// is still out may yet be used, so it is waited for, unless it is used.
	if waiting, full := d.f.leases([]int32{0}, func(slot int32) { d.grant(slot, "may go back now") }); waiting > 0 {
		d.because("%d devices wait to go back: %s", waiting, full)
	}
}

// recall calls one device back.
func (d *decider) recall(slot int32) {
	dev, st := d.f.devices[slot], &d.f.status[slot]
	rec := dev.Record
	if rec.Offer == OfferNone {
		return
	}
	runs, stays := d.u.runs(dev), d.u.stays(dev)
	mine := d.u.own(dev) && dev.Trial.Mode != twin.ModeRollback
	acts := runs || mine && (dev.Trial.Phase == twin.PhaseActivating || dev.Trial.Phase == twin.PhaseSoaking)
	leased := d.u.leased(dev, &instant{now: d.now})
	switch {
	case rec.Offer == OfferRelease && (!acts || stays != ""), rec.Offer == OfferRollback && runs && stays != "":
		why := "drops its trial"
		if acts {
			why = "keeps what runs: " + stays + ", and its own watchdog guards it"
		}
		d.change(slot, ChangeWithdraw, why, func(r *Record) {
			r.Offer = OfferWithdrawn
			endLease(r, leased)
		})
	case (rec.Offer == OfferRelease || rec.Offer == OfferWithdrawn) && acts && stays == "":
		d.change(slot, ChangeRollback, fmt.Sprintf("goes back to %s-%d", d.r.Previous.Name, d.r.Previous.Counter), func(r *Record) {
			r.Offer = OfferRollback
			r.OfferedAt, r.Deadline = d.now, d.now.Add(seconds(d.p.RollbackS))
			endLease(r, leased)
		})
	case rec.Offer == OfferRollback && st.is(due):
		d.change(slot, ChangeRetry, "could not go back: "+dev.Trial.Reason, func(r *Record) {
			r.Try++
			r.OfferedAt, r.Deadline = d.now, d.now.Add(seconds(d.p.RollbackS))
		})
	}
}

// endLease takes a lease back: one that may be in use is remembered until it
// has surely ended, one that was used up is forgotten.
func endLease(r *Record, leased bool) {
	r.Revoked = leased && !r.LeaseUntil.IsZero()
	if !leased {
		r.LeaseUntil = time.Time{}
	}
}

// serveJoiners brings the promoted release to devices that came late.
func (d *decider) serveJoiners() {
	last := d.p.Waves[len(d.p.Waves)-1]
	wave, deadline := len(d.r.Waves)+1, d.now.Add(seconds(last.DeadlineS))
	d.f.each(joining, func(slot int32) {
		if d.f.status[slot].is(joins) {
			d.offer(slot, wave, deadline)
			return
		}
		d.tend(slot)
	})
	d.lease()
	if d.summary == "" {
		d.say("%s", d.r.Reason)
	}
}

// decision gathers what was decided.
func (d *decider) decision(before Rollout) Decision {
	for _, slot := range d.slots {
		d.f.status[slot].change = 0
	}
	byDevice := func(a, b Change) int { return compare(a.Device, b.Device) }
	if !slices.IsSortedFunc(d.changes, byDevice) {
		slices.SortFunc(d.changes, byDevice)
	}
	if d.r.State != Queued && d.r.State != Superseded {
		d.wakeAt(d.f.wakes())
	}
	return Decision{
		Rollout: d.r, Changes: d.changes, Gates: slices.Clone(d.gates), Counts: d.f.counts(), Summary: d.summary, Reasons: d.reasons, Wake: d.wake,
		Changed: len(d.changes) > 0 || !equal(before, d.r),
	}
}
