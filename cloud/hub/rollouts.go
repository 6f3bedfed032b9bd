package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/garden"
	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// planner ties the dispatcher to releases, policies and the stream.
type planner struct {
	h *Hub
	*dispatch.Dispatcher
}

func (h *Hub) openRollouts(_, background context.Context) error {
	d, err := dispatch.New(dispatch.Config{
		Holder: h.cfg.Name, Store: watched{h.db.Dispatch(), h}, Fleet: planFleet{h.fleet}, Publisher: publisher{h}, Ledger: planLedger{h}, Log: h.log, Now: h.cfg.Now,
		MinGap: duration(h.cfg.Rollouts.MinGapS), Poll: duration(h.cfg.Rollouts.PollS),
	})
	if err != nil {
		return err
	}
	h.plan = &planner{h, d}
	return nil
}

// startRollouts begins to decide, once the broker can publish.
func (h *Hub) startRollouts(ctx, background context.Context) error {
	if !h.cfg.has(RoleDispatch) {
		return nil
	}
	h.worker("rollouts", background, h.plan.Run)
	return h.settle(ctx)
}

// deviceChanged looks at the rollouts again.
func (p *planner) deviceChanged(topic.ID) { p.Wake() }

// Load implements api.Rollouts.
func (p *planner) Load(ctx context.Context, name string) (dispatch.View, error) {
	return p.View(ctx, name)
}

// Decisions implements api.Rollouts.
func (p *planner) Decisions(ctx context.Context, name string, before uint64, limit int) ([]dispatch.Stored, error) {
	return p.Why(ctx, name, before, limit)
}

// Desired implements api.Rollouts.
func (p *planner) Desired(ctx context.Context, id topic.ID) (twin.Desired, bool, error) {
	return p.h.db.Dispatch().Desired(ctx, id)
}

// proposal finds what a person's proposal names.
func (p *planner) proposal(ctx context.Context, q api.Proposal) (prop dispatch.Proposal, err error) {
	pol := q.Inline
	if pol == nil {
		o, err := p.h.db.Object(ctx, api.RolloutPolicyKind, q.Policy)
		if err != nil {
			return prop, err
		}
		stored, err := api.ReadRolloutPolicy(o)
		if err != nil {
			return prop, err
		}
		pol = &stored
	}
	rel, err := p.Find(ctx, q.Release)
	if err != nil {
		return prop, err
	}
	all, err := p.Rollouts(ctx)
	if err != nil {
		return prop, err
	}
	reason := q.Reason
	if reason == "" {
		reason = "started by " + q.Author
	}
	return dispatch.Proposal{Name: freeName(q.Release, all), Fleet: pol.Selector, Release: rel, Policy: pol.Policy, Author: q.Author, Reason: reason, Seed: pol.Seed}, nil
}

// Find implements api.Rollouts.
func (p *planner) Find(ctx context.Context, id string) (rollout.Release, error) {
	rel, err := p.release(ctx, id)
	if err != nil {
		return rollout.Release{}, err
	}
	if v, err := p.h.db.Registry().Version(ctx, rel.Manifest.Name, rel.Manifest.Counter); err == nil && v.Stage == registry.Collected {
		return rollout.Release{}, fmt.Errorf("%w: the files of %s were removed: %s", store.ErrInvalid, id, v.Reason)
	}
	return rollout.FromManifest(rel.Manifest, rel.Digest), nil
}

// Preview implements api.Rollouts.
func (p *planner) Preview(ctx context.Context, q api.Proposal) (rollout.Rollout, rollout.Preview, error) {
	prop, err := p.proposal(ctx, q)
	if err != nil {
		return rollout.Rollout{}, rollout.Preview{}, err
	}
	r, out, err := p.Dispatcher.Preview(ctx, prop)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	return r, out, err
}

// Propose implements api.Rollouts.
func (p *planner) Propose(ctx context.Context, q api.Proposal) (dispatch.View, error) {
	prop, err := p.proposal(ctx, q)
	if err != nil {
		return dispatch.View{}, err
	}
	v, err := p.Dispatcher.Propose(ctx, prop, q.DryRun)
	if err != nil && !errors.Is(err, dispatch.ErrExists) && !errors.Is(err, dispatch.ErrConflict) && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	return v, err
}

// freeName is the release's own name, or with a number when it was rolled out
// before.
func freeName(release string, all []rollout.Rollout) string {
	taken := map[string]bool{}
	for _, r := range all {
		taken[r.Name] = true
	}
	name := release
	for i := 2; taken[name]; i++ {
		name = release + "." + strconv.Itoa(i)
	}
	return name
}

