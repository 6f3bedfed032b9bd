package retrain

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
)

// TestMain makes this program the child that fits under limits, as a hub's is.
func TestMain(m *testing.M) {
	MaybeFit()
	os.Exit(m.Run())
}

// example is the program of docs/trainers.md.
func example(t *testing.T) (python, script string) {
	t.Helper()
	python = "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", "import onnx, numpy").CombinedOutput(); err != nil {
		t.Skipf("no python3 with onnx here: install the Debian package python3-onnx (%v: %s)", err, out)
	}
	doc, err := os.ReadFile("../../docs/trainers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "```python\n")
	code, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("docs/trainers.md has no example")
	}
	script = filepath.Join(t.TempDir(), "spread.py")
	if err := os.WriteFile(script, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	return python, script
}

func TestATrainerOfTheUsersOwnCompetes(t *testing.T) {
	python, script := example(t)
	r := startWith(t, newPlant(2, 500), func(c *Config) {
		c.Runner, c.Trainers = runner.Process{}, []ExternalTrainer{{Name: "spread", Command: []string{python, script}, WallS: 60, MemoryMiB: 1024}}
	})
	p := Policy{Name: "pumps", Seed: 7, Kinds: []string{"external:spread"}, Gates: Gates{MinDetected: 0.01}}
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	run := r.night(t)
	if len(run.Outcome.Trained) != 1 || len(run.Outcome.Trained[0].Candidates) != 1 {
		t.Fatalf("trained %+v: %s", run.Outcome.Trained, run.Err)
	}
	c := run.Outcome.Trained[0].Candidates[0]
	if c.Kind != "external:spread" || c.Window != 4 || fmt.Sprint(c.Card["metrics"]) == "map[]" {
		t.Errorf("candidate %+v", c)
	}
	if run.Outcome.Released == nil {
		t.Errorf("refused: %v", run.Outcome.Refusals())
	}
	lines, err := r.Logs(run.ID, "train/external:spread")
	if err != nil || !slices.ContainsFunc(lines, func(l engine.LogLine) bool { return strings.Contains(l.Text, "rows of 2 devices") }) {
		t.Errorf("log %+v, %v", lines, err)
	}
	if task := run.Tasks[0]; task.Cost.CPUSeconds <= 0 || task.Cost.PeakMiB <= 0 {
		t.Errorf("cost %+v", task.Cost)
	}
}

// TestTrainersThatMisbehave each lose, with a reason, to the hub's own
// detector in the same night.
func TestTrainersThatMisbehave(t *testing.T) {
	python, script := example(t)
	other := filepath.Join(t.TempDir(), "other.py")
	code, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte(strings.Replace(string(code), `json.dumps(data["channels"])`, `json.dumps(data["channels"][::-1])`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	says := map[string]string{
		"hangs": "still at work after its limit", "garbage": "model.onnx", "nothing": "left no model.onnx", "fails": "no such library",
		"link": "no plain file", "eats": "64 MiB", "contract": "the dataset has",
	}
	sh := func(script string) []string { return []string{"/bin/sh", "-c", script, "trainer"} }
	r := startWith(t, newPlant(2, 400), func(c *Config) {
		c.Runner, c.Trainers = runner.Process{}, []ExternalTrainer{
			{Name: "hangs", Command: sh("sleep 600"), WallS: 1},
			{Name: "garbage", Command: sh("head -c 4000 /dev/urandom > $1/model.onnx; echo '{}' > $1/metrics.json")},
			{Name: "nothing", Command: sh("ls $1")},
			{Name: "fails", Command: sh("echo no such library >&2; exit 1")},
			{Name: "link", Command: sh("ln -s /etc/passwd $1/model.onnx")},
			{Name: "eats", Command: []string{python, "-c", "x = [bytearray(b'1' * (1 << 20)) for _ in range(100000)]"}, MemoryMiB: 64, WallS: 60},
			{Name: "contract", Command: []string{python, other}},
		}
	})
	p := Policy{Name: "pumps", Seed: 7, Kinds: []string{"pca"}, Gates: Gates{MinDetected: 0.01}}
	for name := range says {
		p.Kinds = append(p.Kinds, "external:"+name)
	}
	slices.Sort(p.Kinds)
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	run := r.night(t)
	for _, tr := range run.Outcome.Trained {
		name, external := trainerOf(tr.Kind)
		switch {
		case !external && len(tr.Candidates) != 1:
			t.Errorf("the hub's own detector has no candidate: %v", tr.Failed)
		case external && (len(tr.Candidates) != 0 || len(tr.Failed) != 1 || !strings.Contains(tr.Failed[0], says[name])):
			t.Errorf("%s: failed %q, candidates %d; want a refusal with %q", name, tr.Failed, len(tr.Candidates), says[name])
		}
	}
	if run.Outcome.Released == nil {
		t.Errorf("nothing was released: %s %v", run.Err, run.Outcome.Refusals())
	}
	if err := r.Apply(t.Context(), Policy{Name: "pumps", Kinds: []string{"external:unknown"}}); err == nil || !strings.Contains(err.Error(), "training.trainers") {
		t.Errorf("an unknown trainer: %v", err)
	}
}

func TestAFitUnderLimitsGivesTheSameModel(t *testing.T) {
	free := start(t, newPlant(2, 400)).night(t)
	r := startWith(t, newPlant(2, 400), func(c *Config) { c.Runner = runner.Process{} })
	p := Policy{Name: "pumps", RolloutPolicy: "careful", Seed: 7, Fit: quick, Limits: Limits{WallS: 120, MemoryMiB: 2000, CPUs: 2}}
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	held := r.night(t)
	if len(held.Outcome.Trained) == 0 {
		t.Fatalf("%s %v", held.Err, held.Outcome.Refusals())
	}
	for i, tr := range held.Outcome.Trained {
		if len(tr.Candidates) != 1 || tr.Candidates[0].Digest != free.Outcome.Trained[i].Candidates[0].Digest {
			t.Errorf("%s: %+v, failed %v; want the digest of the fit without limits", tr.Kind, tr.Candidates, tr.Failed)
		}
	}
	p.Limits.MemoryMiB = 20
	p.Seed = 8 // not what is cached
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	small := r.night(t)
	said, _ := json.Marshal(small.Outcome.Trained)
	if small.Outcome.Released != nil || !strings.Contains(string(said), "over its limit of 20 MiB") {
		t.Errorf("%s: %s", small.Outcome.Summary, said)
	}
}

func TestALateNightLeavesTheChampionAndSaysWhy(t *testing.T) {
	r := startWith(t, newPlant(2, 400), func(c *Config) {
		c.Runner, c.Trainers = runner.Process{}, []ExternalTrainer{{Name: "hangs", Command: []string{"/bin/sh", "-c", "sleep 600"}}}
	})
	for name, tc := range map[string]struct {
		limits Limits
		says   string
	}{
		"wall": {Limits{WallS: 3}, "over its limit of 3 s of wall time"},
		"cost": {Limits{MaxCostS: 0.001}, "CPU-seconds"},
	} {
		t.Run(name, func(t *testing.T) {
			p := Policy{Name: "pumps", Seed: 7, Kinds: []string{"external:hangs"}, Limits: tc.limits}
			if name == "cost" {
				p.Kinds = []string{"pca", "dense-ae"}
			}
			if err := r.Apply(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			run := r.night(t)
			said := strings.Join(run.Outcome.Refusals(), "; ")
			if run.State != engine.Succeeded || run.Outcome.Released != nil {
				t.Fatalf("%s, released %v, %s", run.State, run.Outcome.Released, run.Err)
			}
			if name == "wall" && (!strings.Contains(said, tc.says) || !strings.Contains(run.Outcome.Summary, "champion stays")) {
				t.Errorf("said %q, want %q", said, tc.says)
			}
			if name == "cost" && !strings.Contains(said+fmt.Sprint(run.Outcome.Trained), tc.says) && !strings.Contains(said+fmt.Sprint(run.Outcome.Trained), "of CPU") {
				t.Errorf("said %q %v, want %q", said, run.Outcome.Trained, tc.says)
			}
		})
	}
}

func TestBackfillRunsTheNightsThatWereMissed(t *testing.T) {
	r := start(t, newPlant(1, 400))
	if _, err := r.Backfill(t.Context(), "pumps", night.AddDate(0, 0, -3), night, "ada", "outage", false); !errors.Is(err, ErrBackfill) {
		t.Errorf("without a schedule: %v", err)
	}
	p := Policy{Name: "pumps", Seed: 7, Kinds: []string{"pca"}, Schedule: engine.Schedule{Cron: "0 1 * * *"}}
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // asking again runs nothing again
		if dry, err := r.Backfill(t.Context(), "pumps", night.AddDate(0, 0, -2), night, "ada", "", true); err != nil || len(dry) != 2-2*i {
			t.Errorf("it would run %v, %v", dry, err)
		}
		// Who asks has a clock that is a little ahead.
		ids, err := r.Backfill(t.Context(), "pumps", night.AddDate(0, 0, -2), night.Add(time.Hour), "ada", "outage", false)
		if err != nil || len(ids) != 2-2*i {
			t.Fatalf("%v, %v", ids, err)
		}
		if i > 0 {
			break
		}
		run := r.wait(t, ids[1])
		if run.Order.Trigger != ByBackfill || run.Order.By != "ada" || run.Order.At.Hour() != 1 || run.Outcome.Extracted.To.After(night) {
			t.Errorf("order %+v", run.Order)
		}
		r.wait(t, ids[0])
	}
	runs, err := r.Runs(10, 0)
	if err != nil || len(runs) != 2 {
		t.Errorf("%d runs, %v", len(runs), err)
	}
	if _, err := r.Backfill(t.Context(), "pumps", night, night.AddDate(1, 0, 0), "ada", "", false); !errors.Is(err, ErrBackfill) {
		t.Errorf("the future: %v", err)
	}
}

func TestAScheduledNightWithLittleNewIsSkippedAndOldRunsGo(t *testing.T) {
	r := start(t, newPlant(1, 400))
	p := Policy{Name: "pumps", Seed: 7, Kinds: []string{"pca"}, Schedule: engine.Schedule{Cron: "0 1 * * *"}, MinNewShare: 0.1, Gates: Gates{MinDetected: 0.01}}
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if first := r.night(t); first.Outcome.Released == nil {
		t.Fatalf("refused: %v", first.Outcome.Refusals())
	}
	ids, err := r.Backfill(t.Context(), "pumps", night.AddDate(0, 0, -1), night, "ada", "", false)
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	run := r.wait(t, ids[0])
	if !strings.Contains(run.Outcome.Skipped, "newer than the data of the last release") || !strings.Contains(run.Outcome.Summary, "champion stays") {
		t.Errorf("skipped %q, summary %q", run.Outcome.Skipped, run.Outcome.Summary)
	}
	p.Retention.Runs = 1
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := r.retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	runs, err := r.Runs(10, 0)
	if err != nil || len(runs) != 1 || runs[0].ID != ids[0] {
		t.Errorf("kept %v, %v", runs, err)
	}
}
