package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
)

func gateOf(p rollout.Policy, v rollout.Verdict, when time.Time) apimodel.Gate {
	threshold, n := v.Threshold, v.N
	g := apimodel.Gate{
		Name: string(v.Gate), Title: some(v.Title), Verdict: apimodel.Verdict(v.Result), Value: v.Value, Threshold: &threshold, N: &n, NUnit: some(v.NUnit),
		Unit: some(v.Unit), Low: v.Low, High: v.High, Message: v.Reason, At: at(when),
	}
	if v.Comparison != "" {
		c := apimodel.GateComparison(v.Comparison)
		g.Comparison = &c
	}
	if !v.Applies {
		g.Threshold, g.N = nil, nil
	} else if v.Gate == rollout.GateShadow {
		limit := evidenceLimit(p)
		g.EHarm, g.ESafe, g.ELimit = &v.EHarm, &v.ESafe, &limit
	}
	return g
}

// evidenceLimit is what the shadow gate's e-values have to reach under a policy.
func evidenceLimit(p rollout.Policy) float64 {
	for _, g := range p.Gates {
		if g.Name == rollout.GateShadow && g.Alpha > 0 {
			return 1 / g.Alpha
		}
	}
	return 100 // the gate's default is 1 %
}

func gatesOf(p rollout.Policy, vs []rollout.Verdict, when time.Time) []apimodel.Gate {
	out := make([]apimodel.Gate, len(vs))
	for i, v := range vs {
		out[i] = gateOf(p, v, when)
	}
	return out
}

// count adds a device to the numbers of its wave or rollout.
func count(c *apimodel.RolloutCounts, s rollout.DeviceState) {
	c.Devices++
	switch s {
	case rollout.DevicePending:
		c.Pending++
	case rollout.DeviceUnreachable:
		c.Unreachable++
	case rollout.DeviceUpdating, rollout.DeviceShadow, rollout.DeviceSoaking:
		c.InFlight++
	case rollout.DeviceDone:
		c.Done++
	case rollout.DeviceSilent, rollout.DeviceFailed, rollout.DeviceRolledBack:
		c.Failed++
	case rollout.DeviceReturned:
		c.Returned++
	case rollout.DeviceKept:
		c.Kept++
	case rollout.DeviceExcluded:
		c.Excluded++
	}
}

func releaseRef(r rollout.Release) apimodel.ReleaseRef {
	return refOf(r.Kind, r.Name, r.Counter, r.Manifest)
}

// span returns the later of begin and zero plus s seconds; nil while begin is
// unknown.
func span(begin time.Time, s float64) *time.Time {
	if begin.IsZero() || s == 0 {
		return nil
	}
	return at(begin.Add(time.Duration(s * float64(time.Second))))
}

