// Package objectstest checks that a store keeps the promises of objects.Store.
// Every store runs the same Exercise. Only tests import it.
package objectstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/objects"
)

// Exercise runs every promise against s, which must be empty.
func Exercise(t *testing.T, s objects.Store) {
	put := func(t *testing.T, key, content string) {
		t.Helper()
		if err := s.Put(t.Context(), key, strings.NewReader(content), int64(len(content))); err != nil {
			t.Fatal(err)
		}
	}
	get := func(t *testing.T, key string, offset, length int64) (string, objects.Info) {
		t.Helper()
		r, info, err := s.Get(t.Context(), key, offset, length)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b), info
	}
	list := func(t *testing.T, prefix string) (keys []string) {
		t.Helper()
		for info, err := range s.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, info.Key)
		}
		return keys
	}

	t.Run("what was put is what is read", func(t *testing.T) {
		before := time.Now().Add(-2 * time.Second)
		put(t, "round/trip.bin", "hello, world")
		got, info := get(t, "round/trip.bin", 0, -1)
		if got != "hello, world" || info.Size != 12 || info.Key != "round/trip.bin" || info.ETag == "" || info.Modified.Before(before) {
			t.Errorf("%q %+v", got, info)
		}
		st, err := s.Stat(t.Context(), "round/trip.bin")
		if err != nil || st != info && (st.Size != info.Size || st.ETag != info.ETag || st.Key != info.Key) {
			t.Errorf("stat %+v, %v; want %+v", st, err, info)
		}
	})
	t.Run("an empty object is an object", func(t *testing.T) {
		// Often: with streamed signatures an empty body left bytes on the
		// connection that spoiled one in a hundred of the requests after it.
		for i := range 200 {
			put(t, fmt.Sprintf("empty/%d", i), "")
			if got, info := get(t, fmt.Sprintf("empty/%d", i), 0, -1); got != "" || info.Size != 0 {
				t.Fatalf("%q %+v", got, info)
			}
		}
	})
	t.Run("a second put replaces the first", func(t *testing.T) {
		put(t, "replaced", "one")
		put(t, "replaced", "second")
		if got, info := get(t, "replaced", 0, -1); got != "second" || info.Size != 6 {
			t.Errorf("%q %+v", got, info)
		}
	})
	t.Run("ranges", func(t *testing.T) {
		put(t, "ranges", "0123456789")
		for _, c := range []struct {
			offset, length int64
			want           string
		}{{0, 3, "012"}, {3, 4, "3456"}, {8, 100, "89"}, {9, -1, "9"}, {0, 10, "0123456789"}, {5, -1, "56789"}, {5, 0, ""}} {
			if got, info := get(t, "ranges", c.offset, c.length); got != c.want || info.Size != 10 {
				t.Errorf("from %d, %d bytes: %q of %d, want %q of 10", c.offset, c.length, got, info.Size, c.want)
			}
		}
		if r, _, err := s.Get(t.Context(), "ranges", 11, -1); err == nil {
			r.Close()
			t.Error("an offset past the end was no error")
		}
	})
	t.Run("what is not there is not found", func(t *testing.T) {
		if _, _, err := s.Get(t.Context(), "no/such", 0, -1); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("get: %v", err)
		}
		if _, err := s.Stat(t.Context(), "no/such"); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("stat: %v", err)
		}
		put(t, "folder/file", "x")
		if _, err := s.Stat(t.Context(), "folder"); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("stat of a folder: %v", err)
		}
		if err := s.Delete(t.Context(), "no/such"); err != nil {
			t.Errorf("delete: %v", err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		put(t, "deleted/a", "x")
		if err := s.Delete(t.Context(), "deleted/a"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(t.Context(), "deleted/a"); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("stat: %v", err)
		}
		if keys := list(t, "deleted/"); len(keys) != 0 {
			t.Errorf("listed %v", keys)
		}
	})
	t.Run("a listing is ordered, whole and by prefix", func(t *testing.T) {
		want := []string{"list/a", "list/a.b", "list/b/1", "list/b/2", "list/b0"}
		for _, k := range want {
			put(t, k, k)
		}
		put(t, "lisa", "x")
		if got := list(t, "list/"); !slices.Equal(got, want) {
			t.Errorf("listed %v, want %v", got, want)
		}
		if got := list(t, "list/b"); !slices.Equal(got, want[2:]) {
			t.Errorf("listed %v, want %v", got, want[2:])
		}
		if got := list(t, "nothing"); len(got) != 0 {
			t.Errorf("listed %v", got)
		}
		n := 0
		for range s.List(t.Context(), "list/") {
			n++
			break
		}
		if n != 1 {
			t.Error("a listing can not be left")
		}
	})
	t.Run("a listing longer than a page", func(t *testing.T) {
		var wg sync.WaitGroup
		const n = 1100
		next := make(chan int)
		for range 8 {
			wg.Go(func() {
				for i := range next {
					if err := s.Put(t.Context(), fmt.Sprintf("many/%04d", i), strings.NewReader("x"), 1); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range n {
			next <- i
		}
		close(next)
		wg.Wait()
		if got := list(t, "many/"); len(got) != n || !slices.IsSorted(got) {
			t.Errorf("listed %d, want %d in order", len(got), n)
		}
	})
	t.Run("of many that put if absent one wins", func(t *testing.T) {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				switch err := s.PutIfAbsent(t.Context(), "absent/one", strings.NewReader(fmt.Sprint(i)), 1); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, objects.ErrExists):
					t.Errorf("%v, want ErrExists", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d won", won.Load())
		}
	})
	t.Run("a reader that ends early or fails leaves the key as it was", func(t *testing.T) {
		put(t, "early", "before")
		if err := s.Put(t.Context(), "early", strings.NewReader("abc"), 10); err == nil {
			t.Error("a short reader was no error")
		}
		if err := s.Put(t.Context(), "early", io.MultiReader(strings.NewReader("abc"), broken{}), 10); err == nil {
			t.Error("a broken reader was no error")
		}
		if got, _ := get(t, "early", 0, -1); got != "before" {
			t.Errorf("found %q", got)
		}
	})
	t.Run("a large object is whole", func(t *testing.T) {
		big := make([]byte, 20<<20+7)
		src := rand.NewChaCha8([32]byte{1})
		src.Read(big)
		if err := s.Put(t.Context(), "big", bytes.NewReader(big), int64(len(big))); err != nil {
			t.Fatal(err)
		}
		if got, _ := get(t, "big", 0, -1); got != string(big) {
			t.Error("what came back differs")
		}
		if got, _ := get(t, "big", 16<<20-3, 10); got != string(big[16<<20-3:16<<20+7]) {
			t.Error("a range of it differs")
		}
	})
	t.Run("keys that could leave the store are refused", func(t *testing.T) {
		for _, key := range []string{"", "/", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".hidden", "a/.b", "a\x00b", "a\\b", "a\nb", strings.Repeat("x", 1025), strings.Repeat("x", 256)} {
			if s.Put(t.Context(), key, strings.NewReader("x"), 1) == nil {
				t.Errorf("put %q was accepted", key)
			}
			if r, _, err := s.Get(t.Context(), key, 0, -1); err == nil {
				r.Close()
				t.Errorf("get %q was accepted", key)
			}
			if s.Delete(t.Context(), key) == nil {
				t.Errorf("delete %q was accepted", key)
			}
		}
	})
	t.Run("a cancelled caller gets an error", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Put(ctx, "cancelled", strings.NewReader("x"), 1); !errors.Is(err, context.Canceled) {
			t.Errorf("put: %v", err)
		}
		if _, err := s.Stat(ctx, "cancelled"); !errors.Is(err, context.Canceled) {
			t.Errorf("stat: %v", err)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk went away") }
