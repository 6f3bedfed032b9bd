package rollout

import (
	"fmt"
	"math"
)

// Policy says how a release may move. The zero value of a field takes the
// default named beside it; Validate explains what cannot work.
type Policy struct {
	Name  string `json:"name" yaml:"name"`
	Waves []Wave `json:"waves" yaml:"waves"` // at least one
	Gates []Gate `json:"gates" yaml:"gates"` // none takes DefaultGates
	// Budgets bound how many devices of a group may be unavailable at once.
	// None: no bound.
	Budgets []Budget `json:"budgets,omitempty" yaml:"budgets,omitempty"`
	// Windows say when devices may activate; see Window. None: always.
	Windows []Window `json:"windows,omitempty" yaml:"windows,omitempty"`
	// Growth adds waves that grow until they have reached every device, when
	// the rollout is created. nil: the waves as they are written.
	Growth *Growth `json:"growth,omitempty" yaml:"growth,omitempty"`
	// Stratify names the labels whose combinations every wave samples evenly.
	// None takes line, hardware, product.
	Stratify []string `json:"stratify,omitempty" yaml:"stratify,omitempty"`

	ShadowS       float64 `json:"shadow_s" yaml:"shadow_s"`                                   // challenger beside the champion; 0: no shadow, and then no shadow gate
	ShadowWindowS float64 `json:"shadow_window_s,omitempty" yaml:"shadow_window_s,omitempty"` // one counting window; default 60
	SoakS         float64 `json:"soak_s" yaml:"soak_s"`                                       // sound running before a device confirms
	MinWindows    uint64  `json:"min_windows,omitempty" yaml:"min_windows,omitempty"`         // scored in the soak; default 1

	LeaseS    float64 `json:"lease_s,omitempty" yaml:"lease_s,omitempty"`         // length of a permission to activate; default 600
	GraceS    float64 `json:"grace_s,omitempty" yaml:"grace_s,omitempty"`         // silence allowed past a lease or deadline; default 60
	StaleS    float64 `json:"stale_s,omitempty" yaml:"stale_s,omitempty"`         // age at which a report is no evidence any more; default 180
	Retries   int     `json:"retries,omitempty" yaml:"retries,omitempty"`         // further tries after a failure that is not the release's; default 0
	RetryS    float64 `json:"retry_s,omitempty" yaml:"retry_s,omitempty"`         // wait before the first of them, doubled each time; default 60
	RollbackS float64 `json:"rollback_s,omitempty" yaml:"rollback_s,omitempty"`   // how long a rollback is waited for; default 86400
	MaxPauseS float64 `json:"max_pause_s,omitempty" yaml:"max_pause_s,omitempty"` // a pause nobody lifts aborts; default 604800

	// made is what withDefaults makes of windows and expressions, once. nil in
	// a policy as people write it and as it is stored.
	made *made
}

// Wave is one ordered step. Devices, Share and Selector together say which
// devices it draws from those not drawn yet; with neither Devices nor Share it
// draws all that match.
type Wave struct {
	Name      string  `json:"name" yaml:"name"`
	Selector  string  `json:"selector,omitempty" yaml:"selector,omitempty"`     // see package selector; "" matches all
	Devices   int     `json:"devices,omitempty" yaml:"devices,omitempty"`       // how many it draws
	Share     float64 `json:"share,omitempty" yaml:"share,omitempty"`           // share of the fleet reached by its end, 0 to 1
	DeadlineS float64 `json:"deadline_s,omitempty" yaml:"deadline_s,omitempty"` // not passed by then fails the rollout; default 86400
	Approvals int     `json:"approvals,omitempty" yaml:"approvals,omitempty"`   // people, never the author, who must approve before it starts
	// Approvers are those whose consent counts, before it starts and at its
	// approval gate. None: anybody but the author.
	Approvers []string `json:"approvers,omitempty" yaml:"approvers,omitempty"`
}

