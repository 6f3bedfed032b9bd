package engine

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// clerk opens and closes an engine whose runs are named for the times they
// were due.
type clerk struct {
	path string
	now  time.Time
	rule Schedule
}

func (c *clerk) up(t *testing.T) *Engine {
	t.Helper()
	e, err := Open(t.Context(), Config{
		SQLitePath: c.path, ExecutorID: "hub-1", Version: "v1", Now: func() time.Time { return c.now },
		Workflow: func(*Run, json.RawMessage) (json.RawMessage, error) { return json.RawMessage(`1`), nil },
		Tick: func(name string, at time.Time) (string, json.RawMessage, int, error) {
			return name + "-" + at.UTC().Format("0102T15"), json.RawMessage(`1`), 0, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetSchedules([]Schedule{c.rule}); err != nil {
		t.Fatal(err)
	}
	return e
}

// ran names the runs so far.
func ran(t *testing.T, e *Engine) []string {
	t.Helper()
	infos, err := e.List(1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range infos {
		out = append(out, i.ID)
	}
	slices.Sort(out)
	return out
}

// What a process missed while it was down is run as the rule says: once, also
// when it was down before the rule's first time, and also when its record of
// those runs is gone by the next start.
func TestMissedTimesOfAScheduleAreCaughtUpAsTheRuleSays(t *testing.T) {
	began := time.Now().UTC().Truncate(time.Hour)
	daily := Schedule{Name: "nightly", Cron: fmt.Sprintf("0 %d * * *", (began.Hour()+12)%24)} // not while this test runs
	all := daily
	all.CatchUp = true
	due := func(days ...int) (out []string) {
		for _, d := range days {
			out = append(out, "nightly-"+began.Add(12*time.Hour).AddDate(0, 0, d).Format("0102T15"))
		}
		return out
	}
	for name, tc := range map[string]struct {
		rule Schedule
		want []string
	}{
		"none":   {daily, nil},
		"latest": {daily.CatchUpLatest(), due(2)},
		"all":    {all, due(0, 1, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clerk{path: filepath.Join(t.TempDir(), "runs.db"), now: began, rule: tc.rule}
			e := c.up(t)
			if got := ran(t, e); len(got) != 0 {
				t.Errorf("a new rule has missed %v", got)
			}
			e.Close()
			c.now = began.AddDate(0, 0, 3)
			e = c.up(t)
			if got := ran(t, e); strings.Join(got, " ") != strings.Join(tc.want, " ") {
				t.Errorf("after three days it ran %v, want %v", got, tc.want)
			}
			for _, id := range tc.want {
				waitFor(t, e, id, Succeeded)
			}
			if err := e.Delete(tc.want...); err != nil {
				t.Fatal(err)
			}
			// Another policy is applied, this one is changed, and changed again.
			for _, cron := range []string{daily.Cron, "0 * * * *", daily.Cron} {
				c.rule.Cron = cron
				if err := e.SetSchedules([]Schedule{c.rule, {Name: "other", Cron: "0 0 1 1 *", CatchUp: true}}); err != nil {
					t.Fatal(err)
				}
			}
			e.Close()
			c.now = c.now.Add(time.Hour)
			e = c.up(t)
			if got := ran(t, e); len(got) != 0 {
				t.Errorf("a restart without anything missed ran %v", got)
			}
			e.Close()
		})
	}
}

func TestAScheduleOfTheLastStartFires(t *testing.T) {
	c := &clerk{path: filepath.Join(t.TempDir(), "runs.db"), now: time.Now(), rule: Schedule{Name: "often", Cron: "* * * * * *"}}
	c.up(t).Close()
	e := c.up(t)
	defer e.Close()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(50 * time.Millisecond) {
		if got := ran(t, e); len(got) > 0 {
			if !strings.HasPrefix(got[0], "often-") {
				t.Errorf("ran %v", got)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing ran within 20 s")
		}
	}
}
