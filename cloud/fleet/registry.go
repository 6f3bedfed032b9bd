package fleet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Config of a Registry.
type Config struct {
	Store      Store         // required
	Log        *slog.Logger  // required
	StaleAfter time.Duration // silence after which a device counts as offline; 0 means 90 s
	MaxDevices int           // 0 means 200 000
	Queue      int           // reports that may wait for the store; 0 means 4096
	Refresh    time.Duration // how often to read what other hubs stored; 0 means never: this is the only one
	// OnChange hears of every change after it is stored, one at a time. It must
	// return soon and must not call the Registry's writing methods. nil: nobody
	// listens.
	OnChange func(Change)
	// Audit writes a line that matters to the audit log. It comes before the
	// line is stored; an error has the device send it again. A line may be
	// written twice where the store then fails. nil: there is no audit log.
	Audit func(ctx context.Context, e Entry) error
	Now   func() time.Time // nil means time.Now
}

// Registry is the fleet in memory over a Store. Make one with Open; it is safe
// for concurrent use.
type Registry struct {
	cfg   Config
	queue chan pending
	quit  chan struct{}
	done  chan struct{}

	closing sync.Once

	// write serialises changes to records, from their check to their storage;
	// readers need only mu.
	write  sync.Mutex
	newest time.Time // newest change read from the store; guarded by write

	mu     sync.RWMutex
	byID   map[topic.ID]*Device // values are replaced, never changed in place
	order  []topic.ID           // sorted by site, then node
	labels map[string]int       // label key → devices that have it
	// changes starts at mark 1, so that 0 is nobody's.
	changes feed

	flags     flagRing
	malformed atomic.Uint64
	stale     atomic.Uint64 // reports older than the one held
	busy      atomic.Uint64 // reports refused because the queue was full
	lost      atomic.Uint64 // timeline entries dropped because the queue was full
}

// pending is work for the storing goroutine: a report, or entries alone.
type pending struct {
	id      topic.ID
	doc     *twin.Reported // nil: entries alone
	at      time.Time
	entries []Entry
	done    func(error) // nil for entries alone
}

// Open reads the fleet from the store and starts to take reports. Close stops it.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	if cfg.StaleAfter == 0 {
		cfg.StaleAfter = 90 * time.Second
	}
	if cfg.MaxDevices == 0 {
		cfg.MaxDevices = 200_000
	}
	if cfg.Queue == 0 {
		cfg.Queue = 4096
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Registry{
		cfg: cfg, queue: make(chan pending, cfg.Queue), quit: make(chan struct{}), done: make(chan struct{}),
		byID: map[topic.ID]*Device{}, labels: map[string]int{}, changes: feed{mark: 1},
	}
	err := cfg.Store.Devices(ctx, time.Time{}, func(rec Record, changed time.Time) error {
		if changed.After(r.newest) {
			r.newest = changed
		}
		if len(r.byID) >= cfg.MaxDevices {
			return fmt.Errorf("%w (%d): raise fleet.maxDevices", ErrFull, cfg.MaxDevices)
		}
		d := &Device{Record: rec, LastSeen: rec.Report.Received}
		r.finish(d, cfg.Now())
		r.byID[rec.ID] = d
		r.order = append(r.order, rec.ID)
		r.countLabels(d, 1)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the fleet: %w", err)
	}
	slices.SortFunc(r.order, compareIDs)
	go r.run()
	return r, nil
}

func compareIDs(a, b topic.ID) int {
	return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Node, b.Node))
}

// Close stores what is waiting and stops. Reports after it get ErrClosed. A
// second Close does nothing.
func (r *Registry) Close() {
	r.closing.Do(func() { close(r.quit) })
	<-r.done
}

// finish derives State and Totals.
func (r *Registry) finish(d *Device, now time.Time) {
	d.State = r.state(d, now)
	d.Totals = d.Base.plus(d.Report.Doc.Stream)
}

func (r *Registry) state(d *Device, now time.Time) State {
	silent := now.Sub(d.LastSeen)
	doc := &d.Report.Doc
	worst := OK
	for _, c := range doc.Conditions {
		if c.Status && Critical[c.Type] {
			worst = Failed
		} else if c.Status && worst == OK {
			worst = Degraded
		}
	}
	switch {
	case d.Retired():
		return Retired
	case !d.Heard() && !d.Connected:
		return Unknown
	case silent > r.cfg.StaleAfter, !d.Connected && silent > r.cfg.StaleAfter/3:
		return Offline
	case worst == Failed:
		return Failed
	}
	if t := doc.Trial; t != nil {
		switch t.Phase {
		case twin.PhaseFailed, twin.PhaseRolledBack:
			return Failed
		case twin.PhaseNone, twin.PhaseConfirmed, twin.PhaseDropped:
		case twin.PhaseShadowing:
			if worst == OK {
				return Trial
			}
		default:
			if worst == OK {
				return Updating
			}
		}
	}
	if worst == OK && !d.Heard() {
		return Unknown
	}
	return worst
}

