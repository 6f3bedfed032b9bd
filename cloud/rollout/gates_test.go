package rollout_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// with says what devices report beside their phases, once their trial runs.
func (w *world) with(report func(i int, d *rollout.Device)) {
	for i := range w.devices {
		report(i, &w.devices[i])
	}
}

func TestAGateJudgesWhatDevicesReport(t *testing.T) {
	drift := func(v float64) *float64 { return &v }
	for name, tc := range map[string]struct {
		gate   rollout.Gate
		report func(i int, d *rollout.Device) // from the shadow on
		want   rollout.Result
		reason string
	}{
		"memory grows within the limit": {
			rollout.Gate{Name: rollout.GateMemory, Threshold: ptr(50)}, func(_ int, d *rollout.Device) { d.MemoryMiB = 130 },
			rollout.Pass, "the worst of 3 devices has a growth of memory since the offer of 30 MiB, allowed are 50 MiB",
		},
		"memory grows on one device": {
			rollout.Gate{Name: rollout.GateMemory, Threshold: ptr(50)}, func(_ int, d *rollout.Device) {
				d.MemoryMiB = 120
				if d.Labels["line"] == "L2" {
					d.MemoryMiB = 200
				}
			},
			rollout.Fail, "growth of memory since the offer of 100 MiB, allowed are 50 MiB",
		},
		"memory is not reported": {
			rollout.Gate{Name: rollout.GateMemory, Threshold: ptr(50)}, func(_ int, d *rollout.Device) { d.MemoryMiB = 0 },
			rollout.Inconclusive, "no device has reported its memory",
		},
		"scores are as they were when it was calibrated": {
			rollout.Gate{Name: rollout.GateDrift}, func(_ int, d *rollout.Device) { d.Trial.Drift = drift(0.1) },
			rollout.Pass, "drift of scores of 0.1 PSI, allowed are 0.25 PSI",
		},
		"scores drift on one device": {
			rollout.Gate{Name: rollout.GateDrift}, func(i int, d *rollout.Device) { d.Trial.Drift = drift(0.1 + float64(i%3)) },
			rollout.Fail, "the worst of 3 devices has a drift of scores of",
		},
		"the model has no deciles to compare with": {
			rollout.Gate{Name: rollout.GateDrift}, func(int, *rollout.Device) {}, rollout.Inconclusive, "no device has reported yet how far",
		},
		"too few devices say how much they drift": {
			rollout.Gate{Name: rollout.GateDrift, MinN: 3}, func(i int, d *rollout.Device) {
				if d.Labels["line"] == "L1" {
					d.Trial.Drift = drift(0.1)
				}
			}, rollout.Inconclusive, "1 of at least 3 devices",
		},
		"a metric holds": {
			rollout.Gate{Name: rollout.GateExpr, Title: "oil", Expr: "metrics.oil_celsius.max < 80 && metrics.oil_celsius.devices >= 3"},
			func(i int, d *rollout.Device) { d.Metrics = map[string]float64{"oil_celsius": 60 + float64(i)} }, rollout.Pass,
			"holds: metrics.oil_celsius.max < 80 && metrics.oil_celsius.devices >= 3, on 3 devices: metrics.oil_celsius.devices is 3, metrics.oil_celsius.max is",
		},
		"a metric does not hold on the mean": {
			rollout.Gate{Name: rollout.GateExpr, Title: "oil", Expr: "metrics.oil_celsius.mean < 50"},
			func(_ int, d *rollout.Device) { d.Metrics = map[string]float64{"oil_celsius": 60} }, rollout.Fail,
			"does not hold: metrics.oil_celsius.mean < 50, on 3 devices: metrics.oil_celsius.mean is 60",
		},
		"a metric that nobody reports": {
			rollout.Gate{Name: rollout.GateExpr, Title: "oil", Expr: "metrics.oil_bar.max < 80 || latency_p99_ms < 1000"},
			func(_ int, d *rollout.Device) { d.Metrics = map[string]float64{"oil_celsius": 60} }, rollout.Inconclusive,
			"no device has reported latency_p99_ms, metrics.oil_bar.max yet",
		},
		"counts of the shadow": {
			rollout.Gate{Name: rollout.GateExpr, Title: "flags", Expr: "shadow.items > 100 && shadow.only_challenger / shadow.items < 0.01"},
			func(int, *rollout.Device) {}, rollout.Pass, "shadow.only_challenger is 0",
		},
		"a ratio without a denominator": {
			rollout.Gate{Name: rollout.GateExpr, Title: "flags", Expr: "shadow.ratio < 2"}, func(int, *rollout.Device) {}, rollout.Inconclusive, "no device has reported shadow.ratio",
		},
		"failures of the wave": {
			rollout.Gate{Name: rollout.GateExpr, Title: "all", Expr: "wave.failed == 0 && lost_share == 0"}, func(int, *rollout.Device) {}, rollout.Pass, "wave.failed is 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := simple()
			p.Gates = gates(tc.gate)
			p.Waves[0].DeadlineS = 1200
			w := newWorld(t, 9, 3, p)
			w.with(func(_ int, d *rollout.Device) { d.MemoryMiB = 100 })
			var first *rollout.Verdict // of the first wave, as it was left
			w.run(func() bool {
				w.with(func(i int, d *rollout.Device) {
					if d.Trial.Shadowed > 0 {
						tc.report(i, d)
					}
				})
				if len(w.r.Waves) > 0 {
					v := verdictOf(t, w.r.Waves[0].Gates, tc.gate.Name)
					first = &v
				}
				return w.r.Wave > 0 || w.r.State == rollout.RollingBack
			})
			if first == nil || first.Result != tc.want || !strings.Contains(first.Reason, tc.reason) || first.Title != tc.gate.Title {
				t.Fatalf("verdict %+v, want %s: %s", first, tc.want, tc.reason)
			}
			if passed := w.r.Wave > 0; passed != (tc.want == rollout.Pass) {
				t.Fatalf("the wave passed: %v; %s", passed, w.r.Reason)
			}
		})
	}
}

