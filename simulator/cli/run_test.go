package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swellfleet/swell/simulator/cli"
)

// sim runs the program.
func sim(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Main(context.Background(), args, &o, &e, "test")
	return code, o.String(), e.String()
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const examples = "../../docs/examples/"

func TestTheExamplesPlayAsTheySay(t *testing.T) {
	page := filepath.Join(t.TempDir(), "report.html")
	code, out, errOut := sim(t, "run", examples+"first.txt", examples+"plant.txt", examples+"policy.txt", "--html", page)
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errOut)
	}
	for _, want := range []string{"SCENARIO", "first ", "plant ", "policy ", "shadow gate"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	b, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(b), "Devices available") {
		t.Errorf("the report has %d bytes: %v", len(b), err)
	}
}

func TestAStoryThatDoesNotHoldEndsWithOne(t *testing.T) {
	file := write(t, "wish.txt", "fleet 6 lines 2\nfor 1h\nwave all deadline 2h\ngate success\nsoak 2m\nrelease crash-at-load\nexpect state = promoted\n")
	code, out, errOut := sim(t, "run", file)
	if code != 1 || !strings.Contains(out, "not met: expected state = promoted, it is failed") || !strings.Contains(errOut, "1 of 1 scenarios did not hold") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
}

const quick = `apiVersion: swell/v1
kind: RolloutPolicy
metadata: {name: quick}
spec:
  selector: ""
  waves:
    - {name: canary, devices: 2, soakSeconds: 120, deadlineSeconds: 14400}
    - {name: rest, soakSeconds: 120, deadlineSeconds: 14400, approvals: 1}
  budgets: [{groupBy: line, maxUnavailable: 1}]
  gates: [{name: success}]
  shadowSeconds: 0
`

const devices = `{"items":[
 {"apiVersion":"swell/v1","kind":"Device","metadata":{"name":"hall-1/p1","labels":{"line":"L1","site":"hall-1","class":"press"}},"spec":{"site":"hall-1","node":"p1","class":"press"},"status":{"state":"ok","connected":true,"conditions":[]}},
 {"apiVersion":"swell/v1","kind":"Device","metadata":{"name":"hall-1/p2","labels":{"line":"L1"}},"spec":{"site":"hall-1","node":"p2","class":"press"},"status":{}},
 {"apiVersion":"swell/v1","kind":"Device","metadata":{"name":"hall-1/p3","labels":{"line":"L2"}},"spec":{"site":"hall-1","node":"p3","class":"press"},"status":{}},
 {"apiVersion":"swell/v1","kind":"Device","metadata":{"name":"hall-1/p4","labels":{"line":"L2"}},"spec":{"site":"hall-1","node":"p4","class":"press"},"status":{}},
 {"apiVersion":"swell/v1","kind":"Device","metadata":{"name":"hall-1/p5"},"spec":{"site":"hall-1","node":"p5","class":"press"},"status":{"retiredAt":"2026-11-01T00:00:00Z"}}
]}`

func TestWhatIfPlaysAPolicyOnDevicesOfTheHub(t *testing.T) {
	policy, fleet := write(t, "quick.yaml", quick), write(t, "fleet.json", devices)
	page := filepath.Join(t.TempDir(), "report.html")
	code, out, errOut := sim(t, "what-if", "--policy", policy, "--fleet", fleet, "--seeds", "2", "--release", "sound", "--release", "crash-at-load", "--html", page)
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errOut)
	}
	for _, want := range []string{"4 devices under policy quick, 2 runs of each release", "promoted 2", "failed 2", "FEWEST AVAILABLE OF A LINE", "1 of 2 (line=L"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if b, err := os.ReadFile(page); err != nil || !strings.Contains(string(b), "crash-at-load") {
		t.Errorf("the report has %d bytes: %v", len(b), err)
	}
}

func TestWhatCannotBePlayedIsExplained(t *testing.T) {
	policy, fleet, text := write(t, "quick.yaml", quick), write(t, "fleet.json", devices), write(t, "fleet.txt", "fleet 6 lines 2 class press\n")
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no policy":                    {[]string{"what-if", "--fleet", fleet}, "name a policy file with --policy"},
		"a policy that is not there":   {[]string{"what-if", "--policy", "none.yaml", "--fleet", fleet}, "cannot read the policy"},
		"devices that are none":        {[]string{"what-if", "--policy", policy, "--fleet", write(t, "x.json", `{"items":[{"kind":"Rollout"}]}`)}, `object 1 is a "Rollout": want what 'swellctl get devices -o json' prints`},
		"an empty list":                {[]string{"what-if", "--policy", policy, "--fleet", write(t, "y.json", `[]`)}, "there is no device in it"},
		"a fleet that says more":       {[]string{"what-if", "--policy", policy, "--fleet", write(t, "z.txt", "fleet 3\nwave all\n")}, "a fleet file says only"},
		"an unknown nature":            {[]string{"what-if", "--policy", policy, "--fleet", text, "--release", "evil"}, `a release has no "evil": there are sound, flags xN`},
		"a policy that never ends":     {[]string{"what-if", "--policy", write(t, "p.yaml", strings.Replace(quick, "maxUnavailable: 1", "minAvailable: 6", 1)), "--fleet", text}, "the hub would refuse this"},
		"settings that are none":       {[]string{"backtest", "--data", ".", "--train-rows", "9", "--fit", `{"patern": 3}`}, `--fit: json: unknown field "patern"`},
		"settings that cannot be":      {[]string{"backtest", "--data", ".", "--train-rows", "9", "--fit", `{"margin": -1}`}, "margin is -1: want a positive factor"},
		"settings and more":            {[]string{"backtest", "--data", ".", "--train-rows", "9", "--fit", `{} {}`}, "one JSON object and nothing behind it"},
		"nothing to choose by":         {[]string{"tune", "--train-rows", "9"}, "--data: name a folder"},
		"nothing said to learn from":   {[]string{"tune", "--data", "."}, "--train-rows: say how many rows"},
		"no scenario":                  {[]string{"run"}, "name a scenario file, as docs/examples/first.txt"},
		"a scenario that is not there": {[]string{"run", "none.txt"}, "cannot read the scenario"},
		"a word it does not know":      {[]string{"run", write(t, "w.txt", "fleet 3\nwaves all\n")}, `w:2: unknown word "waves"`},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := sim(t, tc.args...)
			if code != 1 || !strings.Contains(errOut, tc.want) {
				t.Errorf("exit %d, want 1 and %q\n%s%s", code, tc.want, out, errOut)
			}
		})
	}
}
