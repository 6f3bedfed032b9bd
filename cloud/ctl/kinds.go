package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/protocol/topic"
)

// kind says how objects of a kind are reached and shown.
type kind struct {
	name    string // plural, as in `get devices`
	object  string // kind field of the object
	aliases []string
	path    string
	columns []column // the first is the name
	apply   bool     // `apply` may put it
	listed  bool     // single ones can only be found in the list
	remove  string   // what `delete` makes of it; empty: it cannot be deleted
}

// column is one column of the table: a header and the dotted path of its value.
type column struct {
	head string
	path string
	wide bool // shown with -o wide only
}

var kinds = []kind{
	{name: "devices", object: "Device", aliases: []string{"device", "dev"}, path: "/devices", remove: "retired", columns: []column{
		{"NAME", "metadata.name", false}, {"CLASS", "spec.class", false}, {"LINE", "spec.line", false}, {"STATE", "status.state", false},
		{"RELEASE", "status.release", false}, {"ATTESTED", "status.attested", false}, {"SCORED", "status.windowsScored", false}, {"LOST", "status.windowsLost", false},
		{"SEEN", "status.lastSeenAt", false}, {"PHASE", "status.phase", true}, {"LOADED", "status.attestedDigest", true}, {"AGENT", "status.agentVersion", true},
	}},
	{name: "models", object: "Model", aliases: []string{"model"}, path: "/models", columns: []column{
		{"NAME", "metadata.name", false}, {"LATEST", "status.latest", false}, {"PROMOTED", "status.promoted", false}, {"VERSIONS", "status.versions", false},
		{"RUNS ON", "status.runsOn.champion", false}, {"CLASSES", "spec.classes", true},
	}},
	{name: "rollouts", object: "Rollout", aliases: []string{"rollout", "ro"}, path: "/rollouts", columns: []column{
		{"NAME", "metadata.name", false}, {"RELEASE", "spec.release", false}, {"POLICY", "spec.policy", false}, {"STATE", "status.state", false},
		{"DONE", "status.counts.done", false}, {"OF", "status.counts.devices", false}, {"FAILED", "status.counts.failed", false}, {"STARTED", "status.startedAt", false}, {"MESSAGE", "status.message", true},
	}},
	{name: "rolloutpolicies", object: "RolloutPolicy", aliases: []string{"rolloutpolicy", "rollout-policies"}, path: "/rollout-policies", apply: true, columns: []column{
		{"NAME", "metadata.name", false}, {"SELECTOR", "spec.selector", false}, {"WAVES", "spec.waves", false}, {"DEVICES", "status.devices", false}, {"CHANGED", "metadata.updatedAt", true},
	}},
	{name: "freezes", object: "Freeze", aliases: []string{"freeze"}, path: "/freezes", listed: true, columns: []column{
		{"NAME", "name", false}, {"SELECTOR", "selector", false}, {"IN FORCE", "active", false}, {"DEVICES", "devices", false}, {"FROM", "from", false}, {"UNTIL", "until", false},
		{"BY", "by", false}, {"REASON", "reason", false},
	}},
	{name: "quarantine", object: "Quarantine", path: "/quarantine", listed: true, columns: []column{
		{"RELEASE", "release", false}, {"DIGEST", "digest", false}, {"SINCE", "at", false}, {"BY", "by", false}, {"REASON", "reason", false},
	}},
	{name: "retrainpolicies", object: "RetrainPolicy", aliases: []string{"retrainpolicy", "retrain-policies"}, path: "/retrain-policies", apply: true, columns: []column{
		{"NAME", "metadata.name", false}, {"MODEL", "spec.model", false}, {"SELECTOR", "spec.selector", false}, {"SCHEDULE", "spec.schedule.cron", false}, {"NEXT", "status.nextRunAt", false},
		{"LAST", "status.lastOutcome", false}, {"LAST RUN", "status.lastRun", true},
	}},
	{name: "runs", object: "TrainingRun", aliases: []string{"run", "trainingruns", "nights"}, path: "/training-runs", columns: []column{
		{"NAME", "metadata.name", false}, {"MODEL", "spec.model", false}, {"STATE", "status.state", false}, {"STARTED", "status.startedAt", false}, {"RELEASE", "status.release", false}, {"SUMMARY", "status.summary", true},
	}},
	{name: "tokens", object: "EnrollmentToken", aliases: []string{"token", "enrollment-tokens"}, path: "/enrollment-tokens", listed: true, remove: "revoked", columns: []column{
		{"ID", "id", false}, {"SITE", "site", false}, {"NODE", "node", false}, {"CLASS", "class", false}, {"STATE", "state", false}, {"EXPIRES", "expiresAt", false},
	}},
	{name: "users", object: "User", aliases: []string{"user"}, path: "/users", remove: "deleted", columns: []column{
		{"NAME", "name", false}, {"ROLE", "role", false}, {"LAST LOGIN", "lastLoginAt", false}, {"SINCE", "createdAt", true},
	}},
	{name: "apitokens", object: "ApiToken", aliases: []string{"apitoken", "api-tokens"}, path: "/api-tokens", listed: true, remove: "revoked", columns: []column{
		{"ID", "id", false}, {"USER", "user", false}, {"FOR", "name", false}, {"ROLE", "role", false}, {"EXPIRES", "expiresAt", false}, {"USED", "lastUsedAt", false},
	}},
}

