package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors of objects that callers branch on.
var (
	// ErrNotFound means that there is no object of this kind and name.
	ErrNotFound = errors.New("no such object")
	// ErrChanged means that somebody stored another version meanwhile.
	ErrChanged = errors.New("the object was changed by somebody else")
	// ErrInvalid means that an object breaks a rule of its kind; the text that
	// wraps it says which. The store itself checks nothing.
	ErrInvalid = errors.New("the object is not valid")
)

// Object is a named document that people apply, such as a policy.
type Object struct {
	Kind, Name string
	Version    uint64 // rises with every change, from 1
	Created    time.Time
	Updated    time.Time
	Doc        []byte // JSON
}

// Object returns one object, or ErrNotFound.
func (db *DB) Object(ctx context.Context, kind, name string) (Object, error) {
	o, err := scanObject(db.row(ctx, selectObject+" WHERE kind = ? AND name = ?", kind, name).Scan)
	if err != nil {
		return o, fmt.Errorf("%s %s: %w", kind, name, err)
	}
	return o, nil
}

const selectObject = "SELECT kind, name, version, created, updated, doc FROM objects"

func scanObject(s scan) (o Object, err error) {
	var created, updated int64
	var doc string
	err = s(&o.Kind, &o.Name, &o.Version, &created, &updated, &doc)
	o.Created, o.Updated, o.Doc = moment(created), moment(updated), []byte(doc)
	return o, missing(err, ErrNotFound)
}

// Objects lists objects of a kind by name, after the given one; limit 0 means
// all.
func (db *DB) Objects(ctx context.Context, kind, after string, limit int) (out []Object, err error) {
	if limit == 0 {
		limit = 1 << 30
	}
	err = db.each(ctx, func(s scan) error {
		o, err := scanObject(s)
		out = append(out, o)
		return err
	}, selectObject+" WHERE kind = ? AND name > ? ORDER BY name LIMIT ?", kind, after, limit)
	return out, err
}

// PutObject stores o at now and returns it as stored. o.Version, unless zero,
// must be the present one, else ErrChanged.
func (db *DB) PutObject(ctx context.Context, o Object, now time.Time) (Object, error) {
	err := db.tx(ctx, func(t *tx) error {
		old, err := scanObject(t.row(selectObject+" WHERE kind = ? AND name = ?", o.Kind, o.Name).Scan)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if o.Version != 0 && o.Version != old.Version {
			return ErrChanged
		}
		next := Object{Kind: o.Kind, Name: o.Name, Version: old.Version + 1, Created: old.Created, Updated: now.UTC(), Doc: o.Doc}
		if old.Version == 0 {
			next.Created = now.UTC()
		}
		if err := t.exec(`INSERT INTO objects (kind, name, version, created, updated, doc) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (kind, name) DO UPDATE SET version = excluded.version, updated = excluded.updated, doc = excluded.doc`,
			next.Kind, next.Name, int64(next.Version), instant(next.Created), instant(next.Updated), string(next.Doc)); err != nil {
			return err
		}
		o = next
		return nil
	})
	if err != nil {
		return Object{}, fmt.Errorf("store %s %s: %w", o.Kind, o.Name, err)
	}
	return o, nil
}

// Answer is what a call with an idempotency key was answered.
type Answer struct {
	Request [32]byte // sum of the request it answered
	Status  int      // HTTP status
	Body    []byte
}

// Answer returns what actor's call under key was answered since then, and
// false when there was none.
func (db *DB) Answer(ctx context.Context, actor, key string, since time.Time) (Answer, bool, error) {
	var a Answer
	var sum []byte
	err := db.row(ctx, "SELECT request, status, body FROM idempotency WHERE actor = ? AND key = ? AND created >= ?", actor, key, instant(since)).Scan(&sum, &a.Status, &a.Body)
	if err := missing(err, nil); err != nil || sum == nil {
		return Answer{}, false, err
	}
	a.Request, err = sum32(sum)
	return a, err == nil, err
}

// SaveAnswer keeps an answer given at now, and forgets those from before since.
func (db *DB) SaveAnswer(ctx context.Context, actor, key string, a Answer, now, since time.Time) error {
	return db.tx(ctx, func(t *tx) error {
		if err := t.exec("DELETE FROM idempotency WHERE created < ?", instant(since)); err != nil {
			return err
		}
		return t.exec("INSERT INTO idempotency (actor, key, request, status, body, created) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (actor, key) DO NOTHING",
			actor, key, a.Request[:], a.Status, append([]byte{}, a.Body...), instant(now)) // never NULL
	})
}
