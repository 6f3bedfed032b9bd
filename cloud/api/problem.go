package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/store"
)

// problem is a refusal as people and programs get it (RFC 9457).
type problem struct {
	status int
	name   string // of urn:swell:problem:NAME; empty means about:blank
	detail string // what happened and what to do
	fields []apimodel.FieldError
	retry  int // seconds for Retry-After; 0: none
}

func (p problem) Error() string { return fmt.Sprintf("%d %s: %s", p.status, p.name, p.detail) }

// titles are the same for every occurrence of a problem.
var titles = map[string]string{
	"invalid":        "The request is not valid",
	"unknown-label":  "No device has this label",
	"login":          "Log in first",
	"csrf":           "The session's CSRF token is missing",
	"role":           "Your role may not do this",
	"not-found":      "There is no such object",
	"changed":        "Somebody was faster",
	"exists":         "It exists already",
	"conflict":       "It cannot be done in this state",
	"key-reused":     "The idempotency key was used for another request",
	"too-many":       "Too many requests",
	"unavailable":    "A part of the hub is not available",
	"too-large":      "The request is too large",
	"not-this-hub":   "This hub does not do that",
	"incomprehended": "The hub cannot answer in that form",
}

func invalid(detail string, fields ...apimodel.FieldError) problem {
	return problem{status: http.StatusBadRequest, name: "invalid", detail: detail, fields: fields}
}

func notFound(what string) problem {
	return problem{status: http.StatusNotFound, name: "not-found", detail: what + " does not exist: it may have been removed, or the name is misspelt"}
}

func conflict(detail string) problem {
	return problem{status: http.StatusConflict, name: "conflict", detail: detail}
}

func exists(detail string) problem {
	return problem{status: http.StatusConflict, name: "exists", detail: detail}
}

// ErrInvalid marks, for services behind the API, what a person asked for and
// cannot be; it answers 400 with the error's text.
var ErrInvalid = errors.New("not valid")

// errNoTraining answers training calls on a hub without that role.
var errNoTraining = problem{status: http.StatusServiceUnavailable, name: "not-this-hub", detail: "this hub does not train: ask one that has the role trainer"}

// answerError writes err as a problem.
func (s *Server) answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	p := asProblem(err)
	id := rand.Text()[:12]
	if p.status >= 500 && !errors.Is(err, context.Canceled) {
		s.cfg.Log.Error("cannot answer", slog.String("request", id), slog.String("method", c.Request().Method), slog.String("path", c.Request().URL.Path), slog.Any("error", err))
	}
	body := apimodel.Problem{Type: "about:blank", Title: http.StatusText(p.status), Status: p.status, Instance: &id}
	if t, ok := titles[p.name]; ok {
		body.Type, body.Title = "urn:swell:problem:"+p.name, t
	}
	if p.status == http.StatusInternalServerError {
		p.detail = "the hub failed; its log says why under request " + id
	}
	if p.detail != "" {
		body.Detail = &p.detail
	}
	if len(p.fields) > 0 {
		body.Fields = &p.fields
	}
	h := c.Response().Header()
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	c.Response().WriteHeader(p.status)
	if c.Request().Method != http.MethodHead {
		_ = json.NewEncoder(c.Response()).Encode(body) // a reader that is gone cannot be told
	}
}

// asProblem says what an error of any service means to the caller.
func asProblem(err error) problem {
	if p, ok := errors.AsType[problem](err); ok {
		return p
	}
	if many, ok := errors.AsType[auth.TooMany](err); ok {
		return problem{status: http.StatusTooManyRequests, name: "too-many", detail: many.Error(), retry: int(math.Ceil(many.RetryAfter.Seconds()))}
	}
	if unknown, ok := errors.AsType[fleet.UnknownKey](err); ok {
		return problem{status: http.StatusBadRequest, name: "unknown-label", detail: unknown.Error()}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem{status: http.StatusRequestEntityTooLarge, name: "too-large", detail: fmt.Sprintf("a request may have %d bytes", bodyLimit)}
	}
	is := func(kinds ...error) bool {
		for _, k := range kinds {
			if errors.Is(err, k) {
				return true
			}
		}
		return false
	}
	switch {
	case is(auth.ErrDenied):
		return problem{status: http.StatusUnauthorized, name: "login", detail: "user, password, session or token was " + auth.ErrDenied.Error()}
	case is(auth.ErrForbidden):
		return problem{status: http.StatusForbidden, name: "role", detail: err.Error()}
	case is(auth.ErrNotFound, fleet.ErrUnknown, store.ErrNotFound, dispatch.ErrNotFound, dispatch.ErrNoOrder, dispatch.ErrNoEvidence, registry.ErrNoVersion, enroll.ErrTokenUnknown):
		return problem{status: http.StatusNotFound, name: "not-found", detail: err.Error()}
	case is(dispatch.ErrQuarantined):
		return conflict(err.Error())
	case is(store.ErrInvalid):
		return invalid(err.Error(), apimodel.FieldError{Field: "spec", Message: err.Error()})
	case is(auth.ErrExists, dispatch.ErrExists):
		return problem{status: http.StatusConflict, name: "exists", detail: err.Error()}
	case is(fleet.ErrChanged, store.ErrChanged, dispatch.ErrConflict):
		return problem{status: http.StatusConflict, name: "changed", detail: err.Error() + ": read it again and repeat your change"}
	case is(ErrInvalid):
		return invalid(err.Error())
	case is(rollout.ErrOwnApproval, rollout.ErrNotApprover):
		return problem{status: http.StatusForbidden, name: "role", detail: err.Error()}
	case is(auth.ErrLastAdmin, enroll.ErrTokenUsed, rollout.ErrNotNow):
		return conflict(err.Error())
	case is(fleet.ErrFull, fleet.ErrBusy, fleet.ErrClosed):
		return problem{status: http.StatusServiceUnavailable, name: "unavailable", detail: err.Error(), retry: 5}
	case is(context.DeadlineExceeded):
		return problem{status: http.StatusServiceUnavailable, name: "unavailable", detail: "a part of the hub did not answer in time: try again", retry: 5}
	}
	if he, ok := errors.AsType[*echo.HTTPError](err); ok {
		return fromEcho(he)
	}
	return problem{status: http.StatusInternalServerError, detail: err.Error()}
}

func fromEcho(he *echo.HTTPError) problem {
	switch he.Code {
	case http.StatusNotFound:
		return problem{status: he.Code, name: "not-found", detail: "there is nothing at this path: the contract is protocol/openapi.yaml, under /api/v1"}
	case http.StatusBadRequest:
		return invalid(fmt.Sprint(he.Message))
	}
	return problem{status: he.Code, detail: fmt.Sprint(he.Message)}
}

func stack() string { return string(debug.Stack()) }
