package ctl

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
)

// errDiffers is the outcome of a comparison, and exit code 1.
var errDiffers = errors.New("the hub has something else than the file")

func (e *env) diff() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "diff -f FILE", Short: "Show what apply would change", Args: args(cobra.NoArgs),
		Long: `diff asks the hub what each document of the file would become and compares that
with what is there, so defaults and spelling make no difference. It changes
nothing. Exit code 0: no difference; 1: there is one.`,
		Example: "  swellctl diff -f policies.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			docs, err := e.policies(file)
			if err != nil {
				return err
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			differs := false
			for _, d := range docs {
				var before, after object
				err := h.get(ctx, d.path, nil, &before)
				if p, ok := errors.AsType[*Problem](err); ok && p.Status == http.StatusNotFound {
					err = nil
				}
				if err == nil {
					err = h.do(ctx, http.MethodPut, d.path, url.Values{"dryRun": {"true"}}, d.doc, &after)
				}
				if err != nil {
					return fmt.Errorf("compare %s %s: %w", d.kind.object, d.name, err)
				}
				was, err := wish(before)
				if err != nil {
					return err
				}
				is, err := wish(after)
				if err != nil {
					return err
				}
				if out := diff.Diff(d.kind.object+"/"+d.name+" at the hub", was, d.kind.object+"/"+d.name+" in "+file, is); len(out) > 0 {
					differs = true
					if _, err := e.out.Write(out); err != nil {
						return err
					}
				}
			}
			if differs {
				return errDiffers
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "YAML or JSON file; - is standard input")
	return c
}

// wish is the part of an object that people write, as YAML.
func wish(o object) ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	meta := object{"name": at(o, "metadata.name")}
	if l, ok := at(o, "metadata.labels").(object); ok {
		meta["labels"] = l
	}
	var b bytes.Buffer
	err := writeYAML(&b, object{"apiVersion": o["apiVersion"], "kind": o["kind"], "metadata": meta, "spec": o["spec"]})
	return b.Bytes(), err
}
