package retrain

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
)

// watched is a hub whose clock the test sets, and that always looks for drift.
type watched struct {
	*rig
	mu    sync.Mutex
	now   time.Time
	asked int // for the time; guarded by mu, like now
}

func watch(t *testing.T, p *plant) *watched {
	w := &watched{now: night}
	w.rig = startWith(t, p, func(c *Config) {
		c.LookEvery = time.Millisecond
		c.Now = func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.asked++
			w.now = w.now.Add(time.Millisecond)
			return w.now
		}
	})
	return w
}

// later lets hours pass and the hub look a few times, and returns the runs by
// drift so far, newest first.
func (w *watched) later(t *testing.T, hours int) []Run {
	t.Helper()
	for range hours {
		w.mu.Lock()
		w.now = w.now.Add(time.Hour)
		from := w.asked
		w.mu.Unlock()
		for deadline := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
			w.mu.Lock()
			looked := w.asked >= from+8 // each look asks twice or more
			w.mu.Unlock()
			if looked {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the hub does not look")
			}
		}
	}
	var out []Run
	runs, err := w.Runs(100, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		if r.Order.Trigger == ByDrift {
			out = append(out, w.wait(t, r.ID))
		}
	}
	return out
}

// moved is the data of a plant whose flow lies higher.
func moved(p *plant, by float32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.devices {
		c := p.columns[id(i)]
		values := make([]float32, len(c.Signals[1].Values))
		for k, v := range c.Signals[1].Values {
			values[k] = v + by
		}
		c.Signals = append([]Signal{}, c.Signals...)
		c.Signals[1].Values = values
		p.columns[id(i)] = c
	}
}

// Live data that moves away from what the champion learned starts one night,
// which says why; while its release is on its way the same drift starts no
// other, and a further one does.
func TestDriftStartsOneNightAndTheSameDriftNoOther(t *testing.T) {
	p := newPlant(2, 600)
	w := watch(t, p)
	pol := Policy{Name: "pumps", Seed: 7, Kinds: []string{"pca"}, DriftLimit: 1, Gates: Gates{MinDetected: 0.01, MaxFlagShare: 0.3, Margin: 1, SliceMargin: 1}}
	if err := w.Apply(t.Context(), pol); err != nil {
		t.Fatal(err)
	}
	if runs := w.later(t, 2); len(runs) != 0 {
		t.Fatalf("without a champion drift started %+v", runs[0].Order)
	}
	if first := w.night(t); first.Outcome.Released == nil {
		t.Fatalf("refused: %v", first.Outcome.Refusals())
	}
	if err := registry.Promote(t.Context(), w.reg, "pumps", 1, "test"); err != nil {
		t.Fatal(err)
	}
	if runs := w.later(t, 14); len(runs) != 0 {
		t.Fatalf("without drift it started %+v", runs[0].Order)
	}
	moved(p, 12)
	runs := w.later(t, 5)
	if len(runs) != 1 {
		t.Fatalf("drift started %d nights within five hours, want one", len(runs))
	}
	if why := runs[0].Order.Reason; !strings.Contains(why, "channel flow has drifted") || !strings.Contains(why, "limit 1.00") {
		t.Errorf("its reason is %q", why)
	}
	if runs[0].Outcome.Released == nil {
		t.Fatalf("refused: %v %s", runs[0].Outcome.Refusals(), runs[0].Err)
	}
	if runs := w.later(t, 30); len(runs) != 1 {
		t.Errorf("the same drift started %d nights while the answer to the first was on its way", len(runs))
	}
	moved(p, 12)
	if runs := w.later(t, 2); len(runs) != 2 {
		t.Errorf("a further drift started %d nights, want a second", len(runs))
	}
	// A release that was stopped in its rollout has answered nothing.
	for _, counter := range []uint64{2, 3} {
		if err := w.reg.SetStage(t.Context(), "pumps", counter, registry.RolledBack, "it flagged everything"); err != nil {
			t.Fatal(err)
		}
	}
	if runs := w.later(t, 24); len(runs) < 3 || len(runs) > 4 {
		t.Errorf("in the day after both releases were stopped drift started %d nights, want one or two more", len(runs)-2)
	}
	pol.Paused = true
	if err := w.Apply(t.Context(), pol); err != nil {
		t.Fatal(err)
	}
	n := len(w.later(t, 1))
	if runs := w.later(t, 24); len(runs) != n {
		t.Errorf("a paused policy started %d nights", len(runs)-n)
	}
	kept := 0
	for info, err := range w.cfg.Objects.List(t.Context(), "snapshots/") {
		if err != nil {
			t.Fatal(info, err)
		}
		kept++
	}
	if all, err := w.Runs(100, 0); err != nil || kept > len(all)+1 { // it may be looking just now
		t.Errorf("%d snapshots are kept of %d runs: a look leaves its own behind", kept, len(all))
	}
}

// A hub that was down over its schedule runs what the policy says, once.
func TestAHubThatWasDownCatchesUp(t *testing.T) {
	began := time.Now().UTC().Truncate(time.Hour)
	for catchUp, want := range map[string]int{CatchUpNone: 0, CatchUpLatest: 1, CatchUpAll: 3} {
		t.Run(catchUp, func(t *testing.T) {
			p := newPlant(1, 10)
			now := began
			var conf Config
			r := startWith(t, p, func(c *Config) {
				c.Now = func() time.Time { return now }
				conf = *c
			})
			pol := Policy{Name: "pumps", Seed: 7, Kinds: []string{"pca"}, CatchUp: catchUp, Schedule: engine.Schedule{
				Cron: time.Unix(0, 0).UTC().Add(time.Duration((began.Hour()+12)%24) * time.Hour).Format("4 15 * * *"), // not while this test runs
			}}
			if err := r.Apply(t.Context(), pol); err != nil {
				t.Fatal(err)
			}
			r.Close()
			for _, away := range []int{3, 0} { // the second start has missed nothing
				now = now.AddDate(0, 0, away)
				s, err := Open(t.Context(), conf)
				if err != nil {
					t.Fatal(err)
				}
				runs, err := s.Runs(100, 0)
				if err != nil {
					t.Fatal(err)
				}
				if len(runs) != want {
					t.Errorf("%d days away: %d runs, want %d", away, len(runs), want)
				}
				for _, run := range runs {
					if o := run.Order; o.Trigger != BySchedule || o.At.After(now) || o.At.Before(began) {
						t.Errorf("order %+v", o)
					}
					(&rig{Service: s}).wait(t, run.ID)
				}
				s.Close()
			}
		})
	}
}
