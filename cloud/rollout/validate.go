package rollout

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout/expr"
	"github.com/swellfleet/swell/protocol/artifact"
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
	if all := refusals(r, devices); len(all) > 0 {
		return all[0]
	}
	return nil
}

// refusals returns all that Validate has against a rollout. What a policy says
// wrong by itself hides the rest.
func refusals(r Rollout, devices []Device) (all []error) {
	if err := errors.Join(r.Policy.Validate(), ValidFleet(r.Fleet)); err != nil {
		return []error{err}
	}
	cannot := func(format string, args ...any) {
		all = append(all, fmt.Errorf("policy %q can never finish: %s", r.Policy.Name, fmt.Sprintf(format, args...)))
	}
	if len(devices) == 0 {
		cannot("the fleet selector %q matches no device", r.Fleet)
		return all
	}
	p := r.Policy.withDefaults()
	able := slices.DeleteFunc(slices.Clone(devices), func(d Device) bool { return excluded(r, &d) != "" })
	if len(able) == 0 {
		cannot("none of the %d devices can take %s-%d: %s", len(devices), r.Release.Name, r.Release.Counter, excluded(r, &devices[0]))
		return all
	}
	for i, w := range p.Waves {
		why := p.waveNever(i, w, devices, able)
		if why == "" {
			why = r.approversNever(p, w)
		}
		if why == "" {
			why = r.tooLong(p, i, devices, able)
		}
		if why != "" {
			cannot("wave %d %s", i+1, why)
		}
	}
	for _, b := range p.Budgets {
		if why := b.never(devices, able); why != "" {
			cannot("%s", why)
		}
	}
	for _, g := range p.Gates {
		if g.Name == GateDrift && r.Release.Kind == artifact.Firmware {
			cannot("the gate %s looks at a model's scores, and %s-%d is firmware", g.Name, r.Release.Name, r.Release.Counter)
		}
	}
	if why := p.windowsNever(r, devices, able); why != "" {
		cannot("%s", why)
	}
	return all
}

// waveNever says why a wave could draw nobody, or too few for its gates.
func (p Policy) waveNever(i int, w Wave, devices, able []Device) string {
	sel, err := readSelector(w.Selector)
	if err != nil {
		return fmt.Sprintf("cannot be read: %v", err)
	}
	n := 0
	for k := range able {
		if sel.Match(able[k].Look) {
			n++
		}
	}
	if n == 0 {
		why := unknown(sel, devices)
		if why == "" {
			why = "no device that it matches can take the release"
		}
		return fmt.Sprintf("selects %q: %s", w.Selector, why)
	}
	if w.Devices > 0 {
		n = min(n, w.Devices)
	}
	if w.Share > 0 && i == 0 {
		n = min(n, max(int(math.Ceil(w.Share*float64(len(able))-1e-9)), 1))
	}
	if w.Share > 0 && i > 0 {
		return "" // how many it draws depends on the waves before
	}
	for _, g := range p.Gates {
		switch lo, _ := bounds(n, n, g.Alpha); {
		case (g.Name == GateSuccess || g.Name == GateLatency || g.Name == GateMemory || g.Name == GateDrift || g.Name == GateExpr) && int64(n) < g.MinN:
			return fmt.Sprintf("has %d devices and the %s gate wants at least %d", n, g.Name, g.MinN)
		case g.Name == GateSuccess && g.Alpha > 0 && lo < *g.Threshold:
			return fmt.Sprintf("has %d devices: even if all succeed the lower bound at %.3g is %.3f, below %.3f: draw more devices or lower the threshold", n, 1-g.Alpha, lo, *g.Threshold)
		}
	}
	return ""
}

