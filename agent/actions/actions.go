// Package actions is what a device does when its champion flags a window: a
// log line, an event to the hub, and a file that a program on the device
// watches.
//
// The parties are the pipeline, which says when an anomaly begins and ends,
// and whoever must act on it. Only the champion's verdicts come here; a
// challenger in shadow never acts. The package promises at most one start and
// one end per spell, and never to hold the pipeline up.
package actions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Config says what to do. The zero value logs only.
type Config struct {
	// Event publishes each start and end of an anomaly on the device's events
	// topic.
	Event bool `yaml:"event"`
	// File is rewritten whole at each start and end with the event as JSON.
	// Empty: no file. Its folder must exist.
	File string `yaml:"file"`
	// ClearAfter is how many unflagged windows in a row end an anomaly. 0
	// means 3.
	ClearAfter int `yaml:"clear_after"`
}

// Validate reports what cannot work.
func (c Config) Validate() error {
	if c.ClearAfter < 0 {
		return fmt.Errorf("clear_after %d: want 0 or more", c.ClearAfter)
	}
	if c.File != "" && !filepath.IsAbs(c.File) {
		return fmt.Errorf("file %q: want an absolute path", c.File)
	}
	return nil
}

// Event is one start or end of an anomaly, as published and written.
type Event struct {
	Type    string    `json:"type"`    // "anomaly.started" or "anomaly.ended"
	Row     uint64    `json:"row"`     // stream index of the window's last row
	At      time.Time `json:"at"`      // of that row
	Score   float64   `json:"score"`   // of the window; 0 when not finite
	Peak    float64   `json:"peak"`    // highest finite score of the spell so far
	Windows uint64    `json:"windows"` // flagged windows in the spell so far
	Release string    `json:"release"` // of the model that said so
	// Class is the likeliest class of the image; absent: the model tells none.
	Class string `json:"class,omitempty"`
}

// Window is the champion's verdict on one window.
type Window struct {
	Row     uint64
	At      time.Time
	Score   float32
	Flagged bool
	Class   string // likeliest class of an image; empty: none
	Name    string // of the release that said so
	Counter uint64
}

// Actions runs in one goroutine of its own; Window may be called from one
// other.
type Actions struct {
	config  Config
	log     *slog.Logger
	publish func(ctx context.Context, payload []byte) error
	queue   chan Event
	dropped atomic.Uint64

	active  bool
	calm    int
	peak    float64
	windows uint64
}

// queueLen bounds the events that wait for the disk or the network.
const queueLen = 64

// New makes the actions of one device. publish sends to the events topic.
func New(c Config, log *slog.Logger, publish func(ctx context.Context, payload []byte) error) *Actions {
	if c.ClearAfter == 0 {
		c.ClearAfter = 3
	}
	return &Actions{config: c, log: log, publish: publish, queue: make(chan Event, queueLen)}
}

// Dropped is how many events were lost because they could not be handed on in
// time.
func (a *Actions) Dropped() uint64 { return a.dropped.Load() }

// Window takes in the champion's verdict on one window. It never blocks.
func (a *Actions) Window(w Window) {
	s := float64(w.Score)
	if s-s != 0 { // NaN or infinite: has no JSON form
		s = 0
	}
	switch {
	case w.Flagged:
		a.calm = 0
		a.windows++
		a.peak = max(a.peak, s)
		if a.active {
			return
		}
		a.active = true
		a.send("anomaly.started", w, s)
	case a.active:
		if a.calm++; a.calm < a.config.ClearAfter {
			return
		}
		a.send("anomaly.ended", w, s)
		a.active, a.calm, a.peak, a.windows = false, 0, 0, 0
	}
}

func (a *Actions) send(kind string, w Window, score float64) {
	e := Event{Type: kind, Row: w.Row, At: w.At.UTC(), Score: score, Peak: a.peak, Windows: a.windows, Class: w.Class, Release: fmt.Sprintf("%s-%d", w.Name, w.Counter)}
	select {
	case a.queue <- e:
	default:
		a.dropped.Add(1)
	}
}

// Run performs what Window asks for until ctx ends.
func (a *Actions) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-a.queue:
			if err := a.perform(ctx, e); err != nil && ctx.Err() == nil {
				a.dropped.Add(1)
				a.log.Warn("an anomaly could not be passed on", "type", e.Type, "row", e.Row, "error", err)
			}
		}
	}
}

func (a *Actions) perform(ctx context.Context, e Event) error {
	a.log.Info(e.Type, "row", e.Row, "score", e.Score, "peak", e.Peak, "windows", e.Windows, "release", e.Release, "class", e.Class)
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	var errs []error
	if a.config.Event {
		errs = append(errs, a.publish(ctx, b))
	}
	if a.config.File != "" {
		errs = append(errs, replace(a.config.File, append(b, '\n')))
	}
	return errors.Join(errs...)
}

// replace rewrites a file of the user's so that a watcher never reads half of
// it. It is not the device's state and need not survive a power cut.
func replace(path string, content []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
