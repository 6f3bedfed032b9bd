package zoo

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/train"
)

// convolutional is the convolutional autoencoder: two convolutions halve the length of a pattern each, two
// transposed ones bring it back. Few weights see every place of the pattern, so it learns shapes in time from
// less data than dense layers need. As in the dense one, a linear path of the same form runs beside.
type convolutional struct {
	head         *head
	deep, linear []filter
}

// filter is one convolution of length filterLength and stride 2, or, with up, its transpose.
type filter struct {
	name    string
	in, out int
	up      bool
	w, b    []float32 // w is [out, in, length], transposed [in, out, length]
}

const filterLength = 4

// chain makes the four filters between channels, hidden and code planes.
func chain(name string, channels, hidden, code int, rng *rand.Rand) []filter {
	f := func(i, in, out int, up bool) filter {
		return filter{
			name: fmt.Sprintf("%s%d", name, i), in: in, out: out, up: up, b: make([]float32, out),
			w: glorot(in*filterLength, out*filterLength, in*out*filterLength, rng),
		}
	}
	return []filter{f(0, channels, hidden, false), f(1, hidden, code, false), f(2, code, hidden, true), f(3, hidden, channels, true)}
}

// through emits the chain over x [batch, channels, length].
func through(b *onnx.Builder, x, prefix string, fs []filter, between string, params *[]string) string {
	for i, f := range fs {
		op, dims := "Conv", []int64{int64(f.out), int64(f.in), filterLength}
		if f.up {
			op, dims = "ConvTranspose", []int64{int64(f.in), int64(f.out), filterLength}
		}
		w, bias := b.Floats(prefix+f.name+".w", f.w, dims...), b.Floats(prefix+f.name+".b", f.b, int64(f.out))
		*params = append(*params, w, bias)
		x = b.Node(op, []string{x, w, bias}, onnx.Ints("kernel_shape", filterLength), onnx.Ints("strides", 2), onnx.Ints("pads", 1, 1))
		if between != "" && i < len(fs)-1 {
			x = b.Node(between, []string{x})
		}
	}
	return x
}

func (a *convolutional) each(f func(*filter)) {
	for _, fs := range [][]filter{a.deep, a.linear} {
		for i := range fs {
			f(&fs[i])
		}
	}
}

func fitConvAE(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (detector, error) {
	if c.Pattern%4 != 0 || c.Smooth != 1 {
		return nil, fmt.Errorf("a pattern of %d samples over %d patterns: this kind halves its pattern twice and looks at one; want a multiple of 4, and smooth 1", c.Pattern, c.Smooth)
	}
	hidden, code := 2*h.channels+4, max(h.channels/2, 1)
	if len(c.Hidden) > 0 {
		if len(c.Hidden) != 2 {
			return nil, fmt.Errorf("%d widths: this kind has two, of the outer planes and of the code", len(c.Hidden))
		}
		hidden, code = c.Hidden[0], c.Hidden[1]
	}
	if code >= 4*h.channels {
		return nil, fmt.Errorf("the code has %d planes for %d channels: it must hold less than the pattern, or everything is reconstructed", code, h.channels)
	}
	random := rand.NewPCG(c.Seed, 0xc0de)
	rng := rand.New(random)
	a := &convolutional{head: h, deep: chain("deep", h.channels, hidden, code, rng), linear: chain("linear", h.channels, hidden, code, rng)}
	if c.WarmStart != nil {
		if err := a.warmStart(c.WarmStart); err != nil {
			return nil, fmt.Errorf("warm start: %w", err)
		}
	}
	weights, loss, err := descend(ctx, a.task(batchOf(m, c), c.DeepPenalty), m, c, random, card)
	if err != nil {
		return nil, err
	}
	a.each(func(f *filter) { f.w, f.b = weights[f.name+".w"], weights[f.name+".b"] })
	card["planes"], card["code"], card["steps"], card["loss"] = hidden, code, c.Steps, loss
	return a, nil
}

func (a *convolutional) task(batch int, penalty float64) train.Task {
	b := &onnx.Builder{}
	t := train.Task{Loss: "loss"}
	x := b.Input("x", onnx.Float, int64(batch), int64(a.head.channels), int64(a.head.pattern))
	deep := through(b, x, "", a.deep, "Tanh", &t.Params)
	y := b.Node("Add", []string{deep, through(b, x, "", a.linear, "", &t.Params)})
	e := meanSquare(b, b.Node("Sub", []string{y, x}))
	e = b.Node("Add", []string{e, b.Node("Mul", []string{meanSquare(b, deep), b.Scalar(float32(penalty))})})
	b.NodeTo([]string{t.Loss}, "Reshape", []string{e, b.Ints(1)})
	t.Forward = b.Graph()
	return t
}

func (a *convolutional) warmStart(model []byte) error {
	constants, err := stored(model)
	if err != nil {
		return err
	}
	a.each(func(f *filter) {
		w, b := constants[a.head.prefix+f.name+".w"], constants[a.head.prefix+f.name+".b"]
		if len(w) != len(f.w) || len(b) != len(f.b) {
			err = fmt.Errorf("the model has no filter %q from %d to %d planes: fit it from scratch", f.name, f.in, f.out)
			return
		}
		copy(f.w, w)
		copy(f.b, b)
	})
	return err
}

func (a *convolutional) weights() []float64 { return []float64{1} }

func (a *convolutional) emit(b *onnx.Builder, z string) ([]string, string) {
	var unused []string
	deep := through(b, z, a.head.prefix, a.deep, "Tanh", &unused)
	y := b.Node("Add", []string{deep, through(b, z, a.head.prefix, a.linear, "", &unused)})
	r := b.Node("Reshape", []string{b.Node("Sub", []string{z, y}), b.Ints(0, int64(a.head.channels*a.head.pattern), 1)})
	q, channels := a.head.residual(b, r)
	return []string{q}, channels
}
