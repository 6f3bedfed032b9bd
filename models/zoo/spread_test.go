package zoo

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Each row that is chosen is the furthest from those before, wherever it stands; only equal rows end the search early.
func TestChosenRowsAreTheFurthest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	rows := make([][]float32, 200)
	for i := range rows {
		rows[i] = []float32{float32(rng.NormFloat64()), float32(rng.NormFloat64())}
	}
	rows[199] = []float32{50, 50} // chosen first or second, and last in the list
	away := func(i int, from []int) float64 {
		least := 1e9
		for _, j := range from {
			a, b := float64(rows[i][0]-rows[j][0]), float64(rows[i][1]-rows[j][1])
			least = min(least, a*a+b*b)
		}
		return least
	}
	for seed := range uint64(20) {
		chosen, radius, err := spread(t.Context(), rows, 60, rand.New(rand.NewPCG(seed, 2)))
		if err != nil || len(chosen) != 60 || !slices.Contains(chosen, 199) {
			t.Fatalf("seed %d: %d rows of 60 were chosen (%v)", seed, len(chosen), err)
		}
		for n := 1; n < len(chosen); n++ {
			for i := range rows {
				if away(i, chosen[:n]) > away(chosen[n], chosen[:n])+1e-9 {
					t.Fatalf("seed %d: row %d is further than the chosen %d", seed, i, chosen[n])
				}
			}
		}
		for i := range rows {
			if d := away(i, chosen); d > radius*radius+1e-6 {
				t.Fatalf("seed %d: row %d is %g away, the radius is %g", seed, i, d, radius)
			}
		}
	}
	same := [][]float32{{1}, {1}, {2}}
	if chosen, _, err := spread(t.Context(), same, 3, rng); err != nil || len(chosen) != 2 {
		t.Errorf("of equal rows %v were chosen, %v", chosen, err)
	}
}
