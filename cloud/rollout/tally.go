package rollout

import (
	"math"
	"math/bits"
	"slices"
)

// tally is what the gates look at: sums over the devices of one wave.
type tally struct {
	devices                 int // drawn
	started, done, failures int // of those not excluded
	unresolved              int // started or reachable, and neither done nor a failure
	away                    int // offered, not heard of, not connected
	paired                  int // had a champion to compare with
	ready                   int // wait for a lease
	evidence                Evidence
	windows, nonFinite      uint64 // scored by the release, in shadow and soak
	latencyDevices          int
	latencyMs               float64 // worst p99
	scoredSince, lostSince  uint64
	memoryDevices           int               // report their memory, fresh, with the release loaded
	memoryMiB               float64           // worst growth since the offer
	driftDevices            int               // report how far its scores drift, fresh
	drift                   float64           // worst
	metrics                 map[string]metric // by name, of fresh devices that tried the release; nil: no gate asks
}

// metric sums up what the devices of a wave report under one name.
type metric struct {
	n             int // devices that report it
	sum, min, max float64
}

// sums is a tally that devices are added to and taken from, in any order: it
// depends on who is in it alone.
type sums struct {
	tally
	latency, memory, drifts peak
	meters                  map[string]*meter
}

// count adds (sign 1) or takes (sign -1) what a device shows. s is the status
// it was counted with; keep says whether any gate asks for metrics.
func (t *sums) count(u *rules, d *Device, s *status, sign int, keep bool) {
	t.devices += sign
	switch st := s.cause.state(); {
	case st == DeviceDone:
		t.done += sign
	case st.failure():
		t.failures += sign
	case st == DeviceUnreachable && !(d.Connected && s.is(fresh)):
		t.away += sign
	default:
		t.unresolved += sign
	}
	if s.cause.state().started() {
		t.started += sign
	}
	paired := d.paired(u)
	if paired {
		t.paired += sign
		if d.Evidence.Manifest == u.r.Release.Manifest {
			t.evidence.merge(&d.Evidence, sign)
		}
	}
	if !u.own(d) {
		return
	}
	if s.is(ready) {
		t.ready += sign
	}
	n := uint64(sign) // wraps round for -1, as the sums do
	windows, nonFinite, latencyMs := d.shown(s.cause)
	t.windows += n * windows
	t.nonFinite += n * nonFinite
	if d.WindowsScored > d.Record.ScoredBefore {
		t.scoredSince += n * (d.WindowsScored - d.Record.ScoredBefore)
	}
	if d.WindowsLost > d.Record.LostBefore {
		t.lostSince += n * (d.WindowsLost - d.Record.LostBefore)
	}
	if !s.is(fresh) || windows == 0 {
		return
	}
	if latencyMs > 0 {
		t.latencyDevices += sign
		t.latency.count(latencyMs, sign)
	}
	if d.MemoryMiB > 0 && d.Record.MemoryBefore > 0 {
		t.memoryDevices += sign
		t.memory.count(d.MemoryMiB-d.Record.MemoryBefore, sign)
	}
	if x := d.Trial.Drift; x != nil {
		t.driftDevices += sign
		t.drifts.count(*x, sign)
	}
	if !keep {
		return
	}
	for name, x := range d.Metrics {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		m := t.meters[name]
		if m == nil {
			if t.meters == nil {
				t.meters = map[string]*meter{}
			}
			m = &meter{}
			t.meters[name] = m
		}
		m.n += sign
		m.sum.add(x, sign)
		m.most.count(x, sign)
		m.least.count(-x, sign)
		if m.n == 0 {
			delete(t.meters, name)
		}
	}
}

// shown returns what a device has shown of the release: in its trial, and once
// it is done as its champion, whose counters go on. They stand alone where the
// trial had nothing to try, since the release ran there before, and where an
// agent that started again has forgotten the soak.
func (d *Device) shown(c cause) (windows, nonFinite uint64, latencyMs float64) {
	t := &d.Trial
	windows, nonFinite, latencyMs = t.Shadowed+t.Windows, t.NonFinite, t.LatencyP99Ms
	if c != done {
		return windows, nonFinite, latencyMs
	}
	if windows == 0 {
		latencyMs = d.Champion.LatencyP99Ms
	}
	return max(windows, d.Champion.Windows), max(nonFinite, d.Champion.NonFinite), latencyMs
}

