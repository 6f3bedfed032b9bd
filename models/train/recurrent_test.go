package train

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

// A forecaster: a GRU over 7 steps of 3 rows with 4 channels, and a linear layer on its last state.
func forecaster(attrs ...onnx.Attr) (Task, map[string][]float32) {
	b := &onnx.Builder{}
	task, start := Task{Loss: "loss"}, map[string][]float32{}
	param := func(seed uint64, name string, dims ...int64) string {
		start[name] = numbers(seed, int(size(dims)), 0.4)
		task.Params = append(task.Params, b.Floats(name, start[name], dims...))
		return name
	}
	x, y := b.Input("x", onnx.Float, 7, 3, 4), b.Input("y", onnx.Float, 3, 2)
	b.NodeTo([]string{"all", "end"}, "GRU", []string{x, param(1, "w", 1, 15, 4), param(2, "r", 1, 15, 5), param(3, "b", 1, 30)},
		append(attrs, onnx.Int("hidden_size", 5))...)
	h := b.Node("Reshape", []string{"end", b.Ints(3, 5)})
	e := b.Node("Sub", []string{b.Node("Gemm", []string{h, param(4, "head", 5, 2)}), y})
	e = b.Node("ReduceMean", []string{b.Node("Mul", []string{e, e})}, onnx.Int("keepdims", 0))
	b.NodeTo([]string{"loss"}, "Reshape", []string{e, b.Ints(1)})
	task.Forward = b.Graph()
	return task, start
}

func TestAWrittenOutGRUComputesWhatTheRuntimesOwnDoes(t *testing.T) {
	need(t)
	for _, late := range []int64{0, 1} {
		task, _ := forecaster(onnx.Int("linear_before_reset", late))
		tr, err := New(task, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		b := &onnx.Builder{}
		g := b.Graph()
		g.Input, g.Node, g.Initializer = task.Forward.Input, task.Forward.Node, task.Forward.Initializer
		b.Output("loss", onnx.Float, 1)
		model, err := onnx.Marshal("forecaster", g, nil)
		if err != nil {
			t.Fatal(err)
		}
		program, err := runtime.LoadProgram(model, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer program.Close()
		copy(tr.Input("x"), numbers(8, 7*3*4, 1))
		copy(tr.Input("y"), numbers(9, 3*2, 1))
		loss, err := runtime.NewTensor(1)
		if err != nil {
			t.Fatal(err)
		}
		defer loss.Close()
		binding, err := program.Bind(tr.inputs, map[string]*runtime.Tensor{"loss": loss})
		if err != nil {
			t.Fatal(err)
		}
		defer binding.Close()
		if err := binding.Run(); err != nil {
			t.Fatal(err)
		}
		got, err := tr.Step(context.Background(), 0.01)
		if err != nil {
			t.Fatal(err)
		}
		if want := loss.Data()[0]; math.Abs(float64(got-want)) > 1e-5 {
			t.Errorf("linear_before_reset %d: the loss is %g, the runtime's GRU gives %g", late, got, want)
		}
	}
	task, _ := forecaster()
	if got := Untrainable(task.Forward); len(got) > 0 {
		t.Errorf("%q are said to have no gradient", got)
	}
}

func TestAGRUsTrajectoryMatchesPyTorch(t *testing.T) {
	need(t)
	python := "/usr/bin/python3" // Debian's own, where its packages are
	if out, err := exec.Command(python, "-c", "import torch").CombinedOutput(); err != nil {
		t.Skipf("PyTorch is not there (Debian: python3-torch): %v %.200s", err, out)
	}
	task, start := forecaster(onnx.Int("linear_before_reset", 1))
	x, y := numbers(8, 7*3*4, 1), numbers(9, 3*2, 1)
	job, err := json.Marshal(map[string]any{"x": x, "y": y, "weights": start, "steps": 60})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "testdata/gru.py")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(job), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []float64
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	tr, err := New(task, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	copy(tr.Input("x"), x)
	copy(tr.Input("y"), y)
	for i, w := range want {
		got, err := tr.Step(context.Background(), 0.01)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(float64(got)-w) > 1e-3*(0.01+w) {
			t.Fatalf("loss of step %d is %g, PyTorch says %g", i+1, got, w)
		}
	}
}

func TestAGRUThatCannotBeWrittenOutIsRefused(t *testing.T) {
	for want, attr := range map[string]onnx.Attr{
		"direction forward":    onnx.Text("direction", "reverse"),
		"layout 0":             onnx.Int("layout", 1),
		"standard activations": onnx.Float32("clip", 1),
	} {
		task, _ := forecaster(attr)
		_, err := New(task, runtime.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one that says %q", err, want)
		}
	}
}
