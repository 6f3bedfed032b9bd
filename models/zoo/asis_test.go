package zoo

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
)

// byBrightness is a classifier as somebody might bring it: bright, dark.
func byBrightness(t *testing.T, classes int) []byte {
	t.Helper()
	b := &onnx.Builder{}
	x := b.Input("pixels", onnx.Float, onnx.Batch, 3, side, side)
	features := b.Node("Flatten", []string{b.Node("GlobalAveragePool", []string{x})})
	w := make([]float32, 3*classes)
	for colour := range 3 {
		w[colour*classes], w[colour*classes+1] = 1, -1
	}
	logits := b.Node("Gemm", []string{features, b.Floats("w", w, 3, int64(classes))})
	b.NodeTo([]string{"p"}, "Softmax", []string{logits}, onnx.Int("axis", 1))
	b.Output("p", onnx.Float, onnx.Batch, int64(classes))
	p, err := onnx.Marshal("brightness", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// lamps are dark and bright images.
func lamps() ImageDataset {
	d := ImageDataset{Height: side, Width: side, Classes: []string{"dark", "bright"}, Normal: []string{"bright"}}
	for i := range 40 {
		level := byte(40 + i%20)
		if i%2 == 1 {
			level += 150
		}
		d.Images = append(d.Images, bytes.Repeat([]byte{level}, side*side*3))
		d.Labels = append(d.Labels, i%2)
	}
	return d
}

func TestAClassifierThatSomebodyBringsIsTakenAsItIs(t *testing.T) {
	d := lamps()
	f, s := fittedImages(t, AsIs, d, ImageConfig{Backbone: byBrightness(t, 2)})
	if acc := f.Card["accuracy"].(float64); acc != 1 {
		t.Errorf("accuracy is %.2f: are its classes in alphabetical order?", acc)
	}
	var r runtime.Result
	for i, want := range []bool{true, false} { // dark is no good part
		if err := s.ScoreImage(d.Images[i], &r); err != nil || r.Anomaly != want || r.Probs[d.Labels[i]] < 0.5 {
			t.Errorf("image %d: %+v, %v", i, r, err)
		}
	}
	if _, err := FitImages(t.Context(), AsIs, d, ImageConfig{Backbone: byBrightness(t, 3)}); !errors.Is(err, ErrData) || !strings.Contains(err.Error(), "tells 3 classes apart") {
		t.Errorf("a network for other classes: %v", err)
	}
	// What carries the contract stays what it is.
	again, err := FitImages(t.Context(), AsIs, d, ImageConfig{Backbone: f.ONNX})
	if err != nil || !bytes.Equal(again.ONNX, f.ONNX) {
		t.Errorf("a finished model: %v", err)
	}
	d.Classes = []string{"off", "on"}
	d.Normal = nil
	if _, err := FitImages(t.Context(), AsIs, d, ImageConfig{Backbone: f.ONNX}); !errors.Is(err, ErrData) || !strings.Contains(err.Error(), "same order") {
		t.Errorf("a finished model for other labels: %v", err)
	}
}
