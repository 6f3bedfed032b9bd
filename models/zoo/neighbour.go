package zoo

import (
	"errors"
	"fmt"
	"math"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
)

// neighbour compares the newest values with everything like them that was seen before: in the window, which
// goes on with the stream, and in the rows it was fitted on. What has a near neighbour there is nothing new.
//
// How far the nearest neighbour usually is differs from stream to stream and from week to week, so the
// distance is divided by the usual one over the newest rows. A stream that repeats itself exactly has a usual
// distance of nothing; a part of the stream's range is added, so that its last digits do not alarm.
//
// The idea is that of conformal nearest-neighbour detectors (Burnaev and Ishimtsev, 2016) without their
// ranks; the division and the hold are ours.
type neighbour struct {
	*head
	config  Config
	recent  int         // rows whose distances are looked at
	memory  [][]float32 // standardized values of each channel, one for each row of each pattern, newest row first
	size    int         // patterns in the memory
	low, up []float32   // of each standardized channel, where it was fitted
}

// masked is a distance that no row is at.
const masked = 1e30

// maxMemory bounds how many patterns of the fitted rows a model carries: the newest.
const maxMemory = 4096

// fitNeighbour returns the detector. Its window is as many rows as the configuration says, fewer
// where the data is shorter, so that a stream is judged as soon as it was learned from.
func fitNeighbour(d Dataset, c Config, card map[string]any) (*neighbour, error) {
	if c.PerDevice || c.FalseAlarmsPerDay > 0 {
		return nil, errors.New("experts per device and false alarms per day are not for this kind: set the margin")
	}
	longest := 0
	for _, s := range d.Series {
		for _, span := range s.Spans(d.SampleRateHz, c.MaxGap) {
			longest = max(longest, span.To-span.From)
		}
	}
	window := min(c.History, longest-minWindows)
	if window < 4*c.Pattern || window < minPatterns {
		return nil, fmt.Errorf("%w: the longest run without a gap is %d rows: want %d or more", ErrData, longest, max(4*c.Pattern, minPatterns)+minWindows)
	}
	c.HoldOut = 0 // a memory has nothing to hold out: it knows what it was shown and no more
	n := &neighbour{head: newHead(d, c), config: c, recent: min(c.Hold+1, window/3)}
	n.window = window
	n.memory = make([][]float32, len(d.Channels)*c.Pattern)
	for ch := range d.Channels {
		low, up := math.Inf(1), math.Inf(-1)
		for _, s := range d.Series {
			for _, v := range s.Values[ch] {
				z := (float64(v) - n.mean[ch]) / n.scale[ch]
				low, up = min(low, z), max(up, z)
			}
		}
		n.low, n.up = append(n.low, float32(low)), append(n.up, float32(up))
	}
	for _, s := range d.Series {
		for _, span := range s.Spans(d.SampleRateHz, c.MaxGap) {
			for row := span.From + c.Pattern - 1; row < span.To; row++ {
				for ch := range d.Channels {
					for k := range c.Pattern {
						z := (float64(s.Values[ch][row-k]) - n.mean[ch]) / n.scale[ch]
						n.memory[ch*c.Pattern+k] = append(n.memory[ch*c.Pattern+k], float32(z))
					}
				}
				n.size++
			}
		}
	}
	if over := n.size - maxMemory; over > 0 {
		for i := range n.memory {
			n.memory[i] = n.memory[i][over:]
		}
		n.size = maxMemory
	}
	card["memory"], card["window"], card["recent"] = n.size, window, n.recent
	return n, nil
}

