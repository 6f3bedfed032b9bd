package retrain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/retrain/engine"
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

// train fits one kind of detector to each class. Equal inputs (snapshot,
// class, kind, configuration, code) are fitted once, ever.
func (s *Service) train(ctx context.Context, r *engine.Run, o Order, ex Extracted, va Validated, kind string) (Trained, error) {
	snap, err := s.snapshot(ctx, ex.Snapshot)
	if err != nil {
		return Trained{}, err
	}
	out := Trained{Kind: kind}
	for i, c := range va.Classes {
		r.Progress("%s: class %s (%d of %d)", kind, c.Class, i+1, len(va.Classes))
		cand, err := s.fit(ctx, o, snap, ex.Snapshot, c, kind)
		if errors.Is(err, zoo.ErrData) {
			out.Failed = append(out.Failed, fmt.Sprintf("class %s: %v", c.Class, err))
			continue
		}
		if err != nil {
			return Trained{}, err
		}
		out.Candidates = append(out.Candidates, cand)
	}
	return out, nil
}

func (s *Service) fit(ctx context.Context, o Order, snap Snapshot, snapDigest artifact.Digest, c ClassData, kind string) (Candidate, error) {
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
	if b, err := s.get(ctx, cacheKey); err == nil {
		var cand Candidate
		if json.Unmarshal(b, &cand) == nil {
			if _, err := s.getModel(ctx, cand.Digest); err == nil {
				cand.Cached = true
				return cand, nil
			}
		}
	} else if !errors.Is(err, objects.ErrNotFound) {
		return Candidate{}, err
	}
	ds, err := s.dataset(ctx, snap, c, 0, false)
	if err != nil {
		return Candidate{}, err
	}
	f, err := zoo.Fit(ctx, kind, ds, cfg)
	if err != nil {
		return Candidate{}, fmt.Errorf("fit %s for class %s: %w", kind, c.Class, err)
	}
	d, err := s.putModel(ctx, f.ONNX)
	if err != nil {
		return Candidate{}, err
	}
	cand := Candidate{Class: c.Class, Kind: kind, Digest: d, Bytes: int64(len(f.ONNX)), Threshold: f.Threshold, Window: f.Contract.Window, Seconds: f.TrainSeconds, Card: f.Card}
	b, err := json.Marshal(cand)
	if err != nil {
		return Candidate{}, err
	}
	return cand, s.put(ctx, cacheKey, b)
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
