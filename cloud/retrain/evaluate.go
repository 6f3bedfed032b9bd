package retrain

import (
	"context"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/cloud/feedback"
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
		var beside *judged
		if m, ok := champion.ModelFor(c.Class); championErr == nil && ok {
			old, err := s.judge(ctx, o, snap, c, Candidate{Class: c.Class, Kind: m.Kind, Digest: m.Digest, Bytes: m.Bytes, Window: m.Window, Threshold: m.Threshold})
			if err != nil {
				return Judged{}, err
			}
			j.Champion, beside = &old.score, &old
		}
		for _, t := range trained {
			for _, cand := range t.Candidates {
				if cand.Class != c.Class {
					continue
				}
				now, err := s.judge(ctx, o, snap, c, cand)
				if err != nil {
					return Judged{}, err
				}
				if beside != nil && beside.verdicts != nil && now.verdicts != nil {
					now.score.Beside = pair(beside.verdicts, now.verdicts, now.labels)
				}
				j.Candidates = append(j.Candidates, now.score)
				j.Windows = max(j.Windows, now.windows)
			}
		}
		out.Classes = append(out.Classes, j)
	}
	return out, nil
}

// judged is a score with what it was made of.
type judged struct {
	score    Score
	windows  int
	verdicts map[string][]evaluate.Verdict // by device; nil: of a model of cameras, or one that could not be judged
	labels   map[string][]bool             // rows of events, by device
}

// judge back-tests one model. What is wrong with the model is in the score;
// the error is for what is wrong with the world.
func (s *Service) judge(ctx context.Context, o Order, snap Snapshot, c ClassData, cand Candidate) (j judged, err error) {
	if c.Images != nil {
		j.score, j.windows, err = s.judgeImages(ctx, c, cand)
		return j, err
	}
	j.score = Score{Candidate: cand, ByFault: map[string]float64{}}
	b, err := s.getModel(ctx, cand.Digest)
	if err != nil {
		return j, err
	}
	session, err := runtime.Load(b, runtime.Options{})
	if err != nil {
		j.score.Err = fmt.Sprintf("it cannot be loaded: %v", err)
		return j, nil
	}
	defer func() { _ = session.Close() }() // nothing is lost when freeing fails
	// A champion of before a channel came or went is judged on those it reads.
	reads := session.Contract().Channels
	infos := make([]ChannelInfo, len(reads))
	for i, ch := range reads {
		infos[i] = ChannelInfo{ch.Name, ch.Unit}
		if !slices.ContainsFunc(c.Channels, func(have ChannelInfo) bool { return have.Name == ch.Name }) {
			j.score.Err = fmt.Sprintf("it reads channel %s, which the data of class %s does not have", ch.Name, c.Class)
			return j, nil
		}
	}
	c.Channels = infos
	held, err := s.held(ctx, snap, c, cand.Window-1)
	if err != nil {
		return j, err
	}
	report, err := evaluate.Backtest(ctx, session, held.data, evaluate.Config{MaxGap: o.Policy.Fit.MaxGap, Seed: o.Policy.Seed, Slices: held.slices, Labels: held.labels})
	if ctx.Err() != nil {
		return j, ctx.Err()
	}
	if err != nil { // other units, for one
		j.score.Err = err.Error()
		return j, nil
	}
	j.windows, j.verdicts, j.labels = report.Overall.Windows, report.Verdicts, held.labels
	j.score.take(report)
	return j, s.judgeLabels(ctx, o, snap, c, session, &j.score)
}

