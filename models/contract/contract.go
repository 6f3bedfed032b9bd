// Package contract states what a Swell model promises about itself: the signals or images it reads, the
// window it wants, the rate it was fitted at, the threshold inside its graph, and where it came from.
//
// Three parties read it. The trainer (models/zoo) writes it into the metadata_props of the ONNX file.
// The hub compares it with what a fleet's devices deliver before it proposes a rollout. The agent
// builds its windows from it. Because it travels inside the signed file, nobody has to trust a
// document beside the model.
//
// The package is pure: values in, values and reasons out. Anyone may import it.
// docs/formats/model-contract.md is the same contract in prose.
package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Version is the newest contract version this package writes and the only one it reads.
//
//   - 1 (2026-11-22): sensor models: window → score, anomaly, channel_score.
//   - 1 (2026-11-23): image models: image → score, anomaly, probs, embedding. The number stays: a program that
//     knows no images refuses such a model for having no channels.
const Version = 1

// Limits on what a contract may say. They keep a hostile file from asking an agent for absurd buffers.
const (
	MaxChannels    = 1024
	MaxWindow      = 1 << 20 // samples per channel
	MaxWindowCells = 1 << 22 // samples of all channels together: 16 MiB of float32
	MaxText        = 64 << 10
	Deciles        = 9 // edges in Contract.ScoreDeciles
	maxName        = 256

	MinSide      = 8    // pixels of an image's height or width
	MaxSide      = 2048 // the same, at most
	MaxClasses   = 1000
	MaxEmbedding = 8192
)

// Names of the graph's inputs and outputs.
const (
	Window       = "window"        // float32 [batch, channels, samples], raw engineering units
	Score        = "score"         // float32 [batch]
	Anomaly      = "anomaly"       // bool [batch], Not(score <= threshold)
	ChannelScore = "channel_score" // float32 [batch, channels]; optional
	Pixels       = "image"         // uint8 [batch, height, width, 3], RGB
	Probs        = "probs"         // float32 [batch, classes]; adds up to 1
	Embedding    = "embedding"     // float32 [batch, Image.Embedding]
)

// Channel is one signal in the order the model reads it.
type Channel struct {
	// Name identifies the signal on the device. Required, unique within a contract.
	Name string `json:"name"`
	// Unit is the engineering unit as a UCUM code. Empty means unknown or without unit.
	Unit string `json:"unit,omitempty"`
}

// Image is what a vision model reads and tells.
//
// With classes its score says how little of the probability lies on good parts, over what is allowed; where no
// class is good, how unsure the model is of its best one, over what is allowed. Without classes it says how far
// the image is from those the model was fitted on.
type Image struct {
	Height int `json:"height"` // pixels the graph reads, MinSide to MaxSide
	Width  int `json:"width"`
	// Classes in the order of probs, two or more. Empty for a model that knows good parts only.
	Classes []string `json:"classes,omitempty"`
	// Normal are the classes that are good parts: none, or some but not all.
	Normal []string `json:"normal,omitempty"`
	// Embedding is the length of the embedding output. 0 means it has none.
	Embedding int `json:"embedding,omitempty"`
}

// Bytes is the size of one image in bytes: three for each pixel, row by row.
func (i Image) Bytes() int { return i.Height * i.Width * 3 }

// Contract is everything an agent or the hub has to know of a model besides its bytes.
type Contract struct {
	// Version is the contract version. Zero means Version.
	Version int `json:"version"`
	// Kind names the family that fitted the model, for example "pca". Required. Agents only show it.
	Kind string `json:"kind"`
	// Channels in the order of the window's second dimension. At least one, and none with Image.
	Channels []Channel `json:"channels"`
	// Image is what a vision model reads; nil for a sensor model.
	Image *Image `json:"image,omitempty"`
	// Window is how many samples of each channel one run reads. At least 1, and 1 with Image.
	Window int `json:"window"`
	// Stride is how many samples apart the model wants to be run. At least 1.
	Stride int `json:"stride"`
	// SampleRateHz is the rate the model was fitted at. Zero means event by event, with no fixed rate.
	SampleRateHz float64 `json:"sampleRateHz"`
	// Threshold is the score above which the graph says anomaly. It is a copy for people: the graph
	// holds the one that counts.
	Threshold float64 `json:"threshold"`
	// ScoreDeciles are the nine inner deciles of the scores on the data that set the threshold, rising: what
	// a device compares the scores it sees with. nil means unknown.
	ScoreDeciles []float64 `json:"scoreDeciles,omitempty"`
	// DatasetDigest names the snapshot the model was fitted on. Empty means unknown.
	DatasetDigest string `json:"datasetDigest,omitempty"`
	// ParentModel is the digest of the model this one was warm-started from. Empty means from scratch.
	ParentModel string `json:"parentModel,omitempty"`
	// TrainingConfig is the fitting configuration as JSON text. Empty means unknown.
	TrainingConfig string `json:"trainingConfig,omitempty"`
}

