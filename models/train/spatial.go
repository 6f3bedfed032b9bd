package train

// The rules of operations that slide a kernel over the dimensions after batch and channel, of any number.

import (
	"errors"
	"slices"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// window is a sliding kernel's attributes, and how many groups the channels are divided into.
type window struct {
	pads, strides, dilations []int64
	group                    int64
}

func (t *tape) window(n *onnxpb.NodeProto) (w window, err error) {
	w.group = 1
	if a := attribute(n, "group"); a != nil {
		w.group = a.GetI()
	}
	if a := attribute(n, "ceil_mode"); a.GetI() != 0 {
		return w, errors.New("ceil_mode is not supported")
	}
	w.pads, w.strides, w.dilations, err = t.values.Kernel(n)
	return w, err
}

func (w window) attrs() []onnx.Attr {
	return []onnx.Attr{onnx.Ints("pads", w.pads...), onnx.Ints("strides", w.strides...), onnx.Ints("dilations", w.dilations...), onnx.Int("group", w.group)}
}

// short is by how much the transposed convolution of out falls short of in: what a stride skipped at the end.
func (w window) short(in, out, kernel []int64) []int64 {
	extra := make([]int64, len(in))
	for i := range in {
		extra[i] = in[i] - (w.strides[i]*(out[i]-1) + w.dilations[i]*(kernel[i]-1) + 1 - w.pads[i] - w.pads[i+len(in)])
	}
	return extra
}

// spread is the derivative by the input: the transposed convolution of dy with the same kernel.
func (t *tape) spread(w window, dy, kernel string, in, out, size []int64) string {
	extra := w.short(in, out, size)
	// The runtime takes an output padding below the stride only; what is larger is added as zeros.
	tail := make([]int64, len(extra))
	for i := range extra {
		if limit := max(w.strides[i], w.dilations[i]); extra[i] >= limit {
			tail[i], extra[i] = extra[i], 0
		}
	}
	dx := t.b.Node("ConvTranspose", []string{dy, kernel}, append(w.attrs(), onnx.Ints("output_padding", extra...))...)
	if slices.Max(tail) > 0 {
		pads := make([]int64, 2*(len(tail)+2))
		copy(pads[len(tail)+4:], tail)
		dx = t.op("Pad", dx, t.b.Ints(pads...))
	}
	return dx
}

// correlate is the derivative by the kernel of a convolution from x to y: y slides over x as a kernel, with
// strides and dilations in each other's place and the batch in the place of the channels.
func (t *tape) correlate(w window, x string, xs []int64, y string, kernel []int64) string {
	dims := len(xs) - 2
	point := slices.Max(kernel[2:]) == 1 && slices.Max(w.strides) == 1 && slices.Max(w.pads) == 0
	perm := func(first ...int64) onnx.Attr {
		for range dims {
			first = append(first, int64(len(first)))
		}
		return onnx.Ints("perm", first...)
	}
	if point && w.group == 1 { // a product of matrices
		flat := func(v string, channels int64) string {
			v = t.b.Node("Transpose", []string{v}, perm(1, 0))
			return t.op("Reshape", v, t.b.Ints(channels, -1))
		}
		g := t.op("MatMul", flat(y, kernel[0]), t.b.Node("Transpose", []string{flat(x, xs[1])}))
		return t.op("Reshape", g, t.b.Ints(kernel...))
	}
	if w.group == 1 && dims == 2 && xs[1] > 1 && slices.Max(w.strides) == 1 && slices.Max(w.dilations) == 1 {
		return t.product(w, x, xs, y, kernel)
	}
	// x: batch, group, channel → channel, group·batch.
	split := append([]int64{xs[0], w.group, xs[1] / w.group}, xs[2:]...)
	joined := append([]int64{xs[1] / w.group, w.group * xs[0]}, xs[2:]...)
	x = t.op("Reshape", x, t.b.Ints(split...))
	x = t.b.Node("Transpose", []string{x}, perm(2, 1, 0))
	x = t.op("Reshape", x, t.b.Ints(joined...))
	y = t.b.Node("Transpose", []string{y}, perm(1, 0))
	turned := window{pads: w.pads, strides: w.dilations, dilations: w.strides, group: w.group}
	g := t.b.Node("Conv", []string{x, y}, turned.attrs()...)
	// What a stride had skipped at the end makes it larger than the kernel.
	starts, ends, axes := make([]int64, dims), slices.Clone(kernel[2:]), make([]int64, dims)
	for i := range axes {
		axes[i] = int64(i + 2)
	}
	g = t.op("Slice", g, t.b.Ints(starts...), t.b.Ints(ends...), t.b.Ints(axes...))
	return t.b.Node("Transpose", []string{g}, perm(1, 0))
}

// product is correlate as one product of matrices an image, for strides of 1 in the plane. Rows are laid end
// to end, with x's pads and as many zeros in y, so that what one point of the kernel meets is one piece of x.
func (t *tape) product(w window, x string, xs []int64, y string, kernel []int64) string {
	high, wide := xs[2]+w.pads[0]+w.pads[2], xs[3]+w.pads[1]+w.pads[3]
	rows := high - kernel[2] + 1
	length := rows*wide - kernel[3] + 1 // the last zeros of y are left out
	if slices.Max(w.pads) > 0 {
		x = t.op("Pad", x, t.b.Ints(0, 0, w.pads[0], w.pads[1], 0, 0, w.pads[2], w.pads[3]))
	}
	x = t.op("Reshape", x, t.b.Ints(xs[0], xs[1], high*wide))
	y = t.op("Pad", y, t.b.Ints(0, 0, 0, 0, 0, 0, 0, kernel[3]-1))
	y = t.op("Reshape", y, t.b.Ints(xs[0], kernel[0], rows*wide))
	y = t.op("Slice", y, t.b.Ints(0), t.b.Ints(length), t.b.Ints(2))
	var pieces []string
	for i := range kernel[2] {
		for k := range kernel[3] {
			from := i*wide + k
			pieces = append(pieces, t.op("Slice", x, t.b.Ints(from), t.b.Ints(from+length), t.b.Ints(2)))
		}
	}
	turned := t.b.Node("Transpose", []string{t.b.Node("Concat", pieces, onnx.Int("axis", 1))}, onnx.Ints("perm", 0, 2, 1))
	g := t.b.Node("ReduceSum", []string{t.op("MatMul", y, turned), t.b.Ints(0)}, onnx.Int("keepdims", 0))
	g = t.op("Reshape", g, t.b.Ints(kernel[0], kernel[2]*kernel[3], kernel[1]))
	return t.op("Reshape", t.b.Node("Transpose", []string{g}, onnx.Ints("perm", 0, 2, 1)), t.b.Ints(kernel...))
}

// bias sums the derivative over everything but the channels.
func (t *tape) bias(name, dy string, rank int) {
	if !t.needs[name] {
		return
	}
	axes := []int64{0}
	for i := 2; i < rank; i++ {
		axes = append(axes, int64(i))
	}
	t.give(name, t.b.Node("ReduceSum", []string{dy, t.b.Ints(axes...)}, onnx.Int("keepdims", 0)), t.shape(name))
}

func (t *tape) conv(n *onnxpb.NodeProto, dy string) error {
	w, err := t.window(n)
	if err != nil {
		return err
	}
	x, k := n.Input[0], n.Input[1]
	xs, ks, ys := t.shape(x), t.shape(k), t.shape(n.Output[0])
	if t.needs[x] {
		t.give(x, t.spread(w, dy, k, xs[2:], ys[2:], ks[2:]), xs)
	}
	if t.needs[k] {
		t.give(k, t.correlate(w, x, xs, dy, ks), ks)
	}
	if len(n.Input) == 3 {
		t.bias(n.Input[2], dy, len(ys))
	}
	return nil
}

// convTranspose is a convolution's derivative, so its own derivative is that convolution.
func (t *tape) convTranspose(n *onnxpb.NodeProto, dy string) error {
	w, err := t.window(n)
	if err != nil {
		return err
	}
	x, k := n.Input[0], n.Input[1]
	xs, ks, ys := t.shape(x), t.shape(k), t.shape(n.Output[0])
	if t.needs[x] {
		dx := t.b.Node("Conv", []string{dy, k}, w.attrs()...)
		t.give(x, dx, xs)
	}
	if t.needs[k] {
		t.give(k, t.correlate(w, dy, ys, x, ks), ks)
	}
	if len(n.Input) == 3 {
		t.bias(n.Input[2], dy, len(ys))
	}
	return nil
}

// tiled says whether the windows of a pooling lie side by side in the plane, with nothing between them and
// nothing left over.
func (t *tape) tiled(n *onnxpb.NodeProto) bool {
	w, err := t.window(n)
	in, out, kernel := t.shape(n.Input[0]), t.shape(n.Output[0]), attribute(n, "kernel_shape").GetInts()
	if err != nil || len(in) != 4 || slices.Max(w.pads) > 0 || slices.Max(w.dilations) > 1 || !slices.Equal(w.strides, kernel) {
		return false
	}
	return in[2] == out[2]*kernel[0] && in[3] == out[3]*kernel[1]
}

// pooled pools every plane by itself. As planes of one channel they stay as they are: the runtime would
// otherwise bring the channels into blocks and back, which takes longer than the pooling.
func (t *tape) pooled(op, v string, in, kernel []int64) string {
	planes := t.op("Reshape", v, t.b.Ints(in[0]*in[1], 1, in[2], in[3]))
	return t.b.Node(op, []string{planes}, onnx.Ints("kernel_shape", kernel...), onnx.Ints("strides", kernel...))
}

// maxPool sends each derivative to where the largest value was. The forward pass has been made to name it,
// unless the windows are tiled: the runtime then finds it sooner by comparing with the enlarged output, and
// equal values share the derivative.
func (t *tape) maxPool(n *onnxpb.NodeProto, dy string) error {
	w, err := t.window(n)
	if err != nil {
		return err
	}
	in, kernel := t.shape(n.Input[0]), attribute(n, "kernel_shape").GetInts()
	if t.tiled(n) {
		scales := t.b.Floats(n.Output[0]+".scales", []float32{1, 1, float32(kernel[0]), float32(kernel[1])}, 4)
		enlarge := func(v string) string {
			return t.b.Node("Resize", []string{v, "", scales}, onnx.Text("mode", "nearest"),
				onnx.Text("coordinate_transformation_mode", "asymmetric"), onnx.Text("nearest_mode", "floor"))
		}
		largest := t.mask("Equal", n.Input[0], enlarge(n.Output[0]))
		share := t.pooled("AveragePool", largest, in, kernel)
		each := t.op("Div", dy, t.op("Mul", t.op("Reshape", share, t.b.Ints(t.shape(n.Output[0])...)), t.b.Scalar(float32(size(kernel)))))
		t.give(n.Input[0], t.op("Mul", largest, enlarge(each)), in)
		return nil
	}
	apart := slices.Max(w.pads) == 0 && slices.Max(w.dilations) == 1
	for i, k := range kernel {
		apart = apart && w.strides[i] >= k
	}
	var attrs []onnx.Attr
	if !apart { // two windows may have the same largest value
		attrs = append(attrs, onnx.Text("reduction", "add"))
	}
	flat := func(v string) string { return t.op("Reshape", v, t.b.Ints(-1)) }
	zeros := t.op("Expand", t.b.Scalar(0), t.b.Ints(size(in)))
	dx := t.b.Node("ScatterElements", []string{zeros, flat(where(n)), flat(dy)}, attrs...)
	t.give(n.Input[0], t.op("Reshape", dx, t.b.Ints(in...)), in)
	return nil
}

// where names the output of a MaxPool that says where the largest values were.
func where(n *onnxpb.NodeProto) string { return n.Output[0] + ".where" }

func (t *tape) averagePool(n *onnxpb.NodeProto, dy string) error {
	w, err := t.window(n)
	if err != nil {
		return err
	}
	if slices.Max(w.pads) > 0 && attribute(n, "count_include_pad").GetI() == 0 {
		return errors.New("pads are supported with count_include_pad only")
	}
	in, out := t.shape(n.Input[0]), t.shape(n.Output[0])
	kernel := attribute(n, "kernel_shape").GetInts()
	w.group = in[1]
	shape := append([]int64{in[1], 1}, kernel...)
	mean := t.op("Expand", t.b.Scalar(1/float32(size(kernel))), t.b.Ints(shape...))
	t.give(n.Input[0], t.spread(w, dy, mean, in[2:], out[2:], kernel), in)
	return nil
}

func (t *tape) globalAveragePool(n *onnxpb.NodeProto, dy string) error {
	in := t.shape(n.Input[0])
	share := t.op("Mul", dy, t.b.Scalar(1/float32(size(in[2:]))))
	t.give(n.Input[0], t.op("Expand", share, t.b.Ints(in...)), in)
	return nil
}
