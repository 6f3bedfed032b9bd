package api

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
)

// ledgerHas wants one event of an action, with its subject, reason and actor.
func (w *world) ledgerHas(t *testing.T, action, subject, reason, actor string) {
	t.Helper()
	var list apimodel.AuditEventList
	w.call(t, auth.Viewer, "GET", "/audit/events?action="+action, nil).into(t, &list)
	for _, e := range list.Items {
		if e.Subject == subject && value(e.Reason) == reason && e.Actor == actor {
			return
		}
	}
	t.Errorf("no event %s of %s by %s because of %q in %+v", action, subject, actor, reason, list.Items)
}

func TestAFreezeIsMadeSeenAndLifted(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2")
	const freeze = `{"name":"stocktaking","selector":"line=l1"}`
	var f apimodel.Freeze
	a := w.call(t, auth.Operator, "POST", "/freezes?reason=we+count&dryRun=true", freeze)
	a.into(t, &f)
	var list apimodel.FreezeList
	w.call(t, auth.Viewer, "GET", "/freezes", nil).into(t, &list)
	if a.StatusCode != 201 || f.Devices != 2 || !f.Active || len(list.Items) != 0 {
		t.Fatalf("a trial: %d %s, then %+v", a.StatusCode, a.body, list.Items)
	}
	a = w.call(t, auth.Operator, "POST", "/freezes?reason=we+count", freeze)
	w.call(t, auth.Viewer, "GET", "/freezes", nil).into(t, &list)
	if a.StatusCode != 201 || len(list.Items) != 1 || list.Items[0].By != "user:operator-1" || list.Items[0].Reason != "we count" || list.Items[0].Until != nil || !list.Items[0].Active {
		t.Fatalf("made: %d %s, then %+v", a.StatusCode, a.body, list.Items)
	}
	w.ledgerHas(t, "freeze.start", "Freeze/stocktaking", "we count", "user:operator-1")
	w.call(t, auth.Operator, "POST", "/freezes?reason=again", freeze).problem(t, 409, "exists")

	if a := w.call(t, auth.Operator, "DELETE", "/freezes/stocktaking?reason=counted&dryRun=true", nil); a.StatusCode != 204 {
		t.Errorf("a trial of lifting: %d %s", a.StatusCode, a.body)
	}
	if a := w.call(t, auth.Operator, "DELETE", "/freezes/stocktaking?reason=counted", nil); a.StatusCode != 204 {
		t.Errorf("lift: %d %s", a.StatusCode, a.body)
	}
	w.ledgerHas(t, "freeze.end", "Freeze/stocktaking", "counted", "user:operator-1")
	w.call(t, auth.Operator, "DELETE", "/freezes/stocktaking?reason=counted", nil).problem(t, 404, "not-found")
}

func TestAFreezeThatCannotBeMeantIsRefused(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	past, later := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for _, tc := range []struct{ what, body, problem, says string }{
		{"a label nobody has", `{"name":"f","selector":"lien=l1"}`, "unknown-label", "line"},
		{"a value nobody has", `{"name":"f","selector":"line=l9"}`, "invalid", "matches no device"},
		{"a selector that cannot be read", `{"name":"f","selector":"line=="}`, "invalid", "line=="},
		{"an end that is past", `{"name":"f","until":"` + past + `"}`, "invalid", "until"},
		{"an end before its beginning", `{"name":"f","from":"` + later + `","until":"` + later + `"}`, "invalid", "before the freeze begins"},
		{"a field that does not exist", `{"name":"f","selecter":"line=l1"}`, "invalid", "selecter"},
		{"no name", `{"selector":"line=l1"}`, "invalid", "name"},
		{"a name that is a path", `{"name":"a/b"}`, "invalid", "slashes"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			p := w.call(t, auth.Operator, "POST", "/freezes?reason=x", tc.body).problem(t, 400, tc.problem)
			if !strings.Contains(value(p.Detail), tc.says) {
				t.Errorf("it says %q, want something about %q", value(p.Detail), tc.says)
			}
		})
	}
	w.call(t, auth.Operator, "POST", "/freezes", `{"name":"f"}`).problem(t, 400, "invalid") // no reason
}

