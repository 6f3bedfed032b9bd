package backtest

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/topic"
)

// backbone is the name that a backbone has in the hub's garden.
const backbone = "backbone"

// networks are the models that go into the hub's garden, and the kinds that
// compete with them.
func networks(o Options) (brought []hub.GardenModel, kinds []string, err error) {
	kinds = o.Kinds
	if len(o.Networks) > 0 && len(kinds) == 0 {
		kinds = zoo.Competitors()
	}
	kinds = slices.Clone(kinds)
	for _, n := range o.Networks {
		file, raw := strings.CutSuffix(n, ":raw")
		name := strings.ToLower(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
		if err := topic.ValidName(name); err != nil {
			return nil, nil, fmt.Errorf("--network %s: the name of the file is what it is called by: %w", n, err)
		}
		kind := "garden:" + name
		if raw {
			kind += ":raw"
		}
		if !slices.ContainsFunc(brought, func(m hub.GardenModel) bool { return m.Name == name }) {
			brought = append(brought, hub.GardenModel{Name: name, File: file, Reason: "brought to a back-test"})
		}
		kinds = append(kinds, kind)
	}
	return brought, kinds, nil
}
