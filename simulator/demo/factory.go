package demo

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/fleet"
)

// class is the one device class of the factory: pumps in a water circuit.
const class artifact.Class = "pump"

// pace is how many times faster than in reality the recordings are played.
const pace = 25

// Recording finds the public SKAB recordings (water circulation testbed, 8
// sensors, 1 Hz) beside the repository; empty when they are not there.
func Recording() string {
	for _, dir := range []string{os.Getenv("SWELL_DATA"), "../shared/data", "../../shared/data"} {
		if dir == "" {
			continue
		}
		p := filepath.Join(dir, "skab-dev", "data")
		if _, err := os.Stat(filepath.Join(p, "anomaly-free", "anomaly-free.csv")); err == nil {
			return p
		}
	}
	return ""
}

// factory makes n pumps in the given number of lines. With recordings each
// plays another stretch of the fault-free hours, and the last one an
// experiment in which a valve closes; without, made signals with a fault on
// the last.
func factory(recordings string, n, lines int) []fleet.Device {
	var out []fleet.Device
	for i := range n {
		line := fmt.Sprintf("l%d", i*lines/n+1)
		d := fleet.Device{
			ID:     topic.ID{Site: "hall-1", Node: fmt.Sprintf("%s-pump-%02d", line, i%(n/lines)+1)},
			Class:  class,
			Labels: map[string]string{"line": line, "hardware": []string{"mk1", "mk2"}[i%2]},
		}
		if recordings != "" {
			c := replay.Config{
				Path: filepath.Join(recordings, "anomaly-free", "anomaly-free.csv"), Exclude: []string{"anomaly", "changepoint"},
				StartRow: i * 380, Rate: pace, SampleRateHz: pace, Loop: true,
			}
			if i == n-1 {
				c.Path, c.StartRow = filepath.Join(recordings, "valve2", "0.csv"), 0
			}
			d.Source = func() (source.Source, error) { return replay.New(c), nil }
		} else {
			c := synthetic.Config{Seed: uint64(i) + 1, RateHz: pace, Channels: []string{"current", "flow", "pressure", "temperature", "vibration-1", "vibration-2"}}
			if i == n-1 {
				c.Faults = []synthetic.Fault{{AtS: 25, ForS: 10, Kind: "offset"}}
			}
			d.Source = func() (source.Source, error) { return synthetic.New(c), nil }
		}
		out = append(out, d)
	}
	return out
}
