package sqlite_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/cloud/store/storetest"
)

func open(t *testing.T) *store.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "a b?c", "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestSQLite(t *testing.T) { storetest.Exercise(t, open) }

func TestOpeningAgainKeepsEverything(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.db")
	for i := range 2 {
		db, err := sqlite.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if _, err := db.PutObject(t.Context(), store.Object{Kind: "K", Name: "n", Doc: []byte("{}")}, time.Now()); err != nil {
				t.Fatal(err)
			}
		} else if _, err := db.Object(t.Context(), "K", "n"); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADatabaseOfAnOlderHubIsMigrated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.db")
	storetest.Upgrade(t, func(t *testing.T) *store.DB {
		db, err := sqlite.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}, func(t *testing.T, statement string) {
		raw, err := sql.Open("sqlite", file)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if _, err := raw.Exec(statement); err != nil {
			t.Fatal(err)
		}
	})
}

func TestADatabaseOfANewerHubIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.db")
	db, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	raw, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Exec("INSERT INTO schema_version (version) VALUES (999)"); err != nil {
		t.Fatal(err)
	}
	raw.Close()
	_, err = sqlite.Open(t.Context(), file)
	if err == nil || !strings.Contains(err.Error(), "schema 999") || !strings.Contains(err.Error(), "newer hub") {
		t.Errorf("got %v, want an error that names both schemas", err)
	}
}

func TestAFolderThatCannotBeWrittenIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"a file stands where the folder should be": filepath.Join(dir, "file", "state.db"),
		"the store is a folder":                    dir,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sqlite.Open(t.Context(), file)
			if err == nil || !strings.Contains(err.Error(), "open the store") || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want an error that names the path", err)
			}
		})
	}
}

func TestAFileThatIsNoDatabaseIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(file, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}
