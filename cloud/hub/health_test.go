package hub

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// hall is a fleet that answers nothing.
type hall []rollout.Device

func (h hall) Devices(context.Context) ([]rollout.Device, error) { return h, nil }

func (h hall) Since(context.Context, uint64) ([]rollout.Device, []topic.ID, uint64, bool, error) {
	return nil, nil, 1, false, nil
}

func (h hall) Publish(context.Context, twin.Desired) error  { return nil }
func (h hall) Append(context.Context, dispatch.Event) error { return nil }

func TestTheGatesOfActiveRolloutsAreMetrics(t *testing.T) {
	now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	old := rollouttest.Release(1)
	fleet := hall(rollouttest.Fleet(6, 2, &old, now))
	d, err := dispatch.New(dispatch.Config{Holder: "a", Store: &dispatch.Memory{}, Fleet: fleet, Publisher: fleet, Ledger: fleet, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	limit := 20.0
	_, err = d.Propose(t.Context(), dispatch.Proposal{
		Name: "r-2", Release: rollouttest.Release(2), Author: "user:ada", Reason: "night",
		Policy: rollout.Policy{
			Name: "p", Waves: []rollout.Wave{{Name: "all"}}, ShadowS: 60,
			Gates: []rollout.Gate{{Name: rollout.GateSuccess}, {Name: rollout.GateShadow}, {Name: rollout.GateLatency, Threshold: &limit}},
		},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(gateMetrics{d})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() == "gate" {
					key += " " + l.GetValue()
				}
			}
			got[key] = m.GetGauge().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"swell_rollout_gate_threshold latency": 20, "swell_rollout_gate_threshold shadow": 1.5, "swell_rollout_gate_result shadow": 0,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v (%t), want %v", key, v, ok, want)
		}
	}
	if v, ok := got["swell_rollout_gate_value latency"]; ok {
		t.Errorf("nobody reported a latency, and the gauge says %v", v)
	}
	if _, ok := got["swell_rollout_gate_e_harm shadow"]; !ok {
		t.Errorf("no e-value: %v", got)
	}
}
