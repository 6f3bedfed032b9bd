package ctl

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

func (e *env) freeze() *cobra.Command {
	var selector, from, until string
	var length time.Duration
	c := &cobra.Command{
		Use: "freeze NAME --reason WHY", Short: "Let no rollout touch devices for a while", Args: args(cobra.ExactArgs(1)),
		Long: `freeze stops every rollout at the devices it matches: nothing new is offered to
them and none may activate. What is under way goes back if it must: ways back
stay open. Without --until or --for it holds until 'swellctl unfreeze'.`,
		Example: "  swellctl freeze stocktaking -l line=l1 --for 8h --reason 'stocktaking in hall 1'",
		RunE: func(c *cobra.Command, a []string) error {
			if e.reason == "" {
				return errNoReason
			}
			body := object{"name": a[0], "selector": selector}
			begin := time.Now()
			for _, m := range []struct{ flag, field, text string }{{"from", "from", from}, {"until", "until", until}} {
				if m.text == "" {
					continue
				}
				t, err := moment(m.text)
				if err != nil {
					return usage("--%s: %w", m.flag, err)
				}
				if m.field == "from" {
					begin = t
				}
				body[m.field] = t.UTC()
			}
			switch {
			case length != 0 && until != "":
				return usage("give --until or --for, not both")
			case length < 0:
				return usage("--for %s: want more than 0", length)
			case length > 0:
				body["until"] = begin.Add(length).UTC()
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/freezes", e.query(), body, &o); err != nil {
				return err
			}
			end := "until it is lifted"
			if o["until"] != nil {
				end = "until " + clock(o["until"])
			}
			fmt.Fprintf(e.err, "Freeze %s %s in force for %d devices, %s.\n", a[0], e.is(), number(o, "devices"), end)
			return e.answer(o)
		},
	}
	c.Flags().StringVarP(&selector, "selector", "l", "", "labels of the devices, as in 'line=l1' (default all)")
	c.Flags().StringVar(&from, "from", "", "when it begins, as in 2026-12-24 or '2026-12-24 18:00' (default now)")
	c.Flags().StringVar(&until, "until", "", "when it ends (default when it is lifted)")
	c.Flags().DurationVar(&length, "for", 0, "how long it lasts, instead of --until")
	return e.mutating(c, true)
}

// moment reads a date or a time, local where it names no zone.
func moment(text string) (time.Time, error) {
	for _, form := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write it as 2026-12-24, '2026-12-24 18:00' or 2026-12-24T18:00:00+01:00", text)
}

func (e *env) unfreeze() *cobra.Command {
	return e.mutating(&cobra.Command{
		Use: "unfreeze NAME --reason WHY", Short: "Lift a freeze", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("freezes"),
		Example: "  swellctl unfreeze stocktaking --reason 'counted'",
		RunE: func(c *cobra.Command, a []string) error {
			if err := e.lift(c, "/freezes/"+url.PathEscape(a[0])); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "Freeze %s %s lifted.\n", a[0], e.is())
			return nil
		},
	}, true)
}

// lift ends a standing order.
func (e *env) lift(c *cobra.Command, path string) error {
	if e.reason == "" {
		return errNoReason
	}
	h, err := e.hub()
	if err != nil {
		return err
	}
	ctx, cancel := e.within(c.Context())
	defer cancel()
	return h.do(ctx, http.MethodDelete, path, e.query(), nil, nil)
}

func (e *env) quarantine() *cobra.Command {
	c := &cobra.Command{Use: "quarantine", Short: "Keep releases from every rollout"}
	add := e.mutating(&cobra.Command{
		Use: "add RELEASE --reason WHY", Short: "Put a release into quarantine", Args: args(cobra.ExactArgs(1)),
		Long: `add keeps a release, named as FAMILY-COUNTER or by the digest of its manifest, from
every rollout. One that offers it goes back, whatever its state.`,
		Example: "  swellctl quarantine add pump-anomaly-1 --reason 'learned from a broken sensor'",
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
			if err := h.do(ctx, http.MethodPost, "/quarantine", e.query(), object{"release": a[0]}, &o); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "Release %s (%s) %s in quarantine.\n", cell(o["release"]), cell(o["digest"]), e.is())
			return e.answer(o)
		},
	}, true)
	list := &cobra.Command{
		Use: "list", Short: "List what is in quarantine", Args: args(cobra.NoArgs),
		Example: "  swellctl quarantine list",
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			k, err := kindOf("quarantine")
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			all, err := h.list(ctx, k.path, nil)
			if err != nil {
				return err
			}
			return e.showAll(k, all, false)
		},
	}
	lift := e.mutating(&cobra.Command{
		Use: "lift RELEASE --reason WHY", Short: "Take a release out of quarantine", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("quarantine"),
		Example: "  swellctl quarantine lift pump-anomaly-1 --reason 'the sensor was fine'",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			k, err := kindOf("quarantine")
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			digest := a[0]
			if o, err := h.find(ctx, k, a[0]); err == nil {
				digest, _ = o["digest"].(string)
			} else if len(digest) < len("sha256:") || digest[:len("sha256:")] != "sha256:" {
				return err
			}
			if err := e.lift(c, "/quarantine/"+url.PathEscape(digest)); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "Release %s %s out of quarantine.\n", a[0], e.is())
			return nil
		},
	}, true)
	c.AddCommand(add, list, lift)
	return c
}
