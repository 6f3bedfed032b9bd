// Package frames makes the pictures that cameras send durable: the bytes in
// object storage, the rest in the catalogue that people label from and that the
// night learns from.
//
// The parties are the broker, which hands over each message and waits for done
// before it acknowledges the device; object storage; and the catalogue
// (cloud/feedback).
//
// Promises: done(nil) is called only after the picture is in object storage and
// then in the catalogue, or can never be read and is quarantined. A picture that
// comes twice is kept once. A hub that dies between the two leaves an object
// that nobody knows, and the device sends the picture again. Memory is bounded,
// and everything refused is counted.
//
// The hub imports it.
package frames

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/quarantine"
	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// Catalogue knows which frames are kept; feedback.Store is one.
type Catalogue interface {
	// AddFrame returns when the frame is durable; fresh is false for a picture
	// that the device sent before.
	AddFrame(ctx context.Context, f feedback.Frame) (fresh bool, err error)
}

// Config says what a Keeper works with.
type Config struct {
	Objects   objects.Store // required
	Catalogue Catalogue     // required
	Log       *slog.Logger  // required

	QuarantineDir   string // where unreadable messages are kept for people; empty keeps none
	QuarantineBytes int64  // bound of that folder; 0 means 16 MiB
	PendingBytes    int64  // messages waiting to be durable; 0 means 64 MiB
	Workers         int    // messages made durable at a time; 0 means 8
}

// Stats count what came since the hub started.
type Stats struct {
	Frames     uint64 // kept
	Bytes      uint64 // of them, encoded
	Duplicates uint64 // received again
	Malformed  uint64 // messages that could not be read, quarantined
	Refused    uint64 // not acknowledged, for want of room or because a store failed
}

// Keeper takes frames in; make one with New.
type Keeper struct {
	config     Config
	quarantine *quarantine.Folder
	room       *semaphore.Weighted
	workers    *semaphore.Weighted

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	stats  Stats
	failed error // of the newest attempt to keep one; nil: it was kept
}

// New makes a Keeper. Close ends it.
func New(c Config) (*Keeper, error) {
	if c.Objects == nil || c.Catalogue == nil || c.Log == nil {
		return nil, errors.New("keep frames: Objects, Catalogue and Log are required")
	}
	if c.PendingBytes == 0 {
		c.PendingBytes = 64 << 20
	}
	if c.QuarantineBytes == 0 {
		c.QuarantineBytes = 16 << 20
	}
	if c.Workers == 0 {
		c.Workers = 8
	}
	q, err := quarantine.Open(c.QuarantineDir, ".frame", c.QuarantineBytes)
	if err != nil {
		return nil, fmt.Errorf("keep frames: %w", err)
	}
	k := &Keeper{config: c, quarantine: q, room: semaphore.NewWeighted(c.PendingBytes), workers: semaphore.NewWeighted(int64(c.Workers))}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k, nil
}

// ErrClosed means that the keeper was closed.
var ErrClosed = errors.New("the keeper of frames is closed")

// storeTimeout bounds one frame's way into the two stores.
const storeTimeout = time.Minute

// Handle takes one message of topic kind frames from device id; payload then
// belongs to the keeper. It waits while PendingBytes are on their way, which
// the device feels as back-pressure. done is called exactly once, from any
// goroutine, with nil when the message may be acknowledged.
func (k *Keeper) Handle(ctx context.Context, id topic.ID, payload []byte, done func(error)) {
	size := min(int64(len(payload)), k.config.PendingBytes)
	if err := k.room.Acquire(ctx, size); err != nil {
		k.refuse(id, done, fmt.Errorf("the keeper of frames is busy: %w", err))
		return
	}
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		k.room.Release(size)
		k.refuse(id, done, ErrClosed)
		return
	}
	k.done.Add(1)
	k.mu.Unlock()
	go func() {
		defer k.done.Done()
		defer k.room.Release(size)
		if err := k.workers.Acquire(k.ctx, 1); err != nil {
			k.refuse(id, done, ErrClosed)
			return
		}
		defer k.workers.Release(1)
		k.take(id, payload, done)
	}()
}

