package retrain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
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
	// Parent is the champion's model whose weights the fit started from, or the
	// garden's model that was adapted; empty: it started from scratch.
	Parent artifact.Digest `json:"parent,omitempty"`
}

// Warm says that the fit started from the champion's weights.
func (c Candidate) Warm() bool {
	_, _, imported := importedOf(c.Kind)
	return c.Parent != "" && !imported
}

// Name is what people call the candidate: one kind may compete twice.
func (c Candidate) Name() string {
	if c.Warm() {
		return c.Kind + " (warm-started)"
	}
	return c.Kind
}

// fit fits one kind of detector to one class: the body of a task. Equal inputs
// (snapshot, class, kind, configuration, code) are fitted once, ever.
func (s *Service) fit(ctx context.Context, o Order, snap Snapshot, snapDigest artifact.Digest, c ClassData, kind string) (Candidate, error) {
	if c.Images != nil {
		return s.fitImages(ctx, o, snapDigest, c, kind)
	}
	if name, _, imported := importedOf(kind); imported {
		v, err := s.imported(ctx, name)
		if err != nil {
			return Candidate{}, err
		}
		return s.fitFrom(ctx, o, snap, snapDigest, c, kind, v.Models[0].Digest)
	}
	return s.fitFrom(ctx, o, snap, snapDigest, c, kind, "")
}

// fitFrom is fit, starting from a parent where there is one: from the weights
// of the champion's, or from a model of the garden.
func (s *Service) fitFrom(ctx context.Context, o Order, snap Snapshot, snapDigest artifact.Digest, c ClassData, kind string, parent artifact.Digest) (_ Candidate, err error) {
	cfg := o.Policy.Fit
	cfg.ParentModel = string(parent)
	cfg.DatasetDigest = string(snapDigest)
	// The key is over the content of the data, not over the interval: a night
	// that saw the same rows gets the same model.
	key, err := json.Marshal(struct {
		Code, Kind string
		Class      ClassData
		Entries    []SnapshotEntry
		Labels     []feedback.Label
		Rows       int
		Config     zoo.Config
		Parent     string
		Trainer    []string `json:",omitempty"` // the command of an external one
	}{s.cfg.Code, kind, withoutDrift(c), entriesOf(snap, c), labelsOf(snap, c), snap.Rows, cfg, cfg.ParentModel, s.commandOf(kind)})
	if err != nil {
		return Candidate{}, err
	}
	cacheKey := "models/cache/" + artifact.Of(key).Hex() + ".json"
	if cand, ok, err := s.cached(ctx, cacheKey); ok || err != nil {
		return cand, err
	}
	if _, _, imported := importedOf(kind); imported {
		f, err := s.fitImported(ctx, o, snap, c, kind, parent, cfg)
		if err != nil {
			return Candidate{}, fmt.Errorf("adapt %s to class %s: %w", kind, c.Class, err)
		}
		return s.keep(ctx, cacheKey, c.Class, f, parent)
	}
	ds, err := s.dataset(ctx, snap, c, 0, false)
	if err != nil {
		return Candidate{}, err
	}
	state := s.keptOf(ctx, artifact.Of(key))
	defer func() { state.ended(err) }()
	cfg.Checkpoints = state.checkpoints()
	if parent != "" {
		if cfg.WarmStart, err = s.getModel(ctx, parent); err != nil {
			return Candidate{}, err
		}
	}
	f, err := s.fitModel(ctx, o, kind, ds, cfg)
	if err != nil {
		return Candidate{}, fmt.Errorf("fit %s for class %s: %w", kind, c.Class, err)
	}
	return s.keep(ctx, cacheKey, c.Class, f, parent)
}

// commandOf is what the external trainer that a kind names is run with; nil for
// kinds of the hub's own. What the program is like inside nobody knows: whoever
// changes it under the same name gets what the old one made of equal data.
func (s *Service) commandOf(kind string) []string {
	name, external := trainerOf(kind)
	if !external {
		return nil
	}
	t, err := s.trainer(name)
	if err != nil {
		return nil // the fit says so
	}
	return t.Command
}

// fitWarm fits a kind once more, from the champion's weights; nil when the
// champion's model is no parent for it: of another kind, other channels, other
// layers, or a kind that has no weights to start from.
func (s *Service) fitWarm(ctx context.Context, o Order, snap Snapshot, snapDigest artifact.Digest, c ClassData, kind string) (*Candidate, error) {
	if c.Images != nil || !slices.Contains([]string{zoo.DenseAE, zoo.ConvAE, zoo.Forecast}, kind) || o.Policy.Fit.PerDevice {
		return nil, nil
	}
	champion, err := registry.ChampionFor(ctx, s.cfg.Registry, o.Policy.Family, c.Class)
	if errors.Is(err, registry.ErrNoVersion) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, _ := champion.ModelFor(c.Class)
	if m.Kind != kind {
		return nil, nil
	}
	if o.At.Before(champion.Lineage.To) {
		engine.Progress(ctx, "no warm start: the champion learned from newer rows than this night's, maybe from those that judge")
		return nil, nil
	}
	cand, err := s.fitFrom(ctx, o, snap, snapDigest, c, kind, m.Digest)
	if err != nil {
		// The candidate from scratch stands; why there is no second one is told.
		engine.Progress(ctx, "no warm start from the champion's %s: %v", m.Digest.Short(), err)
		return nil, ctx.Err()
	}
	return &cand, nil
}

// labelsOf are the labels that change what a class learns.
func labelsOf(snap Snapshot, c ClassData) []feedback.Label {
	var out []feedback.Label
	for _, l := range snap.Labels {
		if slices.Contains(c.Devices, l.Device.String()) {
			out = append(out, l)
		}
	}
	return out
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
func (s *Service) keep(ctx context.Context, key string, class artifact.Class, f *zoo.Fitted, parent artifact.Digest) (Candidate, error) {
	d, err := s.putModel(ctx, f.ONNX)
	if err != nil {
		return Candidate{}, err
	}
	c := Candidate{Class: class, Kind: f.Kind, Digest: d, Bytes: int64(len(f.ONNX)), Threshold: f.Threshold, Window: f.Contract.Window, Seconds: f.TrainSeconds, Card: f.Card, Parent: parent}
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
