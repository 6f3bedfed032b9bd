package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Keep says what a collection leaves alone besides what is needed. A zero
// Versions or Age keeps everything.
type Keep struct {
	Versions int           // newest of each family
	Age      time.Duration // versions, models, snapshots and frames younger than this; at least MinAge counts
	DryRun   bool          // count, and remove nothing
	By       string        // as in the ledger
}

// MinAge is how long a file is left alone in any case: it may belong to
// something that is only now being made.
const MinAge = 24 * time.Hour

// Needs are what must stay whatever its age.
type Needs struct {
	// Manifests of releases that a device runs, has in its other slot or is
	// wanted to have, or that a rollout offers or goes back to.
	Manifests map[artifact.Digest]bool
	Models    map[artifact.Digest]bool // that runs at work have made
	Snapshots map[artifact.Digest]bool // of runs at work
	// Night says that a run is at work: it may find any model, go on from
	// any checkpoint of a fit and read any frame.
	Night bool
}

// Collection is what a collection came to.
type Collection struct {
	At       time.Time       `json:"at"`
	By       string          `json:"by"`
	DryRun   bool            `json:"dry_run"`
	Kinds    []CollectedKind `json:"kinds"`
	Versions []string        `json:"versions,omitempty"` // FAMILY-COUNTER whose files went, the first maxNamed
	Err      string          `json:"err,omitempty"`      // it was cut short; the next goes on
}

// CollectedKind counts what became of one kind of thing.
type CollectedKind struct {
	Kind    string `json:"kind"` // "versions", "cache", "models", "checkpoints", "image sets", "snapshots", "frames" or "releases"
	Removed int    `json:"removed"`
	Bytes   int64  `json:"bytes"` // of what was removed
	Kept    int    `json:"kept"`
}

const maxNamed = 100

// Collector removes files that no kept version, device, rollout or night needs.
// All fields are required.
type Collector struct {
	Store   Store
	Objects objects.Store
	Frames  feedback.Store
	// Needs is asked again before every phase, since a night or a rollout may
	// begin meanwhile.
	Needs func(context.Context) (Needs, error)
	Now   func() time.Time
}

// CheckpointPrefix begins the keys of what fits at work keep of how far they
// have come. A fit removes its own; what lies there longer is of a fit that
// nobody took up again.
const CheckpointPrefix = "checkpoints/"

// Prefixes of the objects that a collection looks at.
const (
	modelPrefix    = "models/"
	cachePrefix    = "models/cache/"
	snapshotPrefix = "snapshots/"
	imageSetPrefix = "snapshots/images/"
	releasePrefix  = "releases/"
)

// view is what must stay, as one look at the hub found it.
type view struct {
	needs     Needs
	kept      map[VersionRef]bool
	doomed    []Version
	manifests map[artifact.Digest]bool // of kept versions
	goes      map[artifact.Digest]bool // manifests of doomed versions that no kept one shares
	models    map[artifact.Digest]bool
	snapshots map[artifact.Digest]bool
	before    time.Time // files put later stay
}

// Collect removes what is not needed and records what it removed. A crash
// between two deletions, or an error, leaves nothing that is needed without its
// files; the next collection goes on. A version loses its stage before its files,
// so that nobody begins to roll it out.
func (c Collector) Collect(ctx context.Context, k Keep) (Collection, error) {
	out := Collection{At: c.Now().UTC(), By: k.By, DryRun: k.DryRun, Kinds: []CollectedKind{}}
	if k.Versions <= 0 || k.Age <= 0 {
		return out, nil
	}
	k.Age = max(k.Age, MinAge)
	err := c.collect(ctx, k, &out)
	if err != nil {
		out.Err = err.Error()
	}
	if !k.DryRun {
		err = errors.Join(err, c.Store.SaveCollection(context.WithoutCancel(ctx), out))
	}
	return out, err
}

