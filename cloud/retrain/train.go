package retrain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Trained is the result of one step train/KIND: one candidate for each class.
type Trained struct {
	Kind       string      `json:"kind"`
	Candidates []Candidate `json:"candidates"`
	Failed     []string    `json:"failed,omitempty"` // classes it could not learn, with the reason
}

// Candidate is a fitted model of one class, stored under its digest.
type Candidate struct {
	Class     artifact.Class  `json:"class"`
	Kind      string          `json:"kind"`
	Digest    artifact.Digest `json:"digest"`
	Bytes     int64           `json:"bytes"`
	Threshold float64         `json:"threshold"`
	Window    int             `json:"window"`
	Seconds   float64         `json:"seconds"` // of fitting; the first time when cached
	Cached    bool            `json:"cached"`  // taken from an earlier run with equal inputs
	Card      map[string]any  `json:"card,omitempty"`
}

// fit fits one kind of detector to one class: the body of a task. Equal inputs
// (snapshot, class, kind, configuration, code) are fitted once, ever.
func (s *Service) fit(ctx context.Context, o Order, snap Snapshot, snapDigest artifact.Digest, c ClassData, kind string) (Candidate, error) {
	if c.Images != nil {
		return s.fitImages(ctx, o, snapDigest, c, kind)
	}
	cfg := o.Policy.Fit
	cfg.DatasetDigest = string(snapDigest)
	// The key is over the content of the data, not over the interval: a night
	// that saw the same rows gets the same model.
	key, err := json.Marshal(struct {
		Code, Kind string
		Class      ClassData
		Entries    []SnapshotEntry
		Rows       int
		Config     zoo.Config
	}{s.cfg.Code, kind, withoutDrift(c), entriesOf(snap, c), snap.Rows, cfg})
	if err != nil {
		return Candidate{}, err
	}
	cacheKey := "models/cache/" + artifact.Of(key).Hex() + ".json"
	if cand, ok, err := s.cached(ctx, cacheKey); ok || err != nil {
		return cand, err
	}
	ds, err := s.dataset(ctx, snap, c, 0, false)
	if err != nil {
		return Candidate{}, err
	}
	f, err := s.fitModel(ctx, o, kind, ds, cfg)
	if err != nil {
		return Candidate{}, fmt.Errorf("fit %s for class %s: %w", kind, c.Class, err)
	}
	return s.keep(ctx, cacheKey, c.Class, f)
}

// cached returns the candidate of an earlier fit with the same inputs, if its
// model is still there.
func (s *Service) cached(ctx context.Context, key string) (Candidate, bool, error) {
	b, err := s.get(ctx, key)
	if errors.Is(err, objects.ErrNotFound) {
		return Candidate{}, false, nil
	}
	if err != nil {
		return Candidate{}, false, err
	}
	var c Candidate
	if json.Unmarshal(b, &c) != nil {
		return Candidate{}, false, nil
	}
	if _, err := s.getModel(ctx, c.Digest); err != nil {
		return Candidate{}, false, nil
	}
	c.Cached = true
	return c, true, nil
}

// keep stores a fitted model and notes under key that it need not be fitted again.
func (s *Service) keep(ctx context.Context, key string, class artifact.Class, f *zoo.Fitted) (Candidate, error) {
	d, err := s.putModel(ctx, f.ONNX)
	if err != nil {
		return Candidate{}, err
	}
	c := Candidate{Class: class, Kind: f.Kind, Digest: d, Bytes: int64(len(f.ONNX)), Threshold: f.Threshold, Window: f.Contract.Window, Seconds: f.TrainSeconds, Card: f.Card}
	b, err := json.Marshal(c)
	if err != nil {
		return Candidate{}, err
	}
	return c, s.put(ctx, key, b)
}

// kinds are those that compete for the class.
func (c ClassData) kinds(p Policy) []string {
	if c.Images != nil {
		return imageKinds(p, *c.Images)
	}
	return slices.DeleteFunc(slices.Clone(p.Kinds), func(k string) bool { return slices.Contains(zoo.ImageKinds(), k) })
}

// kinds are those of all classes, in the order of their steps.
func (v Validated) kinds(p Policy) []string {
	var out []string
	for _, c := range v.Classes {
		for _, k := range c.kinds(p) {
			if !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	return out
}

// withoutDrift drops what does not change a fit.
func withoutDrift(c ClassData) ClassData {
	c.Drift, c.Profile = nil, evaluate.Profile{}
	return c
}

func entriesOf(snap Snapshot, c ClassData) []SnapshotEntry {
	var out []SnapshotEntry
	for _, e := range snap.Devices {
		if e.Class == c.Class {
			out = append(out, e)
		}
	}
	return out
}
