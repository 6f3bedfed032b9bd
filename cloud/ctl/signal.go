package ctl

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// maxPoints is the most that the hub gives in one answer.
const maxPoints = 20000

func (e *env) signal() *cobra.Command {
	c := &cobra.Command{Use: "signal", Aliases: []string{"signals"}, Short: "Look at a device's signals"}
	c.AddCommand(e.signalList(), e.signalTail(), e.signalPlot(), e.signalExport())
	return c
}

var signals = kind{name: "signals", columns: []column{
	{"NAME", "name", false}, {"KIND", "kind", false}, {"UNIT", "unit", false}, {"LAST", "lastAt", false}, {"SINCE", "firstAt", false}, {"HZ", "sampleRateHz", true}, {"VALUE", "lastValue", true},
}}

func (e *env) signalList() *cobra.Command {
	return &cobra.Command{
		Use: "list SITE/NODE", Short: "List a device's signals", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("devices"),
		Example: "  swellctl signal list hall-1/press-03",
		RunE: func(c *cobra.Command, a []string) error {
			k, err := kindOf("devices")
			if err != nil {
				return err
			}
			path, err := k.one(a[0])
			if err != nil {
				return err
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var page struct {
				Items []object `json:"items"`
			}
			if err := h.get(ctx, path+"/signals", nil, &page); err != nil {
				return err
			}
			if len(page.Items) == 0 && e.output != "json" && e.output != "yaml" {
				fmt.Fprintf(e.err, "Nothing has come from %s yet.\n", a[0])
				return nil
			}
			return e.show(signals, page.Items, false)
		},
	}
}

func (e *env) signalTail() *cobra.Command {
	var since time.Duration
	c := &cobra.Command{
		Use: "tail SITE/NODE SIGNAL", Short: "Print a signal's values as they come", Args: args(cobra.ExactArgs(2)), ValidArgsFunction: e.names("devices"),
		Long:    "tail prints time and value, with a tab between them, until it is interrupted or\n--timeout is over.",
		Example: "  swellctl signal tail hall-1/press-03 pressure --since 1m --timeout 2s",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.following(c.Context())
			defer cancel()
			from := time.Now().Add(-since)
			err = e.poll(ctx, func(ctx context.Context) (bool, error) {
				now := time.Now()
				if !now.After(from) {
					return false, nil
				}
				s, err := series(ctx, h, a[0], a[1], from, now, maxPoints)
				if err != nil {
					return false, err
				}
				if s.ResolutionMs > 0 {
					fmt.Fprintf(e.err, "More values than fit: these are means of %s.\n", time.Duration(s.ResolutionMs)*time.Millisecond)
				}
				for i := range s.Times {
					fmt.Fprintf(e.out, "%s\t%s\n", s.time(i).Format("2006-01-02T15:04:05.000Z"), digits(s.Mean[i]))
					from = s.time(i).Add(time.Millisecond)
				}
				return false, nil
			})
			if errors.Is(ctx.Err(), context.DeadlineExceeded) || c.Context().Err() != nil {
				return nil // its time was over
			}
			return err
		},
	}
	c.Flags().DurationVar(&since, "since", 10*time.Second, "how far back to begin")
	return c
}

func (e *env) signalExport() *cobra.Command {
	var since time.Duration
	c := &cobra.Command{
		Use: "export SITE/NODE SIGNAL", Short: "Write a signal's values as CSV", Args: args(cobra.ExactArgs(2)), ValidArgsFunction: e.names("devices"),
		Long:    "export writes every value as it was measured, however many there are.",
		Example: "  swellctl signal export hall-1/press-03 pressure --since 1h > pressure.csv",
		RunE: func(c *cobra.Command, a []string) error {
			if since <= 0 {
				return usage("--since %s: want more than 0", since)
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.following(c.Context())
			defer cancel()
			w := csv.NewWriter(e.out)
			if err := w.Write([]string{"time", a[1]}); err != nil {
				return err
			}
			now := time.Now()
			n := 0
			err = e.raw(ctx, h, a[0], a[1], now.Add(-since), now, func(s points) error {
				n += len(s.Times)
				for i := range s.Times {
					if err := w.Write([]string{s.time(i).Format("2006-01-02T15:04:05.000Z"), digits(s.Mean[i])}); err != nil {
						return err
					}
				}
				w.Flush()
				return w.Error()
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(e.err, "%d values.\n", n)
			w.Flush()
			return w.Error()
		},
	}
	c.Flags().DurationVar(&since, "since", time.Hour, "how far back to begin")
	return c
}

// points are a signal over a range of time.
type points struct {
	Unit         string    `json:"unit"`
	ResolutionMs int64     `json:"resolutionMs"` // 0: as measured
	Times        []int64   `json:"times"`        // ms since 1970
	Mean         []float64 `json:"mean"`
	Min          []float64 `json:"min"` // empty when as measured
	Max          []float64 `json:"max"`
	Count        []int64   `json:"count"`
	Anomalies    []struct {
		From int64 `json:"from"`
		To   int64 `json:"to"`
	} `json:"anomalies"`
}

func (s points) time(i int) time.Time { return time.UnixMilli(s.Times[i]).UTC() }

// digits writes a value with the digits that it has: most were measured with
// 32 bits, and the further ones that 64 bits show say nothing.
func digits(v float64) string {
	if float64(float32(v)) == v {
		return strconv.FormatFloat(v, 'g', -1, 32)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// series asks for one signal over [from, to).
func series(ctx context.Context, h *hub, node, signal string, from, to time.Time, most int) (points, error) {
	var s points
	q := url.Values{"node": {node}, "signal": {signal}, "from": {from.UTC().Format(time.RFC3339Nano)}, "to": {to.UTC().Format(time.RFC3339Nano)}, "maxPoints": {strconv.Itoa(most)}}
	if err := h.get(ctx, "/series", q, &s); err != nil {
		return s, err
	}
	n := len(s.Times)
	for name, have := range map[string]int{"means": len(s.Mean), "minima": len(s.Min), "maxima": len(s.Max), "counts": len(s.Count)} {
		if have != n && (have != 0 || name == "means") {
			return s, fmt.Errorf("the hub's answer has %d times and %d %s", n, have, name)
		}
	}
	return s, nil
}

// raw hands every value of [from, to) to take, in order and as measured: a
// range with more than one answer can hold is asked for in parts.
func (e *env) raw(ctx context.Context, h *hub, node, signal string, from, to time.Time, take func(points) error) error {
	one, cancel := e.within(ctx)
	s, err := series(one, h, node, signal, from, to, maxPoints)
	cancel()
	if err != nil {
		return err
	}
	if s.ResolutionMs == 0 {
		return take(s)
	}
	var n int64
	for _, c := range s.Count {
		n += c
	}
	parts := int64(math.Ceil(1.2 * float64(n) / maxPoints))
	step := to.Sub(from) / time.Duration(max(parts, 2))
	if step < time.Millisecond {
		return fmt.Errorf("%s has more than %d values in %s: the hub cannot give them one by one", signal, maxPoints, to.Sub(from))
	}
	step = step.Truncate(time.Millisecond) // values carry milliseconds: a bound within one would show it twice
	for a := from; a.Before(to); {
		b := a.Add(step)
		if b.After(to) {
			b = to
		}
		if err := e.raw(ctx, h, node, signal, a, b, take); err != nil {
			return err
		}
		a = b
	}
	return nil
}
