package onnx

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// Value is what is known of one value in a graph before it runs.
type Value struct {
	Type     DataType
	Shape    []int64             // never nil; no free dimension
	constant *onnxpb.TensorProto // non-nil when the value is stored in the file, or follows from the shapes
	depth    int                 // operations in the longest chain behind it
}

// Values is the result of Infer.
type Values struct {
	All   map[string]Value
	Order []string // names in All: inputs, constants, then as computed
}

// Bytes is how much memory all values that are not constants take together.
func (vs Values) Bytes() int64 {
	var sum int64
	for _, v := range vs.All {
		n, err := count(v.Shape) // Infer has refused what it refuses, and bounded the number of values
		if v.constant != nil || err != nil {
			continue
		}
		if sum += n * elementSize(v.Type); sum > 1<<50 {
			return 1 << 50
		}
	}
	return sum
}

// Infer computes the type and shape of every value in g, given the shape of each input. It fails on
// operations whose output size cannot be known before they run, on operations it does not know, and on
// graphs that are not in execution order or define a name twice. The operations it knows are the ones
// Swell lets through to the runtime.
func Infer(g *onnxpb.GraphProto, inputs map[string][]int64) (Values, error) {
	vs := Values{All: make(map[string]Value, len(g.Node)+len(g.Initializer)+len(g.Input))}
	define := func(name string, v Value) error {
		if name == "" {
			return fmt.Errorf("a value has no name")
		}
		if _, twice := vs.All[name]; twice {
			return fmt.Errorf("value %q is defined twice", name)
		}
		if v.Shape == nil {
			v.Shape = []int64{}
		}
		if _, err := count(v.Shape); err != nil {
			return fmt.Errorf("value %q: %w", name, err)
		}
		vs.All[name] = v
		vs.Order = append(vs.Order, name)
		return nil
	}
	for _, in := range g.Input {
		shape, ok := inputs[in.GetName()]
		if !ok {
			return vs, fmt.Errorf("input %q has no shape", in.GetName())
		}
		if err := define(in.GetName(), Value{Type: DataType(in.GetType().GetTensorType().GetElemType()), Shape: shape}); err != nil {
			return vs, err
		}
	}
	for _, t := range g.Initializer {
		if err := checkTensor(t); err != nil {
			return vs, err
		}
		if err := define(t.GetName(), Value{Type: DataType(t.GetDataType()), Shape: t.Dims, constant: t}); err != nil {
			return vs, err
		}
	}
	for i, node := range g.Node {
		n := inference{node: node}
		where := func(err error) error {
			return fmt.Errorf("operation %d (%s %q): %w", i, node.GetOpType(), node.GetName(), err)
		}
		rule, ok := rules[node.GetOpType()]
		switch {
		case node.GetDomain() == treeDomain:
			rule, ok = treeRule, node.GetOpType() == treeOperation
		case !standardDomain(node.GetDomain()):
			return vs, where(fmt.Errorf("domain %q is not allowed", node.GetDomain()))
		}
		if !ok {
			return vs, where(fmt.Errorf("operation is not allowed"))
		}
		if len(node.Input) < rule.min || len(node.Input) > rule.max {
			return vs, where(fmt.Errorf("has %d inputs: want %d to %d", len(node.Input), rule.min, rule.max))
		}
		for _, a := range node.Attribute {
			if t := a.GetT(); t != nil {
				if err := checkTensor(t); err != nil {
					return vs, where(err)
				}
			}
		}
		depth := 0
		for k, name := range node.Input {
			v, ok := vs.All[name]
			if !ok && !(name == "" && k >= rule.min) {
				return vs, where(fmt.Errorf("input %q is not defined before it is used", name))
			}
			n.in = append(n.in, v)
			depth = max(depth, v.depth)
		}
		outs, err := rule.infer(&n)
		if err != nil {
			return vs, where(err)
		}
		fold(&n, outs)
		if len(node.Output) == 0 || len(node.Output) > len(outs) {
			return vs, where(fmt.Errorf("has %d outputs: want 1 to %d", len(node.Output), len(outs)))
		}
		for k, name := range node.Output {
			outs[k].depth = depth + 1
			if err := define(name, outs[k]); err != nil {
				return vs, where(err)
			}
		}
	}
	return vs, nil
}

