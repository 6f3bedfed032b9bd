package train

import (
	"errors"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// maxUnrolled bounds the steps in time of a GRU: each becomes about 20 operations, and as many backwards.
const maxUnrolled = 512

// unrolled returns f with every GRU written out step by step in operations that have a gradient. A graph
// without one comes back as it is; f is not changed.
func unrolled(f *onnxpb.GraphProto, values onnx.Values) (*onnxpb.GraphProto, error) {
	if !slices.ContainsFunc(f.Node, func(n *onnxpb.NodeProto) bool { return n.GetOpType() == "GRU" }) {
		return f, nil
	}
	out := &onnxpb.GraphProto{Name: f.Name, Input: f.Input, Output: f.Output}
	constants := slices.Clone(f.Initializer)
	for i, n := range f.Node {
		if n.GetOpType() != "GRU" {
			out.Node = append(out.Node, n)
			continue
		}
		b := &onnx.Builder{Prefix: fmt.Sprintf("step.gru%d.", i)}
		if err := unrollGRU(b, n, values); err != nil {
			return nil, fmt.Errorf("write out GRU %q: %w", n.GetName(), err)
		}
		out.Node = append(out.Node, b.Graph().Node...)
		constants = append(constants, b.Graph().Initializer...)
	}
	out.Initializer = constants
	return out, nil
}

// unrollGRU writes out a GRU of one direction (Cho and others, 2014, as ONNX defines it: gates z, r, h).
func unrollGRU(b *onnx.Builder, n *onnxpb.NodeProto, values onnx.Values) error {
	input := func(i int) string {
		if i < len(n.Input) {
			return n.Input[i]
		}
		return ""
	}
	switch {
	case attribute(n, "direction") != nil && string(attribute(n, "direction").S) != "forward":
		return errors.New("only the direction forward is supported")
	case attribute(n, "activations") != nil || attribute(n, "clip") != nil:
		return errors.New("only the standard activations without clip are supported")
	case attribute(n, "layout").GetI() != 0:
		return errors.New("only layout 0 is supported")
	case input(4) != "":
		return errors.New("lengths of sequences are not supported")
	}
	x, r := values.All[n.Input[0]].Shape, values.All[n.Input[2]].Shape
	steps, rows, width, hidden := x[0], x[1], x[2], r[2]
	if steps < 1 || steps > maxUnrolled {
		return fmt.Errorf("it has %d steps in time: 1 to %d are supported", steps, maxUnrolled)
	}
	op := func(op string, in ...string) string { return b.Node(op, in) }
	part := func(v string, axis, from, to int64) string {
		return op("Slice", v, b.Ints(from), b.Ints(to), b.Ints(axis))
	}
	gate := func(v string, k int64) string { return part(v, 1, k*hidden, (k+1)*hidden) }
	weights := func(v string, columns int64) string {
		return b.Node("Transpose", []string{op("Reshape", v, b.Ints(3*hidden, columns))}, onnx.Ints("perm", 1, 0))
	}
	// What the inputs add to the gates does not depend on the state: one product for all steps.
	in := op("MatMul", op("Reshape", n.Input[0], b.Ints(steps*rows, width)), weights(n.Input[1], width))
	recur := weights(n.Input[2], hidden)
	bias := ""
	if input(3) != "" {
		both := op("Reshape", n.Input[3], b.Ints(1, 6*hidden))
		in, bias = op("Add", in, part(both, 1, 0, 3*hidden)), part(both, 1, 3*hidden, 6*hidden)
	}
	biased := func(v, bias string) string {
		if bias == "" {
			return v
		}
		return op("Add", v, bias)
	}
	late := attribute(n, "linear_before_reset").GetI() != 0
	var recurH, biasZR, biasH string
	if !late {
		recurH = gate(recur, 2)
		recur = part(recur, 1, 0, 2*hidden)
		if bias != "" {
			biasZR, biasH = part(bias, 1, 0, 2*hidden), gate(bias, 2)
		}
	}
	h := b.Floats(b.Prefix+"zero", make([]float32, rows*hidden), rows, hidden)
	if input(5) != "" {
		h = op("Reshape", input(5), b.Ints(rows, hidden))
	}
	var all []string
	for t := range steps {
		now := part(in, 0, t*rows, (t+1)*rows)
		var past, reset, fresh string
		if late {
			past = biased(op("MatMul", h, recur), bias)
		} else {
			past = biased(op("MatMul", h, recur), biasZR)
		}
		reset = op("Sigmoid", op("Add", gate(now, 1), gate(past, 1)))
		if late {
			fresh = op("Mul", reset, gate(past, 2))
		} else {
			fresh = biased(op("MatMul", op("Mul", reset, h), recurH), biasH)
		}
		fresh = op("Tanh", op("Add", gate(now, 2), fresh))
		keep := op("Sigmoid", op("Add", gate(now, 0), gate(past, 0)))
		h = op("Add", fresh, op("Mul", keep, op("Sub", h, fresh)))
		all = append(all, op("Reshape", h, b.Ints(1, 1, rows, hidden)))
	}
	b.NodeTo(n.Output[:1], "Concat", all, onnx.Int("axis", 0))
	if len(n.Output) > 1 {
		b.NodeTo(n.Output[1:2], "Reshape", []string{h, b.Ints(1, rows, hidden)})
	}
	return nil
}
