package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// shared is a plant that several goroutines may use.
type shared struct {
	mu sync.Mutex
	p  *plant
}

func (s *shared) Devices(ctx context.Context) ([]rollout.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.Devices(ctx)
}

func (s *shared) Since(ctx context.Context, mark uint64) ([]rollout.Device, []topic.ID, uint64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.Since(ctx, mark)
}

func (s *shared) Publish(ctx context.Context, d twin.Desired) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.Publish(ctx, d)
}

func (s *shared) Append(ctx context.Context, e dispatch.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.Append(ctx, e)
}

func (s *shared) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.now
}

func (s *shared) round() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.p.round()
}

// TestHubsAndPeopleActAtOnce lets two hubs run and people read and ask while
// devices go on. The race detector watches; what is checked is that every
// generation was sent with one content and the rollout ends.
func TestHubsAndPeopleActAtOnce(t *testing.T) {
	w, s := &shared{p: newPlant(9)}, &dispatch.Memory{}
	hub := func(name string) *dispatch.Dispatcher {
		d, err := dispatch.New(dispatch.Config{Holder: name, Store: s, Fleet: w, Publisher: w, Ledger: w, Now: w.now, Log: quiet, MinGap: time.Millisecond, Poll: 5 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b := hub("a"), hub("b")
	propose(t, a, proposal("r-2", 2))
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, d := range []*dispatch.Dispatcher{a, b} {
		all.Go(func() {
			if err := d.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for i, d := range []*dispatch.Dispatcher{a, b} {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprint("f", i, "-", n)
				err := d.Freeze(ctx, rollout.Freeze{Name: name, Selector: "line=L9", By: "user:ada", Reason: "shift"})
				if err == nil {
					err = d.Unfreeze(ctx, name, "user:ada", "done")
				}
				if err != nil && !errors.Is(err, dispatch.ErrConflict) {
					t.Error(err)
				}
				for _, action := range []rollout.Action{rollout.Pause, rollout.Resume} {
					_, err := d.Ask(ctx, "r-2", rollout.Request{Action: action, By: "user:bob", Reason: "because"}, n%4 > 0)
					if err != nil && !errors.Is(err, rollout.ErrNotNow) && !errors.Is(err, dispatch.ErrConflict) {
						t.Error(err)
					}
				}
				if _, err := d.Evidence(ctx, "r-2", 1); err != nil {
					t.Error(err)
				}
				if _, _, err := d.Preview(ctx, proposal("r-3", 3)); err != nil {
					t.Error(err)
				}
				d.Stats()
				d.Status()
				d.Wake()
			}
		})
	}
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		l, err := s.Load(t.Context(), "r-2")
		if err != nil {
			t.Fatal(err)
		}
		if l.Rollout.State.Final() {
			break
		}
		// A person who left it paused is not waited for.
		if l.Rollout.State == rollout.Paused {
			a.Ask(t.Context(), "r-2", rollout.Request{Action: rollout.Resume, By: "user:eve", Reason: "go on"}, false) // or somebody was faster
		}
		looks := a.Stats().Looks + b.Stats().Looks
		for a.Stats().Looks+b.Stats().Looks < looks+2 && time.Now().Before(deadline) {
			a.Wake()
			b.Wake()
		}
		w.round()
	}
	stop()
	all.Wait()
	if got := state(t, a, "r-2"); got != rollout.Promoted || w.p.running(2) != 9 {
		t.Fatalf("%s, %d of 9 run it", got, w.p.running(2))
	}
	if w.p.reused != "" {
		t.Fatal(w.p.reused)
	}
}
