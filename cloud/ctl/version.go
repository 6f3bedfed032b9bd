package ctl

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// versionPath is the path of a release id such as pump-anomaly-7.
func versionPath(id string) (string, error) {
	family, counter, ok := cutLast(id, "-")
	if _, err := strconv.ParseUint(counter, 10, 64); !ok || err != nil || strings.Contains(family, "/") {
		return "", usage("%q is no release id such as pump-anomaly-7", id)
	}
	return "/models/" + url.PathEscape(family) + "/versions/" + counter, nil
}

// reading runs f with the answer of a path under a release's.
func (e *env) reading(c *cobra.Command, id, under string, q url.Values, f func(object) error) error {
	path, err := versionPath(id)
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
	if err := h.get(ctx, path+under, q, &o); err != nil {
		return err
	}
	if e.output != "table" && e.output != "wide" {
		return e.answer(o)
	}
	return f(o)
}

func (e *env) modelShow() *cobra.Command {
	return &cobra.Command{
		Use: "show RELEASE", Short: "Show a version: what it is, its metrics and its card", Args: args(cobra.ExactArgs(1)),
		Example: "  swellctl model show pump-anomaly-1",
		RunE: func(c *cobra.Command, a []string) error {
			return e.reading(c, a[0], "", nil, func(o object) error {
				t := e.newTable("RELEASE", cell(at(o, "spec.release")))
				for _, f := range [][2]string{
					{"state", "status.state"}, {"detector", "spec.detector"}, {"classes", "spec.classes"}, {"threshold", "spec.threshold"}, {"runs on", "status.runsOn.champion"},
					{"made", "metadata.createdAt"}, {"run", "spec.lineage.run"}, {"parent", "spec.lineage.parent"}, {"data from", "spec.lineage.from"}, {"data to", "spec.lineage.to"},
					{"devices in it", "spec.lineage.devices"}, {"snapshot", "spec.lineage.snapshot"}, {"digest", "spec.release.digest"},
				} {
					if v := at(o, f[1]); v != nil {
						t.row(f[0], cell(v))
					}
				}
				if err := t.flush(); err != nil {
					return err
				}
				if metrics := objects(at(o, "status.metrics")); len(metrics) > 0 {
					fmt.Fprintln(e.out)
					t = e.newTable("METRIC", "ON", "VALUE", "PARENT")
					for _, m := range metrics {
						t.row(cell(at(m, "name")), cell(at(m, "slice")), cell(at(m, "value")), cell(at(m, "champion")))
					}
					if err := t.flush(); err != nil {
						return err
					}
				}
				if card, ok := at(o, "spec.card").(string); ok {
					fmt.Fprintf(e.out, "\n%s\n", strings.TrimSpace(card))
				}
				return nil
			})
		},
	}
}

func (e *env) modelCompare() *cobra.Command {
	return &cobra.Command{
		Use: "compare RELEASE RELEASE", Short: "Set two versions of a family side by side", Args: args(cobra.ExactArgs(2)),
		Long:    "compare shows the metrics of both, each measured in the night that made it, and\nwhat differs in how and of what they were made. The better value has a star.",
		Example: "  swellctl model compare pump-anomaly-1 pump-anomaly-1",
		RunE: func(c *cobra.Command, a []string) error {
			if _, err := versionPath(a[1]); err != nil {
				return err
			}
			family, _, _ := cutLast(a[0], "-")
			other, counter, _ := cutLast(a[1], "-")
			if family != other {
				return usage("%s and %s are of two families: compare versions of one", a[0], a[1])
			}
			return e.reading(c, a[0], "/compare", url.Values{"with": {counter}}, func(o object) error {
				star := func(m object, side, key string) string {
					text := cell(at(m, key))
					if at(m, "better") == side {
						text += " *"
					}
					return text
				}
				t := e.newTable("METRIC", "ON", a[0], a[1])
				for _, m := range objects(at(o, "metrics")) {
					t.row(cell(at(m, "name")), cell(at(m, "slice")), star(m, "this", "value"), star(m, "other", "with"))
				}
				for _, d := range objects(at(o, "differences")) {
					t.row(cell(at(d, "name")), "-", cell(at(d, "value")), cell(at(d, "with")))
				}
				return t.flush()
			})
		},
	}
}

