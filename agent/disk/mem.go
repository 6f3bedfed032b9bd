package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

// ErrPowerCut is what every operation answers after the power was cut.
var ErrPowerCut = errors.New("power cut")

// Op names what a fault hook is asked about.
type Op string

// The operations that change the disk.
const (
	OpCreate  Op = "create"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpCut     Op = "truncate"
	OpRename  Op = "rename"
	OpRemove  Op = "remove"
	OpMkdir   Op = "mkdir"
	OpSyncDir Op = "syncdir"
)

// Mem is a disk in memory, for tests. The zero value is empty and has room for
// everything. All methods may be called from any goroutine.
type Mem struct {
	mu    sync.Mutex
	now   map[string]*inode // by name; folders are inodes too
	saved map[string]*inode // names as of the last SyncDir of their folder
	fault func(Op, string) error
	room  int64 // bytes in all; 0: endless
	cut   bool
	ops   int
}

type inode struct {
	folder bool
	data   []byte
	synced []byte
}

// Fault installs a hook that is asked before every operation that changes the
// disk; its error becomes the operation's. ErrPowerCut as an error ends the
// disk for good, and a write it hits leaves a torn prefix behind.
func (m *Mem) Fault(hook func(Op, string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = hook
}

// Limit sets the size of the disk in bytes; 0 removes the limit.
func (m *Mem) Limit(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.room = bytes
}

// Ops is how many operations have changed the disk so far.
func (m *Mem) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// Crash returns what a device finds after the power failed now: only what was
// synced. keep says how many of the n unsynced bytes appended to a file
// survive, for torn tails; nil keeps none.
func (m *Mem) Crash(keep func(name string, n int) int) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Mem{}
	c.start()
	for name, n := range m.saved {
		data := slices.Clone(n.synced)
		if keep != nil && !n.folder && len(n.data) > len(n.synced) && strings.HasPrefix(string(n.data), string(n.synced)) {
			more := min(max(keep(name, len(n.data)-len(n.synced)), 0), len(n.data)-len(n.synced))
			data = append(data, n.data[len(n.synced):len(n.synced)+more]...)
		}
		i := &inode{folder: n.folder, data: data, synced: slices.Clone(data)}
		c.now[name], c.saved[name] = i, i
	}
	return c
}

func (m *Mem) start() {
	if m.now == nil {
		root := &inode{folder: true}
		m.now = map[string]*inode{".": root}
		m.saved = map[string]*inode{".": root}
	}
}

// begin takes the lock and asks the hook; the caller unlocks.
func (m *Mem) begin(op Op, name string) error {
	m.mu.Lock()
	m.start()
	if m.cut {
		return ErrPowerCut
	}
	if op == "" {
		return nil
	}
	m.ops++
	if m.fault != nil {
		if err := m.fault(op, name); err != nil {
			m.cut = m.cut || errors.Is(err, ErrPowerCut)
			return fmt.Errorf("%s %s: %w", op, name, err)
		}
	}
	return nil
}

func missing(op Op, name string) error {
	return &fs.PathError{Op: string(op), Path: name, Err: fs.ErrNotExist}
}

func (m *Mem) open(op Op, name string, make, empty bool) (File, error) {
	name = path.Clean(name)
	err := m.begin(op, name)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, "..") || path.IsAbs(name) {
		return nil, fmt.Errorf("%s: path escapes the state folder", name)
	}
	n := m.now[name]
	switch {
	case n != nil && n.folder:
		return nil, fmt.Errorf("open %s: it is a folder", name)
	case n == nil && !make:
		return nil, missing("open", name)
	case n == nil || empty:
		if dir := m.now[path.Dir(name)]; dir == nil || !dir.folder {
			return nil, missing("open", name)
		}
		if n == nil {
			n = &inode{}
			m.now[name] = n
		}
		n.data = nil
	}
	return &memFile{disk: m, name: name, node: n}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) { return m.open("", name, false, false) }

// Create implements FS.
func (m *Mem) Create(name string) (File, error) { return m.open(OpCreate, name, true, true) }

// Append implements FS.
func (m *Mem) Append(name string) (File, error) { return m.open(OpCreate, name, true, false) }

// Rename implements FS.
func (m *Mem) Rename(from, to string) error {
	from, to = path.Clean(from), path.Clean(to)
	err := m.begin(OpRename, to)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if m.now[from] == nil {
		return missing(OpRename, from)
	}
	if old := m.now[to]; old != nil && old.folder {
		return fmt.Errorf("rename %s to %s: a folder is there", from, to)
	}
	for name, n := range m.now {
		if name == from || strings.HasPrefix(name, from+"/") {
			delete(m.now, name)
			m.now[to+name[len(from):]] = n
		}
	}
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	name = path.Clean(name)
	err := m.begin(OpRemove, name)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if m.now[name] == nil {
		return missing(OpRemove, name)
	}
	for other := range m.now {
		if strings.HasPrefix(other, name+"/") {
			return fmt.Errorf("remove %s: the folder is not empty", name)
		}
	}
	delete(m.now, name)
	return nil
}

