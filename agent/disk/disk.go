// Package disk is all access an agent has to its own files: identity, slots,
// spool and journals.
//
// Everything else in agent goes through FS, so that one test can cut the power
// at every single write and look at what the device would find at its next
// start. There are two: Dir, a folder on the real disk, and Mem, which keeps
// track of what was synced, can be cloned as if the power had failed, and
// injects faults.
//
// What survives a power cut: the content of a file up to its last Sync, and
// the names in a folder as of its last SyncDir. Nothing else is promised, and
// Mem keeps nothing else. Names are slash separated and relative to the root.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// ErrFull says that the disk has no room left.
var ErrFull = errors.New("no space left on the disk")

// FS is a tree of files below one root.
type FS interface {
	// Open opens a file for reading.
	Open(name string) (File, error)
	// Create makes an empty file for writing, replacing one that is there. Its
	// folder must exist.
	Create(name string) (File, error)
	// Append opens a file for writing at its end, making it if need be.
	Append(name string) (File, error)
	// Rename moves a file or folder, replacing a file of that name.
	Rename(from, to string) error
	// Remove deletes a file, or an empty folder.
	Remove(name string) error
	// RemoveAll deletes whatever is there; nothing there is no error.
	RemoveAll(name string) error
	// MkdirAll makes a folder and those above it, and syncs them.
	MkdirAll(name string) error
	// List returns the names in a folder, sorted.
	List(name string) ([]string, error)
	// MakeExecutable lets the owner run a file as a program. It is durable with
	// the file's next Sync.
	MakeExecutable(name string) error
	// Size is the length of a file in bytes.
	Size(name string) (int64, error)
	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error
	// Free is the number of bytes that may still be written, and the size of
	// the whole disk.
	Free() (free, total int64, err error)
}

// File is one open file. Writes go to the end.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.Closer
	// Sync makes the content durable.
	Sync() error
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
}

// ReadFile reads a whole file of at most max bytes.
func ReadFile(d FS, name string, max int64) ([]byte, error) {
	size, err := d.Size(name)
	if err != nil {
		return nil, err
	}
	if size > max {
		return nil, fmt.Errorf("read %s: %d bytes are over %d", name, size, max)
	}
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("read %s: it grew over %d bytes", name, max)
	}
	return b, nil
}

// WriteAtomic replaces a file so that after a power cut it holds the old
// content or the new one, whole: it writes beside it, syncs, renames and syncs
// the folder.
func WriteAtomic(d FS, name string, content []byte) error {
	temporary := name + ".new"
	f, err := d.Create(temporary)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(d.Remove(temporary)))
	}
	return d.SyncDir(path.Dir(name))
}

// Exists says whether a file or folder is there. An error means it cannot be told.
func Exists(d FS, name string) (bool, error) {
	_, err := d.Size(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
