package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/swellfleet/swell/cloud/series"
)

// outlet is a queue with one goroutine that empties it into a sink.
type outlet struct {
	queue chan *work
	ended chan struct{}
	full  func() // called when a batch found no room and was dropped
	letGo func(*work)
}

// offer never waits.
func (o *outlet) offer(w *work) {
	select {
	case o.queue <- w:
	default:
		o.full()
		o.letGo(w)
	}
}

func (o *outlet) close() {
	close(o.queue)
	<-o.ended
}

func (in *Ingest) newOutlet(condition, detail string, dropped *uint64) *outlet {
	return &outlet{
		queue: make(chan *work, in.cfg.SinkQueue), ended: make(chan struct{}), letGo: in.letGo,
		full: func() {
			in.mu.Lock()
			*dropped++
			in.mu.Unlock()
			in.raise(condition, detail)
		},
	}
}

func (in *Ingest) startSink(s Sink) *outlet {
	o := in.newOutlet(CondSink, fmt.Sprintf("%T is slower than the data: live views miss values, stored data does not", s), &in.totals.SinkDropped)
	go func() {
		defer close(o.ended)
		for w := range o.queue {
			s.Take(&w.batch)
			in.letGo(w)
			if len(o.queue) == 0 {
				in.clear(CondSink)
			}
		}
	}()
	return o
}

// Rollups are tried again after these waits while the store cannot be reached;
// meanwhile the queue fills, and then batches are dropped and counted.
const (
	rollupsWaitMin = time.Second
	rollupsWaitMax = time.Minute
	rollupsGroup   = 64
)

func (in *Ingest) startRollups(store series.Store) *outlet {
	o := in.newOutlet(CondRollups, "the rollup store is slower than the data: long views miss values, raw data does not", &in.totals.RollupsDropped)
	go func() {
		defer close(o.ended)
		for w := range o.queue {
			group, batches := []*work{w}, []series.Batch{w.batch}
			for len(group) < rollupsGroup && len(o.queue) > 0 {
				w := <-o.queue
				group, batches = append(group, w), append(batches, w.batch)
			}
			in.appendRollups(store, batches)
			for _, w := range group {
				in.letGo(w)
			}
		}
	}()
	return o
}

// appendRollups tries until the store takes the batches or says it never will.
func (in *Ingest) appendRollups(store series.Store, batches []series.Batch) {
	for wait := rollupsWaitMin; ; wait = min(2*wait, rollupsWaitMax) {
		// Not in.ctx: what is queued when the hub stops is still worth one try.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := store.Append(ctx, batches)
		cancel()
		if err == nil {
			in.clear(CondRollups)
			return
		}
		in.raise(CondRollups, "cannot write rollups, trying again: "+err.Error())
		if !errors.Is(err, series.ErrRejected) {
			select {
			case <-in.ctx.Done():
			case <-time.After(wait):
				continue
			}
		}
		in.mu.Lock()
		in.totals.RollupsDropped += uint64(len(batches))
		in.mu.Unlock()
		return
	}
}
