package train

// The rules of operations that move elements or sum them up.

import (
	"errors"

	"slices"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

func (t *tape) reduce(n *onnxpb.NodeProto, dy string) error {
	in, out := t.shape(n.Input[0]), t.shape(n.Output[0])
	axes, err := t.values.ReducedAxes(n)
	if err != nil {
		return err
	}
	kept := slices.Clone(in)
	for _, a := range axes {
		kept[a] = 1
	}
	if !slices.Equal(kept, out) {
		dy = t.op("Reshape", dy, t.b.Ints(kept...))
	}
	if n.GetOpType() == "ReduceMean" {
		dy = t.op("Mul", dy, t.b.Scalar(float32(size(kept))/float32(size(in))))
	}
	t.give(n.Input[0], t.op("Expand", dy, t.b.Ints(in...)), in)
	return nil
}

// reshape also serves the operations that add or remove dimensions of 1.
func (t *tape) reshape(n *onnxpb.NodeProto, dy string) error {
	in := t.shape(n.Input[0])
	t.give(n.Input[0], t.op("Reshape", dy, t.b.Ints(in...)), in)
	return nil
}

func (t *tape) transpose(n *onnxpb.NodeProto, dy string) error {
	in := t.shape(n.Input[0])
	if len(n.Attribute) == 0 {
		t.give(n.Input[0], t.op("Transpose", dy), in)
		return nil
	}
	perm := n.Attribute[0].Ints
	back := make([]int64, len(perm))
	for i, p := range perm {
		back[p] = int64(i)
	}
	t.give(n.Input[0], t.b.Node("Transpose", []string{dy}, onnx.Ints("perm", back...)), in)
	return nil
}

func (t *tape) identity(n *onnxpb.NodeProto, dy string) error {
	t.give(n.Input[0], dy, t.shape(n.Output[0]))
	return nil
}

// concat cuts the derivative into the parts that were joined.
func (t *tape) concat(n *onnxpb.NodeProto, dy string) error {
	axis := attribute(n, "axis").GetI()
	if axis < 0 {
		axis += int64(len(t.shape(n.Output[0])))
	}
	from := int64(0)
	for _, in := range n.Input {
		shape := t.shape(in)
		to := from + shape[axis]
		if t.needs[in] {
			t.give(in, t.op("Slice", dy, t.b.Ints(from), t.b.Ints(to), t.b.Ints(axis)), shape)
		}
		from = to
	}
	return nil
}

// slice puts the derivative back between zeros.
func (t *tape) slice(n *onnxpb.NodeProto, dy string) error {
	in, out := t.shape(n.Input[0]), t.shape(n.Output[0])
	starts, axes, steps, err := t.values.Sliced(n)
	if err != nil {
		return err
	}
	pads := make([]int64, 2*len(in))
	for i, axis := range axes {
		if steps[i] != 1 {
			return errors.New("only steps of 1 are supported")
		}
		pads[axis] = starts[i]
		pads[axis+len(in)] = in[axis] - starts[i] - out[axis]
	}
	t.give(n.Input[0], t.op("Pad", dy, t.b.Ints(pads...)), in)
	return nil
}
