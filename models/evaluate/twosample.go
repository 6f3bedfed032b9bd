package evaluate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/swellfleet/swell/models/zoo"
)

// The features of a block of rows that the two-sample test compares.
var blockFeatures = [3]string{"level", "spread", "step"}

const (
	maxBlocks    = 256 // of a profile, over all devices
	minBlockRows = 16
	minBlocks    = 12  // on either side: fewer show nothing
	blocksKept   = 4   // neighbouring blocks of a device that stay together when shuffled
	permutations = 199 // the smallest p-value is one in 200
)

// blocks are what a profile keeps of the order of its rows: for each block of
// so many consecutive rows of a device the level (mean), spread (standard
// deviation) and step (mean absolute difference of neighbours) of a channel.
type blocks [][3]float32

// cutBlocks describes one channel of d by blocks of rows; the runs say which
// blocks follow each other on one device.
func cutBlocks(d zoo.Dataset, ch, rows int) (out blocks, runs []int) {
	run := 0
	for _, s := range d.Series {
		values := s.Values[ch]
		for i := 0; i+rows <= len(values); i += rows {
			if i/rows%blocksKept == 0 {
				run++
			}
			out, runs = append(out, blockOf(values[i:i+rows])), append(runs, run)
		}
		run++
	}
	return out, runs
}

func blockOf(v []float32) [3]float32 {
	var sum, squares, steps float64
	for i, x := range v {
		sum += float64(x)
		if i > 0 {
			steps += math.Abs(float64(x) - float64(v[i-1]))
		}
	}
	n := float64(len(v))
	mean := sum / n
	for _, x := range v {
		squares += (float64(x) - mean) * (float64(x) - mean)
	}
	return [3]float32{short(mean), short(math.Sqrt(squares / n)), short(steps / max(n-1, 1))}
}

// short keeps five digits: more say nothing and fill the registry.
func short(x float64) float32 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return float32(x)
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(x)))-4)
	return float32(math.Round(x/unit) * unit)
}

// Distance is how differently one feature of a channel is distributed in two snapshots.
type Distance struct {
	Channel string  `json:"channel"`
	Feature string  `json:"feature"` // "level", "spread" or "step" of blocks of rows
	D       float64 `json:"d"`       // Kolmogorov-Smirnov distance, 0 to 1
	P       float64 `json:"p"`       // of a distance as large anywhere, were the snapshots alike
}

// TwoSample compares d with an earlier snapshot's profile by the Kolmogorov-Smirnov distance of every feature of
// every channel, the farthest first. Its p-values come from shuffling runs of neighbouring blocks between the
// snapshots and are corrected for the number of features by the largest distance of each shuffle (Westfall and
// Young, Resampling-Based Multiple Testing, 1993). It assumes that blocks further apart than a run say something
// new. Without enough blocks on both sides, or with a profile that keeps none, the answer is nil.
func (p Profile) TwoSample(d zoo.Dataset, seed uint64) ([]Distance, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("compare snapshot with profile: %w", err)
	}
	if len(d.Channels) != len(p.Channels) {
		return nil, fmt.Errorf("compare snapshot with profile: %d channels, the profile has %d", len(d.Channels), len(p.Channels))
	}
	if p.BlockRows < 1 {
		return nil, nil
	}
	var out []Distance
	var orders [][]int // of each feature: all blocks, ascending
	var values [][]float32
	var group []int // of each block; the profile's first
	before := len(p.Runs)
	for ch, old := range p.Channels {
		now, runs := cutBlocks(d, ch, p.BlockRows)
		if len(old.Blocks) != before || before < minBlocks || len(now) < minBlocks {
			return nil, nil
		}
		if group == nil {
			group = slices.Clone(p.Runs)
			offset := slices.Max(group) + 1
			for _, r := range runs {
				group = append(group, r+offset)
			}
		}
		for f, name := range blockFeatures {
			var v []float32
			for _, b := range old.Blocks {
				v = append(v, b[f])
			}
			for _, b := range now {
				v = append(v, b[f])
			}
			order := make([]int, len(v))
			for i := range order {
				order[i] = i
			}
			slices.SortStableFunc(order, func(a, b int) int {
				switch {
				case v[a] < v[b]:
					return -1
				case v[a] > v[b]:
					return 1
				}
				return 0
			})
			out = append(out, Distance{Channel: old.Name, Feature: name})
			orders, values = append(orders, order), append(values, v)
		}
	}
	isOld := make([]bool, len(group))
	for i := range before {
		isOld[i] = true
	}
	for f := range out {
		out[f].D = ksDistance(orders[f], values[f], isOld)
	}
	exceeded := make([]int, len(out))
	groups := slices.Compact(slices.Clone(group))
	share := float64(before) / float64(len(group))
	rng := rand.New(rand.NewPCG(seed, 0x25a))
	side := map[int]bool{}
	for range permutations {
		rng.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
		for i, g := range groups {
			side[g] = float64(i) < share*float64(len(groups))
		}
		for i, g := range group {
			isOld[i] = side[g]
		}
		largest := 0.0
		for f := range out {
			largest = max(largest, ksDistance(orders[f], values[f], isOld))
		}
		for f := range out {
			if largest >= out[f].D {
				exceeded[f]++
			}
		}
	}
	for f := range out {
		out[f].P = float64(exceeded[f]+1) / (permutations + 1)
	}
	slices.SortStableFunc(out, func(a, b Distance) int {
		switch {
		case a.D > b.D:
			return -1
		case a.D < b.D:
			return 1
		}
		return 0
	})
	return out, nil
}

// ksDistance is the largest difference between the distribution functions of
// the two sides of v, which order sorts.
func ksDistance(order []int, v []float32, isOld []bool) float64 {
	n := 0
	for _, old := range isOld {
		if old {
			n++
		}
	}
	m := len(isOld) - n
	if n == 0 || m == 0 {
		return 0
	}
	a, b, largest := 0, 0, 0.0
	for i, k := range order {
		if isOld[k] {
			a++
		} else {
			b++
		}
		if i+1 < len(order) && v[order[i+1]] == v[k] {
			continue // equal values are passed together
		}
		largest = max(largest, math.Abs(float64(a)/float64(n)-float64(b)/float64(m)))
	}
	return largest
}
