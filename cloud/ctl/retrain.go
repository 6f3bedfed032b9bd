package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (e *env) retrain() *cobra.Command {
	var wait bool
	now := e.mutating(&cobra.Command{
		Use: "run POLICY", Aliases: []string{"now"}, Short: "Start tonight's training now", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("retrainpolicies"),
		Long:    "run starts a run and prints its name. With --wait it follows the run to its end;\na run that releases nothing is exit code 1, with the reasons.",
		Example: "  swellctl retrain run nightly --reason 'new bearings' --wait --timeout 10m",
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
			name := cell(at(o, "metadata.name"))
			if e.dryRun {
				fmt.Fprintf(e.err, "A run of %s would be started.\n", a[0])
				return e.answer(o)
			}
			fmt.Fprintln(e.out, name)
			if !wait {
				return nil
			}
			ctx, cancel = e.following(c.Context())
			defer cancel()
			return e.followRun(ctx, h, name)
		},
	}, true)
	now.Flags().BoolVar(&wait, "wait", false, "follow it to its end (see --timeout)")
	c := &cobra.Command{Use: "retrain", Short: "Run the nightly training by hand, and look at how it goes"}
	c.AddCommand(now, e.retrainWatch(), e.retrainLogs(), e.retrainRerun(), e.retrainBackfill(), e.retrainPolicies(), e.mutating(&cobra.Command{
		Use: "cancel RUN", Short: "Stop a run before its next step", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("runs"),
		Example: "  swellctl retrain cancel $(swellctl get runs -o name | head -1) --reason 'wrong policy'",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/training-runs/"+url.PathEscape(a[0])+"/actions/cancel", e.query(), nil, &o); err != nil {
				return err
			}
			if s := stateOf(o); slices.Contains([]string{"released", "refused", "failed"}, s) {
				return &Problem{Status: http.StatusConflict, Detail: fmt.Sprintf("run %s has ended: it was %s", a[0], s)}
			}
			fmt.Fprintf(e.err, "Run %s: %s.\n", a[0], stateOf(o))
			return nil
		},
	}, false))
	return c
}

// followRun tells each step of a run as it begins and ends, what it found, and
// how the run ended.
func (e *env) followRun(ctx context.Context, h *hub, name string) error {
	told := map[string]bool{}
	var end object
	say := func(format string, a ...any) {
		if line := fmt.Sprintf(format, a...); !told[line] {
			told[line] = true
			fmt.Fprintf(e.err, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
		}
	}
	err := e.poll(ctx, func(ctx context.Context) (bool, error) {
		var o object
		if err := h.get(ctx, "/training-runs/"+url.PathEscape(name), nil, &o); err != nil {
			return false, err
		}
		end = o
		say("%s", stateOf(o))
		for _, s := range stepsOf(o) {
			switch state := cell(at(s, "state")); state {
			case "waiting", "skipped":
			case "running":
				say("%s: %s", cell(at(s, "name")), progress(s))
			default:
				say("%s: %s%s", cell(at(s, "name")), state, said(s))
			}
		}
		return !slices.Contains([]string{"queued", "running"}, stateOf(o)), nil
	})
	if err != nil {
		return err
	}
	summary := at(end, "status.summary")
	if s := stateOf(end); s != "released" {
		text := fmt.Sprintf("run %s: %s", name, s)
		if summary != nil {
			text += ": " + fmt.Sprint(summary)
		}
		refusals, _ := at(end, "status.refusals").([]any)
		for _, r := range refusals {
			if line := fmt.Sprint(r); !strings.Contains(text, line) {
				text += "\n  " + line
			}
		}
		return errors.New(text)
	}
	fmt.Fprintln(e.err, cell(summary))
	return nil
}

func stepsOf(run object) []object { return objects(at(run, "status.steps")) }

// objects are those of a list that are objects.
func objects(v any) (out []object) {
	list, _ := v.([]any)
	for _, x := range list {
		if o, ok := x.(object); ok {
			out = append(out, o)
		}
	}
	return out
}

// progress says how far a step at work has come: tasks where it has them,
// otherwise its own words.
func progress(s object) string {
	tasks := objects(at(s, "tasks"))
	if len(tasks) == 0 {
		return "at work" + said(s)
	}
	done := 0
	for _, t := range tasks {
		if state := cell(at(t, "state")); state != "waiting" && state != "running" {
			done++
		}
	}
	return fmt.Sprintf("%d of %d done", done, len(tasks))
}

func said(s object) string {
	if text, ok := at(s, "summary").(string); ok && text != "" {
		return ": " + text
	}
	return ""
}

func (e *env) retrainWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch RUN", Short: "Follow a run, and show what its steps and candidates came to", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("runs"),
		Long:    "watch tells each step as it goes. At the end it draws how long each step took\nand what the candidates found; a run that released nothing is exit code 1.",
		Example: "  swellctl retrain watch $(swellctl get runs -o name | head -1)",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.following(c.Context())
			defer cancel()
			followed := e.followRun(ctx, h, a[0])
			if ctx.Err() != nil {
				return followed
			}
			ctx, cancel = e.within(c.Context())
			defer cancel()
			var o object
			if err := h.get(ctx, "/training-runs/"+url.PathEscape(a[0]), nil, &o); err != nil {
				return errors.Join(followed, err)
			}
			return errors.Join(followed, e.showRun(o))
		},
	}
}