// release finds a release by its name for people.
func (p *planner) release(ctx context.Context, id string) (release.Release, error) {
	i := strings.LastIndexByte(id, '-')
	if i > 0 {
		if counter, err := strconv.ParseUint(id[i+1:], 10, 64); err == nil {
			list, err := p.h.db.Releases().ListReleases(ctx, id[:i])
			if err != nil {
				return release.Release{}, err
			}
			for _, r := range list {
				if r.Manifest.Counter == counter {
					return r, nil
				}
			}
		}
	}
	return release.Release{}, fmt.Errorf("release %s: %w: name one as FAMILY-COUNTER, such as pump-anomaly-7", id, store.ErrNotFound)
}

// planFleet shows the fleet to the planner.
type planFleet struct{ fleet *fleet.Registry }

// Devices implements dispatch.Fleet.
func (f planFleet) Devices(context.Context) ([]rollout.Device, error) {
	var out []rollout.Device
	for d := range f.fleet.All {
		if !d.Retired() {
			out = append(out, d.Facts())
		}
	}
	return out, nil
}

// Since implements dispatch.Fleet.
func (f planFleet) Since(_ context.Context, mark uint64) (changed []rollout.Device, gone []topic.ID, next uint64, ok bool, err error) {
	devices, next, ok := f.fleet.Since(mark)
	for _, d := range devices {
		if d.Retired() {
			gone = append(gone, d.ID)
		} else {
			changed = append(changed, d.Facts())
		}
	}
	return changed, gone, next, ok, nil
}

// planLedger writes the planner's events.
type planLedger struct{ h *Hub }

// Append implements dispatch.Ledger.
func (l planLedger) Append(ctx context.Context, e dispatch.Event) error {
	ev := ledger.Event{Time: e.At, Actor: e.Actor, Action: e.Action, Object: e.Object, Reason: e.Reason}
	if e.Detail != nil {
		b, err := json.Marshal(e.Detail)
		if err != nil {
			return err
		}
		if len(b) > 0 && b[0] != '{' {
			b = append(append([]byte(`{"detail":`), b...), '}')
		}
		if len(b) <= ledger.MaxDetailBytes && string(b) != `{"detail":null}` {
			ev.Detail = b
		}
	}
	if len(ev.Reason) > ledger.MaxFieldBytes {
		ev.Reason = clip(ev.Reason, ledger.MaxFieldBytes)
	}
	if _, err := l.h.ledger.Append(ctx, ev); err != nil {
		return err
	}
	l.h.stream.Publish(api.Change{Kind: "AuditEvent"})
	return nil
}

// watched tells the stream and the registry what was decided.
type watched struct {
	dispatch.Store
	h *Hub
}

// Commit implements dispatch.Store.
func (w watched) Commit(ctx context.Context, c dispatch.Commit) (uint64, error) {
	id, err := w.Store.Commit(ctx, c)
	if err != nil {
		return id, err
	}
	r := c.Rollout
	w.h.stream.Publish(api.Change{Kind: "Rollout", Name: r.Name, State: string(r.State)})
	for dev := range c.Records {
		w.h.stream.Publish(api.Change{Kind: "RolloutDevice", Name: dev.String(), Parent: r.Name})
	}
	w.h.stream.Publish(api.Change{Kind: "Overview"})
	turned := c.Decision != nil && c.Decision.Before != r.State
	if err := w.h.stage(ctx, r, turned); err != nil {
		w.h.log.Error("cannot note how a rollout stands with its model", "rollout", r.Name, "error", err)
	}
	return id, nil
}

// settle notes what a hub that died after its last commit could not.
func (h *Hub) settle(ctx context.Context) error {
	all, err := h.db.Dispatch().Rollouts(ctx)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(all) { // the oldest first
		if err := h.stage(ctx, r, false); err != nil {
			return fmt.Errorf("note how rollout %s ended with its model: %w", r.Name, err)
		}
	}
	return nil
}

// stage moves the model's stage on with its rollout; turned says that the
// rollout has just come into its state. Doing it twice changes nothing.
func (h *Hub) stage(ctx context.Context, r rollout.Rollout, turned bool) error {
	if r.Release.Kind != artifact.Model || !r.State.Final() && r.State != rollout.RollingBack {
		return nil
	}
	models := h.db.Registry()
	v, err := models.Version(ctx, r.Release.Name, r.Release.Counter)
	if errors.Is(err, registry.ErrNoVersion) {
		return nil // an imported release
	}
	if err != nil {
		return err
	}
	// A rollout that has passed all its waves was promoted; one that goes back
	// from there is undone.
	passed := r.Wave >= len(r.Policy.Waves)
	switch {
	case r.State == rollout.Promoted && (v.Stage == registry.Released || turned && v.Stage != registry.Promoted):
		err = registry.Promote(ctx, models, r.Release.Name, r.Release.Counter, "rollout "+r.Name+" ended well")
	case r.State != rollout.Promoted && turned && passed && v.Stage == registry.Promoted:
		err = h.demote(ctx, r)
	case (r.State == rollout.Failed || r.State == rollout.Aborted) && v.Stage == registry.Released:
		err = models.SetStage(ctx, r.Release.Name, r.Release.Counter, registry.RolledBack, r.Reason)
	default:
		return nil
	}
	if err == nil {
		h.stream.Publish(api.Change{Kind: "Model", Name: r.Release.Name})
	}
	return err
}

