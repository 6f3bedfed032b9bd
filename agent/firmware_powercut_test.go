package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/firmware"
	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// TestPowerCutAtEveryWriteOfANewProgramLeavesOneToBoot cuts the power at the
// first, second, third … change of its files while a device fetches, installs,
// boots and commits a new program, tears the write it hits, and lets the loader
// start what is left: always the package's program or the signed one, whole;
// and with the hub back the device ends on the signed one, committed.
func TestPowerCutAtEveryWriteOfANewProgramLeavesOneToBoot(t *testing.T) {
	press := agenttest.NewPress()
	program := []byte("a program that this test never runs")
	two := press.Firmware(agenttest.Firmware{Counter: 1, Version: "2", Program: program})
	pkg := firmware.Package{Digest: artifact.Of([]byte("the package's program")), Version: "1"}
	log := slog.New(slog.DiscardHandler)

	// run is a device's power-on: the loader, the agent, and again after each
	// restart the agent asks for, until done says so of a report or the power
	// goes.
	run := func(t *testing.T, d *disk.Mem, offered bool, dead <-chan struct{}, done func(twin.Reported) bool) {
		hub := agenttest.NewHub(t, pump)
		hub.Stock(two)
		if offered {
			hub.OfferFirmware(two, func(a *twin.Assignment) { a.SoakS, a.MinWindows = 0.05, 10 })
		}
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		for {
			start, err := firmware.Boot(d, pkg, log)
			if err != nil {
				t.Fatalf("the loader found nothing to start: %v", err)
			}
			c := configure(hub, press, d)
			c.Hub.Token, c.HeartbeatS, c.Slot, c.Version = "", 3600, string(start.Slot), start.Image.Version
			c.Telemetry = agent.Telemetry{BlockRows: 16384, BlockS: 3600, LiveS: -1}
			a, err := agent.New(c)
			if err != nil {
				t.Fatal(err)
			}
			round, end := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() { ended <- a.Run(round) }()
			look := time.NewTicker(5 * time.Millisecond)
			defer look.Stop()
			for running := true; running; {
				select {
				case err = <-ended:
					running = false
				case <-dead:
					end()
					<-ended
					return
				case <-look.C:
					if done(a.Reported()) {
						end()
						<-ended
						return
					}
				}
			}
			end()
			select {
			case <-dead:
				return
			default:
			}
			if !errors.Is(err, agent.ErrRestart) {
				t.Fatalf("the agent ended: %v; it reported %+v, trial %+v", err, a.Reported(), a.Reported().Firmware.Trial)
			}
		}
	}
	committed := func(r twin.Reported) bool {
		return r.Agent.Slot == string(slot.B) && r.Firmware != nil && r.Firmware.Trial != nil && r.Firmware.Trial.Phase == twin.PhaseConfirmed && r.Firmware.Running != nil
	}
	never := make(chan struct{})

	fresh := &disk.Mem{}
	run(t, fresh, false, never, func(r twin.Reported) bool {
		return r.Stream.Samples > 0 && r.Firmware != nil && r.Firmware.Trial == nil
	})
	fresh = fresh.Crash(nil)
	whole, total := fresh.Crash(nil), 0
	ofFirmware := func(name string) bool { return strings.HasPrefix(name, "firmware") }
	whole.Fault(func(_ disk.Op, name string) error {
		if ofFirmware(name) {
			total++
		}
		return nil
	})
	run(t, whole, true, never, committed)
	if total < 20 {
		t.Fatalf("a new program changed the disk %d times: the sweep would prove nothing", total)
	}
	t.Logf("a new program changes the disk %d times", total)

	step := 1
	if testing.Short() {
		step = 9
	}
	for at := 1; at <= total; at += step {
		t.Run(fmt.Sprintf("write %d", at), func(t *testing.T) {
			t.Parallel()
			d, dead, n := fresh.Crash(nil), make(chan struct{}), 0
			d.Fault(func(_ disk.Op, name string) error { // called under the disk's lock
				if ofFirmware(name) {
					if n++; n == at {
						close(dead)
					}
				}
				if n >= at {
					return disk.ErrPowerCut
				}
				return nil
			})
			run(t, d, true, dead, committed)
			left := d.Crash(func(_ string, n int) int { return n * (at % 3) / 2 })
			start, err := firmware.Boot(left, pkg, log)
			if err != nil {
				t.Fatal(err)
			}
			if start.Program == "" {
				if start.Image.Digest != pkg.Digest {
					t.Errorf("the loader starts the package as %+v", start.Image)
				}
			} else if b, err := disk.ReadFile(left, start.Program, 1<<20); err != nil || artifact.Of(b) != artifact.Of(program) {
				t.Errorf("the loader starts %q: %v", b, err)
			}
			run(t, left, true, never, committed)
		})
	}
}
