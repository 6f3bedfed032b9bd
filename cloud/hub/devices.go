package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// handler takes what devices send.
type handler struct{ h *Hub }

// Message implements broker.Handler.
func (b handler) Message(id topic.ID, t topic.Topic, payload []byte, done func(error)) {
	h := b.h
	switch t.Kind {
	case topic.Blocks:
		h.fleet.Seen(id)
		h.ingest.Handle(context.Background(), id, payload, done)
	case topic.Frames:
		h.fleet.Seen(id)
		h.frames.Handle(context.Background(), id, payload, done)
	case topic.Reported:
		h.fleet.Report(id, payload, done)
	case topic.Events:
		h.deviceEvent(id, payload, done)
	default:
		if t.Message != "" {
			h.fleet.Seen(id)
			if err := h.ingest.Live(id, t.Message, payload); err != nil {
				h.log.Debug("refused a live message", slog.String("device", id.String()), slog.Any("error", err))
			}
		}
		done(nil)
	}
}

// Connected implements broker.Handler.
func (b handler) Connected(id topic.ID) { b.h.fleet.Connected(id) }

// Disconnected implements broker.Handler.
func (b handler) Disconnected(id topic.ID) { b.h.fleet.Disconnected(id) }

// Subscribed implements broker.Handler: the broker keeps nothing, so that the
// store's document is sent again.
func (b handler) Subscribed(id topic.ID, filter string) {
	if !topic.Match(filter, topic.Of(id, topic.Desired)) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	doc, ok, err := b.h.db.Dispatch().Desired(ctx, id)
	if err == nil && ok {
		err = publisher(b).Publish(ctx, doc)
	}
	if err != nil {
		b.h.log.Error("cannot send a desired document again", slog.String("device", id.String()), slog.Any("error", err))
	}
}

// sendTimeout bounds one publication.
const sendTimeout = 10 * time.Second

// publisher sends desired documents.
type publisher struct{ h *Hub }

