package update

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

func TestAPackedDeviceIsSmallAndFlat(t *testing.T) {
	if n := unsafe.Sizeof(Packed{}); n > 224 {
		t.Fatalf("Packed has %d bytes", n)
	}
}

// pair is one device twice: as a Machine and as a member of a Fleet. Every
// event goes to both.
type pair struct {
	t    *rapid.T
	rng  *rand.Rand
	m    *Machine
	cfg  Config
	disk *Journal

	fleet *Fleet
	table *Table
	p     Packed

	wall time.Time
	mono time.Duration
	open []Action
	gen  uint64
}

func newPair(t *rapid.T) *pair {
	k := &pair{t: t, rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2)), cfg: Config{TrialLimit: time.Hour, BackoffMin: time.Second, BackoffMax: time.Minute}, wall: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	k.table = &Table{}
	for i := range 5 {
		k.table.Releases = append(k.table.Releases, release(fmt.Sprintf("r%d", i+1)))
	}
	k.fleet = NewFleet(k.cfg, k.table)
	k.power()
	return k
}

func (k *pair) draw(n int) int { return k.rng.IntN(n + 1) }

func (k *pair) power() {
	m, err := New(k.cfg, k.disk)
	if err != nil {
		k.t.Fatal(err)
	}
	k.m, k.open, k.mono = m, nil, 0
	k.p.Cut()
	k.both(Booted{}, func(at Moment) Asks { return k.fleet.Boot(&k.p, at) })
}

// both steps the two and compares what they ask for and what they are.
func (k *pair) both(e Event, packed func(Moment) Asks) {
	at := Moment{Wall: k.wall, Mono: k.mono, Draw: k.rng.Float64()}
	k.m.Step(at, e)
	r, a := k.m.Ready(), packed(at)
	k.m.Advance()
	if (r.Save != nil) != a.Save || r.Report != a.Report || r.Wake != a.Wake || len(r.Do) != len(a.Do) {
		k.t.Fatalf("after %+v the machine asks for %+v, the packed one for %+v", e, r, a)
	}
	for i, d := range a.Do {
		o := r.Do[i]
		if o.ID != uint64(d.ID) || o.Kind != d.Kind || o.Cancel != uint64(d.Cancel) || o.Release.Manifest != k.manifest(ref(d.Release)) {
			k.t.Fatalf("after %+v action %d is %+v and %+v", e, i, o, d)
		}
		switch o.Kind {
		case ActCancel, ActClean, ActConfirm, ActDrop:
		default:
			k.open = append(k.open, o)
		}
	}
	if r.Save != nil {
		k.disk = r.Save
	}
	k.compare()
}

func (k *pair) manifest(r ref) artifact.Digest {
	if r == 0 {
		return ""
	}
	return k.table.Releases[r-1].Manifest
}

// compare holds journal and status of the two against each other. The journal
// numbers its releases as it needs them, the table for all.
func (k *pair) compare() {
	s := k.m.j.State
	for _, r := range []*ref{&s.Champion, &s.LastGood, &s.Spare, &s.Trial} {
		if *r != 0 {
			manifest := k.m.j.release(*r).Manifest
			*r = ref(1 + slices.IndexFunc(k.table.Releases, func(r Release) bool { return r.Manifest == manifest }))
		}
	}
	if s != k.p.State {
		k.t.Fatalf("the journal has %+v, the packed one %+v", s, k.p.State)
	}
	st, b := k.m.Status(), k.table.Brief(&k.p)
	manifest := func(r *Release) artifact.Digest {
		if r == nil {
			return ""
		}
		return r.Manifest
	}
	if st.Generation != b.Generation || manifest(st.Champion) != manifest(b.Champion) || manifest(st.LastGood) != manifest(b.LastGood) ||
		(st.Trial == nil) != (b.Trial == nil) || slices.ContainsFunc(st.Conditions, func(c twin.Condition) bool { return c.Type == "NoModel" }) != b.NoModel {
		k.t.Fatalf("the status is %+v, the packed one's %+v", st, b)
	}
	for i := range k.table.Releases {
		if slices.Contains(st.Quarantined, k.table.Releases[i].Manifest) != k.p.Quarantined(i+1) {
			k.t.Fatalf("quarantined are %v, and %b", st.Quarantined, k.p.trial.banned)
		}
	}
	if st.Trial == nil {
		return
	}
	t := *st.Trial
	if t.Rollout != b.Offer.Rollout || t.Try != b.Offer.Try || t.Mode != b.Offer.Mode || t.Manifest != b.Trial.Manifest || t.Phase != b.Phase ||
		t.Code != b.Code || t.Lease != b.Lease || t.Attempts != b.Attempts || t.Windows != b.Windows || t.NonFinite != b.NonFinite || t.LatencyP99Ms != b.LatencyP99Ms {
		k.t.Fatalf("the trial is %+v, the packed one's %+v", t, b)
	}
}