// rule says how many inputs an operation takes and what comes out.
type rule struct {
	min, max int
	infer    func(*inference) ([]Value, error)
}

var (
	rules    = map[string]rule{} // of the standard domain
	treeRule = rule{1, 1, trees}
)

func init() {
	add := func(min, max int, f func(*inference) ([]Value, error), ops ...string) {
		for _, op := range ops {
			rules[op] = rule{min, max, f}
		}
	}
	add(0, 0, constant, "Constant")
	add(1, 1, same, "Abs", "Neg", "Sqrt", "Exp", "Log", "Erf", "Sign", "Reciprocal", "Relu", "LeakyRelu", "Elu", "Selu",
		"Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Softplus", "Softmax", "LogSoftmax", "Identity", "Not", "Floor", "Ceil", "Round")
	add(1, 3, same, "Clip")
	add(2, 2, broadcast, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "PRelu")
	add(1, 16, broadcast, "Min", "Max", "Sum", "Mean")
	add(2, 2, compare, "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
	add(1, 1, isNaN, "IsNaN", "IsInf")
	add(3, 3, where, "Where")
	add(1, 1, cast, "Cast")
	add(2, 2, matMul, "MatMul")
	add(2, 3, gemm, "Gemm")
	add(1, 2, reduce, "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1", "ReduceL2")
	add(1, 1, argMax, "ArgMax", "ArgMin")
	add(2, 2, topK, "TopK")
	add(2, 2, reshape, "Reshape")
	add(1, 1, flatten, "Flatten")
	add(1, 1, transpose, "Transpose")
	add(1, 2, squeeze, "Squeeze")
	add(2, 2, unsqueeze, "Unsqueeze")
	add(1, 64, concat, "Concat")
	add(3, 5, slice, "Slice")
	add(2, 2, gather, "Gather")
	add(2, 3, conv, "Conv")
	add(2, 3, convTranspose, "ConvTranspose")
	add(1, 1, pool, "MaxPool", "AveragePool")
	add(1, 1, globalPool, "GlobalMaxPool", "GlobalAveragePool")
	add(5, 5, same, "BatchNormalization")
	add(2, 3, same, "LayerNormalization")
	add(3, 6, gru, "GRU")
	add(3, 8, lstm, "LSTM")
	add(1, 1, shapeOf, "Shape")
	add(1, 1, filled, "ConstantOfShape")
	add(2, 2, expand, "Expand")
	add(2, 2, tile, "Tile")
	add(2, 3, pad, "Pad")
	add(1, 4, resize, "Resize")
	add(1, 2, split, "Split")
	add(1, 3, dropout, "Dropout")
	add(3, 3, same, "InstanceNormalization")
}

// inference is one operation at work.
type inference struct {
	node *onnxpb.NodeProto
	in   []Value
}

func (n *inference) attribute(name string) *onnxpb.AttributeProto { return attributeOf(n.node, name) }

func (n *inference) integer(name string, def int64) int64 {
	if a := n.attribute(name); a != nil {
		return a.GetI()
	}
	return def
}

// integers reads a list that is an attribute in older operator sets and an input in newer ones. ok is
// false when neither is there.
func (n *inference) integers(name string, input int) (list []int64, ok bool, err error) {
	if a := n.attribute(name); a != nil {
		return a.Ints, true, nil
	}
	if input < 0 || input >= len(n.in) || n.node.Input[input] == "" {
		return nil, false, nil
	}
	if n.in[input].constant == nil {
		return nil, false, fmt.Errorf("%s is computed while the model runs: it must be a constant, or follow from the input's shape", cmp.Or(name, n.node.Input[input]))
	}
	list, err = intData(n.in[input].constant)
	return list, true, err
}

func axisOf(axis int64, rank int) (int, error) {
	if axis < 0 {
		axis += int64(rank)
	}
	if axis < 0 || axis >= int64(rank) {
		return 0, fmt.Errorf("axis is outside the %d dimensions", rank)
	}
	return int(axis), nil
}

// axes normalizes a list of axes, refusing repetitions.
func axes(list []int64, rank int) ([]int, error) {
	var out []int
	for _, a := range list {
		i, err := axisOf(a, rank)
		if err != nil {
			return nil, err
		}
		if slices.Contains(out, i) {
			return nil, fmt.Errorf("axis %d is named twice", i)
		}
		out = append(out, i)
	}
	return out, nil
}

func one(t DataType, shape []int64) ([]Value, error) { return []Value{{Type: t, Shape: shape}}, nil }

func constant(n *inference) ([]Value, error) {
	a := n.attribute("value")
	if a.GetT() == nil || len(n.node.Attribute) != 1 {
		return nil, fmt.Errorf("only a constant given as one tensor is allowed")
	}
	return []Value{{Type: DataType(a.T.GetDataType()), Shape: a.T.Dims, constant: a.T}}, nil
}

func same(n *inference) ([]Value, error) { return one(n.in[0].Type, n.in[0].Shape) }

// broadcastShapes returns the shape that numpy-style broadcasting of the given shapes has.
func broadcastShapes(shapes ...[]int64) ([]int64, error) {
	rank := 0
	for _, s := range shapes {
		rank = max(rank, len(s))
	}
	out := make([]int64, rank)
	for i := range out {
		out[i] = 1
		for _, s := range shapes {
			k := i - rank + len(s)
			if k < 0 || s[k] == 1 || s[k] == out[i] {
				continue
			}
			if out[i] != 1 {
				return nil, fmt.Errorf("shapes %v do not broadcast", shapes)
			}
			out[i] = s[k]
		}
	}
	return out, nil
}

func broadcast(n *inference) ([]Value, error) {
	shapes := make([][]int64, len(n.in))
	for i, v := range n.in {
		shapes[i] = v.Shape
	}
	s, err := broadcastShapes(shapes...)
	if err != nil {
		return nil, err
	}
	return one(n.in[0].Type, s)
}

func compare(n *inference) ([]Value, error) {
	out, err := broadcast(n)
	if err != nil {
		return nil, err
	}
	out[0].Type = Bool
	return out, nil
}

func isNaN(n *inference) ([]Value, error) { return one(Bool, n.in[0].Shape) }

func where(n *inference) ([]Value, error) {
	out, err := broadcast(n)
	if err != nil {
		return nil, err
	}
	out[0].Type = n.in[1].Type
	return out, nil
}

func cast(n *inference) ([]Value, error) {
	t := DataType(n.integer("to", 0))
	if elementSize(t) == 0 {
		return nil, fmt.Errorf("element type %v is not allowed", t)
	}
	return one(t, n.in[0].Shape)
}

func matMul(n *inference) ([]Value, error) {
	a, b := n.in[0].Shape, n.in[1].Shape
	if len(a) < 2 || len(b) < 2 || a[len(a)-1] != b[len(b)-2] {
		return nil, fmt.Errorf("shapes %v and %v do not multiply", a, b)
	}
	lead, err := broadcastShapes(a[:len(a)-2], b[:len(b)-2])
	if err != nil {
		return nil, err
	}
	return one(n.in[0].Type, append(lead, a[len(a)-2], b[len(b)-1]))
}

func gemm(n *inference) ([]Value, error) {
	a, b := n.in[0].Shape, n.in[1].Shape
	if len(a) != 2 || len(b) != 2 {
		return nil, fmt.Errorf("shapes %v and %v are not matrices", a, b)
	}
	rows, inner := a[0], a[1]
	if n.integer("transA", 0) != 0 {
		rows, inner = inner, rows
	}
	inner2, cols := b[0], b[1]
	if n.integer("transB", 0) != 0 {
		inner2, cols = cols, inner2
	}
	if inner != inner2 {
		return nil, fmt.Errorf("shapes %v and %v do not multiply", a, b)
	}
	out := []int64{rows, cols}
	if len(n.in) == 3 && n.node.Input[2] != "" {
		if s, err := broadcastShapes(out, n.in[2].Shape); err != nil || !slices.Equal(s, out) {
			return nil, fmt.Errorf("bias %v does not fit %v", n.in[2].Shape, out)
		}
	}
	return one(n.in[0].Type, out)
}

func reduce(n *inference) ([]Value, error) {
	s := n.in[0].Shape
	which, err := reduced(n)
	if err != nil {
		return nil, err
	}
	keep := n.integer("keepdims", 1) != 0
	var out []int64
	for i, d := range s {
		switch {
		case !slices.Contains(which, i):
			out = append(out, d)
		case keep:
			out = append(out, 1)
		}
	}
	return one(n.in[0].Type, out)
}

// reduced lists the dimensions that a reduction sums over.
func reduced(n *inference) ([]int, error) {
	rank := len(n.in[0].Shape)
	list, _, err := n.integers("axes", 1)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 && n.integer("noop_with_empty_axes", 0) == 0 {
		for i := range rank {
			list = append(list, int64(i))
		}
	}
	return axes(list, rank)
}

// ReducedAxes lists the dimensions that node, one of the Reduce operations of the graph vs came from, sums
// over.
func (vs Values) ReducedAxes(node *onnxpb.NodeProto) ([]int, error) {
	return reduced(vs.inference(node))
}

// inference is node with what is known of its inputs.
func (vs Values) inference(node *onnxpb.NodeProto) *inference {
	n := &inference{node: node}
	for _, name := range node.Input {
		n.in = append(n.in, vs.All[name])
	}
	return n
}

func argMax(n *inference) ([]Value, error) {
	s := slices.Clone(n.in[0].Shape)
	axis, err := axisOf(n.integer("axis", 0), len(s))
	if err != nil {
		return nil, err
	}
	if s[axis] = 1; n.integer("keepdims", 1) == 0 {
		s = slices.Delete(s, axis, axis+1)
	}
	return one(Int64, s)
}

func topK(n *inference) ([]Value, error) {
	k, ok, err := n.integers("", 1)
	if err != nil {
		return nil, err
	}
	s := slices.Clone(n.in[0].Shape)
	axis, err := axisOf(n.integer("axis", -1), len(s))
	if err != nil {
		return nil, err
	}
	if !ok || len(k) != 1 || k[0] < 1 || k[0] > s[axis] {
		return nil, fmt.Errorf("k is not between 1 and %d", s[axis])
	}
	s[axis] = k[0]
	return []Value{{Type: n.in[0].Type, Shape: s}, {Type: Int64, Shape: slices.Clone(s)}}, nil
}

func reshape(n *inference) ([]Value, error) {
	want, ok, err := n.integers("", 1)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("has no shape")
	}
	in := n.in[0].Shape
	total, err := count(in)
	if err != nil {
		return nil, err
	}
	out, free, rest := slices.Clone(want), -1, int64(1)
	for i, d := range out {
		switch {
		case d == 0 && n.integer("allowzero", 0) == 0 && i < len(in):
			out[i] = in[i]
		case d == -1 && free < 0:
			free = i
			continue
		case d < 0 || d > total:
			return nil, fmt.Errorf("shape %v does not hold %d values", want, total)
		}
		if rest *= out[i]; rest > total {
			return nil, fmt.Errorf("shape %v does not hold %d values", want, total)
		}
	}
	if free >= 0 && rest > 0 {
		out[free] = total / rest
		rest *= out[free]
	}
	if rest != total {
		return nil, fmt.Errorf("shape %v does not hold %d values", want, total)
	}
	return one(n.in[0].Type, out)
}

