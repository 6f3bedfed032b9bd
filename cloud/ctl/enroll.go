package ctl

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/protocol/topic"
)

func (e *env) enroll() *cobra.Command {
	var class, line string
	var ttl time.Duration
	tok := e.mutating(&cobra.Command{
		Use: "token SITE/NODE --class CLASS", Short: "Make a single-use token with which one device may enrol", Args: args(cobra.ExactArgs(1)),
		Example: "  swellctl enroll token hall-1/press-03 --class press --line l1",
		RunE: func(c *cobra.Command, a []string) error {
			id, err := topic.ParseID(a[0])
			if err != nil {
				return usage("%w", err)
			}
			if class == "" {
				return usage("name the device class with --class: it decides which variant of a release fits")
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			body := object{"site": id.Site, "node": id.Node, "class": class, "ttlSeconds": int64(ttl.Seconds())}
			if line != "" {
				body["line"] = line
			}
			if e.dryRun { // the hub's answer to a trial holds no secret
				if err := h.do(ctx, http.MethodPost, "/enrollment-tokens", e.query(), body, nil); err != nil {
					return err
				}
				fmt.Fprintf(e.err, "A token for %s would be made.\n", id)
				return nil
			}
			var made struct {
				Secret string `json:"secret"`
			}
			if err := h.do(ctx, http.MethodPost, "/enrollment-tokens", e.query(), body, &made); err != nil {
				return err
			}
			fmt.Fprintln(e.out, made.Secret)
			fmt.Fprintf(e.err, "Good once, for %s, within %s. It is not shown again.\n", id, ttl)
			return nil
		},
	}, true)
	tok.Flags().StringVar(&class, "class", "", "device class")
	tok.Flags().StringVar(&line, "line", "", "production line, for disruption budgets")
	tok.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is good for")
	c := &cobra.Command{Use: "enroll", Short: "Let devices in"}
	c.AddCommand(tok)
	return c
}
