// Package evaluate judges models on data they have not seen: how often they alarm on normal operation, what
// they find of labelled events and of faults put into held-out data, as a whole and slice by slice, and whether
// tonight's data still looks like the data the champion was made of.
//
// The hub's nightly run is the caller; it decides what to do with a Report. Nothing here looks at a clock or
// at anything but its arguments, so that a report can be made again from the snapshot it names. Devices do
// not import this package.
package evaluate

import (
	"context"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/zoo"
)

// Session is a loaded model; *runtime.Session is one.
type Session interface {
	Contract() contract.Contract
	ScoreBatch(windows, scores []float32, flags []bool, channelScores []float32) error
}

// Verdict is what a model says of the window that ends at a row.
type Verdict struct {
	Row   int // index of the window's last row in its series
	Score float32
	Flag  bool
}

// Score runs a model over every window of series whose last row is at or after row from, at the model's
// stride. Windows do not span steps longer than maxGap nominal steps; negative means they may.
func Score(ctx context.Context, s Session, series zoo.Series, from int, maxGap float64) ([]Verdict, error) {
	const chunk = 1024 // windows scored between two looks at ctx
	c := s.Contract()
	if len(series.Values) != len(c.Channels) {
		return nil, fmt.Errorf("score device %s: it has %d channels, the model %d", series.Device, len(series.Values), len(c.Channels))
	}
	var ends []int
	for _, span := range series.Spans(c.SampleRateHz, maxGap) {
		for end := max(span.From+c.Window, from+1); end <= span.To; end += c.Stride {
			ends = append(ends, end)
		}
	}
	var out []Verdict
	var windows []float32
	for part := range slices.Chunk(ends, chunk) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("score device %s: %w", series.Device, err)
		}
		windows = windows[:0]
		for _, end := range part {
			windows = series.AppendWindow(windows, end, c.Window)
		}
		scores, flags := make([]float32, len(part)), make([]bool, len(part))
		if err := s.ScoreBatch(windows, scores, flags, nil); err != nil {
			return nil, fmt.Errorf("score device %s: %w", series.Device, err)
		}
		for i, end := range part {
			out = append(out, Verdict{Row: end - 1, Score: scores[i], Flag: flags[i]})
		}
	}
	return out, nil
}

// Confusion counts verdicts against truth.
type Confusion struct {
	TP int `json:"tp"`
	TN int `json:"tn"`
	FP int `json:"fp"`
	FN int `json:"fn"`
}

// Count adds one verdict.
func (c *Confusion) Count(anomalous, flagged bool) {
	switch {
	case anomalous && flagged:
		c.TP++
	case anomalous:
		c.FN++
	case flagged:
		c.FP++
	default:
		c.TN++
	}
}

// F1 is the harmonic mean of precision and recall; 0 when nothing was there to find or to say.
func (c Confusion) F1() float64 { return ratio(float64(c.TP), float64(c.TP)+float64(c.FP+c.FN)/2) }

// FAR is the share of normal rows that were flagged, in percent.
func (c Confusion) FAR() float64 { return 100 * ratio(float64(c.FP), float64(c.FP+c.TN)) }

// MAR is the share of anomalous rows that were missed, in percent.
func (c Confusion) MAR() float64 { return 100 * ratio(float64(c.FN), float64(c.FN+c.TP)) }

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
