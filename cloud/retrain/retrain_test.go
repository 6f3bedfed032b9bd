package retrain

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// plant is a fleet whose data lives in memory.
type plant struct {
	devices  []Device
	columns  map[topic.ID]Columns
	labels   []feedback.Label
	frames   []feedback.Frame
	damaged  map[topic.ID]bool // whose segments cannot be read; guarded by mu
	checked  func()            // called under mu when there were as many reads as devices; nil: nobody wants to know
	reads    int               // guarded by mu
	mu       sync.Mutex
	policies map[string]Policy
	packages []Package
	proposed []string
}

var night = time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)

func id(i int) topic.ID { return topic.ID{Site: "hall-1", Node: fmt.Sprintf("pump-%d", i)} }

// newPlant makes n pumps with rows of two correlated sensors and one that
// stands alone.
func newPlant(n, rows int) *plant {
	p := &plant{columns: map[topic.ID]Columns{}, policies: map[string]Policy{}}
	for i := range n {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		c := Columns{Signals: []Signal{{Name: "current", Unit: "A"}, {Name: "flow", Unit: "l/min"}, {Name: "temperature", Unit: "Cel"}}}
		for r := range rows {
			c.Rows = append(c.Rows, uint64(r))
			c.Times = append(c.Times, night.Add(time.Duration(r-rows)*time.Second).UnixNano())
			load := math.Sin(float64(r)/20) + 0.1*rng.NormFloat64()
			c.Signals[0].Values = append(c.Signals[0].Values, float32(2+load))
			c.Signals[1].Values = append(c.Signals[1].Values, float32(70+5*load+0.2*rng.NormFloat64()))
			c.Signals[2].Values = append(c.Signals[2].Values, float32(90+rng.NormFloat64()))
		}
		p.devices = append(p.devices, Device{ID: id(i), Class: "pump"})
		p.columns[id(i)] = c
	}
	return p
}

func (p *plant) Flush(context.Context) error { return nil }

func (p *plant) Segments(context.Context, time.Time, time.Time) ([]Segment, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Segment
	for _, d := range p.devices {
		if c, ok := p.columns[d.ID]; ok && len(c.Rows) > 0 {
			out = append(out, Segment{Key: "segments/" + d.ID.Node, Digest: artifact.Of(fmt.Append(nil, c)), Device: d.ID, First: c.Rows[0], Rows: len(c.Rows)})
		}
	}
	return out, nil
}

func (p *plant) Read(_ context.Context, s Segment) (Columns, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.damaged[s.Device] {
		return Columns{}, fmt.Errorf("%w: its bytes have another digest", ErrDamaged)
	}
	if p.reads++; p.reads == len(p.devices) && p.checked != nil {
		p.checked()
	}
	return p.columns[s.Device], nil
}

func (p *plant) Labels(context.Context, time.Time, time.Time) ([]feedback.Label, error) {
	return p.labels, nil
}

func (p *plant) Frames(context.Context, time.Time, time.Time) ([]feedback.Frame, error) {
	return p.frames, nil
}

func (p *plant) Devices(context.Context, string) ([]Device, error) { return p.devices, nil }

func (p *plant) SaveRetrainPolicy(_ context.Context, pol Policy) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.policies[pol.Name] = pol
	return nil
}

func (p *plant) RetrainPolicy(_ context.Context, name string) (Policy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pol, ok := p.policies[name]; ok {
		return pol, nil
	}
	return Policy{}, ErrNoPolicy
}

func (p *plant) RetrainPolicies(context.Context) ([]Policy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Policy
	for _, pol := range p.policies {
		out = append(out, pol)
	}
	return out, nil
}

func (p *plant) Release(_ context.Context, pkg Package) (Released, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.packages = append(p.packages, pkg)
	return Released{Counter: uint64(len(p.packages)), Manifest: artifact.Of([]byte(pkg.Run))}, nil
}

func (p *plant) Propose(_ context.Context, family string, r Released, policy, _ string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proposed = append(p.proposed, policy)
	return fmt.Sprintf("%s-%d", family, r.Counter), nil
}

type rig struct {
	*plant
	*Service
	reg *registry.Memory
	at  time.Time
}

func start(t *testing.T, p *plant) *rig { return startWith(t, p, func(*Config) {}) }

