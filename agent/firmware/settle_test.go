package firmware

import (
	"testing"

	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

func digest(s string) artifact.Digest { return artifact.Of([]byte(s)) }

// onTrial is a device with release old in slot a and release new on trial in
// slot b; running says which one this is.
func onTrial(t *testing.T, running slot.Name) slot.Pair {
	t.Helper()
	p, err := slot.First(slot.Image{Manifest: digest("old"), Digest: digest("old program"), Counter: 1}).
		Install(slot.Image{Manifest: digest("new"), Digest: digest("new program"), Counter: 2})
	if err != nil {
		t.Fatal(err)
	}
	p.Running = running
	return p
}

func TestSlotsFollowWhatTheMachineDecided(t *testing.T) {
	trial := func(phase twin.Phase, m twin.Mode) *twin.Trial {
		return &twin.Trial{Manifest: digest("new"), Phase: phase, Mode: m, Reason: "because"}
	}
	for _, c := range []struct {
		name    string
		running slot.Name
		view    View
		healthy bool
		good    slot.Name // committed afterwards
		trying  bool
		failed  bool
		runs    slot.Name
	}{
		{"installed, not yet written down", slot.A, View{Trial: trial(twin.PhaseActivating, twin.ModeTrial)}, true, slot.A, true, false, slot.A},
		{"swapped: the new one is to run", slot.A, View{Trial: trial(twin.PhaseSoaking, twin.ModeTrial)}, true, slot.A, true, false, slot.B},
		{"soaking", slot.B, View{Trial: trial(twin.PhaseSoaking, twin.ModeTrial)}, true, slot.A, true, false, slot.B},
		{"soaked", slot.B, View{Trial: trial(twin.PhaseConfirmed, twin.ModeTrial)}, false, slot.B, false, false, slot.B},
		{"soaked, and the loader asks before it has started it", slot.A, View{Trial: trial(twin.PhaseConfirmed, twin.ModeTrial)}, false, slot.A, true, false, slot.B},
		{"rolled back and quarantined", slot.B, View{Trial: trial(twin.PhaseRolledBack, twin.ModeTrial), Quarantined: []artifact.Digest{digest("new")}}, true, slot.A, false, true, slot.A},
		{"called back by the hub", slot.B, View{Trial: trial(twin.PhaseRolledBack, twin.ModeTrial)}, true, slot.A, false, false, slot.A},
		{"the swap ended too late", slot.A, View{Trial: trial(twin.PhaseFailed, twin.ModeTrial)}, true, slot.A, false, false, slot.A},
		{"withdrawn", slot.A, View{Trial: trial(twin.PhaseDropped, twin.ModeTrial)}, true, slot.A, false, false, slot.A},
		{"ordered back: it is to run", slot.A, View{Trial: trial(twin.PhaseConfirmed, twin.ModeRollback)}, true, slot.A, true, false, slot.B},
		{"ordered back: runs and does not work yet", slot.B, View{Trial: trial(twin.PhaseConfirmed, twin.ModeRollback)}, false, slot.A, true, false, slot.B},
		{"ordered back: works", slot.B, View{Trial: trial(twin.PhaseConfirmed, twin.ModeRollback)}, true, slot.B, false, false, slot.B},
		{"the machine is busy with another already", slot.B, View{Champion: digest("new"), Trial: &twin.Trial{Manifest: digest("newer"), Phase: twin.PhaseFetching}}, true, slot.B, false, false, slot.B},
		{"no journal: its boots decide", slot.B, View{}, true, slot.A, true, false, slot.B},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := settle(onTrial(t, c.running), c.view, c.healthy)
			if err != nil {
				t.Fatal(err)
			}
			p := got.pair
			if p.Good != c.good || p.Trying != c.trying || (p.Failed != nil) != c.failed || got.runs != c.runs {
				t.Errorf("good %s, trying %t, failed %v, runs %s: want %s, %t, %t, %s", p.Good, p.Trying, p.Failed, got.runs, c.good, c.trying, c.failed, c.runs)
			}
			if c.failed && p.Failed.Reason != "because" {
				t.Errorf("the reason is %q", p.Failed.Reason)
			}
		})
	}
}