func (k *pair) offer() {
	if k.draw(1) == 1 {
		k.gen++
	}
	doc := twin.Desired{Schema: 1, Generation: k.gen, IssuedAt: k.wall, ExpiresAt: k.wall.Add(24 * time.Hour)}
	flat := Document{Generation: k.gen, IssuedMs: k.wall.UnixMilli(), ExpiresMs: doc.ExpiresAt.UnixMilli()}
	if n := k.draw(5); n > 0 {
		r := k.table.Releases[n-1]
		doc.Model = &twin.Assignment{
			Rollout: fmt.Sprint("ro", k.draw(9)/9), Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial,
			Try: k.draw(5) / 5, ShadowS: float64(k.draw(1) * 5), SoakS: 5, MinWindows: uint64(k.draw(2)),
		}
		if k.draw(5) == 5 {
			doc.Model.Mode = twin.ModeRollback
		}
		if k.draw(1) == 1 {
			doc.Model.Deadline = k.wall.Add(30 * time.Minute)
		}
		k.table.Offers = append(k.table.Offers, *doc.Model)
		flat.Want = uint32(len(k.table.Offers))
		if k.draw(3) > 0 {
			doc.Lease = &twin.Lease{ID: fmt.Sprint("l", k.gen), Manifest: r.Manifest, ExpiresAt: k.wall.Add(10 * time.Minute)}
			k.table.Leases = append(k.table.Leases, Lease{doc.Lease.ID, r.Manifest, doc.Lease.ExpiresAt.UnixMilli()})
			flat.Lease = uint32(len(k.table.Leases))
		}
	}
	k.both(Offered{doc}, func(at Moment) Asks { return k.fleet.Offer(&k.p, at, flat) })
}

func (k *pair) answer(i int) {
	a := k.open[i]
	k.open = slices.Delete(k.open, i, i+1)
	if k.draw(19) == 0 {
		e := Failed{Action: a.ID, Code: twin.CodeLoad, Reason: "drawn", Retryable: k.draw(1) == 1}
		if a.Kind == ActVerify && k.draw(1) == 1 {
			e.Code = twin.CodeContent
		}
		k.both(e, func(at Moment) Asks { return k.fleet.Fail(&k.p, at, e) })
		return
	}
	e := Done{Action: a.ID}
	found := 0
	switch a.Kind {
	case ActVerify, ActLoad, ActResume, ActRollback:
		found = 1 + slices.IndexFunc(k.table.Releases, func(r Release) bool { return r.Manifest == a.Release.Manifest })
		if found > 0 {
			e.Release = k.table.Releases[found-1]
		}
	}
	k.both(e, func(at Moment) Asks { return k.fleet.Done(&k.p, at, uint32(a.ID), found) })
}

func (k *pair) observe() {
	o := Observed{
		Champion: k.m.j.release(k.m.j.State.Champion).Manifest, Due: 50, Windows: uint64(50 - 30*(k.draw(11)/11)), Flagged: uint64(k.draw(10)),
		NonFinite: uint64(k.draw(15) / 15), LatencyP99Ms: float64(k.draw(51)),
	}
	if k.draw(1) == 1 {
		o.Shadow = &twin.Shadow{Items: uint64(k.draw(99)), OnlyChallenger: uint64(k.draw(3)), NonFinite: uint64(k.draw(15) / 15)}
	}
	k.both(o, func(at Moment) Asks { return k.fleet.Observe(&k.p, at, &o) })
}

