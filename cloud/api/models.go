package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// runsOn counts the devices that hold each release, by slot.
func (s *Server) runsOn() map[artifact.Digest]*apimodel.RunsOn {
	out := map[artifact.Digest]*apimodel.RunsOn{}
	of := func(d artifact.Digest) *apimodel.RunsOn {
		if out[d] == nil {
			out[d] = &apimodel.RunsOn{}
		}
		return out[d]
	}
	s.cfg.Fleet.All(func(d *fleet.Device) bool {
		if d.Retired() {
			return true
		}
		doc := &d.Report.Doc
		if doc.Champion != nil {
			of(doc.Champion.Manifest).Champion++
		}
		if doc.LastGood != nil {
			of(doc.LastGood.Manifest).LastGood++
		}
		if t := doc.Trial; t != nil && !t.Phase.Final() && t.Phase != twin.PhaseNone {
			of(t.Manifest).Challenger++
		}
		return true
	})
	return out
}

// versions reads a family whole, newest first.
func (s *Server) versions(ctx context.Context, family string) (out []registry.Version, err error) {
	for before := uint64(0); ; {
		vs, err := s.cfg.Registry.Versions(ctx, family, before, 200)
		if err != nil || len(vs) == 0 {
			return out, err
		}
		out = append(out, vs...)
		before = vs[len(vs)-1].Counter
	}
}

func versionRef(v registry.Version) apimodel.ReleaseRef {
	return refOf(artifact.Model, v.Family, v.Counter, v.Release)
}

func (s *Server) model(ctx context.Context, family string, runs map[artifact.Digest]*apimodel.RunsOn) (apimodel.Model, error) {
	vs, err := s.versions(ctx, family)
	if err != nil {
		return apimodel.Model{}, err
	}
	out := apimodel.Model{
		APIVersion: apiVersion, Kind: "Model", Metadata: apimodel.ObjectMeta{Name: family}, Spec: apimodel.ModelSpec{Kind: "anomaly"},
		Status: apimodel.ModelStatus{Versions: int64(len(vs)), RunsOn: &apimodel.RunsOn{}, Conditions: []apimodel.Condition{}},
	}
	classes := map[string]bool{}
	for i, v := range vs {
		if i == 0 {
			ref := versionRef(v)
			out.Status.Latest, out.Metadata.UpdatedAt = &ref, at(v.Created)
			if v.Import != nil {
				out.Spec.Kind, out.Spec.Description = "garden", some(v.Import.Reason)
			}
		}
		out.Metadata.CreatedAt = at(v.Created)
		if v.Stage == registry.Promoted && out.Status.Promoted == nil {
			ref := versionRef(v)
			out.Status.Promoted = &ref
		}
		for _, m := range v.Models {
			for _, c := range m.Classes {
				classes[string(c)] = true
			}
		}
		if r := runs[v.Release]; r != nil {
			out.Status.RunsOn.Champion += r.Champion
			out.Status.RunsOn.Challenger += r.Challenger
			out.Status.RunsOn.LastGood += r.LastGood
		}
	}
	list := slices.Sorted(maps.Keys(classes))
	out.Spec.Classes = &list
	return out, nil
}

// ListModels lists families by name.
func (s *Server) ListModels(ctx context.Context, r apigen.ListModelsRequestObject) (apigen.ListModelsResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Registry.Families(ctx)
	if err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(all, func(f string) bool { return f <= after })
	list, next := page(rest, limitOf(r.Params.Limit), func(f string) string { return f })
	runs := s.runsOn()
	out := apimodel.ModelList{Items: make([]apimodel.Model, len(list)), NextCursor: next}
	for i, f := range list {
		if out.Items[i], err = s.model(ctx, f, runs); err != nil {
			return nil, err
		}
	}
	return apigen.ListModels200JSONResponse(out), nil
}

