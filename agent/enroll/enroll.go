// Package enroll gets a device its identity and keeps it fresh.
//
// The parties are the operator, who hands over a single-use token and the
// hub's CA (or its fingerprint); the hub's EST server (RFC 7030: cacerts,
// simpleenroll, simplereenroll); and everything in the agent that opens a TLS
// connection, which takes its configuration from here. The private key is made
// on the device and never leaves it. What the package promises: no byte of the
// token is sent before the server has shown a certificate of the pinned CA, and
// the hub's public keys (trust.Anchors) are taken once, over the same pinned TLS; the
// key is on disk before its certificate is asked for, so that a power cut in
// between does not waste the token; a certificate is renewed at 50 to 66 % of
// its life, and a failure to renew disturbs nothing until it ends.
package enroll

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
)

// Config says who the device is and where it becomes known.
type Config struct {
	Disk disk.FS
	ID   topic.ID
	URL  string // of the hub, https://host:port
	// CAPEM is the hub's CA, or Fingerprint its digest: "sha256:" and the hex
	// digest of the certificate's DER. One is needed to enrol.
	CAPEM       []byte
	Fingerprint string
	// Token returns the single-use token. Only asked when the device has no
	// certificate.
	Token func() (string, error)
	// NeedAnchors says that the device holds no release keys yet: then a hub
	// that hands none out is an error. See trust.Anchors.
	NeedAnchors bool
	Log         *slog.Logger
	Now         func() time.Time
}

// ErrRefused says that the hub answered and refused; trying again with the same
// token will not help.
var ErrRefused = errors.New("the hub refused")

// Names on the disk.
const (
	folder      = "identity"
	identity    = folder + "/identity.pem" // key and certificate, always of one another
	pending     = folder + "/pending.pem"  // a key whose certificate is being asked for
	authorities = folder + "/ca.pem"
	anchors     = folder + "/trust.json" // trust.Anchors as the hub gave them
)

const (
	maxAnswer   = 64 << 10 // of the EST server
	retryAfter  = time.Minute
	dialTimeout = 20 * time.Second
)

// Identity is a device's key, certificate and trust in its hub. Its methods may
// be called from any goroutine.
type Identity struct {
	config Config

	mu      sync.Mutex
	cert    *tls.Certificate // nil: not enrolled
	leaf    *x509.Certificate
	roots   *x509.CertPool // nil: not known yet
	anchors trust.Anchors  // zero: none were given
	oldest  time.Time      // no clock of this device can be right before
	renewal error          // of the newest attempt to renew; nil: none failed
}

// Open loads what the disk holds. A damaged identity is an error that says what
// to do; none at all is not.
func Open(c Config) (*Identity, error) {
	i := &Identity{config: c}
	if err := c.Disk.MkdirAll(folder); err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	ca, err := disk.ReadFile(c.Disk, authorities, maxAnswer)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if len(c.CAPEM) > 0 {
			ca = c.CAPEM
		}
	case err != nil:
		return nil, fmt.Errorf("open identity: %w", err)
	}
	if len(ca) > 0 {
		if err := i.trust(ca); err != nil {
			return nil, err
		}
	}
	b, err := disk.ReadFile(c.Disk, anchors, trust.MaxAnchorsBytes)
	if err == nil {
		i.anchors, err = trust.ParseAnchors(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open identity: %s cannot be used: remove %s and enrol again with a new token: %w", anchors, folder, err)
	}
	b, err = disk.ReadFile(c.Disk, identity, maxAnswer)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err == nil {
		err = i.use(b)
	}
	if err != nil {
		return nil, fmt.Errorf("open identity: %s cannot be used: remove it and enrol again with a new token: %w", identity, err)
	}
	return i, nil
}

// trust takes PEM certificates as the hub's authorities.
func (i *Identity) trust(ca []byte) error {
	pool := x509.NewCertPool()
	var oldest time.Time
	for rest := ca; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("read the hub's CA: %w", err)
		}
		pool.AddCert(c)
		if c.NotBefore.After(oldest) {
			oldest = c.NotBefore
		}
	}
	if oldest.IsZero() {
		return errors.New("read the hub's CA: no certificate in it: give the file ca.pem of your hub")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.roots = pool
	if oldest.After(i.oldest) {
		i.oldest = oldest
	}
	return nil
}

// use takes key and certificate from PEM.
func (i *Identity) use(b []byte) error {
	cert, err := tls.X509KeyPair(b, b)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return err
	}
	if want := identityURI(i.config.ID).String(); len(leaf.URIs) != 1 || leaf.URIs[0].String() != want {
		return fmt.Errorf("the certificate is for %v, this device is %s", leaf.URIs, want)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	cert.Leaf = leaf
	i.cert, i.leaf = &cert, leaf
	if leaf.NotBefore.After(i.oldest) {
		i.oldest = leaf.NotBefore
	}
	return nil
}

// Enrolled says whether the device has a certificate, valid or not.
func (i *Identity) Enrolled() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert != nil
}

