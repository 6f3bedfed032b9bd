package synthetic_test

import (
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent/source/synthetic"
)

// made returns the first n rows of one channel.
func made(t *testing.T, c synthetic.Config, channel, n int) []float32 {
	t.Helper()
	c.Speed = -1
	s := synthetic.New(c)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var all []float32
	for len(all) < n {
		rows, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rows.Values[channel]...)
	}
	return all[:n]
}

func moments(v []float32) (mean, deviation float64) {
	for _, x := range v {
		mean += float64(x) / float64(len(v))
	}
	for _, x := range v {
		deviation += (float64(x) - mean) * (float64(x) - mean) / float64(len(v))
	}
	return mean, math.Sqrt(deviation)
}

func TestSameSeedMakesTheSameSignals(t *testing.T) {
	a, b, c := made(t, synthetic.Config{Seed: 1}, 3, 500), made(t, synthetic.Config{Seed: 1}, 3, 500), made(t, synthetic.Config{Seed: 2}, 3, 500)
	if !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Error("seeds do not decide the signals")
	}
}

func TestFaultsAndDriftShowWhereTheyAreAskedFor(t *testing.T) {
	for _, c := range []struct {
		kind  string
		shows func(before, during, after []float32) bool
	}{
		{"offset", func(b, d, a []float32) bool {
			mb, sb := moments(b)
			md, _ := moments(d)
			ma, _ := moments(a)
			return md-mb > 2*sb && math.Abs(ma-mb) < sb
		}},
		{"noise", func(b, d, a []float32) bool { _, sb := moments(b); _, sd := moments(d); return sd > 2*sb }},
		{"swing", func(b, d, a []float32) bool { _, sb := moments(b); _, sd := moments(d); return sd > 1.5*sb }},
		{"stuck", func(b, d, a []float32) bool { _, sd := moments(d); return sd < 1e-6 }},
		{"nan", func(b, d, a []float32) bool { m, _ := moments(d); n, _ := moments(a); return m != m && n == n }},
	} {
		t.Run(c.kind, func(t *testing.T) {
			v := made(t, synthetic.Config{Seed: 3, RateHz: 100, Channels: []string{"a", "b"}, Faults: []synthetic.Fault{{AtS: 20, ForS: 10, Kind: c.kind, Channel: "b"}}}, 1, 5000)
			if !c.shows(v[:2000], v[2001:3000], v[3001:]) {
				t.Error("the fault does not show, or does not end")
			}
		})
	}
	calm := made(t, synthetic.Config{Seed: 3, RateHz: 100}, 0, 20_000)
	drifting := made(t, synthetic.Config{Seed: 3, RateHz: 100, DriftPerHour: 360}, 0, 20_000)
	m0, _ := moments(calm[19_000:])
	m1, _ := moments(drifting[19_000:])
	if m1-m0 < 5 {
		t.Errorf("after 200 s of drift the mean went from %v to %v", m0, m1)
	}
}

func TestSourceEndsAfterItsRows(t *testing.T) {
	s := synthetic.New(synthetic.Config{Rows: 10, Speed: -1, BatchRows: 4})
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		rows, err := s.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		n += rows.Len()
	}
	if n != 10 {
		t.Errorf("%d rows", n)
	}
}

func TestConfigurationThatMakesNothingIsRefused(t *testing.T) {
	for says, c := range map[string]synthetic.Config{
		"fault kind":    {Faults: []synthetic.Fault{{Kind: "fire"}}},
		"which is not":  {Channels: []string{"a"}, Faults: []synthetic.Fault{{Kind: "nan", Channel: "b"}}},
		"rate_hz up to": {RateHz: -1},
		"named twice":   {Channels: []string{"a", "a"}},
	} {
		if err := synthetic.New(c).Open(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
}
