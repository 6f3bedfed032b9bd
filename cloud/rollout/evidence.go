package rollout

import "github.com/swellfleet/swell/protocol/artifact"

// Evidence is what one device's shadow has shown about one release. It is made
// of integers that add up over devices in any order, and does not depend on
// the policy, so that a decision can be replayed under another one.
type Evidence struct {
	Manifest artifact.Digest `json:"manifest,omitempty"` // of the challenger
	// Epoch names the run of the agent and the attempt that counted; Next is
	// the index of the first counting window of it not taken in yet.
	Epoch string `json:"epoch,omitempty"`
	Next  uint64 `json:"next,omitempty"`

	Windows uint64 `json:"windows,omitempty"` // counting windows with at least one item
	Items   uint64 `json:"items,omitempty"`   // windows both models scored
	A       uint64 `json:"a,omitempty"`       // of them flagged by the challenger alone
	B       uint64 `json:"b,omitempty"`       // of them flagged by the champion alone
	// Missed counts gaps: windows that were never reported. A gap clears what
	// came before it, so that evidence is always contiguous.
	Missed uint64 `json:"missed,omitempty"`
	// Bins count windows by score, sorted by Cell.
	Bins []Bin `json:"bins,omitempty"`
}

// Bin counts the counting windows whose score fell into one cell; see cellOf.
type Bin struct {
	Cell int16  `json:"c"`
	N    uint64 `json:"n"`
}
