package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/swellfleet/swell/cloud/api/apimodel"
)

// Limits of the stream.
const (
	streamReaders  = 512  // open streams
	streamBuffer   = 256  // events a reader may lag behind
	streamHistory  = 1024 // events kept for readers that come back
	streamCrowd    = 100  // more changes of one kind in a tick become one event without a name
	streamTick     = 200 * time.Millisecond
	streamBeat     = 15 * time.Second
	streamDeadline = 10 * time.Second // for one write
)

// Change is something that readers of the stream may show.
type Change struct {
	Kind   string // "Device", "Rollout", …
	Name   string // of the object; empty: many
	Parent string // e.g. the rollout of a RolloutDevice
	State  string // new state; empty: the kind has none
}

// Stream tells readers what changed. Changes of the same object within a tick
// are one event, and a crowd of them is one event for the whole kind, so that a
// fleet that moves costs its readers little. Make one with NewStream.
type Stream struct {
	hub string

	mu      sync.Mutex
	waiting map[key]Change
	order   []key
	last    int64 // newest id
	history []apimodel.StreamEvent
	readers map[chan apimodel.StreamEvent]bool
	dropped uint64
	closed  bool

	stop context.CancelFunc
	done chan struct{}
}

type key struct{ kind, name, parent string }

// NewStream starts a stream. Close ends it.
func NewStream() *Stream {
	ctx, stop := context.WithCancel(context.Background())
	s := &Stream{hub: rand.Text()[:8], waiting: map[key]Change{}, readers: map[chan apimodel.StreamEvent]bool{}, stop: stop, done: make(chan struct{})}
	go s.run(ctx)
	return s
}

// Close ends the stream and every reader.
func (s *Stream) Close() {
	s.stop()
	<-s.done
}

// Publish tells of a change. It never waits.
func (s *Stream) Publish(c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{c.Kind, c.Name, c.Parent}
	if _, ok := s.waiting[k]; !ok {
		s.order = append(s.order, k)
	}
	s.waiting[k] = c
}

func (s *Stream) run(ctx context.Context) {
	defer close(s.done)
	t := time.NewTicker(streamTick)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			s.flush(now)
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			s.closed = true
			for r := range s.readers {
				close(r)
			}
			clear(s.readers)
			return
		}
	}
}

// flush sends what waits.
func (s *Stream) flush(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	crowd := map[[2]string]int{}
	for _, k := range s.order {
		crowd[[2]string{k.kind, k.parent}]++
	}
	told := map[[2]string]bool{}
	for _, k := range s.order {
		c := s.waiting[k]
		group := [2]string{k.kind, k.parent}
		if crowd[group] > streamCrowd {
			if told[group] {
				continue
			}
			told[group] = true
			c = Change{Kind: k.kind, Parent: k.parent}
		}
		s.last++
		e := apimodel.StreamEvent{ID: s.last, At: now.UTC(), Kind: c.Kind, Name: c.Name, Parent: some(c.Parent), State: some(c.State)}
		if len(s.history) == streamHistory {
			s.history = append(s.history[:0], s.history[1:]...)
		}
		s.history = append(s.history, e)
		for r := range s.readers {
			select {
			case r <- e:
			default: // too slow: it reconnects and reads again what it shows
				s.dropped++
				delete(s.readers, r)
				close(r)
			}
		}
	}
	clear(s.waiting)
	s.order = s.order[:0]
}

// join adds a reader and returns what it missed since the event after, as far
// as it is still known, and the newest id. ok is false when there is no room.
func (s *Stream) join(after int64) (r chan apimodel.StreamEvent, missed []apimodel.StreamEvent, last int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.readers) >= streamReaders {
		return nil, nil, 0, false
	}
	r = make(chan apimodel.StreamEvent, streamBuffer)
	s.readers[r] = true
	if after > 0 {
		for _, e := range s.history {
			if e.ID > after {
				missed = append(missed, e)
			}
		}
	}
	return r, missed, s.last, true
}

func (s *Stream) leave(r chan apimodel.StreamEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers[r] {
		delete(s.readers, r)
		close(r)
	}
}

// Readers returns how many streams are open and how many were dropped because
// they read too slowly.
func (s *Stream) Readers() (open int, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.readers), s.dropped
}

// streamEvents is GET /events, written by hand: the generated server knows no
// streams.
func (s *Server) streamEvents(c echo.Context) error {
	req := c.Request()
	after, _ := strconv.ParseInt(req.Header.Get("Last-Event-ID"), 10, 64) // another hub's id leads to a gap, which the client sees
	r, missed, last, ok := s.cfg.Stream.join(after)
	if !ok {
		return problem{status: http.StatusServiceUnavailable, name: "unavailable", detail: "too many streams are open: close some tabs", retry: 10}
	}
	defer s.cfg.Stream.leave(r)
	w := c.Response()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w.Writer)
	send := func(format string, args ...any) error {
		// The server's own write deadline is for answers that end.
		if err := control.SetWriteDeadline(time.Now().Add(streamDeadline)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return control.Flush()
	}
	event := func(e apimodel.StreamEvent) error {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		return send("id: %d\nevent: change\ndata: %s\n\n", e.ID, b)
	}
	if err := send("event: hello\ndata: {\"id\":%d,\"hub\":%q}\n\n", last, s.cfg.Stream.hub); err != nil {
		return nil // the reader is gone
	}
	for _, e := range missed {
		if err := event(e); err != nil {
			return nil
		}
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case e, open := <-r:
			if !open {
				return nil
			}
			err = event(e)
		case <-beat.C:
			// Whoever logged out, or lost the role, reads no further.
			who := caller{}
			if s.identify(req, &who) != nil || !who.Role.Allows("viewer") {
				return nil
			}
			err = send(": beat\n\n")
		case <-req.Context().Done():
			return nil
		}
		if err != nil {
			return nil
		}
	}
}
