package train

// The rules of matrix products.

import (
	"fmt"
	"slices"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

// matMul multiplies matrices, or stacks of them whose leading dimensions broadcast.
func (t *tape) matMul(n *onnxpb.NodeProto, dy string) error {
	a, b := n.Input[0], n.Input[1]
	turned := func(v string) string {
		perm := make([]int64, len(t.shape(v)))
		for i := range perm {
			perm[i] = int64(i)
		}
		k := len(perm)
		perm[k-1], perm[k-2] = perm[k-2], perm[k-1]
		return t.b.Node("Transpose", []string{v}, onnx.Ints("perm", perm...))
	}
	lead := func(rows, cols int64) []int64 {
		out := t.shape(n.Output[0])
		return append(slices.Clone(out[:len(out)-2]), rows, cols)
	}
	sa, sb := t.shape(a), t.shape(b)
	if t.needs[a] {
		t.give(a, t.op("MatMul", dy, turned(b)), lead(sa[len(sa)-2], sa[len(sa)-1]))
	}
	if t.needs[b] {
		t.give(b, t.op("MatMul", turned(a), dy), lead(sb[len(sb)-2], sb[len(sb)-1]))
	}
	return nil
}

func (t *tape) gemm(n *onnxpb.NodeProto, dy string) error {
	transA, transB := int64(0), int64(0)
	for _, a := range n.Attribute {
		switch a.GetName() {
		case "transA":
			transA = a.GetI()
		case "transB":
			transB = a.GetI()
		case "alpha", "beta":
			if a.GetF() != 1 {
				return fmt.Errorf("%s other than 1 is not supported", a.GetName())
			}
		}
	}
	product := func(a string, ta int64, b string, tb int64) string {
		return t.b.Node("Gemm", []string{a, b}, onnx.Int("transA", ta), onnx.Int("transB", tb))
	}
	a, b := n.Input[0], n.Input[1]
	if t.needs[a] {
		g := ""
		if transA == 0 {
			g = product(dy, 0, b, 1-transB)
		} else {
			g = product(b, transB, dy, 1)
		}
		t.give(a, g, t.shape(a))
	}
	if t.needs[b] {
		g := ""
		if transB == 0 {
			g = product(a, 1-transA, dy, 0)
		} else {
			g = product(dy, 1, a, transA)
		}
		t.give(b, g, t.shape(b))
	}
	if len(n.Input) == 3 && n.Input[2] != "" {
		t.give(n.Input[2], dy, t.shape(n.Output[0]))
	}
	return nil
}
