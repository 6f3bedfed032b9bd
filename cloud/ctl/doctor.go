package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxSkew is how far this machine's clock may be from the hub's before
// sessions, tokens and the times on screen mislead.
const maxSkew = 30 * time.Second

func (e *env) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check the way to the hub and the hub's parts", Args: args(cobra.NoArgs),
		Long:    "doctor checks the configuration file, the way to the hub, the clocks, the token\nand each part of the hub. Exit code 1: something is not well.",
		Example: "  swellctl doctor",
		RunE: func(c *cobra.Command, _ []string) error {
			bad := 0
			check := func(ok bool, name, format string, args ...any) {
				mark := "ok"
				if !ok {
					mark = "FAILED"
					bad++
				}
				fmt.Fprintln(e.out, strings.TrimRight(fmt.Sprintf("%-7s %-14s ", mark, name)+fmt.Sprintf(format, args...), " "))
			}
			path, err := e.path()
			if err != nil {
				return err
			}
			if info, err := os.Stat(path); err == nil {
				private := runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0
				if private {
					check(true, "configuration", "%s", path)
				} else {
					check(false, "configuration", "%s can be read by others, and tokens are in it: chmod 600 it", path)
				}
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			began := time.Now()
			health, date, err := h.health(ctx)
			if err != nil {
				return err
			}
			check(true, "hub", "%s answers in %s", h.address(), time.Since(began).Round(time.Millisecond))
			if !date.IsZero() {
				skew := time.Since(date).Round(time.Second)
				check(skew.Abs() <= maxSkew, "clock", "%s from the hub's", skew)
			}
			var s struct{ User, Role string }
			switch err := h.get(ctx, "/session", nil, &s); {
			case codeOf(err) == CodeDenied:
				check(false, "token", "%v", err)
			case err != nil:
				return err
			default:
				check(true, "token", "of %s, role %s", s.User, s.Role)
			}
			for _, p := range health.Parts {
				check(p.OK, p.Name, "%s", p.Message)
			}
			if bad > 0 {
				return fmt.Errorf("%d checks failed", bad)
			}
			return nil
		},
	}
}

// health is what the hub says of its parts.
type health struct {
	OK    bool `json:"ok"`
	Parts []struct {
		Name    string `json:"name"`
		OK      bool   `json:"ok"`
		Message string `json:"message"`
	} `json:"parts"`
}

// health asks the hub how it is and what time it has; zero when it does not
// say. A hub that is not serving answers too.
func (h *hub) health(ctx context.Context) (out health, date time.Time, err error) {
	resp, err := h.send(ctx, http.MethodGet, "/health", nil, nil)
	if p, ok := errors.AsType[*Problem](err); ok && p.Status == http.StatusServiceUnavailable && json.Unmarshal(p.body, &out) == nil {
		return out, date, nil
	}
	if err != nil {
		return out, date, err
	}
	defer func() { _ = resp.Body.Close() }()
	date, _ = http.ParseTime(resp.Header.Get("Date"))
	return out, date, json.NewDecoder(resp.Body).Decode(&out)
}
