package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (e *env) retrain() *cobra.Command {
	var wait bool
	now := e.mutating(&cobra.Command{
		Use: "now POLICY", Short: "Start tonight's training now", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("retrainpolicies"),
		Long:    "now starts a run and prints its name. With --wait it follows the run to its end;\na run that releases nothing is exit code 1, with the reasons.",
		Example: "  swellctl retrain now nightly --reason 'new bearings' --wait --timeout 10m",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/training-runs", e.query(), object{"policy": a[0]}, &o); err != nil {
				return err
			}
			name := cell(at(o, "metadata.name"))
			if e.dryRun {
				fmt.Fprintf(e.err, "A run of %s would be started.\n", a[0])
				return e.answer(o)
			}
			fmt.Fprintln(e.out, name)
			if !wait {
				return nil
			}
			ctx, cancel = e.following(c.Context())
			defer cancel()
			return e.followRun(ctx, h, name)
		},
	}, true)
	now.Flags().BoolVar(&wait, "wait", false, "follow it to its end (see --timeout)")
	c := &cobra.Command{Use: "retrain", Short: "Run the nightly training by hand"}
	c.AddCommand(now, e.mutating(&cobra.Command{
		Use: "cancel RUN", Short: "Stop a run before its next step", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("runs"),
		Example: "  swellctl retrain cancel $(swellctl get runs -o name | head -1) --reason 'wrong policy'",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/training-runs/"+url.PathEscape(a[0])+"/actions/cancel", e.query(), nil, &o); err != nil {
				return err
			}
			if s := stateOf(o); slices.Contains([]string{"released", "refused", "failed"}, s) {
				return &Problem{Status: http.StatusConflict, Detail: fmt.Sprintf("run %s has ended: it was %s", a[0], s)}
			}
			fmt.Fprintf(e.err, "Run %s: %s.\n", a[0], stateOf(o))
			return nil
		},
	}, false))
	return c
}

// followRun tells each step of a run as it begins, and how the run ended.
func (e *env) followRun(ctx context.Context, h *hub, name string) error {
	last := ""
	var end object
	err := e.poll(ctx, func(ctx context.Context) (bool, error) {
		var o object
		if err := h.get(ctx, "/training-runs/"+url.PathEscape(name), nil, &o); err != nil {
			return false, err
		}
		end = o
		if line := stepLine(o); line != last {
			fmt.Fprintf(e.err, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
			last = line
		}
		return !slices.Contains([]string{"queued", "running"}, stateOf(o)), nil
	})
	if err != nil {
		return err
	}
	summary := at(end, "status.summary")
	if s := stateOf(end); s != "released" {
		text := fmt.Sprintf("run %s: %s", name, s)
		if summary != nil {
			text += ": " + fmt.Sprint(summary)
		}
		refusals, _ := at(end, "status.refusals").([]any)
		for _, r := range refusals {
			if line := fmt.Sprint(r); !strings.Contains(text, line) {
				text += "\n  " + line
			}
		}
		return errors.New(text)
	}
	fmt.Fprintln(e.err, cell(summary))
	return nil
}

func stepLine(run object) string {
	steps, _ := at(run, "status.steps").([]any)
	line := stateOf(run)
	for _, s := range steps {
		if st := cell(at(s, "state")); st == "running" {
			return line + ": " + cell(at(s, "name"))
		}
	}
	return line
}
