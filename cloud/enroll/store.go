package enroll

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// The errors of a Store that callers branch on. A Store may wrap them.
var (
	ErrTokenUnknown       = errors.New("enrolment token is unknown")
	ErrTokenUsed          = errors.New("enrolment token was used already")
	ErrTokenExpired       = errors.New("enrolment token has expired")
	ErrTokenVoid          = errors.New("enrolment token was withdrawn")
	ErrRevoked            = errors.New("certificate is revoked")
	ErrCertificateUnknown = errors.New("certificate is unknown")
)

// Hash is the SHA-256 of a secret or key; tokens are kept by it alone.
type Hash [32]byte

// String returns the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Token is a promise to enrol one device once. The secret itself is shown when
// it is made and never kept.
type Token struct {
	Hash    Hash
	ID      topic.ID          // the device that may use it
	Class   artifact.Class    // what the device will be; handed on at enrolment
	Labels  map[string]string // free labels for the fleet; nil = none
	Actor   string            // who made it
	Created time.Time
	Expires time.Time
	Void    time.Time // when it was withdrawn; zero = it was not
	Used    time.Time // when it was first redeemed; zero = never
	Serial  string    // of the certificate it was last redeemed for; empty = unused
	Key     Hash      // of the public key it was redeemed for (SHA-256 of its SubjectPublicKeyInfo); zero = unused
}

// Certificate records one certificate that was issued to a device.
type Certificate struct {
	Serial   string // lower-case hex, no leading zeros; unique
	ID       topic.ID
	Key      Hash      // SHA-256 of the SubjectPublicKeyInfo
	Parent   string    // serial of the certificate it renews; empty = by token
	Issued   time.Time // when it was signed
	NotAfter time.Time
	Revoked  time.Time // zero = it is not
	Reason   string    // why it was revoked
}

// Store keeps tokens and certificates. Times are kept to the second or finer,
// in UTC. All methods may be called at the same time, by several hubs. Each
// store passes enrolltest.Exercise.
type Store interface {
	// AddToken keeps a new token.
	AddToken(ctx context.Context, t Token) error
	// Token returns the token with that hash, or ErrTokenUnknown.
	Token(ctx context.Context, hash Hash) (Token, error)
	// Tokens returns all tokens, newest first.
	Tokens(ctx context.Context) ([]Token, error)
	// VoidToken withdraws a token that was not used: ErrTokenUnknown, or
	// ErrTokenUsed. Doing it twice is no error and keeps the first time.
	VoidToken(ctx context.Context, hash Hash, at time.Time) error
	// Redeem, in one transaction, checks that the token can be used at now and
	// records cert as what it was used for. The checks, in this order:
	// ErrTokenUnknown; ErrTokenVoid; ErrTokenExpired when now is not before
	// Expires; when it was used, ErrTokenUsed unless cert.Key is the key it was
	// used for (an answer lost on the way may be asked for again by the holder
	// of that private key), and then ErrRevoked when the certificate Serial
	// names is revoked. Used keeps the first time.
	Redeem(ctx context.Context, hash Hash, cert Certificate, now time.Time) error
	// Renew, in one transaction, records cert unless the certificate named by
	// cert.Parent is revoked (ErrRevoked) or unknown (ErrCertificateUnknown).
	Renew(ctx context.Context, cert Certificate) error
	// Revoke, in one transaction, marks every certificate of id that is not
	// revoked yet as revoked, withdraws its unused tokens, and returns how many
	// certificates it marked.
	Revoke(ctx context.Context, id topic.ID, at time.Time, reason string) (int, error)
	// Certificate returns the certificate with that serial, or
	// ErrCertificateUnknown.
	Certificate(ctx context.Context, serial string) (Certificate, error)
	// Certificates returns what was issued to id, newest first.
	Certificates(ctx context.Context, id topic.ID) ([]Certificate, error)
	// Trim forgets certificates and tokens that expired before t.
	Trim(ctx context.Context, t time.Time) error
}
