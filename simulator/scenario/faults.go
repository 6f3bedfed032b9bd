package scenario

import (
	"time"

	"github.com/swellfleet/swell/simulator/device"
)

// Kinds are the faults that strike devices, by chance or at a time, and what
// each does.
var Kinds = map[string]string{
	"power":      "loses power",
	"torn":       "loses power in the middle of one of its next writes",
	"offline":    "loses its connection",
	"session":    "loses its connection and its session: older documents come first when it is back",
	"flapping":   "shares its client id with another one: each takes the connection from the other",
	"full":       "has no room on its disk",
	"lying":      "its disk keeps nothing of what it is told to sync, and then the power fails",
	"rot":        "a bit of a model on its disk flips",
	"slow":       "does everything twenty times as slowly",
	"clock":      "its clock jumps by up to two hours, forwards or backwards, and back again",
	"dead":       "loses power for good",
	"interlock":  "an interlock forbids to touch it",
	"unreadable": "an interlock cannot be read",
	"floor":      "installs nothing of the family any more: its floor is above every release",
}

// noFloor is above the counter of every release of a scenario.
const noFloor = 1000

// strike lets one fault happen to one device for so long.
func (p *play) strike(kind string, d *device.Device, t time.Duration) {
	after := func(f func()) { p.w.In(t, f) }
	switch kind {
	case "power":
		d.CutFor(t)
	case "torn":
		d.Tear(t)
	case "offline", "partition":
		p.cut(d)
		after(func() { p.heal(d) })
	case "session":
		p.h.byID[d.ID()].stale = true
		p.cut(d)
		after(func() { p.heal(d) })
	case "flapping":
		until := p.w.Elapsed() + t
		r := p.w.Rand("flapping", d.Name())
		var flap func()
		flap = func() {
			if p.w.Elapsed() >= until {
				return
			}
			p.cut(d)
			p.w.In(r.Between(time.Second, 10*time.Second), func() {
				p.heal(d)
				p.w.In(r.Between(time.Second, 20*time.Second), flap)
			})
		}
		flap()
	case "full":
		d.Fill()
		after(d.Empty)
	case "lying":
		d.Lie(t)
		p.w.In(t-t/10, func() { d.CutFor(10 * time.Second) })
	case "rot":
		d.Rot()
	case "slow":
		d.Slow()
		after(d.Quick)
	case "clock":
		by := p.w.Rand("clock", d.Name(), p.w.Elapsed().String()).Between(-2*time.Hour, 2*time.Hour)
		d.Jump(by)
		after(func() { d.Jump(-by) })
	case "dead":
		p.trace("%s dies for good", d.Name())
		d.Die()
	case "interlock", "unreadable":
		d.Forbid(kind == "unreadable")
		after(func() { d.Permit(kind == "unreadable") })
	case "floor":
		p.h.raise(d.ID(), noFloor)
	}
}

func (p *play) cut(d *device.Device) {
	p.c.Of(d).Party.Cut()
	p.c.Changed(d)
}

func (p *play) heal(d *device.Device) {
	s := p.c.Of(d)
	s.Party.Heal()
	p.c.Changed(d)
	if s.Party.Reaches() {
		p.h.connected(d.ID())
	}
}
