// Package enroll gives devices their identity: a single-use token, a
// certificate for it, its renewal and its end.
//
// The parties are an operator, who makes a token for one device; the device,
// which shows the token once and a key of its own, and gets a certificate that
// lives a week; the hub's certificate authority (CA), made at first start; and
// the listeners of the hub, which ask Authorize about each certificate shown to
// them. The paths are those of RFC 7030 (Enrollment over Secure Transport).
//
// It promises: a token is kept only as its SHA-256, works once and for one
// device; the identity in a certificate comes from the token or from the
// certificate being renewed, never from the request; only ECDSA P-256 keys are
// certified; a revoked certificate is refused at the next connection and can
// not be renewed, even by a renewal under way at that moment.
//
// It leaves to others: ending the sessions of a revoked device
// (broker.Broker.Kick), and what class and labels mean.
//
// cloud packages may import it.
package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// TokenPrefix starts every enrolment token, so that secret scanners find one
// that was left where it should not be.
const TokenPrefix = "swt_"

// Bounds on what a grant may hold.
const (
	MaxLabels     = 32
	MaxLabelBytes = 256 // of a label's key and value together
	MaxTokenLife  = 90 * 24 * time.Hour
)

// Config says how devices are enrolled.
type Config struct {
	CA    *CA   // required
	Store Store // required

	Lifetime time.Duration    // of a device certificate; default 7 days
	Now      func() time.Time // default time.Now

	// Audit records what happened before it takes effect; an error keeps it from
	// happening. action is enrol-token, enrol-token-void, enrol, renew or
	// revoke, object the device. nil records nothing.
	Audit func(ctx context.Context, action, object, reason string) error
	// Enrolled is told of each device that got a certificate by token, before the
	// device gets it; an error keeps the certificate back (the device asks again).
	// nil tells nobody.
	Enrolled func(ctx context.Context, t Token, c Certificate) error

	Limits Limits
	Log    *slog.Logger // nil discards
}

// Service enrols devices.
type Service struct {
	cfg    Config
	limits *limiter
}

// New checks cfg and returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.CA == nil || cfg.Store == nil {
		return nil, errors.New("enroll: a CA and a store are required")
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = 7 * 24 * time.Hour
	}
	if cfg.Lifetime < time.Minute || cfg.Lifetime > 398*24*time.Hour {
		return nil, fmt.Errorf("enroll: certificate lifetime %v: want a minute to 398 days", cfg.Lifetime)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Audit == nil {
		cfg.Audit = func(context.Context, string, string, string) error { return nil }
	}
	if cfg.Enrolled == nil {
		cfg.Enrolled = func(context.Context, Token, Certificate) error { return nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, limits: newLimiter(cfg.Limits)}, nil
}

func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Second) }

// Grant is what a new token allows.
type Grant struct {
	ID     topic.ID
	Class  artifact.Class
	Labels map[string]string
	Life   time.Duration // default 24 h, at most MaxTokenLife
	Actor  string        // who makes it
}

// NewToken makes a token. The secret is returned here and nowhere else.
func (s *Service) NewToken(ctx context.Context, g Grant) (secret string, t Token, err error) {
	if err := g.ID.Validate(); err != nil {
		return "", t, fmt.Errorf("cannot make a token: %w", err)
	}
	if g.Class == "" {
		return "", t, fmt.Errorf("cannot make a token for %s: it needs a device class", g.ID)
	}
	if g.Life == 0 {
		g.Life = 24 * time.Hour
	}
	if g.Life < 0 || g.Life > MaxTokenLife {
		return "", t, fmt.Errorf("cannot make a token for %s: its life must be between 0 and %v", g.ID, MaxTokenLife)
	}
	if len(g.Labels) > MaxLabels {
		return "", t, fmt.Errorf("cannot make a token for %s: more than %d labels", g.ID, MaxLabels)
	}
	for k, v := range g.Labels {
		if k == "" || len(k)+len(v) > MaxLabelBytes {
			return "", t, fmt.Errorf("cannot make a token for %s: label %.40q is empty or longer than %d bytes", g.ID, k, MaxLabelBytes)
		}
	}
	b := make([]byte, 32)
	rand.Read(b) // never fails
	secret = TokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	now := s.now()
	t = Token{
		Hash: sha256.Sum256([]byte(secret)), ID: g.ID, Class: g.Class, Labels: maps.Clone(g.Labels),
		Actor: g.Actor, Created: now, Expires: now.Add(g.Life),
	}
	if err := s.cfg.Audit(ctx, "enrol-token", g.ID.String(), "made by "+g.Actor); err != nil {
		return "", Token{}, fmt.Errorf("cannot make a token for %s: %w", g.ID, err)
	}
	if err := s.cfg.Store.AddToken(ctx, t); err != nil {
		return "", Token{}, fmt.Errorf("cannot make a token for %s: %w", g.ID, err)
	}
	return secret, t, nil
}

// Tokens returns all tokens, newest first.
func (s *Service) Tokens(ctx context.Context) ([]Token, error) { return s.cfg.Store.Tokens(ctx) }

