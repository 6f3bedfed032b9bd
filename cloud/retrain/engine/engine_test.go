package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// chain is a workflow of n steps; each appends a line to the file named by
// the input before it returns, so that repeats can be counted.
func chain(n int) Func {
	return func(r *Run, input json.RawMessage) (json.RawMessage, error) {
		var file string
		if err := json.Unmarshal(input, &file); err != nil {
			return nil, err
		}
		for i := range n {
			_, err := Step(r, fmt.Sprintf("step-%d", i), func(context.Context) (int, error) {
				return i, appendLine(file, fmt.Sprintf("step-%d", i))
			})
			if err != nil {
				return nil, err
			}
		}
		return json.RawMessage(`{"ok":true}`), nil
	}
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = fmt.Fprintln(f, line)
	return err
}

func open(t *testing.T, path string, fn Func) *Engine {
	t.Helper()
	e, err := Open(t.Context(), Config{SQLitePath: path, ExecutorID: "hub-1", Version: "v1", Workflow: fn})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func waitFor(t *testing.T, e *Engine, id string, want ...State) Info {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		info, err := e.Get(id)
		if err == nil {
			for _, s := range want {
				if info.State == s {
					return info
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("run %s is %v (%v), want %v", id, info.State, err, want)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func quote(s string) json.RawMessage { b, _ := json.Marshal(s); return b }

func TestRunRecordsItsSteps(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "runs.db"), chain(3))
	defer e.Close()
	if err := e.Start("n1", quote(filepath.Join(dir, "log")), 0); err != nil {
		t.Fatal(err)
	}
	info := waitFor(t, e, "n1", Succeeded)
	if len(info.Steps) != 3 || info.Steps[2].Name != "step-2" || string(info.Steps[2].Output) != "2" {
		t.Errorf("steps %+v", info.Steps)
	}
	if string(info.Output) != `{"ok":true}` {
		t.Errorf("output %s", info.Output)
	}
	if err := e.Start("n1", quote(filepath.Join(dir, "log")), 0); err != nil {
		t.Fatalf("starting the same night again: %v", err)
	}
	list, err := e.List(10, 0)
	if err != nil || len(list) != 1 {
		t.Fatalf("list %v %v", list, err)
	}
	if got := lines(t, filepath.Join(dir, "log")); len(got) != 3 {
		t.Errorf("steps ran %d times, want 3", len(got))
	}
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func TestPermanentErrorIsNotTriedAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		tries int
	}{
		"permanent": {fmt.Errorf("constant channel: %w", ErrPermanent), 1},
		"passing":   {errors.New("connection refused"), maxTries},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			e := open(t, filepath.Join(t.TempDir(), "runs.db"), func(r *Run, _ json.RawMessage) (json.RawMessage, error) {
				_, err := Step(r, "train", func(context.Context) (int, error) { tries++; return 0, tc.err })
				return nil, err
			})
			defer e.Close()
			if err := e.Start("n1", nil, 0); err != nil {
				t.Fatal(err)
			}
			info := waitFor(t, e, "n1", Failed)
			if tries != tc.tries {
				t.Errorf("tried %d times, want %d", tries, tc.tries)
			}
			if !strings.Contains(info.Err, "train") {
				t.Errorf("error %q does not name its step", info.Err)
			}
		})
	}
}

func TestCancelReachesTheStepAtWork(t *testing.T) {
	began := make(chan struct{})
	e := open(t, filepath.Join(t.TempDir(), "runs.db"), func(r *Run, _ json.RawMessage) (json.RawMessage, error) {
		_, err := Step(r, "train", func(ctx context.Context) (int, error) {
			close(began)
			<-ctx.Done()
			return 0, ctx.Err()
		})
		return nil, err
	})
	defer e.Close()
	if err := e.Start("n1", nil, 0); err != nil {
		t.Fatal(err)
	}
	<-began
	if err := e.Cancel("n1"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e, "n1", Cancelled)
}

func TestRunWaitsForASignal(t *testing.T) {
	e := open(t, filepath.Join(t.TempDir(), "runs.db"), func(r *Run, _ json.RawMessage) (json.RawMessage, error) {
		msg, ok, err := r.Wait("approval", 20*time.Second)
		if err != nil || !ok {
			return nil, fmt.Errorf("no approval: %w", err)
		}
		return msg, nil
	})
	defer e.Close()
	if err := e.Start("n1", nil, 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e, "n1", Running)
	if err := e.Signal("n1", "approval", quote("ada")); err != nil {
		t.Fatal(err)
	}
	if info := waitFor(t, e, "n1", Succeeded); string(info.Output) != `"ada"` {
		t.Errorf("output %s", info.Output)
	}
}

func TestScheduleStatesWhenItRunsNext(t *testing.T) {
	s := Schedule{Name: "nightly", Cron: "30 2 * * *", TimeZone: "Europe/Berlin"}
	next, err := s.Next(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 11, 23, 1, 30, 0, 0, time.UTC); !next.Equal(want) {
		t.Errorf("next %v, want %v", next.UTC(), want)
	}
	for _, bad := range []Schedule{{Cron: "61 * * * *"}, {Cron: "0 0 * * *", TimeZone: "Berlin"}} {
		if bad.Validate() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

// TestKilledRunGoesOn kills a process with SIGKILL in the middle of a run, in
// each of its steps, and lets the next process finish it: no step whose result
// was recorded runs again.
func TestKilledRunGoesOn(t *testing.T) {
	if os.Getenv("SWELL_ENGINE_CHILD") != "" {
		child(t)
		return
	}
	dir := t.TempDir()
	db, log := filepath.Join(dir, "runs.db"), filepath.Join(dir, "log")
	for i := range 4 { // dies inside step i the first time it is reached
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledRunGoesOn$", "-test.v")
		cmd.Env = append(os.Environ(), "SWELL_ENGINE_CHILD="+dir, fmt.Sprintf("SWELL_ENGINE_STOP=step-%d", i))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if strings.Contains(sc.Text(), "waiting in step") {
				break
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	e := open(t, db, chain(4))
	defer e.Close()
	waitFor(t, e, "n1", Succeeded)
	ran := map[string]int{}
	for _, l := range lines(t, log) {
		ran[l]++
	}
	for i := range 4 {
		// Once by the child that was killed after doing the work but before
		// recording it, once by its successor.
		if n := ran[fmt.Sprintf("step-%d", i)]; n != 2 {
			t.Errorf("step-%d ran %d times, want 2", i, n)
		}
	}
}

func child(t *testing.T) {
	dir, stop := os.Getenv("SWELL_ENGINE_CHILD"), os.Getenv("SWELL_ENGINE_STOP")
	log := filepath.Join(dir, "log")
	e := open(t, filepath.Join(dir, "runs.db"), func(r *Run, _ json.RawMessage) (json.RawMessage, error) {
		for i := range 4 {
			name := fmt.Sprintf("step-%d", i)
			if _, err := Step(r, name, func(ctx context.Context) (int, error) {
				if err := appendLine(log, name); err != nil {
					return 0, err
				}
				if name == stop {
					fmt.Println("waiting in step", name)
					<-time.After(time.Minute) // to be killed here
				}
				return i, nil
			}); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	if err := e.Start("n1", quote(log), 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e, "n1", Succeeded)
}
