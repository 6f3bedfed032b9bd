package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// kind says how objects of a kind are reached and shown.
type kind struct {
	name    string // plural, as in `get devices`
	object  string // kind field of the object
	aliases []string
	path    string
	columns []column
	apply   bool // `apply` may put it
}

// column is one column of the table: a header and the dotted path of its value.
type column struct {
	head string
	path string
	wide bool // shown with -o wide only
}

var kinds = []kind{
	{name: "devices", object: "Device", aliases: []string{"device", "dev"}, path: "/devices", columns: []column{
		{"NAME", "metadata.name", false}, {"CLASS", "spec.class", false}, {"LINE", "spec.line", false}, {"STATE", "status.state", false},
		{"RELEASE", "status.release", false}, {"ATTESTED", "status.attestedDigest", false}, {"SCORED", "status.windowsScored", false}, {"LOST", "status.windowsLost", false},
		{"SEEN", "status.lastSeenAt", false}, {"PHASE", "status.phase", true}, {"AGENT", "status.agentVersion", true},
	}},
	{name: "models", object: "Model", aliases: []string{"model"}, path: "/models", columns: []column{
		{"NAME", "metadata.name", false}, {"PROMOTED", "status.promoted", false}, {"NEWEST", "status.newest", false}, {"VERSIONS", "status.versions", false},
	}},
	{name: "rollouts", object: "Rollout", aliases: []string{"rollout", "ro"}, path: "/rollouts", columns: []column{
		{"NAME", "metadata.name", false}, {"RELEASE", "spec.release", false}, {"POLICY", "spec.policy", false}, {"STATE", "status.state", false},
		{"DONE", "status.counts.done", false}, {"OF", "status.counts.devices", false}, {"FAILED", "status.counts.failed", false}, {"STARTED", "status.startedAt", false}, {"MESSAGE", "status.message", true},
	}},
	{name: "rolloutpolicies", object: "RolloutPolicy", aliases: []string{"rolloutpolicy", "rollout-policies"}, path: "/rollout-policies", apply: true, columns: []column{
		{"NAME", "metadata.name", false}, {"SELECTOR", "spec.selector", false}, {"DEVICES", "status.devices", false},
	}},
	{name: "retrainpolicies", object: "RetrainPolicy", aliases: []string{"retrainpolicy", "retrain-policies"}, path: "/retrain-policies", apply: true, columns: []column{
		{"NAME", "metadata.name", false}, {"MODEL", "spec.model", false}, {"SELECTOR", "spec.selector", false}, {"SCHEDULE", "spec.schedule.cron", false}, {"NEXT", "status.nextRunAt", false},
	}},
	{name: "runs", object: "TrainingRun", aliases: []string{"run", "trainingruns", "nights"}, path: "/training-runs", columns: []column{
		{"NAME", "metadata.name", false}, {"MODEL", "spec.model", false}, {"STATE", "status.state", false}, {"STARTED", "status.startedAt", false}, {"RELEASE", "status.release", false}, {"SUMMARY", "status.summary", true},
	}},
	{name: "tokens", object: "EnrollmentToken", aliases: []string{"token", "enrollment-tokens"}, path: "/enrollment-tokens", columns: []column{
		{"ID", "id", false}, {"SITE", "site", false}, {"NODE", "node", false}, {"CLASS", "class", false}, {"STATE", "state", false}, {"EXPIRES", "expiresAt", false},
	}},
	{name: "users", object: "User", aliases: []string{"user"}, path: "/users", columns: []column{
		{"NAME", "name", false}, {"ROLE", "role", false}, {"DISABLED", "disabled", false}, {"LAST LOGIN", "lastLoginAt", false},
	}},
}