func TestAReleaseInQuarantineIsNotRolledOut(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	put := func(role auth.Role, release string) answer {
		return w.call(t, role, "POST", "/quarantine?reason=broken+sensor", apimodel.QuarantineCreate{Release: release})
	}
	put(auth.Operator, "pump-anomaly-7").problem(t, 403, "role")
	put(auth.Approver, "pump-anomaly-99").problem(t, 404, "not-found")
	put(auth.Approver, "sha256:beef").problem(t, 400, "invalid")
	var q apimodel.Quarantine
	a := put(auth.Approver, string(release7))
	a.into(t, &q)
	if a.StatusCode != 201 || q.Release != "pump-anomaly-7" || q.Digest != string(release7) {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	w.ledgerHas(t, "quarantine.start", "Release/"+string(release7), "broken sensor", "user:approver-1")
	put(auth.Approver, "pump-anomaly-7").problem(t, 409, "exists")

	w.call(t, auth.Operator, "PUT", "/rollout-policies/p?reason=x", `{"apiVersion":"swell/v1","kind":"RolloutPolicy","metadata":{"name":"p"},"spec":{"selector":"","waves":[{"name":"all"}]}}`)
	begin := apimodel.RolloutCreate{Release: "pump-anomaly-7", Policy: "p"}
	p := w.call(t, auth.Operator, "POST", "/rollouts?reason=x", begin).problem(t, 409, "conflict")
	if !strings.Contains(value(p.Detail), "broken sensor") {
		t.Errorf("the refusal says %q, want the reason of the quarantine", value(p.Detail))
	}
	lift := "/quarantine/" + string(release7) + "?reason=was+fine"
	w.call(t, auth.Operator, "DELETE", lift, nil).problem(t, 403, "role")
	if a := w.call(t, auth.Approver, "DELETE", lift, nil); a.StatusCode != 204 {
		t.Errorf("lift: %d %s", a.StatusCode, a.body)
	}
	w.ledgerHas(t, "quarantine.end", "Release/"+string(release7), "was fine", "user:approver-1")
	w.call(t, auth.Approver, "DELETE", lift, nil).problem(t, 404, "not-found")
	if a := w.call(t, auth.Operator, "POST", "/rollouts?reason=x", begin); a.StatusCode != 201 {
		t.Errorf("after the quarantine: %d %s", a.StatusCode, a.body)
	}
}

// nights is a Training with one run.
type nights struct {
	Training
	run       apimodel.TrainingRun
	cancelled bool
}

func (n *nights) Run(context.Context, string) (apimodel.TrainingRun, error) { return n.run, nil }

func (n *nights) Cancel(context.Context, string) (apimodel.TrainingRun, error) {
	n.cancelled = true
	n.run.Status.State = apimodel.RunStateCancelled
	return n.run, nil
}

func TestARunThatHasEndedCannotBeCancelled(t *testing.T) {
	for state, want := range map[apimodel.RunState]int{
		apimodel.RunStateQueued: http.StatusOK, apimodel.RunStateRunning: http.StatusOK,
		apimodel.RunStateReleased: http.StatusConflict, apimodel.RunStateRefused: http.StatusConflict,
		apimodel.RunStateFailed: http.StatusConflict, apimodel.RunStateCancelled: http.StatusConflict,
	} {
		t.Run(string(state), func(t *testing.T) {
			w := start(t)
			n := &nights{run: apimodel.TrainingRun{Status: apimodel.TrainingRunStatus{State: state}}}
			w.srv.cfg.Training = n
			a := w.call(t, auth.Operator, "POST", "/training-runs/night-7/actions/cancel?reason=no+need", nil)
			if a.StatusCode != want || n.cancelled != (want == http.StatusOK) {
				t.Errorf("%d %s, cancelled %t", a.StatusCode, a.body, n.cancelled)
			}
		})
	}
}