func TestSeveralExpressionsEachHoldTheWave(t *testing.T) {
	p := simple()
	p.Gates = gates(
		rollout.Gate{Name: rollout.GateExpr, Title: "cool", Expr: "metrics.oil_celsius.max < 80"},
		rollout.Gate{Name: rollout.GateExpr, Title: "full", Expr: "metrics.oil_litres.min > 2"})
	w := newWorld(t, 9, 3, p)
	w.with(func(_ int, d *rollout.Device) { d.Metrics = map[string]float64{"oil_celsius": 60} })
	n := 0
	w.run(func() bool { n++; return n > 20 })
	w.want(rollout.Held)
	if w.r.Wave != 0 || !strings.Contains(w.r.Reason, "metrics.oil_litres.min") || strings.Contains(w.r.Reason, "oil_celsius") {
		t.Fatalf("wave %d: %s", w.r.Wave+1, w.r.Reason)
	}
	w.with(func(_ int, d *rollout.Device) {
		d.Metrics = maps.Clone(d.Metrics)
		d.Metrics["oil_litres"] = 3
	})
	w.run(nil)
	w.want(rollout.Promoted)
}

func TestReportsAreFoldedIntoWhatGatesAsk(t *testing.T) {
	v := func(v float64) *float64 { return &v }
	m := artifact.Of([]byte("m"))
	r := twin.Reported{
		Site: "hall-1", Node: "pump-1", Agent: twin.Agent{RSSMiB: 120}, Metrics: map[string]float64{"load_1m": 0.5},
		Trial:    &twin.Trial{Rollout: "r-2", Manifest: m, Mode: twin.ModeTrial, Shadow: &twin.Shadow{Drift: v(0.1)}},
		Champion: &twin.Running{Manifest: artifact.Of([]byte("old")), Drift: v(3)},
	}
	d := rollout.Fold(rollout.Device{}, r, t0)
	if d.MemoryMiB != 120 || d.Metrics["load_1m"] != 0.5 || d.Trial.Drift == nil || *d.Trial.Drift != 0.1 {
		t.Fatalf("%+v", d)
	}
	r.Champion = &twin.Running{Manifest: m, Drift: v(0.4)} // it acts now
	if d = rollout.Fold(d, r, t0.Add(time.Minute)); *d.Trial.Drift != 0.4 {
		t.Fatalf("drift %g, want the worse of shadow and soak", *d.Trial.Drift)
	}
}

