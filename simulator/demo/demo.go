// Package demo is the first five minutes with Swell: a hub, a small factory of
// whole agents, and two nights compressed into about a minute, told line by
// line.
//
// Everything is the product: the hub with its embedded parts, agents that
// enrol with tokens and speak MQTT over TLS, models trained, signed, recorded
// and rolled out in waves. Only the pace of the recordings and the length of a
// night are not a factory's.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// Options say how to run it.
type Options struct {
	Devices int    // default 24
	Lines   int    // default 3
	DataDir string // what hub and devices keep; empty: a temporary folder, removed at the end
	// Stay keeps everything up until ctx ends, on the default ports.
	Stay bool
	// Browse is the folder of the console's browser checks; they run against
	// the hub once the loop has closed. Empty: none.
	Browse string
	// Shots is where the browser checks put their screenshots. Empty: DataDir.
	Shots   string
	Version string
	Out     io.Writer // the story
	Log     *slog.Logger
}

// Figures are the outcome.
type Figures struct {
	Devices           int     `json:"devices"`
	Attested          int     `json:"attested"`
	WindowsScored     int64   `json:"windows_scored"`
	WindowsLost       int64   `json:"windows_lost"`
	ProductionStopped float64 `json:"production_stopped_s"`
	Seconds           float64 `json:"seconds"`
}

// Run tells the story and returns its figures.
func Run(ctx context.Context, o Options) (Figures, error) {
	if o.Devices == 0 {
		o.Devices = 24
	}
	if o.Lines == 0 {
		o.Lines = 3
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DataDir == "" {
		dir, err := os.MkdirTemp("", "swell-demo-")
		if err != nil {
			return Figures{}, err
		}
		defer os.RemoveAll(dir)
		o.DataDir = dir
	}
	s := &story{options: o, began: time.Now()}
	return s.tell(ctx)
}

type story struct {
	options Options
	began   time.Time
	hub     *local.Hub
	fleet   *fleet.Fleet
}

func (s *story) say(format string, args ...any) {
	t := time.Since(s.began)
	fmt.Fprintf(s.options.Out, "  %02d:%02d  %s\n", int(t.Minutes()), int(t.Seconds())%60, fmt.Sprintf(format, args...))
}

func (s *story) tell(ctx context.Context) (Figures, error) {
	o := s.options
	cfg := hub.Config{
		DataDir: filepath.Join(o.DataDir, "hub"), Version: o.Version, Log: o.Log,
		Rollouts: hub.Rollouts{Policies: []api.RolloutPolicy{{Policy: careful()}}},
		Training: hub.Training{Policies: []hub.RetrainPolicy{{
			Name: string(class), LookbackS: 3600, Cron: "30 2 * * *", Seed: 7, RolloutPolicy: "careful",
			// Minutes of data hold few faults to compare two models by.
			Fit: func(p *retrain.Policy) { p.Fit.Steps, p.Gates.Margin = 600, 0.1 },
		}}},
	}
	if o.Stay { // the ports people find in the documentation
		cfg.HTTP.Listen, cfg.Devices.Listen, cfg.Broker.Listen, cfg.Objects.Listen = "127.0.0.1:7440", "127.0.0.1:7441", "127.0.0.1:7883", "127.0.0.1:7442"
	}
	var err error
	if s.hub, err = local.Start(ctx, cfg, ""); err != nil {
		return Figures{}, err
	}
	defer s.hub.Close()
	fmt.Fprintf(o.Out, "\n  Console  %s\n  Login    %s / %s\n\n", s.hub.URL, s.hub.User, s.hub.Password)

	recording, rows := Recording(), 0
	what := "made signals (put public recordings into ../shared/data to play those)"
	if recording != "" {
		round := filepath.Join(o.DataDir, "recording.csv")
		if rows, err = backAndForth(recording, round); err != nil {
			return Figures{}, err
		}
		recording, what = round, "recordings of a water circuit, 8 sensors each"
	}
	devices := factory(recording, rows, o.Devices, o.Lines)
	if s.fleet, err = fleet.Start(ctx, fleet.Config{
		Hub: s.hub.Fleet(), Devices: devices, StateDir: filepath.Join(o.DataDir, "devices"), Version: o.Version, Logger: o.Log,
		Adjust: func(c *agent.Config) {
			c.HeartbeatS = 1
			c.Telemetry.BlockRows, c.Telemetry.BlockS = 250, 1
			c.Spool.SyncS = 0.2
		},
	}); err != nil {
		return Figures{}, err
	}
	defer s.fleet.Close()
	s.say("%d pumps in %d lines have enrolled, each with a key and a certificate of its own, and stream %s, %d times faster than real.", o.Devices, o.Lines, what, pace)

	if err := s.streamed(ctx, 350); err != nil {
		return Figures{}, err
	}
	s.say("Nobody has a model yet. The first night:")
	if err := s.night(ctx); err != nil {
		return Figures{}, err
	}
	if err := s.streamed(ctx, 900); err != nil {
		return Figures{}, err
	}
	s.say("A day's data later, the second night. From now on a model acts on every pump, so the new one first runs in its shadow:")
	if err := s.night(ctx); err != nil {
		return Figures{}, err
	}
	f, release, err := s.figures(ctx)
	if err != nil {
		return Figures{}, err
	}
	s.say("%d of %d devices run release %s, attested; windows scored %d, windows lost %d; production stopped %.1f s.",
		f.Attested, f.Devices, release, f.WindowsScored, f.WindowsLost, f.ProductionStopped)
	if o.Browse != "" {
		if err := s.browse(ctx); err != nil {
			return f, err
		}
	}
	if o.Stay {
		s.say("Everything stays up. Look around at %s; Ctrl-C ends it.", s.hub.URL)
		select {
		case <-ctx.Done():
		case err := <-s.hub.Failed():
			return f, err
		}
		return f, nil
	}
	if f.Attested != f.Devices || f.WindowsLost != 0 {
		return f, errors.New("the loop has not closed as it should")
	}
	return f, nil
}

// careful is the demonstration's rollout policy: three canaries, half, all.
func careful() rollout.Policy {
	return rollout.Policy{
		Name:    "careful",
		Waves:   []rollout.Wave{{Name: "canaries", Devices: 3, DeadlineS: 180}, {Name: "half", Share: 0.5, DeadlineS: 180}, {Name: "all", Share: 1, DeadlineS: 180}},
		Gates:   []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateShadow}, {Name: rollout.GateNonFinite}, {Name: rollout.GateOutput}},
		Budgets: []rollout.Budget{{GroupBy: "line", MaxUnavailable: 4}},
		ShadowS: 5, ShadowWindowS: 0.25, SoakS: 2, MinWindows: 20, LeaseS: 20, GraceS: 10, StaleS: 15, RetryS: 2, Retries: 1,
	}
}