func (c Collector) collect(ctx context.Context, k Keep, out *Collection) error {
	v, err := c.look(ctx, k)
	if err != nil {
		return err
	}
	doomed := v.doomed
	versions := CollectedKind{Kind: "versions", Kept: len(v.kept)}
	for _, d := range doomed {
		if d.Stage == Collected {
			continue // an earlier collection said so
		}
		versions.Removed++
		if len(out.Versions) < maxNamed {
			out.Versions = append(out.Versions, fmt.Sprintf("%s-%d", d.Family, d.Counter))
		}
		if k.DryRun {
			continue
		}
		if err := c.Store.SetStage(ctx, d.Family, d.Counter, Collected, fmt.Sprintf("its files were removed by %s; it was %s", k.By, d.Stage)); err != nil {
			return err
		}
	}
	out.Kinds = append(out.Kinds, versions)
	// From here on nobody begins with a doomed version; who began before is seen
	// by the look that every phase starts with.
	for _, phase := range []struct {
		kind, prefix string
		nested       string // swept by another phase; empty: none
		stays        func(view, objects.Info) (bool, error)
	}{
		{"cache", cachePrefix, "", func(v view, i objects.Info) (bool, error) { return c.cacheStays(ctx, v, i) }},
		{"models", modelPrefix, cachePrefix, func(v view, i objects.Info) (bool, error) {
			d, ok := digestOf(i.Key, modelPrefix, ".onnx")
			// What a night at work has made or found is not noted before its step ends.
			return !ok || v.needs.Night || v.models[d], nil
		}},
		{"checkpoints", CheckpointPrefix, "", func(v view, i objects.Info) (bool, error) { return v.needs.Night, nil }},
		{"image sets", imageSetPrefix, "", func(v view, i objects.Info) (bool, error) { return v.needs.Night, nil }},
		{"snapshots", snapshotPrefix, imageSetPrefix, func(v view, i objects.Info) (bool, error) {
			d, ok := digestOf(i.Key, snapshotPrefix, ".json")
			return !ok || v.snapshots[d], nil
		}},
		{"frames", feedback.FramePrefix, "", func(v view, i objects.Info) (bool, error) { return c.frameStays(ctx, v, i) }},
		{"releases", releasePrefix, "", func(v view, i objects.Info) (bool, error) {
			hex, _, _ := strings.Cut(strings.TrimPrefix(i.Key, releasePrefix), "/")
			return !v.goes[artifact.Digest("sha256:"+hex)], nil
		}},
	} {
		if v, err = c.look(ctx, k); err != nil {
			return err
		}
		if !k.DryRun {
			if err := c.spare(ctx, doomed, v); err != nil {
				return err
			}
		}
		if phase.kind == "models" {
			if err := c.cached(ctx, &v, k.DryRun); err != nil {
				return err
			}
		}
		n := CollectedKind{Kind: phase.kind}
		err := c.sweep(ctx, k, v, phase.prefix, phase.nested, phase.stays, &n)
		out.Kinds = append(out.Kinds, n)
		if err != nil {
			return fmt.Errorf("collect %s: %w", phase.kind, err)
		}
	}
	return nil
}

