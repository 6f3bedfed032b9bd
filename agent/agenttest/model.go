// Package agenttest is a world for an agent under test: models of known
// behaviour, a signer of releases, and a hub in memory with an HTTPS server, an
// EST server and a broker that can go away, lose and refuse.
//
// Tests import it, and the simulator where it needs models of known behaviour:
// there the agent meets the real hub and broker.
package agenttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Model describes a model whose score is Gain times the mean of the absolute
// values of its window. The zero value reads signal-1 and signal-2 in windows of 8
// with stride 1, gain 1, and flags scores above 1.
type Model struct {
	Channels  []string
	Window    int
	Stride    int
	Gain      float32
	Threshold float32
	NaN       bool   // every score is NaN
	Note      string // only makes the bytes differ
	Hidden    int    // >0: an autoencoder of this width instead, for load
	// Side makes it read images of Side by Side pixels instead: its score is
	// Gain times their mean brightness from 0 to 1, which is also the
	// probability of the class "bright"; the other class is "dark".
	Side int
}

func (m Model) withDefaults() Model {
	if len(m.Channels) == 0 {
		m.Channels = []string{"signal-1", "signal-2"}
	}
	if m.Window == 0 {
		m.Window = 8
	}
	if m.Stride == 0 {
		m.Stride = 1
	}
	if m.Gain == 0 {
		m.Gain = 1
	}
	if m.Threshold == 0 {
		m.Threshold = 1
	}
	return m
}

// ONNX returns the model's bytes. It panics on a description that makes none.
func (m Model) ONNX() []byte {
	m = m.withDefaults()
	c := contract.Contract{Kind: "test", Window: m.Window, Stride: m.Stride, SampleRateHz: 10, Threshold: float64(m.Threshold), TrainingConfig: m.Note}
	b := &onnx.Builder{}
	var x, size string
	if m.Side == 0 {
		for _, n := range m.Channels {
			c.Channels = append(c.Channels, contract.Channel{Name: n})
		}
		x = b.Input(contract.Window, onnx.Float, onnx.Batch, int64(len(m.Channels)), int64(m.Window))
	}
	switch {
	case m.Side > 0:
		c.Window, c.Stride, c.SampleRateHz = 1, 1, 0
		c.Image = &contract.Image{Height: m.Side, Width: m.Side, Classes: []string{"dark", "bright"}, Normal: []string{"dark"}}
		x = b.Node("Cast", []string{b.Input(contract.Pixels, onnx.Uint8, onnx.Batch, int64(m.Side), int64(m.Side), 3)}, onnx.Int("to", int64(onnx.Float)))
		size = b.Node("Div", []string{b.Node("ReduceMean", []string{x}, onnx.Ints("axes", 1, 2, 3), onnx.Int("keepdims", 0)), b.Scalar(255)})
		axis := b.Ints(1)
		bright := b.Node("Unsqueeze", []string{size, axis})
		b.NodeTo([]string{contract.Probs}, "Concat", []string{b.Node("Sub", []string{b.Scalar(1), bright}), bright}, onnx.Int("axis", 1))
		b.Output(contract.Probs, onnx.Float, onnx.Batch, 2)
	case m.Hidden > 0:
		size = m.autoencoder(b, x)
	default:
		size = b.Node("Abs", []string{x})
		size = b.Node("ReduceMean", []string{size}, onnx.Ints("axes", 1, 2), onnx.Int("keepdims", 0))
	}
	gain := m.Gain
	if m.NaN {
		size, gain = b.Node("Sqrt", []string{b.Node("Sub", []string{b.Node("Neg", []string{size}), b.Scalar(1)})}), 1
	}
	b.NodeTo([]string{contract.Score}, "Mul", []string{size, b.Scalar(gain)})
	calm := b.Node("LessOrEqual", []string{contract.Score, b.Scalar(m.Threshold)})
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{calm})
	b.Output(contract.Score, onnx.Float, onnx.Batch)
	b.Output(contract.Anomaly, onnx.Bool, onnx.Batch)
	p, err := onnx.Marshal("test", b.Graph(), c.Metadata())
	if err != nil {
		panic(err)
	}
	return p
}

// autoencoder reconstructs the window through Hidden values and returns the
// mean squared error.
func (m Model) autoencoder(b *onnx.Builder, x string) string {
	cells := len(m.Channels) * m.Window
	r := rand.New(rand.NewPCG(1, 2))
	layer := func(in string, rows, cols int) string {
		w := make([]float32, rows*cols)
		for i := range w {
			w[i] = float32(r.NormFloat64()) / float32(rows)
		}
		name := fmt.Sprintf("w%d", r.Uint32())
		return b.Node("Gemm", []string{in, b.Floats(name, w, int64(rows), int64(cols)), b.Floats(name+"b", make([]float32, cols), int64(cols))})
	}
	flat := b.Node("Flatten", []string{x}, onnx.Int("axis", 1))
	h := b.Node("Tanh", []string{layer(flat, cells, m.Hidden)})
	h = b.Node("Tanh", []string{layer(h, m.Hidden, m.Hidden/4)})
	h = b.Node("Tanh", []string{layer(h, m.Hidden/4, m.Hidden)})
	d := b.Node("Sub", []string{layer(h, m.Hidden, cells), flat})
	d = b.Node("Mul", []string{d, d})
	return b.Node("ReduceMean", []string{d}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0))
}

// Golden returns golden vectors that the model fulfils: for windows of one
// value. It is not for autoencoders.
func (m Model) Golden() []byte {
	m = m.withDefaults()
	if m.Side > 0 {
		return must(json.Marshal(m.goldenImages()))
	}
	g := artifact.Golden{Channels: len(m.Channels), Window: m.Window, AbsTol: 1e-5, RelTol: 1e-4}
	for _, v := range []float32{0, 0.5, -2, 3} {
		w := make([]float32, g.Channels*g.Window)
		for i := range w {
			w[i] = v
		}
		score := max(v, -v) * m.Gain
		g.Windows = append(g.Windows, w)
		g.Scores = append(g.Scores, score)
		g.Flags = append(g.Flags, score > m.Threshold)
	}
	b, err := json.Marshal(g)
	if err != nil {
		panic(err)
	}
	return b
}

func (m Model) goldenImages() artifact.Golden {
	g := artifact.Golden{AbsTol: 1e-5, RelTol: 1e-4}
	for _, v := range []byte{0, 51, 255} {
		score := float32(v) / 255 * m.Gain
		g.Images = append(g.Images, bytes.Repeat([]byte{v}, 3*m.Side*m.Side))
		g.Scores = append(g.Scores, score)
		g.Flags = append(g.Flags, score > m.Threshold)
	}
	return g
}

// Computed returns golden vectors from running the model itself, for
// autoencoders.
func (m Model) Computed(t testing.TB) []byte {
	m = m.withDefaults()
	session, err := runtime.Load(m.ONNX(), runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	g := artifact.Golden{Channels: len(m.Channels), Window: m.Window, AbsTol: 1e-5, RelTol: 1e-4}
	var out runtime.Result
	for i := range 4 {
		w := make([]float32, g.Channels*g.Window)
		for j := range w {
			w[j] = float32((i+1)*(j%7)) / 10
		}
		if err := session.Score(w, &out); err != nil {
			t.Fatal(err)
		}
		g.Windows, g.Scores, g.Flags = append(g.Windows, w), append(g.Scores, out.Score), append(g.Flags, out.Anomaly)
	}
	return must(json.Marshal(g))
}
