package retrain

import (
	"context"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/models/evaluate"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Limits of data gates that no policy sets: far beyond what healthy plants do.
const (
	maxOutOfRange  = 0.01 // share of a device's values
	maxOutOfOrder  = 0.5  // share of a device's rows
	maxDistance    = 10.0 // of a device from its peers, in their own extents
	maxLeftOut     = 0.5  // share of a class's devices
	rangeMargin    = 3.0  // extents by which the champion's range is widened
	stuckDistinct  = 20   // values that a channel takes which is no switch
	leakAgreement  = 0.98 // Matthews correlation with labels or flags
	leakDistinct   = 4    // values of a channel that can be a label
	leakRows       = 10   // rows of each kind that show a leak
	significant    = 0.01 // level of the two-sample test
	minDriftRows   = 500  // new rows that are compared alone, without the old ones
	minPeers       = 3
	maxGateDevices = 5 // of a class that a message names
)

// inspection is the look at one class's data before anything learns from it.
type inspection struct {
	class    artifact.Class
	policy   Policy
	champion *evaluate.Profile // of the champion's data of this class; nil: there is none
	blind    bool              // there is a champion, and nobody knows what its data was like
	usual    map[string]string // channel → the unit that most devices declare; channels that most devices send
	gates    []GateResult
	why      map[string]string // of devices left out
	tables   []table           // that are left
	all      int
}

// inspect judges every device of a class and leaves out those that would teach
// nonsense. The refusal is empty when enough are left.
func inspect(class artifact.Class, ts []table, p Policy, champion *evaluate.Profile) (in inspection, refusal string) {
	in = inspection{class: class, policy: p, champion: champion, why: map[string]string{}, tables: ts, all: len(ts)}
	in.each("order", maxOutOfOrder, in.order)
	in.each("gaps", p.Gates.MaxMissing, in.gaps)
	in.usual = usual(in.tables)
	in.each("channels", 0, in.channels)
	in.silence()
	in.each("units", 0, in.units)
	in.each("range", maxOutOfRange, in.ranges)
	in.each("stuck", p.Gates.MaxStuckShare, in.stuck)
	if len(in.tables) < minPeers {
		in.gates = append(in.gates, GateResult{Gate: "garbage", Class: class, Verdict: Inconclusive, Limit: maxDistance, AtMost: true, N: len(in.tables),
			Message: fmt.Sprintf("%d devices are too few to compare one with its peers, %d are needed", len(in.tables), minPeers)})
	} else {
		in.each("garbage", maxDistance, in.garbage())
	}
	out := len(in.why)
	switch {
	case out == 0:
		return in, ""
	case len(in.tables) == 0:
		return in, fmt.Sprintf("class %s: no device has usable data (%s)", class, in.reasons())
	case float64(out) > maxLeftOut*float64(in.all):
		return in, fmt.Sprintf("class %s: %d of %d devices had to be left out (%s)", class, out, in.all, in.reasons())
	}
	return in, ""
}

func (in *inspection) reasons() string {
	var out []string
	for _, device := range sorted(in.why) {
		if len(out) == maxGateDevices {
			out = append(out, fmt.Sprintf("and %d others", len(in.why)-len(out)))
			break
		}
		out = append(out, device+": "+in.why[device])
	}
	return strings.Join(out, "; ")
}

// usual are the channels that more than half of the devices send, each with the
// unit that more than half of those declare; without one that so many do, "\x00".
func usual(ts []table) map[string]string {
	senders, units := map[string]int{}, map[[2]string]int{}
	for _, t := range ts {
		for _, sig := range t.signals {
			if spoke(sig) {
				senders[sig.Name]++
				units[[2]string{sig.Name, sig.Unit}]++
			}
		}
	}
	out := map[string]string{}
	for name, n := range senders {
		if 2*n > len(ts) {
			out[name] = "\x00"
		}
	}
	for key, n := range units {
		if _, ok := out[key[0]]; ok && 2*n > senders[key[0]] {
			out[key[0]] = key[1]
		}
	}
	return out
}

// spoke says that a signal has a value.
func spoke(s Signal) bool {
	return slices.ContainsFunc(s.Values, func(v float32) bool { return v == v })
}

// channels looks for what a device does not send and most of its class does. What
// most do not send is for the gate of the class's schema to say.
func (in *inspection) channels(t table) finding {
	sends := func(name string) bool {
		return slices.ContainsFunc(t.signals, func(s Signal) bool { return s.Name == name && spoke(s) })
	}
	wanted := slices.Clone(in.policy.Channels)
	if in.champion != nil {
		for _, old := range in.champion.Channels {
			wanted = append(wanted, old.Name)
		}
	}
	slices.Sort(wanted)
	var missing []string
	for _, name := range slices.Compact(wanted) {
		if _, ok := in.usual[name]; ok && !sends(name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return finding{float64(len(missing)), strings.Join(missing, ", "), "it does not send " + strings.Join(missing, ", ")}
	}
	if len(in.usual) > 0 && !slices.ContainsFunc(sorted(in.usual), sends) {
		return finding{float64(len(in.usual)), "", "it sends none of the channels that most of its class send: " + strings.Join(sorted(in.usual), ", ")}
	}
	return finding{0, "", "no channel is missing that is wanted and that most of its class send"}
}

// finding is what a check says of one device.
type finding struct {
	value   float64
	channel string
	why     string // in words; of a check that passed: what the value is
}

// each lets one check look at every device that is left. Devices over the
// limit are left out, each with a result of its own; the worst of the others
// stands for all.
func (in *inspection) each(gate string, limit float64, check func(table) finding) {
	worst := GateResult{Gate: gate, Class: in.class, Verdict: Pass, Limit: limit, AtMost: true, Message: "no device has data to look at"}
	var left []table
	for _, t := range in.tables {
		f := check(t)
		device := t.entry.Device.String()
		r := GateResult{Gate: gate, Class: in.class, Device: device, Channel: f.channel, Verdict: Fail, Value: f.value, Limit: limit, AtMost: true, N: len(t.rows), Message: device + ": " + f.why}
		if f.value <= limit {
			r.Verdict = Pass
			if len(left) == 0 || f.value > worst.Value {
				worst = r
			}
			left = append(left, t)
			continue
		}
		in.gates = append(in.gates, r)
		in.why[device] = f.why
	}
	if len(left) > 0 {
		in.gates = append(in.gates, worst)
	}
	in.tables = left
}

// silence takes channels out that a device declares and never gives a value of:
// they are not sent.
func (in *inspection) silence() {
	in.tables = slices.Clone(in.tables)
	for i, t := range in.tables {
		in.tables[i].signals = slices.DeleteFunc(slices.Clone(t.signals), func(s Signal) bool { return !spoke(s) })
	}
}

// wanted are the signals of a device that the class may learn from.
func (in *inspection) wanted(t table) []Signal {
	if len(in.policy.Channels) == 0 {
		return t.signals
	}
	return slices.DeleteFunc(slices.Clone(t.signals), func(s Signal) bool { return !slices.Contains(in.policy.Channels, s.Name) })
}

// known is what the champion's data was like in a channel.
func (in *inspection) known(channel string) (evaluate.ChannelProfile, bool) {
	if in.champion == nil {
		return evaluate.ChannelProfile{}, false
	}
	i := slices.IndexFunc(in.champion.Channels, func(c evaluate.ChannelProfile) bool { return c.Name == channel })
	if i < 0 {
		return evaluate.ChannelProfile{}, false
	}
	return in.champion.Channels[i], true
}

func (in *inspection) order(t table) finding {
	bad, all := t.doubled+t.late, t.doubled+t.late+len(t.rows)
	return finding{share(bad, all), "", fmt.Sprintf("%d of %d rows came twice or against the clock", bad, all)}
}

func (in *inspection) gaps(t table) finding {
	var missing, cells int
	for _, sig := range in.wanted(t) {
		cells += len(sig.Values)
		for _, v := range sig.Values {
			if v != v {
				missing++
			}
		}
	}
	if cells == 0 {
		return finding{math.Inf(1), "", "none of the wanted channels"}
	}
	f := finding{share(missing, cells), "", fmt.Sprintf("%.0f %% of its values are missing (limit %.0f %%)", 100*share(missing, cells), 100*in.policy.Gates.MaxMissing)}
	if n := len(t.rows); n > 0 {
		if holes := int(t.rows[n-1]-t.rows[0]) + 1 - n; holes > 0 {
			f.why += fmt.Sprintf(", and %d rows between its first and its last never came", holes)
		}
	}
	return f
}

// units finds channels whose level jumped as it does when a unit is changed:
// against the champion's data, or within the device's own rows.
func (in *inspection) units(t table) finding {
	if t.reunited != "" {
		return finding{1, "", t.reunited}
	}
	for _, sig := range in.wanted(t) {
		if u, ok := in.usual[sig.Name]; ok && u != "\x00" && u != sig.Unit && in.champion == nil {
			return finding{1, sig.Name, fmt.Sprintf("channel %s is in %q, and most of its class in %q", sig.Name, sig.Unit, u)}
		}
		if old, ok := in.known(sig.Name); ok {
			if old.Unit != "" && sig.Unit != "" && old.Unit != sig.Unit {
				return finding{1, sig.Name, fmt.Sprintf("channel %s is declared in %q, the champion learned it in %q", sig.Name, sig.Unit, old.Unit)}
			}
			now, ok := evaluate.LevelOf(sig.Values)
			if name := evaluate.Conversion(old.Level, now, sig.Unit); ok && old.Level != (evaluate.Level{}) && name != "" {
				return finding{1, sig.Name, fmt.Sprintf("channel %s lies at %.4g, in the champion's data at %.4g: as if its unit was changed %s (declared: %q)", sig.Name, now.Median, old.Level.Median, name, sig.Unit)}
			}
		}
		if sig.Unit == "" {
			continue // streams of people and of computers jump by themselves
		}
		const parts = 8
		for k := 1; k < parts; k++ {
			cut := len(sig.Values) * k / parts
			before, ok1 := evaluate.LevelOf(sig.Values[:cut])
			after, ok2 := evaluate.LevelOf(sig.Values[cut:])
			if name := evaluate.Conversion(before, after, sig.Unit); ok1 && ok2 && name != "" {
				return finding{1, sig.Name, fmt.Sprintf("channel %s went from %.4g to %.4g: as if its unit was changed %s on the way (declared: %q)", sig.Name, before.Median, after.Median, name, sig.Unit)}
			}
		}
	}
	return finding{0, "", "no unit was changed"}
}

// stuck finds a channel that stands still for long while others move.
func (in *inspection) stuck(t table) finding {
	worst := finding{0, "", "no channel stands still"}
	signals := in.wanted(t)
	for i, sig := range signals {
		first, last := stillest(sig.Values)
		rest := distinct(sig.Values[:first], distinct(sig.Values[last:], nil))
		if len(rest) < stuckDistinct && !in.variesElsewhere(sig.Name, t) {
			continue // a switch, or a setting
		}
		// The whole machine stands still, or a stream without others beside it,
		// of which only the champion's data says that it always moves.
		beside := slices.ContainsFunc(signals, func(o Signal) bool { return o.Name != signals[i].Name && moves(o.Values[first:last]) })
		if !beside && (len(signals) > 1 || !in.variesElsewhere(sig.Name, t)) {
			continue
		}
		if s := share(last-first, len(sig.Values)); s > worst.value {
			while := ""
			if beside {
				while = " while others move"
			}
			worst = finding{s, sig.Name, fmt.Sprintf("channel %s stands still at %.4g for %d of %d rows%s (limit %.0f %%)", sig.Name, sig.Values[first], last-first, len(sig.Values), while, 100*in.policy.Gates.MaxStuckShare)}
		}
	}
	return worst
}

// variesElsewhere says that a channel is no switch: on another device of the
// class, or in the champion's data.
func (in *inspection) variesElsewhere(channel string, but table) bool {
	if old, ok := in.known(channel); ok && len(old.Edges) >= 9 {
		return true
	}
	for _, t := range in.tables {
		for _, sig := range t.signals {
			if sig.Name == channel && t.entry.Device != but.entry.Device && len(distinct(sig.Values, nil)) >= stuckDistinct {
				return true
			}
		}
	}
	return false
}

// stillest is the longest run of equal values, missing ones passed over.
func stillest(v []float32) (first, last int) {
	from, at := 0, float32(0)
	for i, x := range v {
		if x != x {
			continue
		}
		if i == 0 || x != at {
			from, at = i, x
		}
		if i+1-from > last-first {
			first, last = from, i+1
		}
	}
	return first, last
}

// distinct adds different values of v to seen, until there are enough.
func distinct(v []float32, seen map[float32]bool) map[float32]bool {
	if seen == nil {
		seen = map[float32]bool{}
	}
	for _, x := range v {
		if x == x && len(seen) < stuckDistinct {
			seen[x] = true
		}
	}
	return seen
}

// moves says that values change in at least one step of ten.
func moves(v []float32) bool {
	steps := 0
	for i := 1; i < len(v); i++ {
		if v[i] != v[i-1] {
			steps++
		}
	}
	return steps*10 >= len(v) && steps > 0
}

// ranges counts values that a channel cannot have.
func (in *inspection) ranges(t table) finding {
	worst := finding{0, "", "every value is within its range"}
	for _, sig := range in.wanted(t) {
		infinite, outside := 0, 0
		r, bounded := in.policy.Gates.Ranges[sig.Name]
		whose := "the policy's range"
		if old, ok := in.known(sig.Name); ok && !bounded && old.Max > old.Min {
			extent := rangeMargin * (old.Max - old.Min)
			r, bounded, whose = Range{old.Min - extent, old.Max + extent}, true, "the champion's range, widened,"
		}
		for _, v := range sig.Values {
			switch x := float64(v); {
			case math.IsInf(x, 0):
				infinite++
			case bounded && (x < r.Min || x > r.Max):
				outside++
			}
		}
		if infinite > 0 {
			return finding{math.MaxFloat64, sig.Name, fmt.Sprintf("%d infinite values in channel %s: look at the sensor's scaling", infinite, sig.Name)}
		}
		if s := share(outside, len(sig.Values)); s > worst.value {
			worst = finding{s, sig.Name, fmt.Sprintf("channel %s: %.1f %% of its values are outside %s of %.4g to %.4g", sig.Name, 100*s, whose, r.Min, r.Max)}
		}
	}
	return worst
}

// habits are what a device's channel is like, for the comparison with peers.
type habits struct {
	median, spread, rough float64 // the last two as logarithms
	scale                 float64 // the spread itself
	still                 bool    // its quartiles are equal: logarithms say nothing
}

func habitsOf(v []float32) (h habits, ok bool) {
	l, ok := evaluate.LevelOf(v)
	if !ok {
		return h, false
	}
	steps, n := 0.0, 0
	for i := 1; i < len(v); i++ {
		if d := math.Abs(float64(v[i]) - float64(v[i-1])); d-d == 0 {
			steps, n = steps+d, n+1
		}
	}
	least := 1e-6 * max(math.Abs(l.Median), 1e-6)
	spread := max(l.Spread, least)
	return habits{l.Median, math.Log(spread), math.Log(max(steps/float64(max(n, 1)), least) / spread), spread, l.Spread <= 0}, true
}

// garbage compares each device with its class peers in level, spread and
// roughness of every channel. The distance is how far it lies outside what the
// peers (but for the most extreme ones) show, over how far they lie apart.
func (in *inspection) garbage() func(table) finding {
	type key struct{ device, channel string }
	known := map[key]habits{}
	for _, t := range in.tables {
		for _, sig := range in.wanted(t) {
			if h, ok := habitsOf(sig.Values); ok {
				known[key{t.entry.Device.String(), sig.Name}] = h
			}
		}
	}
	devices := slices.Clone(in.tables)
	return func(t table) finding {
		worst := finding{0, "", "it is like its peers"}
		for _, sig := range in.wanted(t) {
			own, ok := known[key{t.entry.Device.String(), sig.Name}]
			if !ok {
				continue
			}
			var medians, spreads, roughs, scales []float64
			for _, o := range devices {
				if h, ok := known[key{o.entry.Device.String(), sig.Name}]; ok && !h.still && o.entry.Device != t.entry.Device {
					medians, spreads, roughs, scales = append(medians, h.median), append(spreads, h.spread), append(roughs, h.rough), append(scales, h.scale)
				}
			}
			if len(medians) < minPeers-1 {
				continue
			}
			slices.Sort(scales)
			for _, c := range []struct {
				what       string
				own, scale float64
				peers      []float64
			}{
				{"level", own.median, scales[len(scales)/2], medians},
				{"spread", own.spread, 0.25, spreads},
				{"roughness", own.rough, 0.25, roughs},
			} {
				// Too calm is for the gate of stuck sensors to say.
				if c.what != "level" && (own.still || c.own <= slices.Max(c.peers)) {
					continue
				}
				if d := outside(c.own, c.peers, c.scale); d > worst.value {
					worst = finding{d, sig.Name, fmt.Sprintf("the %s of channel %s is %.3g times as far from its %d peers as they are from each other (limit %g)", c.what, sig.Name, d, len(medians), maxDistance)}
					if c.what == "level" {
						slices.Sort(medians)
						peer := evaluate.Level{Median: medians[len(medians)/2], Spread: scales[len(scales)/2]}
						if name := evaluate.Conversion(peer, evaluate.Level{Median: own.median, Spread: own.scale}, sig.Unit); name != "" {
							worst.why += ": as if its unit was changed " + name
						}
					}
				}
			}
		}
		return worst
	}
}

// outside is how far v lies outside the peers, over their extent and scale.
func outside(v float64, peers []float64, scale float64) float64 {
	peers = slices.Sorted(slices.Values(peers))
	cut := len(peers) / 4
	low, high := peers[cut], peers[len(peers)-1-cut]
	return max(low-v, v-high, 0) / max(high-low+scale, 1e-12)
}

// excluded says that a policy keeps a channel from being learned: by its name
// or by a pattern as of a shell.
func excluded(patterns []string, channel string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, channel)
		return p == channel || err == nil && ok
	})
}

