package rollout_test

import (
	"fmt"
	"testing"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
)

// BenchmarkDecide decides about a wave on its way over the whole fleet.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			old := rollouttest.Release(1)
			p := simple()
			p.Waves[0].Devices = n / 10
			r := rollout.Admit(rollout.Rollout{Name: "r-2", Release: rollouttest.Release(2), Previous: &old, Policy: p, Created: t0}, nil).Rollout
			s := rollout.Snapshot{Devices: rollouttest.Fleet(n, n/20, &old, t0)}
			d := rollout.Decide(r, s, t0)
			r, s = d.Rollout, rollout.Apply(s, d)
			for b.Loop() {
				rollout.Decide(r, s, t0)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/device")
		})
	}
}
