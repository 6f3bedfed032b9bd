package ctl

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// errRefused is the outcome of a preview of what would not be started.
var errRefused = errors.New("this rollout would be refused")

func (e *env) rolloutPreview() *cobra.Command {
	var policy, file string
	c := &cobra.Command{
		Use: "preview RELEASE --policy POLICY", Short: "Show what a rollout would do if it were started now", Args: args(cobra.ExactArgs(1)),
		Long: `preview shows who would be in which wave, what the disruption budgets allow now,
when maintenance windows open, and roughly when it would end at the earliest. It
changes nothing. A policy that is not at the hub yet is read with -f. -o wide
names the devices. Exit code 1: the hub would refuse to start it.`,
		Example: "  swellctl rollout preview pump-anomaly-1 --policy careful\n  swellctl rollout preview pump-anomaly-1 -f policies.yaml",
		RunE: func(c *cobra.Command, a []string) error {
			body, err := e.policyOrFile(policy, file)
			if err != nil {
				return err
			}
			body["release"] = a[0]
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/rollouts/preview", nil, body, &o); err != nil {
				return err
			}
			if err := e.showPreview(o); err != nil {
				return err
			}
			if refusals, _ := o["refusals"].([]any); len(refusals) > 0 {
				return fmt.Errorf("%w: %v", errRefused, refusals[0])
			}
			return nil
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "rollout policy at the hub")
	c.Flags().StringVarP(&file, "filename", "f", "", "file with a rollout policy instead; - is standard input")
	return c
}

// policyOrFile is the part of a request that names a policy, or holds the first
// rollout policy of a file.
func (e *env) policyOrFile(policy, file string) (object, error) {
	switch {
	case policy != "" && file != "":
		return nil, usage("give --policy or -f, not both")
	case policy != "":
		return object{"policy": policy}, nil
	case file == "":
		return nil, usage("name a policy with --policy ('swellctl get rolloutpolicies' lists them), or a file with -f")
	}
	docs, err := e.policies(file)
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		if d.kind.object == "RolloutPolicy" {
			return object{"policySpec": d.doc["spec"]}, nil
		}
	}
	return nil, usage("%s holds no RolloutPolicy", file)
}

// showPreview prints a preview as tables.
func (e *env) showPreview(o object) error {
	switch e.output {
	case "json", "yaml":
		return e.answer(o)
	case "name":
		for _, w := range items(o, "waves") {
			for _, n := range items(w, "names") {
				fmt.Fprintln(e.out, n)
			}
		}
		return nil
	}
	under := "under the file's policy"
	if o["policy"] != nil {
		under = "under " + cell(o["policy"])
	}
	fmt.Fprintf(e.out, "%s %s: %s\n", cell(o["release"]), under, cell(o["message"]))
	sum := []string{fmt.Sprintf("%d devices take part", number(o, "devices"))}
	if back := at(o, "rollbackTo.id"); back != nil {
		sum = append(sum, "they go back to "+cell(back)+" if it fails")
	} else {
		sum = append(sum, "there is no release before to go back to")
	}
	if end := o["finishAt"]; end != nil {
		sum = append(sum, "all well, it ends about "+clock(end))
	}
	fmt.Fprintf(e.out, "%s.\n", strings.Join(sum, "; "))
	for _, r := range items(o, "refusals") {
		fmt.Fprintln(e.out, wrap("REFUSED: "+cell(r), ""))
	}
	if err := e.previewWaves(o); err != nil {
		return err
	}
	if err := e.showBudgets(items(o, "budgets")); err != nil {
		return err
	}
	if err := e.showWindows(items(o, "windows")); err != nil {
		return err
	}
	excluded := items(o, "excluded")
	if len(excluded) == 0 {
		return nil
	}
	fmt.Fprintln(e.out)
	t := e.newTable("LEFT OUT", "WHY")
	for _, x := range excluded {
		t.row(cell(at(x, "devices")), cell(at(x, "reason")))
	}
	return t.flush()
}

func (e *env) previewWaves(o object) error {
	waves := items(o, "waves")
	if len(waves) == 0 {
		return nil
	}
	fmt.Fprintln(e.out)
	t := e.newTable("WAVE", "DEVICES", "LINES", "SOAK", "APPROVALS", "NOT BEFORE")
	for _, w := range waves {
		var lines []string
		for _, l := range items(w, "lines") {
			name := cell(at(l, "line"))
			if name == "-" {
				name = "no line"
			}
			lines = append(lines, fmt.Sprintf("%s %d", name, number(l, "devices")))
		}
		approvals := cell(at(w, "approvals"))
		if by := items(w, "approvers"); len(by) > 0 {
			approvals += " of " + join(by)
		}
		t.row(cell(at(w, "name")), cell(at(w, "devices")), orDash(strings.Join(lines, ", ")), duration(at(w, "soakSeconds")), approvals, orDash(clock(at(w, "startAt"))))
	}
	if err := t.flush(); err != nil || e.output != "wide" {
		return err
	}
	for _, w := range waves {
		fmt.Fprintln(e.out)
		names := items(w, "names")
		fmt.Fprintf(e.out, "%s:\n", cell(at(w, "name")))
		words := make([]string, len(names))
		for i, n := range names {
			words[i] = fmt.Sprint(n)
		}
		fmt.Fprintln(e.out, wrap(strings.Join(words, ", "), "  "))
		if more := number(w, "devices") - len(names); more > 0 {
			fmt.Fprintf(e.out, "  and %d more\n", more)
		}
	}
	return nil
}

// showBudgets prints what each group may lose and has lost.
func (e *env) showBudgets(groups []any) error {
	if len(groups) == 0 {
		return nil
	}
	fmt.Fprintln(e.out)
	t := e.newTable("BUDGET", "DEVICES", "MAY BE AWAY", "ARE AWAY", "ROOM")
	for _, g := range groups {
		limit, away := number(g, "limit"), number(g, "unavailable")
		t.row(fmt.Sprintf("%s=%s", cell(at(g, "groupBy")), orEmpty(at(g, "group"))), cell(at(g, "devices")), strconv.Itoa(limit), strconv.Itoa(away), strconv.Itoa(max(limit-away, 0)))
	}
	return t.flush()
}

// showWindows prints which devices may activate when.
func (e *env) showWindows(groups []any) error {
	if len(groups) == 0 {
		return nil
	}
	fmt.Fprintln(e.out)
	t := e.newTable("WINDOW", "ZONE", "DEVICES", "OPEN", "CHANGES")
	for _, g := range groups {
		names := cell(at(g, "names"))
		if names == "-" {
			names = "none: they never activate"
		}
		t.row(names, cell(at(g, "zone")), cell(at(g, "devices")), cell(at(g, "open")), orDash(clock(at(g, "changeAt"))))
	}
	return t.flush()
}

// items is a list in an answer; nil where there is none.
func items(o any, path string) []any {
	list, _ := at(o, path).([]any)
	return list
}

// duration is a number of seconds for people.
func duration(v any) string {
	s, ok := v.(float64)
	if !ok {
		return "-"
	}
	return time.Duration(s * float64(time.Second)).String()
}
