package rollout

import (
	"cmp"
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
	stratify(labels, devices, lots, make([]lot, len(lots)))
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
// first label is spread evenly. room is as long as lots, and holds nothing
// afterwards.
func stratify(labels []string, devices []*Device, lots, room []lot) {
	if len(labels) == 0 || len(lots) < 2 {
		return
	}
	index := map[string]int32{}
	var names []string
	var sizes []int
	of := make([]int32, len(lots)) // the group of each
	for i, l := range lots {
		v := devices[l.slot].Labels[labels[0]]
		g, ok := index[v]
		if !ok {
			g = int32(len(names))
			index[v] = g
			names, sizes = append(names, v), append(sizes, 0)
		}
		of[i] = g
		sizes[g]++
	}
	if len(names) == 1 {
		stratify(labels[1:], devices, lots, room)
		return
	}
	slices.Sort(names)
	next := make([]int, len(names)) // by group: where its next one goes
	at := 0
	for _, name := range names {
		g := index[name]
		next[g] = at
		at += sizes[g]
	}
	for i, l := range lots {
		g := of[i]
		room[next[g]] = l
		next[g]++
	}
	for g, size := range sizes {
		from, to := next[g]-size, next[g]
		group := room[from:to]
		stratify(labels[1:], devices, group, lots[from:to])
		for i := range group {
			group[i].key = float64(i) / float64(size)
		}
	}
	copy(lots, room)
	slices.SortFunc(lots, func(a, b lot) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.number, b.number), cmp.Compare(a.slot, b.slot))
	})
}
