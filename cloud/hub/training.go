package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/models/zoo"
)

// training answers api.Training in the contract's words.
type training struct {
	nights   *retrain.Service
	policies retrain.Policies
}

// maxRuns bounds how many runs a search looks at.
const maxRuns = 1000

func (t training) Policies(ctx context.Context, after string, limit int) ([]apimodel.RetrainPolicy, error) {
	ps, err := t.policies.RetrainPolicies(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ps, func(a, b retrain.Policy) int { return cmp.Compare(a.Name, b.Name) })
	var out []apimodel.RetrainPolicy
	for _, p := range ps {
		if p.Name > after && len(out) < limit {
			out = append(out, t.policy(p))
		}
	}
	return out, nil
}

func (t training) Policy(ctx context.Context, name string) (apimodel.RetrainPolicy, error) {
	p, err := t.policies.RetrainPolicy(ctx, name)
	if err != nil {
		return apimodel.RetrainPolicy{}, known(err)
	}
	return t.policy(p), nil
}

// known turns what nights do not have into what the API calls not found.
func known(err error) error {
	if errors.Is(err, retrain.ErrNoPolicy) || errors.Is(err, engine.ErrNoRun) {
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return err
}

// retrainSpec writes a policy as in the contract.
func retrainSpec(p retrain.Policy) apimodel.RetrainPolicySpec {
	return apimodel.RetrainPolicySpec{
		Model: cmp.Or(p.Family, p.Name), Selector: p.Selector, Seed: given(int64(p.Seed)),
		Schedule:      apimodel.Schedule{Cron: p.Schedule.Cron, TimeZone: given(p.Schedule.TimeZone), Paused: given(p.Paused), CatchUp: &p.Schedule.CatchUp, Missed: given(apimodel.ScheduleMissed(p.CatchUp))},
		LookbackHours: given(p.LookbackS / 3600), Channels: list(p.Channels), Exclude: list(p.Exclude), TrainRows: given(int64(p.TrainRows)),
		MinRows: given(int64(p.MinRows)), Detectors: list(p.Kinds), RolloutPolicy: given(p.RolloutPolicy),
		Gates: &apimodel.RetrainGates{
			MaxFlagShare: given(p.Gates.MaxFlagShare), MinDetected: given(p.Gates.MinDetected), WaiveFaults: given(p.Gates.WaiveFaults),
			Margin: given(p.Gates.Margin), MaxPSI: given(p.Gates.MaxPSI), MaxMissing: given(p.Gates.MaxMissing),
			MinAccuracy: given(p.Gates.MinAccuracy), MaxPerDay: given(p.Gates.MaxPerDay), SliceMargin: given(p.Gates.SliceMargin), StrictSlices: given(p.Gates.StrictSlices),
			MinEventsFound: given(p.Gates.MinEventsFound), MaxTwoSample: given(p.Gates.MaxTwoSample), MaxStuckShare: given(p.Gates.MaxStuckShare), Ranges: rangesSpec(p.Gates.Ranges),
		},
		Limits: given(apimodel.RunLimits{
			WallSeconds: given(p.Limits.WallS), CPUSeconds: given(p.Limits.MaxCostS), MemoryMiB: given(p.Limits.MemoryMiB), Cpus: given(p.Limits.CPUs),
		}),
		Priority: given(p.Priority), Queue: given(p.Queue), MinNewShare: given(p.MinNewShare), DriftLimit: given(p.DriftLimit),
		Retention: given(apimodel.RunRetention{Runs: given(p.Retention.Runs), Days: given(p.Retention.Days)}),
		Images:    imageSpec(p.Images),
		Fit: &apimodel.FitSpec{
			Pattern: given(p.Fit.Pattern), Smooth: given(p.Fit.Smooth), Stride: given(p.Fit.Stride), MaxGap: given(p.Fit.MaxGap),
			HoldOut: given(p.Fit.HoldOut), Quantile: given(p.Fit.Quantile), Margin: given(p.Fit.Margin), FalseAlarmsPerDay: given(p.Fit.FalseAlarmsPerDay),
			PerDevice: given(p.Fit.PerDevice), Variance: given(p.Fit.Variance), PlaneWeight: given(p.Fit.PlaneWeight), Hidden: list(p.Fit.Hidden),
			DeepPenalty: given(p.Fit.DeepPenalty), Steps: given(p.Fit.Steps), BatchSize: given(p.Fit.BatchSize), LearningRate: given(p.Fit.LearningRate), Patience: given(p.Fit.Patience),
			History: given(p.Fit.History), Hold: given(p.Fit.Hold), Floor: given(p.Fit.Floor),
		},
	}
}

func (t training) policy(p retrain.Policy) apimodel.RetrainPolicy {
	out := apimodel.RetrainPolicy{APIVersion: apimodel.APIVersionSwellV1, Kind: "RetrainPolicy", Metadata: apimodel.ObjectMeta{Name: p.Name}, Spec: retrainSpec(p),
		Status: &apimodel.RetrainPolicyStatus{Conditions: []apimodel.Condition{}}}
	if next := t.nights.NextRun(p); !next.IsZero() {
		out.Status.NextRunAt = &next
	}
	if runs, err := t.find(p.Name, "", "", 1); err == nil && len(runs) > 0 {
		state := runState(runs[0])
		out.Status.LastRun, out.Status.LastOutcome = &runs[0].ID, &state
	}
	return out
}

// retrainPolicyOf reads a policy of the contract, which names everything a
// policy can say: what is absent takes its default.
func retrainPolicyOf(name string, s apimodel.RetrainPolicySpec) retrain.Policy {
	g, f, l, kept := deref(s.Gates), deref(s.Fit), deref(s.Limits), deref(s.Retention)
	return retrain.Policy{
		Name: name, Family: s.Model, Selector: s.Selector, Paused: deref(s.Schedule.Paused),
		Schedule: engine.Schedule{
			Name: name, Cron: s.Schedule.Cron, TimeZone: deref(s.Schedule.TimeZone), CatchUp: s.Schedule.CatchUp == nil || *s.Schedule.CatchUp,
		},
		LookbackS: deref(s.LookbackHours) * 3600, Channels: deref(s.Channels), Exclude: deref(s.Exclude), TrainRows: int(deref(s.TrainRows)),
		MinRows: int(deref(s.MinRows)), Kinds: deref(s.Detectors), RolloutPolicy: deref(s.RolloutPolicy), Seed: uint64(deref(s.Seed)),
		Gates: retrain.Gates{
			MaxFlagShare: deref(g.MaxFlagShare), MinDetected: deref(g.MinDetected), WaiveFaults: deref(g.WaiveFaults),
			Margin: deref(g.Margin), MaxPSI: deref(g.MaxPSI), MaxMissing: deref(g.MaxMissing),
			MinAccuracy: deref(g.MinAccuracy), MaxPerDay: deref(g.MaxPerDay), SliceMargin: deref(g.SliceMargin), StrictSlices: deref(g.StrictSlices),
			MinEventsFound: deref(g.MinEventsFound), MaxTwoSample: deref(g.MaxTwoSample), MaxStuckShare: deref(g.MaxStuckShare), Ranges: rangesOf(g.Ranges),
		},
		Limits:   retrain.Limits{WallS: deref(l.WallSeconds), MaxCostS: deref(l.CPUSeconds), MemoryMiB: deref(l.MemoryMiB), CPUs: deref(l.Cpus)},
		Priority: deref(s.Priority), Queue: deref(s.Queue), MinNewShare: deref(s.MinNewShare), DriftLimit: deref(s.DriftLimit),
		CatchUp:   string(deref(s.Schedule.Missed)),
		Retention: retrain.Retention{Runs: deref(kept.Runs), Days: deref(kept.Days)},
		Images:    imagePolicyOf(deref(s.Images)),
		Fit: zoo.Config{
			Pattern: deref(f.Pattern), Smooth: deref(f.Smooth), Stride: deref(f.Stride), MaxGap: deref(f.MaxGap), HoldOut: deref(f.HoldOut),
			Quantile: deref(f.Quantile), Margin: deref(f.Margin), FalseAlarmsPerDay: deref(f.FalseAlarmsPerDay), PerDevice: deref(f.PerDevice),
			Variance: deref(f.Variance), PlaneWeight: deref(f.PlaneWeight), Hidden: deref(f.Hidden), DeepPenalty: deref(f.DeepPenalty),
			Steps: deref(f.Steps), BatchSize: deref(f.BatchSize), LearningRate: deref(f.LearningRate), Patience: deref(f.Patience),
			History: deref(f.History), Hold: deref(f.Hold), Floor: deref(f.Floor),
		},
	}
}

func (t training) Apply(ctx context.Context, in apimodel.RetrainPolicy, dry bool) (apimodel.RetrainPolicy, error) {
	p := retrainPolicyOf(in.Metadata.Name, in.Spec)
	if err := p.Validate(); err != nil {
		return apimodel.RetrainPolicy{}, fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	if !dry {
		if err := t.nights.Apply(ctx, p); err != nil {
			return apimodel.RetrainPolicy{}, err
		}
	}
	return t.policy(p), nil
}

func (t training) Start(ctx context.Context, policy string, seed *int64, by, reason string, dry bool) (apimodel.TrainingRun, error) {
	id, err := t.nights.Start(ctx, retrain.Request{Policy: policy, By: by, Reason: reason, Seed: seed, DryRun: dry})
	if err != nil {
		return apimodel.TrainingRun{}, known(err)
	}
	return t.Run(ctx, id)
}

func (t training) Cancel(ctx context.Context, name string) (apimodel.TrainingRun, error) {
	if _, err := t.nights.Run(name); err != nil {
		return apimodel.TrainingRun{}, known(err)
	}
	if err := t.nights.Cancel(name); err != nil {
		return apimodel.TrainingRun{}, err
	}
	return t.Run(ctx, name)
}

func (t training) Rerun(ctx context.Context, name, step string) (apimodel.TrainingRun, error) {
	r, err := t.nights.Run(name)
	if err != nil {
		return apimodel.TrainingRun{}, known(err)
	}
	names := r.StepNames()
	from := slices.Index(names, step)
	if from < 0 {
		return apimodel.TrainingRun{}, fmt.Errorf("%w: run %s has no step %q: its steps are %s", api.ErrInvalid, name, step, strings.Join(names, ", "))
	}
	if from > len(r.Steps) {
		return apimodel.TrainingRun{}, fmt.Errorf("%w: run %s never came to step %s: choose %s or one before it", api.ErrInvalid, name, step, names[len(r.Steps)])
	}
	id, err := t.nights.Rerun(name, step)
	if err != nil {
		return apimodel.TrainingRun{}, err
	}
	return t.Run(ctx, id)
}

func (t training) Backfill(ctx context.Context, policy string, from, to time.Time, by, reason string, dry bool) ([]string, error) {
	ids, err := t.nights.Backfill(ctx, policy, from, to, by, reason, dry)
	if errors.Is(err, retrain.ErrBackfill) {
		err = fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return ids, known(err)
}

// Logs returns the lines of one step, or of all steps when step is empty.
func (t training) Logs(_ context.Context, name, step string) ([]apimodel.TrainingLogLine, error) {
	lines, err := t.nights.Logs(name, step)
	if err != nil {
		return nil, known(err)
	}
	out := make([]apimodel.TrainingLogLine, len(lines))
	for i, l := range lines {
		out[i] = apimodel.TrainingLogLine{At: l.At, Step: l.Step, Message: l.Text}
	}
	return out, nil
}

// cost writes what a step or run took; nil when nothing was measured.
func cost(c engine.Cost) *apimodel.Cost {
	if c == (engine.Cost{}) {
		return nil
	}
	return &apimodel.Cost{CPUSeconds: c.CPUSeconds, WallSeconds: c.WallSeconds, PeakMiB: given(c.PeakMiB)}
}

func (t training) Runs(_ context.Context, policy, state, after string, limit int) ([]apimodel.TrainingRun, error) {
	runs, err := t.find(policy, state, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]apimodel.TrainingRun, len(runs))
	for i, r := range runs {
		out[i] = trainingRun(r)
	}
	return out, nil
}

// find returns up to limit runs after the given one, newest first.
func (t training) find(policy, state, after string, limit int) ([]retrain.Run, error) {
	var out []retrain.Run
	passed := after == ""
	for offset := 0; offset < maxRuns; {
		runs, err := t.nights.Runs(100, offset)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			match := (policy == "" || r.Order.Policy.Name == policy) && (state == "" || string(runState(r)) == state)
			if passed && match {
				if out = append(out, r); len(out) == limit {
					return out, nil
				}
			}
			passed = passed || r.ID == after
		}
		if len(runs) < 100 {
			break
		}
		offset += len(runs)
	}
	return out, nil
}

func (t training) Run(_ context.Context, name string) (apimodel.TrainingRun, error) {
	r, err := t.nights.Run(name)
	if err != nil {
		return apimodel.TrainingRun{}, known(err)
	}
	return trainingRun(r), nil
}

func runState(r retrain.Run) apimodel.RunState {
	switch r.State {
	case engine.Queued:
		return apimodel.RunStateQueued
	case engine.Running:
		return apimodel.RunStateRunning
	case engine.Cancelled:
		return apimodel.RunStateCancelled
	case engine.Succeeded:
		if r.Outcome.Released != nil || r.Order.DryRun && len(r.Outcome.Refusals()) == 0 {
			return apimodel.RunStateReleased
		}
		return apimodel.RunStateRefused
	}
	if strings.Contains(r.Err, engine.ErrPermanent.Error()) {
		return apimodel.RunStateRefused
	}
	return apimodel.RunStateFailed
}

func trainingRun(r retrain.Run) apimodel.TrainingRun {
	o := r.Outcome
	out := apimodel.TrainingRun{
		APIVersion: apimodel.APIVersionSwellV1, Kind: "TrainingRun", Metadata: apimodel.ObjectMeta{Name: r.ID, CreatedAt: &r.Created},
		Spec: apimodel.TrainingRunSpec{
			Model: cmp.Or(r.Order.Policy.Family, r.Order.Policy.Name), Policy: r.Order.Policy.Name, Trigger: string(r.Order.Trigger),
			Seed: some(int64(r.Order.Policy.Seed)),
		},
		Status: apimodel.TrainingRunStatus{State: runState(r), Gates: []apimodel.Gate{}, Refusals: []string{}, QueuedAt: &r.Created},
	}
	if r.Order.By != "" {
		out.Spec.StartedBy = &r.Order.By
	}
	if r.Order.Reason != "" {
		out.Spec.Reason = &r.Order.Reason
	}
	st := &out.Status
	if !r.Started.IsZero() {
		st.StartedAt = &r.Started
	}
	if !r.Ended.IsZero() {
		st.EndedAt = &r.Ended
	}
	st.Refusals = append(st.Refusals, o.Refusals()...)
	summary := o.Summary
	if r.Err != "" {
		st.Refusals = append(st.Refusals, r.Err)
		summary = "It ended without a release: " + r.Err
	}
	if summary != "" {
		st.Summary = &summary
	}
	if o.Released != nil {
		st.Release = &apimodel.ReleaseRef{Kind: apimodel.ReleaseKindModel, Name: out.Spec.Model, Counter: int64(o.Released.Counter), Digest: string(o.Released.Manifest), ID: fmt.Sprintf("%s-%d", out.Spec.Model, o.Released.Counter)}
	}
	if o.Rollout != "" {
		st.Rollout = &o.Rollout
	}
	st.Steps, st.Cost = steps(r), cost(r.Cost)
	st.Data = dataUse(r)
	out.Spec.DryRun = given(r.Order.DryRun)
	if !r.Order.At.IsZero() {
		from := r.Order.At.Add(-time.Duration(cmp.Or(r.Order.Policy.LookbackS, 7*24*3600) * float64(time.Second)))
		out.Spec.From, out.Spec.To = &from, &r.Order.At
	}
	st.Candidates = candidates(o)
	for _, g := range o.Blessed.Gates {
		st.Gates = append(st.Gates, gate(g))
	}
	return out
}

func gate(g retrain.GateResult) apimodel.Gate {
	comparison := apimodel.GateComparisonGreaterThanEqual
	if g.AtMost {
		comparison = apimodel.GateComparisonLessThanEqual
	}
	out := apimodel.Gate{Name: g.Gate, Verdict: apimodel.Verdict(g.Verdict), Message: fmt.Sprintf("class %s: %s", g.Class, g.Message), N: some(int64(g.N)), NUnit: some("windows")}
	out.Candidate, out.Class, out.Advisory = given(g.Kind), given(string(g.Class)), given(g.Advisory)
	if g.Verdict != retrain.Inconclusive {
		out.Value = &g.Value
		// What passes beyond a limit of 0 has none: the policy sets no limit.
		if g.Limit != 0 || g.Value <= 0 || !g.AtMost || g.Verdict != retrain.Pass {
			out.Threshold, out.Comparison = &g.Limit, &comparison
		}
	}
	return out
}

// steps shows what is recorded, what is at work and what is to come.
func steps(r retrain.Run) []apimodel.TrainingStep {
	names := r.StepNames()
	var out []apimodel.TrainingStep
	ended := r.State != engine.Queued && r.State != engine.Running
	for i, name := range names {
		s := apimodel.TrainingStep{Name: name, State: apimodel.StepStateWaiting, After: after(names, i), Tasks: list(tasks(r, name))}
		at := slices.IndexFunc(r.Steps, func(x engine.StepInfo) bool { return x.Name == name })
		switch {
		case at >= 0:
			x := r.Steps[at]
			s.State, s.StartedAt, s.EndedAt, s.Cost = apimodel.StepStateDone, &x.Started, &x.Ended, cost(x.Cost)
			if x.Err != "" {
				s.State, s.Reasons = apimodel.StepStateFailed, &[]string{x.Err}
			}
			describe(&s, x)
		case ended:
			s.State = apimodel.StepStateSkipped
		case r.State == engine.Running && (i == recorded(names, r) || begun(s)):
			s.State = apimodel.StepStateRunning
			if began := beginning(r, s); !began.IsZero() {
				s.StartedAt = &began
			}
			if r.Progress != "" && s.Tasks == nil {
				s.Summary = &r.Progress
			}
		}
		out = append(out, s)
	}
	return out
}

// describe says in a sentence what a step found, and names its outputs.
func describe(s *apimodel.TrainingStep, x engine.StepInfo) {
	say := func(format string, args ...any) { s.Summary = some(fmt.Sprintf(format, args...)) }
	switch {
	case x.Output == nil:
	case s.Name == "extract":
		var e retrain.Extracted
		if json.Unmarshal(x.Output, &e) == nil {
			say("%d rows of %d devices in %d segments", e.Rows, e.Devices, e.Segments)
			s.Outputs = &map[string]string{"snapshot": string(e.Snapshot)}
		}
	case s.Name == "validate":
		var v retrain.Validated
		if json.Unmarshal(x.Output, &v) == nil {
			say("%d device classes can learn, %d parts were left out", len(v.Classes), len(v.Dropped))
			if len(v.Refusals) > 0 {
				s.Reasons = &v.Refusals
				if len(v.Classes) == 0 {
					s.State = apimodel.StepStateRefused
				}
			}
		}
	case strings.HasPrefix(s.Name, "train/"):
		var t retrain.Trained
		if json.Unmarshal(x.Output, &t) == nil {
			outputs, cached, seconds := map[string]string{}, len(t.Candidates) > 0, 0.0
			for _, c := range t.Candidates {
				outputs[string(c.Class)] = string(c.Digest)
				cached = cached && c.Cached
				seconds += c.Seconds
			}
			say("%d models in %.1f s", len(t.Candidates), seconds)
			s.Outputs, s.Cached = &outputs, &cached
			if len(t.Failed) > 0 {
				s.Reasons = &t.Failed
			}
		}
	case s.Name == "bless":
		var b retrain.Blessed
		if json.Unmarshal(x.Output, &b) == nil {
			var why []string
			for _, w := range b.Winners {
				why = append(why, w.Why)
			}
			say("%s", strings.Join(why, ". "))
			if len(b.Refusals) > 0 {
				s.Reasons = &b.Refusals
				if len(b.Winners) == 0 {
					s.State = apimodel.StepStateRefused
				}
			}
		}
	case s.Name == "release":
		var rel retrain.Released
		if json.Unmarshal(x.Output, &rel) == nil {
			say("release %d, signed and in the ledger", rel.Counter)
			s.Outputs = &map[string]string{"manifest": string(rel.Manifest)}
		}
	}
}

func dataUse(r retrain.Run) *apimodel.DataUse {
	e, v := r.Outcome.Extracted, r.Outcome.Validated
	if e.Snapshot == "" {
		for _, s := range r.Steps { // a run at work shows what it has so far
			switch s.Name {
			case "extract":
				_ = json.Unmarshal(s.Output, &e)
			case "validate":
				_ = json.Unmarshal(s.Output, &v)
			}
		}
	}
	if e.Snapshot == "" {
		return nil
	}
	used := 0
	for _, c := range v.Classes {
		used += c.Rows
	}
	d := &apimodel.DataUse{
		Added:   some(int64(min(e.Added, used))),
		Windows: int64(used), Devices: some(int64(e.Devices)), Segments: some(int64(e.Segments)), From: &e.From, To: &e.To,
		Snapshot: some(apimodel.Digest(e.Snapshot)), Dropped: []apimodel.DataDrop{},
	}
	if len(v.Gates) > 0 {
		gates := make([]apimodel.Gate, len(v.Gates))
		for i, g := range v.Gates {
			gates[i] = gate(g)
			gates[i].NUnit = some("rows")
		}
		d.Gates = &gates
	}
	for _, x := range v.Dropped {
		d.Dropped = append(d.Dropped, apimodel.DataDrop{Windows: int64(x.Rows), Devices: some(int64(1)), Reason: fmt.Sprintf("%s, %s: %s", x.Device, x.What, x.Why)})
	}
	return d
}

func candidates(o retrain.Outcome) *[]apimodel.Candidate {
	var out []apimodel.Candidate
	for _, c := range o.Judged.Classes {
		for _, s := range c.Candidates {
			m := apimodel.Candidate{Detector: s.Candidate.Name(), Class: some(string(c.Class)), Metrics: []apimodel.Metric{}, Chosen: some(false)}
			for _, w := range o.Blessed.Winners {
				if w.Score.Candidate.Digest == s.Candidate.Digest && w.Score.Candidate.Class == c.Class {
					m.Chosen, m.Why = some(true), given(w.Why)
				}
			}
			metric := func(name string, v float64, champion *float64, n int) {
				m.Metrics = append(m.Metrics, apimodel.Metric{Name: name, Value: v, Champion: champion, N: some(int64(n)), Slice: some("class=" + string(c.Class))})
			}
			var found, flags, perDay *float64
			if c.Champion != nil {
				found, flags, perDay = &c.Champion.Detected, &c.Champion.FlagShare, &c.Champion.PerDay
			}
			metric("faults_found", s.Detected, found, s.Faults)
			metric("flag_share", s.FlagShare, flags, c.Windows)
			metric("flags_per_day", s.PerDay, perDay, c.Windows)
			for _, kind := range slices.Sorted(maps.Keys(s.ByFault)) {
				m.Metrics = append(m.Metrics, apimodel.Metric{Name: "faults_found", Value: s.ByFault[kind], Slice: some("class=" + string(c.Class) + ",fault=" + kind)})
			}
			if s.NonFinite > 0 {
				metric("non_finite_scores", float64(s.NonFinite), nil, c.Windows)
			}
			if s.Err != "" {
				m.Message = some(s.Err)
			}
			out = append(out, m)
		}
	}
	if out == nil {
		return nil
	}
	return &out
}

// some returns a pointer to v, for the contract's optional fields.
func some[T any](v T) *T { return &v }

// given returns a pointer to v, nil for the zero value: what takes its default
// is absent.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// list returns a pointer to v, nil when it is empty.
func list[T any](v []T) *[]T {
	if len(v) == 0 {
		return nil
	}
	return &v
}

// deref returns what p points at, or the zero value.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
