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

// autoencoder is the dense autoencoder. It is trained on single patterns as matrices and exported as
// convolutions over the window: the first layer's kernel is as long as a pattern, the others have length 1.
//
// Beside the tanh layers runs a linear path through a code of the same width, and both are added up. Tanh
// units saturate: alone they cannot reconstruct a slow drift of load or temperature beyond the range of the
// training data, and normal operation would alarm. The linear path carries such drifts on, and a penalty on
// the tanh layers' output makes them say only what the linear path cannot.
type autoencoder struct {
	head   *head
	deep   []layer // tanh between them
	linear []layer
}

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
		// Glorot and Bengio (2010): keeps the spread of values from layer to layer.
		limit := math.Sqrt(6 / float64(l.in+l.out))
		for range l.in * l.out {
			l.w = append(l.w, float32((2*rng.Float64()-1)*limit))
		}
		out = append(out, l)
	}
	return out
}

// each calls f for every layer.
func (a *autoencoder) each(f func(*layer)) {
	for _, chain := range [][]layer{a.deep, a.linear} {
		for i := range chain {
			f(&chain[i])
		}
	}
}

func fitDenseAE(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (*autoencoder, error) {
	if len(c.Hidden) == 0 {
		c.Hidden = []int{max(m.cols*4/5, 2), max(m.cols*2/5, 1)}
	}
	if code := c.Hidden[len(c.Hidden)-1]; code >= m.cols {
		return nil, fmt.Errorf("the code has %d units for %d features: it must be narrower, or everything is reconstructed", code, m.cols)
	}
	widths := []int{m.cols}
	widths = append(widths, c.Hidden...)
	for i := len(c.Hidden) - 2; i >= 0; i-- {
		widths = append(widths, c.Hidden[i])
	}
	widths = append(widths, m.cols)
	rng := rand.New(rand.NewPCG(c.Seed, 0x5e11))
	ae := &autoencoder{
		head: h,
		deep: layers("deep", widths, rng),
		// The code's width, the last of the hidden ones, is the linear path's too.
		linear: layers("linear", []int{m.cols, c.Hidden[len(c.Hidden)-1], m.cols}, rng),
	}
	if c.WarmStart != nil {
		if err := ae.warmStart(c.WarmStart); err != nil {
			return nil, fmt.Errorf("warm start: %w", err)
		}
	}
	batch := min(c.BatchSize, m.rows)
	trainer, err := train.New(ae.task(batch, m.cols, c.DeepPenalty), runtime.Options{Library: c.Library})
	if err != nil {
		return nil, err
	}
	defer trainer.Close()
	// Every pattern is used once before one is used again, each time in another order. What does not fill
	// a batch at the end of such a pass is left out of it.
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
			return nil, err
		}
		if step == 0 {
			last = float64(loss)
		}
		last += 0.02 * (float64(loss) - last) // a running mean, for the card
	}
	weights := trainer.Params()
	ae.each(func(l *layer) { l.w, l.b = weights[l.name+".w"], weights[l.name+".b"] })
	card["widths"] = widths
	card["steps"] = c.Steps
	card["loss"] = last
	return ae, nil
}

// task is the forward graph for training: the mean squared reconstruction error of a batch of patterns, plus
// the penalty on what the tanh layers add to it.
func (a *autoencoder) task(batch, features int, penalty float64) train.Task {
	b := &onnx.Builder{}
	t := train.Task{Loss: "loss"}
	x := b.Input("x", onnx.Float, int64(batch), int64(features))
	chain := func(layers []layer, between string) string {
		y := x
		for i, l := range layers {
			w := b.Floats(l.name+".w", l.w, int64(l.in), int64(l.out))
			bias := b.Floats(l.name+".b", l.b, int64(l.out))
			t.Params = append(t.Params, w, bias)
			if y = b.Node("Gemm", []string{y, w, bias}); between != "" && i < len(layers)-1 {
				y = b.Node(between, []string{y})
			}
		}
		return y
	}
	meanSquare := func(v string) string {
		return b.Node("ReduceMean", []string{b.Node("Mul", []string{v, v})}, onnx.Int("keepdims", 1))
	}
	deep := chain(a.deep, "Tanh")
	y := b.Node("Add", []string{deep, chain(a.linear, "")})
	e := meanSquare(b.Node("Sub", []string{y, x}))
	e = b.Node("Add", []string{e, b.Node("Mul", []string{meanSquare(deep), b.Scalar(float32(penalty))})})
	b.NodeTo([]string{t.Loss}, "Reshape", []string{e, b.Ints(1)})
	t.Forward = b.Graph()
	return t
}

// warmStart takes the weights out of an exported autoencoder.
func (a *autoencoder) warmStart(model []byte) error {
	m, err := onnx.Read(model, onnx.Limits{})
	if err != nil {
		return err
	}
	stored := map[string][]float32{}
	for _, t := range m.GetGraph().GetInitializer() {
		if onnx.DataType(t.GetDataType()) != onnx.Float {
			continue
		}
		if stored[t.GetName()], err = onnx.FloatData(t); err != nil {
			return err
		}
	}
	a.each(func(l *layer) {
		kernel, bias := stored[a.head.prefix+l.name+".w"], stored[a.head.prefix+l.name+".b"]
		if len(kernel) != len(l.w) || len(bias) != len(l.b) {
			err = fmt.Errorf("the model has no layer %q of %d by %d units: fit it from scratch", l.name, l.in, l.out)
			return
		}
		copy(l.b, bias)
		for o := range l.out {
			for in := range l.in {
				l.w[in*l.out+o] = kernel[o*l.in+in]
			}
		}
	})
	return err
}

func (a *autoencoder) weights() []float64 { return []float64{1} }

func (a *autoencoder) emit(b *onnx.Builder, z string) ([]string, string) {
	h := a.head
	chain := func(layers []layer, between string) string {
		y := z
		for i, l := range layers {
			// A convolution kernel is [out, in, length]; pattern features are channel after channel, so
			// the first layer's inputs fall apart into channels and samples as they are.
			kernel := make([]float32, 0, len(l.w))
			for o := range l.out {
				for in := range l.in {
					kernel = append(kernel, l.w[in*l.out+o])
				}
			}
			in, length := l.in, 1
			if i == 0 {
				in, length = h.channels, h.pattern
			}
			w := b.Floats(h.prefix+l.name+".w", kernel, int64(l.out), int64(in), int64(length))
			y = b.Node("Conv", []string{y, w, b.Floats(h.prefix+l.name+".b", l.b, int64(l.out))})
			if between != "" && i < len(layers)-1 {
				y = b.Node(between, []string{y})
			}
		}
		return y
	}
	y := b.Node("Add", []string{chain(a.deep, "Tanh"), chain(a.linear, "")})
	// The patterns themselves, laid out as the last layer's outputs: a kernel that picks one sample each.
	n := h.channels * h.pattern
	pick := make([]float32, n*n)
	for i := range n {
		pick[i*n+i] = 1
	}
	target := b.Node("Conv", []string{z, b.Floats(h.prefix+"pick", pick, int64(n), int64(h.channels), int64(h.pattern))})
	q, channels := h.residual(b, b.Node("Sub", []string{target, y}))
	return []string{q}, channels
}