func TestDevicesActivateWhileTheirWindowIsOpen(t *testing.T) {
	p := simple()
	p.Waves[0].DeadlineS, p.Waves[1].DeadlineS = 86400, 86400
	p.Windows = []rollout.Window{
		{Name: "nights", Selector: "line=L1|L2", From: "23:00", To: "01:00"},
		{Name: "line 3", Selector: "line=L3", Zone: "Europe/Berlin", From: "01:00", To: "02:00"}, // 00:00 to 01:00 UTC
	}
	w := newWorld(t, 9, 3, p)
	if err := rollout.Validate(w.r, w.devices); err != nil {
		t.Fatal(err)
	}
	held := false
	w.run(func() bool {
		held = held || w.r.State == rollout.Held && strings.Contains(w.r.Reason, "its window opens at 2026-11-22 23:00:00")
		for _, d := range w.devices {
			if d.Record.Lease == 0 || d.Record.LeaseUntil.IsZero() {
				continue
			}
			from, to := d.Record.LeaseUntil.Add(-120*time.Second), d.Record.LeaseUntil
			opens, closes := t0.Add(time.Hour), t0.Add(3*time.Hour)
			if d.Labels["line"] == "L3" {
				opens = t0.Add(2 * time.Hour)
			}
			if day := 24 * time.Hour; from.After(t0.Add(day)) {
				opens, closes = opens.Add(day), closes.Add(day)
			}
			if from.Before(opens) || to.After(closes) {
				t.Fatalf("%s on %s has a lease from %s to %s", d.ID, d.Labels["line"], from, to)
			}
		}
		return false
	})
	w.want(rollout.Promoted)
	if !held {
		t.Error("it never said what it waits for")
	}
}

func TestADeviceWithoutAWindowNeverActivatesAndGoesBackThroughNone(t *testing.T) {
	p := simple()
	p.Windows = []rollout.Window{{Name: "all but L3", Selector: "line!=L3", From: "22:00", To: "23:00"}}
	p.Waves[0].DeadlineS = 10800
	w := newWorld(t, 9, 3, p)
	w.run(nil)
	w.want(rollout.Failed) // the canary of line 3 waits until the deadline; the others go back outside of the window
	for _, d := range w.devices {
		if d.Labels["line"] == "L3" && d.Record.Lease > 0 {
			t.Errorf("%s was given a lease", d.ID)
		}
	}
	if w.running() != 0 || !w.r.Ended.After(t0.Add(time.Hour)) {
		t.Errorf("%d devices run it, ended at %s", w.running(), w.r.Ended)
	}
}

// The soak of the canaries was sound; what they score later is not.
func TestScoresThatTurnBadAfterTheirWavePassedStillStopTheRollout(t *testing.T) {
	w := newWorld(t, 24, 3, simple())
	w.run(func() bool { return w.r.Wave == 1 && w.running() > 3 })
	for i := range w.devices {
		if d := &w.devices[i]; d.Record.Wave == 1 {
			d.Champion.Windows, d.Champion.NonFinite = 5000, 40
			break
		}
	}
	w.run(nil)
	w.want(rollout.Failed)
	if !strings.Contains(w.r.Reason, "over all waves so far: non-finite gate: 40 of") {
		t.Errorf("the reason is %q", w.r.Reason)
	}
	if n := w.running(); n > 0 {
		t.Errorf("%d devices still run it", n)
	}
}