func flatten(n *inference) ([]Value, error) {
	s := n.in[0].Shape
	axis := n.integer("axis", 1)
	if axis < 0 {
		axis += int64(len(s))
	}
	if axis < 0 || axis > int64(len(s)) {
		return nil, fmt.Errorf("axis is outside the %d dimensions", len(s))
	}
	rows, err := count(s[:axis])
	if err != nil {
		return nil, err
	}
	cols, err := count(s[axis:])
	if err != nil {
		return nil, err
	}
	return one(n.in[0].Type, []int64{rows, cols})
}

func transpose(n *inference) ([]Value, error) {
	s := n.in[0].Shape
	perm, ok, _ := n.integers("perm", -1)
	if !ok {
		for i := len(s) - 1; i >= 0; i-- {
			perm = append(perm, int64(i))
		}
	}
	order, err := axes(perm, len(s))
	if err != nil {
		return nil, err
	}
	if len(order) != len(s) {
		return nil, fmt.Errorf("perm %v does not fit %d dimensions", perm, len(s))
	}
	out := make([]int64, len(s))
	for i, a := range order {
		out[i] = s[a]
	}
	return one(n.in[0].Type, out)
}

func squeeze(n *inference) ([]Value, error) {
	s := n.in[0].Shape
	list, given, err := n.integers("axes", 1)
	if err != nil {
		return nil, err
	}
	which, err := axes(list, len(s))
	if err != nil {
		return nil, err
	}
	var out []int64
	for i, d := range s {
		chosen := slices.Contains(which, i)
		if chosen && d != 1 {
			return nil, fmt.Errorf("dimension %d is %d, not 1", i, d)
		}
		if !chosen && (given || d != 1) {
			out = append(out, d)
		}
	}
	return one(n.in[0].Type, out)
}

