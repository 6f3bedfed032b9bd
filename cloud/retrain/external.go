package retrain

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
)

// ExternalTrainer is a program that fits models by the file contract of
// docs/trainers.md. A hub's own configuration names it: a policy, which comes
// over the network, can only say external:NAME.
type ExternalTrainer struct {
	Name      string
	Command   []string // program and arguments; the folder of the dataset is added
	WallS     float64  // of one fit; 0: 3600
	MemoryMiB int      // 0: no limit
	CPUs      float64  // 0: no limit
}

const externalPrefix = "external:"

// trainerOf returns the trainer that a kind names.
func trainerOf(kind string) (name string, external bool) {
	return strings.CutPrefix(kind, externalPrefix)
}

func (s *Service) trainer(name string) (ExternalTrainer, error) {
	var known []string
	for _, t := range s.cfg.Trainers {
		if t.Name == name {
			return t, nil
		}
		known = append(known, t.Name)
	}
	return ExternalTrainer{}, fmt.Errorf("this hub has no external trainer %q: its configuration (training.trainers) names %v", name, known)
}

// externalDataset is dataset.json: what a trainer is told.
type externalDataset struct {
	Version      int                `json:"version"` // 1
	Channels     []contract.Channel `json:"channels"`
	SampleRateHz float64            `json:"sample_rate_hz"`
	Devices      []externalDevice   `json:"devices"`
	Seed         uint64             `json:"seed"`
	Digest       string             `json:"dataset_digest"`
}

type externalDevice struct {
	Name string `json:"name"`
	File string `json:"file"`
	Rows int    `json:"rows"`
}

const maxMetrics = 64 << 10 // bytes of metrics.json

// fitExternally has a program fit a model. Whatever it does wrong is a
// refusal: the kinds that compete with it go on.
func (s *Service) fitExternally(ctx context.Context, o Order, name string, ds zoo.Dataset, cfg zoo.Config) (*zoo.Fitted, error) {
	t, err := s.trainer(name)
	if err != nil {
		return nil, refuse("%v", err)
	}
	if s.cfg.Runner == nil {
		return nil, refuse("this hub has no runner for external trainers")
	}
	dir, err := os.MkdirTemp("", "swell-trainer-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for trainer %s: %w", name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := writeDataset(dir, ds, cfg); err != nil {
		return nil, fmt.Errorf("write the dataset for trainer %s: %w", name, err)
	}
	l := o.Policy.Limits
	job := runner.Job{Command: append(append([]string{}, t.Command...), dir), Dir: dir, Limits: runner.Limits{
		WallS: t.WallS, CPUS: l.MaxCostS, MemoryMiB: smaller(t.MemoryMiB, l.MemoryMiB), CPUs: smaller(t.CPUs, l.CPUs),
	}}
	if job.Limits.WallS == 0 {
		job.Limits.WallS = 3600
	}
	began := time.Now()
	if err := s.runJob(ctx, job); err != nil {
		return nil, fmt.Errorf("trainer %s: %w", name, err)
	}
	f, err := readTrained(dir, externalPrefix+name, ds)
	if err != nil {
		return nil, fmt.Errorf("trainer %s: %w: %w", name, runner.ErrRefused, err)
	}
	f.TrainSeconds = time.Since(began).Seconds()
	return f, nil
}

// smaller returns the smaller of two limits, of which 0 is none.
func smaller[T int | float64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func writeDataset(dir string, ds zoo.Dataset, cfg zoo.Config) error {
	d := externalDataset{Version: 1, Channels: ds.Channels, SampleRateHz: ds.SampleRateHz, Seed: cfg.Seed, Digest: cfg.DatasetDigest}
	for i, sr := range ds.Series {
		file := fmt.Sprintf("device-%04d.csv", i)
		if err := writeRows(filepath.Join(dir, file), ds.Channels, sr); err != nil {
			return err
		}
		d.Devices = append(d.Devices, externalDevice{Name: sr.Device, File: file, Rows: sr.Rows()})
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "dataset.json"), b, 0o600)
}

// writeRows writes one device's rows: time in ns since 1970 UTC, then the
// channels in the order of dataset.json, with as many digits as give the same
// float32 again.
func writeRows(name string, channels []contract.Channel, sr zoo.Series) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	line := []byte("time_ns")
	for i := range channels {
		line = append(line, fmt.Sprintf(",c%d", i)...) // names may hold commas
	}
	for r := range sr.Rows() {
		line = append(line, '\n')
		if _, err := w.Write(line); err != nil {
			return err
		}
		line = line[:0]
		if sr.Times != nil {
			line = strconv.AppendInt(line, sr.Times[r], 10)
		}
		for _, v := range sr.Values {
			line = strconv.AppendFloat(append(line, ','), float64(v[r]), 'g', -1, 32)
		}
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return err
	}
	return w.Flush()
}

// readTrained takes what a trainer left: it is trusted with nothing.
func readTrained(dir, kind string, ds zoo.Dataset) (*zoo.Fitted, error) {
	b, err := readBounded(filepath.Join(dir, "model.onnx"), maxModelBytes)
	if err != nil {
		return nil, err
	}
	c, err := onnx.Check(b, onnx.Limits{})
	if err != nil {
		return nil, fmt.Errorf("model.onnx: %w", err)
	}
	if err := reads(c, ds); err != nil {
		return nil, fmt.Errorf("model.onnx: %w", err)
	}
	if err := warmRun(b, c, ds); err != nil {
		return nil, fmt.Errorf("model.onnx: %w", err)
	}
	metrics := map[string]any{}
	m, err := readBounded(filepath.Join(dir, "metrics.json"), maxMetrics)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(m, &metrics); err != nil {
		return nil, fmt.Errorf("metrics.json: %w", err)
	}
	return &zoo.Fitted{Kind: kind, ONNX: b, Contract: c, Threshold: c.Threshold, Card: map[string]any{"metrics": metrics}}, nil
}

// readBounded reads a plain file: a link, a pipe or a device is none of what a
// trainer may leave.
func readBounded(name string, limit int64) ([]byte, error) {
	base := filepath.Base(name)
	info, err := os.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("it left no %s", base)
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is no plain file of at most %d bytes", base, limit)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, limit))
}

// warmRun scores the first window of the dataset.
func warmRun(model []byte, c contract.Contract, ds zoo.Dataset) (err error) {
	window := make([]float32, 0, c.Cells())
	for _, sr := range ds.Series {
		if sr.Rows() >= c.Window {
			for _, v := range sr.Values {
				window = append(window, v[:c.Window]...)
			}
			break
		}
	}
	if len(window) == 0 {
		return fmt.Errorf("its window of %d rows is longer than any device's data", c.Window)
	}
	session, err := runtime.Load(model, runtime.Options{})
	if err != nil {
		return fmt.Errorf("it cannot be loaded: %w", err)
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	var r runtime.Result
	if err := session.Score(window, &r); err != nil {
		return fmt.Errorf("it cannot be run: %w", err)
	}
	if s := float64(r.Score); math.IsNaN(s) || math.IsInf(s, 0) {
		return fmt.Errorf("it scores the first window of normal data with %g", s)
	}
	return nil
}
