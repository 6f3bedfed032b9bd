// Package pipeline cuts rows into windows and has every window scored.
//
// The parties are the source, whose rows come in through Rows from one
// goroutine; the champion model, whose verdicts act; a challenger in shadow,
// whose verdicts on the same windows are only counted; agent/apply, which
// changes both between two windows; and the Sink, which gets every row and
// every verdict.
//
// It promises that a change of model never costs a window: the champion goes on
// until its successor has all the rows it needs. A window is due when its rows
// are there without a gap; every due window is scored or counted as lost. Rows
// are numbered for the life of the device.
package pipeline

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/twin"
)

// Verdict is what the champion said about one window.
type Verdict struct {
	Row       uint64 // stream index of the window's last row
	At        int64  // time of that row, ns since the epoch
	Score     float32
	Flag      bool
	Release   scorer.Release
	Threshold float64
	Stride    int
	// Class is the likeliest class of an image, ClassIndex its place in the
	// model's list, and Probability how likely. Class is empty when the model
	// tells no classes.
	Class       string
	ClassIndex  int
	Probability float32
	// Shadowed is set when a challenger scored a window that ends at the same
	// row.
	Shadowed        bool
	ChallengerScore float32
	ChallengerFlag  bool
}

// Sink gets what the pipeline reads and finds, in order, from the goroutine that
// calls Rows. It must not block for long and must not keep rows' slices.
type Sink interface {
	Rows(first uint64, rows source.Rows)
	Verdict(v Verdict)
}

// Config says how windows are cut.
type Config struct {
	Channels []source.Channel
	RateHz   float64       // nominal; 0: unknown
	Camera   bool          // rows have pictures, which image models read
	MaxGap   time.Duration // rows further apart break a window; 0: never
	// MaxHold is for how many rows in a row a missing value (NaN) of a channel is
	// taken to be the last one that was there, as training takes it. Later ones
	// stay missing, and a window with one of them alarms. 0: none are.
	MaxHold  int
	FirstRow uint64   // stream index of the first row to come
	Before   Counters // of earlier runs
	Sink     Sink     // required
}

// Counters never fall in the life of a device.
type Counters struct {
	Samples       uint64 `json:"samples"`
	WindowsDue    uint64 `json:"windows_due"`
	WindowsScored uint64 `json:"windows_scored"`
	WindowsLost   uint64 `json:"windows_lost"`
	StoppedMs     uint64 `json:"stopped_ms"`
	Swaps         uint64 `json:"swaps"`
	ValuesHeld    uint64 `json:"values_held,omitempty"` // missing, and taken to be the one before
}

// Watch is how the champion did since it became champion in this run.
type Watch struct {
	Release      scorer.Release // zero: no champion
	Threshold    float64
	Due          uint64
	Windows      uint64
	Flagged      uint64
	NonFinite    uint64
	LatencyP99Ms float64
	Drift        *float64     // as in twin.Running
	Shadow       *twin.Shadow // nil: no challenger
	Challenger   scorer.Release
}

// Pipeline scores the rows of one source. Rows is called from one goroutine,
// everything else from any.
type Pipeline struct {
	config Config
	names  map[string]int

	mu         sync.Mutex
	ring       *ring
	row        uint64 // stream index of the next row
	next       uint64 // source index expected next
	base       uint64 // stream index minus source index
	started    bool
	lastAt     int64
	counters   Counters
	champion   *seat
	successor  *seat // takes over when its window is full; nil: none waits
	vacant     bool  // a champion was taken away and none put in its place
	challenger *seat
	shadow     *shadow
	stride     int       // of the newest champion, which is due also when vacant
	window     int       // likewise
	idleSince  time.Time // when rows last came without being scored; zero: scored
	result     runtime.Result
	frame      scaled // of the row that is being scored
}

// seat is one model at work.
type seat struct {
	model    *scorer.Model
	contract contract.Contract
	channels []int     // source channel of each model channel
	window   []float32 // reused
	watch    Watch
	latency  scorer.Latencies
	drift    drift
	score    float32 // of the newest window
	flag     bool
	class    int     // likeliest, of the newest image; -1: the model tells none
	likely   float32 // its probability
}

// New makes a pipeline for one source.
func New(c Config) *Pipeline {
	p := &Pipeline{config: c, names: map[string]int{}, ring: newRing(len(c.Channels), c.MaxHold), row: c.FirstRow, counters: c.Before}
	for i, ch := range c.Channels {
		p.names[ch.Name] = i
	}
	return p
}

// Fits reports why a model cannot score this source.
func (p *Pipeline) Fits(c contract.Contract) error {
	_, err := p.channels(c)
	return err
}

