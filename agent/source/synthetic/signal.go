package synthetic

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/swellfleet/swell/agent/source"
)

// kinds of faults.
var kinds = []string{"offset", "noise", "stuck", "nan", "swing"}

// Validate reports what cannot be made.
func (c Config) Validate() error {
	if !(c.RateHz >= 0) || c.RateHz > 1e6 || c.Noise < 0 || c.FaultEveryS < 0 {
		return fmt.Errorf("synthetic source: want rate_hz up to 1e6, noise and fault_every_s not below 0")
	}
	for _, f := range c.Faults {
		if !slices.Contains(kinds, f.Kind) {
			return fmt.Errorf("synthetic source: fault kind %q: want one of %v", f.Kind, kinds)
		}
		if f.Channel != "" && len(c.Channels) > 0 && !slices.Contains(c.Channels, f.Channel) {
			return fmt.Errorf("synthetic source: fault on channel %q, which is not there", f.Channel)
		}
	}
	return nil
}

// Source makes signals. Make it with New.
type Source struct {
	config   Config
	channels []source.Channel
	waves    []wave
	random   *rand.Rand
	started  time.Time
	row      uint64
	stuck    []float32
	out      source.Rows
}

// wave is what makes one channel.
type wave struct {
	mean, amplitude float64
	sines           [3]struct{ hz, phase, share float64 }
}

// New makes a source that has not begun.
func New(c Config) *Source {
	if c.RateHz == 0 {
		c.RateHz = 10
	}
	if c.Speed == 0 {
		c.Speed = 1
	}
	if c.Noise == 0 {
		c.Noise = 0.05
	}
	if c.BatchRows <= 0 {
		c.BatchRows = 256
	}
	if len(c.Channels) == 0 {
		for i := range 8 {
			c.Channels = append(c.Channels, "signal-"+strconv.Itoa(i+1))
		}
	}
	return &Source{config: c}
}

// Open implements source.Source.
func (s *Source) Open(context.Context) error {
	if err := s.config.Validate(); err != nil {
		return err
	}
	s.random = rand.New(rand.NewPCG(s.config.Seed, 0x5e11))
	s.channels, s.waves, s.row, s.started = nil, nil, 0, time.Time{}
	for _, name := range s.config.Channels {
		s.channels = append(s.channels, source.Channel{Name: name})
		w := wave{mean: 10 * s.random.NormFloat64(), amplitude: 0.5 + 2*s.random.Float64()}
		for i := range w.sines {
			w.sines[i].hz = s.config.RateHz * (0.004 + 0.05*s.random.Float64())
			w.sines[i].phase = 2 * math.Pi * s.random.Float64()
			w.sines[i].share = 1 / float64(i+1)
		}
		s.waves = append(s.waves, w)
	}
	s.stuck = make([]float32, len(s.channels))
	s.out.Values = make([][]float32, len(s.channels))
	return source.CheckChannels(s.channels)
}

// Channels implements source.Source.
func (s *Source) Channels() []source.Channel { return s.channels }

// RateHz implements source.Source.
func (s *Source) RateHz() float64 { return s.config.RateHz }

// Next implements source.Source.
func (s *Source) Next(ctx context.Context) (source.Rows, error) {
	if s.random == nil {
		return source.Rows{}, fmt.Errorf("synthetic source is not open")
	}
	if s.config.Rows > 0 && s.row >= s.config.Rows {
		return source.Rows{}, io.EOF
	}
	if s.started.IsZero() {
		s.started = time.Now()
	}
	n := uint64(s.config.BatchRows)
	if s.config.Speed > 0 {
		perSecond := s.config.RateHz * s.config.Speed
		// Rows are handed over in batches of about 20 ms.
		least := uint64(max(perSecond/50, 1))
		due := func() uint64 { return uint64(time.Since(s.started).Seconds()*perSecond) + 1 }
		if d := due(); d < s.row+least {
			timer := time.NewTimer(time.Duration(float64(s.row+least-d) / perSecond * 1e9))
			select {
			case <-ctx.Done():
				timer.Stop()
				return source.Rows{}, ctx.Err()
			case <-timer.C:
			}
		}
		n = min(n, max(due(), s.row+1)-s.row)
	}
	if s.config.Rows > 0 {
		n = min(n, s.config.Rows-s.row)
	}
	s.out.First, s.out.Times = s.row, s.out.Times[:0]
	for c := range s.out.Values {
		s.out.Values[c] = s.out.Values[c][:0]
	}
	for range n {
		s.make()
	}
	return s.out, ctx.Err()
}

// make appends one row.
func (s *Source) make() {
	t := float64(s.row) / s.config.RateHz
	s.out.Times = append(s.out.Times, s.started.UnixNano()+int64(math.Round(t*1e9)))
	for c, w := range s.waves {
		v := s.config.DriftPerHour * t / 3600
		for _, sine := range w.sines {
			v += sine.share * math.Sin(2*math.Pi*sine.hz*t+sine.phase)
		}
		v += s.config.Noise * s.random.NormFloat64()
		x := float32(w.mean + w.amplitude*s.fault(c, t, v))
		if s.stuckAt(c, t) {
			x = s.stuck[c]
		}
		s.stuck[c] = x
		s.out.Values[c] = append(s.out.Values[c], x)
	}
	s.row++
}

// active calls do for each fault on channel c at time t.
func (s *Source) active(c int, t float64, do func(Fault, float64)) {
	if s.config.FaultEveryS > 0 {
		t = math.Mod(t, s.config.FaultEveryS)
	}
	for _, f := range s.config.Faults {
		if t >= f.AtS && t < f.AtS+f.ForS && (f.Channel == "" || f.Channel == s.channels[c].Name) {
			size := f.Size
			if size == 0 {
				size = 3
			}
			do(f, size)
		}
	}
}

// fault changes v, in amplitudes, by what is broken at time t.
func (s *Source) fault(c int, t, v float64) float64 {
	s.active(c, t, func(f Fault, size float64) {
		switch f.Kind {
		case "offset":
			v += size
		case "noise":
			v += size * s.random.NormFloat64()
		case "swing":
			v += size * math.Sin(2*math.Pi*s.config.RateHz/5*t)
		case "nan":
			v = math.NaN()
		}
	})
	return v
}

func (s *Source) stuckAt(c int, t float64) bool {
	stuck := false
	s.active(c, t, func(f Fault, _ float64) { stuck = stuck || f.Kind == "stuck" })
	return stuck && s.row > 0
}

// Close implements source.Source.
func (s *Source) Close() error {
	s.random = nil
	return nil
}
