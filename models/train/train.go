// Package train fits the weights of a graph in the same runtime that scores with it. It takes a forward
// graph that ends in a loss, derives the gradients of its parameters in reverse order, appends an optimizer,
// and so makes one training-step graph of standard ONNX operations.
//
// All parameters live in one flat vector. Two bindings of the step graph use two sets of buffers in turn,
// each reading what the other wrote, so nothing is copied between steps. One thread and a fixed order of
// operations make re-runs bit-identical on one machine and library version.
//
// Shapes are static: a graph is made for one batch size. An operation without a gradient is refused by
// name; adding one means a function beside its kin and a row in the finite-difference test.
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

// Task is what to train.
type Task struct {
	// Forward computes the loss. Its inputs have static shapes; its float32 constants named in Params are
	// the starting weights. It is not changed.
	Forward *onnxpb.GraphProto
	// Params names the constants to train, in the order they take in the flat vector.
	Params []string
	// Loss names the value to make small. Its shape is [1].
	Loss string
	// Optimizer moves the parameters. nil means Adam{}.
	Optimizer Optimizer
	// ClipNorm scales a gradient down whose length is above it. 0: gradients stay as they are.
	ClipNorm float64
}

// Names of the step graph's own values. Forward graphs must not use names that begin with "step.".
const (
	params, newParams   = "step.params", "step.params'"
	stats, newStats     = "step.stats", "step.stats'" // running means and variances of normalizations
	learning            = "step.learning"             // the learning rate
	rate, correction    = "step.rate", "step.correction"
	stepLoss, gradients = "step.loss", "step.gradients"
)

// statsShare is how much of a batch's mean and variance enters the running ones.
const statsShare = 0.1

// memory names the optimizer's i-th vector, before and after a step.
func memory(i int) (old, next string) {
	return fmt.Sprintf("step.memory%d", i), fmt.Sprintf("step.memory%d'", i)
}

// layout says where the values of constants lie in a flat vector.
type layout struct {
	names []string
	dims  [][]int64 // of each
	at    []int64   // of each, and the length at the end
	start []float32
}

func (l *layout) add(f *onnxpb.GraphProto, name string) error {
	i := slices.IndexFunc(f.Initializer, func(c *onnxpb.TensorProto) bool { return c.GetName() == name })
	if i < 0 {
		return fmt.Errorf("%q is not a constant of the graph", name)
	}
	data, err := onnx.FloatData(f.Initializer[i])
	if err != nil {
		return err
	}
	l.names, l.dims = append(l.names, name), append(l.dims, f.Initializer[i].Dims)
	l.at, l.start = append(l.at, int64(len(l.start))), append(l.start, data...)
	return nil
}

// cutOut gives the constants of l, in the input called vector, their names back.
func (l *layout) cutOut(b *onnx.Builder, vector string) {
	b.Input(vector, onnx.Float, l.size())
	for i, name := range l.names {
		part := b.Node("Slice", []string{vector, b.Ints(l.at[i]), b.Ints(l.end(i))})
		b.NodeTo([]string{name}, "Reshape", []string{part, b.Ints(l.dims[i]...)})
	}
}

// has says whether name is one of them.
func (l *layout) has(name string) bool { return slices.Contains(l.names, name) }

func (l *layout) size() int64 { return int64(len(l.start)) }

// end is where the i-th constant ends.
func (l *layout) end(i int) int64 {
	if i+1 < len(l.at) {
		return l.at[i+1]
	}
	return l.size()
}

// slot is a vector that steps carry on: two buffers take turns.
type slot struct {
	old, next string
	buffers   [2]*runtime.Tensor
}

// Trainer runs training steps. It is not safe for concurrent use.
type Trainer struct {
	task    Task
	options runtime.Options
	params  layout
	stats   layout
	steps   int

	program  *runtime.Program
	inputs   map[string]*runtime.Tensor
	slots    []slot // parameters first, then running statistics if there are any, then the optimizer's memory
	scalars  map[string]*runtime.Tensor
	bindings [2]*runtime.Binding

	judge   *runtime.Program    // what Loss runs; nil until then
	judging [2]*runtime.Binding // to either set of buffers
}

