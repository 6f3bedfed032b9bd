package evaluate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/swellfleet/swell/models/zoo"
)

// Config says how to back-test. The zero value works.
type Config struct {
	// MaxGap is the largest step within a window, in nominal steps; default 3, negative means any.
	MaxGap float64
	// Slices names the slices (a line, a site, a firmware version) that each device belongs to; a device
	// without one counts to the whole only.
	Slices map[string][]string
	// Labels holds one value per row of a device's series: true where people say something was wrong. A
	// device without labels counts as normal throughout.
	Labels map[string][]bool
	// Faults to inject; nil means DefaultFaults, empty means none.
	Faults []Fault
	// Injections is at how many places each fault is put, per channel; default 10.
	Injections int
	// Seed of the injected noise.
	Seed uint64
}

// Report is the outcome of a back-test of one model on one dataset.
type Report struct {
	Overall Slice            `json:"overall"`
	Slices  map[string]Slice `json:"slices,omitempty"`
	Faults  []FaultReport    `json:"faults,omitempty"`
	// Verdicts are those of each device, to be set beside another model's on the same rows.
	Verdicts map[string][]Verdict `json:"-"`
}

// Slice is how a model did on some of the devices.
type Slice struct {
	Devices int `json:"devices"`
	// Windows that were scored, and those of them that were flagged where labels say normal.
	Windows     int `json:"windows"`
	FalseAlarms int `json:"falseAlarms"`
	// Episodes are runs of false alarms without a normal verdict between them.
	Episodes int `json:"episodes"`
	// FalseAlarmsPerDay and EpisodesPerDay are per device and day at the contract's rate and stride; zero
	// when the contract names no rate.
	FalseAlarmsPerDay float64 `json:"falseAlarmsPerDay"`
	EpisodesPerDay    float64 `json:"episodesPerDay"`
	// Days is how much normal operation was judged, over all devices; zero when the contract names no rate.
	Days float64 `json:"days"`
	// ScoreP50, ScoreP99 and ScoreMax describe the scores where labels say normal.
	ScoreP50 float64 `json:"scoreP50"`
	ScoreP99 float64 `json:"scoreP99"`
	ScoreMax float64 `json:"scoreMax"`
	// Labelled compares verdicts with labels; nil when no device of the slice has any.
	Labelled *Labelled `json:"labelled,omitempty"`

	// Normal is how many of Windows there were where labels say normal.
	Normal int `json:"normal"`

	scores []float32 // where labels say normal
}

// Labelled is how verdicts agree with labels, over the labelled devices.
type Labelled struct {
	Confusion
	F1  float64 `json:"f1"`
	FAR float64 `json:"farPercent"`
	MAR float64 `json:"marPercent"`
}

// Backtest runs a model over every series of d, which it must not have been fitted on, and then over copies
// of its normal parts with faults put in. It fails when d does not fit the model or ctx ends.
func Backtest(ctx context.Context, s Session, d zoo.Dataset, c Config) (Report, error) {
	r, err := backtest(ctx, s, d, c)
	if err != nil {
		return Report{}, fmt.Errorf("back-test %s model: %w", s.Contract().Kind, err)
	}
	return r, nil
}

func backtest(ctx context.Context, s Session, d zoo.Dataset, c Config) (Report, error) {
	if err := d.Validate(); err != nil {
		return Report{}, err
	}
	if !slices.Equal(d.Channels, s.Contract().Channels) {
		return Report{}, fmt.Errorf("the data has channels %v, the model reads %v", d.Channels, s.Contract().Channels)
	}
	if c.MaxGap == 0 {
		c.MaxGap = 3
	}
	if c.Injections == 0 {
		c.Injections = 10
	}
	if c.Faults == nil {
		c.Faults = DefaultFaults()
	}
	r := Report{Verdicts: map[string][]Verdict{}}
	parts := map[string]*Slice{}
	var spots []place
	for i := range d.Series {
		series := &d.Series[i]
		verdicts, err := Score(ctx, s, *series, 0, c.MaxGap)
		if err != nil {
			return r, err
		}
		labels := c.Labels[series.Device]
		if labels != nil && len(labels) != series.Rows() {
			return r, fmt.Errorf("device %s has %d labels for %d rows", series.Device, len(labels), series.Rows())
		}
		r.Verdicts[series.Device] = verdicts
		into := []*Slice{&r.Overall}
		for _, name := range c.Slices[series.Device] {
			if parts[name] == nil {
				parts[name] = &Slice{}
			}
			into = append(into, parts[name])
		}
		for _, slice := range into {
			slice.add(verdicts, labels)
		}
		spots = append(spots, places(s, series, verdicts, labels)...)
	}
	contract := s.Contract()
	perDay := contract.SampleRateHz * 86400 / float64(contract.Stride)
	r.Overall.finish(perDay)
	for name, slice := range parts {
		slice.finish(perDay)
		if r.Slices == nil {
			r.Slices = map[string]Slice{}
		}
		r.Slices[name] = *slice
	}
	if len(spots) == 0 {
		return r, nil
	}
	var err error
	r.Faults, err = inject(s, spots, c, rand.New(rand.NewPCG(c.Seed, 0xfa17)))
	return r, err
}

func (s *Slice) add(verdicts []Verdict, labels []bool) {
	s.Devices++
	s.Windows += len(verdicts)
	alarming := false
	for _, v := range verdicts {
		if labels != nil {
			if s.Labelled == nil {
				s.Labelled = &Labelled{}
			}
			s.Labelled.Count(labels[v.Row], v.Flag)
			if labels[v.Row] {
				alarming = false
				continue
			}
		}
		s.Normal++
		s.scores = append(s.scores, v.Score)
		if v.Flag {
			s.FalseAlarms++
			if !alarming {
				s.Episodes++
			}
		}
		alarming = v.Flag
	}
}

func (s *Slice) finish(windowsPerDay float64) {
	s.Days = ratio(float64(s.Normal), windowsPerDay)
	s.FalseAlarmsPerDay = ratio(float64(s.FalseAlarms), s.Days)
	s.EpisodesPerDay = ratio(float64(s.Episodes), s.Days)
	if n := len(s.scores); n > 0 {
		slices.Sort(s.scores)
		s.ScoreP50, s.ScoreP99, s.ScoreMax = float64(s.scores[n/2]), float64(s.scores[n*99/100]), float64(s.scores[n-1])
	}
	s.scores = nil
	if l := s.Labelled; l != nil {
		l.F1, l.FAR, l.MAR = l.Confusion.F1(), l.Confusion.FAR(), l.Confusion.MAR()
	}
}

// Events counts the labelled events, which are runs of rows where labels are true, that the verdicts cover, and
// those of them in which at least one window that ended was flagged.
func Events(verdicts []Verdict, labels []bool) (events, found int) {
	inside, hit := false, false
	last := -1
	end := func() {
		if inside {
			events++
			if hit {
				found++
			}
		}
		inside, hit = false, false
	}
	for _, v := range verdicts {
		// An event ends at the first normal row, also where no window ended on it.
		if inside && slices.Contains(labels[last+1:v.Row+1], false) {
			end()
		}
		if last = v.Row; labels[v.Row] {
			inside, hit = true, hit || v.Flag
		}
	}
	end()
	return events, found
}
