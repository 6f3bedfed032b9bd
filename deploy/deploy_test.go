package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
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
		if external := path != "configs/hub.yaml"; external != (c.Broker.External != nil) || external != (c.Objects.S3 != nil) || external != (c.Store.PostgresURLFile != "") {
			t.Errorf("%s: wants external servers %v and names %+v %+v %+v", path, external, c.Broker, c.Objects, c.Store)
		}
	}
}

// uncommented is an example with its commented keys switched on: a comment that
// begins with a lower-case key and a colon.
func uncommented(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		bare := strings.TrimLeft(line, " ")
		if rest, ok := strings.CutPrefix(bare, "# "); ok && isKey(rest) {
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
	text := uncommented(strings.Replace(read(t, agentConfig), "  # kind: replay\n", "", 1)) // kind has its value above
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
	t   *testing.T
	hub *hub.Hub
	dir string // of the hub's data
	ctl string // swellctl's file of tokens
}

func newSite(t *testing.T) *site {
	dir := t.TempDir()
	text := read(t, "configs/hub.yaml")
	c, err := hub.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: filepath.Join(dir, "hub"), ctl: filepath.Join(dir, "swellctl.yaml")}
	c.DataDir, c.Objects.Dir = s.dir, filepath.Join(dir, "objects")
	c.HTTP.Listen, c.Devices.Listen, c.Broker.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	var password string
	c.Password = func(_, p string) { password = p }
	if s.hub, err = hub.New(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.hub.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("SWELL_PASSWORD", password)
	s.swellctl("login", "http://"+s.hub.Addrs().HTTP)
	return s
}

// try runs swellctl and returns its exit code and what it printed.
func (s *site) try(args ...string) (code int, out, talk string) {
	var o, e bytes.Buffer
	code = ctl.Main(s.t.Context(), append([]string{"--config", s.ctl}, args...), strings.NewReader(""), &o, &e, "test")
	return code, o.String(), e.String()
}

func (s *site) swellctl(args ...string) string {
	s.t.Helper()
	code, out, talk := s.try(args...)
	if code != ctl.CodeOK {
		s.t.Fatalf("swellctl %s: exit %d: %s", strings.Join(args, " "), code, talk)
	}
	return out
}

func (s *site) metrics() string {
	s.t.Helper()
	resp, err := http.Get("http://" + s.hub.Addrs().HTTP + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %v", resp.Status, err)
	}
	return string(b)
}

// TestInstallation follows docs/install.md with the shipped examples: hub,
// login, policies, token, agent.
func TestInstallation(t *testing.T) {
	s := newSite(t)
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
	if code, _, talk := s.try("retrain", "now", "press-nightly", "--dry-run"); code == ctl.CodeUsage || code == ctl.CodeNotFound {
		t.Errorf("retrain now: exit %d: %s", code, talk)
	}

	dir := t.TempDir()
	write(t, filepath.Join(dir, "enrol-token"), s.swellctl("enroll", "token", "hall-1/press-03", "--class", "press", "--line", "l1"))
	text := strings.NewReplacer(
		"/var/lib/swell-agent", filepath.Join(dir, "state"),
		"https://hub.example:7441", "https://"+s.hub.Addrs().Devices, "tls://hub.example:7883", "tls://"+s.hub.Addrs().MQTT,
		"/etc/swell/ca.pem", filepath.Join(s.dir, "ca", "ca.pem"),
		"/etc/swell/cosign.pub", filepath.Join(s.dir, "signing", "cosign.pub"),
		"/run/credentials/swell-agent.service/enrol-token", filepath.Join(dir, "enrol-token"),
	).Replace(read(t, agentConfig))
	c, err := agent.Parse([]byte(text + "\nstatus: 'off'\n"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	until(t, "the device among the hub's", func() bool { return s.swellctl("get", "devices", "-o", "name") == "hall-1/press-03\n" })
	until(t, "samples at the hub", func() bool {
		_, out, _ := s.try("signal", "list", "hall-1/press-03", "-o", "json")
		return strings.Contains(out, "pressure") && strings.Contains(s.metrics(), "\nswell_ingest_blocks_total ") && !strings.Contains(s.metrics(), "\nswell_ingest_blocks_total 0\n")
	})
}