// showRun draws what a run came to.
func (e *env) showRun(o object) error {
	if e.output != "table" && e.output != "wide" {
		return e.answer(o)
	}
	t := e.newTable("STEP", "STATE", "TOOK", "", "SUMMARY")
	longest := 0.0
	for _, s := range stepsOf(o) {
		longest = max(longest, took(s))
	}
	for _, s := range stepsOf(o) {
		bar, seconds := "", "-"
		if at(s, "endedAt") != nil {
			bar, seconds = barOf(took(s), longest), fmt.Sprintf("%.1fs", took(s))
		}
		summary := strings.TrimPrefix(said(s), ": ")
		if v, _ := at(s, "cached").(bool); v {
			seconds = "cached"
		}
		t.row(cell(at(s, "name")), cell(at(s, "state")), seconds, bar, orDash(summary))
	}
	if err := t.flush(); err != nil {
		return err
	}
	candidates := objects(at(o, "status.candidates"))
	if len(candidates) == 0 {
		return nil
	}
	fmt.Fprintln(e.out)
	t = e.newTable("CLASS", "DETECTOR", "FOUND", "", "FALSE ALARMS", "CHOSEN", "WHY")
	for _, c := range candidates {
		found, ok := metric(c, "faults_found")
		bar, share := "", "-"
		if ok {
			bar, share = barOf(found, 1), fmt.Sprintf("%.0f %%", 100*found)
		}
		alarms := "-"
		if v, ok := metric(c, "flag_share"); ok {
			alarms = fmt.Sprintf("%.2f %%", 100*v)
		}
		why := at(c, "why")
		if why == nil {
			why = at(c, "message")
		}
		t.row(cell(at(c, "class")), cell(at(c, "detector")), share, bar, alarms, cell(at(c, "chosen")), cell(why))
	}
	return t.flush()
}

// metric reads a candidate's own metric, not that of a kind of fault.
func metric(c object, name string) (float64, bool) {
	for _, m := range objects(at(c, "metrics")) {
		if slice, _ := at(m, "slice").(string); at(m, "name") == name && !strings.Contains(slice, ",") {
			v, ok := at(m, "value").(float64)
			return v, ok
		}
	}
	return 0, false
}

// took is how long a step or task has worked, in seconds.
func took(s object) float64 {
	began, err1 := time.Parse(time.RFC3339Nano, fmt.Sprint(at(s, "startedAt")))
	ended, err2 := time.Parse(time.RFC3339Nano, fmt.Sprint(at(s, "endedAt")))
	if err1 != nil || err2 != nil {
		return 0
	}
	return ended.Sub(began).Seconds()
}

// barWidth is the longest bar, in characters.
const barWidth = 20

// barOf draws v against the largest.
func barOf(v, largest float64) string {
	if largest <= 0 || v <= 0 {
		return ""
	}
	eighths := int(math.Round(min(v/largest, 1) * barWidth * 8))
	text := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		text += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return text
}

func (e *env) retrainLogs() *cobra.Command {
	var step string
	var follow bool
	c := &cobra.Command{
		Use: "logs RUN", Short: "Print what the steps of a run said", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("runs"),
		Long:    "logs prints a line for each thing that a step said while it worked. With -f it\ngoes on until the run has ended.",
		Example: "  swellctl retrain logs $(swellctl get runs -o name | head -1) --step extract",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			if follow {
				ctx, cancel = e.following(c.Context())
			}
			defer cancel()
			path, q := "/training-runs/"+url.PathEscape(a[0]), url.Values{}
			if step != "" {
				q.Set("step", step)
			}
			last := ""
			return e.poll(ctx, func(ctx context.Context) (bool, error) {
				var o object
				if follow {
					if err := h.get(ctx, path, nil, &o); err != nil {
						return false, err
					}
				}
				var page struct {
					Items []object `json:"items"`
				}
				if err := h.get(ctx, path+"/logs", q, &page); err != nil {
					return false, err
				}
				for _, l := range page.Items {
					when := fmt.Sprint(at(l, "at"))
					if when+fmt.Sprint(at(l, "message")) <= last {
						continue
					}
					last = when + fmt.Sprint(at(l, "message"))
					if e.output == "json" {
						if err := json.NewEncoder(e.out).Encode(l); err != nil {
							return false, err
						}
						continue
					}
					if t, err := time.Parse(time.RFC3339Nano, when); err == nil {
						when = t.UTC().Format("15:04:05.000")
					}
					fmt.Fprintf(e.out, "%s  %-16s %s\n", when, cell(at(l, "step")), at(l, "message"))
				}
				return !follow || !slices.Contains([]string{"queued", "running"}, stateOf(o)), nil
			})
		},
	}
	c.Flags().StringVar(&step, "step", "", "only this step, as in train/pca")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	return c
}

