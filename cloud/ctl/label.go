package ctl

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func (e *env) label() *cobra.Command {
	c := &cobra.Command{Use: "label", Short: "Label devices, and say what their data was"}
	c.AddCommand(e.mutating(&cobra.Command{
		Use: "device SITE/NODE KEY=VALUE... KEY-...", Short: "Set labels of a device, or take them off", Args: args(cobra.MinimumNArgs(2)), ValidArgsFunction: e.names("devices"),
		Long:    "device sets labels with KEY=VALUE and takes them off with KEY-. Policies select\ndevices by labels: try with --dry-run first.",
		Example: "  swellctl label device hall-1/press-03 shift=night spare-",
		RunE: func(c *cobra.Command, a []string) error {
			k, err := kindOf("devices")
			if err != nil {
				return err
			}
			path, err := k.one(a[0])
			if err != nil {
				return err
			}
			set, off := map[string]string{}, []string{}
			for _, s := range a[1:] {
				key, value, ok := strings.Cut(s, "=")
				bare := strings.TrimSuffix(s, "-")
				switch {
				case ok && key != "":
					set[key] = value
				case !ok && bare != s && bare != "":
					off = append(off, bare)
				default:
					return usage("%q is neither KEY=VALUE nor KEY-", s)
				}
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPatch, path+"/labels", e.query(), object{"set": set, "remove": off}, &o); err != nil {
				return err
			}
			var said []string
			labels, _ := at(o, "metadata.labels").(object)
			for _, key := range sortedKeys(labels) {
				said = append(said, fmt.Sprintf("%s=%v", key, labels[key]))
			}
			fmt.Fprintf(e.err, "Device %s %s labelled: %s\n", a[0], e.is(), strings.Join(said, " "))
			return nil
		},
	}, true), e.labelAdd(), e.labelList())
	return c
}
