package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/swellfleet/swell/cloud/auth"
)

// Auth returns the view of people, sessions and API tokens.
func (db *DB) Auth() auth.Store { return people{db} }

type people struct{ db *DB }

func (p people) CreateUser(ctx context.Context, c auth.Credential) error {
	err := p.db.tx(ctx, func(t *tx) error {
		return t.exec("INSERT INTO users (name, role, password, created_at, last_login_at) VALUES (?, ?, ?, ?, ?)",
			c.Name, string(c.Role), c.PasswordHash, instant(c.CreatedAt), instant(c.LastLoginAt))
	})
	if err != nil && p.db.dialect.Conflict(err) {
		return auth.ErrExists
	}
	return err
}

const userColumns = "name, role, password, created_at, last_login_at"

func scanUser(s scan) (c auth.Credential, err error) {
	var created, login int64
	err = s(&c.Name, &c.Role, &c.PasswordHash, &created, &login)
	c.CreatedAt, c.LastLoginAt = moment(created), moment(login)
	return c, missing(err, auth.ErrNotFound)
}

// missing turns the absence of a row into a package's own error.
func missing(err, as error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return as
	}
	return err
}

func (p people) User(ctx context.Context, name string) (auth.Credential, error) {
	return scanUser(p.db.row(ctx, "SELECT "+userColumns+" FROM users WHERE name = ?", name).Scan)
}

func (p people) Users(ctx context.Context, after string, limit int) (out []auth.User, err error) {
	err = p.db.each(ctx, func(s scan) error {
		c, err := scanUser(s)
		out = append(out, c.User)
		return err
	}, "SELECT "+userColumns+" FROM users WHERE name > ? ORDER BY name LIMIT ?", after, limit)
	return out, err
}

func (p people) SetRole(ctx context.Context, name string, r auth.Role) error {
	return p.db.tx(ctx, func(t *tx) error {
		n, err := t.change("UPDATE users SET role = ? WHERE name = ?", string(r), name)
		if err == nil && n == 0 {
			err = auth.ErrNotFound
		}
		if err != nil {
			return err
		}
		return anAdminRemains(t)
	})
}

func anAdminRemains(t *tx) error {
	var admins int
	if err := t.row("SELECT COUNT(*) FROM users WHERE role = ?", string(auth.Admin)).Scan(&admins); err != nil {
		return err
	}
	if admins == 0 {
		return auth.ErrLastAdmin
	}
	return nil
}

func (p people) DeleteUser(ctx context.Context, name string) error {
	return p.db.tx(ctx, func(t *tx) error {
		n, err := t.change("DELETE FROM users WHERE name = ?", name)
		if err == nil && n == 0 {
			err = auth.ErrNotFound
		}
		if err != nil {
			return err
		}
		return anAdminRemains(t)
	})
}

func (p people) SetPassword(ctx context.Context, name, hash string) error {
	return p.db.tx(ctx, func(t *tx) error {
		n, err := t.change("UPDATE users SET password = ? WHERE name = ?", hash, name)
		if err == nil && n == 0 {
			err = auth.ErrNotFound
		}
		if err != nil {
			return err
		}
		return t.exec("DELETE FROM sessions WHERE user_name = ?", name)
	})
}

func (p people) TouchLogin(ctx context.Context, name string, at time.Time) error {
	return p.db.changeOne(ctx, auth.ErrNotFound, "UPDATE users SET last_login_at = ? WHERE name = ?", instant(at), name)
}

// changeOne runs one statement in a transaction of its own; absent is the
// error when it changed nothing.
func (db *DB) changeOne(ctx context.Context, absent error, q string, args ...any) error {
	return db.tx(ctx, func(t *tx) error {
		n, err := t.change(q, args...)
		if err == nil && n == 0 {
			err = absent
		}
		return err
	})
}

func (p people) CreateSession(ctx context.Context, s auth.StoredSession) error {
	return p.db.tx(ctx, func(t *tx) error {
		return t.exec("INSERT INTO sessions (sum, user_name, created_at, expires_at) VALUES (?, ?, ?, ?)",
			s.Sum[:], s.User, instant(s.CreatedAt), instant(s.ExpiresAt))
	})
}

func (p people) Session(ctx context.Context, sum [32]byte) (auth.StoredSession, error) {
	s := auth.StoredSession{Sum: sum}
	var created, expires int64
	err := p.db.row(ctx, "SELECT user_name, created_at, expires_at FROM sessions WHERE sum = ?", sum[:]).Scan(&s.User, &created, &expires)
	s.CreatedAt, s.ExpiresAt = moment(created), moment(expires)
	return s, missing(err, auth.ErrNotFound)
}

func (p people) DeleteSession(ctx context.Context, sum [32]byte) error {
	return p.db.changeOne(ctx, auth.ErrNotFound, "DELETE FROM sessions WHERE sum = ?", sum[:])
}

func (p people) DeleteExpiredSessions(ctx context.Context, now time.Time) error {
	return p.db.changeOne(ctx, nil, "DELETE FROM sessions WHERE expires_at <= ?", instant(now))
}

func (p people) CreateToken(ctx context.Context, tok auth.StoredToken) error {
	return p.db.tx(ctx, func(t *tx) error {
		return t.exec("INSERT INTO api_tokens (id, user_name, name, role, sum, created_at, expires_at, last_used_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			tok.ID, tok.User, tok.Name, string(tok.Role), tok.Sum[:], instant(tok.CreatedAt), instant(tok.ExpiresAt), instant(tok.LastUsedAt))
	})
}

const tokenColumns = "id, user_name, name, role, sum, created_at, expires_at, last_used_at"

func scanToken(s scan) (t auth.StoredToken, err error) {
	var created, expires, used int64
	var sum []byte
	if err = s(&t.ID, &t.User, &t.Name, &t.Role, &sum, &created, &expires, &used); err != nil {
		return t, missing(err, auth.ErrNotFound)
	}
	t.CreatedAt, t.ExpiresAt, t.LastUsedAt = moment(created), moment(expires), moment(used)
	if t.Sum, err = sum32(sum); err != nil {
		return t, fmt.Errorf("API token %s: %w", t.ID, err)
	}
	return t, nil
}

func (p people) Token(ctx context.Context, id string) (auth.StoredToken, error) {
	return scanToken(p.db.row(ctx, "SELECT "+tokenColumns+" FROM api_tokens WHERE id = ?", id).Scan)
}

func (p people) Tokens(ctx context.Context, user, after string, limit int) (out []auth.Token, err error) {
	err = p.db.each(ctx, func(s scan) error {
		t, err := scanToken(s)
		out = append(out, t.Token)
		return err
	}, "SELECT "+tokenColumns+" FROM api_tokens WHERE (? = '' OR user_name = ?) AND id > ? ORDER BY id LIMIT ?", user, user, after, limit)
	return out, err
}

func (p people) DeleteToken(ctx context.Context, id string) error {
	return p.db.changeOne(ctx, auth.ErrNotFound, "DELETE FROM api_tokens WHERE id = ?", id)
}

func (p people) TouchToken(ctx context.Context, id string, at time.Time) error {
	return p.db.changeOne(ctx, auth.ErrNotFound, "UPDATE api_tokens SET last_used_at = ? WHERE id = ?", instant(at), id)
}
