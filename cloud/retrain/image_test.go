package retrain

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// photos are images of cameras, with what people said of them.
type photos struct {
	t      *testing.T
	s      *Service
	frames []feedback.Frame
	labels []feedback.Label
}

func newPhotos(t *testing.T) *photos {
	objs, err := dir.Open(filepath.Join(t.TempDir(), "objects"))
	if err != nil {
		t.Fatal(err)
	}
	return &photos{t: t, s: &Service{cfg: Config{Objects: objs}}}
}

var eye = topic.ID{Site: "hall-1", Node: "eye-1"}

// shot is a picture that differs from those of other seeds.
func shot(seed int) []byte {
	m := image.NewGray(image.Rect(0, 0, 32, 32))
	for i := range m.Pix {
		m.Pix[i] = uint8((i*(seed%7+3) + seed*37) % 251)
	}
	return encoded(m)
}

func encoded(m image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func plain(v uint8) []byte {
	m := image.NewGray(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			m.SetGray(x, y, color.Gray{v})
		}
	}
	return encoded(m)
}

// take puts an image of a camera into the hub, as if ana had labelled it.
func (p *photos) take(device topic.ID, content []byte, label string) {
	p.t.Helper()
	f := feedback.Frame{Device: device, Class: "eye", Row: uint64(len(p.frames)), At: night.Add(-time.Hour), Digest: artifact.Of(content), Format: "png"}
	if err := p.s.put(p.t.Context(), f.Key(), content); err != nil {
		p.t.Fatal(err)
	}
	p.frames = append(p.frames, f)
	if label != "" {
		p.labels = append(p.labels, feedback.Label{Frame: f.Digest, Value: label, By: "user:ana", At: night.Add(-time.Minute)})
	}
}

// validate is the night's look at them.
func (p *photos) validate(change func(*Policy)) (ClassData, []Drop, string) {
	p.t.Helper()
	pol := Policy{Name: "eyes"}
	pol.Images.Fit = zoo.ImageConfig{Height: 16}
	if change != nil {
		change(&pol)
	}
	devices := map[topic.ID]bool{}
	var list []Device
	for _, f := range p.frames {
		if !devices[f.Device] {
			devices[f.Device] = true
			list = append(list, Device{ID: f.Device, Class: "eye"})
		}
	}
	c, dropped, refusal, err := p.s.validateImages(p.t.Context(), Order{Policy: pol.withDefaults()}, "eye", frameRefs(list, p.frames, p.labels))
	if err != nil {
		p.t.Fatal(err)
	}
	return c, dropped, refusal
}

func TestLabelsOfImagesAreWhatPeopleSaidLast(t *testing.T) {
	p := newPhotos(t)
	p.take(eye, shot(1), "crack")
	p.take(eye, shot(2), "crack")
	p.take(eye, shot(3), "")
	p.take(topic.ID{Site: "hall-9", Node: "stranger"}, shot(4), "crack")
	p.labels = append(p.labels,
		feedback.Label{Frame: p.frames[0].Digest, Value: "good", By: "user:bo", At: night},
		feedback.Label{Frame: p.frames[1].Digest, Value: feedback.Unsure, By: "user:bo", At: night},
		feedback.Label{Device: eye, Value: feedback.Anomaly, By: "user:bo", At: night})
	got := map[uint64]string{}
	for _, f := range frameRefs([]Device{{ID: eye, Class: "eye"}}, p.frames, p.labels) {
		got[f.Row] = f.Label
	}
	if want := (map[uint64]string{0: "good", 1: "", 2: ""}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("labels %v, want %v", got, want)
	}
}

