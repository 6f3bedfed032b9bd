// Package device is a virtual device: the product's own update machine over a
// virtual disk and a model of a scorer.
//
// What the machine decides is real. What its actions do is modelled: each
// takes some time and succeeds or fails as the release's nature and the faults
// say. The disk keeps exactly what was saved before power was lost.
package device

import (
	"fmt"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/world"
)

// Release is the nature of a release: how it behaves on devices.
type Release struct {
	update.Release
	Unsigned    bool          // its signature does not hold
	CrashAtLoad bool          // takes the agent down while it loads
	NonFinite   time.Duration // yields NaN this long after it began to act; 0: never
	CrashAfter  time.Duration // takes the agent down this long after it began to act; 0: never
	MemoryMiB   float64       // grows so much in an hour in which it is loaded; 0: not
	Bytes       float64       // of its download; 0 is 5 MB
	Flags       float64       // flags so many times as often as it should; 0 means 1
	LatencyMs   float64       // p99 of an inference; 0 means 2
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
}

// Config describes a device.
type Config struct {
	ID        topic.ID
	Class     artifact.Class
	Labels    map[string]string
	Champion  *update.Release // runs it, confirmed, at the start; nil: none
	Heartbeat time.Duration   // default 30 s
	WindowsHz float64         // windows scored in a second; default 1
	BaseFlags float64         // share of windows a sound model flags; default 0.01
	Skew      time.Duration   // of its clock
	BitsPerS  float64         // of its downloads; 0: any release is there within 20 s
}

// Device is one device. Drive it through the world only.
type Device struct {
	cfg  Config
	w    *World
	rand *world.Rand

	disk    *update.Journal // what is on the flash
	machine *update.Machine
	life    int // rises with every loss of power: what was started before is void
	since   time.Time
	boot    uint64
	seq     uint64
	on      bool
	wakeAt  time.Duration

	verified map[artifact.Digest]bool // slots whose bytes were verified since they were written
	acting   artifact.Digest
	actFrom  time.Time
	acted    time.Time // counters of the champion are good up to here
	counted  update.Observed
	shadowed artifact.Digest
	shadow   *twin.Shadow
	window   float64 // seconds of a counting window
	open     twin.ShadowWindow
	openFor  float64

	// What an observer outside would see.
	Swaps     int
	Harm      time.Duration // time in which an unsound release acted
	Confirmed bool          // has once confirmed a release
	scored    uint64
	lost      uint64
}

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
	d := &Device{cfg: cfg, w: w, rand: w.Rand("device", cfg.ID.String()), verified: map[artifact.Digest]bool{}}
	if cfg.Champion != nil {
		d.disk = &update.Journal{Schema: 1, Releases: []update.Release{*cfg.Champion}, State: update.State{Champion: 1, LastGood: 1}}
		d.verified[cfg.Champion.Manifest] = true
		d.Confirmed = true
	}
	return d
}

// ID returns the device's name.
func (d *Device) ID() topic.ID { return d.cfg.ID }

// Labels returns its labels.
func (d *Device) Labels() map[string]string { return d.cfg.Labels }

// Relabel gives it other labels; its next report says so.
func (d *Device) Relabel(labels map[string]string) { d.cfg.Labels = labels }

// Look is what a selector sees of it.
func (d *Device) Look(key string) (string, bool) {
	switch key {
	case "site":
		return d.cfg.ID.Site, true
	case "node":
		return d.cfg.ID.Node, true
	case "name":
		return d.cfg.ID.String(), true
	case "class":
		return string(d.cfg.Class), true
	}
	v, ok := d.cfg.Labels[key]
	return v, ok
}

// On says whether it has power.
func (d *Device) On() bool { return d.on }

// Acting returns the release whose verdicts count now; "" for none.
func (d *Device) Acting() artifact.Digest { return d.acting }

// InFlight says whether it is in the middle of a swap or soaks after one.
func (d *Device) InFlight() bool {
	if !d.on {
		return false
	}
	p := d.machine.Phase()
	return p == twin.PhaseActivating || p == twin.PhaseSoaking
}

// Power switches it on.
func (d *Device) Power() {
	if d.on {
		return
	}
	m, err := update.New(update.Config{}, d.disk)
	if err != nil {
		d.w.Fault(d, "the journal on its disk cannot be read: "+err.Error())
		return
	}
	d.on, d.machine, d.since, d.wakeAt = true, m, d.w.Now(), 0
	d.boot, d.seq = d.rand.Uint64(), 0
	d.step(update.Booted{})
	d.loop(d.cfg.Heartbeat/2, d.observe)
	d.loop(d.cfg.Heartbeat, d.report)
}

// Cut takes its power: only what was saved is left.
func (d *Device) Cut() {
	if !d.on {
		return
	}
	d.observeUntilNow()
	d.on, d.machine = false, nil
	d.life++
	d.acting, d.shadowed, d.shadow = "", "", nil
}

// Desired delivers a document.
func (d *Device) Desired(doc twin.Desired) {
	if d.on {
		d.step(update.Offered{Doc: doc})
	}
}

