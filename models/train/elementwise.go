package train

// The rules of operations that work on each element by itself, and of softmax.

import (
	"errors"
	"math"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

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

// pow differentiates by the base; the exponent is a constant.
func (t *tape) pow(n *onnxpb.NodeProto, dy string) error {
	x, e := n.Input[0], n.Input[1]
	if t.needs[e] {
		return errors.New("the exponent has to be a constant")
	}
	less := t.op("Pow", x, t.op("Sub", e, t.b.Scalar(1)))
	t.give(x, t.op("Mul", dy, t.op("Mul", less, e)), t.shape(n.Output[0]))
	return nil
}

func (t *tape) log(n *onnxpb.NodeProto, dy string) error {
	t.give(n.Input[0], t.op("Div", dy, n.Input[0]), t.shape(n.Output[0]))
	return nil
}

func (t *tape) abs(n *onnxpb.NodeProto, dy string) error {
	t.give(n.Input[0], t.op("Mul", dy, t.op("Sign", n.Input[0])), t.shape(n.Output[0]))
	return nil
}

func (t *tape) erf(n *onnxpb.NodeProto, dy string) error {
	x := n.Input[0]
	bell := t.op("Exp", t.op("Neg", t.op("Mul", x, x)))
	t.give(x, t.op("Mul", dy, t.op("Mul", bell, t.b.Scalar(float32(2/math.Sqrt(math.Pi))))), t.shape(n.Output[0]))
	return nil
}

// clip passes the derivative where the value was left as it is.
func (t *tape) clip(n *onnxpb.NodeProto, dy string) error {
	for _, bound := range n.Input[1:] {
		if bound != "" && t.needs[bound] {
			return errors.New("the bounds have to be constants")
		}
	}
	kept := t.mask("Equal", n.Input[0], n.Output[0])
	t.give(n.Input[0], t.op("Mul", dy, kept), t.shape(n.Output[0]))
	return nil
}

// mask is 1 where the comparison holds and 0 elsewhere.
func (t *tape) mask(comparison, a, b string) string {
	return t.b.Node("Cast", []string{t.op(comparison, a, b)}, onnx.Int("to", int64(onnx.Float)))
}

func (t *tape) leakyRelu(n *onnxpb.NodeProto, dy string) error {
	alpha := float32(0.01)
	if a := attribute(n, "alpha"); a != nil {
		alpha = a.GetF()
	}
	// The slope is 1 above zero and alpha elsewhere.
	open := t.mask("Greater", n.Input[0], t.b.Scalar(0))
	slope := t.op("Add", t.op("Mul", open, t.b.Scalar(1-alpha)), t.b.Scalar(alpha))
	t.give(n.Input[0], t.op("Mul", dy, slope), t.shape(n.Output[0]))
	return nil
}

func (t *tape) softplus(n *onnxpb.NodeProto, dy string) error {
	t.give(n.Input[0], t.op("Mul", dy, t.op("Sigmoid", n.Input[0])), t.shape(n.Output[0]))
	return nil
}

func (t *tape) hardSigmoid(n *onnxpb.NodeProto, dy string) error {
	alpha := float32(0.2)
	if a := attribute(n, "alpha"); a != nil {
		alpha = a.GetF()
	}
	y := n.Output[0]
	inside := t.op("Mul", t.mask("Greater", y, t.b.Scalar(0)), t.mask("Less", y, t.b.Scalar(1)))
	t.give(n.Input[0], t.op("Mul", dy, t.op("Mul", inside, t.b.Scalar(alpha))), t.shape(y))
	return nil
}

// hardSwish is x·h with h = clip(x/6 + 1/2, 0, 1), so its slope is h + x·h'.
func (t *tape) hardSwish(n *onnxpb.NodeProto, dy string) error {
	x := n.Input[0]
	h := t.b.Node("HardSigmoid", []string{x}, onnx.Float32("alpha", 1./6), onnx.Float32("beta", 0.5))
	inside := t.op("Mul", t.mask("Greater", h, t.b.Scalar(0)), t.mask("Less", h, t.b.Scalar(1)))
	slope := t.op("Add", h, t.op("Mul", x, t.op("Mul", inside, t.b.Scalar(1./6))))
	t.give(x, t.op("Mul", dy, slope), t.shape(n.Output[0]))
	return nil
}

// softmax: dx = (dy − Σ dy·y)·y along the axis.
func (t *tape) softmax(n *onnxpb.NodeProto, dy string) error {
	y := n.Output[0]
	sum := t.along(n, t.op("Mul", dy, y))
	t.give(n.Input[0], t.op("Mul", t.op("Sub", dy, sum), y), t.shape(y))
	return nil
}

// logSoftmax: dx = dy − softmax·Σ dy along the axis.
func (t *tape) logSoftmax(n *onnxpb.NodeProto, dy string) error {
	y := n.Output[0]
	t.give(n.Input[0], t.op("Sub", dy, t.op("Mul", t.op("Exp", y), t.along(n, dy))), t.shape(y))
	return nil
}

// along sums value over the axis of n and keeps it as 1.
func (t *tape) along(n *onnxpb.NodeProto, value string) string {
	axis := int64(-1)
	if a := attribute(n, "axis"); a != nil {
		axis = a.GetI()
	}
	return t.b.Node("ReduceSum", []string{value, t.b.Ints(axis)}, onnx.Int("keepdims", 1))
}