func kindOf(name string) (kind, error) {
	for _, k := range kinds {
		if strings.EqualFold(name, k.name) || strings.EqualFold(name, k.object) {
			return k, nil
		}
		for _, a := range k.aliases {
			if strings.EqualFold(name, a) {
				return k, nil
			}
		}
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return kind{}, usage("no kind is called %q: there are %s", name, strings.Join(names, ", "))
}

func (k kind) one(name string) string {
	if k.name == "devices" { // SITE/NODE are two segments
		site, node, _ := strings.Cut(name, "/")
		return k.path + "/" + url.PathEscape(site) + "/" + url.PathEscape(node)
	}
	return k.path + "/" + url.PathEscape(name)
}

func (e *env) get() *cobra.Command {
	var selector string
	c := &cobra.Command{
		Use: "get KIND [NAME]", Short: "List objects of a kind, or one", Args: args(cobra.RangeArgs(1, 2)),
		Example: "  swellctl get devices -l 'line=l1,!retired'\n  swellctl get rollout factory-2 -o yaml",
		RunE: func(c *cobra.Command, a []string) error {
			k, err := kindOf(a[0])
			if err != nil {
				return err
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			if len(a) == 2 {
				var o object
				if err := h.get(ctx, k.one(a[1]), nil, &o); err != nil {
					return err
				}
				return e.show(k, []object{o}, true)
			}
			q := url.Values{}
			if selector != "" {
				q.Set("selector", selector)
			}
			items, err := h.list(ctx, k.path, q)
			if err != nil {
				return err
			}
			if len(items) == 0 && e.output != "json" && e.output != "yaml" {
				fmt.Fprintf(e.err, "There are no %s here.\n", k.name)
			}
			return e.show(k, items, false)
		},
	}
	c.Flags().StringVarP(&selector, "selector", "l", "", "labels that must hold, as in 'site=hall-1,!retired'")
	return c
}

func (e *env) describe() *cobra.Command {
	return &cobra.Command{
		Use: "describe KIND NAME", Short: "Show everything about one object", Args: args(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, a []string) error {
			k, err := kindOf(a[0])
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
			if err := h.get(ctx, k.one(a[1]), nil, &o); err != nil {
				return err
			}
			if e.output == "json" {
				return e.show(k, []object{o}, true)
			}
			return writeYAML(e.out, o)
		},
	}
}

func (e *env) apply() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Create or change policies from a file", Args: args(cobra.NoArgs),
		Long: "apply puts every document of a YAML or JSON file: RolloutPolicy and RetrainPolicy.\nUnknown fields are errors, and --dry-run lets the hub check without storing.",
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usage("name a file with -f, or - for standard input")
			}
			docs, err := e.documents(file)
			if err != nil {
				return err
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			for _, o := range docs {
				kindName, _ := o["kind"].(string)
				k, err := kindOf(kindName)
				if err != nil || !k.apply {
					return usage("%s: kind %q cannot be applied: RolloutPolicy and RetrainPolicy can", file, kindName)
				}
				name, _ := at(o, "metadata.name").(string)
				if name == "" {
					return usage("%s: a %s without metadata.name", file, kindName)
				}
				var got object
				if err := h.do(ctx, http.MethodPut, k.one(name), e.query(), o, &got); err != nil {
					return fmt.Errorf("apply %s %s: %w", kindName, name, err)
				}
				done := "applied"
				if e.dryRun {
					done = "would be applied"
				}
				fmt.Fprintf(e.err, "%s %s %s.\n", kindName, name, done)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "YAML or JSON file; - is standard input")
	return e.mutating(c, true)
}

func (e *env) documents(file string) ([]object, error) {
	in := e.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usage("%w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	var out []object
	for d := yaml.NewDecoder(in); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, usage("read %s: %w", file, err)
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	if len(out) == 0 {
		return nil, usage("%s holds no document", file)
	}
	return out, nil
}

func (e *env) query() url.Values {
	q := url.Values{}
	if e.reason != "" {
		q.Set("reason", e.reason)
	}
	if e.dryRun {
		q.Set("dryRun", "true")
	}
	return q
}

// show writes objects the way -o asks.
func (e *env) show(k kind, items []object, single bool) error {
	switch e.output {
	case "json":
		var v any = items
		if single {
			v = items[0]
		}
		enc := json.NewEncoder(e.out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		for i, o := range items {
			if i > 0 {
				fmt.Fprintln(e.out, "---")
			}
			if err := writeYAML(e.out, o); err != nil {
				return err
			}
		}
		return nil
	case "name":
		for _, o := range items {
			fmt.Fprintln(e.out, cell(at(o, k.columns[0].path)))
		}
		return nil
	case "table", "wide":
		var cols []column
		var heads []string
		for _, c := range k.columns {
			if !c.wide || e.output == "wide" {
				cols, heads = append(cols, c), append(heads, c.head)
			}
		}
		t := newTable(e.out, heads...)
		for _, o := range items {
			cells := make([]string, len(cols))
			for i, c := range cols {
				cells[i] = cell(at(o, c.path))
			}
			t.row(cells...)
		}
		return t.flush()
	}
	return usage("-o %s: want table, wide, json, yaml or name", e.output)
}

func writeYAML(w io.Writer, o object) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	defer func() { _ = enc.Close() }()
	return enc.Encode(o)
}

// at returns the value at a dotted path, or nil.
func at(o any, path string) any {
	for part := range strings.SplitSeq(path, ".") {
		m, ok := o.(object)
		if !ok {
			return nil
		}
		o = m[part]
	}
	return o
}

// cell shortens a value for a table.
func cell(v any) string {
	switch x := v.(type) {
	case nil:
		return "-"
	case object: // a release or a schedule
		for _, key := range []string{"id", "name", "release"} {
			if s, ok := x[key].(string); ok {
				return s
			}
		}
		return "…"
	case []any:
		return fmt.Sprint(len(x))
	case float64:
		if x == math.Trunc(x) {
			return fmt.Sprintf("%.0f", x)
		}
		return fmt.Sprintf("%.4g", x)
	case string:
		if hex, ok := strings.CutPrefix(x, "sha256:"); ok && len(hex) == 64 {
			return hex[:12]
		}
		if t, err := time.Parse(time.RFC3339Nano, x); err == nil {
			return ago(t)
		}
		if x == "" {
			return "-"
		}
		return x
	}
	return fmt.Sprint(v)
}

func ago(t time.Time) string {
	d := time.Since(t).Round(time.Second)
	switch {
	case d < 0:
		return "in " + short(-d)
	case d < time.Second:
		return "now"
	}
	return short(d) + " ago"
}

func short(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// table aligns columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, heads ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	t.row(heads...)
	return t
}

func (t *table) row(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

func (t *table) flush() error { return t.w.Flush() }
