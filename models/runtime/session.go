package runtime

import (
	"errors"
	"fmt"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
)

// ErrClosed is what a Session answers after Close.
var ErrClosed = errors.New("model session is closed")

// Result is the verdict on one window.
type Result struct {
	// Score grows with how unusual the window is; above the contract's threshold it is an anomaly.
	// NaN comes with Anomaly.
	Score   float32
	Anomaly bool
	// ChannelScore says how much each channel contributed, in the contract's order. Score reuses the
	// slice it finds here. Nil when the model does not compute it.
	ChannelScore []float32
	// Probs and Embedding are what an image model says of the classes in the contract's order, and the image
	// as it sees it. ScoreImage reuses the slices it finds here; both are empty where the model has none.
	Probs, Embedding []float32
}

// Session is a model ready to score. All methods may be called from any goroutine; runs take turns.
type Session struct {
	contract contract.Contract
	channels bool // the model computes channel scores

	// rows is how many windows ScoreBatch hands to the runtime at once.
	rows int

	mu      sync.Mutex
	program *Program // nil after Close
	single  *batch
	many    *batch // nil until the first ScoreBatch
}

// ScoreBatch hands so many windows to the runtime at once, and fewer where a run would need more memory.
const (
	manyWindows = 256
	manyBytes   = 64 << 20
)

// Load checks model against its contract and the default limits of models/onnx, loads it and runs it once.
func Load(model []byte, o Options) (*Session, error) {
	c, err := onnx.Check(model, onnx.Limits{})
	if err != nil {
		return nil, err
	}
	m, err := onnx.Read(model, onnx.Limits{})
	if err != nil {
		return nil, err
	}
	in, shape := contract.Window, []int64{1, int64(len(c.Channels)), int64(c.Window)}
	if i := c.Image; i != nil {
		in, shape = contract.Pixels, []int64{1, int64(i.Height), int64(i.Width), 3}
	}
	values, err := onnx.Infer(m.GetGraph(), map[string][]int64{in: shape})
	if err != nil {
		return nil, err
	}
	s := &Session{contract: c, rows: int(min(max(manyBytes/max(values.Bytes(), 1), 1), manyWindows))}
	for _, out := range m.GetGraph().GetOutput() {
		s.channels = s.channels || out.GetName() == contract.ChannelScore
	}
	if s.program, err = LoadProgram(model, o); err != nil {
		return nil, fmt.Errorf("load %s model: %w", c.Kind, err)
	}
	if s.single, err = s.newBatch(1); err == nil {
		err = s.single.binding.Run()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load %s model: first run: %w", c.Kind, err), s.Close())
	}
	return s, nil
}

// Contract is what the model promises.
func (s *Session) Contract() contract.Contract { return s.contract }

// Score runs the model on one window of Contract().Cells() values, channel after channel, oldest sample
// first, in raw engineering units. It allocates nothing when out.ChannelScore has room.
func (s *Session) Score(window []float32, out *Result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.program == nil {
		return ErrClosed
	}
	if s.contract.Image != nil || len(window) != s.contract.Cells() {
		return s.sizeError(len(window))
	}
	copy(s.single.window.Data(), window)
	if err := s.single.binding.Run(); err != nil {
		return err
	}
	out.Score = s.single.score.Data()[0]
	out.Anomaly = s.single.anomaly.GetData()[0]
	out.ChannelScore = out.ChannelScore[:0]
	if s.channels {
		out.ChannelScore = append(out.ChannelScore, s.single.channel.Data()...)
	}
	return nil
}

// ScoreBatch scores len(scores) windows laid one after another, for evaluation on the hub. flags and
// channelScores may be nil; otherwise they hold one value per window, and one per window and channel
// (left as they are when the model computes none).
func (s *Session) ScoreBatch(windows, scores []float32, flags []bool, channelScores []float32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.program == nil {
		return ErrClosed
	}
	cells, channels := s.contract.Cells(), len(s.contract.Channels)
	if s.contract.Image != nil || len(windows) != cells*len(scores) {
		return s.sizeError(len(windows))
	}
	if flags != nil && len(flags) != len(scores) || channelScores != nil && len(channelScores) != channels*len(scores) {
		return fmt.Errorf("score %d windows: room for %d flags and %d channel scores", len(scores), len(flags), len(channelScores))
	}
	if err := s.needMany(); err != nil {
		return err
	}
	for from := 0; from < len(scores); from += s.rows {
		n := min(s.rows, len(scores)-from)
		copy(s.many.window.Data(), windows[from*cells:(from+n)*cells])
		// A short tail runs with old windows behind it, whose results are not read.
		if err := s.many.binding.Run(); err != nil {
			return err
		}
		copy(scores[from:from+n], s.many.score.Data())
		if flags != nil {
			copy(flags[from:from+n], s.many.anomaly.GetData())
		}
		if channelScores != nil && s.channels {
			copy(channelScores[from*channels:(from+n)*channels], s.many.channel.Data())
		}
	}
	return nil
}