func rolloutOf(v dispatch.View) apimodel.Rollout {
	r := v.Rollout
	spec := RolloutPolicy{Selector: r.Fleet, Seed: r.Seed, Policy: r.Policy}.spec()
	st := apimodel.RolloutStatus{
		State: apimodel.RolloutState(r.State), Message: r.Reason, Waves: []apimodel.Wave{}, Conditions: []apimodel.Condition{},
		StartedAt: at(r.Started), EndedAt: at(r.Ended), WakeAt: at(v.Wake),
	}
	if r.Previous != nil {
		ref := releaseRef(*r.Previous)
		st.RollbackTo = &ref
	}
	if !r.Started.IsZero() && r.Wave < len(r.Policy.Waves) && !r.State.Final() {
		st.CurrentWave = &r.Wave
	}
	waves := make([]apimodel.RolloutCounts, len(r.Policy.Waves))
	var scored, lost int64
	stopped := 0.0
	offered := false
	for _, d := range v.Devices {
		standing := r.Stand(d, v.At)
		count(&st.Counts, standing.State)
		if w := d.Record.Wave; w >= 1 && w <= len(waves) {
			count(&waves[w-1], standing.State)
		}
		if !d.Record.OfferedAt.IsZero() {
			offered = true
			scored += int64(d.WindowsScored - min(d.Record.ScoredBefore, d.WindowsScored))
			lost += int64(d.WindowsLost - min(d.Record.LostBefore, d.WindowsLost))
			stopped += float64(d.StoppedMs-min(d.Record.StoppedBefore, d.StoppedMs)) / 1000
		}
	}
	if offered {
		st.WindowsScored, st.WindowsLost, st.ProductionStoppedSeconds = &scored, &lost, &stopped
	}
	for i, p := range r.Policy.Waves {
		soak := r.Policy.SoakS
		w := apimodel.Wave{Name: p.Name, State: apimodel.WaveStateWaiting, Counts: waves[i], Gates: []apimodel.Gate{}, SoakSeconds: &soak, ApprovalsNeeded: some(p.Approvals), Approvers: list(p.Approvers)}
		var t rollout.WaveTimes
		if i < len(r.Waves) {
			t = r.Waves[i]
			w.Gates = gatesOf(r.Policy, t.Gates, v.At)
			w.StartedAt, w.EndedAt = at(t.Started), at(t.Passed)
			w.DeadlineAt = span(t.Started, p.DeadlineS+t.PausedS)
		}
		w.State = waveState(r, i, t, waves[i])
		approvals := []apimodel.Approval{}
		for _, a := range r.Approvals {
			if a.Wave == i {
				approvals = append(approvals, apimodel.Approval{By: a.By, At: a.At, Reason: some(a.Reason), Gate: some(a.Gate)})
			}
		}
		if len(approvals) > 0 {
			w.Approvals = &approvals
		}
		st.Waves = append(st.Waves, w)
	}
	return apimodel.Rollout{
		APIVersion: apiVersion, Kind: "Rollout",
		Metadata: apimodel.ObjectMeta{Name: r.Name, ResourceVersion: some(version(v.Version)), CreatedAt: at(r.Created)},
		Spec:     apimodel.RolloutSpec{Release: releaseRef(r.Release), Policy: r.Policy.Name, PolicySpec: &spec, StartedBy: some(r.Author), Reason: some(r.Purpose)},
		Status:   st,
	}
}

func waveState(r rollout.Rollout, i int, t rollout.WaveTimes, c apimodel.RolloutCounts) apimodel.WaveState {
	stopped := r.State == rollout.RollingBack || r.State.Final() && r.State != rollout.Promoted
	switch {
	case !t.Passed.IsZero():
		return apimodel.WaveStatePassed
	case stopped && i == r.Wave && !t.Started.IsZero():
		return apimodel.WaveStateFailed
	case stopped:
		return apimodel.WaveStateSkipped
	case t.Started.IsZero():
		return apimodel.WaveStateWaiting
	case r.State == rollout.Held || r.State == rollout.Paused:
		return apimodel.WaveStateHeld
	case !t.Cleared.IsZero() && c.Done+c.Failed < c.Devices:
		return apimodel.WaveStateSoaking
	}
	return apimodel.WaveStateRunning
}

// ListRollouts lists rollouts, newest first.
func (s *Server) ListRollouts(ctx context.Context, r apigen.ListRolloutsRequestObject) (apigen.ListRolloutsResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Rollouts.Rollouts(ctx)
	if err != nil {
		return nil, err
	}
	place := func(r rollout.Rollout) string {
		return r.Created.UTC().Format("2006-01-02T15:04:05.000000000") + " " + r.Name
	}
	slices.SortFunc(all, func(a, b rollout.Rollout) int { return cmp.Compare(place(b), place(a)) })
	state, release := value(r.Params.State), value(r.Params.Release)
	rest := slices.DeleteFunc(all, func(ro rollout.Rollout) bool {
		return after != "" && place(ro) >= after || state != "" && string(ro.State) != string(state) || release != "" && releaseRef(ro.Release).ID != release
	})
	list, next := page(rest, limitOf(r.Params.Limit), place)
	out := apimodel.RolloutList{Items: make([]apimodel.Rollout, len(list)), NextCursor: next}
	for i, ro := range list {
		if out.Items[i], err = s.listed(ctx, ro); err != nil {
			return nil, err
		}
	}
	return apigen.ListRollouts200JSONResponse(out), nil
}

