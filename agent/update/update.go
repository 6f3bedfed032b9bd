// Package update decides what one device does with the releases its hub
// offers: what it fetches, when it trusts, loads, compares and swaps, when it
// keeps a release, and when it goes back by itself.
//
// The parties are the hub, whose desired documents arrive as events; agent/apply,
// which performs the actions and answers each with one event; agent/disk, which
// keeps the Journal; and the scorer, whose counters arrive as observations.
//
// It is a step function in the manner of a consensus library: an event goes
// into Step, then Ready says what to save first, what to do after that, whether
// to report, and when to tick. Nothing is done before what it rests on is saved,
// and every action may be done again after a power cut.
//
// It promises that nothing acts that was not verified in the same attempt; that
// a device which once confirmed a release always has one to run; that every
// trial ends, without any clock being right; that a release which was rolled
// back here is not tried again; and that all of it holds without the hub.
//
// The rules work on flat state (State, Run) with releases, offers and leases as
// small numbers. Machine wraps them with a journal for an agent; Fleet steps a
// million devices by them in a simulator.
//
// The package is pure: time and randomness are arguments. The agent and the
// simulator import it.
package update

import (
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Moment is when an event happens.
type Moment struct {
	// Wall is the device's clock, UTC. It may be wrong and may jump.
	Wall time.Time
	// Mono is the time since the machine was made. It never falls.
	Mono time.Duration
	// Draw is uniform in [0, 1) and fresh for every step; it spreads retries.
	Draw float64
}

// Release is one release as the device knows it.
type Release struct {
	Name     string          `json:"name"`
	Counter  uint64          `json:"counter"`
	Manifest artifact.Digest `json:"manifest"`
	// Model is the digest of the bytes its session was made from. Empty until
	// it was loaded once.
	Model artifact.Digest `json:"model,omitempty"`
	// Limits are those of its variant. Zero until verified.
	Limits artifact.Limits `json:"limits,omitzero"`
}

// Event is something that happened: one of the types below.
type Event interface{ event() }

// Booted is the first event of every run of the agent.
type Booted struct{}

// Offered brings a desired document that was read and checked by
// twin.ParseDesired. Repeats and older generations do no harm.
type Offered struct{ Doc twin.Desired }

// Done says that an action succeeded.
type Done struct {
	Action uint64 // Action.ID
	// Release is set by Verify (Name, Counter, Manifest and Limits as the
	// signed manifest has them) and by Load, Resume and Rollback (Model as
	// hashed at load). Otherwise zero.
	Release Release
}

// Failed says that an action did not succeed and left nothing acting that was
// not acting before.
type Failed struct {
	Action    uint64
	Code      twin.Code // what kind of failure; not used for Interlock
	Reason    string    // a sentence
	Retryable bool      // the same action may succeed later: network, disk, interlock
}

// Progress says how far a Fetch is.
type Progress struct {
	Action     uint64
	BytesDone  int64
	BytesTotal int64
}

// Observed brings the scorer's counters, at least every few seconds.
type Observed struct {
	// Champion names the release the counters are about. Counters start at 0
	// when it became champion in this run of the agent.
	Champion     artifact.Digest
	Due          uint64 // windows it should have scored
	Windows      uint64 // windows it scored
	Flagged      uint64
	NonFinite    uint64
	LatencyP99Ms float64
	// Shadow counts champion against challenger. nil unless one shadows.
	Shadow *twin.Shadow
}

// Tick says that time passed: that Ready.Wake was reached.
type Tick struct{}

// Stopping says that the agent was asked to end: by a person, the system or for
// another program. It is the last event of a run; what it saves lets the next
// start count neither as an attempt nor towards the crash loop.
type Stopping struct{}

func (Booted) event()   {}
func (Stopping) event() {}
func (Offered) event()  {}
func (Done) event()     {}
func (Failed) event()   {}
func (Progress) event() {}
func (Observed) event() {}
func (Tick) event()     {}

// ActionKind says what to do.
type ActionKind string

// The actions. Those marked * run on their own and answer with exactly one Done
// or Failed; the others cannot fail and have ended before the next one starts.
// All may be repeated after a power cut.
const (
	ActResume    ActionKind = "resume"    // * load Release as the champion at start, and Standby beside it
	ActFetch     ActionKind = "fetch"     // * download Release into its slot, resuming
	ActVerify    ActionKind = "verify"    // * signature, manifest, every digest in the slot, class, and that Held admits it
	ActGuard     ActionKind = "guard"     // * graph checks and memory admission
	ActLoad      ActionKind = "load"      // * a session beside the champion, from the verified bytes
	ActTest      ActionKind = "test"      // * golden vectors on that session
	ActShadow    ActionKind = "shadow"    // * let the challenger compute on live windows
	ActInterlock ActionKind = "interlock" // * Done only if every interlock was read and permits
	ActSwap      ActionKind = "swap"      // * the challenger acts from the next window; the champion stays resident
	ActRollback  ActionKind = "rollback"  // * Release acts from the next window; load it if it is not resident; no Release: nothing acts
	ActConfirm   ActionKind = "confirm"   // free the former champion's session
	ActDrop      ActionKind = "drop"      // free the challenger's session
	ActCancel    ActionKind = "cancel"    // stop action Cancel; its answer no longer matters
	ActClean     ActionKind = "clean"     // remove every slot that is not in Keep
)

// act is an ActionKind in one byte: its index in kinds.
type act uint8

const (
	actResume act = iota + 1
	actFetch
	actVerify
	actGuard
	actLoad
	actTest
	actShadow
	actInterlock
	actSwap
	actRollback
	actConfirm
	actDrop
	actCancel
	actClean
)

var kinds = [...]ActionKind{
	"", ActResume, ActFetch, ActVerify, ActGuard, ActLoad, ActTest, ActShadow, ActInterlock,
	ActSwap, ActRollback, ActConfirm, ActDrop, ActCancel, ActClean,
}

func (a act) kind() ActionKind { return kinds[a] }

// Action is one thing to do.
type Action struct {
	ID      uint64 // unique within a run of the agent, rising
	Kind    ActionKind
	Release Release
	// Standby is kept loaded beside the champion after Resume. nil: nothing.
	Standby *Release
	// Return says that Swap brings back a release on the hub's order, whose
	// counter may be lower than that of what acts.
	Return bool
	// Held is what Verify has to admit the release against: the family's floor,
	// and the champion where it is of the same family. On a return that the hub
	// ordered it has the floor alone, since older is what was asked for.
	Held artifact.Held
	// WindowS is the counting window of Shadow, in seconds.
	WindowS float64
	// Cancel is the action to stop, for ActCancel.
	Cancel uint64
	// Keep are the manifests whose slots stay, for ActClean.
	Keep []artifact.Digest
}

// Ready is what a Step asks for. Perform it in the order of its fields, then
// call Advance.
type Ready struct {
	// Save is to be durable before anything else happens. nil: nothing changed.
	Save *Journal
	// Do are actions to start, in order. They run outside of the machine and
	// answer by events.
	Do []Action
	// Report says that the reported document changed and should be sent.
	Report bool
	// Wake is the Mono time at which a Tick is due. 0: none.
	Wake time.Duration
}

// Config bounds the machine. Zero values take the defaults.
type Config struct {
	MaxAttempts int           // starts of one trial, except after Stopping; default 3
	MaxRetries  int           // retries of one action; default 8
	MaxBoots    int           // starts of the agent within one soak, except after Stopping; default 3
	BackoffMin  time.Duration // default 2 s
	BackoffMax  time.Duration // default 5 min
	StepLimit   time.Duration // of one action other than Fetch; default 10 min
	TrialLimit  time.Duration // of a trial without a deadline; default 24 h
	// MinOutputShare is the share of due windows a champion on trial must
	// score; default 0.5.
	MinOutputShare float64
	// MaxSkew is how far the device's clock may lie behind the hub's before
	// nothing new is started; default 5 min.
	MaxSkew time.Duration
	// QuarantineLate quarantines a release that was not confirmed by its
	// deadline: for firmware, whose failure may be that it cannot say so.
	QuarantineLate bool
}

// Status is the machine's part of the reported document.
type Status struct {
	Generation  uint64
	Champion    *Release    // nil: no model acts
	LastGood    *Release    // nil: nothing confirmed yet
	Trial       *twin.Trial // nil: never had one
	Quarantined []artifact.Digest
	Conditions  []twin.Condition
}
