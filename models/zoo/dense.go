package zoo

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/swellfleet/swell/models/onnx"
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

// each calls f for every layer.
func (a *autoencoder) each(f func(*layer)) {
	for _, chain := range [][]layer{a.deep, a.linear} {
		for i := range chain {
			f(&chain[i])
		}
	}
}

func fitDenseAE(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (detector, error) {
	if len(c.Hidden) == 0 {
		c.Hidden = []int{max(m.cols*4/5, 2), max(m.cols*2/5, 1)}
	}
	code := c.Hidden[len(c.Hidden)-1]
	if code >= m.cols {
		return nil, fmt.Errorf("the code has %d units for %d features: it must be narrower, or everything is reconstructed", code, m.cols)
	}
	widths := []int{m.cols}
	widths = append(widths, c.Hidden...)
	for i := len(c.Hidden) - 2; i >= 0; i-- {
		widths = append(widths, c.Hidden[i])
	}
	widths = append(widths, m.cols)
	random := rand.NewPCG(c.Seed, 0x5e11)
	rng := rand.New(random)
	ae := &autoencoder{
		head: h,
		deep: layers("deep", widths, rng),
		// The code's width, the last of the hidden ones, is the linear path's too.
		linear: layers("linear", []int{m.cols, code, m.cols}, rng),
	}
	if c.WarmStart != nil {
		if err := ae.warmStart(c.WarmStart); err != nil {
			return nil, fmt.Errorf("warm start: %w", err)
		}
	}
	weights, loss, err := descend(ctx, ae.task(batchOf(m, c), m.cols, c.DeepPenalty), m, c, random, card)
	if err != nil {
		return nil, err
	}
	ae.each(func(l *layer) { l.w, l.b = weights[l.name+".w"], weights[l.name+".b"] })
	card["widths"] = widths
	card["steps"] = c.Steps
	card["loss"] = loss
	return ae, nil
}

// task is the forward graph for training: the mean squared reconstruction error of a batch of patterns, plus
// the penalty on what the tanh layers add to it.
func (a *autoencoder) task(batch, features int, penalty float64) train.Task {
	b := &onnx.Builder{}
	t := train.Task{Loss: "loss"}
	x := b.Input("x", onnx.Float, int64(batch), int64(features))
	deep := dense(b, x, a.deep, "Tanh", &t.Params)
	y := b.Node("Add", []string{deep, dense(b, x, a.linear, "", &t.Params)})
	e := meanSquare(b, b.Node("Sub", []string{y, x}))
	e = b.Node("Add", []string{e, b.Node("Mul", []string{meanSquare(b, deep), b.Scalar(float32(penalty))})})
	b.NodeTo([]string{t.Loss}, "Reshape", []string{e, b.Ints(1)})
	t.Forward = b.Graph()
	return t
}

// warmStart takes the weights out of an exported autoencoder.
func (a *autoencoder) warmStart(model []byte) error {
	constants, err := stored(model)
	if err != nil {
		return err
	}
	a.each(func(l *layer) {
		if e := l.takeKernel(constants[a.head.prefix+l.name+".w"], constants[a.head.prefix+l.name+".b"]); e != nil {
			err = e
		}
	})
	return err
}

func (a *autoencoder) weights() []float64 { return []float64{1} }

func (a *autoencoder) emit(b *onnx.Builder, z string) ([]string, string) {
	h := a.head
	deep := along(b, z, h.prefix, a.deep, "Tanh", h.pattern)
	y := b.Node("Add", []string{deep, along(b, z, h.prefix, a.linear, "", h.pattern)})
	q, channels := h.residual(b, b.Node("Sub", []string{h.unfold(b, z), y}))
	return []string{q}, channels
}
