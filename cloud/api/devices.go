package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// apiVersion is that of every object.
const apiVersion = apimodel.APIVersionSwellV1

func deviceID(site apimodel.Site, node apimodel.Node) (topic.ID, error) {
	id := topic.ID{Site: site, Node: node}
	if err := id.Validate(); err != nil {
		return id, invalid(err.Error())
	}
	return id, nil
}

func refOf(kind artifact.Kind, name string, counter uint64, digest artifact.Digest) apimodel.ReleaseRef {
	return apimodel.ReleaseRef{Kind: apimodel.ReleaseKind(kind), ID: fmt.Sprintf("%s-%d", name, counter), Name: name, Counter: int64(counter), Digest: string(digest)}
}

func runningRef(r *twin.Running) *apimodel.ReleaseRef {
	if r == nil {
		return nil
	}
	ref := refOf(artifact.Model, r.Name, r.Counter, r.Manifest)
	return &ref
}

// device shows a device as in lists.
func (s *Server) device(ctx context.Context, d *fleet.Device, w store.Wanted) apimodel.Device {
	doc := &d.Report.Doc
	name := d.ID.String()
	labels := apimodel.Labels(d.All())
	out := apimodel.Device{
		APIVersion: apiVersion, Kind: "Device",
		Metadata: apimodel.ObjectMeta{Name: name, Labels: &labels, ResourceVersion: some(version(d.Version)), CreatedAt: at(d.EnrolledAt)},
		Spec:     apimodel.DeviceSpec{Site: d.ID.Site, Node: d.ID.Node, Class: string(d.Class), DesiredGeneration: some(int64(w.Generation))},
		Status: apimodel.DeviceStatus{
			State: apimodel.DeviceState(d.State), Connected: d.Connected && d.State != fleet.Offline, LastSeenAt: at(d.LastSeen),
			RetiredAt: at(d.RetiredAt), CertificateExpiresAt: at(d.CertExpiry), Conditions: []apimodel.Condition{},
			DesiredDigest: some(string(w.Model)),
		},
	}
	if line, ok := d.Label("line"); ok {
		out.Spec.Line = &line
	}
	st := &out.Status
	if !d.Heard() {
		return out
	}
	scored, lost, dropped := int64(d.Totals.WindowsScored), int64(d.Totals.WindowsLost), int64(d.Totals.SpoolDropped)
	stopped := float64(d.Totals.StoppedMs) / 1000
	generation, spool := int64(doc.Generation), doc.Stream.SpoolBytes
	st.ReportedAt, st.ReportedGeneration = at(d.Report.Received), &generation
	st.WindowsScored, st.WindowsLost, st.SpoolDropped, st.SpoolBytes, st.ProductionStoppedSeconds = &scored, &lost, &dropped, &spool, &stopped
	st.AgentVersion = some(doc.Agent.Version)
	st.Release = runningRef(doc.Champion)
	attested := s.attested(ctx, d, w)
	st.Attested = &attested
	if c := doc.Champion; c != nil {
		st.ReportedDigest, st.AttestedDigest = some(string(c.Manifest)), some(string(c.Model))
	}
	if t := doc.Trial; t != nil && !t.Phase.Final() {
		st.Rollout, st.Phase = some(t.Rollout), some(string(t.Phase))
	}
	for _, c := range doc.Conditions {
		st.Conditions = append(st.Conditions, conditionOf(c))
	}
	return out
}

func conditionOf(c twin.Condition) apimodel.Condition {
	out := apimodel.Condition{Type: c.Type, Status: apimodel.ConditionStatusFalse, Reason: c.Reason, Message: c.Message, LastTransitionTime: at(c.Since)}
	if c.Status {
		severity := apimodel.SeverityWarning
		if fleet.Critical[c.Type] {
			severity = apimodel.SeverityCritical
		}
		out.Status, out.Severity = apimodel.ConditionStatusTrue, &severity
	}
	return out
}

func version(n uint64) string { return strconv.FormatUint(n, 10) }

