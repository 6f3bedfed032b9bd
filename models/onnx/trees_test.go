package onnx

import (
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// forest is a detector that keeps the contract: two trees over the window's rows of four samples.
func forest() *onnxpb.GraphProto {
	b := &Builder{}
	rows := b.Node("Reshape", []string{b.Input(contract.Window, Float, Batch, 2, 4), b.Ints(-1, 4)})
	y := b.Trees(rows, [][]TreeNode{
		{{Feature: 3, Value: 0.5, Low: 1, High: 2}, {Value: 4}, {Feature: 0, Value: -1, Low: 3, High: 4}, {Value: 2}, {Value: 3}},
		{{Value: 7}},
	})
	b.NodeTo([]string{contract.Score}, "ReduceMean", []string{b.Node("Reshape", []string{y, b.Ints(-1, 2)})}, Ints("axes", 1), Int("keepdims", 0))
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{b.Node("LessOrEqual", []string{contract.Score, b.Scalar(1)})})
	b.Output(contract.Score, Float, Batch)
	b.Output(contract.Anomaly, Bool, Batch)
	return b.Graph()
}

func TestCheckAcceptsTrees(t *testing.T) {
	if _, err := Check(marshal(t, forest()), Limits{}); err != nil {
		t.Error(err)
	}
}