// endedRollouts keeps how ended rollouts look in lists: to show one, its last
// decision with the state of every device has to be read, and a page has a
// hundred of them. A device that joins late is seen in the rollout itself.
type endedRollouts struct {
	mu   sync.Mutex
	seen map[endedKey]apimodel.Rollout
}

type endedKey struct {
	name  string
	state rollout.State
	ended int64 // ns since 1970
}

// maxEnded bounds endedRollouts, which is emptied when it is full.
const maxEnded = 1024

// listed shows a rollout in a list.
func (s *Server) listed(ctx context.Context, r rollout.Rollout) (apimodel.Rollout, error) {
	k := endedKey{r.Name, r.State, r.Ended.UnixNano()}
	if r.State.Final() {
		s.ended.mu.Lock()
		out, ok := s.ended.seen[k]
		s.ended.mu.Unlock()
		if ok {
			return out, nil
		}
	}
	v, err := s.cfg.Rollouts.Load(ctx, r.Name)
	if err != nil {
		return apimodel.Rollout{}, err
	}
	out := rolloutOf(v)
	if r.State.Final() {
		s.ended.mu.Lock()
		defer s.ended.mu.Unlock()
		if s.ended.seen == nil || len(s.ended.seen) >= maxEnded {
			s.ended.seen = map[endedKey]apimodel.Rollout{}
		}
		s.ended.seen[k] = out
	}
	return out, nil
}

// CreateRollout starts a release's rollout.
func (s *Server) CreateRollout(ctx context.Context, r apigen.CreateRolloutRequestObject) (apigen.CreateRolloutResponseObject, error) {
	p := Proposal{Release: r.Body.Release, Policy: r.Body.Policy, Author: callerOf(ctx).person(), Reason: value(r.Params.Reason), DryRun: value(r.Params.DryRun)}
	v, err := s.cfg.Rollouts.Propose(ctx, p)
	if err != nil {
		return nil, err
	}
	out := rolloutOf(v)
	if p.DryRun {
		// Later waves are drawn when their turn comes: how large they would be
		// is the preview's to say.
		_, plan, err := s.cfg.Rollouts.Preview(ctx, p)
		if err != nil {
			return nil, err
		}
		for i, w := range plan.Waves {
			if i < len(out.Status.Waves) && out.Status.Waves[i].Counts.Devices == 0 {
				n := int64(len(w.Devices))
				out.Status.Waves[i].Counts.Devices, out.Status.Waves[i].Counts.Pending = n, n
			}
		}
	}
	return apigen.CreateRollout201JSONResponse(out), nil
}

