package zoo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// descents fit every kind that is trained in steps, small.
func descents(t *testing.T) map[string]func(ctx context.Context, patience int, p *Checkpoints) (*Fitted, error) {
	d, im, net := normal(400), surfaces(1, 12, "plain", "stripes"), brought(t, 0)
	out := map[string]func(context.Context, int, *Checkpoints) (*Fitted, error){}
	for _, kind := range []string{DenseAE, ConvAE, Forecast} {
		out[kind] = func(ctx context.Context, patience int, p *Checkpoints) (*Fitted, error) {
			return Fit(ctx, kind, d, Config{Seed: 3, Steps: 60, Patience: patience, Checkpoints: p})
		}
	}
	for _, kind := range []string{CNN, Head, FineTune} {
		out[kind] = func(ctx context.Context, patience int, p *Checkpoints) (*Fitted, error) {
			c := ImageConfig{Height: side, Width: side, Channels: 4, Epochs: 12, BatchSize: 4, Seed: 3, Patience: patience, Checkpoints: p}
			if kind != CNN {
				c.Backbone = net
			}
			return FitImages(ctx, kind, im, c)
		}
	}
	return out
}

// cut runs a fit that is killed when it has saved n states, and returns the
// last one.
func cut(t *testing.T, fit func(context.Context, int, *Checkpoints) (*Fitted, error), patience, n int) (state []byte) {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	_, err := fit(ctx, patience, &Checkpoints{Load: func() []byte { return nil }, Save: func(b []byte) {
		if n--; n >= 0 {
			state = bytes.Clone(b)
		}
		if n == 0 {
			kill()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the fit was not killed: %v", err)
	}
	return state
}

func TestAnInterruptedFitGoesOnAndComesToTheSameModel(t *testing.T) {
	need(t)
	for kind, fit := range descents(t) {
		for _, patience := range []int{0, checks} {
			whole, err := fit(t.Context(), patience, nil)
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			state := cut(t, fit, patience, 17)
			from := 0
			again, err := fit(t.Context(), patience, &Checkpoints{
				Load: func() []byte { return state }, Save: func([]byte) {}, Resumed: func(step, _ int) { from = step },
			})
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if from != 17 {
				t.Errorf("%s: it went on after step %d, want 17", kind, from)
			}
			if !bytes.Equal(again.ONNX, whole.ONNX) {
				t.Errorf("%s with patience %d: the model of an interrupted fit is another one", kind, patience)
			}
			a, _ := json.Marshal(again.Card)
			if b, _ := json.Marshal(whole.Card); !bytes.Equal(a, b) {
				t.Errorf("%s: the cards differ: %s and %s", kind, a, b)
			}
		}
	}
}

func TestAStateThatCannotBeUsedIsLeftAside(t *testing.T) {
	need(t)
	all := descents(t)
	state := cut(t, all[DenseAE], 0, 5)
	flipped := slices.Clone(state)
	flipped[len(flipped)/2] ^= 1
	want, err := all[DenseAE](t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string][]byte{
		"none": nil, "short": []byte("x"), "damaged": flipped, "torn off": state[:len(state)-40], "of another fit": cut(t, all[ConvAE], 0, 5),
	} {
		got, err := all[DenseAE](t.Context(), 0, &Checkpoints{
			Load: func() []byte { return state }, Save: func([]byte) {},
			Resumed: func(step, _ int) { t.Errorf("%s: it went on after step %d", name, step) },
		})
		if err != nil || !bytes.Equal(got.ONNX, want.ONNX) {
			t.Errorf("%s: another model, %v", name, err)
		}
	}
}

// With patience the card says where training stopped and why; without, a
// configuration does not show that there is such a thing.
func TestTrainingStopsWhenWhatIsHeldOutGetsNoBetter(t *testing.T) {
	need(t)
	for kind, fit := range descents(t) {
		hasty, err := fit(t.Context(), 1, nil)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		said, ok := hasty.Card["stopped"].(map[string]any)
		if !ok {
			t.Fatalf("%s: the card says nothing of stopping: %v", kind, hasty.Card)
		}
		losses := said["losses"].([]float64)
		taken, every := said["taken"].(int), said["step"].(int)/len(losses)
		if at := taken / every; taken > said["step"].(int) || losses[at-1] > slices.Min(losses)*(1+2*leastGain) {
			t.Errorf("%s: the weights of check %d were taken, of %v", kind, at, losses)
		}
		why := said["why"].(string)
		if early := said["step"].(int) < said["of"].(int); early != strings.Contains(why, "had not fallen for 1 checks") || early == strings.Contains(why, "all steps") {
			t.Errorf("%s: stopped at step %v of %v because %q", kind, said["step"], said["of"], why)
		}
		if !strings.Contains(hasty.Contract.TrainingConfig, `"patience":1`) {
			t.Errorf("%s: configuration %s", kind, hasty.Contract.TrainingConfig)
		}
		plain, err := fit(t.Context(), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if plain.Card["stopped"] != nil || strings.Contains(plain.Contract.TrainingConfig, "patience") {
			t.Errorf("%s without patience: card %v, configuration %s", kind, plain.Card["stopped"], plain.Contract.TrainingConfig)
		}
	}
	// A network that knows its few noisy pictures by heart is stopped before it has done so.
	c := ImageConfig{Height: side, Width: side, Channels: 8, Epochs: 60, BatchSize: 6, Seed: 5, Patience: 3}
	d := surfaces(2, 12, "plain", "stripes")
	for i := range d.Labels {
		d.Labels[i] = i / 2 % 2 // labels that say nothing
	}
	f, err := FitImages(t.Context(), CNN, d, c)
	if err != nil {
		t.Fatal(err)
	}
	if said := f.Card["stopped"].(map[string]any); said["step"].(int) >= said["of"].(int) {
		t.Errorf("labels drawn by lot were learned for all steps: %v", said)
	}
}
