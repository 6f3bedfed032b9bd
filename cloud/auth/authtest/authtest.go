// Package authtest holds the one test that every auth.Store passes. It is
// imported by tests of the stores only.
package authtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/auth"
)

// Exercise runs every promise of auth.Store against a fresh store.
func Exercise(t *testing.T, s auth.Store) {
	ctx := t.Context()
	now := time.Date(2026, 11, 22, 2, 0, 0, 123456789, time.UTC)
	cred := func(name string, r auth.Role) auth.Credential {
		return auth.Credential{User: auth.User{Name: name, Role: r, CreatedAt: now}, PasswordHash: "hash of " + name}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(err, kind error) {
		t.Helper()
		if !errors.Is(err, kind) {
			t.Errorf("got %v, want %v", err, kind)
		}
	}

	_, err := s.User(ctx, "ada")
	want(err, auth.ErrNotFound)
	for _, c := range []auth.Credential{cred("bob", auth.Viewer), cred("ada", auth.Admin), cred("cyd", auth.Operator)} {
		must(s.CreateUser(ctx, c))
	}
	want(s.CreateUser(ctx, cred("ada", auth.Viewer)), auth.ErrExists)
	got, err := s.User(ctx, "ada")
	if err != nil || !reflect.DeepEqual(got, cred("ada", auth.Admin)) {
		t.Errorf("ada came back as %+v, %v", got, err)
	}
	page, err := s.Users(ctx, "ada", 1)
	if err != nil || len(page) != 1 || page[0].Name != "bob" {
		t.Errorf("page after ada: %+v, %v", page, err)
	}
	must(s.TouchLogin(ctx, "bob", now.Add(time.Hour)))
	if u, err := s.User(ctx, "bob"); err != nil || !u.LastLoginAt.Equal(now.Add(time.Hour)) {
		t.Errorf("bob's login: %+v, %v", u, err)
	}

	want(s.SetRole(ctx, "ada", auth.Viewer), auth.ErrLastAdmin)
	want(s.DeleteUser(ctx, "ada"), auth.ErrLastAdmin)
	want(s.SetRole(ctx, "nobody", auth.Viewer), auth.ErrNotFound)
	want(s.DeleteUser(ctx, "nobody"), auth.ErrNotFound)
	want(s.SetPassword(ctx, "nobody", "h"), auth.ErrNotFound)
	if u, err := s.User(ctx, "ada"); err != nil || u.Role != auth.Admin {
		t.Errorf("ada after refused changes: %+v, %v", u, err)
	}

	// Two admins who demote each other at the same time: one remains.
	must(s.SetRole(ctx, "cyd", auth.Admin))
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, name := range []string{"ada", "cyd"} {
		wg.Go(func() { errs[i] = s.SetRole(ctx, name, auth.Operator) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("demoting both admins at once gave %v and %v: one must fail", errs[0], errs[1])
	}
	must(s.SetRole(ctx, "ada", auth.Admin))

	sum := sha256.Sum256
	session := auth.StoredSession{Sum: sum([]byte("s1")), User: "bob", CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
	must(s.CreateSession(ctx, session))
	must(s.CreateSession(ctx, auth.StoredSession{Sum: sum([]byte("s2")), User: "ada", CreatedAt: now, ExpiresAt: now.Add(2 * time.Hour)}))
	back, err := s.Session(ctx, session.Sum)
	if err != nil || !reflect.DeepEqual(back, session) {
		t.Errorf("session came back as %+v, %v", back, err)
	}
	_, err = s.Session(ctx, sum([]byte("other")))
	want(err, auth.ErrNotFound)
	must(s.DeleteExpiredSessions(ctx, now.Add(time.Hour)))
	_, err = s.Session(ctx, session.Sum)
	want(err, auth.ErrNotFound)
	must(s.SetPassword(ctx, "ada", "new hash"))
	_, err = s.Session(ctx, sum([]byte("s2")))
	want(err, auth.ErrNotFound) // a new password ends sessions
	want(s.DeleteSession(ctx, session.Sum), auth.ErrNotFound)

	token := func(i int, user string) auth.StoredToken {
		return auth.StoredToken{
			Token: auth.Token{ID: fmt.Sprintf("t%d", i), User: user, Name: "ci", Role: auth.Operator, CreatedAt: now, ExpiresAt: now.Add(time.Hour)},
			Sum:   sum([]byte{byte(i)}),
		}
	}
	for i, user := range []string{"bob", "ada", "bob", "bob"} {
		must(s.CreateToken(ctx, token(i, user)))
	}
	if tok, err := s.Token(ctx, "t2"); err != nil || !reflect.DeepEqual(tok, token(2, "bob")) {
		t.Errorf("token came back as %+v, %v", tok, err)
	}
	must(s.TouchToken(ctx, "t2", now.Add(time.Minute)))
	if tok, err := s.Token(ctx, "t2"); err != nil || !tok.LastUsedAt.Equal(now.Add(time.Minute)) {
		t.Errorf("token's use: %+v, %v", tok, err)
	}
	ids := func(user, after string, limit int) (out []string) {
		list, err := s.Tokens(ctx, user, after, limit)
		must(err)
		for _, tok := range list {
			out = append(out, tok.ID)
		}
		return out
	}
	if got := ids("bob", "t0", 1); !reflect.DeepEqual(got, []string{"t2"}) {
		t.Errorf("bob's tokens after t0: %v", got)
	}
	if got := ids("", "", 10); len(got) != 4 {
		t.Errorf("everybody's tokens: %v", got)
	}
	must(s.DeleteToken(ctx, "t0"))
	want(s.DeleteToken(ctx, "t0"), auth.ErrNotFound)
	must(s.CreateSession(ctx, auth.StoredSession{Sum: sum([]byte("s3")), User: "bob", CreatedAt: now, ExpiresAt: now.Add(time.Hour)}))
	must(s.DeleteUser(ctx, "bob"))
	_, err = s.Token(ctx, "t2")
	want(err, auth.ErrNotFound) // tokens and sessions go with the user
	_, err = s.Session(ctx, sum([]byte("s3")))
	want(err, auth.ErrNotFound)
}
