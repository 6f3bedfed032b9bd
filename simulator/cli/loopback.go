package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/simulator/loopback"
	"github.com/swellfleet/swell/simulator/report"
	"github.com/swellfleet/swell/simulator/scenario"
)

// onLoopback adds the flags of the second level to cmd, which then plays its
// files with the real hub and whole agents.
func (c *command) onLoopback(cmd *cobra.Command) {
	first := cmd.RunE
	var second bool
	var pace float64
	cmd.Flags().BoolVar(&second, "loopback", false, "play with the real hub and up to 8 whole agents in this process")
	cmd.Flags().Float64Var(&pace, "pace", 60, "with --loopback: seconds of the scenario in one")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		if !second {
			return first(cmd, names)
		}
		if pace <= 0 {
			return fmt.Errorf("--pace %g: want more than 0", pace)
		}
		for _, flag := range []string{"seed", "html"} {
			if cmd.Flags().Changed(flag) {
				return fmt.Errorf("--%s is for virtual time: leave it out, or --loopback", flag)
			}
		}
		trace, err := cmd.Flags().GetBool("trace")
		if err != nil {
			return err
		}
		var results []scenario.Result
		failed := 0
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("cannot read the scenario: %w", err)
			}
			s, err := files(filepath.Dir(name)).Parse(strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)), bytes.NewReader(text))
			if err != nil {
				return err
			}
			o := loopback.Options{Pace: pace, Log: c.log()}
			if trace {
				o.Trace = func(at time.Duration, what string) { fmt.Fprintf(c.out, "%10s  %s\n", at.Round(time.Second), what) }
			}
			r, err := loopback.Play(cmd.Context(), s, o)
			if err != nil {
				return err
			}
			if results = append(results, r); !r.OK() {
				failed++
			}
		}
		fmt.Fprintln(c.out, "second level: the real hub and whole agents on loopback")
		if err := report.Table(c.out, results); err != nil {
			return err
		}
		if failed > 0 {
			return fmt.Errorf("%d of %d scenarios did not hold on loopback; --trace shows what happened", failed, len(names))
		}
		return nil
	}
}
