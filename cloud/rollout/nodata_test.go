package rollout

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/rollout/expr"
)

// known fills in all that devices can report.
func known() *tally {
	t := &tally{
		devices: 5, started: 4, done: 2, failures: 1, unresolved: 1, away: 1, paired: 4, windows: 100, nonFinite: 1, scoredSince: 99, lostSince: 1,
		latencyDevices: 4, latencyMs: 3, memoryDevices: 4, memoryMiB: 20, driftDevices: 4, drift: 0.1,
		metrics: map[string]metric{"oil": {n: 2, sum: 5, min: 1, max: 4}},
	}
	t.evidence = Evidence{Windows: 10, Items: 600, A: 6, B: 3}
	return t
}

func TestExpressionsKnowEveryNumberThatTheyDeclare(t *testing.T) {
	names := map[string]bool{}
	for _, v := range expr.Variables {
		names[v.Name] = true
	}
	for _, s := range expr.Statistics {
		names["metrics.oil."+s.Name] = true
	}
	for name := range names {
		if _, n := known().look(name); n == 0 {
			t.Errorf("%s is missing though it was measured", name)
		}
		if v, n := (&tally{}).look(name); n != 0 {
			t.Errorf("%s is %g though nothing was measured", name, v)
		}
	}
	for _, name := range []string{"oil", "metrics.oil.median", "metrics.water.max", "metrics"} {
		if _, n := known().look(name); n != 0 {
			t.Errorf("%s is known", name)
		}
	}
}

// TestNoGatePassesWithoutData takes what a gate looks at away from a wave that
// is otherwise in full view.
func TestNoGatePassesWithoutData(t *testing.T) {
	limit := 1e6
	blind := map[GateName]func(*tally){
		GateSuccess:   func(t *tally) { t.started, t.done, t.failures = 0, 0, 0 },
		GateShadow:    func(t *tally) { t.evidence = Evidence{} },
		GateNonFinite: func(t *tally) { t.windows, t.nonFinite = 0, 0 },
		GateLatency:   func(t *tally) { t.latencyDevices = 0 },
		GateOutput:    func(t *tally) { t.scoredSince, t.lostSince = 0, 0 },
		GateMemory:    func(t *tally) { t.memoryDevices = 0 },
		GateDrift:     func(t *tally) { t.driftDevices = 0 },
		GateExpr:      func(t *tally) { t.metrics = nil },
		GateApproval:  func(*tally) {},
	}
	for _, name := range gateNames {
		if blind[name] == nil {
			t.Fatalf("say what the gate %s looks at", name)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(gateNames).Draw(t, "gate")
		g := Gate{Name: name, MinN: rapid.Int64Range(0, 3).Draw(t, "min_n")}
		if name == GateLatency || name == GateMemory || name == GateDrift {
			g.Threshold = &limit
		}
		if name == GateExpr {
			g.Expr = rapid.SampledFrom([]string{
				"metrics.oil.max < 9", "!(metrics.oil.max > 9)", "metrics.oil.devices >= 0 || windows > 0", "windows > 0 ? true : metrics.oil.sum > 0", "metrics.oil.min != metrics.oil.min + 1",
			}).Draw(t, "expr")
		}
		p := Policy{ShadowS: 60, Gates: []Gate{g}}.withDefaults()
		seen := known()
		blind[name](seen)
		r := Rollout{Policy: p, Author: "night"}
		if name == GateApproval { // consent of the author, to another wave, or to its beginning, is none
			r.Approvals = []Approval{{By: "user:night", Gate: true}, {By: "ben", Wave: 1, Gate: true}, {By: "ben"}}
		}
		if v := evaluate(r, p, p.Gates[0], seen); v.Result != Inconclusive || v.Reason == "" {
			t.Fatalf("%s %s: %s: %s", name, g.Expr, v.Result, v.Reason)
		}
	})
}
