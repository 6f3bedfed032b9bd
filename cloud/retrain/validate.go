package retrain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Validated is the result of the step validate: which data is fit to learn
// from, what was left out and why.
type Validated struct {
	Classes  []ClassData `json:"classes"` // that can be trained
	Dropped  []Drop      `json:"dropped,omitempty"`
	Refusals []string    `json:"refusals,omitempty"` // classes that cannot, with the reason
	// Gates are the checks of the data with their numbers, also those passed.
	Gates []GateResult `json:"gates,omitempty"`
}

// ClassData describes the usable data of one device class.
type ClassData struct {
	Class        artifact.Class   `json:"class"`
	Devices      []string         `json:"devices"`
	Rows         int              `json:"rows"`
	SampleRateHz float64          `json:"sample_rate_hz"` // from the median step
	Channels     []ChannelInfo    `json:"channels"`
	HoldOut      float64          `json:"hold_out"` // share of each device's rows, at the end, that judges
	Profile      evaluate.Profile `json:"profile"`
	Images       *ImageData       `json:"images,omitempty"`   // of cameras; nil: the class's data are rows of sensors
	HoldFrom     time.Time        `json:"hold_from,omitzero"` // begin of the days that judge, instead of HoldOut; zero: there are too few days
	Drift        []evaluate.Shift `json:"drift,omitempty"`    // against the champion's data, most shifted first; nil: nothing to compare with
}

// ChannelInfo names a channel.
type ChannelInfo struct {
	Name string `json:"name"`
	Unit string `json:"unit,omitempty"`
}

// Drop says what was left out.
type Drop struct {
	Device string `json:"device"`
	What   string `json:"what"` // "device", "rows" or a channel's name
	Rows   int    `json:"rows"`
	Why    string `json:"why"`
}

// holdOut is the share of rows kept back to judge candidates, unless the
// policy names the rows to train on.
const holdOut = 0.2

var nan = float32(math.NaN())

// validate looks at every device's rows and keeps back what would teach
// nonsense.
func (s *Service) validate(ctx context.Context, o Order, ex Extracted) (Validated, error) {
	snap, err := s.snapshot(ctx, ex.Snapshot)
	if err != nil {
		return Validated{}, err
	}
	var out Validated
	byClass := map[artifact.Class][]table{}
	var classes []artifact.Class
	unusableIn := map[artifact.Class][]string{}
	cameras, err := s.cameras(ctx, snap)
	if err != nil {
		return Validated{}, err
	}
	looked := map[artifact.Class]bool{}
	ignored := map[topic.ID]int{}
	for _, f := range snap.Frames {
		if !cameras[f.Class] {
			ignored[f.Device]++
			continue
		}
		if looked[f.Class] {
			continue
		}
		looked[f.Class] = true
		c, dropped, refusal, err := s.validateImages(ctx, o, f.Class, framesOf(snap, f.Class))
		if err != nil {
			return Validated{}, err
		}
		out.Dropped = append(out.Dropped, dropped...)
		if refusal != "" {
			out.Refusals = append(out.Refusals, refusal)
			continue
		}
		out.Classes = append(out.Classes, c)
	}
	for _, e := range snap.Devices {
		if n := ignored[e.Device]; n > 0 {
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "images", n, "most devices of its class are no cameras"})
		}
		if cameras[e.Class] {
			continue // its rows only say how bright images were
		}
		t, err := s.load(ctx, snap, e)
		if errors.Is(err, ErrDamaged) { // others can do without it; nothing is learned from half a device
			why := err.Error()
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "device", 0, why})
			unusableIn[e.Class] = append(unusableIn[e.Class], e.Device.String()+": "+why)
			out.Gates = append(out.Gates, GateResult{Gate: "segments", Class: e.Class, Device: e.Device.String(), Verdict: Fail, Value: 1, AtMost: true, N: len(e.Segments), Message: e.Device.String() + ": " + why})
			continue
		}
		if err != nil {
			return Validated{}, err
		}
		if t.doubled > 0 {
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "rows", t.doubled, "the same row came twice"})
		}
		if t.late > 0 {
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "rows", t.late, "the device's clock went backwards"})
		}
		if len(t.rows) < minDeviceRows {
			why := fmt.Sprintf("only %d rows", len(t.rows))
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "device", len(t.rows), why})
			unusableIn[e.Class] = append(unusableIn[e.Class], e.Device.String()+": "+why)
			continue
		}
		if len(byClass[e.Class]) == 0 {
			classes = append(classes, e.Class)
		}
		byClass[e.Class] = append(byClass[e.Class], t)
	}
	reigning, err := s.champions(ctx, o.Policy.Family)
	if err != nil {
		return Validated{}, err
	}
	for _, class := range classes {
		champion, m, _, err := reigning.of(ctx, class)
		if err != nil {
			return Validated{}, err
		}
		c, refusal, err := s.validateClass(ctx, o, snap, class, byClass[class], champion, m, &out)
		if err != nil {
			return Validated{}, err
		}
		if refusal != "" {
			out.Refusals = append(out.Refusals, refusal)
			continue
		}
		out.Classes = append(out.Classes, c)
	}
	for class, why := range unusableIn {
		if len(byClass[class]) == 0 {
			out.Refusals = append(out.Refusals, fmt.Sprintf("class %s: no device has usable data (%s)", class, strings.Join(why, "; ")))
		}
	}
	slices.Sort(out.Refusals)
	return out, nil
}

