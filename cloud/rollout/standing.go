package rollout

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// DeviceState says where one device stands in a rollout. The values are those
// of the REST contract.
type DeviceState string

// The states of a device in a rollout.
const (
	DevicePending     DeviceState = "pending"     // not offered yet
	DeviceUnreachable DeviceState = "unreachable" // offered, not heard of: outside the denominator
	DeviceUpdating    DeviceState = "updating"    // on its way to the trial
	DeviceShadow      DeviceState = "shadow"      // challenger computes, does not act
	DeviceSoaking     DeviceState = "soaking"     // swapped, not confirmed
	DeviceDone        DeviceState = "done"        // confirmed, and attests the release
	DeviceSilent      DeviceState = "silent"      // started, then past its lease: a failure
	DeviceFailed      DeviceState = "failed"      //
	DeviceRolledBack  DeviceState = "rolled-back" // acted, and went back by itself
	DeviceReturned    DeviceState = "returned"    // called back by the hub, and no failure of its own
	DeviceKept        DeviceState = "kept"        // runs the release although the rollout did not end well: there is none before
	DeviceExcluded    DeviceState = "excluded"    // no variant, below its floor, held
)

// started says whether the device is in the denominator of the success share.
func (s DeviceState) started() bool {
	switch s {
	case DeviceUpdating, DeviceShadow, DeviceSoaking, DeviceDone, DeviceSilent, DeviceFailed, DeviceRolledBack, DeviceReturned, DeviceKept:
		return true
	}
	return false
}

// failure says whether the device counts against the release.
func (s DeviceState) failure() bool {
	return s == DeviceSilent || s == DeviceFailed || s == DeviceRolledBack
}

// Standing is a device's state in a rollout, with the reason for a person.
type Standing struct {
	State  DeviceState
	Reason string
}

// Stand says where a device stands in the rollout at now.
func (r Rollout) Stand(d Device, now time.Time) Standing {
	u := newRules(r, Orders{})
	c := u.stand(&d, &instant{now: now})
	return Standing{c.state(), u.words(c, &d)}
}

// transient are the failures that say nothing about the release: the hub may
// offer it again.
var transient = []twin.Code{twin.CodeFetch, twin.CodeDisk, twin.CodeMemory, twin.CodeExpired, twin.CodeWithdrawn}

// instant is the moment at which something is judged. It notes until when the
// judgement holds, if nothing but time passes.
type instant struct {
	now   time.Time
	until time.Time // zero: for ever
}

// reached says whether t has come.
func (k *instant) reached(t time.Time) bool {
	if !k.now.Before(t) {
		return true
	}
	k.holdsUntil(t)
	return false
}

// past says whether t lies behind.
func (k *instant) past(t time.Time) bool { return k.reached(t.Add(1)) }

func (k *instant) holdsUntil(t time.Time) {
	if t.After(k.now) && (k.until.IsZero() || t.Before(k.until)) {
		k.until = t
	}
}

// cause is what puts a device into its state.
type cause uint8

const (
	uncounted cause = iota // nobody has looked yet
	pending
	noVariant
	belowFloor
	heldOff
	keeps
	stillRuns
	dropped
	calledFailed
	calledRolledBack
	wentBack
	calledBack
	calledAway
	answersSoon
	onceMore
	unanswered
	done
	otherBytes
	rolledBack
	toRetry
	failed
	silentLeased
	silent
	restarting
	late
	soaking
	shadowing
	updating
	causes // how many there are
)

var states = [causes]DeviceState{
	pending: DevicePending, noVariant: DeviceExcluded, belowFloor: DeviceExcluded, heldOff: DeviceExcluded,
	keeps: DeviceKept, stillRuns: DeviceSoaking, dropped: DeviceReturned, calledFailed: DeviceFailed, calledRolledBack: DeviceRolledBack,
	wentBack: DeviceReturned, calledBack: DeviceReturned, calledAway: DeviceUnreachable,
	answersSoon: DeviceUnreachable, onceMore: DeviceUpdating, unanswered: DeviceUnreachable, done: DeviceDone,
	otherBytes: DeviceFailed, rolledBack: DeviceRolledBack, toRetry: DeviceUpdating, failed: DeviceFailed,
	silentLeased: DeviceSilent, silent: DeviceSilent, restarting: DeviceSoaking, late: DeviceFailed,
	soaking: DeviceSoaking, shadowing: DeviceShadow, updating: DeviceUpdating,
}

