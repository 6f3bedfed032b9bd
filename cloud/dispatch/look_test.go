package dispatch_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// hall is a fleet that knows what changed, and a broker that takes everything.
type hall struct {
	devices []rollout.Device
	changed []rollout.Device // since the newest mark
	mark    uint64
	reads   int // of the whole fleet
}

func (h *hall) Devices(context.Context) ([]rollout.Device, error) {
	h.reads++
	return append([]rollout.Device(nil), h.devices...), nil
}

func (h *hall) Since(_ context.Context, mark uint64) ([]rollout.Device, []topic.ID, uint64, bool, error) {
	out := h.changed
	h.changed = nil
	h.mark++
	return out, nil, h.mark, mark == h.mark-1 && mark != 0, nil
}

func (h *hall) Publish(context.Context, twin.Desired) error { return nil }

func (h *hall) Append(context.Context, dispatch.Event) error { return nil }

// report lets a device say something.
func (h *hall) report(i int, at time.Time, say func(*rollout.Device)) {
	d := &h.devices[i]
	d.SeenAt = at
	say(d)
	h.changed = append(h.changed, *d)
}

// BenchmarkLook measures one look after one device's report, in the middle of a
// wave, with the store on disk.
func BenchmarkLook(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
			old := rollouttest.Release(1)
			h := &hall{devices: rollouttest.Fleet(n, 50, &old, now)}
			db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "state.db"))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { db.Close() })
			d, err := dispatch.New(dispatch.Config{Holder: "a", Store: db.Dispatch(), Fleet: h, Publisher: h, Ledger: h, Now: func() time.Time { return now }, Log: quiet})
			if err != nil {
				b.Fatal(err)
			}
			p := proposal("r-2", 2)
			p.Policy.Waves[0].Devices = n / 2
			if _, err := d.Propose(b.Context(), p, false); err != nil {
				b.Fatal(err)
			}
			for range 2 {
				if _, err := d.RunOnce(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			i := 0
			for b.Loop() {
				now = now.Add(10 * time.Millisecond)
				h.report(i%n, now, func(d *rollout.Device) { d.WindowsScored++ })
				i++
				if _, err := d.RunOnce(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(h.reads), "fleet-reads")
		})
	}
}

func TestALookAfterOneReportReadsNoFleet(t *testing.T) {
	now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	old := rollouttest.Release(1)
	h := &hall{devices: rollouttest.Fleet(500, 5, &old, now)}
	s := &reads{Store: &dispatch.Memory{}}
	d, err := dispatch.New(dispatch.Config{Holder: "a", Store: s, Fleet: h, Publisher: h, Ledger: h, Now: func() time.Time { return now }, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	propose(t, d, proposal("r-2", 2))
	for range 2 {
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	fleet, loads := h.reads, s.loads
	for i := range 100 {
		now = now.Add(time.Second)
		h.report(i, now, func(d *rollout.Device) { d.WindowsScored++ })
		if _, err := d.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if h.reads != fleet || s.loads != loads {
		t.Fatalf("100 looks read the fleet %d times and the records %d times", h.reads-fleet, s.loads-loads)
	}
	// A person's request is somebody else's change: everything is read again.
	if _, err := d.Ask(t.Context(), "r-2", rollout.Request{Action: rollout.Pause, By: "user:bob", Reason: "lunch"}, false); err != nil {
		t.Fatal(err)
	}
	loads = s.loads
	if _, err := d.RunOnce(t.Context()); err != nil || s.loads != loads+1 {
		t.Fatalf("%d loads, %v", s.loads-loads, err)
	}
}

// reads counts how often the records of a rollout are read.
type reads struct {
	dispatch.Store
	loads int
}

func (r *reads) Load(ctx context.Context, name string) (dispatch.Loaded, error) {
	r.loads++
	return r.Store.Load(ctx, name)
}