// Keys of the ONNX metadata_props entries.
const (
	keyVersion   = "swell.contract"
	keyKind      = "swell.kind"
	keyChannels  = "swell.channels"
	keyImage     = "swell.image"
	keyWindow    = "swell.window"
	keyStride    = "swell.stride"
	keyRate      = "swell.sample_rate_hz"
	keyThreshold = "swell.threshold"
	keyDeciles   = "swell.score_deciles"
	keyDataset   = "swell.dataset"
	keyParent    = "swell.parent"
	keyConfig    = "swell.training_config"
)

// Validate reports every reason why c cannot be used, joined; nil when there is none.
func (c Contract) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Version != 0 && c.Version != Version {
		bad("contract version %d is not supported: this program knows version %d", c.Version, Version)
	}
	if c.Kind == "" {
		bad("kind is empty")
	}
	switch {
	case c.Image != nil && len(c.Channels) > 0:
		bad("channels and an image: a model reads one or the other")
	case c.Image != nil:
		errs = append(errs, c.Image.validate()...)
		if c.Window != 1 {
			bad("window of %d images: want 1", c.Window)
		}
	case len(c.Channels) == 0 || len(c.Channels) > MaxChannels:
		bad("%d channels: want 1 to %d", len(c.Channels), MaxChannels)
	}
	seen := make(map[string]bool, len(c.Channels))
	for i, ch := range c.Channels {
		switch {
		case ch.Name == "":
			bad("channel %d has no name", i)
		case !printable(ch.Name) || !printable(ch.Unit):
			bad("channel %d: name or unit is longer than %d bytes or holds control characters", i, maxName)
		case seen[ch.Name]:
			bad("channel %q appears twice", ch.Name)
		}
		seen[ch.Name] = true
	}
	if c.Window < 1 || c.Window > MaxWindow {
		bad("window of %d samples: want 1 to %d", c.Window, MaxWindow)
	} else if len(c.Channels)*c.Window > MaxWindowCells {
		bad("%d channels of %d samples are more than %d values", len(c.Channels), c.Window, MaxWindowCells)
	}
	if c.Stride < 1 || c.Stride > MaxWindow {
		bad("stride of %d samples: want 1 to %d", c.Stride, MaxWindow)
	}
	if !(c.SampleRateHz >= 0) || math.IsInf(c.SampleRateHz, 0) {
		bad("sample rate of %v Hz: want 0 or more", c.SampleRateHz)
	}
	if math.IsNaN(c.Threshold) || math.IsInf(c.Threshold, 0) {
		bad("threshold is %v", c.Threshold)
	}
	if n := len(c.ScoreDeciles); n != 0 && n != Deciles {
		bad("%d score deciles: want %d or none", n, Deciles)
	}
	for i, v := range c.ScoreDeciles {
		if math.IsNaN(v) || math.IsInf(v, 0) || i > 0 && !(v > c.ScoreDeciles[i-1]) {
			bad("score deciles have to be finite and to rise: number %d is %v", i+1, v)
			break
		}
	}
	for name, text := range map[string]string{"kind": c.Kind, "dataset digest": c.DatasetDigest, "parent model": c.ParentModel} {
		if !printable(text) {
			bad("%s is longer than %d bytes or holds control characters", name, maxName)
		}
	}
	if len(c.TrainingConfig) > MaxText || !utf8.ValidString(c.TrainingConfig) {
		bad("training config is longer than %d bytes or not UTF-8", MaxText)
	}
	return errors.Join(errs...)
}