// export builds the graph that devices get.
func (n *neighbour) export() *onnx.Builder {
	b := &onnx.Builder{}
	c, channels, pattern, recent := n.config, int64(n.channels), n.config.Pattern, int64(n.recent)
	window := b.Input(contract.Window, onnx.Float, onnx.Batch, channels, int64(n.window))
	z := n.standardize(b, window)

	last := func(k int) string { // [batch, channels, recent, 1]: the newest rows, k rows earlier
		rows := b.Node("Slice", []string{z, b.Ints(int64(n.window - n.recent - k)), b.Ints(int64(n.window - k)), b.Ints(2)})
		return b.Node("Unsqueeze", []string{rows, b.Ints(3)})
	}
	square := func(a, b2 string) string {
		e := b.Node("Sub", []string{a, b2})
		return b.Node("Mul", []string{e, e})
	}
	// distances sums over the rows of a pattern; what follows sums over the channels.
	distances := func(other func(k int) string) string {
		sum := ""
		for k := range pattern {
			if e := square(last(k), other(k)); sum == "" {
				sum = e
			} else {
				sum = b.Node("Add", []string{sum, e})
			}
		}
		return sum // [batch, channels, recent, others]
	}
	past := int64(n.window - pattern + 1)
	inWindow := distances(func(k int) string {
		rows := b.Node("Slice", []string{z, b.Ints(int64(pattern - 1 - k)), b.Ints(int64(n.window - k)), b.Ints(2)})
		return b.Node("Unsqueeze", []string{rows, b.Ints(2)})
	})
	// A row may not be its own neighbour, nor look ahead.
	mask := make([]float32, recent*past)
	for i := range int(recent) {
		for j := range int(past) {
			if row, other := n.window-n.recent+i, j+pattern-1; row-other < pattern {
				mask[i*int(past)+j] = masked
			}
		}
	}
	inWindow = b.Node("Add", []string{inWindow, b.Floats("mask", mask, recent, past)})
	inMemory := distances(func(k int) string {
		values := make([]float32, 0, n.channels*n.size)
		for ch := range n.channels {
			values = append(values, n.memory[ch*pattern+k]...)
		}
		return b.Floats(fmt.Sprintf("memory%d", k), values, 1, channels, 1, int64(n.size))
	})
	least := func(v string, axis int64) string {
		return b.Node("ReduceMin", []string{v}, onnx.Ints("axes", axis), onnx.Int("keepdims", 0))
	}
	nearest := func(reduce func(string) string, axis int64) string {
		return b.Node("Min", []string{least(reduce(inWindow), axis), least(reduce(inMemory), axis)})
	}
	root := func(v string, of int64) string {
		return b.Node("Sqrt", []string{b.Node("Mul", []string{v, b.Scalar(1 / float32(int64(pattern)*of))})})
	}
	sum := func(v string) string {
		return b.Node("ReduceSum", []string{v, b.Ints(1)}, onnx.Int("keepdims", 0))
	}
	distance := root(nearest(sum, 2), channels) // [batch, recent]
	part := func(v string, from, to, axis int64) string {
		return b.Node("Slice", []string{v, b.Ints(from), b.Ints(to), b.Ints(axis)})
	}
	usual := b.Node("ReduceMean", []string{part(distance, 0, recent-1, 1)}, onnx.Ints("axes", 1), onnx.Int("keepdims", 1))
	extent := func(op string, bound []float32, name string) string {
		v := b.Node("Reduce"+op, []string{z}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
		return b.Node(op, []string{v, b.Floats(name, bound, 1, channels)})
	}
	extents := b.Node("Sub", []string{extent("Max", n.up, "up"), extent("Min", n.low, "low")})
	room := b.Node("ReduceMean", []string{extents}, onnx.Ints("axes", 1), onnx.Int("keepdims", 1))
	unit := b.Node("Add", []string{usual, b.Node("Mul", []string{room, b.Scalar(float32(c.Floor))})})
	unit = b.Node("Mul", []string{b.Node("Add", []string{unit, b.Scalar(1e-9)}), b.Scalar(float32(c.Margin))}) // [batch, 1]
	strange := b.Node("Div", []string{distance, unit})                                                         // [batch, recent]; 1 at the threshold
	newest := b.Node("Reshape", []string{part(strange, recent-1, recent, 1), b.Ints(-1)})
	before := b.Node("ReduceMax", []string{part(strange, 0, recent-1, 1)}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0))
	// What is strange for long is one event: the score stays at the threshold until the hold has passed.
	held := b.Node("Greater", []string{before, b.Scalar(1)})
	score := b.Node("Where", []string{held, b.Node("Min", []string{newest, b.Scalar(1)}), newest})
	// One value that is not a number makes the score none, whatever the comparisons made of it.
	poison := b.Node("ReduceSum", []string{b.Node("Mul", []string{window, b.Scalar(0)}), b.Ints(1, 2)}, onnx.Int("keepdims", 0))
	b.NodeTo([]string{contract.Score}, "Add", []string{score, poison})

	own := root(nearest(func(v string) string { return part(v, recent-1, recent, 2) }, 3), 1) // [batch, channels, 1]
	own = b.Node("Reshape", []string{own, b.Ints(-1, channels)})
	b.NodeTo([]string{contract.ChannelScore}, "Div", []string{own, unit})
	normal := b.Node("LessOrEqual", []string{contract.Score, b.Floats("threshold", []float32{1}, 1)})
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{normal})
	b.Output(contract.Score, onnx.Float, onnx.Batch)
	b.Output(contract.Anomaly, onnx.Bool, onnx.Batch)
	b.Output(contract.ChannelScore, onnx.Float, onnx.Batch, channels)
	return b
}
