package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/simulator/backtest"
)

func (c *command) tune() *cobra.Command {
	var o backtest.TuneOptions
	cmd := &cobra.Command{
		Use: "tune --data DIR --train-rows N", Short: "Choose a detector and its settings by recordings of normal operation or by labels", Args: cobra.NoArgs,
		Long: `tune chooses one kind of detector and its settings for machines of a type.

--data is a folder of CSV files with normal operation, read as backtest reads
them. They are cut into pieces; every candidate learns from the first
--train-rows rows of each and judges the rest, as it is and with simulated
faults. The one with the largest share of faulty rows found less share of normal
rows flagged wins.

With --by-labels the files have a column that is called like labels (anomaly,
label, …): candidates learn from the first --train-rows rows of each file and are
compared by the labels of the rest. Every file is held out once, and judged by
what the others choose: that is what to expect of the choice on a recording that
it has not seen.

Standard output gets the best of each kind and, last, the choice as a line of
JSON: kinds belong into "detectors" of a retrain policy and fit into its "fit",
or into --kinds and --fit of backtest. Without labels the shares are those of
simulated faults in these recordings: real faults differ, so try the choice with
backtest, and let it compete in a night.`,
		Example: `  swell-sim tune --data recordings --train-rows 400
  swell-sim tune --data recordings --rows 400 --train-rows 200 --piece-rows 400 --max-false-alarms 0.2
  swell-sim tune --data labelled --train-rows 400 --by-labels`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.Data) == 0 {
				return errors.New("--data: name a folder with CSV files of normal operation")
			}
			o.Progress = c.err
			choice, err := backtest.Tune(cmd.Context(), o, c.out)
			if err != nil {
				return err
			}
			return choice.Print(c.out)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Data, "data", nil, "folder with CSV files of normal operation, all of one type of machine")
	f.StringSliceVar(&o.Files, "files", nil, "only files whose path below the folder, without .csv, matches one of these globs, as 'line-1/*'")
	f.StringVar(&o.TimeColumn, "time-column", "", "column with the time of each row, or none (default found by name and content)")
	f.Float64Var(&o.SampleRateHz, "sample-rate", 0, "rows a second (default by their times, or 1 where there are none)")
	f.StringSliceVar(&o.Channels, "channels", nil, "columns to use (default all with numbers but the time, labels and the excluded)")
	f.StringSliceVar(&o.Exclude, "exclude", nil, "columns to leave out, such as labels")
	f.IntVar(&o.Rows, "rows", 0, "only so many first rows of each file (default all)")
	f.IntVar(&o.TrainRows, "train-rows", 0, "how many rows are learned from before the rest of a piece is judged")
	f.IntVar(&o.PieceRows, "piece-rows", 0, "rows of a piece (default three times --train-rows)")
	f.Float64Var(&o.MaxFalseAlarms, "max-false-alarms", 0, "largest share of normal rows that may be flagged (default any)")
	f.Float64Var(&o.Fit.MaxGap, "max-gap", -1, "largest step within a window, in nominal steps; below 0 windows may span any gap")
	f.StringVar(&o.Aim, "aim", "index", "what to make as large as can be: index (found share of faulty rows less flagged share of normal ones) or f1")
	f.BoolVar(&o.ByLabels, "by-labels", false, "compare by the label column of the files, not by simulated faults")
	f.StringSliceVar(&o.Kinds, "kinds", nil, "detectors that compete (default all that judge machines of many channels)")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of every random choice")
	return cmd
}
