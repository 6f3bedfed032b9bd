package backtest

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/source"
)

// gate plays a recording up to a row, waits there until it is opened, and
// plays the rest: first the rows to learn from, then those to judge. It never
// plays far ahead of what the hub has.
type gate struct {
	source.Source
	at    uint64    // rows before it pass at once
	start time.Time // when its first row shall have been taken, so that an old recording is recent; zero: when it was
	shift int64     // ns added to every time; set with the first row

	open chan struct{} // closed when the rest may pass
	once *sync.Once
	held *source.Rows // the part of a batch that waits

	mu    sync.Mutex
	below uint64        // rows below it may be played
	more  chan struct{} // closed and replaced when below rises
}

// ahead is how many rows, samples and verdicts together, a device may have
// that the hub has not acknowledged. A recording has no need to lose any: it
// waits.
const ahead = 20_000

func newGate(s source.Source, at uint64, start time.Time) *gate {
	return &gate{Source: s, at: at, start: start, open: make(chan struct{}), once: &sync.Once{}, below: ahead, more: make(chan struct{})}
}

// release lets the rest pass.
func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

// allow tells the gate how many rows its device has read and how many it has
// that the hub has not acknowledged.
func (g *gate) allow(read, waiting uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if below := read + ahead - min(waiting, ahead); below > g.below {
		g.below = below
		close(g.more)
		g.more = make(chan struct{})
	}
}

// allowed waits until a row may be played.
func (g *gate) allowed(ctx context.Context, row uint64) error {
	for {
		g.mu.Lock()
		below, more := g.below, g.more
		g.mu.Unlock()
		if row < below {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Next implements source.Source.
func (g *gate) Next(ctx context.Context) (source.Rows, error) {
	var rows source.Rows
	if g.held != nil {
		rows, g.held = *g.held, nil
	} else {
		var err error
		if rows, err = g.Source.Next(ctx); err != nil {
			if errors.Is(err, io.EOF) {
				// The device stays: what it found is still on its way.
				<-ctx.Done()
				return source.Rows{}, ctx.Err()
			}
			return source.Rows{}, err
		}
		if g.shift == 0 && len(rows.Times) > 0 && !g.start.IsZero() {
			g.shift = g.start.UnixNano() - rows.Times[0]
		}
		for i := range rows.Times {
			rows.Times[i] += g.shift
		}
	}
	if rows.First < g.at && rows.First+uint64(rows.Len()) > g.at {
		cut := int(g.at - rows.First)
		rest := slice(rows, cut, rows.Len())
		g.held = &rest
		rows = slice(rows, 0, cut)
	}
	if rows.First >= g.at {
		select {
		case <-g.open:
		case <-ctx.Done():
			return source.Rows{}, ctx.Err()
		}
	}
	return rows, g.allowed(ctx, rows.First)
}

// slice copies rows from..to: the source may reuse what it handed out.
func slice(r source.Rows, from, to int) source.Rows {
	out := source.Rows{First: r.First + uint64(from), Times: append([]int64(nil), r.Times[from:to]...)}
	for _, v := range r.Values {
		out.Values = append(out.Values, append([]float32(nil), v[from:to]...))
	}
	if r.Frames != nil {
		out.Frames, out.Pictures = slices.Clone(r.Frames[from:to]), slices.Clone(r.Pictures[from:to])
	}
	return out
}
