package retrain

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/models/runtime"
)

// ImageScore is how a model did on images. Where only good parts are known it
// says nothing of labels.
type ImageScore struct {
	Images   int      `json:"images"`            // judged
	Accuracy float64  `json:"accuracy"`          // share of them that were named right
	Classes  []string `json:"classes,omitempty"` // that the model knows
	// Recall is the share of each label's images that were named right.
	Recall map[string]float64 `json:"recall,omitempty"`
	Counts map[string]int     `json:"counts,omitempty"` // images of each label
}

// mostDrawn bounds the good parts onto which defects are drawn, where nobody has
// labelled any.
const mostDrawn = 200

// judgeImages scores one model on the images that judge. What is wrong with
// the model is in the score.
func (s *Service) judgeImages(ctx context.Context, c ClassData, cand Candidate) (Score, int, error) {
	score := Score{Candidate: cand, ByFault: map[string]float64{}, Images: &ImageScore{Recall: map[string]float64{}, Counts: map[string]int{}}}
	b, err := s.getModel(ctx, cand.Digest)
	if err != nil {
		return score, 0, err
	}
	session, err := runtime.Load(b, runtime.Options{})
	if err != nil {
		score.Err = fmt.Sprintf("it cannot be loaded: %v", err)
		return score, 0, nil
	}
	defer func() { _ = session.Close() }() // nothing is lost when freeing fails
	reads := session.Contract().Image
	if reads == nil {
		score.Err = "it reads windows of sensors, not images"
		return score, 0, nil
	}
	size := *c.Images
	size.Height, size.Width = reads.Height, reads.Width
	frames, err := s.imagesOf(ctx, c, true)
	if err != nil {
		return score, 0, err
	}
	right, normal, flagged := 0, 0, 0
	drawn := map[evaluate.Defect]int{} // onto good parts, and found
	found := map[evaluate.Defect]int{}
	var r runtime.Result
	for i, f := range frames {
		if err := ctx.Err(); err != nil {
			return score, 0, err
		}
		m, err := s.pixels(ctx, f, size)
		if err != nil {
			return score, 0, err
		}
		if err := session.ScoreImage(m, &r); err != nil {
			score.Err = err.Error()
			return score, 0, nil
		}
		if r.Score-r.Score != 0 { // true for NaN and both infinities
			score.NonFinite++
		}
		label := ""
		if len(size.Classes) > 0 {
			label = f.Label
		}
		if len(size.Normal) == 0 || slices.Contains(size.Normal, label) {
			normal++
			if r.Anomaly {
				flagged++
			}
		} else {
			score.Faults++
			if r.Anomaly {
				score.Detected++
			}
		}
		if len(size.Classes) == 0 && i%(1+len(frames)/mostDrawn) == 0 {
			for k, d := range evaluate.Defects() {
				// The image says where: every model is shown the same damage.
				seed := sha256.Sum256(m)
				if err := session.ScoreImage(d.Draw(m, size.Height, size.Width, rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:]), uint64(k)))), &r); err != nil {
					score.Err = err.Error()
					return score, 0, nil
				}
				if drawn[d]++; r.Anomaly {
					found[d]++
				}
			}
		}
		if label == "" || len(reads.Classes) == 0 {
			continue
		}
		score.Images.Counts[label]++
		if reads.Classes[top(r.Probs)] == label {
			right++
			score.Images.Recall[label]++
		}
	}
	score.Images.Images, score.Images.Classes = len(frames), reads.Classes
	for label, n := range score.Images.Counts {
		score.Images.Recall[label] /= float64(n)
	}
	score.Images.Accuracy = share(right, len(frames))
	score.FlagShare = share(flagged, normal)
	if score.Faults > 0 {
		score.Detected /= float64(score.Faults)
	}
	for _, d := range evaluate.Defects() {
		if n := drawn[d]; n > 0 {
			score.Faults += n
			score.Detected += float64(found[d])
			score.ByFault[string(d)] = share(found[d], n)
			score.Slices = append(score.Slices, SliceScore{Name: "fault=" + string(d), Faults: n, Detected: share(found[d], n)})
		}
	}
	if len(drawn) > 0 {
		score.Detected /= float64(score.Faults)
	}
	return score, len(frames), nil
}

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func top(probs []float32) int {
	best := 0
	for i, p := range probs {
		if p > probs[best] {
			best = i
		}
	}
	return best
}

// imageGates are the checks of a model of a class of cameras. at makes a gate.
func imageGates(g Gates, c JudgedClass, s Score, at func(gate string, value, limit float64, atMost bool, n int, what string) GateResult) []GateResult {
	out := []GateResult{at("non-finite", float64(s.NonFinite), 0, true, c.Windows, "non-finite scores")}
	m := s.Images
	if len(m.Classes) == 0 || s.Faults > 0 {
		// Where no class is a good part a flag means "unsure", which is no harm.
		out = append(out, at("flag-share", s.FlagShare, g.MaxFlagShare, true, c.Windows, "share of good parts flagged"))
	}
	if len(m.Classes) > 0 {
		out = append(out, at("accuracy", m.Accuracy, g.MinAccuracy, false, m.Images, "share of images named right"))
	}
	if c.Champion == nil {
		return out
	}
	if c.Champion.Err != "" {
		return append(out, GateResult{Gate: "not-worse", Class: c.Class, Kind: s.Candidate.Kind, Verdict: Inconclusive, Message: "the champion cannot be judged: " + c.Champion.Err})
	}
	// A champion that flags everything finds everything.
	if len(m.Classes) == 0 && s.Faults > 0 && c.Champion.Faults > 0 && c.Champion.FlagShare <= g.MaxFlagShare {
		out = append(out, at("not-worse", s.Detected-c.Champion.Detected, -g.Margin, false, s.Faults, "drawn defects found, against the champion"))
	}
	old := c.Champion.Images
	for _, label := range old.Classes {
		n := m.Counts[label]
		if !slices.Contains(m.Classes, label) {
			r := at("not-worse/"+label, 0, 1, false, n, fmt.Sprintf("knows of %q, which the champion tells apart:", label))
			out = append(out, r)
			continue
		}
		if n == 0 {
			out = append(out, GateResult{Gate: "not-worse/" + label, Class: c.Class, Kind: s.Candidate.Kind, Verdict: Inconclusive, Message: fmt.Sprintf("%s: no image is labelled %q to compare with the champion by", s.Candidate.Kind, label)})
			continue
		}
		// One image may go either way by chance.
		margin := max(g.Margin, 1/float64(n))
		out = append(out, at("not-worse/"+label, m.Recall[label]-old.Recall[label], -margin, false, n, fmt.Sprintf("images of %q named right, against the champion", label)))
	}
	return out
}
