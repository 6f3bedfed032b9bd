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
}

// rules maps an operation to the code that emits the derivatives of its inputs. dy names the derivative of
// its output.
var rules = map[string]func(t *tape, n *onnxpb.NodeProto, dy string) error{
	"Add":        (*tape).add,
	"Sub":        (*tape).sub,
	"Mul":        (*tape).mul,
	"Div":        (*tape).div,
	"Neg":        (*tape).neg,
	"MatMul":     (*tape).matMul,
	"Gemm":       (*tape).gemm,
	"Relu":       (*tape).relu,
	"Tanh":       (*tape).tanh,
	"Sigmoid":    (*tape).sigmoid,
	"Exp":        (*tape).exp,
	"Sqrt":       (*tape).sqrt,
	"ReduceSum":  (*tape).reduce,
	"ReduceMean": (*tape).reduce,
	"Reshape":    (*tape).reshape,
	"Transpose":  (*tape).transpose,
	"Identity":   (*tape).identity,
}

// backward emits the gradients of the parameters and returns their names, in the order of params.
func (t *tape) backward(forward *onnxpb.GraphProto, params []string, loss string) ([]string, error) {
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

func (t *tape) add(n *onnxpb.NodeProto, dy string) error {
	out := t.shape(n.Output[0])
	t.give(n.Input[0], dy, out)
	t.give(n.Input[1], dy, out)
	return nil
}

func (t *tape) sub(n *onnxpb.NodeProto, dy string) error {
	out := t.shape(n.Output[0])
	t.give(n.Input[0], dy, out)
	if t.needs[n.Input[1]] {
		t.give(n.Input[1], t.op("Neg", dy), out)
	}
	return nil
}

func (t *tape) mul(n *onnxpb.NodeProto, dy string) error {
	out := t.shape(n.Output[0])
	for i, value := range n.Input {
		if t.needs[value] {
			t.give(value, t.op("Mul", dy, n.Input[1-i]), out)
		}
	}
	return nil
}

func (t *tape) div(n *onnxpb.NodeProto, dy string) error {
	out := t.shape(n.Output[0])
	da := t.op("Div", dy, n.Input[1])
	t.give(n.Input[0], da, out)
	if t.needs[n.Input[1]] {
		t.give(n.Input[1], t.op("Neg", t.op("Mul", da, n.Output[0])), out)
	}
	return nil
}

func (t *tape) neg(n *onnxpb.NodeProto, dy string) error {
	t.give(n.Input[0], t.op("Neg", dy), t.shape(n.Output[0]))
	return nil
}

func (t *tape) matMul(n *onnxpb.NodeProto, dy string) error {
	a, b := n.Input[0], n.Input[1]
	if len(t.shape(a)) != 2 || len(t.shape(b)) != 2 {
		return fmt.Errorf("only matrices are supported, not %v by %v", t.shape(a), t.shape(b))
	}
	if t.needs[a] {
		t.give(a, t.op("MatMul", dy, t.op("Transpose", b)), t.shape(a))
	}
	if t.needs[b] {
		t.give(b, t.op("MatMul", t.op("Transpose", a), dy), t.shape(b))
	}
	return nil
}

func (t *tape) gemm(n *onnxpb.NodeProto, dy string) error {
	transA, transB := int64(0), int64(0)
	for _, a := range n.Attribute {
		switch a.GetName() {
		case "transA":
			transA = a.GetI()
		case "transB":
			transB = a.GetI()
		case "alpha", "beta":
			if a.GetF() != 1 {
				return fmt.Errorf("%s other than 1 is not supported", a.GetName())
			}
		}
	}
	product := func(a string, ta int64, b string, tb int64) string {
		return t.b.Node("Gemm", []string{a, b}, onnx.Int("transA", ta), onnx.Int("transB", tb))
	}
	a, b := n.Input[0], n.Input[1]
	if t.needs[a] {
		g := ""
		if transA == 0 {
			g = product(dy, 0, b, 1-transB)
		} else {
			g = product(b, transB, dy, 1)
		}
		t.give(a, g, t.shape(a))
	}
	if t.needs[b] {
		g := ""
		if transB == 0 {
			g = product(a, 1-transA, dy, 0)
		} else {
			g = product(dy, 1, a, transA)
		}
		t.give(b, g, t.shape(b))
	}
	if len(n.Input) == 3 && n.Input[2] != "" {
		t.give(n.Input[2], dy, t.shape(n.Output[0]))
	}
	return nil
}

func (t *tape) relu(n *onnxpb.NodeProto, dy string) error {
	// Sign of the output is 1 where the unit is open and 0 where it is shut.
	t.give(n.Input[0], t.op("Mul", dy, t.op("Sign", n.Output[0])), t.shape(n.Output[0]))
	return nil
}

func (t *tape) tanh(n *onnxpb.NodeProto, dy string) error {
	y := n.Output[0]
	t.give(n.Input[0], t.op("Mul", dy, t.op("Sub", t.b.Scalar(1), t.op("Mul", y, y))), t.shape(y))
	return nil
}

func (t *tape) sigmoid(n *onnxpb.NodeProto, dy string) error {
	y := n.Output[0]
	t.give(n.Input[0], t.op("Mul", dy, t.op("Mul", y, t.op("Sub", t.b.Scalar(1), y))), t.shape(y))
	return nil
}

func (t *tape) exp(n *onnxpb.NodeProto, dy string) error {
	t.give(n.Input[0], t.op("Mul", dy, n.Output[0]), t.shape(n.Output[0]))
	return nil
}

func (t *tape) sqrt(n *onnxpb.NodeProto, dy string) error {
	t.give(n.Input[0], t.op("Div", t.op("Mul", dy, t.b.Scalar(0.5)), n.Output[0]), t.shape(n.Output[0]))
	return nil
}

// reduce spreads the derivative over what was summed up: with every reduced dimension kept as 1, it is
// broadcast against the input's shape.
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
	share := float32(1)
	if n.GetOpType() == "ReduceMean" {
		share = float32(size(kept)) / float32(size(in))
	}
	spread := t.b.Floats("spread_"+n.Output[0], slices.Repeat([]float32{share}, int(size(in))), in...)
	t.give(n.Input[0], t.op("Mul", dy, spread), in)
	return nil
}

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

func size(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}
