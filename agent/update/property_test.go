package update

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

func TestTheStateFitsIn64Bytes(t *testing.T) {
	if n := unsafe.Sizeof(State{}); n > 64 {
		t.Fatalf("State has %d bytes", n)
	}
}

// device performs actions at random: late, never, failing, and with power cuts
// between any save and any action. It checks what a machine must never do.
type device struct {
	t    *rapid.T
	rng  *rand.Rand // seeded by rapid, whose own integers lean towards the small
	m    *Machine
	cfg  Config
	disk *Journal

	wall time.Time
	mono time.Duration
	gen  uint64
	rel  int // offered last

	open []Action
	// What this run of the agent has done with each release since it was last
	// fetched or begun: the way to acting leads through all of it.
	passed    map[artifact.Digest]map[ActionKind]bool
	acting    artifact.Digest
	confirmed map[artifact.Digest]bool
	proven    map[artifact.Digest]bool // has passed every check at least once
}

func newDevice(t *rapid.T) *device {
	d := &device{
		t: t, rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), cfg: Config{TrialLimit: time.Hour, BackoffMin: time.Second, BackoffMax: time.Minute},
		wall: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), confirmed: map[artifact.Digest]bool{}, proven: map[artifact.Digest]bool{},
	}
	d.power()
	return d
}

// stop asks the agent to end and starts it again, which wears no trial out.
func (d *device) stop() {
	d.step(Stopping{})
	if d.disk != nil && d.disk.State.Stopped {
		next, err := New(d.cfg, d.disk)
		if err != nil {
			d.t.Fatal(err)
		}
		next.Step(Moment{Wall: d.wall}, Booted{})
		if was, is := d.disk.State, next.j.State; is.Attempts > was.Attempts || is.Boots > was.Boots || is.Stopped {
			d.t.Fatalf("a start after a stop: %+v became %+v", was, is)
		}
	}
	d.power()
}

// draw returns a number from 0 to n.
func (d *device) draw(n int) int { return d.rng.IntN(n + 1) }

func (d *device) power() {
	m, err := New(d.cfg, d.disk)
	if err != nil {
		d.t.Fatal(err)
	}
	d.m, d.open, d.mono, d.acting = m, nil, 0, ""
	d.passed = map[artifact.Digest]map[ActionKind]bool{}
	d.step(Booted{})
}

// step feeds one event and performs what follows, unless the power goes.
func (d *device) step(e Event) {
	d.m.Step(Moment{Wall: d.wall, Mono: d.mono, Draw: 0.5}, e)
	r := d.m.Ready()
	cut := -1 // the action before which the power goes; len(Do)+1: before the save
	if d.draw(79) == 79 {
		cut = d.draw(len(r.Do) + 1)
	}
	if cut == len(r.Do)+1 {
		d.power()
		return
	}
	if r.Save != nil {
		d.disk = r.Save
		d.check(r.Do)
	}
	for i, a := range r.Do {
		if i == cut {
			d.power()
			return
		}
		d.begin(a)
	}
	d.m.Advance()
}

// check looks at what is on the disk now, before do is done.
func (d *device) check(do []Action) {
	s := d.disk.State
	for _, a := range do {
		if a.Kind == ActConfirm { // the next trial may begin in the same step
			d.confirmed[a.Release.Manifest] = true
		}
	}
	if err := d.disk.Validate(); err != nil {
		d.t.Fatal(err)
	}
	if s.Phase == confirmed {
		d.confirmed[d.disk.release(s.Champion).Manifest] = true
	}
	if len(d.confirmed) > 0 {
		if s.Champion == 0 || s.LastGood == 0 {
			d.t.Fatalf("a device that had a good release has champion %d, last good %d in phase %s", s.Champion, s.LastGood, s.Phase.twin())
		}
		if g := d.disk.release(s.LastGood).Manifest; !d.confirmed[g] {
			d.t.Fatalf("the release to go back to was never confirmed")
		}
	}
	if s.Champion != 0 && !d.proven[d.disk.release(s.Champion).Manifest] {
		d.t.Fatalf("the champion in the journal never passed its checks")
	}
	if s.Attempts > uint8(d.cfg.withDefaults().MaxAttempts) && s.Phase != failed {
		d.t.Fatalf("attempt %d", s.Attempts)
	}
}

func (d *device) begin(a Action) {
	man := a.Release.Manifest
	p := d.passed[man]
	if p == nil {
		p = map[ActionKind]bool{}
		d.passed[man] = p
	}
	needs := map[ActionKind][]ActionKind{
		ActGuard: {ActVerify}, ActLoad: {ActVerify, ActGuard}, ActTest: {ActLoad}, ActShadow: {ActTest},
		ActSwap: {ActVerify, ActGuard, ActLoad, ActTest},
	}
	for _, k := range needs[a.Kind] {
		if !p[k] {
			d.t.Fatalf("%s of %s before %s", a.Kind, man.Short(), k)
		}
	}
	switch a.Kind {
	case ActFetch, ActVerify:
		clear(p)
	case ActSwap:
		if d.m.j.State.Phase != activating || d.disk.State.Phase != activating {
			d.t.Fatalf("a swap that was not saved first")
		}
	case ActResume, ActRollback:
		if man != "" && !d.proven[man] {
			d.t.Fatalf("%s to a release that never passed its checks", a.Kind)
		}
	case ActClean:
		keep := map[artifact.Digest]bool{}
		for _, k := range a.Keep {
			keep[k] = true
		}
		for _, r := range []ref{d.m.j.State.Champion, d.m.j.State.LastGood} {
			if r != 0 && !keep[d.m.j.release(r).Manifest] {
				d.t.Fatalf("clean removes a release it may need")
			}
		}
		return
	case ActCancel:
		for i, o := range d.open {
			if o.ID == a.Cancel {
				d.open = append(d.open[:i:i], d.open[i+1:]...)
				break
			}
		}
		return
	case ActConfirm, ActDrop:
		return
	}
	d.open = append(d.open, a)
}

