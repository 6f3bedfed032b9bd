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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/store/storetest"
)

// fanOut is a workflow that asks for n tasks at once and adds up what they
// find.
func fanOut(n int) Func {
	return func(r *Run, input json.RawMessage) (json.RawMessage, error) {
		var file string
		if err := json.Unmarshal(input, &file); err != nil {
			return nil, err
		}
		var all []Pending
		for i := range n {
			all = append(all, r.Do("fits", "fit", fmt.Sprintf("train/pca/class-%d", i), job{file, i}, 0))
		}
		sum := 0
		for _, p := range all {
			b, err := p.Result()
			if err != nil {
				return nil, err
			}
			var v int
			if err := json.Unmarshal(b, &v); err != nil {
				return nil, err
			}
			sum += v
		}
		sum, err := Step(r, "train/pca", func(context.Context) (int, error) { return sum, appendLine(file, "train/pca") })
		if err != nil {
			return nil, err
		}
		return json.Marshal(sum)
	}
}

type job struct {
	File string
	N    int
}

// counted appends a line before it returns, so that repeats can be counted.
func counted(ctx context.Context, input json.RawMessage) (json.RawMessage, error) {
	var j job
	if err := json.Unmarshal(input, &j); err != nil {
		return nil, err
	}
	Progress(ctx, "class %d of %s", j.N, "some")
	return json.RawMessage(fmt.Sprint(j.N)), appendLine(j.File, fmt.Sprintf("task-%d", j.N))
}

func withTasks(fn Func, task Task) Config {
	return Config{ExecutorID: "hub-1", Version: "v1", Workflow: fn, Tasks: map[string]Task{"fit": task},
		Queues: []Queue{{Name: "fits"}, {Name: "gpu", Label: "gpu"}}, TakeOverAfter: time.Second}
}

func openWith(t *testing.T, cfg Config) *Engine {
	t.Helper()
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func TestTasksOfARunAreShownWithTheirCostAndLog(t *testing.T) {
	dir := t.TempDir()
	cfg := withTasks(fanOut(5), counted)
	cfg.SQLitePath = filepath.Join(dir, "runs.db")
	e := openWith(t, cfg)
	if err := e.Start("n1", quote(filepath.Join(dir, "log")), 0); err != nil {
		t.Fatal(err)
	}
	info := waitFor(t, e, "n1", Succeeded)
	if string(info.Output) != "10" || len(info.Steps) != 1 || info.Steps[0].Name != "train/pca" || len(info.Tasks) != 5 {
		t.Fatalf("output %s, steps %+v, tasks %+v", info.Output, info.Steps, info.Tasks)
	}
	for i, task := range info.Tasks {
		if task.Name != fmt.Sprintf("train/pca/class-%d", i) || task.State != Succeeded || task.Executor != "hub-1" || task.Cost.PeakMiB == 0 {
			t.Errorf("task %d is %+v", i, task)
		}
	}
	if c := info.Steps[0].Cost; c.WallSeconds < info.Tasks[0].Cost.WallSeconds || info.Steps[0].Started.After(info.Tasks[0].Started) {
		t.Errorf("the step that gathers does not cover its tasks: %+v", info.Steps[0])
	}
	log, err := e.Log(info, "train/pca/class-3")
	if err != nil || len(log) != 1 || log[0].Text != "class 3 of some" || time.Since(log[0].At) > time.Minute {
		t.Errorf("log %+v, %v", log, err)
	}
	if err := e.Delete("n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Get("n1"); !errors.Is(err, ErrNoRun) {
		t.Errorf("a deleted run is still there: %v", err)
	}
}

func TestARerunKeepsWhatCameBefore(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	fan := fanOut(2)
	cfg := withTasks(func(r *Run, in json.RawMessage) (json.RawMessage, error) {
		if _, err := Step(r, "extract", func(context.Context) (int, error) { return 0, appendLine(log, "extract") }); err != nil {
			return nil, err
		}
		return fan(r, in)
	}, counted)
	cfg.SQLitePath = filepath.Join(dir, "runs.db")
	e := openWith(t, cfg)
	if err := e.Start("n1", quote(log), 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e, "n1", Succeeded)
	for from, want := range map[string]string{"train": "task-0 task-1 train/pca", "train/pca/class-1": "task-1 train/pca", "extract": "extract task-0 task-1 train/pca"} {
		if err := os.Remove(log); err != nil {
			t.Fatal(err)
		}
		id, err := e.Fork("n1", from)
		if err != nil {
			t.Fatal(err)
		}
		info := waitFor(t, e, id, Succeeded)
		did := lines(t, log)
		slices.Sort(did) // tasks have no order among each other
		if got := strings.Join(did, " "); got != want || string(info.Output) != "1" {
			t.Errorf("from %s: did %q, want %q; output %s", from, got, want, info.Output)
		}
	}
	if _, err := e.Fork("n2", "extract"); !errors.Is(err, ErrNoRun) {
		t.Errorf("rerun of no run: %v", err)
	}
}

func TestATaskThatFailsForGoodIsTriedOnce(t *testing.T) {
	tries := 0
	cfg := withTasks(fanOut(1), func(context.Context, json.RawMessage) (json.RawMessage, error) {
		tries++
		return nil, fmt.Errorf("constant channel: %w", ErrPermanent)
	})
	dir := t.TempDir()
	cfg.SQLitePath = filepath.Join(dir, "runs.db")
	e := openWith(t, cfg)
	if err := e.Start("n1", quote(dir), 0); err != nil {
		t.Fatal(err)
	}
	info := waitFor(t, e, "n1", Failed)
	if tries != 1 || !strings.Contains(info.Err, "train/pca/class-0: constant channel") || info.Tasks[0].State != Failed {
		t.Errorf("%d tries, error %q, task %+v", tries, info.Err, info.Tasks)
	}
}

func TestACancelReachesTheTaskAtWork(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	cfg := withTasks(fanOut(1), func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	})
	dir := t.TempDir()
	cfg.SQLitePath = filepath.Join(dir, "runs.db")
	e := openWith(t, cfg)
	if err := e.Start("n1", quote(dir), 0); err != nil {
		t.Fatal(err)
	}
	<-began
	if err := e.Cancel("n1"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the task still works")
	}
	waitFor(t, e, "n1", Cancelled)
}

