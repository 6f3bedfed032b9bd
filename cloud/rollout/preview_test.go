package rollout_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
)

func TestAPreviewDrawsWhomThePlannerWillDraw(t *testing.T) {
	p := simple()
	p.Waves = []rollout.Wave{{Name: "canary", Devices: 3}, {Name: "line 2", Selector: "line=L2", DeadlineS: 7200}, {Name: "rest", DeadlineS: 7200}}
	w := newWorld(t, 12, 3, p)
	got := w.r.Preview(rollout.Snapshot{Devices: w.devices}, t0)
	if len(got.Refusals) > 0 || len(got.Waves) != 3 {
		t.Fatalf("%+v", got)
	}
	if n := []int{len(got.Waves[0].Devices), len(got.Waves[1].Devices), len(got.Waves[2].Devices)}; !slices.Equal(n, []int{3, 3, 6}) {
		t.Fatalf("waves of %v devices, want 3, 3 and 6", n)
	}
	w.run(nil)
	w.want(rollout.Promoted)
	for _, d := range w.devices {
		at := slices.IndexFunc(got.Waves, func(w rollout.PreviewWave) bool {
			return slices.ContainsFunc(w.Devices, func(p rollout.PreviewDevice) bool { return p.Device == d.ID && p.Line == d.Labels["line"] })
		})
		if at+1 != d.Record.Wave {
			t.Errorf("%s is in wave %d of the preview and %d of the rollout", d.ID, at+1, d.Record.Wave)
		}
	}
}

func TestAPreviewSaysWhatBudgetsAllowAndWhoIsLeftOut(t *testing.T) {
	p := simple()
	p.Budgets = append(p.Budgets, rollout.Budget{GroupBy: "site", MinAvailable: 4})
	w := newWorld(t, 9, 3, p)
	w.devices[0].Connected = false // of L1
	w.devices[1].Held = true
	s := rollout.Snapshot{Devices: w.devices, Orders: rollout.Orders{Freezes: []rollout.Freeze{{Name: "audit", Selector: "name=hall-1/pump-00002", By: "ada", Reason: "auditors"}}}}
	got := w.r.Preview(s, t0)
	tightest := rollout.PreviewGroup{GroupBy: "line", Group: "L1", Size: 3, Limit: 1, Unavailable: 1}
	if len(got.Groups) != 4 || got.Groups[0] != tightest || got.Groups[3] != (rollout.PreviewGroup{GroupBy: "site", Group: "hall-1", Size: 9, Limit: 5, Unavailable: 1}) {
		t.Errorf("groups %+v", got.Groups)
	}
	if len(got.Excluded) != 2 || got.Excluded[0].Why != "held by a person" || !strings.Contains(got.Excluded[1].Why, "frozen by ada (audit): auditors") {
		t.Errorf("excluded %+v", got.Excluded)
	}
}

func TestAPreviewSaysWhenWindowsOpenAndWhenItWouldBeDone(t *testing.T) {
	// Three devices of each line; a canary of each, then the rest, one at a time
	// on each line: 60 s to stage, 60 s of shadow, 30 s to swap and 60 s of soak.
	for name, tc := range map[string]struct {
		windows []rollout.Window
		want    []rollout.PreviewWindow
		first   time.Duration // of the first wave
		finish  time.Time
	}{
		"at any time": {nil, nil, 210 * time.Second, t0.Add(210*time.Second + 120*time.Second + 2*90*time.Second)},
		"in a window that opens in half an hour": {
			[]rollout.Window{{Name: "night", From: "22:30", To: "23:00"}},
			[]rollout.PreviewWindow{{Names: []string{"night"}, Zone: "UTC", Devices: 9, Change: t0.Add(30 * time.Minute)}},
			30*time.Minute + 90*time.Second, t0.Add(30*time.Minute + 90*time.Second + 120*time.Second + 2*90*time.Second),
		},
		"in a window that closes before the second round, on one line": {
			[]rollout.Window{{Name: "L1", Selector: "line=L1", From: "22:00", To: "22:08"}, {Name: "others", Selector: "line!=L1"}},
			[]rollout.PreviewWindow{
				{Names: []string{"L1"}, Zone: "UTC", Devices: 3, Open: true, Change: t0.Add(8 * time.Minute)},
				{Names: []string{"others"}, Zone: "UTC", Devices: 6, Open: true},
			},
			// The second of line 1 would need a lease from 22:07 to 22:09: it
			// waits for the next night.
			210 * time.Second, t0.Add(24*time.Hour + 90*time.Second),
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := simple()
			p.Windows = tc.windows
			w := newWorld(t, 9, 3, p)
			got := w.r.Preview(rollout.Snapshot{Devices: w.devices}, t0)
			if len(got.Refusals) > 0 {
				t.Fatalf("refused: %v", got.Refusals)
			}
			if !slices.EqualFunc(got.Windows, tc.want, func(a, b rollout.PreviewWindow) bool {
				return slices.Equal(a.Names, b.Names) && a.Zone == b.Zone && a.Devices == b.Devices && a.Open == b.Open && a.Change.Equal(b.Change)
			}) {
				t.Errorf("windows %+v, want %+v", got.Windows, tc.want)
			}
			if d := time.Duration(got.Waves[0].DurationS * float64(time.Second)); d != tc.first || !got.Finish.Equal(tc.finish) {
				t.Errorf("the first wave takes %s and all is done at %s, want %s and %s", d, got.Finish, tc.first, tc.finish)
			}
		})
	}
}

func TestAPreviewNamesAllThatIsWrong(t *testing.T) {
	p := simple()
	p.Waves[0].Selector = "line=L9"
	p.Budgets = []rollout.Budget{{GroupBy: "cell", MaxUnavailable: 1}}
	w := newWorld(t, 9, 3, p)
	got := w.r.Preview(rollout.Snapshot{Devices: w.devices}, t0)
	if len(got.Refusals) != 2 || !strings.Contains(got.Refusals[0], "line=L9") || !strings.Contains(got.Refusals[1], `"cell"`) || !got.Finish.IsZero() {
		t.Fatalf("%q, done at %s", got.Refusals, got.Finish)
	}
}
