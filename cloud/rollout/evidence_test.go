package rollout

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

func TestACellHoldsItsScore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Uint32Range(0, 1000).Draw(t, "a")
		b := rapid.Uint32Range(0, 1000).Draw(t, "b")
		c := cellOf(a, b)
		if a+b == 0 {
			if c != empty || cellOf(1, 1) == empty {
				t.Fatalf("no flags are in cell %d", c)
			}
			return
		}
		s := (float64(a) - float64(b)) / (float64(a) + float64(b))
		if s < low(c)-1e-12 || s > high(c)+1e-12 || high(c)-low(c) > 1./steps+1e-12 {
			t.Fatalf("score %g in cell %d from %g to %g", s, c, low(c), high(c))
		}
	})
}

func TestEvidenceAddsUpInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		parts := make([]Evidence, 10)
		for i := range parts {
			for range rng.IntN(20) {
				parts[i].add(int16(rng.IntN(97)-48), 1)
				parts[i].Windows++
			}
		}
		var x, y Evidence
		for _, p := range parts {
			x.merge(&p, 1)
		}
		for _, i := range rng.Perm(len(parts)) {
			y.merge(&parts[i], 1)
		}
		hx, sx := x.eValues(0.2)
		hy, sy := y.eValues(0.2)
		if hx != hy || sx != sy || x.Windows != y.Windows {
			t.Fatalf("%g %g, %g %g", hx, sx, hy, sy)
		}
	})
}

func TestAWindowCountsOnceHoweverOftenItIsReported(t *testing.T) {
	m := artifact.Of([]byte("m"))
	w := func(n int) []twin.ShadowWindow {
		ws := make([]twin.ShadowWindow, n)
		for i := range ws {
			ws[i] = twin.ShadowWindow{OnlyChallenger: 1, Items: 60}
		}
		return ws
	}
	e := Evidence{}.take(m, "b/0/1", &twin.Shadow{Windows: w(3)})
	e = e.take(m, "b/0/1", &twin.Shadow{Windows: w(3)})
	e = e.take(m, "b/0/1", &twin.Shadow{Index: 1, Windows: w(4)})
	if e.Windows != 5 || e.A != 5 || e.Next != 5 {
		t.Fatalf("%+v", e)
	}
	// A restart counts from 0 again and adds to what was shown.
	e = e.take(m, "c/0/2", &twin.Shadow{Windows: w(2)})
	if e.Windows != 7 || e.Next != 2 {
		t.Fatalf("%+v", e)
	}
	// A gap clears it, and so does another release.
	e = e.take(m, "c/0/2", &twin.Shadow{Index: 9, Windows: w(1)})
	if e.Windows != 1 || e.Missed != 7 {
		t.Fatalf("%+v", e)
	}
	if e = e.take(artifact.Of([]byte("n")), "c/0/3", nil); e.Windows != 0 {
		t.Fatalf("%+v", e)
	}
}

// At the margin itself no bet may win on average, however many flags a window
// has. Leaving ties out, as if they said nothing, would break it.
func TestEveryBetIsFairAtTheMargin(t *testing.T) {
	for _, margin := range []float64{1.2, 1.5, 2, 3} {
		m, p := (margin-1)/(margin+1), margin/(1+margin)
		for n := 1; n <= 40; n++ {
			var harm, safe, excess float64
			for a := 0; a <= n; a++ {
				chance := tail(a, n, p) - tail(a+1, n, p)
				c := cellOf(uint32(a), uint32(n-a))
				harm += chance * (low(c) - m)
				safe += chance * (m - high(c))
				excess += chance * (m - max(high(c), 0))
			}
			if harm > 1e-9 || safe > 1e-9 || excess > 1e-9 {
				t.Errorf("margin %g, %d flags: the stakes gain %g for harm, %g and %g for safe", margin, n, harm, safe, excess)
			}
		}
	}
}

// play returns after how many counting windows on each device the gate fails
// and passes, 0 for not within limit. Flags are Poisson: the champion flags
// rate items of a window alone, the challenger ratio times as many.
func play(rng *rand.Rand, devices int, rate, ratio, margin float64, limit int) (fails, passes int) {
	var e Evidence
	m := (margin - 1) / (margin + 1)
	for n := 1; n <= limit; n++ {
		for range devices {
			e.add(cellOf(poisson(rng, rate*ratio), poisson(rng, rate)), 1)
		}
		h, s := e.eValues(m)
		if h >= 100 && fails == 0 {
			fails = n
		}
		if s >= 100 && passes == 0 {
			passes = n
		}
	}
	return fails, passes
}

func poisson(rng *rand.Rand, mean float64) uint32 {
	var k uint32
	for p := rng.Float64(); p > math.Exp(-mean); p *= rng.Float64() {
		k++
	}
	return k
}

