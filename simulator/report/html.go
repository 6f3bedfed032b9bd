package report

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/scenario"
)

// Bounds of what one report shows; what is left out is said.
const (
	maxRows   = 300 // decisions
	maxGroups = 12  // charts of groups
	maxPoints = 600 // of a curve
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Parse(page))

// Run is one run with what it was made from.
type Run struct {
	scenario.Result
	Story  scenario.Scenario
	Text   string // as the person wrote it
	Budget *rollout.Budget
}

// HTML writes one page that needs nothing else: no request, no script. Runs are
// shown in their order.
func HTML(w io.Writer, runs []Run) error {
	views := make([]view, len(runs))
	for i, r := range runs {
		if b := r.Story.Policy.Budgets; len(b) > 0 {
			r.Budget = &b[0]
		}
		views[i] = r.view(i)
	}
	return pageTemplate.Execute(w, views)
}

// view is what the page shows of a run.
type view struct {
	ID         string
	Name       string
	Seed       uint64
	OK         bool
	State      string
	Reason     string
	Facts      []fact
	Violations []scenarioViolation
	Unmet      []string
	States     template.HTML
	Legend     []legend
	Groups     []figure
	GroupsNote string
	Gates      []figure
	Quiet      []string // gates that saw nothing but 0 where only 0 is allowed
	Decisions  []row
	Note       string // about decisions left out
	Text       string
}

type fact struct{ Name, Value, Hint string }

type scenarioViolation struct{ At, What string }

type legend struct {
	Class, Name string
	Last, Most  int
}

type figure struct {
	Title, Note string
	Bad         bool
	SVG         template.HTML
}

type row struct {
	At, Actor, State, Summary string
	Reasons                   []string
	Gates                     []gateCell
	Changes                   string
}

type gateCell struct{ Name, Result, Why string }

func (r Run) view(i int) view {
	ro := r.Rollout
	v := view{
		ID: fmt.Sprintf("run-%d", i+1), Name: r.Scenario, Seed: r.Seed, OK: r.OK(), State: string(ro.State), Reason: ro.Reason, Unmet: r.Unmet, Text: r.Text,
	}
	if why := r.Refused["r-2"]; why != "" {
		v.State, v.Reason = "refused", why
	}
	for _, x := range r.Violations {
		v.Violations = append(v.Violations, scenarioViolation{clockS(x.At), x.What})
	}
	took := "–"
	if !ro.Ended.IsZero() {
		took = span(ro.Ended.Sub(ro.Started))
	}
	v.Facts = []fact{
		{"devices", fmt.Sprint(r.Devices), ""},
		{"run it at the end", fmt.Sprint(r.Running), "devices on which the release acts at the end"},
		{"ever tried it", fmt.Sprint(r.Tried), "devices on which the release ever acted"},
		{"harmed", fmt.Sprintf("%d (%s)", r.Harmed, Percent(r.Harmed, r.Devices)), "devices on which it acted and was unsound"},
		{"harm", span(r.Harm), "the sum of the time in which it acted and was unsound"},
		{"rollout took", took, "from its start to its end"},
	}
	if !ro.RollbackFrom.IsZero() {
		v.Facts = append(v.Facts, fact{"stopped after", span(ro.RollbackFrom.Sub(ro.Started)), "from its start to the decision to go back"})
	}
	v.Facts = append(v.Facts, fact{"decisions", fmt.Sprint(r.Decisions), ""}, fact{"messages", fmt.Sprintf("%d, %d lost", r.Sent, r.Lost), ""}, fact{"virtual time", span(r.Virtual), "until everything was at rest"})
	points := thin(r.Series)
	if len(points) > 1 {
		v.States, v.Legend = r.states(points)
		v.Groups, v.GroupsNote = r.groups(points)
	}
	v.Gates, v.Quiet = r.gates()
	v.Decisions, v.Note = r.decisions()
	return v
}

// thin keeps every n-th point, and the last.
func thin(p []scenario.Point) []scenario.Point {
	n := (len(p) + maxPoints - 1) / maxPoints
	if n <= 1 {
		return p
	}
	var out []scenario.Point
	for i := 0; i < len(p); i += n {
		out = append(out, p[i])
	}
	if last := p[len(p)-1]; out[len(out)-1].At != last.At {
		out = append(out, last)
	}
	return out
}

