package retrain

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/swellfleet/swell/protocol/artifact"
)

// Judged is the result of the step evaluate.
type Judged struct {
	Classes []JudgedClass `json:"classes"`
}

// JudgedClass compares the candidates of one class, and its champion, on the
// same windows.
type JudgedClass struct {
	Class      artifact.Class `json:"class"`
	Windows    int            `json:"windows"` // held-out windows that the one with the most was judged on
	Champion   *Score         `json:"champion,omitempty"`
	Candidates []Score        `json:"candidates"`
	InSample   bool           `json:"in_sample"`        // judged on rows that also set the threshold
	Failed     []string       `json:"failed,omitempty"` // why kinds have no candidate
}

// Score is how one model did.
type Score struct {
	Candidate Candidate          `json:"candidate"`
	Windows   int                `json:"windows"`          // held-out normal ones that it was judged on
	Days      float64            `json:"days"`             // of operation that these are, over all devices; 0: its rate is not known
	FlagShare float64            `json:"flag_share"`       // of Windows
	PerDay    float64            `json:"per_day"`          // the same as flags a day and device
	Detected  float64            `json:"detected"`         // share of simulated faults found
	Faults    int                `json:"faults"`           // how many were simulated
	ByFault   map[string]float64 `json:"by_fault"`         // detected by kind of fault
	NonFinite int                `json:"non_finite"`       // scores that were NaN or infinite
	Alarms    float64            `json:"alarms_per_day"`   // runs of flagged normal windows, a day and device
	Events    int                `json:"events,omitempty"` // that people labelled
	// EventsFound are those in which a window was flagged.
	EventsFound int          `json:"events_found,omitempty"`
	Slices      []SliceScore `json:"slices,omitempty"`
	// Beside sets it beside the champion on the same windows; nil for the
	// champion, and without one.
	Beside *Pair       `json:"beside,omitempty"`
	Images *ImageScore `json:"images,omitempty"` // of models of cameras; the rest then counts images for windows
	Err    string      `json:"err,omitempty"`    // why it could not be judged
}

// Verdict is a gate's answer.
type Verdict string

// The verdicts. INCONCLUSIVE is never a pass.
const (
	Pass         Verdict = "PASS"
	Fail         Verdict = "FAIL"
	Inconclusive Verdict = "INCONCLUSIVE"
)

// GateResult is one check with its numbers.
type GateResult struct {
	Gate    string         `json:"gate"`
	Class   artifact.Class `json:"class"`
	Device  string         `json:"device,omitempty"`  // of a gate on one device's data
	Channel string         `json:"channel,omitempty"` // of a gate on one channel
	Kind    string         `json:"kind"`              // detector; empty: a gate on data
	Verdict Verdict        `json:"verdict"`
	Value   float64        `json:"value"`
	Limit   float64        `json:"limit"`
	AtMost  bool           `json:"at_most"` // value must be at most limit; otherwise at least
	N       int            `json:"n"`
	// Advisory marks a check that tells and does not refuse.
	Advisory bool   `json:"advisory,omitempty"`
	Message  string `json:"message"`
}

func (r GateResult) refuses() bool { return r.Verdict != Pass && !r.Advisory }

// Blessed is the result of the step bless.
type Blessed struct {
	Winners  []Winner     `json:"winners"` // one a class, of the classes that have one
	Gates    []GateResult `json:"gates"`
	Refusals []string     `json:"refusals,omitempty"` // why a class, or everything, got none
}

// Winner is the candidate that ships for a class.
type Winner struct {
	Score Score  `json:"score"`
	Why   string `json:"why"`
	// ChampionFlagShare is that of the champion on the same windows; negative
	// without a champion.
	ChampionFlagShare float64 `json:"champion_flag_share"`
}

