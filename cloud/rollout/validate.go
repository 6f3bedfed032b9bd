package rollout

import (
	"fmt"
	"math"
	"slices"
)

func (p Policy) withDefaults() Policy {
	def := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	p.Waves = slices.Clone(p.Waves)
	for i := range p.Waves {
		def(&p.Waves[i].DeadlineS, 86400)
	}
	if len(p.Gates) == 0 {
		p.Gates = DefaultGates()
	}
	p.Gates = slices.Clone(p.Gates)
	for i := range p.Gates {
		p.Gates[i] = p.Gates[i].withDefaults()
	}
	if len(p.Stratify) == 0 {
		p.Stratify = []string{"line", "hardware", "product"}
	}
	def(&p.ShadowWindowS, 60)
	p.MinWindows = max(p.MinWindows, 1)
	def(&p.LeaseS, 600)
	def(&p.GraceS, 60)
	def(&p.StaleS, 180)
	def(&p.RetryS, 60)
	def(&p.RollbackS, 86400)
	def(&p.MaxPauseS, 604800)
	p.made = &made{}
	return p
}

// DefaultGates are the gates of a policy that names none.
func DefaultGates() []Gate {
	return []Gate{{Name: GateSuccess}, {Name: GateShadow}, {Name: GateNonFinite}, {Name: GateOutput}}
}

func (g Gate) withDefaults() Gate {
	threshold := map[GateName]float64{GateSuccess: 0.95, GateShadow: 1.5, GateDrift: 0.25, GateExpr: 1}[g.Name]
	if g.Threshold == nil {
		g.Threshold = &threshold
	}
	if g.MinN == 0 {
		g.MinN = 1
		if g.Name == GateShadow {
			g.MinN = 5
		}
	}
	if g.Name == GateShadow && g.Alpha == 0 {
		g.Alpha = 0.01
	}
	return g
}

// Validate refuses what can never work: fields that make no sense by
// themselves, and policies that could not finish on the fleet as it is. The
// devices are those the rollout's fleet selector matches.
func Validate(r Rollout, devices []Device) error {
	if err := r.Policy.Validate(); err != nil {
		return err
	}
	cannot := func(format string, args ...any) error {
		return fmt.Errorf("policy %q can never finish: %s", r.Policy.Name, fmt.Sprintf(format, args...))
	}
	if err := ValidFleet(r.Fleet); err != nil {
		return err
	}
	if len(devices) == 0 {
		return cannot("the fleet selector %q matches no device", r.Fleet)
	}
	p := r.Policy.withDefaults()
	able := slices.DeleteFunc(slices.Clone(devices), func(d Device) bool { return excluded(r, &d) != "" })
	if len(able) == 0 {
		return cannot("none of the %d devices can take %s-%d: %s", len(devices), r.Release.Name, r.Release.Counter, excluded(r, &devices[0]))
	}
	for i, w := range p.Waves {
		sel, err := readSelector(w.Selector)
		if err != nil {
			return fmt.Errorf("wave %d: %w", i+1, err)
		}
		n := 0
		for _, d := range able {
			if sel.Match(d.Look) {
				n++
			}
		}
		if n == 0 {
			why := unknown(sel, devices)
			if why == "" {
				why = "no device that it matches can take the release"
			}
			return cannot("wave %d selects %q: %s", i+1, w.Selector, why)
		}
		if w.Devices > 0 {
			n = min(n, w.Devices)
		}
		if w.Share > 0 && i == 0 {
			n = min(n, max(int(math.Ceil(w.Share*float64(len(able))-1e-9)), 1))
		}
		if w.Share > 0 && i > 0 {
			continue // how many it draws depends on the waves before
		}
		for _, g := range p.Gates {
			if g.Name != GateSuccess {
				continue
			}
			if int64(n) < g.MinN {
				return cannot("wave %d has %d devices and the success gate wants at least %d", i+1, n, g.MinN)
			}
			if lo, _ := bounds(n, n, g.Alpha); g.Alpha > 0 && lo < *g.Threshold {
				return cannot("wave %d has %d devices: even if all succeed the lower bound at %.3g is %.3f, below %.3f: draw more devices or lower the threshold", i+1, n, 1-g.Alpha, lo, *g.Threshold)
			}
		}
	}
	for _, b := range p.Budgets {
		size := map[string]int{}
		has := false
		for _, d := range devices {
			if _, ok := d.Labels[b.GroupBy]; ok {
				has = true
			}
			size[d.Labels[b.GroupBy]]++
		}
		if !has {
			return cannot("no device has the label %q that a budget groups by; there are %s", b.GroupBy, labels(devices))
		}
		for _, d := range able {
			name := d.Labels[b.GroupBy]
			if b.limit(size[name]) == 0 {
				return cannot("the budget allows no device of %s=%s to be unavailable (it has %d)", b.GroupBy, name, size[name])
			}
		}
	}
	return nil
}

