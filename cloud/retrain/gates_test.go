package retrain

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/protocol/topic"
)

// change sets values of one signal of one device.
func (p *plant) change(device, signal, from, to int, f func(row int, v float32) float32) {
	v := p.columns[id(device)].Signals[signal].Values
	for r := from; r < min(to, len(v)); r++ {
		v[r] = f(r, v[r])
	}
}

// everywhere is change on all rows of all devices.
func (p *plant) everywhere(signal int, f func(row int, v float32) float32) {
	for i := range p.devices {
		p.change(i, signal, 0, math.MaxInt, f)
	}
}

func fahrenheit(_ int, v float32) float32 { return v*1.8 + 32 }

// TestBadInputEndsInARefusalAndLastNightsModelStays plays each kind of bad
// night on a plant whose model of the night before is promoted.
func TestBadInputEndsInARefusalAndLastNightsModelStays(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, tc := range map[string]struct {
		harm func(*plant)
		gate string // that fails; empty: the run is refused before there are gates
		says string
	}{
		"corrupt segments": {func(p *plant) { p.damaged = map[topic.ID]bool{id(0): true, id(1): true, id(2): true} }, "segments", "segment is damaged"},
		"partial segments": {func(p *plant) {
			for i := range 3 {
				s := p.columns[id(i)].Signals
				s[1].Values = s[1].Values[:100]
			}
		}, "segments", "500 rows and 100 values of channel flow"},
		"a night without data": {func(p *plant) { clear(p.columns) }, "", "sent data"},
		"two devices of three with garbage": {func(p *plant) {
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range 2 {
				p.change(i, 1, 0, 500, func(int, float32) float32 { return float32(rng.NormFloat64() * 1e6) })
			}
		}, "range", "2 of 3 devices had to be left out"},
		"not a number":       {func(p *plant) { p.everywhere(2, func(int, float32) float32 { return nan }) }, "gaps", "values are missing"},
		"infinities":         {func(p *plant) { p.everywhere(2, func(int, float32) float32 { return inf }) }, "range", "infinite values in channel temperature"},
		"a constant channel": {func(p *plant) { p.everywhere(2, func(int, float32) float32 { return 90 }) }, "stuck", "channel temperature stands still at 90"},
		"a declared unit changed": {func(p *plant) {
			for i := range 3 {
				p.columns[id(i)].Signals[2].Unit = "K"
			}
		}, "units", `declared in "K", the champion learned it in "Cel"`},
		"an undeclared unit changed": {func(p *plant) { p.everywhere(2, fahrenheit) }, "units", "as if its unit was changed from Cel to [degF]"},
		"a channel gone": {func(p *plant) {
			for i := range 3 {
				c := p.columns[id(i)]
				c.Signals = c.Signals[:2]
				p.columns[id(i)] = c
			}
		}, "schema", "channels that the champion reads and not every device sends: temperature"},
		"every row twice and against the clock": {func(p *plant) {
			for i := range 3 {
				c := p.columns[id(i)]
				for r := 1; r < len(c.Rows); r++ {
					c.Times[r] = c.Times[0] - int64(r)
				}
			}
		}, "", "only 1 rows"},
		"drift": {func(p *plant) { p.everywhere(1, func(_ int, v float32) float32 { return v + 30 }) }, "psi", "population stability index"},
		"a label among the channels": {func(p *plant) {
			for i := range 3 {
				c := p.columns[id(i)]
				c.Signals = append(c.Signals, Signal{Name: "verdict", Values: make([]float32, len(c.Rows))})
				p.columns[id(i)] = c
				p.labels = append(p.labels, feedback.Label{Device: id(i), From: time.Unix(0, c.Times[100]), To: time.Unix(0, c.Times[150]), Value: feedback.Anomaly, At: night})
				p.change(i, 3, 100, 151, func(int, float32) float32 { return 1 })
			}
		}, "leakage", "channel verdict agrees with people's labels almost always"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(3, 500)
			r := start(t, p)
			if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Fit: quick, Kinds: []string{"pca"}, Gates: Gates{MaxPSI: 1}}); err != nil {
				t.Fatal(err)
			}
			if run := r.night(t); run.Outcome.Released == nil {
				t.Fatalf("the good night was refused: %v %s", run.Outcome.Refusals(), run.Err)
			}
			if err := registry.Promote(t.Context(), r.reg, "pumps", 1, "test"); err != nil {
				t.Fatal(err)
			}
			p.columns = newPlant(3, 500).columns
			tc.harm(p)
			run := r.night(t)
			said := run.Err + strings.Join(run.Outcome.Refusals(), "; ")
			if !strings.Contains(said, tc.says) {
				t.Errorf("%s: %q, want it to say %q", run.State, said, tc.says)
			}
			if run.State == engine.Succeeded && !strings.Contains(run.Outcome.Summary, "The champion stays") {
				t.Errorf("summary %q", run.Outcome.Summary)
			}
			if tc.gate != "" && !slices.ContainsFunc(run.Outcome.Validated.Gates, func(g GateResult) bool {
				return g.Gate == tc.gate && g.Verdict == Fail && g.Message != ""
			}) {
				t.Errorf("gate %s did not fail: %+v", tc.gate, run.Outcome.Validated.Gates)
			}
			if len(r.packages) != 1 {
				t.Error("something was released")
			}
			if champion, err := registry.Champion(t.Context(), r.reg, "pumps"); err != nil || champion.Counter != 1 {
				t.Errorf("champion %d, %v", champion.Counter, err)
			}
			t.Log(said)
		})
	}
}

