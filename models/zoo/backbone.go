package zoo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/models/train"
)

// backbone is a network that somebody trained on other images, up to the features before its last layer.
type backbone struct {
	graph    *onnxpb.GraphProto // only what the features need; names begin with "backbone."
	input    string
	last     bool  // colours are the last dimension of its input, not the second
	size     int64 // of the features
	features string
	spots    string // the map [batch, planes, rows, columns] whose mean the features are; "": unknown
	planes   int64
	rows     int64 // of the map
	columns  int64

	source  *onnxpb.GraphProto // the whole network, as it came
	answers int64              // how many numbers it puts out for an image; 0 where that is no list

	mean, scale [3]float32
	weights     map[string]*onnxpb.TensorProto // constants by name
}

// ImageNet's usual means and deviations, for pixel values of 0 to 255.
var (
	imageNetMean  = [3]float32{123.675, 116.28, 103.53}
	imageNetScale = [3]float32{1 / 58.395, 1 / 57.12, 1 / 57.375}
)

// backboneSide is the side of images for a backbone that takes any.
const backboneSide = 224

// colours is the number of colours of an image, the one dimension that a backbone's input must have.
const colours = 3

// backboneInput reads what a backbone wants: height and width in pixels, and whether colours come last.
func backboneInput(m *onnxpb.ModelProto) (name string, height, width int, last bool, err error) {
	g := m.GetGraph()
	constants := map[string]bool{}
	for _, t := range g.GetInitializer() {
		constants[t.GetName()] = true
	}
	var inputs []*onnxpb.ValueInfoProto
	for _, in := range g.GetInput() {
		if !constants[in.GetName()] { // older files list constants among the inputs
			inputs = append(inputs, in)
		}
	}
	if len(inputs) != 1 {
		return "", 0, 0, false, fmt.Errorf("the backbone has %d inputs: want one, an image", len(inputs))
	}
	t := inputs[0].GetType().GetTensorType()
	dims := t.GetShape().GetDim()
	if onnx.DataType(t.GetElemType()) != onnx.Float || len(dims) != 4 {
		return "", 0, 0, false, fmt.Errorf("the backbone's input %q is no float32 image of four dimensions", inputs[0].GetName())
	}
	h, w := dims[2], dims[3]
	switch {
	case dims[1].GetDimValue() == colours:
	case dims[3].GetDimValue() == colours:
		last, h, w = true, dims[1], dims[2]
	default:
		return "", 0, 0, false, fmt.Errorf("the backbone's input %q has no dimension of three colours", inputs[0].GetName())
	}
	height, width = int(h.GetDimValue()), int(w.GetDimValue())
	setDefault(&height, backboneSide)
	setDefault(&width, backboneSide)
	return inputs[0].GetName(), height, width, last, nil
}

