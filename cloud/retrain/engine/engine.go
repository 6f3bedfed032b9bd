// Package engine runs durable workflows: functions whose finished steps are
// recorded, so that after a crash the next process goes on where the last one
// stopped and repeats no finished step.
//
// The parties are cloud/retrain, which says what the steps of a night are, and
// DBOS Transact (github.com/dbos-inc/dbos-transact-golang), which records them
// in SQLite or PostgreSQL. Nothing of DBOS shows through, so that it can be
// replaced. A step is run at least once and recorded at most once: steps must
// be safe to repeat. Heavy work is handed to queues as tasks, which any process
// that shares the record may take. A process that dies on PostgreSQL has its
// runs and tasks taken over by another; on SQLite there is one process, and it
// takes up its own at the next start. Only cloud/retrain and cloud/hub import
// this package.
package engine

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	_ "github.com/dbos-inc/dbos-transact-golang/dbos/driver/sqlite" // registers the SQLite system database
	"github.com/robfig/cron/v3"
)

// Func is a workflow. It must be deterministic outside its steps: everything
// that reads the world happens inside Run.Step.
type Func func(r *Run, input json.RawMessage) (json.RawMessage, error)

// Config says where runs are recorded and what they do.
type Config struct {
	// SQLitePath is the file that holds the runs; used when PostgresURL is empty.
	SQLitePath string
	// PostgresURL, when set, holds the runs for several hubs.
	PostgresURL string
	// ExecutorID is this process's fixed name: a process takes up only runs of
	// its own id again. Required.
	ExecutorID string
	// Version is the digest of the pipeline's code; a run is only taken up
	// again by the version that began it. Required.
	Version string
	// Workflow is what a run does. Required.
	Workflow Func
	// Tick turns a schedule's name and time into a run; see Start. nil when
	// there are no schedules.
	Tick func(schedule string, at time.Time) (runID string, input json.RawMessage, priority int, err error)
	// Now says by which clock times of schedules were missed. nil: time.Now.
	Now func() time.Time
	// Concurrency is how many runs this process works on at once. 0 means 1.
	Concurrency int
	// Tasks are what Run.Do can ask for, by name.
	Tasks map[string]Task
	// Queues hold tasks. Every process that shares the record names the same ones.
	Queues []Queue
	// Labels say which labelled queues this process works on.
	Labels []string
	// TasksOnly makes a worker: it takes tasks and leaves runs to others.
	TasksOnly bool
	// TakeOverAfter is how long a process must have been gone before others
	// take over what it was at; only with PostgreSQL. 0 means 15 s.
	TakeOverAfter time.Duration
	Logger        *slog.Logger
}

// Engine starts, lists and cancels runs.
type Engine struct {
	cfg   Config
	db    *sql.DB // the SQLite handle; nil with PostgreSQL
	ctx   dbos.Context
	queue dbos.Queue
	slots map[string]chan struct{} // queue → one token for each task this process may work on; never nil
	tasks map[string]dbos.Queue    // the queues of tasks by name
	lease *lease                   // nil with SQLite
	ready chan struct{}            // closed when the queues are open: DBOS takes up what is left before that
	stop  context.CancelFunc
	done  sync.WaitGroup // the background loops

	mu       sync.Mutex
	caughtUp bool                          // what was missed before Open was looked at; guarded by mu
	progress map[string]string             // run → newest progress line of the step at work; guarded by mu
	active   map[string]context.CancelFunc // workflow → ends its step at work here; guarded by mu
}

const (
	queueName = "nights"
	nightName = "night"
	taskName  = "task"
)