// GetRollout shows a rollout.
func (s *Server) GetRollout(ctx context.Context, r apigen.GetRolloutRequestObject) (apigen.GetRolloutResponseObject, error) {
	v, err := s.cfg.Rollouts.Load(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	out := rolloutOf(v)
	if p := v.Rollout.Policy; !v.Rollout.State.Final() && len(p.Budgets)+len(p.Windows) > 0 {
		groups, windows := v.Rollout.Room(rollout.Snapshot{Devices: v.Devices}, v.At)
		out.Status.Budgets, out.Status.Windows = list(budgetsOf(groups)), list(windowsOf(windows))
	}
	return apigen.GetRollout200JSONResponse(out), nil
}

// ListRolloutDevices lists a rollout's devices by wave and name.
func (s *Server) ListRolloutDevices(ctx context.Context, r apigen.ListRolloutDevicesRequestObject) (apigen.ListRolloutDevicesResponseObject, error) {
	from, err := indexOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Rollouts.Load(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	// Those not drawn yet come last.
	wave := func(d rollout.Device) int { return (d.Record.Wave + 1<<20 - 1) % (1 << 20) }
	slices.SortFunc(v.Devices, func(a, b rollout.Device) int {
		return cmp.Or(cmp.Compare(wave(a), wave(b)), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	out := apimodel.RolloutDeviceList{Items: []apimodel.RolloutDevice{}}
	begin := min(int(from), len(v.Devices))
	end := min(begin+limitOf(r.Params.Limit), len(v.Devices))
	for _, d := range v.Devices[begin:end] {
		out.Items = append(out.Items, rolloutDevice(v, d))
	}
	if end < len(v.Devices) {
		out.NextCursor = cursorOf(version(uint64(end)))
	}
	return apigen.ListRolloutDevices200JSONResponse(out), nil
}

func rolloutDevice(v dispatch.View, d rollout.Device) apimodel.RolloutDevice {
	st := v.Rollout.Stand(d, v.At)
	out := apimodel.RolloutDevice{
		Name: d.ID.String(), Line: some(d.Labels["line"]), Wave: d.Record.Wave - 1, State: apimodel.RolloutDeviceState(st.State),
		Reason: some(st.Reason), AttestedDigest: some(string(d.Champion.Loaded)), Since: at(d.Record.OfferedAt),
	}
	if d.Trial.Rollout == v.Rollout.Name {
		out.Phase = some(string(d.Trial.Phase))
	}
	if e := d.Evidence; e.Manifest == v.Rollout.Release.Manifest && e.Items > 0 {
		a, b, n := int64(e.A), int64(e.B), int64(e.Items)
		out.OnlyChallenger, out.OnlyChampion, out.Windows = &a, &b, &n
	}
	return out
}

// ListRolloutDecisions says why.
func (s *Server) ListRolloutDecisions(ctx context.Context, r apigen.ListRolloutDecisionsRequestObject) (apigen.ListRolloutDecisionsResponseObject, error) {
	before, err := indexOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Rollouts.Load(ctx, r.Name); err != nil {
		return nil, err
	}
	limit := min(limitOf(r.Params.Limit), maxDecisions)
	list, err := s.cfg.Rollouts.Decisions(ctx, r.Name, before, limit+1)
	if err != nil {
		return nil, err
	}
	list, next := page(list, limit, func(d dispatch.Stored) string { return version(d.ID) })
	out := apimodel.RolloutDecisionList{Items: make([]apimodel.RolloutDecision, len(list)), NextCursor: next}
	for i, d := range list {
		out.Items[i] = decisionOf(d)
	}
	return apigen.ListRolloutDecisions200JSONResponse(out), nil
}

// maxDecisions bounds a page of decisions.
const maxDecisions = 200

// GetRolloutDecision shows one decision with all that it rested on.
func (s *Server) GetRolloutDecision(ctx context.Context, r apigen.GetRolloutDecisionRequestObject) (apigen.GetRolloutDecisionResponseObject, error) {
	id, err := strconv.ParseUint(r.ID, 10, 63)
	if err != nil {
		return nil, notFound("decision " + r.ID)
	}
	list, err := s.cfg.Rollouts.Decisions(ctx, r.Name, id+1, 1)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || list[0].ID != id {
		return nil, notFound("decision " + r.ID + " of rollout " + r.Name)
	}
	out := decisionOf(list[0])
	snapshot, err := s.cfg.Rollouts.Evidence(ctx, r.Name, id)
	if errors.Is(err, dispatch.ErrNoEvidence) {
		return apigen.GetRolloutDecision200JSONResponse(out), nil // made by an older hub, which did not keep it
	}
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(snapshot)
	if err != nil {
		return nil, err
	}
	out.SnapshotDigest = some(string(artifact.Of(text)))
	out.Evidence, err = asObject(map[string]any{"rollout": list[0].Input, "snapshot": snapshot})
	return apigen.GetRolloutDecision200JSONResponse(out), err
}

func decisionOf(d dispatch.Stored) apimodel.RolloutDecision {
	before := apimodel.RolloutState(d.Before)
	after := d.Decision.Rollout
	wave := after.Wave
	var assigned, revoked []string
	for _, c := range d.Decision.Changes {
		switch c.Kind {
		case rollout.ChangeOffer, rollout.ChangeRetry, rollout.ChangeLease:
			assigned = append(assigned, c.Device.String())
		default:
			revoked = append(revoked, c.Device.String())
		}
	}
	out := apimodel.RolloutDecision{
		ID: version(d.ID), At: d.At, Summary: d.Decision.Summary, State: apimodel.RolloutState(after.State), StateBefore: &before, Wave: &wave,
		Actor: some(d.Actor), Gates: gatesOf(after.Policy, d.Decision.Gates, d.At), WakeAt: at(d.Decision.Wake), Coalesced: some(d.Coalesced),
		Reasons: list(d.Decision.Reasons), Assigned: list(assigned), Revoked: list(revoked),
	}
	// A decision that passes a wave carries the verdicts of that one.
	for i := min(wave, len(after.Waves)-1); i >= 0 && len(d.Decision.Gates) > 0; i-- {
		if reflect.DeepEqual(after.Waves[i].Gates, d.Decision.Gates) {
			if i != wave {
				out.GatesWave = &i
			}
			break
		}
	}
	return out
}

// ask hands a person's request to the rollout.
func (s *Server) ask(ctx context.Context, name string, action rollout.Action, reason string, dry *apimodel.DryRun) (apimodel.Rollout, error) {
	q := rollout.Request{Action: action, By: callerOf(ctx).person(), Reason: reason, At: s.cfg.Now().UTC()}
	v, err := s.cfg.Rollouts.Ask(ctx, name, q, value(dry))
	if err != nil {
		return apimodel.Rollout{}, err
	}
	return rolloutOf(v), nil
}

// PauseRollout stops new offers and leases.
func (s *Server) PauseRollout(ctx context.Context, r apigen.PauseRolloutRequestObject) (apigen.PauseRolloutResponseObject, error) {
	out, err := s.ask(ctx, r.Name, rollout.Pause, r.Params.Reason, r.Params.DryRun)
	return apigen.PauseRollout200JSONResponse(out), err
}

// ResumeRollout lifts a pause.
func (s *Server) ResumeRollout(ctx context.Context, r apigen.ResumeRolloutRequestObject) (apigen.ResumeRolloutResponseObject, error) {
	out, err := s.ask(ctx, r.Name, rollout.Resume, r.Params.Reason, r.Params.DryRun)
	return apigen.ResumeRollout200JSONResponse(out), err
}

// AbortRollout ends a rollout.
func (s *Server) AbortRollout(ctx context.Context, r apigen.AbortRolloutRequestObject) (apigen.AbortRolloutResponseObject, error) {
	out, err := s.ask(ctx, r.Name, rollout.Abort, r.Params.Reason, r.Params.DryRun)
	return apigen.AbortRollout200JSONResponse(out), err
}

// PromoteRollout passes a wave by a person's word.
func (s *Server) PromoteRollout(ctx context.Context, r apigen.PromoteRolloutRequestObject) (apigen.PromoteRolloutResponseObject, error) {
	out, err := s.ask(ctx, r.Name, rollout.Promote, r.Params.Reason, r.Params.DryRun)
	return apigen.PromoteRollout200JSONResponse(out), err
}

// ApproveRollout records one person's consent.
func (s *Server) ApproveRollout(ctx context.Context, r apigen.ApproveRolloutRequestObject) (apigen.ApproveRolloutResponseObject, error) {
	out, err := s.ask(ctx, r.Name, rollout.Approve, r.Params.Reason, r.Params.DryRun)
	return apigen.ApproveRollout200JSONResponse(out), err
}

// UndoRollout takes a rollout back.
func (s *Server) UndoRollout(ctx context.Context, r apigen.UndoRolloutRequestObject) (apigen.UndoRolloutResponseObject, error) {
	out, err := s.ask(ctx, r.Name, rollout.Undo, r.Params.Reason, r.Params.DryRun)
	return apigen.UndoRollout200JSONResponse(out), err
}
