package rollout

import (
	"fmt"
	"slices"
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
	return stand(r, r.Policy.withDefaults(), &d, now)
}

// transient are the failures that say nothing about the release: the hub may
// offer it again.
var transient = []twin.Code{twin.CodeFetch, twin.CodeDisk, twin.CodeMemory, twin.CodeExpired, twin.CodeWithdrawn}

func stand(r Rollout, p Policy, d *Device, now time.Time) Standing {
	rec := &d.Record
	if rec.Offer == OfferNone {
		if why := excluded(r, d); why != "" {
			return Standing{DeviceExcluded, why}
		}
		return Standing{State: DevicePending}
	}
	mine := d.Trial.Rollout == r.Name && d.Trial.Manifest == r.Release.Manifest && d.Trial.Mode != twin.ModeRollback
	attests := r.attests(d)
	if rec.Offer != OfferRelease {
		switch {
		case d.Champion.Manifest == r.Release.Manifest && r.Previous == nil && d.Trial.Phase.Final():
			return Standing{DeviceKept, "keeps the release: there is none before it to go back to"}
		case d.Champion.Manifest == r.Release.Manifest:
			return Standing{DeviceSoaking, "still runs the release"}
		case mine && d.Trial.Phase.Final() && d.Trial.Code == twin.CodeWithdrawn:
			return Standing{DeviceReturned, "dropped its trial when it was called back"}
		case mine && d.Trial.Phase == twin.PhaseFailed:
			return Standing{DeviceFailed, d.Trial.Reason}
		case mine && d.Trial.Phase == twin.PhaseRolledBack:
			return Standing{DeviceRolledBack, d.Trial.Reason}
		case rec.Offer == OfferRollback:
			return Standing{DeviceReturned, fmt.Sprintf("was called back and runs %s-%d again", r.Previous.Name, r.Previous.Counter)}
		case mine:
			return Standing{DeviceReturned, "was called back"}
		}
		return Standing{DeviceUnreachable, "was called back"}
	}
	grace := seconds(p.GraceS)
	if !mine || d.Trial.Try < rec.Try {
		if attests && d.Trial.Phase.Final() && !mine {
			// It runs the release already, under another rollout's name; the
			// device answers this offer as soon as it has read it.
			return Standing{DeviceUnreachable, "has not answered the offer yet"}
		}
		if rec.Try > 0 && mine {
			return Standing{DeviceUpdating, "was offered the release once more"}
		}
		return Standing{DeviceUnreachable, "has not answered the offer"}
	}
	switch ph := d.Trial.Phase; {
	case ph == twin.PhaseConfirmed && attests:
		return Standing{State: DeviceDone}
	case ph == twin.PhaseConfirmed && d.Champion.Manifest != "":
		return Standing{DeviceFailed, fmt.Sprintf("says confirmed and attests %s", d.Champion.Loaded.Short())}
	case ph == twin.PhaseRolledBack:
		return Standing{DeviceRolledBack, d.Trial.Reason}
	case ph.Final() && ph != twin.PhaseConfirmed:
		if rec.Try < p.Retries && slices.Contains(transient, d.Trial.Code) && now.Before(rec.Deadline) {
			return Standing{DeviceUpdating, "to be offered again after: " + d.Trial.Reason}
		}
		return Standing{DeviceFailed, d.Trial.Reason}
	case !rec.LeaseUntil.IsZero() && !d.SeenAt.After(rec.LeaseUntil) && now.After(rec.LeaseUntil.Add(grace)) && !p.fresh(d, now):
		return Standing{DeviceSilent, fmt.Sprintf("silent since %s, its lease ended at %s", clock(d.SeenAt), clock(rec.LeaseUntil))}
	case now.After(d.SeenAt.Add(seconds(p.LeaseS) + grace)): // as long as a lease would have lasted
		return Standing{DeviceSilent, fmt.Sprintf("silent since %s", clock(d.SeenAt))}
	case ph == twin.PhaseConfirmed:
		// Its agent has just started and loads the model that it confirmed
		// before. One that never manages to holds its wave until the wave's end.
		return Standing{DeviceSoaking, "has confirmed the release, and no model acts at this moment: its agent starts"}
	case now.After(rec.Deadline.Add(grace)):
		return Standing{DeviceFailed, fmt.Sprintf("still %s at its deadline", ph)}
	case ph == twin.PhaseActivating || ph == twin.PhaseSoaking:
		return Standing{State: DeviceSoaking}
	case ph == twin.PhaseShadowing || ph == twin.PhaseReady:
		return Standing{State: DeviceShadow}
	}
	return Standing{State: DeviceUpdating}
}

// attests says whether the device runs the release's own bytes.
func (r Rollout) attests(d *Device) bool {
	v, ok := r.Release.variant(d.Class, d.Arch)
	return ok && d.Champion.Manifest == r.Release.Manifest && d.Champion.Loaded == v.Loaded && v.Loaded != ""
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
func (p Policy) fresh(d *Device, now time.Time) bool {
	return !d.SeenAt.IsZero() && now.Sub(d.SeenAt) <= seconds(p.StaleS)
}

// leased says whether the device may be using a permission to activate. A
// lease that ended still counts until a report says what became of it.
func (r Rollout) leased(p Policy, d *Device, now time.Time) bool {
	mine := d.Trial.Rollout == r.Name && d.Trial.Try == d.Record.Try
	switch {
	case d.Record.Offer == OfferNone:
		return false
	case d.Trial.Rollout == r.Name && (d.Trial.Phase == twin.PhaseActivating || d.Trial.Phase == twin.PhaseSoaking):
		return true
	case d.Record.LeaseUntil.IsZero():
		return false
	case d.Record.Offer == OfferRollback && r.returned(d), d.Record.Offer != OfferRollback && mine && d.Trial.Phase.Final():
		return false
	}
	lapsed := d.Record.LeaseUntil.Add(seconds(p.GraceS))
	return now.Before(lapsed) || !d.SeenAt.After(lapsed)
}

// returned says that a device that was called back runs the release before.
func (r Rollout) returned(d *Device) bool {
	return r.Previous != nil && d.Champion.Manifest == r.Previous.Manifest &&
		!(d.Trial.Rollout == r.Name && d.Trial.Manifest == r.Release.Manifest && !d.Trial.Phase.Final())
}

// unavailable says whether the device counts against its group's budget.
func (r Rollout) unavailable(p Policy, d *Device, now time.Time) bool {
	return !d.Connected || !p.fresh(d, now) || d.Degraded || r.leased(p, d, now)
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
