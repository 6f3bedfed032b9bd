package auth_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/cloud/store/sqlite"
)

const password = "correct horse battery"

// world is a Service over a real store, with a clock that a test moves.
type world struct {
	*auth.Service
	store auth.Store
	mu    sync.Mutex
	now   time.Time
	dir   string
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func start(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{store: db.Auth(), now: time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC), dir: dir}
	w.Service = auth.New(auth.Config{Now: w.clock, PasswordFile: w.file()}, w.store)
	return w
}

func (w *world) file() string { return filepath.Join(w.dir, "admin-password") }

func (w *world) user(t *testing.T, name string, r auth.Role) auth.Principal {
	t.Helper()
	if _, err := w.CreateUser(t.Context(), name, r, password); err != nil {
		t.Fatal(err)
	}
	_, p, err := w.Login(t.Context(), "192.0.2.9:1", name, password)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func want(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want %v", err, kind)
	}
}

func wantTooMany(t *testing.T, err error) {
	t.Helper()
	if many, ok := errors.AsType[auth.TooMany](err); !ok || many.RetryAfter <= 0 {
		t.Errorf("got %v, want TooMany with a time", err)
	}
}

func TestEachRoleMayDoWhatTheOneBeforeItMay(t *testing.T) {
	roles := []auth.Role{auth.Viewer, auth.Operator, auth.Approver, auth.Admin}
	for i, r := range roles {
		for j, need := range roles {
			if r.Allows(need) != (i >= j) {
				t.Errorf("%s allows %s: %t", r, need, r.Allows(need))
			}
		}
		for _, need := range []auth.Role{"", "root", "Admin"} {
			if r.Allows(need) {
				t.Errorf("%s allows the unknown need %q", r, need)
			}
		}
	}
	if auth.Role("").Allows(auth.Viewer) {
		t.Error("no role allows viewer")
	}
}

func TestASessionLastsItsTimeAndEndsWithLogout(t *testing.T) {
	w := start(t)
	w.user(t, "ada", auth.Operator)
	cookie, p, err := w.Login(t.Context(), "192.0.2.1:1", "ada", password)
	if err != nil || p.Role != auth.Operator || p.Actor() != "user:ada" {
		t.Fatalf("login: %+v, %v", p, err)
	}
	got, err := w.Session(t.Context(), cookie)
	if err != nil || got != p {
		t.Errorf("session: %+v, %v, want %+v", got, err, p)
	}
	w.pass(12*time.Hour - time.Second)
	if _, err := w.Session(t.Context(), cookie); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	w.pass(time.Second)
	_, err = w.Session(t.Context(), cookie)
	want(t, err, auth.ErrDenied)

	cookie, _, err = w.Login(t.Context(), "192.0.2.1:1", "ada", password)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Logout(t.Context(), cookie); err != nil {
		t.Fatal(err)
	}
	_, err = w.Session(t.Context(), cookie)
	want(t, err, auth.ErrDenied)
	if err := w.Logout(t.Context(), cookie); err != nil {
		t.Errorf("logging out twice: %v", err)
	}
}

func TestWrongUserAndWrongPasswordLookAlike(t *testing.T) {
	w := start(t)
	w.user(t, "ada", auth.Admin)
	for _, c := range []struct{ name, user, password string }{
		{"a wrong password", "ada", "wrong horse battery"},
		{"an unknown user", "eve", password},
		{"the case of the name", "Ada", password},
		{"an empty password", "ada", ""},
		{"a prefix of the password", "ada", password[:10]},
		{"a password that goes on", "ada", password + "\x00x"},
		{"a password of a megabyte", "ada", strings.Repeat("x", 1<<20)},
		{"SQL for a name", "ada' OR '1'='1", password},
	} {
		t.Run(c.name, func(t *testing.T) {
			cookie, _, err := w.Login(t.Context(), "192.0.2.7:1", c.user, c.password)
			want(t, err, auth.ErrDenied)
			if cookie != "" || err.Error() != auth.ErrDenied.Error() {
				t.Errorf("cookie %q, error %q: nothing may tell why", cookie, err)
			}
		})
	}
}

