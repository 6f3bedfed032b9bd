package runtime

import (
	"errors"
	"fmt"

	ort "github.com/yalue/onnxruntime_go"
)

// Options say how a graph is loaded. The zero value is right for a device.
type Options struct {
	// Library is the path of libonnxruntime; empty means where Library finds it.
	Library string
}

// Program is a loaded graph. It may run in several bindings at once.
type Program struct {
	session *ort.DynamicAdvancedSession
}

// LoadProgram loads a graph that our own code built. It does not check it: use Load for a model that came
// from elsewhere.
func LoadProgram(model []byte, o Options) (*Program, error) {
	if len(model) == 0 {
		return nil, errors.New("load graph: it is empty")
	}
	if err := Init(o.Library); err != nil {
		return nil, err
	}
	so, err := ort.NewSessionOptions()
	if err != nil {
		return nil, fmt.Errorf("load graph: %w", err)
	}
	defer func() { _ = so.Destroy() }() // it always succeeds
	err = errors.Join(
		so.SetIntraOpNumThreads(1),
		so.SetInterOpNumThreads(1),
		so.SetCpuMemArena(true),
		so.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll),
		so.SetLogSeverityLevel(ort.LoggingLevelFatal),
	)
	if err != nil {
		return nil, fmt.Errorf("load graph: %w", err)
	}
	s, err := ort.NewDynamicAdvancedSessionWithONNXData(model, nil, nil, so)
	if err != nil {
		return nil, fmt.Errorf("load graph: %w", err)
	}
	return &Program{session: s}, nil
}

// Close frees the graph. Close its bindings first.
func (p *Program) Close() error { return p.session.Destroy() }

// Tensor is a float32 buffer that graphs read and write in place.
type Tensor struct {
	value *ort.Tensor[float32]
}

// NewTensor makes a tensor of zeros. Init or LoadProgram must have succeeded.
func NewTensor(dims ...int64) (*Tensor, error) {
	v, err := ort.NewEmptyTensor[float32](ort.Shape(dims))
	if err != nil {
		return nil, fmt.Errorf("make tensor %v: %w", dims, err)
	}
	return &Tensor{v}, nil
}

// Data is the buffer itself, row by row. It is valid until Close.
func (t *Tensor) Data() []float32 { return t.value.GetData() }

// Close frees the tensor. No binding that uses it may run afterwards.
func (t *Tensor) Close() error { return t.value.Destroy() }

// Binding is a program with its inputs and outputs attached to buffers. It may not run twice at once.
type Binding struct {
	program *Program
	io      *ort.IoBinding
}

// Bind attaches tensors to names. Every input of the graph must be there; outputs left out are not computed
// for the caller. One tensor may be the input of one binding and the output of another: this is how a
// training step hands its parameters to the next without copying.
func (p *Program) Bind(inputs, outputs map[string]*Tensor) (*Binding, error) {
	io, err := p.session.CreateIoBinding()
	if err != nil {
		return nil, fmt.Errorf("bind tensors: %w", err)
	}
	b := &Binding{program: p, io: io}
	for name, t := range inputs {
		err = errors.Join(err, b.io.BindInput(name, t.value))
	}
	for name, t := range outputs {
		err = errors.Join(err, b.io.BindOutput(name, t.value))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind tensors: %w", err), b.Close())
	}
	return b, nil
}

// Run computes the graph once over the bound buffers.
func (b *Binding) Run() error {
	if err := b.program.session.RunWithBinding(b.io); err != nil {
		return fmt.Errorf("run graph: %w", err)
	}
	return nil
}

// Close frees the binding, not its tensors.
func (b *Binding) Close() error { return b.io.Destroy() }
