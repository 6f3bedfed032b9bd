package agenttest

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/link"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// Hub is a hub for one device. It serves releases over HTTPS and EST, and is
// the device's Uplink. Its methods may be called from any goroutine.
type Hub struct {
	ID     topic.ID
	URL    string
	CA     string // PEM
	Token  string // that enrols, once
	server *httptest.Server
	est    *authority

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	releases map[string]Release
	anchors  []byte // nil: none are given
	serve    func(w http.ResponseWriter, r *http.Request, name string, content []byte) bool
	online   bool
	refuse   bool // publications are not acknowledged
	handler  link.Handler
	desired  twin.Desired
	reports  []twin.Reported
	blocks   map[string]telemetry.Block // by boot and sequence number
	doubles  int
	frames   []telemetry.Frame
	live     int
	events   [][]byte
	seen     []twin.Phase
}

// NewHub starts a hub that is online.
func NewHub(t testing.TB, id topic.ID) *Hub {
	h := &Hub{ID: id, Token: "token-of-" + id.Node, changed: make(chan struct{}), releases: map[string]Release{}, blocks: map[string]telemetry.Block{}, online: true}
	h.est = newAuthority(h)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/releases/{manifest}/{path...}", h.release)
	mux.HandleFunc("GET "+trust.AnchorsPath, h.giveAnchors)
	h.est.handle(mux)
	h.server = httptest.NewUnstartedServer(mux)
	h.est.configure(h.server)
	h.server.StartTLS()
	t.Cleanup(h.server.Close)
	h.URL = h.server.URL
	h.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.est.cert.Raw}))
	return h
}

// Stock makes a release available.
func (h *Hub) Stock(r Release) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.releases[r.Manifest.Hex()] = r
}

// Vouch has the hub hand out public keys to devices that enrol. Empty: it
// hands out none, as at the beginning.
func (h *Hub) Vouch(anchors []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.anchors = anchors
}

func (h *Hub) giveAnchors(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.anchors) == 0 {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(h.anchors) // a device that is gone needs no answer
}

// Serve installs a hook in the place of the release server; it returns false to
// leave a request to it. nil removes the hook.
func (h *Hub) Serve(hook func(w http.ResponseWriter, r *http.Request, name string, content []byte) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serve = hook
}

func (h *Hub) release(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	rel, ok := h.releases[r.PathValue("manifest")]
	hook := h.serve
	h.mu.Unlock()
	content, found := rel.Files[r.PathValue("path")]
	if !ok || !found {
		http.NotFound(w, r)
		return
	}
	if hook != nil && hook(w, r, r.PathValue("path"), content) {
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// Offer changes the desired document and sends it: the release is to become
// champion under the given rules; leased says that it may activate at once.
func (h *Hub) Offer(r Release, leased bool, change func(*twin.Assignment)) {
	a := &twin.Assignment{Rollout: fmt.Sprintf("rollout-%d", r.Counter), Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial, MinWindows: 1}
	if change != nil {
		change(a)
	}
	h.mu.Lock()
	d := h.document()
	d.Model, d.Lease = a, nil
	h.desired = d
	h.mu.Unlock()
	if leased {
		h.Lease(r.Manifest)
		return
	}
	h.send()
}

// OfferFirmware asks for a firmware release, with permission to restart.
func (h *Hub) OfferFirmware(r Release, change func(*twin.Assignment)) {
	a := &twin.Assignment{Rollout: fmt.Sprintf("firmware-%d", r.Counter), Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial, MinWindows: 1}
	if change != nil {
		change(a)
	}
	h.mu.Lock()
	d := h.document()
	d.Firmware = a
	d.FirmwareLease = &twin.Lease{ID: fmt.Sprintf("lease-%d", d.Generation), Manifest: r.Manifest, ExpiresAt: time.Now().Add(time.Hour)}
	h.desired = d
	h.mu.Unlock()
	h.send()
}

// Lease permits activation for an hour.
func (h *Hub) Lease(m artifact.Digest) {
	h.mu.Lock()
	d := h.document()
	d.Lease = &twin.Lease{ID: fmt.Sprintf("lease-%d", d.Generation), Manifest: m, ExpiresAt: time.Now().Add(time.Hour)}
	h.desired = d
	h.mu.Unlock()
	h.send()
}

// Withdraw takes the offer back.
func (h *Hub) Withdraw() {
	h.mu.Lock()
	d := h.document()
	d.Model, d.Lease = nil, nil
	h.desired = d
	h.mu.Unlock()
	h.send()
}

// document is the present one with the next generation. The caller holds mu.
func (h *Hub) document() twin.Desired {
	d := h.desired
	d.Schema, d.Site, d.Node = 1, h.ID.Site, h.ID.Node
	d.Generation++
	d.IssuedAt, d.ExpiresAt = time.Now().UTC(), time.Now().Add(24*time.Hour).UTC()
	return d
}

func (h *Hub) send() {
	h.mu.Lock()
	handler, d := h.handler, h.desired
	h.mu.Unlock()
	if handler != nil && d.Generation > 0 {
		handler.Desired(must(json.Marshal(d)))
	}
}

// Online lets the device connect, or cuts it off.
func (h *Hub) Online(on bool) {
	h.mu.Lock()
	h.online = on
	h.note()
	h.mu.Unlock()
}

// Refuse makes publications fail while the connection stands.
func (h *Hub) Refuse(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = on
}

// note wakes those who wait for a change. The caller holds mu.
func (h *Hub) note() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// Run implements the agent's Uplink.
func (h *Hub) Run(ctx context.Context, handler link.Handler) error {
	for up := false; ; {
		h.mu.Lock()
		online, changed := h.online, h.changed
		if online {
			h.handler = handler
		} else {
			h.handler = nil
		}
		h.mu.Unlock()
		if online != up {
			if up = online; up {
				handler.Up()
				h.send()
			} else {
				handler.Down(errors.New("the hub is away"))
			}
		}
		select {
		case <-ctx.Done():
			h.mu.Lock()
			h.handler = nil
			h.mu.Unlock()
			return nil
		case <-changed:
		}
	}
}

// Connected implements the agent's Uplink.
func (h *Hub) Connected() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.handler != nil
}

// Publish implements the agent's Uplink.
func (h *Hub) Publish(t topic.Topic, payload []byte, done func(error)) {
	err := h.take(t, payload)
	go done(err) // as a broker's answer: later, and from elsewhere
}

func (h *Hub) take(t topic.Topic, payload []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.handler == nil {
		return link.ErrOffline
	}
	if h.refuse {
		return errors.New("refused")
	}
	defer h.note()
	switch {
	case t.Message != "":
		if _, err := telemetry.DecodePayload(payload); err != nil {
			return err
		}
		h.live++
	case t.Kind == topic.Blocks:
		b, err := telemetry.Decode(payload)
		if err != nil {
			return err
		}
		key := fmt.Sprint(b.Boot, b.Seq)
		if _, twice := h.blocks[key]; twice {
			h.doubles++
		}
		h.blocks[key] = b
	case t.Kind == topic.Frames:
		f, err := telemetry.DecodeFrame(bytes.Clone(payload))
		if err != nil {
			return err
		}
		h.frames = append(h.frames, f)
	case t.Kind == topic.Reported:
		r, err := twin.ParseReported(payload, h.ID)
		if err != nil {
			return err
		}
		h.reports = append(h.reports, r)
		if r.Trial != nil && (len(h.seen) == 0 || h.seen[len(h.seen)-1] != r.Trial.Phase) {
			h.seen = append(h.seen, r.Trial.Phase)
		}
	case t.Kind == topic.Events:
		h.events = append(h.events, bytes.Clone(payload))
	}
	return nil
}

// Frames returns the pictures that came, doubles too.
func (h *Hub) Frames() []telemetry.Frame {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.frames)
}

