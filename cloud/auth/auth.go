// Package auth knows the people of a hub and the programs that act for them:
// local users with roles, sessions of browsers, and API tokens.
//
// The parties are a person at the console, a program with a token, and whoever
// holds the hub's database or disk. The package promises that none of the
// secrets it hands out (password, session cookie, API token) can be read back
// from the store: passwords are kept as Argon2id hashes, the random ones as
// SHA-256 sums. Guessing is slowed per address and per user, and hashing never
// takes more memory than its bound. Devices are not people: see package enroll.
//
// Package api and the hub's composition root import it; package store
// implements Store.
package auth

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Role says what a person may do. Each may do what the one before it may.
type Role string

// The roles, weakest first. The empty role may do nothing.
const (
	Viewer   Role = "viewer"   // looks
	Operator Role = "operator" // starts, pauses and ends rollouts and training, enrols devices
	Approver Role = "approver" // lets a wave pass by a person's word
	Admin    Role = "admin"    // users and retirement of devices
)

func (r Role) rank() int {
	switch r {
	case Viewer:
		return 1
	case Operator:
		return 2
	case Approver:
		return 3
	case Admin:
		return 4
	}
	return 0
}

// Allows reports whether r is need or stronger. No role allows an unknown need.
func (r Role) Allows(need Role) bool { return need.rank() > 0 && r.rank() >= need.rank() }

// Validate reports a role that is not one of the four.
func (r Role) Validate() error {
	if r.rank() == 0 {
		return fmt.Errorf("role %q: use viewer, operator, approver or admin", string(r))
	}
	return nil
}

// weaker returns the lower of two roles.
func weaker(a, b Role) Role {
	if a.rank() < b.rank() {
		return a
	}
	return b
}

// User is one person, without secrets.
type User struct {
	Name        string
	Role        Role
	CreatedAt   time.Time // UTC
	LastLoginAt time.Time // zero: never
}

// Token is one API token, without its secret.
type Token struct {
	ID         string
	User       string
	Name       string // what it is for
	Role       Role   // what it was given; the user's own role caps it
	CreatedAt  time.Time
	ExpiresAt  time.Time
	LastUsedAt time.Time // to the minute; zero: never
}

// Principal is who a request acts for.
type Principal struct {
	User      string
	Role      Role
	TokenID   string    // empty for a session
	CSRF      string    // what a browser must send with writes; empty for a token
	ExpiresAt time.Time // of the session or token
}

// Actor names the principal in the audit log: "user:ada" or "token:4f1c…".
func (p Principal) Actor() string {
	if p.TokenID != "" {
		return "token:" + p.TokenID
	}
	return "user:" + p.User
}

// Errors a caller branches on.
var (
	// ErrNotFound means that no such user, session or token exists.
	ErrNotFound = errors.New("not found")
	// ErrExists means that a user of this name exists already.
	ErrExists = errors.New("exists already")
	// ErrLastAdmin means that the change would leave no admin.
	ErrLastAdmin = errors.New("the last admin must stay one: make another user admin first")
	// ErrDenied means that the credentials are wrong, expired or revoked. It
	// does not say which.
	ErrDenied = errors.New("not accepted")
	// ErrForbidden means that the person is known and may not do this.
	ErrForbidden = errors.New("not allowed")
)

// TooMany means that the caller has to slow down.
type TooMany struct {
	RetryAfter time.Duration // above zero
}

// Error says how long to wait.
func (e TooMany) Error() string {
	return fmt.Sprintf("too many attempts: try again in %s", e.RetryAfter.Round(time.Second))
}

// Credential is a user with its password hash, as stored.
type Credential struct {
	User
	PasswordHash string // in the PHC string format
}

// StoredSession is a session as stored: the cookie's value only as a sum.
type StoredSession struct {
	Sum       [32]byte // SHA-256 of the cookie's value
	User      string
	CreatedAt time.Time
	ExpiresAt time.Time
}

// StoredToken is an API token as stored: its secret only as a sum.
type StoredToken struct {
	Token
	Sum [32]byte // SHA-256 of the secret
}

// Store keeps what the package needs across restarts. Every method is atomic
// and durable on return; a missing object is ErrNotFound. Users are listed by
// name, tokens by id; both start after the given one and stop at limit.
type Store interface {
	CreateUser(ctx context.Context, c Credential) error // ErrExists
	User(ctx context.Context, name string) (Credential, error)
	Users(ctx context.Context, after string, limit int) ([]User, error)
	// SetRole and DeleteUser answer ErrLastAdmin rather than leave no admin.
	SetRole(ctx context.Context, name string, r Role) error
	DeleteUser(ctx context.Context, name string) error // with sessions and tokens
	// SetPassword ends every session of the user.
	SetPassword(ctx context.Context, name, hash string) error
	TouchLogin(ctx context.Context, name string, at time.Time) error

	CreateSession(ctx context.Context, s StoredSession) error
	Session(ctx context.Context, sum [32]byte) (StoredSession, error)
	DeleteSession(ctx context.Context, sum [32]byte) error
	DeleteExpiredSessions(ctx context.Context, now time.Time) error

	CreateToken(ctx context.Context, t StoredToken) error
	Token(ctx context.Context, id string) (StoredToken, error)
	Tokens(ctx context.Context, user, after string, limit int) ([]Token, error) // user "" means everybody's
	DeleteToken(ctx context.Context, id string) error
	TouchToken(ctx context.Context, id string, at time.Time) error
}
