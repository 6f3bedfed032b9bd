package world_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/simulator/world"
)

// heard is an actor that writes down what it is told.
type heard struct{ args []uint64 }

func (h *heard) Act(_ uint32, arg uint64) { h.args = append(h.args, arg) }

func TestEventsHappenInTheOrderOfTheirTimesAndThenAsScheduled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world.New(1, time.Time{})
		h := &heard{}
		at := rapid.SliceOfN(rapid.IntRange(0, 20), 0, 200).Draw(t, "at")
		for i, s := range at {
			if i%2 == 0 {
				w.For(time.Duration(s)*time.Second, h, 0, uint64(i))
			} else {
				w.In(time.Duration(s)*time.Second, func() { h.args = append(h.args, uint64(i)) })
			}
		}
		if w.Run(time.Minute, nil) {
			t.Fatal("something is left")
		}
		for i := 1; i < len(h.args); i++ {
			a, b := h.args[i-1], h.args[i]
			if at[a] > at[b] || at[a] == at[b] && a > b {
				t.Fatalf("event %d of %d s came before event %d of %d s", a, at[a], b, at[b])
			}
		}
		if len(h.args) != len(at) {
			t.Fatalf("%d of %d events happened", len(h.args), len(at))
		}
	})
}

func TestARunEndsAtItsTimeAndGoesOnFromThere(t *testing.T) {
	w := world.New(1, time.Time{})
	h := &heard{}
	w.For(time.Second, h, 0, 1)
	w.For(3*time.Second, h, 0, 2)
	if !w.Run(2*time.Second, nil) || w.Elapsed() != 2*time.Second || len(h.args) != 1 {
		t.Fatalf("after 2 s it is %s and %d events happened", w.Elapsed(), len(h.args))
	}
	if w.Run(time.Hour, nil) || len(h.args) != 2 || w.Elapsed() != 3*time.Second {
		t.Fatalf("at the end it is %s and %d events happened", w.Elapsed(), len(h.args))
	}
}

func TestOnePartysDrawsDoNotShiftAnothers(t *testing.T) {
	a, b := world.New(7, time.Time{}), world.New(7, time.Time{})
	b.Rand("somebody", "else").Uint64()
	if a.Rand("device", "x").Uint64() != b.Rand("device", "x").Uint64() {
		t.Fatal("the same seed and party draw different numbers")
	}
	if a.Rand("device", "x").Uint64() == a.Rand("device", "y").Uint64() {
		t.Fatal("two parties draw the same number")
	}
}
