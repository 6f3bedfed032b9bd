package update

import (
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Fact is what a start of the device has shown, where a loader that the machine
// does not see decides what runs: firmware.
type Fact struct {
	// Runs is the release that runs. The zero Release: one that came with none.
	Runs Release
	// GivenUp is the release the loader gave up last, and Reason says why.
	// Empty: none.
	GivenUp artifact.Digest
	Reason  string
}

// Adopt returns the journal of a device on which f is the fact, whatever was
// decided before it: what runs is the champion, what was given up is
// quarantined, and a trial whose release runs already has been swapped in.
// now is Unix milliseconds. A nil journal stays nil unless a release runs.
func (j *Journal) Adopt(f Fact, nowMs int64) *Journal {
	if j == nil {
		if f.Runs.Manifest == "" {
			return nil
		}
		j = &Journal{Schema: 1}
	}
	j = j.clone()
	s := &j.State
	trial := j.release(s.Trial).Manifest
	onTrial := trial != "" && !s.Phase.ended()
	gone := f.GivenUp != "" && trial == f.GivenUp
	if gone {
		j.quarantine(f.GivenUp)
	}
	if j.release(s.Champion).Manifest == f.Runs.Manifest {
		if gone && onTrial { // it was given up before the swap was written down
			j.end(failed, f.Reason, nowMs)
		}
		return j
	}
	switch {
	case onTrial && trial == f.Runs.Manifest:
		// The power failed after the loader was told and before the journal
		// was: the swap has happened. A return needs no soak.
		former := s.Champion
		s.Champion, s.Boots, s.SinceMs = s.Trial, 0, nowMs
		if s.Rollback {
			s.LastGood, s.Spare, s.Phase = s.Trial, 0, confirmed
			return j
		}
		if s.LastGood == 0 {
			s.LastGood = former
		}
		s.Phase = soaking
		return j
	case s.Champion != 0 && s.Champion == s.Trial:
		// It should run and does not: the loader fell back.
		if s.Phase == soaking || gone {
			j.quarantine(trial)
			reason := f.Reason
			if reason == "" {
				reason = "the loader started another image"
			}
			j.end(rolledBack, reason, nowMs)
		}
	}
	s.LastGood, s.Spare = 0, 0
	s.Champion = 0
	if f.Runs.Manifest != "" {
		runs := j.known(f.Runs)
		s.Champion, s.LastGood = runs, runs
	}
	return j
}

// end writes down that the trial is over.
func (j *Journal) end(p phase, reason string, nowMs int64) {
	j.State.Phase, j.State.SinceMs = p, nowMs
	j.Code, j.Reason = twin.CodeCrash, reason
}

// known returns the ref of r, in a place that the trial does not use; nothing
// else is named when it is called.
func (j *Journal) known(r Release) ref {
	for i := range j.Releases {
		if j.Releases[i].Manifest == r.Manifest {
			return ref(i + 1)
		}
	}
	for i := range j.Releases {
		if ref(i+1) != j.State.Trial {
			j.Releases[i] = r
			return ref(i + 1)
		}
	}
	j.Releases = append(j.Releases, r)
	return ref(len(j.Releases))
}
