// Package onnx writes, reads and checks ONNX models.
//
// Two parties use it. On the hub, models/zoo and models/train write graphs with Builder and get the same
// bytes for the same model every time. On a device, the agent runs Check on a downloaded file before any
// native code sees it: Check bounds what the file may hold, what its graph may do and how much memory one
// run may take, and returns the contract the model carries.
//
// Check does not prove that a model is good, nor that ONNX Runtime has no bug: the agent still runs the
// first inference under limits and compares golden vectors. Bytes are signed as they are; a model is never
// re-marshalled on its way to a device.
//
// The package imports models/contract and the protobuf runtime; anyone in models, cloud and agent may
// import it.
package onnx

import (
	"fmt"
	"sort"

	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// The versions written by Builder: old enough for every runtime in the field.
const (
	irVersion = 8
	opset     = 17
)

// DataType is the element type of a tensor.
type DataType = onnxpb.TensorProto_DataType

// The element types Swell's own graphs use.
const (
	Float = onnxpb.TensorProto_FLOAT
	Int64 = onnxpb.TensorProto_INT64
	Bool  = onnxpb.TensorProto_BOOL
	Uint8 = onnxpb.TensorProto_UINT8
)

// Batch as a dimension stands for the batch, whose size is chosen when the model runs.
const Batch int64 = -1

// Attr is an attribute of a node. Make it with Int, Ints, Float32 or Text.
type Attr struct{ pb *onnxpb.AttributeProto }

// Int makes an integer attribute.
func Int(name string, v int64) Attr {
	return Attr{&onnxpb.AttributeProto{Name: &name, I: &v, Type: onnxpb.AttributeProto_INT.Enum()}}
}

// Ints makes an attribute that is a list of integers.
func Ints(name string, v ...int64) Attr {
	return Attr{&onnxpb.AttributeProto{Name: &name, Ints: v, Type: onnxpb.AttributeProto_INTS.Enum()}}
}

// Float32 makes a floating-point attribute.
func Float32(name string, v float32) Attr {
	return Attr{&onnxpb.AttributeProto{Name: &name, F: &v, Type: onnxpb.AttributeProto_FLOAT.Enum()}}
}

// Text makes a string attribute.
func Text(name, v string) Attr {
	return Attr{&onnxpb.AttributeProto{Name: &name, S: []byte(v), Type: onnxpb.AttributeProto_STRING.Enum()}}
}

// Builder assembles a graph, node after node, in execution order. The zero value is an empty graph.
type Builder struct {
	// Prefix begins every name the builder makes up, so that graphs of two builders can be joined.
	Prefix string
	graph  onnxpb.GraphProto
	serial int // of the last made-up value name
}

// Input declares a graph input and returns its name. A dimension may be Batch.
func (b *Builder) Input(name string, t DataType, dims ...int64) string {
	b.graph.Input = append(b.graph.Input, valueInfo(name, t, dims))
	return name
}

// Output declares that the value called name is a graph output.
func (b *Builder) Output(name string, t DataType, dims ...int64) {
	b.graph.Output = append(b.graph.Output, valueInfo(name, t, dims))
}

// Floats adds a float32 constant of the given shape and returns its name. It keeps a copy of data.
func (b *Builder) Floats(name string, data []float32, dims ...int64) string {
	b.graph.Initializer = append(b.graph.Initializer, floatTensor(name, data, dims))
	return name
}

// Ints adds a one-dimensional int64 constant, such as a shape or a list of axes, and returns its made-up name.
func (b *Builder) Ints(data ...int64) string {
	name := b.fresh("ints")
	b.graph.Initializer = append(b.graph.Initializer, &onnxpb.TensorProto{
		Name: &name, DataType: new(int32(Int64)), Dims: []int64{int64(len(data))}, Int64Data: data,
	})
	return name
}

// Scalar adds a float32 constant of shape [1] and returns its made-up name.
func (b *Builder) Scalar(v float32) string {
	return b.Floats(b.fresh("scalar"), []float32{v}, 1)
}

// Number adds a float32 constant without dimensions, as some operations want their bounds, and returns its
// made-up name.
func (b *Builder) Number(v float32) string { return b.Floats(b.fresh("number"), []float32{v}) }

// Node appends an operation of the standard domain with one output and returns the output's made-up name.
func (b *Builder) Node(op string, inputs []string, attrs ...Attr) string {
	out := b.fresh(op)
	b.NodeTo([]string{out}, op, inputs, attrs...)
	return out
}

// NodeTo appends an operation whose outputs have the given names.
func (b *Builder) NodeTo(outputs []string, op string, inputs []string, attrs ...Attr) {
	n := &onnxpb.NodeProto{OpType: &op, Input: inputs, Output: outputs, Name: new(fmt.Sprintf("%sn%d", b.Prefix, len(b.graph.Node)))}
	for _, a := range attrs {
		n.Attribute = append(n.Attribute, a.pb)
	}
	b.graph.Node = append(b.graph.Node, n)
}

// Graph returns what was built so far. It stays owned by the builder.
func (b *Builder) Graph() *onnxpb.GraphProto { return &b.graph }

// Marshal wraps graph into a model with the given metadata and encodes it. The same graph and metadata
// give the same bytes.
func Marshal(name string, graph *onnxpb.GraphProto, metadata map[string]string) ([]byte, error) {
	graph.Name = &name
	m := &onnxpb.ModelProto{
		IrVersion:    proto.Int64(irVersion),
		ProducerName: new("swell"),
		Graph:        graph,
		OpsetImport:  []*onnxpb.OperatorSetIdProto{{Domain: new(""), Version: proto.Int64(opset)}},
	}
	if usesTrees(graph) {
		m.OpsetImport = append(m.OpsetImport, &onnxpb.OperatorSetIdProto{Domain: new(treeDomain), Version: proto.Int64(treeDomainVersion)})
	}
	keys := make([]string, 0, len(metadata))
	for k := range metadata {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		m.MetadataProps = append(m.MetadataProps, &onnxpb.StringStringEntryProto{Key: new(k), Value: new(metadata[k])})
	}
	p, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal ONNX model %s: %w", name, err)
	}
	return p, nil
}

// fresh makes a value name that no other call of this builder made.
func (b *Builder) fresh(stem string) string {
	b.serial++
	return fmt.Sprintf("%s%s_%d", b.Prefix, stem, b.serial)
}

func valueInfo(name string, t DataType, dims []int64) *onnxpb.ValueInfoProto {
	shape := &onnxpb.TensorShapeProto{}
	for _, d := range dims {
		dim := &onnxpb.TensorShapeProto_Dimension{Value: &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: d}}
		if d == Batch {
			dim.Value = &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: "batch"}
		}
		shape.Dim = append(shape.Dim, dim)
	}
	return &onnxpb.ValueInfoProto{Name: &name, Type: &onnxpb.TypeProto{Value: &onnxpb.TypeProto_TensorType{
		TensorType: &onnxpb.TypeProto_Tensor{ElemType: new(int32(t)), Shape: shape},
	}}}
}
