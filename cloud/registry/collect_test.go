package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// bucket is an object store in memory whose power fails before the deletion
// that left counts down to; negative: never.
type bucket struct {
	files map[string]objects.Info
	body  map[string][]byte
	left  int
	now   func() time.Time
}

var errPower = errors.New("power cut")

func (b *bucket) Put(_ context.Context, key string, r io.Reader, size int64) error {
	body, err := io.ReadAll(r)
	b.files[key], b.body[key] = objects.Info{Key: key, Size: size, Modified: b.now()}, body
	return err
}

func (b *bucket) PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error {
	if _, ok := b.files[key]; ok {
		return objects.ErrExists
	}
	return b.Put(ctx, key, r, size)
}

func (b *bucket) Get(_ context.Context, key string, _, _ int64) (io.ReadCloser, objects.Info, error) {
	if _, ok := b.files[key]; !ok {
		return nil, objects.Info{}, fmt.Errorf("%s: %w", key, objects.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(b.body[key])), b.files[key], nil
}

func (b *bucket) Stat(_ context.Context, key string) (objects.Info, error) {
	info, ok := b.files[key]
	if !ok {
		return info, fmt.Errorf("%s: %w", key, objects.ErrNotFound)
	}
	return info, nil
}

func (b *bucket) List(_ context.Context, prefix string) iter.Seq2[objects.Info, error] {
	return func(yield func(objects.Info, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(b.files)) {
			if strings.HasPrefix(key, prefix) && !yield(b.files[key], nil) {
				return
			}
		}
	}
}

func (b *bucket) Delete(_ context.Context, key string) error {
	if b.left == 0 {
		return errPower
	}
	b.left--
	delete(b.files, key)
	return nil
}

// house is a hub's registry with the files of its versions, and devices.
type house struct {
	store   *registry.Memory
	bucket  *bucket
	frames  *feedback.Memory
	now     time.Time
	needs   registry.Needs
	devices map[string][2]artifact.Digest // what each runs and has in its other slot
	asked   int
	between func() // called by the second look of a collection
	counter map[string]uint64
}

func newHouse() *house {
	h := &house{store: &registry.Memory{}, frames: &feedback.Memory{}, now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), devices: map[string][2]artifact.Digest{}, counter: map[string]uint64{}}
	h.bucket = &bucket{files: map[string]objects.Info{}, body: map[string][]byte{}, left: -1, now: func() time.Time { return h.now }}
	return h
}

func (h *house) collector() registry.Collector {
	return registry.Collector{Store: h.store, Objects: h.bucket, Frames: h.frames, Now: func() time.Time { return h.now }, Needs: func(context.Context) (registry.Needs, error) {
		if h.asked++; h.asked == 2 && h.between != nil {
			h.between()
		}
		n := h.needs
		n.Manifests = maps.Clone(n.Manifests)
		if n.Manifests == nil {
			n.Manifests = map[artifact.Digest]bool{}
		}
		for _, d := range h.devices {
			n.Manifests[d[0]], n.Manifests[d[1]] = true, true
		}
		return n, nil
	}}
}

func (h *house) put(key, body string) {
	if err := h.bucket.Put(context.Background(), key, strings.NewReader(body), int64(len(body))); err != nil {
		panic(err)
	}
}

// release adds a version with its model, snapshot, cache entry, frame and files.
func (h *house) release(family string) registry.Version {
	ctx := context.Background()
	h.counter[family]++
	n := h.counter[family]
	id := fmt.Sprintf("%s-%d", family, n)
	of := func(what string) artifact.Digest { return artifact.Of([]byte(id + what)) }
	v := registry.Version{
		Family: family, Counter: n, Release: of("manifest"), Stage: registry.Released, Created: h.now,
		Lineage: registry.Lineage{Lineage: artifact.Lineage{Run: "run-" + id, Snapshot: of("snapshot")}},
		Models:  []registry.Model{{Classes: []artifact.Class{"pump"}, Digest: of("model")}},
	}
	h.put("models/"+of("model").Hex()+".onnx", "model")
	h.put("models/"+of("loser").Hex()+".onnx", "a candidate that lost")
	for _, m := range []string{"model", "loser"} {
		entry, _ := json.Marshal(map[string]any{"digest": of(m)})
		h.put("models/cache/"+of("key of "+m).Hex()+".json", string(entry))
	}
	h.put("snapshots/"+of("snapshot").Hex()+".json", "{}")
	h.put("snapshots/images/"+of("set").Hex()+".json", "{}")
	h.put("releases/"+v.Release.Hex()+"/manifest.json", "{}")
	h.put("releases/"+v.Release.Hex()+"/pump/golden.json", "{}")
	f := feedback.Frame{Device: topic.ID{Site: "s", Node: "cam"}, Class: "cam", At: h.now, Digest: of("frame"), Format: "png"}
	h.put(f.Key(), "frame")
	if _, err := h.frames.AddFrame(ctx, f); err != nil {
		panic(err)
	}
	if err := h.store.SaveSources(ctx, family, n, []registry.Source{{Kind: registry.FromFrame, Digest: f.Digest}}); err != nil {
		panic(err)
	}
	if err := h.store.SaveVersion(ctx, v); err != nil {
		panic(err)
	}
	return v
}

