package pipeline

import (
	"math"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// Recorder is the Sink that builds telemetry blocks. A block is closed when it
// has its rows, when Flush says so, and where rows or times do not follow on
// each other.
//
// Its methods may be called from any goroutine.
type Recorder struct {
	config  RecorderConfig
	columns []source.Channel

	mu       sync.Mutex
	raw      open
	verdicts open
}

// RecorderConfig says how blocks are cut.
type RecorderConfig struct {
	Channels []source.Channel
	RateHz   float64 // nominal rate of the raw stream; 0: none
	MaxRows  int     // of a block
	// Emit takes a finished block over; it is not called twice at once. nextRow
	// is the index after the last raw row that the block covers.
	Emit func(b *telemetry.Block, nextRow uint64)
}

// rowSignal holds, in verdict blocks of models that do not score every row, how
// many raw rows a verdict's row lies after the block's first.
const rowSignal = "row"

// maxBlockSpan closes a block of a slow stream.
const maxBlockSpan = int64(time.Hour)

// open is a block under construction.
type open struct {
	block   *telemetry.Block // nil: none
	rateHz  float64          // that its rows seem to have
	times   []int64
	next    uint64 // index expected next
	regular bool
	shape   shape
}

// shape is what verdict rows of one block have in common.
type shape struct {
	stride   int
	shadowed bool
	classes  bool
}

// NewRecorder makes a Recorder.
func NewRecorder(c RecorderConfig) *Recorder {
	return &Recorder{config: c, columns: c.Channels}
}

// Rows implements Sink.
func (r *Recorder) Rows(first uint64, rows source.Rows) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, at := range rows.Times {
		row := first + uint64(i)
		o := &r.raw
		if o.block != nil && (row != o.next || !o.follows(at)) {
			r.close(o)
		}
		if o.block == nil {
			o.begin(telemetry.Raw, row, at, r.config.RateHz, len(r.columns))
			for c, ch := range r.columns {
				o.block.Signals[c] = telemetry.Signal{Name: ch.Name, Unit: ch.Unit, Values: make([]float32, 0, r.config.MaxRows)}
			}
		}
		for c := range r.columns {
			s := &o.block.Signals[c]
			s.Values = append(s.Values, rows.Values[c][i])
		}
		o.add(at, row+1)
		if len(o.times) >= r.config.MaxRows {
			r.close(o)
		}
	}
}

// Verdict implements Sink.
func (r *Recorder) Verdict(v Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := &r.verdicts
	is := shape{v.Stride, v.Shadowed, v.Class != ""}
	if o.block != nil && (is != o.shape || v.Row != o.next || !o.follows(v.At)) {
		r.close(o)
	}
	if o.block == nil {
		names := []string{telemetry.Score, telemetry.Flag, telemetry.Release, telemetry.Threshold}
		if v.Shadowed {
			names = append(names, telemetry.ChallengerScore, telemetry.ChallengerFlag)
		}
		if is.classes {
			names = append(names, telemetry.Class, telemetry.Probability)
		}
		if v.Stride != 1 {
			names = append(names, rowSignal)
		}
		o.begin(telemetry.Verdicts, v.Row, v.At, r.config.RateHz/float64(v.Stride), len(names))
		o.shape = is
		for i, n := range names {
			o.block.Signals[i] = telemetry.Signal{Name: n, Values: make([]float32, 0, 64)}
		}
	}
	values := [9]float32{v.Score, bit(v.Flag), float32(v.Release.Counter), float32(v.Threshold)}
	n := 4
	if v.Shadowed {
		values[4], values[5] = v.ChallengerScore, bit(v.ChallengerFlag)
		n = 6
	}
	if is.classes {
		values[n], values[n+1] = float32(v.ClassIndex), v.Probability
		n += 2
	}
	if v.Stride != 1 {
		values[n] = float32(v.Row - o.block.First)
		n++
	}
	for i := range n {
		s := &o.block.Signals[i]
		s.Values = append(s.Values, values[i])
	}
	o.add(v.At, v.Row+uint64(v.Stride))
	if len(o.times) >= r.config.MaxRows {
		r.close(o)
	}
}

func bit(b bool) float32 {
	if b {
		return 1
	}
	return 0
}

// Flush closes what is open.
func (r *Recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.close(&r.raw)
	r.close(&r.verdicts)
}

func (o *open) begin(s telemetry.Stream, row uint64, at int64, rateHz float64, signals int) {
	o.block = &telemetry.Block{Stream: s, First: row, T0: at, Signals: make([]telemetry.Signal, signals)}
	o.rateHz, o.regular, o.times = rateHz, rateHz > 0, o.times[:0]
}

// follows says whether a row at that time may go into the open block.
func (o *open) follows(at int64) bool {
	return at >= o.times[len(o.times)-1] && at-o.block.T0 < maxBlockSpan
}

func (o *open) add(at int64, next uint64) {
	o.times = append(o.times, at)
	o.next = next
	if o.regular {
		want := float64(len(o.times)-1) * 1e9 / o.rateHz
		// A thousandth of a period is less than any clock of a sensor holds.
		o.regular = math.Abs(float64(at-o.block.T0)-want) <= 1e6/o.rateHz
	}
}

func (r *Recorder) close(o *open) {
	b := o.block
	if b == nil {
		return
	}
	o.block = nil
	if o.regular {
		b.RateHz = o.rateHz
	} else {
		b.Offsets = make([]int64, len(o.times))
		for i, at := range o.times {
			b.Offsets[i] = at - b.T0
		}
	}
	next := o.next
	if b.Stream == telemetry.Verdicts {
		next = next - uint64(o.shape.stride) + 1 // the row after the last window
	}
	r.config.Emit(b, next)
}
