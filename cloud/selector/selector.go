// Package selector is the language in which people choose devices: the fleet
// list, rollout and retrain policies and scenarios all read it here.
//
// The parties are the person who writes a selector and the package that knows
// what a device's labels and properties are, which it hands to Match as a
// look-up. The package promises that a text it accepts is printed as it was
// read, and that a term and its negation never both hold. It is PURE and
// anything under cloud and simulator may import it.
package selector

import (
	"fmt"
	"slices"
	"strings"
)

// Selector chooses devices: comma-separated terms that must all hold. The zero
// value chooses all.
//
//	site=hall-1         the value is this; line=l1|l2: one of these
//	site!=hall-1        it is not, or the device has no such label
//	retired             the device has the label
//	!retired            it has not
//	line in (l1|l2)     the value is one of these; a comma separates them too
//	line notin (l1|l2)  it is none of these, or there is no such label
type Selector struct {
	terms []Term
	text  string
}

// Term is one condition.
type Term struct {
	Key    string
	Values []string // any of them; nil: presence is asked for
	Not    bool
}

// Look returns what a device has under a key, and whether it has it.
type Look func(key string) (value string, ok bool)

// maxTerms bounds a selector; the contract bounds its text.
const maxTerms = 64

// Parse reads a selector; the error says what is wrong in which term.
func Parse(s string) (Selector, error) {
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

// String returns the text the selector was read from.
func (s Selector) String() string { return s.text }

// Terms returns the conditions in the order they were written.
func (s Selector) Terms() []Term { return slices.Clone(s.terms) }

// Match reports whether every term holds for a device.
func (s Selector) Match(look Look) bool {
	for _, t := range s.terms {
		v, has := look(t.Key)
		if (has && (t.Values == nil || slices.Contains(t.Values, v))) == t.Not {
			return false
		}
	}
	return true
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

func parseTerm(s string) (Term, error) {
	if s == "" || s == "," {
		return Term{}, fmt.Errorf("empty term: separate terms by one comma")
	}
	if open := strings.IndexByte(s, '('); open >= 0 {
		words := strings.Fields(s[:open])
		if len(words) != 2 || words[1] != "in" && words[1] != "notin" || !strings.HasSuffix(s, ")") {
			return Term{}, fmt.Errorf("term %q: want key in (a|b) or key notin (a|b)", s)
		}
		t := Term{Key: words[0], Not: words[1] == "notin", Values: []string{}}
		inside := s[open+1 : len(s)-1]
		for _, v := range strings.FieldsFunc(inside, func(r rune) bool { return r == '|' || r == ',' }) {
			t.Values = append(t.Values, strings.TrimSpace(v))
		}
		if len(t.Values) == 0 {
			return Term{}, fmt.Errorf("term %q: name at least one value", s)
		}
		return t, t.validate(s)
	}
	if key, value, ok := strings.Cut(s, "!="); ok {
		t := Term{Key: strings.TrimSpace(key), Values: alternatives(value), Not: true}
		return t, t.validate(s)
	}
	if key, value, ok := strings.Cut(s, "="); ok {
		value = strings.TrimPrefix(value, "=") // a==b is what a programmer types
		t := Term{Key: strings.TrimSpace(key), Values: alternatives(value)}
		return t, t.validate(s)
	}
	key, not := strings.CutPrefix(s, "!")
	t := Term{Key: strings.TrimSpace(key), Not: not}
	return t, t.validate(s)
}

// alternatives splits "l1|l2".
func alternatives(s string) []string {
	out := strings.Split(s, "|")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

func (t Term) validate(s string) error {
	for _, word := range append([]string{t.Key}, t.Values...) {
		if err := ValidWord(word); err != nil {
			return fmt.Errorf("term %q: %w", s, err)
		}
	}
	return nil
}

// ValidWord accepts what may be a label's key or value: 1 to 63 letters,
// digits, '-', '_', '.' and '/'.
func ValidWord(s string) error {
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