func TestGuessingIsSlowedPerUserWhereverItComesFrom(t *testing.T) {
	w := start(t)
	w.user(t, "ada", auth.Admin)
	var last error
	tries := 0
	for i := range 30 {
		_, _, last = w.Login(t.Context(), "198.51.100."+string(rune('0'+i%10))+":1", "ada", "a guess number x")
		if !errors.Is(last, auth.ErrDenied) {
			break
		}
		tries++
	}
	wantTooMany(t, last)
	if tries > 10 {
		t.Errorf("%d guesses went through", tries)
	}
	// Another user is not locked out by it, and the right password works later.
	if _, err := w.CreateUser(t.Context(), "bob", auth.Viewer, password); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Login(t.Context(), "203.0.113.1:1", "bob", password); err != nil {
		t.Errorf("bob: %v", err)
	}
	w.pass(time.Minute)
	if _, _, err := w.Login(t.Context(), "203.0.113.2:1", "ada", password); err != nil {
		t.Errorf("ada a minute later: %v", err)
	}
}

func TestGuessingIsSlowedPerAddressWhateverTheUser(t *testing.T) {
	w := start(t)
	for name, address := range map[string]func(i int) string{
		"one IPv4 address":           func(int) string { return "198.51.100.1:4711" },
		"many addresses of one IPv6": func(i int) string { return "[2001:db8::" + string(rune('1'+i%9)) + "]:4711" },
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			n := 0
			for ; n < 100; n++ {
				if _, _, err = w.Login(t.Context(), address(n), "u"+string(rune('a'+n%26))+string(rune('a'+n/26)), "guess"); !errors.Is(err, auth.ErrDenied) {
					break
				}
			}
			wantTooMany(t, err)
			if n > 20 {
				t.Errorf("%d guesses went through", n)
			}
		})
	}
}

