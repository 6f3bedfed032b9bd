package hub_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/retrain"
)

// A hub that was down for three days runs the nights that its policies want to
// be caught up with, once, and REST shows them.
func TestAHubThatWasDownShowsTheNightsItCaughtUpWith(t *testing.T) {
	began := time.Now().UTC().Truncate(time.Hour)
	cfg := onFreePorts(t.TempDir())
	want := map[string]int{retrain.CatchUpNone: 0, retrain.CatchUpLatest: 1, retrain.CatchUpAll: 3}
	for missed := range want {
		// Due while this test does not run.
		cfg.Training.Policies = append(cfg.Training.Policies, hub.RetrainPolicy{Name: missed, Cron: fmt.Sprintf("0 %d * * *", (began.Hour()+12)%24), CatchUp: missed})
	}
	r := start(t, cfg, "")
	runs := func(policy string) []apimodel.TrainingRun {
		t.Helper()
		resp, err := r.api.ListTrainingRunsWithResponse(t.Context(), &apimodel.ListTrainingRunsParams{Policy: &policy})
		if err != nil || resp.JSON200 == nil {
			t.Fatalf("list runs: %v, %s", err, resp.Body)
		}
		return resp.JSON200.Items
	}
	for missed := range want {
		if got := runs(missed); len(got) != 0 {
			t.Errorf("%s: a new policy has %d runs", missed, len(got))
		}
	}
	for _, away := range []time.Duration{72 * time.Hour, 73 * time.Hour} { // in the last hour nothing was missed
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Now = func() time.Time { return time.Now().Add(away) }
		r = start(t, cfg, r.password)
		for missed, n := range want {
			got := runs(missed)
			if len(got) != n {
				t.Errorf("%s after %s: %d runs, want %d", missed, away, len(got), n)
			}
			for _, run := range got {
				if run.Spec.Trigger != "schedule" {
					t.Errorf("%s: trigger %q", missed, run.Spec.Trigger)
				}
			}
		}
	}
}
