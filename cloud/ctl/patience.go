package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// How a following command waits for a hub that went away: first this long, then
// twice as long each time up to the most, and so many times in a row. Together
// that is about ten minutes, longer than a hub takes to be replaced.
const (
	firstWait = 250 * time.Millisecond
	mostWait  = 15 * time.Second
	mostTries = 45
)

// patience waits for a hub that was there before.
type patience struct {
	e     *env
	met   bool // the hub has answered once
	tries int  // in a row that failed
}

func (e *env) patience() *patience { return &patience{e: e} }

// over notes that the hub answers.
func (p *patience) over() {
	if p.tries > 0 {
		fmt.Fprintln(p.e.err, "The hub is back.")
	}
	p.met, p.tries = true, 0
}

// after waits after a call that failed, and returns nil when it is worth
// another one. It returns err where waiting does not help: the hub has refused,
// was never there, or stays away.
func (p *patience) after(ctx context.Context, err error) error {
	if !p.met || !lost(err) || ctx.Err() != nil {
		return err
	}
	p.tries++
	switch {
	case p.tries == 1:
		fmt.Fprintf(p.e.err, "The connection to the hub is lost: %v. Trying again.\n", err)
	case p.tries > mostTries:
		return fmt.Errorf("%w (given up after %d tries)", err, mostTries)
	}
	wait := mostWait
	if p.tries < 10 { // beyond, doubling is long past the most
		wait = min(mostWait, firstWait<<(p.tries-1))
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// lost says whether an error is the connection's, or a hub's that starts.
func lost(err error) bool {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Status == http.StatusBadGateway || p.Status == http.StatusServiceUnavailable || p.Status == http.StatusGatewayTimeout
	}
	return !errors.Is(err, context.Canceled)
}