// cameras says which classes are learned from their images: those in which no
// more than half of the devices that sent anything are something else. One device
// must not turn its class into cameras, and with that end its learning.
func (s *Service) cameras(ctx context.Context, snap Snapshot) (map[artifact.Class]bool, error) {
	type class struct{ cameras, others int }
	found, sent := map[artifact.Class]*class{}, map[topic.ID]bool{}
	for _, f := range snap.Frames {
		if found[f.Class] == nil {
			found[f.Class] = &class{}
		}
		if !sent[f.Device] {
			sent[f.Device] = true
			found[f.Class].cameras++
		}
	}
	for _, e := range snap.Devices {
		c := found[e.Class]
		if c == nil || sent[e.Device] {
			continue
		}
		t, err := s.load(ctx, snap, e)
		switch {
		case errors.Is(err, ErrDamaged): // nobody knows
		case err != nil:
			return nil, err
		case describesFrames(t):
			c.cameras++ // one that had nothing to show
		default:
			c.others++
		}
	}
	out := map[artifact.Class]bool{}
	for name, c := range found {
		out[name] = c.cameras >= c.others
	}
	return out, nil
}

// describesFrames says that a device's rows are what cameras tell of each frame.
func describesFrames(t table) bool {
	return len(t.signals) > 0 && !slices.ContainsFunc(t.signals, func(s Signal) bool {
		return !slices.ContainsFunc(frame.FeatureChannels(), func(c contract.Channel) bool { return c.Name == s.Name })
	})
}

// minDeviceRows is how few rows of a device say nothing.
const minDeviceRows = 20

// validateClass lets the data gates judge one class of sensors. What they
// found goes to out; the refusal is empty when the class can learn.
func (s *Service) validateClass(ctx context.Context, o Order, snap Snapshot, class artifact.Class, ts []table, champion registry.Version, m registry.Model, out *Validated) (c ClassData, refusal string, err error) {
	before, err := profileOf(m)
	if err != nil {
		return c, "", err
	}
	calm := make([]table, len(ts)) // without the events that people labelled
	for i, t := range ts {
		calm[i] = withoutEvents(t, spoken(snap.Labels, t), eventMargin, medianRate(ts[i:i+1]))
	}
	in, refusal := inspect(class, calm, o.Policy, before)
	in.blind = before == nil && m.Digest != ""
	defer func() { out.Gates = append(out.Gates, in.gates...) }()
	for _, t := range ts {
		if why, ok := in.why[t.entry.Device.String()]; ok {
			out.Dropped = append(out.Dropped, Drop{t.entry.Device.String(), "device", len(t.rows), why})
		}
	}
	if refusal != "" {
		return c, refusal, nil
	}
	if c, refusal = classData(class, in.tables, o.Policy); refusal != "" {
		in.gate("new-data", "", Fail, float64(c.Rows), float64(o.Policy.MinRows), c.Rows, "%s", strings.TrimPrefix(refusal, fmt.Sprintf("class %s: ", class)))
		return c, refusal, nil
	}
	since := champion.Lineage.To.UnixNano()
	fresh := 0
	for _, t := range in.tables {
		fresh += len(t.times) - newer(t, since)
	}
	in.gate("new-data", "", Pass, float64(c.Rows), float64(o.Policy.MinRows), c.Rows, "%d usable rows, %d of them newer than the champion's data", c.Rows, fresh)
	in.gates[len(in.gates)-1].AtMost = false
	if refusal = in.schema(c); refusal == "" {
		whole := slices.DeleteFunc(slices.Clone(ts), func(t table) bool { return in.why[t.entry.Device.String()] != "" })
		refusal, err = s.leakage(ctx, &in, c, whole, snap.Labels, m.Digest)
	}
	if refusal == "" && err == nil {
		var dropped []Drop
		dropped, refusal = in.constant(&c)
		out.Dropped = append(out.Dropped, dropped...)
	}
	if refusal == "" && err == nil {
		refusal = in.drift(&c, since)
	}
	return c, refusal, err
}

