package train

// The rules of normalizations. A BatchNormalization whose scale is trained normalizes by its batch while it
// is trained, and its running mean and variance follow; one whose scale is not trained stays as it scores.

import (
	"errors"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// batch names what the forward pass of one BatchNormalization in training computed.
type batch struct {
	normal  string // the input with mean 0 and variance 1, by channel
	inverse string // of the standard deviation, as [1, C, 1…]
	mean    string // [C]
	spread  string // variance with Bessel's correction, [C]
}

// channels are the axes that are summed over, and the shape that a value by channel broadcasts with.
func channels(shape []int64) (axes, broadcast []int64) {
	for i, d := range shape {
		if i == 1 {
			broadcast = append(broadcast, d)
			continue
		}
		axes, broadcast = append(axes, int64(i)), append(broadcast, 1)
	}
	return axes, broadcast
}

func epsilon(n *onnxpb.NodeProto) float32 {
	if a := attribute(n, "epsilon"); a != nil {
		return a.GetF()
	}
	return 1e-5
}

// normalize emits the forward pass of a BatchNormalization by the statistics of its batch.
func (t *tape) normalize(n *onnxpb.NodeProto) {
	x, shape := n.Input[0], t.shape(n.Input[0])
	axes, broadcast := channels(shape)
	count := size(shape) / shape[1]
	flat := func(v string) string { return t.op("Reshape", v, t.b.Ints(shape[1])) }
	mean := t.b.Node("ReduceMean", []string{x}, onnx.Ints("axes", axes...), onnx.Int("keepdims", 1))
	off := t.op("Sub", x, mean)
	variance := t.b.Node("ReduceMean", []string{t.op("Mul", off, off)}, onnx.Ints("axes", axes...), onnx.Int("keepdims", 1))
	inverse := t.op("Reciprocal", t.op("Sqrt", t.op("Add", variance, t.b.Scalar(epsilon(n)))))
	normal := t.op("Mul", off, inverse)
	by := func(v string) string { return t.op("Reshape", v, t.b.Ints(broadcast...)) }
	t.b.NodeTo([]string{n.Output[0]}, "Add", []string{t.op("Mul", normal, by(n.Input[1])), by(n.Input[2])})
	corrected := t.op("Mul", flat(variance), t.b.Scalar(float32(count)/float32(max(count-1, 1))))
	t.batches[n.Output[0]] = batch{normal: normal, inverse: inverse, mean: flat(mean), spread: corrected}
}

// trained says whether a BatchNormalization normalizes by its batch.
func (t *tape) trained(n *onnxpb.NodeProto) bool {
	return n.GetOpType() == "BatchNormalization" && t.needs[n.Input[1]]
}

func (t *tape) batchNorm(n *onnxpb.NodeProto, dy string) error {
	x, shape := n.Input[0], t.shape(n.Input[0])
	axes, broadcast := channels(shape)
	by := func(v string) string { return t.op("Reshape", v, t.b.Ints(broadcast...)) }
	if !t.trained(n) {
		if t.needs[n.Input[2]] {
			return errors.New("its bias is trained and its scale is not: train both or none")
		}
		inverse := t.op("Reciprocal", t.op("Sqrt", t.op("Add", n.Input[4], t.b.Scalar(epsilon(n)))))
		t.give(x, t.op("Mul", dy, by(t.op("Mul", n.Input[1], inverse))), shape)
		return nil
	}
	was := t.batches[n.Output[0]]
	sum := func(v string) string {
		return t.b.Node("ReduceSum", []string{v, t.b.Ints(axes...)}, onnx.Int("keepdims", 1))
	}
	total, product := sum(dy), sum(t.op("Mul", dy, was.normal))
	for i, v := range []string{product, total} {
		if in := n.Input[1+i]; t.needs[in] {
			t.give(in, t.op("Reshape", v, t.b.Ints(shape[1])), shape[1:2])
		}
	}
	if t.needs[x] {
		share := t.b.Scalar(float32(shape[1]) / float32(size(shape)))
		off := t.op("Add", total, t.op("Mul", was.normal, product))
		dx := t.op("Sub", dy, t.op("Mul", off, share))
		t.give(x, t.op("Mul", dx, t.op("Mul", was.inverse, by(n.Input[1]))), shape)
	}
	return nil
}

// layerNorm: with x̂ the normalized input, dx̂ = dy·scale and
// dx = (dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)) / σ over the normalized axes.
func (t *tape) layerNorm(n *onnxpb.NodeProto, dy string) error {
	x, shape := n.Input[0], t.shape(n.Input[0])
	axis := int64(-1)
	if a := attribute(n, "axis"); a != nil {
		axis = a.GetI()
	}
	if axis < 0 {
		axis += int64(len(shape))
	}
	var axes []int64
	for i := axis; i < int64(len(shape)); i++ {
		axes = append(axes, i)
	}
	mean := func(v string) string {
		return t.b.Node("ReduceMean", []string{v}, onnx.Ints("axes", axes...), onnx.Int("keepdims", 1))
	}
	off := t.op("Sub", x, mean(x))
	inverse := t.op("Reciprocal", t.op("Sqrt", t.op("Add", mean(t.op("Mul", off, off)), t.b.Scalar(epsilon(n)))))
	normal := t.op("Mul", off, inverse)
	if t.needs[n.Input[1]] {
		t.give(n.Input[1], t.op("Mul", dy, normal), shape)
	}
	if len(n.Input) == 3 {
		t.give(n.Input[2], dy, shape)
	}
	if t.needs[x] {
		inner := t.op("Mul", dy, n.Input[1])
		dx := t.op("Sub", t.op("Sub", inner, mean(inner)), t.op("Mul", normal, mean(t.op("Mul", inner, normal))))
		t.give(x, t.op("Mul", dx, inverse), shape)
	}
	return nil
}
