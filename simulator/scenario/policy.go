package scenario

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/swellfleet/swell/cloud/rollout"
)

// policyLines are the lines that say how a release may move.
var policyLines = map[string]func(*Scenario, Files, *reader) error{
	"wave":      (*Scenario).wave,
	"grow":      (*Scenario).grow,
	"window":    (*Scenario).window,
	"gate":      (*Scenario).gate,
	"budget":    (*Scenario).budget,
	"stratify":  func(s *Scenario, _ Files, l *reader) error { s.Policy.Stratify = l.list("labels"); return nil },
	"shadow":    (*Scenario).shadow,
	"soak":      (*Scenario).soak,
	"lease":     (*Scenario).lease,
	"stale":     func(s *Scenario, _ Files, l *reader) error { s.Policy.StaleS = l.seconds(); return nil },
	"retries":   (*Scenario).retries,
	"rollback":  func(s *Scenario, _ Files, l *reader) error { s.Policy.RollbackS = l.seconds(); return nil },
	"max-pause": func(s *Scenario, _ Files, l *reader) error { s.Policy.MaxPauseS = l.seconds(); return nil },
}

// policy reads the file that `policy FILE` names; lines after it add to it.
func (s *Scenario) policy(f Files, l *reader) error {
	file := l.name("the file")
	if f.Policy == nil {
		return fmt.Errorf("cannot read %s here: write the policy's lines", file)
	}
	if len(s.Policy.Waves)+len(s.Policy.Gates)+len(s.Policy.Budgets) > 0 {
		return errors.New("name the policy before the lines that add to it")
	}
	var err error
	s.Policy, s.Select, err = f.Policy(file)
	return err
}

func (s *Scenario) wave(_ Files, l *reader) error {
	w := rollout.Wave{Name: l.next(), DeadlineS: 4 * 3600}
	for l.more() {
		switch {
		case l.has("devices"):
			w.Devices = l.integer()
		case l.has("share"):
			w.Share = l.share()
		case l.has("select"):
			w.Selector = l.selector()
		case l.has("deadline"):
			w.DeadlineS = l.seconds()
		case l.has("approvals"):
			w.Approvals = l.integer()
			if l.has("by") {
				w.Approvers = l.list("people")
			}
		default:
			return l.unknown("a wave", "devices N", "share P", "select SELECTOR", "deadline T", "approvals N [by ada|bob]")
		}
	}
	s.Policy.Waves = append(s.Policy.Waves, w)
	return nil
}

// grow reads waves that grow: grow first 5 factor 4 max 25% deadline 12h.
func (s *Scenario) grow(_ Files, l *reader) error {
	g := rollout.Growth{First: 1, Factor: 2, DeadlineS: 4 * 3600}
	for l.more() {
		switch {
		case l.has("first"):
			g.First = l.integer()
		case l.has("factor"):
			g.Factor = l.number()
		case l.has("max"):
			g.MaxShare = l.share()
		case l.has("deadline"):
			g.DeadlineS = l.seconds()
		default:
			return l.unknown("growth", "first N", "factor X", "max P", "deadline T")
		}
	}
	s.Policy.Growth = &g
	return nil
}

// window reads when devices may activate.
func (s *Scenario) window(_ Files, l *reader) error {
	w := rollout.Window{Name: l.name("the window's name")}
	for l.more() {
		switch {
		case l.has("select"):
			w.Selector = l.selector()
		case l.has("zone"):
			w.Zone = l.name("the time zone")
		case l.has("days"):
			w.Days = l.list("days")
		case l.has("from"):
			w.From = l.name("the time")
		case l.has("to"):
			w.To = l.name("the time")
		case l.has("cycle"):
			w.EveryDays = l.integer()
		case l.has("start"):
			w.Start = l.name("the date")
		case l.has("on"):
			for _, d := range l.list("days of the cycle") {
				n, err := strconv.Atoi(d)
				if err != nil {
					return fmt.Errorf("%q: want days of the cycle, from 0, such as 0|1|4", d)
				}
				w.On = append(w.On, n)
			}
		case l.has("except"):
			w.Except = l.list("dates")
		case l.has("also"):
			w.Also = l.list("dates")
		default:
			return l.unknown("a window", "select SELECTOR", "zone ZONE", "days mon|tue", "from 22:00", "to 06:00", "cycle DAYS", "start DATE", "on 0|1", "except DATE|DATE", "also DATE|DATE")
		}
	}
	s.Policy.Windows = append(s.Policy.Windows, w)
	return nil
}

func (s *Scenario) gate(_ Files, l *reader) error {
	g := rollout.Gate{Name: rollout.GateName(l.next())}
	if len(l.words) > 0 && !l.words[0].quoted && strings.Trim(l.words[0].text, "0123456789.e+-") == "" {
		v := l.number()
		g.Threshold = &v
	}
	for l.more() {
		switch {
		case l.has("alpha"):
			g.Alpha = l.share()
		case l.has("min"):
			g.MinN = int64(l.integer())
		case l.has("title"):
			g.Title = l.name("the title")
		case g.Name == rollout.GateExpr && g.Expr == "":
			g.Expr = l.next()
		default:
			return l.unknown("a gate", "THRESHOLD", "alpha P", "min N", `title "WORDS"`, `of expr the expression in quotes`)
		}
	}
	s.Policy.Gates = append(s.Policy.Gates, g)
	return nil
}

// budget reads what may be unavailable, in numbers or percent, or what must be
// available: budget line 2, budget line 25%, budget line available 6.
func (s *Scenario) budget(_ Files, l *reader) error {
	b := rollout.Budget{GroupBy: l.next()}
	if len(l.words) == 0 {
		return fmt.Errorf("say how many: budget %s 2, budget %s 25%%, or budget %s available 6", b.GroupBy, b.GroupBy, b.GroupBy)
	}
	for l.more() {
		available := l.has("available")
		percent := l.has("share") || len(l.words) > 0 && strings.HasSuffix(l.words[0].text, "%")
		switch {
		case available && percent:
			b.MinAvailableShare = l.share()
		case available:
			b.MinAvailable = l.integer()
		case percent:
			b.MaxUnavailableShare = l.share()
		default:
			b.MaxUnavailable = l.integer()
		}
	}
	s.Policy.Budgets = append(s.Policy.Budgets, b)
	return nil
}

func (s *Scenario) shadow(_ Files, l *reader) error {
	s.Policy.ShadowS = l.seconds()
	if l.has("window") {
		s.Policy.ShadowWindowS = l.seconds()
	}
	return nil
}

func (s *Scenario) soak(_ Files, l *reader) error {
	s.Policy.SoakS = l.seconds()
	if l.has("windows") {
		s.Policy.MinWindows = uint64(l.integer())
	}
	return nil
}

func (s *Scenario) lease(_ Files, l *reader) error {
	s.Policy.LeaseS = l.seconds()
	if l.has("grace") {
		s.Policy.GraceS = l.seconds()
	}
	return nil
}

func (s *Scenario) retries(_ Files, l *reader) error {
	s.Policy.Retries = l.integer()
	if l.has("after") {
		s.Policy.RetryS = l.seconds()
	}
	return nil
}
