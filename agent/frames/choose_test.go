package frames

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/telemetry"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestWhichPicturesAreSent(t *testing.T) {
	const release = "surface-3"
	for name, c := range map[string]struct {
		config  Config
		finding Finding
		want    string
	}{
		"all sends what the model is sure of":         {Config{Upload: All}, Finding{Release: release, Threshold: 1, Class: "good", Probability: 0.99}, telemetry.WhyAll},
		"all sends before a model acts":               {Config{Upload: All}, Finding{}, telemetry.WhyAll},
		"none sends nothing":                          {Config{Upload: None}, Finding{Release: release, Class: "good", Probability: 0.3}, ""},
		"a class that is hardly believed":             {Config{}, Finding{Release: release, Threshold: 1, Class: "good", Probability: 0.6}, telemetry.WhyUncertain},
		"a class that is believed":                    {Config{}, Finding{Release: release, Threshold: 1, Class: "good", Probability: 0.9}, ""},
		"a fault that is believed":                    {Config{}, Finding{Release: release, Score: 1.9, Threshold: 1, Flag: true, Class: "scratch", Probability: 0.9}, telemetry.WhyFlagged},
		"a distance close to the threshold":           {Config{}, Finding{Release: release, Score: 0.9, Threshold: 1}, telemetry.WhyUncertain},
		"a distance far above the threshold":          {Config{}, Finding{Release: release, Score: 5, Threshold: 1, Flag: true}, telemetry.WhyFlagged},
		"a distance far below the threshold":          {Config{}, Finding{Release: release, Score: 0.2, Threshold: 1}, ""},
		"the first picture of a device without model": {Config{}, Finding{}, telemetry.WhySample},
		"every picture, when the share is whole":      {Config{SampleShare: 1}, Finding{Release: release, Threshold: 1, Class: "good", Probability: 1}, telemetry.WhySample},
	} {
		t.Run(name, func(t *testing.T) {
			var b budget
			if got := b.choose(c.config.withDefaults(), c.finding, 1000, noon); got != (choice{why: c.want}) {
				t.Errorf("got %+v, want %q", got, c.want)
			}
		})
	}
}

func TestADeviceWithoutModelSendsAnEvenSampleOverTheDay(t *testing.T) {
	c := Config{BudgetMiBPerDay: 1}.withDefaults()
	const size = 16 << 10 // 64 of them are the budget
	var b budget
	var quarters [4]int
	for second := range 24 * 3600 {
		got := b.choose(c, Finding{}, size, noon.Add(time.Duration(second)*time.Second))
		if got.refused {
			t.Fatalf("second %d was refused: what is not wanted is not refused", second)
		}
		if got.why != "" {
			quarters[second/(6*3600)]++
		}
	}
	for _, n := range quarters {
		if n < 15 || n > 17 {
			t.Fatalf("sent in each quarter of the day: %v, want 16", quarters)
		}
	}
}

func TestOneInAHundredOfWhatTheModelIsSureOfIsSent(t *testing.T) {
	c := Config{BudgetMiBPerDay: -1}.withDefaults()
	var b budget
	sent := 0
	for i := range 10_000 {
		if b.choose(c, Finding{Release: "surface-3", Threshold: 1, Class: "good", Probability: 0.99}, 1000, noon.Add(time.Duration(i)*time.Second)).why != "" {
			sent++
		}
	}
	if sent < 99 || sent > 101 {
		t.Errorf("%d of 10000", sent)
	}
}

func TestAFloodOfAnomaliesLeavesHalfTheBudgetForWhatIsUnclear(t *testing.T) {
	c := Config{BudgetMiBPerDay: 1}.withDefaults()
	var b budget
	sent := map[string]int{}
	offer := func(n int, f Finding) {
		for range n {
			if got := b.choose(c, f, 16<<10, noon); !got.refused {
				sent[got.why]++
			}
		}
	}
	offer(1000, Finding{Release: "surface-3", Score: 9, Threshold: 1, Flag: true})
	offer(1000, Finding{Release: "surface-3", Score: 1, Threshold: 1})
	if sent[telemetry.WhyFlagged] != 32 || sent[telemetry.WhyUncertain] != 32 {
		t.Errorf("sent %v", sent)
	}
}

// TestNoStretchOfTimeCostsMoreThanItsBudget plays any pictures at any times,
// with a clock that also goes back: between any two moments at most a day's
// budget and what those moments earned is sent.
func TestNoStretchOfTimeCostsMoreThanItsBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{Upload: rapid.SampledFrom([]string{All, Uncertain}).Draw(t, "upload"), BudgetMiBPerDay: rapid.Float64Range(0.001, 4).Draw(t, "budget")}.withDefaults()
		perDay := c.BudgetMiBPerDay * (1 << 20)
		var b budget
		now, passed, sent := noon, time.Duration(0), 0.0
		for range rapid.IntRange(1, 200).Draw(t, "pictures") {
			step := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(6*time.Hour)).Draw(t, "step"))
			now = now.Add(step)
			passed += max(step, 0)
			f := Finding{}
			if rapid.Bool().Draw(t, "scored") {
				f = Finding{Release: "r-1", Score: rapid.Float64Range(0, 3).Draw(t, "score"), Threshold: 1}
				f.Flag = f.Score > 1
			}
			size := rapid.IntRange(1, 256<<10).Draw(t, "bytes")
			if got := b.choose(c, f, size, now); got.why != "" && !got.refused {
				sent += float64(size)
			}
			if most := perDay * (1 + passed.Hours()/24); sent > most+1 {
				t.Fatalf("sent %.0f bytes in %v: at most %.0f", sent, passed, most)
			}
		}
	})
}

func TestConfigurationsThatCannotWorkAreExplained(t *testing.T) {
	for name, c := range map[string]Config{
		"another policy":    {Upload: "some"},
		"more than a share": {SampleShare: 2},
		"tiny pictures":     {MaxBytes: 100},
		"huge pictures":     {MaxBytes: telemetry.MaxFrameBytes + 1},
		"no room":           {SpoolMiB: -1},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
}
