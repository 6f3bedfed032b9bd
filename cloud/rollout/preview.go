package rollout

import (
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// Preview says what a rollout would do before it is started.
type Preview struct {
	Waves []PreviewWave `json:"waves"`
	// Groups are the groups of each budget, the tightest first.
	Groups []PreviewGroup `json:"groups,omitempty"`
	// Windows say when devices may activate, one line for devices to which the
	// same windows apply in the same zone.
	Windows []PreviewWindow `json:"windows,omitempty"`
	// Excluded are devices that cannot take part, with the reason.
	Excluded []PreviewDevice `json:"excluded,omitempty"`
	// Refusals say why the rollout could not be started. Empty: it could.
	Refusals []string `json:"refusals,omitempty"`
	// Finish is when it would be promoted if every device is reachable and
	// every gate passes as soon as it may. Zero: it cannot be said.
	Finish time.Time `json:"finish,omitzero"`
}

// PreviewWave is one wave with its devices in drawing order.
type PreviewWave struct {
	Name      string          `json:"name"`
	Devices   []PreviewDevice `json:"devices"`
	Approvals int             `json:"approvals,omitempty"`
	Approvers []string        `json:"approvers,omitempty"`
	DeadlineS float64         `json:"deadline_s"`
	// DurationS is how long it would take, without waiting for people.
	DurationS float64 `json:"duration_s"`
}

// PreviewDevice is one device with what people know it by.
type PreviewDevice struct {
	Device topic.ID `json:"device"`
	Line   string   `json:"line,omitempty"`
	Why    string   `json:"why,omitempty"` // why it is excluded
}

// PreviewGroup is one group of one budget.
type PreviewGroup struct {
	GroupBy     string `json:"group_by"`
	Group       string `json:"group"` // the label's value; "" for devices without it
	Size        int    `json:"size"`
	Limit       int    `json:"limit"`       // how many may be unavailable at once
	Unavailable int    `json:"unavailable"` // how many are now
}

// PreviewWindow says when some devices may activate.
type PreviewWindow struct {
	Names   []string `json:"names,omitempty"` // of the windows; none: no window is for them
	Zone    string   `json:"zone"`
	Devices int      `json:"devices"`
	Open    bool     `json:"open"`
	// Change is when it opens or closes next. Zero: not within the next year.
	Change time.Time `json:"change,omitzero"`
}
