// Package embedded is the series store in the hub's own data folder: typed,
// compressed blocks in Pebble.
//
// Each batch is one block under (stream, time, boot, sequence), with the rollup
// of its seconds beside it, and, until a segments.Keeper has it, a mark that it
// is in the head. All of it, and what is known of the device's sequence
// numbers, is written in one Pebble batch with one disk flush for all callers
// that wait: either all of it is there after a crash or none.
//
// docs/formats/series.md shows the bytes. The hub alone imports it.
package embedded

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/topic"
)

// Config says where a Store keeps its files.
type Config struct {
	Dir string       // required; made when absent; one process at a time
	Log *slog.Logger // required

	// KeepHead marks every new batch as not yet in a segment, for a
	// segments.Keeper. Without it Head methods find nothing.
	KeepHead bool
	// MinFreeBytes of the disk are left alone: Append returns ErrFull before
	// they are touched, since Pebble cannot survive a disk that is really full.
	// 0 means 256 MiB.
	MinFreeBytes uint64
	// CacheBytes of blocks are kept in memory for reads; 0 means 32 MiB.
	CacheBytes int64

	// RetainRaw and RetainRollups are how long raw rows and rollups are kept
	// after their time; 0 keeps them. Rows in the head stay in any case. They
	// are looked at when the store opens and then every hour.
	RetainRaw     time.Duration
	RetainRollups time.Duration

	FS vfs.FS // nil means the operating system's
}

const retainEvery = time.Hour

// Bounds of one disk flush.
const (
	groupBytes   = 8 << 20
	groupCallers = 1024
)

// Store is a series.Store in a folder. Make one with Open.
type Store struct {
	cfg  Config
	db   *pebble.DB
	fs   vfs.FS
	fail atomic.Pointer[error] // what stopped the store for good; nil while it works

	requests chan *request
	stop     chan struct{} // closed by Close: take no more requests
	stopped  chan struct{} // closed when the committer has ended
	retained chan struct{} // closed when the retention loop has ended
	closing  sync.RWMutex  // held for reading by what uses db
	closed   bool          // guarded by closing

	headBytes atomic.Int64 // bytes of values in the head

	mu       sync.Mutex
	streams  map[streamName]*stream
	byNumber map[uint32]*stream
	held     map[installation]*held // all known; written by the committer alone
}

type streamName struct {
	id   topic.ID
	name string
}

// stream is one stream of one device. Guarded by Store.mu, save for name.
type stream struct {
	name    streamName
	record  streamRecord
	changed bool // since it was written last
}

// streamRecord is what is stored of a stream, as JSON.
type streamRecord struct {
	Number  uint32         `json:"number"`
	MaxSpan int64          `json:"max_span_ns"` // of one block: how far before a time to look for blocks that reach it
	Signals []streamSignal `json:"signals"`     // their index is their number in blocks
}

type streamSignal struct {
	Name string      `json:"name"`
	Unit string      `json:"unit,omitempty"`
	Kind series.Kind `json:"kind"`
}

type installation struct {
	id   topic.ID
	boot uint64
}

// held is what one installation of a device's spool has sent.
type held struct {
	Blocks series.Ranges            `json:"blocks"` // sequence numbers, over all streams
	Rows   map[string]series.Ranges `json:"rows"`   // by stream
}

func (h *held) clone() *held {
	c := &held{Blocks: slices.Clone(h.Blocks), Rows: map[string]series.Ranges{}}
	for k, v := range h.Rows {
		c.Rows[k] = slices.Clone(v)
	}
	return c
}

// request is one caller's batches on the way to the committer.
type request struct {
	items []item
	bytes int
	fresh []bool
	err   error
	done  chan struct{}
}

type item struct {
	stream *stream
	boot   uint64
	seq    uint64
	t0     int64
	first  uint64
	covers uint64
	bytes  int64 // of values, uncompressed
	block  []byte
	rollup []byte
}

