package train

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

// need skips a test where the native library is missing.
func need(t *testing.T) {
	t.Helper()
	if _, err := runtime.Library(""); err != nil {
		t.Skip(err)
	}
}

func numbers(seed uint64, n int, scale float64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64() * scale)
	}
	return out
}

// differentiator returns the forward and backward pass of task alone, as a function of the parameters.
func differentiator(t *testing.T, task Task) func(at []float32) (grad []float32, loss float32) {
	t.Helper()
	tr := &Trainer{task: task}
	b := &onnx.Builder{Prefix: "step."}
	name, err := tr.differentiate(b)
	if err != nil {
		t.Fatal(err)
	}
	start := tr.params.start
	b.Output(name, onnx.Float, int64(len(start)))
	if tr.stats.size() > 0 {
		b.Output(newStats, onnx.Float, tr.stats.size())
	}
	model, err := onnx.Marshal("gradient", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := runtime.LoadProgram(model, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	tensor := func(data []float32, dims ...int64) *runtime.Tensor {
		v, err := runtime.NewTensor(dims...)
		if err != nil {
			t.Fatal(err)
		}
		copy(v.Data(), data)
		t.Cleanup(func() { v.Close() })
		return v
	}
	in := map[string]*runtime.Tensor{params: tensor(start, int64(len(start)))}
	if n := tr.stats.size(); n > 0 {
		in[stats] = tensor(tr.stats.start, n)
	}
	g, l := tensor(nil, int64(len(start))), tensor(nil, 1)
	binding, err := program.Bind(in, map[string]*runtime.Tensor{name: g, stepLoss: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { binding.Close() })
	return func(at []float32) ([]float32, float32) {
		copy(in[params].Data(), at)
		if err := binding.Run(); err != nil {
			t.Fatal(err)
		}
		return slices.Clone(g.Data()), l.Data()[0]
	}
}

// Every operation's gradient is compared with what a small change of each parameter does to the loss.
func TestGradientOfEachOperationMatchesFiniteDifferences(t *testing.T) {
	need(t)
	positive := func(p []float32) []float32 {
		for i := range p {
			p[i] = 1 + float32(math.Abs(float64(p[i])))
		}
		return p
	}
	type param struct {
		data []float32
		dims []int64
	}
	p := func(seed uint64, dims ...int64) param { return param{numbers(seed, int(size(dims)), 1), dims} }
	// No two values are so close that a small change makes another one the largest.
	spreadOut := func(dims ...int64) param {
		v := make([]float32, size(dims))
		for i, k := range rand.New(rand.NewPCG(1, 1)).Perm(len(v)) {
			v[i] = float32(k) / 10
		}
		return param{v, dims}
	}
	cases := []struct {
		name   string
		params []param
		build  func(b *onnx.Builder, in []string) string
	}{
		{"Add of equal shapes", []param{p(1, 3, 4), p(2, 3, 4)}, op("Add")},
		{"Add of a broadcast row", []param{p(1, 3, 4), p(2, 4)}, op("Add")},
		{"Add of a broadcast column", []param{p(1, 3, 4), p(2, 3, 1)}, op("Add")},
		{"Sub of a broadcast row", []param{p(1, 4), p(2, 3, 4)}, op("Sub")},
		{"Mul of a broadcast row", []param{p(1, 3, 4), p(2, 1, 4)}, op("Mul")},
		{"Mul of a value with itself", []param{p(1, 3, 4)}, func(b *onnx.Builder, in []string) string {
			return b.Node("Mul", []string{in[0], in[0]})
		}},
		{"Div", []param{p(1, 3, 4), {positive(numbers(2, 4, 1)), []int64{4}}}, op("Div")},
		{"Neg", []param{p(1, 5)}, op("Neg")},
		{"MatMul", []param{p(1, 3, 4), p(2, 4, 2)}, op("MatMul")},
		{"Gemm with bias", []param{p(1, 3, 4), p(2, 4, 2), p(3, 2)}, op("Gemm")},
		{"Gemm, first transposed", []param{p(1, 4, 3), p(2, 4, 2)}, op("Gemm", onnx.Int("transA", 1))},
		{"Gemm, second transposed", []param{p(1, 3, 4), p(2, 2, 4)}, op("Gemm", onnx.Int("transB", 1))},
		{"Gemm, both transposed", []param{p(1, 4, 3), p(2, 2, 4)}, op("Gemm", onnx.Int("transA", 1), onnx.Int("transB", 1))},
		{"Relu", []param{{[]float32{-1, -0.5, 0.5, 2}, []int64{4}}}, op("Relu")},
		{"Tanh", []param{p(1, 5)}, op("Tanh")},
		{"Sigmoid", []param{p(1, 5)}, op("Sigmoid")},
		{"Exp", []param{p(1, 5)}, op("Exp")},
		{"Sqrt", []param{{positive(numbers(1, 5, 1)), []int64{5}}}, op("Sqrt")},
		{"ReduceMean over one axis", []param{p(1, 3, 4)}, op("ReduceMean", onnx.Ints("axes", 1), onnx.Int("keepdims", 0))},
		{"ReduceMean over all, kept", []param{p(1, 3, 4)}, op("ReduceMean")},
		{"ReduceSum over an inner axis", []param{p(1, 3, 4, 2)}, func(b *onnx.Builder, in []string) string {
			return b.Node("ReduceSum", []string{in[0], b.Ints(1)}, onnx.Int("keepdims", 0))
		}},
		{"Reshape", []param{p(1, 3, 4)}, func(b *onnx.Builder, in []string) string {
			return b.Node("Reshape", []string{in[0], b.Ints(2, 6)})
		}},
		{"Transpose of a matrix", []param{p(1, 3, 4)}, op("Transpose")},
		{"Transpose with a permutation", []param{p(1, 3, 4, 2)}, op("Transpose", onnx.Ints("perm", 2, 0, 1))},
		{"Identity", []param{p(1, 5)}, op("Identity")},
		{"Pow", []param{{positive(numbers(1, 5, 1)), []int64{5}}}, func(b *onnx.Builder, in []string) string {
			return b.Node("Pow", []string{in[0], b.Scalar(1.7)})
		}},
		{"Log", []param{{positive(numbers(1, 5, 1)), []int64{5}}}, op("Log")},
		{"Abs", []param{{[]float32{-1, -0.5, 0.5, 2}, []int64{4}}}, op("Abs")},
		{"Erf", []param{p(1, 5)}, op("Erf")},
		{"Clip", []param{{[]float32{-3, -0.5, 0.5, 4}, []int64{4}}}, func(b *onnx.Builder, in []string) string {
			return b.Node("Clip", []string{in[0], b.Number(-1), b.Number(1)})
		}},
		{"LeakyRelu", []param{{[]float32{-1, -0.5, 0.5, 2}, []int64{4}}}, op("LeakyRelu", onnx.Float32("alpha", 0.1))},
		{"Softplus", []param{p(1, 5)}, op("Softplus")},
		{"HardSigmoid", []param{{[]float32{-4, -1, 1, 4}, []int64{4}}}, op("HardSigmoid")},
		{"HardSwish", []param{{[]float32{-4, -1, 1, 4}, []int64{4}}}, op("HardSwish")},
		{"Softmax", []param{p(1, 3, 4)}, op("Softmax")},
		{"Softmax over an outer axis", []param{p(1, 3, 4)}, op("Softmax", onnx.Int("axis", 0))},
		{"LogSoftmax", []param{p(1, 3, 4)}, op("LogSoftmax")},
		{"MatMul of stacks", []param{p(1, 2, 3, 4), p(2, 2, 4, 5)}, op("MatMul")},
		{"MatMul of a stack by one matrix", []param{p(1, 2, 3, 4), p(2, 4, 5)}, op("MatMul")},
		{"Flatten", []param{p(1, 2, 3, 2)}, op("Flatten")},
		{"Squeeze", []param{p(1, 3, 1, 4)}, func(b *onnx.Builder, in []string) string {
			return b.Node("Squeeze", []string{in[0], b.Ints(1)})
		}},
		{"Unsqueeze", []param{p(1, 3, 4)}, func(b *onnx.Builder, in []string) string {
			return b.Node("Unsqueeze", []string{in[0], b.Ints(1)})
		}},
		{"Concat", []param{p(1, 3, 2), p(2, 3, 4)}, op("Concat", onnx.Int("axis", -1))},
		{"Slice", []param{p(1, 4, 5)}, func(b *onnx.Builder, in []string) string {
			return b.Node("Slice", []string{in[0], b.Ints(1, -3), b.Ints(3, 9), b.Ints(0, 1)})
		}},
		{"Conv", []param{p(1, 2, 3, 5, 5), p(2, 4, 3, 3, 3), p(3, 4)}, op("Conv")},
		{"Conv, padded", []param{p(1, 2, 2, 4, 5), p(2, 3, 2, 3, 3)}, op("Conv", onnx.Ints("pads", 1, 1, 1, 1))},
		{"Conv with uneven pads", []param{p(1, 1, 2, 5, 4), p(2, 2, 2, 2, 3)}, op("Conv", onnx.Ints("pads", 0, 1, 1, 0))},
		{"Conv with a stride that skips the end", []param{p(1, 2, 2, 6, 7), p(2, 2, 2, 3, 2)}, op("Conv", onnx.Ints("strides", 2, 3))},
		{"Conv with a stride and pads", []param{p(1, 1, 2, 7, 8), p(2, 2, 2, 3, 3)}, op("Conv", onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 1, 1, 1))},
		{"Conv, dilated", []param{p(1, 1, 2, 7, 7), p(2, 2, 2, 3, 3)}, op("Conv", onnx.Ints("dilations", 2, 2))},
		{"Conv in groups", []param{p(1, 2, 4, 5, 4), p(2, 6, 2, 3, 3)}, op("Conv", onnx.Int("group", 2))},
		{"Conv of each channel by itself", []param{p(1, 2, 3, 5, 5), p(2, 3, 1, 3, 3)}, op("Conv", onnx.Int("group", 3), onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 1, 1, 1))},
		{"Conv of single points", []param{p(1, 2, 3, 3, 4), p(2, 5, 3, 1, 1), p(3, 5)}, op("Conv")},
		{"Conv of single points with a stride", []param{p(1, 2, 3, 5, 4), p(2, 2, 3, 1, 1)}, op("Conv", onnx.Ints("strides", 3, 2))},
		{"Conv over time", []param{p(1, 2, 3, 9), p(2, 4, 3, 4), p(3, 4)}, op("Conv", onnx.Ints("strides", 2), onnx.Ints("pads", 1, 2))},
		{"ConvTranspose", []param{p(1, 2, 3, 3, 4), p(2, 3, 2, 3, 3), p(3, 2)}, op("ConvTranspose")},
		{"ConvTranspose with a stride", []param{p(1, 1, 2, 3, 4), p(2, 2, 3, 3, 2)}, op("ConvTranspose", onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 0, 1, 0), onnx.Ints("output_padding", 1, 1))},
		{"ConvTranspose in groups over time", []param{p(1, 2, 4, 5), p(2, 4, 2, 3)}, op("ConvTranspose", onnx.Int("group", 2), onnx.Ints("strides", 2))},
		{"MaxPool", []param{spreadOut(2, 2, 4, 6)}, op("MaxPool", onnx.Ints("kernel_shape", 2, 2), onnx.Ints("strides", 2, 2))},
		{"MaxPool with windows that overlap", []param{spreadOut(1, 2, 5, 5)}, op("MaxPool", onnx.Ints("kernel_shape", 3, 3), onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 1, 1, 1))},
		{"MaxPool over time", []param{spreadOut(2, 3, 7)}, op("MaxPool", onnx.Ints("kernel_shape", 3), onnx.Ints("strides", 1))},
		{"AveragePool", []param{p(1, 2, 3, 4, 6)}, op("AveragePool", onnx.Ints("kernel_shape", 2, 2), onnx.Ints("strides", 2, 2))},
		{"AveragePool with windows that overlap", []param{p(1, 2, 3, 5, 5)}, op("AveragePool", onnx.Ints("kernel_shape", 3, 3), onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 1, 1, 1), onnx.Int("count_include_pad", 1))},
		{"AveragePool with a stride larger than its window", []param{p(1, 1, 2, 8)}, op("AveragePool", onnx.Ints("kernel_shape", 2), onnx.Ints("strides", 3))},
		{"GlobalAveragePool", []param{p(1, 2, 3, 4, 2)}, op("GlobalAveragePool")},
		{"BatchNormalization in training", []param{p(1, 4, 3, 2, 3), p(2, 3), p(3, 3)}, func(b *onnx.Builder, in []string) string {
			return b.Node("BatchNormalization", append(in, b.Floats("mean", numbers(4, 3, 1), 3), b.Floats("var", positive(numbers(5, 3, 1)), 3)))
		}},
		{"BatchNormalization as it scores", []param{p(1, 4, 3, 2)}, func(b *onnx.Builder, in []string) string {
			fixed := []string{b.Floats("scale", numbers(2, 3, 1), 3), b.Floats("bias", numbers(3, 3, 1), 3)}
			return b.Node("BatchNormalization", append(append(in, fixed...), b.Floats("mean", numbers(4, 3, 1), 3), b.Floats("var", positive(numbers(5, 3, 1)), 3)))
		}},
		{"LayerNormalization", []param{p(1, 3, 5), p(2, 5), p(3, 5)}, op("LayerNormalization")},
		{"GRU", []param{p(1, 3, 2, 4), p(2, 1, 9, 4), p(3, 1, 9, 3), p(4, 1, 18)}, op("GRU", onnx.Int("hidden_size", 3))},
		{"GRU as PyTorch has it", []param{p(1, 3, 2, 4), p(2, 1, 9, 4), p(3, 1, 9, 3), p(4, 1, 18)}, op("GRU", onnx.Int("hidden_size", 3), onnx.Int("linear_before_reset", 1))},
		{"GRU that goes on from a state and has no bias", []param{p(1, 3, 2, 4), p(2, 1, 9, 4), p(3, 1, 9, 3), p(4, 1, 2, 3)}, func(b *onnx.Builder, in []string) string {
			b.NodeTo([]string{"all", "end"}, "GRU", []string{in[0], in[1], in[2], "", "", in[3]}, onnx.Int("hidden_size", 3))
			return "end"
		}},
		{"LayerNormalization over two axes", []param{p(1, 3, 2, 4), p(2, 2, 4)}, op("LayerNormalization", onnx.Int("axis", 1))},
	}
	covered := map[string]bool{}
	for _, c := range cases {
		covered[strings.Fields(strings.ReplaceAll(c.name, ",", " "))[0]] = true
		t.Run(c.name, func(t *testing.T) {
			b := &onnx.Builder{}
			task := Task{Loss: "loss"}
			var names []string
			var flat []float32
			for i, v := range c.params {
				name := b.Floats(string(rune('a'+i)), v.data, v.dims...)
				names = append(names, name)
				flat = append(flat, v.data...)
			}
			task.Params = names
			y := c.build(b, names)
			values, err := onnx.Infer(b.Graph(), nil)
			if err != nil {
				t.Fatal(err)
			}
			// A loss that treats every element differently: the sum of y times fixed weights.
			n := size(values.All[y].Shape)
			y = b.Node("Reshape", []string{y, b.Ints(1, n)})
			y = b.Node("MatMul", []string{y, b.Floats("weights", numbers(9, int(n), 1), n, 1)})
			b.NodeTo([]string{"loss"}, "Reshape", []string{y, b.Ints(1)})
			task.Forward = b.Graph()

			differentiate := differentiator(t, task)
			grad, _ := differentiate(flat)
			const h = 1e-2
			for i := range flat {
				at := slices.Clone(flat)
				at[i] = flat[i] + h
				_, up := differentiate(at)
				at[i] = flat[i] - h
				_, down := differentiate(at)
				want := float64(up-down) / (2 * h)
				if got := float64(grad[i]); math.Abs(got-want) > 2e-3*(1+math.Abs(want)) {
					t.Errorf("derivative %d is %g, finite differences say %g", i, got, want)
				}
			}
		})
	}
	for name := range rules {
		if !covered[name] {
			t.Errorf("the gradient of %s is not checked", name)
		}
	}
}

