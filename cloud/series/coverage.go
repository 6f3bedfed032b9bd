package series

import "slices"

// Coverage says which rows of one stream, of one installation of a device's
// spool, are held.
type Coverage struct {
	Stream string
	Boot   uint64
	Rows   Ranges
}

// Range is a run of numbers: First up to but not including End.
type Range struct{ First, End uint64 }

// Ranges are runs in rising order that neither touch nor overlap.
type Ranges []Range

// MaxRanges bounds a Ranges that Add has returned. Beyond it the oldest hole is
// forgotten: for rows it is no longer reported, for sequence numbers what was
// below it counts as not seen, which costs a second look and never data.
const MaxRanges = 1024

// Contains reports whether n is in one of the runs.
func (r Ranges) Contains(n uint64) bool {
	_, found := slices.BinarySearchFunc(r, n, func(x Range, n uint64) int {
		switch {
		case x.End <= n:
			return -1
		case x.First > n:
			return 1
		}
		return 0
	})
	return found
}

// Add returns r with first up to end (not included) in it. It may change r.
func (r Ranges) Add(first, end uint64) Ranges {
	if first >= end {
		return r
	}
	if n := len(r); n > 0 && r[n-1].End == first { // the usual case
		r[n-1].End = end
		return r
	}
	// lo is the first run that ends at or after first, hi the one after the
	// last run that begins at or before end: those between become one.
	lo, _ := slices.BinarySearchFunc(r, first, func(x Range, n uint64) int {
		if x.End < n {
			return -1
		}
		return 1
	})
	hi := lo
	for hi < len(r) && r[hi].First <= end {
		first, end = min(first, r[hi].First), max(end, r[hi].End)
		hi++
	}
	r = slices.Replace(r, lo, hi, Range{first, end})
	if len(r) > MaxRanges {
		r = slices.Delete(r, 0, 1)
	}
	return r
}

// Holes returns what is missing between the runs.
func (r Ranges) Holes() []Range {
	var out []Range
	for i := 1; i < len(r); i++ {
		out = append(out, Range{r[i-1].End, r[i].First})
	}
	return out
}