// 5 devices, 1 item a second of which 1 % are flagged, 10 minute windows, for a
// day: at α = 1 % at most a few of 300 runs may go wrong.
func TestTheShadowGateIsRightAboutEqualAndDoubledFlags(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const runs, rate, perHour = 300, 6, 6
	var wrongFail, passed, wrongPass, caught, marginFail int
	for range runs {
		f, p := play(rng, 5, rate, 1, 1.5, 24*perHour)
		if f > 0 {
			wrongFail++
		}
		if p > 0 {
			passed++
		}
		f, p = play(rng, 5, rate, 2, 1.5, 24*perHour)
		if f > 0 && f <= 4*perHour {
			caught++
		}
		if p > 0 {
			wrongPass++
		}
		// Exactly at the margin is not worse than the margin.
		if f, _ = play(rng, 5, rate, 1.5, 1.5, 24*perHour); f > 0 {
			marginFail++
		}
	}
	t.Logf("of %d runs: equal failed %d and passed %d; doubled caught within 4 h %d, passed %d; at the margin failed %d", runs, wrongFail, passed, caught, wrongPass, marginFail)
	if wrongFail > 8 || wrongPass > 8 || marginFail > 8 {
		t.Fatal("more errors than 1 % of runs can explain")
	}
	if passed < runs*95/100 || caught < runs*80/100 {
		t.Fatal("the gate has too little power")
	}
}

func TestBoundsAreThoseOfClopperAndPearson(t *testing.T) {
	for _, tc := range []struct {
		k, n   int
		alpha  float64
		lo, hi float64
	}{
		{5, 5, 0.05, 0.5493, 1}, {0, 5, 0.05, 0, 0.4507}, {0, 5, 0.025, 0, 0.5218}, {8, 10, 0.025, 0.4439, 0.9748}, {95, 100, 0.05, 0.8977, 0.9802}, {990, 1000, 0.05, 0.9831, 0.9946},
	} {
		lo, hi := bounds(tc.k, tc.n, tc.alpha)
		if math.Abs(lo-tc.lo) > 2e-4 || math.Abs(hi-tc.hi) > 2e-4 {
			t.Errorf("%d of %d at %g: %.4f to %.4f, want %.4f to %.4f", tc.k, tc.n, tc.alpha, lo, hi, tc.lo, tc.hi)
		}
	}
}

func TestAnnouncingManyFlagsDoesNotTurnTheGateOff(t *testing.T) {
	r := Rollout{Release: Release{Expected: &artifact.Shift{FlagShareChampion: 0.01, FlagShareChallenger: 0.5}}}
	ta := &tally{paired: 1}
	for range 200 {
		ta.evidence.add(cellOf(9, 1), 1)
		ta.evidence.Windows++
	}
	ta.evidence.B = 1
	v := evaluate(r, Policy{ShadowS: 60}, Gate{Name: GateShadow}.withDefaults(), ta)
	if v.Result != Fail || v.Threshold != 3 || v.Comparison != "<=" {
		t.Fatalf("%+v", v)
	}
}

func TestWithoutAFlagOfTheChampionTheGateShowsItsEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		a, b    uint32
		windows int
		want    Verdict
	}{
		"a sound challenger":     {0, 0, 20, Verdict{Comparison: ">="}},
		"one that flags a lot":   {9, 0, 20, Verdict{Comparison: "<", Result: Fail}},
		"the champion flags too": {1, 9, 200, Verdict{Comparison: "<=", Result: Pass}},
	} {
		ta := &tally{paired: 1}
		for range c.windows {
			ta.evidence.add(cellOf(c.a, c.b), 1)
			ta.evidence.Windows++
			ta.evidence.A += uint64(c.a)
			ta.evidence.B += uint64(c.b)
		}
		v := evaluate(Rollout{}, Policy{ShadowS: 60}, Gate{Name: GateShadow}.withDefaults(), ta)
		if v.Comparison != c.want.Comparison || c.want.Result != "" && v.Result != c.want.Result || v.Value == nil {
			t.Errorf("%s: %+v", name, v)
			continue
		}
		if held := map[string]bool{">=": *v.Value >= v.Threshold, "<": *v.Value < v.Threshold, "<=": *v.Value <= v.Threshold}[v.Comparison]; held != (v.Result == Pass) {
			t.Errorf("%s: %g %s %g is %t and the verdict %s", name, *v.Value, v.Comparison, v.Threshold, held, v.Result)
		}
		if (v.Unit == "e-value") != (c.b == 0) || c.b == 0 && v.Threshold != 100 {
			t.Errorf("%s: %+v, want 1/alpha in e-values", name, v)
		}
	}
}
