package evaluate

import (
	"math"
	"math/rand/v2"
)

// Defect is a kind of damage that is drawn onto images of good parts, to see whether a model finds it. Drawn ones
// are no real ones: they compare models, and promise nothing.
type Defect string

// The defects.
const (
	Spot    Defect = "spot"    // a small round mark, darker or brighter
	Scratch Defect = "scratch" // a thin straight line
	Stain   Defect = "stain"   // a larger, fainter patch with soft edges
)

// Defects lists all of them.
func Defects() []Defect { return []Defect{Spot, Scratch, Stain} }

// leastContrast is how far a defect stands out at least, in steps of 0 to 255, where an image hardly varies.
const leastContrast = 24

// Draw returns a copy of an image, RGB row by row, with one defect at a place drawn from rng. How strong it is goes by
// how much the image varies itself: 2.5 standard deviations, and one for a stain.
func (d Defect) Draw(image []byte, height, width int, rng *rand.Rand) []byte {
	out := append([]byte(nil), image...)
	sum, squares := 0.0, 0.0
	for _, v := range image {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	n := float64(max(len(image), 1))
	mean := sum / n
	contrast := max(2.5*math.Sqrt(max(squares/n-mean*mean, 0)), leastContrast)
	if d == Stain {
		contrast = max(contrast/2.5, leastContrast)
	}
	if rng.IntN(2) == 0 {
		contrast = -contrast
	}
	side := float64(min(height, width))
	cy, cx := (0.1+0.8*rng.Float64())*float64(height), (0.1+0.8*rng.Float64())*float64(width)
	angle, length, radius := math.Pi*rng.Float64(), side*(0.2+0.2*rng.Float64()), side*(0.03+0.03*rng.Float64())
	sin, cos := math.Sincos(angle)
	for y := range height {
		for x := range width {
			dy, dx := float64(y)-cy, float64(x)-cx
			weight := 0.0
			switch d {
			case Scratch:
				along, across := dx*cos+dy*sin, dx*sin-dy*cos
				if math.Abs(along) <= length/2 {
					weight = min(max(max(1, side/100)+0.5-math.Abs(across), 0), 1)
				}
			case Stain:
				r := 4 * max(radius, 1)
				weight = math.Exp(-(dx*dx + dy*dy) / (r * r / 2))
			default:
				weight = min(max(max(radius, 1)+0.5-math.Hypot(dx, dy), 0), 1)
			}
			if weight < 0.02 {
				continue
			}
			for c := range 3 {
				at := (y*width+x)*3 + c
				out[at] = byte(min(max(float64(image[at])+weight*contrast, 0), 255))
			}
		}
	}
	return out
}
