package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Config names the parties of a Dispatcher.
type Config struct {
	Holder    string // names this process in the store's lease; required
	Store     Store  // required
	Fleet     Fleet  // required
	Publisher Publisher
	Ledger    Ledger
	Log       *slog.Logger     // nil: slog.Default()
	Now       func() time.Time // nil: time.Now

	// LeaseTTL is how long the store's lease lasts; another hub takes over
	// after it. Default 30 s.
	LeaseTTL time.Duration
	// Poll is how often the store is looked at though nobody woke the
	// dispatcher. Default 10 s.
	Poll time.Duration
	// MinGap is the least time between two looks: many reports make one
	// decision. Default 200 ms.
	MinGap time.Duration
	// DocumentTTL is how long a desired document permits new starts. Default 30 days.
	DocumentTTL time.Duration
}

// Validate reports what is missing.
func (c Config) Validate() error {
	switch {
	case c.Holder == "":
		return errors.New("dispatch: Holder is empty: name this process")
	case c.Store == nil || c.Fleet == nil || c.Publisher == nil || c.Ledger == nil:
		return errors.New("dispatch: Store, Fleet, Publisher and Ledger are all required")
	}
	return nil
}

// Dispatcher runs rollouts. Its methods may be called from any goroutine, on
// any hub; only the one whose Run holds the store's lease decides.
type Dispatcher struct {
	cfg  Config
	wake chan struct{}

	// looking is held for the whole of a look; it guards what is kept between
	// looks. Nothing of it is needed: a process that starts anew reads it again.
	looking sync.Mutex
	mark    uint64             // of the fleet's feed
	known   map[string]uint64  // versions that list was read at
	list    []rollout.Rollout  // newest first
	watches map[string]*watch  // by rollout
	bills   map[string]receipt // by rollout; of those due
	ordered uint64             // version of orders
	orders  rollout.Orders     //
	outbox  outgoing           //
	unsent  bool               // this look has stored documents

	// proposing lets people propose one after the other: how a rollout joins the
	// others depends on all of them.
	proposing sync.Mutex

	mu       sync.Mutex // guards what follows, which others read during a look
	stats    Stats
	statuses []Status
}

// New returns a dispatcher that does nothing until Run.
func New(cfg Config) (*Dispatcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.LeaseTTL, 30*time.Second)
	def(&cfg.Poll, 10*time.Second)
	def(&cfg.MinGap, 200*time.Millisecond)
	def(&cfg.DocumentTTL, 30*24*time.Hour)
	cfg.Poll = min(cfg.Poll, cfg.LeaseTTL/3)
	d := &Dispatcher{cfg: cfg, wake: make(chan struct{}, 1), outbox: outgoing{holder: cfg.Holder}}
	d.forget()
	return d, nil
}

// forget drops everything kept between looks.
func (d *Dispatcher) forget() {
	d.mark, d.known, d.list, d.ordered, d.orders = 0, nil, nil, 0, rollout.Orders{}
	d.watches, d.bills = map[string]*watch{}, map[string]receipt{}
}

// Wake says that something changed: a report, a person's request. It never
// blocks, and any number of calls before the next look count as one.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run decides until ctx ends. Errors are logged and tried again, at growing
// distances up to Poll; it returns ctx.Err().
func (d *Dispatcher) Run(ctx context.Context) error {
	gap := d.cfg.MinGap
	for {
		next, err := d.RunOnce(ctx)
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.Error("dispatch", slog.Any("error", err), slog.Duration("again_in", gap))
		}
		pause := d.cfg.Poll
		if !next.IsZero() {
			pause = min(pause, max(next.Sub(d.cfg.Now()), 0))
		}
		if err := sleep(ctx, gap, nil); err != nil {
			return err
		}
		if err := sleep(ctx, pause-gap, d.wake); err != nil {
			return err
		}
		if err == nil {
			gap = d.cfg.MinGap
		} else {
			gap = min(2*gap, max(d.cfg.Poll, d.cfg.MinGap))
		}
	}
}