func TestATaskOfALateRunIsEnded(t *testing.T) {
	fan := fanOut(1)
	var late error
	cfg := withTasks(func(r *Run, in json.RawMessage) (json.RawMessage, error) {
		began, err := r.Began()
		if err != nil {
			return nil, err
		}
		r.Deadline = began.Add(time.Second)
		out, err := fan(r, in)
		late = err
		return out, err
	}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	dir := t.TempDir()
	cfg.SQLitePath = filepath.Join(dir, "runs.db")
	e := openWith(t, cfg)
	if err := e.Start("n1", quote(dir), 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e, "n1", Failed)
	if !errors.Is(late, ErrLate) {
		t.Errorf("error %v, want ErrLate", late)
	}
}

// TestAKilledWorkersTasksAreDoneByAnother has two processes share a run on
// PostgreSQL. One is killed with SIGKILL inside a task: the other does that
// task, and no finished one again.
func TestAKilledWorkersTasksAreDoneByAnother(t *testing.T) {
	if url := os.Getenv("SWELL_ENGINE_WORKER"); url != "" {
		cfg := withTasks(fanOut(0), func(ctx context.Context, in json.RawMessage) (json.RawMessage, error) {
			var j job
			if err := json.Unmarshal(in, &j); err != nil {
				return nil, err
			}
			fmt.Println("working in task", j.N)
			<-time.After(time.Minute) // to be killed here
			return nil, errors.New("not killed")
		})
		cfg.PostgresURL, cfg.ExecutorID, cfg.TasksOnly = url, "worker-1", true
		openWith(t, cfg)
		<-time.After(time.Minute)
		return
	}
	url := storetest.Postgres(t)(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	worker := exec.Command(os.Args[0], "-test.run=^TestAKilledWorkersTasksAreDoneByAnother$", "-test.v")
	worker.Env = append(os.Environ(), "SWELL_ENGINE_WORKER="+url)
	out, err := worker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = worker.Process.Kill(); _ = worker.Wait() })
	working := make(chan struct{})
	go func() {
		defer close(working)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if strings.Contains(sc.Text(), "working in task") {
				return
			}
		}
	}()
	// The hub leaves one task of its own unfinished until the worker has one.
	cfg := withTasks(fanOut(6), func(ctx context.Context, in json.RawMessage) (json.RawMessage, error) {
		<-working
		return counted(ctx, in)
	})
	cfg.PostgresURL = url
	e := openWith(t, cfg)
	if _, err := Open(t.Context(), func() Config { c := cfg; c.ExecutorID = ""; return c }()); err == nil {
		t.Error("an engine without an executor id was opened")
	}
	if err := e.Start("n1", quote(log), 0); err != nil {
		t.Fatal(err)
	}
	<-working
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	info := waitFor(t, e, "n1", Succeeded)
	if string(info.Output) != "15" {
		t.Errorf("output %s", info.Output)
	}
	ran := map[string]int{}
	for _, l := range lines(t, log) {
		ran[l]++
	}
	for i := range 6 {
		if n := ran[fmt.Sprintf("task-%d", i)]; n != 1 {
			t.Errorf("task %d was done %d times", i, n)
		}
	}
}

