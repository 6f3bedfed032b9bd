package retrain

import (
	"fmt"
	"math"
	"slices"

	"github.com/swellfleet/swell/models/evaluate"
)

// SliceScore is how a model did on a part of its class.
type SliceScore struct {
	Name      string  `json:"name"`    // "line=", "device=" or "fault=" with a name, "labelled events" or "labelled normal"
	Windows   int     `json:"windows"` // normal ones; 0: none were judged
	FlagShare float64 `json:"flag_share"`
	Faults    int     `json:"faults"` // simulated, or events that people labelled
	Detected  float64 `json:"detected"`
}

// What a slice needs to be judged by.
const (
	minSliceFaults  = 20
	minSliceEvents  = 3
	minSliceWindows = 100
	maxDeviceSlices = 100 // devices of a class that are looked at one by one
	allowance       = 1.28
)

// The slices of what people labelled.
const (
	sliceEvents = "labelled events"
	sliceNormal = "labelled normal"
)

// Pair sets a model beside the champion on the very same windows.
type Pair struct {
	Windows    int     `json:"windows"`
	FlagShare  float64 `json:"flag_share"`
	OfChampion float64 `json:"of_champion"`
	// Low and High bound the difference of the shares: 95 %, from blocks of
	// windows that follow each other, since neighbours say the same.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// pair compares verdicts of two models where both ended a window on normal
// rows; nil when that is nowhere.
func pair(champion, challenger map[string][]evaluate.Verdict, labels map[string][]bool) *Pair {
	var diffs []float64
	var p Pair
	for _, device := range sorted(challenger) {
		old := champion[device]
		at := 0
		for _, v := range challenger[device] {
			for at < len(old) && old[at].Row < v.Row {
				at++
			}
			if at == len(old) {
				break
			}
			if l := labels[device]; old[at].Row != v.Row || l != nil && l[v.Row] {
				continue
			}
			d := 0.0
			if v.Flag {
				p.FlagShare++
				d++
			}
			if old[at].Flag {
				p.OfChampion++
				d--
			}
			diffs = append(diffs, d)
		}
	}
	if p.Windows = len(diffs); p.Windows == 0 {
		return nil
	}
	p.FlagShare /= float64(p.Windows)
	p.OfChampion /= float64(p.Windows)
	size := max(1, p.Windows/30)
	var means []float64
	for part := range slices.Chunk(diffs, size) {
		if len(part) == size {
			means = append(means, mean(part))
		}
	}
	shift := p.FlagShare - p.OfChampion
	p.Low, p.High = -1, 1
	if n := len(means); n > 1 {
		m, squares := mean(means), 0.0
		for _, x := range means {
			squares += (x - m) * (x - m)
		}
		half := 2.05 * math.Sqrt(squares/float64(n-1)/float64(n))
		p.Low, p.High = max(-1, shift-half), min(1, shift+half)
	}
	return &p
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// sliceGates compares a model with the champion slice by slice. A slice that
// shows too little is told and does not refuse, unless the policy is strict.
func sliceGates(g Gates, c JudgedClass, s Score) []GateResult {
	var out []GateResult
	for _, old := range c.Champion.Slices {
		i := slices.IndexFunc(s.Slices, func(n SliceScore) bool { return n.Name == old.Name })
		now := SliceScore{Name: old.Name}
		if i >= 0 {
			now = s.Slices[i]
		}
		out = append(out, sliceGate(g, c, s, now, old))
	}
	return out
}

func sliceGate(g Gates, c JudgedClass, s Score, now, old SliceScore) GateResult {
	r := GateResult{Gate: "not-worse/" + now.Name, Class: c.Class, Kind: s.Candidate.Name(), Verdict: Inconclusive, Limit: g.SliceMargin, AtMost: true, Advisory: !g.StrictSlices}
	least := minSliceFaults
	if now.Name == sliceEvents {
		least = minSliceEvents
	}
	judged := false
	// look keeps the worse of two findings: what is sure goes before what is not.
	grave := map[Verdict]int{Pass: 0, Inconclusive: 1, Fail: 2}
	look := func(worse, uncertain float64, n int, format string, args ...any) {
		verdict, unsure := Pass, ""
		switch { // written so that a NaN fails
		case worse <= g.SliceMargin:
		case worse <= g.SliceMargin+allowance*uncertain:
			verdict, unsure = Inconclusive, "; too few were judged to be sure"
		default:
			verdict = Fail
		}
		if judged && (grave[verdict] < grave[r.Verdict] || verdict == r.Verdict && worse <= r.Value) {
			return
		}
		judged, r.Value, r.N, r.Verdict = true, worse, n, verdict
		r.Advisory = verdict != Fail && !g.StrictSlices
		r.Message = fmt.Sprintf("%s on %s: ", r.Kind, now.Name) + fmt.Sprintf(format, args...) + fmt.Sprintf(" (may be worse by %.0f points)", 100*g.SliceMargin) + unsure
	}
	// A champion that alarms at everything finds everything.
	if min(now.Faults, old.Faults) >= least && c.Champion.FlagShare <= g.MaxFlagShare {
		look(old.Detected-now.Detected, deviation(now.Detected, now.Faults, old.Detected, old.Faults), now.Faults,
			"finds %.0f %% of %d, the champion %.0f %%", 100*now.Detected, now.Faults, 100*old.Detected)
	}
	if min(now.Windows, old.Windows) >= minSliceWindows {
		look(now.FlagShare-old.FlagShare, deviation(now.FlagShare, now.Windows, old.FlagShare, old.Windows), now.Windows,
			"flags %.2f %% of %d normal windows, the champion %.2f %%", 100*now.FlagShare, now.Windows, 100*old.FlagShare)
	}
	if !judged {
		r.N = max(min(now.Faults, old.Faults), min(now.Windows, old.Windows))
		windows, faults := min(now.Windows, old.Windows), min(now.Faults, old.Faults)
		r.Message = fmt.Sprintf("%s on %s: %d windows and %d faults are too few to judge by (%d or %d are needed)", r.Kind, now.Name, windows, faults, minSliceWindows, least)
	}
	return r
}

// deviation is the standard error of the difference of two shares.
func deviation(p float64, n int, q float64, m int) float64 {
	return math.Sqrt(p*(1-p)/float64(n) + q*(1-q)/float64(m))
}

// eventsGate checks what a model finds of the events that people labelled;
// false when there are none and the policy asks for none.
func eventsGate(g Gates, c JudgedClass, s Score) (GateResult, bool) {
	r := GateResult{Gate: "labelled-events", Class: c.Class, Kind: s.Candidate.Name(), Verdict: Inconclusive, Limit: g.MinEventsFound, N: s.Events}
	if s.Events == 0 {
		r.Message = r.Kind + ": nobody labelled an event, and the policy wants a share of them found"
		return r, g.MinEventsFound > 0
	}
	r.Value, r.Verdict = share(s.EventsFound, s.Events), Fail
	if r.Value >= g.MinEventsFound {
		r.Verdict = Pass
	}
	r.Message = fmt.Sprintf("%s: finds %d of %d events that people labelled, wanted ≥ %.0f %%", r.Kind, s.EventsFound, s.Events, 100*g.MinEventsFound)
	return r, true
}