func labels(devices []Device) string {
	var keys []string
	for _, d := range devices {
		for k := range d.Labels {
			keys = append(keys, k)
		}
	}
	return list(keys)
}

// Validate reports the first field that makes no sense by itself.
func (p Policy) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("policy %q: %s", p.Name, fmt.Sprintf(format, args...))
	}
	if len(p.Waves) == 0 || len(p.Waves) > 100 {
		return bad("%d waves: want 1 to 100", len(p.Waves))
	}
	for name, s := range map[string]float64{
		"shadow_s": p.ShadowS, "shadow_window_s": p.ShadowWindowS, "soak_s": p.SoakS, "lease_s": p.LeaseS, "grace_s": p.GraceS,
		"stale_s": p.StaleS, "retry_s": p.RetryS, "rollback_s": p.RollbackS, "max_pause_s": p.MaxPauseS,
	} {
		if !(s >= 0 && s <= 1e9) {
			return bad("%s is %g: want seconds from 0 to 1e9", name, s)
		}
	}
	if p.Retries < 0 || p.Retries > 100 {
		return bad("retries is %d: want 0 to 100", p.Retries)
	}
	share := 0.0
	for i, w := range p.Waves {
		switch _, err := readSelector(w.Selector); {
		case err != nil:
			return bad("wave %d: %v", i+1, err)
		case w.Devices < 0:
			return bad("wave %d: devices is %d", i+1, w.Devices)
		case w.Devices > 0 && w.Share > 0:
			return bad("wave %d: give devices or share, not both", i+1)
		case !(w.Share >= 0 && w.Share <= 1):
			return bad("wave %d: share is %g: want 0 to 1", i+1, w.Share)
		case w.Share > 0 && w.Share <= share:
			return bad("wave %d: share %g is not above %g of the waves before: it says how much of the fleet is reached by its end", i+1, w.Share, share)
		case !(w.DeadlineS >= 0 && w.DeadlineS <= 1e9):
			return bad("wave %d: deadline_s is %g: want seconds from 0 to 1e9", i+1, w.DeadlineS)
		case w.Approvals < 0:
			return bad("wave %d: approvals is %d", i+1, w.Approvals)
		}
		share = max(share, w.Share)
		full := p.withDefaults()
		if need := p.ShadowS + p.SoakS; need >= full.Waves[i].DeadlineS {
			return bad("wave %d: shadow and soak take %g s and its deadline is %g s: it can never pass", i+1, need, full.Waves[i].DeadlineS)
		}
	}
	var seen []GateName
	for _, g := range p.Gates {
		switch {
		case !slices.Contains([]GateName{GateSuccess, GateShadow, GateNonFinite, GateLatency, GateOutput}, g.Name):
			return bad("unknown gate %q: there are %s, %s, %s, %s, %s", g.Name, GateSuccess, GateShadow, GateNonFinite, GateLatency, GateOutput)
		case slices.Contains(seen, g.Name):
			return bad("gate %s is named twice", g.Name)
		case !(g.Alpha >= 0 && g.Alpha < 1):
			return bad("gate %s: alpha is %g: want 0 to below 1", g.Name, g.Alpha)
		case g.MinN < 0:
			return bad("gate %s: min_n is %d", g.Name, g.MinN)
		case g.Name == GateLatency && g.Threshold == nil:
			return bad("gate %s: give a threshold in ms", g.Name)
		case g.Name == GateShadow && g.Threshold != nil && !(*g.Threshold > 1 && *g.Threshold <= 10):
			return bad("gate %s: threshold is %g: want a ratio above 1 and at most 10, as exactly as often can never be shown", g.Name, *g.Threshold)
		case g.Threshold != nil && !(*g.Threshold >= 0) || (g.Name == GateSuccess || g.Name == GateNonFinite || g.Name == GateOutput) && g.Threshold != nil && *g.Threshold > 1:
			return bad("gate %s: threshold is %g: want a share from 0 to 1", g.Name, *g.Threshold)
		}
		seen = append(seen, g.Name)
	}
	if len(p.Gates) > 0 && !slices.Contains(seen, GateSuccess) {
		return bad("name the gate %s: without it nothing counts failures", GateSuccess)
	}
	for i, b := range p.Budgets {
		switch {
		case b.GroupBy == "":
			return bad("budget %d: group_by is empty", i+1)
		case b.MaxUnavailable == 0 && b.MaxUnavailableShare == 0 && b.MinAvailable == 0 && b.MinAvailableShare == 0:
			return bad("budget %d: it allows 0 devices to be unavailable: set one of max_unavailable, max_unavailable_share, min_available, min_available_share", i+1)
		case b.MaxUnavailable < 0 || b.MinAvailable < 0 || !(b.MaxUnavailableShare >= 0 && b.MaxUnavailableShare <= 1) || !(b.MinAvailableShare >= 0 && b.MinAvailableShare < 1):
			return bad("budget %d: counts are not negative and shares lie between 0 and 1", i+1)
		}
	}
	return nil
}
