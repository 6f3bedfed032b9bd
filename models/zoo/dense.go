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
type autoencoder struct {
	head   *head
	layers []layer
}

// layer is y = f(x·w + b), w being [in, out] row by row. f is tanh except for the last layer.
type layer struct {
	in, out int
	w, b    []float32
}

func fitDenseAE(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (*autoencoder, error) {
	widths := []int{m.cols}
	widths = append(widths, c.Hidden...)
	for i := len(c.Hidden) - 2; i >= 0; i-- {
		widths = append(widths, c.Hidden[i])
	}
	widths = append(widths, m.cols)
	rng := rand.New(rand.NewPCG(c.Seed, 0x5e11))
	ae := &autoencoder{head: h}
	for i := range len(widths) - 1 {
		l := layer{in: widths[i], out: widths[i+1], b: make([]float32, widths[i+1])}
		// Glorot and Bengio (2010): keeps the spread of tanh units from layer to layer.
		limit := math.Sqrt(6 / float64(l.in+l.out))
		for range l.in * l.out {
			l.w = append(l.w, float32((2*rng.Float64()-1)*limit))
		}
		ae.layers = append(ae.layers, l)
	}
	batch := min(c.BatchSize, m.rows)
	trainer, err := train.New(ae.task(batch, m.cols), runtime.Options{Library: c.Library})
	if err != nil {
		return nil, err
	}
	defer trainer.Close()
	// Incomplete batches at the end of an epoch are left out; the order changes every epoch.
	perEpoch := m.rows / batch
	steps, last := c.Epochs*perEpoch, 0.0
	for epoch := range c.Epochs {
		order := rng.Perm(m.rows)
		sum := 0.0
		for i := range perEpoch {
			for k, row := range order[i*batch : (i+1)*batch] {
				copy(trainer.Input("x")[k*m.cols:(k+1)*m.cols], m.data[row*m.cols:(row+1)*m.cols])
			}
			done := float64(epoch*perEpoch+i) / float64(steps)
			loss, err := trainer.Step(ctx, c.LearningRate*(1+math.Cos(math.Pi*done))/2)
			if err != nil {
				return nil, err
			}
			sum += float64(loss)
		}
		last = sum / float64(perEpoch)
	}
	weights := trainer.Params()
	for i := range ae.layers {
		ae.layers[i].w, ae.layers[i].b = weights[fmt.Sprintf("w%d", i)], weights[fmt.Sprintf("b%d", i)]
	}
	card["widths"] = widths
	card["steps"] = steps
	card["loss"] = last
	return ae, nil
}

// task is the forward graph for training: the mean squared reconstruction error of a batch of patterns.
func (a *autoencoder) task(batch, features int) train.Task {
	b := &onnx.Builder{}
	t := train.Task{Loss: "loss"}
	x := b.Input("x", onnx.Float, int64(batch), int64(features))
	y := x
	for i, l := range a.layers {
		w := b.Floats(fmt.Sprintf("w%d", i), l.w, int64(l.in), int64(l.out))
		bias := b.Floats(fmt.Sprintf("b%d", i), l.b, int64(l.out))
		t.Params = append(t.Params, w, bias)
		if y = b.Node("Gemm", []string{y, w, bias}); i < len(a.layers)-1 {
			y = b.Node("Tanh", []string{y})
		}
	}
	e := b.Node("Sub", []string{y, x})
	e = b.Node("ReduceMean", []string{b.Node("Mul", []string{e, e})}, onnx.Int("keepdims", 1))
	b.NodeTo([]string{t.Loss}, "Reshape", []string{e, b.Ints(1)})
	t.Forward = b.Graph()
	return t
}

func (a *autoencoder) weights() []float64 { return []float64{1} }

func (a *autoencoder) emit(b *onnx.Builder, z string) ([]string, string) {
	h := a.head
	y := z
	for i, l := range a.layers {
		// A convolution kernel is [out, in, length]; pattern features are channel after channel, so the
		// first layer's inputs fall apart into channels and samples as they are.
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
		w := b.Floats(fmt.Sprintf("w%d", i), kernel, int64(l.out), int64(in), int64(length))
		y = b.Node("Conv", []string{y, w, b.Floats(fmt.Sprintf("b%d", i), l.b, int64(l.out))})
		if i < len(a.layers)-1 {
			y = b.Node("Tanh", []string{y})
		}
	}
	// The patterns themselves, laid out as the last layer's outputs: a kernel that picks one sample each.
	n := h.channels * h.pattern
	pick := make([]float32, n*n)
	for i := range n {
		pick[i*n+i] = 1
	}
	target := b.Node("Conv", []string{z, b.Floats("pick", pick, int64(n), int64(h.channels), int64(h.pattern))})
	q, channels := h.residual(b, b.Node("Sub", []string{target, y}))
	return []string{q}, channels
}
