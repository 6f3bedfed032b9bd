package images

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path"
	"time"

	"github.com/swellfleet/swell/agent/disk"
)

// taken remembers which pictures were taken in, over restarts: 8 bytes each, a
// hash of name, size and time. It keeps those that still lie in the folder and
// as many newer ones as there may be files, and forgets the others.
//
// The file is a list of such hashes, little-endian, the oldest first. A torn
// one at its end is cut off.
type taken struct {
	disk disk.FS
	name string

	order   []uint64
	set     map[uint64]bool
	present map[uint64]bool // in the folder, as of the newest look
	file    disk.File
	synced  time.Time
}

// maxTaken is how many are kept at most.
const maxTaken = 2 * maxFiles

func openTaken(d disk.FS, name string) (*taken, error) {
	t := &taken{disk: d, name: name, set: map[uint64]bool{}, present: map[uint64]bool{}, synced: time.Now()}
	if err := d.MkdirAll(path.Dir(name)); err != nil {
		return nil, err
	}
	b, err := disk.ReadFile(d, name, 16*maxTaken)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for ; len(b) >= 8; b = b[8:] {
		t.insert(binary.LittleEndian.Uint64(b))
	}
	return t, t.rewrite()
}

func (f file) hash() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%d\x00%d", f.name, f.size, f.mtime)
	return h.Sum64()
}

func (t *taken) insert(h uint64) {
	if !t.set[h] {
		t.set[h] = true
		t.order = append(t.order, h)
	}
}

func (t *taken) has(f file) bool { return t.set[f.hash()] }

// seen says what lies in the folder now.
func (t *taken) seen(files []file) {
	clear(t.present)
	for _, f := range files {
		t.present[f.hash()] = true
	}
}

// add remembers a picture. After an error it is remembered until the restart.
func (t *taken) add(f file) error {
	t.insert(f.hash())
	if len(t.order) > maxTaken {
		t.forget()
		return t.rewrite()
	}
	if t.file == nil {
		return t.rewrite()
	}
	if _, err := t.file.Write(binary.LittleEndian.AppendUint64(nil, f.hash())); err != nil {
		// What was written of it would shift all that follow.
		return errors.Join(err, t.file.Close(), t.rewrite())
	}
	if time.Since(t.synced) < stateSaved {
		return nil
	}
	t.synced = time.Now()
	return t.file.Sync()
}

// forget drops the older half, but for those that lie in the folder.
func (t *taken) forget() {
	old, kept := t.order[:len(t.order)-maxFiles], []uint64(nil)
	for _, h := range old {
		if t.present[h] {
			kept = append(kept, h)
		} else {
			delete(t.set, h)
		}
	}
	t.order = append(kept, t.order[len(t.order)-maxFiles:]...)
}

// rewrite writes all anew, and opens the file to add to it.
func (t *taken) rewrite() (err error) {
	if t.file != nil {
		_ = t.file.Close() // of a file that is replaced
		t.file = nil
	}
	var b []byte
	for _, h := range t.order {
		b = binary.LittleEndian.AppendUint64(b, h)
	}
	if err := disk.WriteAtomic(t.disk, t.name, b); err != nil {
		return err
	}
	t.file, err = t.disk.Append(t.name)
	return err
}

func (t *taken) close() error {
	if t.file == nil {
		return nil
	}
	return errors.Join(t.file.Sync(), t.file.Close())
}