// asObject returns v's JSON as a map, for fields the contract leaves open.
func asObject(v any) (*map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// whole shows a device with its documents.
func (s *Server) whole(ctx context.Context, d *fleet.Device) (apimodel.Device, error) {
	want, wanted, err := s.cfg.Rollouts.Desired(ctx, d.ID)
	if err != nil {
		return apimodel.Device{}, err
	}
	w := store.Wanted{Generation: want.Generation}
	if want.Model != nil {
		w.Model = want.Model.Manifest
	}
	out := s.device(ctx, d, w)
	if wanted {
		if out.Spec.Desired, err = asObject(want); err != nil {
			return out, err
		}
	}
	if !d.Heard() {
		return out, nil
	}
	doc := &d.Report.Doc
	if out.Status.Reported, err = asObject(doc); err != nil {
		return out, err
	}
	slots := []apimodel.Slot{}
	add := func(role apimodel.SlotRole, r *twin.Running) {
		if r != nil {
			slots = append(slots, apimodel.Slot{Role: role, Digest: string(r.Manifest), Release: runningRef(r), LoadedDigest: some(string(r.Model)), Since: at(r.Since)})
		}
	}
	add(apimodel.SlotRoleChampion, doc.Champion)
	add(apimodel.SlotRoleLastGood, doc.LastGood)
	if t := doc.Trial; t != nil {
		if !t.Phase.Final() {
			ref := refOf(artifact.Model, t.Name, t.Counter, t.Manifest)
			slots = append(slots, apimodel.Slot{Role: apimodel.SlotRoleChallenger, Digest: string(t.Manifest), Release: &ref, LoadedDigest: some(string(t.Model)), Since: at(t.Since)})
		}
		phases := phasesOf(t)
		out.Status.Phases = &phases
	}
	out.Status.Slots = &slots
	return out, nil
}

// order is how a healthy trial goes.
var order = []twin.Phase{twin.PhaseFetching, twin.PhaseVerifying, twin.PhaseGuarding, twin.PhaseLoading, twin.PhaseTesting, twin.PhaseShadowing, twin.PhaseReady, twin.PhaseActivating, twin.PhaseSoaking, twin.PhaseConfirmed}

// phasesOf shows where a trial stands. A report names only the present phase:
// for a trial that ended early, what lay before is not known and left out.
func phasesOf(t *twin.Trial) []apimodel.PhaseStep {
	out := []apimodel.PhaseStep{}
	now := -1
	for i, p := range order {
		if p == t.Phase {
			now = i
		}
	}
	if now < 0 {
		if t.Phase == twin.PhaseNone {
			return out
		}
		state := apimodel.StepStateFailed
		if t.Phase == twin.PhaseDropped {
			state = apimodel.StepStateSkipped
		}
		return append(out, apimodel.PhaseStep{Name: string(t.Phase), State: state, At: at(t.Since), Detail: some(t.Reason)})
	}
	for i, p := range order {
		step := apimodel.PhaseStep{Name: string(p), State: apimodel.StepStateWaiting}
		switch {
		case i < now || t.Phase == twin.PhaseConfirmed:
			step.State = apimodel.StepStateDone
		case i == now:
			step.State = apimodel.StepStateRunning
		}
		if i == now {
			step.At, step.Detail = at(t.Since), some(t.Reason)
		}
		out = append(out, step)
	}
	return out
}

// ListDevices lists devices by name.
func (s *Server) ListDevices(ctx context.Context, r apigen.ListDevicesRequestObject) (apigen.ListDevicesResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	sel, err := selector.Parse(value(r.Params.Selector))
	if err != nil {
		return nil, invalid(err.Error(), apimodel.FieldError{Field: "selector", Message: err.Error()})
	}
	list, total, more, err := s.cfg.Fleet.Select(sel, after, limitOf(r.Params.Limit))
	if err != nil {
		return nil, err
	}
	wanted, err := s.cfg.Store.Wanted(ctx)
	if err != nil {
		return nil, err
	}
	out := apimodel.DeviceList{Items: make([]apimodel.Device, len(list)), Total: int64(total)}
	for i, d := range list {
		out.Items[i] = s.device(ctx, d, wanted[d.ID])
	}
	if more {
		out.NextCursor = cursorOf(list[len(list)-1].ID.String())
	}
	return apigen.ListDevices200JSONResponse(out), nil
}

// GetDevice shows one device.
func (s *Server) GetDevice(ctx context.Context, r apigen.GetDeviceRequestObject) (apigen.GetDeviceResponseObject, error) {
	id, err := deviceID(r.Site, r.Node)
	if err != nil {
		return nil, err
	}
	d, err := s.cfg.Fleet.Get(id)
	if err != nil {
		return nil, err
	}
	out, err := s.whole(ctx, &d)
	return apigen.GetDevice200JSONResponse(out), err
}

// RetireDevice takes a device out of service.
func (s *Server) RetireDevice(ctx context.Context, r apigen.RetireDeviceRequestObject) (apigen.RetireDeviceResponseObject, error) {
	id, err := deviceID(r.Site, r.Node)
	if err != nil {
		return nil, err
	}
	d, err := s.cfg.Fleet.Get(id)
	if err != nil {
		return nil, err
	}
	if value(r.Params.DryRun) {
		d.State, d.RetiredAt = fleet.Retired, s.cfg.Now()
	} else {
		reason := value(r.Params.Reason)
		if err := s.audit(ctx, "device.retire", "Device/"+id.String(), reason, nil); err != nil {
			return nil, err
		}
		// The certificate first: a device that is listed as retired must be
		// unable to connect.
		if err := s.cfg.Enroll.Retire(ctx, id, reason); err != nil {
			return nil, err
		}
		if d, err = s.cfg.Fleet.Retire(ctx, id, callerOf(ctx).User, reason); err != nil {
			return nil, err
		}
	}
	out, err := s.whole(ctx, &d)
	return apigen.RetireDevice200JSONResponse(out), err
}

// PatchDeviceLabels sets and removes labels.
func (s *Server) PatchDeviceLabels(ctx context.Context, r apigen.PatchDeviceLabelsRequestObject) (apigen.PatchDeviceLabelsResponseObject, error) {
	id, err := deviceID(r.Site, r.Node)
	if err != nil {
		return nil, err
	}
	set, remove := value(r.Body.Set), value(r.Body.Remove)
	who := callerOf(ctx)
	d, err := s.cfg.Fleet.SetLabels(ctx, id, set, remove, 0, who.User, true)
	if err == nil && !value(r.Params.DryRun) {
		detail := map[string]string{}
		for k, v := range set {
			detail["set "+k] = v
		}
		for _, k := range remove {
			detail["remove "+k] = ""
		}
		if err := s.audit(ctx, "device.label", "Device/"+id.String(), value(r.Params.Reason), detail); err != nil {
			return nil, err
		}
		d, err = s.cfg.Fleet.SetLabels(ctx, id, set, remove, 0, who.User, false)
	}
	if errors.Is(err, fleet.ErrUnknown) {
		return nil, err
	}
	if err != nil {
		return nil, invalid(err.Error())
	}
	out, err := s.whole(ctx, &d)
	return apigen.PatchDeviceLabels200JSONResponse(out), err
}

// ListDeviceTimeline shows a device's history.
func (s *Server) ListDeviceTimeline(ctx context.Context, r apigen.ListDeviceTimelineRequestObject) (apigen.ListDeviceTimelineResponseObject, error) {
	id, err := deviceID(r.Site, r.Node)
	if err != nil {
		return nil, err
	}
	before, err := indexOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	list, err := s.cfg.Fleet.Timeline(ctx, id, before, limit+1)
	if err != nil {
		return nil, err
	}
	list, next := page(list, limit, func(e fleet.Entry) string { return version(e.Index) })
	out := apimodel.TimelineList{Items: make([]apimodel.TimelineEntry, len(list)), NextCursor: next}
	for i, e := range list {
		severity := apimodel.Severity(e.Severity)
		out.Items[i] = apimodel.TimelineEntry{At: e.At, Type: e.Type, Severity: &severity, Message: e.Message, Rollout: some(e.Rollout), Release: some(e.Release)}
	}
	return apigen.ListDeviceTimeline200JSONResponse(out), nil
}

// indexOf reads a cursor that holds a number; 0 without one.
func indexOf(c *apimodel.Cursor) (uint64, error) {
	place, err := placeOf(c)
	if err != nil || place == "" {
		return 0, err
	}
	n, err := strconv.ParseUint(place, 10, 64)
	if err != nil {
		return 0, invalid("the cursor is not of this list: begin again without it", apimodel.FieldError{Field: "cursor", Message: "of another list"})
	}
	return n, nil
}

// releaseCache keeps which model files belong to which release: releases never
// change. It is emptied when it holds too many.
type releaseCache struct {
	mu    sync.Mutex
	files map[artifact.Digest]cached
}

type cached struct {
	manifest artifact.Manifest
	missed   time.Time // when it was not found; zero: it was
}

const (
	maxReleases = 256
	missLife    = 10 * time.Second
)

// manifest returns a release's manifest; ok is false when there is none.
func (s *Server) manifest(ctx context.Context, d artifact.Digest) (m artifact.Manifest, ok bool, err error) {
	now := s.cfg.Now()
	s.seen.mu.Lock()
	c, hit := s.seen.files[d]
	s.seen.mu.Unlock()
	if hit && (c.missed.IsZero() || now.Sub(c.missed) < missLife) {
		return c.manifest, c.missed.IsZero(), nil
	}
	m, err = s.cfg.Releases.Manifest(ctx, d)
	if err != nil && !errors.Is(err, registry.ErrNoVersion) {
		return m, false, err
	}
	c = cached{manifest: m}
	if err != nil {
		c.missed = now
	}
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	if s.seen.files == nil || len(s.seen.files) >= maxReleases {
		s.seen.files = map[artifact.Digest]cached{}
	}
	s.seen.files[d] = c
	return m, err == nil, nil
}

// attested says whether a device has loaded the very bytes of the release it
// should run, or of the one it names where nothing is wanted of it.
func (s *Server) attested(ctx context.Context, d *fleet.Device, w store.Wanted) bool {
	c := d.Report.Doc.Champion
	if c == nil || c.Model == "" || w.Model != "" && w.Model != c.Manifest {
		return false
	}
	m, ok, err := s.manifest(ctx, c.Manifest)
	if err != nil || !ok {
		return false // what cannot be compared is not attested
	}
	v, err := m.Select(d.Class, d.Report.Doc.Agent.Arch)
	if err != nil {
		return false
	}
	f, ok := v.File(artifact.RoleModel)
	return ok && f.Digest == c.Model
}
