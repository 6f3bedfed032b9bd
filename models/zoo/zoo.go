// Package zoo fits anomaly detectors to a fleet's normal data and exports each as one ONNX file under the
// contract of models/contract: raw engineering units in, score and verdict out, nothing left for an agent
// to know.
//
// The hub's nightly run calls Fit for each kind it lets compete, models/evaluate to judge them, and Golden
// for the vectors that go into the release. Devices never import this package. Fitting the same dataset
// with the same configuration gives the same bytes.
//
// A fitted score is scaled so that its threshold is 1: a score of 2 is twice as unusual as what the wanted
// false-alarm rate allows.
package zoo

import (
	"errors"
	"fmt"

	"github.com/swellfleet/swell/models/contract"
)

// Kinds of detectors.
const (
	// PCA models short patterns by principal components: the squared residual Q outside the model plane
	// and Hotelling's T² inside it, averaged over the window, each over its own high quantile; the larger
	// counts. After Jackson and Mudholkar, Control Procedures for Residuals, Technometrics 21 (1979).
	PCA = "pca"
	// DenseAE scores the squared reconstruction error of a dense autoencoder on the same patterns, trained
	// in ONNX Runtime by models/train.
	DenseAE = "dense-ae"
	// ConvAE scores the squared reconstruction error of a convolutional autoencoder over one longer pattern.
	ConvAE = "conv-ae"
	// Forecast scores how wrong a forecast of the newest row from those before it was, averaged over the window.
	Forecast = "forecast"
	// RandomNeighbour scores how far patterns are from the nearest of a few chosen ones of the training data, in
	// random features. Nothing is trained: it fits in a moment.
	RandomNeighbour = "random-neighbour"
	// Forest scores how few random cuts it takes to tell a pattern from those of the training data: an
	// isolation forest. Nothing is trained but trees over a few hundred patterns.
	Forest = "forest"
	// Seasonal scores how far the newest rows are from those one season before. For streams that repeat
	// themselves; the season's length is found in the data, and data without one is refused.
	Seasonal = "seasonal"
	// Spectral scores how far the newest row stands out of the window once what its spectrum is full of has
	// been taken away. For spikes and dips in single streams of any shape; only its threshold is learned.
	Spectral = "spectral"
	// Neighbour scores how far the newest values are from everything like them that was seen before, over
	// how far that usually is. It goes on learning from the stream, needs few rows to start from, and tells
	// an event once, when it begins. For single streams whose level and habits drift.
	Neighbour = "neighbour"
)

// Kinds lists every kind that Fit knows.
func Kinds() []string {
	return []string{PCA, DenseAE, ConvAE, Forecast, RandomNeighbour, Forest, Seasonal, Spectral, Neighbour}
}

// Competitors lists the kinds that compete where nobody names any: those that judge machines by many
// channels and whose threshold follows from the data.
func Competitors() []string { return []string{PCA, DenseAE} }

