package rollout_test

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/twin"
)

// midWave is a fleet of n devices on lines of 20, with three kinds of hardware,
// in the middle of the third of four waves: two tenths are done, three tenths
// are on their way in every phase, with what their shadows have counted, the
// rest wait. One in twenty is out of reach, one in fifty failed.
func midWave(n int) (rollout.Rollout, rollout.Snapshot, time.Time) {
	old := rollouttest.Release(1)
	now := t0.Add(6 * time.Hour)
	p := rollout.Policy{
		Name: "bench", ShadowS: 3600, SoakS: 1800, Retries: 2,
		Waves:   []rollout.Wave{{Name: "canary", Share: 0.05}, {Name: "some", Share: 0.2}, {Name: "half", Share: 0.5}, {Name: "rest"}},
		Budgets: []rollout.Budget{{GroupBy: "line", MaxUnavailable: 2}, {GroupBy: "hardware", MaxUnavailableShare: 0.1}},
		Gates: []rollout.Gate{
			{Name: rollout.GateSuccess, Threshold: ptr(0.9)}, {Name: rollout.GateShadow, Threshold: ptr(3)}, {Name: rollout.GateNonFinite},
			{Name: rollout.GateOutput, Threshold: ptr(0.1)}, {Name: rollout.GateLatency, Threshold: ptr(50)},
		},
	}
	r := rollout.Admit(rollout.Rollout{Name: "r-2", Release: rollouttest.Release(2), Previous: &old, Policy: p, Seed: 7, Created: t0}, nil).Rollout
	began := t0.Add(5 * time.Hour)
	passed := rollout.WaveTimes{Asked: t0, Started: t0, Cleared: t0, Passed: began}
	r.Wave, r.Waves = 2, []rollout.WaveTimes{passed, passed, {Asked: began, Started: began, Cleared: began.Add(time.Hour), Size: n * 3 / 10}}
	s := rollout.Snapshot{Devices: rollouttest.Fleet(n, max(n/20, 1), &old, now)}
	for i := range s.Devices {
		d := &s.Devices[i]
		k := i * 7919 % 1000 // a number that has nothing to do with the line
		d.SeenAt = now.Add(-time.Duration(k*60) * time.Millisecond)
		d.Labels["hardware"] = "v" + strconv.Itoa(i/20%3+1)
		d.WindowsScored = 1000
		if k%20 == 0 {
			d.Connected, d.SeenAt = false, now.Add(-time.Hour)
		}
		wave, phase := 0, twin.PhaseNone
		switch {
		case k < 50:
			wave, phase = 1, twin.PhaseConfirmed
		case k < 200:
			wave, phase = 2, twin.PhaseConfirmed
		case k < 500:
			wave = 3
			phase = []twin.Phase{twin.PhaseNone, twin.PhaseFetching, twin.PhaseShadowing, twin.PhaseShadowing, twin.PhaseReady, twin.PhaseReady, twin.PhaseSoaking, twin.PhaseConfirmed, twin.PhaseConfirmed, twin.PhaseConfirmed}[k/2%10]
			if k%50 == 7 {
				phase = twin.PhaseFailed
			}
		}
		if wave == 0 {
			continue
		}
		d.Record = rollout.Record{Wave: wave, Offer: rollout.OfferRelease, OfferedAt: began, Deadline: began.Add(24 * time.Hour), Paired: true, ScoredBefore: 400}
		if phase == twin.PhaseNone {
			continue
		}
		d.Trial = rollout.Trial{Rollout: r.Name, Manifest: r.Release.Manifest, Mode: twin.ModeTrial, Phase: phase, Shadowed: 360, LatencyP99Ms: float64(i*31%1000) / 100}
		for w := range 5 + k%10 {
			d.Evidence.Manifest, d.Evidence.Epoch = r.Release.Manifest, "boot-1/0/1"
			d.Evidence.Count(twin.ShadowWindow{OnlyChallenger: uint32((k + w) % 3), OnlyChampion: uint32((k+w)%4 + 1), Items: 60})
			d.Evidence.Next++
		}
		switch phase {
		case twin.PhaseSoaking:
			d.Record.Lease, d.Record.LeaseUntil = 1, now.Add(5*time.Minute)
			d.Champion = rollouttest.Running(r.Release)
		case twin.PhaseConfirmed:
			d.Champion = rollouttest.Running(r.Release)
		case twin.PhaseFailed:
			d.Trial.Code = twin.CodeGolden
		}
	}
	d := rollout.Decide(r, s, now)
	return d.Rollout, rollout.Apply(s, d), now
}

