package rollout

import (
	"fmt"
	"strings"
)

func newVerdict(g Gate, cmp string, n int64, unit string) Verdict {
	return Verdict{Gate: g.Name, Result: Inconclusive, Applies: true, Comparison: cmp, Threshold: *g.Threshold, N: n, NUnit: unit}
}

// evaluate asks one gate about one wave. g has its defaults.
func evaluate(r Rollout, p Policy, g Gate, t *tally) Verdict {
	switch g.Name {
	case GateSuccess:
		return success(g, t)
	case GateShadow:
		return shadow(r, p, g, t)
	case GateNonFinite:
		v := newVerdict(g, "<=", int64(t.windows), "windows")
		return share(v, g, t.nonFinite, t.windows, "scores of the release were not finite")
	case GateOutput:
		v := newVerdict(g, "<=", int64(t.scoredSince+t.lostSince), "windows")
		return share(v, g, t.lostSince, t.scoredSince+t.lostSince, "windows were lost since the release was offered")
	case GateLatency:
		return worst(g, t.latencyDevices, t.latencyMs, "ms", "no device has measured the release's latency yet", "p99 of one inference")
	case GateMemory:
		return worst(g, t.memoryDevices, t.memoryMiB, "MiB", "no device has reported its memory with the release loaded and before yet", "growth of memory since the offer")
	case GateDrift:
		return worst(g, t.driftDevices, t.drift, "PSI", "no device has reported yet how far the release's scores lie from those it was calibrated on", "drift of scores")
	case GateExpr:
		return expression(p, g, t)
	case GateApproval:
		return approval(r, g)
	}
	return Verdict{Gate: g.Name, Result: Inconclusive, Applies: true, Reason: fmt.Sprintf("this hub does not know the gate %q", g.Name)}
}

// worst judges the worst device's value against a threshold it may not exceed.
func worst(g Gate, devices int, value float64, unit, none, what string) Verdict {
	v := newVerdict(g, "<=", int64(devices), "devices")
	v.Unit = unit
	if devices == 0 {
		v.Reason = none
		return v
	}
	v.Value = &value
	v.Reason = fmt.Sprintf("the worst of %d devices has a %s of %.3g %s, allowed are %.3g %s", devices, what, value, unit, v.Threshold, unit)
	switch {
	case !(value <= v.Threshold):
		v.Result = Fail
	case v.N < g.MinN:
		v.Reason = fmt.Sprintf("%d of at least %d devices have measured it; %s", devices, g.MinN, v.Reason)
	default:
		v.Result = Pass
	}
	return v
}

// expression asks a policy's own condition. What it mentions has to have been
// measured, on at least MinN devices, before it says anything.
func expression(p Policy, g Gate, t *tally) Verdict {
	v := newVerdict(g, ">=", 0, "devices")
	v.Title, v.Unit = g.Title, "holds"
	run, err := p.program(g.Expr)
	if err != nil {
		v.Reason = fmt.Sprintf("%s cannot be asked: %v", g.Expr, err)
		return v
	}
	holds, n, err := run.Eval(t.look)
	v.N = int64(n)
	if err != nil {
		v.Reason = fmt.Sprintf("%s: %v", g.Expr, err)
		return v
	}
	x := 0.0
	if holds {
		x = 1
	}
	says := fmt.Sprintf("%s, on %d devices: %s", g.Expr, n, run.Says(t.look))
	switch v.Value = &x; {
	case v.N < g.MinN:
		v.Reason = fmt.Sprintf("%d of at least %d devices have measured it; %s", n, g.MinN, says)
	case holds:
		v.Result, v.Reason = Pass, "holds: "+says
	default:
		v.Result, v.Reason = Fail, "does not hold: "+says
	}
	return v
}