// whole says what a version lacks that has to be there.
func (h *house) whole(v registry.Version) error {
	of := func(what string) artifact.Digest {
		return artifact.Of([]byte(fmt.Sprintf("%s-%d", v.Family, v.Counter) + what))
	}
	for _, key := range []string{
		"models/" + of("model").Hex() + ".onnx", "snapshots/" + of("snapshot").Hex() + ".json", "frames/" + of("frame").Hex() + ".png",
		"releases/" + v.Release.Hex() + "/manifest.json", "releases/" + v.Release.Hex() + "/pump/golden.json",
	} {
		if _, ok := h.bucket.files[key]; !ok {
			return fmt.Errorf("%s-%d (%s) lost %s", v.Family, v.Counter, v.Stage, key)
		}
	}
	return nil
}

func (h *house) all(t interface{ Fatal(...any) }) []registry.Version {
	var out []registry.Version
	for _, f := range []string{"fan", "pump"} {
		vs, err := h.store.Versions(context.Background(), f, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, vs...)
	}
	return out
}

const day = 24 * time.Hour

func TestACollectionRemovesWhatNobodyNeedsAndNothingElse(t *testing.T) {
	h := newHouse()
	ctx := t.Context()
	var vs []registry.Version
	for range 6 {
		vs = append(vs, h.release("pump"))
		h.now = h.now.Add(day)
	}
	h.devices["d"] = [2]artifact.Digest{vs[1].Release, vs[0].Release}
	if err := registry.Promote(ctx, h.store, "pump", 3, "ended well"); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(30 * day)
	if err := h.frames.AddLabels(ctx, []feedback.Label{{Frame: artifact.Of([]byte("pump-4frame")), Value: "crack", By: "user:ann", At: h.now}}); err != nil {
		t.Fatal(err)
	}
	keep := registry.Keep{Versions: 1, Age: 2 * day, By: "hub", DryRun: true}
	files := len(h.bucket.files)
	dry, err := h.collector().Collect(ctx, keep)
	if err != nil || len(h.bucket.files) != files {
		t.Fatalf("a dry run: %v, %d files became %d", err, files, len(h.bucket.files))
	}
	keep.DryRun = false
	got, err := h.collector().Collect(ctx, keep)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Kinds, dry.Kinds) {
		t.Errorf("the dry run promised %+v, removed was %+v", dry.Kinds, got.Kinds)
	}
	if want := []string{"pump-5", "pump-4"}; !slices.Equal(got.Versions, want) {
		t.Errorf("removed %v, want %v", got.Versions, want)
	}
	for _, n := range []int{0, 1, 2, 5} {
		if err := h.whole(vs[n]); err != nil {
			t.Error(err)
		}
	}
	if v, _ := h.store.Version(ctx, "pump", 4); v.Stage != registry.Collected || !strings.Contains(v.Reason, "it was released") {
		t.Errorf("version 4 is %s (%s)", v.Stage, v.Reason)
	}
	if _, ok := h.bucket.files["frames/"+artifact.Of([]byte("pump-4frame")).Hex()+".png"]; !ok {
		t.Error("a labelled frame was removed")
	}
	if _, ok := h.bucket.files["models/"+artifact.Of([]byte("pump-6loser")).Hex()+".onnx"]; ok {
		t.Error("a model that lost long ago is still there")
	}
	if past, err := h.store.Collections(ctx, 5); err != nil || len(past) != 1 || past[0].By != "hub" {
		t.Errorf("recorded %+v, %v", past, err)
	}
}

