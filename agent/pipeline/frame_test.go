package pipeline_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// newCamera is a bench whose rows have pictures.
func newCamera(t *testing.T) *bench {
	b := newBench(t, pipeline.Config{Camera: true})
	return b
}

// show feeds a picture of one brightness.
func (b *bench) show(level byte) {
	p := frame.Frame{Width: 30, Height: 20, Pix: slices.Repeat([]byte{level}, 30*20*3)}
	b.Rows(source.Rows{First: b.next, Times: []int64{b.now.UnixNano()}, Values: [][]float32{{0}, {0}}, Frames: [][]byte{{1}}, Pictures: []frame.Frame{p}}, b.now)
	b.next++
	b.now = b.now.Add(time.Second)
}

func TestAnImageModelScoresEveryPictureAndNamesItsClass(t *testing.T) {
	b := newCamera(t)
	b.show(200) // nobody is there yet
	b.champion(agenttest.Model{Side: 16, Threshold: 0.5}, 1)
	b.challenger(agenttest.Model{Side: 8, Gain: 2, Threshold: 1.5}, 2, time.Minute)
	for _, level := range []byte{0, 51, 204, 255} {
		b.show(level)
	}
	want := []struct {
		score, challenger float32
		flag, other       bool
		class             string
		index             int
		probability       float32
	}{
		{0, 0, false, false, "dark", 0, 1},
		{0.2, 0.4, false, false, "dark", 0, 0.8},
		{0.8, 1.6, true, true, "bright", 1, 0.8},
		{1, 2, true, true, "bright", 1, 1},
	}
	if len(b.got.verdicts) != len(want) {
		t.Fatalf("%d verdicts", len(b.got.verdicts))
	}
	close := func(a, b float32) bool { return a-b < 1e-5 && b-a < 1e-5 }
	for i, v := range b.got.verdicts {
		w := want[i]
		if v.Row != uint64(i+1) || !close(v.Score, w.score) || v.Flag != w.flag || v.Class != w.class || v.ClassIndex != w.index || !close(v.Probability, w.probability) {
			t.Errorf("picture %d: %+v, want %+v", i, v, w)
		}
		if !v.Shadowed || !close(v.ChallengerScore, w.challenger) || v.ChallengerFlag != w.other {
			t.Errorf("picture %d in shadow: %+v, want %+v", i, v, w)
		}
	}
	if w := b.Watch(); w.Shadow.Items != 4 || w.Shadow.Both != 2 || w.LatencyP99Ms <= 0 {
		t.Errorf("watch %+v", w)
	}
}

func TestASwapOfImageModelsLosesNoPicture(t *testing.T) {
	b := newCamera(t)
	sides := []int{16, 24, 16, 8, 64, 8}
	for i, side := range sides {
		b.champion(agenttest.Model{Side: side, Threshold: 0.5, Note: string(rune('a' + i))}, uint64(i+1))
		for range 10 {
			b.show(100)
		}
	}
	c := b.Counters()
	if n := uint64(10 * len(sides)); c.Samples != n || c.WindowsDue != n || c.WindowsScored != n || c.WindowsLost != 0 || c.Swaps != uint64(len(sides)-1) {
		t.Errorf("counters %+v", c)
	}
	for i, v := range b.got.verdicts {
		if v.Release.Counter != uint64(i/10+1) {
			t.Errorf("picture %d was scored by release %d", i, v.Release.Counter)
		}
	}
}

func TestModelsAreKeptToTheirKindOfDevice(t *testing.T) {
	image := contract.Contract{Image: &contract.Image{Height: 16, Width: 16}}
	sensor := contract.Contract{Channels: []contract.Channel{{Name: "signal-1"}}}
	camera, press := newCamera(t), newBench(t, pipeline.Config{})
	if err := camera.Fits(image); err != nil {
		t.Error(err)
	}
	if err := press.Fits(sensor); err != nil {
		t.Error(err)
	}
	if err := camera.Fits(sensor); err == nil || !strings.Contains(err.Error(), "camera") {
		t.Errorf("a sensor model on a camera: %v", err)
	}
	if err := press.Fits(image); err == nil || !strings.Contains(err.Error(), "images") {
		t.Errorf("an image model on a device with sensors: %v", err)
	}
	l := press.load(agenttest.Model{Side: 16}, 1)
	defer l.Let()
	if press.SetChampion(l) == nil {
		t.Error("an image model became champion on a device with sensors")
	}
}

func TestVerdictBlocksOfImageModelsCarryClasses(t *testing.T) {
	var blocks []*telemetry.Block
	r := pipeline.NewRecorder(pipeline.RecorderConfig{Channels: channels(two), MaxRows: 5, Emit: func(b *telemetry.Block, _ uint64) { blocks = append(blocks, b) }})
	r.Verdict(pipeline.Verdict{Row: 0, At: 1, Stride: 1, Class: "crack", ClassIndex: 2, Probability: 0.75})
	r.Verdict(pipeline.Verdict{Row: 1, At: 2, Stride: 1, Class: "good", ClassIndex: 0, Probability: 0.5, Shadowed: true})
	r.Verdict(pipeline.Verdict{Row: 2, At: 3, Stride: 1}) // a model that tells none has taken over
	r.Flush()
	var got []string
	for _, b := range blocks {
		if err := b.Validate(); err != nil {
			t.Error(err)
		}
		var names []string
		for _, s := range b.Signals {
			names = append(names, s.Name)
		}
		got = append(got, strings.Join(names, " "))
	}
	want := []string{
		"score flag release threshold class probability",
		"score flag release threshold challenger_score challenger_flag class probability",
		"score flag release threshold",
	}
	if !slices.Equal(got, want) {
		t.Fatalf("signals %q", got)
	}
	if s := blocks[0].Signals; s[4].Values[0] != 2 || s[5].Values[0] != 0.75 {
		t.Errorf("verdict %+v", s)
	}
}
