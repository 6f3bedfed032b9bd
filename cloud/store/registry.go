package store

import (
	"context"
	"fmt"

	"github.com/swellfleet/swell/cloud/registry"
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
