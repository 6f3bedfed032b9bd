package ctl

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestATableAlignsWhateverIsInIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.SliceOfN(rapid.StringMatching(`[a-zäß·→ ]{0,60}`), 3, 3), 1, 8).Draw(t, "rows")
		most := rapid.SampledFrom([]int{0, longest}).Draw(t, "max")
		var b bytes.Buffer
		tab := &table{w: &b, max: most}
		tab.row("A", "B", "|")
		for _, r := range rows {
			tab.row(r[0], r[1], "|")
		}
		if err := tab.flush(); err != nil {
			t.Fatal(err)
		}
		at := -1
		for line := range strings.Lines(b.String()) {
			line = strings.TrimSuffix(line, "\n")
			col := utf8.RuneCountInString(line[:strings.LastIndex(line, "|")])
			if at < 0 {
				at = col
			}
			if col != at {
				t.Fatalf("the last column begins at %d and at %d:\n%s", at, col, b.String())
			}
			if most > 0 && col > 60+2+most+2 {
				t.Fatalf("cells of more than %d characters:\n%s", most, b.String())
			}
		}
	})
}

func TestTheLastColumnTakesTheRoomThatTheTerminalHas(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct {
		name             string
		width, max       int
		first, mid, last int // characters of a cell of 100
	}{
		{"no terminal", 0, longest, 100, 40, 40},
		{"a narrow terminal", 80, longest, 100, 40, 40},
		{"a wide terminal", 204, longest, 100, 40, 60},
		{"a very wide terminal", 400, longest, 100, 40, 100},
		{"-o wide", 80, 0, 100, 100, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			tab := &table{w: &b, max: c.max, width: c.width}
			tab.row(long, long, long)
			if err := tab.flush(); err != nil {
				t.Fatal(err)
			}
			cells := strings.Fields(b.String())
			if len(cells) != 3 || utf8.RuneCountInString(cells[0]) != c.first || utf8.RuneCountInString(cells[1]) != c.mid || utf8.RuneCountInString(cells[2]) != c.last {
				t.Errorf("got %q", cells)
			}
		})
	}
}

func TestColourMarksOnlyWhatSomebodyMustLookAt(t *testing.T) {
	var b bytes.Buffer
	tab := &table{w: &b, color: true}
	tab.row("press-01", "ok", "x")
	tab.row("press-02", "failed", "x")
	tab.row("press-03", "degraded", "x")
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	want := "press-01  ok        x\npress-02  \x1b[31mfailed\x1b[0m    x\npress-03  \x1b[33mdegraded\x1b[0m  x\n"
	if b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
	if colored(&b) {
		t.Error("a file would be coloured")
	}
}

func TestACellShowsAValueShortly(t *testing.T) {
	for _, c := range []struct {
		name string
		v    any
		want string
	}{
		{"nothing", nil, "-"},
		{"an empty text", "", "-"},
		{"lines become one", "a\n  b", "a b"},
		{"yes", true, "yes"},
		{"a whole number", 1234567.0, "1234567"},
		{"a fraction", 0.123456, "0.1235"},
		{"a digest", "sha256:" + strings.Repeat("ab", 32), "abababababab"},
		{"a release", object{"id": "pump-anomaly-7", "name": "pump-anomaly"}, "pump-anomaly-7"},
		{"texts", []any{"press", "pump"}, "press,pump"},
		{"no texts", []any{}, "-"},
		{"objects are counted", []any{object{}, object{}}, "2"},
		{"a time that was", time.Now().Add(-90 * time.Minute).Format(time.RFC3339Nano), "90m ago"},
		{"a time to come", time.Now().Add(49*time.Hour + time.Minute).Format(time.RFC3339Nano), "in 2d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := cell(c.v); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestAProblemShowsItsFieldsOnce(t *testing.T) {
	p := &Problem{Status: 400, Detail: "spec.waves: too few"}
	p.Fields = append(p.Fields, struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	}{"spec.waves", "too few"}, struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	}{"spec.selector", "empty"})
	if got, want := p.Error(), "spec.waves: too few\n  spec.selector: empty"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAPlotKeepsEveryPeakAndMarksAnomalies(t *testing.T) {
	from := time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)
	s := points{}
	for i := range 100 {
		v := 1.0
		if i == 50 {
			v = 9
		}
		s.Times, s.Mean = append(s.Times, from.Add(time.Duration(i)*time.Second).UnixMilli()), append(s.Mean, v)
	}
	s.Anomalies = append(s.Anomalies, struct {
		From int64 `json:"from"`
		To   int64 `json:"to"`
	}{s.Times[50], s.Times[52]})
	to := from.Add(100 * time.Second)
	got := newPlot(s, from, to, 10, 2).draw(from, to)
	want := "" +
		"          9 │     ⠁\n" +
		"          1 │⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀\n" +
		"    anomaly       ▲\n" +
		"             02:00:00 02:01:40 UTC\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestAPlotNeedsNoDifferenceToDraw(t *testing.T) {
	from := time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		s := points{}
		n := rapid.IntRange(1, 50).Draw(t, "n")
		for range n {
			s.Times = append(s.Times, from.UnixMilli()+rapid.Int64Range(-10, 70_000).Draw(t, "at"))
			s.Mean = append(s.Mean, rapid.SampledFrom([]float64{-1e300, -1, 0, 1e-300, 1, 1e300}).Draw(t, "value"))
		}
		to := from.Add(time.Minute)
		height := rapid.IntRange(2, 20).Draw(t, "height")
		lines := strings.Count(newPlot(s, from, to, rapid.IntRange(10, 80).Draw(t, "width"), height).draw(from, to), "\n")
		if lines != height+1 {
			t.Fatalf("%d lines for a height of %d", lines, height)
		}
	})
}
