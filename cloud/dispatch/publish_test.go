package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// silent is a ledger that keeps nothing.
type silent struct{}

func (silent) Append(context.Context, dispatch.Event) error { return nil }

// gate is a broker that refuses what it is told to, and counts.
type gate struct {
	*plant
	refuses func(topic.ID) bool
	tries   int
}

func (g *gate) Publish(ctx context.Context, d twin.Desired) error {
	g.tries++
	if g.refuses(topic.ID{Site: d.Site, Node: d.Node}) {
		return errors.New("refused")
	}
	return g.plant.Publish(ctx, d)
}

func documents(t *testing.T, s dispatch.Store, n int) {
	t.Helper()
	p := newPlant(n)
	q := proposal("r-2", 2)
	q.Policy.Waves[0].Devices = n
	d := p.hub(t, s, "people")
	propose(t, d, q)
	p.down = func() bool { return true }
	if _, err := d.RunOnce(t.Context()); err != nil || d.Stats().Waiting == 0 {
		t.Fatalf("the broker was away and nobody says so: %v", err)
	}
	if docs, err := s.Unpublished(t.Context(), 2*n); err != nil || len(docs) != n {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
}

func TestOneDeviceThatCannotBeToldDoesNotHoldUpTheOthers(t *testing.T) {
	s := &dispatch.Memory{}
	documents(t, s, 12)
	bad := topic.ID{Site: "hall-1", Node: "pump-00003"}
	g := &gate{plant: newPlant(12), refuses: func(id topic.ID) bool { return id == bad }}
	g.now = g.now.Add(time.Minute)
	d, err := dispatch.New(dispatch.Config{Holder: "a", Store: s, Fleet: g, Publisher: g, Ledger: g, Now: func() time.Time { return g.now }, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	next, err := d.RunOnce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(g.docs) != 11 || next.IsZero() || next.After(g.now.Add(time.Second)) {
		t.Fatalf("%d of 11 documents, next at %s", len(g.docs), next)
	}
	if st := d.Stats(); st.Waiting != 1 || st.PublishFailures == 0 || st.Published != 11 {
		t.Fatalf("%+v", st)
	}
	// Tries come at growing distances, at most a minute apart.
	tried, worst := g.tries, time.Duration(0)
	last := g.now
	for range 3600 {
		g.now = g.now.Add(100 * time.Millisecond)
		before := g.tries
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if g.tries > before {
			worst, last = max(worst, g.now.Sub(last)), g.now
		}
	}
	if n := g.tries - tried; n < 6 || n > 20 || worst > time.Minute+time.Second {
		t.Fatalf("%d tries in 6 minutes, at most %s apart", n, worst)
	}
	g.refuses = func(topic.ID) bool { return false }
	g.now = g.now.Add(time.Minute)
	if _, err := d.RunOnce(t.Context()); err != nil || len(g.docs) != 12 || d.Stats().Waiting != 0 {
		t.Fatalf("%d of 12 documents, %v", len(g.docs), err)
	}
}

func TestABrokerThatIsAwayIsNotAskedForEveryDevice(t *testing.T) {
	s := &dispatch.Memory{}
	documents(t, s, 40)
	away := true
	g := &gate{plant: newPlant(40), refuses: func(topic.ID) bool { return away }}
	g.now = g.now.Add(time.Minute)
	d, err := dispatch.New(dispatch.Config{Holder: "a", Store: s, Fleet: g, Publisher: g, Ledger: g, Now: func() time.Time { return g.now }, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.RunOnce(t.Context()); err != nil || g.tries != 3 {
		t.Fatalf("%d tries, %v", g.tries, err)
	}
	if next, err := d.RunOnce(t.Context()); err != nil || g.tries != 3 || !next.After(g.now) {
		t.Fatalf("%d tries at once, next at %s, %v", g.tries, next, err)
	}
	away = false
	for range 4 {
		g.now = g.now.Add(2 * time.Second)
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if open, err := s.Unpublished(t.Context(), 100); err != nil || len(open) != 0 {
		t.Fatalf("%d documents still wait, %v", len(open), err)
	}
}

func TestHubsComeBackAtTheirOwnTimes(t *testing.T) {
	seen := map[time.Time]bool{}
	for n := range 8 {
		s := &dispatch.Memory{}
		documents(t, s, 4)
		g := &gate{plant: newPlant(4), refuses: func(topic.ID) bool { return true }}
		g.now = g.now.Add(time.Minute)
		d, err := dispatch.New(dispatch.Config{Holder: fmt.Sprint("hub-", n), Store: s, Fleet: g, Publisher: g, Ledger: g, Now: func() time.Time { return g.now }, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		next, err := d.RunOnce(t.Context())
		if err != nil || !next.After(g.now.Add(400*time.Millisecond)) || next.After(g.now.Add(time.Second)) {
			t.Fatalf("next at %s, %v", next, err)
		}
		seen[next] = true
	}
	if len(seen) < 6 {
		t.Fatalf("8 hubs come back at %d moments", len(seen))
	}
}