// tooLong says why a wave that draws all that are left could not pass by its
// deadline though everything went well: a group's budget lets so few devices
// soak at once.
func (r Rollout) tooLong(p Policy, i int, devices, able []Device) string {
	w := p.Waves[i]
	if w.Devices > 0 || w.Share > 0 {
		return "" // who is drawn is not known
	}
	before := 0 // at most so many are drawn by the waves before
	for _, b := range p.Waves[:i] {
		if b.Devices == 0 {
			return ""
		}
		before += b.Devices
	}
	sel, err := readSelector(w.Selector)
	if err != nil {
		return ""
	}
	for _, b := range p.Budgets {
		size, mine := map[string]int{}, map[string]int{}
		for k := range devices {
			size[devices[k].Labels[b.GroupBy]]++
		}
		for k := range able {
			if d := &able[k]; d.Champion.Manifest != r.Release.Manifest && sel.Match(d.Look) { // who runs it already does not soak
				mine[able[k].Labels[b.GroupBy]]++
			}
		}
		for _, name := range slices.Sorted(maps.Keys(mine)) {
			n, limit := mine[name]-before, b.limit(size[name])
			if n <= 0 || limit == 0 {
				continue
			}
			rounds := (n-1)/limit + 1
			if least := p.ShadowS + float64(rounds)*p.SoakS; least >= w.DeadlineS {
				return fmt.Sprintf("takes %g s at least, and its deadline is %g s: of %d devices of %s=%s the budget lets %d soak at once, for %g s each", least, w.DeadlineS, n, b.GroupBy, name, limit, p.SoakS)
			}
		}
	}
	return ""
}

// approversNever says why a wave will never get the consent it needs.
func (r Rollout) approversNever(p Policy, w Wave) string {
	need, what := w.Approvals, "to begin"
	for _, g := range p.Gates {
		if g.Name == GateApproval && int(g.MinN) > need {
			need, what = int(g.MinN), "to pass"
		}
	}
	if need == 0 || len(w.Approvers) == 0 {
		return ""
	}
	var may []string
	for _, a := range w.Approvers {
		if name := person(a); name != person(r.Author) && !slices.Contains(may, name) {
			may = append(may, name)
		}
	}
	switch {
	case len(may) == 0:
		return fmt.Sprintf("needs %d people %s and its only approver is %s, who proposes the rollout", need, what, person(r.Author))
	case len(may) < need:
		return fmt.Sprintf("needs %d people %s and %d may approve it beside the author: %s", need, what, len(may), strings.Join(may, ", "))
	}
	return ""
}

// never says why a budget would let nobody activate.
func (b Budget) never(devices, able []Device) string {
	size := map[string]int{}
	has := false
	for _, d := range devices {
		if _, ok := d.Labels[b.GroupBy]; ok {
			has = true
		}
		size[d.Labels[b.GroupBy]]++
	}
	if !has {
		return fmt.Sprintf("no device has the label %q that a budget groups by; there are %s", b.GroupBy, labels(devices))
	}
	for _, d := range able {
		name := d.Labels[b.GroupBy]
		n := size[name]
		switch {
		case b.MinAvailable >= n:
			return fmt.Sprintf("the budget wants %d available devices of %s=%s, which has %d: none may ever be unavailable", b.MinAvailable, b.GroupBy, name, n)
		case b.limit(n) == 0:
			return fmt.Sprintf("the budget allows no device of %s=%s to be unavailable (it has %d)", b.GroupBy, name, n)
		}
	}
	return ""
}

