package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/spool"
	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

const (
	devices    = 5
	rateHz     = 500 // rows per second and device
	blockRows  = 100
	startLimit = 30 * time.Second
)

// steady is the rollout policy while parts are killed: a canary, then all.
func steady() rollout.Policy {
	return rollout.Policy{
		Name:    "steady",
		Waves:   []rollout.Wave{{Name: "canary", Devices: 1, DeadlineS: 120}, {Name: "all", Share: 1, DeadlineS: 120}},
		Gates:   []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateShadow}, {Name: rollout.GateNonFinite}},
		ShadowS: 1, ShadowWindowS: 0.1, SoakS: 0.5, MinWindows: 20, LeaseS: 10, GraceS: 10, StaleS: 10, RetryS: 0.5, Retries: 5,
	}
}

// process is a program that can be killed and started again.
type process struct {
	name string
	args []string // args[0] is the program
	log  string   // file that its output is appended to

	cmd     *exec.Cmd
	started time.Time
}

func (p *process) start() error {
	f, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // the child has its own
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.started = time.Now()
	return p.cmd.Start()
}

// kill ends it at once, whatever it does.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: it ended by itself: %w", p.name, err)
	}
	_ = p.cmd.Wait() // says that it was killed
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGKILL {
		return fmt.Errorf("%s had ended before it was killed: %s", p.name, p.cmd.ProcessState)
	}
	return nil
}

// end asks it to stop and waits.
func (p *process) end() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	done := make(chan error, 1)
	cmd := p.cmd
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		p.cmd = nil
		if err != nil {
			return fmt.Errorf("stop %s: %w", p.name, err)
		}
		return nil
	case <-time.After(startLimit):
		return fmt.Errorf("stop %s: it is still there after %s", p.name, startLimit)
	}
}

// plant is a hub and its devices, each a process of its own.
type plant struct {
	t        *testing.T
	dir      string
	ports    []string // http, devices, mqtt, objects
	hub      *process
	broker   *process // nil: the one in the hub
	stable   bool     // the broker is not killed
	agents   []*process
	ids      []topic.ID
	status   []string // addresses of the agents' status pages
	password string
	releases []string // ids, in the order in which they are to be rolled out
	client   *local.Hub
}

// figures are what the test prints.
type figures struct {
	Broker         string         `json:"broker"`
	Seed           uint64         `json:"seed"`
	Kills          int            `json:"kills"`
	Of             map[string]int `json:"of"`
	Acknowledged   int            `json:"rows_acknowledged"`
	Missing        int            `json:"rows_missing"`
	InMemory       int            `json:"rows_died_unspooled"` // read by a killed agent, not yet on its disk, never acknowledged
	Verdicts       int            `json:"verdicts"`
	Twice          int            `json:"rows_twice"`
	WithoutModel   int            `json:"devices_without_model"`
	Rollouts       int            `json:"rollouts_promoted"`
	GivenUp        int            `json:"rollouts_given_up"` // a device was killed too often in one trial
	Nights         int            `json:"nights_ended"`
	HubRestartS    float64        `json:"hub_restart_worst_s"`
	ConvergedAfter float64        `json:"converged_after_s"`
	Converged      bool           `json:"converged"`
	Seconds        float64        `json:"seconds"`
}

func (p *plant) hubConfig() hub.Config {
	return hub.Config{
		DataDir: filepath.Join(p.dir, "hub"),
		HTTP:    hub.HTTP{Listen: p.ports[0]}, Devices: hub.Devices{Listen: p.ports[1]},
		Broker: hub.Broker{Listen: p.ports[2]}, Objects: hub.Objects{Listen: p.ports[3]},
		Rollouts: hub.Rollouts{Policies: []api.RolloutPolicy{{Policy: steady()}}},
		Training: hub.Training{Policies: []hub.RetrainPolicy{
			{Name: family, LookbackS: 3600, Seed: 7, Kinds: []string{"pca"}, MinDetected: 0.01, RolloutPolicy: "steady"},
			// Nights that only learn: they go on while the rollouts do.
			{Name: "study", LookbackS: 20, Seed: 7, Kinds: []string{"pca"}, MinDetected: 0.01},
		}},
	}
}

