// Package ingest takes telemetry off the broker and makes it durable.
//
// The parties are the broker, which hands over each message and waits for done
// before it acknowledges the device; the series head, which makes batches
// durable; the sinks (fleet, SSE, rollups), which want to hear of new values
// soon; and the people who ask why data is missing (Stats, Conditions).
//
// Promises: done(nil) is called only after the block is on disk, or is known to
// be a duplicate of one that is, or can never be read and is quarantined; many
// waiting messages share one disk flush; nothing a sink does delays or fails
// it; memory is bounded, and everything dropped is counted.
//
// The hub imports it, as does the simulator.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/swellfleet/swell/cloud/quarantine"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// Head makes batches durable and knows which are already held; embedded.Store
// is one.
type Head interface {
	// Commit stores those of batches that are new, all or none, and returns
	// when they are durable. fresh[i] is false for a batch held before.
	Commit(ctx context.Context, batches []series.Batch) (fresh []bool, err error)
	// Coverage reports, per stream and boot, what rows of a device are held.
	Coverage(ctx context.Context, id topic.ID) ([]series.Coverage, error)
}

// Sink hears of batches that became durable, and of live values. Take is called
// from one goroutine and must not keep the batch's slices after it returns.
type Sink interface {
	Take(b *series.Batch)
}

// Config says what an Ingest works with.
type Config struct {
	Head    Head         // required
	Rollups series.Store // gets every fresh batch too, such as InfluxDB; nil for none
	Sinks   []Sink       // each behind its own queue of SinkQueue batches
	Log     *slog.Logger // required
	// Authorize refuses devices the hub does not know; nil lets all in that the
	// broker let in.
	Authorize func(topic.ID) error

	QuarantineDir   string // where unreadable payloads are kept for people; empty keeps none
	QuarantineBytes int64  // bound of that folder; 0 means 16 MiB
	PendingBytes    int64  // payload bytes waiting to be durable; 0 means 64 MiB
	SinkQueue       int    // batches; 0 means 1024
	Workers         int    // goroutines that encode and commit; 0 means 4
}

// Stats counts what came from one device, or from all, since the hub started,
// save for Gaps, which last.
type Stats struct {
	Blocks     uint64
	Rows       uint64
	Values     uint64
	Bytes      uint64 // of payloads
	Duplicates uint64 // blocks received again
	Malformed  uint64 // payloads that could not be read, quarantined
	Refused    uint64 // payloads not acknowledged, for want of room or right
	LastSeen   time.Time
	Gaps       []Gap // of a device only, by stream, boot and row

	SinkDropped    uint64 // in Totals only: batches that a sink was too slow for
	RollupsDropped uint64 // in Totals only: batches missing from Config.Rollups
}

// Gap is a range of rows that a device counted but the hub does not hold. It
// closes when the rows arrive late.
type Gap struct {
	Stream string
	Boot   uint64
	First  uint64
	Rows   uint64
}

// Condition is something an operator should know of, while it lasts.
type Condition struct {
	Name   string // one of the Cond constants
	Since  time.Time
	Detail string // what is wrong and what to do
}

// The conditions.
const (
	CondFull    = "series-full"    // the disk has no room: nothing is acknowledged
	CondStopped = "series-stopped" // the store stopped itself: nothing is acknowledged
	CondRollups = "rollups-behind" // the second store does not keep up or cannot be reached
	CondSink    = "sink-behind"    // the console or the fleet view misses values
)

// Ingest is the pipeline; make one with New.
type Ingest struct {
	cfg        Config
	log        *slog.Logger
	room       *semaphore.Weighted
	queue      chan *work
	quarantine *quarantine.Folder
	outlets    []*outlet // the sinks, then the rollups
	pool       sync.Pool // of *work

	workers sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc

	closing sync.RWMutex // held for reading while Handle may send to queue
	closed  bool

	mu         sync.Mutex
	devices    map[topic.ID]*device
	totals     Stats
	conditions map[string]Condition
}

// device is what is known of one device. Guarded by Ingest.mu.
type device struct {
	stats Stats
	live  *session // its Sparkplug session; nil before a birth
}

// work is one message on its way. Its batch points into its decoder; it goes
// back to the pool when the last holder lets go.
type work struct {
	id      topic.ID
	decoder telemetry.Decoder
	batch   series.Batch
	bytes   int64
	done    func(error)
	holders atomic.Int32
}

