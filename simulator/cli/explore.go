package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/simulator/explore"
)

// explore plays a scenario with many seeds.
func (c *command) explore() *cobra.Command {
	o := explore.Options{Seeds: 200, From: 1, Workers: runtime.GOMAXPROCS(0), Shrink: 2 * time.Minute}
	cmd := &cobra.Command{
		Use:   "explore [FILE]",
		Short: "Play a scenario with many seeds, in search of one that breaks a property",
		Long: `Plays the scenario with every seed; without a file, a night on which everything
goes wrong on 1000 devices. Each seed draws what the file leaves to chance: a
line that begins with "maybe 30%" is there in so many of the seeds, of
neighbouring lines that begin with "either" one is drawn, and 2m..70m is a time
between the two. docs/scenarios.md describes the language.

A run that breaks something is made smaller and printed as a scenario, with a
trace. Ends with 1 when a safety property was violated, and prints a line of
JSON last.`,
		Example: "  swell-sim explore --seeds 50\n  swell-sim explore my-plant.txt --seeds 20 --devices 100",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, template, err := readTemplate(args)
			if err != nil {
				return err
			}
			return c.runExplore(cmd.Context(), name, template, o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Seeds, "seeds", o.Seeds, "how many")
	f.Uint64Var(&o.From, "from", o.From, "the first seed")
	f.IntVar(&o.Workers, "workers", o.Workers, "runs at a time")
	f.IntVar(&o.Devices, "devices", 0, "at most so many devices (default as the file says)")
	f.DurationVar(&o.Shrink, "shrink", o.Shrink, "how long a failing run may be made smaller")
	f.BoolVar(&o.Stop, "stop", false, "end at the first violation")
	return cmd
}

// readTemplate reads the file that is named, or takes the built-in one.
func readTemplate(args []string) (name, text string, err error) {
	if len(args) == 0 {
		return "mixed", explore.Mixed, nil
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return "", "", fmt.Errorf("cannot read the scenario: %w", err)
	}
	return strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0])), string(b), nil
}

func (c *command) runExplore(ctx context.Context, name, template string, o explore.Options) error {
	o.Progress = func(s explore.Summary) {
		fmt.Fprintf(c.err, "\r%d of %d seeds, %d violations, %s, %.1f million events  ", s.Seeds, o.Seeds, s.Violations, s.Took.Round(time.Second), float64(s.Events)/1e6)
	}
	s, err := explore.Run(ctx, name, template, o)
	fmt.Fprintln(c.err)
	if err != nil {
		return err
	}
	if s.Seeds == 0 {
		return errors.New("no seed was played to its end")
	}
	if err := printSummary(c.out, s); err != nil {
		return err
	}
	line, err := json.Marshal(struct {
		Seeds      int     `json:"seeds"`
		Devices    int     `json:"devices"`
		Violations int     `json:"violations"`
		Seconds    float64 `json:"seconds"`
	}{s.Seeds, s.Devices, s.Violations, float64(s.Took.Round(100*time.Millisecond)) / 1e9})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s\n", line)
	if s.Violations > 0 {
		return fmt.Errorf("%d properties did not hold", s.Violations)
	}
	return nil
}

func printSummary(w io.Writer, s explore.Summary) error {
	for _, f := range s.Failures {
		fmt.Fprintf(w, "\nseed %d breaks a property:\n", f.Seed)
		for _, v := range f.Violations {
			fmt.Fprintf(w, "  at %s: %s\n", v.At.Round(time.Second), v.What)
		}
		if f.Scenario != "" {
			fmt.Fprintf(w, "\nthe same as a scenario, after %d plays to make it smaller:\n\n%s\n", f.Plays, f.Scenario)
		}
		if len(f.Trace) > 0 {
			fmt.Fprintln(w, "the end of its trace:")
			for _, line := range f.Trace {
				fmt.Fprintln(w, line)
			}
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nseeds\t%d\n", s.Seeds)
	fmt.Fprintf(t, "devices in each\t%d\n", s.Devices)
	fmt.Fprintf(t, "virtual time of all\t%s (%s a seed: shadow, soak and deadlines are minutes, not hours)\n", s.Virtual.Round(time.Minute), (s.Virtual / time.Duration(s.Seeds)).Round(time.Minute))
	fmt.Fprintf(t, "events\t%d (%.0f a second)\n", s.Events, float64(s.Events)/s.Took.Seconds())
	fmt.Fprintf(t, "messages, of them lost\t%d, %d\n", s.Sent, s.Lost)
	fmt.Fprintf(t, "decisions kept\t%d\n", s.Decisions)
	fmt.Fprintf(t, "devices that ever ran a release\t%d, of them unsound %d\n", s.Tried, s.Harmed)
	for _, state := range slices.Sorted(maps.Keys(s.Ends)) {
		fmt.Fprintf(t, "rollouts %s\t%d\n", state, s.Ends[state])
	}
	for _, what := range slices.Sorted(maps.Keys(s.Drawn)) {
		fmt.Fprintf(t, "seeds with %s\t%d\n", what, s.Drawn[what])
	}
	fmt.Fprintf(t, "properties violated\t%d\n", s.Violations)
	fmt.Fprintf(t, "took\t%s\n", s.Took.Round(100*time.Millisecond))
	return t.Flush()
}

// replay tells one device's life in one run.
func (c *command) replay() *cobra.Command {
	var seed uint64
	var until time.Duration
	var device string
	var devices int
	cmd := &cobra.Command{
		Use:   "replay [FILE]",
		Short: "Tell one device's life in one run of a scenario",
		Long: `Plays the scenario with a seed, as explore does, and prints what the hub decided
and what became of one device, up to a moment. Without a file it is the built-in
night of explore.`,
		Example: "  swell-sim replay --seed 17 --until 40m --device hall-1/pump-00003",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name, template, err := readTemplate(args)
			if err != nil {
				return err
			}
			s, err := explore.Scenario(name, template, seed, devices)
			if err != nil {
				return err
			}
			lines, err := explore.Trace(s, seed, until, device, 0)
			for _, line := range lines {
				fmt.Fprintln(c.out, line)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&seed, "seed", 1, "the run")
	f.DurationVar(&until, "until", 0, "end at this time of the run (default at its end)")
	f.StringVar(&device, "device", "", "as site/node (default the hub's decisions alone)")
	f.IntVar(&devices, "devices", 0, "at most so many devices, as with explore")
	return cmd
}