func (c cause) state() DeviceState { return states[c] }

// rules are all that decides where a device stands beside the device itself
// and the time.
type rules struct {
	r Rollout // its identity: what neither Decide nor Ask changes
	p Policy  // with defaults
	o Orders

	stale, lease, grace, retry time.Duration
	// noReturn says why no device can go back to the release before, or "".
	noReturn string
	// The class and architecture looked up last, with their variant.
	class   artifact.Class
	arch    string
	variant Variant
	able    bool
	before  bool // the release before has a variant for them
}

func newRules(r Rollout, o Orders) *rules {
	u := &rules{r: r, p: r.Policy.withDefaults(), o: o}
	u.stale, u.lease, u.grace, u.retry = seconds(u.p.StaleS), seconds(u.p.LeaseS), seconds(u.p.GraceS), seconds(u.p.RetryS)
	u.order(o)
	return u
}

// order takes in other standing orders.
func (u *rules) order(o Orders) {
	u.o, u.noReturn = o, ""
	if u.r.Previous == nil {
		u.noReturn = "there is none before it to go back to"
	} else if q, ok := o.quarantined(u.r.Previous.Manifest); ok {
		u.noReturn = fmt.Sprintf("%s-%d before it is quarantined by %s", u.r.Previous.Name, u.r.Previous.Counter, q.By)
	}
}

// fits returns the release's variant for a device.
func (u *rules) fits(d *Device) (Variant, bool) {
	if d.Class != u.class || d.Arch != u.arch || u.class == "" {
		u.class, u.arch = d.Class, d.Arch
		u.variant, u.able = u.r.Release.variant(d.Class, d.Arch)
		u.before = false
		if p := u.r.Previous; p != nil {
			_, u.before = p.variant(d.Class, d.Arch)
		}
	}
	return u.variant, u.able
}

// runs says whether the device says that it runs the release, attests whether
// it runs the release's own bytes.
func (u *rules) runs(d *Device) bool { return d.Champion.Manifest == u.r.Release.Manifest }

func (u *rules) attests(d *Device) bool {
	if !u.runs(d) {
		return false
	}
	v, ok := u.fits(d)
	return ok && d.Champion.Loaded == v.Loaded && v.Loaded != ""
}

// own says whether the device's trial is this rollout's, of its release.
func (u *rules) own(d *Device) bool {
	return d.Trial.Rollout == u.r.Name && d.Trial.Manifest == u.r.Release.Manifest
}

// stays says why the device cannot go back to the release before, or "".
func (u *rules) stays(d *Device) string {
	switch p := u.r.Previous; {
	case u.noReturn != "":
		return u.noReturn
	case p.Counter < d.Floor:
		return fmt.Sprintf("%s-%d before it is below the device's floor %d", p.Name, p.Counter, d.Floor)
	case !u.mayReturn(d):
		return fmt.Sprintf("%s-%d before it has no variant for class %q on %q", p.Name, p.Counter, d.Class, d.Arch)
	}
	return ""
}

func (u *rules) mayReturn(d *Device) bool {
	if u.noReturn != "" || u.r.Previous.Counter < d.Floor {
		return false
	}
	u.fits(d)
	return u.before
}

