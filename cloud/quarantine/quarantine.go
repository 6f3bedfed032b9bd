// Package quarantine keeps messages of devices that nobody could read, for
// people to look at.
//
// The parties are the services that take messages in, each with a folder of its
// own, and whoever wants to know what a sick device sends. It promises that a
// folder stays within its bound, over restarts too, and that the newest
// messages are the ones kept. cloud packages may import it.
package quarantine

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// Folder keeps the newest unreadable payloads, up to a bound. Make it with Open.
type Folder struct {
	dir   string // empty keeps nothing
	kind  string // how names end
	bound int64

	mu    sync.Mutex
	files []kept // oldest first
	bytes int64
	last  int64 // nanoseconds in the newest name: names must not collide
}

type kept struct {
	name string
	size int64
}

// Open takes over a folder, which it makes if need be: bound bytes of messages
// in files whose names end in kind, as .block. An empty dir keeps nothing.
func Open(dir, kind string, bound int64) (*Folder, error) {
	q := &Folder{dir: dir, kind: kind, bound: bound}
	if dir == "" {
		return q, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make quarantine folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read quarantine folder: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			q.files = append(q.files, kept{e.Name(), info.Size()})
			q.bytes += info.Size()
		}
	}
	slices.SortFunc(q.files, func(a, b kept) int { return cmp.Compare(a.name, b.name) })
	return q, nil
}

// Keep writes a payload and returns the name of its file, empty when none was
// written. The oldest files give way.
func (q *Folder) Keep(id topic.ID, payload []byte) (string, error) {
	if q.dir == "" || int64(len(payload)) > q.bound {
		return "", nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.files) > 0 && q.bytes+int64(len(payload)) > q.bound {
		if err := os.Remove(filepath.Join(q.dir, q.files[0].name)); err != nil && !os.IsNotExist(err) {
			return "", err
		}
		q.bytes -= q.files[0].size
		q.files = q.files[1:]
	}
	q.last = max(q.last+1, time.Now().UnixNano())
	name := fmt.Sprintf("%019d_%s_%s%s", q.last, id.Site, id.Node, q.kind)
	if err := os.WriteFile(filepath.Join(q.dir, name), payload, 0o600); err != nil {
		return "", err
	}
	q.files = append(q.files, kept{name, int64(len(payload))})
	q.bytes += int64(len(payload))
	return name, nil
}