// Open opens or makes the store in cfg.Dir.
func Open(cfg Config) (*Store, error) {
	if cfg.Dir == "" || cfg.Log == nil {
		return nil, errors.New("open series store: Dir and Log are required")
	}
	if cfg.MinFreeBytes == 0 {
		cfg.MinFreeBytes = 256 << 20
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 32 << 20
	}
	s := &Store{
		cfg: cfg, fs: cfg.FS,
		requests: make(chan *request, groupCallers), stop: make(chan struct{}), stopped: make(chan struct{}), retained: make(chan struct{}),
		streams: map[streamName]*stream{}, byNumber: map[uint32]*stream{}, held: map[installation]*held{},
	}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	cache := pebble.NewCache(cfg.CacheBytes)
	defer cache.Unref()
	db, err := pebble.Open(cfg.Dir, &pebble.Options{
		FS:                          s.fs,
		Cache:                       cache,
		Logger:                      pebbleLog{s},
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                32 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
	})
	if err != nil {
		return nil, fmt.Errorf("open series store in %s: %w", cfg.Dir, err)
	}
	s.db = db
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open series store in %s: %w", cfg.Dir, err), db.Close())
	}
	if err := s.retain(time.Now()); err != nil {
		return nil, errors.Join(fmt.Errorf("open series store in %s: %w", cfg.Dir, err), db.Close())
	}
	go s.commitLoop()
	go s.retainLoop()
	return s, nil
}

// pebbleLog passes Pebble's words on. Pebble calls Fatalf where it cannot go
// on and expects not to return; the store then stops itself and the process
// lives, so that nothing else of the hub falls with it.
type pebbleLog struct{ s *Store }

