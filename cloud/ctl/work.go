package ctl

import (
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
)

func (e *env) retrain() *cobra.Command {
	var wait bool
	now := e.mutating(&cobra.Command{
		Use: "now POLICY", Short: "Start tonight's training now", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/training-runs", e.query(), object{"policy": a[0]}, &o); err != nil {
				return err
			}
			name := fmt.Sprint(at(o, "metadata.name"))
			fmt.Fprintln(e.out, name)
			if !wait {
				return nil
			}
			last := ""
			var end object
			err = poll(ctx, func(ctx context.Context) (bool, error) {
				var o object
				if err := h.get(ctx, "/training-runs/"+url.PathEscape(name), nil, &o); err != nil {
					return false, err
				}
				end = o
				if line := stepLine(o); line != last {
					fmt.Fprintf(e.err, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
					last = line
				}
				switch stateOf(o) {
				case "queued", "running", "waiting":
					return false, nil
				}
				return true, nil
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(e.err, cell(at(end, "status.summary")))
			if s := stateOf(end); s == "failed" || s == "refused" || s == "cancelled" {
				return fmt.Errorf("run %s: %s", name, s)
			}
			return nil
		},
	}, true)
	now.Flags().BoolVar(&wait, "wait", false, "follow it to its end (see --timeout)")
	c := &cobra.Command{Use: "retrain", Short: "Run the nightly training by hand"}
	c.AddCommand(now, e.mutating(&cobra.Command{
		Use: "cancel RUN", Short: "Stop a run before its next step", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			return h.do(ctx, http.MethodPost, "/training-runs/"+url.PathEscape(a[0])+"/actions/cancel", e.query(), nil, nil)
		},
	}, false))
	return c
}

func stepLine(run object) string {
	steps, _ := at(run, "status.steps").([]any)
	line := stateOf(run)
	for _, s := range steps {
		if st := cell(at(s, "state")); st == "running" {
			return line + ": " + cell(at(s, "name"))
		}
	}
	return line
}

func (e *env) enroll() *cobra.Command {
	var class, line string
	var ttl time.Duration
	tok := e.mutating(&cobra.Command{
		Use: "token SITE/NODE --class CLASS", Short: "Make a single-use token with which one device may enrol", Args: args(cobra.ExactArgs(1)),
		Example: "  swellctl enroll token hall-1/press-03 --class press --line l1",
		RunE: func(c *cobra.Command, a []string) error {
			id, err := topic.ParseID(a[0])
			if err != nil {
				return usage("%w", err)
			}
			if class == "" {
				return usage("name the device class with --class: it decides which variant of a release fits")
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			body := object{"site": id.Site, "node": id.Node, "class": class, "ttlSeconds": int64(ttl.Seconds())}
			if line != "" {
				body["line"] = line
			}
			var made struct {
				Secret string `json:"secret"`
			}
			if err := h.do(ctx, http.MethodPost, "/enrollment-tokens", e.query(), body, &made); err != nil {
				return err
			}
			fmt.Fprintln(e.out, made.Secret)
			fmt.Fprintf(e.err, "Good once, for %s, within %s. It is not shown again.\n", id, ttl)
			return nil
		},
	}, false)
	tok.Flags().StringVar(&class, "class", "", "device class")
	tok.Flags().StringVar(&line, "line", "", "production line, for disruption budgets")
	tok.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is good for")
	c := &cobra.Command{Use: "enroll", Short: "Let devices in"}
	c.AddCommand(tok)
	return c
}

func (e *env) signal() *cobra.Command {
	var since time.Duration
	list := &cobra.Command{
		Use: "list SITE/NODE", Short: "List a device's signals", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			k, _ := kindOf("devices")
			items, err := h.list(ctx, k.one(a[0])+"/signals", nil)
			if err != nil {
				return err
			}
			return e.show(kind{columns: []column{{"NAME", "name", false}, {"KIND", "kind", false}, {"UNIT", "unit", false}, {"HZ", "sampleRateHz", false}, {"LAST", "lastValue", false}, {"AT", "lastAt", false}}}, items, false)
		},
	}
	tail := &cobra.Command{
		Use: "tail SITE/NODE SIGNAL", Short: "Print a signal's values as they come", Args: args(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			from := time.Now().Add(-since)
			ctx := c.Context()
			if c.Flags().Changed("timeout") {
				var cancel context.CancelFunc
				ctx, cancel = e.within(ctx)
				defer cancel()
			}
			return poll(ctx, func(ctx context.Context) (bool, error) {
				times, values, err := series(ctx, h, a[0], a[1], from, time.Now(), 20000)
				if err != nil {
					return false, err
				}
				for i, t := range times {
					fmt.Fprintf(e.out, "%s\t%g\n", t.Format("2006-01-02T15:04:05.000Z"), values[i])
					from = t.Add(time.Millisecond)
				}
				return false, nil
			})
		},
	}
	tail.Flags().DurationVar(&since, "since", 10*time.Second, "how far back to begin")
	export := &cobra.Command{
		Use: "export SITE/NODE SIGNAL", Short: "Write a signal's newest values as CSV", Args: args(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			times, values, err := series(ctx, h, a[0], a[1], time.Now().Add(-since), time.Now(), 20000)
			if err != nil {
				return err
			}
			w := csv.NewWriter(e.out)
			_ = w.Write([]string{"time", a[1]})
			for i, t := range times {
				_ = w.Write([]string{t.Format(time.RFC3339Nano), strconv.FormatFloat(values[i], 'g', -1, 64)})
			}
			w.Flush()
			return w.Error()
		},
	}
	export.Flags().DurationVar(&since, "since", time.Hour, "how far back to begin")
	c := &cobra.Command{Use: "signal", Aliases: []string{"signals"}, Short: "Look at a device's signals"}
	c.AddCommand(list, tail, export)
	return c
}