// loop runs f every interval of this life, first after a drawn part of it.
func (d *Device) loop(every time.Duration, f func()) {
	life := d.life
	var again func()
	again = func() {
		if d.life == life {
			f()
			d.w.In(every, d.cfg.ID.String(), again)
		}
	}
	d.w.In(time.Duration(d.rand.Float64()*float64(every)), d.cfg.ID.String(), again)
}

// later runs f after t unless power is lost before.
func (d *Device) later(t time.Duration, f func()) {
	life := d.life
	d.w.In(t, d.cfg.ID.String(), func() {
		if d.life == life {
			f()
		}
	})
}

func (d *Device) moment() update.Moment {
	now := d.w.Now()
	return update.Moment{Wall: now.Add(d.cfg.Skew), Mono: now.Sub(d.since), Draw: d.rand.Float64()}
}

// step feeds the machine and does what it asks, in its order.
func (d *Device) step(e update.Event) {
	d.machine.Step(d.moment(), e)
	r := d.machine.Ready()
	if r.Save != nil {
		d.disk = r.Save
		d.check()
	}
	life := d.life
	for _, a := range r.Do {
		d.do(a)
		if d.life != life {
			return // it took the agent down
		}
	}
	d.machine.Advance()
	if r.Wake > 0 && (d.wakeAt == 0 || r.Wake < d.wakeAt || d.wakeAt <= d.moment().Mono) {
		d.wakeAt = r.Wake
		d.later(r.Wake-d.w.Now().Sub(d.since), func() { d.step(update.Tick{}) })
	}
	if r.Report {
		d.report()
	}
}

// check looks at what was just saved.
func (d *Device) check() {
	s := d.disk.State
	if d.Confirmed && (s.Champion == 0 || s.LastGood == 0) {
		d.w.Fault(d, "it has no release to run or none to go back to")
	}
	if s.LastGood != 0 && s.LastGood == s.Champion {
		d.Confirmed = true
	}
}

// do performs one action: at once what cannot fail, later what answers.
func (d *Device) do(a update.Action) {
	man := a.Release.Manifest
	nature, known := d.w.Release(man, d)
	answer := func(after time.Duration, f func() update.Event) {
		d.later(after, func() {
			if e := f(); e != nil {
				d.step(e)
			}
		})
	}
	done := func(r update.Release) update.Event { return update.Done{Action: a.ID, Release: r} }
	failed := func(code twin.Code, why string, retry bool) update.Event {
		return update.Failed{Action: a.ID, Code: code, Reason: why, Retryable: retry}
	}
	short := d.rand.Between(10*time.Millisecond, 200*time.Millisecond)
	switch a.Kind {
	case update.ActFetch:
		delete(d.verified, man)
		wait := d.rand.Between(time.Second, 20*time.Second)
		if d.cfg.BitsPerS > 0 {
			size := nature.Bytes
			if size == 0 {
				size = 5e6
			}
			wait = time.Second + time.Duration(size*8/d.cfg.BitsPerS*float64(time.Second))
		}
		answer(wait, func() update.Event {
			if !d.w.Online(d) {
				return failed(twin.CodeFetch, "no connection", true)
			}
			return done(update.Release{})
		})
	case update.ActVerify:
		answer(short, func() update.Event {
			if !known || nature.Unsigned {
				return failed(twin.CodeSignature, "no signature of a known key", false)
			}
			d.verified[man] = true
			return done(nature.Release)
		})
	case update.ActGuard, update.ActTest, update.ActInterlock:
		answer(short, func() update.Event { return done(update.Release{}) })
	case update.ActLoad:
		if !d.verified[man] {
			d.w.Fault(d, "it loads a release that was not verified: "+man.Short())
		}
		answer(short, func() update.Event {
			if nature.CrashAtLoad {
				d.crash()
				return nil
			}
			return done(nature.Release)
		})
	case update.ActResume, update.ActRollback:
		answer(short, func() update.Event {
			if man == "" {
				d.act("")
				return done(update.Release{})
			}
			if nature.CrashAtLoad {
				d.crash()
				return nil
			}
			d.act(man)
			return done(nature.Release)
		})
	case update.ActShadow:
		answer(short, func() update.Event {
			d.observeUntilNow()
			d.shadowed, d.shadow, d.window = man, &twin.Shadow{}, a.WindowS
			d.open, d.openFor = twin.ShadowWindow{}, 0
			return done(update.Release{})
		})
	case update.ActSwap:
		answer(short, func() update.Event {
			d.act(man)
			d.Swaps++
			return done(update.Release{})
		})
	case update.ActConfirm, update.ActDrop:
		d.observeUntilNow()
		d.shadowed, d.shadow = "", nil
	case update.ActClean:
		keep := map[artifact.Digest]bool{}
		for _, k := range a.Keep {
			keep[k] = true
		}
		for m := range d.verified {
			if !keep[m] {
				delete(d.verified, m)
			}
		}
	case update.ActCancel:
		// The answer comes all the same and the machine does not mind.
	}
}

