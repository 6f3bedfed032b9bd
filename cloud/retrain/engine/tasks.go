package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

// Task is work that any process may do for a run. Like a step it is run at
// least once and recorded at most once. An error that wraps ErrPermanent is
// not tried again.
type Task func(ctx context.Context, input json.RawMessage) (json.RawMessage, error)

// Queue holds tasks until a process has room for them.
type Queue struct {
	Name string
	// Concurrency is how many tasks one process works on at once. 0 means 1.
	Concurrency int
	// Label, when set, keeps the queue for processes whose Config.Labels has
	// it. With no such process its tasks wait.
	Label string
}

// MaxPriority bounds priorities on both sides.
const MaxPriority = 1000

// rank turns a priority into DBOS's: there, small numbers go first.
func rank(priority int) uint {
	return uint(MaxPriority - max(-MaxPriority, min(MaxPriority, priority)))
}

// listens names the queues that this process works on.
func (e *Engine) listens() []string {
	var out []string
	if !e.cfg.TasksOnly {
		out = append(out, queueName)
	}
	for _, q := range e.cfg.Queues {
		if q.Label == "" || slices.Contains(e.cfg.Labels, q.Label) {
			out = append(out, q.Name)
		}
	}
	if len(out) == 0 {
		// DBOS takes an empty list for every queue.
		out = append(out, "none")
	}
	return out
}

func (e *Engine) openQueues() (err error) {
	e.queue, err = dbos.RegisterQueue(e.ctx, queueName, dbos.WithWorkerConcurrency(e.cfg.Concurrency), dbos.WithQueueBasePollingInterval(200*time.Millisecond))
	if err != nil {
		return fmt.Errorf("make queue %s: %w", queueName, err)
	}
	for _, q := range e.cfg.Queues {
		n := max(1, q.Concurrency)
		// One task more than there is room for is taken from the queue, so that
		// nobody waits for the next look into it between two short tasks.
		e.tasks[q.Name], err = dbos.RegisterQueue(e.ctx, q.Name, dbos.WithWorkerConcurrency(n+1), dbos.WithQueueBasePollingInterval(100*time.Millisecond))
		if err != nil {
			return fmt.Errorf("make queue %s: %w", q.Name, err)
		}
		e.slots[q.Name] = make(chan struct{}, n)
	}
	return nil
}

// assignment is the input of the workflow that is a task.
type assignment struct {
	Run      string          `json:"run"`
	Queue    string          `json:"queue"`
	Task     string          `json:"task"`
	Name     string          `json:"name"`
	Deadline time.Time       `json:"deadline,omitzero"`
	Input    json.RawMessage `json:"input"`
}

// Pending is a task that was asked for.
type Pending struct {
	Name   string
	run    *Run
	handle dbos.WorkflowHandle[string]
	err    error
}

// Do asks for a task on a queue, under a name that is unique in the run, and
// returns at once. Tasks of higher priority are taken first. The input must
// marshal to JSON.
func (r *Run) Do(queue, task, name string, input any, priority int) Pending {
	p := Pending{Name: name, run: r}
	q, ok := r.engine.tasks[queue]
	if _, known := r.engine.cfg.Tasks[task]; !ok || !known {
		p.err = fmt.Errorf("%s: there is no queue %q or no task %q (%w)", name, queue, task, ErrPermanent)
		return p
	}
	in, err := json.Marshal(input)
	if err != nil {
		p.err = fmt.Errorf("%s: %w", name, err)
		return p
	}
	b, err := json.Marshal(assignment{Run: r.ID, Queue: queue, Task: task, Name: name, Deadline: r.Deadline, Input: in})
	if err != nil {
		p.err = fmt.Errorf("%s: %w", name, err)
		return p
	}
	p.handle, err = dbos.RunWorkflow(r.ctx, r.engine.task, string(b), dbos.WithWorkflowID(r.ID+"/"+name), dbos.WithQueue(q), dbos.WithPriority(rank(priority)))
	if err != nil {
		p.err = fmt.Errorf("%s: %w", name, err)
	}
	return p
}

// ErrLate means that the run's deadline passed before a step or task had ended.
var ErrLate = errors.New("the run's time is over")

