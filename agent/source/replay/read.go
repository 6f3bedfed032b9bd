package replay

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/agent/source"
)

// Source plays one recording. Make it with New.
type Source struct {
	config Config

	file     *os.File
	csv      *csv.Reader
	channels []source.Channel
	columns  []int // CSV column of each channel
	time     int   // CSV column of the time
	rateHz   float64

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

func differences(times []int64) []int64 {
	var d []int64
	for i := 1; i < len(times); i++ {
		d = append(d, times[i]-times[i-1])
	}
	return d
}

// rewind opens the file anew and reads its first line.
func (s *Source) rewind() error {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	f, err := os.Open(s.config.Path)
	if err != nil {
		return err
	}
	s.file = f
	b := bufio.NewReaderSize(f, 256<<10)
	head, err := b.Peek(b.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	line, _, _ := strings.Cut(string(head), "\n")
	s.csv = csv.NewReader(b)
	s.csv.ReuseRecord = true
	if strings.Contains(line, ";") {
		s.csv.Comma = ';'
	}
	names, err := s.csv.Read()
	if err != nil {
		return fmt.Errorf("read its first line: %w", err)
	}
	s.at = 0
	return s.choose(names)
}

// choose finds the columns to play.
func (s *Source) choose(names []string) error {
	index := map[string]int{}
	for i, n := range names {
		n = strings.TrimPrefix(strings.TrimSpace(n), "\ufeff")
		names[i] = n
		index[n] = i
	}
	column := func(what, name string) (int, error) {
		i, ok := index[name]
		if !ok {
			return 0, fmt.Errorf("it has no %s %q: it has %s", what, name, strings.Join(names, ", "))
		}
		return i, nil
	}
	s.time = 0
	if s.config.TimeColumn != "" {
		i, err := column("time column", s.config.TimeColumn)
		if err != nil {
			return err
		}
		s.time = i
	}
	for _, n := range s.config.Exclude {
		if _, err := column("excluded column", n); err != nil {
			return err
		}
	}
	chosen := s.config.Channels
	if len(chosen) == 0 {
		for i, n := range names {
			if i != s.time && !slices.Contains(s.config.Exclude, n) {
				chosen = append(chosen, n)
			}
		}
	}
	s.channels, s.columns = nil, nil
	for _, n := range chosen {
		i, err := column("channel", n)
		if err != nil {
			return err
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
		t, err := parseTime(s.config.StartTime)
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

// read parses the next row of the file.
func (s *Source) read() (*record, error) {
	cells, err := s.csv.Read()
	if err != nil {
		return nil, err
	}
	s.at++
	at, err := parseTime(cells[s.time])
	if err != nil {
		return nil, fmt.Errorf("row %d: %w", s.at-1, err)
	}
	r := &record{at: at + s.shift, values: make([]float32, len(s.columns))}
	for i, c := range s.columns {
		v, err := strconv.ParseFloat(strings.TrimSpace(cells[c]), 32)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			v = math.NaN()
		}
		r.values[i] = float32(v)
	}
	return r, nil
}

// Formats of a time cell, besides seconds since the epoch.
var formats = []string{"2006-01-02 15:04:05", time.RFC3339, "2006-01-02T15:04:05", "2006/01/02 15:04:05", "2006-01-02"}

func parseTime(s string) (int64, error) {
	s = strings.TrimSpace(s)
	for _, f := range formats {
		if t, err := time.Parse(f, s); err == nil {
			return t.UnixNano(), nil
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < math.MaxInt64/1e9 {
		whole, part := math.Modf(f)
		return int64(whole)*1e9 + int64(math.Round(part*1e9)), nil
	}
	return 0, fmt.Errorf("time %q: want 2006-01-02 15:04:05, RFC 3339 or seconds since 1970", s)
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
	if s.file == nil {
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
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}
