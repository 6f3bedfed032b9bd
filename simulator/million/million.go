// Package million runs one rollout on a million virtual devices in one process.
//
// The parties are the product's own: agent/update steps every device, as flat
// state, and a cloud/rollout.Roster decides. Between them is a model of what
// surrounds a device, made of drawn numbers: links, scorers, lost connections,
// lost power, and devices on which the new release goes wrong.
//
// Time goes in windows. Devices speak with nobody but the hub, and no message
// crosses between the two within a window; so a device runs through a whole
// window by itself, any division of the fleet into shards gives the same run,
// and the reports of a window reach the hub sorted by device. A device sends at
// most one report a window, its newest. Every number that is drawn depends on
// the seed, the device, its purpose and how many were drawn before, never on
// the order of devices.
//
// What it leaves out: torn writes (saving is whole or not at all), signatures,
// interlocks that forbid, clock skew, floors, lost or doubled messages on a
// connection that holds. simulator/scenario has these, on thousands of devices
// that run the same rules; a Watch'ed device is held against agent/update's
// Machine event by event.
//
// simulator/cli imports it.
package million

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/simulator/world"
)

// Config describes a run. The zero value of a field takes the default.
type Config struct {
	Devices int           // default 1 000 000
	Line    int           // devices of a line, a budget group; default 50
	Shards  int           // default one for each 16 384 devices
	Workers int           // threads that run shards; default GOMAXPROCS
	Window  time.Duration // how long devices and hub do not hear of each other; default 10 s
	Seed    uint64        // default 1

	// Release is how the new release behaves on every device. The zero value
	// is sound.
	Release Nature
	// Bad is the share of devices on which it behaves badly all the same: a
	// third each crashes at load, yields NaN, and is slow.
	Bad float64
	// Offline is the share of devices without a connection at any time, and
	// Spell the mean length of that; default 5 min.
	Offline float64
	Spell   time.Duration
	// Power is how likely the power goes during one step of an update.
	Power float64

	Heartbeat time.Duration // between an idle device's observations and reports; default 30 min
	Observe   time.Duration // between observations in shadow and soak; default 60 s
	Report    time.Duration // between reports then; default 5 min
	Limit     time.Duration // of virtual time; default 48 h

	// Watch is 1 + the index of a device that a Machine runs beside; 0: none.
	// Its life goes to Life, a line for each event.
	Watch int
	Life  func(line string) // nil: nobody reads it

	Progress func(at time.Duration, r rollout.Rollout, c rollout.Counts) // every ten virtual minutes; nil: nobody asks
}

// Nature is how a release behaves.
type Nature struct {
	CrashAtLoad bool          // takes the agent down while it loads
	NonFinite   time.Duration // yields NaN this long after it began to act; 0: never
	Flags       float64       // flags so many times as often as it should; 0 means 1
	LatencyMs   float64       // p99 of an inference; 0 means 2
}

func (n *Nature) flags() float64   { return cmp.Or(n.Flags, 1) }
func (n *Nature) latency() float64 { return cmp.Or(n.LatencyMs, 2) }

// unsound says whether a device is worse off while the release acts.
func (n *Nature) unsound() bool {
	return n.CrashAtLoad || n.NonFinite > 0 || n.flags() > 1.2 || n.latency() > latencyLimitMs
}

const (
	challenger     = 2 // the new release, 1 + its index; the one before is 1
	baseFlags      = 0.01
	latencyLimitMs = 100
	lineShare      = 0.1    // of a line that may be unavailable
	countingMs     = 60_000 // a counting window of the shadow
	willMs         = 60_000 // until the broker gives a silent connection up
	class          = artifact.Class("pump")
	arch           = "amd64"
)

// The kinds of device-event: each is one call of the product's step function.
const (
	kindBoot = iota
	kindOffer
	kindAnswer
	kindObserve
	kindTick
	kinds
)

// sim is one run.
type sim struct {
	Config
	windowMs, observeMs, heartbeatMs, reportMs uint32
	startMs                                    int64

	sound     Nature
	natures   []Nature // of the new release: [0] on most devices
	table     *update.Table
	documents []update.Document // without generations
	shards    []*shard
	healed    bool           // no new faults
	flights   []atomic.Int32 // by line: devices that swap or soak
	over      atomic.Int32   // how often a line had more of them than its budget
}

