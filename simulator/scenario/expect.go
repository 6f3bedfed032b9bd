package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
)

// of names the rollout that is meant.
func (e Expectation) of() string {
	if e.Rollout == "" {
		return first
	}
	return e.Rollout
}

// unmet returns how an expectation differs from the result, or "".
func (e Expectation) unmet(r Result) string {
	ro := r.Rollouts[e.of()]
	differs := func(format string, args ...any) string {
		return fmt.Sprintf("expected %s %s %s, %s", e.What, e.Op, e.Value, fmt.Sprintf(format, args...))
	}
	var n int
	switch e.What {
	case "state":
		if string(ro.State) != e.Value {
			return differs("it is %s: %s", ro.State, ro.Reason)
		}
		return ""
	case "reason", "refused", "why":
		return e.unsaid(r, ro)
	case "ended", "stopped":
		at := ro.Ended
		if e.What == "stopped" {
			at = ro.RollbackFrom
		}
		if at.IsZero() {
			return differs("it never %s", e.What)
		}
		took := at.Sub(ro.Started)
		if want, err := time.ParseDuration(e.Value); err != nil || (took < want) != (e.Op == "before") {
			return differs("it %s after %s", e.What, took.Round(time.Second))
		}
		return ""
	case "wave":
		n = ro.Wave + 1
	case "devices":
		n = r.Devices
	case "running":
		n = r.Running
	case "harmed":
		n = r.Harmed
	case "tried":
		n = r.Tried
	case "decisions":
		n = r.Decisions
	}
	want, _, err := count(e.Value, r.Devices)
	got := float64(n)
	if err == nil && (e.Op == "=" && got == want || e.Op == "<=" && got <= want || e.Op == ">=" && got >= want) {
		return ""
	}
	return differs("it is %s", strconv.Itoa(n))
}

// unsaid looks for words in what the planner said.
func (e Expectation) unsaid(r Result, ro rollout.Rollout) string {
	said := []string{ro.Reason}
	switch e.What {
	case "refused":
		said = []string{r.Refused[e.of()]}
	case "why":
		said = said[:0]
		for _, d := range r.History {
			said = append(append(said, d.Decision.Summary), d.Decision.Reasons...)
			for _, g := range d.Decision.Gates {
				said = append(said, g.Reason)
			}
			for _, c := range d.Decision.Changes {
				said = append(said, c.Why)
			}
		}
	}
	found := false
	for _, s := range said {
		found = found || strings.Contains(s, e.Value)
	}
	if found == (e.Op == "contains") {
		return ""
	}
	if e.What == "why" {
		return fmt.Sprintf("expected that some decision %s %q, of %d decisions", e.Op, e.Value, len(r.History))
	}
	return fmt.Sprintf("expected that %s %s %q, it is %q", e.What, e.Op, e.Value, said[0])
}
