package backtest

import (
	"cmp"
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

	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/artifact"
)

// picture is one image file the user brings.
type picture struct {
	name  string // as in the results: its path below its folder
	path  string
	class artifact.Class // of the devices that see it: one for each folder
	label string         // what is on it; empty: nobody said
}

// division says which pictures of an album are to learn from and which to judge.
type division struct {
	name  string
	train []int // indices into the album, in order
	test  []int
}

// album is what the user brings.
type album struct {
	pictures  []picture
	divisions []division
}

// Names of the ways to divide an album that nobody divided.
const (
	byFolders = "folders" // called train and test
	byShare   = "share"
)

// openAlbum finds the images below the folders, their labels and their
// divisions, and reports everything about them that keeps a back-test from
// meaning anything.
func openAlbum(o ImageOptions) (album, error) {
	var a album
	byPath, roots, classes := map[string]int{}, []string{}, map[artifact.Class]string{}
	for _, dir := range o.Images {
		root, err := filepath.Abs(dir)
		if err != nil {
			return album{}, err
		}
		class := artifact.Class(nodeName(filepath.Base(root)))
		if other, taken := classes[class]; taken {
			return album{}, fmt.Errorf("--images: folders %s and %s would both be device class %s: rename one", other, dir, class)
		}
		classes[class] = dir
		roots = append(roots, root)
		prefix := ""
		if len(o.Images) > 1 {
			prefix = filepath.Base(root) + "/"
		}
		if err := a.add(root, prefix, class, byPath); err != nil {
			return album{}, err
		}
	}
	if len(a.pictures) == 0 {
		return album{}, fmt.Errorf("no JPEG or PNG file in %s: give a folder with images", strings.Join(o.Images, ", "))
	}
	find := func(table, name string) (int, error) {
		name = filepath.FromSlash(name)
		for _, base := range append([]string{filepath.Dir(table)}, roots...) {
			p := name
			if !filepath.IsAbs(p) {
				p = filepath.Join(base, p)
			}
			if abs, err := filepath.Abs(p); err == nil {
				if i, ok := byPath[abs]; ok {
					return i, nil
				}
			}
		}
		return 0, fmt.Errorf("%s names %s, which is no image in %s", table, name, strings.Join(o.Images, ", "))
	}
	if o.Labels != "" {
		if err := a.readLabels(o.Labels, find); err != nil {
			return album{}, err
		}
	}
	if err := a.divide(o, find); err != nil {
		return album{}, err
	}
	if err := a.check(); err != nil {
		return album{}, err
	}
	return a, a.readable()
}

// add walks one folder.
func (a *album) add(root, prefix string, class artifact.Class, byPath map[string]int) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && p != root
		if d.IsDir() {
			if hidden {
				return filepath.SkipDir
			}
			return nil
		}
		switch strings.ToLower(filepath.Ext(p)) {
		case ".jpg", ".jpeg", ".png":
		default:
			return nil
		}
		if hidden {
			return nil
		}
		if other, taken := byPath[p]; taken {
			return fmt.Errorf("--images: %s is in two of the folders, as %s too", p, a.pictures[other].name)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		label := path.Base(path.Dir(rel))
		if label == "." || half(label) != "" {
			label = "" // it says nothing of what is on the image
		}
		byPath[p] = len(a.pictures)
		a.pictures = append(a.pictures, picture{name: prefix + rel, path: p, class: class, label: label})
		return nil
	})
}

// half says which half a word means: "train", "test" or "" for neither.
func half(word string) string {
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "train", "training":
		return "train"
	case "test", "testing":
		return "test"
	}
	return ""
}

// few joins errors, and does not go on for pages.
func few(errs []error) error {
	const most = 10
	if n := len(errs); n > most {
		errs = append(errs[:most:most], fmt.Errorf("and %d more like these", n-most))
	}
	return errors.Join(errs...)
}

