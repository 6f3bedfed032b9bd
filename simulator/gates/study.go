// Package gates measures the shadow gate of cloud/rollout: how often it stops
// a release that is no worse than allowed, how long it takes to stop one that
// is worse, and how long to show that one is not.
//
// It plays streams of flags of a champion and a challenger on virtual devices
// (1 item a second, 1 % flagged), counts them into counting windows as devices
// do, adds them up as the hub does and asks the product's own gate every
// minute. Beside it, on the same streams, stand two tests that others use: one
// line against another, and a test of fixed size that is looked at again and
// again.
//
// It promises equal figures for equal options. What the gate assumes is stated
// for each row, and rows that break it are played and printed too.
//
// Only simulator/cli imports it.
package gates

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/twin"
)

// Options say how much is measured. The zero value measures what the figures
// of the documentation are made of.
type Options struct {
	Runs    int    // of each row in which a stop is a false alarm and the assumption holds, fewer of many devices where noise is not independent; default 1000
	Caught  int    // of each other row; default 200
	Seed    uint64 // default 1
	Workers int    // default 2
	// Progress is told how many of all rows are done. nil: nobody.
	Progress func(done, all int)
}

// hours are played for each run.
const hours = 24

// alpha is the error that every test here may make.
const alpha = 0.01

var noises = []noise{
	{"independent", independent, 0, "each flag by itself"},
	{"both models, 1 min", shared, 60, "bursts in which both models flag more"},
	{"both models, 10 min", shared, 600, "bursts in which both models flag more"},
	{"both models, 2 h", shared, 7200, "bursts in which both models flag more"},
	{"line drift", drift, 0, "the rate of a line's flags drifts ×/÷ 3 over the day, for both models"},
	{"one model, 6 s", single, 6, "bursts that one model alone flags"},
	{"one model, 1 min", single, 60, "bursts that one model alone flags"},
	{"one model, 10 min", single, 600, "bursts that one model alone flags"},
	{"one model, 1 h", single, 3600, "bursts that one model alone flags"},
	{"one model, line, 6 s", singleLine, 6, "bursts that one model alone flags, on all devices of the line at once"},
	{"challenger drift", driftSingle, 0, "the rate of the challenger alone drifts over the day"},
}

// ratios are how often the challenger flags for one flag of the champion.
var ratios = []float64{1, 1.2, 1.5, 2, 3}

var sizes = []int{1, 5, 10, 50}

// settings are the gates that look at every stream: the default of a policy
// first.
var settings = []Setting{{1.5, 60}, {1.2, 60}, {1.5, 600}, {1.2, 600}}

// Setting is what a shadow gate is asked.
type Setting struct {
	Margin  float64 // allowed ratio of flags
	WindowS int     // length of a counting window
}

// Row is what one gate said about many runs of one kind.
type Row struct {
	Noise   string
	What    string // the noise in words
	Ratio   float64
	Devices int
	Setting
	// Holds says whether the gate's assumption holds: what a window shows does
	// not foretell a score above the margin's in the next one, or in another
	// device's.
	Holds bool
	Runs  int
	// Stopped are the hours to the stop of the runs that were stopped, sorted;
	// Passed to the first "not worse than the margin" of those that passed
	// before any stop.
	Stopped, Passed []float64
	// How many runs others would have stopped: a test of fixed size on the
	// same pairs looked at every minute; one line against another at every
	// hour, and at the fourth alone.
	Fixed, Line, LineOnce int
}

// Allowed says whether the challenger is no worse than the margin, so that a
// stop is a false alarm.
func (r Row) Allowed() bool { return r.Ratio <= r.Margin }

// Median is the hours within which half of the runs stopped; +Inf when fewer
// did.
func (r Row) Median() float64 { return quantile(r.Stopped, r.Runs, 0.5) }

// Late is the hours within which 90 % of the runs stopped; +Inf when fewer did.
func (r Row) Late() float64 { return quantile(r.Stopped, r.Runs, 0.9) }