// New builds the training-step graph of task and loads it.
func New(task Task, o runtime.Options) (_ *Trainer, err error) {
	if task.Optimizer == nil {
		task.Optimizer = Adam{}
	}
	t := &Trainer{task: task, options: o, inputs: map[string]*runtime.Tensor{}, scalars: map[string]*runtime.Tensor{}}
	b, err := t.build()
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
	copy(t.slots[0].buffers[0].Data(), t.params.start)
	if t.stats.size() > 0 {
		copy(t.slots[1].buffers[0].Data(), t.stats.start)
	}
	return t, nil
}

// build makes the step graph: parameters cut out of the flat vector, forward, backward, optimizer.
func (t *Trainer) build() (*onnx.Builder, error) {
	b := &onnx.Builder{Prefix: "step."}
	grads, err := t.differentiate(b)
	if err != nil {
		return nil, err
	}
	n := t.params.size()
	if t.task.ClipNorm > 0 {
		length := b.Node("ReduceL2", []string{grads}, onnx.Int("keepdims", 1))
		limit := b.Node("Div", []string{b.Scalar(float32(t.task.ClipNorm)), b.Node("Add", []string{length, b.Scalar(1e-6)})})
		grads = b.Node("Mul", []string{grads, b.Node("Min", []string{limit, b.Scalar(1)})})
	}
	for _, name := range []string{rate, correction, learning} {
		b.Input(name, onnx.Float, 1)
	}
	t.slots = append([]slot{{old: params, next: newParams}}, t.slots...)
	var old, next []string
	for i := range t.task.Optimizer.memory() {
		o, x := memory(i)
		old, next = append(old, b.Input(o, onnx.Float, n)), append(next, x)
		t.slots = append(t.slots, slot{old: o, next: x})
	}
	decayed := ""
	if share := t.task.Optimizer.decay(); share > 0 {
		mask := make([]float32, n)
		for i, name := range t.params.names {
			if t.weight(name) {
				for k := t.params.at[i]; k < t.params.end(i); k++ {
					mask[k] = float32(share)
				}
			}
		}
		decayed = b.Floats("step.decayed", mask, n)
	}
	b.NodeTo([]string{newParams}, "Identity", []string{t.task.Optimizer.emit(b, params, grads, old, next, decayed)})
	for _, s := range t.slots {
		size := n
		if s.old == stats {
			size = t.stats.size()
		}
		b.Output(s.next, onnx.Float, size)
	}
	return b, nil
}

// weight says whether a parameter is a matrix or a kernel: biases and scales are not decayed.
func (t *Trainer) weight(name string) bool {
	for _, c := range t.task.Forward.Initializer {
		if c.GetName() == name {
			return len(c.Dims) > 1
		}
	}
	return false
}

// differentiate emits the forward and backward pass over a flat parameter vector, and returns the name of
// the flat gradient.
func (t *Trainer) differentiate(b *onnx.Builder) (string, error) {
	f := poolFirst(t.task.Forward)
	shapes := map[string][]int64{}
	for _, in := range f.Input {
		dims := staticShape(in)
		if size(dims) < 1 {
			return "", fmt.Errorf("input %q needs a static shape, has %v", in.GetName(), dims)
		}
		shapes[in.GetName()] = dims
		b.Input(in.GetName(), onnx.DataType(in.GetType().GetTensorType().GetElemType()), dims...)
	}
	values, err := onnx.Infer(f, shapes)
	if err != nil {
		return "", err
	}
	if whole, err := unrolled(f, values); err != nil {
		return "", err
	} else if whole != f {
		f = whole
		if values, err = onnx.Infer(f, shapes); err != nil {
			return "", err
		}
	}
	if loss, ok := values.All[t.task.Loss]; !ok || !slices.Equal(loss.Shape, []int64{1}) {
		return "", fmt.Errorf("loss %q does not have shape [1]", t.task.Loss)
	}
	for _, name := range t.task.Params {
		if err := t.params.add(f, name); err != nil {
			return "", fmt.Errorf("parameter %w", err)
		}
	}
	back := &tape{b: b, values: values, batches: map[string]batch{}}
	back.reach(f, t.task.Params)
	for _, n := range f.Node {
		if back.trained(n) {
			if err := errors.Join(t.stats.add(f, n.Input[3]), t.stats.add(f, n.Input[4])); err != nil {
				return "", fmt.Errorf("running statistics of %q: %w", n.GetName(), err)
			}
		}
	}
	t.params.cutOut(b, params)
	t.keepConstants(b, f)
	back.forward(f)
	b.NodeTo([]string{stepLoss}, "Identity", []string{t.task.Loss})
	b.Output(stepLoss, onnx.Float, 1)
	t.follow(b, f, back)

	grads, err := back.backward(f, t.task.Params, t.task.Loss)
	if err != nil {
		return "", err
	}
	for i, grad := range grads {
		grads[i] = b.Node("Reshape", []string{grad, b.Ints(-1)})
	}
	b.NodeTo([]string{gradients}, "Concat", grads, onnx.Int("axis", 0))
	return gradients, nil
}