// gate makes the result of a check of a whole class.
func (in *inspection) gate(name, channel string, verdict Verdict, value, limit float64, n int, format string, args ...any) GateResult {
	r := GateResult{Gate: name, Class: in.class, Channel: channel, Verdict: verdict, Value: value, Limit: limit, AtMost: true, N: n, Message: fmt.Sprintf(format, args...)}
	in.gates = append(in.gates, r)
	return r
}

// constant takes channels out that say nothing; it refuses when the champion
// reads one that varied before, or the policy names one.
func (in *inspection) constant(c *ClassData) (drops []Drop, refusal string) {
	kept := c.Channels[:0:0]
	dead := 0
	for _, ch := range c.Channels {
		varies := slices.ContainsFunc(in.tables, func(t table) bool {
			return slices.ContainsFunc(t.signals, func(s Signal) bool { return s.Name == ch.Name && len(distinct(s.Values, nil)) > 1 })
		})
		old, known := in.known(ch.Name)
		switch {
		case varies, known && old.Min == old.Max && old.Rows > 0, in.policy.TrainRows > 0: // the first rows of a stream may well be constant
			kept = append(kept, ch)
			continue
		case known && refusal == "":
			refusal = fmt.Sprintf("class %s: channel %s is constant on all %d devices, and the champion reads it: look at the sensor", in.class, ch.Name, len(in.tables))
		case slices.Contains(in.policy.Channels, ch.Name) && refusal == "":
			refusal = fmt.Sprintf("class %s: channel %s is constant on all %d devices, and the policy wants it: look at the sensor, or name the channels without it", in.class, ch.Name, len(in.tables))
		}
		dead++
		drops = append(drops, Drop{string(in.class), ch.Name, c.Rows, "it is constant on all devices of the class"})
	}
	if len(kept) == 0 && refusal == "" {
		refusal = fmt.Sprintf("class %s: all of its %d channels are constant", in.class, dead)
	}
	if refusal != "" {
		in.gate("constant", "", Fail, float64(dead), 0, c.Rows, "%s", strings.TrimPrefix(refusal, fmt.Sprintf("class %s: ", in.class)))
		return nil, refusal
	}
	c.Channels = kept
	names := make([]string, len(drops))
	for i, d := range drops {
		names[i] = d.What
	}
	if dead > 0 {
		in.gate("constant", strings.Join(names, ", "), Pass, float64(dead), float64(dead), c.Rows, "left out, since constant and not read by the champion: %s", strings.Join(names, ", "))
	} else {
		in.gate("constant", "", Pass, 0, 0, c.Rows, "no channel is constant")
	}
	return drops, ""
}

