// Package device is a virtual device: the product's own update machine, its own
// journal on a disk in memory, and a model of what its actions do.
//
// What the machine decides is real, and so are the bytes of the journal and of
// the slots: they are written, synced, torn, filled up and rotted as the faults
// say, and read back with the product's own code after a power cut. Digests are
// computed from these bytes. Modelled are the download, the signature (a release
// is signed or not), the sessions and the scorer: each takes some time and
// behaves as the release's nature says.
//
// The simulator alone imports it.
package device

import (
	"errors"
	"strconv"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/world"
)

// Release is the nature of a release: what it consists of and how it behaves on
// devices.
type Release struct {
	update.Release
	Head, Body  []byte        // manifest and model; their digests are Manifest and Model
	Unsigned    bool          // its signature does not hold
	CrashAtLoad bool          // takes the agent down while it loads
	NonFinite   time.Duration // yields NaN this long after it began to act; 0: never
	CrashAfter  time.Duration // takes the agent down this long after it began to act; 0: never
	MemoryMiB   float64       // grows so much in an hour in which it is loaded; 0: not
	Bytes       float64       // of its download; 0 is 5 MB
	Flags       float64       // flags so many times as often as it should; 0 means 1
	LatencyMs   float64       // p99 of an inference; 0 means 2
}

// unsound says whether a person would call it bad.
func (r *Release) unsound() bool {
	return r.NonFinite > 0 || r.flags() > 1.2 || r.CrashAtLoad || r.CrashAfter > 0 || r.MemoryMiB > 0
}

// World is what a device has around it.
type World struct {
	*world.World
	// Release returns the nature of a release on a device, and false when there
	// is no such release.
	Release func(artifact.Digest, *Device) (Release, bool)
	// Send carries a report to the hub, if it can.
	Send func(d *Device, r twin.Reported)
	// Online says whether downloads work.
	Online func(d *Device) bool
	// Fault is called when the device does what it must never do.
	Fault func(d *Device, what string)
	// Changed is called after power, what acts or the phase of the trial have
	// changed. nil: nobody looks.
	Changed func(d *Device)
	// Saved is called after a journal was made durable. nil: nobody looks.
	Saved func(d *Device, j *update.Journal)
	// Trace is called with what is worth reading in a device's life. nil: nobody
	// reads.
	Trace func(d *Device, what string)
}

// Config describes a device.
type Config struct {
	ID        topic.ID
	Class     artifact.Class
	Labels    map[string]string
	Champion  *Release      // runs it, confirmed, at the start; nil: none
	Heartbeat time.Duration // default 30 s
	WindowsHz float64       // windows scored in a second; default 1
	BaseFlags float64       // share of windows a sound model flags; default 0.01
	Skew      time.Duration // of its clock
	BitsPerS  float64       // of its downloads; 0: any release is there within 20 s
}

// Device is one device. Drive it through the world only.
type Device struct {
	cfg  Config
	w    *World
	rand *world.Rand
	name string

	flash   *flash
	machine *update.Machine // nil while it is off, or cannot read its journal
	life    uint64          // rises with every loss of power: what was started before is void
	since   time.Time
	boot    string
	seq     uint64
	on      bool
	unsaved bool          // the journal could not be written; nothing else happens until it is
	kept    update.Status // of the machine, as of the newest journal that was written
	wakeAt  time.Duration
	shown   shown

	loaded  map[artifact.Digest]bool // sessions whose bytes had the signed digest when they were loaded
	permit  bool                     // the interlocks were read and permit the next swap
	closed  int                      // interlocks that forbid
	blind   int                      // interlocks that cannot be read
	slow    int                      // causes that make every action take slowness times as long
	damaged bool                     // the disk lost or changed what it had promised to keep

	scorer

	// What an observer outside would see.
	Swaps     int
	Harm      time.Duration // time in which an unsound release acted
	Confirmed bool          // has once confirmed a release
	Dead      bool          // will never have power again
}

// shown is what Changed tells of.
type shown struct {
	on     bool
	acting artifact.Digest
	phase  twin.Phase
}

const slowness = 20

// New returns a device that is off.
func New(w *World, cfg Config) *Device {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 30 * time.Second
	}
	if cfg.WindowsHz == 0 {
		cfg.WindowsHz = 1
	}
	if cfg.BaseFlags == 0 {
		cfg.BaseFlags = 0.01
	}
	d := &Device{cfg: cfg, w: w, name: cfg.ID.String(), loaded: map[artifact.Digest]bool{}}
	d.rand = w.Rand("device", d.name)
	var first *Release
	if cfg.Champion != nil {
		first, d.Confirmed = cfg.Champion, true
	}
	d.flash = newFlash(first)
	return d
}

// ID returns the device's name.
func (d *Device) ID() topic.ID { return d.cfg.ID }

// Name returns its name as "site/node".
func (d *Device) Name() string { return d.name }

// Labels returns its labels.
func (d *Device) Labels() map[string]string { return d.cfg.Labels }

// Relabel gives it other labels; its next report says so.
func (d *Device) Relabel(labels map[string]string) {
	d.cfg.Labels = labels
	d.scorer.forget()
}