// look returns a number that expressions know, and how many devices it rests
// on. Counts of the wave rest on those that ended: before, they say nothing
// about the release.
func (t *tally) look(name string) (value float64, devices int) {
	over := func(x, n float64, devices int) (float64, int) {
		if n == 0 {
			return 0, 0
		}
		return x / n, devices
	}
	ended := t.done + t.failures
	scored, shadowed := 0, 0
	if t.windows > 0 {
		scored = max(t.started, 1)
	}
	if t.evidence.Windows > 0 {
		shadowed = max(t.paired, 1)
	}
	switch name {
	case "wave.devices":
		return float64(t.devices), ended
	case "wave.started":
		return float64(t.started), ended
	case "wave.done":
		return float64(t.done), ended
	case "wave.failed":
		return float64(t.failures), ended
	case "wave.away":
		return float64(t.away), ended
	case "wave.in_flight":
		return float64(t.unresolved), ended
	case "wave.done_share":
		return over(float64(t.done), float64(ended), ended)
	case "wave.failed_share":
		return over(float64(t.failures), float64(ended), ended)
	case "windows":
		return float64(t.windows), scored
	case "non_finite":
		return float64(t.nonFinite), scored
	case "non_finite_share":
		return over(float64(t.nonFinite), float64(t.windows), scored)
	case "lost":
		if t.scoredSince+t.lostSince == 0 {
			return 0, 0
		}
		return float64(t.lostSince), max(t.started, 1)
	case "lost_share":
		return over(float64(t.lostSince), float64(t.scoredSince+t.lostSince), max(t.started, 1))
	case "latency_p99_ms":
		return t.latencyMs, t.latencyDevices
	case "memory_growth_mib":
		return t.memoryMiB, t.memoryDevices
	case "drift":
		return t.drift, t.driftDevices
	case "shadow.windows":
		return float64(t.evidence.Windows), shadowed
	case "shadow.items":
		return float64(t.evidence.Items), shadowed
	case "shadow.only_challenger":
		return float64(t.evidence.A), shadowed
	case "shadow.only_champion":
		return float64(t.evidence.B), shadowed
	case "shadow.ratio":
		return over(float64(t.evidence.A), float64(t.evidence.B), shadowed)
	}
	rest, ok := strings.CutPrefix(name, "metrics.")
	if !ok {
		return 0, 0
	}
	metric, statistic, _ := strings.Cut(rest, ".")
	m := t.metrics[metric]
	switch statistic {
	case "max":
		return m.max, m.n
	case "min":
		return m.min, m.n
	case "mean":
		return over(m.sum, float64(m.n), m.n)
	case "sum":
		return m.sum, m.n
	case "devices":
		return float64(m.n), m.n
	}
	return 0, 0
}

// approval counts the people who say that the wave has done well.
func approval(r Rollout, g Gate) Verdict {
	by := r.consents(r.Wave, true)
	v := newVerdict(g, ">=", int64(len(by)), "people")
	v.Threshold = float64(g.MinN)
	x := float64(len(by))
	v.Value = &x
	if v.N >= g.MinN {
		v.Result, v.Reason = Pass, fmt.Sprintf("approved by %s", strings.Join(by, ", "))
		return v
	}
	v.Reason = fmt.Sprintf("%d of %d people have approved what the wave did", v.N, g.MinN)
	if len(by) > 0 {
		v.Reason += ": " + strings.Join(by, ", ")
	}
	if r.Wave < len(r.Policy.Waves) && len(r.Policy.Waves[r.Wave].Approvers) > 0 {
		v.Reason += "; asked are " + strings.Join(r.Policy.Waves[r.Wave].Approvers, ", ")
	}
	return v
}

// onlyPeople says that nothing but people's approval is missing.
func onlyPeople(gates []Verdict) bool {
	missing := false
	for _, v := range gates {
		switch {
		case !v.Applies || v.Result == Pass:
		case v.Gate != GateApproval:
			return false
		default:
			missing = true
		}
	}
	return missing
}

// share judges bad of n against a threshold. No data is no pass.
func share(v Verdict, g Gate, bad, n uint64, what string) Verdict {
	if n == 0 {
		v.Reason = "no windows yet"
		return v
	}
	x := float64(bad) / float64(n)
	v.Value = &x
	v.Reason = fmt.Sprintf("%d of %d %s, allowed is a share of %.3g", bad, n, what, v.Threshold)
	switch {
	case !(x <= v.Threshold) && (v.N >= g.MinN || v.Threshold == 0):
		v.Result = Fail
	case v.N < g.MinN:
		v.Reason = fmt.Sprintf("%d of at least %d windows seen; %s", n, g.MinN, v.Reason)
	default:
		v.Result = Pass
	}
	return v
}