// windowsNever says why devices would wait for a window for ever, or for longer
// than the first wave lasts.
func (p Policy) windowsNever(r Rollout, devices, able []Device) string {
	for i, w := range p.Windows {
		sel, err := readSelector(w.Selector)
		if err != nil {
			return fmt.Sprintf("window %q cannot be read: %v", w.Name, err)
		}
		if !slices.ContainsFunc(devices, func(d Device) bool { return sel.Match(d.Look) }) {
			why := unknown(sel, devices)
			if why == "" {
				why = "no device matches all of it"
			}
			return fmt.Sprintf("window %d (%s) selects %q: %s", i+1, w.Name, w.Selector, why)
		}
	}
	if len(p.Windows) == 0 {
		return ""
	}
	first, err := readSelector(p.Waves[0].Selector)
	if err != nil {
		return ""
	}
	patience := seconds(p.Waves[0].DeadlineS - p.SoakS)
	if p.Waves[0].Approvals > 0 {
		patience += seconds(p.Waves[0].DeadlineS)
	}
	var soonest time.Time // at which a device that the first wave may draw may activate
	known := map[string]time.Time{}
	for k := range able {
		d := &able[k]
		for _, w := range p.Windows {
			if sel, _ := readSelector(w.Selector); sel.Match(d.Look) {
				if _, err := w.calendar(w.zone(d)); err != nil {
					return fmt.Sprintf("window %q for %s: %v: give the window a zone, or the device a right label %q", w.Name, d.ID, err, "zone")
				}
			}
		}
		names := p.windowNames(d)
		if len(names) == 0 {
			return fmt.Sprintf("no window is for %s, so that it may never activate: add one whose selector matches it", d.ID)
		}
		key := strings.Join(names, "\x00") + "\x00" + d.Labels["zone"]
		at, ok := known[key]
		if !ok {
			var opens bool
			if at, opens = p.opensFrom(d, r.Created); at.IsZero() {
				if opens {
					return fmt.Sprintf("the windows of %s (%s) are never open for as long as a lease, which takes %g s", d.ID, strings.Join(names, ", "), p.LeaseS)
				}
				return fmt.Sprintf("the windows of %s (%s) do not open within a year", d.ID, strings.Join(names, ", "))
			}
			known[key] = at
		}
		if first.Match(d.Look) && (soonest.IsZero() || at.Before(soonest)) {
			soonest = at
		}
	}
	if last := r.Created.Add(patience); !soonest.IsZero() && soonest.After(last) {
		return fmt.Sprintf("no device of wave 1 may activate before %s, and its deadline leaves time until %s", clock(soonest), clock(last))
	}
	return ""
}

