package enroll

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/swellfleet/swell/protocol/topic"
)

// Path is where RFC 7030 puts the handlers.
const Path = "/.well-known/est/"

// Handler serves the EST paths below Path:
//
//	GET  cacerts         the CA, for everybody
//	POST simpleenroll    HTTP Basic: user SITE/NODE, password = the token
//	POST simplereenroll  with the device's certificate on the TLS connection
//
// Its listener needs TLS with tls.VerifyClientCertIfGiven. Bodies of requests
// are base64 PKCS #10, answers base64 PKCS #7 "certs-only"; errors are one line
// of text.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"cacerts", s.cacerts)
	mux.HandleFunc("POST "+Path+"simpleenroll", s.simpleenroll)
	mux.HandleFunc("POST "+Path+"simplereenroll", s.simplereenroll)
	return mux
}

func (s *Service) cacerts(w http.ResponseWriter, r *http.Request) {
	s.answer(w, s.cfg.CA.cert)
}

func (s *Service) simpleenroll(w http.ResponseWriter, r *http.Request) {
	user, secret, ok := r.BasicAuth()
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="swell enrolment", charset="UTF-8"`)
		http.Error(w, "enrol with the device's SITE/NODE as user and its token as password", http.StatusUnauthorized)
		return
	}
	addr, device := address(r), clip(user)
	if wait := s.limits.wait(s.cfg.Now(), addr, device); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		http.Error(w, "too many failed attempts; try again later", http.StatusTooManyRequests)
		return
	}
	id, err := topic.ParseID(user)
	var csr []byte
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrTokenUnknown, err)
	} else {
		csr, err = request(w, r)
	}
	var cert *x509.Certificate
	if err == nil {
		cert, err = s.enrol(r.Context(), id, secret, csr)
	}
	if err != nil {
		if status(err) == http.StatusUnauthorized {
			s.limits.failed(s.cfg.Now(), addr, device)
		}
		s.refuse(w, r, device, err)
		return
	}
	s.answer(w, cert)
}

func (s *Service) simplereenroll(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "renewal needs the device's certificate on the connection; a device without a valid one enrols again with a new token", http.StatusUnauthorized)
		return
	}
	parent := r.TLS.PeerCertificates[0]
	id, err := s.Authorize(r.Context(), parent)
	if err != nil {
		s.refuse(w, r, clip(parent.Subject.CommonName), err)
		return
	}
	csr, err := request(w, r)
	var cert *x509.Certificate
	if err == nil {
		cert, err = s.renew(r.Context(), id, parent, csr)
	}
	if err != nil {
		s.refuse(w, r, id.String(), err)
		return
	}
	s.answer(w, cert)
}

// request reads the body: base64 of DER, with or without line breaks.
func request(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/pkcs10" {
		return nil, fmt.Errorf("%w: the content type must be application/pkcs10", ErrRequest)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCSR))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	// The decoder passes over CR and LF by itself.
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%w: its body is not base64", ErrRequest)
	}
	return der, nil
}

func (s *Service) answer(w http.ResponseWriter, cert *x509.Certificate) {
	der, err := certsOnly(cert)
	if err != nil {
		s.cfg.Log.Error("cannot encode a certificate", "error", err)
		http.Error(w, "the hub cannot answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
	w.Header().Set("Content-Transfer-Encoding", "base64")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, base64.StdEncoding.EncodeToString(der)+"\n")
}

// refuse answers and logs. What the device hears about a token does not tell a
// guesser from a latecomer; the log does.
func (s *Service) refuse(w http.ResponseWriter, r *http.Request, device string, err error) {
	s.cfg.Log.Warn("enrolment refused", "device", device, "remote", r.RemoteAddr, "path", r.URL.Path, "error", err)
	switch status(err) {
	case http.StatusUnauthorized:
		http.Error(w, "the token is not valid for this device: it is wrong, used, expired or withdrawn; ask for a new one", http.StatusUnauthorized)
	case http.StatusForbidden:
		http.Error(w, "the device's certificate is not accepted: "+err.Error(), http.StatusForbidden)
	case http.StatusBadRequest:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		w.Header().Set("Retry-After", "60")
		http.Error(w, "the hub cannot enrol devices at the moment; try again", http.StatusServiceUnavailable)
	}
}

func status(err error) int {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case is(ErrTokenUnknown, ErrTokenUsed, ErrTokenExpired, ErrTokenVoid):
		return http.StatusUnauthorized
	case is(ErrRevoked, ErrCertificateUnknown), errors.As(err, &invalid), errors.As(err, &unknown):
		return http.StatusForbidden
	case is(ErrRequest):
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// address is who a request is counted against: an IPv4 address, or the /64 that
// an IPv6 host picks its addresses from.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip := net.ParseIP(host)
	if ip == nil || ip.To4() != nil {
		return host
	}
	return ip.Mask(net.CIDRMask(64, 128)).String()
}

func clip(s string) string { return s[:min(len(s), 2*topic.MaxNameLen+1)] }