// streamed waits until every device has read so many rows and the hub has them.
func (s *story) streamed(ctx context.Context, rows uint64) error {
	return local.Until(ctx, "the devices to stream", func() (bool, error) {
		if err := s.fleet.Err(); err != nil {
			return false, err
		}
		for _, r := range s.fleet.Reported() {
			if r.Stream.Samples < rows || r.Stream.SpoolBlocks > 3 {
				return false, nil
			}
		}
		return true, nil
	})
}

func (s *story) night(ctx context.Context) error {
	n, err := s.hub.Night(ctx, string(class), func(step string) {
		if text := steps[step]; text != "" {
			s.say("  %s", text)
		}
	})
	if err != nil {
		return err
	}
	s.say("  %s", n.Summary)
	if n.Rollout == "" {
		return fmt.Errorf("run %s proposed no rollout", n.Run)
	}
	s.say("  Signed, in the ledger, and on its way as rollout %s:", n.Rollout)
	return s.hub.Promoted(ctx, n.Rollout, func(line string) { s.say("    %s", line) })
}

// steps are the steps of a night in a reader's words.
var steps = map[string]string{
	"extract":        "takes an immutable snapshot of what was streamed",
	"validate":       "checks it: gaps, units, stuck and broken sensors, drift",
	"train/pca":      "trains a windowed PCA",
	"train/dense-ae": "trains an autoencoder, in Go on ONNX Runtime",
	"evaluate":       "back-tests both, and tonight's champion, on rows nobody learned from",
	"release":        "packages and signs the winner",
}

// figures asks the hub, not the devices: what counts is what it can attest.
func (s *story) figures(ctx context.Context) (Figures, string, error) {
	var f Figures
	release := ""
	// The last reports are on their way.
	err := local.Until(ctx, "all devices to attest", func() (bool, error) {
		resp, err := s.hub.API.GetOverviewWithResponse(ctx)
		if err != nil {
			return false, err
		}
		if resp.JSON200 == nil {
			return false, fmt.Errorf("the hub answers %d: %s", resp.StatusCode(), resp.Body)
		}
		c := resp.JSON200.Counters
		f = Figures{Devices: int(c.Devices), Attested: int(c.Attested), WindowsScored: c.WindowsScored, WindowsLost: c.WindowsLost, ProductionStopped: c.ProductionStoppedSeconds, Seconds: time.Since(s.began).Seconds()}
		return f.Attested == f.Devices, nil
	})
	if err != nil {
		return f, release, err
	}
	resp, err := s.hub.API.GetModelWithResponse(ctx, string(class))
	if err != nil {
		return f, release, err
	}
	if resp.JSON200 != nil && resp.JSON200.Status.Promoted != nil {
		release = resp.JSON200.Status.Promoted.ID
	}
	return f, release, nil
}

// browse runs the console's browser checks against the hub as it is now.
func (s *story) browse(ctx context.Context) error {
	s.say("Looking at every page of the console in a browser, light and dark:")
	shots := s.options.Shots
	if shots == "" {
		shots = filepath.Join(s.options.DataDir, "shots")
	}
	shots, err := filepath.Abs(shots)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "node", "run.mjs", "--url", s.hub.URL, "--user", s.hub.User, "--password", s.hub.Password, "--shots", shots)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.options.Browse, s.options.Out, s.options.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("browser checks: %w", err)
	}
	return nil
}

// Print writes the figures as one line of JSON.
func (f Figures) Print(w io.Writer) error { return json.NewEncoder(w).Encode(f) }