// opensFrom returns the first moment from t on at which a device may be given a
// lease, zero when there is none within 400 days; opens says whether its
// windows open at all in that time. p has its defaults.
func (p Policy) opensFrom(d *Device, t time.Time) (at time.Time, opens bool) {
	for end := t.AddDate(0, 0, 400); t.Before(end); {
		ok, _, change := p.open(d, t)
		if ok {
			return t, true
		}
		if p.stays(d, t, end) != t {
			opens = true
		}
		if change.IsZero() {
			break
		}
		t = change
	}
	return time.Time{}, opens
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
	if len(p.Waves) == 0 && p.Growth == nil || len(p.Waves) > maxWaves {
		return bad("%d waves: want 1 to %d", len(p.Waves), maxWaves)
	}
	if p.Growth != nil {
		if err := p.Growth.validate(); err != nil {
			return bad("%v", err)
		}
		if len(p.Waves) > maxWaves/2 {
			return bad("%d waves leave growth no room: want at most %d", len(p.Waves), maxWaves/2)
		}
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
		case slices.Contains(w.Approvers, "") || len(w.Approvers) > maxApprovers:
			return bad("wave %d: approvers: want at most %d names, and none of them empty", i+1, maxApprovers)
		case len(w.Approvers) > 0 && len(w.Approvers) < w.Approvals:
			return bad("wave %d: it needs %d approvals and names %d approvers: %s", i+1, w.Approvals, len(w.Approvers), strings.Join(w.Approvers, ", "))
		}
		share = max(share, w.Share)
		full := p.withDefaults()
		if need := p.ShadowS + p.SoakS; need >= full.Waves[i].DeadlineS {
			return bad("wave %d: shadow and soak take %g s and its deadline is %g s: it can never pass", i+1, need, full.Waves[i].DeadlineS)
		}
	}
	if err := p.validateGates(); err != nil {
		return bad("%v", err)
	}
	if err := p.validateWindows(); err != nil {
		return bad("%v", err)
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

const (
	maxApprovers = 100
	maxWindows   = 100
	maxGates     = 32
)

// gateNames are all of them, in the order in which people are told.
var gateNames = []GateName{GateSuccess, GateShadow, GateNonFinite, GateLatency, GateOutput, GateMemory, GateDrift, GateExpr, GateApproval}

// validateGates reports the first gate that makes no sense.
func (p Policy) validateGates() error {
	if len(p.Gates) > maxGates {
		return fmt.Errorf("%d gates: want at most %d", len(p.Gates), maxGates)
	}
	seen := map[string]bool{}
	for _, g := range p.Gates {
		if err := g.validate(); err != nil {
			return err
		}
		key := string(g.Name) + " " + g.Title
		switch {
		case seen[key] && g.Name == GateExpr:
			return fmt.Errorf("two gates %s have the title %q: tell them apart by their titles", g.Name, g.Title)
		case seen[key]:
			return fmt.Errorf("gate %s is named twice", g.Name)
		}
		seen[key] = true
		if g.Name == GateExpr && p.ShadowS == 0 {
			run, err := expr.Compile(g.Expr)
			if err == nil && slices.ContainsFunc(run.Names(), func(n string) bool { return strings.HasPrefix(n, "shadow.") }) {
				return fmt.Errorf("gate %s: %q looks at the shadow and the policy asks for none: set shadow_s", g.Name, g.Expr)
			}
		}
	}
	if len(p.Gates) > 0 && !seen[string(GateSuccess)+" "] {
		return fmt.Errorf("name the gate %s: without it nothing counts failures", GateSuccess)
	}
	return nil
}

// validate says what a gate has wrong by itself.
func (g Gate) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("gate %s: %s", g.Name, fmt.Sprintf(format, args...))
	}
	share := g.Name == GateSuccess || g.Name == GateNonFinite || g.Name == GateOutput
	switch {
	case !slices.Contains(gateNames, g.Name):
		var names []string
		for _, n := range gateNames {
			names = append(names, string(n))
		}
		return fmt.Errorf("unknown gate %q: there are %s", g.Name, strings.Join(names, ", "))
	case !(g.Alpha >= 0 && g.Alpha < 1):
		return bad("alpha is %g: want 0 to below 1", g.Alpha)
	case g.MinN < 0:
		return bad("min_n is %d", g.MinN)
	case g.Name == GateLatency && g.Threshold == nil:
		return bad("give a threshold in ms")
	case g.Name == GateMemory && g.Threshold == nil:
		return bad("give a threshold in MiB: how much more memory a device may use than before")
	case (g.Name == GateExpr || g.Name == GateApproval) && g.Threshold != nil:
		return bad("it has no threshold")
	case g.Name == GateApproval && g.MinN > maxApprovers:
		return bad("min_n is %d people: want at most %d", g.MinN, maxApprovers)
	case g.Name != GateExpr && (g.Expr != "" || g.Title != ""):
		return bad("expr and title belong to the gate %s", GateExpr)
	case g.Name == GateShadow && g.Threshold != nil && !(*g.Threshold > 1 && *g.Threshold <= 10):
		return bad("threshold is %g: want a ratio above 1 and at most 10, as exactly as often can never be shown", *g.Threshold)
	case share && g.Threshold != nil && !(*g.Threshold >= 0 && *g.Threshold <= 1):
		return bad("threshold is %g: want a share from 0 to 1", *g.Threshold)
	case g.Threshold != nil && !(*g.Threshold >= 0 && *g.Threshold <= 1e12):
		return bad("threshold is %g: want a number from 0 to 1e12", *g.Threshold)
	}
	if g.Name == GateExpr {
		if _, err := expr.Compile(g.Expr); err != nil {
			return bad("%v", err)
		}
	}
	return nil
}

// validateWindows reports the first window that cannot be read.
func (p Policy) validateWindows() error {
	if len(p.Windows) > maxWindows {
		return fmt.Errorf("%d windows: want at most %d", len(p.Windows), maxWindows)
	}
	names := map[string]bool{}
	for i, w := range p.Windows {
		switch {
		case w.Name == "":
			return fmt.Errorf("window %d has no name", i+1)
		case names[w.Name]:
			return fmt.Errorf("two windows are named %q", w.Name)
		}
		names[w.Name] = true
		if _, err := readSelector(w.Selector); err != nil {
			return fmt.Errorf("window %q: %w", w.Name, err)
		}
		if _, err := w.calendar(w.Zone); err != nil {
			return fmt.Errorf("window %q: %w", w.Name, err)
		}
	}
	return nil
}
