package ctl

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (e *env) signalPlot() *cobra.Command {
	var since time.Duration
	var width, height int
	c := &cobra.Command{
		Use: "plot SITE/NODE SIGNAL", Short: "Draw a signal in the terminal", Args: args(cobra.ExactArgs(2)), ValidArgsFunction: e.names("devices"),
		Long:    "plot draws the range between the smallest and the largest value of each column,\nso that no peak is lost, and marks below it where the device saw an anomaly.",
		Example: "  swellctl signal plot hall-1/press-03 pressure --since 1h",
		RunE: func(c *cobra.Command, a []string) error {
			if since <= 0 {
				return usage("--since %s: want more than 0", since)
			}
			if width == 0 {
				width = 72
				if f, ok := e.out.(*os.File); ok {
					if w, _, err := term.GetSize(int(f.Fd())); err == nil {
						width = max(w-14, 10)
					}
				}
			}
			if width < 10 || width > 1000 || height < 2 || height > 200 {
				return usage("--width must be 10 to 1000 and --height 2 to 200")
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			to := time.Now().UTC()
			from := to.Add(-since)
			s, err := series(ctx, h, a[0], a[1], from, to, min(2*width*4, maxPoints))
			if err != nil {
				return err
			}
			if len(s.Times) == 0 {
				return fmt.Errorf("%s has no values of %s in the last %s: 'swellctl signal list %s' shows what there is", a[0], a[1], since, a[0])
			}
			p := newPlot(s, from, to, width, height)
			unit := s.Unit
			if unit != "" {
				unit = " " + unit
			}
			last := len(s.Times) - 1
			fmt.Fprintf(e.out, "%s %s   min %.4g%s   max %.4g%s   last %.4g%s, %s\n", a[0], a[1], p.low, unit, p.high, unit, s.Mean[last], unit, ago(s.time(last)))
			fmt.Fprint(e.out, p.draw(from, to))
			return nil
		},
	}
	c.Flags().DurationVar(&since, "since", time.Hour, "how far back to begin")
	c.Flags().IntVar(&width, "width", 0, "characters (default the terminal's)")
	c.Flags().IntVar(&height, "height", 12, "lines")
	return c
}

// plot is a grid of braille dots, two by four in a character.
type plot struct {
	width, height int // characters
	low, high     float64
	cells         [][]rune // bits of U+2800 by line from the top
	flagged       []bool   // by character
}

// dots are the bits of a braille character by dot column and row from the top.
var dots = [2][4]rune{{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}}

func newPlot(s points, from, to time.Time, width, height int) *plot {
	p := &plot{width: width, height: height, low: math.Inf(1), high: math.Inf(-1), flagged: make([]bool, width)}
	for range height {
		p.cells = append(p.cells, make([]rune, width))
	}
	low, high := s.Min, s.Max
	if len(low) == 0 || len(high) == 0 {
		low, high = s.Mean, s.Mean
	}
	for i := range s.Times {
		p.low, p.high = min(p.low, low[i]), max(p.high, high[i])
	}
	begin, span := from.UnixMilli(), to.Sub(from).Milliseconds()
	x := func(ms int64) int {
		return min(max(int((ms-begin)*int64(2*width)/max(span, 1)), 0), 2*width-1)
	}
	y := func(v float64) int { // dot rows from the top
		if p.high == p.low {
			return 2 * height
		}
		return int(math.Round((p.high - v) / (p.high - p.low) * float64(4*height-1)))
	}
	for i := range s.Times {
		for row := y(high[i]); row <= y(low[i]); row++ {
			col := x(s.Times[i])
			p.cells[row/4][col/2] |= dots[col%2][row%4]
		}
	}
	for _, a := range s.Anomalies {
		if a.To < begin || a.From > begin+span {
			continue
		}
		for c := x(a.From) / 2; c <= x(a.To)/2; c++ {
			p.flagged[c] = true
		}
	}
	return p
}

// draw returns the lines with their axes.
func (p *plot) draw(from, to time.Time) string {
	var b strings.Builder
	for i, line := range p.cells {
		label := ""
		switch i {
		case 0:
			label = fmt.Sprintf("%.4g", p.high)
		case len(p.cells) - 1:
			label = fmt.Sprintf("%.4g", p.low)
		}
		var text strings.Builder
		for _, c := range line {
			if c == 0 {
				text.WriteByte(' ')
			} else {
				text.WriteRune(0x2800 + c)
			}
		}
		fmt.Fprintf(&b, "%11s │%s\n", label, strings.TrimRight(text.String(), " "))
	}
	marks := ""
	for _, f := range p.flagged {
		marks += map[bool]string{true: "▲", false: " "}[f]
	}
	if marks = strings.TrimRight(marks, " "); marks != "" {
		fmt.Fprintf(&b, "%11s  %s\n", "anomaly", marks)
	}
	layout := "15:04:05"
	if to.Sub(from) > 24*time.Hour {
		layout = "2006-01-02 15:04"
	}
	left, right := from.Format(layout), to.Format(layout)+" UTC"
	gap := max(p.width-utf8.RuneCountInString(left)-utf8.RuneCountInString(right), 1)
	fmt.Fprintf(&b, "%11s  %s%s%s\n", "", left, strings.Repeat(" ", gap), right)
	return b.String()
}
