package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/simulator/gates"
)

// gates measures the shadow gate.
func (c *command) gates() *cobra.Command {
	var o gates.Options
	var picture string
	cmd := &cobra.Command{
		Use:   "gates",
		Short: "Measure the shadow gate: false alarms and time to stop, beside what others do",
		Long: `Plays streams of flags against the product's own shadow gate and prints how
often it stops what it should not, how soon it stops what it should, and the
same of two usual tests on the same streams. Rows in which the gate's
assumption breaks stand beside those in which it holds. docs/gates.md explains.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Progress = func(done, all int) {
				if done%20 == 0 || done == all {
					fmt.Fprintf(c.err, "%d of %d kinds of stream played\n", done, all)
				}
			}
			rows, err := gates.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if picture != "" {
				var b bytes.Buffer
				if err := gates.SVG(&b, rows); err != nil {
					return err
				}
				if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
					return fmt.Errorf("cannot write the picture: %w", err)
				}
				if err := os.WriteFile(picture, b.Bytes(), 0o644); err != nil {
					return fmt.Errorf("cannot write the picture: %w", err)
				}
			}
			return gates.Print(c.out, rows)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Runs, "runs", 1000, "runs of each row in which a stop is a false alarm and the assumption holds; fewer of many devices")
	f.IntVar(&o.Caught, "caught-runs", 200, "runs of each other row")
	f.Uint64Var(&o.Seed, "seed", 1, "draws the streams")
	f.IntVar(&o.Workers, "workers", 2, "how many at a time")
	f.StringVar(&picture, "plot", "", "write the curves to this SVG file")
	return cmd
}
