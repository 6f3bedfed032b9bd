package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Dir is a folder on the real disk. No name, and no symbolic link in it, can
// lead outside. Two agents cannot hold the same folder.
type Dir struct {
	root *os.Root
	lock *os.File
	path string
}

// OpenDir opens folder, making it if need be, and locks it until Close.
func OpenDir(folder string) (*Dir, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("cannot use the state folder: %w", err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot use the state folder: %w", err)
	}
	lock, err := root.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock the state folder %s: %w", folder, err), root.Close())
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock the state folder %s: another agent uses it: stop that one or give this one its own state_dir", folder), lock.Close(), root.Close())
	}
	return &Dir{root: root, lock: lock, path: folder}, nil
}

// Close gives the folder free.
func (d *Dir) Close() error { return errors.Join(d.lock.Close(), d.root.Close()) }

// Path is where name is on the host, for a child process that reads it.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

// Open implements FS.
func (d *Dir) Open(name string) (File, error) { return file(d.root.OpenFile(name, os.O_RDONLY, 0)) }

// Create implements FS.
func (d *Dir) Create(name string) (File, error) {
	return file(d.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600))
}

// Append implements FS.
func (d *Dir) Append(name string) (File, error) {
	return file(d.root.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600))
}

// Rename implements FS.
func (d *Dir) Rename(from, to string) error { return full(d.root.Rename(from, to)) }

// Remove implements FS.
func (d *Dir) Remove(name string) error { return full(d.root.Remove(name)) }

// RemoveAll implements FS.
func (d *Dir) RemoveAll(name string) error { return full(d.root.RemoveAll(name)) }

// MkdirAll implements FS.
func (d *Dir) MkdirAll(name string) error {
	if err := d.root.MkdirAll(name, 0o700); err != nil {
		return full(err)
	}
	for p := path.Clean(name); p != "." && p != "/"; p = path.Dir(p) {
		if err := d.SyncDir(path.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// List implements FS.
func (d *Dir) List(name string) ([]string, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Size implements FS.
func (d *Dir) Size(name string) (int64, error) {
	info, err := d.root.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// MakeExecutable implements FS.
func (d *Dir) MakeExecutable(name string) error { return full(d.root.Chmod(name, 0o700)) }

// SyncDir implements FS.
func (d *Dir) SyncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return full(errors.Join(f.Sync(), f.Close()))
}

// Free implements FS.
func (d *Dir) Free() (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.path, &s); err != nil {
		return 0, 0, fmt.Errorf("ask for free space of %s: %w", d.path, err)
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize, nil
}

// real is an os.File that answers ErrFull.
type real struct{ *os.File }

func file(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, full(err)
	}
	return real{f}, nil
}

func (f real) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, full(err)
}

func (f real) Sync() error { return full(f.File.Sync()) }

// full adds ErrFull to the errors by which a system says so.
func full(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) && (errors.Is(p.Err, unix.ENOSPC) || errors.Is(p.Err, unix.EDQUOT)) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
