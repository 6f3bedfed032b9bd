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
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swellfleet/swell/agent/actions"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/enroll"
	"github.com/swellfleet/swell/agent/frames"
	"github.com/swellfleet/swell/agent/health"
	"github.com/swellfleet/swell/agent/interlock"
	"github.com/swellfleet/swell/agent/link"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/images"
	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/agent/spool"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/models/runtime"
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
var sources = map[string]func(*Agent) source.Source{
	"replay":    func(a *Agent) source.Source { return replay.New(a.config.Source.Replay) },
	"synthetic": func(a *Agent) source.Source { return synthetic.New(a.config.Source.Synthetic) },
	"images": func(a *Agent) source.Source {
		return images.New(a.config.Source.Images, images.Device{Disk: a.disk, Log: a.config.Log, Now: a.config.Now})
	},
}

// Agent is one device's program. Make it with New, run it once.
type Agent struct {
	config Config
	boot   string // random, names this run in reports
	// interlocks are the plant's say before a release acts; never nil.
	interlocks *interlock.Set
	keys       string // trusted release keys of the configuration, PEM; empty: the hub's

	disk     disk.FS
	identity *enroll.Identity
	spool    *spool.Spool
	uplink   Uplink
	delivery *delivery
	frames   *frames.Keeper // nil: the source is no camera
	pictures *delivery      // of frames; likewise
	source   source.Source
	actions  *actions.Actions
	scorer   scorer.Scorer
	reports  chan struct{} // has a token when a report is wanted
	recorded chan recorded // blocks on their way to the spool
	beat     atomic.Int64  // when the updater last turned, ns
	lost     atomic.Uint64 // blocks that never reached the spool
	// writeError is how the newest write of telemetry went; nil: none yet. It is
	// not under mu, which a report holds while it waits for the pipeline, which
	// may wait for the recorder.
	writeError atomic.Pointer[error]

	// view guards newest. The pipeline takes it while it holds its own lock, so
	// nothing else may be locked under it.
	view   sync.Mutex
	newest latest

	mu        sync.Mutex
	seq       uint64 // of the newest report
	rec       record
	desired   *twin.Desired      // newest document; kept until there is an updater
	pipeline  *pipeline.Pipeline // nil until the source is open
	updater   *updater           // likewise
	program   *program           // nil: no boot loader started this agent
	restart   time.Duration      // how long rows waited for this program to take over from another
	live      *live              // likewise; nil also when not wanted
	rateHz    float64            // of the source
	dropped   uint64             // blocks lost in this run, as of the newest look
	droppedAt time.Time          // when that number last rose
	skipped   uint64             // pictures skipped in this run, as of the newest look
	skippedAt time.Time          // when that number last rose
	board     health.Board
	findings  []twin.Condition
	facts     health.Facts
}

// recorded is a finished block.
type recorded struct {
	block   *telemetry.Block
	nextRow uint64
}

const (
	picturesInFlight = 2                // on the way to the hub: blocks and reports share the line
	recordQueue      = 64               // blocks between pipeline and spool
	recordWait       = 2 * time.Second  // how long the pipeline waits for room there
	lookEvery        = time.Second      // between looks at the agent's health
	recordEvery      = 10 * time.Second // between durable saves of the counters
	aliveWithin      = 30 * time.Second
	droppedLately    = 10 * time.Minute // how long lost blocks stay a finding
	sourceAgain      = 5 * time.Second  // between attempts to open a source, at most
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
	a.keys = strings.TrimSpace(string(keys))
	if _, err := roots(a.keys, a.config.Trust.LedgerKey); err != nil {
		return nil, err
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	a.boot = hex.EncodeToString(b[:])
	var err error
	if a.interlocks, err = interlock.New(a.config.Update.interlocks(), a.config.Now); err != nil {
		return nil, err
	}
	return a, nil
}

// Run starts everything, enrols if need be, and returns when ctx ends (nil),
// another program is to run (ErrRestart) or the device cannot work at all
// (why). A hub that is away is no reason.
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
	if a.pictures != nil {
		start(a.pictures.run)
	}
	start(a.actions.Run)
	start(a.reportLoop)
	start(a.syncLoop)
	start(func(ctx context.Context) { a.produce(ctx, start) })
	if a.program != nil {
		a.program.end = cancel
		start(a.program.run)
	}
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
	if cause := context.Cause(ctx); errors.Is(cause, ErrRestart) {
		a.mu.Lock()
		a.rec.Restarted = a.facts.LastRow
		a.mu.Unlock()
		return cause
	} else if !asked(cause) {
		return cause
	}
	return nil
}

