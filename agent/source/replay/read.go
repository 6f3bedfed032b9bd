package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/agent/source"
)

// Source plays one recording. Make it with New.
type Source struct {
	config Config

	table    *table
	channels []source.Channel
	columns  []int // CSV column of each channel
	time     []int // CSV columns of the time: one, or date and time of day; none: rows are counted
	clock    clock
	rateHz   float64
	found    counts

	row     uint64 // index of the next row since Open
	at      int    // row in the file
	pending *record
	ended   bool

	started  time.Time     // when the first row was played
	origin   int64         // recorded time that is played at started
	shift    int64         // added to recorded times, so that they rise over loops
	lastAt   int64         // recorded time of the newest row, shifted
	lastGive int64         // time given with the newest row
	step     time.Duration // between rows where the recording loops
	out      source.Rows
}

type record struct {
	at     int64 // recorded time, ns since the epoch, shifted
	values []float32
}

// probeRows is how many rows the nominal rate is taken from.
const probeRows = 64

// New makes a source that has not opened its file.
func New(c Config) *Source {
	if c.Rate == 0 {
		c.Rate = 1
	}
	if c.BatchRows <= 0 {
		c.BatchRows = 256
	}
	return &Source{config: c}
}

// Open implements source.Source. It reads the first rows to learn the rate.
func (s *Source) Open(context.Context) error {
	if err := s.open(); err != nil {
		return fmt.Errorf("recording %s: %w", s.config.Path, err)
	}
	return nil
}

func (s *Source) open() error {
	s.row, s.ended, s.pending, s.shift = 0, false, nil, 0
	s.started, s.lastAt = time.Time{}, 0
	if err := s.rewind(); err != nil {
		return err
	}
	if err := s.learn(); err != nil {
		return err
	}
	if err := s.rewind(); err != nil {
		return err
	}
	s.out.Values = make([][]float32, len(s.columns))
	var times []int64
	for len(times) < probeRows {
		r, err := s.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		times = append(times, r.at)
	}
	if len(times) == 0 {
		return errors.New("it has no rows")
	}
	s.rateHz = s.config.SampleRateHz
	if steps := differences(times); s.rateHz == 0 && len(steps) > 0 {
		slices.Sort(steps)
		if median := steps[len(steps)/2]; median > 0 {
			s.rateHz = 1e9 / float64(median)
		}
	}
	s.step = time.Second
	if s.rateHz > 0 {
		s.step = time.Duration(1e9 / s.rateHz)
	}
	if err := s.rewind(); err != nil {
		return err
	}
	return s.skip()
}

// NoTime as Config.TimeColumn says that no column has the time: rows are a period of SampleRateHz apart, or a second.
const NoTime = "none"

// timeNames are what columns with the time are called.
var timeNames = []string{"time", "timestamp", "datetime", "date_time", "date time", "date", "ts", "t", "epoch", "unix", "unixtime", "unix_time", "zeit", "zeitstempel", "datum"}

// learn finds the columns of the time and of the channels, and the form of times, by the first rows.
func (s *Source) learn() error {
	names := s.table.names
	var rows [][]string
	read := func(most int) error {
		for len(rows) < most {
			row, err := s.table.next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			rows = append(rows, slices.Clone(row))
		}
		return nil
	}
	if err := read(probeRows); err != nil {
		return err
	}
	if len(rows) == 0 {
		return errors.New("it has no rows")
	}
	lower := make([]string, len(names))
	for i, n := range names {
		lower[i] = strings.ToLower(n)
	}
	cells := func(of []int) (out []string) {
		for _, r := range rows {
			out = append(out, joined(r, of))
		}
		return out
	}
	s.time = nil
	switch {
	case s.config.TimeColumn == NoTime && !slices.Contains(names, NoTime):
	case s.config.TimeColumn != "":
		i := slices.Index(names, s.config.TimeColumn)
		if i < 0 {
			return s.missing("time column", s.config.TimeColumn)
		}
		s.time = []int{i}
	default:
		s.time = findTime(lower, cells)
	}
	s.clock = clock{}
	if s.time != nil {
		if len(candidates(joined(rows[0], s.time))) > 1 {
			// Days and months could be exchanged: more rows tell.
			if err := read(100_000); err != nil {
				return err
			}
		}
		s.clock = choose(cells(s.time))
	}
	return s.choose(names)
}

