package onnx

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

func testContract() contract.Contract {
	return contract.Contract{
		Version: 1, Kind: "test", Channels: []contract.Channel{{Name: "a"}, {Name: "b"}}, Window: 4, Stride: 1, SampleRateHz: 1, Threshold: 1,
	}
}

// detector is a small graph that keeps the contract: the score is the mean square of the window.
func detector() *onnxpb.GraphProto {
	b := &Builder{}
	w := b.Input(contract.Window, Float, Batch, 2, 4)
	z := b.Node("Mul", []string{w, b.Floats("gain", []float32{1, 2}, 2, 1)})
	channels := b.Node("ReduceMean", []string{b.Node("Mul", []string{z, z})}, Ints("axes", 2), Int("keepdims", 0))
	b.NodeTo([]string{contract.ChannelScore}, "Identity", []string{channels})
	b.NodeTo([]string{contract.Score}, "ReduceSum", []string{channels, b.Ints(1)}, Int("keepdims", 0))
	normal := b.Node("LessOrEqual", []string{contract.Score, b.Scalar(1)})
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{normal})
	b.Output(contract.Score, Float, Batch)
	b.Output(contract.Anomaly, Bool, Batch)
	b.Output(contract.ChannelScore, Float, Batch, 2)
	return b.Graph()
}

