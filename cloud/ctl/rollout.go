package ctl

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func (e *env) rollout() *cobra.Command {
	c := &cobra.Command{Use: "rollout", Aliases: []string{"rollouts"}, Short: "Start, watch, steer and explain rollouts"}
	c.AddCommand(e.rolloutList(), e.rolloutDevices(), e.rolloutPreview(), e.rolloutStart(), e.rolloutWatch(), e.rolloutWhy(), e.rolloutReplay())
	for _, a := range []struct{ name, short string }{
		{"pause", "Stop offers and activations; what acts keeps acting"},
		{"resume", "Go on after a pause"},
		{"abort", "End it; devices that activated go back to the release before"},
		{"promote", "End the wave on its way as passed"},
		{"approve", "Consent to the next wave"},
		{"undo", "Take it back, promoted or not; devices go back to the release before"},
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
	t := e.newTable("WAVE", "SIZE", "DEVICES", "SOAK", "APPROVALS")
	waves, _ := at(o, "status.waves").([]any)
	specs, _ := at(o, "spec.policySpec.waves").([]any)
	for i, w := range waves {
		size := "all that match"
		if i < len(specs) {
			if n := at(specs[i], "devices"); n != nil {
				size = cell(n)
			} else if share, ok := at(specs[i], "share").(float64); ok {
				size = fmt.Sprintf("to %.4g%%", 100*share)
			}
		}
		t.row(cell(at(w, "name")), size, cell(at(w, "counts.devices")), duration(at(w, "soakSeconds")), cell(at(w, "approvalsNeeded")))
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