// sleep waits for the time or for wake, whichever comes first.
func sleep(ctx context.Context, t time.Duration, wake <-chan struct{}) error {
	timer := time.NewTimer(max(t, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	case <-wake:
	}
	return ctx.Err()
}

// RunOnce looks at every rollout once and publishes what came of it. It does
// nothing while another hub holds the lease. It returns when to look again at
// the latest, zero for when something happens. It costs what has changed since
// the look before.
func (d *Dispatcher) RunOnce(ctx context.Context) (next time.Time, err error) {
	d.looking.Lock()
	defer d.looking.Unlock()
	held, err := d.cfg.Store.Acquire(ctx, d.cfg.Holder, d.now(), d.cfg.LeaseTTL)
	if err != nil {
		return next, fmt.Errorf("take the dispatcher's lease: %w", err)
	}
	if !held {
		d.forget() // another hub acts, and what this one remembers grows old
		d.show()
		return next, nil
	}
	began := time.Now()
	defer func() { d.looked(time.Since(began)) }()
	soonest := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	// What an earlier run stored and could not publish goes first.
	d.unsent = false
	t, err := d.publish(ctx)
	soonest(t)
	errs := []error{err}
	if err := d.catchUp(ctx); err != nil {
		return next, errors.Join(append(errs, err)...)
	}
	dues := due(d.list)
	served := func(name string) bool {
		return slices.ContainsFunc(dues, func(r rollout.Rollout) bool { return r.Name == name })
	}
	maps.DeleteFunc(d.watches, func(name string, _ *watch) bool { return !served(name) })
	maps.DeleteFunc(d.bills, func(name string, _ receipt) bool { return !served(name) })
	for _, r := range dues {
		t, err := d.decide(ctx, r.Name)
		if err != nil {
			delete(d.watches, r.Name) // its roster is ahead of the store
		}
		if errors.Is(err, ErrConflict) {
			t, err = d.now(), nil // somebody was faster: look again
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("decide rollout %s: %w", r.Name, err))
		}
		soonest(t)
	}
	d.show()
	if d.unsent {
		t, err = d.publish(ctx)
		soonest(t)
		errs = append(errs, err)
	}
	return next, errors.Join(errs...)
}

// catchUp takes in what people, other hubs and devices have changed since the
// look before.
func (d *Dispatcher) catchUp(ctx context.Context) error {
	versions, err := d.cfg.Store.Versions(ctx)
	if err != nil {
		return fmt.Errorf("read the versions of rollouts: %w", err)
	}
	if !maps.Equal(versions, d.known) {
		if d.list, err = d.cfg.Store.Rollouts(ctx); err != nil {
			d.known = nil
			return fmt.Errorf("list rollouts: %w", err)
		}
		d.known = versions
	}
	for name, w := range d.watches {
		if versions[name] != w.version {
			delete(d.watches, name)
		}
	}
	o, version, err := d.cfg.Store.Orders(ctx)
	if err != nil {
		return fmt.Errorf("read the standing orders: %w", err)
	}
	if version != d.ordered {
		d.ordered, d.orders = version, o
		for _, w := range d.watches {
			w.order(o)
		}
	}
	changed, gone, mark, ok, err := d.cfg.Fleet.Since(ctx, d.mark)
	if err != nil {
		return fmt.Errorf("read what changed in the fleet: %w", err)
	}
	d.mark = mark
	if !ok {
		clear(d.watches)
		return nil
	}
	for _, w := range d.watches {
		for _, id := range gone {
			w.remove(id)
		}
		for _, dev := range changed {
			w.put(dev)
		}
	}
	return nil
}

// due returns the rollouts to decide about: of each fleet the active one, else
// the one that waits, else the one that ended last and is still being served.
// all is sorted newest first. Should two hubs have started one each at the same
// moment, the older goes first.
func due(all []rollout.Rollout) []rollout.Rollout {
	type key struct {
		fleet string
		kind  artifact.Kind
	}
	rank := func(r rollout.Rollout) int {
		switch {
		case r.State.Active():
			return 3
		case r.State == rollout.Queued:
			return 2
		case r.State.Final() && r.State != rollout.Superseded && !r.Started.IsZero():
			return 1
		}
		return 0
	}
	best := map[key]rollout.Rollout{}
	for _, r := range all {
		k := key{r.Fleet, r.Release.Kind}
		b, ok := best[k]
		if rank(r) > 0 && (!ok || rank(r) > rank(b) || rank(r) == rank(b) && (rank(r) == 3 || rank(r) == 1 && r.Ended.After(b.Ended))) {
			best[k] = r
		}
	}
	var out []rollout.Rollout
	for _, r := range all {
		if b, ok := best[key{r.Fleet, r.Release.Kind}]; ok && b.Name == r.Name {
			out = append(out, r)
		}
	}
	return out
}

