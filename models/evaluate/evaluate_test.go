package evaluate

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
)

// limit is a model of two channels that flags a window when any sample's size is above a limit. The score is
// the largest.
type limit float32

func (limit) Contract() contract.Contract {
	return contract.Contract{Version: 1, Kind: "limit", Channels: channels, Window: 4, Stride: 1, SampleRateHz: 1, Threshold: 1}
}

func (l limit) ScoreBatch(windows, scores []float32, flags []bool, _ []float32) error {
	if len(windows) != 8*len(scores) {
		return errors.New("wrong size")
	}
	for i := range scores {
		scores[i] = 0
		for _, v := range windows[i*8 : (i+1)*8] {
			scores[i] = max(scores[i], v, -v)
		}
		flags[i] = scores[i] > float32(l)
	}
	return nil
}

var channels = []contract.Channel{{Name: "a"}, {Name: "b"}}

// quiet is a series of small noise.
func quiet(device string, rows int) zoo.Series {
	r := rand.New(rand.NewPCG(uint64(len(device)), 3))
	s := zoo.Series{Device: device, Values: make([][]float32, 2)}
	for i := range rows {
		s.Times = append(s.Times, int64(i)*int64(time.Second))
		for c := range s.Values {
			s.Values[c] = append(s.Values[c], float32(min(max(r.NormFloat64(), -2.5), 2.5)))
		}
	}
	return s
}

