package rollout

import (
	"cmp"
	"slices"
	"strings"
)

// mix is the keyed randomness of the planner: the same seed and words always
// give the same number (FNV-1a with the finalizer of SplitMix64).
func mix(seed uint64, words ...string) uint64 {
	h := seed ^ 0xcbf29ce484222325
	for _, w := range words {
		for i := range len(w) {
			h = (h ^ uint64(w[i])) * 0x100000001b3
		}
		h = (h ^ 0xff) * 0x100000001b3
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// order puts devices into the order in which waves draw them: every stratum
// (combination of the labels) gives one before any gives a second, then each
// gives in proportion to its size; within a stratum and between equals the
// seed decides. The first n of it are a stratified sample for every n.
func order(seed uint64, stratify []string, ds []*Device) []*Device {
	type place struct {
		d       *Device
		stratum string
		key     float64 // rank in its stratum over the stratum's size
		draw    uint64
	}
	places := make([]place, 0, len(ds))
	size := map[string]int{}
	for _, d := range ds {
		var b strings.Builder
		for _, l := range stratify {
			b.WriteString(d.Labels[l])
			b.WriteByte(0)
		}
		p := place{d: d, stratum: b.String(), draw: mix(seed, d.ID.Site, d.ID.Node)}
		size[p.stratum]++
		places = append(places, p)
	}
	byDraw := func(a, b place) int {
		return cmp.Or(cmp.Compare(a.draw, b.draw), strings.Compare(a.d.ID.Site, b.d.ID.Site), strings.Compare(a.d.ID.Node, b.d.ID.Node))
	}
	slices.SortFunc(places, byDraw)
	rank := map[string]int{}
	for i := range places {
		p := &places[i]
		p.key = float64(rank[p.stratum]) / float64(size[p.stratum])
		rank[p.stratum]++
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.key, b.key), byDraw(a, b))
	})
	out := make([]*Device, len(places))
	for i, p := range places {
		out[i] = p.d
	}
	return out
}
