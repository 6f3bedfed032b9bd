package api

import (
	"context"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
)

// ListRetrainPolicies lists policies by name.
func (s *Server) ListRetrainPolicies(ctx context.Context, r apigen.ListRetrainPoliciesRequestObject) (apigen.ListRetrainPoliciesResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	list, err := s.cfg.Training.Policies(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	items, next := page(list, limit, func(p apimodel.RetrainPolicy) string { return p.Metadata.Name })
	return apigen.ListRetrainPolicies200JSONResponse(apimodel.RetrainPolicyList{Items: items, NextCursor: next}), nil
}

// GetRetrainPolicy shows a policy.
func (s *Server) GetRetrainPolicy(ctx context.Context, r apigen.GetRetrainPolicyRequestObject) (apigen.GetRetrainPolicyResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	p, err := s.cfg.Training.Policy(ctx, r.Name)
	return apigen.GetRetrainPolicy200JSONResponse(p), err
}

// ApplyRetrainPolicy creates or replaces a policy.
func (s *Server) ApplyRetrainPolicy(ctx context.Context, r apigen.ApplyRetrainPolicyRequestObject) (apigen.ApplyRetrainPolicyResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	if err := named("RetrainPolicy", r.Name, r.Body.Kind, r.Body.Metadata.Name); err != nil {
		return nil, err
	}
	out, err := s.cfg.Training.Apply(ctx, *r.Body, true)
	if err != nil {
		return nil, err
	}
	if !value(r.Params.DryRun) {
		if err := s.audit(ctx, "retrain-policy.apply", "RetrainPolicy/"+r.Name, value(r.Params.Reason), nil); err != nil {
			return nil, err
		}
		if out, err = s.cfg.Training.Apply(ctx, *r.Body, false); err != nil {
			return nil, err
		}
		s.cfg.Stream.Publish(Change{Kind: "RetrainPolicy", Name: r.Name})
	}
	return apigen.ApplyRetrainPolicy200JSONResponse(out), nil
}

// named checks that an applied object is the one its path names.
func named(kind, name, gotKind, gotName string) error {
	switch {
	case gotKind != kind:
		return invalid("this path takes objects of kind "+kind, apimodel.FieldError{Field: "kind", Message: "want " + kind})
	case gotName != name:
		return invalid("the object is named "+gotName+" and the path "+name, apimodel.FieldError{Field: "metadata.name", Message: "want " + name})
	}
	return nil
}

// ListTrainingRuns lists runs, newest first.
func (s *Server) ListTrainingRuns(ctx context.Context, r apigen.ListTrainingRunsRequestObject) (apigen.ListTrainingRunsResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	list, err := s.cfg.Training.Runs(ctx, value(r.Params.Policy), string(value(r.Params.State)), after, limit+1)
	if err != nil {
		return nil, err
	}
	items, next := page(list, limit, func(t apimodel.TrainingRun) string { return t.Metadata.Name })
	return apigen.ListTrainingRuns200JSONResponse(apimodel.TrainingRunList{Items: items, NextCursor: next}), nil
}

// StartTrainingRun retrains now.
func (s *Server) StartTrainingRun(ctx context.Context, r apigen.StartTrainingRunRequestObject) (apigen.StartTrainingRunResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	reason, dry := value(r.Params.Reason), value(r.Params.DryRun)
	if !dry {
		if err := s.audit(ctx, "training.start", "RetrainPolicy/"+r.Body.Policy, reason, nil); err != nil {
			return nil, err
		}
	}
	run, err := s.cfg.Training.Start(ctx, r.Body.Policy, r.Body.Seed, callerOf(ctx).Actor(), reason, dry)
	if err != nil {
		return nil, err
	}
	return apigen.StartTrainingRun201JSONResponse(run), nil
}

// GetTrainingRun shows a run with its steps.
func (s *Server) GetTrainingRun(ctx context.Context, r apigen.GetTrainingRunRequestObject) (apigen.GetTrainingRunResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	run, err := s.cfg.Training.Run(ctx, r.Name)
	return apigen.GetTrainingRun200JSONResponse(run), err
}

// CancelTrainingRun stops a run.
func (s *Server) CancelTrainingRun(ctx context.Context, r apigen.CancelTrainingRunRequestObject) (apigen.CancelTrainingRunResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	run, err := s.cfg.Training.Run(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	if st := run.Status.State; st != apimodel.RunStateQueued && st != apimodel.RunStateRunning {
		return nil, conflict("run " + r.Name + " has ended: it is " + string(st))
	}
	if err := s.audit(ctx, "training.cancel", "TrainingRun/"+r.Name, value(r.Params.Reason), nil); err != nil {
		return nil, err
	}
	run, err = s.cfg.Training.Cancel(ctx, r.Name)
	return apigen.CancelTrainingRun200JSONResponse(run), err
}

// BackfillRetrainPolicy queues nights of the past.
func (s *Server) BackfillRetrainPolicy(ctx context.Context, r apigen.BackfillRetrainPolicyRequestObject) (apigen.BackfillRetrainPolicyResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	if !r.Body.From.Before(r.Body.To) {
		return nil, invalid("from must be before to", apimodel.FieldError{Field: "to", Message: "not after from"})
	}
	if _, err := s.cfg.Training.Policy(ctx, r.Name); err != nil {
		return nil, err
	}
	reason := value(r.Params.Reason)
	backfill := func(dry bool) ([]string, error) {
		return s.cfg.Training.Backfill(ctx, r.Name, r.Body.From, r.Body.To, callerOf(ctx).Actor(), reason, dry)
	}
	runs, err := backfill(true)
	if err != nil {
		return nil, err
	}
	if !value(r.Params.DryRun) {
		detail := map[string]string{"from": r.Body.From.UTC().Format(time.RFC3339), "to": r.Body.To.UTC().Format(time.RFC3339)}
		if err := s.audit(ctx, "training.backfill", "RetrainPolicy/"+r.Name, reason, detail); err != nil {
			return nil, err
		}
		if runs, err = backfill(false); err != nil {
			return nil, err
		}
	}
	if runs == nil {
		runs = []string{}
	}
	return apigen.BackfillRetrainPolicy201JSONResponse(apimodel.BackfillAnswer{Runs: runs}), nil
}

// RerunTrainingRun repeats a run from a step on.
func (s *Server) RerunTrainingRun(ctx context.Context, r apigen.RerunTrainingRunRequestObject) (apigen.RerunTrainingRunResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	run, err := s.cfg.Training.Run(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	if st := run.Status.State; st == apimodel.RunStateQueued || st == apimodel.RunStateRunning {
		return nil, conflict("run " + r.Name + " is " + string(st) + ": cancel it first, or wait for its end")
	}
	if err := s.audit(ctx, "training.rerun", "TrainingRun/"+r.Name, value(r.Params.Reason), map[string]string{"from": r.Body.From}); err != nil {
		return nil, err
	}
	run, err = s.cfg.Training.Rerun(ctx, r.Name, r.Body.From)
	return apigen.RerunTrainingRun201JSONResponse(run), err
}

// GetTrainingLogs shows what a run's steps said.
func (s *Server) GetTrainingLogs(ctx context.Context, r apigen.GetTrainingLogsRequestObject) (apigen.GetTrainingLogsResponseObject, error) {
	if s.cfg.Training == nil {
		return nil, errNoTraining
	}
	lines, err := s.cfg.Training.Logs(ctx, r.Name, value(r.Params.Step))
	if lines == nil {
		lines = []apimodel.TrainingLogLine{}
	}
	return apigen.GetTrainingLogs200JSONResponse(apimodel.TrainingLogs{Items: lines}), err
}
