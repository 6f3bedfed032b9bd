package feedback

import (
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Doubt says how unsure the model was of a frame, from 0 (sure) to 1. For a
// model with classes it is what the best class lacks to certainty; for one
// without, how near the score is to the threshold on a scale of ratios. A frame
// that nothing scored is in the middle.
func (f Frame) Doubt() float64 {
	d := 0.5
	switch {
	case f.Release == "":
	case f.Top != "":
		d = 1 - f.TopProbability
	case f.Score > 1:
		d = 1 / f.Score
	default:
		d = f.Score
	}
	if !(d >= 0) { // a score that is no number, or below zero, wants a look
		return 1
	}
	return min(d, 1)
}

// NearS is how many seconds apart two frames of a device have to be for both to
// be worth a person's time at once.
const NearS = 5

// Candidates is how many frames of a Store are looked at to fill a queue.
const Candidates = 2000

// Order picks up to limit frames to be labelled next. The least sure come
// first; every frame picked halves the worth of others of its device, and of
// others with its predicted class, so that a queue spreads over both. Of frames
// with equal bytes, and of those of one device within NearS, one is picked. It
// is pure: equal frames give an equal queue, whatever their order.
func Order(frames []Frame, limit int) []Frame {
	type predicted struct {
		class artifact.Class
		top   string
	}
	var (
		out     []Frame
		seen    = map[artifact.Digest]bool{}
		devices = map[topic.ID]float64{} // worth left; absent is 1
		tops    = map[predicted]float64{}
		taken   = map[topic.ID][]time.Time{}
		left    = append([]Frame(nil), frames...)
	)
	worth := func(f Frame) float64 {
		w := f.Doubt() + 1e-6 // a sure frame is still worth more than nothing
		if d, ok := devices[f.Device]; ok {
			w *= d
		}
		if t, ok := tops[predicted{f.Class, f.Top}]; ok {
			w *= t
		}
		return w
	}
	near := func(f Frame) bool {
		for _, at := range taken[f.Device] {
			if d := f.At.Sub(at); d < NearS*time.Second && d > -NearS*time.Second {
				return true
			}
		}
		return false
	}
	for len(out) < limit {
		best, bestWorth, kept := -1, 0.0, left[:0]
		for _, f := range left {
			if seen[f.Digest] || near(f) {
				continue
			}
			kept = append(kept, f)
			if w := worth(f); best < 0 || w > bestWorth || w == bestWorth && CompareFrames(f, kept[best]) < 0 {
				best, bestWorth = len(kept)-1, w
			}
		}
		left = kept
		if best < 0 {
			break
		}
		f := left[best]
		out = append(out, f)
		seen[f.Digest] = true
		taken[f.Device] = append(taken[f.Device], f.At)
		half(devices, f.Device)
		half(tops, predicted{f.Class, f.Top})
	}
	return out
}

func half[K comparable](m map[K]float64, k K) {
	if w, ok := m[k]; ok {
		m[k] = w / 2
	} else {
		m[k] = 0.5
	}
}
