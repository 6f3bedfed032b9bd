package zoo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/train"
)

// layer is x·w + b, w being [in, out] row by row.
type layer struct {
	name    string
	in, out int
	w, b    []float32
}

// layers makes a chain of layers with random weights.
func layers(name string, widths []int, rng *rand.Rand) (out []layer) {
	for i := range len(widths) - 1 {
		l := layer{name: fmt.Sprintf("%s%d", name, i), in: widths[i], out: widths[i+1], b: make([]float32, widths[i+1])}
		l.w = glorot(l.in, l.out, l.in*l.out, rng)
		out = append(out, l)
	}
	return out
}

// glorot draws n weights between in inputs and out outputs so that the spread of values is kept from layer to
// layer; after Glorot and Bengio (2010).
func glorot(in, out, n int, rng *rand.Rand) []float32 {
	limit := math.Sqrt(6 / float64(in+out))
	w := make([]float32, n)
	for i := range w {
		w[i] = float32((2*rng.Float64() - 1) * limit)
	}
	return w
}

// kernel is l's weights as those of a convolution over [in/length, length], its inputs falling apart into
// channels and samples, channel after channel.
func (l layer) kernel() []float32 {
	out := make([]float32, 0, len(l.w))
	for o := range l.out {
		for in := range l.in {
			out = append(out, l.w[in*l.out+o])
		}
	}
	return out
}

// takeKernel is the way back from kernel.
func (l layer) takeKernel(kernel, bias []float32) error {
	if len(kernel) != len(l.w) || len(bias) != len(l.b) {
		return fmt.Errorf("the model has no layer %q of %d by %d units: fit it from scratch", l.name, l.in, l.out)
	}
	copy(l.b, bias)
	for o := range l.out {
		for in := range l.in {
			l.w[in*l.out+o] = kernel[o*l.in+in]
		}
	}
	return nil
}

// dense emits a chain of layers over the value x of shape [batch, in] for training; params collects the names
// of what it is to learn. Between two layers stands the operation between; empty: none.
func dense(b *onnx.Builder, x string, ls []layer, between string, params *[]string) string {
	for i, l := range ls {
		w := b.Floats(l.name+".w", l.w, int64(l.in), int64(l.out))
		bias := b.Floats(l.name+".b", l.b, int64(l.out))
		*params = append(*params, w, bias)
		if x = b.Node("Gemm", []string{x, w, bias}); between != "" && i < len(ls)-1 {
			x = b.Node(between, []string{x})
		}
	}
	return x
}

// along emits the same chain as convolutions over z of shape [batch, channels, rows]: the first layer's kernel
// is length rows long, the others' one.
func along(b *onnx.Builder, z, prefix string, ls []layer, between string, length int) string {
	for i, l := range ls {
		k := 1
		if i == 0 {
			k = length
		}
		w := b.Floats(prefix+l.name+".w", l.kernel(), int64(l.out), int64(l.in/k), int64(k))
		z = b.Node("Conv", []string{z, w, b.Floats(prefix+l.name+".b", l.b, int64(l.out))})
		if between != "" && i < len(ls)-1 {
			z = b.Node(between, []string{z})
		}
	}
	return z
}

// meanSquare emits the mean of v's squares over everything.
func meanSquare(b *onnx.Builder, v string) string {
	return b.Node("ReduceMean", []string{b.Node("Mul", []string{v, v})}, onnx.Int("keepdims", 1))
}