func (s *Server) family(ctx context.Context, name string) error {
	all, err := s.cfg.Registry.Families(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(all, name) {
		return notFound("model " + name)
	}
	return nil
}

// GetModel shows a family.
func (s *Server) GetModel(ctx context.Context, r apigen.GetModelRequestObject) (apigen.GetModelResponseObject, error) {
	if err := s.family(ctx, r.Name); err != nil {
		return nil, err
	}
	m, err := s.model(ctx, r.Name, s.runsOn())
	return apigen.GetModel200JSONResponse(m), err
}

func lineageOf(v registry.Version) apimodel.Lineage {
	out := apimodel.Lineage{
		Run: some(v.Lineage.Run), Snapshot: some(string(v.Lineage.Snapshot)), Config: some(string(v.Lineage.Config)), Code: some(v.Lineage.Code), Seed: some(int64(v.Lineage.Seed)),
		Segments: some(int64(v.Lineage.Segments)), Devices: some(int64(v.Lineage.Devices)), From: at(v.Lineage.From), To: at(v.Lineage.To),
	}
	if v.Lineage.ParentCounter > 0 {
		ref := refOf(artifact.Model, v.Family, v.Lineage.ParentCounter, v.Lineage.Parent)
		out.Parent = &ref
	}
	return out
}

func (s *Server) modelVersion(ctx context.Context, v registry.Version, runs map[artifact.Digest]*apimodel.RunsOn, all []rollout.Rollout) (apimodel.ModelVersion, error) {
	out := apimodel.ModelVersion{
		APIVersion: apiVersion, Kind: "ModelVersion",
		Metadata: apimodel.ObjectMeta{Name: versionRef(v).ID, CreatedAt: at(v.Created)},
		Spec: apimodel.ModelVersionSpec{
			Release: versionRef(v), Card: some(v.Card), Classes: []string{}, Files: []apimodel.ReleaseFile{},
			Lineage: lineageOf(v),
		},
		Status: apimodel.ModelVersionStatus{Metrics: []apimodel.Metric{}, Signatures: []apimodel.Signature{}, Conditions: []apimodel.Condition{}, RunsOn: runs[v.Release]},
	}
	if v.Expected != nil {
		child, parent := v.Expected.FlagShareChallenger, v.Expected.FlagShareChampion
		out.Spec.ExpectedFlagShare, out.Spec.ParentFlagShare = &child, &parent
	}
	for i, m := range v.Models {
		var names []string
		for _, c := range m.Classes {
			names = append(names, string(c))
		}
		out.Spec.Classes = append(out.Spec.Classes, names...)
		slice := ""
		if len(v.Models) > 1 && len(names) > 0 {
			slice = "class=" + names[0]
		}
		if i == 0 {
			threshold := m.Threshold
			out.Spec.Detector, out.Spec.Threshold = some(m.Kind), &threshold
		}
		for _, k := range slices.Sorted(maps.Keys(m.Metrics)) {
			if strings.HasPrefix(k, registry.OfChampion) {
				continue // shown beside the version's own
			}
			metric := apimodel.Metric{Name: k, Value: m.Metrics[k], Slice: some(slice)}
			if v, ok := m.Metrics[registry.OfChampion+k]; ok {
				metric.Champion = &v
			}
			out.Status.Metrics = append(out.Status.Metrics, metric)
		}
	}
	m, ok, err := s.manifest(ctx, v.Release)
	if err != nil {
		return out, err
	}
	if ok {
		seen := map[string]bool{}
		for _, variant := range m.Variants {
			for _, f := range variant.Files {
				if !seen[f.Path] {
					seen[f.Path] = true
					out.Spec.Files = append(out.Spec.Files, apimodel.ReleaseFile{Path: f.Path, Digest: string(f.Digest), Size: f.Size, Role: string(f.Role)})
				}
			}
		}
		if out.Status.Signatures, err = s.cfg.Releases.Signatures(ctx, v.Release); err != nil {
			return out, err
		}
	}
	names := []string{}
	active := false
	for _, r := range all {
		if r.Release.Manifest == v.Release {
			names = append(names, r.Name)
			active = active || !r.State.Final()
		}
	}
	out.Status.Rollouts = &names
	out.Status.State = versionState(v.Stage, active)
	if v.Reason != "" {
		out.Status.Conditions = append(out.Status.Conditions, apimodel.Condition{Type: "Stage", Status: apimodel.ConditionStatusTrue, Reason: string(v.Stage), Message: v.Reason})
	}
	return out, nil
}

func versionState(stage registry.Stage, active bool) apimodel.ModelVersionState {
	switch stage {
	case registry.Candidate:
		return apimodel.ModelVersionStateCandidate
	case registry.Refused, registry.RolledBack:
		return apimodel.ModelVersionStateRejected
	case registry.Promoted:
		return apimodel.ModelVersionStatePromoted
	case registry.Superseded, registry.Collected: // a condition says which
		return apimodel.ModelVersionStateSuperseded
	}
	if active {
		return apimodel.ModelVersionStateRollingOut
	}
	return apimodel.ModelVersionStateBlessed
}

// ListModelVersions lists a family's versions, newest first.
func (s *Server) ListModelVersions(ctx context.Context, r apigen.ListModelVersionsRequestObject) (apigen.ListModelVersionsResponseObject, error) {
	before, err := indexOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	if err := s.family(ctx, r.Name); err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	vs, err := s.cfg.Registry.Versions(ctx, r.Name, before, limit+1)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Rollouts.Rollouts(ctx)
	if err != nil {
		return nil, err
	}
	vs, next := page(vs, limit, func(v registry.Version) string { return version(v.Counter) })
	runs := s.runsOn()
	out := apimodel.ModelVersionList{Items: make([]apimodel.ModelVersion, len(vs)), NextCursor: next}
	for i, v := range vs {
		if out.Items[i], err = s.modelVersion(ctx, v, runs, all); err != nil {
			return nil, err
		}
	}
	return apigen.ListModelVersions200JSONResponse(out), nil
}

// GetModelVersion shows a version.
func (s *Server) GetModelVersion(ctx context.Context, r apigen.GetModelVersionRequestObject) (apigen.GetModelVersionResponseObject, error) {
	v, err := s.cfg.Registry.Version(ctx, r.Name, uint64(r.Counter))
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Rollouts.Rollouts(ctx)
	if err != nil {
		return nil, err
	}
	out, err := s.modelVersion(ctx, v, s.runsOn(), all)
	return apigen.GetModelVersion200JSONResponse(out), err
}

// VerifyModelVersion checks a stored release again.
func (s *Server) VerifyModelVersion(ctx context.Context, r apigen.VerifyModelVersionRequestObject) (apigen.VerifyModelVersionResponseObject, error) {
	v, err := s.cfg.Registry.Version(ctx, r.Name, uint64(r.Counter))
	if err != nil {
		return nil, err
	}
	if v.Release == "" {
		return nil, conflict(fmt.Sprintf("%s-%s was refused and never released: there is nothing to verify", r.Name, strconv.FormatInt(r.Counter, 10)))
	}
	checks, err := s.cfg.Releases.Verify(ctx, v.Release)
	if err != nil {
		return nil, err
	}
	out := apimodel.VerifyReport{Release: versionRef(v), Ok: true, At: s.cfg.Now().UTC(), Checks: checks, Command: some(s.cfg.Releases.Command(v.Release))}
	for _, c := range checks {
		out.Ok = out.Ok && c.Ok
	}
	return apigen.VerifyModelVersion200JSONResponse(out), nil
}

// newestRelease is the release most devices run, for the sentence of state.
func (s *Server) newestRelease(ctx context.Context) (string, error) {
	counts := map[string]int{}
	s.cfg.Fleet.All(func(d *fleet.Device) bool {
		if c := d.Report.Doc.Champion; c != nil && !d.Retired() {
			counts[fmt.Sprintf("%s-%d", c.Name, c.Counter)]++
		}
		return true
	})
	best := ""
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if counts[name] > counts[best] {
			best = name
		}
	}
	return best, errors.Join(ctx.Err())
}
