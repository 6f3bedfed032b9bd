package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	return &Dispatcher{cfg: cfg, wake: make(chan struct{}, 1)}, nil
}

// Wake says that something changed: a report, a person's request. It never
// blocks, and any number of calls before the next look count as one.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run decides until ctx ends. Errors are logged and tried again; it returns
// ctx.Err().
func (d *Dispatcher) Run(ctx context.Context) error {
	for {
		next, err := d.RunOnce(ctx)
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.Error("dispatch", slog.Any("error", err))
		}
		pause := d.cfg.Poll
		if !next.IsZero() {
			pause = min(pause, max(next.Sub(d.cfg.Now()), 0))
		}
		if err := sleep(ctx, d.cfg.MinGap, nil); err != nil {
			return err
		}
		if err := sleep(ctx, pause-d.cfg.MinGap, d.wake); err != nil {
			return err
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
// the latest, zero for when something happens.
func (d *Dispatcher) RunOnce(ctx context.Context) (next time.Time, err error) {
	held, err := d.cfg.Store.Acquire(ctx, d.cfg.Holder, d.now(), d.cfg.LeaseTTL)
	if err != nil {
		return next, fmt.Errorf("take the dispatcher's lease: %w", err)
	}
	if !held {
		return next, nil
	}
	// What an earlier run stored and could not publish goes first.
	if err := d.publish(ctx); err != nil {
		return next, err
	}
	all, err := d.cfg.Store.Rollouts(ctx)
	if err != nil {
		return next, fmt.Errorf("list rollouts: %w", err)
	}
	devices, err := d.cfg.Fleet.Devices(ctx)
	if err != nil {
		return next, fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, r := range due(all) {
		w, err := d.decide(ctx, r.Name, devices)
		if err != nil && !errors.Is(err, ErrConflict) {
			errs = append(errs, fmt.Errorf("decide rollout %s: %w", r.Name, err))
		}
		if errors.Is(err, ErrConflict) {
			w = d.now() // somebody was faster: look again
		}
		if !w.IsZero() && (next.IsZero() || w.Before(next)) {
			next = w
		}
	}
	return next, errors.Join(append(errs, d.publish(ctx))...)
}

// due returns the rollouts to decide about: of each fleet the active one, else
// the one that waits, else the one that ended last and is still being served.
// all is sorted newest first.
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
		if rank(r) > 0 && (!ok || rank(r) > rank(b) || rank(r) == 1 && rank(b) == 1 && r.Ended.After(b.Ended)) {
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

// decide loads one rollout, decides and commits.
func (d *Dispatcher) decide(ctx context.Context, name string, devices []rollout.Device) (wake time.Time, err error) {
	l, err := d.cfg.Store.Load(ctx, name)
	if err != nil {
		return wake, err
	}
	now := d.now()
	before := l.Rollout
	if l.Rollout.State == rollout.Queued { // nothing of its fleet is active any more
		all, err := d.cfg.Store.Rollouts(ctx)
		if err != nil {
			return wake, err
		}
		l.Rollout.Previous = rollout.LastPromoted(l.Rollout.Fleet, l.Rollout.Release.Kind, all)
		l.Rollout.State, l.Rollout.Started, l.Rollout.Reason = rollout.Running, now, "started after the one before it ended"
	}
	s, err := snapshot(l, devices)
	if err != nil {
		return wake, err
	}
	dec := rollout.Decide(l.Rollout, s, now)
	if !dec.Changed && before.State == l.Rollout.State {
		return dec.Wake, nil
	}
	c := Commit{Holder: d.cfg.Holder, Now: now, Rollout: dec.Rollout, Version: l.Version, Records: map[topic.ID]rollout.Record{}}
	for _, ch := range dec.Changes {
		c.Records[ch.Device] = ch.Record
		doc, err := d.document(ctx, dec.Rollout, ch, now)
		if err != nil {
			return wake, err
		}
		c.Desired = append(c.Desired, doc)
	}
	if material(before, dec) {
		c.Decision = &Stored{Rollout: name, At: now, Before: before.State, Input: l.Rollout, Snapshot: s, Decision: dec}
		d.cfg.Log.Info("rollout decided", slog.String("rollout", name), slog.String("state", string(dec.Rollout.State)), slog.Int("changes", len(dec.Changes)), slog.String("summary", dec.Summary))
	}
	if dec.Rollout.State != before.State && (dec.Rollout.State.Final() || dec.Rollout.State == rollout.RollingBack) {
		if err := d.audit(ctx, "hub", "rollout."+string(dec.Rollout.State), name, dec.Rollout.Reason, dec.Gates); err != nil {
			return wake, err
		}
	}
	if _, err := d.cfg.Store.Commit(ctx, c); err != nil {
		return wake, err
	}
	return dec.Wake, nil
}

// snapshot joins the fleet with a rollout's records: devices its selector
// matches, and those it has a record of.
func snapshot(l Loaded, devices []rollout.Device) (rollout.Snapshot, error) {
	sel, err := selector.Parse(l.Rollout.Fleet)
	if err != nil {
		return rollout.Snapshot{}, err
	}
	var s rollout.Snapshot
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

// material says whether a decision is worth its evidence: gate values creep
// with every report, and are kept with the rollout alone.
func material(before rollout.Rollout, d rollout.Decision) bool {
	if len(d.Changes) > 0 || d.Rollout.State != before.State || d.Rollout.Wave != before.Wave || len(d.Rollout.Waves) != len(before.Waves) {
		return true
	}
	if d.Rollout.Wave >= len(before.Waves) {
		return false
	}
	old, now := before.Waves[d.Rollout.Wave], d.Rollout.Waves[d.Rollout.Wave]
	return old.Cleared != now.Cleared || !slices.EqualFunc(old.Gates, now.Gates, func(a, b rollout.Verdict) bool {
		return a.Gate == b.Gate && a.Result == b.Result && a.Applies == b.Applies
	})
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

// publish sends what is stored and not yet marked as published. A crash
// between the two sends it twice, which does no harm.
func (d *Dispatcher) publish(ctx context.Context) error {
	const batch = 256
	for {
		docs, err := d.cfg.Store.Unpublished(ctx, batch)
		if err != nil {
			return fmt.Errorf("list unpublished documents: %w", err)
		}
		for _, doc := range docs {
			if err := d.cfg.Publisher.Publish(ctx, doc); err != nil {
				return fmt.Errorf("publish desired document of %s/%s: %w", doc.Site, doc.Node, err)
			}
			if err := d.cfg.Store.Published(ctx, []twin.Desired{doc}); err != nil {
				return fmt.Errorf("mark document of %s/%s as published: %w", doc.Site, doc.Node, err)
			}
		}
		if len(docs) < batch {
			return nil
		}
	}
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

func byID(a, b rollout.Device) int {
	return cmp.Or(cmp.Compare(a.ID.Site, b.ID.Site), cmp.Compare(a.ID.Node, b.ID.Node))
}
