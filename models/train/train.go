// Package train fits the weights of a graph in the same runtime that scores with it. It takes a forward
// graph that ends in a loss, derives the gradients of its parameters in reverse order, appends Adam, and so
// makes one training-step graph of standard ONNX operations.
//
// All parameters live in one flat vector. Two bindings of the step graph use two sets of buffers in turn,
// each reading what the other wrote, so nothing is copied between steps. One thread and a fixed order of
// operations make re-runs bit-identical on one machine and library version.
//
// Shapes are static: a graph is made for one batch size. An operation without a gradient is refused by
// name; adding one means a function in gradient.go and a row in the finite-difference test.
//
// models/zoo is the caller; devices never import it.
package train

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/models/runtime"
)

// Adam is the optimizer's configuration (Kingma and Ba, 2015). A zero field means its default.
type Adam struct {
	Beta1   float64 // default 0.9
	Beta2   float64 // default 0.999
	Epsilon float64 // default 1e-8
}

func (a Adam) withDefaults() Adam {
	if a.Beta1 == 0 {
		a.Beta1 = 0.9
	}
	if a.Beta2 == 0 {
		a.Beta2 = 0.999
	}
	if a.Epsilon == 0 {
		a.Epsilon = 1e-8
	}
	return a
}

// Task is what to train.
type Task struct {
	// Forward computes the loss. Its inputs have static shapes; its float32 constants named in Params are
	// the starting weights. It is not changed.
	Forward *onnxpb.GraphProto
	// Params names the constants to train, in the order they take in the flat vector.
	Params []string
	// Loss names the value to make small. Its shape is [1].
	Loss string
	Adam Adam
}

// Names of the step graph's own values. Forward graphs must not use names that begin with "step.".
const (
	params, newParams   = "step.params", "step.params'"
	moment, newMoment   = "step.moment", "step.moment'" // running mean of the gradient
	spread, newSpread   = "step.spread", "step.spread'" // running mean of its square
	rate, correction    = "step.rate", "step.correction"
	stepLoss, gradients = "step.loss", "step.gradients"
)

// Trainer runs training steps. It is not safe for concurrent use.
type Trainer struct {
	task    Task
	offsets []int64 // of each parameter in the flat vector, and its length at the end
	steps   int

	program  *runtime.Program
	inputs   map[string]*runtime.Tensor
	state    [2][3]*runtime.Tensor // parameters, moment and spread, before and after; they take turns
	scalars  map[string]*runtime.Tensor
	bindings [2]*runtime.Binding
}

