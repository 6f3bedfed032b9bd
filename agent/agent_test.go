package agent_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/actions"
	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

var pump = topic.ID{Site: "hall-1", Node: "pump-03"}

// device is one agent under test.
type device struct {
	*agent.Agent
	stop func() error // ends the run and returns its error
}

// configure makes a configuration by which an agent on d meets hub.
func configure(hub *agenttest.Hub, press *agenttest.Press, d disk.FS) agent.Config {
	return agent.Config{
		Site: hub.ID.Site, Node: hub.ID.Node, Class: "pump", Labels: map[string]string{"line": "l1"},
		Hub:    agent.Hub{URL: hub.URL, MQTT: "tls://127.0.0.1:1", CAPEM: hub.CA, Token: hub.Token, ReconnectMinS: 0.05},
		Trust:  agent.Trust{KeysPEM: press.PublicKey()},
		Source: agent.Source{Kind: "synthetic", Synthetic: synthetic.Config{Seed: 7, RateHz: 1000, Channels: []string{"signal-1", "signal-2"}}},
		Telemetry: agent.Telemetry{
			BlockRows: 200, BlockS: 0.2, LiveS: 0.1,
		},
		Spool: agent.Spool{SyncS: 0.02}, HeartbeatS: 0.2, Status: "off",
		Disk: d, Uplink: hub,
	}
}

// boot starts an agent; the test's end stops it.
func boot(t testing.TB, c agent.Config) device {
	t.Helper()
	if testing.Verbose() {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	d := device{Agent: a, stop: func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}}
	t.Cleanup(func() { _ = d.stop() })
	return d
}

func TestDeviceEnrolsStreamsAndTakesTwoReleasesWithoutLosingAWindow(t *testing.T) {
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	c := configure(hub, press, &disk.Mem{})
	c.Actions = actions.Config{Event: true}
	d := boot(t, c)

	hub.Until(t, "a certificate", func() bool { return hub.Issued() == 1 })
	hub.Until(t, "raw blocks", func() bool { b, _ := hub.Blocks(telemetry.Raw); return len(b) > 2 })

	first := press.Release(agenttest.Order{Counter: 1, Model: agenttest.Model{Threshold: 1e9}})
	hub.Stock(first)
	hub.Offer(first, true, nil)
	r := hub.Phase(t, first, twin.PhaseConfirmed)
	if r.Champion == nil || r.Champion.Model != first.Model {
		t.Fatalf("the champion attests %+v, want model %s", r.Champion, first.Model)
	}

	// The second reads longer windows and flags everything: it shadows, waits
	// for its lease and then acts.
	second := press.Release(agenttest.Order{Counter: 2, Model: agenttest.Model{Window: 32, Threshold: 1e-9}})
	hub.Stock(second)
	hub.Offer(second, false, func(a *twin.Assignment) { a.ShadowS, a.ShadowWindowS, a.SoakS, a.MinWindows = 0.5, 0.1, 0.3, 20 })
	r = hub.Phase(t, second, twin.PhaseReady)
	if s := r.Trial.Shadow; s == nil || s.Items == 0 || s.OnlyChallenger != s.Items || len(s.Windows) == 0 {
		t.Errorf("shadow %+v: want every window flagged by the challenger alone, in counting windows", r.Trial.Shadow)
	}
	if r.Champion.Counter != 1 {
		t.Errorf("release %d acts while its successor waits for a lease", r.Champion.Counter)
	}
	hub.Lease(second.Manifest)
	r = hub.Phase(t, second, twin.PhaseConfirmed)
	if r.Champion.Model != second.Model || r.LastGood == nil || r.LastGood.Counter != 2 {
		t.Errorf("after the soak: champion %+v, last good %+v", r.Champion, r.LastGood)
	}
	r = hub.Await(t, "windows scored by release 2", func(r twin.Reported) bool { return r.Champion != nil && r.Champion.Windows > 100 })
	if r.Stream.WindowsLost != 0 || r.Stream.WindowsScored != r.Stream.WindowsDue || r.Stream.StoppedMs != 0 || r.Stream.Swaps != 1 {
		t.Errorf("stream %+v: want no window lost, no stop, one swap", r.Stream)
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}

	for _, want := range []twin.Phase{twin.PhaseShadowing, twin.PhaseReady, twin.PhaseSoaking} {
		if !slices.Contains(hub.Phases(), want) {
			t.Errorf("no report showed phase %s: %v", want, hub.Phases())
		}
	}
	verdicts, _ := hub.Blocks(telemetry.Verdicts)
	checkVerdicts(t, verdicts)
	if hub.Live() == 0 {
		t.Error("no live message came")
	}
	hub.Until(t, "an event", func() bool { return len(hub.Events()) > 0 })
	if e := string(hub.Events()[0]); !strings.Contains(e, "anomaly.started") || !strings.Contains(e, "pump-anomaly-2") {
		t.Errorf("event %s", e)
	}
}

