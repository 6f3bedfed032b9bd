package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Selector chooses devices by labels: comma-separated terms that must all
// hold. The zero value chooses all.
//
//	site=hall-1         the value is this; line=l1|l2: one of these
//	site!=hall-1        it is not, or the device has no such label
//	retired             the device has the label
//	!retired            it has not
//	line in (l1|l2)     the value is one of these; a comma separates them too
//	line notin (l1|l2)  it is none of these, or there is no such label
//
// Beside labels, terms see site, node, class, state, connected, release and
// retired; those names win over labels.
type Selector struct {
	terms []term
	text  string
}

type term struct {
	key    string
	values []string // nil: presence
	not    bool
}

// Reserved are the keys every device has without a label of that name.
var Reserved = []string{"class", "connected", "name", "node", "release", "retired", "site", "state"}

// maxTerms bounds a selector; the contract bounds its text.
const maxTerms = 64

// ParseSelector reads a selector; the error says what is wrong in which term.
func ParseSelector(s string) (Selector, error) {
	out := Selector{text: strings.TrimSpace(s)}
	for rest := out.text; rest != ""; {
		text, after := cutTerm(rest)
		t, err := parseTerm(strings.TrimSpace(text))
		if err != nil {
			return Selector{}, fmt.Errorf("selector %q: %w", s, err)
		}
		out.terms = append(out.terms, t)
		if len(out.terms) > maxTerms {
			return Selector{}, fmt.Errorf("selector of %d bytes has more than %d terms", len(s), maxTerms)
		}
		rest = after
	}
	return out, nil
}

// cutTerm splits at the first comma that is not in parentheses.
func cutTerm(s string) (first, rest string) {
	depth := 0
	for i, c := range s {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				rest = s[i+1:]
				if strings.TrimSpace(rest) == "" {
					rest = "," // a trailing comma is an empty term, which parseTerm refuses
				}
				return s[:i], rest
			}
		}
	}
	return s, ""
}

func parseTerm(s string) (term, error) {
	if s == "" || s == "," {
		return term{}, fmt.Errorf("empty term: separate terms by one comma")
	}
	if open := strings.IndexByte(s, '('); open >= 0 {
		words := strings.Fields(s[:open])
		if len(words) != 2 || words[1] != "in" && words[1] != "notin" || !strings.HasSuffix(s, ")") {
			return term{}, fmt.Errorf("term %q: want key in (a|b) or key notin (a|b)", s)
		}
		t := term{key: words[0], not: words[1] == "notin", values: []string{}}
		inside := s[open+1 : len(s)-1]
		for _, v := range strings.FieldsFunc(inside, func(r rune) bool { return r == '|' || r == ',' }) {
			t.values = append(t.values, strings.TrimSpace(v))
		}
		if len(t.values) == 0 {
			return term{}, fmt.Errorf("term %q: name at least one value", s)
		}
		return t, t.validate(s)
	}
	if key, value, ok := strings.Cut(s, "!="); ok {
		t := term{key: strings.TrimSpace(key), values: alternatives(value), not: true}
		return t, t.validate(s)
	}
	if key, value, ok := strings.Cut(s, "="); ok {
		value = strings.TrimPrefix(value, "=") // a==b is what a programmer types
		t := term{key: strings.TrimSpace(key), values: alternatives(value)}
		return t, t.validate(s)
	}
	key, not := strings.CutPrefix(s, "!")
	t := term{key: strings.TrimSpace(key), not: not}
	return t, t.validate(s)
}

// alternatives splits "l1|l2", which package rollout reads in the same way.
func alternatives(s string) []string {
	out := strings.Split(s, "|")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

func (t term) validate(s string) error {
	for _, word := range append([]string{t.key}, t.values...) {
		if err := ValidLabel(word); err != nil {
			return fmt.Errorf("term %q: %w", s, err)
		}
	}
	return nil
}

// ValidLabel accepts what may be a label's key or value: 1 to 63 letters,
// digits, '-', '_', '.' and '/'.
func ValidLabel(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("label part of %d bytes: want 1 to 63", len(s))
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '/') {
			return fmt.Errorf("label part %q: use letters, digits, '-', '_', '.' and '/'", s)
		}
	}
	return nil
}

// String returns the text the selector was read from.
func (s Selector) String() string { return s.text }

// Match reports whether every term holds for d.
func (s Selector) Match(d *Device) bool {
	for _, t := range s.terms {
		v, has := value(d, t.key)
		ok := has && (t.values == nil || slices.Contains(t.values, v))
		if ok == t.not {
			return false
		}
	}
	return true
}

// value returns what a term sees under key.
func value(d *Device, key string) (string, bool) {
	switch key {
	case "site":
		return d.ID.Site, true
	case "node":
		return d.ID.Node, true
	case "name":
		return d.ID.String(), true
	case "class":
		return string(d.Class), d.Class != ""
	case "state":
		return string(d.State), true
	case "connected":
		if d.Connected {
			return "true", true
		}
		return "false", false
	case "retired":
		if d.Retired() {
			return "true", true
		}
		return "false", false
	case "release":
		if c := d.Report.Doc.Champion; c != nil {
			return fmt.Sprintf("%s-%d", c.Name, c.Counter), true
		}
		return "", false
	}
	return d.Label(key)
}

// UnknownKey means that a selector asks for a label no device has, which is
// more often a slip of the pen than a wish for nothing.
type UnknownKey struct {
	Key   string
	Known []string // sorted: labels that exist, and the reserved keys
}

// Error lists the labels that exist.
func (e UnknownKey) Error() string {
	return fmt.Sprintf("no device has the label %q; there are: %s", e.Key, strings.Join(e.Known, ", "))
}

// check reports the first term that wants a label nobody has. Terms that want
// a label not to be there are fine without it.
func (s Selector) check(labels map[string]int) error {
	for _, t := range s.terms {
		if t.not || slices.Contains(Reserved, t.key) || labels[t.key] > 0 {
			continue
		}
		known := slices.Collect(maps.Keys(labels))
		known = append(known, Reserved...)
		slices.Sort(known)
		return UnknownKey{Key: t.key, Known: known}
	}
	return nil
}