func TestOneDevicePoisonsNobody(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for name, tc := range map[string]struct {
		gate, says string
		harm       func(*plant)
	}{
		"garbage": {"garbage", "as far from its 3 peers", func(p *plant) {
			p.change(1, 1, 0, 500, func(int, float32) float32 { return float32(rng.NormFloat64() * 1e5) })
		}},
		"wild":                        {"garbage", "the spread of channel temperature", func(p *plant) { p.change(1, 2, 0, 500, func(_ int, v float32) float32 { return 90 + 400*(v-90) }) }},
		"a stuck sensor":              {"stuck", "channel flow stands still", func(p *plant) { p.change(1, 1, 200, 500, func(int, float32) float32 { return 71.5 }) }},
		"dead from the start":         {"stuck", "channel flow stands still", func(p *plant) { p.change(1, 1, 0, 500, func(int, float32) float32 { return 0 }) }},
		"its unit changed on the way": {"units", "from Cel to [degF]", func(p *plant) { p.change(1, 2, 250, 500, fahrenheit) }},
		"another unit all the time":   {"garbage", "from Cel to [degF]", func(p *plant) { p.change(1, 2, 0, 500, fahrenheit) }},
		"outside the policy's range":  {"range", "outside the policy's range of 0 to 200", func(p *plant) { p.change(1, 1, 0, 50, func(int, float32) float32 { return 900 }) }},
		"damaged segment":             {"segments", "damaged", func(p *plant) { p.damaged = map[topic.ID]bool{id(1): true} }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(4, 500)
			tc.harm(p)
			r := start(t, p)
			if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Fit: quick, Kinds: []string{"pca"}, Gates: Gates{Ranges: map[string]Range{"flow": {0, 200}}}}); err != nil {
				t.Fatal(err)
			}
			if tc.gate == "garbage" { // ranges would see it first
				if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Fit: quick, Kinds: []string{"pca"}}); err != nil {
					t.Fatal(err)
				}
			}
			run := r.night(t)
			if run.Outcome.Released == nil {
				t.Fatalf("one device stopped all: %v %s", run.Outcome.Refusals(), run.Err)
			}
			if got := run.Outcome.Validated.Classes[0].Devices; len(got) != 3 || slices.Contains(got, id(1).String()) {
				t.Errorf("learned from %v", got)
			}
			for _, g := range run.Outcome.Validated.Gates {
				if g.Verdict != Fail {
					continue
				}
				if g.Gate != tc.gate || g.Device != id(1).String() || !strings.Contains(g.Message, tc.says) {
					t.Errorf("gate %s of %s says %q, want %s with %q", g.Gate, g.Device, g.Message, tc.gate, tc.says)
				}
			}
			if d := run.Outcome.Validated.Dropped; len(d) != 1 || d[0].Device != id(1).String() || !strings.Contains(d[0].Why, tc.says) {
				t.Errorf("dropped %+v", d)
			}
		})
	}
}

