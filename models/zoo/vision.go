package zoo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Kinds of image models.
const (
	// CNN is a small convolutional network with shortcuts (He et al., Deep Residual Learning, 2016), trained from
	// scratch on labelled images.
	CNN = "cnn"
	// Head trains one linear layer on what a backbone sees in labelled images. The backbone is left as it is.
	Head = "head"
	// FineTune trains a backbone with a new linear layer on labelled images.
	FineTune = "finetune"
	// AsIs takes a classifier that somebody brings as it is; only its threshold is set. Its classes are the labels
	// in alphabetical order. A backbone that carries the contract keeps its own bytes and threshold.
	AsIs = "as-is"
	// Mahalanobis scores how far what a backbone sees in an image is from good parts, in the metric of their own
	// spread (Rippel et al., Modeling the Distribution of Normal Data, 2020). It needs good parts only.
	Mahalanobis = "mahalanobis"
	// ImageNeighbour scores how far the strangest spot of an image is from any spot of good parts, as a backbone
	// sees them (Roth et al., Towards Total Recall in Industrial Anomaly Detection, 2022). It needs good parts
	// only and finds small defects.
	ImageNeighbour = "image-neighbour"
)

// ImageKinds lists every kind that FitImages knows.
func ImageKinds() []string { return []string{CNN, Head, FineTune, AsIs, Mahalanobis, ImageNeighbour} }

// ImageDataset is images that one model shall learn from, all of one size.
type ImageDataset struct {
	Height, Width int // pixels
	// Images are Height·Width·3 bytes each: RGB, row by row.
	Images [][]byte
	// Labels are indices into Classes, one per image; -1 means unlabelled. Nil means that all are. Where Classes is
	// empty, unlabelled images are taken for good parts.
	Labels []int
	// Classes and Normal go into the contract; see contract.Image.
	Classes, Normal []string
	// Devices says which device each image is from; nil means one device.
	Devices []string
}

// Validate says why d has no meaning, wrapped in ErrData; nil when it has.
func (d ImageDataset) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrData, fmt.Sprintf(format, args...))
	}
	if min(d.Height, d.Width) < contract.MinSide || max(d.Height, d.Width) > contract.MaxSide {
		return bad("images of %d by %d pixels: want sides of %d to %d", d.Height, d.Width, contract.MinSide, contract.MaxSide)
	}
	if len(d.Images) == 0 {
		return bad("there are no images")
	}
	if d.Labels != nil && len(d.Labels) != len(d.Images) || d.Devices != nil && len(d.Devices) != len(d.Images) {
		return bad("%d labels and %d devices for %d images", len(d.Labels), len(d.Devices), len(d.Images))
	}
	for i, m := range d.Images {
		if len(m) != d.Height*d.Width*3 {
			return bad("image %d has %d bytes, not the %d of %d by %d pixels", i, len(m), d.Height*d.Width*3, d.Height, d.Width)
		}
	}
	for i, l := range d.Labels {
		if l < -1 || l >= len(d.Classes) {
			return bad("image %d has label %d of %d classes", i, l, len(d.Classes))
		}
	}
	for _, n := range d.Normal {
		if !slices.Contains(d.Classes, n) {
			return bad("normal class %q is no class", n)
		}
	}
	return nil
}

// ImageConfig says how to fit an image model. The zero value is the default for every kind.
type ImageConfig struct {
	// Height and Width of what the model reads; default 100 by 100 for "cnn", the backbone's own where one is given.
	// The dataset has to come in this size: Size says which.
	Height int `json:"height,omitempty"`
	Width  int `json:"width,omitempty"`
	// HoldOut is the share of images, of each class, that is kept from the fit: the threshold is set on them and the
	// card's accuracy measured. Default 0.15 for classifiers, 0.25 for detectors of the unusual.
	HoldOut float64 `json:"holdOut"`
	// FalseAlarms is the wanted share of good parts that is flagged, set on held-out ones; default 0.01. Where no
	// class is normal it is the share of images that is flagged as unsure.
	FalseAlarms float64 `json:"falseAlarms"`
	// Seed of every random choice. The same seed gives the same model.
	Seed uint64 `json:"seed"`

	// Channels of the first layer of "cnn"; the last has four times as many. Default 16.
	Channels int `json:"channels,omitempty"`
	// Epochs of "cnn" and "finetune". 0 means by the size of the data: 80 at about 1000 images for "cnn", a tenth of
	// that for "finetune", more for less data and fewer for more, within the bounds of steps.
	Epochs int `json:"epochs,omitempty"`
	// BatchSize of training steps; default 30.
	BatchSize int `json:"batchSize,omitempty"`
	// LearningRate is the highest of AdamW; default 0.003, for "finetune" 0.0003.
	LearningRate float64 `json:"learningRate,omitempty"`
	// Smoothing is the share of each label that is spread over all classes; default 0.05. Negative means none.
	Smoothing float64 `json:"smoothing,omitempty"`
	// Patience ends the training of a classifier early: when the loss on the held-out images has not reached a new
	// lowest for so many checks in a row, of 50 in all steps. The weights at the lowest are taken. 0 means all
	// steps. Threshold and accuracy are from the same images, and look a little better than others will.
	Patience int `json:"patience,omitempty"`
	// Upright keeps training from turning and mirroring images by quarters. For images whose sides mean something,
	// such as print.
	Upright bool `json:"upright,omitempty"`

	// Backbone, when not nil, is the ONNX file of a network that was trained on other images.
	Backbone []byte `json:"-"`
	// Mean and Scale say how the backbone wants its pixels: (v − Mean)·Scale for v of 0 to 255, per colour. Zero
	// scales mean ImageNet's usual means and deviations; a backbone that normalizes by itself wants means of 0 and
	// scales of 1.
	Mean  [3]float32 `json:"mean,omitzero"`
	Scale [3]float32 `json:"scale,omitzero"`
	// BackboneDigest names the backbone in the configuration that the contract carries.
	BackboneDigest string `json:"backbone,omitempty"`

	// DatasetDigest and ParentModel go into the contract as they are.
	DatasetDigest string `json:"-"`
	ParentModel   string `json:"-"`
	// Checkpoints, when not nil, let an interrupted fit of a classifier go on.
	Checkpoints *Checkpoints `json:"-"`
	// Library is the path of libonnxruntime; empty means where models/runtime finds it.
	Library string `json:"-"`
}

