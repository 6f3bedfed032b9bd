package frames

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"math"

	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/telemetry"
)

const (
	quality = 85 // of JPEG: what is lost is below a sensor's noise
	shrinks = 12 // attempts to get below the bound
)

// shrink makes a picture that has too many bytes smaller, as JPEG.
func shrink(f *telemetry.Frame, maxBytes int) error {
	if len(f.Encoded) <= maxBytes {
		return nil
	}
	p, err := frame.Decode(f.Encoded, frame.Limits{})
	if err != nil {
		return err
	}
	h, w := p.Height, p.Width
	for range shrinks {
		b, err := encode(p, h, w)
		if err != nil {
			return err
		}
		if len(b) <= maxBytes {
			f.Encoded, f.Format, f.Width, f.Height = b, telemetry.JPEG, w, h
			return nil
		}
		// Bytes grow about as the number of pixels does.
		by := min(0.9*math.Sqrt(float64(maxBytes)/float64(len(b))), 0.9)
		h, w = max(int(float64(h)*by), 1), max(int(float64(w)*by), 1)
	}
	return fmt.Errorf("a picture of %d by %d pixels cannot be brought below %d bytes", p.Width, p.Height, maxBytes)
}

func encode(p frame.Frame, h, w int) ([]byte, error) {
	pix := p.Resize(h, w, nil)
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range h * w {
		copy(m.Pix[4*i:4*i+3], pix[3*i:])
		m.Pix[4*i+3] = 0xff
	}
	var b bytes.Buffer
	err := jpeg.Encode(&b, m, &jpeg.Options{Quality: quality})
	return b.Bytes(), err
}
