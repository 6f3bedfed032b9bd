package zoo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/models/runtime"
)

// Limits of one fit, so that a wrong configuration fails early instead of filling the memory.
const (
	maxFeatures = 2048    // channels times pattern
	maxPatterns = 200_000 // used by a fit; more are thinned out evenly
	maxWindows  = 50_000  // used by a calibration; more are thinned out evenly
	maxHeld     = 4096    // patterns that say when to stop; more are thinned out evenly
	minPatterns = 50
	minWindows  = 20
	maxExperts  = 64 // in one graph
)

// detector is what a kind learns: how to compute its statistics from a window of standardized values.
type detector interface {
	// emit appends the operations that compute the detector's statistics to b. z names the standardized
	// window [batch, channels, window]. Each statistic has shape [batch]; the last one is the sum of
	// channels, of shape [batch, channels]. All grow with how unusual the window is.
	emit(b *onnx.Builder, z string) (statistics []string, channels string)
	// weights divide the statistics against each other; one per statistic.
	weights() []float64
}

// makers learn a detector from the patterns that may be learned from. They put what a model card should say
// into card.
var makers = map[string]func(ctx context.Context, m matrix, h *head, c Config, card map[string]any) (detector, error){
	PCA:             fitPCA,
	DenseAE:         fitDenseAE,
	ConvAE:          fitConvAE,
	Forecast:        fitForecast,
	RandomNeighbour: fitRandomNeighbour,
	Forest:          fitForest,
	Seasonal:        fitSeasonal,
	Spectral:        fitSpectral,
}

// Fit learns a detector of the given kind from normal data and exports it. It fails with ErrData when the
// data is too short or not finite, with ctx's error when cancelled, and with a reason for a configuration
// that Config.Validate refuses or an unknown kind.
func Fit(ctx context.Context, kind string, d Dataset, c Config) (*Fitted, error) {
	f, err := fit(ctx, kind, d, c)
	if err != nil {
		return nil, fmt.Errorf("fit %s: %w", kind, err)
	}
	return f, nil
}