// schema compares the channels with those of the champion.
func (in *inspection) schema(c ClassData) (refusal string) {
	if in.champion == nil {
		why := "there is no champion to compare with"
		if in.blind {
			why = unknownData
		}
		in.gate("schema", "", Pass, 0, 0, len(c.Channels), "%d channels; %s", len(c.Channels), why)
		return ""
	}
	var missing, fresh []string
	for _, old := range in.champion.Channels {
		i := slices.IndexFunc(c.Channels, func(ch ChannelInfo) bool { return ch.Name == old.Name })
		if i < 0 {
			missing = append(missing, old.Name)
		} else if ch := c.Channels[i]; old.Unit != ch.Unit {
			in.gate("units", ch.Name, Fail, 1, 0, len(in.tables), "channel %s is in %q, the champion learned it in %q", ch.Name, ch.Unit, old.Unit)
			return fmt.Sprintf("class %s: channel %s is in %q, the champion learned it in %q: put it back, or promote a model of the new unit by hand", in.class, ch.Name, ch.Unit, old.Unit)
		}
	}
	for _, ch := range c.Channels {
		if _, ok := in.known(ch.Name); !ok {
			fresh = append(fresh, ch.Name)
		}
	}
	n := float64(len(missing))
	if n > 0 {
		r := in.gate("schema", strings.Join(missing, ", "), Fail, n, 0, len(c.Channels), "channels that the champion reads and not every device sends: %s", strings.Join(missing, ", "))
		return fmt.Sprintf("class %s: %s", in.class, r.Message)
	}
	if len(fresh) > 0 {
		in.gate("schema", strings.Join(fresh, ", "), Pass, 0, 0, len(c.Channels), "channels that the champion does not read yet: %s", strings.Join(fresh, ", "))
	} else {
		in.gate("schema", "", Pass, 0, 0, len(c.Channels), "the same %d channels as the champion's", len(c.Channels))
	}
	return ""
}

