package release_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/swellfleet/swell/cloud/objects"
)

// bucket keeps objects in memory and can be told to fail or to damage.
type bucket struct {
	mu   sync.Mutex
	kept map[string][]byte
	// spoil, when set, changes what is stored under a key.
	spoil func(key string, b []byte) []byte
	// refuse, when set, fails a Put of the key.
	refuse func(key string) error
	puts   []string
	gets   int
}

func newBucket() *bucket { return &bucket{kept: map[string][]byte{}} }

func (b *bucket) Put(_ context.Context, key string, r io.Reader, size int64) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if int64(len(content)) != size {
		return fmt.Errorf("put %s: %d bytes, %d promised", key, len(content), size)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		if err := b.refuse(key); err != nil {
			return err
		}
	}
	if b.spoil != nil {
		content = b.spoil(key, content)
	}
	b.kept[key] = content
	b.puts = append(b.puts, key)
	return nil
}

func (b *bucket) Get(_ context.Context, key string, offset, length int64) (io.ReadCloser, objects.Info, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gets++
	content, ok := b.kept[key]
	if !ok {
		return nil, objects.Info{}, fmt.Errorf("get %s: %w", key, objects.ErrNotFound)
	}
	info := objects.Info{Key: key, Size: int64(len(content))}
	content = content[min(offset, info.Size):]
	if length >= 0 {
		content = content[:min(length, int64(len(content)))]
	}
	return io.NopCloser(bytes.NewReader(content)), info, nil
}

func (b *bucket) List(_ context.Context, prefix string) iter.Seq2[objects.Info, error] {
	return func(yield func(objects.Info, error) bool) {
		for key, content := range b.all(prefix) {
			if !yield(objects.Info{Key: key, Size: int64(len(content))}, nil) {
				return
			}
		}
	}
}

// all yields what is kept under prefix, by key.
func (b *bucket) all(prefix string) iter.Seq2[string, []byte] {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := maps.Clone(b.kept)
	return func(yield func(string, []byte) bool) {
		for _, key := range slices.Sorted(maps.Keys(kept)) {
			if strings.HasPrefix(key, prefix) && !yield(key, kept[key]) {
				return
			}
		}
	}
}
