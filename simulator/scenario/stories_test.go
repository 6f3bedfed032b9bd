package scenario_test

import (
	"bytes"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/scenario"
	"github.com/swellfleet/swell/simulator/world"
)

// defects are what other fleet systems were seen to do, each with the stories
// that show what happens here instead, and the Go tests where a story cannot:
// those compare numbers over many runs.
var defects = []struct {
	defect  string
	stories []string
	tests   []func(*testing.T)
}{
	{defect: "a rollout succeeds while no device runs the new software (hawkBit #3185, #446)", stories: []string{"installed-is-not-running", "running-must-last"}},
	{defect: "an empty canary wave passes; missing data passes; an ended analysis is a success (flightctl, Kayenta, Argo)", stories: []string{"empty-canary-wave", "missing-data", "stale-data"}},
	{defect: "a bricked device never counts (hawkBit #693)", stories: []string{"bricked-device-counts", "unreachable-device-waits"}},
	{defect: "a device that dies in mid-update stops counting against the budget (flightctl)", stories: []string{"dead-devices-use-up-the-budget"}},
	{defect: "the first N devices by name are the canaries (flightctl)", stories: []string{"first-devices-by-name"}, tests: []func(*testing.T){TestCanariesAreDrawnByChanceFromEveryLine}},
	{defect: "a retry overwrites the rollback snapshot with the unverified version (Greengrass #1838)", stories: []string{"retry-keeps-last-good"}},
	{defect: "an unknown maintenance sensor allows the update (Viam)", stories: []string{"unreadable-interlock", "interlock-opens-again"}},
	{defect: "deployments never end and cannot be cancelled (Greengrass #1161, rauc-hawkbit-updater #158)", stories: []string{"download-that-never-ends", "abort-in-every-state"}},
	{defect: "nightly releases overlap and the rollback goal is ambiguous (Argo, Mender)", stories: []string{"nightly-releases-overlap", "next-night-goes-past-a-failed-one"}},
	{defect: "lines are compared with lines that drift", stories: []string{"false-flags-never-act"}, tests: []func(*testing.T){TestComparingLinesRaisesFalseAlarmsAndPairsDoNot}},
	{defect: "a test of fixed size is looked at again and again", stories: []string{"false-flags-never-act"}, tests: []func(*testing.T){TestLookingAgainRaisesFalseAlarmsAndAnEProcessDoesNot}},
}

// others are stories that no row of the table needs: what people and plants do.
var others = []string{
	"a-class-of-its-own",
	"freeze",
	"held-device",
	"impossible-budget",
	"late-joiner",
	"mass-reconnect",
	"memory-growth",
	"metric-gate",
	"mistyped-selector",
	"moved-device",
	"night-window",
	"pause-and-resume",
	"quarantine",
	"shift-calendar",
	"slow-model",
	"two-hubs",
	"two-people-approve",
	"undo-a-promotion",
	"unsigned-release",
}

func TestEveryDefectSeenElsewhereHasItsStory(t *testing.T) {
	if len(defects) != 11 {
		t.Errorf("%d rows, the table of defects has 11", len(defects))
	}
	told := map[string]bool{}
	for _, d := range defects {
		if len(d.stories) == 0 {
			t.Errorf("%s: no story", d.defect)
		}
		for _, s := range d.stories {
			told[s] = true
		}
	}
	for _, s := range others {
		told[s] = true
	}
	files, err := filepath.Glob("stories/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		if !told[name] {
			t.Errorf("%s tells of nothing in the table", f)
		}
		delete(told, name)
	}
	for name := range told {
		t.Errorf("the story %s is not written", name)
	}
}

// TestStories plays every story; `go test -v -run TestStories` reads as a list.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(b, []byte("# ")) {
				t.Error("a story begins by saying what others do and what must happen here")
			}
			s, err := scenario.Parse(name, bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Expect) == 0 {
				t.Error("a story expects something")
			}
			explain(t, s, play(t, s, scenario.Options{}))
		})
	}
}

func TestCanariesAreDrawnByChanceFromEveryLine(t *testing.T) {
	text := "fleet 30 lines 3\nfor 30m\nwave canary devices 3\nwave rest\ngate success\ngate shadow 1.8\nshadow 1m window 30s\nsoak 1m\n"
	s := parse(t, text)
	drawn := map[topic.ID]int{}
	const nights = 20
	for night := range uint64(nights) {
		r := play(t, s, scenario.Options{Seed: night + 1, Until: 5 * time.Minute})
		lines := map[string]bool{}
		for _, id := range r.Canaries {
			drawn[id]++
			n := int(id.Node[len(id.Node)-1] - '0') // pump-00017 is device 17
			n += 10 * int(id.Node[len(id.Node)-2]-'0')
			lines[string(rune('1'+n%3))] = true
		}
		if len(r.Canaries) != 3 || len(lines) != 3 {
			t.Errorf("night %d has canaries %v, want one from each of three lines", night+1, r.Canaries)
		}
	}
	most := slices.Max(slices.Collect(maps.Values(drawn)))
	t.Logf("%d nights drew %d of 30 devices; one of them %d times", nights, len(drawn), most)
	if len(drawn) < 15 || most > nights/2 {
		t.Errorf("%d nights drew only %d of 30 devices, one of them %d times", nights, len(drawn), most)
	}
}

