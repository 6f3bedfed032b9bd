package demo

import (
	"context"
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
// plays the fault-free hours from another minute on; without, made signals. On
// the last pump a valve sticks once both nights are over.
func factory(recordings string, n, lines int) []fleet.Device {
	var out []fleet.Device
	inLine := map[string]int{}
	for i := range n {
		line := fmt.Sprintf("l%d", i*lines/n+1)
		inLine[line]++
		d := fleet.Device{
			ID:     topic.ID{Site: "hall-1", Node: fmt.Sprintf("%s-pump-%02d", line, inLine[line])},
			Class:  class,
			Labels: map[string]string{"line": line, "hardware": []string{"mk1", "mk2"}[i%2]},
		}
		if recordings != "" {
			c := replay.Config{
				Path:     filepath.Join(recordings, "anomaly-free", "anomaly-free.csv"),
				StartRow: 3000 + i*40, Rate: pace, SampleRateHz: pace, Loop: true,
			}
			d.Source = func() (source.Source, error) { return replay.New(c), nil }
		} else {
			c := synthetic.Config{Seed: uint64(i) + 1, RateHz: pace, Channels: []string{"current", "flow", "pressure", "temperature", "vibration-1", "vibration-2"}}
			d.Source = func() (source.Source, error) { return synthetic.New(c), nil }
		}
		if i == n-1 {
			healthy := d.Source
			d.Source = func() (source.Source, error) {
				src, err := healthy()
				return &stuckValve{Source: src}, err
			}
		}
		out = append(out, d)
	}
	return out
}

// stuckValve is a source whose last channel (the flow, in the recordings) falls
// by a third for a while, again and again, beginning when the story has been
// told.
type stuckValve struct{ source.Source }

// In rows: when the valve sticks first, how often and for how long.
const (
	firstStuck = 100 * pace
	stuckEvery = 60 * pace
	stuckFor   = 12 * pace
)

// Next implements source.Source.
func (s *stuckValve) Next(ctx context.Context) (source.Rows, error) {
	rows, err := s.Source.Next(ctx)
	if err != nil || len(rows.Values) == 0 {
		return rows, err
	}
	flow := rows.Values[len(rows.Values)-1]
	for i := range flow {
		at := rows.First + uint64(i)
		if at >= firstStuck && (at-firstStuck)%stuckEvery < stuckFor {
			flow[i] *= 0.67
		}
	}
	return rows, nil
}
