package million

// slots is how many windows a wheel sees ahead. What lies further is put into
// the last one and looked at again then.
const slots = 4096

// wheel is a timing wheel: a slot for each window to come, and in it the
// devices that have something to do then, linked through links. The links lie
// by themselves, so that a slot can be walked without waiting for its devices.
type wheel struct {
	heads [slots]int32
	links []link
	now   int // the window that was taken last; -1 at first
}

type link struct {
	next, prev int32 // device, local index; -1: none
	slot       int32
}

func newWheel(devices int) wheel {
	w := wheel{links: make([]link, devices), now: -1}
	for i := range w.heads {
		w.heads[i] = -1
	}
	return w
}

// put links device i, which is in no slot, into window at.
func (w *wheel) put(i int32, at int) {
	slot := int32(max(min(at, w.now+slots-1), w.now+1) % slots)
	next := w.heads[slot]
	w.links[i] = link{next, -1, slot}
	if next >= 0 {
		w.links[next].prev = i
	}
	w.heads[slot] = i
}

// remove unlinks device i.
func (w *wheel) remove(i int32) {
	l := w.links[i]
	if l.prev >= 0 {
		w.links[l.prev].next = l.next
	} else {
		w.heads[l.slot] = l.next
	}
	if l.next >= 0 {
		w.links[l.next].prev = l.prev
	}
}

// take returns the first device of window at, the one after the window taken
// last; the others follow by links[i].next. -1: none.
func (w *wheel) take(at int) int32 {
	w.now = at
	i := w.heads[at%slots]
	w.heads[at%slots] = -1
	return i
}
