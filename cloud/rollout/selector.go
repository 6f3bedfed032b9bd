package rollout

import (
	"fmt"
	"slices"
	"strings"
)

// Selector chooses devices by their labels.
type Selector struct{ terms []term }

type term struct {
	key    string
	values []string // any of them
	not    bool
}

// ParseSelector reads "line=L1,hardware!=v1,product=a|b": all terms have to
// hold, "|" separates values of which one is enough. "" matches every device.
func ParseSelector(s string) (Selector, error) {
	var sel Selector
	if strings.TrimSpace(s) == "" {
		return sel, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		key, value, ok := strings.Cut(part, "=")
		key, not := strings.CutSuffix(key, "!")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.TrimSpace(value) == "" {
			return Selector{}, fmt.Errorf("selector %q: cannot read %q: write label=value, label!=value or label=a|b, separated by commas", s, part)
		}
		t := term{key: key, not: not}
		for v := range strings.SplitSeq(value, "|") {
			t.values = append(t.values, strings.TrimSpace(v))
		}
		sel.terms = append(sel.terms, t)
	}
	return sel, nil
}

// Matches says whether a device with these labels is chosen. A label that is
// missing equals nothing.
func (s Selector) Matches(labels map[string]string) bool {
	for _, t := range s.terms {
		v, ok := labels[t.key]
		if (ok && slices.Contains(t.values, v)) == t.not {
			return false
		}
	}
	return true
}

// unknown returns the first term whose label or value no device has, and what
// there is instead, for a person who mistyped it.
func (s Selector) unknown(devices []Device) string {
	for _, t := range s.terms {
		var keys, values []string
		for _, d := range devices {
			for k, v := range d.Labels {
				keys = append(keys, k)
				if k == t.key {
					values = append(values, v)
				}
			}
		}
		if len(values) == 0 {
			return fmt.Sprintf("no device has the label %q; there are %s", t.key, list(keys))
		}
		if t.not {
			continue
		}
		for _, v := range t.values {
			if !slices.Contains(values, v) {
				return fmt.Sprintf("no device has %s=%s; there are %s", t.key, v, list(values))
			}
		}
	}
	return ""
}

// list sorts words, drops doubles and shows at most ten.
func list(words []string) string {
	slices.Sort(words)
	words = slices.Compact(words)
	if len(words) == 0 {
		return "none"
	}
	if len(words) > 10 {
		return strings.Join(words[:10], ", ") + " and " + fmt.Sprint(len(words)-10) + " more"
	}
	return strings.Join(words, ", ")
}
