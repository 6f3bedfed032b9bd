package rollout

import (
	"cmp"
	"maps"
	"slices"
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

// draw puts slots of devices into the order in which waves draw them. The first
// label divides the devices into groups; every group gives one before any gives
// a second, then each gives in proportion to its size, and within a group the
// next label does the same. Between equals the seed decides. So the first n are
// a stratified sample for every n.
func draw(seed uint64, labels []string, devices []*Device, slots []int32) []int32 {
	lots := make([]lot, len(slots))
	for i, s := range slots {
		d := devices[s]
		lots[i] = lot{slot: s, number: mix(seed, d.ID.Site, d.ID.Node)}
	}
	// Between equal numbers the order of the devices decides, in which they come.
	slices.SortStableFunc(lots, func(a, b lot) int { return cmp.Compare(a.number, b.number) })
	stratify(labels, devices, lots)
	out := make([]int32, len(lots))
	for i, l := range lots {
		out[i] = l.slot
	}
	return out
}

// lot is one device's place in a draw.
type lot struct {
	slot   int32
	number uint64  // by the seed
	key    float64 // rank in its group over the group's size
}

// stratify sorts lots, which come by their numbers, so that every group of the
// first label is spread evenly.
func stratify(labels []string, devices []*Device, lots []lot) {
	if len(labels) == 0 || len(lots) < 2 {
		return
	}
	groups := map[string][]lot{}
	for _, l := range lots {
		v := devices[l.slot].Labels[labels[0]]
		groups[v] = append(groups[v], l)
	}
	if len(groups) == 1 {
		stratify(labels[1:], devices, lots)
		return
	}
	at := 0
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		group := groups[name]
		stratify(labels[1:], devices, group)
		for i := range group {
			group[i].key = float64(i) / float64(len(group))
		}
		at += copy(lots[at:], group)
	}
	slices.SortFunc(lots, func(a, b lot) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.number, b.number), cmp.Compare(a.slot, b.slot))
	})
}
