package update

import (
	"fmt"
	"slices"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Fleet steps many devices by the rules that Machine steps one by. Its devices
// are flat and share a Table, its steps allocate nothing, and it keeps no
// sentences: the codes alone say why a trial ended. It is for simulations of
// very many devices; documents with floors are not for it.
//
// A Fleet is not safe for concurrent use, but any number of them may share a
// Table that nobody changes meanwhile.
type Fleet struct {
	stepper
	p   *Packed
	out []Do
}

// Packed is one device of a Fleet. The zero value has no release and has not
// booted; a device that runs Table.Releases[i] confirmed has the State
// {Champion: i+1, LastGood: i+1}.
type Packed struct {
	State State
	trial marks
	run   Run
}

// marks are what a Journal says in words about the trial, and its quarantine.
type marks struct {
	offer  uint32 // 1 + index into Table.Offers
	lease  uint32 // 1 + index into Table.Leases; 0: not activated
	banned uint32 // a bit for each of Table.Releases
	code   uint8  // index in codes
}

// maxReleases is how many releases a shared table may have.
const maxReleases = 32

// Do is an Action in numbers.
type Do struct {
	ID      uint32
	Cancel  uint32 // the action to stop, for ActCancel
	Kind    ActionKind
	Release int // 1 + index into Table.Releases; 0: none
}

// Asks is a Ready in numbers. Do is good until the next step of the Fleet.
// What is to be saved is Packed itself without what Cut forgets.
type Asks struct {
	Do     []Do
	Save   bool
	Report bool
	Wake   time.Duration // Mono at which a Tick is due; 0: none
}

// NewFleet returns a Fleet over t, whose releases are listed as a device knows
// them after it has loaded them, and stay as they are. Offers and leases may be
// added between steps.
func NewFleet(cfg Config, t *Table) *Fleet {
	if len(t.Releases) > maxReleases {
		panic(fmt.Sprintf("update: a table of %d releases, at most %d can be shared", len(t.Releases), maxReleases))
	}
	f := &Fleet{out: make([]Do, 0, 16)}
	f.stepper = stepper{cfg: cfg.withDefaults(), book: (*numbered)(f), table: t}
	return f
}

// Boot is the event Booted.
func (f *Fleet) Boot(p *Packed, at Moment) Asks {
	f.begin(p, at)
	f.boot()
	return f.end()
}

// Offer is the event Offered.
func (f *Fleet) Offer(p *Packed, at Moment, d Document) Asks {
	if !f.begin(p, at) {
		return Asks{}
	}
	f.offered(d)
	return f.end()
}

// Done is the event of that name; release is 1 + the index of what was
// verified or loaded, 0 where the event has none.
func (f *Fleet) Done(p *Packed, at Moment, action uint32, release int) Asks {
	if !f.begin(p, at) {
		return Asks{}
	}
	f.done(uint64(action), f.release(ref(release)))
	return f.end()
}

// Fail is the event Failed.
func (f *Fleet) Fail(p *Packed, at Moment, e Failed) Asks {
	if !f.begin(p, at) {
		return Asks{}
	}
	f.failed(e)
	return f.end()
}

// Observe is the event Observed.
func (f *Fleet) Observe(p *Packed, at Moment, e *Observed) Asks {
	if !f.begin(p, at) {
		return Asks{}
	}
	f.observed(e)
	return f.end()
}

// Tick is the event of that name.
func (f *Fleet) Tick(p *Packed, at Moment) Asks {
	if !f.begin(p, at) {
		return Asks{}
	}
	return f.end()
}

// begin takes up p, and says whether it has booted.
func (f *Fleet) begin(p *Packed, now Moment) bool {
	f.p, f.s, f.r = p, &p.State, &p.run
	f.out, f.dirty, f.report = f.out[:0], false, false
	f.at(now)
	return p.run.booted
}

func (f *Fleet) end() Asks {
	f.rest()
	return Asks{Do: f.out, Save: f.dirty, Report: f.report, Wake: f.wake()}
}

// Cut takes the device's power: what was saved is left.
func (p *Packed) Cut() { p.run = Run{} }

// Phase returns where the trial stands.
func (p *Packed) Phase() twin.Phase { return p.State.Phase.twin() }

// Counting says whether the device wants its challenger's counts observed.
func (p *Packed) Counting() bool {
	return p.run.shadowOn && (p.State.Phase == shadowing || p.State.Phase == ready)
}

// Brief is the part of a Status that the hub decides on.
type Brief struct {
	Generation uint64
	Champion   *Release // nil: none
	LastGood   *Release // nil: nothing confirmed yet
	NoModel    bool     // the condition of that name
	Trial      *Release // nil: never had one; the rest is about it
	Offer      *twin.Assignment
	Phase      twin.Phase
	Code       twin.Code
	Lease      string
	Attempts   int
	// Windows, NonFinite and LatencyP99Ms were counted in the soak.
	Windows      uint64
	NonFinite    uint64
	LatencyP99Ms float64
}

// Brief says how p stands. What it points to is the table's.
func (t *Table) Brief(p *Packed) Brief {
	s := &p.State
	b := Brief{Generation: s.Generation, NoModel: p.run.fallback > 0}
	if s.Champion != 0 {
		b.Champion = &t.Releases[s.Champion-1]
	}
	if s.LastGood != 0 {
		b.LastGood = &t.Releases[s.LastGood-1]
	}
	if s.Phase == none {
		return b
	}
	b.Trial, b.Offer = &t.Releases[s.Trial-1], &t.Offers[p.trial.offer-1]
	b.Phase, b.Code, b.Attempts = s.Phase.twin(), codes[p.trial.code], int(s.Attempts)
	if p.trial.lease != 0 {
		b.Lease = t.Leases[p.trial.lease-1].ID
	}
	b.Windows, b.NonFinite, b.LatencyP99Ms = p.run.soak.windows, p.run.soak.nonFinite, p.run.soak.latencyP99Ms
	return b
}

// Quarantined says whether the release that is 1 + its index was rolled back
// on p.
func (p *Packed) Quarantined(release int) bool { return p.trial.banned&(1<<(release-1)) != 0 }

// codes are why a trial ended, in one byte.
var codes = [...]twin.Code{
	"", twin.CodeFetch, twin.CodeSignature, twin.CodeContent, twin.CodeCounter, twin.CodeClass, twin.CodeGuard,
	twin.CodeMemory, twin.CodeLoad, twin.CodeGolden, twin.CodeNonFinite, twin.CodeLatency, twin.CodeFlags,
	twin.CodeOutput, twin.CodeCrash, twin.CodeDisk, twin.CodeDeadline, twin.CodeAttempts, twin.CodeWithdrawn,
	twin.CodeQuarantine, twin.CodeExpired,
}

// numbered is a Fleet as the book of its stepper: the names are in the table.
type numbered Fleet

func (n *numbered) trial() (string, int) {
	o := &n.table.Offers[n.p.trial.offer-1]
	return o.Rollout, o.Try
}

// named returns the ref of the release with this manifest.
func (n *numbered) named(d artifact.Digest) ref {
	for i := range n.table.Releases {
		if n.table.Releases[i].Manifest == d {
			return ref(i + 1)
		}
	}
	panic("update: the shared table has no release " + string(d))
}

func (n *numbered) begin(a *twin.Assignment) ref {
	n.p.trial = marks{offer: n.p.run.want, banned: n.p.trial.banned}
	return n.named(a.Manifest)
}

func (n *numbered) learn(r ref, model artifact.Digest, limits *artifact.Limits) {
	if rel := &n.table.Releases[r-1]; rel.Model != model || limits != nil && rel.Limits != *limits {
		panic("update: a device found another release " + rel.Name + " than the shared table lists")
	}
}

func (n *numbered) ended(code twin.Code, _ string) {
	i := slices.Index(codes[:], code)
	if i < 0 {
		panic("update: unknown code " + string(code))
	}
	n.p.trial.code = uint8(i)
}

func (n *numbered) held(string)      {}
func (n *numbered) heldBy() string   { return "" }
func (n *numbered) leased(*Lease)    { n.p.trial.lease = n.p.run.lease }
func (n *numbered) quarantine(r ref) { n.p.trial.banned |= 1 << (r - 1) }

func (n *numbered) quarantined(d artifact.Digest) bool {
	return n.p.trial.banned != 0 && n.p.trial.banned&(1<<(n.named(d)-1)) != 0
}

func (n *numbered) floor(string) uint64   { return 0 }
func (n *numbered) raise() bool           { return false }
func (n *numbered) shadowed(*twin.Shadow) {}

func (n *numbered) do(id uint32, a act, r ref, cancel uint32) {
	n.out = append(n.out, Do{ID: id, Cancel: cancel, Kind: a.kind(), Release: int(r)})
}
