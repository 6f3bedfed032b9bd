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
	"fmt"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/twin"
)

// Config says what an Applier works with. All fields are required unless noted.
type Config struct {
	StagerConfig
	Scorer   *scorer.Scorer
	Pipeline *pipeline.Pipeline
	Runtime  runtime.Options

	// MemoryReserve is what must stay available to the system after a load, in
	// bytes.
	MemoryReserve int64
	// Interlock says why nothing may be activated now; nil function: no
	// interlock.
	Interlock func(ctx context.Context) error
	// Rehearse loads and tests the model at path in another process first, so
	// that one which crashes takes nothing with it. nil: not done.
	Rehearse func(ctx context.Context, slot string) error
	// Now is the device's clock.
	Now func() time.Time
}

// Applier performs actions. Do is called from one goroutine.
type Applier struct {
	config Config
	stager *Stager
	runner *Runner

	acting sync.Mutex // held while the models below change
	// champion acts; standby was champion before and stays loaded until the
	// champion is confirmed; challenger is on trial. nil: none.
	champion, standby, challenger *scorer.Model
}

// New makes an Applier.
func New(c Config) *Applier {
	return &Applier{config: c, stager: NewStager(c.StagerConfig), runner: NewRunner(c.Log)}
}

// Do starts action. answer is called later, from another goroutine, with
// progress and with exactly one Done or Failed where the action has an answer,
// unless the action is cancelled before.
func (a *Applier) Do(ctx context.Context, action update.Action, answer func(update.Event)) {
	switch action.Kind {
	case update.ActCancel:
		a.runner.Cancel(action.Cancel)
	case update.ActConfirm:
		a.confirm()
	case update.ActDrop:
		a.drop(action.Release.Manifest)
	case update.ActClean:
		a.stager.Clean(action.Keep)
	default:
		a.runner.Start(ctx, action, answer, func(ctx context.Context) (update.Release, error) { return a.perform(ctx, action, answer) })
	}
}

// perform runs one action that has an answer.
func (a *Applier) perform(ctx context.Context, action update.Action, answer func(update.Event)) (r update.Release, err error) {
	want := action.Release
	switch action.Kind {
	case update.ActFetch:
		return r, a.stager.Fetch(ctx, want.Manifest, func(done, total int64) {
			answer(update.Progress{Action: action.ID, BytesDone: done, BytesTotal: total})
		})
	case update.ActVerify:
		return a.stager.Verify(want.Manifest, action.Held)
	case update.ActGuard:
		return r, a.guard(ctx, want.Manifest)
	case update.ActLoad:
		return a.loadChallenger(ctx, action.ID, want.Manifest)
	case update.ActTest:
		return r, a.test(ctx, want.Manifest)
	case update.ActShadow:
		return r, a.shadow(want.Manifest, time.Duration(action.WindowS*float64(time.Second)))
	case update.ActInterlock:
		return r, a.interlock(ctx)
	case update.ActSwap:
		return r, a.swap(ctx, want.Manifest)
	case update.ActResume:
		return a.resume(ctx, want.Manifest, action.Standby)
	case update.ActRollback:
		return a.rollback(ctx, want.Manifest)
	}
	return r, Refuse(twin.CodeContent, fmt.Errorf("this agent does not know the step %q", action.Kind))
}

// Wait returns when no action runs any more; call it after their context ended.
func (a *Applier) Wait() { a.runner.Wait() }

// Close lets go of all models. Call it after Wait.
func (a *Applier) Close() {
	a.acting.Lock()
	defer a.acting.Unlock()
	for _, m := range []**scorer.Model{&a.champion, &a.standby, &a.challenger} {
		release(m)
	}
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
