package zoo

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/train"
)

// forecaster says from the rows before what the newest row of a pattern will be, as a change against the row
// before it, and scores how wrong it was. A linear path and tanh layers add up, as in the autoencoders.
type forecaster struct {
	head         *head
	deep, linear []layer
}

func fitForecast(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (detector, error) {
	if c.Pattern < 2 {
		return nil, fmt.Errorf("a pattern of %d samples: a forecast needs rows to look back on; want 2 or more", c.Pattern)
	}
	past := h.channels * (h.pattern - 1)
	hidden := c.Hidden
	if len(hidden) == 0 {
		hidden = []int{min(max(past, 16), 64), min(max(past/2, 8), 32)}
	}
	widths := append(append([]int{past}, hidden...), h.channels)
	random := rand.NewPCG(c.Seed, 0xf0ca)
	rng := rand.New(random)
	f := &forecaster{head: h, deep: layers("deep", widths, rng), linear: layers("linear", []int{past, h.channels}, rng)}
	if c.WarmStart != nil {
		if err := f.warmStart(c.WarmStart); err != nil {
			return nil, fmt.Errorf("warm start: %w", err)
		}
	}
	weights, loss, err := descend(ctx, f.task(batchOf(m, c), c.DeepPenalty), m, c, random, card)
	if err != nil {
		return nil, err
	}
	f.each(func(l *layer) { l.w, l.b = weights[l.name+".w"], weights[l.name+".b"] })
	card["widths"], card["steps"], card["loss"] = widths, c.Steps, loss
	return f, nil
}

func (f *forecaster) each(do func(*layer)) {
	for _, ls := range [][]layer{f.deep, f.linear} {
		for i := range ls {
			do(&ls[i])
		}
	}
}

func (f *forecaster) task(batch int, penalty float64) train.Task {
	b := &onnx.Builder{}
	t := train.Task{Loss: "loss"}
	h, past := f.head, int64(f.head.pattern-1)
	x := b.Input("x", onnx.Float, int64(batch), int64(h.channels), int64(h.pattern))
	cut := func(from, to int64) string {
		return b.Node("Slice", []string{x, b.Ints(from), b.Ints(to), b.Ints(2)})
	}
	before := b.Node("Reshape", []string{cut(0, past), b.Ints(int64(batch), int64(h.channels)*past)})
	change := b.Node("Reshape", []string{b.Node("Sub", []string{cut(past, past+1), cut(past-1, past)}), b.Ints(int64(batch), int64(h.channels))})
	deep := dense(b, before, f.deep, "Tanh", &t.Params)
	y := b.Node("Add", []string{deep, dense(b, before, f.linear, "", &t.Params)})
	e := meanSquare(b, b.Node("Sub", []string{y, change}))
	e = b.Node("Add", []string{e, b.Node("Mul", []string{meanSquare(b, deep), b.Scalar(float32(penalty))})})
	b.NodeTo([]string{t.Loss}, "Reshape", []string{e, b.Ints(1)})
	t.Forward = b.Graph()
	return t
}

func (f *forecaster) warmStart(model []byte) error {
	constants, err := stored(model)
	if err != nil {
		return err
	}
	f.each(func(l *layer) {
		if e := l.takeKernel(constants[f.head.prefix+l.name+".w"], constants[f.head.prefix+l.name+".b"]); e != nil {
			err = e
		}
	})
	return err
}

func (f *forecaster) weights() []float64 { return []float64{1} }

func (f *forecaster) emit(b *onnx.Builder, z string) ([]string, string) {
	h := f.head
	cut := func(from, to int) string {
		return b.Node("Slice", []string{z, b.Ints(int64(from)), b.Ints(int64(to)), b.Ints(2)})
	}
	before := cut(0, h.window-1)
	y := b.Node("Add", []string{along(b, before, h.prefix, f.deep, "Tanh", h.pattern-1), along(b, before, h.prefix, f.linear, "", h.pattern-1)})
	change := b.Node("Sub", []string{cut(h.pattern-1, h.window), cut(h.pattern-2, h.window-1)}) // [batch, channels, smooth]
	r := b.Node("Sub", []string{change, y})
	channels := b.Node("ReduceMean", []string{b.Node("Mul", []string{r, r})}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	return []string{b.Node("ReduceSum", []string{channels, b.Ints(1)}, onnx.Int("keepdims", 0))}, channels
}