func (r *Registry) countLabels(d *Device, by int) {
	for k := range d.All() {
		if r.labels[k] += by; r.labels[k] <= 0 {
			delete(r.labels, k)
		}
	}
}

// replace puts the new value of a device in place and tells the listener.
func (r *Registry) replace(d *Device, important bool) {
	r.finish(d, r.cfg.Now())
	r.mu.Lock()
	old := r.byID[d.ID]
	var was State
	if old == nil {
		i, _ := slices.BinarySearchFunc(r.order, d.ID, compareIDs)
		r.order = slices.Insert(r.order, i, d.ID)
		r.countLabels(d, 1)
	} else {
		was = old.State
		if !maps.Equal(old.Labels, d.Labels) || !maps.Equal(old.Report.Doc.Labels, d.Report.Doc.Labels) {
			r.countLabels(old, -1)
			r.countLabels(d, 1)
		}
	}
	r.byID[d.ID] = d
	r.changes.note(d.ID)
	r.mu.Unlock()
	if r.cfg.OnChange != nil {
		r.cfg.OnChange(Change{ID: d.ID, State: d.State, Was: was, Important: important || was != d.State, Version: d.Version})
	}
}

// Get returns one device, or ErrUnknown.
func (r *Registry) Get(id topic.ID) (Device, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d, ok := r.byID[id]
	if !ok {
		return Device{}, fmt.Errorf("device %s: %w", id, ErrUnknown)
	}
	return *d, nil
}

// All calls yield for every device by site and node, retired ones too, until
// it returns false.
func (r *Registry) All(yield func(*Device) bool) {
	r.mu.RLock()
	list := make([]*Device, len(r.order))
	for i, id := range r.order {
		list[i] = r.byID[id]
	}
	r.mu.RUnlock()
	for _, d := range list {
		if !yield(d) {
			return
		}
	}
}

// Select returns the devices that s matches and that come after the given one
// ("" starts at the first), at most limit, with the number of matches on all
// pages. more says that there are others behind. A label that no device has is
// an UnknownKey.
func (r *Registry) Select(s selector.Selector, after string, limit int) (page []*Device, total int, more bool, err error) {
	r.mu.RLock()
	err = check(s, r.labels)
	r.mu.RUnlock()
	if err != nil {
		return nil, 0, false, err
	}
	var from topic.ID
	if after != "" {
		if from, err = topic.ParseID(after); err != nil {
			return nil, 0, false, err
		}
	}
	r.All(func(d *Device) bool {
		if !s.Match(d.Look) {
			return true
		}
		total++
		if after != "" && compareIDs(d.ID, from) <= 0 {
			return true
		}
		if len(page) < limit {
			page = append(page, d)
		} else {
			more = true
		}
		return true
	})
	return page, total, more, nil
}

// Enrol adds a device, or takes one that was retired back into service under a
// new certificate. Class and labels become those given; expiry is the
// certificate's.
func (r *Registry) Enrol(ctx context.Context, id topic.ID, class artifact.Class, labels map[string]string, expiry time.Time) error {
	return r.edit(ctx, id, true, 0, func(d *Device, now time.Time) (Entry, error) {
		d.Class, d.Labels, d.CertExpiry = class, maps.Clone(labels), expiry
		msg := "Enrolled as " + string(class)
		if !d.EnrolledAt.IsZero() {
			msg = "Enrolled again as " + string(class)
		}
		d.EnrolledAt, d.RetiredAt = now, time.Time{}
		return Entry{Type: "enrolled", Severity: "info", Message: msg}, nil
	})
}

// Renewed notes the end of a device's newest certificate.
func (r *Registry) Renewed(ctx context.Context, id topic.ID, expiry time.Time) error {
	return r.edit(ctx, id, false, 0, func(d *Device, _ time.Time) (Entry, error) {
		d.CertExpiry = expiry
		return Entry{Type: "enrolled", Severity: "info", Message: "Certificate renewed until " + expiry.UTC().Format(time.RFC3339)}, nil
	})
}

