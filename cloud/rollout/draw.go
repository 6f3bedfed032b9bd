package rollout

import (
	"cmp"
	"maps"
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

// order puts devices into the order in which waves draw them. The first label
// divides them into groups; every group gives one before any gives a second,
// then each gives in proportion to its size, and within a group the next label
// does the same. Between equals the seed decides. So the first n are a
// stratified sample for every n.
func order(seed uint64, labels []string, ds []*Device) []*Device {
	type place struct {
		d    *Device
		key  float64 // rank in its group over the group's size
		draw uint64
	}
	places := make([]place, 0, len(ds))
	put := func(group []*Device) {
		for i, d := range group {
			places = append(places, place{d, float64(i) / float64(len(group)), mix(seed, d.ID.Site, d.ID.Node)})
		}
	}
	if len(labels) == 0 {
		for _, d := range ds {
			put([]*Device{d})
		}
	} else {
		groups := map[string][]*Device{}
		for _, d := range ds {
			groups[d.Labels[labels[0]]] = append(groups[d.Labels[labels[0]]], d)
		}
		for _, name := range slices.Sorted(maps.Keys(groups)) {
			put(order(seed, labels[1:], groups[name]))
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.draw, b.draw),
			strings.Compare(a.d.ID.Site, b.d.ID.Site), strings.Compare(a.d.ID.Node, b.d.ID.Node))
	})
	out := make([]*Device, len(places))
	for i, p := range places {
		out[i] = p.d
	}
	return out
}