// Result waits for the task and returns what it found. The error wraps
// ErrLate when the run's deadline came first.
func (p Pending) Result() (json.RawMessage, error) {
	if p.err != nil {
		return nil, p.err
	}
	opts := []dbos.GetResultOption{dbos.WithHandlePollingInterval(200 * time.Millisecond)}
	if !p.run.Deadline.IsZero() {
		// A little longer than the task's own deadline, which says more.
		opts = append(opts, dbos.WithHandleTimeout(max(time.Second, time.Until(p.run.Deadline)+2*time.Second)))
	}
	out, err := p.handle.GetResult(opts...)
	if err != nil {
		if !p.run.Deadline.IsZero() && time.Now().After(p.run.Deadline) {
			err = errors.Join(ErrLate, dbos.CancelWorkflow(p.run.engine.ctx, p.handle.GetWorkflowID()))
			p.run.engine.stopCancelled()
		}
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	var rec record
	if err := json.Unmarshal([]byte(out), &rec); err != nil {
		return nil, fmt.Errorf("%s: read recorded result: %w", p.Name, err)
	}
	p.run.cost = p.run.cost.Add(rec.Cost)
	switch {
	case rec.Late:
		return nil, fmt.Errorf("%s: %w: %s", p.Name, ErrLate, rec.Err)
	case rec.Err != "":
		return nil, fmt.Errorf("%s: %s", p.Name, rec.Err)
	}
	return rec.Output, nil
}

// Abandon cancels a task that nobody waits for any more.
func (p Pending) Abandon() {
	if p.handle != nil {
		_ = dbos.CancelWorkflow(p.run.engine.ctx, p.handle.GetWorkflowID()) // it may have ended
		p.run.engine.stopCancelled()
	}
}

// maxAttempts bounds how often a task is taken up: one that takes its process
// down every time must not take down the others too.
const maxAttempts = 5

// task is the workflow that does one assignment. Its failure is a result: the
// run that asked decides what it means.
func (e *Engine) task(ctx dbos.Context, in string) (string, error) {
	if err := e.opened(ctx); err != nil {
		return "", err
	}
	var a assignment
	if err := json.Unmarshal([]byte(in), &a); err != nil {
		return "", fmt.Errorf("read task: %w", err)
	}
	id, err := dbos.GetWorkflowID(ctx)
	if err != nil {
		return "", err
	}
	do, ok := e.cfg.Tasks[a.Task]
	if !ok {
		return "", fmt.Errorf("this program knows no task %q", a.Task)
	}
	release, err := e.slot(ctx, a.Queue)
	if err != nil {
		return "", err
	}
	defer release()
	return dbos.RunAsStep(ctx, func(ctx context.Context) (string, error) {
		log := e.cfg.Logger.With("run", a.Run, "task", a.Name)
		log.Info("task begins")
		stepCtx, sc := e.enter(ctx, id, a.Run, a.Name)
		if !a.Deadline.IsZero() {
			var cancel context.CancelFunc
			stepCtx, cancel = context.WithDeadline(stepCtx, a.Deadline)
			defer cancel()
		}
		out, err := do(stepCtx, a.Input)
		late := err != nil && !a.Deadline.IsZero() && errors.Is(stepCtx.Err(), context.DeadlineExceeded)
		cost := sc.leave(err)
		rec := record{Sealed: 1, Output: out, Cost: cost, Late: late, Executor: e.cfg.ExecutorID}
		if err != nil {
			log.Warn("task failed", "err", err)
			if !late && !errors.Is(err, ErrPermanent) {
				return "", err
			}
			rec.Output, rec.Err = nil, err.Error()
		} else {
			log.Info("task done", "seconds", cost.WallSeconds)
		}
		b, err := json.Marshal(rec)
		return string(b), err
	}, dbos.WithStepName("task-body"), dbos.WithStepMaxRetries(maxTries-1), dbos.WithStepBaseInterval(200*time.Millisecond), dbos.WithStepMaxInterval(10*time.Second),
		dbos.WithStepRetryPredicate(func(err error) bool { return !errors.Is(err, context.Canceled) }))
}

// slot waits until this process has room for one more task of a queue.
func (e *Engine) slot(ctx context.Context, queue string) (release func(), err error) {
	slots := e.slots[queue]
	if slots == nil { // a queue of an older configuration
		return func() {}, nil
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TaskInfo is what is known of a task.
type TaskInfo struct {
	Name     string
	Queue    string
	State    State
	Executor string // that has or had it; empty while it is queued
	Queued   time.Time
	Started  time.Time // zero while queued
	Ended    time.Time // zero until it ended
	Err      string
	Cost     Cost
	Attempts int
}

// maxTasks bounds the tasks that are shown of a run.
const maxTasks = 10_000

func (e *Engine) taskInfos(ids []string) ([]TaskInfo, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ids = ids[:min(len(ids), maxTasks)]
	ws, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterWorkflowIDs(ids...), dbos.WithFilterLoadOutput(true), dbos.WithFilterLoadInput(true))
	if err != nil {
		return nil, fmt.Errorf("read tasks: %w", err)
	}
	at := map[string]int{}
	for i, id := range ids {
		at[id] = i
	}
	slices.SortFunc(ws, func(a, b dbos.WorkflowStatus) int { return at[a.ID] - at[b.ID] })
	out := make([]TaskInfo, 0, len(ws))
	for _, w := range ws {
		t := TaskInfo{Name: w.ID, State: stateOf(w), Queue: w.QueueName, Queued: w.CreatedAt, Started: w.StartedAt, Ended: w.CompletedAt, Attempts: w.Attempts}
		var a assignment
		if json.Unmarshal(text(w.Input), &a) == nil {
			t.Name, t.Queue = a.Name, a.Queue
		}
		if t.State != Queued {
			t.Executor = w.ExecutorID
		}
		var rec record
		if b := text(w.Output); b != nil && json.Unmarshal(b, &rec) == nil {
			t.Cost = rec.Cost
			if rec.Err != "" {
				t.State, t.Err = Failed, rec.Err
			}
		}
		if w.Error != nil {
			t.Err = w.Error.Error()
		}
		out = append(out, t)
	}
	return out, nil
}

// watch ends what other processes have cancelled.
func (e *Engine) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchEvery):
			e.stopCancelled()
		}
	}
}

// watchEvery is how soon a cancel in another process is noticed.
const watchEvery = 2 * time.Second

// stopCancelled ends the steps at work here whose workflows were cancelled.
func (e *Engine) stopCancelled() {
	e.mu.Lock()
	var ids []string
	for id := range e.active {
		ids = append(ids, id)
	}
	e.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	ws, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterWorkflowIDs(ids...), dbos.WithFilterStatus(dbos.WorkflowStatusCancelled))
	if err != nil {
		e.cfg.Logger.Warn("cannot look for cancelled runs", "err", err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range ws {
		if cancel := e.active[w.ID]; cancel != nil {
			cancel()
		}
	}
}

// taskOf splits a workflow's id into its run and the task's name; the name is
// empty for a run.
func taskOf(id string) (run, name string) {
	run, name, _ = strings.Cut(id, "/")
	return run, name
}
