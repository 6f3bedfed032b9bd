// Package tune chooses one kind of detector and one configuration for machines of a type from recordings.
//
// ChooseByLabels takes recordings in which people labelled what was wrong, and says what to expect of the choice on a
// recording that it has not seen. Choose needs normal operation and no labels.
//
// For Choose recordings are cut into pieces. Every candidate is fitted to the first rows of a piece and judges the rest of
// it: as it is, which shows how often normal operation that wanders is flagged, and with faults put into one
// channel at a time. The candidate with the largest Youden index wins, unless people aim at F1: found share of faulty
// rows less flagged share of normal ones (W. J. Youden, Index for rating diagnostic tests, Cancer 3, 1950). Faults that every
// candidate finds, and those that none can find, do not move the choice.
//
// People who bring recordings call it through `swell-sim tune`; the hub's night, which has one interval of data
// and a champion to compare with, does not.
package tune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"

	"github.com/swellfleet/swell/models/evaluate"
	rt "github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
)

// Candidate is a kind of detector with its configuration, but for the margin.
type Candidate struct {
	Kind string     `json:"kind"`
	Fit  zoo.Config `json:"fit"`
}

// Aim is what is made as large as can be.
type Aim string

const (
	// Index is Youden's. It does not depend on how many rows are faulty.
	Index Aim = "index"
	// F1 is the harmonic mean of precision and recall over rows, and does.
	F1 Aim = "f1"
)

// Options say how to choose. TrainRows is required.
type Options struct {
	// TrainRows is how many rows of a piece are learned from.
	TrainRows int
	// PieceRows is how long a piece is; default three times TrainRows. Pieces begin half a piece apart.
	PieceRows int
	// Candidates compete; nil means Grid.
	Candidates []Candidate
	// Margins that are tried with each; nil means Margins.
	Margins []float64
	// MaxFalseAlarms is the largest share of normal rows that may be flagged; 0 means any.
	MaxFalseAlarms float64
	// Aim is Index where it is empty.
	Aim Aim
	// MaxGap is the largest step within a window, in nominal steps; 0 means 3, negative means any.
	MaxGap float64
	// Seed of fits and faults.
	Seed uint64
	// Library is the path of libonnxruntime; empty means where models/runtime finds it.
	Library string
	// Tried, when not nil, is told of every candidate that has been tried, one at a time.
	Tried func(best Trial, done, of int)
}

// Trial is how one configuration did, over all pieces.
type Trial struct {
	Kind string `json:"kind"`
	// Fit is the configuration with its margin.
	Fit zoo.Config `json:"fit"`
	// FalseAlarms is the share of normal rows that were flagged, before a fault and after it.
	FalseAlarms float64 `json:"false_alarms"`
	// Missed is the share of faulty rows that were not.
	Missed float64 `json:"missed"`
	// F1 over rows.
	F1 float64 `json:"f1"`

	candidate, margin int // which of Options it is
}

// Youden is the trial's index: 1 for a perfect detector, 0 for one that guesses.
func (t Trial) Youden() float64 { return 1 - t.FalseAlarms - t.Missed }

// Same says that u is the same configuration, whatever it came to.
func (t Trial) Same(u Trial) bool { return t.candidate == u.candidate && t.margin == u.margin }

// Result is the choice.
type Result struct {
	Pieces int
	// Best of every kind that could be fitted, the best first.
	Best []Trial
	// Failed says why the first of a kind's candidates could not be fitted, by kind.
	Failed map[string]string
}

// Margins are the thresholds that are tried, as multiples of the reference score.
func Margins() []float64 { return []float64{1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8} }

