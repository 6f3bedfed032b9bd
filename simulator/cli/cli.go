// Package cli is swell-sim, the command line of the simulator: demonstrations,
// back-tests on a user's own recordings, fleets for load, and rollouts on
// virtual time.
//
// Data goes to standard output, talk to standard error. Only
// simulator/cmd/swell-sim imports it.
package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/simulator/demo"
)

// Main runs swell-sim and returns its exit code.
func Main(ctx context.Context, args []string, out, errOut io.Writer, version string) int {
	root := &cobra.Command{
		Use:   "swell-sim",
		Short: "Try Swell without a plant: demonstrations, back-tests, virtual fleets",
		Long: `swell-sim runs the product's own code without a plant.

  swell-sim demo                       a hub, 24 devices and two nights in a minute
  swell-sim backtest --data DIR        your own recordings, through the whole product
  swell-sim backtest --images DIR      your own images, the same way
  swell-sim fleet                      many whole agents against a hub of yours
  swell-sim run FILE                   a rollout scenario on virtual time
  swell-sim what-if --policy P --fleet F
                                       what a policy of yours would do on your fleet
  swell-sim explore                    a night on which everything goes wrong, with many seeds
  swell-sim gates                      the shadow gate measured, beside what others do
  swell-sim million                    one rollout on a million packed devices`,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	c := &command{out: out, err: errOut, version: version}
	root.PersistentFlags().BoolVarP(&c.verbose, "verbose", "v", false, "log what hub and devices do")
	root.AddCommand(c.demo(), c.backtest(), c.tune(), c.fleet(), c.run(), c.whatIf(), c.explore(), c.replay(), c.gates(), c.million())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(errOut, "swell-sim: %v\n", err)
		return 1
	}
	return 0
}

// command is what every subcommand works with.
type command struct {
	out, err io.Writer
	version  string
	verbose  bool
}

func (c *command) log() *slog.Logger {
	if !c.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func (c *command) demo() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use: "demo", Short: "Show the whole loop: stream, store, retrain, sign, roll out in waves, lose nothing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Version, o.Log, o.Out = c.version, c.log(), c.err
			if o.Stay {
				o.DataDir = filepath.Join("run", "demo")
				if err := os.RemoveAll(o.DataDir); err != nil { // every run tells the story from its beginning
					return err
				}
			}
			f, err := demo.Run(cmd.Context(), o)
			if f.Devices > 0 {
				_ = f.Print(c.out) // the error of the story counts
			}
			return err
		},
	}
	cmd.Flags().IntVar(&o.Devices, "devices", 24, "how many devices")
	cmd.Flags().IntVar(&o.Lines, "lines", 3, "in how many production lines")
	cmd.Flags().BoolVar(&o.Stay, "stay", false, "use the documented ports and stay up; state is in run/demo")
	cmd.Flags().StringVar(&o.Browse, "browse", "", "folder of the console's browser checks, to run when the loop has closed")
	cmd.Flags().StringVar(&o.Shots, "shots", "", "folder for their screenshots")
	return cmd
}
