package loopback_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/simulator/loopback"
	"github.com/swellfleet/swell/simulator/scenario"
)

func TestMain(m *testing.M) {
	hub.MaybeRunChild()
	os.Exit(m.Run())
}

func read(t *testing.T, name string) scenario.Scenario {
	t.Helper()
	f, err := os.Open(filepath.Join("stories", name+".txt"))
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

// Each story is played on virtual time and by the real hub and agents: both
// meet the story's expectations and end alike.
func TestBothLevelsEndAlike(t *testing.T) {
	for _, name := range []string{"sound", "false-flags", "aborted"} {
		t.Run(name, func(t *testing.T) {
			s := read(t, name)
			virtual, err := scenario.Play(s, scenario.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range virtual.Violations {
				t.Errorf("virtual: %v", v)
			}
			real, err := loopback.Play(t.Context(), s, loopback.Options{Trace: func(at time.Duration, what string) { t.Logf("%s %s", at.Round(time.Second), what) }})
			if err != nil {
				t.Fatal(err)
			}
			for level, r := range map[string]scenario.Result{"virtual": virtual, "loopback": real} {
				for _, u := range r.Unmet {
					t.Errorf("%s: %s", level, u)
				}
			}
			if real.Rollout.State != virtual.Rollout.State || real.Running != virtual.Running || real.Rollout.Wave != virtual.Rollout.Wave || real.Harmed != virtual.Harmed {
				t.Errorf("loopback: %s in wave %d, on %d devices, %d harmed; virtual: %s in wave %d, on %d devices, %d harmed",
					real.Rollout.State, real.Rollout.Wave, real.Running, real.Harmed, virtual.Rollout.State, virtual.Rollout.Wave, virtual.Running, virtual.Harmed)
			}
		})
	}
}

func TestWhatTheSecondLevelCannotPlayIsRefusedByName(t *testing.T) {
	const rest = "\nfor 1h\nwave all deadline 1h\ngate success\nrelease sound\n"
	for text, want := range map[string]string{
		"fleet 9" + rest: "9 devices",
		"fleet 4" + rest + "fault power every 1h for 30s\n":         "faults by chance",
		"fleet 4" + rest + "at 5m rot all\n":                        `"rot"`,
		strings.Replace("fleet 4"+rest, "sound", "nan-after 1m", 1): "yields NaN",
		strings.Replace("fleet 4"+rest, "sound", "unsigned", 1):     "not signed",
		"network delay 1ms to 2ms drop 1%\nfleet 4" + rest:          "drops",
	} {
		s, err := scenario.Parse("x", strings.NewReader(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if _, err := loopback.Play(t.Context(), s, loopback.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
