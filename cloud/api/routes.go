package api

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/auth"
)

// Prefix is where the contract's paths begin.
const Prefix = "/api/v1"

// public is the access of what needs no login.
const public auth.Role = "public"

// route is one operation: where it is, who may use it, and what it does.
type route struct {
	method, path string // as in the contract
	access       auth.Role
	do           echo.HandlerFunc
}

// routes is the whole REST side. A test compares it with the contract.
func (s *Server) routes() []route {
	w := apigen.ServerInterfaceWrapper{Handler: apigen.NewStrictHandler(s, nil)}
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	return []route{
		{get, "/session", auth.Viewer, w.GetSession},
		{post, "/session", public, w.Login},
		{del, "/session", auth.Viewer, w.Logout},

		{get, "/users", auth.Admin, w.ListUsers},
		{post, "/users", auth.Admin, w.CreateUser},
		{get, "/users/{name}", auth.Admin, w.GetUser},
		{patch, "/users/{name}", auth.Admin, w.UpdateUser},
		{del, "/users/{name}", auth.Admin, w.DeleteUser},
		{get, "/api-tokens", auth.Viewer, w.ListAPITokens},
		{post, "/api-tokens", auth.Viewer, w.CreateAPIToken},
		{del, "/api-tokens/{id}", auth.Viewer, w.RevokeAPIToken},

		{get, "/devices", auth.Viewer, w.ListDevices},
		{get, "/devices/{site}/{node}", auth.Viewer, w.GetDevice},
		{del, "/devices/{site}/{node}", auth.Admin, w.RetireDevice},
		{patch, "/devices/{site}/{node}/labels", auth.Operator, w.PatchDeviceLabels},
		{get, "/devices/{site}/{node}/signals", auth.Viewer, w.ListDeviceSignals},
		{get, "/devices/{site}/{node}/timeline", auth.Viewer, w.ListDeviceTimeline},
		{get, "/series", auth.Viewer, w.QuerySeries},

		{get, "/enrollment-tokens", auth.Operator, w.ListEnrollmentTokens},
		{post, "/enrollment-tokens", auth.Operator, w.CreateEnrollmentToken},
		{del, "/enrollment-tokens/{id}", auth.Operator, w.RevokeEnrollmentToken},

		{get, "/models", auth.Viewer, w.ListModels},
		{get, "/models/{name}", auth.Viewer, w.GetModel},
		{get, "/models/{name}/versions", auth.Viewer, w.ListModelVersions},
		{get, "/models/{name}/versions/{counter}", auth.Viewer, w.GetModelVersion},
		{post, "/models/{name}/versions/{counter}/actions/verify", auth.Viewer, w.VerifyModelVersion},

		{get, "/models/{name}/versions/{counter}/compare", auth.Viewer, w.CompareModelVersions},
		{get, "/models/{name}/versions/{counter}/lineage", auth.Viewer, w.GetModelLineage},
		{post, "/models/actions/collect", auth.Admin, w.CollectModels},
		{get, "/segments/{digest}/releases", auth.Viewer, w.ListSegmentReleases},
		{get, "/garden", auth.Viewer, w.ListGarden},
		{post, "/garden/import", auth.Admin, w.ImportGardenModel},

		{get, "/labels", auth.Viewer, w.ListLabels},
		{post, "/labels", auth.Operator, w.AddLabels},
		{get, "/frames", auth.Viewer, w.ListFrames},
		{get, "/frames/queue", auth.Viewer, w.ListFrameQueue},
		{get, "/frames/{digest}/image", auth.Viewer, w.GetFrameImage},

		{post, "/firmware", auth.Admin, w.PublishFirmware},

		{get, "/retrain-policies", auth.Viewer, w.ListRetrainPolicies},
		{get, "/retrain-policies/{name}", auth.Viewer, w.GetRetrainPolicy},
		{put, "/retrain-policies/{name}", auth.Operator, w.ApplyRetrainPolicy},
		{post, "/retrain-policies/{name}/actions/backfill", auth.Operator, w.BackfillRetrainPolicy},
		{get, "/training-runs", auth.Viewer, w.ListTrainingRuns},
		{post, "/training-runs", auth.Operator, w.StartTrainingRun},
		{get, "/training-runs/{name}", auth.Viewer, w.GetTrainingRun},
		{post, "/training-runs/{name}/actions/cancel", auth.Operator, w.CancelTrainingRun},
		{post, "/training-runs/{name}/actions/rerun", auth.Operator, w.RerunTrainingRun},
		{get, "/training-runs/{name}/logs", auth.Viewer, w.GetTrainingLogs},

		{get, "/rollout-policies", auth.Viewer, w.ListRolloutPolicies},
		{get, "/rollout-policies/{name}", auth.Viewer, w.GetRolloutPolicy},
		{put, "/rollout-policies/{name}", auth.Operator, w.ApplyRolloutPolicy},
		{get, "/rollouts", auth.Viewer, w.ListRollouts},
		{post, "/rollouts", auth.Operator, w.CreateRollout},
		{post, "/rollouts/preview", auth.Viewer, w.PreviewRollout},
		{get, "/rollouts/{name}", auth.Viewer, w.GetRollout},
		{get, "/rollouts/{name}/devices", auth.Viewer, w.ListRolloutDevices},
		{get, "/rollouts/{name}/decisions", auth.Viewer, w.ListRolloutDecisions},
		{get, "/rollouts/{name}/decisions/{id}", auth.Viewer, w.GetRolloutDecision},
		{post, "/rollouts/{name}/replay", auth.Viewer, w.ReplayRollout},
		{post, "/rollouts/{name}/actions/pause", auth.Operator, w.PauseRollout},
		{post, "/rollouts/{name}/actions/resume", auth.Operator, w.ResumeRollout},
		{post, "/rollouts/{name}/actions/abort", auth.Operator, w.AbortRollout},
		{post, "/rollouts/{name}/actions/promote", auth.Approver, w.PromoteRollout},
		{post, "/rollouts/{name}/actions/approve", auth.Approver, w.ApproveRollout},
		{post, "/rollouts/{name}/actions/undo", auth.Operator, w.UndoRollout},

		{get, "/freezes", auth.Viewer, w.ListFreezes},
		{post, "/freezes", auth.Operator, w.CreateFreeze},
		{del, "/freezes/{name}", auth.Operator, w.LiftFreeze},
		{get, "/quarantine", auth.Viewer, w.ListQuarantine},
		{post, "/quarantine", auth.Approver, w.QuarantineRelease},
		{del, "/quarantine/{digest}", auth.Approver, w.LiftQuarantine},

		{get, "/audit/events", auth.Viewer, w.ListAuditEvents},
		{get, "/audit/events/{index}", auth.Viewer, w.GetAuditEvent},
		{get, "/audit/events/{index}/proof", auth.Viewer, w.GetAuditProof},

		{get, "/overview", auth.Viewer, w.GetOverview},
		{get, "/version", public, w.GetVersion},
		{get, "/health", public, w.GetHealth},
		{get, "/events", auth.Viewer, s.streamEvents},
	}
}

// mount adds every route behind what must happen before it.
func (s *Server) mount(e *echo.Echo) error {
	for _, r := range s.routes() {
		item := s.spec.Paths.Value(r.path)
		if item == nil || item.GetOperation(r.method) == nil {
			return fmt.Errorf("route %s %s is not in the REST contract", r.method, r.path)
		}
		op := operation{route: r, spec: item.GetOperation(r.method), item: item}
		h := s.replay(op, s.validate(op, r.do))
		e.Add(r.method, Prefix+echoPath(r.path), s.measure(op, s.allow(op, h)))
	}
	// Every other path below the prefix is unknown, not the console's.
	unknown := func(echo.Context) error { return echo.ErrNotFound }
	e.Any(Prefix, unknown)
	e.Any(Prefix+"/*", unknown)
	return nil
}
