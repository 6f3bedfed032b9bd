package rollout

import (
	"math"
	"time"

	"github.com/swellfleet/swell/protocol/twin"
)

// status is all that a decision looks at of one device: a pure function of the
// rollout's identity, its policy, the standing orders, the device and the
// time, with the moment until which it holds.
type status struct {
	until int64 // nanoseconds since 1970; never for good
	cause cause
	bits  bits16
	wave  int32 // as in Record
	why   int32 // index in the roster's list of hindrances; 0: none
	// The rest is the roster's bookkeeping, and no part of the function.
	cell    int32 // index of the device's groups
	queue   int32 // 1 + index of the queue it waits in; 0: none
	entered int32 // 1 + index of the queue whose heap holds it; 0: none
	change  int32 // 1 + index of its change in the decision being made; 0: none
	marks   bits16
}

// never is the end of a status that time alone does not change.
const never = math.MaxInt64

type bits16 uint16

// What holds of a device.
const (
	fresh     bits16 = 1 << iota // its newest report is evidence
	away                         // counts against its groups' budgets
	ready                        // its trial says that it waits for a lease
	wants                        // a lease would be of use to it now
	hindered                     // as wants, or not offered yet, and a window or freeze is in its way: see why
	due                          // its failed trial, or failed way back, is to be tried again
	revocable                    // holds a lease that it has not used
	touched                      // may yet run the release because of the rollout
	joins                        // could be offered the release now
)

// Marks of the roster.
const (
	loose      bits16 = 1 << iota // to be looked at before the next decision
	dirty                         // looked at since the last one
	counted                       // in all that is counted
	placed                        // its cell is known
	listed                        // in the line of those that wait in its wave
	listedBack                    // in the line of those that wait to go back
	copied                        // the device is the roster's own
	gone                          // the slot is free
)

func (s *status) is(b bits16) bool { return s.bits&b != 0 }

func (s *status) set(b bits16, on bool) {
	if on {
		s.bits |= b
	}
}

// status looks at a device. why says what hinders it.
func (u *rules) status(d *Device, now time.Time) (s status, why string) {
	k := &instant{now: now}
	rec, t := &d.Record, &d.Trial
	s.wave = int32(rec.Wave)
	s.cause = u.stand(d, k)
	young := u.fresh(d, k)
	here := young && d.Connected
	s.set(fresh, young)
	s.set(away, !here || d.Degraded || u.leased(d, k))
	switch rec.Offer {
	case OfferNone:
		if s.cause == pending && rec.Wave == 0 {
			why = u.frozen(d, k)
			s.set(hindered, why != "")
			s.set(joins, here && why == "")
		}
	case OfferRelease:
		s.set(ready, t.Phase == twin.PhaseReady && u.own(d))
		leased := !k.reached(rec.LeaseUntil)
		s.set(revocable, leased && !rec.Revoked && s.cause.state() != DeviceSoaking && s.cause != done)
		if s.cause == toRetry && t.Try == rec.Try && k.reached(u.retryAt(d, rec.Try)) {
			why = u.frozen(d, k)
			s.set(due, why == "")
			s.set(hindered, why != "")
			break
		}
		if !s.is(ready) || s.cause != shadowing || t.Try != rec.Try {
			break
		}
		why = u.frozen(d, k)
		if leased || !here || d.Held {
			break
		}
		if why == "" {
			why = u.closed(d, k)
		}
		s.set(wants, why == "")
		s.set(hindered, why != "")
	case OfferRollback:
		if !u.runs(d) {
			break
		}
		lost := t.Rollout == u.r.Name && t.Mode == twin.ModeRollback && t.Try == rec.Try &&
			(t.Phase == twin.PhaseFailed || t.Phase == twin.PhaseDropped || t.Phase == twin.PhaseRolledBack)
		s.set(due, lost && k.reached(u.retryAt(d, 0)))
		s.set(wants, here && !lost && (rec.Revoked || k.reached(rec.LeaseUntil)))
	}
	s.set(touched, u.touched(d, k))
	s.until = never
	if !k.until.IsZero() {
		s.until = nanos(k.until)
	}
	return s, why
}

// frozen says which freeze is in the way of a device, or "".
func (u *rules) frozen(d *Device, k *instant) string {
	if len(u.o.Freezes) == 0 {
		return ""
	}
	why, change := u.o.frozen(d, k.now)
	k.holdsUntil(change)
	return why
}

// closed says why no window is open for a device, or "".
func (u *rules) closed(d *Device, k *instant) string {
	if len(u.p.Windows) == 0 {
		return ""
	}
	ok, why, change := u.p.open(d, k.now)
	k.holdsUntil(change)
	if ok {
		return ""
	}
	if why == "" {
		why = "no window is open"
	}
	return why
}

// nanos returns t in nanoseconds since 1970, for any t.
func nanos(t time.Time) int64 {
	switch s := t.Unix(); {
	case s > math.MaxInt64/int64(time.Second)-1:
		return never - 1
	case s < math.MinInt64/int64(time.Second)+1:
		return math.MinInt64
	}
	return t.UnixNano()
}
