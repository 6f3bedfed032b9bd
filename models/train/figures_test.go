package train

// make bench-train: samples per CPU-second of our training beside PyTorch's, on the same nets.

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

// stage is one layer of a net that both sides build.
type stage struct {
	Op     string  `json:"op"`
	In     int64   `json:"in,omitempty"`
	Out    int64   `json:"out,omitempty"`
	Kernel int64   `json:"kernel,omitempty"`
	Stride int64   `json:"stride,omitempty"`
	Groups int64   `json:"groups,omitempty"`
	Bias   bool    `json:"bias"`
	Body   []stage `json:"body,omitempty"`
}

// job is a net, what it reads and what of it is trained.
type job struct {
	Net     []stage `json:"net"`
	Input   []int64 `json:"input"`   // one batch
	Classes int     `json:"classes"` // 0: the net reconstructs its input
	Frozen  int     `json:"frozen"`  // stages at the beginning that are not trained
	Weights string  `json:"weights"` // file of float32, in the order of the stages
	Data    string  `json:"data"`    // file of float32, whole batches
}

func conv(in, out, kernel, stride, groups int64, bias bool) stage {
	return stage{Op: "conv", In: in, Out: out, Kernel: kernel, Stride: stride, Groups: groups, Bias: bias}
}

// mobileNet is MobileNetV2 of width 1 (Sandler and others, 2018). folded leaves out the normalizations and
// gives the convolutions biases, as an exported backbone has them.
func mobileNet(classes int64, folded bool) []stage {
	unit := func(in, out, kernel, stride, groups int64, open bool) (s []stage) {
		s = []stage{conv(in, out, kernel, stride, groups, folded)}
		if !folded {
			s = append(s, stage{Op: "norm", Out: out})
		}
		if open {
			s = append(s, stage{Op: "relu6"})
		}
		return s
	}
	net := unit(3, 32, 3, 2, 1, true)
	in := int64(32)
	for _, block := range []struct{ expand, out, times, stride int64 }{
		{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1},
	} {
		for i := range block.times {
			stride, wide := block.stride, in*block.expand
			if i > 0 {
				stride = 1
			}
			var body []stage
			if block.expand > 1 {
				body = unit(in, wide, 1, 1, 1, true)
			}
			body = slices.Concat(body, unit(wide, wide, 3, stride, wide, true), unit(wide, block.out, 1, 1, 1, false))
			if stride == 1 && in == block.out {
				body = []stage{{Op: "residual", Body: body}}
			}
			net, in = append(net, body...), block.out
		}
	}
	net = append(net, unit(in, 1280, 1, 1, 1, true)...)
	return append(net, stage{Op: "mean"}, stage{Op: "linear", In: 1280, Out: classes})
}

// contest is one row of the table.
type contest struct {
	name   string
	title  string
	job    job
	steps  int // of one round
	rounds int
	goal   float64 // 0: none, only printed
}

func contests() []contest {
	relu, pool := stage{Op: "relu"}, stage{Op: "maxpool"}
	var dense []stage
	for i, w := range [][2]int64{{512, 128}, {128, 32}, {32, 128}, {128, 512}} {
		if i > 0 {
			dense = append(dense, stage{Op: "tanh"})
		}
		dense = append(dense, stage{Op: "linear", In: w[0], Out: w[1]})
	}
	small := []stage{
		conv(1, 16, 3, 1, 1, true), relu, pool, conv(16, 32, 3, 1, 1, true), relu, pool,
		conv(32, 64, 3, 1, 1, true), relu, pool, conv(64, 64, 3, 1, 1, true), relu,
		{Op: "mean"}, {Op: "linear", In: 64, Out: 6},
	}
	head := mobileNet(6, true)
	return []contest{
		{"dense", "dense autoencoder 512-128-32-128-512, batch 64", job{Net: dense, Input: []int64{64, 512}}, 600, 7, 1.5},
		{"cnn", "CNN of 61k parameters at 64x64, batch 32", job{Net: small, Input: []int64{32, 1, 64, 64}, Classes: 6}, 10, 7, 1},
		{"head", "MobileNetV2-224, head only, batch 16", job{Net: head, Input: []int64{16, 3, 224, 224}, Classes: 6, Frozen: len(head) - 1}, 2, 5, 1},
		{"full", "MobileNetV2-224, all weights, batch 8", job{Net: mobileNet(6, false), Input: []int64{8, 3, 224, 224}, Classes: 6}, 1, 5, 0},
	}
}