func op(name string, attrs ...onnx.Attr) func(*onnx.Builder, []string) string {
	return func(b *onnx.Builder, in []string) string { return b.Node(name, in, attrs...) }
}

// perceptron is a forward graph of two layers with a mean squared error, and its sizes.
const (
	rows, wide, hidden = 8, 5, 3
)

func perceptron() Task {
	b := &onnx.Builder{}
	x := b.Input("x", onnx.Float, rows, wide)
	b.Floats("w1", numbers(1, wide*hidden, 0.5), wide, hidden)
	b.Floats("b1", numbers(2, hidden, 0.5), hidden)
	b.Floats("w2", numbers(3, hidden*wide, 0.5), hidden, wide)
	h := b.Node("Tanh", []string{b.Node("Gemm", []string{x, "w1", "b1"})})
	e := b.Node("Sub", []string{b.Node("MatMul", []string{h, "w2"}), x})
	e = b.Node("ReduceMean", []string{b.Node("Mul", []string{e, e})}, onnx.Int("keepdims", 1))
	b.NodeTo([]string{"loss"}, "Reshape", []string{e, b.Ints(1)})
	return Task{Forward: b.Graph(), Params: []string{"w1", "b1", "w2"}, Loss: "loss"}
}

// reference is the same network and optimizer written out in float64, for comparison.
func reference(x []float32, steps int, lr float64) (losses []float64) {
	load := func(seed uint64, n int) []float64 {
		var out []float64
		for _, v := range numbers(seed, n, 0.5) {
			out = append(out, float64(v))
		}
		return out
	}
	p := slices.Concat(load(1, wide*hidden), load(2, hidden), load(3, hidden*wide))
	m, v := make([]float64, len(p)), make([]float64, len(p))
	w1, b1, w2 := p[:wide*hidden], p[wide*hidden:wide*hidden+hidden], p[wide*hidden+hidden:]
	for step := 1; step <= steps; step++ {
		g := make([]float64, len(p))
		g1, gb, g2 := g[:len(w1)], g[len(w1):len(w1)+hidden], g[len(w1)+hidden:]
		loss := 0.0
		for r := range rows {
			in := x[r*wide : (r+1)*wide]
			var h [hidden]float64
			for j := range h {
				s := b1[j]
				for i := range in {
					s += float64(in[i]) * w1[i*hidden+j]
				}
				h[j] = math.Tanh(s)
			}
			var dh [hidden]float64
			for i := range in {
				y := 0.0
				for j := range h {
					y += h[j] * w2[j*wide+i]
				}
				e := y - float64(in[i])
				loss += e * e / (rows * wide)
				for j := range h {
					g2[j*wide+i] += 2 * e * h[j] / (rows * wide)
					dh[j] += 2 * e * w2[j*wide+i] / (rows * wide)
				}
			}
			for j := range h {
				d := dh[j] * (1 - h[j]*h[j])
				gb[j] += d
				for i := range in {
					g1[i*hidden+j] += d * float64(in[i])
				}
			}
		}
		losses = append(losses, loss)
		for i := range p {
			m[i] = 0.9*m[i] + 0.1*g[i]
			v[i] = 0.999*v[i] + 0.001*g[i]*g[i]
			mh, vh := m[i]/(1-math.Pow(0.9, float64(step))), v[i]/(1-math.Pow(0.999, float64(step)))
			p[i] -= lr * mh / (math.Sqrt(vh) + 1e-8)
		}
	}
	return losses
}

