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

	"github.com/swellfleet/swell/models/contract"
)

// Kinds of detectors.
const (
	// PCA models each smoothed window by principal components: Hotelling's T² inside the model plane and
	// the squared residual Q outside it, each over its own high quantile, whichever is larger.
	PCA = "pca"
	// DenseAE is a dense autoencoder on smoothed windows, trained in ONNX Runtime.
	DenseAE = "dense-ae"
)

// Kinds lists every kind that Fit knows.
func Kinds() []string { return []string{PCA, DenseAE} }

// Dataset is normal data of devices that one model shall serve.
type Dataset struct {
	// Channels in the order of every Series.Values.
	Channels []contract.Channel
	// SampleRateHz is the nominal rate. Zero means unknown; gaps are then judged by the median step.
	SampleRateHz float64
	Series       []Series
}

// Series is one uninterrupted recording or several with gaps, of one device.
type Series struct {
	Device string
	// Times are nanoseconds since 1970 UTC, ascending, one per row. Nil means rows follow each other
	// without a gap.
	Times []int64
	// Values holds one slice per channel, each with one value per row, in engineering units.
	Values [][]float32
}

// Rows is the number of rows of s.
func (s Series) Rows() int {
	if len(s.Values) == 0 {
		return 0
	}
	return len(s.Values[0])
}

// Config says how to fit. The zero value is the default for every kind.
type Config struct {
	// Pattern is how many samples the detector looks at at once; default 10.
	Pattern int `json:"pattern"`
	// Smooth is how many consecutive patterns are averaged into one score, inside the graph; default 20.
	// The contract's window is Pattern+Smooth-1 samples, all of them past.
	Smooth int `json:"smooth"`
	// Stride is how many samples apart the model wants to be run; default 1.
	Stride int `json:"stride"`
	// MaxGap is the largest step between two rows of one window, in nominal steps; default 3. Negative
	// means windows may span any gap.
	MaxGap float64 `json:"maxGap"`
	// Variance is the share of variance PCA keeps; default 0.9.
	Variance float64 `json:"variance"`
	// FalseAlarmsPerDay is the wanted number of windows flagged per device and day of normal operation,
	// at the nominal rate and stride. Zero means: use Quantile and Margin.
	FalseAlarmsPerDay float64 `json:"falseAlarmsPerDay"`
	// Quantile of the scores of held-out normal windows that the threshold starts from; default 0.99.
	Quantile float64 `json:"quantile"`
	// Margin multiplies that quantile; default 1.5.
	Margin float64 `json:"margin"`
	// HoldOut is the share of each series, at its end, that is kept from the fit and used to set the
	// threshold; default 0.25.
	HoldOut float64 `json:"holdOut"`
	// Hidden are the widths of the autoencoder's layers before the code, which is the last; default 32, 8.
	Hidden []int `json:"hidden"`
	// Epochs over the training windows; default 30.
	Epochs int `json:"epochs"`
	// BatchSize of training steps; default 64.
	BatchSize int `json:"batchSize"`
	// LearningRate of Adam; default 0.003.
	LearningRate float64 `json:"learningRate"`
	// Seed of every random choice. The same seed gives the same model.
	Seed uint64 `json:"seed"`
	// Threads the training may use; default 1.
	Threads int `json:"threads"`
	// DatasetDigest and ParentModel go into the contract as they are.
	DatasetDigest string `json:"-"`
	ParentModel   string `json:"-"`
	// Library is the path of libonnxruntime; empty means where models/runtime finds it.
	Library string `json:"-"`
}

// Fitted is a model ready to be evaluated and released.
type Fitted struct {
	Kind         string
	ONNX         []byte
	Contract     contract.Contract
	Threshold    float64 // of the score; always 1
	TrainSeconds float64 // wall clock; the only thing here that differs between two equal fits
	// Card holds what a model card says, for people: sizes, losses, calibration. Values marshal to JSON.
	Card map[string]any
}

// ErrData says that a dataset cannot be learned from; the error around it says why.
var ErrData = errors.New("data cannot be learned from")