// Publish implements dispatch.Publisher.
func (p publisher) Publish(ctx context.Context, doc twin.Desired) error {
	if p.h.broker == nil {
		return errors.New("the broker is not open yet")
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return p.h.broker.Publish(ctx, topic.Of(topic.ID{Site: doc.Site, Node: doc.Node}, topic.Desired), b, true)
}

// maxEventBytes bounds one message of the events topic.
const maxEventBytes = 16 << 10

// event is one happening as a device tells it: a word, and a sentence.
type event struct {
	Type     string `json:"type"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Rollout  string `json:"rollout"`
	Release  string `json:"release"`
}

// eventEvery and eventBurst bound what one device may write to the audit log
// by events of its own.
const (
	eventEvery = time.Minute
	eventBurst = 30
)

// deviceEvent puts what a device tells into its history, and acknowledges it
// when it is there. What matters goes to the audit log before.
func (h *Hub) deviceEvent(id topic.ID, payload []byte, done func(error)) {
	var e event
	if len(payload) > maxEventBytes || json.Unmarshal(payload, &e) != nil || e.Type == "" {
		h.log.Warn("refused an event", slog.String("device", id.String()), slog.Int("bytes", len(payload)))
		done(nil)
		return
	}
	if e.Severity != "warning" && e.Severity != "critical" {
		e.Severity = "info"
	}
	note := fleet.Entry{ID: id, Type: clip(e.Type, 40), Severity: e.Severity, Message: clip(e.Message, 1000), Rollout: clip(e.Rollout, 200), Release: clip(e.Release, 200)}
	if note.Matters() && h.events.Take(id.String(), h.cfg.Now()) > 0 {
		h.log.Warn("too many events of a device for the audit log", slog.String("device", id.String()))
		note.Type = "event" // its history has a bound of its own
	}
	h.fleet.Note(note, done)
}

// auditDevice writes what a device says of itself to the ledger.
func (h *Hub) auditDevice(ctx context.Context, e fleet.Entry) error {
	detail := map[string]string{}
	if e.Rollout != "" {
		detail["rollout"] = e.Rollout
	}
	if e.Release != "" {
		detail["release"] = e.Release
	}
	b, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	ev := ledger.Event{Time: e.At, Actor: "device:" + e.ID.String(), Action: "device." + e.Type, Object: "Device/" + e.ID.String(), Reason: clip(e.Message, ledger.MaxFieldBytes), Detail: b}
	if _, err := h.ledger.Append(ctx, ev); err != nil {
		return fmt.Errorf("audit %s of %s: %w", e.Type, e.ID, err)
	}
	h.stream.Publish(api.Change{Kind: "AuditEvent"})
	return nil
}

func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

// deviceChanged tells whoever watches, and the planner when it matters.
func (h *Hub) deviceChanged(c fleet.Change) {
	h.stream.Publish(api.Change{Kind: "Device", Name: c.ID.String(), State: string(c.State)})
	if c.State == fleet.Retired && c.Was != fleet.Retired && h.broker != nil {
		// Perhaps another hub retired it. Not in this call: the end of the
		// session is a change of the fleet too.
		h.tasks.Go(func() { h.broker.Kick(c.ID) })
	}
	if !c.Important {
		return
	}
	h.stream.Publish(api.Change{Kind: "Overview"})
	if h.plan != nil {
		h.plan.deviceChanged(c.ID)
	}
}

// verdicts counts what devices flagged.
type verdicts struct{ h *Hub }

// Take implements ingest.Sink.
func (v verdicts) Take(b *series.Batch) {
	values := 0
	for _, c := range b.Columns {
		values += len(c.Float32) + len(c.Float64) + len(c.Int64) + len(c.Bool) + len(c.String)
	}
	v.h.rate.add(values, v.h.cfg.Now())
	if b.Stream != "verdicts" {
		return
	}
	for _, c := range b.Columns {
		if c.Name != "flag" {
			continue
		}
		n := 0
		for _, f := range c.Float32 {
			if f > 0 {
				n++
			}
		}
		for _, f := range c.Bool {
			if f {
				n++
			}
		}
		if n > 0 {
			v.h.fleet.Flagged(n, v.h.cfg.Now())
			v.h.stream.Publish(api.Change{Kind: "Anomaly", Name: b.ID.String()})
		}
	}
}

// auditEnrolment writes what enrolment is about to do to the ledger.
func (h *Hub) auditEnrolment(ctx context.Context, action, object, reason string) error {
	_, err := h.ledger.Append(ctx, ledger.Event{Actor: "hub", Action: "device." + action, Object: "Device/" + object, Reason: reason})
	return err
}

// enrolled puts a device that got its certificate by token into the fleet.
func (h *Hub) enrolled(ctx context.Context, t enroll.Token, c enroll.Certificate) error {
	return h.fleet.Enrol(ctx, t.ID, t.Class, t.Labels, c.NotAfter)
}

// enrolment makes and withdraws tokens for the API.
type enrolment struct{ h *Hub }

// CreateToken implements api.Enrolment.
func (e enrolment) CreateToken(ctx context.Context, t enroll.Token, ttl time.Duration) (enroll.Token, string, error) {
	secret, t, err := e.h.enroll.NewToken(ctx, enroll.Grant{ID: t.ID, Class: t.Class, Labels: t.Labels, Life: ttl, Actor: t.Actor})
	return t, secret, err
}

// Tokens implements api.Enrolment.
func (e enrolment) Tokens(ctx context.Context) ([]enroll.Token, error) { return e.h.enroll.Tokens(ctx) }

// VoidToken implements api.Enrolment.
func (e enrolment) VoidToken(ctx context.Context, hash enroll.Hash) error {
	return e.h.enroll.VoidToken(ctx, hash, "withdrawn by a person")
}

// Retire implements api.Enrolment.
func (e enrolment) Retire(ctx context.Context, id topic.ID, reason string) error {
	if _, err := e.h.enroll.Revoke(ctx, id, reason); err != nil {
		return err
	}
	if e.h.broker != nil {
		e.h.broker.Kick(id)
	}
	return nil
}

// deviceRoutes is what devices reach by HTTPS: enrolment without a
// certificate, everything else with one.
func (h *Hub) deviceRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/.well-known/est/", h.enroll.Handler())
	mux.HandleFunc("GET "+trust.AnchorsPath, h.anchors)
	files := release.Files(h.objects, h.log)
	mux.Handle(release.FilesPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "show the device's certificate", http.StatusUnauthorized)
			return
		}
		id, err := h.enroll.Authorize(r.Context(), r.TLS.PeerCertificates[0])
		if err != nil {
			h.log.Warn("refused a device", slog.String("path", r.URL.Path), slog.Any("error", err))
			http.Error(w, "this certificate is not accepted: enrol the device again", http.StatusForbidden)
			return
		}
		h.fleet.Seen(id)
		files.ServeHTTP(w, r)
	}))
	return mux
}

// anchors hands out the hub's public keys to a device that is about to enrol.
// Nothing in them is secret; the TLS that they come over makes them true.
func (h *Hub) anchors(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(trust.Anchors{ReleaseKeys: string(h.ReleaseKeyPEM()), LedgerKey: h.LedgerKey()}); err != nil {
		h.log.Debug("a device did not take the public keys", slog.Any("error", err))
	}
}

// housekeeping forgets what is past its time.
func (h *Hub) housekeeping(ctx context.Context) error {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for name, do := range map[string]func() error{
			"segments":  func() error { return h.trimSegments(ctx) },
			"enrolment": func() error { return h.enroll.Trim(ctx) },
		} {
			if err := do(); err != nil && ctx.Err() == nil {
				h.log.Error("cannot tidy up", slog.String("part", name), slog.Any("error", fmt.Errorf("trim %s: %w", name, err)))
			}
		}
	}
}

// trimSegments removes raw data that is past its time.
func (h *Hub) trimSegments(ctx context.Context) error {
	if h.cfg.Segments.RetentionDays == 0 {
		return nil
	}
	n, err := h.keeper.Trim(ctx, h.cfg.Now().Add(-days(h.cfg.Segments.RetentionDays)))
	if n > 0 {
		h.log.Info("removed old segments", slog.Int("segments", n))
	}
	return err
}
