package enroll_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/enroll/enrolltest"
	"github.com/swellfleet/swell/protocol/topic"
)

var press = topic.ID{Site: "plant", Node: "press-1"}

// world is a hub's enrolment with a clock of its own.
type world struct {
	*enroll.Service
	ca     *enroll.CA
	store  *enrolltest.Memory
	server *httptest.Server
	audit  func(action, object string) error

	mu      sync.Mutex
	clock   time.Time
	actions []string
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func newWorld(t *testing.T, change func(*enroll.Config)) *world {
	t.Helper()
	w := &world{clock: time.Now(), store: &enrolltest.Memory{}}
	var err error
	if w.ca, err = enroll.OpenCA(t.TempDir(), w.now); err != nil {
		t.Fatal(err)
	}
	cfg := enroll.Config{CA: w.ca, Store: w.store, Now: w.now, Audit: func(_ context.Context, action, object, _ string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.actions = append(w.actions, action+" "+object)
		if w.audit != nil {
			return w.audit(action, object)
		}
		return nil
	}}
	if change != nil {
		change(&cfg)
	}
	if w.Service, err = enroll.New(cfg); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewUnstartedServer(w.Handler())
	cfgTLS, err := w.ca.ServerTLS([]string{"127.0.0.1"}, tls.VerifyClientCertIfGiven)
	if err != nil {
		t.Fatal(err)
	}
	// StartTLS would serve a certificate of httptest's own.
	w.server.Listener = tls.NewListener(w.server.Listener, cfgTLS)
	w.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.server.Start()
	w.server.URL = strings.Replace(w.server.URL, "http:", "https:", 1)
	t.Cleanup(w.server.Close)
	return w
}

func (w *world) token(t *testing.T) string {
	t.Helper()
	secret, _, err := w.NewToken(t.Context(), enroll.Grant{ID: press, Class: "pump-x86", Actor: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// post sends a request as a device would; cert may be nil.
func (w *world) post(t *testing.T, path, user, password string, csr []byte, cert *tls.Certificate) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", w.server.URL+enroll.Path+path, strings.NewReader(base64.StdEncoding.EncodeToString(csr)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/pkcs10")
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	return w.do(t, req, cert)
}

func (w *world) do(t *testing.T, req *http.Request, cert *tls.Certificate) (int, string) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca.PEM())
	cfg := &tls.Config{RootCAs: pool, Time: w.now}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t *testing.T, key crypto.Signer, tmpl *x509.CertificateRequest) []byte {
	t.Helper()
	if tmpl == nil {
		tmpl = &x509.CertificateRequest{}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// certificate reads the one certificate of a certs-only answer.
func certificate(t *testing.T, body string) *x509.Certificate {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(body))
	if err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) != 0 {
		t.Fatal(err)
	}
	var inner struct {
		Version int
		Digests asn1.RawValue
		Content asn1.RawValue
		Certs   asn1.RawValue `asn1:"tag:0"`
		Signers asn1.RawValue
	}
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &inner); err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(inner.Certs.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// enrol enrols press with a new token and key.
func (w *world) enrol(t *testing.T) (*x509.Certificate, *tls.Certificate) {
	t.Helper()
	key := newKey(t)
	code, body := w.post(t, "simpleenroll", press.String(), w.token(t), request(t, key, nil), nil)
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	c := certificate(t, body)
	return c, &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

func TestADeviceEnrolsAndRenews(t *testing.T) {
	var told []enroll.Token
	w := newWorld(t, func(c *enroll.Config) {
		c.Enrolled = func(_ context.Context, k enroll.Token, _ enroll.Certificate) error {
			told = append(told, k)
			return nil
		}
	})
	cert, pair := w.enrol(t)
	if cert.Subject.CommonName != "plant/press-1" || len(cert.URIs) != 1 || cert.URIs[0].String() != "swell:device:plant:press-1" {
		t.Errorf("subject %s, URIs %v", cert.Subject, cert.URIs)
	}
	if life := cert.NotAfter.Sub(w.now()); life > 7*24*time.Hour || life < 7*24*time.Hour-time.Minute {
		t.Errorf("lives %v", life)
	}
	if id, err := w.Authorize(t.Context(), cert); id != press || err != nil {
		t.Errorf("%v, %v", id, err)
	}
	if len(told) != 1 || told[0].Class != "pump-x86" {
		t.Errorf("the fleet was told %+v", told)
	}
	w.pass(4 * 24 * time.Hour)
	key := newKey(t)
	code, body := w.post(t, "simplereenroll", "", "", request(t, key, nil), pair)
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	next := certificate(t, body)
	if id, err := w.Authorize(t.Context(), next); id != press || err != nil {
		t.Errorf("%v, %v", id, err)
	}
	if !next.NotAfter.After(cert.NotAfter) || next.SerialNumber.Cmp(cert.SerialNumber) == 0 {
		t.Error("the renewed certificate is no newer")
	}
	want := []string{"enrol-token plant/press-1", "enrol plant/press-1", "renew plant/press-1"}
	if strings.Join(w.actions, ",") != strings.Join(want, ",") {
		t.Errorf("audit %v, want %v", w.actions, want)
	}
}

func TestOnlyTheHashOfATokenIsKept(t *testing.T) {
	w := newWorld(t, nil)
	secret := w.token(t)
	if !strings.HasPrefix(secret, enroll.TokenPrefix) || len(secret) != len(enroll.TokenPrefix)+43 {
		t.Errorf("token %q", secret)
	}
	ts, err := w.Tokens(t.Context())
	if err != nil || len(ts) != 1 {
		t.Fatal(ts, err)
	}
	if ts[0].Hash == (enroll.Hash{}) || ts[0].Hash.String() == secret {
		t.Error("the token is not kept by its hash")
	}
}

func TestAttacksOnEnrolment(t *testing.T) {
	other := topic.ID{Site: "plant", Node: "press-2"}
	good := func(t *testing.T) []byte { return request(t, newKey(t), nil) }
	for name, attack := range map[string]struct {
		status int
		try    func(t *testing.T, w *world) (int, string)
	}{
		"token replay with another key": {401, func(t *testing.T, w *world) (int, string) {
			secret := w.token(t)
			if code, body := w.post(t, "simpleenroll", press.String(), secret, good(t), nil); code != 200 {
				t.Fatal(body)
			}
			return w.post(t, "simpleenroll", press.String(), secret, good(t), nil)
		}},
		"expired token": {401, func(t *testing.T, w *world) (int, string) {
			secret := w.token(t)
			w.pass(25 * time.Hour)
			return w.post(t, "simpleenroll", press.String(), secret, good(t), nil)
		}},
		"withdrawn token": {401, func(t *testing.T, w *world) (int, string) {
			secret := w.token(t)
			ts, _ := w.Tokens(t.Context())
			if err := w.VoidToken(t.Context(), ts[0].Hash, "lost"); err != nil {
				t.Fatal(err)
			}
			return w.post(t, "simpleenroll", press.String(), secret, good(t), nil)
		}},
		"guessed token": {401, func(t *testing.T, w *world) (int, string) {
			w.token(t)
			return w.post(t, "simpleenroll", press.String(), enroll.TokenPrefix+strings.Repeat("A", 43), good(t), nil)
		}},
		"the hash of a token instead of the token": {401, func(t *testing.T, w *world) (int, string) {
			w.token(t)
			ts, _ := w.Tokens(t.Context())
			return w.post(t, "simpleenroll", press.String(), ts[0].Hash.String(), good(t), nil)
		}},
		"token of another device": {401, func(t *testing.T, w *world) (int, string) {
			return w.post(t, "simpleenroll", other.String(), w.token(t), good(t), nil)
		}},
		"no credentials": {401, func(t *testing.T, w *world) (int, string) {
			return w.post(t, "simpleenroll", "", "", good(t), nil)
		}},
		"a user that is no device id": {401, func(t *testing.T, w *world) (int, string) {
			return w.post(t, "simpleenroll", "../../root", w.token(t), good(t), nil)
		}},
		"P-384 key": {400, weak(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) })},
		"P-224 key": {400, weak(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P224(), rand.Reader) })},
		"RSA key":   {400, weak(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })},
		"Ed25519 key": {400, weak(func() (crypto.Signer, error) {
			_, k, err := ed25519.GenerateKey(rand.Reader)
			return k, err
		})},
		"request for somebody else's key": {400, func(t *testing.T, w *world) (int, string) {
			csr := good(t)
			csr[len(csr)-1] ^= 1 // the signature no longer proves possession
			return w.post(t, "simpleenroll", press.String(), w.token(t), csr, nil)
		}},
		"garbage": {400, func(t *testing.T, w *world) (int, string) {
			return w.post(t, "simpleenroll", press.String(), w.token(t), []byte("<html>"), nil)
		}},
		"empty request": {400, func(t *testing.T, w *world) (int, string) {
			return w.post(t, "simpleenroll", press.String(), w.token(t), nil, nil)
		}},
		"a request of a megabyte": {400, func(t *testing.T, w *world) (int, string) {
			return w.post(t, "simpleenroll", press.String(), w.token(t), make([]byte, 1<<20), nil)
		}},
		"renewal without a certificate": {401, func(t *testing.T, w *world) (int, string) {
			return w.post(t, "simplereenroll", press.String(), w.token(t), good(t), nil)
		}},
		"renewal with a revoked certificate": {403, func(t *testing.T, w *world) (int, string) {
			_, pair := w.enrol(t)
			if n, err := w.Revoke(t.Context(), press, "stolen"); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			return w.post(t, "simplereenroll", "", "", good(t), pair)
		}},
		"renewal with an expired certificate": {0, func(t *testing.T, w *world) (int, string) {
			_, pair := w.enrol(t)
			w.pass(8 * 24 * time.Hour)
			return w.post(t, "simplereenroll", "", "", good(t), pair)
		}},
		"renewal with a certificate of a foreign CA": {0, func(t *testing.T, w *world) (int, string) {
			_, pair := newWorld(t, nil).enrol(t)
			return w.post(t, "simplereenroll", "", "", good(t), pair)
		}},
		"retry of a lost answer after revocation": {403, func(t *testing.T, w *world) (int, string) {
			secret, csr := w.token(t), good(t)
			if code, body := w.post(t, "simpleenroll", press.String(), secret, csr, nil); code != 200 {
				t.Fatal(body)
			}
			if _, err := w.Revoke(t.Context(), press, "stolen"); err != nil {
				t.Fatal(err)
			}
			return w.post(t, "simpleenroll", press.String(), secret, csr, nil)
		}},
		"an audit log that is full": {503, func(t *testing.T, w *world) (int, string) {
			secret := w.token(t)
			w.audit = func(action, _ string) error { return errors.New("disk is full") }
			return w.post(t, "simpleenroll", press.String(), secret, good(t), nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			code, body := attack.try(t, w)
			if code != attack.status {
				t.Errorf("%d %q, want %d", code, body, attack.status)
			}
			cs, err := w.Certificates(t.Context(), press)
			if err != nil || len(cs) > 1 {
				t.Errorf("%d certificates, %v", len(cs), err)
			}
		})
	}
}

