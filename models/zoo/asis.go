package zoo

import (
	"context"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// answer is a classifier that somebody brings, with its own last layer. Its classes are those of the dataset in
// alphabetical order, as trainers number the folders they read.
type answer struct {
	eye    *backbone
	logits string
	order  []int64 // for each class of the dataset, the place among the network's
}

// fitAsIs learns nothing: it finds what the network answers, and which of its numbers is which class.
func fitAsIs(_ context.Context, d ImageDataset, _ part, c ImageConfig, card map[string]any) (imageNet, error) {
	if c.Backbone == nil {
		return nil, errNoBackbone
	}
	eye, err := openBackbone(c)
	if err != nil {
		return nil, err
	}
	a := &answer{eye: eye}
	if n := eye.answers; n != int64(len(d.Classes)) {
		return nil, fmt.Errorf("%w: the network tells %d classes apart, there are %d labels: %v", ErrData, n, len(d.Classes), d.Classes)
	}
	names := slices.Sorted(slices.Values(d.Classes))
	for _, name := range d.Classes {
		a.order = append(a.order, int64(slices.Index(names, name)))
	}
	a.logits = eye.keepAnswer()
	card["features"], card["order"] = eye.size, names
	return a, nil
}

func (a *answer) emit(b *onnx.Builder, x string) (string, int, string) {
	e := a.eye.look(b, x)
	return e, int(a.eye.size), b.Node("Gather", []string{a.logits, b.Ints(a.order...)}, onnx.Int("axis", 1))
}

// finished is the contract of a model that somebody brings with it; ok is false where c has none.
func (c ImageConfig) finished() (of contract.Contract, ok bool) {
	if c.Backbone == nil {
		return of, false
	}
	of, err := onnx.Check(c.Backbone, onnx.Limits{})
	return of, err == nil && of.Image != nil
}

// takeFinished takes a model that carries the contract as it is, where it tells the same classes apart.
func takeFinished(of contract.Contract, d ImageDataset, c ImageConfig) (*Fitted, error) {
	if of.Image.Height != d.Height || of.Image.Width != d.Width {
		return nil, fmt.Errorf("images are %d by %d pixels, the model reads %d by %d", d.Height, d.Width, of.Image.Height, of.Image.Width)
	}
	if !slices.Equal(of.Image.Classes, d.Classes) {
		return nil, fmt.Errorf("%w: the model tells %v apart, the labels are %v: want the same in the same order", ErrData, of.Image.Classes, d.Classes)
	}
	return &Fitted{Kind: AsIs, ONNX: c.Backbone, Contract: of, Threshold: of.Threshold, Card: map[string]any{"kind": AsIs}}, nil
}

// answered is the value that a graph's output is the probability of: the output itself where it ends in no Softmax.
func answered(g *onnxpb.GraphProto) string {
	v := g.Output[0].GetName()
	for _, n := range slices.Backward(g.Node) {
		if slices.Contains(n.Output, v) && slices.Contains([]string{"Softmax", "LogSoftmax", "Identity"}, n.GetOpType()) {
			v = n.Input[0]
		}
	}
	return v
}
