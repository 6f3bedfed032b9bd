// Package fleettest holds the one test that every fleet.Store passes. It is
// imported by tests of the stores only.
package fleettest

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Exercise runs every promise of fleet.Store against a fresh store.
func Exercise(t *testing.T, s fleet.Store) {
	ctx := t.Context()
	now := time.Date(2026, 11, 22, 2, 0, 0, 987654321, time.UTC)
	rec := func(site, node string) fleet.Record {
		return fleet.Record{
			ID: topic.ID{Site: site, Node: node}, Class: "pump", Labels: map[string]string{"line": "l1"},
			EnrolledAt: now, CertExpiry: now.Add(time.Hour), Version: 1,
		}
	}
	all := func() (out []fleet.Record) {
		t.Helper()
		if err := s.Devices(ctx, time.Time{}, func(r fleet.Record, _ time.Time) error { out = append(out, r); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b, a := rec("hall-1", "pump-2"), rec("hall-1", "pump-1")
	must(s.SaveDevice(ctx, b))
	must(s.SaveDevice(ctx, a))
	if got := all(); !reflect.DeepEqual(got, []fleet.Record{a, b}) {
		t.Fatalf("devices came back as %+v", got)
	}

	reported := a
	reported.Report = fleet.Report{Received: now, Doc: twin.Reported{
		Schema: 1, Site: "hall-1", Node: "pump-1", Boot: "b", Seq: 7, Generation: 3, At: now, Class: "pump",
		Champion: &twin.Running{Name: "pump-anomaly", Counter: 2, Manifest: artifact.Of(nil), Since: now},
		Stream:   twin.Stream{WindowsScored: 1 << 40},
	}}
	reported.Base = fleet.Totals{WindowsScored: 11}
	reported.Evidence = rollout.Evidence{Manifest: artifact.Of(nil), Windows: 3, Bins: []rollout.Bin{{Cell: -1, N: 2}}}
	must(s.SaveReports(ctx, []fleet.Record{reported}, []fleet.Entry{{ID: a.ID, At: now, Type: "swap", Severity: "info", Message: "m", Rollout: "r", Release: "pump-anomaly-2"}}))
	if got := all(); !reflect.DeepEqual(got[0], reported) {
		t.Errorf("a report came back as\n%+v, want\n%+v", got[0], reported)
	}

	// Saving the device again leaves its report alone.
	retired := reported
	retired.RetiredAt, retired.Version = now.Add(time.Minute), 2
	must(s.SaveDevice(ctx, fleet.Record{ID: a.ID, Class: a.Class, Labels: a.Labels, EnrolledAt: a.EnrolledAt, CertExpiry: a.CertExpiry, RetiredAt: retired.RetiredAt, Version: 2}))
	if got := all(); !reflect.DeepEqual(got[0], retired) {
		t.Errorf("a retired device came back as\n%+v, want\n%+v", got[0], retired)
	}

	// What changed lately is found by its time; what did not is left out.
	var times []time.Time
	if err := s.Devices(ctx, time.Now().Add(-time.Hour), func(_ fleet.Record, at time.Time) error { times = append(times, at); return nil }); err != nil || len(times) != 2 {
		t.Errorf("changes of the last hour: %v, %v, want both devices", times, err)
	}
	if err := s.Devices(ctx, time.Now().Add(time.Hour), func(r fleet.Record, _ time.Time) error { return fmt.Errorf("got %s", r.ID) }); err != nil {
		t.Errorf("changes of the future: %v", err)
	}

	// A batch with a stranger in it changes nothing.
	err := s.SaveReports(ctx, []fleet.Record{rec("hall-9", "ghost")}, []fleet.Entry{{ID: b.ID, At: now, Type: "phase", Message: "never"}})
	if !errors.Is(err, fleet.ErrUnknown) {
		t.Errorf("report of a stranger: %v, want ErrUnknown", err)
	}
	if got, err := s.Timeline(ctx, b.ID, 0, 10); err != nil || len(got) != 0 {
		t.Errorf("history after a refused batch: %+v, %v", got, err)
	}

	var entries []fleet.Entry
	for i := range fleet.MaxEntries + 5 {
		entries = append(entries, fleet.Entry{ID: b.ID, At: now.Add(time.Duration(i) * time.Second), Type: "phase", Severity: "info", Message: fmt.Sprint(i)})
	}
	must(s.SaveReports(ctx, nil, entries))
	page, err := s.Timeline(ctx, b.ID, 0, 2)
	if err != nil || len(page) != 2 || page[0].Message != fmt.Sprint(fleet.MaxEntries+4) || page[1].Index >= page[0].Index {
		t.Fatalf("newest entries: %+v, %v", page, err)
	}
	rest, err := s.Timeline(ctx, b.ID, page[1].Index, 2*fleet.MaxEntries)
	if err != nil || len(rest) != fleet.MaxEntries-2 {
		t.Errorf("%d entries behind the newest two, %v: the oldest must go", len(rest), err)
	}
	if got, err := s.Timeline(ctx, a.ID, 0, 10); err != nil || len(got) != 1 || got[0].Release != "pump-anomaly-2" || !got[0].At.Equal(now) {
		t.Errorf("the other device's history: %+v, %v", got, err)
	}
}
