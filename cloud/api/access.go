package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/swellfleet/swell/cloud/auth"
)

// sessionCookie is the cookie's name in the contract.
const sessionCookie = "swell_session"

// csrfHeader carries the session's CSRF token in writes.
const csrfHeader = "X-Swell-CSRF"

// caller is who a request is from, as handlers see it.
type caller struct {
	auth.Principal
	remote string // host:port
	cookie string // empty for a token
}

// person names the human behind the call, by session and token alike: who
// started a rollout must not approve it through a token of their own.
func (c caller) person() string { return "user:" + c.User }

type callerKey struct{}

// callerOf returns the request's caller; the zero one where nobody logged in.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// allow lets a request through that may use op: who is it, how often have
// they asked, is the role enough, and does a browser prove that its page sent it.
func (s *Server) allow(op operation, next echo.HandlerFunc) echo.HandlerFunc {
	limit := op.maxBytes()
	return func(c echo.Context) error {
		req := c.Request()
		req.Body = http.MaxBytesReader(c.Response().Writer, req.Body, limit) // the inner writer closes the connection
		who := caller{remote: req.RemoteAddr}
		err := s.identify(req, &who)
		if err == nil {
			err = s.slow(&who)
		} else if wait := s.unknown.Take(auth.AddressKey(req.RemoteAddr), s.cfg.Now()); wait > 0 {
			err = auth.TooMany{RetryAfter: wait}
		}
		if err == nil {
			err = permit(op, req, &who)
		} else if op.access == public {
			if _, busy := errors.AsType[auth.TooMany](err); !busy {
				who, err = caller{remote: req.RemoteAddr}, nil // a stale cookie must not keep anybody from logging in
			}
		}
		if err != nil {
			s.refused.WithLabelValues(asProblem(err).name).Inc()
			return err
		}
		c.Response().Header().Set("Cache-Control", "no-store")
		c.SetRequest(req.WithContext(context.WithValue(req.Context(), callerKey{}, who)))
		return next(c)
	}
}

// identify fills in who from the request's token or cookie. Without either it
// leaves who empty.
func (s *Server) identify(req *http.Request, who *caller) (err error) {
	if h := req.Header.Get("Authorization"); h != "" {
		token, ok := strings.CutPrefix(h, "Bearer ")
		if !ok {
			return auth.ErrDenied
		}
		who.Principal, err = s.cfg.Auth.Bearer(req.Context(), token)
		return err
	}
	cookie, err := req.Cookie(sessionCookie)
	if err != nil || cookie.Value == "" {
		return nil
	}
	who.cookie = cookie.Value
	who.Principal, err = s.cfg.Auth.Session(req.Context(), cookie.Value)
	return err
}

// slow takes one permit of whoever asks.
func (s *Server) slow(who *caller) error {
	limit, key := s.unknown, auth.AddressKey(who.remote)
	if who.User != "" {
		limit, key = s.known, who.Actor()
	}
	if wait := limit.Take(key, s.cfg.Now()); wait > 0 {
		return auth.TooMany{RetryAfter: wait}
	}
	return nil
}

func permit(op operation, req *http.Request, who *caller) error {
	if op.access == public {
		return nil
	}
	if who.User == "" {
		return problem{status: http.StatusUnauthorized, name: "login", detail: "send a session cookie (POST " + Prefix + "/session) or an API token as Authorization: Bearer"}
	}
	if !who.Role.Allows(op.access) {
		return problem{status: http.StatusForbidden, name: "role", detail: "this needs the role " + string(op.access) + " and yours is " + string(who.Role) + ": ask an admin"}
	}
	if who.cookie != "" && req.Method != http.MethodGet && req.Method != http.MethodHead && !who.CheckCSRF(req.Header.Get(csrfHeader)) {
		return problem{status: http.StatusForbidden, name: "csrf", detail: "send the csrfToken of GET " + Prefix + "/session in the header " + csrfHeader}
	}
	return nil
}

// measure times the whole answer.
func (s *Server) measure(op operation, next echo.HandlerFunc) echo.HandlerFunc {
	name := op.spec.OperationID
	return func(c echo.Context) error {
		start := time.Now()
		err := next(c)
		status := c.Response().Status
		if err != nil && !c.Response().Committed {
			status = asProblem(err).status
		}
		s.sent.WithLabelValues(name, strconv.Itoa(status/100)+"xx").Observe(time.Since(start).Seconds())
		return err
	}
}
