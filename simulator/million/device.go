package million

import (
	"math"
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/twin"
)

// never is a moment that does not come.
const never = math.MaxUint32

// What happens to a device, in the order in which it happens when two fall on
// the same millisecond.
const (
	dueFault  = iota // its connection goes or comes back
	dueWill          // the broker gives its connection up
	dueDoc           // the hub's newest document arrives
	dueAnswer        // the trial's action ends
	dueReply         // the champion's action ends
	dueWake          // the machine wants a tick; its power comes back
	dueBeat          // the scorer's counters are shown to it
	dues
)

// How an action ends.
const (
	endNone = iota
	endDone
	endFetch
	endFound // verify: it names what it found
	endLoad
	endShadow
	endActs // swap, resume, rollback: the release acts
	endCut  // the power goes before it ends
)

// device is the product's flat update state and the little world round it.
type device struct {
	update.Packed
	due [dues]uint32 // milliseconds since the start

	acting, shadows     uint8 // releases, 1 + index; 0: none
	nature              uint8 // how the new release behaves here: an index into sim.natures
	boots               uint8 // starts so far
	on, online          bool
	answer, reply       uint8 // how they end
	answerRel, replyRel uint8
	harmed              bool // an unsound release acted, or took its agent down
	tried               bool // the new release acted
	flying              bool // it swaps or soaks

	answerID, replyID    uint32
	bootAt               uint32
	actFrom, shadowFrom  uint32
	told                 uint32 // when it last reported by itself
	draws                uint32
	generation, document uint32 // the newest the hub has sent, and its index; 0: none
	// The shadow: counting windows closed, and the items in them flagged by the
	// challenger alone and by the champion alone.
	closed, alone, against uint32
	flagged, counted       uint32 // in the soak, and when it was last looked at
	scored                 uint32 // windows scored, ever
}

// at returns the next thing that happens and when.
func (d *device) at() (what int, t uint32) {
	t = d.due[0]
	for i := 1; i < dues; i++ {
		if d.due[i] < t {
			what, t = i, d.due[i]
		}
	}
	return what, t
}

// items is how many items the shadow has counted.
func (d *device) items() uint64 { return uint64(d.closed) * countingMs / 1000 }

// shard is a part of the fleet that runs by itself for a whole window.
type shard struct {
	*sim
	fleet   *update.Fleet
	first   int // index of devices[0] in the fleet
	devices []device
	wheel   wheel
	dirty   []uint64 // a bit for each device that reports at the end of the window
	lost    []uint64 // a bit for each device whose connection the broker gives up

	now    uint32
	warm   uint32          // means nothing: see run
	seen   update.Observed // scratch
	shadow twin.Shadow
	events [kinds]uint64
	powers int // power cuts
	trace  uint64
	twin   *double // nil: no device of this shard is watched
}

// run lets the devices that have something to do in window w do it. It touches
// some of them before it runs them: their memory comes for all at once then,
// which is most of what a device costs.
func (s *shard) run(w int) {
	until := uint32(w+1) * s.windowMs
	var some [16]int32
	for i := s.wheel.take(w); i >= 0; {
		n := 0
		for ; i >= 0 && n < len(some); n++ {
			d := &s.devices[i]
			s.warm += uint32(d.State.Phase) + d.due[0] + d.scored // one of each pair of lines
			some[n] = i
			i = s.wheel.links[i].next
		}
		for _, k := range some[:n] {
			s.live(k, &s.devices[k], until)
		}
	}
}

// live runs one device up to until, which depends on no other device, and
// leaves it in the wheel.
func (s *shard) live(i int32, d *device, until uint32) {
	for {
		what, t := d.at()
		if t >= until {
			s.wheel.put(i, int(t/s.windowMs))
			return
		}
		s.now = t
		d.due[what] = never
		switch what {
		case dueFault:
			s.fault(i, d)
		case dueWill:
			set(s.lost, i)
		case dueDoc:
			s.deliver(i, d)
		case dueAnswer:
			s.ended(i, d, d.answer, d.answerID, d.answerRel)
		case dueReply:
			s.ended(i, d, d.reply, d.replyID, d.replyRel)
		case dueWake:
			if !d.on {
				s.boot(i, d)
				break
			}
			at := s.moment(i, d)
			a := s.fleet.Tick(&d.Packed, at)
			if s.watched(i) {
				s.twin.step(at, update.Tick{}, a)
			}
			s.done(i, d, kindTick, a)
		case dueBeat:
			s.beat(i, d)
		}
	}
}

