package zoo

import (
	"context"
	"fmt"
	"math"

	"github.com/swellfleet/swell/models/onnx"
)

// seasonal compares the newest rows with those one season before. A season may come a few rows early or late.
// What a stream does every day, week or stroke of a machine is nothing new, however high it goes.
type seasonal struct {
	head   *head
	season int // rows
}

// Bounds of a season, in rows, and how many rows it may come early or late.
const (
	minSeason    = 4
	maxSeason    = 2000
	seasonJitter = 2
	// seasonStrength is the least autocorrelation at a season's length. Noise of the shortest series that
	// can be fitted stays below it.
	seasonStrength = 0.3
)

// seasonOf finds the length of the season that the channels of d share: the lag with the highest mean
// autocorrelation behind the first valley. It fails with ErrData where no lag stands out.
func seasonOf(d Dataset, c Config) (season int, strength float64, err error) {
	longest := 0
	for _, s := range d.Series {
		for _, span := range s.Spans(d.SampleRateHz, c.MaxGap) {
			longest = max(longest, min(span.To, held(s, c))-span.From)
		}
	}
	// Two seasons must fit into what is learned from, and some windows into what is held out.
	lags := min(longest/2, maxSeason)
	sum, n := make([]float64, lags+1), 0.0
	for _, s := range d.Series {
		for _, span := range s.Spans(d.SampleRateHz, c.MaxGap) {
			to := min(span.To, held(s, c))
			if to-span.From < 2*lags || lags < minSeason {
				continue
			}
			for _, values := range s.Values {
				if auto := autocorrelation(values[span.From:to], lags); auto != nil {
					n++
					for k, v := range auto {
						sum[k] += v
					}
				}
			}
		}
	}
	if n == 0 {
		return 0, 0, fmt.Errorf("%w: the longest run to learn from is %d rows: a season needs two of itself", ErrData, longest)
	}
	k := 1
	for k < lags && sum[k+1] < sum[k] {
		k++
	}
	valley := max(k, minSeason)
	for k := valley; k <= lags; k++ {
		strength = max(strength, sum[k]/n)
	}
	// Two seasons repeat themselves as well as one: the first peak near the best is meant.
	for k := valley; k <= lags && season == 0; k++ {
		if peak := k == lags || sum[k] >= sum[k+1]; peak && sum[k]/n >= 0.95*strength {
			season = k
		}
	}
	if strength < seasonStrength {
		return 0, 0, fmt.Errorf("%w: nothing repeats itself within %d rows (best autocorrelation %.2f, want %.1f)", ErrData, lags, strength, seasonStrength)
	}
	return season, strength, nil
}

// autocorrelation returns the correlation of v with itself 0 to lags rows later; nil when v never moves. Long
// runs are cut to their newest part.
func autocorrelation(v []float32, lags int) []float64 {
	if most := 8 * maxSeason; len(v) > most {
		v = v[len(v)-most:]
	}
	mean := 0.0
	for _, x := range v {
		mean += float64(x) / float64(len(v))
	}
	out := make([]float64, lags+1)
	for k := range out {
		for i := k; i < len(v); i++ {
			out[k] += (float64(v[i]) - mean) * (float64(v[i-k]) - mean)
		}
		out[k] /= float64(len(v) - k)
	}
	if !(out[0] > 1e-12*mean*mean) || out[0] < 1e-30 {
		return nil
	}
	for k := lags; k >= 0; k-- {
		out[k] /= out[0]
	}
	return out
}

func fitSeasonal(_ context.Context, _ matrix, h *head, _ Config, card map[string]any) (detector, error) {
	s := &seasonal{head: h, season: h.pattern - 1 - seasonJitter}
	card["season"] = s.season
	return s, nil
}

func (s *seasonal) weights() []float64 { return []float64{1} }

