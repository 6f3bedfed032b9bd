package zoo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/models/runtime"
)

// imageNet is what an image kind learns.
type imageNet interface {
	// emit appends what the kind computes of x, float32 [batch, 3, height, width] of 0 to 255: the embedding
	// [batch, n] and either logits [batch, classes] or, without classes, a distance [batch] that grows with how
	// unusual the image is.
	emit(b *onnx.Builder, x string) (embedding string, n int, result string)
}

// part names images of a dataset: those to learn from, and those that nobody learns from.
type part struct{ fit, held []int }

// imageMakers learn a kind from the images of d that p names.
var imageMakers = map[string]func(ctx context.Context, d ImageDataset, p part, c ImageConfig, card map[string]any) (imageNet, error){
	CNN:            fitCNN,
	Head:           fitHead,
	FineTune:       fitFineTune,
	AsIs:           fitAsIs,
	Mahalanobis:    fitMahalanobis,
	ImageNeighbour: fitImageNeighbour,
}

// Fewest images of a fit: of each class, and of good parts.
const (
	minPerClass = 2
	minGood     = 8
)

func (c ImageConfig) withDefaults(kind string, classes bool, d ImageDataset) (ImageConfig, error) {
	if kind == CNN { // which starts from nothing and reads any size
		c.Backbone, c.Height, c.Width = nil, d.Height, d.Width
	}
	var err error
	if c.Height, c.Width, err = c.Size(); err != nil {
		return c, err
	}
	if classes {
		setDefault(&c.HoldOut, 0.15)
	} else {
		setDefault(&c.HoldOut, 0.25)
	}
	setDefault(&c.FalseAlarms, 0.01)
	switch kind {
	case CNN:
		setDefault(&c.Channels, 16)
		setDefault(&c.LearningRate, 0.003)
	case FineTune:
		setDefault(&c.LearningRate, 0.0003)
	case Head:
		setDefault(&c.LearningRate, 0.01)
	}
	if classes {
		setDefault(&c.BatchSize, 30)
		setDefault(&c.Smoothing, 0.05)
		c.Smoothing = max(c.Smoothing, 0)
	} else {
		c.Patience = 0
	}
	return c, nil
}

// fitImages is what all kinds share: everything but the network.
func fitImages(ctx context.Context, kind string, d ImageDataset, c ImageConfig) (*Fitted, error) {
	begin := time.Now()
	if !slices.Contains(ImageKinds(), kind) {
		return nil, fmt.Errorf("unknown kind: want one of %v", ImageKinds())
	}
	if err := errors.Join(c.Validate(), d.Validate()); err != nil {
		return nil, err
	}
	classes := kind != Mahalanobis && kind != ImageNeighbour
	c, err := c.withDefaults(kind, classes, d)
	if err != nil {
		return nil, err
	}
	if c.Height != d.Height || c.Width != d.Width {
		return nil, fmt.Errorf("images are %d by %d pixels, the configuration wants %d by %d", d.Height, d.Width, c.Height, c.Width)
	}
	use, err := d.usable(classes)
	if err != nil {
		return nil, err
	}
	if of, ok := c.finished(); ok && kind == AsIs {
		return takeFinished(of, d, c)
	}
	fit, held := d.split(use, c)
	card := map[string]any{"kind": kind, "images": len(fit), "heldOut": len(held)}
	net, err := imageMakers[kind](ctx, d, part{fit, held}, c, card)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	image := &contract.Image{Height: c.Height, Width: c.Width}
	if classes {
		image.Classes = slices.Clone(d.Classes)
		if n := len(d.Normal); n > 0 && n < len(d.Classes) {
			image.Normal = slices.Clone(d.Normal)
		}
	}
	out := &Fitted{Kind: kind, Threshold: 1, Card: card, Contract: contract.Contract{
		Version: contract.Version, Kind: kind, Image: image, Window: 1, Stride: 1, Threshold: 1,
		DatasetDigest: c.DatasetDigest, ParentModel: c.ParentModel, TrainingConfig: string(config),
	}}
	// Once to see what the network says of the images that were held out, once more with the threshold set.
	export := func(limit float64) error {
		var g *onnxpb.GraphProto
		g, image.Embedding = exportImages(net, *image, limit)
		if err := out.Contract.Validate(); err != nil {
			return fmt.Errorf("contract: %w", err)
		}
		out.ONNX, err = onnx.Marshal(kind, g, out.Contract.Metadata())
		return err
	}
	if err := export(1); err != nil {
		return nil, err
	}
	limit, deciles, err := d.calibrate(ctx, out.ONNX, held, c, card)
	if err != nil {
		return nil, err
	}
	out.Contract.ScoreDeciles = deciles
	if err := export(limit); err != nil {
		return nil, err
	}
	// What a device would refuse must not leave the hub.
	if _, err := onnx.Check(out.ONNX, onnx.Limits{}); err != nil {
		return nil, fmt.Errorf("exported model: %w", err)
	}
	out.TrainSeconds = time.Since(begin).Seconds()
	return out, nil
}

