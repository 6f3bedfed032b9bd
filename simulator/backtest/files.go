package backtest

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// recording is one file the user brings: one device.
type recording struct {
	name     string // path below the folder, without its ending; as in verdicts.csv
	path     string
	rows     int
	train    int // of them, from the first on, to learn from
	id       topic.ID
	class    artifact.Class
	found    replay.Survey
	channels []string // columns to play
	labels   []bool   // which rows its own label column calls anomalous; nil: it has none
}

// leftOut is a file or a column that does not take part, and why.
type leftOut struct{ name, why string }

// recordings finds the CSV files below the folders whose names match one of the
// globs (all without any), and looks through them. With several folders names
// begin with theirs. Files that nothing can be played from are left out.
func recordings(o Options) (out []recording, left []leftOut, err error) {
	dirs, globs, group := o.Data, o.Files, o.ModelPer
	nodes := map[string]string{}
	for _, dir := range dirs {
		prefix := ""
		if len(dirs) > 1 {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return nil, nil, err
			}
			prefix = filepath.Base(abs) + "/"
		}
		more, err := folder(dir, prefix, globs, group, nodes)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range more {
			why := r.look(o)
			if why != "" {
				left = append(left, leftOut{r.name, why})
				continue
			}
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		var errs []error
		for _, l := range left {
			errs = append(errs, fmt.Errorf("%s: %s", l.name, l.why))
		}
		if errs != nil {
			return nil, nil, few(errs)
		}
		return nil, nil, fmt.Errorf("no CSV file in %s matches: give a folder with one file a device", strings.Join(dirs, ", "))
	}
	slices.SortFunc(out, func(a, b recording) int { return strings.Compare(a.name, b.name) })
	return out, left, nil
}

// folder finds the recordings of one folder. nodes are the devices' names so
// far, with the file of each.
func folder(dir, prefix string, globs []string, group string, nodes map[string]string) (out []recording, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && p != dir {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		ending := endingOf(p)
		if d.IsDir() || ending == "" {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name := prefix + filepath.ToSlash(rel[:len(rel)-len(ending)])
		if !matches(globs, strings.TrimPrefix(name, prefix)) {
			return nil
		}
		r := recording{name: name, path: p, id: topic.ID{Site: "backtest", Node: nodeName(name)}}
		for n := 2; nodes[r.id.Node] != ""; n++ { // names that differ in other signs only
			number := fmt.Sprintf("-%d", n)
			node := nodeName(name)
			r.id.Node = node[:min(len(node), topic.MaxNameLen-len(number))] + number
		}
		nodes[r.id.Node] = name
		switch group {
		case "device":
			r.class = artifact.Class(r.id.Node)
		case "folder":
			r.class = artifact.Class(nodeName(path.Dir(name)))
		case "all":
			r.class = "all"
		default:
			return fmt.Errorf("--model-per %q: want device, folder or all", group)
		}
		out = append(out, r)
		return nil
	})
	return out, err
}

// endingOf is how the name of a table ends, as it is written; empty: it is none.
func endingOf(p string) string {
	for _, e := range []string{".csv", ".tsv", ".csv.gz", ".tsv.gz"} {
		if n := len(p) - len(e); n > 0 && strings.EqualFold(p[n:], e) {
			return p[n:]
		}
	}
	return ""
}

// look reads a file and chooses its columns. It returns why nothing can be
// played from it.
func (r *recording) look(o Options) string {
	found, err := replay.Look(replay.Config{Path: r.path, TimeColumn: o.TimeColumn, SampleRateHz: o.SampleRateHz})
	if err != nil {
		return strings.TrimPrefix(err.Error(), "recording "+r.path+": ")
	}
	r.found, r.rows = found, found.Rows
	for _, c := range found.Columns {
		if slices.Contains(o.Channels, c.Name) || len(o.Channels) == 0 && unfit(c, o.Exclude) == "" {
			r.channels = append(r.channels, c.Name)
		} else if isLabel(c) && r.labels == nil {
			r.labels = labelled(c, found.Rows)
		}
	}
	for _, name := range o.Channels {
		if !slices.Contains(r.channels, name) {
			return fmt.Sprintf("it has no channel %q", name)
		}
	}
	if len(r.channels) == 0 {
		return "no column of it holds numbers to learn from"
	}
	return ""
}

// unfit says why a column is not to be learned from; empty: it is.
func unfit(c replay.Column, exclude []string) string {
	switch {
	case slices.Contains(exclude, c.Name):
		return "excluded"
	case c.Numbers == 0 && c.Words == 0:
		return "nothing in it"
	case isLabel(c):
		return "looks like labels; with --channels it would be learned from"
	case c.Words > c.Numbers:
		return "no numbers"
	case c.Steady:
		return "rises by the same step at each row, as a count or a clock does"
	}
	return ""
}

