package embedded

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/topic"
)

// Query reads; see series.Store. Buckets of a second or more come from the
// rollups, which count a row twice that two overlapping batches hold; raw rows
// and finer buckets do not.
func (s *Store) Query(ctx context.Context, q series.Query) (series.Result, error) {
	if err := q.Validate(); err != nil {
		return series.Result{}, err
	}
	end, err := s.use()
	if err != nil {
		return series.Result{}, err
	}
	defer end()
	s.mu.Lock()
	st := s.streams[streamName{q.ID, q.Stream}]
	var record streamRecord
	if st != nil {
		record = st.record
		record.Signals = slices.Clone(record.Signals)
	}
	s.mu.Unlock()
	if st == nil {
		return series.Result{}, nil
	}
	wanted := make([]bool, len(record.Signals))
	for i, sig := range record.Signals {
		wanted[i] = q.Signals == nil || slices.Contains(q.Signals, sig.Name)
	}
	var out series.Result
	switch {
	case q.MaxPoints == 0:
		out, err = s.rawRows(ctx, q, record, wanted)
	default:
		out, err = s.buckets(ctx, q, record, wanted)
	}
	if err != nil {
		return series.Result{}, fmt.Errorf("query %s %s: %w", q.ID, q.Stream, err)
	}
	slices.SortFunc(out.Signals, func(a, b series.Signal) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

// each walks the stored rows of a stream whose blocks may reach into [from, to).
func (s *Store) each(ctx context.Context, kind byte, record streamRecord, from, to int64, do func(r row, v []byte) (bool, error)) error {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: timeKey(kind, record.Number, from-record.MaxSpan), UpperBound: timeKey(kind, record.Number, to),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, ok := parseRow(it.Key())
		if !ok {
			return errBlock
		}
		more, err := do(r, it.Value())
		if err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// eachRun reads the blocks of [from, to) in runs: a block by itself, or blocks
// that overlap in time, merged. do gets each signal's rows in order of time.
func (s *Store) eachRun(ctx context.Context, record streamRecord, wanted []bool, from, to int64, do func(signal int, times []int64, c *series.Column) (bool, error)) error {
	var run []opened
	var runEnd int64
	flush := func() (bool, error) {
		for i := range wanted {
			if !wanted[i] {
				continue
			}
			times, column := mergeRun(run, uint64(i), from, to)
			if len(times) == 0 {
				continue
			}
			if more, err := do(i, times, &column); err != nil || !more {
				return false, err
			}
		}
		run = run[:0]
		return true, nil
	}
	stopped := false
	err := s.each(ctx, keyBlock, record, from, to, func(r row, v []byte) (bool, error) {
		b, err := openBlock(v, r.t0, r.boot, r.seq)
		if err != nil {
			return false, err
		}
		if b.end < from {
			return true, nil
		}
		if len(run) > 0 && b.t0 > runEnd {
			if more, err := flush(); err != nil || !more {
				stopped = true
				return false, err
			}
		}
		if len(run) == 0 {
			runEnd = b.end
		}
		runEnd = max(runEnd, b.end)
		o := opened{block: b, columns: map[uint64]*series.Column{}}
		for i := range b.columns {
			if c := &b.columns[i]; c.id < uint64(len(wanted)) && wanted[c.id] {
				column := &series.Column{}
				if err := c.decode(column, b.rows); err != nil {
					return false, err
				}
				o.columns[c.id] = column
			}
		}
		run = append(run, o)
		return true, nil
	})
	if err == nil && !stopped && len(run) > 0 {
		_, err = flush()
	}
	return err
}

type opened struct {
	block
	columns map[uint64]*series.Column
}

// rowsWithin returns one signal's rows in [from, to).
func (o *opened) rowsWithin(id uint64, from, to int64) ([]int64, series.Column) {
	b := o.batch()
	lo := sort.Search(o.rows, func(i int) bool { return b.Time(i) >= from })
	hi := sort.Search(o.rows, func(i int) bool { return b.Time(i) >= to })
	times := make([]int64, 0, hi-lo)
	for i := lo; i < hi; i++ {
		times = append(times, b.Time(i))
	}
	out := series.Column{Kind: o.columns[id].Kind}
	out.AppendFrom(o.columns[id], lo, hi)
	return times, out
}

// mergeRun returns one signal's rows of overlapping blocks in [from, to). Where
// two blocks have a row for the same time, the one of the later block counts.
func mergeRun(run []opened, id uint64, from, to int64) ([]int64, series.Column) {
	type ref struct {
		time  int64
		block int
		row   int
	}
	only, blocks := 0, 0 // the last block with the signal, and how many have it
	for i := range run {
		if run[i].columns[id] != nil {
			only, blocks = i, blocks+1
		}
	}
	if blocks == 0 {
		return nil, series.Column{}
	}
	if blocks == 1 {
		return run[only].rowsWithin(id, from, to)
	}
	var refs []ref
	kind := run[only].columns[id].Kind
	for i := range run {
		c := run[i].columns[id]
		if c == nil {
			continue
		}
		b := run[i].batch()
		for j := range run[i].rows {
			if t := b.Time(j); t >= from && t < to {
				refs = append(refs, ref{t, i, j})
			}
		}
	}
	slices.SortStableFunc(refs, func(a, b ref) int { return cmp.Compare(a.time, b.time) })
	out := series.Column{Kind: kind}
	var times []int64
	for i := 0; i < len(refs); {
		j := i + 1
		for j < len(refs) && refs[j].time == refs[i].time {
			j++
		}
		newest := refs[j-1].block
		for _, r := range refs[i:j] {
			if r.block == newest {
				times = append(times, r.time)
				out.AppendFrom(run[r.block].columns[id], r.row, r.row+1)
			}
		}
		i = j
	}
	return times, out
}

func (s *Store) rawRows(ctx context.Context, q series.Query, record streamRecord, wanted []bool) (series.Result, error) {
	limit := q.MaxRows
	if limit == 0 {
		limit = series.DefaultMaxRows
	}
	signals := make([]series.Signal, len(record.Signals))
	var out series.Result
	full := make([]bool, len(signals))
	err := s.eachRun(ctx, record, wanted, q.From, q.To, func(i int, times []int64, c *series.Column) (bool, error) {
		sig := &signals[i]
		sig.Kind = c.Kind
		n := min(len(times), limit-len(sig.Times))
		sig.Times = append(sig.Times, times[:n]...)
		sig.AppendFrom(c, 0, n)
		if n < len(times) {
			full[i], out.Truncated = true, true
		}
		// A signal that is full ends the walk only when the others are too:
		// they may have come and gone.
		for j := range full {
			if wanted[j] && !full[j] {
				return true, nil
			}
		}
		return false, nil
	})
	for i := range signals {
		if len(signals[i].Times) > 0 {
			signals[i].Name, signals[i].Unit = record.Signals[i].Name, record.Signals[i].Unit
			out.Signals = append(out.Signals, signals[i])
		}
	}
	return out, err
}

func (s *Store) buckets(ctx context.Context, q series.Query, record streamRecord, wanted []bool) (series.Result, error) {
	grid := series.BucketsOf(q, true)
	sums := make([]*series.Sum, len(wanted))
	add := func(i int, t int64, p series.Partial) {
		if sums[i] == nil {
			sums[i] = series.NewSum(grid)
		}
		sums[i].Add(t, p)
	}
	var err error
	if grid.Width < series.Second {
		err = s.eachRun(ctx, record, wanted, q.From, q.To, func(i int, times []int64, c *series.Column) (bool, error) {
			for lo := 0; lo < len(times); {
				bucket := (times[lo] - grid.From) / grid.Width
				hi := lo + 1
				for hi < len(times) && (times[hi]-grid.From)/grid.Width == bucket {
					hi++
				}
				add(i, times[lo], c.Part(lo, hi))
				lo = hi
			}
			return true, nil
		})
		if err == nil && !slices.ContainsFunc(sums, func(s *series.Sum) bool { return s != nil }) {
			// The raw rows may be trimmed already: seconds are better than nothing.
			grid = series.BucketsOf(q, false)
		}
	}
	if err == nil && grid.Width >= series.Second {
		err = s.each(ctx, keyRollup, record, grid.From, grid.To, func(r row, v []byte) (bool, error) {
			return true, eachPart(v, r.t0, func(id uint64, _ series.Kind, t int64, p series.Partial) {
				if id < uint64(len(wanted)) && wanted[id] {
					add(int(id), t, p)
				}
			})
		})
	}
	out := series.Result{Bucket: grid.Duration()}
	for i, sum := range sums {
		if sum == nil {
			continue
		}
		sig := sum.Signal()
		if len(sig.Times) == 0 {
			continue
		}
		sig.Name, sig.Unit, sig.Kind = record.Signals[i].Name, record.Signals[i].Unit, record.Signals[i].Kind
		out.Signals = append(out.Signals, sig)
	}
	return out, err
}

// Signals lists what a device has sent.
func (s *Store) Signals(ctx context.Context, id topic.ID) ([]series.SignalInfo, error) {
	end, err := s.use()
	if err != nil {
		return nil, err
	}
	defer end()
	s.mu.Lock()
	records := map[string]streamRecord{}
	for name, st := range s.streams {
		if name.id == id {
			r := st.record
			r.Signals = slices.Clone(r.Signals)
			records[name.name] = r
		}
	}
	s.mu.Unlock()
	var out []series.SignalInfo
	for stream, record := range records {
		from, to, ok, err := s.span(record)
		if err != nil {
			return nil, fmt.Errorf("signals of %s: %w", id, err)
		}
		if !ok {
			continue
		}
		for _, sig := range record.Signals {
			out = append(out, series.SignalInfo{Stream: stream, Name: sig.Name, Unit: sig.Unit, Kind: sig.Kind, From: from, To: to})
		}
	}
	slices.SortFunc(out, func(a, b series.SignalInfo) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

// span returns the times of the oldest and newest row of a stream.
func (s *Store) span(record streamRecord) (from, to int64, ok bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: streamStart(keyRollup, record.Number), UpperBound: streamEnd(keyRollup, record.Number)})
	if err != nil {
		return 0, 0, false, err
	}
	defer it.Close()
	if !it.First() {
		return 0, 0, false, it.Error()
	}
	r, _ := parseRow(it.Key())
	from, to = r.t0, rollupEnd(it.Value(), r.t0)
	// The newest row is in one of the blocks that begin within a block's span
	// of the last one.
	for valid := it.Last(); valid; valid = it.Prev() {
		r, _ := parseRow(it.Key())
		if r.t0 < to-record.MaxSpan {
			break
		}
		to = max(to, rollupEnd(it.Value(), r.t0))
	}
	return from, to, true, it.Error()
}