func unsqueeze(n *inference) ([]Value, error) {
	list, _, err := n.integers("axes", 1)
	if err != nil {
		return nil, err
	}
	s := n.in[0].Shape
	which, err := axes(list, len(s)+len(list))
	if err != nil {
		return nil, err
	}
	out := make([]int64, 0, len(s)+len(list))
	for i := range len(s) + len(list) {
		if slices.Contains(which, i) {
			out = append(out, 1)
			continue
		}
		out, s = append(out, s[0]), s[1:]
	}
	return one(n.in[0].Type, out)
}

func concat(n *inference) ([]Value, error) {
	out := slices.Clone(n.in[0].Shape)
	axis, err := axisOf(n.integer("axis", 0), len(out))
	if err != nil {
		return nil, err
	}
	for _, v := range n.in[1:] {
		if len(v.Shape) != len(out) {
			return nil, fmt.Errorf("shapes %v and %v do not join", out, v.Shape)
		}
		for i, d := range v.Shape {
			if i == axis {
				if out[i] += d; out[i] > 1<<40 {
					return nil, fmt.Errorf("result is too large")
				}
			} else if d != out[i] {
				return nil, fmt.Errorf("shapes %v and %v do not join", out, v.Shape)
			}
		}
	}
	return one(n.in[0].Type, out)
}

