package agent_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/interlock"
	"github.com/swellfleet/swell/protocol/twin"
)

// running starts a device that runs release 1.
func running(t *testing.T, d disk.FS, change func(c *agent.Config)) (device, *agenttest.Hub, *agenttest.Press) {
	t.Helper()
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	c := configure(hub, press, d)
	if change != nil {
		change(&c)
	}
	dev := boot(t, c)
	good := press.Release(agenttest.Order{Counter: 1})
	hub.Stock(good)
	hub.Offer(good, true, nil)
	hub.Phase(t, good, twin.PhaseConfirmed)
	return dev, hub, press
}

func TestModelThatCrashesItsProcessIsRehearsedElsewhere(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "crash")
	_, hub, press := running(t, nil, func(c *agent.Config) {
		c.StateDir = t.TempDir()
		// A stand-in for swell-agent rehearse: it dies as native code does once
		// the flag is there.
		c.TrialCommand = []string{"sh", "-c", `test -e "` + flag + `" && kill -SEGV $$; test -e "$0/pump/model.onnx"`}
	})
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := press.Release(agenttest.Order{Counter: 2})
	hub.Stock(bad)
	hub.Offer(bad, true, nil)
	r := hub.Phase(t, bad, twin.PhaseFailed)
	if r.Trial.Code != twin.CodeLoad || !strings.Contains(r.Trial.Reason, "segmentation fault") {
		t.Errorf("code %s, %s", r.Trial.Code, r.Trial.Reason)
	}
	if r.Champion.Counter != 1 || r.Stream.WindowsLost != 0 {
		t.Errorf("champion %+v, stream %+v", r.Champion, r.Stream)
	}
}

// watched is a disk that loses power as soon as it is durable that a model is
// about to be loaded: to the device it is as if loading had crashed it.
type watched struct {
	*disk.Mem
	dead     chan struct{}
	attempts int // that the journal counted at the crash before
}

// SyncDir implements disk.FS.
func (w *watched) SyncDir(name string) error {
	err := w.Mem.SyncDir(name)
	b, readErr := disk.ReadFile(w.Mem, "update/journal.json", 1<<20)
	var j struct {
		State struct{ Phase, Attempts int }
	}
	const loading = 4 // update.Journal counts the phases of package twin
	if readErr != nil || json.Unmarshal(b, &j) != nil || j.State.Phase != loading || j.State.Attempts == w.attempts {
		return err
	}
	w.attempts = j.State.Attempts
	w.Mem.Fault(func(disk.Op, string) error { return disk.ErrPowerCut })
	close(w.dead)
	return disk.ErrPowerCut
}

// TestCrashLoopWhileLoadingEnds starts a device again and again that loses
// power whenever the new model is about to be loaded.
func TestCrashLoopWhileLoadingEnds(t *testing.T) {
	d := &disk.Mem{}
	first, hub, press := running(t, d, nil)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	bad := press.Release(agenttest.Order{Counter: 2})
	hub.Stock(bad)
	hub.Offer(bad, true, nil)
	attempts := 0
	for starts := 1; ; starts++ {
		if starts > 5 {
			t.Fatal("the device still tries in its sixth start")
		}
		d = d.Crash(nil)
		w := &watched{Mem: d, dead: make(chan struct{}), attempts: attempts}
		dev := boot(t, configure(hub, press, w))
		crashed := false
		hub.Until(t, "a crash, or the end of the trial", func() bool {
			select {
			case <-w.dead:
				crashed = true
			default:
			}
			r := dev.Reported()
			return crashed || r.Trial != nil && r.Trial.Manifest == bad.Manifest && r.Trial.Phase == twin.PhaseFailed
		})
		r := dev.Reported()
		_ = dev.stop() // a disk without power cannot be closed well
		if !crashed {
			if r.Trial.Code != twin.CodeAttempts && r.Trial.Code != twin.CodeLoad {
				t.Errorf("trial %+v", r.Trial)
			}
			if starts < 3 {
				t.Errorf("given up in start %d", starts)
			}
			return
		}
		attempts = w.attempts
	}
}

