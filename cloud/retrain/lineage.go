package retrain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Sources lists everything the snapshot holds, for the way from data back to
// the versions that learned from it.
func (s Snapshot) Sources() ([]registry.Source, error) {
	var out []registry.Source
	for _, e := range s.Devices {
		for _, g := range e.Segments {
			out = append(out, registry.Source{Kind: registry.FromSegment, Digest: g.Digest})
		}
	}
	for _, f := range s.Frames {
		out = append(out, registry.Source{Kind: registry.FromFrame, Digest: f.Digest})
	}
	for _, l := range s.Labels {
		b, err := json.Marshal(l)
		if err != nil {
			return nil, err
		}
		out = append(out, registry.Source{Kind: registry.FromLabel, Digest: artifact.Of(b)})
	}
	return out, nil
}

// ReadSnapshot reads a stored snapshot and checks its digest.
func ReadSnapshot(ctx context.Context, store objects.Store, d artifact.Digest) (Snapshot, error) {
	r, _, err := store.Get(ctx, snapshotKey(d), 0, -1)
	if err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot %s: %w", d.Short(), err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModelBytes+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot %s: %w", d.Short(), err)
	}
	if artifact.Of(b) != d {
		return Snapshot{}, fmt.Errorf("snapshot %s in object storage was changed", d.Short())
	}
	var snap Snapshot
	return snap, json.Unmarshal(b, &snap)
}

// Trace notes for a version what its snapshot holds.
func Trace(ctx context.Context, store registry.Store, family string, counter uint64, snap Snapshot) error {
	from, err := snap.Sources()
	if err != nil {
		return err
	}
	return store.SaveSources(ctx, family, counter, from)
}

// TraceAll traces the versions that were registered before sources were noted.
// A version whose snapshot is gone is passed over. It returns how many it traced.
func TraceAll(ctx context.Context, versions registry.Store, store objects.Store) (int, error) {
	families, err := versions.Families(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range families {
		for before := uint64(0); ; {
			page, err := versions.Versions(ctx, f, before, 100)
			if err != nil {
				return n, err
			}
			if len(page) == 0 {
				break
			}
			for _, v := range page {
				before = v.Counter
				if v.Lineage.Snapshot == "" {
					continue
				}
				if have, err := versions.Sources(ctx, f, v.Counter); err != nil || len(have) > 0 {
					if err != nil {
						return n, err
					}
					continue
				}
				snap, err := ReadSnapshot(ctx, store, v.Lineage.Snapshot)
				if errors.Is(err, objects.ErrNotFound) {
					continue
				}
				if err == nil {
					err = Trace(ctx, versions, f, v.Counter, snap)
				}
				if err != nil {
					return n, fmt.Errorf("trace the data of %s-%d: %w", f, v.Counter, err)
				}
				n++
			}
		}
	}
	return n, nil
}
