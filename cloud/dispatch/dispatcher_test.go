package dispatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/dispatch/dispatchtest"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

func TestMemoryIsAStore(t *testing.T) {
	dispatchtest.Exercise(t, func(*testing.T) dispatch.Store { return &dispatch.Memory{} })
}

// plant is a fleet that takes each published document one phase further a round.
type plant struct {
	devices []rollout.Device
	docs    map[topic.ID]twin.Desired
	gens    map[topic.ID][]uint64 // as they arrived
	sent    map[topic.ID]map[uint64]string
	marks   []map[topic.ID]string // the fleet as it was at each mark given
	now     time.Time
	down    func() bool // the broker does not take a message
	ledger  []dispatch.Event
	full    bool   // the ledger does not take a line
	reused  string // a generation that came with two contents
	// flags are what the challenger alone and the champion alone flag in one
	// counting window of the shadow, a round long. nil: there is no shadow.
	flags func(topic.ID) (challenger, champion uint32)
}

func newPlant(n int) *plant {
	old := rollouttest.Release(1)
	now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	return &plant{
		devices: rollouttest.Fleet(n, 3, &old, now), docs: map[topic.ID]twin.Desired{}, gens: map[topic.ID][]uint64{}, sent: map[topic.ID]map[uint64]string{},
		marks: []map[topic.ID]string{nil}, now: now, down: func() bool { return false },
	}
}

func (p *plant) Devices(context.Context) ([]rollout.Device, error) {
	return append([]rollout.Device(nil), p.devices...), nil
}

// Since compares the fleet with what it was.
func (p *plant) Since(_ context.Context, mark uint64) (changed []rollout.Device, gone []topic.ID, next uint64, ok bool, err error) {
	present := map[topic.ID]string{}
	before := p.marks[mark]
	for _, d := range p.devices {
		b, err := json.Marshal(d)
		if err != nil {
			return nil, nil, 0, false, err
		}
		present[d.ID] = string(b)
		if before[d.ID] != string(b) {
			changed = append(changed, d)
		}
	}
	for id := range before {
		if present[id] == "" {
			gone = append(gone, id)
		}
	}
	p.marks = append(p.marks, present)
	return changed, gone, uint64(len(p.marks) - 1), mark != 0, nil
}

// Publish gives a device its document. A device does not go back to an older
// one.
func (p *plant) Publish(_ context.Context, d twin.Desired) error {
	if p.down() {
		return errors.New("broker is away")
	}
	id := topic.ID{Site: d.Site, Node: d.Node}
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if p.sent[id] == nil {
		p.sent[id] = map[uint64]string{}
	}
	if old, ok := p.sent[id][d.Generation]; ok && old != string(b) {
		p.reused = fmt.Sprintf("%s got generation %d as %s and as %s", id, d.Generation, old, b)
	}
	p.sent[id][d.Generation] = string(b)
	p.gens[id] = append(p.gens[id], d.Generation)
	if d.Generation >= p.docs[id].Generation {
		p.docs[id] = d
	}
	return nil
}

func (p *plant) Append(_ context.Context, e dispatch.Event) error {
	if p.full {
		return errors.New("ledger is full")
	}
	p.ledger = append(p.ledger, e)
	return nil
}

// round lets time pass and every device read its document.
func (p *plant) round() {
	p.now = p.now.Add(10 * time.Second)
	for i := range p.devices {
		d := &p.devices[i]
		d.SeenAt = p.now
		d.WindowsScored += 10
		doc := p.docs[d.ID]
		a, t := doc.Model, &d.Trial
		switch {
		case a == nil && t.Phase == twin.PhaseReady:
			t.Phase = twin.PhaseDropped
		case a == nil || t.Phase.Final() && t.Rollout == a.Rollout && t.Manifest == a.Manifest && t.Mode == a.Mode:
		case t.Rollout != a.Rollout || t.Manifest != a.Manifest:
			*t = rollout.Trial{Rollout: a.Rollout, Manifest: a.Manifest, Mode: a.Mode, Phase: twin.PhaseReady}
		case t.Phase == twin.PhaseReady && doc.Lease != nil:
			t.Phase, t.Windows = twin.PhaseConfirmed, 5
			d.Champion = rollouttest.Running(rollouttest.Release(a.Counter))
		case t.Phase == twin.PhaseReady && p.flags != nil:
			challenger, champion := p.flags(d.ID)
			shadow := twin.Shadow{Index: d.Evidence.Next, Windows: []twin.ShadowWindow{{OnlyChallenger: challenger, OnlyChampion: champion, Items: 60}}}
			d.Evidence = rollout.Fold(*d, twin.Reported{Trial: &twin.Trial{Manifest: t.Manifest, Mode: twin.ModeTrial, Shadow: &shadow}}, p.now).Evidence
			t.Shadowed += 60
		}
	}
}

