package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/cloud/store"
)

// RolloutPolicyKind is the kind under which rollout policies are stored.
const RolloutPolicyKind = "RolloutPolicy"

// RolloutPolicy is a rollout policy as stored: the fleet and how a release may
// move through it.
type RolloutPolicy struct {
	Selector string         `json:"selector" yaml:"selector"`             // the fleet; empty is every device
	Seed     uint64         `json:"seed,omitempty" yaml:"seed,omitempty"` // draws the canaries; 0 derives it from the release
	Policy   rollout.Policy `json:"policy" yaml:"policy"`
}

// ReadRolloutPolicy reads what is stored under RolloutPolicyKind.
func ReadRolloutPolicy(o store.Object) (RolloutPolicy, error) {
	var p RolloutPolicy
	if err := json.Unmarshal(o.Doc, &p); err != nil {
		return p, fmt.Errorf("read rollout policy %s: %w", o.Name, err)
	}
	return p, nil
}

// Validate says what makes the policy unusable.
func (p RolloutPolicy) Validate() error {
	return errors.Join(rollout.ValidFleet(p.Selector), p.Policy.Validate())
}

// defaultShadowS is how long a challenger runs beside the champion under a
// policy that has a shadow gate and says nothing more.
const defaultShadowS = 600

// spec writes the policy as in the contract.
func (p RolloutPolicy) spec() apimodel.RolloutPolicySpec {
	pol := p.Policy
	out := apimodel.RolloutPolicySpec{
		Selector: p.Selector, Seed: some(int64(p.Seed)), Waves: []apimodel.WaveSpec{},
		ShadowSeconds: &pol.ShadowS, ShadowWindowSeconds: some(pol.ShadowWindowS), MinWindows: some(int64(pol.MinWindows)),
		LeaseSeconds: some(pol.LeaseS), GraceSeconds: some(pol.GraceS), StaleSeconds: some(pol.StaleS), Retries: some(pol.Retries),
		RetrySeconds: some(pol.RetryS), RollbackSeconds: some(pol.RollbackS), MaxPauseSeconds: some(pol.MaxPauseS),
	}
	if len(pol.Stratify) > 0 {
		out.Stratify = &pol.Stratify
	}
	for _, w := range pol.Waves {
		out.Waves = append(out.Waves, apimodel.WaveSpec{
			Name: w.Name, Selector: some(w.Selector), Devices: some(int64(w.Devices)), Share: some(w.Share),
			SoakSeconds: &pol.SoakS, DeadlineSeconds: some(w.DeadlineS), Approvals: some(w.Approvals), Approvers: list(w.Approvers),
		})
	}
	if g := pol.Growth; g != nil {
		out.Growth = &apimodel.Growth{First: g.First, Factor: g.Factor, MaxShare: some(g.MaxShare), DeadlineSeconds: some(g.DeadlineS)}
	}
	if len(pol.Windows) > 0 {
		all := []apimodel.Window{}
		for _, w := range pol.Windows {
			all = append(all, apimodel.Window{
				Name: w.Name, Selector: some(w.Selector), Zone: some(w.Zone), Days: days(w.Days), From: some(w.From), To: some(w.To),
				Start: some(w.Start), EveryDays: some(w.EveryDays), On: list(w.On), Except: list(w.Except), Also: list(w.Also),
			})
		}
		out.Windows = &all
	}
	if len(pol.Budgets) > 0 {
		list := []apimodel.Budget{}
		for _, b := range pol.Budgets {
			list = append(list, apimodel.Budget{
				GroupBy: b.GroupBy, MaxUnavailable: some(b.MaxUnavailable), MaxUnavailableShare: some(b.MaxUnavailableShare),
				MinAvailable: some(b.MinAvailable), MinAvailableShare: some(b.MinAvailableShare),
			})
		}
		out.Budgets = &list
	}
	if len(pol.Gates) > 0 {
		list := []apimodel.GateSpec{}
		for _, g := range pol.Gates {
			list = append(list, apimodel.GateSpec{Name: apimodel.GateName(g.Name), Threshold: g.Threshold, MinN: some(g.MinN), Alpha: some(g.Alpha), Expr: some(g.Expr), Title: some(g.Title)})
		}
		out.Gates = &list
	}
	return out
}

