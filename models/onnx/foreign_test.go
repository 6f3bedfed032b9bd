package onnx

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// strangers are networks as PyTorch exports them; see the make.py beside them.
func strangers(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../zoo/testdata/networks/*.onnx")
	if err != nil || len(names) == 0 {
		t.Fatalf("no networks: %v", err)
	}
	out := map[string][]byte{}
	for _, n := range names {
		if out[strings.TrimSuffix(filepath.Base(n), ".onnx")], err = os.ReadFile(n); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Exporters compute shapes inside the graph; what they come to is known before the run.
func TestShapesThatTheGraphComputesAreKnown(t *testing.T) {
	for name, want := range map[string][]int64{"flat": {5, 3, 16}, "conv": {5, 3, 16}, "lstm": {5, 16, 3}, "gru": {5, 3}, "attention": {5, 16, 3}, "score": {5, 1}} {
		m, err := ReadForeign(strangers(t)[name], Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		in := []int64{5, 3, 16}
		if len(want) == 2 && name == "gru" || name == "lstm" || name == "attention" {
			in = []int64{5, 16, 3}
		}
		vs, err := Infer(m.Graph, map[string][]int64{"x": in})
		if got := vs.All["y"].Shape; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, want)
		}
	}
}

func TestListsOfIntegersAreCalculatedAhead(t *testing.T) {
	for name, c := range map[string]struct {
		make func(b *Builder, x string) string // a list computed from x [2, 3, 8]
		want []int64
	}{
		"a part of the shape": {func(b *Builder, x string) string {
			return b.Node("Gather", []string{b.Node("Shape", []string{x}), b.Ints(-1, 0)})
		}, []int64{8, 2}},
		"parts put together": {func(b *Builder, x string) string {
			s := b.Node("Shape", []string{x})
			first := b.Node("Slice", []string{s, b.Ints(0), b.Ints(1), b.Ints(0)})
			rest := b.Node("Div", []string{b.Node("Mul", []string{b.Node("Slice", []string{s, b.Ints(1), b.Ints(3), b.Ints(0)}), b.Ints(6)}), b.Ints(3)})
			return b.Node("Concat", []string{first, rest}, Int("axis", 0))
		}, []int64{2, 6, 16}},
		"a list backwards": {func(b *Builder, x string) string {
			return b.Node("Slice", []string{b.Node("Shape", []string{x}), b.Ints(-1), b.Ints(-1 << 62), b.Ints(0), b.Ints(-2)})
		}, []int64{8, 2}},
		"rows of a table backwards, then its columns": {func(b *Builder, x string) string {
			table := b.Node("Reshape", []string{b.Ints(1, 2, 3, 4, 5, 6), b.Ints(-1, 2)})
			table = b.Node("Slice", []string{table, b.Ints(-1), b.Ints(-1 << 62), b.Ints(0), b.Ints(-1)})
			return b.Node("Reshape", []string{b.Node("Transpose", []string{table}, Ints("perm", 1, 0)), b.Ints(-1)})
		}, []int64{5, 3, 1, 6, 4, 2}},
	} {
		b := &Builder{}
		x := b.Input("x", Float, 2, 3, 8)
		b.NodeTo([]string{"y"}, "Identity", []string{c.make(b, x)})
		vs, err := Infer(b.Graph(), map[string][]int64{"x": {2, 3, 8}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, ok := known(vs.All["y"]); !ok || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, known %v; want %v", name, got, ok, c.want)
		}
	}
}

func TestNoListIsCalculatedWhereThereIsNoResult(t *testing.T) {
	for name, f := range map[string]func(b *Builder, x string) string{
		"a division by zero": func(b *Builder, _ string) string { return b.Node("Div", []string{b.Ints(3), b.Ints(0)}) },
		"a place outside": func(b *Builder, x string) string {
			return b.Node("Gather", []string{b.Node("Shape", []string{x}), b.Ints(7)})
		},
		"numbers out of bound": func(b *Builder, _ string) string { return b.Node("Mul", []string{b.Ints(1 << 40), b.Ints(1 << 40)}) },
	} {
		b := &Builder{}
		x := b.Input("x", Float, 2, 3)
		b.NodeTo([]string{"y"}, "Reshape", []string{x, f(b, x)})
		if _, err := Infer(b.Graph(), map[string][]int64{"x": {2, 3}}); err == nil || !strings.Contains(err.Error(), "computed while the model runs") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// foreign is a graph of operator set 18 with a field of newer schemas in each node.
func foreign(t *testing.T, change func(*onnxpb.ModelProto)) []byte {
	t.Helper()
	b := &Builder{}
	x := b.Input("x", Float, Batch, 4)
	b.NodeTo([]string{"y"}, "ReduceMean", []string{x, b.Ints(1)}, Int("keepdims", 1), Int("noop_with_empty_axes", 0))
	b.Output("y", Float, Batch, 1)
	m := &onnxpb.ModelProto{IrVersion: proto.Int64(10), Graph: b.Graph(), OpsetImport: []*onnxpb.OperatorSetIdProto{{Version: proto.Int64(18)}}}
	m.Graph.Node[0].ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 9, protowire.BytesType), "origin"))
	if change != nil {
		change(m)
	}
	p, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewerOperatorSetsAreRewritten(t *testing.T) {
	file := foreign(t, nil)
	m, err := ReadForeign(file, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	n := m.Graph.Node[0]
	if m.OpsetImport[0].GetVersion() != opset || len(n.Input) != 1 || !slices.Equal(attributeOf(n, "axes").GetInts(), []int64{1}) || attributeOf(n, "noop_with_empty_axes") != nil {
		t.Errorf("read as %v", m)
	}
	if _, err := Infer(m.Graph, map[string][]int64{"x": {2, 4}}); err != nil {
		t.Error(err)
	}
	if _, err := Read(file, Limits{}); err == nil {
		t.Error("a file for a device may hold fields that nobody thought about")
	}
}

func TestWhatHasNoMeaningInOurOperatorSetIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*onnxpb.ModelProto)
		say    string
	}{
		"another operator set": {func(m *onnxpb.ModelProto) { m.OpsetImport[0].Version = proto.Int64(11) }, "want 13 to 21"},
		"axes that are computed": {func(m *onnxpb.ModelProto) {
			m.Graph.Initializer = nil
		}, "must be constant"},
		"a newer attribute": {func(m *onnxpb.ModelProto) {
			m.Graph.Node[0].OpType = proto.String("AveragePool")
			m.Graph.Node[0].Attribute = []*onnxpb.AttributeProto{Ints("dilations", 2).pb}
		}, "dilations"},
		"a function": {func(m *onnxpb.ModelProto) {
			m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 25, protowire.BytesType), "f"))
		}, "field 25"},
		"nothing": {func(m *onnxpb.ModelProto) { m.Graph = nil }, "no graph"},
	} {
		if _, err := ReadForeign(foreign(t, c.change), Limits{}); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.say)
		}
	}
}

// Whatever the bytes, reading and shapes give an answer.
func FuzzForeign(f *testing.F) {
	for _, b := range strangers(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		m, err := ReadForeign(file, Limits{})
		if err != nil {
			return
		}
		inputs := map[string][]int64{}
		for _, in := range m.Graph.Input {
			inputs[in.GetName()] = []int64{2, 3, 16}
		}
		if _, err := Infer(m.Graph, inputs); err != nil && err.Error() == "" {
			t.Error("no reason given")
		}
	})
}