// stand says where a device stands.
func (u *rules) stand(d *Device, k *instant) cause {
	rec, ph := &d.Record, d.Trial.Phase
	if rec.Offer == OfferNone {
		switch _, ok := u.fits(d); {
		case !ok:
			return noVariant
		case u.r.Release.Counter < d.Floor:
			return belowFloor
		case d.Held:
			return heldOff
		}
		return pending
	}
	mine := u.own(d) && d.Trial.Mode != twin.ModeRollback
	if rec.Offer != OfferRelease {
		switch runs := u.runs(d); {
		case runs && ph.Final() && !u.mayReturn(d):
			return keeps
		case runs:
			return stillRuns
		case mine && ph.Final() && d.Trial.Code == twin.CodeWithdrawn:
			return dropped
		case mine && ph == twin.PhaseFailed:
			return calledFailed
		case mine && ph == twin.PhaseRolledBack:
			return calledRolledBack
		case rec.Offer == OfferRollback:
			return wentBack
		case mine:
			return calledBack
		}
		return calledAway
	}
	if !mine || d.Trial.Try < rec.Try {
		switch {
		case !mine && ph.Final() && u.attests(d):
			// It runs the release already, under another rollout's name; the
			// device answers this offer as soon as it has read it.
			return answersSoon
		case rec.Try > 0 && mine:
			return onceMore
		}
		return unanswered
	}
	switch {
	case ph == twin.PhaseConfirmed && u.attests(d):
		return done
	case ph == twin.PhaseConfirmed && d.Champion.Manifest != "":
		return otherBytes
	case ph == twin.PhaseRolledBack:
		return rolledBack
	case ph.Final() && ph != twin.PhaseConfirmed:
		if rec.Try < u.p.Retries && slices.Contains(transient, d.Trial.Code) && !k.reached(rec.Deadline) {
			return toRetry
		}
		return failed
	case !rec.LeaseUntil.IsZero() && !d.SeenAt.After(rec.LeaseUntil) && k.past(rec.LeaseUntil.Add(u.grace)) && !u.fresh(d, k):
		return silentLeased
	case k.past(d.SeenAt.Add(u.lease + u.grace)): // as long as a lease would have lasted
		return silent
	case ph == twin.PhaseConfirmed:
		// Its agent has just started and loads the model that it confirmed
		// before. One that never manages to holds its wave until the wave's end.
		return restarting
	case k.past(rec.Deadline.Add(u.grace)):
		return late
	case ph == twin.PhaseActivating || ph == twin.PhaseSoaking:
		return soaking
	case ph == twin.PhaseShadowing || ph == twin.PhaseReady:
		return shadowing
	}
	return updating
}

// words say why a device stands where it does.
func (u *rules) words(c cause, d *Device) string {
	switch c {
	case noVariant, belowFloor, heldOff:
		return excluded(u.r, d)
	case keeps:
		return "keeps the release: " + u.stays(d)
	case stillRuns:
		return "still runs the release"
	case dropped:
		return "dropped its trial when it was called back"
	case calledFailed, calledRolledBack, rolledBack, failed:
		return d.Trial.Reason
	case wentBack:
		return fmt.Sprintf("was called back and runs %s-%d again", u.r.Previous.Name, u.r.Previous.Counter)
	case calledBack, calledAway:
		return "was called back"
	case answersSoon:
		return "has not answered the offer yet"
	case onceMore:
		return "was offered the release once more"
	case unanswered:
		return "has not answered the offer"
	case otherBytes:
		return fmt.Sprintf("says confirmed and attests %s", d.Champion.Loaded.Short())
	case toRetry:
		return "to be offered again after: " + d.Trial.Reason
	case silentLeased:
		return fmt.Sprintf("silent since %s, its lease ended at %s", clock(d.SeenAt), clock(d.Record.LeaseUntil))
	case silent:
		return fmt.Sprintf("silent since %s", clock(d.SeenAt))
	case restarting:
		return "has confirmed the release, and no model acts at this moment: its agent starts"
	case late:
		return fmt.Sprintf("still %s at its deadline", d.Trial.Phase)
	}
	return ""
}

// excluded returns why a device cannot take part, or "".
func excluded(r Rollout, d *Device) string {
	switch _, ok := r.Release.variant(d.Class, d.Arch); {
	case !ok:
		return fmt.Sprintf("the release has no variant for class %q on %q", d.Class, d.Arch)
	case r.Release.Counter < d.Floor:
		return fmt.Sprintf("counter %d is below the device's floor %d", r.Release.Counter, d.Floor)
	case d.Held:
		return "held by a person"
	}
	return ""
}

// fresh says whether the newest report is young enough to be evidence.
func (u *rules) fresh(d *Device, k *instant) bool {
	return !d.SeenAt.IsZero() && !k.past(d.SeenAt.Add(u.stale))
}