// Open connects to the record of runs and takes up what this executor left
// unfinished.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.ExecutorID == "" || cfg.Version == "" || cfg.Workflow == nil {
		return nil, errors.New("open workflow engine: executor id, version and workflow are required")
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 1
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TakeOverAfter <= 0 {
		cfg.TakeOverAfter = 15 * time.Second
	}
	e := &Engine{cfg: cfg, progress: map[string]string{}, active: map[string]context.CancelFunc{}, slots: map[string]chan struct{}{}, tasks: map[string]dbos.Queue{}, ready: make(chan struct{})}
	if cfg.PostgresURL != "" {
		// Before anything is taken up: nobody may take over what this process is about to do.
		var err error
		if e.lease, err = newLease(ctx, cfg.PostgresURL, cfg.ExecutorID); err != nil {
			return nil, err
		}
	}
	dc := dbos.Config{
		AppName:            "swell-nights",
		DatabaseURL:        cfg.PostgresURL,
		ApplicationVersion: cfg.Version,
		ExecutorID:         cfg.ExecutorID,
		Logger:             slog.New(quiet{cfg.Logger.Handler()}),
	}
	if cfg.PostgresURL == "" {
		db, err := sql.Open("sqlite", "file:"+cfg.SQLitePath+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_txlock=immediate")
		if err != nil {
			return nil, fmt.Errorf("open workflow record %s: %w", cfg.SQLitePath, err)
		}
		e.db, dc.SQLiteSystemDB = db, db
	}
	var c dbos.Context
	err := e.lease.alone(ctx, func() (err error) {
		c, err = dbos.NewContext(ctx, dc)
		return err
	})
	if err != nil {
		e.closeDB()
		return nil, fmt.Errorf("open workflow record: %w", err)
	}
	e.ctx = c
	dbos.RegisterWorkflow(c, e.night, dbos.WithWorkflowName(nightName), dbos.WithMaxRecoveryAttempts(20))
	dbos.RegisterWorkflow(c, e.tick, dbos.WithWorkflowName("tick"), dbos.WithMaxRecoveryAttempts(20))
	dbos.RegisterWorkflow(c, e.task, dbos.WithWorkflowName(taskName), dbos.WithMaxRecoveryAttempts(maxAttempts))
	dbos.ListenQueues(c, e.listens()...)
	if err := dbos.Launch(c); err != nil {
		e.closeDB()
		return nil, fmt.Errorf("start workflow engine: %w", err)
	}
	if err := e.openQueues(); err != nil {
		e.Close()
		return nil, err
	}
	close(e.ready)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	e.done.Go(func() { e.watch(background) })
	if e.lease != nil {
		e.done.Go(func() { e.takeOver(background) })
	}
	return e, nil
}

// Close stops taking up runs and waits briefly for the step at work; what it
// interrupts is continued by the next Open.
func (e *Engine) Close() {
	if e.stop != nil {
		e.stop()
		e.done.Wait()
	}
	_ = dbos.Shutdown(e.ctx, 5*time.Second)
	e.closeDB()
}

func (e *Engine) closeDB() {
	if e.db != nil {
		_ = e.db.Close()
	}
	if e.lease != nil {
		e.lease.close()
	}
}

