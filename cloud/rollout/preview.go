package rollout

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// Preview says what a rollout would do before it is started.
type Preview struct {
	Waves []PreviewWave `json:"waves"`
	// Groups are the groups of each budget, the tightest first.
	Groups []PreviewGroup `json:"groups,omitempty"`
	// Windows say when devices may activate, one line for devices to which the
	// same windows apply in the same zone.
	Windows []PreviewWindow `json:"windows,omitempty"`
	// Excluded are devices that cannot take part, or not now, with the reason.
	Excluded []PreviewDevice `json:"excluded,omitempty"`
	// Refusals say why the rollout could not be started. Empty: it could.
	Refusals []string `json:"refusals,omitempty"`
	// Finish is about when it would be promoted, with every device reachable,
	// every gate passing as soon as the shadow or the soak is over, and people
	// approving at once; see Rollout.Preview. Zero: it cannot be said.
	Finish time.Time `json:"finish,omitzero"`
}

// PreviewWave is one wave with its devices in drawing order.
type PreviewWave struct {
	Name      string          `json:"name"`
	Devices   []PreviewDevice `json:"devices"`
	Approvals int             `json:"approvals,omitempty"`
	Approvers []string        `json:"approvers,omitempty"`
	DeadlineS float64         `json:"deadline_s"`
	// DurationS is how long it would take, without waiting for people.
	DurationS float64 `json:"duration_s"`
}

// PreviewDevice is one device with what people know it by.
type PreviewDevice struct {
	Device topic.ID `json:"device"`
	Line   string   `json:"line,omitempty"`
	Why    string   `json:"why,omitempty"` // why it is excluded
}

// PreviewGroup is one group of one budget.
type PreviewGroup struct {
	GroupBy     string `json:"group_by"`
	Group       string `json:"group"` // the label's value; "" for devices without it
	Size        int    `json:"size"`
	Limit       int    `json:"limit"`       // how many may be unavailable at once
	Unavailable int    `json:"unavailable"` // how many are now
}

// PreviewWindow says when some devices may activate.
type PreviewWindow struct {
	Names   []string `json:"names,omitempty"` // of the windows; none: no window is for them
	Zone    string   `json:"zone"`
	Devices int      `json:"devices"`
	Open    bool     `json:"open"`
	// Change is when it opens or closes next. Zero: not within the next year.
	Change time.Time `json:"change,omitzero"`
}

// What a preview assumes, in seconds: the time that a device takes from the
// offer until its trial begins, and from a lease until it runs the release.
const (
	assumedStageS = 60
	assumedSwapS  = 30
)

// Preview says what the rollout would do if it were started now on the devices
// of the snapshot: who is drawn into which wave, by the planner's own draw;
// what the budgets allow; when windows open; and what Validate has against it.
//
// Times are rough. A wave takes a minute until its devices have the release,
// then the shadow; then each group of a budget activates as many devices at
// once as it may have unavailable beyond those that are now, which takes half a
// minute and the soak, and the next ones follow; groups wait for the window of
// their first device. Nothing fails, nobody is out of reach, and people answer
// at once.
func (r Rollout) Preview(s Snapshot, now time.Time) Preview {
	var out Preview
	for _, err := range refusals(r, s.Devices) {
		out.Refusals = append(out.Refusals, err.Error())
	}
	r.State, r.Wave, r.Waves = Running, 0, nil
	f := newRoster(r, s, true)
	f.look(now)
	d := &decider{f: f, u: f.u, p: f.u.p, r: r.clone(), now: now}
	out.Excluded = f.excluded()
	out.Groups = f.previewGroups()
	out.Windows = d.p.previewWindows(f.devices, now)
	t := now
	for i, spec := range d.p.Waves {
		w := PreviewWave{Name: spec.Name, Approvals: spec.Approvals, Approvers: spec.Approvers, DeadlineS: spec.DeadlineS}
		drawn := d.inOrder(i, spec)
		for _, slot := range drawn {
			dev := f.devices[slot]
			w.Devices = append(w.Devices, PreviewDevice{Device: dev.ID, Line: dev.Labels["line"]})
			d.offer(slot, i+1, now)
		}
		if len(drawn) > 0 && !t.IsZero() {
			end := d.rough(drawn, t)
			if !end.IsZero() {
				w.DurationS = end.Sub(t).Seconds()
			}
			t = end
		}
		out.Waves = append(out.Waves, w)
	}
	if len(out.Refusals) == 0 {
		out.Finish = t
	}
	return out
}

// Room says what the budgets of a rollout allow on the devices of the snapshot
// now, and when its windows open: the part of a Preview that goes on to matter
// once it is under way, without the draw.
func (r Rollout) Room(s Snapshot, now time.Time) ([]PreviewGroup, []PreviewWindow) {
	f := newRoster(r, s, true)
	f.look(now)
	return f.previewGroups(), f.u.p.previewWindows(f.devices, now)
}

