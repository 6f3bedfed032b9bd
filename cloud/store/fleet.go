package store

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/protocol/topic"
)

// Fleet returns the view of devices and their history.
func (db *DB) Fleet() fleet.Store { return devices{db} }

type devices struct{ db *DB }

func (d devices) Devices(ctx context.Context, since time.Time, yield func(fleet.Record, time.Time) error) error {
	from := int64(0)
	if !since.IsZero() {
		from = instant(since.Add(-fleet.ClockSkew))
	}
	return d.db.each(ctx, func(s scan) error {
		var r fleet.Record
		var enrolled, retired, expiry, reported, changed int64
		var labels, report, base, evidence string
		if err := s(&r.ID.Site, &r.ID.Node, &r.Class, &labels, &enrolled, &retired, &expiry, &r.Version, &changed, &reported, &report, &base, &evidence); err != nil {
			return err
		}
		r.EnrolledAt, r.RetiredAt, r.CertExpiry, r.Report.Received = moment(enrolled), moment(retired), moment(expiry), moment(reported)
		for text, v := range map[*string]any{&labels: &r.Labels, &report: &r.Report.Doc, &base: &r.Base, &evidence: &r.Evidence} {
			if err := decode(*text, v); err != nil {
				return fmt.Errorf("device %s: %w", r.ID, err)
			}
		}
		return yield(r, moment(changed))
	}, "SELECT site, node, class, labels, enrolled_at, retired_at, cert_expiry, version, changed, reported_at, report, base, evidence FROM devices WHERE changed >= ? ORDER BY site, node", from)
}

func (d devices) SaveDevice(ctx context.Context, r fleet.Record) error {
	labels, err := encode(r.Labels)
	if err != nil {
		return err
	}
	return d.db.tx(ctx, func(t *tx) error {
		return t.exec(`INSERT INTO devices (site, node, class, labels, enrolled_at, retired_at, cert_expiry, version, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (site, node) DO UPDATE SET class = excluded.class, labels = excluded.labels, enrolled_at = excluded.enrolled_at,
			retired_at = excluded.retired_at, cert_expiry = excluded.cert_expiry, version = excluded.version, changed = excluded.changed`,
			r.ID.Site, r.ID.Node, string(r.Class), labels, instant(r.EnrolledAt), instant(r.RetiredAt), instant(r.CertExpiry), int64(r.Version), instant(time.Now()))
	})
}

func (d devices) SaveReports(ctx context.Context, reports []fleet.Record, entries []fleet.Entry) error {
	type row struct{ report, base, evidence string }
	rows := make([]row, len(reports))
	for i, r := range reports {
		var err error
		for text, v := range map[*string]any{&rows[i].report: r.Report.Doc, &rows[i].base: r.Base, &rows[i].evidence: r.Evidence} {
			if *text, err = encode(v); err != nil {
				return err
			}
		}
	}
	return d.db.tx(ctx, func(t *tx) error {
		for i, r := range reports {
			n, err := t.change("UPDATE devices SET changed = ?, reported_at = ?, report = ?, base = ?, evidence = ? WHERE site = ? AND node = ?",
				instant(time.Now()), instant(r.Report.Received), rows[i].report, rows[i].base, rows[i].evidence, r.ID.Site, r.ID.Node)
			if err == nil && n == 0 {
				err = fleet.ErrUnknown
			}
			if err != nil {
				return fmt.Errorf("report of %s: %w", r.ID, err)
			}
		}
		touched := map[topic.ID]bool{}
		for _, e := range entries {
			touched[e.ID] = true
			if err := t.exec("INSERT INTO timeline (site, node, at, type, severity, message, rollout, release_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
				e.ID.Site, e.ID.Node, instant(e.At), e.Type, e.Severity, e.Message, e.Rollout, e.Release); err != nil {
				return fmt.Errorf("history of %s: %w", e.ID, err)
			}
		}
		for id := range maps.Keys(touched) {
			if err := t.exec(`DELETE FROM timeline WHERE site = ? AND node = ? AND id <=
				(SELECT id FROM timeline WHERE site = ? AND node = ? ORDER BY id DESC LIMIT 1 OFFSET ?)`,
				id.Site, id.Node, id.Site, id.Node, fleet.MaxEntries); err != nil {
				return fmt.Errorf("trim history of %s: %w", id, err)
			}
		}
		return nil
	})
}

func (d devices) Timeline(ctx context.Context, id topic.ID, before uint64, limit int) (out []fleet.Entry, err error) {
	err = d.db.each(ctx, func(s scan) error {
		e := fleet.Entry{ID: id}
		var at int64
		if err := s(&e.Index, &at, &e.Type, &e.Severity, &e.Message, &e.Rollout, &e.Release); err != nil {
			return err
		}
		e.At = moment(at)
		out = append(out, e)
		return nil
	}, "SELECT id, at, type, severity, message, rollout, release_id FROM timeline WHERE site = ? AND node = ? AND (? = 0 OR id < ?) ORDER BY id DESC LIMIT ?",
		id.Site, id.Node, int64(before), int64(before), limit)
	return out, err
}
