package dispatch

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Replay says what another policy would have decided on the same evidence.
type Replay struct {
	Rollout string `json:"rollout"`
	Same    int    `json:"same"` // decisions alike: the state, and what every device is told
	// Steps are the decisions taken again, oldest first. The last is Diverged
	// when there is one: what devices did then, they did for another reason.
	Steps    []ReplayStep `json:"steps"`
	Diverged *ReplayStep  `json:"diverged,omitempty"` // the first decision that differs in what devices are told; nil: none
	Verdict  string       `json:"verdict"`            // a sentence
}

// ReplayStep is one recorded decision taken again.
type ReplayStep struct {
	ID       uint64            `json:"id"` // of the recorded decision
	At       time.Time         `json:"at"`
	Recorded string            `json:"recorded"` // the state that was decided
	Replayed string            `json:"replayed"` // the state that the other policy leads to
	Summary  string            `json:"summary"`  // of the replayed decision
	Offered  int               `json:"offered"`  // devices that have been offered the release, with those of this step
	Gates    []rollout.Verdict `json:"gates,omitempty"`
}

// Replay takes every stored decision of a rollout again under another policy.
// It reads the store alone. Of what the record holds it uses the facts about
// devices and what they had been told; so it ends where the other policy would
// have told devices something else. ErrNotFound and ErrNoEvidence.
func (d *Dispatcher) Replay(ctx context.Context, name string, p rollout.Policy) (Replay, error) {
	l, err := d.cfg.Store.Load(ctx, name)
	if err != nil {
		return Replay{}, err
	}
	newest, err := d.cfg.Store.Decisions(ctx, name, 0, 1)
	if err != nil {
		return Replay{}, fmt.Errorf("read decisions of rollout %s: %w", name, err)
	}
	if len(newest) == 0 {
		return Replay{}, fmt.Errorf("replay rollout %s: %w", name, ErrNoEvidence)
	}
	if l.Rollout.Release.Kind == artifact.Firmware {
		p.ShadowS = 0
	}
	re := replayer{policy: p, out: Replay{Rollout: name}}
	for id := uint64(1); id <= newest[0].ID && !re.over; id++ {
		if err := ctx.Err(); err != nil {
			return Replay{}, err
		}
		page, err := d.cfg.Store.Decisions(ctx, name, id+1, 1) // one at a time: a fleet's evidence is large
		if err != nil {
			return Replay{}, fmt.Errorf("read decision %d of rollout %s: %w", id, name, err)
		}
		if len(page) == 0 || page[0].ID != id {
			return Replay{}, fmt.Errorf("replay decision %d of rollout %s: %w", id, name, ErrNoEvidence)
		}
		if page[0].Omitted > 0 {
			return Replay{}, fmt.Errorf("replay decision %d of rollout %s: the fleet was too large to be kept whole, %d devices are missing: %w", id, name, page[0].Omitted, ErrNoEvidence)
		}
		re.step(page[0])
	}
	re.conclude()
	return re.out, nil
}

// replayer takes decisions again, the oldest first.
type replayer struct {
	policy  rollout.Policy
	seen    evidence
	rollout rollout.Rollout // as the other policy has it by now
	last    Stored          // the newest planner's decision taken again
	diffs   int             // decisions that differ in the rollout's state alone
	over    bool            // nothing behind this point can be said
	out     Replay
}

func (re *replayer) step(s Stored) {
	re.seen.take(s)
	switch {
	case re.rollout.Name == "":
		re.begin(s)
	case s.Actor != "":
		re.request(s)
	default:
		re.again(s)
	}
}

// begin takes the proposal, which names the fleet that a growing policy is
// written out for.
func (re *replayer) begin(s Stored) {
	devices := re.seen.snapshot().Devices
	re.policy = re.policy.Expand(len(devices))
	re.rollout = s.Decision.Rollout
	re.rollout.Policy = re.policy
	if s.Actor == "" {
		re.rollout = s.Input
		re.rollout.Policy = re.policy
		re.again(s)
		return
	}
	if err := rollout.Validate(re.rollout, devices); err != nil {
		re.over = true
		re.out.Verdict = "would not have started: " + err.Error()
	}
}

