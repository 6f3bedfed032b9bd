package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// guarded is a rollout policy with every gate: a canary of two, then all.
func guarded() rollout.Policy {
	return rollout.Policy{
		Name:    "guarded",
		Waves:   []rollout.Wave{{Name: "canary", Devices: 2, DeadlineS: 20}, {Name: "all", Share: 1, DeadlineS: 20}},
		Gates:   []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateShadow}, {Name: rollout.GateNonFinite}, {Name: rollout.GateOutput}},
		ShadowS: 1, ShadowWindowS: 0.1, SoakS: 0.3, MinWindows: 10, LeaseS: 10, GraceS: 10, StaleS: 10, RetryS: 0.5,
	}
}

// calm never flags anything here, and hysteric flags every window.
func calm(note string) agenttest.Model {
	return agenttest.Model{Threshold: 1e9, Note: note}
}

var hysteric = agenttest.Model{Threshold: 1e-9, Note: "hysteric"}

// factory is a hub and whole agents in this process.
type factory struct {
	t     *testing.T
	dir   string
	cfg   hub.Config
	hub   *local.Hub
	fleet *fleet.Fleet
	ids   []topic.ID
}

// newFactory starts n devices on which a calm release 1 acts. Every release is
// rehearsed in another process first, as the agent's program does.
func newFactory(t *testing.T, n int) *factory {
	ports := freePorts(t, 4) // its own, so that a hub can come back under them
	f := &factory{t: t, dir: t.TempDir()}
	f.cfg = hub.Config{
		DataDir: filepath.Join(f.dir, "hub"),
		HTTP:    hub.HTTP{Listen: ports[0]}, Devices: hub.Devices{Listen: ports[1]}, Broker: hub.Broker{Listen: ports[2]}, Objects: hub.Objects{Listen: ports[3]},
		Rollouts: hub.Rollouts{Policies: []api.RolloutPolicy{{Policy: guarded()}}},
	}
	var err error
	if f.hub, err = local.Start(t.Context(), f.cfg, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.hub.Close() })
	var devices []fleet.Device
	for i := range n {
		id := topic.ID{Site: "hall-1", Node: fmt.Sprintf("pump-%d", i+1)}
		f.ids = append(f.ids, id)
		devices = append(devices, fleet.Device{ID: id, Class: class, Labels: map[string]string{"line": "l1"}, Source: func() (source.Source, error) {
			return synthetic.New(synthetic.Config{Seed: uint64(i) + 1, RateHz: 200, Channels: []string{"signal-1", "signal-2"}}), nil
		}})
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f.fleet, err = fleet.Start(t.Context(), fleet.Config{
		Hub: f.hub.Fleet(), Devices: devices, StateDir: filepath.Join(f.dir, "devices"),
		Adjust: func(c *agent.Config) {
			c.HeartbeatS, c.Spool.SyncS = 0.3, 0.05
			c.Telemetry.BlockRows, c.Telemetry.BlockS = 50, 0.2
			c.Hub.ReconnectMinS, c.Hub.ReconnectMaxS = 0.05, 0.5
			c.TrialCommand = []string{self, rehearsal}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.fleet.Close)
	until(t, 30*time.Second, "all devices to report", func() (bool, error) { // nothing is offered to devices that are not there
		for _, id := range f.ids {
			resp, err := f.hub.API.GetDeviceWithResponse(t.Context(), id.Site, id.Node)
			if err != nil || resp.JSON200 == nil || resp.JSON200.Status.Reported == nil {
				return false, err
			}
		}
		return true, f.fleet.Err()
	})
	f.promote(f.publish(candidate(calm("one"), nil)))
	return f
}

func (f *factory) publish(c release.Candidate) release.Release {
	f.t.Helper()
	r, err := f.hub.PublishModel(f.t.Context(), c)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// offer proposes a release and returns the rollout as it ended.
func (f *factory) offer(r release.Release) apimodel.Rollout {
	f.t.Helper()
	name, err := propose(f.t.Context(), f.hub, r.Manifest.ID(), "guarded")
	if err != nil {
		f.t.Fatal(err)
	}
	var out apimodel.Rollout
	until(f.t, 90*time.Second, "the end of rollout "+name, func() (bool, error) {
		if out, err = f.hub.Rollout(f.t.Context(), name); err != nil {
			return false, err
		}
		return out.Status.EndedAt != nil, f.fleet.Err()
	})
	return out
}

func (f *factory) promote(r release.Release) {
	f.t.Helper()
	if out := f.offer(r); out.Status.State != apimodel.RolloutStatePromoted {
		f.t.Fatalf("rollout %s was %s: %s", out.Metadata.Name, out.Status.State, out.Status.Message)
	}
}

// failed requires that a rollout failed in its first wave with a reason, that
// no device was touched beyond that wave, and that the model of before acts
// everywhere. It returns what the rollout's devices say.
func (f *factory) failed(out apimodel.Rollout, message string) []apimodel.RolloutDevice {
	f.t.Helper()
	ctx := f.t.Context()
	if out.Status.State != apimodel.RolloutStateFailed || !strings.Contains(out.Status.Message, message) {
		f.t.Errorf("rollout %s was %s: %q, want it failed with %q", out.Metadata.Name, out.Status.State, out.Status.Message, message)
	}
	decisions, err := f.hub.API.ListRolloutDecisionsWithResponse(ctx, out.Metadata.Name, nil)
	if err != nil || decisions.JSON200 == nil {
		f.t.Fatalf("decisions: %v, %s", err, decisions.Body)
	}
	if !bytes.Contains(decisions.Body, []byte(message)) {
		f.t.Errorf("no decision says %q: %.2000s", message, decisions.Body)
	}
	list, err := f.hub.API.ListRolloutDevicesWithResponse(ctx, out.Metadata.Name, nil)
	if err != nil || list.JSON200 == nil {
		f.t.Fatalf("devices: %v, %s", err, list.Body)
	}
	var touched []apimodel.RolloutDevice
	for _, d := range list.JSON200.Items {
		if d.State == apimodel.RolloutDeviceStatePending {
			continue
		}
		touched = append(touched, d)
		if d.Wave != 0 {
			f.t.Errorf("%s is in wave %d of a release that the first wave stopped", d.Name, d.Wave)
		}
	}
	if len(touched) == 0 {
		f.t.Error("no device was offered it")
	}
	f.running(1)
	return touched
}

// running waits until every device attests the release with this counter, and
// checks that nothing else ever acted since release 1 did.
func (f *factory) running(counter uint64) {
	f.t.Helper()
	until(f.t, 30*time.Second, fmt.Sprintf("all devices to run release %d", counter), func() (bool, error) {
		for _, id := range f.ids {
			s, rep, err := device(f.t.Context(), f.hub, id)
			if err != nil {
				return false, err
			}
			if rep.Champion == nil || rep.Champion.Counter != counter || s.Attested == nil || !*s.Attested {
				return false, nil
			}
		}
		return true, nil
	})
}

// swaps counts how often a champion changed.
func (f *factory) swaps() (n uint64) {
	for _, r := range f.fleet.Reported() {
		n += r.Stream.Swaps
	}
	return n
}

func (f *factory) lost() (n uint64) {
	for _, r := range f.fleet.Reported() {
		n += r.Stream.WindowsLost
	}
	return n
}

func TestAReleaseThatFlagsEverythingIsStoppedInItsShadow(t *testing.T) {
	f := newFactory(t, 5)
	swaps := f.swaps()
	began := time.Now()
	out := f.offer(f.publish(candidate(hysteric, nil)))
	took := time.Since(began)
	for _, d := range f.failed(out, "shadow gate") {
		if d.State == apimodel.RolloutDeviceStateSoaking || d.State == apimodel.RolloutDeviceStateDone {
			t.Errorf("%s is %s", d.Name, d.State)
		}
	}
	if n := f.swaps(); n != swaps {
		t.Errorf("it acted: %d changes of the champion", n-swaps)
	}
	if n := f.lost(); n > 0 {
		t.Errorf("%d windows were lost", n)
	}
	t.Logf("stopped %.1f s after it was proposed: %s", took.Seconds(), out.Status.Message)
	// The way is free for the next one.
	f.promote(f.publish(candidate(calm("three"), nil)))
	f.running(3)
}

func TestAReleaseThatCannotWorkNeverActs(t *testing.T) {
	wrong, err := json.Marshal(map[string]any{"channels": 2, "window": 8, "windows": [][]float32{make([]float32, 16)}, "scores": []float32{5}, "flags": []bool{false}, "abs_tol": 1e-5, "rel_tol": 1e-4})
	if err != nil {
		t.Fatal(err)
	}
	f := newFactory(t, 5)
	swaps := f.swaps()
	for _, c := range []struct {
		name      string
		candidate release.Candidate
		code      twin.Code
		reason    string
	}{
		{"it crashes the process that loads it", candidate(calm(crashNote), nil), twin.CodeLoad, "SIGSEGV"},
		{"its golden vectors do not hold", candidate(calm("wrong golden vectors"), wrong), twin.CodeLoad, "golden"},
		{"it reads a channel that is not there", candidate(agenttest.Model{Threshold: 1e9, Channels: []string{"signal-1", "signal-9"}}, nil), twin.CodeGuard, "signal-9"},
		{"its scores are no numbers", candidate(agenttest.Model{NaN: true, Threshold: 1e9}, nil), twin.CodeLoad, "golden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			out := f.offer(f.publish(c.candidate))
			for _, d := range f.failed(out, "success gate") {
				if d.State == apimodel.RolloutDeviceStateFailed && (d.Reason == nil || !strings.Contains(*d.Reason, c.reason)) {
					t.Errorf("%s failed and says %v, want %q", d.Name, deref(d.Reason), c.reason)
				}
			}
			for id, r := range f.fleet.Reported() {
				if r.Trial != nil && r.Trial.Counter == uint64(out.Spec.Release.Counter) && r.Trial.Phase == twin.PhaseFailed && r.Trial.Code != c.code {
					t.Errorf("%s: code %s, want %s: %s", id, r.Trial.Code, c.code, r.Trial.Reason)
				}
			}
			if n := f.swaps(); n != swaps {
				t.Errorf("it acted: %d changes of the champion", n-swaps)
			}
			t.Log(out.Status.Message)
		})
	}
	f.t = t
	if n := f.lost(); n > 0 {
		t.Errorf("%d windows were lost", n)
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// TestAStoredReleaseThatSomebodyChangedIsRefused flips one byte in the object
// store, as somebody with access to it could.
func TestAStoredReleaseThatSomebodyChangedIsRefused(t *testing.T) {
	f := newFactory(t, 4)
	swaps := f.swaps()
	for _, c := range []struct{ file, after, says string }{
		{"pump/model.onnx", "", "file pump/model.onnx has digest"},
		{"manifest.json", "", "manifest is damaged"},
		{"model.sig", `"sig":"`, "signature"},
		{"model.sig", `"payload":"`, "signature"},
	} {
		t.Run(strings.TrimSpace(c.file+" "+strings.Trim(c.after, `":`)), func(t *testing.T) {
			f.t = t
			r := f.publish(candidate(calm("tampered "+c.file+c.after), nil))
			flip(t, filepath.Join(f.dir, "hub", "objects", "data", "swell", filepath.FromSlash(r.Key+c.file)), c.after)
			v, err := f.hub.API.VerifyModelVersionWithResponse(t.Context(), family, int64(r.Manifest.Counter))
			if err != nil || v.JSON200 == nil || v.JSON200.Ok {
				t.Errorf("the hub's own check does not see it: %v, %s", err, v.Body)
			}
			out := f.offer(r)
			said := 0
			for _, d := range f.failed(out, "success gate") {
				if d.State != apimodel.RolloutDeviceStateFailed {
					continue
				}
				if said++; !strings.Contains(deref(d.Reason), c.says) {
					t.Errorf("%s failed and says %q, want %q", d.Name, deref(d.Reason), c.says)
				}
				t.Logf("%s: %s", d.Name, deref(d.Reason))
			}
			if said == 0 {
				t.Error("no device says that it refused")
			}
		})
	}
	f.t = t
	if n := f.swaps(); n != swaps {
		t.Errorf("a changed release acted: %d changes of the champion", n-swaps)
	}
	// Whoever repairs the store can go on.
	next := f.publish(candidate(calm("whole"), nil))
	f.promote(next)
	f.running(next.Manifest.Counter)
}

// flip changes one byte of a file in place, so that whatever the store keeps
// beside it stays: the tenth after the given text, or the one in the middle.
func flip(t *testing.T, name, after string) {
	t.Helper()
	w, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b, err := io.ReadAll(w)
	if err != nil {
		t.Fatal(err)
	}
	at := len(b) / 2
	if after != "" {
		i := bytes.Index(b, []byte(after))
		if i < 0 {
			t.Fatalf("%s has no %s", name, after)
		}
		at = i + len(after) + 10
	}
	// Another letter that base64 and JSON take as well.
	c := byte('A')
	if b[at] == c {
		c = 'B'
	}
	if _, err := w.WriteAt([]byte{c}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

func TestAHubThatIsAwayCostsNothingButTime(t *testing.T) {
	f := newFactory(t, 4)
	if err := f.hub.Close(); err != nil {
		t.Fatal(err)
	}
	before := f.fleet.Reported()
	const away = 2000 // rows each device reads meanwhile
	until(t, time.Minute, "the devices to go on alone", func() (bool, error) {
		for id, r := range f.fleet.Reported() {
			b := before[id].Stream
			if r.Stream.Samples < b.Samples+away || r.Stream.WindowsScored < b.WindowsScored+away-50 || r.Stream.SpoolBlocks < away/50 {
				return false, f.fleet.Err()
			}
		}
		return true, nil
	})
	most := 0
	for _, r := range f.fleet.Reported() {
		most = max(most, r.Stream.SpoolBlocks)
	}
	var err error
	if f.hub, err = local.Start(t.Context(), f.cfg, f.hub.Password); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	until(t, time.Minute, "the spools to empty", func() (bool, error) {
		for _, r := range f.fleet.Reported() {
			if r.Stream.SpoolBlocks > 5 {
				return false, f.fleet.Err()
			}
		}
		return true, nil
	})
	took := time.Since(back)
	reported := f.fleet.Reported()
	f.fleet.Close()
	rows, verdicts := 0, 0
	for _, id := range f.ids {
		r := reported[id].Stream
		if r.WindowsLost > 0 || r.StoppedMs > 0 || r.SpoolDropped > 0 {
			t.Errorf("%s lost %d windows, stopped %d ms, dropped %d blocks", id, r.WindowsLost, r.StoppedMs, r.SpoolDropped)
		}
		for _, stream := range []telemetry.Stream{telemetry.Raw, telemetry.Verdicts} {
			have, gaps := f.stored(id, stream)
			if gaps > 0 {
				t.Errorf("%s: %d rows of %s are missing", id, gaps, stream)
			}
			if stream == telemetry.Raw {
				rows += have
			} else {
				verdicts += have
			}
			if have < away {
				t.Errorf("%s: %d rows of %s arrived", id, have, stream)
			}
		}
	}
	t.Logf("%d blocks waited on the fullest device; all was there %.1f s after the hub was back: %d rows and %d verdicts of %d devices, no gap", most, took.Seconds(), rows, verdicts, len(f.ids))
}

// stored counts the rows of a stream that the hub has, and those missing
// between its first and its last.
func (f *factory) stored(id topic.ID, stream telemetry.Stream) (have, gaps int) {
	parts, err := f.hub.Stored(context.WithoutCancel(f.t.Context()), id, stream)
	if err != nil {
		f.t.Fatal(err)
	}
	rows := map[uint64]bool{}
	first, last := ^uint64(0), uint64(0)
	for _, c := range parts {
		for _, row := range c.Rows {
			rows[row] = true
			first, last = min(first, row), max(last, row)
		}
	}
	return len(rows), int(last-first) + 1 - len(rows)
}
