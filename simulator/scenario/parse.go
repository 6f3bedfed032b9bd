package scenario

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
)

// Scenario is what a file says. docs/scenarios.md describes the language.
type Scenario struct {
	Name    string
	Seed    uint64
	Devices int
	Lines   int
	First   bool // devices have no model at the start
	For     time.Duration
	Policy  rollout.Policy

	MinDelay, MaxDelay time.Duration
	Drop, Duplicate    float64
	Faults             []Fault
	Release            Nature
	Steps              []Step
	Expect             []Expectation
}

// Nature says how the release behaves.
type Nature struct {
	Flags       float64
	LatencyMs   float64
	NonFinite   time.Duration
	CrashAtLoad bool
	Unsigned    bool
	On          string // selector; "" is everywhere
}

// Fault strikes every device again and again, until the scenario's faults end.
type Fault struct {
	Kind  string        // "power" or "offline"
	Every time.Duration // mean time between two of one device
	For   time.Duration // how long each lasts
}

// Step is something that happens at one time.
type Step struct {
	At   time.Duration
	Verb string // partition, power, pause, resume, abort, promote, hub
	Arg  string // a device, a selector or a reason
	For  time.Duration
}

// Expectation is what has to be true at the end.
type Expectation struct {
	What  string // state, wave, running, harmed or swaps
	Op    string // =, <=, >=
	Value string
}

