package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
)

// forms are what -o may be.
var forms = []string{"table", "wide", "json", "yaml", "name"}

// longest is how many characters of a cell -o table shows, but for the first
// one, which is the name, and the last one where the terminal has room for more.
// wide shows all.
const longest = 40

// show writes objects the way -o asks.
func (e *env) show(k kind, items []object, single bool) error {
	switch e.output {
	case "json":
		var v any = items
		if single {
			v = items[0]
		} else if items == nil {
			v = []object{}
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
			fmt.Fprintln(e.out, k.nameOf(o))
		}
		return nil
	}
	cols := e.columns(k)
	t := e.newTable(heads(cols)...)
	for _, o := range items {
		t.row(cells(cols, o)...)
	}
	return t.flush()
}

// columns are those that -o shows.
func (e *env) columns(k kind) []column {
	return slices.DeleteFunc(slices.Clone(k.columns), func(c column) bool { return c.wide && e.output != "wide" })
}

func heads(cols []column) []string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = c.head
	}
	return out
}

func cells(cols []column, o object) []string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = cell(at(o, c.path))
	}
	return out
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

// cell is a value as a table shows it.
func cell(v any) string {
	switch x := v.(type) {
	case nil:
		return "-"
	case bool:
		if x {
			return "yes"
		}
		return "no"
	case object: // a release or a schedule
		for _, key := range []string{"id", "name", "release"} {
			if s, ok := x[key].(string); ok {
				return s
			}
		}
		return "…"
	case []any:
		words := make([]string, len(x))
		for i, w := range x {
			s, ok := w.(string)
			if !ok {
				return fmt.Sprint(len(x))
			}
			words[i] = s
		}
		return orDash(strings.Join(words, ","))
	case float64:
		if x == math.Trunc(x) && math.Abs(x) < 1e15 {
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
		return orDash(strings.Join(strings.Fields(x), " "))
	}
	return fmt.Sprint(v)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
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

// table aligns columns. Rows wait until flush; a flushed table takes more rows
// and keeps its widths, for those that arrive later.
type table struct {
	w      io.Writer
	indent string
	max    int // characters of a cell; 0: any
	width  int // of the terminal; 0: there is none
	color  bool
	widths []int
	rows   [][]string
}

func (e *env) newTable(heads ...string) *table {
	t := &table{w: e.out, color: colored(e.out)}
	if terminal(e.out) {
		t.width, _, _ = term.GetSize(int(e.out.(*os.File).Fd())) // 0 where it does not say
	}
	if e.output != "wide" {
		t.max = longest
	}
	t.row(heads...)
	return t
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) flush() error {
	for _, r := range t.rows {
		used := len(t.indent)
		for i, c := range r {
			switch {
			case t.max == 0 || i == 0:
			case i == len(r)-1:
				r[i] = clip(c, max(t.max, t.width-used))
			default:
				r[i] = clip(c, t.max)
			}
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(r[i]))
			used += t.widths[i] + 2
		}
	}
	var b strings.Builder
	for _, r := range t.rows {
		b.WriteString(t.indent)
		gap := 0
		for i, c := range r {
			if c != "" {
				b.WriteString(strings.Repeat(" ", gap) + t.paint(c))
				gap = 0
			}
			gap += t.widths[i] - utf8.RuneCountInString(c) + 2
		}
		b.WriteByte('\n')
	}
	t.rows = nil
	_, err := io.WriteString(t.w, b.String())
	return err
}

// clip shortens a cell; what was cut off shows as an ellipsis.
func clip(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// paint colours what somebody must look at, and nothing else.
func (t *table) paint(s string) string {
	if !t.color {
		return s
	}
	switch s {
	case "failed", "FAIL", "refused", "revoked", "urgent", "critical":
		return "\x1b[31m" + s + "\x1b[0m"
	case "degraded", "offline", "held", "paused", "INCONCLUSIVE", "aborted", "rolling-back", "rolled-back", "silent", "warning", "waiting":
		return "\x1b[33m" + s + "\x1b[0m"
	}
	return s
}

// terminal says whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func colored(w io.Writer) bool {
	return terminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
