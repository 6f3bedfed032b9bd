package replay

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// layouts are the forms of a time cell that is no number, in the order in which they are tried.
var layouts = makeLayouts()

func makeLayouts() (all []string) {
	dates := []string{
		"2006-01-02", "2006/1/2", "2006.1.2", "2/1/2006", "1/2/2006", "2.1.2006", "2-1-2006", "1-2-2006",
		"2-Jan-2006", "2 Jan 2006", "Jan 2, 2006", "Jan 2 2006", "2/1/06", "1/2/06", "2.1.06", "20060102",
	}
	for _, date := range dates {
		for _, between := range []string{" ", "T"} {
			for _, of := range []string{"15:04:05", "15:04", "3:04:05 PM", "3:04:05PM", "3:04 PM", "15.04.05", "150405"} {
				for _, zone := range []string{"", "Z07:00", " Z07:00", "Z0700", " -0700", " MST"} {
					all = append(all, date+between+of+zone)
				}
			}
		}
		if date != "20060102" { // that alone would be a number
			all = append(all, date)
		}
	}
	return all
}

// clock reads the time cells of one file, which all have the same form. The zero value finds it out with each cell.
type clock struct {
	layout string // empty: any
}

func parseLayout(layout, s string) (int64, bool) {
	t, err := time.Parse(layout, s)
	if err != nil || t.Year() < 1700 || t.Year() > 2200 {
		return 0, false
	}
	return t.UnixNano(), true
}

// number reads a time that is a number: seconds since 1970, or where it is too large for those, thousandths,
// millionths or thousand-millionths.
func (clock) number(s string) (int64, bool) {
	if whole, err := strconv.ParseInt(s, 10, 64); err == nil {
		switch size := max(whole, -whole); {
		case size >= 1e17:
			return whole, true
		case size >= 1e14:
			return whole * 1e3, true
		case size >= 1e11:
			return whole * 1e6, true
		}
	}
	f, err := strconv.ParseFloat(strings.Replace(s, ",", ".", 1), 64)
	if err != nil || math.IsNaN(f) {
		return 0, false
	}
	switch size := math.Abs(f); {
	case size >= 1e19:
		return 0, false
	case size >= 1e17:
		return int64(f), true
	case size >= 1e14:
		f /= 1e6
	case size >= 1e11:
		f /= 1e3
	}
	whole, part := math.Modf(f)
	return int64(whole)*1e9 + int64(math.Round(part*1e9)), true
}

func (c clock) parse(s string) (int64, error) {
	said := s
	s = strings.ToUpper(strings.TrimSpace(s))
	if c.layout != "" {
		if t, ok := parseLayout(c.layout, s); ok {
			return t, nil
		}
	}
	if t, ok := c.number(s); ok {
		return t, nil
	}
	for _, l := range layouts {
		if t, ok := parseLayout(l, s); ok {
			return t, nil
		}
	}
	return 0, fmt.Errorf("time %q: want a date and time such as 2006-01-02 15:04:05, 2006-01-02T15:04:05Z or 02.01.2006 15:04:05, or a number of seconds (or milliseconds) since 1970", said)
}

// candidates are the forms that a cell may have. Only days and months that could be exchanged make them many.
func candidates(cell string) (out []clock) {
	cell = strings.ToUpper(strings.TrimSpace(cell))
	for _, l := range layouts {
		if _, ok := parseLayout(l, cell); ok {
			out = append(out, clock{l})
		}
	}
	return out
}

// choose finds the form in which the cells make most sense: as many of them as can be are times, and those
// jump least. Day first wins where nothing tells.
func choose(cells []string) clock {
	var first string
	for _, c := range cells {
		if strings.TrimSpace(c) != "" {
			first = c
			break
		}
	}
	type merit struct {
		clock
		failed int
		jumps  float64
	}
	var all []merit
	for _, c := range candidates(first) {
		m := merit{clock: c}
		last, have := int64(0), false
		for _, cell := range cells {
			t, ok := parseLayout(c.layout, strings.ToUpper(strings.TrimSpace(cell)))
			if !ok {
				m.failed++
				continue
			}
			if have {
				m.jumps += math.Abs(float64(t - last))
			}
			last, have = t, true
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return clock{}
	}
	return slices.MinFunc(all, func(a, b merit) int {
		return cmp.Or(cmp.Compare(a.failed, b.failed), cmp.Compare(a.jumps, b.jumps))
	}).clock
}
