// Package apply performs what the update machine asks for, one file a step:
// fetch, verify, guard, load, test, shadow, swap, roll back.
//
// The parties are agent/update, which decides and gets exactly one answer per
// action; the hub's release server, which is not trusted; the disk, whose slots
// hold releases under the digest of their manifest; the scorer and the
// pipeline, which run models. What it promises: a slot appears under its name
// only after signature and every digest held, and its bytes are hashed again
// each time they are loaded; nothing is loaded whose digest differs; every
// download has a byte budget and a stall limit; an action that was cancelled
// changes nothing afterwards.
//
// # Slots
//
// slots/{64 hex digits}/ holds manifest.json, model.sig and the files of this
// device's variant. slots/{hex}.part/ is the same under construction.
package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// Config says what an Applier works with. All fields are required unless noted.
type Config struct {
	Disk     disk.FS
	Roots    trust.Roots
	Class    artifact.Class
	Arch     string // GOARCH
	Scorer   *scorer.Scorer
	Pipeline *pipeline.Pipeline
	Runtime  runtime.Options
	Log      *slog.Logger

	// Base is the address of the release server, without a slash at its end;
	// Client carries the device's certificate.
	Base   string
	Client *http.Client
	// ByteBudget caps what one release may download in a run of the agent,
	// retries included.
	ByteBudget int64
	// Stall ends a download that brings no byte for so long. 0 means 30 s.
	Stall time.Duration
	// MemoryReserve is what must stay available to the system after a load, in
	// bytes.
	MemoryReserve int64
	// Interlock says why nothing may be activated now; nil function: no
	// interlock.
	Interlock func() error
	// Rehearse loads and tests the model at path in another process first, so
	// that one which crashes takes nothing with it. nil: not done.
	Rehearse func(ctx context.Context, slot string) error
	// Now is the device's clock.
	Now func() time.Time
}

// Applier performs actions. Do is called from one goroutine.
type Applier struct {
	config Config
	work   sync.WaitGroup

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
	spent   map[artifact.Digest]int64 // bytes downloaded

	acting sync.Mutex // held while the models below change
	// champion acts; standby was champion before and stays loaded until the
	// champion is confirmed; challenger is on trial. nil: none.
	champion, standby, challenger *scorer.Model
}

// New makes an Applier.
func New(c Config) *Applier {
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	return &Applier{config: c, running: map[uint64]context.CancelFunc{}, spent: map[artifact.Digest]int64{}}
}

// Do starts action. answer is called later, from another goroutine, with
// progress and with exactly one Done or Failed where the action has an answer,
// unless the action is cancelled before.
func (a *Applier) Do(ctx context.Context, action update.Action, answer func(update.Event)) {
	switch action.Kind {
	case update.ActCancel:
		a.mu.Lock()
		if cancel := a.running[action.Cancel]; cancel != nil {
			cancel()
			delete(a.running, action.Cancel)
		}
		a.mu.Unlock()
		return
	case update.ActConfirm:
		a.confirm()
		return
	case update.ActDrop:
		a.drop(action.Release.Manifest)
		return
	case update.ActClean:
		a.clean(action.Keep)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	a.mu.Lock()
	a.running[action.ID] = cancel
	a.mu.Unlock()
	a.work.Add(1)
	go func() {
		defer a.work.Done()
		defer cancel()
		release, err := a.perform(ctx, action, answer)
		a.mu.Lock()
		_, wanted := a.running[action.ID]
		delete(a.running, action.ID)
		a.mu.Unlock()
		if !wanted {
			return
		}
		if err == nil {
			answer(update.Done{Action: action.ID, Release: release})
			return
		}
		f := failure(err)
		a.config.Log.Warn("update step failed", "step", string(action.Kind), "release", action.Release.Manifest.Short(), "code", string(f.code), "error", err)
		answer(update.Failed{Action: action.ID, Code: f.code, Reason: err.Error(), Retryable: f.retry})
	}()
}

// perform runs one action. A panic while reading what came from outside is a
// refusal, not the end of the agent.
func (a *Applier) perform(ctx context.Context, action update.Action, answer func(update.Event)) (r update.Release, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = refuse(twin.CodeContent, fmt.Errorf("%s panicked: %v", action.Kind, p))
			a.config.Log.Error("panic in an update step", "step", string(action.Kind), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	want := action.Release
	switch action.Kind {
	case update.ActFetch:
		return r, a.fetch(ctx, want.Manifest, func(done, total int64) {
			answer(update.Progress{Action: action.ID, BytesDone: done, BytesTotal: total})
		})
	case update.ActVerify:
		return a.verify(want.Manifest, action.MinCounter)
	case update.ActGuard:
		return r, a.guard(ctx, want.Manifest)
	case update.ActLoad:
		return a.loadChallenger(ctx, action.ID, want.Manifest)
	case update.ActTest:
		return r, a.test(ctx, want.Manifest)
	case update.ActShadow:
		return r, a.shadow(want.Manifest, time.Duration(action.WindowS*float64(time.Second)))
	case update.ActInterlock:
		return r, a.interlock()
	case update.ActSwap:
		return r, a.swap(ctx, want.Manifest)
	case update.ActResume:
		return a.resume(ctx, want.Manifest, action.Standby)
	case update.ActRollback:
		return a.rollback(ctx, want.Manifest)
	}
	return r, refuse(twin.CodeContent, fmt.Errorf("this agent does not know the step %q", action.Kind))
}

// wanted says whether an action is still to have an effect.
func (a *Applier) wanted(id uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running[id] != nil
}

// Wait returns when no action runs any more; call it after their context ended.
func (a *Applier) Wait() { a.work.Wait() }

// Close lets go of all models. Call it after Wait.
func (a *Applier) Close() {
	a.acting.Lock()
	defer a.acting.Unlock()
	for _, m := range []**scorer.Model{&a.champion, &a.standby, &a.challenger} {
		release(m)
	}
}

// refusal is an error with what the update machine wants to know of it.
type refusal struct {
	code  twin.Code
	retry bool
	err   error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// refuse marks an error as final: the same bytes will be refused again.
func refuse(code twin.Code, err error) error { return &refusal{code: code, err: err} }

// retry marks an error that may go away by itself.
func retry(code twin.Code, err error) error { return &refusal{code: code, retry: true, err: err} }

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

// release lets go of the model in m.
func release(m **scorer.Model) {
	if *m != nil {
		(*m).Let()
		*m = nil
	}
}

// attested is a loaded model as the update machine wants to hear of it.
func attested(m *scorer.Model) update.Release {
	return update.Release{Name: m.Release.Name, Counter: m.Release.Counter, Manifest: m.Release.Manifest, Model: m.Release.Model}
}
