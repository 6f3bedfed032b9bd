package backtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/source"
)

// endless gives a hundred rows at each call.
type endless struct{ source.Source }

func (*endless) Next(context.Context) (source.Rows, error) {
	return source.Rows{Times: make([]int64, 100), Values: [][]float32{make([]float32, 100)}}, nil
}

// counted numbers the rows of another source.
type counted struct {
	source.Source
	first uint64
}

func (c *counted) Next(ctx context.Context) (source.Rows, error) {
	rows, err := c.Source.Next(ctx)
	rows.First = c.first
	c.first += uint64(rows.Len())
	return rows, err
}

// read takes rows from a gate until it makes the reader wait.
func read(g *gate) (rows int, err error) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		got, err := g.Next(ctx)
		cancel()
		if err != nil {
			return rows, err
		}
		rows += got.Len()
	}
}

func TestAGateWaitsForTheReleaseAndForTheHub(t *testing.T) {
	g := newGate(&counted{Source: &endless{}}, 250, time.Unix(1e9, 0))
	n, err := read(g)
	if n != 250 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%d rows before there is a release, and %v: want the 250 to learn from", n, err)
	}
	g = newGate(&counted{Source: &endless{}}, 250, time.Unix(1e9, 0))
	g.release()
	if n, _ := read(g); n != ahead {
		t.Errorf("%d rows of which the hub has none: want %d", n, ahead)
	}
	g = newGate(&counted{Source: &endless{}}, 250, time.Unix(1e9, 0))
	g.release()
	g.allow(ahead, ahead-1000)
	if n, _ := read(g); n != ahead+1000 {
		t.Errorf("%d rows of which the hub has 1000: want %d", n, ahead+1000)
	}
}
