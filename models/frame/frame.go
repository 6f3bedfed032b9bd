// Package frame turns a camera's encoded picture into the pixels an image model reads, and into the few numbers
// that go with every frame.
//
// The agent uses it before it scores and the hub before it trains, so that a model sees the same pixels in both
// places: everything is done in integers, where processors cannot differ. Encoded bytes come from cameras and
// from the network and are not trusted: what they declare is compared with the limits before anything is
// decoded.
//
// Anyone may import it.
package frame

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"math"

	"github.com/swellfleet/swell/models/contract"
)

// Frame is a picture as RGB, eight bits each.
type Frame struct {
	Width, Height int    // pixels
	Pix           []byte // three for each pixel, row by row
}

// Limits bound what Decode accepts. A zero field means its default.
type Limits struct {
	Bytes  int // of the encoded picture; default 16 MiB
	Pixels int // width times height; default 32 million
}

// ErrLimits says that a picture is too large to be decoded; the error around it says how large.
var ErrLimits = errors.New("picture is too large")

// Formats of pictures, as Format names them.
const (
	JPEG = "jpeg"
	PNG  = "png"
)

// Format tells a picture's format by its first bytes; "" when it is neither.
func Format(encoded []byte) string {
	switch {
	case bytes.HasPrefix(encoded, []byte("\xff\xd8\xff")):
		return JPEG
	case bytes.HasPrefix(encoded, []byte("\x89PNG\r\n\x1a\n")):
		return PNG
	}
	return ""
}

