package scenario_test

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/scenario"
)

// TestHarmFigures says how far two bad releases come on 10 000 devices and how
// soon they are stopped; make bench-harm runs it.
func TestHarmFigures(t *testing.T) {
	if os.Getenv("SWELL_BENCH") == "" {
		t.Skip("a minute of work: make bench-harm")
	}
	results := map[string]scenario.Result{}
	for _, name := range []string{"twice-the-flags", "crash-at-load"} {
		text, err := os.ReadFile("harm/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		r := play(t, parse(t, string(text)), scenario.Options{})
		for _, why := range r.Unmet {
			t.Errorf("%s: %s", name, why)
		}
		for _, v := range r.Violations {
			t.Errorf("%s at %s: %s", name, v.At, v.What)
		}
		results[name] = r
	}
	stop := func(r scenario.Result) float64 { return r.Rollout.RollbackFrom.Sub(r.Rollout.Started).Minutes() }
	// Devices that were ever offered it: what crashes at load can take them down.
	offered := func(r scenario.Result) int {
		devices := map[string]bool{}
		for _, d := range r.History {
			for _, c := range d.Decision.Changes {
				if c.Record.Offer == rollout.OfferRelease {
					devices[c.Device.String()] = true
				}
			}
		}
		return len(devices)
	}
	x2, crash := results["twice-the-flags"], results["crash-at-load"]
	fmt.Printf("%-17s %8s %8s %8s %8s %12s\n", "RELEASE", "DEVICES", "OFFERED", "ACTED", "HARMED", "STOPPED")
	for _, name := range []string{"twice-the-flags", "crash-at-load"} {
		r := results[name]
		fmt.Printf("%-17s %8d %8d %8d %8d %8.1f min\n", name, r.Devices, offered(r), r.Tried, r.Harmed, stop(r))
	}
	line, err := json.Marshal(struct {
		X2Share   float64 `json:"x2_harmed_share"`
		X2Stop    float64 `json:"x2_stop_min"`
		Crash     int     `json:"crash_harmed"` // every device that had it on trial counts
		Wave      int     `json:"first_wave"`
		CrashStop float64 `json:"crash_stop_min"`
	}{float64(x2.Harmed) / float64(x2.Devices), round(stop(x2)), offered(crash), crash.Rollout.Waves[0].Size, round(stop(crash))})
	if err != nil {
		t.Fatal(err)
	}
	if offered(crash) > crash.Rollout.Waves[0].Size || len(crash.Rollout.Waves) != 1 {
		t.Errorf("the release was offered to %d devices in %d waves, the first has %d", offered(crash), len(crash.Rollout.Waves), crash.Rollout.Waves[0].Size)
	}
	fmt.Println(string(line))
}

func round(minutes float64) float64 { return float64(int(minutes*10+0.5)) / 10 }
