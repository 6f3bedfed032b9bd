package retrain

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/garden"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// bring puts a model into the rig's garden as the hub would.
func (r *rig) bring(t *testing.T, name string, model []byte) artifact.Digest {
	t.Helper()
	v, err := garden.New(garden.Config{Registry: r.reg, Objects: r.cfg.Objects}).Import(t.Context(), garden.Source{Name: name, Bytes: model, By: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	return v.Models[0].Digest
}

func networkOf(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../models/zoo/testdata/networks/" + name + ".onnx")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// far is a network that says of a few rows of three values how far they are
// from their mean, in deviations.
func far(t *testing.T) []byte {
	t.Helper()
	b := &onnx.Builder{}
	x := b.Input("rows", onnx.Float, onnx.Batch, 3, 4)
	b.NodeTo([]string{"distance"}, "ReduceMean", []string{b.Node("Mul", []string{x, x})}, onnx.Ints("axes", 1, 2), onnx.Int("keepdims", 0))
	b.Output("distance", onnx.Float, onnx.Batch)
	m, err := onnx.Marshal("far", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestANetworkOfTheGardenCompetesAndIsJudgedLikeAnyOther(t *testing.T) {
	for name, limits := range map[string]Limits{"in the hub": {}, "in a process of its own": {MemoryMiB: 4096, WallS: 60}} {
		t.Run(name, func(t *testing.T) {
			r := startWith(t, newPlant(2, 500), func(c *Config) { c.Runner = runner.Process{} })
			d := r.bring(t, "far", far(t))
			p := Policy{Name: "pumps", Seed: 7, Kinds: []string{"garden:far"}, Gates: Gates{MinDetected: 0.01}, Limits: limits}
			if err := r.Apply(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			run := r.night(t)
			if len(run.Outcome.Trained) != 1 || len(run.Outcome.Trained[0].Candidates) != 1 {
				t.Fatalf("trained %+v: %s", run.Outcome.Trained, run.Err)
			}
			c := run.Outcome.Trained[0].Candidates[0]
			if c.Name() != "garden:far" || c.Window != 4 || c.Parent != d || c.Digest == d {
				t.Errorf("candidate %+v", c)
			}
			if run.Outcome.Released == nil {
				t.Fatalf("refused: %v", run.Outcome.Refusals())
			}
			if card := r.packages[0].Card; !strings.Contains(card, "model far of the garden") {
				t.Errorf("the card does not say where the model is from:\n%s", card)
			}
			if run = r.night(t); !run.Outcome.Trained[0].Candidates[0].Cached {
				t.Error("the same model was adapted to the same data twice")
			}
		})
	}
}

func TestANewerImportIsAdaptedAnew(t *testing.T) {
	r := start(t, newPlant(2, 500))
	r.bring(t, "net", far(t))
	if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Kinds: []string{"garden:net"}}); err != nil {
		t.Fatal(err)
	}
	first := r.night(t).Outcome.Trained[0].Candidates[0]
	r.bring(t, "net", networkOf(t, "conv"))
	second := r.night(t).Outcome.Trained[0].Candidates[0]
	if second.Cached || second.Parent == first.Parent || second.Window != 16 {
		t.Errorf("after a newer import: %+v", second)
	}
}

func TestAModelWithAContractIsTakenAsItIs(t *testing.T) {
	r := start(t, newPlant(2, 500))
	made := r.night(t)
	model, err := r.getModel(t.Context(), made.Outcome.Trained[0].Candidates[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	d := r.bring(t, "ready", model)
	if err := r.Apply(t.Context(), Policy{Name: "pumps", Family: "others", Seed: 8, Kinds: []string{"garden:ready"}}); err != nil {
		t.Fatal(err)
	}
	run := r.night(t)
	if c := run.Outcome.Trained[0].Candidates[0]; c.Digest != d || c.Threshold != 1 {
		t.Errorf("candidate %+v, want the import's own bytes %s", c, d.Short())
	}
}

func TestImportsThatDoNotFitLoseWithAReason(t *testing.T) {
	r := start(t, newPlant(2, 500))
	foreign := zoo.Dataset{Channels: []contract.Channel{{Name: "x"}, {Name: "y"}, {Name: "z"}}, SampleRateHz: 1, Series: []zoo.Series{{Device: "d", Values: make([][]float32, 3)}}}
	for c := range foreign.Series[0].Values {
		for row := range 400 {
			foreign.Series[0].Values[c] = append(foreign.Series[0].Values[c], float32((row*(c+3))%17))
		}
	}
	other, err := zoo.Fit(t.Context(), zoo.PCA, foreign, zoo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	r.bring(t, "other", other.ONNX)
	r.bring(t, "far", far(t))
	if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Kinds: []string{"pca", "garden:other", "garden:far:raw"}}); err != nil {
		t.Fatal(err)
	}
	run := r.night(t)
	if run.Outcome.Released == nil || len(run.Outcome.Trained) != 3 {
		t.Fatalf("the hub's own detector has to win: %v, %+v", run.Outcome.Refusals(), run.Outcome.Trained)
	}
	if f := run.Outcome.Trained[1].Failed; len(f) != 1 || !strings.Contains(f[0], `channel 0 is "x"`) {
		t.Errorf("a model for other channels failed with %q", f)
	}
	if w := run.Outcome.Blessed.Winners; len(w) != 1 || w[0].Score.Candidate.Kind != zoo.PCA {
		t.Errorf("winners %+v", w)
	}
}

func TestPoliciesNameImportsThatExist(t *testing.T) {
	r := start(t, newPlant(1, 10))
	if err := r.reg.SaveVersion(t.Context(), registry.Version{Family: "eye", Counter: 1, Stage: registry.Candidate, Import: &registry.Import{}, Models: []registry.Model{{Kind: garden.Backbone}}}); err != nil {
		t.Fatal(err)
	}
	for kind, say := range map[string]string{"garden:gone": "import it first", "garden:eye": "images.backbone", "garden:": "garden:NAME", "garden:a b": "garden:NAME"} {
		if err := r.Apply(t.Context(), Policy{Name: "pumps", Kinds: []string{kind}}); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v, want it to say %q", kind, err, say)
		}
	}
	if !slices.Equal(r.policies["pumps"].Kinds, []string(nil)) {
		t.Errorf("saved %v", r.policies["pumps"].Kinds)
	}
}
