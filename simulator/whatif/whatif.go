// Package whatif plays a person's policy on a person's fleet before anybody is
// touched: with a sound release and with every kind of bad one, over several
// seeds, and says when it would end and what it would cost at worst.
//
// The parties are the person who wrote the policy, the scenario engine, which
// plays it with the product's own planner and updater, and the command line,
// which prints what comes of it. It promises no more than the engine does:
// networks, disks and scorers are models. simulator/cli imports it.
package whatif

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/scenario"
)

// Natures are what releases are tried when nobody names one.
var Natures = []string{"sound", "flags x2", "nan-after 5m", "crash-at-load", "crash-after 5m", "memory 200MiB", "slow 250ms"}

// Options say what is played.
type Options struct {
	Scenario scenario.Scenario // fleet, network, faults and policy
	Natures  []string          // of releases; none takes Natures
	Seeds    int               // of each; 0 is 5
	Workers  int               // runs at a time; 0 is 1
	// Progress is called after every run. nil: nobody looks.
	Progress func(done, all int)
}

// Outcome is what came of one nature over all seeds.
type Outcome struct {
	Nature     string
	Runs       int
	Ends       map[rollout.State]int
	Refused    string          // why the hub refused the policy; "": it did not
	Finished   []time.Duration // of the runs that ended, sorted
	Stopped    []time.Duration // of the runs that turned back, sorted
	Tried      int             // the most devices on which the release acted
	Harmed     int             // the most devices on which it acted and was unsound
	Least      map[string]int  // the fewest devices available of each group, since all were switched on
	Violations int
	// Worst is the run with the most harm, else the slowest.
	Worst scenario.Result
	Story scenario.Scenario // of all runs but for the seed
}

// Run plays all natures with all seeds.
func Run(ctx context.Context, o Options) ([]Outcome, error) {
	if len(o.Natures) == 0 {
		o.Natures = Natures
	}
	if o.Seeds == 0 {
		o.Seeds = 5
	}
	stories := make([]scenario.Scenario, len(o.Natures))
	for i, text := range o.Natures {
		n, err := scenario.ParseNature(text)
		if err != nil {
			return nil, fmt.Errorf("release %q: %w", text, err)
		}
		s := o.Scenario
		s.Name, s.Release = strings.TrimSpace(text), n
		s.Steps = slices.Concat(s.Steps, approvals(s))
		stories[i] = s
	}
	type job struct{ nature, seed int }
	jobs := make(chan job)
	results := make([][]scenario.Result, len(stories))
	for i := range results {
		results[i] = make([]scenario.Result, o.Seeds)
	}
	var mu sync.Mutex
	var first error
	done := 0
	var wg sync.WaitGroup
	for range max(o.Workers, 1) {
		wg.Go(func() {
			for j := range jobs {
				r, err := scenario.Play(stories[j.nature], scenario.Options{Seed: uint64(j.seed) + 1})
				mu.Lock()
				if err != nil && first == nil {
					first = err
				}
				results[j.nature][j.seed] = r
				done++
				if o.Progress != nil {
					o.Progress(done, len(stories)*o.Seeds)
				}
				mu.Unlock()
			}
		})
	}
	stop := false
	for seed := range o.Seeds {
		for nature := range stories {
			select {
			case jobs <- job{nature, seed}:
			case <-ctx.Done():
				stop = true
			}
			if stop {
				break
			}
		}
		if stop {
			break
		}
	}
	close(jobs)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if first != nil {
		return nil, first
	}
	out := make([]Outcome, len(stories))
	for i, s := range stories {
		out[i] = sum(s, results[i])
	}
	return out, nil
}

// approvals lets people consent: whoever a wave or a gate asks for is there
// once an hour. Without that a policy with approvals would wait for ever.
func approvals(s scenario.Scenario) []scenario.Step {
	var by []string
	most := 0
	for _, w := range s.Policy.Waves {
		most = max(most, w.Approvals)
		for _, p := range w.Approvers {
			if !slices.Contains(by, p) {
				by = append(by, p)
			}
		}
	}
	for _, g := range s.Policy.Gates {
		if g.Name == rollout.GateApproval {
			most = max(most, int(g.MinN), 1)
		}
	}
	for i := len(by); i < most; i++ {
		by = append(by, fmt.Sprintf("person-%d", i+1))
	}
	var out []scenario.Step
	const days = 3
	for h := range days * 24 {
		for _, p := range by {
			out = append(out, scenario.Step{At: time.Duration(h+1) * time.Hour, Verb: string(rollout.Approve), By: strings.TrimPrefix(p, "user:"), Arg: "looked at it"})
		}
	}
	return out
}

func sum(s scenario.Scenario, results []scenario.Result) Outcome {
	out := Outcome{Nature: s.Name, Runs: len(results), Ends: map[rollout.State]int{}, Least: map[string]int{}, Story: s}
	worse := func(r scenario.Result) bool {
		w := out.Worst
		if r.Harm != w.Harm {
			return r.Harm > w.Harm
		}
		return took(r) > took(w)
	}
	for i, r := range results {
		if why := r.Refused["r-2"]; why != "" {
			out.Refused = why
			continue
		}
		out.Ends[r.Rollout.State]++
		if !r.Rollout.Ended.IsZero() {
			out.Finished = append(out.Finished, took(r))
		}
		if !r.Rollout.RollbackFrom.IsZero() {
			out.Stopped = append(out.Stopped, r.Rollout.RollbackFrom.Sub(r.Rollout.Started))
		}
		out.Tried, out.Harmed = max(out.Tried, r.Tried), max(out.Harmed, r.Harmed)
		out.Violations += len(r.Violations)
		for k, p := range r.Series {
			if k == 0 {
				continue // not all are switched on yet
			}
			for g, n := range p.Available {
				if old, ok := out.Least[g]; !ok || n < old {
					out.Least[g] = n
				}
			}
		}
		if i == 0 || worse(r) {
			out.Worst = r
		}
	}
	slices.Sort(out.Finished)
	slices.Sort(out.Stopped)
	return out
}

func took(r scenario.Result) time.Duration {
	if r.Rollout.Ended.IsZero() {
		return 0
	}
	return r.Rollout.Ended.Sub(r.Rollout.Started)
}
