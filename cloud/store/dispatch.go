package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Dispatch returns the view of rollouts, decisions and desired documents.
func (db *DB) Dispatch() dispatch.Store { return rollouts{db} }

type rollouts struct{ db *DB }

// dispatcher is the one lease there is.
const dispatcher = "dispatch"

func (r rollouts) Acquire(ctx context.Context, holder string, now time.Time, ttl time.Duration) (got bool, err error) {
	err = r.db.tx(ctx, func(t *tx) error {
		n, err := t.change(`INSERT INTO leases (name, holder, until) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE leases.holder = excluded.holder OR leases.until <= ?`,
			dispatcher, holder, instant(now.Add(ttl)), instant(now))
		got = n > 0
		return err
	})
	return got, err
}

func (r rollouts) Rollouts(ctx context.Context) (out []rollout.Rollout, err error) {
	err = r.db.each(ctx, func(s scan) error {
		var doc string
		if err := s(&doc); err != nil {
			return err
		}
		var ro rollout.Rollout
		err := decode(doc, &ro)
		out = append(out, ro)
		return err
	}, "SELECT doc FROM rollouts ORDER BY created DESC, name")
	return out, err
}

func (r rollouts) Versions(ctx context.Context) (map[string]uint64, error) {
	out := map[string]uint64{}
	err := r.db.each(ctx, func(s scan) error {
		var name string
		var version uint64
		err := s(&name, &version)
		out[name] = version
		return err
	}, "SELECT name, version FROM rollouts")
	return out, err
}

func (r rollouts) Load(ctx context.Context, name string) (l dispatch.Loaded, err error) {
	// One transaction, so that version and records belong together.
	err = r.db.tx(ctx, func(t *tx) error {
		l = dispatch.Loaded{Records: map[topic.ID]rollout.Record{}}
		var doc string
		if err := t.row("SELECT version, doc FROM rollouts WHERE name = ?", name).Scan(&l.Version, &doc); err != nil {
			return missing(err, dispatch.ErrNotFound)
		}
		if err := decode(doc, &l.Rollout); err != nil {
			return err
		}
		return t.each(func(s scan) error {
			var id topic.ID
			var doc string
			if err := s(&id.Site, &id.Node, &doc); err != nil {
				return err
			}
			var rec rollout.Record
			err := decode(doc, &rec)
			l.Records[id] = rec
			return err
		}, "SELECT site, node, doc FROM rollout_records WHERE rollout = ?", name)
	})
	return l, err
}

func (r rollouts) Commit(ctx context.Context, c dispatch.Commit) (id uint64, err error) {
	doc, err := encode(c.Rollout)
	if err != nil {
		return 0, err
	}
	var size int
	err = r.db.tx(ctx, func(t *tx) error {
		id, size = 0, 0
		if c.Holder != "" {
			if err := t.holds(c.Holder, c.Now); err != nil {
				return err
			}
		}
		name := c.Rollout.Name
		if c.Version == 0 {
			n, err := t.change("INSERT INTO rollouts (name, created, version, doc) VALUES (?, ?, 1, ?) ON CONFLICT (name) DO NOTHING", name, instant(c.Rollout.Created), doc)
			if err == nil && n == 0 {
				err = dispatch.ErrExists
			}
			if err != nil {
				return err
			}
		} else {
			n, err := t.change("UPDATE rollouts SET version = version + 1, doc = ? WHERE name = ? AND version = ?", doc, name, int64(c.Version))
			if err == nil && n == 0 {
				err = dispatch.ErrConflict
			}
			if err != nil {
				return err
			}
		}
		for dev, rec := range c.Records {
			text, err := encode(rec)
			if err != nil {
				return err
			}
			if err := t.exec("INSERT INTO rollout_records (rollout, site, node, doc) VALUES (?, ?, ?, ?) ON CONFLICT (rollout, site, node) DO UPDATE SET doc = excluded.doc",
				name, dev.Site, dev.Node, text); err != nil {
				return err
			}
		}
		for _, d := range c.Desired {
			if err := t.saveDesired(d, c.Now); err != nil {
				return err
			}
		}
		if c.Decision == nil {
			return nil
		}
		if err := t.row("SELECT COALESCE(MAX(id), 0) + 1 FROM rollout_decisions WHERE rollout = ?", name).Scan(&id); err != nil {
			return err
		}
		d := *c.Decision
		d.ID = id
		packed, err := pack(d)
		if err != nil {
			return err
		}
		size = len(packed)
		return t.exec("INSERT INTO rollout_decisions (rollout, id, at, doc) VALUES (?, ?, ?, ?)", name, int64(id), instant(d.At), packed)
	})
	if err != nil {
		return 0, err
	}
	r.db.evidence.Add(uint64(size))
	return id, nil
}

// EvidenceBytes is how much evidence of decisions was stored since the store
// was opened, as compressed.
func (db *DB) EvidenceBytes() uint64 { return db.evidence.Load() }

// holds reports ErrConflict unless holder has the dispatcher's lease at now.
func (t *tx) holds(holder string, now time.Time) error {
	var n int
	if err := t.row("SELECT COUNT(*) FROM leases WHERE name = ? AND holder = ? AND until > ?", dispatcher, holder, instant(now)).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %s does not hold the dispatcher's lease", dispatch.ErrConflict, holder)
	}
	return nil
}

