package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/rollout"
)

// maxNeeds bounds the inbox: whoever has more to do begins with these.
const maxNeeds = 50

// severities, worst first.
var severities = []apimodel.Severity{apimodel.SeverityCritical, apimodel.SeverityWarning, apimodel.SeverityInfo}

// GetOverview says how things stand.
func (s *Server) GetOverview(ctx context.Context, _ apigen.GetOverviewRequestObject) (apigen.GetOverviewResponseObject, error) {
	wanted, err := s.cfg.Store.Wanted(ctx)
	if err != nil {
		return nil, err
	}
	c := s.cfg.Fleet.Count(func(d *fleet.Device) bool { return s.attested(ctx, d, wanted[d.ID]) })
	by := byState(c.ByState)
	flagged, dropped := int64(c.Flagged), int64(c.Totals.SpoolDropped)
	out := apimodel.Overview{
		At: s.cfg.Now().UTC(), NeedsMe: []apimodel.NeedsMe{}, Sites: []apimodel.SiteTile{},
		Counters: apimodel.Counters{
			Devices: int64(c.Devices), Connected: int64(c.Connected), Attested: int64(c.Attested), ByState: &by,
			WindowsScored: int64(c.Totals.WindowsScored), WindowsLost: int64(c.Totals.WindowsLost), ProductionStoppedSeconds: float64(c.Totals.StoppedMs) / 1000,
			AnomaliesLastHour: &flagged, SpoolDropped: &dropped,
		},
	}
	if s.cfg.ValuesPerSecond != nil {
		rate := s.cfg.ValuesPerSecond()
		out.Counters.IngestValuesPerSecond = &rate
	}
	for _, site := range c.Sites {
		out.Sites = append(out.Sites, apimodel.SiteTile{Site: site.Site, Lines: some(int64(site.Lines)), Devices: int64(site.Devices), Connected: int64(site.Connected), ByState: byState(site.ByState)})
	}
	if err := s.going(ctx, &out); err != nil {
		return nil, err
	}
	if err := s.nights(ctx, &out); err != nil {
		return nil, err
	}
	s.troubled(ctx, &out)
	slices.SortStableFunc(out.NeedsMe, func(a, b apimodel.NeedsMe) int {
		return cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity))
	})
	out.State = apimodel.OverviewStateCalm
	if len(out.NeedsMe) > 0 {
		out.State = apimodel.OverviewStateAttention
		if out.NeedsMe[0].Severity == apimodel.SeverityCritical {
			out.State = apimodel.OverviewStateUrgent
		}
	}
	release, err := s.newestRelease(ctx)
	if err != nil {
		return nil, err
	}
	out.Sentence = sentence(c, release, out.NeedsMe)
	out.NeedsMe = out.NeedsMe[:min(len(out.NeedsMe), maxNeeds)]
	return apigen.GetOverview200JSONResponse(out), nil
}

func byState(in map[fleet.State]int) map[string]int64 {
	out := map[string]int64{}
	for k, n := range in {
		out[string(k)] = int64(n)
	}
	return out
}

// sentence says it in words.
func sentence(c fleet.Counts, release string, needs []apimodel.NeedsMe) string {
	var b strings.Builder
	switch {
	case c.Devices == 0:
		b.WriteString("No device is enrolled yet")
	case release == "":
		fmt.Fprintf(&b, "%d of %d devices are connected; none runs a model yet", c.Connected, c.Devices)
	default:
		fmt.Fprintf(&b, "%d of %d devices run what they should, attested (most of them %s)", c.Attested, c.Devices, release)
		if c.Attested == c.Devices {
			b.Reset()
			fmt.Fprintf(&b, "%d of %d devices run %s, attested", c.Attested, c.Devices, release)
		}
	}
	switch n := len(needs); n {
	case 0:
		b.WriteString("; nothing needs you.")
	case 1:
		b.WriteString("; one thing needs you.")
	default:
		fmt.Fprintf(&b, "; %d things need you.", n)
	}
	return b.String()
}

