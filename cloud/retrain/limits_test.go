package retrain

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/models/zoo"
)

// TestGatesOnQualityHoldTheirLimits plays scores on both sides of every limit.
func TestGatesOnQualityHoldTheirLimits(t *testing.T) {
	good := Score{Candidate: Candidate{Kind: "pca"}, Windows: 1000, Days: 1, FlagShare: 0.01, Detected: 0.8, Faults: 100}
	with := func(change func(*Score)) Score { s := good; change(&s); return s }
	slice := func(x SliceScore) func(*Score) { return func(s *Score) { s.Slices = []SliceScore{x} } }
	one := func(s Score, champion *Score) JudgedClass {
		return JudgedClass{Windows: 1000, Candidates: []Score{s}, Champion: champion}
	}
	beside := func(change func(*Score)) *Score { s := with(change); return &s }
	for name, tc := range map[string]struct {
		gates func(*Gates)
		class JudgedClass
		pass  bool
	}{
		"flags as much as it may":   {nil, one(with(func(s *Score) { s.FlagShare = 0.05 }), nil), true},
		"flags a little more":       {nil, one(with(func(s *Score) { s.FlagShare = 0.051 }), nil), false},
		"finds as little as it may": {nil, one(with(func(s *Score) { s.Detected = 0.3 }), nil), true},
		"finds a little less":       {nil, one(with(func(s *Score) { s.Detected = 0.299 }), nil), false},
		"alarms as often as it may": {func(g *Gates) { g.MaxPerDay = 2 }, one(with(func(s *Score) { s.Alarms = 2 }), nil), true},
		"alarms more often":         {func(g *Gates) { g.MaxPerDay = 2 }, one(with(func(s *Score) { s.Alarms = 2.01 }), nil), false},
		"as much worse as it may":   {func(g *Gates) { g.Margin = 0.25 }, one(with(func(s *Score) { s.Detected = 0.5 }), beside(func(s *Score) { s.Detected = 0.75 })), true},
		"a little worse than that":  {func(g *Gates) { g.Margin = 0.25 }, one(with(func(s *Score) { s.Detected = 0.49 }), beside(func(s *Score) { s.Detected = 0.75 })), false},
		"finds the share of events that is wanted": {func(g *Gates) { g.MinEventsFound = 0.5 },
			one(with(func(s *Score) { s.Events, s.EventsFound = 2, 1 }), nil), true},
		"finds fewer events": {func(g *Gates) { g.MinEventsFound = 0.5 }, one(with(func(s *Score) { s.Events, s.EventsFound = 3, 1 }), nil), false},
		"worse on a line by more than chance": {nil, one(with(slice(SliceScore{Name: "line=a", Faults: 100, Detected: 0.5})),
			beside(slice(SliceScore{Name: "line=a", Faults: 100, Detected: 0.8}))), false},
		"worse on a line by what may be chance": {nil, one(with(slice(SliceScore{Name: "line=a", Faults: 30, Detected: 0.5})),
			beside(slice(SliceScore{Name: "line=a", Faults: 30, Detected: 0.8}))), true},
		"misses what a champion that alarms at everything found on a line": {nil, one(with(slice(SliceScore{Name: "line=a", Faults: 100, Detected: 0.4})),
			beside(func(s *Score) {
				s.FlagShare, s.Detected = 0.9, 1
				slice(SliceScore{Name: "line=a", Faults: 100, Detected: 1})(s)
			})), true},
		"misses all three labelled events that the champion found": {nil, one(with(slice(SliceScore{Name: sliceEvents, Faults: 3})),
			beside(slice(SliceScore{Name: sliceEvents, Faults: 3, Detected: 1}))), false},
		"misses two labelled events, which show nothing": {nil, one(with(slice(SliceScore{Name: sliceEvents, Faults: 2})),
			beside(slice(SliceScore{Name: sliceEvents, Faults: 2, Detected: 1}))), true},
	} {
		t.Run(name, func(t *testing.T) {
			g := Policy{}.withDefaults().Gates
			if tc.gates != nil {
				tc.gates(&g)
			}
			if b := Bless(g, Judged{Classes: []JudgedClass{tc.class}}); (len(b.Winners) == 1) != tc.pass {
				t.Errorf("winners %d, %v: want %v", len(b.Winners), b.Refusals, tc.pass)
			}
		})
	}
}

