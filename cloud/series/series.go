// Package series is the hub's memory of what devices sent over time.
//
// The parties are ingest, which appends batches as they arrive; segments, which
// turns the embedded store's raw head into Parquet; and api and fleet, which
// query for people and gates. Two stores keep the promises below: embedded
// (Pebble in the hub's data folder) and influx (InfluxDB 2, rollups only).
// seriestest.Exercise holds both to them.
//
// Promises: what Append returned nil for is on disk and survives kill -9 and
// power cuts; appending a batch again, now or after a restart, changes nothing;
// rows may arrive late and in any order; overlapping rows are merged on read.
//
// Only packages under cloud import it.
package series

import (
	"context"
	"errors"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// Kind is the type of a column's values.
type Kind uint8

// The kinds. Each names the Column field that holds the values.
const (
	Float32 Kind = 1
	Float64 Kind = 2
	Int64   Kind = 3
	Bool    Kind = 4
	String  Kind = 5
)

// Batch is rows of one stream of one device, column by column. It is the hub's
// neutral form of a telemetry block. (ID, Boot, Stream, Seq) identifies it.
type Batch struct {
	ID     topic.ID
	Stream string // "raw", "verdicts", "live"
	Boot   uint64
	Seq    uint64
	First  uint64 // index of the first row in the device's stream; see telemetry.Block
	Covers uint64 // how many of the device's rows the batch stands for, from First on; 0 means Rows

	T0      int64   // ns since 1970 UTC of the first row
	RateHz  float64 // rows per second; 0 when Offsets is set
	Offsets []int64 // ns from T0, one a row, rising; nil for regular rows

	Columns []Column // never empty; all with the same number of values
}

// Column is one signal's values. Exactly the slice that Kind names is used.
type Column struct {
	Name string
	Unit string // for people; may be empty
	Kind Kind
	// Scale is the step size the device rounded Float32 values to, 0 when it
	// did not. It only helps compression.
	Scale float64

	Float32 []float32 // NaN is "no value"
	Float64 []float64 // NaN is "no value"
	Int64   []int64
	Bool    []bool
	String  []string
}

// Query asks for one stream of one device.
type Query struct {
	ID      topic.ID
	Stream  string
	Signals []string // nil for all
	From    int64    // ns since 1970 UTC, included
	To      int64    // ns since 1970 UTC, not included; after From

	// MaxPoints asks for at most so many buckets per signal, each with the
	// least, greatest and mean value and the count. 0 asks for the raw rows.
	// When a bucket is a second or longer, its edges (and From and To) are moved
	// outwards to whole seconds, since rollups know no finer.
	MaxPoints int
	// MaxRows bounds the raw rows of an answer with MaxPoints 0: the newest are
	// left out and Result.Truncated is set. 0 means DefaultMaxRows.
	MaxRows int
}

// DefaultMaxRows bounds a raw answer that asks for no bound itself.
const DefaultMaxRows = 1 << 20

// Result answers a Query.
type Result struct {
	Signals   []Signal      // in order of name; only those with data in the range
	Bucket    time.Duration // width of a bucket; 0 for raw rows
	Truncated bool
}

// Signal is one signal's part of a Result: raw rows (Column) or buckets.
type Signal struct {
	Column         // Name, Unit, Kind; values only for raw rows
	Times  []int64 // ns since 1970 UTC: of the rows, or where the buckets begin; rising

	Min, Max, Mean []float64 // buckets only; NaN for strings
	Count          []int64   // buckets only: values that are not NaN; never 0
}

// SignalInfo says what is known of one signal.
type SignalInfo struct {
	Stream string
	Name   string
	Unit   string
	Kind   Kind
	From   int64 // ns since 1970 UTC of the oldest and newest row of the stream still held
	To     int64
}

// Store keeps series. Its methods may be called from many goroutines.
type Store interface {
	// Append stores batches, all or none, and returns when they are durable.
	// Batches already held are left alone. ErrFull means nothing was stored and
	// a later try may succeed.
	Append(ctx context.Context, batches []Batch) error
	// Query reads; a device or signal never seen gives an empty Result.
	Query(ctx context.Context, q Query) (Result, error)
	// Signals lists what a device has sent, by stream and name.
	Signals(ctx context.Context, id topic.ID) ([]SignalInfo, error)
	// Trim forgets rows before a time (ns since 1970 UTC), in whole batches.
	Trim(ctx context.Context, before int64) error
	Close() error
}

// Errors that callers branch on.
var (
	// ErrFull means that the disk or a bounded queue has no room: nothing was
	// stored, keep the data and try again.
	ErrFull = errors.New("no room")
	// ErrClosed means that the store was closed, or stopped itself after a disk
	// error that left it unable to promise anything.
	ErrClosed = errors.New("series store is closed")
	// ErrRejected means that the store will never take these batches, however
	// often it is asked.
	ErrRejected = errors.New("the store refused the batches")
	// ErrRollupsOnly means that the store holds no raw rows.
	ErrRollupsOnly = errors.New("this series store holds rollups only: ask for MaxPoints, or read the segments")
)
