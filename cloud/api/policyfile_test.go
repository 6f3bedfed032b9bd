package api_test

import (
	"os"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/api"
)

func TestAPolicyFileIsReadAsItWouldBeApplied(t *testing.T) {
	b, err := os.ReadFile("../../deploy/configs/policies/rollout-careful.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := api.ReadPolicyFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if p.Selector != "site=hall-1" || len(p.Policy.Waves) != 4 || p.Policy.SoakS != 1800 || p.Policy.Budgets[0].MaxUnavailable != 1 {
		t.Errorf("it says %+v", p)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"a field that is not there": {strings.Replace(string(b), "retries:", "retris:", 1), `"retris"`},
		"another kind":              {strings.Replace(string(b), "kind: RolloutPolicy", "kind: RetrainPolicy", 1), "no RolloutPolicy in the file"},
		"no YAML":                   {"a: b: c", "read the policy"},
		"what can never be":         {strings.Replace(string(b), "devices: 1", "devices: -1", 1), "wave 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := api.ReadPolicyFile([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestDatesInAPolicyFileNeedNoQuotes(t *testing.T) {
	p, err := api.ReadPolicyFile([]byte(`kind: RolloutPolicy
metadata: {name: p}
spec:
  selector: ""
  waves: [{name: all}]
  windows: [{name: night, zone: UTC, from: "22:00", to: "06:00", except: [2026-12-24]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Policy.Windows[0].Except; len(got) != 1 || got[0] != "2026-12-24" {
		t.Errorf("except %v", got)
	}
}
