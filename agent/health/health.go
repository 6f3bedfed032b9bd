// Package health turns what an agent measures about itself into conditions: a
// short list of findings, each with the remedy, for its reports and its status
// page.
//
// The parties are the agent, which hands over one Facts per heartbeat, and the
// people who read the conditions. Evaluate is pure; the board remembers since
// when each finding holds. The two functions that read /proc stand apart.
package health

import (
	"fmt"
	"time"

	"github.com/swellfleet/swell/protocol/twin"
)

// Facts are what the agent knows at one moment. Zero values mean "unknown" or
// "not so", as each field says.
type Facts struct {
	Now         time.Time
	BuiltAt     time.Time // when the program was built: no clock can be before; zero: unknown
	DiskFree    int64     // bytes
	DiskTotal   int64     // bytes; 0: unknown
	LastRow     time.Time // when rows last came; zero: none yet
	Started     time.Time // when the source was opened; zero: not open
	RowEvery    time.Duration
	Occasional  bool // rows come when there are some: none for long is no finding
	SourceError error
	SourceEnded bool
	NotAfter    time.Time // of the certificate; zero: none
	NotBefore   time.Time
	Renewal     error // of the last attempt to renew
	Connected   bool
	DownSince   time.Time // zero: connected
	LinkError   error
	Dropped     uint64 // blocks lost lately
	WriteError  error  // of the newest write to the disk; nil: it succeeded
	Interlock   error  // why a release that is ready may not act; nil: none waits
	Unreadable  uint64 // pictures skipped lately
	// UnreadableError is why the newest of them.
	UnreadableError error
	// Unsupported says what the hub wants and this agent cannot do; empty: nothing.
	Unsupported string
}

// Condition types.
const (
	DiskPressure        = "DiskPressure"
	ClockSkew           = "ClockSkew"
	SourceStalled       = "SourceStalled"
	CertificateExpiring = "CertificateExpiring"
	HubUnreachable      = "HubUnreachable"
	SpoolDropping       = "SpoolDropping"
	InterlockClosed     = "InterlockClosed"
	PicturesUnreadable  = "PicturesUnreadable"
	Unsupported         = "Unsupported"
)

// Limits of the findings.
const (
	lowDiskShare = 20               // one part in so many
	lowDiskBytes = 64 << 20         // at least
	stalledAfter = 30 * time.Second // and 20 rows
	unreachable  = time.Minute
	expiringPart = 5 // one part of the lifetime in so many
)

// Evaluate returns the findings that hold.
func Evaluate(f Facts) []twin.Condition {
	var cs []twin.Condition
	found := func(kind, reason, format string, args ...any) {
		cs = append(cs, twin.Condition{Type: kind, Status: true, Reason: reason, Message: fmt.Sprintf(format, args...), Since: f.Now.UTC()})
	}
	if f.DiskTotal > 0 && f.DiskFree < max(min(f.DiskTotal/lowDiskShare, 1<<30), lowDiskBytes) {
		found(DiskPressure, "LowSpace", "the disk has %d MiB left: make room, or lower spool.max_mib", f.DiskFree>>20)
	} else if f.WriteError != nil {
		found(DiskPressure, "WriteError", "the agent cannot write to its disk: %v", f.WriteError)
	}
	if !f.BuiltAt.IsZero() && f.Now.Before(f.BuiltAt.Add(-24*time.Hour)) {
		found(ClockSkew, "BeforeBuild", "the clock says %s, before this program was built: set the clock (chrony, timesyncd)", f.Now.UTC().Format(time.RFC3339))
	} else if !f.NotBefore.IsZero() && f.Now.Before(f.NotBefore.Add(-time.Hour)) {
		found(ClockSkew, "BeforeCertificate", "the clock says %s, before the device's certificate was made: set the clock (chrony, timesyncd)", f.Now.UTC().Format(time.RFC3339))
	}
	switch limit := max(stalledAfter, 20*f.RowEvery); {
	case f.SourceEnded:
		found(SourceStalled, "Ended", "the source has ended: no more rows will come until the agent is restarted")
	case f.SourceError != nil:
		found(SourceStalled, "Error", "the source does not work: %v", f.SourceError)
	case f.Started.IsZero(), f.Occasional:
	case f.LastRow.IsZero() && f.Now.Sub(f.Started) > limit, !f.LastRow.IsZero() && f.Now.Sub(f.LastRow) > limit:
		found(SourceStalled, "NoRows", "no rows came for %s: look at the sensor and its cable", limit)
	}
	if !f.NotAfter.IsZero() {
		left, life := f.NotAfter.Sub(f.Now), f.NotAfter.Sub(f.NotBefore)
		switch {
		case left <= 0:
			found(CertificateExpiring, "Expired", "the device's certificate ended at %s: enrol again with a new token", f.NotAfter.UTC().Format(time.RFC3339))
		case left < life/expiringPart:
			why := ""
			if f.Renewal != nil {
				why = ": " + f.Renewal.Error()
			}
			found(CertificateExpiring, "NotRenewed", "the device's certificate ends at %s and was not renewed%s", f.NotAfter.UTC().Format(time.RFC3339), why)
		}
	}
	if !f.Connected && !f.DownSince.IsZero() && f.Now.Sub(f.DownSince) > unreachable {
		found(HubUnreachable, "NoConnection", "the hub was not reached since %s (%v): scoring goes on and telemetry waits on disk", f.DownSince.UTC().Format(time.RFC3339), f.LinkError)
	}
	if f.Dropped > 0 {
		found(SpoolDropping, "Full", "%d blocks of telemetry were dropped: the oldest go first when the spool is full; raise spool.max_mib or mend the connection", f.Dropped)
	}
	if f.Interlock != nil {
		found(InterlockClosed, "Closed", "a release is ready and may not act: interlock: %v", f.Interlock)
	}
	if f.Unreadable > 0 {
		found(PicturesUnreadable, "Skipped", "%d pictures could not be read and were skipped, the newest: %v: look at the camera's disk and its settings", f.Unreadable, f.UnreadableError)
	}
	if f.Unsupported != "" {
		found(Unsupported, "Unsupported", "%s", f.Unsupported)
	}
	return cs
}

// Board remembers since when conditions hold. The zero value is empty. It is
// not safe for concurrent use.
type Board struct {
	since map[string]time.Time
}

// Update stamps findings with the time at which each began, and says whether
// the set of types changed.
func (b *Board) Update(found []twin.Condition) (stamped []twin.Condition, changed bool) {
	next := make(map[string]time.Time, len(found))
	for i := range found {
		key := found[i].Type + "/" + found[i].Reason
		if t, ok := b.since[key]; ok {
			found[i].Since = t
		} else {
			changed = true
		}
		next[key] = found[i].Since
	}
	changed = changed || len(next) != len(b.since)
	b.since = next
	return found, changed
}
