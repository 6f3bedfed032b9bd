package onnx

import (
	"fmt"
	"math"
	"slices"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// The one operation that is allowed outside the standard domain, and bounds on it.
const (
	treeDomain        = "ai.onnx.ml"
	treeDomainVersion = 3
	treeOperation     = "TreeEnsembleRegressor"

	maxTreeNodes = 200_000 // in all trees of one operation
	maxTreeDepth = 256     // the runtime walks a tree by recursion when it loads it
)

const branchMode, leafMode = "BRANCH_LEQ", "LEAF"

// TreeNode is a node of a binary tree that is kept as a list: its first node is the root, and children come
// after their parents.
type TreeNode struct {
	// Feature is compared with Value by a branch: a row goes to the node at index Low when its feature is not
	// above Value, else to the one at High.
	Feature   int
	Low, High int // both zero in a leaf
	// Value is the threshold of a branch, and what a leaf answers.
	Value float32
}

func (n TreeNode) leaf() bool { return n.Low == 0 && n.High == 0 }

// Trees appends an operation that takes the rows of x, float32 [n, features], and gives what the trees answer
// for each row on average, float32 [n, 1]. It returns the output's made-up name.
func (b *Builder) Trees(x string, trees [][]TreeNode) string {
	var ids, numbers, features, low, high, targetTrees, targetNodes, targets []int64
	var values, weights []float32
	var modes [][]byte
	for t, tree := range trees {
		for i, n := range tree {
			mode, value := branchMode, n.Value
			if n.leaf() {
				mode, value = leafMode, 0
				targetTrees, targetNodes, targets = append(targetTrees, int64(t)), append(targetNodes, int64(i)), append(targets, 0)
				weights = append(weights, n.Value)
			}
			ids, numbers, features = append(ids, int64(t)), append(numbers, int64(i)), append(features, int64(n.Feature))
			low, high = append(low, int64(n.Low)), append(high, int64(n.High))
			values, modes = append(values, value), append(modes, []byte(mode))
		}
	}
	floats := func(name string, v []float32) Attr {
		return Attr{&onnxpb.AttributeProto{Name: &name, Floats: v, Type: onnxpb.AttributeProto_FLOATS.Enum()}}
	}
	out := b.Node(treeOperation, []string{x},
		Text("aggregate_function", "AVERAGE"), Int("n_targets", 1),
		Ints("nodes_treeids", ids...), Ints("nodes_nodeids", numbers...), Ints("nodes_featureids", features...),
		Ints("nodes_truenodeids", low...), Ints("nodes_falsenodeids", high...), floats("nodes_values", values),
		Attr{&onnxpb.AttributeProto{Name: new("nodes_modes"), Strings: modes, Type: onnxpb.AttributeProto_STRINGS.Enum()}},
		Ints("target_treeids", targetTrees...), Ints("target_nodeids", targetNodes...), Ints("target_ids", targets...), floats("target_weights", weights))
	b.graph.Node[len(b.graph.Node)-1].Domain = new(treeDomain)
	return out
}

func usesTrees(g *onnxpb.GraphProto) bool {
	return slices.ContainsFunc(g.Node, func(n *onnxpb.NodeProto) bool { return n.GetDomain() == treeDomain })
}

// treeAttributes are all attributes a tree operation may have. What else there is (other comparisons, missing
// values, several targets, transforms) is not needed, and so not let through.
var treeAttributes = map[string]onnxpb.AttributeProto_AttributeType{
	"aggregate_function": onnxpb.AttributeProto_STRING,
	"post_transform":     onnxpb.AttributeProto_STRING,
	"n_targets":          onnxpb.AttributeProto_INT,
	"nodes_treeids":      onnxpb.AttributeProto_INTS,
	"nodes_nodeids":      onnxpb.AttributeProto_INTS,
	"nodes_featureids":   onnxpb.AttributeProto_INTS,
	"nodes_truenodeids":  onnxpb.AttributeProto_INTS,
	"nodes_falsenodeids": onnxpb.AttributeProto_INTS,
	"nodes_modes":        onnxpb.AttributeProto_STRINGS,
	"nodes_values":       onnxpb.AttributeProto_FLOATS,
	"target_treeids":     onnxpb.AttributeProto_INTS,
	"target_nodeids":     onnxpb.AttributeProto_INTS,
	"target_ids":         onnxpb.AttributeProto_INTS,
	"target_weights":     onnxpb.AttributeProto_FLOATS,
}

// trees checks an ensemble of trees before a runtime walks it: runtimes trust its lists to be of one length,
// its children to exist and its features to be in the row.
func trees(n *inference) ([]Value, error) {
	x := n.in[0]
	if x.Type != Float || len(x.Shape) != 2 || x.Shape[1] < 1 {
		return nil, fmt.Errorf("input is %v %v: want rows of float32 features", x.Type, x.Shape)
	}
	seen := map[string]bool{}
	for _, a := range n.node.Attribute {
		kind, ok := treeAttributes[a.GetName()]
		if !ok {
			return nil, fmt.Errorf("attribute %q is not allowed", a.GetName())
		}
		if seen[a.GetName()] {
			return nil, fmt.Errorf("attribute %q appears twice", a.GetName())
		}
		seen[a.GetName()] = true
		if a.GetType() != kind {
			return nil, fmt.Errorf("attribute %q is of type %v: want %v", a.GetName(), a.GetType(), kind)
		}
	}
	if f := string(n.attribute("aggregate_function").GetS()); f != "AVERAGE" && f != "SUM" && seen["aggregate_function"] {
		return nil, fmt.Errorf("aggregate function %q is not allowed: want AVERAGE or SUM", f)
	}
	if f := string(n.attribute("post_transform").GetS()); f != "NONE" && seen["post_transform"] {
		return nil, fmt.Errorf("transform %q is not allowed: want NONE", f)
	}
	if targets := n.integer("n_targets", 0); targets != 1 {
		return nil, fmt.Errorf("%d targets: want 1", targets)
	}
	leaves, err := treeLeaves(n, x.Shape[1])
	if err != nil {
		return nil, err
	}
	if err := treeTargets(n, leaves); err != nil {
		return nil, err
	}
	return one(Float, []int64{x.Shape[0], 1})
}

// leafAt is where a leaf is.
type leafAt struct{ tree, node int64 }

// treeLeaves checks the nodes of all trees and returns the leaves in order. Nodes have to be listed tree by
// tree, both numbered from 0, children after their parents and each of one parent: so there is one root, no
// cycle, and no node that is left over.
func treeLeaves(n *inference, features int64) ([]leafAt, error) {
	ids, numbers, feature := n.attribute("nodes_treeids").GetInts(), n.attribute("nodes_nodeids").GetInts(), n.attribute("nodes_featureids").GetInts()
	low, high := n.attribute("nodes_truenodeids").GetInts(), n.attribute("nodes_falsenodeids").GetInts()
	modes, values := n.attribute("nodes_modes").GetStrings(), n.attribute("nodes_values").GetFloats()
	count := len(ids)
	if count == 0 || count > maxTreeNodes {
		return nil, fmt.Errorf("%d tree nodes: want 1 to %d", count, maxTreeNodes)
	}
	if lengths := []int{len(numbers), len(feature), len(low), len(high), len(modes), len(values)}; slices.Min(lengths) != count || slices.Max(lengths) != count {
		return nil, fmt.Errorf("lists of tree nodes have %d and %v values: want as many in each", count, lengths)
	}
	if !finiteList(values) {
		return nil, fmt.Errorf("thresholds hold NaN or infinite values")
	}
	var leaves []leafAt
	for from := 0; from < count; {
		tree := ids[from]
		if from == 0 && tree != 0 || from > 0 && tree != ids[from-1]+1 {
			return nil, fmt.Errorf("tree %d is out of order", tree)
		}
		size := 1
		for from+size < count && ids[from+size] == tree {
			size++
		}
		depth := make([]int, size) // 0 for a node without a parent so far
		depth[0] = 1
		for i := range size {
			at := from + i
			refuse := func(format string, args ...any) ([]leafAt, error) {
				return nil, fmt.Errorf("node %d of tree %d: %s", i, tree, fmt.Sprintf(format, args...))
			}
			if numbers[at] != int64(i) {
				return refuse("its number is %d: nodes must be numbered in order", numbers[at])
			}
			if feature[at] < 0 || feature[at] >= features {
				return refuse("feature %d is not one of the %d in a row", feature[at], features)
			}
			if depth[i] == 0 {
				return refuse("no branch leads to it")
			}
			if depth[i] > maxTreeDepth {
				return refuse("it lies deeper than %d", maxTreeDepth)
			}
			switch mode := string(modes[at]); mode {
			case leafMode:
				if low[at] != 0 || high[at] != 0 {
					return refuse("a leaf has no children")
				}
				leaves = append(leaves, leafAt{tree, int64(i)})
			case branchMode:
				for _, child := range []int64{low[at], high[at]} {
					if child <= int64(i) || child >= int64(size) {
						return refuse("child %d is not one of the nodes after it", child)
					}
					if depth[child] != 0 {
						return refuse("child %d has a parent already", child)
					}
					depth[child] = depth[i] + 1
				}
			default:
				return refuse("mode %q is not allowed: want %s or %s", mode, branchMode, leafMode)
			}
		}
		from += size
	}
	return leaves, nil
}

// treeTargets checks that each leaf, in order, has one finite answer.
func treeTargets(n *inference, leaves []leafAt) error {
	ids, numbers, targets := n.attribute("target_treeids").GetInts(), n.attribute("target_nodeids").GetInts(), n.attribute("target_ids").GetInts()
	weights := n.attribute("target_weights").GetFloats()
	if lengths := []int{len(ids), len(numbers), len(targets), len(weights)}; slices.Min(lengths) != len(leaves) || slices.Max(lengths) != len(leaves) {
		return fmt.Errorf("lists of answers have %v values: want one for each of the %d leaves", lengths, len(leaves))
	}
	if !finiteList(weights) {
		return fmt.Errorf("answers hold NaN or infinite values")
	}
	for i, leaf := range leaves {
		if ids[i] != leaf.tree || numbers[i] != leaf.node {
			return fmt.Errorf("answer %d is for node %d of tree %d: want leaf %d of tree %d", i, numbers[i], ids[i], leaf.node, leaf.tree)
		}
		if targets[i] != 0 {
			return fmt.Errorf("answer %d is for target %d: there is one only", i, targets[i])
		}
	}
	return nil
}

func finiteList(values []float32) bool {
	return !slices.ContainsFunc(values, func(v float32) bool { return math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) })
}