// Parse reads a scenario. Anything it does not know is an error with its line.
func Parse(name string, r io.Reader) (Scenario, error) {
	s := Scenario{Name: name, Seed: 1, Lines: 1, For: 6 * time.Hour}
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		l := &reader{words: words[1:]}
		if err := s.line(words[0], l); err != nil {
			return Scenario{}, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if len(l.words) > 0 {
			return Scenario{}, fmt.Errorf("%s:%d: cannot read %q", name, n, strings.Join(l.words, " "))
		}
	}
	if err := in.Err(); err != nil {
		return Scenario{}, fmt.Errorf("read %s: %w", name, err)
	}
	if s.Devices < 1 || s.Devices > 1_000_000 || s.Lines < 1 {
		return Scenario{}, fmt.Errorf("%s: say how many devices there are: fleet 24 lines 3", name)
	}
	s.Policy.Name = name
	if err := s.Policy.Validate(); err != nil {
		return Scenario{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// reader takes words off a line.
type reader struct {
	words []string
	err   error
}

// next returns the next word, "" after the last.
func (l *reader) next() string {
	if len(l.words) == 0 {
		return ""
	}
	w := l.words[0]
	l.words = l.words[1:]
	return w
}

// has takes a word off if it comes next.
func (l *reader) has(word string) bool {
	if len(l.words) > 0 && l.words[0] == word {
		l.words = l.words[1:]
		return true
	}
	return false
}

// rest takes all words, without quotes.
func (l *reader) rest() string {
	s := strings.Trim(strings.Join(l.words, " "), `"`)
	l.words = nil
	return s
}

func read[T any](l *reader, parse func(string) (T, error), what string) T {
	w := l.next()
	v, err := parse(w)
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("%q: want %s", w, what)
	}
	return v
}

func (l *reader) integer() int { return read(l, strconv.Atoi, "a number such as 3") }

func (l *reader) span() time.Duration {
	return read(l, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err == nil && d < 0 {
			err = strconv.ErrRange
		}
		return d, err
	}, "a duration such as 90s, 10m or 2h")
}

// share reads 0.25 or 25%.
func (l *reader) share() float64 {
	return read(l, func(s string) (float64, error) {
		n, percent := strings.CutSuffix(s, "%")
		v, err := strconv.ParseFloat(n, 64)
		if percent {
			v /= 100
		}
		if err == nil && !(v >= 0 && v <= 1) {
			err = strconv.ErrRange
		}
		return v, err
	}, "a share such as 0.25 or 25%")
}

func (l *reader) number() float64 {
	return read(l, func(s string) (float64, error) {
		return strconv.ParseFloat(strings.TrimPrefix(s, "x"), 64)
	}, "a number such as 1.5 or x2")
}

func (s *Scenario) line(verb string, l *reader) error {
	switch verb {
	case "seed":
		s.Seed = uint64(l.integer())
	case "fleet":
		s.Devices = l.integer()
		if l.has("lines") {
			s.Lines = l.integer()
		}
		s.First = l.has("empty")
	case "for":
		s.For = l.span()
	case "wave":
		w := rollout.Wave{Name: l.next(), DeadlineS: 4 * 3600}
		for len(l.words) > 0 && l.err == nil {
			switch {
			case l.has("devices"):
				w.Devices = l.integer()
			case l.has("share"):
				w.Share = l.share()
			case l.has("select"):
				w.Selector = l.next()
			case l.has("deadline"):
				w.DeadlineS = l.span().Seconds()
			case l.has("approvals"):
				w.Approvals = l.integer()
			default:
				return fmt.Errorf("a wave has no %q: use devices, share, select, deadline, approvals", l.words[0])
			}
		}
		s.Policy.Waves = append(s.Policy.Waves, w)
	case "gate":
		g := rollout.Gate{Name: rollout.GateName(l.next())}
		if len(l.words) > 0 && l.words[0] != "alpha" && l.words[0] != "min" {
			v := l.number()
			g.Threshold = &v
		}
		if l.has("alpha") {
			g.Alpha = l.share()
		}
		if l.has("min") {
			g.MinN = int64(l.integer())
		}
		s.Policy.Gates = append(s.Policy.Gates, g)
	case "budget":
		b := rollout.Budget{GroupBy: l.next()}
		if len(l.words) > 0 && strings.HasSuffix(l.words[0], "%") {
			b.MaxUnavailableShare = l.share()
		} else {
			b.MaxUnavailable = l.integer()
		}
		s.Policy.Budgets = append(s.Policy.Budgets, b)
	case "shadow":
		s.Policy.ShadowS = l.span().Seconds()
		if l.has("window") {
			s.Policy.ShadowWindowS = l.span().Seconds()
		}
	case "soak":
		s.Policy.SoakS = l.span().Seconds()
	case "lease":
		s.Policy.LeaseS = l.span().Seconds()
	case "retries":
		s.Policy.Retries = l.integer()
	case "network":
		for len(l.words) > 0 && l.err == nil {
			switch {
			case l.has("delay"):
				s.MinDelay = l.span()
				s.MaxDelay = s.MinDelay
				if l.has("to") {
					s.MaxDelay = max(l.span(), s.MinDelay)
				}
			case l.has("drop"):
				s.Drop = l.share()
			case l.has("duplicate"):
				s.Duplicate = l.share()
			default:
				return fmt.Errorf("the network has no %q: use delay A to B, drop P, duplicate P", l.words[0])
			}
		}
	case "fault":
		f := Fault{Kind: l.next()}
		if f.Kind != "power" && f.Kind != "offline" {
			return fmt.Errorf("unknown fault %q: use power or offline", f.Kind)
		}
		if !l.has("every") {
			return fmt.Errorf("say how often: fault %s every 2h for 3m", f.Kind)
		}
		f.Every = l.span()
		f.For = time.Minute
		if l.has("for") {
			f.For = l.span()
		}
		if f.Every <= 0 && l.err == nil {
			return fmt.Errorf("a fault every 0s never lets anything happen")
		}
		s.Faults = append(s.Faults, f)
	case "release":
		for len(l.words) > 0 && l.err == nil {
			switch {
			case l.has("sound"):
			case l.has("flags"):
				s.Release.Flags = l.number()
			case l.has("slow"):
				s.Release.LatencyMs = float64(l.span().Microseconds()) / 1000
			case l.has("nan-after"):
				s.Release.NonFinite = l.span()
			case l.has("crash-at-load"):
				s.Release.CrashAtLoad = true
			case l.has("unsigned"):
				s.Release.Unsigned = true
			case l.has("on"):
				s.Release.On = l.next()
			default:
				return fmt.Errorf("a release has no %q: use sound, flags xN, slow T, nan-after T, crash-at-load, unsigned, on SELECTOR", l.words[0])
			}
		}
	case "at":
		st := Step{At: l.span(), Verb: l.next()}
		switch st.Verb {
		case "partition", "power":
			st.Arg, st.For = l.next(), time.Minute
			if l.has("for") {
				st.For = l.span()
			}
		case "pause", "resume", "abort", "promote", "approve":
			st.Arg = l.rest()
			if st.Arg == "" {
				st.Arg = "as the scenario says"
			}
		case "hub":
			if !l.has("crash") {
				return fmt.Errorf("a hub can crash: at 10m hub crash")
			}
		default:
			return fmt.Errorf("unknown step %q: use partition, power, pause, resume, abort, promote, approve, hub crash", st.Verb)
		}
		s.Steps = append(s.Steps, st)
	case "expect":
		e := Expectation{What: l.next(), Op: l.next(), Value: l.next()}
		switch e.What {
		case "state", "wave", "running", "harmed", "tried":
		default:
			return fmt.Errorf("cannot expect %q: use state, wave, running, harmed or tried", e.What)
		}
		if e.Op != "=" && e.Op != "<=" && e.Op != ">=" || e.Value == "" {
			return fmt.Errorf("write expect %s = 3 (or <=, >=)", e.What)
		}
		s.Expect = append(s.Expect, e)
	default:
		return fmt.Errorf("unknown word %q: use seed, fleet, for, wave, gate, budget, shadow, soak, lease, retries, network, fault, release, at, expect", verb)
	}
	return l.err
}