// Validate says what in c cannot be used; nil when all can. The zero value can.
func (c ImageConfig) Validate() error {
	var errs []error
	check := func(ok bool, name string, v any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is %v: want %s", name, v, want))
		}
	}
	for name, side := range map[string]int{"height": c.Height, "width": c.Width} {
		check(side == 0 || side >= contract.MinSide && side <= contract.MaxSide, name, side, fmt.Sprintf("%d to %d pixels", contract.MinSide, contract.MaxSide))
	}
	check(c.HoldOut >= 0 && c.HoldOut < 0.9, "hold-out", c.HoldOut, "a share below 0.9")
	check(c.FalseAlarms >= 0 && c.FalseAlarms < 1, "false alarms", c.FalseAlarms, "a share below 1")
	check(c.Channels >= 0 && c.Channels <= 256, "channels", c.Channels, "1 to 256")
	check(c.Epochs >= 0 && c.Epochs <= 10_000, "epochs", c.Epochs, "1 to 10000")
	check(c.BatchSize >= 0 && c.BatchSize <= 1024, "batch size", c.BatchSize, "1 to 1024")
	check(c.LearningRate >= 0 && c.LearningRate <= 1, "learning rate", c.LearningRate, "above 0, at most 1")
	check(c.Patience >= 0 && c.Patience <= checks, "patience", c.Patience, fmt.Sprintf("up to %d checks", checks))
	check(c.Smoothing < 1, "smoothing", c.Smoothing, "a share below 1")
	return errors.Join(errs...)
}

// Size is the height and width in pixels that a dataset has to have for a fit with c.
func (c ImageConfig) Size() (height, width int, err error) {
	height, width = c.Height, c.Width
	if of, ok := c.finished(); ok {
		return of.Image.Height, of.Image.Width, nil
	}
	if c.Backbone != nil && height == 0 && width == 0 {
		m, err := onnx.ReadForeign(c.Backbone, onnx.Limits{})
		if err != nil {
			return 0, 0, fmt.Errorf("backbone: %w", err)
		}
		if _, height, width, _, err = backboneInput(m); err != nil {
			return 0, 0, err
		}
	}
	setDefault(&height, 100)
	setDefault(&width, height)
	return height, width, nil
}

// FitImages learns an image model of the given kind and exports it. It fails with ErrData when the data is too
// little or has no meaning, with ctx's error when cancelled, and with a reason for a configuration that
// ImageConfig.Validate refuses, a backbone that cannot be used, or an unknown kind.
func FitImages(ctx context.Context, kind string, d ImageDataset, c ImageConfig) (*Fitted, error) {
	f, err := fitImages(ctx, kind, d, c)
	if err != nil {
		return nil, fmt.Errorf("fit %s: %w", kind, err)
	}
	return f, nil
}

// GoldenImages scores images with the fitted model as a device would, for the vectors of a release; see Golden.
// Each image has Contract.Image.Bytes() bytes.
func GoldenImages(f *Fitted, images [][]byte, library string) (artifact.Golden, error) {
	if f.Contract.Image == nil {
		return artifact.Golden{}, errors.New("golden images: the model reads windows")
	}
	s, err := runtime.Load(f.ONNX, runtime.Options{Library: library})
	if err != nil {
		return artifact.Golden{}, fmt.Errorf("golden images: %w", err)
	}
	defer s.Close()
	g := artifact.Golden{AbsTol: goldenAbs, RelTol: goldenRel}
	var r runtime.Result
	for i, m := range images {
		if err := s.ScoreImage(m, &r); err != nil {
			return artifact.Golden{}, fmt.Errorf("golden image %d: %w", i, err)
		}
		if r.Score != r.Score {
			return artifact.Golden{}, fmt.Errorf("golden image %d: the score is not a number", i)
		}
		if !goldenDecided(r.Score, f.Threshold) {
			continue
		}
		g.Images, g.Scores, g.Flags = append(g.Images, m), append(g.Scores, r.Score), append(g.Flags, r.Anomaly)
	}
	return g, nil
}