// draft builds the forward graph of a net and collects its weights, in the order PyTorch lists them.
type draft struct {
	b       *onnx.Builder
	task    Task
	weights []float32
	given   []float32 // when set, weights are taken from here
}

func (d *draft) param(trained bool, seed uint64, scale float64, dims ...int64) string {
	v := numbers(seed, int(size(dims)), scale)
	return d.keep(trained, v, dims...)
}

func (d *draft) keep(trained bool, v []float32, dims ...int64) string {
	if d.given != nil {
		v = d.given[len(d.weights) : len(d.weights)+len(v)]
	}
	name := d.b.Floats("p"+strconv.Itoa(len(d.weights)), v, dims...)
	d.weights = append(d.weights, v...)
	if trained {
		d.task.Params = append(d.task.Params, name)
	}
	return name
}

func (d *draft) stages(list []stage, x string, trained bool) string {
	for _, s := range list {
		seed := uint64(len(d.weights))
		switch s.Op {
		case "conv":
			fan := float64(s.In / s.Groups * s.Kernel * s.Kernel)
			in := []string{x, d.param(trained, seed, math.Sqrt(2/fan), s.Out, s.In/s.Groups, s.Kernel, s.Kernel)}
			if s.Bias {
				in = append(in, d.keep(trained, make([]float32, s.Out), s.Out))
			}
			pad := s.Kernel / 2
			x = d.b.Node("Conv", in, onnx.Ints("kernel_shape", s.Kernel, s.Kernel), onnx.Ints("strides", s.Stride, s.Stride),
				onnx.Ints("pads", pad, pad, pad, pad), onnx.Int("group", s.Groups))
		case "norm":
			ones := slices.Repeat([]float32{1}, int(s.Out))
			scale, bias := d.keep(trained, ones, s.Out), d.keep(trained, make([]float32, s.Out), s.Out)
			x = d.b.Node("BatchNormalization", []string{x, scale, bias,
				d.b.Floats(scale+".mean", make([]float32, s.Out), s.Out), d.b.Floats(scale+".var", ones, s.Out)})
		case "linear":
			// Laid out as PyTorch does, one row a unit.
			w := d.param(trained, seed, 1/math.Sqrt(float64(s.In)), s.Out, s.In)
			x = d.b.Node("Gemm", []string{x, w, d.keep(trained, make([]float32, s.Out), s.Out)}, onnx.Int("transB", 1))
		case "relu":
			x = d.b.Node("Relu", []string{x})
		case "relu6":
			x = d.b.Node("Clip", []string{x, d.b.Number(0), d.b.Number(6)})
		case "tanh":
			x = d.b.Node("Tanh", []string{x})
		case "maxpool":
			x = d.b.Node("MaxPool", []string{x}, onnx.Ints("kernel_shape", 2, 2), onnx.Ints("strides", 2, 2))
		case "mean":
			x = d.b.Node("Flatten", []string{d.b.Node("GlobalAveragePool", []string{x})})
		case "residual":
			x = d.b.Node("Add", []string{x, d.stages(s.Body, x, trained)})
		}
	}
	return x
}

// task is the net with its loss. given are its weights; nil makes random ones.
func (j job) task(given []float32) *draft {
	d := &draft{b: &onnx.Builder{}, given: given}
	d.task.Loss = "loss"
	b, x := d.b, d.b.Input("x", onnx.Float, j.Input...)
	y := d.stages(j.Net[:j.Frozen], x, false)
	y = d.stages(j.Net[j.Frozen:], y, true)
	if j.Classes > 0 {
		one := b.Input("y", onnx.Float, j.Input[0], int64(j.Classes))
		e := b.Node("ReduceSum", []string{b.Node("Mul", []string{b.Node("LogSoftmax", []string{y}), one})}, onnx.Int("keepdims", 0))
		y = b.Node("Mul", []string{e, b.Scalar(-1 / float32(j.Input[0]))})
	} else {
		e := b.Node("Sub", []string{y, x})
		y = b.Node("ReduceMean", []string{b.Node("Mul", []string{e, e})}, onnx.Int("keepdims", 0))
	}
	b.NodeTo([]string{"loss"}, "Reshape", []string{y, b.Ints(1)})
	d.task.Forward = b.Graph()
	return d
}