// profileOf is what a model's data was like; nil when nobody knows, or when it
// was images.
func profileOf(m registry.Model) (*evaluate.Profile, error) {
	if len(m.Profile) == 0 {
		return nil, nil
	}
	p := &evaluate.Profile{}
	if err := json.Unmarshal(m.Profile, p); err != nil {
		return nil, fmt.Errorf("read the champion's data profile: %w", err)
	}
	if len(p.Channels) == 0 {
		return nil, nil
	}
	return p, nil
}

// classData finds the channels that all devices of a class have and that say
// something, or returns a refusal.
func classData(class artifact.Class, ts []table, p Policy) (ClassData, string) {
	c := ClassData{Class: class, HoldOut: holdOut}
	if p.TrainRows > 0 {
		c.HoldOut = 0
	}
	count := map[string]int{}
	unit := map[string]string{}
	for _, t := range ts {
		c.Devices = append(c.Devices, t.entry.Device.String())
		c.Rows += len(t.rows)
		for _, sig := range t.signals {
			count[sig.Name]++
			if u, ok := unit[sig.Name]; ok && u != sig.Unit {
				return c, fmt.Sprintf("class %s: channel %s is in %q on some devices and in %q on others", class, sig.Name, u, sig.Unit)
			}
			unit[sig.Name] = sig.Unit
		}
	}
	if c.Rows < p.MinRows {
		return c, fmt.Sprintf("class %s: %d usable rows, at least %d are needed", class, c.Rows, p.MinRows)
	}
	names := p.Channels
	if len(names) == 0 {
		for name := range count {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	for _, name := range names {
		switch {
		case count[name] == 0:
			return c, fmt.Sprintf("class %s: no device sends channel %s", class, name)
		case count[name] < len(ts) && len(p.Channels) > 0:
			return c, fmt.Sprintf("class %s: only %d of %d devices send channel %s", class, count[name], len(ts), name)
		case count[name] < len(ts):
			continue // not common to all: left out
		}
		c.Channels = append(c.Channels, ChannelInfo{Name: name, Unit: unit[name]})
	}
	if len(c.Channels) == 0 {
		return c, fmt.Sprintf("class %s: its %d devices have no channel in common", class, len(ts))
	}
	c.SampleRateHz = medianRate(ts)
	if p.TrainRows == 0 {
		c.HoldFrom = holdFrom(ts)
	}
	return c, ""
}

// holdFrom is the begin of the last whole days (UTC) that hold about a fifth of
// the rows; zero when there are fewer than three days.
func holdFrom(ts []table) time.Time {
	const day = int64(24 * time.Hour)
	rows, all := map[int64]int{}, 0
	for _, t := range ts {
		for _, tm := range t.times {
			rows[tm/day]++
		}
		all += len(t.times)
	}
	var days []int64
	for d := range rows {
		days = append(days, d)
	}
	slices.Sort(days)
	if len(days) < 3 {
		return time.Time{}
	}
	held := 0
	for i := len(days) - 1; i > 1; i-- {
		if held += rows[days[i]]; float64(held) < holdOut*3/4*float64(all) {
			continue
		}
		if held > all/2 {
			break // a few stray rows of earlier days are nothing to learn from
		}
		return time.Unix(0, days[i]*day).UTC()
	}
	return time.Time{}
}

// cut is the index of the first row of t that judges.
func (c ClassData) cut(t table) int {
	if !c.HoldFrom.IsZero() {
		i, _ := slices.BinarySearch(t.times, c.HoldFrom.UnixNano())
		return i
	}
	return len(t.rows) - int(float64(len(t.rows))*c.HoldOut)
}

func medianRate(ts []table) float64 {
	var steps []int64
	for _, t := range ts {
		for i := 1; i < len(t.times); i++ {
			if d := t.times[i] - t.times[i-1]; d > 0 {
				steps = append(steps, d)
			}
		}
	}
	if len(steps) == 0 {
		return 0
	}
	slices.Sort(steps)
	rate := 1e9 / float64(steps[len(steps)/2])
	digits := 1e3 // clocks wobble
	for rate < 0.1 && rate*digits < 1e3 {
		digits *= 10 // of an hour's stream three decimals would leave nothing
	}
	return math.Round(rate*digits) / digits
}

func (c ClassData) channels() []contract.Channel {
	out := make([]contract.Channel, len(c.Channels))
	for i, ch := range c.Channels {
		out[i] = contract.Channel{Name: ch.Name, Unit: ch.Unit}
	}
	return out
}

// fill carries the last value over missing ones, and the first backwards to
// the start: a detector gets no NaN, and no value from the future.
func fill(v []float32) []float32 {
	out := slices.Clone(v)
	last := nan
	for i, x := range out {
		if x != x {
			out[i] = last
		} else {
			last = x
		}
	}
	first := slices.IndexFunc(out, func(x float32) bool { return x == x })
	for i := range max(first, 0) {
		out[i] = out[first]
	}
	return out
}
