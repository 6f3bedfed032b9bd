package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
)

// lineages answers api.Lineages.
type lineages struct{ h *Hub }

// Origin implements api.Lineages.
func (l lineages) Origin(ctx context.Context, v registry.Version, limit int) (segments []apimodel.LineageSegment, labels, frames int, err error) {
	n, err := l.h.db.Registry().Sources(ctx, v.Family, v.Counter)
	if err != nil || v.Lineage.Snapshot == "" {
		return nil, n[registry.FromLabel], n[registry.FromFrame], err
	}
	snap, err := retrain.ReadSnapshot(ctx, l.h.objects, v.Lineage.Snapshot)
	if errors.Is(err, objects.ErrNotFound) {
		err = nil // collected, or past its time: the counts are what is left
	}
	for _, d := range snap.Devices {
		for _, g := range d.Segments {
			if len(segments) == limit {
				return segments, n[registry.FromLabel], n[registry.FromFrame], nil
			}
			segments = append(segments, apimodel.LineageSegment{
				Digest: apimodel.Digest(g.Digest), Device: some(d.Device.String()), Rows: some(int64(g.Rows)), From: &g.From, To: &g.To,
			})
		}
	}
	return segments, n[registry.FromLabel], n[registry.FromFrame], err
}

// Touched implements api.Lineages.
func (l lineages) Touched(ctx context.Context, d artifact.Digest) ([]registry.Version, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	refs, err := l.h.db.Registry().ReleasesOf(ctx, d)
	if err != nil {
		return nil, err
	}
	var out []registry.Version
	for _, r := range refs {
		v, err := l.h.db.Registry().Version(ctx, r.Family, r.Counter)
		if errors.Is(err, registry.ErrNoVersion) {
			continue // its run died before it was registered
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// Collect implements api.Lineages.
func (l lineages) Collect(ctx context.Context, dry bool) ([]apimodel.CollectedKind, error) {
	if !l.h.cfg.Training.collects() {
		return nil, fmt.Errorf("%w: this hub keeps everything: set training.keep_versions and training.keep_days to say what may go", api.ErrInvalid)
	}
	c, err := l.h.collect(ctx, "a person", dry)
	out := make([]apimodel.CollectedKind, len(c.Kinds))
	for i, k := range c.Kinds {
		out[i] = apimodel.CollectedKind{Kind: k.Kind, Removed: int64(k.Removed), Bytes: k.Bytes, Kept: int64(k.Kept)}
	}
	return out, err
}

func (t Training) collects() bool { return t.KeepVersions > 0 && t.KeepDays > 0 }

// collect removes what nothing needs and writes to the ledger what it removed.
func (h *Hub) collect(ctx context.Context, by string, dry bool) (registry.Collection, error) {
	h.collecting.Lock()
	defer h.collecting.Unlock()
	c, err := registry.Collector{Store: h.db.Registry(), Objects: h.objects, Frames: h.db.Feedback(), Needs: h.needs, Now: h.cfg.Now}.
		Collect(ctx, registry.Keep{Versions: h.cfg.Training.KeepVersions, Age: days(h.cfg.Training.KeepDays), DryRun: dry, By: by})
	removed := 0
	for _, k := range c.Kinds {
		removed += k.Removed
	}
	if dry || removed == 0 {
		return c, err
	}
	h.log.Info("removed what no version, device, rollout or night needs", slog.Int("files", removed), slog.Int("versions", len(c.Versions)))
	detail, jsonErr := json.Marshal(map[string]any{"kinds": c.Kinds, "versions": c.Versions})
	_, ledgerErr := h.ledger.Append(ctx, ledger.Event{Time: c.At, Actor: "hub", Action: "model.collected", Object: "Model/*", Reason: "collection asked for by " + by, Detail: detail})
	return c, errors.Join(err, jsonErr, ledgerErr)
}

// needs gathers what a collection must leave alone.
func (h *Hub) needs(ctx context.Context) (registry.Needs, error) {
	n := registry.Needs{Manifests: map[artifact.Digest]bool{}, Models: map[artifact.Digest]bool{}, Snapshots: map[artifact.Digest]bool{}}
	for d := range h.fleet.All {
		doc := d.Report.Doc
		if doc.Champion != nil {
			n.Manifests[doc.Champion.Manifest] = true
		}
		if doc.LastGood != nil {
			n.Manifests[doc.LastGood.Manifest] = true
		}
		if doc.Trial != nil {
			n.Manifests[doc.Trial.Manifest] = true
		}
	}
	wanted, err := h.db.Wanted(ctx)
	if err != nil {
		return n, fmt.Errorf("read what devices are wanted to run: %w", err)
	}
	for _, w := range wanted {
		n.Manifests[w.Model] = true
	}
	all, err := h.db.Dispatch().Rollouts(ctx) // newest first
	if err != nil {
		return n, fmt.Errorf("read rollouts: %w", err)
	}
	promoted := map[[2]string]bool{} // family and fleet that have a promoted release
	for _, r := range all {
		key := [2]string{r.Release.Name, r.Fleet}
		if r.State.Final() && (r.State != rollout.Promoted || promoted[key]) {
			continue
		}
		promoted[key] = promoted[key] || r.State == rollout.Promoted
		n.Manifests[r.Release.Manifest] = true
		if r.Previous != nil {
			n.Manifests[r.Previous.Manifest] = true
		}
	}
	if h.train == nil {
		return n, nil
	}
	return n, h.nightNeeds(&n)
}

// digests finds every digest in what a run's steps have returned.
var digests = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func (h *Hub) nightNeeds(n *registry.Needs) error {
	for offset := 0; ; {
		runs, err := h.train.nights.Runs(100, offset)
		if err != nil {
			return fmt.Errorf("read runs: %w", err)
		}
		for _, r := range runs {
			if r.State != engine.Queued && r.State != engine.Running {
				continue
			}
			n.Night = true
			run, err := h.train.nights.Run(r.ID) // with its steps
			if err != nil {
				return fmt.Errorf("read run %s: %w", r.ID, err)
			}
			for _, s := range run.Steps {
				for _, d := range digests.FindAll(s.Output, -1) {
					n.Models[artifact.Digest(d)], n.Snapshots[artifact.Digest(d)] = true, true
				}
			}
		}
		if len(runs) < 100 {
			return nil
		}
		offset += len(runs)
	}
}

// collectEvery is how often a hub that does not keep everything collects.
const collectEvery = 24 * time.Hour

// collectDaily collects when the last collection is a day old, whoever made it.
func (h *Hub) collectDaily(ctx context.Context) error {
	if !h.cfg.Training.collects() {
		return nil
	}
	last, err := h.db.Registry().Collections(ctx, 1)
	if err != nil || len(last) > 0 && h.cfg.Now().Sub(last[0].At) < collectEvery {
		return err
	}
	_, err = h.collect(ctx, "the hub, daily", false)
	return err
}

// trace notes once what the versions of older hubs learned from, then keeps
// the registry as small as the configuration wants it.
func (h *Hub) trace(ctx context.Context) error {
	n, err := retrain.TraceAll(ctx, h.db.Registry(), h.objects)
	if n > 0 {
		h.log.Info("traced the data of older model versions", slog.Int("versions", n))
	}
	if err != nil && ctx.Err() == nil {
		h.log.Error("cannot trace the data of older model versions; the next start tries again", slog.Any("error", err))
	}
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		if err := h.collectDaily(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("cannot collect all that nobody needs; the next collection goes on", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
