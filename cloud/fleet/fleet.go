// Package fleet knows the hub's devices: who is enrolled, who is connected, what
// each last said about itself, and how the whole fares.
//
// The parties are the devices, which report through the broker; the hub, which
// hands those reports in and asks for the state of one, some or all devices;
// and a Store that keeps it across restarts. The newest report of a device is
// all there is to know about it: older ones and doubled ones are dropped.
//
// It promises that a report is acknowledged only after the store has it, that
// what Get and Select return is never older than what was acknowledged, and
// that memory is bounded by Config.MaxDevices. It decides nothing about
// releases: that is the rollout's part. Package api, package dispatch through
// the hub, and the composition root use it; package store implements Store.
package fleet

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Record is what the store keeps about one device.
type Record struct {
	ID         topic.ID
	Class      artifact.Class
	Labels     map[string]string // given at enrolment or by an operator; they win over reported ones
	EnrolledAt time.Time         // UTC
	RetiredAt  time.Time         // zero: in service
	CertExpiry time.Time         // of the newest certificate; zero: unknown
	Version    uint64            // rises with each change of the fields above
	Report     Report            // zero Received: never heard of
	Base       Totals            // of installations before the present one
	Evidence   rollout.Evidence  // folded from the shadow counts of its reports; see rollout
}

// Report is the newest report of a device and when the hub got it.
type Report struct {
	Received time.Time // by the hub's clock
	Doc      twin.Reported
}

// Totals are the counters that must outlive a re-installation.
type Totals struct {
	WindowsScored uint64 `json:"windows_scored"`
	WindowsLost   uint64 `json:"windows_lost"`
	StoppedMs     uint64 `json:"stopped_ms"`
	SpoolDropped  uint64 `json:"spool_dropped"`
}

func (t Totals) plus(s twin.Stream) Totals {
	return Totals{t.WindowsScored + s.WindowsScored, t.WindowsLost + s.WindowsLost, t.StoppedMs + s.StoppedMs, t.SpoolDropped + s.SpoolDropped}
}

// Device is the state of one device at one moment. It is a value to read; what
// it points at is shared and must not be changed.
type Device struct {
	Record
	Connected bool      // a session is open, or an external broker's will has not been seen
	LastSeen  time.Time // newest sign of life; zero: none since enrolment
	State     State
	Totals    Totals // over all installations
}

// All returns the labels a selector sees without the reserved keys: what the
// device reports, with what people gave it on top. It is a fresh map.
func (d *Device) All() map[string]string {
	out := make(map[string]string, len(d.Labels)+len(d.Report.Doc.Labels))
	maps.Copy(out, d.Report.Doc.Labels)
	maps.Copy(out, d.Labels)
	return out
}

// Label returns one label as All would.
func (d *Device) Label(key string) (string, bool) {
	if v, ok := d.Labels[key]; ok {
		return v, true
	}
	v, ok := d.Report.Doc.Labels[key]
	return v, ok
}

// Retired says whether the device was taken out of service.
func (d *Device) Retired() bool { return !d.RetiredAt.IsZero() }

// Heard says whether the device has ever reported.
func (d *Device) Heard() bool { return !d.Report.Received.IsZero() }

// HoldLabel keeps rollouts off a device that carries it.
const HoldLabel = "hold"

// Facts returns what the planner looks at, without the planner's own record.
func (d *Device) Facts() rollout.Device {
	f := rollout.Device{ID: d.ID, Class: d.Class, Evidence: d.Evidence}
	if d.Heard() {
		f = rollout.Fold(f, d.Report.Doc, d.Report.Received)
	}
	// The class a device was enrolled as counts, not what it says of itself.
	if d.Class != "" {
		f.Class = d.Class
	}
	f.Labels = d.All()
	f.Labels["site"], f.Labels["class"] = d.ID.Site, string(f.Class)
	f.Connected = d.Connected && d.State != Offline
	_, f.Held = d.Label(HoldLabel)
	return f
}

// State is the one word a device is shown by: the worst that holds.
type State string

// The states, worst first.
const (
	Retired  State = "retired"
	Offline  State = "offline"  // silent past its time
	Failed   State = "failed"   // its last trial was refused or rolled back, or a critical condition holds
	Degraded State = "degraded" // another condition holds
	Updating State = "updating" // a release is on its way
	Trial    State = "trial"    // a challenger computes beside the champion
	OK       State = "ok"
	Unknown  State = "unknown" // enrolled and never heard of
)

// States lists every state, worst first.
var States = []State{Retired, Offline, Failed, Degraded, Updating, Trial, OK, Unknown}

// Critical are the condition types that need somebody now: the device does not
// do its work. Every other condition that holds is a warning.
var Critical = map[string]bool{
	"SourceStalled": true, "NoModel": true, "ScorerFailed": true, "DiskFull": true, "CertificateExpired": true,
}

// Entry is one line of a device's history.
type Entry struct {
	Index    uint64    // given by the store, rising; 0 before
	ID       topic.ID  //
	At       time.Time // by the hub's clock
	Type     string    // "enrolled", "connected", "disconnected", "phase", "swap", "rollback", "condition", "label", "retired", "event"
	Severity string    // "info", "warning" or "critical"
	Message  string    // a sentence
	Rollout  string    // empty: none
	Release  string    // "name-counter"; empty: none
}

// Matters says whether the line belongs into the audit log as well: a device
// went back by itself, refused a release, or will not try it again.
func (e Entry) Matters() bool {
	return e.Type == "rollback" || e.Type == "refused" || e.Type == "quarantine"
}

// MaxEntries is how many entries of one device the store keeps, newest first.
const MaxEntries = 1000

// Change says that something about a device is different now.
type Change struct {
	ID    topic.ID
	State State
	Was   State // "" for a device that is new
	// Important is set when a rollout could decide otherwise because of it: a
	// phase, a digest, the generation, a connection or a retirement.
	Important bool
	Version   uint64
}

// Store keeps devices across restarts. Every method is atomic and durable on
// return; it passes fleettest.Exercise.
type Store interface {
	// Devices calls yield for every record that changed at or after since (the
	// zero time: for every one), by site and node, with when it changed. That
	// time is the writing hub's: since reaches back by ClockSkew, so that
	// records may be given again.
	Devices(ctx context.Context, since time.Time, yield func(r Record, changed time.Time) error) error
	// SaveDevice writes everything of r but its Report, Base and Evidence.
	SaveDevice(ctx context.Context, r Record) error
	// SaveReports writes the reports, each with the device's Base and Evidence,
	// and adds the entries. A report of a device that has no record is an error.
	SaveReports(ctx context.Context, reports []Record, entries []Entry) error
	// Timeline returns entries of a device with an index below before (0: from
	// the newest), newest first, at most limit.
	Timeline(ctx context.Context, id topic.ID, before uint64, limit int) ([]Entry, error)
}

// ClockSkew is how far the clocks of hubs that share a store may differ.
const ClockSkew = 5 * time.Second

// Errors a caller branches on.
var (
	// ErrUnknown means that no such device is enrolled.
	ErrUnknown = errors.New("no such device")
	// ErrFull means that Config.MaxDevices are known already.
	ErrFull = errors.New("the fleet has as many devices as its configuration allows")
	// ErrBusy means that too many reports wait for the store.
	ErrBusy = errors.New("too many reports are waiting to be stored")
	// ErrClosed means that the fleet has been stopped.
	ErrClosed = errors.New("fleet is stopped")
	// ErrChanged means that somebody changed the device since it was read.
	ErrChanged = errors.New("device was changed by somebody else")
)