// order is how states lie over each other: what is settled below.
var order = []rollout.DeviceState{
	rollout.DeviceDone, rollout.DeviceKept, rollout.DeviceSoaking, rollout.DeviceShadow, rollout.DeviceUpdating, rollout.DeviceFailed, rollout.DeviceRolledBack,
	rollout.DeviceSilent, rollout.DeviceReturned, rollout.DeviceUnreachable, rollout.DevicePending, rollout.DeviceExcluded,
}

// states draws devices per state, stacked.
func (r Run) states(p []scenario.Point) (template.HTML, []legend) {
	c := newChart(960, 280, 0, p[len(p)-1].At, 0, float64(max(r.Devices, 1)))
	below := make([]float64, len(p))
	var legends []legend
	for _, s := range order {
		l := legend{Class: "s-" + string(s), Name: string(s)}
		above := make([]float64, len(p))
		for i, pt := range p {
			n := pt.States[string(s)]
			above[i] = below[i] + float64(n)
			l.Most = max(l.Most, n)
			l.Last = n
		}
		if l.Most == 0 {
			continue
		}
		legends = append(legends, l)
		var b strings.Builder
		for i, pt := range p {
			if i == 0 {
				fmt.Fprintf(&b, "M%.1f %.1f", c.x(pt.At), c.y(above[i]))
				continue
			}
			fmt.Fprintf(&b, "H%.1fV%.1f", c.x(pt.At), c.y(above[i]))
		}
		for i := len(p) - 1; i >= 0; i-- {
			if i == len(p)-1 {
				fmt.Fprintf(&b, "V%.1f", c.y(below[i]))
				continue
			}
			fmt.Fprintf(&b, "V%.1fH%.1f", c.y(below[i]), c.x(p[i].At))
		}
		c.add(`<path class="area %s" d="%sZ"><title>%s</title></path>`, l.Class, b.String(), s)
		below = above
	}
	c.axes()
	r.marks(c, true)
	return template.HTML(c.svg("devices per state over time")), legends
}

// marks shows when waves began and when the rollout turned round or ended.
func (r Run) marks(c *chart, words bool) {
	begin := r.Story.Begin()
	n := 0
	mark := func(at time.Time, word string) {
		if at.IsZero() {
			return
		}
		if !words {
			word = ""
		}
		c.mark(at.Sub(begin), word, n)
		n++
	}
	for i, w := range r.Rollout.Waves {
		name := fmt.Sprint(i + 1)
		if i < len(r.Rollout.Policy.Waves) && r.Rollout.Policy.Waves[i].Name != "" {
			name = r.Rollout.Policy.Waves[i].Name
		}
		mark(w.Started, "wave "+name)
	}
	mark(r.Rollout.RollbackFrom, "goes back")
	mark(r.Rollout.Ended, string(r.Rollout.State))
}

// groups draws how many devices of each group are available, and how many must
// be; the tightest groups first.
func (r Run) groups(p []scenario.Point) ([]figure, string) {
	by := "line"
	if r.Budget != nil {
		by = r.Budget.GroupBy
	}
	sizes := r.Story.Sizes(by)
	type group struct {
		name                string
		size, floor, lowest int
	}
	var list []group
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		g := group{name: name, size: sizes[name], lowest: sizes[name]}
		if r.Budget != nil {
			g.floor = g.size - allowed(*r.Budget, g.size)
		}
		for i, pt := range p {
			if i > 0 { // the devices are switched on in the first minutes
				g.lowest = min(g.lowest, pt.Available[name])
			}
		}
		list = append(list, g)
	}
	slices.SortStableFunc(list, func(a, b group) int { return cmp.Compare(a.lowest-a.floor, b.lowest-b.floor) })
	note := ""
	if len(list) > maxGroups {
		note = fmt.Sprintf("The %d tightest of %d groups.", maxGroups, len(list))
		list = list[:maxGroups]
	}
	slices.SortFunc(list, func(a, b group) int { return strings.Compare(a.name, b.name) })
	var out []figure
	for _, g := range list {
		c := newChart(470, 150, 0, p[len(p)-1].At, 0, float64(g.size))
		c.axes()
		r.marks(c, false)
		at, v := make([]time.Duration, len(p)), make([]float64, len(p))
		for i, pt := range p {
			at[i], v[i] = pt.At, float64(pt.Available[g.name])
		}
		if r.Budget != nil {
			c.level("limit", float64(g.floor), fmt.Sprintf("budget: at least %d", g.floor))
		}
		c.line("curve", true, at, v)
		f := figure{Title: fmt.Sprintf("%s=%s", by, g.name), SVG: template.HTML(c.svg("available devices of " + g.name))}
		f.Note = fmt.Sprintf("%d devices, at worst %d available", g.size, g.lowest)
		out = append(out, f)
	}
	return out, note
}

