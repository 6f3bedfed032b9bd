package influx

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/series/influx/influxtest"
	"github.com/swellfleet/swell/cloud/series/seriestest"
)

func open(t *testing.T, server *influxtest.Server, change ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{URL: server.URL, Token: influxtest.Token, Org: influxtest.Org, Bucket: influxtest.Bucket, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestExercise(t *testing.T) {
	seriestest.Exercise(t, seriestest.Options{RollupsOnly: true}, func(t *testing.T) series.Store {
		return open(t, influxtest.New(t))
	})
}

// count is how many values of a signal the server has over the first seconds.
func count(t *testing.T, s *Store, name string) int64 {
	t.Helper()
	start := seriestest.Start.UnixNano()
	r, err := s.Query(context.Background(), series.Query{ID: seriestest.ID, Stream: "raw", Signals: []string{name}, From: start, To: start + 100e9, MaxPoints: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Signals) == 0 {
		return 0
	}
	return r.Signals[0].Count[0]
}

func TestFaultsAreReportedAndTryingAgainChangesNothingTwice(t *testing.T) {
	for _, tc := range []struct {
		name     string
		fault    influxtest.Fault
		rejected bool
		written  int64
	}{
		{"429", influxtest.TooMany, false, 0},
		{"503", influxtest.Unavailable, false, 0},
		{"the connection breaks before the answer", influxtest.Cut, false, 100},
		{"400 with part of it written", influxtest.Partial, true, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := influxtest.New(t)
			s := open(t, server)
			server.Fail(tc.fault)
			b := seriestest.Wave(0)
			err := s.Append(context.Background(), []series.Batch{b})
			if err == nil || errors.Is(err, series.ErrRejected) != tc.rejected {
				t.Errorf("error %v", err)
			}
			if n := count(t, s, "f32"); n != tc.written {
				t.Errorf("%d values after the fault, want %d", n, tc.written)
			}
			for range 2 {
				if err := s.Append(context.Background(), []series.Batch{b}); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"f32", "f64", "i64", "flag"} {
				if n := count(t, s, name); n != 100 {
					t.Errorf("%d values of %s, want 100", n, name)
				}
			}
		})
	}
}

func TestOneBadBatchDoesNotSpoilTheOthers(t *testing.T) {
	server := influxtest.New(t)
	s := open(t, server)
	server.Refuse("evil")
	release := server.Hold()
	bad := seriestest.Wave(1)
	bad.Columns[0].Name = "evil"
	answers := make([]error, 4)
	var wait sync.WaitGroup
	put := func(i int, b series.Batch) {
		wait.Go(func() { answers[i] = s.Append(context.Background(), []series.Batch{b}) })
	}
	// The first is on its way before the others come, so that these wait together.
	put(0, seriestest.Wave(0))
	await(t, func() bool { return server.Writes() == 1 })
	put(1, bad)
	put(2, seriestest.Wave(2))
	put(3, seriestest.Wave(3))
	await(t, func() bool { return len(s.requests) == 3 })
	release()
	wait.Wait()
	for i, err := range answers {
		if (i == 1) != errors.Is(err, series.ErrRejected) || i != 1 && err != nil {
			t.Errorf("batch %d: %v", i, err)
		}
	}
	if n := count(t, s, "f32"); n != 300 {
		t.Errorf("%d values, want 300", n)
	}
}

func await(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited too long")
		}
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	server := influxtest.New(t)
	s := open(t, server, func(c *Config) { c.Queue = 2 })
	release := server.Hold()
	var wait sync.WaitGroup
	one := func(n int) {
		wait.Go(func() {
			if err := s.Append(context.Background(), []series.Batch{seriestest.Wave(n)}); err != nil {
				t.Error(err)
			}
		})
	}
	one(0)
	await(t, func() bool { return server.Writes() == 1 })
	one(1)
	one(2)
	await(t, func() bool { return len(s.requests) == 2 })
	if err := s.Append(context.Background(), []series.Batch{seriestest.Wave(3)}); !errors.Is(err, series.ErrFull) {
		t.Errorf("error %v, want no room", err)
	}
	release()
	wait.Wait()
	if n := server.Writes(); n != 2 {
		t.Errorf("%d requests: those that waited should share one", n)
	}
}

func TestNamesAreKeptWhateverTheyHold(t *testing.T) {
	s := open(t, influxtest.New(t))
	for i, name := range []string{`a b,c=d`, `quote"d`, `back\\slash`, `${x}`, `ünï`} {
		b := seriestest.Wave(i)
		b.Columns = b.Columns[:1]
		b.Columns[0].Name, b.Columns[0].Unit = name, ""
		if err := s.Append(context.Background(), []series.Batch{b}); err != nil {
			t.Fatal(err)
		}
		if n := count(t, s, name); n != 100 {
			t.Errorf("%s: %d values, want 100", name, n)
		}
	}
}

func TestCheckSaysWhatToDo(t *testing.T) {
	server := influxtest.New(t)
	ctx := context.Background()
	if err := open(t, server).Check(ctx); err != nil {
		t.Errorf("a well server: %v", err)
	}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no server", func(c *Config) { c.URL = "http://127.0.0.1:1" }, "check the address"},
		{"no bucket", func(c *Config) { c.Bucket = "none" }, "create it"},
		{"wrong token", func(c *Config) { c.Token = "wrong" }, "the token"},
	} {
		if err := open(t, server, tc.change).Check(ctx); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, err := Open(Config{URL: server.URL}); err == nil {
		t.Error("opened without a token")
	}
}

func TestAfterCloseNothingIsTaken(t *testing.T) {
	s := open(t, influxtest.New(t))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(context.Background(), []series.Batch{seriestest.Wave(0)}); !errors.Is(err, series.ErrClosed) {
		t.Errorf("error %v", err)
	}
}