// joined is the time of a row, which may be in two cells.
func joined(row []string, of []int) string {
	var parts []string
	for _, i := range of {
		if i < len(row) {
			parts = append(parts, strings.TrimSpace(row[i]))
		}
	}
	return strings.Join(parts, " ")
}

// findTime chooses columns that have the time: nil where none has.
func findTime(names []string, cells func([]int) []string) []int {
	day, hour := slices.IndexFunc(names, func(n string) bool { return n == "date" || n == "datum" }), slices.IndexFunc(names, func(n string) bool { return n == "time" || n == "zeit" || n == "uhrzeit" })
	if day >= 0 && hour >= 0 {
		if both := []int{day, hour}; choose(cells(both)) != (clock{}) {
			return both
		}
	}
	for i, n := range names {
		if slices.Contains(timeNames, n) {
			return []int{i}
		}
	}
	for i := range names {
		if c := cells([]int{i}); choose(c) != (clock{}) {
			return []int{i}
		}
	}
	// A first column of numbers that rise is the time, too.
	last, rises := int64(math.MinInt64), 0
	for _, c := range cells([]int{0}) {
		t, ok := clock{}.number(strings.TrimSpace(c))
		if !ok || t < last {
			return nil
		}
		if t > last && last != math.MinInt64 {
			rises++
		}
		last = t
	}
	if names[0] == "" || len(names) < 2 || rises < 2 {
		return nil
	}
	return []int{0}
}

func differences(times []int64) []int64 {
	var d []int64
	for i := 1; i < len(times); i++ {
		d = append(d, times[i]-times[i-1])
	}
	return d
}

// rewind opens the file anew and reads its first line.
func (s *Source) rewind() error {
	if s.table != nil {
		s.table.file.Close()
		s.table = nil
	}
	t, err := openTable(s.config.Path)
	if err != nil {
		return err
	}
	s.table, s.at, s.found = t, 0, counts{}
	return nil
}

func (s *Source) missing(what, name string) error {
	return fmt.Errorf("it has no %s %q: it has %s", what, name, strings.Join(s.table.names, ", "))
}

// choose finds the columns to play.
func (s *Source) choose(names []string) error {
	for _, n := range s.config.Exclude {
		if !slices.Contains(names, n) {
			return s.missing("excluded column", n)
		}
	}
	chosen := s.config.Channels
	if len(chosen) == 0 {
		for i, n := range names {
			if n != "" && !slices.Contains(s.time, i) && !slices.Contains(s.config.Exclude, n) {
				chosen = append(chosen, n)
			}
		}
	}
	s.channels, s.columns = nil, nil
	for _, n := range chosen {
		i := slices.Index(names, n)
		if i < 0 || n == "" {
			return s.missing("channel", n)
		}
		s.channels = append(s.channels, source.Channel{Name: n, Unit: s.config.Units[n]})
		s.columns = append(s.columns, i)
	}
	return source.CheckChannels(s.channels)
}

// skip goes to where the configuration says to begin.
func (s *Source) skip() error {
	from := int64(math.MinInt64)
	if s.config.StartTime != "" {
		t, err := s.clock.parse(s.config.StartTime)
		if err != nil {
			return fmt.Errorf("start_time: %w", err)
		}
		from = t
	}
	for {
		r, err := s.read()
		if errors.Is(err, io.EOF) {
			return errors.New("it ends before start_row or start_time")
		}
		if err != nil {
			return err
		}
		if s.at > s.config.StartRow && r.at >= from {
			s.pending = r
			return nil
		}
	}
}

// counts are what was odd in the rows that were read.
type counts struct {
	rows, times, falls, repeats, short int
	last                               int64 // recorded time of the newest row
}

