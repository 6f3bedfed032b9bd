// Package backtest plays a folder of recordings through the whole product and
// writes down what the devices would have said: agents stream each file's
// first rows to a hub, a night learns from them, the release is signed and
// rolled out, and the devices score the rest of their files.
//
// It is for trying Swell on data somebody has before they install anything. No
// labels are needed. Everything runs in this process on the loopback
// interface, by the same code as a real site; only the clock of the files is
// moved, so that an old recording is recent.
package backtest

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// Options say what to play and how.
type Options struct {
	Data         []string // folders with one CSV file a device
	Files        []string // globs of paths below Data, without .csv; empty: all
	TimeColumn   string   // empty: found out, see agent/source/replay
	SampleRateHz float64  // nominal; 0: by the times
	Channels     []string // empty: every column but the time, Exclude, labels and those without numbers
	Exclude      []string // columns to leave out, such as labels
	TrainRows    int      // first rows of each file to learn from; with TrainShare the most that are taken
	TrainShare   float64  // share of each file's rows to learn from, from the first on; 0: TrainRows of each
	Rate         float64  // multiple of the recording's pace for the rest; 0: as fast as it goes
	ModelPer     string   // device, folder or all; empty: device, and folder where there are several
	Kinds        []string // detectors that compete; empty: all
	Networks     []string // ONNX files that compete beside them; with :raw behind the name they get engineering units
	Fit          zoo.Config
	Out          string       // verdicts.csv
	WorkDir      string       // empty: a temporary folder, removed at the end
	Progress     io.Writer    // a line for each stage
	Log          *slog.Logger // of hub and devices; nil: none
}

// Result counts what happened.
type Result struct {
	Files    int     `json:"files"`
	LeftOut  int     `json:"files_left_out"` // nothing could be played from them
	Rows     int     `json:"rows"`           // of all files
	Verdicts int     `json:"verdicts"`       // written
	Flagged  int     `json:"flagged"`        // of those, anomalous
	Unscored int     `json:"unscored"`       // rows after the training rows without a verdict
	Release  string  `json:"release"`
	Seconds  float64 `json:"seconds"`
	// Labels compare the verdicts with label columns in the files; nil: there are none.
	Labels *Labelled `json:"labels,omitempty"`
}

// Labelled says how verdicts and labels agree, row by row and by events: rows
// on end that are labelled as anomalies. Where each event is told once, as by
// the detectors of single streams, only events mean something.
type Labelled struct {
	Files       int     `json:"files"`        // that have labels
	Rows        int     `json:"rows"`         // of them, with a verdict
	Anomalies   int     `json:"anomalies"`    // rows labelled so
	F1          float64 `json:"f1"`           // 0 without anomalies
	FalseAlarms float64 `json:"false_alarms"` // share of the other rows that were flagged
	Missed      float64 `json:"missed"`       // share of the anomalies that were not
	Events      int     `json:"events"`
	EventsFound int     `json:"events_found"` // with a row that was flagged

	found, alarms int
	inEvent, seen bool // the last row counted belongs to an event, which was found
}

// next begins the verdicts of another file.
func (l *Labelled) next() {
	l.Files++
	l.inEvent, l.seen = false, false
}

// count takes the verdicts on a file's rows in order.
func (l *Labelled) count(flagged, anomalous bool) {
	l.Rows++
	if anomalous {
		l.Anomalies++
		if !l.inEvent {
			l.Events, l.seen = l.Events+1, false
		}
		if flagged {
			l.found++
			if !l.seen {
				l.EventsFound, l.seen = l.EventsFound+1, true
			}
		}
	} else if flagged {
		l.alarms++
	}
	l.inEvent = anomalous
}

func (l *Labelled) finish() {
	if n := l.Anomalies + l.found + l.alarms; n > 0 {
		l.F1 = 2 * float64(l.found) / float64(n)
	}
	l.FalseAlarms = float64(l.alarms) / float64(max(l.Rows-l.Anomalies, 1))
	l.Missed = float64(l.Anomalies-l.found) / float64(max(l.Anomalies, 1))
}

// verdict is one line of verdicts.csv.
type verdict struct {
	score float64
	flag  bool
}

