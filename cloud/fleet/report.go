package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// maxBatch bounds how many reports share one transaction.
const maxBatch = 512

// storeTimeout bounds one transaction; a store that hangs longer fails the
// reports, and their devices send them again.
const storeTimeout = 30 * time.Second

// Report takes a reported document as it came from the topic of id, which the
// broker has authenticated. done is called once: with nil when the report is
// stored, older than what is stored, or can never be read; with an error when
// the device should send it again.
func (r *Registry) Report(id topic.ID, payload []byte, done func(error)) {
	doc, err := twin.ParseReported(payload, id)
	if err != nil {
		r.malformed.Add(1)
		r.cfg.Log.Warn("refused a report", slog.String("device", id.String()), slog.Any("error", err))
		done(nil) // sending it again would not make it better
		return
	}
	r.enqueue(pending{id: id, doc: &doc, at: r.cfg.Now().UTC(), done: done})
}

func (r *Registry) enqueue(p pending) {
	refuse := func(err error) {
		if p.done != nil {
			r.busy.Add(1)
			p.done(err)
		} else {
			r.lost.Add(uint64(len(p.entries)))
		}
	}
	select {
	case <-r.quit:
		refuse(ErrClosed)
		return
	default:
	}
	select {
	case r.queue <- p:
	default:
		refuse(ErrBusy)
	}
}

// Connected notes a session of id.
func (r *Registry) Connected(id topic.ID) { r.session(id, true) }

// Disconnected notes the end of the last session of id.
func (r *Registry) Disconnected(id topic.ID) { r.session(id, false) }

func (r *Registry) session(id topic.ID, on bool) {
	r.write.Lock()
	defer r.write.Unlock()
	d, err := r.Get(id)
	if err != nil || d.Connected == on {
		return // an unknown device shows itself with its first report
	}
	d.Connected = on
	d.LastSeen = r.cfg.Now().UTC()
	r.replace(&d, true)
	e := Entry{ID: id, At: d.LastSeen, Type: "connected", Severity: "info", Message: "Connected"}
	if !on {
		e.Type, e.Message = "disconnected", "Connection lost"
	}
	r.enqueue(pending{id: id, entries: []Entry{e}})
}

// Seen notes a sign of life that carries nothing for the fleet, such as a
// block of data.
func (r *Registry) Seen(id topic.ID) {
	now := r.cfg.Now().UTC()
	r.mu.RLock()
	d, ok := r.byID[id]
	fresh := ok && now.Sub(d.LastSeen) < r.cfg.StaleAfter/8
	r.mu.RUnlock()
	if !ok || fresh {
		return
	}
	r.write.Lock()
	defer r.write.Unlock()
	c, err := r.Get(id)
	if err != nil {
		return
	}
	was := c.State
	c.LastSeen = now
	r.finish(&c, now)
	if c.State != was {
		r.replace(&c, true)
		return
	}
	r.mu.Lock()
	r.byID[id] = &c
	r.mu.Unlock()
}

// Note adds a line that a device tells to its history. done is called once:
// with nil when the line is stored, with an error when the device should send
// it again.
func (r *Registry) Note(e Entry, done func(error)) {
	if e.At.IsZero() {
		e.At = r.cfg.Now().UTC()
	}
	r.enqueue(pending{id: e.ID, entries: []Entry{e}, done: done})
}

// auditsAtOnce bounds how many lines are written to the audit log at a time:
// it groups what comes together.
const auditsAtOnce = 64

// audit writes the lines that matter to the audit log, before they are stored.
func (r *Registry) audit(ctx context.Context, entries []Entry) error {
	if r.cfg.Audit == nil {
		return nil
	}
	var work errgroup.Group
	work.SetLimit(auditsAtOnce)
	for _, e := range entries {
		if e.Matters() {
			work.Go(func() error { return r.cfg.Audit(ctx, e) })
		}
	}
	return work.Wait()
}

// run stores what waits, as much as there is in one transaction, and looks for
// devices that have fallen silent.
func (r *Registry) run() {
	defer close(r.done)
	sweep := time.NewTicker(max(r.cfg.StaleAfter/9, 50*time.Millisecond))
	defer sweep.Stop()
	var refresh <-chan time.Time // nil: nobody else writes
	if r.cfg.Refresh > 0 {
		t := time.NewTicker(r.cfg.Refresh)
		defer t.Stop()
		refresh = t.C
	}
	for {
		select {
		case p := <-r.queue:
			r.store(r.gather(p))
		case <-sweep.C:
			r.sweep()
		case <-refresh:
			r.refresh()
		case <-r.quit:
			for {
				select {
				case p := <-r.queue:
					r.store(r.gather(p))
				default:
					return
				}
			}
		}
	}
}