// leased says whether the device may be using a permission to activate. A
// lease that ended still counts until a report says what became of it.
func (u *rules) leased(d *Device, k *instant) bool {
	rec, ph := &d.Record, d.Trial.Phase
	if rec.Offer == OfferNone {
		return false
	}
	this := d.Trial.Rollout == u.r.Name
	switch {
	case this && (ph == twin.PhaseActivating || ph == twin.PhaseSoaking):
		return true
	case rec.LeaseUntil.IsZero():
		return false
	case rec.Offer == OfferRollback && u.returned(d), rec.Offer != OfferRollback && this && d.Trial.Try == rec.Try && ph.Final():
		return false
	}
	lapsed := rec.LeaseUntil.Add(u.grace)
	return !k.reached(lapsed) || !d.SeenAt.After(lapsed)
}

// returned says that a device that was called back runs the release before.
func (u *rules) returned(d *Device) bool {
	return u.r.Previous != nil && d.Champion.Manifest == u.r.Previous.Manifest && !(u.own(d) && !d.Trial.Phase.Final())
}

// touched says whether the device may yet run the release because of this
// rollout, and can be called back.
func (u *rules) touched(d *Device, k *instant) bool {
	rec := &d.Record
	if rec.Offer == OfferNone {
		return false
	}
	mine, final := u.own(d), d.Trial.Phase.Final()
	switch {
	case mine && !final:
		return true
	case u.runs(d) && u.mayReturn(d):
		return true
	case rec.Offer == OfferRollback || mine && final:
		return false // it has reported an end since
	}
	return !rec.LeaseUntil.IsZero() && !k.reached(rec.LeaseUntil)
}

// longestRetry caps the wait before a retry, unless the policy asks for more.
const longestRetry = time.Hour

// retryAt returns when a device whose trial failed may be offered it again: so
// long after the failure, twice as long after each further one, and up to a
// quarter longer by lot, so that many that failed together do not come together.
func (u *rules) retryAt(d *Device, doublings int) time.Time {
	most, wait := max(u.retry, longestRetry), u.retry
	for range doublings {
		if wait >= most {
			break
		}
		wait = min(2*wait, most)
	}
	lot := mix(u.r.Seed, d.ID.Site, d.ID.Node, strconv.Itoa(d.Record.Try))
	wait += time.Duration(float64(wait) / 4 * (float64(lot>>11) / (1 << 53)))
	from := d.Record.OfferedAt
	// The device says when it failed, by its own clock: it is believed where it
	// says so between the offer and the report.
	if at := d.Trial.Since; at.After(from) && !at.After(d.SeenAt) {
		from = at
	}
	return from.Add(wait)
}

// Documents returns what a device with this record is to be told: the model
// and lease parts of its desired document. nil model: nothing is assigned.
func (r Rollout) Documents(rec Record) (*twin.Assignment, *twin.Lease) {
	var a *twin.Assignment
	var manifest artifact.Digest
	switch rec.Offer {
	case OfferRelease:
		p := r.Policy.withDefaults()
		manifest = r.Release.Manifest
		a = &twin.Assignment{
			Rollout: r.Name, Name: r.Release.Name, Counter: r.Release.Counter, Manifest: manifest, Mode: twin.ModeTrial, Try: rec.Try,
			Deadline: rec.Deadline, ShadowS: p.ShadowS, ShadowWindowS: p.ShadowWindowS, SoakS: p.SoakS, MinWindows: p.MinWindows,
		}
	case OfferRollback:
		manifest = r.Previous.Manifest
		a = &twin.Assignment{
			Rollout: r.Name, Name: r.Previous.Name, Counter: r.Previous.Counter, Manifest: manifest, Mode: twin.ModeRollback, Try: rec.Try,
			Deadline: rec.Deadline,
		}
	default:
		return nil, nil
	}
	if rec.LeaseUntil.IsZero() || rec.Revoked {
		return a, nil
	}
	return a, &twin.Lease{ID: fmt.Sprintf("%s/%s/%d", r.Name, rec.Offer, rec.Lease), Manifest: manifest, ExpiresAt: rec.LeaseUntil}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func clock(t time.Time) string {
	if t.IsZero() {
		return "ever"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}
