package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/cloud/api/apiclient"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// fleetOptions are the flags of `swell-sim fleet`.
type fleetOptions struct {
	hub, devicesURL, mqtt, caFile, keyFile string
	site, class                            string
	devices, lines                         int
	rateHz                                 float64
	channels                               int
	drift                                  float64
	faultEveryS                            float64
	replay                                 string
	exclude                                []string
	stateDir                               string
	duration                               time.Duration
}

func (c *command) fleet() *cobra.Command {
	var o fleetOptions
	cmd := &cobra.Command{
		Use: "fleet", Short: "Run many whole agents in this process against a hub", Args: cobra.NoArgs,
		Long: `fleet runs real agents against a hub that is already there: each enrols with
a token of its own, streams, scores and takes part in rollouts. Use it to put a
load on a hub, or to give one something to show.

$SWELL_TOKEN is an API token of an operator or more, which makes the enrolment
tokens ('swellctl login' keeps one; a user's page makes others). The state is
kept in --state, so that the same fleet comes back.`,
		Example: "  swell-sim fleet --devices 200 --lines 4 --rate-hz 10 --ca-file ca.pem --key-file cosign.pub",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.runFleet(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.hub, "hub", "http://127.0.0.1:7440", "the hub's address for people")
	f.StringVar(&o.devicesURL, "devices-url", "https://127.0.0.1:7441", "its address for devices")
	f.StringVar(&o.mqtt, "mqtt", "tls://127.0.0.1:7883", "its broker")
	f.StringVar(&o.caFile, "ca-file", "", "PEM file with the hub's device CA")
	f.StringVar(&o.keyFile, "key-file", "", "PEM file with the hub's release key (cosign.pub)")
	f.StringVar(&o.site, "site", "simulated", "site of the devices")
	f.StringVar(&o.class, "class", "simulated", "their class")
	f.IntVar(&o.devices, "devices", 24, "how many")
	f.IntVar(&o.lines, "lines", 3, "in how many production lines")
	f.Float64Var(&o.rateHz, "rate-hz", 10, "rows a second and device")
	f.IntVar(&o.channels, "channels", 8, "signals of each")
	f.Float64Var(&o.drift, "drift", 0, "drift of every signal, in amplitudes an hour")
	f.Float64Var(&o.faultEveryS, "fault-every", 0, "a fault on each device every so many seconds; 0: none")
	f.StringVar(&o.replay, "replay", "", "play this CSV file on every device instead of made signals, each from another row on")
	f.StringSliceVar(&o.exclude, "exclude", nil, "columns of the file to leave out")
	f.StringVar(&o.stateDir, "state", filepath.Join("run", "fleet"), "folder for the devices' state")
	f.DurationVar(&o.duration, "duration", 0, "end after so long (default when interrupted)")
	return cmd
}

func (c *command) runFleet(ctx context.Context, o fleetOptions) error {
	token := os.Getenv("SWELL_TOKEN")
	switch {
	case token == "":
		return errors.New("$SWELL_TOKEN is empty: give an API token of an operator")
	case o.caFile == "" || o.keyFile == "":
		return errors.New("--ca-file and --key-file are required: devices believe nothing else")
	case o.devices < 1 || o.lines < 1 || o.lines > o.devices:
		return fmt.Errorf("%d devices in %d lines: want at least one device a line", o.devices, o.lines)
	}
	ca, err := os.ReadFile(o.caFile)
	if err != nil {
		return err
	}
	keys, err := os.ReadFile(o.keyFile)
	if err != nil {
		return err
	}
	api, err := apiclient.NewClientWithResponses(o.hub+"/api/v1", apiclient.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}))
	if err != nil {
		return err
	}
	began := time.Now()
	f, err := fleet.Start(ctx, fleet.Config{
		Hub: fleet.Hub{
			URL: o.devicesURL, MQTT: o.mqtt, CAPEM: string(ca), KeysPEM: string(keys),
			Token: func(ctx context.Context, d fleet.Device) (string, error) { return local.EnrolmentToken(ctx, api, d) },
		},
		Devices: o.members(), StateDir: o.stateDir, Version: c.version, Logger: c.log(),
	})
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(c.err, "%d devices started in %.1f s\n", o.devices, time.Since(began).Seconds())
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	return c.watchFleet(ctx, f)
}

func (o fleetOptions) members() []fleet.Device {
	names := make([]string, o.channels)
	for i := range names {
		names[i] = fmt.Sprintf("signal-%d", i+1)
	}
	var out []fleet.Device
	for i := range o.devices {
		d := fleet.Device{
			ID: topic.ID{Site: o.site, Node: fmt.Sprintf("device-%04d", i+1)}, Class: artifact.Class(o.class),
			Labels: map[string]string{"line": fmt.Sprintf("l%d", i*o.lines/o.devices+1)},
		}
		if o.replay != "" {
			r := replay.Config{Path: o.replay, Exclude: o.exclude, Rate: o.rateHz, SampleRateHz: o.rateHz, StartRow: i, Loop: true}
			d.Source = func() (source.Source, error) { return replay.New(r), nil }
		} else {
			s := synthetic.Config{Seed: uint64(i) + 1, Channels: names, RateHz: o.rateHz, DriftPerHour: o.drift}
			if o.faultEveryS > 0 {
				s.FaultEveryS = o.faultEveryS
				s.Faults = []synthetic.Fault{{AtS: o.faultEveryS / 2, ForS: o.faultEveryS / 10, Kind: "offset"}}
			}
			d.Source = func() (source.Source, error) { return synthetic.New(s), nil }
		}
		out = append(out, d)
	}
	return out
}

// watchFleet prints a line every few seconds until ctx ends.
func (c *command) watchFleet(ctx context.Context, f *fleet.Fleet) error {
	const every = 5 * time.Second
	t := time.NewTicker(every)
	defer t.Stop()
	var before uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := f.Err(); err != nil {
			return err
		}
		var samples, scored, lost, dropped, waiting uint64
		releases := map[string]int{}
		for _, r := range f.Reported() {
			samples += r.Stream.Samples
			scored += r.Stream.WindowsScored
			lost += r.Stream.WindowsLost
			dropped += r.Stream.SpoolDropped
			waiting += uint64(r.Stream.SpoolBlocks)
			if r.Champion != nil {
				releases[fmt.Sprintf("%s-%d", r.Champion.Name, r.Champion.Counter)]++
			}
		}
		fmt.Fprintf(c.err, "%s  %.0f rows/s, windows scored %d, lost %d, blocks waiting %d, dropped %d, releases %v\n",
			time.Now().Format(time.TimeOnly), float64(samples-before)/every.Seconds(), scored, lost, waiting, dropped, releases)
		before = samples
	}
}