// inOrder returns the devices of a wave, by slot, in the order of the draw.
func (d *decider) inOrder(wave int, spec Wave) []int32 {
	drawn, _ := d.draw(wave, spec)
	sel, err := readSelector(spec.Selector)
	if len(drawn) == 0 || err != nil {
		return nil
	}
	all := d.f.candidates(func(dev *Device) bool { return sel.Match(dev.Look) })
	return draw(d.r.Seed, d.p.Stratify, d.f.devices, all)[:len(drawn)]
}

// excluded returns the devices that no wave may draw now.
func (f *Roster) excluded() (out []PreviewDevice) {
	for i := range f.status {
		st, dev := &f.status[i], f.devices[i]
		why := f.why(st)
		switch {
		case st.cause.state() == DeviceExcluded:
			why = f.u.words(st.cause, dev)
		case !st.is(hindered):
			continue
		}
		out = append(out, PreviewDevice{Device: dev.ID, Line: dev.Labels["line"], Why: why})
	}
	slices.SortFunc(out, func(a, b PreviewDevice) int { return strings.Compare(a.Device.String(), b.Device.String()) })
	return out
}

// previewGroups returns the groups of the budgets, those that allow least first.
func (f *Roster) previewGroups() (out []PreviewGroup) {
	for i := range f.groups {
		g := &f.groups[i]
		out = append(out, PreviewGroup{
			GroupBy: f.u.p.Budgets[g.budget].GroupBy, Group: g.name, Size: int(g.size), Limit: f.limit(g), Unavailable: int(g.unavailable),
		})
	}
	slices.SortFunc(out, func(a, b PreviewGroup) int {
		return cmp.Or(cmp.Compare(a.Limit-a.Unavailable, b.Limit-b.Unavailable), strings.Compare(a.GroupBy, b.GroupBy), strings.Compare(a.Group, b.Group))
	})
	return out
}

// previewWindows returns when devices may activate. p has its defaults.
func (p Policy) previewWindows(devices []*Device, now time.Time) []PreviewWindow {
	if len(p.Windows) == 0 {
		return nil
	}
	index := map[string]int{}
	var out []PreviewWindow
	for _, d := range devices {
		names := p.windowNames(d)
		zone := Window{}.zone(d)
		key := strings.Join(names, "\x00") + "\x00" + zone
		k, ok := index[key]
		if !ok {
			w := PreviewWindow{Names: names, Zone: p.zones(d)}
			switch end := p.stays(d, now, now.AddDate(1, 0, 0)); {
			case end.IsZero():
				w.Open = true
			case end.After(now):
				w.Open, w.Change = true, end
			default:
				w.Change = p.windowChange(d, now)
			}
			k = len(out)
			index[key] = k
			out = append(out, w)
		}
		out[k].Devices++
	}
	slices.SortFunc(out, func(a, b PreviewWindow) int {
		return cmp.Or(strings.Compare(strings.Join(a.Names, ","), strings.Join(b.Names, ",")), strings.Compare(a.Zone, b.Zone))
	})
	return out
}

// zones returns the zones in which the windows of a device are read.
func (p Policy) zones(d *Device) string {
	var zones []string
	windows := p.schedules()
	for i := range windows {
		if w := &windows[i]; w.covers(d) {
			zones = append(zones, w.spec.zone(d))
		}
	}
	slices.Sort(zones)
	return strings.Join(slices.Compact(zones), ", ")
}

// rough returns when a wave that begins at t with these devices would pass, or
// the zero time when it cannot be said. It has to be asked once they are
// offered the release.
func (d *decider) rough(drawn []int32, t time.Time) time.Time {
	cleared := t.Add(seconds(assumedStageS + d.p.ShadowS))
	// Devices with the same groups and windows go one after the other.
	type line struct {
		first *Device
		n     int
		slots int // how many at once
	}
	var lines []*line
	index := map[string]*line{}
	for _, slot := range drawn {
		dev := d.f.devices[slot]
		key, slots := strings.Join(d.p.windowNames(dev), "\x00")+"\x00"+dev.Labels["zone"], math.MaxInt
		for _, k := range d.f.groupsOf(d.f.status[slot].cell) {
			g := &d.f.groups[k]
			key += "\x00" + g.name
			free := d.f.limit(g) - int(g.unavailable)
			if d.f.status[slot].is(away) {
				free++
			}
			slots = min(slots, max(free, 1))
		}
		l := index[key]
		if l == nil {
			l = &line{first: dev, slots: slots}
			index[key] = l
			lines = append(lines, l)
		}
		l.n++
	}
	end := cleared
	for _, l := range lines {
		at := cleared
		for rounds := (l.n-1)/l.slots + 1; rounds > 0; rounds-- {
			if at, _ = d.p.opensFrom(l.first, at); at.IsZero() {
				return time.Time{}
			}
			at = at.Add(seconds(assumedSwapS + d.p.SoakS))
		}
		if at.After(end) {
			end = at
		}
	}
	return end
}
