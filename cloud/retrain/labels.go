package retrain

import (
	"cmp"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/protocol/topic"
)

// What people said of a row.
const (
	saidNothing int8 = iota
	saidNormal
	saidAnomaly
)

// stretches are the labels of devices' time among those of a snapshot; unknown
// counts those of devices that are not part of it.
func stretches(labels []feedback.Label, devices map[topic.ID]bool) (out []feedback.Label, unknown int) {
	for _, l := range labels {
		switch {
		case l.Frame != "":
		case !devices[l.Device]:
			unknown++
		default:
			out = append(out, l)
		}
	}
	return out, unknown
}

// spoken says of each row of a table what people said of it last. "Unsure" is
// nothing.
func spoken(labels []feedback.Label, t table) []int8 {
	out := make([]int8, len(t.times))
	var own []feedback.Label
	for _, l := range labels {
		if l.Frame == "" && l.Device == t.entry.Device {
			own = append(own, l)
		}
	}
	slices.SortStableFunc(own, func(a, b feedback.Label) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.By, b.By)) })
	for _, l := range own {
		v := saidNothing
		switch l.Value {
		case feedback.Anomaly:
			v = saidAnomaly
		case feedback.Normal:
			v = saidNormal
		}
		from, _ := slices.BinarySearch(t.times, l.From.UnixNano())
		for i := from; i < len(t.times) && t.times[i] <= l.To.UnixNano(); i++ {
			out[i] = v
		}
	}
	return out
}

// withoutEvents takes rows out that people called an anomaly, so that nothing
// learns them as normal, and enough around short ones that no window spans the
// hole.
func withoutEvents(t table, said []int8, maxGap float64, rateHz float64) table {
	if !slices.Contains(said, saidAnomaly) {
		return t
	}
	margin := int64(0)
	if maxGap > 0 && rateHz > 0 {
		margin = int64(maxGap / rateHz * float64(time.Second))
	}
	bad := make([]bool, len(said))
	for i, v := range said {
		if v != saidAnomaly {
			continue
		}
		bad[i] = true
		for j := i - 1; j >= 0 && !bad[j] && t.times[i]-t.times[j] <= margin; j-- {
			bad[j] = true
		}
	}
	out := table{entry: t.entry, doubled: t.doubled, late: t.late}
	for _, sig := range t.signals {
		out.signals = append(out.signals, Signal{Name: sig.Name, Unit: sig.Unit})
	}
	for i := range t.times {
		if bad[i] {
			continue
		}
		out.rows, out.times = append(out.rows, t.rows[i]), append(out.times, t.times[i])
		for k, sig := range t.signals {
			out.signals[k].Values = append(out.signals[k].Values, sig.Values[i])
		}
	}
	return out
}
