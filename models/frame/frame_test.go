package frame

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func encode(t testing.TB, m image.Image, format string) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	if format == JPEG {
		err = jpeg.Encode(&b, m, &jpeg.Options{Quality: 95})
	} else {
		err = png.Encode(&b, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPicturesOfEveryKindComeOutAsRGB(t *testing.T) {
	box := image.Rect(3, 5, 19, 13) // a picture need not begin at 0, 0
	grey, rgba, deep, clear := image.NewGray(box), image.NewRGBA(box), image.NewGray16(box), image.NewNRGBA(box)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			grey.SetGray(x, y, color.Gray{200})
			rgba.SetRGBA(x, y, color.RGBA{10, 120, 230, 255})
			deep.SetGray16(x, y, color.Gray16{0xc8ff})
			clear.SetNRGBA(x, y, color.NRGBA{255, 255, 255, 0})
		}
	}
	for name, c := range map[string]struct {
		m      image.Image
		format string
		want   [3]int
		within int
	}{
		"grey PNG":           {grey, PNG, [3]int{200, 200, 200}, 0},
		"grey JPEG":          {grey, JPEG, [3]int{200, 200, 200}, 1},
		"colour PNG":         {rgba, PNG, [3]int{10, 120, 230}, 0},
		"colour JPEG":        {rgba, JPEG, [3]int{10, 120, 230}, 4},
		"16 bits":            {deep, PNG, [3]int{200, 200, 200}, 0},
		"wholly transparent": {clear, PNG, [3]int{0, 0, 0}, 0},
	} {
		f, err := Decode(encode(t, c.m, c.format), Limits{})
		if err != nil || f.Width != 16 || f.Height != 8 || len(f.Pix) != 3*16*8 {
			t.Errorf("%s: %d by %d pixels, %d bytes, %v", name, f.Width, f.Height, len(f.Pix), err)
			continue
		}
		for i, v := range f.Pix {
			if d := int(v) - c.want[i%3]; d > c.within || -d > c.within {
				t.Errorf("%s: byte %d is %d, want %d", name, i, v, c.want[i%3])
				break
			}
		}
	}
}

func TestWhatACameraMustNotSend(t *testing.T) {
	whole := encode(t, image.NewGray(image.Rect(0, 0, 64, 64)), PNG)
	for name, c := range map[string]struct {
		encoded []byte
		limits  Limits
		want    string
		large   bool
	}{
		"nothing":         {nil, Limits{}, "neither JPEG nor PNG", false},
		"text":            {[]byte("GIF89a and so on"), Limits{}, "neither JPEG nor PNG", false},
		"half of one":     {whole[:len(whole)/2], Limits{}, "decode png picture", false},
		"too many pixels": {whole, Limits{Pixels: 64*64 - 1}, "64 by 64 pixels", true},
		"too many bytes":  {whole, Limits{Bytes: len(whole) - 1}, "at most", true},
	} {
		_, err := Decode(c.encoded, c.limits)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrLimits) != c.large {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestScalingKeepsWhatIsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := Frame{Width: rapid.IntRange(1, 40).Draw(t, "width"), Height: rapid.IntRange(1, 40).Draw(t, "height")}
		f.Pix = rapid.SliceOfN(rapid.Byte(), 3*f.Width*f.Height, 3*f.Width*f.Height).Draw(t, "pixels")
		if same := f.Resize(f.Height, f.Width, nil); !bytes.Equal(same, f.Pix) {
			t.Fatal("scaled to its own size it is another picture")
		}
		h, w := rapid.IntRange(1, 60).Draw(t, "to height"), rapid.IntRange(1, 60).Draw(t, "to width")
		head := []byte("before")
		out := f.Resize(h, w, head)
		if len(out) != len(head)+3*h*w || !bytes.HasPrefix(out, head) {
			t.Fatalf("%d bytes behind %d for %d by %d pixels", len(out), len(head), h, w)
		}
		// No new pixel is darker or brighter than every old one.
		low, high := byte(255), byte(0)
		for _, v := range f.Pix {
			low, high = min(low, v), max(high, v)
		}
		for _, v := range out[len(head):] {
			if v < low || v > high {
				t.Fatalf("a pixel of %d out of pixels of %d to %d", v, low, high)
			}
		}
	})
}

func TestFeaturesSayWhatAPictureIsLike(t *testing.T) {
	flat, board := Frame{Width: 8, Height: 8}, Frame{Width: 8, Height: 8}
	for i := range 64 {
		v := byte(255 * ((i + i/8) % 2))
		flat.Pix = append(flat.Pix, 51, 51, 51)
		board.Pix = append(board.Pix, v, v, v)
	}
	for name, c := range map[string]struct {
		f    Frame
		want []float64
	}{
		"one grey":     {flat, []float64{0.2, 0, 0}},
		"a chessboard": {board, []float64{0.5, 0.5, 1}},
		"nothing":      {Frame{}, []float64{0, 0, 0}},
	} {
		got := c.f.Features()
		if len(got) != len(FeatureChannels()) {
			t.Fatalf("%d numbers for %d channels", len(got), len(FeatureChannels()))
		}
		for i, v := range got {
			if math.Abs(float64(v)-c.want[i]) > 1e-6 {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, image.NewGray(image.Rect(0, 0, 9, 5)), PNG))
	f.Add(encode(f, image.NewRGBA(image.Rect(0, 0, 17, 8)), JPEG))
	f.Add([]byte("\xff\xd8\xff"))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		m, err := Decode(encoded, Limits{Pixels: 1 << 16})
		if err != nil {
			return
		}
		if m.Width < 1 || m.Height < 1 || m.Width*m.Height > 1<<16 || len(m.Pix) != 3*m.Width*m.Height {
			t.Fatalf("%d by %d pixels in %d bytes", m.Width, m.Height, len(m.Pix))
		}
	})
}
