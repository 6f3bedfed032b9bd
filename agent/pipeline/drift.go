package pipeline

import (
	"math"
	"slices"

	"github.com/swellfleet/swell/models/contract"
)

// drift counts a model's scores by the deciles of its calibration. The zero
// value is empty.
type drift struct {
	n    uint64
	bins [contract.Deciles + 1]uint64
}

const (
	// driftAfter is how many scores a population stability index needs: of so
	// many alike ones it is about 0.03 by chance.
	driftAfter = 300
	// leastShare stands for the share of an empty bin, which would make the
	// index infinite.
	leastShare = 1e-4
)

// add counts a finite score. Without deciles it counts nothing.
func (d *drift) add(deciles []float64, score float64) {
	if len(deciles) != contract.Deciles {
		return
	}
	i, _ := slices.BinarySearch(deciles, score)
	d.bins[i]++
	d.n++
}

// index is the population stability index of the scores against their
// calibration; nil while there are too few.
func (d *drift) index() *float64 {
	if d.n < driftAfter {
		return nil
	}
	const share = 1.0 / (contract.Deciles + 1)
	psi := 0.0
	for _, n := range d.bins {
		a := max(float64(n)/float64(d.n), leastShare)
		psi += (a - share) * math.Log(a/share)
	}
	return &psi
}
