package selector_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/selector"
)

// labels looks into a map.
func labels(m map[string]string) selector.Look {
	return func(key string) (string, bool) {
		v, ok := m[key]
		return v, ok
	}
}

func TestTermsHoldOrNot(t *testing.T) {
	press := labels(map[string]string{"site": "hall-1", "line": "l1", "hw": "v2"})
	for text, want := range map[string]bool{
		"":                            true,
		"site=hall-1":                 true,
		"site==hall-1":                true,
		"site=hall-2":                 false,
		"site!=hall-2":                true,
		"line=l2|l1":                  true,
		"line!=l2|l1":                 false,
		"line in (l1,l2), !retired":   true,
		"line in ( l2 | l3 )":         false,
		"line notin (l2|l3)":          true,
		"spare notin (yes)":           true,
		"hw":                          true,
		"!hw":                         false,
		"spare":                       false,
		"spare!=yes":                  true,
		"spare=yes":                   false,
		"site=hall-1,line=l1,hw=v3":   false,
		"site=hall-1 , line=l1,hw=v2": true,
	} {
		sel, err := selector.Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := sel.Match(press); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
	}
}

func TestASelectorThatCannotBeMeantIsRefused(t *testing.T) {
	for _, s := range []string{
		"=", "a=", "=b", "a=b,", ",a=b", "a=b,,c=d", "a in", "a in ()", "a in (b", "a b", "!", "a=b c", "!a=b", "ä=b",
		strings.Repeat("a=b,", 100) + "a=b", "a=" + strings.Repeat("b", 64),
	} {
		if _, err := selector.Parse(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestATermAndItsNegationNeverAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-c]`)
		device := labels(rapid.MapOfN(rapid.StringMatching(`k[a-c]`), word, 0, 3).Draw(t, "labels"))
		k, v, v2 := "k"+word.Draw(t, "k"), word.Draw(t, "v"), word.Draw(t, "v2")
		for _, pair := range [][2]string{
			{k + "=" + v, k + "!=" + v}, {k, "!" + k}, {k + "=" + v + "|" + v2, k + "!=" + v2 + "|" + v},
			{k + " in (" + v + "|" + v2 + ")", k + " notin (" + v + "," + v2 + ")"},
		} {
			a, err := selector.Parse(pair[0])
			if err != nil {
				t.Fatal(err)
			}
			b, err := selector.Parse(pair[1])
			if err != nil {
				t.Fatal(err)
			}
			if a.Match(device) == b.Match(device) {
				t.Fatalf("%s and %s agree", pair[0], pair[1])
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"site=hall-1,!retired", "line in (a,b),hw!=x", "((", "a=(,)", "!!a", "a==b", "line=l1|l2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sel, err := selector.Parse(s)
		if err != nil {
			return
		}
		sel.Match(labels(nil))
		again, err := selector.Parse(sel.String())
		if err != nil || again.String() != sel.String() || len(again.Terms()) != len(sel.Terms()) {
			t.Errorf("%q reads back as %q, %v", sel, again, err)
		}
	})
}
