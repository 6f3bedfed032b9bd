package zoo

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/swellfleet/swell/models/contract"
)

// traffic makes a stream of one channel that repeats itself every season rows, its height drifting slowly.
func traffic(seed uint64, rows, season int) Dataset {
	r := rand.New(rand.NewPCG(seed, 9))
	s := Series{Device: "gate", Values: make([][]float32, 1)}
	for i := range rows {
		phase := float64(i%season) / float64(season)
		v := 100*math.Exp(-40*(phase-0.3)*(phase-0.3)) + 60*math.Exp(-90*(phase-0.7)*(phase-0.7)) + float64(i)/500 + 2*r.NormFloat64()
		s.Values[0] = append(s.Values[0], float32(v))
		s.Times = append(s.Times, int64(i)*int64(time.Minute))
	}
	return Dataset{Channels: []contract.Channel{{Name: "vehicles"}}, SampleRateHz: 1.0 / 60, Series: []Series{s}}
}

func TestSingleStreamsThatRepeatThemselves(t *testing.T) {
	const season = 96
	for kind, faults := range map[string]map[string]func(v []float32, at int){
		Seasonal: {
			"the morning's peak stays away": func(v []float32, at int) {
				from := at - at%season
				for i := from; i < from+season/2; i++ {
					v[i] = 20
				}
			},
			"a peak at night": func(v []float32, at int) { v[at-at%season+2] += 80 },
		},
		Spectral: {"a single spike": func(v []float32, at int) { v[at] += 120 }, "a single dip": func(v []float32, at int) { v[at] -= 120 }},
	} {
		t.Run(kind, func(t *testing.T) {
			f := fitted(t, kind, traffic(1, 12*season, season), Config{})
			if kind == Seasonal && f.Card["season"] != season {
				t.Errorf("found a season of %v rows, want %d", f.Card["season"], season)
			}
			m := session(t, f)
			if share := flagged(t, m, traffic(2, 12*season, season).Series[0]); share > 0.01 {
				t.Errorf("flags %.2f %% of another run's normal operation", 100*share)
			}
			for name, change := range faults {
				s := traffic(2, 6*season, season).Series[0]
				before := flagged(t, m, s)
				change(s.Values[0], 4*season+10)
				if after := flagged(t, m, s); after <= before {
					t.Errorf("%s: not found", name)
				}
			}
		})
	}
}

func TestNoiseHasNoSeason(t *testing.T) {
	need(t)
	d := traffic(3, 600, 50)
	r := rand.New(rand.NewPCG(3, 3))
	for i := range d.Series[0].Values[0] {
		d.Series[0].Values[0][i] = float32(r.NormFloat64())
	}
	if _, err := Fit(context.Background(), Seasonal, d, Config{}); !errors.Is(err, ErrData) {
		t.Errorf("noise: %v", err)
	}
}
