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
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	Data       []string // folders with one CSV file a device
	Files      []string // globs of paths below Data, without .csv; empty: all
	TimeColumn string   // empty: the first column
	Channels   []string // empty: every column but the time and Exclude
	Exclude    []string // columns to leave out, such as labels
	TrainRows  int      // first rows of each file to learn from; with TrainShare the most that are taken
	TrainShare float64  // share of each file's rows to learn from, from the first on; 0: TrainRows of each
	Rate       float64  // multiple of the recording's pace for the rest; 0: as fast as it goes
	ModelPer   string   // device, folder or all; empty: device, and folder where there are several
	Kinds      []string // detectors that compete; empty: all
	Networks   []string // ONNX files that compete beside them; with :raw behind the name they get engineering units
	Fit        zoo.Config
	Out        string       // verdicts.csv
	WorkDir    string       // empty: a temporary folder, removed at the end
	Progress   io.Writer    // a line for each stage
	Log        *slog.Logger // of hub and devices; nil: none
}

// Result counts what happened.
type Result struct {
	Files    int     `json:"files"`
	Rows     int     `json:"rows"`     // of all files
	Verdicts int     `json:"verdicts"` // written
	Flagged  int     `json:"flagged"`  // of those, anomalous
	Unscored int     `json:"unscored"` // rows after the training rows without a verdict
	Release  string  `json:"release"`
	Seconds  float64 `json:"seconds"`
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
	recs, err := recordings(o.Data, o.Files, o.ModelPer)
	if err != nil {
		return Result{}, err
	}
	fewest := o.TrainRows
	for i, r := range recs {
		recs[i].train = o.TrainRows
		if o.TrainShare > 0 {
			recs[i].train = min(int(o.TrainShare*float64(r.rows)), o.TrainRows)
		}
		fewest = min(fewest, recs[i].train)
		if r.rows <= recs[i].train {
			return Result{}, fmt.Errorf("%s has %d rows: with --train-rows %d nothing is left to judge", r.name, r.rows, o.TrainRows)
		}
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
			Name: "backtest", LookbackS: 40 * 86400, Exclude: o.Exclude, TrainRows: o.TrainRows, MinRows: min(fewest, 50), Kinds: kinds, RolloutPolicy: "backtest",
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
	res := Result{Files: len(recs)}
	for _, r := range recs {
		res.Rows += r.rows
	}
	say("%d devices stream their first %d to %d rows", len(recs), fewest, o.TrainRows)
	if err := b.streamed(ctx, f, func(r recording) int { return r.train }); err != nil {
		return Result{}, err
	}
	say("the hub has them; training")
	night, err := h.Night(ctx, "backtest", func(step string) { say("  %s", step) })
	if err != nil {
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
	res.Seconds = time.Since(began).Seconds()
	return res, nil
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
			Path: r.path, TimeColumn: b.options.TimeColumn, Channels: b.options.Channels, Exclude: b.options.Exclude, Rate: rate, KeepTimes: true,
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
		for _, row := range rows {
			if row < r.train {
				continue
			}
			v := got[row]
			flag := "0"
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
