package store

import (
	"context"

	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Releases returns the view of release counters and records.
func (db *DB) Releases() release.Store { return releases{db} }

type releases struct{ db *DB }

func (r releases) NextCounter(ctx context.Context, name string) (n uint64, err error) {
	err = r.db.tx(ctx, func(t *tx) error {
		return t.row("INSERT INTO release_counters (name, counter) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET counter = release_counters.counter + 1 RETURNING counter", name).Scan(&n)
	})
	return n, err
}

func (r releases) SaveRelease(ctx context.Context, rel release.Release) error {
	doc, err := encode(rel)
	if err != nil {
		return err
	}
	return r.db.tx(ctx, func(t *tx) error {
		return t.exec("INSERT INTO releases (digest, name, counter, run, doc) VALUES (?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
			string(rel.Digest), rel.Manifest.Name, int64(rel.Manifest.Counter), rel.Manifest.Lineage.Run, doc)
	})
}

func scanRelease(s scan) (rel release.Release, err error) {
	var doc string
	if err = s(&doc); err != nil {
		return rel, missing(err, release.ErrNotFound)
	}
	return rel, decode(doc, &rel)
}

func (r releases) LoadRelease(ctx context.Context, d artifact.Digest) (release.Release, error) {
	return scanRelease(r.db.row(ctx, "SELECT doc FROM releases WHERE digest = ?", string(d)).Scan)
}

func (r releases) ListReleases(ctx context.Context, name string) (out []release.Release, err error) {
	err = r.db.each(ctx, func(s scan) error {
		rel, err := scanRelease(s)
		out = append(out, rel)
		return err
	}, "SELECT doc FROM releases WHERE name = ? ORDER BY counter DESC", name)
	return out, err
}

func (r releases) ReleaseOfRun(ctx context.Context, name, run string) (release.Release, error) {
	return scanRelease(r.db.row(ctx, "SELECT doc FROM releases WHERE name = ? AND run = ? ORDER BY counter LIMIT 1", name, run).Scan)
}
