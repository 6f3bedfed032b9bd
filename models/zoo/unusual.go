package zoo

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/mat"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

// spotter sees an image as a map of spots with a vector each.
type spotter interface {
	// spots appends the map [batch, planes, rows, columns] over x [batch, 3, height, width] of 0 to 255.
	spots(b *onnx.Builder, x string) string
	// extent is the map's planes, rows and columns.
	extent() (planes, rows, columns int64)
}

func (k *backbone) extent() (planes, rows, columns int64) {
	if k.spots == "" {
		return k.size, 1, 1
	}
	return k.planes, k.rows, k.columns
}

// backboneSpots is a backbone as a spotter.
type backboneSpots struct{ *backbone }

func (k backboneSpots) spots(b *onnx.Builder, x string) string {
	f := k.look(b, x)
	if k.backbone.spots == "" {
		return b.Node("Reshape", []string{f, b.Ints(-1, k.size, 1, 1)})
	}
	return k.backbone.spots
}

// texture is what images are seen with where nobody brings a backbone: how strongly random filters without a mean
// answer around a spot, at two scales, and how bright it is. Nothing in it is learned but the normalization.
type texture struct {
	height, width int64
	mean, scale   float32
	filters       []float32 // [filters, 3, size, size]
}

const (
	textureFilters = 32
	textureSize    = 5
)

func newTexture(d ImageDataset, use []int) *texture {
	p := newPictures(d, use)
	t := &texture{height: int64(d.Height), width: int64(d.Width), mean: p.mean, scale: p.scale}
	rng := rand.New(rand.NewPCG(0x7e47, 1)) // the same eyes for all
	const n = colours * textureSize * textureSize
	for range textureFilters {
		f, mean, length := make([]float64, n), 0.0, 0.0
		for i := range f {
			f[i] = rng.NormFloat64()
			mean += f[i] / n
		}
		for i := range f {
			f[i] -= mean
			length += f[i] * f[i]
		}
		for i := range f {
			t.filters = append(t.filters, float32(f[i]/math.Sqrt(length)))
		}
	}
	return t
}

// halved is how long a side is behind an operation of stride 2 with as much padding as leaves half.
func halved(n int64) int64 { return (n + 1) / 2 }

func (t *texture) extent() (planes, rows, columns int64) {
	down := func(n int64) int64 { return halved(halved(halved(n))) }
	return 2*textureFilters + colours, down(t.height), down(t.width)
}

func (t *texture) spots(b *onnx.Builder, x string) string {
	x = b.Node("Mul", []string{b.Node("Sub", []string{x, b.Scalar(t.mean)}), b.Scalar(t.scale)})
	half := func(v string) string {
		return b.Node("AveragePool", []string{v}, onnx.Ints("kernel_shape", 3, 3), onnx.Ints("strides", 2, 2), onnx.Ints("pads", 1, 1, 1, 1))
	}
	filters := b.Floats("texture.filters", t.filters, textureFilters, colours, textureSize, textureSize)
	answers := func(v string) string {
		y := b.Node("Conv", []string{v, filters}, onnx.Ints("kernel_shape", textureSize, textureSize), onnx.Ints("strides", 2, 2), onnx.Ints("pads", 2, 2, 2, 2))
		return b.Node("Abs", []string{y})
	}
	coarse := half(x)
	return b.Node("Concat", []string{half(half(answers(x))), half(answers(coarse)), half(half(coarse))}, onnx.Int("axis", 1))
}

// eyeOf is the backbone that c brings, or texture.
func eyeOf(d ImageDataset, fit []int, c ImageConfig) (spotter, error) {
	if c.Backbone == nil {
		return newTexture(d, fit), nil
	}
	k, err := openBackbone(c)
	return backboneSpots{k}, err
}