// demote takes back that a model was promoted: the one before it is the
// champion again.
func (h *Hub) demote(ctx context.Context, r rollout.Rollout) error {
	models := h.db.Registry()
	if err := models.SetStage(ctx, r.Release.Name, r.Release.Counter, registry.RolledBack, r.Reason); err != nil {
		return err
	}
	if r.Previous == nil {
		return nil
	}
	before, err := models.Version(ctx, r.Previous.Name, r.Previous.Counter)
	if errors.Is(err, registry.ErrNoVersion) || err == nil && before.Stage != registry.Superseded {
		return nil
	}
	if err != nil {
		return err
	}
	return registry.Promote(ctx, models, before.Family, before.Counter, fmt.Sprintf("rollout %s of %s-%d was taken back", r.Name, r.Release.Name, r.Release.Counter))
}

// proposer lets a night ask for a rollout.
type proposer struct{ h *Hub }

// Propose implements retrain.Proposer.
func (p proposer) Propose(ctx context.Context, family string, r retrain.Released, policy, reason string) (string, error) {
	id := fmt.Sprintf("%s-%d", family, r.Counter)
	all, err := p.h.plan.Rollouts(ctx)
	if err != nil {
		return "", err
	}
	for _, ro := range all {
		if ro.Release.Manifest == r.Manifest {
			return ro.Name, nil // the run was taken up again
		}
	}
	v, err := p.h.plan.Propose(ctx, api.Proposal{Release: id, Policy: policy, Author: "hub", Reason: reason})
	return v.Rollout.Name, err
}

// trainingVersion names the pipeline: a run is only taken up again by the
// version that began it.
func (c Config) trainingVersion() string { return c.Version + "/" + c.Commit }

func (h *Hub) openTraining(ctx, background context.Context) error {
	if !h.cfg.has(RoleTrainer) && !h.cfg.has(RoleWorker) {
		return nil
	}
	url, err := secretFile("store.postgres_url_file", h.cfg.Store.PostgresURLFile)
	if err != nil {
		return err
	}
	conf := retrain.Config{
		Data: nightData{h.keeper, h.db.Feedback()}, Fleet: nightFleet{h.fleet}, Objects: h.objects, Registry: h.db.Registry(), Policies: policies{h.db, h.cfg.Now},
		Releaser: nightReleaser{h.builder}, Proposer: proposer{h}, Code: h.cfg.Version, Logger: h.log, Now: h.cfg.Now,
		Changed: func(run string) { h.stream.Publish(api.Change{Kind: "TrainingRun", Name: run}) },
	}
	conf.Engine.SQLitePath, conf.Engine.PostgresURL = h.cfg.dir("nights.db"), url
	conf.Engine.ExecutorID, conf.Engine.Version = h.cfg.Name, h.cfg.trainingVersion()
	conf.Engine.TasksOnly, conf.Engine.Labels = !h.cfg.has(RoleTrainer), h.cfg.Training.Labels
	conf.Fits, conf.Runner, conf.Trainers = h.cfg.Training.Fits, runner.Process{}, h.cfg.Training.trainers()
	conf.LookEvery = duration(h.cfg.Training.DriftLookS)
	nights, err := retrain.Open(ctx, conf)
	if err != nil {
		return err
	}
	if conf.Engine.TasksOnly {
		h.onStop("training", func(context.Context) error { nights.Close(); return nil })
		return nil
	}
	h.train = &training{nights: nights, policies: conf.Policies}
	h.garden = garden.New(garden.Config{Registry: h.db.Registry(), Objects: h.objects, Now: h.cfg.Now, Private: h.cfg.Training.GardenPrivate})
	h.onStop("training", func(limit context.Context) error {
		done := make(chan struct{})
		go func() { defer close(done); nights.Close() }() // bounded by limit: a night can be in the middle of a fit
		select {
		case <-done:
			return nil
		case <-limit.Done():
			return fmt.Errorf("a night is still at work after %s", closeTimeout.Round(time.Second))
		}
	})
	h.worker("lineage", background, h.trace)
	return h.plant(ctx)
}