func (r *Registry) gather(first pending) []pending {
	batch := []pending{first}
	for len(batch) < maxBatch {
		select {
		case p := <-r.queue:
			batch = append(batch, p)
		default:
			return batch
		}
	}
	return batch
}

// store writes a batch in one transaction, shows it and answers.
func (r *Registry) store(batch []pending) {
	r.write.Lock()
	var entries []Entry
	changed := map[topic.ID]*Device{}
	important := map[topic.ID]bool{}
	var order []topic.ID
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	errs := make([]error, len(batch))
	for i, p := range batch {
		d, ok := changed[p.id]
		if !ok {
			dev, err := r.Get(p.id)
			if err != nil && p.doc == nil {
				continue // history of a device that never was: nothing to tie it to
			}
			if err != nil {
				if errs[i] = r.adopt(ctx, &dev, p); errs[i] != nil {
					continue
				}
			}
			d = &dev
		}
		entries = append(entries, p.entries...)
		if p.doc == nil {
			continue
		}
		if !ok {
			changed[p.id] = d
			order = append(order, p.id)
		}
		es, imp := r.fold(d, p)
		entries = append(entries, es...)
		important[p.id] = important[p.id] || imp
	}
	var recs []Record
	for _, id := range order {
		recs = append(recs, changed[id].Record)
	}
	var err error
	if err = r.audit(ctx, entries); err == nil && len(recs)+len(entries) > 0 {
		err = r.cfg.Store.SaveReports(ctx, recs, entries)
	}
	if err != nil {
		r.cfg.Log.Error("cannot store reports", slog.Int("reports", len(recs)), slog.Any("error", err))
	} else {
		for _, id := range order {
			r.replace(changed[id], important[id])
		}
	}
	r.write.Unlock()
	for i, p := range batch {
		if p.done == nil {
			continue
		}
		if errs[i] != nil {
			p.done(errs[i])
		} else {
			p.done(err)
		}
	}
}

// adopt makes a record for a device that reports and is not known: its
// certificate is the hub's, so it was enrolled, by a hub whose store is gone.
func (r *Registry) adopt(ctx context.Context, d *Device, p pending) error {
	if r.Len() >= r.cfg.MaxDevices {
		return fmt.Errorf("device %s: %w (%d): raise fleet.maxDevices", p.id, ErrFull, r.cfg.MaxDevices)
	}
	*d = Device{Record: Record{ID: p.id, Class: p.doc.Class, EnrolledAt: p.at, Version: 1}, Connected: true}
	if err := r.cfg.Store.SaveDevice(ctx, d.Record); err != nil {
		return fmt.Errorf("store device %s: %w", p.id, err)
	}
	return nil
}

// fold takes a report into the device and returns what is worth a line.
func (r *Registry) fold(d *Device, p pending) (entries []Entry, important bool) {
	doc := p.doc
	if doc.Offline {
		// The broker speaks for a device that is gone; what the device last
		// said stays true.
		if d.Connected {
			d.Connected = false
			entries = append(entries, Entry{ID: p.id, At: p.at, Type: "disconnected", Severity: "info", Message: "Connection lost"})
		}
		return entries, true
	}
	old := &d.Report.Doc
	if d.Heard() && old.Boot == doc.Boot && doc.Seq <= old.Seq {
		r.stale.Add(1)
		d.LastSeen = p.at
		return nil, false
	}
	if doc.Stream.Samples < old.Stream.Samples {
		d.Base = d.Base.plus(old.Stream) // installed again: its counters began anew
	}
	if doc.Class != "" && d.Class == "" {
		d.Class = doc.Class
	}
	entries = differences(p.id, p.at, old, doc)
	// While a trial goes on every report can bring a gate its last number.
	trial := doc.Trial != nil && !doc.Trial.Phase.Final()
	important = len(entries) > 0 || old.Generation != doc.Generation || !d.Connected || trial
	d.Evidence = rollout.Fold(rollout.Device{Evidence: d.Evidence}, *doc, p.at).Evidence
	d.Report = Report{Received: p.at, Doc: *doc}
	d.LastSeen = p.at
	d.Connected = true
	return entries, important
}

