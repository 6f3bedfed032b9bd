package update

import (
	"fmt"
	"slices"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Machine is one device's update state with its journal: the rules of stepper,
// and words where those have numbers. The zero value is not usable: see New.
// It is not safe for concurrent use.
type Machine struct {
	stepper
	j   Journal
	run Run
	own Table // one offer; two leases that take turns

	out []Action

	// Floors of the document being read, and what only the reported document
	// needs of this run.
	floors     map[string]uint64
	bytesDone  int64
	bytesTotal int64
	shadow     *twin.Shadow
}

// New returns a machine that goes on from j, or starts afresh when j is nil.
// It does nothing before Booted.
func New(cfg Config, j *Journal) (*Machine, error) {
	m := &Machine{j: Journal{Schema: 1}}
	if j != nil {
		if err := j.Validate(); err != nil {
			return nil, err
		}
		m.j = *j.clone()
	}
	m.own = Table{Releases: m.j.Releases, Offers: make([]twin.Assignment, 1), Leases: make([]Lease, 2)}
	m.stepper = stepper{cfg: cfg.withDefaults(), book: (*written)(m), table: &m.own, spoken: true, s: &m.j.State, r: &m.run}
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

// Step takes in one event. Events before Booted are ignored.
func (m *Machine) Step(at Moment, e Event) {
	if at.Mono < m.now.Mono {
		at.Mono = m.now.Mono
	}
	m.at(at)
	if _, ok := e.(Booted); !ok && !m.run.booted {
		return
	}
	switch e := e.(type) {
	case Booted:
		m.boot()
	case Offered:
		m.offered(m.file(e.Doc))
	case Done:
		m.done(e.Action, &e.Release)
	case Failed:
		m.failed(e)
	case Progress:
		if e.Action == uint64(m.run.trial.id) && m.run.trial.act == actFetch {
			m.bytesDone, m.bytesTotal = e.BytesDone, e.BytesTotal
		}
	case Observed:
		m.observed(&e)
	case Stopping:
		m.stopping()
		return
	case Tick:
	}
	m.rest()
}

// file puts a document's names into the machine's table, unless a newer
// document is known.
func (m *Machine) file(d twin.Desired) Document {
	doc := Document{Generation: d.Generation, IssuedMs: unixMs(d.IssuedAt), ExpiresMs: unixMs(d.ExpiresAt)}
	if d.Generation < m.j.State.Generation {
		return doc
	}
	m.floors = d.Floors
	if d.Model != nil {
		m.own.Offers[0], doc.Want = *d.Model, 1
	}
	if d.Lease != nil {
		doc.Lease = 1
		if m.run.lease == 1 {
			doc.Lease = 2
		}
		m.own.Leases[doc.Lease-1] = Lease{ID: d.Lease.ID, Manifest: d.Lease.Manifest, ExpiresMs: unixMs(d.Lease.ExpiresAt)}
	}
	return doc
}

// Ready returns what the steps so far ask for. It may be called again until
// Advance.
func (m *Machine) Ready() Ready {
	r := Ready{Do: m.out, Report: m.report, Wake: m.wake()}
	if m.dirty {
		r.Save = m.j.clone()
	}
	return r
}

// Advance says that what Ready returned was saved and started.
func (m *Machine) Advance() { m.out, m.report, m.dirty = nil, false, false }

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
		soak := m.run.soak
		t := &twin.Trial{
			Rollout: m.j.Rollout, Name: rel.Name, Counter: rel.Counter, Manifest: rel.Manifest, Model: rel.Model,
			Mode: m.mode(), Try: m.j.Try, Phase: m.j.State.Phase.twin(), Since: time.UnixMilli(m.j.State.SinceMs).UTC(),
			Reason: m.j.Reason, Code: m.j.Code, Attempts: int(m.j.State.Attempts),
			BytesDone: m.bytesDone, BytesTotal: m.bytesTotal, Lease: m.j.Lease,
			Windows: soak.windows, NonFinite: soak.nonFinite, LatencyP99Ms: soak.latencyP99Ms,
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
	day := func(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
	if m.clockBehind() {
		cs = append(cs, twin.Condition{
			Type: "ClockSkew", Status: true, Reason: "BehindHub", Since: m.now.Wall,
			Message: fmt.Sprintf("the clock says %s and the hub wrote at %s: set the clock (chrony, timesyncd); what runs keeps running and nothing new is started",
				m.now.Wall.UTC().Format(time.RFC3339), day(m.run.issuedMs).Format(time.RFC3339)),
		})
	}
	if m.run.want != 0 && m.expired() {
		cs = append(cs, twin.Condition{
			Type: "DesiredExpired", Status: true, Reason: "TooOld", Since: day(m.run.expiresMs),
			Message: fmt.Sprintf("the desired document ended at %s: nothing new is started until the hub sends another", day(m.run.expiresMs).Format(time.RFC3339)),
		})
	}
	if m.run.fallback > 0 {
		cs = append(cs, twin.Condition{
			Type: "NoModel", Status: true, Reason: "LoadFailed", Since: m.now.Wall,
			Message: "no release on the disk could be loaded at the last try: the agent keeps trying, and takes a new release from the hub",
		})
	}
	return cs
}

// written is a machine as the book of its stepper: the names are in its journal.
type written Machine

func (w *written) trial() (string, int) { return w.j.Rollout, w.j.Try }

func (w *written) begin(a *twin.Assignment) ref {
	r := w.j.intern(Release{Name: a.Name, Counter: a.Counter, Manifest: a.Manifest})
	w.own.Releases = w.j.Releases
	w.j.Rollout, w.j.Try, w.j.Lease, w.j.Code, w.j.Reason = a.Rollout, a.Try, "", "", ""
	w.shadow, w.bytesDone, w.bytesTotal = nil, 0, 0
	return r
}

func (w *written) learn(r ref, model artifact.Digest, limits *artifact.Limits) {
	rel := &w.j.Releases[r-1]
	rel.Model = model
	if limits != nil {
		rel.Limits = *limits
	}
}

func (w *written) ended(code twin.Code, reason string) { w.j.Code, w.j.Reason = code, reason }
func (w *written) held(reason string)                  { w.j.Reason = reason }
func (w *written) heldBy() string                      { return w.j.Reason }
func (w *written) leased(l *Lease)                     { w.j.Lease = l.ID }
func (w *written) quarantine(r ref)                    { w.j.quarantine(w.j.release(r).Manifest) }
func (w *written) quarantined(d artifact.Digest) bool  { return slices.Contains(w.j.Quarantined, d) }
func (w *written) floor(name string) uint64            { return w.j.Floors[name] }
func (w *written) shadowed(s *twin.Shadow)             { w.shadow = s }

func (w *written) raise() bool {
	rose := false
	for name, floor := range w.floors {
		if floor > w.j.Floors[name] {
			if w.j.Floors == nil {
				w.j.Floors = map[string]uint64{}
			}
			w.j.Floors[name], rose = floor, true
		}
	}
	return rose
}

// do writes an action out as it is meant now: what its numbers stand for may
// be another release before the step has ended.
func (w *written) do(id uint32, a act, r ref, cancel uint32) {
	s := &w.j.State
	o := Action{ID: uint64(id), Kind: a.kind(), Release: w.j.release(r), Cancel: uint64(cancel)}
	switch a {
	case actResume:
		if s.LastGood != 0 && s.LastGood != s.Champion && s.Phase == soaking {
			standby := w.j.release(s.LastGood)
			o.Standby = &standby
		}
	case actVerify:
		// What it has to be admitted against.
		trial, champion := o.Release, w.j.release(s.Champion)
		o.Held.Floor = w.j.Floors[trial.Name]
		if !s.Rollback && champion.Name == trial.Name {
			o.Held.Counter, o.Held.Digest = champion.Counter, champion.Manifest
		}
	case actShadow:
		o.WindowS = float64(s.WindowMs) / 1000
	case actSwap:
		o.Return = s.Rollback
	case actClean:
		keep, n := s.kept()
		for _, k := range keep[:n] {
			o.Keep = append(o.Keep, w.j.release(k).Manifest)
		}
	}
	w.out = append(w.out, o)
}
