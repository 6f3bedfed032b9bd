// Package agent is the program on a device: it reads a source, scores every
// window with the champion model, spools and sends what it read and found, and
// brings up the releases the hub wants, without stopping.
//
// The parties are the sensor behind a source, the hub behind an Uplink and an
// HTTPS address, and the operator's configuration. The agent promises that
// only a release whose signature, digests, class and counter hold is ever
// loaded, that scoring goes on through an update, that what it reads is kept
// on disk until the hub has it or the spool is full, and that it says what it
// lost.
//
// This package is the composition root. It may be imported by agent/cmd and by
// the simulator, which runs many agents in one process: nothing here is
// global but the ONNX Runtime library.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swellfleet/swell/agent/actions"
	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/enroll"
	"github.com/swellfleet/swell/agent/health"
	"github.com/swellfleet/swell/agent/link"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/agent/spool"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// Uplink is the connection to the hub's broker. agent/link implements it over
// MQTT.
type Uplink interface {
	// Run connects, and again whenever the connection is lost, until ctx ends.
	// h hears of it.
	Run(ctx context.Context, h link.Handler) error
	// Publish sends with QoS 1, or with QoS 0 for a Sparkplug topic, and calls
	// done once: with nil when the broker has acknowledged, else with why not.
	// Without a connection done is called with an error at once.
	Publish(t topic.Topic, payload []byte, done func(error))
	// Connected says whether a connection stands now.
	Connected() bool
}

// sources is the table of drivers.
var sources = map[string]func(Source) source.Source{
	"replay":    func(c Source) source.Source { return replay.New(c.Replay) },
	"synthetic": func(c Source) source.Source { return synthetic.New(c.Synthetic) },
}

// Agent is one device's program. Make it with New, run it once.
type Agent struct {
	config Config
	boot   string // random, names this run in reports
	roots  trust.Roots

	disk     disk.FS
	identity *enroll.Identity
	spool    *spool.Spool
	uplink   Uplink
	delivery *delivery
	source   source.Source
	actions  *actions.Actions
	scorer   scorer.Scorer
	reports  chan struct{} // has a token when a report is wanted
	recorded chan recorded // blocks on their way to the spool
	beat     atomic.Int64  // when the updater last turned, ns
	lost     atomic.Uint64 // blocks that never reached the spool

	// view guards newest. The pipeline takes it while it holds its own lock, so
	// nothing else may be locked under it.
	view   sync.Mutex
	newest latest

	mu       sync.Mutex
	seq      uint64 // of the newest report
	rec      record
	desired  *twin.Desired      // newest document; kept until there is an updater
	pipeline *pipeline.Pipeline // nil until the source is open
	updater  *updater           // likewise
	live     *live              // likewise; nil also when not wanted
	board    health.Board
	findings []twin.Condition
	facts    health.Facts
}

// recorded is a finished block.
type recorded struct {
	block   *telemetry.Block
	nextRow uint64
}

const (
	recordQueue = 64              // blocks between pipeline and spool
	recordWait  = 2 * time.Second // how long the pipeline waits for room there
	lookEvery   = time.Second     // between looks at the agent's health
	aliveWithin = 30 * time.Second
	sourceAgain = 5 * time.Second // between attempts to open a source, at most
)

// New checks the configuration and makes an agent that has not started.
func New(c Config) (*Agent, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	a := &Agent{config: c.withDefaults(), reports: make(chan struct{}, 1), recorded: make(chan recorded, recordQueue)}
	keys := []byte(a.config.Trust.KeysPEM)
	for _, name := range a.config.Trust.KeyFiles {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the trusted key: %w", err)
		}
		keys = append(append(keys, '\n'), b...)
	}
	var err error
	if a.roots, err = trust.ParseRoots(keys); err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	a.boot = hex.EncodeToString(b[:])
	return a, nil
}

