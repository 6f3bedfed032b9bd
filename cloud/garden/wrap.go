package garden

import (
	"errors"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// wrapped is a foreign network in a graph that keeps the image contract, so
// that the checks and the runtime that devices use can judge it.
type wrapped struct {
	model   []byte
	input   string
	outputs []string
	notes   []string
}

// side is what a free height or width becomes.
const side = 224

// ImageNet's means and deviations, which networks without word of their own want.
var (
	usualMean = []float32{123.675, 116.28, 103.53}
	usualStd  = []float32{58.395, 57.12, 57.375}
)

// readsWindows says that the graph's input has no more dimensions than a window
// of sensor values.
func readsWindows(g *onnxpb.GraphProto) bool {
	if len(g.GetOutput()) == 0 || len(g.GetInput()) == 0 {
		return false
	}
	n := len(g.Input[0].GetType().GetTensorType().GetShape().GetDim())
	return n == 2 || n == 3
}

// wrap finds how a network reads pictures and puts pixels before it and an
// embedding behind it.
func wrap(m *onnxpb.ModelProto) (wrapped, error) {
	var w wrapped
	g := m.GetGraph()
	if g == nil || len(g.Output) == 0 {
		return w, errors.New("the file has no graph with an output")
	}
	constant := map[string]bool{}
	for _, t := range g.Initializer {
		constant[t.GetName()] = true
	}
	var in *onnxpb.ValueInfoProto
	for _, v := range g.Input {
		if constant[v.GetName()] {
			continue // old files list their weights as inputs
		}
		if in != nil {
			return w, fmt.Errorf("the graph has several inputs (%s, %s): a backbone reads one picture", in.GetName(), v.GetName())
		}
		in = v
	}
	if in == nil {
		return w, errors.New("the graph has no input")
	}
	tensor := in.GetType().GetTensorType()
	dims := tensor.GetShape().GetDim()
	if tensor == nil || onnx.DataType(tensor.GetElemType()) != onnx.Float || len(dims) != 4 {
		return w, fmt.Errorf("input %s is not float [batch,3,height,width] or [batch,height,width,3]: a model of another kind has to carry Swell's contract", in.GetName())
	}
	var shape [3]int64 // without the batch
	for i, d := range dims[1:] {
		shape[i] = d.GetDimValue()
	}
	first := shape[0] == 3
	if !first && shape[2] != 3 {
		return w, fmt.Errorf("input %s is %v: a picture has three colours, first or last", in.GetName(), shape)
	}
	height, width := &shape[1], &shape[2]
	if !first {
		height, width = &shape[0], &shape[1]
	}
	for _, s := range []*int64{height, width} {
		if *s <= 0 {
			*s = side
			w.notes = append(w.notes, fmt.Sprintf("a free side was taken as %d pixels", side))
		}
	}
	w.input = fmt.Sprintf("float [batch,%d,%d,%d]", shape[0], shape[1], shape[2])
	w.notes = append(slices.Compact(w.notes), "pixels are given to it by ImageNet's means and deviations")

	values, err := onnx.Infer(g, map[string][]int64{in.GetName(): {1, shape[0], shape[1], shape[2]}})
	if err != nil {
		return w, err
	}
	for _, o := range g.Output {
		v, ok := values.All[o.GetName()]
		if !ok {
			return w, fmt.Errorf("nothing computes output %s", o.GetName())
		}
		w.outputs = append(w.outputs, fmt.Sprintf("%s %v", o.GetName(), v.Shape))
	}
	out := values.All[g.Output[0].GetName()]
	if out.Type != onnx.Float || len(out.Shape) != 2 && len(out.Shape) != 4 {
		return w, fmt.Errorf("output %s is %v %v: want features [batch,D] or [batch,D,height,width]", g.Output[0].GetName(), out.Type, out.Shape)
	}
	size := out.Shape[1]
	c := contract.Contract{Kind: Backbone, Window: 1, Stride: 1, Threshold: 1, Image: &contract.Image{Height: int(*height), Width: int(*width), Embedding: int(size)}}
	if err := c.Validate(); err != nil {
		return w, err
	}

	b := onnx.Builder{Prefix: "garden/"}
	pixels := b.Input(contract.Pixels, onnx.Uint8, onnx.Batch, *height, *width, 3)
	x := b.Node("Cast", []string{pixels}, onnx.Int("to", int64(onnx.Float)))
	x = b.Node("Sub", []string{x, b.Floats("garden/mean", usualMean, 3)})
	x = b.Node("Div", []string{x, b.Floats("garden/deviation", usualStd, 3)})
	if first {
		x = b.Node("Transpose", []string{x}, onnx.Ints("perm", 0, 3, 1, 2))
	}
	b.NodeTo([]string{in.GetName()}, "Identity", []string{x})
	graph := b.Graph()
	graph.Node = append(graph.Node, g.Node...)
	graph.Initializer = append(graph.Initializer, g.Initializer...)
	y := g.Output[0].GetName()
	if len(out.Shape) == 4 {
		y = b.Node("GlobalAveragePool", []string{y})
	}
	b.NodeTo([]string{contract.Embedding}, "Flatten", []string{y}, onnx.Int("axis", 1))
	mean := slices.Repeat([]float32{1 / float32(size)}, int(size))
	s := b.Node("MatMul", []string{contract.Embedding, b.Floats("garden/average", mean, size, 1)})
	b.NodeTo([]string{contract.Score}, "Reshape", []string{s, b.Ints(-1)})
	under := b.Node("LessOrEqual", []string{contract.Score, b.Scalar(1)})
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{under})
	b.Output(contract.Score, onnx.Float, onnx.Batch)
	b.Output(contract.Anomaly, onnx.Bool, onnx.Batch)
	b.Output(contract.Embedding, onnx.Float, onnx.Batch, size)
	if w.model, err = onnx.Marshal("garden", graph, c.Metadata()); err != nil {
		return w, fmt.Errorf("wrap the network: %w", err)
	}
	_, err = onnx.Check(w.model, onnx.Limits{Bytes: 2 * MaxBytes, Activations: limits.Activations})
	return w, err
}
