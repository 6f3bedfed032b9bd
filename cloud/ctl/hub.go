package ctl

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
)

// config is the file with hubs and tokens. It is readable by its owner alone.
type config struct {
	Current  string           `yaml:"current"`
	Contexts map[string]*site `yaml:"contexts"`
}

// site is one hub.
type site struct {
	URL    string `yaml:"url"`
	Token  string `yaml:"token"`
	User   string `yaml:"user,omitempty"`
	CAFile string `yaml:"ca_file,omitempty"` // when the hub's certificate is from a CA of its own
}

func (e *env) path() (string, error) {
	if e.configPath != "" {
		return e.configPath, nil
	}
	if p := os.Getenv("SWELL_CONFIG"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the user's configuration folder: %w: name a file with --config", err)
	}
	return filepath.Join(dir, "swell", "config.yaml"), nil
}

func (e *env) load() (config, error) {
	c := config{Contexts: map[string]*site{}}
	p, err := e.path()
	if err != nil {
		return c, err
	}
	b, err := os.ReadFile(p)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("read %s: %w", p, err)
	}
	if c.Contexts == nil {
		c.Contexts = map[string]*site{}
	}
	return c, nil
}

func (e *env) save(c config) error {
	p, err := e.path()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return err
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	tmp := p + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p)
}

// hub is a connection to one hub's API.
type hub struct {
	name  string
	base  string
	token string
	http  *http.Client
	// csrf and cookie are set between login's two calls only.
	csrf   string
	cookie *http.Cookie
}

// hub returns the hub of the current context, or of $SWELL_URL and
// $SWELL_TOKEN for scripts.
func (e *env) hub() (*hub, error) {
	if u, t := os.Getenv("SWELL_URL"), os.Getenv("SWELL_TOKEN"); u != "" && t != "" && e.context == "" {
		return e.connect("environment", &site{URL: u, Token: t, CAFile: os.Getenv("SWELL_CA_FILE")})
	}
	c, err := e.load()
	if err != nil {
		return nil, err
	}
	name := c.Current
	if e.context != "" {
		name = e.context
	}
	s := c.Contexts[name]
	if s == nil {
		if name == "" {
			return nil, errors.New("no hub is configured: log in first, as in 'swellctl login http://127.0.0.1:7440'")
		}
		return nil, unknownHub(name, c)
	}
	return e.connect(name, s)
}

func unknownHub(name string, c config) error {
	if len(c.Contexts) == 0 {
		return usage("no hub is called %q: none is known before 'swellctl login URL'", name)
	}
	return usage("no hub is called %q: known are %s", name, strings.Join(sortedKeys(c.Contexts), ", "))
}

func (e *env) connect(name string, s *site) (*hub, error) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usage("%q is no address of a hub: want http://host:port or https://host:port", s.URL)
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the hub's CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", s.CAFile)
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &hub{name: name, base: strings.TrimRight(s.URL, "/") + "/api/v1", token: s.Token, http: &http.Client{Transport: tr}}, nil
}

// Problem is an RFC 9457 answer.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// Fields are the fields of the request that are wrong.
	Fields []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	} `json:"fields"`
	body   []byte // of the answer, for those that hold more
	remedy string // what to do, where the hub does not know it
}

func (p *Problem) Error() string {
	s := p.Detail
	if s == "" {
		s = p.Title
	}
	if s == "" {
		s = strings.ToLower(http.StatusText(p.Status))
	}
	if p.remedy != "" {
		s += ": " + p.remedy
	}
	for _, f := range p.Fields {
		if line := f.Field + ": " + f.Message; !strings.Contains(s, line) {
			s += "\n  " + line
		}
	}
	return s
}

// maxAnswer caps what is read of one answer.
const maxAnswer = 64 << 20

func (h *hub) do(ctx context.Context, method, path string, q url.Values, body, out any) error {
	resp, err := h.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		if ctx.Err() != nil {
			return h.unreachable(ctx, err)
		}
		return fmt.Errorf("%s %s: the hub's answer cannot be read: %w", method, path, err)
	}
	return nil
}

// upload is a body that is a file, where others are JSON.
type upload []byte

// send returns an answer with a good status; the caller closes its body.
func (h *hub) send(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	var r io.Reader
	form := "application/json"
	if file, ok := body.(upload); ok {
		r, form = bytes.NewReader(file), "application/octet-stream"
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	u := h.base + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", form)
	}
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	if h.cookie != nil {
		req.AddCookie(h.cookie)
		req.Header.Set("X-Swell-CSRF", h.csrf)
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, h.unreachable(ctx, err)
	}
	if resp.StatusCode >= 300 {
		defer func() { _ = resp.Body.Close() }()
		p := &Problem{}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if json.Unmarshal(b, p) != nil {
			p.Title = strings.TrimSpace(string(b))
		}
		p.Status, p.body = resp.StatusCode, b
		if p.Status == http.StatusUnauthorized && h.token != "" {
			p.remedy = "log in again with 'swellctl login " + h.address() + "'"
		}
		return nil, p
	}
	return resp, nil
}

func (h *hub) address() string { return strings.TrimSuffix(h.base, "/api/v1") }

// unreachable says why no answer came and what to do about it.
func (h *hub) unreachable(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w: the hub at %s did not answer in time: allow more with --timeout", errTimeout, h.address())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot reach the hub at %s: %w: does it run, and at this address?", h.address(), err)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("cannot reach the hub at %s: %w: name its CA with 'swellctl login --ca-file'", h.address(), err)
	}
	return fmt.Errorf("cannot reach the hub at %s: %w", h.address(), err)
}

func (h *hub) get(ctx context.Context, path string, q url.Values, out any) error {
	return h.do(ctx, http.MethodGet, path, q, nil, out)
}

// object is a decoded JSON object.
type object = map[string]any

// list reads every page of a list, up to a bound.
func (h *hub) list(ctx context.Context, path string, q url.Values) ([]object, error) {
	const maxPages = 1000
	q = cloneValues(q)
	q.Set("limit", "1000")
	var out []object
	for range maxPages {
		var page struct {
			Items      []object `json:"items"`
			NextCursor string   `json:"nextCursor"`
		}
		if err := h.get(ctx, path, q, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if page.NextCursor == "" {
			return out, nil
		}
		q.Set("cursor", page.NextCursor)
	}
	return out, fmt.Errorf("%s has more than %d pages: narrow it with a selector", path, maxPages)
}

func cloneValues(q url.Values) url.Values {
	out := url.Values{}
	for k, v := range q {
		out[k] = slices.Clone(v)
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// within bounds one command.
func (e *env) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, e.timeout)
}

// following bounds a command that follows something: by --timeout when it was
// given, otherwise not at all.
func (e *env) following(ctx context.Context) (context.Context, context.CancelFunc) {
	if e.waits {
		return e.within(ctx)
	}
	return context.WithCancel(ctx)
}

// pollEvery is how often a following command looks.
const pollEvery = 500 * time.Millisecond

// poll calls look until it says done, fails, or ctx ends. Each look may take as
// long as one command.
func (e *env) poll(ctx context.Context, look func(context.Context) (done bool, err error)) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		one, cancel := e.within(ctx)
		done, err := look(one)
		cancel()
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded) && !done:
			return fmt.Errorf("%w after %s: it goes on at the hub", errTimeout, e.timeout)
		case done, err != nil:
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
	}
}
