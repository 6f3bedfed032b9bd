package zoo

import (
	"fmt"

	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Tolerances of golden scores.
const goldenAbs, goldenRel = 1e-4, 1e-3

// goldenDecided says that a score is far enough from the threshold for every processor to decide alike.
func goldenDecided(score float32, threshold float64) bool {
	d := float64(score) - threshold
	return max(d, -d) > goldenAbs+goldenRel*threshold
}

// Golden scores windows with the fitted model as a device would, for the vectors of a release. Each window
// has Contract.Cells() values. library is the path of libonnxruntime; empty means where models/runtime
// finds it.
//
// Other processors add floats in another order, so scores may differ in the last digits; a window whose
// score lies within the tolerance of the threshold could flip its verdict and is left out.
func Golden(f *Fitted, windows [][]float32, library string) (artifact.Golden, error) {
	s, err := runtime.Load(f.ONNX, runtime.Options{Library: library})
	if err != nil {
		return artifact.Golden{}, fmt.Errorf("golden vectors: %w", err)
	}
	defer s.Close()
	g := artifact.Golden{Channels: len(f.Contract.Channels), Window: f.Contract.Window, AbsTol: goldenAbs, RelTol: goldenRel}
	var r runtime.Result
	for i, w := range windows {
		if err := s.Score(w, &r); err != nil {
			return artifact.Golden{}, fmt.Errorf("golden vector %d: %w", i, err)
		}
		if r.Score != r.Score {
			return artifact.Golden{}, fmt.Errorf("golden vector %d: the score is not a number", i)
		}
		if !goldenDecided(r.Score, f.Threshold) {
			continue
		}
		g.Windows = append(g.Windows, w)
		g.Scores = append(g.Scores, r.Score)
		g.Flags = append(g.Flags, r.Anomaly)
	}
	return g, nil
}
