package ctl

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

func (e *env) remove() *cobra.Command {
	return e.mutating(&cobra.Command{
		Use: "delete KIND NAME --reason WHY", Short: "Retire a device, revoke a token, delete a user", Args: args(cobra.ExactArgs(2)), ValidArgsFunction: e.names(""),
		Long: `delete takes something out of use, for good:

  device SITE/NODE  its certificate is revoked and it gets nothing more; its history stays
  token ID          nobody can enrol with it any more
  apitoken ID       calls with it are refused
  user NAME         with their sessions and tokens`,
		Example: "  swellctl delete device hall-1/press-03 --reason 'scrapped' --dry-run",
		RunE: func(c *cobra.Command, a []string) error {
			k, err := kindOf(a[0])
			if err != nil {
				return err
			}
			if k.remove == "" {
				return usage("%s cannot be deleted: devices, tokens, apitokens and users can", k.name)
			}
			if e.reason == "" {
				return errNoReason
			}
			if e.dryRun && k.listed {
				return usage("the hub cannot try the revocation of %s: leave out --dry-run", k.name)
			}
			path, err := k.one(a[1])
			if err != nil {
				return err
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			if err := h.do(ctx, http.MethodDelete, path, e.query(), nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "%s %s %s %s.\n", k.object, a[1], e.is(), k.remove)
			return nil
		},
	}, true)
}

// errNoReason asks for what the audit log must have.
var errNoReason = usage("say why with --reason: it goes into the audit log")

// is says whether something was done or only tried.
func (e *env) is() string {
	if e.dryRun {
		return "would be"
	}
	return "is"
}
