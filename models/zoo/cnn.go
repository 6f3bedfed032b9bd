package zoo

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/train"
)

// residualNet is the small convolutional network: a wide first convolution, three blocks with shortcuts, the mean
// over the picture, one linear layer. Its normalizations by batch are folded into the convolutions when it is
// exported.
type residualNet struct {
	planes      int // of the pictures: 1 when all of them are grey
	mean, scale float32
	convs       []*convolution
	blocks      []block
	last        layer
}

// convolution is a square kernel with the normalization behind it.
type convolution struct {
	name                            string
	in, out, size, stride           int
	w, gamma, beta, mean, deviation []float32 // deviation holds variances
}

// block is two convolutions beside a shortcut; the shortcut is nil where it is the identity.
type block struct{ first, second, shortcut *convolution }

const batchNormEpsilon = 1e-5

func newResidualNet(planes, width, classes int, rng *rand.Rand) *residualNet {
	n := &residualNet{planes: planes}
	conv := func(in, out, size, stride int) *convolution {
		v := &convolution{
			name: fmt.Sprintf("conv%d", len(n.convs)), in: in, out: out, size: size, stride: stride,
			gamma: make([]float32, out), beta: make([]float32, out), mean: make([]float32, out), deviation: make([]float32, out),
		}
		// He et al. (2015): keeps the spread of values behind rectifiers.
		spread := math.Sqrt(2 / float64(in*size*size))
		for range in * out * size * size {
			v.w = append(v.w, float32(rng.NormFloat64()*spread))
		}
		for i := range out {
			v.gamma[i], v.deviation[i] = 1, 1
		}
		n.convs = append(n.convs, v)
		return v
	}
	conv(planes, width, 5, 2)
	for _, s := range []struct{ in, out, stride int }{{width, width, 1}, {width, 2 * width, 2}, {2 * width, 4 * width, 2}} {
		b := block{first: conv(s.in, s.out, 3, s.stride), second: conv(s.out, s.out, 3, 1)}
		if s.stride > 1 {
			b.shortcut = conv(s.in, s.out, 1, s.stride)
		}
		n.blocks = append(n.blocks, b)
	}
	n.last = layers("last", []int{4 * width, classes}, rng)[0]
	return n
}

// forward emits the network over x [batch, planes, height, width] with conv for every convolution, and returns the
// embedding.
func (n *residualNet) forward(b *onnx.Builder, x string, conv func(c *convolution, x string) string) string {
	x = b.Node("Relu", []string{conv(n.convs[0], x)})
	x = b.Node("MaxPool", []string{x}, onnx.Ints("kernel_shape", 3, 3), onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 1, 1, 1))
	for _, k := range n.blocks {
		y := conv(k.second, b.Node("Relu", []string{conv(k.first, x)}))
		if k.shortcut != nil {
			x = conv(k.shortcut, x)
		}
		x = b.Node("Relu", []string{b.Node("Add", []string{y, x})})
	}
	return b.Node("Flatten", []string{b.Node("GlobalAveragePool", []string{x})})
}

func (c *convolution) emit(b *onnx.Builder, inputs ...string) string {
	size, stride, pad := int64(c.size), int64(c.stride), int64(c.size/2)
	return b.Node("Conv", inputs, onnx.Ints("kernel_shape", size, size), onnx.Ints("strides", stride, stride), onnx.Ints("pads", pad, pad, pad, pad))
}

func (c *convolution) kernel(b *onnx.Builder, w []float32) string {
	return b.Floats(c.name+".w", w, int64(c.out), int64(c.in), int64(c.size), int64(c.size))
}

// task is the network for training on batches of the given size: cross-entropy against labels "y".
func (n *residualNet) task(batch, height, width, classes int, decay float64) train.Task {
	b := &onnx.Builder{}
	t := train.Task{Loss: "loss", Optimizer: train.Adam{Decay: decay}}
	x := b.Input("x", onnx.Float, int64(batch), int64(n.planes), int64(height), int64(width))
	e := n.forward(b, x, func(c *convolution, x string) string {
		w, size := c.kernel(b, c.w), int64(c.out)
		gamma, beta := b.Floats(c.name+".gamma", c.gamma, size), b.Floats(c.name+".beta", c.beta, size)
		t.Params = append(t.Params, w, gamma, beta)
		return b.Node("BatchNormalization", []string{
			c.emit(b, x, w), gamma, beta, b.Floats(c.name+".mean", c.mean, size), b.Floats(c.name+".variance", c.deviation, size),
		}, onnx.Float32("epsilon", batchNormEpsilon))
	})
	crossEntropy(b, &t, dense(b, e, []layer{n.last}, "", &t.Params), batch, classes)
	return t
}

