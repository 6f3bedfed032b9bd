package onnx

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// Limits bound what Check accepts. A zero field means its default.
type Limits struct {
	Bytes       int64 // of the file; default 64 MiB
	Items       int64 // messages, strings and list elements in the file, so that parsing it stays cheap; default 1 million
	Nodes       int   // operations in the graph; default 10 000
	Tensors     int   // constants in the graph; default 10 000
	Depth       int   // operations in a row, each needing the one before; default 2 000
	Activations int64 // bytes of all intermediate values of one run with batch 1; default 256 MiB
}

func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Bytes, 64<<20)
	def(&l.Items, 1<<20)
	def(&l.Activations, 256<<20)
	for _, f := range []struct {
		v *int
		d int
	}{{&l.Nodes, 10_000}, {&l.Tensors, 10_000}, {&l.Depth, 2_000}} {
		if *f.v == 0 {
			*f.v = f.d
		}
	}
	return l
}

// Check decides whether model may be handed to the inference runtime, and returns the contract it carries.
// It refuses what it does not know: unknown fields, operations, domains, element types and outputs. The
// error says which part of the file was refused and why.
func Check(model []byte, limits Limits) (contract.Contract, error) {
	limits = limits.withDefaults()
	m, err := read(model, limits, nil)
	if err != nil {
		return contract.Contract{}, fmt.Errorf("check model: %w", err)
	}
	c, err := check(m, limits)
	if err != nil {
		return contract.Contract{}, fmt.Errorf("check model: %w", err)
	}
	return c, nil
}

// Read decodes a model file under the same file-level limits as Check, without looking at its graph or
// contract.
func Read(model []byte, limits Limits) (*onnxpb.ModelProto, error) {
	m, err := read(model, limits.withDefaults(), nil)
	if err != nil {
		return nil, fmt.Errorf("read model: %w", err)
	}
	return m, nil
}

// read parses a file. Fields that are neither in the schema nor in skip are refused.
func read(model []byte, limits Limits, skip map[protoreflect.Name][]protowire.Number) (*onnxpb.ModelProto, error) {
	if int64(len(model)) > limits.Bytes {
		return nil, fmt.Errorf("file has %d bytes: at most %d are allowed", len(model), limits.Bytes)
	}
	m := &onnxpb.ModelProto{}
	s := survey{left: limits.Items, skip: skip}
	if err := s.message(model, m.ProtoReflect().Descriptor()); err != nil {
		return nil, err
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(model, m); err != nil {
		return nil, fmt.Errorf("not an ONNX file: %w", err)
	}
	return m, nil
}

// survey walks a file against the schema before it is parsed. Parsing turns two bytes into a struct of
// hundreds, so the number of items is bounded first; and a field our schema lacks is one whose effect in
// the runtime we have not thought about, so it is refused. The schema has no recursion, so neither has a
// file that passes.
type survey struct {
	left int64
	skip map[protoreflect.Name][]protowire.Number
}

func (s *survey) take(n int64) error {
	if s.left -= n; s.left < 0 {
		return fmt.Errorf("file has too many parts")
	}
	return nil
}

func (s *survey) message(p []byte, d protoreflect.MessageDescriptor) error {
	for len(p) > 0 {
		num, wire, n := protowire.ConsumeTag(p)
		if n < 0 {
			return fmt.Errorf("not an ONNX file: %w", protowire.ParseError(n))
		}
		p = p[n:]
		f := d.Fields().ByNumber(num)
		if f == nil && slices.Contains(s.skip[d.Name()], num) {
			if n = protowire.ConsumeFieldValue(num, wire, p); n < 0 {
				return fmt.Errorf("not an ONNX file: field %d of %s: %w", num, d.Name(), protowire.ParseError(n))
			}
			p = p[n:]
			continue
		}
		if f == nil {
			return fmt.Errorf("field %d of %s is not allowed", num, d.Name())
		}
		if err := s.take(1); err != nil {
			return err
		}
		if wire != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, wire, p); n < 0 {
				return fmt.Errorf("not an ONNX file: %s of %s: %w", f.Name(), d.Name(), protowire.ParseError(n))
			}
			p = p[n:]
			continue
		}
		body, n := protowire.ConsumeBytes(p)
		if n < 0 {
			return fmt.Errorf("not an ONNX file: %s of %s: %w", f.Name(), d.Name(), protowire.ParseError(n))
		}
		p = p[n:]
		switch f.Kind() {
		case protoreflect.MessageKind:
			if err := s.message(body, f.Message()); err != nil {
				return err
			}
		case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.FloatKind, protoreflect.DoubleKind:
			// As large in memory as in the file.
		default: // packed varints grow up to eightfold
			if err := s.take(int64(len(body))); err != nil {
				return err
			}
		}
	}
	return nil
}

