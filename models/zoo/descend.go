package zoo

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/train"
)

// layer is x·w + b, w being [in, out] row by row.
type layer struct {
	name    string
	in, out int
	w, b    []float32
}

// layers makes a chain of layers with random weights.
func layers(name string, widths []int, rng *rand.Rand) (out []layer) {
	for i := range len(widths) - 1 {
		l := layer{name: fmt.Sprintf("%s%d", name, i), in: widths[i], out: widths[i+1], b: make([]float32, widths[i+1])}
		l.w = glorot(l.in, l.out, l.in*l.out, rng)
		out = append(out, l)
	}
	return out
}

// glorot draws n weights between in inputs and out outputs so that the spread of values is kept from layer to
// layer; after Glorot and Bengio (2010).
func glorot(in, out, n int, rng *rand.Rand) []float32 {
	limit := math.Sqrt(6 / float64(in+out))
	w := make([]float32, n)
	for i := range w {
		w[i] = float32((2*rng.Float64() - 1) * limit)
	}
	return w
}

// kernel is l's weights as those of a convolution over [in/length, length], its inputs falling apart into
// channels and samples, channel after channel.
func (l layer) kernel() []float32 {
	out := make([]float32, 0, len(l.w))
	for o := range l.out {
		for in := range l.in {
			out = append(out, l.w[in*l.out+o])
		}
	}
	return out
}

// takeKernel is the way back from kernel.
func (l layer) takeKernel(kernel, bias []float32) error {
	if len(kernel) != len(l.w) || len(bias) != len(l.b) {
		return fmt.Errorf("the model has no layer %q of %d by %d units: fit it from scratch", l.name, l.in, l.out)
	}
	copy(l.b, bias)
	for o := range l.out {
		for in := range l.in {
			l.w[in*l.out+o] = kernel[o*l.in+in]
		}
	}
	return nil
}

// dense emits a chain of layers over the value x of shape [batch, in] for training; params collects the names
// of what it is to learn. Between two layers stands the operation between; empty: none.
func dense(b *onnx.Builder, x string, ls []layer, between string, params *[]string) string {
	for i, l := range ls {
		w := b.Floats(l.name+".w", l.w, int64(l.in), int64(l.out))
		bias := b.Floats(l.name+".b", l.b, int64(l.out))
		*params = append(*params, w, bias)
		if x = b.Node("Gemm", []string{x, w, bias}); between != "" && i < len(ls)-1 {
			x = b.Node(between, []string{x})
		}
	}
	return x
}

// along emits the same chain as convolutions over z of shape [batch, channels, rows]: the first layer's kernel
// is length rows long, the others' one.
func along(b *onnx.Builder, z, prefix string, ls []layer, between string, length int) string {
	for i, l := range ls {
		k := 1
		if i == 0 {
			k = length
		}
		w := b.Floats(prefix+l.name+".w", l.kernel(), int64(l.out), int64(l.in/k), int64(k))
		z = b.Node("Conv", []string{z, w, b.Floats(prefix+l.name+".b", l.b, int64(l.out))})
		if between != "" && i < len(ls)-1 {
			z = b.Node(between, []string{z})
		}
	}
	return z
}

// meanSquare emits the mean of v's squares over everything.
func meanSquare(b *onnx.Builder, v string) string {
	return b.Node("ReduceMean", []string{b.Node("Mul", []string{v, v})}, onnx.Int("keepdims", 1))
}

// stored returns the float constants of an exported model by name.
func stored(model []byte) (map[string][]float32, error) {
	m, err := onnx.Read(model, onnx.Limits{})
	if err != nil {
		return nil, err
	}
	out := map[string][]float32{}
	for _, t := range m.GetGraph().GetInitializer() {
		if onnx.DataType(t.GetDataType()) != onnx.Float {
			continue
		}
		if out[t.GetName()], err = onnx.FloatData(t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// batchOf is how many rows of m a training step takes.
func batchOf(m matrix, c Config) int { return min(c.BatchSize, m.rows) }

// descend trains task, whose input "x" takes batchOf rows of m, and returns the weights and the loss at the
// end, a running mean.
//
// Every row is used once before one is used again, each time in another order. What does not fill a batch at
// the end of such a pass is left out of it.
func descend(ctx context.Context, task train.Task, m matrix, c Config, rng *rand.Rand) (map[string][]float32, float64, error) {
	trainer, err := train.New(task, runtime.Options{Library: c.Library})
	if err != nil {
		return nil, 0, err
	}
	defer trainer.Close()
	batch := batchOf(m, c)
	last, order := 0.0, []int(nil)
	for step := range c.Steps {
		if len(order) < batch {
			order = rng.Perm(m.rows)
		}
		for k, row := range order[:batch] {
			copy(trainer.Input("x")[k*m.cols:(k+1)*m.cols], m.data[row*m.cols:(row+1)*m.cols])
		}
		order = order[batch:]
		rate := c.LearningRate * (1 + math.Cos(math.Pi*float64(step)/float64(c.Steps))) / 2
		loss, err := trainer.Step(ctx, rate)
		if err != nil {
			return nil, 0, err
		}
		if step == 0 {
			last = float64(loss)
		}
		last += 0.02 * (float64(loss) - last)
	}
	return trainer.Params(), last, nil
}