// Run starts everything, enrols if need be, and returns when ctx ends (nil) or
// the device cannot work at all (why). A hub that is away is no reason.
func (a *Agent) Run(ctx context.Context) (err error) {
	if err := runtime.Init(a.config.ONNXRuntime); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	start := func(f func(context.Context)) { work.Go(func() { f(ctx) }) }
	// The recorder ends last: what was read until the end is kept.
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		a.keep()
	}()
	start(a.connect)
	start(a.delivery.run)
	start(a.actions.Run)
	start(a.reportLoop)
	start(a.syncLoop)
	start(func(ctx context.Context) { a.produce(ctx, start) })
	if a.config.Status != "off" {
		listener, err := listen(a.config.Status)
		if err != nil {
			cancel(err)
		} else {
			start(func(ctx context.Context) { a.serve(ctx, listener) })
		}
	}
	<-ctx.Done()
	work.Wait()
	close(a.recorded)
	<-kept
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// Run is New and Agent.Run in one.
func Run(ctx context.Context, c Config) error {
	a, err := New(c)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// Enroll only gets the device its certificate, if it has none, and says until
// when it is valid.
func Enroll(ctx context.Context, c Config) (notAfter time.Time, err error) {
	a, err := New(c)
	if err != nil {
		return time.Time{}, err
	}
	if err := a.openIdentity(); err != nil {
		return time.Time{}, err
	}
	defer func() { err = errors.Join(err, a.closeDisk()) }()
	if !a.identity.Enrolled() {
		if err := a.identity.Enroll(ctx); err != nil {
			return time.Time{}, err
		}
	}
	_, notAfter, _ = a.identity.Validity()
	return notAfter, nil
}

// open brings up what lies on the disk.
func (a *Agent) open() (err error) {
	if err := a.openIdentity(); err != nil {
		return err
	}
	fail := func(err error) error { return errors.Join(err, a.closeDisk()) }
	if a.rec, err = loadRecord(a.disk); err != nil {
		a.config.Log.Warn("the agent's counters begin anew", "error", err)
	}
	if err := a.disk.MkdirAll(path.Dir(journalFile)); err != nil {
		return fail(fmt.Errorf("cannot use the state folder: %w", err))
	}
	if err := a.disk.MkdirAll("slots"); err != nil {
		return fail(fmt.Errorf("cannot use the state folder: %w", err))
	}
	a.spool, err = spool.Open(a.disk, spool.Config{Dir: spoolFolder, MaxBytes: int64(a.config.Spool.MaxMiB) << 20})
	if err != nil {
		return fail(err)
	}
	if a.uplink = a.config.Uplink; a.uplink == nil {
		will, err := json.Marshal(twin.Reported{Schema: 1, Site: a.config.Site, Node: a.config.Node, Offline: true})
		if err != nil {
			return fail(err)
		}
		a.uplink = link.New(link.Config{
			URL: a.config.Hub.MQTT, ID: a.config.id(), TLS: a.identity.TLS, Will: will,
			BackoffMin: seconds(a.config.Hub.ReconnectMinS), BackoffMax: seconds(a.config.Hub.ReconnectMaxS), Log: a.config.Log,
		})
	}
	a.delivery = newDelivery(a.config.id(), a.spool, a.uplink, a.config.Hub.InFlight, a.config.Log)
	a.actions = actions.New(a.config.Actions, a.config.Log, a.publishEvent)
	if a.source = a.config.Custom; a.source == nil {
		a.source = sources[a.config.Source.Kind](a.config.Source)
	}
	a.facts.DownSince = a.config.Now()
	return nil
}

func (a *Agent) openIdentity() (err error) {
	if a.disk = a.config.Disk; a.disk == nil {
		if a.disk, err = disk.OpenDir(a.config.StateDir); err != nil {
			return err
		}
	}
	ca := []byte(a.config.Hub.CAPEM)
	if a.config.Hub.CAFile != "" {
		if ca, err = os.ReadFile(a.config.Hub.CAFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(fmt.Errorf("cannot read the hub's CA: %w", err), a.closeDisk())
		}
	}
	a.identity, err = enroll.Open(enroll.Config{
		Disk: a.disk, ID: a.config.id(), URL: strings.TrimSuffix(a.config.Hub.URL, "/"),
		CAPEM: ca, Fingerprint: a.config.Hub.CAFingerprint, Token: a.token, Log: a.config.Log, Now: a.config.Now,
	})
	if err != nil {
		return errors.Join(err, a.closeDisk())
	}
	return nil
}

func (a *Agent) token() (string, error) {
	if a.config.Hub.TokenFile == "" {
		return strings.TrimSpace(a.config.Hub.Token), nil
	}
	b, err := os.ReadFile(a.config.Hub.TokenFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the enrolment token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (a *Agent) close() error {
	a.mu.Lock()
	p, u := a.pipeline, a.updater
	a.mu.Unlock()
	if u != nil {
		u.applier.Close()
	}
	if p != nil {
		p.Close()
	}
	a.scorer.Wait()
	return errors.Join(a.saveRecord(), a.spool.Close(), a.closeDisk())
}

func (a *Agent) closeDisk() error {
	if d, ok := a.disk.(*disk.Dir); ok && a.config.Disk == nil {
		return d.Close()
	}
	return nil
}

// connect enrols when there is no certificate, then keeps it fresh and keeps
// the connection up.
func (a *Agent) connect(ctx context.Context) {
	// With an uplink of the embedding program's own, a certificate may not be
	// needed at all; a token says that it is.
	identified := a.config.Uplink == nil || a.config.Hub.Token != ""
	for failures := 0; identified && !a.identity.Enrolled(); failures++ {
		err := a.identity.Enroll(ctx)
		if err == nil {
			a.config.Log.Info("enrolled")
			break
		}
		if ctx.Err() != nil {
			return
		}
		a.Down(err)
		a.config.Log.Warn("not enrolled yet", "error", err)
		if !sleep(ctx, min(seconds(a.config.Hub.ReconnectMinS)<<min(failures, 10), seconds(a.config.Hub.ReconnectMaxS))) {
			return
		}
	}
	var renewals sync.WaitGroup
	if identified {
		renewals.Go(func() { a.identity.Run(ctx) })
	}
	if err := a.uplink.Run(ctx, a); err != nil && ctx.Err() == nil {
		a.config.Log.Error("the connection to the hub ended for good", "error", err)
	}
	renewals.Wait()
}

// Up implements link.Handler.
func (a *Agent) Up() {
	a.config.Log.Info("connected to the hub")
	a.mu.Lock()
	a.facts.DownSince, a.facts.LinkError = time.Time{}, nil
	l := a.live
	a.mu.Unlock()
	if l != nil {
		l.reborn()
	}
	a.delivery.nudge()
	a.wantReport()
}

// Down implements link.Handler.
func (a *Agent) Down(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.facts.DownSince.IsZero() {
		a.facts.DownSince = a.config.Now()
		a.config.Log.Warn("connection to the hub lost", "error", err)
	}
	a.facts.LinkError = err
}

// Desired implements link.Handler.
func (a *Agent) Desired(payload []byte) {
	d, err := twin.ParseDesired(payload, a.config.id())
	if err != nil {
		a.config.Log.Warn("a desired document was refused", "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.desired == nil || d.Generation >= a.desired.Generation {
		a.desired = &d
	}
	a.facts.Unsupported = ""
	if d.Firmware != nil {
		a.facts.Unsupported = "the hub offers firmware, and this agent was installed by a package: update it the same way"
	}
	if a.updater != nil {
		// Never blocks for long: the updater only computes.
		select {
		case a.updater.events <- update.Offered{Doc: d}:
		default:
			a.config.Log.Warn("a desired document waits for the next report", "generation", d.Generation)
		}
	}
}

// produce opens the source and runs everything that needs it.
func (a *Agent) produce(ctx context.Context, start func(func(context.Context))) {
	for {
		err := a.source.Open(ctx)
		if err == nil {
			err = source.CheckChannels(a.source.Channels())
		}
		if err == nil {
			break
		}
		a.config.Log.Error("the source cannot be opened", "error", err)
		a.setSource(func(f *health.Facts) { f.SourceError = err })
		if !sleep(ctx, sourceAgain) {
			return
		}
	}
	channels, rate := a.source.Channels(), a.source.RateHz()
	a.setSource(func(f *health.Facts) {
		f.SourceError, f.Started = nil, a.config.Now()
		if rate > 0 {
			f.RowEvery = time.Duration(1e9 / rate)
		}
	})
	recorder := pipeline.NewRecorder(pipeline.RecorderConfig{Channels: channels, RateHz: rate, MaxRows: a.config.Telemetry.BlockRows, Emit: a.emit})
	p := pipeline.New(pipeline.Config{
		Channels: channels, RateHz: rate, MaxGap: seconds(a.config.Pipeline.MaxGapS),
		FirstRow: a.spool.NextRow(), Before: a.rec.Stream, Sink: &sink{Recorder: recorder, agent: a},
	})
	u, err := a.newUpdater(p)
	if err != nil {
		// Without its journal the device does not know what it may run. It
		// goes on reading and recording, and says so.
		a.config.Log.Error("updates are off", "error", err)
		a.setSource(func(f *health.Facts) { f.Unsupported = "no model can be run: " + err.Error() })
	}
	a.mu.Lock()
	a.pipeline, a.updater = p, u
	if a.config.Telemetry.LiveS > 0 {
		l := newLive(a.config.id(), channels, a.uplink, seconds(a.config.Telemetry.LiveS), a.config.Now)
		a.live = l
		start(func(ctx context.Context) { l.run(ctx, a.latest) })
	}
	desired := a.desired
	a.mu.Unlock()
	if u != nil {
		if desired != nil {
			u.offer(ctx, *desired)
		}
		start(u.run)
		select { // rows that nobody could score are windows lost
		case <-u.resumed:
		case <-ctx.Done():
			return
		}
	}
	start(func(ctx context.Context) {
		for sleep(ctx, seconds(a.config.Telemetry.BlockS)) {
			recorder.Flush()
		}
	})
	a.read(ctx, p, recorder)
}

func (a *Agent) newUpdater(p *pipeline.Pipeline) (*updater, error) {
	journal, err := loadJournal(a.disk)
	if err != nil {
		return nil, err
	}
	machine, err := update.New(update.Config{}, journal)
	if err != nil {
		return nil, err
	}
	applier := apply.New(apply.Config{
		Disk: a.disk, Roots: a.roots, Class: a.config.Class, Arch: goruntime.GOARCH, Scorer: &a.scorer, Pipeline: p, Log: a.config.Log,
		Runtime: runtime.Options{Library: a.config.ONNXRuntime},
		Base:    strings.TrimSuffix(a.config.Hub.URL, "/"), Client: a.identity.Client(),
		ByteBudget: int64(a.config.Hub.ByteBudgetMiB) << 20, MemoryReserve: int64(a.config.Update.MemoryMiB) << 20,
		Interlock: a.interlock(), Rehearse: a.rehearse(), Now: a.config.Now,
	})
	return &updater{
		machine: machine, applier: applier, pipeline: p, disk: a.disk, now: a.config.Now, log: a.config.Log,
		events: make(chan update.Event, eventQueue), report: a.wantReport,
		alive: func() { a.beat.Store(time.Now().UnixNano()) }, resumed: make(chan struct{}),
	}, nil
}

// interlock reads the operator's file; one that cannot be read forbids.
func (a *Agent) interlock() func() error {
	name := a.config.Update.Interlock
	if name == "" {
		return nil
	}
	return func() error {
		b, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("it cannot be read, which forbids: %w", err)
		}
		if s := strings.TrimSpace(string(b)); s != "ok" {
			return fmt.Errorf("%s says %.60q, not ok", name, s)
		}
		return nil
	}
}

// rehearseTimeout ends a child process that hangs on a model.
const rehearseTimeout = 2 * time.Minute

// rehearse runs the trial command on a slot.
func (a *Agent) rehearse() func(ctx context.Context, slot string) error {
	d, ok := a.disk.(*disk.Dir)
	if len(a.config.TrialCommand) == 0 || !ok {
		return nil
	}
	return func(ctx context.Context, slot string) error {
		ctx, cancel := context.WithTimeout(ctx, rehearseTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, a.config.TrialCommand[0], append(a.config.TrialCommand[1:len(a.config.TrialCommand):len(a.config.TrialCommand)], d.Path(slot))...)
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			return fmt.Errorf("it did not end in %s", rehearseTimeout)
		}
		if err != nil {
			return fmt.Errorf("%w: %.300s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}

// sink records what the pipeline finds, and passes verdicts on.
type sink struct {
	*pipeline.Recorder
	agent *Agent
}

// Verdict implements pipeline.Sink.
func (s *sink) Verdict(v pipeline.Verdict) {
	s.Recorder.Verdict(v)
	a := s.agent
	a.actions.Window(v.Row, time.Unix(0, v.At), v.Score, v.Flag, fmt.Sprintf("%s-%d", v.Release.Name, v.Release.Counter))
	a.view.Lock()
	a.newest.verdict, a.newest.scored = v, true
	a.view.Unlock()
}

// read moves rows from the source into the pipeline until ctx ends or the
// source does.
func (a *Agent) read(ctx context.Context, p *pipeline.Pipeline, r *pipeline.Recorder) {
	defer r.Flush()
	for failures := 0; ; {
		rows, err := a.source.Next(ctx)
		if rows.Len() > 0 {
			failures = 0
			now := a.config.Now()
			p.Rows(rows, now)
			a.took(rows, now)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, io.EOF):
			a.config.Log.Info("the source has ended")
			a.setSource(func(f *health.Facts) { f.SourceEnded = true })
			return
		case err != nil:
			a.config.Log.Warn("the source failed and is opened again", "error", err)
			a.setSource(func(f *health.Facts) { f.SourceError = err })
			r.Flush()
			if !sleep(ctx, min(time.Second<<min(failures, 5), sourceAgain)) {
				return
			}
			failures++
			if err := errors.Join(a.source.Close(), a.source.Open(ctx)); err == nil {
				a.setSource(func(f *health.Facts) { f.SourceError = nil })
			}
		}
	}
}

func (a *Agent) took(rows source.Rows, now time.Time) {
	a.mu.Lock()
	a.facts.LastRow = now
	a.mu.Unlock()
	n := rows.Len() - 1
	a.view.Lock()
	defer a.view.Unlock()
	if a.newest.values == nil {
		a.newest.values = make([]float32, len(rows.Values))
	}
	for c := range rows.Values {
		a.newest.values[c] = rows.Values[c][n]
	}
}

func (a *Agent) latest() latest {
	state := "steady"
	a.mu.Lock()
	u := a.updater
	a.mu.Unlock()
	if u != nil {
		if s, _ := u.read(); s.Trial != nil && !s.Trial.Phase.Final() {
			state = string(s.Trial.Phase)
		}
	}
	a.view.Lock()
	defer a.view.Unlock()
	l := a.newest
	l.values = append([]float32(nil), l.values...)
	l.state = state
	return l
}

func (a *Agent) setSource(change func(*health.Facts)) {
	a.mu.Lock()
	change(&a.facts)
	a.mu.Unlock()
	a.wantReport()
}

// emit hands a block to the recorder's goroutine. A disk that stalls holds the
// pipeline up for a bounded time; after that blocks are lost, and counted.
func (a *Agent) emit(b *telemetry.Block, nextRow uint64) {
	r := recorded{b, nextRow}
	select {
	case a.recorded <- r:
		return
	default:
	}
	t := time.NewTimer(recordWait)
	defer t.Stop()
	select {
	case a.recorded <- r:
	case <-t.C:
		a.lost.Add(1)
	}
}

// keep writes blocks to the spool until there are no more.
func (a *Agent) keep() {
	for r := range a.recorded {
		err := a.spool.Append(r.block, r.nextRow)
		if err != nil {
			a.config.Log.Warn("a block of telemetry is lost", "error", err)
		}
		a.mu.Lock()
		a.facts.SpoolError = err
		a.mu.Unlock()
	}
}

// syncLoop makes blocks durable, which lets them be sent.
func (a *Agent) syncLoop(ctx context.Context) {
	for sleep(ctx, seconds(a.config.Spool.SyncS)) {
		if err := a.spool.Sync(); err != nil {
			a.config.Log.Warn("telemetry is not durable", "error", err)
			a.mu.Lock()
			a.facts.SpoolError = err
			a.mu.Unlock()
		}
	}
}

func (a *Agent) publishEvent(ctx context.Context, payload []byte) error {
	done := make(chan error, 1)
	a.uplink.Publish(topic.Topic{ID: a.config.id(), Kind: topic.Events}, payload, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wantReport asks for a report soon.
func (a *Agent) wantReport() {
	select {
	case a.reports <- struct{}{}:
	default:
	}
}

// reportLoop reports when asked, at every heartbeat, and when health changes.
func (a *Agent) reportLoop(ctx context.Context) {
	heartbeat := time.NewTicker(seconds(a.config.HeartbeatS))
	defer heartbeat.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		beat := false
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if !a.look() {
				continue
			}
		case <-heartbeat.C:
			beat = true
			if err := a.saveRecord(); err != nil {
				a.config.Log.Warn("the agent's counters were not saved", "error", err)
			}
			a.retryDesired()
		case <-a.reports:
		}
		if !a.uplink.Connected() {
			continue // the next connection begins with a report
		}
		r := a.Reported()
		a.mu.Lock()
		a.seq++
		r.Seq = a.seq
		a.mu.Unlock()
		b, err := json.Marshal(r)
		if err != nil {
			a.config.Log.Error("the report cannot be written", "error", err)
			continue
		}
		a.config.Log.Debug("report", "seq", r.Seq, "heartbeat", beat)
		a.uplink.Publish(topic.Topic{ID: a.config.id(), Kind: topic.Reported}, b, func(err error) {
			if err != nil {
				a.config.Log.Debug("a report was not delivered", "error", err)
			}
		})
	}
}

// retryDesired hands the newest document to the updater again if its queue was
// full when it came.
func (a *Agent) retryDesired() {
	a.mu.Lock()
	u, d := a.updater, a.desired
	a.mu.Unlock()
	if u == nil || d == nil {
		return
	}
	if s, _ := u.read(); s.Generation < d.Generation {
		select {
		case u.events <- update.Offered{Doc: *d}:
		default:
		}
	}
}

// look evaluates the agent's health and says whether it changed.
func (a *Agent) look() bool {
	free, total, err := a.disk.Free()
	if err != nil {
		total = 0
	}
	notBefore, notAfter, renewal := a.identity.Validity()
	s := a.spool.Stats()
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.facts
	f.Now, f.DiskFree, f.DiskTotal = a.config.Now(), free, total
	f.NotBefore, f.NotAfter, f.Renewal = notBefore, notAfter, renewal
	f.Connected = a.uplink.Connected()
	f.Dropped = s.Dropped + a.lost.Load()
	if a.updater != nil {
		if _, err := a.updater.read(); err != nil && f.SpoolError == nil {
			f.SpoolError = err
		}
	}
	var changed bool
	a.findings, changed = a.board.Update(health.Evaluate(f))
	if a.pipeline != nil {
		a.rec.Champion.add(a.pipeline.Watch(), f.Now)
	}
	return changed
}

// Reported is what the device would report now. It may be called at any time,
// from any goroutine.
func (a *Agent) Reported() twin.Reported {
	now := a.config.Now()
	r := twin.Reported{
		Schema: 1, Site: a.config.Site, Node: a.config.Node, Boot: a.boot, At: now.UTC(),
		Class: a.config.Class, Labels: a.config.Labels,
		Agent: twin.Agent{
			Version: a.config.Version, Arch: goruntime.GOARCH, Protocol: protocol.Version,
			RSSMiB: float64(health.ResidentMemory()) / (1 << 20), CPUs: goruntime.NumCPU(),
		},
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r.Seq = a.seq
	r.Conditions = append(r.Conditions, a.findings...)
	if a.spool != nil {
		s := a.spool.Stats()
		r.Stream.SpoolBlocks, r.Stream.SpoolBytes = s.Blocks, s.Bytes
		r.Stream.SpoolDropped = a.rec.Dropped + s.Dropped + a.lost.Load()
	}
	c := a.rec.Stream
	if a.pipeline != nil {
		c = a.pipeline.Counters()
		w := a.pipeline.Watch()
		a.rec.Champion.add(w, now)
		r.Champion = a.rec.Champion.running(w)
		r.Stream.SampleRateHz = a.source.RateHz()
	}
	r.Stream.Samples, r.Stream.WindowsDue, r.Stream.WindowsScored = c.Samples, c.WindowsDue, c.WindowsScored
	r.Stream.WindowsLost, r.Stream.StoppedMs, r.Stream.Swaps = c.WindowsLost, c.StoppedMs, c.Swaps
	if a.updater != nil {
		s, _ := a.updater.read()
		r.Generation, r.Trial, r.Quarantined = s.Generation, s.Trial, s.Quarantined
		r.Conditions = append(r.Conditions, s.Conditions...)
		if g := s.LastGood; g != nil {
			r.LastGood = &twin.Running{Name: g.Name, Counter: g.Counter, Manifest: g.Manifest, Model: g.Model}
		}
	}
	return r
}

// saveRecord keeps the counters for the next run.
func (a *Agent) saveRecord() error {
	a.mu.Lock()
	r := a.rec
	if a.pipeline != nil {
		a.rec.Champion.add(a.pipeline.Watch(), a.config.Now())
		r = a.rec
		r.Stream = a.pipeline.Counters()
	}
	r.Dropped += a.spool.Stats().Dropped + a.lost.Load()
	a.mu.Unlock()
	return saveJSON(a.disk, recordFile, r)
}

// Alive says that the agent's heart, the update loop, still turns. Before the
// source is open there is nothing that could hang.
func (a *Agent) Alive() bool {
	beat := a.beat.Load()
	return beat == 0 || time.Since(time.Unix(0, beat)) < aliveWithin
}
