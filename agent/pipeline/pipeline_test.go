package pipeline_test

import (
	"math"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// collect keeps what a pipeline says.
type collect struct{ verdicts []pipeline.Verdict }

func (c *collect) Rows(uint64, source.Rows)   {}
func (c *collect) Verdict(v pipeline.Verdict) { c.verdicts = append(c.verdicts, v) }

var two = []string{"signal-1", "signal-2"}

// bench is a pipeline of two channels with a champion.
type bench struct {
	*pipeline.Pipeline
	t    *testing.T
	got  *collect
	s    *scorer.Scorer
	next uint64
	now  time.Time
}

func newBench(t *testing.T, c pipeline.Config) *bench {
	b := &bench{t: t, got: &collect{}, s: &scorer.Scorer{}, now: time.Unix(1000, 0)}
	c.Channels, c.Sink = channels(two), b.got
	b.Pipeline = pipeline.New(c)
	t.Cleanup(func() {
		b.Close()
		if b.s.Wait(); b.s.Loaded() != 0 {
			t.Errorf("%d models are still in memory", b.s.Loaded())
		}
	})
	return b
}

func (b *bench) load(m agenttest.Model, counter uint64) *scorer.Model {
	b.t.Helper()
	l, err := b.s.Load(m.ONNX(), scorer.Release{Name: "m", Counter: counter}, runtime.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {})
	return l
}

func (b *bench) champion(m agenttest.Model, counter uint64) {
	b.t.Helper()
	l := b.load(m, counter)
	defer l.Let()
	if err := b.SetChampion(l); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) challenger(m agenttest.Model, counter uint64, every time.Duration) {
	b.t.Helper()
	l := b.load(m, counter)
	defer l.Let()
	if err := b.SetChallenger(l, every, b.now); err != nil {
		b.t.Fatal(err)
	}
}

// push feeds n rows of value v, a second apart.
func (b *bench) push(n int, v float32) {
	for range n {
		b.Rows(source.Rows{First: b.next, Times: []int64{b.now.UnixNano()}, Values: [][]float32{{v}, {v}}}, b.now)
		b.next++
		b.now = b.now.Add(time.Second)
	}
}

func TestWindowsEndAtMultiplesOfTheStrideOnceTheyAreFull(t *testing.T) {
	b := newBench(t, pipeline.Config{FirstRow: 100})
	b.champion(agenttest.Model{Window: 10, Stride: 4}, 1)
	b.push(40, 0.5)
	var rows []uint64
	for _, v := range b.got.verdicts {
		rows = append(rows, v.Row)
	}
	if len(rows) != 8 || rows[0] != 111 || rows[7] != 139 { // 100+9 is the first full window; rows end a stride at 4n-1
		t.Errorf("verdicts at %v", rows)
	}
	if c := b.Counters(); c.WindowsDue != 8 || c.WindowsScored != 8 || c.Samples != 40 {
		t.Errorf("%+v", c)
	}
	if v := b.got.verdicts[0]; v.Score != 0.5 || v.Flag || v.Stride != 4 || v.Release.Counter != 1 {
		t.Errorf("%+v", v)
	}
}

func TestGapsBreakWindows(t *testing.T) {
	for _, c := range []struct {
		name   string
		maxGap time.Duration
		gap    func(*bench)
		want   uint64
	}{
		{"none", 0, func(*bench) {}, 11},
		{"in time, where it counts", 5 * time.Second, func(b *bench) { b.now = b.now.Add(time.Minute) }, 2},
		{"in time, where it does not", 0, func(b *bench) { b.now = b.now.Add(time.Minute) }, 11},
		{"in the rows", 0, func(b *bench) { b.next += 3 }, 2},
		{"by opening the source again", 0, func(b *bench) { b.next = 0 }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, pipeline.Config{MaxGap: c.maxGap})
			b.champion(agenttest.Model{Window: 10}, 1)
			b.push(10, 1)
			c.gap(b)
			b.push(10, 1)
			if got := b.Counters().WindowsScored; got != c.want {
				t.Errorf("%d windows scored, want %d", got, c.want)
			}
		})
	}
}

