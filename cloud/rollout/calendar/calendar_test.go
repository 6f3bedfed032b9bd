package calendar_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/rollout/calendar"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestWindowsOpenAndCloseByTheClockOnTheWall goes through each window's next
// changes from a moment on.
func TestWindowsOpenAndCloseByTheClockOnTheWall(t *testing.T) {
	for name, tc := range map[string]struct {
		window calendar.Spec
		from   string
		open   bool
		want   []string // the next changes
	}{
		"a night shift crosses midnight": {
			calendar.Spec{From: "22:00", To: "06:00"}, "2026-11-22T12:00:00Z", false,
			[]string{"2026-11-22T22:00:00Z", "2026-11-23T06:00:00Z", "2026-11-23T22:00:00Z"},
		},
		"a day is the day on which the window begins": {
			calendar.Spec{Days: []string{"sat"}, From: "22:00", To: "06:00"}, "2026-11-22T05:00:00Z", true, // a Sunday
			[]string{"2026-11-22T06:00:00Z", "2026-11-28T22:00:00Z", "2026-11-29T06:00:00Z"},
		},
		"a weekend is one opening": {
			calendar.Spec{Days: []string{"sat", "Sun"}}, "2026-11-27T00:00:00Z", false,
			[]string{"2026-11-28T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-05T00:00:00Z"},
		},
		"every hour of every day never changes": {calendar.Spec{}, "2026-11-22T12:00:00Z", true, []string{""}},
		"the zone counts": {
			calendar.Spec{Zone: "America/New_York", From: "22:00", To: "23:00"}, "2026-11-22T12:00:00Z", false,
			[]string{"2026-11-23T03:00:00Z", "2026-11-23T04:00:00Z"},
		},
		"until 24:00 is until midnight": {
			calendar.Spec{From: "23:30", To: "24:00"}, "2026-11-22T23:40:00Z", true, []string{"2026-11-23T00:00:00Z", "2026-11-23T23:30:00Z"},
		},
		"the spring night in Berlin is an hour shorter": {
			calendar.Spec{Zone: "Europe/Berlin", From: "22:00", To: "06:00"}, "2027-03-27T12:00:00Z", false,
			[]string{"2027-03-27T21:00:00Z", "2027-03-28T04:00:00Z"},
		},
		"the hour that spring leaves out in Berlin opens nothing": {
			calendar.Spec{Zone: "Europe/Berlin", From: "02:10", To: "02:50"}, "2027-03-27T12:00:00Z", false,
			[]string{"2027-03-29T00:10:00Z", "2027-03-29T00:50:00Z"},
		},
		"a window into the hour that spring leaves out in New York closes when the clock jumps over its end": {
			calendar.Spec{Zone: "America/New_York", From: "01:30", To: "02:30"}, "2027-03-14T00:00:00Z", false,
			[]string{"2027-03-14T06:30:00Z", "2027-03-14T07:00:00Z", "2027-03-15T05:30:00Z"},
		},
		"a window out of the hour that spring leaves out in New York opens when the clock jumps into it": {
			calendar.Spec{Zone: "America/New_York", From: "02:30", To: "03:30"}, "2027-03-14T00:00:00Z", false,
			[]string{"2027-03-14T07:00:00Z", "2027-03-14T07:30:00Z"},
		},
		"the hour that autumn repeats in Berlin opens twice": {
			calendar.Spec{Zone: "Europe/Berlin", From: "02:15", To: "02:45"}, "2026-10-24T12:00:00Z", false,
			[]string{"2026-10-25T00:15:00Z", "2026-10-25T00:45:00Z", "2026-10-25T01:15:00Z", "2026-10-25T01:45:00Z", "2026-10-26T01:15:00Z"},
		},
		"the autumn night in New York is an hour longer": {
			calendar.Spec{Zone: "America/New_York", From: "22:00", To: "06:00"}, "2026-10-31T12:00:00Z", false,
			[]string{"2026-11-01T02:00:00Z", "2026-11-01T11:00:00Z"},
		},
		"two days on, two days off": {
			calendar.Spec{Start: "2026-11-20", EveryDays: 4, On: []int{0, 1}, From: "06:00", To: "14:00"}, "2026-11-21T12:00:00Z", true,
			[]string{"2026-11-21T14:00:00Z", "2026-11-24T06:00:00Z", "2026-11-24T14:00:00Z", "2026-11-25T06:00:00Z"},
		},
		"a cycle does not run before its start": {
			calendar.Spec{Start: "2026-12-01", EveryDays: 2, On: []int{0}}, "2026-11-21T12:00:00Z", false, []string{"2026-12-01T00:00:00Z"},
		},
		"a cycle and days of the week both have to fit": {
			calendar.Spec{Start: "2026-11-02", EveryDays: 14, On: []int{5, 6}, Days: []string{"sat"}}, "2026-11-08T12:00:00Z", false,
			[]string{"2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "2026-12-05T00:00:00Z"},
		},
		"not on Christmas": {
			calendar.Spec{From: "22:00", To: "23:00", Except: []string{"2026-12-25", "2026-12-24"}}, "2026-12-23T23:30:00Z", false,
			[]string{"2026-12-26T22:00:00Z"},
		},
		"also on the day of the works outing": {
			calendar.Spec{Days: []string{"sun"}, From: "08:00", To: "12:00", Also: []string{"2026-11-25"}}, "2026-11-22T12:00:00Z", false,
			[]string{"2026-11-25T08:00:00Z", "2026-11-25T12:00:00Z", "2026-11-29T08:00:00Z"},
		},
		"on named dates only": {
			calendar.Spec{Also: []string{"2026-11-25"}}, "2026-11-22T12:00:00Z", false,
			[]string{"2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z", ""},
		},
		"never, as the cycle falls on other days": {
			calendar.Spec{Start: "2026-11-03", EveryDays: 7, On: []int{0}, Days: []string{"mon"}}, "2026-11-22T12:00:00Z", false, []string{""},
		},
		"never, as the only date is past": {calendar.Spec{Also: []string{"2026-11-01"}}, "2026-11-22T12:00:00Z", false, []string{""}},
		"never, as the clock does not show it that day": {
			calendar.Spec{Zone: "Europe/Berlin", From: "02:10", To: "02:50", Also: []string{"2027-03-28"}}, "2027-03-01T00:00:00Z", false, []string{""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := calendar.New(tc.window)
			if err != nil {
				t.Fatal(err)
			}
			now, open := at(t, tc.from), tc.open
			for _, want := range tc.want {
				if w.Open(now) != open {
					t.Fatalf("open at %s: %v", now, !open)
				}
				next, ok := w.Next(now)
				if want == "" {
					if ok {
						t.Fatalf("changes at %s, want never", next)
					}
					return
				}
				if !ok || !next.Equal(at(t, want)) {
					t.Fatalf("after %s: changes at %s, %v; want %s", now, next, ok, want)
				}
				now, open = next, !open
			}
		})
	}
}

func TestWindowsThatCannotBeReadAreRefusedWithTheField(t *testing.T) {
	for want, spec := range map[string]calendar.Spec{
		`no time zone "Europe/Berlinn"`:      {Zone: "Europe/Berlinn"},
		`no time zone "Local"`:               {Zone: "Local"},
		`no day "monday"`:                    {Days: []string{"monday"}},
		`from is "7:00"`:                     {From: "7:00"},
		`from is "24:00"`:                    {From: "24:00"},
		`to is "25:00"`:                      {To: "25:00"},
		"begins and ends at 08:00":           {From: "08:00", To: "08:00"},
		"give every_days":                    {Start: "2026-11-02", On: []int{1}},
		"every_days is -1":                   {EveryDays: -1},
		"every_days is 57":                   {EveryDays: 57, Start: "2026-11-02", On: []int{1}},
		`start has "": want a date`:          {EveryDays: 2, On: []int{1}},
		"on is empty":                        {EveryDays: 2, Start: "2026-11-02"},
		"day 2 of a cycle of 2 days":         {EveryDays: 2, Start: "2026-11-02", On: []int{2}},
		`except has "24.12.2026"`:            {Except: []string{"24.12.2026"}},
		`also has "2026-02-30"`:              {Also: []string{"2026-02-30"}},
		"2026-12-24 is both in also and in ": {Also: []string{"2026-12-24"}, Except: []string{"2026-12-24"}},
		"at most 400":                        {Except: slices.Repeat([]string{"2026-12-24"}, 401)},
	} {
		if _, err := calendar.New(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", spec, err, want)
		}
	}
}

// shows says the same as Open in the plainest way: what does the clock show,
// and does the window begin on that date or on the one before?
func shows(s calendar.Spec, loc *time.Location, now time.Time) bool {
	local := now.In(loc)
	begins := func(d time.Time) bool {
		date := d.Format(time.DateOnly)
		if slices.Contains(s.Also, date) {
			return true
		}
		if slices.Contains(s.Except, date) || len(s.Days) == 0 && s.EveryDays == 0 && len(s.Also) > 0 {
			return false
		}
		if len(s.Days) > 0 && !slices.Contains(s.Days, strings.ToLower(d.Weekday().String()[:3])) {
			return false
		}
		if s.EveryDays == 0 {
			return true
		}
		start, _ := time.Parse(time.DateOnly, s.Start)
		n := int(d.Sub(start).Hours() / 24)
		return !d.Before(start) && slices.Contains(s.On, n%s.EveryDays)
	}
	today := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC)
	clock := local.Format("15:04")
	from, to := s.From, s.To
	if to > from {
		return begins(today) && clock >= from && clock < to
	}
	return begins(today) && clock >= from || begins(today.AddDate(0, 0, -1)) && clock < to
}