func (i Image) validate() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if min(i.Height, i.Width) < MinSide || max(i.Height, i.Width) > MaxSide {
		bad("image of %d by %d pixels: want sides of %d to %d", i.Height, i.Width, MinSide, MaxSide)
	}
	if len(i.Classes) == 1 || len(i.Classes) > MaxClasses {
		bad("%d image classes: want 2 to %d, or none", len(i.Classes), MaxClasses)
	}
	known := map[string]bool{} // true once it was named as normal
	for _, name := range i.Classes {
		if _, twice := known[name]; twice || name == "" || !printable(name) {
			bad("image class %q is empty, appears twice, is longer than %d bytes or holds control characters", name, maxName)
		}
		known[name] = false
	}
	for _, name := range i.Normal {
		if named, ok := known[name]; !ok || named {
			bad("normal class %q is no image class, or appears twice", name)
		}
		known[name] = true
	}
	if len(i.Normal) > 0 && len(i.Normal) >= len(i.Classes) {
		bad("every image class is normal: there is nothing to find")
	}
	if i.Embedding < 0 || i.Embedding > MaxEmbedding {
		bad("embedding of %d values: want 0 to %d", i.Embedding, MaxEmbedding)
	}
	return errs
}

// Cells is the number of float32 values in one window: channels times samples. 0 for an image model.
func (c Contract) Cells() int { return len(c.Channels) * c.Window }

// Metadata encodes c as ONNX metadata_props. Empty optional fields are absent.
func (c Contract) Metadata() map[string]string {
	m := map[string]string{
		keyVersion:   strconv.Itoa(Version),
		keyKind:      c.Kind,
		keyWindow:    strconv.Itoa(c.Window),
		keyStride:    strconv.Itoa(c.Stride),
		keyRate:      formatFloat(c.SampleRateHz),
		keyThreshold: formatFloat(c.Threshold),
	}
	list := func(key string, v any) {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // strings and integers always marshal, and Validate has seen that deciles are finite
		}
		m[key] = string(text)
	}
	if c.Image != nil {
		list(keyImage, c.Image)
	} else {
		list(keyChannels, c.Channels)
	}
	if len(c.ScoreDeciles) > 0 {
		list(keyDeciles, c.ScoreDeciles)
	}
	for key, text := range map[string]string{keyDataset: c.DatasetDigest, keyParent: c.ParentModel, keyConfig: c.TrainingConfig} {
		if text != "" {
			m[key] = text
		}
	}
	return m
}

// Parse reads a contract out of ONNX metadata_props and validates it. Keys it does not know are ignored.
func Parse(m map[string]string) (Contract, error) {
	if m[keyVersion] == "" {
		return Contract{}, fmt.Errorf("the model carries no Swell contract: metadata %q is missing", keyVersion)
	}
	p := parser{m: m}
	c := Contract{
		Version:        p.integer(keyVersion),
		Kind:           m[keyKind],
		Window:         p.integer(keyWindow),
		Stride:         p.integer(keyStride),
		SampleRateHz:   p.float(keyRate),
		Threshold:      p.float(keyThreshold),
		DatasetDigest:  m[keyDataset],
		ParentModel:    m[keyParent],
		TrainingConfig: m[keyConfig],
	}
	if m[keyImage] == "" || m[keyChannels] != "" {
		p.list(keyChannels, MaxChannels*2*maxName, &c.Channels)
	}
	if m[keyImage] != "" {
		c.Image = &Image{}
		p.list(keyImage, 2*MaxClasses*2*maxName, c.Image)
	}
	if m[keyDeciles] != "" {
		p.list(keyDeciles, maxName, &c.ScoreDeciles)
	}
	if p.err != nil {
		return Contract{}, p.err
	}
	if c.Version != Version {
		return Contract{}, fmt.Errorf("contract version %d is not supported: this program knows version %d", c.Version, Version)
	}
	if err := c.Validate(); err != nil {
		return Contract{}, err
	}
	return c, nil
}

type parser struct {
	m   map[string]string
	err error // the first failure
}

func (p *parser) fail(key string, err error) {
	if p.err == nil {
		p.err = fmt.Errorf("model metadata %q: %w", key, err)
	}
}

// list reads JSON of at most limit bytes into v, with no field that v does not know.
func (p *parser) list(key string, limit int, v any) {
	text := p.m[key]
	if len(text) > limit {
		p.fail(key, errors.New("too long"))
		return
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		p.fail(key, err)
	}
}

func (p *parser) integer(key string) int {
	n, err := strconv.Atoi(p.m[key])
	if err != nil {
		p.fail(key, err)
	}
	return n
}

func (p *parser) float(key string) float64 {
	f, err := strconv.ParseFloat(p.m[key], 64)
	if err != nil {
		p.fail(key, err)
	}
	return f
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// printable says that s is short enough UTF-8 without control characters, fit for a log line.
func printable(s string) bool {
	if len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