// asked says whether a run that ended for this cause was asked to, and did not
// fail.
func asked(cause error) bool {
	return cause == nil || errors.Is(cause, ErrRestart) || errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded)
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
	a.mu.Lock() // Reported may be asked at any time
	defer a.mu.Unlock()
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
	a.delivery = newDelivery(topic.Topic{ID: a.config.id(), Kind: topic.Blocks}, a.spool, a.uplink, a.config.Hub.InFlight, a.config.Log)
	a.actions = actions.New(a.config.Actions, a.config.Log, a.publishEvent)
	if a.source = a.config.Custom; a.source == nil {
		a.source = sources[a.config.Source.Kind](a)
	}
	if _, ok := a.source.(source.Camera); ok {
		a.frames, err = frames.Open(a.config.Frames, frames.Device{Disk: a.disk, Class: a.config.Class, Log: a.config.Log, Patient: a.config.Patient})
		if err != nil {
			return fail(errors.Join(err, a.spool.Close()))
		}
		a.pictures = newDelivery(topic.Topic{ID: a.config.id(), Kind: topic.Frames}, a.frames.Spool(), a.uplink, picturesInFlight, a.config.Log)
		a.pictures.sent = a.frames.Sent
	}
	a.facts.DownSince, a.facts.BuiltAt = a.config.Now(), builtAt()
	if a.config.Slot != "" {
		if a.program, err = a.newProgram(); err != nil {
			// What runs goes on; only a new program cannot come.
			a.config.Log.Error("firmware updates are off", "error", err)
			a.facts.Unsupported = "this agent cannot replace its own program: " + err.Error()
		}
	}
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
		NeedAnchors: a.keys == "",
	})
	if err != nil {
		return errors.Join(err, a.closeDisk())
	}
	return nil
}

// trusted are the keys that this device believes: those of the configuration,
// and in the place of what it does not name those that the hub gave when the
// device enrolled. Without any it believes nothing.
func (a *Agent) trusted() trust.Roots {
	given := a.identity.Anchors()
	r, err := roots(cmp.Or(a.keys, given.ReleaseKeys), cmp.Or(a.config.Trust.LedgerKey, given.LedgerKey))
	if err != nil {
		a.config.Log.Error("the trusted keys cannot be read", "error", err)
	}
	return r
}

// roots reads keys in PEM and the ledger's key; either may be empty.
func roots(keys, ledger string) (r trust.Roots, err error) {
	if keys != "" {
		if r, err = trust.ParseRoots([]byte(keys)); err != nil {
			return trust.Roots{}, fmt.Errorf("trust: %w", err)
		}
	}
	if ledger == "" {
		return r, nil
	}
	if r, err = r.WithLog(ledger); err != nil {
		return trust.Roots{}, fmt.Errorf("trust.ledger_key: %w", err)
	}
	return r, nil
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
	p, u, f := a.pipeline, a.updater, a.program
	a.mu.Unlock()
	if f != nil {
		f.close()
	}
	if u != nil {
		u.close()
	}
	if p != nil {
		p.Close()
	}
	a.scorer.Wait()
	var pictures error
	if a.frames != nil {
		pictures = a.frames.Close()
	}
	// Both records, or the recent one could be taken for the newer.
	return errors.Join(pictures, a.saveRecord(true), a.saveRecord(false), a.spool.Close(), a.closeDisk())
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
	if a.pictures != nil {
		a.pictures.nudge()
	}
	a.wantReport()
}

// Down implements link.Handler.
func (a *Agent) Down(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.facts.DownSince.IsZero() {
		a.facts.DownSince, a.facts.BuiltAt = a.config.Now(), builtAt()
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
	if d.Firmware != nil && a.program == nil {
		a.facts.Unsupported = "the hub offers firmware, and this agent cannot replace itself: start it by its boot command, or update its package"
	}
	for _, offer := range []struct {
		u *updater
		d twin.Desired
	}{{a.updater, d}, {a.program.updates(), firmwarePart(d)}} {
		if offer.u == nil {
			continue
		}
		// Never blocks for long: the updater only computes.
		select {
		case offer.u.events <- update.Offered{Doc: offer.d}:
		default:
			a.config.Log.Warn("a desired document waits for the next report", "generation", d.Generation)
		}
	}
}
