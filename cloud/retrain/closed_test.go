package retrain

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// twoClasses is a plant of pumps and of fans, two of each.
func twoClasses(rows int) *plant {
	p := newPlant(4, rows)
	p.devices[2].Class, p.devices[3].Class = "fan", "fan"
	return p
}

func (r *rig) promote(t *testing.T, counter uint64) {
	t.Helper()
	if err := registry.Promote(t.Context(), r.reg, "pumps", counter, "test"); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) policy(t *testing.T, p Policy) {
	t.Helper()
	p.Name, p.Seed, p.Fit = "pumps", 7, quick
	if len(p.Kinds) == 0 {
		p.Kinds = []string{"pca"}
	}
	if err := r.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func TestAClassThatOneNightRefusedIsComparedWithItsOldChampionTheNext(t *testing.T) {
	p := twoClasses(500)
	r := start(t, p)
	r.policy(t, Policy{})
	if run := r.night(t); run.Outcome.Released == nil || len(r.packages[0].Variants) != 2 {
		t.Fatalf("%v %s", run.Outcome.Refusals(), run.Err)
	}
	r.promote(t, 1)

	p.damaged = map[topic.ID]bool{id(2): true, id(3): true}
	run := r.night(t)
	if run.Outcome.Released == nil || len(r.packages[1].Variants) != 1 {
		t.Fatalf("the fans stopped the pumps: %v %s", run.Outcome.Refusals(), run.Err)
	}
	if s := run.Outcome.Summary; !strings.Contains(s, "Without a new model: class fan") {
		t.Errorf("nobody is told of the fans: %q", s)
	}
	r.promote(t, 2)

	p.damaged = nil
	p.columns = newPlant(4, 700).columns
	run = r.night(t)
	for _, c := range run.Outcome.Judged.Classes {
		want := map[artifact.Class]uint64{"pump": 2, "fan": 1}[c.Class]
		v, err := r.reg.Version(t.Context(), "pumps", want)
		m, _ := v.ModelFor(c.Class)
		if err != nil || c.Champion == nil || c.Champion.Candidate.Digest != m.Digest {
			t.Errorf("class %s was not compared with the model of version %d: %+v", c.Class, want, c.Champion)
		}
	}
	for _, c := range run.Outcome.Validated.Classes {
		if len(c.Drift) == 0 {
			t.Errorf("class %s: no drift against the champion's data", c.Class)
		}
	}
}

// unreadable is a registry whose versions cannot be listed.
type unreadable struct{ registry.Store }

var errRegistry = errors.New("the database is away")

func (unreadable) Versions(context.Context, string, uint64, int) ([]registry.Version, error) {
	return nil, errRegistry
}

func TestAChampionThatCannotBeLookedUpIsNotNoChampion(t *testing.T) {
	r := start(t, newPlant(2, 500))
	r.policy(t, Policy{})
	run := r.night(t)
	if run.Outcome.Released == nil {
		t.Fatalf("%v %s", run.Outcome.Refusals(), run.Err)
	}
	r.promote(t, 1)
	r.cfg.Registry = unreadable{r.reg}
	out := run.Outcome
	if _, err := r.evaluate(t.Context(), run.Order, out.Extracted, out.Validated, out.Trained); !errors.Is(err, errRegistry) {
		t.Errorf("evaluate: %v, want the registry's error: nothing was compared with the champion", err)
	}
	if _, err := r.release(t.Context(), "again", run.Order, &out); !errors.Is(err, errRegistry) {
		t.Errorf("release: %v: the release would have no parent", err)
	}
	if err := r.register(t.Context(), "again", run.Order, &out); !errors.Is(err, errRegistry) {
		t.Errorf("register: %v: the version would have no parent", err)
	}
}

func TestAWinnerIsNotReleasedAgainstAChampionThatNobodyComparedItWith(t *testing.T) {
	p := newPlant(2, 500)
	r := start(t, p)
	r.policy(t, Policy{})
	r.night(t)
	r.promote(t, 1)
	p.columns = newPlant(2, 700).columns
	run := r.night(t) // judged beside version 1
	if run.Outcome.Released == nil {
		t.Fatalf("%v %s", run.Outcome.Refusals(), run.Err)
	}
	order := run.Order
	order.Policy = order.Policy.withDefaults()
	still, err := r.stillCompared(t.Context(), order, run.Outcome.Judged, run.Outcome.Blessed)
	if err != nil || len(still.Winners) != 1 || len(still.Refusals) != 0 {
		t.Errorf("the champion is the same, and still: %+v %v", still.Refusals, err)
	}
	r.promote(t, 2) // a rollout that took all night ended well
	still, err = r.stillCompared(t.Context(), order, run.Outcome.Judged, run.Outcome.Blessed)
	if err != nil || len(still.Winners) != 0 || len(still.Refusals) != 1 || !strings.Contains(still.Refusals[0], "another champion") {
		t.Errorf("winners %d, %v, %v: version 2 became the champion meanwhile", len(still.Winners), still.Refusals, err)
	}
}

func TestGatesWithoutEvidenceDoNotPass(t *testing.T) {
	good := Score{Candidate: Candidate{Kind: "pca"}, Windows: 1000, Days: 1, FlagShare: 0.01, Detected: 0.8, Faults: 40}
	with := func(change func(*Score)) Score { s := good; change(&s); return s }
	beside := func(change func(*Score)) *Score { s := with(change); return &s }
	line := func(windows int, flags float64, faults int, detected float64) func(*Score) {
		return func(s *Score) { s.Slices = []SliceScore{{"line=l2", windows, flags, faults, detected}} }
	}
	for name, tc := range map[string]struct {
		gates     func(*Gates)
		challenge Score
		champion  *Score
		gate      string // that refuses; empty: it passes
	}{
		"as good as the champion":            {nil, good, &good, ""},
		"only another candidate had windows": {nil, with(func(s *Score) { s.Windows, s.FlagShare = 0, 0 }), nil, "evidence"},
		"only another candidate had windows, and faults are waived": {func(g *Gates) { g.WaiveFaults = true },
			with(func(s *Score) { s.Windows, s.FlagShare, s.Faults, s.Detected = 0, 0, 0, 0 }), nil, "evidence"},
		"the champion had no window":                {nil, good, beside(func(s *Score) { *s = Score{} }), "not-worse"},
		"no fault could be put before the champion": {nil, good, beside(func(s *Score) { s.Faults, s.Detected = 0, 0 }), "not-worse"},
		"the rate of false alarms cannot be told":   {func(g *Gates) { g.MaxPerDay = 2 }, with(func(s *Score) { s.Days = 0 }), nil, "false-alarms-per-day"},
		"false alarms are counted over days":        {func(g *Gates) { g.MaxPerDay = 2 }, good, nil, ""},
		"faults are waived, the champion cannot be judged": {func(g *Gates) { g.WaiveFaults = true },
			with(func(s *Score) { s.Faults, s.Detected = 0, 0 }), &Score{Err: "channels"}, "not-worse"},
		"faults are waived, and a line is flagged ten times as often": {func(g *Gates) { g.WaiveFaults = true },
			with(func(s *Score) { line(1000, 0.4, 0, 0)(s); s.Faults, s.Detected = 0, 0 }),
			beside(func(s *Score) { line(1000, 0.01, 0, 0)(s); s.Faults, s.Detected = 0, 0 }), "not-worse/line=l2"},
		"faults are waived, and all is as before": {func(g *Gates) { g.WaiveFaults = true },
			with(func(s *Score) { s.Faults, s.Detected = 0, 0 }), beside(func(s *Score) { s.Faults, s.Detected = 0, 0 }), ""},
		"faults are waived, and it flags more than the champion": {func(g *Gates) { g.WaiveFaults, g.Margin = true, 0.01 },
			with(func(s *Score) { s.Faults, s.Detected, s.FlagShare = 0, 0, 0.03 }), beside(func(s *Score) { s.Faults, s.Detected = 0, 0 }), "not-worse"},
		"faults are waived, and only the champion could be shown some": {func(g *Gates) { g.WaiveFaults = true },
			with(func(s *Score) { s.Faults, s.Detected = 0, 0 }), &good, "not-worse"},
		"a strict policy, and a line that it was not judged on": {func(g *Gates) { g.StrictSlices = true },
			good, beside(line(1000, 0.01, 100, 0.8)), "not-worse/line=l2"},
		"a line that it was not judged on": {nil, good, beside(line(1000, 0.01, 100, 0.8)), ""},
		"uncertain in what it finds, certain in what it flags": {nil,
			with(line(10000, 0.25, 20, 0.55)), beside(line(10000, 0.01, 20, 0.8)), "not-worse/line=l2"},
		"certain in what it finds, uncertain in what it flags": {nil,
			with(line(100, 0.5, 5000, 0.55)), beside(line(100, 0.23, 5000, 0.8)), "not-worse/line=l2"},
	} {
		t.Run(name, func(t *testing.T) {
			g := Policy{}.withDefaults().Gates
			if tc.gates != nil {
				tc.gates(&g)
			}
			b := Bless(g, Judged{Classes: []JudgedClass{{Windows: 1000, Candidates: []Score{tc.challenge}, Champion: tc.champion}}})
			if passed := len(b.Winners) == 1; passed != (tc.gate == "") {
				t.Errorf("passed %v: %v", passed, b.Refusals)
			}
			for _, r := range b.Gates {
				if r.refuses() && r.Gate != tc.gate {
					t.Errorf("gate %s refuses: %s", r.Gate, r.Message)
				}
				if r.refuses() && strings.HasPrefix(name, "certain") && r.Verdict != Fail {
					t.Errorf("gate %s is %s: %s", r.Gate, r.Verdict, r.Message)
				}
				if r.Message == "" {
					t.Errorf("gate %s says nothing", r.Gate)
				}
			}
			if i := slices.IndexFunc(b.Gates, func(r GateResult) bool { return r.Gate == "not-worse/line=l2" }); tc.champion != nil && len(tc.champion.Slices) > 0 && i < 0 {
				t.Error("the line is not told of")
			}
		})
	}
}

func TestLimitsThatWouldPassAnythingAreNoPolicy(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, change := range map[string]func(*Policy){
		"share below zero":                   func(p *Policy) { p.Gates.MaxFlagShare = -1 },
		"share that is no number":            func(p *Policy) { p.Gates.MaxFlagShare = nan },
		"margin that is no number":           func(p *Policy) { p.Gates.Margin = nan },
		"slices may be ten times worse":      func(p *Policy) { p.Gates.SliceMargin = 10 },
		"slices may be worse by no number":   func(p *Policy) { p.Gates.SliceMargin = nan },
		"slices may be worse by less than 0": func(p *Policy) { p.Gates.SliceMargin = -0.1 },
		"stuck for longer than all":          func(p *Policy) { p.Gates.MaxStuckShare = 1.5 },
		"events below zero":                  func(p *Policy) { p.Gates.MinEventsFound = -0.5 },
		"events over one":                    func(p *Policy) { p.Gates.MinEventsFound = 1.5 },
		"alarms that are no number":          func(p *Policy) { p.Gates.MaxPerDay = nan },
		"endless alarms":                     func(p *Policy) { p.Gates.MaxPerDay = inf },
		"negative stability index":           func(p *Policy) { p.Gates.MaxPSI = -1 },
		"stability index is no number":       func(p *Policy) { p.Gates.MaxPSI = nan },
		"negative distance":                  func(p *Policy) { p.Gates.MaxTwoSample = -0.1 },
		"distance over one":                  func(p *Policy) { p.Gates.MaxTwoSample = 2 },
		"range without end":                  func(p *Policy) { p.Gates.Ranges = map[string]Range{"flow": {0, nan}} },
		"drift is no number":                 func(p *Policy) { p.DriftLimit = nan },
		"share of new rows is no number":     func(p *Policy) { p.MinNewShare = nan },
		"back before time began":             func(p *Policy) { p.LookbackS = 1e12 },
		"back by no number":                  func(p *Policy) { p.LookbackS = nan },
		"kept for longer than time lasts":    func(p *Policy) { p.Retention.Days = 200_000 },
		"time without end":                   func(p *Policy) { p.Limits.WallS = inf },
		"time is no number":                  func(p *Policy) { p.Limits.WallS = nan },
		"cost is no number":                  func(p *Policy) { p.Limits.MaxCostS = nan },
		"CPUs are no number":                 func(p *Policy) { p.Limits.CPUs = nan },
		"a fit that cannot be":               func(p *Policy) { p.Fit.HoldOut = 2 },
		"a pattern of channels that is none": func(p *Policy) { p.Exclude = []string{"label["} },
	} {
		p := Policy{Name: "a"}
		change(&p)
		if p.Validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	full := Policy{Name: "a", LookbackS: 365 * 86400, MinNewShare: 1, DriftLimit: 0.25, Exclude: []string{"label*"}, Retention: Retention{Runs: 100, Days: 3650}, Limits: Limits{WallS: 86400, MaxCostS: 1e6, CPUs: 0.5},
		Gates: Gates{MaxFlagShare: 1, MinDetected: 1, Margin: 1, MaxPSI: 10, MinAccuracy: 1, MaxMissing: 1, MaxPerDay: 1000, SliceMargin: 1, MinEventsFound: 1, MaxTwoSample: 1, MaxStuckShare: 1}}
	if err := full.Validate(); err != nil {
		t.Errorf("limits at their ends: %v", err)
	}
}

func TestABackfilledNightDoesNotStartFromAChampionThatSawItsJudges(t *testing.T) {
	p := newPlant(2, 500)
	r := start(t, p)
	r.policy(t, Policy{Kinds: []string{"dense-ae"}})
	first := r.night(t)
	if first.Outcome.Released == nil {
		t.Fatalf("%v %s", first.Outcome.Refusals(), first.Err)
	}
	r.promote(t, 1)
	at := night.Add(-100 * time.Second) // before the champion's night
	id := runID("pumps", at)
	if err := r.start(id, Order{Policy: p.policies["pumps"], Trigger: ByBackfill, At: at}); err != nil {
		t.Fatal(err)
	}
	run := r.wait(t, id)
	if len(run.Outcome.Trained) != 1 || len(run.Outcome.Trained[0].Candidates) != 1 {
		t.Errorf("%s %s: candidates %+v, want the one from scratch", run.State, run.Err, run.Outcome.Trained)
	}
}

// TestWhatIsLostAfterTheDataWasCheckedStopsItsClassAlone lets a class's segments
// be damaged between two steps, as by a retention that is shorter than the
// lookback, and its champion's model be lost.
func TestWhatIsLostAfterTheDataWasCheckedStopsItsClassAlone(t *testing.T) {
	for name, harm := range map[string]func(*testing.T, *rig, *plant){
		"segments": func(_ *testing.T, _ *rig, p *plant) { p.damaged = map[topic.ID]bool{id(2): true, id(3): true} },
		"the champion's model": func(t *testing.T, r *rig, _ *plant) {
			v, err := registry.Champion(t.Context(), r.reg, "pumps")
			m, _ := v.ModelFor("fan")
			if err != nil || r.cfg.Objects.Delete(t.Context(), modelKey(m.Digest)) != nil {
				t.Fatal("cannot lose the model", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := twoClasses(500)
			r := start(t, p)
			r.policy(t, Policy{})
			if run := r.night(t); run.Outcome.Released == nil {
				t.Fatalf("%v %s", run.Outcome.Refusals(), run.Err)
			}
			r.promote(t, 1)
			p.columns = newPlant(4, 700).columns
			r.policy(t, Policy{})
			p.mu.Lock()
			p.reads, p.checked = 0, func() { harm(t, r, p) }
			p.mu.Unlock()
			run := r.night(t)
			if run.State != engine.Succeeded || run.Outcome.Released == nil || len(run.Outcome.Blessed.Winners) != 1 || run.Outcome.Blessed.Winners[0].Score.Candidate.Class != "pump" {
				t.Fatalf("%s %s, %v: the fans stopped the pumps", run.State, run.Err, run.Outcome.Refusals())
			}
			if said := strings.Join(run.Outcome.Blessed.Refusals, ""); !strings.HasPrefix(said, "class fan: ") || !strings.Contains(said, "damaged") && !strings.Contains(said, "cannot be judged") {
				t.Errorf("%q", said)
			}
		})
	}
}

func TestNightsOfDaysOnWhichTheClockIsPutHaveIntervalsOfTheirOwn(t *testing.T) {
	s := engine.Schedule{Name: "nightly", Cron: "30 2 * * *", TimeZone: "Europe/Berlin"}
	for name, tc := range map[string]struct {
		from time.Time
		want []string
	}{
		"forwards: there is no 02:30":    {time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC), []string{"20260330t003000.000", "20260331t003000.000"}},
		"backwards: there are two 02:30": {time.Date(2026, 10, 24, 12, 0, 0, 0, time.UTC), []string{"20261025t003000.000", "20261025t013000.000", "20261026t013000.000", "20261027t013000.000"}},
	} {
		times, err := s.Between(tc.from, tc.from.AddDate(0, 0, 3), 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, at := range times {
			got = append(got, strings.TrimPrefix(runID("a", at), "a-"))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestAnotherProgramUnderATrainersNameIsAskedAnew(t *testing.T) {
	python, script := example(t)
	r := startWith(t, newPlant(1, 300), func(c *Config) {
		c.Runner, c.Trainers = runner.Process{}, []ExternalTrainer{{Name: "spread", Command: []string{python, script}, WallS: 60}}
	})
	r.policy(t, Policy{Kinds: []string{"external:spread"}})
	for i, want := range []bool{false, true, false} {
		if i == 2 {
			r.cfg.Trainers[0].Command = []string{python, "-B", script}
		}
		run := r.night(t)
		if len(run.Outcome.Trained) != 1 || len(run.Outcome.Trained[0].Candidates) != 1 || run.Outcome.Trained[0].Candidates[0].Cached != want {
			t.Errorf("night %d: %+v %s, want cached: %v", i+1, run.Outcome.Trained, run.Err, want)
		}
	}
}

func TestEveryClassWithoutANewModelSaysWhy(t *testing.T) {
	o := Outcome{Validated: Validated{Refusals: []string{"class a: gaps"}}, Blessed: Blessed{Refusals: []string{"class b: worse"}}, Released: &Released{Counter: 2}}
	if got := strings.Join(o.Refusals(), "; "); got != "class a: gaps; class b: worse" {
		t.Errorf("%q", got)
	}
}
