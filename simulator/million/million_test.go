package million

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	virtual "github.com/swellfleet/swell/simulator/device"
	"github.com/swellfleet/swell/simulator/world"
)

func night(devices int) Config {
	return Config{Devices: devices, Bad: 0.02, Offline: 0.05, Power: 0.0005}
}

func run(t *testing.T, c Config) Result {
	t.Helper()
	r, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestADeviceStaysSmallAndHasNoPointers(t *testing.T) {
	if n := unsafe.Sizeof(device{}); n > 320 {
		t.Errorf("a device has %d bytes", n)
	}
	var pointers func(reflect.Type) bool
	pointers = func(x reflect.Type) bool {
		switch x.Kind() {
		case reflect.Struct:
			for f := range x.Fields() {
				if pointers(f.Type) {
					return true
				}
			}
			return false
		case reflect.Array:
			return pointers(x.Elem())
		}
		return x.Kind() >= reflect.Chan && x.Kind() != reflect.Struct
	}
	if pointers(reflect.TypeFor[device]()) {
		t.Error("the garbage collector would look at every device")
	}
}

func TestAGoodReleaseIsPromotedAndTheHubCountsWhatIsTrue(t *testing.T) {
	r := run(t, night(20_000))
	if r.Rollout.State != rollout.Promoted || len(r.Waves) != 4 {
		t.Fatalf("%s: %s", r.Rollout.State, r.Rollout.Reason)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	bad := r.Counts.Failed
	if share := float64(bad) / 20_000; share < 0.015 || share > 0.03 {
		t.Errorf("%d devices failed, 2 %% are bad", bad)
	}
	if r.Counts.Done+bad != 20_000 || r.PowerCuts == 0 {
		t.Errorf("%+v after %d power cuts", r.Counts, r.PowerCuts)
	}
	// A third of the bad ones crash at load, a third show NaN and a third are slow.
	if r.States[rollout.DeviceRolledBack] < bad/5 || r.States[rollout.DeviceFailed] < bad/2 {
		t.Errorf("%v", r.States)
	}
	if r.DeviceEvents() < 20_000*20 || r.EventsPerCPU() <= 0 {
		t.Errorf("%v events", r.Events)
	}
	var out bytes.Buffer
	r.Print(&out)
	for _, want := range []string{"canary", "quarter", "rolled-back", "are the sum of these, and", "+ planner"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestTheRunIsTheSameInAnyNumberOfShards(t *testing.T) {
	var first Result
	for i, shards := range []int{1, 2, 16, 64} {
		c := night(3000)
		c.Shards, c.Workers, c.Power = shards, 1+i, 0.005
		r := run(t, c)
		if i == 0 {
			first = r
			continue
		}
		if r.Trace != first.Trace || r.Counts != first.Counts || r.Events != first.Events || r.Decisions != first.Decisions || !reflect.DeepEqual(r.Waves, first.Waves) {
			t.Errorf("%d shards: trace %x of %d decisions, %+v; one shard: %x of %d, %+v", shards, r.Trace, r.Decisions, r.Counts, first.Trace, first.Decisions, first.Counts)
		}
	}
	c := night(3000)
	c.Seed, c.Power = 2, 0.005
	if r := run(t, c); r.Trace == first.Trace {
		t.Error("another seed is the same run")
	}
}

func TestBadReleasesAreStoppedInTheFirstWave(t *testing.T) {
	for _, b := range Bad {
		c := night(5000)
		c.Bad, c.Release = 0, b.Release
		r := run(t, c)
		if r.Rollout.State != rollout.Failed || len(r.Waves) != 1 || r.Stopped == 0 {
			t.Errorf("%s: %s in wave %d: %s", b.Name, r.Rollout.State, len(r.Waves), r.Rollout.Reason)
		}
		if r.Harmed > r.Waves[0].Devices {
			t.Errorf("%s: %d devices harmed, the first wave has %d", b.Name, r.Harmed, r.Waves[0].Devices)
		}
		if b.Release.Flags > 1 && r.Harmed*200 > r.Devices {
			t.Errorf("%s: %d of %d devices harmed", b.Name, r.Harmed, r.Devices)
		}
		if err := r.Check(); err != nil {
			t.Errorf("%s: %v", b.Name, err)
		}
	}
	var out bytes.Buffer
	if err := Harm(night(1000), &out); err != nil || strings.Count(out.String(), "1 of 4") != len(Bad) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestAWatchedDeviceLivesTheLifeOfItsMachine(t *testing.T) {
	lines := map[string]int{}
	for i := range 12 {
		c := night(120) // the first wave is nearly all
		c.Bad, c.Offline, c.Power, c.Seed, c.Watch = 0, 0.15, 0.01, uint64(i+1), 1+i*7
		if i >= 6 {
			c.Release = Bad[i%len(Bad)].Release
		}
		c.Life = func(line string) {
			for _, w := range strings.Fields(line) {
				lines[w]++
			}
		}
		if r := run(t, c); r.Watched == 0 {
			t.Errorf("seed %d: nothing was compared", i+1)
		}
	}
	for _, want := range []string{"Offered", "Booted", "shadowing", "soaking", "confirmed", "failed"} {
		if lines[want] == 0 {
			t.Errorf("no life came to %q", want)
		}
	}
}

// What the hub learns directly is what it would have learned from documents.
func TestFactsAreWhatFoldMakesOfTheDocument(t *testing.T) {
	c := night(800)
	c.Offline, c.Power, c.Spell = 0.05, 0.003, 30*time.Minute
	s, err := newSim(c)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHub(s)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkers(s)
	defer w.stop()
	var clock cpu
	facts, windows, missed := 0, 0, 0
	for n := range 6 * 60 * 4 {
		w.run(n)
		at := time.Duration(n+1) * s.Window
		now := world.Start.Add(at)
		for _, sh := range s.shards {
			for i := range sh.dirty {
				for b := sh.dirty[i] | sh.lost[i]; b != 0; b &= b - 1 {
					k := i<<6 | bits.TrailingZeros64(b)
					id := h.topicID(sh.first + k)
					before, _ := h.roster.Device(id)
					before.Labels = nil // Fold takes the reported ones
					got, ok := h.fold(sh, k, now)
					if !ok {
						continue
					}
					doc := twin.Reported{Site: id.Site, Node: id.Node, Offline: true}
					if d := &sh.devices[k]; d.on && d.online {
						doc = h.reported(sh, k, s.table.Brief(&d.Packed))
					} else {
						got.Labels = nil
					}
					want := rollout.Fold(before, doc, now)
					if !reflect.DeepEqual(got, want) {
						t.Fatalf("at %s the facts about %s are\n%+v\nand Fold makes\n%+v", at, id, got, want)
					}
					facts++
					windows = max(windows, int(got.Evidence.Windows))
					missed += int(got.Evidence.Missed)
				}
			}
		}
		h.exchange(at, &clock)
	}
	if facts < 5000 || windows < 10 {
		t.Errorf("%d facts, at most %d counting windows, %d missed: the test shows nothing", facts, windows, missed)
	}
}

func TestTheWheelTurnsUpEveryDeviceInItsWindow(t *testing.T) {
	const n = 500
	rng := rand.New(rand.NewPCG(1, 2))
	w := newWheel(n)
	due := make([]int, n)
	for i := range due {
		due[i] = rng.IntN(3 * slots)
		w.put(int32(i), due[i])
	}
	for at := range 3*slots + 1 {
		seen := map[int32]bool{}
		for i := w.take(at); i >= 0; {
			next := w.links[i].next
			if seen[i] {
				t.Fatalf("device %d twice in window %d", i, at)
			}
			seen[i] = true
			switch {
			case due[i] == at:
				due[i] = at + 1 + rng.IntN(slots)
			case due[i] < at:
				t.Fatalf("device %d was due in window %d and comes in %d", i, due[i], at)
			}
			w.put(i, due[i])
			i = next
		}
		for i := range due {
			if due[i] == at {
				t.Fatalf("device %d did not come in window %d", i, at)
			}
		}
		i := int32(rng.IntN(n)) // a document moves a device
		w.remove(i)
		due[i] = at + 1 + rng.IntN(50)
		w.put(i, due[i])
	}
}

func TestDrawsFollowTheirDistribution(t *testing.T) {
	var sum, sum2 float64
	const n, mean = 20000, 0.6
	for i := range uint32(n) {
		x := float64(poisson(unit(draw(1, 2, 3, i)), mean))
		sum, sum2 = sum+x, sum2+x*x
	}
	m := sum / n
	if v := sum2/n - m*m; m < 0.57 || m > 0.63 || v < 0.55 || v > 0.65 {
		t.Errorf("mean %g, variance %g", m, v)
	}
	if draw(1, 2, 3, 4) == draw(1, 2, 3, 5) || draw(1, 2, 3, 4) == draw(1, 3, 2, 4) || draw(1, 2, 3, 4) == draw(2, 1, 3, 4) {
		t.Error("draws are not told apart")
	}
}

func TestFleetsThatCannotBeAreRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"no devices":      {Devices: -1},
		"no window":       {Devices: 10, Window: time.Microsecond},
		"a strange watch": {Devices: 10, Watch: 11},
		"always away":     {Devices: 10, Offline: 1},
		"more than all":   {Devices: 10, Bad: 2},
	} {
		if _, err := Run(c); err == nil || !strings.Contains(err.Error(), "cannot simulate that fleet") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The same documents and the same nature of the release lead a packed device
// and a device of the scenario engine through the same phases to the same end.
func TestPackedAndScenarioDeviceEndAlike(t *testing.T) {
	for _, c := range []struct {
		name   string
		packed Nature
		other  virtual.Release
	}{
		{"sound", Nature{}, virtual.Release{}},
		{"crashes at load", Nature{CrashAtLoad: true}, virtual.Release{CrashAtLoad: true}},
		{"NaN in the soak", Nature{NonFinite: 90 * time.Second}, virtual.Release{NonFinite: 90 * time.Second}},
		{"too slow", Nature{LatencyMs: 400}, virtual.Release{LatencyMs: 400}},
	} {
		t.Run(c.name, func(t *testing.T) {
			packed, a := packedLife(t, c.packed)
			other, b := scenarioLife(t, c.other)
			if !slices.Equal(packed, other) {
				t.Errorf("packed went through\n%v, the other through\n%v", packed, other)
			}
			if a != b {
				t.Errorf("packed ended %+v, the other %+v", a, b)
			}
		})
	}
}

// end is what has to be equal of two lives whose actions take other times.
type end struct {
	champion, lastGood, trial artifact.Digest
	phase                     twin.Phase
	code                      twin.Code
	attempts                  int
	generation                uint64
	lease                     string
	quarantined               bool
}

const (
	offerAt = time.Minute
	leaseAt = 20 * time.Minute
	lifeEnd = time.Hour
)

// documents are the two that a life gets.
func documents() [2]twin.Desired {
	rel := release(challenger)
	doc := func(generation uint64, at time.Duration) twin.Desired {
		now := world.Start.Add(at)
		return twin.Desired{
			Schema: 1, Site: "s", Node: "d0000000", Generation: generation, IssuedAt: now, ExpiresAt: now.Add(48 * time.Hour),
			Model: &twin.Assignment{
				Rollout: "r-2", Name: rel.Name, Counter: rel.Counter, Manifest: rel.Manifest, Mode: twin.ModeTrial, Deadline: world.Start.Add(24 * time.Hour),
				ShadowS: 600, ShadowWindowS: 60, SoakS: 300, MinWindows: 200,
			},
		}
	}
	offer, lease := doc(1, offerAt), doc(2, leaseAt)
	lease.Lease = &twin.Lease{ID: "r-2/release/1", Manifest: rel.Manifest, ExpiresAt: world.Start.Add(leaseAt + 10*time.Minute)}
	return [2]twin.Desired{offer, lease}
}

func packedLife(t *testing.T, n Nature) (phases []twin.Phase, e end) {
	t.Helper()
	s, err := newSim(Config{Devices: 1, Release: n})
	if err != nil {
		t.Fatal(err)
	}
	sh := s.shards[0]
	d := &sh.devices[0]
	docs := documents()
	for _, doc := range docs {
		s.table.Offers = append(s.table.Offers, *doc.Model)
		flat := update.Document{IssuedMs: doc.IssuedAt.UnixMilli(), ExpiresMs: doc.ExpiresAt.UnixMilli(), Want: uint32(len(s.table.Offers))}
		if l := doc.Lease; l != nil {
			s.table.Leases = append(s.table.Leases, update.Lease{ID: l.ID, Manifest: l.Manifest, ExpiresMs: l.ExpiresAt.UnixMilli()})
			flat.Lease = uint32(len(s.table.Leases))
		}
		s.documents = append(s.documents, flat)
	}
	sh.twin = newDouble(sh, 0)
	saw := func(p twin.Phase) {
		if p != twin.PhaseNone && (len(phases) == 0 || phases[len(phases)-1] != p) {
			phases = append(phases, p)
		}
	}
	s.Life = func(string) { saw(d.Phase()) }
	for n := range int(lifeEnd / s.Window) {
		for i, at := range []time.Duration{offerAt, leaseAt} {
			if time.Duration(n)*s.Window == at {
				d.generation, d.document = uint32(i+1), uint32(i+1)
				sh.wheel.remove(0)
				d.due[dueDoc] = uint32(n) * s.windowMs
				sh.wheel.put(0, n)
			}
		}
		sh.run(n)
	}
	if sh.twin.err != nil {
		t.Fatal(sh.twin.err)
	}
	b := s.table.Brief(&d.Packed)
	return phases, end{b.Champion.Manifest, b.LastGood.Manifest, b.Trial.Manifest, b.Phase, b.Code, b.Attempts, b.Generation, b.Lease, d.Quarantined(challenger)}
}

func scenarioLife(t *testing.T, nature virtual.Release) (phases []twin.Phase, e end) {
	t.Helper()
	w := world.New(1, time.Time{})
	var releases [2]virtual.Release
	for i := range releases {
		n := uint64(i + 1)
		if n == challenger {
			releases[i] = nature
		}
		releases[i].Release = local(release(n))
		releases[i].Head, releases[i].Body = fmt.Append(nil, "manifest", n), fmt.Append(nil, "model", n)
	}
	around := &virtual.World{
		World: w,
		Release: func(m artifact.Digest, _ *virtual.Device) (virtual.Release, bool) {
			i := slices.IndexFunc(releases[:], func(r virtual.Release) bool { return r.Manifest == m })
			return releases[max(i, 0)], i >= 0
		},
		Send:   func(*virtual.Device, twin.Reported) {},
		Online: func(*virtual.Device) bool { return true },
		Fault:  func(_ *virtual.Device, what string) { t.Error(what) },
		Saved: func(d *virtual.Device, _ *update.Journal) {
			if p := d.Phase(); p != twin.PhaseNone && (len(phases) == 0 || phases[len(phases)-1] != p) {
				phases = append(phases, p)
			}
		},
	}
	d := virtual.New(around, virtual.Config{ID: topic.ID{Site: "s", Node: "d0000000"}, Class: class, Champion: &releases[0]})
	w.In(0, d.Power)
	docs := documents()
	for i, at := range []time.Duration{offerAt, leaseAt} {
		w.In(at, func() { d.Desired(docs[i]) })
	}
	w.Run(lifeEnd, nil)
	st := d.Status()
	return phases, end{
		st.Champion.Manifest, st.LastGood.Manifest, st.Trial.Manifest, st.Trial.Phase, st.Trial.Code, st.Trial.Attempts, st.Generation, st.Trial.Lease,
		slices.Contains(st.Quarantined, releases[1].Manifest),
	}
}
