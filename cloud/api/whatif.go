package api

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
)

// maxNames bounds how many devices of a wave a preview names.
const maxNames = 1000

// inline reads the policy of a request that names one or holds one: nil for
// one that is named.
func inline(name *string, spec *apimodel.RolloutPolicySpec) (*RolloutPolicy, error) {
	if (name == nil) == (spec == nil) {
		return nil, invalid("give policy, the name of a stored one, or policySpec", apimodel.FieldError{Field: "policy", Message: "give this or policySpec, not both and not neither"})
	}
	if spec == nil {
		return nil, nil
	}
	p, err := policyOf("unnamed", *spec)
	return &p, err
}

// PreviewRollout says what a rollout would do if it were started now.
func (s *Server) PreviewRollout(ctx context.Context, r apigen.PreviewRolloutRequestObject) (apigen.PreviewRolloutResponseObject, error) {
	own, err := inline(r.Body.Policy, r.Body.PolicySpec)
	if err != nil {
		return nil, err
	}
	ro, p, err := s.cfg.Rollouts.Preview(ctx, Proposal{Release: r.Body.Release, Policy: value(r.Body.Policy), Inline: own, Author: callerOf(ctx).person(), Reason: "preview"})
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Rollouts.Rollouts(ctx)
	if err != nil {
		return nil, err
	}
	admitted := rollout.Admit(ro, all)
	now := s.cfg.Now().UTC()
	out := apimodel.RolloutPreview{
		Release: releaseRef(ro.Release), Policy: r.Body.Policy, PolicySpec: RolloutPolicy{Selector: ro.Fleet, Seed: ro.Seed, Policy: ro.Policy}.spec(),
		State: apimodel.RolloutState(admitted.Rollout.State), Message: admission(admitted), Waves: previewWaves(p, ro.Policy, now),
		Budgets: budgetsOf(p.Groups), Windows: windowsOf(p.Windows), Excluded: excludedOf(p), Refusals: p.Refusals, FinishAt: at(p.Finish),
	}
	if len(out.Refusals) == 0 {
		out.Refusals = []string{}
	} else {
		out.Message = "It would not be started."
	}
	for _, w := range out.Waves {
		out.Devices += w.Devices
	}
	if ro.Previous != nil {
		ref := releaseRef(*ro.Previous)
		out.RollbackTo = &ref
	}
	return apigen.PreviewRollout200JSONResponse(out), nil
}

// admission says what would become of a new rollout.
func admission(a rollout.Admission) string {
	text := "It would start at once."
	if a.Rollout.State == rollout.Queued {
		text = "It " + a.Rollout.Reason + "."
	}
	for _, name := range a.Superseded {
		text += " It would take the place of " + name + ", which waits."
	}
	return text
}

func previewWaves(p rollout.Preview, pol rollout.Policy, now time.Time) []apimodel.PreviewWave {
	out := make([]apimodel.PreviewWave, len(p.Waves))
	start := now
	for i, w := range p.Waves {
		end := start.Add(time.Duration(w.DurationS * float64(time.Second)))
		o := apimodel.PreviewWave{
			Name: w.Name, Devices: int64(len(w.Devices)), Lines: []apimodel.LineCount{}, Names: make([]string, min(len(w.Devices), maxNames)),
			Approvals: some(w.Approvals), Approvers: list(w.Approvers), SoakSeconds: &pol.SoakS, DeadlineSeconds: some(w.DeadlineS), StartAt: at(start), EndAt: at(end),
		}
		lines := map[string]int64{}
		for k, d := range w.Devices {
			lines[d.Line]++
			if k < maxNames {
				o.Names[k] = d.Device.String()
			}
		}
		for line, n := range lines {
			o.Lines = append(o.Lines, apimodel.LineCount{Line: line, Devices: n})
		}
		slices.SortFunc(o.Lines, func(a, b apimodel.LineCount) int { return cmp.Compare(a.Line, b.Line) })
		out[i], start = o, end
	}
	return out
}

func budgetsOf(groups []rollout.PreviewGroup) []apimodel.PreviewBudget {
	out := make([]apimodel.PreviewBudget, len(groups))
	for i, g := range groups {
		out[i] = apimodel.PreviewBudget{GroupBy: g.GroupBy, Group: g.Group, Devices: int64(g.Size), Limit: int64(g.Limit), Unavailable: int64(g.Unavailable)}
	}
	return out
}

func windowsOf(windows []rollout.PreviewWindow) []apimodel.PreviewWindow {
	out := make([]apimodel.PreviewWindow, len(windows))
	for i, w := range windows {
		out[i] = apimodel.PreviewWindow{Names: append([]string{}, w.Names...), Zone: w.Zone, Devices: int64(w.Devices), Open: w.Open, ChangeAt: at(w.Change)}
	}
	return out
}

// excludedOf counts the devices that cannot take part by the reason, the
// commonest first.
func excludedOf(p rollout.Preview) []apimodel.PreviewExcluded {
	out := []apimodel.PreviewExcluded{}
	for _, d := range p.Excluded {
		i := slices.IndexFunc(out, func(x apimodel.PreviewExcluded) bool { return x.Reason == d.Why })
		if i < 0 {
			i = len(out)
			out = append(out, apimodel.PreviewExcluded{Reason: d.Why})
		}
		out[i].Devices++
	}
	slices.SortStableFunc(out, func(a, b apimodel.PreviewExcluded) int { return cmp.Compare(b.Devices, a.Devices) })
	return out
}

// ReplayRollout says what another policy would have decided.
func (s *Server) ReplayRollout(ctx context.Context, r apigen.ReplayRolloutRequestObject) (apigen.ReplayRolloutResponseObject, error) {
	own, err := inline(r.Body.Policy, r.Body.PolicySpec)
	if err != nil {
		return nil, err
	}
	if own == nil {
		o, err := s.cfg.Store.Object(ctx, RolloutPolicyKind, *r.Body.Policy)
		if err != nil {
			return nil, err
		}
		p, err := ReadRolloutPolicy(o)
		if err != nil {
			return nil, err
		}
		own = &p
	}
	rep, err := s.cfg.Rollouts.Replay(ctx, r.Name, own.Policy)
	if err != nil {
		return nil, err
	}
	out := apimodel.RolloutReplay{Rollout: rep.Rollout, Policy: r.Body.Policy, Verdict: rep.Verdict, Same: rep.Same, Steps: make([]apimodel.ReplayStep, len(rep.Steps))}
	for i, step := range rep.Steps {
		out.Steps[i] = stepOf(own.Policy, step)
	}
	if rep.Diverged != nil {
		step := stepOf(own.Policy, *rep.Diverged)
		out.Diverged = &step
	}
	return apigen.ReplayRollout200JSONResponse(out), nil
}

func stepOf(p rollout.Policy, s dispatch.ReplayStep) apimodel.ReplayStep {
	return apimodel.ReplayStep{
		ID: version(s.ID), At: s.At, Recorded: apimodel.RolloutState(s.Recorded), Replayed: apimodel.RolloutState(s.Replayed), Summary: s.Summary,
		Offered: s.Offered, Gates: gatesOf(p, s.Gates, s.At),
	}
}
