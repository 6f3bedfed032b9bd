package explore

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/simulator/world"
)

// Draw writes the scenario that a seed makes of a template: a scenario in which
// lines may begin with `maybe P`, and are there in that share of the seeds; in
// which of neighbouring lines that begin with `either` one is drawn; and in
// which A..B is a number, a share or a duration between the two. What it writes
// is an ordinary scenario, so that one that fails can be read, changed and
// played by itself.
func Draw(template string, seed uint64) (string, error) {
	var out []string
	var choice []string
	w := world.New(seed, time.Time{})
	lines := strings.Split(template, "\n")
	out = append(out, fmt.Sprintf("seed %d", seed))
	for i, line := range append(lines, "") {
		text, _, _ := strings.Cut(line, "#")
		words := strings.Fields(text)
		r := w.Rand("draw", strconv.Itoa(i))
		if len(words) > 0 && words[0] == "either" {
			choice = append(choice, strings.Join(words[1:], " "))
			continue
		}
		if len(choice) > 0 {
			words = append(strings.Fields(choice[r.IntN(len(choice))]), append([]string{"\n"}, words...)...)
			choice = nil
		}
		for _, part := range strings.Split(strings.Join(words, " "), "\n") {
			drawn, err := drawLine(strings.Fields(part), r)
			if err != nil {
				return "", fmt.Errorf("line %d: %w", i+1, err)
			}
			if drawn != "" {
				out = append(out, drawn)
			}
		}
	}
	return strings.Join(out, "\n") + "\n", nil
}

func drawLine(words []string, r *world.Rand) (string, error) {
	if len(words) == 0 || words[0] == "seed" {
		return "", nil
	}
	if words[0] == "maybe" {
		if len(words) < 3 {
			return "", fmt.Errorf("say how often, and what: maybe 30%% at 10m hub crash")
		}
		p, percent := strings.CutSuffix(words[1], "%")
		v, err := strconv.ParseFloat(p, 64)
		if percent {
			v /= 100
		}
		if err != nil || !(v >= 0 && v <= 1) {
			return "", fmt.Errorf("%q: want a share such as 30%%", words[1])
		}
		words = words[2:]
		if !r.Chance(v) {
			return "", nil
		}
	}
	for i, word := range words {
		from, to, ok := strings.Cut(word, "..")
		if !ok {
			continue
		}
		v, err := between(from, to, r.Float64())
		if err != nil {
			return "", err
		}
		words[i] = v
	}
	return strings.Join(words, " "), nil
}

// between draws from a range; u is uniform in [0, 1).
func between(from, to string, u float64) (string, error) {
	number, percent := strings.CutSuffix(to, "%")
	a, err := strconv.ParseFloat(strings.TrimSuffix(from, "%"), 64)
	b, err2 := strconv.ParseFloat(number, 64)
	if err == nil && err2 == nil && a <= b {
		v := a + u*(b-a)
		if percent {
			return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64) + "%", nil
		}
		return strconv.Itoa(int(math.Round(v))), nil
	}
	c, err := time.ParseDuration(from)
	d, err2 := time.ParseDuration(to)
	if err != nil || err2 != nil || d < c {
		return "", fmt.Errorf("%s..%s: want two numbers, shares or durations, the smaller one first", from, to)
	}
	return (c + time.Duration(u*float64(d-c))).Round(time.Second).String(), nil
}
