// Package dispatch is the shell round rollout.Decide: it looks at the rollouts
// whenever something happened, decides, stores the decision with its evidence
// and the desired documents it leads to in one transaction, publishes them, and
// wakes again when the decision said so.
//
// The parties are people, who propose rollouts, ask things of them and give
// standing orders, on any hub; a Fleet that knows the devices and what changed
// about them; a Store that several hubs share; a Publisher and a Ledger. The
// hubs take turns: one of them holds the store's lease and decides.
//
// It promises:
//   - two hubs never act twice: a commit counts only under the lease and on the
//     version that was decided on, and a hub that dies or sleeps at any point
//     changes nothing about how a rollout ends;
//   - a document is published at least once, its generation is never used for
//     another, and what cannot be published is tried again for ever, at least
//     once a minute;
//   - a look costs what has changed since the last one, not what the fleet
//     counts: what is kept between looks is thrown away whenever the store is
//     ahead of it;
//   - what a person does is in the ledger before it holds;
//   - every stored decision can be taken again from what is stored, with its own
//     policy or another: see Evidence and Replay. What is stored of one rollout
//     is bounded however long it lasts; what is put together with a later
//     decision, or left out, is counted in it.
//
// It decides nothing itself. cloud/api, cloud/store, cloud/hub and the simulator
// import it.
package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Sentinels callers branch on.
var (
	ErrNotFound = errors.New("no such rollout")
	// ErrConflict means that the rollout changed since it was loaded, or that
	// another hub holds the dispatcher's lease: load again.
	ErrConflict = errors.New("rollout changed meanwhile")
	// ErrExists means that the name is taken.
	ErrExists = errors.New("rollout exists")
	// ErrNoOrder means that there is no such freeze or quarantine.
	ErrNoOrder = errors.New("no such standing order")
	// ErrQuarantined means that a person has banned the release.
	ErrQuarantined = errors.New("release is quarantined")
	// ErrNoEvidence means that there is no such decision, or that it was stored
	// by a hub that did not keep what it rested on.
	ErrNoEvidence = errors.New("no evidence of this decision")
)

// Loaded is a rollout as the store holds it.
type Loaded struct {
	Rollout rollout.Rollout
	Version uint64 // rises with every Commit
	Records map[topic.ID]rollout.Record
}

// Commit is what one decision changes, applied as a whole or not at all.
type Commit struct {
	// Holder must hold the lease of Acquire at Now. Empty is a person's own
	// change, which any hub may commit: it needs no lease and has no Desired.
	Holder  string
	Now     time.Time
	Rollout rollout.Rollout
	Version uint64 // of the rollout as loaded; 0 creates it
	// Records are merged into the rollout's records.
	Records map[topic.ID]rollout.Record
	// Desired are the new whole documents, unpublished, one a device. The
	// store sets Generation to one more than the device's last and stores it.
	Desired []twin.Desired
	// Decision is appended to the rollout's history. nil: nothing to explain.
	Decision *Stored
}

// Stored is one decision with what it rested on.
type Stored struct {
	ID      uint64           `json:"id"` // set by the store, rising within a rollout from 1
	Rollout string           `json:"rollout"`
	At      time.Time        `json:"at"`
	Before  rollout.State    `json:"before"`
	Actor   string           `json:"actor,omitempty"` // the person whose request led to it; empty: the planner's own
	Request *rollout.Request `json:"request,omitempty"`
	Input   rollout.Rollout  `json:"input"`
	// Snapshot is what was decided on: every device, or with Delta those whose
	// facts or record changed since the decision stored before, beside Gone,
	// which left since. The orders are always whole. Dispatcher.Evidence puts
	// it together again.
	Snapshot rollout.Snapshot `json:"snapshot"`
	Delta    bool             `json:"delta,omitempty"`
	Gone     []topic.ID       `json:"gone,omitempty"`
	Decision rollout.Decision `json:"decision"`
	// Coalesced is how many decisions since the one stored before were not kept
	// for themselves: what they changed is in this one's evidence.
	Coalesced int `json:"coalesced,omitempty"`
	// Omitted is how many devices of a fleet that is too large to be kept are
	// not in the evidence; the rollout had not drawn them.
	Omitted int `json:"omitted,omitempty"`
	// Kept is what the rollout's stored decisions have cost up to this one, by
	// which the dispatcher bounds them.
	Kept uint64 `json:"kept,omitempty"`
}

// Store keeps rollouts. cloud/store implements it on SQL; NewMemory keeps it
// in memory; dispatchtest.Exercise says what it must do. All times are the
// caller's.
type Store interface {
	// Acquire takes or renews the one lease that lets a hub decide, until
	// now+ttl. It returns false while another holder's lease lasts.
	Acquire(ctx context.Context, holder string, now time.Time, ttl time.Duration) (bool, error)
	// Versions returns the version of every rollout, by name: a cheap way to
	// see whether anybody has changed one.
	Versions(ctx context.Context) (map[string]uint64, error)
	// Rollouts returns all rollouts, newest first by Created, then by name.
	Rollouts(ctx context.Context) ([]rollout.Rollout, error)
	// Load returns one rollout with its records, or ErrNotFound.
	Load(ctx context.Context, name string) (Loaded, error)
	// Commit applies c in one transaction: ErrConflict when the version or the
	// lease does not hold, ErrExists when Version is 0 and the name is taken.
	// It returns the decision's id, or 0 without one.
	Commit(ctx context.Context, c Commit) (uint64, error)
	// Decisions returns the newest decisions of a rollout, newest first; limit
	// 0 means all. before 0 starts at the newest, else below that id.
	Decisions(ctx context.Context, name string, before uint64, limit int) ([]Stored, error)
	// Desired returns the newest document of a device, and false when it has none.
	Desired(ctx context.Context, id topic.ID) (twin.Desired, bool, error)
	// Unpublished returns documents not marked published, oldest first, at
	// most limit; of each device only the newest.
	Unpublished(ctx context.Context, limit int) ([]twin.Desired, error)
	// Published marks documents as published, each if its generation is still
	// its device's newest.
	Published(ctx context.Context, docs []twin.Desired) error
	// Orders returns the standing orders with their version, 0 when there never
	// were any.
	Orders(ctx context.Context) (rollout.Orders, uint64, error)
	// SaveOrders replaces the standing orders: ErrConflict when version is not
	// the present one.
	SaveOrders(ctx context.Context, o rollout.Orders, version uint64) error
}

// Publisher sends a document to its device's desired topic.
type Publisher interface {
	Publish(ctx context.Context, doc twin.Desired) error
}

// Fleet knows the devices.
type Fleet interface {
	// Devices returns the devices in service, without Records. The caller may
	// keep and change the result.
	Devices(ctx context.Context) ([]rollout.Device, error)
	// Since returns the devices whose facts changed since mark was given, those
	// that left service since, and the mark to ask with next. A device may be
	// given though nothing about it changed. With ok false, as for mark 0, the
	// caller has to read all Devices, after this call, and goes on from next.
	Since(ctx context.Context, mark uint64) (changed []rollout.Device, gone []topic.ID, next uint64, ok bool, err error)
}

// Ledger is the append-only log of what people and the planner did.
type Ledger interface {
	Append(ctx context.Context, e Event) error
}

// Event is one line for the ledger.
type Event struct {
	At     time.Time
	Actor  string // "user:NAME", "token:ID" or "hub"
	Action string // e.g. "rollout.start"
	Object string // "Rollout/NAME"
	Reason string
	Detail any // marshals to JSON; nil: none
}
