package api

import (
	"fmt"
	"slices"
	"testing"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/protocol/artifact"
)

func TestTwoVersionsAreSetSideBySide(t *testing.T) {
	version := func(counter uint64, kind string, metrics map[string]float64) registry.Version {
		return registry.Version{
			Family: "pump", Counter: counter, Release: artifact.Of([]byte{byte(counter)}), Stage: registry.Released,
			Lineage: registry.Lineage{Segments: 24}, Models: []registry.Model{{Classes: []artifact.Class{"pump"}, Kind: kind, Metrics: metrics}},
		}
	}
	a := version(7, "dense-ae", map[string]float64{"faults_found": 0.8, "flag_share": 0.02, "train_seconds": 3, "champion_faults_found": 0.1})
	b := version(6, "pca", map[string]float64{"faults_found": 0.7, "flag_share": 0.01, "f1": 0.5})
	c := comparison(a, b)
	var got []string
	for _, m := range c.Metrics {
		line := m.Name
		if m.Better != nil {
			line += " " + string(*m.Better)
		}
		got = append(got, fmt.Sprint(line, m.Value != nil, m.With != nil))
	}
	want := []string{"f1false true", "faults_found thistrue true", "flag_share othertrue true", "train_secondstrue false"}
	if !slices.Equal(got, want) {
		t.Errorf("metrics %q, want %q", got, want)
	}
	if len(c.Differences) != 1 || c.Differences[0].Name != "class pump: detector" || c.Differences[0].Value != "dense-ae" || c.Differences[0].With != "pca" {
		t.Errorf("differences %+v, want the detector alone", c.Differences)
	}
	if same := comparison(a, a); len(same.Differences) > 0 || slices.ContainsFunc(same.Metrics, func(m apimodel.ComparedMetric) bool { return m.Better != nil }) {
		t.Errorf("a version differs from itself: %+v", same)
	}
}

func TestADigestOfAPathMayLackItsPrefix(t *testing.T) {
	d := artifact.Of([]byte("a frame"))
	for _, text := range []string{string(d), d.Hex()} {
		if got := contentOf(text); got != d {
			t.Errorf("%s is read as %s", text, got)
		}
	}
}