// keepConstants copies the constants of f that training leaves alone.
func (t *Trainer) keepConstants(b *onnx.Builder, f *onnxpb.GraphProto) {
	g := b.Graph()
	for _, c := range f.Initializer {
		if !t.params.has(c.GetName()) && !t.stats.has(c.GetName()) {
			g.Initializer = append(g.Initializer, c)
		}
	}
}

// poolFirst puts a Relu that only a MaxPool reads behind it: the largest value is the same, and the Relu and
// its gradient have less to do. f is not changed.
func poolFirst(f *onnxpb.GraphProto) *onnxpb.GraphProto {
	readers := map[string]int{}
	for _, n := range f.Node {
		for _, in := range n.Input {
			readers[in]++
		}
	}
	for _, o := range f.Output {
		readers[o.GetName()]++
	}
	nodes := slices.Clone(f.Node)
	made := map[string]int{}
	for i, n := range nodes {
		for _, out := range n.Output {
			made[out] = i
		}
		if n.GetOpType() != "MaxPool" || len(n.Output) != 1 {
			continue
		}
		k, ok := made[n.Input[0]]
		if !ok || nodes[k].GetOpType() != "Relu" || readers[n.Input[0]] != 1 {
			continue
		}
		relu := nodes[k]
		nodes[k] = &onnxpb.NodeProto{OpType: n.OpType, Name: n.Name, Attribute: n.Attribute, Input: relu.Input, Output: relu.Output}
		nodes[i] = &onnxpb.NodeProto{OpType: relu.OpType, Name: relu.Name, Input: n.Input, Output: n.Output}
	}
	return &onnxpb.GraphProto{Name: f.Name, Node: nodes, Initializer: f.Initializer, Input: f.Input, Output: f.Output}
}

// follow lets the running statistics of trained normalizations follow those of the batch.
func (t *Trainer) follow(b *onnx.Builder, f *onnxpb.GraphProto, back *tape) {
	if t.stats.size() == 0 {
		return
	}
	var now []string
	for _, n := range f.Node {
		if back.trained(n) {
			now = append(now, back.batches[n.Output[0]].mean, back.batches[n.Output[0]].spread)
		}
	}
	b.Input(stats, onnx.Float, t.stats.size())
	t.slots = append(t.slots, slot{old: stats, next: newStats})
	kept := b.Node("Mul", []string{stats, b.Scalar(1 - statsShare)})
	batch := b.Node("Mul", []string{b.Node("Concat", now, onnx.Int("axis", 0)), b.Scalar(statsShare)})
	b.NodeTo([]string{newStats}, "Add", []string{kept, batch})
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
	for _, name := range []string{rate, correction, learning, stepLoss} {
		t.scalars[name] = tensor(1)
	}
	for i := range t.slots {
		n := t.params.size()
		if t.slots[i].old == stats {
			n = t.stats.size()
		}
		t.slots[i].buffers = [2]*runtime.Tensor{tensor(n), tensor(n)}
	}
	if failed != nil {
		return failed
	}
	for i := range t.bindings {
		in := map[string]*runtime.Tensor{rate: t.scalars[rate], correction: t.scalars[correction], learning: t.scalars[learning]}
		maps.Copy(in, t.inputs)
		out := map[string]*runtime.Tensor{stepLoss: t.scalars[stepLoss]}
		for _, s := range t.slots {
			in[s.old], out[s.next] = s.buffers[i], s.buffers[1-i]
		}
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
	r, c := t.task.Optimizer.rates(t.steps, learningRate)
	t.scalars[rate].Data()[0], t.scalars[correction].Data()[0], t.scalars[learning].Data()[0] = float32(r), float32(c), float32(learningRate)
	if err := t.bindings[(t.steps-1)%2].Run(); err != nil {
		return 0, fmt.Errorf("training step %d: %w", t.steps, err)
	}
	loss := t.scalars[stepLoss].Data()[0]
	if l := float64(loss); math.IsNaN(l) || math.IsInf(l, 0) {
		return loss, fmt.Errorf("training step %d: the loss is %v: lower the learning rate or look at the data", t.steps, loss)
	}
	return loss, nil
}

// Loss is the loss over what the inputs hold, as the weights stand. It is that of the forward graph as it is
// written, with the running statistics of normalizations. Nothing is learned from it.
func (t *Trainer) Loss(ctx context.Context) (float32, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("loss after training step %d: %w", t.steps, err)
	}
	if t.judge == nil {
		if err := t.makeJudge(); err != nil {
			return 0, fmt.Errorf("build loss: %w", err)
		}
	}
	if err := t.judging[t.steps%2].Run(); err != nil {
		return 0, fmt.Errorf("loss after training step %d: %w", t.steps, err)
	}
	return t.scalars[stepLoss].Data()[0], nil
}