// needMany makes the buffers for many at once, with the first use of them.
func (s *Session) needMany() (err error) {
	if s.many == nil {
		s.many, err = s.newBatch(int64(s.rows))
	}
	return err
}

func (s *Session) sizeError(got int) error {
	if i := s.contract.Image; i != nil {
		return fmt.Errorf("score: %d values are for a model of windows, this one reads images of %d by %d pixels", got, i.Height, i.Width)
	}
	return fmt.Errorf("score: %d values do not make windows of %d channels by %d samples",
		got, len(s.contract.Channels), s.contract.Window)
}

// Close frees the model's native memory; see TrimMemory. It waits for a run in progress. Closing twice is
// harmless.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.program == nil {
		return nil
	}
	err := errors.Join(s.single.close(), s.many.close(), s.program.Close())
	s.program, s.single, s.many = nil, nil, nil
	return err
}

// batch is the buffers of one batch size. What the model does not read or compute is nil.
type batch struct {
	window, score    *Tensor
	pixels           *ort.Tensor[uint8]
	anomaly          *ort.Tensor[bool]
	channel          *Tensor
	probs, embedding *Tensor
	binding          *Binding
}

func (s *Session) newBatch(n int64) (_ *batch, err error) {
	b := &batch{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	tensors := func(of map[string]*Tensor, name string, dims ...int64) *Tensor {
		if err == nil {
			of[name], err = NewTensor(append([]int64{n}, dims...)...)
		}
		return of[name]
	}
	inputs, outputs := map[string]*Tensor{}, map[string]*Tensor{}
	b.score = tensors(outputs, contract.Score)
	if i := s.contract.Image; i == nil {
		channels := int64(len(s.contract.Channels))
		b.window = tensors(inputs, contract.Window, channels, int64(s.contract.Window))
		if s.channels {
			b.channel = tensors(outputs, contract.ChannelScore, channels)
		}
	} else {
		if len(i.Classes) > 0 {
			b.probs = tensors(outputs, contract.Probs, int64(len(i.Classes)))
		}
		if i.Embedding > 0 {
			b.embedding = tensors(outputs, contract.Embedding, int64(i.Embedding))
		}
		if err == nil {
			b.pixels, err = ort.NewEmptyTensor[uint8](ort.NewShape(n, int64(i.Height), int64(i.Width), 3))
		}
	}
	if err == nil {
		b.anomaly, err = ort.NewEmptyTensor[bool](ort.NewShape(n))
	}
	if err != nil {
		return nil, err
	}
	if b.binding, err = s.program.Bind(inputs, outputs); err != nil {
		return nil, err
	}
	if err = b.binding.io.BindOutput(contract.Anomaly, b.anomaly); err != nil {
		return nil, fmt.Errorf("bind %s: %w", contract.Anomaly, err)
	}
	if b.pixels != nil {
		if err = b.binding.io.BindInput(contract.Pixels, b.pixels); err != nil {
			return nil, fmt.Errorf("bind %s: %w", contract.Pixels, err)
		}
	}
	return b, nil
}

func (b *batch) close() error {
	if b == nil {
		return nil
	}
	var errs []error
	if b.binding != nil {
		errs = append(errs, b.binding.Close())
	}
	for _, t := range []*Tensor{b.window, b.score, b.channel, b.probs, b.embedding} {
		if t != nil {
			errs = append(errs, t.Close())
		}
	}
	if b.pixels != nil {
		errs = append(errs, b.pixels.Destroy())
	}
	if b.anomaly != nil {
		errs = append(errs, b.anomaly.Destroy())
	}
	return errors.Join(errs...)
}