// allowed is how many of size devices the budget lets be unavailable.
func allowed(b rollout.Budget, size int) int {
	n := float64(size)
	if b.MaxUnavailable > 0 {
		n = min(n, float64(b.MaxUnavailable))
	}
	if b.MaxUnavailableShare > 0 {
		n = min(n, math.Floor(b.MaxUnavailableShare*float64(size)+1e-9))
	}
	n = min(n, float64(size-b.MinAvailable), float64(size)-math.Ceil(b.MinAvailableShare*float64(size)-1e-9))
	return max(int(n), 0)
}

// gates draws what each gate saw in each wave: the shadow gate's e-values on a
// logarithmic scale, the others' values beside their thresholds.
func (r Run) gates() (out []figure, quiet []string) {
	type key struct {
		wave int
		gate rollout.GateName
	}
	var keys []key
	points := map[key][]scenario.GatePoint{}
	for _, g := range r.Gates {
		if g.Rollout != r.Rollout.Name || g.Wave >= len(r.Rollout.Policy.Waves) {
			continue // of another rollout, or after the last wave
		}
		k := key{g.Wave, g.Gate}
		if points[k] == nil {
			keys = append(keys, k)
		}
		points[k] = append(points[k], g)
	}
	for _, k := range keys {
		ps := points[k]
		if n := (len(ps) + maxPoints - 1) / maxPoints; n > 1 {
			var some []scenario.GatePoint
			for i := 0; i < len(ps); i += n {
				some = append(some, ps[i])
			}
			ps = append(some, ps[len(ps)-1])
		}
		last := ps[len(ps)-1]
		wave := cmp.Or(r.Rollout.Policy.Waves[k.wave].Name, fmt.Sprint(k.wave+1))
		if last.Threshold == 0 && !slices.ContainsFunc(ps, func(p scenario.GatePoint) bool { return p.Value != 0 }) {
			quiet = append(quiet, fmt.Sprintf("%s gate, wave %s: %s, 0 all the time, as it must be.", k.gate, wave, last.Result))
			continue
		}
		f := figure{Title: fmt.Sprintf("%s gate, wave %s", k.gate, wave), Bad: last.Result == rollout.Fail}
		at := make([]time.Duration, len(ps))
		for i, p := range ps {
			at[i] = p.At
		}
		pad := max((at[len(at)-1]-at[0])/30, time.Minute)
		if k.gate == rollout.GateShadow {
			f.SVG = template.HTML(eValues(ps, at, pad, 1/r.alpha()))
			f.Note = fmt.Sprintf("%s: e-values for harm %s and for no worse than ×%s %s", last.Result, short(last.EHarm), short(last.Threshold), short(last.ESafe))
		} else {
			high := last.Threshold
			v := make([]float64, len(ps))
			for i, p := range ps {
				v[i] = p.Value
				high = max(high, p.Value)
			}
			c := newChart(470, 150, at[0]-pad, at[len(at)-1]+pad, 0, headroom(high))
			c.axes()
			c.level("limit", last.Threshold, "threshold "+short(last.Threshold))
			c.line("curve", true, at, v)
			c.dots(ps, at, v)
			f.SVG = template.HTML(c.svg(f.Title))
			f.Note = fmt.Sprintf("%s at %s", last.Result, short(last.Value))
		}
		out = append(out, f)
	}
	return out, quiet
}

