package e2e_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// The ways a machine's sensors behave.
const (
	sound      = iota
	stuckFlow  // one sensor stands still
	garbage    // somebody sends what he likes
	fahrenheit // somebody changed a unit and told nobody
	worn       // the flow lies lower than it did
)

// machine is a seeded source whose sensors can be harmed while it runs.
type machine struct {
	mood *atomic.Int32
	rng  *rand.Rand
	row  uint64
}

const machineHz = 200

func (m *machine) Open(context.Context) error { return nil }
func (m *machine) Close() error               { return nil }
func (m *machine) RateHz() float64            { return machineHz }
func (m *machine) Channels() []source.Channel {
	return []source.Channel{{Name: "current", Unit: "A"}, {Name: "flow", Unit: "l/min"}, {Name: "temperature", Unit: "Cel"}}
}

func (m *machine) Next(ctx context.Context) (source.Rows, error) {
	const batch = 10
	select {
	case <-ctx.Done():
		return source.Rows{}, ctx.Err()
	case <-time.After(batch * time.Second / machineHz):
	}
	r := source.Rows{First: m.row, Values: make([][]float32, 3)}
	now := time.Now().UnixNano()
	for i := range int64(batch) {
		load := math.Sin(float64(m.row)/20) + 0.1*m.rng.NormFloat64()
		v := []float64{2 + load, 70 + 5*load + 0.2*m.rng.NormFloat64(), 90 + m.rng.NormFloat64()}
		switch m.mood.Load() {
		case stuckFlow:
			v[1] = 71.25
		case garbage:
			for k := range v {
				v[k] = 1e6 * m.rng.NormFloat64()
			}
		case fahrenheit:
			v[2] = v[2]*1.8 + 32
		case worn:
			v[1] -= 12
		}
		r.Times = append(r.Times, now-(batch-1-i)*int64(time.Second)/machineHz)
		for k := range v {
			r.Values[k] = append(r.Values[k], float32(v[k]))
		}
		m.row++
	}
	return r, nil
}

// night runs a night to its end and returns what REST says of it.
func (f *factory) night(policy string) apimodel.TrainingRun {
	f.t.Helper()
	started, err := f.hub.API.StartTrainingRunWithResponse(f.t.Context(), nil, apimodel.TrainingRunCreate{Policy: policy})
	if err != nil || started.JSON201 == nil {
		f.t.Fatalf("start a night: %v %s", err, started.Body)
	}
	var run apimodel.TrainingRun
	until(f.t, time.Minute, "the end of run "+started.JSON201.Metadata.Name, func() (bool, error) {
		resp, err := f.hub.API.GetTrainingRunWithResponse(f.t.Context(), started.JSON201.Metadata.Name)
		if err != nil || resp.JSON200 == nil {
			return false, err
		}
		run = *resp.JSON200
		return run.Status.State != apimodel.RunStateQueued && run.Status.State != apimodel.RunStateRunning, nil
	})
	return run
}

