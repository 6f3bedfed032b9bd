package retrain

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Snapshot is the immutable list of what a night learns from. Its digest, over
// its JSON, is the dataset's identity.
type Snapshot struct {
	Family  string          `json:"family"`
	From    time.Time       `json:"from"`
	To      time.Time       `json:"to"`
	Rows    int             `json:"rows"`    // at most so many first rows of each device; 0: all
	Devices []SnapshotEntry `json:"devices"` // by class, then device
	Exclude []string        `json:"exclude,omitempty"`
	// Frames are the images of cameras with what is known to be on them, by
	// class, then digest.
	Frames []FrameRef `json:"frames,omitempty"`
	// Labels are what people said of the interval.
	Labels []feedback.Label `json:"labels,omitempty"`
}

// SnapshotEntry is one device's part.
type SnapshotEntry struct {
	Device   topic.ID       `json:"device"`
	Class    artifact.Class `json:"class"`
	Line     string         `json:"line,omitempty"`
	Segments []Segment      `json:"segments"`
}

// Extracted is the result of the step extract.
type Extracted struct {
	Snapshot artifact.Digest `json:"snapshot"`
	From     time.Time       `json:"from"`
	To       time.Time       `json:"to"`
	Devices  int             `json:"devices"`
	Segments int             `json:"segments"`
	Rows     int             `json:"rows"`
	Frames   int             `json:"frames,omitempty"`   // images of cameras
	Labelled int             `json:"labelled,omitempty"` // of these, with a label
	Added    int             `json:"added"`              // of these, in segments that began after the data of the newest release
	Silent   []string        `json:"silent,omitempty"`   // devices that match and sent nothing
	Labels   int             `json:"labels"`             // stretches that people labelled
	Unknown  int             `json:"unknown"`            // labels of devices that do not match; ignored
}

// extract flushes what was acknowledged, lists the segments of the interval
// and stores the list.
func (s *Service) extract(ctx context.Context, o Order) (Extracted, error) {
	devices, err := s.cfg.Fleet.Devices(ctx, o.Policy.Selector)
	if err != nil {
		return Extracted{}, err
	}
	if len(devices) == 0 {
		return Extracted{}, refuse("no device matches the selector %q of policy %s", o.Policy.Selector, o.Policy.Name)
	}
	if err := s.cfg.Data.Flush(ctx); err != nil {
		return Extracted{}, fmt.Errorf("flush segments: %w", err)
	}
	from := o.At.Add(-time.Duration(o.Policy.LookbackS * float64(time.Second)))
	segs, err := s.cfg.Data.Segments(ctx, from, o.At)
	if err != nil {
		return Extracted{}, fmt.Errorf("list segments: %w", err)
	}
	byDevice := map[topic.ID][]Segment{}
	for _, g := range segs {
		byDevice[g.Device] = append(byDevice[g.Device], g)
	}
	slices.SortFunc(devices, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	snap := Snapshot{Family: o.Policy.Family, From: from, To: o.At, Rows: o.Policy.TrainRows, Exclude: o.Policy.Exclude}
	out := Extracted{From: from, To: o.At}
	var known time.Time // end of the data of the newest release; zero: there is none
	newest, err := s.cfg.Registry.Versions(ctx, o.Policy.Family, 0, 1)
	if err != nil {
		return Extracted{}, fmt.Errorf("list versions of %s: %w", o.Policy.Family, err)
	}
	if len(newest) > 0 {
		known = newest[0].Lineage.To
	}
	for _, d := range devices {
		segs := byDevice[d.ID]
		if len(segs) == 0 {
			out.Silent = append(out.Silent, d.ID.String())
			continue
		}
		slices.SortFunc(segs, func(a, b Segment) int { return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Key, b.Key)) })
		snap.Devices = append(snap.Devices, SnapshotEntry{Device: d.ID, Class: d.Class, Line: d.Line, Segments: segs})
		out.Segments += len(segs)
		for _, g := range segs {
			out.Rows += g.Rows
			if known.IsZero() || g.From.After(known) {
				out.Added += g.Rows
			}
		}
	}
	frames, err := s.cfg.Data.Frames(ctx, from, o.At)
	if err != nil {
		return Extracted{}, fmt.Errorf("list images: %w", err)
	}
	if snap.Labels, err = s.cfg.Data.Labels(ctx, from, o.At); err != nil {
		return Extracted{}, fmt.Errorf("list labels: %w", err)
	}
	snap.Frames = frameRefs(devices, frames, snap.Labels)
	matching := map[topic.ID]bool{}
	for _, d := range devices {
		matching[d.ID] = true
	}
	snap.Labels, out.Unknown = stretches(snap.Labels, matching)
	out.Labels = len(snap.Labels)
	out.Frames = len(snap.Frames)
	for _, f := range snap.Frames {
		if f.Label != "" {
			out.Labelled++
		}
	}
	if len(snap.Devices) == 0 {
		return Extracted{}, refuse("none of the %d matching devices sent data between %s and %s", len(devices), from.Format(time.RFC3339), o.At.Format(time.RFC3339))
	}
	b, err := json.Marshal(snap)
	if err != nil {
		return Extracted{}, err
	}
	out.Snapshot, out.Devices = artifact.Of(b), len(snap.Devices)
	return out, s.put(ctx, snapshotKey(out.Snapshot), b)
}

