package million

import (
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/twin"
)

// BenchmarkDevices runs the device tier alone: every device is offered the
// release, allowed to activate, and confirms.
func BenchmarkDevices(b *testing.B) {
	for b.Loop() {
		s, err := newSim(Config{Devices: 200_000, Bad: 0.02, Offline: 0.05, Power: 0.0005, Workers: 1})
		if err != nil {
			b.Fatal(err)
		}
		rel := s.table.Releases[challenger-1]
		s.table.Offers = append(s.table.Offers, twin.Assignment{Rollout: "r-2", Name: rel.Name, Counter: rel.Counter, Manifest: rel.Manifest, Mode: twin.ModeTrial, ShadowS: 600, SoakS: 300, MinWindows: 200})
		w := newWorkers(s)
		var clock cpu
		clock.lap()
		for n := range 60 * 6 {
			if n == 30 || n == 150 {
				ms := s.startMs + int64(n)*int64(s.windowMs)
				s.table.Leases = append(s.table.Leases, update.Lease{ID: "l", Manifest: rel.Manifest, ExpiresMs: ms + 3_600_000})
				doc := update.Document{IssuedMs: ms, Want: 1}
				if n == 150 {
					doc.Lease = uint32(len(s.table.Leases))
				}
				s.documents = append(s.documents, doc)
				for _, sh := range s.shards {
					for i := range sh.devices {
						d := &sh.devices[i]
						d.generation, d.document = d.generation+1, uint32(len(s.documents))
						sh.wheel.remove(int32(i))
						d.due[dueDoc] = uint32(n)*s.windowMs + 100
						_, t := d.at()
						sh.wheel.put(int32(i), int(t/s.windowMs))
					}
				}
			}
			w.run(n)
		}
		took := clock.lap()
		w.stop()
		var events uint64
		for _, sh := range s.shards {
			for _, n := range sh.events {
				events += n
			}
		}
		b.ReportMetric(float64(events)/took.Seconds(), "events/cpu-s")
		b.ReportMetric(float64(events), "events")
		b.ReportMetric(took.Seconds(), "cpu-s")
	}
	_ = time.Second
}