// usable are the images that a kind can learn from: the labelled ones for a classifier, and those of good parts
// otherwise.
func (d ImageDataset) usable(classes bool) ([]int, error) {
	var use []int
	for i := range d.Images {
		labelled := d.Labels != nil && d.Labels[i] >= 0
		good := !labelled && len(d.Classes) == 0 || labelled && slices.Contains(d.Normal, d.Classes[d.Labels[i]])
		if classes && labelled || !classes && good {
			use = append(use, i)
		}
	}
	if !classes {
		if len(use) < minGood {
			return nil, fmt.Errorf("%w: %d images of good parts: want %d or more", ErrData, len(use), minGood)
		}
		return use, nil
	}
	if len(d.Classes) < 2 {
		return nil, fmt.Errorf("%w: %d classes: a classifier needs two or more", ErrData, len(d.Classes))
	}
	count := make([]int, len(d.Classes))
	for _, i := range use {
		count[d.Labels[i]]++
	}
	for k, n := range count {
		if n < minPerClass {
			return nil, fmt.Errorf("%w: %d images of %q: want %d or more of every class", ErrData, n, d.Classes[k], minPerClass)
		}
	}
	return use, nil
}

// label of an image; 0 where nobody said.
func (d ImageDataset) label(i int) int {
	if d.Labels == nil {
		return 0
	}
	return max(d.Labels[i], 0)
}

// split keeps a share of each class, drawn by the seed, from the fit. One image of each class at least stays on
// either side.
func (d ImageDataset) split(use []int, c ImageConfig) (fit, held []int) {
	byClass := map[int][]int{}
	for _, i := range use {
		byClass[d.label(i)] = append(byClass[d.label(i)], i)
	}
	rng := rand.New(rand.NewPCG(c.Seed, 0x51d3))
	for k := range max(len(d.Classes), 1) {
		of := byClass[k]
		if len(of) == 0 {
			continue
		}
		n := min(max(int(math.Round(c.HoldOut*float64(len(of)))), 1), len(of)-1)
		for at, p := range rng.Perm(len(of)) {
			if at < n {
				held = append(held, of[p])
			} else {
				fit = append(fit, of[p])
			}
		}
	}
	slices.Sort(fit)
	slices.Sort(held)
	return fit, held
}

