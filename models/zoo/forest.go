package zoo

import (
	"context"
	"math"
	"math/bits"
	"math/rand/v2"

	"github.com/swellfleet/swell/models/onnx"
)

// isolation is an isolation forest (Liu, Ting and Zhou, 2008): random trees over few patterns each. What is rare
// and different gets a leaf of its own after few cuts.
//
// Two things differ from the paper, because without them it finds no fault of a machine whose sensors depend
// on each other, nor one of a sensor that used to stand still. Cuts are made along the principal axes of the
// patterns, each over its deviation, not along single samples. And a cut may fall outside what its rows span:
// what no pattern has come near is told apart by it at once.
type isolation struct {
	head  *head
	axes  []float32 // [features, channels, pattern]: principal axes over their deviations
	shift []float32 // [features]
	trees [][]onnx.TreeNode
	usual float64 // length of a path in a tree over as many patterns, on average
}

// Of how many trees and patterns a forest is made, and how it judges a path.
const (
	forestTrees     = 100
	forestPatterns  = 256
	forestExperts   = 8    // in one graph: each tree node is nine parts of a file, and a device reads a million
	forestExtra     = 4    // cuts below those that an even tree would need, for the ones that fall outside
	forestDeviation = 0.05 // least of an axis, in deviations of a channel
	// A path has an end, so without a power the most unusual pattern would be a few times as far out as a usual
	// one, and no margin would fit between.
	forestPower = 6
)

func fitForest(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (detector, error) {
	mean, variance, axes, err := m.axes()
	if err != nil {
		return nil, err
	}
	f := &isolation{head: h, shift: make([]float32, m.cols)}
	for j := range m.cols {
		deviation, shift := math.Sqrt(max(variance[j], forestDeviation*forestDeviation)), 0.0
		for i := range m.cols {
			f.axes = append(f.axes, float32(axes.At(i, j)/deviation))
			shift -= axes.At(i, j) * mean[i] / deviation
		}
		f.shift[j] = float32(shift)
	}
	rng := rand.New(rand.NewPCG(c.Seed, 0x1f08))
	n := min(forestPatterns, m.rows)
	f.usual = pathLength(n)
	nodes := 0
	for range forestTrees {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		sample := make([][]float32, n)
		for i, row := range rng.Perm(m.rows)[:n] {
			sample[i] = f.features(m.data[row*m.cols : (row+1)*m.cols])
		}
		p := planter{rng: rng, height: bits.Len(uint(n-1)) + forestExtra}
		p.grow(sample, 0)
		f.trees = append(f.trees, p.nodes)
		nodes += len(p.nodes)
	}
	card["trees"], card["treeNodes"], card["sample"] = len(f.trees), nodes, n
	return f, nil
}

// features returns where a pattern lies along the axes.
func (f *isolation) features(pattern []float32) []float32 {
	out, n := make([]float32, len(f.shift)), len(pattern)
	for j := range out {
		sum := f.shift[j]
		for i, v := range pattern {
			sum += f.axes[j*n+i] * v
		}
		out[j] = sum
	}
	return out
}

// planter grows one tree.
type planter struct {
	rng    *rand.Rand
	height int // no path is longer
	nodes  []onnx.TreeNode
}

// grow appends a tree over rows whose root lies depth cuts deep, and returns the index of its root.
func (p *planter) grow(rows [][]float32, depth int) int {
	at := len(p.nodes)
	if depth >= p.height || len(rows) < 2 {
		p.nodes = append(p.nodes, onnx.TreeNode{Value: float32(float64(depth) + pathLength(len(rows)))})
		return at
	}
	feature := p.rng.IntN(len(rows[0]))
	low, high := rows[0][feature], rows[0][feature]
	for _, r := range rows {
		low, high = min(low, r[feature]), max(high, r[feature])
	}
	// As wide again on each side, and a deviation more: the rows may all be alike.
	wide := high - low + 1
	cut := low - wide + p.rng.Float32()*3*wide
	var below, above [][]float32
	for _, r := range rows {
		if r[feature] <= cut {
			below = append(below, r)
		} else {
			above = append(above, r)
		}
	}
	p.nodes = append(p.nodes, onnx.TreeNode{Feature: feature, Value: cut})
	lowNode := p.grow(below, depth+1)
	highNode := p.grow(above, depth+1)
	p.nodes[at].Low, p.nodes[at].High = lowNode, highNode
	return at
}

// pathLength is how many cuts it takes on average to look for a value that is not there in a random tree over n.
func pathLength(n int) float64 {
	if n < 2 {
		return 0
	}
	harmonic := 0.0
	for i := 1; i < n; i++ {
		harmonic += 1 / float64(i)
	}
	return 2*harmonic - 2*float64(n-1)/float64(n)
}

func (f *isolation) weights() []float64 { return []float64{1} }

func (f *isolation) emit(b *onnx.Builder, z string) ([]string, string) {
	h, n := f.head, int64(len(f.shift))
	rows := b.Node("Conv", []string{z,
		b.Floats(h.prefix+"axes", f.axes, n, int64(h.channels), int64(h.pattern)), b.Floats(h.prefix+"shift", f.shift, n)})
	rows = b.Node("Reshape", []string{b.Node("Transpose", []string{rows}, onnx.Ints("perm", 0, 2, 1)), b.Ints(-1, n)})
	path := b.Node("Reshape", []string{b.Trees(rows, f.trees), b.Ints(-1, int64(h.smooth))})
	short := b.Node("Pow", []string{b.Node("Div", []string{b.Scalar(float32(f.usual)), path}), b.Scalar(forestPower)})
	return h.blame(b, z, b.Node("ReduceMean", []string{short}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0)))
}