// lap is what a side says of one round, last what it says at its end.
type (
	lap struct {
		CPU  float64 `json:"cpu"` // seconds, of user and system
		Loss float64 `json:"loss"`
	}
	last struct {
		PeakMiB  float64 `json:"peakMiB"`
		StartMiB float64 `json:"startMiB"`
		BLAS     string  `json:"blas"`
	}
)

// TestTrainingFiguresWorker is our side of the contest, in a process of its own as PyTorch's is.
func TestTrainingFiguresWorker(t *testing.T) {
	if os.Getenv("SWELL_BENCH_WORKER") == "" {
		t.Skip("started by TestTrainingFigures")
	}
	if err := work(os.Stdin, os.Stdout); err != nil {
		t.Fatal(err)
	}
}

func work(in io.Reader, out io.Writer) error {
	lines, say := bufio.NewScanner(in), json.NewEncoder(out)
	lines.Buffer(nil, 1<<20)
	end := last{StartMiB: status("VmRSS")}
	var j job
	if !lines.Scan() {
		return errors.New("no job")
	}
	if err := json.Unmarshal(lines.Bytes(), &j); err != nil {
		return err
	}
	weights, err := loadFloats(j.Weights)
	if err != nil {
		return err
	}
	data, err := loadFloats(j.Data)
	if err != nil {
		return err
	}
	tr, err := New(j.task(weights).task, runtime.Options{})
	if err != nil {
		return err
	}
	defer tr.Close()
	for i := range j.Input[0] {
		if j.Classes > 0 {
			tr.Input("y")[i*int64(j.Classes)+i%int64(j.Classes)] = 1
		}
	}
	batch, done := int(size(j.Input)), 0
	for lines.Scan() {
		steps, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		l, before := lap{}, cpuSeconds()
		for range steps {
			at := done * batch % len(data)
			copy(tr.Input("x"), data[at:at+batch])
			loss, err := tr.Step(context.Background(), 1e-3)
			if err != nil {
				return err
			}
			l.Loss, done = float64(loss), done+1
		}
		l.CPU = cpuSeconds() - before
		if err := say.Encode(l); err != nil {
			return err
		}
	}
	end.PeakMiB = status("VmHWM")
	return errors.Join(lines.Err(), say.Encode(end))
}

// status reads a size of this process in MiB.
func status(key string) float64 {
	p, _ := os.ReadFile("/proc/self/status") // other systems have none: the figure stays 0
	for line := range strings.Lines(string(p)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			kib, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib / 1024
		}
	}
	return 0
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func loadFloats(path string) ([]float32, error) {
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v := make([]float32, len(p)/4)
	_, err = binary.Decode(p, binary.LittleEndian, v)
	return v, err
}

