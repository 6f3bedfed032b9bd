package pipeline

import (
	"math/rand/v2"
	"testing"

	"github.com/swellfleet/swell/models/contract"
)

func TestDriftIsToldFromScoresThatAreLikeThoseOfTheCalibration(t *testing.T) {
	var deciles []float64
	for i := 1; i <= contract.Deciles; i++ {
		deciles = append(deciles, float64(i)/10)
	}
	for name, tc := range map[string]struct {
		n        int
		score    func(*rand.Rand) float64
		deciles  []float64
		none     bool
		low, top float64
	}{
		"alike":                   {1000, (*rand.Rand).Float64, deciles, false, 0, 0.05},
		"a little higher":         {1000, func(r *rand.Rand) float64 { return r.Float64()*0.9 + 0.1 }, deciles, false, 0.2, 1.5},
		"all in the highest bin":  {1000, func(*rand.Rand) float64 { return 7 }, deciles, false, 2, 10},
		"too few to tell":         {driftAfter - 1, (*rand.Rand).Float64, deciles, true, 0, 0},
		"a contract without them": {1000, (*rand.Rand).Float64, nil, true, 0, 0},
	} {
		var d drift
		rng := rand.New(rand.NewPCG(1, 2))
		for range tc.n {
			d.add(tc.deciles, tc.score(rng))
		}
		switch got := d.index(); {
		case (got == nil) != tc.none:
			t.Errorf("%s: %v", name, got)
		case got != nil && !(*got >= tc.low && *got <= tc.top):
			t.Errorf("%s: %.3f, want %g to %g", name, *got, tc.low, tc.top)
		}
	}
}