// New starts an Ingest. Close stops it.
func New(cfg Config) (*Ingest, error) {
	if cfg.Head == nil || cfg.Log == nil {
		return nil, errors.New("start ingest: Head and Log are required")
	}
	if cfg.PendingBytes == 0 {
		cfg.PendingBytes = 64 << 20
	}
	if cfg.QuarantineBytes == 0 {
		cfg.QuarantineBytes = 16 << 20
	}
	if cfg.SinkQueue == 0 {
		cfg.SinkQueue = 1024
	}
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	in := &Ingest{
		cfg: cfg, log: cfg.Log, room: semaphore.NewWeighted(cfg.PendingBytes), queue: make(chan *work, maxGroup),
		devices: map[topic.ID]*device{}, conditions: map[string]Condition{},
	}
	in.pool.New = func() any { return new(work) }
	q, err := quarantine.Open(cfg.QuarantineDir, ".block", cfg.QuarantineBytes)
	if err != nil {
		return nil, fmt.Errorf("start ingest: %w", err)
	}
	in.quarantine = q
	in.ctx, in.cancel = context.WithCancel(context.Background())
	for _, s := range cfg.Sinks {
		in.outlets = append(in.outlets, in.startSink(s))
	}
	if cfg.Rollups != nil {
		in.outlets = append(in.outlets, in.startRollups(cfg.Rollups))
	}
	for range cfg.Workers {
		in.workers.Go(in.work)
	}
	return in, nil
}

// ErrClosed means that the ingest was closed.
var ErrClosed = errors.New("ingest is closed")

// Handle takes one message of topic kind blocks from device id. It waits while
// PendingBytes are on their way, which the device feels as back-pressure, and
// has read payload when it returns. done is called exactly once, from any
// goroutine, with nil when the message may be acknowledged.
func (in *Ingest) Handle(ctx context.Context, id topic.ID, payload []byte, done func(error)) {
	if in.cfg.Authorize != nil {
		if err := in.cfg.Authorize(id); err != nil {
			in.refuse(id, done, fmt.Errorf("block of %s: %w", id, err))
			return
		}
	}
	w := in.pool.Get().(*work)
	if err := w.decode(id, payload); err != nil {
		in.pool.Put(w)
		in.malformed(id, payload, err)
		done(nil)
		return
	}
	w.done = done
	w.bytes = min(int64(len(payload)), in.cfg.PendingBytes)
	if err := in.room.Acquire(ctx, w.bytes); err != nil {
		in.pool.Put(w)
		in.refuse(id, done, fmt.Errorf("block of %s: ingest is busy: %w", id, err))
		return
	}
	in.closing.RLock()
	defer in.closing.RUnlock()
	if in.closed {
		in.room.Release(w.bytes)
		in.refuse(id, done, ErrClosed)
		return
	}
	in.count(id, func(s *Stats) { s.Bytes += uint64(len(payload)) })
	in.queue <- w
}

// decode fills w from a payload. The error means that no later try can read it.
func (w *work) decode(id topic.ID, payload []byte) error {
	block, err := w.decoder.Decode(payload)
	if err != nil {
		return err
	}
	columns := w.batch.Columns[:0]
	for i := range block.Signals {
		s := &block.Signals[i]
		c := series.Column{Name: s.Name, Unit: s.Unit, Kind: series.Float32, Float32: s.Values}
		if s.Codec != telemetry.RawFloat {
			c.Scale = s.Scale
		}
		columns = append(columns, c)
	}
	w.id = id
	w.batch = series.Batch{
		ID: id, Stream: string(block.Stream), Boot: block.Boot, Seq: block.Seq, First: block.First,
		T0: block.T0, RateHz: block.RateHz, Offsets: block.Offsets, Columns: columns, Covers: covers(block),
	}
	return w.batch.Validate()
}

// covers returns how many raw rows a block of verdicts stands for when its model
// skips some between windows, 0 when rows follow each other. The stride is the
// distance of the first two; a block of one verdict covers its own row alone.
func covers(b *telemetry.Block) uint64 {
	if b.Stream != telemetry.Verdicts {
		return 0
	}
	for i := range b.Signals {
		if s := &b.Signals[i]; s.Name == telemetry.RowOffset {
			rows, stride := len(s.Values), float32(1)
			if rows > 1 {
				stride = s.Values[1] - s.Values[0]
			}
			if n := s.Values[rows-1] + stride; n >= float32(rows) && n < 1<<40 {
				return uint64(n)
			}
		}
	}
	return 0
}

// maxGroup and maxGroupBytes bound what one worker commits at once.
const (
	maxGroup      = 512
	maxGroupBytes = 4 << 20
)

// work gathers whatever waits and commits it together. The head joins the
// groups of all workers into one disk flush.
func (in *Ingest) work() {
	var group []*work
	var batches []series.Batch
	for w := range in.queue {
		group, batches = append(group[:0], w), append(batches[:0], w.batch)
		for size := w.bytes; size < maxGroupBytes && len(group) < maxGroup; {
			select {
			case w, ok := <-in.queue:
				if ok {
					group, batches = append(group, w), append(batches, w.batch)
					size += w.bytes
					continue
				}
			default:
			}
			break
		}
		fresh, err := in.cfg.Head.Commit(in.ctx, batches)
		in.judge(err)
		for i, w := range group {
			in.room.Release(w.bytes)
			if err != nil {
				in.refuse(w.id, w.done, fmt.Errorf("store block %d of %s: %w", w.batch.Seq, w.id, err))
				in.pool.Put(w)
				continue
			}
			in.accepted(w, fresh[i])
			w.done(nil)
			if !fresh[i] {
				in.pool.Put(w)
				continue
			}
			in.handOn(w)
		}
	}
}