func TestShadowCountsWhoFlagsWhatInClosedWindows(t *testing.T) {
	b := newBench(t, pipeline.Config{})
	b.champion(agenttest.Model{Window: 1, Threshold: 2}, 1)
	b.push(1, 0)
	b.challenger(agenttest.Model{Window: 1, Threshold: 1}, 2, 10*time.Second)
	b.push(10, 0.5) // neither
	b.push(10, 1.5) // the challenger alone
	b.push(10, 3)   // both
	w := b.Watch()
	s := w.Shadow
	if s == nil || s.Items != 30 || s.OnlyChallenger != 10 || s.Both != 10 || s.OnlyChampion != 0 || w.Challenger.Counter != 2 {
		t.Fatalf("%+v", s)
	}
	if len(s.Windows) != 2 || s.Windows[1].OnlyChallenger != 10 || s.Windows[1].Items != 10 {
		t.Errorf("counting windows %+v", s.Windows)
	}
	if v := b.got.verdicts[15]; !v.Shadowed || !v.ChallengerFlag || v.Flag || v.Release.Counter != 1 {
		t.Errorf("%+v", v)
	}
	b.push(1000, 0)
	if s := b.Watch().Shadow; len(s.Windows) != 64 || s.Index != 102-64+0 {
		t.Errorf("%d windows from %d", len(s.Windows), s.Index)
	}
}

func TestScoresThatAreNotFiniteAreCountedAndFlagged(t *testing.T) {
	b := newBench(t, pipeline.Config{})
	b.champion(agenttest.Model{Window: 1}, 1)
	b.push(1, float32(math.NaN()))
	b.push(1, 0.5)
	if w := b.Watch(); w.NonFinite != 1 || w.Flagged != 1 || w.Windows != 2 {
		t.Errorf("%+v", w)
	}
}

func TestAMissingValueIsTheLastOneForAWhile(t *testing.T) {
	missing := float32(math.NaN())
	for name, c := range map[string]struct {
		hold      int
		rows      []float32
		nonFinite uint64
		held      uint64
	}{
		"a cell is empty":                   {3, []float32{0.5, missing, 0.5, missing, 0.5}, 0, 2},
		"a sensor is away for longer":       {3, []float32{0.5, missing, missing, missing, missing, missing}, 2, 3},
		"it comes back, and goes again":     {2, []float32{0.5, missing, missing, 0.5, missing, missing, missing}, 1, 4},
		"there was none before":             {3, []float32{missing, missing, 0.5, missing}, 2, 1},
		"holding is off":                    {0, []float32{0.5, missing, 0.5}, 1, 0},
		"infinite is not missing, but bad":  {3, []float32{0.5, float32(math.Inf(1)), 0.5}, 1, 0},
		"what is held alarms as it did not": {3, []float32{2, missing}, 0, 1},
	} {
		b := newBench(t, pipeline.Config{MaxHold: c.hold})
		b.champion(agenttest.Model{Window: 1}, 1)
		for _, v := range c.rows {
			b.push(1, v)
		}
		// The bench has two channels.
		if w, n := b.Watch(), b.Counters(); w.NonFinite != c.nonFinite || n.ValuesHeld != 2*c.held || w.Windows != uint64(len(c.rows)) {
			t.Errorf("%s: %d scores are not finite, %d values were held, of %d windows: want %d, %d, %d", name, w.NonFinite, n.ValuesHeld, w.Windows, c.nonFinite, 2*c.held, len(c.rows))
		}
	}
}

func TestTimeWithoutAChampionIsCountedOnlyAfterTheFirst(t *testing.T) {
	b := newBench(t, pipeline.Config{})
	b.push(10, 0)
	if c := b.Counters(); c.StoppedMs != 0 || c.WindowsDue != 0 {
		t.Errorf("before the first champion: %+v", c)
	}
	b.champion(agenttest.Model{Window: 2}, 1)
	b.push(10, 0)
	if err := b.SetChampion(nil); err != nil {
		t.Fatal(err)
	}
	b.push(6, 0)
	c := b.Counters()
	if c.StoppedMs != 5000 || c.WindowsLost != 6 || c.WindowsDue != c.WindowsScored+c.WindowsLost {
		t.Errorf("without a champion: %+v", c)
	}
	b.champion(agenttest.Model{Window: 2}, 2)
	b.push(5, 0)
	if d := b.Counters(); d.StoppedMs != c.StoppedMs || d.WindowsLost != c.WindowsLost || d.Swaps != 1 {
		t.Errorf("with one again: %+v", d)
	}
}

