package update

import (
	"fmt"
	"math"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Run is what a device holds for one run of the agent only, flat: what a power
// cut forgets. The zero value is a device that has not booted.
type Run struct {
	trial    pending // the trial's action on its way
	champion pending // Resume or Rollback on its way

	retryAt    time.Duration
	restoreAt  time.Duration // when to try the next candidate; 0: not waiting
	leaseUntil time.Duration // running time at which the lease ends, whatever the wall clock says
	phaseFrom  time.Duration // when this phase began in this run
	spentFrom  time.Duration // State.SpentMs is good up to here

	issuedMs  int64 // of the newest document, by the hub's clock, Unix; 0: none
	expiresMs int64

	soak soak // newest counters of the champion on trial

	want     uint32 // 1 + index into Table.Offers: the newest assignment; 0: none, or withdrawn
	lease    uint32 // 1 + index into Table.Leases; 0: none
	lastID   uint32 // of the newest action
	fallback uint16 // how many candidates failed to load in a row
	retries  uint16 // of the trial's action in this phase
	booted   bool
	shadowOn bool // the challenger computes
}

// pending is an action that has to be answered. id 0: none.
type pending struct {
	until time.Duration // when it is given up; 0: never
	id    uint32
	act   act
}

// soak is what was observed of a champion on trial.
type soak struct {
	windows, nonFinite uint64
	latencyP99Ms       float64
}

// Table is what the small numbers in a device's State and Run stand for. A
// Machine has one of its own; the devices of a Fleet share one.
type Table struct {
	Releases []Release // of State; 1 + index
	Offers   []twin.Assignment
	Leases   []Lease
}

// Lease is a twin.Lease with its end in Unix milliseconds.
type Lease struct {
	ID        string
	Manifest  artifact.Digest
	ExpiresMs int64
}

// Document is a twin.Desired whose names are in a Table.
type Document struct {
	Generation uint64
	IssuedMs   int64  // Unix; 0: not said
	ExpiresMs  int64  // Unix; 0: never
	Want       uint32 // 1 + index into Table.Offers; 0: no assignment
	Lease      uint32 // 1 + index into Table.Leases; 0: no lease
}

// book is where a device keeps the names behind the numbers, and what only
// people read: a Journal, or numbers again in a fleet.
type book interface {
	// trial names the trial that State is about.
	trial() (rollout string, try int)
	// begin writes down that the wanted assignment is the trial from now on,
	// and returns the ref of its release.
	begin(a *twin.Assignment) ref
	// learn adds what a loader or a signature has shown about a release.
	learn(r ref, model artifact.Digest, limits *artifact.Limits)
	ended(code twin.Code, reason string)
	held(reason string) // why the trial waits; "": it does not
	heldBy() string
	leased(*Lease) // the trial is activated under it
	quarantine(r ref)
	quarantined(artifact.Digest) bool
	floor(name string) uint64
	raise() bool // takes in the floors of the document being read
	shadowed(*twin.Shadow)
	do(id uint32, a act, r ref, cancel uint32)
}

// stepper is the rules, at work on one device: Machine and Fleet step by it. It
// allocates nothing as long as nobody reads reasons.
type stepper struct {
	cfg    Config
	book   book
	table  *Table
	spoken bool // somebody reads reasons

	s   *State
	r   *Run
	now Moment
	ms  int64 // now.Wall, Unix

	dirty  bool // what a journal keeps has changed
	report bool
}

var noRelease Release // what ref 0 names; never written

func (m *stepper) at(now Moment) { m.now, m.ms = now, now.Wall.UnixMilli() }

func (m *stepper) release(r ref) *Release {
	if r == 0 {
		return &noRelease
	}
	return &m.table.Releases[r-1]
}

// wanted returns the newest assignment; nil: none.
func (m *stepper) wanted() *twin.Assignment {
	if m.r.want == 0 {
		return nil
	}
	return &m.table.Offers[m.r.want-1]
}

// say returns a reason, unless nobody would read it. why does not outlive the
// call, so that it costs nothing then.
func (m *stepper) say(why func() string) string {
	if !m.spoken {
		return ""
	}
	return why()
}

func (m *stepper) mode() twin.Mode {
	if m.s.Rollback {
		return twin.ModeRollback
	}
	return twin.ModeTrial
}

// rest does what follows from the time and from what an event has changed.
func (m *stepper) rest() {
	m.limits()
	m.proceed() // may end a trial
	m.consider()
	m.proceed()
}

// boot resumes the champion and counts a start against the trial, before
// anything of it is touched again.
func (m *stepper) boot() {
	if m.r.booted {
		return
	}
	m.r.booted = true
	m.report = true
	s := m.s
	cut := uint8(1) // what a start adds to what the trial may be to blame for
	if s.Stopped {
		s.Stopped, cut = false, 0
	}
	switch {
	case s.Phase == soaking:
		s.Boots += cut
		m.save()
		if int(s.Boots) > m.cfg.MaxBoots {
			m.goBack(twin.CodeCrash, true, func() string { return fmt.Sprintf("the agent started %d times within the soak", s.Boots) })
			return
		}
	case !s.Phase.ended():
		s.Attempts += cut
		if int(s.Attempts) > m.cfg.MaxAttempts {
			code := twin.CodeAttempts
			if s.Phase >= guarding && s.Phase <= golden {
				code = twin.CodeLoad
			}
			s.Attempts--
			m.fail(code, func() string {
				return fmt.Sprintf("interrupted while %s in start %d of %d", s.Phase.twin(), s.Attempts, m.cfg.MaxAttempts)
			})
			break
		}
		// Sessions are gone and bytes may have rotted: begin again behind the
		// download. A swap that was not saved has not happened.
		if s.Phase > verifying {
			s.Withdraw = false
			m.move(verifying, "restart")
		} else {
			m.move(s.Phase, "restart")
		}
	}
	if s.Champion == 0 {
		m.clean()
		return
	}
	m.r.champion = m.start(actResume, s.Champion)
}

// stopping notes that the end of this run is nobody's fault.
func (m *stepper) stopping() {
	if !m.s.Phase.ended() {
		m.s.Stopped = true
		m.save()
	}
}

// offered takes in a document unless a newer one is known.
func (m *stepper) offered(d Document) {
	s, r := m.s, m.r
	if d.Generation < s.Generation {
		return
	}
	if d.Generation > s.Generation {
		s.Generation = d.Generation
		m.save()
		m.report = true
	}
	if m.book.raise() {
		m.save()
	}
	r.issuedMs, r.expiresMs, r.want = d.IssuedMs, d.ExpiresMs, d.Want
	switch {
	case d.Lease == 0:
		r.lease = 0
	case r.lease == 0 || !m.table.Leases[r.lease-1].same(&m.table.Leases[d.Lease-1]):
		r.lease = d.Lease
		// A lease lasts no longer than the hub meant, even if the clock stands still.
		r.leaseUntil = m.now.Mono + millis(m.table.Leases[d.Lease-1].ExpiresMs-d.IssuedMs)
	}

	if rel := m.release(s.Trial); s.Phase.inactive() {
		if floor := m.book.floor(rel.Name); rel.Counter < floor {
			m.fail(twin.CodeCounter, func() string { return fmt.Sprintf("the floor rose to %d, above counter %d", floor, rel.Counter) })
		}
	}
	a := m.wanted()
	if s.Phase.ended() || m.sameTrial(a) {
		if !s.Phase.ended() && unixMs(a.Deadline) != s.DeadlineMs {
			m.setDeadline(a)
			m.save()
		}
		return
	}
	switch {
	case s.Phase.inactive():
		m.drop("withdrawn by the hub")
	case s.Phase == activating && !s.Withdraw:
		s.Withdraw = true // the swap is on its way: let it end, then go back
		m.save()
	case s.Phase == soaking:
		// It acts already: see proceed for a return ordered by the hub.
	}
}

// same says whether two documents carry the same lease.
func (l *Lease) same(o *Lease) bool { return l.ID == o.ID && l.ExpiresMs == o.ExpiresMs }

// sameTrial says whether a asks for the trial that the journal is about.
func (m *stepper) sameTrial(a *twin.Assignment) bool {
	if a == nil || m.s.Phase == none || m.mode() != a.Mode || m.release(m.s.Trial).Manifest != a.Manifest {
		return false
	}
	rollout, try := m.book.trial()
	return rollout == a.Rollout && try == a.Try
}

// consider starts the wanted trial when nothing stands in its way.
func (m *stepper) consider() {
	s, a := m.s, m.wanted()
	if a == nil || !s.Phase.ended() || m.r.champion.id != 0 && m.r.fallback == 0 || m.sameTrial(a) {
		return
	}
	if m.clockBehind() || m.expired() {
		return
	}
	s.Trial = m.book.begin(a)
	s.Rollback = a.Mode == twin.ModeRollback
	s.Withdraw = false
	s.Attempts, s.Boots, s.SpentMs = 1, 0, 0
	s.ShadowMs, s.SoakMs = ms32(a.ShadowS), ms32(a.SoakS)
	s.WindowMs = ms32(a.ShadowWindowS)
	if s.WindowMs == 0 {
		s.WindowMs = 60_000
	}
	s.MinWindows = uint32(min(max(a.MinWindows, 1), math.MaxUint32))
	m.r.soak = soak{}
	m.setDeadline(a)

	champion := m.release(s.Champion)
	switch floor := m.book.floor(a.Name); {
	case s.Champion != 0 && champion.Manifest == a.Manifest && m.r.fallback == 0:
		m.move(confirmed, "offer of what runs")
		m.book.held("runs already")
	case m.book.quarantined(a.Manifest):
		m.refuse(twin.CodeQuarantine, func() string { return "this release was rolled back here before" })
	case a.Counter < floor:
		m.refuse(twin.CodeCounter, func() string { return fmt.Sprintf("counter %d is below the floor %d", a.Counter, floor) })
	case !s.Rollback && s.Champion != 0 && champion.Name == a.Name && a.Counter <= champion.Counter:
		m.refuse(twin.CodeCounter, func() string {
			return fmt.Sprintf("counter %d is not above %d, which runs", a.Counter, champion.Counter)
		})
	case s.Trial == s.Champion || s.Trial == s.LastGood || s.Trial == s.Spare:
		m.move(verifying, "return to a release it holds")
	default:
		m.move(fetching, "offer")
	}
}

func (m *stepper) refuse(code twin.Code, why func() string) {
	m.book.ended(code, m.say(why))
	m.move(failed, "refused")
}

func (m *stepper) setDeadline(a *twin.Assignment) {
	s := m.s
	limit := m.cfg.TrialLimit.Milliseconds()
	s.DeadlineMs = unixMs(a.Deadline)
	if s.DeadlineMs != 0 {
		// The same length in running time holds when the clock does not.
		limit = max(s.DeadlineMs-m.r.issuedMs, 1000) + int64(s.spent(m.now.Mono-m.r.spentFrom))
	}
	s.LimitMs = uint32(min(limit, math.MaxUint32))
}

func (s *State) spent(more time.Duration) uint32 {
	if s.Phase.ended() {
		return 0
	}
	return uint32(min(int64(s.SpentMs)+more.Milliseconds(), math.MaxUint32))
}

// done takes in a success. rel is as in Done.
func (m *stepper) done(id uint64, rel *Release) {
	s, r := m.s, m.r
	switch {
	case id == 0:
	case id == uint64(r.champion.id):
		r.champion, r.fallback = pending{}, 0
		// Another release may have become the champion while this one was loading.
		if c := s.Champion; c != 0 && rel.Manifest == m.release(c).Manifest && rel.Model != "" && m.release(c).Model != rel.Model {
			m.book.learn(s.Champion, rel.Model, nil)
			m.save()
		}
		r.phaseFrom = m.now.Mono
		m.report = true
		m.clean()
	case id == uint64(r.trial.id):
		a := r.trial.act
		r.trial = pending{}
		m.trialDone(a, rel)
	}
}

func (m *stepper) trialDone(a act, found *Release) {
	s := m.s
	switch a {
	case actFetch:
		m.move(verifying, "fetched")
	case actVerify:
		rel := m.release(s.Trial)
		if found.Manifest != rel.Manifest || found.Name != rel.Name || found.Counter != rel.Counter {
			m.fail(twin.CodeContent, func() string {
				return fmt.Sprintf("the signed manifest is %s-%d, the hub offered %s-%d", found.Name, found.Counter, rel.Name, rel.Counter)
			})
			return
		}
		if floor := m.book.floor(rel.Name); rel.Counter < floor {
			m.fail(twin.CodeCounter, func() string { return fmt.Sprintf("counter %d is below the floor %d", rel.Counter, floor) })
			return
		}
		m.book.learn(s.Trial, rel.Model, &found.Limits)
		m.move(guarding, "verified")
	case actGuard:
		m.move(loading, "admitted")
	case actLoad:
		if found.Model.Validate() != nil {
			m.fail(twin.CodeLoad, func() string { return "the loaded session has no digest" })
			return
		}
		m.book.learn(s.Trial, found.Model, nil)
		m.move(golden, "loaded")
	case actTest:
		if s.ShadowMs == 0 || s.Rollback || s.Champion == 0 || m.r.fallback > 0 {
			m.move(ready, "golden vectors hold, nothing to shadow")
			return
		}
		m.move(shadowing, "golden vectors hold")
	case actShadow:
		m.r.shadowOn = true
		m.r.phaseFrom = m.now.Mono
	case actInterlock:
		if !m.leased() {
			return // it ran out while the interlocks were read
		}
		m.activate("lease and interlocks permit")
	case actSwap:
		m.swapped()
	}
}

// swapped makes the trial the champion.
func (m *stepper) swapped() {
	s := m.s
	m.r.fallback, m.r.restoreAt = 0, 0
	former := s.Champion
	if s.Rollback {
		// What the hub ordered back is good already, and what ran is not kept.
		s.Champion, s.LastGood, s.Spare = s.Trial, s.Trial, 0
		m.move(confirmed, "returned")
		return
	}
	if s.LastGood == 0 && former != 0 {
		s.LastGood = former
	}
	s.Champion = s.Trial
	s.Boots = 0
	m.r.soak = soak{}
	if s.Withdraw {
		m.goBack(twin.CodeWithdrawn, false, func() string { return "withdrawn by the hub during the swap" })
		return
	}
	m.move(soaking, "swapped")
}

// failed takes in a failure.
func (m *stepper) failed(e Failed) {
	switch {
	case e.Action == 0:
	case e.Action == uint64(m.r.champion.id):
		m.r.champion = pending{}
		m.restoreFailed(e.Reason)
	case e.Action == uint64(m.r.trial.id):
		a := m.r.trial.act
		m.r.trial = pending{}
		m.trialFailed(a, e)
	}
}

func (m *stepper) trialFailed(a act, e Failed) {
	s, r := m.s, m.r
	switch {
	case a == actInterlock:
		// Closed or unreadable is the same: not now. The deadline bounds it.
		m.book.held(e.Reason)
		r.retryAt = m.now.Mono + m.backoff(0)
		m.report = true
	case a == actSwap && s.Withdraw:
		m.drop("withdrawn by the hub during the swap")
	case a == actVerify && e.Code == twin.CodeContent && e.Retryable && int(s.Attempts) < m.cfg.MaxAttempts:
		// Bytes rotted or the download was cut short: fetch what is missing.
		s.Attempts++
		m.move(fetching, "content differs")
	case e.Retryable && int(r.retries) < m.cfg.MaxRetries:
		r.retries++
		r.retryAt = m.now.Mono + m.backoff(int(r.retries)-1)
		m.book.held(e.Reason)
		m.report = true
	default:
		m.fail(e.Code, func() string { return e.Reason })
	}
}

// backoff returns BackoffMin doubled n times, at most BackoffMax, of which the
// upper half is drawn.
func (m *stepper) backoff(n int) time.Duration {
	d := m.cfg.BackoffMin << min(n, 30)
	if d > m.cfg.BackoffMax || d <= 0 {
		d = m.cfg.BackoffMax
	}
	return d/2 + time.Duration(m.now.Draw*float64(d/2))
}

// restoreFailed tries the next release the device holds: the champion, the
// last good one, the spare, and round again, ever more slowly.
func (m *stepper) restoreFailed(reason string) {
	m.report = true
	if m.s.Phase == soaking {
		m.goBack(twin.CodeLoad, true, func() string { return "cannot be loaded after a restart: " + reason })
		return
	}
	m.r.fallback = min(m.r.fallback, math.MaxUint16-2) + 1
	m.r.restoreAt = m.now.Mono + m.backoff(int(m.r.fallback)-1)
}

// restore starts the next candidate after restoreFailed. Outside of a soak the
// champion is the last good release, so the two that are left take turns.
func (m *stepper) restore() {
	s := m.s
	m.r.restoreAt = 0
	var cs [2]ref
	n := 0
	for _, r := range [...]ref{s.LastGood, s.Spare} {
		if r != 0 {
			cs[n] = r
			n++
		}
	}
	if n == 0 {
		return
	}
	s.Champion = cs[int(m.r.fallback)%n]
	m.save()
	m.r.champion = m.start(actRollback, s.Champion)
}

// observed is the watchdog.
func (m *stepper) observed(e *Observed) {
	s := m.s
	if e.Shadow != nil && (s.Phase == shadowing || s.Phase == ready) && m.r.shadowOn {
		m.book.shadowed(e.Shadow)
		l := &m.release(s.Trial).Limits
		k := counts{e.Shadow.Items, e.Shadow.OnlyChallenger + e.Shadow.Both, e.Shadow.NonFinite, e.Shadow.LatencyP99Ms}
		if code := k.breaks(l); code != "" {
			m.fail(code, func() string { return "in the shadow " + k.why(code, l) })
			return
		}
	}
	champion := m.release(s.Champion)
	if s.Phase != soaking || m.r.champion.id != 0 || e.Champion != champion.Manifest {
		return
	}
	m.r.soak = soak{e.Windows, e.NonFinite, e.LatencyP99Ms}
	l := &champion.Limits
	k := counts{e.Windows, e.Flagged, e.NonFinite, e.LatencyP99Ms}
	if code := k.breaks(l); code != "" {
		m.goBack(code, true, func() string { return k.why(code, l) })
		return
	}
	if e.Due >= uint64(max(l.MinWatchdogObs, 10)) && float64(e.Windows) < m.cfg.MinOutputShare*float64(e.Due) {
		m.goBack(twin.CodeOutput, true, func() string { return fmt.Sprintf("it scored %d of %d windows", e.Windows, e.Due) })
	}
}

// counts are what a model did, to be compared with the limits of its variant.
type counts struct {
	windows, flagged, nonFinite uint64
	p99Ms                       float64
}

// breaks returns which limit the counts break; "": none.
func (k counts) breaks(l *artifact.Limits) twin.Code {
	enough := k.windows >= uint64(max(l.MinWatchdogObs, 10))
	switch {
	case k.nonFinite > 0:
		return twin.CodeNonFinite
	case l.LatencyP99Ms > 0 && enough && !(k.p99Ms <= l.LatencyP99Ms):
		return twin.CodeLatency
	case l.MaxFlagShare > 0 && enough && float64(k.flagged) > l.MaxFlagShare*float64(k.windows):
		return twin.CodeFlags
	}
	return ""
}

func (k counts) why(code twin.Code, l *artifact.Limits) string {
	switch code {
	case twin.CodeNonFinite:
		return fmt.Sprintf("%d of %d scores were not finite", k.nonFinite, k.windows)
	case twin.CodeLatency:
		return fmt.Sprintf("p99 of an inference was %.3g ms, allowed are %.3g ms", k.p99Ms, l.LatencyP99Ms)
	}
	return fmt.Sprintf("it flagged %d of %d windows, allowed is a share of %.3g", k.flagged, k.windows, l.MaxFlagShare)
}

// limits ends what took too long.
func (m *stepper) limits() {
	s, r := m.s, m.r
	if r.champion.id != 0 && r.champion.until != 0 && m.now.Mono >= r.champion.until {
		m.cancel(r.champion.id)
		r.champion = pending{}
		m.restoreFailed("no answer in time")
	}
	if s.Phase.ended() {
		return
	}
	over := s.spent(m.now.Mono-r.spentFrom) >= s.LimitMs || s.DeadlineMs != 0 && !m.clockBehind() && m.ms >= s.DeadlineMs
	switch {
	case s.Phase == activating:
		// A swap is never left half done: it ends by its own limit.
		if r.trial.id != 0 && m.now.Mono >= r.trial.until {
			m.fail(twin.CodeDeadline, func() string { return "the swap did not end in time" })
			r.champion = m.start(actRollback, s.Champion)
		}
	case over && s.Phase == soaking:
		m.goBack(twin.CodeDeadline, m.cfg.QuarantineLate, func() string { return "not confirmed by the deadline" })
	case over:
		m.fail(twin.CodeDeadline, func() string {
			reason := fmt.Sprintf("still %s at the deadline", s.Phase.twin())
			if by := m.book.heldBy(); by != "" {
				reason += ": " + by // what it was held up by
			}
			return reason
		})
	case r.trial.id != 0 && r.trial.until != 0 && m.now.Mono >= r.trial.until:
		a := r.trial.act
		m.cancel(r.trial.id)
		r.trial = pending{}
		m.trialFailed(a, Failed{
			Code: twin.CodeDeadline, Retryable: a == actInterlock,
			Reason: m.say(func() string { return fmt.Sprintf("%s did not end in %s", a.kind(), m.cfg.StepLimit) }),
		})
	}
}

// proceed does what only waits for time or for a lease.
func (m *stepper) proceed() {
	s, r := m.s, m.r
	if r.restoreAt != 0 && m.now.Mono >= r.restoreAt && s.Phase != activating {
		m.restore()
	}
	if r.champion.id != 0 && (r.fallback == 0 || s.Phase >= ready) {
		return // first of all something acts
	}
	switch {
	case s.Phase == soaking:
		if a := m.wanted(); a != nil && a.Mode == twin.ModeRollback && m.leaseFor(a.Manifest) {
			m.goBack(twin.CodeWithdrawn, false, func() string { return "called back by the hub" })
			return
		}
		if m.now.Mono-r.phaseFrom >= time.Duration(s.SoakMs)*time.Millisecond && r.soak.windows >= uint64(s.MinWindows) {
			m.confirm()
		}
	case s.Phase == shadowing && r.shadowOn && m.now.Mono-r.phaseFrom >= time.Duration(s.ShadowMs)*time.Millisecond:
		m.move(ready, "shadowed long enough")
	}
	if !s.Phase.inactive() || r.trial.id != 0 || m.now.Mono < r.retryAt {
		return
	}
	switch s.Phase {
	case fetching:
		m.startTrial(actFetch)
	case verifying:
		m.startTrial(actVerify)
	case guarding:
		m.startTrial(actGuard)
	case loading:
		m.startTrial(actLoad)
	case golden:
		m.startTrial(actTest)
	case shadowing:
		if !r.shadowOn {
			m.startTrial(actShadow)
		}
	case ready:
		if !m.leased() {
			return
		}
		if s.Rollback {
			// What runs was found to be worse than what comes: an interlock
			// that forbids change must not keep it.
			m.activate("lease permits the return")
			return
		}
		m.startTrial(actInterlock)
	}
}

// activate begins the swap under the lease.
func (m *stepper) activate(on string) {
	m.book.leased(&m.table.Leases[m.r.lease-1])
	m.move(activating, on)
}

func (m *stepper) startTrial(a act) { m.r.trial = m.start(a, m.s.Trial) }

// leased says whether the trial may activate now.
func (m *stepper) leased() bool { return m.leaseFor(m.release(m.s.Trial).Manifest) }

func (m *stepper) leaseFor(manifest artifact.Digest) bool {
	if m.r.lease == 0 || m.now.Mono >= m.r.leaseUntil || m.clockBehind() {
		return false
	}
	l := &m.table.Leases[m.r.lease-1]
	return l.Manifest == manifest && m.ms < l.ExpiresMs
}

// clockBehind says that the clock is so far behind the hub's that no time
// limit can be believed.
func (m *stepper) clockBehind() bool {
	return m.r.issuedMs != 0 && m.ms < m.r.issuedMs-m.cfg.MaxSkew.Milliseconds()
}

func (m *stepper) expired() bool { return m.r.expiresMs != 0 && m.ms >= m.r.expiresMs }

// confirm keeps the champion on trial.
func (m *stepper) confirm() {
	s := m.s
	s.Spare, s.LastGood = s.LastGood, s.Champion
	m.move(confirmed, "soaked soundly")
}

// fail ends a trial that never acted.
func (m *stepper) fail(code twin.Code, why func() string) {
	m.book.ended(code, m.say(why))
	m.move(failed, "failed")
}

// drop ends a trial that the hub withdrew before it acted.
func (m *stepper) drop(reason string) {
	m.book.ended(twin.CodeWithdrawn, reason)
	m.move(dropped, "withdrawn")
}

// goBack ends a trial that acted: the last good release takes over.
func (m *stepper) goBack(code twin.Code, quarantine bool, why func() string) {
	s := m.s
	if quarantine {
		m.book.quarantine(s.Trial)
	}
	s.Champion = s.LastGood
	m.book.ended(code, m.say(why))
	m.move(rolledBack, "called back or found unsound")
	if m.r.champion.id != 0 {
		m.cancel(m.r.champion.id)
	}
	m.r.champion = m.start(actRollback, s.Champion)
}

// move enters a phase. It is the only writer of State.Phase; a move that is
// not in Transitions is a bug.
func (m *stepper) move(to phase, on string) {
	s, r := m.s, m.r
	if !allowed(s.Phase, to, on) {
		panic(fmt.Sprintf("update: no transition from %q to %q on %q", s.Phase.twin(), to.twin(), on))
	}
	from := s.Phase
	s.SpentMs = s.spent(m.now.Mono - r.spentFrom)
	s.Phase = to
	s.SinceMs = m.ms
	r.spentFrom, r.phaseFrom, r.retries, r.retryAt = m.now.Mono, m.now.Mono, 0, 0
	if r.trial.id != 0 {
		m.cancel(r.trial.id)
		r.trial = pending{}
	}
	m.save()
	m.report = true
	if to != ready {
		r.shadowOn = false
	}
	if !to.ended() {
		m.book.held("")
	}
	switch to {
	case activating:
		m.startTrial(actSwap)
	case confirmed:
		if !from.ended() {
			m.do(actConfirm, s.Champion, 0)
		}
		m.clean()
	case failed, dropped:
		if !from.ended() {
			m.do(actDrop, s.Trial, 0)
			m.clean()
		}
	}
}

// kept returns the releases whose slots stay, none twice.
func (s *State) kept() (keep [4]ref, n int) {
	refs := [...]ref{s.Champion, s.LastGood, s.Spare, s.Trial}
	if s.Phase.ended() {
		refs[3] = 0
	}
next:
	for _, r := range refs {
		for _, k := range keep[:n] {
			if k == r {
				continue next
			}
		}
		if r != 0 {
			keep[n] = r
			n++
		}
	}
	return keep, n
}

// clean asks to remove the slots nothing points at.
func (m *stepper) clean() { m.do(actClean, 0, 0) }

// start asks for an action that answers.
func (m *stepper) start(a act, r ref) pending {
	p := pending{id: m.do(a, r, 0), act: a}
	if a != actFetch {
		p.until = m.now.Mono + m.cfg.StepLimit
	}
	return p
}

func (m *stepper) cancel(id uint32) { m.do(actCancel, 0, id) }

func (m *stepper) do(a act, r ref, cancel uint32) uint32 {
	m.r.lastID++
	m.book.do(m.r.lastID, a, r, cancel)
	return m.r.lastID
}

// save marks what a journal keeps as changed.
func (m *stepper) save() { m.dirty = true }

// wake returns when time alone will change something, or 0.
func (m *stepper) wake() time.Duration {
	s, r := m.s, m.r
	now := m.now.Mono
	const never = time.Duration(math.MaxInt64)
	w := never
	if t := r.champion.until; t > now {
		w = t
	}
	if t := r.restoreAt; t > now {
		w = min(w, t)
	}
	if !s.Phase.ended() {
		if t := r.trial.until; t > now {
			w = min(w, t)
		}
		if t := r.retryAt; t > now {
			w = min(w, t)
		}
		if t := r.spentFrom + time.Duration(s.LimitMs-min(s.SpentMs, s.LimitMs))*time.Millisecond; t > now {
			w = min(w, t)
		}
		if s.DeadlineMs != 0 {
			// The clock may jump: look again after a second at the earliest.
			w = min(w, now+max(millis(s.DeadlineMs-m.ms), time.Second))
		}
		wait := never
		switch {
		case s.Phase == shadowing && r.shadowOn:
			wait = time.Duration(s.ShadowMs) * time.Millisecond
		case s.Phase == soaking:
			wait = time.Duration(s.SoakMs) * time.Millisecond
		}
		if wait != never {
			if t := r.phaseFrom + wait; t > now {
				w = min(w, t)
			}
		}
	}
	if w == never {
		return 0
	}
	return w
}

// unixMs returns t in Unix milliseconds, and 0 for the zero time.
func unixMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// millis returns n milliseconds, at most about a century.
func millis(n int64) time.Duration {
	const most = 100 * 365 * 24 * 3600 * 1000
	return time.Duration(max(min(n, most), -most)) * time.Millisecond
}

func ms32(s float64) uint32 {
	if !(s > 0) {
		return 0
	}
	return uint32(min(math.Ceil(s*1000), math.MaxUint32))
}
