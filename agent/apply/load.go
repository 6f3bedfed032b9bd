package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// load verifies a slot once more and makes a session of its model. The caller
// holds the result.
func (a *Applier) load(ctx context.Context, d artifact.Digest) (*scorer.Model, error) {
	m, v, err := a.stager.Verified(d)
	if err != nil {
		return nil, err
	}
	b, err := a.model(d, v)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, Retry(twin.CodeLoad, err)
	}
	model, err := a.config.Scorer.Load(b, scorer.Release{Name: m.Name, Counter: m.Counter, Manifest: d}, a.config.Runtime)
	if err != nil {
		return nil, Refuse(twin.CodeLoad, err)
	}
	return model, nil
}

// loadChallenger makes a session beside the champion.
func (a *Applier) loadChallenger(ctx context.Context, id uint64, d artifact.Digest) (update.Release, error) {
	m, err := a.load(ctx, d)
	if err != nil {
		return update.Release{}, err
	}
	a.acting.Lock()
	defer a.acting.Unlock()
	if !a.runner.Wanted(id) {
		m.Let()
		return update.Release{}, Retry(twin.CodeLoad, context.Canceled)
	}
	release(&a.challenger)
	a.challenger = m
	return attested(m), nil
}

// onTrial returns the challenger if it is of this release; the caller lets go
// of it.
func (a *Applier) onTrial(d artifact.Digest) (*scorer.Model, error) {
	a.acting.Lock()
	defer a.acting.Unlock()
	if a.challenger == nil || a.challenger.Release.Manifest != d {
		return nil, Refuse(twin.CodeLoad, fmt.Errorf("release %s is not loaded", d.Short()))
	}
	return a.challenger.Hold(), nil
}

// maxGoldenBytes caps the golden vectors.
const maxGoldenBytes = 32 << 20

// test computes the golden vectors on the challenger's own session.
func (a *Applier) test(ctx context.Context, d artifact.Digest) error {
	m, err := a.onTrial(d)
	if err != nil {
		return err
	}
	defer m.Let()
	_, v, err := a.stager.Verified(d)
	if err != nil {
		return err
	}
	f, ok := v.File(artifact.RoleGolden)
	if !ok {
		return Refuse(twin.CodeGolden, fmt.Errorf("the release has no golden vectors"))
	}
	b, err := disk.ReadFile(a.config.Disk, path.Join(a.stager.slot(d), f.Path), maxGoldenBytes)
	if err != nil {
		return err
	}
	if got := artifact.Of(b); got != f.Digest {
		return Refuse(twin.CodeContent, fmt.Errorf("golden vectors on the disk are %s, signed were %s", got.Short(), f.Digest.Short()))
	}
	if err := Golden(ctx, m, b); err != nil {
		return Refuse(twin.CodeGolden, err)
	}
	return nil
}

// Golden computes golden vectors, as a release carries them, on a loaded model.
func Golden(ctx context.Context, m *scorer.Model, golden []byte) error {
	var g artifact.Golden
	dec := json.NewDecoder(bytes.NewReader(golden))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		return fmt.Errorf("read golden vectors: %w", err)
	}
	c := m.Contract()
	if c.Image != nil {
		return goldenImages(ctx, m, g)
	}
	if len(g.Windows) == 0 || len(g.Images) > 0 || len(g.Scores) != len(g.Windows) || len(g.Flags) != len(g.Windows) || g.Channels != len(c.Channels) || g.Window != c.Window {
		return fmt.Errorf("golden vectors are for %d channels of %d samples, %d windows, %d scores, %d flags: the model reads %d of %d",
			g.Channels, g.Window, len(g.Windows), len(g.Scores), len(g.Flags), len(c.Channels), c.Window)
	}
	var out runtime.Result
	for i, w := range g.Windows {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.Score(w, &out); err != nil {
			return fmt.Errorf("golden vector %d: %w", i, err)
		}
		if err := g.Check(i, out.Score, out.Anomaly); err != nil {
			return err
		}
	}
	return nil
}

// goldenImages is Golden for a model that reads images.
func goldenImages(ctx context.Context, m *scorer.Model, g artifact.Golden) error {
	if len(g.Images) == 0 || len(g.Windows) > 0 || len(g.Scores) != len(g.Images) || len(g.Flags) != len(g.Images) {
		return fmt.Errorf("golden vectors hold %d images, %d windows, %d scores, %d flags: the model reads images",
			len(g.Images), len(g.Windows), len(g.Scores), len(g.Flags))
	}
	var out runtime.Result
	for i, pixels := range g.Images {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.ScoreImage(pixels, &out); err != nil {
			return fmt.Errorf("golden vector %d: %w", i, err)
		}
		if err := g.Check(i, out.Score, out.Anomaly); err != nil {
			return err
		}
	}
	return nil
}
