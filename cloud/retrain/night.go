package retrain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Outcome is what a run came to.
type Outcome struct {
	Extracted Extracted `json:"extracted"`
	Validated Validated `json:"validated"`
	Trained   []Trained `json:"trained"`
	Judged    Judged    `json:"judged"`
	Blessed   Blessed   `json:"blessed"`
	Released  *Released `json:"released,omitempty"` // nil: refused or dry run
	Rollout   string    `json:"rollout,omitempty"`
	Summary   string    `json:"summary"` // a sentence for people
	// Skipped says why a run that nobody asked for had nothing to do.
	Skipped string `json:"skipped,omitempty"`
	// Stopped says which limit ended the run before it came to a result.
	Stopped string `json:"stopped,omitempty"`
}

// Refusals are the reasons why nothing was released, or why classes have no new
// model in what was; empty when every class has one.
func (o Outcome) Refusals() []string {
	switch {
	case o.Skipped != "":
		return []string{o.Skipped}
	case o.Stopped != "":
		return []string{o.Stopped}
	}
	return slices.Concat(o.Validated.Refusals, o.Blessed.Refusals)
}

// night is the workflow. Its steps run one after another; see the file of each.
// Fits and back-tests are tasks, one for each class and kind, that all workers
// share.
func (s *Service) night(r *engine.Run, input json.RawMessage) (json.RawMessage, error) {
	var o Order
	if err := json.Unmarshal(input, &o); err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	o.Policy = o.Policy.withDefaults()
	if l := o.Policy.Limits.WallS; l > 0 {
		began, err := r.Began()
		if err != nil {
			return nil, err
		}
		r.Deadline = began.Add(time.Duration(l * float64(time.Second)))
	}
	defer s.cfg.Changed(r.ID)
	var out Outcome
	err := s.steps(r, o, &out)
	var stopped stop
	switch {
	case errors.As(err, &stopped):
		out.Stopped = stopped.why
	case err != nil && out.Released == nil && (errors.Is(err, engine.ErrLate) || !r.Deadline.IsZero() && time.Now().After(r.Deadline)):
		out.Stopped = fmt.Sprintf("the run was over its limit of %g s of wall time (%v)", o.Policy.Limits.WallS, err)
	case err != nil:
		return nil, err
	}
	if out.Stopped != "" {
		out.Summary = "Nothing was released: " + out.Stopped + ". The champion stays."
	}
	return json.Marshal(out)
}

// stop ends a run at a limit.
type stop struct{ why string }

func (e stop) Error() string { return e.why }

