package evaluate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/swellfleet/swell/models/zoo"
)

// FaultKind is a way a sensor or the machine behind it goes wrong.
type FaultKind string

// The simulated faults. Magnitudes are in standard deviations of the channel unless said otherwise.
const (
	Spike FaultKind = "spike" // three samples jump up
	Drift FaultKind = "drift" // the level climbs steadily, reaching the magnitude at the end
	Stuck FaultKind = "stuck" // the value freezes; the magnitude has no meaning
	Scale FaultKind = "scale" // values are multiplied by the magnitude, around their mean
	Noise FaultKind = "noise" // Gaussian noise is added
)

// Fault is one kind of fault at one strength.
type Fault struct {
	Kind      FaultKind `json:"kind"`
	Magnitude float64   `json:"magnitude"`
}

// DefaultFaults are strong enough that an operator would want to know, not so strong that anything finds
// them.
func DefaultFaults() []Fault {
	return []Fault{{Spike, 10}, {Drift, 5}, {Stuck, 0}, {Scale, 3}, {Noise, 3}}
}

// Apply writes the fault into values, which are the samples of one channel while it lasts.
func (f Fault) Apply(values []float32, mean, deviation float64, rng *rand.Rand) error {
	for i, v := range values {
		x := float64(v)
		switch f.Kind {
		case Spike:
			if i < 3 {
				x += f.Magnitude * deviation
			}
		case Drift:
			x += f.Magnitude * deviation * float64(i+1) / float64(len(values))
		case Stuck:
			x = float64(values[0])
		case Scale:
			x = mean + (x-mean)*f.Magnitude
		case Noise:
			x += rng.NormFloat64() * f.Magnitude * deviation
		default:
			return fmt.Errorf("unknown fault %q", f.Kind)
		}
		values[i] = float32(x)
	}
	return nil
}

// FaultReport says how many of the injected faults of one kind were found.
type FaultReport struct {
	Fault
	Injected int `json:"injected"`
	Detected int `json:"detected"`
	// MeanDelaySamples is how many samples passed from the fault's begin to its first flagged window, on
	// average over the detected ones. Zero when none was.
	MeanDelaySamples float64 `json:"meanDelaySamples"`
	// ByChannel counts the detected and injected faults of each channel.
	ByChannel map[string]Detections `json:"byChannel"`
	// BySlice counts them for each of Config.Slices.
	BySlice map[string]Detections `json:"bySlice,omitempty"`
}

// Detections counts faults found among faults injected.
type Detections struct {
	Injected int `json:"injected"`
	Detected int `json:"detected"`
}

func (d Detections) and(found bool) Detections {
	d.Injected++
	if found {
		d.Detected++
	}
	return d
}

// Rate is the share of injected faults that were detected.
func (f FaultReport) Rate() float64 { return ratio(float64(f.Detected), float64(f.Injected)) }

// place is a run of rows, in one span of one series, whose windows the model does not flag as they are.
type place struct {
	series *zoo.Series
	from   int // first row of the fault
	mean   []float64
	dev    []float64 // per channel, over the series
}

// inject puts each fault into every channel at n places and counts what the model finds. A fault lasts two
// windows; it counts as found when a window that ends while it lasts is flagged.
func inject(s Session, places []place, cfg Config, rng *rand.Rand) ([]FaultReport, error) {
	c, n := s.Contract(), cfg.Injections
	lasts := 2 * c.Window
	var out []FaultReport
	for _, f := range cfg.Faults {
		report := FaultReport{Fault: f, ByChannel: map[string]Detections{}, BySlice: map[string]Detections{}}
		delays := 0
		for ch, channel := range c.Channels {
			for i := range min(n, len(places)) {
				// Spread over all places whatever their number, another one for each channel.
				p := places[(i*len(places)/min(n, len(places))+ch)%len(places)]
				first := p.from - c.Window + 1 // of the rows the windows need
				faulty := zoo.Series{Device: p.series.Device}
				for k, values := range p.series.Values {
					rows := slices.Clone(values[first : p.from+lasts])
					if k == ch {
						if err := f.Apply(rows[c.Window-1:], p.mean[k], p.dev[k], rng); err != nil {
							return nil, err
						}
					}
					faulty.Values = append(faulty.Values, rows)
				}
				var windows []float32
				for end := c.Window; end <= faulty.Rows(); end++ {
					windows = faulty.AppendWindow(windows, end, c.Window)
				}
				scores, flags := make([]float32, lasts), make([]bool, lasts)
				if err := s.ScoreBatch(windows, scores, flags, nil); err != nil {
					return nil, err
				}
				at := slices.Index(flags, true)
				report.Injected++
				if at >= 0 {
					report.Detected++
					delays += at
				}
				report.ByChannel[channel.Name] = report.ByChannel[channel.Name].and(at >= 0)
				for _, name := range cfg.Slices[p.series.Device] {
					report.BySlice[name] = report.BySlice[name].and(at >= 0)
				}
			}
		}
		report.MeanDelaySamples = ratio(float64(delays), float64(report.Detected))
		out = append(out, report)
	}
	return out, nil
}

// places finds where faults can be put into series: runs of two windows' length whose verdicts are all
// normal and where no label says otherwise, one window apart.
func places(s Session, series *zoo.Series, verdicts []Verdict, labels []bool) []place {
	c := s.Contract()
	lasts := 2 * c.Window
	p := place{series: series}
	for _, values := range series.Values {
		sum, squares := 0.0, 0.0
		for _, v := range values {
			sum += float64(v)
		}
		mean := sum / float64(len(values))
		for _, v := range values {
			squares += (float64(v) - mean) * (float64(v) - mean)
		}
		dev := math.Sqrt(squares / float64(len(values)))
		if dev == 0 { // a channel that never moves: a hundredth of its level, as when fitting
			dev = max(math.Abs(mean)/100, 1e-6)
		}
		p.mean, p.dev = append(p.mean, mean), append(p.dev, dev)
	}
	var out []place
	run := 0 // normal verdicts in a row, on neighbouring rows
	for i, v := range verdicts {
		if run > 0 && v.Row-verdicts[i-1].Row > c.Stride {
			run = 0
		}
		if run++; v.Flag || labels != nil && labels[v.Row] {
			run = 0
		}
		if run*c.Stride >= lasts {
			from := v.Row + 1 - lasts
			if from >= c.Window-1 {
				p.from = from
				out = append(out, p)
			}
			run = 0
		}
	}
	return out
}
