package explore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/simulator/explore"
	"github.com/swellfleet/swell/simulator/scenario"
)

func TestEverySeedOfTheBuiltInNightIsAScenarioThatIsReadBack(t *testing.T) {
	drawn := map[string]bool{}
	for seed := range uint64(100) {
		s, err := explore.Scenario("mixed", explore.Mixed, seed+1, 0)
		if err != nil {
			t.Fatalf("seed %d: %v", seed+1, err)
		}
		if s.Devices() != 1000 {
			t.Fatalf("seed %d has %d devices", seed+1, s.Devices())
		}
		text := s.String()
		if back, err := scenario.Parse("mixed", strings.NewReader(text)); err != nil || back.String() != text {
			t.Fatalf("seed %d is not read back: %v\n%s", seed+1, err, text)
		}
		drawn[text] = true
		if again, err := explore.Scenario("mixed", explore.Mixed, seed+1, 0); err != nil || again.String() != text {
			t.Fatalf("seed %d draws something else each time", seed+1)
		}
	}
	if len(drawn) != 100 {
		t.Fatalf("100 seeds draw %d nights", len(drawn))
	}
}

func TestATemplateLeavesToChanceWhatItSays(t *testing.T) {
	count := map[string]int{}
	for seed := range uint64(1000) {
		text, err := explore.Draw("maybe 30% at 2m..4m hub crash # by night\neither release sound\neither release flags x2\nnetwork drop 1..3%\n", seed)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(text, "\n") {
			words := strings.Fields(line)
			switch {
			case strings.HasSuffix(line, "hub crash"):
				count["crash"]++
				if at, err := time.ParseDuration(words[1]); err != nil || at < 2*time.Minute || at > 4*time.Minute {
					t.Fatalf("seed %d: %s", seed, line)
				}
			case line == "release sound":
				count["sound"]++
			}
		}
		if strings.Count(text, "release") != 1 || strings.Contains(text, "either") || strings.Contains(text, "..") {
			t.Fatalf("seed %d: %s", seed, text)
		}
	}
	if n := count["crash"]; n < 240 || n > 360 {
		t.Errorf("30%% of 1000 seeds are %d", n)
	}
	if n := count["sound"]; n < 430 || n > 570 {
		t.Errorf("one of two of 1000 seeds is %d", n)
	}
}

func TestATemplateThatCannotBeReadNamesTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"fleet 3\nmaybe often at 3m hub crash": `line 2: "often": want a share`,
		"at 5m..2m hub crash":                  "line 1: 5m..2m: want two numbers, shares or durations, the smaller one first",
		"maybe 3%":                             "line 1: say how often, and what",
	} {
		if _, err := explore.Draw(text, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

// TestASmallNightHoldsOnAFewSeeds is make sim in small.
func TestASmallNightHoldsOnAFewSeeds(t *testing.T) {
	sum, err := explore.Run(context.Background(), "mixed", explore.Mixed, explore.Options{Seeds: 3, Devices: 250, Shrink: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if sum.Seeds != 3 || sum.Devices != 250 || sum.Events == 0 {
		t.Errorf("played %d seeds of %d devices with %d events", sum.Seeds, sum.Devices, sum.Events)
	}
	for _, f := range sum.Failures {
		t.Errorf("seed %d: %v\n%s%s", f.Seed, f.Violations, f.Scenario, strings.Join(f.Trace, "\n"))
	}
}