// going adds the rollouts that have not ended, and what they wait for.
func (s *Server) going(ctx context.Context, out *apimodel.Overview) error {
	all, err := s.cfg.Rollouts.Rollouts(ctx)
	if err != nil {
		return err
	}
	live := []apimodel.Rollout{}
	for _, r := range all {
		if r.State.Final() {
			continue
		}
		v, err := s.cfg.Rollouts.Load(ctx, r.Name)
		if err != nil {
			return err
		}
		live = append(live, rolloutOf(v))
		need := apimodel.NeedsMe{Kind: "Rollout", Name: r.Name, Since: at(r.Created), Severity: apimodel.SeverityWarning}
		switch r.State {
		case rollout.Waiting:
			need.Message, need.Action = fmt.Sprintf("%s waits for an approval: %s", r.Name, r.Reason), some("approve")
		case rollout.Paused:
			need.Message, need.Action, need.Since = fmt.Sprintf("%s is paused (%s): resume or abort it", r.Name, r.Reason), some("resume"), at(r.PausedAt)
		case rollout.RollingBack:
			need.Message, need.Action, need.Since = fmt.Sprintf("%s is rolling back: %s", r.Name, r.Reason), some("look"), at(r.RollbackFrom)
		default:
			continue
		}
		out.NeedsMe = append(out.NeedsMe, need)
	}
	out.Rollouts = &live
	return nil
}

// nights adds the last run and when the next one is.
func (s *Server) nights(ctx context.Context, out *apimodel.Overview) error {
	if s.cfg.Training == nil {
		return nil
	}
	runs, err := s.cfg.Training.Runs(ctx, "", "", "", 1)
	if err != nil {
		return err
	}
	if len(runs) > 0 {
		out.LastRun = &runs[0]
		switch st := runs[0].Status.State; st {
		case apimodel.RunStateFailed, apimodel.RunStateRefused:
			out.NeedsMe = append(out.NeedsMe, apimodel.NeedsMe{
				Severity: apimodel.SeverityWarning, Kind: "TrainingRun", Name: runs[0].Metadata.Name, Action: some("look"), Since: runs[0].Status.EndedAt,
				Message: "the last training run " + string(st) + ": " + value(runs[0].Status.Summary),
			})
		}
	}
	policies, err := s.cfg.Training.Policies(ctx, "", 100)
	if err != nil {
		return err
	}
	for _, p := range policies {
		if p.Status == nil || p.Status.NextRunAt == nil {
			continue
		}
		if out.NextRunAt == nil || p.Status.NextRunAt.Before(*out.NextRunAt) {
			out.NextRunAt = p.Status.NextRunAt
		}
	}
	return nil
}

// troubled adds devices and parts of the hub that need somebody.
func (s *Server) troubled(ctx context.Context, out *apimodel.Overview) {
	parts, _ := s.cfg.Health(ctx)
	for _, p := range parts {
		if !p.Ok {
			out.NeedsMe = append(out.NeedsMe, apimodel.NeedsMe{Severity: apimodel.SeverityCritical, Kind: "Hub", Name: p.Name, Message: p.Name + ": " + value(p.Message), Action: some("look")})
		}
	}
	s.cfg.Fleet.All(func(d *fleet.Device) bool {
		need := apimodel.NeedsMe{Kind: "Device", Name: d.ID.String(), Action: some("look"), Since: at(d.LastSeen)}
		switch d.State {
		case fleet.Failed:
			need.Severity, need.Message = apimodel.SeverityCritical, d.ID.String()+" has failed"
			if t := d.Report.Doc.Trial; t != nil && t.Reason != "" {
				need.Severity, need.Message = apimodel.SeverityWarning, d.ID.String()+": "+t.Reason
			}
			for _, c := range d.Report.Doc.Conditions {
				if c.Status && fleet.Critical[c.Type] {
					need.Severity, need.Message = apimodel.SeverityCritical, d.ID.String()+": "+c.Message
				}
			}
		case fleet.Offline:
			need.Severity, need.Message = apimodel.SeverityWarning, d.ID.String()+" is silent: look at its power and network"
		default:
			return true
		}
		out.NeedsMe = append(out.NeedsMe, need)
		return true
	})
}

// GetVersion says what runs here.
func (s *Server) GetVersion(context.Context, apigen.GetVersionRequestObject) (apigen.GetVersionResponseObject, error) {
	return apigen.GetVersion200JSONResponse(s.cfg.Version), nil
}

// GetHealth says how the hub's parts are.
func (s *Server) GetHealth(ctx context.Context, _ apigen.GetHealthRequestObject) (apigen.GetHealthResponseObject, error) {
	parts, serving := s.cfg.Health(ctx)
	out := apimodel.Health{Ok: serving, Parts: parts}
	if callerOf(ctx).User == "" {
		for i := range out.Parts {
			out.Parts[i].Message = nil // details are for people who logged in
		}
	}
	for _, p := range parts {
		out.Ok = out.Ok && p.Ok
	}
	if !serving {
		return apigen.GetHealth503JSONResponse(out), nil
	}
	return apigen.GetHealth200JSONResponse(out), nil
}
