// Package console serves the console, a single-page app that people use in a
// browser, from files embedded into the hub.
//
// The parties are the browser and the hub's HTTP server, which mounts Handler
// at "/" beside its API. The package promises that pages ask nothing of any
// other host, that an unknown path below "/" opens the app (its router knows the
// path), and that hashed assets are cached for a year while the page itself is
// not. It knows nothing of sessions or data: the app gets those from the API.
// The hub's composition root imports it, and nothing else.
package console

import (
	"bytes"
	"crypto/rand"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed all:dist
var dist embed.FS

// noncePlaceholder stands in index.html where each answer's nonce goes.
const noncePlaceholder = "__CSP_NONCE__"

// Handler serves the built console. Without a build it answers every page with
// a text that says how to make one, so that the hub compiles and runs without
// Node.
func Handler() http.Handler {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic("console: " + err.Error()) // the path is a constant
	}
	return handler(files)
}

func handler(files fs.FS) http.Handler {
	index, err := fs.ReadFile(files, "index.html")
	if err != nil {
		return http.HandlerFunc(notBuilt)
	}
	static := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the console is read with GET", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
		info, err := fs.Stat(files, name)
		isFile := err == nil && info.Mode().IsRegular() && name != "index.html" && !strings.HasPrefix(path.Base(name), ".")
		asset := strings.HasPrefix(name, "assets/")
		switch {
		case isFile:
			secure(w.Header(), "")
			if asset {
				// The name holds a hash of the content.
				w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			} else {
				w.Header().Set("Cache-Control", "no-cache")
			}
			static.ServeHTTP(w, r)
		case asset:
			// A page of an older build asks for a chunk that is gone. The app's
			// page in its place would be read as a script.
			secure(w.Header(), "")
			http.Error(w, "no such asset: reload the page", http.StatusNotFound)
		default:
			serveIndex(w, r, index)
		}
	})
}

// serveIndex answers with the app's page under a nonce of its own.
func serveIndex(w http.ResponseWriter, r *http.Request, index []byte) {
	var raw [16]byte
	rand.Read(raw[:]) // never fails
	nonce := base64.StdEncoding.EncodeToString(raw[:])
	secure(w.Header(), nonce)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if r.Method == http.MethodHead {
		return
	}
	w.Write(bytes.ReplaceAll(index, []byte(noncePlaceholder), []byte(nonce)))
}

// secure sets the headers every answer carries. The UI kit writes its variables
// into style tags; only those with the page's nonce count.
func secure(h http.Header, nonce string) {
	style := "style-src 'self'"
	if nonce != "" {
		style += " 'nonce-" + nonce + "'"
	}
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; "+style+
		"; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
}

func notBuilt(w http.ResponseWriter, _ *http.Request) {
	secure(w.Header(), "")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNotFound)
	w.Write([]byte("The console is not built into this hub.\n\nRun `make console` and build the hub again. Everything else works: the API is at /api/v1, and swellctl speaks to it.\n"))
}
