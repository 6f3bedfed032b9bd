package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/twin"
)

// Runner runs actions side by side and answers each of them once.
type Runner struct {
	log  *slog.Logger
	work sync.WaitGroup

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
}

// NewRunner makes a Runner.
func NewRunner(log *slog.Logger) *Runner {
	return &Runner{log: log, running: map[uint64]context.CancelFunc{}}
}

// Start calls perform in a goroutine and answer with exactly one Done or
// Failed, unless the action is cancelled before. A panic while reading what
// came from outside is a refusal, not the end of the agent.
func (r *Runner) Start(ctx context.Context, action update.Action, answer func(update.Event), perform func(context.Context) (update.Release, error)) {
	ctx, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	r.running[action.ID] = cancel
	r.mu.Unlock()
	r.work.Go(func() {
		defer cancel()
		release, err := r.contain(ctx, action, perform)
		r.mu.Lock()
		_, wanted := r.running[action.ID]
		delete(r.running, action.ID)
		r.mu.Unlock()
		if !wanted {
			return
		}
		if err == nil {
			answer(update.Done{Action: action.ID, Release: release})
			return
		}
		f := failure(err)
		r.log.Warn("update step failed", "step", string(action.Kind), "release", action.Release.Manifest.Short(), "code", string(f.code), "error", err)
		answer(update.Failed{Action: action.ID, Code: f.code, Reason: err.Error(), Retryable: f.retry})
	})
}

func (r *Runner) contain(ctx context.Context, action update.Action, perform func(context.Context) (update.Release, error)) (release update.Release, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Refuse(twin.CodeContent, fmt.Errorf("%s panicked: %v", action.Kind, p))
			r.log.Error("panic in an update step", "step", string(action.Kind), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	return perform(ctx)
}

// Cancel stops an action; its answer no longer comes.
func (r *Runner) Cancel(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cancel := r.running[id]; cancel != nil {
		cancel()
		delete(r.running, id)
	}
}

// Wanted says whether an action is still to have an effect.
func (r *Runner) Wanted(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[id] != nil
}

// Wait returns when no action runs any more; call it after their context ended.
func (r *Runner) Wait() { r.work.Wait() }

// refusal is an error with what the update machine wants to know of it.
type refusal struct {
	code  twin.Code
	retry bool
	err   error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Refuse marks an error as final, for the update machine: the same bytes will
// be refused again.
func Refuse(code twin.Code, err error) error { return &refusal{code: code, err: err} }

// Retry marks an error that may go away by itself.
func Retry(code twin.Code, err error) error { return &refusal{code: code, retry: true, err: err} }

func failure(err error) *refusal {
	r := &refusal{}
	switch {
	case errors.As(err, &r):
	case errors.Is(err, disk.ErrFull):
		r = &refusal{code: twin.CodeDisk, retry: true, err: err}
	default:
		// Whatever else goes wrong here is the disk.
		r = &refusal{code: twin.CodeDisk, retry: true, err: err}
	}
	if errors.Is(err, disk.ErrFull) {
		r.code, r.retry = twin.CodeDisk, true
	}
	return r
}
