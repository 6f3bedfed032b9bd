package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/cloud/api/apigen"
)

func (e *env) explain() *cobra.Command {
	return &cobra.Command{
		Use: "explain KIND[.FIELD...]", Short: "Say what the fields of a kind mean", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names(""),
		Long:    "explain reads the REST contract that is built into swellctl; it needs no hub.",
		Example: "  swellctl explain rolloutpolicy.spec.waves",
		RunE: func(_ *cobra.Command, a []string) error {
			name, path, _ := strings.Cut(a[0], ".")
			k, err := kindOf(name)
			if err != nil {
				return err
			}
			spec, err := apigen.GetSpec()
			if err != nil {
				return fmt.Errorf("read the built-in contract: %w", err)
			}
			at := k.object
			ref := spec.Components.Schemas[k.object]
			said := "" // what the field says of itself, beside what its type says
			if ref == nil {
				return fmt.Errorf("the built-in contract has no %s", k.object)
			}
			for part := range strings.SplitSeq(path, ".") {
				if part == "" {
					continue
				}
				s := inner(ref.Value)
				next := s.Properties[part]
				if next == nil {
					return usage("%s has no field %q: there are %s", at, part, strings.Join(sortedKeys(s.Properties), ", "))
				}
				ref, at, said = next, at+"."+part, next.Value.Description
			}
			e.explainSchema(at, said, ref.Value)
			return nil
		},
	}
}

// inner is the schema of what a list holds, or s itself.
func inner(s *openapi3.Schema) *openapi3.Schema {
	for s.Type.Is("array") && s.Items != nil {
		s = s.Items.Value
	}
	return s
}

func (e *env) explainSchema(at, said string, s *openapi3.Schema) {
	fmt.Fprintf(e.out, "%s  <%s>\n", at, typeOf(s))
	of := inner(s)
	for _, text := range slices.Compact([]string{said, s.Description, of.Description}) {
		if text != "" {
			fmt.Fprintln(e.out, wrap(text, "  "))
		}
	}
	if len(of.Enum) > 0 {
		fmt.Fprintln(e.out, wrap("One of: "+strings.Trim(fmt.Sprint(of.Enum), "[]"), "  "))
	}
	if len(of.Properties) == 0 {
		return
	}
	fmt.Fprintln(e.out, "\nFIELDS")
	for _, name := range sortedKeys(of.Properties) {
		p := of.Properties[name].Value
		must := ""
		if slices.Contains(of.Required, name) {
			must = "  required"
		}
		fmt.Fprintf(e.out, "  %s  <%s>%s\n", name, typeOf(p), must)
		if p.Description != "" {
			fmt.Fprintln(e.out, wrap(p.Description, "      "))
		}
	}
}

func typeOf(s *openapi3.Schema) string {
	switch {
	case s.Type.Is("array") && s.Items != nil:
		return "list of " + typeOf(s.Items.Value)
	case s.Type.Is("object") && s.AdditionalProperties.Schema != nil:
		return "map of " + typeOf(s.AdditionalProperties.Schema.Value)
	case s.Format == "date-time":
		return "time"
	}
	return strings.Join(s.Type.Slice(), " or ")
}

// wrap breaks text into indented lines of at most 80 characters.
func wrap(text, indent string) string {
	var lines []string
	line := ""
	for _, w := range strings.Fields(text) {
		if line != "" && len(indent)+len(line)+1+len(w) > 80 {
			lines = append(lines, indent+line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	return strings.Join(append(lines, indent+line), "\n")
}