func TestImagesThatTeachNonsenseAreLeftOut(t *testing.T) {
	p := newPhotos(t)
	for i := range 20 {
		p.take(eye, shot(i), []string{"good", "crack"}[i%2])
	}
	p.take(eye, []byte("\x89PNG\r\n\x1a\nrubbish"), "good")
	p.take(eye, plain(90), "good")
	p.take(eye, shot(100), "dent")
	p.take(eye, shot(101), "")
	p.frames[0].Digest = artifact.Of([]byte("what was never stored"))
	p.labels[0].Frame = p.frames[0].Digest
	c, dropped, refusal := p.validate(nil)
	if refusal != "" {
		t.Fatal(refusal)
	}
	d := c.Images
	if d.Images != 19 || fmt.Sprint(d.Classes, d.Normal, d.Counts) != "[crack good] [good] map[crack:10 good:9]" || d.Height != 16 {
		t.Errorf("usable: %+v", *d)
	}
	var why []string
	for _, x := range dropped {
		why = append(why, fmt.Sprintf("%d %s", x.Rows, x.Why))
	}
	for _, want := range []string{"1 nothing is to be seen on it", "1 image cannot be read: it is not in object storage", "1 image cannot be read: decode", `1 only 1 usable images are labelled "dent"`} {
		if !strings.Contains(strings.Join(why, "\n"), want) {
			t.Errorf("%q is not among what was left out:\n%s", want, strings.Join(why, "\n"))
		}
	}
}

func TestTheSamePictureNeverLearnsAndJudges(t *testing.T) {
	p := newPhotos(t)
	for i := range 50 {
		p.take(eye, shot(i), []string{"good", "crack"}[i%2])
	}
	other := topic.ID{Site: "hall-1", Node: "eye-2"}
	for i := range 50 { // the same pictures, encoded differently
		m, err := png.Decode(bytes.NewReader(shot(i)))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&b, m); err != nil {
			t.Fatal(err)
		}
		label := []string{"good", "crack"}[i%2]
		if i == 7 {
			label = "good" // where the other is a crack
		}
		p.take(other, b.Bytes(), label)
	}
	c, _, refusal := p.validate(nil)
	if refusal != "" || c.Images.Images != 49 {
		t.Fatalf("%d usable images (%s): want each once, and none that is called two things", c.Images.Images, refusal)
	}
	set, err := p.s.imageSet(t.Context(), c.Images.Set)
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]int{}
	for _, f := range set.Images {
		if f.Held {
			held[f.Label]++
		}
	}
	if held["good"] != 5 || held["crack"] != 4 {
		t.Errorf("kept back to judge: %v, want a fifth of 25 and of 24", held)
	}
	learn, err := p.s.imagesOf(t.Context(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	judges, err := p.s.imagesOf(t.Context(), c, true)
	if err != nil || len(learn)+len(judges) != 49 || len(learn) != 40 {
		t.Errorf("%d to learn from and %d to judge: %v", len(learn), len(judges), err)
	}
}

func TestNightsWithoutEnoughImagesAreRefusedWithAReason(t *testing.T) {
	for name, tc := range map[string]struct {
		take   func(p *photos)
		change func(*Policy)
		want   string
	}{
		"too few": {func(p *photos) { p.take(eye, shot(1), "good"); p.take(eye, shot(2), "good") }, nil, "class eye: 2 of 2 images are usable, at least 5 are needed"},
		"a camera that is out of order": {func(p *photos) {
			for i := range 20 {
				p.take(eye, shot(i), "good")
				p.take(eye, plain(uint8(i)), "")
			}
		}, nil, ""}, // the plain ones are not labelled, so nobody looked at them
		"a covered lens": {func(p *photos) {
			for i := range 20 {
				p.take(eye, shot(i), "")
				p.take(eye, plain(uint8(i)), "")
			}
		}, nil, "20 of 40 images of this camera show nothing or cannot be read (limit 20 %)"},
		"too little labelled": {func(p *photos) {
			for i := range 20 {
				p.take(eye, shot(i), map[bool]string{true: "good"}[i < 8])
			}
		}, func(p *Policy) { p.Images.MaxUnlabelled = 0.5 }, "60 % of its images have no label (limit 50 %)"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPhotos(t)
			tc.take(p)
			c, _, refusal := p.validate(tc.change)
			if !strings.Contains(refusal, tc.want) || (tc.want == "") != (refusal == "") {
				t.Errorf("refusal %q, want %q", refusal, tc.want)
			}
			if refusal == "" && (c.Images == nil || len(c.Images.Classes) > 0) {
				t.Errorf("one label is no class to tell apart: %+v", c.Images)
			}
		})
	}
}

