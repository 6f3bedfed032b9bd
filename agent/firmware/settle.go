package firmware

import (
	"slices"

	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/twin"
)

// settled is what settle decided.
type settled struct {
	pair    slot.Pair
	changed bool
	runs    slot.Name // the slot whose program is to run now
}

// settle decides what the machine's view means for the slots. It is pure. The
// loader asks it, too: the power may have failed between the journal and the
// slots.
func settle(p slot.Pair, v View, healthy bool) (settled, error) {
	image, trying := p.Trial()
	if !trying {
		return settled{pair: p, runs: p.Good}, nil
	}
	on := p.Good.Other()
	phase, reason, ordered := twin.PhaseNone, "", false
	switch t := v.Trial; {
	case t != nil && t.Manifest == image.Manifest:
		phase, reason, ordered = t.Phase, t.Reason, t.Mode == twin.ModeRollback
	case v.Champion == image.Manifest:
		// The machine goes on to something else and wants this one kept.
		phase, ordered = twin.PhaseConfirmed, true
	}
	var next slot.Pair
	var err error
	switch phase {
	case twin.PhaseConfirmed:
		// A soak has shown that it works; what was ordered back has to show it.
		if p.Running != on || ordered && !healthy {
			return settled{pair: p, runs: on}, nil
		}
		next, err = p.Commit()
	case twin.PhaseSoaking:
		return settled{pair: p, runs: on}, nil
	case twin.PhaseFailed, twin.PhaseRolledBack, twin.PhaseDropped:
		if slices.Contains(v.Quarantined, image.Manifest) {
			next, err = p.Fail(reason)
		} else {
			next, err = p.Withdraw()
		}
	default:
		return settled{pair: p, runs: p.Running}, nil
	}
	return settled{pair: next, changed: true, runs: next.Good}, err
}
