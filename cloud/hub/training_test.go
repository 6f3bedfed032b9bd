package hub

import (
	"reflect"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/models/zoo"
)

func TestARetrainPolicySaysEverythingThroughTheContract(t *testing.T) {
	want := retrain.Policy{
		Name: "nightly", Family: "pump-anomaly", Selector: "site=hall-1", Paused: true,
		Schedule:  engine.Schedule{Name: "nightly", Cron: "0 2 * * *", TimeZone: "Europe/Berlin", CatchUp: true},
		LookbackS: 7200, Channels: []string{"pressure"}, Exclude: []string{"label"}, TrainRows: 500, MinRows: 60, Kinds: []string{zoo.PCA},
		Fit: zoo.Config{
			Pattern: 4, Smooth: 10, Stride: 2, MaxGap: -1, HoldOut: 0.3, Quantile: 0.98, Margin: 2, FalseAlarmsPerDay: 0.5, PerDevice: true,
			Variance: 0.9, PlaneWeight: 5, Hidden: []int{8, 3}, DeepPenalty: 2, Steps: 600, BatchSize: 32, LearningRate: 0.01,
		},
		Gates: retrain.Gates{MaxFlagShare: 0.02, MinDetected: 0.4, WaiveFaults: true, Margin: 0.1, MaxPSI: 0.25, MaxMissing: 0.3},
		Seed:  7, RolloutPolicy: "careful",
	}
	// Seed of the fit is the policy's; the rest of zoo.Config is the night's own.
	own := []string{"policy.Fit.Seed", "policy.Fit.WarmStart", "policy.Fit.DatasetDigest", "policy.Fit.ParentModel", "policy.Fit.Library"}
	var missing []string
	var look func(v reflect.Value, at string)
	look = func(v reflect.Value, at string) {
		if v.Kind() == reflect.Struct {
			for i := range v.NumField() {
				look(v.Field(i), at+"."+v.Type().Field(i).Name)
			}
		} else if v.IsZero() {
			missing = append(missing, at)
		}
	}
	look(reflect.ValueOf(want), "policy")
	if strings.Join(missing, " ") != strings.Join(own, " ") {
		t.Fatalf("the policy of this test leaves out %v: set them here and in the contract", missing)
	}
	if got := retrainPolicyOf("nightly", retrainSpec(want)); !reflect.DeepEqual(got, want) {
		t.Errorf("shown and applied again it is %+v, want %+v", got, want)
	}
	bare := retrain.Policy{Name: "by-hand", Family: "by-hand", Schedule: engine.Schedule{Name: "by-hand"}}
	if got := retrainPolicyOf("by-hand", retrainSpec(bare)); !reflect.DeepEqual(got, bare) {
		t.Errorf("shown and applied again it is %+v, want %+v", got, bare)
	}
}
