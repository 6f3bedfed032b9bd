package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// How long certificates live. A certificate starts Backdate before it was
// signed, for devices whose clock is a little behind.
const (
	CALifetime     = 10 * 365 * 24 * time.Hour
	ServerLifetime = 30 * 24 * time.Hour
	Backdate       = 10 * time.Minute
)

// CA signs the certificates of devices and of the hub's listeners for devices.
// Its key is an ECDSA P-256 key in a file that only the hub's user can read.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	now  func() time.Time
}

// OpenCA reads ca.pem and ca.key in dir, or makes them there (and dir) at first
// start. One without the other is an error: a new pair would lock out every
// enrolled device.
func OpenCA(dir string, now func() time.Time) (*CA, error) {
	if now == nil {
		now = time.Now
	}
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	certPEM, certErr := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		ca, err := makeCA(certFile, keyFile, now)
		if err != nil {
			return nil, fmt.Errorf("make device CA in %s: %w", dir, err)
		}
		return ca, nil
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("open device CA: %w; restore both ca.pem and ca.key from the backup (a new pair would lock out every enrolled device)", err)
	}
	st, err := os.Stat(keyFile)
	if err != nil {
		return nil, fmt.Errorf("open device CA: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("open device CA: %s is readable by others (mode %o); run chmod 600 on it", keyFile, st.Mode().Perm())
	}
	ca, err := parseCA(certPEM, keyPEM, now)
	if err != nil {
		return nil, fmt.Errorf("open device CA in %s: %w", dir, err)
	}
	return ca, nil
}

func parseCA(certPEM, keyPEM []byte, now func() time.Time) (*CA, error) {
	cb, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if cb == nil || kb == nil {
		return nil, errors.New("a file holds no PEM block")
	}
	cert, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("ca.pem: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("ca.key: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("ca.key is not the key of ca.pem")
	}
	if !cert.IsCA || now().After(cert.NotAfter) {
		return nil, fmt.Errorf("ca.pem is no CA certificate, or ended on %s", cert.NotAfter.Format(time.DateOnly))
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &CA{cert: cert, key: key, pool: pool, now: now}, nil
}

func makeCA(certFile, keyFile string, now func() time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, serial := newSerial()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Swell device CA"},
		NotBefore:             now().Add(-24 * time.Hour),
		NotAfter:              now().Add(CALifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return nil, err
	}
	// The key first: a crash between leaves a key without a certificate, which
	// OpenCA reports, and never a certificate that nobody can sign for.
	if err := writeDurable(keyFile, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := writeDurable(certFile, certPEM, 0o644); err != nil {
		return nil, err
	}
	return parseCA(certPEM, keyPEM, now)
}

func writeDurable(name string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// newSerial returns 128 random bits, as the store writes them and as a
// certificate holds them.
func newSerial() (string, *big.Int) {
	b := make([]byte, 16)
	rand.Read(b)   // never fails
	b[0] &= 0x7f   // positive in DER
	b[0] |= 1 << 6 // and of one length
	n := new(big.Int).SetBytes(b)
	return n.Text(16), n
}

// PEM returns the CA's certificate, for devices to trust.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// ServerTLS returns the TLS configuration of a listener for devices. names are
// its DNS names and IP addresses. Its certificate is made in memory and replaced
// when two thirds of its life are over. clientAuth says what is asked of
// clients; their certificates must be of this CA.
func (ca *CA) ServerTLS(names []string, clientAuth tls.ClientAuthType) (*tls.Config, error) {
	s := &serverCert{ca: ca, names: names}
	if _, err := s.get(nil); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.get,
		ClientAuth:     clientAuth,
		ClientCAs:      ca.pool,
		Time:           ca.now,
	}, nil
}

type serverCert struct {
	ca    *CA
	names []string

	mu   sync.Mutex
	cert *tls.Certificate
}

func (s *serverCert) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.ca.now()
	if s.cert != nil && now.Before(s.cert.Leaf.NotAfter.Add(-ServerLifetime/3)) {
		return s.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, serial := newSerial()
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Swell hub"},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.Add(ServerLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range s.names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, s.ca.cert, &key.PublicKey, s.ca.key)
	if err != nil {
		return nil, fmt.Errorf("make server certificate for %v: %w", s.names, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	s.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return s.cert, nil
}

// uriPrefix starts the URI that carries a device's identity.
const uriPrefix = "swell:device:"

// issue signs a client certificate for id. Nothing of a request reaches it but
// the key.
func (ca *CA) issue(id topic.ID, key *ecdsa.PublicKey, lifetime time.Duration) (*x509.Certificate, Certificate, error) {
	now := ca.now().UTC().Truncate(time.Second)
	text, serial := newSerial()
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.String()},
		URIs:         []*url.URL{{Scheme: "swell", Opaque: "device:" + id.Site + ":" + id.Node}},
		NotBefore:    now.Add(-Backdate),
		NotAfter:     now.Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if tmpl.NotAfter.After(ca.cert.NotAfter) {
		return nil, Certificate{}, fmt.Errorf("the device CA ends on %s, before the certificate would; make a new CA", ca.cert.NotAfter.Format(time.DateOnly))
	}
	// x509 refuses a CommonName above 64 bytes in no place, but others do; the
	// URI is what counts.
	if len(tmpl.Subject.CommonName) > 64 {
		tmpl.Subject.CommonName = ""
		tmpl.Subject.SerialNumber = id.Node
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key, ca.key)
	if err != nil {
		return nil, Certificate{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Certificate{}, err
	}
	return cert, Certificate{Serial: text, ID: id, Key: keyHash(cert), Issued: now, NotAfter: tmpl.NotAfter}, nil
}

func keyHash(c *x509.Certificate) Hash { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// identity reads the device from a certificate, after checking that this CA
// signed it for a client and that it is valid now.
func (ca *CA) identity(c *x509.Certificate) (topic.ID, error) {
	_, err := c.Verify(x509.VerifyOptions{
		Roots: ca.pool, CurrentTime: ca.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return topic.ID{}, fmt.Errorf("device certificate: %w", err)
	}
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 {
		return topic.ID{}, errors.New("device certificate: want exactly one name, a swell:device URI")
	}
	rest, ok := strings.CutPrefix(c.URIs[0].String(), uriPrefix)
	site, node, two := strings.Cut(rest, ":")
	id := topic.ID{Site: site, Node: node}
	if !ok || !two {
		return topic.ID{}, fmt.Errorf("device certificate: %q is no swell:device URI", c.URIs[0])
	}
	if err := id.Validate(); err != nil {
		return topic.ID{}, fmt.Errorf("device certificate: %w", err)
	}
	return id, nil
}