func TestMachineAndFleetAreTheSameDevice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newPair(t)
		for range 50 + k.draw(250) {
			switch n := k.draw(39); {
			case n < 5:
				k.offer()
			case n < 8:
				k.mono += time.Duration(k.draw(300)) * time.Second
				k.wall = k.wall.Add(time.Duration(k.draw(1200)-600) * time.Second)
				k.both(Tick{}, func(at Moment) Asks { return k.fleet.Tick(&k.p, at) })
			case n < 13:
				k.mono += 6 * time.Second
				k.wall = k.wall.Add(6 * time.Second)
				k.observe()
			case n < 14:
				k.power()
			default:
				if n := len(k.open); n > 0 {
					k.answer(k.draw(n - 1))
				}
			}
		}
	})
}

func TestEventsBeforeTheStartAreIgnored(t *testing.T) {
	f := NewFleet(Config{}, &Table{Releases: []Release{release("r1")}})
	p := Packed{State: State{Champion: 1, LastGood: 1}}
	at := Moment{Wall: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	before := p
	for name, a := range map[string]Asks{
		"offer": f.Offer(&p, at, Document{Generation: 1}), "done": f.Done(&p, at, 1, 1), "fail": f.Fail(&p, at, Failed{Action: 1}),
		"observe": f.Observe(&p, at, &Observed{}), "tick": f.Tick(&p, at),
	} {
		if p != before || a.Save || a.Report || len(a.Do) != 0 {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// A life of a device: an update that is confirmed, one whose soak shows NaN,
// and the way back.
func TestStepsOfAFleetAllocateNothing(t *testing.T) {
	table := &Table{Releases: []Release{release("r1"), release("r2"), release("r3")}}
	start := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, r := range table.Releases[1:] {
		table.Offers = append(table.Offers, twin.Assignment{Rollout: "ro", Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial, ShadowS: 5, SoakS: 5, Deadline: start.Add(time.Hour)})
		table.Leases = append(table.Leases, Lease{ID: "l" + r.Name + fmt.Sprint(r.Counter), Manifest: r.Manifest, ExpiresMs: start.Add(time.Hour).UnixMilli()})
	}
	f := NewFleet(Config{}, table)
	seen := Observed{Due: 30, Windows: 30, LatencyP99Ms: 1, Shadow: &twin.Shadow{Items: 30}}
	steps := 0
	var p Packed
	life := func() {
		p = Packed{State: State{Champion: 1, LastGood: 1}}
		at := Moment{Wall: start, Draw: 0.5}
		work := func(a Asks) {
			for {
				steps++
				var next Do
				for _, d := range a.Do {
					if d.Kind != ActClean && d.Kind != ActConfirm && d.Kind != ActDrop && d.Kind != ActCancel {
						next = d
					}
				}
				if next.ID == 0 {
					return
				}
				a = f.Done(&p, at, next.ID, next.Release)
			}
		}
		work(f.Boot(&p, at))
		for i := range table.Offers {
			work(f.Offer(&p, at, Document{Generation: uint64(i + 1), IssuedMs: start.UnixMilli(), Want: uint32(i + 1), Lease: uint32(i + 1)}))
			for range 3 {
				at.Mono, at.Wall = at.Mono+6*time.Second, at.Wall.Add(6*time.Second)
				seen.Champion, seen.NonFinite, seen.Shadow.NonFinite = table.Releases[p.State.Champion-1].Manifest, 0, 0
				if p.State.Phase == soaking {
					seen.NonFinite = uint64(i)
				}
				work(f.Observe(&p, at, &seen))
				work(f.Tick(&p, at))
			}
		}
	}
	if n := testing.AllocsPerRun(20, life); n != 0 {
		t.Errorf("%g allocations in a life", n)
	}
	if p.Phase() != twin.PhaseRolledBack || !p.Quarantined(3) || steps == 0 {
		t.Errorf("the life ended %+v", p)
	}
}