func TestTheBestOfThoseThatPassWins(t *testing.T) {
	score := func(kind string, detected, flags float64) Score {
		return Score{Candidate: Candidate{Kind: kind}, Windows: 1000, Faults: 100, Detected: detected, FlagShare: flags}
	}
	for name, tc := range map[string]struct {
		of   []Score
		want string
	}{
		"finds the most":                             {[]Score{score("a", 0.7, 0), score("b", 0.8, 0.04)}, "b"},
		"as good as equal, and flags less":           {[]Score{score("a", 0.8, 0.04), score("b", 0.795, 0.01)}, "b"},
		"nearly as good is not equal":                {[]Score{score("a", 0.8, 0.04), score("b", 0.78, 0.01)}, "a"},
		"equal in all that can be told: the simpler": {[]Score{score("a", 0.795, 0.012), score("b", 0.8, 0.01)}, "a"},
		"what does not pass does not win":            {[]Score{score("a", 1, 0.5), score("b", 0.4, 0.01)}, "b"},
	} {
		b := Bless(Policy{}.withDefaults().Gates, Judged{Classes: []JudgedClass{{Windows: 1000, Candidates: tc.of}}})
		if len(b.Winners) != 1 || b.Winners[0].Score.Candidate.Kind != tc.want {
			t.Errorf("%s: %+v, want %s", name, b.Winners, tc.want)
		}
	}
}

func TestEachClassIsRefusedForItsOwnReasons(t *testing.T) {
	score := func(class string, detected, flags float64) JudgedClass {
		c := JudgedClass{Class: "pump", Windows: 1000}
		if class != "" {
			c.Class = "fan"
		}
		c.Candidates = []Score{{Candidate: Candidate{Kind: "pca", Class: c.Class}, Windows: 1000, Faults: 100, Detected: detected, FlagShare: flags}}
		return c
	}
	b := Bless(Policy{}.withDefaults().Gates, Judged{Classes: []JudgedClass{score("", 0.1, 0), score("fan", 0.9, 0.5)}})
	if len(b.Refusals) != 2 || strings.Contains(b.Refusals[0], "flagged") || strings.Contains(b.Refusals[1], "faults") {
		t.Errorf("%q", b.Refusals)
	}
}

func TestScoresThatAreNoNumbersAreCounted(t *testing.T) {
	var s Score
	inf := float32(math.Inf(1))
	s.take(evaluate.Report{Verdicts: map[string][]evaluate.Verdict{"a": {{Score: nan}, {Score: inf}, {Score: -inf}, {Score: 1}}}})
	if s.NonFinite != 3 {
		t.Errorf("%d scores are no numbers, want 3", s.NonFinite)
	}
}