// spare gives those versions their stage back that somebody came to need since
// they were doomed.
func (c Collector) spare(ctx context.Context, doomed []Version, v view) error {
	for _, d := range doomed {
		if d.Stage == Collected || !v.kept[VersionRef{d.Family, d.Counter}] {
			continue
		}
		if err := c.Store.SetStage(ctx, d.Family, d.Counter, d.Stage, d.Reason); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes the old objects under a prefix that need not stay.
func (c Collector) sweep(ctx context.Context, k Keep, v view, prefix, nested string, stays func(view, objects.Info) (bool, error), n *CollectedKind) error {
	for info, err := range c.Objects.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if nested != "" && strings.HasPrefix(info.Key, nested) {
			continue
		}
		stay := info.Modified.After(v.before)
		if !stay {
			if stay, err = stays(v, info); err != nil {
				return err
			}
		}
		if stay {
			n.Kept++
			continue
		}
		if !k.DryRun {
			if prefix == feedback.FramePrefix {
				// The catalogue first: it never names a frame without bytes.
				if err := c.Frames.RemoveFrames(ctx, []artifact.Digest{frameDigest(info.Key)}); err != nil {
					return err
				}
			}
			if err := c.Objects.Delete(ctx, info.Key); err != nil {
				return err
			}
		}
		n.Removed++
		n.Bytes += info.Size
	}
	return nil
}

// look finds what must stay now.
func (c Collector) look(ctx context.Context, k Keep) (view, error) {
	needs, err := c.Needs(ctx)
	if err != nil {
		return view{}, fmt.Errorf("find what devices, rollouts and nights need: %w", err)
	}
	v := view{
		needs: needs, kept: map[VersionRef]bool{}, manifests: map[artifact.Digest]bool{}, goes: map[artifact.Digest]bool{},
		models: map[artifact.Digest]bool{}, snapshots: map[artifact.Digest]bool{}, before: c.Now().Add(-k.Age),
	}
	for d := range needs.Models {
		v.models[d] = true
	}
	for d := range needs.Snapshots {
		v.snapshots[d] = true
	}
	families, err := c.Store.Families(ctx)
	if err != nil {
		return v, err
	}
	for _, f := range families {
		if err := c.family(ctx, k, f, &v); err != nil {
			return v, fmt.Errorf("list versions of %s: %w", f, err)
		}
	}
	for _, d := range v.doomed {
		if !v.manifests[d.Release] && !needs.Manifests[d.Release] {
			v.goes[d.Release] = true
		}
	}
	return v, nil
}

// family sorts the versions of a family into those that stay and the others.
func (c Collector) family(ctx context.Context, k Keep, family string, v *view) error {
	counted, back := 0, false
	reigned := map[artifact.Class]bool{} // classes whose champion was seen, as ChampionFor finds it
	for before := uint64(0); ; {
		page, err := c.Store.Versions(ctx, family, before, 100)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, x := range page {
			stay := x.Stage == Promoted || x.Stage == Candidate || v.needs.Manifests[x.Release] || x.Stage != Collected && x.Created.After(v.before)
			if x.Stage == Superseded && !back {
				stay, back = true, true // where the champion's rollback goes
			}
			if x.Stage == Promoted || x.Stage == Superseded {
				for _, m := range x.Models {
					for _, class := range m.Classes {
						stay = stay || !reigned[class]
						reigned[class] = true
					}
				}
			}
			if x.Stage != Collected && counted < k.Versions {
				stay = true
				counted++
			}
			if !stay {
				v.doomed = append(v.doomed, x)
				continue
			}
			v.kept[VersionRef{x.Family, x.Counter}] = true
			v.manifests[x.Release] = true
			v.snapshots[x.Lineage.Snapshot] = true
			for _, m := range x.Models {
				v.models[m.Digest] = true
			}
		}
		before = page[len(page)-1].Counter
	}
}

// cachedModel is the part of a cache entry that names a model.
type cachedModel struct {
	Digest artifact.Digest `json:"digest"`
}

const maxCacheEntry = 1 << 20 // bytes

func (c Collector) readCached(ctx context.Context, key string) (cachedModel, error) {
	var m cachedModel
	r, _, err := c.Objects.Get(ctx, key, 0, maxCacheEntry)
	if err != nil {
		return m, err
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return m, err
	}
	if json.Unmarshal(b, &m) != nil {
		return cachedModel{}, nil // no night can use it either
	}
	return m, nil
}

func (c Collector) cacheStays(ctx context.Context, v view, i objects.Info) (bool, error) {
	if v.needs.Night {
		return true, nil
	}
	m, err := c.readCached(ctx, i.Key)
	return v.models[m.Digest], err
}

// cached adds the models that the cache still names: a night that finds an
// entry finds its model. In a dry run the old entries are still there, and
// count as gone.
func (c Collector) cached(ctx context.Context, v *view, dry bool) error {
	for info, err := range c.Objects.List(ctx, cachePrefix) {
		if err != nil {
			return err
		}
		if dry && !v.needs.Night && !info.Modified.After(v.before) {
			continue
		}
		m, err := c.readCached(ctx, info.Key)
		if err != nil && !errors.Is(err, objects.ErrNotFound) {
			return err
		}
		v.models[m.Digest] = true
	}
	return nil
}

// frameStays keeps frames of kept versions and those that people labelled.
func (c Collector) frameStays(ctx context.Context, v view, i objects.Info) (bool, error) {
	if v.needs.Night {
		return true, nil
	}
	d := frameDigest(i.Key)
	if d.Validate() != nil {
		return true, nil // not one of ours
	}
	refs, err := c.Store.ReleasesOf(ctx, d)
	if err != nil {
		return true, err
	}
	for _, r := range refs {
		if v.kept[r] {
			return true, nil
		}
	}
	f, err := c.Frames.Frame(ctx, d)
	if errors.Is(err, feedback.ErrNoFrame) {
		return false, nil // its catalogue entry went, or never came
	}
	if err != nil {
		return true, err
	}
	unlabelled, err := c.Frames.Frames(ctx, feedback.Query{Device: &f.Device, From: f.At, To: f.At.Add(1), Unlabelled: true})
	if err != nil {
		return true, err
	}
	for _, u := range unlabelled {
		if u.Digest == d {
			return false, nil
		}
	}
	return true, nil
}

func frameDigest(key string) artifact.Digest {
	hex, _, _ := strings.Cut(strings.TrimPrefix(key, feedback.FramePrefix), ".")
	return artifact.Digest("sha256:" + hex)
}

// digestOf reads the digest in a key; ok is false for keys of another form,
// which are nobody's here to remove.
func digestOf(key, prefix, suffix string) (artifact.Digest, bool) {
	hex, ok := strings.CutSuffix(strings.TrimPrefix(key, prefix), suffix)
	d := artifact.Digest("sha256:" + hex)
	return d, ok && d.Validate() == nil
}
