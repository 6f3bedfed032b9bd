package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/selector"
)

// changing are the properties of a device that come and go while a rollout
// runs, and that the fleet list alone can be searched by.
var changing = []string{"connected", "release", "state"}

// readSelector reads the selector of a policy or of one of its waves.
func readSelector(s string) (selector.Selector, error) {
	sel, err := selector.Parse(s)
	if err != nil {
		return sel, err
	}
	for _, t := range sel.Terms() {
		if slices.Contains(changing, t.Key) {
			return sel, fmt.Errorf("selector %q: %q changes while a rollout runs: choose devices by labels, site, node, name or class", s, t.Key)
		}
	}
	return sel, nil
}

// ValidFleet says what makes a selector unusable as a rollout's fleet.
func ValidFleet(s string) error {
	_, err := readSelector(s)
	return err
}

// NoFleet says why a rollout's fleet selector matches none of the hub's devices,
// and what there is instead.
func NoFleet(fleet string, devices []Device) error {
	sel, err := readSelector(fleet)
	if err != nil {
		return err
	}
	why := unknown(sel, devices)
	switch {
	case len(devices) == 0:
		why = "the hub has no device in service"
	case why == "":
		why = "no device matches all of it"
	}
	return fmt.Errorf("cannot start a rollout: the fleet selector %q matches no device: %s", fleet, why)
}

// Look returns what a selector sees under key: what the device is, or one of
// its labels. It is a selector.Look.
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
	}
	v, ok := d.Labels[key]
	return v, ok
}

// unknown returns the first term that wants a label or value no device has,
// and what there is instead, for a person who mistyped it.
func unknown(s selector.Selector, devices []Device) string {
	for _, t := range s.Terms() {
		if t.Not {
			continue
		}
		var values []string
		for i := range devices {
			if v, ok := devices[i].Look(t.Key); ok {
				values = append(values, v)
			}
		}
		if len(values) == 0 {
			return fmt.Sprintf("no device has the label %q; there are %s", t.Key, labels(devices))
		}
		for _, v := range t.Values {
			if !slices.Contains(values, v) {
				return fmt.Sprintf("no device has %s=%s; there are %s", t.Key, v, list(values))
			}
		}
	}
	return ""
}

// list sorts words, drops doubles and shows at most ten.
func list(words []string) string {
	slices.Sort(words)
	words = slices.Compact(words)
	if len(words) == 0 {
		return "none"
	}
	if len(words) > 10 {
		return strings.Join(words[:10], ", ") + " and " + fmt.Sprint(len(words)-10) + " more"
	}
	return strings.Join(words, ", ")
}