func marshal(t testing.TB, g *onnxpb.GraphProto) []byte {
	t.Helper()
	p, err := Marshal("test", g, testContract().Metadata())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCheckAcceptsAModelAndReturnsItsContract(t *testing.T) {
	c, err := Check(marshal(t, detector()), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Kind != "test" || c.Cells() != 8 {
		t.Errorf("contract is %+v", c)
	}
}

func TestTheSameModelGivesTheSameBytes(t *testing.T) {
	first := marshal(t, detector())
	for range 10 {
		if !bytes.Equal(first, marshal(t, detector())) {
			t.Fatal("bytes differ")
		}
	}
}

func TestOnnxCheckerAcceptsWhatWeWrite(t *testing.T) {
	for name, graph := range map[string]*onnxpb.GraphProto{"a detector": detector(), "trees": forest()} {
		if problem := checkerOf(t, marshal(t, graph)); problem != "" {
			t.Errorf("%s: %s", name, problem)
		}
	}
}

// checkerOf says what ONNX's own checker dislikes of a model; "" when nothing.
func checkerOf(t *testing.T, model []byte) string {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has Debian's onnx
	if err := exec.Command(python, "-c", "import onnx").Run(); err != nil {
		t.Skip("the ONNX checker is not here: install the Debian package python3-onnx")
	}
	path := t.TempDir() + "/model.onnx"
	if err := os.WriteFile(path, model, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, "-c", "import onnx,sys; m=onnx.load(sys.argv[1]); onnx.checker.check_model(m, full_check=True)", path).CombinedOutput()
	if err != nil {
		return err.Error() + ": " + string(out)
	}
	return ""
}

// Every way in which a file is refused, as a change to one that is accepted.
func TestCheckRefuses(t *testing.T) {
	node := func(m *onnxpb.ModelProto, op string) *onnxpb.NodeProto {
		i := slices.IndexFunc(m.Graph.Node, func(n *onnxpb.NodeProto) bool { return n.GetOpType() == op })
		return m.Graph.Node[i]
	}
	gain := func(m *onnxpb.ModelProto) *onnxpb.TensorProto { return m.Graph.Initializer[0] }
	setMetadata := func(m *onnxpb.ModelProto, key, value string) {
		for _, e := range m.MetadataProps {
			if e.GetKey() == key {
				e.Value = &value
			}
		}
	}
	for name, c := range map[string]struct {
		change func(m *onnxpb.ModelProto)
		want   string
	}{
		"external data by location": {func(m *onnxpb.ModelProto) {
			gain(m).DataLocation = onnxpb.TensorProto_EXTERNAL.Enum()
		}, "external data is not allowed"},
		"external data by an escaping path": {func(m *onnxpb.ModelProto) {
			gain(m).ExternalData = []*onnxpb.StringStringEntryProto{{Key: new("location"), Value: new("../../etc/shadow")}}
		}, "external data is not allowed"},
		"a foreign operator set": {func(m *onnxpb.ModelProto) {
			m.OpsetImport = append(m.OpsetImport, &onnxpb.OperatorSetIdProto{Domain: new("com.example"), Version: new(int64(1))})
		}, `domain "com.example" is not allowed`},
		"only a foreign operator set": {func(m *onnxpb.ModelProto) { m.OpsetImport[0].Domain = new("com.example") }, `domain "com.example" is not allowed`},
		"an operation of a foreign domain": {func(m *onnxpb.ModelProto) {
			node(m, "Not").Domain = new("com.microsoft")
		}, `domain "com.microsoft" is not allowed`},
		"an unknown operation":        {func(m *onnxpb.ModelProto) { node(m, "Not").OpType = new("Explode") }, "operation is not allowed"},
		"a loop":                      {func(m *onnxpb.ModelProto) { node(m, "Not").OpType = new("Loop") }, "operation is not allowed"},
		"an operator set of tomorrow": {func(m *onnxpb.ModelProto) { m.OpsetImport[0].Version = new(int64(99)) }, "version 99 is not supported"},
		"a format of tomorrow":        {func(m *onnxpb.ModelProto) { m.IrVersion = new(int64(99)) }, "IR version 99"},
		"a weight that is NaN":        {func(m *onnxpb.ModelProto) { gain(m).RawData[2], gain(m).RawData[3] = 0xc0, 0x7f }, "NaN or infinite"},
		"a weight that is infinite": {func(m *onnxpb.ModelProto) {
			gain(m).RawData, gain(m).FloatData = nil, []float32{1, float32(math.Inf(-1))}
		}, "NaN or infinite"},
		"missing weights":          {func(m *onnxpb.ModelProto) { gain(m).RawData = gain(m).RawData[:4] }, "but not 2 values"},
		"weights stored twice":     {func(m *onnxpb.ModelProto) { gain(m).FloatData = []float32{1, 2} }, "stores its values twice"},
		"weights of another type":  {func(m *onnxpb.ModelProto) { gain(m).DataType = new(int32(16)) }, "which is not allowed"},
		"a negative dimension":     {func(m *onnxpb.ModelProto) { gain(m).Dims = []int64{-1, -2} }, "out of range"},
		"an overflowing shape":     {func(m *onnxpb.ModelProto) { gain(m).Dims = []int64{1 << 33, 1 << 33} }, "too large"},
		"no graph":                 {func(m *onnxpb.ModelProto) { m.Graph = nil }, "no graph"},
		"no contract":              {func(m *onnxpb.ModelProto) { m.MetadataProps = nil }, "carries no Swell contract"},
		"metadata twice":           {func(m *onnxpb.ModelProto) { m.MetadataProps = append(m.MetadataProps, m.MetadataProps[0]) }, "appears twice"},
		"another window":           {func(m *onnxpb.ModelProto) { setMetadata(m, "swell.window", "5") }, "is not the 5 of the contract"},
		"a second input":           {func(m *onnxpb.ModelProto) { m.Graph.Input = append(m.Graph.Input, m.Graph.Input[0]) }, "2 inputs"},
		"a missing output":         {func(m *onnxpb.ModelProto) { m.Graph.Output = m.Graph.Output[1:] }, `output "score" is missing`},
		"an output nobody knows":   {func(m *onnxpb.ModelProto) { m.Graph.Output[2].Name = new("gain") }, `output "gain" is not in the contract`},
		"an output declared twice": {func(m *onnxpb.ModelProto) { m.Graph.Output[2] = m.Graph.Output[1] }, "declared twice"},
		"an output of the wrong declared type": {func(m *onnxpb.ModelProto) {
			m.Graph.Output[1].Type.GetTensorType().ElemType = new(int32(Float))
		}, `"anomaly" is declared as FLOAT`},
		"an output of the wrong computed type": {func(m *onnxpb.ModelProto) {
			node(m, "Not").OpType = new("Identity")
			node(m, "LessOrEqual").OpType = new("Add")
		},
			`output "anomaly" is FLOAT`},
		"an output of the wrong computed shape": {func(m *onnxpb.ModelProto) { node(m, "ReduceSum").Attribute[0].I = new(int64(1)) }, `output "score" is FLOAT [1 1]`},
		"a fixed batch": {func(m *onnxpb.ModelProto) {
			m.Graph.Input[0].Type.GetTensorType().Shape.Dim[0].Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: 1}
		}, "fixed batch size"},
		"a value used before it exists": {func(m *onnxpb.ModelProto) { slices.Reverse(m.Graph.Node) }, "not defined before it is used"},
		"a value defined twice": {func(m *onnxpb.ModelProto) {
			m.Graph.Node = append(m.Graph.Node, m.Graph.Node[0])
		}, "defined twice"},
		"an axis that is computed": {func(m *onnxpb.ModelProto) { node(m, "ReduceSum").Input[1] = node(m, "Mul").Output[0] }, "must be a constant"},
		"a memory bomb by broadcasting": {func(m *onnxpb.ModelProto) {
			b := &Builder{Prefix: "bomb"}
			wide := b.Floats("wide", make([]float32, 10_000), 1, 10_000)
			tall := b.Floats("tall", make([]float32, 10_000), 10_000, 1)
			b.Node("Add", []string{wide, tall})
			m.Graph.Initializer = append(m.Graph.Initializer, b.Graph().Initializer...)
			m.Graph.Node = append(m.Graph.Node, b.Graph().Node...)
		}, "more than 268435456 bytes of memory"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &onnxpb.ModelProto{}
			if err := proto.Unmarshal(marshal(t, detector()), m); err != nil {
				t.Fatal(err)
			}
			c.change(m)
			p, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, p, Limits{}, c.want)
		})
	}
}

