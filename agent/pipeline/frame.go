package pipeline

import "github.com/swellfleet/swell/models/frame"

// scaled is the picture of one row in the sizes that models read, each made
// once: champion and challenger mostly read the same. The zero value has none.
type scaled struct {
	picture frame.Frame
	sizes   []size
}

// size is a picture at one size; its memory is used again for the next row.
type size struct {
	height, width int
	pix           []byte // empty: not made for this row yet
}

// maxSizes are kept between rows: those of champion, successor and challenger.
const maxSizes = 3

// next begins a row.
func (s *scaled) next(p frame.Frame) {
	s.picture = p
	for i := range s.sizes {
		s.sizes[i].pix = s.sizes[i].pix[:0]
	}
}

// at returns the picture's pixels at a size. They are valid until the next row.
func (s *scaled) at(height, width int) []byte {
	for i := range s.sizes {
		if z := &s.sizes[i]; z.height == height && z.width == width {
			if len(z.pix) == 0 {
				z.pix = s.picture.Resize(height, width, z.pix)
			}
			return z.pix
		}
	}
	if len(s.sizes) == maxSizes {
		s.sizes = append(s.sizes[:0], s.sizes[1:]...)
	}
	s.sizes = append(s.sizes, size{height, width, s.picture.Resize(height, width, nil)})
	return s.sizes[len(s.sizes)-1].pix
}

// likeliest returns the first of the greatest probabilities; a value that is
// none counts as 0. probs is not empty.
func likeliest(probs []float32) (class int, probability float32) {
	for i, p := range probs {
		if p > probability {
			class, probability = i, p
		}
	}
	return class, min(probability, 1)
}
