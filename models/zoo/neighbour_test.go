package zoo

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
)

// stream is a daily rhythm of 96 rows with noise, its level rising slowly.
func stream(seed uint64, rows int) Series {
	r := rand.New(rand.NewPCG(seed, 4))
	s := Series{Device: "meter", Values: [][]float32{make([]float32, rows)}}
	for i := range rows {
		s.Values[0][i] = float32(40 + 5*math.Sin(2*math.Pi*float64(i)/96) + 0.002*float64(i) + 0.3*r.NormFloat64())
	}
	return s
}

func one(s Series) Dataset {
	return Dataset{Channels: []contract.Channel{{Name: "load", Unit: "kW"}}, Series: []Series{s}}
}

// alarms are the rows at which the model says anomaly.
func alarms(t *testing.T, m *runtime.Session, s Series, from int) (rows []int) {
	t.Helper()
	n := m.Contract().Window
	var r runtime.Result
	for end := max(from, n); end <= s.Rows(); end++ {
		if err := m.Score(s.AppendWindow(nil, end, n), &r); err != nil {
			t.Fatal(err)
		}
		if r.Anomaly != !(r.Score <= 1) {
			t.Fatalf("score %v, anomaly %v: the threshold is not 1", r.Score, r.Anomaly)
		}
		if r.Anomaly {
			rows = append(rows, end-1)
		}
	}
	return rows
}

func TestNeighbourLetsALevelDriftAndTellsAnEventOnce(t *testing.T) {
	s := stream(1, 3000)
	learned := Series{Device: s.Device, Values: [][]float32{s.Values[0][:600]}}
	m := session(t, fitted(t, Neighbour, one(learned), Config{}))
	if got := alarms(t, m, s, 601); len(got) > 1 {
		t.Errorf("alarms on a drifting rhythm: rows %v", got)
	}
	for name, c := range map[string]struct {
		from, to int
		change   func(v float32, i int) float32
	}{
		"a spike":             {2000, 2001, func(v float32, _ int) float32 { return v + 15 }},
		"a step that remains": {2000, 3000, func(v float32, _ int) float32 { return v - 12 }},
		"a burst of noise":    {2000, 2040, func(v float32, i int) float32 { return v + float32(12*(i%2)) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := stream(1, 2200)
			for i := c.from; i < min(c.to, s.Rows()); i++ {
				s.Values[0][i] = c.change(s.Values[0][i], i)
			}
			got := alarms(t, m, s, 1900)
			if len(got) == 0 || got[0] < c.from || got[0] > c.from+2 {
				t.Fatalf("alarms at rows %v, the event begins at %d", got, c.from)
			}
			if len(got) > 1 && got[1] < got[0]+149 {
				t.Errorf("one event is told more than once: rows %v", got)
			}
		})
	}
}

func TestNeighbourReadsAsManyRowsAsItWasFittedOn(t *testing.T) {
	for rows, want := range map[int]int{186: 166, 300: 280, 5000: 576} {
		if got := fitted(t, Neighbour, one(stream(1, rows)), Config{}).Contract.Window; got != want {
			t.Errorf("window after %d rows is %d, want %d", rows, got, want)
		}
	}
}

func TestNeighbourOfASeriesThatNeverMovedAlarmsWhenItMoves(t *testing.T) {
	s := stream(1, 900)
	for i := range s.Values[0] {
		s.Values[0][i] = 45
	}
	m := session(t, fitted(t, Neighbour, one(Series{Device: "m", Values: [][]float32{s.Values[0][:300]}}), Config{}))
	if got := alarms(t, m, s, 301); len(got) > 0 {
		t.Errorf("alarms on a flat line: %v", got)
	}
	s.Values[0][700] = 45.5
	if got := alarms(t, m, s, 301); len(got) != 1 || got[0] != 700 {
		t.Errorf("alarms at %v, the line moves at row 700", got)
	}
}