func TestSecretsCannotBeReadFromTheStore(t *testing.T) {
	w := start(t)
	p := w.user(t, "ada", auth.Admin)
	cookie, _, err := w.Login(t.Context(), "192.0.2.1:1", "ada", password)
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := w.CreateToken(t.Context(), p, "", "ci", auth.Viewer, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(token, ".")
	files, err := filepath.Glob(filepath.Join(w.dir, "state.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]string{"password": password, "cookie": cookie, "token": secret, "CSRF token": p.CSRF} {
			if strings.Contains(string(b), s) {
				t.Errorf("%s holds the %s", f, name)
			}
		}
	}
}

func TestACookieThatWasNotHandedOutIsDenied(t *testing.T) {
	w := start(t)
	w.user(t, "ada", auth.Admin)
	for _, cookie := range []string{"", "x", strings.Repeat("A", 43), strings.Repeat("A", 1<<20), "\x00", "' OR 1=1 --"} {
		_, err := w.Session(t.Context(), cookie)
		want(t, err, auth.ErrDenied)
	}
}

func TestOnlyThePageThatLoggedInKnowsItsCSRFToken(t *testing.T) {
	w := start(t)
	a := w.user(t, "ada", auth.Admin)
	b := w.user(t, "bob", auth.Admin)
	if !a.CheckCSRF(a.CSRF) {
		t.Error("the session's own token was refused")
	}
	for _, other := range []string{"", b.CSRF, a.CSRF + "x", a.CSRF[1:]} {
		if a.CheckCSRF(other) {
			t.Errorf("%q was accepted", other)
		}
	}
	if (auth.Principal{}).CheckCSRF("") {
		t.Error("a caller without a session passed with an empty token")
	}
}

func TestATokenActsForItsUserWithinItsRoleAndTime(t *testing.T) {
	w := start(t)
	ada := w.user(t, "ada", auth.Admin)
	op := w.user(t, "opa", auth.Operator)

	_, _, err := w.CreateToken(t.Context(), op, "", "up", auth.Approver, 0)
	want(t, err, auth.ErrForbidden)
	_, _, err = w.CreateToken(t.Context(), op, "ada", "steal", auth.Viewer, 0)
	want(t, err, auth.ErrForbidden)
	_, _, err = w.CreateToken(t.Context(), op, "", "forever", auth.Viewer, 100*365*24*time.Hour)
	want(t, err, auth.ErrForbidden)
	_, _, err = w.CreateToken(t.Context(), ada, "nobody", "x", auth.Viewer, 0)
	want(t, err, auth.ErrNotFound)

	meta, token, err := w.CreateToken(t.Context(), op, "", "ci", auth.Operator, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.Bearer(t.Context(), token)
	if err != nil || p.User != "opa" || p.Role != auth.Operator || p.Actor() != "token:"+meta.ID || p.CSRF != "" {
		t.Errorf("the token is %+v, %v", p, err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "its id alone": "swell_" + meta.ID, "its id and nothing": "swell_" + meta.ID + ".", "another secret": "swell_" + meta.ID + "." + strings.Repeat("A", 43),
		"without its prefix": strings.TrimPrefix(token, "swell_"), "longer": token + "A", "huge": "swell_" + strings.Repeat("a", 1<<16) + ".b",
	} {
		if _, err := w.Bearer(t.Context(), bad); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("%s: %v, want ErrDenied", name, err)
		}
	}

	// The user's role of today caps it.
	if err := w.SetRole(t.Context(), "opa", auth.Viewer); err != nil {
		t.Fatal(err)
	}
	if p, err := w.Bearer(t.Context(), token); err != nil || p.Role != auth.Viewer {
		t.Errorf("after demotion: %+v, %v", p, err)
	}
	if err := w.SetRole(t.Context(), "opa", auth.Admin); err != nil {
		t.Fatal(err)
	}
	if p, err := w.Bearer(t.Context(), token); err != nil || p.Role != auth.Operator {
		t.Errorf("after promotion: %+v, %v", p, err)
	}
	w.pass(time.Hour)
	_, err = w.Bearer(t.Context(), token)
	want(t, err, auth.ErrDenied)

	_, token, err = w.CreateToken(t.Context(), op, "", "ci", auth.Viewer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteUser(t.Context(), "opa"); err != nil {
		t.Fatal(err)
	}
	_, err = w.Bearer(t.Context(), token)
	want(t, err, auth.ErrDenied)
}

func TestSomebodyElsesTokenLooksAsIfItDidNotExist(t *testing.T) {
	w := start(t)
	ada, bob, eve := w.user(t, "ada", auth.Admin), w.user(t, "bob", auth.Viewer), w.user(t, "eve", auth.Approver)
	meta, _, err := w.CreateToken(t.Context(), bob, "", "ci", auth.Viewer, 0)
	if err != nil {
		t.Fatal(err)
	}
	want(t, w.RevokeToken(t.Context(), eve, meta.ID), auth.ErrNotFound)
	if list, err := w.Tokens(t.Context(), eve, "", 10); err != nil || len(list) != 0 {
		t.Errorf("eve sees %+v, %v", list, err)
	}
	if list, err := w.Tokens(t.Context(), ada, "", 10); err != nil || len(list) != 1 {
		t.Errorf("the admin sees %+v, %v", list, err)
	}
	if err := w.RevokeToken(t.Context(), ada, meta.ID); err != nil {
		t.Error(err)
	}
}

func TestANewPasswordEndsTheOldSessions(t *testing.T) {
	w := start(t)
	w.user(t, "ada", auth.Admin)
	cookie, _, err := w.Login(t.Context(), "192.0.2.1:1", "ada", password)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetPassword(t.Context(), "ada", "another long one"); err != nil {
		t.Fatal(err)
	}
	_, err = w.Session(t.Context(), cookie)
	want(t, err, auth.ErrDenied)
	_, _, err = w.Login(t.Context(), "192.0.2.1:1", "ada", password)
	want(t, err, auth.ErrDenied)
	if _, _, err := w.Login(t.Context(), "192.0.2.1:1", "ada", "another long one"); err != nil {
		t.Error(err)
	}
}

func TestWeakOrOddNewUsersAreRefused(t *testing.T) {
	w := start(t)
	for _, c := range []struct {
		name, user, password string
		role                 auth.Role
	}{
		{"a short password", "ada", "123456789", auth.Viewer},
		{"the name as password", "adalovelace", "AdaLovelace", auth.Viewer},
		{"an endless password", "ada", strings.Repeat("x", 2000), auth.Viewer},
		{"an unknown role", "ada", password, "root"},
		{"a name with a slash", "a/b", password, auth.Viewer},
		{"an empty name", "", password, auth.Viewer},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := w.CreateUser(t.Context(), c.user, c.role, c.password); err == nil {
				t.Error("was accepted")
			}
		})
	}
}

func TestTheFirstAdminsPasswordIsKeptUntilItIsChanged(t *testing.T) {
	w := start(t)
	first, err := w.Bootstrap(t.Context())
	if err != nil || len(first) < 20 {
		t.Fatalf("bootstrap: %q, %v", first, err)
	}
	info, err := os.Stat(w.file())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("password file: %v, %v", info, err)
	}
	kept, err := os.ReadFile(w.file())
	if err != nil || strings.TrimSpace(string(kept)) != first {
		t.Errorf("the file holds %q, %v", kept, err)
	}
	if _, p, err := w.Login(t.Context(), "192.0.2.1:1", auth.FirstAdmin, first); err != nil || p.Role != auth.Admin {
		t.Errorf("login: %+v, %v", p, err)
	}
	if again, err := w.Bootstrap(t.Context()); err != nil || again != "" {
		t.Errorf("a second start made %q, %v", again, err)
	}
	if err := w.SetPassword(t.Context(), auth.FirstAdmin, "changed it is"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(w.file()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	fresh, err := w.Reset(t.Context(), auth.FirstAdmin)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Login(t.Context(), "192.0.2.1:1", auth.FirstAdmin, fresh); err != nil {
		t.Errorf("login after reset: %v", err)
	}
}

func TestAPasswordFileIsNotWrittenThroughALink(t *testing.T) {
	w := start(t)
	elsewhere := filepath.Join(w.dir, "elsewhere")
	if err := os.Symlink(elsewhere, w.file()+".new"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(elsewhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link was followed: %v", err)
	}
}

func TestAStormOfLoginsIsToldToComeBackInsteadOfTakingTheMemory(t *testing.T) {
	w := start(t)
	w.user(t, "ada", auth.Viewer)
	svc := auth.New(auth.Config{Hashes: 1}, w.store)
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcomes := map[string]int{}
	for i := range 60 {
		wg.Go(func() {
			_, _, err := svc.Login(t.Context(), "198.51.100."+string(rune('0'+i%10))+":1", "user"+string(rune('a'+i%26)), "some password")
			mu.Lock()
			defer mu.Unlock()
			if _, ok := errors.AsType[auth.TooMany](err); ok {
				outcomes["later"]++
			} else if errors.Is(err, auth.ErrDenied) {
				outcomes["denied"]++
			} else {
				outcomes["other"]++
			}
		})
	}
	wg.Wait()
	if outcomes["other"] > 0 || outcomes["denied"] == 0 {
		t.Errorf("outcomes %v: want denied, and perhaps later", outcomes)
	}
}

func TestTheLimiterHoldsNoMoreKeysThanItsBound(t *testing.T) {
	l := auth.NewLimiter(time.Hour, 1, 2)
	now := time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)
	if l.Take("a", now) != 0 || l.Take("a", now) == 0 {
		t.Fatal("a has one permit")
	}
	l.Take("b", now)
	l.Take("a", now) // a is used again, so b is the oldest
	l.Take("c", now)
	if l.Take("a", now) == 0 {
		t.Error("a was forgotten though it was used last")
	}
	if l.Take("b", now) != 0 {
		t.Error("b was kept beyond the bound")
	}
}

func FuzzBearer(f *testing.F) {
	for _, s := range []string{"", "swell_", "swell_ab.cd", "swell_.", "Bearer x", "swell_\xff.\x00"} {
		f.Add(s)
	}
	dir := f.TempDir()
	db, err := sqlite.Open(f.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	svc := auth.New(auth.Config{}, db.Auth())
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := svc.Bearer(t.Context(), token); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("%q: %v", token, err)
		}
	})
}