// nameOf is whole, where a table may show less: the other commands take it.
func (k kind) nameOf(o object) string {
	v := at(o, k.columns[0].path)
	if s, ok := v.(string); ok && s != "" {
		return s
	}
	return cell(v)
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

// one returns the path of one object.
func (k kind) one(name string) (string, error) {
	if k.name == "devices" { // SITE/NODE are two segments
		id, err := topic.ParseID(name)
		if err != nil {
			return "", usage("%w", err)
		}
		return k.path + "/" + id.Site + "/" + id.Node, nil
	}
	if name == "" {
		return "", usage("an empty name names none of the %s", k.name)
	}
	return k.path + "/" + url.PathEscape(name), nil
}

// find reads one object.
func (h *hub) find(ctx context.Context, k kind, name string) (o object, err error) {
	path, err := k.one(name)
	if err != nil {
		return nil, err
	}
	if !k.listed {
		return o, h.get(ctx, path, nil, &o)
	}
	items, err := h.list(ctx, k.path, nil)
	if err != nil {
		return nil, err
	}
	for _, o := range items {
		if k.nameOf(o) == name {
			return o, nil
		}
	}
	return nil, &Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("none of the %s is called %q", k.name, name)}
}

// names completes the names of a kind's objects; a hub that does not answer at
// once completes nothing.
func (e *env) names(of string) cobra.CompletionFunc {
	return func(c *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
		if of == "" && len(a) == 0 {
			var out []string
			for _, k := range kinds {
				out = append(out, k.name)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		name := of
		if of == "" && len(a) == 1 {
			name = a[0]
		} else if of == "" || len(a) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		k, err := kindOf(name)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		h, err := e.hub()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
		defer cancel()
		items, _ := h.list(ctx, k.path, nil)
		var out []string
		for _, o := range items {
			out = append(out, k.nameOf(o))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func (e *env) get() *cobra.Command {
	var selector string
	var watch bool
	c := &cobra.Command{
		Use: "get KIND [NAME]", Short: "List objects of a kind, or one", Args: args(cobra.RangeArgs(1, 2)), ValidArgsFunction: e.names(""),
		Long:    "get lists objects of a kind, or shows one.\n\n" + kindNames() + "\n\nWith -w it goes on and prints what changes, until it is interrupted or\n--timeout is over; when the hub goes away it waits for it to come back.",
		Example: "  swellctl get devices -l 'line=l1,!retired'\n  swellctl get device hall-1/press-03 -o yaml",
		RunE: func(c *cobra.Command, a []string) error {
			k, err := kindOf(a[0])
			if err != nil {
				return err
			}
			if selector != "" && k.name != "devices" {
				return usage("-l selects devices, not %s", k.name)
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			read := func(ctx context.Context) ([]object, error) {
				if len(a) == 2 {
					o, err := h.find(ctx, k, a[1])
					return []object{o}, err
				}
				q := url.Values{}
				if selector != "" {
					q.Set("selector", selector)
				}
				return h.list(ctx, k.path, q)
			}
			if watch {
				ctx, cancel := e.following(c.Context())
				defer cancel()
				return e.getChanges(ctx, h, k, read)
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			items, err := read(ctx)
			if err != nil {
				return err
			}
			return e.showAll(k, items, len(a) == 2)
		},
	}
	c.Flags().StringVarP(&selector, "selector", "l", "", "labels of the devices, as in 'site=hall-1,!retired'")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print what changes")
	return c
}

// showAll shows a list, or says that it is empty.
func (e *env) showAll(k kind, items []object, single bool) error {
	if len(items) == 0 && e.output != "json" && e.output != "yaml" {
		what := "no " + k.name
		if k.name == "quarantine" {
			what = "no releases in quarantine"
		}
		fmt.Fprintf(e.err, "There are %s here.\n", what)
		return nil
	}
	return e.show(k, items, single)
}

func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return "Kinds: " + strings.Join(names, ", ") + "."
}

// more is what `describe` adds to an object.
var more = map[string]struct{ key, path string }{
	"devices": {"timeline", "/timeline"},
	"models":  {"versions", "/versions"},
}

func (e *env) describe() *cobra.Command {
	return &cobra.Command{
		Use: "describe KIND NAME", Short: "Show everything about one object, with its latest history", Args: args(cobra.ExactArgs(2)), ValidArgsFunction: e.names(""),
		Example: "  swellctl describe device hall-1/press-03",
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
			o, err := h.find(ctx, k, a[1])
			if err != nil {
				return err
			}
			if m, ok := more[k.name]; ok {
				path, err := k.one(a[1])
				if err != nil {
					return err
				}
				var page struct {
					Items []object `json:"items"`
				}
				if err := h.get(ctx, path+m.path, url.Values{"limit": {"20"}}, &page); err != nil {
					return err
				}
				o[m.key] = page.Items
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
		Long: `apply puts every document of a YAML or JSON file: RolloutPolicy and
RetrainPolicy. Unknown fields are errors, and --dry-run lets the hub check
without storing. A document with metadata.resourceVersion is refused (exit
code 5) when somebody changed the object since. With -o yaml or json, what the
hub stored is printed.`,
		Example: "  swellctl apply -f policies.yaml --reason 'smaller first wave'",
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
			var stored []object
			for _, d := range docs {
				var got object
				if err := h.do(ctx, http.MethodPut, d.path, e.query(), d.doc, &got); err != nil {
					return fmt.Errorf("apply %s %s: %w", d.kind.object, d.name, err)
				}
				done := "applied"
				if e.dryRun {
					done = "would be applied"
				}
				fmt.Fprintf(e.err, "%s %s %s.\n", d.kind.object, d.name, done)
				stored = append(stored, got)
			}
			if e.output == "json" || e.output == "yaml" {
				return e.show(kind{}, stored, len(stored) == 1)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "YAML or JSON file; - is standard input")
	return e.mutating(c, true)
}

// policy is a document that can be applied.
type policy struct {
	kind kind
	name string
	path string
	doc  object
}

// policies reads a file for apply and diff, and checks all of it before any of
// it is used.
func (e *env) policies(file string) (out []policy, err error) {
	if file == "" {
		return nil, usage("name a file with -f, or - for standard input")
	}
	docs, err := e.documents(file)
	if err != nil {
		return nil, err
	}
	for _, o := range docs {
		kindName, _ := o["kind"].(string)
		k, err := kindOf(kindName)
		if err != nil || !k.apply {
			return nil, usage("%s: kind %q cannot be applied: RolloutPolicy and RetrainPolicy can", file, kindName)
		}
		name, _ := at(o, "metadata.name").(string)
		path, err := k.one(name)
		if err != nil {
			return nil, usage("%s: a %s without metadata.name", file, k.object)
		}
		out = append(out, policy{k, name, path, o})
	}
	return out, nil
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
			out = append(out, asWritten(o).(object))
		}
	}
	if len(out) == 0 {
		return nil, usage("%s holds no document", file)
	}
	return out, nil
}

// asWritten undoes YAML's reading of 2026-12-24 as a time: the contract wants
// the text.
func asWritten(v any) any {
	switch x := v.(type) {
	case object:
		for k := range x {
			x[k] = asWritten(x[k])
		}
	case []any:
		for i := range x {
			x[i] = asWritten(x[i])
		}
	case time.Time:
		if x.Equal(x.Truncate(24 * time.Hour)) {
			return x.Format(time.DateOnly)
		}
		return x.Format(time.RFC3339Nano)
	}
	return v
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
