package feedback_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/feedback/feedbacktest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

func TestMemory(t *testing.T) {
	feedbacktest.Exercise(t, func(*testing.T) feedback.Store { return &feedback.Memory{} })
}

var (
	cam  = topic.ID{Site: "plant", Node: "cam-1"}
	pump = topic.ID{Site: "plant", Node: "pump-1"}
)

// service returns one that knows a camera with a frame and a pump, and the acts
// it recorded.
func service(t *testing.T) (*feedback.Service, *[]feedback.Act) {
	t.Helper()
	store := &feedback.Memory{}
	if _, err := store.AddFrame(t.Context(), feedbacktest.Frame("cam-1", 1, 0.4)); err != nil {
		t.Fatal(err)
	}
	acts := &[]feedback.Act{}
	return feedback.NewService(feedback.Config{
		Store: store,
		Class: func(id topic.ID) (artifact.Class, bool) {
			c, ok := map[topic.ID]artifact.Class{cam: "camera", pump: "pump"}[id]
			return c, ok
		},
		Audit: func(_ context.Context, a feedback.Act) error { *acts = append(*acts, a); return nil },
		Now:   func() time.Time { return feedbacktest.Noon.Add(time.Hour) },
	}), acts
}

func TestLabelsAreFilledInRecordedAndStored(t *testing.T) {
	s, acts := service(t)
	frame := feedbacktest.Frame("cam-1", 1, 0.4)
	out, err := s.AddLabels(t.Context(), "user:ann", "round of the morning", []feedback.Label{
		{Frame: frame.Digest, Value: "scratch"},
		{Device: pump, From: feedbacktest.Noon, To: feedbacktest.Noon.Add(time.Minute), Value: feedback.Anomaly, Reason: "bearing"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if l := out[0]; l.Device != cam || l.Class != "camera" || !l.From.Equal(frame.At) || l.By != "user:ann" || l.Reason != "round of the morning" {
		t.Errorf("frame's label %+v", l)
	}
	if out[1].Class != "pump" || out[1].Reason != "bearing" {
		t.Errorf("stretch's label %+v", out[1])
	}
	if got, _ := s.Labels(t.Context(), feedback.Query{}); len(got) != 2 {
		t.Errorf("%d labels stored, want 2", len(got))
	}
	if len(*acts) != 1 || (*acts)[0].Values["scratch"] != 1 || (*acts)[0].Object != "Labels/2" || !strings.Contains(string((*acts)[0].Detail()), "Device/plant/pump-1") {
		t.Errorf("recorded %+v", *acts)
	}
}

func TestLabelsThatSayNothingUsableAreRefusedTogether(t *testing.T) {
	ok := feedback.Label{Device: pump, From: feedbacktest.Noon, To: feedbacktest.Noon.Add(time.Minute), Value: feedback.Normal}
	for name, c := range map[string]struct {
		change func(*feedback.Label)
		say    string
	}{
		"unknown device":       {func(l *feedback.Label) { l.Device.Node = "nobody" }, "no device plant/nobody is enrolled"},
		"unknown frame":        {func(l *feedback.Label) { *l = feedback.Label{Frame: artifact.Of(nil), Value: "scratch"} }, "no device uploaded a frame"},
		"a frame's bad digest": {func(l *feedback.Label) { l.Frame = "sha256:zz" }, "digest"},
		"class of a stretch":   {func(l *feedback.Label) { l.Value = "scratch" }, "only frames have classes"},
		"empty value":          {func(l *feedback.Label) { l.Value = "" }, "value"},
		"backwards":            {func(l *feedback.Label) { l.From, l.To = l.To, l.From }, "it ends at"},
		"no time":              {func(l *feedback.Label) { l.From = time.Time{} }, "needs from and to"},
		"too long":             {func(l *feedback.Label) { l.From = l.To.Add(-32 * 24 * time.Hour) }, "label at most"},
		"in the future":        {func(l *feedback.Label) { l.To = feedbacktest.Noon.Add(3 * time.Hour) }, "in the future"},
		"twice in one act":     {func(l *feedback.Label) { *l = ok }, "labelled twice"},
		"control characters": {func(l *feedback.Label) {
			*l = feedback.Label{Frame: feedbacktest.Frame("cam-1", 1, 0).Digest, Value: "a\nb"}
		}, "class name"},
	} {
		t.Run(name, func(t *testing.T) {
			s, acts := service(t)
			wrong := ok
			c.change(&wrong)
			_, err := s.AddLabels(t.Context(), "user:ann", "", []feedback.Label{ok, wrong})
			if !errors.Is(err, feedback.ErrInvalid) || !strings.Contains(err.Error(), "label 2") || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, want label 2: … %s", err, c.say)
			}
			if got, _ := s.Labels(t.Context(), feedback.Query{}); len(got) != 0 || len(*acts) != 0 {
				t.Errorf("%d labels stored and %d acts recorded, want none", len(got), len(*acts))
			}
		})
	}
	s, _ := service(t)
	for _, n := range []int{0, feedback.MaxBatch + 1} {
		if _, err := s.AddLabels(t.Context(), "user:ann", "", make([]feedback.Label, n)); !errors.Is(err, feedback.ErrInvalid) {
			t.Errorf("%d labels: %v", n, err)
		}
	}
}

// TestAQueueSpreads checks what Order promises on random frames.
func TestAQueueSpreads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var frames []feedback.Frame
		for range rapid.IntRange(0, 40).Draw(t, "frames") {
			f := feedbacktest.Frame(rapid.SampledFrom([]string{"cam-1", "cam-2", "cam-3"}).Draw(t, "node"), rapid.IntRange(0, 50).Draw(t, "n"), rapid.Float64Range(0, 1).Draw(t, "p"))
			f.At = feedbacktest.Noon.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "s")) * time.Second)
			f.Top = rapid.SampledFrom([]string{"", "scratch", "good"}).Draw(t, "top")
			frames = append(frames, f)
		}
		limit := rapid.IntRange(1, 12).Draw(t, "limit")
		out := feedback.Order(frames, limit)
		if len(out) > limit || len(frames) > 0 && len(out) == 0 {
			t.Fatalf("%d of %d frames, limit %d", len(out), len(frames), limit)
		}
		for i, a := range out {
			if i == 0 {
				for _, f := range frames {
					if f.Doubt() > a.Doubt()+1e-9 { // worth is a sum of floats
						t.Fatalf("a frame of doubt %g comes before the first, of %g", f.Doubt(), a.Doubt())
					}
				}
			}
			for _, b := range out[:i] {
				if a.Digest == b.Digest || a.Device == b.Device && a.At.Sub(b.At).Abs() < feedback.NearS*time.Second {
					t.Fatalf("near-duplicates %+v and %+v", b, a)
				}
			}
		}
		slices.Reverse(frames)
		if len(frames) > 0 && !slices.EqualFunc(out, feedback.Order(frames, limit), func(a, b feedback.Frame) bool { return a.Identity() == b.Identity() }) {
			seen := map[string]bool{}
			for _, f := range frames { // equal identities with other contents have no order
				if seen[f.Identity()] {
					return
				}
				seen[f.Identity()] = true
			}
			t.Fatal("the queue depends on the order of its input")
		}
	})
}
