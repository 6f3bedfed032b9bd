package train

import (
	"math"

	"github.com/swellfleet/swell/models/onnx"
)

// Optimizer says how a step moves the parameters: Adam or SGD.
type Optimizer interface {
	// memory is how many vectors as long as the parameters it carries from step to step.
	memory() int
	// emit appends the operations that move parameters p by gradient g. old and next name its memory before
	// and after; decayed names a vector that is 1 where weight decay applies and 0 elsewhere, "" when none
	// is asked for. It returns the name of the moved parameters' value.
	emit(b *onnx.Builder, p, g string, old, next []string, decayed string) string
	// rates are the values of the step's scalars rate and correction at step n, from 1 on.
	rates(n int, learningRate float64) (rate, correction float64)
	// decay is the share of a weight that is taken off per unit of learning rate.
	decay() float64
}

// Adam is the optimizer of Kingma and Ba (2015), with the weight decay of Loshchilov and Hutter (2019) when
// Decay is set. A zero field means its default.
type Adam struct {
	Beta1   float64 // default 0.9
	Beta2   float64 // default 0.999
	Epsilon float64 // default 1e-8
	Decay   float64 // of weights, not of biases and scales; default none
}

func (a Adam) withDefaults() Adam {
	if a.Beta1 == 0 {
		a.Beta1 = 0.9
	}
	if a.Beta2 == 0 {
		a.Beta2 = 0.999
	}
	if a.Epsilon == 0 {
		a.Epsilon = 1e-8
	}
	return a
}

func (a Adam) memory() int    { return 2 }
func (a Adam) decay() float64 { return a.Decay }

func (a Adam) rates(n int, learningRate float64) (rate, correction float64) {
	a = a.withDefaults()
	return learningRate / (1 - math.Pow(a.Beta1, float64(n))), 1 / math.Sqrt(1-math.Pow(a.Beta2, float64(n)))
}

func (a Adam) emit(b *onnx.Builder, p, g string, old, next []string, decayed string) string {
	a = a.withDefaults()
	average := func(old, in string, beta float64, out string) {
		kept := b.Node("Mul", []string{old, b.Scalar(float32(beta))})
		b.NodeTo([]string{out}, "Add", []string{kept, b.Node("Mul", []string{in, b.Scalar(float32(1 - beta))})})
	}
	average(old[0], g, a.Beta1, next[0])
	average(old[1], b.Node("Mul", []string{g, g}), a.Beta2, next[1])
	scale := b.Node("Mul", []string{b.Node("Sqrt", []string{next[1]}), correction})
	scale = b.Node("Add", []string{scale, b.Scalar(float32(a.Epsilon))})
	move := b.Node("Div", []string{b.Node("Mul", []string{next[0], rate}), scale})
	if decayed != "" {
		// Off the weights themselves, so that the gradient's scale has no say in it.
		less := b.Node("Mul", []string{b.Node("Mul", []string{p, decayed}), learning})
		move = b.Node("Add", []string{move, less})
	}
	return b.Node("Sub", []string{p, move})
}

// SGD is stochastic gradient descent with momentum. The zero value has none.
type SGD struct {
	Momentum float64 // share of the last move that is kept
	Nesterov bool    // look ahead along it
	Decay    float64 // of weights, not of biases and scales, added to the gradient; default none
}

func (s SGD) memory() int {
	if s.Momentum == 0 {
		return 0
	}
	return 1
}

func (s SGD) decay() float64 { return s.Decay }

func (s SGD) rates(_ int, learningRate float64) (rate, correction float64) { return learningRate, 1 }

func (s SGD) emit(b *onnx.Builder, p, g string, old, next []string, decayed string) string {
	if decayed != "" {
		g = b.Node("Add", []string{g, b.Node("Mul", []string{p, decayed})})
	}
	if s.Momentum > 0 {
		kept := b.Node("Mul", []string{old[0], b.Scalar(float32(s.Momentum))})
		b.NodeTo([]string{next[0]}, "Add", []string{kept, g})
		if s.Nesterov {
			g = b.Node("Add", []string{g, b.Node("Mul", []string{next[0], b.Scalar(float32(s.Momentum))})})
		} else {
			g = next[0]
		}
	}
	return b.Node("Sub", []string{p, b.Node("Mul", []string{g, learning})})
}

// Schedule is a learning rate over the steps of a run: it rises evenly during Warmup and then falls along a
// cosine to Final (Loshchilov and Hutter, 2017).
type Schedule struct {
	Rate   float64 // the highest
	Final  float64 // at the end; 0 is right for most
	Warmup int     // steps
	Steps  int     // in all
}

// At is the rate of a step, from 0 on. After Steps it stays at Final.
func (s Schedule) At(step int) float64 {
	if step < s.Warmup {
		return s.Rate * float64(step+1) / float64(s.Warmup)
	}
	if step >= s.Steps {
		return s.Final
	}
	part := float64(step-s.Warmup) / float64(s.Steps-s.Warmup)
	return s.Final + (s.Rate-s.Final)*(1+math.Cos(math.Pi*part))/2
}