func refused(t *testing.T, model []byte, l Limits, want string) {
	t.Helper()
	_, err := Check(model, l)
	if err == nil {
		t.Fatal("was accepted")
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
}

func TestCheckRefusesBytesThatAreNoModel(t *testing.T) {
	good := marshal(t, detector())
	// Field 25 holds functions in the full format: code we have not thought about.
	functions := protowire.AppendBytes(protowire.AppendTag(slices.Clone(good), 25, protowire.BytesType), nil)
	var bomb []byte // a graph of a million empty operations: 2 bytes each in the file, hundreds in memory
	bomb = protowire.AppendTag(bomb, 7, protowire.BytesType)
	bomb = protowire.AppendBytes(bomb, bytes.Repeat([]byte{0x0a, 0x00}, 2_000_000))
	for name, c := range map[string]struct {
		model []byte
		want  string
	}{
		"empty":                     {nil, "IR version 0"},
		"truncated":                 {good[:len(good)-7], "not an ONNX file"},
		"a web page":                {[]byte("<html>not found</html>"), ""},
		"zeros":                     {make([]byte, 1000), "not an ONNX file"},
		"fields outside the schema": {functions, "field 25 of ModelProto is not allowed"},
		"two million operations":    {bomb, "too many parts"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.model, Limits{}, c.want) })
	}
}

func TestCheckEnforcesEachLimit(t *testing.T) {
	good := marshal(t, detector())
	for name, c := range map[string]struct {
		limits Limits
		want   string
	}{
		"bytes":       {Limits{Bytes: 100}, "at most 100 are allowed"},
		"items":       {Limits{Items: 20}, "too many parts"},
		"nodes":       {Limits{Nodes: 3}, "at most 3 are allowed"},
		"tensors":     {Limits{Tensors: 1}, "at most 1 are allowed"},
		"depth":       {Limits{Depth: 2}, "at most 2 are allowed"},
		"activations": {Limits{Activations: 64}, "more than 64 bytes"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, good, c.limits, c.want) })
	}
}

