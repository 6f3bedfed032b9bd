package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/cloud/ctl"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/rollout"
)

// Paths of the examples, from this folder.
const (
	agentConfig  = "configs/agent.yaml"
	rolloutFile  = "configs/policies/rollout-careful.yaml"
	retrainFile  = "configs/policies/retrain-nightly.yaml"
	contractFile = "../protocol/openapi.yaml"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// until polls a condition that another goroutine or program brings about.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, again := time.NewTimer(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer deadline.Stop()
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("waited 30 s for: %s", what)
		}
	}
}

func TestExampleConfigurationsLoadInTheirPrograms(t *testing.T) {
	if _, err := agent.Load(agentConfig); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"configs/hub.yaml", "configs/hub-external.yaml", "compose/hub.yaml"} {
		c, err := hub.LoadFile(path)
		if err != nil {
			t.Error(err)
		}
		if external := path != "configs/hub.yaml"; external != (c.Broker.External != nil) || external != (c.Objects.S3 != nil) || external != (c.Store.PostgresURLFile != "") || external != (c.Series.Influx != nil) {
			t.Errorf("%s: wants external servers %v and names %+v %+v %+v %+v", path, external, c.Broker, c.Objects, c.Store, c.Series)
		}
	}
}

// uncommented is an example with its commented keys switched on: a comment that
// begins with a lower-case key and a colon.
func uncommented(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		bare := strings.TrimLeft(line, " ")
		if rest, ok := strings.CutPrefix(bare, "# "); ok && isKey(strings.TrimPrefix(strings.TrimLeft(rest, " "), "- ")) {
			line = line[:len(line)-len(bare)] + rest
		}
		out.WriteString(line)
	}
	return out.String()
}

func isKey(s string) bool {
	key, _, ok := strings.Cut(strings.TrimLeft(s, " "), ":")
	return ok && key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") == ""
}

func TestTheDefaultsStatedInTheExamplesAreKeysThatExist(t *testing.T) {
	text := read(t, agentConfig)
	for _, kind := range []string{"replay", "images"} { // the kind has its value above
		text = strings.Replace(text, "  # kind: "+kind+"\n", "", 1)
	}
	text = uncommented(text)
	if _, err := agent.Parse([]byte(text)); err != nil {
		t.Errorf("%s: %v", agentConfig, err)
	}
	text = uncommented(read(t, "configs/hub.yaml"))
	c, err := hub.Parse([]byte(text))
	if err != nil {
		t.Errorf("configs/hub.yaml: %v\n%s", err, text)
	}
	if c.Segments.MaxMiB == 0 || c.Fleet.StaleS == 0 || c.Rollouts.PollS == 0 || c.HTTP.SessionS == 0 || c.Broker.MaxClients == 0 {
		t.Errorf("the commented keys were not read: %+v", c)
	}
}

// document reads a policy the way swellctl does: YAML into JSON values.
func document(t *testing.T, path string) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(read(t, path)), &doc); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	doc = nil
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestPoliciesKeepTheContract(t *testing.T) {
	contract, err := openapi3.NewLoader().LoadFromFile(contractFile)
	if err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]string{rolloutFile: "RolloutPolicy", retrainFile: "RetrainPolicy"} {
		doc := document(t, path)
		if doc["kind"] != kind {
			t.Errorf("%s: kind %v", path, doc["kind"])
		}
		if err := contract.Components.Schemas[kind].Value.VisitJSON(doc, openapi3.MultiErrors()); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		// The schema allows fields that it does not name; the hub does not.
		unnamed(t, path, contract.Components.Schemas[kind].Value, doc)
	}
}

// unnamed reports fields of a document that its schema does not name.
func unnamed(t *testing.T, at string, s *openapi3.Schema, v any) {
	t.Helper()
	switch x := v.(type) {
	case map[string]any:
		for k, child := range x {
			if p := s.Properties[k]; p != nil {
				unnamed(t, at+"."+k, p.Value, child)
			} else if s.AdditionalProperties.Schema == nil {
				t.Errorf("%s: the contract knows no field %s", at, k)
			}
		}
	case []any:
		for _, child := range x {
			unnamed(t, at+"[]", s.Items.Value, child)
		}
	}
}

func TestTheCarefulPolicyChecksEveryGateThereIs(t *testing.T) {
	text := read(t, rolloutFile)
	for _, g := range []rollout.GateName{rollout.GateSuccess, rollout.GateShadow, rollout.GateNonFinite, rollout.GateLatency, rollout.GateOutput} {
		if !strings.Contains(text, "name: "+string(g)) {
			t.Errorf("no gate %s", g)
		}
	}
}

// site is a hub with its defaults, on free ports, and a command line that is
// logged in to it.
type site struct {
	t      *testing.T
	hub    *hub.Hub // nil while it is stopped
	config hub.Config
	ctl    string // swellctl's file of tokens
}

