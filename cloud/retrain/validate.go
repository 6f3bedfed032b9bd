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
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
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
	cameras := map[artifact.Class]bool{}
	for _, f := range snap.Frames {
		if cameras[f.Class] {
			continue
		}
		cameras[f.Class] = true
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
		if cameras[e.Class] {
			continue // its rows only say how bright images were
		}
		t, err := s.load(ctx, snap, e)
		if err != nil {
			return Validated{}, err
		}
		if t.doubled > 0 {
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "rows", t.doubled, "the same row came twice"})
		}
		if t.late > 0 {
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "rows", t.late, "the device's clock went backwards"})
		}
		if why := unusable(t, o.Policy); why != "" {
			out.Dropped = append(out.Dropped, Drop{e.Device.String(), "device", len(t.rows), why})
			unusableIn[e.Class] = append(unusableIn[e.Class], e.Device.String()+": "+why)
			continue
		}
		if len(byClass[e.Class]) == 0 {
			classes = append(classes, e.Class)
		}
		byClass[e.Class] = append(byClass[e.Class], t)
	}
	champion, err := registry.Champion(ctx, s.cfg.Registry, o.Policy.Family)
	if err != nil && !errors.Is(err, registry.ErrNoVersion) {
		return Validated{}, err
	}
	for _, class := range classes {
		c, refusal := classData(class, byClass[class], o.Policy)
		if refusal == "" {
			refusal, err = drift(&c, byClass[class], champion, o.Policy.Gates.MaxPSI)
			if err != nil {
				return Validated{}, err
			}
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

// unusable returns why nothing can be learned from a device's rows, or "".
func unusable(t table, p Policy) string {
	if len(t.rows) < 20 {
		return fmt.Sprintf("only %d rows", len(t.rows))
	}
	var missing, infinite, cells int
	for _, sig := range t.signals {
		if len(p.Channels) > 0 && !slices.Contains(p.Channels, sig.Name) {
			continue
		}
		cells += len(sig.Values)
		for _, v := range sig.Values {
			switch {
			case math.IsInf(float64(v), 0):
				infinite++
			case v != v:
				missing++
			}
		}
	}
	switch {
	case cells == 0:
		return "none of the wanted channels"
	case infinite > 0:
		return fmt.Sprintf("%d infinite values: look at the sensor's scaling", infinite)
	case float64(missing) > p.Gates.MaxMissing*float64(cells):
		return fmt.Sprintf("%.0f %% of its values are missing (limit %.0f %%)", 100*float64(missing)/float64(cells), 100*p.Gates.MaxMissing)
	}
	return ""
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
	return c, ""
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
	return math.Round(1e12/float64(steps[len(steps)/2])) / 1e3
}

// drift describes the class's data and compares it with what the champion
// learned; it returns a refusal when it has moved further than limit.
func drift(c *ClassData, ts []table, champion registry.Version, limit float64) (string, error) {
	ds := zoo.Dataset{Channels: c.channels(), SampleRateHz: c.SampleRateHz}
	for _, t := range ts {
		ds.Series = append(ds.Series, t.series(c.Channels, 0, len(t.rows)))
	}
	var err error
	if c.Profile, err = evaluate.NewProfile(ds); err != nil {
		return fmt.Sprintf("class %s: %v", c.Class, err), nil
	}
	m, ok := champion.ModelFor(c.Class)
	if !ok || len(m.Profile) == 0 {
		return "", nil
	}
	var before evaluate.Profile
	if err := json.Unmarshal(m.Profile, &before); err != nil {
		return "", fmt.Errorf("read the champion's data profile: %w", err)
	}
	if c.Drift, err = before.Drift(ds); err != nil { // other channels or units than the champion's
		return fmt.Sprintf("class %s: %v", c.Class, err), nil
	}
	if len(c.Drift) > 0 && limit > 0 && c.Drift[0].PSI > limit {
		return fmt.Sprintf("class %s: channel %s has drifted from what the champion learned (population stability index %.2f, limit %.2f)", c.Class, c.Drift[0].Channel, c.Drift[0].PSI, limit), nil
	}
	return "", nil
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
