package zoo

import (
	"math"
	"math/rand/v2"
)

// pictures are images as a network trains on them: normalized planes of floats, drawn with small changes that
// leave what is on them as it is.
type pictures struct {
	height, width, planes int
	mean, scale           float32 // of pixel values 0 to 255
	data                  [][]float32
}

// greyDifference is the largest mean difference between the colours of a grey picture, in pixel values: lossy
// files are not grey to the last bit.
const greyDifference = 2

// newPictures normalizes the images of d named in use, as grey where all of them are.
func newPictures(d ImageDataset, use []int) *pictures {
	p := &pictures{height: d.Height, width: d.Width, planes: 3}
	area := d.Height * d.Width
	sum, squares, colour := 0.0, 0.0, 0.0
	for _, i := range use {
		m := d.Images[i]
		for k := 0; k < len(m); k += 3 {
			r, g, b := float64(m[k]), float64(m[k+1]), float64(m[k+2])
			sum += r + g + b
			squares += r*r + g*g + b*b
			colour += math.Abs(r-g) + math.Abs(g-b)
		}
	}
	n := float64(len(use) * area * 3)
	if colour/n < greyDifference/3.0 {
		p.planes = 1
	}
	mean := sum / n
	deviation := math.Sqrt(max(squares/n-mean*mean, 0))
	p.mean, p.scale = float32(mean), float32(1/max(deviation, 1))
	for _, i := range use {
		planes := make([]float32, p.planes*area)
		p.normalize(d.Images[i], planes)
		p.data = append(p.data, planes)
	}
	return p
}

// normalize writes the image m, as it is, into planes.
func (p *pictures) normalize(m []byte, planes []float32) {
	area := p.height * p.width
	for k := range area {
		r, g, b := float32(m[3*k]), float32(m[3*k+1]), float32(m[3*k+2])
		if p.planes == 1 {
			planes[k] = ((r+g+b)/3 - p.mean) * p.scale
			continue
		}
		planes[k], planes[area+k], planes[2*area+k] = (r-p.mean)*p.scale, (g-p.mean)*p.scale, (b-p.mean)*p.scale
	}
}

// How far draw changes a picture.
const (
	shiftShare  = 0.1  // of each side
	gainShare   = 0.2  // of contrast
	offsetLevel = 25.5 // of brightness, in pixel values
)

// draw writes picture k into x, moved a little (what comes in from the side is mirrored), a little brighter or
// darker, and, with turn, mirrored or turned by quarters; a picture that is not square is only mirrored.
func (p *pictures) draw(k int, x []float32, turn bool, rng *rand.Rand) {
	h, w := p.height, p.width
	mirror, flip, quarter := false, false, false
	if turn {
		mirror, flip, quarter = rng.IntN(2) == 1, rng.IntN(2) == 1, h == w && rng.IntN(2) == 1
	}
	shift := func(side int) int { return int(math.Round((2*rng.Float64() - 1) * shiftShare * float64(side))) }
	down, right := shift(h), shift(w)
	gain := float32(1 + (2*rng.Float64()-1)*gainShare)
	offset := float32((2*rng.Float64()-1)*offsetLevel) * p.scale
	from := func(at, shift, side int, mirrored bool) int {
		if at += shift; at < 0 {
			at = -at
		}
		if at >= side {
			at = 2*side - 2 - at
		}
		if mirrored {
			at = side - 1 - at
		}
		return at
	}
	columns := make([]int, w)
	for c := range columns {
		columns[c] = from(c, right, w, mirror)
	}
	for plane := range p.planes {
		in, out := p.data[k][plane*h*w:(plane+1)*h*w], x[plane*h*w:(plane+1)*h*w]
		for r := range h {
			row := from(r, down, h, flip)
			for c, column := range columns {
				if quarter {
					out[r*w+c] = in[column*w+row]*gain + offset
				} else {
					out[r*w+c] = in[row*w+column]*gain + offset
				}
			}
		}
	}
}
