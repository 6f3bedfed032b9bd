package scenario

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
)

// String writes the scenario in the language. What it writes is read back as
// the same scenario, without the files that it named and without comments.
func (s Scenario) String() string {
	p := &printer{}
	p.line("seed", s.Seed)
	if !s.Start.IsZero() {
		p.line("start", s.Start.UTC().Format("2006-01-02 15:04"))
	}
	for _, g := range s.Fleet {
		p.group(g, s.First)
	}
	p.line("for", span(s.For))
	for _, k := range s.Network {
		p.begin("network").word("on", k.On)
		if k.MinDelay > 0 || k.MaxDelay > 0 {
			p.add("delay", span(k.MinDelay))
			if k.MaxDelay != k.MinDelay {
				p.add("to", span(k.MaxDelay))
			}
		}
		p.number("drop", k.Drop).number("duplicate", k.Duplicate)
		if k.BitsPerS > 0 {
			p.add("speed", float(k.BitsPerS/1e3)+"kbit")
		}
		p.end()
	}
	if s.Select != "" {
		p.begin("select").add(quote(s.Select)).end()
	}
	p.rules(s.Policy)
	p.begin("release").nature(s.Release).end()
	for _, f := range s.Faults {
		p.begin("fault").add(f.Kind, "every", span(f.Every), "for", span(f.For)).word("on", f.On).end()
	}
	for _, st := range s.Steps {
		p.step(st)
	}
	for _, e := range s.Expect {
		p.begin("expect").add(e.What)
		if e.Rollout != "" {
			p.add(e.Rollout)
		}
		p.add(e.Op, quote(e.Value)).end()
	}
	return p.b.String()
}

type printer struct{ b strings.Builder }

func (p *printer) begin(verb string) *printer { p.b.WriteString(verb); return p }
func (p *printer) end()                       { p.b.WriteByte('\n') }

func (p *printer) add(words ...string) *printer {
	for _, w := range words {
		p.b.WriteByte(' ')
		p.b.WriteString(w)
	}
	return p
}

func (p *printer) line(verb string, v any) { p.begin(verb).add(fmt.Sprint(v)).end() }

// word adds a key and its word, if there is one.
func (p *printer) word(key, w string) *printer {
	if w != "" {
		p.add(key, quote(w))
	}
	return p
}

// words adds a key and words separated by |, if there are any.
func (p *printer) words(key string, w []string) *printer { return p.word(key, strings.Join(w, "|")) }

func (p *printer) number(key string, v float64) *printer {
	if v != 0 {
		p.add(key, float(v))
	}
	return p
}

func (p *printer) time(key string, s float64) *printer {
	if s != 0 {
		p.add(key, secs(s))
	}
	return p
}

func (p *printer) group(g Group, empty bool) {
	if g.Node != "" {
		p.begin("device").add(g.Site + "/" + g.Node)
	} else {
		p.begin("fleet").add(strconv.Itoa(g.Devices))
		if g.Lines > 0 {
			p.add("lines", strconv.Itoa(g.Lines))
		}
		p.word("site", g.Site)
	}
	p.word("class", string(g.Class))
	if g.Joins > 0 {
		p.add("joins", span(g.Joins))
	}
	if g.Exact {
		p.add("exact")
	}
	if l := labels(g.Labels); l != "" {
		p.add(l)
	}
	if empty {
		p.add("empty")
	}
	p.end()
}

