package train

import (
	"bytes"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/models/runtime"
)

// learn makes steps on random batches of the network with one of everything.
func learn(t *testing.T, tr *Trainer, random *rand.PCG, steps int) {
	t.Helper()
	r := rand.New(random)
	for range steps {
		for _, name := range []string{"x", "y"} {
			for i := range tr.Input(name) {
				tr.Input(name)[i] = r.Float32()
			}
		}
		if _, err := tr.Step(context.Background(), 0.01); err != nil {
			t.Fatal(err)
		}
	}
}

func fresh(t *testing.T, o Optimizer) *Trainer {
	t.Helper()
	task, _ := network()
	task.Optimizer = o
	tr, err := New(task, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func TestAResumedRunGivesTheSameBitsAsOneThatWasNeverInterrupted(t *testing.T) {
	need(t)
	for name, o := range map[string]Optimizer{"adam": nil, "momentum": SGD{Momentum: 0.9}, "plain": SGD{}} {
		for _, cut := range []int{0, 7, 12} {
			whole, random := fresh(t, o), rand.NewPCG(3, 4)
			learn(t, whole, random, 20)
			want, err := whole.Checkpoint(random)
			if err != nil {
				t.Fatal(err)
			}

			first, random := fresh(t, o), rand.NewPCG(3, 4)
			learn(t, first, random, cut)
			saved, err := first.Checkpoint(random)
			if err != nil {
				t.Fatal(err)
			}
			second, random := fresh(t, o), rand.NewPCG(9, 9)
			if err := second.Resume(saved, random); err != nil {
				t.Fatal(err)
			}
			learn(t, second, random, 20-cut)
			got, err := second.Checkpoint(random)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: the run resumed after %d steps ended elsewhere", name, cut)
			}
		}
	}
}

func TestADamagedOrForeignCheckpointIsRefusedAndChangesNothing(t *testing.T) {
	need(t)
	tr, random := fresh(t, nil), rand.NewPCG(3, 4)
	learn(t, tr, random, 3)
	good, err := tr.Checkpoint(random)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	other, err := fresh(t, SGD{}).Checkpoint(random)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		p      []byte
		random *rand.PCG
		want   string
	}{
		"empty":             {nil, random, "not a checkpoint"},
		"flipped bit":       {flipped, random, "is damaged"},
		"torn off":          {good[:len(good)-100], random, "is damaged"},
		"another optimizer": {other, random, "of another task"},
		"no random source":  {good, nil, "random source"},
	} {
		if err := tr.Resume(c.p, c.random); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want one that says %q", name, err, c.want)
		}
	}
	if after, err := tr.Checkpoint(random); err != nil || !bytes.Equal(after, good) {
		t.Error("a refused checkpoint changed the trainer")
	}
}

func TestPatienceRunsOutWhenTheLossNoLongerFalls(t *testing.T) {
	p := Patience{Checks: 2, Gain: 0.01}
	for i, c := range []struct {
		loss       float64
		best, stop bool
	}{{1, true, false}, {0.5, true, false}, {0.499, false, false}, {0.4, true, false}, {math.NaN(), false, false}, {0.41, false, false}, {0.5, false, true}} {
		if best, stop := p.Check(c.loss); best != c.best || stop != c.stop {
			t.Errorf("check %d of %g: best %v, stop %v", i, c.loss, best, stop)
		}
	}
}

func TestOperationsThatCannotBeTrainedAreNamed(t *testing.T) {
	b := &onnx.Builder{}
	x := b.Node("Floor", []string{b.Input("x", onnx.Float, 2, 3)})
	x = b.Node("ArgMax", []string{b.Node("Floor", []string{b.Node("Relu", []string{x})})})
	b.Output(x, onnx.Int64, 1, 3)
	if got := Untrainable(b.Graph()); !slices.Equal(got, []string{"ArgMax", "Floor"}) {
		t.Errorf("operations without a gradient: %q", got)
	}
	task, _ := network()
	if got := Untrainable(task.Forward); len(got) != 0 {
		t.Errorf("a net that is trained elsewhere has %q", got)
	}
	if got := Untrainable(&onnxpb.GraphProto{}); got != nil {
		t.Errorf("an empty graph has %q", got)
	}
}

// What stops a run early must not change it: the loss can be looked at between
// any two steps, and it is that of the net as a device would run it.
func TestLookingAtTheLossTeachesNothing(t *testing.T) {
	need(t)
	watched, plain := fresh(t, nil), fresh(t, nil)
	random, other := rand.NewPCG(3, 4), rand.NewPCG(3, 4)
	for step := range 9 {
		learn(t, watched, random, 1)
		learn(t, plain, other, 1)
		first, err := watched.Loss(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := watched.Loss(t.Context()); err != nil || again != first {
			t.Errorf("step %d: the loss is %v, and looked at again %v (%v)", step, first, again, err)
		}
		// The same weights and running statistics in a net of their own.
		task, _ := network()
		for _, c := range task.Forward.Initializer {
			if w := watched.Params()[c.GetName()]; w != nil {
				onnx.SetFloatData(c, w)
			}
		}
		frozen, err := New(task, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"x", "y"} {
			copy(frozen.Input(name), watched.Input(name))
		}
		if want, err := frozen.Loss(t.Context()); err != nil || want != first {
			t.Errorf("step %d: the loss is %v, of a net with the same weights %v (%v)", step, first, want, err)
		}
		if err := frozen.Close(); err != nil {
			t.Error(err)
		}
	}
	got, err := watched.Checkpoint(random)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := plain.Checkpoint(other); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a run whose loss was looked at ended elsewhere (%v)", err)
	}
}
