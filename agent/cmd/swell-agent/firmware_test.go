package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// build makes the agent's program in a version.
func build(t *testing.T, version string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "swell-agent")
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version="+version, "-o", name, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// supervise keeps `boot` running as systemd would: whenever it ends it is
// started again, soon.
func (p *plant) supervise() {
	stop, stopped := make(chan struct{}), make(chan struct{})
	log := p.t.Output() // of the whole test: a program may outlive a part of it
	start := func() *exec.Cmd {
		cmd := exec.Command(p.binary, "--config", p.config, "boot")
		if testing.Verbose() {
			cmd.Stderr = log
		}
		if err := cmd.Start(); err != nil {
			p.t.Error(err)
			return nil
		}
		return cmd
	}
	go func() {
		defer close(stopped)
		for cmd := start(); cmd != nil; cmd = start() {
			ended := make(chan struct{})
			go func() { defer close(ended); _ = cmd.Wait() }()
			select {
			case <-ended:
			case <-stop:
				_ = cmd.Process.Signal(syscall.SIGTERM)
				<-ended
				return
			}
			select {
			case <-time.After(50 * time.Millisecond): // RestartSec
			case <-stop:
				return
			}
		}
	}()
	p.t.Cleanup(func() { close(stop); <-stopped })
}

// offerFirmware asks for a firmware release, with permission to restart.
func (p *plant) offerFirmware(r agenttest.Release, change func(*twin.Assignment)) {
	p.hub.Stock(r)
	a := &twin.Assignment{Rollout: fmt.Sprint("f", r.Counter), Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial, SoakS: 0.5, MinWindows: 100}
	if change != nil {
		change(a)
	}
	p.mu.Lock()
	p.desired.Generation++
	p.desired.IssuedAt, p.desired.ExpiresAt = time.Now().UTC(), time.Now().Add(time.Hour).UTC()
	p.desired.Firmware = a
	p.desired.FirmwareLease = &twin.Lease{ID: "lf", Manifest: r.Manifest, ExpiresAt: time.Now().Add(time.Hour)}
	b, err := json.Marshal(p.desired)
	p.mu.Unlock()
	if err != nil {
		p.t.Fatal(err)
	}
	if token := p.client.Publish(topic.Of(pump, topic.Desired), 1, true, b); token.Wait() && token.Error() != nil {
		p.t.Fatal(token.Error())
	}
}

// ends waits for the trial of r to end and for whatever is to run after it.
func (p *plant) ends(r agenttest.Release, phase twin.Phase, version string) twin.Reported {
	p.t.Helper()
	var got twin.Reported
	p.until(fmt.Sprintf("firmware %d %s and version %s", r.Counter, phase, version), p.last(func(d twin.Reported) bool {
		got = d
		return d.Firmware != nil && d.Firmware.Trial != nil && d.Firmware.Trial.Manifest == r.Manifest && d.Firmware.Trial.Phase == phase &&
			d.Agent.Version == version && d.Champion != nil && d.Champion.Windows > 0
	}))
	return got
}

const fast = `source: {kind: synthetic, synthetic: {rate_hz: 1000, channels: [signal-1, signal-2]}}
telemetry: {block_rows: 100}
`