// opened waits until the engine is open.
func (e *Engine) opened(ctx context.Context) error {
	select {
	case <-e.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) night(ctx dbos.Context, input string) (string, error) {
	if err := e.opened(ctx); err != nil {
		return "", err
	}
	id, err := dbos.GetWorkflowID(ctx)
	if err != nil {
		return "", err
	}
	defer e.report(id, "")
	out, err := e.cfg.Workflow(&Run{ID: id, ctx: ctx, engine: e}, json.RawMessage(input))
	return string(out), err
}

// tick is what a schedule runs: it starts the night of that time once.
func (e *Engine) tick(ctx dbos.Context, in dbos.ScheduledWorkflowInput) (any, error) {
	if err := e.opened(ctx); err != nil {
		return nil, err
	}
	id, input, priority, err := e.cfg.Tick(noteOf(in.Context).Name, in.ScheduledTime)
	if err != nil {
		return nil, err
	}
	_, err = dbos.RunWorkflow(ctx, e.night, string(input), dbos.WithWorkflowID(id), dbos.WithQueue(e.queue), dbos.WithPriority(rank(priority)))
	return nil, err
}

// Start queues run id with input. A run of that id that exists already is left
// as it is: the same night is never run twice. Runs of higher priority, from
// -MaxPriority to MaxPriority, are taken up first; 0 is usual.
func (e *Engine) Start(id string, input json.RawMessage, priority int) error {
	if _, err := dbos.RunWorkflow(e.ctx, e.night, string(input), dbos.WithWorkflowID(id), dbos.WithQueue(e.queue), dbos.WithPriority(rank(priority))); err != nil {
		return fmt.Errorf("start run %s: %w", id, err)
	}
	return nil
}

// Signal hands a message to a run that waits on topic.
func (e *Engine) Signal(id, topic string, message json.RawMessage) error {
	if err := dbos.Send(e.ctx, id, string(message), topic); err != nil {
		return fmt.Errorf("signal run %s: %w", id, err)
	}
	return nil
}

// Cancel stops a run and its tasks. The context of what is at work ends, here
// at once and in other processes within seconds.
func (e *Engine) Cancel(id string) error {
	if err := dbos.CancelWorkflow(e.ctx, id, dbos.WithCancelChildren()); err != nil {
		return fmt.Errorf("cancel run %s: %w", id, err)
	}
	e.stopCancelled()
	return nil
}

// Fork starts a new run that keeps the results that run id had recorded before
// the first step or task that is called from, or whose name begins with from
// and a slash, and does the rest again. It returns the new run's id. A run
// that never came to it is done again from where it ended.
func (e *Engine) Fork(id, from string) (string, error) {
	if _, err := e.status(id); err != nil {
		return "", err
	}
	steps, err := dbos.GetWorkflowSteps(e.ctx, id)
	if err != nil {
		return "", fmt.Errorf("read steps of run %s: %w", id, err)
	}
	start := uint(0)
	for _, s := range steps {
		name := s.StepName
		if s.ChildWorkflowID != "" {
			_, name = taskOf(s.ChildWorkflowID)
		}
		if under(name, from) {
			start = uint(s.StepID)
			break
		}
		start = uint(s.StepID) + 1
	}
	h, err := dbos.ForkWorkflow[string](e.ctx, dbos.ForkWorkflowInput{OriginalWorkflowID: id, StartStep: start, QueueName: queueName, ApplicationVersion: e.cfg.Version})
	if err != nil {
		return "", fmt.Errorf("fork run %s from %s: %w", id, from, err)
	}
	return h.GetWorkflowID(), nil
}

// under says whether name is that of a step, or of one of its tasks.
func under(name, step string) bool { return name == step || strings.HasPrefix(name, step+"/") }

// Delete removes ended runs with their tasks and logs.
func (e *Engine) Delete(ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	if err := dbos.DeleteWorkflows(e.ctx, ids, dbos.WithDeleteChildren()); err != nil {
		return fmt.Errorf("delete %d runs: %w", len(ids), err)
	}
	return nil
}

// Schedule is a cron rule for runs.
type Schedule struct {
	Name     string
	Cron     string // five fields, or six with seconds first
	TimeZone string // IANA name; empty is UTC
	CatchUp  bool   // run the nights that were missed while no hub was up
	latest   bool   // CatchUp runs only the newest of them
}

// CatchUpLatest returns s with CatchUp for only the newest of the missed nights.
func (s Schedule) CatchUpLatest() Schedule {
	s.CatchUp, s.latest = true, true
	return s
}

// Validate reports a rule that cannot be read.
func (s Schedule) Validate() error {
	if _, err := time.LoadLocation(s.TimeZone); err != nil {
		return fmt.Errorf("schedule %s: unknown time zone %q: use an IANA name such as Europe/Berlin", s.Name, s.TimeZone)
	}
	if _, err := cronParser.Parse(sixFields(s.Cron)); err != nil {
		return fmt.Errorf("schedule %s: cron %q: %w", s.Name, s.Cron, err)
	}
	return nil
}

var cronParser = cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

func sixFields(rule string) string {
	if len(strings.Fields(rule)) == 5 {
		return "0 " + rule
	}
	return rule
}

// Next returns when s runs next after t.
func (s Schedule) Next(t time.Time) (time.Time, error) {
	if err := s.Validate(); err != nil {
		return time.Time{}, err
	}
	zone, _ := time.LoadLocation(s.TimeZone)
	rule, _ := cronParser.Parse(sixFields(s.Cron))
	return rule.Next(t.In(zone)), nil
}

// note is what is kept with a schedule.
type note struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"` // times before are dealt with; zero: nobody knows
}

