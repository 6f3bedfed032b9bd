package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

const careful = `{"selector":"line=l1","shadowSeconds":0,"gates":[{"name":"success"}],"budgets":[{"groupBy":"line","maxUnavailable":1}],
	"windows":[{"name":"night","zone":"Europe/Berlin","from":"22:00","to":"06:00"}],
	"waves":[{"name":"canary","devices":1,"soakSeconds":60},{"name":"rest","share":1,"soakSeconds":60,"approvals":1,"approvers":["user:approver-1"]}]}`

func TestARolloutIsPreviewedBeforeItIsStored(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2", "p3")
	preview := func(body string) (p apimodel.RolloutPreview) {
		t.Helper()
		a := w.call(t, auth.Viewer, "POST", "/rollouts/preview", body)
		if a.StatusCode != 200 {
			t.Fatalf("%d: %s", a.StatusCode, a.body)
		}
		a.into(t, &p)
		return p
	}
	p := preview(`{"release":"pump-anomaly-7","policySpec":` + careful + `}`)
	if len(p.Refusals) != 0 || p.Devices != 3 || len(p.Waves) != 2 || p.State != apimodel.RolloutStateRunning || p.FinishAt == nil {
		t.Fatalf("preview %+v", p)
	}
	if c, r := p.Waves[0], p.Waves[1]; c.Devices != 1 || r.Devices != 2 || len(r.Names) != 2 || r.Lines[0] != (apimodel.LineCount{Line: "l1", Devices: 2}) || value(r.Approvals) != 1 || r.StartAt.Before(*c.EndAt) {
		t.Errorf("waves %+v", p.Waves)
	}
	if len(p.Budgets) != 1 || p.Budgets[0].Limit != 1 || p.Budgets[0].Devices != 3 {
		t.Errorf("budgets %+v", p.Budgets)
	}
	if len(p.Windows) != 1 || p.Windows[0].Devices != 3 || p.Windows[0].Zone != "Europe/Berlin" || p.Windows[0].ChangeAt == nil {
		t.Errorf("windows %+v", p.Windows)
	}

	// What would be refused says why, and what there is.
	p = preview(`{"release":"pump-anomaly-7","policySpec":` + strings.Replace(careful, "line=l1", "lien=l1", 1) + `}`)
	if len(p.Refusals) == 0 || p.FinishAt != nil {
		t.Errorf("a selector typo: %+v", p)
	}
	w.call(t, auth.Viewer, "POST", "/rollouts/preview", `{"release":"pump-anomaly-7"}`).problem(t, 400, "invalid")
	w.call(t, auth.Viewer, "POST", "/rollouts/preview", `{"release":"pump-anomaly-9","policySpec":`+careful+`}`).problem(t, 404, "not-found")
	refused := w.call(t, auth.Viewer, "POST", "/rollouts/preview", `{"release":"pump-anomaly-7","policySpec":`+strings.Replace(careful, `"groupBy"`, `"grupBy"`, 1)+`}`).problem(t, 400, "invalid")
	if f := value(refused.Fields); len(f) != 1 || f[0].Field != "policySpec.budgets[0].grupBy" || !strings.Contains(f[0].Message, "groupBy, maxUnavailable") {
		t.Errorf("an unknown field: %+v", f)
	}
	var list apimodel.RolloutList
	w.call(t, auth.Viewer, "GET", "/rollouts", nil).into(t, &list)
	if len(list.Items) != 0 {
		t.Errorf("a preview stored %+v", list.Items)
	}
}

