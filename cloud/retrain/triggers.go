package retrain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/protocol/artifact"
)

// ErrBackfill means that a request for a backfill cannot be met as it is.
var ErrBackfill = errors.New("cannot backfill")

// maxBackfill bounds how many nights one request may start.
const maxBackfill = 366

// aheadAllowed is how far a caller's clock may be ahead of the hub's: what lies
// after the hub's now is left out.
const aheadAllowed = 24 * time.Hour

// Backfill starts the nights that a policy's schedule had in [from, to), each
// on the data up to its time, and returns the ids of those that it started,
// oldest first. A night that was run already is left as it is. The policy needs
// a schedule. A dry one starts nothing and returns what it would start.
func (s *Service) Backfill(ctx context.Context, policy string, from, to time.Time, by, reason string, dry bool) ([]string, error) {
	p, err := s.cfg.Policies.RetrainPolicy(ctx, policy)
	if err != nil {
		return nil, err
	}
	if p.Schedule.Cron == "" {
		return nil, fmt.Errorf("%w: policy %s has no schedule that could have missed anything: start it by hand", ErrBackfill, policy)
	}
	if now := s.cfg.Now(); to.After(now) && to.Before(now.Add(aheadAllowed)) {
		to = now
	}
	if !from.Before(to) || to.After(s.cfg.Now()) {
		return nil, fmt.Errorf("%w: %s from %s to %s: want an interval of the past", ErrBackfill, policy, from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	times, err := p.Schedule.Between(from, to, maxBackfill+1)
	if err != nil {
		return nil, err
	}
	if len(times) > maxBackfill {
		return nil, fmt.Errorf("%w: %s had more than %d nights then: ask for a shorter interval", ErrBackfill, policy, maxBackfill)
	}
	var ids []string
	for _, at := range times {
		id := runID(policy, at)
		if _, err := s.Run(id); err == nil {
			continue
		} else if !errors.Is(err, engine.ErrNoRun) {
			return ids, err
		}
		if !dry {
			if err := s.start(id, Order{Policy: p, Trigger: ByBackfill, By: by, Reason: reason, At: at.UTC()}); err != nil {
				return ids, err
			}
		}
		ids = append(ids, id)
	}
	return ids, nil
}

const (
	tidyEvery  = 10 * time.Minute
	driftEvery = time.Hour      // between two looks at live drift
	driftSpan  = time.Hour      // of data that is compared
	driftPause = 12 * time.Hour // after any run of the policy: a drift that a night refused to learn is tried twice a day
)

// housekeeping looks for drift and removes old runs until ctx ends.
func (s *Service) housekeeping(ctx context.Context) {
	var looked time.Time
	every := s.cfg.LookEvery
	if every == 0 {
		every = driftEvery
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(tidyEvery, every)):
		}
		if err := s.retain(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("cannot remove old training runs", "err", err)
		}
		if now := s.cfg.Now(); now.Sub(looked) >= every {
			looked = now
			if err := s.lookForDrift(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn("cannot look for drift", "err", err)
			}
		}
	}
}

// allRuns reads every run, newest first.
func (s *Service) allRuns() ([]Run, error) {
	var out []Run
	for {
		runs, err := s.Runs(200, len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, runs...)
		if len(runs) < 200 {
			return out, nil
		}
	}
}

// retain removes ended runs that their policies, as they are now, do not keep.
func (s *Service) retain(ctx context.Context) error {
	ps, err := s.cfg.Policies.RetrainPolicies(ctx)
	if err != nil {
		return err
	}
	runs, err := s.allRuns()
	if err != nil {
		return err
	}
	for _, p := range ps {
		if p.Retention == (Retention{}) {
			continue
		}
		var old []string
		n := 0
		for _, r := range runs {
			if r.Order.Policy.Name != p.Name || r.State == engine.Queued || r.State == engine.Running {
				continue
			}
			n++
			tooMany := p.Retention.Runs > 0 && n > p.Retention.Runs
			tooOld := p.Retention.Days > 0 && s.cfg.Now().Sub(cmp.Or(r.Ended, r.Created)) > time.Duration(p.Retention.Days)*24*time.Hour
			if tooMany || tooOld {
				old = append(old, r.ID)
			}
		}
		if err := s.engine.Delete(old...); err != nil {
			return err
		}
		if len(old) > 0 {
			s.cfg.Logger.Info("removed old training runs", "policy", p.Name, "runs", len(old))
		}
	}
	return nil
}

