package cli

import (
	"bytes"
	"context"
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

	"github.com/swellfleet/swell/simulator/report"
	"github.com/swellfleet/swell/simulator/scenario"
	"github.com/swellfleet/swell/simulator/whatif"
)

// whatIf plays a policy on a fleet before anybody is touched.
func (c *command) whatIf() *cobra.Command {
	var policy, fleet, page string
	o := whatif.Options{Seeds: 5, Workers: runtime.GOMAXPROCS(0)}
	cmd := &cobra.Command{
		Use:   "what-if --policy FILE --fleet FILE",
		Short: "Say what a policy of yours would do on your fleet, with good and with bad releases",
		Long: `Plays your policy on your fleet with a sound release and with every kind of bad
one, over several seeds each, and says when it would end, how soon a bad release
would be stopped, how many devices it would have harmed, and how few devices of
a group would be available at worst.

--policy is the file that 'swellctl apply -f' takes. --fleet is either what
'swellctl get devices -o json' prints, or a text with lines of the scenario
language: fleet, device, network, fault, for, start. People whom the policy asks
to approve do so within an hour.`,
		Example: `  swellctl get devices -o json > fleet.json
  swell-sim what-if --policy careful.yaml --fleet fleet.json
  swell-sim what-if --policy careful.yaml --fleet plant.txt --release 'flags x3 on line=L2' --html what-if.html`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if policy == "" || fleet == "" {
				return errors.New("name a policy file with --policy and a fleet file with --fleet")
			}
			if o.Seeds < 1 || o.Seeds > 1000 {
				return fmt.Errorf("--seeds %d: want 1 to 1000", o.Seeds)
			}
			s, err := readFleet(fleet)
			if err != nil {
				return err
			}
			if s.Policy, s.Select, err = readPolicy(policy); err != nil {
				return err
			}
			o.Scenario = s
			return c.runWhatIf(cmd.Context(), o, page)
		},
	}
	f := cmd.Flags()
	f.StringVar(&policy, "policy", "", "rollout policy, as for 'swellctl apply'")
	f.StringVar(&fleet, "fleet", "", "devices: JSON of 'swellctl get devices', or a text")
	f.StringArrayVar(&o.Natures, "release", nil, "how the release behaves, as 'flags x2'; may be given several times (default "+strings.Join(whatif.Natures, "; ")+")")
	f.IntVar(&o.Seeds, "seeds", o.Seeds, "runs of each")
	f.StringVar(&page, "html", "", "write a report with the worst run of each to this file")
	return cmd
}

// readFleet reads devices and what surrounds them.
func readFleet(path string) (scenario.Scenario, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return scenario.Scenario{}, fmt.Errorf("cannot read the fleet: %w", err)
	}
	if isDevices(b) {
		b = fmt.Appendf(nil, "fleet from %q\n", filepath.Base(path))
	}
	return files(filepath.Dir(path)).ParseFleet(path, bytes.NewReader(b))
}

func (c *command) runWhatIf(ctx context.Context, o whatif.Options, page string) error {
	live := terminal(c.err)
	if live {
		o.Progress = func(done, all int) { fmt.Fprintf(c.err, "\r\x1b[K%d of %d runs", done, all) }
	}
	list, err := whatif.Run(ctx, o)
	if live {
		fmt.Fprint(c.err, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	if why := list[0].Refused; why != "" {
		return fmt.Errorf("the hub would refuse this: %s", why)
	}
	if err := printWhatIf(c.out, o.Scenario, list); err != nil {
		return err
	}
	var runs []report.Run
	for _, x := range list {
		x.Worst.Scenario = x.Nature
		runs = append(runs, report.Run{Result: x.Worst, Story: x.Story, Text: x.Story.String()})
	}
	return c.writePage(page, runs)
}

func printWhatIf(w io.Writer, s scenario.Scenario, list []whatif.Outcome) error {
	by := "line"
	if b := s.Policy.Budgets; len(b) > 0 {
		by = b[0].GroupBy
	}
	sizes := s.Sizes(by)
	fmt.Fprintf(w, "%d devices under policy %s, %d runs of each release. The worst of a column is over all runs.\n\n", s.Devices(), s.Policy.Name, list[0].Runs)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "RELEASE\tENDS\tTAKES\tWORST\tSTOPPED\tWORST\tTRIED\tHARMED\tFEWEST AVAILABLE OF A %s\n", strings.ToUpper(by))
	violations := 0
	for _, x := range list {
		violations += x.Violations
		var ends []string
		for _, st := range slices.Sorted(maps.Keys(x.Ends)) {
			ends = append(ends, fmt.Sprintf("%s %d", st, x.Ends[st]))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d (%s)\t%s\n", x.Nature, strings.Join(ends, ", "), middle(x.Finished), last(x.Finished), middle(x.Stopped), last(x.Stopped),
			x.Tried, x.Harmed, report.Percent(x.Harmed, s.Devices()), tightest(by, x.Least, sizes))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, x := range list {
		fmt.Fprintf(w, "%s: %s\n", x.Nature, x.Worst.Rollout.Reason)
	}
	if violations > 0 {
		return fmt.Errorf("%d safety properties did not hold: please report it with the policy and the fleet", violations)
	}
	return nil
}

// tightest names the group of which the smallest share was available.
func tightest(by string, least, sizes map[string]int) string {
	name, share := "", 2.0
	for _, g := range slices.Sorted(maps.Keys(least)) {
		if s := float64(least[g]) / float64(max(sizes[g], 1)); s < share {
			name, share = g, s
		}
	}
	if name == "" && len(least) == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d (%s=%s)", least[name], sizes[name], by, name)
}

func middle(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	return short(d[len(d)/2])
}

func last(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	return short(d[len(d)-1])
}

// short writes a duration to the minute, or to the second below ten minutes.
func short(d time.Duration) string {
	if d < 10*time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}