// success judges done over started. What is still on its way counts neither
// way for PASS; FAIL comes as soon as no outcome of it could lead to PASS.
func success(g Gate, t *tally) Verdict {
	v := newVerdict(g, ">=", int64(t.started), "devices")
	if t.started == 0 {
		v.Reason = "no device has started yet"
		return v
	}
	n := t.done + t.failures
	if n > 0 {
		x := float64(t.done) / float64(n)
		lo, hi := bounds(t.done, n, alphaOr(g.Alpha, 0.05))
		v.Value, v.Low, v.High = &x, &lo, &hi
	}
	holds := func(done, n int) bool {
		if g.Alpha > 0 {
			lo, _ := bounds(done, n, g.Alpha)
			return lo >= v.Threshold
		}
		return float64(done) >= v.Threshold*float64(n)-1e-9
	}
	says := fmt.Sprintf("%d of %d devices that ended are done, %d failed, %d on their way", t.done, n, t.failures, t.unresolved+t.away)
	best := n + t.unresolved + t.away
	switch {
	case t.failures > 0 && !holds(best-t.failures, best):
		v.Result, v.Reason = Fail, says+fmt.Sprintf("; a share of %.3g cannot be reached any more", v.Threshold)
	case n == 0:
		v.Reason = says
	case int64(n) < g.MinN:
		v.Reason = fmt.Sprintf("%s; at least %d have to end", says, g.MinN)
	case t.done > 0 && holds(t.done, n):
		v.Result, v.Reason = Pass, says
	default:
		v.Reason = fmt.Sprintf("%s; %.3g is not shown yet", says, v.Threshold)
	}
	return v
}

func alphaOr(a, def float64) float64 {
	if a > 0 {
		return a
	}
	return def
}

// MaxExpected caps the ratio of flags that a release may announce for itself:
// no announcement turns the shadow gate off.
const MaxExpected = 2

// shadow judges challenger against champion on the same windows, beside what
// the trainer expects.
func shadow(r Rollout, p Policy, g Gate, t *tally) Verdict {
	v := newVerdict(g, "<=", int64(t.evidence.Windows), "windows")
	if p.ShadowS == 0 || t.paired == 0 {
		v.Applies = false
		v.Reason = "not applicable: no device of this wave has a champion to compare with; the other gates decide"
		if p.ShadowS == 0 {
			v.Reason = "not applicable: the policy asks for no shadow; the other gates decide"
		}
		return v
	}
	expected := 1.0
	if e := r.Release.Expected; e != nil && e.FlagShareChampion > 0 && e.FlagShareChallenger > e.FlagShareChampion {
		// Expecting fewer flags does not make "as many" a harm.
		expected = min(e.FlagShareChallenger/e.FlagShareChampion, MaxExpected)
	}
	ratio := v.Threshold * expected
	m := (ratio - 1) / (ratio + 1)
	e := t.evidence
	if e.B > 0 {
		x := float64(e.A) / float64(e.B)
		v.Value = &x
	}
	v.Threshold = ratio
	v.EHarm, v.ESafe = e.eValues(m)
	limit := 1 / g.Alpha
	says := fmt.Sprintf("the challenger alone flagged %d, the champion alone %d of %d windows on %d devices; e-value for harm %.3g, for no worse than ×%.3g %.3g, needed %.0f",
		e.A, e.B, e.Items, t.paired, v.EHarm, ratio, v.ESafe, limit)
	if expected > 1 {
		says += fmt.Sprintf("; ×%.2f was expected by the trainer", expected)
	}
	if e.B == 0 && e.Windows > 0 {
		// There is no ratio to show: the evidence itself stands against what it
		// has to reach.
		x := v.ESafe
		v.Value, v.Threshold, v.Comparison, v.Unit = &x, limit, ">=", "e-value"
	}
	switch {
	case e.Windows == 0:
		v.EHarm, v.ESafe = 1, 1
		v.Reason = "no counting window has come in yet"
		if e.Missed > 0 {
			v.Reason = fmt.Sprintf("%d counting windows were missed; evidence begins anew", e.Missed)
		}
	case v.EHarm >= limit:
		v.Result, v.Reason = Fail, says
		if e.B == 0 {
			x := v.EHarm
			v.Value, v.Comparison = &x, "<"
		}
	case v.N < g.MinN:
		v.Reason = fmt.Sprintf("%d of at least %d counting windows; %s", v.N, g.MinN, says)
	case v.ESafe >= limit:
		v.Result, v.Reason = Pass, says
	default:
		v.Reason = says
	}
	return v
}
