package ctl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// restBetween is the least time between two looks at what a stream says has
// changed: a fleet in motion changes all the time.
const restBetween = time.Second

// getChanges prints what read returns, and again what of it has changed each
// time the hub says that something has. It ends well when ctx does.
func (e *env) getChanges(ctx context.Context, h *hub, k kind, read func(context.Context) ([]object, error)) error {
	if k.listed && k.name != "freezes" && k.name != "quarantine" || k.name == "users" {
		return usage("the hub does not tell of changes to %s: leave out -w", k.name)
	}
	cols := e.columns(k)
	w := &watcher{e: e, k: k, cols: cols, t: e.newTable(heads(cols)...), seen: map[string][]string{}}
	again := e.patience()
	for {
		err := e.follow(ctx, h, w, read, again)
		if ctx.Err() != nil {
			return nil
		}
		if err = again.after(ctx, err); err != nil {
			return err
		}
	}
}

// follow opens the hub's stream and prints what changes until the stream ends.
// What changed while there was no stream is found by the first look.
func (e *env) follow(ctx context.Context, h *hub, w *watcher, read func(context.Context) ([]object, error), again *patience) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closes the stream
	changed, ended, err := h.changes(ctx, w.k.object)
	if err != nil {
		return err
	}
	for {
		one, cancel := e.within(ctx)
		items, err := read(one)
		cancel()
		if err != nil {
			return err
		}
		again.over()
		if err := w.print(items); err != nil {
			return err
		}
		select {
		case <-changed:
		case err := <-ended:
			return err
		}
		rest := time.NewTimer(restBetween)
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		}
	}
}

// watcher prints what of a list is new.
type watcher struct {
	e    *env
	k    kind
	cols []column
	t    *table
	seen map[string][]string
}

func (w *watcher) print(items []object) error {
	for _, o := range items {
		row := cells(w.e.stable(w.cols), o)
		if slices.Equal(w.seen[w.k.nameOf(o)], row) {
			continue
		}
		w.seen[w.k.nameOf(o)] = row
		if err := w.e.showOne(w.k, w.t, w.cols, o); err != nil {
			return err
		}
	}
	return w.t.flush()
}

// stable leaves out columns that change by themselves.
func (e *env) stable(cols []column) []column {
	return slices.DeleteFunc(slices.Clone(cols), func(c column) bool {
		return strings.HasSuffix(c.path, "At") || c.path == "status.windowsScored"
	})
}

func (e *env) showOne(k kind, t *table, cols []column, o object) error {
	switch e.output {
	case "json":
		return json.NewEncoder(e.out).Encode(o)
	case "yaml":
		fmt.Fprintln(e.out, "---")
		return writeYAML(e.out, o)
	case "name":
		_, err := fmt.Fprintln(e.out, k.nameOf(o))
		return err
	}
	t.row(cells(cols, o)...)
	return nil
}

// changes opens the hub's stream and signals when an object of a kind has
// changed. ended gets one error when the stream does.
func (h *hub) changes(ctx context.Context, object string) (changed <-chan struct{}, ended <-chan error, err error) {
	resp, err := h.send(ctx, http.MethodGet, "/events", nil, nil)
	if err != nil {
		return nil, nil, err
	}
	dirty, end := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		defer func() { _ = resp.Body.Close() }()
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data:")
			if !ok {
				continue
			}
			var event struct {
				Kind   string `json:"kind"`
				Parent string `json:"parent"`
			}
			if json.Unmarshal([]byte(data), &event) != nil || !strings.HasPrefix(event.Kind, object) {
				continue // the greeting, or another kind
			}
			select {
			case dirty <- struct{}{}:
			default: // one look will show both
			}
		}
		end <- errors.Join(lines.Err(), errStreamEnded)
	}()
	return dirty, end, nil
}

var errStreamEnded = errors.New("the hub ended the stream of changes")
