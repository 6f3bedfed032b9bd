package release_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/release/releasetest"
	"github.com/swellfleet/swell/firmware/image"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

func TestMemoryPassesTheExercise(t *testing.T) {
	releasetest.Exercise(t, &releasetest.Memory{})
}

// watchedLedger notes what was in the bucket when an event was appended, and
// can refuse.
type watchedLedger struct {
	release.Ledger
	objects *bucket
	puts    int
	refuse  error
}

func (w *watchedLedger) Append(ctx context.Context, e ledger.Event) (ledger.Receipt, error) {
	w.puts = len(w.objects.puts)
	if w.refuse != nil {
		return ledger.Receipt{}, w.refuse
	}
	return w.Ledger.Append(ctx, e)
}

func (h *house) watched(t *testing.T, refuse error) (*release.Builder, *watchedLedger) {
	t.Helper()
	w := &watchedLedger{Ledger: h.ledger, objects: h.objects, refuse: refuse}
	b, err := release.NewBuilder(release.Config{Store: h.store, Objects: h.objects, Ledger: w, Signer: h.key})
	if err != nil {
		t.Fatal(err)
	}
	return b, w
}

func TestTheLedgerKnowsBeforeAnythingIsPublishedAndTheManifestComesLast(t *testing.T) {
	h := newHouse(t)
	b, w := h.watched(t, nil)
	r, err := b.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	if w.puts != 0 {
		t.Errorf("%d objects were published before the ledger knew", w.puts)
	}
	if last := h.objects.puts[len(h.objects.puts)-1]; last != r.Key+trust.ManifestFile {
		t.Errorf("the last object put was %s", last)
	}
}

func TestALedgerThatRefusesStopsTheRelease(t *testing.T) {
	h := newHouse(t)
	full := errors.New("disk full")
	b, _ := h.watched(t, full)
	if _, err := b.Build(t.Context(), twoVariants()); !errors.Is(err, full) {
		t.Fatalf("%v", err)
	}
	if len(h.objects.puts) != 0 {
		t.Errorf("published %v all the same", h.objects.puts)
	}
}

func TestAReleaseThatWasStoredWrongIsNotRecorded(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*bucket)
	}{
		{"a store that damages a model", func(b *bucket) {
			b.spoil = func(key string, content []byte) []byte {
				if strings.HasSuffix(key, "pump/model.onnx") {
					return content[:len(content)-1]
				}
				return content
			}
		}},
		{"a store that damages the signature", func(b *bucket) {
			b.spoil = func(key string, content []byte) []byte {
				if strings.HasSuffix(key, trust.SignatureFile) {
					return bytes.Replace(content, []byte("a"), []byte("b"), 1)
				}
				return content
			}
		}},
		{"a store that refuses the manifest", func(b *bucket) {
			b.refuse = func(key string) error {
				if strings.HasSuffix(key, trust.ManifestFile) {
					return errors.New("no space")
				}
				return nil
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			c.damage(h.objects)
			if r, err := h.builder.Build(t.Context(), twoVariants()); err == nil {
				t.Fatalf("released %s", r.Manifest.ID())
			}
			if list, err := h.store.ListReleases(t.Context(), "pump-anomaly"); err != nil || len(list) != 0 {
				t.Fatalf("%d releases recorded, %v", len(list), err)
			}
			h.objects.spoil, h.objects.refuse = nil, nil
			r, err := h.builder.Build(t.Context(), twoVariants())
			if err != nil || r.Manifest.Counter != 2 {
				t.Fatalf("the repeated run gave counter %d, %v; want the next counter", r.Manifest.Counter, err)
			}
		})
	}
}

func TestACandidateThatCannotBeAReleaseUsesNoCounter(t *testing.T) {
	h := newHouse(t)
	for name, make := range map[string]func(*release.Candidate){
		"no variants":            func(c *release.Candidate) { c.Variants = nil },
		"no model":               func(c *release.Candidate) { c.Variants[0].Files = c.Variants[0].Files[1:] },
		"a path outside":         func(c *release.Candidate) { c.Variants[0].Files[0].Path = "../model.onnx" },
		"a class twice":          func(c *release.Candidate) { c.Variants[1].Classes = c.Variants[0].Classes },
		"two files at one path":  func(c *release.Candidate) { c.Variants[1].Files[0].Path = c.Variants[0].Files[0].Path },
		"a file shorter than so": func(c *release.Candidate) { c.Variants[0].Files[0].Size++ },
		"an unknown kind":        func(c *release.Candidate) { c.Kind = "driver" },
	} {
		c := twoVariants()
		make(&c)
		if r, err := h.builder.Build(t.Context(), c); err == nil {
			t.Errorf("%s: released %s", name, r.Manifest.ID())
		}
	}
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil || r.Manifest.Counter != 1 {
		t.Errorf("counter %d, %v; want 1", r.Manifest.Counter, err)
	}
	if _, err := release.NewBuilder(release.Config{}); err == nil {
		t.Error("a builder without parties was made")
	}
}

