package zoo

import (
	"context"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/swellfleet/swell/models/onnx"
)

// principal is the PCA detector. The patterns of a window are taken out of it by convolution, so that one
// pass over the window gives the statistics of all of them.
type principal struct {
	head    *head
	plane   []float32 // [components, channels, pattern]: directions over their standard deviations
	planeB  []float32
	outside []float32 // [channels*pattern, channels, pattern]: projection onto what the plane leaves out
	outB    []float32
	weight  float64
}

// axes returns the mean of the rows of m, their principal axes as columns, and the variance along each, rising.
func (m matrix) axes() (mean, variance []float64, axes *mat.Dense, err error) {
	n := m.cols
	mean = make([]float64, n)
	for i, v := range m.data {
		mean[i%n] += float64(v) / float64(m.rows)
	}
	cov := mat.NewSymDense(n, nil)
	// Block by block, so that the work is done by matrix products.
	const block = 1024
	part := mat.NewSymDense(n, nil)
	for from := 0; from < m.rows; from += block {
		rows := min(block, m.rows-from)
		centred := mat.NewDense(rows, n, nil)
		for r := range rows {
			for i, v := range m.data[(from+r)*n : (from+r+1)*n] {
				centred.Set(r, i, float64(v)-mean[i])
			}
		}
		part.SymOuterK(1/float64(max(m.rows-1, 1)), centred.T())
		cov.AddSym(cov, part)
	}
	var eig mat.EigenSym
	if !eig.Factorize(cov, true) {
		return nil, nil, nil, fmt.Errorf("%w: its covariance has no eigenvectors", ErrData)
	}
	variance, axes = eig.Values(nil), &mat.Dense{}
	eig.VectorsTo(axes)
	total := 0.0
	for _, v := range variance {
		total += max(v, 0)
	}
	if total < 1e-12 {
		return nil, nil, nil, fmt.Errorf("%w: no channel moves", ErrData)
	}
	return mean, variance, axes, nil
}

func fitPCA(_ context.Context, m matrix, h *head, c Config, card map[string]any) (detector, error) {
	n := m.cols
	mean, lambda, v, err := m.axes()
	if err != nil {
		return nil, err
	}
	total := 0.0
	for _, l := range lambda {
		total += max(l, 0)
	}
	k, kept := 0, 0.0
	for kept < c.Variance*total && k < n-1 {
		k++
		kept += lambda[n-k]
	}
	p := &principal{head: h, weight: c.PlaneWeight, planeB: make([]float32, k), outB: make([]float32, n)}
	outside := mat.NewDense(n, n, nil)
	for i := range n {
		outside.Set(i, i, 1)
	}
	for j := range k {
		u := v.ColView(n - 1 - j)
		deviation, shift := math.Sqrt(lambda[n-1-j]), 0.0
		for i := range n {
			p.plane = append(p.plane, float32(u.AtVec(i)/deviation))
			shift -= u.AtVec(i) * mean[i] / deviation
		}
		p.planeB[j] = float32(shift)
		outside.RankOne(outside, -1, u, u)
	}
	for i := range n {
		shift := 0.0
		for j := range n {
			p.outside = append(p.outside, float32(outside.At(i, j)))
			shift -= outside.At(i, j) * mean[j]
		}
		p.outB[i] = float32(shift)
	}
	card["components"] = k
	card["varianceKept"] = kept / total
	return p, nil
}

func (p *principal) weights() []float64 { return []float64{p.weight, 1} }

func (p *principal) emit(b *onnx.Builder, z string) ([]string, string) {
	h, n := p.head, int64(len(p.outB))
	k := int64(len(p.planeB))
	a := b.Node("Conv", []string{z,
		b.Floats(h.prefix+"plane", p.plane, k, int64(h.channels), int64(h.pattern)), b.Floats(h.prefix+"plane_bias", p.planeB, k)})
	t2 := b.Node("ReduceSum", []string{b.Node("Mul", []string{a, a}), b.Ints(1)}, onnx.Int("keepdims", 0))
	t2 = b.Node("ReduceMean", []string{t2}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0))
	r := b.Node("Conv", []string{z,
		b.Floats(h.prefix+"outside", p.outside, n, int64(h.channels), int64(h.pattern)), b.Floats(h.prefix+"outside_bias", p.outB, n)})
	q, channels := h.residual(b, r)
	return []string{t2, q}, channels
}