// handOn offers a durable batch to every outlet that has room.
func (in *Ingest) handOn(w *work) {
	w.holders.Store(int32(len(in.outlets)) + 1)
	for _, o := range in.outlets {
		o.offer(w)
	}
	in.letGo(w)
}

func (in *Ingest) letGo(w *work) {
	if w.holders.Add(-1) == 0 {
		in.pool.Put(w)
	}
}

func (in *Ingest) accepted(w *work, fresh bool) {
	in.count(w.id, func(s *Stats) {
		s.LastSeen = time.Now()
		if !fresh {
			s.Duplicates++
			return
		}
		rows := uint64(w.batch.Rows())
		s.Blocks++
		s.Rows += rows
		s.Values += rows * uint64(len(w.batch.Columns))
	})
}

func (in *Ingest) refuse(id topic.ID, done func(error), err error) {
	in.count(id, func(s *Stats) { s.Refused++ })
	done(err)
}

// malformed counts, logs and quarantines a payload that can never be read. It
// is acknowledged all the same: sent again it would be just as unreadable, and
// hold back the blocks behind it for ever.
func (in *Ingest) malformed(id topic.ID, payload []byte, cause error) {
	var n uint64
	in.count(id, func(s *Stats) {
		s.Malformed++
		n = s.Malformed
	})
	file, err := in.quarantine.Keep(id, payload)
	if err != nil {
		in.log.Warn("cannot quarantine a payload", "device", id.String(), "err", err)
	}
	if bits.OnesCount64(n) == 1 { // the first, second, fourth …: a sick device must not fill the log
		in.log.Warn("unreadable block acknowledged and quarantined", "device", id.String(), "err", cause, "count", n, "file", file,
			"remedy", "update the agent to the hub's version, or look at the file; its rows show as a gap")
	}
}

func (in *Ingest) count(id topic.ID, change func(*Stats)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	change(&in.device(id).stats)
	change(&in.totals)
}

// device returns what is known of id. Callers hold mu.
func (in *Ingest) device(id topic.ID) *device {
	d := in.devices[id]
	if d == nil {
		d = &device{}
		in.devices[id] = d
	}
	return d
}

// judge turns the outcome of a commit into conditions.
func (in *Ingest) judge(err error) {
	switch {
	case err == nil:
		in.clear(CondFull)
	case errors.Is(err, series.ErrFull):
		in.raise(CondFull, err.Error())
	case errors.Is(err, series.ErrClosed):
		in.raise(CondStopped, err.Error())
	}
}

func (in *Ingest) raise(name, detail string) {
	in.mu.Lock()
	_, old := in.conditions[name]
	if !old {
		in.conditions[name] = Condition{Name: name, Since: time.Now(), Detail: detail}
	}
	in.mu.Unlock()
	if !old {
		in.log.Error("condition raised", "condition", name, "detail", detail)
	}
}

func (in *Ingest) clear(name string) {
	in.mu.Lock()
	_, old := in.conditions[name]
	delete(in.conditions, name)
	in.mu.Unlock()
	if old {
		in.log.Info("condition cleared", "condition", name)
	}
}

// Stats returns the counts and gaps of one device; a device never heard of has
// none.
func (in *Ingest) Stats(ctx context.Context, id topic.ID) (Stats, error) {
	var s Stats
	in.mu.Lock()
	if d := in.devices[id]; d != nil {
		s = d.stats
	}
	in.mu.Unlock()
	coverage, err := in.cfg.Head.Coverage(ctx, id)
	if err != nil {
		return s, fmt.Errorf("gaps of %s: %w", id, err)
	}
	for _, c := range coverage {
		for _, hole := range c.Rows.Holes() {
			s.Gaps = append(s.Gaps, Gap{Stream: c.Stream, Boot: c.Boot, First: hole.First, Rows: hole.End - hole.First})
		}
	}
	return s, nil
}

// Totals returns the counts over all devices.
func (in *Ingest) Totals() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.totals
}

// Conditions lists what is wrong now, nil when nothing is.
func (in *Ingest) Conditions() []Condition {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []Condition
	for _, name := range []string{CondFull, CondStopped, CondRollups, CondSink} {
		if c, ok := in.conditions[name]; ok {
			out = append(out, c)
		}
	}
	return out
}

// Close waits until what was handed over has its answer, then stops the sinks.
func (in *Ingest) Close() error {
	in.closing.Lock()
	if in.closed {
		in.closing.Unlock()
		return nil
	}
	in.closed = true
	close(in.queue)
	in.closing.Unlock()
	in.workers.Wait()
	in.cancel()
	for _, o := range in.outlets {
		o.close()
	}
	return nil
}
