package engine

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/swellfleet/swell/cloud/store/storetest"
)

// TestAWorkerThatComesBackAfterItsTaskWasGivenAwayCountsForNothing stops a worker
// in a task, as a machine that hangs, cuts its session with the database, lets a
// hub take the task over, and wakes the worker while the hub is at it. What the
// worker found is then finished first, and must not be what the run gets.
func TestAWorkerThatComesBackAfterItsTaskWasGivenAwayCountsForNothing(t *testing.T) {
	if url := os.Getenv("SWELL_ENGINE_ZOMBIE"); url != "" {
		returned := make(chan struct{})
		cfg := withTasks(fanOut(0), func(ctx context.Context, in json.RawMessage) (json.RawMessage, error) {
			fmt.Println("working in a task")
			if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
				return nil, err
			}
			defer close(returned)
			return json.RawMessage("1000"), nil
		})
		cfg.PostgresURL, cfg.ExecutorID, cfg.TasksOnly = url, "worker-1", true
		e, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		<-returned
		e.Close() // waits until what it found was written, or refused
		fmt.Println("the worker ends")
		return
	}
	url := storetest.Postgres(t)(t)
	worker := exec.Command(os.Args[0], "-test.run=^TestAWorkerThatComesBackAfterItsTaskWasGivenAwayCountsForNothing$", "-test.v")
	worker.Env = append(os.Environ(), "SWELL_ENGINE_ZOMBIE="+url)
	out, err := worker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := worker.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = worker.Process.Kill(); _ = worker.Wait() })
	working, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if strings.Contains(sc.Text(), "working in a task") {
				close(working)
			}
		}
	}()
	cfg := withTasks(fanOut(1), func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
		if err := worker.Process.Signal(syscall.SIGCONT); err != nil {
			return nil, err
		}
		if _, err := fmt.Fprintln(in, "go on"); err != nil {
			return nil, err
		}
		select {
		case <-ended:
			return json.RawMessage("7"), nil
		case <-time.After(time.Minute):
			return nil, errors.New("the worker did not end")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	cfg.PostgresURL = url
	// The hub has no room for fits until the worker has one.
	hub := cfg
	hub.Queues = []Queue{{Name: "fits", Label: "later"}, {Name: "gpu", Label: "gpu"}}
	first := openWith(t, hub)
	if err := first.Start("n1", quote(t.TempDir()+"/log"), 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-working:
	case <-time.After(time.Minute):
		t.Fatal("the worker got no task")
	}
	if err := worker.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var cut bool
	if err := db.QueryRowContext(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7440 AND objid::bigint = (hashtext('worker-1')::bigint & 4294967295)").Scan(&cut); err != nil || !cut {
		t.Fatalf("cut the worker's session: %v %v", cut, err)
	}
	cfg.ExecutorID = "hub-2"
	openWith(t, cfg) // has room
	info := waitFor(t, first, "n1", Succeeded)
	if string(info.Output) != "7" {
		t.Errorf("the run got %s, want the 7 of the hub that the task was given to", info.Output)
	}
	if len(info.Tasks) != 1 || info.Tasks[0].Executor == "worker-1" {
		t.Errorf("tasks %+v", info.Tasks)
	}
}

func TestTwoHubsThatStartTheSameNightRunItOnce(t *testing.T) {
	url := storetest.Postgres(t)(t)
	log := t.TempDir() + "/log"
	var hubs []*Engine
	for i := range 2 {
		cfg := withTasks(fanOut(2), counted)
		cfg.PostgresURL, cfg.ExecutorID = url, fmt.Sprintf("hub-%d", i)
		hubs = append(hubs, openWith(t, cfg))
	}
	begin, done := make(chan struct{}), make(chan error)
	for i := range 8 {
		go func() {
			<-begin
			done <- hubs[i%2].Start("pumps-20261122t020000.000", quote(log), 0)
		}()
	}
	close(begin)
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	waitFor(t, hubs[0], "pumps-20261122t020000.000", Succeeded)
	if got := lines(t, log); len(got) != 3 {
		t.Errorf("two tasks and a step left %v", got)
	}
	if runs, err := hubs[1].List(10, 0); err != nil || len(runs) != 1 {
		t.Errorf("%d runs, %v", len(runs), err)
	}
}

func TestProcessesThatStartTogetherOnAnEmptyDatabaseAllStart(t *testing.T) {
	url := storetest.Postgres(t)(t)
	opened, failed := make(chan *Engine), make(chan error)
	const many = 5
	for i := range many {
		cfg := withTasks(fanOut(1), counted)
		cfg.PostgresURL, cfg.ExecutorID = url, fmt.Sprintf("hub-%d", i)
		go func() {
			if e, err := Open(t.Context(), cfg); err != nil {
				failed <- err
			} else {
				opened <- e
			}
		}()
	}
	for range many {
		select {
		case e := <-opened:
			t.Cleanup(e.Close)
		case err := <-failed:
			t.Error(err)
		}
	}
}
