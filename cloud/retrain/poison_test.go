package retrain

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/protocol/artifact"
)

// wide gives every pump eight more channels, so that one of them is a small part
// of what a pump sends.
func wide(p *plant) *plant {
	for i := range p.devices {
		c := p.columns[id(i)]
		for n := range 8 {
			s := Signal{Name: "vibration-" + string(rune('a'+n)), Unit: "g", Values: slices.Clone(c.Signals[2].Values)}
			for r := range s.Values {
				s.Values[r] = s.Values[r]/50 + float32((r*(n+3))%17)/40
			}
			c.Signals = append(c.Signals, s)
		}
		p.columns[id(i)] = c
	}
	return p
}

// TestWhatOneDeviceDoesNotSendStopsNobody harms one of four devices in ways that
// concern the channels of its whole class, before and after there is a champion.
func TestWhatOneDeviceDoesNotSendStopsNobody(t *testing.T) {
	for name, tc := range map[string]struct {
		harm         func(*plant)
		first, later string // why it is left out, without a champion and with one; empty: it is not
	}{
		"a channel without any value": {func(p *plant) { p.change(1, 1, 0, 500, func(int, float32) float32 { return nan }) },
			"", "it does not send flow"},
		"a channel that came alive in the end": {func(p *plant) { p.change(1, 1, 0, 450, func(int, float32) float32 { return nan }) },
			"", ""},
		"a channel gone": {func(p *plant) {
			c := p.columns[id(1)]
			c.Signals = slices.Delete(slices.Clone(c.Signals), 1, 2)
			p.columns[id(1)] = c
		}, "", "it does not send flow"},
		"every channel renamed": {func(p *plant) {
			c := p.columns[id(1)]
			c.Signals = slices.Clone(c.Signals)
			for i := range c.Signals {
				c.Signals[i].Name += "-x"
			}
			p.columns[id(1)] = c
		}, "it sends none of the channels", "it does not send current, flow"},
		"another unit declared": {func(p *plant) { p.columns[id(1)].Signals[0].Unit = "mA" },
			`in "mA", and most of its class in "A"`, `the champion learned it in "A"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := wide(newPlant(4, 500))
			tc.harm(p)
			r := start(t, p)
			r.policy(t, Policy{})
			look := func(want string) {
				t.Helper()
				run := r.night(t)
				if len(run.Outcome.Blessed.Winners) != 1 {
					t.Fatalf("one device stopped all: %v %s %+v", run.Outcome.Refusals(), run.Err, run.Outcome.Trained)
				}
				devices, dropped := run.Outcome.Validated.Classes[0].Devices, run.Outcome.Validated.Dropped
				dropped = slices.DeleteFunc(dropped, func(d Drop) bool { return d.What != "device" })
				if want == "" {
					if len(devices) != 4 || len(dropped) != 0 {
						t.Errorf("learned from %v, dropped %+v: want all", devices, dropped)
					}
					return
				}
				if len(devices) != 3 || len(dropped) != 1 || dropped[0].Device != id(1).String() || !strings.Contains(dropped[0].Why, want) {
					t.Errorf("learned from %v, dropped %+v: want the one left out, since %q", devices, dropped, want)
				}
			}
			look(tc.first)
			healthy := wide(newPlant(4, 500)).columns
			harmed := p.columns
			p.columns = healthy
			run := r.night(t)
			if run.Outcome.Released == nil {
				t.Fatalf("%v %s", run.Outcome.Refusals(), run.Err)
			}
			r.promote(t, run.Outcome.Released.Counter)
			p.columns = harmed
			look(tc.later)
		})
	}
}

func TestOnePictureOfOneDeviceDoesNotMakeItsClassCameras(t *testing.T) {
	p := newPlant(3, 500)
	p.frames = []feedback.Frame{{Device: id(1), Class: "pump", At: night.Add(-time.Hour), Digest: artifact.Of([]byte("a picture")), Format: "jpg"}}
	r := start(t, p)
	r.policy(t, Policy{})
	run := r.night(t)
	if run.Outcome.Released == nil || run.Outcome.Validated.Classes[0].Images != nil {
		t.Fatalf("one picture stopped the learning of three pumps: %v %s", run.Outcome.Refusals(), run.Err)
	}
	if d := run.Outcome.Validated.Dropped; len(d) != 1 || d[0].Device != id(1).String() || d[0].What != "images" || d[0].Rows != 1 {
		t.Errorf("dropped %+v, want the picture", d)
	}
}

func TestAClassIsOneOfCamerasWhenMostOfItsDevicesAre(t *testing.T) {
	p := newPlant(5, 100)
	r := start(t, p)
	frame := func(i int) FrameRef { return FrameRef{Device: id(i), Class: "pump"} }
	for i := range 5 { // what cameras say of each frame, see models/frame
		c := p.columns[id(i)]
		for s, name := range []string{"brightness", "contrast", "sharpness"} {
			c.Signals[s].Name, c.Signals[s].Unit = name, "1"
		}
	}
	entries := func(n int) (out []SnapshotEntry) {
		segs, err := p.Segments(t.Context(), night, night)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			out = append(out, SnapshotEntry{Device: id(i), Class: "pump", Segments: segs[i : i+1]})
		}
		return out
	}
	for name, tc := range map[string]struct {
		snap Snapshot
		want bool
	}{
		"no pictures":                 {Snapshot{Devices: entries(5)}, false},
		"one camera of five sent one": {Snapshot{Devices: entries(5), Frames: []FrameRef{frame(3)}}, true},
		"pictures without rows":       {Snapshot{Frames: []FrameRef{frame(3)}}, true},
		"half of them":                {Snapshot{Devices: entries(1), Frames: []FrameRef{frame(3)}}, true},
	} {
		got, err := r.cameras(t.Context(), tc.snap)
		if err != nil || got["pump"] != tc.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestAFewStrayRowsOfEarlierDaysDoNotTakeTheTrainingAway(t *testing.T) {
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	tb := table{times: []int64{at.AddDate(0, 0, -5).UnixNano(), at.AddDate(0, 0, -3).UnixNano()}}
	for i := range 1000 {
		tb.times = append(tb.times, at.Add(time.Duration(i)*time.Minute).UnixNano())
	}
	for range tb.times {
		tb.rows = append(tb.rows, uint64(len(tb.rows)))
	}
	c := ClassData{HoldOut: holdOut, HoldFrom: holdFrom([]table{tb})}
	if cut := c.cut(tb); cut < 700 {
		t.Errorf("%d of %d rows are left to learn from", cut, len(tb.times))
	}
}

func TestRowsAfterTheIntervalWaitForTheNextNight(t *testing.T) {
	p := newPlant(1, 500) // the last row is a second before the night
	for i := range p.columns[id(0)].Times {
		p.columns[id(0)].Times[i] += 100 * 1e9
	}
	r := start(t, p)
	run := r.wait(t, func() string {
		at := night // a backfill: its segments were closed after the interval
		if err := r.start(runID("pumps", at), Order{Policy: p.policies["pumps"], Trigger: ByBackfill, At: at}); err != nil {
			t.Fatal(err)
		}
		return runID("pumps", at)
	}())
	if run.State != engine.Succeeded {
		t.Fatalf("%s %s", run.State, run.Err)
	}
	if got := run.Outcome.Validated.Classes[0].Rows; got != 400 {
		t.Errorf("the night to %s learned from %d rows, want the 400 before it", night, got)
	}
}

func TestDriftLimitsAreNotMetByAChampionOfUnknownData(t *testing.T) {
	p := newPlant(2, 500)
	r := start(t, p)
	r.policy(t, Policy{Gates: Gates{MaxPSI: 0.2}})
	r.night(t)
	v, err := r.reg.Version(t.Context(), "pumps", 1)
	if err != nil {
		t.Fatal(err)
	}
	v.Counter, v.Models = 2, slices.Clone(v.Models)
	v.Models[0].Profile = nil
	v.Lineage.Run = "by-hand"
	if err := r.reg.SaveVersion(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	r.promote(t, 2)
	run := r.night(t)
	if said := strings.Join(run.Outcome.Refusals(), "; "); run.Outcome.Released != nil || !strings.Contains(said, "what the champion learned is not known") {
		t.Errorf("%q %s: the policy limits a drift that nobody can tell", said, run.Err)
	}
	r.policy(t, Policy{})
	p.Release(t.Context(), Package{}) // counter 2 is taken
	if run := r.night(t); run.Outcome.Released == nil {
		t.Errorf("%v %s", run.Outcome.Refusals(), run.Err)
	}
}

func TestSlowStreamsHaveARate(t *testing.T) {
	for step, want := range map[time.Duration]float64{
		time.Second: 1, 100 * time.Millisecond: 10, 333 * time.Millisecond: 3.003, time.Minute: 1.0 / 60, 5 * time.Minute: 1.0 / 300,
		time.Hour: 1.0 / 3600, 40 * time.Minute: 1.0 / 2400, 24 * time.Hour: 1.0 / 86400,
	} {
		var tb table
		for i := range 10 {
			tb.times = append(tb.times, int64(i)*int64(step))
		}
		got := medianRate([]table{tb})
		if got < want*0.999 || got > want*1.001 {
			t.Errorf("a row every %s: %g a second, want %g", step, got, want)
		}
	}
}

func TestARefusalSaysWhyNothingCouldBeTrained(t *testing.T) {
	j := Judged{Classes: []JudgedClass{{Class: "pump", Failed: []string{"pca: too few rows"}}}}
	if b := Bless(Policy{}.withDefaults().Gates, j); len(b.Refusals) != 1 || !strings.Contains(b.Refusals[0], "pca: too few rows") {
		t.Errorf("%v", b.Refusals)
	}
	p := newPlant(1, 120)
	r := start(t, p)
	r.policy(t, Policy{Kinds: []string{"seasonal"}})
	run := r.night(t)
	if said := strings.Join(run.Outcome.Refusals(), ""); run.Outcome.Released != nil || !strings.Contains(said, "seasonal") {
		t.Errorf("%q: want it to say what was wrong with the only kind; %+v", said, run.Outcome.Trained)
	}
}
