package gates

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// Figures are what the study comes down to.
type Figures struct {
	// FalseAlarmShare is the worst share of runs stopped, over the rows in which
	// the assumption holds and the challenger is no worse than the margin.
	FalseAlarmShare float64 `json:"false_alarm_share"`
	// Upper is the Clopper–Pearson bound of that share at 95 %.
	Upper float64 `json:"false_alarm_upper"`
	// FalsePassShare is the worst share of runs that passed with a challenger
	// at the margin or above it, where the assumption holds.
	FalsePassShare float64 `json:"false_pass_share"`
	// X2 is the median of hours to stop twice the flags on 5 devices, of the
	// default gate.
	X2       float64 `json:"x2_5dev_median_h"`
	MarginX  float64 `json:"margin"`
	WindowS  int     `json:"window_s"`
	NoChange int     `json:"no_change_runs"`
}

// Sum returns the figures of rows.
func Sum(rows []Row) Figures {
	f := Figures{MarginX: settings[0].Margin, WindowS: settings[0].WindowS, X2: math.MaxFloat64}
	for _, r := range rows {
		if r.Holds && r.Allowed() {
			f.NoChange += r.Runs
			if s := share(len(r.Stopped), r.Runs); s >= f.FalseAlarmShare {
				f.FalseAlarmShare, f.Upper = s, max(f.Upper, r.upper())
			}
		}
		if r.Holds && r.Ratio >= r.Margin {
			f.FalsePassShare = max(f.FalsePassShare, share(len(r.Passed), r.Runs))
		}
		if r.Noise == noises[0].name && r.Ratio == 2 && r.Devices == 5 && r.Setting == settings[0] {
			f.X2 = min(r.Median(), math.MaxFloat64)
		}
	}
	return f
}

func share(k, n int) float64 { return float64(k) / float64(n) }

// upper is the one-sided Clopper–Pearson bound at 95 % of the share stopped.
func (r Row) upper() float64 { return upper(len(r.Stopped), r.Runs, 0.05) }

// upper returns the largest share for which k or fewer of n have the
// probability beta.
func upper(k, n int, beta float64) float64 {
	if k >= n {
		return 1
	}
	lo, hi := share(k, n), 1.0
	for range 60 {
		p := (lo + hi) / 2
		term, sum := float64(n)*math.Log1p(-p), 0.0
		for i := 0; i <= k; i++ {
			sum += math.Exp(term)
			term += math.Log(float64(n-i)/float64(i+1)) + math.Log(p) - math.Log1p(-p)
		}
		if sum > beta {
			lo = p
		} else {
			hi = p
		}
	}
	return hi
}

// Print writes the tables, a plot and, last, the figures as a line of JSON.
func Print(w io.Writer, rows []Row) error {
	var b strings.Builder
	fmt.Fprintf(&b, `The shadow gate of the product on streams of 1 item a second, 1 %% flagged, %d hours, looked at every minute, alpha %g.
margin is the gate's threshold: how many times as often the challenger may flag. A policy's default is ×%g, in counting windows of %d s.
others: fixed  a test of fixed size on the same pairs, looked at every minute (share of runs stopped)
        line   the flags of the line against those of another line, at every hour; (at the 4th hour alone)

NO WORSE THAN THE MARGIN: every stop is a false alarm; "at most" is the Clopper–Pearson bound at 95 %%
`, hours, alpha, settings[0].Margin, settings[0].WindowS)
	head := func(first string) {
		fmt.Fprintf(&b, "%-21s %5s %4s %7s %6s %5s  %s\n", "noise", "flags", "dev.", "margin", "window", "runs", first)
	}
	for _, holds := range []bool{true, false} {
		title(&b, holds)
		head("stopped  at most   passed  median   fixed  line (once)")
		for _, r := range rows {
			if r.Holds != holds || !r.Allowed() {
				continue
			}
			r.name(&b)
			fmt.Fprintf(&b, "%6s   %6s   %6s  %6s  %6s  %s (%s)\n", percent(len(r.Stopped), r.Runs), fmt.Sprintf("%.2f%%", 100*r.upper()),
				percent(len(r.Passed), r.Runs), duration(r.MedianPass()), percent(r.Fixed, r.Runs), percent(r.Line, r.Runs), percent(r.LineOnce, r.Runs))
		}
	}
	b.WriteString("\nWORSE THAN THE MARGIN: a stop is what is wanted; \"passed\" is the share shown to be no worse before any stop, and wrongly\n")
	for _, holds := range []bool{true, false} {
		title(&b, holds)
		head("stopped  median     90 %  passed   fixed  line (once)")
		for _, r := range rows {
			if r.Holds != holds || r.Allowed() {
				continue
			}
			r.name(&b)
			fmt.Fprintf(&b, "%6s   %6s   %6s  %6s  %6s  %s (%s)\n", percent(len(r.Stopped), r.Runs), duration(r.Median()), duration(r.Late()),
				percent(len(r.Passed), r.Runs), percent(r.Fixed, r.Runs), percent(r.Line, r.Runs), percent(r.LineOnce, r.Runs))
		}
	}
	plot(&b, rows)
	line, err := json.Marshal(Sum(rows))
	if err != nil {
		return fmt.Errorf("print the figures: %w", err)
	}
	b.Write(append(line, '\n'))
	_, err = io.WriteString(w, b.String())
	return err
}