// newSite starts a hub by the shipped configuration, as change leaves it. nil
// changes nothing but the ports and folders.
func newSite(t *testing.T, change func(*hub.Config)) *site {
	t.Helper()
	dir := t.TempDir()
	c, err := hub.LoadFile("configs/hub.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, ctl: filepath.Join(dir, "swellctl.yaml")}
	c.DataDir, c.Objects.Dir = filepath.Join(dir, "hub"), filepath.Join(dir, "objects")
	c.HTTP.Listen, c.Devices.Listen, c.Broker.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.Password = func(_, password string) { t.Setenv("SWELL_PASSWORD", password) }
	if change != nil {
		change(&c)
	}
	s.config = c
	s.start()
	t.Cleanup(s.stop)
	s.swellctl("login", "http://"+s.hub.Addrs().HTTP)
	return s
}

func (s *site) start() {
	s.t.Helper()
	var err error
	if s.hub, err = hub.New(context.Background(), s.config); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) stop() {
	if s.hub == nil {
		return
	}
	if err := s.hub.Close(); err != nil {
		s.t.Error(err)
	}
	s.hub = nil
}

// data is a file in the hub's data folder.
func (s *site) data(parts ...string) string {
	return filepath.Join(append([]string{s.config.DataDir}, parts...)...)
}

// runAgent enrols the device of the shipped configuration with a new token and
// runs it until stop, by the shipped configuration as changes leave it. Its state
// is in folder.
func (s *site) runAgent(broker string, changes ...func(*agent.Config)) (folder string, stop func()) {
	s.t.Helper()
	folder = s.t.TempDir()
	write(s.t, filepath.Join(folder, "enrol-token"), s.swellctl("enroll", "token", "hall-1/press-03", "--class", "press", "--line", "l1"))
	text := strings.NewReplacer(
		"/var/lib/swell-agent", filepath.Join(folder, "state"),
		"https://hub.example:7441", "https://"+s.hub.Addrs().Devices, "tls://hub.example:7883", broker,
		"/etc/swell/ca.pem", s.data("ca", "ca.pem"), "/etc/swell/cosign.pub", s.data("signing", "cosign.pub"),
		"/run/credentials/swell-agent.service/enrol-token", filepath.Join(folder, "enrol-token"),
	).Replace(read(s.t, agentConfig))
	c, err := agent.Parse([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	c.Status = "off"
	for _, change := range changes {
		change(&c)
	}
	a, err := agent.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	return filepath.Join(folder, "state"), stop
}

// try runs swellctl and returns its exit code and what it printed.
func (s *site) try(args ...string) (code int, out, talk string) {
	var o, e bytes.Buffer
	code = ctl.Main(s.t.Context(), append([]string{"--config", s.ctl}, args...), strings.NewReader(""), &o, &e, "test")
	return code, o.String(), e.String()
}

// stranger writes a file of tokens with one that the hub did not make.
func (s *site) stranger() string {
	path := filepath.Join(s.t.TempDir(), "swellctl.yaml")
	write(s.t, path, regexp.MustCompile(`token: \S+`).ReplaceAllString(read(s.t, s.ctl), "token: made-up"))
	return path
}

func (s *site) swellctl(args ...string) string {
	s.t.Helper()
	code, out, talk := s.try(args...)
	if code != ctl.CodeOK {
		s.t.Fatalf("swellctl %s: exit %d: %s", strings.Join(args, " "), code, talk)
	}
	return out
}

// metrics is what the hub tells Prometheus, by name; series of one name are
// summed.
func (s *site) metrics() map[string]float64 {
	s.t.Helper()
	resp, err := http.Get("http://" + s.hub.Addrs().HTTP + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatal(resp.Status)
	}
	out := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		line := lines.Text()
		name, _, _ := strings.Cut(line[:max(strings.LastIndexByte(line, ' '), 0)], "{")
		if v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64); err == nil && !strings.HasPrefix(line, "#") {
			out[name] += v
		}
	}
	return out
}

// TestInstallation follows docs/install.md with the shipped examples: hub,
// login, policies, token, agent.
func TestInstallation(t *testing.T) {
	s := newSite(t, nil)
	for _, path := range []string{rolloutFile, retrainFile} {
		s.swellctl("apply", "-f", path, "--dry-run")
		s.swellctl("apply", "-f", path, "--reason", "first policy")
	}
	if out := s.swellctl("get", "rolloutpolicies", "-o", "name"); out != "careful\n" {
		t.Errorf("rollout policies: %q", out)
	}
	if out := s.swellctl("get", "retrainpolicies", "-o", "name"); out != "press-nightly\n" {
		t.Errorf("retrain policies: %q", out)
	}
	s.runAgent("tls://" + s.hub.Addrs().MQTT)
	s.untilSamples()
}

// untilSamples waits until the device is known and its samples are durable.
func (s *site) untilSamples() {
	s.t.Helper()
	until(s.t, "the device among the hub's", func() bool { return s.swellctl("get", "devices", "-o", "name") == "hall-1/press-03\n" })
	until(s.t, "its samples", func() bool {
		_, out, _ := s.try("signal", "list", "hall-1/press-03", "-o", "json")
		return strings.Contains(out, "pressure") && s.metrics()["swell_ingest_blocks_total"] > 0
	})
}
