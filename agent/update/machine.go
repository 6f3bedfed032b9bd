package update

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Machine is one device's update state. The zero value is not usable: see New.
// It is not safe for concurrent use.
type Machine struct {
	cfg Config
	j   Journal
	now Moment // of the newest step

	// The rest lives for one run of the agent only.
	booted    bool
	out       Ready
	dirty     bool // the journal changed since the last Advance
	nextID    uint64
	trial     pending // the trial's action on its way
	champion  pending // Resume or Rollback on its way
	retries   int     // of the trial's action in this phase
	retryAt   time.Duration
	fallback  int           // how many candidates failed to load in a row
	restoreAt time.Duration // when to try the next one; 0: not waiting

	want       *twin.Assignment // newest assignment; nil: none, or withdrawn
	issuedAt   time.Time        // of the newest document, by the hub's clock
	expiresAt  time.Time
	lease      *twin.Lease
	leaseUntil time.Duration // running time at which the lease ends, whatever the wall clock says

	phaseFrom  time.Duration // when this phase began in this run
	spentFrom  time.Duration // State.SpentMs is good up to here
	shadowOn   bool          // the challenger computes
	bytesDone  int64
	bytesTotal int64
	shadow     *twin.Shadow
	soak       Observed // newest counters of the champion on trial
}

// pending is an action that has to be answered.
type pending struct {
	id    uint64
	kind  ActionKind
	until time.Duration // when it is given up; 0: never
}

// New returns a machine that goes on from j, or starts afresh when j is nil.
// It does nothing before Booted.
func New(cfg Config, j *Journal) (*Machine, error) {
	m := &Machine{cfg: cfg.withDefaults(), j: Journal{Schema: 1}}
	if j != nil {
		if err := j.Validate(); err != nil {
			return nil, err
		}
		m.j = *j.clone()
	}
	return m, nil
}

func (c Config) withDefaults() Config {
	set(&c.MaxAttempts, 3)
	set(&c.MaxRetries, 8)
	set(&c.MaxBoots, 3)
	set(&c.BackoffMin, 2*time.Second)
	set(&c.BackoffMax, 5*time.Minute)
	set(&c.StepLimit, 10*time.Minute)
	set(&c.TrialLimit, 24*time.Hour)
	set(&c.MinOutputShare, 0.5)
	set(&c.MaxSkew, 5*time.Minute)
	return c
}

