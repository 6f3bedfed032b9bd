package store

import (
	"context"
	"fmt"
	"time"

	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/protocol/topic"
)

// Enroll returns the view of enrolment tokens and device certificates.
func (db *DB) Enroll() enroll.Store { return enrolment{db} }

type enrolment struct{ db *DB }

func (e enrolment) AddToken(ctx context.Context, tok enroll.Token) error {
	labels, err := encode(tok.Labels)
	if err != nil {
		return err
	}
	return e.db.tx(ctx, func(t *tx) error {
		return t.exec("INSERT INTO enroll_tokens ("+enrollTokenColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			tok.Hash[:], tok.ID.Site, tok.ID.Node, string(tok.Class), labels, tok.Actor, instant(tok.Created), instant(tok.Expires), instant(tok.Void), instant(tok.Used), tok.Serial, tok.Key[:])
	})
}

const enrollTokenColumns = "hash, site, node, class, labels, actor, created, expires, void, used, serial, pubkey"

func scanEnrollToken(s scan) (t enroll.Token, err error) {
	var hash, key []byte
	var labels string
	var created, expires, void, used int64
	if err = s(&hash, &t.ID.Site, &t.ID.Node, &t.Class, &labels, &t.Actor, &created, &expires, &void, &used, &t.Serial, &key); err != nil {
		return t, missing(err, enroll.ErrTokenUnknown)
	}
	if t.Hash, err = sum32(hash); err != nil {
		return t, err
	}
	if t.Key, err = sum32(key); err != nil {
		return t, err
	}
	t.Created, t.Expires, t.Void, t.Used = moment(created), moment(expires), moment(void), moment(used)
	return t, decode(labels, &t.Labels)
}

const tokenByHash = "SELECT " + enrollTokenColumns + " FROM enroll_tokens WHERE hash = ?"

func (e enrolment) Token(ctx context.Context, hash enroll.Hash) (enroll.Token, error) {
	return scanEnrollToken(e.db.row(ctx, tokenByHash, hash[:]).Scan)
}

func (e enrolment) Tokens(ctx context.Context) (out []enroll.Token, err error) {
	err = e.db.each(ctx, func(s scan) error {
		t, err := scanEnrollToken(s)
		out = append(out, t)
		return err
	}, "SELECT "+enrollTokenColumns+" FROM enroll_tokens ORDER BY created DESC, hash")
	return out, err
}

func (e enrolment) VoidToken(ctx context.Context, hash enroll.Hash, at time.Time) error {
	return e.db.tx(ctx, func(t *tx) error {
		tok, err := scanEnrollToken(t.row(tokenByHash, hash[:]).Scan)
		switch {
		case err != nil:
			return err
		case !tok.Used.IsZero():
			return enroll.ErrTokenUsed
		case !tok.Void.IsZero():
			return nil
		}
		return t.exec("UPDATE enroll_tokens SET void = ? WHERE hash = ?", instant(at), hash[:])
	})
}

func (e enrolment) Redeem(ctx context.Context, hash enroll.Hash, cert enroll.Certificate, now time.Time) error {
	return e.db.tx(ctx, func(t *tx) error {
		tok, err := scanEnrollToken(t.row(tokenByHash, hash[:]).Scan)
		switch {
		case err != nil:
			return err
		case !tok.Void.IsZero():
			return enroll.ErrTokenVoid
		case !now.Before(tok.Expires):
			return enroll.ErrTokenExpired
		}
		used := now
		if !tok.Used.IsZero() {
			if tok.Key != cert.Key {
				return enroll.ErrTokenUsed
			}
			first, err := scanCertificate(t.row(certificateBySerial, tok.Serial).Scan)
			if err != nil {
				return fmt.Errorf("certificate the token was used for: %w", err)
			}
			if !first.Revoked.IsZero() {
				return enroll.ErrRevoked
			}
			used = tok.Used
		}
		if err := addCertificate(t, cert); err != nil {
			return err
		}
		return t.exec("UPDATE enroll_tokens SET used = ?, serial = ?, pubkey = ? WHERE hash = ?", instant(used), cert.Serial, cert.Key[:], hash[:])
	})
}

func (e enrolment) Renew(ctx context.Context, cert enroll.Certificate) error {
	return e.db.tx(ctx, func(t *tx) error {
		parent, err := scanCertificate(t.row(certificateBySerial, cert.Parent).Scan)
		if err != nil {
			return err
		}
		if !parent.Revoked.IsZero() {
			return enroll.ErrRevoked
		}
		return addCertificate(t, cert)
	})
}

func (e enrolment) Revoke(ctx context.Context, id topic.ID, at time.Time, reason string) (n int, err error) {
	err = e.db.tx(ctx, func(t *tx) error {
		n, err = t.change("UPDATE certificates SET revoked = ?, reason = ? WHERE site = ? AND node = ? AND revoked = 0", instant(at), reason, id.Site, id.Node)
		if err != nil {
			return err
		}
		return t.exec("UPDATE enroll_tokens SET void = ? WHERE site = ? AND node = ? AND used = 0 AND void = 0", instant(at), id.Site, id.Node)
	})
	return n, err
}

const (
	certificateColumns  = "serial, site, node, pubkey, parent, issued, not_after, revoked, reason"
	certificateBySerial = "SELECT " + certificateColumns + " FROM certificates WHERE serial = ?"
)

func addCertificate(t *tx, c enroll.Certificate) error {
	return t.exec("INSERT INTO certificates ("+certificateColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		c.Serial, c.ID.Site, c.ID.Node, c.Key[:], c.Parent, instant(c.Issued), instant(c.NotAfter), instant(c.Revoked), c.Reason)
}

func scanCertificate(s scan) (c enroll.Certificate, err error) {
	var key []byte
	var issued, end, revoked int64
	if err = s(&c.Serial, &c.ID.Site, &c.ID.Node, &key, &c.Parent, &issued, &end, &revoked, &c.Reason); err != nil {
		return c, missing(err, enroll.ErrCertificateUnknown)
	}
	c.Issued, c.NotAfter, c.Revoked = moment(issued), moment(end), moment(revoked)
	c.Key, err = sum32(key)
	return c, err
}

func (e enrolment) Certificate(ctx context.Context, serial string) (enroll.Certificate, error) {
	return scanCertificate(e.db.row(ctx, certificateBySerial, serial).Scan)
}

func (e enrolment) Certificates(ctx context.Context, id topic.ID) (out []enroll.Certificate, err error) {
	err = e.db.each(ctx, func(s scan) error {
		c, err := scanCertificate(s)
		out = append(out, c)
		return err
	}, "SELECT "+certificateColumns+" FROM certificates WHERE site = ? AND node = ? ORDER BY issued DESC, serial", id.Site, id.Node)
	return out, err
}

func (e enrolment) Trim(ctx context.Context, before time.Time) error {
	return e.db.tx(ctx, func(t *tx) error {
		if err := t.exec("DELETE FROM certificates WHERE not_after < ?", instant(before)); err != nil {
			return err
		}
		return t.exec("DELETE FROM enroll_tokens WHERE expires < ?", instant(before))
	})
}
