package retrain

import (
	"context"
	"fmt"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
)

// evaluate back-tests every candidate, and the champion, on the rows that
// nobody learned from: how often they flag normal operation, and what they
// find of faults put into it.
func (s *Service) evaluate(ctx context.Context, o Order, ex Extracted, va Validated, trained []Trained) (Judged, error) {
	snap, err := s.snapshot(ctx, ex.Snapshot)
	if err != nil {
		return Judged{}, err
	}
	champion, championErr := registry.Champion(ctx, s.cfg.Registry, o.Policy.Family)
	var out Judged
	for i, c := range va.Classes {
		engine.Progress(ctx, "class %s (%d of %d)", c.Class, i+1, len(va.Classes))
		j := JudgedClass{Class: c.Class, InSample: c.HoldOut == 0}
		for _, t := range trained {
			for _, cand := range t.Candidates {
				if cand.Class != c.Class {
					continue
				}
				score, windows, err := s.judge(ctx, o, snap, c, cand)
				if err != nil {
					return Judged{}, err
				}
				j.Candidates = append(j.Candidates, score)
				j.Windows = max(j.Windows, windows)
			}
		}
		if m, ok := champion.ModelFor(c.Class); championErr == nil && ok {
			score, _, err := s.judge(ctx, o, snap, c, Candidate{Class: c.Class, Kind: m.Kind, Digest: m.Digest, Bytes: m.Bytes, Window: m.Window, Threshold: m.Threshold})
			if err != nil {
				return Judged{}, err
			}
			j.Champion = &score
		}
		out.Classes = append(out.Classes, j)
	}
	return out, nil
}

// judge back-tests one model. What is wrong with the model is in the score;
// the error is for what is wrong with the world.
func (s *Service) judge(ctx context.Context, o Order, snap Snapshot, c ClassData, cand Candidate) (Score, int, error) {
	if c.Images != nil {
		return s.judgeImages(ctx, c, cand)
	}
	score := Score{Candidate: cand, ByFault: map[string]float64{}}
	b, err := s.getModel(ctx, cand.Digest)
	if err != nil {
		return score, 0, err
	}
	ds, err := s.dataset(ctx, snap, c, cand.Window-1, true)
	if err != nil {
		return score, 0, err
	}
	session, err := runtime.Load(b, runtime.Options{})
	if err != nil {
		score.Err = fmt.Sprintf("it cannot be loaded: %v", err)
		return score, 0, nil
	}
	defer func() { _ = session.Close() }() // nothing is lost when freeing fails
	report, err := evaluate.Backtest(ctx, session, ds, evaluate.Config{MaxGap: o.Policy.Fit.MaxGap, Seed: o.Policy.Seed})
	if ctx.Err() != nil {
		return score, 0, ctx.Err()
	}
	if err != nil { // other channels, for one
		score.Err = err.Error()
		return score, 0, nil
	}
	found := 0
	for _, f := range report.Faults {
		score.Faults += f.Injected
		found += f.Detected
		score.ByFault[string(f.Kind)] = f.Rate()
	}
	if score.Faults > 0 {
		score.Detected = float64(found) / float64(score.Faults)
	}
	windows := report.Overall.Windows
	if windows > 0 {
		score.FlagShare = float64(report.Overall.FalseAlarms) / float64(windows)
	}
	score.PerDay = report.Overall.FalseAlarmsPerDay
	score.NonFinite, err = nonFinite(ctx, session, ds, o.Policy.Fit.MaxGap)
	return score, windows, err
}

func nonFinite(ctx context.Context, session *runtime.Session, ds zoo.Dataset, maxGap float64) (int, error) {
	n := 0
	for _, sr := range ds.Series {
		vs, err := evaluate.Score(ctx, session, sr, 0, maxGap)
		if err != nil {
			return 0, err
		}
		for _, v := range vs {
			if v.Score-v.Score != 0 { // true for NaN and both infinities
				n++
			}
		}
	}
	return n, nil
}
