package ctl

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func (e *env) rolloutReplay() *cobra.Command {
	var policy, file string
	c := &cobra.Command{
		Use: "replay ROLLOUT --policy POLICY", Short: "Say what another policy would have decided on the same evidence", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("rollouts"),
		Long: `replay decides again on the stored evidence of a rollout, under another policy:
one at the hub, or one from a file. After the first decision that tells devices
something else, the record no longer says what they would have done, and replay
says so.`,
		Example: "  swellctl rollout replay pump-anomaly-1 --policy careful\n  swellctl rollout replay pump-anomaly-1 -f policies.yaml",
		RunE: func(c *cobra.Command, a []string) error {
			body, err := e.policyOrFile(policy, file)
			if err != nil {
				return err
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/rollouts/"+url.PathEscape(a[0])+"/replay", nil, body, &o); err != nil {
				return err
			}
			return e.showReplay(o)
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "rollout policy at the hub")
	c.Flags().StringVarP(&file, "filename", "f", "", "file with a rollout policy instead; - is standard input")
	return c
}

func (e *env) showReplay(o object) error {
	if e.output == "json" || e.output == "yaml" {
		return e.answer(o)
	}
	steps := items(o, "steps")
	under := "the file's policy"
	if o["policy"] != nil {
		under = cell(o["policy"])
	}
	fmt.Fprintln(e.out, wrap(fmt.Sprintf("%s under %s: %s.", cell(o["rollout"]), under, strings.TrimRight(cell(o["verdict"]), ".")), ""))
	fmt.Fprintf(e.out, "%d of %d decisions are alike.\n", number(o, "same"), len(steps))
	if e.output == "name" || len(steps) == 0 {
		return nil
	}
	fmt.Fprintln(e.out)
	t := e.newTable("AT", "WAS", "WOULD BE", "OFFERED", "WHY")
	for _, s := range steps {
		t.row(clock(at(s, "at")), cell(at(s, "recorded")), cell(at(s, "replayed")), cell(at(s, "offered")), cell(at(s, "summary")))
	}
	if err := t.flush(); err != nil {
		return err
	}
	d, ok := o["diverged"].(object)
	if !ok || len(items(d, "gates")) == 0 {
		return nil
	}
	fmt.Fprintf(e.out, "\nFrom %s on they differ; the gates under the other policy:\n", clock(d["at"]))
	return e.gates(items(d, "gates"), "  ")
}