// request asks the rollout what a person asked it.
func (re *replayer) request(s Stored) {
	if s.Request == nil { // another rollout took its place, or a hub of old stored it
		p := re.rollout.Policy
		re.rollout = s.Decision.Rollout
		re.rollout.Policy = p
		return
	}
	r, err := rollout.Ask(re.rollout, *s.Request)
	if err != nil {
		re.over = true
		re.out.Verdict = fmt.Sprintf("on %s %s asked for %s, and that would not have been possible: %v; the record ends there", clock(s.At), s.Actor, s.Request.Action, err)
		return
	}
	re.rollout = r
}

// again takes one of the planner's decisions.
func (re *replayer) again(s Stored) {
	re.follow(s)
	seen := re.seen.snapshot()
	dec := rollout.Decide(re.rollout, seen, s.At)
	offered := 0
	for _, d := range rollout.Apply(seen, dec).Devices {
		if d.Record.Wave > 0 {
			offered++
		}
	}
	step := ReplayStep{
		ID: s.ID, At: s.At, Recorded: string(s.Decision.Rollout.State), Replayed: string(dec.Rollout.State), Summary: dec.Summary, Offered: offered, Gates: dec.Gates,
	}
	re.out.Steps = append(re.out.Steps, step)
	re.rollout, re.last = dec.Rollout, s
	was, is := told(s.Decision), told(dec)
	if !maps.Equal(was, is) || stopped(s.Decision.Rollout) != stopped(dec.Rollout) {
		re.over = true
		re.out.Diverged = &step
		re.out.Verdict = diverged(s, dec, was, is, step)
		return
	}
	if step.Recorded == step.Replayed {
		re.out.Same++
	} else {
		re.diffs++
	}
}

// follow brings the replayed rollout to where the recorded one was when it
// decided: not every change of its numbers is a decision that was stored. What
// the other policy's own gates have said stays.
func (re *replayer) follow(s Stored) {
	in := s.Input
	if re.rollout.State == rollout.Queued && s.Before == rollout.Queued {
		re.rollout.State, re.rollout.Started, re.rollout.Previous, re.rollout.Reason = in.State, in.Started, in.Previous, in.Reason
	}
	if re.rollout.State != in.State || re.rollout.Wave != in.Wave || len(re.rollout.Waves) != len(in.Waves) {
		return
	}
	own := re.rollout
	re.rollout = in
	if reflect.DeepEqual(own.Policy, in.Policy) {
		return
	}
	re.rollout.Policy = own.Policy
	re.rollout.Waves = slices.Clone(in.Waves)
	for i := range re.rollout.Waves {
		w := &re.rollout.Waves[i]
		w.Gates, w.Cleared = own.Waves[i].Gates, own.Waves[i].Cleared
	}
}

// told is what a decision has devices do.
func told(d rollout.Decision) map[topic.ID]rollout.ChangeKind {
	out := make(map[topic.ID]rollout.ChangeKind, len(d.Changes))
	for _, c := range d.Changes {
		out[c.Device] = c.Kind
	}
	return out
}

// stopped says whether a rollout goes back or has gone.
func stopped(r rollout.Rollout) bool {
	return r.State == rollout.RollingBack || r.State == rollout.Failed || r.State == rollout.Aborted
}

// diverged says in a sentence how a replayed decision differs.
func diverged(s Stored, dec rollout.Decision, was, is map[topic.ID]rollout.ChangeKind, step ReplayStep) string {
	at := clock(s.At)
	switch before, after := stopped(s.Decision.Rollout), stopped(dec.Rollout); {
	case after && !before:
		return fmt.Sprintf("would have stopped on %s after %s: %s", at, devices(step.Offered), dec.Summary)
	case before && !after:
		return fmt.Sprintf("would have gone on at %s, where it stopped (%s): %s; the record ends there because no device was offered more", at, s.Decision.Summary, dec.Summary)
	case before:
		return fmt.Sprintf("would have stopped on %s too, and called back other devices: %s; the record ends there", at, dec.Summary)
	}
	more, fewer := 0, 0
	for id, k := range is {
		if was[id] != k {
			more++
		}
	}
	for id, k := range was {
		if is[id] != k {
			fewer++
		}
	}
	switch {
	case more == 0:
		return fmt.Sprintf("would have held %s back on %s: %s; the record ends there because they were told to go on", devices(fewer), at, dec.Summary)
	case fewer == 0:
		return fmt.Sprintf("would have gone on with %s on %s: %s; the record ends there because they were told nothing then", devices(more), at, dec.Summary)
	}
	return fmt.Sprintf("would have told %s something else on %s: %s; the record ends there", devices(max(more, fewer)), at, dec.Summary)
}

