package train

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"testing"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

// network is a small classifier with one of everything, and its starting weights. testdata/trajectory.py
// builds the same.
func network() (Task, map[string][]float32) {
	b := &onnx.Builder{}
	task := Task{Loss: "loss"}
	start := map[string][]float32{}
	param := func(seed uint64, name string, scale float64, dims ...int64) string {
		start[name] = numbers(seed, int(size(dims)), scale)
		task.Params = append(task.Params, b.Floats(name, start[name], dims...))
		return name
	}
	ones := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = 1
		}
		return v
	}
	x, y := b.Input("x", onnx.Float, 12, 2, 9, 9), b.Input("y", onnx.Float, 12, 3)
	h := b.Node("Conv", []string{x, param(1, "k1", 0.3, 6, 2, 3, 3)}, onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 1, 1, 1))
	h = b.Node("BatchNormalization", []string{h, param(2, "s1", 1, 6), param(3, "b1", 0.3, 6), b.Floats("mean", make([]float32, 6), 6), b.Floats("var", ones(6), 6)})
	h = b.Node("Relu", []string{h})
	h = b.Node("MaxPool", []string{h}, onnx.Ints("kernel_shape", 2, 2))
	h = b.Node("Relu", []string{b.Node("Conv", []string{h, param(4, "k2", 0.3, 6, 1, 3, 3)}, onnx.Int("group", 6), onnx.Ints("pads", 1, 1, 1, 1))})
	h = b.Node("Conv", []string{h, param(5, "k3", 0.3, 8, 6, 1, 1), param(6, "c3", 0.1, 8)})
	h = b.Node("Flatten", []string{b.Node("GlobalAveragePool", []string{h})})
	h = b.Node("LayerNormalization", []string{h, b.Floats("ones", ones(8), 8)})
	bell := b.Node("Add", []string{b.Node("Erf", []string{b.Node("Mul", []string{h, b.Scalar(float32(math.Sqrt(0.5)))})}), b.Scalar(1)})
	h = b.Node("Mul", []string{b.Node("Mul", []string{h, bell}), b.Scalar(0.5)}) // Gelu
	h = b.Node("Gemm", []string{h, param(7, "w", 0.5, 8, 3), param(8, "b", 0.1, 3)})
	e := b.Node("Mul", []string{b.Node("LogSoftmax", []string{h}), y})
	e = b.Node("ReduceSum", []string{e}, onnx.Int("keepdims", 0))
	b.NodeTo([]string{"loss"}, "Reshape", []string{b.Node("Mul", []string{e, b.Scalar(-1. / 12)}), b.Ints(1)})
	task.Forward = b.Graph()
	return task, start
}

// From the same weights, data and optimizer the losses of PyTorch and of the step graph stay together.
func TestTrajectoriesMatchPyTorch(t *testing.T) {
	need(t)
	python := "/usr/bin/python3" // Debian's own, where its packages are
	if out, err := exec.Command(python, "-c", "import torch").CombinedOutput(); err != nil {
		t.Skipf("PyTorch is not there (Debian: python3-torch): %v %.200s", err, out)
	}
	const steps = 60
	x, classes := numbers(20, 12*2*9*9, 1), make([]int, 12)
	for i := range classes {
		classes[i] = i * 7 % 3
	}
	for name, c := range map[string]struct {
		optimizer Optimizer
		rate      float64
		clip      float64
	}{
		"adam":     {nil, 0.01, 0},
		"adamw":    {Adam{Decay: 0.1}, 0.01, 0},
		"momentum": {SGD{Momentum: 0.9, Decay: 0.01}, 0.05, 0},
		"nesterov": {SGD{Momentum: 0.9, Nesterov: true}, 0.05, 0},
		"clipped":  {SGD{}, 0.5, 0.1},
	} {
		t.Run(name, func(t *testing.T) {
			task, start := network()
			task.Optimizer, task.ClipNorm = c.optimizer, c.clip
			job, err := json.Marshal(map[string]any{"x": x, "y": classes, "weights": start, "optimizer": name, "steps": steps})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(python, "testdata/trajectory.py")
			cmd.Stdin, cmd.Stderr = bytes.NewReader(job), os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var want struct{ Losses, Mean, Var []float64 }
			if err := json.Unmarshal(out, &want); err != nil {
				t.Fatal(err)
			}
			tr, err := New(task, runtime.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			copy(tr.Input("x"), x)
			for i, k := range classes {
				tr.Input("y")[3*i+k] = 1
			}
			for i, w := range want.Losses {
				got, err := tr.Step(context.Background(), c.rate)
				if err != nil {
					t.Fatal(err)
				}
				if math.Abs(float64(got)-w) > 2e-3*(1+w) {
					t.Fatalf("loss of step %d is %g, PyTorch says %g", i+1, got, w)
				}
			}
			after := tr.Params()
			for i := range want.Mean {
				if g := float64(after["mean"][i]); math.Abs(g-want.Mean[i]) > 0.02*(0.1+math.Abs(want.Mean[i])) {
					t.Errorf("running mean %d is %g, PyTorch says %g", i, g, want.Mean[i])
				}
				if g := float64(after["var"][i]); math.Abs(g-want.Var[i]) > 0.02*(0.1+want.Var[i]) {
					t.Errorf("running variance %d is %g, PyTorch says %g", i, g, want.Var[i])
				}
			}
		})
	}
}

func TestAScheduleRisesThenFallsAlongACosine(t *testing.T) {
	s := Schedule{Rate: 1, Final: 0.1, Warmup: 4, Steps: 24}
	for step, want := range map[int]float64{0: 0.25, 3: 1, 4: 1, 14: 0.55, 24: 0.1, 99: 0.1} {
		if got := s.At(step); math.Abs(got-want) > 1e-9 {
			t.Errorf("rate of step %d is %g, want %g", step, got, want)
		}
	}
}
