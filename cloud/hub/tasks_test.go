package hub

import (
	"slices"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
)

func TestFitsWaitForTheDataAndTheEvaluationForAllFits(t *testing.T) {
	names := []string{"extract", "validate", "train/pca", "train/dense-ae", "evaluate", "bless"}
	want := [][]string{{}, {"extract"}, {"validate"}, {"validate"}, {"train/pca", "train/dense-ae"}, {"evaluate"}}
	for i := range names {
		if got := after(names, i); !slices.Equal(got, want[i]) {
			t.Errorf("%s comes after %v, want %v", names[i], got, want[i])
		}
	}
}

func TestAStepAtWorkShowsItsTasksAndWhenTheFirstBegan(t *testing.T) {
	at := time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)
	var r retrain.Run
	r.Tasks = []engine.TaskInfo{
		{Name: "train/pca/pump", State: engine.Succeeded, Started: at.Add(time.Minute), Ended: at.Add(2 * time.Minute)},
		{Name: "train/pca/fan", State: engine.Running, Started: at},
		{Name: "train/pca/belt", State: engine.Queued},
		{Name: "evaluate/pump", State: engine.Queued},
	}
	got := tasks(r, "train/pca")
	var said []string
	for _, x := range got {
		said = append(said, x.Name+" "+string(x.State))
	}
	if want := []string{"class pump done", "class fan running", "class belt waiting"}; !slices.Equal(said, want) {
		t.Errorf("tasks %q, want %q", said, want)
	}
	if tasks(r, "train/p") != nil {
		t.Error("tasks of another step are shown")
	}
}
