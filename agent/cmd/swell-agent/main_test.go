package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

var pump = topic.ID{Site: "hall-1", Node: "pump-03"}

func TestCommandLine(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "agent.yaml")
	write(t, broken, "site: hall-1\nnode: pump-03\nclass: pump\nstate_dir: /nowhere\ncolour: blue\n")
	for _, c := range []struct{ name, args, out, err string }{
		{"version", "version", "swell-agent devel", ""},
		{"help", "--help", "Usage:", ""},
		{"no command", "", "", "want one command"},
		{"unknown command", "--config " + broken + "x dance", "", "cannot read the configuration"},
		{"unknown flag", "--colour run", "", "want one command"},
		{"unknown key in the configuration", "--config " + broken + " run", "", "field colour not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := run(t.Context(), strings.Fields(c.args), &out)
			if !strings.Contains(out.String(), c.out) || c.err == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("prints %q, error %v: want %q, %q", out.String(), err, c.out, c.err)
			}
		})
	}
}

// plant is a broker, a hub and the agent's program, as on a real site.
type plant struct {
	t       testing.TB
	hub     *agenttest.Hub
	press   *agenttest.Press
	binary  string
	config  string
	client  mqtt.Client
	mu      sync.Mutex
	desired twin.Desired
	reports []twin.Reported
	blocks  map[string]telemetry.Block
	doubles int
	process *exec.Cmd
}

func newPlant(t testing.TB, source string) *plant {
	broker, err := exec.LookPath("mosquitto")
	if err != nil {
		if broker = "/usr/sbin/mosquitto"; !executable(broker) {
			t.Skip("needs mosquitto: install the Debian package mosquitto")
		}
	}
	p := &plant{t: t, hub: agenttest.NewHub(t, pump), press: agenttest.NewPress(), blocks: map[string]telemetry.Block{}}
	dir := t.TempDir()
	p.binary = filepath.Join(dir, "swell-agent")
	if out, err := exec.Command("go", "build", "-o", p.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cert, key := p.hub.Certify("broker")
	write(t, filepath.Join(dir, "ca.pem"), p.hub.CA)
	write(t, filepath.Join(dir, "cert.pem"), string(cert))
	write(t, filepath.Join(dir, "key.pem"), string(key))
	write(t, filepath.Join(dir, "cosign.pub"), p.press.PublicKey())
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	write(t, filepath.Join(dir, "mosquitto.conf"), fmt.Sprintf(`user %s
listener %s 127.0.0.1
cafile %s/ca.pem
certfile %s/cert.pem
keyfile %s/key.pem
require_certificate true
use_identity_as_username true
allow_anonymous false
max_queued_messages 100000
`, user(), port, dir, dir, dir))
	b := exec.Command(broker, "-c", filepath.Join(dir, "mosquitto.conf"))
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Process.Kill(); _ = b.Wait() })

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(p.hub.CA))
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	o := mqtt.NewClientOptions().AddBroker("tls://" + address).SetClientID("hub").SetTLSConfig(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}})
	p.client = mqtt.NewClient(o)
	p.until("the broker", func() bool {
		token := p.client.Connect()
		return token.WaitTimeout(time.Second) && token.Error() == nil
	})
	t.Cleanup(func() { p.client.Disconnect(0) })
	for _, k := range []topic.Kind{topic.Blocks, topic.Reported} {
		if token := p.client.Subscribe(topic.All(k), 1, p.take); token.Wait() && token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	p.config = filepath.Join(dir, "agent.yaml")
	write(t, p.config, fmt.Sprintf(`site: hall-1
node: pump-03
class: pump
state_dir: %s/state
status: %s
heartbeat_s: 0.5
hub: {url: %q, mqtt: "tls://%s", ca_file: %s/ca.pem, token: %s, reconnect_min_s: 0.1}
trust: {key_files: [%s/cosign.pub]}
spool: {sync_s: 0.1}
%s`, dir, freeAddress(t), p.hub.URL, address, dir, p.hub.Token, dir, source))
	t.Cleanup(p.kill)
	return p
}

func (p *plant) take(_ mqtt.Client, m mqtt.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, err := topic.Parse(m.Topic())
	if err != nil {
		p.t.Errorf("topic: %v", err)
		return
	}
	if at.Kind == topic.Blocks {
		b, err := telemetry.Decode(m.Payload())
		if err != nil {
			p.t.Errorf("block: %v", err)
			return
		}
		id := fmt.Sprint(b.Boot, "/", b.Seq)
		if _, twice := p.blocks[id]; twice {
			p.doubles++
		}
		p.blocks[id] = b
		return
	}
	r, err := twin.ParseReported(m.Payload(), at.ID)
	if err != nil {
		p.t.Errorf("report: %v", err)
		return
	}
	p.reports = append(p.reports, r)
}

