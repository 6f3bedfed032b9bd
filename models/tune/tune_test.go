package tune

import (
	"context"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/evaluate"
	rt "github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
)

// machine is a recording of three channels that follow one load, which wanders by step a row.
func machine(rows int, step float64) zoo.Dataset {
	rng := rand.New(rand.NewPCG(1, 2))
	s := zoo.Series{Device: "m", Values: make([][]float32, 3)}
	wander := 0.0
	for i := range rows {
		load := math.Sin(2*math.Pi*float64(i)/40) + wander
		wander += step
		for ch := range s.Values {
			s.Values[ch] = append(s.Values[ch], float32(float64(ch+1)*load+0.1*rng.NormFloat64()))
		}
	}
	return zoo.Dataset{Channels: []contract.Channel{{Name: "a"}, {Name: "b"}, {Name: "c"}}, SampleRateHz: 1, Series: []zoo.Series{s}}
}

func needRuntime(t *testing.T) {
	t.Helper()
	if _, err := rt.Library(""); err != nil {
		t.Skip(err)
	}
}

var few = []Candidate{
	{zoo.PCA, zoo.Config{Pattern: 1, Smooth: 60, Variance: 0.5, PlaneWeight: 10}},
	{zoo.PCA, zoo.Config{Pattern: 3, Smooth: 5, Variance: 0.85, PlaneWeight: 3}},
	{zoo.Forest, zoo.Config{Pattern: 1, Smooth: 1}},
	{zoo.PCA, zoo.Config{Pattern: 1000, Smooth: 1}}, // longer than a piece: cannot be fitted
}

func TestTheBestOfEachKindIsFoundTheSameWayEveryTime(t *testing.T) {
	needRuntime(t)
	d, o := machine(1500, 0), Options{TrainRows: 300, Candidates: few}
	tried := 0
	o.Tried = func(_ Trial, _, of int) {
		if tried++; of != len(few) {
			t.Errorf("%d candidates, want %d", of, len(few))
		}
	}
	r, err := Choose(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	if tried != 3 || r.Pieces != 2 || len(r.Best) != 2 {
		t.Fatalf("%d tried, %d pieces, %d kinds", tried, r.Pieces, len(r.Best))
	}
	best := r.Best[0]
	if best.Kind != zoo.PCA || best.Fit.Smooth != 5 || best.Youden() < 0.5 {
		t.Errorf("got %+v with index %.2f", best, best.Youden())
	}
	if best.Youden() < r.Best[1].Youden() {
		t.Errorf("the best is not first: %.2f before %.2f", best.Youden(), r.Best[1].Youden())
	}
	if !strings.Contains(r.Failed[zoo.PCA], "features") {
		t.Errorf("the one that could not be fitted: %q", r.Failed)
	}
	o.Tried = nil
	again, err := Choose(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r.Best, again.Best) {
		t.Errorf("chose %+v, then %+v", r.Best, again.Best)
	}
}

func TestABoundOnFalseAlarmsHolds(t *testing.T) {
	needRuntime(t)
	d, o := machine(900, 0.02), Options{TrainRows: 300, Candidates: few[1:2]}
	free, err := Choose(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	o.MaxFalseAlarms = free.Best[0].FalseAlarms / 2
	bound, err := Choose(t.Context(), d, o)
	if err == nil {
		b := bound.Best[0]
		if b.FalseAlarms > o.MaxFalseAlarms || b.Missed < free.Best[0].Missed {
			t.Errorf("bound to %.3f: %.3f flagged, %.3f missed; free: %.3f and %.3f", o.MaxFalseAlarms, b.FalseAlarms, b.Missed, free.Best[0].FalseAlarms, free.Best[0].Missed)
		}
	} else if !strings.Contains(err.Error(), "flagged at every margin") {
		t.Error(err)
	}
	o.MaxFalseAlarms, o.Margins = 1e-9, []float64{1e-6} // so low that everything is flagged
	if _, err := Choose(t.Context(), d, o); err == nil || !strings.Contains(err.Error(), "flagged at every margin") {
		t.Errorf("got %v", err)
	}
}

// Rows are weighed as if every copy with a fault were a recording of its own.
func TestEveryRowCountsOnce(t *testing.T) {
	needRuntime(t)
	d := machine(900, 0)
	o := Options{TrainRows: 300, PieceRows: 900, Margins: []float64{1e-6, 1e5}, MaxGap: 3}
	ps := pieces(d, o)
	if len(ps) != 1 || ps[0].from != 450 || ps[0].to != 750 {
		t.Fatalf("%d pieces, the first with a fault in rows %d to %d", len(ps), ps[0].from, ps[0].to)
	}
	copies := 3 * len(Faults()) / 3 // channels times faults at one strength
	if len(ps[0].faulty) != copies {
		t.Fatalf("%d copies, want %d", len(ps[0].faulty), copies)
	}
	n, err := judge(t.Context(), d, ps[0], few[1], o)
	if err != nil {
		t.Fatal(err)
	}
	// Of 600 rows behind those learned from, one in four is judged, half of them in the fault.
	if slack := 2 * copies; abs(n.normal-copies*75) > slack || abs(n.faulty-copies*75) > slack {
		t.Errorf("%d normal and %d faulty rows for %d copies", n.normal, n.faulty, copies)
	}
	if n.alarmed[0] != n.normal || n.missed[0] != 0 || n.alarmed[1] != 0 || n.missed[1] != n.faulty {
		t.Errorf("of %d and %d rows %v alarmed, %v missed: want all and none, none and all", n.normal, n.faulty, n.alarmed, n.missed)
	}
}

func abs(n int) int { return max(n, -n) }

func TestFaultsLastAndComeInThreeStrengths(t *testing.T) {
	by := map[evaluate.FaultKind]int{}
	for _, f := range Faults() {
		by[f.Kind]++
	}
	want := map[evaluate.FaultKind]int{evaluate.Drift: 3, evaluate.Stuck: 3, evaluate.Scale: 3, evaluate.Noise: 3}
	if !reflect.DeepEqual(by, want) {
		t.Errorf("got %v, want %v", by, want)
	}
}

func TestEveryCandidateOfTheGridIsValid(t *testing.T) {
	for _, c := range Grid() {
		if err := c.Fit.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestWhatCannotBeChosenFromIsExplained(t *testing.T) {
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for name, c := range map[string]struct {
		ctx  context.Context
		o    Options
		want string
	}{
		"no rows to learn from": {t.Context(), Options{}, "how many rows"},
		"short pieces":          {t.Context(), Options{TrainRows: 300, PieceRows: 301}, "316 or more"},
		"short recordings":      {t.Context(), Options{TrainRows: 400}, "no recording has 1200 rows"},
		"stopped":               {stopped, Options{TrainRows: 100, Candidates: few}, "canceled"},
	} {
		if _, err := Choose(c.ctx, machine(500, 0), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
