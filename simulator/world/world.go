// Package world is virtual time for simulations: a clock that only events
// move, and randomness that only a seed decides.
//
// The parties are the models of devices, network, hub and people, which
// schedule events, and the scenario, which runs them. Nothing in a simulation
// may read another clock or draw another number. Randomness is keyed: a number
// depends on the seed, on who draws it and on how often that one has drawn, so
// that one party's draws do not shift another's.
package world

import (
	"math"
	"time"
)

// Start is the first moment of every world that does not say another.
var Start = time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)

// World is one run. It is not safe for concurrent use.
type World struct {
	seed   uint64
	start  time.Time
	now    time.Duration // since Start
	queue  []event
	serial uint64
	events uint64
}

// New returns a world that begins at start; zero is Start.
func New(seed uint64, start time.Time) *World {
	if start.IsZero() {
		start = Start
	}
	return &World{seed: seed, start: start}
}

// Seed returns the seed.
func (w *World) Seed() uint64 { return w.seed }

// Now returns the time.
func (w *World) Now() time.Time { return w.start.Add(w.now) }

// Elapsed returns the time since Start.
func (w *World) Elapsed() time.Duration { return w.now }

// Events returns how many events have run.
func (w *World) Events() uint64 { return w.events }

// Actor is a party that many events are for. An event for an Actor costs no
// allocation.
type Actor interface {
	// Act lets the event happen; what and arg are those it was scheduled with.
	Act(what uint32, arg uint64)
}

// In schedules f after d; events of one moment run in the order in which they
// were scheduled.
func (w *World) In(d time.Duration, f func()) {
	w.push(event{at: w.now + max(d, 0), run: f})
}

// For schedules a.Act(what, arg) after d.
func (w *World) For(d time.Duration, a Actor, what uint32, arg uint64) {
	w.push(event{at: w.now + max(d, 0), actor: a, what: what, arg: arg})
}

// Run runs events until none is left, the time until has come, or stop says
// so; nil never does. It reports whether there is more to come.
func (w *World) Run(until time.Duration, stop func() bool) bool {
	for len(w.queue) > 0 && (stop == nil || !stop()) {
		if w.queue[0].at > until {
			w.now = until
			return true
		}
		e := w.pop()
		w.now = e.at
		w.events++
		if e.actor != nil {
			e.actor.Act(e.what, e.arg)
		} else {
			e.run()
		}
	}
	return len(w.queue) > 0
}

type event struct {
	at     time.Duration
	serial uint64
	run    func() // nil when there is an actor
	actor  Actor
	arg    uint64
	what   uint32
}

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.serial < o.serial
}

// The queue is a heap in which every event has four below it: flatter than one
// with two, and its events lie in one piece of memory.
const fan = 4

func (w *World) push(e event) {
	w.serial++
	e.serial = w.serial
	w.queue = append(w.queue, e)
	q, i := w.queue, len(w.queue)-1
	for i > 0 {
		up := (i - 1) / fan
		if !e.before(&q[up]) {
			break
		}
		q[i] = q[up]
		i = up
	}
	q[i] = e
}

func (w *World) pop() event {
	q := w.queue
	top, last := q[0], q[len(q)-1]
	q[len(q)-1] = event{}
	q = q[:len(q)-1]
	w.queue = q
	for i := 0; len(q) > 0; {
		least := 0
		for k := i*fan + 1; k <= i*fan+fan && k < len(q); k++ {
			if least == 0 || q[k].before(&q[least]) {
				least = k
			}
		}
		if least == 0 || !q[least].before(&last) {
			q[i] = last
			break
		}
		q[i] = q[least]
		i = least
	}
	return top
}

// Rand is one party's stream of numbers.
type Rand struct {
	key, n uint64
}

// Rand returns the stream of the party that the words name.
func (w *World) Rand(words ...string) *Rand {
	h := w.seed*0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d
	for _, s := range words {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 0x100000001b3
		}
		h = mix(h ^ 0xff)
	}
	return &Rand{key: h}
}

// mix is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Uint64 returns the next number.
func (r *Rand) Uint64() uint64 {
	r.n++
	return mix(r.key + r.n*0x9e3779b97f4a7c15)
}

// Float64 returns the next number in [0, 1).
func (r *Rand) Float64() float64 { return float64(r.Uint64()>>11) / (1 << 53) }

// IntN returns the next number in [0, n); n is above 0.
func (r *Rand) IntN(n int) int { return int(r.Float64() * float64(n)) }

// Chance is true with probability p.
func (r *Rand) Chance(p float64) bool { return r.Float64() < p }

// Between returns a duration from a to b.
func (r *Rand) Between(a, b time.Duration) time.Duration {
	return a + time.Duration(r.Float64()*float64(b-a))
}

// Exp returns a waiting time of the given mean, at most a hundred means.
func (r *Rand) Exp(mean time.Duration) time.Duration {
	return time.Duration(min(-math.Log1p(-r.Float64()), 100) * float64(mean))
}

// Poisson returns a count of the given mean, which is below 30.
func (r *Rand) Poisson(mean float64) uint32 {
	var k uint32
	least := math.Exp(-mean)
	for p := r.Float64(); p > least && k < 1000; p *= r.Float64() {
		k++
	}
	return k
}