// Grid is what competes where nobody names candidates: every kind for machines of many channels, patterns and
// windows from one sample to a minute at one row a second, each step about three times the last.
func Grid() []Candidate {
	var out []Candidate
	smooths := []int{1, 5, 20, 60}
	for _, pattern := range []int{1, 3, 10} {
		for _, smooth := range smooths {
			c := zoo.Config{Pattern: pattern, Smooth: smooth}
			for _, kind := range []string{zoo.DenseAE, zoo.RandomNeighbour, zoo.Forest} {
				out = append(out, Candidate{kind, c})
			}
			for _, c.Variance = range []float64{0.7, 0.85, 0.95} {
				for _, c.PlaneWeight = range []float64{1, 3, 10} {
					out = append(out, Candidate{zoo.PCA, c})
				}
			}
		}
	}
	for _, smooth := range smooths {
		for _, pattern := range []int{3, 10} {
			out = append(out, Candidate{zoo.Forecast, zoo.Config{Pattern: pattern, Smooth: smooth}})
		}
	}
	for _, pattern := range []int{12, 24, 48} {
		out = append(out, Candidate{zoo.ConvAE, zoo.Config{Pattern: pattern, Smooth: 1}})
	}
	return out
}

// Faults are those of models/evaluate that last, at half, once and twice their strength. A spike is over before
// a row can be called faulty.
func Faults() []evaluate.Fault {
	var out []evaluate.Fault
	for _, f := range evaluate.DefaultFaults() {
		if f.Kind == evaluate.Spike {
			continue
		}
		for _, times := range []float64{0.5, 1, 2} {
			out = append(out, evaluate.Fault{Kind: f.Kind, Magnitude: f.Magnitude * times})
		}
	}
	return out
}

// every is how many rows lie between two that are judged.
const every = 4

// Choose tries every candidate on every piece of d's recordings, which show normal operation.
func Choose(ctx context.Context, d zoo.Dataset, o Options) (Result, error) {
	if err := d.Validate(); err != nil {
		return Result{}, err
	}
	if o.TrainRows < 1 {
		return Result{}, errors.New("say how many rows of a piece are learned from")
	}
	if o.PieceRows == 0 {
		o.PieceRows = 3 * o.TrainRows
	}
	if o.PieceRows < o.TrainRows+4*every {
		return Result{}, fmt.Errorf("pieces of %d rows leave too little behind the %d to learn from: want %d or more", o.PieceRows, o.TrainRows, o.TrainRows+4*every)
	}
	o = o.withDefaults()
	ps := pieces(d, o)
	if len(ps) == 0 {
		return Result{}, fmt.Errorf("no recording has %d rows: give longer ones, or fewer rows to learn from", o.PieceRows)
	}
	outs, err := compete(ctx, o, len(ps), func(ctx context.Context, i int, c Candidate) (counts, error) { return judge(ctx, d, ps[i], c, o) })
	if err != nil {
		return Result{}, err
	}
	r := Result{Pieces: len(ps)}
	r.Best, r.Failed, err = o.best(outs, -1)
	return r, err
}

// worth is what o aims at.
func (o Options) worth(t Trial) float64 {
	if o.Aim == F1 {
		return t.F1
	}
	return t.Youden()
}

func (o Options) withDefaults() Options {
	if o.Candidates == nil {
		o.Candidates = Grid()
	}
	if o.Margins == nil {
		o.Margins = Margins()
	}
	if o.MaxGap == 0 {
		o.MaxGap = 3
	}
	return o
}

// piece is a part of a recording, with copies of it that have a fault each.
type piece struct {
	clean  zoo.Series
	faulty []zoo.Series
	// Rows from which on the fault lasts, and from which on it is over.
	from, to int
}

// pieces cuts the recordings. A fault lasts the middle half of what is judged.
func pieces(d zoo.Dataset, o Options) []piece {
	rng := rand.New(rand.NewPCG(o.Seed, 0x7c0e))
	faults := Faults()
	var out []piece
	for _, s := range d.Series {
		for at := 0; at+o.PieceRows <= s.Rows(); at += o.PieceRows / 2 {
			judged := o.PieceRows - o.TrainRows
			p := piece{clean: part(s, at, at+o.PieceRows), from: o.TrainRows + judged/4, to: o.TrainRows + judged*3/4}
			for ch := range d.Channels {
				mean, deviation := moments(p.clean.Values[ch][:o.TrainRows])
				// Strengths take turns over pieces and channels.
				for f := (len(out) + ch) % 3; f < len(faults); f += 3 {
					c := p.clean
					c.Values = slices.Clone(c.Values)
					c.Values[ch] = slices.Clone(c.Values[ch])
					if err := faults[f].Apply(c.Values[ch][p.from:p.to], mean, deviation, rng); err != nil {
						panic(err) // of our own list
					}
					p.faulty = append(p.faulty, c)
				}
			}
			out = append(out, p)
		}
	}
	return out
}