// New builds the training-step graph of task and loads it.
func New(task Task, o runtime.Options) (_ *Trainer, err error) {
	task.Adam = task.Adam.withDefaults()
	t := &Trainer{task: task, inputs: map[string]*runtime.Tensor{}, scalars: map[string]*runtime.Tensor{}}
	b, start, err := t.build()
	if err != nil {
		return nil, fmt.Errorf("build training step: %w", err)
	}
	model, err := onnx.Marshal("training step", b.Graph(), nil)
	if err != nil {
		return nil, err
	}
	if t.program, err = runtime.LoadProgram(model, o); err != nil {
		return nil, fmt.Errorf("load training step: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if err = t.allocate(); err != nil {
		return nil, err
	}
	copy(t.state[0][0].Data(), start)
	return t, nil
}

// build makes the step graph: parameters cut out of the flat vector, forward, backward, Adam.
func (t *Trainer) build() (*onnx.Builder, []float32, error) {
	b := &onnx.Builder{Prefix: "step."}
	grads, start, err := t.differentiate(b)
	if err != nil {
		return nil, nil, err
	}
	n := int64(len(start))
	b.Input(moment, onnx.Float, n)
	b.Input(spread, onnx.Float, n)
	b.Input(rate, onnx.Float, 1)
	b.Input(correction, onnx.Float, 1)
	average := func(old, in string, beta float64, out string) {
		kept := b.Node("Mul", []string{old, b.Scalar(float32(beta))})
		b.NodeTo([]string{out}, "Add", []string{kept, b.Node("Mul", []string{in, b.Scalar(float32(1 - beta))})})
	}
	average(moment, grads, t.task.Adam.Beta1, newMoment)
	average(spread, b.Node("Mul", []string{grads, grads}), t.task.Adam.Beta2, newSpread)
	scale := b.Node("Mul", []string{b.Node("Sqrt", []string{newSpread}), correction})
	scale = b.Node("Add", []string{scale, b.Scalar(float32(t.task.Adam.Epsilon))})
	move := b.Node("Div", []string{b.Node("Mul", []string{newMoment, rate}), scale})
	b.NodeTo([]string{newParams}, "Sub", []string{params, move})
	for _, out := range []string{newParams, newMoment, newSpread} {
		b.Output(out, onnx.Float, n)
	}
	return b, start, nil
}

// differentiate emits the forward and backward pass over a flat parameter vector, and returns the name of
// the flat gradient and the starting parameters.
func (t *Trainer) differentiate(b *onnx.Builder) (string, []float32, error) {
	f := t.task.Forward
	shapes := map[string][]int64{}
	for _, in := range f.Input {
		dims := staticShape(in)
		if size(dims) < 1 {
			return "", nil, fmt.Errorf("input %q needs a static shape, has %v", in.GetName(), dims)
		}
		shapes[in.GetName()] = dims
		b.Input(in.GetName(), onnx.Float, dims...)
	}
	values, err := onnx.Infer(f, shapes)
	if err != nil {
		return "", nil, err
	}
	if loss, ok := values.All[t.task.Loss]; !ok || !slices.Equal(loss.Shape, []int64{1}) {
		return "", nil, fmt.Errorf("loss %q does not have shape [1]", t.task.Loss)
	}
	var start []float32
	for _, name := range t.task.Params {
		i := slices.IndexFunc(f.Initializer, func(c *onnxpb.TensorProto) bool { return c.GetName() == name })
		if i < 0 {
			return "", nil, fmt.Errorf("parameter %q is not a constant of the graph", name)
		}
		data, err := onnx.FloatData(f.Initializer[i])
		if err != nil {
			return "", nil, err
		}
		t.offsets = append(t.offsets, int64(len(start)))
		start = append(start, data...)
	}
	t.offsets = append(t.offsets, int64(len(start)))
	b.Input(params, onnx.Float, int64(len(start)))
	for i, name := range t.task.Params {
		part := b.Node("Slice", []string{params, b.Ints(t.offsets[i]), b.Ints(t.offsets[i+1])})
		b.NodeTo([]string{name}, "Reshape", []string{part, b.Ints(values.All[name].Shape...)})
	}
	g := b.Graph()
	for _, c := range f.Initializer {
		if !slices.Contains(t.task.Params, c.GetName()) {
			g.Initializer = append(g.Initializer, c)
		}
	}
	g.Node = append(g.Node, f.Node...)
	b.NodeTo([]string{stepLoss}, "Identity", []string{t.task.Loss})
	b.Output(stepLoss, onnx.Float, 1)

	back := &tape{b: b, values: values}
	grads, err := back.backward(f, t.task.Params, t.task.Loss)
	if err != nil {
		return "", nil, err
	}
	for i, grad := range grads {
		grads[i] = b.Node("Reshape", []string{grad, b.Ints(-1)})
	}
	b.NodeTo([]string{gradients}, "Concat", grads, onnx.Int("axis", 0))
	return gradients, start, nil
}

// staticShape reads a declared shape; a free dimension comes out as 0.
func staticShape(v *onnxpb.ValueInfoProto) []int64 {
	var dims []int64
	for _, d := range v.GetType().GetTensorType().GetShape().GetDim() {
		dims = append(dims, d.GetDimValue())
	}
	return dims
}

func (t *Trainer) allocate() error {
	var failed error
	tensor := func(dims ...int64) *runtime.Tensor {
		v, err := runtime.NewTensor(dims...)
		failed = errors.Join(failed, err)
		return v
	}
	for _, in := range t.task.Forward.Input {
		t.inputs[in.GetName()] = tensor(staticShape(in)...)
	}
	for _, name := range []string{rate, correction, stepLoss} {
		t.scalars[name] = tensor(1)
	}
	n := t.offsets[len(t.offsets)-1]
	for i := range t.state {
		for k := range t.state[i] {
			t.state[i][k] = tensor(n)
		}
	}
	if failed != nil {
		return failed
	}
	for i := range t.bindings {
		from, to := t.state[i], t.state[1-i]
		in := map[string]*runtime.Tensor{params: from[0], moment: from[1], spread: from[2], rate: t.scalars[rate], correction: t.scalars[correction]}
		maps.Copy(in, t.inputs)
		out := map[string]*runtime.Tensor{newParams: to[0], newMoment: to[1], newSpread: to[2], stepLoss: t.scalars[stepLoss]}
		var err error
		if t.bindings[i], err = t.program.Bind(in, out); err != nil {
			return err
		}
	}
	return nil
}

// Input is the buffer of one input of the forward graph. Fill it before each Step.
func (t *Trainer) Input(name string) []float32 { return t.inputs[name].Data() }

// Step runs one training step at the given learning rate over what the inputs hold, and returns the loss
// before the step. It fails when the loss is no longer finite.
func (t *Trainer) Step(ctx context.Context, learningRate float64) (float32, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("training step %d: %w", t.steps+1, err)
	}
	t.steps++
	n := float64(t.steps)
	t.scalars[rate].Data()[0] = float32(learningRate / (1 - math.Pow(t.task.Adam.Beta1, n)))
	t.scalars[correction].Data()[0] = float32(1 / math.Sqrt(1-math.Pow(t.task.Adam.Beta2, n)))
	if err := t.bindings[(t.steps-1)%2].Run(); err != nil {
		return 0, fmt.Errorf("training step %d: %w", t.steps, err)
	}
	loss := t.scalars[stepLoss].Data()[0]
	if l := float64(loss); math.IsNaN(l) || math.IsInf(l, 0) {
		return loss, fmt.Errorf("training step %d: the loss is %v: lower the learning rate or look at the data", t.steps, loss)
	}
	return loss, nil
}

// Params returns a copy of the current weights by name.
func (t *Trainer) Params() map[string][]float32 {
	flat := t.state[t.steps%2][0].Data()
	out := make(map[string][]float32, len(t.task.Params))
	for i, name := range t.task.Params {
		out[name] = slices.Clone(flat[t.offsets[i]:t.offsets[i+1]])
	}
	return out
}

// Close frees the native memory. Closing twice is harmless.
func (t *Trainer) Close() error {
	var errs []error
	for i, b := range t.bindings {
		if b != nil {
			errs = append(errs, b.Close())
		}
		t.bindings[i] = nil
	}
	free := func(v *runtime.Tensor) {
		if v != nil {
			errs = append(errs, v.Close())
		}
	}
	for _, v := range t.inputs {
		free(v)
	}
	for _, v := range t.scalars {
		free(v)
	}
	for _, set := range t.state {
		for _, v := range set {
			free(v)
		}
	}
	t.inputs, t.scalars, t.state = nil, nil, [2][3]*runtime.Tensor{}
	if t.program != nil {
		errs = append(errs, t.program.Close())
		t.program = nil
	}
	return errors.Join(errs...)
}
