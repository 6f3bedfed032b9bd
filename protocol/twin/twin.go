// Package twin holds the two documents a device and its hub keep about each
// other: Desired, what the hub wants the device to run, and Reported, what the
// device attests it runs.
//
// The hub alone writes Desired and numbers each change with a generation; the
// device alone writes Reported and says which generation it answers. Both are
// whole documents, never patches: the newest one is all a reader needs, a lost
// or doubled one does no harm, and an older generation is ignored.
//
// nil pointers mean "nothing to say", as each field explains. The package is
// pure.
package twin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// MaxDocumentBytes caps both documents on the wire.
const MaxDocumentBytes = 256 << 10

// Desired is published, retained, by the hub on the device's desired topic.
type Desired struct {
	Schema     int       `json:"schema"` // 1
	Site       string    `json:"site"`
	Node       string    `json:"node"`
	Generation uint64    `json:"generation"` // rises with every change; never reused
	IssuedAt   time.Time `json:"issued_at"`  // UTC, by the hub's clock
	ExpiresAt  time.Time `json:"expires_at"` // after this a device starts nothing new from it; it keeps what it runs

	// Model is the model release to bring up. nil: keep what runs and drop
	// any trial that has not been activated.
	Model *Assignment `json:"model,omitempty"`
	// Firmware is the image to bring up in the other slot. nil: as for Model.
	Firmware *Assignment `json:"firmware,omitempty"`
	// FirmwareLease is for Firmware what Lease is for Model.
	FirmwareLease *Lease `json:"firmware_lease,omitempty"`
	// Lease permits activation of the model it names, until it expires. nil: no
	// permission.
	Lease *Lease `json:"lease,omitempty"`
	// Floors are the lowest counter the device may still install, by release
	// name. A device keeps the highest floor it has seen.
	Floors map[string]uint64 `json:"floors,omitempty"`
}

// Assignment offers one release to one device.
type Assignment struct {
	Rollout  string          `json:"rollout"`
	Name     string          `json:"name"`     // release family
	Counter  uint64          `json:"counter"`  // release counter
	Manifest artifact.Digest `json:"manifest"` // identity of the release
	// Mode says how the release becomes champion.
	Mode Mode `json:"mode"`
	// Try rises when the hub asks a device to begin again a trial that ended
	// there. The same rollout, manifest, mode and try is the same trial.
	Try int `json:"try,omitempty"`
	// Deadline ends the attempt: not confirmed by then is a failure. Zero: none.
	Deadline time.Time `json:"deadline,omitzero"`
	// ShadowS is how long the challenger must compute beside the champion
	// before it may ask for a lease, in seconds. 0: no shadow, as when there is
	// no champion yet.
	ShadowS float64 `json:"shadow_s,omitempty"`
	// ShadowWindowS is the length of one counting window of the behaviour
	// gate, in seconds. 0 means 60.
	ShadowWindowS float64 `json:"shadow_window_s,omitempty"`
	// SoakS is how long the new champion must run soundly before it is
	// confirmed, in seconds, and MinWindows how many windows it must score.
	SoakS      float64 `json:"soak_s,omitempty"`
	MinWindows uint64  `json:"min_windows,omitempty"`
}

// Mode says how an assigned release becomes champion.
type Mode string

const (
	// ModeTrial is the normal way: verify, test, shadow, lease, swap, soak.
	ModeTrial Mode = "trial"
	// ModeRollback returns to a release the device still holds, or fetches it
	// again; no shadow and no soak, and the lease comes with it.
	ModeRollback Mode = "rollback"
)

// Lease is a timed permission to activate.
type Lease struct {
	ID        string          `json:"id"`
	Manifest  artifact.Digest `json:"manifest"` // what may be activated
	ExpiresAt time.Time       `json:"expires_at"`
}

// Phase is where a trial stands. The order is the order in which a healthy
// trial passes through them.
type Phase string

// The phases of a trial.
const (
	PhaseNone       Phase = ""            // no trial
	PhaseFetching   Phase = "fetching"    // downloading into a slot
	PhaseVerifying  Phase = "verifying"   // signature, manifest, digests, counter, class
	PhaseGuarding   Phase = "guarding"    // graph checks and memory admission
	PhaseLoading    Phase = "loading"     // a session beside the champion
	PhaseTesting    Phase = "testing"     // golden vectors
	PhaseShadowing  Phase = "shadowing"   // computes on live windows, does not act
	PhaseReady      Phase = "ready"       // waits for a lease and its interlocks
	PhaseActivating Phase = "activating"  // swap at a window boundary
	PhaseSoaking    Phase = "soaking"     // acts, watched, not yet confirmed
	PhaseConfirmed  Phase = "confirmed"   // kept: it is the champion and the last good
	PhaseFailed     Phase = "failed"      // refused or given up before it ever acted
	PhaseRolledBack Phase = "rolled_back" // acted, then the last good one took over again
	PhaseDropped    Phase = "dropped"     // withdrawn by the hub before it acted
)

