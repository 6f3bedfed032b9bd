package gates

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/rollout/rollouttest"
	"github.com/swellfleet/swell/protocol/twin"
)

// The study adds windows up and asks the gate by itself. A hub folds reports
// and decides: both have to stop and to pass in the same minute.
func TestTheStudySaysWhatTheHubWouldDecide(t *testing.T) {
	for name, ratio := range map[string]float64{"no change": 1, "three times the flags": 3} {
		t.Run(name, func(t *testing.T) {
			const devices = 5
			d := newDice()
			d.Rand = rand.New(rand.NewPCG(7, 7))
			l, w := newLine(noises[0], ratio, devices, d), newWatch(settings[0], devices)

			now := time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)
			champion, release := rollouttest.Release(1), rollouttest.Release(2)
			margin := settings[0].Margin
			r := rollout.Rollout{
				Name: "r", Release: release, Previous: &champion, State: rollout.Running, Created: now, Started: now, Seed: 1,
				Policy: rollout.Policy{Name: "p", ShadowS: 3600, Waves: []rollout.Wave{{Name: "all", DeadlineS: 1e6}}, Gates: []rollout.Gate{{Name: rollout.GateShadow, Threshold: &margin, Alpha: alpha}}},
			}
			s := rollout.Snapshot{Devices: rollouttest.Fleet(devices, 1, &champion, now)}
			first := rollout.Decide(r, s, now)
			r, s = first.Rollout, rollout.Apply(s, first)
			shadows := make([]twin.Shadow, devices)
			for m := range 12 * 60 {
				now = now.Add(time.Minute)
				l.minute(m)
				got := w.minute(m, l)
				for i := range shadows {
					sh := &shadows[i]
					sh.Items += Items
					sh.OnlyChallenger += uint64(l.a[i])
					sh.OnlyChampion += uint64(l.b[i])
					sh.Windows = append(sh.Windows, twin.ShadowWindow{OnlyChallenger: l.a[i], OnlyChampion: l.b[i], Items: Items})
					if extra := len(sh.Windows) - twin.MaxShadowWindows; extra > 0 {
						sh.Windows, sh.Index = slices.Clone(sh.Windows[extra:]), sh.Index+uint64(extra)
					}
					dev := s.Devices[i]
					s.Devices[i] = rollout.Fold(dev, twin.Reported{
						Schema: 1, Site: dev.ID.Site, Node: dev.ID.Node, Boot: "b", Class: rollouttest.Class, Labels: dev.Labels,
						Agent:    twin.Agent{Arch: rollouttest.Arch},
						Champion: &twin.Running{Manifest: champion.Manifest, Model: champion.Variants[0].Loaded, Counter: 1},
						Trial:    &twin.Trial{Rollout: "r", Manifest: release.Manifest, Mode: twin.ModeTrial, Phase: twin.PhaseReady, Attempts: 1, Shadow: sh},
					}, now)
				}
				decided := rollout.Decide(r, s, now)
				r, s = decided.Rollout, rollout.Apply(s, decided)
				stopped, passed := r.State == rollout.RollingBack, !r.Waves[0].Cleared.IsZero()
				if stopped != (got == rollout.Fail) || passed != (got == rollout.Pass) {
					t.Fatalf("minute %d: the study says %s, the hub %s", m+1, got, decided.Summary)
				}
				if stopped || passed {
					if passed != (ratio == 1) {
						t.Fatalf("the hub decided: %s", decided.Summary)
					}
					return
				}
			}
			t.Fatal("the hub decided nothing in 12 hours")
		})
	}
}

// The question is asked rarely where the answer is known. It must not change it.
func TestSkippingLooksMissesNoAnswer(t *testing.T) {
	for _, ratio := range []float64{1, 1.5, 2} {
		d := newDice()
		d.Rand = rand.New(rand.NewPCG(9, uint64(ratio*10)))
		l, w := newLine(noises[0], ratio, 2, d), newWatch(settings[0], 2)
		for m := range 10 * 60 {
			l.minute(m)
			got := w.minute(m, l)
			want := rollout.Shadow(rollout.Rollout{}, w.gate, w.shown).Result
			if got != want && (got != rollout.Inconclusive || want == rollout.Fail || !w.passed) {
				t.Fatalf("×%g, minute %d: %s, and the gate says %s", ratio, m+1, got, want)
			}
		}
	}
}

// Every kind of noise flags as much as it says, and never an item twice.
func TestStreamsHaveTheRatioTheySay(t *testing.T) {
	for _, n := range noises {
		t.Run(n.name, func(t *testing.T) {
			d := newDice()
			var a, b float64
			for run := range 300 {
				d.Rand = rand.New(rand.NewPCG(5, uint64(run)))
				l := newLine(n, 2, 10, d)
				for m := range 6 * 60 {
					l.minute(m)
					for i := range l.a {
						if l.a[i]+l.b[i]+l.ab[i] > Items {
							t.Fatalf("%d flags of %d items", l.a[i]+l.b[i]+l.ab[i], Items)
						}
						a += float64(l.a[i])
						b += float64(l.b[i])
					}
				}
			}
			if n.kind == driftSingle || n.kind == singleLine {
				return // a few draws make the whole of it
			}
			if r := a / b; r < 1.8 || r > 2.2 {
				t.Errorf("the challenger flagged %.2f times as much, want 2", r)
			}
		})
	}
}

func TestUpperIsTheBoundOfClopperAndPearson(t *testing.T) {
	for _, tc := range []struct {
		k, n int
		want float64
	}{{0, 1000, 0.002991}, {0, 5, 0.4507}, {3, 300, 0.02563}, {10, 10, 1}} {
		if got := upper(tc.k, tc.n, 0.05); math.Abs(got-tc.want) > 2e-4 {
			t.Errorf("%d of %d: %.5f, want %.5f", tc.k, tc.n, got, tc.want)
		}
	}
}

// A small study end to end: figures, rows that hold and rows that break, and
// the same picture twice.
func TestASmallStudyPrintsTablesAPlotAndFigures(t *testing.T) {
	defer func(n []noise, r []float64, s []int) { noises, ratios, sizes = n, r, s }(noises, ratios, sizes)
	noises, ratios, sizes = []noise{noises[0], noises[10]}, []float64{1, 2}, []int{5}
	var out [2]bytes.Buffer
	var picture [2]bytes.Buffer
	for i := range out {
		rows, err := Run(t.Context(), Options{Runs: 10, Caught: 10, Workers: i + 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := Print(&out[i], rows); err != nil {
			t.Fatal(err)
		}
		if err := SVG(&picture[i], rows); err != nil {
			t.Fatal(err)
		}
	}
	if out[0].String() != out[1].String() || picture[0].String() != picture[1].String() {
		t.Error("two runs of one seed differ")
	}
	for d := xml.NewDecoder(&picture[0]); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(out[0].String()), "\n")
	var f Figures
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &f); err != nil {
		t.Fatal(err)
	}
	if f.FalseAlarmShare > 0 || f.X2 > 4 || f.MarginX != 1.5 {
		t.Errorf("%+v", f)
	}
	if s := out[0].String(); !strings.Contains(s, "THE ASSUMPTION BREAKS") || !strings.Contains(s, "challenger drift") {
		t.Error(s)
	}
}

func TestAStudyEndsWhenItIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Options{}); err == nil {
		t.Fatal("no error")
	}
}
