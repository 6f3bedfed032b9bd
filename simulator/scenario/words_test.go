package scenario

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestEveryWordOfTheLanguageIsInTheManual(t *testing.T) {
	b, err := os.ReadFile("../../docs/scenarios.md")
	if err != nil {
		t.Fatal(err)
	}
	words := slices.Concat(slices.Collect(maps.Keys(lines)), slices.Collect(maps.Keys(Kinds)), slices.Collect(maps.Keys(wishes)), people, verbs)
	for _, w := range words {
		found := false
		for _, before := range []string{"`", "`at T ", "`expect "} {
			found = found || strings.Contains(string(b), before+w+" ") || strings.Contains(string(b), before+w+"`")
		}
		if !found {
			t.Errorf("docs/scenarios.md does not tell of %q", w)
		}
	}
}