func (a *album) readLabels(table string, find func(table, name string) (int, error)) error {
	rows, names, err := readTable(table)
	if err != nil {
		return err
	}
	column := slices.Index(names, "label")
	if column < 0 {
		return fmt.Errorf("%s has no column label: its first line must name the columns file and label", table)
	}
	for i := range a.pictures {
		a.pictures[i].label = ""
	}
	var errs []error
	seen := map[int]int{}
	for _, r := range rows {
		i, err := find(table, r.file)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", r.line, err))
			continue
		}
		if first, again := seen[i]; again {
			errs = append(errs, fmt.Errorf("%s labels %s twice, in lines %d and %d", table, a.pictures[i].name, first, r.line))
			continue
		}
		seen[i] = r.line
		a.pictures[i].label = strings.TrimSpace(r.cells[column])
	}
	return few(errs)
}

// divide fills in the divisions.
func (a *album) divide(o ImageOptions, find func(table, name string) (int, error)) error {
	if o.Splits == "" {
		if len(o.Split) > 0 {
			return errors.New("--split names a column of --splits: give that file, too")
		}
		return a.divideAlone(o.TrainShare)
	}
	rows, names, err := readTable(o.Splits)
	if err != nil {
		return err
	}
	for _, name := range o.Split {
		if name == "" || !slices.Contains(names, name) {
			return fmt.Errorf("--split %q: %s has the columns %s", name, o.Splits, strings.Join(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "" }), ", "))
		}
	}
	halves := map[int][]string{}
	lines := map[int]int{}
	var errs []error
	for _, r := range rows {
		i, err := find(o.Splits, r.file)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", r.line, err))
			continue
		}
		if first, again := lines[i]; again {
			errs = append(errs, fmt.Errorf("%s has %s twice, in lines %d and %d", o.Splits, a.pictures[i].name, first, r.line))
			continue
		}
		lines[i], halves[i] = r.line, r.cells
	}
	for column, name := range names {
		if name == "" || len(o.Split) > 0 && !slices.Contains(o.Split, name) {
			continue
		}
		d := division{name: name}
		for i, p := range a.pictures {
			if halves[i] == nil {
				continue
			}
			switch half(halves[i][column]) {
			case "train":
				d.train = append(d.train, i)
			case "test":
				d.test = append(d.test, i)
			default:
				errs = append(errs, fmt.Errorf("%s, line %d: %s is %q in %s: want train or test", o.Splits, lines[i], p.name, halves[i][column], name))
			}
		}
		a.divisions = append(a.divisions, d)
	}
	if len(a.divisions) == 0 {
		errs = append(errs, fmt.Errorf("%s has no column beside file: want one for each split, with train or test in it", o.Splits))
	}
	for i, p := range a.pictures {
		if halves[i] == nil {
			errs = append(errs, fmt.Errorf("%s is in no split: %s does not name it", p.name, o.Splits))
		}
	}
	return few(errs)
}

// divideAlone divides by folders called train and test, or else takes a share
// of each label to learn from.
func (a *album) divideAlone(share float64) error {
	d := division{name: byFolders}
	for i, p := range a.pictures {
		which := ""
		for _, folder := range strings.Split(path.Dir(p.name), "/") {
			which = cmp.Or(which, half(folder))
		}
		switch which {
		case "train":
			d.train = append(d.train, i)
		case "test":
			d.test = append(d.test, i)
		}
	}
	if n := len(d.train) + len(d.test); n == len(a.pictures) {
		a.divisions = []division{d}
		return nil
	} else if n > 0 {
		return fmt.Errorf("%d of %d images are in folders called train or test: give --splits for the others", n, len(a.pictures))
	}
	if !(share > 0 && share < 1) {
		return fmt.Errorf("--train-share is %g: want a share of the images, above 0 and below 1", share)
	}
	type group struct {
		class artifact.Class
		label string
	}
	groups := map[group][]int{}
	for i, p := range a.pictures {
		g := group{p.class, p.label}
		groups[g] = append(groups[g], i)
	}
	d = division{name: byShare}
	for _, members := range groups {
		// In an order that the names of the files do not tell, but always the same.
		slices.SortFunc(members, func(i, j int) int {
			return cmp.Or(cmp.Compare(lot(a.pictures[i].name), lot(a.pictures[j].name)), cmp.Compare(i, j))
		})
		n := int(share*float64(len(members)) + 0.5)
		d.train = append(d.train, members[:n]...)
		d.test = append(d.test, members[n:]...)
	}
	slices.Sort(d.train)
	slices.Sort(d.test)
	a.divisions = []division{d}
	return nil
}