func TestImageModelsAreHeldToTheChampionClassByClass(t *testing.T) {
	model := func(accuracy float64, recall map[string]float64) Score {
		s := Score{Candidate: Candidate{Kind: "cnn"}, Windows: 200, Images: &ImageScore{Images: 200, Accuracy: accuracy, Recall: recall, Counts: map[string]int{}}}
		for _, l := range sorted(recall) {
			s.Images.Classes, s.Images.Counts[l] = append(s.Images.Classes, l), 100
		}
		return s
	}
	champion := model(0.95, map[string]float64{"crack": 0.9, "good": 1})
	for name, tc := range map[string]struct {
		candidate Score
		champion  *Score
		fails     string // gate; empty: it passes
	}{
		"good enough, no champion":             {model(0.8, map[string]float64{"crack": 0.7, "good": 0.9}), nil, ""},
		"too poor":                             {model(0.5, map[string]float64{"crack": 0.5, "good": 0.5}), nil, "accuracy"},
		"as good as the champion":              {champion, &champion, ""},
		"better on the whole, worse on cracks": {model(0.96, map[string]float64{"crack": 0.8, "good": 1}), &champion, "not-worse/crack"},
		"no longer knows a class":              {model(1, map[string]float64{"good": 1, "dent": 1}), &champion, "not-worse/crack"},
		"not a number": {func() Score {
			s := model(0.99, map[string]float64{"crack": 1, "good": 1})
			s.NonFinite = 1
			return s
		}(), nil, "non-finite"},
	} {
		t.Run(name, func(t *testing.T) {
			p := Policy{Name: "eyes"}.withDefaults()
			b := Bless(p.Gates, Judged{Classes: []JudgedClass{{Class: "eye", Windows: 200, Champion: tc.champion, Candidates: []Score{tc.candidate}}}})
			var failed []string
			for _, g := range b.Gates {
				if g.Verdict != Pass {
					failed = append(failed, g.Gate)
				}
			}
			if strings.Join(failed, " ") != tc.fails || (len(b.Winners) == 1) != (tc.fails == "") {
				t.Errorf("failed %v, winners %d, refusals %v: want %q", failed, len(b.Winners), b.Refusals, tc.fails)
			}
		})
	}
}