func snapshotKey(d artifact.Digest) string { return "snapshots/" + d.Hex() + ".json" }

func (s *Service) snapshot(ctx context.Context, d artifact.Digest) (Snapshot, error) {
	b, err := s.get(ctx, snapshotKey(d))
	if err != nil {
		return Snapshot{}, err
	}
	if artifact.Of(b) != d {
		return Snapshot{}, refuse("snapshot %s in object storage was changed", d.Short())
	}
	var snap Snapshot
	return snap, json.Unmarshal(b, &snap)
}

// table is one device's rows with their signals, in order, each row once.
type table struct {
	entry   SnapshotEntry
	rows    []uint64
	times   []int64
	signals []Signal
	doubled int // rows that came twice
	late    int // rows whose clock went backwards; dropped
	// reunited says which channel was declared in two units; empty: none was.
	reunited string
}

// load reads a device's segments and puts their rows in order: by index in
// the stream, first copy wins. A row older than the one before it is dropped,
// since no window may run backwards.
func (s *Service) load(ctx context.Context, snap Snapshot, e SnapshotEntry) (table, error) {
	t := table{entry: e}
	type at struct{ seg, row int }
	var order []at
	segs := make([]Columns, len(e.Segments))
	column := map[string]int{}
	for i, g := range e.Segments {
		c, err := s.cfg.Data.Read(ctx, g)
		if err != nil {
			return table{}, fmt.Errorf("read segment %s: %w", g.Key, err)
		}
		if err := c.whole(); err != nil {
			return table{}, fmt.Errorf("read segment %s: %w: %w", g.Key, ErrDamaged, err)
		}
		segs[i] = c
		for r := range c.Rows {
			// A segment may reach beyond the interval; what came later is for the
			// next night, or the same interval would not be the same data.
			if snap.To.IsZero() || c.Times[r] < snap.To.UnixNano() {
				order = append(order, at{i, r})
			}
		}
		for _, sig := range c.Signals {
			if k, ok := column[sig.Name]; ok && t.signals[k].Unit != sig.Unit {
				t.reunited = fmt.Sprintf("channel %s was declared in %q first and in %q later", sig.Name, t.signals[k].Unit, sig.Unit)
			} else if !ok && !excluded(snap.Exclude, sig.Name) {
				column[sig.Name] = len(t.signals)
				t.signals = append(t.signals, Signal{Name: sig.Name, Unit: sig.Unit})
			}
		}
	}
	slices.SortStableFunc(order, func(a, b at) int { return cmp.Compare(segs[a.seg].Rows[a.row], segs[b.seg].Rows[b.row]) })
	kept := order[:0]
	lastRow, lastTime, any := uint64(0), int64(0), false
	for _, p := range order {
		row, tm := segs[p.seg].Rows[p.row], segs[p.seg].Times[p.row]
		switch {
		case any && row == lastRow:
			t.doubled++
			continue
		case any && tm < lastTime:
			t.late++
			continue
		}
		lastRow, lastTime, any = row, tm, true
		kept = append(kept, p)
	}
	if snap.Rows > 0 {
		kept = slices.DeleteFunc(kept, func(p at) bool { return segs[p.seg].Rows[p.row] >= uint64(snap.Rows) })
	}
	for i := range t.signals {
		t.signals[i].Values = make([]float32, len(kept))
		for j := range t.signals[i].Values {
			t.signals[i].Values[j] = nan
		}
	}
	for j, p := range kept {
		t.rows = append(t.rows, segs[p.seg].Rows[p.row])
		t.times = append(t.times, segs[p.seg].Times[p.row])
		for _, sig := range segs[p.seg].Signals {
			if i, ok := column[sig.Name]; ok {
				t.signals[i].Values[j] = sig.Values[p.row]
			}
		}
	}
	slices.SortFunc(t.signals, func(a, b Signal) int { return cmp.Compare(a.Name, b.Name) })
	return t, nil
}

