package onnx

import (
	"fmt"
	"math"
	"slices"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// Exporters write shapes that depend on the batch as small calculations inside the graph. The operations here
// make such shapes and use them; fold does the calculations ahead of the run.

// maxFolded is the largest list of integers that is calculated ahead.
const maxFolded = 64

// known returns v's integers where they are known before the run.
func known(v Value) ([]int64, bool) {
	if v.constant == nil || v.Type != Int64 {
		return nil, false
	}
	if n, err := count(v.Shape); err != nil || n > maxFolded {
		return nil, false
	}
	list, err := intData(v.constant)
	return list, err == nil
}

// fold notes the result of an operation on integers that are all known.
func fold(n *inference, outs []Value) {
	if len(outs) != 1 || outs[0].Type != Int64 || outs[0].constant != nil {
		return
	}
	size, err := count(outs[0].Shape)
	if err != nil || size > maxFolded {
		return
	}
	op := n.node.GetOpType()
	if op == "Shape" {
		outs[0].constant = integers(n.in[0].Shape)
		return
	}
	var in [][]int64
	for i, v := range n.in {
		list, ok := known(v)
		// Whole numbers that come as another type, such as a float, are not followed.
		if !ok && n.node.Input[i] != "" {
			return
		}
		in = append(in, list)
	}
	var out []int64
	switch op {
	case "Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten":
		out = in[0]
	case "Gather":
		if len(n.in[0].Shape) != 1 {
			return
		}
		for _, i := range in[1] {
			if i < 0 {
				i += int64(len(in[0]))
			}
			if i < 0 || i >= int64(len(in[0])) {
				return
			}
			out = append(out, in[0][i])
		}
	case "Concat":
		out = slices.Concat(in...)
	case "Slice":
		list, err := cuts(n)
		if err != nil {
			return
		}
		out = pick(in[0], n.in[0].Shape, outs[0].Shape, func(at []int64) {
			for _, c := range list {
				at[c.axis] = c.from + at[c.axis]*c.step
			}
		})
	case "Transpose":
		perm, ok, _ := n.integers("perm", -1)
		if !ok {
			for i := range n.in[0].Shape {
				perm = append(perm, int64(len(n.in[0].Shape)-1-i))
			}
		}
		out = pick(in[0], n.in[0].Shape, outs[0].Shape, func(at []int64) {
			from := slices.Clone(at)
			for i, axis := range perm {
				at[axis] = from[i]
			}
		})
	case "ConstantOfShape":
		fill, _ := fillOf(n)
		out = slices.Repeat([]int64{fill}, int(size))
	case "Add", "Sub", "Mul", "Div":
		var ok bool
		if out, ok = calculate(op, in[0], in[1]); !ok {
			return
		}
	}
	if int64(len(out)) == size {
		outs[0].constant = integers(out)
	}
}

// pick makes a list of the given shape from one of shape from: move turns the place of a result into the place
// that it is taken from.
func pick(list, from, shape []int64, move func(at []int64)) []int64 {
	size := int64(1)
	for _, d := range shape {
		size *= d
	}
	var out []int64
	for k := range size {
		at := make([]int64, len(shape))
		for i := len(shape) - 1; i >= 0; i-- {
			at[i], k = k%shape[i], k/shape[i]
		}
		move(at)
		i := int64(0)
		for axis, d := range from {
			i = i*d + at[axis]
		}
		out = append(out, list[i])
	}
	return out
}

// calculate applies op to two lists of which one may be a single number. ok is false where there is no result.
func calculate(op string, a, b []int64) (out []int64, ok bool) {
	if len(a) != len(b) && len(a) != 1 && len(b) != 1 || len(a) == 0 || len(b) == 0 {
		return nil, false
	}
	for i := range max(len(a), len(b)) {
		x, y := a[i%len(a)], b[i%len(b)]
		if max(x, y) > math.MaxInt32 || min(x, y) < math.MinInt32 {
			return nil, false
		}
		switch {
		case op == "Add":
			x += y
		case op == "Sub":
			x -= y
		case op == "Mul":
			x *= y
		case y == 0:
			return nil, false
		default:
			x /= y
		}
		out = append(out, x)
	}
	return out, true
}

func integers(v []int64) *onnxpb.TensorProto {
	return &onnxpb.TensorProto{DataType: new(int32(Int64)), Dims: []int64{int64(len(v))}, Int64Data: slices.Clone(v)}
}

// shapeOf is the whole shape: parts of it are not written by exporters for operator set 17.
func shapeOf(n *inference) ([]Value, error) {
	if len(n.node.Attribute) > 0 {
		return nil, fmt.Errorf("only the whole shape is allowed")
	}
	return one(Int64, []int64{int64(len(n.in[0].Shape))})
}

// fillOf is the integer that a ConstantOfShape of integers repeats.
func fillOf(n *inference) (int64, DataType) {
	t := n.attribute("value").GetT()
	if t == nil {
		return 0, Float
	}
	if list, err := intData(t); err == nil && len(list) == 1 {
		return list[0], Int64
	}
	return 0, DataType(t.GetDataType())
}

func filled(n *inference) ([]Value, error) {
	shape, _, err := n.integers("", 0)
	if err != nil {
		return nil, err
	}
	if t := n.attribute("value").GetT(); t != nil {
		if c, err := count(t.Dims); err != nil || c != 1 {
			return nil, fmt.Errorf("its value is no single number")
		}
	}
	_, kind := fillOf(n)
	return one(kind, slices.Clone(shape))
}

func expand(n *inference) ([]Value, error) {
	shape, _, err := n.integers("", 1)
	if err != nil {
		return nil, err
	}
	s, err := broadcastShapes(n.in[0].Shape, shape)
	if err != nil {
		return nil, err
	}
	return one(n.in[0].Type, s)
}

func tile(n *inference) ([]Value, error) {
	times, _, err := n.integers("", 1)
	if err != nil {
		return nil, err
	}
	return scaled(n, func(i int, d int64) (int64, bool) {
		if len(times) != len(n.in[0].Shape) || times[i] < 0 || times[i] > 1<<20 {
			return 0, false
		}
		return d * times[i], true
	}, times)
}

func pad(n *inference) ([]Value, error) {
	pads, _, err := n.integers("", 1)
	if err != nil {
		return nil, err
	}
	rank := len(n.in[0].Shape)
	return scaled(n, func(i int, d int64) (int64, bool) {
		if len(pads) != 2*rank || min(pads[i], pads[i+rank]) < 0 || max(pads[i], pads[i+rank]) > 1<<20 {
			return 0, false
		}
		return d + pads[i] + pads[i+rank], true
	}, pads)
}

// resize is one to a given size, or by factors.
func resize(n *inference) ([]Value, error) {
	if sizes, ok, err := n.integers("", 3); ok || err != nil {
		if err != nil {
			return nil, err
		}
		return scaled(n, func(i int, _ int64) (int64, bool) {
			return slices.Concat(sizes, []int64{0})[min(i, len(sizes))], len(sizes) == len(n.in[0].Shape)
		}, sizes)
	}
	if len(n.in) < 3 || n.in[2].constant == nil {
		return nil, fmt.Errorf("neither sizes nor scales are known before the run")
	}
	scales, err := FloatData(n.in[2].constant)
	if err != nil {
		return nil, err
	}
	return scaled(n, func(i int, d int64) (int64, bool) {
		if len(scales) != len(n.in[0].Shape) || !(scales[i] > 0) || scales[i] > 1<<16 || d > 1<<32 {
			return 0, false
		}
		return int64(math.Floor(float64(d) * float64(scales[i]))), true
	}, scales)
}

// scaled applies to to every dimension of the input; by is what it goes by, for people.
func scaled(n *inference, to func(i int, d int64) (int64, bool), by any) ([]Value, error) {
	out := slices.Clone(n.in[0].Shape)
	for i, d := range out {
		v, ok := to(i, d)
		if !ok || v < 1 && d > 0 {
			return nil, fmt.Errorf("input %v cannot change by %v", n.in[0].Shape, by)
		}
		out[i] = v
	}
	return one(n.in[0].Type, out)
}

// split cuts into given parts, or into as many equal ones as there are outputs.
func split(n *inference) ([]Value, error) {
	s := n.in[0].Shape
	axis, err := axisOf(n.integer("axis", 0), len(s))
	if err != nil {
		return nil, err
	}
	parts, ok, err := n.integers("", 1)
	if err != nil {
		return nil, err
	}
	outputs := int64(len(n.node.Output))
	if !ok && outputs > 0 && s[axis]%outputs == 0 {
		parts = slices.Repeat([]int64{s[axis] / outputs}, int(outputs))
	}
	var sum int64
	var out []Value
	for _, p := range parts {
		if p < 0 || p > s[axis] {
			break
		}
		sum += p
		shape := slices.Clone(s)
		shape[axis] = p
		out = append(out, Value{Type: n.in[0].Type, Shape: shape})
	}
	if len(out) != len(n.node.Output) || sum != s[axis] {
		return nil, fmt.Errorf("input %v cannot be cut into %v along axis %d", s, parts, axis)
	}
	return out, nil
}

// dropout does nothing in a model that is not being trained.
func dropout(n *inference) ([]Value, error) {
	if len(n.in) == 3 && n.node.Input[2] != "" {
		return nil, fmt.Errorf("training mode is not allowed: export the model for inference")
	}
	return []Value{{Type: n.in[0].Type, Shape: n.in[0].Shape}, {Type: Bool, Shape: slices.Clone(n.in[0].Shape)}}, nil
}
