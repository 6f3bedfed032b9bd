package api

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// everything is a policy that sets every field there is.
func everything() RolloutPolicy {
	zero, half := 0.0, 0.5
	return RolloutPolicy{Selector: "site in (hall-1|hall-2),!retired", Seed: 9, Policy: rollout.Policy{
		Name: "all-of-it",
		Waves: []rollout.Wave{
			{Name: "canary", Selector: "hardware!=v1", Devices: 2, DeadlineS: 4000, Approvals: 1, Approvers: []string{"user:ana", "user:ben"}},
			{Name: "rest", Selector: "!spare,hardware in (v2|v3)", Share: 1, DeadlineS: 5000, Approvals: 2},
		},
		Gates: []rollout.Gate{
			{Name: rollout.GateSuccess, Threshold: &half, MinN: 2, Alpha: 0.1}, {Name: rollout.GateShadow, MinN: 7, Alpha: 0.02},
			{Name: rollout.GateNonFinite, Threshold: &zero}, {Name: rollout.GateLatency, Threshold: &half}, {Name: rollout.GateOutput, MinN: 3},
			{Name: rollout.GateMemory, Threshold: &half}, {Name: rollout.GateDrift}, {Name: rollout.GateApproval, MinN: 2},
			{Name: rollout.GateExpr, Title: "bearing", Expr: "metrics.bearing_c.max < 85.0"},
		},
		Budgets: []rollout.Budget{{GroupBy: "line", MaxUnavailable: 1, MaxUnavailableShare: 0.25, MinAvailable: 3, MinAvailableShare: 0.5}},
		Windows: []rollout.Window{
			{Name: "night", Selector: "line=l1", Zone: "Europe/Berlin", Days: []string{"mon", "fri"}, From: "22:00", To: "06:00", Except: []string{"2026-12-24"}},
			{Name: "shift", Start: "2026-11-02", EveryDays: 4, On: []int{0, 1}, Also: []string{"2026-12-27"}},
		},
		Growth:   &rollout.Growth{First: 2, Factor: 1.5, MaxShare: 0.25, DeadlineS: 7000},
		Stratify: []string{"line", "firmware"},
		ShadowS:  30, ShadowWindowS: 5, SoakS: 20, MinWindows: 11, LeaseS: 40, GraceS: 6, StaleS: 70, Retries: 3, RetryS: 8, RollbackS: 900, MaxPauseS: 1000,
	}}
}

// unset names the fields of v that are zero, but for those that exclude others.
func unset(v reflect.Value, at string) (out []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return []string{at}
		}
		return unset(v.Elem(), at)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				out = append(out, unset(v.Field(i), at+"."+f.Name)...)
			}
		}
	case reflect.Slice:
		fields := map[string]int{} // by how many elements leave them out
		for i := range v.Len() {
			for _, name := range unset(v.Index(i), at) {
				fields[name]++
			}
		}
		for name, n := range fields {
			if n == v.Len() {
				out = append(out, name)
			}
		}
		if v.Len() == 0 {
			out = append(out, at)
		}
	default:
		if v.IsZero() {
			out = append(out, at)
		}
	}
	return out
}

func TestARolloutPolicySaysEverythingThroughTheContract(t *testing.T) {
	want := everything()
	if missing := unset(reflect.ValueOf(want), "policy"); len(missing) > 0 {
		t.Fatalf("the policy of this test leaves out %s: set them here and in the contract", strings.Join(missing, ", "))
	}
	w := start(t)
	var kept apimodel.RolloutPolicy
	a := w.call(t, auth.Operator, "PUT", "/rollout-policies/all-of-it?reason=try", apimodel.RolloutPolicy{
		APIVersion: apiVersion, Kind: RolloutPolicyKind, Metadata: apimodel.ObjectMeta{Name: "all-of-it"}, Spec: want.spec(),
	})
	if a.StatusCode != 200 {
		t.Fatalf("%d: %s", a.StatusCode, a.body)
	}
	a.into(t, &kept)
	o, err := w.db.Object(t.Context(), RolloutPolicyKind, "all-of-it")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadRolloutPolicy(o)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("stored %+v, %v, want %+v", got, err, want)
	}
	if again, err := policyOf("all-of-it", kept.Spec); err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("shown and applied again it is %+v, %v, want %+v", again, err, want)
	}
}

