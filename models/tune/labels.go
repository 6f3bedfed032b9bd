package tune

import (
	"context"
	"errors"
	"fmt"

	"github.com/swellfleet/swell/models/zoo"
)

// Judged is how often verdicts and labels agree.
type Judged struct {
	Normal  int `json:"normal"`  // rows that are labelled so
	Faulty  int `json:"faulty"`  // the other rows
	Alarmed int `json:"alarmed"` // normal rows that were flagged
	Missed  int `json:"missed"`  // faulty rows that were not
}

// FalseAlarms is the share of normal rows that were flagged.
func (j Judged) FalseAlarms() float64 { return share(j.Alarmed, j.Normal) }

// MissedShare is the share of faulty rows that were not flagged.
func (j Judged) MissedShare() float64 { return share(j.Missed, j.Faulty) }

// F1 is the harmonic mean of precision and recall over rows.
func (j Judged) F1() float64 {
	found := j.Faulty - j.Missed
	return share(2*found, 2*found+j.Alarmed+j.Missed)
}

func (j *Judged) add(more Judged) {
	j.Normal, j.Faulty = j.Normal+more.Normal, j.Faulty+more.Faulty
	j.Alarmed, j.Missed = j.Alarmed+more.Alarmed, j.Missed+more.Missed
}

// Fold is a choice that one recording had no say in, and how it did there.
type Fold struct {
	Recording string `json:"recording"`
	Chosen    Trial  `json:"chosen"` // its shares are those on the other recordings
	Judged
}

// Threshold is a margin and what it comes to.
type Threshold struct {
	Margin float64
	Judged
}

// Labelled is a choice by labels.
type Labelled struct {
	// Best of every kind on all recordings, the best first. Its shares flatter it: it was chosen by them.
	Best []Trial
	// Failed says why the first of a kind's candidates did not count, by kind.
	Failed map[string]string
	// Thresholds say what the best of all comes to at each of Options.Margins, on all recordings.
	Thresholds []Threshold
	// Folds, one for each recording, say what to expect of such a choice on a recording it has not seen.
	Folds []Fold
}

// HeldOut sums the folds.
func (l Labelled) HeldOut() Judged {
	var out Judged
	for _, f := range l.Folds {
		out.add(f.Judged)
	}
	return out
}

// ChooseByLabels chooses by recordings in which people labelled what was wrong: labels hold true for such rows, as many
// as each recording has. A candidate is fitted to the first TrainRows rows of every recording, whatever their labels, and
// judges all that follow. Each recording is held out once: what the labels of the others choose judges it.
func ChooseByLabels(ctx context.Context, d zoo.Dataset, labels [][]bool, o Options) (Labelled, error) {
	if err := d.Validate(); err != nil {
		return Labelled{}, err
	}
	switch {
	case o.TrainRows < 1:
		return Labelled{}, errors.New("say how many rows of a recording are learned from")
	case len(labels) != len(d.Series):
		return Labelled{}, fmt.Errorf("there are labels for %d recordings of %d", len(labels), len(d.Series))
	case len(d.Series) < 2:
		return Labelled{}, errors.New("one recording leaves none to judge the choice by: give two or more with labels")
	}
	var all Judged
	for i, s := range d.Series {
		if len(labels[i]) != s.Rows() {
			return Labelled{}, fmt.Errorf("recording %s has %d labels for %d rows", s.Device, len(labels[i]), s.Rows())
		}
		if s.Rows() <= o.TrainRows {
			return Labelled{}, fmt.Errorf("recording %s has %d rows: nothing is left to judge behind the %d to learn from", s.Device, s.Rows(), o.TrainRows)
		}
		for _, bad := range labels[i][o.TrainRows:] {
			if bad {
				all.Faulty++
			} else {
				all.Normal++
			}
		}
	}
	if all.Faulty == 0 || all.Normal == 0 {
		return Labelled{}, fmt.Errorf("behind the rows to learn from %d are labelled as faulty and %d as normal: want some of both", all.Faulty, all.Normal)
	}
	o = o.withDefaults()
	outs, err := compete(ctx, o, len(d.Series), func(ctx context.Context, i int, c Candidate) (n counts, err error) {
		j, err := newJury(ctx, d, part(d.Series[i], 0, o.TrainRows), c, 1, o)
		if err != nil {
			return n, err
		}
		defer func() { err = errors.Join(err, j.close()) }()
		err = j.count(ctx, d.Series[i], o.TrainRows, func(row int) bool { return labels[i][row] }, 1)
		return j.counts, err
	})
	if err != nil {
		return Labelled{}, err
	}
	var out Labelled
	if out.Best, out.Failed, err = o.best(outs, -1); err != nil {
		return Labelled{}, err
	}
	for m, margin := range o.Margins {
		th, t := Threshold{Margin: margin}, out.Best[0]
		t.margin = m
		for i := range d.Series {
			th.add(t.on(outs, i))
		}
		out.Thresholds = append(out.Thresholds, th)
	}
	for i, s := range d.Series {
		best, _, err := o.best(outs, i)
		if err != nil {
			return Labelled{}, fmt.Errorf("without %s: %w", s.Device, err)
		}
		out.Folds = append(out.Folds, Fold{Recording: s.Device, Chosen: best[0], Judged: best[0].on(outs, i)})
	}
	return out, nil
}

// on is what the trial's configuration said of one recording.
func (t Trial) on(outs []outcome, recording int) Judged {
	return outs[t.candidate].counts[recording].at(t.margin)
}