func series(ctx context.Context, h *hub, node, signal string, from, to time.Time, points int) ([]time.Time, []float64, error) {
	var s struct {
		Times []int64   `json:"times"`
		Mean  []float64 `json:"mean"`
	}
	q := url.Values{"node": {node}, "signal": {signal}, "from": {from.UTC().Format(time.RFC3339Nano)}, "to": {to.UTC().Format(time.RFC3339Nano)}, "maxPoints": {strconv.Itoa(points)}}
	if err := h.get(ctx, "/series", q, &s); err != nil {
		return nil, nil, err
	}
	if len(s.Times) != len(s.Mean) {
		return nil, nil, fmt.Errorf("the hub's answer has %d times and %d values", len(s.Times), len(s.Mean))
	}
	times := make([]time.Time, len(s.Times))
	for i, t := range s.Times {
		times[i] = time.UnixMilli(t).UTC()
	}
	return times, s.Mean, nil
}

func (e *env) audit() *cobra.Command {
	var limit int
	log := &cobra.Command{
		Use: "log", Short: "List what was done, newest first", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var page struct {
				Items []object `json:"items"`
			}
			if err := h.get(ctx, "/audit/events", url.Values{"limit": {strconv.Itoa(limit)}}, &page); err != nil {
				return err
			}
			return e.show(kind{columns: []column{{"INDEX", "index", false}, {"AT", "at", false}, {"ACTOR", "actor", false}, {"ACTION", "action", false}, {"SUBJECT", "subject", false}, {"OUTCOME", "outcome", false}, {"REASON", "reason", false}}}, page.Items, false)
		},
	}
	log.Flags().IntVar(&limit, "limit", 50, "how many events")
	var key string
	prove := &cobra.Command{
		Use: "prove INDEX", Short: "Prove that an event is in the log, and recompute the proof here", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			index, err := strconv.ParseUint(a[0], 10, 63)
			if err != nil {
				return usage("%q is no index: 'swellctl audit log' shows them", a[0])
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var p struct {
				TreeSize   int64    `json:"treeSize"`
				Leaf       string   `json:"leaf"`
				Hashes     []string `json:"hashes"`
				RootHash   string   `json:"rootHash"`
				Checkpoint string   `json:"checkpoint"`
			}
			if err := h.get(ctx, fmt.Sprintf("/audit/events/%d/proof", index), nil, &p); err != nil {
				return err
			}
			leaf, err := base64.StdEncoding.DecodeString(p.Leaf)
			if err != nil {
				return fmt.Errorf("the proof's leaf is not base64: %w", err)
			}
			r := trust.Receipt{Index: index, Checkpoint: p.Checkpoint}
			for _, s := range p.Hashes {
				b, err := hex.DecodeString(s)
				if err != nil || len(b) != tlog.HashSize {
					return fmt.Errorf("the proof's hash %q is not 64 hex digits", s)
				}
				r.Proof = append(r.Proof, tlog.Hash(b))
			}
			fmt.Fprintln(e.out, string(leaf))
			if key == "" {
				root, err := hex.DecodeString(p.RootHash)
				if err != nil || len(root) != tlog.HashSize {
					return fmt.Errorf("the proof's root is not 64 hex digits")
				}
				if err := tlog.CheckRecord(r.Proof, p.TreeSize, tlog.Hash(root), int64(index), tlog.RecordHash(leaf)); err != nil {
					return fmt.Errorf("%w: %w", errNotVerified, err)
				}
				fmt.Fprintf(e.err, "The path leads from event %d to root %s of %d events. Give the log's key with --key to check who signed that root.\n", index, p.RootHash, p.TreeSize)
				return nil
			}
			tree, err := trust.VerifyReceipt(key, leaf, r)
			if err != nil {
				return fmt.Errorf("%w: %w", errNotVerified, err)
			}
			fmt.Fprintf(e.err, "Event %d is in the log of %d events whose root the log signed.\n", index, tree.N)
			return nil
		},
	}
	prove.Flags().StringVar(&key, "key", "", "the log's verifier key, from a source you trust")
	c := &cobra.Command{Use: "audit", Short: "Read the audit log and prove what it says"}
	c.AddCommand(log, prove)
	return c
}

func (e *env) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check the way to the hub and the hub's parts", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			began := time.Now()
			var health struct {
				OK    bool `json:"ok"`
				Parts []struct {
					Name    string `json:"name"`
					OK      bool   `json:"ok"`
					Message string `json:"message"`
				} `json:"parts"`
			}
			if err := h.get(ctx, "/health", nil, &health); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "ok      hub answers in %s\n", time.Since(began).Round(time.Millisecond))
			var s struct{ User, Role string }
			if err := h.get(ctx, "/session", nil, &s); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "ok      token of %s, role %s\n", s.User, s.Role)
			bad := 0
			for _, p := range health.Parts {
				mark := "ok"
				if !p.OK {
					mark = "FAILED"
					bad++
				}
				fmt.Fprintln(e.out, strings.TrimRight(fmt.Sprintf("%-7s %s %s", mark, p.Name, p.Message), " "))
			}
			if bad > 0 {
				return fmt.Errorf("%d parts of the hub are not well", bad)
			}
			return nil
		},
	}
}