// openBackbone reads c.Backbone and finds its features: what goes into its last matrix product, or what it puts
// out where there is none.
func openBackbone(c ImageConfig) (*backbone, error) {
	m, err := onnx.ReadForeign(c.Backbone, onnx.Limits{})
	if err != nil {
		return nil, fmt.Errorf("backbone: %w", err)
	}
	k := &backbone{mean: c.Mean, scale: c.Scale, weights: map[string]*onnxpb.TensorProto{}}
	if k.scale == [3]float32{} {
		k.mean, k.scale = imageNetMean, imageNetScale
	}
	if k.input, _, _, k.last, err = backboneInput(m); err != nil {
		return nil, err
	}
	g := proto.CloneOf(m.GetGraph())
	g.Input = slices.DeleteFunc(g.Input, func(v *onnxpb.ValueInfoProto) bool { return v.GetName() != k.input })
	// Two images, so that a batch of one that was written into the file shows.
	dims := []int64{2, colours, int64(c.Height), int64(c.Width)}
	if k.last {
		dims = []int64{2, int64(c.Height), int64(c.Width), colours}
	}
	values, err := onnx.Infer(g, map[string][]int64{k.input: dims})
	if err != nil {
		return nil, fmt.Errorf("backbone for images of %d by %d pixels, two at once: %w", c.Height, c.Width, err)
	}
	if len(g.Output) == 0 {
		return nil, errors.New("the backbone has no output")
	}
	maker := map[string]*onnxpb.NodeProto{}
	for _, n := range g.Node {
		for _, o := range n.Output {
			maker[o] = n
		}
	}
	through := func(v string, ops ...string) string {
		for maker[v] != nil && slices.Contains(ops, maker[v].GetOpType()) {
			v = maker[v].Input[0]
		}
		return v
	}
	k.features = through(g.Output[0].GetName(), "Softmax", "LogSoftmax", "Sigmoid", "Identity", "Add")
	if n := maker[k.features]; n != nil && (n.GetOpType() == "Gemm" || n.GetOpType() == "MatMul") {
		k.features = n.Input[0]
	} else {
		k.features = g.Output[0].GetName()
	}
	pool := through(k.features, "Flatten", "Reshape", "Squeeze", "Identity", "Clip", "Relu")
	if n := maker[pool]; n != nil && slices.Contains([]string{"GlobalAveragePool", "ReduceMean", "AveragePool"}, n.GetOpType()) {
		k.spots = n.Input[0]
	}
	shape := values.All[k.features].Shape
	switch {
	case len(shape) == 4 && k.spots == "":
		k.spots = k.features
		k.size = shape[1]
	case len(shape) == 2:
		k.size = shape[1]
	default:
		return nil, fmt.Errorf("the backbone's features %q have shape %v: want [batch, n] before the last layer", k.features, shape)
	}
	if shape[0] != 2 {
		return nil, fmt.Errorf("the backbone gives %d results for two images: export it with a free batch dimension", shape[0])
	}
	if k.spots != "" {
		if s := values.All[k.spots].Shape; len(s) == 4 && !k.last {
			k.planes, k.rows, k.columns = s[1], s[2], s[3]
		} else {
			k.spots = ""
		}
	}
	if out := values.All[answered(g)].Shape; len(out) == 2 {
		k.answers = out[1]
	}
	k.source = g
	k.graph = subgraph(g, "backbone.", k.features)
	for _, t := range k.graph.Initializer {
		k.weights[t.GetName()] = t
	}
	for _, name := range []*string{&k.input, &k.features, &k.spots} {
		if *name != "" {
			*name = "backbone." + *name
		}
	}
	return k, nil
}

// keepAnswer keeps, beside the features, what the network puts out before it turns it into probabilities, and
// returns its name.
func (k *backbone) keepAnswer() string {
	v := answered(k.source)
	k.graph = subgraph(k.source, "backbone.", strings.TrimPrefix(k.features, "backbone."), v)
	return "backbone." + v
}

// look appends the backbone to b over x [batch, 3, height, width] of 0 to 255, and returns its features
// [batch, size].
func (k *backbone) look(b *onnx.Builder, x string) string {
	x = b.Node("Sub", []string{x, b.Floats("backbone.mean", k.mean[:], 1, colours, 1, 1)})
	scaled := []string{x, b.Floats("backbone.scale", k.scale[:], 1, colours, 1, 1)}
	if k.last {
		x = b.Node("Mul", scaled)
		b.NodeTo([]string{k.input}, "Transpose", []string{x}, onnx.Ints("perm", 0, 2, 3, 1))
	} else {
		b.NodeTo([]string{k.input}, "Mul", scaled)
	}
	g := b.Graph()
	g.Initializer = append(g.Initializer, k.graph.Initializer...)
	g.Node = append(g.Node, k.graph.Node...)
	if k.spots == k.features {
		return b.Node("Flatten", []string{b.Node("GlobalAveragePool", []string{k.features})})
	}
	return k.features
}

// linearHead is one linear layer on a backbone's features, which are normalized first.
type linearHead struct {
	eye         *backbone
	mean, scale []float32 // of the features; nil: as they are
	last        layer
}

func (h *linearHead) emit(b *onnx.Builder, x string) (string, int, string) {
	e := h.eye.look(b, x)
	f := e
	if h.mean != nil {
		f = b.Node("Sub", []string{f, b.Floats("features.mean", h.mean, h.eye.size)})
		f = b.Node("Mul", []string{f, b.Floats("features.scale", h.scale, h.eye.size)})
	}
	var unused []string
	return e, int(h.eye.size), dense(b, f, []layer{h.last}, "", &unused)
}

var errNoBackbone = errors.New("this kind needs a backbone: name one that was imported into the garden")

