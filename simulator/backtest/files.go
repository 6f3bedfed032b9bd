package backtest

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// recording is one file the user brings: one device.
type recording struct {
	name  string // path below the folder, without its ending; as in verdicts.csv
	path  string
	rows  int
	train int // of them, from the first on, to learn from
	id    topic.ID
	class artifact.Class
}

// recordings finds the CSV files below the folders whose names match one of the
// globs (all without any), and counts their rows. With several folders names
// begin with theirs.
func recordings(dirs, globs []string, group string) ([]recording, error) {
	var out []recording
	nodes := map[string]string{}
	for _, dir := range dirs {
		prefix := ""
		if len(dirs) > 1 {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return nil, err
			}
			prefix = filepath.Base(abs) + "/"
		}
		more, err := folder(dir, prefix, globs, group, nodes)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no CSV file in %s matches: give a folder with one file a device", strings.Join(dirs, ", "))
	}
	slices.SortFunc(out, func(a, b recording) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// folder finds the recordings of one folder. nodes are the devices' names so
// far, with the file of each.
func folder(dir, prefix string, globs []string, group string, nodes map[string]string) (out []recording, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || !strings.EqualFold(filepath.Ext(p), ".csv") {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name := prefix + strings.TrimSuffix(filepath.ToSlash(rel), filepath.Ext(rel))
		if !matches(globs, strings.TrimPrefix(name, prefix)) {
			return nil
		}
		r := recording{name: name, path: p, id: topic.ID{Site: "backtest", Node: nodeName(name)}}
		if other, taken := nodes[r.id.Node]; taken {
			return fmt.Errorf("files %s and %s would both be device %s: rename one", other, name, r.id.Node)
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
		if r.rows, err = countRows(p); err != nil {
			return fmt.Errorf("read %s: %w", rel, err)
		}
		out = append(out, r)
		return nil
	})
	return out, err
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

func countRows(p string) (int, error) {
	f, err := os.Open(p)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return 0, err
	}
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	r := csv.NewReader(f)
	r.ReuseRecord = true
	if strings.Contains(line, ";") {
		r.Comma = ';'
	}
	rows := -1 // the first line names the columns
	for {
		_, err := r.Read()
		if errors.Is(err, io.EOF) {
			return max(rows, 0), nil
		}
		if err != nil {
			return 0, err
		}
		rows++
	}
}