func (e *env) modelLineage() *cobra.Command {
	var segment string
	c := &cobra.Command{
		Use: "lineage [RELEASE]", Short: "Show what a version came from and who runs it, or who learned from a segment", Args: args(cobra.MaximumNArgs(1)),
		Long:    "lineage goes both ways: from a release down to the segments it learned from, and\nwith --segment from a segment to every release it touched.",
		Example: "  swellctl model lineage pump-anomaly-1",
		RunE: func(c *cobra.Command, a []string) error {
			if (len(a) == 0) == (segment == "") {
				return usage("name either a release or --segment DIGEST")
			}
			if segment != "" {
				k := kind{name: "releases that learned from this segment", columns: []column{{"RELEASE", "id", false}, {"DIGEST", "digest", false}}}
				return e.wholeList(c, k, "/segments/"+url.PathEscape(segment)+"/releases")
			}
			return e.reading(c, a[0], "/lineage", nil, func(o object) error {
				e.drawLineage(o)
				return nil
			})
		},
	}
	c.Flags().StringVar(&segment, "segment", "", "digest of a segment: list the releases that learned from it")
	return c
}

// drawLineage draws a version's lineage as a tree, what came last on top.
func (e *env) drawLineage(o object) {
	line := func(depth int, format string, a ...any) {
		fmt.Fprintf(e.out, "%s%s\n", strings.Repeat("   ", max(depth-1, 0))+map[bool]string{true: "└─ ", false: ""}[depth > 0], fmt.Sprintf(format, a...))
	}
	list, _ := at(o, "devices").([]any)
	line(0, "%d devices run it now%s", len(list), names(list, 5))
	line(1, "release %s  %s", cell(at(o, "release")), cell(at(o, "release.digest")))
	for _, child := range objects(at(o, "children")) {
		line(2, "was replaced by %s", cell(child))
	}
	if p := at(o, "lineage.parent"); p != nil {
		line(2, "replaces %s", cell(p))
	}
	if at(o, "lineage.run") == nil {
		line(2, "imported: no run of this hub made it")
		return
	}
	line(2, "run %s  seed %s  code %s  configuration %s", cell(at(o, "lineage.run")), cell(at(o, "lineage.seed")), cell(at(o, "lineage.code")), cell(at(o, "lineage.config")))
	line(3, "snapshot %s  %s to %s", cell(at(o, "lineage.snapshot")), cell(at(o, "lineage.from")), cell(at(o, "lineage.to")))
	for _, f := range [][2]string{{"labels", "labels"}, {"frames", "frames"}} {
		if v := at(o, f[1]); v != nil {
			line(4, "%s %s", cell(v), f[0])
		}
	}
	segments := objects(at(o, "segments"))
	line(4, "%d segments", len(segments))
	for i, s := range segments {
		if i == 20 && e.output != "wide" {
			line(5, "and %d more: see -o wide", len(segments)-i)
			break
		}
		line(5, "%s  %s  %s rows", cell(at(s, "digest")), cell(at(s, "device")), cell(at(s, "rows")))
	}
}

func names(list []any, most int) string {
	var out []string
	for i, v := range list {
		if i == most {
			out = append(out, "…")
			break
		}
		out = append(out, fmt.Sprint(v))
	}
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, ", ")
}

func (e *env) modelCollect() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "gc", Short: "Remove models, snapshots and frames that nothing needs any more", Args: args(cobra.NoArgs),
		Long:    "gc says what it would remove. With --remove it does. What a device runs, may go\nback to, or a kept version came from always stays.",
		Example: "  swellctl model gc",
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			q := e.query()
			q.Set("dryRun", strconv.FormatBool(!remove))
			var o object
			if err := h.do(ctx, http.MethodPost, "/models/actions/collect", q, nil, &o); err != nil {
				return err
			}
			if e.output != "table" && e.output != "wide" {
				return e.answer(o)
			}
			t := e.newTable("KIND", map[bool]string{true: "REMOVED", false: "WOULD GO"}[remove], "BYTES", "KEPT")
			for _, k := range objects(at(o, "items")) {
				t.row(cell(at(k, "kind")), cell(at(k, "removed")), cell(at(k, "bytes")), cell(at(k, "kept")))
			}
			return t.flush()
		},
	}
	c.Flags().StringVar(&e.reason, "reason", "", "why, for the audit log")
	c.Flags().BoolVar(&remove, "remove", false, "remove it, where otherwise it is only said")
	return c
}