// cut is what a Slice takes along one axis.
type cut struct {
	axis       int
	from, step int64
	size       int64 // of the result
}

func cuts(n *inference) ([]cut, error) {
	s := n.in[0].Shape
	var lists [4][]int64 // starts, ends, axes, steps
	for i := range lists {
		l, ok, err := n.integers("", i+1)
		if err != nil {
			return nil, err
		}
		if !ok {
			for k := range lists[0] {
				if i == 2 {
					l = append(l, int64(k))
				} else {
					l = append(l, 1)
				}
			}
		}
		if lists[i] = l; len(l) != len(lists[0]) {
			return nil, fmt.Errorf("starts, ends, axes and steps differ in length")
		}
	}
	which, err := axes(lists[2], len(s))
	if err != nil {
		return nil, err
	}
	out := make([]cut, len(which))
	for k, axis := range which {
		d, step := s[axis], lists[3][k]
		if step == 0 || step < -1<<20 {
			return nil, fmt.Errorf("step %d is not allowed", step)
		}
		least, most := int64(0), d // the ends of what from and to may be
		if step < 0 {
			least, most = -1, d-1
		}
		clamp := func(v int64) int64 {
			if v < 0 {
				v += d
			}
			return min(max(v, least), most)
		}
		out[k] = cut{axis: axis, from: clamp(lists[0][k]), step: step}
		switch to := clamp(lists[1][k]); {
		case step > 0 && to > out[k].from:
			out[k].size = (to-out[k].from-1)/step + 1
		case step < 0 && to < out[k].from:
			out[k].size = (out[k].from-to-1)/-step + 1
		}
	}
	return out, nil
}

func slice(n *inference) ([]Value, error) {
	list, err := cuts(n)
	if err != nil {
		return nil, err
	}
	s := slices.Clone(n.in[0].Shape)
	for _, c := range list {
		s[c.axis] = c.size
	}
	return one(n.in[0].Type, s)
}

// Sliced lists where node, a Slice of the graph vs came from, begins along which axes, and its steps.
func (vs Values) Sliced(node *onnxpb.NodeProto) (starts []int64, axes []int, steps []int64, err error) {
	list, err := cuts(vs.inference(node))
	for _, c := range list {
		starts, axes, steps = append(starts, c.from), append(axes, c.axis), append(steps, c.step)
	}
	return starts, axes, steps, err
}