func headroom(v float64) float64 {
	if v <= 0 {
		return 1
	}
	return v * 1.15
}

// alpha is the shadow gate's.
func (r Run) alpha() float64 {
	for _, g := range r.Story.Policy.Gates {
		if g.Name == rollout.GateShadow && g.Alpha > 0 {
			return g.Alpha
		}
	}
	return 0.01
}

// dots marks verdicts where they change.
func (c *chart) dots(ps []scenario.GatePoint, at []time.Duration, v []float64) {
	for i, p := range ps {
		if i > 0 && i < len(ps)-1 && ps[i-1].Result == p.Result {
			continue
		}
		c.add(`<circle class="v-%s" r="4" cx="%.1f" cy="%.1f"><title>%s %s at %s</title></circle>`, strings.ToLower(string(p.Result)), c.x(at[i]), c.y(v[i]), clock(at[i]), p.Result, short(v[i]))
	}
}

// eValues draws both e-values beside the limit.
func eValues(ps []scenario.GatePoint, at []time.Duration, pad time.Duration, limit float64) string {
	const floor = 1e-4
	high := limit * 10
	harm, safe := make([]float64, len(ps)), make([]float64, len(ps))
	for i, p := range ps {
		harm[i], safe[i] = max(p.EHarm, floor), max(p.ESafe, floor)
		high = max(high, harm[i], safe[i])
	}
	c := newChart(470, 150, at[0]-pad, at[len(at)-1]+pad, floor, min(high*2, 1e12))
	c.log = true
	c.axes()
	c.level("limit", limit, "1/α = "+short(limit))
	c.line("curve e-safe", true, at, safe)
	c.line("curve e-harm", true, at, harm)
	c.dots(ps, at, largest(harm, safe))
	return c.svg("e-values of the shadow gate")
}

func largest(a, b []float64) []float64 {
	out := slices.Clone(a)
	for i := range out {
		out[i] = max(out[i], b[i])
	}
	return out
}

// decisions lists what was decided and why. Decisions that only renew the
// numbers of the one before are left out, then those in the middle.
func (r Run) decisions() ([]row, string) {
	begin := r.Story.Begin()
	var rows []row
	quiet, before := 0, ""
	for _, d := range r.History {
		dec := d.Decision
		quiet += d.Coalesced
		x := row{At: clockS(d.At.Sub(begin)), Actor: d.Actor, State: string(dec.Rollout.State), Summary: dec.Summary, Reasons: dec.Reasons}
		said := fmt.Sprint(x.State, dec.Rollout.Wave, x.Actor)
		for _, g := range dec.Gates {
			x.Gates = append(x.Gates, gateCell{string(g.Gate), strings.ToLower(string(g.Result)), g.Reason})
			said += string(g.Result)
		}
		if said == before && len(dec.Changes) == 0 {
			quiet++
			continue
		}
		before = said
		count := map[rollout.ChangeKind]int{}
		for _, ch := range dec.Changes {
			count[ch.Kind]++
		}
		var words []string
		for _, k := range slices.Sorted(maps.Keys(count)) {
			words = append(words, fmt.Sprintf("%d %s", count[k], k))
		}
		x.Changes = strings.Join(words, ", ")
		rows = append(rows, x)
	}
	note := ""
	if quiet > 0 {
		note = fmt.Sprintf("%d decisions that only renewed the numbers of the one before are left out. ", quiet)
	}
	if over := len(rows) - maxRows; over > 0 {
		note += fmt.Sprintf("%d in the middle are left out.", over)
		rows = slices.Concat(rows[:maxRows/2], rows[len(rows)-maxRows/2:])
	}
	return rows, note
}

// Percent writes n of all.
func Percent(n, all int) string {
	p := 100 * float64(n) / float64(max(all, 1))
	switch {
	case p == 0 || p >= 10:
		return fmt.Sprintf("%.0f %%", p)
	case p >= 1:
		return fmt.Sprintf("%.1f %%", p)
	}
	return fmt.Sprintf("%.2g %%", p)
}

// span writes a duration for people.
func span(d time.Duration) string {
	switch {
	case d <= 0:
		return "0 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%.1f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}

// clockS writes a moment of the run to the second.
func clockS(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}
