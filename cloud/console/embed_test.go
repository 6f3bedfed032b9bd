package console

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

var built = fstest.MapFS{
	"index.html":        {Data: []byte(`<meta name="csp-nonce" content="__CSP_NONCE__"><div id="root">`)},
	"scheme.js":         {Data: []byte("// scheme")},
	"assets/app-1f2.js": {Data: []byte("// app")},
	".keep":             {Data: []byte("")},
}

func get(t *testing.T, h http.Handler, method, target string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPathsLeadToFilesOrToTheApp(t *testing.T) {
	h := handler(built)
	for _, c := range []struct {
		name, method, path string
		status             int
		cache, contains    string
	}{
		{"the root is the app", "GET", "/", 200, "no-store", "root"},
		{"a route of the app is the app", "GET", "/rollouts/r-12", 200, "no-store", "root"},
		{"a route with a dot is the app", "GET", "/fleet/hall-1/pump.03", 200, "no-store", "root"},
		{"index.html gets its nonce too", "GET", "/index.html", 200, "no-store", "root"},
		{"a folder is not listed", "GET", "/assets", 200, "no-store", "root"},
		{"an asset is kept for a year", "GET", "/assets/app-1f2.js", 200, "public, max-age=31536000, immutable", "// app"},
		{"a file without a hash is asked for again", "GET", "/scheme.js", 200, "no-cache", "// scheme"},
		{"an asset of an older build is gone", "GET", "/assets/app-000.js", 404, "", "reload"},
		{"a dot file is not served", "GET", "/.keep", 200, "no-store", "root"},
		{"a path cannot climb out", "GET", "/../embed.go", 200, "no-store", "root"},
		{"nothing can be posted", "POST", "/", 405, "", "GET"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := get(t, h, c.method, c.path)
			if r.StatusCode != c.status {
				t.Errorf("status %d, want %d", r.StatusCode, c.status)
			}
			if got := r.Header.Get("Cache-Control"); got != c.cache {
				t.Errorf("Cache-Control %q, want %q", got, c.cache)
			}
			if got := body(t, r); !strings.Contains(got, c.contains) {
				t.Errorf("body %q, want %q in it", got, c.contains)
			}
		})
	}
}

func TestEachPageHasItsOwnNonceInPolicyAndBody(t *testing.T) {
	h := handler(built)
	inPolicy := regexp.MustCompile(`style-src 'self' 'nonce-([^']+)'`)
	seen := map[string]bool{}
	for range 3 {
		r := get(t, h, "GET", "/")
		m := inPolicy.FindStringSubmatch(r.Header.Get("Content-Security-Policy"))
		if m == nil {
			t.Fatalf("no nonce in %q", r.Header.Get("Content-Security-Policy"))
		}
		if b := body(t, r); !strings.Contains(b, `content="`+m[1]+`"`) {
			t.Errorf("nonce %s is not in the page %s", m[1], b)
		}
		seen[m[1]] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d different nonces in 3 answers", len(seen))
	}
}

func TestThePolicyNamesNoOtherHostAndNoInlineCode(t *testing.T) {
	for _, p := range []string{"/", "/assets/app-1f2.js"} {
		csp := get(t, handler(built), "GET", p).Header.Get("Content-Security-Policy")
		for _, bad := range []string{"unsafe", "http", "*", "'strict-dynamic'"} {
			if strings.Contains(csp, bad) {
				t.Errorf("%s: %q in %q", p, bad, csp)
			}
		}
	}
}

func TestWithoutABuildThePageSaysHowToMakeOne(t *testing.T) {
	r := get(t, handler(fstest.MapFS{".keep": {}}), "GET", "/rollouts")
	if r.StatusCode != 404 || !strings.Contains(body(t, r), "make console") {
		t.Errorf("status %d", r.StatusCode)
	}
}
