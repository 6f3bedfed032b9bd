// Package engine runs durable workflows: functions whose finished steps are
// recorded, so that after a crash the next process goes on where the last one
// stopped and repeats no finished step.
//
// The parties are cloud/retrain, which says what the steps of a night are, and
// DBOS Transact (github.com/dbos-inc/dbos-transact-golang), which records them
// in SQLite or PostgreSQL. Nothing of DBOS shows through, so that it can be
// replaced. A step is run at least once and recorded at most once: steps must
// be safe to repeat. Only cloud/retrain and cloud/hub import this package.
package engine

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	// Tick turns a schedule's name and time into the input of a run. nil when
	// there are no schedules.
	Tick func(schedule string, at time.Time) (runID string, input json.RawMessage, err error)
	// Concurrency is how many runs this process works on at once. 0 means 1.
	Concurrency int
	Logger      *slog.Logger
}

// Engine starts, lists and cancels runs.
type Engine struct {
	cfg   Config
	db    *sql.DB // the SQLite handle; nil with PostgreSQL
	ctx   dbos.Context
	queue dbos.Queue

	mu       sync.Mutex
	progress map[string]string // run → newest progress line of the step at work; guarded by mu
}

const queueName = "nights"

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
	e := &Engine{cfg: cfg, progress: map[string]string{}}
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
	c, err := dbos.NewContext(ctx, dc)
	if err != nil {
		e.closeDB()
		return nil, fmt.Errorf("open workflow record: %w", err)
	}
	e.ctx = c
	dbos.RegisterWorkflow(c, e.night, dbos.WithWorkflowName("night"), dbos.WithMaxRecoveryAttempts(20))
	dbos.RegisterWorkflow(c, e.tick, dbos.WithWorkflowName("tick"), dbos.WithMaxRecoveryAttempts(20))
	if err := dbos.Launch(c); err != nil {
		e.closeDB()
		return nil, fmt.Errorf("start workflow engine: %w", err)
	}
	e.queue, err = dbos.RegisterQueue(c, queueName, dbos.WithWorkerConcurrency(cfg.Concurrency),
		dbos.WithQueueBasePollingInterval(200*time.Millisecond))
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("make workflow queue: %w", err)
	}
	return e, nil
}

// Close stops taking up runs and waits briefly for the step at work; what it
// interrupts is continued by the next Open.
func (e *Engine) Close() {
	_ = dbos.Shutdown(e.ctx, 5*time.Second)
	e.closeDB()
}

func (e *Engine) closeDB() {
	if e.db != nil {
		_ = e.db.Close()
	}
}

func (e *Engine) night(ctx dbos.Context, input string) (string, error) {
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
	name, err := dbos.DecodeScheduleContext[string](in)
	if err != nil {
		return nil, err
	}
	id, input, err := e.cfg.Tick(name, in.ScheduledTime)
	if err != nil {
		return nil, err
	}
	_, err = dbos.RunWorkflow(ctx, e.night, string(input), dbos.WithWorkflowID(id), dbos.WithQueue(e.queue))
	return nil, err
}

