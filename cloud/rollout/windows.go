package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout/calendar"
	"github.com/swellfleet/swell/cloud/rollout/expr"
	"github.com/swellfleet/swell/cloud/selector"
)

// made is what is made of a policy's texts, calendars and programs, when they
// are first asked for. It remembers answers, and belongs to whoever holds the
// policy with defaults.
type made struct {
	windows  []schedule
	programs map[string]program // by text
}

// program is an expression that was read, or why it cannot be.
type program struct {
	run *expr.Program
	err error
}

// schedule is one window with the calendars of the zones it was asked for.
type schedule struct {
	spec  Window
	sel   selector.Selector
	err   error // the selector cannot be read: the window is for everybody and never opens
	zones map[string]*zoned
}

// zoned is a window in one zone, with the newest answer.
type zoned struct {
	window      calendar.Window
	err         error
	asked, next time.Time // the answer holds from asked to before next; next zero: for good
	isOpen      bool
}

// schedules returns the policy's windows. p has its defaults.
func (p Policy) schedules() []schedule {
	if len(p.made.windows) != len(p.Windows) {
		for _, w := range p.Windows {
			s := schedule{spec: w, zones: map[string]*zoned{}}
			s.sel, s.err = readSelector(w.Selector)
			p.made.windows = append(p.made.windows, s)
		}
	}
	return p.made.windows
}

// program returns an expression of the policy. p has its defaults.
func (p Policy) program(text string) (*expr.Program, error) {
	got, ok := p.made.programs[text]
	if !ok {
		got.run, got.err = expr.Compile(text)
		if p.made.programs == nil {
			p.made.programs = map[string]program{}
		}
		p.made.programs[text] = got
	}
	return got.run, got.err
}

// calendar returns a window's calendar in a zone.
func (w Window) calendar(zone string) (calendar.Window, error) {
	return calendar.New(calendar.Spec{
		Zone: zone, Days: w.Days, From: w.From, To: w.To, Start: w.Start, EveryDays: w.EveryDays, On: w.On, Except: w.Except, Also: w.Also,
	})
}

// zone returns the time zone in which a window is read for a device.
func (w Window) zone(d *Device) string {
	if w.Zone != "" {
		return w.Zone
	}
	if z := d.Labels["zone"]; z != "" {
		return z
	}
	return "UTC"
}

// covers says whether the window is for a device.
func (s *schedule) covers(d *Device) bool { return s.err != nil || s.sel.Match(d.Look) }

// at says whether the window is open at t for devices of a zone, and until
// when that holds. Zero: for good.
func (s *schedule) at(zone string, t time.Time) (isOpen bool, next time.Time) {
	z := s.zones[zone]
	if z == nil {
		z = &zoned{}
		if z.window, z.err = s.spec.calendar(zone); s.err != nil {
			z.err = s.err
		}
		s.zones[zone] = z
	}
	if z.err != nil {
		return false, time.Time{}
	}
	if z.asked.IsZero() || t.Before(z.asked) || !z.next.IsZero() && !t.Before(z.next) {
		z.asked, z.isOpen = t, z.window.Open(t)
		z.next, _ = z.window.Next(t)
	}
	return z.isOpen, z.next
}

// stays returns until when at least one of a device's windows is open, t being
// the moment asked about: t itself when none is, zero when one is open for
// good. It looks no further than limit.
func (p Policy) stays(d *Device, t, limit time.Time) time.Time {
	end := t
	windows := p.schedules()
	for {
		reached := end
		for i := range windows {
			w := &windows[i]
			if !w.covers(d) {
				continue
			}
			switch isOpen, next := w.at(w.spec.zone(d), end); {
			case isOpen && next.IsZero():
				return time.Time{}
			case isOpen && next.After(reached):
				reached = next
			}
		}
		if !reached.After(end) || !reached.Before(limit) {
			return reached
		}
		end = reached
	}
}

// windowChange returns when a window of the device opens or closes next. Zero: never.
func (p Policy) windowChange(d *Device, t time.Time) (change time.Time) {
	windows := p.schedules()
	for i := range windows {
		w := &windows[i]
		if !w.covers(d) {
			continue
		}
		if _, next := w.at(w.spec.zone(d), t); !next.IsZero() && (change.IsZero() || next.Before(change)) {
			change = next
		}
	}
	return change
}

// windowNames returns the windows that are for a device.
func (p Policy) windowNames(d *Device) (names []string) {
	windows := p.schedules()
	for i := range windows {
		if w := &windows[i]; w.covers(d) {
			name := w.spec.Name
			if name == "" {
				name = fmt.Sprint(i + 1)
			}
			names = append(names, name)
		}
	}
	return names
}

// open says whether a device may be given a lease now, else why not, and when
// the answer may differ. Zero: never by time alone. It may where its windows
// stay open until the lease has ended. p has its defaults.
func (p Policy) open(d *Device, now time.Time) (ok bool, why string, change time.Time) {
	if len(p.Windows) == 0 {
		return true, "", time.Time{}
	}
	names := p.windowNames(d)
	if len(names) == 0 {
		return false, "no window of the policy is for it", time.Time{}
	}
	lease := seconds(p.LeaseS)
	end := p.stays(d, now, now.Add(lease))
	switch {
	case end.IsZero():
		return true, "", time.Time{}
	case !end.Before(now.Add(lease)):
		// It holds until what is left is shorter than a lease.
		return true, "", end.Add(-lease + 1)
	case end.After(now):
		return false, fmt.Sprintf("its window closes at %s, before a lease would end", clock(end)), end
	}
	change = p.windowChange(d, now)
	if change.IsZero() {
		return false, fmt.Sprintf("its windows (%s) do not open any more", strings.Join(names, ", ")), change
	}
	return false, fmt.Sprintf("its window opens at %s", clock(change)), change
}
