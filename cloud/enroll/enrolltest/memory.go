package enrolltest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/protocol/topic"
)

// Memory is an enroll.Store that forgets when the process ends. The zero value
// is ready.
type Memory struct {
	mu     sync.Mutex
	tokens map[enroll.Hash]enroll.Token
	certs  map[string]enroll.Certificate
}

func copyToken(t enroll.Token) enroll.Token {
	t.Labels = maps.Clone(t.Labels)
	return t
}

// AddToken keeps t.
func (m *Memory) AddToken(_ context.Context, t enroll.Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = map[enroll.Hash]enroll.Token{}
	}
	m.tokens[t.Hash] = copyToken(t)
	return nil
}

// Token returns the token with that hash.
func (m *Memory) Token(_ context.Context, hash enroll.Hash) (enroll.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.tokens[hash]
	if !ok {
		return enroll.Token{}, enroll.ErrTokenUnknown
	}
	return copyToken(t), nil
}

// Tokens returns all tokens, newest first.
func (m *Memory) Tokens(context.Context) ([]enroll.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ts []enroll.Token
	for _, t := range m.tokens {
		ts = append(ts, copyToken(t))
	}
	slices.SortFunc(ts, func(a, b enroll.Token) int { return b.Created.Compare(a.Created) })
	return ts, nil
}

// VoidToken withdraws an unused token.
func (m *Memory) VoidToken(_ context.Context, hash enroll.Hash, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.tokens[hash]
	switch {
	case !ok:
		return enroll.ErrTokenUnknown
	case !t.Used.IsZero():
		return enroll.ErrTokenUsed
	case t.Void.IsZero():
		t.Void = at
		m.tokens[hash] = t
	}
	return nil
}

// Redeem uses a token for c.
func (m *Memory) Redeem(_ context.Context, hash enroll.Hash, c enroll.Certificate, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.tokens[hash]
	switch {
	case !ok:
		return enroll.ErrTokenUnknown
	case !t.Void.IsZero():
		return enroll.ErrTokenVoid
	case !now.Before(t.Expires):
		return enroll.ErrTokenExpired
	case !t.Used.IsZero() && t.Key != c.Key:
		return enroll.ErrTokenUsed
	case !t.Used.IsZero() && !m.certs[t.Serial].Revoked.IsZero():
		return enroll.ErrRevoked
	}
	if t.Used.IsZero() {
		t.Used = now
	}
	t.Serial, t.Key = c.Serial, c.Key
	m.tokens[hash] = t
	m.add(c)
	return nil
}

func (m *Memory) add(c enroll.Certificate) {
	if m.certs == nil {
		m.certs = map[string]enroll.Certificate{}
	}
	m.certs[c.Serial] = c
}

// Renew keeps c unless its parent is revoked or unknown.
func (m *Memory) Renew(_ context.Context, c enroll.Certificate) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	parent, ok := m.certs[c.Parent]
	if !ok {
		return enroll.ErrCertificateUnknown
	}
	if !parent.Revoked.IsZero() {
		return enroll.ErrRevoked
	}
	m.add(c)
	return nil
}

// Revoke ends what id holds.
func (m *Memory) Revoke(_ context.Context, id topic.ID, at time.Time, reason string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for serial, c := range m.certs {
		if c.ID == id && c.Revoked.IsZero() {
			c.Revoked, c.Reason = at, reason
			m.certs[serial] = c
			n++
		}
	}
	for hash, t := range m.tokens {
		if t.ID == id && t.Used.IsZero() && t.Void.IsZero() {
			t.Void = at
			m.tokens[hash] = t
		}
	}
	return n, nil
}

// Certificate returns the certificate with that serial.
func (m *Memory) Certificate(_ context.Context, serial string) (enroll.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.certs[serial]
	if !ok {
		return c, enroll.ErrCertificateUnknown
	}
	return c, nil
}

// Certificates returns what was issued to id, newest first.
func (m *Memory) Certificates(_ context.Context, id topic.ID) ([]enroll.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var cs []enroll.Certificate
	for _, c := range m.certs {
		if c.ID == id {
			cs = append(cs, c)
		}
	}
	slices.SortFunc(cs, func(a, b enroll.Certificate) int { return b.Issued.Compare(a.Issued) })
	return cs, nil
}

// Trim forgets what expired before t.
func (m *Memory) Trim(_ context.Context, t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.tokens, func(_ enroll.Hash, k enroll.Token) bool { return k.Expires.Before(t) })
	maps.DeleteFunc(m.certs, func(_ string, c enroll.Certificate) bool { return c.NotAfter.Before(t) })
	return nil
}
