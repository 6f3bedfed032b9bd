package retrain

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/protocol/artifact"
)

// begins is a log that notes each beginning of a step or task in a file, and
// stays in the one called stop until the process is killed.
type begins struct {
	name string // attribute of the step or task
	file string
	stop string
}

func (b begins) Enabled(context.Context, slog.Level) bool { return true }
func (b begins) WithGroup(string) slog.Handler            { return b }

func (b begins) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		if a.Key == "step" || a.Key == "task" {
			b.name = a.Value.String()
		}
	}
	return b
}

func (b begins) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "step begins" && r.Message != "task begins" {
		return nil
	}
	f, err := os.OpenFile(b.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, b.name); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if b.name == b.stop {
		fmt.Println("waiting in", b.name)
		<-time.After(time.Minute) // to be killed here
	}
	return nil
}

const killedRun = "pumps-killed"

// oneNight runs, or goes on with, the same night in a folder.
func oneNight(t *testing.T, folder, stop string) Run {
	t.Helper()
	r, _ := nightIn(t, folder, stop, func(*Config, *Policy) {})
	return r
}

// nightIn is oneNight with another configuration. It returns the log of the
// run's fit, too.
func nightIn(t *testing.T, folder, stop string, change func(*Config, *Policy)) (Run, []engine.LogLine) {
	t.Helper()
	objs, err := dir.Open(filepath.Join(folder, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	p := newPlant(2, 400)
	c := Config{
		Engine: engine.Config{SQLitePath: filepath.Join(folder, "runs.db"), ExecutorID: "hub-1", Version: "test"},
		Data:   p, Fleet: p, Objects: objs, Registry: &registry.Memory{}, Policies: p, Releaser: p, Proposer: p, Code: "test",
		Now: func() time.Time { return night }, Logger: slog.New(begins{file: filepath.Join(folder, "begins"), stop: stop}),
	}
	pol := Policy{Name: "pumps", RolloutPolicy: "careful", Seed: 7, Fit: quick, Kinds: []string{"dense-ae"}}
	change(&c, &pol)
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.start(killedRun, Order{Policy: pol, Trigger: ByHand, At: night}); err != nil {
		t.Fatal(err)
	}
	run := (&rig{Service: s}).wait(t, killedRun)
	lines, err := s.Logs(killedRun, "train/dense-ae")
	if err != nil {
		t.Fatal(err)
	}
	return run, lines
}

func modelsOf(t *testing.T, r Run) map[string]artifact.Digest {
	t.Helper()
	if r.State != engine.Succeeded || r.Outcome.Released == nil {
		t.Fatalf("night is %s: %s %v", r.State, r.Err, r.Outcome.Refusals())
	}
	out := map[string]artifact.Digest{"snapshot": r.Outcome.Extracted.Snapshot}
	for _, tr := range r.Outcome.Trained {
		for _, c := range tr.Candidates {
			if c.Cached {
				t.Errorf("%s was taken from a cache that was empty", tr.Kind)
			}
			out[tr.Kind] = c.Digest
		}
	}
	return out
}

// TestAHubKilledInAnyStepGoesOnThere kills the process with SIGKILL once in
// every step and task of a night. No finished one is run again, and the models
// are the same, bit for bit, as those of a night that nobody disturbed.
func TestAHubKilledInAnyStepGoesOnThere(t *testing.T) {
	if folder := os.Getenv("SWELL_NIGHT_CHILD"); folder != "" {
		run := oneNight(t, folder, os.Getenv("SWELL_NIGHT_STOP"))
		fmt.Println("not killed:", run.State, run.Err, run.Outcome.Summary)
		return
	}
	start(t, newPlant(1, 10)) // skips without ONNX Runtime
	folder := t.TempDir()
	steps := []string{"extract", "validate", "train/dense-ae/pump", "train/dense-ae", "evaluate/pump", "evaluate", "bless", "release", "register", "propose"}
	for _, step := range steps {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAHubKilledInAnyStepGoesOnThere$")
		cmd.Env = append(os.Environ(), "SWELL_NIGHT_CHILD="+folder, "SWELL_NIGHT_STOP="+step)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		reached, said := false, ""
		for sc := bufio.NewScanner(out); !reached && sc.Scan(); {
			reached, said = sc.Text() == "waiting in "+step, said+sc.Text()+"\n"
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if !reached {
			t.Fatalf("the night never came to %s: %s", step, said)
		}
	}
	disturbed := modelsOf(t, oneNight(t, folder, ""))
	b, err := os.ReadFile(filepath.Join(folder, "begins"))
	if err != nil {
		t.Fatal(err)
	}
	began := map[string]int{}
	for _, l := range strings.Fields(string(b)) {
		began[l]++
	}
	for _, step := range steps {
		// Once in the process that was killed in it, once in its successor.
		if began[step] != 2 {
			t.Errorf("%s began %d times, want 2", step, began[step])
		}
	}
	first, second := modelsOf(t, oneNight(t, t.TempDir(), "")), modelsOf(t, oneNight(t, t.TempDir(), ""))
	want, _ := json.Marshal(first)
	for name, got := range map[string]any{"the disturbed night": disturbed, "a second undisturbed night": second} {
		if b, _ := json.Marshal(got); string(b) != string(want) {
			t.Errorf("%s made %s, want %s", name, b, want)
		}
	}
}

// TestAHubKilledInALongFitGoesOnInIt kills the process with SIGKILL as soon as
// a fit has kept how far it has come. Its successor goes on from there, the
// model is that of an undisturbed fit, and nothing kept is left behind.
func TestAHubKilledInALongFitGoesOnInIt(t *testing.T) {
	long := map[string]func(*Config, *Policy){
		"in the hub's process": func(c *Config, p *Policy) {},
		"in a child":           func(c *Config, p *Policy) { p.Limits = Limits{MemoryMiB: 2000, WallS: 600} },
	}
	for name, limit := range long {
		long[name] = func(c *Config, p *Policy) {
			c.CheckpointEvery, c.Runner, p.Fit.Steps = 10*time.Millisecond, runner.Process{}, 20_000
			limit(c, p)
		}
	}
	if folder := os.Getenv("SWELL_FIT_CHILD"); folder != "" {
		nightIn(t, folder, "", long[os.Getenv("SWELL_FIT_CASE")])
		return
	}
	start(t, newPlant(1, 10)) // skips without ONNX Runtime
	whole, _ := nightIn(t, t.TempDir(), "", long["in the hub's process"])
	want := modelsOf(t, whole)
	for name, change := range long {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			objs, err := dir.Open(filepath.Join(folder, "objects"))
			if err != nil {
				t.Fatal(err)
			}
			kept := func() (n int) {
				for _, err := range objs.List(t.Context(), registry.CheckpointPrefix) {
					if err != nil {
						t.Fatal(err)
					}
					n++
				}
				return n
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestAHubKilledInALongFitGoesOnInIt$")
			cmd.Env = append(os.Environ(), "SWELL_FIT_CHILD="+folder, "SWELL_FIT_CASE="+name)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = cmd.Wait(); close(ended) }()
			for kept() == 0 {
				select {
				case <-ended:
					t.Fatal("the night ended before its fit had kept anything")
				case <-time.After(2 * time.Millisecond):
				}
			}
			_ = cmd.Process.Kill()
			<-ended
			if kept() != 1 {
				t.Fatalf("%d fits are kept, want the one that was killed", kept())
			}
			run, lines := nightIn(t, folder, "", change)
			got := modelsOf(t, run)
			if got["dense-ae"] != want["dense-ae"] {
				t.Errorf("the model is %s, that of an undisturbed fit %s", got["dense-ae"], want["dense-ae"])
			}
			from := 0
			for _, l := range lines {
				_, _ = fmt.Sscanf(l.Text, resumedLine, &from, new(int))
			}
			if from <= 0 || from >= 20_000 {
				t.Errorf("it went on after step %d: %+v", from, lines)
			}
			t.Logf("killed after step %d of 20000", from)
			if kept() != 0 {
				t.Error("what was kept is still there after the fit")
			}
		})
	}
}