// stored returns the float constants of an exported model by name.
func stored(model []byte) (map[string][]float32, error) {
	m, err := onnx.Read(model, onnx.Limits{})
	if err != nil {
		return nil, err
	}
	out := map[string][]float32{}
	for _, t := range m.GetGraph().GetInitializer() {
		if onnx.DataType(t.GetDataType()) != onnx.Float {
			continue
		}
		if out[t.GetName()], err = onnx.FloatData(t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// batchOf is how many rows of m a training step takes.
func batchOf(m matrix, c Config) int { return min(c.BatchSize, m.rows) }

// descend trains task, whose input "x" takes batchOf rows of m, and returns the weights and the loss at the
// end, a running mean.
func descend(ctx context.Context, task train.Task, m matrix, c Config, random *rand.PCG, card map[string]any) (map[string][]float32, float64, error) {
	rows := func(m matrix) func(t *train.Trainer, rows []int) {
		return func(t *train.Trainer, rows []int) {
			for k, row := range rows {
				copy(t.Input("x")[k*m.cols:(k+1)*m.cols], m.data[row*m.cols:(row+1)*m.cols])
			}
		}
	}
	d := descent{
		task: task, library: c.Library, random: random, examples: m.rows, batch: batchOf(m, c), steps: c.Steps, fill: rows(m), checkpoints: c.Checkpoints,
		rate: func(step int) float64 {
			return c.LearningRate * (1 + math.Cos(math.Pi*float64(step)/float64(c.Steps))) / 2
		},
	}
	if m.held != nil && m.held.rows > 0 {
		d.patience, d.held, d.judge = c.Patience, m.held.rows, rows(*m.held)
	}
	return d.run(ctx, card)
}

// descent is what all kinds share that are trained in steps.
//
// Every example is used once before one is used again, each time in another order. What does not fill a batch
// at the end of such a pass is left out of it.
type descent struct {
	task     train.Task
	library  string
	random   *rand.PCG // the only chance there is, also in fill
	examples int
	batch    int // examples of a step
	steps    int
	rate     func(step int) float64
	fill     func(t *train.Trainer, examples []int) // writes them to t's inputs

	patience int                                    // checks without a new lowest loss that end it; 0: none is made
	held     int                                    // examples that nobody learns from; not 0 with patience
	judge    func(t *train.Trainer, examples []int) // writes some of these

	checkpoints *Checkpoints // nil: none are kept
}

const (
	checks    = 50    // of the loss on held-out data in a descent with patience
	leastGain = 0.001 // share by which that loss has to fall to count
)

// way is how far a descent has come: all that decides how it goes on.
type way struct {
	Step     int
	Order    []int     // what is left of the pass
	Loss     float64   // running mean
	Checks   []float64 // losses on held-out examples so far
	Best     map[string][]float32
	BestStep int // of Best, the weights at the lowest of Checks
}

// run returns the weights, with patience those that did best on held-out examples, and the running mean of the
// loss. With patience it tells card when it stopped, and why.
func (d descent) run(ctx context.Context, card map[string]any) (map[string][]float32, float64, error) {
	trainer, err := train.New(d.task, runtime.Options{Library: d.library})
	if err != nil {
		return nil, 0, err
	}
	defer trainer.Close()
	w := d.takeUp(trainer)
	patience := train.Patience{Checks: d.patience - 1, Gain: leastGain}
	for _, loss := range w.Checks {
		patience.Check(loss)
	}
	every := max(d.steps/checks, 1)
	rng, saved, stopped := rand.New(d.random), time.Now(), false
	for w.Step < d.steps && !stopped {
		if len(w.Order) < d.batch {
			w.Order = rng.Perm(d.examples)
		}
		d.fill(trainer, w.Order[:d.batch])
		w.Order = w.Order[d.batch:]
		loss, err := trainer.Step(ctx, d.rate(w.Step))
		if err != nil {
			return nil, 0, err
		}
		if w.Step == 0 {
			w.Loss = float64(loss)
		}
		w.Loss += 0.02 * (float64(loss) - w.Loss)
		w.Step++
		if d.patience > 0 && (w.Step%every == 0 || w.Step == d.steps) {
			loss, err := d.heldLoss(ctx, trainer)
			if err != nil {
				return nil, 0, err
			}
			w.Checks = append(w.Checks, loss)
			best, stop := patience.Check(loss)
			if best {
				w.Best, w.BestStep = trainer.Params(), w.Step
			}
			stopped = stop
		}
		if c := d.checkpoints; c != nil && !stopped && time.Since(saved) >= c.Every {
			state, err := d.save(w, trainer)
			if err != nil {
				return nil, 0, err
			}
			c.Save(state)
			saved = time.Now()
		}
	}
	if d.patience == 0 {
		return trainer.Params(), w.Loss, nil
	}
	why := "all steps were done"
	if stopped {
		why = fmt.Sprintf("the loss on held-out data had not fallen for %d checks, %d steps apart", d.patience, every)
	}
	card["stopped"] = map[string]any{"step": w.Step, "of": d.steps, "why": why, "taken": w.BestStep, "heldOut": d.held, "losses": w.Checks}
	return w.Best, w.Loss, nil
}

// heldLoss is the mean loss over the held-out examples; what is missing of the last batch is filled up with
// the first of them.
func (d descent) heldLoss(ctx context.Context, trainer *train.Trainer) (float64, error) {
	sum, n, part := 0.0, 0, make([]int, d.batch)
	for from := 0; from < d.held; from += d.batch {
		for i := range part {
			part[i] = (from + i) % d.held
		}
		d.judge(trainer, part)
		loss, err := trainer.Loss(ctx)
		if err != nil {
			return 0, err
		}
		sum += float64(loss)
		n++
	}
	if mean := sum / float64(n); !math.IsNaN(mean) && !math.IsInf(mean, 0) {
		return mean, nil
	}
	return 0, fmt.Errorf("%w: the fit did not converge: the loss on held-out data is not a number", ErrData)
}

// Checkpoints keeps how far a fit has come, so that the same fit, begun again by another process, goes on from
// there. The model it comes to is the same, bit for bit.
type Checkpoints struct {
	Every time.Duration // between two; 0: after each step
	// Load returns the newest state that the same fit saved, nil when there is none. A state that is damaged or
	// of another fit is left aside.
	Load func() []byte
	// Save keeps a state instead of the one before; the fit waits for it.
	Save func(state []byte)
	// Resumed hears that the fit goes on after a step instead of before the first; nil: nobody wants to know.
	Resumed func(step, steps int)
}

// A state is the length of a way, 64 bits little-endian, the way as gob, the trainer's checkpoint, and the SHA-256
// of all before it.

// save writes the state of a descent.
func (d descent) save(w way, trainer *train.Trainer) ([]byte, error) {
	checkpoint, err := trainer.Checkpoint(d.random)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(w); err != nil {
		return nil, fmt.Errorf("write checkpoint: %w", err)
	}
	p := make([]byte, 0, 8+b.Len()+len(checkpoint)+sha256.Size)
	p = binary.LittleEndian.AppendUint64(p, uint64(b.Len()))
	p = append(append(p, b.Bytes()...), checkpoint...)
	sum := sha256.Sum256(p)
	return append(p, sum[:]...), nil
}

// takeUp brings trainer and chance to where an interrupted descent was; the beginning, when there was none.
func (d descent) takeUp(trainer *train.Trainer) way {
	if d.checkpoints == nil {
		return way{}
	}
	state := d.checkpoints.Load()
	at := len(state) - sha256.Size
	if at < 8 || sha256.Sum256(state[:at]) != [sha256.Size]byte(state[at:]) {
		return way{}
	}
	n, state := binary.LittleEndian.Uint64(state), state[8:at]
	if n > uint64(len(state)) {
		return way{}
	}
	var w way
	if gob.NewDecoder(bytes.NewReader(state[:n])).Decode(&w) != nil || w.Step > d.steps {
		return way{}
	}
	if trainer.Resume(state[n:], d.random) != nil { // which has then changed nothing
		return way{}
	}
	if d.checkpoints.Resumed != nil {
		d.checkpoints.Resumed(w.Step, d.steps)
	}
	return w
}