// fitHead computes the features of each image once and trains the last layer on them.
func fitHead(ctx context.Context, d ImageDataset, use part, c ImageConfig, card map[string]any) (imageNet, error) {
	if c.Backbone == nil {
		return nil, errNoBackbone
	}
	eye, err := openBackbone(c)
	if err != nil {
		return nil, err
	}
	seen, err := observe(ctx, d, use.fit, c.Library, eye.look, eye.size)
	if err != nil {
		return nil, err
	}
	random := rand.NewPCG(c.Seed, 0x4ead)
	rng := rand.New(random)
	h := &linearHead{eye: eye, last: layers("last", []int{int(eye.size), len(d.Classes)}, rng)[0]}
	h.mean, h.scale = standardize(seen)
	batch := min(c.BatchSize, len(use.fit))
	b := &onnx.Builder{}
	task := train.Task{Loss: "loss", Optimizer: train.Adam{Decay: 0.01}}
	x := b.Input("x", onnx.Float, int64(batch), eye.size)
	crossEntropy(b, &task, dense(b, x, []layer{h.last}, "", &task.Params), batch, len(d.Classes))
	steps := stepsOf(c, len(use.fit), batch, 60)
	var held [][]float32 // features of the images held out
	if c.Patience > 0 {
		if held, err = observe(ctx, d, use.held, c.Library, eye.look, eye.size); err != nil {
			return nil, err
		}
	}
	weights, loss, err := classify(ctx, task, d, use, batch, steps, c, random, card, func(k int, x []float32) {
		copy(x, seen[k])
	}, func(k int, x []float32) {
		for i, v := range held[k] {
			x[i] = (v - h.mean[i]) * h.scale[i]
		}
	})
	if err != nil {
		return nil, err
	}
	h.last.w, h.last.b = weights[h.last.name+".w"], weights[h.last.name+".b"]
	card["features"], card["steps"], card["loss"] = eye.size, steps, loss
	return h, nil
}

// fitFineTune trains a backbone's own weights, and a new last layer, at a low rate.
func fitFineTune(ctx context.Context, d ImageDataset, use part, c ImageConfig, card map[string]any) (imageNet, error) {
	if c.Backbone == nil {
		return nil, errNoBackbone
	}
	eye, err := openBackbone(c)
	if err != nil {
		return nil, err
	}
	random := rand.NewPCG(c.Seed, 0xf17e)
	rng := rand.New(random)
	h := &linearHead{eye: eye, last: layers("last", []int{int(eye.size), len(d.Classes)}, rng)[0]}
	batch := min(c.BatchSize, len(use.fit))
	b := &onnx.Builder{}
	task := train.Task{Loss: "loss", Optimizer: train.Adam{Decay: 0.01}}
	x := b.Input("x", onnx.Float, int64(batch), colours, int64(d.Height), int64(d.Width))
	f := eye.look(b, x)
	task.Params = eye.trainable()
	crossEntropy(b, &task, dense(b, f, []layer{h.last}, "", &task.Params), batch, len(d.Classes))
	steps := stepsOf(c, len(use.fit), batch, 8)
	p := newPictures(d, use.fit)
	// What the backbone's own normalization takes: three planes of 0 to 255.
	raw := func(x []float32) {
		area := d.Height * d.Width
		for i, v := range x[:p.planes*area] {
			x[i] = v/p.scale + p.mean
		}
		if p.planes == 1 {
			copy(x[area:2*area], x[:area])
			copy(x[2*area:], x[:area])
		}
	}
	weights, loss, err := classify(ctx, task, d, use, batch, steps, c, random, card, func(k int, x []float32) {
		p.draw(k, x[:len(p.data[k])], !c.Upright, rng)
		raw(x)
	}, func(k int, x []float32) {
		p.normalize(d.Images[use.held[k]], x)
		raw(x)
	})
	if err != nil {
		return nil, err
	}
	for name, w := range weights {
		if t := eye.weights[name]; t != nil {
			onnx.SetFloatData(t, w)
		}
	}
	h.last.w, h.last.b = weights[h.last.name+".w"], weights[h.last.name+".b"]
	card["features"], card["steps"], card["loss"], card["trained"] = eye.size, steps, loss, len(task.Params)
	return h, nil
}

// trainable lists the backbone's constants that are weights, biases or scales of its layers.
func (k *backbone) trainable() (names []string) {
	for _, n := range k.graph.Node {
		at := 0
		switch n.GetOpType() {
		case "Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization":
			at = len(n.Input)
		case "BatchNormalization":
			at = 3 // behind them its running statistics
		}
		for _, in := range n.Input[min(1, at):at] {
			if t := k.weights[in]; t != nil && onnx.DataType(t.GetDataType()) == onnx.Float && !slices.Contains(names, in) {
				names = append(names, in)
			}
		}
	}
	return names
}