func (k *Keeper) take(id topic.ID, payload []byte, done func(error)) {
	f, encoded, err := read(id, payload)
	if err != nil {
		k.malformed(id, payload, err)
		done(nil)
		return
	}
	ctx, cancel := context.WithTimeout(k.ctx, storeTimeout)
	defer cancel()
	fresh, err := k.keep(ctx, f, encoded)
	k.mu.Lock()
	k.failed = err
	switch {
	case err != nil:
	case fresh:
		k.stats.Frames++
		k.stats.Bytes += uint64(f.Bytes)
	default:
		k.stats.Duplicates++
	}
	k.mu.Unlock()
	if err != nil {
		k.config.Log.Error("a frame is not kept, and not acknowledged", slog.String("device", id.String()), slog.Any("error", err))
		k.refuse(id, done, err)
		return
	}
	done(nil)
}

// read checks a message as far as anybody will ever need: what was read here
// can be shown, and learned from. The error means that no later try can read
// it.
func read(id topic.ID, payload []byte) (feedback.Frame, []byte, error) {
	f, err := telemetry.DecodeFrame(payload)
	if err != nil {
		return feedback.Frame{}, nil, err
	}
	if got := frame.Format(f.Encoded); got != f.Format {
		return feedback.Frame{}, nil, fmt.Errorf("the frame is said to be %s, and is %q", f.Format, got)
	}
	p, err := frame.Decode(f.Encoded, frame.Limits{})
	if err != nil {
		return feedback.Frame{}, nil, err
	}
	if p.Width != f.Width || p.Height != f.Height {
		return feedback.Frame{}, nil, fmt.Errorf("the frame is said to have %d by %d pixels, and has %d by %d", f.Width, f.Height, p.Width, p.Height)
	}
	out := feedback.Frame{
		Device: id, Class: artifact.Class(f.Device), Row: f.Row, At: time.Unix(0, f.At).UTC(), Digest: artifact.Of(f.Encoded), Bytes: len(f.Encoded),
		Width: f.Width, Height: f.Height, Format: "jpg", Why: f.Why, Release: f.Release, Score: f.Score, Top: f.Class, TopProbability: f.Probability,
	}
	if f.Format == telemetry.PNG {
		out.Format = "png"
	}
	return out, f.Encoded, nil
}

// keep puts the object first: the catalogue names nothing that is not there.
func (k *Keeper) keep(ctx context.Context, f feedback.Frame, encoded []byte) (fresh bool, err error) {
	err = k.config.Objects.PutIfAbsent(ctx, f.Key(), bytes.NewReader(encoded), int64(len(encoded)))
	if err != nil && !errors.Is(err, objects.ErrExists) { // its key is its digest
		return false, fmt.Errorf("store frame %s: %w", f.Digest.Short(), err)
	}
	if fresh, err = k.config.Catalogue.AddFrame(ctx, f); err != nil {
		return false, fmt.Errorf("catalogue frame %s: %w", f.Digest.Short(), err)
	}
	return fresh, nil
}

func (k *Keeper) refuse(id topic.ID, done func(error), err error) {
	k.mu.Lock()
	k.stats.Refused++
	k.mu.Unlock()
	done(fmt.Errorf("frame of %s: %w", id, err))
}

// malformed counts, logs and quarantines a message that can never be read. It
// is acknowledged all the same: sent again it would be just as unreadable.
func (k *Keeper) malformed(id topic.ID, payload []byte, cause error) {
	k.mu.Lock()
	k.stats.Malformed++
	n := k.stats.Malformed
	k.mu.Unlock()
	file, err := k.quarantine.Keep(id, payload)
	if err != nil {
		k.config.Log.Warn("cannot quarantine a frame", "device", id.String(), "err", err)
	}
	if bits.OnesCount64(n) == 1 { // the first, second, fourth …: a sick device must not fill the log
		k.config.Log.Warn("unreadable frame acknowledged and quarantined", "device", id.String(), "err", cause, "count", n, "file", file,
			"remedy", "update the agent to the hub's version, or look at the file")
	}
}

// Stats returns the counts.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stats
}

// Failed is why the newest frame could not be kept; nil when it was.
func (k *Keeper) Failed() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed
}

// Close gives up what is not durable yet, which devices send again, and waits
// until each has its answer.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.cancel()
	k.done.Wait()
	return nil
}