// observe computes value, of n numbers for each image, for the images of d named in use.
func observe(ctx context.Context, d ImageDataset, use []int, library string, value func(b *onnx.Builder, x string) string, n int64) ([][]float32, error) {
	const batch = 8
	b := &onnx.Builder{}
	name := value(b, b.Input("x", onnx.Float, batch, colours, int64(d.Height), int64(d.Width)))
	b.NodeTo([]string{"seen"}, "Reshape", []string{name, b.Ints(batch, n)})
	b.Output("seen", onnx.Float, batch, n)
	model, err := onnx.Marshal("eye", b.Graph(), nil)
	if err != nil {
		return nil, err
	}
	program, err := runtime.LoadProgram(model, runtime.Options{Library: library})
	if err != nil {
		return nil, err
	}
	defer program.Close()
	x, err := runtime.NewTensor(batch, colours, int64(d.Height), int64(d.Width))
	if err != nil {
		return nil, err
	}
	defer x.Close()
	y, err := runtime.NewTensor(batch, n)
	if err != nil {
		return nil, err
	}
	defer y.Close()
	binding, err := program.Bind(map[string]*runtime.Tensor{"x": x}, map[string]*runtime.Tensor{"seen": y})
	if err != nil {
		return nil, err
	}
	defer binding.Close()
	area := d.Height * d.Width
	var out [][]float32
	for from := 0; from < len(use); from += batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := use[from:min(from+batch, len(use))]
		for k, i := range part {
			into := x.Data()[k*colours*area : (k+1)*colours*area]
			for p := range area {
				for c := range colours {
					into[c*area+p] = float32(d.Images[i][p*colours+c])
				}
			}
		}
		if err := binding.Run(); err != nil {
			return nil, err
		}
		for k := range part {
			out = append(out, append([]float32(nil), y.Data()[int64(k)*n:int64(k+1)*n]...))
		}
	}
	return out, nil
}

// standardize brings every column of rows to mean 0 and deviation 1, and returns what it took.
func standardize(rows [][]float32) (mean, scale []float32) {
	n := len(rows[0])
	mean, scale = make([]float32, n), make([]float32, n)
	for k := range n {
		sum, squares := 0.0, 0.0
		for _, r := range rows {
			sum += float64(r[k])
		}
		m := sum / float64(len(rows))
		for _, r := range rows {
			squares += (float64(r[k]) - m) * (float64(r[k]) - m)
		}
		deviation := math.Sqrt(squares / float64(len(rows)))
		if deviation < 1e-6*math.Abs(m)+1e-9 {
			deviation = math.Abs(m)/100 + 1e-3 // it never moved: any real change shall stand out
		}
		mean[k], scale[k] = float32(m), float32(1/deviation)
		for _, r := range rows {
			r[k] = (r[k] - mean[k]) * scale[k]
		}
	}
	return mean, scale
}

// summary appends the mean and the largest value of each plane over all spots: [batch, 2·planes].
func summary(b *onnx.Builder, spots string) string {
	mean, most := b.Node("GlobalAveragePool", []string{spots}), b.Node("GlobalMaxPool", []string{spots})
	return b.Node("Flatten", []string{b.Node("Concat", []string{mean, most}, onnx.Int("axis", 1))})
}

// ellipsoid scores how far the summary of an image is from that of good parts, in the metric of their spread. Of
// the spread the main directions are known; the others share what is left of it.
type ellipsoid struct {
	eye         spotter
	mean, scale []float32
	main        []float32 // [numbers, directions], each over its deviation
	plain       []float32 // [numbers, directions]
	rest        float32   // one over the variance of the other directions
}

// maxDirections bounds how many directions of the spread are known apart.
const maxDirections = 64

func fitMahalanobis(ctx context.Context, d ImageDataset, use part, c ImageConfig, card map[string]any) (imageNet, error) {
	eye, err := eyeOf(d, use.fit, c)
	if err != nil {
		return nil, err
	}
	planes, _, _ := eye.extent()
	n := int(2 * planes)
	seen, err := observe(ctx, d, use.fit, c.Library, func(b *onnx.Builder, x string) string { return summary(b, eye.spots(b, x)) }, int64(n))
	if err != nil {
		return nil, err
	}
	e := &ellipsoid{eye: eye}
	e.mean, e.scale = standardize(seen)
	m := mat.NewDense(len(seen), n, nil)
	total := 0.0
	for i, row := range seen {
		for k, v := range row {
			m.Set(i, k, float64(v))
			total += float64(v) * float64(v) / float64(len(seen))
		}
	}
	var svd mat.SVD
	if !svd.Factorize(m, mat.SVDThin) {
		return nil, fmt.Errorf("%w: the spread of the images has no directions", ErrData)
	}
	var v mat.Dense
	svd.VTo(&v)
	values := svd.Values(nil)
	k := min(maxDirections, len(seen)/3, n-1)
	left := total
	variance := make([]float64, k)
	for j := range k {
		variance[j] = values[j] * values[j] / float64(len(seen))
		left -= variance[j]
	}
	// Few images show too little spread in the small directions, so all get a part of the mean one.
	floor := max(left/float64(n-k), 0.05*total/float64(n), 1e-6)
	e.rest = float32(1 / floor)
	e.main, e.plain = make([]float32, n*k), make([]float32, n*k)
	for j := range k {
		for i := range n {
			e.plain[i*k+j] = float32(v.At(i, j))
			e.main[i*k+j] = float32(v.At(i, j) / math.Sqrt(variance[j]+floor))
		}
	}
	card["numbers"], card["directions"] = n, k
	return e, nil
}

