package replay_test

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swellfleet/swell/agent/source/replay"
)

const recording = `datetime;flow;pressure;anomaly
2020-03-09 10:14:33;1.5;10;0
2020-03-09 10:14:34;2.5;;0
2020-03-09 10:14:35;3.5;abc;1
2020-03-09 10:14:40;4.5;40;1
`

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "recording.csv")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// play reads up to n rows: times, values per channel, and the error at the end.
func play(t *testing.T, s *replay.Source, n int) (times []int64, values [][]float32, err error) {
	t.Helper()
	values = make([][]float32, len(s.Channels()))
	for len(times) < n {
		rows, err := s.Next(context.Background())
		if rows.Len() > 0 && rows.First != uint64(len(times)) {
			t.Errorf("rows go on at %d, want %d", rows.First, len(times))
		}
		times = append(times, rows.Times...)
		for c := range rows.Values {
			values[c] = append(values[c], rows.Values[c]...)
		}
		if err != nil {
			return times, values, err
		}
	}
	return times, values, nil
}

func opened(t *testing.T, c replay.Config) *replay.Source {
	t.Helper()
	s := replay.New(c)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRecordingIsPlayedOnceWithItsOwnTimes(t *testing.T) {
	s := opened(t, replay.Config{Path: file(t, recording), Exclude: []string{"anomaly"}, Rate: -1, KeepTimes: true, Units: map[string]string{"flow": "l/min"}})
	if cs := s.Channels(); len(cs) != 2 || cs[0].Name != "flow" || cs[0].Unit != "l/min" || cs[1].Name != "pressure" || s.RateHz() != 1 {
		t.Errorf("channels %v at %v Hz", cs, s.RateHz())
	}
	times, values, err := play(t, s, 100)
	if !errors.Is(err, io.EOF) || len(times) != 4 {
		t.Fatalf("%d rows, %v", len(times), err)
	}
	start := time.Date(2020, 3, 9, 10, 14, 33, 0, time.UTC).UnixNano()
	if times[0] != start || times[3] != start+7e9 {
		t.Errorf("times %v", times)
	}
	if !slices.Equal(values[0], []float32{1.5, 2.5, 3.5, 4.5}) || values[1][0] != 10 || !math.IsNaN(float64(values[1][1])) || !math.IsNaN(float64(values[1][2])) {
		t.Errorf("values %v", values)
	}
}

func TestRecordingLoopsWithoutAStepBackInTime(t *testing.T) {
	s := opened(t, replay.Config{Path: file(t, recording), Rate: -1, KeepTimes: true, Loop: true, StartRow: 2, BatchRows: 3})
	times, values, err := play(t, s, 12)
	if err != nil || !slices.IsSorted(times) || !slices.Equal(values[0][:7], []float32{3.5, 4.5, 1.5, 2.5, 3.5, 4.5, 1.5}) {
		t.Errorf("times %v, values %v, %v", times, values[0], err)
	}
	if step := times[2] - times[1]; step != 1e9 {
		t.Errorf("the loop steps by %d ns, want one period", step)
	}
}

func TestPaceIsThatOfTheRecordingTimesRate(t *testing.T) {
	name := file(t, recording)
	synctest.Test(t, func(t *testing.T) {
		s := replay.New(replay.Config{Path: name, Rate: 2})
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		began := time.Now()
		times, _, err := play(t, s, 100)
		if !errors.Is(err, io.EOF) || time.Since(began) != 3500*time.Millisecond {
			t.Errorf("7 s of recording took %s, %v", time.Since(began), err)
		}
		if times[3]-began.UnixNano() != 3.5e9 {
			t.Errorf("the last row is stamped %d ns after the start", times[3]-began.UnixNano())
		}
	})
}

func TestOtherFormsOfTime(t *testing.T) {
	for name, rows := range map[string]string{
		"comma and RFC 3339":  "t,x\n2020-03-09T10:00:00Z,1\n2020-03-09T10:00:00.5Z,2\n",
		"seconds since 1970":  "x,t\n1,1583748000\n2,1583748000.5\n",
		"fractions of second": "t;x\n2020-03-09 10:00:00.0;1\n2020-03-09 10:00:00.5;2\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := opened(t, replay.Config{Path: file(t, rows), TimeColumn: "t", Rate: -1, KeepTimes: true})
			times, _, _ := play(t, s, 2)
			if s.RateHz() != 2 || times[1]-times[0] != 5e8 || times[0] != 1583748000e9 {
				t.Errorf("times %v at %v Hz", times, s.RateHz())
			}
		})
	}
}

func TestRecordingThatCannotBePlayedSaysWhy(t *testing.T) {
	for _, c := range []struct {
		name, content string
		config        replay.Config
		says          string
	}{
		{"no such channel", recording, replay.Config{Channels: []string{"speed"}}, `no channel "speed": it has datetime, flow`},
		{"no such time column", recording, replay.Config{TimeColumn: "when"}, `no time column "when"`},
		{"no rows", "t;x\n", replay.Config{}, "it has no rows"},
		{"a time that is none", "t;x\nyesterday;1\n", replay.Config{}, `row 0: time "yesterday"`},
		{"start after the end", recording, replay.Config{StartRow: 9}, "ends before start_row"},
		{"nothing but time", "t\n2020-03-09 10:00:00\n", replay.Config{}, "no channels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Path = file(t, c.content)
			err := replay.New(c.config).Open(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
	if err := replay.New(replay.Config{Path: "/nowhere.csv"}).Open(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