// Look is what a selector sees of it.
func (d *Device) Look(key string) (string, bool) {
	switch key {
	case "site":
		return d.cfg.ID.Site, true
	case "node":
		return d.cfg.ID.Node, true
	case "name":
		return d.name, true
	case "class":
		return string(d.cfg.Class), true
	}
	v, ok := d.cfg.Labels[key]
	return v, ok
}

// On says whether it has power.
func (d *Device) On() bool { return d.on }

// Broken says that its disk lost what it had promised to keep, so that the
// device may not know any more what it was doing.
func (d *Device) Broken() bool { return d.damaged }

// Acting returns the release whose verdicts count now; "" for none.
func (d *Device) Acting() artifact.Digest { return d.acting }

// Phase returns where its trial stands, as far as it is written down; none while
// it is off.
func (d *Device) Phase() twin.Phase {
	switch {
	case d.machine == nil:
		return twin.PhaseNone
	case !d.unsaved:
		return d.machine.Phase()
	case d.kept.Trial == nil:
		return twin.PhaseNone
	}
	return d.kept.Trial.Phase
}

// InFlight says whether it is in the middle of a swap or soaks after one.
func (d *Device) InFlight() bool {
	p := d.Phase()
	return p == twin.PhaseActivating || p == twin.PhaseSoaking
}

// Status returns what its update machine says, as far as it is written down;
// zero while it is off.
func (d *Device) Status() update.Status {
	switch {
	case d.machine == nil:
		return update.Status{}
	case d.unsaved:
		return d.kept
	}
	return d.machine.Status()
}

// The events of a device's life.
const (
	beat uint32 = iota
	observe
	tick
	poweredOn
)

const observeEvery = 15 * time.Second

// Act implements world.Actor.
func (d *Device) Act(what uint32, life uint64) {
	if d.life != life {
		return
	}
	switch what {
	case beat:
		d.report()
		d.w.For(d.cfg.Heartbeat, d, beat, life)
	case observe:
		d.observe()
		d.w.For(observeEvery, d, observe, life)
	case tick:
		d.step(update.Tick{})
	case poweredOn:
		d.Power()
	}
}

// Power switches it on.
func (d *Device) Power() {
	if d.on || d.Dead {
		return
	}
	j, err := d.flash.load()
	if err == nil {
		d.machine, err = update.New(update.Config{}, j)
	}
	if err != nil {
		d.machine = nil
		d.trace("it cannot read its journal: %v", err)
		if !d.damaged {
			d.w.Fault(d, "the journal on its disk cannot be read: "+err.Error())
		}
	}
	d.on, d.since, d.wakeAt, d.unsaved, d.permit = true, d.w.Now(), 0, false, false
	d.boot, d.seq = strconv.FormatUint(d.rand.Uint64(), 36), 0
	if d.machine != nil {
		d.bootable(j)
		d.kept = d.machine.Status()
		d.step(update.Booted{})
	}
	d.w.For(time.Duration(d.rand.Float64()*float64(observeEvery)), d, observe, d.life)
	d.w.For(time.Duration(d.rand.Float64()*float64(d.cfg.Heartbeat)), d, beat, d.life)
	d.changed()
}

// bootable checks that a device which once confirmed a release finds one that
// it can run, on the disk as the power cut left it.
func (d *Device) bootable(j *update.Journal) {
	if !d.Confirmed || d.damaged {
		return
	}
	if j != nil {
		for i := range j.Releases {
			r := uint64(i + 1)
			if uint64(j.State.Champion) != r && uint64(j.State.LastGood) != r && uint64(j.State.Spare) != r {
				continue
			}
			if n, ok := d.w.Release(j.Releases[i].Manifest, d); ok && d.flash.check(&n) == nil {
				return
			}
		}
	}
	d.w.Fault(d, "no slot on its disk can be started")
}

// Cut takes its power: only what was made durable is left.
func (d *Device) Cut() {
	if !d.on {
		return
	}
	d.trace("loses power")
	d.flash.cut(d.rand)
	d.down()
}

// down ends this run of the agent.
func (d *Device) down() {
	d.score()
	d.on, d.machine = false, nil
	d.life++
	d.scorer.stop()
	clear(d.loaded)
	d.changed()
}

// Die takes its power for good.
func (d *Device) Die() {
	d.Cut()
	d.Dead = true
}

// CutFor takes its power for so long.
func (d *Device) CutFor(t time.Duration) {
	if d.on {
		d.Cut()
		d.w.For(t, d, poweredOn, d.life)
	}
}

// Tear cuts the power in the middle of one of the next writes of its disk, for
// so long.
func (d *Device) Tear(t time.Duration) {
	d.flash.tear(1+d.rand.IntN(6), t)
}

// Fill leaves no room on its disk, until Empty.
func (d *Device) Fill() { d.flash.fill() }

// Empty takes Fill back.
func (d *Device) Empty() { d.flash.empty() }

// Lie lets its disk lose, at the next power cut within t, all that it was told
// to make durable from now on.
func (d *Device) Lie(t time.Duration) {
	d.flash.lie()
	d.w.In(t, func() { d.flash.honest() })
}

