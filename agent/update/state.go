package update

import (
	"fmt"
	"maps"
	"slices"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// State is what decides, packed: at most 64 bytes, with releases as indices
// into Journal.Releases, so that a simulator can hold a million of them.
type State struct {
	Generation uint64 `json:"generation"`
	DeadlineMs int64  `json:"deadline_ms,omitempty"` // of the trial, by the wall clock, Unix; 0: none
	SinceMs    int64  `json:"since_ms,omitempty"`    // when the phase began, by the wall clock
	LimitMs    uint32 `json:"limit_ms,omitempty"`    // of the trial, in running time
	SpentMs    uint32 `json:"spent_ms,omitempty"`    // running time used up at the last save
	ShadowMs   uint32 `json:"shadow_ms,omitempty"`
	WindowMs   uint32 `json:"window_ms,omitempty"` // counting window of the shadow
	SoakMs     uint32 `json:"soak_ms,omitempty"`
	MinWindows uint32 `json:"min_windows,omitempty"`

	// Champion acts; LastGood is the newest confirmed one; Spare is the one
	// confirmed before it; Trial is on trial. 0: none, else 1 + index.
	Champion ref `json:"champion"`
	LastGood ref `json:"last_good"`
	Spare    ref `json:"spare"`
	Trial    ref `json:"trial"`

	Phase    phase `json:"phase"`
	Rollback bool  `json:"rollback,omitempty"` // the trial is a return ordered by the hub
	Withdraw bool  `json:"withdraw,omitempty"` // go back as soon as the swap has ended
	Attempts uint8 `json:"attempts"`
	Boots    uint8 `json:"boots"`             // starts of the agent within the soak
	Stopped  bool  `json:"stopped,omitempty"` // the agent was asked to end: its next start is not the trial's fault
}

// ref is 1 + an index into Journal.Releases; 0 names none.
type ref uint8

// Journal is what survives a power cut: State and the names it stands for.
// agent/disk replaces it as a whole (write, fsync, rename, fsync).
type Journal struct {
	Schema   int       `json:"schema"` // 1
	State    State     `json:"state"`
	Releases []Release `json:"releases,omitempty"`
	// Rollout, Try, Lease, Code and Reason belong to the trial.
	Rollout string    `json:"rollout,omitempty"`
	Try     int       `json:"try,omitempty"`
	Lease   string    `json:"lease,omitempty"`
	Code    twin.Code `json:"code,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	// Quarantined are manifests that were rolled back here, oldest first, at
	// most MaxQuarantined.
	Quarantined []artifact.Digest `json:"quarantined,omitempty"`
	// Floors are the highest floors seen, by release name.
	Floors map[string]uint64 `json:"floors,omitempty"`
}

// MaxQuarantined bounds the journal; the oldest are forgotten first.
const MaxQuarantined = 64

// phase is twin.Phase in one byte: its index in phases.
type phase uint8

const (
	none phase = iota
	fetching
	verifying
	guarding
	loading
	golden
	shadowing
	ready
	activating
	soaking
	confirmed
	failed
	rolledBack
	dropped
)

var phases = [...]twin.Phase{
	twin.PhaseNone, twin.PhaseFetching, twin.PhaseVerifying, twin.PhaseGuarding, twin.PhaseLoading,
	twin.PhaseTesting, twin.PhaseShadowing, twin.PhaseReady, twin.PhaseActivating, twin.PhaseSoaking,
	twin.PhaseConfirmed, twin.PhaseFailed, twin.PhaseRolledBack, twin.PhaseDropped,
}

func (p phase) twin() twin.Phase { return phases[p] }

// ended says that there is no trial on its way.
func (p phase) ended() bool { return p == none || p >= confirmed }

// inactive says that the trial is on its way and does not act yet.
func (p phase) inactive() bool { return p >= fetching && p <= ready }

// Validate reports a journal that no machine has written.
func (j Journal) Validate() error {
	if j.Schema != 1 {
		return fmt.Errorf("update journal has schema %d: this version reads 1", j.Schema)
	}
	if int(j.State.Phase) >= len(phases) {
		return fmt.Errorf("update journal: unknown phase %d", j.State.Phase)
	}
	for _, r := range []ref{j.State.Champion, j.State.LastGood, j.State.Spare, j.State.Trial} {
		if int(r) > len(j.Releases) {
			return fmt.Errorf("update journal: names release %d of %d", r, len(j.Releases))
		}
	}
	if j.State.Trial == 0 && !j.State.Phase.ended() {
		return fmt.Errorf("update journal: phase %s without a trial", j.State.Phase.twin())
	}
	for _, r := range j.Releases {
		if err := r.Manifest.Validate(); err != nil {
			return fmt.Errorf("update journal: release %s-%d: %w", r.Name, r.Counter, err)
		}
	}
	return nil
}

// release returns what r names; the zero Release for 0.
func (j *Journal) release(r ref) Release {
	if r == 0 {
		return Release{}
	}
	return j.Releases[r-1]
}

// find returns the champion, last good or spare that manifest names, or 0.
func (j *Journal) find(manifest artifact.Digest) ref {
	for _, r := range []ref{j.State.Champion, j.State.LastGood, j.State.Spare} {
		if r != 0 && j.release(r).Manifest == manifest {
			return r
		}
	}
	return 0
}

// intern returns the ref of rel, in a place that nothing else uses.
func (j *Journal) intern(rel Release) ref {
	if r := j.find(rel.Manifest); r != 0 {
		return r
	}
	used := func(r ref) bool {
		s := j.State
		return r == s.Champion || r == s.LastGood || r == s.Spare
	}
	for i := range j.Releases {
		if r := ref(i + 1); !used(r) {
			j.Releases[i] = rel
			return r
		}
	}
	j.Releases = append(j.Releases, rel)
	return ref(len(j.Releases))
}

// quarantine keeps a release from being tried again.
func (j *Journal) quarantine(d artifact.Digest) {
	if slices.Contains(j.Quarantined, d) {
		return
	}
	j.Quarantined = append(j.Quarantined, d)
	if n := len(j.Quarantined) - MaxQuarantined; n > 0 {
		j.Quarantined = slices.Delete(j.Quarantined, 0, n)
	}
}

// clone returns a copy that shares nothing.
func (j *Journal) clone() *Journal {
	c := *j
	c.Releases = slices.Clone(j.Releases)
	c.Quarantined = slices.Clone(j.Quarantined)
	c.Floors = maps.Clone(j.Floors)
	return &c
}
