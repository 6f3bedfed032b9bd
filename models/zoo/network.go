package zoo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/models/runtime"
)

// Network is the kind of a network for windows of sensor values that was trained elsewhere. Fit adapts it:
// units before it, a threshold behind it. It is not among Kinds, for it needs Config.Network.
const Network = "network"

// maxNetworkCells bounds the values of one window, of which a calibration holds some hundred at once.
const maxNetworkCells = 1 << 16

// networkRows is how many rows a network reads that takes any number of them and nobody says how many.
const networkRows = 32

// gives is what a network's output is taken for.
type gives string

const (
	reconstruction gives = "a reconstruction of the window"
	forecast       gives = "a forecast of the next row"
	unusualness    gives = "how unusual the window is"
)

// layout is the order in which a network reads a window.
type layout string

const (
	channelsFirst layout = "[batch, channels, rows]"
	rowsFirst     layout = "[batch, rows, channels]"
	flat          layout = "[batch, channels*rows], channel after channel"
)

// network is a foreign graph, cut down to one input and one output.
type network struct {
	graph         *onnxpb.GraphProto // names have a prefix of their own
	input, output string
	layout        layout
	gives         gives
	rows          int // it reads; a forecast is of the one behind them

	head     *head
	raw      bool
	middle   float32 // of an unusualness
	channels int
}

// NetworkSummary says how Fit would use a network.
type NetworkSummary struct {
	Input   string   // "float [batch, 3, 16]", a free dimension by name
	Outputs []string // name and shape for a batch of two
	Notes   []string // for people, a sentence each
	Rows    int      // of a window
}

// TryNetwork says how a network that reads windows of sensor values would be used, or why it cannot be. It runs
// it once, on zeros.
func TryNetwork(model []byte) (NetworkSummary, error) {
	m, in, dims, err := readNetwork(model)
	if err != nil {
		return NetworkSummary{}, err
	}
	// Which dimension holds the channels is only sure when the channels are known: any that fit will do here.
	tries := []int{dims[1], dims[len(dims)-1]}
	if len(dims) == 2 {
		tries = []int{1}
	}
	var n *network
	for _, channels := range tries {
		if channels > 0 && n == nil {
			var e error
			if n, e = newNetwork(m, in, dims, channels, 0); err == nil {
				err = e
			}
		}
	}
	if n == nil {
		if err == nil {
			err = fmt.Errorf("input %s names neither its channels nor its rows: export it with a fixed number of channels", in)
		}
		return NetworkSummary{}, err
	}
	s := NetworkSummary{Input: fmt.Sprintf("float %v", text(dims)), Rows: n.window()}
	values, err := onnx.Infer(n.graph, map[string][]int64{n.input: n.shape()})
	if err != nil {
		return s, err
	}
	if err := n.try(values.All[n.output].Shape); err != nil {
		return s, err
	}
	s.Outputs = []string{fmt.Sprintf("%s %v", n.output[len(networkPrefix):], values.All[n.output].Shape)}
	s.Notes = []string{
		fmt.Sprintf("its output is taken as %s", n.gives),
		"a policy names it as garden:NAME, or as garden:NAME:raw when it wants engineering units instead of values by their mean and deviation; the night sets its threshold and judges it like any other",
	}
	if slices.Contains(dims[1:], 0) {
		s.Notes = append(s.Notes, fmt.Sprintf("it reads any number of rows: the policy's pattern says how many, else %d", networkRows))
	}
	if len(dims) == 2 {
		s.Notes = append(s.Notes, "it reads a window "+string(flat))
	}
	return s, nil
}