func (p *plant) hub(t *testing.T, s dispatch.Store, name string) *dispatch.Dispatcher {
	t.Helper()
	d, err := dispatch.New(dispatch.Config{Holder: name, Store: s, Fleet: p, Publisher: p, Ledger: p, Now: func() time.Time { return p.now }, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (p *plant) running(n uint64) int {
	c := 0
	for _, d := range p.devices {
		if d.Champion.Counter == n {
			c++
		}
	}
	return c
}

func proposal(name string, n uint64) dispatch.Proposal {
	return dispatch.Proposal{
		Name: name, Release: rollouttest.Release(n), Author: "user:ada", Reason: "the night's model",
		Policy: rollout.Policy{Name: "p", Waves: []rollout.Wave{{Name: "canary", Devices: 2}, {Name: "rest"}}, SoakS: 1, Budgets: []rollout.Budget{{GroupBy: "line", MaxUnavailable: 2}}},
	}
}

func propose(t *testing.T, d *dispatch.Dispatcher, p dispatch.Proposal) dispatch.View {
	t.Helper()
	v, err := d.Propose(t.Context(), p, false)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func state(t *testing.T, d *dispatch.Dispatcher, name string) rollout.State {
	t.Helper()
	v, err := d.View(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return v.Rollout.State
}

func TestARolloutIsDecidedStoredPublishedAndExplained(t *testing.T) {
	p, s := newPlant(12), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	propose(t, d, proposal("r-2", 2))
	for range 40 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
	if got := state(t, d, "r-2"); got != rollout.Promoted || p.running(2) != 12 {
		t.Fatalf("%s, %d of 12 run it", got, p.running(2))
	}
	why, err := d.Why(t.Context(), "r-2", 0, 0)
	if err != nil || len(why) < 4 {
		t.Fatalf("%d decisions, %v", len(why), err)
	}
	for _, w := range why {
		if w.Actor != "" {
			continue // a person's doing
		}
		seen, err := d.Evidence(t.Context(), "r-2", w.ID)
		if err != nil {
			t.Fatal(err)
		}
		again := rollout.Decide(w.Input, seen, w.At)
		if a, b := mustJSON(t, again), mustJSON(t, w.Decision); a != b {
			t.Fatalf("decision %d replays to something else:\n%s\n%s", w.ID, a, b)
		}
	}
	if first, last := p.ledger[0], p.ledger[len(p.ledger)-1]; first.Action != "rollout.start" || first.Reason == "" || last.Action != "rollout.promoted" {
		t.Fatalf("ledger %+v", p.ledger)
	}
	// Deciding on and on about what has ended stores nothing more.
	for range 5 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
	if more, _ := d.Why(t.Context(), "r-2", 0, 0); len(more) != len(why) {
		t.Fatalf("%d decisions more", len(more)-len(why))
	}
}

// crashing loses the process between any two steps: a commit may be done or
// not, a document published and not marked.
type crashing struct {
	dispatch.Store
	rng *rand.Rand
}

var errCrash = errors.New("the hub is gone")

// quiet keeps expected errors out of the log of a test.
var quiet = slog.New(slog.DiscardHandler)

func (c crashing) Commit(ctx context.Context, k dispatch.Commit) (uint64, error) {
	switch c.rng.IntN(6) {
	case 0:
		return 0, errCrash
	case 1:
		_, err := c.Store.Commit(ctx, k)
		return 0, errors.Join(errCrash, err)
	}
	return c.Store.Commit(ctx, k)
}

func (c crashing) Published(ctx context.Context, docs []twin.Desired) error {
	if c.rng.IntN(6) == 0 {
		return errCrash
	}
	return c.Store.Published(ctx, docs)
}

func TestARestartAtAnyPointGoesOn(t *testing.T) {
	crashes := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		p, s := newPlant(9), &dispatch.Memory{}
		p.down = func() bool { return rng.IntN(8) == 0 }
		propose(t, p.hub(t, s, "a"), proposal("r-2", 2))
		d := p.hub(t, crashing{s, rng}, "a")
		for i := 0; state(t, d, "r-2") != rollout.Promoted; i++ {
			if i > 400 {
				t.Fatalf("seed %d: no end", seed)
			}
			if _, err := d.RunOnce(t.Context()); err != nil {
				crashes++
				d = p.hub(t, crashing{s, rng}, "a") // starts anew
			}
			p.round()
		}
		if p.running(2) != 9 {
			t.Fatalf("seed %d: %d of 9 run it", seed, p.running(2))
		}
		for id, gens := range p.gens {
			for i := 1; i < len(gens); i++ {
				if gens[i] < gens[i-1] {
					t.Fatalf("seed %d: %s got generation %d after %d", seed, id, gens[i], gens[i-1])
				}
			}
		}
	}
	t.Logf("%d crashes", crashes)
}

func TestTwoHubsNeverActTwiceAndOneTakesOver(t *testing.T) {
	p, s := newPlant(9), &dispatch.Memory{}
	a, b := p.hub(t, s, "a"), p.hub(t, s, "b")
	propose(t, b, proposal("r-2", 2)) // people may ask any of them
	for i := range 60 {
		if i < 5 { // then a is gone
			if _, err := a.RunOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		before := len(p.docs)
		if _, err := b.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i < 5 && len(p.docs) != before {
			t.Fatal("the second hub published while the first held the lease")
		}
		p.round()
	}
	if p.running(2) != 9 {
		t.Fatalf("%d of 9 run it", p.running(2))
	}
	for id, gens := range p.gens {
		for i, g := range gens {
			if g != uint64(i+1) {
				t.Fatalf("%s got generations %v", id, gens)
			}
		}
	}
}

func TestAPersonsRequestIsAuditedFirst(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	propose(t, d, proposal("r-2", 2))
	if _, err := d.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	abort := rollout.Request{Action: rollout.Abort, By: "user:bob", Reason: "wrong pump"}
	p.full = true
	if _, err := d.Ask(t.Context(), "r-2", abort, false); err == nil {
		t.Fatal("aborted without a line in the ledger")
	}
	if got := state(t, d, "r-2"); got != rollout.Running {
		t.Fatalf("state %s", got)
	}
	p.full = false
	if v, err := d.Ask(t.Context(), "r-2", abort, true); err != nil || v.Rollout.State == rollout.Running || state(t, d, "r-2") != rollout.Running {
		t.Fatalf("a dry run: %s, %v", v.Rollout.State, err)
	}
	if _, err := d.Ask(t.Context(), "r-2", abort, false); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
	if got := state(t, d, "r-2"); got != rollout.Aborted || p.running(2) != 0 {
		t.Fatalf("%s, %d run it", got, p.running(2))
	}
	why, _ := d.Why(t.Context(), "r-2", 0, 0)
	found := false
	for _, w := range why {
		found = found || w.Actor == "user:bob" && strings.Contains(w.Decision.Summary, "wrong pump")
	}
	if !found {
		t.Fatal("why does not name the person")
	}
	if _, err := d.Ask(t.Context(), "r-2", abort, false); !errors.Is(err, rollout.ErrNotNow) {
		t.Fatalf("error %v", err)
	}
	if _, err := d.Ask(t.Context(), "r-9", abort, false); !errors.Is(err, dispatch.ErrNotFound) {
		t.Fatalf("error %v", err)
	}
}

func TestTheNextNightWaitsAndTheNightAfterTakesItsPlace(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	propose(t, d, proposal("r-2", 2))
	if v := propose(t, d, proposal("r-3", 3)); v.Rollout.State != rollout.Queued {
		t.Fatalf("r-3 is %s", v.Rollout.State)
	}
	if v := propose(t, d, proposal("r-4", 4)); v.Rollout.State != rollout.Queued {
		t.Fatalf("r-4 is %s", v.Rollout.State)
	}
	if got := state(t, d, "r-3"); got != rollout.Superseded {
		t.Fatalf("r-3 is %s", got)
	}
	for range 80 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
	if got := state(t, d, "r-4"); got != rollout.Promoted || p.running(4) != 6 {
		t.Fatalf("r-4 is %s, %d of 6 run it", got, p.running(4))
	}
	if v, err := d.View(t.Context(), "r-4"); err != nil || v.Rollout.Previous == nil || v.Rollout.Previous.Counter != 2 {
		t.Fatalf("goes back to %+v, %v", v.Rollout.Previous, err)
	}
	if _, err := d.Propose(t.Context(), proposal("r-4", 4), false); !errors.Is(err, dispatch.ErrExists) {
		t.Fatalf("error %v", err)
	}
	bad := proposal("r-5", 5)
	bad.Policy.Waves[0].Selector = "line=L9"
	if _, err := d.Propose(t.Context(), bad, false); err == nil || !strings.Contains(err.Error(), "there are L1, L2, L3") {
		t.Fatalf("error %v", err)
	}
}

func TestRunWakesForPeopleReportsAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := newPlant(6), &dispatch.Memory{}
		p.now = time.Now()
		d, err := dispatch.New(dispatch.Config{Holder: "a", Store: s, Fleet: p, Publisher: p, Ledger: p, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		synctest.Wait()
		propose(t, d, proposal("r-2", 2)) // wakes it
		time.Sleep(time.Second)
		synctest.Wait()
		if len(p.docs) != 2 {
			t.Fatalf("%d documents after the proposal", len(p.docs))
		}
		for range 40 {
			p.round()
			p.now = time.Now()
			d.Wake()
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if p.running(2) != 6 {
			t.Fatalf("%d of 6 run it", p.running(2))
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
