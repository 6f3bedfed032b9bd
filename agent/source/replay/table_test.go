package replay_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/source/replay"
)

func TestFilesOfOtherProgramsAreRead(t *testing.T) {
	packed := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(s))
		_ = z.Close()
		return b.String()
	}
	for name, tc := range map[string]struct {
		content  string
		config   replay.Config
		channels string
		first    string // time of the first row; empty: the epoch
		step     time.Duration
		values   []float32 // of the first two channels, row by row
	}{
		"a German spreadsheet":                    {"\ufeffZeit;\"Druck, bar\";T\r\n05.03.2024 06:00:00;1,5;1.234,5\r\n05.03.2024 06:00:02;-2;3,25e2\r\n", replay.Config{}, "Druck, bar|T", "2024-03-05T06:00:00Z", 2 * time.Second, []float32{1.5, 1234.5, -2, 325}},
		"tabs and milliseconds":                   {"timestamp\ta\tb\n1709618400000\t1\t2\n1709618400250\t3\t4\n", replay.Config{}, "a|b", "2024-03-05T06:00:00Z", 250 * time.Millisecond, []float32{1, 2, 3, 4}},
		"a zone and commas in names":              {"time,\"a, b\",c\n2024-03-05T08:00:00+02:00,1,2\n2024-03-05T08:01:00+02:00,3,4\n", replay.Config{}, "a, b|c", "2024-03-05T06:00:00Z", time.Minute, []float32{1, 2, 3, 4}},
		"the time behind an index without a name": {",when,a,b\n0,2024-03-05 06:00,1,2\n1,2024-03-05 07:00,3,4\n", replay.Config{}, "a|b", "2024-03-05T06:00:00Z", time.Hour, []float32{1, 2, 3, 4}},
		"date and time apart, empty columns":      {"Date;Time;a;b;;\n05/03/2024;06.00.00;1,5;2;;\n05/03/2024;07.00.00;3;4;;\n", replay.Config{}, "a|b", "2024-03-05T06:00:00Z", time.Hour, []float32{1.5, 2, 3, 4}},
		"no time":                                 {"a,b\n5,2\n3,4\n", replay.Config{SampleRateHz: 10}, "a|b", "", 100 * time.Millisecond, []float32{5, 2, 3, 4}},
		"no time, for certain":                    {"a,b\n1,2\n3,4\n5,6\n", replay.Config{TimeColumn: replay.NoTime}, "a|b", "", time.Second, []float32{1, 2, 3, 4}},
		"no names":                                {"5,2\n3,4\n4,4\n", replay.Config{}, "column 1|column 2", "", time.Second, []float32{5, 2, 3, 4}},
		"half past noon, month first":             {"time,a,b\n3/12/2024 12:30:00 PM,1,2\n3/13/2024 12:30:00 PM,3,4\n", replay.Config{}, "a|b", "2024-03-12T12:30:00Z", 24 * time.Hour, []float32{1, 2, 3, 4}},
		"packed":                                  {packed("time,a,b\n2024-03-05,1,2\n2024-03-06,3,4\n"), replay.Config{}, "a|b", "2024-03-05T00:00:00Z", 24 * time.Hour, []float32{1, 2, 3, 4}},
		"the same name twice, and a stray quote":  {"time,a,a\n1,1,2\n2,3,4\n3,5\",6\n", replay.Config{}, "a|a (2)", "1970-01-01T00:00:01Z", time.Second, []float32{1, 2, 3, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.config.Path, tc.config.Rate, tc.config.KeepTimes = file(t, tc.content), -1, true
			s := opened(t, tc.config)
			var names []string
			for _, c := range s.Channels() {
				names = append(names, c.Name)
			}
			times, values, _ := play(t, s, 2)
			if got := strings.Join(names, "|"); got != tc.channels {
				t.Fatalf("channels %s, want %s", got, tc.channels)
			}
			var want time.Time
			if want = time.Unix(0, 0); tc.first != "" {
				want, _ = time.Parse(time.RFC3339, tc.first)
			}
			if times[0] != want.UnixNano() || times[1]-times[0] != int64(tc.step) {
				t.Errorf("times %v and %v later, want %v and %v", time.Unix(0, times[0]).UTC(), time.Duration(times[1]-times[0]), want.UTC(), tc.step)
			}
			if got := fmt.Sprint(values[0][0], values[1][0], values[0][1], values[1][1]); got != strings.Trim(fmt.Sprint(tc.values), "[]") {
				t.Errorf("values %s, want %v", got, tc.values)
			}
		})
	}
}

func TestDaysAndMonthsAreToldApartByHowTheyGoOn(t *testing.T) {
	var b strings.Builder
	b.WriteString("when,a\n")
	at := time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)
	for range 300 { // hours: the first 64 rows alone say little
		fmt.Fprintf(&b, "%s,1\n", at.Format("01/02/2006 15:04"))
		at = at.Add(time.Hour)
	}
	times, _, _ := play(t, opened(t, replay.Config{Path: file(t, b.String()), Rate: -1, KeepTimes: true}), 300)
	for i := 1; i < len(times); i++ {
		if times[i]-times[i-1] != int64(time.Hour) {
			t.Fatalf("row %d is %s after the one before", i, time.Duration(times[i]-times[i-1]))
		}
	}
}

func TestALineThatIsBrokenDoesNotEndARecording(t *testing.T) {
	path := file(t, "time,a,b\n10,1,2\n11,3\n\x1b,5,6\n11,7,8\n9,,Bad Input\n13")
	times, values, _ := play(t, opened(t, replay.Config{Path: path, Rate: -1, KeepTimes: true}), 100)
	if fmt.Sprint(times) != "[10000000000 11000000000 11000000000 11000000000 11000000000 13000000000]" {
		t.Errorf("times %v", times)
	}
	if v := values[1]; v[0] != 2 || !math.IsNaN(float64(v[1])) || v[2] != 6 || !math.IsNaN(float64(v[4])) || !math.IsNaN(float64(v[5])) {
		t.Errorf("values %v", v)
	}
	v, err := replay.Look(replay.Config{Path: path})
	if err != nil || v.Rows != 6 || v.BadTimes != 1 || v.Falls != 1 || v.Repeats != 1 || v.Short != 2 || v.Time != "time" || v.Columns[1].Empty != 3 || v.Columns[1].Numbers != 3 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestALookTellsWhatIsInAColumn(t *testing.T) {
	var b strings.Builder
	b.WriteString("id,when,a,state\n")
	for i := range 60 {
		fmt.Fprintf(&b, "%d,2024-03-05 06:00:%02d,%d,%s\n", 100+i, i, i*i, []string{"on", "off"}[i/30])
	}
	v, err := replay.Look(replay.Config{Path: file(t, b.String())})
	if err != nil || len(v.Columns) != 3 || v.RateHz != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	id, a, state := v.Columns[0], v.Columns[1], v.Columns[2]
	if !id.Steady || a.Steady || !a.Many || a.Runs != nil || state.Words != 60 || fmt.Sprint(state.Distinct, state.Runs) != "[on off] [{0 on} {30 off}]" {
		t.Errorf("%+v", v.Columns)
	}
}

func TestAFileThatIsNoTableSaysSo(t *testing.T) {
	for content, says := range map[string]string{
		"":                              "it is empty",
		"\x7fELF\x00\x01\x02":           "it is no text",
		"\xff\xfet\x00,\x00a\x00\n\x00": "UTF-16",
		"\x1f\x8bnothing":               "gzip",
	} {
		if _, err := replay.Look(replay.Config{Path: file(t, content)}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", content, err, says)
		}
	}
}
