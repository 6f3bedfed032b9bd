package pipeline_test

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/models/runtime"
)

// discard is a Sink that only counts.
type discard struct{ rows, verdicts uint64 }

func (d *discard) Rows(_ uint64, r source.Rows) { d.rows += uint64(r.Len()) }
func (d *discard) Verdict(v pipeline.Verdict)   { d.verdicts++ }

var eight = []string{"signal-1", "signal-2", "signal-3", "signal-4", "signal-5", "signal-6", "signal-7", "signal-8"}

func channels(names []string) []source.Channel {
	var cs []source.Channel
	for _, n := range names {
		cs = append(cs, source.Channel{Name: n})
	}
	return cs
}

// feed pushes one row at a time at rate rows per second until stop, and returns
// how long each took from its due time on: with scoring in time, the scorer's
// own latency; behind a stall, the stall as well.
func feed(p *pipeline.Pipeline, rate float64, first uint64, stop <-chan struct{}) (took []time.Duration, next uint64) {
	rows := source.Rows{Times: []int64{0}, Values: make([][]float32, len(eight))}
	for c := range rows.Values {
		rows.Values[c] = []float32{0}
	}
	began := time.Now()
	for n := uint64(0); ; n++ {
		select {
		case <-stop:
			return took, first + n
		default:
		}
		due := began.Add(time.Duration(float64(n) / rate * 1e9))
		time.Sleep(time.Until(due)) // the pace of a sensor
		at := time.Now()
		rows.First, rows.Times[0] = first+n, at.UnixNano()
		for c := range rows.Values {
			rows.Values[c][0] = float32((n+uint64(c))%100) / 50
		}
		p.Rows(rows, at)
		took = append(took, time.Since(at))
	}
}

func p99(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*99/100]
}

// TestSwapFigures measures what swaps cost an agent that scores 1 000 windows a
// second. It runs with SWELL_BENCH=1 and prints one JSON line.
func TestSwapFigures(t *testing.T) {
	if os.Getenv("SWELL_BENCH") == "" {
		t.Skip("a measurement: set SWELL_BENCH=1")
	}
	const swaps, every, rate = 100, 100 * time.Millisecond, 1000
	var models [2][]byte
	for i := range models {
		models[i] = agenttest.Model{Channels: eight, Window: 64, Hidden: 64, Threshold: 1e9, Note: fmt.Sprint(i)}.ONNX()
	}
	var s scorer.Scorer
	load := func(i int) *scorer.Model {
		m, err := s.Load(models[i%2], scorer.Release{Name: "pump-anomaly", Counter: uint64(i + 1)}, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	sink := &discard{}
	p := pipeline.New(pipeline.Config{Channels: channels(eight), RateHz: rate, Sink: sink})
	defer p.Close()
	act := func(i int) {
		m := load(i)
		defer m.Let()
		if err := p.SetChampion(m); err != nil {
			t.Error(err)
		}
	}
	act(0)

	measure := func(meanwhile func()) []time.Duration {
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			meanwhile()
		}()
		took, next := feed(p, rate, sink.rows, stop)
		if next != sink.rows {
			t.Errorf("%d rows went in, %d came out", next, sink.rows)
		}
		return took
	}
	pause := time.NewTicker(every)
	defer pause.Stop()
	steady := measure(func() {
		for range swaps {
			<-pause.C
		}
	})
	swapping := measure(func() {
		for i := range swaps {
			<-pause.C
			act(i + 1) // loads beside the champion, checks, swaps, frees
		}
		<-pause.C
	})
	s.Wait()
	c := p.Counters()
	fmt.Printf("{\"swaps\":%d,\"windows_scored\":%d,\"windows_lost\":%d,\"p99_steady_us\":%d,\"p99_swapping_us\":%d,\"p99_ratio\":%.2f}\n",
		c.Swaps, c.WindowsScored, c.WindowsDue-c.WindowsScored, p99(steady).Microseconds(), p99(swapping).Microseconds(), float64(p99(swapping))/float64(p99(steady)))
	if c.Swaps != swaps || c.WindowsLost != 0 || c.WindowsScored != c.WindowsDue || c.WindowsDue != sink.rows-63 {
		t.Errorf("counters %+v after %d rows", c, sink.rows)
	}
}

// TestSwapsUnderLoadLoseNoWindow is the same as fast as it goes, with windows of
// changing length.
func TestSwapsUnderLoadLoseNoWindow(t *testing.T) {
	var s scorer.Scorer
	sink := &discard{}
	p := pipeline.New(pipeline.Config{Channels: channels(eight), Sink: sink})
	put := func(window int, counter uint64) {
		m, err := s.Load(agenttest.Model{Channels: eight, Window: window}.ONNX(), scorer.Release{Counter: counter}, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Let()
		if err := p.SetChampion(m); err != nil {
			t.Fatal(err)
		}
	}
	put(4, 1)
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { feed(p, 1e9, 0, stop) })
	for i := range 40 {
		put([]int{4, 64, 16, 700}[i%4], uint64(i+2))
		for { // the successor may wait for its rows
			if r, settled := p.Acting(); settled && r.Counter == uint64(i+2) {
				break
			}
		}
	}
	close(stop)
	work.Wait()
	c := p.Counters()
	if c.Swaps != 40 || c.WindowsLost != 0 || c.WindowsScored != c.WindowsDue || c.WindowsDue != sink.rows-3 || sink.verdicts != c.WindowsScored {
		t.Errorf("counters %+v after %d rows and %d verdicts", c, sink.rows, sink.verdicts)
	}
	p.Close()
	s.Wait()
	if n := s.Loaded(); n != 0 {
		t.Errorf("%d models are still in memory", n)
	}
}

func TestScoringAllocatesNothing(t *testing.T) {
	var s scorer.Scorer
	m, err := s.Load(agenttest.Model{Channels: eight, Window: 64, Hidden: 64}.ONNX(), scorer.Release{}, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := pipeline.New(pipeline.Config{Channels: channels(eight), Sink: &discard{}})
	if err := p.SetChampion(m); err != nil {
		t.Fatal(err)
	}
	m.Let()
	rows := source.Rows{Times: make([]int64, 100), Values: make([][]float32, 8)}
	for c := range rows.Values {
		rows.Values[c] = make([]float32, 100)
	}
	at := time.Now()
	p.Rows(rows, at)
	rows.First += 100
	if n := testing.AllocsPerRun(20, func() { p.Rows(rows, at); rows.First += 100 }); n > 0 {
		t.Errorf("100 windows cost %v allocations", n)
	}
	p.Close()
	s.Wait()
}
