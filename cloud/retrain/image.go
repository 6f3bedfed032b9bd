package retrain

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// ImagePolicy says how device classes whose devices are cameras are learned.
// The zero value works.
type ImagePolicy struct {
	// Normal are the labels that mean a good part; empty: "good", "ok" and
	// "normal".
	Normal []string `json:"normal,omitempty"`
	// MinPerClass is how many usable images a label needs to be learned. 0: 5.
	MinPerClass int `json:"min_per_class,omitempty"`
	// MaxUnlabelled is the largest share of images without a label. 0: no
	// limit, since cameras send more than people label.
	MaxUnlabelled float64 `json:"max_unlabelled,omitempty"`
	// HoldOut is the share of each label's images that judges and is not learned
	// from. 0: a fifth; below 0: none, and what was learned from judges.
	HoldOut float64 `json:"hold_out,omitempty"`
	// Backbone names a network of the model garden that "head" and the others
	// look with; its newest version counts. Empty: none.
	Backbone string `json:"backbone,omitempty"`
	// Fit says how to fit; the policy's seed replaces its own.
	Fit zoo.ImageConfig `json:"fit"`
}

// minPerClass is the default of ImagePolicy.MinPerClass.
const minPerClass = 5

func (p ImagePolicy) withDefaults(seed uint64) ImagePolicy {
	if len(p.Normal) == 0 {
		p.Normal = []string{"good", "ok", feedback.Normal}
	}
	if p.MinPerClass == 0 {
		p.MinPerClass = minPerClass
	}
	setDefault(&p.MaxUnlabelled, 1)
	setDefault(&p.HoldOut, holdOut)
	p.HoldOut = max(p.HoldOut, 0)
	p.Fit.Seed = seed
	return p
}

// Validate reports what makes the policy unusable.
func (p ImagePolicy) Validate() error {
	var errs []error
	if p.MinPerClass < 0 || p.HoldOut > 0.9 || p.MaxUnlabelled < 0 || p.MaxUnlabelled > 1 {
		errs = append(errs, errors.New("images: want min_per_class of 0 or more, hold_out of at most 0.9, max_unlabelled from 0 to 1"))
	}
	if err := p.Fit.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("images: %w", err))
	}
	return errors.Join(errs...)
}

// FrameRef is one image of a snapshot.
type FrameRef struct {
	Device topic.ID        `json:"device"`
	Class  artifact.Class  `json:"class"` // of the device
	Digest artifact.Digest `json:"digest"`
	Key    string          `json:"key"` // in object storage
	Row    uint64          `json:"row"`
	At     time.Time       `json:"at"`
	Label  string          `json:"label,omitempty"` // what is on it; empty: nobody said
}

// frameRefs joins the images of devices with what people said of them last.
func frameRefs(devices []Device, frames []feedback.Frame, labels []feedback.Label) []FrameRef {
	class := map[topic.ID]artifact.Class{}
	for _, d := range devices {
		class[d.ID] = d.Class
	}
	said := map[artifact.Digest]feedback.Label{}
	for _, l := range labels {
		if before, ok := said[l.Frame]; l.Frame != "" && (!ok || l.At.After(before.At)) {
			said[l.Frame] = l
		}
	}
	var out []FrameRef
	seen := map[artifact.Digest]bool{}
	for _, f := range frames {
		c, ok := class[f.Device]
		if !ok || seen[f.Digest] {
			continue
		}
		seen[f.Digest] = true
		r := FrameRef{Device: f.Device, Class: c, Digest: f.Digest, Key: f.Key(), Row: f.Row, At: f.At, Label: said[f.Digest].Value}
		if r.Label == feedback.Unsure {
			r.Label = ""
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b FrameRef) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Digest, b.Digest))
	})
	return out
}

// framesOf are the images of one device class.
func framesOf(snap Snapshot, class artifact.Class) []FrameRef {
	var out []FrameRef
	for _, f := range snap.Frames {
		if f.Class == class {
			out = append(out, f)
		}
	}
	return out
}

// ImageData describes the usable images of a device class. Nil in ClassData
// means that the class's devices are no cameras.
type ImageData struct {
	// Set is the digest of the list of images to learn from and to judge by; it
	// is stored beside the snapshot.
	Set     artifact.Digest `json:"set"`
	Images  int             `json:"images"`            // usable
	Classes []string        `json:"classes,omitempty"` // to tell apart; empty: only good parts are known
	Normal  []string        `json:"normal,omitempty"`  // of them, those that are good parts
	Counts  map[string]int  `json:"counts,omitempty"`  // usable images of each label
	Height  int             `json:"height"`            // pixels that models read
	Width   int             `json:"width"`
}

