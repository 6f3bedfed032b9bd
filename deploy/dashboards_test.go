package deploy_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/cloud/ctl"
)

const dashboardFile = "dashboards/swell.json"

type panel struct {
	ID      int    `json:"id"`
	Title   string `json:"title"`
	Type    string `json:"type"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets []struct {
		Expr       string            `json:"expr"`
		Datasource map[string]string `json:"datasource"`
	} `json:"targets"`
}

type dashboard struct {
	UID    string  `json:"uid"`
	Panels []panel `json:"panels"`
}

func loadDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// expressions are all that Prometheus is asked, by where it is asked from.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, p := range loadDashboard(t).Panels {
		for i, q := range p.Targets {
			out[fmt.Sprintf("panel %q, query %d", p.Title, i+1)] = q.Expr
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "dashboards/alerts.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			out["alert "+r.Alert] = r.Expr
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %s does not say how bad it is, what happened and what to do", r.Alert)
			}
		}
	}
	if len(out) < 30 {
		t.Fatalf("%d expressions: the checks would hold for nothing", len(out))
	}
	return out
}

var (
	metricName  = regexp.MustCompile(`\b(?:swell|go|process)_[a-z0-9_]+\b`)
	agentMetric = regexp.MustCompile(`line\("(?:gauge|counter)", "([a-z0-9_]+)"|# TYPE (swell_agent_[a-z0-9_]+)`)
	gateMetric  = regexp.MustCompile(`NewDesc\("(swell_rollout_gate_[a-z_]+)"`)
	stateLabel  = regexp.MustCompile(`swell_devices\{[^}]*state!?="([a-z]+)"`)
)

// TestDashboardAsksForMetricsThatExist compares the names in panels and alerts
// with what a running hub answers, and with what the agent's and the hub's
// sources write: an agent shows some of its own only while it has a model or a
// finding, and a hub shows gates only while a rollout is active.
func TestDashboardAsksForMetricsThatExist(t *testing.T) {
	s := newSite(t, nil) // its login is a request, which the histogram counts
	if code, _, _ := (&site{t: t, hub: s.hub, ctl: s.stranger()}).try("get", "devices"); code != ctl.CodeDenied {
		t.Fatalf("a stranger is not refused, which would be counted: exit %d", code)
	}
	known := s.metrics()
	for _, m := range agentMetric.FindAllStringSubmatch(read(t, "../agent/status.go"), -1) {
		if m[1] != "" {
			known["swell_agent_"+m[1]] = 0
		} else {
			known[m[2]] = 0
		}
	}
	if _, ok := known["swell_agent_connected"]; !ok {
		t.Fatal("no metric of the agent found in its source")
	}
	for _, m := range gateMetric.FindAllStringSubmatch(read(t, "../cloud/hub/health.go"), -1) {
		known[m[1]] = 0
	}
	asked := map[string]bool{}
	for where, expr := range expressions(t) {
		names := metricName.FindAllString(expr, -1)
		if len(names) == 0 && !strings.HasPrefix(expr, "up{") {
			t.Errorf("%s asks for nothing: %s", where, expr)
		}
		for _, n := range names {
			asked[n] = true
			if _, ok := known[n]; !ok {
				t.Errorf("%s asks for %s, which nothing exposes", where, n)
			}
		}
	}
	for n := range known {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(n, "_bucket"), "_count"), "_sum")
		if strings.HasPrefix(n, "swell_") && !asked[n] && !asked[base+"_bucket"] && !slices.Contains(unshown, n) {
			t.Errorf("no panel shows %s", n)
		}
	}
}

// unshown are metrics that another one on the dashboard makes needless.
var unshown = []string{
	"swell_agent_samples_total", "swell_agent_windows_due_total", "swell_agent_swaps_total", "swell_agent_champion_windows_total",
}

func TestDashboardAndAlertsNameStatesThatExist(t *testing.T) {
	states := read(t, "../cloud/fleet/fleet.go")
	for where, expr := range expressions(t) {
		for _, m := range stateLabel.FindAllStringSubmatch(expr, -1) {
			if !strings.Contains(states, `State = "`+m[1]+`"`) {
				t.Errorf("%s: no device is ever %q", where, m[1])
			}
		}
	}
}

func TestDashboardIsWhole(t *testing.T) {
	d := loadDashboard(t)
	var sources struct {
		Datasources []struct {
			UID string `yaml:"uid"`
		} `yaml:"datasources"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "compose/grafana/datasources/prometheus.yaml")), &sources); err != nil {
		t.Fatal(err)
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: want an id of its own and a title", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			if q.Datasource["uid"] != sources.Datasources[0].UID {
				t.Errorf("panel %q asks %v, and Grafana is given %v", p.Title, q.Datasource, sources.Datasources)
			}
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies on %q or beyond the edge", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
	}
}

// TestPrometheusReadsItsFiles asks Prometheus' own checker.
func TestPrometheusReadsItsFiles(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool: install the Debian package prometheus")
	}
	command(t, nil, promtool, "check", "config", "dashboards/prometheus.yml")
}
