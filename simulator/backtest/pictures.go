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
	notes     []string // what is left out or odd, for people
	broken    int      // pictures that cannot be read
	masks     int      // pictures that show where defects are, passed over
	others    int      // files of other formats, passed over
	other     string   // one of them
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
	if a.masks > 0 {
		a.notes = append(a.notes, fmt.Sprintf("%d images in folders called ground_truth or masks are passed over", a.masks))
	}
	if a.others > 0 {
		a.notes = append(a.notes, fmt.Sprintf("%d files that are neither JPEG nor PNG, as %s, are passed over: convert them to PNG if they belong here", a.others, a.other))
	}
	if len(a.pictures) == 0 && a.others > 0 {
		return album{}, fmt.Errorf("no JPEG or PNG file in %s, but %d of other formats, as %s: convert them to PNG", strings.Join(o.Images, ", "), a.others, a.other)
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
	if err := a.readable(); err != nil {
		return album{}, err
	}
	return a, a.check()
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
		case ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm":
			a.others, a.other = a.others+1, filepath.Base(p)
			return nil
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
		if slices.ContainsFunc(strings.Split(path.Dir(rel), "/"), func(folder string) bool {
			return slices.Contains([]string{"ground_truth", "masks"}, strings.ToLower(folder))
		}) {
			a.masks++
			return nil
		}
		label := path.Base(path.Dir(rel))
		if label == "." || half(label) != "" {
			label = "" // it says nothing of what is on the image
		}
		byPath[p] = len(a.pictures)
		a.pictures = append(a.pictures, picture{name: prefix + rel, path: p, class: class, label: label})
		return nil
	})
}

// half says which part a word means: "train", "test", "val" or "" for none.
func half(word string) string {
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "train", "training":
		return "train"
	case "test", "testing":
		return "test"
	case "val", "valid", "validation":
		return "val"
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
	rows, names, err := readTable(table, find)
	if err != nil {
		return err
	}
	column := slices.IndexFunc(names, func(n string) bool {
		return slices.Contains([]string{"label", "labels", "class", "class_name", "classname", "category", "target"}, strings.ToLower(n))
	})
	if column < 0 && len(names) == 2 { // whatever it is called, there is no other
		column = slices.IndexFunc(names, func(n string) bool { return n != "" })
	}
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
	if n := a.unlabelled(); n > 0 {
		a.notes = append(a.notes, fmt.Sprintf("%d images have no label in %s", n, table))
	}
	return few(errs)
}

func (a *album) unlabelled() (n int) {
	for _, p := range a.pictures {
		if p.label == "" {
			n++
		}
	}
	return n
}

// divide fills in the divisions.
func (a *album) divide(o ImageOptions, find func(table, name string) (int, error)) error {
	if o.Splits == "" {
		if len(o.Split) > 0 {
			return errors.New("--split names a column of --splits: give that file, too")
		}
		return a.divideAlone(o.TrainShare)
	}
	rows, names, err := readTable(o.Splits, find)
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
		var val, out []int
		for i, p := range a.pictures {
			if halves[i] == nil {
				continue
			}
			switch half(halves[i][column]) {
			case "train":
				d.train = append(d.train, i)
			case "test":
				d.test = append(d.test, i)
			case "val":
				val = append(val, i)
			default:
				if cell := strings.TrimSpace(halves[i][column]); cell == "" || cell == "-" {
					out = append(out, i)
					continue
				}
				errs = append(errs, fmt.Errorf("%s, line %d: %s is %q in %s: want train or test", o.Splits, lines[i], p.name, halves[i][column], name))
			}
		}
		if len(out) > 0 {
			a.notes = append(a.notes, fmt.Sprintf("%d images are in neither part of split %s and left out of it", len(out), name))
		}
		a.divisions = append(a.divisions, a.validated(d, val))
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

// validated adds images for validation to a division: they are judged where no
// others are, and else left out, as the night chooses its own to hold back.
func (a *album) validated(d division, val []int) division {
	if len(val) == 0 {
		return d
	}
	if len(d.test) == 0 {
		a.notes = append(a.notes, fmt.Sprintf("split %s has none to test: the %d images to validate are judged", d.name, len(val)))
		d.test = val
		return d
	}
	a.notes = append(a.notes, fmt.Sprintf("split %s: %d images to validate are left out, neither learned from nor judged", d.name, len(val)))
	return d
}

// divideAlone divides by folders called train and test, or else takes a share
// of each label to learn from.
func (a *album) divideAlone(share float64) error {
	d := division{name: byFolders}
	var val []int
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
		case "val":
			val = append(val, i)
		}
	}
	if n := len(d.train) + len(d.test) + len(val); n == len(a.pictures) {
		a.divisions = []division{a.validated(d, val)}
		return nil
	} else if n > 0 {
		return fmt.Errorf("%d of %d images are in folders called train, val or test: give --splits for the others", n, len(a.pictures))
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
					a.notes = append(a.notes, fmt.Sprintf("split %s: %s has %d images labelled %q to judge and none to learn from: they count as named wrong", d.name, class, test[label], label))
				}
			}
		}
	}
	return few(errs)
}

// readable decodes every picture once, and takes those that cannot be read out
// of the divisions.
func (a *album) readable() error {
	var errs []error
	broken := map[int]bool{}
	for i, p := range a.pictures {
		b, err := os.ReadFile(p.path)
		if err == nil {
			_, err = frame.Decode(b, frame.Limits{})
		}
		if err != nil {
			broken[i] = true
			errs = append(errs, fmt.Errorf("%s cannot be read: %w", p.name, err))
		}
	}
	if len(errs) == len(a.pictures) {
		return few(errs)
	}
	a.broken = len(errs)
	if len(errs) > 0 {
		a.notes = append(a.notes, strings.Split(few(errs).Error(), "\n")...)
		a.notes = append(a.notes, fmt.Sprintf("%d of %d images cannot be read and are left out", len(errs), len(a.pictures)))
	}
	for n := range a.divisions {
		d := &a.divisions[n]
		gone := func(i int) bool { return broken[i] }
		d.train, d.test = slices.DeleteFunc(d.train, gone), slices.DeleteFunc(d.test, gone)
	}
	return nil
}

// tableRow is one line of a table of files.
type tableRow struct {
	line  int // in the table, from 1
	file  string
	cells []string // all columns
}

// readTable reads a CSV file whose first line names its columns, one of them
// "file" or a usual word for it. names has the others' names, and an empty one in
// the place of file. Where the first line names an image it is a row, and the
// first column the files.
func readTable(table string, find func(table, name string) (int, error)) (rows []tableRow, names []string, err error) {
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
	var rest [][]string
	file := -1
	if _, err := find(table, strings.TrimSpace(names[0])); err == nil {
		rest = [][]string{slices.Clone(names)}
		names[0] = "file"
		for i := 1; i < len(names); i++ {
			names[i] = fmt.Sprintf("column %d", i+1)
		}
	}
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
		if file < 0 && slices.Contains(fileNames, strings.ToLower(names[i])) {
			file, names[i] = i, ""
		} else if names[i] == "" {
			return nil, nil, fmt.Errorf("%s: column %d has no name", table, i+1)
		}
	}
	if file < 0 {
		return nil, nil, fmt.Errorf("%s has no column file: its first line must name its columns", table)
	}
	for _, cells := range rest {
		rows = append(rows, tableRow{1, strings.TrimSpace(cells[file]), cells})
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

// fileNames are what a column with the names of files is called.
var fileNames = []string{"file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "image_name", "img", "name"}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
