package retrain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/retrain/engine"
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
}

// Refusals are the reasons why nothing was released; empty when something was,
// or when the run was a dry one.
func (o Outcome) Refusals() []string {
	if len(o.Validated.Refusals) > 0 {
		return o.Validated.Refusals
	}
	return o.Blessed.Refusals
}

// night is the workflow. Its steps run one after another; see the file of each.
func (s *Service) night(r *engine.Run, input json.RawMessage) (json.RawMessage, error) {
	var o Order
	if err := json.Unmarshal(input, &o); err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	o.Policy = o.Policy.withDefaults()
	var out Outcome
	err := s.steps(r, o, &out)
	if err != nil {
		return nil, err
	}
	defer s.cfg.Changed(r.ID)
	return json.Marshal(out)
}

func (s *Service) steps(r *engine.Run, o Order, out *Outcome) error {
	var err error
	if out.Extracted, err = step(s, r, "extract", func(ctx context.Context) (Extracted, error) {
		return s.extract(ctx, o)
	}); err != nil {
		return err
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
	for _, kind := range o.Policy.Kinds {
		t, err := step(s, r, "train/"+kind, func(ctx context.Context) (Trained, error) {
			return s.train(ctx, r, o, out.Extracted, out.Validated, kind)
		})
		if err != nil {
			return err
		}
		out.Trained = append(out.Trained, t)
	}
	if out.Judged, err = step(s, r, "evaluate", func(ctx context.Context) (Judged, error) {
		return s.evaluate(ctx, r, o, out.Extracted, out.Validated, out.Trained)
	}); err != nil {
		return err
	}
	if out.Blessed, err = step(s, r, "bless", func(context.Context) (Blessed, error) {
		return Bless(o.Policy.Gates, out.Judged), nil
	}); err != nil {
		return err
	}
	if len(out.Blessed.Winners) == 0 {
		out.Summary = "Nothing was released: " + strings.Join(out.Blessed.Refusals, "; ") + ". The champion stays."
		return nil
	}
	if o.DryRun {
		out.Summary = fmt.Sprintf("Dry run: %s would have been released.", out.Blessed.describe())
		return nil
	}
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
	if kept := append(out.Validated.Refusals, out.Blessed.Refusals...); len(kept) > 0 {
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

// Steps names the steps of a run in order, also those still to come.
func Steps(o Order) []string {
	names := []string{"extract", "validate"}
	for _, kind := range o.Policy.withDefaults().Kinds {
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
