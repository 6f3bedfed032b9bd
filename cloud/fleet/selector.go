package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/selector"
)

// Reserved are the keys that selectors see beside labels; they win over labels
// of that name.
var Reserved = []string{"class", "connected", "name", "node", "release", "retired", "site", "state"}

// Look returns what a selector sees under key: a property of the device, or
// one of its labels. It is a selector.Look.
func (d *Device) Look(key string) (string, bool) {
	switch key {
	case "site":
		return d.ID.Site, true
	case "node":
		return d.ID.Node, true
	case "name":
		return d.ID.String(), true
	case "class":
		return string(d.Class), d.Class != ""
	case "state":
		return string(d.State), true
	case "connected":
		if d.Connected {
			return "true", true
		}
		return "false", false
	case "retired":
		if d.Retired() {
			return "true", true
		}
		return "false", false
	case "release":
		if c := d.Report.Doc.Champion; c != nil {
			return fmt.Sprintf("%s-%d", c.Name, c.Counter), true
		}
		return "", false
	}
	return d.Label(key)
}

// UnknownKey means that a selector asks for a label no device has, which is
// more often a slip of the pen than a wish for nothing.
type UnknownKey struct {
	Key   string
	Known []string // sorted: labels that exist, and the reserved keys
}

// Error lists the labels that exist.
func (e UnknownKey) Error() string {
	return fmt.Sprintf("no device has the label %q; there are: %s", e.Key, strings.Join(e.Known, ", "))
}

// check reports the first term that wants a label nobody has. Terms that want
// a label not to be there are fine without it.
func check(s selector.Selector, labels map[string]int) error {
	for _, t := range s.Terms() {
		if t.Not || slices.Contains(Reserved, t.Key) || labels[t.Key] > 0 {
			continue
		}
		known := slices.Collect(maps.Keys(labels))
		known = append(known, Reserved...)
		slices.Sort(known)
		return UnknownKey{Key: t.Key, Known: known}
	}
	return nil
}