func TestInterlockThatCannotBeReadForbids(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "interlock")
	if err := os.WriteFile(lock, []byte("ok\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, hub, press := running(t, &disk.Mem{}, func(c *agent.Config) { c.Update.Interlock = lock })
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	next := press.Release(agenttest.Order{Counter: 2})
	hub.Stock(next)
	hub.Offer(next, true, func(a *twin.Assignment) { a.Deadline = time.Now().Add(4 * time.Second) })
	hub.Await(t, "it waits and says why", func(r twin.Reported) bool {
		return r.Trial != nil && r.Trial.Phase == twin.PhaseReady && strings.Contains(r.Trial.Reason, lock+" cannot be read, which forbids")
	})
	if r := hub.Phase(t, next, twin.PhaseFailed); r.Trial.Code != twin.CodeDeadline || r.Champion.Counter != 1 {
		t.Errorf("trial %+v, champion %+v", r.Trial, r.Champion)
	}
}

// A vehicle that is switched off every evening keeps what it waits with.
func TestTrialOutlivesStopsOnPurpose(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "parked")
	if err := os.WriteFile(lock, []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &disk.Mem{}
	dev, hub, press := running(t, d, nil)
	next := press.Release(agenttest.Order{Counter: 2})
	hub.Stock(next)
	for n := range 6 {
		if err := dev.stop(); err != nil {
			t.Fatal(err)
		}
		c := configure(hub, press, d)
		c.Update.Interlock = lock
		dev = boot(t, c)
		if n == 0 {
			hub.Offer(next, true, func(a *twin.Assignment) { a.Deadline = time.Now().Add(time.Hour) })
		}
		hub.Until(t, "the release waits", func() bool {
			r := dev.Reported()
			return r.Trial != nil && r.Trial.Manifest == next.Manifest && r.Trial.Phase == twin.PhaseReady
		})
	}
	if n := dev.Reported().Trial.Attempts; n != 1 {
		t.Errorf("5 stops on purpose count as %d attempts", n)
	}
	if err := os.WriteFile(lock, []byte("ok"), 0o600); err != nil {
		t.Fatal(err)
	}
	hub.Phase(t, next, twin.PhaseConfirmed)
}

// The plant is asked in several ways; the release acts when all permit.
func TestReleaseWaitsForThePlantAndThenActs(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "line")
	if err := os.WriteFile(lock, []byte("ok"), 0o600); err != nil {
		t.Fatal(err)
	}
	var open atomic.Bool
	open.Store(true)
	plant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"maintenance":%t}`, open.Load()) }))
	defer plant.Close()
	_, hub, press := running(t, &disk.Mem{}, func(c *agent.Config) {
		c.Update.Interlock = lock // the old form counts, too
		c.Update.Interlocks = []interlock.Predicate{{
			Name: "maintenance", HTTP: &interlock.HTTP{URL: plant.URL, Value: interlock.Value{Field: "maintenance", Equals: "true"}},
		}}
	})
	open.Store(false)
	next := press.Release(agenttest.Order{Counter: 2})
	hub.Stock(next)
	hub.Offer(next, true, nil)
	hub.Await(t, "it waits and says why", func(r twin.Reported) bool {
		return r.Trial != nil && r.Trial.Phase == twin.PhaseReady && strings.Contains(r.Trial.Reason, `maintenance (`+plant.URL+`) says "false", not true`)
	})
	hub.Await(t, "it is a condition of the device", func(r twin.Reported) bool {
		return slices.ContainsFunc(r.Conditions, func(c twin.Condition) bool {
			return c.Type == "InterlockClosed" && c.Status && strings.Contains(c.Message, "maintenance (")
		})
	})
	open.Store(true)
	hub.Phase(t, next, twin.PhaseConfirmed)
	hub.Await(t, "the condition is over", func(r twin.Reported) bool {
		return !slices.ContainsFunc(r.Conditions, func(c twin.Condition) bool { return c.Type == "InterlockClosed" })
	})
}

func TestFullDiskStopsTheUpdateAndNotTheDevice(t *testing.T) {
	d := &disk.Mem{}
	dev, hub, press := running(t, d, nil)
	next := press.Release(agenttest.Order{Counter: 2, Model: agenttest.Model{Note: strings.Repeat("x", 60_000)}})
	hub.Stock(next)
	d.Limit(40_000)
	hub.Offer(next, true, func(a *twin.Assignment) { a.Deadline = time.Now().Add(2 * time.Second) })
	hub.Until(t, "the trial ends", func() bool {
		r := dev.Reported()
		return r.Trial != nil && r.Trial.Phase != twin.PhaseConfirmed && strings.Contains(r.Trial.Reason, "disk")
	})
	was := dev.Reported().Stream.WindowsScored
	hub.Until(t, "it goes on scoring", func() bool { return dev.Reported().Stream.WindowsScored > was+100 })
	hub.Until(t, "it says so", func() bool {
		for _, c := range dev.Reported().Conditions {
			if c.Type == "DiskPressure" {
				return true
			}
		}
		return false
	})
	d.Limit(0)
	hub.Until(t, "nothing was lost but what the disk could not hold", func() bool { return dev.Reported().Stream.WindowsLost == 0 })
}