// Reports returns what the device reported so far.
func (h *Hub) Reports() []twin.Reported {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.reports)
}

// Blocks returns the blocks received, by stream, in the order of their numbers,
// and how many came more than once.
func (h *Hub) Blocks(s telemetry.Stream) (blocks []telemetry.Block, doubles int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.blocks {
		if b.Stream == s {
			blocks = append(blocks, b)
		}
	}
	slices.SortFunc(blocks, func(a, b telemetry.Block) int { return int(int64(a.Seq) - int64(b.Seq)) })
	return blocks, h.doubles
}

// Events returns what came on the events topic.
func (h *Hub) Events() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// Live is how many Sparkplug messages came.
func (h *Hub) Live() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live
}

// Phases returns the phases that reports showed, without repeats in a row.
func (h *Hub) Phases() []twin.Phase {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

// patience is how long a test waits for what should come soon.
const patience = 20 * time.Second

// Await waits for a report that holds and returns it.
func (h *Hub) Await(t testing.TB, what string, holds func(twin.Reported) bool) twin.Reported {
	t.Helper()
	var found twin.Reported
	h.Until(t, what, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		if n := len(h.reports); n > 0 && holds(h.reports[n-1]) {
			found = h.reports[n-1]
			return true
		}
		return false
	})
	return found
}

// Until waits for something to hold; it looks whenever something came.
func (h *Hub) Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-again.C:
		case <-deadline.C:
			h.mu.Lock()
			last := "no report"
			if n := len(h.reports); n > 0 {
				last = string(must(json.MarshalIndent(h.reports[n-1], "", "  ")))
			}
			h.mu.Unlock()
			t.Fatalf("waited %s for: %s\nlast report: %s", patience, what, last)
		}
	}
}

// Phase waits until the trial of release r is in one of phases, and returns
// the report.
func (h *Hub) Phase(t testing.TB, r Release, phases ...twin.Phase) twin.Reported {
	t.Helper()
	var names []string
	for _, p := range phases {
		names = append(names, string(p))
	}
	return h.Await(t, fmt.Sprintf("%s-%d %s", r.Name, r.Counter, strings.Join(names, " or ")), func(d twin.Reported) bool {
		return d.Trial != nil && d.Trial.Manifest == r.Manifest && slices.Contains(phases, d.Trial.Phase)
	})
}
