// Package objects keeps immutable files under names: Parquet segments, release
// files, snapshots, models.
//
// The parties are the hub's services, which put and get by key, and a store:
// an S3 server (objects/s3), a server that the hub runs itself
// (objects/embedded) or a plain directory (objects/dir). Every store passes
// objectstest.Exercise.
//
// It promises that an object whose Put returned nil survives a power cut, that
// a reader sees an object whole or not at all, and that keys which could leave
// the store are refused. It leaves to callers what a key means; most are built
// from digests, so that writing one twice writes the same bytes.
//
// cloud packages may import it.
package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// ErrNotFound is the error (wrapped with the key) of Get and Stat for a key
// that holds nothing.
var ErrNotFound = errors.New("object not found")

// ErrExists is the error (wrapped with the key) of PutIfAbsent for a key that
// already holds an object.
var ErrExists = errors.New("object exists already")

// Info describes an object.
type Info struct {
	Key      string
	Size     int64     // bytes of the whole object, also after a range read
	ETag     string    // changes when the content changes; the form is the store's own
	Modified time.Time // when it was put, UTC
}

// Store keeps objects. All methods may be called at the same time.
type Store interface {
	// Put writes size bytes of r under key, replacing what was there, and
	// returns when they are durable. size must be the length of r: a reader
	// that ends early is an error and leaves the key as it was.
	Put(ctx context.Context, key string, r io.Reader, size int64) error
	// PutIfAbsent is Put for a key that must be free: of several callers one
	// succeeds and the others get ErrExists.
	PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error
	// Get opens length bytes from offset; a negative length means to the end,
	// and one that reaches past the end is cut there. An offset past the end is
	// an error. The caller closes the reader.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Info, error)
	// Stat describes the object at key.
	Stat(ctx context.Context, key string) (Info, error)
	// List yields the objects whose keys start with prefix (a whole key part or
	// not), by key, page by page. After an error it ends.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes the object at key. Nothing there is no error.
	Delete(ctx context.Context, key string) error
}

// MaxKeyLen is the most bytes a key may have (S3's own bound).
const MaxKeyLen = 1024

// ValidKey accepts keys of 1 to MaxKeyLen bytes: parts of 1 to 255 bytes
// separated by '/', none of which starts with a dot, without control
// characters and backslashes. Such a key is the same thing on S3 and in a
// directory.
func ValidKey(key string) error {
	if key == "" || len(key) > MaxKeyLen {
		return fmt.Errorf("object key of %d bytes: want 1 to %d", len(key), MaxKeyLen)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || len(part) > 255 || part[0] == '.' {
			return fmt.Errorf("object key %q: part %q is empty, too long or starts with a dot", key, part)
		}
	}
	for i := range len(key) {
		if c := key[i]; c < ' ' || c == 0x7f || c == '\\' {
			return fmt.Errorf("object key %q: byte %#x is not allowed", key, c)
		}
	}
	return nil
}