// checkVerdicts demands one verdict for every row from the first on, and that
// every change of release leaves no hole.
func checkVerdicts(t *testing.T, blocks []telemetry.Block) {
	t.Helper()
	if len(blocks) == 0 {
		t.Fatal("no verdicts came")
	}
	next := blocks[0].First
	releases := map[float32]bool{}
	for _, b := range blocks {
		if b.First != next {
			t.Errorf("verdicts go on at row %d, want %d", b.First, next)
		}
		next = b.First + uint64(b.Rows())
		for _, s := range b.Signals {
			if s.Name == telemetry.Release {
				for _, v := range s.Values {
					releases[v] = true
				}
			}
		}
	}
	if !releases[1] || !releases[2] {
		t.Errorf("verdicts are by releases %v, want 1 and 2", releases)
	}
}

func TestRestartedDeviceGoesOnWithItsModelAndItsCounters(t *testing.T) {
	hub, press, d := agenttest.NewHub(t, pump), agenttest.NewPress(), &disk.Mem{}
	first := boot(t, configure(hub, press, d))
	r := press.Release(agenttest.Order{Counter: 1})
	hub.Stock(r)
	hub.Offer(r, true, nil)
	hub.Phase(t, r, twin.PhaseConfirmed)
	before := hub.Await(t, "windows", func(r twin.Reported) bool { return r.Champion != nil && r.Champion.Windows > 50 })
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}

	hub.Online(false)
	second := boot(t, configure(hub, press, d))
	hub.Until(t, "the champion acts without the hub", func() bool {
		r := second.Reported()
		return r.Champion != nil && r.Champion.Windows > before.Champion.Windows
	})
	after := second.Reported()
	if after.Champion.Since != before.Champion.Since || after.Stream.Samples <= before.Stream.Samples || after.Boot == before.Boot {
		t.Errorf("before %+v %+v\nafter %+v %+v", before.Champion, before.Stream, after.Champion, after.Stream)
	}
	hub.Online(true)
	hub.Await(t, "a report of the new boot", func(r twin.Reported) bool { return r.Boot == after.Boot })
	if hub.Issued() != 1 {
		t.Errorf("the device enrolled %d times", hub.Issued())
	}
	hub.Until(t, "blocks of both boots", func() bool {
		b, _ := hub.Blocks(telemetry.Raw)
		return len(b) > 0 && b[len(b)-1].First > before.Stream.Samples
	})
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	raw, _ := hub.Blocks(telemetry.Raw)
	next := raw[0].First
	for _, b := range raw {
		if b.First != next {
			t.Errorf("raw rows go on at %d, want %d", b.First, next)
		}
		next = b.First + uint64(b.Rows())
	}
}

func TestHubAwayCostsNothingButTime(t *testing.T) {
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	d := boot(t, configure(hub, press, &disk.Mem{}))
	r := press.Release(agenttest.Order{Counter: 1})
	hub.Stock(r)
	hub.Offer(r, true, nil)
	hub.Phase(t, r, twin.PhaseConfirmed)

	hub.Online(false)
	samples := d.Reported().Stream.Samples
	hub.Until(t, "blocks pile up", func() bool {
		r := d.Reported()
		return r.Stream.Samples > samples+2000 && r.Stream.SpoolBlocks > 5
	})
	hub.Refuse(true) // it comes back and acknowledges nothing at first
	hub.Online(true)
	hub.Until(t, "still waiting", func() bool { return d.Reported().Stream.Samples > samples+3000 })
	hub.Refuse(false)
	hub.Until(t, "the spool drains", func() bool { return d.Reported().Stream.SpoolBlocks <= 2 })
	s := d.Reported().Stream
	if s.WindowsLost != 0 || s.SpoolDropped != 0 || s.StoppedMs != 0 {
		t.Errorf("stream %+v: want nothing lost", s)
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	raw, _ := hub.Blocks(telemetry.Raw)
	next := raw[0].First
	for _, b := range raw {
		if b.First != next {
			t.Fatalf("raw rows go on at %d, want %d", b.First, next)
		}
		next = b.First + uint64(b.Rows())
	}
}

func TestChallengerThatMisbehavesNeverReplacesTheChampion(t *testing.T) {
	for _, c := range []struct {
		name  string
		order agenttest.Order
		code  twin.Code
		phase twin.Phase
	}{
		{"scores that are not finite", agenttest.Order{Model: agenttest.Model{NaN: true}, Golden: []byte(`{"channels":2,"window":8,"windows":[],"scores":[],"flags":[],"abs_tol":0,"rel_tol":0}`)}, twin.CodeGolden, twin.PhaseFailed},
		{"golden vectors that do not hold", agenttest.Order{Model: agenttest.Model{Gain: 2}, Golden: agenttest.Model{}.Golden()}, twin.CodeGolden, twin.PhaseFailed},
		{"a channel the device lacks", agenttest.Order{Model: agenttest.Model{Channels: []string{"signal-9"}}}, twin.CodeGuard, twin.PhaseFailed},
		{"bytes that are no model", agenttest.Order{Bytes: []byte("not a model")}, twin.CodeGuard, twin.PhaseFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
			boot(t, configure(hub, press, &disk.Mem{}))
			good := press.Release(agenttest.Order{Counter: 1})
			hub.Stock(good)
			hub.Offer(good, true, nil)
			hub.Phase(t, good, twin.PhaseConfirmed)
			c.order.Counter = 2
			bad := press.Release(c.order)
			hub.Stock(bad)
			hub.Offer(bad, true, nil)
			r := hub.Phase(t, bad, c.phase)
			if r.Trial.Code != c.code || r.Trial.Reason == "" {
				t.Errorf("code %s (%s), want %s", r.Trial.Code, r.Trial.Reason, c.code)
			}
			if r.Champion == nil || r.Champion.Counter != 1 || r.Stream.WindowsLost != 0 {
				t.Errorf("champion %+v, stream %+v: want release 1, nothing lost", r.Champion, r.Stream)
			}
		})
	}
}

