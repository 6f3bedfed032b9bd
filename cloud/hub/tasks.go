package hub

import (
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
)

const fitting = "train/" // begins the steps that compete

// after names the steps that step i waits for: the fits go on beside one
// another, and what follows them waits for all.
func after(names []string, i int) []string {
	switch {
	case i == 0:
		return []string{}
	case strings.HasPrefix(names[i], fitting):
		first := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, fitting) })
		return names[first-1 : first]
	case strings.HasPrefix(names[i-1], fitting):
		var fits []string
		for _, n := range names[:i] {
			if strings.HasPrefix(n, fitting) {
				fits = append(fits, n)
			}
		}
		return fits
	}
	return names[i-1 : i]
}

// tasks are the pieces of a step that workers took by themselves, "STEP/CLASS".
func tasks(r retrain.Run, step string) (out []apimodel.TrainingTask) {
	for _, t := range r.Tasks {
		class, ok := strings.CutPrefix(t.Name, step+"/")
		if !ok {
			continue
		}
		task := apimodel.TrainingTask{Name: "class " + class, State: taskState(t.State), Message: given(t.Err)}
		if !t.Started.IsZero() {
			task.StartedAt = &t.Started
		}
		if !t.Ended.IsZero() {
			task.EndedAt = &t.Ended
		}
		out = append(out, task)
	}
	return out
}

func taskState(s engine.State) apimodel.StepState {
	switch s {
	case engine.Queued:
		return apimodel.StepStateWaiting
	case engine.Running:
		return apimodel.StepStateRunning
	case engine.Succeeded:
		return apimodel.StepStateDone
	case engine.Cancelled:
		return apimodel.StepStateSkipped
	}
	return apimodel.StepStateFailed
}

// recorded counts the steps from the first on that have ended.
func recorded(names []string, r retrain.Run) (n int) {
	for n < len(names) && slices.ContainsFunc(r.Steps, func(x engine.StepInfo) bool { return x.Name == names[n] }) {
		n++
	}
	return n
}

// begun says whether a worker has taken up any task of s.
func begun(s apimodel.TrainingStep) bool {
	return s.Tasks != nil && slices.ContainsFunc(*s.Tasks, func(t apimodel.TrainingTask) bool { return t.StartedAt != nil })
}

// beginning is when a step at work began: with its first task, or when the
// step before it had ended.
func beginning(r retrain.Run, s apimodel.TrainingStep) (at time.Time) {
	if s.Tasks != nil {
		for _, t := range *s.Tasks {
			if t.StartedAt != nil && (at.IsZero() || t.StartedAt.Before(at)) {
				at = *t.StartedAt
			}
		}
		return at
	}
	at = r.Started
	for _, x := range r.Steps {
		if x.Ended.After(at) {
			at = x.Ended
		}
	}
	return at
}
