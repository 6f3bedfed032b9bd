package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/store/postgres"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/cloud/store/storetest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// process is one life of a hub. It counts what it does to the world outside,
// reads and writes of the store and publications, and at the k-th of them
// strikes: it dies before or after it, or it sleeps while another hub takes
// over, and then goes on with what it knew.
type process struct {
	dispatch.Store
	plant  *plant
	n, k   int
	strike func(do func() error) error
	dead   bool
}

func (p *process) do(f func() error) error {
	if p.dead {
		return errCrash
	}
	if p.n++; p.n == p.k {
		return p.strike(f)
	}
	return f()
}

func call[T any](p *process, f func() (T, error)) (out T, err error) {
	err = p.do(func() error { out, err = f(); return err })
	return out, err
}

func (p *process) Acquire(ctx context.Context, holder string, now time.Time, ttl time.Duration) (bool, error) {
	return call(p, func() (bool, error) { return p.Store.Acquire(ctx, holder, now, ttl) })
}

func (p *process) Versions(ctx context.Context) (map[string]uint64, error) {
	return call(p, func() (map[string]uint64, error) { return p.Store.Versions(ctx) })
}

func (p *process) Rollouts(ctx context.Context) ([]rollout.Rollout, error) {
	return call(p, func() ([]rollout.Rollout, error) { return p.Store.Rollouts(ctx) })
}

func (p *process) Load(ctx context.Context, name string) (dispatch.Loaded, error) {
	return call(p, func() (dispatch.Loaded, error) { return p.Store.Load(ctx, name) })
}

func (p *process) Commit(ctx context.Context, c dispatch.Commit) (uint64, error) {
	return call(p, func() (uint64, error) { return p.Store.Commit(ctx, c) })
}

func (p *process) Unpublished(ctx context.Context, limit int) ([]twin.Desired, error) {
	return call(p, func() ([]twin.Desired, error) { return p.Store.Unpublished(ctx, limit) })
}

func (p *process) Published(ctx context.Context, docs []twin.Desired) error {
	return p.do(func() error { return p.Store.Published(ctx, docs) })
}

// Publish implements dispatch.Publisher.
func (p *process) Publish(ctx context.Context, d twin.Desired) error {
	return p.do(func() error { return p.plant.Publish(ctx, d) })
}

