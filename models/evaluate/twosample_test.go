package evaluate

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/zoo"
)

// wander makes n rows of two channels that follow each other like a machine's.
func wander(seed uint64, n int, shift float64) zoo.Dataset {
	rng := rand.New(rand.NewPCG(seed, 1))
	d := zoo.Dataset{Channels: []contract.Channel{{Name: "a"}, {Name: "b"}}, Series: []zoo.Series{{Device: "x", Values: make([][]float32, 2)}}}
	state := 0.0
	for range n {
		state = 0.8*state + rng.NormFloat64()
		d.Series[0].Values[0] = append(d.Series[0].Values[0], float32(state))
		d.Series[0].Values[1] = append(d.Series[0].Values[1], float32(10+shift+rng.NormFloat64()))
	}
	return d
}

func TestTheTwoSampleTestHoldsItsLevelAndSeesAShift(t *testing.T) {
	const runs = 40
	found, alarms := 0, 0
	for seed := range uint64(runs) {
		p, err := NewProfile(wander(seed, 4000, 0))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			shift float64
			count *int
		}{{0, &alarms}, {0.6, &found}} {
			got, err := p.TwoSample(wander(seed+1000, 4000, c.shift), seed)
			if err != nil || len(got) != 6 {
				t.Fatalf("%v, %v", got, err)
			}
			for _, d := range got {
				if d.P <= 0.01 {
					*c.count++
					break
				}
			}
		}
	}
	if alarms > 3 {
		t.Errorf("%d alarms in %d runs of no change at a level of 1 %%", alarms, runs)
	}
	if found < runs*9/10 {
		t.Errorf("found %d of %d shifts", found, runs)
	}
	p, err := NewProfile(wander(1, 4000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.TwoSample(wander(2, 40, 0), 1); got != nil || err != nil {
		t.Errorf("of 40 rows it says %v, %v; want nothing", got, err)
	}
}

func TestAChangeOfUnitIsNamed(t *testing.T) {
	for _, c := range []struct {
		before, after Level
		unit, want    string
	}{
		{Level{90, 1}, Level{194, 1.8}, "Cel", "from Cel to [degF]"},
		{Level{90, 1}, Level{194, 1.8}, "°C", "from Cel to [degF]"},
		{Level{194, 1.8}, Level{90, 1}, "[degF]", "from [degF] to Cel"},
		{Level{5, 0.1}, Level{500, 10}, "bar", "from bar to kPa"},
		{Level{500, 10}, Level{5, 0.1}, "kPa", "from kPa to bar"},
		{Level{2, 0.1}, Level{7.2, 0.36}, "m/s", "from m/s to km/h"},
		{Level{90, 1}, Level{92, 1}, "Cel", ""},                    // it moved a little
		{Level{-273, 60}, Level{0, 60}, "Cel", ""},                 // less than its own wander
		{Level{90, 1}, Level{194, 40}, "Cel", ""},                  // it went wild
		{Level{90, 1}, Level{9000, 100}, "Cel", ""},                // no such unit of temperature
		{Level{0, 0}, Level{32, 0}, "", ""},                        // a switch
		{Level{math.NaN(), 1}, Level{math.NaN(), 1}, "Cel", ""},    // nothing known
		{Level{90, 1}, Level{math.Inf(1), math.Inf(1)}, "Cel", ""}, // nothing known
	} {
		if got := Conversion(c.before, c.after, c.unit); got != c.want {
			t.Errorf("%v to %v in %q: %q, want %q", c.before, c.after, c.unit, got, c.want)
		}
	}
}

func TestEventsAreFoundByAnyWindowThatEndsInThem(t *testing.T) {
	labels := make([]bool, 100)
	for _, span := range [][2]int{{10, 20}, {30, 31}, {50, 60}, {80, 100}} {
		for i := span[0]; i < span[1]; i++ {
			labels[i] = true
		}
	}
	var verdicts []Verdict
	for row := 5; row < 100; row += 5 { // rows 30 and 80 begin events
		verdicts = append(verdicts, Verdict{Row: row, Flag: row == 15 || row == 40 || row == 95})
	}
	if events, found := Events(verdicts, labels); events != 4 || found != 2 {
		t.Errorf("found %d of %d, want 2 of 4", found, events)
	}
}
