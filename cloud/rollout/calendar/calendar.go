// Package calendar says when a recurring window of time is open: between two
// times on the clock of a place, every day, on days of the week, or on days of
// a shift cycle, with exceptions.
//
// The parties are the person who writes a window into a rollout's policy, and
// package rollout, which asks whether devices may be touched now and when that
// changes. It promises that a window is open exactly while the clock on the
// wall of its zone shows a time in it. An hour that daylight saving leaves out
// opens nothing, and one that comes twice opens twice.
//
// The zones come with the program, so that a bare machine knows them. The
// package is pure: now is an argument. cloud/rollout imports it.
package calendar

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	_ "time/tzdata" // zones of the program's own, for machines that have none
)

// Spec is a window as people write it; see rollout.Window for each field.
type Spec struct {
	Zone      string   // IANA; "" is UTC
	Days      []string // mon to sun; none: every day
	From, To  string   // "22:00"; "" is the beginning and the end of the day
	Start     string   // date of day 0 of the cycle
	EveryDays int      // length of the cycle; 0: none
	On        []int    // days of the cycle
	Except    []string // dates
	Also      []string // dates
}

// Window is a Spec that was read. The zero value is never open.
type Window struct {
	loc      *time.Location
	from, to int // seconds of the day; to is past 24 h when the window crosses midnight
	days     [7]bool
	every    int // 0: no cycle
	start    int // day 0 of the cycle
	on       []bool
	except   []int // days since 1970-01-01, sorted
	also     []int
}

const (
	day = 24 * 60 * 60
	// horizon is how far Next looks, in days. Days of the week and the longest
	// cycle meet in every way within it.
	horizon = 400
	// maxCycle is the longest shift cycle, in days.
	maxCycle = 56
	// maxDates caps Except and Also.
	maxDates = 400
)

var weekdays = []string{"thu", "fri", "sat", "sun", "mon", "tue", "wed"} // from 1970-01-01

// New reads a window. The error says which field is wrong and what is wanted.
func New(s Spec) (Window, error) {
	w := Window{to: day, every: s.EveryDays}
	zone := s.Zone
	if zone == "" {
		zone = "UTC"
	}
	var err error
	if w.loc, err = time.LoadLocation(zone); err != nil || zone == "Local" {
		return Window{}, fmt.Errorf("there is no time zone %q: want a name as Europe/Berlin", zone)
	}
	if s.From != "" {
		if w.from, err = clock(s.From); err != nil || w.from == day {
			return Window{}, fmt.Errorf("from is %q: want a time from 00:00 to 23:59", s.From)
		}
	}
	if s.To != "" {
		if w.to, err = clock(s.To); err != nil {
			return Window{}, fmt.Errorf("to is %q: want a time from 00:00 to 24:00", s.To)
		}
	}
	if w.to == w.from {
		return Window{}, fmt.Errorf("it begins and ends at %s: leave both out for the whole day", s.From)
	}
	if w.to < w.from {
		w.to += day
	}
	if err := w.readDays(s); err != nil {
		return Window{}, err
	}
	if w.except, err = dates("except", s.Except); err != nil {
		return Window{}, err
	}
	if w.also, err = dates("also", s.Also); err != nil {
		return Window{}, err
	}
	for _, d := range w.also {
		if _, both := slices.BinarySearch(w.except, d); both {
			return Window{}, fmt.Errorf("%s is both in also and in except", date(d))
		}
	}
	return w, nil
}

