package rollout_test

import (
	"testing"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Pumps first, fans when they are done; one class has no variant, and one fan
// may not go back as far as this release.
func TestAReleaseReachesOneClassAfterTheOtherAndNoDeviceItIsNotFor(t *testing.T) {
	p := simple()
	p.Waves = []rollout.Wave{
		{Name: "a few pumps", Selector: "class=pump", Devices: 2, DeadlineS: 7200},
		{Name: "pumps", Selector: "class=pump", DeadlineS: 7200},
		{Name: "fans", Selector: "class=fan", DeadlineS: 7200},
	}
	w := newWorld(t, 15, 3, p)
	w.r.Release.Variants[0].Classes = []artifact.Class{"pump", "fan"}
	class := func(i int, c artifact.Class) {
		w.devices[i].Class, w.devices[i].Labels["class"] = c, string(c)
	}
	for i := range 5 {
		class(i, "fan")
		class(i+5, "press")
	}
	w.devices[0].Floor = w.r.Release.Counter + 1
	if err := rollout.Validate(w.r, w.devices); err != nil {
		t.Fatal(err)
	}
	w.run(nil)
	w.want(rollout.Promoted)
	for i, d := range w.devices {
		want := map[artifact.Class][]int{"pump": {1, 2}, "fan": {3}, "press": {0}}[d.Class]
		if i == 0 {
			want = []int{0}
		}
		if d.Record.Wave < want[0] || d.Record.Wave > want[len(want)-1] {
			t.Errorf("%s of class %s is in wave %d, want %v", d.ID, d.Class, d.Record.Wave, want)
		}
		if runs := d.Champion.Manifest == w.r.Release.Manifest; runs != (want[0] > 0) {
			t.Errorf("%s of class %s runs the release: %v", d.ID, d.Class, runs)
		}
	}
	if c := w.last.Counts; c.Excluded != 6 || c.Done != 9 {
		t.Errorf("%+v", c)
	}
}
