// Package rollout decides how one release moves through a fleet: which devices
// are offered it, which may activate it now, when a wave has passed its gates,
// and when everything goes back.
//
// The parties are the people and the nightly training, who propose a Rollout
// under a Policy; the devices, whose reported documents are folded into the
// Device facts of a Snapshot; and cloud/dispatch, which calls Decide, stores
// the Decision with its evidence and publishes what it says.
//
// It promises, for every input:
//   - no more devices of a group are unavailable through it than the budget
//     allows, and offline, leased and degraded devices all count;
//   - no wave passes a gate that has not said PASS, and no data is never PASS;
//   - a halted rollout offers its release to nobody;
//   - no device is offered a release, or sent back to one, that has no variant
//     for its class, or that is below the device's floor, or quarantined;
//   - no device activates outside its maintenance windows, and none is offered
//     anything or activates within a freeze; ways back stay open;
//   - deciding again on the outcome of a decision changes nothing;
//   - at most two versions are offered at any time: the release and the one
//     promoted before it;
//   - every rollout ends once devices and people stop acting.
//
// Decide counts a whole fleet. A Roster keeps what was counted, so that a
// decision after one device's report costs what that report changes; both
// decide alike, because Decide is a Roster that is used once.
//
// The package is pure: time is an argument, randomness is a seed, reasons are
// results. It leaves storage, publishing, audit and authorisation to others.
// cloud/dispatch, cloud/fleet, cloud/api, cloud/store and the simulator import it.
package rollout