// paired says whether the device has a champion to compare the release with. A
// device whose agent was starting when it was drawn shows it by its evidence.
func (d *Device) paired(u *rules) bool {
	return d.Record.Paired || d.Record.Offer == OfferRelease && d.Evidence.Manifest == u.r.Release.Manifest && d.Evidence.Windows > 0
}

// peak knows the largest of many numbers that come and go. It keeps the largest
// few; all others are at most rest. When it has lost those few, known is false
// and all have to be counted anew.
type peak struct {
	top  []float64 // rising
	rest float64   // meaningful when more is set
	more bool      // there are, or were, others
}

const peakKeeps = 64

func (p *peak) count(x float64, sign int) {
	i, found := slices.BinarySearch(p.top, x)
	switch {
	case sign < 0 && found:
		p.top = slices.Delete(p.top, i, i+1)
	case sign < 0:
	case p.more && x <= p.rest:
	case len(p.top) < peakKeeps:
		p.top = slices.Insert(p.top, i, x)
	default:
		least := x
		if i > 0 {
			least = p.top[0]
			copy(p.top, p.top[1:i])
			p.top[i-1] = x
		}
		if !p.more || least > p.rest {
			p.rest, p.more = least, true
		}
	}
}

// most returns the largest number, when it is known.
func (p *peak) most() (x float64, known bool) {
	if n := len(p.top); n > 0 {
		return p.top[n-1], true
	}
	return 0, !p.more
}

// meter sums up one metric.
type meter struct {
	n           int
	sum         exact
	most, least peak // least holds the numbers with the sign turned
}

// exact is a sum that does not depend on the order of what is added and taken:
// a 128-bit number of units of 2^-20. Numbers beyond ±2^42 count as that.
type exact struct{ hi, lo uint64 }

func (e *exact) add(x float64, sign int) {
	k := int64(math.Round(max(min(x, 1<<42), -(1<<42)) * (1 << 20)))
	k *= int64(sign)
	var carry uint64
	e.lo, carry = bits.Add64(e.lo, uint64(k), 0)
	e.hi, _ = bits.Add64(e.hi, uint64(k>>63), carry)
}

func (e exact) value() float64 {
	if int64(e.hi) < 0 {
		lo, borrow := bits.Sub64(0, e.lo, 0)
		hi, _ := bits.Sub64(0, e.hi, borrow)
		return -(float64(hi)*(1<<64) + float64(lo)) / (1 << 20)
	}
	return (float64(e.hi)*(1<<64) + float64(e.lo)) / (1 << 20)
}

// read returns the tally as the gates read it. again is called when a largest
// number is lost, and returns the sums counted anew.
func (t *sums) read(again func() *sums) *tally {
	if !t.knows() {
		*t = *again()
	}
	out := t.tally
	out.evidence.Bins = slices.Clone(t.evidence.Bins)
	out.latencyMs, _ = t.latency.most()
	out.memoryMiB, _ = t.memory.most()
	out.drift, _ = t.drifts.most()
	for name, m := range t.meters {
		if out.metrics == nil {
			out.metrics = make(map[string]metric, len(t.meters))
		}
		most, _ := m.most.most()
		least, _ := m.least.most()
		out.metrics[name] = metric{n: m.n, sum: m.sum.value(), min: -least, max: most}
	}
	return &out
}

func (t *sums) knows() bool {
	for _, p := range []*peak{&t.latency, &t.memory, &t.drifts} {
		if _, ok := p.most(); !ok {
			return false
		}
	}
	for _, m := range t.meters {
		if _, ok := m.most.most(); !ok {
			return false
		}
		if _, ok := m.least.most(); !ok {
			return false
		}
	}
	return true
}
