// Package dir keeps objects as files of a directory: for tests, and for a hub
// small enough to need no S3 server.
//
// It promises what objects.Store promises: a file is written under a temporary
// name, synced, given its name, and the directories on its way are synced
// before Put returns. The file system must have hard links.
package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/objects"
)

// Store is a directory of objects. It implements objects.Store.
type Store struct{ root string }

// tmp holds files on their way in. No valid key starts with a dot.
const tmp = ".incoming"

// Open makes root if need be, and clears what a crash left half written.
func Open(root string) (*Store, error) {
	if err := os.RemoveAll(filepath.Join(root, tmp)); err != nil {
		return nil, fmt.Errorf("open object directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(root, tmp), 0o750); err != nil {
		return nil, fmt.Errorf("open object directory: %w", err)
	}
	if err := Sync(filepath.Dir(root), root); err != nil {
		return nil, fmt.Errorf("open object directory: %w", err)
	}
	return &Store{root: root}, nil
}

// Sync makes the file or directory at path durable under its name: path itself
// and every directory above it, up to and with root.
func Sync(root, path string) error {
	for {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
		up := filepath.Dir(path)
		if path == root || up == path {
			return nil
		}
		path = up
	}
}

func (s *Store) file(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

// Put writes an object; see objects.Store.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	return s.put(ctx, key, r, size, os.Rename)
}

// PutIfAbsent writes an object unless one is there; see objects.Store.
func (s *Store) PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error {
	return s.put(ctx, key, r, size, func(from, to string) error {
		err := os.Link(from, to) // fails when the name is taken, unlike rename
		if errors.Is(err, fs.ErrExist) {
			return objects.ErrExists
		}
		return errors.Join(err, os.Remove(from))
	})
}

func (s *Store) put(ctx context.Context, key string, r io.Reader, size int64, place func(from, to string) error) (err error) {
	if err := objects.ValidKey(key); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("put object %s: %w", key, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Join(s.root, tmp), "*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	// One byte more than size would be a caller's mistake too.
	n, err := io.Copy(f, io.LimitReader(reader{ctx, r}, size+1))
	if err == nil && n != size {
		err = fmt.Errorf("got %d bytes, want %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	name := s.file(key)
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return err
	}
	if err := place(f.Name(), name); err != nil {
		return err
	}
	return Sync(s.root, filepath.Dir(name))
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Get opens a range of an object; see objects.Store.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, objects.Info, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, info, err
	}
	f, err := os.Open(s.file(key))
	if err != nil {
		return nil, objects.Info{}, fmt.Errorf("get object %s: %w", key, absent(err))
	}
	// The file that is open counts, whoever replaced it since Stat.
	if st, err := f.Stat(); err == nil {
		info = describe(key, st)
	}
	if offset < 0 || offset > info.Size {
		f.Close()
		return nil, objects.Info{}, fmt.Errorf("get object %s: offset %d is outside its %d bytes", key, offset, info.Size)
	}
	if length < 0 || length > info.Size-offset {
		length = info.Size - offset
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}, info, nil
}

// Stat describes an object; see objects.Store.
func (s *Store) Stat(ctx context.Context, key string) (objects.Info, error) {
	if err := objects.ValidKey(key); err != nil {
		return objects.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return objects.Info{}, err
	}
	st, err := os.Stat(s.file(key))
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist // a directory is no object
	}
	if err != nil {
		return objects.Info{}, fmt.Errorf("stat object %s: %w", key, absent(err))
	}
	return describe(key, st), nil
}

func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "not a directory") {
		return objects.ErrNotFound
	}
	return err
}

func describe(key string, st fs.FileInfo) objects.Info {
	return objects.Info{
		Key: key, Size: st.Size(), Modified: st.ModTime().UTC(),
		ETag: fmt.Sprintf("%x-%x", st.ModTime().UnixNano(), st.Size()),
	}
}

// List yields objects by key; see objects.Store. It holds one directory's
// entries at a time for each level.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objects.Info, error] {
	return func(yield func(objects.Info, error) bool) {
		s.walk(ctx, "", prefix, yield)
	}
}

// walk yields what is below the directory part at ("" or ending in '/').
func (s *Store) walk(ctx context.Context, at, prefix string, yield func(objects.Info, error) bool) bool {
	if err := ctx.Err(); err != nil {
		return yield(objects.Info{}, err) && false
	}
	entries, err := os.ReadDir(s.file(at))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return yield(objects.Info{}, fmt.Errorf("list objects %s: %w", prefix, err)) && false
	}
	// S3 orders whole keys: "a.b" comes before "a/b", so a directory sorts as
	// its name with a slash.
	key := func(e fs.DirEntry) string {
		if e.IsDir() {
			return at + e.Name() + "/"
		}
		return at + e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(key(a), key(b)) })
	for _, e := range entries {
		k := key(e)
		if e.Name()[0] == '.' || !strings.HasPrefix(k, prefix) && !strings.HasPrefix(prefix, k) {
			continue
		}
		if e.IsDir() {
			if !s.walk(ctx, k, prefix, yield) {
				return false
			}
			continue
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && (!strings.HasPrefix(k, prefix) || !st.Mode().IsRegular()) {
			continue
		}
		if err != nil {
			return yield(objects.Info{}, fmt.Errorf("list objects %s: %w", prefix, err)) && false
		}
		if !yield(describe(k, st), nil) {
			return false
		}
	}
	return true
}

// Delete removes an object; see objects.Store. Its directories stay: removing
// one could race with a Put into it.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objects.ValidKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	name := s.file(key)
	if st, err := os.Lstat(name); err != nil || st.IsDir() {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete object %s: %w", key, err)
	}
	return nil
}
