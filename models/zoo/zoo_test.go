package zoo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
)

func need(t *testing.T) {
	t.Helper()
	if _, err := runtime.Library(""); err != nil {
		t.Skip(err)
	}
}

// machine makes rows of a made-up pump at 1 Hz: a load that swings, a pressure and a flow that follow it, a
// temperature that follows slowly, and a switch that never moves.
func machine(device string, seed uint64, rows int) Series {
	r := rand.New(rand.NewPCG(seed, 2))
	s := Series{Device: device, Values: make([][]float32, 4)}
	temperature := 40.0
	for i := range rows {
		load := 1 + 0.3*math.Sin(float64(i)/37) + 0.1*math.Sin(float64(i)/5)
		temperature += (30 + 20*load - temperature) / 200
		for c, v := range []float64{
			2*load + 0.02*r.NormFloat64(),
			150*load + 2*r.NormFloat64(),
			temperature + 0.05*r.NormFloat64(),
			24,
		} {
			s.Values[c] = append(s.Values[c], float32(v))
		}
		s.Times = append(s.Times, int64(i)*int64(time.Second))
	}
	return s
}

var machineChannels = []contract.Channel{{Name: "pressure", Unit: "bar"}, {Name: "flow", Unit: "L/min"}, {Name: "temperature", Unit: "Cel"}, {Name: "supply", Unit: "V"}}

func normal(rows int) Dataset {
	return Dataset{Channels: machineChannels, SampleRateHz: 1, Series: []Series{machine("a", 1, rows), machine("b", 2, rows)}}
}