func saveFloats(t *testing.T, path string, v []float32) {
	t.Helper()
	p, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// side is a process that trains.
type side struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startSide(t *testing.T, cmd *exec.Cmd, j job) *side {
	t.Helper()
	cmd.Stderr = os.Stderr
	s := &side{cmd: cmd}
	var err error
	if s.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(s.in).Encode(j); err != nil {
		t.Fatal(err)
	}
	return s
}

// answer reads the next line of JSON.
func (s *side) answer(t *testing.T, v any) {
	t.Helper()
	for s.out.Scan() {
		if p := s.out.Bytes(); len(p) > 0 && p[0] == '{' {
			if err := json.Unmarshal(p, v); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s ended early: %v", s.cmd.Path, errors.Join(s.out.Err(), s.cmd.Wait()))
}

func (s *side) run(t *testing.T, steps int) (l lap) {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, steps); err != nil {
		t.Fatal(err)
	}
	s.answer(t, &l)
	return l
}

func (s *side) end(t *testing.T) (l last) {
	t.Helper()
	if err := s.in.Close(); err != nil {
		t.Fatal(err)
	}
	s.answer(t, &l)
	for s.out.Scan() { // the test binary's own last words
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return l
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// TestTrainingFigures prints samples per CPU-second of both sides, taken in turns, and their peak memory.
func TestTrainingFigures(t *testing.T) {
	if os.Getenv("SWELL_BENCH") == "" {
		t.Skip("a measurement: make bench-train")
	}
	need(t)
	python := "/usr/bin/python3" // Debian's own, where its packages are
	version, err := exec.Command(python, "-c", "import torch; print(torch.__version__)").Output()
	torch := err == nil
	if torch {
		fmt.Printf("PyTorch %s, one thread; medians of rounds in turns; each side in a process of its own\n", strings.TrimSpace(string(version)))
	} else {
		fmt.Println("PyTorch is not there (Debian: apt-get install python3-torch libopenblas0-pthread): only our own figures follow, no ratios")
	}
	fmt.Printf("%-48s %12s %12s %7s %6s %10s %10s   %s\n", "net", "ours /CPU-s", "torch /CPU-s", "ratio", "goal", "ours MiB", "torch MiB", "loss of step 1")
	figures := map[string]any{}
	round := func(v float64) float64 { return math.Round(v*1000) / 1000 }
	dir := t.TempDir()
	for _, c := range contests() {
		if only := os.Getenv("SWELL_BENCH_ONLY"); only != "" && only != c.name {
			continue
		}
		c.job.Weights, c.job.Data = filepath.Join(dir, c.name+".weights"), filepath.Join(dir, c.name+".data")
		saveFloats(t, c.job.Weights, c.job.task(nil).weights)
		saveFloats(t, c.job.Data, numbers(99, 2*int(size(c.job.Input)), 1))
		own := exec.Command(os.Args[0], "-test.run=^TestTrainingFiguresWorker$")
		own.Env = append(os.Environ(), "SWELL_BENCH_WORKER=1")
		sides := []*side{startSide(t, own, c.job)}
		if torch {
			sides = append(sides, startSide(t, exec.Command(python, "testdata/figures.py"), c.job))
		}
		first, speeds := make([]float64, 2), make([][]float64, 2)
		for i, s := range sides {
			first[i] = s.run(t, 1).Loss
			s.run(t, max(c.steps/4, 1)) // warm
		}
		for range c.rounds {
			for i, s := range sides {
				speeds[i] = append(speeds[i], float64(c.steps)*float64(c.job.Input[0])/s.run(t, c.steps).CPU)
			}
		}
		ends := make([]last, 2)
		for i, s := range sides {
			ends[i] = s.end(t)
		}
		ours := median(speeds[0])
		figures[c.name+"_samples_per_cpu_s"], figures[c.name+"_peak_mib"] = round(ours), round(ends[0].PeakMiB)
		if !torch {
			fmt.Printf("%-48s %12.1f %12s %7s %6s %10.0f %10s   %.5f\n", c.title, ours, "-", "-", "-", ends[0].PeakMiB, "-", first[0])
			continue
		}
		theirs := median(speeds[1])
		goal := "-"
		if c.goal > 0 {
			goal = fmt.Sprintf("%.1f", c.goal)
		}
		fmt.Printf("%-48s %12.1f %12.1f %6.2fx %6s %10.0f %10.0f   %.5f and %.5f\n",
			c.title, ours, theirs, ours/theirs, goal, ends[0].PeakMiB, ends[1].PeakMiB, first[0], first[1])
		figures[c.name+"_ratio"], figures[c.name+"_torch_peak_mib"] = round(ours/theirs), round(ends[1].PeakMiB)
		figures["blas"] = ends[1].BLAS
		if math.Abs(first[0]-first[1]) > 1e-2*(0.1+math.Abs(first[1])) {
			t.Errorf("%s: the first losses are %g and %g: the nets are not the same", c.name, first[0], first[1])
		}
	}
	fmt.Println("head only: both sides run the frozen part, folded and without gradients, for every batch; nothing is cached")
	if blas, _ := figures["blas"].(string); blas != "" && !strings.Contains(blas, "openblas") {
		fmt.Printf("PyTorch multiplied its matrices with %s: for a fair dense and full ratio install libopenblas0-pthread\n", blas)
	}
	p, err := json.Marshal(figures)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(p))
}