func (p *Pipeline) channels(c contract.Contract) ([]int, error) {
	switch {
	case c.Image != nil && !p.config.Camera:
		return nil, fmt.Errorf("the model reads images, and this device's source has none: it delivers %d sensor channels", len(p.config.Channels))
	case c.Image == nil && p.config.Camera:
		return nil, fmt.Errorf("the model reads %d sensor channels, and this device is a camera: it takes models that read images", len(c.Channels))
	}
	var at []int
	for _, ch := range c.Channels {
		i, ok := p.names[ch.Name]
		if !ok {
			return nil, fmt.Errorf("the model reads channel %q, which this device's source does not have", ch.Name)
		}
		if want, have := ch.Unit, p.config.Channels[i].Unit; want != "" && have != "" && want != have {
			return nil, fmt.Errorf("the model reads channel %q in %s, this device's source delivers %s", ch.Name, want, have)
		}
		at = append(at, i)
	}
	return at, nil
}

func (p *Pipeline) seat(m *scorer.Model) (*seat, error) {
	c := m.Contract()
	at, err := p.channels(c)
	if err != nil {
		return nil, err
	}
	return &seat{model: m.Hold(), contract: c, channels: at, window: make([]float32, c.Cells()), watch: Watch{Release: m.Release, Threshold: c.Threshold}}, nil
}

// SetChampion lets m act from the first window that ends after all its rows are
// there; until then the present champion goes on. nil: nothing acts from now.
// The pipeline holds m on its own.
func (p *Pipeline) SetChampion(m *scorer.Model) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.successor != nil {
		p.successor.model.Let()
		p.successor = nil
	}
	if m == nil {
		if p.champion != nil {
			p.champion.model.Let()
			p.champion, p.vacant = nil, true
		}
		return nil
	}
	s, err := p.seat(m)
	if err != nil {
		return err
	}
	p.ring.grow(s.contract.Window)
	p.successor = s
	p.succeed(s.contract.Window - 1) // the next row completes its window
	return nil
}

// succeed puts the successor in place if so many rows are there, or if there is
// nobody whose windows would be lost.
func (p *Pipeline) succeed(rows int) {
	s := p.successor
	if s == nil || p.champion != nil && !p.ring.has(rows) {
		return
	}
	if p.champion != nil {
		p.champion.model.Let()
		p.counters.Swaps++
	} else if p.vacant {
		p.counters.Swaps++
	}
	p.champion, p.successor, p.vacant = s, nil, false
	p.stride, p.window = s.contract.Stride, s.contract.Window
}

// Acting is the release that acts now. It differs from what SetChampion was
// given while a successor waits for its rows.
func (p *Pipeline) Acting() (scorer.Release, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.champion == nil {
		return scorer.Release{}, false
	}
	return p.champion.watch.Release, p.successor == nil
}

// SetChallenger lets m compute beside the champion, counting in windows of the
// given length. nil ends the shadow. The pipeline holds m on its own.
func (p *Pipeline) SetChallenger(m *scorer.Model, every time.Duration, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var s *seat
	if m != nil {
		var err error
		if s, err = p.seat(m); err != nil {
			return err
		}
		p.ring.grow(s.contract.Window)
	}
	if p.challenger != nil {
		p.challenger.model.Let()
	}
	p.challenger, p.shadow = s, nil
	if s != nil {
		if every <= 0 {
			every = time.Minute
		}
		p.shadow = &shadow{every: every, began: now}
	}
	return nil
}

// Rows takes in a batch. now is the device's clock.
func (p *Pipeline) Rows(rows source.Rows, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started {
		p.started, p.next, p.base = true, rows.First, p.row-rows.First
	}
	switch {
	case rows.First > p.next: // the source lost rows: their numbers stay empty
		p.ring.broke()
	case rows.First < p.next: // the source was opened again and counts anew
		p.base = p.row - rows.First
		p.ring.broke()
	}
	first := p.base + rows.First
	p.config.Sink.Rows(first, rows)
	if p.shadow != nil {
		p.shadow.close(now)
	}
	before := p.counters.WindowsScored
	for i := range rows.Times {
		at := rows.Times[i]
		if p.config.MaxGap > 0 && p.lastAt != 0 && time.Duration(at-p.lastAt) > p.config.MaxGap {
			p.ring.broke()
		}
		p.lastAt = at
		p.counters.ValuesHeld += p.ring.push(rows.Values, i)
		if p.config.Camera {
			p.frame.next(rows.Pictures[i])
		}
		p.score(first+uint64(i), at)
	}
	n := uint64(rows.Len())
	p.counters.Samples += n
	p.next = rows.First + n
	p.row = first + n
	p.idle(now, p.counters.WindowsScored > before)
}

