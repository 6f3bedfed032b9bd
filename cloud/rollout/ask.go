package rollout

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
)

// ErrNotNow means that a rollout's state does not allow what a person asked.
var ErrNotNow = errors.New("not possible now")

// ErrOwnApproval means that the author tried to approve.
var ErrOwnApproval = errors.New("whoever proposed a rollout cannot approve it")

// Ask takes in a person's request and returns the rollout as it is then; the
// next Decide draws the consequences. A request needs a person and a reason.
func Ask(r Rollout, q Request) (Rollout, error) {
	cannot := func(why string) (Rollout, error) {
		return r, fmt.Errorf("cannot %s rollout %s: it is %s%s: %w", q.Action, r.Name, r.State, why, ErrNotNow)
	}
	if q.By == "" || q.Reason == "" {
		return r, fmt.Errorf("cannot %s rollout %s: say who asks and why", q.Action, r.Name)
	}
	going := r.State == Running || r.State == Held || r.State == Waiting
	out := r.clone()
	switch q.Action {
	case Pause:
		if !going {
			return cannot("")
		}
		out.State, out.PausedAt = Paused, q.At
		out.Reason = fmt.Sprintf("%s: %s", q.By, q.Reason)
	case Resume:
		if r.State != Paused {
			return cannot("")
		}
		if i := out.Wave; i < len(out.Waves) {
			out.Waves[i].PausedS += max(q.At.Sub(r.PausedAt).Seconds(), 0)
		}
		out.State, out.PausedAt = Running, time.Time{}
		out.Reason = fmt.Sprintf("resumed by %s: %s", q.By, q.Reason)
	case Abort:
		reason := fmt.Sprintf("aborted by %s: %s", q.By, q.Reason)
		switch {
		case r.State == Queued:
			out.State, out.Ended, out.Reason = Aborted, q.At, reason
		case going || r.State == Paused:
			out.State, out.End, out.RollbackFrom, out.Reason = RollingBack, Aborted, q.At, reason
		default:
			return cannot("")
		}
	case Promote:
		if !going {
			return cannot("")
		}
		n := out.Wave + 1
		if n >= len(out.Policy.Waves) {
			return cannot(" in its last wave already")
		}
		last := out.Policy.Waves[len(out.Policy.Waves)-1]
		out.Policy.Waves = append(out.Policy.Waves[:n:n], Wave{Name: "rest", DeadlineS: last.DeadlineS})
		out.Reason = fmt.Sprintf("hurried by %s: %s", q.By, q.Reason)
	case Approve:
		switch {
		case q.By == r.Author:
			return r, fmt.Errorf("cannot approve rollout %s: %w", r.Name, ErrOwnApproval)
		case r.State.Final() || r.State == RollingBack || r.Wave >= len(r.Policy.Waves):
			return cannot("")
		case slices.ContainsFunc(r.Approvals, func(a Approval) bool { return a.By == q.By && a.Wave == r.Wave }):
			return cannot(" and you have approved this wave")
		}
		out.Approvals = append(out.Approvals, Approval{By: q.By, Wave: r.Wave, At: q.At, Reason: q.Reason})
	default:
		return r, fmt.Errorf("cannot %s rollout %s: use pause, resume, abort, promote or approve", q.Action, r.Name)
	}
	return out, nil
}

// Admission says what happens to a new rollout and to those before it.
type Admission struct {
	Rollout    Rollout  // the new one: Running or Queued
	Superseded []string // queued ones that it takes the place of
}

// Admit decides how a new rollout joins those of the same fleet: it takes the
// place of one that waits, waits for one that is on its way, and starts at
// once otherwise, past any that failed.
func Admit(r Rollout, others []Rollout) Admission {
	a := Admission{Rollout: r}
	a.Rollout.State, a.Rollout.Started = Running, r.Created
	a.Rollout.Reason = "started"
	for _, o := range others {
		if o.Name == r.Name || o.Fleet != r.Fleet || o.Release.Kind != r.Release.Kind {
			continue
		}
		switch {
		case o.State == Queued:
			a.Superseded = append(a.Superseded, o.Name)
		case o.State.Active():
			a.Rollout.State, a.Rollout.Started = Queued, r.Started
			a.Rollout.Reason = fmt.Sprintf("waits for rollout %s, which is %s", o.Name, o.State)
		}
	}
	slices.Sort(a.Superseded)
	return a
}

// LastPromoted returns the release that devices of the fleet go back to: that
// of the newest promoted rollout, or nil.
func LastPromoted(fleet string, kind artifact.Kind, others []Rollout) *Release {
	var best *Rollout
	for i, o := range others {
		if o.Fleet == fleet && o.Release.Kind == kind && o.State == Promoted && (best == nil || o.Ended.After(best.Ended)) {
			best = &others[i]
		}
	}
	if best == nil {
		return nil
	}
	rel := best.Release
	return &rel
}

// equal compares what is stored of two rollouts.
func equal(a, b Rollout) bool { return reflect.DeepEqual(a, b) }