// Run plays the folder.
func Run(ctx context.Context, o Options) (Result, error) {
	began := time.Now()
	if o.ModelPer == "" {
		o.ModelPer = "device"
		if len(o.Data) > 1 {
			o.ModelPer = "folder"
		}
	}
	if o.TrainRows <= 0 && o.TrainShare > 0 {
		o.TrainRows = math.MaxInt
	}
	if o.TrainRows <= 0 {
		return Result{}, errors.New("--train-rows: say how many first rows of each file are normal operation to learn from")
	}
	if !(o.TrainShare >= 0 && o.TrainShare < 1) {
		return Result{}, fmt.Errorf("--train-share is %g: want a share of each file's rows, below 1", o.TrainShare)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(o.Progress, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	recs, left, err := recordings(o)
	if err != nil {
		return Result{}, err
	}
	if recs, left, err = divided(recs, left, o); err != nil {
		return Result{}, err
	}
	if err := excluded(recs, o.Exclude); err != nil {
		return Result{}, err
	}
	fewest, most := recs[0].train, 0
	for _, r := range recs {
		fewest, most = min(fewest, r.train), max(most, r.train)
	}
	for _, line := range told(recs, left, o) {
		say("%s", line)
	}
	if o.WorkDir == "" {
		if o.WorkDir, err = os.MkdirTemp("", "swell-backtest-"); err != nil {
			return Result{}, err
		}
		defer os.RemoveAll(o.WorkDir)
	}
	brought, kinds, err := networks(o)
	if err != nil {
		return Result{}, err
	}
	h, err := local.Start(ctx, hub.Config{
		DataDir: filepath.Join(o.WorkDir, "hub"), Log: o.Log,
		Objects:  hub.Objects{Dir: filepath.Join(o.WorkDir, "objects")},
		Rollouts: hub.Rollouts{Policies: local.AtOnce("backtest")},
		Training: hub.Training{Garden: brought, Policies: []hub.RetrainPolicy{{
			Name: "backtest", LookbackS: 40 * 86400, Exclude: o.Exclude, TrainRows: most, MinRows: min(fewest, 50), Kinds: kinds, RolloutPolicy: "backtest",
			// Nothing is held back from so few rows, so the gates can only
			// look for models that are broken.
			Fit: func(p *retrain.Policy) {
				p.Fit = o.Fit
				p.Gates = retrain.Gates{MaxFlagShare: 1, MinDetected: 0.01, WaiveFaults: true, MaxMissing: 0.5, MaxStuckShare: 1}
			},
		}}},
	}, "")
	if err != nil {
		return Result{}, err
	}
	defer h.Close()

	b := &run{options: o, recs: recs, hub: h, gates: map[string]*gate{}, say: say}
	f, err := b.start(ctx)
	if err != nil {
		return Result{}, err
	}
	defer f.Close()
	res := Result{Files: len(recs), LeftOut: len(left)}
	for _, r := range recs {
		res.Rows += r.rows
	}
	say("%d devices stream their first %d to %d rows", len(recs), fewest, most)
	if err := b.streamed(ctx, f, func(r recording) int { return r.train }); err != nil {
		return Result{}, err
	}
	say("the hub has them; training")
	night, err := h.Night(ctx, "backtest", func(step string) { say("  %s", step) })
	if err != nil {
		if fewest < 50 {
			err = fmt.Errorf("%w; a file has only %d rows to learn from: give more with --train-rows or --train-share, or leave it out with --files", err, fewest)
		}
		return Result{}, err
	}
	res.Release = night.Release
	say("%s", night.Summary)
	if err := b.covered(ctx, night); err != nil {
		return Result{}, err
	}
	if err := b.play(ctx, f); err != nil {
		return Result{}, err
	}
	say("every device runs %s and plays the rest", night.Release)
	if err := h.Promoted(ctx, night.Rollout, func(line string) { say("  %s", line) }); err != nil {
		return Result{}, err
	}
	if err := b.streamed(ctx, f, func(r recording) int { return r.rows }); err != nil {
		return Result{}, err
	}
	say("the hub has all rows and verdicts; writing %s", o.Out)
	if err := b.write(ctx, &res); err != nil {
		return Result{}, err
	}
	if l := res.Labels; l != nil {
		l.finish()
		say("by the labels in %d files: %d of %d events found; %.2f %% of the %d other rows flagged; row by row %.1f %% of %d missed, F1 %.3f",
			l.Files, l.EventsFound, l.Events, 100*l.FalseAlarms, l.Rows-l.Anomalies, 100*l.Missed, l.Anomalies, l.F1)
	}
	res.Seconds = time.Since(began).Seconds()
	return res, nil
}

// divided sets what is to learn from. Files too short for that are left out.
func divided(recs []recording, left []leftOut, o Options) ([]recording, []leftOut, error) {
	var out []recording
	var short []leftOut
	for _, r := range recs {
		r.train = o.TrainRows
		if o.TrainShare > 0 {
			r.train = min(int(o.TrainShare*float64(r.rows)), o.TrainRows)
		}
		switch {
		case r.rows <= r.train:
			short = append(short, leftOut{r.name, fmt.Sprintf("it has %d rows: with --train-rows %d nothing is left to judge", r.rows, o.TrainRows)})
		case r.train == 0:
			short = append(short, leftOut{r.name, fmt.Sprintf("it has %d rows: a share of %g of them is none to learn from", r.rows, o.TrainShare)})
		default:
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		var errs []error
		for _, l := range short {
			errs = append(errs, fmt.Errorf("%s: %s", l.name, l.why))
		}
		return nil, nil, few(errs)
	}
	return out, append(left, short...), nil
}

// excluded fails for a column to exclude that no file has: a name that is
// spelled wrong would have its labels learned.
func excluded(recs []recording, names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(recs, func(r recording) bool {
			return slices.ContainsFunc(r.found.Columns, func(c replay.Column) bool { return c.Name == name })
		}) {
			var have []string
			for _, c := range recs[0].found.Columns {
				have = append(have, c.Name)
			}
			return fmt.Errorf("--exclude %q: no file has such a column; %s has %s", name, recs[0].name, strings.Join(have, ", "))
		}
	}
	return nil
}

// run is one back-test at work.
type run struct {
	options Options
	recs    []recording
	hub     *local.Hub
	gates   map[string]*gate // by recording
	say     func(format string, args ...any)
}

func (b *run) start(ctx context.Context) (*fleet.Fleet, error) {
	start := time.Now().Add(-29 * 24 * time.Hour) // as old as late data may be
	var devices []fleet.Device
	rate := b.options.Rate // gates hold the sources back where the hub is slower
	if rate == 0 {
		rate = -1
	}
	for _, r := range b.recs {
		src := replay.New(replay.Config{
			Path: r.path, TimeColumn: b.options.TimeColumn, SampleRateHz: b.options.SampleRateHz, Channels: r.channels, Rate: rate, KeepTimes: true,
		})
		g := newGate(src, uint64(r.train), start)
		b.gates[r.id.Node] = g
		devices = append(devices, fleet.Device{ID: r.id, Class: r.class, Labels: map[string]string{"line": "backtest"},
			Source: func() (source.Source, error) { return g, nil }})
	}
	return fleet.Start(ctx, fleet.Config{
		Hub: b.hub.Fleet(), Devices: devices, StateDir: filepath.Join(b.options.WorkDir, "devices"), Version: "backtest", Logger: b.options.Log,
		Adjust: func(c *agent.Config) {
			c.Telemetry.BlockRows, c.Telemetry.BlockS, c.Telemetry.LiveS = 500, max(0.3, 0.05*float64(len(b.recs))), -1
			c.HeartbeatS, c.Patient = 1, true
			// Every device syncs by itself and they share one disk.
			c.Spool.SyncS = max(0.05, 0.02*float64(len(b.recs)))
		},
	})
}

// covered says which files got no model: they would wait for one for ever.
func (b *run) covered(ctx context.Context, n local.Night) error {
	classes, err := b.hub.Classes(ctx, n.Release)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range b.recs {
		if !slices.Contains(classes, string(r.class)) {
			errs = append(errs, fmt.Errorf("no model could be made for %s: leave it out with --files, or give it more rows with --train-rows", r.name))
		}
	}
	if len(errs) > 0 {
		errs = append(errs, fmt.Errorf("the night said: %s", n.Summary))
	}
	return errors.Join(errs...)
}

// play lets each device go on as soon as a model acts on it: no row is read
// before there is somebody to judge it, and the soak needs rows.
func (b *run) play(ctx context.Context, f *fleet.Fleet) error {
	return local.Until(ctx, "the release to reach the devices", func() (bool, error) {
		if err := f.Err(); err != nil {
			return false, err
		}
		waiting := 0
		for id, r := range f.Reported() {
			switch {
			case r.Champion != nil:
				b.gates[id.Node].release()
			case r.Trial != nil && r.Trial.Phase.Final():
				return false, fmt.Errorf("device %s refused the release: %s", id, r.Trial.Reason)
			default:
				waiting++
			}
		}
		return waiting == 0, nil
	})
}

// patience is after how long without progress somebody who waits is told for what.
const patience = 15 * time.Second

// streamed waits until the hub has acknowledged so many rows of each device,
// and the verdicts on them.
func (b *run) streamed(ctx context.Context, f *fleet.Fleet, want func(recording) int) error {
	var seen uint64
	since := time.Now()
	return local.Until(ctx, "the devices to deliver their rows", func() (bool, error) {
		if err := f.Err(); err != nil {
			return false, err
		}
		reported := f.Reported()
		var sum uint64
		laggard := ""
		for _, r := range b.recs {
			s := reported[r.id].Stream
			if s.SpoolDropped > 0 {
				return false, fmt.Errorf("device %s lost %d blocks: is there room left on the disk of %s?", r.id, s.SpoolDropped, b.options.WorkDir)
			}
			// What the hub has acknowledged counts, not what was sent.
			rows, err := b.hub.Rows(ctx, r.id)
			if err != nil {
				return false, err
			}
			sum += rows + s.Samples
			b.gates[r.id.Node].allow(s.Samples, s.Samples+s.WindowsScored-min(rows, s.Samples+s.WindowsScored))
			if int(s.Samples) < want(r) || rows < s.Samples+s.WindowsScored {
				laggard = fmt.Sprintf("%s: %d of %d rows read, %d windows scored, the hub has %d of both", r.name, s.Samples, want(r), s.WindowsScored, rows)
			}
		}
		if sum > seen {
			seen, since = sum, time.Now()
		}
		if laggard != "" && time.Since(since) > patience {
			b.say("  waiting for %s", laggard)
			since = time.Now()
		}
		return laggard == "", nil
	})
}

// write asks the hub for the devices' verdicts and writes them by file and row.
func (b *run) write(ctx context.Context, res *Result) error {
	out, err := os.Create(b.options.Out)
	if err != nil {
		return err
	}
	defer out.Close()
	buf := bufio.NewWriter(out)
	w := csv.NewWriter(buf)
	_ = w.Write([]string{"file", "row", "score", "verdict"}) // errors are kept until Flush
	var l Labelled
	for _, r := range b.recs {
		got, err := b.verdicts(ctx, r)
		if err != nil {
			return err
		}
		rows := make([]int, 0, len(got))
		for row := range got {
			rows = append(rows, row)
		}
		slices.Sort(rows)
		if r.labels != nil {
			l.next()
		}
		for _, row := range rows {
			if row < r.train {
				continue
			}
			v := got[row]
			flag := "0"
			if r.labels != nil && row < len(r.labels) {
				l.count(v.flag, r.labels[row])
			}
			if v.flag {
				flag = "1"
				res.Flagged++
			}
			res.Verdicts++
			_ = w.Write([]string{r.name, strconv.Itoa(row), strconv.FormatFloat(v.score, 'g', 6, 64), flag})
		}
		res.Unscored += r.rows - r.train
	}
	res.Unscored -= res.Verdicts
	if l.Files > 0 {
		res.Labels = &l
	}
	w.Flush()
	return errors.Join(w.Error(), buf.Flush(), out.Close())
}

func (b *run) verdicts(ctx context.Context, r recording) (map[int]verdict, error) {
	rows, err := b.hub.Verdicts(ctx, r.id)
	if err != nil {
		return nil, fmt.Errorf("verdicts of %s: %w", r.name, err)
	}
	out := make(map[int]verdict, len(rows))
	for _, v := range rows {
		out[int(v.Row)] = verdict{score: v.Score, flag: v.Flag}
	}
	return out, nil
}

// Print writes the result as one line of JSON.
func (r Result) Print(w io.Writer) error { return json.NewEncoder(w).Encode(r) }