func (l pebbleLog) Infof(string, ...any) {}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.s.cfg.Log.Error("series store", "detail", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Fatalf(format string, args ...any) { l.s.fatal(fmt.Errorf(format, args...)) }

func (s *Store) fatal(err error) {
	err = fmt.Errorf("%w: stopped after a disk error, restart the hub once the disk is well: %w", series.ErrClosed, err)
	if s.fail.CompareAndSwap(nil, &err) {
		s.cfg.Log.Error("series store stopped itself: nothing is acknowledged until the hub restarts", "dir", s.cfg.Dir, "err", err)
	}
}

// Failed returns what stopped the store for good, nil while it works.
func (s *Store) Failed() error {
	if p := s.fail.Load(); p != nil {
		return *p
	}
	return nil
}

// load reads what is kept in memory: the streams and what is held of each.
func (s *Store) load() error {
	err := s.scan([]byte{keyStream}, []byte{keyStream + 1}, func(k, v []byte) error {
		id, name, ok := parseDevice(k)
		st := &stream{name: streamName{id, string(name)}}
		if err := json.Unmarshal(v, &st.record); err != nil || !ok {
			return fmt.Errorf("%w: stream record %q", errBlock, k)
		}
		s.streams[st.name], s.byNumber[st.record.Number] = st, st
		return nil
	})
	if err != nil {
		return err
	}
	err = s.scan([]byte{keyCoverage}, []byte{keyCoverage + 1}, func(k, v []byte) error {
		id, boot, ok := parseDevice(k)
		h := &held{}
		if !ok || len(boot) != 8 {
			return fmt.Errorf("%w: coverage key %q", errBlock, k)
		}
		if err := json.Unmarshal(v, h); err != nil {
			return fmt.Errorf("%w: coverage of %s: %w", errBlock, id, err)
		}
		s.held[installation{id, binary.BigEndian.Uint64(boot)}] = h
		return nil
	})
	if err != nil {
		return err
	}
	return s.scan([]byte{keyHead}, []byte{keyHead + 1}, func(_, v []byte) error {
		n, _ := binary.Uvarint(v)
		s.headBytes.Add(int64(n))
		return nil
	})
}

// scan calls do for each key from lower up to upper (not included). The slices
// are valid during the call.
func (s *Store) scan(lower, upper []byte, do func(k, v []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := do(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// Append makes batches durable; see series.Store.
func (s *Store) Append(ctx context.Context, batches []series.Batch) error {
	_, err := s.Commit(ctx, batches)
	return err
}

// Commit is Append that says which batches were new: fresh[i] is false for one
// whose (ID, Boot, Seq) is held already. When ctx ends before the answer, the
// batches may or may not be stored; sending them again settles it.
func (s *Store) Commit(ctx context.Context, batches []series.Batch) (fresh []bool, err error) {
	if len(batches) == 0 {
		return nil, nil
	}
	r := &request{items: make([]item, len(batches)), done: make(chan struct{})}
	for i := range batches {
		if err := s.prepare(&r.items[i], &batches[i]); err != nil {
			return nil, err
		}
		r.bytes += len(r.items[i].block) + len(r.items[i].rollup)
	}
	select {
	case <-s.stop:
		return nil, series.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	case s.requests <- r:
	}
	select {
	case <-r.done:
		return r.fresh, r.err
	case <-s.stopped:
		// The committer answers all it took; a request it never took is refused.
		select {
		case <-r.done:
			return r.fresh, r.err
		default:
			return nil, series.ErrClosed
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// prepare encodes a batch in the caller's goroutine, so that the committer has
// little to do.
func (s *Store) prepare(it *item, b *series.Batch) error {
	if err := b.Validate(); err != nil {
		return err
	}
	span := b.End() - b.T0
	var stack [16]uint64
	ids := stack[:0]
	s.mu.Lock()
	st := s.streamFor(b.ID, b.Stream)
	for i := range b.Columns {
		ids = append(ids, st.signal(&b.Columns[i]))
	}
	if span > st.record.MaxSpan {
		st.record.MaxSpan, st.changed = span, true
	}
	s.mu.Unlock()
	times, parts := series.Rollup(b)
	*it = item{
		stream: st, boot: b.Boot, seq: b.Seq, t0: b.T0, first: b.First, covers: cmp.Or(b.Covers, uint64(b.Rows())),
		bytes:  int64(4 * b.Rows() * (len(b.Columns) + 4)),
		block:  appendBlock(nil, b, ids),
		rollup: appendRollup(nil, b, ids, times, parts),
	}
	return nil
}

// streamFor returns the stream, numbered when it is new. Callers hold mu.
func (s *Store) streamFor(id topic.ID, name string) *stream {
	key := streamName{id, name}
	st := s.streams[key]
	if st == nil {
		n := uint32(len(s.streams) + 1)
		for s.byNumber[n] != nil {
			n++
		}
		st = &stream{name: key, record: streamRecord{Number: n}, changed: true}
		s.streams[key], s.byNumber[n] = st, st
	}
	return st
}

// signal returns the number of a column; a column whose unit or kind changed is
// another signal.
func (st *stream) signal(c *series.Column) uint64 {
	for i, s := range st.record.Signals {
		if s.Name == c.Name && s.Kind == c.Kind && s.Unit == c.Unit {
			return uint64(i)
		}
	}
	st.record.Signals = append(st.record.Signals, streamSignal{c.Name, c.Unit, c.Kind})
	st.changed = true
	return uint64(len(st.record.Signals) - 1)
}

// commitLoop gathers whoever waits and flushes once for all of them.
func (s *Store) commitLoop() {
	defer close(s.stopped)
	var group []*request
	for {
		group = group[:0]
		select {
		case r := <-s.requests:
			group = append(group, r)
		case <-s.stop:
			return
		}
		for size := group[0].bytes; size < groupBytes && len(group) < groupCallers; {
			select {
			case r := <-s.requests:
				group = append(group, r)
				size += r.bytes
				continue
			default:
			}
			break
		}
		fresh, err := s.commitGroup(group)
		for i, r := range group {
			if r.err = err; err == nil {
				r.fresh = fresh[i]
			}
			close(r.done)
		}
	}
}

func (s *Store) commitGroup(group []*request) (fresh [][]bool, err error) {
	if err := s.Failed(); err != nil {
		return nil, err
	}
	if err := s.room(); err != nil {
		return nil, err
	}
	defer func() {
		// Pebble panics where the write-ahead log refuses a record.
		if p := recover(); p != nil {
			s.fatal(fmt.Errorf("commit: %v", p))
			fresh, err = nil, s.Failed()
		}
	}()
	batch := s.db.NewBatch()
	defer batch.Close()
	staged := map[installation]*held{}
	var records []*stream
	var head int64
	fresh = make([][]bool, len(group))
	for i, r := range group {
		fresh[i] = make([]bool, len(r.items))
		for j := range r.items {
			it := &r.items[j]
			key := installation{it.stream.name.id, it.boot}
			h := staged[key]
			if h == nil {
				h = s.heldOf(key)
			}
			if h.Blocks.Contains(it.seq) {
				continue
			}
			fresh[i][j] = true
			if staged[key] == nil {
				h = h.clone()
				staged[key] = h
			}
			h.Blocks = h.Blocks.Add(it.seq, it.seq+1)
			h.Rows[it.stream.name.name] = h.Rows[it.stream.name.name].Add(it.first, it.first+it.covers)
			head += s.stage(batch, it)
			records = append(records, it.stream)
		}
	}
	for key, h := range staged {
		v, err := json.Marshal(h)
		if err != nil {
			return nil, fmt.Errorf("write coverage of %s: %w", key.id, err)
		}
		batch.Set(coverageKey(key.id, key.boot), v, nil)
	}
	written, err := s.stageRecords(batch, records)
	if err != nil {
		return nil, err
	}
	if err := s.apply(batch); err != nil {
		return nil, err
	}
	s.mu.Lock()
	for key, h := range staged {
		s.held[key] = h
	}
	for st, signals := range written {
		if len(st.record.Signals) == signals.signals && st.record.MaxSpan == signals.span {
			st.changed = false
		}
	}
	s.mu.Unlock()
	s.headBytes.Add(head)
	return fresh, nil
}

// stage puts a new block into the Pebble batch and returns its share of the
// head. Set on a batch fails only when the batch was used before.
func (s *Store) stage(batch *pebble.Batch, it *item) int64 {
	r := row{it.stream.record.Number, it.t0, it.boot, it.seq}
	batch.Set(r.key(keyBlock), it.block, nil)
	batch.Set(r.key(keyRollup), it.rollup, nil)
	if !s.cfg.KeepHead {
		return 0
	}
	batch.Set(r.key(keyHead), binary.AppendUvarint(nil, uint64(it.bytes)), nil)
	return it.bytes
}

type recordState struct {
	signals int
	span    int64
}

// stageRecords writes the records of streams that changed since they were
// written, and returns what it wrote of each.
func (s *Store) stageRecords(batch *pebble.Batch, used []*stream) (map[*stream]recordState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	written := map[*stream]recordState{}
	for _, st := range used {
		if _, done := written[st]; done || !st.changed {
			continue
		}
		v, err := json.Marshal(st.record)
		if err != nil {
			return nil, fmt.Errorf("write stream record of %s: %w", st.name.id, err)
		}
		batch.Set(streamKey(st.name.id, st.name.name), v, nil)
		written[st] = recordState{len(st.record.Signals), st.record.MaxSpan}
	}
	return written, nil
}

// apply commits with a disk flush. Pebble reports a failed flush by Fatalf.
func (s *Store) apply(batch *pebble.Batch) error {
	if err := batch.Commit(pebble.Sync); err != nil {
		s.fatal(err)
	}
	return s.Failed()
}

func (s *Store) heldOf(key installation) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.held[key]; h != nil {
		return h
	}
	return &held{Rows: map[string]series.Ranges{}}
}

// room refuses to write when the disk is nearly full.
func (s *Store) room() error {
	du, err := s.fs.GetDiskUsage(s.cfg.Dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("see how full the disk of %s is: %w", s.cfg.Dir, err)
	}
	if du.AvailBytes < s.cfg.MinFreeBytes {
		return fmt.Errorf("%w: the disk of %s has %d MiB left and %d are kept free: make room or lower the retention", series.ErrFull, s.cfg.Dir, du.AvailBytes>>20, s.cfg.MinFreeBytes>>20)
	}
	return nil
}

// Coverage reports what is held of a device, by boot and stream.
func (s *Store) Coverage(ctx context.Context, id topic.ID) ([]series.Coverage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []series.Coverage
	for key, h := range s.held {
		if key.id != id {
			continue
		}
		for stream, rows := range h.Rows {
			out = append(out, series.Coverage{Stream: stream, Boot: key.boot, Rows: slices.Clone(rows)})
		}
	}
	slices.SortFunc(out, func(a, b series.Coverage) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Boot, b.Boot))
	})
	return out, nil
}

// Trim forgets rows before a time (ns since 1970 UTC), in whole batches, save
// for those that are still in the head.
func (s *Store) Trim(ctx context.Context, before int64) error { return s.trim(before, true) }

func (s *Store) retainLoop() {
	defer close(s.retained)
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if err := s.retain(time.Now()); err != nil && !errors.Is(err, series.ErrClosed) {
			s.cfg.Log.Error("cannot forget old series; tried again in an hour", "err", err)
		}
	}
}

// retain forgets what is past its time at now.
func (s *Store) retain(now time.Time) error {
	var errs []error
	if d := s.cfg.RetainRaw; d > 0 {
		errs = append(errs, s.trim(now.Add(-d).UnixNano(), false))
	}
	if d := s.cfg.RetainRollups; d > 0 {
		errs = append(errs, s.trim(now.Add(-d).UnixNano(), true))
	}
	return errors.Join(errs...)
}

// trim forgets raw rows before a time and, when rollups is true, their rollups.
func (s *Store) trim(before int64, rollups bool) error {
	end, err := s.use()
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	streams := make(map[uint32]int64, len(s.byNumber))
	for sid, st := range s.byNumber {
		streams[sid] = st.record.MaxSpan
	}
	s.mu.Unlock()
	batch := s.db.NewBatch()
	defer batch.Close()
	for sid, span := range streams {
		cut := max(before, math.MinInt64+span) - span // a block that begins before cut ends before the time asked for
		if t, ok, err := s.oldestHead(sid); err != nil {
			return fmt.Errorf("trim series: %w", err)
		} else if ok {
			cut = min(cut, t)
		}
		batch.DeleteRange(streamStart(keyBlock, sid), timeKey(keyBlock, sid, cut), nil)
		if rollups {
			batch.DeleteRange(streamStart(keyRollup, sid), timeKey(keyRollup, sid, cut), nil)
		}
	}
	return s.apply(batch)
}

func (s *Store) oldestHead(sid uint32) (int64, bool, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: streamStart(keyHead, sid), UpperBound: streamEnd(keyHead, sid)})
	if err != nil {
		return 0, false, err
	}
	var r row
	ok := it.First()
	if ok {
		r, ok = parseRow(it.Key())
	}
	return r.t0, ok, errors.Join(it.Error(), it.Close())
}

// use keeps the database open until the returned function is called.
func (s *Store) use() (end func(), err error) {
	s.closing.RLock()
	if s.closed {
		s.closing.RUnlock()
		return nil, series.ErrClosed
	}
	if err := s.Failed(); err != nil {
		s.closing.RUnlock()
		return nil, err
	}
	return s.closing.RUnlock, nil
}

// Close waits for running calls and closes the files. Appends that wait get an
// answer or ErrClosed.
func (s *Store) Close() error {
	s.closing.Lock()
	if s.closed {
		s.closing.Unlock()
		return nil
	}
	s.closed = true
	s.closing.Unlock() // what runs holds it for reading no more, and nothing new begins
	close(s.stop)
	<-s.stopped
	<-s.retained
	if s.Failed() != nil {
		// Pebble's own Close would wait for what can no longer happen.
		return s.Failed()
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close series store in %s: %w", s.cfg.Dir, err)
	}
	return nil
}