// drift describes the class's data and compares what is new in it with what
// the champion learned.
func (in *inspection) drift(c *ClassData, since int64) (refusal string) {
	ds := zoo.Dataset{Channels: c.channels(), SampleRateHz: c.SampleRateHz}
	for _, t := range in.tables {
		if sr := t.series(c.Channels, 0, len(t.rows)); complete(sr) {
			ds.Series = append(ds.Series, sr)
		}
	}
	var err error
	if c.Profile, err = evaluate.NewProfile(ds); err != nil {
		return fmt.Sprintf("class %s: %v", in.class, err)
	}
	if g := in.policy.Gates; in.blind && (g.MaxPSI > 0 || g.MaxTwoSample > 0) {
		in.gate("psi", "", Inconclusive, 0, g.MaxPSI, c.Rows, "%s", unknownData)
		return fmt.Sprintf("class %s: %s, and the policy limits the drift from it: take the limit out for one night", in.class, unknownData)
	}
	if in.champion == nil {
		return ""
	}
	// Only what the champion has not seen can have drifted; where that is
	// little, all of it is compared.
	ds, what := zoo.Dataset{SampleRateHz: c.SampleRateHz}, "its new rows"
	var infos []ChannelInfo
	for _, old := range in.champion.Channels {
		infos = append(infos, ChannelInfo{old.Name, old.Unit})
	}
	ds.Channels = ClassData{Channels: infos}.channels()
	fresh := 0
	for _, t := range in.tables {
		fresh += len(t.times) - newer(t, since)
	}
	for _, t := range in.tables {
		from := newer(t, since)
		if fresh < minDriftRows {
			from, what = 0, "its rows"
		}
		if from < len(t.rows) {
			ds.Series = append(ds.Series, t.series(infos, from, len(t.rows)))
		}
	}
	if c.Drift, err = in.champion.Drift(ds); err != nil {
		return fmt.Sprintf("class %s: %v", in.class, err)
	}
	limit := in.policy.Gates.MaxPSI
	if len(c.Drift) > 0 {
		d, verdict := c.Drift[0], Pass
		if limit > 0 && !(d.PSI <= limit) {
			verdict = Fail
			refusal = fmt.Sprintf("class %s: channel %s has drifted from what the champion learned (population stability index %.2f, limit %.2f)", in.class, d.Channel, d.PSI, limit)
		}
		in.gate("psi", d.Channel, verdict, d.PSI, limit, fresh, "population stability index %.2f of channel %s, %s against the champion's data%s", d.PSI, d.Channel, what, noLimit(limit))
	}
	distances, err := in.champion.TwoSample(ds, in.policy.Seed)
	if err != nil {
		return fmt.Sprintf("class %s: %v", in.class, err)
	}
	limit = in.policy.Gates.MaxTwoSample
	if len(distances) == 0 {
		in.gate("two-sample", "", Inconclusive, 0, limit, fresh, "there are too few blocks of rows to compare with the champion's data")
		if limit > 0 && refusal == "" {
			refusal = fmt.Sprintf("class %s: there are too few blocks of rows to show that the data is still like the champion's, as the policy wants", in.class)
		}
		return refusal
	}
	d := distances[0]
	for _, other := range distances { // the farthest that is significant counts
		if other.P <= significant {
			d = other
			break
		}
	}
	verdict := Pass
	if limit > 0 && d.D > limit && d.P <= significant {
		verdict = Fail
		if refusal == "" {
			refusal = fmt.Sprintf("class %s: the %s of channel %s is distributed otherwise than in the champion's data (distance %.2f, limit %.2f, p %.3f)", in.class, d.Feature, d.Channel, d.D, limit, d.P)
		}
	}
	in.gate("two-sample", d.Channel, verdict, d.D, limit, fresh, "Kolmogorov-Smirnov distance %.2f (p %.3f) in the %s of channel %s, %s against the champion's data%s", d.D, d.P, d.Feature, d.Channel, what, noLimit(limit))
	return refusal
}