// start puts a device into the world: on, confirmed on release 1, and
// connected or not as drawn.
func (s *shard) start(i int32) {
	d := &s.devices[i]
	d.State = update.State{Champion: 1, LastGood: 1}
	for k := range d.due {
		d.due[k] = never
	}
	d.online = true
	id := s.id(i)
	if share := s.Offline; share > 0 {
		d.online = unit(draw(s.Seed, id, streamAway, 0)) >= share
		d.due[dueFault] = s.spell(i, d)
		if !d.online {
			set(s.lost, i)
		}
	}
	if unit(draw(s.Seed, id, streamBad, 0)) < s.Bad {
		d.nature = 1 + uint8(draw(s.Seed, id, streamBad, 1)%uint64(len(s.natures)-1))
	}
	d.due[dueWake] = uint32(unit(s.draw(i, d)) * 20_000) // power on
	s.wheel.put(i, int(d.due[dueWake]/s.windowMs))
}

func (s *shard) id(i int32) uint64 { return uint64(s.first) + uint64(i) }

// draw returns the device's next number.
func (s *shard) draw(i int32, d *device) uint64 {
	d.draws++
	return draw(s.Seed, s.id(i), streamLife, d.draws)
}

// between returns a drawn length in milliseconds.
func (s *shard) between(i int32, d *device, a, b float64) uint32 {
	return uint32(a + unit(s.draw(i, d))*(b-a))
}

func (s *shard) moment(i int32, d *device) update.Moment {
	return update.Moment{
		Wall: time.UnixMilli(s.startMs + int64(s.now)),
		Mono: time.Duration(s.now-d.bootAt) * time.Millisecond,
		Draw: unit(s.draw(i, d)),
	}
}

// spell returns when the connection goes or comes back next. Spells of either
// kind have exponential lengths.
func (s *shard) spell(i int32, d *device) uint32 {
	mean := float64(s.Spell.Milliseconds())
	if d.online {
		mean *= (1 - s.Offline) / s.Offline
	}
	return s.now + uint32(min(-math.Log1p(-unit(s.draw(i, d))), 20)*mean)
}

func (s *shard) fault(i int32, d *device) {
	if s.healed { // faults have stopped
		if !d.online {
			s.connect(i, d)
		}
		return
	}
	if d.online {
		d.online = false
		d.due[dueWill] = s.now + willMs
	} else {
		s.connect(i, d)
	}
	d.due[dueFault] = s.spell(i, d)
}

// connect subscribes again: the newest document comes, and a report goes.
func (s *shard) connect(i int32, d *device) {
	d.online = true
	if d.on {
		s.subscribe(i, d)
	}
}

func (s *shard) subscribe(i int32, d *device) {
	d.due[dueWill] = never
	unset(s.lost, i)
	set(s.dirty, i)
	if d.generation > 0 {
		d.due[dueDoc] = s.now + s.between(i, d, 50, 500)
	}
}

func (s *shard) deliver(i int32, d *device) {
	if !d.on || !d.online {
		return // it asks for it when it is back
	}
	doc := s.documents[d.document-1]
	doc.Generation = uint64(d.generation)
	at := s.moment(i, d)
	a := s.fleet.Offer(&d.Packed, at, doc)
	if s.watched(i) {
		s.twin.step(at, update.Offered{Doc: s.desired(doc)}, a)
	}
	s.done(i, d, kindOffer, a)
}

func (s *shard) boot(i int32, d *device) {
	d.on, d.bootAt, d.told = true, s.now, s.now
	d.boots++
	at := s.moment(i, d)
	a := s.fleet.Boot(&d.Packed, at)
	if s.watched(i) {
		s.twin.boot(at, a)
	}
	s.done(i, d, kindBoot, a)
	if d.online {
		s.subscribe(i, d)
	}
	d.due[dueBeat] = s.now + s.between(i, d, 0, float64(s.Heartbeat.Milliseconds()))
}

// cut takes the device's power, or its agent down, until it starts again.
func (s *shard) cut(i int32, d *device, off uint32) {
	d.Cut()
	d.on, d.acting, d.shadows = false, 0, 0
	d.closed, d.alone, d.against = 0, 0, 0
	for _, k := range [...]int{dueDoc, dueAnswer, dueReply, dueBeat} {
		d.due[k] = never
	}
	d.due[dueWake] = s.now + off
	if d.online && off > willMs {
		d.due[dueWill] = s.now + willMs
	}
	unset(s.dirty, i)
}