func (s *Service) steps(r *engine.Run, o Order, out *Outcome) error {
	var err error
	if out.Extracted, err = step(s, r, "extract", func(ctx context.Context) (Extracted, error) {
		return s.extract(ctx, o)
	}); err != nil {
		return err
	}
	if out.Skipped = tooLittleNew(o, out.Extracted); out.Skipped != "" {
		out.Summary = "Skipped: " + out.Skipped + ". The champion stays."
		return nil
	}
	if out.Validated, err = step(s, r, "validate", func(ctx context.Context) (Validated, error) {
		return s.validate(ctx, o, out.Extracted)
	}); err != nil {
		return err
	}
	if len(out.Validated.Classes) == 0 {
		out.Summary = "Nothing was trained: " + strings.Join(out.Validated.Refusals, "; ") + ". The champion stays."
		return nil
	}
	if err := s.trainAll(r, o, out); err != nil {
		return err
	}
	if err := s.judgeAll(r, o, out); err != nil {
		return err
	}
	if out.Blessed, err = step(s, r, "bless", func(ctx context.Context) (Blessed, error) {
		return s.stillCompared(ctx, o, out.Judged, Bless(o.Policy.Gates, out.Judged))
	}); err != nil {
		return err
	}
	if len(out.Blessed.Winners) == 0 {
		out.Summary = "Nothing was released: " + strings.Join(out.Refusals(), "; ") + ". The champion stays."
		return nil
	}
	if o.DryRun {
		out.Summary = fmt.Sprintf("Dry run: %s would have been released.", out.Blessed.describe())
		return nil
	}
	// From here on the run is let finish: half a release helps nobody. The
	// answer is recorded, so that a hub that died in what follows goes on.
	if late, err := engine.Step(r, ".late", func(context.Context) (bool, error) {
		return !r.Deadline.IsZero() && time.Now().After(r.Deadline), nil
	}); err != nil {
		return err
	} else if late {
		return engine.ErrLate
	}
	r.Deadline = time.Time{}
	released, err := step(s, r, "release", func(ctx context.Context) (Released, error) {
		return s.release(ctx, r.ID, o, out)
	})
	if err != nil {
		return err
	}
	out.Released = &released
	if _, err = step(s, r, "register", func(ctx context.Context) (bool, error) {
		return true, s.register(ctx, r.ID, o, out)
	}); err != nil {
		return err
	}
	out.Summary = fmt.Sprintf("%s-%d: %s.", o.Policy.Family, released.Counter, out.Blessed.describe())
	if kept := out.Refusals(); len(kept) > 0 {
		out.Summary += " Without a new model: " + strings.Join(kept, "; ") + "."
	}
	if o.Policy.RolloutPolicy == "" {
		return nil
	}
	if out.Rollout, err = step(s, r, "propose", func(ctx context.Context) (string, error) {
		return s.cfg.Proposer.Propose(ctx, o.Policy.Family, released, o.Policy.RolloutPolicy, out.Summary)
	}); err != nil {
		return err
	}
	return nil
}

// tooLittleNew says why there is nothing to learn; empty when there is, or when
// a person asked.
func tooLittleNew(o Order, ex Extracted) string {
	if o.Trigger == ByHand || o.Policy.MinNewShare == 0 || ex.Rows == 0 {
		return ""
	}
	if share := float64(ex.Added) / float64(ex.Rows); share < o.Policy.MinNewShare {
		return fmt.Sprintf("%d of %d rows are newer than the data of the last release (%.1f %%, want %.1f %%)", ex.Added, ex.Rows, 100*share, 100*o.Policy.MinNewShare)
	}
	return ""
}

// fitOrder is the input of the task that fits one kind to one class.
type fitOrder struct {
	Order    Order           `json:"order"`
	Snapshot artifact.Digest `json:"snapshot"`
	Class    ClassData       `json:"class"`
	Kind     string          `json:"kind"`
}

// fitResult is what the task found.
type fitResult struct {
	Candidate Candidate `json:"candidate"`
	// Warm is the same kind started from the champion's weights; nil where that
	// cannot be.
	Warm   *Candidate `json:"warm,omitempty"`
	Failed string     `json:"failed,omitempty"` // why there is no candidate
}

// trainAll asks for all fits at once, so that every worker has something to
// do, and gathers them kind by kind.
func (s *Service) trainAll(r *engine.Run, o Order, out *Outcome) error {
	pending := map[string][]engine.Pending{}
	var all []engine.Pending
	kinds := out.Validated.kinds(o.Policy)
	for _, kind := range kinds {
		for _, c := range out.Validated.Classes {
			if !slices.Contains(c.kinds(o.Policy), kind) {
				continue
			}
			p := r.Do(o.Policy.queue(), "fit", "train/"+kind+"/"+string(c.Class), fitOrder{o, out.Extracted.Snapshot, withoutDrift(c), kind}, o.Policy.Priority)
			pending[kind], all = append(pending[kind], p), append(all, p)
		}
	}
	for _, kind := range kinds {
		t := Trained{Kind: kind}
		for _, p := range pending[kind] {
			f, err := gather[fitResult](s, r, o, p)
			if err != nil {
				abandon(all)
				return err
			}
			if f.Failed != "" {
				t.Failed = append(t.Failed, f.Failed)
			} else {
				t.Candidates = append(t.Candidates, f.Candidate)
				if f.Warm != nil {
					t.Candidates = append(t.Candidates, *f.Warm)
				}
			}
		}
		t, err := step(s, r, "train/"+kind, func(context.Context) (Trained, error) { return t, nil })
		if err != nil {
			return err
		}
		out.Trained = append(out.Trained, t)
	}
	return nil
}

