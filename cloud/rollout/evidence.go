package rollout

import (
	"cmp"
	"math"
	"slices"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Evidence is what one device's shadow has shown about one release. It is made
// of integers that add up over devices in any order, and does not depend on
// the policy, so that a decision can be replayed under another one.
type Evidence struct {
	Manifest artifact.Digest `json:"manifest,omitempty"` // of the challenger
	// Epoch names the run of the agent and the attempt that counted; Next is
	// the index of the first counting window of it not taken in yet.
	Epoch string `json:"epoch,omitempty"`
	Next  uint64 `json:"next,omitempty"`

	Windows uint64 `json:"windows,omitempty"` // counting windows with at least one item
	Items   uint64 `json:"items,omitempty"`   // windows both models scored
	A       uint64 `json:"a,omitempty"`       // of them flagged by the challenger alone
	B       uint64 `json:"b,omitempty"`       // of them flagged by the champion alone
	// Missed counts gaps: windows that were never reported. A gap clears what
	// came before it, so that evidence is always contiguous.
	Missed uint64 `json:"missed,omitempty"`
	// Bins count windows by score, sorted by Cell.
	Bins []Bin `json:"bins,omitempty"`
}

// Bin counts the counting windows whose score fell into one cell; see cellOf.
type Bin struct {
	Cell int16  `json:"c"`
	N    uint64 `json:"n"`
}

// steps is how many cells of equal width lie between a score of 0 and 1. 24
// has the divisors that small counts make, so that most scores fall on an edge.
const steps = 24

// empty is the cell of windows in which neither model alone flagged anything:
// no score, and not the score 0 of a tie.
const empty int16 = -2*steps - 2

// cellOf returns the cell of the score (a−b)/(a+b): even cells are the edges
// k/steps themselves, odd ones lie between two edges.
func cellOf(a, b uint32) int16 {
	if a+b == 0 {
		return empty
	}
	num, den := steps*(int64(a)-int64(b)), int64(a)+int64(b)
	q, rem := num/den, num%den
	if rem < 0 {
		q--
	}
	if rem == 0 {
		return int16(2 * q)
	}
	return int16(2*q + 1)
}

// low and high bound the scores of a cell.
func low(cell int16) float64  { return float64(cell>>1) / steps }
func high(cell int16) float64 { return float64((cell+1)>>1) / steps }

// add counts n windows in a cell; one that is left without any goes.
func (e *Evidence) add(cell int16, n uint64) {
	i, ok := slices.BinarySearchFunc(e.Bins, cell, func(b Bin, c int16) int { return cmp.Compare(b.Cell, c) })
	if !ok {
		e.Bins = slices.Insert(e.Bins, i, Bin{Cell: cell})
	}
	if e.Bins[i].N += n; e.Bins[i].N == 0 {
		e.Bins = slices.Delete(e.Bins, i, i+1)
	}
}

// merge adds (sign 1) or takes away (sign -1) what another device has shown.
func (e *Evidence) merge(o *Evidence, sign int) {
	n := uint64(sign) // wraps round for -1, as the sums do
	e.Windows += n * o.Windows
	e.Items += n * o.Items
	e.A += n * o.A
	e.B += n * o.B
	e.Missed += n * o.Missed
	for _, b := range o.Bins {
		e.add(b.Cell, n*b.N)
	}
}

// Count adds one counting window of a device. One without items says nothing;
// false means that the counts cannot be, and nothing was added.
func (e *Evidence) Count(w twin.ShadowWindow) bool {
	if w.Items == 0 {
		return true
	}
	if uint64(w.OnlyChallenger)+uint64(w.OnlyChampion) > uint64(w.Items) {
		return false
	}
	e.Windows++
	e.Items += uint64(w.Items)
	e.A += uint64(w.OnlyChallenger)
	e.B += uint64(w.OnlyChampion)
	e.add(cellOf(w.OnlyChallenger, w.OnlyChampion), 1)
	return true
}

// take returns the evidence with the counting windows of a report added. The
// newest window counts once, however often it is reported.
func (e Evidence) take(manifest artifact.Digest, epoch string, s *twin.Shadow) Evidence {
	if e.Manifest != manifest {
		e = Evidence{Manifest: manifest}
	}
	if s == nil {
		return e
	}
	if e.Epoch != epoch {
		e.Epoch, e.Next = epoch, 0
	}
	e.Bins = slices.Clone(e.Bins)
	if s.Index > e.Next {
		e = Evidence{Manifest: manifest, Epoch: epoch, Next: s.Index, Missed: e.Missed + s.Index - e.Next}
	}
	for i, w := range s.Windows {
		if s.Index+uint64(i) < e.Next {
			continue
		}
		e.Next = s.Index + uint64(i) + 1
		if !e.Count(w) {
			e = Evidence{Manifest: manifest, Epoch: epoch, Next: e.Next, Missed: e.Missed + 1}
		}
	}
	return e
}

// bets are the shares of the largest possible stake that the e-processes play
// side by side. Each is a test martingale under its null hypothesis, and so is
// their mean; fixed stakes make the value independent of the order of windows.
var bets = [...]float64{1. / 32, 1. / 16, 1. / 8, 1. / 4, 1. / 2, 3. / 4, 15. / 16}

// eValues returns the e-values against two hypotheses about the mean score:
// harm against "at most m", safe against "at least m". Each may be compared
// with 1/α at any time and as often as one likes (Ville's inequality; betting
// after Waudby-Smith and Ramdas 2023).
//
// A window in which neither model alone flagged anything says nothing about
// the ratio of flags, so neither counts it; a tie is a score of 0, and both do.
// Scores inside a cell are taken at the edge that speaks against the e-value.
//
// Models that flag next to nothing would then never be shown to be safe. So
// safe is the mean of two e-values: against "the mean score is at least m", and
// against "the challenger's mean excess over all windows, empty ones too, is at
// least m", where the excess is the score above 0. What is worse than the
// margin and not rare is true to both hypotheses, so the mean stays an e-value.
func (e Evidence) eValues(m float64) (harm, safe float64) {
	var h [len(bets)]float64
	var s [2 * len(bets)]float64
	ratio, excess := s[:len(bets)], s[len(bets):]
	var none uint64 // windows without an excess
	for _, b := range e.Bins {
		if b.Cell <= 0 {
			none += b.N
		}
		if b.Cell == empty {
			continue
		}
		n, lo, hi := float64(b.N), low(b.Cell), high(b.Cell)
		for i, f := range bets {
			h[i] += n * math.Log(1+f/(1+m)*(lo-m))
			grown := n * math.Log(1+f/(1-m)*(m-hi))
			ratio[i] += grown
			if b.Cell > 0 {
				excess[i] += grown
			}
		}
	}
	for i, f := range bets {
		excess[i] += float64(none) * math.Log(1+f/(1-m)*m)
	}
	return kept(h[:]), kept(s[:])
}

// kept returns an e-value half of which was never staked. The gate asks two
// questions, and at the margin itself both answers are wrong: so each may be
// wrong with half of the error that the gate as a whole may make.
func kept(x []float64) float64 { return 0.5 + meanExp(x)/2 }

// meanExp returns the mean of exp(x), at most math.MaxFloat64.
func meanExp(x []float64) float64 {
	top := slices.Max(x)
	var sum float64
	for _, v := range x {
		sum += math.Exp(v - top)
	}
	return min(math.Exp(min(top, 700))*sum/float64(len(x)), math.MaxFloat64)
}