// take reads what a back-test found.
func (s *Score) take(r evaluate.Report) {
	normal := func(p evaluate.Slice) int {
		if p.Labelled == nil {
			return p.Windows
		}
		return p.Windows - p.Labelled.TP - p.Labelled.FN
	}
	parts := map[string]evaluate.Detections{}
	found := 0
	for _, f := range r.Faults {
		s.Faults += f.Injected
		found += f.Detected
		s.ByFault[string(f.Kind)] = f.Rate()
		s.Slices = append(s.Slices, SliceScore{Name: "fault=" + string(f.Kind), Faults: f.Injected, Detected: f.Rate()})
		for name, d := range f.BySlice {
			d.Injected, d.Detected = d.Injected+parts[name].Injected, d.Detected+parts[name].Detected
			parts[name] = d
		}
	}
	s.Detected = share(found, s.Faults)
	s.FlagShare = share(r.Overall.FalseAlarms, normal(r.Overall))
	s.PerDay, s.Alarms = r.Overall.FalseAlarmsPerDay, r.Overall.EpisodesPerDay
	for _, name := range sorted(r.Slices) {
		p, d := r.Slices[name], parts[name]
		s.Slices = append(s.Slices, SliceScore{Name: name, Windows: normal(p), FlagShare: share(p.FalseAlarms, normal(p)), Faults: d.Injected, Detected: share(d.Detected, d.Injected)})
	}
	for _, vs := range r.Verdicts {
		for _, v := range vs {
			if v.Score-v.Score != 0 { // true for NaN and both infinities
				s.NonFinite++
			}
		}
	}
}

// judgeLabels sees what a model makes of everything that people labelled. No
// model learned the events, wherever they are; what people called normal may
// have been learned.
func (s *Service) judgeLabels(ctx context.Context, o Order, snap Snapshot, c ClassData, session *runtime.Session, score *Score) error {
	normal, flagged := 0, 0
	for _, e := range snap.Devices {
		if e.Class != c.Class || !slices.Contains(c.Devices, e.Device.String()) || !slices.ContainsFunc(snap.Labels, func(l feedback.Label) bool { return l.Device == e.Device }) {
			continue
		}
		t, err := s.load(ctx, snap, e)
		if err != nil {
			return err
		}
		said := spoken(snap.Labels, t)
		verdicts, err := evaluate.Score(ctx, session, t.series(c.Channels, 0, len(t.rows)), 0, s.maxGap(o.Policy))
		if err != nil {
			return err
		}
		events, found := evaluate.Events(verdicts, are(said, saidAnomaly))
		score.Events, score.EventsFound = score.Events+events, score.EventsFound+found
		for _, v := range verdicts {
			if said[v.Row] == saidNormal {
				normal++
				if v.Flag {
					flagged++
				}
			}
		}
	}
	if score.Events > 0 {
		score.Slices = append(score.Slices, SliceScore{Name: sliceEvents, Faults: score.Events, Detected: share(score.EventsFound, score.Events)})
	}
	if normal > 0 {
		score.Slices = append(score.Slices, SliceScore{Name: sliceNormal, Windows: normal, FlagShare: share(flagged, normal)})
	}
	return nil
}

func are(said []int8, what int8) []bool {
	out := make([]bool, len(said))
	for i, v := range said {
		out[i] = v == what
	}
	return out
}

// heldOut is what judges the models of a class.
type heldOut struct {
	data   zoo.Dataset
	labels map[string][]bool   // rows of events; only devices that have any
	slices map[string][]string // of each device
}

// held reads the rows that were kept back, with lead rows before them.
func (s *Service) held(ctx context.Context, snap Snapshot, c ClassData, lead int) (heldOut, error) {
	h := heldOut{labels: map[string][]bool{}, slices: map[string][]string{}}
	var err error
	if h.data, err = s.dataset(ctx, snap, c, lead, true); err != nil {
		return h, err
	}
	for _, e := range snap.Devices {
		device := e.Device.String()
		if e.Class != c.Class || !slices.Contains(c.Devices, device) {
			continue
		}
		if e.Line != "" {
			h.slices[device] = append(h.slices[device], "line="+e.Line)
		}
		if len(c.Devices) <= maxDeviceSlices {
			h.slices[device] = append(h.slices[device], "device="+device)
		}
		i := slices.IndexFunc(h.data.Series, func(sr zoo.Series) bool { return sr.Device == device })
		if i < 0 {
			continue
		}
		if said := spoken(snap.Labels, table{entry: e, times: h.data.Series[i].Times}); slices.Contains(said, saidAnomaly) {
			h.labels[device] = are(said, saidAnomaly)
		}
	}
	return h, nil
}
