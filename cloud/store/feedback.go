package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Feedback returns the view of frames and labels.
func (db *DB) Feedback() feedback.Store { return said{db} }

type said struct{ db *DB }

func (s said) AddFrame(ctx context.Context, f feedback.Frame) (fresh bool, err error) {
	doc, err := encode(f)
	if err != nil {
		return false, err
	}
	err = s.db.tx(ctx, func(t *tx) error {
		n, err := t.change(`INSERT INTO frames (identity, digest, site, node, class, at, top, doubt, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (identity) DO NOTHING`,
			f.Identity(), string(f.Digest), f.Device.Site, f.Device.Node, string(f.Class), instant(f.At), f.Top, f.Doubt(), doc)
		fresh = n > 0
		return err
	})
	return fresh, err
}

func scanFrame(s scan) (f feedback.Frame, err error) {
	var doc string
	if err = s(&doc); err != nil {
		return f, missing(err, feedback.ErrNoFrame)
	}
	return f, decode(doc, &f)
}

func (s said) Frame(ctx context.Context, d artifact.Digest) (feedback.Frame, error) {
	f, err := scanFrame(s.db.row(ctx, "SELECT doc FROM frames WHERE digest = ? ORDER BY at, identity LIMIT 1", string(d)).Scan)
	if err != nil {
		return f, fmt.Errorf("frame %s: %w", d.Short(), err)
	}
	return f, nil
}

// where collects conditions and their parameters.
type where struct {
	terms []string
	args  []any
}

func (w *where) add(term string, args ...any) {
	w.terms = append(w.terms, term)
	w.args = append(w.args, args...)
}

func (w *where) String() string { return strings.Join(append([]string{"1 = 1"}, w.terms...), " AND ") }

// whose adds what selects devices.
func (w *where) whose(q feedback.Query) {
	if q.Device != nil {
		w.add("site = ? AND node = ?", q.Device.Site, q.Device.Node)
	}
	if len(q.Classes) > 0 {
		args := make([]any, len(q.Classes))
		for i, c := range q.Classes {
			args[i] = string(c)
		}
		w.add("class IN (?"+strings.Repeat(", ?", len(args)-1)+")", args...)
	}
}

// framesOf adds what selects frames.
func (w *where) framesOf(q feedback.Query) error {
	w.whose(q)
	if !q.From.IsZero() {
		w.add("at >= ?", instant(q.From))
	}
	if !q.To.IsZero() {
		w.add("at < ?", instant(q.To))
	}
	if q.Unlabelled {
		w.add("NOT EXISTS (SELECT 1 FROM labels WHERE labels.frame = frames.digest)")
	}
	if q.After != "" {
		at, key, err := q.Place()
		if err != nil {
			return err
		}
		w.add("(at > ? OR at = ? AND identity > ?)", instant(at), instant(at), key)
	}
	return nil
}

func (s said) frames(ctx context.Context, query string, args ...any) (out []feedback.Frame, err error) {
	err = s.db.each(ctx, func(s scan) error {
		f, err := scanFrame(s)
		out = append(out, f)
		return err
	}, query, args...)
	return out, err
}

func (s said) Frames(ctx context.Context, q feedback.Query) ([]feedback.Frame, error) {
	var w where
	if err := w.framesOf(q); err != nil {
		return nil, err
	}
	return s.frames(ctx, "SELECT doc FROM frames WHERE "+w.String()+" ORDER BY at, identity LIMIT ?", append(w.args, q.Page())...)
}

// Queue looks at the least sure frames of every device and predicted class, so
// that one busy device does not hide the others.
func (s said) Queue(ctx context.Context, q feedback.Query) ([]feedback.Frame, error) {
	limit := q.Page()
	q.Unlabelled, q.After = true, ""
	var w where
	if err := w.framesOf(q); err != nil {
		return nil, err
	}
	frames, err := s.frames(ctx, `SELECT doc FROM (
			SELECT doc, doubt, at, identity, ROW_NUMBER() OVER (PARTITION BY site, node, top ORDER BY doubt DESC, at, identity) AS place FROM frames WHERE `+w.String()+`
		) AS ranked ORDER BY place, doubt DESC, at, identity LIMIT ?`, append(w.args, feedback.Candidates)...)
	return feedback.Order(frames, limit), err
}

func (s said) RemoveFrames(ctx context.Context, ds []artifact.Digest) error {
	return s.db.tx(ctx, func(t *tx) error {
		for _, d := range ds {
			if err := t.exec("DELETE FROM frames WHERE digest = ?", string(d)); err != nil {
				return fmt.Errorf("forget frame %s: %w", d.Short(), err)
			}
		}
		return nil
	})
}

func (s said) AddLabels(ctx context.Context, ls []feedback.Label) error {
	return s.db.tx(ctx, func(t *tx) error {
		for _, l := range ls {
			doc, err := encode(l)
			if err != nil {
				return err
			}
			if err := t.exec(`INSERT INTO labels (target, frame, site, node, class, begins, ends, at, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (target) DO UPDATE SET site = excluded.site, node = excluded.node, class = excluded.class, at = excluded.at, doc = excluded.doc
				WHERE labels.at <= excluded.at`,
				l.Target(), string(l.Frame), l.Device.Site, l.Device.Node, string(l.Class), instant(l.From), instant(l.To), instant(l.At), doc); err != nil {
				return fmt.Errorf("label %s: %w", l.Target(), err)
			}
		}
		return nil
	})
}

func (s said) Labels(ctx context.Context, q feedback.Query) (out []feedback.Label, err error) {
	var w where
	w.whose(q)
	if !q.From.IsZero() {
		w.add("ends >= ?", instant(q.From))
	}
	if !q.To.IsZero() {
		w.add("begins < ?", instant(q.To))
	}
	if q.After != "" {
		at, key, err := q.Place()
		if err != nil {
			return nil, err
		}
		w.add("(begins > ? OR begins = ? AND target > ?)", instant(at), instant(at), key)
	}
	err = s.db.each(ctx, func(s scan) error {
		var doc string
		var l feedback.Label
		if err := s(&doc); err != nil {
			return err
		}
		err := decode(doc, &l)
		out = append(out, l)
		return err
	}, "SELECT doc FROM labels WHERE "+w.String()+" ORDER BY begins, target LIMIT ?", append(w.args, q.Page())...)
	return out, err
}