func (p *process) hub(t *testing.T, name string) *dispatch.Dispatcher {
	t.Helper()
	d, err := dispatch.New(dispatch.Config{Holder: name, Store: p, Fleet: p.plant, Publisher: p, Ledger: p.plant, Now: func() time.Time { return p.plant.now }, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// outcome is what must not depend on who decided when.
func outcome(t *testing.T, p *plant, s dispatch.Store) string {
	t.Helper()
	l, err := s.Load(t.Context(), "r-2")
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%s after %d waves;", l.Rollout.State, len(l.Rollout.Waves))
	for _, d := range p.devices {
		out += fmt.Sprintf(" %s: wave %d, %s, runs %d;", d.ID.Node, l.Records[d.ID].Wave, l.Records[d.ID].Offer, d.Champion.Counter)
	}
	return out
}

// night runs hub a, struck at its k-th step, beside hub b, until the rollout
// has ended. It returns what came of it, and whether a ever came to step k.
func night(t *testing.T, s dispatch.Store, k int, how string) (result string, reached bool) {
	t.Helper()
	p := newPlant(6)
	propose(t, p.hub(t, s, "people"), proposal("r-2", 2))
	b := (&process{Store: s, plant: p}).hub(t, "b")
	look := func(d *dispatch.Dispatcher) {
		if _, err := d.RunOnce(t.Context()); err != nil && !errors.Is(err, errCrash) {
			t.Fatalf("%s step %d: %v", how, k, err)
		}
	}
	a := &process{Store: s, plant: p, k: k}
	a.strike = func(do func() error) error {
		reached = true
		switch how {
		case "dies before":
			a.dead = true
			return errCrash
		case "dies after":
			a.dead = true
			return errors.Join(errCrash, do())
		}
		for range 6 { // a minute: its lease ends in the middle of it
			p.round()
			look(b)
		}
		return do()
	}
	hub := a.hub(t, "a")
	for i := 0; ; i++ {
		if i > 200 {
			t.Fatalf("%s step %d: no end", how, k)
		}
		look(hub)
		if a.dead && i%8 == 7 { // it starts again
			a = &process{Store: s, plant: p}
			hub = a.hub(t, "a")
		}
		look(b)
		p.round()
		if l, err := s.Load(t.Context(), "r-2"); err != nil {
			t.Fatal(err)
		} else if l.Rollout.State.Final() {
			break
		}
	}
	for range 10 { // what is left to be said
		look(hub)
		look(b)
		p.round()
	}
	if p.reused != "" {
		t.Fatalf("%s step %d: %s", how, k, p.reused)
	}
	for _, d := range p.devices {
		doc, ok, err := s.Desired(t.Context(), d.ID)
		if err != nil || !ok {
			t.Fatalf("%s step %d: no document of %s: %v", how, k, d.ID, err)
		}
		if got := p.docs[d.ID].Generation; got != doc.Generation {
			t.Fatalf("%s step %d: %s has generation %d of %d", how, k, d.ID, got, doc.Generation)
		}
		seen := map[uint64]bool{}
		for _, g := range p.gens[d.ID] {
			seen[g] = true
		}
		for g := range seen {
			if g < 1 || g > doc.Generation {
				t.Fatalf("%s step %d: %s was sent generation %d of %d", how, k, d.ID, g, doc.Generation)
			}
		}
	}
	if open, err := s.Unpublished(t.Context(), 10); err != nil || len(open) > 0 {
		t.Fatalf("%s step %d: %d documents were never published, %v", how, k, len(open), err)
	}
	return outcome(t, p, s), reached
}

// boundaries strikes a hub at every step that it takes in a night, or at every
// stride-th.
func boundaries(t *testing.T, stride int, open func(*testing.T) dispatch.Store) {
	want, _ := night(t, open(t), 0, "never")
	for _, how := range []string{"dies before", "dies after", "sleeps before"} {
		n := 0
		for k := 1; ; k += stride {
			got, reached := night(t, open(t), k, how)
			if got != want {
				t.Fatalf("%s step %d:\n%s\nundisturbed:\n%s", how, k, got, want)
			}
			if !reached {
				break
			}
			n++
		}
		if n == 0 {
			t.Fatal("the hub took no step")
		}
		t.Logf("a hub that %s a step: %d steps", how, n)
	}
}

func TestWhereverAHubDiesOrSleepsAnotherBringsTheNightToTheSameEnd(t *testing.T) {
	boundaries(t, 1, func(*testing.T) dispatch.Store { return &dispatch.Memory{} })
}

func TestWhereverAHubDiesOnSQLiteTheNightEndsTheSame(t *testing.T) {
	boundaries(t, 4, func(t *testing.T) dispatch.Store {
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db.Dispatch()
	})
}

func TestWhereverAHubDiesOnPostgreSQLTheNightEndsTheSame(t *testing.T) {
	fresh := storetest.Postgres(t)
	boundaries(t, 12, func(t *testing.T) dispatch.Store {
		db, err := postgres.Open(t.Context(), fresh(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db.Dispatch()
	})
}

func TestADeviceThatLeavesAndOneThatComesAreSeenByTheNextLook(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	propose(t, d, proposal("r-2", 2))
	left := p.devices[5]
	for i := range 60 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
		switch i {
		case 1:
			p.devices = p.devices[:5]
		case 20:
			left.ID.Node = "pump-new"
			left.SeenAt = p.now
			p.devices = append(p.devices, left)
		}
	}
	if got := state(t, d, "r-2"); got != rollout.Promoted || p.running(2) != 6 {
		t.Fatalf("%s, %d of 6 run it", got, p.running(2))
	}
	if st := d.Stats(); st.Rebuilds != 1 {
		t.Fatalf("read the whole fleet %d times", st.Rebuilds)
	}
	why, err := d.Why(t.Context(), "r-2", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	before, after := false, false
	for _, w := range why {
		if w.Actor != "" {
			continue
		}
		seen, err := d.Evidence(t.Context(), "r-2", w.ID)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := mustJSON(t, rollout.Decide(w.Input, seen, w.At)), mustJSON(t, w.Decision); a != b {
			t.Fatalf("decision %d does not follow from its evidence:\n%s\n%s", w.ID, a, b)
		}
		for _, dev := range seen.Devices {
			before = before || dev.ID == topic.ID{Site: "hall-1", Node: "pump-00005"}
			after = after || dev.ID == left.ID
		}
	}
	if !before || !after {
		t.Fatalf("the evidence knows the device that left: %t, the one that came: %t", before, after)
	}
}
