package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/spool"
	"github.com/swellfleet/swell/protocol/topic"
)

// delivery moves blocks, or pictures, from their spool to the hub, a bounded
// number at a time, and removes each when the broker has acknowledged it.
type delivery struct {
	topic  topic.Topic
	sent   func() // called for each that was acknowledged; nil: nobody counts
	spool  *spool.Spool
	uplink Uplink
	log    *slog.Logger
	slots  chan struct{} // one token per block under way
	wake   chan struct{} // has a token when the connection came or a block failed

	mu     sync.Mutex
	flying map[uint64]bool
	failed bool // a block came back: begin again at the oldest
}

// pauseAfterFailure keeps a broker that refuses at once from being flooded.
const pauseAfterFailure = time.Second

func newDelivery(t topic.Topic, s *spool.Spool, u Uplink, inFlight int, log *slog.Logger) *delivery {
	return &delivery{topic: t, spool: s, uplink: u, log: log, slots: make(chan struct{}, inFlight), wake: make(chan struct{}, 1), flying: map[uint64]bool{}}
}

// nudge makes the loop look again.
func (d *delivery) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *delivery) run(ctx context.Context) {
	var after uint64
	for ctx.Err() == nil {
		if d.rewind() {
			after = 0
			if d.uplink.Connected() && !sleep(ctx, pauseAfterFailure) {
				return
			}
		}
		if !d.uplink.Connected() {
			select {
			case <-ctx.Done():
			case <-d.wake:
			}
			continue
		}
		seq, payload, ok, err := d.spool.Read(after)
		if err != nil {
			d.log.Warn("telemetry is lost", "kind", d.topic.Kind, "error", err)
			continue
		}
		if !ok {
			select {
			case <-ctx.Done():
			case <-d.wake:
			case <-d.spool.Ready():
			}
			continue
		}
		after = seq
		if !d.takeOff(seq) {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case d.slots <- struct{}{}:
		}
		d.uplink.Publish(d.topic, payload, func(err error) { d.landed(seq, err) })
	}
}

// takeOff notes that seq is under way; false: it is already.
func (d *delivery) takeOff(seq uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flying[seq] {
		return false
	}
	d.flying[seq] = true
	return true
}

func (d *delivery) landed(seq uint64, err error) {
	<-d.slots
	d.mu.Lock()
	delete(d.flying, seq)
	d.failed = d.failed || err != nil
	d.mu.Unlock()
	if err == nil {
		if d.sent != nil {
			d.sent()
		}
		if err := d.spool.Ack(seq); err != nil {
			d.log.Warn("what was acknowledged could not be cleared", "kind", d.topic.Kind, "seq", seq, "error", err)
		}
		return
	}
	d.nudge()
}

// rewind says whether a block came back since the last call.
func (d *delivery) rewind() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.failed
	d.failed = false
	return was
}

// sleep waits; false: ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
