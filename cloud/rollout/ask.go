package rollout

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
)

// ErrNotNow means that a rollout's state does not allow what a person asked.
var ErrNotNow = errors.New("not possible now")

// ErrOwnApproval means that the author tried to approve.
var ErrOwnApproval = errors.New("whoever proposed a rollout cannot approve it")

// ErrNotApprover means that somebody tried to approve who is not asked.
var ErrNotApprover = errors.New("ask one of the approvers")

// Ask takes in a person's request and returns the rollout as it is then; the
// next Decide draws the consequences. A request needs a person and a reason. An
// error says why the state does not allow it and what does; see also MayUndo.
func Ask(r Rollout, q Request) (Rollout, error) {
	cannot := func(format string, args ...any) (Rollout, error) {
		return r, fmt.Errorf("cannot %s rollout %s: %s: %w", q.Action, r.Name, fmt.Sprintf(format, args...), ErrNotNow)
	}
	if q.By == "" || q.Reason == "" {
		return r, fmt.Errorf("cannot %s rollout %s: say who asks and why", q.Action, r.Name)
	}
	going := r.State == Running || r.State == Held || r.State == Waiting
	out := r.clone()
	switch q.Action {
	case Pause:
		if !going {
			return cannot("%s", r.notGoing())
		}
		out.State, out.PausedAt = Paused, q.At
		out.Reason = fmt.Sprintf("%s: %s", q.By, q.Reason)
	case Resume:
		switch {
		case going:
			return cannot("it is %s and not paused", r.State)
		case r.State != Paused:
			return cannot("%s", r.notGoing())
		}
		if i := out.Wave; i < len(out.Waves) {
			out.Waves[i].PausedS += max(q.At.Sub(r.PausedAt).Seconds(), 0)
		}
		out.State, out.PausedAt = Running, time.Time{}
		out.Reason = fmt.Sprintf("resumed by %s: %s", q.By, q.Reason)
	case Abort, Undo:
		return abort(r, out, q, cannot)
	case Promote:
		if !going {
			return cannot("%s", r.notGoing())
		}
		n := out.Wave + 1
		if n >= len(out.Policy.Waves) {
			return cannot("it is in its last wave already")
		}
		out.Policy.Waves = append(out.Policy.Waves[:n:n], rest(out.Policy.Waves[n:]))
		out.Reason = fmt.Sprintf("hurried by %s: %s", q.By, q.Reason)
	case Approve:
		return approve(r, out, q, cannot)
	default:
		return r, fmt.Errorf("cannot %s rollout %s: use pause, resume, abort, undo, promote or approve", q.Action, r.Name)
	}
	return out, nil
}

// notGoing says why nothing can be done about a rollout that no wave of is on
// its way.
func (r Rollout) notGoing() string {
	switch r.State {
	case Queued:
		return "it waits in the queue and has not begun: abort it, or let it wait"
	case Paused:
		return fmt.Sprintf("it is paused since %s: resume or abort it", clock(r.PausedAt))
	case RollingBack:
		return "its devices are on their way back, which nothing stops: start another rollout when it has ended"
	case Promoted:
		return fmt.Sprintf("it was promoted at %s: undo it to go back to the release before", clock(r.Ended))
	}
	return fmt.Sprintf("it ended as %s at %s", r.State, clock(r.Ended))
}

// abort ends a rollout, as does undo, which also takes a promotion back.
func abort(r, out Rollout, q Request, cannot func(string, ...any) (Rollout, error)) (Rollout, error) {
	reason := fmt.Sprintf("aborted by %s: %s", q.By, q.Reason)
	if q.Action == Undo {
		reason = fmt.Sprintf("undone by %s: %s", q.By, q.Reason)
	}
	switch {
	case r.State == Queued:
		out.State, out.Ended, out.Reason = Aborted, q.At, reason
	case r.State.Active() && r.State != RollingBack:
		out.State, out.End, out.RollbackFrom, out.Reason, out.PausedAt = RollingBack, Aborted, q.At, reason, time.Time{}
	case r.State == Promoted && q.Action == Undo && r.Previous == nil:
		return cannot("no release was promoted before %s-%d, so that there is none to go back to: roll out another", r.Release.Name, r.Release.Counter)
	case r.State == Promoted && q.Action == Undo:
		out.State, out.End, out.RollbackFrom, out.Reason, out.Ended = RollingBack, Aborted, q.At, reason, time.Time{}
	case q.Action == Undo && r.State == RollingBack:
		return cannot("there is nothing to undo: it is being undone since %s", clock(r.RollbackFrom))
	case q.Action == Undo:
		return cannot("there is nothing to undo: it ended as %s at %s and left no release behind", r.State, clock(r.Ended))
	default:
		return cannot("%s", r.notGoing())
	}
	return out, nil
}

// MayUndo says why a rollout cannot be undone beside the others of its fleet:
// only the newest release can be taken back, and only while nothing else is on
// its way.
func MayUndo(r Rollout, others []Rollout) error {
	if r.State != Promoted {
		return nil // Ask knows
	}
	for _, o := range others {
		if o.Name == r.Name || o.Fleet != r.Fleet || o.Release.Kind != r.Release.Kind {
			continue
		}
		switch {
		case o.State.Active():
			return fmt.Errorf("cannot undo rollout %s: rollout %s is %s on the same fleet: abort it, or wait until it has ended: %w", r.Name, o.Name, o.State, ErrNotNow)
		case o.State == Promoted && o.Ended.After(r.Ended):
			return fmt.Errorf("cannot undo rollout %s: rollout %s was promoted after it: undo that one first: %w", r.Name, o.Name, ErrNotNow)
		}
	}
	return nil
}