// crash takes the agent down; its supervisor starts it again.
func (d *Device) crash() {
	d.Cut()
	d.later(2*time.Second, d.Power)
}

// act makes a release the one whose verdicts count.
func (d *Device) act(man artifact.Digest) {
	d.observeUntilNow()
	if man != "" && !d.verified[man] {
		d.w.Fault(d, "a release acts that was not verified: "+man.Short())
	}
	d.acting, d.actFrom, d.acted = man, d.w.Now(), d.w.Now()
	if nature, _ := d.w.Release(man, d); nature.CrashAfter > 0 {
		d.later(nature.CrashAfter, func() {
			if d.acting == man {
				d.crash()
			}
		})
	}
	d.counted = update.Observed{Champion: man}
	if d.shadowed == man {
		d.shadowed, d.shadow = "", nil
	}
}

// observeUntilNow lets the scorer have worked since it was looked at last.
func (d *Device) observeUntilNow() {
	now := d.w.Now()
	span := now.Sub(d.acted).Seconds()
	d.acted = now
	if d.acting == "" || span <= 0 {
		return
	}
	nature, _ := d.w.Release(d.acting, d)
	n := uint64(span*d.cfg.WindowsHz + d.rand.Float64())
	if n == 0 {
		return
	}
	d.scored += n
	d.counted.Due += n
	d.counted.Windows += n
	d.counted.Flagged += uint64(d.rand.Poisson(min(float64(n)*d.cfg.BaseFlags*flags(nature), 29)))
	d.counted.LatencyP99Ms = latency(nature)
	if nature.NonFinite > 0 && now.Sub(d.actFrom) >= nature.NonFinite {
		d.counted.NonFinite++
	}
	if nature.NonFinite > 0 || flags(nature) > 1.2 || nature.CrashAtLoad || nature.CrashAfter > 0 || nature.MemoryMiB > 0 {
		d.Harm += time.Duration(span * float64(time.Second))
	}
	if d.shadow == nil {
		return
	}
	challenger, _ := d.w.Release(d.shadowed, d)
	// The flags that only one of them raises; most they raise together.
	d.openFor += span
	d.open.Items += uint32(n)
	d.open.OnlyChallenger += min(d.rand.Poisson(float64(n)*d.cfg.BaseFlags*flags(challenger)), uint32(n)/2)
	d.open.OnlyChampion += min(d.rand.Poisson(float64(n)*d.cfg.BaseFlags*flags(nature)), uint32(n)/2)
	if d.openFor >= d.window {
		s := d.shadow
		s.Items += uint64(d.open.Items)
		s.OnlyChallenger += uint64(d.open.OnlyChallenger)
		s.OnlyChampion += uint64(d.open.OnlyChampion)
		s.LatencyP99Ms = latency(challenger)
		s.Windows = append(s.Windows, d.open)
		if over := len(s.Windows) - twin.MaxShadowWindows; over > 0 {
			s.Windows, s.Index = s.Windows[over:], s.Index+uint64(over)
		}
		d.open, d.openFor = twin.ShadowWindow{}, 0
	}
}

func flags(r Release) float64 {
	if r.Flags == 0 {
		return 1
	}
	return r.Flags
}

func latency(r Release) float64 {
	if r.LatencyMs == 0 {
		return 2
	}
	return r.LatencyMs
}

// observe shows the machine the scorer's counters.
func (d *Device) observe() {
	d.observeUntilNow()
	o := d.counted
	if d.shadow != nil {
		s := *d.shadow
		s.Windows = append([]twin.ShadowWindow(nil), s.Windows...)
		o.Shadow = &s
	}
	d.step(o)
}

// report sends the reported document.
func (d *Device) report() {
	st := d.machine.Status()
	d.seq++
	r := twin.Reported{
		Schema: 1, Site: d.cfg.ID.Site, Node: d.cfg.ID.Node, Boot: fmt.Sprint(d.boot), Seq: d.seq, Generation: st.Generation,
		At: d.w.Now().Add(d.cfg.Skew), Class: d.cfg.Class, Labels: d.cfg.Labels, Agent: twin.Agent{Arch: "amd64"},
		Trial: st.Trial, Conditions: st.Conditions, Quarantined: st.Quarantined,
		Stream: twin.Stream{WindowsScored: d.scored, WindowsDue: d.scored + d.lost, WindowsLost: d.lost, Swaps: uint64(d.Swaps)},
	}
	if st.Champion != nil && d.acting == st.Champion.Manifest {
		r.Champion = &twin.Running{Name: st.Champion.Name, Counter: st.Champion.Counter, Manifest: st.Champion.Manifest, Model: st.Champion.Model, Windows: d.counted.Windows}
	}
	if st.LastGood != nil {
		r.LastGood = &twin.Running{Name: st.LastGood.Name, Counter: st.LastGood.Counter, Manifest: st.LastGood.Manifest, Model: st.LastGood.Model}
	}
	d.w.Send(d, r)
}
