package fleet

import (
	"container/list"

	"github.com/swellfleet/swell/protocol/topic"
)

// feed keeps the devices in the order of their newest change, so that what has
// changed since a mark costs what has changed. A device is in it once, however
// often it changed: the feed is as long as the fleet and never runs over.
type feed struct {
	mark  uint64    // of the newest change; rises with each
	order list.List // of *lastChange, newest first
	byID  map[topic.ID]*list.Element
}

type lastChange struct {
	id   topic.ID
	mark uint64
}

func (f *feed) note(id topic.ID) {
	f.mark++
	if e := f.byID[id]; e != nil {
		e.Value.(*lastChange).mark = f.mark
		f.order.MoveToFront(e)
		return
	}
	if f.byID == nil {
		f.byID = map[topic.ID]*list.Element{}
	}
	f.byID[id] = f.order.PushFront(&lastChange{id, f.mark})
}

// Since returns every device that has changed since mark was given, retired
// ones too, the newest change first, and the mark to ask with next. Mark 0, and
// a mark of another process, are answered with ok false: the caller reads All
// again, and then goes on from next.
func (r *Registry) Since(mark uint64) (changed []*Device, next uint64, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if mark == 0 || mark > r.changes.mark {
		return nil, r.changes.mark, false
	}
	for e := r.changes.order.Front(); e != nil; e = e.Next() {
		c := e.Value.(*lastChange)
		if c.mark <= mark {
			break
		}
		changed = append(changed, r.byID[c.id])
	}
	return changed, r.changes.mark, true
}