// gather waits for one task, and holds the run to its cost.
func gather[T any](s *Service, r *engine.Run, o Order, p engine.Pending) (v T, err error) {
	defer s.cfg.Changed(r.ID)
	b, err := p.Result()
	if err != nil {
		return v, err
	}
	if limit := o.Policy.Limits.MaxCostS; limit > 0 && r.Cost().CPUSeconds > limit {
		return v, stop{fmt.Sprintf("the run was over its limit of %g CPU-seconds after %s", limit, p.Name)}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("%s: read result: %w", p.Name, err)
	}
	return v, nil
}

func abandon(ps []engine.Pending) {
	for _, p := range ps {
		p.Abandon()
	}
}

func (s *Service) fitTask(ctx context.Context, input json.RawMessage) (json.RawMessage, error) {
	var f fitOrder
	if err := json.Unmarshal(input, &f); err != nil {
		return nil, refuse("read the order of a fit: %v", err)
	}
	engine.Progress(ctx, "%s: class %s, %d rows of %d devices", f.Kind, f.Class.Class, f.Class.Rows, len(f.Class.Devices))
	snap, err := s.snapshot(ctx, f.Snapshot)
	if err != nil {
		return nil, err
	}
	var res fitResult
	res.Candidate, err = s.fit(ctx, f.Order, snap, f.Snapshot, f.Class, f.Kind)
	switch {
	case errors.Is(err, zoo.ErrData), errors.Is(err, runner.ErrRefused), errors.Is(err, ErrDamaged): // other classes can do without it
		res.Failed = fmt.Sprintf("class %s: %v", f.Class.Class, err)
		engine.Progress(ctx, "no candidate: %s", res.Failed)
	case err != nil:
		return nil, err
	default:
		if res.Warm, err = s.fitWarm(ctx, f.Order, snap, f.Snapshot, f.Class, f.Kind); err != nil {
			return nil, err
		}
		engine.Progress(ctx, "model %s, %d bytes, threshold %g, cached %v", res.Candidate.Digest.Short(), res.Candidate.Bytes, res.Candidate.Threshold, res.Candidate.Cached)
	}
	return json.Marshal(res)
}

// judgeOrder is the input of the task that back-tests the candidates of one class.
type judgeOrder struct {
	Order     Order     `json:"order"`
	Extracted Extracted `json:"extracted"`
	Validated Validated `json:"validated"` // of one class
	Trained   []Trained `json:"trained"`   // of that class
}

// judgeAll back-tests class by class, as tasks.
func (s *Service) judgeAll(r *engine.Run, o Order, out *Outcome) error {
	var all []engine.Pending
	for _, c := range out.Validated.Classes {
		in := judgeOrder{Order: o, Extracted: out.Extracted, Validated: Validated{Classes: []ClassData{c}}}
		in.Extracted.Silent = nil
		for _, t := range out.Trained {
			one := Trained{Kind: t.Kind}
			for _, cand := range t.Candidates {
				if cand.Class == c.Class {
					one.Candidates = append(one.Candidates, cand)
				}
			}
			in.Trained = append(in.Trained, one)
		}
		all = append(all, r.Do(o.Policy.queue(), "judge", "evaluate/"+string(c.Class), in, o.Policy.Priority))
	}
	var judged Judged
	for _, p := range all {
		j, err := gather[Judged](s, r, o, p)
		if err != nil {
			abandon(all)
			return err
		}
		judged.Classes = append(judged.Classes, j.Classes...)
	}
	for i, c := range judged.Classes {
		about := fmt.Sprintf("class %s: ", c.Class)
		for _, t := range out.Trained {
			for _, f := range t.Failed {
				if why, ok := strings.CutPrefix(f, about); ok {
					judged.Classes[i].Failed = append(judged.Classes[i].Failed, why)
				}
			}
		}
	}
	var err error
	out.Judged, err = step(s, r, "evaluate", func(context.Context) (Judged, error) { return judged, nil })
	return err
}

