package cli

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/million"
)

// millionFigures are the last line of `swell-sim million`.
type millionFigures struct {
	Devices      int     `json:"devices"`
	EventsPerCPU float64 `json:"events_per_cpu_s"`
	PeakMiB      float64 `json:"peak_mib"`
	Seconds      float64 `json:"seconds"`
}

func (c *command) million() *cobra.Command {
	var o million.Config
	var harm int
	cmd := &cobra.Command{
		Use: "million", Short: "One rollout on a million packed devices in this process", Args: cobra.NoArgs,
		Long: `million moves a release through four waves of a fleet on virtual time. Every
device is stepped by the product's own update rules, as flat state, and the
product's own planner decides. Then it shows how far releases come that are bad
on every device.

Standard output gets tables and, last, the figures as a line of JSON.`,
		Example: "  swell-sim million --devices 50000\n  swell-sim million --devices 50000 --watch 77",
		RunE: func(*cobra.Command, []string) error {
			o.Progress = func(at time.Duration, r rollout.Rollout, n rollout.Counts) {
				fmt.Fprintf(c.err, "%-8s %s: %d done, %d on their way, %d failed\n", at, r.State, n.Done, n.InFlight, n.Failed)
			}
			if o.Watch > 0 {
				o.Life = func(line string) { fmt.Fprintln(c.err, line) }
			}
			r, err := million.Run(o)
			if err != nil {
				return err
			}
			r.Print(c.out)
			if err := r.Check(); err != nil {
				return err
			}
			if harm > 0 {
				fmt.Fprintf(c.out, "\nReleases that are bad on every one of %d devices:\n\n", harm)
				o.Devices, o.Shards = harm, 0
				if err := million.Harm(o, c.out); err != nil {
					return err
				}
			}
			fmt.Fprintln(c.out)
			return json.NewEncoder(c.out).Encode(millionFigures{r.Devices, math.Round(r.EventsPerCPU()), math.Round(r.PeakMiB), math.Round(10*r.Seconds) / 10})
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Devices, "devices", 1_000_000, "devices, on lines of 50")
	f.Uint64Var(&o.Seed, "seed", 1, "decides everything that is drawn")
	f.IntVar(&o.Shards, "shards", 0, "parts the fleet is run in; the result is the same (0: one for each 16384 devices)")
	f.DurationVar(&o.Window, "window", 10*time.Second, "virtual time in which devices and hub do not hear of each other")
	f.Float64Var(&o.Bad, "bad", 0.02, "share of devices on which the release goes wrong")
	f.Float64Var(&o.Offline, "offline", 0.05, "share of devices without a connection at any time")
	f.Float64Var(&o.Power, "power", 0.0005, "probability of a power cut during one step of an update")
	f.IntVar(&o.Watch, "watch", 0, "print the life of this device, the first is 1, and hold it against the agent's own machine (0: none)")
	f.IntVar(&harm, "harm", 10_000, "devices of the fleets that get bad releases (0: none)")
	return cmd
}