// TestProgramReplacesItselfAndComesBackFromABadOne is a device's life: the
// packaged program takes a model, then version 2 of itself; a version that
// crashes, one that cannot work here and one that never does its work are given
// up; version 2 runs on, and version 3 replaces it.
func TestProgramReplacesItselfAndComesBackFromABadOne(t *testing.T) {
	p := newPlant(t, fast)
	two, three := build(t, "2.0.0"), build(t, "3.0.0")
	p.supervise()
	model := p.press.Release(agenttest.Order{Counter: 1})
	p.hub.Stock(model)
	p.offer(model)
	p.until("the model confirmed by the packaged program", p.last(func(r twin.Reported) bool {
		return r.Trial != nil && r.Trial.Phase == twin.PhaseConfirmed && r.Champion != nil && r.Champion.Windows > 100 && r.Agent.Version == "devel"
	}))
	p.until("slot a", p.last(func(r twin.Reported) bool { return r.Agent.Slot == "a" && r.Agent.Firmware == "" && r.Firmware != nil }))

	second := p.press.Firmware(agenttest.Firmware{Counter: 1, Version: "2.0.0", Program: two})
	p.offerFirmware(second, nil)
	r := p.ends(second, twin.PhaseConfirmed, "2.0.0")
	if r.Agent.Slot != "b" || artifact.Digest(r.Agent.Firmware) != second.Manifest || r.Firmware.Running == nil || r.Firmware.Running.Model != second.Model {
		t.Errorf("version 2 attests slot %q, firmware %s, %+v", r.Agent.Slot, r.Agent.Firmware, r.Firmware.Running)
	}
	if r.Champion.Model != model.Model {
		t.Errorf("the model did not survive the change of program: %+v", r.Champion)
	}
	t.Logf("rows waited %d ms for version 2; windows due %d, scored %d, lost %d", r.Stream.StoppedMs, r.Stream.WindowsDue, r.Stream.WindowsScored, r.Stream.WindowsLost)
	if r.Stream.StoppedMs == 0 || r.Stream.StoppedMs > 5000 {
		t.Errorf("the change of program took %d ms, as reported: want it counted, and short", r.Stream.StoppedMs)
	}

	for _, bad := range []struct {
		name, program string
		phase         twin.Phase
		reason        string
	}{
		{"one that crashes at its start", "#!/bin/sh\ncase \"$*\" in *check) echo bad;; *) exit 3;; esac\n", twin.PhaseRolledBack, "within 3 boots"},
		{"one the system cannot start", "", twin.PhaseRolledBack, "start "},
		{"one that cannot work here", "#!/bin/sh\necho no such library >&2; exit 1\n", twin.PhaseFailed, "no such library"},
		{"one that says another version", "#!/bin/sh\necho good\n", twin.PhaseFailed, "it is version \"good\""},
	} {
		t.Run(bad.name, func(t *testing.T) {
			outer := p.t
			p.t = t
			defer func() { p.t = outer }()
			program := bad.program
			if program == "" { // passes its check, and removes what it needs to start
				shell := filepath.Join(p.t.TempDir(), "sh")
				if err := os.Symlink("/bin/sh", shell); err != nil {
					t.Fatal(err)
				}
				program = "#!" + shell + "\nrm " + shell + "; echo bad\n"
			}
			p.mu.Lock()
			counter := p.desired.Firmware.Counter + 1
			p.mu.Unlock()
			release := p.press.Firmware(agenttest.Firmware{Counter: counter, Version: "bad", Program: []byte(program)})
			p.offerFirmware(release, nil)
			r := p.ends(release, bad.phase, "2.0.0")
			if trial := r.Firmware.Trial; !strings.Contains(trial.Reason, bad.reason) {
				t.Errorf("the reason is %q, want %q in it", trial.Reason, bad.reason)
			}
			if slices.Contains(r.Quarantined, release.Manifest) != (bad.phase == twin.PhaseRolledBack) {
				t.Errorf("quarantined %v", r.Quarantined)
			}
			if artifact.Digest(r.Agent.Firmware) != second.Manifest {
				t.Errorf("after it firmware %s runs", r.Agent.Firmware)
			}
			if bad.phase != twin.PhaseRolledBack {
				return
			}
			p.offerFirmware(release, func(a *twin.Assignment) { a.Try = 1 })
			if r = p.ends(release, twin.PhaseFailed, "2.0.0"); r.Firmware.Trial.Code != twin.CodeQuarantine {
				t.Errorf("offered again: %+v, want it refused unread", r.Firmware.Trial)
			}
		})
	}

	// Version 3 does its work, but the hub wants more of it than it can show in
	// time; then the same program comes in a release with a fair deadline, and
	// is not taken again.
	p.mu.Lock()
	counter := p.desired.Firmware.Counter + 1
	p.mu.Unlock()
	slow := p.press.Firmware(agenttest.Firmware{Counter: counter, Version: "3.0.0", Program: three})
	p.offerFirmware(slow, func(a *twin.Assignment) { a.MinWindows, a.Deadline = 1e9, time.Now().Add(4*time.Second) })
	r = p.ends(slow, twin.PhaseRolledBack, "2.0.0")
	if r.Firmware.Trial.Code != twin.CodeDeadline || !slices.Contains(r.Quarantined, slow.Manifest) {
		t.Errorf("past its deadline: %+v, quarantined %v", r.Firmware.Trial, r.Quarantined)
	}

	fourth := p.press.Firmware(agenttest.Firmware{Counter: counter + 1, Version: "4.0.0", Program: build(t, "4.0.0")})
	p.offerFirmware(fourth, nil)
	if r = p.ends(fourth, twin.PhaseConfirmed, "4.0.0"); r.Agent.Slot != "a" {
		t.Errorf("version 4 runs from slot %q, want the other one", r.Agent.Slot)
	}
	// The hub orders version 2 back, which the other slot no longer holds on
	// trial but whose release is still known.
	p.offerFirmware(second, func(a *twin.Assignment) { a.Rollout, a.Mode = "back", twin.ModeRollback })
	r = p.ends(second, twin.PhaseConfirmed, "2.0.0")
	t.Logf("after all of it: stopped %d ms, windows lost %d", r.Stream.StoppedMs, r.Stream.WindowsLost)

	p.mu.Lock()
	defer p.mu.Unlock()
	boots := map[uint64]bool{}
	for _, b := range p.blocks {
		if b.Stream == telemetry.Raw {
			boots[b.Boot] = true
		}
	}
	if len(boots) != 1 || p.hub.Issued() != 1 {
		t.Errorf("%d spools and %d enrolments: the state did not survive", len(boots), p.hub.Issued())
	}
}
