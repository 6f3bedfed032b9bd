package scenario

import (
	"errors"
	"fmt"
	"strings"

	"github.com/swellfleet/swell/cloud/rollout"
)

// policyLines are the lines that say how a release may move.
var policyLines = map[string]func(*Scenario, Files, *reader) error{
	"wave":      (*Scenario).wave,
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
	p, err := f.Policy(file)
	s.Policy = p
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
		default:
			return l.unknown("a wave", "devices N", "share P", "select SELECTOR", "deadline T", "approvals N")
		}
	}
	s.Policy.Waves = append(s.Policy.Waves, w)
	return nil
}

func (s *Scenario) gate(_ Files, l *reader) error {
	g := rollout.Gate{Name: rollout.GateName(l.next())}
	if len(l.words) > 0 && strings.Trim(l.words[0].text, "0123456789.e+-") == "" {
		v := l.number()
		g.Threshold = &v
	}
	for l.more() {
		switch {
		case l.has("alpha"):
			g.Alpha = l.share()
		case l.has("min"):
			g.MinN = int64(l.integer())
		default:
			return l.unknown("a gate", "THRESHOLD", "alpha P", "min N")
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
		percent := len(l.words) > 0 && strings.HasSuffix(l.words[0].text, "%")
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