// Config says how to fit. The zero value is the default for every kind.
type Config struct {
	// Pattern is how many samples the detector looks at at once; default 5.
	Pattern int `json:"pattern"`
	// Smooth is over how many consecutive patterns a score is averaged, inside the graph; default 20.
	// The contract's window is Pattern+Smooth-1 samples, all of them past.
	Smooth int `json:"smooth"`
	// Stride is how many samples apart the model wants to be run; default 1.
	Stride int `json:"stride"`
	// MaxGap is the largest step between two rows of one window, in nominal steps; default 3. Negative
	// means windows may span any gap.
	MaxGap float64 `json:"maxGap"`
	// HoldOut is the share of each series, at its end, that is kept from the fit and used to set the
	// threshold; default 0.25.
	HoldOut float64 `json:"holdOut"`
	// Quantile is the share of normal windows below the reference score; default 0.99.
	Quantile float64 `json:"quantile"`
	// Margin is the threshold as a multiple of the reference score; default 1.75. It has to cover how far
	// normal operation wanders from what one training period showed.
	Margin float64 `json:"margin"`
	// FalseAlarmsPerDay, when not zero, sets the threshold instead of Margin: the wanted number of windows
	// flagged per device and day of normal operation, at the nominal rate and stride.
	FalseAlarmsPerDay float64 `json:"falseAlarmsPerDay,omitempty"`
	// PerDevice fits one expert to each device's data instead of one to all, and puts them into one graph:
	// a window is as unusual as the expert that knows it best says. For fleets whose devices run at
	// different points; a run costs as many times more as there are devices, 64 at most.
	PerDevice bool `json:"perDevice,omitempty"`
	// Seed of every random choice. The same seed gives the same model.
	Seed uint64 `json:"seed"`

	// Variance is the share of variance that PCA keeps as its plane; default 0.85.
	Variance float64 `json:"variance,omitempty"`
	// PlaneWeight divides T² against Q in PCA's score; default 6. Normal operation moves inside the plane
	// when load or temperature change, so T² must be large before it counts.
	PlaneWeight float64 `json:"planeWeight,omitempty"`

	// Hidden are the widths of the autoencoder's layers up to the code, which is the last; default 4/5 and
	// 2/5 of the features (channels times pattern). The decoder mirrors them.
	Hidden []int `json:"hidden,omitempty"`
	// DeepPenalty weighs the mean square of what the autoencoder's tanh layers add to its linear path
	// against the reconstruction error; default 3.
	DeepPenalty float64 `json:"deepPenalty,omitempty"`
	// Steps of training; default 2000.
	Steps int `json:"steps,omitempty"`
	// BatchSize of training steps; default 64.
	BatchSize int `json:"batchSize,omitempty"`
	// LearningRate of Adam at the start; it falls to zero along a half cosine. Default 0.005.
	LearningRate float64 `json:"learningRate,omitempty"`
	// Patience ends training early: when the loss on the held-out data has not reached a new lowest for so many
	// checks in a row, of 50 in Steps. The weights at the lowest are taken. 0 means all steps. The threshold is
	// set on the same data, which then looks a little better than new data will.
	Patience int `json:"patience,omitempty"`

	// History is how many rows the neighbour detector looks back on, beside those it was fitted on; default
	// 576, and less where it was fitted on less.
	History int `json:"history,omitempty"`
	// Hold is for how many rows after an event the neighbour detector tells no other; default 149.
	Hold int `json:"hold,omitempty"`
	// Floor is the least distance the neighbour detector takes as usual, as a share of the stream's range;
	// default 0.03.
	Floor float64 `json:"floor,omitempty"`

	// WarmStart, when not nil, is the ONNX file of an autoencoder with the same channels, pattern and layers,
	// whose weights training starts from. ParentModel should name it. PCA has no use for it.
	WarmStart []byte `json:"-"`
	// Network, when not nil, is the ONNX file that the kind Network adapts. ParentModel should name it.
	Network []byte `json:"-"`
	// RawValues gives a Network engineering units instead of values by their mean and deviation.
	RawValues bool     `json:"rawValues,omitempty"`
	opened    *network // Network, once Fit has read it
	// DatasetDigest and ParentModel go into the contract as they are.
	DatasetDigest string `json:"-"`
	ParentModel   string `json:"-"`
	// Checkpoints, when not nil, let an interrupted fit go on. Kinds that are not trained in steps have none, nor
	// has PerDevice.
	Checkpoints *Checkpoints `json:"-"`
	// Library is the path of libonnxruntime; empty means where models/runtime finds it.
	Library string `json:"-"`
}