// Window is a time in which devices may activate: every day, on days of the
// week, or on days of a shift cycle, between two times on the clock of the
// place. Times are what that clock shows: an hour that a clock change leaves
// out does not open anything, one that comes twice opens twice. A device that
// several windows match may activate in each of them; one that none matches
// may not. A lease is given only where the window stays open as long as it
// lasts. Going back needs no window.
type Window struct {
	Name      string   `json:"name" yaml:"name"`
	Selector  string   `json:"selector,omitempty" yaml:"selector,omitempty"`     // devices it is for, see package selector; "" matches all
	Zone      string   `json:"zone,omitempty" yaml:"zone,omitempty"`             // IANA time zone; "" is the device's label "zone", else UTC
	Days      []string `json:"days,omitempty" yaml:"days,omitempty"`             // mon, tue, wed, thu, fri, sat, sun, on which it begins; none: every day
	From      string   `json:"from,omitempty" yaml:"from,omitempty"`             // "22:00"; "" is 00:00
	To        string   `json:"to,omitempty" yaml:"to,omitempty"`                 // "06:00"; not after From: on the next day; "" is 24:00
	Start     string   `json:"start,omitempty" yaml:"start,omitempty"`           // date of day 0 of the shift cycle, "2026-11-02"
	EveryDays int      `json:"every_days,omitempty" yaml:"every_days,omitempty"` // length of the cycle; 0: no cycle
	On        []int    `json:"on,omitempty" yaml:"on,omitempty"`                 // days of the cycle on which it begins, from 0
	Except    []string `json:"except,omitempty" yaml:"except,omitempty"`         // dates on which it does not begin
	Also      []string `json:"also,omitempty" yaml:"also,omitempty"`             // dates on which it begins all the same; with neither days nor cycle the only ones
}

// Growth describes waves of which each is Factor times the one before. They
// follow the policy's own waves, and the last of them draws all that are left.
type Growth struct {
	First     int     `json:"first" yaml:"first"`                               // devices of the first such wave; at least 1
	Factor    float64 `json:"factor" yaml:"factor"`                             // above 1
	MaxShare  float64 `json:"max_share,omitempty" yaml:"max_share,omitempty"`   // largest share of the fleet in one wave; 0: no bound
	DeadlineS float64 `json:"deadline_s,omitempty" yaml:"deadline_s,omitempty"` // of each; default 86400
}

// Budget bounds how many devices that share the value of a label may be
// unavailable at once. Of the four numbers the strictest counts; at least one
// is set. Shares of the group round towards fewer unavailable devices.
type Budget struct {
	GroupBy             string  `json:"group_by" yaml:"group_by"` // label, e.g. "line"; devices without it form one group
	MaxUnavailable      int     `json:"max_unavailable,omitempty" yaml:"max_unavailable,omitempty"`
	MaxUnavailableShare float64 `json:"max_unavailable_share,omitempty" yaml:"max_unavailable_share,omitempty"`
	MinAvailable        int     `json:"min_available,omitempty" yaml:"min_available,omitempty"`
	MinAvailableShare   float64 `json:"min_available_share,omitempty" yaml:"min_available_share,omitempty"`
}

// GateName names a kind of check. The values are those of the REST contract.
type GateName string

// The gates.
const (
	// GateSuccess compares the share of started devices that are done with
	// Threshold (default 0.95), over at least MinN devices (default 1). With
	// Alpha above 0 the lower Clopper–Pearson bound at 1−Alpha has to reach it.
	GateSuccess GateName = "success"
	// GateShadow compares challenger and champion on the same windows: it
	// passes when "flags at least Threshold times as often" is refuted at
	// Alpha, and fails when "flags at most Threshold times as often" is.
	// Threshold defaults to 1.5, Alpha to 0.01, MinN (counting windows) to 5.
	GateShadow GateName = "shadow"
	// GateNonFinite bounds the share of NaN and infinite scores of the release
	// (default 0) over at least MinN windows (default 1).
	GateNonFinite GateName = "non-finite"
	// GateLatency bounds the worst device's p99 of one inference in ms
	// (Threshold has no default) over at least MinN devices (default 1).
	GateLatency GateName = "latency"
	// GateOutput bounds the share of windows lost since a device was offered
	// the release (default 0) over at least MinN windows (default 1).
	GateOutput GateName = "output"
	// GateMemory bounds what the release adds to the worst device's resident
	// memory in MiB, against when it was offered (Threshold has no default),
	// over at least MinN devices (default 1).
	GateMemory GateName = "memory"
	// GateDrift bounds how far the release's scores lie from those it was
	// calibrated on, as the worst device's population stability index (default
	// 0.25), over at least MinN devices (default 1).
	GateDrift GateName = "drift"
	// GateExpr passes where Expr says so; see package expr. What it asks for
	// and no device has reported is INCONCLUSIVE.
	GateExpr GateName = "expr"
	// GateApproval waits for MinN people (default 1) once the other gates of
	// the wave have passed.
	GateApproval GateName = "approval"
)