// labelNames are what columns with labels are called, letters only.
var labelNames = []string{
	"anomaly", "anomalies", "anomalous", "isanomaly", "anomalylabel", "label", "labels", "outlier", "isoutlier", "attack", "attacklabel", "isattack", "normalattack",
	"attacklabelnoattackattack", "changepoint", "groundtruth", "abnormal", "isabnormal", "fault", "isfault", "faultlabel", "faulty", "failure", "isfailure", "machinefailure", "defect", "class", "target",
}

// isLabel says that a column looks like labels: by its name, and as it has few different cells.
func isLabel(c replay.Column) bool {
	letters := strings.Map(func(r rune) rune {
		if r = unicode.ToLower(r); unicode.IsLetter(r) {
			return r
		}
		return -1
	}, c.Name)
	return !c.Many && slices.Contains(labelNames, letters)
}

// labelled are the rows that a label column calls anomalous; nil where it
// does not say which of its words is the normal one.
func labelled(c replay.Column, rows int) []bool {
	normal := []string{"", "0", "0.0", "false", "normal", "no", "n", "ok", "good", "none", "benign", "healthy"}
	if slices.ContainsFunc(c.Distinct, func(s string) bool { return s == "-1" || s == "-1.0" }) {
		normal = append(normal, "1", "1.0") // as of an outlier detector
	}
	known := false
	out := make([]bool, rows)
	for i, run := range c.Runs {
		to := rows
		if i+1 < len(c.Runs) {
			to = min(c.Runs[i+1].From, rows)
		}
		if slices.Contains(normal, strings.ToLower(run.Cell)) {
			known = true
			continue
		}
		for row := run.From; row < to; row++ {
			out[row] = true
		}
	}
	if !known {
		return nil
	}
	return out
}

// told sums up, in lines for people, what is odd in the recordings and what of
// them is left out. The same of many files is one line.
func told(recs []recording, left []leftOut, o Options) (lines []string) {
	var order []string
	files := map[string][]string{}
	counted := map[string]int{}
	add := func(what, file string, n int) {
		if len(files[what]) == 0 {
			order = append(order, what)
		}
		files[what] = append(files[what], file)
		counted[what] += n
	}
	for _, r := range recs {
		f := r.found
		if f.Time == "" {
			add("no column has the time: rows are taken as evenly spaced (--sample-rate says how many a second)", r.name, 0)
		} else {
			add("the time is in "+f.Time, r.name, 0)
		}
		if f.Unnamed > 0 {
			add("columns without a name left out", r.name, f.Unnamed)
		}
		for _, c := range f.Columns {
			if why := unfit(c, o.Exclude); why != "" && !slices.Contains(r.channels, c.Name) {
				add(fmt.Sprintf("column %s left out: %s", c.Name, why), r.name, 0)
				continue
			}
			if !slices.Contains(r.channels, c.Name) {
				continue
			}
			if n := c.Empty + c.Words; n > 0 {
				add(fmt.Sprintf("cells of %s without a number", c.Name), r.name, n)
			}
		}
		for _, odd := range []struct {
			n    int
			what string
		}{{f.BadTimes, "rows whose time cannot be read take that of the row before"}, {f.Falls, "rows are earlier than the row before them, and stay in the order of the file"},
			{f.Repeats, "rows have the same time as the row before them"}, {f.Short, "rows have fewer cells than there are columns"}} {
			if odd.n > 0 {
				add(odd.what, r.name, odd.n)
			}
		}
		if n := anomalous(r.labels, 0, r.train); n > 0 {
			add("rows to learn from are labelled as anomalies: a model learns best from normal operation", r.name, n)
		}
	}
	for _, l := range left {
		add("file left out: "+l.why, l.name, 0)
	}
	for _, what := range order {
		line, in := what, files[what]
		if n := counted[what]; n > 0 {
			line = fmt.Sprintf("%d %s", n, what)
		}
		switch {
		case len(in) == len(recs) && len(in) > 1:
			line += ", in every file"
		case len(in) > 3:
			line += fmt.Sprintf(", in %d files, as %s", len(in), in[0])
		default:
			line += ", in " + strings.Join(in, ", ")
		}
		lines = append(lines, line)
	}
	const most = 40
	if n := len(lines); n > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more such lines", n-most))
	}
	return lines
}

// anomalous counts labelled rows.
func anomalous(labels []bool, from, to int) int {
	n := 0
	for row := from; row < min(to, len(labels)); row++ {
		if labels[row] {
			n++
		}
	}
	return n
}

func matches(globs []string, name string) bool {
	if len(globs) == 0 {
		return true
	}
	return slices.ContainsFunc(globs, func(g string) bool {
		ok, err := path.Match(g, name)
		return ok && err == nil
	})
}

// nodeName makes a valid device name of a path.
func nodeName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, s)
	s = strings.Trim(s, "-.")
	if s == "" {
		s = "top"
	}
	return s[:min(len(s), topic.MaxNameLen)]
}