func TestTheDomainOfTreesIsNamedOnlyWhereThereAreTrees(t *testing.T) {
	for name, c := range map[string]struct {
		graph *onnxpb.GraphProto
		want  int
	}{"a forest": {forest(), 2}, "no forest": {detector(), 1}} {
		m, err := Read(marshal(t, c.graph), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if len(m.OpsetImport) != c.want {
			t.Errorf("%s: operator sets are %v", name, m.OpsetImport)
		}
	}
}

// Every way in which an ensemble is refused, as a change to one that is accepted.
func TestCheckRefusesHostileTrees(t *testing.T) {
	type lists struct {
		node *onnxpb.NodeProto
		at   func(name string) *onnxpb.AttributeProto
	}
	for name, c := range map[string]struct {
		change func(m *onnxpb.ModelProto, l lists)
		want   string
	}{
		"another operation of the domain":    {func(_ *onnxpb.ModelProto, l lists) { l.node.OpType = new("TreeEnsembleClassifier") }, "operation is not allowed"},
		"a standard operation in the domain": {func(_ *onnxpb.ModelProto, l lists) { l.node.OpType = new("Relu") }, "operation is not allowed"},
		"trees in the standard domain":       {func(_ *onnxpb.ModelProto, l lists) { l.node.Domain = new("") }, "operation is not allowed"},
		"trees of another vendor":            {func(_ *onnxpb.ModelProto, l lists) { l.node.Domain = new("com.example") }, `domain "com.example" is not allowed`},
		"another version of the domain":      {func(m *onnxpb.ModelProto, _ lists) { m.OpsetImport[1].Version = new(int64(5)) }, "version 5 of operator set ai.onnx.ml"},
		"the domain twice":                   {func(m *onnxpb.ModelProto, _ lists) { m.OpsetImport[0] = m.OpsetImport[1] }, "missing or named twice"},
		"three domains":                      {func(m *onnxpb.ModelProto, _ lists) { m.OpsetImport = append(m.OpsetImport, m.OpsetImport[1]) }, "3 operator sets"},
		"no domain":                          {func(m *onnxpb.ModelProto, _ lists) { m.OpsetImport = nil }, "0 operator sets"},
		"a domain that is not imported":      {func(m *onnxpb.ModelProto, _ lists) { m.OpsetImport = m.OpsetImport[:1] }, "is not imported"},

		"an unknown attribute": {func(_ *onnxpb.ModelProto, l lists) { l.at("n_targets").Name = new("base_values") }, `attribute "base_values" is not allowed`},
		"an attribute twice":   {func(_ *onnxpb.ModelProto, l lists) { l.node.Attribute = append(l.node.Attribute, l.at("nodes_values")) }, `"nodes_values" appears twice`},
		"a list of another type": {func(_ *onnxpb.ModelProto, l lists) {
			l.at("nodes_values").Type = onnxpb.AttributeProto_INTS.Enum()
		}, "is of type INTS: want FLOATS"},
		"another sum": {func(_ *onnxpb.ModelProto, l lists) { l.at("aggregate_function").S = []byte("MAX") }, `"MAX" is not allowed`},
		"a transform": {func(_ *onnxpb.ModelProto, l lists) {
			l.node.Attribute = append(l.node.Attribute, Text("post_transform", "PROBIT").pb)
		}, `"PROBIT" is not allowed`},
		"many targets":        {func(_ *onnxpb.ModelProto, l lists) { l.at("n_targets").I = new(int64(math.MaxInt64)) }, "targets: want 1"},
		"no nodes":            {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_treeids").Ints = nil }, "0 tree nodes"},
		"too many nodes":      {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_treeids").Ints = make([]int64, maxTreeNodes+1) }, "200001 tree nodes"},
		"no modes":            {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_modes").Strings = nil }, "want as many in each"},
		"a threshold too few": {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_values").Floats = l.at("nodes_values").Floats[1:] }, "want as many in each"},
		"a child list too long": {func(_ *onnxpb.ModelProto, l lists) {
			l.at("nodes_truenodeids").Ints = append(l.at("nodes_truenodeids").Ints, 0)
		}, "want as many in each"},
		"a threshold of NaN":      {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_values").Floats[0] = float32(math.NaN()) }, "thresholds hold NaN"},
		"an infinite answer":      {func(_ *onnxpb.ModelProto, l lists) { l.at("target_weights").Floats[0] = float32(math.Inf(1)) }, "answers hold NaN or infinite"},
		"a feature past the row":  {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_featureids").Ints[0] = 4 }, "feature 4 is not one of the 4"},
		"a feature before it":     {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_featureids").Ints[0] = -1 }, "feature -1 is not one of the 4"},
		"another comparison":      {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_modes").Strings[0] = []byte("BRANCH_EQ") }, `mode "BRANCH_EQ" is not allowed`},
		"a tree out of order":     {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_treeids").Ints[5] = 2 }, "tree 2 is out of order"},
		"a tree in two parts":     {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_treeids").Ints[2] = 1 }, "is not one of the nodes after it"},
		"a node's number changed": {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_nodeids").Ints[1] = 3 }, "its number is 3"},
		"a cycle":                 {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_falsenodeids").Ints[2] = 0 }, "child 0 is not one of the nodes after it"},
		"a branch to itself":      {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_truenodeids").Ints[2] = 2 }, "child 2 is not one of the nodes after it"},
		"a child that is missing": {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_falsenodeids").Ints[2] = 5 }, "child 5 is not one of the nodes after it"},
		"a negative child":        {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_truenodeids").Ints[0] = math.MinInt64 }, "is not one of the nodes after it"},
		"a child of two branches": {func(_ *onnxpb.ModelProto, l lists) {
			l.at("nodes_falsenodeids").Ints[0] = 4
			l.at("nodes_falsenodeids").Ints[2] = 4
		}, "no branch leads to it"},
		"a branch with one child": {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_falsenodeids").Ints[0] = 1 }, "child 1 has a parent already"},
		"a leaf with a child":     {func(_ *onnxpb.ModelProto, l lists) { l.at("nodes_truenodeids").Ints[1] = 2 }, "a leaf has no children"},
		"a node left over": {func(_ *onnxpb.ModelProto, l lists) {
			l.at("nodes_modes").Strings[2] = []byte(leafMode)
			l.at("nodes_truenodeids").Ints[2], l.at("nodes_falsenodeids").Ints[2] = 0, 0
		}, "node 3 of tree 0: no branch leads to it"},
		"a leaf without an answer": {func(_ *onnxpb.ModelProto, l lists) {
			l.at("target_treeids").Ints = l.at("target_treeids").Ints[1:]
		}, "want one for each of the 4 leaves"},
		"an answer for a branch":        {func(_ *onnxpb.ModelProto, l lists) { l.at("target_nodeids").Ints[1] = 2 }, "want leaf 3 of tree 0"},
		"an answer for no tree":         {func(_ *onnxpb.ModelProto, l lists) { l.at("target_treeids").Ints[3] = 9 }, "node 0 of tree 9"},
		"an answer for a second target": {func(_ *onnxpb.ModelProto, l lists) { l.at("target_ids").Ints[0] = 1 }, "target 1: there is one only"},
		"a second input":                {func(_ *onnxpb.ModelProto, l lists) { l.node.Input = append(l.node.Input, l.node.Input[0]) }, "has 2 inputs"},
		"rows of no known length":       {func(_ *onnxpb.ModelProto, l lists) { l.node.Input[0] = contract.Window }, "want rows of float32 features"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &onnxpb.ModelProto{}
			if err := proto.Unmarshal(marshal(t, forest()), m); err != nil {
				t.Fatal(err)
			}
			n := m.Graph.Node[slices.IndexFunc(m.Graph.Node, func(n *onnxpb.NodeProto) bool { return n.GetDomain() == treeDomain })]
			c.change(m, lists{n, func(name string) *onnxpb.AttributeProto {
				return n.Attribute[slices.IndexFunc(n.Attribute, func(a *onnxpb.AttributeProto) bool { return a.GetName() == name })]
			}})
			p, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, p, Limits{}, c.want)
		})
	}
}

// A tree that is a chain would send a runtime that walks it by recursion to the end of its stack.
func TestCheckRefusesATreeThatIsTooDeep(t *testing.T) {
	for depth, want := range map[int]string{maxTreeDepth: "", maxTreeDepth + 1: "deeper than 256"} {
		var tree []TreeNode
		for i := range depth - 1 {
			tree = append(tree, TreeNode{Low: 2*i + 1, High: 2*i + 2}, TreeNode{})
		}
		tree = append(tree, TreeNode{})
		b := &Builder{}
		b.Trees(b.Input("x", Float, 1, 1), [][]TreeNode{tree})
		_, err := Infer(b.Graph(), map[string][]int64{"x": {1, 1}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestEachTreeNodeCountsAsPartsOfTheFile(t *testing.T) {
	b := &Builder{}
	b.Trees(b.Input("x", Float, 1, 1), slices.Repeat([][]TreeNode{{{Value: 1}}}, 1000))
	p := marshal(t, b.Graph())
	if _, err := Read(p, Limits{Items: 7000}); err == nil || !strings.Contains(err.Error(), "too many parts") {
		t.Error(err)
	}
	if _, err := Read(p, Limits{Items: 12_000}); err != nil {
		t.Error(err)
	}
}
