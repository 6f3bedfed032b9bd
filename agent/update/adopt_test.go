package update

import (
	"slices"
	"testing"

	"github.com/swellfleet/swell/protocol/artifact"
)

func rel(s string, counter uint64) Release {
	return Release{Name: "swell-agent", Counter: counter, Manifest: artifact.Of([]byte(s)), Model: artifact.Of([]byte(s + " file"))}
}

// TestJournalFollowsWhatTheLoaderStarted: one is committed, two is on trial.
func TestJournalFollowsWhatTheLoaderStarted(t *testing.T) {
	one, two := rel("one", 1), rel("two", 2)
	journal := func(p phase, champion ref) *Journal {
		return &Journal{Schema: 1, Releases: []Release{one, two}, State: State{Champion: champion, LastGood: 1, Trial: 2, Phase: p}}
	}
	gone := Fact{Runs: one, GivenUp: two.Manifest, Reason: "it did not commit"}
	for _, c := range []struct {
		name        string
		j           *Journal
		f           Fact
		phase       phase
		champion    Release
		quarantined bool
	}{
		{"nothing ever came", nil, Fact{}, none, Release{}, false},
		{"a release runs and the journal is lost", nil, Fact{Runs: one}, none, one, false},
		{"as decided", journal(soaking, 2), Fact{Runs: two}, soaking, two, false},
		{"the loader gave it up in its soak", journal(soaking, 2), gone, rolledBack, one, true},
		{"the loader gave it up and did not say so", journal(soaking, 2), Fact{Runs: one}, rolledBack, one, true},
		{"the power failed between loader and journal", journal(activating, 1), Fact{Runs: two}, soaking, two, false},
		{"and the loader gave it up since", journal(activating, 1), gone, failed, one, true},
		{"a new package in its soak", journal(soaking, 2), Fact{}, rolledBack, Release{}, true},
		{"a new package later", journal(confirmed, 2), Fact{}, confirmed, Release{}, false},
		{"a program rotted and the other one runs", journal(confirmed, 2), gone, rolledBack, one, true},
		{"called back long ago", journal(rolledBack, 1), gone, rolledBack, one, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.j.Adopt(c.f, 1000)
			if got == nil {
				if c.j != nil || c.champion.Manifest != "" {
					t.Fatal("no journal")
				}
				return
			}
			if err := got.Validate(); err != nil {
				t.Fatal(err)
			}
			if got.State.Phase != c.phase || got.release(got.State.Champion) != c.champion || slices.Contains(got.Quarantined, two.Manifest) != c.quarantined {
				t.Errorf("%s, champion %+v, quarantined %v: want %s, %+v, %t", got.State.Phase.twin(), got.release(got.State.Champion), got.Quarantined, c.phase.twin(), c.champion, c.quarantined)
			}
			again := got.Adopt(c.f, 2000)
			if again.State != got.State {
				t.Errorf("adopted twice it differs: %+v and %+v", got.State, again.State)
			}
		})
	}
}

func TestReturnThatRunsAlreadyNeedsNoSoak(t *testing.T) {
	one, two := rel("one", 1), rel("two", 2)
	j := &Journal{Schema: 1, Releases: []Release{two, one}, State: State{Champion: 1, LastGood: 1, Trial: 2, Phase: activating, Rollback: true}}
	got := j.Adopt(Fact{Runs: one}, 1000)
	if got.State.Phase != confirmed || got.release(got.State.Champion) != one || got.release(got.State.LastGood) != one {
		t.Errorf("%+v", got.State)
	}
}
