package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

func (e *env) rollout() *cobra.Command {
	c := &cobra.Command{Use: "rollout", Aliases: []string{"rollouts"}, Short: "Start, watch, steer and explain rollouts"}
	c.AddCommand(e.rolloutStart(), e.rolloutWatch(), e.rolloutWhy())
	for _, a := range []struct{ name, short string }{
		{"pause", "Stop offers and activations; what acts keeps acting"},
		{"resume", "Go on after a pause"},
		{"abort", "End it; devices that activated go back to the release before"},
		{"promote", "End the wave on its way as passed"},
		{"approve", "Consent to the next wave"},
	} {
		c.AddCommand(e.rolloutAction(a.name, a.short))
	}
	return c
}

func (e *env) rolloutStart() *cobra.Command {
	var policy string
	var wait bool
	c := &cobra.Command{
		Use: "start RELEASE --policy POLICY", Short: "Start a rollout of a release", Args: args(cobra.ExactArgs(1)),
		Example: "  swellctl rollout start pump-anomaly-7 --policy careful --reason 'night of the 22nd' --wait",
		RunE: func(c *cobra.Command, a []string) error {
			if policy == "" {
				return usage("name a policy with --policy: 'swellctl get rolloutpolicies' lists them")
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/rollouts", e.query(), object{"release": a[0], "policy": policy}, &o); err != nil {
				return err
			}
			name := fmt.Sprint(at(o, "metadata.name"))
			if e.dryRun {
				fmt.Fprintf(e.err, "Rollout %s would be started.\n", name)
				return nil
			}
			fmt.Fprintf(e.err, "Rollout %s is started.\n", name)
			fmt.Fprintln(e.out, name)
			if wait {
				return e.watch(ctx, h, name)
			}
			return nil
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "rollout policy")
	c.Flags().BoolVar(&wait, "wait", false, "watch it to its end")
	return e.mutating(c, true)
}

func (e *env) rolloutAction(name, short string) *cobra.Command {
	c := &cobra.Command{
		Use: name + " ROLLOUT --reason WHY", Short: short, Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			if e.reason == "" {
				return usage("say why with --reason: it goes into the audit log")
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/rollouts/"+url.PathEscape(a[0])+"/actions/"+name, e.query(), nil, &o); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "Rollout %s: %s.\n", a[0], stateOf(o))
			return nil
		},
	}
	return e.mutating(c, false)
}

func (e *env) rolloutWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ROLLOUT", Short: "Show waves and gates until the rollout has ended", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx := c.Context()
			if c.Flags().Changed("timeout") {
				var cancel context.CancelFunc
				ctx, cancel = e.within(ctx)
				defer cancel()
			}
			return e.watch(ctx, h, a[0])
		},
	}
}

// errNotPromoted is the outcome of a rollout that ended otherwise.
var errNotPromoted = errors.New("the rollout was not promoted")

// watch shows a bar on a terminal and a line for each change elsewhere.
func (e *env) watch(ctx context.Context, h *hub, name string) error {
	var bar *mpb.Bar
	var progress *mpb.Progress
	last := ""
	show := func(o object) {
		done, of := number(o, "status.counts.done"), number(o, "status.counts.devices")
		line := fmt.Sprintf("%s: %d of %d devices done. %s", stateOf(o), done, of, cell(at(o, "status.message")))
		if line != last {
			fmt.Fprintf(e.err, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
			last = line
		}
	}
	if f, ok := e.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" {
		progress = mpb.NewWithContext(ctx, mpb.WithOutput(e.err), mpb.WithRefreshRate(200*time.Millisecond))
		message := ""
		bar = progress.AddBar(0, mpb.PrependDecorators(decor.Name(name+" "), decor.CountersNoUnit("%d of %d devices")),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return message })))
		show = func(o object) {
			bar.SetTotal(int64(number(o, "status.counts.devices")), false)
			bar.SetCurrent(int64(number(o, "status.counts.done")))
			message = stateOf(o) + ": " + cell(at(o, "status.message"))
		}
	}
	var end object
	err := poll(ctx, func(ctx context.Context) (bool, error) {
		var o object
		if err := h.get(ctx, "/rollouts/"+url.PathEscape(name), nil, &o); err != nil {
			return false, err
		}
		show(o)
		end = o
		switch stateOf(o) {
		case "promoted", "aborted", "failed", "superseded":
			return true, nil
		}
		return false, nil
	})
	if bar != nil {
		bar.Abort(false)
		progress.Wait()
	}
	if err != nil {
		return err
	}
	if s := stateOf(end); s != "promoted" {
		return fmt.Errorf("%w: %s: %s", errNotPromoted, s, cell(at(end, "status.message")))
	}
	return nil
}

func stateOf(o object) string { return fmt.Sprint(at(o, "status.state")) }

func number(o object, path string) int {
	f, _ := at(o, path).(float64)
	return int(f)
}

func (e *env) rolloutWhy() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "why ROLLOUT", Short: "Explain what the planner decided, from the stored evidence", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var page struct {
				Items []object `json:"items"`
			}
			q := url.Values{"limit": {fmt.Sprint(limit)}}
			if err := h.get(ctx, "/rollouts/"+url.PathEscape(a[0])+"/decisions", q, &page); err != nil {
				return err
			}
			if e.output == "json" || e.output == "yaml" {
				return e.show(kind{columns: []column{{path: "id"}}}, page.Items, false)
			}
			for _, d := range page.Items {
				fmt.Fprintf(e.out, "%s  %s\n", clock(at(d, "at")), cell(at(d, "summary")))
				reasons, _ := d["reasons"].([]any)
				for _, r := range reasons {
					fmt.Fprintf(e.out, "    %v\n", r)
				}
				gates, _ := d["gates"].([]any)
				for _, g := range gates {
					fmt.Fprintf(e.out, "    %-12s %-12s %s\n", cell(at(g, "verdict")), cell(at(g, "name")), cell(at(g, "message")))
				}
				if n, _ := d["assigned"].([]any); len(n) > 0 {
					fmt.Fprintf(e.out, "    offered or leased: %s\n", join(n))
				}
				if n, _ := d["revoked"].([]any); len(n) > 0 {
					fmt.Fprintf(e.out, "    called back: %s\n", join(n))
				}
			}
			return nil
		},
	}
	c.Flags().IntVar(&limit, "limit", 20, "how many decisions, newest first")
	return c
}

func clock(v any) string {
	s, _ := v.(string)
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return s
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func join(v []any) string {
	const most = 12
	var parts []string
	for i, x := range v {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(v)-most))
			break
		}
		parts = append(parts, fmt.Sprint(x))
	}
	return strings.Join(parts, ", ")
}
