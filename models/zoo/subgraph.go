package zoo

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// subgraph is the part of g that the named values need, with a prefix before every name so that it can stand in
// another graph. It has neither inputs nor outputs.
func subgraph(g *onnxpb.GraphProto, prefix string, values ...string) *onnxpb.GraphProto {
	needed := map[string]bool{}
	for _, v := range values {
		needed[v] = true
	}
	var nodes []*onnxpb.NodeProto
	for _, n := range slices.Backward(g.Node) {
		if !slices.ContainsFunc(n.Output, func(o string) bool { return needed[o] }) {
			continue
		}
		for _, in := range n.Input {
			needed[in] = true
		}
		nodes = append(nodes, proto.CloneOf(n))
	}
	slices.Reverse(nodes)
	out := &onnxpb.GraphProto{}
	for _, n := range nodes {
		for _, names := range [][]string{n.Input, n.Output} {
			for i, name := range names {
				if name != "" {
					names[i] = prefix + name
				}
			}
		}
		n.Name = proto.String(prefix + n.GetName())
		out.Node = append(out.Node, n)
	}
	for _, t := range g.Initializer {
		if needed[t.GetName()] {
			t = proto.CloneOf(t)
			t.Name = proto.String(prefix + t.GetName())
			out.Initializer = append(out.Initializer, t)
		}
	}
	return out
}