// list returns a pointer to s, or nil for an empty one.
func list[T any](s []T) *[]T {
	if len(s) == 0 {
		return nil
	}
	return &s
}

func days(in []string) *[]apimodel.WindowDays {
	out := make([]apimodel.WindowDays, len(in))
	for i, d := range in {
		out[i] = apimodel.WindowDays(d)
	}
	return list(out)
}

// policyOf reads a spec of the contract, which names everything a policy can
// say: what is absent takes its default.
func policyOf(name string, s apimodel.RolloutPolicySpec) (RolloutPolicy, error) {
	p := RolloutPolicy{Selector: s.Selector, Seed: uint64(value(s.Seed)), Policy: rollout.Policy{
		Name: name, Stratify: value(s.Stratify), ShadowS: value(s.ShadowSeconds), ShadowWindowS: value(s.ShadowWindowSeconds),
		MinWindows: uint64(value(s.MinWindows)), LeaseS: value(s.LeaseSeconds), GraceS: value(s.GraceSeconds), StaleS: value(s.StaleSeconds),
		Retries: value(s.Retries), RetryS: value(s.RetrySeconds), RollbackS: value(s.RollbackSeconds), MaxPauseS: value(s.MaxPauseSeconds),
	}}
	if len(s.Waves) == 0 && s.Growth == nil {
		return p, invalid("spec.waves: is empty, and there is no growth to make waves of", apimodel.FieldError{Field: "spec.waves", Message: "is empty, and there is no growth to make waves of"})
	}
	for i, w := range s.Waves {
		p.Policy.Waves = append(p.Policy.Waves, rollout.Wave{
			Name: w.Name, Selector: value(w.Selector), Devices: int(value(w.Devices)), Share: value(w.Share),
			DeadlineS: value(w.DeadlineSeconds), Approvals: value(w.Approvals), Approvers: value(w.Approvers),
		})
		if w.SoakSeconds == nil {
			continue
		}
		if i > 0 && s.Waves[0].SoakSeconds != nil && *w.SoakSeconds != *s.Waves[0].SoakSeconds {
			field := "spec.waves[" + strconv.Itoa(i) + "].soakSeconds"
			return p, invalid("every wave soaks equally long: give each the same soakSeconds", apimodel.FieldError{Field: field, Message: "differs from the first wave's"})
		}
		p.Policy.SoakS = *w.SoakSeconds
	}
	if g := s.Growth; g != nil {
		p.Policy.Growth = &rollout.Growth{First: g.First, Factor: g.Factor, MaxShare: value(g.MaxShare), DeadlineS: value(g.DeadlineSeconds)}
	}
	for _, w := range value(s.Windows) {
		win := rollout.Window{
			Name: w.Name, Selector: value(w.Selector), Zone: value(w.Zone), From: value(w.From), To: value(w.To),
			Start: value(w.Start), EveryDays: value(w.EveryDays), On: value(w.On), Except: value(w.Except), Also: value(w.Also),
		}
		for _, d := range value(w.Days) {
			win.Days = append(win.Days, string(d))
		}
		p.Policy.Windows = append(p.Policy.Windows, win)
	}
	for _, b := range value(s.Budgets) {
		p.Policy.Budgets = append(p.Policy.Budgets, rollout.Budget{
			GroupBy: b.GroupBy, MaxUnavailable: value(b.MaxUnavailable), MaxUnavailableShare: value(b.MaxUnavailableShare),
			MinAvailable: value(b.MinAvailable), MinAvailableShare: value(b.MinAvailableShare),
		})
	}
	shadow := len(value(s.Gates)) == 0 // the default gates have one
	for _, g := range value(s.Gates) {
		p.Policy.Gates = append(p.Policy.Gates, rollout.Gate{Name: rollout.GateName(g.Name), Threshold: g.Threshold, MinN: value(g.MinN), Alpha: value(g.Alpha), Expr: value(g.Expr), Title: value(g.Title)})
		shadow = shadow || g.Name == apimodel.GateNameShadow
	}
	if s.ShadowSeconds == nil && shadow {
		p.Policy.ShadowS = defaultShadowS
	}
	if err := p.Validate(); err != nil {
		return p, invalid(err.Error(), apimodel.FieldError{Field: "spec", Message: err.Error()})
	}
	return p, nil
}