// eventMargin is how many nominal steps are taken out before a labelled event,
// so that the hole is wider than what a window may span by default.
const eventMargin = 3

// whole says what is missing of a segment's columns.
func (c Columns) whole() error {
	if len(c.Times) != len(c.Rows) {
		return fmt.Errorf("it has %d rows and %d times", len(c.Rows), len(c.Times))
	}
	for _, sig := range c.Signals {
		if len(sig.Values) != len(c.Rows) {
			return fmt.Errorf("it has %d rows and %d values of channel %s", len(c.Rows), len(sig.Values), sig.Name)
		}
	}
	return nil
}

// dataset builds what a detector learns one class from, or, with tail, the
// rows that were kept back to judge it, with lead rows before them so that the
// first of them has a whole window.
func (s *Service) dataset(ctx context.Context, snap Snapshot, c ClassData, lead int, tail bool) (zoo.Dataset, error) {
	ds := zoo.Dataset{Channels: c.channels(), SampleRateHz: c.SampleRateHz}
	for _, e := range snap.Devices {
		if e.Class != c.Class || !slices.Contains(c.Devices, e.Device.String()) {
			continue
		}
		t, err := s.load(ctx, snap, e)
		if err != nil {
			return zoo.Dataset{}, err
		}
		from, to := 0, c.cut(t)
		if tail {
			from, to = to, len(t.rows)
			if c.HoldOut == 0 { // judged on the rows that only set the threshold
				from = len(t.rows) * 3 / 4
			}
			from = max(0, from-lead)
		}
		if !tail {
			t = t.rowsBefore(to)
			t = withoutEvents(t, spoken(snap.Labels, t), eventMargin, c.SampleRateHz)
			to = len(t.rows)
		}
		if from < to {
			if sr := t.series(c.Channels, from, to); complete(sr) {
				ds.Series = append(ds.Series, sr)
			}
		}
	}
	return ds, nil
}

// complete says that every channel of a series has a value in every row: that
// none was silent all the while, as one that came alive after the rows to learn.
func complete(sr zoo.Series) bool {
	return !slices.ContainsFunc(sr.Values, func(v []float32) bool { return len(v) > 0 && v[0] != v[0] })
}

// rowsBefore is t up to a row.
func (t table) rowsBefore(to int) table {
	t.rows, t.times, t.signals = t.rows[:to], t.times[:to], slices.Clone(t.signals)
	for i := range t.signals {
		t.signals[i].Values = t.signals[i].Values[:to]
	}
	return t
}

// series cuts the wanted channels and rows out of t, with missing values filled.
func (t table) series(channels []ChannelInfo, from, to int) zoo.Series {
	sr := zoo.Series{Device: t.entry.Device.String(), Times: t.times[from:to]}
	for _, ch := range channels {
		i := slices.IndexFunc(t.signals, func(g Signal) bool { return g.Name == ch.Name })
		sr.Values = append(sr.Values, fill(t.signals[i].Values)[from:to])
	}
	return sr
}
