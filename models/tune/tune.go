// Package tune chooses one kind of detector and one configuration for machines of a type from recordings of
// their normal operation. It needs no labels.
//
// Recordings are cut into pieces. Every candidate is fitted to the first rows of a piece and judges the rest of
// it: as it is, which shows how often normal operation that wanders is flagged, and with faults put into one
// channel at a time. The candidate with the largest Youden index wins: found share of faulty rows less flagged
// share of normal ones (W. J. Youden, Index for rating diagnostic tests, Cancer 3, 1950). Faults that every
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
}

// Youden is the trial's index: 1 for a perfect detector, 0 for one that guesses.
func (t Trial) Youden() float64 { return 1 - t.FalseAlarms - t.Missed }

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
	if o.Candidates == nil {
		o.Candidates = Grid()
	}
	if o.Margins == nil {
		o.Margins = Margins()
	}
	if o.MaxGap == 0 {
		o.MaxGap = 3
	}
	ps := pieces(d, o)
	if len(ps) == 0 {
		return Result{}, fmt.Errorf("no recording has %d rows: give longer ones, or fewer rows to learn from", o.PieceRows)
	}
	return choose(ctx, d, ps, o)
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

func choose(ctx context.Context, d zoo.Dataset, ps []piece, o Options) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		fatal error
		done  int
		res   = Result{Pieces: len(ps), Failed: map[string]string{}}
		found = make([]*Trial, len(o.Candidates))
		next  = make(chan int)
	)
	for range min(runtime.GOMAXPROCS(0), len(o.Candidates)) {
		wait.Go(func() {
			for i := range next {
				t, err := try(ctx, d, ps, o.Candidates[i], o)
				mu.Lock()
				done++
				switch kind := o.Candidates[i].Kind; {
				case ctx.Err() != nil:
					fatal = ctx.Err()
				case err == nil:
					found[i] = &t
				case res.Failed[kind] == "":
					res.Failed[kind] = err.Error()
				}
				if o.Tried != nil && err == nil {
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
	if err := errors.Join(ctx.Err(), fatal); err != nil {
		return Result{}, err
	}
	for _, t := range found {
		if t == nil {
			continue
		}
		// The first of equals, so that the choice does not depend on who was done first.
		if i := slices.IndexFunc(res.Best, func(b Trial) bool { return b.Kind == t.Kind }); i < 0 {
			res.Best = append(res.Best, *t)
		} else if t.Youden() > res.Best[i].Youden() {
			res.Best[i] = *t
		}
	}
	slices.SortStableFunc(res.Best, func(a, b Trial) int { return cmp.Compare(b.Youden(), a.Youden()) })
	if len(res.Best) == 0 {
		for kind, why := range res.Failed {
			return Result{}, fmt.Errorf("%s: %s", kind, why)
		}
	}
	return res, nil
}

// try fits c to every piece and returns its trial at the best margin.
func try(ctx context.Context, d zoo.Dataset, ps []piece, c Candidate, o Options) (Trial, error) {
	all := counts{alarmed: make([]int, len(o.Margins)), missed: make([]int, len(o.Margins))}
	for _, p := range ps {
		n, err := judge(ctx, d, p, c, o)
		if err != nil {
			return Trial{}, err
		}
		all.add(n)
	}
	best, ok := Trial{}, false
	for i, margin := range o.Margins {
		t := Trial{Kind: c.Kind, Fit: c.Fit, FalseAlarms: share(all.alarmed[i], all.normal), Missed: share(all.missed[i], all.faulty)}
		t.Fit.Margin, t.Fit.Seed, t.Fit.MaxGap = margin, o.Seed, o.MaxGap
		if o.MaxFalseAlarms > 0 && t.FalseAlarms > o.MaxFalseAlarms {
			continue
		}
		if !ok || t.Youden() > best.Youden() {
			best, ok = t, true
		}
	}
	if !ok {
		return Trial{}, fmt.Errorf("more than %g %% of normal rows flagged at every margin", 100*o.MaxFalseAlarms)
	}
	return best, nil
}

func share(n, of int) float64 { return float64(n) / float64(max(of, 1)) }

// judge fits c to one piece and counts what it says of the rest, at every margin.
func judge(ctx context.Context, d zoo.Dataset, p piece, c Candidate, o Options) (n counts, err error) {
	n = counts{alarmed: make([]int, len(o.Margins)), missed: make([]int, len(o.Margins))}
	fit := c.Fit
	// With a margin of 1 scores are multiples of the reference, to hold against any margin.
	fit.Margin, fit.Stride, fit.Seed, fit.MaxGap, fit.Library = 1, every, o.Seed, o.MaxGap, o.Library
	f, err := zoo.Fit(ctx, c.Kind, zoo.Dataset{Channels: d.Channels, SampleRateHz: d.SampleRateHz, Series: []zoo.Series{part(p.clean, 0, o.TrainRows)}}, fit)
	if err != nil {
		return n, err
	}
	s, err := rt.Load(f.ONNX, rt.Options{Library: o.Library})
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	count := func(series zoo.Series, from, to int, weight int) error {
		verdicts, err := evaluate.Score(ctx, s, part(series, 0, to), from, o.MaxGap)
		if err != nil {
			return err
		}
		for _, v := range verdicts {
			faulty := v.Row >= p.from && v.Row < p.to
			if faulty {
				n.faulty += weight
			} else {
				n.normal += weight
			}
			for i, margin := range o.Margins {
				// What is not a number alarms.
				switch flag := !(float64(v.Score) <= margin); {
				case faulty && !flag:
					n.missed[i] += weight
				case !faulty && flag:
					n.alarmed[i] += weight
				}
			}
		}
		return nil
	}
	// What comes before the fault is the same in all copies.
	if err := count(p.clean, o.TrainRows, p.from, len(p.faulty)); err != nil {
		return n, err
	}
	for _, series := range p.faulty {
		if err := count(series, p.from, series.Rows(), 1); err != nil {
			return n, err
		}
	}
	return n, nil
}