// lookForDrift starts the runs of policies whose live data has moved away from
// what the champion learned.
func (s *Service) lookForDrift(ctx context.Context) error {
	ps, err := s.cfg.Policies.RetrainPolicies(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range ps {
		if p.DriftLimit == 0 || p.Paused {
			continue
		}
		if err := s.startOnDrift(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("policy %s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) startOnDrift(ctx context.Context, p Policy) error {
	now := s.cfg.Now().UTC()
	runs, err := s.Runs(200, 0)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(runs, func(r Run) bool {
		return r.Order.Policy.Name == p.Name && (r.State == engine.Queued || r.State == engine.Running || now.Sub(r.Order.At) < driftPause)
	}) {
		return nil
	}
	why, err := s.liveDrift(ctx, p.withDefaults(), now)
	if err != nil || why == "" {
		return err
	}
	// Hubs that share the runs look at the same time, and start one.
	id := runID(p.Name, now.Truncate(driftEvery)) + "-drift"
	s.cfg.Logger.Info("data has drifted", "policy", p.Name, "why", why, "run", id)
	return s.start(id, Order{Policy: p, Trigger: ByDrift, Reason: why, At: now})
}

// liveDrift says which class's newest data has moved away from what its
// champion, or a release that is to follow it, has learned; empty when none has,
// or when there is no champion or no data to compare.
func (s *Service) liveDrift(ctx context.Context, p Policy, now time.Time) (string, error) {
	reigning, err := s.champions(ctx, p.Family)
	if err != nil || reigning.newest.Counter == 0 {
		return "", err
	}
	o := Order{Policy: p, Trigger: ByDrift, At: now}
	o.Policy.LookbackS, o.Policy.TrainRows = min(p.LookbackS, driftSpan.Seconds()), 0
	ex, err := s.extract(ctx, o)
	if errors.Is(err, engine.ErrPermanent) {
		return "", nil // nothing was sent
	}
	if err != nil {
		return "", err
	}
	snap, err := s.snapshot(ctx, ex.Snapshot)
	if err != nil {
		return "", err
	}
	// Nobody learns from it: a run that starts now makes its own.
	if err := s.cfg.Objects.Delete(ctx, snapshotKey(ex.Snapshot)); err != nil {
		return "", err
	}
	for i := 0; i < len(snap.Devices); {
		class := snap.Devices[i].Class
		var tables []table
		for ; i < len(snap.Devices) && snap.Devices[i].Class == class; i++ {
			t, err := s.load(ctx, snap, snap.Devices[i])
			if errors.Is(err, ErrDamaged) {
				continue // the night says so when it runs
			}
			if err != nil {
				return "", err
			}
			if len(t.rows) >= minDeviceRows {
				tables = append(tables, t)
			}
		}
		v, m, _, err := reigning.of(ctx, class)
		if err != nil {
			return "", err
		}
		if newer, ok, err := s.onItsWay(ctx, p.Family, class, v.Counter); err != nil {
			return "", err
		} else if ok {
			m = newer
		}
		why, err := classDrift(class, tables, p, m)
		if err != nil || why != "" {
			return why, err
		}
	}
	return "", nil
}

// onItsWay returns the class's model of a release that is newer than its
// champion and that nobody has stopped: a drift that it learned is answered.
func (s *Service) onItsWay(ctx context.Context, family string, class artifact.Class, champion uint64) (registry.Model, bool, error) {
	const most = 10 // releases that can be on their way
	vs, err := s.cfg.Registry.Versions(ctx, family, 0, most)
	if err != nil {
		return registry.Model{}, false, fmt.Errorf("list versions of %s: %w", family, err)
	}
	for _, v := range vs {
		if m, ok := v.ModelFor(class); ok && v.Counter > champion && v.Stage == registry.Released {
			return m, true, nil
		}
	}
	return registry.Model{}, false, nil
}

// classDrift says how far one class has moved from its champion's data when
// that is over the policy's limit. Data that the gates would refuse says
// nothing here: the night says so when it runs.
func classDrift(class artifact.Class, tables []table, p Policy, m registry.Model) (string, error) {
	before, err := profileOf(m)
	if before == nil || err != nil {
		return "", err
	}
	in, refusal := inspect(class, tables, p, before)
	if refusal != "" {
		return "", nil
	}
	c, refusal := classData(class, in.tables, p)
	if refusal != "" || in.schema(c) != "" {
		return "", nil
	}
	in.policy.Gates.MaxPSI, in.policy.Gates.MaxTwoSample = p.DriftLimit, 0
	return in.drift(&c, 0), nil
}