func TestRunsThatReleaseAtOnceGetCountersOfTheirOwnAndARepeatedOneItsFirst(t *testing.T) {
	h := newHouse(t)
	var mu sync.Mutex
	byRun := map[string]map[uint64]bool{}
	var wg sync.WaitGroup
	for i := range 6 {
		run := fmt.Sprintf("night-%d", i%3)
		wg.Go(func() {
			c := twoVariants()
			c.Lineage.Run = run
			r, err := h.builder.Build(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if byRun[run] == nil {
				byRun[run] = map[uint64]bool{}
			}
			byRun[run][r.Manifest.Counter] = true
		})
	}
	wg.Wait()
	all := map[uint64]bool{}
	for run, counters := range byRun {
		if len(counters) != 1 {
			t.Errorf("run %s has counters %v", run, counters)
		}
		for c := range counters {
			all[c] = true
		}
	}
	if len(all) != 3 {
		t.Errorf("three runs have counters %v", all)
	}
}

func TestAFirmwareImageIsReleasedTheSameWay(t *testing.T) {
	h := newHouse(t)
	program := bytes.Repeat([]byte("program"), 100_000)
	p := release.Program{
		Name: "swell-agent", Classes: []artifact.Class{"pump", "gearbox"}, Arch: "arm64",
		Bytes: program, Version: "v1.4.0", Actor: "user:anna", Reason: "fixes the link",
	}
	r, err := h.builder.Publish(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.Manifest.Select("pump", "arm64")
	if err != nil || r.Manifest.Kind != artifact.Firmware {
		t.Fatalf("%+v, %v", r.Manifest, err)
	}
	f, ok := v.File(artifact.RoleImage)
	if !ok {
		t.Fatalf("no image in %+v", v)
	}
	next, err := h.builder.Publish(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	for _, made := range []release.Release{r, next} {
		file, err := os.Open(filepath.Join(h.download(t, made), f.Path))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		head, payload, err := image.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(payload); err != nil || !bytes.Equal(got, program) || head.Counter != made.Manifest.Counter || head.Arch != "arm64" || head.Version != "v1.4.0" {
			t.Errorf("release %s holds %+v, %v", made.Manifest.ID(), head, err)
		}
	}
	if next.Manifest.Counter != r.Manifest.Counter+1 {
		t.Errorf("the second is %s", next.Manifest.ID())
	}
	if _, err := trust.VerifyDir(h.download(t, r), h.builder.Roots()); err != nil {
		t.Error(err)
	}
	events, _, err := h.ledger.Events(t.Context(), ledger.Filter{Object: "Firmware/swell-agent-1"}, "", 0)
	if err != nil || len(events) != 1 || events[0].Actor != "user:anna" || events[0].Reason != "fixes the link" {
		t.Errorf("events %+v, %v", events, err)
	}
}

func TestAStoredReleaseIsVerifiedAgainOnDemand(t *testing.T) {
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	roots := h.builder.Roots()
	// bad names the checks that do not hold.
	bad := func() string {
		t.Helper()
		checks, err := release.Verify(t.Context(), h.objects, roots, r.Digest)
		if err != nil {
			return err.Error()
		}
		var names []string
		for _, c := range checks {
			if c.Err != nil {
				names = append(names, c.Name)
			}
		}
		return strings.Join(names, ", ")
	}
	checks, err := release.Verify(t.Context(), h.objects, roots, r.Digest)
	if err != nil || bad() != "" {
		t.Fatalf("%+v, %v", checks, err)
	}
	var names []string
	for _, c := range checks {
		if names = append(names, c.Name); c.Held == "" {
			t.Errorf("check %q does not say what holds", c.Name)
		}
	}
	if got := strings.Join(names, ", "); got != "model signature, digests, lineage, slsa provenance, ledger receipt, whole release" {
		t.Errorf("checks: %s", got)
	}
	for name, c := range map[string]struct {
		change func(kept map[string][]byte)
		want   string
	}{
		"an added object":    {func(kept map[string][]byte) { kept[r.Key+"extra"] = []byte("x") }, "whole release"},
		"a changed model":    {func(kept map[string][]byte) { kept[r.Key+"pump/model.onnx"][3] ^= 1 }, "digests, whole release"},
		"a missing model":    {func(kept map[string][]byte) { delete(kept, r.Key+"pump/model.onnx") }, "digests, whole release"},
		"no lineage":         {func(kept map[string][]byte) { delete(kept, r.Key+trust.LineageFile) }, "lineage, whole release"},
		"swapped provenance": {func(kept map[string][]byte) { kept[r.Key+trust.SLSAFile] = kept[r.Key+trust.LineageFile] }, "slsa provenance, whole release"},
		"no signature":       {func(kept map[string][]byte) { delete(kept, r.Key+trust.SignatureFile) }, "model signature"},
	} {
		sound := map[string][]byte{}
		for k, v := range h.objects.kept {
			sound[k] = bytes.Clone(v)
		}
		c.change(h.objects.kept)
		if got := bad(); got != c.want {
			t.Errorf("%s: %q do not hold, want %q", name, got, c.want)
		}
		h.objects.kept = sound
	}
	_, foreign, err := note.GenerateKey(rand.Reader, "another.ledger")
	if err != nil {
		t.Fatal(err)
	}
	if roots, err = roots.WithLog(foreign); err != nil {
		t.Fatal(err)
	}
	if got := bad(); got != "ledger receipt, whole release" {
		t.Errorf("under another ledger's key: %q do not hold", got)
	}
	roots = h.builder.Roots()
	if _, err := release.Verify(t.Context(), h.objects, h.builder.Roots(), artifact.Of([]byte("nothing"))); !errors.Is(err, release.ErrNotFound) {
		t.Errorf("a release that is not there: %v", err)
	}
	other := twoVariants()
	other.Lineage.Run = "night-2"
	second, err := h.builder.Build(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	for key, content := range h.objects.all(second.Key) {
		h.objects.kept[r.Key+strings.TrimPrefix(key, second.Key)] = content
	}
	if bad() == "" {
		t.Error("another good release under this one's name went unnoticed")
	}
}