func (t *tx) saveDesired(d twin.Desired, now time.Time) error {
	var last uint64
	err := t.row("SELECT generation FROM desired WHERE site = ? AND node = ?", d.Site, d.Node).Scan(&last)
	if err := missing(err, nil); err != nil {
		return err
	}
	d.Generation = last + 1
	doc, err := encode(d)
	if err != nil {
		return err
	}
	var manifest artifact.Digest
	if d.Model != nil {
		manifest = d.Model.Manifest
	}
	return t.exec(`INSERT INTO desired (site, node, generation, changed, published, manifest, doc) VALUES (?, ?, ?, ?, 0, ?, ?)
		ON CONFLICT (site, node) DO UPDATE SET generation = excluded.generation, changed = excluded.changed, published = 0, manifest = excluded.manifest, doc = excluded.doc`,
		d.Site, d.Node, int64(d.Generation), instant(now), string(manifest), doc)
}

// Wanted is what the hub wants a device to run, in short.
type Wanted struct {
	Generation uint64
	Model      artifact.Digest // manifest; empty: what runs may stay
}

// Wanted returns what is wanted of every device that has a desired document.
func (db *DB) Wanted(ctx context.Context) (map[topic.ID]Wanted, error) {
	out := map[topic.ID]Wanted{}
	err := db.each(ctx, func(s scan) error {
		var id topic.ID
		var w Wanted
		err := s(&id.Site, &id.Node, &w.Generation, &w.Model)
		out[id] = w
		return err
	}, "SELECT site, node, generation, manifest FROM desired")
	return out, err
}

func (r rollouts) Decisions(ctx context.Context, name string, before uint64, limit int) (out []dispatch.Stored, err error) {
	if limit == 0 {
		limit = 1 << 30
	}
	err = r.db.each(ctx, func(s scan) error {
		var doc []byte
		if err := s(&doc); err != nil {
			return err
		}
		d, err := unpack(doc)
		out = append(out, d)
		return err
	}, "SELECT doc FROM rollout_decisions WHERE rollout = ? AND (? = 0 OR id < ?) ORDER BY id DESC LIMIT ?", name, int64(before), int64(before), limit)
	return out, err
}

func (r rollouts) Desired(ctx context.Context, id topic.ID) (d twin.Desired, ok bool, err error) {
	var doc string
	err = missing(r.db.row(ctx, "SELECT doc FROM desired WHERE site = ? AND node = ?", id.Site, id.Node).Scan(&doc), nil)
	if err != nil || doc == "" {
		return d, false, err
	}
	err = decode(doc, &d)
	return d, err == nil, err
}

func (r rollouts) Unpublished(ctx context.Context, limit int) (out []twin.Desired, err error) {
	err = r.db.each(ctx, func(s scan) error {
		var doc string
		if err := s(&doc); err != nil {
			return err
		}
		var d twin.Desired
		err := decode(doc, &d)
		out = append(out, d)
		return err
	}, "SELECT doc FROM desired WHERE published = 0 ORDER BY changed, site, node LIMIT ?", limit)
	return out, err
}

func (r rollouts) Published(ctx context.Context, docs []twin.Desired) error {
	return r.db.tx(ctx, func(t *tx) error {
		for _, d := range docs {
			if err := t.exec("UPDATE desired SET published = 1 WHERE site = ? AND node = ? AND generation = ?", d.Site, d.Node, int64(d.Generation)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r rollouts) Orders(ctx context.Context) (o rollout.Orders, version uint64, err error) {
	var doc string
	if err := missing(r.db.row(ctx, "SELECT version, doc FROM rollout_orders WHERE id = 1").Scan(&version, &doc), nil); err != nil {
		return o, 0, err
	}
	return o, version, decode(doc, &o)
}

func (r rollouts) SaveOrders(ctx context.Context, o rollout.Orders, version uint64) error {
	doc, err := encode(o)
	if err != nil {
		return err
	}
	return r.db.tx(ctx, func(t *tx) error {
		n := 0
		if version == 0 {
			n, err = t.change("INSERT INTO rollout_orders (id, version, doc) VALUES (1, 1, ?) ON CONFLICT (id) DO NOTHING", doc)
		} else {
			n, err = t.change("UPDATE rollout_orders SET version = version + 1, doc = ? WHERE id = 1 AND version = ?", doc, int64(version))
		}
		if err == nil && n == 0 {
			err = fmt.Errorf("standing orders: %w", dispatch.ErrConflict)
		}
		return err
	})
}

// A decision carries the snapshot it rested on, or what changed of it; repeated
// over a fleet it compresses to a tenth and less.
var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))                                   // the options are constants
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30)) // as above
)

func pack(d dispatch.Stored) ([]byte, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode decision %d of %s: %w", d.ID, d.Rollout, err)
	}
	return packer.EncodeAll(b, nil), nil
}

func unpack(b []byte) (d dispatch.Stored, err error) {
	text, err := unpacker.DecodeAll(b, nil)
	return d, errors.Join(err, decode(string(text), &d))
}