// describe says who won, in a sentence without its full stop.
func (b Blessed) describe() string {
	if len(b.Winners) == 1 {
		return b.Winners[0].Why
	}
	kinds := map[string]int{}
	for _, w := range b.Winners {
		kinds[w.Score.Candidate.Kind]++
	}
	var parts []string
	for k, n := range kinds {
		parts = append(parts, fmt.Sprintf("%s for %d device class%s", k, n, map[bool]string{true: "", false: "es"}[n == 1]))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// Bless decides which candidates may ship. It is pure. Each gate has three
// values and only PASS passes; a class without a passing candidate keeps its
// champion, and nothing ships when no class has one.
func Bless(g Gates, j Judged) Blessed {
	var out Blessed
	for _, c := range j.Classes {
		var passing []Score
		for _, s := range c.Candidates {
			gates := checkGates(g, c, s)
			out.Gates = append(out.Gates, gates...)
			if !slices.ContainsFunc(gates, GateResult.refuses) {
				passing = append(passing, s)
			}
		}
		if len(passing) == 0 {
			out.Refusals = append(out.Refusals, refusal(c, out.Gates))
			continue
		}
		w := Winner{Score: best(passing), ChampionFlagShare: -1}
		w.Why = w.Score.Candidate.Name() + " " + w.Score.describe()
		for _, other := range c.Candidates {
			if other.Candidate.Digest != w.Score.Candidate.Digest && other.Err == "" {
				w.Why += fmt.Sprintf("; %s: %s", other.Candidate.Name(), other.figures())
			}
		}
		if c.Champion != nil && c.Champion.Err == "" {
			w.ChampionFlagShare = c.Champion.FlagShare
			w.Why += "; the champion: " + c.Champion.figures()
		}
		out.Winners = append(out.Winners, w)
	}
	if len(j.Classes) == 0 {
		out.Refusals = append(out.Refusals, "no candidate was judged")
	}
	return out
}

// Differences that a night's data cannot tell from chance.
const (
	sameDetected  = 0.01  // of the share of faults found
	sameFlagShare = 0.005 // of normal windows
)

// best chooses among candidates that pass: the most images named right, or else
// the most faults found; among equals the fewest flags on normal data; among
// equals the first, since policies name the simpler kinds first.
func best(passing []Score) Score {
	most := func(value func(Score) float64, same float64) {
		top := value(slices.MaxFunc(passing, func(a, b Score) int { return cmp.Compare(value(a), value(b)) }))
		passing = slices.DeleteFunc(passing, func(s Score) bool { return value(s) < top-same })
	}
	passing = slices.Clone(passing)
	same := sameDetected
	if !slices.ContainsFunc(passing, func(s Score) bool { return s.Images == nil }) {
		most(func(s Score) float64 { return s.Images.Accuracy }, 0)
		// Few drawn defects say little of small differences.
		same = max(same, 1/math.Sqrt(float64(max(passing[0].Faults, 1))))
	}
	most(func(s Score) float64 { return s.Detected }, same)
	most(func(s Score) float64 { return -s.FlagShare }, sameFlagShare)
	return passing[0]
}

// describe says what the model does, in words that follow its name.
func (s Score) describe() string {
	switch {
	case s.Images == nil:
		return fmt.Sprintf("finds %.0f %% of simulated faults and flags %.2f %% of normal windows", 100*s.Detected, 100*s.FlagShare)
	case len(s.Images.Classes) > 0:
		return fmt.Sprintf("names %.1f %% of %d images right", 100*s.Images.Accuracy, s.Images.Images)
	}
	return fmt.Sprintf("finds %.0f %% of drawn defects and flags %.2f %% of %d good parts", 100*s.Detected, 100*s.FlagShare, s.Images.Images)
}

// figures are the same of another model, without the words.
func (s Score) figures() string {
	switch {
	case s.Images == nil:
		return fmt.Sprintf("%.0f %% and %.2f %%", 100*s.Detected, 100*s.FlagShare)
	case len(s.Images.Classes) > 0:
		return fmt.Sprintf("%.1f %%", 100*s.Images.Accuracy)
	}
	return fmt.Sprintf("%.0f %% and %.2f %%", 100*s.Detected, 100*s.FlagShare)
}

func refusal(c JudgedClass, gates []GateResult) string {
	var why []string
	for _, r := range gates {
		if r.Class == c.Class && r.refuses() {
			why = append(why, r.Message)
		}
	}
	if len(c.Candidates) == 0 {
		why = append([]string{"there is no candidate"}, c.Failed...)
	}
	return fmt.Sprintf("class %s: %s", c.Class, strings.Join(why, ", "))
}

func checkGates(g Gates, c JudgedClass, s Score) []GateResult {
	kind := s.Candidate.Name()
	if s.Err != "" || s.Windows == 0 {
		why := s.Err
		if why == "" {
			why = "no held-out normal window to judge it on"
		}
		return []GateResult{{Gate: "evidence", Class: c.Class, Kind: kind, Verdict: Inconclusive, N: s.Windows, Message: fmt.Sprintf("%s cannot be judged: %s", kind, why)}}
	}
	at := func(gate string, value, limit float64, atMost bool, n int, what string) GateResult {
		r := GateResult{Gate: gate, Class: c.Class, Kind: kind, Verdict: Fail, Value: value, Limit: limit, AtMost: atMost, N: n}
		// Written so that a NaN fails.
		if atMost && value <= limit || !atMost && value >= limit {
			r.Verdict = Pass
		}
		sign := "≥"
		if atMost {
			sign = "≤"
		}
		r.Message = fmt.Sprintf("%s: %s %.3g, wanted %s %.3g", kind, what, value, sign, limit)
		return r
	}
	if s.Images != nil {
		return imageGates(g, c, s, at)
	}
	out := []GateResult{
		at("non-finite", float64(s.NonFinite), 0, true, s.Windows, "non-finite scores"),
		at("flag-share", s.FlagShare, g.MaxFlagShare, true, s.Windows, "share of normal windows flagged"),
	}
	switch {
	case g.MaxPerDay == 0:
	case !(s.Days > 0):
		out = append(out, GateResult{Gate: "false-alarms-per-day", Class: c.Class, Kind: kind, Verdict: Inconclusive, Limit: g.MaxPerDay, AtMost: true, N: s.Windows, Message: kind + ": false alarms a day cannot be told, since its rows a second are not known"})
	default:
		out = append(out, at("false-alarms-per-day", s.Alarms, g.MaxPerDay, true, s.Windows, "false alarms a day and device"))
	}
	if r, ok := eventsGate(g, c, s); ok {
		out = append(out, r)
	}
	switch {
	case s.Faults == 0 && g.WaiveFaults:
	case s.Faults == 0:
		out = append(out, GateResult{Gate: "faults-found", Class: c.Class, Kind: kind, Verdict: Inconclusive, Limit: g.MinDetected, Message: kind + ": no fault could be simulated"})
	default:
		out = append(out, at("faults-found", s.Detected, g.MinDetected, false, s.Faults, "share of simulated faults found"))
	}
	if c.Champion == nil {
		return out
	}
	old := *c.Champion
	unknown := func(why string) []GateResult {
		return append(out, GateResult{Gate: "not-worse", Class: c.Class, Kind: kind, Verdict: Inconclusive, Message: "the champion cannot be judged: " + why})
	}
	switch {
	case old.Err != "":
		return unknown(old.Err)
	case old.Windows == 0:
		return unknown("no held-out normal window to judge it on")
	case old.FlagShare > g.MaxFlagShare && s.FlagShare <= g.MaxFlagShare:
		// A champion that alarms at everything finds everything. It would
		// not pass tonight itself, so it is no measure.
		out = append(out, at("not-worse", s.FlagShare-old.FlagShare, 0, true, s.Windows, "flags on normal data, against a champion that flags too much"))
	case old.Faults == 0 && g.WaiveFaults:
		out = append(out, at("not-worse", s.FlagShare-old.FlagShare, g.Margin, true, s.Windows, "flags on normal data, against the champion"))
	case old.Faults == 0:
		out = unknown("no fault could be simulated for it to find")
	default:
		out = append(out, at("not-worse", s.Detected-old.Detected, -g.Margin, false, s.Faults, "faults found, against the champion"))
	}
	return append(out, sliceGates(g, c, s)...)
}
