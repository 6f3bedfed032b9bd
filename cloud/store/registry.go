package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Registry returns the view of model versions.
func (db *DB) Registry() registry.Store { return models{db} }

type models struct{ db *DB }

func (m models) SaveVersion(ctx context.Context, v registry.Version) error {
	doc, err := encode(v)
	if err != nil {
		return err
	}
	return m.db.tx(ctx, func(t *tx) error {
		return t.exec("INSERT INTO model_versions (family, counter, run, stage, reason, doc) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (family, counter, run) DO NOTHING",
			v.Family, int64(v.Counter), v.Lineage.Run, string(v.Stage), v.Reason, doc)
	})
}

func scanVersion(s scan) (v registry.Version, err error) {
	var stage, reason, doc string
	if err = s(&stage, &reason, &doc); err != nil {
		return v, missing(err, registry.ErrNoVersion)
	}
	err = decode(doc, &v)
	v.Stage, v.Reason = registry.Stage(stage), reason // the only part that changes
	return v, err
}

func (m models) Version(ctx context.Context, family string, counter uint64) (registry.Version, error) {
	v, err := scanVersion(m.db.row(ctx, "SELECT stage, reason, doc FROM model_versions WHERE family = ? AND counter = ? ORDER BY id LIMIT 1", family, int64(counter)).Scan)
	if err != nil {
		return v, fmt.Errorf("%s-%d: %w", family, counter, err)
	}
	return v, nil
}

func (m models) Versions(ctx context.Context, family string, before uint64, limit int) (out []registry.Version, err error) {
	err = m.db.each(ctx, func(s scan) error {
		v, err := scanVersion(s)
		out = append(out, v)
		return err
	}, "SELECT stage, reason, doc FROM model_versions WHERE family = ? AND counter > 0 AND (? = 0 OR counter < ?) ORDER BY counter DESC, id LIMIT ?",
		family, int64(before), int64(before), limit)
	return out, err
}

func (m models) Families(ctx context.Context) (out []string, err error) {
	err = m.db.each(ctx, func(s scan) error {
		var f string
		err := s(&f)
		out = append(out, f)
		return err
	}, "SELECT DISTINCT family FROM model_versions ORDER BY family")
	return out, err
}

func (m models) SetStage(ctx context.Context, family string, counter uint64, stage registry.Stage, reason string) error {
	err := m.db.changeOne(ctx, registry.ErrNoVersion, "UPDATE model_versions SET stage = ?, reason = ? WHERE family = ? AND counter = ?", string(stage), reason, family, int64(counter))
	if err != nil {
		return fmt.Errorf("%s-%d: %w", family, counter, err)
	}
	return nil
}

// sourceBatch is how many sources one statement writes: a fleet's week of
// segments is many, and SQLite takes 32 766 parameters.
const sourceBatch = 500

func (m models) SaveSources(ctx context.Context, family string, counter uint64, from []registry.Source) error {
	return m.db.tx(ctx, func(t *tx) error {
		for part := range slices.Chunk(from, sourceBatch) {
			args := make([]any, 0, 4*len(part))
			for _, s := range part {
				args = append(args, string(s.Digest), family, int64(counter), string(s.Kind))
			}
			values := strings.Repeat(", (?, ?, ?, ?)", len(part))[2:]
			if err := t.exec("INSERT INTO lineage (digest, family, counter, kind) VALUES "+values+" ON CONFLICT (digest, family, counter, kind) DO NOTHING", args...); err != nil {
				return fmt.Errorf("note the sources of %s-%d: %w", family, counter, err)
			}
		}
		return nil
	})
}

func (m models) Sources(ctx context.Context, family string, counter uint64) (map[registry.SourceKind]int, error) {
	out := map[registry.SourceKind]int{}
	err := m.db.each(ctx, func(s scan) error {
		var kind string
		var n int
		err := s(&kind, &n)
		out[registry.SourceKind(kind)] = n
		return err
	}, "SELECT kind, COUNT(*) FROM lineage WHERE family = ? AND counter = ? GROUP BY kind", family, int64(counter))
	return out, err
}

func (m models) ReleasesOf(ctx context.Context, d artifact.Digest) (out []registry.VersionRef, err error) {
	err = m.db.each(ctx, func(s scan) error {
		var r registry.VersionRef
		err := s(&r.Family, &r.Counter)
		out = append(out, r)
		return err
	}, "SELECT DISTINCT family, counter FROM lineage WHERE digest = ? ORDER BY family, counter DESC", string(d))
	return out, err
}

func (m models) SaveCollection(ctx context.Context, c registry.Collection) error {
	doc, err := encode(c)
	if err != nil {
		return err
	}
	return m.db.tx(ctx, func(t *tx) error {
		return t.exec("INSERT INTO collections (at, doc) VALUES (?, ?)", instant(c.At), doc)
	})
}

func (m models) Collections(ctx context.Context, limit int) (out []registry.Collection, err error) {
	err = m.db.each(ctx, func(s scan) error {
		var doc string
		if err := s(&doc); err != nil {
			return err
		}
		var c registry.Collection
		err := decode(doc, &c)
		out = append(out, c)
		return err
	}, "SELECT doc FROM collections ORDER BY id DESC LIMIT ?", limit)
	return out, err
}
