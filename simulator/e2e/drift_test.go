package e2e_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
)

// Machines wear, and nobody asks for a night: the hub sees it in their live
// data, starts one night, says why, and starts no other over the same drift.
func TestWornMachinesStartOneNightThatSaysWhy(t *testing.T) {
	first := hub.RetrainPolicy{Name: "first", Family: family, LookbackS: 5, Seed: 7, Kinds: []string{"pca"}, MinDetected: 0.01, MaxFlagShare: 0.5, RolloutPolicy: "guarded"}
	alert := first
	alert.Name, alert.DriftLimit, alert.RolloutPolicy = "alert", 2, ""
	f, moods := newMill(t, hub.Training{Policies: []hub.RetrainPolicy{first, alert}, DriftLookS: 0.3})
	f.rows(1000)
	run := f.night("first")
	if run.Status.State != apimodel.RunStateReleased || run.Status.Rollout == nil {
		t.Fatalf("the first night was %s: %v", run.Status.State, run.Status.Refusals)
	}
	if err := f.hub.Promoted(t.Context(), *run.Status.Rollout, func(string) {}); err != nil {
		t.Fatal(err)
	}
	runs := func(ctx context.Context) ([]apimodel.TrainingRun, error) {
		policy := "alert"
		resp, err := f.hub.API.ListTrainingRunsWithResponse(ctx, &apimodel.ListTrainingRunsParams{Policy: &policy})
		if err != nil || resp.JSON200 == nil {
			return nil, err
		}
		return resp.JSON200.Items, nil
	}
	f.rows(1000) // some looks
	if got, err := runs(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("sound machines started %d nights: %v", len(got), err)
	}
	for i := range moods {
		moods[i].Store(worn)
	}
	until(t, time.Minute, "a night over the drift", func() (bool, error) {
		got, err := runs(t.Context())
		return len(got) > 0, err
	})
	f.rows(1000) // five seconds, some fifteen looks
	got, err := runs(t.Context())
	if err != nil || len(got) != 1 {
		t.Fatalf("the drift started %d nights, want one: %v", len(got), err)
	}
	if got[0].Spec.Trigger != "drift" || got[0].Spec.Reason == nil || !strings.Contains(*got[0].Spec.Reason, "channel flow has drifted from what the champion learned") {
		t.Errorf("REST says of it %+v", got[0].Spec)
	}
	t.Log(*got[0].Spec.Reason)
}