// crossEntropy ends a task: the loss between logits [batch, classes] and the shares of each class in the input "y".
func crossEntropy(b *onnx.Builder, t *train.Task, logits string, batch, classes int) {
	y := b.Input("y", onnx.Float, int64(batch), int64(classes))
	like := b.Node("Mul", []string{y, b.Node("LogSoftmax", []string{logits}, onnx.Int("axis", 1))})
	loss := b.Node("Mul", []string{b.Node("ReduceSum", []string{like, b.Ints(0, 1)}, onnx.Int("keepdims", 1)), b.Scalar(-1 / float32(batch))})
	b.NodeTo([]string{t.Loss}, "Reshape", []string{loss, b.Ints(1)})
	t.Forward = b.Graph()
}

// take copies the weights that training came to.
func (n *residualNet) take(weights map[string][]float32) {
	for _, c := range n.convs {
		c.w, c.gamma, c.beta = weights[c.name+".w"], weights[c.name+".gamma"], weights[c.name+".beta"]
		c.mean, c.deviation = weights[c.name+".mean"], weights[c.name+".variance"]
	}
	n.last.w, n.last.b = weights[n.last.name+".w"], weights[n.last.name+".b"]
}

func (n *residualNet) emit(b *onnx.Builder, x string) (string, int, string) {
	if n.planes == 1 {
		x = b.Node("ReduceMean", []string{x}, onnx.Ints("axes", 1), onnx.Int("keepdims", 1))
	}
	x = b.Node("Mul", []string{b.Node("Sub", []string{x, b.Scalar(n.mean)}), b.Scalar(n.scale)})
	e := n.forward(b, x, func(c *convolution, x string) string {
		w, bias := make([]float32, len(c.w)), make([]float32, c.out)
		each := len(c.w) / c.out
		for o := range c.out {
			factor := float64(c.gamma[o]) / math.Sqrt(float64(c.deviation[o])+batchNormEpsilon)
			for i := range each {
				w[o*each+i] = float32(float64(c.w[o*each+i]) * factor)
			}
			bias[o] = float32(float64(c.beta[o]) - float64(c.mean[o])*factor)
		}
		return c.emit(b, x, c.kernel(b, w), b.Floats(c.name+".b", bias, int64(c.out)))
	})
	var unused []string
	return e, n.last.in, dense(b, e, []layer{n.last}, "", &unused)
}

// stepsOf is how many steps to train n images for: in epochs as configured, or more epochs for fewer images.
func stepsOf(c ImageConfig, n, batch, usual int) int {
	perEpoch := max(n/batch, 1)
	if c.Epochs > 0 {
		return c.Epochs * perEpoch
	}
	epochs := float64(usual) * math.Sqrt(1000/float64(n))
	return int(min(max(epochs, float64(usual)/8), 5*float64(usual))) * perEpoch
}

func fitCNN(ctx context.Context, d ImageDataset, use part, c ImageConfig, card map[string]any) (imageNet, error) {
	const usualEpochs, decay = 80, 0.05
	p := newPictures(d, use.fit)
	random := rand.NewPCG(c.Seed, 0xc44)
	rng := rand.New(random)
	n := newResidualNet(p.planes, c.Channels, len(d.Classes), rng)
	n.mean, n.scale = p.mean, p.scale
	batch := min(c.BatchSize, len(use.fit))
	steps := stepsOf(c, len(use.fit), batch, usualEpochs)
	task := n.task(batch, d.Height, d.Width, len(d.Classes), decay)
	weights, loss, err := classify(ctx, task, d, use, batch, steps, c, random, card, func(k int, x []float32) {
		p.draw(k, x, !c.Upright, rng)
	}, func(k int, x []float32) {
		p.normalize(d.Images[use.held[k]], x)
	})
	if err != nil {
		return nil, err
	}
	n.take(weights)
	card["planes"], card["channels"], card["steps"], card["loss"] = p.planes, c.Channels, steps, loss
	return n, nil
}

// classify trains task with labels. draw writes the k-th image to learn from into x, with whatever chance
// changes about it; show writes the k-th of those held out, as it is.
func classify(ctx context.Context, task train.Task, d ImageDataset, use part, batch, steps int, c ImageConfig, random *rand.PCG, card map[string]any,
	draw, show func(k int, x []float32),
) (map[string][]float32, float64, error) {
	spread := float32(c.Smoothing / float64(len(d.Classes)))
	write := func(of []int, input func(k int, x []float32)) func(t *train.Trainer, examples []int) {
		return func(t *train.Trainer, examples []int) {
			x, y := t.Input("x"), t.Input("y")
			size, classes := len(x)/batch, len(y)/batch
			for i, k := range examples {
				input(k, x[i*size:(i+1)*size])
				for j := range classes {
					y[i*classes+j] = spread
				}
				y[i*classes+d.label(of[k])] += 1 - float32(c.Smoothing)
			}
		}
	}
	return descent{
		task: task, library: c.Library, random: random, examples: len(use.fit), batch: batch, steps: steps,
		rate: train.Schedule{Rate: c.LearningRate, Warmup: steps / 20, Steps: steps}.At, fill: write(use.fit, draw),
		patience: c.Patience, held: len(use.held), judge: write(use.held, show), checkpoints: c.Checkpoints,
	}.run(ctx, card)
}