func startWith(t *testing.T, p *plant, change func(*Config)) *rig {
	t.Helper()
	if _, err := runtime.Library(""); err != nil {
		t.Skipf("ONNX Runtime is absent (make test fetches it): %v", err)
	}
	folder := t.TempDir()
	objs, err := dir.Open(filepath.Join(folder, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{plant: p, reg: &registry.Memory{}, at: night}
	cfg := Config{
		Engine: engine.Config{SQLitePath: filepath.Join(folder, "runs.db"), ExecutorID: "hub-1", Version: "test"},
		Data:   p, Fleet: p, Objects: objs, Registry: r.reg, Policies: p, Releaser: p, Proposer: p, Code: "test",
		Now: func() time.Time { r.at = r.at.Add(time.Second); return r.at },
	}
	change(&cfg)
	r.Service, err = Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if err := r.Apply(t.Context(), Policy{Name: "pumps", RolloutPolicy: "careful", Seed: 7, Fit: quick}); err != nil {
		t.Fatal(err)
	}
	return r
}

// quick keeps the autoencoder small: these tests are about the night.
var quick = zoo.Config{Hidden: []int{8, 3}, Steps: 200}

func (r *rig) night(t *testing.T) Run {
	t.Helper()
	run, err := r.Start(t.Context(), Request{Policy: "pumps", By: "ada", Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return r.wait(t, run)
}

func (r *rig) wait(t *testing.T, run string) Run {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		got, err := r.Run(run)
		if err == nil && got.State != engine.Queued && got.State != engine.Running {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("run %s is %s (%v) after two minutes", run, got.State, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestANightThatEndsInARelease(t *testing.T) {
	r := start(t, newPlant(3, 600))
	run := r.night(t)
	if run.State != engine.Succeeded || run.Outcome.Released == nil {
		t.Fatalf("run %s: %s %s %v", run.State, run.Err, run.Outcome.Summary, run.Outcome.Refusals())
	}
	var steps []string
	for _, s := range run.Steps {
		steps = append(steps, s.Name)
	}
	want := []string{"extract", "validate", "train/pca", "train/dense-ae", "evaluate", "bless", "release", "register", "propose"}
	if !reflect.DeepEqual(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
	v, err := r.reg.Version(t.Context(), "pumps", 1)
	if err != nil || v.Stage != registry.Released || v.Lineage.Devices != 3 || v.Lineage.Snapshot != run.Outcome.Extracted.Snapshot {
		t.Errorf("registered %+v, %v", v, err)
	}
	pkg := r.packages[0]
	if len(pkg.Variants) != 1 || len(pkg.Variants[0].Golden.Windows) == 0 || pkg.Expected != nil {
		t.Errorf("package has %d variants, %d golden windows, expected shift %v (no parent)", len(pkg.Variants), len(pkg.Variants[0].Golden.Windows), pkg.Expected)
	}
	if !reflect.DeepEqual(r.proposed, []string{"careful"}) || run.Outcome.Rollout != "pumps-1" {
		t.Errorf("proposed %v, rollout %q", r.proposed, run.Outcome.Rollout)
	}
	if !strings.Contains(v.Card, "Known limits") {
		t.Errorf("card %q", v.Card)
	}
}

func TestTheSameDataGivesTheSameModelAndIsTrainedOnce(t *testing.T) {
	r := start(t, newPlant(2, 500))
	first, second := r.night(t), r.night(t)
	if a, b := first.Outcome.Extracted, second.Outcome.Extracted; a.Added != a.Rows || a.Rows == 0 || b.Added != 0 || b.Rows != a.Rows {
		t.Errorf("the first night has %d new of %d rows, the second %d of %d: want all and none", a.Added, a.Rows, b.Added, b.Rows)
	}
	for i, tr := range second.Outcome.Trained {
		if !tr.Candidates[0].Cached {
			t.Errorf("%s was trained again on the same data", tr.Kind)
		}
		if tr.Candidates[0].Digest != first.Outcome.Trained[i].Candidates[0].Digest {
			t.Errorf("%s: another digest", tr.Kind)
		}
	}
	other := start(t, newPlant(2, 500)) // nothing cached there
	again := other.night(t)
	for i, tr := range again.Outcome.Trained {
		if got, want := tr.Candidates[0].Digest, first.Outcome.Trained[i].Candidates[0].Digest; got != want {
			t.Errorf("%s trained elsewhere on the same data has digest %s, want %s", tr.Kind, got.Short(), want.Short())
		}
	}
}

func TestTheChampionIsComparedAndRecordedAsParent(t *testing.T) {
	p := newPlant(2, 500)
	r := start(t, p)
	r.night(t)
	if err := registry.Promote(t.Context(), r.reg, "pumps", 1, "test"); err != nil {
		t.Fatal(err)
	}
	longer := newPlant(2, 700)
	p.columns = longer.columns
	run := r.night(t)
	if run.Outcome.Released == nil {
		t.Fatalf("refused: %v", run.Outcome.Refusals())
	}
	if run.Outcome.Judged.Classes[0].Champion == nil {
		t.Error("the champion was not judged")
	}
	if len(run.Outcome.Validated.Classes[0].Drift) != 3 {
		t.Errorf("drift %v, want three channels", run.Outcome.Validated.Classes[0].Drift)
	}
	pkg := r.packages[1]
	if pkg.Expected == nil || pkg.Lineage.Parent == "" {
		t.Errorf("expected shift %v, parent %q", pkg.Expected, pkg.Lineage.Parent)
	}
}

func TestDryRunReleasesNothing(t *testing.T) {
	r := start(t, newPlant(2, 500))
	id, err := r.Start(t.Context(), Request{Policy: "pumps", By: "ada", DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	run := r.wait(t, id)
	if run.State != engine.Succeeded || len(r.packages) != 0 || !strings.Contains(run.Outcome.Summary, "would have been released") {
		t.Errorf("%s, %d packages, %q", run.State, len(r.packages), run.Outcome.Summary)
	}
}

func TestBadNightsAreRefusedAndSayWhy(t *testing.T) {
	nan := float32(math.NaN())
	for name, tc := range map[string]struct {
		harm func(*plant)
		says string
		ends engine.State
	}{
		"no device":   {func(p *plant) { p.devices = nil }, "no device matches", engine.Failed},
		"no data":     {func(p *plant) { clear(p.columns) }, "sent data", engine.Failed},
		"too few":     {func(p *plant) { p.columns = newPlant(2, 40).columns }, "at least 100", engine.Succeeded},
		"other units": {func(p *plant) { p.columns[id(1)].Signals[0].Unit = "mA" }, `in "A" on some devices`, engine.Succeeded},
		"infinite": {func(p *plant) {
			for i := range 2 {
				p.columns[id(i)].Signals[1].Values[5] = float32(math.Inf(1))
			}
		}, "infinite", engine.Succeeded},
		"mostly missing": {func(p *plant) {
			for i := range 2 {
				for r := range 400 {
					for s := range 3 {
						p.columns[id(i)].Signals[s].Values[r] = nan
					}
				}
			}
		}, "missing", engine.Succeeded},
		"no channel in common": {func(p *plant) {
			for s := range 3 {
				p.columns[id(1)].Signals[s].Name += "-x"
			}
		}, "no channel in common", engine.Succeeded},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(2, 500)
			tc.harm(p)
			r := start(t, p)
			run := r.night(t)
			said := run.Err + strings.Join(run.Outcome.Refusals(), "; ")
			if run.State != tc.ends || !strings.Contains(said, tc.says) {
				t.Errorf("%s: %q, want %s with %q", run.State, said, tc.ends, tc.says)
			}
			if len(r.packages) != 0 {
				t.Error("something was released")
			}
		})
	}
}

func TestOneBadDeviceIsLeftOut(t *testing.T) {
	p := newPlant(3, 500)
	c := p.columns[id(1)]
	for s := range c.Signals {
		c.Signals[s].Values[7] = float32(math.Inf(-1))
	}
	r := start(t, p)
	run := r.night(t)
	if run.Outcome.Released == nil {
		t.Fatalf("refused: %v", run.Outcome.Refusals())
	}
	if d := run.Outcome.Validated.Dropped; len(d) != 1 || d[0].Device != id(1).String() {
		t.Errorf("dropped %+v", d)
	}
	if n := len(run.Outcome.Validated.Classes[0].Devices); n != 2 {
		t.Errorf("%d devices learned from, want 2", n)
	}
}

func TestDoubledAndBackwardRowsAreCountedAndDropped(t *testing.T) {
	p := newPlant(1, 500)
	c := p.columns[id(0)]
	for s := range c.Signals {
		c.Signals[s].Values = append(c.Signals[s].Values, c.Signals[s].Values[10], c.Signals[s].Values[11])
	}
	c.Rows = append(c.Rows, 10, 500) // a row again, and a new one
	c.Times = append(c.Times, c.Times[10], c.Times[20])
	p.columns[id(0)] = c
	r := start(t, p)
	d := r.night(t).Outcome.Validated.Dropped
	if len(d) != 2 || d[0].Rows != 1 || d[1].Rows != 1 {
		t.Errorf("dropped %+v, want one doubled and one late row", d)
	}
}

func TestBlessFailsClosed(t *testing.T) {
	good := Score{Candidate: Candidate{Kind: "pca"}, Windows: 100, FlagShare: 0.01, Detected: 0.8, Faults: 40}
	with := func(change func(*Score)) Score { s := good; change(&s); return s }
	g := Policy{}.withDefaults().Gates
	for name, tc := range map[string]struct {
		j    JudgedClass
		pass bool
	}{
		"good":             {JudgedClass{Windows: 100, Candidates: []Score{good}}, true},
		"no candidate":     {JudgedClass{Windows: 100}, false},
		"no window":        {JudgedClass{Candidates: []Score{with(func(s *Score) { s.Windows = 0 })}}, false},
		"no fault":         {JudgedClass{Windows: 100, Candidates: []Score{with(func(s *Score) { s.Faults = 0 })}}, false},
		"NaN share":        {JudgedClass{Windows: 100, Candidates: []Score{with(func(s *Score) { s.FlagShare = math.NaN() })}}, false},
		"flags too much":   {JudgedClass{Windows: 100, Candidates: []Score{with(func(s *Score) { s.FlagShare = 0.2 })}}, false},
		"non-finite":       {JudgedClass{Windows: 100, Candidates: []Score{with(func(s *Score) { s.NonFinite = 1 })}}, false},
		"cannot be judged": {JudgedClass{Windows: 100, Candidates: []Score{with(func(s *Score) { s.Err = "load" })}}, false},
		"worse than the champion": {JudgedClass{Windows: 100, Candidates: []Score{good},
			Champion: &Score{Windows: 100, Detected: 0.95, Faults: 40}}, false},
		"champion alarms at everything": {JudgedClass{Windows: 100, Candidates: []Score{good},
			Champion: &Score{Windows: 100, Detected: 1, Faults: 40, FlagShare: 0.9}}, true},
		"champion unknown": {JudgedClass{Windows: 100, Candidates: []Score{good}, Champion: &Score{Err: "channels"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := Bless(g, Judged{Classes: []JudgedClass{tc.j}})
			if (len(b.Winners) == 1) != tc.pass {
				t.Errorf("winners %d, refusals %v", len(b.Winners), b.Refusals)
			}
			if !tc.pass && len(b.Refusals) == 0 {
				t.Error("refused without a reason")
			}
		})
	}
	noFaults := Judged{Classes: []JudgedClass{{Windows: 100, Candidates: []Score{with(func(s *Score) { s.Faults, s.Detected = 0, 0 })}}}}
	waived := g
	waived.WaiveFaults = true
	if b := Bless(waived, noFaults); len(b.Winners) != 1 {
		t.Errorf("faults were waived, and still: %v", b.Refusals)
	}
	if b := Bless(g, Judged{}); len(b.Winners) != 0 || len(b.Refusals) == 0 {
		t.Error("nothing judged and nothing refused")
	}
}

func TestPolicyValidation(t *testing.T) {
	for name, p := range map[string]Policy{
		"no name":          {},
		"unknown detector": {Name: "a", Kinds: []string{"oracle"}},
		"bad cron":         {Name: "a", Schedule: engine.Schedule{Cron: "at night"}},
		"share over one":   {Name: "a", Gates: Gates{MaxFlagShare: 2}},
	} {
		if p.Validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := start(t, newPlant(1, 50)).Start(t.Context(), Request{Policy: "nights"}); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("unknown policy: %v", err)
	}
}
