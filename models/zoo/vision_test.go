package zoo

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

const side = 32

// drawn makes a picture of a made-up surface: plain, with stripes, or with dots, in any light.
func drawn(what string, r *rand.Rand) []byte {
	m := make([]byte, 0, 3*side*side)
	light, phase := 90+60*r.Float64(), r.IntN(8)
	dots := map[[2]int]bool{}
	for range 12 {
		dots[[2]int{r.IntN(side / 2), r.IntN(side / 2)}] = true
	}
	for y := range side {
		for x := range side {
			v := light + 6*r.NormFloat64()
			switch {
			case what == "stripes" && (x+phase)%8 < 3:
				v += 50
			case what == "dots" && dots[[2]int{x / 2, y / 2}]:
				v -= 60
			case what == "scratch" && y-side/2 == (x+phase)/3-5:
				v += 70
			}
			b := byte(max(0, min(255, v)))
			m = append(m, b, b, b)
		}
	}
	return m
}

func surfaces(seed uint64, each int, classes ...string) ImageDataset {
	r := rand.New(rand.NewPCG(seed, 4))
	d := ImageDataset{Height: side, Width: side, Classes: classes}
	for range each {
		for k, name := range classes {
			d.Images, d.Labels = append(d.Images, drawn(name, r)), append(d.Labels, k)
		}
	}
	return d
}

func small() ImageConfig { return ImageConfig{Height: side, Width: side, Channels: 6, Epochs: 25} }

func fittedImages(t *testing.T, kind string, d ImageDataset, c ImageConfig) (*Fitted, *runtime.Session) {
	t.Helper()
	need(t)
	f, err := FitImages(context.Background(), kind, d, c)
	if err != nil {
		t.Fatal(err)
	}
	return f, session(t, f)
}

func TestAClassifierTellsSurfacesApart(t *testing.T) {
	d := surfaces(1, 40, "plain", "stripes", "dots")
	d.Normal = []string{"plain"}
	f, m := fittedImages(t, CNN, d, small())
	if acc := f.Card["accuracy"].(float64); acc < 0.9 {
		t.Errorf("accuracy on held-out images is %.2f", acc)
	}
	r := rand.New(rand.NewPCG(7, 7))
	var out runtime.Result
	for k, name := range d.Classes {
		right, flags := 0, 0
		for range 30 {
			if err := m.ScoreImage(drawn(name, r), &out); err != nil {
				t.Fatal(err)
			}
			if len(out.Probs) != 3 || len(out.Embedding) != 24 {
				t.Fatalf("%d probabilities, %d values of embedding", len(out.Probs), len(out.Embedding))
			}
			best := 0
			for i, p := range out.Probs {
				if p > out.Probs[best] {
					best = i
				}
			}
			if best == k {
				right++
			}
			if out.Anomaly {
				flags++
			}
		}
		if right < 26 {
			t.Errorf("%s: %d of 30 are told right", name, right)
		}
		if good := name == "plain"; good && flags > 4 || !good && flags < 26 {
			t.Errorf("%s: %d of 30 are flagged", name, flags)
		}
	}
	if err := m.Score(make([]float32, 3*side*side), &out); err == nil || !strings.Contains(err.Error(), "reads images") {
		t.Errorf("a window for a model of images: %v", err)
	}
	if err := m.ScoreImage(make([]byte, 7), &out); err == nil || !strings.Contains(err.Error(), "32 by 32 pixels") {
		t.Errorf("seven bytes for an image: %v", err)
	}
	again, _ := fittedImages(t, CNN, d, small())
	if !bytes.Equal(f.ONNX, again.ONNX) {
		t.Error("the same images, configuration and seed give other bytes")
	}
	if problem := onnxChecker(t, f.ONNX); problem != "" {
		t.Errorf("onnx.checker: %s", problem)
	}
}

func TestDefectsThatNobodyLabelled(t *testing.T) {
	for _, kind := range []string{Mahalanobis, ImageNeighbour} {
		t.Run(kind, func(t *testing.T) {
			d := surfaces(2, 60, "plain")
			d.Classes, d.Labels = nil, nil
			c := small()
			c.FalseAlarms = 0.02
			f, m := fittedImages(t, kind, d, c)
			r := rand.New(rand.NewPCG(9, 9))
			var out runtime.Result
			count := func(what string) (n int) {
				for range 40 {
					if err := m.ScoreImage(drawn(what, r), &out); err != nil {
						t.Fatal(err)
					}
					if out.Anomaly {
						n++
					}
				}
				return n
			}
			if n := count("plain"); n > 6 {
				t.Errorf("%d of 40 good parts are flagged", n)
			}
			for _, defect := range []string{"stripes", "dots", "scratch"} {
				if n := count(defect); n < 32 {
					t.Errorf("%s: %d of 40 are found", defect, n)
				}
			}
			if problem := onnxChecker(t, f.ONNX); problem != "" {
				t.Errorf("onnx.checker: %s", problem)
			}
		})
	}
}