// try runs the network on two windows of zeros.
func (n *network) try(shape []int64) (err error) {
	g := proto.CloneOf(n.graph)
	b := &onnx.Builder{}
	b.Output(n.output, onnx.Float, shape...)
	g.Output = b.Graph().Output
	model, err := onnx.Marshal("network", g, nil)
	if err != nil {
		return err
	}
	p, err := runtime.LoadProgram(model, runtime.Options{})
	if err != nil {
		return fmt.Errorf("the network cannot be loaded: %w", err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	x, err := runtime.NewTensor(n.shape()...)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := runtime.NewTensor(shape...)
	if err != nil {
		return err
	}
	defer y.Close()
	binding, err := p.Bind(map[string]*runtime.Tensor{n.input: x}, map[string]*runtime.Tensor{n.output: y})
	if err != nil {
		return fmt.Errorf("the network cannot be run: %w", err)
	}
	defer binding.Close()
	if err := binding.Run(); err != nil {
		return fmt.Errorf("the network cannot be run: %w", err)
	}
	for _, v := range y.Data() {
		if v-v != 0 {
			return fmt.Errorf("the network makes %v of zeros", v)
		}
	}
	return nil
}

func text(dims []int) []string {
	out := make([]string, len(dims))
	for i, d := range dims {
		if out[i] = fmt.Sprint(d); d <= 0 {
			out[i] = "any"
		}
	}
	out[0] = "batch"
	return out
}

// readNetwork reads a foreign file and the shape of its input; free dimensions are 0.
func readNetwork(model []byte) (m *onnxpb.ModelProto, input string, dims []int, err error) {
	if m, err = onnx.ReadForeign(model, onnx.Limits{}); err != nil {
		return nil, "", nil, err
	}
	constants := map[string]bool{}
	for _, t := range m.GetGraph().GetInitializer() {
		constants[t.GetName()] = true
	}
	inputs := slices.DeleteFunc(slices.Clone(m.GetGraph().GetInput()), func(v *onnxpb.ValueInfoProto) bool { return constants[v.GetName()] })
	if len(inputs) != 1 {
		return nil, "", nil, fmt.Errorf("the network has %d inputs: want one, a window", len(inputs))
	}
	t := inputs[0].GetType().GetTensorType()
	for _, d := range t.GetShape().GetDim() {
		dims = append(dims, int(d.GetDimValue()))
	}
	if onnx.DataType(t.GetElemType()) != onnx.Float || len(dims) != 2 && len(dims) != 3 {
		return nil, "", nil, fmt.Errorf("input %s is not float32 of two or three dimensions: want %s, %s or %s", inputs[0].GetName(), channelsFirst, rowsFirst, flat)
	}
	return m, inputs[0].GetName(), dims, nil
}

const networkPrefix = "network."

// newNetwork finds how a network with so many channels is to be read. rows is how many it shall read where it
// takes any number; 0 means networkRows.
func newNetwork(m *onnxpb.ModelProto, input string, dims []int, channels, rows int) (*network, error) {
	setDefault(&rows, networkRows)
	n := &network{input: input, channels: channels}
	fits := func(d, want int) bool { return d == want || d <= 0 }
	switch {
	case len(dims) == 2 && dims[1] > 0 && dims[1]%channels == 0:
		n.layout, n.rows = flat, dims[1]/channels
	case len(dims) == 3 && dims[1] == channels:
		n.layout, n.rows = channelsFirst, dims[2]
	case len(dims) == 3 && fits(dims[2], channels) && !(dims[1] <= 0 && dims[2] <= 0):
		n.layout, n.rows = rowsFirst, dims[1]
	default:
		return nil, fmt.Errorf("the network reads %v, which holds no window of %d channels: want %s, %s or %s", text(dims), channels, channelsFirst, rowsFirst, flat)
	}
	if n.rows <= 0 {
		n.rows = rows
	}
	g := proto.CloneOf(m.GetGraph())
	g.Input = slices.DeleteFunc(g.Input, func(v *onnxpb.ValueInfoProto) bool { return v.GetName() != input })
	// Two windows, so that a batch of one that was written into the file shows.
	values, err := onnx.Infer(g, map[string][]int64{input: n.shape()})
	if err != nil && dims[0] > 0 {
		return nil, fmt.Errorf("the network is made for a batch of %d (%w): export it with a free first dimension", dims[0], err)
	}
	if err != nil {
		return nil, fmt.Errorf("the network for two windows of %d channels and %d rows: %w", channels, n.rows, err)
	}
	for _, o := range g.Output {
		v := values.All[o.GetName()]
		if v.Type == onnx.Float && n.takes(v.Shape) {
			n.output = o.GetName()
			break
		}
	}
	if n.output == "" {
		var have []string
		for _, o := range g.Output {
			have = append(have, fmt.Sprintf("%s %v", o.GetName(), values.All[o.GetName()].Shape))
		}
		return nil, fmt.Errorf("none of the network's outputs for two windows of %d channels and %d rows (%v) is %s, %s, or %s; the first dimension has to be the batch",
			channels, n.rows, have, reconstruction, forecast, unusualness)
	}
	n.graph = subgraph(g, networkPrefix, n.output)
	n.graph.Input = []*onnxpb.ValueInfoProto{proto.CloneOf(g.Input[0])}
	n.input, n.output = networkPrefix+n.input, networkPrefix+n.output
	n.graph.Input[0].Name = &n.input
	return n, nil
}

// takes says what an output of the given shape for two windows is; false when it is nothing of use.
func (n *network) takes(shape []int64) bool {
	if len(shape) == 0 || shape[0] != 2 {
		return false
	}
	size := int64(1)
	for _, d := range shape[1:] {
		size *= d
	}
	switch {
	case slices.Equal(shape, n.shape()):
		n.gives = reconstruction
	case size == 1:
		n.gives = unusualness
	case size == int64(n.channels):
		n.gives = forecast
	default:
		return false
	}
	return true
}

// shape is the input's for two windows.
func (n *network) shape() []int64 {
	c, r := int64(n.channels), int64(n.rows)
	switch n.layout {
	case channelsFirst:
		return []int64{2, c, r}
	case rowsFirst:
		return []int64{2, r, c}
	}
	return []int64{2, c * r}
}

// window is how many rows the adapted model reads.
func (n *network) window() int {
	if n.gives == forecast {
		return n.rows + 1
	}
	return n.rows
}

// openNetwork reads c.Network for the channels of d, and sets what of c follows from it.
func (c *Config) openNetwork(d Dataset) error {
	if c.Network == nil {
		return errors.New("this kind adapts a network: name one that was imported into the garden")
	}
	m, in, dims, err := readNetwork(c.Network)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrData, err)
	}
	n, err := newNetwork(m, in, dims, len(d.Channels), c.Pattern)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrData, err)
	}
	if w := n.window(); w > maxNetworkCells/n.channels {
		return fmt.Errorf("%w: the network reads windows of %d rows of %d channels: at most %d values are supported", ErrData, w, n.channels, maxNetworkCells)
	}
	n.raw = c.RawValues
	c.Pattern, c.Smooth, c.PerDevice, c.opened = n.window(), 1, false, n
	return nil
}

