package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/swellfleet/swell/simulator/check"
	"github.com/swellfleet/swell/simulator/report"
	"github.com/swellfleet/swell/simulator/scenario"
)

const story = `fleet 12 lines 3
for 2h
wave "<script>alert(1)</script>" devices 3 deadline 2h
wave rest deadline 2h
gate success
gate shadow 1.8
budget line 1
shadow 5m window 30s
soak 5m
release nan-after 1m
expect state = promoted
`

func run(t *testing.T) report.Run {
	t.Helper()
	s, err := scenario.Parse("<b>bold</b>", strings.NewReader(story))
	if err != nil {
		t.Fatal(err)
	}
	r, err := scenario.Play(s, scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return report.Run{Result: r, Story: s, Text: story}
}

func TestAReportStandsByItselfAndEscapesNames(t *testing.T) {
	r := run(t)
	r.Violations = []check.Violation{{At: 0, What: "line <L1> & co"}}
	var b bytes.Buffer
	if err := report.HTML(&b, []report.Run{r}); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"<script", "<b>bold", "<L1>", "src=", "@import", "url(", "NaN", "Infinity"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q in it", bad)
		}
	}
	if m := regexp.MustCompile(`https?://[^"< ]*`).FindString(page); m != "" {
		t.Errorf("the page asks for %s", m)
	}
	for _, want := range []string{"Where the devices stand", "line=L3", "budget: at least 3", "shadow gate, wave", "line &lt;L1&gt; &amp; co", "expected state = promoted", "fleet 12 lines 3", "goes back"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if strings.Index(page, "Violated") > strings.Index(page, "Where the devices stand") {
		t.Error("violations are not on top")
	}
	// Every picture is well-formed.
	for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1) {
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in %.200s", err, svg)
			}
		}
	}
}

func TestARefusedRolloutAndAnEmptyRunAreDrawn(t *testing.T) {
	var b bytes.Buffer
	if err := report.HTML(&b, []report.Run{{}, {Result: scenario.Result{Refused: map[string]string{"r-2": "it can never finish"}}}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "it can never finish") {
		t.Error("the reason is missing")
	}
}
