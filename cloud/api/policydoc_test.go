package api

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/expr"
	"github.com/swellfleet/swell/protocol/artifact"
)

// section returns a page's text from a heading to the next of any level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("docs/policy.md has no heading %q", heading)
	}
	text, _, _ := strings.Cut(after, "\n#")
	return text
}

// rows returns the first cells of the tables of a text, between backquotes.
func rows(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
		out[m[1]] = true
	}
	return out
}

func TestThePolicyPageDescribesEveryFieldGateAndNumber(t *testing.T) {
	b, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	want := map[string]map[string]bool{}
	for heading, v := range map[string]any{
		"## Fields": apimodel.RolloutPolicySpec{}, "### Waves": apimodel.WaveSpec{}, "### Growth": apimodel.Growth{},
		"### Budgets": apimodel.Budget{}, "### Windows": apimodel.Window{}, "## Gates": apimodel.GateSpec{},
	} {
		want[heading] = map[string]bool{}
		for f := range reflect.TypeOf(v).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			want[heading][name] = true
		}
	}
	for _, g := range []rollout.GateName{
		rollout.GateSuccess, rollout.GateShadow, rollout.GateNonFinite, rollout.GateLatency, rollout.GateOutput,
		rollout.GateMemory, rollout.GateDrift, rollout.GateExpr, rollout.GateApproval,
	} {
		want["## Gates"][string(g)] = true
	}
	want["### Expressions"] = map[string]bool{}
	for _, v := range expr.Variables {
		want["### Expressions"][v.Name] = true
	}
	for _, v := range expr.Statistics {
		want["### Expressions"]["metrics.NAME."+v.Name] = true
	}
	for heading, names := range want {
		got := rows(section(t, page, heading))
		for name := range names {
			if !got[name] {
				t.Errorf("%s: %s is not described", heading, name)
			}
		}
		for name := range got {
			if !names[name] {
				t.Errorf("%s: there is no %s", heading, name)
			}
		}
	}
}

func TestTheExampleOnThePolicyPageIsAPolicy(t *testing.T) {
	b, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "```yaml\n")
	example, _, _ := strings.Cut(after, "```")
	p, err := ReadPolicyFile([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	for f := range reflect.TypeFor[apimodel.RolloutPolicySpec]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !strings.Contains(example, "\n  "+name+":") {
			t.Errorf("the example does not show %s", name)
		}
	}
	var devices []rollout.Device
	for i := range 800 {
		d := rollout.Device{Class: "pump", Arch: "amd64", Labels: map[string]string{"line": string(rune('A' + i%20)), "site": "hall-1", "hardware": "v1"}}
		d.ID.Site, d.ID.Node = []string{"hall-1", "hall-2"}[i%2], "pump-"+string(rune('a'+i/26%26))+string(rune('a'+i%26))
		devices = append(devices, d)
	}
	r := rollout.Rollout{
		Name: "r-2", Author: "user:ada", Policy: p.Policy.Expand(len(devices)), Created: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC),
		Release: rollout.Release{Name: "pump-anomaly", Counter: 2, Variants: []rollout.Variant{{Classes: []artifact.Class{"pump"}}}},
	}
	if err := rollout.Validate(r, devices); err != nil {
		t.Fatal(err)
	}
	if n := len(r.Policy.Waves); n < 4 {
		t.Errorf("it grows to %d waves", n)
	}
}
