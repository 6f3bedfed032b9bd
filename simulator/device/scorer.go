package device

import (
	"time"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// scorer is a model of what the champion, and a challenger beside it, do with
// the stream. Nothing runs: what they must have counted is drawn when somebody
// looks.
type scorer struct {
	acting  artifact.Digest
	actFrom time.Time
	until   time.Time // counters are good up to here
	counted update.Observed
	scored  uint64 // in all lives

	shadowed artifact.Digest
	shadow   *twin.Shadow
	window   float64 // seconds of a counting window
	open     twin.ShadowWindow
	openFor  float64

	champion, challenger *Release // natures of the two; nil: to be asked for
}

// forget asks for the natures of what runs anew.
func (s *scorer) forget() { s.champion, s.challenger = nil, nil }

// stop is what a power cut does.
func (s *scorer) stop() {
	s.acting, s.shadowed, s.shadow = "", "", nil
	s.forget()
}

// nature returns that of a release, asked for once.
func (d *Device) nature(m artifact.Digest, known **Release) *Release {
	if *known == nil {
		n, _ := d.w.Release(m, d)
		*known = &n
	}
	return *known
}

// score lets the scorer have worked since it was looked at last.
func (d *Device) score() {
	s := &d.scorer
	now := d.w.Now()
	span := now.Sub(s.until).Seconds()
	s.until = now
	if s.acting == "" || span <= 0 {
		return
	}
	champion := d.nature(s.acting, &s.champion)
	n := uint64(span*d.cfg.WindowsHz + d.rand.Float64())
	if n == 0 {
		return
	}
	s.scored += n
	s.counted.Due += n
	s.counted.Windows += n
	s.counted.Flagged += uint64(d.rand.Poisson(min(float64(n)*d.cfg.BaseFlags*champion.flags(), 29)))
	s.counted.LatencyP99Ms = champion.latency()
	if champion.NonFinite > 0 && now.Sub(s.actFrom) >= champion.NonFinite {
		s.counted.NonFinite++
	}
	if champion.unsound() {
		d.Harm += time.Duration(span * float64(time.Second))
	}
	if s.shadow == nil {
		return
	}
	challenger := d.nature(s.shadowed, &s.challenger)
	// The flags that only one of them raises; most they raise together.
	s.openFor += span
	s.open.Items += uint32(n)
	s.open.OnlyChallenger += min(d.rand.Poisson(min(float64(n)*d.cfg.BaseFlags*challenger.flags(), 29)), uint32(n)/2)
	s.open.OnlyChampion += min(d.rand.Poisson(min(float64(n)*d.cfg.BaseFlags*champion.flags(), 29)), uint32(n)/2)
	if s.openFor < s.window {
		return
	}
	sh := s.shadow
	sh.Items += uint64(s.open.Items)
	sh.OnlyChallenger += uint64(s.open.OnlyChallenger)
	sh.OnlyChampion += uint64(s.open.OnlyChampion)
	sh.LatencyP99Ms = challenger.latency()
	sh.Windows = append(sh.Windows, s.open)
	if over := len(sh.Windows) - twin.MaxShadowWindows; over > 0 {
		sh.Windows, sh.Index = sh.Windows[over:], sh.Index+uint64(over)
	}
	s.open, s.openFor = twin.ShadowWindow{}, 0
}

// memoryMiB is what the agent takes: a release that leaks takes more and more.
func (d *Device) memoryMiB() float64 {
	rss := 48.0
	if d.acting != "" {
		rss += d.nature(d.acting, &d.champion).MemoryMiB * d.w.Now().Sub(d.actFrom).Hours()
	}
	return rss
}

// ramMiB is what a device has for its agent; beyond it the system kills it.
const ramMiB = 256

func (r *Release) flags() float64 {
	if r.Flags == 0 {
		return 1
	}
	return r.Flags
}

func (r *Release) latency() float64 {
	if r.LatencyMs == 0 {
		return 2
	}
	return r.LatencyMs
}

// observe shows the machine the scorer's counters, where they can change
// anything: in the shadow, while it waits for a lease, and in the soak. A
// journal that could not be written is tried again.
func (d *Device) observe() {
	if d.machine == nil {
		return
	}
	switch d.machine.Phase() {
	case twin.PhaseShadowing, twin.PhaseReady, twin.PhaseActivating, twin.PhaseSoaking:
	default:
		if !d.unsaved {
			return
		}
	}
	d.score()
	if d.memoryMiB() > ramMiB {
		d.crash()
		return
	}
	o := d.counted
	if d.shadow != nil {
		s := *d.shadow
		s.Windows = append([]twin.ShadowWindow(nil), s.Windows...)
		o.Shadow = &s
	}
	d.step(o)
}

// act makes a release the one whose verdicts count.
func (d *Device) act(man artifact.Digest) {
	d.score()
	if man != "" && !d.loaded[man] {
		d.w.Fault(d, "a release acts that was not verified: "+man.Short())
	}
	now := d.w.Now()
	d.acting, d.actFrom, d.until = man, now, now
	d.counted = update.Observed{Champion: man}
	d.champion = nil
	if d.shadowed == man {
		d.shadowed, d.shadow = "", nil
	}
	if man == "" {
		return
	}
	if n := d.nature(man, &d.champion); n.CrashAfter > 0 {
		d.later(n.CrashAfter, func() {
			if d.acting == man {
				d.crash()
			}
		})
	}
}
