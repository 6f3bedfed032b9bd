// Package explore plays one scenario with many seeds, in search of a run that
// breaks a safety property.
//
// Each seed draws its own mix of faults, so that some are off in some runs: a
// fault that is always on hides what happens without it. A run that breaks
// something is made smaller as long as it still does, and is handed back as a
// scenario that can be read and played, with a trace.
//
// simulator/cli and the mutation tests of simulator/mutation import it.
package explore

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/scenario"
)

// Mixed is the template of a night on which everything goes wrong, on a fleet
// of 1000 devices.
//
//go:embed mixed.txt
var Mixed string

// Options say how much to explore. The zero value plays seed 1 alone.
type Options struct {
	Seeds   int    // how many; default 1
	From    uint64 // the first; default 1
	Workers int    // runs at a time; default 1
	Devices int    // at most so many, taken evenly from the fleet's groups; 0: all
	// Shrink is how long a failing run may be made smaller; 0: not at all.
	Shrink time.Duration
	// Stop ends the exploration at the first violation.
	Stop bool
	// Progress hears of every run that has ended, one call at a time. nil: nobody
	// listens.
	Progress func(Summary)
}

// Summary is what came of it.
type Summary struct {
	Seeds      int // played
	Devices    int
	Violations int // properties that did not hold, over all runs
	Ends       map[rollout.State]int
	Drawn      map[string]int // in how many runs each kind of fault and step was there
	Events     uint64
	Decisions  int
	Sent, Lost int
	Tried      int // devices on which the release ever acted
	Harmed     int // of them, those on which it was unsound
	Virtual    time.Duration
	Took       time.Duration
	Failures   []Failure // by seed
}

// Failure is a run that broke something.
type Failure struct {
	Seed       uint64
	Violations []check.Violation
	// Scenario is the run as a scenario, made smaller; Plays is how many runs
	// that took.
	Scenario string
	Plays    int
	Trace    []string
}

// MaxFailures bounds the failing runs that are kept and made smaller.
const MaxFailures = 5

// Run plays the template with every seed. The error says why the template
// cannot be played; that properties do not hold is in the summary.
func Run(ctx context.Context, name, template string, o Options) (Summary, error) {
	o.Seeds, o.Workers, o.From = max(o.Seeds, 1), max(o.Workers, 1), max(o.From, 1)
	began := time.Now()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		failed   error
		sum      = Summary{Ends: map[rollout.State]int{}, Drawn: map[string]int{}}
		canaries []drawn
		next     = o.From
	)
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next >= o.From+uint64(o.Seeds) || ctx.Err() != nil {
			return 0, false
		}
		next++
		return next - 1, true
	}
	for range o.Workers {
		wg.Go(func() {
			for seed, ok := take(); ok; seed, ok = take() {
				s, err := Scenario(name, template, seed, o.Devices)
				var r scenario.Result
				if err == nil {
					r, err = scenario.Play(s, scenario.Options{Seed: seed})
				}
				mu.Lock()
				if err != nil {
					failed = cmp.Or(failed, fmt.Errorf("seed %d: %w", seed, err))
					stop()
				} else {
					sum.add(s, r)
					if len(r.Canaries) > 0 {
						canaries = append(canaries, drawn{seed, r.Canaries})
					}
					if o.Stop && sum.Violations > 0 {
						stop()
					}
					sum.Took = time.Since(began)
					if o.Progress != nil {
						o.Progress(sum)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return sum, failed
	}
	if f := alike(canaries, sum.Devices); f != nil {
		sum.Failures, sum.Violations = append(sum.Failures, *f), sum.Violations+1
	}
	slices.SortFunc(sum.Failures, func(a, b Failure) int { return cmp.Compare(a.Seed, b.Seed) })
	if o.Shrink > 0 {
		for i := range sum.Failures {
			if f := &sum.Failures[i]; f.Scenario == "" {
				if err := f.explain(name, template, o); err != nil {
					return sum, err
				}
			}
		}
	}
	sum.Took = time.Since(began)
	return sum, nil
}

// Scenario is what a seed makes of the template, with at most so many devices;
// 0: all.
func Scenario(name, template string, seed uint64, devices int) (scenario.Scenario, error) {
	text, err := Draw(template, seed)
	if err != nil {
		return scenario.Scenario{}, err
	}
	s, err := scenario.Parse(name, strings.NewReader(text))
	if err == nil && devices > 0 {
		s = s.WithDevices(devices)
	}
	return s, err
}

// add counts one run.
func (sum *Summary) add(s scenario.Scenario, r scenario.Result) {
	sum.Seeds++
	sum.Devices = max(sum.Devices, r.Devices)
	sum.Violations += len(r.Violations)
	sum.Ends[r.Rollout.State]++
	sum.Events += r.Events
	sum.Decisions += r.Decisions
	sum.Sent += r.Sent
	sum.Lost += r.Lost
	sum.Tried += r.Tried
	sum.Harmed += r.Harmed
	sum.Virtual += r.Virtual
	there := map[string]bool{}
	for _, f := range s.Faults {
		there["fault "+f.Kind] = true
	}
	for _, st := range s.Steps {
		what := st.Verb
		if st.Verb == "hub" || st.Verb == "broker" {
			what += " " + st.Who
		}
		there[what] = true
	}
	for what := range there {
		sum.Drawn[what]++
	}
	if len(r.Violations) > 0 && len(sum.Failures) < MaxFailures {
		sum.Failures = append(sum.Failures, Failure{Seed: r.Seed, Violations: r.Violations})
	}
}

// drawn are the canaries of one run.
type drawn struct {
	seed uint64
	ids  []topic.ID
}

// alike looks for two seeds that drew much the same canaries out of a fleet in
// which chance hardly does.
func alike(runs []drawn, devices int) *Failure {
	slices.SortFunc(runs, func(a, b drawn) int { return cmp.Compare(a.seed, b.seed) })
	for i, a := range runs {
		for _, b := range runs[:i] {
			n := min(len(a.ids), len(b.ids))
			if n < 4 || devices < 10*n {
				continue
			}
			same := 0
			for _, id := range a.ids {
				if slices.Contains(b.ids, id) {
					same++
				}
			}
			if 2*same > n {
				return &Failure{Seed: a.seed, Trace: []string{}, Scenario: "# Play any two seeds.\n", Violations: []check.Violation{{
					What: fmt.Sprintf("seeds %d and %d drew the same canaries: %d of %d out of %d devices", b.seed, a.seed, same, n, devices),
				}}}
			}
		}
	}
	return nil
}