// offer publishes a desired document, retained as the hub's are.
func (p *plant) offer(r agenttest.Release) {
	p.mu.Lock()
	p.desired.Schema, p.desired.Site, p.desired.Node = 1, pump.Site, pump.Node
	p.desired.Generation++
	p.desired.IssuedAt, p.desired.ExpiresAt = time.Now().UTC(), time.Now().Add(time.Hour).UTC()
	p.desired.Model = &twin.Assignment{Rollout: "r", Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial, MinWindows: 1}
	p.desired.Lease = &twin.Lease{ID: "l", Manifest: r.Manifest, ExpiresAt: time.Now().Add(time.Hour)}
	b, err := json.Marshal(p.desired)
	p.mu.Unlock()
	if err != nil {
		p.t.Fatal(err)
	}
	if token := p.client.Publish(topic.Of(pump, topic.Desired), 1, true, b); token.Wait() && token.Error() != nil {
		p.t.Fatal(token.Error())
	}
}

func (p *plant) start() {
	p.process = exec.Command(p.binary, "--config", p.config, "run")
	if testing.Verbose() {
		p.process.Stderr = os.Stderr
	}
	if err := p.process.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the agent as a power cut would end the program.
func (p *plant) kill() {
	if p.process == nil {
		return
	}
	_ = p.process.Process.Kill()
	_ = p.process.Wait()
	p.process = nil
}

func (p *plant) until(what string, holds func() bool) {
	p.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline.C:
			p.t.Fatal("waited 30 s for: " + what)
		}
	}
}

func (p *plant) last(holds func(twin.Reported) bool) func() bool {
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.reports) > 0 && holds(p.reports[len(p.reports)-1])
	}
}

func TestProgramSurvivesKillsAgainstARealBroker(t *testing.T) {
	p := newPlant(t, `source: {kind: synthetic, synthetic: {rate_hz: 1000, channels: [signal-1, signal-2]}}
telemetry: {block_rows: 100}
`)
	p.start()
	one := p.press.Release(agenttest.Order{Counter: 1})
	p.hub.Stock(one)
	p.offer(one)
	p.until("release 1 confirmed", p.last(func(r twin.Reported) bool {
		return r.Trial != nil && r.Trial.Phase == twin.PhaseConfirmed && r.Champion != nil && r.Champion.Model == one.Model
	}))
	for range 3 {
		p.kill()
		p.until("the will", p.last(func(r twin.Reported) bool { return r.Offline }))
		p.start()
		p.until("it acts again", p.last(func(r twin.Reported) bool {
			return r.Champion != nil && r.Champion.Model == one.Model && r.Champion.Windows > 0
		}))
		p.mu.Lock()
		have := len(p.blocks)
		p.mu.Unlock()
		p.until("more blocks", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.blocks) > have+5 })
	}
	if p.hub.Issued() != 1 {
		t.Errorf("it enrolled %d times", p.hub.Issued())
	}
	if err := p.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.process.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	p.process = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	boots := map[uint64]bool{}
	for _, b := range p.blocks {
		boots[b.Boot] = true
	}
	if len(boots) != 1 {
		t.Errorf("the spool began anew: %d installations", len(boots))
	}
}

// TestAgentFigures measures the program at 1 kHz × 8 channels with an
// autoencoder every 100 ms, over TLS to a real broker. It runs with
// SWELL_BENCH=1 and prints one JSON line at its end.
func TestAgentFigures(t *testing.T) {
	if os.Getenv("SWELL_BENCH") == "" {
		t.Skip("a measurement: set SWELL_BENCH=1")
	}
	length := 30 * time.Second
	if s, err := strconv.Atoi(os.Getenv("SWELL_BENCH_SECONDS")); err == nil {
		length = time.Duration(s) * time.Second
	}
	p := newPlant(t, "source: {kind: synthetic, synthetic: {rate_hz: 1000}}\n")
	p.start()
	channels := []string{"signal-1", "signal-2", "signal-3", "signal-4", "signal-5", "signal-6", "signal-7", "signal-8"}
	model := agenttest.Model{Channels: channels, Window: 64, Stride: 100, Hidden: 64, Threshold: 1e9}
	one := p.press.Release(agenttest.Order{Counter: 1, Model: model, Golden: model.Computed(t)})
	p.hub.Stock(one)
	p.offer(one)
	p.until("the model acts", p.last(func(r twin.Reported) bool {
		return r.Trial != nil && r.Trial.Phase == twin.PhaseConfirmed && r.Champion != nil && r.Champion.Windows > 20
	}))
	pid := p.process.Process.Pid
	cpu := cpuTime(t, pid)
	began := time.Now()
	time.Sleep(length) // the measurement itself
	share := 100 * (cpuTime(t, pid) - cpu).Seconds() / time.Since(began).Seconds()
	fmt.Printf("{\"rss_mib\":%.1f,\"cpu_percent\":%.2f}\n", resident(t, pid), share)
}

// cpuTime is what a process has used, by /proc/PID/stat.
func cpuTime(t *testing.T, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

func resident(t *testing.T, pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func executable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode()&0o111 != 0
}

// user is whom mosquitto is to stay: it drops root otherwise and cannot read
// the test's files.
func user() string {
	if os.Getuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