// decide decides about one rollout and commits.
func (d *Dispatcher) decide(ctx context.Context, name string) (wake time.Time, err error) {
	w := d.watches[name]
	if w == nil {
		if w, err = d.watch(ctx, name); err != nil {
			return wake, err
		}
		d.watches[name] = w
	}
	now := d.now()
	dec := w.roster.Decide(w.rollout, now)
	w.gates = dec.Gates
	if !dec.Changed && w.stored.State == w.rollout.State {
		return dec.Wake, nil
	}
	c := Commit{Holder: d.cfg.Holder, Now: now, Rollout: dec.Rollout, Version: w.version, Records: map[topic.ID]rollout.Record{}}
	for _, ch := range dec.Changes {
		c.Records[ch.Device] = ch.Record
		doc, err := d.document(ctx, dec.Rollout, ch, now)
		if err != nil {
			return wake, err
		}
		c.Desired = append(c.Desired, doc)
	}
	rank := weigh(w.stored, dec)
	if keep := w.keeps(rank, now); keep {
		c.Decision = w.explain(dec, now)
	}
	if rank > creeping {
		d.cfg.Log.Info("rollout decided", slog.String("rollout", name), slog.String("state", string(dec.Rollout.State)), slog.Int("changes", len(dec.Changes)), slog.String("summary", dec.Summary))
	}
	if before := w.stored.State; dec.Rollout.State != before && (dec.Rollout.State.Final() || dec.Rollout.State == rollout.RollingBack) {
		if err := d.audit(ctx, "hub", "rollout."+string(dec.Rollout.State), name, dec.Rollout.Reason, dec.Gates); err != nil {
			return wake, err
		}
	}
	if _, err := d.cfg.Store.Commit(ctx, c); err != nil {
		return wake, err
	}
	w.committed(c)
	d.unsent = d.unsent || len(c.Desired) > 0
	d.bills[name] = receipt{w.kept, w.keptAt}
	d.known[name] = w.version
	if i := slices.IndexFunc(d.list, func(r rollout.Rollout) bool { return r.Name == name }); i >= 0 {
		d.list[i] = dec.Rollout
	}
	d.count(func(s *Stats) {
		s.Changes += uint64(len(dec.Changes))
		switch {
		case c.Decision != nil:
			s.Decisions++
			s.Facts += uint64(len(c.Decision.Snapshot.Devices))
		case rank > creeping:
			s.Coalesced++
		}
	})
	return dec.Wake, nil
}

// snapshot joins the fleet with a rollout's records: devices its selector
// matches, and those it has a record of.
func snapshot(l Loaded, devices []rollout.Device, orders rollout.Orders) (rollout.Snapshot, error) {
	sel, err := selector.Parse(l.Rollout.Fleet)
	if err != nil {
		return rollout.Snapshot{}, err
	}
	s := rollout.Snapshot{Orders: orders}
	for _, dev := range devices {
		rec, known := l.Records[dev.ID]
		if !known && !sel.Match(dev.Look) {
			continue
		}
		dev = dev.For(l.Rollout.Release.Kind)
		dev.Record = rec
		s.Devices = append(s.Devices, dev)
	}
	return s, nil
}

// document returns a device's next desired document, with the part that is not
// the rollout's left as it was.
func (d *Dispatcher) document(ctx context.Context, r rollout.Rollout, c rollout.Change, now time.Time) (twin.Desired, error) {
	doc, _, err := d.cfg.Store.Desired(ctx, c.Device)
	if err != nil {
		return doc, fmt.Errorf("read desired document of %s: %w", c.Device, err)
	}
	a, lease := r.Documents(c.Record)
	doc.Schema, doc.Site, doc.Node = 1, c.Device.Site, c.Device.Node
	doc.IssuedAt, doc.ExpiresAt = now, now.Add(d.cfg.DocumentTTL)
	if r.Release.Kind == artifact.Firmware {
		doc.Firmware, doc.FirmwareLease = a, lease
	} else {
		doc.Model, doc.Lease = a, lease
	}
	return doc, nil
}

// Deliver publishes a device's newest document once more, as when it has just
// subscribed. It does nothing for a device that has none.
func (d *Dispatcher) Deliver(ctx context.Context, id topic.ID) error {
	doc, ok, err := d.cfg.Store.Desired(ctx, id)
	if err != nil || !ok {
		return err
	}
	return d.cfg.Publisher.Publish(ctx, doc)
}

func (d *Dispatcher) now() time.Time { return d.cfg.Now().UTC().Truncate(time.Millisecond) }

func (d *Dispatcher) audit(ctx context.Context, actor, action, name, reason string, detail any) error {
	err := d.cfg.Ledger.Append(ctx, Event{At: d.now(), Actor: actor, Action: action, Object: "Rollout/" + name, Reason: reason, Detail: detail})
	if err != nil {
		return fmt.Errorf("write %s of rollout %s to the ledger: %w", action, name, err)
	}
	return nil
}

func byID(a, b rollout.Device) int { return compareIDs(a.ID, b.ID) }

func compareIDs(a, b topic.ID) int {
	return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Node, b.Node))
}
