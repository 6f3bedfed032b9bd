package dispatch_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
)

func TestStandingOrdersAreAuditedStoredAndRefusedWithTheReason(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	ctx := t.Context()
	freeze := rollout.Freeze{Name: "stocktaking", Selector: "line=L1", Until: p.now.Add(time.Hour), By: "user:ada", Reason: "inventory"}
	bad := rollouttest.Release(2).Manifest
	quarantine := rollout.Quarantine{Manifest: bad, Release: "pump-anomaly-2", By: "user:bob", Reason: "false flags on L2"}

	p.full = true
	if err := d.Freeze(ctx, freeze); err == nil {
		t.Fatal("froze without a line in the ledger")
	}
	if o, err := d.Orders(ctx); err != nil || len(o.Freezes) != 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	p.full = false
	if err := d.Freeze(ctx, freeze); err != nil {
		t.Fatal(err)
	}
	if err := d.Quarantine(ctx, quarantine); err != nil {
		t.Fatal(err)
	}
	o, err := d.Orders(ctx)
	if err != nil || len(o.Freezes) != 1 || !o.Freezes[0].From.Equal(p.now) || len(o.Quarantined) != 1 || !o.Quarantined[0].At.Equal(p.now) {
		t.Fatalf("%+v, %v", o, err)
	}
	if n := len(p.ledger); n != 2 || p.ledger[0].Action != "freeze.start" || p.ledger[1].Action != "quarantine.start" || p.ledger[1].Reason != quarantine.Reason {
		t.Fatalf("%+v", p.ledger)
	}

	for _, tc := range []struct {
		name string
		do   func() error
		want error
		says string
	}{
		{"the name is taken", func() error { return d.Freeze(ctx, freeze) }, dispatch.ErrExists, "there is a freeze of this name"},
		{"nobody asks", func() error { return d.Freeze(ctx, rollout.Freeze{Name: "x"}) }, nil, "say who asks and why"},
		{"no such selector", func() error {
			return d.Freeze(ctx, rollout.Freeze{Name: "x", Selector: "line=(", By: "a", Reason: "b"})
		}, nil, "cannot freeze"},
		{"it is over", func() error {
			return d.Freeze(ctx, rollout.Freeze{Name: "x", From: p.now.Add(-2 * time.Hour), Until: p.now.Add(-time.Hour), By: "a", Reason: "b"})
		}, nil, "is past"},
		{"no such freeze", func() error { return d.Unfreeze(ctx, "x", "a", "b") }, dispatch.ErrNoOrder, "cannot lift"},
		{"it is in quarantine", func() error { return d.Quarantine(ctx, quarantine) }, dispatch.ErrExists, "user:bob did"},
		{"no digest", func() error { return d.Quarantine(ctx, rollout.Quarantine{By: "a", Reason: "b"}) }, nil, "cannot quarantine"},
		{"it is in no quarantine", func() error { return d.Release(ctx, rollouttest.Release(9).Manifest, "a", "b") }, dispatch.ErrNoOrder, "cannot lift"},
		{"the release is in quarantine", func() error { _, err := d.Propose(ctx, proposal("r-2", 2), false); return err }, dispatch.ErrQuarantined, "user:bob put it into quarantine on 2026-11-22 22:00: false flags on L2"},
	} {
		err := tc.do()
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if len(p.ledger) != 2 {
		t.Errorf("what was refused is in the ledger: %+v", p.ledger[2:])
	}

	if err := d.Unfreeze(ctx, "stocktaking", "user:ada", "done"); err != nil {
		t.Fatal(err)
	}
	if err := d.Release(ctx, bad, "user:bob", "it was the sensor"); err != nil {
		t.Fatal(err)
	}
	if o, err := d.Orders(ctx); err != nil || len(o.Freezes)+len(o.Quarantined) != 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	propose(t, d, proposal("r-2", 2))
}

func TestAFreezeThatIsOverMakesRoom(t *testing.T) {
	p, s := newPlant(1), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	freeze := func(n int) error {
		return d.Freeze(t.Context(), rollout.Freeze{Name: fmt.Sprint("f", n), Until: p.now.Add(time.Hour), By: "user:ada", Reason: "shift"})
	}
	for n := range dispatch.MaxFreezes {
		if err := freeze(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := freeze(64); err == nil || !strings.Contains(err.Error(), "lift one") {
		t.Fatal(err)
	}
	p.now = p.now.Add(2 * time.Hour)
	if err := freeze(64); err != nil {
		t.Fatal(err)
	}
	if o, _ := d.Orders(t.Context()); len(o.Freezes) != 1 {
		t.Fatalf("%d freezes", len(o.Freezes))
	}
}

func TestOrdersOfTwoPeopleAtOnceAreBothKept(t *testing.T) {
	p, s := newPlant(1), &dispatch.Memory{}
	done := make(chan error)
	for n := range 4 {
		go func() {
			d, err := dispatch.New(dispatch.Config{Holder: "h", Store: s, Fleet: p, Publisher: p, Ledger: silent{}, Now: func() time.Time { return p.now }, Log: quiet})
			if err == nil {
				err = d.Freeze(t.Context(), rollout.Freeze{Name: fmt.Sprint("f", n), By: "user:ada", Reason: "shift"})
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if o, v, err := s.Orders(t.Context()); err != nil || len(o.Freezes) != 4 || v != 4 {
		t.Fatalf("%d freezes, version %d, %v", len(o.Freezes), v, err)
	}
}

// rounds lets hub and plant go on for a while.
func rounds(t *testing.T, d *dispatch.Dispatcher, p *plant, n int) {
	t.Helper()
	for range n {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.round()
	}
}

func undo(by string) rollout.Request {
	return rollout.Request{Action: rollout.Undo, By: by, Reason: "too many stops on L2"}
}

func TestAPromotedRolloutIsUndoneAndTheFleetGoesBackToTheOneBefore(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	for n := range uint64(3) {
		propose(t, d, proposal(fmt.Sprint("r-", n+2), n+2))
		rounds(t, d, p, 40)
	}
	if p.running(4) != 6 {
		t.Fatalf("%d of 6 run 4", p.running(4))
	}
	if _, err := d.Ask(t.Context(), "r-3", undo("user:bob"), false); !errors.Is(err, rollout.ErrNotNow) || !strings.Contains(err.Error(), "r-4") {
		t.Fatalf("undo of the one before: %v", err)
	}
	propose(t, d, proposal("r-5", 5))
	rounds(t, d, p, 1)
	if _, err := d.Ask(t.Context(), "r-4", undo("user:bob"), false); !errors.Is(err, rollout.ErrNotNow) || !strings.Contains(err.Error(), "r-5") {
		t.Fatalf("undo while another is on its way: %v", err)
	}
	if _, err := d.Ask(t.Context(), "r-5", undo("user:bob"), false); err != nil {
		t.Fatal(err)
	}
	rounds(t, d, p, 20)
	if got := state(t, d, "r-5"); got != rollout.Aborted || p.running(4) != 6 {
		t.Fatalf("r-5 is %s, %d of 6 run 4", got, p.running(4))
	}
	if _, err := d.Ask(t.Context(), "r-4", undo("user:bob"), false); err != nil {
		t.Fatal(err)
	}
	rounds(t, d, p, 40)
	if got := state(t, d, "r-4"); got != rollout.Aborted || p.running(3) != 6 {
		t.Fatalf("r-4 is %s, %d of 6 run 3 again", got, p.running(3))
	}
	// The next one goes back to 3, not to what was undone.
	if v := propose(t, d, proposal("r-6", 6)); v.Rollout.Previous == nil || v.Rollout.Previous.Counter != 3 {
		t.Fatalf("goes back to %+v", v.Rollout.Previous)
	}
}

func TestAQuarantineCallsARolloutBackWhateverItsState(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	propose(t, d, proposal("r-2", 2))
	rounds(t, d, p, 40)
	propose(t, d, proposal("r-3", 3))
	rounds(t, d, p, 40)
	if got := state(t, d, "r-3"); got != rollout.Promoted {
		t.Fatal(got)
	}
	if err := d.Quarantine(t.Context(), rollout.Quarantine{Manifest: rollouttest.Release(3).Manifest, Release: "pump-anomaly-3", By: "user:bob", Reason: "misses cavitation"}); err != nil {
		t.Fatal(err)
	}
	rounds(t, d, p, 40)
	if p.running(2) != 6 || p.running(3) != 0 {
		t.Fatalf("r-3 is %s, %d run 2, %d run 3", state(t, d, "r-3"), p.running(2), p.running(3))
	}
}

func TestAFreezeHoldsOffersAndLeasesUntilItIsLifted(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	if err := d.Freeze(t.Context(), rollout.Freeze{Name: "stocktaking", By: "user:ada", Reason: "inventory"}); err != nil {
		t.Fatal(err)
	}
	propose(t, d, proposal("r-2", 2))
	rounds(t, d, p, 20)
	if len(p.docs) != 0 {
		t.Fatalf("%d devices were offered something", len(p.docs))
	}
	if err := d.Unfreeze(t.Context(), "stocktaking", "user:ada", "done"); err != nil {
		t.Fatal(err)
	}
	rounds(t, d, p, 40)
	if p.running(2) != 6 {
		t.Fatalf("r-2 is %s, %d of 6 run 2", state(t, d, "r-2"), p.running(2))
	}
}

func TestAPreviewSaysWhoIsInWhichWaveAndWhatForbidsIt(t *testing.T) {
	p, s := newPlant(6), &dispatch.Memory{}
	d := p.hub(t, s, "a")
	q := proposal("r-2", 2)
	r, out, err := d.Preview(t.Context(), q)
	if err != nil || len(out.Refusals) != 0 || len(out.Waves) != 2 || len(out.Waves[0].Devices) != 2 || len(out.Waves[1].Devices) != 4 || r.State != rollout.Running {
		t.Fatalf("%s: %+v, %v", r.State, out, err)
	}
	if v := propose(t, d, q); v.Rollout.Seed != r.Seed {
		t.Fatal("another seed than previewed")
	}
	if _, err := d.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, dev := range out.Waves[0].Devices {
		if p.docs[dev.Device].Model == nil {
			t.Errorf("%s was to be a canary", dev.Device)
		}
	}
	bad := proposal("r-3", 3)
	bad.Policy.Waves[0].Selector = "line=L9"
	if err := d.Quarantine(t.Context(), rollout.Quarantine{Manifest: rollouttest.Release(3).Manifest, Release: "pump-anomaly-3", By: "user:bob", Reason: "misses cavitation"}); err != nil {
		t.Fatal(err)
	}
	r, out, err = d.Preview(t.Context(), bad)
	said := strings.Join(out.Refusals, "\n")
	if err != nil || !strings.Contains(said, "there are L1, L2, L3") || !strings.Contains(said, "user:bob put it into quarantine") || !out.Finish.IsZero() {
		t.Fatalf("%q, %v", said, err)
	}
	if r.State != rollout.Queued || !strings.Contains(r.Reason, "r-2") {
		t.Fatalf("%s: %s", r.State, r.Reason)
	}
	if _, err := d.Propose(t.Context(), bad, false); !errors.Is(err, dispatch.ErrQuarantined) {
		t.Fatal(err)
	}
}