func TestModelThatDoesNotFitTheSourceIsRefused(t *testing.T) {
	p := pipeline.New(pipeline.Config{Channels: []source.Channel{{Name: "a", Unit: "bar"}, {Name: "b"}}, Sink: &collect{}})
	for name, c := range map[string]struct {
		channels []contract.Channel
		ok       bool
	}{
		"in another order":     {[]contract.Channel{{Name: "b"}, {Name: "a"}}, true},
		"units agree":          {[]contract.Channel{{Name: "a", Unit: "bar"}}, true},
		"a unit is not known":  {[]contract.Channel{{Name: "b", Unit: "K"}}, true},
		"another unit":         {[]contract.Channel{{Name: "a", Unit: "Pa"}}, false},
		"a channel is missing": {[]contract.Channel{{Name: "c"}}, false},
	} {
		if err := p.Fits(contract.Contract{Channels: c.channels}); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecorderCutsBlocksThatSayTheTruth(t *testing.T) {
	var blocks []*telemetry.Block
	var nexts []uint64
	r := pipeline.NewRecorder(pipeline.RecorderConfig{Channels: channels(two), RateHz: 10, MaxRows: 5, Emit: func(b *telemetry.Block, next uint64) {
		blocks, nexts = append(blocks, b), append(nexts, next)
	}})
	rows := func(first uint64, times ...int64) {
		v := make([]float32, len(times))
		for i := range v {
			v[i] = float32(first) + float32(i)
		}
		r.Rows(first, source.Rows{Times: times, Values: [][]float32{v, v}})
	}
	ms := int64(time.Millisecond)
	rows(0, 0, 100*ms, 200*ms, 300*ms, 400*ms, 500*ms) // regular: 5 + 1
	rows(6, 605*ms)                                    // late: the block needs offsets
	rows(9, 900*ms)                                    // two rows are missing
	rows(10, 800*ms)                                   // the clock fell
	r.Verdict(pipeline.Verdict{Row: 9, At: 900 * ms, Score: 1, Flag: true, Stride: 10})
	r.Verdict(pipeline.Verdict{Row: 19, At: 1900 * ms, Stride: 10})
	r.Verdict(pipeline.Verdict{Row: 39, At: 3900 * ms, Stride: 10, Shadowed: true, ChallengerFlag: true})
	r.Flush()
	r.Flush()
	type is struct {
		first uint64
		rows  int
		exact bool
		next  uint64
	}
	want := []is{{0, 5, true, 5}, {5, 2, false, 7}, {9, 1, true, 10}, {9, 2, true, 20}, {10, 1, true, 11}, {39, 1, true, 40}}
	if len(blocks) != len(want) {
		t.Fatalf("%d blocks", len(blocks))
	}
	for i, b := range blocks {
		if err := b.Validate(); err != nil {
			t.Errorf("block %d: %v", i, err)
		}
		if got := (is{b.First, b.Rows(), b.Offsets == nil, nexts[i]}); got != want[i] {
			t.Errorf("block %d is %+v, want %+v", i, got, want[i])
		}
	}
	if b := blocks[1]; b.Time(1) != 605*ms {
		t.Errorf("the late row is at %d", b.Time(1))
	}
	if b := blocks[3]; b.Signals[1].Values[0] != 1 || b.Signals[4].Name != "row" || b.Signals[4].Values[1] != 10 || b.RateHz != 1 {
		t.Errorf("verdicts %+v", b)
	}
	if b := blocks[5]; b.Signals[5].Name != telemetry.ChallengerFlag || b.Signals[5].Values[0] != 1 {
		t.Errorf("shadowed verdicts %+v", b)
	}
}
