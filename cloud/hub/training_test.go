package hub

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

func TestARetrainPolicySaysEverythingThroughTheContract(t *testing.T) {
	want := retrain.Policy{
		Name: "nightly", Family: "pump-anomaly", Selector: "site=hall-1", Paused: true,
		Schedule:  engine.Schedule{Name: "nightly", Cron: "0 2 * * *", TimeZone: "Europe/Berlin", CatchUp: true},
		LookbackS: 7200, Channels: []string{"pressure"}, Exclude: []string{"label"}, TrainRows: 500, MinRows: 60, Kinds: []string{zoo.PCA},
		Fit: zoo.Config{
			Pattern: 4, Smooth: 10, Stride: 2, MaxGap: -1, HoldOut: 0.3, Quantile: 0.98, Margin: 2, FalseAlarmsPerDay: 0.5, PerDevice: true,
			Variance: 0.9, PlaneWeight: 5, Hidden: []int{8, 3}, DeepPenalty: 2, Steps: 600, BatchSize: 32, LearningRate: 0.01, Patience: 5,
			History: 300, Hold: 20, Floor: 0.05,
		},
		Gates: retrain.Gates{MaxFlagShare: 0.02, MinDetected: 0.4, WaiveFaults: true, Margin: 0.1, MaxPSI: 0.25, MaxMissing: 0.3,
			MinAccuracy: 0.8, MaxPerDay: 2, SliceMargin: 0.15, StrictSlices: true, MinEventsFound: 0.6, MaxTwoSample: 0.3, MaxStuckShare: 0.2,
			Ranges: map[string]retrain.Range{"pressure": {Min: -1, Max: 16}},
		},
		Images: retrain.ImagePolicy{Normal: []string{"good"}, MinPerClass: 9, MaxUnlabelled: 0.5, HoldOut: 0.25, Backbone: "mobilenet", Fit: zoo.ImageConfig{
			Height: 64, Width: 80, HoldOut: 0.1, FalseAlarms: 0.02, Channels: 8, Epochs: 5, BatchSize: 12, LearningRate: 0.002, Smoothing: -1, Patience: 6, Upright: true,
		}},
		Limits: retrain.Limits{WallS: 3600, MaxCostS: 7200, MemoryMiB: 2048, CPUs: 1.5}, Priority: -3, Queue: "gpu", MinNewShare: 0.1, CatchUp: retrain.CatchUpLatest,
		Retention: retrain.Retention{Runs: 30, Days: 90}, DriftLimit: 0.4,
		Seed: 7, RolloutPolicy: "careful",
	}
	// Seeds of fits are the policy's, what a missed night means is CatchUp's, and
	// the rest of both configurations is the night's own.
	own := []string{
		"policy.Schedule.latest", "policy.Fit.Seed", "policy.Fit.WarmStart", "policy.Fit.Network", "policy.Fit.RawValues", "policy.Fit.opened",
		"policy.Fit.DatasetDigest", "policy.Fit.ParentModel", "policy.Fit.Checkpoints", "policy.Fit.Library",
		"policy.Images.Fit.Seed", "policy.Images.Fit.Backbone", "policy.Images.Fit.Mean", "policy.Images.Fit.Scale", "policy.Images.Fit.BackboneDigest",
		"policy.Images.Fit.DatasetDigest", "policy.Images.Fit.ParentModel", "policy.Images.Fit.Checkpoints", "policy.Images.Fit.Library",
	}
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

func TestARunShowsWhatEachCandidateIsWorthBesideTheChampion(t *testing.T) {
	r := retrain.Run{Outcome: retrain.Outcome{
		Extracted: retrain.Extracted{Snapshot: artifact.Of([]byte("snapshot")), Rows: 900, Added: 250},
		Validated: retrain.Validated{Classes: []retrain.ClassData{{Class: "pump", Rows: 800}}},
		Judged: retrain.Judged{Classes: []retrain.JudgedClass{{
			Class: "pump", Windows: 100, Champion: &retrain.Score{FlagShare: 0.03, PerDay: 30, Detected: 0.5},
			Candidates: []retrain.Score{
				{Candidate: retrain.Candidate{Class: "pump", Kind: zoo.PCA}, FlagShare: 0.01, PerDay: 10, Detected: 0.7, Faults: 20, ByFault: map[string]float64{"spike": 1, "drift": 0.4}},
				{Candidate: retrain.Candidate{Class: "pump", Kind: zoo.DenseAE}, Err: "it cannot be loaded"},
			},
		}}},
	}}
	out := trainingRun(r)
	if d := out.Status.Data; d == nil || deref(d.Added) != 250 || d.Windows != 800 {
		t.Errorf("data %+v", d)
	}
	var got []string
	for _, m := range (*out.Status.Candidates)[0].Metrics {
		line := fmt.Sprintf("%s %g", m.Name, m.Value)
		if m.Champion != nil {
			line += fmt.Sprintf(" (%g)", *m.Champion)
		}
		got = append(got, line)
	}
	if want := "faults_found 0.7 (0.5); flag_share 0.01 (0.03); flags_per_day 10 (30); faults_found 0.4; faults_found 1"; strings.Join(got, "; ") != want {
		t.Errorf("metrics %q, want %q", strings.Join(got, "; "), want)
	}
	if msg := *(*out.Status.Candidates)[1].Message; !strings.Contains(msg, "it cannot be loaded") {
		t.Errorf("a candidate that could not be judged says %q", msg)
	}
}