// Start queues run id with input. A run of that id that exists already is left
// as it is: the same night is never run twice.
func (e *Engine) Start(id string, input json.RawMessage) error {
	if _, err := dbos.RunWorkflow(e.ctx, e.night, string(input), dbos.WithWorkflowID(id), dbos.WithQueue(e.queue)); err != nil {
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

// Cancel stops a run before its next step and cancels the context of the step
// at work.
func (e *Engine) Cancel(id string) error {
	if err := dbos.CancelWorkflow(e.ctx, id); err != nil {
		return fmt.Errorf("cancel run %s: %w", id, err)
	}
	return nil
}

// Fork starts a new run that keeps the results of the first `from` steps of
// run id and does the rest again. It returns the new run's id.
func (e *Engine) Fork(id string, from uint) (string, error) {
	h, err := dbos.ForkWorkflow[string](e.ctx, dbos.ForkWorkflowInput{OriginalWorkflowID: id, StartStep: from, QueueName: queueName})
	if err != nil {
		return "", fmt.Errorf("fork run %s from step %d: %w", id, from, err)
	}
	return h.GetWorkflowID(), nil
}

// Schedule is a cron rule for runs.
type Schedule struct {
	Name     string
	Cron     string // five fields, or six with seconds first
	TimeZone string // IANA name; empty is UTC
	CatchUp  bool   // run the nights that were missed while no hub was up
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

// SetSchedules makes the given rules the only ones.
func (e *Engine) SetSchedules(rules []Schedule) error {
	keep := map[string]bool{}
	specs := make([]dbos.ScheduleSpec, 0, len(rules))
	for _, s := range rules {
		if err := s.Validate(); err != nil {
			return err
		}
		keep[s.Name] = true
		specs = append(specs, dbos.ScheduleSpec{
			ScheduleName: s.Name, Schedule: sixFields(s.Cron), WorkflowName: "tick", Context: s.Name,
			AutomaticBackfill: s.CatchUp, CronTimezone: s.TimeZone,
		})
	}
	existing, err := dbos.ListSchedules(e.ctx)
	if err != nil {
		return fmt.Errorf("list schedules: %w", err)
	}
	for _, s := range existing {
		if !keep[s.ScheduleName] {
			if err := dbos.DeleteSchedule(e.ctx, s.ScheduleName); err != nil {
				return fmt.Errorf("delete schedule %s: %w", s.ScheduleName, err)
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
	Progress string     // newest line of the step at work, in this process
	Attempts int        // times it was taken up
}

// StepInfo is one recorded step.
type StepInfo struct {
	Name    string
	Started time.Time
	Ended   time.Time
	Output  json.RawMessage
	Err     string
}

// ErrNoRun means no run of that id is recorded.
var ErrNoRun = errors.New("no such run")

// List returns up to limit runs, newest first, without their steps.
func (e *Engine) List(limit, offset int) ([]Info, error) {
	ws, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterName("night"), dbos.WithFilterSortDesc(), dbos.WithFilterLimit(limit),
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

// Get returns one run with its steps.
func (e *Engine) Get(id string) (Info, error) {
	ws, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterWorkflowIDs(id), dbos.WithFilterLoadInput(true), dbos.WithFilterLoadOutput(true))
	if err != nil {
		return Info{}, fmt.Errorf("read run %s: %w", id, err)
	}
	if len(ws) == 0 {
		return Info{}, fmt.Errorf("run %s: %w", id, ErrNoRun)
	}
	info := e.info(ws[0])
	steps, err := dbos.GetWorkflowSteps(e.ctx, id, dbos.WithStepsLoadOutput(true))
	if err != nil {
		return Info{}, fmt.Errorf("read steps of run %s: %w", id, err)
	}
	for _, s := range steps {
		if strings.HasPrefix(s.StepName, "DBOS.") {
			continue
		}
		si := StepInfo{Name: s.StepName, Started: s.StartedAt, Ended: s.CompletedAt, Output: text(s.Output)}
		if s.Error != nil {
			si.Err = s.Error.Error()
		}
		info.Steps = append(info.Steps, si)
	}
	return info, nil
}

func (e *Engine) info(w dbos.WorkflowStatus) Info {
	i := Info{ID: w.ID, Created: w.CreatedAt, Started: w.StartedAt, Ended: w.CompletedAt, Attempts: w.Attempts, Input: text(w.Input), Output: text(w.Output)}
	switch w.Status {
	case dbos.WorkflowStatusSuccess:
		i.State = Succeeded
	case dbos.WorkflowStatusPending:
		i.State = Running
	case dbos.WorkflowStatusEnqueued, dbos.WorkflowStatusDelayed:
		i.State = Queued
	case dbos.WorkflowStatusCancelled:
		i.State = Cancelled
	default:
		i.State = Failed
	}
	if w.Error != nil {
		i.Err = w.Error.Error()
	}
	e.mu.Lock()
	i.Progress = e.progress[w.ID]
	e.mu.Unlock()
	return i
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
	ID     string
	ctx    dbos.Context
	engine *Engine
}

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
		r.engine.cfg.Logger.Info("step begins", "run", r.ID, "step", name)
		began := time.Now()
		v, err := fn(ctx)
		if err != nil {
			r.engine.cfg.Logger.Warn("step failed", "run", r.ID, "step", name, "err", err)
			return "", err
		}
		r.engine.cfg.Logger.Info("step done", "run", r.ID, "step", name, "seconds", time.Since(began).Seconds())
		b, err := json.Marshal(v)
		return string(b), err
	}, dbos.WithStepName(name), dbos.WithStepMaxRetries(maxTries-1), dbos.WithStepBaseInterval(200*time.Millisecond), dbos.WithStepMaxInterval(10*time.Second),
		dbos.WithStepRetryPredicate(func(err error) bool {
			return !errors.Is(err, ErrPermanent) && !errors.Is(err, context.Canceled)
		}))
	if err != nil {
		return zero, fmt.Errorf("%s: %w", name, err)
	}
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
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

// Progress sets the line that people see while a step works.
func (r *Run) Progress(format string, args ...any) {
	r.engine.report(r.ID, fmt.Sprintf(format, args...))
}

// quiet passes only warnings and errors of the engine's own log on: its
// informational lines describe its insides.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