// Validity is the lifetime of the certificate, and why the newest attempt to
// renew it failed. Zero times: not enrolled.
func (i *Identity) Validity() (notBefore, notAfter time.Time, renewal error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.leaf == nil {
		return time.Time{}, time.Time{}, nil
	}
	return i.leaf.NotBefore, i.leaf.NotAfter, i.renewal
}

// identityURI is how a certificate names a device.
func identityURI(id topic.ID) *url.URL {
	return &url.URL{Scheme: "swell", Opaque: "device:" + id.Site + ":" + id.Node}
}

// now is the device's clock, but never before its own certificates were made:
// a device that wakes up in 1970 still reaches its hub.
func (i *Identity) now() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.config.Now()
	if now.Before(i.oldest) {
		return i.oldest
	}
	return now
}

// TLS returns the configuration for connections to the hub. It always shows the
// newest certificate.
func (i *Identity) TLS() *tls.Config {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    i.roots,
		Time:       i.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			ended := i.expired()
			i.mu.Lock()
			defer i.mu.Unlock()
			if i.cert == nil || ended {
				// As without GetClientCertificate: a server that takes devices
				// without one lets this one enrol again.
				return &tls.Certificate{}, nil
			}
			return i.cert, nil
		},
	}
}

// Client returns an HTTP client by TLS. The caller bounds each request.
func (i *Identity) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			// Asked at each connection: the CA may become known, and the
			// certificate change, while the client lives.
			DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, dialTimeout)
				defer cancel()
				return (&tls.Dialer{Config: i.TLS()}).DialContext(ctx, network, address)
			},
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       30 * time.Second,
			MaxConnsPerHost:       4,
		},
		// The hub's address is fixed; an answer that points elsewhere is none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Enroll gets the first certificate. An error that wraps ErrRefused needs a
// person; any other may go away.
func (i *Identity) Enroll(ctx context.Context) (err error) {
	defer func() {
		i.mu.Lock()
		i.renewal = err
		i.mu.Unlock()
	}()
	if err := i.pin(ctx); err != nil {
		return fmt.Errorf("cannot enrol: %w", err)
	}
	if err := i.learnAnchors(ctx); err != nil {
		return fmt.Errorf("cannot enrol: %w", err)
	}
	token, err := i.config.Token()
	if err != nil {
		return fmt.Errorf("cannot enrol: %w", err)
	}
	if token == "" {
		return fmt.Errorf("cannot enrol: this device has no certificate and no token: make one with `swellctl enroll token %s` and give it as hub.token or hub.token_file: %w", i.config.ID, ErrRefused)
	}
	if err := i.certify(ctx, "simpleenroll", token); err != nil {
		return fmt.Errorf("cannot enrol: %w", err)
	}
	return nil
}

// Renew replaces the certificate, with a new key.
func (i *Identity) Renew(ctx context.Context) error {
	err := i.certify(ctx, "simplereenroll", "")
	i.mu.Lock()
	i.renewal = err
	i.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot renew the certificate: %w", err)
	}
	return nil
}

// expired says whether the certificate's life is over.
func (i *Identity) expired() bool {
	now := i.now()
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.leaf != nil && now.After(i.leaf.NotAfter)
}

// Run renews the certificate when it is time, until ctx ends. One that has
// ended cannot be renewed: then the device enrols again, as soon as it is given
// a new token.
func (i *Identity) Run(ctx context.Context) {
	for {
		wait := i.renewIn(mathrand.Float64())
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		refresh := i.Renew
		if i.expired() {
			refresh = i.Enroll
		}
		if err := refresh(ctx); err != nil && ctx.Err() == nil {
			i.config.Log.Warn("certificate not renewed", "error", err)
		}
	}
}

// renewIn is how long to wait, with draw in [0, 1): until 50 to 66 % of the
// certificate's life, and after a failure a minute or so.
func (i *Identity) renewIn(draw float64) time.Duration {
	i.mu.Lock()
	leaf, failed := i.leaf, i.renewal != nil
	i.mu.Unlock()
	if leaf == nil {
		return retryAfter
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	wait := leaf.NotBefore.Add(time.Duration(float64(life) * (0.5 + 0.16*draw))).Sub(i.now())
	if least := min(retryAfter, life/20); failed && wait < least {
		wait = least + time.Duration(draw*float64(least))
	}
	return wait
}

// pin makes sure that the hub's CA is known: from the configuration, or from
// the hub itself if its fingerprint is the one given.
func (i *Identity) pin(ctx context.Context) error {
	i.mu.Lock()
	known := i.roots != nil
	i.mu.Unlock()
	if known {
		return nil
	}
	want, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(i.config.Fingerprint, ":", "")), "sha256")
	if !ok || len(want) != 64 {
		return fmt.Errorf("the hub's CA is not known: give hub.ca_file, or hub.ca_fingerprint as sha256: and 64 hex digits: %w", ErrRefused)
	}
	// What comes over this one connection is believed only if its digest is the
	// one the operator gave; nothing secret is sent over it.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	b, err := i.ask(ctx, client, http.MethodGet, "cacerts", "", nil)
	if err != nil {
		return err
	}
	certs, err := parsePKCS7(b)
	if err != nil {
		return fmt.Errorf("read the hub's CA: %w", err)
	}
	for _, c := range certs {
		sum := sha256.Sum256(c.Raw)
		if hex.EncodeToString(sum[:]) != want {
			continue
		}
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		if err := disk.WriteAtomic(i.config.Disk, authorities, ca); err != nil {
			return err
		}
		return i.trust(ca)
	}
	return fmt.Errorf("the hub at %s does not have the CA with the fingerprint given: check the address and hub.ca_fingerprint: %w", i.config.URL, ErrRefused)
}

