package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/ledger"
)

// some returns a pointer to v, or nil for the zero value: what is not known is
// absent, never a made-up zero.
func some[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// at returns a pointer to t in UTC, or nil for the zero time.
func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// value returns what p points at, or the zero value.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// seconds reads a number of seconds.
func seconds(s *int64) time.Duration { return time.Duration(value(s)) * time.Second }

// The default length of a page, as in the contract.
const defaultLimit = 100

func limitOf(l *apimodel.Limit) int {
	if l == nil {
		return defaultLimit
	}
	return int(*l)
}

// cursorOf makes the opaque text of a place in a list.
func cursorOf(place string) *string {
	s := base64.RawURLEncoding.EncodeToString([]byte("1:" + place))
	return &s
}

// placeOf reads what cursorOf made; nil is the beginning.
func placeOf(c *apimodel.Cursor) (string, error) {
	if c == nil || *c == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(*c)
	if err != nil || len(b) < 2 || string(b[:2]) != "1:" {
		return "", invalid("the cursor is not one of this hub's: begin again without it", apimodel.FieldError{Field: "cursor", Message: "unreadable"})
	}
	return string(b[2:]), nil
}

// page cuts a list that was asked for with one item more than the limit.
func page[T any](items []T, limit int, place func(T) string) ([]T, *string) {
	if items == nil {
		items = []T{} // [] in JSON, not null
	}
	if len(items) <= limit {
		return items, nil
	}
	items = items[:limit]
	return items, cursorOf(place(items[limit-1]))
}

// audit writes what a person is about to do to the ledger, before it takes
// effect.
func (s *Server) audit(ctx context.Context, action, object, reason string, detail map[string]string) error {
	e := ledger.Event{Time: s.cfg.Now().UTC(), Actor: callerOf(ctx).Actor(), Action: action, Object: object, Reason: reason}
	if len(detail) > 0 {
		b, err := json.Marshal(detail)
		if err != nil {
			return err
		}
		e.Detail = b
	}
	if _, err := s.cfg.Ledger.Append(ctx, e); err != nil {
		return err
	}
	s.cfg.Stream.Publish(Change{Kind: "AuditEvent"})
	return nil
}
