package agent_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/protocol/twin"
)

// TestPowerCutAtEveryWriteOfAnUpdateLeavesAVerifiedModel cuts the power at the
// first, second, third … change of the disk while release 2 replaces release 1,
// tears the write it hits, and starts a device on what is left: without the hub
// it must run release 1 or 2, attested, and with the hub it must end on 2.
func TestPowerCutAtEveryWriteOfAnUpdateLeavesAVerifiedModel(t *testing.T) {
	press := agenttest.NewPress()
	one := press.Release(agenttest.Order{Counter: 1})
	two := press.Release(agenttest.Order{Counter: 2, Model: agenttest.Model{Gain: 3}})
	models := map[uint64]agenttest.Release{1: one, 2: two}

	// Little but the update writes: no blocks, no heartbeat, no enrolment.
	start := func(t *testing.T, d disk.FS, online bool) (device, *agenttest.Hub) {
		hub := agenttest.NewHub(t, pump)
		hub.Stock(one)
		hub.Stock(two)
		hub.Online(online)
		c := configure(hub, press, d)
		c.Hub.Token, c.HeartbeatS = "", 3600
		c.Telemetry = agent.Telemetry{BlockRows: 16384, BlockS: 3600, LiveS: -1}
		return boot(t, c), hub
	}
	fresh := &disk.Mem{}
	first, hub := start(t, fresh, true)
	hub.Offer(one, true, nil)
	hub.Phase(t, one, twin.PhaseConfirmed)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}

	// An update that is not disturbed says how many changes there are.
	count := func(t *testing.T, d *disk.Mem, cutAt int) (ops int, cut bool) {
		device, hub := start(t, d, true)
		hub.Await(t, "release 1 acts", func(r twin.Reported) bool { return r.Champion != nil })
		before := d.Ops()
		dead := make(chan struct{})
		n := 0 // guarded by the disk
		d.Fault(func(disk.Op, string) error {
			if n++; n == cutAt {
				close(dead)
				return disk.ErrPowerCut
			}
			return nil
		})
		hub.Offer(two, true, func(a *twin.Assignment) { a.ShadowS, a.SoakS = 0.05, 0.05 })
		hub.Until(t, "the cut, or the end of the update", func() bool {
			select {
			case <-dead:
				cut = true
			default:
			}
			r := device.Reported()
			return cut || r.Trial != nil && r.Trial.Manifest == two.Manifest && r.Trial.Phase == twin.PhaseConfirmed
		})
		ops = d.Ops() - before
		_ = device.stop() // with the power gone it cannot save its counters
		return ops, cut
	}
	total, _ := count(t, fresh.Crash(nil), 0)
	if total < 30 {
		t.Fatalf("an update changed the disk %d times: the sweep would prove nothing", total)
	}
	t.Logf("an update changes the disk %d times", total)

	step := 1
	if testing.Short() {
		step = 7
	}
	for at := 1; at <= total; at += step {
		t.Run(fmt.Sprintf("write %d", at), func(t *testing.T) {
			t.Parallel()
			d := fresh.Crash(nil)
			count(t, d, at)
			left := d.Crash(func(_ string, n int) int { return n * (at % 3) / 2 }) // none, half or all of the unsynced bytes
			device, hub := start(t, left, false)
			hub.Until(t, "a model acts without the hub", func() bool { return device.Reported().Champion != nil })
			c := device.Reported().Champion
			if r := models[c.Counter]; r.Manifest != c.Manifest || r.Model != c.Model {
				t.Errorf("runs %+v, which is neither release", c)
			}
			hub.Online(true)
			hub.Offer(two, true, func(a *twin.Assignment) { a.Deadline = time.Now().Add(time.Minute) })
			hub.Await(t, "release 2 in the end", func(r twin.Reported) bool {
				return r.Champion != nil && r.Champion.Model == two.Model && r.Trial != nil && r.Trial.Phase == twin.PhaseConfirmed
			})
		})
	}
}