// MedianPass is the hours within which half of the runs passed.
func (r Row) MedianPass() float64 { return quantile(r.Passed, r.Runs, 0.5) }

func quantile(sorted []float64, n int, q float64) float64 {
	k := int(math.Ceil(q*float64(n))) - 1
	if k < 0 || k >= len(sorted) {
		return math.Inf(1)
	}
	return sorted[k]
}

// holds says whether the assumption of the gate holds in a row.
func holds(n noise, ratio float64, s Setting) bool {
	switch n.kind {
	case independent, shared, drift:
		return true
	case single:
		// A burst that reaches into the next window foretells it a little: that
		// has to fit into the room between the ratio and the margin.
		return n.length <= float64(s.WindowS)/10 && ratio < s.Margin
	}
	return false
}

// cell is one kind of stream, which all settings look at.
type cell struct {
	noise    noise
	ratio    float64
	devices  int
	settings []Setting
	runs     int
}

func cells(o Options) []cell {
	var out []cell
	for _, n := range noises {
		for _, r := range ratios {
			if r == 1.2 && n.kind != independent {
				continue
			}
			for _, d := range sizes {
				c := cell{n, r, d, settings[:1], o.Caught}
				if d == 5 {
					c.settings = settings
				}
				for _, s := range c.settings {
					if r > s.Margin || !holds(n, r, s) {
						continue
					}
					// Many devices cost much and say the same in every noise.
					switch {
					case d < 10 || n.kind == independent:
						c.runs = o.Runs
					case d < 50:
						c.runs = max(o.Caught, o.Runs/2)
					}
				}
				out = append(out, c)
			}
		}
	}
	return out
}

