package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/local"
)

// family and class of everything here.
const (
	family = "pump"
	class  = artifact.Class("pump")
)

func TestMain(m *testing.M) {
	hub.MaybeRunChild()
	if len(os.Args) == 3 && os.Args[1] == rehearsal {
		rehearse(os.Args[2])
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// rehearsal makes this program the child that an agent tries a release in.
const rehearsal = "rehearse-a-release"

// crashNote marks releases whose load crashes the process it happens in, the
// way a fault in native code would.
const crashNote = "crashes at load"

func rehearse(slot string) {
	err := func() error {
		b, err := os.ReadFile(filepath.Join(slot, "pump", "model.onnx"))
		if err == nil && bytes.Contains(b, []byte(crashNote)) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		}
		return apply.Rehearse(context.Background(), slot, class, runtime.Options{})
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// built are the real programs, made once.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// program returns the path of a built program.
func program(t *testing.T, name string) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "swell-e2e-"); built.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", built.dir+"/", "../../cloud/cmd/swell-hub", "../../agent/cmd/swell-agent").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, name)
}

// freePorts returns so many loopback addresses that nobody listens on.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// candidate makes a model a release of the family.
func candidate(m agenttest.Model, golden []byte) release.Candidate {
	if golden == nil {
		golden = m.Golden()
	}
	return release.Candidate{
		Name: family, Kind: artifact.Model, Reason: "for a test",
		Variants: []release.Variant{{Classes: []artifact.Class{class}, Files: []release.File{
			release.Bytes("pump/model.onnx", artifact.RoleModel, m.ONNX()),
			release.Bytes("pump/golden.json", artifact.RoleGolden, golden),
		}}},
	}
}

// until waits for a condition with the test's own deadline.
func until(t *testing.T, limit time.Duration, what string, look func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	if err := local.Until(ctx, what, look); err != nil {
		t.Fatal(err)
	}
}

// propose starts a rollout of a release.
func propose(ctx context.Context, h *local.Hub, release, policy string) (string, error) {
	resp, err := h.API.CreateRolloutWithResponse(ctx, nil, apimodel.RolloutCreate{Policy: policy, Release: release})
	if err != nil {
		return "", err
	}
	if resp.JSON201 == nil {
		return "", fmt.Errorf("propose %s: the hub answers %d: %s", release, resp.StatusCode(), resp.Body)
	}
	return resp.JSON201.Metadata.Name, nil
}

// device returns what the hub shows of a device, and its report.
func device(ctx context.Context, h *local.Hub, id topic.ID) (apimodel.DeviceStatus, twin.Reported, error) {
	var rep twin.Reported
	resp, err := h.API.GetDeviceWithResponse(ctx, id.Site, id.Node)
	if err != nil {
		return apimodel.DeviceStatus{}, rep, err
	}
	if resp.JSON200 == nil {
		return apimodel.DeviceStatus{}, rep, fmt.Errorf("device %s: the hub answers %d: %s", id, resp.StatusCode(), resp.Body)
	}
	if r := resp.JSON200.Status.Reported; r != nil {
		b, err := json.Marshal(*r)
		if err != nil {
			return resp.JSON200.Status, rep, err
		}
		if err := json.Unmarshal(b, &rep); err != nil {
			return resp.JSON200.Status, rep, err
		}
	}
	return resp.JSON200.Status, rep, nil
}