func run(t *testing.T, steps int) (losses []float32, weights map[string][]float32) {
	t.Helper()
	tr, err := New(perceptron(), runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	copy(tr.Input("x"), numbers(7, rows*wide, 1))
	for range steps {
		loss, err := tr.Step(context.Background(), 0.01)
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, loss)
	}
	return losses, tr.Params()
}

func TestTrajectoryMatchesAnAutoencoderAndAdamWrittenOutByHand(t *testing.T) {
	need(t)
	got, _ := run(t, 200)
	for i, want := range reference(numbers(7, rows*wide, 1), 200, 0.01) {
		if math.Abs(float64(got[i])-want) > 1e-3*want {
			t.Fatalf("loss of step %d is %g, by hand %g", i+1, got[i], want)
		}
	}
	if got[199] > got[0]/2 {
		t.Errorf("loss went from %g to %g only", got[0], got[199])
	}
}

func TestRunningAgainGivesTheSameBits(t *testing.T) {
	need(t)
	losses, weights := run(t, 51)
	again, same := run(t, 51)
	if !slices.Equal(losses, again) {
		t.Error("losses differ")
	}
	for name := range weights {
		if !slices.Equal(weights[name], same[name]) {
			t.Errorf("weights %s differ", name)
		}
	}
}

func TestStepStopsWhenCancelled(t *testing.T) {
	need(t)
	tr, err := New(perceptron(), runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := tr.Step(ctx, 0.01); err == nil {
		t.Error("a cancelled step ran")
	}
}

func TestRefusals(t *testing.T) {
	need(t)
	for name, c := range map[string]struct {
		change func(*Task)
		want   string
	}{
		"unknown parameter":             {func(k *Task) { k.Params = append(k.Params, "w3") }, `"w3" is not a constant`},
		"loss of the wrong shape":       {func(k *Task) { k.Loss = "x" }, "does not have shape [1]"},
		"loss without parameters":       {func(k *Task) { k.Params = nil }, "does not depend on any parameter"},
		"operation without a gradient":  {func(k *Task) { *k.Forward.Node[1].OpType = "Floor" }, "Floor has no gradient"},
		"parameter the loss leaves out": {func(k *Task) { k.Forward.Node[2].Input[1] = "w1t"; unused(k) }, `does not depend on parameter "w2"`},
	} {
		t.Run(name, func(t *testing.T) {
			task := perceptron()
			c.change(&task)
			tr, err := New(task, runtime.Options{})
			if err == nil {
				tr.Close()
				t.Fatal("was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

// unused gives the graph a constant in the place of w2, so that w2 has no effect.
func unused(k *Task) {
	b := &onnx.Builder{}
	b.Floats("w1t", numbers(4, hidden*wide, 0.5), hidden, wide)
	k.Forward.Initializer = append(k.Forward.Initializer, b.Graph().Initializer...)
}