// TestAWindowSaysWhatTheClockShowsMinuteByMinute compares Open and Next with a
// scan over the days round a change of the clock, and over others.
func TestAWindowSaysWhatTheClockShowsMinuteByMinute(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo"}
	days := []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	starts := []string{"2026-10-23", "2026-10-30", "2027-03-12", "2027-03-26", "2027-04-02", "2026-11-22", "2026-12-29"}
	rapid.Check(t, func(t *rapid.T) {
		hour := rapid.IntRange(0, 95)
		clock := func(name string) string { q := hour.Draw(t, name); return fmt.Sprintf("%02d:%02d", q/4, q%4*15) }
		s := calendar.Spec{Zone: rapid.SampledFrom(zones).Draw(t, "zone"), From: clock("from"), To: clock("to")}
		if s.From == s.To {
			t.Skip("refused")
		}
		if rapid.Bool().Draw(t, "days") {
			s.Days = rapid.SliceOfNDistinct(rapid.SampledFrom(days), 1, 4, rapid.ID).Draw(t, "which")
		}
		begin, _ := time.Parse(time.DateOnly, rapid.SampledFrom(starts).Draw(t, "begin"))
		if rapid.Bool().Draw(t, "cycle") {
			s.EveryDays = rapid.IntRange(1, 6).Draw(t, "every")
			s.Start = begin.AddDate(0, 0, rapid.IntRange(-9, 2).Draw(t, "start")).Format(time.DateOnly)
			s.On = rapid.SliceOfNDistinct(rapid.IntRange(0, s.EveryDays-1), 1, -1, rapid.ID).Draw(t, "on")
		}
		dates := rapid.SliceOfNDistinct(rapid.IntRange(-1, 4), 0, 2, rapid.ID).Draw(t, "dates")
		for i, d := range dates {
			date := begin.AddDate(0, 0, d).Format(time.DateOnly)
			if i == 0 {
				s.Except = []string{date}
			} else {
				s.Also = []string{date}
			}
		}
		w, err := calendar.New(s)
		if err != nil {
			t.Fatal(err)
		}
		loc, err := time.LoadLocation(s.Zone)
		if err != nil {
			t.Fatal(err)
		}
		now := begin.Add(time.Duration(rapid.IntRange(0, 86400).Draw(t, "second")) * time.Second)
		next, ok := w.Next(now)
		was := shows(s, loc, now)
		if w.Open(now) != was {
			t.Fatalf("%+v: open at %s is %v", s, now, !was)
		}
		end := begin.AddDate(0, 0, 4)
		for m := now.Truncate(time.Minute).Add(time.Minute); m.Before(end); m = m.Add(time.Minute) {
			is := shows(s, loc, m)
			if w.Open(m) != is {
				t.Fatalf("%+v: open at %s is %v", s, m, !is)
			}
			if is == was {
				continue
			}
			if !ok || !next.Equal(m) {
				t.Fatalf("%+v: after %s it changes at %s, %v; the scan found %s", s, now, next, ok, m)
			}
			return
		}
		if ok && next.Before(end) {
			t.Fatalf("%+v: after %s it changes at %s; the scan found nothing before %s", s, now, next, end)
		}
	})
}