// readDays reads the days of the week and of the cycle.
func (w *Window) readDays(s Spec) error {
	for _, name := range s.Days {
		i := slices.Index(weekdays, strings.ToLower(name))
		if i < 0 {
			return fmt.Errorf("there is no day %q: want mon, tue, wed, thu, fri, sat or sun", name)
		}
		w.days[i] = true
	}
	if len(s.Days) == 0 && (s.EveryDays != 0 || len(s.Also) == 0) {
		w.days = [7]bool{true, true, true, true, true, true, true}
	}
	if s.EveryDays == 0 {
		if s.Start != "" || len(s.On) > 0 {
			return errors.New("start and on belong to a shift cycle: give every_days, its length")
		}
		return nil
	}
	if s.EveryDays < 1 || s.EveryDays > maxCycle {
		return fmt.Errorf("every_days is %d: want a cycle of 1 to %d days", s.EveryDays, maxCycle)
	}
	start, err := dates("start", []string{s.Start})
	if err != nil {
		return err
	}
	w.start, w.on = start[0], make([]bool, s.EveryDays)
	if len(s.On) == 0 {
		return errors.New("on is empty: name the days of the cycle, from 0")
	}
	for _, i := range s.On {
		if i < 0 || i >= s.EveryDays {
			return fmt.Errorf("on names day %d of a cycle of %d days: want 0 to %d", i, s.EveryDays, s.EveryDays-1)
		}
		w.on[i] = true
	}
	return nil
}

// clock reads "hh:mm" as seconds of the day.
func clock(s string) (int, error) {
	if s == "24:00" {
		return day, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != len("15:04") {
		return 0, fmt.Errorf("no time: %q", s)
	}
	return t.Hour()*3600 + t.Minute()*60, nil
}

// dates reads dates as days since 1970-01-01, sorted.
func dates(field string, list []string) ([]int, error) {
	if len(list) > maxDates {
		return nil, fmt.Errorf("%s has %d dates: at most %d", field, len(list), maxDates)
	}
	var out []int
	for _, s := range list {
		t, err := time.Parse(time.DateOnly, s)
		if err != nil {
			return nil, fmt.Errorf("%s has %q: want a date as 2026-11-30", field, s)
		}
		out = append(out, floor(t.Unix()))
	}
	slices.Sort(out)
	return out, nil
}

func date(d int) string { return time.Unix(int64(d)*day, 0).UTC().Format(time.DateOnly) }

// floor returns the day that a second lies in.
func floor(sec int64) int {
	d := sec / day
	if sec%day < 0 {
		d--
	}
	return int(d)
}

// Open says whether the window is open at now.
func (w Window) Open(now time.Time) bool {
	if w.loc == nil {
		return false
	}
	_, offset := now.In(w.loc).Zone()
	return w.open(now.Unix() + int64(offset))
}

// open says whether the clock on the wall shows a time in the window. wall is
// what it shows, as seconds since it showed 1970-01-01 00:00.
func (w Window) open(wall int64) bool {
	d := floor(wall)
	sec := int(wall - int64(d)*day)
	return w.begins(d) && sec >= w.from && sec < w.to || w.begins(d-1) && sec+day < w.to
}

// begins says whether the window begins on a day.
func (w Window) begins(d int) bool {
	if _, ok := slices.BinarySearch(w.also, d); ok {
		return true
	}
	if _, ok := slices.BinarySearch(w.except, d); ok {
		return false
	}
	if !w.days[(d%7+7)%7] {
		return false
	}
	return w.every == 0 || d >= w.start && w.on[(d-w.start)%w.every]
}

// Next returns the first moment after now at which the window opens, if it is
// closed, or closes, if it is open; false when it does not within 400 days.
func (w Window) Next(now time.Time) (change time.Time, ok bool) {
	if w.loc == nil {
		return time.Time{}, false
	}
	was := w.Open(now)
	end := now.Unix() + horizon*day
	for at := now.Unix(); at < end; {
		// Between two changes of the zone the clock runs evenly: go from one
		// edge of the day to the next, and stop where the zone changes.
		t := time.Unix(at, 0).In(w.loc)
		_, offset := t.Zone()
		_, zoneEnds := t.ZoneBounds()
		wall := at + int64(offset)
		midnight := int64(floor(wall)) * day
		next := midnight + day
		for _, edge := range []int{w.from, w.to % day} {
			if e := midnight + int64(edge); e > wall && e < next {
				next = e
			}
		}
		at = next - int64(offset)
		if !zoneEnds.IsZero() && zoneEnds.Unix() < at {
			at = zoneEnds.Unix()
		}
		if c := time.Unix(at, 0); w.Open(c) != was {
			return c.UTC(), true
		}
	}
	return time.Time{}, false
}
