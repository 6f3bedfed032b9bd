package apply

import (
	"context"
	"fmt"
	"time"

	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// shadow lets the challenger compute on live windows.
func (a *Applier) shadow(d artifact.Digest, every time.Duration) error {
	m, err := a.onTrial(d)
	if err != nil {
		return err
	}
	defer m.Let()
	if err := a.config.Pipeline.SetChallenger(m, every, a.config.Now()); err != nil {
		return Refuse(twin.CodeGuard, err)
	}
	return nil
}

func (a *Applier) interlock(ctx context.Context) error {
	if a.config.Interlock == nil {
		return nil
	}
	if err := a.config.Interlock(ctx); err != nil {
		return Retry("", fmt.Errorf("interlock: %w", err))
	}
	return nil
}

// swap makes the challenger act. What acted stays loaded as the standby.
func (a *Applier) swap(ctx context.Context, d artifact.Digest) error {
	a.acting.Lock()
	if a.challenger == nil || a.challenger.Release.Manifest != d {
		a.acting.Unlock()
		return Refuse(twin.CodeLoad, fmt.Errorf("release %s is not loaded", d.Short()))
	}
	if err := a.config.Pipeline.SetChampion(a.challenger); err != nil {
		a.acting.Unlock()
		return Refuse(twin.CodeGuard, err)
	}
	// The shadow ends with its purpose; without nil there is no error.
	_ = a.config.Pipeline.SetChallenger(nil, 0, a.config.Now())
	release(&a.standby)
	a.standby, a.champion, a.challenger = a.champion, a.challenger, nil
	a.acting.Unlock()
	return a.settled(ctx, d)
}

// settled waits until release d really acts: a champion that needs a longer
// window than its forerunner had takes over only when its rows are there.
func (a *Applier) settled(ctx context.Context, d artifact.Digest) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		if r, settled := a.config.Pipeline.Acting(); settled && r.Manifest == d {
			return nil
		}
		select {
		case <-ctx.Done():
			return Retry(twin.CodeLoad, fmt.Errorf("it waits for rows to fill its first window: %w", ctx.Err()))
		case <-poll.C:
		}
	}
}

// confirm frees the former champion.
func (a *Applier) confirm() {
	a.acting.Lock()
	defer a.acting.Unlock()
	release(&a.standby)
}

// drop frees the challenger of a trial that ended before it acted.
func (a *Applier) drop(d artifact.Digest) {
	a.acting.Lock()
	defer a.acting.Unlock()
	if a.challenger == nil || a.challenger.Release.Manifest != d {
		return
	}
	_ = a.config.Pipeline.SetChallenger(nil, 0, a.config.Now())
	release(&a.challenger)
}

// resume brings the champion back at the start of the agent, and the standby
// of a soak beside it. A standby that cannot be loaded is no reason to stop:
// it is loaded when it is needed, or fails then.
func (a *Applier) resume(ctx context.Context, d artifact.Digest, standby *update.Release) (update.Release, error) {
	m, err := a.load(ctx, d)
	if err != nil {
		return update.Release{}, err
	}
	if err := a.act(m); err != nil {
		return update.Release{}, err
	}
	if standby != nil {
		s, err := a.load(ctx, standby.Manifest)
		if err != nil {
			a.config.Log.Warn("the last good release cannot be loaded beside the champion", "release", standby.Manifest.Short(), "error", err)
		} else {
			a.acting.Lock()
			release(&a.standby)
			a.standby = s
			a.acting.Unlock()
		}
	}
	return attested(m), nil
}

// rollback makes release d act, from memory if it is there. The zero digest:
// nothing acts.
func (a *Applier) rollback(ctx context.Context, d artifact.Digest) (update.Release, error) {
	if d == "" {
		a.acting.Lock()
		defer a.acting.Unlock()
		if err := a.config.Pipeline.SetChampion(nil); err != nil {
			return update.Release{}, err
		}
		release(&a.champion)
		return update.Release{}, nil
	}
	m := a.resident(d)
	if m == nil {
		var err error
		if m, err = a.load(ctx, d); err != nil {
			return update.Release{}, err
		}
	}
	r := attested(m)
	if err := a.act(m); err != nil {
		return update.Release{}, err
	}
	return r, a.settled(ctx, d)
}

// resident returns a loaded model of release d with a hold of its own, or nil.
func (a *Applier) resident(d artifact.Digest) *scorer.Model {
	a.acting.Lock()
	defer a.acting.Unlock()
	for _, m := range []*scorer.Model{a.standby, a.champion} {
		if m != nil && m.Release.Manifest == d {
			return m.Hold()
		}
	}
	return nil
}

// act makes m the champion and takes over the caller's hold. Whatever else was
// loaded as champion or standby is let go of.
func (a *Applier) act(m *scorer.Model) error {
	a.acting.Lock()
	defer a.acting.Unlock()
	if err := a.config.Pipeline.SetChampion(m); err != nil {
		m.Let()
		return Refuse(twin.CodeGuard, err)
	}
	release(&a.champion)
	release(&a.standby)
	a.champion = m
	return nil
}