// answer ends the i-th open action.
func (d *device) answer(i int, ok bool) {
	a := d.open[i]
	d.open = append(d.open[:i:i], d.open[i+1:]...)
	if !ok {
		d.step(Failed{Action: a.ID, Code: twin.CodeLoad, Reason: "drawn", Retryable: d.draw(1) == 1})
		return
	}
	d.passed[a.Release.Manifest][a.Kind] = true
	e := Done{Action: a.ID}
	switch a.Kind {
	case ActVerify, ActLoad, ActResume, ActRollback:
		if a.Release.Manifest != "" {
			e.Release = release(nameOf(a.Release))
		}
	case ActTest:
		d.proven[a.Release.Manifest] = true
	}
	if a.Kind == ActSwap || a.Kind == ActResume || a.Kind == ActRollback {
		d.acting = a.Release.Manifest
	}
	d.step(e)
}

func (d *device) offer() {
	if d.draw(1) == 1 {
		d.gen++
	}
	doc := twin.Desired{Schema: 1, Generation: d.gen, IssuedAt: d.wall, ExpiresAt: d.wall.Add(24 * time.Hour)}
	if d.rel == 0 || d.draw(3) == 3 {
		d.rel = d.draw(5)
	}
	if n := d.rel; n > 0 {
		r := release(fmt.Sprintf("r%d", n))
		doc.Model = &twin.Assignment{
			Rollout: "ro", Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial,
			Try: d.draw(5) / 5, ShadowS: float64(d.draw(1) * 5), SoakS: 5,
		}
		if d.draw(5) == 5 {
			doc.Model.Mode = twin.ModeRollback
		}
		if d.draw(1) == 1 {
			doc.Model.Deadline = d.wall.Add(30 * time.Minute)
		}
		if d.draw(3) > 0 {
			doc.Lease = &twin.Lease{ID: "l", Manifest: r.Manifest, ExpiresAt: d.wall.Add(10 * time.Minute)}
		}
	}
	d.step(Offered{doc})
}

func TestWhateverHappensNothingUnverifiedActsAndAGoodReleaseIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice(t)
		for range 50 + d.draw(250) {
			switch n := d.draw(39); {
			case n < 5:
				d.offer()
			case n < 8:
				d.mono += time.Duration(d.draw(300)) * time.Second
				d.wall = d.wall.Add(time.Duration(d.draw(1200)-600) * time.Second)
				d.step(Tick{})
			case n < 14:
				d.mono += 6 * time.Second
				d.wall = d.wall.Add(6 * time.Second)
				d.step(Observed{Champion: d.acting, Due: 50, Windows: 50, NonFinite: uint64(d.draw(9) / 9)})
			case n < 15:
				d.power()
			case n < 16:
				d.stop()
			default:
				if n := len(d.open); n > 0 {
					d.answer(d.draw(n-1), d.draw(19) != 19)
				}
			}
		}
	})
}

func TestEveryTrialEndsWhenNothingAnswersAnyMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice(t)
		for range 1 + d.draw(59) {
			if n := len(d.open); n > 0 && d.draw(4) > 0 {
				d.answer(0, true)
			} else {
				d.offer()
			}
		}
		// From here on only time passes, as Wake asks, and the wall clock stands still.
		for i := 0; !d.m.j.State.Phase.ended(); i++ {
			r := d.m.Ready()
			if r.Wake <= d.mono {
				t.Fatalf("phase %s waits for nothing", d.m.j.State.Phase.twin())
			}
			if i > 5000 {
				t.Fatalf("still %s after %s", d.m.j.State.Phase.twin(), d.mono)
			}
			d.m.Advance()
			d.mono = r.Wake
			d.m.Step(Moment{Wall: d.wall, Mono: d.mono, Draw: 0.5}, Tick{})
		}
	})
}

func TestStepsThatAreDoneAgainAfterACutLeadToTheSameEnd(t *testing.T) {
	// A cut before each action of a healthy update, one at a time.
	for cut := 0; ; cut++ {
		var hit bool
		start := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		k := &talk{t: t, start: start, wall: start}
		k.power()
		k.step(Booted{})
		for _, rel := range []string{"r1", "r2"} {
			n := 0
			k.command([]string{"offer", "gen=" + rel[1:], rel, "soak=10s", "lease=1h", "deadline=1h"})
			for i := 0; k.disk.State.Phase != confirmed || k.disk.release(k.disk.State.Champion).Counter != uint64(rel[1]-'0'); i++ {
				if i > 100 {
					t.Fatalf("cut before answer %d: no end, phase %s", cut, k.disk.State.Phase.twin())
				}
				if rel == "r2" && n == cut && !hit {
					hit = true
					k.command([]string{"cut"})
					k.command([]string{"offer", "gen=" + rel[1:], rel, "soak=10s", "lease=1h", "deadline=1h"})
					continue
				}
				n++
				if len(k.open) > 0 {
					k.command([]string{"ok"})
					continue
				}
				k.command([]string{"wait", "10s"})
				k.command([]string{"seen", "windows=20"})
			}
		}
		if k.disk.release(k.disk.State.Champion).Counter != 2 || k.disk.release(k.disk.State.LastGood).Counter != 2 {
			t.Fatalf("cut before answer %d: ended elsewhere", cut)
		}
		if !hit {
			t.Logf("%d cuts", cut)
			return
		}
	}
}
