package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

func (e *env) rolloutWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ROLLOUT", Short: "Follow a rollout to its end", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: e.names("rollouts"),
		Long: `watch shows where the rollout stands, each wave, each gate and the windows its
devices wait for, until it has ended or --timeout is over. It waits for a hub
that goes away meanwhile. Exit code 0: promoted; 1: it ended otherwise; 6: it had
not ended in time.`,
		Example: "  swellctl rollout watch pump-anomaly-1",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.following(c.Context())
			defer cancel()
			return e.watch(ctx, h, a[0])
		},
	}
}

// errNotPromoted is the outcome of a rollout that ended otherwise.
var errNotPromoted = errors.New("the rollout was not promoted")

// watch follows a rollout to its end: with a bar for each wave on a terminal,
// with a line for each change elsewhere.
func (e *env) watch(ctx context.Context, h *hub, name string) error {
	var show follower = &lines{e: e, said: map[string]string{}}
	if terminal(e.err) && os.Getenv("TERM") != "dumb" {
		show = &bars{e: e, progress: mpb.NewWithContext(ctx, mpb.WithOutput(e.err), mpb.WithWidth(32), mpb.WithRefreshRate(200*time.Millisecond))}
	}
	var end object
	again := e.patience()
	err := e.poll(ctx, func(ctx context.Context) (bool, error) {
		var o object
		if err := h.get(ctx, "/rollouts/"+url.PathEscape(name), nil, &o); err != nil {
			// A rollout goes on without who watches it.
			return false, again.after(ctx, err)
		}
		again.over()
		show.show(o)
		end = o
		switch stateOf(o) {
		case "promoted", "aborted", "failed", "superseded":
			return true, nil
		}
		return false, nil
	})
	show.done(end)
	if err != nil {
		return err
	}
	if s := stateOf(end); s != "promoted" {
		return fmt.Errorf("%w: %s: %s", errNotPromoted, s, cell(at(end, "status.message")))
	}
	return nil
}

// follower shows a rollout as it moves.
type follower interface {
	show(o object)
	done(end object) // nil: it was never seen
}

// lines shows what has changed since the last look, a line each.
type lines struct {
	e    *env
	said map[string]string
}

func (l *lines) show(o object) {
	l.tell("state", "%s: %d of %d devices done. %s", stateOf(o), number(o, "status.counts.done"), number(o, "status.counts.devices"), cell(at(o, "status.message")))
	for i, w := range items(o, "status.waves") {
		if cell(at(w, "state")) == "waiting" {
			continue
		}
		name := cell(at(w, "name"))
		l.tell("wave "+strconv.Itoa(i), "  wave %s %s", name, waveLine(w))
		for _, g := range items(w, "gates") {
			id := "gate " + strconv.Itoa(i) + cell(at(g, "name")) + orEmpty(at(g, "title"))
			if l.said[id] == cell(at(g, "verdict")) {
				continue // values move all the time: a line comes with a new verdict
			}
			l.said[id] = cell(at(g, "verdict"))
			l.line("  gate %s", gateLine(g))
		}
	}
	for i, w := range items(o, "status.windows") {
		l.tell("window "+strconv.Itoa(i), "  %s", windowLine(w))
	}
}

func (l *lines) done(object) {}

// tell prints a line when what it says under a name is new.
func (l *lines) tell(name, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if l.said[name] != text {
		l.said[name] = text
		l.line("%s", text)
	}
}

