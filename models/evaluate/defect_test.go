package evaluate

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestADefectIsDrawnTheSameWayEachTimeAndStaysSmall(t *testing.T) {
	for _, size := range [][2]int{{32, 32}, {100, 60}, {8, 200}} {
		h, w := size[0], size[1]
		rng := rand.New(rand.NewPCG(1, 1))
		image := make([]byte, h*w*3)
		for i := range image {
			image[i] = byte(100 + rng.IntN(40))
		}
		before := bytes.Clone(image)
		for _, d := range Defects() {
			for seed := range uint64(30) {
				a, b := d.Draw(image, h, w, rand.New(rand.NewPCG(seed, 2))), d.Draw(image, h, w, rand.New(rand.NewPCG(seed, 2)))
				if !bytes.Equal(a, b) || !bytes.Equal(image, before) {
					t.Fatalf("%s: two drawings differ, or the image was changed", d)
				}
				changed, most := 0, 0
				for i := range a {
					if a[i] != image[i] {
						changed++
						most = max(most, max(int(a[i])-int(image[i]), int(image[i])-int(a[i])))
					}
				}
				if changed == 0 || changed > len(a)/2 || most < leastContrast-2 {
					t.Errorf("%s on %d by %d, seed %d: %d of %d values changed, by up to %d", d, h, w, seed, changed, len(a), most)
				}
			}
		}
	}
	if got := Spot.Draw(make([]byte, 16*16*3), 16, 16, rand.New(rand.NewPCG(3, 2))); len(got) != 16*16*3 {
		t.Error("a black image")
	}
}
