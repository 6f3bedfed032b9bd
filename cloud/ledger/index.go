package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/tlog"
)

// Limits on a page of events.
const (
	DefaultPage = 50
	MaxPage     = 500
	// maxScan bounds the entries read from disk for one page when a filter
	// matches rarely; the cursor goes on from there.
	maxScan = 20_000
)

// index knows, in memory, at which log indexes events are, and by which actor
// and on which object. It is rebuilt from the log at opening and follows it,
// also when another process appends. Every list rises.
type index struct {
	mu       sync.Mutex
	next     uint64              // guarded by mu; first log index not yet looked at
	events   []uint64            // guarded by mu
	byActor  map[string][]uint64 // guarded by mu
	byObject map[string][]uint64 // guarded by mu
}

func (x *index) len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.events)
}

// Events returns events newest first, and the cursor of the next page, which is
// empty after the last one. limit 0 means DefaultPage; it is cut to MaxPage. A
// page may hold fewer events than limit, even none, and still have a next one.
func (l *Log) Events(ctx context.Context, f Filter, cursor string, limit int) ([]Entry, string, error) {
	if limit <= 0 {
		limit = DefaultPage
	}
	limit = min(limit, MaxPage)
	before := uint64(1<<63 - 1)
	if cursor != "" {
		var err error
		if before, err = strconv.ParseUint(cursor, 10, 63); err != nil {
			return nil, "", fmt.Errorf("list events: cursor %.40q is not one this ledger gave", cursor)
		}
	}
	_, tree, err := l.cp.latest(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	size := uint64(tree.N)
	before = min(before, size)
	if err := l.follow(ctx, size, func([]byte) {}); err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	candidates := l.index.candidates(f)
	var page []Entry
	r := bundleReader{log: l, size: size}
	scanned := 0
	for i := len(candidates) - 1; i >= 0; i-- {
		at := candidates[i]
		if at >= before {
			continue
		}
		if len(page) == limit || scanned == maxScan {
			return page, strconv.FormatUint(at+1, 10), nil
		}
		scanned++
		b, err := r.leaf(ctx, at)
		if err != nil {
			return nil, "", fmt.Errorf("list events: %w", err)
		}
		if e, ok := parseLeaf(b); ok && f.match(e) {
			page = append(page, Entry{at, e})
		}
	}
	return page, "", nil
}

// follow takes the leaves up to size into the index that are not yet in it, and
// shows each to see.
func (l *Log) follow(ctx context.Context, size uint64, see func(leaf []byte)) error {
	x := &l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byActor == nil {
		x.byActor, x.byObject = map[string][]uint64{}, map[string][]uint64{}
	}
	r := bundleReader{log: l, size: size}
	for ; x.next < size; x.next++ {
		b, err := r.leaf(ctx, x.next)
		if err != nil {
			return err
		}
		see(b)
		if e, ok := parseLeaf(b); ok {
			x.events = append(x.events, x.next)
			x.byActor[e.Actor] = append(x.byActor[e.Actor], x.next)
			x.byObject[e.Object] = append(x.byObject[e.Object], x.next)
		}
	}
	return nil
}

// candidates returns the shortest list of log indexes that holds all events f
// can match. Lists only grow, so the caller may read what it got unlocked.
func (x *index) candidates(f Filter) []uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	best := x.events
	if f.Actor != "" && len(x.byActor[f.Actor]) <= len(best) {
		best = x.byActor[f.Actor]
	}
	if f.Object != "" && len(x.byObject[f.Object]) <= len(best) {
		best = x.byObject[f.Object]
	}
	return best
}

// bundleReader reads leaves, keeping the last bundle of 256 it met.
type bundleReader struct {
	log    *Log
	size   uint64
	at     uint64
	bundle *api.EntryBundle // nil before the first read
}

func (r *bundleReader) leaf(ctx context.Context, index uint64) ([]byte, error) {
	want := index / layout.EntryBundleWidth
	if r.bundle == nil || r.at != want {
		b, err := client.GetEntryBundle(ctx, r.log.reader.ReadEntryBundle, want, r.size)
		if err != nil {
			return nil, fmt.Errorf("read ledger entries from %d: %w", want*layout.EntryBundleWidth, err)
		}
		r.at, r.bundle = want, &b
	}
	i := index % layout.EntryBundleWidth
	if i >= uint64(len(r.bundle.Entries)) {
		return nil, fmt.Errorf("read ledger entry %d: its bundle is short", index)
	}
	return r.bundle.Entries[i], nil
}

// selfCheck builds the index and, on the way, compares every leaf on disk with
// the published checkpoint. A tree that is ahead of its checkpoint is what a
// crash leaves and is fine.
func (l *Log) selfCheck(ctx context.Context) error {
	first, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	published, err := l.cp.first(first)
	if err != nil {
		return err
	}
	size, err := l.reader.IntegratedSize(ctx)
	if err != nil {
		return fmt.Errorf("read tree state: %w", err)
	}
	if size < uint64(published.N) {
		return fmt.Errorf("the tree has %d entries, its checkpoint names %d: the folder was restored from an older copy", size, published.N)
	}
	var root treeHash
	if err := l.follow(ctx, uint64(published.N), root.add); err != nil {
		return err
	}
	if published.N > 0 && root.sum() != published.Hash {
		return errors.New("the entries on disk are not those its signed checkpoint vouches for: the log was changed")
	}
	return nil
}

// treeHash computes the root of a growing tree (RFC 6962): it keeps one hash for
// each complete subtree, largest first.
type treeHash struct {
	n        uint64
	subtrees []tlog.Hash
}

func (t *treeHash) add(leaf []byte) {
	h := tlog.RecordHash(leaf)
	for n := t.n; n&1 == 1; n >>= 1 {
		last := len(t.subtrees) - 1
		h = tlog.NodeHash(t.subtrees[last], h)
		t.subtrees = t.subtrees[:last]
	}
	t.subtrees = append(t.subtrees, h)
	t.n++
}

// sum is meaningless for an empty tree.
func (t *treeHash) sum() tlog.Hash {
	var root tlog.Hash
	for i := len(t.subtrees) - 1; i >= 0; i-- {
		if i == len(t.subtrees)-1 {
			root = t.subtrees[i]
		} else {
			root = tlog.NodeHash(t.subtrees[i], root)
		}
	}
	return root
}
