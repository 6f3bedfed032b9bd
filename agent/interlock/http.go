package interlock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// HTTP permits while a GET of URL answers with Status and, if Field or Equals
// is set, with Value. Redirections are not followed: they are another status.
type HTTP struct {
	URL   string `yaml:"url"` // required: http or https
	Value `yaml:",inline"`
	// Status is the wanted status. 0 means 200.
	Status int `yaml:"status"`
	// TimeoutS bounds the whole exchange, in seconds. 0 means 5; at most 60.
	TimeoutS float64 `yaml:"timeout_s"`
	// CAFile is a PEM file of CAs to trust. Empty: those of the system.
	CAFile string `yaml:"ca_file"`
	// TokenFile holds a bearer token to show. Empty: none.
	TokenFile string `yaml:"token_file"`
}

// where is the address without user, password and query, which may be secrets.
func (h *HTTP) where() string {
	u, err := url.Parse(h.URL)
	if err != nil {
		return "http"
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

func (h *HTTP) validate() error {
	u, err := url.Parse(h.URL)
	switch {
	case err != nil:
		return errors.New("url is no address: want http://host:port/path")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("url %q: want http://host:port/path or https", h.where())
	case h.Status != 0 && (h.Status < 100 || h.Status > 599):
		return fmt.Errorf("status %d: want 100 to 599", h.Status)
	case h.TimeoutS < 0 || h.TimeoutS > maxTimeoutS:
		return fmt.Errorf("timeout_s %g: want 0 to %d", h.TimeoutS, maxTimeoutS)
	}
	return nil
}

func (h *HTTP) reader() func(context.Context) error {
	c := *h
	if c.Status == 0 {
		c.Status = http.StatusOK
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout(c.TimeoutS))
		defer cancel()
		t, err := tlsConfig(c.CAFile, "", "")
		if err != nil {
			return unreadable("%w", err)
		}
		token, err := secret(c.TokenFile)
		if err != nil {
			return unreadable("read token_file: %w", err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
		if err != nil {
			return unreadable("%w", bare(err))
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		transport := &http.Transport{TLSClientConfig: t, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
		defer transport.CloseIdleConnections()
		client := &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		resp, err := client.Do(req)
		if err != nil {
			return unreadable("%w", bare(err))
		}
		defer resp.Body.Close()
		if resp.StatusCode != c.Status {
			return fmt.Errorf("answers %s, not %d", resp.Status, c.Status)
		}
		if c.Field == "" && c.Equals == "" {
			return nil
		}
		b, err := bounded(resp.Body)
		if err != nil {
			return unreadable("%w", err)
		}
		return c.judge(b)
	}
}

// bare drops the address from an error of package net/http: it is named
// already, and may hold secrets.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