// Rot flips one bit of a file on its disk.
func (d *Device) Rot() {
	if what := d.flash.rot(d.rand); what != "" {
		d.damaged = true
		d.trace("a bit of %s flips", what)
	}
}

// Slow makes all it does take long, until Quick.
func (d *Device) Slow() { d.slow++ }

// Quick takes one Slow back.
func (d *Device) Quick() { d.slow = max(d.slow-1, 0) }

// Forbid closes its interlock, or with blind makes it unreadable, until Permit.
func (d *Device) Forbid(blind bool) {
	if blind {
		d.blind++
	} else {
		d.closed++
	}
}

// Permit takes one Forbid back.
func (d *Device) Permit(blind bool) {
	if blind {
		d.blind = max(d.blind-1, 0)
	} else {
		d.closed = max(d.closed-1, 0)
	}
}

// Jump moves its clock.
func (d *Device) Jump(by time.Duration) { d.cfg.Skew += by }

// Desired delivers a document.
func (d *Device) Desired(doc twin.Desired) {
	if d.on {
		d.step(update.Offered{Doc: doc})
	}
}

// later runs f after t unless power is lost before.
func (d *Device) later(t time.Duration, f func()) {
	life := d.life
	d.w.In(t, func() {
		if d.life == life {
			f()
		}
	})
}

func (d *Device) moment() update.Moment {
	now := d.w.Now()
	return update.Moment{Wall: now.Add(d.cfg.Skew), Mono: now.Sub(d.since), Draw: d.rand.Float64()}
}

// step feeds the machine and does what it asks, in the order in which the agent
// does: save, then act, then report.
func (d *Device) step(e update.Event) {
	if d.machine == nil {
		return
	}
	d.machine.Step(d.moment(), e)
	r := d.machine.Ready()
	if r.Save != nil {
		err := d.flash.save(r.Save)
		d.unsaved = err != nil
		if errors.Is(err, disk.ErrPowerCut) {
			d.CutFor(d.flash.dark)
			return
		}
		if err != nil { // the next observation tries again
			d.report()
			return
		}
		d.saved(r.Save)
		d.kept = d.machine.Status()
	}
	d.machine.Advance()
	life := d.life
	for _, a := range r.Do {
		d.do(a)
		if d.life != life {
			return // it took the agent down
		}
	}
	if r.Wake > 0 && (d.wakeAt == 0 || r.Wake < d.wakeAt || d.wakeAt <= d.w.Now().Sub(d.since)) {
		d.wakeAt = r.Wake
		d.w.For(r.Wake-d.w.Now().Sub(d.since), d, tick, d.life)
	}
	if r.Report {
		d.report()
	}
	d.changed()
}

// saved looks at what was just made durable.
func (d *Device) saved(j *update.Journal) {
	s := &j.State
	if d.Confirmed && (s.Champion == 0 || s.LastGood == 0) {
		d.w.Fault(d, "it has no release to run or none to go back to")
	}
	if s.LastGood != 0 && s.LastGood == s.Champion {
		d.Confirmed = true
	}
	if d.w.Saved != nil {
		d.w.Saved(d, j)
	}
}

func (d *Device) changed() {
	now := shown{d.on, d.acting, d.Phase()}
	if now == d.shown {
		return
	}
	if d.w.Trace != nil && now.on {
		d.tellChange(now)
	}
	d.shown = now
	if d.w.Changed != nil {
		d.w.Changed(d)
	}
}

// report sends the reported document.
func (d *Device) report() {
	d.score()
	d.seq++
	r := twin.Reported{
		Schema: 1, Site: d.cfg.ID.Site, Node: d.cfg.ID.Node, Boot: d.boot, Seq: d.seq,
		At: d.w.Now().Add(d.cfg.Skew), Class: d.cfg.Class, Labels: d.cfg.Labels, Agent: twin.Agent{Arch: "amd64", RSSMiB: d.memoryMiB()},
		Stream: twin.Stream{WindowsScored: d.scored, WindowsDue: d.scored, Swaps: uint64(d.Swaps)},
	}
	if d.machine == nil {
		r.Conditions = []twin.Condition{{Type: "NoModel", Status: true, Reason: "JournalUnreadable", Since: d.since}}
		d.w.Send(d, r)
		return
	}
	st := d.Status()
	r.Generation, r.Trial, r.Conditions, r.Quarantined = st.Generation, st.Trial, st.Conditions, st.Quarantined
	if st.Champion != nil && d.acting == st.Champion.Manifest {
		r.Champion = running(st.Champion)
		r.Champion.Windows, r.Champion.Flagged, r.Champion.NonFinite, r.Champion.LatencyP99Ms = d.counted.Windows, d.counted.Flagged, d.counted.NonFinite, d.counted.LatencyP99Ms
	}
	if st.LastGood != nil {
		r.LastGood = running(st.LastGood)
	}
	d.w.Send(d, r)
}

func running(r *update.Release) *twin.Running {
	return &twin.Running{Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Model: r.Model}
}