func check(m *onnxpb.ModelProto, limits Limits) (contract.Contract, error) {
	none := contract.Contract{}
	// The runtime's own ceiling is higher; these are the versions whose rules this package knows.
	if v := m.GetIrVersion(); v < 7 || v > 10 {
		return none, fmt.Errorf("ONNX IR version %d is not supported: want 7 to 10", v)
	}
	if err := checkOperatorSets(m.OpsetImport); err != nil {
		return none, err
	}
	g := m.GetGraph()
	if g == nil {
		return none, fmt.Errorf("file has no graph")
	}
	metadata := make(map[string]string, len(m.MetadataProps))
	for _, e := range m.MetadataProps {
		if _, twice := metadata[e.GetKey()]; twice {
			return none, fmt.Errorf("metadata %q appears twice", e.GetKey())
		}
		metadata[e.GetKey()] = e.GetValue()
	}
	c, err := contract.Parse(metadata)
	if err != nil {
		return none, err
	}
	if err := checkSignature(g, c); err != nil {
		return none, err
	}
	if len(g.Node) > limits.Nodes {
		return none, fmt.Errorf("graph has %d operations: at most %d are allowed", len(g.Node), limits.Nodes)
	}
	if len(g.Initializer) > limits.Tensors {
		return none, fmt.Errorf("graph has %d constants: at most %d are allowed", len(g.Initializer), limits.Tensors)
	}
	if len(m.OpsetImport) == 1 && usesTrees(g) {
		return none, fmt.Errorf("operator set %s is used but is not imported", treeDomain)
	}
	in := input(c)
	values, err := Infer(g, map[string][]int64{in.name: append([]int64{1}, in.dims...)})
	if err != nil {
		return none, err
	}
	for _, name := range values.Order {
		if v := values.All[name]; v.depth > limits.Depth {
			return none, fmt.Errorf("value %q needs %d operations in a row: at most %d are allowed", name, v.depth, limits.Depth)
		}
	}
	if values.Bytes() > limits.Activations {
		return none, fmt.Errorf("one run would need more than %d bytes of memory", limits.Activations)
	}
	// What the graph declares was compared with the contract; here what it really computes is.
	for _, o := range outputs(c) {
		v, ok := values.All[o.name]
		if !ok {
			if o.optional {
				continue
			}
			return none, fmt.Errorf("nothing computes output %q", o.name)
		}
		want := append([]int64{1}, o.dims...)
		if v.Type != o.kind || !slices.Equal(v.Shape, want) {
			return none, fmt.Errorf("output %q is %v %v for a batch of one: want %v %v", o.name, v.Type, v.Shape, o.kind, want)
		}
	}
	return c, nil
}

// checkOperatorSets wants the standard operator set, and allows the one with trees beside it.
func checkOperatorSets(sets []*onnxpb.OperatorSetIdProto) error {
	if len(sets) == 0 || len(sets) > 2 {
		return fmt.Errorf("%d operator sets: want the standard one, and at most %s beside it", len(sets), treeDomain)
	}
	standard, trees := 0, 0
	for _, set := range sets {
		switch v := set.GetVersion(); {
		case standardDomain(set.GetDomain()):
			if standard++; v < 13 || v > 21 {
				return fmt.Errorf("operator set version %d is not supported: want 13 to 21", v)
			}
		case set.GetDomain() == treeDomain:
			if trees++; v != treeDomainVersion {
				return fmt.Errorf("version %d of operator set %s is not supported: want %d", v, treeDomain, treeDomainVersion)
			}
		default:
			return fmt.Errorf("operator domain %q is not allowed", set.GetDomain())
		}
	}
	if standard != 1 || trees > 1 {
		return fmt.Errorf("an operator set is missing or named twice: want the standard one, and at most %s beside it", treeDomain)
	}
	return nil
}

