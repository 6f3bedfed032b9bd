package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

// Cost is what a step or task took. Work inside the hub's own process is
// measured over the whole process; what a runner does in a process of its own
// is exact.
type Cost struct {
	CPUSeconds  float64 `json:"cpu_s"`
	WallSeconds float64 `json:"wall_s"`
	PeakMiB     float64 `json:"peak_mib"` // resident memory
}

// Add sums times and keeps the larger peak.
func (c Cost) Add(o Cost) Cost {
	return Cost{c.CPUSeconds + o.CPUSeconds, c.WallSeconds + o.WallSeconds, max(c.PeakMiB, o.PeakMiB)}
}

// record is how a result is kept: beside the output what it cost.
type record struct {
	Sealed   int             `json:"swell_record"` // 1; tells a record from an output of older versions
	Output   json.RawMessage `json:"output,omitempty"`
	Cost     Cost            `json:"cost"`
	Err      string          `json:"err,omitempty"`  // tasks alone
	Late     bool            `json:"late,omitempty"` // the run's deadline ended it
	Executor string          `json:"executor,omitempty"`
}

func seal(output json.RawMessage, c Cost) (string, error) {
	b, err := json.Marshal(record{Sealed: 1, Output: output, Cost: c})
	return string(b), err
}

func unseal(b json.RawMessage) (json.RawMessage, Cost) {
	var r record
	if json.Unmarshal(b, &r) == nil && r.Sealed == 1 {
		return r.Output, r.Cost
	}
	return b, Cost{}
}

// scope is a step or task at work in this process.
type scope struct {
	engine *Engine
	flow   string // the workflow it belongs to
	run    string
	step   string
	ctx    dbos.Context // of the step; what its log is written through
	cancel context.CancelFunc
	began  time.Time
	cpu    float64

	mu    sync.Mutex
	lines int   // logged so far; guarded by mu
	spent *Cost // what a runner measured; nil: measured here; guarded by mu
}

type scopeKey struct{}

// enter begins a step of a workflow: its context ends when the run is
// cancelled, and carries the log.
func (e *Engine) enter(ctx context.Context, flow, run, step string) (context.Context, *scope) {
	sc := &scope{engine: e, flow: flow, run: run, step: step, began: time.Now(), cpu: cpuSeconds()}
	sc.ctx, _ = ctx.(dbos.Context)
	ctx, sc.cancel = context.WithCancel(ctx)
	e.mu.Lock()
	if len(e.active) == 0 {
		resetPeak()
	}
	e.active[flow] = sc.cancel
	e.mu.Unlock()
	return context.WithValue(ctx, scopeKey{}, sc), sc
}

func (sc *scope) leave(err error) Cost {
	if err != nil {
		sc.log("failed: " + err.Error())
	}
	sc.cancel()
	sc.engine.mu.Lock()
	delete(sc.engine.active, sc.flow)
	sc.engine.mu.Unlock()
	c := Cost{CPUSeconds: cpuSeconds() - sc.cpu, PeakMiB: peakMiB()}
	sc.mu.Lock()
	if sc.spent != nil {
		c = *sc.spent
	}
	sc.mu.Unlock()
	c.WallSeconds = time.Since(sc.began).Seconds()
	return c
}

const (
	maxLines    = 200  // of a step's log; later ones are dropped and the last one says so
	maxLineSize = 2000 // bytes
)

func (sc *scope) log(line string) {
	if sc.ctx == nil {
		return
	}
	sc.mu.Lock()
	sc.lines++
	n := sc.lines
	sc.mu.Unlock()
	switch {
	case n > maxLines:
		return
	case n == maxLines:
		line = fmt.Sprintf("the log of a step holds %d lines: what follows is left out", maxLines)
	}
	line = strings.ToValidUTF8(line[:min(len(line), maxLineSize)], "")
	if err := dbos.WriteStream(sc.ctx, sc.step, time.Now().UTC().Format(logTime)+" "+line); err != nil {
		sc.engine.cfg.Logger.Warn("cannot keep a line of a step's log", "run", sc.run, "step", sc.step, "err", err)
	}
}

// Progress tells people what the step or task of ctx is at: as the run's
// newest line, and in the step's log. Outside a step it does nothing.
func Progress(ctx context.Context, format string, args ...any) {
	if sc, ok := ctx.Value(scopeKey{}).(*scope); ok {
		line := fmt.Sprintf(format, args...)
		sc.engine.report(sc.run, line)
		sc.log(line)
	}
}

// Spent says what the step or task of ctx cost, measured by the runner that did
// the work. Called more than once the costs add up.
func Spent(ctx context.Context, c Cost) {
	if sc, ok := ctx.Value(scopeKey{}).(*scope); ok {
		sc.mu.Lock()
		defer sc.mu.Unlock()
		if sc.spent != nil {
			c = sc.spent.Add(c)
		}
		sc.spent = &c
	}
}

// LogLine is what a step or task said while it was at work.
type LogLine struct {
	At   time.Time
	Step string
	Text string
}

// Log returns the lines that a step or task of a run has written so far, also
// in another process. A step that said nothing has none.
func (e *Engine) Log(run Info, step string) ([]LogLine, error) {
	flow := run.ID
	if slices.ContainsFunc(run.Tasks, func(t TaskInfo) bool { return t.Name == step }) {
		flow = run.taskFlow[step]
	}
	lines, _, err := dbos.ReadStream[string](e.ctx, flow, step, dbos.WithReadStreamSnapshot())
	if err != nil {
		return nil, fmt.Errorf("read log of %s of run %s: %w", step, run.ID, err)
	}
	out := make([]LogLine, 0, len(lines))
	for _, l := range lines {
		stamp, text, _ := strings.Cut(l, " ")
		at, _ := time.Parse(logTime, stamp)
		out = append(out, LogLine{At: at, Step: step, Text: text})
	}
	return out, nil
}

const logTime = "2006-01-02T15:04:05.000Z07:00"

// cpuSeconds is what this process and its ended children have used.
func cpuSeconds() (s float64) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			s += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return s
}

// resetPeak lets the kernel forget the largest size this process has had
// (proc(5), clear_refs). Where that is not allowed, peaks are of the whole
// life of the process.
func resetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

func peakMiB() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	return 0
}
