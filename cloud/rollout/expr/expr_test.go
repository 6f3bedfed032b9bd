package expr_test

import (
	"math"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/rollout/expr"
)

// fact is a number and how many devices it rests on.
type fact struct {
	value   float64
	devices int
}

func look(facts map[string]fact) expr.Look {
	return func(name string) (float64, int) { f := facts[name]; return f.value, f.devices }
}

func TestAnExpressionJudgesWhatDevicesReport(t *testing.T) {
	facts := map[string]fact{
		"wave.done": {8, 10}, "wave.failed": {2, 10}, "wave.failed_share": {0.2, 10}, "latency_p99_ms": {12.5, 4}, "non_finite": {0, 6},
		"shadow.only_challenger": {0, 3}, "shadow.only_champion": {0, 3}, "drift": {math.NaN(), 3},
		"metrics.oil_celsius.max": {71, 7}, "metrics.oil_celsius.mean": {64, 7},
	}
	for text, tc := range map[string]struct {
		holds   bool
		devices int
		why     string // of no answer
	}{
		"latency_p99_ms < 20":                       {holds: true, devices: 4},
		"latency_p99_ms <= 12.5 && non_finite == 0": {holds: true, devices: 4},
		"latency_p99_ms > 20.0":                     {devices: 4},
		"wave.failed * 2 < wave.done":               {holds: true, devices: 10},
		"wave.failed / (wave.done + wave.failed) > 0.1 ? latency_p99_ms < 13 : true": {holds: true, devices: 4},
		"!(non_finite > 0)": {holds: true, devices: 6},
		"metrics.oil_celsius.max - metrics.oil_celsius.mean < 10": {holds: true, devices: 7},

		"memory_growth_mib < 200":                        {why: "no device has reported memory_growth_mib"},
		"latency_p99_ms < 20 || memory_growth_mib < 200": {why: "no device has reported memory_growth_mib"},
		"metrics.oil_bar.max < 9 || latency_p99_ms < 20": {why: "no device has reported metrics.oil_bar.max"},
		"drift < 0.25": {why: "no device has reported drift"},
		"shadow.only_challenger / shadow.only_champion < 2":    {devices: 3, why: "division by zero"},
		"!(shadow.only_challenger / shadow.only_champion > 2)": {devices: 3, why: "division by zero"},
	} {
		p, err := expr.Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		holds, devices, err := p.Eval(look(facts))
		if holds != tc.holds || devices != tc.devices || (err == nil) != (tc.why == "") || err != nil && !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v on %d devices, %v; want %v on %d, %q", text, holds, devices, err, tc.holds, tc.devices, tc.why)
		}
	}
}

func TestAnExpressionThatCannotBeAskedIsRefusedAtItsColumn(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "is empty",
		"latency_p99_ms":                    "no condition: it gives a double",
		"true":                              "always say the same",
		"1 < 2":                             "always say the same",
		"latency_p99_ms < ":                 "line 1, column 1",
		"non_finite == 0 && latency < 20":   `line 1, column 20: there is no number "latency": there are wave.devices`,
		"non_finite == 0\n&& wave.dead < 2": `line 2, column 4: there is no number "wave.dead"`,
		"drift < 'much'":                    "line 1, column 7: found no matching overload",
		"now() > timestamp('2026-11-23T00:00:00Z')":                       "undeclared reference to 'now'",
		"duration('1s') < duration('2s') && drift < 1":                    "undeclared reference to 'duration'",
		"has(metrics.oil) || drift < 1":                                   "column",
		"metrics.oil < 3":                                                 "line 1, column 1: name one metric and one statistic",
		"metrics['oil'].max < 3":                                          "line 1, column 1: name one metric and one statistic",
		"metrics.oil.median < 3":                                          `"median" is no statistic of metrics.oil: there are max, min, mean, sum, devices`,
		"[1, 2].all(x, x < drift)":                                        `no number "x"`,
		"drift in [0.1]":                                                  "undeclared reference",
		"drift < 1 // " + strings.Repeat("x", 5000):                       "at most 1024",
		strings.Repeat("(", 200) + "drift < 1" + strings.Repeat(")", 200): "recursion",
	} {
		if _, err := expr.Compile(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

// FuzzCompile holds that whatever compiles answers, and answers nothing while
// nothing is known.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"latency_p99_ms < 20", "metrics.a.max / metrics.a.min > 2 || drift != 1", "-drift * 1e300 * 1e300 > 0 ? true : false", "drift < 1u"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := expr.Compile(text)
		if err != nil {
			return
		}
		if holds, _, err := p.Eval(look(nil)); holds || err == nil {
			t.Fatalf("%q holds over nothing: %v", text, err)
		}
		_, _, _ = p.Eval(func(string) (float64, int) { return 1, 1 })
	})
}