func TestAGoodNightPassesEveryDataGateAndSaysSo(t *testing.T) {
	p := newPlant(3, 1200)
	r := start(t, p)
	if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Fit: quick, Kinds: []string{"pca"}, Gates: Gates{MaxPSI: 0.25, MaxTwoSample: 0.3}}); err != nil {
		t.Fatal(err)
	}
	r.night(t)
	if err := registry.Promote(t.Context(), r.reg, "pumps", 1, "test"); err != nil {
		t.Fatal(err)
	}
	fresh := newPlant(6, 1200) // other rows of the same machines
	for i := range 3 {
		p.columns[id(i)] = fresh.columns[id(i+3)]
	}
	run := r.night(t)
	seen := map[string]bool{}
	for _, g := range run.Outcome.Validated.Gates {
		seen[g.Gate] = true
		if g.Verdict != Pass || g.Message == "" {
			t.Errorf("%s: %s %q", g.Gate, g.Verdict, g.Message)
		}
	}
	for _, gate := range []string{"schema", "range", "gaps", "stuck", "constant", "units", "garbage", "leakage", "psi", "two-sample", "new-data", "order"} {
		if !seen[gate] {
			t.Errorf("gate %s is not recorded", gate)
		}
	}
}

func TestWhatPeopleLabelledIsNotLearnedAndIsLookedFor(t *testing.T) {
	p := newPlant(3, 900)
	c := p.columns[id(0)]
	p.change(0, 1, 300, 360, func(_ int, v float32) float32 { return v + 25 })
	p.labels = []feedback.Label{
		{Device: id(0), From: time.Unix(0, c.Times[300]), To: time.Unix(0, c.Times[359]), Value: feedback.Anomaly, By: "user:ada", At: night},
		{Device: id(1), From: time.Unix(0, c.Times[100]), To: time.Unix(0, c.Times[400]), Value: feedback.Normal, By: "user:ada", At: night},
		{Device: id(2), From: time.Unix(0, c.Times[10]), To: time.Unix(0, c.Times[20]), Value: feedback.Unsure, By: "user:ada", At: night},
		{Device: topic.ID{Site: "hall-9", Node: "nobody"}, From: night, To: night, Value: feedback.Anomaly, At: night},
	}
	r := start(t, p)
	if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Fit: quick, Kinds: []string{"pca"}, Gates: Gates{MinEventsFound: 0.9}}); err != nil {
		t.Fatal(err)
	}
	run := r.night(t)
	if ex := run.Outcome.Extracted; ex.Labels != 3 || ex.Unknown != 1 {
		t.Errorf("%d labels, %d of unknown devices; want 3 and 1", ex.Labels, ex.Unknown)
	}
	if run.Outcome.Released == nil {
		t.Fatalf("refused: %v %s", run.Outcome.Refusals(), run.Err)
	}
	s := run.Outcome.Judged.Classes[0].Candidates[0]
	if s.Events != 1 || s.EventsFound != 1 {
		t.Errorf("found %d of %d events, want the one", s.EventsFound, s.Events)
	}
	if top := run.Outcome.Validated.Classes[0].Profile.Channels[1].Max; top > 85 {
		t.Errorf("the event is in the data to learn from: flow up to %g", top)
	}
	if !slices.ContainsFunc(s.Slices, func(x SliceScore) bool { return x.Name == sliceNormal && x.Windows > 250 }) {
		t.Errorf("no slice of what people called normal: %+v", s.Slices)
	}
	// Without labels a policy that wants events found cannot be met.
	p.labels = nil
	if run = r.night(t); run.Outcome.Released != nil || !strings.Contains(strings.Join(run.Outcome.Refusals(), ""), "nobody labelled an event") {
		t.Errorf("%v", run.Outcome.Refusals())
	}
}

