// Package feedbacktest holds the one test that every feedback.Store passes. It
// is imported by tests of the stores only.
package feedbacktest

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Noon is when the frames of Frame begin.
var Noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Frame makes frame number n of a device of class camera, a minute apart.
func Frame(node string, n int, probability float64) feedback.Frame {
	return feedback.Frame{
		Device: topic.ID{Site: "plant", Node: node}, Class: "camera", Row: uint64(n), At: Noon.Add(time.Duration(n) * time.Minute),
		Digest: artifact.Of(fmt.Append(nil, node, n)), Bytes: 900, Width: 64, Height: 48, Format: "jpg", Why: "uncertain",
		Release: "camera-7", Score: 0.8, Top: "scratch", TopProbability: probability,
	}
}

// Exercise runs every promise of feedback.Store; open returns a fresh one.
func Exercise(t *testing.T, open func(*testing.T) feedback.Store) {
	t.Run("frames", func(t *testing.T) { exerciseFrames(t, open(t)) })
	t.Run("labels", func(t *testing.T) { exerciseLabels(t, open(t)) })
	t.Run("queue", func(t *testing.T) { exerciseQueue(t, open(t)) })
}

func exerciseFrames(t *testing.T, s feedback.Store) {
	ctx := t.Context()
	var want []feedback.Frame
	for n := range 4 {
		for _, node := range []string{"cam-1", "cam-2"} {
			f := Frame(node, n, 0.6)
			want = append(want, f)
			if fresh, err := s.AddFrame(ctx, f); err != nil || !fresh {
				t.Fatalf("first time: fresh %v, %v", fresh, err)
			}
		}
	}
	again := want[0]
	again.Row, again.At = 99, Noon.Add(time.Hour)
	if fresh, err := s.AddFrame(ctx, again); err != nil || fresh {
		t.Errorf("the same picture again: fresh %v, %v", fresh, err)
	}
	other := want[0]
	other.Device.Node, other.Class, other.At = "cam-3", "lamp", Noon.Add(time.Hour)
	if fresh, err := s.AddFrame(ctx, other); err != nil || !fresh {
		t.Errorf("the same picture of another device: fresh %v, %v", fresh, err)
	}
	if f, err := s.Frame(ctx, want[0].Digest); err != nil || !reflect.DeepEqual(f, want[0]) {
		t.Errorf("a digest of two devices: %+v, %v, want the first", f, err)
	}
	if _, err := s.Frame(ctx, artifact.Of([]byte("never"))); !errors.Is(err, feedback.ErrNoFrame) {
		t.Errorf("a frame nobody sent: %v, want ErrNoFrame", err)
	}
	var got []feedback.Frame
	for q := (feedback.Query{Limit: 2, Classes: []artifact.Class{"camera", "drill"}}); ; {
		page, err := s.Frames(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		q.After = page[len(page)-1].Cursor()
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames in pages of two, want %d", len(got), len(want))
	}
	for i := range got[1:] {
		if feedback.CompareFrames(got[i], got[i+1]) >= 0 {
			t.Errorf("frames out of order at %d", i)
		}
	}
	one, err := s.Frames(ctx, feedback.Query{Device: &want[1].Device, From: Noon.Add(time.Minute), To: Noon.Add(3 * time.Minute)})
	if err != nil || len(one) != 2 || one[0].Row != 1 || one[1].Row != 2 {
		t.Errorf("two minutes of one device: %+v, %v", one, err)
	}
	if _, err := s.Frames(ctx, feedback.Query{After: "nonsense"}); !errors.Is(err, feedback.ErrInvalid) {
		t.Errorf("a cursor from nowhere: %v, want ErrInvalid", err)
	}
	if err := s.RemoveFrames(ctx, []artifact.Digest{want[0].Digest, artifact.Of([]byte("never"))}); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Frames(ctx, feedback.Query{}); err != nil || len(all) != len(want)-1 {
		t.Errorf("%d frames after one digest was removed, %v, want %d", len(all), err, len(want)-1)
	}
}

func exerciseLabels(t *testing.T, s feedback.Store) {
	ctx := t.Context()
	pump := topic.ID{Site: "plant", Node: "pump-1"}
	stretch := feedback.Label{Device: pump, Class: "pump", From: Noon, To: Noon.Add(time.Hour), Value: feedback.Anomaly, By: "user:ann", Reason: "bearing", At: Noon.Add(2 * time.Hour)}
	frame := feedback.Label{Device: topic.ID{Site: "plant", Node: "cam-1"}, Class: "camera", From: Noon.Add(time.Minute), To: Noon.Add(time.Minute), Frame: artifact.Of([]byte("f")), Value: "scratch", By: "user:ann", At: Noon.Add(2 * time.Hour)}
	bob := stretch
	bob.By, bob.Value = "user:bob", feedback.Normal
	if err := s.AddLabels(ctx, []feedback.Label{stretch, frame, bob}); err != nil {
		t.Fatal(err)
	}
	changed, stale := stretch, stretch
	changed.Value, changed.At = feedback.Normal, stretch.At.Add(time.Minute)
	stale.Value, stale.At = feedback.Unsure, stretch.At.Add(-time.Minute)
	for _, l := range []feedback.Label{changed, stale} {
		if err := s.AddLabels(ctx, []feedback.Label{l}); err != nil {
			t.Fatal(err)
		}
	}
	want := []feedback.Label{changed, bob, frame}
	if got, err := s.Labels(ctx, feedback.Query{}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("labels %+v, %v\nwant %+v", got, err, want)
	}
	var paged []feedback.Label
	for q := (feedback.Query{Limit: 1}); len(paged) <= len(want); q.After = paged[len(paged)-1].Cursor() {
		page, err := s.Labels(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
	}
	if !reflect.DeepEqual(paged, want) {
		t.Errorf("labels in pages of one: %+v", paged)
	}
	for name, c := range map[string]struct {
		q    feedback.Query
		want int
	}{
		"of the pump":                 {feedback.Query{Device: &pump}, 2},
		"of cameras":                  {feedback.Query{Classes: []artifact.Class{"camera"}}, 1},
		"that overlap the half hour":  {feedback.Query{From: Noon.Add(30 * time.Minute), To: Noon.Add(31 * time.Minute)}, 2},
		"before anything was seen":    {feedback.Query{To: Noon}, 0},
		"after everything was over":   {feedback.Query{From: Noon.Add(61 * time.Minute)}, 0},
		"of a class without a device": {feedback.Query{Classes: []artifact.Class{"drill"}}, 0},
	} {
		if got, err := s.Labels(ctx, c.q); err != nil || len(got) != c.want {
			t.Errorf("labels %s: %d, %v, want %d", name, len(got), err, c.want)
		}
	}
}

func exerciseQueue(t *testing.T, s feedback.Store) {
	ctx := t.Context()
	sure, unsure, labelled := Frame("cam-1", 0, 0.99), Frame("cam-1", 1, 0.40), Frame("cam-2", 2, 0.35)
	for _, f := range []feedback.Frame{sure, unsure, labelled, Frame("cam-2", 3, 0.5)} {
		if _, err := s.AddFrame(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddLabels(ctx, []feedback.Label{{Device: labelled.Device, Class: "camera", From: labelled.At, To: labelled.At, Frame: labelled.Digest, Value: feedback.Unsure, By: "user:ann", At: Noon}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Queue(ctx, feedback.Query{Limit: 2})
	if err != nil || len(got) != 2 || got[0].Digest != unsure.Digest || got[1].Device.Node != "cam-2" || got[1].Digest == labelled.Digest {
		t.Errorf("queue %+v, %v: want the least sure frame, then the other device's unlabelled one", got, err)
	}
	if rest, err := s.Frames(ctx, feedback.Query{Unlabelled: true}); err != nil || len(rest) != 3 {
		t.Errorf("%d unlabelled frames, %v, want 3", len(rest), err)
	}
}
