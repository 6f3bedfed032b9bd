package postgres_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/cloud/store/postgres"
	"github.com/swellfleet/swell/cloud/store/storetest"
)

func TestPostgres(t *testing.T) {
	database := storetest.Postgres(t)
	open := func(t *testing.T) *store.DB {
		t.Helper()
		db, err := postgres.Open(t.Context(), database(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	storetest.Exercise(t, open)

	t.Run("a database of an older hub is migrated", func(t *testing.T) {
		url := database(t)
		storetest.Upgrade(t, func(t *testing.T) *store.DB {
			db, err := postgres.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			return db
		}, func(t *testing.T, statement string) {
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		})
	})

	t.Run("hubs that start together migrate once", func(t *testing.T) {
		url := database(t)
		var wg sync.WaitGroup
		errs := make([]error, 5)
		for i := range errs {
			wg.Go(func() {
				db, err := postgres.Open(t.Context(), url)
				if errs[i] = err; err == nil {
					db.Close()
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

func TestAServerThatDoesNotAnswerIsNamedWithoutItsPassword(t *testing.T) {
	_, err := postgres.Open(t.Context(), "postgres://swell:sesame@127.0.0.1:1/swell?connect_timeout=2")
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("got %v", err)
	}
}
