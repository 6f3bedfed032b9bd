package retrain

import (
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/registry"
)

func TestDataIsTracedToTheVersionsThatLearnedFromIt(t *testing.T) {
	p := newPlant(2, 600)
	p.labels = []feedback.Label{{Device: id(0), Class: "pump", From: night.Add(-time.Minute), To: night, Value: feedback.Normal, By: "user:ann", At: night}}
	r := start(t, p)
	run := r.night(t)
	if run.Outcome.Released == nil {
		t.Fatalf("nothing was released: %s", run.Outcome.Summary)
	}
	ctx := t.Context()
	versions, family := r.cfg.Registry, "pumps"
	segs, err := p.Segments(ctx, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	want := registry.VersionRef{Family: family, Counter: 1}
	if refs, err := versions.ReleasesOf(ctx, segs[1].Digest); err != nil || len(refs) != 1 || refs[0] != want {
		t.Errorf("releases of a segment: %v, %v, want %v", refs, err, want)
	}
	if n, err := versions.Sources(ctx, family, 1); err != nil || n[registry.FromSegment] != 2 || n[registry.FromLabel] != 1 {
		t.Errorf("the version's sources: %v, %v", n, err)
	}

	// A hub of before registered versions without their sources.
	v, err := versions.Version(ctx, family, 1)
	if err != nil {
		t.Fatal(err)
	}
	old := &registry.Memory{}
	lost := v
	lost.Counter, lost.Lineage.Snapshot = 2, "sha256:"+"00000000000000000000000000000000000000000000000000000000000000ff"
	for _, v := range []registry.Version{v, lost} {
		if err := old.SaveVersion(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{1, 0} {
		if n, err := TraceAll(ctx, old, r.cfg.Objects); err != nil || n != want {
			t.Errorf("traced %d versions, %v, want %d", n, err, want)
		}
	}
	if refs, err := old.ReleasesOf(ctx, segs[0].Digest); err != nil || len(refs) != 1 {
		t.Errorf("releases of a segment after the backfill: %v, %v", refs, err)
	}
}

func TestABackboneComesOutOfTheGarden(t *testing.T) {
	r := start(t, newPlant(1, 10))
	ctx := t.Context()
	d, err := r.putModel(ctx, []byte("a network"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []registry.Version{
		{Family: "net", Counter: 1, Stage: registry.Candidate, Import: &registry.Import{}, Models: []registry.Model{{Digest: d}}},
		{Family: "pump", Counter: 1, Stage: registry.Promoted, Models: []registry.Model{{Digest: d}}},
	} {
		if err := r.reg.SaveVersion(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := r.backbone(ctx, "net"); err != nil || string(b) != "a network" {
		t.Errorf("got %q, %v", b, err)
	}
	for _, name := range []string{"gone", "pump"} {
		if _, err := r.backbone(ctx, name); err == nil || !strings.Contains(err.Error(), "not in the model garden") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
