// Package contract states what a Swell model promises about itself: the signals it reads, the window
// it wants, the rate it was fitted at, the threshold inside its graph, and where it came from.
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
const Version = 1

// Limits on what a contract may say. They keep a hostile file from asking an agent for absurd buffers.
const (
	MaxChannels    = 1024
	MaxWindow      = 1 << 20 // samples per channel
	MaxWindowCells = 1 << 22 // samples of all channels together: 16 MiB of float32
	MaxText        = 64 << 10
	Deciles        = 9 // edges in Contract.ScoreDeciles
	maxName        = 256
)

// Names of the graph's inputs and outputs.
const (
	Window       = "window"        // float32 [batch, channels, samples], raw engineering units
	Score        = "score"         // float32 [batch]
	Anomaly      = "anomaly"       // bool [batch], Not(score <= threshold)
	ChannelScore = "channel_score" // float32 [batch, channels]; optional
)

// Channel is one signal in the order the model reads it.
type Channel struct {
	// Name identifies the signal on the device. Required, unique within a contract.
	Name string `json:"name"`
	// Unit is the engineering unit as a UCUM code. Empty means unknown or without unit.
	Unit string `json:"unit,omitempty"`
}

// Contract is everything an agent or the hub has to know of a model besides its bytes.
type Contract struct {
	// Version is the contract version. Zero means Version.
	Version int `json:"version"`
	// Kind names the family that fitted the model, for example "pca". Required. Agents only show it.
	Kind string `json:"kind"`
	// Channels in the order of the window's second dimension. At least one.
	Channels []Channel `json:"channels"`
	// Window is how many samples of each channel one run reads. At least 1.
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
	if len(c.Channels) == 0 || len(c.Channels) > MaxChannels {
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

// Cells is the number of float32 values in one window: channels times samples.
func (c Contract) Cells() int { return len(c.Channels) * c.Window }

// Metadata encodes c as ONNX metadata_props. Empty optional fields are absent.
func (c Contract) Metadata() map[string]string {
	channels, err := json.Marshal(c.Channels)
	if err != nil {
		panic(err) // two strings per channel always marshal
	}
	m := map[string]string{
		keyVersion:   strconv.Itoa(Version),
		keyKind:      c.Kind,
		keyChannels:  string(channels),
		keyWindow:    strconv.Itoa(c.Window),
		keyStride:    strconv.Itoa(c.Stride),
		keyRate:      formatFloat(c.SampleRateHz),
		keyThreshold: formatFloat(c.Threshold),
	}
	if len(c.ScoreDeciles) > 0 {
		deciles, err := json.Marshal(c.ScoreDeciles)
		if err != nil {
			panic(err) // Validate has seen that they are finite
		}
		m[keyDeciles] = string(deciles)
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
	switch text := m[keyChannels]; {
	case len(text) > MaxChannels*2*maxName:
		p.fail(keyChannels, errors.New("too long"))
	default:
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&c.Channels); err != nil {
			p.fail(keyChannels, err)
		}
	}
	switch text := m[keyDeciles]; {
	case text == "":
	case len(text) > maxName:
		p.fail(keyDeciles, errors.New("too long"))
	default:
		if err := json.Unmarshal([]byte(text), &c.ScoreDeciles); err != nil {
			p.fail(keyDeciles, err)
		}
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
