package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
)

// Config of a Service. The zero value works.
type Config struct {
	SessionTTL   time.Duration // of a browser's session, from login; 0 means 12 h
	TokenTTL     time.Duration // of an API token that asks for none; 0 means 90 days
	MaxTokenTTL  time.Duration // 0 means 1 year
	Hashes       int           // passwords hashed at the same time, 19 MiB each; 0 means 2
	PasswordFile string        // where the first admin's password is kept until it is changed; empty: nowhere
	Now          func() time.Time
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.SessionTTL, 12*time.Hour)
	def(&c.TokenTTL, 90*24*time.Hour)
	def(&c.MaxTokenTTL, 365*24*time.Hour)
	if c.Hashes == 0 {
		c.Hashes = 2
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Limits on logins: enough for a person who mistypes, far too few to guess.
const (
	attemptsPerAddress = 20
	addressRefill      = 3 * time.Second
	attemptsPerUser    = 10
	userRefill         = 6 * time.Second
	limitedKeys        = 10_000
	hashWait           = 3 * time.Second
)

// Service answers who somebody is. It is safe for concurrent use.
type Service struct {
	cfg     Config
	store   Store
	hash    *hasher
	address *Limiter
	user    *Limiter

	mu      sync.Mutex
	touched map[string]time.Time // token id → last time LastUsedAt was stored; bounded by maxTouched
	swept   time.Time            // when expired sessions were last removed
}

const maxTouched = 10_000

// New returns a Service over store.
func New(cfg Config, store Store) *Service {
	cfg = cfg.withDefaults()
	return &Service{
		cfg: cfg, store: store,
		hash:    newHasher(cfg.Hashes, hashWait),
		address: NewLimiter(addressRefill, attemptsPerAddress, limitedKeys),
		user:    NewLimiter(userRefill, attemptsPerUser, limitedKeys),
		touched: map[string]time.Time{},
	}
}

// Login checks a password and starts a session. remote is the caller's
// host:port. It returns the cookie's value, which is stored nowhere. A wrong
// user and a wrong password are the same ErrDenied and take the same time;
// TooMany says when to try again.
func (s *Service) Login(ctx context.Context, remote, user, password string) (cookie string, p Principal, err error) {
	now := s.cfg.Now()
	if wait := s.address.Take(AddressKey(remote), now); wait > 0 {
		return "", Principal{}, TooMany{RetryAfter: wait}
	}
	if wait := s.user.Take(user, now); wait > 0 {
		return "", Principal{}, TooMany{RetryAfter: wait}
	}
	if len(password) > MaxPasswordLen {
		return "", Principal{}, ErrDenied
	}
	var c Credential
	err = ErrNotFound
	if ValidUserName(user) == nil { // what cannot be a name never reaches the store
		c, err = s.store.User(ctx, user)
	}
	known := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", Principal{}, fmt.Errorf("log in %s: %w", user, err)
	}
	if !known {
		c.PasswordHash = unknownUser
	}
	ok, err := s.hash.matches(ctx, password, c.PasswordHash)
	if err != nil {
		return "", Principal{}, fmt.Errorf("log in %s: %w", user, err)
	}
	if !ok || !known {
		return "", Principal{}, ErrDenied
	}
	cookie = secret()
	ss := StoredSession{Sum: sha256.Sum256([]byte(cookie)), User: user, CreatedAt: now.UTC(), ExpiresAt: now.Add(s.cfg.SessionTTL).UTC()}
	if err := s.store.CreateSession(ctx, ss); err != nil {
		return "", Principal{}, fmt.Errorf("start session of %s: %w", user, err)
	}
	if err := s.store.TouchLogin(ctx, user, now.UTC()); err != nil {
		return "", Principal{}, fmt.Errorf("note login of %s: %w", user, err)
	}
	s.sweep(ctx, now)
	return cookie, Principal{User: user, Role: c.Role, CSRF: csrfOf(cookie), ExpiresAt: ss.ExpiresAt}, nil
}

// sweep removes expired sessions, at most once an hour; they are refused
// anyway, so a failure here may wait for the next time.
func (s *Service) sweep(ctx context.Context, now time.Time) {
	s.mu.Lock()
	due := now.Sub(s.swept) >= time.Hour
	if due {
		s.swept = now
	}
	s.mu.Unlock()
	if due {
		_ = s.store.DeleteExpiredSessions(ctx, now.UTC())
	}
}

// Session returns who the cookie's value belongs to, or ErrDenied.
func (s *Service) Session(ctx context.Context, cookie string) (Principal, error) {
	if cookie == "" || len(cookie) > 128 {
		return Principal{}, ErrDenied
	}
	ss, err := s.store.Session(ctx, sha256.Sum256([]byte(cookie)))
	if errors.Is(err, ErrNotFound) {
		return Principal{}, ErrDenied
	}
	if err != nil {
		return Principal{}, fmt.Errorf("look up session: %w", err)
	}
	if !s.cfg.Now().Before(ss.ExpiresAt) {
		return Principal{}, ErrDenied
	}
	u, err := s.store.User(ctx, ss.User)
	if errors.Is(err, ErrNotFound) {
		return Principal{}, ErrDenied
	}
	if err != nil {
		return Principal{}, fmt.Errorf("look up session's user %s: %w", ss.User, err)
	}
	return Principal{User: u.Name, Role: u.Role, CSRF: csrfOf(cookie), ExpiresAt: ss.ExpiresAt}, nil
}