// Final says whether a trial in this phase has ended.
func (p Phase) Final() bool {
	return p == PhaseConfirmed || p == PhaseFailed || p == PhaseRolledBack || p == PhaseDropped
}

// Reported is published by the device: on every change of phase or condition,
// and at every heartbeat.
type Reported struct {
	Schema     int       `json:"schema"` // 1
	Site       string    `json:"site"`
	Node       string    `json:"node"`
	Boot       string    `json:"boot"`       // random per start of the agent
	Seq        uint64    `json:"seq"`        // rises by one with each report of a boot
	Generation uint64    `json:"generation"` // newest desired generation the device has taken in
	At         time.Time `json:"at"`         // UTC, by the device's clock

	Class  artifact.Class    `json:"class"`
	Labels map[string]string `json:"labels,omitempty"` // e.g. line, hardware, product
	Agent  Agent             `json:"agent"`

	Champion *Running `json:"champion,omitempty"`  // nil: no model acts
	LastGood *Running `json:"last_good,omitempty"` // nil: nothing to fall back to
	Trial    *Trial   `json:"trial,omitempty"`     // nil: never had one since the slots were made

	// Firmware is what the device does about its own program. nil: it cannot
	// replace it, because no boot loader started it.
	Firmware *Firmware `json:"firmware,omitempty"`

	Stream Stream `json:"stream"`
	// Frames is what became of a camera's pictures. nil: the device is no camera.
	Frames     *Frames     `json:"frames,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
	// Quarantined are manifests this device has rolled back and will not try again.
	Quarantined []artifact.Digest `json:"quarantined,omitempty"`
	// Metrics are further numbers of the device, by name: what a policy's own
	// gates may ask about. At most MaxMetrics, named in small letters, digits and
	// underscores, a letter first, at most 40 of them. nil: none.
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Offline marks the will message that the broker publishes when the
	// device's connection is lost; every other field but site and node is zero.
	Offline bool `json:"offline,omitempty"`
}

// Firmware is the state of the device's program.
type Firmware struct {
	// Running is the release that runs, with Model as the digest of the image
	// file its bytes came from; counts are of this start. nil: it was installed
	// by a package.
	Running *Running `json:"running,omitempty"`
	// LastGood is the release that was committed last. nil: none.
	LastGood *Running `json:"last_good,omitempty"`
	// Trial is the newest trial of a firmware release. It never shadows: it is
	// activated by a restart into the other slot. nil: never had one.
	Trial *Trial `json:"trial,omitempty"`
}

// Agent describes the program itself.
type Agent struct {
	Version  string  `json:"version"`
	Arch     string  `json:"arch"`               // GOARCH
	Slot     string  `json:"slot,omitempty"`     // "a" or "b"
	Protocol int     `json:"protocol"`           // protocol.Version
	RSSMiB   float64 `json:"rss_mib"`            // resident memory
	CPUs     int     `json:"cpus,omitempty"`     //
	Firmware string  `json:"firmware,omitempty"` // manifest digest of the running image, empty when installed by a package
}

// Running is one model with its attestation: Model is the digest of the bytes
// the loaded session was made from, hashed at load.
type Running struct {
	Name         string          `json:"name"`
	Counter      uint64          `json:"counter"`
	Manifest     artifact.Digest `json:"manifest"`
	Model        artifact.Digest `json:"model"`
	Since        time.Time       `json:"since"`      // when it became champion
	Windows      uint64          `json:"windows"`    // scored since then, in this boot or before
	Flagged      uint64          `json:"flagged"`    // of those, anomalous
	NonFinite    uint64          `json:"non_finite"` // of those, with a NaN or infinite score
	LatencyP99Ms float64         `json:"latency_p99_ms"`
	Threshold    float64         `json:"threshold"`
	// Drift is as in Shadow, over the windows since it became champion in this
	// boot.
	Drift *float64 `json:"drift,omitempty"`
}

// Trial is the state of the release on trial.
type Trial struct {
	Rollout  string          `json:"rollout"`
	Name     string          `json:"name"`
	Counter  uint64          `json:"counter"`
	Manifest artifact.Digest `json:"manifest"`
	Mode     Mode            `json:"mode"`
	Try      int             `json:"try,omitempty"`   // of the assignment it answers
	Model    artifact.Digest `json:"model,omitempty"` // set once loaded
	Phase    Phase           `json:"phase"`
	Since    time.Time       `json:"since"` // when this phase began
	// Reason says why the trial ended or what it waits for, in a sentence;
	// Code is the same as one stable word (see the Code constants).
	Reason     string  `json:"reason,omitempty"`
	Code       Code    `json:"code,omitempty"`
	Attempts   int     `json:"attempts"` // starts of this trial on this device
	BytesDone  int64   `json:"bytes_done"`
	BytesTotal int64   `json:"bytes_total"`
	Shadow     *Shadow `json:"shadow,omitempty"` // nil until it has shadowed
	// Lease is the id of the lease under which it was activated.
	Lease string `json:"lease,omitempty"`
	// Windows, NonFinite and LatencyP99Ms are counted while it soaks.
	Windows      uint64  `json:"windows,omitempty"`
	NonFinite    uint64  `json:"non_finite,omitempty"`
	LatencyP99Ms float64 `json:"latency_p99_ms,omitempty"`
}

// Code is a stable word for why a trial ended.
type Code string

// The codes.
const (
	CodeFetch      Code = "fetch_failed"
	CodeSignature  Code = "bad_signature"
	CodeContent    Code = "bad_content" // a digest or size differs, a file is missing or extra
	CodeCounter    Code = "old_counter" // below the floor or what runs
	CodeClass      Code = "wrong_class" // no variant for this device
	CodeGuard      Code = "bad_graph"   // refused by the graph checks
	CodeMemory     Code = "no_memory"
	CodeLoad       Code = "load_failed" // includes a crash while loading
	CodeGolden     Code = "golden_failed"
	CodeNonFinite  Code = "non_finite"
	CodeLatency    Code = "too_slow"
	CodeFlags      Code = "too_many_flags"
	CodeOutput     Code = "no_output" // scored too few of the windows that were due
	CodeCrash      Code = "crash_loop"
	CodeDisk       Code = "disk"
	CodeDeadline   Code = "deadline"
	CodeAttempts   Code = "attempts"    // tried as often as allowed
	CodeWithdrawn  Code = "withdrawn"   // the hub took the offer back
	CodeQuarantine Code = "quarantined" // rolled back here before
	CodeExpired    Code = "expired"     // the desired document or lease ran out
)

// Shadow counts what champion and challenger flagged on the same windows
// since the shadow began, and per closed counting window for the e-process.
type Shadow struct {
	Items          uint64  `json:"items"`           // windows both scored
	OnlyChallenger uint64  `json:"only_challenger"` // a: flagged by the challenger alone
	OnlyChampion   uint64  `json:"only_champion"`   // b: flagged by the champion alone
	Both           uint64  `json:"both"`
	NonFinite      uint64  `json:"non_finite"`     // challenger scores that were NaN or infinite
	LatencyP99Ms   float64 `json:"latency_p99_ms"` // of the challenger
	// Drift is how far the challenger's scores lie from those it was calibrated
	// on: their population stability index over the deciles of its contract.
	// nil: the contract has none, or too few windows were scored to tell.
	Drift *float64 `json:"drift,omitempty"`
	// Windows are the newest closed counting windows, oldest first, at most
	// MaxShadowWindows. Index is that of the first one since the shadow began.
	Index   uint64         `json:"index"`
	Windows []ShadowWindow `json:"windows,omitempty"`
}

// MaxShadowWindows caps Shadow.Windows; a hub that missed more holds the gate.
const MaxShadowWindows = 64

// MaxMetrics caps Reported.Metrics.
const MaxMetrics = 16

// maxMetricName caps the name of a metric.
const maxMetricName = 40

// validMetric says whether a metric may have this name.
func validMetric(name string) bool {
	for i, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '_')) {
			return false
		}
	}
	return name != "" && len(name) <= maxMetricName
}

// ShadowWindow is one counting window of the behaviour gate.
type ShadowWindow struct {
	OnlyChallenger uint32 `json:"a"`
	OnlyChampion   uint32 `json:"b"`
	Items          uint32 `json:"n"`
}

// Stream says how data flows through the device. Counters never fall, except
// across a re-installation.
type Stream struct {
	Samples       uint64  `json:"samples"`               // rows read from sources
	WindowsDue    uint64  `json:"windows_due"`           // windows that should have been scored since the first champion
	WindowsScored uint64  `json:"windows_scored"`        // windows a champion scored
	WindowsLost   uint64  `json:"windows_lost"`          // due and never to be scored
	ValuesHeld    uint64  `json:"values_held,omitempty"` // missing values taken to be the one before
	StoppedMs     uint64  `json:"stopped_ms"`            // time in which samples came and no champion scored them, after the first champion
	SpoolBlocks   int     `json:"spool_blocks"`          // waiting for acknowledgement
	SpoolBytes    int64   `json:"spool_bytes"`
	SpoolDropped  uint64  `json:"spool_dropped"` // blocks dropped because the spool was full
	Swaps         uint64  `json:"swaps"`
	SampleRateHz  float64 `json:"sample_rate_hz,omitempty"`
}

// Frames says which of its pictures a camera sends to the hub. Counters never
// fall, except across a re-installation.
type Frames struct {
	Unreadable  uint64 `json:"unreadable"`   // pictures that could not be decoded, and were skipped
	Chosen      uint64 `json:"chosen"`       // wanted by the device's policy
	Refused     uint64 `json:"refused"`      // of those, not sent because the day's budget was spent
	Sent        uint64 `json:"sent"`         // acknowledged by the hub
	Dropped     uint64 `json:"dropped"`      // chosen and lost: the spool was full or not writable
	SpoolFrames int    `json:"spool_frames"` // waiting for acknowledgement
	SpoolBytes  int64  `json:"spool_bytes"`
	// BudgetBytes are left to send now. Absent: there is no budget.
	BudgetBytes *int64 `json:"budget_bytes,omitempty"`
}

// Condition is one finding about health, Kubernetes style.
type Condition struct {
	Type    string    `json:"type"`   // e.g. "DiskPressure", "ClockSkew", "SourceStalled", "CertificateExpiring"
	Status  bool      `json:"status"` // true: it holds now
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"` // a sentence with the remedy
	Since   time.Time `json:"since"`
}