// rules writes a policy.
func (p *printer) rules(r rollout.Policy) {
	for _, w := range r.Waves {
		p.begin("wave").add(quote(w.Name))
		if w.Devices > 0 {
			p.add("devices", strconv.Itoa(w.Devices))
		}
		p.number("share", w.Share).word("select", w.Selector)
		p.add("deadline", secs(w.DeadlineS))
		if w.Approvals > 0 {
			p.add("approvals", strconv.Itoa(w.Approvals))
			p.words("by", w.Approvers)
		}
		p.end()
	}
	if g := r.Growth; g != nil {
		p.begin("grow").add("first", strconv.Itoa(g.First)).add("factor", float(g.Factor)).number("max", g.MaxShare).add("deadline", secs(g.DeadlineS)).end()
	}
	for _, w := range r.Windows {
		p.begin("window").add(quote(w.Name)).word("select", w.Selector).word("zone", w.Zone).words("days", w.Days)
		p.word("from", w.From).word("to", w.To)
		if w.EveryDays > 0 {
			p.add("cycle", strconv.Itoa(w.EveryDays))
		}
		p.word("start", w.Start)
		var on []string
		for _, d := range w.On {
			on = append(on, strconv.Itoa(d))
		}
		p.words("on", on).words("except", w.Except).words("also", w.Also).end()
	}
	for _, g := range r.Gates {
		p.begin("gate").add(quote(string(g.Name)))
		if g.Threshold != nil {
			p.add(float(*g.Threshold))
		}
		p.number("alpha", g.Alpha)
		if g.MinN > 0 {
			p.add("min", strconv.FormatInt(g.MinN, 10))
		}
		p.word("title", g.Title)
		if g.Expr != "" {
			p.add(strconv.Quote(g.Expr))
		}
		p.end()
	}
	for _, b := range r.Budgets {
		p.begin("budget").add(quote(b.GroupBy))
		if b.MaxUnavailable > 0 {
			p.add(strconv.Itoa(b.MaxUnavailable))
		}
		p.number("share", b.MaxUnavailableShare)
		if b.MinAvailable > 0 {
			p.add("available", strconv.Itoa(b.MinAvailable))
		}
		if b.MinAvailableShare > 0 {
			p.add("available").number("share", b.MinAvailableShare)
		}
		p.end()
	}
	if len(r.Stratify) > 0 {
		p.begin("stratify").add(quote(strings.Join(r.Stratify, "|"))).end()
	}
	if r.ShadowS > 0 || r.ShadowWindowS > 0 {
		p.begin("shadow").add(secs(r.ShadowS)).time("window", r.ShadowWindowS).end()
	}
	if r.SoakS > 0 || r.MinWindows > 0 {
		p.begin("soak").add(secs(r.SoakS))
		if r.MinWindows > 0 {
			p.add("windows", strconv.FormatUint(r.MinWindows, 10))
		}
		p.end()
	}
	if r.LeaseS > 0 || r.GraceS > 0 {
		p.begin("lease").add(secs(r.LeaseS)).time("grace", r.GraceS).end()
	}
	if r.Retries > 0 || r.RetryS > 0 {
		p.begin("retries").add(strconv.Itoa(r.Retries)).time("after", r.RetryS).end()
	}
	for _, v := range []struct {
		verb string
		s    float64
	}{{"stale", r.StaleS}, {"rollback", r.RollbackS}, {"max-pause", r.MaxPauseS}} {
		if v.s != 0 {
			p.begin(v.verb).add(secs(v.s)).end()
		}
	}
}

func (p *printer) nature(n Nature) *printer {
	before := p.b.Len()
	p.number("flags", n.Flags)
	if n.LatencyMs > 0 {
		p.add("slow", span(time.Duration(math.Round(n.LatencyMs*1000))*time.Microsecond))
	}
	if n.NonFinite > 0 {
		p.add("nan-after", span(n.NonFinite))
	}
	if n.CrashAfter > 0 {
		p.add("crash-after", span(n.CrashAfter))
	}
	if n.MemoryMiB > 0 {
		p.add("memory", float(n.MemoryMiB)+"MiB")
	}
	if n.CrashAtLoad {
		p.add("crash-at-load")
	}
	if n.Unsigned {
		p.add("unsigned")
	}
	if p.b.Len() == before {
		p.add("sound")
	}
	if n.Bytes > 0 {
		p.add("size", float(n.Bytes/1e3)+"kB")
	}
	return p.word("on", n.On)
}

func (p *printer) step(st Step) {
	p.begin("at").add(span(st.At), st.Verb)
	person := func() {
		p.word("by", st.By)
		if st.Arg != "" {
			p.add(strconv.Quote(st.Arg)) // a reason is no keyword
		}
	}
	who := "all"
	if st.Who != "" {
		who = strconv.Quote(st.Who)
		if strings.Contains(st.Who, "=") {
			who = quote(st.Who)
		}
	}
	switch st.Verb {
	case "hub", "broker", "unfreeze":
		p.add(quote(st.Who))
	case "freeze":
		p.add(quote(st.Who)).word("select", st.Select)
		if st.For > 0 {
			p.add("for", span(st.For))
		}
		if st.Arg != "" {
			p.add("because", strconv.Quote(st.Arg))
		}
	case "quarantine", "lift":
		person()
	case "release":
		p.nature(*st.Nature)
	case "hold", "unhold":
		p.add(who)
	case "relabel":
		p.add(who, st.Arg)
	default:
		if slices.Contains(people, st.Verb) {
			person()
		} else {
			p.add(who, "for", span(st.For))
		}
	}
	p.end()
}

// span writes a duration without the zeros that time.Duration adds.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// secs writes seconds as a duration.
func secs(s float64) string { return span(time.Duration(math.Round(s * 1e9))) }

func float(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// quote writes a word so that it is read back as one and as no keyword.
func quote(s string) string {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./=!|,+%", c)) {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}
