// Package postgres opens the hub's state in a PostgreSQL database, which several
// hubs may share.
//
// It promises serializable transactions: two hubs that contradict each other
// do so one after the other. The composition root and storetest import it.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/swellfleet/swell/cloud/store"
)

// SQL states (PostgreSQL manual, appendix A) that the store acts on.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	uniqueViolation      = "23505"
)

var dialect = store.Dialect{
	Name:     "postgres",
	Bytes:    "BYTEA",
	Serial:   "BIGSERIAL PRIMARY KEY",
	Numbered: true,
	LockSQL:  "SELECT pg_advisory_xact_lock(7440744074407440)",
	Isolate:  true,
	Retry: func(err error) bool {
		c := code(err)
		return c == serializationFailure || c == deadlockDetected
	},
	Conflict: func(err error) bool { return code(err) == uniqueViolation },
}

func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// connections bounds what one hub holds open.
const connections = 16

// Open connects to the database that url names, such as
// postgres://swell@db/swell?sslmode=verify-full.
func Open(ctx context.Context, url string) (*store.DB, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err) // pgx leaves the password out of it
	}
	db := stdlib.OpenDB(*cfg)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections / 2)
	db.SetConnMaxIdleTime(5 * time.Minute)
	if err := ping(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store on %s:%d: %w", cfg.Host, cfg.Port, err), db.Close())
	}
	s, err := store.New(ctx, dialect, db, db)
	if err != nil {
		return nil, fmt.Errorf("open the store on %s:%d: %w", cfg.Host, cfg.Port, err)
	}
	return s, nil
}

func ping(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return db.PingContext(ctx)
}
