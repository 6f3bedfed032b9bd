package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	stocked    = 60 // releases made beforehand, so that a rollout is always on its way
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
	Verdicts       int            `json:"verdicts"`
	Twice          int            `json:"rows_twice"`
	WithoutModel   int            `json:"devices_without_model"`
	Rollouts       int            `json:"rollouts_promoted"`
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
// release 1 and roll it out, and leaves everything to a hub that is a program.
func newPlant(t *testing.T) *plant {
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
	p.stock(ctx, h, night.Release)
	return p
}

// stock makes releases of the model that the night trained, each with bytes of
// its own.
func (p *plant) stock(ctx context.Context, h *local.Hub, first string) {
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
	for i := range stocked {
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
// ended, by release. Requests that a kill cut off are made again, as a person
// would.
func (p *plant) rolling(ctx context.Context, enough <-chan struct{}) (ended []apimodel.Rollout, err error) {
	for _, id := range p.releases {
		select {
		case <-enough:
			return ended, nil
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
			return ended, err
		}
		if err := local.Until(ctx, "the end of rollout "+name, func() (bool, error) {
			r, err := p.client.Rollout(ctx, name)
			if err != nil {
				return false, nil
			}
			switch r.Status.State {
			case apimodel.RolloutStatePromoted:
				ended = append(ended, r)
				return true, nil
			case apimodel.RolloutStateAborted, apimodel.RolloutStateFailed, apimodel.RolloutStateSuperseded:
				return false, fmt.Errorf("rollout %s was %s: %s", name, r.Status.State, r.Status.Message)
			}
			return false, nil
		}); err != nil {
			return ended, err
		}
	}
	return ended, fmt.Errorf("all %d releases were rolled out before the kills were over: stock more", len(p.releases))
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
	p := newPlant(t)
	p.serve(fmt.Sprintf("broker: {listen: %s}\n", p.ports[2]))
	f := p.torment("embedded", 50)
	if f.Missing > 0 {
		t.Errorf("%d rows that devices hold for acknowledged are not stored", f.Missing)
	}
}

// torment kills, waits until all is well again, and counts.
func (p *plant) torment(broker string, kills int) figures {
	t := p.t
	if n, err := strconv.Atoi(os.Getenv("SWELL_E2E_KILLS")); err == nil {
		kills = n
	}
	f := figures{Broker: broker, Seed: 1, Of: map[string]int{}}
	if n, err := strconv.ParseUint(os.Getenv("SWELL_E2E_SEED"), 10, 64); err == nil {
		f.Seed = n
	}
	r := rand.New(rand.NewPCG(f.Seed, 2))
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(kills)*3*time.Second)
	defer cancel()

	enough := make(chan struct{})
	var ended []apimodel.Rollout
	var rollErr, nightErr error
	var work sync.WaitGroup
	work.Go(func() { ended, rollErr = p.rolling(ctx, enough) })
	work.Go(func() { f.Nights, nightErr = p.nights(ctx, enough) })

	killed := map[string]int{}
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
		case x >= 7 && p.broker != nil:
			victim, kind = p.broker, "broker"
		case x >= 4:
			victim, kind = p.agents[r.IntN(len(p.agents))], "agent"
		}
		if err := victim.kill(); err != nil {
			t.Fatal(err)
		}
		if err := victim.start(); err != nil {
			t.Fatal(err)
		}
		f.Kills++
		f.Of[kind]++
		killed[victim.name]++
	}
	last := time.Now()
	close(enough)
	work.Wait()
	if err := errors.Join(rollErr, nightErr); err != nil {
		t.Error(err)
	}
	f.Rollouts = len(ended)
	promoted := map[uint64]bool{1: true}
	for _, r := range ended {
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
	p.verify(ctx, ended)
	for _, a := range p.agents {
		if err := a.end(); err != nil {
			t.Error(err)
		}
	}
	if err := p.hub.end(); err != nil {
		t.Error(err)
	}
	p.count(ctx, &f, killed)
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
func (p *plant) verify(ctx context.Context, ended []apimodel.Rollout) {
	counter := int64(1)
	if len(ended) > 0 {
		counter = ended[len(ended)-1].Spec.Release.Counter
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

// count compares what the devices hold for delivered with what a hub that is
// started on the same folder has.
func (p *plant) count(ctx context.Context, f *figures, killed map[string]int) {
	t := p.t
	// The start reads the whole ledger against its signed head.
	h, err := local.Start(ctx, p.hubConfig(), p.password)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i, id := range p.ids {
		stored := func(s telemetry.Stream) map[uint64]int {
			parts, err := h.Stored(ctx, id, s)
			if err != nil {
				t.Fatal(err)
			}
			rows := map[uint64]int{}
			for _, c := range parts {
				for _, row := range c.Rows {
					rows[row]++
				}
			}
			return rows
		}
		raw, verdicts := stored(telemetry.Raw), stored(telemetry.Verdicts)
		for _, n := range raw {
			f.Twice += n - 1
		}
		waiting, next := p.spooled(id)
		missing := 0
		for row := range next {
			if waiting[row] {
				continue
			}
			f.Acknowledged++
			if raw[row] == 0 {
				missing++
			}
		}
		f.Missing += missing
		if missing > 0 {
			t.Logf("%s: %d of %d rows are missing: %s", id, missing, next, holes(raw, next))
		}
		// A verdict needs a full window: each start of the agent costs some,
		// the kill of anything else none.
		f.Verdicts += len(verdicts)
		first, top := next, uint64(0)
		for row := range verdicts {
			first, top = min(first, row), max(top, row)
		}
		if gaps := gapsIn(verdicts, first, top); len(gaps) > killed[p.agents[i].name] && f.Broker == "embedded" {
			t.Errorf("%s: %d gaps in the verdicts and only %d starts: %v", id, len(gaps), killed[p.agents[i].name], gaps)
		}
	}
}

// spooled returns the raw rows that a stopped device still holds for the hub,
// and how many it has recorded.
func (p *plant) spooled(id topic.ID) (waiting map[uint64]bool, next uint64) {
	d, err := disk.OpenDir(p.state(id))
	if err != nil {
		p.t.Fatal(err)
	}
	defer d.Close()
	s, err := spool.Open(d, spool.Config{Dir: "spool"})
	if err != nil {
		p.t.Fatal(err)
	}
	defer s.Close()
	if n := s.Stats().Dropped; n > 0 {
		p.t.Errorf("%s: the spool lost %d blocks", id, n)
	}
	waiting = map[uint64]bool{}
	for after := uint64(0); ; {
		seq, payload, ok, err := s.Read(after)
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return waiting, s.NextRow()
		}
		after = seq
		b, err := telemetry.Decode(payload)
		if err != nil {
			p.t.Fatal(err)
		}
		if b.Stream == telemetry.Raw {
			for i := range b.Signals[0].Values {
				waiting[b.First+uint64(i)] = true
			}
		}
	}
}

type gap struct{ first, rows uint64 }

func gapsIn(have map[uint64]int, from, to uint64) (out []gap) {
	for row := from; row < to; row++ {
		if have[row] > 0 {
			continue
		}
		if n := len(out); n > 0 && out[n-1].first+out[n-1].rows == row {
			out[n-1].rows++
		} else {
			out = append(out, gap{row, 1})
		}
	}
	return out
}

func holes(have map[uint64]int, next uint64) string {
	g := gapsIn(have, 0, next)
	return fmt.Sprintf("%d holes, first %v", len(g), g[:min(len(g), 5)])
}