func (s *seasonal) emit(b *onnx.Builder, z string) ([]string, string) {
	h := s.head
	rows := func(from int) string { // as many as are averaged
		return b.Node("Slice", []string{z, b.Ints(int64(from)), b.Ints(int64(from + h.smooth)), b.Ints(2)})
	}
	newest, least := rows(h.pattern-1), ""
	for shift := -seasonJitter; shift <= seasonJitter; shift++ {
		e := b.Node("Sub", []string{newest, rows(h.pattern - 1 - s.season + shift)})
		e = b.Node("Mul", []string{e, e})
		if least == "" {
			least = e
		} else {
			least = b.Node("Min", []string{least, e})
		}
	}
	channels := b.Node("ReduceMean", []string{least}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	return []string{b.Node("ReduceSum", []string{channels, b.Ints(1)}, onnx.Int("keepdims", 0))}, channels
}

// spectral finds what stands out in time by what stands out in the spectrum, after Ren et al., Time-Series
// Anomaly Detection Service at Microsoft (2019): the log amplitudes less their own average are turned back
// with the phases, and the newest row of the result is compared with the others. Nothing is learned but the
// threshold.
type spectral struct {
	head *head
	// cos and sin [window, frequencies] give the spectrum of the window with a few expected rows after it;
	// backCos and backSin [frequencies, window] give the rows of the window back.
	cos, sin, backCos, backSin []float32
	smooth                     []float32 // [frequencies, frequencies]: an average over three
	frequencies                int
}

// The newest row is judged best with some rows behind it: as many of the expected value are added, which is
// what the mean slope of the newest rows leads to.
const (
	expectedRows = 5
	slopeRows    = 5
)

func fitSpectral(_ context.Context, _ matrix, h *head, c Config, card map[string]any) (detector, error) {
	if c.Smooth != 1 || c.Pattern < 4*slopeRows {
		return nil, fmt.Errorf("a pattern of %d samples over %d patterns: a spectrum needs %d samples or more, and smooth 1", c.Pattern, c.Smooth, 4*slopeRows)
	}
	n := h.window
	length := n + expectedRows
	s := &spectral{head: h, frequencies: length/2 + 1}
	// extended[i][j] is the part that row j of the window has in row i of the extended window.
	extended := make([][]float64, length)
	for i := range extended {
		extended[i] = make([]float64, n)
		if i < n {
			extended[i][i] = 1
			continue
		}
		// x[n-m] + m times the mean slope from each of the newest m rows to the row before the newest.
		last := n - 2
		extended[i][last-slopeRows+1] = 1
		for k := 1; k <= slopeRows; k++ {
			weight := 1.0 // slopeRows times slope/slopeRows
			extended[i][last] += weight / float64(k)
			extended[i][last-k] -= weight / float64(k)
		}
	}
	f := s.frequencies
	s.cos, s.sin = make([]float32, n*f), make([]float32, n*f)
	s.backCos, s.backSin = make([]float32, f*n), make([]float32, f*n)
	s.smooth = make([]float32, f*f)
	for k := range f {
		both := 2.0 // a frequency and its mirror image
		if k == 0 || 2*k == length {
			both = 1
		}
		for i := range length {
			angle := 2 * math.Pi * float64(k) * float64(i) / float64(length)
			cos, sin := math.Cos(angle), math.Sin(angle)
			for j, w := range extended[i] {
				s.cos[j*f+k] += float32(w * cos)
				s.sin[j*f+k] -= float32(w * sin)
			}
			if i < n {
				s.backCos[k*n+i] = float32(both * cos / float64(length))
				s.backSin[k*n+i] = float32(-both * sin / float64(length))
			}
		}
		from, to := max(k-1, 0), min(k+1, f-1)
		for j := from; j <= to; j++ {
			s.smooth[j*f+k] = 1 / float32(to-from+1)
		}
	}
	card["frequencies"] = f
	return s, nil
}

func (s *spectral) weights() []float64 { return []float64{1} }

func (s *spectral) emit(b *onnx.Builder, z string) ([]string, string) {
	h, n, f := s.head, int64(s.head.window), int64(s.frequencies)
	times := func(v, name string, data []float32, rows, cols int64) string {
		return b.Node("MatMul", []string{v, b.Floats(h.prefix+name, data, rows, cols)})
	}
	square := func(v string) string { return b.Node("Mul", []string{v, v}) }
	length := func(re, im string) string {
		return b.Node("Sqrt", []string{b.Node("Add", []string{b.Node("Add", []string{square(re), square(im)}), b.Scalar(1e-12)})})
	}
	re, im := times(z, "cos", s.cos, n, f), times(z, "sin", s.sin, n, f) // [batch, channels, frequencies]
	amplitude := length(re, im)
	level := b.Node("Log", []string{amplitude})
	residual := b.Node("Sub", []string{level, times(level, "average", s.smooth, f, f)})
	turn := b.Node("Div", []string{b.Node("Exp", []string{residual}), amplitude})
	re, im = b.Node("Mul", []string{re, turn}), b.Node("Mul", []string{im, turn})
	saliency := b.Node("Abs", []string{b.Node("Add", []string{times(re, "back_cos", s.backCos, f, n), times(im, "back_sin", s.backSin, f, n)})})
	part := func(from, to int64) string {
		return b.Node("Slice", []string{saliency, b.Ints(from), b.Ints(to), b.Ints(2)})
	}
	usual := b.Node("Add", []string{b.Node("ReduceMean", []string{part(0, n-1)}, onnx.Ints("axes", 2), onnx.Int("keepdims", 1)), b.Scalar(1e-9)})
	channels := b.Node("Reshape", []string{b.Node("Div", []string{part(n-1, n), usual}), b.Ints(0, int64(h.channels))})
	return []string{b.Node("ReduceSum", []string{channels, b.Ints(1)}, onnx.Int("keepdims", 0))}, channels
}
