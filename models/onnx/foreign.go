package onnx

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// notes are fields that newer exporters use to say where a part of a graph came from. They change nothing, and
// what is built from a foreign graph does not carry them.
var notes = map[protoreflect.Name][]protowire.Number{
	"NodeProto": {8, 9}, "GraphProto": {14, 16}, "TensorProto": {16}, "ValueInfoProto": {4},
}

// ReadForeign decodes a file that another program wrote, under the same file-level limits as Check, and brings
// its graph to the operator set that Builder writes, so that both can be joined. It fails when the file holds
// what has no meaning there.
func ReadForeign(model []byte, limits Limits) (*onnxpb.ModelProto, error) {
	m, err := read(model, limits.withDefaults(), notes)
	if err == nil {
		err = lower(m)
	}
	if err != nil {
		return nil, fmt.Errorf("read model: %w", err)
	}
	return m, nil
}

// lower rewrites m from any operator set that Check knows to the one that Builder writes. Between 13 and 21 few
// of the known operations changed; those are rewritten or refused by name.
func lower(m *onnxpb.ModelProto) error {
	g := m.GetGraph()
	if g == nil {
		return fmt.Errorf("the file has no graph with an output")
	}
	if err := checkOperatorSets(m.OpsetImport); err != nil {
		return err
	}
	for _, set := range m.OpsetImport {
		if !standardDomain(set.GetDomain()) {
			continue
		}
		if set.GetVersion() > opset {
			lists := map[string]*onnxpb.TensorProto{}
			for _, t := range g.Initializer {
				lists[t.GetName()] = t
			}
			for i, n := range g.Node {
				if t := attributeOf(n, "value").GetT(); n.GetOpType() == "Constant" && t != nil && len(n.Output) == 1 {
					lists[n.Output[0]] = t
				}
				if err := lowerNode(n, lists); err != nil {
					return fmt.Errorf("operation %d (%s %q): %w", i, n.GetOpType(), n.GetName(), err)
				}
			}
		}
		set.Version = proto.Int64(opset)
	}
	m.IrVersion = proto.Int64(irVersion)
	return nil
}

func lowerNode(n *onnxpb.NodeProto, lists map[string]*onnxpb.TensorProto) error {
	drop := func(names ...string) {
		n.Attribute = slices.DeleteFunc(n.Attribute, func(a *onnxpb.AttributeProto) bool { return slices.Contains(names, a.GetName()) })
	}
	switch n.GetOpType() {
	case "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare":
		// Their axes were an attribute up to operator set 17.
		noop := attributeOf(n, "noop_with_empty_axes").GetI() != 0
		drop("noop_with_empty_axes")
		if len(n.Input) < 2 || n.Input[1] == "" {
			if noop {
				return fmt.Errorf("a reduction of nothing is not supported")
			}
			n.Input = n.Input[:min(len(n.Input), 1)]
			return nil
		}
		t := lists[n.Input[1]]
		if t == nil {
			return fmt.Errorf("its axes are computed while the model runs: they must be constant")
		}
		if err := checkTensor(t); err != nil {
			return err
		}
		axes, err := intData(t)
		if err != nil {
			return err
		}
		n.Input = n.Input[:1]
		n.Attribute = append(n.Attribute, Ints("axes", axes...).pb)
	case "Cast":
		drop("saturate") // it matters for types that are not allowed
	case "Split":
		drop("num_outputs") // as many as there are names
	case "Reshape", "Shape", "Resize", "Pad", "AveragePool":
		if attributeOf(n, "antialias").GetI() == 0 && slices.Contains([]string{"", "stretch"}, string(attributeOf(n, "keep_aspect_ratio_policy").GetS())) {
			drop("antialias", "keep_aspect_ratio_policy")
		}
		for _, a := range n.Attribute {
			if !slices.Contains(before18[n.GetOpType()], a.GetName()) {
				return fmt.Errorf("attribute %s of newer operator sets is not supported: export the model in operator set %d", a.GetName(), opset)
			}
		}
		if n.GetOpType() == "Pad" && len(n.Input) > 3 {
			return fmt.Errorf("axes are not supported: export the model in operator set %d", opset)
		}
	}
	return nil
}

// before18 are the attributes that these operations had in operator set 17.
var before18 = map[string][]string{
	"Reshape":     {"allowzero"},
	"Resize":      {"coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "mode", "nearest_mode"},
	"Pad":         {"mode"},
	"AveragePool": {"auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"},
}

func attributeOf(n *onnxpb.NodeProto, name string) *onnxpb.AttributeProto {
	for _, a := range n.Attribute {
		if a.GetName() == name {
			return a
		}
	}
	return nil
}