func TestInferShapes(t *testing.T) {
	type in struct {
		op     string
		inputs [][]int64
		ints   []int64 // a constant last input
		attrs  []Attr
	}
	for name, c := range map[string]struct {
		in   in
		want []int64 // nil means refused
	}{
		"MatMul broadcasts leading dimensions":   {in{op: "MatMul", inputs: [][]int64{{5, 2, 3}, {3, 4}}}, []int64{5, 2, 4}},
		"MatMul of misfits":                      {in{op: "MatMul", inputs: [][]int64{{2, 3}, {4, 5}}}, nil},
		"Gemm transposed":                        {in{op: "Gemm", inputs: [][]int64{{3, 2}, {4, 3}, {4}}, attrs: []Attr{Int("transA", 1), Int("transB", 1)}}, []int64{2, 4}},
		"Gemm with a bias too wide":              {in{op: "Gemm", inputs: [][]int64{{2, 3}, {3, 4}, {5}}}, nil},
		"Conv with stride, pads and dilation":    {in{op: "Conv", inputs: [][]int64{{1, 3, 32, 32}, {8, 3, 3, 3}}, attrs: []Attr{Ints("strides", 2, 2), Ints("pads", 1, 1, 1, 1)}}, []int64{1, 8, 16, 16}},
		"Conv depthwise":                         {in{op: "Conv", inputs: [][]int64{{1, 8, 10}, {8, 1, 3}}, attrs: []Attr{Int("group", 8)}}, []int64{1, 8, 8}},
		"Conv with a kernel larger than input":   {in{op: "Conv", inputs: [][]int64{{1, 3, 2}, {8, 3, 5}}}, nil},
		"Conv with negative pads":                {in{op: "Conv", inputs: [][]int64{{1, 3, 9}, {8, 3, 5}}, attrs: []Attr{Ints("pads", -1, -1)}}, nil},
		"MaxPool rounding up":                    {in{op: "MaxPool", inputs: [][]int64{{1, 3, 7}}, attrs: []Attr{Ints("kernel_shape", 2), Ints("strides", 2), Int("ceil_mode", 1)}}, []int64{1, 3, 4}},
		"GlobalAveragePool":                      {in{op: "GlobalAveragePool", inputs: [][]int64{{2, 3, 7, 7}}}, []int64{2, 3, 1, 1}},
		"Reshape with a free dimension":          {in{op: "Reshape", inputs: [][]int64{{2, 3, 4}}, ints: []int64{0, -1}}, []int64{2, 12}},
		"Reshape to another size":                {in{op: "Reshape", inputs: [][]int64{{2, 3}}, ints: []int64{7}}, nil},
		"Reshape with two free dimensions":       {in{op: "Reshape", inputs: [][]int64{{2, 3}}, ints: []int64{-1, -1}}, nil},
		"Reshape of nothing":                     {in{op: "Reshape", inputs: [][]int64{{2, 0}}, ints: []int64{0, -1}}, nil},
		"Transpose":                              {in{op: "Transpose", inputs: [][]int64{{2, 3, 4}}, attrs: []Attr{Ints("perm", 2, 0, 1)}}, []int64{4, 2, 3}},
		"Transpose with an axis twice":           {in{op: "Transpose", inputs: [][]int64{{2, 3}}, attrs: []Attr{Ints("perm", 0, 0)}}, nil},
		"ReduceMean of a negative axis":          {in{op: "ReduceMean", inputs: [][]int64{{2, 3, 4}}, attrs: []Attr{Ints("axes", -1)}}, []int64{2, 3, 1}},
		"ReduceSum of everything":                {in{op: "ReduceSum", inputs: [][]int64{{2, 3}}, attrs: []Attr{Int("keepdims", 0)}}, []int64{}},
		"Squeeze of a dimension that is not one": {in{op: "Squeeze", inputs: [][]int64{{2, 3}}, ints: []int64{0}}, nil},
		"Squeeze":                                {in{op: "Squeeze", inputs: [][]int64{{2, 1, 3}}, ints: []int64{1}}, []int64{2, 3}},
		"Unsqueeze":                              {in{op: "Unsqueeze", inputs: [][]int64{{2, 3}}, ints: []int64{0, 3}}, []int64{1, 2, 3, 1}},
		"Flatten":                                {in{op: "Flatten", inputs: [][]int64{{2, 3, 4}}}, []int64{2, 12}},
		"Concat":                                 {in{op: "Concat", inputs: [][]int64{{2, 3}, {2, 5}}, attrs: []Attr{Int("axis", 1)}}, []int64{2, 8}},
		"Concat of misfits":                      {in{op: "Concat", inputs: [][]int64{{2, 3}, {3, 5}}, attrs: []Attr{Int("axis", 1)}}, nil},
		"ArgMax":                                 {in{op: "ArgMax", inputs: [][]int64{{2, 3}}, attrs: []Attr{Int("axis", 1), Int("keepdims", 0)}}, []int64{2}},
		"TopK":                                   {in{op: "TopK", inputs: [][]int64{{2, 9}}, ints: []int64{3}}, []int64{2, 3}},
		"TopK of more than there are":            {in{op: "TopK", inputs: [][]int64{{2, 3}}, ints: []int64{9}}, nil},
		"Cast to a type we do not take":          {in{op: "Cast", inputs: [][]int64{{2}}, attrs: []Attr{Int("to", 14)}}, nil},
		"Where":                                  {in{op: "Where", inputs: [][]int64{{2, 1}, {3}, {1}}}, []int64{2, 3}},
		"Add of misfits":                         {in{op: "Add", inputs: [][]int64{{2, 3}, {2}}}, nil},
		"Expand":                                 {in{op: "Expand", inputs: [][]int64{{3, 1}}, ints: []int64{2, 3, 4}}, []int64{2, 3, 4}},
		"Expand of misfits":                      {in{op: "Expand", inputs: [][]int64{{3}}, ints: []int64{4}}, nil},
		"Tile":                                   {in{op: "Tile", inputs: [][]int64{{2, 3}}, ints: []int64{1, 5}}, []int64{2, 15}},
		"Tile of too few dimensions":             {in{op: "Tile", inputs: [][]int64{{2, 3}}, ints: []int64{5}}, nil},
		"Pad":                                    {in{op: "Pad", inputs: [][]int64{{2, 3}}, ints: []int64{0, 1, 0, 2}}, []int64{2, 6}},
		"Pad that cuts":                          {in{op: "Pad", inputs: [][]int64{{2, 3}}, ints: []int64{0, -1, 0, 0}}, nil},
		"Split into equal parts":                 {in{op: "Split", inputs: [][]int64{{2, 6}}, ints: []int64{6}, attrs: []Attr{Int("axis", 1)}}, []int64{2, 6}},
		"Split into parts that do not add up":    {in{op: "Split", inputs: [][]int64{{2, 6}}, ints: []int64{5}, attrs: []Attr{Int("axis", 1)}}, nil},
		"Dropout":                                {in{op: "Dropout", inputs: [][]int64{{2, 6}}}, []int64{2, 6}},
		"ConstantOfShape":                        {in{op: "ConstantOfShape", ints: []int64{2, 5}}, []int64{2, 5}},
		"ConstantOfShape of less than nothing":   {in{op: "ConstantOfShape", ints: []int64{2, -5}}, nil},
		"LSTM":                                   {in{op: "LSTM", inputs: [][]int64{{9, 2, 3}, {1, 20, 3}, {1, 20, 5}}}, []int64{9, 1, 2, 5}},
		"LSTM both ways":                         {in{op: "LSTM", inputs: [][]int64{{9, 2, 3}, {2, 20, 3}, {2, 20, 5}}, attrs: []Attr{Text("direction", "bidirectional")}}, []int64{9, 2, 2, 5}},
		"LSTM with the gates of a GRU":           {in{op: "LSTM", inputs: [][]int64{{9, 2, 3}, {1, 15, 3}, {1, 15, 5}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := &Builder{}
			shapes := map[string][]int64{}
			var names []string
			for i, s := range c.in.inputs {
				name := b.Input(string(rune('a'+i)), Float, s...)
				shapes[name] = s
				names = append(names, name)
			}
			if c.in.ints != nil {
				names = append(names, b.Ints(c.in.ints...))
			}
			b.NodeTo([]string{"y"}, c.in.op, names, c.in.attrs...)
			values, err := Infer(b.Graph(), shapes)
			if c.want == nil {
				if err == nil {
					t.Fatalf("was accepted as %v", values.All["y"].Shape)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := values.All["y"].Shape; !slices.Equal(got, c.want) {
				t.Errorf("shape is %v, want %v", got, c.want)
			}
		})
	}
}

// Whatever the bytes, Check answers and does not panic.
func FuzzCheck(f *testing.F) {
	good := marshal(f, detector())
	f.Add(good)
	f.Add(marshal(f, forest()))
	f.Add(good[:len(good)/2])
	f.Add([]byte{0x3a, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, model []byte) {
		if _, err := Check(model, Limits{}); err != nil && err.Error() == "" {
			t.Error("no reason given")
		}
	})
}