func devices(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}

// conclude says what came of a replay that nothing ended.
func (re *replayer) conclude() {
	switch {
	case re.out.Verdict != "":
	case len(re.out.Steps) == 0:
		re.out.Verdict = "nothing was decided that could be decided otherwise"
	case re.diffs == 0:
		re.out.Verdict = "decides the same"
	case string(re.rollout.State) != re.out.Steps[len(re.out.Steps)-1].Recorded:
		re.out.Verdict = fmt.Sprintf("tells every device the same, and is %s at the end of the record where it was %s: %s", re.rollout.State, re.last.Decision.Rollout.State, re.rollout.Reason)
	default:
		re.out.Verdict = fmt.Sprintf("tells every device the same and ends the same; %d decisions on the way have another state", re.diffs)
	}
}

// Evidence returns everything that a decision rested on: it goes back from the
// decision to the last whole snapshot stored, and of each device takes what was
// stored last. ErrNotFound and ErrNoEvidence.
func (d *Dispatcher) Evidence(ctx context.Context, name string, id uint64) (rollout.Snapshot, error) {
	missing := fmt.Errorf("decision %d of rollout %s: %w", id, name, ErrNoEvidence)
	known := map[topic.ID]bool{} // also of those that are gone
	var out rollout.Snapshot
	for at := id; at > 0; at-- {
		// One at a time: a fleet's evidence is large.
		page, err := d.cfg.Store.Decisions(ctx, name, at+1, 1)
		if err != nil {
			return rollout.Snapshot{}, fmt.Errorf("read decision %d of rollout %s: %w", at, name, err)
		}
		if len(page) == 0 || page[0].ID != at {
			return rollout.Snapshot{}, missing
		}
		s := page[0]
		if at == id {
			out.Orders = s.Snapshot.Orders
		}
		for _, gone := range s.Gone {
			known[gone] = true
		}
		for _, dev := range s.Snapshot.Devices {
			if !known[dev.ID] {
				known[dev.ID] = true
				out.Devices = append(out.Devices, dev)
			}
		}
		if s.whole() {
			slices.SortFunc(out.Devices, byID)
			return out, nil
		}
	}
	return rollout.Snapshot{}, missing
}

// wholeEvery is how many decisions after a whole snapshot may hold the changes
// alone.
const wholeEvery = 64

// whole says whether the snapshot is not a change of the one before. Hubs of
// old stored people's requests without a snapshot.
func (s Stored) whole() bool {
	return !s.Delta && (s.Actor == "" || len(s.Snapshot.Devices) > 0)
}

// evidence is a snapshot put together out of stored ones, the oldest first.
type evidence struct {
	devices map[topic.ID]rollout.Device
	orders  rollout.Orders
}

func (e *evidence) take(s Stored) {
	switch {
	case s.whole():
		e.devices = make(map[topic.ID]rollout.Device, len(s.Snapshot.Devices))
	case !s.Delta:
		return // a person's request of old
	}
	e.orders = s.Snapshot.Orders
	for _, id := range s.Gone {
		delete(e.devices, id)
	}
	for _, d := range s.Snapshot.Devices {
		e.devices[d.ID] = d
	}
}

func (e *evidence) snapshot() rollout.Snapshot {
	ds := slices.Collect(maps.Values(e.devices))
	slices.SortFunc(ds, byID)
	return rollout.Snapshot{Devices: ds, Orders: e.orders}
}