// differences are the lines of history between two reports of a device.
func differences(id topic.ID, at time.Time, old, doc *twin.Reported) []Entry {
	var out []Entry
	add := func(e Entry) { e.ID, e.At = id, at; out = append(out, e) }
	if c := doc.Champion; c != nil && (old.Champion == nil || old.Champion.Manifest != c.Manifest) {
		name := fmt.Sprintf("%s-%d", c.Name, c.Counter)
		add(Entry{Type: "swap", Severity: "info", Message: name + " acts now", Release: name})
	}
	if t := doc.Trial; t != nil && (old.Trial == nil || old.Trial.Phase != t.Phase || old.Trial.Manifest != t.Manifest || old.Trial.Attempts != t.Attempts) {
		name := fmt.Sprintf("%s-%d", t.Name, t.Counter)
		e := Entry{Type: "phase", Severity: "info", Message: name + " is " + string(t.Phase), Rollout: t.Rollout, Release: name}
		switch t.Phase {
		case twin.PhaseNone:
			e.Message = name + " was offered"
		case twin.PhaseFailed:
			e.Severity = "warning"
			if refusals[t.Code] {
				e.Type, e.Message = "refused", name+" was refused"
			}
			if t.Code == twin.CodeQuarantine {
				e.Type = "quarantine"
			}
		case twin.PhaseRolledBack:
			e.Type, e.Severity, e.Message = "rollback", "warning", name+" was rolled back"
		}
		if t.Reason != "" {
			e.Message += ": " + t.Reason
		}
		add(e)
	}
	held := map[string]bool{}
	for _, c := range old.Conditions {
		held[c.Type] = c.Status
	}
	for _, c := range doc.Conditions {
		was := held[c.Type]
		delete(held, c.Type)
		if c.Status == was {
			continue
		}
		add(conditionEntry(c.Type, c.Status, c.Message))
	}
	for _, c := range old.Conditions {
		if held[c.Type] { // held, and no longer mentioned
			add(conditionEntry(c.Type, false, ""))
		}
	}
	return out
}

// refusals are the codes by which a device says that it does not believe or
// does not take a release, whatever its own state is.
var refusals = map[twin.Code]bool{
	twin.CodeSignature: true, twin.CodeContent: true, twin.CodeCounter: true, twin.CodeClass: true, twin.CodeGuard: true, twin.CodeLoad: true,
	twin.CodeGolden: true, twin.CodeQuarantine: true,
}

func conditionEntry(kind string, holds bool, message string) Entry {
	e := Entry{Type: "condition", Severity: "info", Message: kind + " is over"}
	if holds {
		e.Severity, e.Message = "warning", kind
		if Critical[kind] {
			e.Severity = "critical"
		}
		if message != "" {
			e.Message += ": " + message
		}
	}
	return e
}

// sweep gives devices that have fallen silent their new state.
func (r *Registry) sweep() {
	now := r.cfg.Now()
	var quiet []topic.ID
	r.All(func(d *Device) bool {
		if r.state(d, now) != d.State {
			quiet = append(quiet, d.ID)
		}
		return true
	})
	if len(quiet) == 0 {
		return
	}
	r.write.Lock()
	defer r.write.Unlock()
	for _, id := range quiet {
		d, err := r.Get(id)
		if err != nil || r.state(&d, now) == d.State {
			continue
		}
		r.replace(&d, true)
	}
}

// refresh takes in what other hubs have stored.
func (r *Registry) refresh() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	r.write.Lock()
	defer r.write.Unlock()
	err := r.cfg.Store.Devices(ctx, r.newest, func(rec Record, changed time.Time) error {
		if changed.After(r.newest) {
			r.newest = changed
		}
		d, err := r.Get(rec.ID)
		if err == nil && d.Version >= rec.Version && !rec.Report.Received.After(d.Report.Received) {
			return nil
		}
		if err != nil && r.Len() >= r.cfg.MaxDevices {
			return ErrFull
		}
		heard := rec.Report.Received.After(d.LastSeen)
		d.Record = rec
		if heard {
			d.LastSeen, d.Connected = rec.Report.Received, true
		}
		r.replace(&d, true)
		return nil
	})
	if err != nil {
		r.cfg.Log.Error("cannot read what other hubs stored about devices", slog.Any("error", err))
	}
}
