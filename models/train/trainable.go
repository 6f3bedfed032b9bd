package train

import (
	"maps"
	"slices"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// Untrainable names the operations of g that have no gradient here, sorted and once each; nil when all have one.
func Untrainable(g *onnxpb.GraphProto) []string {
	missing := map[string]bool{}
	for _, n := range g.GetNode() {
		// A GRU is written out in others that have one.
		if _, ok := rules[n.GetOpType()]; !ok && n.GetOpType() != "GRU" {
			missing[n.GetOpType()] = true
		}
	}
	return slices.Sorted(maps.Keys(missing))
}