// port is an input or output that a contract names.
type port struct {
	name     string
	kind     DataType
	dims     []int64 // after the batch
	optional bool
}

// input is the only input of a model under contract c.
func input(c contract.Contract) port {
	if i := c.Image; i != nil {
		return port{name: contract.Pixels, kind: Uint8, dims: []int64{int64(i.Height), int64(i.Width), 3}}
	}
	return port{name: contract.Window, kind: Float, dims: []int64{int64(len(c.Channels)), int64(c.Window)}}
}

func outputs(c contract.Contract) []port {
	if i := c.Image; i != nil {
		out := []port{{name: contract.Score, kind: Float}, {name: contract.Anomaly, kind: Bool}}
		if len(i.Classes) > 0 {
			out = append(out, port{name: contract.Probs, kind: Float, dims: []int64{int64(len(i.Classes))}})
		}
		if i.Embedding > 0 {
			out = append(out, port{name: contract.Embedding, kind: Float, dims: []int64{int64(i.Embedding)}})
		}
		return out
	}
	return []port{
		{name: contract.Score, kind: Float},
		{name: contract.Anomaly, kind: Bool},
		{name: contract.ChannelScore, kind: Float, dims: []int64{int64(len(c.Channels))}, optional: true},
	}
}

// checkSignature compares the declared inputs and outputs with the contract.
func checkSignature(g *onnxpb.GraphProto, c contract.Contract) error {
	in := input(c)
	if len(g.Input) != 1 || g.Input[0].GetName() != in.name {
		return fmt.Errorf("graph has %d inputs: want only %q", len(g.Input), in.name)
	}
	if err := checkDeclared(g.Input[0], in.kind, in.dims); err != nil {
		return err
	}
	declared := map[string]*onnxpb.ValueInfoProto{}
	for _, o := range g.Output {
		if declared[o.GetName()] != nil {
			return fmt.Errorf("output %q is declared twice", o.GetName())
		}
		declared[o.GetName()] = o
	}
	for _, want := range outputs(c) {
		v := declared[want.name]
		delete(declared, want.name)
		if v == nil {
			if want.optional {
				continue
			}
			return fmt.Errorf("output %q is missing", want.name)
		}
		if err := checkDeclared(v, want.kind, want.dims); err != nil {
			return err
		}
	}
	for name := range declared {
		return fmt.Errorf("output %q is not in the contract", name)
	}
	return nil
}

func checkDeclared(v *onnxpb.ValueInfoProto, kind DataType, dims []int64) error {
	t := v.GetType().GetTensorType()
	if t == nil || t.Shape == nil {
		return fmt.Errorf("%q declares no tensor shape", v.GetName())
	}
	if DataType(t.GetElemType()) != kind {
		return fmt.Errorf("%q is declared as %v: want %v", v.GetName(), DataType(t.GetElemType()), kind)
	}
	got := t.Shape.Dim
	if len(got) != len(dims)+1 {
		return fmt.Errorf("%q is declared with %d dimensions: want %d", v.GetName(), len(got), len(dims)+1)
	}
	if _, free := got[0].Value.(*onnxpb.TensorShapeProto_Dimension_DimValue); free {
		return fmt.Errorf("%q has a fixed batch size: its first dimension must be free", v.GetName())
	}
	for i, want := range dims {
		if d, ok := got[i+1].Value.(*onnxpb.TensorShapeProto_Dimension_DimValue); !ok || d.DimValue != want {
			return fmt.Errorf("%q: dimension %d is not the %d of the contract", v.GetName(), i+1, want)
		}
	}
	return nil
}

func standardDomain(d string) bool { return d == "" || d == "ai.onnx" }