func (s *Server) policyObject(o store.Object, p RolloutPolicy) apimodel.RolloutPolicy {
	st := apimodel.RolloutPolicyStatus{Conditions: []apimodel.Condition{}}
	if sel, err := selector.Parse(p.Selector); err == nil {
		n := int64(0)
		s.cfg.Fleet.All(func(d *fleet.Device) bool {
			if !d.Retired() && sel.Match(d.Look) {
				n++
			}
			return true
		})
		st.Devices = &n
	}
	return apimodel.RolloutPolicy{
		APIVersion: apiVersion, Kind: RolloutPolicyKind,
		Metadata: apimodel.ObjectMeta{Name: o.Name, ResourceVersion: some(version(o.Version)), CreatedAt: at(o.Created), UpdatedAt: at(o.Updated)},
		Spec:     p.spec(), Status: &st,
	}
}

// ListRolloutPolicies lists policies by name.
func (s *Server) ListRolloutPolicies(ctx context.Context, r apigen.ListRolloutPoliciesRequestObject) (apigen.ListRolloutPoliciesResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	list, err := s.cfg.Store.Objects(ctx, RolloutPolicyKind, after, limit+1)
	if err != nil {
		return nil, err
	}
	list, next := page(list, limit, func(o store.Object) string { return o.Name })
	out := apimodel.RolloutPolicyList{Items: make([]apimodel.RolloutPolicy, len(list)), NextCursor: next}
	for i, o := range list {
		p, err := ReadRolloutPolicy(o)
		if err != nil {
			return nil, err
		}
		out.Items[i] = s.policyObject(o, p)
	}
	return apigen.ListRolloutPolicies200JSONResponse(out), nil
}

// GetRolloutPolicy shows a policy.
func (s *Server) GetRolloutPolicy(ctx context.Context, r apigen.GetRolloutPolicyRequestObject) (apigen.GetRolloutPolicyResponseObject, error) {
	o, err := s.cfg.Store.Object(ctx, RolloutPolicyKind, r.Name)
	if err != nil {
		return nil, err
	}
	p, err := ReadRolloutPolicy(o)
	return apigen.GetRolloutPolicy200JSONResponse(s.policyObject(o, p)), err
}

// ApplyRolloutPolicy creates or replaces a policy.
func (s *Server) ApplyRolloutPolicy(ctx context.Context, r apigen.ApplyRolloutPolicyRequestObject) (apigen.ApplyRolloutPolicyResponseObject, error) {
	if err := named(RolloutPolicyKind, r.Name, r.Body.Kind, r.Body.Metadata.Name); err != nil {
		return nil, err
	}
	want, err := versionOf(r.Body.Metadata)
	if err != nil {
		return nil, err
	}
	old, err := s.cfg.Store.Object(ctx, RolloutPolicyKind, r.Name)
	fresh := errors.Is(err, store.ErrNotFound)
	if err != nil && !fresh {
		return nil, err
	}
	if want != 0 && want != old.Version {
		return nil, store.ErrChanged
	}
	p, err := policyOf(r.Name, r.Body.Spec)
	if err != nil {
		return nil, err
	}
	doc, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	o := store.Object{Kind: RolloutPolicyKind, Name: r.Name, Version: old.Version, Created: old.Created, Updated: now, Doc: doc}
	if fresh {
		o.Created = now
	}
	if !value(r.Params.DryRun) {
		if err := s.audit(ctx, "rollout-policy.apply", "RolloutPolicy/"+r.Name, value(r.Params.Reason), nil); err != nil {
			return nil, err
		}
		if o, err = s.cfg.Store.PutObject(ctx, o, now); err != nil {
			return nil, err
		}
		s.cfg.Stream.Publish(Change{Kind: RolloutPolicyKind, Name: r.Name})
	}
	return apigen.ApplyRolloutPolicy200JSONResponse(s.policyObject(o, p)), nil
}

// versionOf reads the resourceVersion of an applied object; 0 without one.
func versionOf(m apimodel.ObjectMeta) (uint64, error) {
	if value(m.ResourceVersion) == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(*m.ResourceVersion, 10, 64)
	if err != nil {
		return 0, invalid("the resourceVersion is not one of this hub's", apimodel.FieldError{Field: "metadata.resourceVersion", Message: "unreadable"})
	}
	return n, nil
}
