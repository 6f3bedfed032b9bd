package gates

import (
	"fmt"
	"io"
	"strings"
)

// SVG writes the curves of the default gate as a picture: the share of runs
// stopped over time, one panel for each number of devices. Equal rows give
// equal bytes; it is readable on light and on dark ground.
func SVG(w io.Writer, rows []Row) error {
	const width, height, gapX, gapY, left, top = 360, 200, 60, 66, 52, 58
	colours := []struct {
		ratio float64
		class string
		says  string
	}{{1, "a", "no change"}, {1.5, "b", "×1.5, the margin"}, {2, "c", "×2"}, {3, "d", "×3"}}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="Share of runs that the shadow gate stopped, over hours of stream">
<style>
svg{background:#fff}
text{font:13px system-ui,sans-serif;fill:#1c2530}
.t{font-weight:600}.n{fill:#5a6675}
.g{stroke:#d7dde4}.x{stroke:#5a6675}
path{fill:none;stroke-width:2}
.a{stroke:#5a6675}.b{stroke:#8a5a00;stroke-dasharray:6 4}.c{stroke:#1f6feb}.d{stroke:#b3261e}
@media(prefers-color-scheme:dark){svg{background:#12171d}text{fill:#e6ebf1}.n{fill:#9aa7b5}.g{stroke:#2b3541}.x{stroke:#9aa7b5}.a{stroke:#9aa7b5}.b{stroke:#e0a83a}.c{stroke:#6cb0ff}.d{stroke:#ff8a80}}
</style>
<text class="t" x="%d" y="22">Share of runs stopped by the shadow gate, margin %s, counting windows of %d s, 1 item/s, 1 %% flagged</text>
`, left+2*width+gapX+20, top+2*(height+gapY), left, times(settings[0].Margin), settings[0].WindowS)
	for i, c := range colours {
		x := left + i*170
		fmt.Fprintf(&b, "<path class=\"%s\" d=\"M%d 38h28\"/><text x=\"%d\" y=\"42\">%s</text>\n", c.class, x, x+34, c.says)
	}
	for i, devices := range sizes {
		x0, y0 := left+i%2*(width+gapX), top+12+i/2*(height+gapY)
		for _, p := range []int{0, 50, 100} {
			y := y0 + height - height*p/100
			fmt.Fprintf(&b, "<path class=\"g\" d=\"M%d %dh%d\"/><text class=\"n\" text-anchor=\"end\" x=\"%d\" y=\"%d\">%d %%</text>\n", x0, y, width, x0-6, y+4, p)
		}
		for h := 0; h <= plotHours; h += 2 {
			fmt.Fprintf(&b, "<text class=\"n\" text-anchor=\"middle\" x=\"%d\" y=\"%d\">%d h</text>\n", x0+width*h/plotHours, y0+height+18, h)
		}
		name := "devices"
		if devices == 1 {
			name = "device"
		}
		fmt.Fprintf(&b, "<path class=\"x\" d=\"M%d %dv%dh%d\"/><text class=\"t\" text-anchor=\"end\" x=\"%d\" y=\"%d\">%d %s</text>\n", x0, y0, height, width, x0+width, y0+height-8, devices, name)
		for _, c := range colours {
			r, ok := curve(rows, c.ratio, devices)
			if !ok {
				continue
			}
			fmt.Fprintf(&b, "<path class=\"%s\" d=\"", c.class)
			for k := range width/2 + 1 {
				y := float64(y0) + height*(1-share(r.within(float64(2*k)*plotHours/width), r.Runs))
				fmt.Fprintf(&b, "%s%d %.1f", map[bool]string{true: "M", false: "L"}[k == 0], x0+2*k, y)
			}
			b.WriteString("\"/>\n")
		}
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}
