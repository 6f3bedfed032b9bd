package backtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	Aim            string // index or f1; empty: index
	ByLabels       bool   // choose by the label columns of the files, not by simulated faults
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
	// HeldOut says what to expect on a recording that had no say in the choice; nil without labels.
	HeldOut *HeldOut `json:"held_out,omitempty"`
}

// HeldOut is how choices by the labels of all other recordings did on each.
type HeldOut struct {
	F1          float64 `json:"f1"`
	FalseAlarms float64 `json:"false_alarms"`
	Missed      float64 `json:"missed"`
	Choices     []Held  `json:"choices"` // those that differ
}

// Held is a choice and the recordings that had no say in it.
type Held struct {
	Recordings []string       `json:"recordings"`
	Kinds      []string       `json:"kinds"`
	Fit        map[string]any `json:"fit"`
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
	if a := tune.Aim(o.Aim); a != "" && a != tune.Index && a != tune.F1 {
		return Choice{}, fmt.Errorf("--aim %q: want index or f1", o.Aim)
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
		if o.Rows > 0 {
			recs[i].rows = min(recs[i].rows, o.Rows)
		}
		recs[i].train = recs[i].rows
		if !o.ByLabels {
			continue
		}
		recs[i].train = o.TrainRows
		if recs[i].labels == nil {
			return Choice{}, fmt.Errorf("--by-labels: %s has no column of labels: call it anomaly or label, with 0 or normal in rows of normal operation, or leave the file out with --files", recs[i].name)
		}
	}
	for _, line := range told(recs, left, o.Options) {
		fmt.Fprintln(o.Progress, line)
	}
	d, labels, err := o.read(ctx, recs)
	if err != nil {
		return Choice{}, err
	}
	candidates, err := ofKinds(o.Kinds)
	if err != nil {
		return Choice{}, err
	}
	told, best := time.Now(), 0.0
	opts := tune.Options{
		TrainRows: o.TrainRows, PieceRows: o.PieceRows, Candidates: candidates, MaxFalseAlarms: o.MaxFalseAlarms, Aim: tune.Aim(o.Aim), MaxGap: o.Fit.MaxGap, Seed: o.Seed,
		Tried: func(t tune.Trial, done, of int) {
			if best = max(best, t.Youden()); done == of || time.Since(told) > 10*time.Second {
				told = time.Now()
				fmt.Fprintf(o.Progress, "%6.1fs  %d of %d tried, best index %.3f\n", time.Since(began).Seconds(), done, of, best)
			}
		},
	}
	var c Choice
	if o.ByLabels {
		c, err = byLabels(ctx, d, labels, opts, out)
	} else {
		c, err = byFaults(ctx, d, opts, out)
	}
	c.Seconds = time.Since(began).Seconds()
	return c, err
}

func byFaults(ctx context.Context, d zoo.Dataset, o tune.Options, out io.Writer) (Choice, error) {
	res, err := tune.Choose(ctx, d, o)
	if err != nil {
		return Choice{}, err
	}
	if err := printTrials(out, fmt.Sprintf("best of each kind over %d pieces, on simulated faults", res.Pieces), res.Best, res.Failed); err != nil {
		return Choice{}, err
	}
	t := res.Best[0]
	fit, err := given(t.Fit)
	return Choice{Kinds: []string{t.Kind}, Fit: fit, FalseAlarms: t.FalseAlarms, Missed: t.Missed, Pieces: res.Pieces}, err
}

