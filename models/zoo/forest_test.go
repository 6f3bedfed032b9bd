package zoo

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

// walk is what an ensemble says of a row, found without a runtime.
func walk(trees [][]onnx.TreeNode, row []float32) (mean float64) {
	for _, tree := range trees {
		at := tree[0]
		for at.Low != 0 {
			if row[at.Feature] <= at.Value {
				at = tree[at.Low]
			} else {
				at = tree[at.High]
			}
		}
		mean += float64(at.Value) / float64(len(trees))
	}
	return mean
}

// grove is a forest over n patterns of two samples of two channels that lie around 0.
func grove(t *testing.T, n int) *isolation {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	m := matrix{rows: n, cols: 4}
	for range n * m.cols {
		m.data = append(m.data, float32(r.NormFloat64()))
	}
	h := &head{channels: 2, pattern: 2, smooth: 3, window: 4, mean: []float64{0, 0}, scale: []float64{1, 1}}
	f, err := fitForest(context.Background(), m, h, Config{}, map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	return f.(*isolation)
}

func TestTheRuntimeWalksAForestAsWeDo(t *testing.T) {
	need(t)
	f := grove(t, 300)
	b := &onnx.Builder{}
	names, _ := f.emit(b, b.Input(contract.Window, onnx.Float, 1, 2, 4))
	b.Output(names[0], onnx.Float, 1)
	model, err := onnx.Marshal("forest", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := runtime.LoadProgram(model, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	in, err := runtime.NewTensor(1, 2, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := runtime.NewTensor(1)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	binding, err := program.Bind(map[string]*runtime.Tensor{contract.Window: in}, map[string]*runtime.Tensor{names[0]: out})
	if err != nil {
		t.Fatal(err)
	}
	defer binding.Close()
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		w := in.Data()
		for i := range w {
			w[i] = float32(3 * r.NormFloat64())
		}
		if err := binding.Run(); err != nil {
			t.Fatal(err)
		}
		want := 0.0
		for at := range 3 {
			path := walk(f.trees, f.features([]float32{w[at], w[at+1], w[4+at], w[4+at+1]}))
			want += math.Pow(f.usual/path, forestPower) / 3
		}
		if got := float64(out.Data()[0]); math.Abs(got-want) > 1e-3*want {
			t.Fatalf("the runtime says %g of %v, we say %g", got, w, want)
		}
	}
}

func TestPathsAreShorterTheFurtherOutAPatternLies(t *testing.T) {
	f := grove(t, 2000)
	last := math.Inf(1)
	for _, distance := range []float32{0, 2, 4, 8, 16} {
		path := walk(f.trees, f.features([]float32{distance, -distance, distance, distance}))
		if !(path < last) || path < 1 {
			t.Errorf("at %g the path has %g cuts, after %g before", distance, path, last)
		}
		last = path
	}
}

func TestAPathThroughARandomTreeHasTheLengthOfThePaper(t *testing.T) {
	for n, want := range map[int]float64{0: 0, 1: 0, 2: 1, 256: 10.2487} {
		if got := pathLength(n); math.Abs(got-want) > 1e-3 {
			t.Errorf("%d patterns: %g cuts, want %g", n, got, want)
		}
	}
}

func TestAForestForEveryDeviceStaysWithinWhatADeviceReads(t *testing.T) {
	most := onnx.Limits{Items: 1 << 20 / forestExperts}
	for name, d := range map[string]Dataset{"a machine": normal(3000), "noise": noise(3000)} {
		f := fitted(t, Forest, d, Config{})
		if _, err := onnx.Read(f.ONNX, most); err != nil {
			t.Errorf("%s: %v tree nodes: %v", name, f.Card["treeNodes"], err)
		}
	}
}

// noise has eight channels that do not depend on each other: cuts part its patterns the most evenly.
func noise(rows int) Dataset {
	r := rand.New(rand.NewPCG(5, 6))
	s := Series{Device: "a", Values: make([][]float32, 8)}
	d := Dataset{SampleRateHz: 1}
	for c := range s.Values {
		d.Channels = append(d.Channels, contract.Channel{Name: string(rune('a' + c))})
		for range rows {
			s.Values[c] = append(s.Values[c], r.Float32())
		}
	}
	for i := range rows {
		s.Times = append(s.Times, int64(i)*int64(time.Second))
	}
	d.Series = []Series{s}
	return d
}

func TestAForestOfTooManyDevicesIsRefused(t *testing.T) {
	need(t)
	d := normal(300)
	for i := range forestExperts + 1 {
		d.Series = append(d.Series, machine("m"+strings.Repeat("i", i), uint64(i), 300))
	}
	if _, err := Fit(context.Background(), Forest, d, Config{PerDevice: true}); err == nil || !strings.Contains(err.Error(), "holds at most 8") {
		t.Error(err)
	}
}