// done follows a step: it counts it, starts what it asks for and remembers
// when to tick.
func (s *shard) done(i int32, d *device, kind int, a update.Asks) {
	s.events[kind]++
	st := &d.State
	s.trace += mix(mix(s.id(i)<<32|uint64(s.now)) ^ uint64(kind)<<56 ^ st.Generation<<40 ^ uint64(st.Phase)<<32 ^
		uint64(st.Champion)<<24 ^ uint64(st.LastGood)<<16 ^ uint64(st.Attempts)<<8 ^ uint64(st.Boots))
	for _, o := range a.Do {
		s.do(i, d, o)
	}
	p := d.Phase()
	if flying := p == twin.PhaseActivating || p == twin.PhaseSoaking; flying != d.flying {
		d.flying = flying
		s.fly(int(s.id(i)), flying)
	}
	d.due[dueWake] = never
	if a.Wake > 0 {
		d.due[dueWake] = d.bootAt + uint32((a.Wake+time.Millisecond-1)/time.Millisecond)
	}
	if a.Report {
		set(s.dirty, i)
	}
	if d.Counting() || p == twin.PhaseSoaking {
		d.due[dueBeat] = min(d.due[dueBeat], s.now+s.observeMs)
	}
}

// fly counts a device that begins to swap, or has soaked, in its line. It holds
// in any order of shards: the hub lets the next one go only in a window after
// that in which it heard of the one before.
func (s *sim) fly(i int, begins bool) {
	line := &s.flights[i/s.Line]
	if !begins {
		line.Add(-1)
		return
	}
	n := line.Add(1)
	size := min(s.Line, s.Devices-i/s.Line*s.Line)
	if int(n) > int(lineShare*float64(size)+1e-9) {
		s.over.Add(1)
	}
}

// do starts one action, whose end it draws.
func (s *shard) do(i int32, d *device, o update.Do) {
	rel := uint8(o.Release)
	answer := func(end uint8, a, b float64) {
		d.answer, d.answerID, d.answerRel = end, o.ID, rel
		t := s.between(i, d, a, b)
		if s.Power > 0 && unit(s.draw(i, d)) < s.Power && !s.healed {
			d.answer, t = endCut, t/2
		}
		d.due[dueAnswer] = s.now + t
	}
	reply := func(a, b float64) {
		d.reply, d.replyID, d.replyRel = endActs, o.ID, rel
		d.due[dueReply] = s.now + s.between(i, d, a, b)
	}
	switch o.Kind {
	case update.ActFetch:
		d.closed, d.alone, d.against = 0, 0, 0
		// A link of 0.5 to 50 Mbit/s, most of them slow, and a model of 6 MB.
		mbit := 0.5 * math.Pow(100, unit(draw(s.Seed, s.id(i), streamLink, 0)))
		ms := 6 * 8 / mbit * 1000
		answer(endFetch, ms, ms*1.2)
	case update.ActVerify:
		d.closed, d.alone, d.against = 0, 0, 0
		answer(endFound, 50, 400)
	case update.ActGuard:
		answer(endDone, 10, 100)
	case update.ActLoad:
		answer(endLoad, 100, 900)
	case update.ActTest:
		answer(endDone, 100, 500)
	case update.ActShadow:
		answer(endShadow, 5, 20)
	case update.ActInterlock:
		answer(endDone, 10, 60)
	case update.ActSwap:
		answer(endActs, 5, 50)
	case update.ActResume:
		reply(300, 1500)
	case update.ActRollback:
		reply(20, 200)
	case update.ActConfirm, update.ActDrop:
		d.shadows = 0
	case update.ActCancel:
		if o.Cancel == d.answerID {
			d.due[dueAnswer] = never
		}
		if o.Cancel == d.replyID {
			d.due[dueReply] = never
		}
	}
}

