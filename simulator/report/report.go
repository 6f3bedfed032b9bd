// Package report prints what came of simulations, as a table and as one page
// with charts that needs nothing else.
//
// It takes results of simulator/scenario and changes nothing about them; names
// and reasons in them come from files and are escaped. simulator/cli imports it.
package report

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/swellfleet/swell/simulator/scenario"
)

// Table prints one line a run, and below it what was violated or not met.
func Table(w io.Writer, results []scenario.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tSEED\tSTATE\tWAVES\tDEVICES\tRUNNING\tTRIED\tHARMED\tHARM\tTOOK\tDECISIONS\tMESSAGES\tLOST\tEVENTS\tOK")
	for _, r := range results {
		took := "-"
		if !r.Rollout.Ended.IsZero() {
			took = r.Rollout.Ended.Sub(r.Rollout.Started).Round(time.Second).String()
		}
		ok := "yes"
		if !r.OK() {
			ok = "NO"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%d/%d\t%d\t%d\t%d\t%d\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n",
			r.Scenario, r.Seed, r.Rollout.State, min(r.Rollout.Wave, len(r.Rollout.Policy.Waves)), len(r.Rollout.Policy.Waves), r.Devices, r.Running, r.Tried, r.Harmed,
			r.Harm.Round(time.Second), took, r.Decisions, r.Sent, r.Lost, r.Events, ok)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		fmt.Fprintf(w, "\n%s (seed %d): %s\n", r.Scenario, r.Seed, r.Rollout.Reason)
		for _, v := range r.Violations {
			fmt.Fprintf(w, "  violated at %s: %s\n", v.At.Round(time.Second), v.What)
		}
		for _, u := range r.Unmet {
			fmt.Fprintf(w, "  not met: %s\n", u)
		}
	}
	return nil
}
