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
	"container/heap"
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
	queue  queue
	serial uint64
	events uint64
	// After runs after every event, when it is set: the checkers.
	After func(name string)
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

// In schedules f after d; events of one moment run in the order in which they
// were scheduled. name shows in traces.
func (w *World) In(d time.Duration, name string, f func()) {
	w.serial++
	heap.Push(&w.queue, event{at: w.now + max(d, 0), serial: w.serial, name: name, run: f})
}

// Run runs events until none is left, the time until has come, or stop says
// so. It reports whether there is more to come.
func (w *World) Run(until time.Duration, stop func() bool) bool {
	for len(w.queue) > 0 && !stop() {
		if w.queue[0].at > until {
			w.now = until
			return true
		}
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.events++
		e.run()
		if w.After != nil {
			w.After(e.name)
		}
	}
	return len(w.queue) > 0
}

type event struct {
	at     time.Duration
	serial uint64
	name   string
	run    func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
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
	for p := r.Float64(); p > math.Exp(-mean) && k < 1000; p *= r.Float64() {
		k++
	}
	return k
}