func TestReleaseThatFlagsTooMuchIsRolledBackAndNotTriedAgain(t *testing.T) {
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	d := boot(t, configure(hub, press, &disk.Mem{}))
	good := press.Release(agenttest.Order{Counter: 1, Model: agenttest.Model{Threshold: 1e9}})
	hub.Stock(good)
	hub.Offer(good, true, nil)
	hub.Phase(t, good, twin.PhaseConfirmed)

	bad := press.Release(agenttest.Order{Counter: 2, Model: agenttest.Model{Threshold: 1e-9}, Limits: artifact.Limits{MaxFlagShare: 0.5}})
	hub.Stock(bad)
	hub.Offer(bad, true, func(a *twin.Assignment) { a.SoakS = 60 })
	r := hub.Phase(t, bad, twin.PhaseRolledBack)
	if r.Trial.Code != twin.CodeFlags || !slices.Contains(r.Quarantined, bad.Manifest) {
		t.Errorf("trial %+v, quarantined %v", r.Trial, r.Quarantined)
	}
	r = hub.Await(t, "release 1 acts again", func(r twin.Reported) bool { return r.Champion != nil && r.Champion.Counter == 1 })
	hub.Offer(bad, true, func(a *twin.Assignment) { a.Rollout = "again" })
	r = hub.Await(t, "the second offer is refused", func(r twin.Reported) bool {
		return r.Trial != nil && r.Trial.Rollout == "again" && r.Trial.Phase.Final()
	})
	if r.Trial.Code != twin.CodeQuarantine || r.Stream.WindowsLost != 0 {
		t.Errorf("trial %+v, stream %+v", r.Trial, r.Stream)
	}
	if s := d.Reported().Stream; s.StoppedMs != 0 {
		t.Errorf("production stopped for %d ms", s.StoppedMs)
	}
}

func TestStatusPageSaysWhatTheAgentReports(t *testing.T) {
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	d := boot(t, configure(hub, press, &disk.Mem{}))
	r := press.Release(agenttest.Order{Counter: 1})
	hub.Stock(r)
	hub.Offer(r, true, nil)
	hub.Phase(t, r, twin.PhaseConfirmed)
	s := httptest.NewServer(d.Handler())
	defer s.Close()
	for path, want := range map[string]string{
		"/": "pump-anomaly-1 scores every window", "/status.json": `"windows_lost": 0`,
		"/metrics": "swell_agent_champion_counter 1\n", "/healthz": "ok",
	} {
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := resp.Write(&b); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s does not say %q:\n%s", path, want, b.String())
		}
	}
}

func TestStateFolderOfAnotherAgentIsRefused(t *testing.T) {
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	c := configure(hub, press, nil)
	c.StateDir = t.TempDir()
	boot(t, c)
	hub.Until(t, "the first agent runs", func() bool { return len(hub.Reports()) > 0 })
	err := agent.Run(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "another agent uses it") {
		t.Errorf("a second agent on the same folder: %v", err)
	}
}
