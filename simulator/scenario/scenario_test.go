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