func (t *Trainer) makeJudge() error {
	f, b := t.task.Forward, &onnx.Builder{Prefix: "step."}
	for _, in := range f.Input {
		b.Input(in.GetName(), onnx.DataType(in.GetType().GetTensorType().GetElemType()), staticShape(in)...)
	}
	t.params.cutOut(b, params)
	if t.stats.size() > 0 {
		t.stats.cutOut(b, stats)
	}
	t.keepConstants(b, f)
	g := b.Graph()
	g.Node = append(g.Node, f.Node...)
	b.NodeTo([]string{stepLoss}, "Identity", []string{t.task.Loss})
	b.Output(stepLoss, onnx.Float, 1)
	model, err := onnx.Marshal("loss", b.Graph(), nil)
	if err != nil {
		return err
	}
	program, err := runtime.LoadProgram(model, t.options)
	if err != nil {
		return err
	}
	for i := range t.judging {
		in := map[string]*runtime.Tensor{}
		maps.Copy(in, t.inputs)
		for _, s := range t.slots {
			if s.old == params || s.old == stats {
				in[s.old] = s.buffers[i]
			}
		}
		if t.judging[i], err = program.Bind(in, map[string]*runtime.Tensor{stepLoss: t.scalars[stepLoss]}); err != nil {
			return errors.Join(err, program.Close())
		}
	}
	t.judge = program
	return nil
}

// Params returns a copy of the current weights by name, with the running statistics of trained
// normalizations among them.
func (t *Trainer) Params() map[string][]float32 {
	out := make(map[string][]float32, len(t.params.names)+len(t.stats.names))
	read := func(l layout, s slot) {
		flat := s.buffers[t.steps%2].Data()
		for i, name := range l.names {
			out[name] = slices.Clone(flat[l.at[i]:l.end(i)])
		}
	}
	read(t.params, t.slots[0])
	if t.stats.size() > 0 {
		read(t.stats, t.slots[1])
	}
	return out
}

// Close frees the native memory. Closing twice is harmless.
func (t *Trainer) Close() error {
	var errs []error
	for _, bindings := range []*[2]*runtime.Binding{&t.bindings, &t.judging} {
		for i, b := range bindings {
			if b != nil {
				errs = append(errs, b.Close())
			}
			bindings[i] = nil
		}
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
	for _, s := range t.slots {
		free(s.buffers[0])
		free(s.buffers[1])
	}
	t.inputs, t.scalars, t.slots = nil, nil, nil
	for _, p := range []**runtime.Program{&t.program, &t.judge} {
		if *p != nil {
			errs = append(errs, (*p).Close())
		}
		*p = nil
	}
	return errors.Join(errs...)
}
