package rollout

// moments is a heap of the moments at which something about a device ends. One
// that is put off stays where it was until it comes up.
type moments struct {
	heap []int32 // slots, the earliest first
	key  []int64 // by slot: the moment it is sorted by
	at   []int32 // by slot: 1 + its place in heap; 0: not in it
}

func (m *moments) less(a, b int32) bool {
	x, y := m.heap[a], m.heap[b]
	return m.key[x] < m.key[y]
}

func (m *moments) swap(a, b int32) {
	m.heap[a], m.heap[b] = m.heap[b], m.heap[a]
	m.at[m.heap[a]], m.at[m.heap[b]] = a+1, b+1
}

func (m *moments) up(i int32) {
	for i > 0 {
		p := (i - 1) / 2
		if !m.less(i, p) {
			return
		}
		m.swap(i, p)
		i = p
	}
}

func (m *moments) down(i int32) {
	for n := int32(len(m.heap)); ; {
		c := 2*i + 1
		if c >= n {
			return
		}
		if c+1 < n && m.less(c+1, c) {
			c++
		}
		if !m.less(c, i) {
			return
		}
		m.swap(i, c)
		i = c
	}
}

// grow makes room for n slots.
func (m *moments) grow(n int) {
	for len(m.key) < n {
		m.key, m.at = append(m.key, never), append(m.at, 0)
	}
}

// all begins anew with the moments of all slots.
func (m *moments) all(status []status) {
	m.heap = m.heap[:0]
	if cap(m.heap) == 0 {
		m.heap = make([]int32, 0, len(status))
	}
	for i := range status {
		m.at[i] = 0
		if t := status[i].until; t != never {
			m.key[i] = t
			m.heap = append(m.heap, int32(i))
			m.at[i] = int32(len(m.heap))
		}
	}
	for i := int32(len(m.heap))/2 - 1; i >= 0; i-- {
		m.down(i)
	}
}

// set says that what holds of a slot ends at t.
func (m *moments) set(slot int32, t int64) {
	switch {
	case m.at[slot] == 0 && t == never:
	case m.at[slot] == 0:
		m.key[slot] = t
		m.heap = append(m.heap, slot)
		m.at[slot] = int32(len(m.heap))
		m.up(int32(len(m.heap)) - 1)
	case t < m.key[slot]:
		m.key[slot] = t
		m.up(m.at[slot] - 1)
	}
}

// first returns the slot whose moment is the earliest, and false when there is
// none. until tells the moment of a slot that was put off.
func (m *moments) first(until func(slot int32) int64) (slot int32, ok bool) {
	for len(m.heap) > 0 {
		slot = m.heap[0]
		t := until(slot)
		switch {
		case t == m.key[slot]:
			return slot, true
		case t == never:
			last := int32(len(m.heap)) - 1
			m.swap(0, last)
			m.heap = m.heap[:last]
			m.at[slot] = 0
		default:
			m.key[slot] = t
		}
		m.down(0)
	}
	return 0, false
}

// line is a heap of slots sorted by device, in which slots that have left may
// linger: whoever takes from it asks.
type line struct{ slots []int32 }

func (l *line) push(slot int32, before func(a, b int32) bool) {
	l.slots = append(l.slots, slot)
	for i := len(l.slots) - 1; i > 0; {
		p := (i - 1) / 2
		if !before(l.slots[i], l.slots[p]) {
			return
		}
		l.slots[i], l.slots[p] = l.slots[p], l.slots[i]
		i = p
	}
}

func (l *line) pop(before func(a, b int32) bool) int32 {
	top, n := l.slots[0], len(l.slots)-1
	l.slots[0] = l.slots[n]
	l.slots = l.slots[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && before(l.slots[c+1], l.slots[c]) {
			c++
		}
		if !before(l.slots[c], l.slots[i]) {
			break
		}
		l.slots[i], l.slots[c] = l.slots[c], l.slots[i]
		i = c
	}
	return top
}

// index finds the slot of a device: open addressing over a power of two.
type index struct {
	slots []int32 // 1 + slot; 0: free
	n     int
}

// find returns the place of the slot for which same holds, or the free place
// where it belongs.
func (x *index) find(hash uint64, same func(slot int32) bool) (place int, slot int32, ok bool) {
	if len(x.slots) == 0 {
		return 0, 0, false
	}
	mask := len(x.slots) - 1
	for place = int(hash) & mask; x.slots[place] != 0; place = (place + 1) & mask {
		if s := x.slots[place] - 1; same(s) {
			return place, s, true
		}
	}
	return place, 0, false
}

// add puts in a slot that is not there.
func (x *index) add(slot int32, hash func(slot int32) uint64) {
	if 2*(x.n+1) > len(x.slots) {
		old := x.slots
		x.slots = make([]int32, max(2*len(old), 16))
		for _, s := range old {
			if s != 0 {
				x.place(s-1, hash)
			}
		}
	}
	x.place(slot, hash)
	x.n++
}

func (x *index) place(slot int32, hash func(slot int32) uint64) {
	mask := len(x.slots) - 1
	p := int(hash(slot)) & mask
	for x.slots[p] != 0 {
		p = (p + 1) & mask
	}
	x.slots[p] = slot + 1
}

// remove frees a place and closes the gap behind it.
func (x *index) remove(place int, hash func(slot int32) uint64) {
	mask := len(x.slots) - 1
	x.slots[place] = 0
	x.n--
	for p := (place + 1) & mask; x.slots[p] != 0; p = (p + 1) & mask {
		s := x.slots[p] - 1
		x.slots[p] = 0
		x.place(s, hash)
	}
}