func (s *Service) judgeTask(ctx context.Context, input json.RawMessage) (json.RawMessage, error) {
	var in judgeOrder
	if err := json.Unmarshal(input, &in); err != nil {
		return nil, refuse("read the order of a back-test: %v", err)
	}
	j, err := s.evaluate(ctx, in.Order, in.Extracted, in.Validated, in.Trained)
	if errors.Is(err, ErrDamaged) {
		engine.Progress(ctx, "cannot be judged: %v", err)
		j = Judged{}
		for _, c := range in.Validated.Classes {
			j.Classes = append(j.Classes, JudgedClass{Class: c.Class, Failed: []string{err.Error()}})
		}
	} else if err != nil {
		return nil, err
	}
	return json.Marshal(j)
}

// StepNames names the steps of the run in order, also those still to come.
// Which kinds compete is only sure when the data was looked at: cameras have
// others than machines.
func (r Run) StepNames() []string {
	o := r.Order
	o.Policy = o.Policy.withDefaults()
	kinds := o.Policy.Kinds
	for _, s := range r.Steps {
		var v Validated
		if s.Name == "validate" && s.Output != nil && json.Unmarshal(s.Output, &v) == nil && len(v.Classes) > 0 {
			kinds = v.kinds(o.Policy)
		}
	}
	names := []string{"extract", "validate"}
	for _, kind := range kinds {
		names = append(names, "train/"+kind)
	}
	names = append(names, "evaluate", "bless")
	if o.DryRun {
		return names
	}
	names = append(names, "release", "register")
	if o.Policy.RolloutPolicy != "" {
		names = append(names, "propose")
	}
	return names
}

// step runs one step and tells those who watch when it has ended.
func step[T any](s *Service, r *engine.Run, name string, fn func(context.Context) (T, error)) (T, error) {
	defer s.cfg.Changed(r.ID)
	s.cfg.Changed(r.ID)
	return engine.Step(r, name, fn)
}

// refuse marks an error that another try cannot mend.
func refuse(format string, args ...any) error {
	return fmt.Errorf(format+" (%w)", append(args, engine.ErrPermanent)...)
}

// maxModelBytes caps a model read back from object storage.
const maxModelBytes = 256 << 20

// putModel stores model bytes under their digest.
func (s *Service) putModel(ctx context.Context, b []byte) (artifact.Digest, error) {
	d := artifact.Of(b)
	return d, s.put(ctx, modelKey(d), b)
}

func modelKey(d artifact.Digest) string { return "models/" + d.Hex() + ".onnx" }

// getModel reads model bytes and checks them.
func (s *Service) getModel(ctx context.Context, d artifact.Digest) ([]byte, error) {
	b, err := s.get(ctx, modelKey(d))
	if err != nil {
		return nil, err
	}
	if got := artifact.Of(b); got != d {
		return nil, refuse("model %s in object storage has digest %s", d.Short(), got.Short())
	}
	return b, nil
}

// put stores b under a key made from its content: what is there already is the same.
func (s *Service) put(ctx context.Context, key string, b []byte) error {
	err := s.cfg.Objects.PutIfAbsent(ctx, key, bytes.NewReader(b), int64(len(b)))
	if err != nil && !errors.Is(err, objects.ErrExists) {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

func (s *Service) get(ctx context.Context, key string) ([]byte, error) {
	rc, _, err := s.cfg.Objects.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer func() { _ = rc.Close() }()
	b, err := io.ReadAll(io.LimitReader(rc, maxModelBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if len(b) > maxModelBytes {
		return nil, refuse("%s is over %d bytes", key, maxModelBytes)
	}
	return b, nil
}