// imageSet lists what a class's models learn from and are judged by.
type imageSet struct {
	Images []setImage `json:"images"` // by digest
}

type setImage struct {
	FrameRef
	Held bool `json:"held"` // kept back to judge
}

func setKey(d artifact.Digest) string { return "snapshots/images/" + d.Hex() + ".json" }

func (s *Service) imageSet(ctx context.Context, d artifact.Digest) (imageSet, error) {
	b, err := s.get(ctx, setKey(d))
	if err != nil {
		return imageSet{}, err
	}
	if artifact.Of(b) != d {
		return imageSet{}, refuse("the list of images %s in object storage was changed", d.Short())
	}
	var set imageSet
	return set, json.Unmarshal(b, &set)
}

// errUnreadable means that an image is gone, changed or no picture.
var errUnreadable = errors.New("image cannot be read")

// picture reads an image and brings it to the size that models read.
func (s *Service) picture(ctx context.Context, f FrameRef, height, width int) (frame.Frame, []byte, error) {
	b, err := s.get(ctx, f.Key)
	if errors.Is(err, objects.ErrNotFound) {
		return frame.Frame{}, nil, fmt.Errorf("%w: it is not in object storage", errUnreadable)
	}
	if err != nil {
		return frame.Frame{}, nil, err
	}
	if artifact.Of(b) != f.Digest {
		return frame.Frame{}, nil, fmt.Errorf("%w: it was changed in object storage", errUnreadable)
	}
	m, err := frame.Decode(b, frame.Limits{})
	if err != nil {
		return frame.Frame{}, nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return m, m.Resize(height, width, nil), nil
}

// minContrast is the least standard deviation of an image's brightness, as a
// share of white: below it a lens is covered or a camera dead.
const minContrast = 0.004

// validateImages looks at every image of a class, keeps back what would teach
// nonsense, and decides what can be learned. refusal says why nothing can.
func (s *Service) validateImages(ctx context.Context, o Order, class artifact.Class, frames []FrameRef) (c ClassData, dropped []Drop, refusal string, err error) {
	p := o.Policy.Images
	c = ClassData{Class: class, HoldOut: p.HoldOut}
	d := ImageData{Counts: map[string]int{}}
	cfg, err := s.imageConfig(ctx, p)
	if err != nil {
		return c, nil, "", err
	}
	if d.Height, d.Width, err = cfg.Size(); err != nil {
		return c, nil, fmt.Sprintf("class %s: %v", class, err), nil
	}
	left := map[string]int{} // images left out, by why
	drop := func(f FrameRef, why string) {
		left[f.Device.String()+"\x00"+why]++
	}
	labelled := slices.ContainsFunc(frames, func(f FrameRef) bool { return f.Label != "" })
	var usable []FrameRef
	pixels := map[artifact.Digest]int{} // of the resized images: index into usable
	unlabelled := 0
	looked, bad := map[topic.ID]int{}, map[topic.ID]int{} // images of each device
	for _, f := range frames {
		if labelled && f.Label == "" {
			unlabelled++
			continue // people look at some of what cameras send; the rest says nothing
		}
		looked[f.Device]++
		m, small, err := s.picture(ctx, f, d.Height, d.Width)
		if errors.Is(err, errUnreadable) {
			bad[f.Device]++
			drop(f, err.Error())
			continue
		}
		if err != nil {
			return c, nil, "", err
		}
		if contrast := m.Features()[1]; !(contrast >= minContrast) {
			bad[f.Device]++
			drop(f, "nothing is to be seen on it: it is of one colour")
			continue
		}
		// The same picture on both sides of the hold-out would praise whoever
		// remembers it.
		same := artifact.Of(small)
		if first, ok := pixels[same]; ok {
			if usable[first].Label != f.Label {
				drop(f, "the same picture has another label, too")
				usable[first].Label = ""
			} else {
				drop(f, "the same picture came twice")
			}
			continue
		}
		pixels[same] = len(usable)
		usable = append(usable, f)
	}
	// A camera that sends so much rubbish is out of order, and so may be the
	// rest of what it sends.
	usable = slices.DeleteFunc(usable, func(f FrameRef) bool {
		broken := float64(bad[f.Device]) > o.Policy.Gates.MaxMissing*float64(looked[f.Device])
		if broken {
			drop(f, fmt.Sprintf("%d of %d images of this camera show nothing or cannot be read (limit %.0f %%)", bad[f.Device], looked[f.Device], 100*o.Policy.Gates.MaxMissing))
		}
		return broken
	})
	if labelled {
		usable = slices.DeleteFunc(usable, func(f FrameRef) bool {
			if f.Label == "" {
				drop(f, "the same picture has another label, too")
			}
			return f.Label == ""
		})
	}
	for _, f := range usable {
		d.Counts[f.Label]++
	}
	for _, label := range sorted(d.Counts) {
		if n := d.Counts[label]; n < p.MinPerClass && len(d.Counts) > 1 {
			usable = slices.DeleteFunc(usable, func(f FrameRef) bool {
				if f.Label == label {
					drop(f, fmt.Sprintf("only %d usable images are labelled %q, %d are needed", n, label, p.MinPerClass))
				}
				return f.Label == label
			})
			delete(d.Counts, label)
		}
	}
	for _, key := range sorted(left) {
		device, why, _ := strings.Cut(key, "\x00")
		dropped = append(dropped, Drop{device, "images", left[key], why})
	}
	d.Images = len(usable)
	switch {
	case d.Images < p.MinPerClass:
		return c, dropped, fmt.Sprintf("class %s: %d of %d images are usable, at least %d are needed%s", class, d.Images, len(frames), p.MinPerClass, reasons(dropped)), nil
	case labelled && float64(unlabelled) > p.MaxUnlabelled*float64(len(frames)):
		return c, dropped, fmt.Sprintf("class %s: %.0f %% of its images have no label (limit %.0f %%)", class, 100*float64(unlabelled)/float64(len(frames)), 100*p.MaxUnlabelled), nil
	}
	if len(d.Counts) > 1 {
		d.Classes = sorted(d.Counts)
		for _, label := range d.Classes {
			if slices.Contains(p.Normal, label) {
				d.Normal = append(d.Normal, label)
			}
		}
	}
	devices := map[string]bool{}
	for _, f := range usable {
		devices[f.Device.String()] = true
	}
	c.Devices, c.Rows = sorted(devices), d.Images
	b, err := json.Marshal(imageSet{hold(usable, p.HoldOut)})
	if err != nil {
		return c, dropped, "", err
	}
	d.Set, c.Images = artifact.Of(b), &d
	return c, dropped, "", s.put(ctx, setKey(d.Set), b)
}

// reasons lists why images were left out, for the end of a sentence.
func reasons(dropped []Drop) string {
	var out []string
	for _, d := range dropped {
		out = append(out, fmt.Sprintf("%d of %s: %s", d.Rows, d.Device, d.Why))
	}
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, "; ") + ")"
}

