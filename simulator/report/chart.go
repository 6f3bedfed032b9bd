package report

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// chart draws one SVG: time to the right, numbers upwards.
type chart struct {
	b                        strings.Builder
	w, h                     float64
	left, right, top, bottom float64
	from, to                 time.Duration
	low, high                float64
	log                      bool
}

func newChart(w, h float64, from, to time.Duration, low, high float64) *chart {
	if to <= from {
		to = from + time.Minute
	}
	if high <= low {
		high = low + 1
	}
	return &chart{w: w, h: h, left: 46, right: 12, top: 10, bottom: 24, from: from, to: to, low: low, high: high}
}

func (c *chart) x(t time.Duration) float64 {
	return c.left + (c.w-c.left-c.right)*float64(min(max(t, c.from), c.to)-c.from)/float64(c.to-c.from)
}

func (c *chart) y(v float64) float64 {
	low, high := c.low, c.high
	if c.log {
		v, low, high = math.Log10(max(v, 1e-300)), math.Log10(low), math.Log10(high)
	}
	share := min(max((v-low)/(high-low), 0), 1)
	return c.h - c.bottom - (c.h-c.top-c.bottom)*share
}

func (c *chart) add(format string, args ...any) { fmt.Fprintf(&c.b, format, args...) }

// axes draws the grid with its words.
func (c *chart) axes() {
	for _, v := range c.ticks() {
		y := c.y(v)
		c.add(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, c.left, c.w-c.right, y, y)
		c.add(`<text class="tick" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, c.left-6, y+4, short(v))
	}
	step := stepOf(c.to-c.from, c.w)
	for t := (c.from + step - 1).Truncate(step); t <= c.to; t += step {
		x, anchor := c.x(t), "middle"
		if x > c.w-c.right-14 {
			anchor = "end"
		}
		c.add(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, c.top, c.h-c.bottom)
		c.add(`<text class="tick" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, c.h-7, anchor, clock(t))
	}
}

// ticks are the numbers beside the grid.
func (c *chart) ticks() []float64 {
	var out []float64
	if c.log {
		lo, hi := int(math.Ceil(math.Log10(c.low))), int(math.Floor(math.Log10(c.high)))
		every := max((hi-lo+4)/5, 1)
		for e := lo; e <= hi; e += every {
			out = append(out, math.Pow10(e))
		}
		return out
	}
	step := math.Pow10(int(math.Floor(math.Log10((c.high - c.low) / 6))))
	for _, f := range []float64{2, 2.5, 2} { // 1, 2, 5, 10
		if (c.high-c.low)/step <= 6 {
			break
		}
		step *= f
	}
	if c.high >= 1 && c.high == math.Trunc(c.high) {
		step = max(step, 1) // devices
	}
	for v := math.Ceil(c.low/step) * step; v <= c.high+step/1e6; v += step {
		out = append(out, v)
	}
	return out
}

// line draws points joined by steps, or by straight lines.
func (c *chart) line(class string, steps bool, at []time.Duration, v []float64) {
	var b strings.Builder
	for i := range at {
		switch {
		case i == 0:
			fmt.Fprintf(&b, "M%.1f %.1f", c.x(at[i]), c.y(v[i]))
		case steps:
			fmt.Fprintf(&b, "H%.1fV%.1f", c.x(at[i]), c.y(v[i]))
		default:
			fmt.Fprintf(&b, "L%.1f %.1f", c.x(at[i]), c.y(v[i]))
		}
	}
	c.add(`<path class="%s" d="%s"/>`, class, b.String())
}

// level draws a limit with its word.
func (c *chart) level(class string, v float64, word string) {
	y := c.y(v)
	c.add(`<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, class, c.left, c.w-c.right, y, y)
	if word != "" {
		dy := -4.0
		if y < c.top+14 {
			dy = 13
		}
		c.add(`<text class="word" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, c.w-c.right-3, y+dy, html.EscapeString(word))
	}
}

// mark draws a moment with its word; row keeps words of near moments apart.
func (c *chart) mark(t time.Duration, word string, row int) {
	x := c.x(t)
	c.add(`<line class="mark" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, c.top, c.h-c.bottom)
	if word == "" {
		return
	}
	anchor, dx := "start", 3.0
	if x > c.w*0.8 {
		anchor, dx = "end", -3.0
	}
	c.add(`<text class="word halo" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x+dx, c.top+11+float64(row%3)*13, anchor, html.EscapeString(word))
}

// svg returns the picture; title is what a screen reader says.
func (c *chart) svg(title string) string {
	return fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">%s</svg>`, c.w, c.h, html.EscapeString(title), c.b.String())
}

// stepOf is how far apart the words of the time axis are.
func stepOf(span time.Duration, width float64) time.Duration {
	want := time.Duration(float64(span) / max(width/90, 2))
	for _, s := range []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour} {
		if s >= want {
			return s
		}
	}
	const days = 96 * time.Hour
	return (want + days - 1).Truncate(days)
}

// clock writes time since the beginning as 1:05 h.
func clock(t time.Duration) string {
	if t < time.Hour {
		return fmt.Sprintf("%d min", int(t.Minutes()))
	}
	if m := int(t.Minutes()) % 60; m != 0 {
		return fmt.Sprintf("%d:%02d h", int(t.Hours()), m)
	}
	return fmt.Sprintf("%d h", int(t.Hours()))
}

// short writes a number of an axis.
func short(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 1e6 || a > 0 && a < 0.001:
		return strings.ReplaceAll(fmt.Sprintf("%.0e", v), "e+0", "e")
	case a >= 100 && a < 1e4:
		return fmt.Sprintf("%.0f", v)
	case a >= 1e4:
		return fmt.Sprintf("%gk", math.Round(v/100)/10)
	}
	return fmt.Sprintf("%g", math.Round(v*1e4)/1e4)
}