import (
	"slices"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// State says where a rollout stands. The values are those of the REST contract.
type State string

// The states of a rollout. The last four are ends.
const (
	Queued      State = "queued"       // another rollout of the fleet is active
	Waiting     State = "waiting"      // for people to approve the next wave
	Running     State = "running"      // a wave is on its way
	Held        State = "held"         // a gate has no verdict yet, or nothing may be touched now; goes on by itself
	Paused      State = "paused"       // by a person; offers and leases stop, what acts keeps acting
	RollingBack State = "rolling-back" // devices are on their way back to the release before
	Promoted    State = "promoted"     // every wave passed; devices that come later still get it
	Aborted     State = "aborted"      // ended by a person, or by a pause nobody lifted
	Failed      State = "failed"       // a gate said FAIL, or a wave ran out of time
	Superseded  State = "superseded"   // a newer release took its place before it started
)

// Final says whether a rollout in this state has ended.
func (s State) Final() bool {
	return s == Promoted || s == Aborted || s == Failed || s == Superseded
}

// Active says whether a rollout in this state occupies its fleet.
func (s State) Active() bool { return !s.Final() && s != Queued }

// Release is what the planner knows of the artifact it moves.
type Release struct {
	Kind     artifact.Kind   `json:"kind"`
	Name     string          `json:"name"`     // family
	Counter  uint64          `json:"counter"`  // release counter
	Manifest artifact.Digest `json:"manifest"` // identity
	// Variants say which devices have a variant, and what they attest once
	// they have loaded it.
	Variants []Variant `json:"variants"`
	// Expected is the shift in behaviour the trainer expects. nil: none known.
	Expected *artifact.Shift `json:"expected,omitempty"`
}

// Variant is what devices of some classes get.
type Variant struct {
	Classes []artifact.Class `json:"classes"`
	Arch    string           `json:"arch,omitempty"` // GOARCH; empty means any
	// Loaded is the digest a device attests: of the model or image file.
	Loaded artifact.Digest `json:"loaded"`
}

// FromManifest takes from a verified manifest what the planner needs; identity
// is the digest of its encoded bytes.
func FromManifest(m artifact.Manifest, identity artifact.Digest) Release {
	r := Release{Kind: m.Kind, Name: m.Name, Counter: m.Counter, Manifest: identity, Expected: m.Expected}
	role := artifact.RoleModel
	if m.Kind == artifact.Firmware {
		role = artifact.RoleImage
	}
	for _, v := range m.Variants {
		f, _ := v.File(role)
		r.Variants = append(r.Variants, Variant{Classes: v.Classes, Arch: v.Arch, Loaded: f.Digest})
	}
	return r
}

// variant returns the variant for a device, and false when there is none.
func (r Release) variant(class artifact.Class, arch string) (Variant, bool) {
	for _, v := range r.Variants {
		if slices.Contains(v.Classes, class) && (v.Arch == "" || v.Arch == arch) {
			return v, true
		}
	}
	return Variant{}, false
}

// Rollout is one release on its way to one fleet under one policy. It is a
// value: Decide takes one and returns the next one in its Decision.
type Rollout struct {
	Name    string  `json:"name"`  // unique within the hub
	Fleet   string  `json:"fleet"` // see package selector; "" is every device
	Release Release `json:"release"`
	// Previous is the release promoted before this one: where devices go back
	// to. nil: there is none, and devices that activated stop being offered
	// anything.
	Previous *Release `json:"previous,omitempty"`
	Policy   Policy   `json:"policy"`
	Author   string   `json:"author"` // who proposed it; may not approve it
	// Purpose is why it was proposed, in the author's words.
	Purpose string `json:"purpose,omitempty"`
	Seed    uint64 `json:"seed"` // draws the canaries

	State State `json:"state"`
	// Reason says in a sentence why it is in this state.
	Reason string `json:"reason"`
	// Wave is the index of the wave on its way; len(Policy.Waves) after the last.
	Wave  int         `json:"wave"`
	Waves []WaveTimes `json:"waves,omitempty"` // one per wave reached
	// Approvals are people's approvals, oldest first.
	Approvals []Approval `json:"approvals,omitempty"`
	// End is the state a rollout that rolls back will end in.
	End State `json:"end,omitempty"`

	Created      time.Time `json:"created"`
	Started      time.Time `json:"started,omitzero"`       // left the queue
	PausedAt     time.Time `json:"paused_at,omitzero"`     // zero unless Paused
	RollbackFrom time.Time `json:"rollback_from,omitzero"` // began to roll back
	Ended        time.Time `json:"ended,omitzero"`
}

// WaveTimes says when a wave passed its stations. Zero: not yet.
type WaveTimes struct {
	Asked   time.Time `json:"asked,omitzero"`   // it was its turn; approvals are waited for from here
	Started time.Time `json:"started,omitzero"` // its devices were offered the release
	Cleared time.Time `json:"cleared,omitzero"` // the gates before activation passed
	Passed  time.Time `json:"passed,omitzero"`
	PausedS float64   `json:"paused_s,omitempty"` // time spent paused, which its deadline does not count
	// Size is how many devices were drawn into it.
	Size int `json:"size"`
	// Gates are the newest verdicts.
	Gates []Verdict `json:"gates,omitempty"`
}

// Approval is one person's consent to one wave.
type Approval struct {
	By     string    `json:"by"`
	Wave   int       `json:"wave"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	// Gate says that it answers the wave's approval gate; else it lets the
	// wave begin.
	Gate bool `json:"gate,omitempty"`
}

// Action is what a person may ask of a rollout.
type Action string

// The actions.
const (
	Pause   Action = "pause"
	Resume  Action = "resume"
	Abort   Action = "abort"
	Promote Action = "promote" // the wave after this one takes all that are left; every gate still has to pass
	Approve Action = "approve"
	// Undo takes back what a rollout did, in whatever state it is: one that
	// waits ends, one that is going is aborted, a promoted one goes back to
	// the release before it.
	Undo Action = "undo"
)

// Request is a person's wish; see Ask.
type Request struct {
	Action Action    `json:"action"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Device is what the hub knows about one device, folded from its reports by
// Fold. Equal facts give equal decisions.
type Device struct {
	ID topic.ID `json:"id"`
	// Labels group devices for waves, strata and budgets. "site" and "class"
	// are always present.
	Labels map[string]string `json:"labels"`
	Class  artifact.Class    `json:"class"`
	Arch   string            `json:"arch"`
	// Connected says whether the broker holds its connection now.
	Connected bool `json:"connected"`
	// Held keeps rollouts off the device: a person's wish.
	Held bool `json:"held,omitempty"`
	// SeenAt is when its newest report arrived, by the hub's clock. Zero: never.
	SeenAt time.Time `json:"seen_at,omitzero"`
	// Degraded says that a condition of the device holds that makes it
	// unavailable to its group.
	Degraded bool `json:"degraded,omitempty"`
	// Generation is the newest desired generation it has taken in.
	Generation uint64 `json:"generation"`
	// Floor is the lowest counter of the rollout's family it may install.
	Floor uint64 `json:"floor,omitempty"`

	Champion Champion `json:"champion"` // zero: no model acts
	Trial    Trial    `json:"trial"`    // zero: no trial
	Evidence Evidence `json:"evidence"`
	// Program is what Champion and Trial are, of the device's own program. A
	// firmware rollout sees it in their place: see For. nil: nothing is known,
	// or it came by a package.
	Program *Program `json:"program,omitempty"`
	// WindowsScored and WindowsLost are the device's own counters.
	WindowsScored uint64 `json:"windows_scored"`
	WindowsLost   uint64 `json:"windows_lost"`
	// StoppedMs is how long samples came and no model scored them, by the
	// device's own counter.
	StoppedMs uint64 `json:"stopped_ms,omitempty"`

	// MemoryMiB is the agent's resident memory. 0: not reported.
	MemoryMiB float64 `json:"memory_mib,omitempty"`
	// Metrics are the numbers that the device reports by name, at most
	// twin.MaxMetrics. nil: none. The map is never changed in place.
	Metrics map[string]float64 `json:"metrics,omitempty"`

	// Record is this rollout's own memory of the device. Zero: not drawn yet.
	Record Record `json:"record"`
}

// Program is a device's own program and its trial.
type Program struct {
	Champion Champion `json:"champion,omitzero"` // zero: it came by a package
	Trial    Trial    `json:"trial,omitzero"`    // zero: no trial
}

// For returns the device as a rollout of kind sees it: with the model, or the
// program, as its champion.
func (d Device) For(kind artifact.Kind) Device {
	if kind == artifact.Firmware {
		d.Champion, d.Trial, d.Evidence = Champion{}, Trial{}, Evidence{}
		if p := d.Program; p != nil {
			d.Champion, d.Trial = p.Champion, p.Trial
		}
	}
	return d
}

// Champion is the model that acts on a device, as it attests it.
type Champion struct {
	Manifest     artifact.Digest `json:"manifest,omitempty"`
	Loaded       artifact.Digest `json:"loaded,omitempty"` // of the bytes the session was made from
	Counter      uint64          `json:"counter,omitempty"`
	Windows      uint64          `json:"windows,omitempty"`
	NonFinite    uint64          `json:"non_finite,omitempty"`
	LatencyP99Ms float64         `json:"latency_p99_ms,omitempty"`
}

// Trial is where a device's trial stands, as it reports it.
type Trial struct {
	Rollout      string          `json:"rollout,omitempty"`
	Manifest     artifact.Digest `json:"manifest,omitempty"`
	Mode         twin.Mode       `json:"mode,omitempty"`
	Try          int             `json:"try,omitempty"`
	Phase        twin.Phase      `json:"phase,omitempty"`
	Code         twin.Code       `json:"code,omitempty"`
	Reason       string          `json:"reason,omitempty"`
	Lease        string          `json:"lease,omitempty"`
	Shadowed     uint64          `json:"shadowed,omitempty"`   // windows scored in the shadow
	Windows      uint64          `json:"windows,omitempty"`    // scored while it soaks
	NonFinite    uint64          `json:"non_finite,omitempty"` // in the shadow and the soak
	LatencyP99Ms float64         `json:"latency_p99_ms,omitempty"`
	// Since is when the phase began, by the device's own clock. Zero: not said.
	Since time.Time `json:"since,omitzero"`
	// Drift is the population stability index of the release's scores against
	// those it was calibrated on. nil: too few scores, or no profile.
	Drift *float64 `json:"drift,omitempty"`
}

// Offer is what the hub asks of a device on behalf of a rollout.
type Offer string

// The offers.
const (
	OfferNone      Offer = ""          // nothing
	OfferRelease   Offer = "release"   // the release, on trial
	OfferWithdrawn Offer = "withdrawn" // drop the trial if it has not activated
	OfferRollback  Offer = "rollback"  // go back to the release before
)

// Record is a rollout's memory of one device. The store keeps it; Decide
// returns new ones in its Changes.
type Record struct {
	// Wave is 1 + the index of the wave it was drawn into. 0: not drawn.
	Wave      int       `json:"wave,omitempty"`
	Offer     Offer     `json:"offer,omitempty"`
	Try       int       `json:"try,omitempty"` // rises with every retry of the hub
	OfferedAt time.Time `json:"offered_at,omitzero"`
	Deadline  time.Time `json:"deadline,omitzero"` // not ended by then is a failure
	// Lease is the number of the newest lease; 0: never had one. LeaseUntil is
	// when it ends; zero: revoked or never given.
	Lease      int       `json:"lease,omitempty"`
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// Revoked says that the lease was taken back. The device may not know yet,
	// so it counts against the budget until LeaseUntil.
	Revoked bool `json:"revoked,omitempty"`
	// Paired says that the device had a champion to compare with when it was
	// offered the release.
	Paired bool `json:"paired,omitempty"`
	// ScoredBefore, LostBefore and StoppedBefore are the device's counters when
	// it was offered the release.
	ScoredBefore  uint64 `json:"scored_before,omitempty"`
	LostBefore    uint64 `json:"lost_before,omitempty"`
	StoppedBefore uint64 `json:"stopped_before,omitempty"`
	// MemoryBefore is the device's MemoryMiB when it was offered the release.
	MemoryBefore float64 `json:"memory_before,omitempty"`
}

// Snapshot is what Decide looks at beside the rollout itself.
type Snapshot struct {
	// Devices are those the rollout's fleet selector matches, and those it has
	// a Record for. Any order, no ID twice.
	Devices []Device `json:"devices"`
	// Orders are the standing orders of people.
	Orders Orders `json:"orders,omitzero"`
}

// Decision is what follows from a rollout and a snapshot at one moment.
type Decision struct {
	// Rollout is the rollout as it is from now on.
	Rollout Rollout `json:"rollout"`
	// Changes are the devices whose offer or lease changes, sorted by device.
	Changes []Change `json:"changes,omitempty"`
	// Gates are the verdicts of the wave on its way, in the policy's order.
	Gates []Verdict `json:"gates,omitempty"`
	// Counts say where the devices of the whole rollout stand.
	Counts Counts `json:"counts"`
	// Summary says what was decided in a sentence; Reasons say more.
	Summary string   `json:"summary"`
	Reasons []string `json:"reasons,omitempty"`
	// Wake is when to decide again at the latest. Zero: when a device or a
	// person does something.
	Wake time.Time `json:"wake,omitzero"`
	// Changed says whether there is anything to store: false means that the
	// rollout, every record and every verdict are as they were.
	Changed bool `json:"changed"`
}

// Change is a new Record for one device.
type Change struct {
	Device topic.ID   `json:"device"`
	Kind   ChangeKind `json:"kind"`
	Record Record     `json:"record"`
	Why    string     `json:"why"`
}

// ChangeKind says what a Change does.
type ChangeKind string

// The kinds of change.
const (
	ChangeOffer    ChangeKind = "offer"    // drawn into a wave and offered the release
	ChangeRetry    ChangeKind = "retry"    // offered once more
	ChangeLease    ChangeKind = "lease"    // may activate now
	ChangeRevoke   ChangeKind = "revoke"   // may no longer activate
	ChangeWithdraw ChangeKind = "withdraw" // drops the trial
	ChangeRollback ChangeKind = "rollback" // goes back
)

// Counts are numbers of devices. They add up to Devices.
type Counts struct {
	Devices     int `json:"devices"`
	Pending     int `json:"pending"`     // not offered yet
	Unreachable int `json:"unreachable"` // offered, not heard of
	InFlight    int `json:"in_flight"`   // updating, in the shadow, soaking
	Done        int `json:"done"`        // confirmed and attested
	Failed      int `json:"failed"`      // failed, silent, rolled back by themselves
	Returned    int `json:"returned"`    // called back
	Kept        int `json:"kept"`        // run the release, with none before to go back to
	Excluded    int `json:"excluded"`    // no variant, below the floor, held
}