func TestTheNewestWordOnARowCounts(t *testing.T) {
	tb := table{entry: SnapshotEntry{Device: id(0)}, times: []int64{0, 1e9, 2e9, 3e9, 4e9}}
	say := func(from, to int64, value string, at int) feedback.Label {
		return feedback.Label{Device: id(0), From: time.Unix(from, 0), To: time.Unix(to, 0), Value: value, At: night.Add(time.Duration(at))}
	}
	got := spoken([]feedback.Label{say(2, 2, feedback.Unsure, 3), say(0, 3, feedback.Anomaly, 1), say(1, 1, feedback.Normal, 2)}, tb)
	if want := []int8{saidAnomaly, saidNormal, saidNothing, saidAnomaly, saidNothing}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWholeDaysJudgeWhereThereAreThree(t *testing.T) {
	for days, want := range map[float64]int{1: 0, 2: 0, 3: 1, 5: 1, 10: 2} {
		tb := table{}
		at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		for end := at.Add(time.Duration(days * 24 * float64(time.Hour))); at.Before(end); at = at.Add(time.Minute) {
			tb.times, tb.rows = append(tb.times, at.UnixNano()), append(tb.rows, uint64(len(tb.rows)))
		}
		from := holdFrom([]table{tb})
		if held := int(at.Sub(from) / (24 * time.Hour)); want == 0 && !from.IsZero() || want > 0 && held != want {
			t.Errorf("of %g days, those from %s judge; want %d", days, from, want)
		}
	}
}

func TestASliceThatGotWorseRefusesInPlainWords(t *testing.T) {
	g := Policy{}.withDefaults().Gates
	whole := Score{Candidate: Candidate{Kind: "pca"}, Windows: 1000, Days: 1, Detected: 0.8, Faults: 500, FlagShare: 0.01}
	with := func(s ...SliceScore) Score { c := whole; c.Slices = s; return c }
	line := func(found float64, faults int, flags float64, windows int) SliceScore {
		return SliceScore{Name: "line=l2", Faults: faults, Detected: found, Windows: windows, FlagShare: flags}
	}
	for name, tc := range map[string]struct {
		now, old SliceScore
		strict   bool
		verdict  Verdict
		refuses  bool
		says     string
	}{
		"as good":             {line(0.8, 100, 0.01, 1000), line(0.8, 100, 0.01, 1000), false, Pass, false, "finds 80 % of 100"},
		"finds less":          {line(0.3, 100, 0.01, 1000), line(0.8, 100, 0.01, 1000), false, Fail, true, "pca on line=l2: finds 30 % of 100, the champion 80 %"},
		"flags more":          {line(0.8, 100, 0.4, 1000), line(0.8, 100, 0.01, 1000), false, Fail, true, "flags 40.00 % of 1000 normal windows"},
		"worse, but too few":  {line(0.55, 20, 0.01, 1000), line(0.8, 20, 0.01, 1000), false, Inconclusive, false, "too few were judged to be sure"},
		"nothing to judge by": {line(0, 2, 0, 10), line(1, 2, 0, 10), false, Inconclusive, false, "are too few to judge by"},
		"strict":              {line(0, 2, 0, 10), line(1, 2, 0, 10), true, Inconclusive, true, "are too few to judge by"},
		"no number":           {line(math.NaN(), 100, 0, 10), line(1, 100, 0, 10), false, Fail, true, "champion 100 %"},
	} {
		t.Run(name, func(t *testing.T) {
			g := g
			g.StrictSlices = tc.strict
			champion := with(tc.old)
			b := Bless(g, Judged{Classes: []JudgedClass{{Windows: 1000, Candidates: []Score{with(tc.now)}, Champion: &champion}}})
			i := slices.IndexFunc(b.Gates, func(r GateResult) bool { return r.Gate == "not-worse/line=l2" })
			if i < 0 || b.Gates[i].Verdict != tc.verdict || !strings.Contains(b.Gates[i].Message, tc.says) {
				t.Fatalf("gates %+v, want %s with %q", b.Gates, tc.verdict, tc.says)
			}
			if refused := len(b.Winners) == 0; refused != tc.refuses {
				t.Errorf("refused %v: %v", refused, b.Refusals)
			}
		})
	}
	g.MaxPerDay = 2
	loud := whole
	loud.Alarms = 7
	if b := Bless(g, Judged{Classes: []JudgedClass{{Windows: 1000, Candidates: []Score{loud}}}}); len(b.Winners) != 0 || !strings.Contains(b.Refusals[0], "false alarms a day and device 7, wanted ≤ 2") {
		t.Errorf("%v", b.Refusals)
	}
}

func TestModelsAreSetBesideEachOtherOnTheSameWindows(t *testing.T) {
	champion, challenger := map[string][]evaluate.Verdict{}, map[string][]evaluate.Verdict{}
	for d := range 3 {
		device := fmt.Sprint(d)
		for row := range 1000 {
			if row >= 20 { // a longer window begins later
				champion[device] = append(champion[device], evaluate.Verdict{Row: row, Flag: row%10 == 0})
			}
			challenger[device] = append(challenger[device], evaluate.Verdict{Row: row, Flag: row%5 == 0 || row < 20})
		}
	}
	labels := map[string][]bool{"0": make([]bool, 1000)}
	for row := 500; row < 600; row++ {
		labels["0"][row] = true
	}
	p := pair(champion, challenger, labels)
	if p == nil || p.Windows != 3*980-100 || math.Abs(p.FlagShare-0.2) > 0.01 || math.Abs(p.OfChampion-0.1) > 0.01 {
		t.Fatalf("%+v", p)
	}
	if p.Low > 0.1 || p.High < 0.1 || p.High-p.Low > 0.05 {
		t.Errorf("the difference is between %g and %g, want 0.1 closely inside", p.Low, p.High)
	}
	if pair(nil, challenger, nil) != nil {
		t.Error("a pair of one")
	}
}

func TestACandidateFromTheChampionsWeightsCompetes(t *testing.T) {
	p := newPlant(2, 500)
	r := start(t, p)
	if err := r.Apply(t.Context(), Policy{Name: "pumps", Seed: 7, Fit: quick, Kinds: []string{"dense-ae"}}); err != nil {
		t.Fatal(err)
	}
	if first := r.night(t); first.Outcome.Released == nil || len(first.Outcome.Trained[0].Candidates) != 1 {
		t.Fatalf("%v, candidates %+v", first.Outcome.Refusals(), first.Outcome.Trained)
	}
	if err := registry.Promote(t.Context(), r.reg, "pumps", 1, "test"); err != nil {
		t.Fatal(err)
	}
	p.columns = newPlant(2, 700).columns
	run := r.night(t)
	got := run.Outcome.Trained[0].Candidates
	if len(got) != 2 || got[0].Parent != "" || got[1].Parent == "" || got[0].Digest == got[1].Digest {
		t.Fatalf("candidates %+v %s", got, run.Err)
	}
	if run.Outcome.Judged.Classes[0].Candidates[1].Beside == nil {
		t.Error("it was not set beside the champion")
	}
	v, err := r.reg.Version(t.Context(), "pumps", 2)
	if err != nil || !strings.Contains(v.Card, "started from") {
		t.Errorf("card %q, %v", v.Card, err)
	}
}