func (l *lines) line(format string, args ...any) {
	fmt.Fprintf(l.e.err, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// bars shows a bar for each wave, its gates beside it, and a line on top that
// says where the whole stands.
type bars struct {
	e        *env
	progress *mpb.Progress
	head     *row
	waves    []*row
	windows  *row
}

// row is a bar with a text, which is written here and read by the bar's own
// goroutine.
type row struct {
	bar  *mpb.Bar
	text atomic.Value
}

func (b *bars) row(name, counters string) *row {
	r := &row{}
	r.text.Store("")
	says := decor.Any(func(decor.Statistics) string { return r.text.Load().(string) })
	if counters == "" {
		r.bar = b.progress.New(0, mpb.NopStyle(), mpb.PrependDecorators(says))
		return r
	}
	r.bar = b.progress.AddBar(0, mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.CountersNoUnit(counters, decor.WCSyncSpace)), mpb.AppendDecorators(says))
	return r
}

func (r *row) set(done, of int, text string) {
	r.bar.SetTotal(int64(of), false)
	r.bar.SetCurrent(int64(done))
	r.text.Store(text)
}

func (b *bars) show(o object) {
	waves := items(o, "status.waves")
	if b.head == nil {
		b.head = b.row("", "")
		for _, w := range waves {
			b.waves = append(b.waves, b.row(cell(at(w, "name")), "%d of %d"))
		}
		b.windows = b.row("", "")
	}
	b.head.set(0, 1, stateOf(o)+": "+cell(at(o, "status.message")))
	for i, w := range waves {
		if i >= len(b.waves) {
			break // a hurried rollout has fewer waves, never more
		}
		text := cell(at(w, "state"))
		for _, g := range items(w, "gates") {
			if text += "  " + gateMark(g); len(text) > 120 {
				break
			}
		}
		b.waves[i].set(number(w, "counts.done"), number(w, "counts.devices"), text)
	}
	var says []string
	for _, w := range items(o, "status.windows") {
		says = append(says, windowLine(w))
	}
	b.windows.set(0, 1, strings.Join(says, "; "))
}

func (b *bars) done(end object) {
	if b.head != nil {
		for _, r := range append(b.waves, b.head, b.windows) {
			r.bar.Abort(false)
		}
	}
	b.progress.Wait()
	if end != nil {
		fmt.Fprintf(b.e.err, "%s: %d of %d devices done. %s\n", stateOf(end), number(end, "status.counts.done"), number(end, "status.counts.devices"), cell(at(end, "status.message")))
	}
}

// waveLine says where the devices of a wave stand.
func waveLine(w any) string {
	said := []string{fmt.Sprintf("%s: %d of %d devices done", cell(at(w, "state")), number(w, "counts.done"), number(w, "counts.devices"))}
	for _, c := range []struct{ field, text string }{{"inFlight", "on their way"}, {"failed", "failed"}, {"unreachable", "not reached"}, {"returned", "called back"}} {
		if n := number(w, "counts."+c.field); n > 0 {
			said = append(said, fmt.Sprintf("%d %s", n, c.text))
		}
	}
	if need := number(w, "approvalsNeeded") - len(items(w, "approvals")); need > 0 {
		said = append(said, fmt.Sprintf("needs %d more approvals", need))
	}
	return strings.Join(said, ", ")
}

// gateMark is a gate in a few characters.
func gateMark(g any) string {
	sign := map[string]string{"PASS": "✓", "FAIL": "✗"}[cell(at(g, "verdict"))]
	if sign == "" {
		sign = "…"
	}
	return sign + gateName(g)
}

// gateName is the gate's name, or what people call its expression.
func gateName(g any) string {
	if t := orEmpty(at(g, "title")); t != "" {
		return t
	}
	return cell(at(g, "name"))
}

// gateLine is a gate with its numbers: "shadow FAIL: 1.9, must be <= 1.5
// (e-value for harm 412 of 100)".
func gateLine(g any) string {
	text := gateName(g) + " " + cell(at(g, "verdict"))
	unit := orEmpty(at(g, "unit"))
	if v := at(g, "value"); v != nil {
		text += ": " + strings.TrimSpace(cell(v)+" "+unit)
		if th := at(g, "threshold"); th != nil {
			text += fmt.Sprintf(", must be %s %s", orEmpty(at(g, "comparison")), cell(th))
		}
	}
	if limit := at(g, "eLimit"); limit != nil && at(g, "eHarm") != nil && unit != "e-value" {
		text += fmt.Sprintf(" (e-value for harm %s, for safety %s, needed %s)", cell(at(g, "eHarm")), cell(at(g, "eSafe")), cell(limit))
	}
	return text
}

// windowLine says when devices may activate.
func windowLine(w any) string {
	state, next := "shut", "opens"
	if open, _ := at(w, "open").(bool); open {
		state, next = "open", "shuts"
	}
	name := "window " + cell(at(w, "names"))
	if len(items(w, "names")) == 0 {
		name = "no window"
	}
	text := fmt.Sprintf("%s for %d devices: %s", name, number(w, "devices"), state)
	if c := at(w, "changeAt"); c != nil {
		text += ", " + next + " " + clock(c)
	}
	return text
}