func fitted(t *testing.T, kind string, d Dataset, c Config) *Fitted {
	t.Helper()
	need(t)
	f, err := Fit(context.Background(), kind, d, c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func session(t *testing.T, f *Fitted) *runtime.Session {
	t.Helper()
	s, err := runtime.Load(f.ONNX, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// flagged runs f over every window of s and returns the share that was flagged.
func flagged(t *testing.T, m *runtime.Session, s Series) float64 {
	t.Helper()
	var r runtime.Result
	n, hits := 0, 0
	for end := m.Contract().Window; end <= s.Rows(); end++ {
		if err := m.Score(s.AppendWindow(nil, end, m.Contract().Window), &r); err != nil {
			t.Fatal(err)
		}
		n++
		if r.Anomaly {
			hits++
		}
		if r.Anomaly != !(r.Score <= 1) {
			t.Fatalf("score %v, anomaly %v: the threshold is not 1", r.Score, r.Anomaly)
		}
	}
	return float64(hits) / float64(n)
}

// windowed are the kinds that learn from patterns of many channels.
var windowed = []string{PCA, DenseAE, ConvAE, Forecast, RandomNeighbour, Forest}

func TestEachKind(t *testing.T) {
	for _, kind := range windowed {
		t.Run(kind, func(t *testing.T) {
			window := map[string]int{Forecast: 27}[kind]
			if window == 0 {
				window = 24
			}
			f := fitted(t, kind, normal(1500), Config{DatasetDigest: "sha256:d", ParentModel: "sha256:p"})
			m := session(t, f)
			if c := m.Contract(); c.Kind != kind || c.Window != window || c.DatasetDigest != "sha256:d" || c.ParentModel != "sha256:p" || len(c.Channels) != 4 {
				t.Errorf("contract is %+v", c)
			}
			if d := m.Contract().ScoreDeciles; len(d) != contract.Deciles || !(d[0] > 0 && d[8] <= 1) {
				t.Errorf("deciles of normal scores are %v, want nine below the threshold", d)
			}
			if _, err := json.Marshal(f.Card); err != nil {
				t.Errorf("card: %v", err)
			}
			if share := flagged(t, m, machine("c", 3, 1500)); share > 0.005 {
				t.Errorf("flags %.2f %% of another machine's normal operation", 100*share)
			}
			for fault, c := range map[string]struct {
				channel int
				change  func(v float32, i int) float32
			}{
				"a leak: pressure falls while flow stays": {0, func(v float32, _ int) float32 { return v - 0.3 }},
				"a frozen flow sensor":                    {1, func(float32, int) float32 { return 150 }},
				"a noisy pressure sensor":                 {0, func(v float32, i int) float32 { return v + 0.3*float32(i%2) }},
				"a supply that never moved drops":         {3, func(v float32, _ int) float32 { return v - 4 }},
			} {
				s := machine("c", 3, 600)
				for i, v := range s.Values[c.channel] {
					s.Values[c.channel][i] = c.change(v, i)
				}
				if share := flagged(t, m, s); share < 0.5 {
					t.Errorf("%s: only %.0f %% of windows are flagged", fault, 100*share)
				}
				var r runtime.Result
				if err := m.Score(s.AppendWindow(nil, 500, window), &r); err != nil {
					t.Fatal(err)
				}
				worst := 0
				for i, v := range r.ChannelScore {
					if v > r.ChannelScore[worst] {
						worst = i
					}
				}
				// Pressure and flow explain each other, so either may be blamed for the other.
				if c.channel == 3 && worst != 3 {
					t.Errorf("%s: blamed on %s: %v", fault, machineChannels[worst].Name, r.ChannelScore)
				}
			}
		})
	}
}

// unlike is a fleet of two machines, of which the second runs at other levels, and a third with hardly any
// data.
func unlike() Dataset {
	d := Dataset{Channels: machineChannels, SampleRateHz: 1, Series: []Series{machine("a", 1, 1000), machine("b", 2, 1000), machine("new", 3, 60)}}
	for i, v := range d.Series[1].Values[0] {
		d.Series[1].Values[0][i] = v + 3
	}
	return d
}

func TestOneModelKeepsUnlikeDevicesApart(t *testing.T) {
	for _, kind := range windowed {
		t.Run(kind, func(t *testing.T) {
			f := fitted(t, kind, unlike(), Config{PerDevice: true, Steps: 500})
			if left := f.Card["leftOut"].(map[string]string); len(left) != 1 || !strings.Contains(left["new"], "only") {
				t.Errorf("left out: %v", left)
			}
			m := session(t, f)
			a, b := machine("a", 11, 600), machine("b", 12, 600)
			for i := range b.Values[0] {
				b.Values[0][i] += 3
			}
			for _, s := range []Series{a, b} {
				if share := flagged(t, m, s); share > 0.01 {
					t.Errorf("flags %.2f %% of what is normal for %s", 100*share, s.Device)
				}
			}
			// A pressure between the two machines' levels is normal for neither.
			for i := range a.Values[0] {
				a.Values[0][i] += 1.5
			}
			if share := flagged(t, m, a); share < 0.99 {
				t.Errorf("only %.0f %% of windows between the machines' levels are flagged", 100*share)
			}
			w := a.AppendWindow(nil, 100, m.Contract().Window)
			w[0] = float32(math.NaN())
			var r runtime.Result
			if err := m.Score(w, &r); err != nil || !r.Anomaly {
				t.Errorf("NaN: %+v, %v", r, err)
			}
		})
	}
}

func TestPerDeviceNeedsOneDeviceWithEnoughData(t *testing.T) {
	need(t)
	d := unlike()
	d.Series = d.Series[2:]
	if _, err := Fit(context.Background(), PCA, d, Config{PerDevice: true}); !errors.Is(err, ErrData) || !strings.Contains(err.Error(), "no device has enough data") {
		t.Error(err)
	}
	d.Series = nil
	for i := range maxExperts + 1 {
		d.Series = append(d.Series, machine(string(rune('a'+i)), 1, 60))
	}
	if _, err := Fit(context.Background(), PCA, d, Config{PerDevice: true}); err == nil || !strings.Contains(err.Error(), "65 devices") {
		t.Error(err)
	}
}

func TestFittingAgainGivesTheSameBytes(t *testing.T) {
	for _, kind := range Kinds() {
		a, b := fitted(t, kind, normal(300), Config{Steps: 50}), fitted(t, kind, normal(300), Config{Steps: 50})
		if !bytes.Equal(a.ONNX, b.ONNX) {
			t.Errorf("%s: two fits differ", kind)
		}
	}
	if a, b := fitted(t, DenseAE, normal(300), Config{Steps: 50}), fitted(t, DenseAE, normal(300), Config{Steps: 50, Seed: 1}); bytes.Equal(a.ONNX, b.ONNX) {
		t.Error("another seed gives the same autoencoder")
	}
}

func TestNaNOnTheDeviceAlarms(t *testing.T) {
	for _, kind := range Kinds() {
		m := session(t, fitted(t, kind, normal(300), Config{Steps: 50}))
		n := m.Contract().Window
		w := machine("c", 3, n).AppendWindow(nil, n, n)
		w[30] = float32(math.NaN())
		var r runtime.Result
		if err := m.Score(w, &r); err != nil || !r.Anomaly {
			t.Errorf("%s: %+v, %v", kind, r, err)
		}
	}
}

func TestDataThatCannotBeLearnedFrom(t *testing.T) {
	change := func(f func(*Dataset)) Dataset {
		d := normal(300)
		f(&d)
		return d
	}
	for name, c := range map[string]struct {
		data Dataset
		want string
	}{
		"nothing":              {Dataset{}, "no channels"},
		"no series":            {Dataset{Channels: machineChannels}, "no series"},
		"empty series":         {Dataset{Channels: machineChannels, Series: []Series{{Device: "a", Values: make([][]float32, 4)}}}, "only 0 patterns"},
		"short series":         {Dataset{Channels: machineChannels, Series: []Series{machine("a", 1, 40)}}, "only 26 patterns"},
		"NaN":                  {change(func(d *Dataset) { d.Series[1].Values[2][7] = float32(math.NaN()) }), `device b: channel "temperature" is NaN in row 7`},
		"infinity":             {change(func(d *Dataset) { d.Series[0].Values[0][0] = float32(math.Inf(1)) }), "is +Inf in row 0"},
		"a channel too few":    {change(func(d *Dataset) { d.Series[0].Values = d.Series[0].Values[1:] }), "device a has 3 channels"},
		"a ragged channel":     {change(func(d *Dataset) { d.Series[0].Values[2] = d.Series[0].Values[2][1:] }), "has 299 rows"},
		"times of other rows":  {change(func(d *Dataset) { d.Series[0].Times = d.Series[0].Times[1:] }), "299 times for 300 rows"},
		"a gap after each row": {change(func(d *Dataset) { stretch(d, 1) }), "only 0 patterns"},
		"gaps between windows": {change(func(d *Dataset) { stretch(d, 20) }), "held-out windows of 24 samples"},
		"nothing ever moves": {change(func(d *Dataset) {
			for _, s := range d.Series {
				for _, v := range s.Values {
					for i := range v {
						v[i] = 5
					}
				}
			}
		}), "no channel moves"},
	} {
		t.Run(name, func(t *testing.T) {
			need(t)
			_, err := Fit(context.Background(), PCA, c.data, Config{})
			if !errors.Is(err, ErrData) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}

// stretch puts a gap of a minute after every n rows.
func stretch(d *Dataset, n int) {
	for _, s := range d.Series {
		for i := range s.Times {
			s.Times[i] += int64(i/n) * int64(time.Minute)
		}
	}
}

func TestConfigurationsThatCannotBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		kind   string
		config Config
		want   string
	}{
		"unknown kind":         {"oracle", Config{}, "unknown kind"},
		"negative pattern":     {PCA, Config{Pattern: -1}, "pattern is -1"},
		"two thresholds":       {PCA, Config{Margin: 2, FalseAlarmsPerDay: 1}, "none beside false alarms"},
		"quantile of one":      {PCA, Config{Quantile: 1}, "quantile is 1"},
		"too many features":    {PCA, Config{Pattern: 1024}, "4096 features"},
		"a code without waist": {DenseAE, Config{Hidden: []int{20}}, "must be narrower"},
		"a layer of nothing":   {DenseAE, Config{Hidden: []int{8, 0}}, "hidden is 0"},
	} {
		t.Run(name, func(t *testing.T) {
			need(t)
			if _, err := Fit(context.Background(), c.kind, normal(300), c.config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}

func TestFalseAlarmsPerDayNeedARate(t *testing.T) {
	need(t)
	d := normal(300)
	d.SampleRateHz = 0
	if _, err := Fit(context.Background(), PCA, d, Config{FalseAlarmsPerDay: 1}); err == nil || !strings.Contains(err.Error(), "sample rate") {
		t.Error(err)
	}
}

func TestFewerWantedFalseAlarmsRaiseTheThreshold(t *testing.T) {
	last := math.Inf(1)
	w := machine("c", 3, 24).AppendWindow(nil, 24, 24)
	for _, perDay := range []float64{2000, 200, 10, 1, 0.1} {
		m := session(t, fitted(t, PCA, normal(2000), Config{FalseAlarmsPerDay: perDay}))
		var r runtime.Result
		if err := m.Score(w, &r); err != nil {
			t.Fatal(err)
		}
		if float64(r.Score) >= last {
			t.Errorf("%g a day: the score is %g of the threshold, not less than %g before", perDay, r.Score, last)
		}
		last = float64(r.Score)
	}
}

func TestAWarmStartGoesOnWhereTheParentStopped(t *testing.T) {
	parent := fitted(t, DenseAE, normal(600), Config{Steps: 1500})
	loss := func(f *Fitted) float64 { return f.Card["loss"].(float64) }
	few := Config{Steps: 100, LearningRate: 1e-4}
	cold := fitted(t, DenseAE, normal(600), few)
	few.WarmStart, few.ParentModel = parent.ONNX, "sha256:parent"
	warm := fitted(t, DenseAE, normal(600), few)
	if loss(warm) > 1.2*loss(parent) || loss(warm) > loss(cold)/2 {
		t.Errorf("loss is %g after a warm start, %g from scratch, the parent's %g", loss(warm), loss(cold), loss(parent))
	}
	if warm.Contract.ParentModel != "sha256:parent" {
		t.Errorf("contract is %+v", warm.Contract)
	}
	few.Hidden = []int{5}
	if _, err := Fit(context.Background(), DenseAE, normal(600), few); err == nil || !strings.Contains(err.Error(), "fit it from scratch") {
		t.Errorf("other layers: %v", err)
	}
	few.WarmStart = []byte("nothing")
	if _, err := Fit(context.Background(), DenseAE, normal(600), few); err == nil || !strings.Contains(err.Error(), "warm start") {
		t.Errorf("no model: %v", err)
	}
}

func TestFitStopsWhenCancelled(t *testing.T) {
	need(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, kind := range Kinds() {
		if _, err := Fit(ctx, kind, normal(300), Config{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestGoldenVectorsHoldOnLoadAndFailOnAnotherModel(t *testing.T) {
	f := fitted(t, PCA, normal(600), Config{})
	s := machine("c", 3, 600)
	var windows [][]float32
	for end := 24; end <= 600; end += 48 {
		w := s.AppendWindow(nil, end, 24)
		windows = append(windows, w)
		bad := append([]float32(nil), w...)
		bad[0] += 5
		windows = append(windows, bad)
	}
	g, err := Golden(f, windows, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Windows) < len(windows)-2 || len(g.Scores) != len(g.Windows) || len(g.Flags) != len(g.Windows) {
		t.Fatalf("%d of %d windows, %d scores, %d flags", len(g.Windows), len(windows), len(g.Scores), len(g.Flags))
	}
	check := func(m *runtime.Session) (failed int) {
		var r runtime.Result
		for i, w := range g.Windows {
			if err := m.Score(w, &r); err != nil {
				t.Fatal(err)
			}
			if g.Check(i, r.Score, r.Anomaly) != nil {
				failed++
			}
		}
		return failed
	}
	if n := check(session(t, f)); n != 0 {
		t.Errorf("%d golden vectors fail on their own model", n)
	}
	if n := check(session(t, fitted(t, PCA, normal(600), Config{Margin: 1.9}))); n != len(g.Windows) {
		t.Errorf("only %d of %d golden vectors notice another model", n, len(g.Windows))
	}
}

func TestSpans(t *testing.T) {
	times := func(seconds ...int64) []int64 {
		for i := range seconds {
			seconds[i] *= int64(time.Second)
		}
		return seconds
	}
	for name, c := range map[string]struct {
		times []int64
		rate  float64
		gap   float64
		want  []Span
	}{
		"without times":               {nil, 1, 3, []Span{{0, 6}}},
		"without gaps":                {times(0, 1, 2, 3, 4, 5), 1, 3, []Span{{0, 6}}},
		"a step just small enough":    {times(0, 1, 4, 5, 6, 7), 1, 3, []Span{{0, 6}}},
		"a gap":                       {times(0, 1, 5, 6, 7, 8), 1, 3, []Span{{0, 2}, {2, 6}}},
		"a gap that may be spanned":   {times(0, 1, 500, 501, 502, 503), 1, -1, []Span{{0, 6}}},
		"time going backwards":        {times(0, 1, 2, 0, 1, 2), 1, 3, []Span{{0, 3}, {3, 6}}},
		"a rate taken from the steps": {times(0, 10, 20, 30, 90, 100), 0, 3, []Span{{0, 4}, {4, 6}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Series{Times: c.times, Values: [][]float32{make([]float32, 6)}}.Spans(c.rate, c.gap)
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Fatalf("got %v, want %v", got, c.want)
				}
			}
		})
	}
}

func TestSpansCoverEveryRowOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.Int64Range(0, 1e12), 1, 50).Draw(t, "times")
		s := Series{Times: times, Values: [][]float32{make([]float32, len(times))}}
		next := 0
		for _, span := range s.Spans(rapid.SampledFrom([]float64{0, 1, 1000}).Draw(t, "rate"), rapid.Float64Range(-1, 10).Draw(t, "gap")) {
			if span.From != next || span.To <= span.From {
				t.Fatalf("span %v begins at %d, not %d", span, span.From, next)
			}
			next = span.To
		}
		if next != len(times) {
			t.Fatalf("spans end at row %d of %d", next, len(times))
		}
	})
}

// onnxChecker says what ONNX's own checker dislikes of a model; "" when nothing, or when it is not here.
func onnxChecker(t *testing.T, model []byte) string {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has Debian's onnx
	if err := exec.Command(python, "-c", "import onnx").Run(); err != nil {
		t.Log("the ONNX checker is not here: install the Debian package python3-onnx")
		return ""
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, "-c", "import onnx,sys; onnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True)", path).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return ""
}

func TestExportsPassTheOnnxChecker(t *testing.T) {
	for _, kind := range Kinds() {
		f := fitted(t, kind, normal(300), Config{Steps: 50, PerDevice: kind != Neighbour})
		if problem := onnxChecker(t, f.ONNX); problem != "" {
			t.Errorf("%s: %s", kind, problem)
		}
	}
}

func BenchmarkScore(b *testing.B) {
	for _, kind := range Kinds() {
		b.Run(kind, func(b *testing.B) {
			f, err := Fit(context.Background(), kind, normal(300), Config{Steps: 50})
			if err != nil {
				b.Skip(err)
			}
			m, err := runtime.Load(f.ONNX, runtime.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			n := m.Contract().Window
			w, r := machine("c", 3, n).AppendWindow(nil, n, n), runtime.Result{}
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Score(w, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
