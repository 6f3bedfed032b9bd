package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/twin"
)

// updater is the shell round the update machine: it feeds events in, saves the
// journal, starts actions and hands on what is to be reported, in the order the
// machine wants.
type updater struct {
	machine *update.Machine
	applier interface {
		Do(ctx context.Context, action update.Action, answer func(update.Event))
		Wait()
	}
	close   func() // frees what the applier holds, after run
	observe func() update.Event
	settled func(update.Status) bool // the champion of the last run acts, or none is to
	follow  func(update.Status)      // hears of every status that is saved; may be nil
	journal string                   // name on the disk
	disk    disk.FS
	now     func() time.Time
	log     *slog.Logger
	events  chan update.Event
	report  func()        // asks for a report
	alive   func()        // says that the loop turns
	resumed chan struct{} // closed when settled

	mu      sync.Mutex
	status  update.Status
	saveErr error // nil: the journal on the disk is the machine's
}

const (
	eventQueue   = 64
	observeEvery = 200 * time.Millisecond
)

func (u *updater) offer(ctx context.Context, d twin.Desired) { u.send(ctx, update.Offered{Doc: d}) }

func (u *updater) send(ctx context.Context, e update.Event) {
	select {
	case u.events <- e:
	case <-ctx.Done():
	}
}

// read returns the machine's status as of the newest step that is saved: nobody
// is told what a power cut would take back. It also returns why the journal
// could not be saved.
func (u *updater) read() (update.Status, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status, u.saveErr
}

// run drives the machine until ctx ends.
func (u *updater) run(ctx context.Context) {
	began := time.Now()
	step := func(e update.Event) {
		u.machine.Step(update.Moment{Wall: u.now(), Mono: time.Since(began), Draw: rand.Float64()}, e)
	}
	observe := time.NewTicker(observeEvery)
	defer observe.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	u.publish()
	step(update.Booted{})
	starting := true
	for {
		wake := u.advance(ctx)
		status, saveErr := u.read()
		if starting && u.settled(status) {
			starting = false
			close(u.resumed)
			u.report()
		}
		if u.follow != nil && saveErr == nil {
			u.follow(status)
		}
		if wake > 0 {
			timer.Reset(max(wake-time.Since(began), time.Millisecond))
		}
		u.alive()
		select {
		case <-ctx.Done():
			if asked(context.Cause(ctx)) {
				step(update.Stopping{})
				u.advance(ctx)
			}
			u.applier.Wait()
			return
		case e := <-u.events:
			step(e)
		case <-timer.C:
			step(update.Tick{})
		case <-observe.C:
			step(u.observe())
		}
	}
}

// advance performs what the machine asks for and returns when to tick, in
// running time; 0: never.
func (u *updater) advance(ctx context.Context) time.Duration {
	for {
		r := u.machine.Ready()
		if r.Save != nil {
			if err := saveJSON(u.disk, u.journal, r.Save); err != nil {
				// Nothing may be done or told that the journal does not know
				// of. The next observation comes soon and tries again.
				u.mu.Lock()
				u.saveErr = fmt.Errorf("save the update journal: %w", err)
				u.mu.Unlock()
				u.report()
				return 0
			}
		}
		u.publish()
		if r.Save == nil && len(r.Do) == 0 && !r.Report {
			return r.Wake
		}
		u.machine.Advance()
		for _, a := range r.Do {
			u.log.Debug("update step", "step", string(a.Kind), "release", a.Release.Manifest.Short())
			u.applier.Do(ctx, a, func(e update.Event) { u.send(ctx, e) })
		}
		if r.Report {
			u.report()
		}
	}
}

// publish takes the machine's status, which is saved, for the one to be told.
func (u *updater) publish() {
	s := u.machine.Status()
	u.mu.Lock()
	defer u.mu.Unlock()
	if t, was := s.Trial, u.status.Trial; t != nil && (was == nil || was.Phase != t.Phase || was.Manifest != t.Manifest) {
		u.log.Info("update", "release", fmt.Sprintf("%s-%d", t.Name, t.Counter), "phase", string(t.Phase), "code", string(t.Code), "reason", t.Reason)
	}
	u.status, u.saveErr = s, nil
}

// settled says whether the champion the journal names acts on p by now, or
// cannot.
func settled(p *pipeline.Pipeline) func(update.Status) bool {
	return func(s update.Status) bool {
		if s.Champion == nil {
			return true
		}
		if _, ok := p.Acting(); ok {
			return true
		}
		// Rows are recorded even if no model can be run.
		return slices.ContainsFunc(s.Conditions, func(c twin.Condition) bool { return c.Type == "NoModel" })
	}
}

func observed(w pipeline.Watch) update.Observed {
	return update.Observed{
		Champion: w.Release.Manifest, Due: w.Due, Windows: w.Windows, Flagged: w.Flagged, NonFinite: w.NonFinite,
		LatencyP99Ms: w.LatencyP99Ms, Shadow: w.Shadow,
	}
}
