package agent_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/twin"
)

// burst is a source that has all its rows at once.
type burst struct {
	rows  uint64 // in all
	batch uint64
	given atomic.Uint64
}

func (b *burst) Open(context.Context) error { return nil }
func (b *burst) Channels() []source.Channel { return []source.Channel{{Name: "signal-1"}} }
func (b *burst) RateHz() float64            { return 1000 }
func (b *burst) Close() error               { return nil }

func (b *burst) Next(ctx context.Context) (source.Rows, error) {
	first := b.given.Load()
	if first == b.rows {
		<-ctx.Done()
		return source.Rows{}, ctx.Err()
	}
	rows := source.Rows{First: first, Values: [][]float32{make([]float32, b.batch)}}
	for i := range b.batch {
		rows.Times = append(rows.Times, int64(first+i)*int64(time.Millisecond))
	}
	b.given.Add(b.batch)
	return rows, nil
}

func TestAPatientAgentLosesNothingToADiskThatStands(t *testing.T) {
	const block, blocks = 10, 200 // far more than wait between pipeline and disk
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	d := &disk.Mem{}
	src := &burst{rows: block * blocks, batch: block}
	c := configure(hub, press, d)
	c.Custom, c.Patient, c.Telemetry.BlockRows, c.Telemetry.BlockS, c.HeartbeatS = src, true, block, 3600, 0.01
	moves := make(chan struct{})
	var stands atomic.Bool
	stands.Store(true)
	d.Fault(func(op disk.Op, name string) error {
		if op == disk.OpWrite && src.given.Load() > 0 && stands.Load() {
			<-moves
		}
		return nil
	})
	boot(t, c)
	hub.Until(t, "the pipeline to wait for the disk", func() bool { return src.given.Load() > 64*block })
	stands.Store(false)
	close(moves) // and reports, which want to know of pipeline and disk, go on meanwhile
	hub.Await(t, "all rows", func(r twin.Reported) bool { return r.Stream.Samples == block*blocks && r.Stream.SpoolBlocks == 0 })
	raw, _ := hub.Blocks(telemetry.Raw)
	rows := 0
	for _, b := range raw {
		rows += b.Rows()
	}
	if rows != block*blocks {
		t.Errorf("%d of %d rows reached the hub", rows, block*blocks)
	}
}