func fit(ctx context.Context, kind string, d Dataset, c Config) (*Fitted, error) {
	begin := time.Now()
	if !slices.Contains(Kinds(), kind) && kind != Network {
		return nil, fmt.Errorf("unknown kind: want one of %v", Kinds())
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults(kind)
	if err := d.Validate(); err != nil {
		return nil, err
	}
	if kind == Network {
		if err := c.openNetwork(d); err != nil {
			return nil, err
		}
	} else if n := len(d.Channels) * c.Pattern; n > maxFeatures {
		return nil, fmt.Errorf("%d channels by a pattern of %d samples are %d features: at most %d are supported", len(d.Channels), c.Pattern, n, maxFeatures)
	}
	if c.FalseAlarmsPerDay > 0 && d.SampleRateHz == 0 {
		return nil, fmt.Errorf("false alarms per day need a sample rate")
	}
	card := map[string]any{"kind": kind, "devices": len(d.Series)}
	f, err := learn(ctx, kind, d, c, card)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	out := &Fitted{Kind: kind, Threshold: 1, Card: card, Contract: contract.Contract{
		Version: contract.Version, Kind: kind, Channels: slices.Clone(d.Channels), Window: f.window, Stride: c.Stride,
		SampleRateHz: d.SampleRateHz, Threshold: 1, ScoreDeciles: f.deciles, DatasetDigest: c.DatasetDigest, ParentModel: c.ParentModel, TrainingConfig: string(config),
	}}
	if err := out.Contract.Validate(); err != nil {
		return nil, fmt.Errorf("contract: %w", err)
	}
	if out.ONNX, err = onnx.Marshal(kind, f.graph, out.Contract.Metadata()); err != nil {
		return nil, err
	}
	// What a device would refuse must not leave the hub.
	if _, err := onnx.Check(out.ONNX, onnx.Limits{}); err != nil {
		return nil, fmt.Errorf("exported model: %w", err)
	}
	out.TrainSeconds = time.Since(begin).Seconds()
	return out, nil
}

// learned is what a kind came to.
type learned struct {
	graph   *onnxpb.GraphProto
	window  int       // rows it reads
	deciles []float64 // of its scores; nil where they say nothing
}

func learn(ctx context.Context, kind string, d Dataset, c Config, card map[string]any) (learned, error) {
	if err := ctx.Err(); err != nil {
		return learned{}, err
	}
	if kind == Neighbour {
		n, err := fitNeighbour(d, c, card)
		if err != nil {
			return learned{}, err
		}
		return learned{graph: n.export().Graph(), window: n.window}, nil
	}
	experts, err := fitExperts(ctx, kind, d, c, card)
	if err != nil {
		return learned{}, err
	}
	return learned{export(experts), experts[0].window, deciles(experts)}, nil
}

// expert is a detector with what stands before and behind it in the graph.
type expert struct {
	*head
	detector
	scales []float64 // factor of each statistic; the largest product is 1 at the threshold
	scores []float64 // of the held-out windows
}

// fitExperts fits one expert to all of d, or one to each device's part. A device whose data is too short for
// one of its own is left out and named in the card; some other expert has to know its ways.
func fitExperts(ctx context.Context, kind string, d Dataset, c Config, card map[string]any) ([]expert, error) {
	if !c.PerDevice {
		e, err := fitExpert(ctx, kind, d, c, "", card)
		return []expert{e}, err
	}
	c.Checkpoints = nil // they do not tell experts apart, and each is soon done
	parts := map[string]*Dataset{}
	var devices []string
	for _, s := range d.Series {
		if parts[s.Device] == nil {
			parts[s.Device] = &Dataset{Channels: d.Channels, SampleRateHz: d.SampleRateHz}
			devices = append(devices, s.Device)
		}
		parts[s.Device].Series = append(parts[s.Device].Series, s)
	}
	most := maxExperts
	if kind == Forest {
		most = forestExperts
	}
	if len(devices) > most {
		return nil, fmt.Errorf("%d devices: one model holds at most %d of them apart; fit groups of devices one by one", len(devices), most)
	}
	slices.Sort(devices)
	var out []expert
	var lastErr error
	experts, leftOut := map[string]any{}, map[string]string{}
	for i, device := range devices {
		about := map[string]any{}
		e, err := fitExpert(ctx, kind, *parts[device], c, fmt.Sprintf("d%d.", i), about)
		switch {
		case errors.Is(err, ErrData):
			leftOut[device], lastErr = err.Error(), err
			continue
		case err != nil:
			return nil, fmt.Errorf("device %s: %w", device, err)
		}
		experts[device] = about
		out = append(out, e)
	}
	card["experts"], card["leftOut"] = experts, leftOut
	if len(out) == 0 {
		return nil, fmt.Errorf("no device has enough data of its own: %w", lastErr)
	}
	return out, nil
}

func fitExpert(ctx context.Context, kind string, d Dataset, c Config, prefix string, card map[string]any) (e expert, err error) {
	if kind == Seasonal {
		season, strength, err := seasonOf(d, c)
		if err != nil {
			return e, err
		}
		c.Pattern = season + seasonJitter + 1
		card["strength"] = strength
	}
	e.head = newHead(d, c)
	e.prefix = prefix
	var patterns matrix
	if kind != Seasonal && kind != Spectral && kind != Network { // which learn nothing from them
		if patterns, err = e.patterns(d, c); err != nil {
			return e, err
		}
		card["patterns"] = patterns.rows
		if c.Patience > 0 {
			patterns.held = e.heldPatterns(d, c)
		}
	}
	if kind == Network {
		e.detector, err = adapt(ctx, d, e.head, c, card)
	} else {
		e.detector, err = makers[kind](ctx, patterns, e.head, c, card)
	}
	if err != nil {
		return e, err
	}
	e.scales, e.scores, err = e.calibrate(ctx, d, c, e.detector, card)
	return e, err
}

// head is what all kinds share: the standardization in front and the threshold behind.
type head struct {
	prefix                            string // of the names of constants in the graph
	channels, pattern, smooth, window int
	mean, scale                       []float64 // per channel
}

// held is the first row of each series that the fit may not see.
func held(s Series, c Config) int { return int(math.Ceil(float64(s.Rows()) * (1 - c.HoldOut))) }

func newHead(d Dataset, c Config) *head {
	h := &head{channels: len(d.Channels), pattern: c.Pattern, smooth: c.Smooth, window: c.Pattern + c.Smooth - 1}
	for ch := range d.Channels {
		n, sum, squares := 0.0, 0.0, 0.0
		for _, s := range d.Series {
			for _, v := range s.Values[ch][:held(s, c)] {
				n++
				sum += float64(v)
			}
		}
		mean := sum / max(n, 1)
		for _, s := range d.Series {
			for _, v := range s.Values[ch][:held(s, c)] {
				squares += (float64(v) - mean) * (float64(v) - mean)
			}
		}
		scale := math.Sqrt(squares / max(n, 1))
		// A channel that never moved has no scale of its own. A hundredth of its level makes any real
		// change stand out while the last bits of a float do not.
		if scale <= 1e-6*math.Abs(mean) || scale < 1e-30 {
			if scale = math.Abs(mean) / 100; scale == 0 {
				scale = 1
			}
		}
		h.mean, h.scale = append(h.mean, mean), append(h.scale, scale)
	}
	return h
}

// matrix is a dense row-major matrix.
type matrix struct {
	rows, cols int
	data       []float32
	held       *matrix // of patterns: those nobody learns from, that say when to stop; nil: nobody asks
}

// patterns collects the standardized patterns of the part of d that may be learned from, one per row,
// channel after channel.
func (h *head) patterns(d Dataset, c Config) (matrix, error) {
	m, total, longest := h.cut(d, c, maxPatterns, func(s Series, span Span) Span { return Span{span.From, min(span.To, held(s, c))} })
	if total < minPatterns {
		return matrix{}, fmt.Errorf("%w: only %d patterns of %d samples without a gap (longest run is %d rows, the last %.0f %% are held out): want %d or more",
			ErrData, total, h.pattern, longest, 100*c.HoldOut, minPatterns)
	}
	return m, nil
}

// heldPatterns collects those of the part that is held out.
func (h *head) heldPatterns(d Dataset, c Config) *matrix {
	m, _, _ := h.cut(d, c, maxHeld, func(s Series, span Span) Span { return Span{max(span.From, held(s, c)), span.To} })
	return &m
}

// cut collects the standardized patterns inside part of each span, thinned out evenly to most of them. It
// returns how many there were, and the rows of the longest part.
func (h *head) cut(d Dataset, c Config, most int, part func(Series, Span) Span) (m matrix, total, longest int) {
	each := func(f func(s Series, end int)) {
		for _, s := range d.Series {
			for _, span := range s.Spans(d.SampleRateHz, c.MaxGap) {
				span = part(s, span)
				longest = max(longest, span.To-span.From)
				for end := span.From + h.pattern; end <= span.To; end++ {
					f(s, end)
				}
			}
		}
	}
	each(func(Series, int) { total++ })
	thin := max((total+most-1)/most, 1)
	m.cols = h.channels * h.pattern
	i := 0
	each(func(s Series, end int) {
		if i++; (i-1)%thin != 0 {
			return
		}
		for ch, values := range s.Values {
			for _, v := range values[end-h.pattern : end] {
				m.data = append(m.data, float32((float64(v)-h.mean[ch])/h.scale[ch]))
			}
		}
		m.rows++
	})
	return m, total, longest
}

// standardize emits what stands before a detector.
func (h *head) standardize(b *onnx.Builder, window string) string {
	mean, inverse := make([]float32, h.channels), make([]float32, h.channels)
	for i := range mean {
		mean[i], inverse[i] = float32(h.mean[i]), float32(1/h.scale[i])
	}
	// Subtract first: a level far above its spread would lose its digits the other way round.
	z := b.Node("Sub", []string{window, b.Floats(h.prefix+"mean", mean, int64(h.channels), 1)})
	return b.Node("Mul", []string{z, b.Floats(h.prefix+"inverse_scale", inverse, int64(h.channels), 1)})
}

// unfold emits the patterns of z [batch, channels, window] as [batch, channels*pattern, smooth]: a kernel that
// picks one sample each.
func (h *head) unfold(b *onnx.Builder, z string) string {
	n := h.channels * h.pattern
	pick := make([]float32, n*n)
	for i := range n {
		pick[i*n+i] = 1
	}
	return b.Node("Conv", []string{z, b.Floats(h.prefix+"pick", pick, int64(n), int64(h.channels), int64(h.pattern))})
}

// residual emits the end that kinds with a residual share: r [batch, channels*pattern, smooth] is squared,
// averaged over the window and summed up per channel and in all.
func (h *head) residual(b *onnx.Builder, r string) (q, channels string) {
	squares := b.Node("Mul", []string{r, r})
	squares = b.Node("Reshape", []string{squares, b.Ints(0, int64(h.channels), int64(h.pattern*h.smooth))})
	channels = b.Node("ReduceMean", []string{squares}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	return b.Node("ReduceSum", []string{channels, b.Ints(1)}, onnx.Int("keepdims", 0)), channels
}

// blame emits the end that kinds without a residual share: q [batch] is not a number where the window z is not,
// and each channel gets its share of q by how far it is from its mean.
func (h *head) blame(b *onnx.Builder, z, q string) (statistics []string, channels string) {
	// What compares values, such as Relu, Max or a tree, swallows what is not a number.
	q = b.Node("Add", []string{q, b.Node("ReduceSum", []string{b.Node("Mul", []string{z, b.Scalar(0)}), b.Ints(1, 2)}, onnx.Int("keepdims", 0))})
	own := b.Node("ReduceMean", []string{b.Node("Mul", []string{z, z})}, onnx.Ints("axes", 2), onnx.Int("keepdims", 0))
	all := b.Node("Add", []string{b.Node("ReduceSum", []string{own, b.Ints(1)}, onnx.Int("keepdims", 1)), b.Scalar(1e-9)})
	share := b.Node("Div", []string{own, all})
	return []string{q}, b.Node("Mul", []string{share, b.Node("Unsqueeze", []string{q, b.Ints(1)})})
}

// calibrate sets the factor of each statistic so that the largest product, the score, is 1 at the threshold,
// and returns the scores of the held-out windows.
func (h *head) calibrate(ctx context.Context, d Dataset, c Config, det detector, card map[string]any) (scales, scores []float64, err error) {
	fitted, kept, err := h.statistics(ctx, d, c, det)
	if err != nil {
		return nil, nil, err
	}
	if len(kept[0]) < minWindows {
		return nil, nil, fmt.Errorf("%w: only %d held-out windows of %d samples without a gap: want %d or more; give longer series or a smaller window",
			ErrData, len(kept[0]), h.window, minWindows)
	}
	// Each statistic over its own high quantile, on whichever part of the data it was higher: a threshold
	// below what the model says of its own training data would flag normal operation from the first hour.
	scales = make([]float64, len(kept))
	for i, w := range det.weights() {
		reference := quantile(kept[i], c.Quantile)
		if len(fitted[i]) > 0 {
			reference = max(reference, quantile(fitted[i], c.Quantile))
		}
		if !(reference > 1e-9) {
			reference = 1e-9 // the statistic never moved; anything that does is unusual
		}
		scales[i] = 1 / (reference * w)
	}
	threshold := c.Margin
	combined := make([]float64, len(kept[0]))
	for i := range combined {
		for k := range kept {
			combined[i] = max(combined[i], float64(kept[k][i])*scales[k])
		}
	}
	if c.FalseAlarmsPerDay > 0 {
		perDay := d.SampleRateHz * 86400 / float64(c.Stride)
		threshold = tail(combined, c.FalseAlarmsPerDay/perDay)
	}
	flagged := 0
	for _, s := range combined {
		if s > threshold {
			flagged++
		}
	}
	card["calibration"] = map[string]any{"windows": len(combined), "flagged": flagged, "margin": threshold, "quantile": c.Quantile}
	for i := range scales {
		scales[i] /= threshold
	}
	for i := range combined {
		combined[i] /= threshold
	}
	return scales, combined, nil
}

// deciles returns the inner deciles of a model's scores; nil when they do not rise, or when several experts
// each know their own.
func deciles(experts []expert) []float64 {
	if len(experts) != 1 {
		return nil
	}
	return decilesOf(experts[0].scores)
}

// decilesOf returns the inner deciles of scores; nil when they do not rise.
func decilesOf(scores []float64) []float64 {
	if len(scores) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(scores))
	var out []float64
	for i := 1; i <= contract.Deciles; i++ {
		v := sorted[i*len(sorted)/(contract.Deciles+1)]
		if i > 1 && !(v > out[i-2]) {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// statistics runs the detector over the fitted and over the held-out windows of d.
func (h *head) statistics(ctx context.Context, d Dataset, c Config, det detector) (fitted, kept [][]float32, err error) {
	const batch = 256
	b := &onnx.Builder{}
	in := b.Input(contract.Window, onnx.Float, batch, int64(h.channels), int64(h.window))
	names, _ := det.emit(b, h.standardize(b, in))
	for _, n := range names {
		b.Output(n, onnx.Float, batch)
	}
	model, err := onnx.Marshal("statistics", b.Graph(), nil)
	if err != nil {
		return nil, nil, err
	}
	program, err := runtime.LoadProgram(model, runtime.Options{Library: c.Library})
	if err != nil {
		return nil, nil, err
	}
	defer program.Close()
	window, err := runtime.NewTensor(batch, int64(h.channels), int64(h.window))
	if err != nil {
		return nil, nil, err
	}
	defer window.Close()
	outputs := map[string]*runtime.Tensor{}
	for _, n := range names {
		if outputs[n], err = runtime.NewTensor(batch); err != nil {
			return nil, nil, err
		}
		defer outputs[n].Close()
	}
	binding, err := program.Bind(map[string]*runtime.Tensor{contract.Window: window}, outputs)
	if err != nil {
		return nil, nil, err
	}
	defer binding.Close()

	fitted, kept = make([][]float32, len(names)), make([][]float32, len(names))
	var intoKept []bool // of the windows waiting in the buffer
	flush := func() error {
		if err := ctx.Err(); err != nil || len(intoKept) == 0 {
			return err
		}
		if err := binding.Run(); err != nil {
			return err
		}
		for i, n := range names {
			for k, v := range outputs[n].Data()[:len(intoKept)] {
				if intoKept[k] {
					kept[i] = append(kept[i], v)
				} else {
					fitted[i] = append(fitted[i], v)
				}
			}
		}
		intoKept = intoKept[:0]
		return nil
	}
	total := 0
	for _, s := range d.Series {
		total += s.Rows()
	}
	thin, n := (total+maxWindows-1)/maxWindows, 0
	for _, s := range d.Series {
		for _, span := range s.Spans(d.SampleRateHz, c.MaxGap) {
			for end := span.From + h.window; end <= span.To; end++ {
				if n++; (n-1)%thin != 0 {
					continue
				}
				at := len(intoKept) * h.channels * h.window
				s.AppendWindow(window.Data()[at:at], end, h.window)
				if intoKept = append(intoKept, end > held(s, c)); len(intoKept) == batch {
					if err := flush(); err != nil {
						return nil, nil, err
					}
				}
			}
		}
	}
	return fitted, kept, flush()
}

// emitScore appends the whole expert: its score of shape [batch], 1 at the threshold, and its channels' parts.
func (e expert) emitScore(b *onnx.Builder, window string) (score, channels string) {
	statistics, channels := e.emit(b, e.standardize(b, window))
	scaled := make([]string, len(statistics))
	for i, s := range statistics {
		scaled[i] = b.Node("Mul", []string{s, b.Scalar(float32(e.scales[i]))})
	}
	if score = scaled[0]; len(scaled) > 1 {
		score = b.Node("Max", scaled)
	}
	return score, b.Node("Mul", []string{channels, b.Scalar(float32(e.scales[len(e.scales)-1]))})
}

// export builds the graph that devices get. With several experts the one that finds a window the least
// unusual counts: what is normal on one machine of the fleet is normal.
func export(experts []expert) *onnxpb.GraphProto {
	b := &onnx.Builder{}
	h := experts[0].head
	window := b.Input(contract.Window, onnx.Float, onnx.Batch, int64(h.channels), int64(h.window))
	var scores, parts []string
	for _, e := range experts {
		score, channels := e.emitScore(b, window)
		scores, parts = append(scores, score), append(parts, channels)
	}
	score, channels := scores[0], parts[0]
	for i, other := range scores[1:] {
		keep := b.Node("LessOrEqual", []string{score, other})
		score = b.Node("Where", []string{keep, score, other})
		channels = b.Node("Where", []string{b.Node("Unsqueeze", []string{keep, b.Ints(1)}), channels, parts[i+1]})
	}
	b.NodeTo([]string{contract.Score}, "Identity", []string{score})
	b.NodeTo([]string{contract.ChannelScore}, "Identity", []string{channels})
	// A score that is not a number is not below the threshold, so it alarms.
	normal := b.Node("LessOrEqual", []string{contract.Score, b.Floats("threshold", []float32{1}, 1)})
	b.NodeTo([]string{contract.Anomaly}, "Not", []string{normal})
	b.Output(contract.Score, onnx.Float, onnx.Batch)
	b.Output(contract.Anomaly, onnx.Bool, onnx.Batch)
	b.Output(contract.ChannelScore, onnx.Float, onnx.Batch, int64(h.channels))
	return b.Graph()
}

// quantile is the q-quantile of values with linear interpolation.
func quantile[T float32 | float64](values []T, q float64) float64 {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return float64(sorted[len(sorted)-1])
	}
	return float64(sorted[i]) + (at-float64(i))*float64(sorted[i+1]-sorted[i])
}

// tail is the level that a share of values exceeds. Where the sample is too small to show so rare an event,
// it is extrapolated from the top tenth as an exponential tail (peaks over threshold).
func tail(values []float64, share float64) float64 {
	const top = 0.1
	if share >= top || share*float64(len(values)) >= 10 {
		return quantile(values, 1-min(share, 1))
	}
	from := quantile(values, 1-top)
	excess, n := 0.0, 0.0
	for _, v := range values {
		if v > from {
			excess += v - from
			n++
		}
	}
	if n == 0 {
		return from
	}
	return from + excess/n*math.Log(top/share)
}
