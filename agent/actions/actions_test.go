package actions_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swellfleet/swell/agent/actions"
)

func TestEachSpellHasOneStartAndOneEnd(t *testing.T) {
	name := filepath.Join(t.TempDir(), "anomaly.json")
	synctest.Test(t, func(t *testing.T) {
		var got []actions.Event
		a := actions.New(actions.Config{Event: true, File: name, ClearAfter: 2}, slog.New(slog.DiscardHandler), func(_ context.Context, b []byte) error {
			var e actions.Event
			if err := json.Unmarshal(b, &e); err != nil {
				t.Error(err)
			}
			got = append(got, e)
			return nil
		})
		ctx, stop := context.WithCancel(t.Context())
		go a.Run(ctx)
		for i, score := range []float32{0, 5, 7, 0, float32(math.NaN()), 0, 0, 0, 9} {
			a.Window(actions.Window{Row: uint64(i), At: time.Unix(int64(i), 0), Score: score, Flagged: score != 0, Name: "m", Counter: 1})
		}
		synctest.Wait()
		stop()
		var said []string
		for _, e := range got {
			said = append(said, e.Type)
		}
		if strings.Join(said, " ") != "anomaly.started anomaly.ended anomaly.started" {
			t.Fatalf("said %v", said)
		}
		if e := got[1]; e.Row != 6 || e.Peak != 7 || e.Windows != 3 || e.Release != "m-1" {
			t.Errorf("end %+v", e)
		}
	})
	b, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(b), `"anomaly.started","row":8`) {
		t.Errorf("file %s, %v", b, err)
	}
}

func TestEventsThatCannotBePassedOnAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := actions.New(actions.Config{Event: true, ClearAfter: 1}, slog.New(slog.DiscardHandler), func(context.Context, []byte) error { return errors.New("offline") })
		for i := range 100 { // nobody takes them: the queue is full at some point
			a.Window(actions.Window{Row: uint64(i), At: time.Unix(0, 0), Score: 1, Flagged: i%2 == 0, Name: "m", Counter: 1})
		}
		if n := a.Dropped(); n != 36 {
			t.Errorf("%d dropped of 100, with room for 64", n)
		}
		ctx, stop := context.WithCancel(t.Context())
		go a.Run(ctx)
		synctest.Wait()
		stop()
		if n := a.Dropped(); n != 100 {
			t.Errorf("%d dropped", n)
		}
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	if err := (actions.Config{File: "relative"}).Validate(); err == nil {
		t.Error("a relative file was accepted")
	}
	if err := (actions.Config{ClearAfter: -1}).Validate(); err == nil {
		t.Error("a negative clear_after was accepted")
	}
}