// BenchmarkDecide decides about a wave on its way over the whole fleet.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, s, now := midWave(n)
			for b.Loop() {
				rollout.Decide(r, s, now)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/device")
		})
	}
}

// reports is one device after another that tells something new.
func report(d *rollout.Device, now time.Time) {
	d.SeenAt = now
	d.WindowsScored++
	if d.Trial.Phase == twin.PhaseShadowing || d.Trial.Phase == twin.PhaseReady {
		d.Trial.Shadowed += 60
		d.Evidence.Bins = slices.Clone(d.Evidence.Bins)
		d.Evidence.Count(twin.ShadowWindow{OnlyChampion: 1, Items: 60})
	}
}

// BenchmarkRedecide decides again after one device's report.
func BenchmarkRedecide(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, s, now := midWave(n)
			f := rollout.NewRoster(r, s)
			r = f.Decide(r, now).Rollout
			for i := 0; b.Loop(); i++ {
				now = now.Add(time.Millisecond)
				d := s.Devices[i*7919%n]
				report(&d, now)
				f.Put(d)
				r = f.Decide(r, now).Rollout
			}
		})
	}
}

// TestRolloutFigures prints what a decision costs by the size of the fleet:
// `make bench-rollout`.
func TestRolloutFigures(t *testing.T) {
	if os.Getenv("SWELL_BENCH") == "" {
		t.Skip("measures for half a minute: make bench-rollout")
	}
	const runs = 7
	full, again := map[string]float64{}, map[string]float64{}
	fmt.Printf("%12s %18s %20s %10s %16s\n", "devices", "full, ns/device", "one report, ns", "ratio", "roster, MiB")
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		r, s, now := midWave(n)
		once := median(runs, func() float64 {
			k := max(200_000/n, 1)
			runtime.GC()
			start := cpu()
			for range k {
				rollout.Decide(r, s, now)
			}
			return float64(cpu()-start) / float64(k)
		})
		before := heap()
		f := rollout.NewRoster(r, s)
		r = f.Decide(r, now).Rollout
		f.Put(s.Devices[0])
		used := heap() - before
		i := 0
		each := median(runs, func() float64 {
			const k = 2_000
			runtime.GC()
			start := cpu()
			for range k {
				i++
				now = now.Add(time.Millisecond)
				d := s.Devices[i*7919%n]
				report(&d, now)
				f.Put(d)
				r = f.Decide(r, now).Rollout
			}
			return float64(cpu()-start) / k
		})
		if r.State != rollout.Running {
			t.Fatalf("%d devices: it is %s: %s", n, r.State, r.Reason)
		}
		runtime.KeepAlive(f)
		full[strconv.Itoa(n)], again[strconv.Itoa(n)] = float64(int(once/float64(n))), float64(int(each))
		fmt.Printf("%12d %18.0f %20.0f %9.0f× %16.1f\n", n, once/float64(n), each, once/each, used/(1<<20))
	}
	b, err := json.Marshal(map[string]any{"ns_per_device": full, "incremental_ns": again})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(b))
}

// median measures several times.
func median(runs int, measure func() float64) float64 {
	out := make([]float64, runs)
	for i := range out {
		out[i] = measure()
	}
	slices.Sort(out)
	return out[runs/2]
}

// cpu is the processor time that this process has used, on all of its threads:
// a decision is charged for the garbage it makes, and not for what others do on
// the machine.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// heap returns the bytes in use once the garbage is gone.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