// part is rows from to to of s.
func part(s zoo.Series, from, to int) zoo.Series {
	out := zoo.Series{Device: s.Device}
	if s.Times != nil {
		out.Times = s.Times[from:to]
	}
	for _, v := range s.Values {
		out.Values = append(out.Values, v[from:to])
	}
	return out
}

// moments are the mean of values and their standard deviation, or a hundredth of the mean where they never move.
func moments(values []float32) (mean, deviation float64) {
	for _, v := range values {
		mean += float64(v) / float64(len(values))
	}
	for _, v := range values {
		deviation += (float64(v) - mean) * (float64(v) - mean) / float64(len(values))
	}
	if deviation = math.Sqrt(deviation); deviation == 0 {
		deviation = max(math.Abs(mean)/100, 1e-6)
	}
	return mean, deviation
}

// counts are rows by what a configuration said of them, for each margin.
type counts struct {
	normal, faulty  int
	alarmed, missed []int
}

func (c *counts) add(more counts) {
	c.normal, c.faulty = c.normal+more.normal, c.faulty+more.faulty
	for i := range c.alarmed {
		c.alarmed[i] += more.alarmed[i]
		c.missed[i] += more.missed[i]
	}
}

// outcome is what the fits of one candidate said, piece by piece.
type outcome struct {
	counts []counts
	err    error // the candidate could not be fitted
}

// compete has every candidate judge n pieces.
func compete(ctx context.Context, o Options, n int, judge func(ctx context.Context, piece int, c Candidate) (counts, error)) ([]outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		done int
		out  = make([]outcome, len(o.Candidates))
		next = make(chan int)
	)
	for range min(runtime.GOMAXPROCS(0), len(o.Candidates)) {
		wait.Go(func() {
			for i := range next {
				for piece := 0; piece < n && out[i].err == nil; piece++ {
					var c counts
					c, out[i].err = judge(ctx, piece, o.Candidates[i])
					out[i].counts = append(out[i].counts, c)
				}
				mu.Lock()
				done++
				if t, err := o.trial(i, out[i], -1); o.Tried != nil && err == nil {
					o.Tried(t, done, len(o.Candidates))
				}
				mu.Unlock()
			}
		})
	}
	for i := range o.Candidates {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wait.Wait()
	return out, ctx.Err()
}

// best are the best trials of each kind, the best of all first, without those
// of one piece (none of them when without is negative), and why the first
// candidate of a kind did not count.
func (o Options) best(outs []outcome, without int) (best []Trial, failed map[string]string, err error) {
	failed = map[string]string{}
	for i, c := range o.Candidates {
		t, err := o.trial(i, outs[i], without)
		if err != nil {
			if failed[c.Kind] == "" {
				failed[c.Kind] = err.Error()
			}
			continue
		}
		// The first of equals, so that the choice does not depend on who was done first.
		if j := slices.IndexFunc(best, func(b Trial) bool { return b.Kind == t.Kind }); j < 0 {
			best = append(best, t)
		} else if o.worth(t) > o.worth(best[j]) {
			best[j] = t
		}
	}
	slices.SortStableFunc(best, func(a, b Trial) int { return cmp.Compare(o.worth(b), o.worth(a)) })
	if len(best) == 0 {
		c := o.Candidates[0]
		return nil, nil, fmt.Errorf("%s: %s", c.Kind, failed[c.Kind])
	}
	return best, failed, nil
}