func gather(n *inference) ([]Value, error) {
	s := n.in[0].Shape
	axis, err := axisOf(n.integer("axis", 0), len(s))
	if err != nil {
		return nil, err
	}
	if n.in[1].Type != Int64 && n.in[1].Type != onnxpb.TensorProto_INT32 {
		return nil, fmt.Errorf("indices are not integers")
	}
	return one(n.in[0].Type, slices.Concat(s[:axis], n.in[1].Shape, s[axis+1:]))
}

// kernel is how a sliding kernel moves over the dimensions after batch and channel.
type kernel struct {
	pads               []int64 // all at the beginnings, then all at the ends
	strides, dilations []int64
}

// kernelOf reads the attributes of a sliding kernel over dims dimensions.
func kernelOf(n *inference, dims int) (k kernel, err error) {
	if a := n.attribute("auto_pad"); a != nil && string(a.S) != "NOTSET" {
		return k, fmt.Errorf("auto_pad %q is not allowed: give explicit pads", a.S)
	}
	get := func(name string, size int, def int64) []int64 {
		l, ok, _ := n.integers(name, -1)
		if !ok {
			return slices.Repeat([]int64{def}, size)
		}
		if len(l) != size {
			err = fmt.Errorf("%s has %d values: want %d", name, len(l), size)
		}
		for _, v := range l {
			if v < def || v > 1<<20 {
				err = fmt.Errorf("%s value %d is out of range", name, v)
			}
		}
		return l
	}
	k.pads, k.strides, k.dilations = get("pads", 2*dims, 0), get("strides", dims, 1), get("dilations", dims, 1)
	return k, err
}

// Kernel returns how node, a convolution or a pooling of the graph vs came from, slides: pads (all at the
// beginnings, then all at the ends), strides and dilations for each dimension after batch and channel.
func (vs Values) Kernel(node *onnxpb.NodeProto) (pads, strides, dilations []int64, err error) {
	n := vs.inference(node)
	k, err := kernelOf(n, len(n.in[0].Shape)-2)
	return k.pads, k.strides, k.dilations, err
}

// spatial computes the output size of a sliding kernel over the dimensions after batch and channel.
func spatial(n *inference, kernel []int64) ([]int64, error) {
	in := n.in[0].Shape[2:]
	k, err := kernelOf(n, len(in))
	if err != nil {
		return nil, err
	}
	pads, strides, dilations := k.pads, k.strides, k.dilations
	if len(kernel) != len(in) {
		return nil, fmt.Errorf("kernel %v does not fit input %v", kernel, n.in[0].Shape)
	}
	round := int64(0)
	out := make([]int64, len(in))
	for i := range in {
		if kernel[i] < 1 || kernel[i] > 1<<20 {
			return nil, fmt.Errorf("kernel %v is out of range", kernel)
		}
		if n.integer("ceil_mode", 0) != 0 {
			round = strides[i] - 1
		}
		room := in[i] + pads[i] + pads[i+len(in)] - dilations[i]*(kernel[i]-1) - 1
		if room < 0 {
			return nil, fmt.Errorf("kernel %v is larger than input %v", kernel, n.in[0].Shape)
		}
		out[i] = (room+round)/strides[i] + 1
	}
	return out, nil
}

func conv(n *inference) ([]Value, error) {
	x, w := n.in[0].Shape, n.in[1].Shape
	group := n.integer("group", 1)
	if len(x) < 3 || len(w) != len(x) || group < 1 || w[1] > 1<<40/group || x[1] != w[1]*group || w[0]%group != 0 {
		return nil, fmt.Errorf("input %v does not fit kernel %v in %d groups", x, w, group)
	}
	size, err := spatial(n, w[2:])
	if err != nil {
		return nil, err
	}
	return one(n.in[0].Type, append([]int64{x[0], w[0]}, size...))
}

