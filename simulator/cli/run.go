package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
	var page string
	cmd := &cobra.Command{
		Use:   "run FILE...",
		Short: "Play rollout scenarios on virtual time with the product's own planner and updater",
		Long: `Plays each scenario file and prints a table of what came of it. A scenario says
in a few lines which devices there are, how a release may move, how the release
behaves and what happens meanwhile. Hours pass in about a second.

--html writes one page with charts of where the devices stood, how many of each
group were available, what the gates saw, and every decision with its reasons.

Ends with 1 when a safety property was violated or an expectation of the file
was not met. docs/scenarios.md describes the language; docs/examples has files
to copy.`,
		Example: "  swell-sim run docs/examples/first.txt\n  swell-sim run my-plant.txt --html report.html\n  swell-sim run my-plant.txt --seed 7 --trace | less",
		RunE: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				return errors.New("name a scenario file, as docs/examples/first.txt")
			}
			var runs []report.Run
			var results []scenario.Result
			failed := 0
			for _, file := range files {
				r, err := c.playFile(file, seed, trace)
				if err != nil {
					return err
				}
				runs, results = append(runs, r), append(results, r.Result)
				if !r.OK() {
					failed++
				}
			}
			if err := report.Table(c.out, results); err != nil {
				return err
			}
			if err := c.writePage(page, runs); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d scenarios did not hold; --trace and --html show what happened", failed, len(files))
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&seed, "seed", 0, "play with this seed instead of the file's")
	cmd.Flags().BoolVar(&trace, "trace", false, "print what happens as it happens")
	cmd.Flags().StringVar(&page, "html", "", "write a report with charts to this file")
	c.onLoopback(cmd)
	return cmd
}

// playFile plays one file, with a line that shows how far it is on a terminal.
func (c *command) playFile(file string, seed uint64, trace bool) (report.Run, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return report.Run{}, fmt.Errorf("cannot read the scenario: %w", err)
	}
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	s, err := files(filepath.Dir(file)).Parse(name, bytes.NewReader(text))
	if err != nil {
		return report.Run{}, err
	}
	o := scenario.Options{Seed: seed}
	live := !trace && terminal(c.err)
	switch {
	case trace:
		o.Trace = func(at time.Duration, what string) { fmt.Fprintf(c.out, "%10s  %s\n", at.Round(time.Second), what) }
	case live:
		var shown time.Time
		o.Progress = func(p scenario.Point) {
			if time.Since(shown) > 100*time.Millisecond {
				shown = time.Now()
				fmt.Fprintf(c.err, "\r\x1b[K%s", progressLine(name, p))
			}
		}
	}
	r, err := scenario.Play(s, o)
	if live {
		fmt.Fprint(c.err, "\r\x1b[K")
	}
	return report.Run{Result: r, Story: s, Text: string(text)}, err
}

// progressLine says how far a run is: virtual time and devices per state.
func progressLine(name string, p scenario.Point) string {
	var states []string
	for _, s := range slices.Sorted(maps.Keys(p.States)) {
		if p.States[s] > 0 {
			states = append(states, fmt.Sprintf("%s %d", s, p.States[s]))
		}
	}
	line := []rune(fmt.Sprintf("%s  %d:%02d h  %s", name, int(p.At.Hours()), int(p.At.Minutes())%60, strings.Join(states, ", ")))
	return string(line[:min(len(line), 79)])
}

// terminal says whether a person watches.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// writePage writes a report, if one was asked for.
func (c *command) writePage(path string, runs []report.Run) error {
	if path == "" {
		return nil
	}
	var b bytes.Buffer
	if err := report.HTML(&b, runs); err != nil {
		return fmt.Errorf("draw the report: %w", err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	fmt.Fprintf(c.err, "the report is in %s\n", path)
	return nil
}
