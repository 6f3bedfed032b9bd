package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// leafKind marks a leaf as an audit event. A signature leaf begins with
// "apiVersion" instead.
const leafKind = "swell.event.v1"

type leaf struct {
	Kind string `json:"kind"`
	Event
}

// Validate says what makes e unfit for the log.
func (e Event) Validate() error {
	for _, f := range []struct{ name, text string }{
		{"actor", e.Actor}, {"action", e.Action}, {"object", e.Object}, {"reason", e.Reason}, {"outcome", e.Outcome},
	} {
		if len(f.text) > MaxFieldBytes || !utf8.ValidString(f.text) {
			return fmt.Errorf("event %s of %d bytes: want UTF-8 of at most %d bytes", f.name, len(f.text), MaxFieldBytes)
		}
	}
	switch {
	case e.Actor == "":
		return errors.New("event without an actor")
	case e.Action == "":
		return errors.New("event without an action")
	case len(e.Detail) > MaxDetailBytes:
		return fmt.Errorf("event detail of %d bytes is over %d", len(e.Detail), MaxDetailBytes)
	case e.Detail != nil && (!json.Valid(e.Detail) || bytes.TrimSpace(e.Detail)[0] != '{'):
		return errors.New("event detail is not a JSON object")
	}
	return nil
}

// Leaf returns the bytes of e in the log, which its receipt proves.
func (e Event) Leaf() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	e.Time = e.Time.UTC().Round(0)
	b, err := json.Marshal(leaf{leafKind, e})
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return b, nil
}

// parseLeaf returns the event in a leaf; ok is false for leaves of other kinds.
func parseLeaf(b []byte) (e Event, ok bool) {
	if !bytes.HasPrefix(b, []byte(`{"kind":"`+leafKind+`"`)) {
		return Event{}, false
	}
	var l leaf
	if err := json.Unmarshal(b, &l); err != nil {
		return Event{}, false
	}
	return l.Event, true
}

// Filter selects events. Zero fields select everything.
type Filter struct {
	Actor  string
	Object string
	// Action matches exactly, or, when it ends with a dot, every action that
	// begins with it: "rollout." selects rollout.pause and rollout.abort.
	Action string
	Since  time.Time // not before
	Until  time.Time // before
}

func (f Filter) match(e Event) bool {
	action := f.Action == "" || e.Action == f.Action || strings.HasSuffix(f.Action, ".") && strings.HasPrefix(e.Action, f.Action)
	return action &&
		(f.Actor == "" || e.Actor == f.Actor) &&
		(f.Object == "" || e.Object == f.Object) &&
		(f.Since.IsZero() || !e.Time.Before(f.Since)) &&
		(f.Until.IsZero() || e.Time.Before(f.Until))
}
