package scenario_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/scenario"
)

func load(t *testing.T, name string) scenario.Scenario {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := scenario.Parse(name, f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func play(t *testing.T, s scenario.Scenario, o scenario.Options) scenario.Result {
	t.Helper()
	r, err := scenario.Play(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func explain(t *testing.T, s scenario.Scenario, r scenario.Result) {
	t.Helper()
	for _, v := range r.Violations {
		t.Errorf("%s seed %d at %s: %s", r.Scenario, r.Seed, v.At, v.What)
	}
	for _, u := range r.Unmet {
		t.Errorf("%s seed %d: %s: %s", r.Scenario, r.Seed, u, r.Rollout.Reason)
	}
	if t.Failed() && testing.Verbose() {
		_, _ = scenario.Play(s, scenario.Options{Seed: r.Seed, Trace: func(at time.Duration, what string) { t.Logf("%10s  %s", at.Round(time.Second), what) }})
	}
}

func TestScenarios(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		t.Run(name, func(t *testing.T) {
			s := load(t, name)
			explain(t, s, play(t, s, scenario.Options{}))
		})
	}
}

func TestOneSeedGivesOneRun(t *testing.T) {
	var traces [2]strings.Builder
	for i := range traces {
		play(t, load(t, "night"), scenario.Options{Trace: func(at time.Duration, what string) { traces[i].WriteString(at.String() + what + "\n") }})
	}
	if traces[0].String() != traces[1].String() {
		t.Fatal("two runs of one seed differ")
	}
}

func TestNoSeedOfABadNightBreaksAProperty(t *testing.T) {
	s := load(t, "night")
	s = s.WithDevices(12)
	s.For = 3 * time.Hour
	s.Expect = nil // how it ends is chance; what holds is not
	ends := map[rollout.State]int{}
	var events uint64
	began := time.Now()
	for seed := range uint64(50) {
		r := play(t, s, scenario.Options{Seed: seed + 1})
		explain(t, s, r)
		if t.Failed() {
			return
		}
		ends[r.Rollout.State]++
		events += r.Events
	}
	t.Logf("50 seeds, %d events in %s: %v", events, time.Since(began).Round(time.Millisecond), ends)
}

// TestABudgetThatIgnoresOfflineDevicesIsCaught makes the hub believe that
// every device is there.
func TestABudgetThatIgnoresOfflineDevicesIsCaught(t *testing.T) {
	s := load(t, "night")
	s.Faults = append(s.Faults, scenario.Fault{Kind: "offline", Every: time.Hour, For: 10 * time.Minute})
	newest := func(ds []rollout.Device) {
		var last time.Time
		for _, d := range ds {
			if d.SeenAt.After(last) {
				last = d.SeenAt
			}
		}
		for i := range ds {
			ds[i].Connected, ds[i].SeenAt = true, last
		}
	}
	for seed := range uint64(60) {
		r := play(t, s, scenario.Options{Seed: seed + 1, Bend: newest})
		for _, v := range r.Violations {
			if strings.Contains(v.What, "away or in flight") {
				t.Logf("caught by seed %d after %s: %s", seed+1, v.At.Round(time.Second), v.What)
				return
			}
		}
	}
	t.Fatal("60 seeds did not catch it")
}

func TestAScenarioThatCannotBeReadNamesTheLine(t *testing.T) {
	const good = "fleet 3\nwave all\n"
	for name, tc := range map[string]struct{ text, want string }{
		"unknown word":      {good + "flet 3", `bad:3: unknown word "flet": there are at, budget`},
		"bad number":        {"fleet three", `bad:1: "three": want a number`},
		"bad duration":      {good + "soak 5", `bad:3: "5": want a duration`},
		"bad share":         {good + "network drop 120%", `bad:3: "120%": want a share`},
		"word too many":     {good + "soak 5m please", `bad:3: cannot read "please"`},
		"unknown fault":     {good + "fault flood every 1h", `unknown fault "flood"`},
		"fault without end": {good + "fault power every 0s", "never lets anything happen"},
		"unknown step":      {good + "at 5m dance", `unknown step "dance"`},
		"no fleet":          {"wave all", "say how many devices"},
		"impossible policy": {good + "gate sucess", `unknown gate "sucess"`},
		"strange wish":      {good + "expect luck = 3", `cannot expect "luck"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := scenario.Parse("bad", strings.NewReader(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want %q", err, tc.want)
			}
		})
	}
}
