package runtime

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
)

const channels, window = 3, 5

// model returns a small detector: a channel's score is the mean square of its samples, the window's score
// is their sum, and above 6 it is an anomaly.
func model(t testing.TB) []byte {
	t.Helper()
	if _, err := Library(""); err != nil {
		t.Skip(err)
	}
	c := contract.Contract{Version: 1, Kind: "test", Window: window, Stride: 1, SampleRateHz: 10, Threshold: 6,
		Channels: []contract.Channel{{Name: "a"}, {Name: "b"}, {Name: "c"}}}
	b := &onnx.Builder{}
	w := b.Input(contract.Window, onnx.Float, onnx.Batch, channels, window)
	b.NodeTo([]string{contract.ChannelScore}, "ReduceMean", []string{b.Node("Mul", []string{w, w})}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	b.NodeTo([]string{contract.Score}, "ReduceSum", []string{contract.ChannelScore, b.Ints(1)}, onnx.Int("keepdims", 0))
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{b.Node("LessOrEqual", []string{contract.Score, b.Scalar(6)})})
	b.Output(contract.Score, onnx.Float, onnx.Batch)
	b.Output(contract.Anomaly, onnx.Bool, onnx.Batch)
	b.Output(contract.ChannelScore, onnx.Float, onnx.Batch, channels)
	p, err := onnx.Marshal("test", b.Graph(), c.Metadata())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func load(t testing.TB) *Session {
	t.Helper()
	s, err := Load(model(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// constant is a window whose channels have the levels 1, 2 and 3 times v.
func constant(v float32) []float32 {
	w := make([]float32, channels*window)
	for i := range w {
		w[i] = v * float32(i/window+1)
	}
	return w
}

func TestScore(t *testing.T) {
	s := load(t)
	if c := s.Contract(); c.Kind != "test" || c.Cells() != channels*window {
		t.Errorf("contract is %+v", c)
	}
	nan := constant(0)
	nan[7] = float32(math.NaN())
	for name, c := range map[string]struct {
		window  []float32
		score   float32
		anomaly bool
	}{
		"quiet":              {constant(0.5), 3.5, false},
		"loud":               {constant(1), 14, true},
		"not a number":       {nan, float32(math.NaN()), true},
		"beyond float32":     {constant(1e30), float32(math.Inf(1)), true},
		"quiet once again":   {constant(0.5), 3.5, false},
		"exactly at nothing": {constant(0), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			var r Result
			if err := s.Score(c.window, &r); err != nil {
				t.Fatal(err)
			}
			same := r.Score == c.score || r.Score != r.Score && c.score != c.score
			if !same || r.Anomaly != c.anomaly || len(r.ChannelScore) != channels {
				t.Errorf("got %+v, want score %v, anomaly %v", r, c.score, c.anomaly)
			}
		})
	}
}

func TestScoringDoesNotAllocate(t *testing.T) {
	s := load(t)
	w, r := constant(0.5), Result{ChannelScore: make([]float32, 0, channels)}
	if n := testing.AllocsPerRun(100, func() {
		if err := s.Score(w, &r); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per window", n)
	}
}

func TestBatchesGiveTheScoresOfSingleWindows(t *testing.T) {
	s := load(t)
	for _, n := range []int{0, 1, manyWindows, manyWindows + 1, 2*manyWindows + 7} {
		var windows []float32
		for i := range n {
			windows = append(windows, constant(float32(i)*0.01)...)
		}
		scores, flags, parts := make([]float32, n), make([]bool, n), make([]float32, n*channels)
		if err := s.ScoreBatch(windows, scores, flags, parts); err != nil {
			t.Fatal(err)
		}
		var r Result
		for i := range n {
			if err := s.Score(windows[i*channels*window:(i+1)*channels*window], &r); err != nil {
				t.Fatal(err)
			}
			if r.Score != scores[i] || r.Anomaly != flags[i] || !slices.Equal(r.ChannelScore, parts[i*channels:(i+1)*channels]) {
				t.Fatalf("window %d of %d: alone %+v, in the batch %v %v", i, n, r, scores[i], flags[i])
			}
		}
	}
}

func TestWrongSizesAreRefused(t *testing.T) {
	s := load(t)
	var r Result
	if err := s.Score(make([]float32, 7), &r); err == nil || !strings.Contains(err.Error(), "3 channels by 5 samples") {
		t.Errorf("short window: %v", err)
	}
	if err := s.ScoreBatch(make([]float32, 15), make([]float32, 2), nil, nil); err == nil {
		t.Error("a batch of half the windows was accepted")
	}
	if err := s.ScoreBatch(make([]float32, 15), make([]float32, 1), make([]bool, 2), nil); err == nil {
		t.Error("a batch with room for other flags was accepted")
	}
}

func TestCloseWaitsForRunsAndEndsTheSession(t *testing.T) {
	s := load(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			w, r := constant(0.5), Result{}
			for {
				if err := s.Score(w, &r); errors.Is(err, ErrClosed) {
					return
				} else if err != nil || r.Score != 3.5 {
					t.Errorf("score %v, %v", r.Score, err)
					return
				}
			}
		})
	}
	var r Result
	for range 100 {
		if err := s.Score(constant(0.5), &r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	TrimMemory()
}

func TestLoadRefusesWhatTheGuardRefuses(t *testing.T) {
	p := model(t)
	for name, bytes := range map[string][]byte{"nothing": nil, "truncated": p[:len(p)-3], "text": []byte("hello")} {
		if s, err := Load(bytes, Options{}); err == nil {
			s.Close()
			t.Errorf("%s was loaded", name)
		}
	}
}

func TestOneTensorCarriesStateFromRunToRun(t *testing.T) {
	model(t) // skips without the library
	b := &onnx.Builder{}
	x := b.Input("x", onnx.Float, 2)
	b.NodeTo([]string{"y"}, "Add", []string{x, b.Scalar(1)})
	b.Output("y", onnx.Float, 2)
	p, err := onnx.Marshal("count", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := LoadProgram(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	var state [2]*Tensor
	var turns [2]*Binding
	for i := range state {
		if state[i], err = NewTensor(2); err != nil {
			t.Fatal(err)
		}
		defer state[i].Close()
	}
	for i := range turns {
		if turns[i], err = program.Bind(map[string]*Tensor{"x": state[i]}, map[string]*Tensor{"y": state[1-i]}); err != nil {
			t.Fatal(err)
		}
		defer turns[i].Close()
	}
	for i := range 10 {
		if err := turns[i%2].Run(); err != nil {
			t.Fatal(err)
		}
	}
	if got := state[0].Data(); !slices.Equal(got, []float32{10, 10}) {
		t.Errorf("after ten runs: %v", got)
	}
	if _, err := program.Bind(map[string]*Tensor{"z": state[0]}, nil); err == nil {
		t.Error("an input that does not exist was bound")
	}
}

func TestLibrary(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "onnxruntime", Version, libraryName)
	if err := os.MkdirAll(filepath.Join(dir, "onnxruntime", Version, "arm64"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{file, filepath.Join(dir, "onnxruntime", Version, "arm64", libraryName)} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SWELL_ONNXRUNTIME", "")
	t.Setenv("SWELL_CACHE", dir)
	if got, err := Library(""); err != nil || !strings.HasPrefix(got, dir) {
		t.Errorf("from the cache: %q, %v", got, err)
	}
	t.Setenv("SWELL_ONNXRUNTIME", file+".missing")
	if _, err := Library(""); !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), "SWELL_ONNXRUNTIME") {
		t.Errorf("a wrong SWELL_ONNXRUNTIME: %v", err)
	}
	if got, err := Library(file); err != nil || got != file {
		t.Errorf("the caller's path before the environment's: %q, %v", got, err)
	}
	t.Setenv("SWELL_ONNXRUNTIME", "")
	t.Setenv("SWELL_CACHE", filepath.Join(dir, "empty"))
	if _, err := os.Stat(filepath.Join("/usr/lib/swell", libraryName)); err == nil {
		return // installed here, so it is found
	}
	if _, err := Library(""); !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), "fetch-onnxruntime.sh") {
		t.Errorf("nowhere: %v", err)
	}
}

func BenchmarkScore(b *testing.B) {
	s := load(b)
	w, r := constant(0.5), Result{}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Score(w, &r); err != nil {
			b.Fatal(err)
		}
	}
}