// unknownData is said of a champion that was registered without a profile.
const unknownData = "what the champion learned is not known"

func noLimit(limit float64) string {
	if limit > 0 {
		return ""
	}
	return "; the policy sets no limit"
}

// newer is the index of the first row after a moment.
func newer(t table, since int64) int {
	i, found := slices.BinarySearch(t.times, since)
	for found && i < len(t.times) && t.times[i] == since {
		i++
	}
	return i
}

// leakage looks for channels that carry the answer: one of few values that
// agrees with people's labels or with the champion's flags almost always.
func (s *Service) leakage(ctx context.Context, in *inspection, c ClassData, whole []table, labels []feedback.Label, champion artifact.Digest) (refusal string, err error) {
	var suspects []ChannelInfo
	for _, ch := range c.Channels {
		seen := map[float32]bool{}
		for _, t := range whole {
			i := slices.IndexFunc(t.signals, func(g Signal) bool { return g.Name == ch.Name })
			seen = distinct(t.signals[i].Values, seen)
		}
		if len(seen) > 1 && len(seen) <= leakDistinct {
			suspects = append(suspects, ch)
		}
	}
	if len(suspects) == 0 {
		in.gate("leakage", "", Pass, 0, leakAgreement, c.Rows, "no channel can be a label: each takes many values")
		return "", nil
	}
	flags := func(table) ([]bool, error) { return nil, nil }
	if champion != "" && in.champion != nil {
		b, err := s.getModel(ctx, champion)
		if err != nil {
			return "", err
		}
		session, err := runtime.Load(b, runtime.Options{})
		if err != nil {
			return "", fmt.Errorf("load the champion: %w", err)
		}
		defer func() { _ = session.Close() }() // nothing is lost when freeing fails
		var infos []ChannelInfo
		for _, old := range in.champion.Channels {
			infos = append(infos, ChannelInfo{old.Name, old.Unit})
		}
		flags = func(t table) ([]bool, error) {
			verdicts, err := evaluate.Score(ctx, session, t.series(infos, 0, len(t.rows)), 0, s.maxGap(in.policy))
			out := make([]bool, len(t.rows))
			for _, v := range verdicts {
				out[v.Row] = v.Flag
			}
			return out, err
		}
	}
	worst, worstChannel, against := 0.0, "", ""
	for _, ch := range suspects {
		byLabel, byFlag := map[float32]*tally{}, map[float32]*tally{}
		for _, t := range whole {
			i := slices.IndexFunc(t.signals, func(g Signal) bool { return g.Name == ch.Name })
			said := spoken(labels, t)
			flagged, err := flags(t)
			if err != nil {
				return "", err
			}
			for row, v := range t.signals[i].Values {
				if v != v {
					continue
				}
				count(byLabel, v, said[row] == saidAnomaly)
				if flagged != nil {
					count(byFlag, v, flagged[row])
				}
			}
		}
		for what, tallies := range map[string]map[float32]*tally{"people's labels": byLabel, "the champion's flags": byFlag} {
			if a := agreement(tallies); a > worst {
				worst, worstChannel, against = a, ch.Name, what
			}
		}
	}
	if worst > leakAgreement {
		in.gate("leakage", worstChannel, Fail, worst, leakAgreement, c.Rows, "channel %s agrees with %s (correlation %.3f): it carries the answer", worstChannel, against, worst)
		return fmt.Sprintf("class %s: channel %s agrees with %s almost always (correlation %.3f, limit %.2f): it carries the answer, put it under exclude", in.class, worstChannel, against, worst, leakAgreement), nil
	}
	in.gate("leakage", worstChannel, Pass, worst, leakAgreement, c.Rows, "no channel carries the answer")
	return "", nil
}

func (s *Service) maxGap(p Policy) float64 {
	if p.Fit.MaxGap == 0 {
		return 3
	}
	return p.Fit.MaxGap
}

// tally counts rows of one value by what was said of them.
type tally struct{ yes, no int }

func count(m map[float32]*tally, v float32, yes bool) {
	if m[v] == nil {
		m[v] = &tally{}
	}
	if yes {
		m[v].yes++
	} else {
		m[v].no++
	}
}

// agreement is the largest Matthews correlation of "has this value" with what
// was said, over the values; 0 where either kind of row is rare.
func agreement(m map[float32]*tally) float64 {
	var yes, no, best float64
	for _, t := range m {
		yes, no = yes+float64(t.yes), no+float64(t.no)
	}
	if yes < leakRows || no < leakRows {
		return 0
	}
	for _, t := range m {
		tp, fp := float64(t.yes), float64(t.no)
		fn, tn := yes-tp, no-fp
		if d := math.Sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)); d > 0 {
			best = max(best, math.Abs(tp*tn-fp*fn)/d)
		}
	}
	return best
}