// TestNoRowLearnsAndJudges cuts the rows of a plant by a share and by days.
func TestNoRowLearnsAndJudges(t *testing.T) {
	const lead = 9
	for name, from := range map[string]time.Time{"a fifth of the rows": {}, "the last days": night.Add(-150 * time.Second)} {
		p := newPlant(2, 500)
		p.labels = []feedback.Label{{Device: id(1), From: night.Add(-300 * time.Second), To: night.Add(-290 * time.Second), Value: feedback.Anomaly, At: night}}
		r := start(t, p)
		ex, err := r.extract(t.Context(), Order{Policy: Policy{Name: "pumps"}.withDefaults(), At: night.Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		snap, err := r.snapshot(t.Context(), ex.Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		c := ClassData{Class: "pump", Devices: []string{id(0).String(), id(1).String()}, SampleRateHz: 1, Channels: []ChannelInfo{{"flow", "l/min"}}, HoldOut: holdOut, HoldFrom: from}
		learns, err := r.dataset(t.Context(), snap, c, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		judges, err := r.dataset(t.Context(), snap, c, lead, true)
		if err != nil {
			t.Fatal(err)
		}
		for i := range learns.Series {
			last, first := learns.Series[i].Times[learns.Series[i].Rows()-1], judges.Series[i].Times[lead]
			if first-last != int64(time.Second) {
				t.Errorf("%s: the last row to learn from is %s, the first that judges %s: want it to be the next", name, time.Unix(0, last).UTC(), time.Unix(0, first).UTC())
			}
		}
		// Eleven rows of the event, and three before them.
		if a, b := learns.Series[0].Rows(), learns.Series[1].Rows(); a-b != 14 {
			t.Errorf("%s: %d rows of an event were not learned, want 14", name, a-b)
		}
	}
}

func TestAFindingThatIsNoNumberLeavesTheDeviceOut(t *testing.T) {
	in := inspection{why: map[string]string{}, tables: []table{{entry: SnapshotEntry{Device: id(0)}}}}
	in.each("odd", 1, func(table) finding { return finding{math.NaN(), "", "nobody knows"} })
	if len(in.tables) != 0 || len(in.gates) != 1 || in.gates[0].Verdict != Fail {
		t.Errorf("%+v", in.gates)
	}
}

// machine is one device's table of rows around a level.
func machine(i, rows int, level, spread float64, from time.Time) table {
	rng := rand.New(rand.NewPCG(uint64(i), uint64(rows)))
	tb := table{entry: SnapshotEntry{Device: id(i), Class: "pump"}, signals: []Signal{{Name: "flow", Unit: "l/min"}}}
	for r := range rows {
		tb.rows, tb.times = append(tb.rows, uint64(r)), append(tb.times, from.Add(time.Duration(r)*time.Second).UnixNano())
		tb.signals[0].Values = append(tb.signals[0].Values, float32(level+spread*rng.NormFloat64()))
	}
	return tb
}

func profile(t *testing.T, ts ...table) *evaluate.Profile {
	t.Helper()
	ds := zoo.Dataset{Channels: []contract.Channel{{Name: "flow", Unit: "l/min"}}, SampleRateHz: 1}
	for _, tb := range ts {
		ds.Series = append(ds.Series, tb.series([]ChannelInfo{{"flow", "l/min"}}, 0, len(tb.rows)))
	}
	p, err := evaluate.NewProfile(ds)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

func TestLimitsOfDriftRefuseWhatMovedAndWhatCannotBeTold(t *testing.T) {
	old := night.Add(-24 * time.Hour)
	before := []table{machine(1, 2000, 70, 1, old), machine(2, 2000, 70, 1, old)}
	broken := *profile(t, before...)
	broken.Channels = slices.Clone(broken.Channels)
	broken.Channels[0].Shares = slices.Clone(broken.Channels[0].Shares)
	broken.Channels[0].Shares[0] = math.NaN()
	for name, tc := range map[string]struct {
		gates    Gates
		champion *evaluate.Profile
		tables   []table
		since    time.Time
		says     string // empty: it passes
	}{
		"as before":                            {Gates{MaxPSI: 0.25, MaxTwoSample: 0.3}, nil, []table{machine(3, 1000, 70, 1, night)}, old, ""},
		"moved, by stability":                  {Gates{MaxPSI: 0.25}, nil, []table{machine(3, 1000, 73, 1, night)}, old, "population stability index"},
		"moved, without a limit":               {Gates{}, nil, []table{machine(3, 1000, 73, 1, night)}, old, ""},
		"a profile that is no number":          {Gates{MaxPSI: 0.25}, &broken, []table{machine(3, 1000, 70, 1, night)}, old, "population stability index"},
		"moved, by two samples":                {Gates{MaxTwoSample: 0.3}, nil, []table{machine(3, 1000, 73, 1, night)}, old, "is distributed otherwise"},
		"another spread":                       {Gates{MaxTwoSample: 0.3}, nil, []table{machine(3, 1000, 70, 3, night)}, old, "the spread of channel flow is distributed otherwise"},
		"over the limit by what may be chance": {Gates{MaxTwoSample: 0.01}, nil, []table{machine(3, 1000, 70, 1, night)}, old, ""},
		"too few rows to tell":                 {Gates{MaxTwoSample: 0.3}, nil, []table{machine(3, 100, 70, 1, night)}, old, "too few blocks of rows"},
		"too few rows, no limit":               {Gates{}, nil, []table{machine(3, 100, 70, 1, night)}, old, ""},
		"only what is new counts":              {Gates{MaxPSI: 0.25}, nil, []table{machine(3, 1500, 70, 1, night.Add(-1500*time.Second)), machine(4, 600, 74, 1, night)}, night, "its new rows"},
		"too little is new: all of it counts":  {Gates{MaxPSI: 0.25}, nil, []table{machine(3, 3000, 70, 1, night.Add(-3000*time.Second)), machine(4, 100, 74, 1, night)}, night, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.champion == nil {
				tc.champion = profile(t, before...)
			}
			in := inspection{class: "pump", policy: Policy{Gates: tc.gates, Seed: 7}, champion: tc.champion, tables: tc.tables}
			c := ClassData{Class: "pump", Channels: []ChannelInfo{{"flow", "l/min"}}, SampleRateHz: 1}
			refusal := in.drift(&c, tc.since.UnixNano())
			said := refusal
			for _, g := range in.gates {
				said += "; " + g.Message
			}
			if (refusal == "") != (tc.says == "") || !strings.Contains(said, tc.says) {
				t.Errorf("%q, want %q", said, tc.says)
			}
		})
	}
}

func TestHalfOfTheDevicesAreEnough(t *testing.T) {
	var ts []table
	for i := range 4 {
		ts = append(ts, machine(i, 200, 70, 1, night))
	}
	for i := range 2 {
		ts[i].signals[0].Values[7] = float32(math.Inf(1))
	}
	p := Policy{}.withDefaults()
	if in, refusal := inspect("pump", ts, p, nil); refusal != "" || len(in.tables) != 2 {
		t.Errorf("two of four: %q, %d are left", refusal, len(in.tables))
	}
	ts[2].signals[0].Values[7] = float32(math.Inf(1))
	if _, refusal := inspect("pump", ts, p, nil); !strings.Contains(refusal, "3 of 4 devices had to be left out") {
		t.Errorf("three of four: %q", refusal)
	}
}

func TestRangesHoldOnBothSidesAndThePolicysGoBeforeTheChampions(t *testing.T) {
	champion := profile(t, machine(1, 500, 70, 1, night))
	for name, tc := range map[string]struct {
		value  float32
		ranges map[string]Range
		out    bool
	}{
		"far below the champion's":                {-500, nil, true},
		"far above the champion's":                {900, nil, true},
		"far above, and the policy allows it":     {900, map[string]Range{"flow": {0, 1000}}, false},
		"below the policy's":                      {20, map[string]Range{"flow": {50, 100}}, true},
		"within the champion's, widened":          {75, nil, false},
		"within the champion's, not the policy's": {75, map[string]Range{"flow": {60, 72}}, true},
	} {
		tb := machine(2, 500, 70, 0.2, night)
		for r := range 10 { // two of a hundred
			tb.signals[0].Values[r] = tc.value
		}
		in := inspection{policy: Policy{Gates: Gates{Ranges: tc.ranges}}, champion: champion}
		if f := in.ranges(tb); (f.value > maxOutOfRange) != tc.out {
			t.Errorf("%s: %+v, want it left out: %v", name, f, tc.out)
		}
	}
}
