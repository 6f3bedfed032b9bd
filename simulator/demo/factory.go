package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// Recording finds the fault-free hours of the public SKAB recordings (water
// circulation testbed, 8 sensors, 1 Hz) beside the repository; empty when they
// are not there.
func Recording() string {
	for _, dir := range []string{os.Getenv("SWELL_DATA"), "../shared/data", "../../shared/data"} {
		if dir == "" {
			continue
		}
		p := filepath.Join(dir, "skab-dev", "data", "anomaly-free", "anomaly-free.csv")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// Between these rows of the fault-free recording the circuit runs evenly; it
// warms up before, and shakes after.
const (
	even   = 3000
	uneven = 7000
)

// backAndForth writes a copy of a recording that plays its even rows to their
// end and back again, without times, so that it goes round without a jump:
// at a jump every pump would alarm, and be right. It returns how many rows that
// is.
func backAndForth(recording, to string) (int, error) {
	b, err := os.ReadFile(recording)
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i, line := range lines {
		_, rest, ok := strings.Cut(strings.TrimSpace(line), ";")
		if !ok {
			return 0, fmt.Errorf("%s: line %d has one column, want a time and sensors, with semicolons between them", recording, i+1)
		}
		lines[i] = rest
	}
	if len(lines) <= uneven {
		return 0, fmt.Errorf("%s has %d lines, want more than %d", recording, len(lines), uneven)
	}
	forth := lines[1+even : 1+uneven]
	back := slices.Clone(forth)
	slices.Reverse(back)
	all := slices.Concat(lines[:1], forth, back)
	return len(all) - 1, os.WriteFile(to, []byte(strings.Join(all, "\n")+"\n"), 0o644)
}

// factory makes n pumps in the given number of lines. With a recording of so
// many rows, which goes round, each plays it from another place on; without,
// made signals. The circuit goes on warming while it is recorded: pumps that are
// all over it show the first night what the second will see. On the last pump a
// valve sticks once both nights are over.
func factory(recording string, rows, n, lines int) []fleet.Device {
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
		if recording != "" {
			c := replay.Config{
				Path: recording, TimeColumn: replay.NoTime,
				StartRow: i * rows / n, Rate: 1, SampleRateHz: pace, Loop: true,
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
