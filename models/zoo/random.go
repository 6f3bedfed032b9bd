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
	features := make([][]float32, (m.rows+thin-1)/thin)
	for i := range features {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		features[i] = make([]float32, randomFeatures)
		r.features(m.data[i*thin*m.cols:(i*thin+1)*m.cols], features[i])
	}
	chosen, radius, err := spread(ctx, features, randomCentres, rng)
	if err != nil {
		return nil, err
	}
	r.centres, r.half = memoryOf(features, chosen)
	card["features"], card["centres"], card["radius"] = randomFeatures, len(chosen), radius
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
	d := nearest(b, f, h.prefix, randomFeatures, centres, r.centres, r.half)
	q := b.Node("ReduceMean", []string{d}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0))
	return h.blame(b, z, q)
}

// spread chooses up to n of rows, each next one the furthest from all before (Gonzalez, 1985), so that no row is
// far from a chosen one. radius is how far the furthest is.
func spread(ctx context.Context, rows [][]float32, n int, rng *rand.Rand) (chosen []int, radius float64, err error) {
	nearest := make([]float64, len(rows))
	for i := range nearest {
		nearest[i] = math.Inf(1)
	}
	next := rng.IntN(len(rows))
	for len(chosen) < n {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		chosen = append(chosen, next)
		of, furthest := rows[next], 0 // of nearest as it is behind this row
		for i, row := range rows {
			d := 0.0
			for k, v := range row {
				d += float64(v-of[k]) * float64(v-of[k])
			}
			if nearest[i] = min(nearest[i], d); nearest[i] > nearest[furthest] {
				furthest = i
			}
		}
		next = furthest
		if nearest[next] == 0 {
			break // there are no more different rows
		}
	}
	return chosen, math.Sqrt(nearest[next]), nil
}

// memoryOf lays the chosen rows out for nearest: centres [length, chosen], and half the squared length of each.
func memoryOf(rows [][]float32, chosen []int) (centres, half []float32) {
	centres, half = make([]float32, len(rows[0])*len(chosen)), make([]float32, len(chosen))
	for j, row := range chosen {
		for k, v := range rows[row] {
			centres[k*len(chosen)+j] = v
			half[j] += v * v / 2
		}
	}
	return centres, half
}

// nearest emits the squared distance of each row of f [batch, rows, length] to its nearest centre: [batch, rows].
func nearest(b *onnx.Builder, f, prefix string, length, n int64, centres, half []float32) string {
	// |f - c|² = |f|² - 2 (f·c - |c|²/2)
	near := b.Node("MatMul", []string{f, b.Floats(prefix+"centres", centres, length, n)})
	near = b.Node("Sub", []string{near, b.Floats(prefix+"half", half, n)})
	near = b.Node("ReduceMax", []string{near}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	squares := b.Node("ReduceSum", []string{b.Node("Mul", []string{f, f}), b.Ints(2)}, onnx.Int("keepdims", 0))
	d := b.Node("Sub", []string{squares, b.Node("Mul", []string{near, b.Scalar(2)})})
	return b.Node("Max", []string{d, b.Scalar(0)})
}