// Decode reads a JPEG or PNG picture. Grey ones come out with three equal values, transparent ones over black,
// 16 bits as their upper 8. It does not turn pictures by what their EXIF part says. Larger ones than l fail with
// ErrLimits before they are decoded.
func Decode(encoded []byte, l Limits) (Frame, error) {
	if l.Bytes == 0 {
		l.Bytes = 16 << 20
	}
	if l.Pixels == 0 {
		l.Pixels = 32_000_000
	}
	if len(encoded) > l.Bytes {
		return Frame{}, fmt.Errorf("decode picture: %w: %d bytes, at most %d are allowed", ErrLimits, len(encoded), l.Bytes)
	}
	header, decode := jpeg.DecodeConfig, jpeg.Decode
	format := Format(encoded)
	switch format {
	case JPEG:
	case PNG:
		header, decode = png.DecodeConfig, png.Decode
	default:
		return Frame{}, errors.New("decode picture: it is neither JPEG nor PNG")
	}
	c, err := header(bytes.NewReader(encoded))
	if err != nil {
		return Frame{}, fmt.Errorf("decode %s picture: %w", format, err)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > l.Pixels/c.Height {
		return Frame{}, fmt.Errorf("decode %s picture: %w: %d by %d pixels, at most %d are allowed", format, ErrLimits, c.Width, c.Height, l.Pixels)
	}
	m, err := decode(bytes.NewReader(encoded))
	if err != nil {
		return Frame{}, fmt.Errorf("decode %s picture: %w", format, err)
	}
	return fromImage(m), nil
}

// fromImage copies m as RGB. The kinds that the two decoders make most have paths of their own, to the same
// values as the general one.
func fromImage(m image.Image) Frame {
	b := m.Bounds()
	f := Frame{Width: b.Dx(), Height: b.Dy(), Pix: make([]byte, 0, 3*b.Dx()*b.Dy())}
	for y := b.Min.Y; y < b.Max.Y; y++ {
		switch m := m.(type) {
		case *image.Gray:
			row := m.Pix[m.PixOffset(b.Min.X, y):]
			for _, v := range row[:f.Width] {
				f.Pix = append(f.Pix, v, v, v)
			}
		case *image.YCbCr:
			for x := b.Min.X; x < b.Max.X; x++ {
				r, g, b, _ := m.YCbCrAt(x, y).RGBA()
				f.Pix = append(f.Pix, byte(r>>8), byte(g>>8), byte(b>>8))
			}
		default:
			for x := b.Min.X; x < b.Max.X; x++ {
				r, g, b, _ := m.At(x, y).RGBA()
				f.Pix = append(f.Pix, byte(r>>8), byte(g>>8), byte(b>>8))
			}
		}
	}
	return f
}

// Resize appends f at the given size to dst, three bytes for each pixel, and returns the longer slice. Each new
// pixel is the mean of the old ones around it, those nearer counting more (a triangle as wide as a new pixel is
// apart from the next, but never narrower than an old one). The sides are stretched as they come: a picture of
// another shape is distorted, the same way on every device.
func (f Frame) Resize(h, w int, dst []byte) []byte {
	if h == f.Height && w == f.Width {
		return append(dst, f.Pix...)
	}
	across, down := taps(f.Width, w), taps(f.Height, h)
	// First row by row, to 14 bits; rows no new one needs are not computed.
	narrow := make([]uint16, f.Height*w*3)
	for y := range f.Height {
		in, out := f.Pix[y*f.Width*3:(y+1)*f.Width*3], narrow[y*w*3:(y+1)*w*3]
		for x, t := range across {
			var sum [3]uint32
			for k, weight := range t.weights {
				p := in[(t.from+k)*3:]
				sum[0] += weight * uint32(p[0])
				sum[1] += weight * uint32(p[1])
				sum[2] += weight * uint32(p[2])
			}
			for c, s := range sum {
				out[x*3+c] = uint16((s + 1<<7) >> 8)
			}
		}
	}
	sums := make([]uint32, w*3)
	for _, t := range down {
		clear(sums)
		for k, weight := range t.weights {
			for i, v := range narrow[(t.from+k)*w*3 : (t.from+k+1)*w*3] {
				sums[i] += weight * uint32(v)
			}
		}
		for _, s := range sums {
			dst = append(dst, byte((s+1<<19)>>20))
		}
	}
	return dst
}

// tap is where the old pixels of one new pixel begin, and their weights, which add up to 1<<14.
type tap struct {
	from    int
	weights []uint32
}

func taps(from, to int) []tap {
	out := make([]tap, to)
	wide := max(from, to)
	for i := range out {
		// Distances are counted in parts of 1/(2·from·to), so that they are whole numbers.
		weight := func(j int) int {
			d := (2*j+1)*to - (2*i+1)*from
			return 2*wide - max(d, -d)
		}
		t := tap{from: max((2*i+1)*from/(2*to), 0)}
		for t.from > 0 && weight(t.from-1) > 0 {
			t.from--
		}
		var raw []int
		total := 0
		for j := t.from; j < from && (weight(j) > 0 || len(raw) == 0); j++ {
			raw = append(raw, weight(j))
			total += raw[len(raw)-1]
		}
		left, most := 1<<14, 0
		for k, r := range raw {
			v := r * (1 << 14) / total
			t.weights = append(t.weights, uint32(v))
			left -= v
			if r > raw[most] {
				most = k
			}
		}
		t.weights[most] += uint32(left)
		out[i] = t
	}
	return out
}

// FeatureChannels are the numbers that go with every frame, for plots and for drift: its mean brightness, the
// standard deviation of its brightness and how much neighbouring pixels differ (a lens out of focus lowers it),
// each 0 to 1.
func FeatureChannels() []contract.Channel {
	return []contract.Channel{{Name: "brightness", Unit: "1"}, {Name: "contrast", Unit: "1"}, {Name: "sharpness", Unit: "1"}}
}

// Features computes the FeatureChannels of f. All are 0 for an empty frame.
func (f Frame) Features() []float32 {
	out := make([]float32, 3)
	n := f.Width * f.Height
	if n == 0 {
		return out
	}
	// Thousandths of the luma weights of ITU-R BT.601, so that sums are whole numbers.
	luma := func(i int) int64 {
		p := f.Pix[3*i : 3*i+3 : 3*i+3]
		return 299*int64(p[0]) + 587*int64(p[1]) + 114*int64(p[2])
	}
	const white = 255_000
	var sum, steps int64
	var squares float64
	above := make([]int64, f.Width)
	for y := range f.Height {
		left := int64(0)
		for x := range f.Width {
			v := luma(y*f.Width + x)
			sum += v
			squares += float64(v * v)
			if x > 0 {
				steps += max(v-left, left-v)
			}
			if y > 0 {
				steps += max(v-above[x], above[x]-v)
			}
			left, above[x] = v, v
		}
	}
	mean := float64(sum) / float64(n)
	out[0] = float32(mean / white)
	out[1] = float32(math.Sqrt(max(squares/float64(n)-mean*mean, 0)) / white)
	if pairs := (f.Width-1)*f.Height + f.Width*(f.Height-1); pairs > 0 {
		out[2] = float32(float64(steps) / float64(pairs) / white)
	}
	return out
}