func weak(gen func() (crypto.Signer, error)) func(*testing.T, *world) (int, string) {
	return func(t *testing.T, w *world) (int, string) {
		k, err := gen()
		if err != nil {
			t.Fatal(err)
		}
		return w.post(t, "simpleenroll", press.String(), w.token(t), request(t, k, nil), nil)
	}
}

func TestNoIdentityIsCopiedFromTheRequest(t *testing.T) {
	w := newWorld(t, nil)
	evil, err := url.Parse("swell:device:plant:press-2")
	if err != nil {
		t.Fatal(err)
	}
	csr := request(t, newKey(t), &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "plant/press-2", Organization: []string{"admins"}},
		URIs:     []*url.URL{evil},
		DNSNames: []string{"hub.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, EmailAddresses: []string{"root@example.com"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}}, // CA: true
	})
	code, body := w.post(t, "simpleenroll", press.String(), w.token(t), csr, nil)
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	c := certificate(t, body)
	if id, err := w.Authorize(t.Context(), c); id != press || err != nil {
		t.Errorf("identity %v, %v", id, err)
	}
	if c.Subject.String() != "CN=plant/press-1" || c.IsCA || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 || len(c.URIs) != 1 {
		t.Errorf("something of the request came through: %s %v %v %v CA %v", c.Subject, c.URIs, c.DNSNames, c.IPAddresses, c.IsCA)
	}
	if len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("usage %v", c.ExtKeyUsage)
	}
}

