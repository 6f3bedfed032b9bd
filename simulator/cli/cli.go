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
	"strings"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/simulator/backtest"
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
	root.AddCommand(c.demo(), c.backtest(), c.fleet(), c.run(), c.whatIf(), c.explore(), c.replay(), c.gates(), c.million())
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

// asUnivariate fills in what nobody gave.
func asUnivariate(given func(flag string) bool, o *backtest.Options) {
	if !given("train-rows") {
		o.TrainRows = 750
	}
	if !given("train-share") {
		o.TrainShare = 0.15
	}
	if !given("kinds") {
		o.Kinds = []string{zoo.Neighbour}
	}
}

func (c *command) backtest() *cobra.Command {
	var o backtest.Options
	var fit zoo.Config
	var univariate bool
	cmd := &cobra.Command{
		Use: "backtest --data DIR --train-rows N", Short: "Play a folder of your recordings through the whole product", Args: cobra.NoArgs,
		Long: `backtest plays a folder of CSV files, one file a device, through the whole
product: agents stream each file's first rows to a hub, a night learns from
them, the release is signed and rolled out, and the devices score the rest.
It writes verdicts.csv: file, row, score, verdict (1 is an anomaly).

No labels are needed. Columns with labels must be named in --exclude, or they
would be learned from.`,
		Example: `  swell-sim backtest --data recordings --time-column datetime --exclude anomaly,changepoint --train-rows 400
  swell-sim backtest --data metrics --univariate`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Data == "" {
				return fmt.Errorf("--data: name a folder with one CSV file a device")
			}
			if univariate {
				asUnivariate(cmd.Flags().Changed, &o)
			}
			o.Progress, o.Fit, o.Log = c.err, fit, c.log()
			r, err := backtest.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			return r.Print(c.out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "folder with one CSV file a device")
	f.StringSliceVar(&o.Files, "files", nil, "only files whose path below the folder, without .csv, matches one of these globs, as 'line-1/*'")
	f.StringVar(&o.TimeColumn, "time-column", "", "column with the time of each row (default the first)")
	f.StringSliceVar(&o.Channels, "channels", nil, "columns to use (default all but the time and the excluded)")
	f.StringSliceVar(&o.Exclude, "exclude", nil, "columns to leave out, such as labels")
	f.IntVar(&o.TrainRows, "train-rows", 0, "how many first rows of each file are normal operation to learn from")
	f.Float64Var(&o.Rate, "rate", 0, "play the rest at so many times its own pace (default as fast as it goes)")
	f.Float64Var(&o.TrainShare, "train-share", 0, "learn from this share of each file's rows, --train-rows at most")
	f.BoolVar(&univariate, "univariate", false, "single streams whose level and habits drift: learn from 15 % of each file, 750 rows at most, and tell each event once")
	f.StringVar(&o.ModelPer, "model-per", "device", "one model for each device, folder, or all")
	f.StringSliceVar(&o.Kinds, "kinds", nil, "detectors that compete (default "+strings.Join(zoo.Competitors(), ", ")+"; there are "+strings.Join(zoo.Kinds(), ", ")+")")
	f.Float64Var(&fit.MaxGap, "max-gap", -1, "largest step within a window, in nominal steps; below 0 windows may span any gap")
	f.StringVar(&o.Out, "out", "verdicts.csv", "file to write")
	return cmd
}
