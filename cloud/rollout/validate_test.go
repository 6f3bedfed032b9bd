package rollout_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
)

// nightly is a window of two hours in the night after t0, which is 22:00 UTC.
func nightly() rollout.Window {
	return rollout.Window{Name: "night", From: "23:00", To: "01:00"}
}

// gates adds gates to the default ones.
func gates(more ...rollout.Gate) []rollout.Gate {
	return append(slices.Clone(rollout.DefaultGates()), more...)
}

// TestARolloutIsRefusedBecause is the list of what is refused at creation: nine
// devices of class pump stand on lines L1 to L3, and the night proposes it.
func TestARolloutIsRefusedBecause(t *testing.T) {
	type policy = *rollout.Policy
	for name, tc := range map[string]struct {
		change func(p policy)
		want   string
	}{
		"it has no waves":                                   {func(p policy) { p.Waves = nil }, "0 waves"},
		"its waves' shares fall":                            {func(p policy) { p.Waves = []rollout.Wave{{Share: 0.5}, {Share: 0.2}} }, "not above 0.5"},
		"a wave selects a label that no device has":         {func(p policy) { p.Waves[0].Selector = "lin=L1" }, `no device has the label "lin"; there are class, hardware, line, site`},
		"a wave selects a value that no device has":         {func(p policy) { p.Waves[0].Selector = "line=L9" }, "no device has line=L9; there are L1, L2, L3"},
		"a wave selects a value of nothing":                 {func(p policy) { p.Waves[0].Selector = "line=" }, "label part of 0 bytes"},
		"a wave selects by what changes on the way":         {func(p policy) { p.Waves[0].Selector = "state=ok" }, "changes while a rollout runs"},
		"a wave's shadow and soak outlast its deadline":     {func(p policy) { p.SoakS = 4000 }, "can never pass"},
		"a budget lets too few soak at once for a deadline": {func(p policy) { p.Waves, p.SoakS = []rollout.Wave{{DeadlineS: 3600}}, 1200 }, "wave 1 takes 3660 s at least, and its deadline is 3600 s: of 3 devices of line=L1 the budget lets 1 soak at once, for 1200 s each"},
		"a wave asks for more approvals than approvers":     {func(p policy) { p.Waves[1].Approvals, p.Waves[1].Approvers = 3, []string{"ben", "cleo"} }, "wave 2: it needs 3 approvals and names 2 approvers: ben, cleo"},
		"the author is a wave's only approver":              {func(p policy) { p.Waves[1].Approvals, p.Waves[1].Approvers = 1, []string{"night"} }, "its only approver is night, who proposes the rollout"},
		"the author is one of as many approvers as needed":  {func(p policy) { p.Waves[1].Approvals, p.Waves[1].Approvers = 2, []string{"ben", "user:night"} }, "1 may approve it beside the author: ben"},
		"one approver is named twice":                       {func(p policy) { p.Waves[1].Approvals, p.Waves[1].Approvers = 2, []string{"ben", "user:ben"} }, "1 may approve it beside the author: ben"},
		"the approval gate wants more than the approvers": {func(p policy) {
			p.Waves[0].Approvers, p.Gates = []string{"ben"}, gates(rollout.Gate{Name: rollout.GateApproval, MinN: 2})
		}, "needs 2 people to pass and 1 may approve it"},
		"an approver has no name":              {func(p policy) { p.Waves[0].Approvers = []string{""} }, "none of them empty"},
		"growth does not grow":                 {func(p policy) { p.Growth = &rollout.Growth{First: 1, Factor: 1} }, "factor is 1: it does not grow"},
		"growth begins with nobody":            {func(p policy) { p.Growth = &rollout.Growth{Factor: 2} }, "first is 0"},
		"its growth is capped above the fleet": {func(p policy) { p.Growth = &rollout.Growth{First: 1, Factor: 2, MaxShare: 2} }, "max_share is 2"},

		"a budget allows nothing":                         {func(p policy) { p.Budgets[0] = rollout.Budget{GroupBy: "line"} }, "allows 0 devices"},
		"a budget's group is no larger than minAvailable": {func(p policy) { p.Budgets[0] = rollout.Budget{GroupBy: "line", MinAvailable: 3} }, "wants 3 available devices of line=L1, which has 3"},
		"a budget's share of a group rounds to nobody":    {func(p policy) { p.Budgets[0] = rollout.Budget{GroupBy: "line", MaxUnavailableShare: 0.3} }, "allows no device of line="},
		"a budget groups by a label that no device has":   {func(p policy) { p.Budgets[0].GroupBy = "cell" }, `no device has the label "cell" that a budget groups by; there are class, hardware, line, site`},

		"a window has no name":                      {func(p policy) { p.Windows = []rollout.Window{{From: "22:00"}} }, "window 1 has no name"},
		"two windows have one name":                 {func(p policy) { p.Windows = []rollout.Window{nightly(), nightly()} }, `two windows are named "night"`},
		"a window's zone does not exist":            {func(p policy) { p.Windows = []rollout.Window{{Name: "n", Zone: "Europe/Berlinn"}} }, `window "n": there is no time zone "Europe/Berlinn"`},
		"a window's time does not exist":            {func(p policy) { p.Windows = []rollout.Window{{Name: "n", From: "25:00"}} }, `from is "25:00"`},
		"a window is for a line that no device has": {func(p policy) { p.Windows = []rollout.Window{nightly(), {Name: "n", Selector: "line=L9"}} }, `window 2 (n) selects "line=L9": no device has line=L9; there are L1, L2, L3`},
		"a window that never opens": {func(p policy) {
			p.Windows = []rollout.Window{{Name: "n", Days: []string{"mon"}, Start: "2026-11-03", EveryDays: 7, On: []int{0}}}
		}, "(n) do not open within a year"},
		"its only date is past":                        {func(p policy) { p.Windows = []rollout.Window{{Name: "n", Also: []string{"2026-11-01"}}} }, "(n) do not open within a year"},
		"a line has no window":                         {func(p policy) { w := nightly(); w.Selector = "line=L1|L2"; p.Windows = []rollout.Window{w} }, "no window is for hall-1/pump-00002"},
		"a window is shorter than a lease":             {func(p policy) { p.LeaseS = 7201; p.Windows = []rollout.Window{nightly()} }, "never open for as long as a lease, which takes 7201 s"},
		"the first window is after the first deadline": {func(p policy) { p.Windows = []rollout.Window{{Name: "n", Days: []string{"sat"}}} }, "no device of wave 1 may activate before 2026-11-28 00:00:00"},

		"a gate is misspelt":                              {func(p policy) { p.Gates = gates(rollout.Gate{Name: "sucess"}) }, `unknown gate "sucess": there are success, shadow,`},
		"a gate is named twice":                           {func(p policy) { p.Gates = gates(rollout.Gate{Name: rollout.GateSuccess}) }, "named twice"},
		"no gate counts failures":                         {func(p policy) { p.Gates = []rollout.Gate{{Name: rollout.GateOutput}} }, "name the gate success"},
		"the success gate's bound is out of reach":        {func(p policy) { p.Gates = []rollout.Gate{{Name: rollout.GateSuccess, Alpha: 0.05}} }, "lower bound at 0.95 is 0.368"},
		"the success gate wants more devices than a wave": {func(p policy) { p.Gates = []rollout.Gate{{Name: rollout.GateSuccess, MinN: 4}} }, "has 3 devices and the success gate wants at least 4"},
		"the memory gate wants more devices than a wave":  {func(p policy) { p.Gates = gates(rollout.Gate{Name: rollout.GateMemory, Threshold: ptr(50), MinN: 4}) }, "the memory gate wants at least 4"},
		"the shadow gate's margin is one": {func(p policy) {
			p.Gates = []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateShadow, Threshold: ptr(1)}}
		}, "ratio above 1"},
		"the latency gate has no limit":         {func(p policy) { p.Gates = gates(rollout.Gate{Name: rollout.GateLatency}) }, "threshold in ms"},
		"the memory gate has no limit":          {func(p policy) { p.Gates = gates(rollout.Gate{Name: rollout.GateMemory}) }, "threshold in MiB"},
		"the approval gate has a threshold":     {func(p policy) { p.Gates = gates(rollout.Gate{Name: rollout.GateApproval, Threshold: ptr(1)}) }, "has no threshold"},
		"an expression is wrong at a column":    {func(p policy) { p.Gates = gates(rollout.Gate{Name: rollout.GateExpr, Expr: "drift < 1 && speed > 2"}) }, `gate expr: line 1, column 14: there is no number "speed"`},
		"an expression is missing":              {func(p policy) { p.Gates = gates(rollout.Gate{Name: rollout.GateExpr}) }, "the expression is empty"},
		"an expression belongs to another gate": {func(p policy) { p.Gates = []rollout.Gate{{Name: rollout.GateSuccess, Expr: "drift < 1"}} }, "expr and title belong to the gate expr"},
		"two expressions have one title": {func(p policy) {
			p.Gates = gates(rollout.Gate{Name: rollout.GateExpr, Expr: "drift < 1"}, rollout.Gate{Name: rollout.GateExpr, Expr: "drift < 2"})
		}, `have the title ""`},
		"an expression looks at a shadow that is not there": {func(p policy) {
			p.ShadowS = 0
			p.Gates = gates(rollout.Gate{Name: rollout.GateExpr, Expr: "shadow.ratio < 2"})
		}, "the policy asks for none"},
	} {
		t.Run(name, func(t *testing.T) {
			p := simple()
			tc.change(&p)
			w := newWorld(t, 9, 3, p)
			err := rollout.Validate(w.r, w.devices)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want %q", err, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		change func(w *world)
		want   string
	}{
		"the fleet matches nobody":       {func(w *world) { w.devices = nil }, "matches no device"},
		"no device can take the release": {func(w *world) { w.r.Release.Variants[0].Classes = []artifact.Class{"gearbox"} }, `no variant for class "pump"`},
		"every device's floor is above it": {func(w *world) {
			for i := range w.devices {
				w.devices[i].Floor = 99
			}
		}, "below the device's floor 99"},
		"a device's label names no zone": {func(w *world) { w.devices[4].Labels["zone"] = "Mars"; w.r.Policy.Windows = []rollout.Window{nightly()} }, `window "night" for hall-1/pump-00004: there is no time zone "Mars"`},
		"firmware has no scores that drift": {func(w *world) {
			w.r.Release.Kind = artifact.Firmware
			w.r.Policy.Gates = gates(rollout.Gate{Name: rollout.GateDrift})
		}, "pump-anomaly-2 is firmware"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 9, 3, simple())
			tc.change(w)
			if err := rollout.Validate(w.r, w.devices); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAFleetSelectorWithATypoIsToldWhatThereIs(t *testing.T) {
	devices := newWorld(t, 9, 3, simple()).devices
	for fleet, want := range map[string]string{
		"lin=L1":          `"lin=L1" matches no device: no device has the label "lin"; there are class, hardware, line, site`,
		"line=l1":         "no device has line=l1; there are L1, L2, L3",
		"line=L1,line=L2": "no device matches all of it",
		"line=":           "label part of 0 bytes",
	} {
		if err := rollout.NoFleet(fleet, devices); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", fleet, err, want)
		}
	}
	if err := rollout.NoFleet("", nil); err == nil || !strings.Contains(err.Error(), "no device in service") {
		t.Errorf("an empty hub: %v", err)
	}
}

func TestARolloutIsAcceptedThat(t *testing.T) {
	type policy = *rollout.Policy
	for name, change := range map[string]func(p policy){
		"is simple": func(policy) {},
		"uses every gate": func(p policy) {
			p.Gates = gates(rollout.Gate{Name: rollout.GateLatency, Threshold: ptr(20)}, rollout.Gate{Name: rollout.GateMemory, Threshold: ptr(50)}, rollout.Gate{Name: rollout.GateDrift},
				rollout.Gate{Name: rollout.GateApproval, MinN: 2},
				rollout.Gate{Name: rollout.GateExpr, Title: "oil", Expr: "metrics.oil_celsius.max < 90"}, rollout.Gate{Name: rollout.GateExpr, Title: "loss", Expr: "lost_share < 0.01"})
		},
		"may just finish in time, as canaries are drawn before": func(p policy) { p.Waves[0].Devices, p.Waves[1].DeadlineS, p.SoakS = 2, 1300, 1200 },
		"opens at night": func(p policy) { p.Waves[0].DeadlineS = 7200; p.Windows = []rollout.Window{nightly()} },
		"has windows that meet, which together are as long as a lease": func(p policy) {
			p.LeaseS = 3*3600 - 1
			p.Waves[0].DeadlineS = 86400
			p.Windows = []rollout.Window{{Name: "a", From: "22:00", To: "00:00"}, {Name: "b", From: "00:00", To: "01:00"}}
		},
		"has a window for each line": func(p policy) {
			p.Windows = []rollout.Window{{Name: "a", Selector: "line=L1", From: "22:30"}, {Name: "b", Selector: "line!=L1", Zone: "Europe/Berlin", From: "23:00", To: "23:59"}}
		},
		"waits for a window while people are asked": func(p policy) {
			p.Waves[0].Approvals = 1
			p.Windows = []rollout.Window{{Name: "late", From: "23:45"}}
		},
		"grows":     func(p policy) { p.Waves, p.Growth = nil, &rollout.Growth{First: 1, Factor: 2}; *p = p.Expand(9) },
		"will grow": func(p policy) { p.Growth = &rollout.Growth{First: 1, Factor: 2} },
	} {
		t.Run(name, func(t *testing.T) {
			p := simple()
			change(&p)
			w := newWorld(t, 9, 3, p)
			if err := rollout.Validate(w.r, w.devices); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestWavesGrowUntilTheyHaveReachedEveryDevice(t *testing.T) {
	for name, tc := range map[string]struct {
		waves   []rollout.Wave
		growth  rollout.Growth
		devices int
		want    []int // devices of each wave; 0: all that are left
	}{
		"twice as many each time":           {nil, rollout.Growth{First: 1, Factor: 2}, 20, []int{1, 2, 4, 8, 0}},
		"by half, without fractions":        {nil, rollout.Growth{First: 2, Factor: 1.5}, 20, []int{2, 3, 4, 6, 0}},
		"no more than a tenth":              {nil, rollout.Growth{First: 1, Factor: 10, MaxShare: 0.1}, 50, []int{1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0}},
		"behind waves of the policy":        {[]rollout.Wave{{Devices: 3}, {Share: 0.5}}, rollout.Growth{First: 4, Factor: 2}, 20, []int{3, 0, 4, 0}},
		"a fleet of one":                    {nil, rollout.Growth{First: 5, Factor: 2}, 1, []int{0}},
		"an empty fleet":                    {nil, rollout.Growth{First: 5, Factor: 2}, 0, []int{0}},
		"what does not grow stays as it is": {[]rollout.Wave{{Devices: 3}}, rollout.Growth{First: 5, Factor: 1}, 20, []int{3}},
	} {
		p := rollout.Policy{Waves: tc.waves, Growth: &tc.growth}.Expand(tc.devices)
		var got []int
		for _, w := range p.Waves {
			got = append(got, w.Devices)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: waves of %v devices, want %v", name, got, tc.want)
		}
		if again := p.Expand(1000); len(again.Waves) != len(p.Waves) {
			t.Errorf("%s: it grew again", name)
		}
	}
	slow := rollout.Policy{Growth: &rollout.Growth{First: 1, Factor: 1.0001}}.Expand(1_000_000)
	if len(slow.Waves) != 100 || slow.Waves[99].Devices != 0 {
		t.Errorf("%d waves, the last of %d devices: want 100 and all that are left", len(slow.Waves), slow.Waves[len(slow.Waves)-1].Devices)
	}
}