// CheckCSRF reports whether header is the session's token. Only a page of the
// hub's own origin can have read it.
func (p Principal) CheckCSRF(header string) bool {
	return p.CSRF != "" && subtle.ConstantTimeCompare([]byte(header), []byte(p.CSRF)) == 1
}

// csrfOf derives the session's CSRF token from its cookie, so that nothing
// more needs storing; the sum tells nothing about the cookie.
func csrfOf(cookie string) string {
	sum := sha256.Sum256([]byte("swell csrf\x00" + cookie))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Logout ends the session. An unknown one is no error.
func (s *Service) Logout(ctx context.Context, cookie string) error {
	err := s.store.DeleteSession(ctx, sha256.Sum256([]byte(cookie)))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("end session: %w", err)
	}
	return nil
}

// tokenPrefix makes leaked tokens easy to find for scanners.
const tokenPrefix = "swell_"

// Bearer returns who an API token belongs to, or ErrDenied. The role is the
// token's, but never above the user's of today.
func (s *Service) Bearer(ctx context.Context, token string) (Principal, error) {
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	id, sec, ok2 := strings.Cut(rest, ".")
	if _, err := hex.DecodeString(id); !ok || !ok2 || len(token) > 128 || err != nil {
		return Principal{}, ErrDenied
	}
	t, err := s.store.Token(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Principal{}, ErrDenied
	}
	if err != nil {
		return Principal{}, fmt.Errorf("look up API token %s: %w", id, err)
	}
	sum := sha256.Sum256([]byte(sec))
	now := s.cfg.Now()
	if subtle.ConstantTimeCompare(sum[:], t.Sum[:]) != 1 || !now.Before(t.ExpiresAt) {
		return Principal{}, ErrDenied
	}
	u, err := s.store.User(ctx, t.User)
	if errors.Is(err, ErrNotFound) {
		return Principal{}, ErrDenied
	}
	if err != nil {
		return Principal{}, fmt.Errorf("look up user %s of API token %s: %w", t.User, id, err)
	}
	if s.shouldTouch(id, now) {
		if err := s.store.TouchToken(ctx, id, now.UTC().Truncate(time.Minute)); err != nil && !errors.Is(err, ErrNotFound) {
			return Principal{}, fmt.Errorf("note use of API token %s: %w", id, err)
		}
	}
	return Principal{User: u.Name, Role: weaker(t.Role, u.Role), TokenID: id, ExpiresAt: t.ExpiresAt}, nil
}

// shouldTouch keeps LastUsedAt to one write a minute and token.
func (s *Service) shouldTouch(id string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.touched[id]; ok && now.Sub(last) < time.Minute {
		return false
	}
	if len(s.touched) >= maxTouched {
		clear(s.touched)
	}
	s.touched[id] = now
	return true
}

// CreateToken makes an API token for user (empty: the caller's own). Only an
// admin may name somebody else, and nobody gives more than their own role.
// ttl 0 means Config.TokenTTL. The secret is returned once.
func (s *Service) CreateToken(ctx context.Context, by Principal, user, name string, role Role, ttl time.Duration) (Token, string, error) {
	if user == "" {
		user = by.User
	}
	if err := role.Validate(); err != nil {
		return Token{}, "", fmt.Errorf("create API token: %w", err)
	}
	if ttl == 0 {
		ttl = s.cfg.TokenTTL
	}
	switch {
	case user != by.User && !by.Role.Allows(Admin):
		return Token{}, "", fmt.Errorf("create API token for %s: %w: only an admin makes tokens for others", user, ErrForbidden)
	case !by.Role.Allows(role):
		return Token{}, "", fmt.Errorf("create API token with role %s: %w: your role is %s", role, ErrForbidden, by.Role)
	case ttl < 0 || ttl > s.cfg.MaxTokenTTL:
		return Token{}, "", fmt.Errorf("create API token: %w: it may live at most %s", ErrForbidden, s.cfg.MaxTokenTTL)
	}
	u, err := s.store.User(ctx, user)
	if err != nil {
		return Token{}, "", fmt.Errorf("create API token for %s: %w", user, err)
	}
	id := make([]byte, 8)
	rand.Read(id)
	sec, now := secret(), s.cfg.Now().UTC()
	t := StoredToken{
		Token: Token{ID: hex.EncodeToString(id), User: user, Name: name, Role: weaker(role, u.Role), CreatedAt: now, ExpiresAt: now.Add(ttl)},
		Sum:   sha256.Sum256([]byte(sec)),
	}
	if err := s.store.CreateToken(ctx, t); err != nil {
		return Token{}, "", fmt.Errorf("create API token for %s: %w", user, err)
	}
	return t.Token, tokenPrefix + t.ID + "." + sec, nil
}

// Tokens lists the caller's own tokens by id; an admin sees everybody's.
func (s *Service) Tokens(ctx context.Context, by Principal, after string, limit int) ([]Token, error) {
	user := by.User
	if by.Role.Allows(Admin) {
		user = ""
	}
	return s.store.Tokens(ctx, user, after, limit)
}

// RevokeToken deletes a token of the caller's, or anybody's for an admin.
// Somebody else's looks to others as if it did not exist.
func (s *Service) RevokeToken(ctx context.Context, by Principal, id string) error {
	t, err := s.store.Token(ctx, id)
	if err == nil && t.User != by.User && !by.Role.Allows(Admin) {
		err = ErrNotFound
	}
	if err == nil {
		err = s.store.DeleteToken(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("revoke API token %s: %w", id, err)
	}
	return nil
}

// secret returns 256 random bits as text.
func secret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// ValidUserName reports why a name cannot be a user's.
func ValidUserName(name string) error {
	if err := topic.ValidName(name); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	return nil
}
