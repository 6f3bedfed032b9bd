package agent

import (
	"context"
	"encoding/json"
	goruntime "runtime"
	"runtime/debug"
	"time"

	"github.com/swellfleet/swell/agent/health"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

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
	durable := time.Now() // when the record last was
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if !a.look() {
				continue
			}
		case <-heartbeat.C:
			a.retryDesired()
		case <-a.reports:
		}
		sync := time.Since(durable) >= recordEvery
		if err := a.saveRecord(sync); err != nil {
			a.config.Log.Warn("the agent's counters were not saved", "error", err)
		} else if sync {
			durable = time.Now()
		}
		if !a.uplink.Connected() {
			continue // the next connection begins with a report
		}
		if a.resuming() {
			continue // so does the champion's return
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
		a.uplink.Publish(topic.Topic{ID: a.config.id(), Kind: topic.Reported}, b, func(err error) {
			if err != nil {
				a.config.Log.Debug("a report was not delivered", "error", err)
			}
		})
	}
}

// resumeQuiet bounds how long a start may keep the first report back, where a
// model takes long to load.
const resumeQuiet = 10 * time.Second

// resuming says that the model which acted before the start is about to act
// again. A report of now would say that none does, which is true and would be
// taken for a failure of the release.
func (a *Agent) resuming() bool {
	a.mu.Lock()
	u, started := a.updater, a.facts.Started
	a.mu.Unlock()
	if u == nil || a.config.Now().Sub(started) > resumeQuiet {
		return false
	}
	select {
	case <-u.resumed:
		return false
	default:
		return true
	}
}

// retryDesired hands the newest document to the updater again if its queue was
// full when it came.
func (a *Agent) retryDesired() {
	a.mu.Lock()
	u, f, d := a.updater, a.program.updates(), a.desired
	a.mu.Unlock()
	if d == nil {
		return
	}
	retry := func(u *updater, d twin.Desired) {
		if u == nil {
			return
		}
		if s, _ := u.read(); s.Generation < d.Generation {
			select {
			case u.events <- update.Offered{Doc: d}:
			default:
			}
		}
	}
	retry(u, *d)
	retry(f, firmwarePart(*d))
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
	if n := s.Dropped + a.lost.Load(); n != a.dropped {
		a.dropped, a.droppedAt = n, f.Now
	}
	if f.Now.Sub(a.droppedAt) < droppedLately {
		f.Dropped = a.dropped
	}
	if err := a.writeError.Load(); err != nil {
		f.WriteError = *err
	}
	if a.updater != nil {
		if _, err := a.updater.read(); err != nil && f.WriteError == nil {
			f.WriteError = err
		}
	}
	f.Interlock = a.heldBack()
	if c, ok := a.source.(source.Camera); ok {
		n, err := c.Unreadable()
		if n != a.skipped {
			a.skipped, a.skippedAt = n, f.Now
		}
		if f.Now.Sub(a.skippedAt) < droppedLately {
			f.Unreadable, f.UnreadableError = n, err
		}
	}
	var changed bool
	a.findings, changed = a.board.Update(health.Evaluate(f))
	if a.pipeline != nil {
		a.rec.Champion.add(a.pipeline.Watch(), f.Now)
	}
	return changed
}

// heldBack is why the plant keeps a release from acting that is ready to; nil
// when none is, or the plant permits. a.mu is held.
func (a *Agent) heldBack() error {
	for _, u := range []*updater{a.updater, a.program.updates()} {
		if u == nil {
			continue
		}
		if s, _ := u.read(); s.Trial != nil && s.Trial.Phase == twin.PhaseReady {
			return a.interlocks.Last()
		}
	}
	return nil
}

// builtAt is when the program's source was committed; zero where the program
// does not say.
func builtAt() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
			return t
		}
	}
	return time.Time{}
}

// Reported is what the device would report now. It may be called at any time,
// from any goroutine.
func (a *Agent) Reported() twin.Reported {
	now := a.config.Now()
	r := twin.Reported{
		Schema: 1, Site: a.config.Site, Node: a.config.Node, Boot: a.boot, At: now.UTC(),
		Class: a.config.Class, Labels: a.config.Labels, Metrics: health.Metrics(),
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
	if a.frames != nil {
		f := a.frames.Report(now)
		f.Unreadable = a.rec.Unreadable + a.unreadable()
		r.Frames = &f
	}
	c := a.rec.Stream
	if a.pipeline != nil {
		c = a.pipeline.Counters()
		w := a.pipeline.Watch()
		a.rec.Champion.add(w, now)
		r.Champion = a.rec.Champion.running(w)
		r.Stream.SampleRateHz = a.rateHz
	}
	r.Stream.Samples, r.Stream.WindowsDue, r.Stream.WindowsScored = c.Samples, c.WindowsDue, c.WindowsScored
	r.Stream.WindowsLost, r.Stream.Swaps, r.Stream.ValuesHeld = c.WindowsLost, c.Swaps, c.ValuesHeld
	r.Stream.StoppedMs = c.StoppedMs + uint64(a.restart.Milliseconds())
	if a.updater != nil {
		s, _ := a.updater.read()
		r.Generation, r.Trial, r.Quarantined = s.Generation, s.Trial, s.Quarantined
		r.Conditions = append(r.Conditions, s.Conditions...)
		if g := s.LastGood; g != nil {
			r.LastGood = &twin.Running{Name: g.Name, Counter: g.Counter, Manifest: g.Manifest, Model: g.Model}
		}
	}
	if a.program != nil {
		a.program.tell(&r)
	}
	return r
}

// saveRecord keeps the counters for the next run; durable says whether they are
// to survive a power cut, too.
func (a *Agent) saveRecord(durable bool) error {
	a.mu.Lock()
	if a.pipeline != nil {
		a.rec.Champion.add(a.pipeline.Watch(), a.config.Now())
	}
	r := a.rec
	if a.pipeline != nil {
		r.Stream = a.pipeline.Counters()
		r.Stream.StoppedMs += uint64(a.restart.Milliseconds())
	}
	r.Dropped += a.spool.Stats().Dropped + a.lost.Load()
	r.Unreadable += a.unreadable()
	a.mu.Unlock()
	if durable {
		return saveJSON(a.disk, recordFile, r)
	}
	return saveRecent(a.disk, r)
}

// unreadable is how many pictures the camera skipped in this run.
func (a *Agent) unreadable() uint64 {
	c, ok := a.source.(source.Camera)
	if !ok {
		return 0
	}
	n, _ := c.Unreadable()
	return n
}

// Alive says that the agent's heart, the update loop, still turns. Before the
// source is open there is nothing that could hang.
func (a *Agent) Alive() bool {
	beat := a.beat.Load()
	return beat == 0 || time.Since(time.Unix(0, beat)) < aliveWithin
}
