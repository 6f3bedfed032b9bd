// Package enrolltest checks that a store keeps the promises of enroll.Store, and
// has one in memory. Every store runs the same Exercise. Only tests import it.
package enrolltest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/protocol/topic"
)

var (
	press = topic.ID{Site: "plant", Node: "press-1"}
	lathe = topic.ID{Site: "plant", Node: "lathe-1"}
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func hash(s string) enroll.Hash { return sha256.Sum256([]byte(s)) }

func token(name string, id topic.ID) enroll.Token {
	return enroll.Token{
		Hash: hash(name), ID: id, Class: "pump-x86", Labels: map[string]string{"line": "3"}, Actor: "ada",
		Created: now, Expires: now.Add(time.Hour),
	}
}

func cert(serial, key string, id topic.ID) enroll.Certificate {
	return enroll.Certificate{Serial: serial, ID: id, Key: hash(key), Issued: now, NotAfter: now.Add(7 * 24 * time.Hour)}
}

// Exercise runs every promise against stores made by open, one for each, all
// empty.
func Exercise(t *testing.T, open func(t *testing.T) enroll.Store) {
	run := func(name string, f func(t *testing.T, s enroll.Store)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	ok := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(t *testing.T, err, target error) {
		t.Helper()
		if !errors.Is(err, target) {
			t.Errorf("got %v, want %v", err, target)
		}
	}

	run("a token is kept as it was made", func(t *testing.T, s enroll.Store) {
		in := token("a", press)
		ok(t, s.AddToken(t.Context(), in))
		out, err := s.Token(t.Context(), in.Hash)
		ok(t, err)
		if out.ID != in.ID || out.Class != in.Class || out.Actor != in.Actor || !maps.Equal(out.Labels, in.Labels) ||
			!out.Created.Equal(in.Created) || !out.Expires.Equal(in.Expires) || !out.Used.IsZero() || !out.Void.IsZero() || out.Serial != "" || out.Key != (enroll.Hash{}) || out.Hash != in.Hash {
			t.Errorf("got %+v, want %+v", out, in)
		}
		_, err = s.Token(t.Context(), hash("b"))
		want(t, err, enroll.ErrTokenUnknown)
	})
	run("tokens are listed newest first", func(t *testing.T, s enroll.Store) {
		for i := range 3 {
			k := token(fmt.Sprint(i), press)
			k.Created = now.Add(time.Duration(i) * time.Minute)
			ok(t, s.AddToken(t.Context(), k))
		}
		ts, err := s.Tokens(t.Context())
		ok(t, err)
		if len(ts) != 3 || ts[0].Hash != hash("2") || ts[2].Hash != hash("0") {
			t.Errorf("%+v", ts)
		}
	})
	run("a token is redeemed once and records its certificate", func(t *testing.T, s enroll.Store) {
		ok(t, s.AddToken(t.Context(), token("a", press)))
		ok(t, s.Redeem(t.Context(), hash("a"), cert("1", "k1", press), now))
		k, err := s.Token(t.Context(), hash("a"))
		ok(t, err)
		if !k.Used.Equal(now) || k.Serial != "1" || k.Key != hash("k1") {
			t.Errorf("%+v", k)
		}
		c, err := s.Certificate(t.Context(), "1")
		ok(t, err)
		if c.ID != press || c.Key != hash("k1") || !c.NotAfter.Equal(now.Add(7*24*time.Hour)) || !c.Issued.Equal(now) || !c.Revoked.IsZero() || c.Parent != "" {
			t.Errorf("%+v", c)
		}
		want(t, s.Redeem(t.Context(), hash("a"), cert("2", "k2", press), now), enroll.ErrTokenUsed)
		_, err = s.Certificate(t.Context(), "2")
		want(t, err, enroll.ErrCertificateUnknown)
	})
	run("a lost answer may be asked for again with the same key", func(t *testing.T, s enroll.Store) {
		ok(t, s.AddToken(t.Context(), token("a", press)))
		ok(t, s.Redeem(t.Context(), hash("a"), cert("1", "k1", press), now))
		ok(t, s.Redeem(t.Context(), hash("a"), cert("2", "k1", press), now.Add(time.Minute)))
		k, err := s.Token(t.Context(), hash("a"))
		ok(t, err)
		if !k.Used.Equal(now) || k.Serial != "2" {
			t.Errorf("%+v, want the first time and the last serial", k)
		}
		want(t, s.Redeem(t.Context(), hash("a"), cert("3", "k1", press), now.Add(time.Hour)), enroll.ErrTokenExpired)
		_, err = s.Revoke(t.Context(), press, now, "stolen")
		ok(t, err)
		want(t, s.Redeem(t.Context(), hash("a"), cert("4", "k1", press), now.Add(time.Minute)), enroll.ErrRevoked)
	})
	run("a token that is unknown, expired or withdrawn is not redeemed", func(t *testing.T, s enroll.Store) {
		want(t, s.Redeem(t.Context(), hash("x"), cert("1", "k", press), now), enroll.ErrTokenUnknown)
		ok(t, s.AddToken(t.Context(), token("late", press)))
		want(t, s.Redeem(t.Context(), hash("late"), cert("1", "k", press), now.Add(time.Hour)), enroll.ErrTokenExpired)
		ok(t, s.AddToken(t.Context(), token("void", press)))
		ok(t, s.VoidToken(t.Context(), hash("void"), now))
		ok(t, s.VoidToken(t.Context(), hash("void"), now.Add(time.Minute)))
		k, err := s.Token(t.Context(), hash("void"))
		ok(t, err)
		if !k.Void.Equal(now) {
			t.Errorf("withdrawn at %v, want the first time", k.Void)
		}
		want(t, s.Redeem(t.Context(), hash("void"), cert("1", "k", press), now), enroll.ErrTokenVoid)
		want(t, s.VoidToken(t.Context(), hash("x"), now), enroll.ErrTokenUnknown)
		ok(t, s.AddToken(t.Context(), token("used", press)))
		ok(t, s.Redeem(t.Context(), hash("used"), cert("1", "k", press), now))
		want(t, s.VoidToken(t.Context(), hash("used"), now), enroll.ErrTokenUsed)
	})
	run("of many that redeem one token with keys of their own one wins", func(t *testing.T, s enroll.Store) {
		ok(t, s.AddToken(t.Context(), token("a", press)))
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				err := s.Redeem(t.Context(), hash("a"), cert(fmt.Sprint(i), fmt.Sprint("k", i), press), now)
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, enroll.ErrTokenUsed) {
					t.Errorf("%v, want ErrTokenUsed", err)
				}
			})
		}
		wg.Wait()
		cs, err := s.Certificates(t.Context(), press)
		ok(t, err)
		if won.Load() != 1 || len(cs) != 1 {
			t.Errorf("%d won, %d certificates", won.Load(), len(cs))
		}
	})
	run("a certificate renews a certificate that is known and not revoked", func(t *testing.T, s enroll.Store) {
		ok(t, s.AddToken(t.Context(), token("a", press)))
		ok(t, s.Redeem(t.Context(), hash("a"), cert("1", "k1", press), now))
		next := cert("2", "k2", press)
		next.Parent, next.Issued = "1", now.Add(time.Hour)
		ok(t, s.Renew(t.Context(), next))
		cs, err := s.Certificates(t.Context(), press)
		ok(t, err)
		if len(cs) != 2 || cs[0].Serial != "2" || cs[0].Parent != "1" {
			t.Errorf("%+v", cs)
		}
		next.Serial, next.Parent = "3", "nobody"
		want(t, s.Renew(t.Context(), next), enroll.ErrCertificateUnknown)
		_, err = s.Revoke(t.Context(), press, now, "stolen")
		ok(t, err)
		next.Parent = "2"
		want(t, s.Renew(t.Context(), next), enroll.ErrRevoked)
		_, err = s.Certificate(t.Context(), "3")
		want(t, err, enroll.ErrCertificateUnknown)
	})
	run("revoking a device ends its certificates and tokens and nobody else's", func(t *testing.T, s enroll.Store) {
		for name, id := range map[string]topic.ID{"a": press, "b": lathe} {
			ok(t, s.AddToken(t.Context(), token(name, id)))
			ok(t, s.Redeem(t.Context(), hash(name), cert(name, name, id), now))
			ok(t, s.AddToken(t.Context(), token("spare "+name, id)))
		}
		n, err := s.Revoke(t.Context(), press, now.Add(time.Minute), "stolen")
		ok(t, err)
		if n != 1 {
			t.Errorf("%d certificates revoked, want 1", n)
		}
		c, err := s.Certificate(t.Context(), "a")
		ok(t, err)
		if !c.Revoked.Equal(now.Add(time.Minute)) || c.Reason != "stolen" {
			t.Errorf("%+v", c)
		}
		want(t, s.Redeem(t.Context(), hash("spare a"), cert("2", "k", press), now), enroll.ErrTokenVoid)
		other, err := s.Certificate(t.Context(), "b")
		ok(t, err)
		if !other.Revoked.IsZero() {
			t.Error("another device's certificate was revoked")
		}
		ok(t, s.Redeem(t.Context(), hash("spare b"), cert("3", "k", lathe), now))
		if n, err = s.Revoke(t.Context(), press, now.Add(time.Hour), "again"); n != 0 || err != nil {
			t.Errorf("revoked again: %d, %v", n, err)
		}
		if c, _ = s.Certificate(t.Context(), "a"); c.Reason != "stolen" {
			t.Error("the second revocation hid the first")
		}
		ok(t, s.AddToken(t.Context(), token("return", press)))
		ok(t, s.Redeem(t.Context(), hash("return"), cert("4", "k", press), now))
		if c, err = s.Certificate(t.Context(), "4"); err != nil || !c.Revoked.IsZero() {
			t.Errorf("a device can not return: %+v, %v", c, err)
		}
	})
	run("no renewal slips past a revocation", func(t *testing.T, s enroll.Store) {
		ok(t, s.AddToken(t.Context(), token("a", press)))
		ok(t, s.Redeem(t.Context(), hash("a"), cert("0", "k", press), now))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c := cert(fmt.Sprint("r", i), "k", press)
				c.Parent = "0"
				if err := s.Renew(t.Context(), c); err != nil && !errors.Is(err, enroll.ErrRevoked) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if _, err := s.Revoke(t.Context(), press, now, "stolen"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		cs, err := s.Certificates(t.Context(), press)
		ok(t, err)
		for _, c := range cs {
			if c.Revoked.IsZero() {
				t.Errorf("certificate %s is alive after the revocation", c.Serial)
			}
		}
	})
	run("what expired long ago is forgotten", func(t *testing.T, s enroll.Store) {
		ok(t, s.AddToken(t.Context(), token("a", press)))
		ok(t, s.Redeem(t.Context(), hash("a"), cert("1", "k", press), now))
		ok(t, s.Trim(t.Context(), now.Add(2*time.Hour)))
		_, err := s.Token(t.Context(), hash("a"))
		want(t, err, enroll.ErrTokenUnknown)
		_, err = s.Certificate(t.Context(), "1")
		ok(t, err)
		ok(t, s.Trim(t.Context(), now.Add(8*24*time.Hour)))
		_, err = s.Certificate(t.Context(), "1")
		want(t, err, enroll.ErrCertificateUnknown)
	})
}
