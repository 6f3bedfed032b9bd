package retrain

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// eyes is a plant with one camera, whose pictures of fine and of coarse lines
// people have labelled, and its hub.
func eyes(t *testing.T) *rig {
	t.Helper()
	p := newPlant(1, 50)
	p.devices[0].Class = "eye"
	r := startWith(t, p, func(c *Config) { c.Runner = runner.Process{} })
	for i := range 60 {
		content := lines(i, 2+i%2*6)
		f := feedback.Frame{Device: id(0), Class: "eye", Row: uint64(i), At: night.Add(-time.Hour), Digest: artifact.Of(content), Format: "png"}
		if err := r.put(t.Context(), f.Key(), content); err != nil {
			t.Fatal(err)
		}
		p.frames = append(p.frames, f)
		p.labels = append(p.labels, feedback.Label{Frame: f.Digest, Value: []string{"good", "coarse"}[i%2], By: "user:ana", At: night.Add(-time.Minute)})
	}
	return r
}

// look runs a night of cameras under limits; channels is how wide the network is.
func (r *rig) look(t *testing.T, seed uint64, channels int, l Limits) Run {
	t.Helper()
	p := Policy{Name: "pumps", Seed: seed, Kinds: []string{zoo.CNN}, Limits: l, Gates: Gates{MinAccuracy: 0.01, MaxFlagShare: 1, WaiveFaults: true}}
	p.Images.Fit = zoo.ImageConfig{Height: 32, Channels: channels, Epochs: 6, BatchSize: 10}
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return r.night(t)
}

// An image fit that a policy limits is done by a child of the hub, and the
// model is that of a fit without limits, bit for bit.
func TestAnImageFitUnderLimitsGivesTheSameModelAndItsCostIsCounted(t *testing.T) {
	free, held := eyes(t).look(t, 7, 4, Limits{}), eyes(t).look(t, 7, 4, Limits{WallS: 120, MemoryMiB: 2000, CPUs: 2, MaxCostS: 100})
	digest := func(run Run) artifact.Digest {
		t.Helper()
		if len(run.Outcome.Trained) != 1 || len(run.Outcome.Trained[0].Candidates) != 1 {
			t.Fatalf("%s %s: trained %+v", run.Err, run.Outcome.Summary, run.Outcome.Trained)
		}
		return run.Outcome.Trained[0].Candidates[0].Digest
	}
	if digest(free) != digest(held) {
		t.Errorf("models %s and %s", digest(free), digest(held))
	}
	if held.Outcome.Trained[0].Candidates[0].Card["accuracy"] == nil {
		t.Error("the child's card is lost")
	}
	for name, run := range map[string]Run{"in the hub's process": free, "in a child": held} {
		if c := run.Tasks[0].Cost; c.CPUSeconds <= 0 || c.PeakMiB <= 0 || run.Cost.CPUSeconds < c.CPUSeconds {
			t.Errorf("%s: the fit cost %+v, the run %+v", name, c, run.Cost)
		}
	}
}

func TestAnImageFitThatGoesOverALimitIsRefusedAndTheHubLives(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r := eyes(t)
	for name, tc := range map[string]struct {
		channels int
		limits   Limits
		says     string
	}{
		"memory": {256, Limits{MemoryMiB: 256}, "256 MiB"},
		"cost":   {4, Limits{MaxCostS: 0.01}, "over its limit of 0.01 "},
	} {
		run := r.look(t, 8, tc.channels, tc.limits)
		said, _ := json.Marshal([]any{run.Outcome.Trained, run.Outcome.Refusals()})
		if run.State != engine.Succeeded || run.Outcome.Released != nil || !strings.Contains(string(said), tc.says) {
			t.Errorf("%s: %s, %s, want a refusal with %q", name, run.State, said, tc.says)
		}
		if run.Cost.CPUSeconds < run.Tasks[0].Cost.CPUSeconds || run.Cost.CPUSeconds < 0.01 {
			t.Errorf("%s: the run cost %+v, its fit %+v", name, run.Cost, run.Tasks[0].Cost)
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || strings.Contains(fmt.Sprint(left), "swell-fit-") {
		t.Errorf("left in the folder for temporary files: %v, %v", left, err)
	}
	// The same hub, and the same pictures, without a limit.
	if run := r.look(t, 8, 4, Limits{}); run.Outcome.Released == nil {
		t.Errorf("%s %s", run.Err, run.Outcome.Summary)
	}
}