// newMill starts a hub and five machines whose sensors can be harmed.
func newMill(t *testing.T, training hub.Training) (*factory, []atomic.Int32) {
	t.Helper()
	ports := freePorts(t, 4)
	f := &factory{t: t, dir: t.TempDir()}
	f.cfg = hub.Config{
		DataDir: filepath.Join(f.dir, "hub"),
		HTTP:    hub.HTTP{Listen: ports[0]}, Devices: hub.Devices{Listen: ports[1]}, Broker: hub.Broker{Listen: ports[2]}, Objects: hub.Objects{Listen: ports[3]},
		Rollouts: hub.Rollouts{Policies: []api.RolloutPolicy{{Policy: guarded()}}},
		Training: training,
	}
	var err error
	if f.hub, err = local.Start(t.Context(), f.cfg, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.hub.Close() })
	moods := make([]atomic.Int32, 5)
	var devices []fleet.Device
	for i := range moods {
		id := topic.ID{Site: "hall-1", Node: fmt.Sprintf("pump-%d", i+1)}
		f.ids = append(f.ids, id)
		devices = append(devices, fleet.Device{ID: id, Class: class, Labels: map[string]string{"line": fmt.Sprintf("l%d", i%2+1)}, Source: func() (source.Source, error) {
			return &machine{mood: &moods[i], rng: rand.New(rand.NewPCG(uint64(i), 7))}, nil
		}})
	}
	f.fleet, err = fleet.Start(t.Context(), fleet.Config{
		Hub: f.hub.Fleet(), Devices: devices, StateDir: filepath.Join(f.dir, "devices"),
		Adjust: func(c *agent.Config) {
			c.HeartbeatS, c.Spool.SyncS = 0.3, 0.05
			c.Telemetry.BlockRows, c.Telemetry.BlockS = 50, 0.2
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.fleet.Close)
	return f, moods
}

// rows waits for n more rows of every device.
func (f *factory) rows(n uint64) {
	f.t.Helper()
	least := map[topic.ID]uint64{}
	for id, r := range f.fleet.Reported() {
		least[id] = r.Stream.Samples + n
	}
	until(f.t, time.Minute, fmt.Sprintf("%d more rows of each device", n), func() (bool, error) {
		now := f.fleet.Reported()
		for _, id := range f.ids {
			if now[id].Stream.Samples < max(least[id], n) {
				return false, f.fleet.Err()
			}
		}
		return true, nil
	})
}

func TestABadNightIsRefusedAndTheChampionRunsOn(t *testing.T) {
	nights := hub.RetrainPolicy{Family: family, LookbackS: 5, Seed: 7, Kinds: []string{"pca"}, MinDetected: 0.01, MaxFlagShare: 0.5}
	good, watch, worse := nights, nights, nights
	good.Name, good.RolloutPolicy, watch.Name, worse.Name = "good", "guarded", "watch", "worse"
	// A threshold far above everything makes a model that finds nothing.
	worse.Fit = func(p *retrain.Policy) { p.Fit.Margin = 1e5 }
	f, moods := newMill(t, hub.Training{Policies: []hub.RetrainPolicy{good, watch, worse}})

	// Last night was a good one: its model acts everywhere.
	f.rows(1000)
	first := f.night("good")
	if first.Status.State != apimodel.RunStateReleased || first.Status.Rollout == nil {
		t.Fatalf("the good night was %s: %v", first.Status.State, first.Status.Refusals)
	}
	if err := f.hub.Promoted(t.Context(), *first.Status.Rollout, func(string) {}); err != nil {
		t.Fatal(err)
	}
	f.running(1)
	swaps := f.swaps()

	// A worse challenger stops at the gate of quality.
	f.rows(600)
	run := f.night("worse")
	said := strings.Join(run.Status.Refusals, "; ")
	if run.Status.State != apimodel.RunStateRefused || !strings.Contains(said, "faults found, against the champion") {
		t.Errorf("a challenger that finds nothing was %s: %s", run.Status.State, said)
	}
	if !slices.ContainsFunc(run.Status.Gates, func(g apimodel.Gate) bool {
		return g.Name == "not-worse" && g.Verdict == apimodel.VerdictFAIL
	}) {
		t.Errorf("gates %+v", run.Status.Gates)
	}
	t.Log(said)

	// One sensor sticks, and one device sends garbage: both are left out.
	moods[1].Store(stuckFlow)
	moods[3].Store(garbage)
	until(t, time.Minute, "both to be left out", func() (bool, error) {
		f.rows(600)
		if run = f.night("watch"); run.Status.Data == nil {
			return false, nil
		}
		var dropped []string
		for _, d := range run.Status.Data.Dropped {
			dropped = append(dropped, d.Reason)
		}
		said = strings.Join(dropped, "; ")
		return strings.Contains(said, "hall-1/pump-2, device: channel flow stands still at 71.25") && strings.Contains(said, "hall-1/pump-4, device: channel current") &&
			strings.Contains(said, "outside the champion's range"), nil
	})
	for _, name := range []string{"stuck", "range"} {
		if !slices.ContainsFunc(*run.Status.Data.Gates, func(g apimodel.Gate) bool {
			return g.Name == name && g.Verdict == apimodel.VerdictFAIL && g.Message != ""
		}) {
			t.Errorf("no gate %s failed: %+v", name, *run.Status.Data.Gates)
		}
	}
	t.Log(said)

	// Somebody changes the unit of all of them: there is no night.
	for i := range moods {
		moods[i].Store(fahrenheit)
	}
	until(t, time.Minute, "the unit to be noticed", func() (bool, error) {
		f.rows(600)
		run = f.night("watch")
		said = strings.Join(run.Status.Refusals, "; ")
		return run.Status.State == apimodel.RunStateRefused && strings.Contains(said, "as if its unit was changed from Cel to [degF]"), nil
	})
	t.Log(said)

	f.running(1)
	if n := f.swaps(); n != swaps {
		t.Errorf("%d changes of the champion", n-swaps)
	}
}