func set[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// Ready returns what the steps so far ask for. It may be called again until
// Advance.
func (m *Machine) Ready() Ready {
	r := m.out
	if m.dirty {
		r.Save = m.j.clone()
	}
	r.Wake = m.wake()
	return r
}

// Advance says that what Ready returned was saved and started.
func (m *Machine) Advance() { m.out, m.dirty = Ready{}, false }

// Phase returns where the trial stands; Status says more.
func (m *Machine) Phase() twin.Phase { return m.j.State.Phase.twin() }

// Status returns the machine's part of the reported document, as it is now.
func (m *Machine) Status() Status {
	s := Status{Generation: m.j.State.Generation, Quarantined: slices.Clone(m.j.Quarantined)}
	if r := m.j.State.Champion; r != 0 {
		c := m.j.release(r)
		s.Champion = &c
	}
	if r := m.j.State.LastGood; r != 0 {
		c := m.j.release(r)
		s.LastGood = &c
	}
	if m.j.State.Phase != none {
		rel := m.j.release(m.j.State.Trial)
		t := &twin.Trial{
			Rollout: m.j.Rollout, Name: rel.Name, Counter: rel.Counter, Manifest: rel.Manifest, Model: rel.Model,
			Mode: m.mode(), Try: m.j.Try, Phase: m.j.State.Phase.twin(), Since: time.UnixMilli(m.j.State.SinceMs).UTC(),
			Reason: m.j.Reason, Code: m.j.Code, Attempts: int(m.j.State.Attempts),
			BytesDone: m.bytesDone, BytesTotal: m.bytesTotal, Lease: m.j.Lease,
			Windows: m.soak.Windows, NonFinite: m.soak.NonFinite, LatencyP99Ms: m.soak.LatencyP99Ms,
		}
		if m.shadow != nil {
			sh := *m.shadow
			sh.Windows = slices.Clone(sh.Windows)
			t.Shadow = &sh
		}
		s.Trial = t
	}
	s.Conditions = m.conditions()
	return s
}

func (m *Machine) conditions() []twin.Condition {
	var cs []twin.Condition
	if m.clockBehind() {
		cs = append(cs, twin.Condition{
			Type: "ClockSkew", Status: true, Reason: "BehindHub", Since: m.now.Wall,
			Message: fmt.Sprintf("the clock says %s and the hub wrote at %s: set the clock (chrony, timesyncd); what runs keeps running and nothing new is started",
				m.now.Wall.UTC().Format(time.RFC3339), m.issuedAt.UTC().Format(time.RFC3339)),
		})
	}
	if m.want != nil && m.expired() {
		cs = append(cs, twin.Condition{
			Type: "DesiredExpired", Status: true, Reason: "TooOld", Since: m.expiresAt,
			Message: fmt.Sprintf("the desired document ended at %s: nothing new is started until the hub sends another", m.expiresAt.UTC().Format(time.RFC3339)),
		})
	}
	if m.fallback > 0 {
		cs = append(cs, twin.Condition{
			Type: "NoModel", Status: true, Reason: "LoadFailed", Since: m.now.Wall,
			Message: "no release on the disk could be loaded at the last try: the agent keeps trying, and takes a new release from the hub",
		})
	}
	return cs
}

func (m *Machine) mode() twin.Mode {
	if m.j.State.Rollback {
		return twin.ModeRollback
	}
	return twin.ModeTrial
}

// Step takes in one event. Events before Booted are ignored.
func (m *Machine) Step(at Moment, e Event) {
	if at.Mono < m.now.Mono {
		at.Mono = m.now.Mono
	}
	m.now = at
	if _, ok := e.(Booted); !ok && !m.booted {
		return
	}
	switch e := e.(type) {
	case Booted:
		m.boot()
	case Offered:
		m.offered(e.Doc)
	case Done:
		m.done(e)
	case Failed:
		m.failed(e)
	case Progress:
		if e.Action == m.trial.id && m.trial.kind == ActFetch {
			m.bytesDone, m.bytesTotal = e.BytesDone, e.BytesTotal
		}
	case Observed:
		m.observed(e)
	case Tick:
	}
	m.limits()
	m.proceed() // may end a trial
	m.consider()
	m.proceed()
}

// boot resumes the champion and counts a start against the trial, before
// anything of it is touched again.
func (m *Machine) boot() {
	if m.booted {
		return
	}
	m.booted = true
	m.out.Report = true
	s := &m.j.State
	switch {
	case s.Phase == soaking:
		s.Boots++
		m.save()
		if int(s.Boots) > m.cfg.MaxBoots {
			m.goBack(twin.CodeCrash, fmt.Sprintf("the agent started %d times within the soak", s.Boots), true)
			return
		}
	case !s.Phase.ended():
		s.Attempts++
		if int(s.Attempts) > m.cfg.MaxAttempts {
			code := twin.CodeAttempts
			if s.Phase >= guarding && s.Phase <= golden {
				code = twin.CodeLoad
			}
			s.Attempts--
			m.fail(code, fmt.Sprintf("interrupted while %s in start %d of %d", s.Phase.twin(), s.Attempts, m.cfg.MaxAttempts))
			break
		}
		// Sessions are gone and bytes may have rotted: begin again behind the
		// download. A swap that was not saved has not happened.
		if s.Phase > verifying {
			m.j.State.Withdraw = false
			m.move(verifying, "restart")
		} else {
			m.move(s.Phase, "restart")
		}
	}
	if s.Champion == 0 {
		m.clean()
		return
	}
	a := Action{Kind: ActResume, Release: m.j.release(s.Champion)}
	if s.LastGood != 0 && s.LastGood != s.Champion && s.Phase == soaking {
		r := m.j.release(s.LastGood)
		a.Standby = &r
	}
	m.champion = m.start(a, m.cfg.StepLimit)
}

// offered takes in a document unless a newer one is known.
func (m *Machine) offered(d twin.Desired) {
	s := &m.j.State
	if d.Generation < s.Generation {
		return
	}
	if d.Generation > s.Generation {
		s.Generation = d.Generation
		m.save()
		m.out.Report = true
	}
	for name, floor := range d.Floors {
		if floor > m.j.Floors[name] {
			if m.j.Floors == nil {
				m.j.Floors = map[string]uint64{}
			}
			m.j.Floors[name] = floor
			m.save()
		}
	}
	m.issuedAt, m.expiresAt, m.want = d.IssuedAt, d.ExpiresAt, d.Model
	switch {
	case d.Lease == nil:
		m.lease = nil
	case m.lease == nil || m.lease.ID != d.Lease.ID || m.lease.ExpiresAt != d.Lease.ExpiresAt:
		l := *d.Lease
		m.lease = &l
		// A lease lasts no longer than the hub meant, even if the clock stands still.
		m.leaseUntil = m.now.Mono + l.ExpiresAt.Sub(d.IssuedAt)
	}

	if rel := m.j.release(s.Trial); s.Phase.inactive() && rel.Counter < m.j.Floors[rel.Name] {
		m.fail(twin.CodeCounter, fmt.Sprintf("the floor rose to %d, above counter %d", m.j.Floors[rel.Name], rel.Counter))
	}
	if s.Phase.ended() || m.sameTrial(m.want) {
		if !s.Phase.ended() && unixMs(m.want.Deadline) != s.DeadlineMs {
			m.setDeadline(*m.want)
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

// sameTrial says whether a asks for the trial that the journal is about.
func (m *Machine) sameTrial(a *twin.Assignment) bool {
	return a != nil && m.j.State.Phase != none && m.j.Rollout == a.Rollout && m.j.Try == a.Try &&
		m.mode() == a.Mode && m.j.release(m.j.State.Trial).Manifest == a.Manifest
}

// consider starts the wanted trial when nothing stands in its way.
func (m *Machine) consider() {
	s := &m.j.State
	if m.want == nil || !s.Phase.ended() || m.sameTrial(m.want) || m.champion.id != 0 && m.fallback == 0 {
		return
	}
	if m.clockBehind() || m.expired() {
		return
	}
	a := *m.want
	rel := Release{Name: a.Name, Counter: a.Counter, Manifest: a.Manifest}
	s.Trial = m.j.intern(rel)
	s.Rollback = a.Mode == twin.ModeRollback
	s.Withdraw = false
	s.Attempts, s.Boots, s.SpentMs = 1, 0, 0
	s.ShadowMs, s.SoakMs = ms32(a.ShadowS), ms32(a.SoakS)
	s.WindowMs = ms32(a.ShadowWindowS)
	if s.WindowMs == 0 {
		s.WindowMs = 60_000
	}
	s.MinWindows = uint32(min(max(a.MinWindows, 1), math.MaxUint32))
	m.j.Rollout, m.j.Try, m.j.Lease, m.j.Code, m.j.Reason = a.Rollout, a.Try, "", "", ""
	m.shadow, m.soak, m.bytesDone, m.bytesTotal = nil, Observed{}, 0, 0
	m.setDeadline(a)

	champion := m.j.release(s.Champion)
	switch {
	case s.Champion != 0 && champion.Manifest == a.Manifest && m.fallback == 0:
		m.move(confirmed, "offer of what runs")
		m.j.Reason = "runs already"
	case slices.Contains(m.j.Quarantined, a.Manifest):
		m.refuse(twin.CodeQuarantine, "this release was rolled back here before")
	case a.Counter < m.j.Floors[a.Name]:
		m.refuse(twin.CodeCounter, fmt.Sprintf("counter %d is below the floor %d", a.Counter, m.j.Floors[a.Name]))
	case !s.Rollback && s.Champion != 0 && champion.Name == a.Name && a.Counter <= champion.Counter:
		m.refuse(twin.CodeCounter, fmt.Sprintf("counter %d is not above %d, which runs", a.Counter, champion.Counter))
	case m.j.find(a.Manifest) != 0:
		m.move(verifying, "return to a release it holds")
	default:
		m.move(fetching, "offer")
	}
}

// held is what the trial has to be admitted against.
func (m *Machine) held() artifact.Held {
	trial, champion := m.j.release(m.j.State.Trial), m.j.release(m.j.State.Champion)
	h := artifact.Held{Floor: m.j.Floors[trial.Name]}
	if !m.j.State.Rollback && champion.Name == trial.Name {
		h.Counter, h.Digest = champion.Counter, champion.Manifest
	}
	return h
}

func (m *Machine) refuse(code twin.Code, reason string) {
	m.j.Code, m.j.Reason = code, reason
	m.move(failed, "refused")
}

func (m *Machine) setDeadline(a twin.Assignment) {
	s := &m.j.State
	limit := m.cfg.TrialLimit
	s.DeadlineMs = unixMs(a.Deadline)
	if s.DeadlineMs != 0 {
		// The same length in running time holds when the clock does not.
		limit = max(a.Deadline.Sub(m.issuedAt), time.Second)
		limit += time.Duration(s.spent(m.now.Mono-m.spentFrom)) * time.Millisecond
	}
	s.LimitMs = uint32(min(limit.Milliseconds(), math.MaxUint32))
}

func (s *State) spent(more time.Duration) uint32 {
	if s.Phase.ended() {
		return 0
	}
	return uint32(min(int64(s.SpentMs)+more.Milliseconds(), math.MaxUint32))
}

// done takes in a success.
func (m *Machine) done(e Done) {
	switch {
	case e.Action == 0:
	case e.Action == m.champion.id:
		m.champion, m.fallback = pending{}, 0
		if r := m.j.State.Champion; r != 0 && e.Release.Model != "" && m.j.Releases[r-1].Model != e.Release.Model {
			m.j.Releases[r-1].Model = e.Release.Model
			m.save()
		}
		m.phaseFrom = m.now.Mono
		m.out.Report = true
		m.clean()
	case e.Action == m.trial.id:
		kind := m.trial.kind
		m.trial = pending{}
		m.trialDone(kind, e)
	}
}

func (m *Machine) trialDone(kind ActionKind, e Done) {
	s := &m.j.State
	switch kind {
	case ActFetch:
		m.move(verifying, "fetched")
	case ActVerify:
		rel := &m.j.Releases[s.Trial-1]
		if e.Release.Manifest != rel.Manifest || e.Release.Name != rel.Name || e.Release.Counter != rel.Counter {
			m.fail(twin.CodeContent, fmt.Sprintf("the signed manifest is %s-%d, the hub offered %s-%d", e.Release.Name, e.Release.Counter, rel.Name, rel.Counter))
			return
		}
		if floor := m.j.Floors[rel.Name]; rel.Counter < floor {
			m.fail(twin.CodeCounter, fmt.Sprintf("counter %d is below the floor %d", rel.Counter, floor))
			return
		}
		rel.Limits = e.Release.Limits
		m.move(guarding, "verified")
	case ActGuard:
		m.move(loading, "admitted")
	case ActLoad:
		if e.Release.Model.Validate() != nil {
			m.fail(twin.CodeLoad, "the loaded session has no digest")
			return
		}
		m.j.Releases[s.Trial-1].Model = e.Release.Model
		m.move(golden, "loaded")
	case ActTest:
		if s.ShadowMs == 0 || s.Rollback || s.Champion == 0 || m.fallback > 0 {
			m.move(ready, "golden vectors hold, nothing to shadow")
			return
		}
		m.move(shadowing, "golden vectors hold")
	case ActShadow:
		m.shadowOn = true
		m.phaseFrom = m.now.Mono
	case ActInterlock:
		if !m.leased() {
			return // it ran out while the interlocks were read
		}
		m.j.Lease = m.lease.ID
		m.move(activating, "lease and interlocks permit")
	case ActSwap:
		m.swapped()
	}
}

// swapped makes the trial the champion.
func (m *Machine) swapped() {
	s := &m.j.State
	m.fallback, m.restoreAt = 0, 0
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
	m.soak = Observed{}
	if s.Withdraw {
		m.goBack(twin.CodeWithdrawn, "withdrawn by the hub during the swap", false)
		return
	}
	m.move(soaking, "swapped")
}

// failed takes in a failure.
func (m *Machine) failed(e Failed) {
	switch {
	case e.Action == 0:
	case e.Action == m.champion.id:
		m.champion = pending{}
		m.restoreFailed(e.Reason)
	case e.Action == m.trial.id:
		kind := m.trial.kind
		m.trial = pending{}
		m.trialFailed(kind, e)
	}
}

func (m *Machine) trialFailed(kind ActionKind, e Failed) {
	s := &m.j.State
	switch {
	case kind == ActInterlock:
		// Closed or unreadable is the same: not now. The deadline bounds it.
		m.j.Reason = e.Reason
		m.retryAt = m.now.Mono + m.backoff(0)
		m.out.Report = true
	case kind == ActSwap && s.Withdraw:
		m.drop("withdrawn by the hub during the swap")
	case kind == ActVerify && e.Code == twin.CodeContent && e.Retryable && int(s.Attempts) < m.cfg.MaxAttempts:
		// Bytes rotted or the download was cut short: fetch what is missing.
		s.Attempts++
		m.move(fetching, "content differs")
	case e.Retryable && m.retries < m.cfg.MaxRetries:
		m.retries++
		m.retryAt = m.now.Mono + m.backoff(m.retries-1)
		m.j.Reason = e.Reason
		m.out.Report = true
	default:
		m.fail(e.Code, e.Reason)
	}
}

// backoff returns BackoffMin doubled n times, at most BackoffMax, of which the
// upper half is drawn.
func (m *Machine) backoff(n int) time.Duration {
	d := m.cfg.BackoffMin << min(n, 30)
	if d > m.cfg.BackoffMax || d <= 0 {
		d = m.cfg.BackoffMax
	}
	return d/2 + time.Duration(m.now.Draw*float64(d/2))
}

// restoreFailed tries the next release the device holds: the champion, the
// last good one, the spare, and round again, ever more slowly.
func (m *Machine) restoreFailed(reason string) {
	s := &m.j.State
	m.out.Report = true
	if s.Phase == soaking {
		m.goBack(twin.CodeLoad, "cannot be loaded after a restart: "+reason, true)
		return
	}
	m.fallback++
	m.restoreAt = m.now.Mono + m.backoff(m.fallback-1)
}

// restore starts the next candidate after restoreFailed. Outside of a soak the
// champion is the last good release, so the two that are left take turns.
func (m *Machine) restore() {
	s := &m.j.State
	m.restoreAt = 0
	var cs []ref
	for _, r := range []ref{s.LastGood, s.Spare} {
		if r != 0 {
			cs = append(cs, r)
		}
	}
	if len(cs) == 0 {
		return
	}
	s.Champion = cs[m.fallback%len(cs)]
	m.save()
	m.champion = m.start(Action{Kind: ActRollback, Release: m.j.release(s.Champion)}, m.cfg.StepLimit)
}

// observed is the watchdog.
func (m *Machine) observed(e Observed) {
	s := &m.j.State
	if e.Shadow != nil && (s.Phase == shadowing || s.Phase == ready) && m.shadowOn {
		m.shadow = e.Shadow
		l := m.j.release(s.Trial).Limits
		flagged := e.Shadow.OnlyChallenger + e.Shadow.Both
		if code, reason := watch(l, e.Shadow.Items, flagged, e.Shadow.NonFinite, e.Shadow.LatencyP99Ms); code != "" {
			m.fail(code, "in the shadow "+reason)
			return
		}
	}
	if s.Phase != soaking || m.champion.id != 0 || e.Champion != m.j.release(s.Champion).Manifest {
		return
	}
	m.soak = e
	l := m.j.release(s.Champion).Limits
	if code, reason := watch(l, e.Windows, e.Flagged, e.NonFinite, e.LatencyP99Ms); code != "" {
		m.goBack(code, reason, true)
		return
	}
	if e.Due >= uint64(max(l.MinWatchdogObs, 10)) && float64(e.Windows) < m.cfg.MinOutputShare*float64(e.Due) {
		m.goBack(twin.CodeOutput, fmt.Sprintf("it scored %d of %d windows", e.Windows, e.Due), true)
	}
}

// watch compares counters with the limits of a variant.
func watch(l artifact.Limits, windows, flagged, nonFinite uint64, p99Ms float64) (twin.Code, string) {
	enough := windows >= uint64(max(l.MinWatchdogObs, 10))
	switch {
	case nonFinite > 0:
		return twin.CodeNonFinite, fmt.Sprintf("%d of %d scores were not finite", nonFinite, windows)
	case l.LatencyP99Ms > 0 && enough && !(p99Ms <= l.LatencyP99Ms):
		return twin.CodeLatency, fmt.Sprintf("p99 of an inference was %.3g ms, allowed are %.3g ms", p99Ms, l.LatencyP99Ms)
	case l.MaxFlagShare > 0 && enough && float64(flagged) > l.MaxFlagShare*float64(windows):
		return twin.CodeFlags, fmt.Sprintf("it flagged %d of %d windows, allowed is a share of %.3g", flagged, windows, l.MaxFlagShare)
	}
	return "", ""
}

// limits ends what took too long.
func (m *Machine) limits() {
	s := &m.j.State
	if m.champion.id != 0 && m.champion.until != 0 && m.now.Mono >= m.champion.until {
		id := m.champion.id
		m.champion = pending{}
		m.do(Action{Kind: ActCancel, Cancel: id})
		m.restoreFailed("no answer in time")
	}
	if s.Phase.ended() {
		return
	}
	spent := s.spent(m.now.Mono - m.spentFrom)
	over := spent >= s.LimitMs || s.DeadlineMs != 0 && !m.clockBehind() && m.now.Wall.UnixMilli() >= s.DeadlineMs
	switch {
	case s.Phase == activating:
		// A swap is never left half done: it ends by its own limit.
		if m.trial.id != 0 && m.now.Mono >= m.trial.until {
			m.fail(twin.CodeDeadline, "the swap did not end in time")
			m.champion = m.start(Action{Kind: ActRollback, Release: m.j.release(s.Champion)}, m.cfg.StepLimit)
		}
	case over && s.Phase == soaking:
		m.goBack(twin.CodeDeadline, "not confirmed by the deadline", m.cfg.QuarantineLate)
	case over:
		reason := fmt.Sprintf("still %s at the deadline", s.Phase.twin())
		if m.j.Reason != "" {
			reason += ": " + m.j.Reason // what it was held up by
		}
		m.fail(twin.CodeDeadline, reason)
	case m.trial.id != 0 && m.trial.until != 0 && m.now.Mono >= m.trial.until:
		kind := m.trial.kind
		m.do(Action{Kind: ActCancel, Cancel: m.trial.id})
		m.trial = pending{}
		m.trialFailed(kind, Failed{Code: twin.CodeDeadline, Reason: fmt.Sprintf("%s did not end in %s", kind, m.cfg.StepLimit), Retryable: kind == ActInterlock})
	}
}

// proceed does what only waits for time or for a lease.
func (m *Machine) proceed() {
	s := &m.j.State
	if m.restoreAt != 0 && m.now.Mono >= m.restoreAt && s.Phase != activating {
		m.restore()
	}
	if m.champion.id != 0 && (m.fallback == 0 || s.Phase >= ready) {
		return // first of all something acts
	}
	switch {
	case s.Phase == soaking:
		if m.want != nil && m.want.Mode == twin.ModeRollback && m.leaseFor(m.want.Manifest) {
			m.goBack(twin.CodeWithdrawn, "called back by the hub", false)
			return
		}
		if m.now.Mono-m.phaseFrom >= time.Duration(s.SoakMs)*time.Millisecond && m.soak.Windows >= uint64(s.MinWindows) {
			m.confirm()
		}
	case s.Phase == shadowing && m.shadowOn && m.now.Mono-m.phaseFrom >= time.Duration(s.ShadowMs)*time.Millisecond:
		m.move(ready, "shadowed long enough")
	}
	if !s.Phase.inactive() || m.trial.id != 0 || m.now.Mono < m.retryAt {
		return
	}
	switch s.Phase {
	case fetching:
		m.startTrial(Action{Kind: ActFetch}, 0)
	case verifying:
		m.startTrial(Action{Kind: ActVerify, Held: m.held()}, m.cfg.StepLimit)
	case guarding:
		m.startTrial(Action{Kind: ActGuard}, m.cfg.StepLimit)
	case loading:
		m.startTrial(Action{Kind: ActLoad}, m.cfg.StepLimit)
	case golden:
		m.startTrial(Action{Kind: ActTest}, m.cfg.StepLimit)
	case shadowing:
		if !m.shadowOn {
			m.startTrial(Action{Kind: ActShadow, WindowS: float64(s.WindowMs) / 1000}, m.cfg.StepLimit)
		}
	case ready:
		if !m.leased() {
			return
		}
		if s.Rollback {
			// What runs was found to be worse than what comes: an interlock
			// that forbids change must not keep it.
			m.j.Lease = m.lease.ID
			m.move(activating, "lease permits the return")
			return
		}
		m.startTrial(Action{Kind: ActInterlock}, m.cfg.StepLimit)
	}
}

func (m *Machine) startTrial(a Action, limit time.Duration) {
	a.Release = m.j.release(m.j.State.Trial)
	m.trial = m.start(a, limit)
}

// leased says whether the trial may activate now.
func (m *Machine) leased() bool { return m.leaseFor(m.j.release(m.j.State.Trial).Manifest) }

func (m *Machine) leaseFor(manifest artifact.Digest) bool {
	return m.lease != nil && m.lease.Manifest == manifest && !m.clockBehind() &&
		m.now.Wall.Before(m.lease.ExpiresAt) && m.now.Mono < m.leaseUntil
}

// clockBehind says that the clock is so far behind the hub's that no time
// limit can be believed.
func (m *Machine) clockBehind() bool {
	return !m.issuedAt.IsZero() && m.now.Wall.Before(m.issuedAt.Add(-m.cfg.MaxSkew))
}

func (m *Machine) expired() bool { return !m.expiresAt.IsZero() && !m.now.Wall.Before(m.expiresAt) }

// confirm keeps the champion on trial.
func (m *Machine) confirm() {
	s := &m.j.State
	s.Spare, s.LastGood = s.LastGood, s.Champion
	m.move(confirmed, "soaked soundly")
}

// fail ends a trial that never acted.
func (m *Machine) fail(code twin.Code, reason string) {
	m.j.Code, m.j.Reason = code, reason
	m.move(failed, "failed")
}

// drop ends a trial that the hub withdrew before it acted.
func (m *Machine) drop(reason string) {
	m.j.Code, m.j.Reason = twin.CodeWithdrawn, reason
	m.move(dropped, "withdrawn")
}

// goBack ends a trial that acted: the last good release takes over.
func (m *Machine) goBack(code twin.Code, reason string, quarantine bool) {
	s := &m.j.State
	if quarantine {
		m.j.quarantine(m.j.release(s.Trial).Manifest)
	}
	s.Champion = s.LastGood
	m.j.Code, m.j.Reason = code, reason
	m.move(rolledBack, "called back or found unsound")
	if m.champion.id != 0 {
		m.do(Action{Kind: ActCancel, Cancel: m.champion.id})
	}
	m.champion = m.start(Action{Kind: ActRollback, Release: m.j.release(s.Champion)}, m.cfg.StepLimit)
}

// move enters a phase. It is the only writer of State.Phase; a move that is
// not in Transitions is a bug.
func (m *Machine) move(to phase, on string) {
	s := &m.j.State
	if !allowed(s.Phase, to, on) {
		panic(fmt.Sprintf("update: no transition from %q to %q on %q", s.Phase.twin(), to.twin(), on))
	}
	from := s.Phase
	s.SpentMs = s.spent(m.now.Mono - m.spentFrom)
	s.Phase = to
	s.SinceMs = m.now.Wall.UnixMilli()
	m.spentFrom, m.phaseFrom, m.retries, m.retryAt = m.now.Mono, m.now.Mono, 0, 0
	if m.trial.id != 0 {
		m.do(Action{Kind: ActCancel, Cancel: m.trial.id})
		m.trial = pending{}
	}
	m.save()
	m.out.Report = true
	if to != ready {
		m.shadowOn = false
	}
	if !to.ended() {
		m.j.Reason = ""
	}
	switch to {
	case activating:
		m.startTrial(Action{Kind: ActSwap, Return: s.Rollback}, m.cfg.StepLimit)
	case confirmed:
		if !from.ended() {
			m.do(Action{Kind: ActConfirm, Release: m.j.release(s.Champion)})
		}
		m.clean()
	case failed, dropped:
		if !from.ended() {
			m.do(Action{Kind: ActDrop, Release: m.j.release(s.Trial)})
			m.clean()
		}
	}
}

// clean asks to remove the slots nothing points at.
func (m *Machine) clean() {
	s := m.j.State
	var keep []artifact.Digest
	for _, r := range []ref{s.Champion, s.LastGood, s.Spare} {
		if d := m.j.release(r).Manifest; r != 0 && !slices.Contains(keep, d) {
			keep = append(keep, d)
		}
	}
	if d := m.j.release(s.Trial).Manifest; !s.Phase.ended() && !slices.Contains(keep, d) {
		keep = append(keep, d)
	}
	m.do(Action{Kind: ActClean, Keep: keep})
}

func (m *Machine) start(a Action, limit time.Duration) pending {
	id := m.do(a)
	p := pending{id: id, kind: a.Kind}
	if limit > 0 {
		p.until = m.now.Mono + limit
	}
	return p
}

func (m *Machine) do(a Action) uint64 {
	m.nextID++
	a.ID = m.nextID
	m.out.Do = append(m.out.Do, a)
	return a.ID
}

// save marks the journal as changed; Ready copies it when it is asked.
func (m *Machine) save() { m.dirty = true }

// wake returns when time alone will change something, or 0.
func (m *Machine) wake() time.Duration {
	var w time.Duration
	at := func(t time.Duration) {
		if t > m.now.Mono && (w == 0 || t < w) {
			w = t
		}
	}
	s := &m.j.State
	at(m.champion.until)
	at(m.restoreAt)
	if s.Phase.ended() {
		return w
	}
	at(m.trial.until)
	at(m.retryAt)
	at(m.spentFrom + time.Duration(s.LimitMs-min(s.SpentMs, s.LimitMs))*time.Millisecond)
	if s.DeadlineMs != 0 {
		// The clock may jump: look again after a second at the earliest.
		at(m.now.Mono + max(time.UnixMilli(s.DeadlineMs).Sub(m.now.Wall), time.Second))
	}
	switch {
	case s.Phase == shadowing && m.shadowOn:
		at(m.phaseFrom + time.Duration(s.ShadowMs)*time.Millisecond)
	case s.Phase == soaking:
		at(m.phaseFrom + time.Duration(s.SoakMs)*time.Millisecond)
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

func ms32(s float64) uint32 {
	if !(s > 0) {
		return 0
	}
	return uint32(min(math.Ceil(s*1000), math.MaxUint32))
}