// convTranspose grows what a convolution with the same attributes would shrink.
func convTranspose(n *inference) ([]Value, error) {
	x, w := n.in[0].Shape, n.in[1].Shape
	group := n.integer("group", 1)
	if len(x) < 3 || len(w) != len(x) || group < 1 || x[1] != w[0] || w[0]%group != 0 || w[1] > 1<<40/group {
		return nil, fmt.Errorf("input %v does not fit kernel %v in %d groups", x, w, group)
	}
	if n.attribute("output_shape") != nil {
		return nil, fmt.Errorf("output_shape is not allowed: give pads and output_padding")
	}
	k, err := kernelOf(n, len(x)-2)
	if err != nil {
		return nil, err
	}
	extra, ok, _ := n.integers("output_padding", -1)
	if !ok {
		extra = make([]int64, len(x)-2)
	}
	out := []int64{x[0], w[1] * group}
	for i := range len(x) - 2 {
		if len(extra) != len(x)-2 || extra[i] < 0 || extra[i] >= max(k.strides[i], k.dilations[i]) {
			return nil, fmt.Errorf("output_padding %v is out of range", extra)
		}
		if w[i+2] < 1 || w[i+2] > 1<<20 || x[i+2] < 1 || x[i+2] > 1<<20 {
			return nil, fmt.Errorf("kernel %v or input %v is out of range", w, x)
		}
		d := k.strides[i]*(x[i+2]-1) + extra[i] + k.dilations[i]*(w[i+2]-1) + 1 - k.pads[i] - k.pads[i+len(x)-2]
		if d < 1 {
			return nil, fmt.Errorf("pads %v leave nothing of input %v", k.pads, x)
		}
		out = append(out, d)
	}
	return one(n.in[0].Type, out)
}

func pool(n *inference) ([]Value, error) {
	x := n.in[0].Shape
	if len(x) < 3 {
		return nil, fmt.Errorf("input %v has no spatial dimensions", x)
	}
	kernel, _, _ := n.integers("kernel_shape", -1)
	size, err := spatial(n, kernel)
	if err != nil {
		return nil, err
	}
	return one(n.in[0].Type, append([]int64{x[0], x[1]}, size...))
}

func globalPool(n *inference) ([]Value, error) {
	x := n.in[0].Shape
	if len(x) < 3 {
		return nil, fmt.Errorf("input %v has no spatial dimensions", x)
	}
	out := slices.Repeat([]int64{1}, len(x))
	out[0], out[1] = x[0], x[1]
	return one(n.in[0].Type, out)
}

// gru is one direction of a gated recurrent unit, batch after time.
func gru(n *inference) ([]Value, error) {
	if n.attribute("direction") != nil && string(n.attribute("direction").S) != "forward" {
		return nil, fmt.Errorf("only the direction forward is allowed")
	}
	return recurrent(n, 3, 1)
}

// lstm is a long short-term memory of one direction or two, batch after time.
func lstm(n *inference) ([]Value, error) {
	directions := int64(1)
	if a := n.attribute("direction"); a != nil && string(a.S) == "bidirectional" {
		directions = 2
	}
	return recurrent(n, 4, directions)
}

// recurrent is what both have in common: a unit with so many gates. An LSTM has a cell state beside the hidden
// one, and may have peepholes.
func recurrent(n *inference, gates, directions int64) ([]Value, error) {
	x, w, r := n.in[0].Shape, n.in[1].Shape, n.in[2].Shape
	if n.integer("layout", 0) != 0 {
		return nil, fmt.Errorf("only layout 0 is allowed")
	}
	if len(x) != 3 || len(w) != 3 || len(r) != 3 {
		return nil, fmt.Errorf("input %v and weights %v and %v need three dimensions", x, w, r)
	}
	hidden := r[2]
	if hidden < 1 || hidden > 1<<20 || n.integer("hidden_size", hidden) != hidden ||
		!slices.Equal(w, []int64{directions, gates * hidden, x[2]}) || !slices.Equal(r, []int64{directions, gates * hidden, hidden}) {
		return nil, fmt.Errorf("weights %v and %v do not fit input %v", w, r, x)
	}
	state := []int64{directions, x[1], hidden}
	for i, want := range map[int][]int64{3: {directions, 2 * gates * hidden}, 4: {x[1]}, 5: state, 6: state, 7: {directions, 3 * hidden}} {
		if i < len(n.in) && n.node.Input[i] != "" && !slices.Equal(n.in[i].Shape, want) {
			return nil, fmt.Errorf("input %d is %v: want %v", i, n.in[i].Shape, want)
		}
	}
	out := []Value{{Type: n.in[0].Type, Shape: []int64{x[0], directions, x[1], hidden}}, {Type: n.in[0].Type, Shape: state}}
	if gates == 4 {
		out = append(out, Value{Type: n.in[0].Type, Shape: slices.Clone(state)})
	}
	return out, nil
}