// MaxLabels is how many labels people may give one device.
const MaxLabels = 64

// SetLabels sets and removes labels of a device. version, unless zero, must be
// the device's present one (ErrChanged). With dry nothing is stored.
func (r *Registry) SetLabels(ctx context.Context, id topic.ID, set map[string]string, remove []string, version uint64, by string, dry bool) (Device, error) {
	for k, v := range set {
		if err := selector.ValidWord(k); err != nil {
			return Device{}, fmt.Errorf("label %q: %w", k, err)
		}
		if err := selector.ValidWord(v); err != nil {
			return Device{}, fmt.Errorf("value of label %q: %w", k, err)
		}
		if slices.Contains(Reserved, k) {
			return Device{}, fmt.Errorf("label %q is reserved: selectors already see it as a property of the device", k)
		}
	}
	change := func(d *Device, _ time.Time) (Entry, error) {
		labels := maps.Clone(d.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, set)
		for _, k := range remove {
			delete(labels, k)
		}
		if len(labels) > MaxLabels {
			return Entry{}, fmt.Errorf("device %s would have %d labels: at most %d", id, len(labels), MaxLabels)
		}
		d.Labels = labels
		return Entry{Type: "label", Severity: "info", Message: "Labels changed by " + by}, nil
	}
	if dry {
		d, err := r.Get(id)
		if err == nil && version != 0 && version != d.Version {
			err = fmt.Errorf("labels of %s: %w", id, ErrChanged)
		}
		if err == nil {
			_, err = change(&d, r.cfg.Now())
		}
		return d, err
	}
	if err := r.edit(ctx, id, false, version, change); err != nil {
		return Device{}, err
	}
	return r.Get(id)
}

// Retire takes a device out of service. It stays listed with its history.
// Doing it twice keeps the first time.
func (r *Registry) Retire(ctx context.Context, id topic.ID, by, reason string) (Device, error) {
	err := r.edit(ctx, id, false, 0, func(d *Device, now time.Time) (Entry, error) {
		if d.RetiredAt.IsZero() {
			d.RetiredAt = now
		}
		msg := "Retired by " + by
		if reason != "" {
			msg += ": " + reason
		}
		return Entry{Type: "retired", Severity: "info", Message: msg}, nil
	})
	if err != nil {
		return Device{}, err
	}
	return r.Get(id)
}

// edit changes a record by f, stores it and then shows it.
func (r *Registry) edit(ctx context.Context, id topic.ID, create bool, version uint64, f func(*Device, time.Time) (Entry, error)) error {
	r.write.Lock()
	defer r.write.Unlock()
	d, err := r.Get(id)
	if err != nil {
		if !create {
			return err
		}
		if r.Len() >= r.cfg.MaxDevices {
			return fmt.Errorf("enrol %s: %w (%d): raise fleet.maxDevices", id, ErrFull, r.cfg.MaxDevices)
		}
		d = Device{Record: Record{ID: id}}
	}
	if version != 0 && version != d.Version {
		return fmt.Errorf("change device %s: %w", id, ErrChanged)
	}
	now := r.cfg.Now().UTC()
	e, err := f(&d, now)
	if err != nil {
		return err
	}
	d.Version++
	if err := r.cfg.Store.SaveDevice(ctx, d.Record); err != nil {
		return fmt.Errorf("store device %s: %w", id, err)
	}
	e.ID, e.At = id, now
	if err := r.cfg.Store.SaveReports(ctx, nil, []Entry{e}); err != nil {
		return fmt.Errorf("store history of %s: %w", id, err)
	}
	r.replace(&d, true)
	return nil
}

// Len returns how many devices are known, retired ones too.
func (r *Registry) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.byID)
}

// Timeline returns a device's history, newest first; see Store.
func (r *Registry) Timeline(ctx context.Context, id topic.ID, before uint64, limit int) ([]Entry, error) {
	if _, err := r.Get(id); err != nil {
		return nil, err
	}
	return r.cfg.Store.Timeline(ctx, id, before, limit)
}

// Drops counts what was not taken since the start, by reason.
type Drops struct {
	Malformed uint64 // reports that could not be read
	Stale     uint64 // reports older than the one held
	Busy      uint64 // reports refused because too many waited; their devices send again
	Entries   uint64 // lines of history dropped because too many waited
}

// Drops returns the counters.
func (r *Registry) Drops() Drops {
	return Drops{r.malformed.Load(), r.stale.Load(), r.busy.Load(), r.lost.Load()}
}