func TestARolloutShowsItsRoomAndIsUndoneAndReplayed(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2")
	put := func(name, spec string) {
		t.Helper()
		if a := w.call(t, auth.Operator, "PUT", "/rollout-policies/"+name+"?reason=x", `{"apiVersion":"swell/v1","kind":"RolloutPolicy","metadata":{"name":"`+name+`"},"spec":`+spec+`}`); a.StatusCode != 200 {
			t.Fatalf("%d: %s", a.StatusCode, a.body)
		}
	}
	put("careful", careful)
	put("bold", `{"selector":"line=l1","shadowSeconds":0,"waves":[{"name":"all"}],"gates":[{"name":"success"}]}`)
	if a := w.call(t, auth.Operator, "POST", "/rollouts?reason=better", apimodel.RolloutCreate{Release: "pump-anomaly-7", Policy: "careful"}); a.StatusCode != 201 {
		t.Fatalf("%d: %s", a.StatusCode, a.body)
	}
	var ro apimodel.Rollout
	w.call(t, auth.Viewer, "GET", "/rollouts/pump-anomaly-7", nil).into(t, &ro)
	if b, win := value(ro.Status.Budgets), value(ro.Status.Windows); len(b) != 1 || b[0].Devices != 2 || len(win) != 1 {
		t.Errorf("budgets %+v, windows %+v", b, win)
	}
	if _, err := w.srv.cfg.Orders.(*dispatch.Dispatcher).RunOnce(t.Context()); err != nil { // offers the canary
		t.Fatal(err)
	}
	const undo = "/rollouts/pump-anomaly-7/actions/undo?reason=too+loud"
	w.call(t, auth.Viewer, "POST", undo, nil).problem(t, 403, "role")
	var after apimodel.Rollout
	w.call(t, auth.Operator, "POST", undo+"&dryRun=true", nil).into(t, &after)
	w.call(t, auth.Viewer, "GET", "/rollouts/pump-anomaly-7", nil).into(t, &ro)
	if ro.Status.State == after.Status.State {
		t.Errorf("a trial says %s and makes it %s", after.Status.State, ro.Status.State)
	}
	if a := w.call(t, auth.Operator, "POST", undo, nil); a.StatusCode != 200 {
		t.Fatalf("undo: %d %s", a.StatusCode, a.body)
	}
	w.ledgerHas(t, "rollout.undo", "Rollout/pump-anomaly-7", "too loud", "user:operator-1")
	w.call(t, auth.Operator, "POST", undo, nil).problem(t, 409, "conflict")

	for _, body := range []string{`{"policy":"bold"}`, `{"policySpec":` + careful + `}`} {
		var rep apimodel.RolloutReplay
		a := w.call(t, auth.Viewer, "POST", "/rollouts/pump-anomaly-7/replay", body)
		a.into(t, &rep)
		if a.StatusCode != 200 || rep.Verdict == "" || len(rep.Steps) == 0 || rep.Steps[0].ID == "" {
			t.Errorf("replay with %s: %d %s", body, a.StatusCode, a.body)
		}
	}
	w.call(t, auth.Viewer, "POST", "/rollouts/pump-anomaly-7/replay", `{"policy":"none"}`).problem(t, 404, "not-found")
	w.call(t, auth.Viewer, "POST", "/rollouts/none/replay", `{"policy":"bold"}`).problem(t, 404, "not-found")
	w.call(t, auth.Viewer, "POST", "/rollouts/pump-anomaly-7/replay", `{}`).problem(t, 400, "invalid")
	w.call(t, auth.Viewer, "POST", "/rollouts/pump-anomaly-7/replay", `{"policy":"bold","policySpec":`+careful+`}`).problem(t, 400, "invalid")
}

func BenchmarkTheRoomOfTenThousandDevices(b *testing.B) {
	r := rollout.Rollout{
		Name: "r", Release: rollout.FromManifest(manifest, release7), State: rollout.Running,
		Policy: rollout.Policy{Waves: []rollout.Wave{{Devices: 10}, {Share: 0.5}, {Share: 1}}, Budgets: []rollout.Budget{{GroupBy: "line", MaxUnavailable: 2}}},
	}
	now := time.Now()
	var s rollout.Snapshot
	for i := range 10_000 {
		id := topic.ID{Site: "hall-1", Node: fmt.Sprintf("p%05d", i)}
		s.Devices = append(s.Devices, rollout.Device{ID: id, Class: artifact.Class("pump"), Labels: map[string]string{"line": fmt.Sprint("l", i%100), "site": "hall-1", "class": "pump"}, Connected: true, SeenAt: now})
	}
	for b.Loop() {
		if groups, _ := r.Room(s, now); len(groups) != 100 {
			b.Fatalf("%d groups", len(groups))
		}
	}
}
