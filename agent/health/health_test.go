package health_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/health"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// well is a device without a finding.
func well() health.Facts {
	return health.Facts{
		Now: noon, BuiltAt: noon.Add(-time.Hour), DiskFree: 8 << 30, DiskTotal: 16 << 30,
		Started: noon.Add(-time.Hour), LastRow: noon, RowEvery: time.Second,
		NotBefore: noon.Add(-24 * time.Hour), NotAfter: noon.Add(6 * 24 * time.Hour), Connected: true,
	}
}

func TestEachFindingHoldsWhenItShould(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*health.Facts)
		want   string // type/reason; empty: none
	}{
		{"all is well", func(*health.Facts) {}, ""},
		{"little disk left", func(f *health.Facts) { f.DiskFree = 50 << 20 }, "DiskPressure/LowSpace"},
		{"a share of a large disk left", func(f *health.Facts) { f.DiskTotal, f.DiskFree = 1<<40, 2<<30 }, ""},
		{"the disk cannot be asked", func(f *health.Facts) { f.DiskTotal, f.DiskFree = 0, 0 }, ""},
		{"telemetry cannot be written", func(f *health.Facts) { f.WriteError = errors.New("full") }, "DiskPressure/WriteError"},
		{"clock in 1970", func(f *health.Facts) { f.Now = time.Unix(0, 0) }, "ClockSkew/BeforeBuild"},
		{"clock before the certificate", func(f *health.Facts) { f.BuiltAt = time.Time{}; f.NotBefore = noon.Add(2 * time.Hour) }, "ClockSkew/BeforeCertificate"},
		{"no rows for a while", func(f *health.Facts) { f.LastRow = noon.Add(-time.Minute) }, "SourceStalled/NoRows"},
		{"no rows at all", func(f *health.Facts) { f.LastRow = time.Time{} }, "SourceStalled/NoRows"},
		{"a slow source", func(f *health.Facts) { f.LastRow, f.RowEvery = noon.Add(-time.Minute), time.Minute }, ""},
		{"a camera that takes a picture now and then", func(f *health.Facts) { f.LastRow, f.RowEvery, f.Occasional = noon.Add(-24*time.Hour), 0, true }, ""},
		{"pictures that cannot be read", func(f *health.Facts) { f.Unreadable, f.UnreadableError = 2, errors.New("torn") }, "PicturesUnreadable/Skipped"},
		{"a source that fails", func(f *health.Facts) { f.SourceError = errors.New("unplugged") }, "SourceStalled/Error"},
		{"a source that has ended", func(f *health.Facts) { f.SourceEnded = true }, "SourceStalled/Ended"},
		{"certificate at 15 % of its life", func(f *health.Facts) { f.NotAfter = noon.Add(4 * time.Hour) }, "CertificateExpiring/NotRenewed"},
		{"certificate ended", func(f *health.Facts) { f.NotAfter = noon.Add(-time.Second) }, "CertificateExpiring/Expired"},
		{"the hub away for seconds", func(f *health.Facts) { f.Connected, f.DownSince = false, noon.Add(-10*time.Second) }, ""},
		{"the hub away for hours", func(f *health.Facts) { f.Connected, f.DownSince = false, noon.Add(-3*time.Hour) }, "HubUnreachable/NoConnection"},
		{"blocks dropped", func(f *health.Facts) { f.Dropped = 3 }, "SpoolDropping/Full"},
		{"a release waits for the plant", func(f *health.Facts) { f.Interlock = errors.New("line runs") }, "InterlockClosed/Closed"},
		{"firmware offered", func(f *health.Facts) { f.Unsupported = "no slots" }, "Unsupported/Unsupported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := well()
			c.change(&f)
			var got []string
			for _, x := range health.Evaluate(f) {
				got = append(got, x.Type+"/"+x.Reason)
				if x.Message == "" || !x.Status {
					t.Errorf("%+v", x)
				}
			}
			if c.want == "" && len(got) > 0 || c.want != "" && !slices.Contains(got, c.want) {
				t.Errorf("found %v, want %q", got, c.want)
			}
		})
	}
}

func TestBoardRemembersSinceWhen(t *testing.T) {
	var b health.Board
	f := well()
	f.Dropped = 1
	found, changed := b.Update(health.Evaluate(f))
	if !changed || found[0].Since != noon {
		t.Errorf("first look: %+v, %t", found, changed)
	}
	f.Now, f.LastRow = noon.Add(time.Minute), noon.Add(time.Minute)
	if found, changed = b.Update(health.Evaluate(f)); changed || found[0].Since != noon {
		t.Errorf("second look: %+v, %t", found, changed)
	}
	f.Dropped = 0
	if found, changed = b.Update(health.Evaluate(f)); !changed || len(found) != 0 {
		t.Errorf("after it ended: %+v, %t", found, changed)
	}
}

func TestMemoryIsKnownOnLinux(t *testing.T) {
	if n, ok := health.MemoryAvailable(); !ok || n < 1<<20 {
		t.Errorf("%d bytes available, %t", n, ok)
	}
	if n := health.ResidentMemory(); n < 1<<20 {
		t.Errorf("%d bytes resident", n)
	}
}
