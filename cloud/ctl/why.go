package ctl

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (e *env) rolloutWhy() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "why ROLLOUT", Short: "Explain what the planner decided, from the stored evidence", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("rollouts"),
		Long: `why shows each decision that changed or held something, newest first: when, in
which wave, what it came to and why in one paragraph, and every gate with its
value, what it must be, how much was counted, and its e-values. -o wide shows
whole sentences; -o json and yaml show the evidence of each decision, every
device as the planner saw it.`,
		Example: "  swellctl rollout why pump-anomaly-1",
		RunE: func(c *cobra.Command, a []string) error {
			if limit < 1 || limit > 10000 {
				return usage("--limit %d: want 1 to 10000", limit)
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			k, err := kindOf("rollouts")
			if err != nil {
				return err
			}
			ro, err := h.find(ctx, k, a[0])
			if err != nil {
				return err
			}
			var page struct {
				Items      []object `json:"items"`
				NextCursor string   `json:"nextCursor"`
			}
			if err := h.get(ctx, "/rollouts/"+url.PathEscape(a[0])+"/decisions", url.Values{"limit": {strconv.Itoa(limit)}}, &page); err != nil {
				return err
			}
			if e.output == "json" || e.output == "yaml" {
				for i, d := range page.Items {
					if err := h.get(ctx, "/rollouts/"+url.PathEscape(a[0])+"/decisions/"+url.PathEscape(cell(d["id"])), nil, &page.Items[i]); err != nil {
						return err
					}
				}
			}
			if e.output != "table" && e.output != "wide" {
				return e.show(kind{columns: []column{{path: "id"}}}, page.Items, false)
			}
			fmt.Fprintf(e.out, "%s of %s under %s is %s: %s\n", a[0], cell(at(ro, "spec.release")), cell(at(ro, "spec.policy")), stateOf(ro), cell(at(ro, "status.message")))
			for _, d := range page.Items {
				fmt.Fprintln(e.out)
				if err := e.decision(ro, d); err != nil {
					return err
				}
			}
			if page.NextCursor != "" {
				fmt.Fprintln(e.err, "There are older decisions: ask for more with --limit.")
			}
			return nil
		},
	}
	c.Flags().IntVar(&limit, "limit", 20, "how many decisions, newest first")
	return c
}

// decision prints one decision of a rollout.
func (e *env) decision(ro, d object) error {
	head := clock(at(d, "at"))
	if i, ok := d["wave"].(float64); ok {
		if name := waveName(ro, int(i)); name != "" {
			head += "  wave " + name
		}
	}
	state := cell(d["state"])
	if before := cell(d["stateBefore"]); d["stateBefore"] != nil && before != state {
		state = before + " → " + state
	}
	head += "  " + state
	if d["actor"] != nil {
		head += "  by " + cell(d["actor"])
	}
	fmt.Fprintln(e.out, head)
	fmt.Fprintln(e.out, wrap(sentence(d), "  "))
	for _, n := range []struct{ key, text string }{{"assigned", "offered or leased: "}, {"revoked", "called back: "}} {
		if names, _ := d[n.key].([]any); len(names) > 0 {
			fmt.Fprintln(e.out, wrap(n.text+join(names), "  "))
		}
	}
	return e.gates(items(d, "gates"), "    ")
}

// gates prints gates with their numbers.
func (e *env) gates(gates []any, indent string) error {
	if len(gates) == 0 {
		return nil
	}
	t := e.newTable("VERDICT", "GATE", "VALUE", "MUST BE", "COUNTED", "E-VALUE", "WHY")
	t.indent = indent
	for _, g := range gates {
		must := "-"
		if th := at(g, "threshold"); th != nil {
			must = strings.TrimSpace(fmt.Sprintf("%v %s", orEmpty(at(g, "comparison")), cell(th)))
		}
		counted := "-"
		if n := at(g, "n"); n != nil {
			counted = strings.TrimSpace(cell(n) + " " + orEmpty(at(g, "nUnit")))
		}
		evidence := "-"
		if limit := at(g, "eLimit"); limit != nil && at(g, "eHarm") != nil {
			evidence = fmt.Sprintf("harm %s safe %s of %s", cell(at(g, "eHarm")), cell(at(g, "eSafe")), cell(limit))
		}
		value := strings.TrimSpace(cell(at(g, "value")) + " " + orEmpty(at(g, "unit")))
		t.row(cell(at(g, "verdict")), gateName(g), value, must, counted, evidence, cell(at(g, "message")))
	}
	return t.flush()
}

// sentence says what was decided and why in one go: the state, the planner's
// summary, the gates that decided with their numbers, and what else it minded.
func sentence(d object) string {
	summary := strings.TrimRight(cell(d["summary"]), ".")
	said := []string{summary}
	if state := cell(d["state"]); !strings.Contains(summary, state) {
		said[0] = state + ": " + summary
	}
	for _, want := range []string{"FAIL", "INCONCLUSIVE"} {
		for _, g := range items(d, "gates") {
			if message := cell(at(g, "message")); cell(at(g, "verdict")) == want && !strings.Contains(summary, message) {
				said = append(said, gateName(g)+": "+message)
			}
		}
		if len(said) > 1 {
			break // where one fails, those that wait explain nothing
		}
	}
	for _, r := range items(d, "reasons") {
		if text := strings.TrimRight(fmt.Sprint(r), "."); !slices.Contains(said, text) && text != summary {
			said = append(said, text)
		}
	}
	return strings.Join(said, "; ") + "."
}

func orEmpty(v any) string {
	s, _ := v.(string)
	return s
}

// waveName is empty before the first wave and after the last.
func waveName(ro object, i int) string {
	waves, _ := at(ro, "status.waves").([]any)
	if i < 0 || i >= len(waves) {
		return ""
	}
	return cell(at(waves[i], "name"))
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
