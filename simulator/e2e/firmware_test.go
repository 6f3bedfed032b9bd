package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// supervise keeps `swell-agent boot` running until the test's end, as systemd
// does.
func supervise(t *testing.T, program, config, log string) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		out, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		for {
			cmd := exec.Command(program, "--config", config, "boot")
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			ended := make(chan struct{})
			go func() { defer close(ended); _ = cmd.Wait() }() // how it ended is in its log
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
	t.Cleanup(func() {
		close(stop)
		<-stopped
		if b, err := os.ReadFile(log); err == nil && t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(log), b[max(0, len(b)-4000):])
		}
	})
}

// TestFleetReplacesItsProgramInWaves: three devices run the packaged program
// and a model; version 2 of the program is published through the REST API and
// rolled out, canary first; then a version that crashes takes the canary only,
// which comes back by itself, and the rollout stops.
func TestFleetReplacesItsProgramInWaves(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and runs a hub for half a minute")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	programs := program(t, "swell-agent")
	policy := rollout.Policy{
		Name: "careful", Waves: []rollout.Wave{{Name: "canary", Devices: 1, DeadlineS: 60}, {Name: "all", Share: 1, DeadlineS: 60}},
		Gates: []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateNonFinite}},
		SoakS: 0.5, MinWindows: 50, LeaseS: 10, GraceS: 10, StaleS: 10, RetryS: 0.5, Retries: 1,
	}
	h, err := local.Start(ctx, hub.Config{DataDir: filepath.Join(dir, "hub"), Rollouts: hub.Rollouts{Policies: []api.RolloutPolicy{{Policy: policy}}}}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	write(t, filepath.Join(dir, "ca.pem"), string(h.CAPEM()))
	write(t, filepath.Join(dir, "keys.pem"), string(h.ReleaseKeyPEM()))
	at := h.Addrs()
	var ids []topic.ID
	for i := range 3 {
		id := topic.ID{Site: "hall-1", Node: "pump-" + strconv.Itoa(i+1)}
		token, err := h.Fleet().Token(ctx, fleet.Device{ID: id, Class: class})
		if err != nil {
			t.Fatal(err)
		}
		config := filepath.Join(dir, id.Node+".yaml")
		write(t, config, fmt.Sprintf(`site: %s
node: %s
class: %s
state_dir: %s
status: "off"
heartbeat_s: 0.5
hub: {url: "https://%s", mqtt: "tls://%s", ca_file: %s, token: %s, reconnect_min_s: 0.1, reconnect_max_s: 1}
trust: {key_files: [%s]}
source: {kind: synthetic, synthetic: {rate_hz: 200, channels: [signal-1, signal-2]}}
`, id.Site, id.Node, class, filepath.Join(dir, "state", id.Node), at.Devices, at.MQTT, filepath.Join(dir, "ca.pem"), token, filepath.Join(dir, "keys.pem")))
		supervise(t, programs, config, filepath.Join(dir, id.Node+".log"))
		ids = append(ids, id)
	}
	every := func(what string, holds func(twin.Reported) bool) {
		t.Helper()
		until(t, time.Minute, what, func() (bool, error) {
			for _, id := range ids {
				_, r, err := device(ctx, h, id)
				if err != nil || !holds(r) {
					return false, nil // it may not have reported yet
				}
			}
			return true, nil
		})
	}
	every("reports of the packaged program", func(r twin.Reported) bool { return r.Agent.Slot == "a" && r.Stream.Samples > 0 })

	roll := func(id string) string {
		t.Helper()
		name, err := propose(ctx, h, id, policy.Name)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	model, err := h.PublishModel(ctx, candidate(agenttest.Model{Threshold: 1e9}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Promoted(ctx, roll(model.Manifest.ID()), func(string) {}); err != nil {
		t.Fatal(err)
	}

	publish := func(version string, program []byte) string {
		t.Helper()
		resp, err := h.API.PublishFirmwareWithBodyWithResponse(ctx, &apimodel.PublishFirmwareParams{
			Class: []string{string(class)}, Arch: apimodel.PublishFirmwareParamsArch(runtime.GOARCH), Version: version,
		}, "application/octet-stream", bytes.NewReader(program))
		if err != nil || resp.JSON201 == nil {
			t.Fatalf("publish %s: %v, %s", version, err, resp.Body)
		}
		return resp.JSON201.ID
	}
	second := filepath.Join(dir, "second")
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=2.0.0", "-o", second, "../../agent/cmd/swell-agent").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	program, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Promoted(ctx, roll(publish("2.0.0", program)), func(string) {}); err != nil {
		t.Fatal(err)
	}
	every("version 2 everywhere, with its model", func(r twin.Reported) bool {
		return r.Agent.Version == "2.0.0" && r.Agent.Slot == "b" && r.Champion != nil && r.Champion.Manifest == model.Digest && r.Firmware.Running != nil
	})

	name := roll(publish("3.0.0", []byte("#!/bin/sh\ncase \"$*\" in *check) echo 3.0.0;; *) exit 3;; esac\n")))
	var ended apimodel.Rollout
	until(t, 2*time.Minute, "the end of rollout "+name, func() (bool, error) {
		resp, err := h.API.GetRolloutWithResponse(ctx, name)
		if err != nil || resp.JSON200 == nil {
			return false, err
		}
		ended = *resp.JSON200
		s := string(ended.Status.State)
		return s != string(rollout.Running) && s != string(rollout.RollingBack) && s != string(rollout.Queued), nil
	})
	if s := string(ended.Status.State); s == string(rollout.Promoted) {
		t.Fatalf("a program that crashes was promoted: %+v", ended.Status)
	}
	tried := 0
	every("version 2 everywhere again", func(r twin.Reported) bool { return r.Agent.Version == "2.0.0" && r.Champion != nil })
	for _, id := range ids {
		_, r, err := device(ctx, h, id)
		if err != nil {
			t.Fatal(err)
		}
		if trial := r.Firmware.Trial; trial != nil && trial.Phase == twin.PhaseRolledBack {
			tried++
			if !strings.Contains(trial.Reason, "boots") || len(r.Quarantined) != 1 {
				t.Errorf("%s says %q, quarantined %v", id, trial.Reason, r.Quarantined)
			}
		}
		t.Logf("%s: rows waited %d ms in all, %d windows scored, %d lost", id, r.Stream.StoppedMs, r.Stream.WindowsScored, r.Stream.WindowsLost)
	}
	if tried != 1 {
		t.Errorf("%d devices tried the version that crashes: want the canary alone", tried)
	}
	t.Logf("the rollout of version 3: %s: %s", ended.Status.State, ended.Status.Message)
}
