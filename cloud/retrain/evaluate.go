package retrain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// evaluate back-tests every candidate, and the champion, on the rows that
// nobody learned from: how often they flag normal operation, and what they
// find of faults put into it.
func (s *Service) evaluate(ctx context.Context, o Order, ex Extracted, va Validated, trained []Trained) (Judged, error) {
	snap, err := s.snapshot(ctx, ex.Snapshot)
	if err != nil {
		return Judged{}, err
	}
	reigning, err := s.champions(ctx, o.Policy.Family)
	if err != nil {
		return Judged{}, err
	}
	var out Judged
	for i, c := range va.Classes {
		engine.Progress(ctx, "class %s (%d of %d)", c.Class, i+1, len(va.Classes))
		j := JudgedClass{Class: c.Class, InSample: c.HoldOut == 0}
		var beside *judged
		_, m, ok, err := reigning.of(ctx, c.Class)
		if err != nil {
			return Judged{}, err
		}
		if ok {
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

// champions finds the champion of each class of a family.
type champions struct {
	store  registry.Store
	family string
	newest registry.Version // zero: nothing was promoted
}

// champions reads who reigns. A registry that cannot be read is an error, and not
// a family without champions: nothing would be compared with them.
func (s *Service) champions(ctx context.Context, family string) (champions, error) {
	newest, err := registry.Champion(ctx, s.cfg.Registry, family)
	if err != nil && !errors.Is(err, registry.ErrNoVersion) {
		return champions{}, fmt.Errorf("find the champion of %s: %w", family, err)
	}
	return champions{store: s.cfg.Registry, family: family, newest: newest}, nil
}

// of returns the champion of a class and its model; false when the class has
// none.
func (c champions) of(ctx context.Context, class artifact.Class) (registry.Version, registry.Model, bool, error) {
	v := c.newest
	if v.Counter == 0 {
		return v, registry.Model{}, false, nil
	}
	m, ok := v.ModelFor(class)
	if !ok {
		var err error
		if v, err = registry.ChampionFor(ctx, c.store, c.family, class); err != nil {
			if errors.Is(err, registry.ErrNoVersion) {
				err = nil
			}
			return registry.Version{}, registry.Model{}, false, err
		}
		m, ok = v.ModelFor(class)
	}
	return v, m, ok, nil
}

// stillCompared takes winners out whose class got another champion since they
// were judged, as when a rollout ends well that night.
func (s *Service) stillCompared(ctx context.Context, o Order, j Judged, b Blessed) (Blessed, error) {
	reigning, err := s.champions(ctx, o.Policy.Family)
	if err != nil {
		return b, err
	}
	winners := b.Winners
	b.Winners = nil
	for _, w := range winners {
		class := w.Score.Candidate.Class
		v, m, ok, err := reigning.of(ctx, class)
		if err != nil {
			return b, err
		}
		compared := slices.ContainsFunc(j.Classes, func(c JudgedClass) bool {
			return c.Class == class && c.Champion != nil && c.Champion.Candidate.Digest == m.Digest
		})
		if ok && !compared {
			b.Refusals = append(b.Refusals, fmt.Sprintf("class %s: %s-%d became another champion while the night ran, and nobody compared %s with it: run it again from evaluate", class, v.Family, v.Counter, w.Score.Candidate.Name()))
			continue
		}
		b.Winners = append(b.Winners, w)
	}
	return b, nil
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
		j.score.Windows = j.windows
		return j, err
	}
	j.score = Score{Candidate: cand, ByFault: map[string]float64{}}
	b, err := s.getModel(ctx, cand.Digest)
	if errors.Is(err, objects.ErrNotFound) { // a champion's that was lost stops its class, and no other
		j.score.Err = err.Error()
		return j, nil
	}
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
		at := slices.IndexFunc(c.Channels, func(have ChannelInfo) bool { return have.Name == ch.Name })
		if at < 0 {
			j.score.Err = fmt.Sprintf("it reads channel %s, which the data of class %s does not have", ch.Name, c.Class)
			return j, nil
		}
		if have := c.Channels[at].Unit; have != ch.Unit {
			j.score.Err = fmt.Sprintf("it reads channel %s in %q, and the data of class %s has it in %q", ch.Name, ch.Unit, c.Class, have)
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
	if err != nil {
		j.score.Err = err.Error()
		return j, nil
	}
	j.windows, j.verdicts, j.labels = report.Overall.Windows, report.Verdicts, held.labels
	j.score.take(report)
	return j, s.judgeLabels(ctx, o, snap, c, session, &j.score)
}

// take reads what a back-test found.
func (s *Score) take(r evaluate.Report) {
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
	s.Windows, s.Days = r.Overall.Normal, r.Overall.Days
	s.FlagShare = share(r.Overall.FalseAlarms, s.Windows)
	s.PerDay, s.Alarms = r.Overall.FalseAlarmsPerDay, r.Overall.EpisodesPerDay
	for _, name := range sorted(r.Slices) {
		p, d := r.Slices[name], parts[name]
		s.Slices = append(s.Slices, SliceScore{Name: name, Windows: p.Normal, FlagShare: share(p.FalseAlarms, p.Normal), Faults: d.Injected, Detected: share(d.Detected, d.Injected)})
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