// TestTheSameNameTwiceIsRefused: two processes under one executor id would take
// up each other's runs.
func TestTheSameNameTwiceIsRefused(t *testing.T) {
	url := storetest.Postgres(t)(t)
	cfg := withTasks(fanOut(1), counted)
	cfg.PostgresURL = url
	openWith(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Open(ctx, cfg); err == nil || !strings.Contains(err.Error(), "name of its own") {
		t.Errorf("error %v", err)
	}
}

func TestLabelledQueuesWaitForTheirWorkers(t *testing.T) {
	url := storetest.Postgres(t)(t)
	dir := t.TempDir()
	cfg := withTasks(func(r *Run, in json.RawMessage) (json.RawMessage, error) {
		var file string
		if err := json.Unmarshal(in, &file); err != nil {
			return nil, err
		}
		return r.Do("gpu", "fit", "train/cnn/camera", job{file, 7}, 0).Result()
	}, counted)
	cfg.PostgresURL = url
	e := openWith(t, cfg)
	if err := e.Start("n1", quote(filepath.Join(dir, "log")), 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e, "n1", Running)
	deadline := time.Now().Add(10 * time.Second)
	for {
		info, err := e.Get("n1")
		if err != nil {
			t.Fatal(err)
		}
		if len(info.Tasks) == 1 {
			if info.Tasks[0].State != Queued {
				t.Fatalf("a process without the label took it: %+v", info.Tasks[0])
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no task")
		}
		<-time.After(20 * time.Millisecond)
	}
	cfg.ExecutorID, cfg.TasksOnly, cfg.Labels = "worker-gpu", true, []string{"gpu"}
	openWith(t, cfg)
	if info := waitFor(t, e, "n1", Succeeded); info.Tasks[0].Executor != "worker-gpu" {
		t.Errorf("done by %+v", info.Tasks[0])
	}
}

func TestScheduleTimesBetween(t *testing.T) {
	s := Schedule{Name: "nightly", Cron: "30 3 * * *", TimeZone: "Europe/Berlin"}
	from := time.Date(2026, 10, 24, 0, 0, 0, 0, time.UTC) // the clocks go back on the 25th
	times, err := s.Between(from, from.AddDate(0, 0, 3), 10)
	if err != nil || len(times) != 3 {
		t.Fatalf("%v, %v", times, err)
	}
	if got := times[2].UTC(); !got.Equal(time.Date(2026, 10, 26, 2, 30, 0, 0, time.UTC)) {
		t.Errorf("third night at %s", got)
	}
	if times, _ := s.Between(from, from.AddDate(0, 0, 30), 2); len(times) != 2 || times[1].UTC().Day() != 22 {
		t.Errorf("the newest two are %v", times)
	}
}