func title(b *strings.Builder, holds bool) {
	if holds {
		b.WriteString("\n  the assumption holds: no window foretells a score above the margin's in the next, or on another device\n")
		return
	}
	b.WriteString("\n  THE ASSUMPTION BREAKS: bursts of one model that are long for the window or common to a line, a drift of one model\n")
}

func (r Row) name(b *strings.Builder) {
	fmt.Fprintf(b, "%-21s %5s %4d %7s %5ds %5d  ", r.Noise, times(r.Ratio), r.Devices, times(r.Margin), r.WindowS, r.Runs)
}

func times(x float64) string { return fmt.Sprintf("×%g", x) }

func percent(k, n int) string { return fmt.Sprintf("%.1f%%", 100*share(k, n)) }

// duration writes hours, and a dash for what did not happen.
func duration(h float64) string {
	switch {
	case math.IsInf(h, 0):
		return "–"
	case h < 1:
		return fmt.Sprintf("%.0f min", h*60)
	}
	return fmt.Sprintf("%.1f h", h)
}

// curve is the default gate's row for a ratio and a number of devices.
func curve(rows []Row, ratio float64, devices int) (Row, bool) {
	for _, r := range rows {
		if r.Noise == noises[0].name && r.Ratio == ratio && r.Devices == devices && r.Setting == settings[0] {
			return r, true
		}
	}
	return Row{}, false
}

// plot draws the share stopped over time of the default gate on 5 devices.
func plot(b *strings.Builder, rows []Row) {
	const width, height = 72, 10
	marks := map[float64]rune{1: '1', 1.5: 'm', 2: '2', 3: '3'}
	grid := make([][]rune, height+1)
	for i := range grid {
		grid[i] = []rune(strings.Repeat(" ", width+1))
	}
	for _, ratio := range []float64{1, 1.5, 2, 3} {
		r, ok := curve(rows, ratio, 5)
		if !ok {
			continue
		}
		for x := range width + 1 {
			y := share(r.within(float64(x)*plotHours/width), r.Runs)
			grid[height-int(math.Round(y*height))][x] = marks[ratio]
		}
	}
	fmt.Fprintf(b, "\nshare of runs stopped over time, 5 devices, independent noise, margin %s: 1 no change, m ×1.5 (at the margin), 2 ×2, 3 ×3\n", times(settings[0].Margin))
	for i, g := range grid {
		fmt.Fprintf(b, "%4d%% │%s\n", 100-i*100/height, strings.TrimRight(string(g), " "))
	}
	fmt.Fprintf(b, "      └%s\n       0%*s\n\n", strings.Repeat("─", width+1), width, fmt.Sprintf("%d h", plotHours))
}

// plotHours is how far the plots reach.
const plotHours = 8

// within returns how many runs were stopped within h hours.
func (r Row) within(h float64) int {
	n := 0
	for n < len(r.Stopped) && r.Stopped[n] <= h {
		n++
	}
	return n
}
