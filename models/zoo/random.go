package zoo

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/swellfleet/swell/models/onnx"
)

// randomNeighbour compares patterns with a few chosen ones of the training data, in random features: rectified
// random directions and cuts, as of an untrained network. Nothing is trained, so it fits in a moment; it knows
// regions of any shape where the plane of PCA knows one.
type randomNeighbour struct {
	head    *head
	w, b    []float32 // [features, channels*pattern]: directions and cuts
	centres []float32 // [features, centres], of the features
	half    []float32 // [centres]: half the squared length of each
}

// Of how many patterns, features and centres a fit is made.
const (
	randomFeatures  = 128
	randomCentres   = 256
	randomPatterns  = 20_000
	randomDeviation = 1.5 // of the cuts, in deviations of a direction's values
)

func fitRandomNeighbour(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (detector, error) {
	rng := rand.New(rand.NewPCG(c.Seed, 0x4a4d))
	r := &randomNeighbour{head: h}
	for range randomFeatures {
		for range m.cols {
			r.w = append(r.w, float32(rng.NormFloat64()/math.Sqrt(float64(m.cols))))
		}
		r.b = append(r.b, float32(rng.NormFloat64()*randomDeviation))
	}
	thin := (m.rows + randomPatterns - 1) / randomPatterns
	rows := (m.rows + thin - 1) / thin
	features := make([]float32, rows*randomFeatures)
	for i := range rows {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.features(m.data[i*thin*m.cols:(i*thin+1)*m.cols], features[i*randomFeatures:(i+1)*randomFeatures])
	}
	// Greedy centres (Gonzalez, 1985): each next one is the pattern furthest from all before, so that no
	// part of normal operation is far from a centre.
	n := min(randomCentres, rows)
	nearest := make([]float64, rows)
	for i := range nearest {
		nearest[i] = math.Inf(1)
	}
	chosen, next := make([]int, 0, n), rng.IntN(rows)
	for len(chosen) < n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		chosen = append(chosen, next)
		of := features[next*randomFeatures : (next+1)*randomFeatures]
		for i := range rows {
			d := 0.0
			for k, v := range features[i*randomFeatures : (i+1)*randomFeatures] {
				d += float64(v-of[k]) * float64(v-of[k])
			}
			if nearest[i] = min(nearest[i], d); nearest[i] > nearest[next] {
				next = i
			}
		}
		if nearest[next] == 0 {
			break // the data has no more different patterns
		}
	}
	r.centres, r.half = make([]float32, randomFeatures*len(chosen)), make([]float32, len(chosen))
	for j, row := range chosen {
		for k, v := range features[row*randomFeatures : (row+1)*randomFeatures] {
			r.centres[k*len(chosen)+j] = v
			r.half[j] += v * v / 2
		}
	}
	card["features"], card["centres"], card["radius"] = randomFeatures, len(chosen), math.Sqrt(nearest[next])
	return r, nil
}

// features writes the random features of one pattern.
func (r *randomNeighbour) features(pattern, into []float32) {
	n := len(pattern)
	for k := range into {
		sum := r.b[k]
		for i, v := range r.w[k*n : (k+1)*n] {
			sum += v * pattern[i]
		}
		into[k] = max(sum, 0)
	}
}

func (r *randomNeighbour) weights() []float64 { return []float64{1} }

func (r *randomNeighbour) emit(b *onnx.Builder, z string) ([]string, string) {
	h, centres := r.head, int64(len(r.half))
	f := b.Node("Conv", []string{z,
		b.Floats(h.prefix+"directions", r.w, randomFeatures, int64(h.channels), int64(h.pattern)), b.Floats(h.prefix+"cuts", r.b, randomFeatures)})
	f = b.Node("Transpose", []string{b.Node("Relu", []string{f})}, onnx.Ints("perm", 0, 2, 1)) // [batch, smooth, features]
	// |f - c|² = |f|² - 2 (f·c - |c|²/2)
	near := b.Node("Sub", []string{b.Node("MatMul", []string{f, b.Floats(h.prefix+"centres", r.centres, randomFeatures, centres)}), b.Floats(h.prefix+"half", r.half, centres)})
	near = b.Node("ReduceMax", []string{near}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	length := b.Node("ReduceSum", []string{b.Node("Mul", []string{f, f}), b.Ints(2)}, onnx.Int("keepdims", 0))
	d := b.Node("Sub", []string{length, b.Node("Mul", []string{near, b.Scalar(2)})}) // [batch, smooth]
	d = b.Node("Max", []string{d, b.Scalar(0)})
	q := b.Node("ReduceMean", []string{d}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0))
	// Relu and Max may swallow what is not a number.
	q = b.Node("Add", []string{q, b.Node("ReduceSum", []string{b.Node("Mul", []string{z, b.Scalar(0)}), b.Ints(1, 2)}, onnx.Int("keepdims", 0))})
	// A distance in random features has no parts by channel: each gets its share by how far it is from its mean.
	own := b.Node("ReduceMean", []string{b.Node("Mul", []string{z, z})}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	all := b.Node("Add", []string{b.Node("ReduceSum", []string{own, b.Ints(1)}, onnx.Int("keepdims", 1)), b.Scalar(1e-9)})
	share := b.Node("Div", []string{own, all})
	return []string{q}, b.Node("Mul", []string{share, b.Node("Unsqueeze", []string{q, b.Ints(1)})})
}
