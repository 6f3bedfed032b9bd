package hub

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Parse reads a configuration. A key that does not exist is an error that
// names it, its line and the key that was probably meant.
func Parse(b []byte) (Config, error) {
	var cfg Config
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return cfg, err
	}
	if len(doc.Content) == 0 {
		return cfg, errors.New("is empty: data_dir is required")
	}
	var errs []error
	unknownKeys(doc.Content[0], reflect.TypeFor[Config](), "", &errs)
	if err := errors.Join(errs...); err != nil {
		return cfg, err
	}
	if err := doc.Decode(&cfg); err != nil {
		return cfg, err
	}
	return cfg, cfg.Validate()
}

// unknownKeys walks a document beside the type that it is to become.
func unknownKeys(n *yaml.Node, t reflect.Type, at string, errs *[]error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		fields := map[string]reflect.Type{}
		keysOf(t, fields)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if ft, ok := fields[k.Value]; ok {
				unknownKeys(n.Content[i+1], ft, at+k.Value+".", errs)
				continue
			}
			msg := fmt.Sprintf("line %d: unknown key %s%s", k.Line, at, k.Value)
			if near := nearest(k.Value, fields); near != "" {
				msg += fmt.Sprintf(": did you mean %s%s?", at, near)
			}
			*errs = append(*errs, errors.New(msg))
		}
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for i, c := range n.Content {
			unknownKeys(c, t.Elem(), fmt.Sprintf("%s[%d].", strings.TrimSuffix(at, "."), i), errs)
		}
	}
}

// keysOf lists the keys of a struct.
func keysOf(t reflect.Type, out map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case strings.Contains(opts, "inline"):
			keysOf(f.Type, out)
		case name == "":
			out[strings.ToLower(f.Name)] = f.Type
		default:
			out[name] = f.Type
		}
	}
}

// nearest returns the known key with the fewest edits to s, "" when none is
// close.
func nearest(s string, known map[string]reflect.Type) string {
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s)) }
	best, least := "", max(len(s)/3, 2)+1
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		if d := edits(plain(s), plain(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