// Gate is one check that every wave has to pass.
type Gate struct {
	Name GateName `json:"name" yaml:"name"`
	// Threshold is what the value is compared with. nil takes the default.
	Threshold *float64 `json:"threshold,omitempty" yaml:"threshold,omitempty"`
	MinN      int64    `json:"min_n,omitempty" yaml:"min_n,omitempty"` // fewer than this is INCONCLUSIVE; 0 takes the default
	Alpha     float64  `json:"alpha,omitempty" yaml:"alpha,omitempty"` // error the test may make
	Expr      string   `json:"expr,omitempty" yaml:"expr,omitempty"`   // of the gate expr, which may be named several times
	Title     string   `json:"title,omitempty" yaml:"title,omitempty"` // of the gate expr, for people; tells several apart
}

// Result is a gate's answer.
type Result string

// The three results. Only Pass lets a wave go on.
const (
	Pass         Result = "PASS"
	Fail         Result = "FAIL"
	Inconclusive Result = "INCONCLUSIVE"
)

// Verdict is a gate's answer with its numbers.
type Verdict struct {
	Gate   GateName `json:"gate"`
	Title  string   `json:"title,omitempty"` // of the gate expr
	Result Result   `json:"result"`
	// Applies is false for a gate that has nothing to compare in this wave, as
	// the shadow gate on devices without a champion. Such a verdict is never
	// PASS; the gates that do apply decide.
	Applies    bool     `json:"applies"`
	Value      *float64 `json:"value,omitempty"` // nil: nothing to measure
	Comparison string   `json:"comparison"`      // how Value must stand to Threshold: "<=", "<" or ">="
	Threshold  float64  `json:"threshold"`
	N          int64    `json:"n"`
	NUnit      string   `json:"n_unit"`         // "devices" or "windows"
	Unit       string   `json:"unit,omitempty"` // of Value and Threshold
	Low        *float64 `json:"low,omitempty"`  // confidence bounds of Value
	High       *float64 `json:"high,omitempty"`
	// EHarm and ESafe are the shadow gate's e-values against "not worse than
	// the margin" and "worse than the margin".
	EHarm  float64 `json:"e_harm,omitempty"`
	ESafe  float64 `json:"e_safe,omitempty"`
	Reason string  `json:"reason"` // a sentence
}

// maxWaves caps the waves of a policy.
const maxWaves = 100

// Expand returns the policy with its growing waves written out for a fleet of
// so many devices. A policy without Growth, or with one that does not grow, is
// returned as it is.
func (p Policy) Expand(devices int) Policy {
	g := p.Growth
	if g == nil || g.validate() != nil {
		return p
	}
	p.Waves, p.Growth = append([]Wave{}, p.Waves...), nil
	most := float64(devices)
	if g.MaxShare > 0 {
		most = max(math.Floor(g.MaxShare*float64(devices)+1e-9), 1)
	}
	left := float64(devices)
	for _, w := range p.Waves {
		if w.Share > 0 {
			left = min(left, float64(devices)-math.Ceil(w.Share*float64(devices)-1e-9))
		} else {
			left -= float64(w.Devices)
		}
	}
	size := float64(g.First)
	for i := 1; ; i++ {
		n := min(math.Floor(size+1e-9), most)
		w := Wave{Name: fmt.Sprintf("growth %d", i), Devices: int(n), DeadlineS: g.DeadlineS}
		left -= n
		if left <= 0 || len(p.Waves) == maxWaves-1 {
			w.Devices = 0 // all that are left
			p.Waves = append(p.Waves, w)
			return p
		}
		p.Waves = append(p.Waves, w)
		size *= g.Factor
	}
}

// validate says why waves would not grow.
func (g Growth) validate() error {
	switch {
	case g.First < 1:
		return fmt.Errorf("growth: first is %d: want at least 1 device", g.First)
	case !(g.Factor > 1 && g.Factor <= 1000):
		return fmt.Errorf("growth: factor is %g: it does not grow: want above 1 and at most 1000", g.Factor)
	case !(g.MaxShare >= 0 && g.MaxShare <= 1):
		return fmt.Errorf("growth: max_share is %g: want 0 to 1", g.MaxShare)
	case !(g.DeadlineS >= 0 && g.DeadlineS <= 1e9):
		return fmt.Errorf("growth: deadline_s is %g: want seconds from 0 to 1e9", g.DeadlineS)
	}
	return nil
}