// VoidToken withdraws an unused token.
func (s *Service) VoidToken(ctx context.Context, hash Hash, reason string) error {
	t, err := s.cfg.Store.Token(ctx, hash)
	if err == nil {
		err = s.cfg.Audit(ctx, "enrol-token-void", t.ID.String(), reason)
	}
	if err == nil {
		err = s.cfg.Store.VoidToken(ctx, hash, s.now())
	}
	if err != nil {
		return fmt.Errorf("cannot withdraw the token: %w", err)
	}
	return nil
}

// Revoke ends the identity of a device: its certificates are refused from the
// next connection on, and its unused tokens are withdrawn. It returns how many
// certificates were revoked. Its sessions are the caller's to end.
func (s *Service) Revoke(ctx context.Context, id topic.ID, reason string) (int, error) {
	if err := s.cfg.Audit(ctx, "revoke", id.String(), reason); err != nil {
		return 0, fmt.Errorf("cannot revoke %s: %w", id, err)
	}
	n, err := s.cfg.Store.Revoke(ctx, id, s.now(), reason)
	if err != nil {
		return 0, fmt.Errorf("cannot revoke %s: %w", id, err)
	}
	return n, nil
}

// Certificates returns what was issued to id, newest first.
func (s *Service) Certificates(ctx context.Context, id topic.ID) ([]Certificate, error) {
	return s.cfg.Store.Certificates(ctx, id)
}

// Trim forgets tokens and certificates that ended more than a day ago. Call it
// now and then.
func (s *Service) Trim(ctx context.Context) error {
	return s.cfg.Store.Trim(ctx, s.now().Add(-24*time.Hour))
}

// Authorize returns the device that a certificate names, or why it is refused:
// foreign, expired, not for a client, unknown to the store, or revoked. Ask it
// once per connection.
func (s *Service) Authorize(ctx context.Context, cert *x509.Certificate) (topic.ID, error) {
	id, err := s.cfg.CA.identity(cert)
	if err != nil {
		return topic.ID{}, err
	}
	c, err := s.cfg.Store.Certificate(ctx, cert.SerialNumber.Text(16))
	if err != nil {
		return topic.ID{}, fmt.Errorf("certificate of %s: %w", id, err)
	}
	if !c.Revoked.IsZero() {
		return topic.ID{}, fmt.Errorf("certificate of %s: %w (%s); enrol the device again with a new token if it should return", id, ErrRevoked, c.Reason)
	}
	if c.ID != id || c.Key != keyHash(cert) {
		return topic.ID{}, fmt.Errorf("certificate of %s is not the one that was issued under its serial", id)
	}
	return id, nil
}

// ErrRequest is the error of a certificate request that is malformed or has a
// key that is not accepted.
var ErrRequest = errors.New("certificate request is not acceptable")

// maxCSR bounds a request in bytes; one with a P-256 key has some 250.
const maxCSR = 16 << 10

// requestKey checks a PKCS #10 request and returns its key, the only thing
// that is taken from it.
func requestKey(der []byte) (*ecdsa.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key must be ECDSA P-256", ErrRequest)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: its signature does not prove possession of the key: %w", ErrRequest, err)
	}
	return key, nil
}

// enrol exchanges a token for a certificate.
func (s *Service) enrol(ctx context.Context, id topic.ID, secret string, csr []byte) (*x509.Certificate, error) {
	if !strings.HasPrefix(secret, TokenPrefix) || len(secret) > 128 {
		return nil, ErrTokenUnknown
	}
	hash := Hash(sha256.Sum256([]byte(secret)))
	t, err := s.cfg.Store.Token(ctx, hash)
	if err != nil {
		return nil, err
	}
	// The store found it by an index; the comparison that decides takes the same
	// time whatever it found.
	if subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1 || t.ID != id {
		return nil, ErrTokenUnknown
	}
	key, err := requestKey(csr)
	if err != nil {
		return nil, err
	}
	cert, record, err := s.cfg.CA.issue(t.ID, key, s.cfg.Lifetime)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Audit(ctx, "enrol", id.String(), "token of "+t.Actor+", serial "+record.Serial); err != nil {
		return nil, err
	}
	if err := s.cfg.Store.Redeem(ctx, hash, record, s.now()); err != nil {
		return nil, err
	}
	if err := s.cfg.Enrolled(ctx, t, record); err != nil {
		return nil, err
	}
	s.cfg.Log.Info("device enrolled", "device", id.String(), "class", string(t.Class), "serial", record.Serial)
	return cert, nil
}

// renew gives the holder of parent, already authorized as id, a new
// certificate.
func (s *Service) renew(ctx context.Context, id topic.ID, parent *x509.Certificate, csr []byte) (*x509.Certificate, error) {
	key, err := requestKey(csr)
	if err != nil {
		return nil, err
	}
	cert, record, err := s.cfg.CA.issue(id, key, s.cfg.Lifetime)
	if err != nil {
		return nil, err
	}
	record.Parent = parent.SerialNumber.Text(16)
	if err := s.cfg.Audit(ctx, "renew", id.String(), "serial "+record.Parent+" by "+record.Serial); err != nil {
		return nil, err
	}
	if err := s.cfg.Store.Renew(ctx, record); err != nil {
		return nil, err
	}
	s.cfg.Log.Info("device certificate renewed", "device", id.String(), "serial", record.Serial)
	return cert, nil
}
