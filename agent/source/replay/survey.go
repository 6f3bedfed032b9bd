package replay

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Survey is what a whole file holds, read under a configuration.
type Survey struct {
	Rows    int
	Time    string   // the columns with the time, joined with "+"; empty: none, rows are counted
	Columns []Column // those that could be channels, and the excluded, in order
	Unnamed int      // columns without a name, which are not played
	RateHz  float64  // nominal; 0: no fixed rate

	// Rows with something odd: a time that cannot be read, one before or the
	// same as that of the row before, and fewer cells than there are names.
	BadTimes, Falls, Repeats, Short int
}

// Column is one column of a file.
type Column struct {
	Name    string
	Numbers int // cells that are numbers, NaN not among them
	Empty   int // cells with nothing, NaN, or a usual word for nothing
	Words   int // other cells
	// Distinct are up to 20 of its different cells as written, in the order in which they come; Many says that there
	// are more.
	Distinct []string
	Many     bool
	Runs     []Run // of equal cells, in order; none where there are Many
	// Steady says that it rises by the same step at each row, as a count or a clock does and no sensor.
	Steady bool

	last, step float64
	seen, rows int
}

// Run is a run of rows with the same cell.
type Run struct {
	From int // its first row
	Cell string
}

// nothing are words for a missing value.
var nothing = []string{"", "nan", "null", "none", "na", "n/a", "#n/a", "-", "--", "?", "nil", "bad", "bad input", "no data", "i/o timeout"}

const mostDistinct = 20

// Look reads a whole file. It fails where the file cannot be played.
func Look(c Config) (Survey, error) {
	c.Channels, c.Exclude = nil, nil
	s := New(c)
	defer s.Close()
	v, err := s.look()
	if err != nil {
		return Survey{}, fmt.Errorf("recording %s: %w", c.Path, err)
	}
	return v, nil
}

func (s *Source) look() (v Survey, err error) {
	if err := s.open(); err != nil {
		return v, err
	}
	v.RateHz = s.rateHz
	if err := s.rewind(); err != nil {
		return v, err
	}
	var timed []string
	for _, i := range s.time {
		timed = append(timed, s.table.names[i])
	}
	v.Time = strings.Join(timed, "+")
	for i, n := range s.table.names {
		if n == "" && !slices.Contains(s.time, i) {
			v.Unnamed++
		}
	}
	v.Columns = make([]Column, len(s.columns))
	for i, c := range s.channels {
		v.Columns[i] = Column{Name: c.Name, Steady: true}
	}
	t := s.table
	for {
		cells, err := t.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return v, err
		}
		for i := range v.Columns {
			cell := ""
			if c := s.columns[i]; c < len(cells) {
				cell = strings.TrimSpace(cells[c])
			}
			v.Columns[i].add(cell, t)
		}
	}
	// Once more for the times: one reader of rows is enough.
	if err := s.rewind(); err != nil {
		return v, err
	}
	for {
		if _, err := s.read(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return v, err
		}
	}
	f := s.found
	v.Rows, v.BadTimes, v.Falls, v.Repeats, v.Short = f.rows, f.times, f.falls, f.repeats, f.short
	for i := range v.Columns {
		c := &v.Columns[i]
		c.Steady = c.Steady && c.seen > 10 && c.step != 0 && c.Words+c.Empty == 0
	}
	return v, nil
}

func (c *Column) add(cell string, t *table) {
	row := c.rows
	c.rows++
	if !c.Many && (len(c.Runs) == 0 || c.Runs[len(c.Runs)-1].Cell != cell) {
		c.Runs = append(c.Runs, Run{row, cell})
	}
	n, ok := t.number(cell)
	switch {
	case ok && !math.IsNaN(float64(n)):
		c.Numbers++
		x := float64(n)
		if c.seen == 1 {
			c.step = x - c.last
		} else if c.seen > 1 && x-c.last != c.step {
			c.Steady = false
		}
		c.last, c.seen = x, c.seen+1
	case slices.Contains(nothing, strings.ToLower(cell)):
		c.Empty++
		return
	default:
		c.Words++
	}
	if !c.Many && !slices.Contains(c.Distinct, cell) {
		if len(c.Distinct) == mostDistinct {
			c.Many, c.Runs = true, nil
			return
		}
		c.Distinct = append(c.Distinct, cell)
	}
}
