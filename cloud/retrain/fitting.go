package retrain

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/models/zoo"
)

// fitModel fits where the policy's limits want it: in this process, in a
// process of its own under limits, or by an external program.
func (s *Service) fitModel(ctx context.Context, o Order, kind string, ds zoo.Dataset, cfg zoo.Config) (*zoo.Fitted, error) {
	if name, external := trainerOf(kind); external {
		return s.fitExternally(ctx, o, name, ds, cfg)
	}
	if o.Policy.Limits == (Limits{}) {
		return zoo.Fit(ctx, kind, ds, cfg)
	}
	p := cfg.Checkpoints
	cfg.Checkpoints = nil
	return s.fitApart(ctx, o.Policy.Limits, fitJob{Kind: kind, Data: ds, Config: cfg}, p, func(string) error { return nil })
}

// fitImageModel is fitModel for a class of cameras.
func (s *Service) fitImageModel(ctx context.Context, o Order, kind string, d ImageData, frames []FrameRef, cfg zoo.ImageConfig) (*zoo.Fitted, error) {
	ds := d.dataset(frames)
	if o.Policy.Limits == (Limits{}) {
		for _, f := range frames {
			m, err := s.pixels(ctx, f, d)
			if err != nil {
				return nil, err
			}
			ds.Images = append(ds.Images, m)
		}
		return zoo.FitImages(ctx, kind, ds, cfg)
	}
	p := cfg.Checkpoints
	cfg.Checkpoints = nil
	return s.fitApart(ctx, o.Policy.Limits, fitJob{Kind: kind, Images: &imageJob{Data: ds, Count: len(frames), Config: cfg}}, p, func(dir string) error {
		return s.writePixels(ctx, filepath.Join(dir, fitPixels), d, frames)
	})
}

// fitApart fits in a process of its own under limits. write adds to the folder
// what the job does not hold.
func (s *Service) fitApart(ctx context.Context, l Limits, j fitJob, p *zoo.Checkpoints, write func(dir string) error) (*zoo.Fitted, error) {
	if s.cfg.Runner == nil {
		return nil, refuse("the policy limits a fit, and this hub has no runner for it")
	}
	dir, err := os.MkdirTemp("", "swell-fit-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for a fit: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if p != nil {
		j.Every = p.Every
		if state := p.Load(); state != nil {
			if err := os.WriteFile(filepath.Join(dir, fitState), state, 0o600); err != nil {
				return nil, fmt.Errorf("write the input of a fit: %w", err)
			}
		}
	}
	if err := writeGob(filepath.Join(dir, fitInput), j); err != nil {
		return nil, fmt.Errorf("write the input of a fit: %w", err)
	}
	if err := write(dir); err != nil {
		return nil, fmt.Errorf("write the input of a fit: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var carrying sync.WaitGroup
	working, end := context.WithCancel(ctx)
	if p != nil {
		carrying.Go(func() { carry(working, dir, p) })
	}
	err = s.runJob(ctx, runner.Job{Command: []string{self, fitCommand, dir}, Dir: dir, Limits: l.ofJob()})
	end()
	carrying.Wait()
	if err != nil {
		return nil, err
	}
	var r fitAnswer
	if err := readGob(filepath.Join(dir, fitOutput), &r); err != nil {
		return nil, err
	}
	if r.Err != "" {
		if r.Data {
			return nil, fmt.Errorf("%s: %w", r.Err, zoo.ErrData)
		}
		return nil, errors.New(r.Err)
	}
	return &r.Fitted, json.Unmarshal(r.Card, &r.Fitted.Card)
}

// writePixels writes images one after another into one file, so that this
// process holds one at a time.
func (s *Service) writePixels(ctx context.Context, name string, d ImageData, frames []FrameRef) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, frame := range frames {
		m, err := s.pixels(ctx, frame, d)
		if err != nil {
			return err
		}
		if _, err := f.Write(m); err != nil {
			return err
		}
	}
	return nil
}

func (l Limits) ofJob() runner.Limits {
	return runner.Limits{WallS: l.WallS, CPUS: l.MaxCostS, MemoryMiB: l.MemoryMiB, CPUs: l.CPUs}
}

// runJob runs a job, logs what it prints and notes what it cost.
func (s *Service) runJob(ctx context.Context, j runner.Job) error {
	j.Log = func(line string) { engine.Progress(ctx, "%s", line) }
	c, err := s.cfg.Runner.Run(ctx, j)
	engine.Spent(ctx, engine.Cost(c))
	return err
}

// The file contract between a hub and itself as the child that fits.
const (
	fitCommand = "fit-task"
	fitInput   = "fit.gob"
	fitPixels  = "fit.pixels" // of a fit to images: all of them, one after another
	fitOutput  = "fitted.gob"
)

type fitJob struct {
	Kind   string
	Data   zoo.Dataset
	Config zoo.Config
	Images *imageJob     // nil: Data and Config say what to fit
	Every  time.Duration // between two states kept; 0: none is
}

type imageJob struct {
	Data   zoo.ImageDataset // without its images: they are in a file
	Count  int              // of them
	Config zoo.ImageConfig
}

// fit does the job whose folder is dir.
func (j fitJob) fit(ctx context.Context, dir string) (*zoo.Fitted, error) {
	var p *zoo.Checkpoints
	if j.Every > 0 {
		p = inFolder(dir, j.Every, func(step, steps int) { fmt.Printf(resumedLine+"\n", step, steps) })
	}
	if j.Images == nil {
		j.Config.Checkpoints = p
		return zoo.Fit(ctx, j.Kind, j.Data, j.Config)
	}
	ds, name := j.Images.Data, filepath.Join(dir, fitPixels)
	all, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(name); err != nil { // temporary folders can lie in memory
		return nil, err
	}
	size := ds.Height * ds.Width * 3
	if len(all) != size*j.Images.Count {
		return nil, fmt.Errorf("%s has %d bytes, want %d images of %d", fitPixels, len(all), j.Images.Count, size)
	}
	for range j.Images.Count {
		ds.Images, all = append(ds.Images, all[:size:size]), all[size:]
	}
	j.Images.Config.Checkpoints = p
	return zoo.FitImages(ctx, j.Kind, ds, j.Images.Config)
}

type fitAnswer struct {
	Fitted zoo.Fitted // without its card
	Card   []byte     // JSON: gob knows no values of any type
	Err    string
	Data   bool // the error is zoo.ErrData
}

// MaybeFit is to be called first in main of every program that runs a hub: in
// the process that a hub started to fit a model it never returns.
func MaybeFit() {
	if len(os.Args) != 3 || os.Args[1] != fitCommand {
		return
	}
	if err := fitHere(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func fitHere(dir string) error {
	var j fitJob
	if err := readGob(filepath.Join(dir, fitInput), &j); err != nil {
		return err
	}
	var r fitAnswer
	f, err := j.fit(context.Background(), dir)
	if err != nil {
		r.Err, r.Data = err.Error(), errors.Is(err, zoo.ErrData)
	} else {
		r.Fitted = *f
		r.Fitted.Card = nil
		if r.Card, err = json.Marshal(f.Card); err != nil {
			return err
		}
	}
	return writeGob(filepath.Join(dir, fitOutput), r)
}

func writeGob(name string, v any) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return gob.NewEncoder(f).Encode(v)
}

func readGob(name string, v any) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("a fit left no result: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := gob.NewDecoder(f).Decode(v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(name), err)
	}
	return nil
}