// idle measures how long rows came and no champion was there to score them.
func (p *Pipeline) idle(now time.Time, busy bool) {
	if busy || p.champion != nil || p.counters.WindowsScored == 0 {
		p.idleSince = time.Time{}
		return
	}
	if !p.idleSince.IsZero() {
		p.counters.StoppedMs += uint64(max(now.Sub(p.idleSince).Milliseconds(), 0))
	}
	p.idleSince = now
}

func (p *Pipeline) score(row uint64, at int64) {
	if p.successor != nil {
		p.succeed(p.successor.contract.Window)
	}
	c := p.champion
	if c == nil {
		if p.vacant && p.stride > 0 && (row+1)%uint64(p.stride) == 0 && p.ring.has(p.window) {
			p.counters.WindowsDue++
			p.counters.WindowsLost++
		}
		return
	}
	acted := p.run(c, row)
	switch acted {
	case scored:
		p.counters.WindowsScored++
	case lost:
		p.counters.WindowsLost++
	}
	if acted != notDue {
		p.counters.WindowsDue++
		c.watch.Due++
	}
	shadowed := false
	if p.challenger != nil {
		switch p.run(p.challenger, row) {
		case lost:
			// A challenger that cannot compute is as bad as one that computes
			// nonsense.
			p.shadow.sum.NonFinite++
		case scored:
			if shadowed = acted == scored; shadowed {
				p.shadow.count(c.flag, p.challenger.flag)
			}
		}
	}
	if acted != scored {
		return
	}
	v := Verdict{Row: row, At: at, Score: c.score, Flag: c.flag, Release: c.watch.Release, Threshold: c.contract.Threshold, Stride: c.contract.Stride}
	if c.class >= 0 {
		v.Class, v.ClassIndex, v.Probability = c.contract.Image.Classes[c.class], c.class, c.likely
	}
	if shadowed {
		v.Shadowed, v.ChallengerScore, v.ChallengerFlag = true, p.challenger.score, p.challenger.flag
	}
	p.config.Sink.Verdict(v)
}

// outcome is what became of one window.
type outcome int

const (
	notDue outcome = iota
	scored
	lost
)

// run scores the window that ends at row, if one is due for this seat.
func (p *Pipeline) run(s *seat, row uint64) outcome {
	if (row+1)%uint64(s.contract.Stride) != 0 || !p.ring.has(s.contract.Window) {
		return notDue
	}
	var pixels []byte
	if i := s.contract.Image; i != nil {
		pixels = p.frame.at(i.Height, i.Width)
	} else {
		p.ring.window(s.window, s.channels, s.contract.Window)
	}
	began := time.Now()
	var err error
	if pixels != nil {
		err = s.model.ScoreImage(pixels, &p.result)
	} else {
		err = s.model.Score(s.window, &p.result)
	}
	s.latency.Add(time.Since(began))
	if err != nil {
		return lost
	}
	s.score, s.flag = p.result.Score, p.result.Anomaly
	s.class = -1
	if i := s.contract.Image; i != nil && len(i.Classes) > 0 {
		s.class, s.likely = likeliest(p.result.Probs)
	}
	s.watch.Windows++
	if s.flag {
		s.watch.Flagged++
	}
	if f := float64(s.score); math.IsNaN(f) || math.IsInf(f, 0) {
		s.watch.NonFinite++
		if s == p.challenger {
			p.shadow.sum.NonFinite++
		}
	} else {
		s.drift.add(s.contract.ScoreDeciles, f)
	}
	return scored
}

// Counters are the totals of this and earlier runs.
func (p *Pipeline) Counters() Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counters
}

// Watch is how champion and challenger are doing.
func (p *Pipeline) Watch() Watch {
	p.mu.Lock()
	defer p.mu.Unlock()
	var w Watch
	if p.champion != nil {
		w = p.champion.watch
		w.LatencyP99Ms = milliseconds(p.champion.latency.Quantile(0.99))
		w.Drift = p.champion.drift.index()
	}
	if p.challenger != nil {
		s := p.shadow.report()
		s.LatencyP99Ms = milliseconds(p.challenger.latency.Quantile(0.99))
		s.Drift = p.challenger.drift.index()
		w.Shadow, w.Challenger = &s, p.challenger.watch.Release
	}
	return w
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Close lets go of all models.
func (p *Pipeline) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range []*seat{p.champion, p.successor, p.challenger} {
		if s != nil {
			s.model.Let()
		}
	}
	p.champion, p.successor, p.challenger, p.shadow = nil, nil, nil, nil
}