// A network that somebody imported says how large pictures have to be, and
// competes beside the one from scratch.
func TestABackboneOfTheGardenLearnsWithANewLastLayer(t *testing.T) {
	if _, err := runtime.Library(""); err != nil {
		t.Skip(err)
	}
	p := newPhotos(t)
	reg := &registry.Memory{}
	p.s.cfg.Registry = reg
	b := &onnx.Builder{}
	x := b.Input("pixels", onnx.Float, onnx.Batch, 3, 24, 24)
	r := rand.New(rand.NewPCG(1, 1))
	weights := func(n int) (w []float32) {
		for range n {
			w = append(w, float32(r.NormFloat64()))
		}
		return w
	}
	y := b.Node("Relu", []string{b.Node("Conv", []string{x, b.Floats("w", weights(8*3*9), 8, 3, 3, 3)}, onnx.Ints("kernel_shape", 3, 3))})
	y = b.Node("Flatten", []string{b.Node("GlobalAveragePool", []string{y})})
	b.NodeTo([]string{"out"}, "Gemm", []string{y, b.Floats("last", weights(80), 8, 10)})
	b.Output("out", onnx.Float, onnx.Batch, 10)
	net, err := onnx.Marshal("net", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := p.s.putModel(t.Context(), net)
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.SaveVersion(t.Context(), registry.Version{Family: "net", Counter: 1, Stage: registry.Candidate, Import: &registry.Import{}, Models: []registry.Model{{Digest: digest}}}); err != nil {
		t.Fatal(err)
	}
	for i := range 24 { // two patterns of lines, at many places
		p.take(eye, lines(i, 2+i%2*6), []string{"fine", "coarse"}[i%2])
	}
	var policy Policy
	c, dropped, refusal := p.validate(func(pol *Policy) {
		pol.Images.Fit = zoo.ImageConfig{}
		pol.Images.Backbone = "net"
		policy = *pol
	})
	if refusal != "" || len(dropped) > 0 || c.Images.Height != 24 || c.Images.Width != 24 {
		t.Fatalf("refused %q, dropped %v, pictures of %d by %d pixels", refusal, dropped, c.Images.Height, c.Images.Width)
	}
	policy = policy.withDefaults()
	if kinds := imageKinds(policy, *c.Images); len(kinds) != 2 || kinds[1] != zoo.Head {
		t.Fatalf("%v compete", kinds)
	}
	cand, err := p.s.fitImages(t.Context(), Order{Policy: policy}, artifact.Of(nil), c, zoo.Head)
	if err != nil {
		t.Fatal(err)
	}
	if accuracy, _ := cand.Card["accuracy"].(float64); accuracy < 0.7 {
		t.Errorf("accuracy on images held out of the fit is %v", cand.Card["accuracy"])
	}
}

// lines is a picture with lines of the given width, moved by seed.
func lines(seed, width int) []byte {
	m := image.NewGray(image.Rect(0, 0, 32, 32))
	for i := range m.Pix {
		if (i%32+seed)/width%2 == 0 {
			m.Pix[i] = 200
		}
		m.Pix[i] += uint8(seed + i/32%3)
	}
	return encoded(m)
}

// Where only good parts are known, damage is drawn onto them to tell detectors
// apart; few of them say little of small differences.
func TestDrawnDefectsChooseAmongDetectorsOfTheUnusual(t *testing.T) {
	model := func(kind string, found float64) Score {
		return Score{Candidate: Candidate{Kind: kind}, Windows: 40, Faults: 120, Detected: found, Images: &ImageScore{Images: 40, Counts: map[string]int{}}}
	}
	for name, tc := range map[string]struct {
		first, second float64
		champion      *Score
		wins          string // empty: nobody
	}{
		"much better": {0.1, 0.6, nil, "image-neighbour"},
		"as good":     {0.55, 0.6, nil, "mahalanobis"},
		"the champion finds more": {0.2, 0.3, func() *Score {
			s := model("image-neighbour", 0.9)
			return &s
		}(), ""},
		"the champion flags everything": {0.2, 0.3, func() *Score {
			s := model("image-neighbour", 1)
			s.FlagShare = 1
			return &s
		}(), "image-neighbour"},
	} {
		p := Policy{Name: "eyes"}.withDefaults()
		b := Bless(p.Gates, Judged{Classes: []JudgedClass{{Class: "eye", Windows: 40, Champion: tc.champion, Candidates: []Score{model("mahalanobis", tc.first), model("image-neighbour", tc.second)}}}})
		switch {
		case tc.wins == "":
			if len(b.Winners) > 0 || !strings.Contains(strings.Join(b.Refusals, " "), "drawn defects found, against the champion") {
				t.Errorf("%s: winners %+v, refusals %v", name, b.Winners, b.Refusals)
			}
		case len(b.Winners) != 1 || b.Winners[0].Score.Candidate.Kind != tc.wins:
			t.Errorf("%s: winners %+v, refusals %v", name, b.Winners, b.Refusals)
		case !strings.Contains(b.Winners[0].Why, "% of drawn defects"):
			t.Errorf("%s: why %q", name, b.Winners[0].Why)
		}
	}
}
