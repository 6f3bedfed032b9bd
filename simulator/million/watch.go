package million

import (
	"fmt"
	"slices"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// double is a Machine that lives the life of one packed device beside it: same
// events, and it has to come to the same.
type double struct {
	s       *shard
	i       int
	machine *update.Machine
	journal *update.Journal
	steps   int
	err     error // the first difference
}

func newDouble(s *shard, i int) *double {
	return &double{s: s, i: i, journal: &update.Journal{
		Schema: 1, Releases: []update.Release{s.table.Releases[0]}, State: update.State{Champion: 1, LastGood: 1},
	}}
}

func (s *shard) watched(i int32) bool { return s.twin != nil && s.twin.i == int(i) }

func (d *double) boot(at update.Moment, a update.Asks) {
	m, err := update.New(update.Config{}, d.journal)
	if err != nil {
		d.err = err
		return
	}
	d.machine = m
	d.step(at, update.Booted{}, a)
}

func (d *double) done(at update.Moment, id uint32, found int, a update.Asks) {
	e := update.Done{Action: uint64(id)}
	if found != 0 {
		e.Release = d.s.table.Releases[found-1]
	}
	d.step(at, e, a)
}

// step gives the Machine what the packed device was given, and compares.
func (d *double) step(at update.Moment, e update.Event, a update.Asks) {
	if d.err != nil || d.machine == nil {
		return
	}
	d.steps++
	d.machine.Step(at, e)
	r := d.machine.Ready()
	d.machine.Advance()
	if r.Save != nil {
		d.journal = r.Save
	}
	p := &d.s.devices[d.i].Packed
	b := d.s.table.Brief(p)
	st := d.machine.Status()
	manifest := func(r *update.Release) artifact.Digest {
		if r == nil {
			return ""
		}
		return r.Manifest
	}
	t := twin.Trial{}
	if st.Trial != nil {
		t = *st.Trial
	}
	same := len(r.Do) == len(a.Do) && r.Report == a.Report && (r.Save != nil) == a.Save && r.Wake == a.Wake &&
		st.Generation == b.Generation && manifest(st.Champion) == manifest(b.Champion) && manifest(st.LastGood) == manifest(b.LastGood) &&
		t.Manifest == manifest(b.Trial) && t.Phase == b.Phase && t.Code == b.Code && t.Lease == b.Lease && t.Attempts == b.Attempts && t.Windows == b.Windows &&
		slices.Contains(st.Quarantined, d.s.table.Releases[challenger-1].Manifest) == p.Quarantined(challenger)
	for i := range min(len(r.Do), len(a.Do)) {
		same = same && r.Do[i].Kind == a.Do[i].Kind && r.Do[i].ID == uint64(a.Do[i].ID)
	}
	if !same {
		d.err = fmt.Errorf("after %T at %s the machine is %+v and asks %+v, the packed device %+v and %+v", e, at.Mono, st, r, b, a)
	}
	if d.s.Life != nil {
		line := fmt.Sprintf("%10s  %-8s %-12s", time.Duration(d.s.now)*time.Millisecond, fmt.Sprintf("%T", e)[len("update."):], t.Phase)
		for _, o := range r.Do {
			line += " " + string(o.Kind)
		}
		if t.Reason != "" {
			line += " (" + t.Reason + ")"
		}
		d.s.Life(line)
	}
}

// parted returns how the watched device differs from its Machine; nil: not.
func (s *sim) parted() error {
	for _, sh := range s.shards {
		if sh.twin != nil && sh.twin.err != nil {
			return sh.twin.err
		}
	}
	return nil
}

// desired is a document in full.
func (s *sim) desired(d update.Document) twin.Desired {
	out := twin.Desired{Schema: 1, Generation: d.Generation, IssuedAt: time.UnixMilli(d.IssuedMs).UTC(), ExpiresAt: time.UnixMilli(d.ExpiresMs).UTC()}
	if d.Want != 0 {
		a := s.table.Offers[d.Want-1]
		out.Model = &a
	}
	if d.Lease != 0 {
		l := s.table.Leases[d.Lease-1]
		out.Lease = &twin.Lease{ID: l.ID, Manifest: l.Manifest, ExpiresAt: time.UnixMilli(l.ExpiresMs).UTC()}
	}
	return out
}
