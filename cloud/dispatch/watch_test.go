package dispatch

import (
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
)

// keep runs a rollout that decides something every so often, each time on so
// many changed devices, and returns how many decisions and facts are stored.
func keep(rank weight, facts int, every, during time.Duration) (decisions int, kept uint64, coalesced int) {
	w := &watch{stored: rollout.Rollout{State: rollout.Running}}
	start := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	for now := start; now.Sub(start) < during; now = now.Add(every) {
		if !w.keeps(rank, now) {
			continue
		}
		decisions++
		coalesced += w.coalesced
		w.coalesced, w.keptAt = 0, now
		w.kept += decisionCost + uint64(facts)
	}
	return decisions, w.kept, coalesced
}

func TestWhatIsKeptOfARolloutIsBoundedHoweverLongItLasts(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, tc := range []struct {
		name      string
		rank      weight
		facts     int
		every     time.Duration
		during    time.Duration
		decisions int // at most
		kept      uint64
	}{
		{"a night of 1 000 devices that are told something all the time", telling, 1000, 10 * time.Second, 10 * time.Hour, 1200, 1 << 20},
		{"five years of 1 000 devices", telling, 1000, 10 * time.Minute, 5 * year, 1800, 2 << 20},
		{"five years of one device", telling, 1, 10 * time.Minute, 5 * year, 20_000, 2 << 20},
		{"five years of 100 000 devices", telling, 100_000, 10 * time.Minute, 5 * year, 20, 3 << 20},
		{"a night in which gate values creep", creeping, 1000, 10 * time.Second, 10 * time.Hour, 600, 1 << 20},
	} {
		decisions, kept, coalesced := keep(tc.rank, tc.facts, tc.every, tc.during)
		if decisions > tc.decisions || kept > tc.kept {
			t.Errorf("%s: %d decisions with %d facts", tc.name, decisions, kept)
		}
		if all := int(tc.during / tc.every); tc.rank == telling && decisions+coalesced > all {
			t.Errorf("%s: %d kept and %d coalesced of %d", tc.name, decisions, coalesced, all)
		}
		t.Logf("%s: %d decisions with %d facts", tc.name, decisions, kept)
	}
	w := &watch{kept: 1 << 40, keptAt: time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)}
	if !w.keeps(turning, w.keptAt) {
		t.Error("a change of state was not kept")
	}
}

func TestAFleetTooLargeToBeKeptKeepsItsDrawnDevices(t *testing.T) {
	now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	s := Stored{Snapshot: rollout.Snapshot{Devices: rollouttest.Fleet(maxFacts+10, 1, nil, now)}}
	for i := range 5 {
		s.Snapshot.Devices[i].Record = rollout.Record{Wave: 1}
	}
	s.price(100)
	if n := len(s.Snapshot.Devices); n != maxFacts || s.Omitted != 10 || s.Kept != 100+decisionCost+maxFacts {
		t.Fatalf("%d devices, %d left out, %d kept", n, s.Omitted, s.Kept)
	}
	for i := range 5 {
		if s.Snapshot.Devices[i].Record.Wave != 1 {
			t.Fatal("a drawn device was left out")
		}
	}
}
