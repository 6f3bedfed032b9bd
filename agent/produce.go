package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	goruntime "runtime"
	"strings"
	"time"

	"github.com/swellfleet/swell/agent/actions"
	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/frames"
	"github.com/swellfleet/swell/agent/health"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
)

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
	defer func() {
		if err := a.source.Close(); err != nil {
			a.config.Log.Warn("the source was not closed well", "error", err)
		}
	}()
	channels, rate := a.source.Channels(), a.source.RateHz()
	a.setSource(func(f *health.Facts) {
		f.SourceError, f.Started = nil, a.config.Now()
		f.Occasional = a.frames != nil && rate == 0
		if rate > 0 {
			f.RowEvery = time.Duration(1e9 / rate)
		}
	})
	camera, firstRow := a.frames != nil, a.spool.NextRow()
	if camera {
		// A kill may have kept a picture and lost its row: its number stays taken.
		firstRow = max(firstRow, a.frames.NextRow())
	}
	recorder := pipeline.NewRecorder(pipeline.RecorderConfig{Channels: channels, RateHz: rate, MaxRows: a.config.Telemetry.BlockRows, Emit: a.emit})
	out := &sink{Recorder: recorder, agent: a}
	p := pipeline.New(pipeline.Config{
		Channels: channels, RateHz: rate, Camera: camera, MaxGap: seconds(a.config.Pipeline.MaxGapS), MaxHold: a.config.Pipeline.hold(),
		FirstRow: firstRow, Before: a.rec.Stream, Sink: out,
	})
	u, err := a.newUpdater(p)
	if err != nil {
		// Without its journal the device does not know what it may run. It
		// goes on reading and recording, and says so.
		a.config.Log.Error("updates are off", "error", err)
		a.setSource(func(f *health.Facts) { f.Unsupported = "no model can be run: " + err.Error() })
	}
	a.mu.Lock()
	a.pipeline, a.updater, a.rateHz = p, u, rate
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
	a.read(ctx, p, out)
}

func (a *Agent) newUpdater(p *pipeline.Pipeline) (*updater, error) {
	journal, err := apply.LoadJournal(a.disk, journalFile)
	if err != nil {
		return nil, err
	}
	machine, err := update.New(update.Config{}, journal)
	if err != nil {
		return nil, err
	}
	client := a.identity.Client()
	applier := apply.New(apply.Config{
		StagerConfig: a.staging(artifact.Model, "slots", client),
		Scorer:       &a.scorer, Pipeline: p, Runtime: runtime.Options{Library: a.config.ONNXRuntime},
		MemoryReserve: int64(a.config.Update.MemoryMiB) << 20,
		Interlock:     a.interlocks.Check, Rehearse: a.rehearse(), Now: a.config.Now,
	})
	return &updater{
		machine: machine, applier: applier, close: func() { applier.Close(); client.CloseIdleConnections() },
		observe: func() update.Event { return observed(p.Watch()) }, settled: settled(p),
		journal: journalFile, disk: a.disk, now: a.config.Now, log: a.config.Log,
		events: make(chan update.Event, eventQueue), report: a.wantReport,
		alive: func() { a.beat.Store(time.Now().UnixNano()) }, resumed: make(chan struct{}),
	}, nil
}

// staging says how releases of a kind come to the disk.
func (a *Agent) staging(k artifact.Kind, folder string, client *http.Client) apply.StagerConfig {
	return apply.StagerConfig{
		Disk: a.disk, Roots: a.trusted, Kind: k, Class: a.config.Class, Arch: goruntime.GOARCH, Folder: folder, Log: a.config.Log,
		Base: strings.TrimSuffix(a.config.Hub.URL, "/"), Client: client, ByteBudget: int64(a.config.Hub.ByteBudgetMiB) << 20,
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

	// Of the batch that the pipeline is at, for cameras.
	first    uint64
	verdicts []pipeline.Verdict
}

// Rows implements pipeline.Sink.
func (s *sink) Rows(first uint64, rows source.Rows) {
	s.Recorder.Rows(first, rows)
	s.first, s.verdicts = first, s.verdicts[:0]
}

// offer hands the pictures of the batch to those who choose what the hub gets.
func (s *sink) offer(rows source.Rows, now time.Time) {
	verdicts := s.verdicts
	for i, encoded := range rows.Frames {
		p := frames.Picture{Row: s.first + uint64(i), At: rows.Times[i], Encoded: encoded, Width: rows.Pictures[i].Width, Height: rows.Pictures[i].Height}
		if len(verdicts) > 0 && verdicts[0].Row == p.Row {
			v := verdicts[0]
			verdicts = verdicts[1:]
			p.Finding = frames.Finding{
				Release: v.Release.String(), Score: float64(v.Score), Threshold: v.Threshold, Flag: v.Flag,
				Class: v.Class, Probability: float64(v.Probability),
			}
		}
		s.agent.frames.Offer(p, now)
	}
}

// Verdict implements pipeline.Sink.
func (s *sink) Verdict(v pipeline.Verdict) {
	s.Recorder.Verdict(v)
	a := s.agent
	if a.frames != nil {
		s.verdicts = append(s.verdicts, v)
	}
	a.actions.Window(actions.Window{Row: v.Row, At: time.Unix(0, v.At), Score: v.Score, Flagged: v.Flag, Class: v.Class, Name: v.Release.Name, Counter: v.Release.Counter})
	a.view.Lock()
	a.newest.verdict, a.newest.scored = v, true
	a.view.Unlock()
}

// read moves rows from the source into the pipeline until ctx ends or the
// source does.
func (a *Agent) read(ctx context.Context, p *pipeline.Pipeline, out *sink) {
	defer out.Flush()
	for failures := 0; ; {
		rows, err := a.source.Next(ctx)
		if rows.Len() > 0 {
			failures = 0
			now := a.config.Now()
			p.Rows(rows, now)
			if a.frames != nil {
				out.offer(rows, now)
			}
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
			out.Flush()
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
	if last := a.rec.Restarted; !last.IsZero() {
		// Nobody scored what came between the two programs.
		a.rec.Restarted = time.Time{}
		a.restart = max(now.Sub(last), 0)
		a.config.Log.Info("rows come again after the restart", "pause", a.restart)
	}
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
// pipeline up for a bounded time; after that blocks are lost, and counted. A
// patient agent waits for as long as it takes.
func (a *Agent) emit(b *telemetry.Block, nextRow uint64) {
	r := recorded{b, nextRow}
	select {
	case a.recorded <- r:
		return
	default:
	}
	if a.config.Patient {
		a.recorded <- r // keep takes it: it ends after everything that emits
		return
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
		a.writeError.Store(&err)
	}
}

// syncLoop makes blocks durable, which lets them be sent.
func (a *Agent) syncLoop(ctx context.Context) {
	for sleep(ctx, seconds(a.config.Spool.SyncS)) {
		err := a.spool.Sync()
		if a.frames != nil {
			err = errors.Join(err, a.frames.Sync())
		}
		if err != nil {
			a.config.Log.Warn("telemetry is not durable", "error", err)
			a.writeError.Store(&err)
		}
	}
}