func lot(name string) artifact.Digest { return artifact.Of([]byte(name)) }

// labels counts the labels among pictures of a class.
func (a *album) labels(class artifact.Class, of []int) map[string]int {
	out := map[string]int{}
	for _, i := range of {
		if p := a.pictures[i]; p.class == class && p.label != "" {
			out[p.label]++
		}
	}
	return out
}

// count is how many of the pictures are of a class.
func (a *album) count(class artifact.Class, of []int) int {
	n := 0
	for _, i := range of {
		if a.pictures[i].class == class {
			n++
		}
	}
	return n
}

// classes are the device classes, in the order of their folders.
func (a *album) classes() []artifact.Class {
	var out []artifact.Class
	for _, p := range a.pictures {
		if !slices.Contains(out, p.class) {
			out = append(out, p.class)
		}
	}
	return out
}

// check demands that every division can be learned from and judged.
func (a *album) check() error {
	var errs []error
	for _, d := range a.divisions {
		for _, class := range a.classes() {
			train, test := a.labels(class, d.train), a.labels(class, d.test)
			switch {
			case a.count(class, d.train) == 0:
				errs = append(errs, fmt.Errorf("split %s: no image of %s is to learn from", d.name, class))
			case a.count(class, d.test) == 0:
				errs = append(errs, fmt.Errorf("split %s: no image of %s is to judge", d.name, class))
			case len(train) < 2:
				continue // good parts only: what else comes is a defect
			}
			for _, label := range sortedKeys(test) {
				if len(train) > 1 && train[label] == 0 {
					errs = append(errs, fmt.Errorf("split %s: %s has %d images labelled %q to judge and none to learn from", d.name, class, test[label], label))
				}
			}
		}
	}
	return few(errs)
}

// readable decodes every picture once.
func (a *album) readable() error {
	var errs []error
	for _, p := range a.pictures {
		b, err := os.ReadFile(p.path)
		if err == nil {
			_, err = frame.Decode(b, frame.Limits{})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s cannot be read: %w", p.name, err))
		}
	}
	return few(errs)
}

// tableRow is one line of a table of files.
type tableRow struct {
	line  int // in the table, from 1
	file  string
	cells []string // all columns
}

// readTable reads a CSV file whose first line names its columns, one of them
// "file". names has the others' names, and an empty one in the place of file.
func readTable(table string) (rows []tableRow, names []string, err error) {
	b, err := os.ReadFile(table)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the table: %w", err)
	}
	text := strings.TrimPrefix(string(b), "\ufeff")
	head, _, _ := strings.Cut(text, "\n")
	r := csv.NewReader(strings.NewReader(text))
	for _, sep := range ";\t" {
		if strings.ContainsRune(head, sep) && !strings.Contains(head, ",") {
			r.Comma = sep
		}
	}
	names, err = r.Read()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: read its first line: %w", table, err)
	}
	file := -1
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
		if strings.EqualFold(names[i], "file") {
			file, names[i] = i, ""
		} else if names[i] == "" {
			return nil, nil, fmt.Errorf("%s: column %d has no name", table, i+1)
		}
	}
	if file < 0 {
		return nil, nil, fmt.Errorf("%s has no column file: its first line must name its columns", table)
	}
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, names, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", table, err)
		}
		line, _ := r.FieldPos(0)
		rows = append(rows, tableRow{line, strings.TrimSpace(cells[file]), cells})
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
