package rollout

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/topic"
)

func TestAPeakKnowsTheLargestOrSaysThatItHasToBeCountedAnew(t *testing.T) {
	recounts, reads := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var p peak
		var all []float64
		for range 3000 {
			if k := rng.IntN(len(all) + 100); k < len(all) {
				p.count(all[k], -1)
				all = slices.Delete(all, k, k+1)
			} else {
				x := float64(rng.IntN(400) - 200)
				p.count(x, 1)
				all = append(all, x)
			}
			got, known := p.most()
			reads++
			if !known {
				recounts++
				p = peak{}
				for _, x := range all {
					p.count(x, 1)
				}
				got, _ = p.most()
			}
			want := 0.0
			if len(all) > 0 {
				want = slices.Max(all)
			}
			if got != want {
				t.Fatalf("the largest of %d is %g, want %g", len(all), got, want)
			}
		}
	})
	if recounts*100 > reads {
		t.Fatalf("counted anew %d times in %d", recounts, reads)
	}
}

func TestAnExactSumDoesNotDependOnTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		xs := rapid.SliceOfN(rapid.Float64Range(-1e15, 1e15), 1, 50).Draw(t, "numbers")
		var e exact
		want := new(big.Int)
		for _, x := range xs {
			e.add(x, 1)
			k := int64(math.Round(max(min(x, 1<<42), -(1<<42)) * (1 << 20)))
			want.Add(want, big.NewInt(k))
		}
		f, _ := new(big.Float).SetInt(want).Float64()
		if got := e.value(); math.Abs(got-f/(1<<20)) > 1e-9*math.Abs(got) {
			t.Fatalf("the sum is %g, want %g", got, f/(1<<20))
		}
		rand.New(rand.NewPCG(1, 1)).Shuffle(len(xs), func(i, j int) { xs[i], xs[j] = xs[j], xs[i] })
		for _, x := range xs {
			e.add(x, -1)
		}
		if e != (exact{}) {
			t.Fatalf("%+v is left", e)
		}
	})
}

func TestMomentsComeInOrderHoweverOftenTheyArePutOff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		const n = 40
		var m moments
		m.grow(n)
		until := make([]int64, n)
		for i := range until {
			until[i] = never
		}
		for range 2000 {
			i := rng.IntN(n)
			until[i] = int64(rng.IntN(1000))
			if rng.IntN(5) == 0 {
				until[i] = never
			}
			m.set(int32(i), until[i])
			slot, ok := m.first(func(s int32) int64 { return until[s] })
			if want := slices.Min(until); ok != (want != never) || ok && until[slot] != want {
				t.Fatalf("the first is %d at %d, want %d", slot, until[slot], want)
			}
		}
	})
}

func TestARosterFindsTheDevicesThatAreInIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		f := NewRoster(Rollout{}, Snapshot{})
		here := map[topic.ID]uint64{}
		for i := range uint64(1000) {
			id := topic.ID{Site: "s", Node: string(rune('a' + rng.IntN(200)))}
			if rng.IntN(2) == 0 {
				f.Put(Device{ID: id, Generation: i})
				here[id] = i
			} else {
				f.Remove(id)
				delete(here, id)
			}
			if rng.IntN(50) == 0 {
				f.Decide(Rollout{State: Queued}, f.now)
			}
			if d, ok := f.Device(id); f.Len() != len(here) || d.Generation != here[id] || ok != (here[id] != 0 || d.ID == id) {
				t.Fatalf("%d devices, want %d; %s is %+v", f.Len(), len(here), id.Node, d)
			}
		}
		s := f.Snapshot()
		if len(s.Devices) != len(here) || !slices.IsSortedFunc(s.Devices, func(a, b Device) int { return compare(a.ID, b.ID) }) {
			t.Fatalf("%d devices, want %d, sorted", len(s.Devices), len(here))
		}
		for _, d := range s.Devices {
			if here[d.ID] != d.Generation {
				t.Fatalf("%s has generation %d, want %d", d.ID, d.Generation, here[d.ID])
			}
		}
	})
}