// RemoveAll implements FS.
func (m *Mem) RemoveAll(name string) error {
	name = path.Clean(name)
	err := m.begin(OpRemove, name)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	for other := range m.now {
		if other == name || strings.HasPrefix(other, name+"/") {
			delete(m.now, other)
		}
	}
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(name string) error {
	name = path.Clean(name)
	err := m.begin(OpMkdir, name)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	for p := name; p != "."; p = path.Dir(p) {
		if n := m.now[p]; n == nil {
			n = &inode{folder: true}
			m.now[p], m.saved[p] = n, n
		} else if !n.folder {
			return fmt.Errorf("make folder %s: a file is there", p)
		}
	}
	return nil
}

// List implements FS.
func (m *Mem) List(name string) ([]string, error) {
	name = path.Clean(name)
	err := m.begin("", name)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if n := m.now[name]; n == nil || !n.folder {
		return nil, missing("list", name)
	}
	var names []string
	for other := range m.now {
		if other != "." && path.Dir(other) == name {
			names = append(names, path.Base(other))
		}
	}
	slices.Sort(names)
	return names, nil
}

// MakeExecutable implements FS. Every file in memory may be run.
func (m *Mem) MakeExecutable(name string) error {
	_, err := m.Size(name)
	return err
}

// Size implements FS.
func (m *Mem) Size(name string) (int64, error) {
	name = path.Clean(name)
	err := m.begin("", name)
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n := m.now[name]
	if n == nil {
		return 0, missing("size", name)
	}
	return int64(len(n.data)), nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(name string) error {
	name = path.Clean(name)
	err := m.begin(OpSyncDir, name)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if n := m.now[name]; n == nil || !n.folder {
		return missing(OpSyncDir, name)
	}
	// A folder that lost its name takes what is below it along; one that got a
	// new name brings what was durable under the old one, its inodes being the
	// same.
	for other := range m.saved {
		if other != "." && path.Dir(other) == name && m.now[other] != m.saved[other] {
			for below := range m.saved {
				if below == other || strings.HasPrefix(below, other+"/") {
					delete(m.saved, below)
				}
			}
		}
	}
	for other, n := range m.now {
		if other != "." && path.Dir(other) == name && m.saved[other] != n {
			m.saved[other] = n
			if n.folder {
				for below, b := range m.now {
					if strings.HasPrefix(below, other+"/") {
						m.saved[below] = b
					}
				}
			}
		}
	}
	return nil
}

// Free implements FS.
func (m *Mem) Free() (free, total int64, err error) {
	err = m.begin("", ".")
	defer m.mu.Unlock()
	if err != nil {
		return 0, 0, err
	}
	if m.room == 0 {
		return 1 << 40, 1 << 40, nil
	}
	return m.room - m.used(), m.room, nil
}

func (m *Mem) used() int64 {
	var sum int64
	for _, n := range m.now {
		sum += int64(len(n.data))
	}
	return sum
}

// memFile is an open file of a Mem.
type memFile struct {
	disk *Mem
	name string
	node *inode
	at   int
}

func (f *memFile) Read(p []byte) (int, error) {
	err := f.disk.begin("", f.name)
	defer f.disk.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if f.at >= len(f.node.data) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[f.at:])
	f.at += n
	return n, nil
}

func (f *memFile) ReadAt(p []byte, at int64) (int, error) {
	err := f.disk.begin("", f.name)
	defer f.disk.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if at >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Write(p []byte) (int, error) {
	err := f.disk.begin(OpWrite, f.name)
	defer f.disk.mu.Unlock()
	if err != nil {
		if errors.Is(err, ErrPowerCut) { // the write was under way
			f.node.data = append(f.node.data, p[:len(p)/2]...)
		}
		return 0, err
	}
	if d := f.disk; d.room > 0 {
		if left := d.room - d.used(); int64(len(p)) > left {
			n := max(int(left), 0)
			f.node.data = append(f.node.data, p[:n]...)
			return n, fmt.Errorf("write %s: %w", f.name, ErrFull)
		}
	}
	f.node.data = append(f.node.data, p...)
	return len(p), nil
}

func (f *memFile) Sync() error {
	err := f.disk.begin(OpSync, f.name)
	defer f.disk.mu.Unlock()
	if err != nil {
		return err
	}
	f.node.synced = slices.Clone(f.node.data)
	return nil
}

func (f *memFile) Truncate(size int64) error {
	err := f.disk.begin(OpCut, f.name)
	defer f.disk.mu.Unlock()
	if err != nil {
		return err
	}
	if size > int64(len(f.node.data)) {
		return fmt.Errorf("truncate %s: it has %d bytes, not %d", f.name, len(f.node.data), size)
	}
	f.node.data = f.node.data[:size:size]
	return nil
}

func (f *memFile) Close() error { return nil }