// alarmed plays runs of 144 looks, one every ten minutes, and returns in how
// many each of two tests cried wolf at least once.
func alarmed(runs int, look func(r *world.Rand, first bool) (naive bool, window twin.ShadowWindow)) (naive, sound int) {
	threshold := 1.5
	g := rollout.Gate{Name: rollout.GateShadow, Threshold: &threshold, Alpha: 0.01, MinN: 1}
	ro := rollout.Rollout{Release: rollouttest.Release(2)}
	for run := range runs {
		r := world.New(uint64(run)+1, time.Time{}).Rand("stream")
		var e rollout.Evidence
		var n, s bool
		for i := range 144 {
			cried, window := look(r, i == 0)
			n = n || cried
			e.Count(window)
			s = s || rollout.Shadow(ro, g, e).Result == rollout.Fail
		}
		if n {
			naive++
		}
		if s {
			sound++
		}
	}
	return naive, sound
}

// z is how many standard deviations a is above b when both come from one rate.
func z(a, b float64) float64 {
	if a+b == 0 {
		return 0
	}
	return (a - b) / math.Sqrt(a+b)
}

const onePercent = 2.326 // of a normal distribution lies above so many deviations

func TestLookingAgainRaisesFalseAlarmsAndAnEProcessDoesNot(t *testing.T) {
	const runs = 300
	var a, b float64
	naive, sound := alarmed(runs, func(r *world.Rand, first bool) (bool, twin.ShadowWindow) {
		if first {
			a, b = 0, 0
		}
		// Equal models: of 3000 windows each alone flags about 15.
		w := twin.ShadowWindow{OnlyChallenger: r.Poisson(15), OnlyChampion: r.Poisson(15), Items: 3000}
		a, b = a+float64(w.OnlyChallenger), b+float64(w.OnlyChampion)
		return z(a, b) > onePercent, w
	})
	t.Logf("equal models, 144 looks in a day at a level of 1 %%: a test of fixed size cries wolf in %.1f %% of %d days, the e-process in %.1f %%",
		100*float64(naive)/runs, runs, 100*float64(sound)/runs)
	if naive < runs*5/100 {
		t.Errorf("the naive test raised %d of %d: the defect does not show", naive, runs)
	}
	if sound > runs/100 {
		t.Errorf("the e-process raised %d of %d, allowed is 1 %%", sound, runs)
	}
}

func TestComparingLinesRaisesFalseAlarmsAndPairsDoNot(t *testing.T) {
	const runs = 300
	var mine, theirs, a, b, looks, single float64
	naive, sound := alarmed(runs, func(r *world.Rand, first bool) (bool, twin.ShadowWindow) {
		if first {
			mine, theirs, a, b, looks = 1, 1, 0, 0, 0
		}
		// Each line's own rate of flags wanders by some percent in ten minutes.
		mine *= math.Exp((r.Float64() - 0.5) / 5)
		theirs *= math.Exp((r.Float64() - 0.5) / 5)
		// The canary's line has the challenger, the other line the champion.
		a, b = a+float64(r.Poisson(min(15*mine, 29))), b+float64(r.Poisson(min(15*theirs, 29)))
		looks++
		if looks == 36 && z(a, b) > onePercent {
			single++ // one look after six hours
		}
		// Paired: both models on the canary's line see what that line does.
		return z(a, b) > onePercent, twin.ShadowWindow{OnlyChallenger: r.Poisson(min(15*mine, 29)), OnlyChampion: r.Poisson(min(15*mine, 29)), Items: 3000}
	})
	t.Logf("equal models on lines that drift: line against line cries wolf in %.0f %% of days at one look and %.0f %% at 144, the paired e-process in %.1f %%",
		100*single/runs, 100*float64(naive)/runs, 100*float64(sound)/runs)
	if naive < runs/4 {
		t.Errorf("line against line raised %d of %d: the defect does not show", naive, runs)
	}
	if sound > runs/100 {
		t.Errorf("the paired test raised %d of %d, allowed is 1 %%", sound, runs)
	}
}
