package zoo

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
)

// moving is what the networks of testdata/networks were trained on, in engineering units.
func moving(rows int) Dataset {
	rng := rand.New(rand.NewPCG(7, 7))
	values := make([][]float32, 3)
	level, spread := []float64{100, 3, -0.5}, []float64{5, 0.2, 0.01}
	for t := range rows {
		at := 2 * math.Pi * float64(t)
		for c, v := range []float64{math.Sin(at / 12), math.Cos(at / 12), math.Sin(at / 30)} {
			values[c] = append(values[c], float32(level[c]+spread[c]*math.Sqrt2*(v+0.05*rng.NormFloat64())))
		}
	}
	return Dataset{Channels: []contract.Channel{{Name: "a"}, {Name: "b"}, {Name: "c"}}, SampleRateHz: 1, Series: []Series{{Device: "d", Values: values}}}
}

func stranger(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "networks", name+".onnx"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestANetworkOfAStrangerBecomesADetector(t *testing.T) {
	for _, c := range []struct {
		name, gives string
		window      int
		config      Config
	}{
		{"flat", "reconstruction", 16, Config{}},
		{"conv", "reconstruction", 16, Config{}},
		{"attention", "reconstruction", 16, Config{Smooth: 3}},
		{"lstm", "reconstruction", 16, Config{Pattern: 16}},
		{"gru", "forecast", 33, Config{}}, // takes any number of rows
		{"score", "unusual", 16, Config{PerDevice: true}},
		{"raw", "reconstruction", 16, Config{RawValues: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Network, c.config.ParentModel = stranger(t, c.name), "sha256:ab"
			f, err := Fit(t.Context(), Network, moving(3000), c.config)
			if err != nil {
				t.Fatal(err)
			}
			if f.Contract.Window != c.window || f.Contract.ParentModel != "sha256:ab" || !strings.Contains(f.Card["gives"].(string), c.gives) {
				t.Errorf("contract %+v, card %v", f.Contract, f.Card)
			}
			if e, ok := f.Card["explains"].(float64); ok && e < 0.8 {
				t.Errorf("it explains %.2f of data like that it was trained on", e)
			}
			s, err := runtime.Load(f.ONNX, runtime.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			usual, stuck := moving(1000).Series[0], moving(1000).Series[0]
			copy(stuck.Values[1], slices.Repeat([]float32{stuck.Values[1][3]}, 1000))
			flagged := func(sr Series) float64 {
				n := 0
				var r runtime.Result
				for end := c.window; end <= sr.Rows(); end++ {
					if err := s.Score(sr.AppendWindow(nil, end, c.window), &r); err != nil {
						t.Fatal(err)
					}
					if r.Anomaly {
						n++
					}
				}
				return float64(n) / float64(sr.Rows())
			}
			if few, many := flagged(usual), flagged(stuck); few > 0.02 || many < 0.5 {
				t.Errorf("it flags %.3f of normal windows and %.3f of those with a stuck channel", few, many)
			}
		})
	}
}

func TestANetworkIsTheSameModelEveryTime(t *testing.T) {
	c := Config{Network: stranger(t, "lstm")}
	a, err := Fit(t.Context(), Network, moving(1000), c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Fit(t.Context(), Network, moving(1000), c)
	if err != nil || string(a.ONNX) != string(b.ONNX) {
		t.Errorf("two fits differ (%v)", err)
	}
}

func TestUnitsThatANetworkDoesNotExpectShowInItsCard(t *testing.T) {
	f, err := Fit(t.Context(), Network, moving(1000), Config{Network: stranger(t, "raw")})
	if err != nil {
		t.Fatal(err)
	}
	if e := f.Card["explains"].(float64); e > 0 {
		t.Errorf("a network for engineering units explains %.2f of values without", e)
	}
}

func TestANetworkThatDoesNotFitIsRefusedWithTheReason(t *testing.T) {
	two := moving(1000)
	two.Channels, two.Series[0].Values = two.Channels[:2], two.Series[0].Values[:2]
	for name, c := range map[string]struct {
		network []byte
		data    Dataset
		say     string
	}{
		"a batch of one written into it": {stranger(t, "one"), moving(1000), "a batch of 1"},
		"other channels":                 {stranger(t, "conv"), two, "no window of 2 channels"},
		"no ONNX":                        {[]byte("<html>"), moving(1000), "not an ONNX file"},
		"too little data":                {stranger(t, "conv"), moving(20), "windows of 16"},
	} {
		if _, err := Fit(t.Context(), Network, c.data, Config{Network: c.network}); !errors.Is(err, ErrData) || !strings.Contains(fmt.Sprint(err), c.say) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.say)
		}
	}
	if _, err := Fit(t.Context(), Network, moving(1000), Config{}); err == nil {
		t.Error("a network without a network was fitted")
	}
}

func TestANetworkIsTriedBeforeItsDataIsKnown(t *testing.T) {
	for name, want := range map[string]string{
		"conv": "float [batch 3 16]", "lstm": "float [batch any 3]", "gru": "float [batch any 3]", "attention": "float [batch 16 3]",
	} {
		s, err := TryNetwork(stranger(t, name))
		if err != nil || s.Input != want || len(s.Notes) < 2 || len(s.Outputs) != 1 {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}