func (e *env) retrainRerun() *cobra.Command {
	var from string
	var wait bool
	c := e.mutating(&cobra.Command{
		Use: "rerun RUN", Short: "Repeat a run from a step on, as a new run", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("runs"),
		Long:    "rerun keeps what the steps before --from found and does the rest again. It\nprints the new run's name.",
		Example: "  swellctl retrain rerun $(swellctl get runs -o name | head -1) --from extract --reason 'a disk was full'",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var o object
			if err := h.do(ctx, http.MethodPost, "/training-runs/"+url.PathEscape(a[0])+"/actions/rerun", e.query(), object{"from": from}, &o); err != nil {
				return err
			}
			name := cell(at(o, "metadata.name"))
			fmt.Fprintln(e.out, name)
			if !wait {
				return nil
			}
			ctx, cancel = e.following(c.Context())
			defer cancel()
			return e.followRun(ctx, h, name)
		},
	}, false)
	c.Flags().StringVar(&from, "from", "extract", "first step to do again")
	c.Flags().BoolVar(&wait, "wait", false, "follow it to its end (see --timeout)")
	return c
}

func (e *env) retrainBackfill() *cobra.Command {
	var from, to string
	c := e.mutating(&cobra.Command{
		Use: "backfill POLICY --from DAY", Short: "Run the nights of the past that a policy's schedule names", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("retrainpolicies"),
		Long:    "backfill queues a run for each time of the schedule from --from up to --to, and\nprints their names. A night that ran already is not run twice.",
		Example: "  swellctl retrain backfill nightly --from 2026-11-01 --to 2026-11-08 --reason 'the sensor was mended'",
		RunE: func(c *cobra.Command, a []string) error {
			begin, err := moment(from)
			if err != nil {
				return usage("--from: %w", err)
			}
			end := time.Now()
			if to != "" {
				if end, err = moment(to); err != nil {
					return usage("--to: %w", err)
				}
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var answer struct {
				Runs []string `json:"runs"`
			}
			body := object{"from": begin.UTC().Format(time.RFC3339), "to": end.UTC().Format(time.RFC3339)}
			if err := h.do(ctx, http.MethodPost, "/retrain-policies/"+url.PathEscape(a[0])+"/actions/backfill", e.query(), body, &answer); err != nil {
				return err
			}
			for _, r := range answer.Runs {
				fmt.Fprintln(e.out, r)
			}
			how := "are"
			if e.dryRun {
				how = "would be"
			}
			fmt.Fprintf(e.err, "%d nights of %s %s queued.\n", len(answer.Runs), a[0], how)
			return nil
		},
	}, true)
	c.Flags().StringVar(&from, "from", "", "first moment, as in 2026-11-01 or 2026-11-01T02:00:00Z")
	c.Flags().StringVar(&to, "to", "", "end, not part of it (default now)")
	return c
}

func (e *env) retrainPolicies() *cobra.Command {
	return &cobra.Command{
		Use: "policies", Short: "List policies with their next and last run", Args: args(cobra.NoArgs),
		Example: "  swellctl retrain policies",
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := kindOf("retrainpolicies")
			if err != nil {
				return err
			}
			return e.listing(c, k, k.path, nil)
		},
	}
}

// listing shows a whole list as a table.
func (e *env) listing(c *cobra.Command, k kind, path string, q url.Values) error {
	h, err := e.hub()
	if err != nil {
		return err
	}
	ctx, cancel := e.within(c.Context())
	defer cancel()
	items, err := h.list(ctx, path, q)
	if err != nil {
		return err
	}
	return e.showList(k, items)
}

// wholeList shows a list that comes in one answer.
func (e *env) wholeList(c *cobra.Command, k kind, path string) error {
	h, err := e.hub()
	if err != nil {
		return err
	}
	ctx, cancel := e.within(c.Context())
	defer cancel()
	var whole struct {
		Items []object `json:"items"`
	}
	if err := h.get(ctx, path, nil, &whole); err != nil {
		return err
	}
	return e.showList(k, whole.Items)
}

func (e *env) showList(k kind, items []object) error {
	if len(items) == 0 && e.output != "json" && e.output != "yaml" {
		fmt.Fprintf(e.err, "There are no %s here.\n", k.name)
		return nil
	}
	return e.show(k, items, false)
}