// Run measures every row.
func Run(ctx context.Context, o Options) ([]Row, error) {
	if o.Runs < 0 || o.Caught < 0 || o.Workers < 0 {
		return nil, fmt.Errorf("cannot measure the gate: runs and workers are numbers above 0")
	}
	if o.Runs == 0 {
		o.Runs = 1000
	}
	if o.Caught == 0 {
		o.Caught = 200
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Workers == 0 {
		o.Workers = 2
	}
	all := cells(o)
	rows := make([][]Row, len(all))
	var mu sync.Mutex
	var wg sync.WaitGroup
	next, done := 0, 0
	for range o.Workers {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(all) || ctx.Err() != nil {
					return
				}
				rows[i] = all[i].play(ctx, o.Seed, uint64(i))
				mu.Lock()
				done++
				if o.Progress != nil {
					o.Progress(done, len(all))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot measure the gate: %w", err)
	}
	return slices.Concat(rows...), nil
}

// play plays all runs of a cell and returns a row for each setting.
func (c cell) play(ctx context.Context, seed, index uint64) []Row {
	rows := make([]Row, len(c.settings))
	for k, s := range c.settings {
		rows[k] = Row{Noise: c.noise.name, What: c.noise.what, Ratio: c.ratio, Devices: c.devices, Setting: s, Holds: holds(c.noise, c.ratio, s), Runs: c.runs}
	}
	d := newDice()
	for run := 0; run < c.runs && ctx.Err() == nil; run++ {
		d.Rand = rand.New(rand.NewPCG(seed, index<<32|uint64(run)))
		for k, o := range c.run(d) {
			r := &rows[k]
			if o.stopped > 0 {
				r.Stopped = append(r.Stopped, float64(o.stopped)/60)
			}
			if o.passed > 0 && (o.stopped == 0 || o.passed < o.stopped) {
				r.Passed = append(r.Passed, float64(o.passed)/60)
			}
			r.Fixed += o.fixed
			r.Line += o.line
			r.LineOnce += o.lineOnce
		}
	}
	for k := range rows {
		slices.Sort(rows[k].Stopped)
		slices.Sort(rows[k].Passed)
	}
	return rows
}

// outcome is what came of one run: minutes, 0 for never, and 1 for each test
// of others that would have stopped it.
type outcome struct {
	stopped, passed       int
	fixed, line, lineOnce int
}

// run plays one stream to its end, or until there is nothing left to learn.
func (c cell) run(d *dice) []outcome {
	tested := newLine(c.noise, c.ratio, c.devices, d)
	other := newLine(c.noise, 1, c.devices, d) // runs the champion
	gates := make([]*watch, len(c.settings))
	for k, s := range c.settings {
		gates[k] = newWatch(s, c.devices)
	}
	out := make([]outcome, len(c.settings))
	var a, b, flagsHere, flagsThere uint64
	for m := range hours * 60 {
		tested.minute(m)
		other.minute(m)
		for i := range tested.a {
			a += uint64(tested.a[i])
			b += uint64(tested.b[i])
			flagsHere += uint64(tested.a[i] + tested.ab[i])
			flagsThere += uint64(other.b[i] + other.ab[i])
		}
		over := true
		for k, s := range c.settings {
			o := &out[k]
			if o.stopped == 0 {
				switch gates[k].minute(m, tested) {
				case rollout.Fail:
					o.stopped = m + 1
				case rollout.Pass:
					if o.passed == 0 {
						o.passed = m + 1
					}
				}
			}
			if o.fixed == 0 && above(a, b, s.Margin) {
				o.fixed = 1
			}
			if (m+1)%60 == 0 && above(flagsHere, flagsThere, s.Margin) {
				o.line = 1
				if m+1 == 240 {
					o.lineOnce = 1
				}
			}
			over = over && o.stopped > 0 && o.fixed > 0 && o.line > 0 && m >= 240
		}
		if over {
			break
		}
	}
	return out
}

// above is the usual one-sided test of fixed size: do x of x+y flags speak, at
// the level alpha, for a ratio above the margin?
func above(x, y uint64, margin float64) bool {
	n := float64(x + y)
	if n < 30 {
		return false
	}
	p := margin / (1 + margin)
	return (float64(x)-n*p)/math.Sqrt(n*p*(1-p)) > 2.3263
}

// watch is one shadow gate on one stream.
type watch struct {
	Setting
	gate  rollout.Gate
	open  []twin.ShadowWindow // of each device
	shown rollout.Evidence    // by all devices together
	// ask is how many windows have to be shown before asking the gate can be
	// worth while; see minute.
	ask    uint64
	passed bool
}

func newWatch(s Setting, devices int) *watch {
	return &watch{
		Setting: s, open: make([]twin.ShadowWindow, devices),
		gate: rollout.Gate{Name: rollout.GateShadow, Threshold: &s.Margin, Alpha: alpha},
	}
}

// minute takes in a minute of every device.
//
// The gate is not asked where its answer is known: between windows it has
// learnt nothing, and an e-value of scores between −1 and 1, which must not
// fall below 0, grows by a factor of 2/(1+m) a window at the most against "at
// most m", and of 2/(1−m) against "at least m".
func (w *watch) minute(m int, l *line) rollout.Result {
	for i := range w.open {
		o := &w.open[i]
		o.OnlyChallenger += l.a[i]
		o.OnlyChampion += l.b[i]
		o.Items += Items
	}
	if (m+1)*60%w.WindowS != 0 {
		return rollout.Inconclusive
	}
	for i := range w.open {
		w.shown.Count(w.open[i])
		w.open[i] = twin.ShadowWindow{}
	}
	if w.shown.Windows < w.ask {
		return rollout.Inconclusive
	}
	v := rollout.Shadow(rollout.Rollout{}, w.gate, w.shown)
	w.passed = w.passed || v.Result == rollout.Pass
	mean := (w.Margin - 1) / (w.Margin + 1)
	windows := math.Log(1/alpha/v.EHarm) / math.Log(2/(1+mean))
	if !w.passed {
		windows = min(windows, math.Log(1/alpha/v.ESafe)/math.Log(2/(1-mean)))
	}
	w.ask = w.shown.Windows + uint64(max(windows, 0))
	return v.Result
}