// rest is the one wave that takes the place of several: it draws all that they
// would, and needs the consent that the strictest of them needs.
func rest(waves []Wave) Wave {
	out := Wave{Name: "rest", DeadlineS: waves[len(waves)-1].DeadlineS}
	for _, w := range waves {
		if w.Approvals > out.Approvals {
			out.Approvals = w.Approvals
		}
		if len(w.Approvers) > 0 {
			out.Approvers = w.Approvers
		}
	}
	return out
}

// approve notes a person's consent: to the beginning of a wave that has not
// begun, and to what it did once it has.
func approve(r, out Rollout, q Request, cannot func(string, ...any) (Rollout, error)) (Rollout, error) {
	if r.State.Final() || r.State == RollingBack || r.Wave >= len(r.Policy.Waves) {
		return cannot("%s", r.notGoing())
	}
	spec := r.Policy.Waves[r.Wave]
	begun := r.Wave < len(r.Waves) && !r.Waves[r.Wave].Started.IsZero()
	switch {
	case person(q.By) == person(r.Author):
		return r, fmt.Errorf("cannot approve rollout %s: %w", r.Name, ErrOwnApproval)
	case !spec.asks(q.By):
		return r, fmt.Errorf("cannot approve rollout %s: %s is not among the approvers of wave %d: %s: %w", r.Name, person(q.By), r.Wave+1, strings.Join(spec.Approvers, ", "), ErrNotApprover)
	case slices.ContainsFunc(r.Approvals, func(a Approval) bool {
		return person(a.By) == person(q.By) && a.Wave == r.Wave && a.Gate == begun
	}):
		return cannot("you have approved wave %d already", r.Wave+1)
	}
	if begun {
		if !slices.ContainsFunc(r.Policy.Gates, func(g Gate) bool { return g.Name == GateApproval }) {
			return cannot("wave %d has begun and its policy asks nobody about the end of it", r.Wave+1)
		}
		for _, v := range r.Waves[r.Wave].Gates {
			if v.Gate != GateApproval && v.Applies && v.Result != Pass {
				return cannot("the other gates come first: the %s gate of wave %d says %s: %s", v.Gate, r.Wave+1, v.Result, v.Reason)
			}
		}
	}
	out.Approvals = append(out.Approvals, Approval{By: q.By, Wave: r.Wave, At: q.At, Reason: q.Reason, Gate: begun})
	return out, nil
}

// asks says whether a person's consent counts in the wave.
func (w Wave) asks(by string) bool {
	return len(w.Approvers) == 0 || slices.ContainsFunc(w.Approvers, func(a string) bool { return person(a) == person(by) })
}

// person returns the name of a person without how the ledger marks people.
func person(by string) string { return strings.TrimPrefix(by, "user:") }

// consents returns who has approved a wave: its beginning, or for gate what it
// did. The author's consent does not count, nor that of people who are not
// asked.
func (r Rollout) consents(wave int, gate bool) (by []string) {
	for _, a := range r.Approvals {
		name := person(a.By)
		if a.Wave != wave || a.Gate != gate || name == person(r.Author) || slices.Contains(by, name) {
			continue
		}
		if wave < len(r.Policy.Waves) && !r.Policy.Waves[wave].asks(name) {
			continue
		}
		by = append(by, name)
	}
	return by
}

// Admission says what happens to a new rollout and to those before it.
type Admission struct {
	Rollout    Rollout  // the new one: Running or Queued
	Superseded []string // those that have offered nothing yet, and that it takes the place of
}

// Admit decides how a new rollout joins those of the same fleet: it takes the
// place of one that has offered nothing yet, waits for one that is on its way
// there or back, and starts at once otherwise, past any that failed. So there
// are never more than one active and one queued. One that takes a place is
// queued until that place is free: the other may begin meanwhile.
func Admit(r Rollout, others []Rollout) Admission {
	a := Admission{Rollout: r}
	a.Rollout.State, a.Rollout.Started = Running, r.Created
	a.Rollout.Reason = "started"
	queue := func(format string, args ...any) {
		a.Rollout.State, a.Rollout.Started = Queued, r.Started
		a.Rollout.Reason = fmt.Sprintf(format, args...)
	}
	for _, o := range others {
		if o.Name == r.Name || o.Fleet != r.Fleet || o.Release.Kind != r.Release.Kind || !o.unoffered() {
			continue
		}
		a.Superseded = append(a.Superseded, o.Name)
		queue("takes the place of rollout %s, which has offered nothing yet", o.Name)
	}
	for _, o := range others {
		if o.Name != r.Name && o.Fleet == r.Fleet && o.Release.Kind == r.Release.Kind && o.State.Active() && !o.unoffered() {
			queue("waits for rollout %s, which is %s", o.Name, o.State)
		}
	}
	slices.Sort(a.Superseded)
	return a
}

// unoffered says that a rollout has offered its release to no device and is not
// about to: it is queued, or its first wave waits to begin.
func (r Rollout) unoffered() bool {
	waits := r.State == Waiting || r.State == Held || r.State == Paused
	return r.State == Queued || waits && r.Wave == 0 && len(r.Waves) == 1 && r.Waves[0].Started.IsZero()
}

// Supersede ends a rollout that has offered nothing yet, because another takes
// its place; false when it has begun meanwhile, and is to be waited for.
func Supersede(r Rollout, by string, at time.Time) (Rollout, bool) {
	if !r.unoffered() {
		return r, false
	}
	r.State, r.Ended, r.Reason = Superseded, at, fmt.Sprintf("rollout %s took its place before it had offered anything", by)
	return r, true
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
