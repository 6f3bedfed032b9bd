package api

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/swellfleet/swell/cloud/store"
)

// keyHeader makes a call that creates safe to repeat.
const keyHeader = "Idempotency-Key"

// keyLife is how long an answer is kept.
const keyLife = 24 * time.Hour

// inFlight holds the keys of calls that are being answered.
type inFlight struct {
	mu   sync.Mutex
	keys map[string]bool
}

func (f *inFlight) enter(k string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = map[string]bool{}
	}
	if f.keys[k] {
		return false
	}
	f.keys[k] = true
	return true
}

func (f *inFlight) leave(k string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, k)
}

// replay answers a repeated call with the answer the first one got. Answers
// can hold secrets that must not be readable at rest, so they are kept sealed
// under the caller's own credential.
func (s *Server) replay(op operation, next echo.HandlerFunc) echo.HandlerFunc {
	takesKey := false
	for _, p := range op.spec.Parameters {
		takesKey = takesKey || p.Value.Name == keyHeader
	}
	if !takesKey {
		return next
	}
	return func(c echo.Context) error {
		req := c.Request()
		key := req.Header.Get(keyHeader)
		if key == "" || len(key) > 128 || req.URL.Query().Get("dryRun") == "true" {
			return next(c)
		}
		who := callerOf(req.Context())
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return err
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		sum := sha256.New()
		fmt.Fprintf(sum, "%s %s\n", req.Method, req.URL.RequestURI())
		sum.Write(body)
		var request [32]byte
		sum.Sum(request[:0])

		flight := who.Actor() + "\x00" + key
		if !s.flight.enter(flight) {
			return conflict("a call with this idempotency key is being answered: wait for it")
		}
		defer s.flight.leave(flight)

		now := s.cfg.Now()
		seal, err := sealer(who, req, key)
		if err != nil {
			return err
		}
		old, ok, err := s.cfg.Store.Answer(req.Context(), who.Actor(), key, now.Add(-keyLife))
		if err != nil {
			return fmt.Errorf("look up the idempotency key: %w", err)
		}
		if ok {
			if old.Request != request {
				return problem{status: http.StatusUnprocessableEntity, name: "key-reused", detail: "this idempotency key belongs to another request of the last 24 hours: take a new one"}
			}
			text, err := seal.Open(nil, old.Body[:min(len(old.Body), seal.NonceSize())], old.Body[min(len(old.Body), seal.NonceSize()):], nil)
			if err != nil {
				return conflict("this call was answered before, in another session that alone can read the answer again: look whether its object exists")
			}
			c.Response().Header().Set("Idempotency-Replayed", "true")
			return c.Blob(old.Status, echo.MIMEApplicationJSON, text)
		}
		rec := &recorder{ResponseWriter: c.Response().Writer}
		c.Response().Writer = rec
		err = next(c)
		c.Response().Writer = rec.ResponseWriter
		if err != nil || rec.status < 200 || rec.status >= 300 {
			return err // a refusal may be repeated
		}
		nonce := make([]byte, seal.NonceSize())
		rand.Read(nonce)
		a := store.Answer{Request: request, Status: rec.status, Body: seal.Seal(nonce, nonce, rec.body.Bytes(), nil)}
		if err := s.cfg.Store.SaveAnswer(req.Context(), who.Actor(), key, a, now, now.Add(-keyLife)); err != nil {
			// The object exists and its answer is on the way.
			s.cfg.Log.Error("cannot keep the answer of an idempotency key", slog.Any("error", err))
		}
		return nil
	}
}

func sealer(who caller, req *http.Request, key string) (cipher.AEAD, error) {
	credential := who.cookie
	if credential == "" {
		credential = req.Header.Get("Authorization")
	}
	k := sha256.Sum256([]byte("swell answer\x00" + credential + "\x00" + key))
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// recorder copies an answer on its way out.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// WriteHeader notes the status.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write copies b.
func (r *recorder) Write(b []byte) (int, error) {
	r.body.Write(b)
	return r.ResponseWriter.Write(b)
}
