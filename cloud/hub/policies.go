package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/store"
)

// retrainPolicyKind is the kind under which retrain policies are stored.
const retrainPolicyKind = "RetrainPolicy"

// policies keeps retrain policies as objects, so that the API can hand out
// their versions.
type policies struct {
	db  *store.DB
	now func() time.Time
}

// SaveRetrainPolicy implements retrain.Policies.
func (p policies) SaveRetrainPolicy(ctx context.Context, pol retrain.Policy) error {
	doc, err := json.Marshal(pol)
	if err != nil {
		return err
	}
	_, err = p.db.PutObject(ctx, store.Object{Kind: retrainPolicyKind, Name: pol.Name, Doc: doc}, p.now())
	return err
}

// RetrainPolicy implements retrain.Policies.
func (p policies) RetrainPolicy(ctx context.Context, name string) (retrain.Policy, error) {
	o, err := p.db.Object(ctx, retrainPolicyKind, name)
	if errors.Is(err, store.ErrNotFound) {
		return retrain.Policy{}, fmt.Errorf("%s: %w", name, retrain.ErrNoPolicy)
	}
	if err != nil {
		return retrain.Policy{}, err
	}
	return readRetrainPolicy(o)
}

func readRetrainPolicy(o store.Object) (pol retrain.Policy, err error) {
	if err := json.Unmarshal(o.Doc, &pol); err != nil {
		return pol, fmt.Errorf("read retrain policy %s: %w", o.Name, err)
	}
	return pol, nil
}

// RetrainPolicies implements retrain.Policies.
func (p policies) RetrainPolicies(ctx context.Context) (out []retrain.Policy, err error) {
	list, err := p.db.Objects(ctx, retrainPolicyKind, "", 0)
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		pol, err := readRetrainPolicy(o)
		if err != nil {
			return nil, err
		}
		out = append(out, pol)
	}
	return out, nil
}

// policy writes a configured policy the way the trainer takes it.
func (c RetrainPolicy) policy() retrain.Policy {
	p := retrain.Policy{
		Name: c.Name, Family: c.Family, Selector: c.Selector, Schedule: engine.Schedule{Name: c.Name, Cron: c.Cron, TimeZone: c.TimeZone},
		LookbackS: c.LookbackS, Channels: c.Channels, Exclude: c.Exclude, TrainRows: c.TrainRows, MinRows: c.MinRows, Kinds: c.Kinds,
		Gates: retrain.Gates{MaxFlagShare: c.MaxFlagShare, MinDetected: c.MinDetected}, Seed: c.Seed, RolloutPolicy: c.RolloutPolicy,
		Limits:   retrain.Limits{WallS: c.WallS, MaxCostS: c.MaxCPUS, MemoryMiB: c.MemoryMiB, CPUs: c.CPUs},
		Priority: c.Priority, Queue: c.Queue, MinNewShare: c.MinNewShare, CatchUp: c.CatchUp,
		Retention: retrain.Retention{Runs: c.KeepRuns, Days: c.KeepDays}, DriftLimit: c.DriftLimit,
	}
	def(&p.Family, p.Name)
	if c.Fit != nil {
		c.Fit(&p)
	}
	return p
}

// seed stores the configured policies that do not exist yet.
func seed(ctx context.Context, db *store.DB, cfg Config) error {
	put := func(kind, name string, v any) error {
		if _, err := db.Object(ctx, kind, name); !errors.Is(err, store.ErrNotFound) {
			return err // it exists, or cannot be read
		}
		doc, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = db.PutObject(ctx, store.Object{Kind: kind, Name: name, Doc: doc}, cfg.Now())
		return err
	}
	for _, p := range cfg.Rollouts.Policies {
		if err := put(api.RolloutPolicyKind, p.Policy.Name, p); err != nil {
			return err
		}
	}
	for _, c := range cfg.Training.Policies {
		p := c.policy()
		if err := p.Validate(); err != nil {
			return fmt.Errorf("training.policies: %w", err)
		}
		if err := put(retrainPolicyKind, p.Name, p); err != nil {
			return err
		}
	}
	return nil
}
