package rollout

import (
	"time"

	"github.com/swellfleet/swell/protocol/twin"
)

// tally is what the gates look at: sums over the devices of one wave. It is
// built by adding devices in any order.
type tally struct {
	devices                 int // drawn
	started, done, failures int // of those not excluded
	unresolved              int // started or reachable, and neither done nor a failure
	away                    int // offered, not heard of, not connected
	paired                  int // had a champion to compare with
	ready                   int // wait for a lease
	evidence                Evidence
	windows, nonFinite      uint64 // scored by the release, in shadow and soak
	latencyDevices          int
	latencyMs               float64 // worst p99
	scoredSince, lostSince  uint64
	memoryDevices           int               // report their memory, fresh, with the release loaded
	memoryMiB               float64           // worst growth since the offer
	driftDevices            int               // report how far its scores drift, fresh
	drift                   float64           // worst
	metrics                 map[string]metric // by name, of fresh devices that tried the release
}

// metric sums up what the devices of a wave report under one name.
type metric struct {
	n             int // devices that report it
	sum, min, max float64
}

func (t *tally) add(r Rollout, p Policy, d *Device, st Standing, now time.Time) {
	t.devices++
	switch {
	case st.State == DeviceDone:
		t.done++
	case st.State.failure():
		t.failures++
	case st.State == DeviceUnreachable && !(d.Connected && p.fresh(d, now)):
		t.away++
	default:
		t.unresolved++
	}
	if st.State.started() {
		t.started++
	}
	if d.paired(r) {
		t.paired++
	}
	mine := d.Trial.Rollout == r.Name && d.Trial.Manifest == r.Release.Manifest
	if mine && d.Trial.Phase == twin.PhaseReady {
		t.ready++
	}
	if d.paired(r) && d.Evidence.Manifest == r.Release.Manifest {
		t.evidence.merge(d.Evidence)
	}
	if !mine {
		return
	}
	t.windows += d.Trial.Shadowed + d.Trial.Windows
	t.nonFinite += d.Trial.NonFinite
	if p.fresh(d, now) && d.Trial.Shadowed+d.Trial.Windows > 0 {
		if d.Trial.LatencyP99Ms > 0 {
			t.latencyDevices++
			t.latencyMs = max(t.latencyMs, d.Trial.LatencyP99Ms)
		}
		if d.MemoryMiB > 0 && d.Record.MemoryBefore > 0 {
			if g := d.MemoryMiB - d.Record.MemoryBefore; t.memoryDevices == 0 || g > t.memoryMiB {
				t.memoryMiB = g
			}
			t.memoryDevices++
		}
		if x := d.Trial.Drift; x != nil {
			t.driftDevices++
			t.drift = max(t.drift, *x)
		}
		for name, x := range d.Metrics {
			m, ok := t.metrics[name]
			if !ok {
				m.min, m.max = x, x
			}
			if t.metrics == nil {
				t.metrics = map[string]metric{}
			}
			t.metrics[name] = metric{m.n + 1, m.sum + x, min(m.min, x), max(m.max, x)}
		}
	}
	if d.WindowsScored > d.Record.ScoredBefore {
		t.scoredSince += d.WindowsScored - d.Record.ScoredBefore
	}
	if d.WindowsLost > d.Record.LostBefore {
		t.lostSince += d.WindowsLost - d.Record.LostBefore
	}
}
