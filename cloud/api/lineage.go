package api

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Lineages knows what versions were made of, and what nothing needs any more.
type Lineages interface {
	// Origin returns the segments of a version's snapshot, at most limit, and
	// how many labels and frames it holds.
	Origin(ctx context.Context, v registry.Version, limit int) (segments []apimodel.LineageSegment, labels, frames int, err error)
	// Touched returns the versions that learned from a segment.
	Touched(ctx context.Context, segment artifact.Digest) ([]registry.Version, error)
	// Collect removes what nothing needs, or with dry says what it would.
	Collect(ctx context.Context, dry bool) ([]apimodel.CollectedKind, error)
}

// maxLineage bounds the segments, and the devices, of one answer.
const maxLineage = 1000

// errNoLineage answers on a hub that does not train.
var errNoLineage = errNoTraining

// GetModelLineage shows what a version came from and who runs it.
func (s *Server) GetModelLineage(ctx context.Context, r apigen.GetModelLineageRequestObject) (apigen.GetModelLineageResponseObject, error) {
	if s.cfg.Lineages == nil {
		return nil, errNoLineage
	}
	v, err := s.cfg.Registry.Version(ctx, r.Name, uint64(r.Counter))
	if err != nil {
		return nil, err
	}
	segments, labels, frames, err := s.cfg.Lineages.Origin(ctx, v, maxLineage)
	if err != nil {
		return nil, err
	}
	all, err := s.versions(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	out := apimodel.ModelLineage{
		Release: versionRef(v), Lineage: lineageOf(v), Segments: segments, Children: []apimodel.ReleaseRef{},
		Labels: some(int64(labels)), Frames: some(int64(frames)),
	}
	if out.Segments == nil {
		out.Segments = []apimodel.LineageSegment{}
	}
	for _, child := range all {
		if child.Lineage.ParentCounter == v.Counter {
			out.Children = append(out.Children, versionRef(child))
		}
	}
	var devices []string
	s.cfg.Fleet.All(func(d *fleet.Device) bool {
		if c := d.Report.Doc.Champion; !d.Retired() && c != nil && c.Manifest == v.Release && v.Release != "" {
			devices = append(devices, d.ID.String())
		}
		return len(devices) < maxLineage
	})
	slices.Sort(devices)
	if len(devices) > 0 {
		out.Devices = &devices
	}
	return apigen.GetModelLineage200JSONResponse(out), nil
}

// ListSegmentReleases lists who learned from a segment.
func (s *Server) ListSegmentReleases(ctx context.Context, r apigen.ListSegmentReleasesRequestObject) (apigen.ListSegmentReleasesResponseObject, error) {
	if s.cfg.Lineages == nil {
		return nil, errNoLineage
	}
	d := contentOf(r.Digest)
	vs, err := s.cfg.Lineages.Touched(ctx, d)
	if err != nil {
		return nil, err
	}
	out := apimodel.SegmentReleases{Segment: string(d), Items: []apimodel.ReleaseRef{}}
	for _, v := range vs {
		out.Items = append(out.Items, versionRef(v))
	}
	return apigen.ListSegmentReleases200JSONResponse(out), nil
}

// CollectModels removes what nothing needs.
func (s *Server) CollectModels(ctx context.Context, r apigen.CollectModelsRequestObject) (apigen.CollectModelsResponseObject, error) {
	if s.cfg.Lineages == nil {
		return nil, errNoLineage
	}
	dry := r.Params.DryRun == nil || *r.Params.DryRun
	if !dry {
		if err := s.audit(ctx, "model.collect", "Model/*", value(r.Params.Reason), nil); err != nil {
			return nil, err
		}
	}
	kinds, err := s.cfg.Lineages.Collect(ctx, dry)
	if err != nil {
		return nil, err
	}
	if kinds == nil {
		kinds = []apimodel.CollectedKind{}
	}
	return apigen.CollectModels200JSONResponse(apimodel.Collected{DryRun: dry, Items: kinds}), nil
}

// CompareModelVersions shows two versions side by side.
func (s *Server) CompareModelVersions(ctx context.Context, r apigen.CompareModelVersionsRequestObject) (apigen.CompareModelVersionsResponseObject, error) {
	a, err := s.cfg.Registry.Version(ctx, r.Name, uint64(r.Counter))
	if err != nil {
		return nil, err
	}
	b, err := s.cfg.Registry.Version(ctx, r.Name, uint64(r.Params.With))
	if err != nil {
		return nil, err
	}
	return apigen.CompareModelVersions200JSONResponse(comparison(a, b)), nil
}

// better says in which direction a metric improves: 1 for more, -1 for less;
// what is not here has no better side.
var better = map[string]int{
	"faults_found": 1, "detected": 1, "f1": 1, "accuracy": 1, "recall": 1, "precision": 1,
	"flag_share": -1, "flags_per_day": -1, "false_alarms_per_day": -1, "far": -1, "mar": -1, "bytes": -1,
}

// comparison sets two versions side by side.
func comparison(a, b registry.Version) apimodel.ModelComparison {
	out := apimodel.ModelComparison{Release: versionRef(a), With: versionRef(b), Metrics: []apimodel.ComparedMetric{}, Differences: []apimodel.ComparedField{}}
	for _, class := range classesOf(a, b) {
		ma, _ := a.ModelFor(class)
		mb, _ := b.ModelFor(class)
		names := map[string]bool{}
		for _, m := range []registry.Model{ma, mb} {
			for k := range m.Metrics {
				names[k] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if len(name) > len(registry.OfChampion) && name[:len(registry.OfChampion)] == registry.OfChampion {
				continue // a third version's
			}
			m := apimodel.ComparedMetric{Name: name, Slice: some("class=" + string(class))}
			va, oka := ma.Metrics[name]
			vb, okb := mb.Metrics[name]
			if oka {
				m.Value = &va
			}
			if okb {
				m.With = &vb
			}
			if oka && okb {
				switch better[name] * cmp.Compare(va, vb) {
				case 1:
					m.Better = some(apimodel.ComparedMetricBetterThis)
				case -1:
					m.Better = some(apimodel.ComparedMetricBetterOther)
				}
			}
			out.Metrics = append(out.Metrics, m)
		}
		out.Differences = append(out.Differences, differences("class "+string(class)+": ", [][3]string{
			{"detector", ma.Kind, mb.Kind}, {"threshold", number(ma.Threshold), number(mb.Threshold)},
			{"window", number(float64(ma.Window)), number(float64(mb.Window))}, {"bytes", number(float64(ma.Bytes)), number(float64(mb.Bytes))},
		})...)
	}
	la, lb := a.Lineage, b.Lineage
	out.Differences = append(out.Differences, differences("", [][3]string{
		{"snapshot", string(la.Snapshot), string(lb.Snapshot)}, {"segments", number(float64(la.Segments)), number(float64(lb.Segments))},
		{"devices", number(float64(la.Devices)), number(float64(lb.Devices))}, {"data from", day(la.From), day(lb.From)}, {"data to", day(la.To), day(lb.To)},
		{"configuration", string(la.Config), string(lb.Config)}, {"code", la.Code, lb.Code}, {"seed", number(float64(la.Seed)), number(float64(lb.Seed))},
		{"run", la.Run, lb.Run}, {"stage", string(a.Stage), string(b.Stage)},
	})...)
	return out
}

func classesOf(vs ...registry.Version) []artifact.Class {
	seen := map[artifact.Class]bool{}
	for _, v := range vs {
		for _, m := range v.Models {
			for _, c := range m.Classes {
				seen[c] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// differences keeps the fields that are not alike.
func differences(prefix string, fields [][3]string) (out []apimodel.ComparedField) {
	for _, f := range fields {
		if f[1] != f[2] {
			out = append(out, apimodel.ComparedField{Name: prefix + f[0], Value: f[1], With: f[2]})
		}
	}
	return out
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