func TestALostAnswerMayBeAskedForAgainWithTheSameKey(t *testing.T) {
	w := newWorld(t, nil)
	secret, key := w.token(t), newKey(t)
	for range 2 {
		code, body := w.post(t, "simpleenroll", press.String(), secret, request(t, key, nil), nil)
		if code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		if _, err := w.Authorize(t.Context(), certificate(t, body)); err != nil {
			t.Error(err)
		}
	}
}

func TestCertificatesThatAreNotAuthorized(t *testing.T) {
	w := newWorld(t, nil)
	cert, _ := w.enrol(t)
	t.Run("expired", func(t *testing.T) {
		w2 := newWorld(t, nil)
		c, _ := w2.enrol(t)
		w2.pass(8 * 24 * time.Hour)
		if _, err := w2.Authorize(t.Context(), c); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Error(err)
		}
	})
	t.Run("a clock in 1970", func(t *testing.T) {
		w2 := newWorld(t, nil)
		c, _ := w2.enrol(t)
		w2.pass(-50 * 365 * 24 * time.Hour)
		if _, err := w2.Authorize(t.Context(), c); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("of a foreign CA", func(t *testing.T) {
		c, _ := newWorld(t, nil).enrol(t)
		if _, err := w.Authorize(t.Context(), c); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("self-signed with the right name", func(t *testing.T) {
		key := newKey(t)
		tmpl := &x509.Certificate{SerialNumber: cert.SerialNumber, URIs: cert.URIs, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, ExtKeyUsage: cert.ExtKeyUsage}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Authorize(t.Context(), c); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("the hub's own server certificate", func(t *testing.T) {
		conn, err := tls.Dial("tcp", w.server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := w.Authorize(t.Context(), conn.ConnectionState().PeerCertificates[0]); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("revoked, and the reason is said", func(t *testing.T) {
		if _, err := w.Revoke(t.Context(), press, "stolen from line 3"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Authorize(t.Context(), cert); !errors.Is(err, enroll.ErrRevoked) || !strings.Contains(err.Error(), "stolen from line 3") {
			t.Error(err)
		}
	})
}

func TestGuessingIsSlowedByAddressAndByDevice(t *testing.T) {
	limits := enroll.Limits{PerAddress: 3, PerDevice: 2, Window: time.Minute}
	w := newWorld(t, func(c *enroll.Config) { c.Limits = limits })
	try := func(addr string, id topic.ID, secret string) int {
		t.Helper()
		r := httptest.NewRequest("POST", enroll.Path+"simpleenroll", strings.NewReader(base64.StdEncoding.EncodeToString(request(t, newKey(t), nil))))
		r.RemoteAddr = addr
		r.Header.Set("Content-Type", "application/pkcs10")
		r.SetBasicAuth(id.String(), secret)
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, r)
		if rec.Code == 429 && rec.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		return rec.Code
	}
	secret := w.token(t)
	wrong := enroll.TokenPrefix + strings.Repeat("B", 43)
	device := func(n string) topic.ID { return topic.ID{Site: "plant", Node: n} }
	for i, step := range []struct {
		addr, secret string
		id           topic.ID
		want         int
	}{
		{"192.0.2.1:1", wrong, device("a"), 401},
		{"192.0.2.1:2", wrong, device("b"), 401},
		{"192.0.2.1:3", wrong, device("c"), 401},
		{"192.0.2.1:4", wrong, device("d"), 429},
		{"192.0.2.1:5", secret, press, 429}, // the address is out of attempts, whatever it has
		{"[2001:db8::1]:1", wrong, device("e"), 401},
		{"[2001:db8::2]:1", wrong, device("e"), 401},
		{"192.0.2.2:1", wrong, device("e"), 429}, // the device is, from anywhere
		{"[2001:db8::3]:1", wrong, device("f"), 401},
		{"[2001:db8::4]:1", wrong, device("g"), 429}, // one /64 is one address
		{"192.0.2.3:1", secret, press, 200},
	} {
		if got := try(step.addr, step.id, step.secret); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	w.pass(time.Minute)
	if got := try("192.0.2.1:6", device("d"), wrong); got != 401 {
		t.Errorf("after the window: %d, want 401", got)
	}
}

func TestTheServerCertificateRenewsItself(t *testing.T) {
	w := newWorld(t, nil)
	cfg, err := w.ca.ServerTLS([]string{"hub.example.com", "127.0.0.1"}, tls.NoClientCert)
	if err != nil {
		t.Fatal(err)
	}
	first, err := cfg.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Leaf.VerifyHostname("hub.example.com"); err != nil {
		t.Error(err)
	}
	if err := first.Leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	w.pass(enroll.ServerLifetime / 2)
	if same, _ := cfg.GetCertificate(nil); same != first {
		t.Error("renewed at half of its life")
	}
	w.pass(enroll.ServerLifetime / 4)
	if next, err := cfg.GetCertificate(nil); err != nil || next == first {
		t.Errorf("not renewed at three quarters of its life: %v", err)
	}
}

func TestTheCAIsMadeOnceAndGuarded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := enroll.OpenCA(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "ca.key")
	if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	again, err := enroll.OpenCA(dir, nil)
	if err != nil || !bytes.Equal(first.PEM(), again.PEM()) {
		t.Errorf("another CA at the second start: %v", err)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.OpenCA(dir, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.OpenCA(dir, nil); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a lost key: %v", err)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a lost key was made anew")
	}
	other := t.TempDir()
	if _, err := enroll.OpenCA(other, nil); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(other, "ca.key"))
	if err := os.WriteFile(key, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.OpenCA(dir, nil); err == nil || !strings.Contains(err.Error(), "not the key") {
		t.Errorf("a key of another CA: %v", err)
	}
}

func TestCacertsAreReadByOpenSSL(t *testing.T) {
	bin, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: apt-get install openssl")
	}
	w := newWorld(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.server.URL+enroll.Path+"cacerts", nil)
	if err != nil {
		t.Fatal(err)
	}
	code, body := w.do(t, req, nil)
	if code != 200 {
		t.Fatal(code, body)
	}
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(body))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "pkcs7", "-inform", "DER", "-print_certs")
	cmd.Stdin = bytes.NewReader(der)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, pemPart, _ := bytes.Cut(out, []byte("-----BEGIN"))
	block, _ := pem.Decode(append([]byte("-----BEGIN"), pemPart...))
	ours, _ := pem.Decode(w.ca.PEM())
	if block == nil || !bytes.Equal(block.Bytes, ours.Bytes) {
		t.Errorf("openssl read %s", out)
	}
}

func TestGrantsThatAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	for name, g := range map[string]enroll.Grant{
		"no device":     {Class: "c"},
		"no class":      {ID: press},
		"endless life":  {ID: press, Class: "c", Life: 91 * 24 * time.Hour},
		"negative life": {ID: press, Class: "c", Life: -1},
		"a huge label":  {ID: press, Class: "c", Labels: map[string]string{"k": strings.Repeat("x", 300)}},
	} {
		if _, _, err := w.NewToken(t.Context(), g); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSerialsAreOfOneLength(t *testing.T) {
	w := newWorld(t, nil)
	c, _ := w.enrol(t)
	if n := len(c.SerialNumber.Text(16)); n != 32 || c.SerialNumber.Cmp(new(big.Int).Lsh(big.NewInt(1), 127)) >= 0 {
		t.Errorf("serial %x", c.SerialNumber)
	}
}
