// Package ingest takes telemetry off the broker and makes it durable.
//
// The parties are the broker, which hands over each message and waits for done
// before it acknowledges the device; the series store, which makes batches
// durable; the sinks (fleet, SSE), which want to hear of new values soon; and
// the objects that people ask why data is missing (Stats).
//
// Promises: done(nil) is called only after the block is on disk, or is known to
// be a duplicate of one that is, or can never be read and is quarantined; many
// waiting messages share one disk flush; nothing a sink does delays or fails
// it; memory is bounded, and everything dropped is counted.
package ingest

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/swellfleet/swell/cloud/series"
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

// Sink hears of batches that became durable. Take is called from one goroutine
// and must not keep the batch's slices after it returns.
type Sink interface {
	Take(b *series.Batch)
}

// Config says what an Ingest works with.
type Config struct {
	Head    Head         // required
	Rollups series.Store // gets every fresh batch too, such as InfluxDB; nil for none
	Sinks   []Sink       // each behind its own queue of SinkQueue batches
	Log     *slog.Logger // required

	QuarantineDir   string // where unreadable payloads are kept for people; empty keeps none
	QuarantineBytes int64  // bound of that folder; 0 means 16 MiB
	PendingBytes    int64  // payload bytes waiting to be durable; 0 means 64 MiB
	SinkQueue       int    // batches; 0 means 1024
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
	Refused    uint64 // payloads not acknowledged, for want of room
	LastSeen   time.Time
	Gaps       []Gap // of a device only, oldest first
}

// Gap is a range of rows that a device counted but the hub does not hold.
type Gap struct {
	Stream string
	Boot   uint64
	First  uint64
	Rows   uint64
}

// Condition is something an operator should know of, while it lasts.
type Condition struct {
	Name   string // "series-full", "series-stopped", "rollups-behind", "sink-behind"
	Since  time.Time
	Detail string // what to do
}

// ErrBusy means that PendingBytes are waiting: the message is not acknowledged
// and the device sends it again.
var ErrBusy = errors.New("ingest is busy")

// Ingest is the pipeline; make one with New.
type Ingest struct{}

// New starts an Ingest. Close stops it.
func New(cfg Config) (*Ingest, error) { return nil, errors.New("soon") }

// Handle takes one message of topic kind blocks from device id. It has read
// payload when it returns; done is called exactly once, from any goroutine.
func (in *Ingest) Handle(ctx context.Context, id topic.ID, payload []byte, done func(error)) {
}

// Live takes one Sparkplug message (birth, data, death) from device id and
// passes its scalars to the sinks as stream "live". Nothing waits for it.
func (in *Ingest) Live(id topic.ID, m topic.Message, payload []byte) error { return nil }

// Stats returns the counts and gaps of one device.
func (in *Ingest) Stats(ctx context.Context, id topic.ID) (Stats, error) { return Stats{}, nil }

// Totals returns the counts over all devices.
func (in *Ingest) Totals() Stats { return Stats{} }

// Conditions lists what is wrong now, nil when nothing is.
func (in *Ingest) Conditions() []Condition { return nil }

// Close waits for what was handed over and stops.
func (in *Ingest) Close() error { return nil }