// Anchors are the public keys that the hub gave when the device enrolled. Zero:
// it gave none, or the device has not enrolled.
func (i *Identity) Anchors() trust.Anchors {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.anchors
}

// learnAnchors takes the hub's public keys, once in the device's life: a later
// answer changes nothing. It comes before the token is spent.
func (i *Identity) learnAnchors(ctx context.Context) error {
	if i.Anchors() != (trust.Anchors{}) {
		return nil
	}
	client := i.Client()
	client.Timeout = time.Minute
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, i.config.URL+trust.AnchorsPath, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound && !i.config.NeedAnchors:
		// Another EST server than a hub. The operator brought the release keys.
		i.config.Log.Warn("the hub gives no public keys: no proofs by its ledger are asked for")
		return nil
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the hub gives no public keys: name the release key in trust.key_files: %w", ErrRefused)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answered %s", trust.AnchorsPath, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, trust.MaxAnchorsBytes+1))
	if err != nil {
		return err
	}
	given, err := trust.ParseAnchors(b)
	if err != nil {
		return err
	}
	if err := disk.WriteAtomic(i.config.Disk, anchors, b); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.anchors = given
	return nil
}

// certify has a pending key certified and takes both into use.
func (i *Identity) certify(ctx context.Context, operation, token string) error {
	key, keyPEM, err := i.pendingKey()
	if err != nil {
		return err
	}
	// The hub takes no identity from a request; these only help people who read
	// it on its way.
	name := i.config.ID.String()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: name},
		URIs:    []*url.URL{identityURI(i.config.ID)},
	}, key)
	if err != nil {
		return err
	}
	client := i.Client()
	client.Timeout = time.Minute
	defer client.CloseIdleConnections()
	b, err := i.ask(ctx, client, http.MethodPost, operation, token, csr)
	if err != nil {
		return err
	}
	certs, err := parsePKCS7(b)
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	content := bytes.Clone(keyPEM)
	found := false
	for _, c := range certs {
		pub, ok := c.PublicKey.(*ecdsa.PublicKey)
		if !ok || !pub.Equal(&key.PublicKey) {
			continue
		}
		found = true
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		break
	}
	if !found {
		return errors.New("the hub's answer has no certificate for this device's key")
	}
	if err := i.keepAuthorities(); err != nil {
		return err
	}
	if err := disk.WriteAtomic(i.config.Disk, identity, content); err != nil {
		return err
	}
	if err := i.use(content); err != nil {
		return err
	}
	return i.config.Disk.RemoveAll(pending)
}

// keepAuthorities remembers a CA that came from the configuration, which may
// be gone at the next start.
func (i *Identity) keepAuthorities() error {
	there, err := disk.Exists(i.config.Disk, authorities)
	if err != nil || there || len(i.config.CAPEM) == 0 {
		return err
	}
	return disk.WriteAtomic(i.config.Disk, authorities, i.config.CAPEM)
}

// pendingKey returns the key whose certificate is being asked for, making it
// at the first attempt.
func (i *Identity) pendingKey() (*ecdsa.PrivateKey, []byte, error) {
	if b, err := disk.ReadFile(i.config.Disk, pending, maxAnswer); err == nil {
		if block, _ := pem.Decode(b); block != nil {
			if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := k.(*ecdsa.PrivateKey); ok {
					return key, b, nil
				}
			}
		}
		// Unreadable: nothing was certified for it that could be lost.
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, b, disk.WriteAtomic(i.config.Disk, pending, b)
}

// ask performs one EST operation and returns the decoded body.
func (i *Identity) ask(ctx context.Context, client *http.Client, method, operation, token string, csr []byte) ([]byte, error) {
	var body io.Reader
	if csr != nil {
		body = strings.NewReader(base64.StdEncoding.EncodeToString(csr))
	}
	r, err := http.NewRequestWithContext(ctx, method, i.config.URL+"/.well-known/est/"+operation, body)
	if err != nil {
		return nil, err
	}
	if csr != nil {
		r.Header.Set("Content-Type", "application/pkcs10")
		r.Header.Set("Content-Transfer-Encoding", "base64")
	}
	if token != "" {
		r.SetBasicAuth(i.config.ID.String(), token) // RFC 7030, section 3.2.3
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s answered %s: %.300s", operation, resp.Status, bytes.TrimSpace(b))
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusBadRequest {
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil, err
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(b)), ""))
	if err != nil {
		return nil, fmt.Errorf("%s answered no base64: %w", operation, err)
	}
	return der, nil
}
