package scenario

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
)

// people are what a person may ask of the rollout.
var people = []string{string(rollout.Pause), string(rollout.Resume), string(rollout.Promote), string(rollout.Approve), string(rollout.Abort), string(rollout.Undo)}

// verbs are the steps of a scenario beside people's requests and Kinds.
var verbs = []string{"partition", "hub", "broker", "hold", "unhold", "relabel", "freeze", "unfreeze", "quarantine", "lift", "release"}

// at reads a step: at 40m partition line=L2 for 4m.
func (s *Scenario) at(_ Files, l *reader) error {
	st := Step{At: l.span(), Verb: l.next()}
	switch {
	case slices.Contains(people, st.Verb):
		if l.has("by") {
			st.By = l.name("who asks")
		}
		st.Arg = l.rest()
	case Kinds[st.Verb] != "" || st.Verb == "partition":
		st.Who, st.For = l.who(), time.Minute
		if l.has("for") {
			st.For = l.span()
		}
	case st.Verb == "hub":
		if st.Who = l.next(); st.Who != "crash" && st.Who != "takeover" {
			return errors.New("a hub can crash, and the other one can take over: at 10m hub crash, at 10m hub takeover")
		}
	case st.Verb == "broker":
		if st.Who = l.next(); st.Who != "restart" {
			return errors.New("a broker can restart: at 10m broker restart")
		}
	case st.Verb == "freeze":
		st.Who = l.name("the freeze's name")
		if l.has("select") {
			st.Select = l.selector()
		}
		if l.has("for") {
			st.For = l.span()
		}
		if l.has("because") {
			st.Arg = l.rest()
		}
	case st.Verb == "unfreeze":
		st.Who = l.name("the freeze's name")
	case st.Verb == "quarantine" || st.Verb == "lift":
		if l.has("by") {
			st.By = l.name("who asks")
		}
		st.Arg = l.rest()
	case st.Verb == "hold" || st.Verb == "unhold":
		st.Who = l.who()
	case st.Verb == "relabel":
		st.Who = l.who()
		var m map[string]string
		for l.more() && l.label(&m) {
		}
		if len(m) == 0 && l.err == nil {
			return errors.New("say the new labels: at 10m relabel hall-1/pump-00001 line=L2")
		}
		st.Arg = labels(m)
	case st.Verb == "release":
		st.Nature = &Nature{}
		if err := st.Nature.read(l); err != nil {
			return err
		}
	default:
		known := slices.Concat(people, slices.Collect(maps.Keys(Kinds)), verbs)
		slices.Sort(known)
		return fmt.Errorf("unknown step %q: there are %s", st.Verb, strings.Join(known, ", "))
	}
	s.Steps = append(s.Steps, st)
	return nil
}

// who reads a device's name, a selector, or all.
func (l *reader) who() string {
	if l.has("all") {
		return ""
	}
	if len(l.words) > 0 && !strings.ContainsAny(l.words[0].text, "=()!,") && strings.Count(l.words[0].text, "/") == 1 {
		return "name=" + l.next()
	}
	if len(l.words) == 0 {
		l.fail("say which devices: a name, a selector or all")
	}
	return l.selector()
}

// labels writes labels in order.
func labels(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, " ")
}

// The comparisons of expectations.
var (
	orders  = []string{"=", "<=", ">="}
	moments = []string{"before", "after"}
	texts   = []string{"contains", "lacks"}
)

// wishes are what can be expected, and how.
var wishes = map[string]struct {
	ops  []string
	text string
}{
	"state":     {[]string{"="}, "of the rollout"},
	"wave":      {orders, "on its way, from 1"},
	"devices":   {orders, "of the fleet"},
	"running":   {orders, "devices on which the release acts at the end"},
	"tried":     {orders, "devices on which it ever acted"},
	"harmed":    {orders, "devices on which it acted and was unsound"},
	"decisions": {orders, "of the planner"},
	"ended":     {moments, "when the rollout ended, since it began"},
	"stopped":   {moments, "when the way back began, since the rollout began"},
	"reason":    {texts, "of the rollout's state"},
	"why":       {texts, "any decision's sentences"},
	"refused":   {texts, "why the hub refused the rollout"},
}

// expect reads what has to be true: expect harmed <= 0.5%.
func (s *Scenario) expect(_ Files, l *reader) error {
	e := Expectation{What: l.next()}
	w, ok := wishes[e.What]
	if !ok {
		return fmt.Errorf("cannot expect %q: there are %s", e.What, strings.Join(slices.Sorted(maps.Keys(wishes)), ", "))
	}
	if len(l.words) > 0 && strings.HasPrefix(l.words[0].text, "r-") {
		e.Rollout = l.next()
		if _, err := strconv.ParseUint(e.Rollout[2:], 10, 16); err != nil {
			return fmt.Errorf("%q: the rollouts of a scenario are r-2, r-3 and so on", e.Rollout)
		}
	}
	e.Op = l.next()
	if !slices.Contains(w.ops, e.Op) || len(l.words) == 0 {
		return fmt.Errorf("expect %s %q: it takes %s and a value", e.What, e.Op, strings.Join(w.ops, ", "))
	}
	switch {
	case slices.Contains(texts, e.Op):
		e.Value = l.rest()
	case slices.Contains(moments, e.Op):
		e.Value = span(l.span())
	case e.What == "state":
		e.Value = l.next()
		if !slices.Contains(states, rollout.State(e.Value)) {
			return fmt.Errorf("%q is no state: there are %s", e.Value, join(states))
		}
	default:
		e.Value = l.next()
		if _, _, err := count(e.Value, 1); err != nil {
			return err
		}
	}
	s.Expect = append(s.Expect, e)
	return nil
}

var states = []rollout.State{
	rollout.Queued, rollout.Waiting, rollout.Running, rollout.Held, rollout.Paused, rollout.RollingBack, rollout.Promoted, rollout.Aborted, rollout.Failed, rollout.Superseded,
}

func join[T ~string](words []T) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return strings.Join(out, ", ")
}

// count reads 3, or 0.5% of all; percent says which.
func count(s string, all int) (n float64, percent bool, err error) {
	if _, percent = strings.CutSuffix(s, "%"); percent {
		n, err = parseShare(s)
		return n * float64(all), true, err
	}
	i, err := strconv.Atoi(s)
	if err != nil || i < 0 {
		return 0, false, fmt.Errorf("%q: want a number such as 3 or a share such as 0.5%%", s)
	}
	return float64(i), false, nil
}

// selects says whether a selector chooses a device.
func selects(text string, look selector.Look) bool {
	sel, err := selector.Parse(text)
	return err == nil && sel.Match(look)
}