// ParseDesired reads a desired document for device id. Unknown fields are
// accepted: a newer hub may say more.
func ParseDesired(b []byte, id topic.ID) (Desired, error) {
	var d Desired
	if err := parse(b, &d); err != nil {
		return Desired{}, fmt.Errorf("read desired document: %w", err)
	}
	if d.Schema != 1 {
		return Desired{}, fmt.Errorf("desired document has schema %d: this version reads 1", d.Schema)
	}
	if d.Site != id.Site || d.Node != id.Node {
		return Desired{}, fmt.Errorf("desired document is for %s/%s, not for %s", d.Site, d.Node, id)
	}
	for _, a := range []*Assignment{d.Model, d.Firmware} {
		if a == nil {
			continue
		}
		if err := a.Manifest.Validate(); err != nil {
			return Desired{}, fmt.Errorf("desired document: manifest: %w", err)
		}
		if a.Mode != ModeTrial && a.Mode != ModeRollback {
			return Desired{}, fmt.Errorf("desired document: unknown mode %q", a.Mode)
		}
	}
	return d, nil
}

// ParseReported reads a reported document that arrived on the topic of id.
func ParseReported(b []byte, id topic.ID) (Reported, error) {
	var r Reported
	if err := parse(b, &r); err != nil {
		return Reported{}, fmt.Errorf("read reported document: %w", err)
	}
	if r.Schema != 1 {
		return Reported{}, fmt.Errorf("reported document has schema %d: this version reads 1", r.Schema)
	}
	if r.Site != id.Site || r.Node != id.Node {
		return Reported{}, fmt.Errorf("reported document says %s/%s and came from %s", r.Site, r.Node, id)
	}
	if r.Trial != nil && r.Trial.Shadow != nil && len(r.Trial.Shadow.Windows) > MaxShadowWindows {
		return Reported{}, fmt.Errorf("reported document has %d shadow windows: at most %d", len(r.Trial.Shadow.Windows), MaxShadowWindows)
	}
	if len(r.Metrics) > MaxMetrics {
		return Reported{}, fmt.Errorf("reported document has %d metrics: at most %d", len(r.Metrics), MaxMetrics)
	}
	for name := range r.Metrics {
		if !validMetric(name) {
			return Reported{}, fmt.Errorf("reported document has a metric %.50q: want small letters, digits and underscores, a letter first, at most %d", name, maxMetricName)
		}
	}
	return r, nil
}

func parse(b []byte, v any) error {
	if len(b) > MaxDocumentBytes {
		return fmt.Errorf("%d bytes are over %d", len(b), MaxDocumentBytes)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the document")
	}
	return nil
}
