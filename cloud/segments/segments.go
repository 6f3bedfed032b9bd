// Package segments moves raw rows from the series head into immutable Parquet
// files in object storage, and reads them back for training.
//
// The parties are the series head, which holds rows until they are in a
// segment; the object store; and retrain, which reads snapshots.
//
// Promises: each row that was acknowledged is in exactly one segment or still in
// the head, also when the hub is killed between any two steps; a segment never
// changes and its key carries its SHA-256; the catalogue is the listing of the
// object store, so a lost hub loses no segment.
package segments

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Segment describes one file.
type Segment struct {
	Key    string // in the object store
	Digest string // SHA-256 of the file, hex
	Site   string
	Node   string
	Stream string
	First  uint64 // index of the first row in the device's stream
	Rows   int
	From   int64 // ns since 1970 UTC of the oldest row
	To     int64 // ns since 1970 UTC of the newest row
}

// Filter chooses segments; empty fields choose all.
type Filter struct {
	Site, Node, Stream string
}

// Columns are the rows of a segment in order of time.
type Columns struct {
	Rows    []uint64 // index of each row in the device's stream; holes are lost rows
	Times   []int64  // ns since 1970 UTC
	Signals []Column
}

// Column is one signal of a segment.
type Column struct {
	Name   string
	Unit   string
	Values []float32 // one a row; NaN is "no value"
}

// Config says what a Keeper works with.
type Config struct {
	Head     Head
	Objects  Objects
	Log      *slog.Logger
	Interval time.Duration // between flushes; 0 means 5 minutes
	MaxBytes int64         // of raw values in the head that start a flush before; 0 means 64 MiB
	Now      func() time.Time
}

// Head and Objects follow.
type (
	Head    interface{}
	Objects interface{}
)

// Keeper flushes and reads segments.
type Keeper struct{}

// New returns a Keeper; Run flushes from time to time.
func New(cfg Config) (*Keeper, error) { return nil, errors.New("soon") }

// Run flushes every Interval, and when MaxBytes are waiting, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error { return nil }

// Flush moves everything in the head into segments.
func (k *Keeper) Flush(ctx context.Context) error { return nil }

// List returns the segments with rows in from ≤ t < to, in order of From.
func (k *Keeper) List(ctx context.Context, from, to time.Time, f Filter) ([]Segment, error) {
	return nil, nil
}

// Read returns the rows of a segment, after checking its digest.
func (k *Keeper) Read(ctx context.Context, s Segment) (Columns, error) { return Columns{}, nil }