func (e *ellipsoid) emit(b *onnx.Builder, x string) (string, int, string) {
	n := int64(len(e.mean))
	k := int64(len(e.main)) / n
	f := summary(b, e.eye.spots(b, x))
	z := b.Node("Mul", []string{b.Node("Sub", []string{f, b.Floats("mean", e.mean, n)}), b.Floats("scale", e.scale, n)})
	length := func(v string) string {
		return b.Node("ReduceSum", []string{b.Node("Mul", []string{v, v}), b.Ints(1)}, onnx.Int("keepdims", 0))
	}
	if k == 0 {
		return f, int(n), b.Node("Sqrt", []string{b.Node("Mul", []string{length(z), b.Scalar(e.rest)})})
	}
	inside := length(b.Node("MatMul", []string{z, b.Floats("main", e.main, n, k)}))
	outside := b.Node("Sub", []string{length(z), length(b.Node("MatMul", []string{z, b.Floats("plain", e.plain, n, k)}))})
	outside = b.Node("Mul", []string{b.Node("Max", []string{outside, b.Scalar(0)}), b.Scalar(e.rest)})
	return f, int(n), b.Node("Sqrt", []string{b.Node("Add", []string{inside, outside})})
}

// spotMemory scores the strangest spot of an image: how far it is from the nearest of the spots of good parts that
// were kept.
type spotMemory struct {
	eye         spotter
	mean, scale []float32
	centres     []float32 // [planes, kept]
	half        []float32 // half the squared length of each
}

// Of how many spots the kept ones are chosen, and how many are kept.
const (
	spotSample = 10_000
	spotsKept  = 512
)

func fitImageNeighbour(ctx context.Context, d ImageDataset, use part, c ImageConfig, card map[string]any) (imageNet, error) {
	eye, err := eyeOf(d, use.fit, c)
	if err != nil {
		return nil, err
	}
	planes, rows, columns := eye.extent()
	seen, err := observe(ctx, d, use.fit, c.Library, eye.spots, planes*rows*columns)
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(c.Seed, 0x5907))
	area := int(rows * columns)
	all := len(seen) * area
	var spots [][]float32
	for _, at := range rng.Perm(all)[:min(all, spotSample)] {
		spot := make([]float32, planes)
		for p := range spot {
			spot[p] = seen[at/area][p*area+at%area]
		}
		spots = append(spots, spot)
	}
	s := &spotMemory{eye: eye}
	s.mean, s.scale = standardize(spots)
	chosen, radius, err := spread(ctx, spots, spotsKept, rng)
	if err != nil {
		return nil, err
	}
	s.centres, s.half = memoryOf(spots, chosen)
	card["spots"], card["kept"], card["radius"] = area, len(chosen), radius
	return s, nil
}

func (s *spotMemory) emit(b *onnx.Builder, x string) (string, int, string) {
	planes, kept := int64(len(s.mean)), int64(len(s.half))
	spots := s.eye.spots(b, x)
	e := b.Node("Flatten", []string{b.Node("GlobalAveragePool", []string{spots})})
	z := b.Node("Mul", []string{b.Node("Sub", []string{spots, b.Floats("mean", s.mean, planes, 1, 1)}), b.Floats("scale", s.scale, planes, 1, 1)})
	z = b.Node("Transpose", []string{b.Node("Reshape", []string{z, b.Ints(0, planes, -1)})}, onnx.Ints("perm", 0, 2, 1)) // [batch, spots, planes]
	d := nearest(b, z, "", planes, kept, s.centres, s.half)
	return e, int(planes), b.Node("Sqrt", []string{b.Node("ReduceMax", []string{d}, onnx.Ints("axes", 1), onnx.Int("keepdims", 0))})
}
