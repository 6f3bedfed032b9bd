package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/simulator/backtest"
)

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

// Flags that belong to one kind of data only.
var (
	ofStreams = []string{"network", "files", "time-column", "channels", "exclude", "train-rows", "rate", "univariate", "model-per", "max-gap", "sample-rate", "fit"}
	ofImages  = []string{"backbone", "labels", "splits", "split", "normal", "hold-out", "epochs", "size", "seed", "upright"}
)

// settings reads JSON into fit, over what is there.
func settings(text string, fit *zoo.Config) error {
	if text == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(fit); err != nil {
		return fmt.Errorf("--fit: %w; want JSON as {\"pattern\": 10, \"margin\": 2}", err)
	}
	if d.More() {
		return errors.New("--fit: want one JSON object and nothing behind it")
	}
	if err := fit.Validate(); err != nil {
		return fmt.Errorf("--fit: %w", err)
	}
	return nil
}

func (c *command) backtest() *cobra.Command {
	var o backtest.Options
	var io backtest.ImageOptions
	var univariate bool
	var fit string
	cmd := &cobra.Command{
		Use: "backtest (--data DIR --train-rows N | --images DIR)", Short: "Play a folder of your recordings or images through the whole product", Args: cobra.NoArgs,
		Long: `backtest plays a folder of yours through the whole product: agents send one
part of it to a hub, a night learns from it, the release is signed and rolled
out, and the devices score the rest.

--data is a folder of CSV files, one file a device. The first rows of each are
learned from; verdicts.csv then holds file, row, score, verdict (1 is an
anomaly; rows count from 0). Separators, decimal commas, the column of the time
and its form are found out, and .csv.gz and .tsv are read, too. No labels are
needed. A column that is called like labels (anomaly, label, is_anomaly,
Normal/Attack and so on) is not learned from: the verdicts are compared with
it. Other columns that must not be learned from are named in --exclude. What is
left out, and what is odd in the files, is told. For single streams whose level
and habits drift, add --univariate.

--images is a folder of JPEG or PNG files. What is on each is its label: by
--labels, a table with the columns file and label, or else by the folder it is
in. Which are learned from and which are judged says --splits, a table with the
column file and one column for each split, with train or test in it; or else
folders called train and test; or else --train-share. Images to validate are
judged where none are to test, and else left out. Files in tables are named by
their path from the table or from the folder. Images that cannot be read are
left out and counted. With one label, or none, to
learn from, what is learned are good parts, and the rest is judged for not
being like them. results.csv then holds file, split, label, predicted,
probability, score, anomaly.

Several folders are several device classes, with a model for each. --network and
--backbone bring ONNX models of yours, which are adapted and judged beside the
others.`,
		Example: `  swell-sim backtest --data recordings --time-column datetime --exclude anomaly,changepoint --train-rows 400
  swell-sim backtest --data metrics --univariate
  swell-sim backtest --images photos --labels labels.csv --splits splits.csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			foreign := ofImages
			switch {
			case len(o.Data) == 0 && len(io.Images) == 0:
				return errors.New("--data: name a folder with one CSV file a device, or --images: a folder with images")
			case len(o.Data) > 0 && len(io.Images) > 0:
				return errors.New("--data and --images in one run: run them one after the other")
			case len(io.Images) > 0:
				foreign = ofStreams
			}
			for _, flag := range foreign {
				if given(flag) {
					return fmt.Errorf("--%s has no meaning here: leave it out", flag)
				}
			}
			o.Progress, o.Log, io.Progress, io.Log = c.err, c.log(), c.err, c.log()
			if len(io.Images) > 0 {
				io.Kinds, io.Out, io.TrainShare = o.Kinds, o.Out, o.TrainShare
				if !given("out") {
					io.Out = "results.csv"
				}
				if !given("train-share") {
					io.TrainShare = 0.5
				}
				r, err := backtest.RunImages(cmd.Context(), io)
				if err != nil {
					return err
				}
				return r.Print(c.out)
			}
			if univariate {
				asUnivariate(given, &o)
			}
			if err := settings(fit, &o.Fit); err != nil {
				return err
			}
			r, err := backtest.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			return r.Print(c.out)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Data, "data", nil, "folder with one CSV file a device; several for several device classes")
	f.StringSliceVar(&o.Files, "files", nil, "only files whose path below the folder, without .csv, matches one of these globs, as 'line-1/*'")
	f.StringVar(&o.TimeColumn, "time-column", "", "column with the time of each row, or none (default found by name and content)")
	f.Float64Var(&o.SampleRateHz, "sample-rate", 0, "rows a second (default by their times, or 1 where there are none)")
	f.StringSliceVar(&o.Channels, "channels", nil, "columns to use (default all with numbers but the time, labels and the excluded)")
	f.StringSliceVar(&o.Exclude, "exclude", nil, "columns to leave out, such as labels")
	f.IntVar(&o.TrainRows, "train-rows", 0, "how many first rows of each file are normal operation to learn from")
	f.Float64Var(&o.Rate, "rate", 0, "play the rest at so many times its own pace (default as fast as it goes)")
	f.Float64Var(&o.TrainShare, "train-share", 0, "learn from this share of each file's rows, --train-rows at most, or of each label's images (default of those a half)")
	f.BoolVar(&univariate, "univariate", false, "single streams whose level and habits drift: learn from 15 % of each file, 750 rows at most, and tell each event once")
	f.StringVar(&o.ModelPer, "model-per", "", "one model for each device, folder, or all (default device; with several --data folder)")
	f.StringSliceVar(&o.Kinds, "kinds", nil, "detectors that compete (default "+strings.Join(zoo.Competitors(), ", ")+"; there are "+strings.Join(zoo.Kinds(), ", ")+"; for images "+strings.Join(zoo.ImageKinds(), ", ")+")")
	f.StringSliceVar(&o.Networks, "network", nil, "ONNX file of a network of yours that competes, too; FILE:raw when it wants engineering units (see docs/registry.md)")
	f.StringVar(&io.Backbone, "backbone", "", "ONNX file of a network that models of images look with")
	f.StringVar(&fit, "fit", "", `settings of the detectors, as fit in a retrain policy, in JSON: '{"pattern": 10, "margin": 2}'`)
	f.Float64Var(&o.Fit.MaxGap, "max-gap", -1, "largest step within a window, in nominal steps; below 0 windows may span any gap")
	f.StringSliceVar(&io.Images, "images", nil, "folder with images; several for several device classes")
	f.StringVar(&io.Labels, "labels", "", "CSV file with the columns file and label (default the name of the folder an image is in)")
	f.StringVar(&io.Splits, "splits", "", "CSV file with the column file and one for each split, with train or test")
	f.StringSliceVar(&io.Split, "split", nil, "only these columns of --splits (default all)")
	f.StringSliceVar(&io.Normal, "normal", nil, "labels of good parts (default good, ok, normal)")
	f.Float64Var(&io.HoldOut, "hold-out", 0, "share of the images to learn from by which competitors are judged (default a fifth where several detectors compete, else none)")
	f.IntVar(&io.Fit.Epochs, "epochs", 0, "passes over the images while training (default by their number)")
	f.IntVar(&io.Fit.Height, "size", 0, "height and width in pixels that models of images read (default the model's)")
	f.BoolVar(&io.Fit.Upright, "upright", false, "do not turn or mirror images while training, as their sides mean something")
	f.Uint64Var(&io.Fit.Seed, "seed", 0, "seed of every random choice of models of images")
	f.StringVar(&o.Out, "out", "verdicts.csv", "file to write; with --images the default is results.csv")
	return cmd
}