// read parses the next row of the file. A row whose time cannot be read takes that of the row before it, so that a
// broken line does not end a recording; the first row must have one.
func (s *Source) read() (*record, error) {
	cells, err := s.table.next()
	if err != nil {
		return nil, err
	}
	s.at++
	var at int64
	if len(s.time) == 0 {
		rate := s.config.SampleRateHz
		if rate == 0 {
			rate = 1
		}
		at = int64(float64(s.at-1) / rate * 1e9)
	} else if at, err = s.clock.parse(joined(cells, s.time)); err != nil {
		if s.at == 1 {
			return nil, fmt.Errorf("row %d: %w", s.at-1, err)
		}
		at = s.found.last
		s.found.times++
	} else if s.at > 1 {
		switch {
		case at < s.found.last:
			s.found.falls++
		case at == s.found.last:
			s.found.repeats++
		}
	}
	s.found.rows, s.found.last = s.found.rows+1, at
	if len(cells) < len(s.table.names) {
		s.found.short++
	}
	r := &record{at: at + s.shift, values: make([]float32, len(s.columns))}
	for i, c := range s.columns {
		r.values[i] = float32(math.NaN())
		if c < len(cells) {
			r.values[i], _ = s.table.number(cells[c])
		}
	}
	return r, nil
}

// next returns the next row to play, looping if asked to.
func (s *Source) next() (*record, error) {
	if r := s.pending; r != nil {
		s.pending = nil
		return r, nil
	}
	r, err := s.read()
	if !errors.Is(err, io.EOF) || !s.config.Loop {
		return r, err
	}
	if err := s.rewind(); err != nil {
		return nil, err
	}
	s.shift = 0
	if r, err = s.read(); err != nil {
		return nil, err
	}
	s.shift = s.lastAt + int64(s.step) - r.at
	r.at += s.shift
	return r, nil
}

// Channels implements source.Source.
func (s *Source) Channels() []source.Channel { return s.channels }

// RateHz implements source.Source.
func (s *Source) RateHz() float64 { return s.rateHz }

// Next implements source.Source. Played at a pace, it returns the rows that are
// due, at least one.
func (s *Source) Next(ctx context.Context) (source.Rows, error) {
	if s.table == nil {
		return source.Rows{}, fmt.Errorf("recording %s is not open", s.config.Path)
	}
	if s.ended {
		return source.Rows{}, io.EOF
	}
	s.out.First, s.out.Times = s.row, s.out.Times[:0]
	for i := range s.out.Values {
		s.out.Values[i] = s.out.Values[i][:0]
	}
	for len(s.out.Times) < s.config.BatchRows {
		r, err := s.next()
		if errors.Is(err, io.EOF) {
			s.ended = true
			break
		}
		if err != nil {
			return source.Rows{}, fmt.Errorf("recording %s: %w", s.config.Path, err)
		}
		r.at = max(r.at, s.lastAt) // a recording whose clock fell
		due := s.due(r.at)
		if wait := time.Until(due); s.config.Rate > 0 && wait > 0 {
			if len(s.out.Times) > 0 {
				s.pending = r
				break
			}
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				s.pending = r
				return source.Rows{}, ctx.Err()
			case <-timer.C:
			}
		}
		s.give(r, due)
	}
	if len(s.out.Times) == 0 {
		return source.Rows{}, io.EOF
	}
	return s.out, ctx.Err()
}

// due is when a row of that recorded time is played.
func (s *Source) due(at int64) time.Time {
	if s.started.IsZero() {
		s.started, s.origin, s.lastAt = time.Now(), at, at
	}
	rate := s.config.Rate
	if rate <= 0 {
		rate = 1
	}
	return s.started.Add(time.Duration(float64(at-s.origin) / rate))
}

func (s *Source) give(r *record, due time.Time) {
	s.lastAt = r.at
	at := r.at
	switch {
	case s.config.KeepTimes:
	case s.config.Rate > 0:
		at = due.UnixNano()
	default:
		// As fast as rows are taken there is no time of playing: they keep
		// their distances from where the playing began.
		at = s.started.UnixNano() + r.at - s.origin
	}
	s.lastGive = max(at, s.lastGive)
	s.out.Times = append(s.out.Times, s.lastGive)
	for i, v := range r.values {
		s.out.Values[i] = append(s.out.Values[i], v)
	}
	s.row++
}

// Close implements source.Source.
func (s *Source) Close() error {
	if s.table == nil {
		return nil
	}
	err := s.table.file.Close()
	s.table = nil
	return err
}
