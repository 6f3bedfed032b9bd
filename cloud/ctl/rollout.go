package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

func (e *env) rollout() *cobra.Command {
	c := &cobra.Command{Use: "rollout", Aliases: []string{"rollouts"}, Short: "Start, watch, steer and explain rollouts"}
	c.AddCommand(e.rolloutList(), e.rolloutDevices(), e.rolloutStart(), e.rolloutWatch(), e.rolloutWhy())
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

func (e *env) rolloutList() *cobra.Command {
	var state, release string
	c := &cobra.Command{
		Use: "list", Short: "List rollouts, newest first", Args: args(cobra.NoArgs),
		Example: "  swellctl rollout list --state running",
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			q := url.Values{}
			for name, v := range map[string]string{"state": state, "release": release} {
				if v != "" {
					q.Set(name, v)
				}
			}
			k, err := kindOf("rollouts")
			if err != nil {
				return err
			}
			items, err := h.list(ctx, k.path, q)
			if err != nil {
				return err
			}
			return e.show(k, items, false)
		},
	}
	c.Flags().StringVar(&state, "state", "", "only those in this state, as in running")
	c.Flags().StringVar(&release, "release", "", "only those of this release, as in pump-anomaly-7")
	return c
}

var rolloutDevices = kind{name: "devices", columns: []column{
	{"NAME", "name", false}, {"LINE", "line", false}, {"WAVE", "wave", false}, {"STATE", "state", false}, {"PHASE", "phase", false}, {"SINCE", "since", false}, {"REASON", "reason", false},
	{"ONLY NEW", "onlyChallenger", true}, {"ONLY OLD", "onlyChampion", true}, {"WINDOWS", "windows", true},
}}

func (e *env) rolloutDevices() *cobra.Command {
	return &cobra.Command{
		Use: "devices ROLLOUT", Short: "List its devices with wave, state and what went wrong", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("rollouts"),
		Example: "  swellctl rollout devices pump-anomaly-1 -o wide",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			items, err := h.list(ctx, "/rollouts/"+url.PathEscape(a[0])+"/devices", nil)
			if err != nil {
				return err
			}
			return e.show(rolloutDevices, items, false)
		},
	}
}

func (e *env) rolloutStart() *cobra.Command {
	var policy string
	var wait bool
	c := &cobra.Command{
		Use: "start RELEASE --policy POLICY", Short: "Start a rollout of a release", Args: args(cobra.ExactArgs(1)),
		Long:    "start prints the rollout's name. With --dry-run it shows the waves instead; with\n--wait it follows the rollout, and any end but promoted is exit code 1.",
		Example: "  swellctl rollout start pump-anomaly-1 --policy careful --reason 'night of the 22nd'",
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
				return e.showWaves(o)
			}
			fmt.Fprintf(e.err, "Rollout %s is started.\n", name)
			fmt.Fprintln(e.out, name)
			if wait {
				ctx, cancel := e.following(c.Context())
				defer cancel()
				return e.watch(ctx, h, name)
			}
			return nil
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "rollout policy")
	c.Flags().BoolVar(&wait, "wait", false, "watch it to its end")
	return e.mutating(c, true)
}

// showWaves lists the waves of a rollout that was only tried.
func (e *env) showWaves(o object) error {
	if e.output == "json" || e.output == "yaml" {
		return e.answer(o)
	}
	// Later waves are drawn when their turn comes, so the hub has numbers for
	// the first alone.
	t := e.newTable("WAVE", "SIZE", "DRAWN", "SOAK", "APPROVALS")
	waves, _ := at(o, "status.waves").([]any)
	specs, _ := at(o, "spec.policySpec.waves").([]any)
	for i, w := range waves {
		size, drawn, soak := "all that match", "later", "-"
		if i < len(specs) {
			if n := at(specs[i], "devices"); n != nil {
				size = cell(n)
			} else if share, ok := at(specs[i], "share").(float64); ok {
				size = fmt.Sprintf("to %.4g%%", 100*share)
			}
		}
		if n := number(w, "counts.devices"); n > 0 {
			drawn = strconv.Itoa(n)
		}
		if s, ok := at(w, "soakSeconds").(float64); ok {
			soak = time.Duration(s * float64(time.Second)).String()
		}
		t.row(cell(at(w, "name")), size, drawn, soak, cell(at(w, "approvalsNeeded")))
	}
	return t.flush()
}

func (e *env) rolloutAction(name, short string) *cobra.Command {
	c := &cobra.Command{
		Use: name + " ROLLOUT --reason WHY", Short: short, Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("rollouts"),
		Example: "  swellctl rollout " + name + " pump-anomaly-1 --reason 'shift change'",
		RunE: func(c *cobra.Command, a []string) error {
			if e.reason == "" {
				return errNoReason
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
			if e.dryRun {
				fmt.Fprintf(e.err, "Rollout %s would be %s.\n", a[0], stateOf(o))
				return nil
			}
			fmt.Fprintf(e.err, "Rollout %s: %s.\n", a[0], stateOf(o))
			return nil
		},
	}
	return e.mutating(c, true)
}

func (e *env) rolloutWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ROLLOUT", Short: "Follow a rollout to its end", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("rollouts"),
		Long:    "watch shows where the rollout stands until it has ended, or --timeout is over.\nExit code 0: promoted; 1: it ended otherwise; 6: it had not ended in time.",
		Example: "  swellctl rollout watch pump-anomaly-1",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.following(c.Context())
			defer cancel()
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
	if terminal(e.err) && os.Getenv("TERM") != "dumb" {
		progress = mpb.NewWithContext(ctx, mpb.WithOutput(e.err), mpb.WithRefreshRate(200*time.Millisecond))
		var message atomic.Value // written here, read by the bar's own goroutine
		message.Store("")
		bar = progress.AddBar(0, mpb.PrependDecorators(decor.Name(name+" "), decor.CountersNoUnit("%d of %d devices")),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return message.Load().(string) })))
		show = func(o object) {
			bar.SetTotal(int64(number(o, "status.counts.devices")), false)
			bar.SetCurrent(int64(number(o, "status.counts.done")))
			message.Store(stateOf(o) + ": " + cell(at(o, "status.message")))
		}
	}
	var end object
	err := e.poll(ctx, func(ctx context.Context) (bool, error) {
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
		bar.Abort(true)
		progress.Wait()
		if end != nil {
			fmt.Fprintf(e.err, "%s: %d of %d devices done. %s\n", stateOf(end), number(end, "status.counts.done"), number(end, "status.counts.devices"), cell(at(end, "status.message")))
		}
	}
	if err != nil {
		return err
	}
	if s := stateOf(end); s != "promoted" {
		return fmt.Errorf("%w: %s: %s", errNotPromoted, s, cell(at(end, "status.message")))
	}
	return nil
}

// answer prints an object that the hub answered with, where -o asks for it.
func (e *env) answer(o object) error {
	if e.output == "json" || e.output == "yaml" {
		return e.show(kind{}, []object{o}, true)
	}
	return nil
}

func stateOf(o object) string { return fmt.Sprint(at(o, "status.state")) }

func number(o any, path string) int {
	f, _ := at(o, path).(float64)
	return int(f)
}
