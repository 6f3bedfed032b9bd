package backtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/tune"
	"github.com/swellfleet/swell/models/zoo"
)

// TuneOptions say which recordings of normal operation to choose by. The
// fields of Options that Tune reads are those that say which files and columns
// to take, Kinds, Fit.MaxGap and Progress.
type TuneOptions struct {
	Options
	Rows           int // first rows of each file that show normal operation; 0: all
	PieceRows      int // 0: three times TrainRows
	MaxFalseAlarms float64
	Seed           uint64
}

// Choice is a configuration and how it did on recordings with simulated faults.
type Choice struct {
	Kinds       []string       `json:"kinds"`
	Fit         map[string]any `json:"fit"` // as in a retrain policy; what is not there stays at its default
	FalseAlarms float64        `json:"false_alarms"`
	Missed      float64        `json:"missed"`
	Pieces      int            `json:"pieces"`
	Seconds     float64        `json:"seconds"`
}

// Tune chooses a kind of detector and its settings by recordings of normal
// operation alone; see models/tune. It prints the best of each kind.
func Tune(ctx context.Context, o TuneOptions, out io.Writer) (Choice, error) {
	began := time.Now()
	if o.TrainRows < 1 {
		return Choice{}, errors.New("--train-rows: say how many rows a device has to learn from before it judges")
	}
	if !(o.MaxFalseAlarms >= 0 && o.MaxFalseAlarms < 1) {
		return Choice{}, fmt.Errorf("--max-false-alarms is %g: want a share of normal rows, below 1", o.MaxFalseAlarms)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	o.ModelPer = "all"
	recs, left, err := recordings(o.Options)
	if err != nil {
		return Choice{}, err
	}
	if err := excluded(recs, o.Exclude); err != nil {
		return Choice{}, err
	}
	for i := range recs {
		if recs[i].train = recs[i].rows; o.Rows > 0 {
			recs[i].train = min(recs[i].rows, o.Rows)
		}
	}
	for _, line := range told(recs, left, o.Options) {
		fmt.Fprintln(o.Progress, line)
	}
	d, err := o.read(ctx, recs)
	if err != nil {
		return Choice{}, err
	}
	candidates, err := ofKinds(o.Kinds)
	if err != nil {
		return Choice{}, err
	}
	told, best := time.Now(), 0.0
	res, err := tune.Choose(ctx, d, tune.Options{
		TrainRows: o.TrainRows, PieceRows: o.PieceRows, Candidates: candidates, MaxFalseAlarms: o.MaxFalseAlarms, MaxGap: o.Fit.MaxGap, Seed: o.Seed,
		Tried: func(t tune.Trial, done, of int) {
			if best = max(best, t.Youden()); done == of || time.Since(told) > 10*time.Second {
				told = time.Now()
				fmt.Fprintf(o.Progress, "%6.1fs  %d of %d tried, best index %.3f\n", time.Since(began).Seconds(), done, of, best)
			}
		},
	})
	if err != nil {
		return Choice{}, err
	}
	if err := printTrials(out, res); err != nil {
		return Choice{}, err
	}
	t := res.Best[0]
	fit, err := given(t.Fit)
	return Choice{Kinds: []string{t.Kind}, Fit: fit, FalseAlarms: t.FalseAlarms, Missed: t.Missed, Pieces: res.Pieces, Seconds: time.Since(began).Seconds()}, err
}

// ofKinds are the candidates of these kinds, or all.
func ofKinds(kinds []string) ([]tune.Candidate, error) {
	all := tune.Grid()
	if len(kinds) == 0 {
		return all, nil
	}
	var out []tune.Candidate
	var known []string
	left := slices.Clone(kinds)
	for _, c := range all {
		if slices.Contains(kinds, c.Kind) {
			out = append(out, c)
			left = slices.DeleteFunc(left, func(k string) bool { return k == c.Kind })
		}
		if !slices.Contains(known, c.Kind) {
			known = append(known, c.Kind)
		}
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("--kinds %s: there are no settings to choose from; there are for %s", strings.Join(left, ","), strings.Join(known, ", "))
	}
	return out, nil
}

// Print writes the choice as a line of JSON.
func (c Choice) Print(w io.Writer) error { return json.NewEncoder(w).Encode(c) }

func printTrials(out io.Writer, res tune.Result) error {
	fmt.Fprintf(out, "best of each kind over %d pieces, on simulated faults\n", res.Pieces)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tINDEX\tNORMAL ROWS FLAGGED\tFAULTY ROWS MISSED\tSETTINGS")
	for _, t := range res.Best {
		fit, err := given(t.Fit)
		if err != nil {
			return err
		}
		text, err := json.Marshal(fit)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.3f\t%.1f %%\t%.1f %%\t%s\n", t.Kind, t.Youden(), 100*t.FalseAlarms, 100*t.Missed, text)
	}
	for kind, why := range res.Failed {
		if !slices.ContainsFunc(res.Best, func(t tune.Trial) bool { return t.Kind == kind }) {
			fmt.Fprintf(w, "%s\t-\t-\t-\t%s\n", kind, why)
		}
	}
	return w.Flush()
}

// given are the settings of c that are not at their default.
func given(c zoo.Config) (map[string]any, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var fit map[string]any
	if err := json.Unmarshal(text, &fit); err != nil {
		return nil, err
	}
	for name, v := range fit {
		if v == 0.0 || v == false || v == nil {
			delete(fit, name)
		}
	}
	return fit, nil
}

// read takes the first train rows of every recording. Rows in which a channel
// has no number are left out and told.
func (o TuneOptions) read(ctx context.Context, recs []recording) (zoo.Dataset, error) {
	var d zoo.Dataset
	for _, r := range recs {
		src := replay.New(replay.Config{Path: r.path, TimeColumn: o.TimeColumn, SampleRateHz: o.SampleRateHz, Channels: r.channels, Rate: -1, KeepTimes: true})
		s, gone, err := rowsOf(ctx, src, r)
		if err != nil {
			return d, fmt.Errorf("%s: %w", r.name, err)
		}
		if gone > 0 {
			fmt.Fprintf(o.Progress, "%d rows of %s are left out: a channel has no number there\n", gone, r.name)
		}
		if d.Channels == nil {
			d.SampleRateHz = src.RateHz()
			for _, c := range src.Channels() {
				d.Channels = append(d.Channels, contract.Channel{Name: c.Name, Unit: c.Unit})
			}
		}
		if !slices.EqualFunc(d.Channels, src.Channels(), func(a contract.Channel, b source.Channel) bool { return a.Name == b.Name }) {
			return d, fmt.Errorf("%s has other columns than %s: name those of one type of machine in --files or --channels", r.name, recs[0].name)
		}
		d.Series = append(d.Series, s)
	}
	return d, nil
}

func rowsOf(ctx context.Context, src *replay.Source, r recording) (s zoo.Series, gone int, err error) {
	if err := src.Open(ctx); err != nil {
		return s, 0, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	s = zoo.Series{Device: r.name, Values: make([][]float32, len(src.Channels()))}
	for n := 0; n < r.train; {
		rows, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return s, gone, err
		}
		for i := range min(rows.Len(), r.train-n) {
			if slices.ContainsFunc(rows.Values, func(v []float32) bool { return math.IsNaN(float64(v[i])) || math.IsInf(float64(v[i]), 0) }) {
				gone++
				continue
			}
			s.Times = append(s.Times, rows.Times[i])
			for ch, v := range rows.Values {
				s.Values[ch] = append(s.Values[ch], v[i])
			}
		}
		n += rows.Len()
	}
	return s, gone, nil
}