// ended ends an action: the device hears of it.
func (s *shard) ended(i int32, d *device, end uint8, id uint32, rel uint8) {
	found := 0
	nature := s.nature(d, rel)
	switch end {
	case endCut:
		s.powers++
		s.cut(i, d, s.between(i, d, 60_000, 240_000))
		return
	case endFetch:
		if !d.online {
			e := update.Failed{Action: uint64(id), Code: twin.CodeFetch, Reason: "no connection", Retryable: true}
			at := s.moment(i, d)
			a := s.fleet.Fail(&d.Packed, at, e)
			if s.watched(i) {
				s.twin.step(at, e, a)
			}
			s.done(i, d, kindAnswer, a)
			return
		}
	case endFound:
		found = int(rel)
	case endLoad:
		if nature.CrashAtLoad {
			d.harmed = true
			s.cut(i, d, 2000)
			return
		}
		found = int(rel)
	case endShadow:
		d.shadows, d.shadowFrom = rel, s.now
		d.closed, d.alone, d.against = 0, 0, 0
	case endActs:
		if rel != 0 && nature.CrashAtLoad {
			s.cut(i, d, 2000)
			return
		}
		if d.acting != 0 {
			d.scored += (s.now - d.actFrom) / 1000
		}
		if d.shadows == rel {
			d.shadows = 0
		}
		d.acting, d.actFrom, d.counted, d.flagged = rel, s.now, s.now, 0
		if rel == challenger {
			d.tried = true
			d.harmed = d.harmed || nature.unsound()
		}
		found = int(rel)
	}
	at := s.moment(i, d)
	a := s.fleet.Done(&d.Packed, at, id, found)
	if s.watched(i) {
		s.twin.done(at, id, found, a)
	}
	s.done(i, d, kindAnswer, a)
}

// beat shows the scorer's counters and lets a report go when it is time.
func (s *shard) beat(i int32, d *device) {
	active := s.observe(i, d)
	at := s.moment(i, d)
	a := s.fleet.Observe(&d.Packed, at, &s.seen)
	if s.watched(i) {
		s.twin.step(at, s.seen, a)
	}
	every, report := s.heartbeatMs, s.heartbeatMs
	if active {
		every, report = s.observeMs, s.reportMs
	}
	d.due[dueBeat] = s.now + every
	if s.now-d.told >= report {
		d.told = s.now
		set(s.dirty, i)
	}
	s.done(i, d, kindObserve, a)
}

// observe fills s.seen with the counters of now, and says whether the device
// is watched closely.
func (s *shard) observe(i int32, d *device) (active bool) {
	s.seen = update.Observed{}
	soaking := d.Phase() == twin.PhaseSoaking
	if d.acting != 0 {
		nature := s.nature(d, d.acting)
		n := (s.now - d.actFrom) / 1000
		s.seen.Champion = s.table.Releases[d.acting-1].Manifest
		s.seen.Due, s.seen.Windows, s.seen.LatencyP99Ms = uint64(n), uint64(n), nature.latency()
		if soaking {
			span := float64(s.now-d.counted) / 1000
			d.counted = s.now
			d.flagged += poisson(unit(s.draw(i, d)), span*baseFlags*nature.flags())
			s.seen.Flagged = uint64(d.flagged)
			if nature.NonFinite > 0 && s.now-d.actFrom >= uint32(nature.NonFinite.Milliseconds()) {
				s.seen.NonFinite = 1
			}
		}
	}
	if d.shadows == 0 || !d.Counting() {
		return soaking
	}
	for n := (s.now - d.shadowFrom) / countingMs; d.closed < n; d.closed++ {
		a, b := s.window(s.id(i), d, d.closed)
		d.alone += a
		d.against += b
	}
	s.shadow = twin.Shadow{
		Items: d.items(), OnlyChallenger: uint64(d.alone), OnlyChampion: uint64(d.against),
		LatencyP99Ms: s.nature(d, d.shadows).latency(),
	}
	s.seen.Shadow = &s.shadow
	return true
}

// window returns what challenger and champion flagged alone in the k-th
// counting window: the same numbers whenever it is asked for.
func (s *sim) window(id uint64, d *device, k uint32) (alone, against uint32) {
	r := draw(s.Seed, id, streamShadow+uint64(d.boots)<<16+uint64(d.State.Attempts)<<32, k)
	const mean = countingMs / 1000 * baseFlags
	u, v := float64(r>>32)/(1<<32), float64(uint32(r))/(1<<32)
	return poisson(u, mean*s.nature(d, challenger).flags()), poisson(v, mean)
}

// nature returns how a release behaves on a device.
func (s *sim) nature(d *device, rel uint8) *Nature {
	if rel != challenger {
		return &s.sound
	}
	return &s.natures[d.nature]
}

func set(bits []uint64, i int32)   { bits[i>>6] |= 1 << (i & 63) }
func unset(bits []uint64, i int32) { bits[i>>6] &^= 1 << (i & 63) }
