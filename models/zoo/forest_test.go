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

// run loads a graph of one input and one output, both fixed in size, and returns what computes it.
func run(t *testing.T, b *onnx.Builder, in, out string, inDims, outDims []int64) func(x []float32) []float32 {
	t.Helper()
	model, err := onnx.Marshal("forest", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := runtime.LoadProgram(model, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x, err := runtime.NewTensor(inDims...)
	if err != nil {
		t.Fatal(err)
	}
	y, err := runtime.NewTensor(outDims...)
	if err != nil {
		t.Fatal(err)
	}
	binding, err := program.Bind(map[string]*runtime.Tensor{in: x}, map[string]*runtime.Tensor{out: y})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { binding.Close(); y.Close(); x.Close(); program.Close() })
	return func(values []float32) []float32 {
		copy(x.Data(), values)
		if err := binding.Run(); err != nil {
			t.Fatal(err)
		}
		return y.Data()
	}
}

func TestTheRuntimeScoresAForestAsWeDo(t *testing.T) {
	need(t)
	f := grove(t, 300)
	b := &onnx.Builder{}
	names, _ := f.emit(b, b.Input(contract.Window, onnx.Float, 1, 2, 4))
	b.Output(names[0], onnx.Float, 1)
	score := run(t, b, contract.Window, names[0], []int64{1, 2, 4}, []int64{1})
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		w := make([]float32, 8)
		for i := range w {
			w[i] = float32(3 * r.NormFloat64())
		}
		want := 0.0
		for at := range 3 {
			path := walk(f.trees, f.features([]float32{w[at], w[at+1], w[4+at], w[4+at+1]}))
			want += math.Pow(f.usual/path, forestPower) / 3
		}
		if got := float64(score(w)[0]); math.Abs(got-want) > 1e-3*want {
			t.Fatalf("the runtime says %g of %v, we say %g", got, w, want)
		}
	}
}

// What onnx.Infer lets through has to do no harm to the runtime, at its bounds too.
func TestTheRuntimeWalksTreesOfAnyShapeAsWeDo(t *testing.T) {
	need(t)
	const rows, features = 16, 3
	r := rand.New(rand.NewPCG(7, 8))
	// chain is a tree whose branches all lie on one side, depth nodes deep.
	chain := func(depth int, low bool) (tree []onnx.TreeNode) {
		for i := range depth - 1 {
			n := onnx.TreeNode{Feature: i % features, Value: float32(r.NormFloat64()) + 4, Low: 2*i + 2, High: 2*i + 1}
			if !low {
				n.Value, n.Low, n.High = n.Value-8, n.High, n.Low
			}
			tree = append(tree, n, onnx.TreeNode{Value: float32(r.NormFloat64())})
		}
		return append(tree, onnx.TreeNode{Value: 1})
	}
	leaf := []onnx.TreeNode{{Value: 5}}
	for name, trees := range map[string][][]onnx.TreeNode{
		"a leaf alone":            {leaf},
		"leaves alone":            {leaf, leaf, {{Value: -1}}},
		"a tree between leaves":   {leaf, chain(4, true), leaf},
		"as deep as may be, low":  {chain(256, true)},
		"as deep as may be, high": {chain(256, false), chain(255, true)},
	} {
		t.Run(name, func(t *testing.T) {
			b := &onnx.Builder{}
			y := b.Trees(b.Input("x", onnx.Float, rows, features), trees)
			b.Output(y, onnx.Float, rows, 1)
			if _, err := onnx.Infer(b.Graph(), map[string][]int64{"x": {rows, features}}); err != nil {
				t.Fatal(err)
			}
			answer := run(t, b, "x", y, []int64{rows, features}, []int64{rows, 1})
			x := make([]float32, rows*features)
			for i := range x {
				x[i] = float32(r.NormFloat64())
			}
			got := answer(x)
			for i := range rows {
				if want := walk(trees, x[i*features:(i+1)*features]); math.Abs(float64(got[i])-want) > 1e-5 {
					t.Errorf("row %d: the runtime says %g, we say %g", i, got[i], want)
				}
			}
		})
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