func noteOf(context json.RawMessage) (n note) {
	if json.Unmarshal(context, &n) != nil {
		_ = json.Unmarshal(context, &n.Name) // as older versions wrote it
	}
	return n
}

// SetSchedules makes the given rules the only ones. The first call after Open
// starts the runs that were missed while no process was up, as the rules say.
// A rule that is new or was changed has missed nothing.
func (e *Engine) SetSchedules(rules []Schedule) error {
	existing, err := dbos.ListSchedules(e.ctx)
	if err != nil {
		return fmt.Errorf("list schedules: %w", err)
	}
	for _, s := range rules {
		if err := s.Validate(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	first := !e.caughtUp
	e.caughtUp = true
	e.mu.Unlock()
	specs := make([]dbos.ScheduleSpec, 0, len(rules))
	for _, s := range rules {
		now := e.cfg.Now()
		n := note{Name: s.Name, Since: now}
		i := slices.IndexFunc(existing, func(x dbos.WorkflowSchedule) bool { return x.ScheduleName == s.Name })
		if i >= 0 && existing[i].Schedule == sixFields(s.Cron) && existing[i].CronTimezone == s.TimeZone {
			since := noteOf(existing[i].Context).Since
			if !first {
				n.Since = since
			} else {
				if fired := existing[i].LastFiredAt; fired != nil && fired.After(since) {
					since = *fired
				}
				if err := e.catchUp(s, since, now); err != nil {
					return err
				}
			}
		}
		specs = append(specs, dbos.ScheduleSpec{ScheduleName: s.Name, Schedule: sixFields(s.Cron), WorkflowName: "tick", Context: n, CronTimezone: s.TimeZone})
	}
	for _, x := range existing {
		if !slices.ContainsFunc(rules, func(s Schedule) bool { return s.Name == x.ScheduleName }) {
			if err := dbos.DeleteSchedule(e.ctx, x.ScheduleName); err != nil {
				return fmt.Errorf("delete schedule %s: %w", x.ScheduleName, err)
			}
		}
	}
	if len(specs) == 0 {
		return nil
	}
	if err := dbos.ApplySchedules(e.ctx, specs); err != nil {
		return fmt.Errorf("apply schedules: %w", err)
	}
	return nil
}

// catchUp starts the runs that s missed between since and now, or the newest
// of them, as s wants it. Starting one that another process has started, too,
// does nothing.
func (e *Engine) catchUp(s Schedule, since, now time.Time) error {
	if !s.CatchUp || since.IsZero() || e.cfg.Tick == nil {
		return nil
	}
	most := maxCaughtUp
	if s.latest {
		most = 1
	}
	times, err := s.Between(since.Add(time.Nanosecond), now, most+1)
	if err != nil {
		return err
	}
	if len(times) > most {
		if !s.latest {
			e.cfg.Logger.Warn("only the newest of the nights that were missed are run", "schedule", s.Name, "since", since, "run", most)
		}
		times = times[1:]
	}
	for _, at := range times {
		id, input, priority, err := e.cfg.Tick(s.Name, at)
		if err == nil {
			err = e.Start(id, input, priority)
		}
		if err != nil {
			return fmt.Errorf("catch up with schedule %s: %w", s.Name, err)
		}
	}
	return nil
}

// maxCaughtUp bounds how many runs one schedule starts after a downtime.
const maxCaughtUp = 366

// Between returns the times of s in [from, to), at most limit of them and the
// newest of those that there are.
func (s Schedule) Between(from, to time.Time, limit int) ([]time.Time, error) {
	var out []time.Time
	for t := from.Add(-time.Nanosecond); ; {
		next, err := s.Next(t)
		if err != nil {
			return nil, err
		}
		if next.IsZero() || !next.Before(to) {
			return out, nil
		}
		if t = next; len(out) == limit {
			out = out[1:]
		}
		out = append(out, next)
	}
}

// State is where a run stands.
type State string

// The states of a run.
const (
	Queued    State = "queued"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Info is what is known of a run.
type Info struct {
	ID       string
	State    State
	Created  time.Time
	Started  time.Time // zero while queued
	Ended    time.Time // zero until it ended
	Input    json.RawMessage
	Output   json.RawMessage // nil until it succeeded
	Err      string
	Steps    []StepInfo // nil from List
	Tasks    []TaskInfo // in the order in which they were asked for; nil from List
	Progress string     // newest line of the step at work, in this process
	Attempts int        // times it was taken up

	taskFlow map[string]string // task → the workflow that is it: a rerun shares those it kept
}

// StepInfo is one recorded step.
type StepInfo struct {
	Name    string
	Started time.Time
	Ended   time.Time
	Output  json.RawMessage
	Err     string
	Cost    Cost // with that of its tasks: those whose names begin with the step's and a slash
}

// ErrNoRun means no run of that id is recorded.
var ErrNoRun = errors.New("no such run")

// List returns up to limit runs, newest first, without their steps.
func (e *Engine) List(limit, offset int) ([]Info, error) {
	ws, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterName(nightName), dbos.WithFilterSortDesc(), dbos.WithFilterLimit(limit),
		dbos.WithFilterOffset(offset), dbos.WithFilterLoadInput(true), dbos.WithFilterLoadOutput(true))
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	out := make([]Info, len(ws))
	for i, w := range ws {
		out[i] = e.info(w)
	}
	return out, nil
}

func (e *Engine) status(id string) (dbos.WorkflowStatus, error) {
	ws, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterWorkflowIDs(id), dbos.WithFilterName(nightName), dbos.WithFilterLoadInput(true), dbos.WithFilterLoadOutput(true))
	if err != nil {
		return dbos.WorkflowStatus{}, fmt.Errorf("read run %s: %w", id, err)
	}
	if len(ws) == 0 {
		return dbos.WorkflowStatus{}, fmt.Errorf("run %s: %w", id, ErrNoRun)
	}
	return ws[0], nil
}

// Get returns one run with its steps and tasks.
func (e *Engine) Get(id string) (Info, error) {
	w, err := e.status(id)
	if err != nil {
		return Info{}, err
	}
	info := e.info(w)
	steps, err := dbos.GetWorkflowSteps(e.ctx, id, dbos.WithStepsLoadOutput(true))
	if err != nil {
		return Info{}, fmt.Errorf("read steps of run %s: %w", id, err)
	}
	var children []string
	for _, s := range steps {
		if s.ChildWorkflowID != "" && s.StepName == taskName {
			children = append(children, s.ChildWorkflowID)
		}
		if strings.HasPrefix(s.StepName, "DBOS.") || strings.HasPrefix(s.StepName, ".") || s.StepName == taskName {
			continue
		}
		si := StepInfo{Name: s.StepName, Started: s.StartedAt, Ended: s.CompletedAt}
		si.Output, si.Cost = unseal(text(s.Output))
		if s.Error != nil {
			si.Err = s.Error.Error()
		}
		info.Steps = append(info.Steps, si)
	}
	if info.Tasks, err = e.taskInfos(children); err != nil {
		return Info{}, err
	}
	info.taskFlow = map[string]string{}
	for _, id := range children {
		_, name := taskOf(id)
		info.taskFlow[name] = id
	}
	for i, s := range info.Steps {
		for _, t := range info.Tasks {
			if under(t.Name, s.Name) { // the step only gathers what its tasks did
				info.Steps[i].Cost = info.Steps[i].Cost.Add(t.Cost)
				if !t.Started.IsZero() && t.Started.Before(info.Steps[i].Started) {
					info.Steps[i].Started = t.Started
				}
			}
		}
	}
	return info, nil
}

func (e *Engine) info(w dbos.WorkflowStatus) Info {
	i := Info{ID: w.ID, Created: w.CreatedAt, Started: w.StartedAt, Ended: w.CompletedAt, Attempts: w.Attempts, Input: text(w.Input), Output: text(w.Output)}
	i.State = stateOf(w)
	if w.Error != nil {
		i.Err = w.Error.Error()
	}
	e.mu.Lock()
	i.Progress = e.progress[w.ID]
	e.mu.Unlock()
	return i
}

func stateOf(w dbos.WorkflowStatus) State {
	switch w.Status {
	case dbos.WorkflowStatusSuccess:
		return Succeeded
	case dbos.WorkflowStatusPending:
		return Running
	case dbos.WorkflowStatusEnqueued, dbos.WorkflowStatusDelayed:
		return Queued
	case dbos.WorkflowStatusCancelled:
		return Cancelled
	}
	return Failed
}

// text undoes the two layers a recorded value may come in: the serializer's
// JSON, and the JSON document that this package keeps in a string.
func text(v any) json.RawMessage {
	s, ok := v.(string)
	if !ok || s == "" {
		return nil
	}
	var inner string
	if json.Unmarshal([]byte(s), &inner) == nil {
		s = inner
	}
	if !json.Valid([]byte(s)) {
		return nil
	}
	return json.RawMessage(s)
}

func (e *Engine) report(id, line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if line == "" {
		delete(e.progress, id)
		return
	}
	e.progress[id] = line
}

// Run is a workflow at work.
type Run struct {
	ID string
	// Deadline ends the steps and tasks that are still at work then. Zero: none.
	Deadline time.Time
	ctx      dbos.Context
	engine   *Engine
	cost     Cost
}

// Began returns when the run was asked for, the same after every restart.
func (r *Run) Began() (time.Time, error) {
	w, err := r.engine.status(r.ID)
	return w.CreatedAt, err
}

// Cost sums what the steps and tasks whose results the run has seen took.
func (r *Run) Cost() Cost { return r.cost }

// ErrPermanent marks a step's error that another try cannot mend.
var ErrPermanent = errors.New("permanent")

// maxTries bounds how often a step is tried in one taking-up of its run.
const maxTries = 3

// Step runs fn once and records its result under name; a run that is taken up
// again gets the recorded result. Errors are tried again with backoff, except
// those that wrap ErrPermanent.
func Step[T any](r *Run, name string, fn func(ctx context.Context) (T, error)) (T, error) {
	var zero T
	out, err := dbos.RunAsStep(r.ctx, func(ctx context.Context) (string, error) {
		log := r.engine.cfg.Logger.With("run", r.ID, "step", name)
		log.Info("step begins")
		ctx, sc := r.engine.enter(ctx, r.ID, r.ID, name)
		if !r.Deadline.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, r.Deadline)
			defer cancel()
		}
		v, err := fn(ctx)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w (%w)", ErrLate, err, ErrPermanent)
		}
		cost := sc.leave(err)
		if err != nil {
			log.Warn("step failed", "err", err)
			return "", err
		}
		log.Info("step done", "seconds", cost.WallSeconds)
		b, err := json.Marshal(v)
		if err != nil {
			return "", err
		}
		return seal(b, cost)
	}, dbos.WithStepName(name), dbos.WithStepMaxRetries(maxTries-1), dbos.WithStepBaseInterval(200*time.Millisecond), dbos.WithStepMaxInterval(10*time.Second),
		dbos.WithStepRetryPredicate(func(err error) bool {
			return !errors.Is(err, ErrPermanent) && !errors.Is(err, context.Canceled)
		}))
	if err != nil {
		return zero, fmt.Errorf("%s: %w", name, err)
	}
	var v T
	recorded, cost := unseal(json.RawMessage(out))
	r.cost = r.cost.Add(cost)
	if err := json.Unmarshal(recorded, &v); err != nil {
		return zero, fmt.Errorf("%s: read recorded result: %w", name, err)
	}
	return v, nil
}

// Wait blocks until a message arrives on topic or timeout passes; the second
// result is false then. A message that was received is recorded like a step.
func (r *Run) Wait(topic string, timeout time.Duration) (json.RawMessage, bool, error) {
	s, err := dbos.Recv[string](r.ctx, topic, timeout)
	if err != nil {
		if errors.Is(err, dbos.ErrTimeout) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("wait for %s: %w", topic, err)
	}
	return json.RawMessage(s), s != "", nil
}

// quiet passes only warnings and errors of the engine's own log on: its
// informational lines describe its insides.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
