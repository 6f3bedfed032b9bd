package rollout

import (
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
)

// Orders are the standing orders of people that hold for every rollout.
type Orders struct {
	Freezes     []Freeze     `json:"freezes,omitempty"`
	Quarantined []Quarantine `json:"quarantined,omitempty"`
}

// Freeze keeps hands off devices for a time: nothing new is offered to those it
// matches and no lease is given. The way back stays open.
type Freeze struct {
	Name     string    `json:"name"`     // unique among the freezes
	Selector string    `json:"selector"` // see package selector; "" is every device
	From     time.Time `json:"from,omitzero"`
	Until    time.Time `json:"until,omitzero"` // zero: until somebody lifts it
	By       string    `json:"by"`
	Reason   string    `json:"reason"`
}

// Quarantine bans a release: no rollout offers it, and one that does goes back,
// whatever its state.
type Quarantine struct {
	Manifest artifact.Digest `json:"manifest"`
	Release  string          `json:"release"` // its name for people, e.g. "pump-anomaly-7"
	By       string          `json:"by"`
	Reason   string          `json:"reason"`
	At       time.Time       `json:"at"`
}