// trial is how a candidate did at its best margin, over all pieces but one.
func (o Options) trial(candidate int, out outcome, without int) (Trial, error) {
	if out.err != nil {
		return Trial{}, out.err
	}
	all := counts{alarmed: make([]int, len(o.Margins)), missed: make([]int, len(o.Margins))}
	for i, n := range out.counts {
		if i != without {
			all.add(n)
		}
	}
	c := o.Candidates[candidate]
	best, ok := Trial{}, false
	for m, margin := range o.Margins {
		j := all.at(m)
		t := Trial{Kind: c.Kind, Fit: c.Fit, FalseAlarms: j.FalseAlarms(), Missed: j.MissedShare(), F1: j.F1(), candidate: candidate, margin: m}
		t.Fit.Margin, t.Fit.Seed, t.Fit.MaxGap = margin, o.Seed, o.MaxGap
		if o.MaxFalseAlarms > 0 && t.FalseAlarms > o.MaxFalseAlarms {
			continue
		}
		if !ok || o.worth(t) > o.worth(best) {
			best, ok = t, true
		}
	}
	if !ok {
		return Trial{}, fmt.Errorf("more than %g %% of normal rows flagged at every margin", 100*o.MaxFalseAlarms)
	}
	return best, nil
}

// at is what was counted at the margin with index m.
func (c counts) at(m int) Judged {
	return Judged{Normal: c.normal, Faulty: c.faulty, Alarmed: c.alarmed[m], Missed: c.missed[m]}
}

func share(n, of int) float64 { return float64(n) / float64(max(of, 1)) }

// judge fits c to one piece and counts what it says of the rest, at every margin.
func judge(ctx context.Context, d zoo.Dataset, p piece, c Candidate, o Options) (n counts, err error) {
	j, err := newJury(ctx, d, part(p.clean, 0, o.TrainRows), c, every, o)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, j.close()) }()
	faulty := func(row int) bool { return row >= p.from && row < p.to }
	// What comes before the fault is the same in all copies.
	if err := j.count(ctx, part(p.clean, 0, p.from), o.TrainRows, faulty, len(p.faulty)); err != nil {
		return n, err
	}
	for _, series := range p.faulty {
		if err := j.count(ctx, series, p.from, faulty, 1); err != nil {
			return n, err
		}
	}
	return j.counts, nil
}

// jury is a fitted candidate that judges rows at every margin.
type jury struct {
	counts
	scorer *rt.Session
	o      Options
}

// newJury fits c to train. It judges one row in stride.
func newJury(ctx context.Context, d zoo.Dataset, train zoo.Series, c Candidate, stride int, o Options) (*jury, error) {
	fit := c.Fit
	// With a margin of 1 scores are multiples of the reference, to hold against any margin.
	fit.Margin, fit.Stride, fit.Seed, fit.MaxGap, fit.Library = 1, stride, o.Seed, o.MaxGap, o.Library
	f, err := zoo.Fit(ctx, c.Kind, zoo.Dataset{Channels: d.Channels, SampleRateHz: d.SampleRateHz, Series: []zoo.Series{train}}, fit)
	if err != nil {
		return nil, err
	}
	s, err := rt.Load(f.ONNX, rt.Options{Library: o.Library})
	if err != nil {
		return nil, err
	}
	return &jury{counts: counts{alarmed: make([]int, len(o.Margins)), missed: make([]int, len(o.Margins))}, scorer: s, o: o}, nil
}

func (j *jury) close() error { return j.scorer.Close() }

// count judges the rows of series from one on, each as often as weight says.
func (j *jury) count(ctx context.Context, series zoo.Series, from int, faulty func(row int) bool, weight int) error {
	verdicts, err := evaluate.Score(ctx, j.scorer, series, from, j.o.MaxGap)
	if err != nil {
		return err
	}
	for _, v := range verdicts {
		bad := faulty(v.Row)
		if bad {
			j.faulty += weight
		} else {
			j.normal += weight
		}
		for i, margin := range j.o.Margins {
			// What is not a number alarms.
			switch flag := !(float64(v.Score) <= margin); {
			case bad && !flag:
				j.missed[i] += weight
			case !bad && flag:
				j.alarmed[i] += weight
			}
		}
	}
	return nil
}
