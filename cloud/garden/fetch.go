package garden

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// Bounds on a download.
const (
	fetchTimeout = 2 * time.Minute
	maxRedirects = 5
)

// shared is the address space of carriers (RFC 6598), which is private in all
// but name.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// client returns an HTTP client that speaks HTTPS to public addresses only. The
// address is looked at after the name was resolved, and again for every
// redirect, so that no name can point into the plant's network.
func client(private bool, roots *x509.CertPool) *http.Client {
	dialer := net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		if private {
			return nil
		}
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		ip := at.Addr().Unmap()
		if !ip.IsGlobalUnicast() || ip.IsPrivate() || shared.Contains(ip) {
			return fmt.Errorf("%s is not a public address: set training.garden_private to allow it, or send the file itself", ip)
		}
		return nil
	}}
	return &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second, DisableKeepAlives: true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			return acceptable(r.URL)
		},
	}
}

func acceptable(u *url.URL) error {
	if u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%s: want https://HOST/PATH without a user", u.Redacted())
	}
	return nil
}

// fetch downloads at most max bytes.
func (g *Garden) fetch(ctx context.Context, address string, max int64) ([]byte, error) {
	u, err := url.Parse(address)
	if err == nil {
		err = acceptable(u)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	resp, err := g.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot fetch the model: %w", ErrInvalid, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, max+1))
	err = errors.Join(err, resp.Body.Close())
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: %s answered %s", ErrInvalid, u.Redacted(), resp.Status)
	case err != nil:
		return nil, fmt.Errorf("%w: the model did not arrive whole: %w", ErrInvalid, err)
	case int64(len(body)) > max:
		return nil, fmt.Errorf("%w: the model has more than %d bytes", ErrInvalid, max)
	}
	return body, nil
}