func (c Config) withDefaults(kind string) Config {
	c.RawValues = c.RawValues && kind == Network
	if kind == Neighbour {
		setDefault(&c.Pattern, 2)
		c.Smooth = 1
		setDefault(&c.History, 576)
		setDefault(&c.Hold, 149)
		setDefault(&c.Floor, 0.03)
		setDefault(&c.Margin, 2.6)
	} else {
		c.History, c.Hold, c.Floor = 0, 0, 0
	}
	switch kind {
	case ConvAE:
		setDefault(&c.Pattern, 24)
		setDefault(&c.Smooth, 1)
	case Forecast:
		setDefault(&c.Pattern, 8)
	case Seasonal:
		setDefault(&c.Smooth, 3)
		c.Pattern = 0 // found in the data
	case Spectral:
		setDefault(&c.Pattern, 64)
		setDefault(&c.Smooth, 1)
	}
	if kind != Seasonal && kind != Network {
		setDefault(&c.Pattern, 5)
	}
	setDefault(&c.Smooth, 20)
	setDefault(&c.Stride, 1)
	setDefault(&c.MaxGap, 3)
	setDefault(&c.HoldOut, 0.25)
	setDefault(&c.Quantile, 0.99)
	if c.FalseAlarmsPerDay == 0 {
		setDefault(&c.Margin, 1.75)
	}
	switch kind {
	case PCA:
		setDefault(&c.Variance, 0.85)
		setDefault(&c.PlaneWeight, 6)
		c.Hidden, c.DeepPenalty, c.Steps, c.BatchSize, c.LearningRate, c.Patience = nil, 0, 0, 0, 0, 0
	case DenseAE, ConvAE, Forecast:
		setDefault(&c.DeepPenalty, 3)
		setDefault(&c.Steps, 2000)
		setDefault(&c.BatchSize, 64)
		setDefault(&c.LearningRate, 0.005)
		c.Variance, c.PlaneWeight = 0, 0
	case Neighbour, RandomNeighbour, Forest, Seasonal, Spectral, Network:
		c.Variance, c.PlaneWeight, c.Hidden, c.DeepPenalty, c.Steps, c.BatchSize, c.LearningRate, c.Patience = 0, 0, nil, 0, 0, 0, 0, 0
	}
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Validate says what in c cannot be used; nil when all can. The zero value can.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, name string, v any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is %v: want %s", name, v, want))
		}
	}
	check(c.Pattern >= 0 && c.Pattern <= 1024, "pattern", c.Pattern, "1 to 1024 samples")
	check(c.Smooth >= 0 && c.Smooth <= 1<<16, "smooth", c.Smooth, "1 to 65536 patterns")
	check(c.Stride >= 0 && c.Stride <= 1<<16, "stride", c.Stride, "1 to 65536 samples")
	check(c.HoldOut >= 0 && c.HoldOut < 0.9, "hold-out", c.HoldOut, "a share below 0.9")
	check(c.Quantile >= 0 && c.Quantile < 1, "quantile", c.Quantile, "a share below 1")
	check(c.Margin >= 0 && c.Margin < 1e6, "margin", c.Margin, "a positive factor")
	check(c.FalseAlarmsPerDay >= 0, "false alarms per day", c.FalseAlarmsPerDay, "0 or more")
	check(c.FalseAlarmsPerDay == 0 || c.Margin == 0, "margin", c.Margin, "none beside false alarms per day")
	check(c.Variance >= 0 && c.Variance < 1, "variance", c.Variance, "a share below 1")
	check(c.PlaneWeight >= 0 && c.PlaneWeight < 1e9, "plane weight", c.PlaneWeight, "a positive factor")
	check(c.History >= 0 && c.History <= 1<<14, "history", c.History, "up to 16384 rows")
	check(c.Hold >= 0 && c.Hold <= 1<<12, "hold", c.Hold, "up to 4096 rows")
	check(c.Floor >= 0 && c.Floor <= 1, "floor", c.Floor, "a share of the range")
	check(len(c.Hidden) <= 8, "hidden", c.Hidden, "at most 8 layers")
	for _, h := range c.Hidden {
		check(h >= 1 && h <= 4096, "hidden", h, "widths of 1 to 4096")
	}
	check(c.DeepPenalty >= 0 && c.DeepPenalty < 1e9, "deep penalty", c.DeepPenalty, "a positive factor")
	check(c.Steps >= 0 && c.Steps <= 10_000_000, "steps", c.Steps, "1 to 10 million")
	check(c.BatchSize >= 0 && c.BatchSize <= 1<<16, "batch size", c.BatchSize, "1 to 65536")
	check(c.LearningRate >= 0 && c.LearningRate <= 1, "learning rate", c.LearningRate, "above 0, at most 1")
	check(c.Patience >= 0 && c.Patience <= checks, "patience", c.Patience, fmt.Sprintf("up to %d checks", checks))
	return errors.Join(errs...)
}

// Fitted is a model ready to be evaluated and released.
type Fitted struct {
	Kind         string
	ONNX         []byte
	Contract     contract.Contract
	Threshold    float64 // of the score; always 1
	TrainSeconds float64 // wall clock
	// Card holds what a model card says, for people: sizes, losses, calibration. Values marshal to JSON.
	Card map[string]any
}