// newPlant enrols the devices at a hub in this process, has a night train
// release 1 and roll it out, makes as many releases as stock says, so that a
// rollout is always on its way, and leaves everything to a hub that is a
// program.
func newPlant(t *testing.T, stock int) *plant {
	p := &plant{t: t, dir: t.TempDir(), ports: freePorts(t, 4)}
	programs := program(t, "swell-agent")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	h, err := local.Start(ctx, p.hubConfig(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p.password = h.Password
	write(t, filepath.Join(p.dir, "ca.pem"), string(h.CAPEM()))
	write(t, filepath.Join(p.dir, "keys.pem"), string(h.ReleaseKeyPEM()))
	p.status = freePorts(t, devices)
	for i := range devices {
		id := topic.ID{Site: "hall-1", Node: "pump-" + strconv.Itoa(i+1)}
		token, err := h.Fleet().Token(ctx, fleet.Device{ID: id, Class: class, Labels: map[string]string{"line": "l1"}})
		if err != nil {
			t.Fatal(err)
		}
		config := filepath.Join(p.dir, id.Node+".yaml")
		write(t, config, fmt.Sprintf(`site: %s
node: %s
class: %s
labels: {line: l1}
state_dir: %s
status: %s
heartbeat_s: 0.5
hub: {url: "https://%s", mqtt: "tls://%s", ca_file: %s, token: %s, reconnect_min_s: 0.1, reconnect_max_s: 1}
trust: {key_files: [%s]}
source: {kind: synthetic, synthetic: {seed: %d, rate_hz: %d, channels: [current, flow, pressure, temperature]}}
telemetry: {block_rows: %d, block_s: 0.5}
spool: {sync_s: 0.1}
log_level: debug
`, id.Site, id.Node, class, p.state(id), p.status[i], p.ports[1], p.ports[2], filepath.Join(p.dir, "ca.pem"), token, filepath.Join(p.dir, "keys.pem"), i+1, rateHz, blockRows))
		a := &process{name: "agent " + id.String(), args: []string{programs, "--config", config, "run"}, log: filepath.Join(p.dir, id.Node+".log")}
		if err := a.start(); err != nil {
			t.Fatal(err)
		}
		p.agents, p.ids = append(p.agents, a), append(p.ids, id)
	}
	t.Cleanup(func() {
		for _, x := range append(p.agents, p.hub, p.broker) {
			if x != nil && x.cmd != nil && x.cmd.ProcessState == nil {
				_ = x.kill()
			}
		}
		if t.Failed() {
			p.keepLogs()
		}
	})
	until(t, time.Minute, "the devices to stream", func() (bool, error) {
		for _, id := range p.ids {
			if n, err := h.Rows(ctx, id); err != nil || n < 2000 {
				return false, err
			}
		}
		return true, nil
	})
	night, err := h.Night(ctx, family, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Promoted(ctx, night.Rollout, func(string) {}); err != nil {
		t.Fatal(err)
	}
	p.stock(ctx, h, night.Release, stock)
	return p
}

// stock makes releases of the model that the night trained, each with bytes of
// its own.
func (p *plant) stock(ctx context.Context, h *local.Hub, first string, n int) {
	v, err := h.API.GetModelVersionWithResponse(ctx, family, 1)
	if err != nil || v.JSON200 == nil {
		p.t.Fatalf("release %s: %v, %s", first, err, v.Body)
	}
	folder := filepath.Join(p.objects(), "releases", strings.TrimPrefix(v.JSON200.Spec.Release.Digest, "sha256:"), "pump")
	model, err := os.ReadFile(filepath.Join(folder, "model.onnx"))
	if err != nil {
		p.t.Fatal(err)
	}
	golden, err := os.ReadFile(filepath.Join(folder, "golden.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range n {
		note := fmt.Sprintf("copy %03d", i)
		c := release.Candidate{Name: family, Kind: artifact.Model, Reason: "for a test", Variants: []release.Variant{{
			Classes: []artifact.Class{class}, Files: []release.File{
				// A protobuf message may be written in parts: field 6 of a
				// model is its free text.
				release.Bytes("pump/model.onnx", artifact.RoleModel, append(append(slices.Clone(model), 6<<3|2, byte(len(note))), note...)),
				release.Bytes("pump/golden.json", artifact.RoleGolden, golden),
			},
		}}}
		r, err := h.PublishModel(ctx, c)
		if err != nil {
			p.t.Fatal(err)
		}
		p.releases = append(p.releases, r.Manifest.ID())
	}
}

func (p *plant) seen(id topic.ID) string  { return filepath.Join(p.dir, "seen", id.Node) }
func (p *plant) objects() string          { return filepath.Join(p.dir, "hub", "objects", "data", "swell") }
func (p *plant) state(id topic.ID) string { return filepath.Join(p.dir, "state", id.Node) }

// keepLogs shows the end of every log of a test that failed.
func (p *plant) keepLogs() {
	if keep := os.Getenv("SWELL_E2E_KEEP"); keep != "" {
		out, err := exec.Command("cp", "-r", p.dir, keep).CombinedOutput()
		p.t.Logf("kept in %s: %v %s", keep, err, out)
	}
	for _, x := range append([]*process{p.hub}, p.agents...) {
		if x == nil {
			continue
		}
		b, err := os.ReadFile(x.log)
		if err == nil {
			p.t.Logf("%s ends with:\n%s", x.name, b[max(0, len(b)-3000):])
		}
	}
}

// serve starts the hub as a program, with more of its configuration if need be.
func (p *plant) serve(more string) {
	config := filepath.Join(p.dir, "hub.yaml")
	write(p.t, config, fmt.Sprintf(`data_dir: %s
http: {listen: %s, requests_per_second: 1000}
devices: {listen: %s}
objects: {listen: %s}
segments: {interval_s: 2}
fleet: {stale_s: 10}
rollouts: {poll_s: 1}
%s`, filepath.Join(p.dir, "hub"), p.ports[0], p.ports[1], p.ports[3], more))
	p.hub = &process{name: "hub", args: []string{program(p.t, "swell-hub"), "serve", "-config", config}, log: filepath.Join(p.dir, "hub.log")}
	if err := p.hub.start(); err != nil {
		p.t.Fatal(err)
	}
	var err error
	until(p.t, startLimit, "the hub's program", func() (bool, error) {
		p.client, err = local.Connect(p.t.Context(), "http://"+p.ports[0], "admin", p.password)
		return err == nil, nil
	})
}

// healthy says whether the hub answers.
func (p *plant) healthy() bool {
	resp, err := http.Get("http://" + p.ports[0] + "/healthz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// rolling keeps a rollout on its way until enough, and returns the ones that
// were promoted, by release, and how many were given up. Requests that a kill
// cut off are made again, as a person would.
func (p *plant) rolling(ctx context.Context, enough <-chan struct{}) (promoted []apimodel.Rollout, givenUp int, err error) {
	for _, id := range p.releases {
		select {
		case <-enough:
			return promoted, givenUp, nil
		default:
		}
		name := ""
		if err := local.Until(ctx, "a rollout of "+id, func() (bool, error) {
			list, err := p.client.API.ListRolloutsWithResponse(ctx, nil)
			if err != nil || list.JSON200 == nil {
				return false, ctx.Err()
			}
			for _, r := range list.JSON200.Items {
				if r.Spec.Release.ID == id {
					name = r.Metadata.Name // the request was carried out before its answer was lost
					return true, nil
				}
			}
			name, err = propose(ctx, p.client, id, "steady")
			return err == nil, nil
		}); err != nil {
			return promoted, givenUp, err
		}
		if err := local.Until(ctx, "the end of rollout "+name, func() (bool, error) {
			r, err := p.client.Rollout(ctx, name)
			if err != nil {
				return false, nil
			}
			switch r.Status.State {
			case apimodel.RolloutStatePromoted:
				promoted = append(promoted, r)
				return true, nil
			case apimodel.RolloutStateFailed:
				worn, err := p.wornOut(ctx, r)
				if err != nil {
					return false, nil
				}
				if worn {
					givenUp++
					return true, nil
				}
				fallthrough
			case apimodel.RolloutStateAborted, apimodel.RolloutStateSuperseded:
				return false, fmt.Errorf("rollout %s was %s: %s", name, r.Status.State, r.Status.Message)
			}
			return false, nil
		}); err != nil {
			return promoted, givenUp, err
		}
	}
	return promoted, givenUp, fmt.Errorf("all %d releases were rolled out before the kills were over: stock more", len(p.releases))
}

// wornOut says whether a rollout failed for nothing but kills: a device gives a
// trial up that was cut off as often as it allows, since it cannot know that the
// release was not to blame.
func (p *plant) wornOut(ctx context.Context, r apimodel.Rollout) (bool, error) {
	if !strings.Contains(r.Status.Message, ": success gate: ") {
		return false, nil
	}
	name := r.Metadata.Name
	list, err := p.client.API.ListRolloutDevicesWithResponse(ctx, name, nil)
	if err != nil {
		return false, err
	}
	if list.JSON200 == nil {
		return false, fmt.Errorf("devices of rollout %s: %s", name, list.Status())
	}
	worn := 0
	for _, d := range list.JSON200.Items {
		if d.State != apimodel.RolloutDeviceStateFailed && d.State != apimodel.RolloutDeviceStateRolledBack {
			continue
		}
		if d.Reason == nil || !strings.Contains(*d.Reason, "interrupted while ") && !strings.Contains(*d.Reason, "the agent started ") {
			return false, nil
		}
		p.t.Logf("rollout %s is given up: %s says %s", name, d.Name, *d.Reason)
		worn++
	}
	return worn > 0, nil
}

// nights runs nights until enough, and returns how many came to their end.
func (p *plant) nights(ctx context.Context, enough <-chan struct{}) (n int, err error) {
	for {
		select {
		case <-enough:
			return n, nil
		default:
		}
		name := ""
		if err := local.Until(ctx, "a night", func() (bool, error) {
			r, err := p.client.API.StartTrainingRunWithResponse(ctx, nil, apimodel.TrainingRunCreate{Policy: "study"})
			if err != nil || r.JSON201 == nil {
				return false, nil
			}
			name = r.JSON201.Metadata.Name
			return true, nil
		}); err != nil {
			return n, err
		}
		if err := local.Until(ctx, "the end of night "+name, func() (bool, error) {
			r, err := p.client.API.GetTrainingRunWithResponse(ctx, name)
			if err != nil || r.JSON200 == nil {
				return false, nil
			}
			switch st := r.JSON200.Status; st.State {
			case apimodel.RunStateReleased, apimodel.RunStateRefused:
				return true, nil
			case apimodel.RunStateFailed, apimodel.RunStateCancelled:
				return false, fmt.Errorf("night %s was %s: %v", name, st.State, st.Refusals)
			}
			return false, nil
		}); err != nil {
			return n, err
		}
		n++
	}
}

// TestKilledAtAnyMoment kills the hub with its broker and the agents, one after
// the other at moments drawn from a seed, while devices stream, rollouts move
// and nights run, and then counts what is left.
func TestKilledAtAnyMoment(t *testing.T) {
	p := newPlant(t, max(killsOr(50)/2, 8))
	p.serve(fmt.Sprintf("broker: {listen: %s}\n", p.ports[2]))
	f := p.torment("embedded", killsOr(50))
	if f.Missing > 0 {
		t.Errorf("%d rows that devices hold for acknowledged are not stored", f.Missing)
	}
}

// killsOr is how often to kill: SWELL_E2E_KILLS, or what is given.
func killsOr(kills int) int {
	if n, err := strconv.Atoi(os.Getenv("SWELL_E2E_KILLS")); err == nil {
		return n
	}
	return kills
}

// torment kills, waits until all is well again, and counts.
func (p *plant) torment(broker string, kills int) figures {
	t := p.t
	f := figures{Broker: broker, Seed: 1, Of: map[string]int{}}
	if n, err := strconv.ParseUint(os.Getenv("SWELL_E2E_SEED"), 10, 64); err == nil {
		f.Seed = n
	}
	r := rand.New(rand.NewPCG(f.Seed, 2))
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(kills)*3*time.Second)
	defer cancel()

	enough := make(chan struct{})
	var rolledOut []apimodel.Rollout
	var rollErr, nightErr error
	var work sync.WaitGroup
	work.Go(func() { rolledOut, f.GivenUp, rollErr = p.rolling(ctx, enough) })
	work.Go(func() { f.Nights, nightErr = p.nights(ctx, enough) })

	hubUp := time.Time{} // when the newest hub was first seen to answer
	for f.Kills < kills {
		pause := time.NewTimer(300*time.Millisecond + time.Duration(r.Int64N(int64(1200*time.Millisecond))))
		for waiting := true; waiting; {
			if hubUp.Before(p.hub.started) && p.healthy() {
				hubUp = time.Now()
				f.HubRestartS = max(f.HubRestartS, hubUp.Sub(p.hub.started).Seconds())
			}
			look := time.NewTimer(50 * time.Millisecond)
			select {
			case <-pause.C:
				waiting = false
			case <-look.C:
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			}
		}
		victim, kind := p.hub, "hub"
		switch x := r.IntN(10); {
		case x >= 7 && p.broker != nil && !p.stable:
			victim, kind = p.broker, "broker"
		case x >= 4:
			victim, kind = p.agents[r.IntN(len(p.agents))], "agent"
		}
		if err := victim.kill(); err != nil {
			t.Fatal(err)
		}
		if kind == "agent" {
			p.witness(p.ids[slices.Index(p.agents, victim)])
		}
		if err := victim.start(); err != nil {
			t.Fatal(err)
		}
		f.Kills++
		f.Of[kind]++
	}
	last := time.Now()
	close(enough)
	work.Wait()
	if err := errors.Join(rollErr, nightErr); err != nil {
		t.Error(err)
	}
	f.Rollouts = len(rolledOut)
	promoted := map[uint64]bool{1: true}
	for _, r := range rolledOut {
		promoted[uint64(r.Spec.Release.Counter)] = true
	}

	// Every device attests a promoted release, and has nothing more to deliver.
	f.Converged = nil == local.Until(ctx, "the devices to converge", func() (bool, error) {
		f.WithoutModel = 0
		settled := true
		for _, id := range p.ids {
			s, rep, err := device(ctx, p.client, id)
			if err != nil {
				return false, ctx.Err()
			}
			running := rep.Champion != nil && s.Attested != nil && *s.Attested && promoted[rep.Champion.Counter]
			if !running {
				f.WithoutModel++
			}
			settled = settled && running && s.Connected && rep.Stream.SpoolBlocks < 10
		}
		return settled, nil
	})
	f.ConvergedAfter = time.Since(last).Seconds()
	p.verify(ctx, rolledOut)
	for _, a := range p.agents {
		if err := a.end(); err != nil {
			t.Error(err)
		}
	}
	if err := p.hub.end(); err != nil {
		t.Error(err)
	}
	if p.broker != nil {
		if err := p.broker.end(); err != nil {
			t.Error(err)
		}
	}
	p.count(ctx, &f)
	f.Seconds = time.Since(began).Seconds()
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(b))
	if !f.Converged || f.WithoutModel > 0 {
		t.Errorf("%d devices do not attest a promoted release", f.WithoutModel)
	}
	return f
}

// verify asks the hub to check the newest release that was promoted: its files,
// its signatures and the ledger's receipts.
func (p *plant) verify(ctx context.Context, promoted []apimodel.Rollout) {
	counter := int64(1)
	if len(promoted) > 0 {
		counter = promoted[len(promoted)-1].Spec.Release.Counter
	}
	v, err := p.client.API.VerifyModelVersionWithResponse(ctx, family, counter)
	if err != nil || v.JSON200 == nil {
		p.t.Errorf("verify release %d: %v, %s", counter, err, v.Body)
		return
	}
	if !v.JSON200.Ok {
		p.t.Errorf("release %d does not verify: %s", counter, v.Body)
	}
}

// witness links the segments of a device's spool to a second place, where the
// device does not remove them. It is called whenever the agent is down; an
// agent begins a new segment at every start, so that every block which was
// ever in a spool is in some link.
func (p *plant) witness(id topic.ID) {
	to := filepath.Join(p.seen(id), "spool")
	if err := os.MkdirAll(to, 0o700); err != nil {
		p.t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(p.state(id), "spool", "*.seg"))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Link(name, filepath.Join(to, filepath.Base(name))); err != nil && !errors.Is(err, fs.ErrExist) {
			p.t.Fatal(err)
		}
	}
}

// count compares what the devices hold for delivered with what a hub that is
// started on the same folder has.
func (p *plant) count(ctx context.Context, f *figures) {
	t := p.t
	// The start reads the whole ledger against its signed head.
	h, err := local.Start(ctx, p.hubConfig(), p.password)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, id := range p.ids {
		p.witness(id)
		ever, next := p.blocks(p.seen(id))
		waiting, _ := p.blocks(p.state(id))
		for _, stream := range []telemetry.Stream{telemetry.Raw, telemetry.Verdicts} {
			parts, err := h.Stored(ctx, id, stream)
			if err != nil {
				t.Fatal(err)
			}
			stored := map[uint64]int{}
			for _, c := range parts {
				for _, row := range c.Rows {
					if stored[row]++; stored[row] > 1 {
						f.Twice++
					}
				}
			}
			spooled, missing := 0, 0
			for seq, b := range ever {
				if b.Stream != stream {
					continue
				}
				lost := 0
				for i := range b.Signals[0].Values {
					spooled++
					if stored[b.First+uint64(i)] == 0 {
						lost++
					}
				}
				if _, ok := waiting[seq]; ok {
					continue
				}
				f.Acknowledged += len(b.Signals[0].Values)
				if missing += lost; lost > 0 {
					t.Logf("%s: %d of %d rows of block %d (%s from row %d) were acknowledged and are missing", id, lost, len(b.Signals[0].Values), seq, stream, b.First)
				}
			}
			f.Missing += missing
			if stream == telemetry.Raw {
				f.InMemory += int(next) - spooled
			} else {
				f.Verdicts += len(stored)
			}
		}
	}
}

// blocks returns the blocks in a spool that is not in use, by sequence number,
// and how many rows the device has numbered.
func (p *plant) blocks(state string) (map[uint64]telemetry.Block, uint64) {
	d, err := disk.OpenDir(state)
	if err != nil {
		p.t.Fatal(err)
	}
	defer d.Close()
	s, err := spool.Open(d, spool.Config{Dir: "spool"})
	if err != nil {
		p.t.Fatal(err)
	}
	defer s.Close()
	out := map[uint64]telemetry.Block{}
	for after := uint64(0); ; {
		seq, payload, ok, err := s.Read(after)
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return out, s.NextRow()
		}
		after = seq
		if out[seq], err = telemetry.Decode(payload); err != nil {
			p.t.Fatal(err)
		}
	}
}