// hold keeps back a share of each label's images. They are in the order of
// their digests, which is as good as drawn by lot, and the same every time.
func hold(frames []FrameRef, share float64) []setImage {
	slices.SortFunc(frames, func(a, b FrameRef) int { return cmp.Compare(a.Digest, b.Digest) })
	count, out := map[string]int{}, make([]setImage, len(frames))
	for i, f := range frames {
		n := count[f.Label]
		count[f.Label]++
		// One of every 1/share: at n the number kept back so far rises.
		out[i] = setImage{f, int(float64(n+1)*share) > int(float64(n)*share)}
	}
	return out
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// imagesOf lists what a class's models learn from, or, with held, what judges
// them. Nothing kept back means that what was learned from judges.
func (s *Service) imagesOf(ctx context.Context, c ClassData, held bool) ([]FrameRef, error) {
	set, err := s.imageSet(ctx, c.Images.Set)
	if err != nil {
		return nil, err
	}
	var out []FrameRef
	for _, f := range set.Images {
		if f.Held == held || c.HoldOut <= 0 {
			out = append(out, f.FrameRef)
		}
	}
	return out, nil
}

// pixels reads one image in the size that models of the class read.
func (s *Service) pixels(ctx context.Context, f FrameRef, d ImageData) ([]byte, error) {
	_, small, err := s.picture(ctx, f, d.Height, d.Width)
	if err != nil {
		return nil, fmt.Errorf("image %s of %s: %w", f.Digest.Short(), f.Device, err)
	}
	return small, nil
}

// dataset describes frames to a fit, all but their pixels.
func (d ImageData) dataset(frames []FrameRef) zoo.ImageDataset {
	ds := zoo.ImageDataset{Height: d.Height, Width: d.Width, Classes: d.Classes, Normal: d.Normal}
	for _, f := range frames {
		ds.Devices = append(ds.Devices, f.Device.String())
		if len(d.Classes) > 0 {
			ds.Labels = append(ds.Labels, slices.Index(d.Classes, f.Label))
		}
	}
	return ds
}

// imageKinds are the kinds of models that compete for a class of cameras:
// those the policy names and that the images allow, or else the usual ones.
func imageKinds(p Policy, d ImageData) []string {
	usual := []string{zoo.Mahalanobis, zoo.ImageNeighbour}
	if len(d.Classes) > 0 {
		usual = []string{zoo.CNN}
		if len(p.Images.Fit.Backbone) > 0 || p.Images.Backbone != "" {
			usual = append(usual, zoo.Head)
		}
	}
	var out []string
	for _, kind := range p.Kinds {
		classifies := !slices.Contains([]string{zoo.Mahalanobis, zoo.ImageNeighbour}, kind)
		if slices.Contains(zoo.ImageKinds(), kind) && classifies == (len(d.Classes) > 0) {
			out = append(out, kind)
		}
	}
	if len(out) == 0 {
		return usual
	}
	return out
}

// backbone reads the newest version of a network of the model garden.
func (s *Service) backbone(ctx context.Context, name string) ([]byte, error) {
	vs, err := s.cfg.Registry.Versions(ctx, name, 0, 1)
	if err != nil {
		return nil, fmt.Errorf("find backbone %s: %w", name, err)
	}
	if len(vs) == 0 || vs[0].Import == nil || len(vs[0].Models) == 0 {
		return nil, refuse("the policy's backbone %s is not in the model garden: import it first", name)
	}
	return s.getModel(ctx, vs[0].Models[0].Digest)
}

// imageConfig is the policy's, with the bytes of the backbone that it names.
func (s *Service) imageConfig(ctx context.Context, p ImagePolicy) (zoo.ImageConfig, error) {
	cfg := p.Fit
	if p.Backbone != "" {
		var err error
		if cfg.Backbone, err = s.backbone(ctx, p.Backbone); err != nil {
			return cfg, err
		}
	}
	if len(cfg.Backbone) > 0 && cfg.BackboneDigest == "" {
		cfg.BackboneDigest = string(artifact.Of(cfg.Backbone))
	}
	return cfg, nil
}

// fitImages fits one kind to a class's images. Equal inputs are fitted once,
// ever.
func (s *Service) fitImages(ctx context.Context, o Order, snapDigest artifact.Digest, c ClassData, kind string) (_ Candidate, err error) {
	cfg, err := s.imageConfig(ctx, o.Policy.Images)
	if err != nil {
		return Candidate{}, err
	}
	key, err := json.Marshal(struct {
		Code, Kind string
		Class      artifact.Class
		Images     ImageData
		Config     zoo.ImageConfig
	}{s.cfg.Code, kind, c.Class, *c.Images, cfg})
	if err != nil {
		return Candidate{}, err
	}
	cacheKey := "models/cache/" + artifact.Of(key).Hex() + ".json"
	if cand, ok, err := s.cached(ctx, cacheKey); ok || err != nil {
		return cand, err
	}
	frames, err := s.imagesOf(ctx, c, false)
	if err != nil {
		return Candidate{}, err
	}
	cfg.DatasetDigest = string(snapDigest)
	state := s.keptOf(ctx, artifact.Of(key))
	defer func() { state.ended(err) }()
	cfg.Checkpoints = state.checkpoints()
	f, err := s.fitImageModel(ctx, o, kind, *c.Images, frames, cfg)
	if err != nil {
		return Candidate{}, fmt.Errorf("fit %s for class %s: %w", kind, c.Class, err)
	}
	return s.keep(ctx, cacheKey, c.Class, f, "")
}

// imageGolden picks images evenly over those that judged the model.
func (s *Service) imageGolden(ctx context.Context, c ClassData, cand Candidate, model []byte) (artifact.Golden, error) {
	frames, err := s.imagesOf(ctx, c, true)
	if err != nil {
		return artifact.Golden{}, err
	}
	contract, err := contractOf(model)
	if err != nil {
		return artifact.Golden{}, err
	}
	var images [][]byte
	for i := range goldenWindows {
		m, err := s.pixels(ctx, frames[i*len(frames)/goldenWindows], *c.Images)
		if err != nil {
			return artifact.Golden{}, err
		}
		if !slices.ContainsFunc(images, func(o []byte) bool { return bytes.Equal(o, m) }) {
			images = append(images, m)
		}
	}
	g, err := zoo.GoldenImages(&zoo.Fitted{Kind: cand.Kind, ONNX: model, Contract: contract, Threshold: cand.Threshold}, images, "")
	if err == nil && len(g.Images) == 0 {
		return g, refuse("no image of class %s is far enough from the threshold to test with", cand.Class)
	}
	return g, err
}

// card says what a model of the class learned from.
func (d ImageData) card(c Candidate) string {
	if len(d.Classes) == 0 {
		return fmt.Sprintf("\nDevice class %s: %s, images of %d by %d pixels; learned from %d good parts.\n", c.Class, c.Kind, d.Width, d.Height, d.Images)
	}
	return fmt.Sprintf("\nDevice class %s: %s, images of %d by %d pixels; tells apart %s, learned from %d images.\n", c.Class, c.Kind, d.Width, d.Height, strings.Join(d.Classes, ", "), d.Images)
}