// brought is a backbone as a user might bring it: a small convolutional network for four classes.
func brought(t *testing.T, batch int64) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 3))
	n := newResidualNet(3, 4, 4, r)
	b := &onnx.Builder{}
	x := b.Input("pixels", onnx.Float, batch, 3, side, side)
	e := n.forward(b, x, func(c *convolution, x string) string {
		v := c.emit(b, x, c.kernel(b, c.w))
		size := int64(c.out)
		return b.Node("BatchNormalization", []string{
			v, b.Floats(c.name+".g", c.gamma, size), b.Floats(c.name+".b", c.beta, size),
			b.Floats(c.name+".m", c.mean, size), b.Floats(c.name+".v", c.deviation, size),
		})
	})
	var unused []string
	b.NodeTo([]string{"classes"}, "Softmax", []string{dense(b, e, []layer{n.last}, "", &unused)}, onnx.Int("axis", 1))
	b.Output("classes", onnx.Float, batch, 4)
	p, err := onnx.Marshal("backbone", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestABackboneThatSomebodyBrings(t *testing.T) {
	need(t)
	d := surfaces(5, 30, "plain", "stripes", "dots")
	c := ImageConfig{Backbone: brought(t, 1), Epochs: 20}
	if h, w, err := c.Size(); err != nil || h != side || w != side {
		t.Fatalf("it reads %d by %d pixels: %v", h, w, err)
	}
	for kind, epochs := range map[string]int{Head: 200, FineTune: 12} {
		c.Epochs = epochs
		if kind == FineTune {
			c.LearningRate = 0.003
		}
		f, _ := fittedImages(t, kind, d, c)
		if acc := f.Card["accuracy"].(float64); acc < 0.65 { // the backbone has seen nothing yet
			t.Errorf("%s: accuracy on held-out images is %.2f", kind, acc)
		}
	}
	d.Classes, d.Labels = nil, nil
	fittedImages(t, ImageNeighbour, d, ImageConfig{Backbone: c.Backbone})
	for name, c := range map[string]ImageConfig{
		"needs a backbone": {Height: side, Width: side},
		"read model":       {Height: side, Width: side, Backbone: []byte("no such file")},
	} {
		d := surfaces(5, 5, "plain", "stripes")
		if _, err := FitImages(context.Background(), Head, d, c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %q: %v", name, err)
		}
	}
}

func TestImagesThatCannotBeLearned(t *testing.T) {
	need(t)
	one := surfaces(1, 10, "plain", "stripes")
	for i := range one.Labels {
		one.Labels[i] = 0
	}
	few := surfaces(1, 2, "plain")
	few.Classes, few.Labels = nil, nil
	for want, c := range map[string]struct {
		kind string
		d    ImageDataset
	}{
		`0 images of "stripes"`:  {CNN, one},
		"2 images of good parts": {Mahalanobis, few},
		"there are no images":    {CNN, ImageDataset{Height: side, Width: side}},
	} {
		if _, err := FitImages(context.Background(), c.kind, c.d, small()); !errors.Is(err, ErrData) || !strings.Contains(err.Error(), want) {
			t.Errorf("want ErrData with %q: %v", want, err)
		}
	}
}

// TestSteel learns the public pictures of steel strip, a few epochs only: enough to see that the path is right.
func TestSteel(t *testing.T) {
	need(t)
	root := os.Getenv("SWELL_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "data")
	}
	root = filepath.Join(root, "neu-cls")
	file, err := os.Open(filepath.Join(root, "splits.csv"))
	if err != nil {
		t.Skipf("no pictures of steel at %s: set SWELL_DATA to the folder that holds neu-cls", root)
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	d := ImageDataset{Height: 64, Width: 64}
	type example struct {
		pixels []byte
		label  int
	}
	var test []example
	at := map[string]int{}
	for i, row := range rows[1:] {
		if i%3 != 0 {
			continue
		}
		encoded, err := os.ReadFile(filepath.Join(root, row[0]))
		if err != nil {
			t.Fatal(err)
		}
		f, err := frame.Decode(encoded, frame.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		class := filepath.Base(filepath.Dir(row[0]))
		if _, ok := at[class]; !ok {
			at[class] = len(d.Classes)
			d.Classes = append(d.Classes, class)
		}
		e := example{f.Resize(64, 64, nil), at[class]}
		if row[1] == "test" {
			test = append(test, e)
			continue
		}
		d.Images, d.Labels = append(d.Images, e.pixels), append(d.Labels, e.label)
	}
	_, m := fittedImages(t, CNN, d, ImageConfig{Height: 64, Width: 64, Channels: 8, Epochs: 25})
	right := 0
	var out runtime.Result
	for _, e := range test {
		if err := m.ScoreImage(e.pixels, &out); err != nil {
			t.Fatal(err)
		}
		best := 0
		for i, p := range out.Probs {
			if p > out.Probs[best] {
				best = i
			}
		}
		if best == e.label {
			right++
		}
	}
	t.Logf("%d of %d test pictures are told right after a short training on %d", right, len(test), len(d.Images))
	if float64(right) < 0.85*float64(len(test)) {
		t.Error("want 85 % or more")
	}
}
