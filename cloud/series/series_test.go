package series

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestRangesAreASetOfNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Ranges
		set := map[uint64]bool{}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			first := rapid.Uint64Range(0, 60).Draw(t, "first")
			end := first + rapid.Uint64Range(0, 6).Draw(t, "length")
			r = r.Add(first, end)
			for n := first; n < end; n++ {
				set[n] = true
			}
		}
		for n := range uint64(70) {
			if r.Contains(n) != set[n] {
				t.Fatalf("%v contains %d: %v, want %v", r, n, r.Contains(n), set[n])
			}
		}
		for i, x := range r {
			if x.First >= x.End || i > 0 && r[i-1].End >= x.First {
				t.Fatalf("%v touch or overlap", r)
			}
		}
		for _, hole := range r.Holes() {
			for n := hole.First; n < hole.End; n++ {
				if set[n] {
					t.Fatalf("%d is held but in a hole of %v", n, r)
				}
			}
		}
	})
}

func TestRangesForgetTheOldestHole(t *testing.T) {
	var r Ranges
	for i := range uint64(MaxRanges + 3) {
		r = r.Add(2*i, 2*i+1)
	}
	if len(r) != MaxRanges || r.Contains(0) || !r.Contains(6) {
		t.Errorf("%d runs from %d", len(r), r[0].First)
	}
}

func TestRollupsOfPartsAreTheRollupOfTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.IntRange(1, 200).Draw(t, "rows")
		whole := Batch{T0: rapid.Int64Range(-5e9, 5e9).Draw(t, "t0"), RateHz: rapid.Float64Range(1, 1000).Draw(t, "rate")}
		for range rows {
			whole.Offsets = append(whole.Offsets, rapid.Int64Range(0, 3e9).Draw(t, "offset"))
		}
		slices.Sort(whole.Offsets)
		values := rapid.SliceOfN(rapid.Float32Range(-9, 9), rows, rows).Draw(t, "values")
		whole.Columns = []Column{{Name: "x", Kind: Float32, Float32: values}}
		at := rapid.IntRange(0, rows).Draw(t, "cut")
		grid := BucketsOf(Query{From: -10e9, To: 10e9, MaxPoints: 20}, false)
		one, two := NewSum(grid), NewSum(grid)
		into := func(s *Sum, b Batch) {
			if b.Rows() == 0 {
				return
			}
			times, parts := Rollup(&b)
			for i, at := range times {
				s.Add(at, parts[i])
			}
		}
		into(one, whole)
		left, right := whole, whole
		left.Offsets, left.Columns = whole.Offsets[:at], []Column{{Kind: Float32, Float32: values[:at]}}
		right.Offsets, right.Columns = whole.Offsets[at:], []Column{{Kind: Float32, Float32: values[at:]}}
		into(two, right)
		into(two, left)
		a, b := one.Signal(), two.Signal()
		if !slices.Equal(a.Times, b.Times) || !slices.Equal(a.Count, b.Count) || !slices.Equal(a.Min, b.Min) || !slices.Equal(a.Max, b.Max) {
			t.Fatalf("whole %+v\nparts %+v", a, b)
		}
	})
}