func TestScoreGivesEveryRowTheVerdictOfTheWindowThatEndsThere(t *testing.T) {
	s := quiet("a", 20)
	s.Values[1][10] = 9
	verdicts, err := Score(context.Background(), limit(5), s, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(verdicts) != 12 || verdicts[0].Row != 8 {
		t.Fatalf("%d verdicts from row %d on", len(verdicts), verdicts[0].Row)
	}
	for _, v := range verdicts {
		if want := v.Row >= 10 && v.Row < 14; v.Flag != want {
			t.Errorf("row %d: flag %v", v.Row, v.Flag)
		}
	}
}

func TestScoreDoesNotLookAcrossAGap(t *testing.T) {
	s := quiet("a", 20)
	for i := 10; i < 20; i++ {
		s.Times[i] += int64(time.Hour)
	}
	verdicts, err := Score(context.Background(), limit(5), s, 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range verdicts {
		if v.Row < 3 || v.Row >= 10 && v.Row < 13 {
			t.Errorf("row %d got a verdict from a window across the gap", v.Row)
		}
	}
	if len(verdicts) != 14 {
		t.Errorf("%d verdicts", len(verdicts))
	}
}

func TestConfusion(t *testing.T) {
	var c Confusion
	if c.F1() != 0 || c.FAR() != 0 || c.MAR() != 0 {
		t.Error("nothing counted is not zero")
	}
	for _, v := range [][2]bool{{true, true}, {true, true}, {true, false}, {false, true}, {false, false}, {false, false}, {false, false}} {
		c.Count(v[0], v[1])
	}
	if want := (Confusion{TP: 2, FN: 1, FP: 1, TN: 3}); c != want {
		t.Fatalf("got %+v", c)
	}
	if c.F1() != 2.0/3 || c.FAR() != 25 || math.Abs(c.MAR()-100.0/3) > 1e-9 {
		t.Errorf("F1 %v, FAR %v, MAR %v", c.F1(), c.FAR(), c.MAR())
	}
}

func TestBacktestCountsFalseAlarmsAndLabels(t *testing.T) {
	normal, broken := quiet("normal", 1000), quiet("broken", 1000)
	normal.Values[0][500] = 8 // flags the 4 windows that hold it
	labels := make([]bool, 1000)
	for i := 300; i < 310; i++ {
		broken.Values[1][i], labels[i] = 8, true
	}
	r, err := Backtest(context.Background(), limit(5), zoo.Dataset{Channels: channels, SampleRateHz: 1, Series: []zoo.Series{normal, broken}},
		Config{Slices: map[string][]string{"normal": {"line 1"}, "broken": {"line 2"}}, Labels: map[string][]bool{"broken": labels}})
	if err != nil {
		t.Fatal(err)
	}
	o := r.Overall
	// The 3 windows that still hold the last broken row count as false alarms.
	if o.Devices != 2 || o.Windows != 1994 || o.FalseAlarms != 7 || o.Episodes != 2 {
		t.Errorf("overall: %+v", o)
	}
	if want := 7.0 / 1984 * 86400; math.Abs(o.FalseAlarmsPerDay-want) > 1e-6 {
		t.Errorf("%v false alarms a day, want %v", o.FalseAlarmsPerDay, want)
	}
	if l := r.Slices["line 2"].Labelled; l == nil || l.TP != 10 || l.FN != 0 || l.FP != 3 || l.F1 != 10/11.5 {
		t.Errorf("labels of line 2: %+v", l)
	}
	if one := r.Slices["line 1"]; one.FalseAlarms != 4 || one.Episodes != 1 || one.Labelled != nil || one.ScoreMax != 8 {
		t.Errorf("line 1: %+v", one)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestBacktestInjectsFaultsThatAModelFindsOrNot(t *testing.T) {
	d := zoo.Dataset{Channels: channels, SampleRateHz: 1, Series: []zoo.Series{quiet("a", 400)}}
	r, err := Backtest(context.Background(), limit(5), d, Config{Faults: []Fault{{Spike, 20}, {Drift, 20}, {Stuck, 0}, {Scale, 1}, {Noise, 20}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{1, 1, 0, 0, 1} {
		f := r.Faults[i]
		if f.Injected != 20 || f.ByChannel["a"].Injected != 10 || f.ByChannel["b"].Injected != 10 {
			t.Errorf("%s: %+v", f.Kind, f)
		}
		if f.Rate() != want {
			t.Errorf("%s: finds %v, want %v", f.Kind, f.Rate(), want)
		}
	}
	if delay := r.Faults[0].MeanDelaySamples; delay != 0 {
		t.Errorf("a spike is found after %v samples", delay)
	}
	if delay := r.Faults[1].MeanDelaySamples; delay < 1 || delay > 4 {
		t.Errorf("a drift to 20 within 8 samples is found after %v", delay)
	}
	if again, _ := Backtest(context.Background(), limit(5), d, Config{Faults: []Fault{{Spike, 20}, {Drift, 20}, {Stuck, 0}, {Scale, 1}, {Noise, 20}}}); !reflect.DeepEqual(r, again) {
		t.Error("a second back-test differs")
	}
	if !reflect.DeepEqual(d.Series[0], quiet("a", 400)) {
		t.Error("the data itself was changed")
	}
}

func TestFaultsAreOnlyPutWhereAllIsNormal(t *testing.T) {
	s := quiet("a", 400)
	s.Values[0][250] = 9 // flagged in the four windows that hold it
	labels := make([]bool, 400)
	for i := 100; i < 200; i++ {
		labels[i] = true
	}
	s.Times = nil
	verdicts, err := Score(context.Background(), limit(5), s, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	verdicts = append(verdicts[:300:300], verdicts[320:]...) // a gap, as of rows that never came
	spots := places(limit(5), &s, verdicts, labels)
	if len(spots) < 20 {
		t.Fatalf("%d places", len(spots))
	}
	const window, lasts = 4, 8
	for i, p := range spots {
		if i > 0 && p.from < spots[i-1].from+lasts {
			t.Errorf("places at %d and %d overlap", spots[i-1].from, p.from)
		}
		for row := p.from; row < p.from+lasts; row++ {
			at := slices.IndexFunc(verdicts, func(v Verdict) bool { return v.Row == row })
			if labels[row] || at < 0 || verdicts[at].Flag {
				t.Errorf("a fault is put on row %d, which is labelled, flagged or was not judged", row)
			}
		}
		if p.from < window-1 {
			t.Errorf("a fault at %d has no whole window before it", p.from)
		}
	}
}

func TestBacktestRefuses(t *testing.T) {
	d := zoo.Dataset{Channels: channels, SampleRateHz: 1, Series: []zoo.Series{quiet("a", 100)}}
	other := d
	other.Channels = []contract.Channel{{Name: "b"}, {Name: "a"}}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		data   zoo.Dataset
		config Config
		want   string
	}{
		"channels in another order": {context.Background(), other, Config{}, "the model reads"},
		"labels of other rows":      {context.Background(), d, Config{Labels: map[string][]bool{"a": {true}}}, "1 labels for 100 rows"},
		"an unknown fault":          {context.Background(), d, Config{Faults: []Fault{{"meteor", 1}}}, `unknown fault "meteor"`},
		"no data":                   {context.Background(), zoo.Dataset{}, Config{}, "no channels"},
		"a cancelled run":           {cancelled, d, Config{}, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Backtest(c.ctx, limit(5), c.data, c.config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}

func TestARealModelFindsSimulatedFaults(t *testing.T) {
	if _, err := runtime.Library(""); err != nil {
		t.Skip(err)
	}
	// Two channels that share a load, so that one says what the other should be.
	series := func(seed uint64) zoo.Series {
		r := rand.New(rand.NewPCG(seed, 4))
		s := zoo.Series{Device: "pump", Values: make([][]float32, 2)}
		for i := range 2000 {
			load := math.Sin(float64(i) / 40)
			s.Values[0] = append(s.Values[0], float32(5+load+0.05*r.NormFloat64()))
			s.Values[1] = append(s.Values[1], float32(100+20*load+r.NormFloat64()))
		}
		return s
	}
	for _, kind := range zoo.Competitors() {
		fitted, err := zoo.Fit(context.Background(), kind, zoo.Dataset{Channels: channels, SampleRateHz: 1, Series: []zoo.Series{series(1)}}, zoo.Config{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := runtime.Load(fitted.ONNX, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, err := Backtest(context.Background(), s, zoo.Dataset{Channels: channels, SampleRateHz: 1, Series: []zoo.Series{series(2)}}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Faults {
			t.Logf("%-8s %-5s ×%-2g found %3.0f %% after %.0f samples", kind, f.Kind, f.Magnitude, 100*f.Rate(), f.MeanDelaySamples)
			if f.Rate() < 0.6 {
				t.Errorf("%s finds only %.0f %% of %s faults", kind, 100*f.Rate(), f.Kind)
			}
		}
		if share := ratio(float64(r.Overall.FalseAlarms), float64(r.Overall.Windows)); share > 0.005 {
			t.Errorf("%s flags %.2f %% of normal windows", kind, 100*share)
		}
	}
}

func TestDrift(t *testing.T) {
	data := func(f func(c int, v float32) float32) zoo.Dataset {
		s := quiet("device", 5000)
		s.Values = append(s.Values, make([]float32, 5000))
		for c, values := range s.Values {
			for i, v := range values {
				values[i] = f(c, v)
			}
		}
		return zoo.Dataset{Channels: append(channels[:2:2], contract.Channel{Name: "constant"}), Series: []zoo.Series{s}}
	}
	same := func(_ int, v float32) float32 { return v }
	p, err := NewProfile(data(same))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(stored, &p); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change   func(c int, v float32) float32
		channel  string
		from, to float64
	}{
		"nothing changed":       {same, "a", 0, 1e-9},
		"a small shift":         {func(c int, v float32) float32 { return v + 0.4*float32(c%2) }, "b", PSIModerate, PSIShifted},
		"a large shift":         {func(c int, v float32) float32 { return v + 2*float32(c%2) }, "b", PSIShifted, 100},
		"a constant that moved": {func(c int, v float32) float32 { return v + 0.001*float32(c/2) }, "constant", PSIShifted, 100},
	} {
		t.Run(name, func(t *testing.T) {
			shifts, err := p.Drift(data(c.change))
			if err != nil {
				t.Fatal(err)
			}
			if got := shifts[0]; got.Channel != c.channel || got.PSI < c.from || got.PSI > c.to {
				t.Errorf("most shifted is %+v", got)
			}
			for _, s := range shifts[1:] {
				if s.PSI > 1e-9 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
	other := data(same)
	other.Channels[1].Unit = "bar"
	if _, err := p.Drift(other); err == nil || !strings.Contains(err.Error(), `"bar"`) {
		t.Errorf("another unit: %v", err)
	}
}

func TestProfileSharesAddUpAndDriftIsNeverNegative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float32Range(-10, 10), 1, 100)
		data := func(name string) zoo.Dataset {
			return zoo.Dataset{Channels: channels[:1], Series: []zoo.Series{{Values: [][]float32{values.Draw(t, name)}}}}
		}
		p, err := NewProfile(data("before"))
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for _, s := range p.Channels[0].Shares {
			sum += s
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Fatalf("shares add up to %v", sum)
		}
		shifts, err := p.Drift(data("after"))
		if err != nil {
			t.Fatal(err)
		}
		if !(shifts[0].PSI >= 0) || math.IsInf(shifts[0].PSI, 0) {
			t.Fatalf("PSI is %v", shifts[0].PSI)
		}
	})
}
