package update

import (
	"github.com/swellfleet/swell/protocol/artifact"
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
	Boots    uint8 `json:"boots"` // starts of the agent within the soak
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
	Rollout string `json:"rollout,omitempty"`
	Try     int    `json:"try,omitempty"`
	Lease   string `json:"lease,omitempty"`
	Code    string `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Quarantined are manifests that were rolled back here, oldest first, at
	// most MaxQuarantined.
	Quarantined []artifact.Digest `json:"quarantined,omitempty"`
	// Floors are the highest floors seen, by release name.
	Floors map[string]uint64 `json:"floors,omitempty"`
}

// MaxQuarantined bounds the journal; the oldest are forgotten first.
const MaxQuarantined = 64

// phase is twin.Phase in one byte.
type phase uint8
