package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// FilesPath is where Files expects to be mounted.
const FilesPath = "/v1/releases/"

// maxKnown bounds the manifests Files keeps in memory.
const maxKnown = 64

// Files serves GET and HEAD /v1/releases/{manifest hex}/{path} to devices, with
// Range and with an ETag that is the file's digest. Only the files a stored
// manifest names, and the release's own, are served; there is no listing. The
// caller authenticates devices and sets the server's timeouts. A nil logger
// discards.
func Files(store Objects, logger *slog.Logger) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &files{objects: store, logger: logger, known: map[string]map[string]artifact.File{}}
}

type files struct {
	objects Objects
	logger  *slog.Logger

	mu    sync.Mutex
	known map[string]map[string]artifact.File // guarded by mu; by manifest hex, then by path
}

var companionFiles = []string{
	trust.SignatureFile, trust.DigestsFile, trust.LineageFile, trust.SLSAFile, trust.TrustedRootFile, trust.PublicKeyFile,
}

func (h *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, FilesPath)
	hex, name, ok2 := strings.Cut(rest, "/")
	d := artifact.Digest("sha256:" + hex)
	if !ok || !ok2 || d.Validate() != nil || artifact.ValidPath(name) != nil {
		http.NotFound(w, r)
		return
	}
	err := h.serve(w, r, d, name)
	switch {
	case err == nil:
	case errors.Is(err, objects.ErrNotFound):
		http.NotFound(w, r)
	case errors.Is(err, errDamaged):
		h.logger.Error("a stored release is damaged", "release", d.Short(), "path", name, "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		h.logger.Warn("cannot serve release file", "release", d.Short(), "path", name, "error", err)
		http.Error(w, "the hub cannot read this file now; try again", http.StatusServiceUnavailable)
	}
}

// serve answers the request, or returns an error before anything was written.
func (h *files) serve(w http.ResponseWriter, r *http.Request, d artifact.Digest, name string) error {
	named, err := h.release(r.Context(), d)
	if err != nil {
		return err
	}
	var content io.ReadSeeker
	f, ok := named[name]
	switch {
	case ok:
		rng := &rangeReader{ctx: r.Context(), objects: h.objects, key: keyOf(d) + name, size: f.Size}
		defer rng.Close()
		content = rng
	case name == trust.ManifestFile || slices.Contains(companionFiles, name):
		b, err := h.small(r.Context(), keyOf(d)+name)
		if err != nil {
			return err
		}
		f.Digest, content = artifact.Of(b), bytes.NewReader(b)
	default:
		return objects.ErrNotFound
	}
	head := w.Header()
	head.Set("ETag", `"`+string(f.Digest)+`"`)
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Cache-Control", "private, max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, content)
	return nil
}

// errDamaged is told to the device, so that its report names the cause.
var errDamaged = errors.New("the stored manifest is damaged: restore it, or release the model anew")

// release returns the files a stored manifest names. The manifest's own hash is
// its address, so what is kept can never be stale.
func (h *files) release(ctx context.Context, d artifact.Digest) (map[string]artifact.File, error) {
	h.mu.Lock()
	named, ok := h.known[d.Hex()]
	h.mu.Unlock()
	if ok {
		return named, nil
	}
	b, err := h.small(ctx, keyOf(d)+trust.ManifestFile)
	if err != nil {
		return nil, err
	}
	if artifact.Of(b) != d {
		return nil, errDamaged
	}
	m, err := artifact.Parse(b)
	if err != nil {
		return nil, err
	}
	named = map[string]artifact.File{}
	for _, f := range m.Files() {
		named[f.Path] = f
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.known) >= maxKnown {
		clear(h.known)
	}
	h.known[d.Hex()] = named
	return named, nil
}

// small reads an object that has to fit the cap on bundles.
func (h *files) small(ctx context.Context, key string) ([]byte, error) {
	r, _, err := h.objects.Get(ctx, key, 0, trust.MaxBundleBytes+1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err == nil && len(b) > trust.MaxBundleBytes {
		err = fmt.Errorf("object of more than %d bytes", trust.MaxBundleBytes)
	}
	return b, err
}

// rangeReader reads an object from wherever it was last told to. It lives for
// one request; that is why it may hold a context.
type rangeReader struct {
	ctx     context.Context
	objects Objects
	key     string
	size    int64
	at      int64
	open    io.ReadCloser // nil before the first read after a seek
}

func (r *rangeReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	if offset != r.at {
		r.Close()
	}
	r.at = offset
	return offset, nil
}

func (r *rangeReader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if r.open == nil {
		body, _, err := r.objects.Get(r.ctx, r.key, r.at, -1)
		if err != nil {
			return 0, err
		}
		r.open = body
	}
	n, err := r.open.Read(p)
	r.at += int64(n)
	return n, err
}

// Close ends the read that is open, if any.
func (r *rangeReader) Close() {
	if r.open != nil {
		r.open.Close()
		r.open = nil
	}
}