// exportImages builds the graph that devices get: what the network says, divided by limit.
func exportImages(net imageNet, image contract.Image, limit float64) (*onnxpb.GraphProto, int) {
	b := &onnx.Builder{}
	in := b.Input(contract.Pixels, onnx.Uint8, onnx.Batch, int64(image.Height), int64(image.Width), 3)
	x := b.Node("Transpose", []string{b.Node("Cast", []string{in}, onnx.Int("to", int64(onnx.Float)))}, onnx.Ints("perm", 0, 3, 1, 2))
	embedding, n, result := net.emit(b, x)
	b.NodeTo([]string{contract.Embedding}, "Identity", []string{embedding})
	value := result
	if len(image.Classes) > 0 {
		b.NodeTo([]string{contract.Probs}, "Softmax", []string{result}, onnx.Int("axis", 1))
		sure := ""
		if len(image.Normal) > 0 {
			var good []int64
			for i, name := range image.Classes {
				if slices.Contains(image.Normal, name) {
					good = append(good, int64(i))
				}
			}
			part := b.Node("Gather", []string{contract.Probs, b.Ints(good...)}, onnx.Int("axis", 1))
			sure = b.Node("ReduceSum", []string{part, b.Ints(1)}, onnx.Int("keepdims", 0))
		} else {
			sure = b.Node("ReduceMax", []string{contract.Probs}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0))
		}
		value = b.Node("Sub", []string{b.Scalar(1), sure})
	}
	b.NodeTo([]string{contract.Score}, "Mul", []string{value, b.Scalar(float32(1 / limit))})
	// A score that is not a number is not below the threshold, so it alarms.
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{b.Node("LessOrEqual", []string{contract.Score, b.Floats("threshold", []float32{1}, 1)})})
	b.Output(contract.Score, onnx.Float, onnx.Batch)
	b.Output(contract.Anomaly, onnx.Bool, onnx.Batch)
	if k := int64(len(image.Classes)); k > 0 {
		b.Output(contract.Probs, onnx.Float, onnx.Batch, k)
	}
	b.Output(contract.Embedding, onnx.Float, onnx.Batch, int64(n))
	return b.Graph(), n
}

// Bounds of a classifier's limit: a part is not called good with less than a twentieth of the probability
// against it, however sure the network was of the few images held out, and not with more than nine tenths.
const (
	leastDoubt = 0.05
	mostDoubt  = 0.9
)

// calibrate scores the held-out images with the model whose limit is 1, and returns the limit that flags the
// wanted share of good parts (of all, where no class is good), and the deciles of the scores below it. It puts
// the accuracy on them into card.
func (d ImageDataset) calibrate(ctx context.Context, model []byte, held []int, c ImageConfig, card map[string]any) (limit float64, deciles []float64, err error) {
	s, err := runtime.Load(model, runtime.Options{Library: c.Library})
	if err != nil {
		return 0, nil, err
	}
	defer s.Close()
	image := s.Contract().Image
	classes := len(image.Classes)
	var normal []float64
	confusion := make([][]int, classes)
	for i := range confusion {
		confusion[i] = make([]int, classes)
	}
	right := 0
	var r runtime.Result
	for _, i := range held {
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		if err := s.ScoreImage(d.Images[i], &r); err != nil {
			return 0, nil, err
		}
		if r.Score != r.Score {
			return 0, nil, fmt.Errorf("%w: the fit did not converge: a score is not a number", ErrData)
		}
		if classes > 0 {
			best := 0
			for k, p := range r.Probs {
				if p > r.Probs[best] {
					best = k
				}
			}
			confusion[d.label(i)][best]++
			if best == d.label(i) {
				right++
			}
			if len(image.Normal) > 0 && !slices.Contains(image.Normal, image.Classes[d.label(i)]) {
				continue
			}
		}
		normal = append(normal, float64(r.Score))
	}
	limit = 1
	if len(normal) > 0 {
		limit = tail(normal, c.FalseAlarms)
	}
	if classes > 0 {
		limit = min(max(limit, leastDoubt), mostDoubt)
		card["accuracy"] = float64(right) / float64(max(len(held), 1))
		card["confusion"] = map[string]any{"classes": image.Classes, "rows": confusion}
	} else {
		// A few images show less than all that good parts can look like, and the
		// fewer there are the less.
		limit *= 1 + 1/math.Sqrt(float64(max(len(normal), 1)))
		limit = max(limit, 1e-9) // all good parts look the same; anything that does not is unusual
	}
	for i := range normal {
		normal[i] /= limit
	}
	flagged := 0
	for _, v := range normal {
		if v > 1 {
			flagged++
		}
	}
	card["calibration"] = map[string]any{"images": len(normal), "flagged": flagged, "limit": limit, "falseAlarms": c.FalseAlarms}
	return limit, decilesOf(normal), nil
}
