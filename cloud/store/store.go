// Package store keeps the hub's state in SQL: people, devices, enrolment,
// rollouts with their decisions, desired documents, model versions and
// policies.
//
// The parties are the packages that own those words, each of which declares the
// small Store interface it needs, and a database: SQLite in a file of the hub's
// own (store/sqlite) or PostgreSQL for several hubs (store/postgres). One text
// of SQL serves both; storetest runs every package's Exercise against each.
//
// It promises that every method is one transaction, serializable and durable
// on return, and that a database of a newer hub is refused instead of being
// misread. It decides nothing. Only the composition root opens it.
package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"
)

// Dialect is what differs between the two databases.
type Dialect struct {
	Name     string // "sqlite" or "postgres"
	Bytes    string // column type of raw bytes
	Serial   string // column type of a rising primary key
	Numbered bool   // parameters are $1, $2, … instead of ?
	LockSQL  string // run in the migrating transaction to keep other hubs out; empty: not needed
	Isolate  bool   // ask for serializable transactions; SQLite has no others
	// Retry says whether a transaction failed only because of another one.
	Retry func(error) bool
	// Conflict says whether a unique key exists already.
	Conflict func(error) bool
}

// DB is an open store. Its methods hand out the views that the packages ask
// for; they are safe for concurrent use.
type DB struct {
	dialect Dialect
	write   *sql.DB
	read    *sql.DB

	evidence atomic.Uint64 // bytes of decisions stored
}

// New migrates the database to this hub's schema and returns the store. read
// may be the same as write. It closes both when it fails.
func New(ctx context.Context, d Dialect, write, read *sql.DB) (*DB, error) {
	db := &DB{dialect: d, write: write, read: read}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// Close ends all connections.
func (db *DB) Close() error {
	err := db.write.Close()
	if db.read != db.write {
		err = errors.Join(err, db.read.Close())
	}
	return err
}

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.read.PingContext(ctx); err != nil {
		return fmt.Errorf("reach the %s store: %w", db.dialect.Name, err)
	}
	return nil
}

//go:embed migrations/*.sql
var migrations embed.FS

// migrate applies what is missing, all in one transaction.
func (db *DB) migrate(ctx context.Context) error {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	// Read committed: under a snapshot taken before the lock was granted, the
	// migration another hub has just made would be invisible.
	return db.once(ctx, &sql.TxOptions{}, func(tx *tx) error {
		if db.dialect.LockSQL != "" {
			if err := tx.exec(db.dialect.LockSQL); err != nil {
				return fmt.Errorf("wait for other hubs to migrate: %w", err)
			}
		}
		if err := tx.exec("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"); err != nil {
			return fmt.Errorf("read the schema's version: %w", err)
		}
		var have int
		if err := tx.row("SELECT COALESCE(MAX(version), 0) FROM schema_version").Scan(&have); err != nil {
			return fmt.Errorf("read the schema's version: %w", err)
		}
		if have > len(files) {
			return fmt.Errorf("the store has schema %d and this hub knows %d: run the newer hub, or restore the backup made before it", have, len(files))
		}
		for i, name := range files[have:] {
			text, err := fs.ReadFile(migrations, name)
			if err != nil {
				return err
			}
			text2 := strings.NewReplacer("{{bytes}}", db.dialect.Bytes, "{{serial}}", db.dialect.Serial).Replace(string(text))
			for _, stmt := range strings.Split(text2, ";\n") {
				if strings.TrimSpace(stmt) == "" {
					continue
				}
				if err := tx.exec(stmt); err != nil {
					return fmt.Errorf("migrate the store by %s: %w", name, err)
				}
			}
			if err := tx.exec("INSERT INTO schema_version (version) VALUES (?)", have+i+1); err != nil {
				return fmt.Errorf("note the schema's version: %w", err)
			}
		}
		return nil
	})
}

// bind writes the parameters the dialect's way.
func (d Dialect) bind(q string) string {
	if !d.Numbered {
		return q
	}
	var b strings.Builder
	n := 0
	for {
		i := strings.IndexByte(q, '?')
		if i < 0 {
			b.WriteString(q)
			return b.String()
		}
		n++
		fmt.Fprintf(&b, "%s$%d", q[:i], n)
		q = q[i+1:]
	}
}

// tx is one transaction.
type tx struct {
	ctx context.Context
	db  *DB
	tx  *sql.Tx
}

// maxTries bounds how often a transaction is run again after losing to others.
const maxTries = 12

// tx runs f in a transaction, again when it lost to another one.
func (db *DB) tx(ctx context.Context, f func(*tx) error) error {
	opts := &sql.TxOptions{}
	if db.dialect.Isolate {
		opts.Isolation = sql.LevelSerializable
	}
	for try := 1; ; try++ {
		err := db.once(ctx, opts, f)
		if err == nil || try == maxTries || !db.dialect.Retry(err) {
			return err
		}
		select {
		case <-time.After(time.Duration(try*try) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (db *DB) once(ctx context.Context, opts *sql.TxOptions, f func(*tx) error) error {
	t, err := db.write.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := f(&tx{ctx: ctx, db: db, tx: t}); err != nil {
		return errors.Join(err, ignoreDone(t.Rollback()))
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// ignoreDone drops the error of rolling back what a broken connection or an
// ended context has already rolled back.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

func (t *tx) exec(q string, args ...any) error {
	_, err := t.tx.ExecContext(t.ctx, t.db.dialect.bind(q), args...)
	return err
}

// change runs a statement and returns how many rows it changed.
func (t *tx) change(q string, args ...any) (int, error) {
	res, err := t.tx.ExecContext(t.ctx, t.db.dialect.bind(q), args...)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}

func (t *tx) row(q string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(t.ctx, t.db.dialect.bind(q), args...)
}

// each calls f for every row of a query in the transaction.
func (t *tx) each(f func(scan) error, q string, args ...any) error {
	rows, err := t.tx.QueryContext(t.ctx, t.db.dialect.bind(q), args...)
	if err != nil {
		return err
	}
	return drain(rows, f)
}

// scan reads the columns of one row.
type scan func(...any) error

// each calls f for every row of a query outside a transaction.
func (db *DB) each(ctx context.Context, f func(scan) error, q string, args ...any) error {
	rows, err := db.read.QueryContext(ctx, db.dialect.bind(q), args...)
	if err != nil {
		return err
	}
	return drain(rows, f)
}

func drain(rows *sql.Rows, f func(scan) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (db *DB) row(ctx context.Context, q string, args ...any) *sql.Row {
	return db.read.QueryRowContext(ctx, db.dialect.bind(q), args...)
}

// instant is a time as stored: ns since 1970 UTC, 0 for the zero time.
func instant(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// moment reads what instant wrote.
func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// encode returns v as JSON text. What the hub stores always marshals.
func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode %T: %w", v, err)
	}
	return string(b), nil
}

// decode reads what encode wrote; an empty text leaves v as it is.
func decode(s string, v any) error {
	if s == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(s), v); err != nil {
		return fmt.Errorf("decode stored %T: %w", v, err)
	}
	return nil
}

// sum32 copies a stored sum.
func sum32(b []byte) (out [32]byte, err error) {
	if len(b) != len(out) {
		return out, fmt.Errorf("stored sum has %d bytes", len(b))
	}
	copy(out[:], b)
	return out, nil
}