func (n *network) weights() []float64 { return []float64{1} }

func (n *network) emit(b *onnx.Builder, z string) ([]string, string) {
	c, r := int64(n.channels), int64(n.rows)
	// byScale takes [batch, channels, rows] to engineering units, or back.
	byScale := func(x string, back bool) string {
		mean, scale := make([]float32, c), make([]float32, c)
		for i := range mean {
			mean[i], scale[i] = float32(n.head.mean[i]), float32(n.head.scale[i])
		}
		m, s := b.Floats(fmt.Sprintf("units.mean.%v", back), mean, c, 1), b.Floats(fmt.Sprintf("units.scale.%v", back), scale, c, 1)
		if back {
			return b.Node("Div", []string{b.Node("Sub", []string{x, m}), s})
		}
		return b.Node("Add", []string{b.Node("Mul", []string{x, s}), m})
	}
	x := z
	if n.gives == forecast {
		x = b.Node("Slice", []string{z, b.Ints(0), b.Ints(r), b.Ints(2)})
	}
	if n.raw {
		x = byScale(x, false)
	}
	switch n.layout {
	case channelsFirst:
		b.NodeTo([]string{n.input}, "Identity", []string{x})
	case rowsFirst:
		b.NodeTo([]string{n.input}, "Transpose", []string{x}, onnx.Ints("perm", 0, 2, 1))
	case flat:
		b.NodeTo([]string{n.input}, "Reshape", []string{x, b.Ints(0, c*r)})
	}
	g := b.Graph()
	g.Initializer = append(g.Initializer, n.graph.Initializer...)
	g.Node = append(g.Node, n.graph.Node...)
	y, wanted := n.output, z
	switch n.gives {
	case unusualness:
		y = b.Node("Reshape", []string{y, b.Ints(-1)})
		return n.head.blame(b, z, b.Node("Sub", []string{y, b.Scalar(n.middle)}))
	case forecast:
		wanted = b.Node("Slice", []string{z, b.Ints(r), b.Ints(r + 1), b.Ints(2)})
		y = b.Node("Reshape", []string{y, b.Ints(0, c, 1)})
	case reconstruction:
		switch n.layout {
		case rowsFirst:
			y = b.Node("Transpose", []string{y}, onnx.Ints("perm", 0, 2, 1))
		case flat:
			y = b.Node("Reshape", []string{y, b.Ints(0, c, r)})
		}
	}
	if n.raw {
		y = byScale(y, true)
	}
	e := b.Node("Sub", []string{wanted, y})
	channels := b.Node("ReduceMean", []string{b.Node("Mul", []string{e, e})}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	return []string{b.Node("ReduceSum", []string{channels, b.Ints(1)}, onnx.Int("keepdims", 0))}, channels
}

// adapt puts the network of c between units and a threshold. It looks at what the network makes of the data: an
// unusualness may begin anywhere, and a score has to begin at 0.
func adapt(ctx context.Context, d Dataset, h *head, c Config, card map[string]any) (detector, error) {
	n := c.opened
	n.head = h
	fitted, kept, err := h.statistics(ctx, d, c, n)
	if err != nil {
		return nil, err
	}
	seen := append(fitted[0], kept[0]...)
	if len(seen) < minWindows {
		return nil, fmt.Errorf("%w: only %d windows of %d rows without a gap: want %d or more", ErrData, len(seen), h.window, minWindows)
	}
	sum := 0.0
	for _, v := range seen {
		if sum += float64(v); math.IsNaN(sum) || math.IsInf(sum, 0) {
			return nil, fmt.Errorf("%w: the network gives %v for a window of normal data", ErrData, v)
		}
	}
	card["reads"], card["gives"], card["raw"] = string(n.layout), string(n.gives), n.raw
	if n.gives == unusualness {
		n.middle = float32(quantile(seen, 0.01))
		card["begins"] = n.middle
		return n, nil
	}
	// Values by their mean and deviation have a variance of 1 in each channel.
	card["explains"] = 1 - sum/float64(len(seen)*n.channels)
	return n, nil
}
