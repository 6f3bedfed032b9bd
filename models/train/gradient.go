package train

import (
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// tape walks a forward graph backwards and appends to b the operations that compute, for each value, the
// derivative of the loss with respect to it.
type tape struct {
	b      *onnx.Builder
	values onnx.Values
	// grads names the derivative of each value met so far. Contributions of several uses are added.
	grads map[string]string
	needs map[string]bool // values that depend on a parameter
	// batches say what normalizations in training computed, by the name of their output.
	batches map[string]batch
}

// rules maps an operation to the code that emits the derivatives of its inputs. dy names the derivative of
// its first output.
var rules = map[string]func(t *tape, n *onnxpb.NodeProto, dy string) error{
	"Add": (*tape).add, "Sub": (*tape).sub, "Mul": (*tape).mul, "Div": (*tape).div, "Neg": (*tape).neg, "Pow": (*tape).pow,
	"Exp": (*tape).exp, "Log": (*tape).log, "Sqrt": (*tape).sqrt, "Abs": (*tape).abs, "Erf": (*tape).erf, "Clip": (*tape).clip,
	"Relu": (*tape).relu, "LeakyRelu": (*tape).leakyRelu, "Tanh": (*tape).tanh, "Sigmoid": (*tape).sigmoid,
	"Softplus": (*tape).softplus, "HardSigmoid": (*tape).hardSigmoid, "HardSwish": (*tape).hardSwish,
	"Softmax": (*tape).softmax, "LogSoftmax": (*tape).logSoftmax,
	"MatMul": (*tape).matMul, "Gemm": (*tape).gemm,
	"ReduceSum": (*tape).reduce, "ReduceMean": (*tape).reduce,
	"Reshape": (*tape).reshape, "Flatten": (*tape).reshape, "Squeeze": (*tape).reshape, "Unsqueeze": (*tape).reshape,
	"Transpose": (*tape).transpose, "Concat": (*tape).concat, "Slice": (*tape).slice, "Identity": (*tape).identity,
	"Conv": (*tape).conv, "ConvTranspose": (*tape).convTranspose,
	"MaxPool": (*tape).maxPool, "AveragePool": (*tape).averagePool, "GlobalAveragePool": (*tape).globalAveragePool,
	"BatchNormalization": (*tape).batchNorm, "LayerNormalization": (*tape).layerNorm,
}

// reach marks what depends on a parameter.
func (t *tape) reach(forward *onnxpb.GraphProto, params []string) {
	t.needs = map[string]bool{}
	for _, p := range params {
		t.needs[p] = true
	}
	for _, n := range forward.Node {
		if slices.ContainsFunc(n.Input, func(in string) bool { return t.needs[in] }) {
			for _, out := range n.Output {
				t.needs[out] = true
			}
		}
	}
}

// forward emits the forward pass, with what the derivatives need beside its own outputs.
func (t *tape) forward(forward *onnxpb.GraphProto) {
	g := t.b.Graph()
	for _, n := range forward.Node {
		switch {
		case t.trained(n):
			t.normalize(n)
		case n.GetOpType() == "MaxPool" && t.needs[n.Output[0]] && t.tiled(n):
			largest := t.pooled("MaxPool", n.Input[0], t.shape(n.Input[0]), attribute(n, "kernel_shape").GetInts())
			t.b.NodeTo(n.Output[:1], "Reshape", []string{largest, t.b.Ints(t.shape(n.Output[0])...)})
		case n.GetOpType() == "MaxPool" && t.needs[n.Output[0]]:
			g.Node = append(g.Node, &onnxpb.NodeProto{
				OpType: n.OpType, Name: n.Name, Input: n.Input, Output: []string{n.Output[0], where(n)}, Attribute: n.Attribute,
			})
		default:
			g.Node = append(g.Node, n)
		}
	}
}

// backward emits the gradients of the parameters and returns their names, in the order of params.
func (t *tape) backward(forward *onnxpb.GraphProto, params []string, loss string) ([]string, error) {
	if !t.needs[loss] {
		return nil, fmt.Errorf("loss %q does not depend on any parameter", loss)
	}
	t.grads = map[string]string{loss: t.b.Scalar(1)}
	for i := len(forward.Node) - 1; i >= 0; i-- {
		n := forward.Node[i]
		dy := t.grads[n.Output[0]]
		if dy == "" || !t.needs[n.Output[0]] {
			continue // the loss does not depend on it, or it on no parameter
		}
		rule, ok := rules[n.GetOpType()]
		if !ok {
			return nil, fmt.Errorf("operation %s has no gradient", n.GetOpType())
		}
		if err := rule(t, n, dy); err != nil {
			return nil, fmt.Errorf("gradient of %s %q: %w", n.GetOpType(), n.GetName(), err)
		}
	}
	out := make([]string, len(params))
	for i, p := range params {
		if out[i] = t.grads[p]; out[i] == "" {
			return nil, fmt.Errorf("loss %q does not depend on parameter %q", loss, p)
		}
	}
	return out, nil
}

func (t *tape) op(op string, inputs ...string) string { return t.b.Node(op, inputs) }

// give adds one contribution to the derivative of value. from is the shape of the contribution: where the
// operation had broadcast value to it, the contribution is summed back.
func (t *tape) give(value, grad string, from []int64) {
	if !t.needs[value] {
		return
	}
	to := t.values.All[value].Shape
	if !slices.Equal(from, to) {
		lead := len(from) - len(to)
		var axes []int64
		for i := range from {
			if i < lead || to[i-lead] == 1 && from[i] != 1 {
				axes = append(axes, int64(i))
			}
		}
		if len(axes) > 0 {
			grad = t.b.Node("ReduceSum", []string{grad, t.b.Ints(axes...)}, onnx.Int("keepdims", 1))
		}
		grad = t.op("Reshape", grad, t.b.Ints(to...))
	}
	if have := t.grads[value]; have != "" {
		grad = t.op("Add", have, grad)
	}
	t.grads[value] = grad
}

func (t *tape) shape(value string) []int64 { return t.values.All[value].Shape }

func size(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// attribute returns a node's attribute, or nil.
func attribute(n *onnxpb.NodeProto, name string) *onnxpb.AttributeProto {
	for _, a := range n.Attribute {
		if a.GetName() == name {
			return a
		}
	}
	return nil
}
