package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/simulator/report"
	"github.com/swellfleet/swell/simulator/scenario"
)

// run plays scenarios.
func (c *command) run() *cobra.Command {
	var seed uint64
	var trace bool
	cmd := &cobra.Command{
		Use:   "run FILE...",
		Short: "play scenarios on virtual time with the product's own planner and updater",
		Long: `Plays each scenario file and prints a table of what came of it. Ends with 1
when a safety property was violated or an expectation of the file was not met.
docs/scenarios.md describes the language.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, files []string) error {
			var results []scenario.Result
			failed := 0
			for _, file := range files {
				r, err := playFile(c.out, file, seed, trace)
				if err != nil {
					return err
				}
				results = append(results, r)
				if !r.OK() {
					failed++
				}
			}
			if err := report.Table(c.out, results); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d scenarios did not hold; add --trace to see one's life", failed, len(files))
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&seed, "seed", 0, "play with this seed instead of the file's")
	cmd.Flags().BoolVar(&trace, "trace", false, "print what happens as it happens")
	return cmd
}

func playFile(out io.Writer, file string, seed uint64, trace bool) (scenario.Result, error) {
	f, err := os.Open(file)
	if err != nil {
		return scenario.Result{}, fmt.Errorf("cannot read the scenario: %w", err)
	}
	defer f.Close()
	s, err := scenario.Parse(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), f)
	if err != nil {
		return scenario.Result{}, err
	}
	o := scenario.Options{Seed: seed}
	if trace {
		o.Trace = func(at time.Duration, what string) { fmt.Fprintf(out, "%10s  %s\n", at.Round(time.Second), what) }
	}
	return scenario.Play(s, o)
}
