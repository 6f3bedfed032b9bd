// Package sqlite opens the hub's state in an SQLite file, the way of a single
// hub. It needs nothing beside the file's folder.
//
// It promises that what a transaction wrote survives a power cut once the
// method returned (write-ahead log, synchronous=FULL). The composition root
// and storetest import it.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	msqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/swellfleet/swell/cloud/store"
)

var dialect = store.Dialect{
	Name:   "sqlite",
	Bytes:  "BLOB",
	Serial: "INTEGER PRIMARY KEY AUTOINCREMENT",
	Retry: func(err error) bool {
		c := code(err)
		return c&0xff == sqlite3.SQLITE_BUSY || c&0xff == sqlite3.SQLITE_LOCKED
	},
	Conflict: func(err error) bool {
		c := code(err)
		return c == sqlite3.SQLITE_CONSTRAINT_UNIQUE || c == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	},
}

func code(err error) int {
	if e, ok := errors.AsType[*msqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}

// readers is how many queries run beside the one writer.
const readers = 4

// Open opens the store in the file, making it and its folder when absent.
func Open(ctx context.Context, file string) (*store.DB, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	// SQLite's own message for a file it may not write is "unable to open";
	// the system's names the reason.
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w: the hub's user must be able to write it", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	write, err := sql.Open("sqlite", dsn(file, "_txlock=immediate"))
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", file, err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn(file, "_pragma=query_only(1)"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", file, err), write.Close())
	}
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	db, err := store.New(ctx, dialect, write, read)
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", file, err)
	}
	return db, nil
}

func dsn(file, extra string) string {
	return "file:" + (&url.URL{Path: file}).EscapedPath() +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&" + extra
}
