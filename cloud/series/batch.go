package series

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/swellfleet/swell/protocol/telemetry"
)

// Rows returns the number of rows.
func (b *Batch) Rows() int {
	if len(b.Columns) == 0 {
		return 0
	}
	return b.Columns[0].Len()
}

// Time returns when row i was taken, in ns since 1970 UTC.
func (b *Batch) Time(i int) int64 {
	if b.Offsets != nil {
		return b.T0 + b.Offsets[i]
	}
	if i == 0 {
		return b.T0
	}
	return b.T0 + int64(math.Round(float64(i)*1e9/b.RateHz))
}

// End returns the time of the last row.
func (b *Batch) End() int64 { return b.Time(b.Rows() - 1) }

// Len returns the number of values.
func (c *Column) Len() int {
	switch c.Kind {
	case Float32:
		return len(c.Float32)
	case Float64:
		return len(c.Float64)
	case Int64:
		return len(c.Int64)
	case Bool:
		return len(c.Bool)
	case String:
		return len(c.String)
	}
	return 0
}

// Number returns value i as a number (true is 1); false for NaN and strings.
func (c *Column) Number(i int) (float64, bool) {
	switch c.Kind {
	case Float32:
		v := float64(c.Float32[i])
		return v, v == v
	case Float64:
		v := c.Float64[i]
		return v, v == v
	case Int64:
		return float64(c.Int64[i]), true
	case Bool:
		if c.Bool[i] {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// AppendFrom appends values [i, j) of other, which is of the same kind.
func (c *Column) AppendFrom(other *Column, i, j int) {
	switch c.Kind {
	case Float32:
		c.Float32 = append(c.Float32, other.Float32[i:j]...)
	case Float64:
		c.Float64 = append(c.Float64, other.Float64[i:j]...)
	case Int64:
		c.Int64 = append(c.Int64, other.Int64[i:j]...)
	case Bool:
		c.Bool = append(c.Bool, other.Bool[i:j]...)
	case String:
		c.String = append(c.String, other.String[i:j]...)
	}
}

// Validate says what is wrong with b; Append of every store insists on it.
func (b *Batch) Validate() error {
	if err := b.ID.Validate(); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	if b.Stream == "" || len(b.Stream) > 64 {
		return errors.New("batch: stream is empty or longer than 64 bytes")
	}
	rows := b.Rows()
	if rows == 0 || rows > telemetry.MaxRows {
		return fmt.Errorf("batch of %s %s: %d rows, want 1 to %d", b.ID, b.Stream, rows, telemetry.MaxRows)
	}
	for i := range b.Columns {
		c := &b.Columns[i]
		if c.Len() != rows {
			return fmt.Errorf("batch of %s %s: %q has %d values for %d rows", b.ID, b.Stream, c.Name, c.Len(), rows)
		}
		if c.Name == "" {
			return fmt.Errorf("batch of %s %s: column %d has no name", b.ID, b.Stream, i)
		}
	}
	if b.Offsets != nil && len(b.Offsets) != rows {
		return fmt.Errorf("batch of %s %s: %d offsets for %d rows", b.ID, b.Stream, len(b.Offsets), rows)
	}
	if b.Offsets == nil && !(b.RateHz > 0) {
		return fmt.Errorf("batch of %s %s: neither a rate nor offsets", b.ID, b.Stream)
	}
	for i, o := range b.Offsets {
		if o < 0 || i > 0 && o < b.Offsets[i-1] {
			return fmt.Errorf("batch of %s %s: the time of row %d goes back", b.ID, b.Stream, i)
		}
	}
	if b.T0 < math.MinInt64+2*year || b.T0 > math.MaxInt64-2*year {
		return fmt.Errorf("batch of %s %s: time %d ns is out of range", b.ID, b.Stream, b.T0)
	}
	if span := b.End() - b.T0; span < 0 || span > year {
		return fmt.Errorf("batch of %s %s: spans more than a year", b.ID, b.Stream)
	}
	return nil
}

// year bounds a batch, so that times and ranges cannot overflow.
const year = int64(366 * 24 * time.Hour)

// Second is the width of a rollup.
const Second = int64(time.Second)

// FloorSecond returns the whole second at or before t.
func FloorSecond(t int64) int64 {
	s := t / Second * Second
	if s > t {
		s -= Second
	}
	return s
}

// Partial sums up the values of one column in one window of a batch.
type Partial struct {
	Count    int64   // values that are numbers and not NaN; for strings, all
	Min, Max float64 // NaN when there is none
	Sum      float64
}

// Add joins another part of the same window or a wider bucket into p.
func (p *Partial) Add(q Partial) {
	if q.Count == 0 {
		return
	}
	if p.Count == 0 {
		*p = q
		return
	}
	p.Count += q.Count
	p.Min, p.Max, p.Sum = min(p.Min, q.Min), max(p.Max, q.Max), p.Sum+q.Sum
}

// Rollup cuts a batch at whole seconds and sums up each column in each. A
// window is named by the time of its first row: two batches with rows in the
// same second so never name the same window, and the same batch, sent again,
// names the same ones. Adding up windows by second gives the rollup.
//
// times has one entry a window, parts one a window and column, window by window.
func Rollup(b *Batch) (times []int64, parts []Partial) {
	rows := b.Rows()
	times = make([]int64, 0, 2)
	parts = make([]Partial, 0, 2*len(b.Columns))
	for i := 0; i < rows; {
		first := b.Time(i)
		j := b.rowsBefore(FloorSecond(first)+Second, i+1, rows)
		times = append(times, first)
		for c := range b.Columns {
			parts = append(parts, b.Columns[c].Part(i, j))
		}
		i = j
	}
	return times, parts
}

// rowsBefore returns the first of rows [lo, hi) that is at or after t, else hi.
func (b *Batch) rowsBefore(t int64, lo, hi int) int {
	for lo < hi {
		mid := (lo + hi) / 2
		if b.Time(mid) < t {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Part sums up values [i, j).
func (c *Column) Part(i, j int) Partial {
	p := Partial{Min: math.NaN(), Max: math.NaN()}
	switch c.Kind {
	case Float32:
		lo, hi := float32(math.Inf(1)), float32(math.Inf(-1))
		for _, v := range c.Float32[i:j] {
			if v != v {
				continue
			}
			p.Count++
			p.Sum += float64(v)
			if v < lo {
				lo = v
			}
			if v > hi {
				hi = v
			}
		}
		if p.Count > 0 {
			p.Min, p.Max = float64(lo), float64(hi)
		}
	case String:
		p.Count, p.Sum = int64(j-i), math.NaN()
	default:
		for ; i < j; i++ {
			if v, ok := c.Number(i); ok {
				p.Add(Partial{Count: 1, Min: v, Max: v, Sum: v})
			}
		}
	}
	return p
}

// Buckets is the bucket grid of a query with MaxPoints above 0.
type Buckets struct {
	From, To int64 // the query's, or moved outwards to whole seconds
	Width    int64 // ns, at least 1
}

// MaxPoints bounds Query.MaxPoints; more is taken as this.
const MaxPoints = 1 << 16

// BucketsOf chooses the grid for q: the finest of at most MaxPoints buckets, of
// whole seconds unless finer is true and a bucket is shorter than a second.
func BucketsOf(q Query, finer bool) Buckets {
	points := int64(min(max(q.MaxPoints, 1), MaxPoints))
	width := max(1, ceilDiv(q.To-q.From, points))
	if finer && width < Second {
		return Buckets{q.From, q.To, width}
	}
	g := Buckets{From: FloorSecond(q.From), To: FloorSecond(q.To-1) + Second}
	g.Width = ceilDiv(ceilDiv(g.To-g.From, points), Second) * Second
	return g
}

func ceilDiv(a, b int64) int64 {
	d := a / b
	if a%b != 0 {
		d++
	}
	return d
}

// Sum builds one signal's buckets from parts in any order.
type Sum struct {
	grid  Buckets
	parts map[int64]*Partial
}

// NewSum returns an empty sum over a grid.
func NewSum(grid Buckets) *Sum { return &Sum{grid: grid, parts: map[int64]*Partial{}} }

// Add puts a part with rows from time t on into its bucket; parts outside the
// grid are left out.
func (s *Sum) Add(t int64, p Partial) {
	if t < s.grid.From || t >= s.grid.To || p.Count == 0 {
		return
	}
	i := (t - s.grid.From) / s.grid.Width
	if have := s.parts[i]; have != nil {
		have.Add(p)
	} else {
		s.parts[i] = &p
	}
}

// Signal returns the buckets in order of time, with Name, Unit and Kind left to
// the caller.
func (s *Sum) Signal() Signal {
	var out Signal
	for i := range ceilDiv(s.grid.To-s.grid.From, s.grid.Width) {
		if p := s.parts[i]; p != nil {
			out.Times = append(out.Times, s.grid.From+i*s.grid.Width)
			out.Min = append(out.Min, p.Min)
			out.Max = append(out.Max, p.Max)
			out.Mean = append(out.Mean, p.Sum/float64(p.Count))
			out.Count = append(out.Count, p.Count)
		}
	}
	return out
}

// Validate refuses a query that asks for nothing or for more than the store
// would give.
func (q Query) Validate() error {
	if err := q.ID.Validate(); err != nil {
		return fmt.Errorf("query: %w", err)
	}
	if q.From >= q.To || q.From < math.MinInt64+year || q.To > math.MaxInt64-year || q.To-q.From < 0 {
		return fmt.Errorf("query: from %d must come before to %d, both within the years 1678 to 2261", q.From, q.To)
	}
	if q.MaxPoints < 0 || q.MaxRows < 0 {
		return errors.New("query: bounds must not be negative")
	}
	return nil
}

// Duration returns Width as a duration.
func (b Buckets) Duration() time.Duration { return time.Duration(b.Width) }