func TestWhatARolloutPolicyLeavesOutIsItsDefaultAgain(t *testing.T) {
	w := start(t)
	put := func(spec apimodel.RolloutPolicySpec) (out apimodel.RolloutPolicy) {
		t.Helper()
		a := w.call(t, auth.Operator, "PUT", "/rollout-policies/p?reason=try", apimodel.RolloutPolicy{
			APIVersion: apiVersion, Kind: RolloutPolicyKind, Metadata: apimodel.ObjectMeta{Name: "p"}, Spec: spec,
		})
		if a.StatusCode != 200 {
			t.Fatalf("%d: %s", a.StatusCode, a.body)
		}
		a.into(t, &out)
		return out
	}
	put(everything().spec())
	short := apimodel.RolloutPolicySpec{Selector: "", Waves: []apimodel.WaveSpec{{Name: "all"}}}
	got := put(short).Spec
	if got.Stratify != nil || got.Retries != nil || got.Budgets != nil || value(got.ShadowSeconds) != defaultShadowS {
		t.Errorf("after a short policy: %+v, want the defaults and a shadow of %d s", got, defaultShadowS)
	}
	short.ShadowSeconds = new(float64)
	if got := put(short).Spec; got.ShadowSeconds == nil || *got.ShadowSeconds != 0 {
		t.Errorf("shadowSeconds 0 came back as %v", got.ShadowSeconds)
	}
	short.ShadowSeconds, short.Gates = nil, &[]apimodel.GateSpec{{Name: apimodel.GateNameSuccess}}
	if got := put(short).Spec; value(got.ShadowSeconds) != 0 {
		t.Errorf("without a shadow gate the shadow is %g s, want none", *got.ShadowSeconds)
	}
}

func TestARolloutThatFailedSaysWhatCameOfIt(t *testing.T) {
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	six := rollout.Release{Kind: "model", Name: "pump-anomaly", Counter: 6, Manifest: "sha256:6"}
	r := rollout.Rollout{
		Name: "pump-anomaly-7", Release: rollout.FromManifest(manifest, release7), Previous: &six, Purpose: "blessed by a night",
		Policy: rollout.Policy{Waves: []rollout.Wave{{Name: "canary"}, {Name: "rest"}}}, State: rollout.Failed, RollbackFrom: now.Add(-time.Minute), Ended: now,
	}
	device := func(node string, d rollout.Device) rollout.Device {
		d.ID, d.Class, d.SeenAt = topic.ID{Site: "hall-1", Node: node}, "pump", now
		d.Champion.Manifest = six.Manifest
		d.Record.OfferedAt, d.Record.ScoredBefore, d.WindowsScored = now.Add(-time.Hour), 10, 110
		d.Record.StoppedBefore, d.StoppedMs = 500, 2000
		return d
	}
	out := rolloutOf(dispatch.View{Rollout: r, At: now, Devices: []rollout.Device{
		device("p1", rollout.Device{Trial: rollout.Trial{Rollout: r.Name, Manifest: six.Manifest, Mode: twin.ModeRollback, Phase: twin.PhaseConfirmed}, Record: rollout.Record{Wave: 1, Offer: rollout.OfferRollback}}),
		device("p2", rollout.Device{Trial: rollout.Trial{Rollout: r.Name, Manifest: release7, Phase: twin.PhaseRolledBack, Reason: "scores not finite"}, Record: rollout.Record{Wave: 2, Offer: rollout.OfferWithdrawn}}),
	}})
	st := out.Status
	if st.RollbackTo == nil || st.RollbackTo.ID != "pump-anomaly-6" || value(out.Spec.Reason) != "blessed by a night" {
		t.Errorf("rolls back to %+v, reason %v", st.RollbackTo, out.Spec.Reason)
	}
	if st.Counts.Returned != 1 || st.Counts.Failed != 1 || st.Waves[0].Counts.Failed != 0 {
		t.Errorf("counts %+v, canary %+v", st.Counts, st.Waves[0].Counts)
	}
	if value(st.ProductionStoppedSeconds) != 3 || value(st.WindowsScored) != 200 {
		t.Errorf("stopped %v s, scored %v", value(st.ProductionStoppedSeconds), value(st.WindowsScored))
	}
}