func TestAZeroPolicyKeepsEverything(t *testing.T) {
	h := newHouse()
	h.release("pump")
	h.now = h.now.Add(1000 * day)
	files := len(h.bucket.files)
	if c, err := h.collector().Collect(t.Context(), registry.Keep{By: "hub"}); err != nil || len(c.Kinds) != 0 || len(h.bucket.files) != files {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestARolloutThatBeginsMeanwhileGetsItsReleaseBack(t *testing.T) {
	h := newHouse()
	old := h.release("pump")
	h.now = h.now.Add(day)
	h.release("pump")
	h.now = h.now.Add(30 * day)
	h.between = func() { h.needs.Manifests = map[artifact.Digest]bool{old.Release: true} }
	if _, err := h.collector().Collect(t.Context(), registry.Keep{Versions: 1, Age: day, By: "hub"}); err != nil {
		t.Fatal(err)
	}
	if err := h.whole(old); err != nil {
		t.Error(err)
	}
	if v, _ := h.store.Version(t.Context(), "pump", 1); v.Stage != registry.Released {
		t.Errorf("its stage is %s", v.Stage)
	}
}

// TestNoHistoryLosesWhatIsNeeded draws histories of releases, rollouts, devices,
// nights, power cuts and collections.
func TestNoHistoryLosesWhatIsNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHouse()
		ctx := context.Background()
		h.release("pump")
		pick := func() registry.Version {
			var vs []registry.Version
			for _, v := range h.all(t) {
				if v.Stage != registry.Collected {
					vs = append(vs, v)
				}
			}
			return rapid.SampledFrom(vs).Draw(t, "version")
		}
		t.Repeat(map[string]func(*rapid.T){
			"release": func(t *rapid.T) { h.release(rapid.SampledFrom([]string{"fan", "pump"}).Draw(t, "family")) },
			"wait": func(t *rapid.T) {
				h.now = h.now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "hours")) * time.Hour)
			},
			"install": func(t *rapid.T) {
				d := rapid.SampledFrom([]string{"d1", "d2", "d3"}).Draw(t, "device")
				h.devices[d] = [2]artifact.Digest{pick().Release, h.devices[d][0]}
			},
			"promote": func(t *rapid.T) {
				if v := pick(); registry.Promote(ctx, h.store, v.Family, v.Counter, "ended well") != nil {
					t.Fatal("cannot promote")
				}
			},
			"offer":   func(t *rapid.T) { h.needs.Manifests = map[artifact.Digest]bool{pick().Release: true} },
			"night":   func(t *rapid.T) { h.needs.Night = !h.needs.Night },
			"at work": func(t *rapid.T) { h.needs.Snapshots = map[artifact.Digest]bool{pick().Lineage.Snapshot: true} },
			"collect": func(t *rapid.T) {
				h.asked, h.bucket.left = 0, rapid.IntRange(-1, 12).Draw(t, "deletions before the power cut")
				k := registry.Keep{Versions: rapid.IntRange(1, 4).Draw(t, "versions"), Age: time.Duration(rapid.IntRange(1, 300).Draw(t, "age")) * time.Hour, By: "hub"}
				if _, err := h.collector().Collect(ctx, k); err != nil && !errors.Is(err, errPower) {
					t.Fatal(err)
				}
				h.bucket.left = -1
			},
			"": func(t *rapid.T) {
				for _, v := range h.all(t) {
					needed := h.needs.Manifests[v.Release] || v.Stage == registry.Promoted
					for _, d := range h.devices {
						needed = needed || d[0] == v.Release || d[1] == v.Release
					}
					if err := h.whole(v); err != nil && (needed || v.Stage != registry.Collected) {
						t.Fatal(err)
					}
				}
				for d := range h.needs.Snapshots {
					if _, ok := h.bucket.files["snapshots/"+d.Hex()+".json"]; !ok {
						t.Fatalf("a night at work lost its snapshot %s", d)
					}
				}
				for info := range h.bucket.List(ctx, "models/cache/") {
					var m struct{ Digest artifact.Digest }
					if json.Unmarshal(h.bucket.body[info.Key], &m) != nil || h.bucket.files["models/"+m.Digest.Hex()+".onnx"].Key == "" {
						t.Fatalf("cache entry %s names a model that is gone", info.Key)
					}
				}
			},
		})
	})
}

// What an unfinished fit keeps of itself goes when nobody has taken it up for
// long, and never while a night is at work.
func TestCheckpointsOfFitsThatNeverEndedGo(t *testing.T) {
	h := newHouse()
	h.put(registry.CheckpointPrefix+"old", "far")
	h.now = h.now.Add(3 * day)
	h.put(registry.CheckpointPrefix+"young", "farther")
	for _, tc := range []struct {
		night bool
		stay  int
	}{{true, 2}, {false, 1}} {
		h.needs.Night = tc.night
		got, err := h.collector().Collect(t.Context(), registry.Keep{Versions: 1, Age: 2 * day, By: "hub"})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(got.Kinds, func(k registry.CollectedKind) bool { return k.Kind == "checkpoints" })
		if i < 0 || got.Kinds[i].Kept != tc.stay || len(h.bucket.files) != tc.stay {
			t.Errorf("with a night at work %v: %+v, %d files are left, want %d", tc.night, got.Kinds, len(h.bucket.files), tc.stay)
		}
	}
	if _, ok := h.bucket.files[registry.CheckpointPrefix+"young"]; !ok {
		t.Error("the young one went")
	}
}