func newSim(c Config) (*sim, error) {
	def(&c.Devices, 1_000_000)
	def(&c.Line, 50)
	def(&c.Shards, (c.Devices+16383)/16384)
	def(&c.Workers, runtime.GOMAXPROCS(0))
	def(&c.Window, 10*time.Second)
	def(&c.Seed, 1)
	def(&c.Spell, 5*time.Minute)
	def(&c.Heartbeat, 30*time.Minute)
	def(&c.Observe, time.Minute)
	def(&c.Report, 5*time.Minute)
	def(&c.Limit, 48*time.Hour)
	if c.Devices < 0 || c.Line < 1 || c.Shards < 1 || c.Workers < 1 || c.Window < time.Millisecond || c.Watch > c.Devices {
		return nil, errors.New("cannot simulate that fleet: devices, line, shards and workers have to be above 0, the window at least 1 ms, and the watched device one of the fleet")
	}
	if c.Offline < 0 || c.Offline > 0.9 || c.Bad < 0 || c.Bad > 1 || c.Power < 0 || c.Power > 0.5 {
		return nil, errors.New("cannot simulate that fleet: offline has to be a share up to 0.9, bad up to 1, power up to 0.5")
	}
	ms := func(d time.Duration) uint32 { return uint32(d.Milliseconds()) }
	s := &sim{
		Config: c, windowMs: ms(c.Window), observeMs: ms(c.Observe), heartbeatMs: ms(c.Heartbeat), reportMs: ms(c.Report), startMs: world.Start.UnixMilli(),
		natures: []Nature{c.Release, {CrashAtLoad: true}, {NonFinite: 90 * time.Second}, {LatencyMs: 4 * latencyLimitMs}},
	}
	s.table = &update.Table{}
	s.flights = make([]atomic.Int32, (c.Devices+c.Line-1)/c.Line)
	for n := range uint64(2) {
		s.table.Releases = append(s.table.Releases, local(release(n+1)))
	}
	for n := range c.Shards {
		first, end := n*c.Devices/c.Shards, (n+1)*c.Devices/c.Shards
		words := (end - first + 63) / 64
		sh := &shard{
			sim: s, fleet: update.NewFleet(update.Config{}, s.table), first: first, devices: make([]device, end-first), wheel: newWheel(end - first),
			dirty: make([]uint64, words), lost: make([]uint64, words),
		}
		for i := range sh.devices {
			sh.start(int32(i))
		}
		if w := c.Watch - 1 - first; w >= 0 && w < len(sh.devices) {
			sh.twin = newDouble(sh, w)
		}
		s.shards = append(s.shards, sh)
	}
	return s, nil
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// release makes up a release of the family; local is the same as a device
// knows it.
func release(counter uint64) rollout.Release {
	return rollout.Release{
		Kind: artifact.Model, Name: "pump-anomaly", Counter: counter, Manifest: artifact.Of(fmt.Append(nil, "manifest", counter)),
		Variants: []rollout.Variant{{Classes: []artifact.Class{class}, Loaded: artifact.Of(fmt.Append(nil, "model", counter))}},
	}
}

func local(r rollout.Release) update.Release {
	return update.Release{
		Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Model: r.Variants[0].Loaded,
		Limits: artifact.Limits{LatencyP99Ms: latencyLimitMs, MaxFlagShare: 0.3, MinWatchdogObs: 50},
	}
}

// policy is four waves, gates on behaviour, and a tenth of a line at a time.
func (s *sim) policy() rollout.Policy {
	few := 0.01 // of scores: a device that goes wrong shows some before it goes back
	return rollout.Policy{
		Name: "four waves",
		Waves: []rollout.Wave{
			{Name: "canary", Devices: max(100, s.Devices/1000)}, {Name: "early", Share: 0.05}, {Name: "quarter", Share: 0.25}, {Name: "all"},
		},
		Gates:   []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateShadow}, {Name: rollout.GateNonFinite, Threshold: &few}, {Name: rollout.GateOutput}},
		Budgets: []rollout.Budget{{GroupBy: "line", MaxUnavailableShare: lineShare}},
		ShadowS: 600, ShadowWindowS: countingMs / 1000, SoakS: 300, MinWindows: 200,
		LeaseS: 600, StaleS: 4500, Retries: 2,
	}
}

// Run runs the rollout to its end, then stops the faults and waits until
// nothing changes any more.
func Run(c Config) (Result, error) {
	// The fleet lives all along: a small growth above it is collected rather
	// than kept.
	defer debug.SetGCPercent(debug.SetGCPercent(40))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1900 << 20))
	began := time.Now()
	s, err := newSim(c)
	if err != nil {
		return Result{}, err
	}
	h, err := newHub(s)
	if err != nil {
		return Result{}, err
	}
	w := newWorkers(s)
	defer w.stop()
	var clock cpu
	clock.lap()
	quiet := 0
	for n := 0; ; n++ {
		w.run(n)
		h.res.DeviceCPU += clock.lap()
		at := time.Duration(n+1) * s.Window
		h.exchange(at, &clock)
		if err := s.parted(); err != nil {
			return Result{}, err
		}
		if at >= s.Limit {
			return Result{}, fmt.Errorf("the rollout has not come to rest after %s: %s: %s", at, h.r.State, h.r.Reason)
		}
		if c.Progress != nil && at%(10*time.Minute) < s.Window {
			c.Progress(at, h.r, h.counts)
		}
		if h.r.State.Final() && !s.healed {
			h.res.Ended = at
			h.heal(uint32(at.Milliseconds()))
		}
		quiet++
		if h.busy {
			quiet = 0
		}
		if s.healed && time.Duration(quiet)*s.Window >= 2*s.Report {
			h.res.Rest = at
			break
		}
	}
	h.finish()
	h.res.Seconds = time.Since(began).Seconds()
	return h.res, nil
}

// workers run the shards of a window on all processors.
type workers struct {
	s      *sim
	window int
	next   atomic.Int64
	begin  chan struct{}
	done   sync.WaitGroup
	ended  sync.WaitGroup
}

func newWorkers(s *sim) *workers {
	w := &workers{s: s, begin: make(chan struct{})}
	for range s.Workers {
		w.ended.Go(func() {
			for range w.begin {
				for {
					n := int(w.next.Add(1)) - 1
					if n >= len(s.shards) {
						break
					}
					s.shards[n].run(w.window)
				}
				w.done.Done()
			}
		})
	}
	return w
}

// run runs window n of every shard.
func (w *workers) run(n int) {
	w.window = n
	w.next.Store(0)
	w.done.Add(w.s.Workers)
	for range w.s.Workers {
		w.begin <- struct{}{}
	}
	w.done.Wait()
}

func (w *workers) stop() {
	close(w.begin)
	w.ended.Wait()
}