func byLabels(ctx context.Context, d zoo.Dataset, labels [][]bool, o tune.Options, out io.Writer) (Choice, error) {
	res, err := tune.ChooseByLabels(ctx, d, labels, o)
	if err != nil {
		return Choice{}, err
	}
	if err := printTrials(out, fmt.Sprintf("best of each kind by the labels of all %d recordings", len(res.Folds)), res.Best, res.Failed); err != nil {
		return Choice{}, err
	}
	if err := printThresholds(out, res); err != nil {
		return Choice{}, err
	}
	j := res.HeldOut()
	c := Choice{Kinds: []string{res.Best[0].Kind}, FalseAlarms: res.Best[0].FalseAlarms, Missed: res.Best[0].Missed, Pieces: len(res.Folds),
		HeldOut: &HeldOut{F1: j.F1(), FalseAlarms: j.FalseAlarms(), Missed: j.MissedShare()}}
	if c.Fit, err = given(res.Best[0].Fit); err != nil {
		return Choice{}, err
	}
	var chosen []tune.Trial
	for _, f := range res.Folds {
		i := slices.IndexFunc(chosen, f.Chosen.Same)
		if i < 0 {
			fit, err := given(f.Chosen.Fit)
			if err != nil {
				return Choice{}, err
			}
			i, chosen = len(chosen), append(chosen, f.Chosen)
			c.HeldOut.Choices = append(c.HeldOut.Choices, Held{Kinds: []string{f.Chosen.Kind}, Fit: fit})
		}
		h := &c.HeldOut.Choices[i]
		h.Recordings = append(h.Recordings, f.Recording)
	}
	fmt.Fprintln(out, "choices by the labels of all recordings but one")
	for _, h := range c.HeldOut.Choices {
		text, err := json.Marshal(h.Fit)
		if err != nil {
			return Choice{}, err
		}
		without := "without " + strings.Join(h.Recordings, ", or ")
		if n := len(h.Recordings); n > 3 {
			without = fmt.Sprintf("without one of %d, as %s", n, h.Recordings[0])
		}
		fmt.Fprintf(out, "%s %s %s\n", h.Kinds[0], text, without)
	}
	_, err = fmt.Fprintf(out, "expect of such a choice, on a recording it has not seen: F1 %.3f, %.1f %% of normal rows flagged, %.1f %% of faulty rows missed\n",
		c.HeldOut.F1, 100*c.HeldOut.FalseAlarms, 100*c.HeldOut.Missed)
	return c, err
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

func printTrials(out io.Writer, title string, best []tune.Trial, failed map[string]string) error {
	fmt.Fprintln(out, title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tINDEX\tF1\tNORMAL ROWS FLAGGED\tFAULTY ROWS MISSED\tSETTINGS")
	for _, t := range best {
		fit, err := given(t.Fit)
		if err != nil {
			return err
		}
		text, err := json.Marshal(fit)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.3f\t%.3f\t%.1f %%\t%.1f %%\t%s\n", t.Kind, t.Youden(), t.F1, 100*t.FalseAlarms, 100*t.Missed, text)
	}
	for _, kind := range slices.Sorted(maps.Keys(failed)) {
		if !slices.ContainsFunc(best, func(t tune.Trial) bool { return t.Kind == kind }) {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t%s\n", kind, failed[kind])
		}
	}
	return w.Flush()
}

// printThresholds shows what of the best could be had for what.
func printThresholds(out io.Writer, res tune.Labelled) error {
	fmt.Fprintf(out, "%s at other thresholds\n", res.Best[0].Kind)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MARGIN\tF1\tNORMAL ROWS FLAGGED\tFAULTY ROWS MISSED")
	for _, t := range res.Thresholds {
		fmt.Fprintf(w, "%g\t%.3f\t%.1f %%\t%.1f %%\n", t.Margin, t.F1(), 100*t.FalseAlarms(), 100*t.MissedShare())
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

// read takes the rows of every recording, with their labels. Rows
// in which a channel has no number are left out and told.
func (o TuneOptions) read(ctx context.Context, recs []recording) (d zoo.Dataset, labels [][]bool, err error) {
	for _, r := range recs {
		src := replay.New(replay.Config{Path: r.path, TimeColumn: o.TimeColumn, SampleRateHz: o.SampleRateHz, Channels: r.channels, Rate: -1, KeepTimes: true})
		s, kept, gone, err := rowsOf(ctx, src, r)
		if err != nil {
			return d, nil, fmt.Errorf("%s: %w", r.name, err)
		}
		if gone > 0 {
			fmt.Fprintf(o.Progress, "rows of %s in which a channel has no number are left out: %d\n", r.name, gone)
		}
		if d.Channels == nil {
			d.SampleRateHz = src.RateHz()
			for _, c := range src.Channels() {
				d.Channels = append(d.Channels, contract.Channel{Name: c.Name, Unit: c.Unit})
			}
		}
		if !slices.EqualFunc(d.Channels, src.Channels(), func(a contract.Channel, b source.Channel) bool { return a.Name == b.Name }) {
			return d, nil, fmt.Errorf("%s has other columns than %s: name those of one type of machine in --files or --channels", r.name, recs[0].name)
		}
		d.Series, labels = append(d.Series, s), append(labels, kept)
	}
	return d, labels, nil
}

// rowsOf reads the rows of r and the labels of those that it
// keeps, and counts the others.
func rowsOf(ctx context.Context, src *replay.Source, r recording) (s zoo.Series, labels []bool, gone int, err error) {
	if err := src.Open(ctx); err != nil {
		return s, nil, 0, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	s = zoo.Series{Device: r.name, Values: make([][]float32, len(src.Channels()))}
	for n := 0; n < r.rows; {
		rows, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return s, nil, gone, err
		}
		for i := range min(rows.Len(), r.rows-n) {
			if slices.ContainsFunc(rows.Values, func(v []float32) bool { return math.IsNaN(float64(v[i])) || math.IsInf(float64(v[i]), 0) }) {
				gone++
				continue
			}
			s.Times = append(s.Times, rows.Times[i])
			for ch, v := range rows.Values {
				s.Values[ch] = append(s.Values[ch], v[i])
			}
			labels = append(labels, n+i < len(r.labels) && r.labels[n+i])
		}
		n += rows.Len()
	}
	return s, labels, gone, nil
}
