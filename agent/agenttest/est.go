package agenttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"time"
)

// authority is a CA with the EST paths an agent uses.
type authority struct {
	hub  *Hub
	key  *ecdsa.PrivateKey
	cert *x509.Certificate

	mu     sync.Mutex
	used   bool
	issued int
	life   time.Duration // of the certificates it gives out; 0: an hour
}

func newAuthority(h *Hub) *authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return &authority{hub: h, key: key, cert: must(x509.ParseCertificate(der))}
}

// configure gives the server a certificate of the authority.
func (a *authority) configure(s *httptest.Server) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, &key.PublicKey, a.key))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}
}

func (a *authority) handle(mux *http.ServeMux) {
	mux.HandleFunc("GET /.well-known/est/cacerts", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, a.cert.Raw) })
	mux.HandleFunc("POST /.well-known/est/simpleenroll", func(w http.ResponseWriter, r *http.Request) {
		id, token, _ := r.BasicAuth()
		a.mu.Lock()
		ok := id == a.hub.ID.String() && token == a.hub.Token && !a.used
		a.used = a.used || ok
		a.mu.Unlock()
		if !ok {
			http.Error(w, "token is not valid", http.StatusUnauthorized)
			return
		}
		a.certify(w, r)
	})
	mux.HandleFunc("POST /.well-known/est/simplereenroll", func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != a.hub.ID.String() {
			http.Error(w, "no certificate", http.StatusForbidden)
			return
		}
		a.certify(w, r)
	})
}

// Certificates sets how long certificates given out from now on live. A life
// below 0 has ended already.
func (h *Hub) Certificates(life time.Duration) {
	h.est.mu.Lock()
	defer h.est.mu.Unlock()
	h.est.life = life
}

// NewToken makes h.Token work once more.
func (h *Hub) NewToken() {
	h.est.mu.Lock()
	defer h.est.mu.Unlock()
	h.est.used = false
}

// Issued is how many certificates the hub has given out.
func (h *Hub) Issued() int {
	h.est.mu.Lock()
	defer h.est.mu.Unlock()
	return h.est.issued
}

func (a *authority) certify(w http.ResponseWriter, r *http.Request) {
	b := must(io.ReadAll(io.LimitReader(r.Body, 64<<10)))
	der, err := base64.StdEncoding.DecodeString(string(b))
	if err == nil {
		var csr *x509.CertificateRequest
		if csr, err = x509.ParseCertificateRequest(der); err == nil {
			if err = csr.CheckSignature(); err == nil {
				a.mu.Lock()
				a.issued++
				serial := int64(100 + a.issued)
				life := a.life
				a.mu.Unlock()
				if life == 0 {
					// Begun an hour ago, its middle is far ahead: renewals are for the
					// tests that ask for a short life.
					life = 24 * time.Hour
				}
				a.answer(w, must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
					SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: a.hub.ID.String()},
					URIs:      []*url.URL{{Scheme: "swell", Opaque: "device:" + a.hub.ID.Site + ":" + a.hub.ID.Node}},
					NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
					ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
				}, a.cert, csr.PublicKey, a.key)))
				return
			}
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// answer writes a certs-only PKCS #7.
func (a *authority) answer(w http.ResponseWriter, cert []byte) {
	element := func(class, tag int, parts ...[]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return must(asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: all}))
	}
	oid := func(last int) []byte { return must(asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, last})) }
	signed := element(0, asn1.TagSequence, must(asn1.Marshal(1)), element(0, asn1.TagSet), element(0, asn1.TagSequence, oid(1)),
		element(asn1.ClassContextSpecific, 0, cert), element(0, asn1.TagSet))
	p7 := element(0, asn1.TagSequence, oid(2), element(asn1.ClassContextSpecific, 0, signed))
	w.Header().Set("Content-Type", "application/pkcs7-mime")
	_, _ = io.WriteString(w, base64.StdEncoding.EncodeToString(p7)) // the device went away
}

// Certify returns certificate and key in PEM for a server or client of the
// test's own, called name, at 127.0.0.1.
func (h *Hub) Certify(name string) (certificate, privateKey []byte) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, h.est.cert, &key.PublicKey, h.est.key))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
}
