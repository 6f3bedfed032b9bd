package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

const password = "correct horse battery"

var (
	onnx     = artifact.Of([]byte("onnx"))
	manifest = artifact.Manifest{
		Schema: 1, Kind: artifact.Model, Name: "pump-anomaly", Counter: 7, Created: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
		Variants: []artifact.Variant{{Classes: []artifact.Class{"pump"}, Files: []artifact.File{{Path: "model.onnx", Digest: onnx, Size: 4, Role: artifact.RoleModel}}}},
	}
	release7 = artifact.Of([]byte("manifest 7"))
)

// parties are what a test's server knows beside the real store, fleet, people
// and ledger.
type parties struct {
	enroll.Store
	db   *store.DB
	plan *dispatch.Dispatcher
}

func (p parties) Evidence(ctx context.Context, name string, id uint64) (rollout.Snapshot, error) {
	return p.plan.Evidence(ctx, name, id)
}

func (p parties) Replay(ctx context.Context, name string, pol rollout.Policy) (dispatch.Replay, error) {
	return p.plan.Replay(ctx, name, pol)
}

func (p parties) Find(_ context.Context, release string) (rollout.Release, error) {
	if release != "pump-anomaly-7" {
		return rollout.Release{}, store.ErrNotFound
	}
	return rollout.FromManifest(manifest, release7), nil
}

func (p parties) Preview(ctx context.Context, q Proposal) (rollout.Rollout, rollout.Preview, error) {
	prop, err := p.proposal(ctx, q)
	if err != nil {
		return rollout.Rollout{}, rollout.Preview{}, err
	}
	return p.plan.Preview(ctx, prop)
}

// world is a server over a real store, with one token a role.
type world struct {
	*httptest.Server
	srv    *Server
	auth   *auth.Service
	fleet  *fleet.Registry
	db     *store.DB
	stream *Stream
	tokens map[auth.Role]string
}

func (p parties) CreateToken(ctx context.Context, t enroll.Token, ttl time.Duration) (enroll.Token, string, error) {
	secret := "swt_" + t.ID.Node
	t.Hash, t.Created = sha256.Sum256([]byte(secret)), time.Now().UTC()
	t.Expires = t.Created.Add(ttl)
	return t, secret, p.AddToken(ctx, t)
}

func (p parties) VoidToken(ctx context.Context, h enroll.Hash) error {
	return p.Store.VoidToken(ctx, h, time.Now())
}

func (p parties) Retire(ctx context.Context, id topic.ID, reason string) error {
	_, err := p.Revoke(ctx, id, time.Now(), reason)
	return err
}

func (p parties) Load(ctx context.Context, name string) (dispatch.View, error) {
	return p.plan.View(ctx, name)
}

func (p parties) Rollouts(ctx context.Context) ([]rollout.Rollout, error) {
	return p.plan.Rollouts(ctx)
}

func (p parties) Decisions(ctx context.Context, name string, before uint64, limit int) ([]dispatch.Stored, error) {
	return p.plan.Why(ctx, name, before, limit)
}

func (p parties) Ask(ctx context.Context, name string, q rollout.Request, dry bool) (dispatch.View, error) {
	return p.plan.Ask(ctx, name, q, dry)
}

func (p parties) Desired(ctx context.Context, id topic.ID) (twin.Desired, bool, error) {
	return p.db.Dispatch().Desired(ctx, id)
}

func (p parties) Propose(ctx context.Context, q Proposal) (dispatch.View, error) {
	prop, err := p.proposal(ctx, q)
	if err != nil {
		return dispatch.View{}, err
	}
	return p.plan.Propose(ctx, prop, q.DryRun)
}

func (p parties) proposal(ctx context.Context, q Proposal) (dispatch.Proposal, error) {
	pol := q.Inline
	if pol == nil {
		o, err := p.db.Object(ctx, RolloutPolicyKind, q.Policy)
		if err != nil {
			return dispatch.Proposal{}, err
		}
		stored, err := ReadRolloutPolicy(o)
		if err != nil {
			return dispatch.Proposal{}, err
		}
		pol = &stored
	}
	rel, err := p.Find(ctx, q.Release)
	return dispatch.Proposal{Name: q.Release, Fleet: pol.Selector, Release: rel, Policy: pol.Policy, Author: q.Author, Reason: q.Reason}, err
}

// Query and Signals make parties a Series of one sine-less ramp, with an anomaly.
func (parties) Query(_ context.Context, q series.Query) (series.Result, error) {
	const n = 100
	times, values := make([]int64, n), make([]float64, n)
	for i := range n {
		times[i], values[i] = q.From+int64(i)*int64(time.Second), float64(i)
		if q.Stream == verdictStream {
			values[i] = 0
			if i == 40 || i == 41 {
				values[i] = 1
			}
		}
	}
	var out series.Result
	for _, s := range q.Signals {
		if s == "absent" {
			continue
		}
		sig := series.Signal{Column: series.Column{Name: s, Unit: "bar", Kind: series.Float64}, Times: times}
		if q.MaxPoints == 0 {
			sig.Float64 = values
		} else {
			out.Bucket = time.Second
			sig.Min, sig.Max, sig.Mean, sig.Count = values, values, values, slices.Repeat([]int64{1}, n)
		}
		out.Signals = append(out.Signals, sig)
	}
	return out, nil
}

func (parties) Signals(context.Context, topic.ID) ([]series.SignalInfo, error) {
	return []series.SignalInfo{{Stream: "raw", Name: "pressure", Unit: "bar", From: 1, To: 2}, {Stream: verdictStream, Name: "score", From: 1, To: 2}}, nil
}

// shelf is a Releases that holds release 7.
type shelf struct{}

func (shelf) Manifest(_ context.Context, d artifact.Digest) (artifact.Manifest, error) {
	if d != release7 {
		return artifact.Manifest{}, registry.ErrNoVersion
	}
	return manifest, nil
}

func (shelf) Verify(context.Context, artifact.Digest) ([]apimodel.VerifyCheck, error) {
	return []apimodel.VerifyCheck{{Name: "digests", Ok: false, Message: "model.onnx differs"}}, nil
}

func (shelf) Signatures(context.Context, artifact.Digest) ([]apimodel.Signature, error) {
	return []apimodel.Signature{{KeyID: "k", Form: "lineage"}}, nil
}

func (shelf) Command(artifact.Digest) string { return "cosign …" }

// book writes what the planner records to the ledger, as the hub does.
type book struct{ *ledger.Log }

func (b book) Append(ctx context.Context, e dispatch.Event) error {
	_, err := b.Log.Append(ctx, ledger.Event{Time: e.At, Actor: e.Actor, Action: e.Action, Object: e.Object, Reason: e.Reason})
	return err
}

// quiet is the planner's fleet, and takes what it would publish.
type quiet struct{ fleet *fleet.Registry }

func (quiet) Publish(context.Context, twin.Desired) error { return nil }
func (q quiet) Devices(context.Context) (out []rollout.Device, err error) {
	for d := range q.fleet.All {
		out = append(out, d.Facts())
	}
	return out, nil
}
func (quiet) Since(context.Context, uint64) ([]rollout.Device, []topic.ID, uint64, bool, error) {
	return nil, nil, 0, false, nil
}

func start(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "state.db"))
	must(err)
	t.Cleanup(func() { db.Close() })
	log := slog.New(slog.DiscardHandler)
	w := &world{db: db, stream: NewStream(), tokens: map[auth.Role]string{}, auth: auth.New(auth.Config{}, db.Auth())}
	t.Cleanup(w.stream.Close)
	w.fleet, err = fleet.Open(t.Context(), fleet.Config{Store: db.Fleet(), Log: log, OnChange: func(c fleet.Change) {
		w.stream.Publish(Change{Kind: "Device", Name: c.ID.String(), State: string(c.State)})
	}})
	must(err)
	t.Cleanup(w.fleet.Close)
	led, err := ledger.Open(t.Context(), ledger.Config{Dir: filepath.Join(dir, "ledger"), Origin: "test"})
	must(err)
	t.Cleanup(func() { led.Close(context.WithoutCancel(t.Context())) })
	plan, err := dispatch.New(dispatch.Config{Holder: "t", Store: db.Dispatch(), Fleet: quiet{w.fleet}, Publisher: quiet{}, Ledger: book{led}, Log: log})
	must(err)
	p := parties{Store: db.Enroll(), db: db, plan: plan}
	w.srv, err = New(Config{
		Auth: w.auth, Fleet: w.fleet, Store: db, Enroll: p, Series: p, Ledger: led, Rollouts: p, Orders: plan, Registry: db.Registry(), Releases: shelf{}, Stream: w.stream,
		Metrics: prometheus.NewRegistry(), Log: log, RequestsPerSecond: 1000, Version: apimodel.Version{Version: "test"},
		Health: func(context.Context) ([]apimodel.HealthPart, bool) {
			secret := "the disk of 10.0.0.1 is full"
			return []apimodel.HealthPart{{Name: "series", Ok: false, Message: &secret}}, true
		},
	})
	must(err)
	w.Server = httptest.NewServer(w.srv)
	t.Cleanup(w.Close)
	for _, r := range []auth.Role{auth.Viewer, auth.Operator, auth.Approver, auth.Admin} {
		_, err := w.auth.CreateUser(t.Context(), string(r)+"-1", r, password)
		must(err)
		_, w.tokens[r], err = w.auth.CreateToken(t.Context(), auth.Principal{User: string(r) + "-1", Role: r}, "", "test", r, 0)
		must(err)
	}
	return w
}

// answer is what a call gave.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%d %s: %v", a.StatusCode, a.body, err)
	}
}

func (a answer) problem(t *testing.T, status int, name string) apimodel.Problem {
	t.Helper()
	var p apimodel.Problem
	a.into(t, &p)
	if a.StatusCode != status || p.Status != status || a.Header.Get("Content-Type") != "application/problem+json" || !strings.HasSuffix(p.Type, name) || p.Title == "" {
		t.Errorf("got %d %s %s, want %d %s", a.StatusCode, a.Header.Get("Content-Type"), a.body, status, name)
	}
	return p
}

// call makes a request as a role ("" for nobody); body nil sends none.
func (w *world) call(t *testing.T, role auth.Role, method, path string, body any, header ...string) answer {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+Prefix+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if role != "" {
		req.Header.Set("Authorization", "Bearer "+w.tokens[role])
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, raw}
}

func TestTheTableOfRoutesIsTheContract(t *testing.T) {
	w := start(t)
	have := map[string]string{}
	for _, r := range w.srv.routes() {
		have[r.method+" "+r.path] = string(r.access)
	}
	for path, item := range w.srv.spec.Paths.Map() {
		for method, op := range item.Operations() {
			key := method + " " + path
			want := fmt.Sprint(op.Extensions["x-access"])
			if have[key] != want {
				t.Errorf("%s: the contract says access %s, the table %q", key, want, have[key])
			}
			delete(have, key)
		}
	}
	for key := range have {
		t.Errorf("%s is not in the contract", key)
	}
}

func TestEachRouteAnswersEachRoleByTheTable(t *testing.T) {
	w := start(t)
	fill := strings.NewReplacer("{site}", "hall-1", "{node}", "p1", "{name}", "x", "{id}", "0000", "{counter}", "1", "{index}", "999")
	roles := []auth.Role{"", auth.Viewer, auth.Operator, auth.Approver, auth.Admin}
	for _, r := range w.srv.routes() {
		if r.path == "/events" {
			continue // a stream never ends; see its own tests
		}
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			for _, role := range roles {
				a := w.call(t, role, r.method, fill.Replace(r.path), nil)
				refused := a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusForbidden
				switch {
				case r.access == public || role.Allows(r.access):
					if refused {
						t.Errorf("%q gets %d: %s", role, a.StatusCode, a.body)
					}
				case role == "":
					a.problem(t, http.StatusUnauthorized, "login")
				default:
					a.problem(t, http.StatusForbidden, "role")
				}
				if a.StatusCode == http.StatusInternalServerError {
					t.Errorf("%q: %s", role, a.body)
				}
			}
		})
	}
}

func TestABrowserLogsInActsAndLogsOut(t *testing.T) {
	w := start(t)
	a := w.call(t, "", "POST", "/session", apimodel.LoginRequest{User: "admin-1", Password: password})
	var s apimodel.Session
	a.into(t, &s)
	set := a.Header.Get("Set-Cookie")
	for _, part := range []string{"HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(set, part) {
			t.Errorf("cookie %q lacks %s", set, part)
		}
	}
	cookie, _, _ := strings.Cut(set, ";")
	user := apimodel.UserCreate{Name: "newbie", Role: "viewer", Password: "long enough it is"}
	w.call(t, "", "POST", "/users", user, "Cookie", cookie).problem(t, 403, "csrf")
	w.call(t, "", "POST", "/users", user, "Cookie", cookie, csrfHeader, "guess").problem(t, 403, "csrf")
	if a := w.call(t, "", "POST", "/users", user, "Cookie", cookie, csrfHeader, *s.CsrfToken); a.StatusCode != 201 {
		t.Errorf("with the token: %d %s", a.StatusCode, a.body)
	}
	if a := w.call(t, "", "GET", "/users", nil, "Cookie", cookie); a.StatusCode != 200 {
		t.Errorf("reading needs no CSRF token: %d", a.StatusCode)
	}
	if a := w.call(t, "", "DELETE", "/session", nil, "Cookie", cookie, csrfHeader, *s.CsrfToken); a.StatusCode != 204 {
		t.Errorf("logout: %d", a.StatusCode)
	}
	w.call(t, "", "GET", "/users", nil, "Cookie", cookie).problem(t, 401, "login")
	// A stale cookie does not keep anybody from logging in again.
	if a := w.call(t, "", "POST", "/session", apimodel.LoginRequest{User: "admin-1", Password: password}, "Cookie", cookie); a.StatusCode != 200 {
		t.Errorf("login with a stale cookie: %d %s", a.StatusCode, a.body)
	}
	w.call(t, "", "POST", "/session", apimodel.LoginRequest{User: "admin-1", Password: "wrong"}).problem(t, 401, "login")
}

func TestGuessingAtTheDoorIsSlowed(t *testing.T) {
	w := start(t)
	for range 40 {
		a := w.call(t, "", "POST", "/session", apimodel.LoginRequest{User: "admin-1", Password: "guess"})
		if a.StatusCode == http.StatusTooManyRequests {
			a.problem(t, 429, "too-many")
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return
		}
	}
	t.Error("forty guesses went through")
}

func TestRequestsThatBreakTheContractAreToldWhere(t *testing.T) {
	w := start(t)
	for _, c := range []struct {
		name, method, path string
		body               any
		status             int
		problem, says      string
	}{
		{"a missing field", "POST", "/users", `{"name":"x","role":"viewer"}`, 400, "invalid", "password"},
		{"an unknown field", "POST", "/users", `{"name":"x","role":"viewer","password":"long enough it is","rolle":"admin"}`, 400, "invalid", "rolle"},
		{"a wrong role", "POST", "/users", `{"name":"x","role":"root","password":"long enough it is"}`, 400, "invalid", "role"},
		{"no JSON", "POST", "/users", `{"name":`, 400, "invalid", "body"},
		{"bytes after the body", "POST", "/users", `{"name":"x","role":"viewer","password":"long enough it is"} {}`, 400, "invalid", ""},
		{"a huge body", "POST", "/users", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "too-large", "1048576"},
		{"an unknown query parameter", "GET", "/devices?selecter=x", nil, 400, "invalid", "selector"},
		{"a limit of zero", "GET", "/devices?limit=0", nil, 400, "invalid", "limit"},
		{"a cursor of elsewhere", "GET", "/devices?cursor=AAAA", nil, 400, "invalid", "cursor"},
		{"a broken selector", "GET", "/devices?selector=a+in+(b", nil, 400, "invalid", "a in (b"},
		{"a range that ends before it begins", "GET", "/series?node=hall-1/p1&signal=x&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", nil, 404, "not-found", "hall-1/p1"},
		{"a path that is not there", "GET", "/device", nil, 404, "not-found", "openapi"},
		{"a method that is not there", "PUT", "/devices", nil, 404, "not-found", ""},
		{"a device that is not there", "GET", "/devices/hall-9/p1", nil, 404, "not-found", "hall-9/p1"},
		{"a site that is no name", "GET", "/devices/Hall%20A/p1", nil, 400, "invalid", "a-z"},
		{"a rollout that is not there", "GET", "/rollouts/nope", nil, 404, "not-found", ""},
		{"an action without a reason", "POST", "/rollouts/nope/actions/pause", nil, 400, "invalid", "reason"},
		{"training on a hub that does not train", "GET", "/training-runs", nil, 503, "not-this-hub", "trainer"},
		{"an object of another kind", "PUT", "/rollout-policies/night", `{"apiVersion":"swell/v1","kind":"Device","metadata":{"name":"night"},"spec":{"selector":"","waves":[{"name":"all","share":1}]}}`, 400, "invalid", "RolloutPolicy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := w.call(t, auth.Admin, c.method, c.path, c.body).problem(t, c.status, c.problem)
			if p.Detail == nil || !strings.Contains(*p.Detail, c.says) {
				t.Errorf("says %v, want %q in it", value(p.Detail), c.says)
			}
		})
	}
}

func TestTheSameCallTwiceMakesOneUser(t *testing.T) {
	w := start(t)
	body := apimodel.APITokenCreate{Name: "ci", Role: "viewer"}
	first := w.call(t, auth.Admin, "POST", "/api-tokens", body, keyHeader, "k1")
	second := w.call(t, auth.Admin, "POST", "/api-tokens", body, keyHeader, "k1")
	if first.StatusCode != 201 || second.StatusCode != 201 || !bytes.Equal(bytes.TrimSpace(first.body), bytes.TrimSpace(second.body)) || second.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("first %d %s, second %d %s", first.StatusCode, first.body, second.StatusCode, second.body)
	}
	w.call(t, auth.Admin, "POST", "/api-tokens", apimodel.APITokenCreate{Name: "other", Role: "viewer"}, keyHeader, "k1").problem(t, 422, "key-reused")
	if a := w.call(t, auth.Viewer, "POST", "/api-tokens", body, keyHeader, "k1"); a.StatusCode != 201 || a.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("somebody else with the same key: %d %s", a.StatusCode, a.body)
	}
	var made apimodel.APITokenCreated
	first.into(t, &made)
	kept, ok, err := w.db.Answer(t.Context(), mustActor(t, w), "k1", time.Now().Add(-time.Hour))
	if err != nil || !ok || bytes.Contains(kept.Body, []byte(made.Secret)) || bytes.Contains(kept.Body, []byte("secret")) {
		t.Errorf("the stored answer shows the secret (found %t, %v)", ok, err)
	}
}

func mustActor(t *testing.T, w *world) string {
	t.Helper()
	p, err := w.auth.Bearer(t.Context(), w.tokens[auth.Admin])
	if err != nil {
		t.Fatal(err)
	}
	return p.Actor()
}

func (w *world) enrol(t *testing.T, nodes ...string) {
	t.Helper()
	for _, n := range nodes {
		id := topic.ID{Site: "hall-1", Node: n}
		if err := w.fleet.Enrol(t.Context(), id, "pump", map[string]string{"line": "l1"}, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		doc := twin.Reported{
			Schema: 1, Site: id.Site, Node: id.Node, Boot: "b", Seq: 1, Class: "pump", Agent: twin.Agent{Arch: "amd64"},
			Champion: &twin.Running{Name: "pump-anomaly", Counter: 7, Manifest: release7, Model: onnx}, Stream: twin.Stream{WindowsScored: 10},
		}
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		w.fleet.Report(id, b, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestDevicesAreListedPageByPageAndExplainedOneByOne(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2", "p3", "p4", "p5")
	var names []string
	for cursor := ""; ; {
		var list apimodel.DeviceList
		w.call(t, auth.Viewer, "GET", "/devices?limit=2&selector=line%3Dl1&cursor="+cursor, nil).into(t, &list)
		if list.Total != 5 {
			t.Fatalf("total %d", list.Total)
		}
		for _, d := range list.Items {
			names = append(names, d.Metadata.Name)
		}
		if list.NextCursor == nil {
			break
		}
		cursor = *list.NextCursor
	}
	if !slices.Equal(names, []string{"hall-1/p1", "hall-1/p2", "hall-1/p3", "hall-1/p4", "hall-1/p5"}) {
		t.Errorf("names %v", names)
	}
	p := w.call(t, auth.Viewer, "GET", "/devices?selector=lime%3Dl1", nil).problem(t, 400, "unknown-label")
	if !strings.Contains(*p.Detail, "line") {
		t.Errorf("%s: want the labels that exist", *p.Detail)
	}

	var d apimodel.Device
	w.call(t, auth.Operator, "PATCH", "/devices/hall-1/p1/labels?reason=moved", apimodel.LabelsPatch{Set: &apimodel.Labels{"line": "l2"}}).into(t, &d)
	if *d.Spec.Line != "l2" || d.Status.State != apimodel.DeviceStateOk || *d.Status.AttestedDigest != string(onnx) || !*d.Status.Attested || d.Status.Release.ID != "pump-anomaly-7" || d.Status.Reported == nil {
		t.Errorf("device %+v", d)
	}
	w.call(t, auth.Operator, "PATCH", "/devices/hall-1/p1/labels", apimodel.LabelsPatch{Set: &apimodel.Labels{"site": "x"}}).problem(t, 400, "invalid")

	w.call(t, auth.Admin, "DELETE", "/devices/hall-1/p2?dryRun=true", nil).into(t, &d)
	if now, _ := w.fleet.Get(topic.ID{Site: "hall-1", Node: "p2"}); d.Status.State != apimodel.DeviceStateRetired || now.Retired() {
		t.Errorf("dry run: shows %s, is retired %t", d.Status.State, now.Retired())
	}
	w.call(t, auth.Admin, "DELETE", "/devices/hall-1/p2?reason=scrapped", nil).into(t, &d)
	if d.Status.State != apimodel.DeviceStateRetired {
		t.Errorf("retired device shows %s", d.Status.State)
	}
	var tl apimodel.TimelineList
	w.call(t, auth.Viewer, "GET", "/devices/hall-1/p2/timeline", nil).into(t, &tl)
	if len(tl.Items) == 0 || tl.Items[0].Type != "retired" || !strings.Contains(tl.Items[0].Message, "scrapped") {
		t.Errorf("timeline %+v", tl.Items)
	}
}

func TestTheOverviewSaysWhereThingsStand(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2")
	var o apimodel.Overview
	w.call(t, auth.Viewer, "GET", "/overview", nil).into(t, &o)
	if o.Counters.Devices != 2 || o.Counters.Attested != 2 || o.Counters.WindowsScored != 20 || !strings.HasPrefix(o.Sentence, "2 of 2 devices run pump-anomaly-7, attested") {
		t.Errorf("overview %+v", o)
	}
	if o.State != apimodel.OverviewStateUrgent || len(o.NeedsMe) != 1 || o.NeedsMe[0].Kind != "Hub" {
		t.Errorf("a part of the hub is broken: state %s, inbox %+v", o.State, o.NeedsMe)
	}
	a := w.call(t, "", "GET", "/health", nil)
	if bytes.Contains(a.body, []byte("10.0.0.1")) {
		t.Errorf("details for somebody who did not log in: %s", a.body)
	}
}

func TestAnInvitationIsMadeListedAndWithdrawn(t *testing.T) {
	w := start(t)
	var made apimodel.EnrollmentTokenCreated
	w.call(t, auth.Operator, "POST", "/enrollment-tokens", `{"site":"hall-1","node":"p9","class":"pump","line":"l1"}`).into(t, &made)
	if made.Secret == "" || made.Token.State != apimodel.EnrollmentTokenStateOpen || *made.Token.Line != "l1" {
		t.Errorf("made %+v", made)
	}
	var list apimodel.EnrollmentTokenList
	a := w.call(t, auth.Operator, "GET", "/enrollment-tokens", nil)
	a.into(t, &list)
	if len(list.Items) != 1 || bytes.Contains(a.body, []byte(made.Secret)) {
		t.Errorf("list %s", a.body)
	}
	if a := w.call(t, auth.Operator, "DELETE", "/enrollment-tokens/"+made.Token.ID, nil); a.StatusCode != 204 {
		t.Errorf("withdraw: %d %s", a.StatusCode, a.body)
	}
	w.call(t, auth.Operator, "GET", "/enrollment-tokens", nil).into(t, &list)
	if list.Items[0].State != apimodel.EnrollmentTokenStateRevoked {
		t.Errorf("state %s", list.Items[0].State)
	}
	w.call(t, auth.Operator, "DELETE", "/enrollment-tokens/zz", nil).problem(t, 404, "not-found")
	w.call(t, auth.Operator, "POST", "/enrollment-tokens", `{"site":"Hall","node":"p9","class":"pump"}`).problem(t, 400, "invalid")
}

func TestSeriesComeRawWhenFewAndInBucketsWhenMany(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	get := func(points int, signal string) (s apimodel.Series) {
		w.call(t, auth.Viewer, "GET", fmt.Sprintf("/series?node=hall-1/p1&signal=%s&from=2026-11-22T00:00:00Z&to=2026-11-22T01:00:00Z&maxPoints=%d", signal, points), nil).into(t, &s)
		return s
	}
	var signals apimodel.SignalList
	w.call(t, auth.Viewer, "GET", "/devices/hall-1/p1/signals", nil).into(t, &signals)
	if len(signals.Items) != 2 || value(signals.Items[0].LastValue) != 99 {
		t.Errorf("signals %+v, want the newest value of pressure", signals.Items)
	}
	raw := get(500, "pressure")
	if raw.ResolutionMs != 0 || len(raw.Times) != 100 || len(raw.Mean) != 100 || raw.Min != nil || *raw.Unit != "bar" {
		t.Errorf("raw: resolution %d, %d points", raw.ResolutionMs, len(raw.Times))
	}
	if len(raw.Anomalies) != 1 || raw.Anomalies[0].To-raw.Anomalies[0].From != 2000 {
		t.Errorf("anomalies %+v: two neighbouring windows are one span", raw.Anomalies)
	}
	if b := get(50, "pressure"); b.ResolutionMs != 1000 || b.Min == nil || len(*b.Count) != len(b.Times) {
		t.Errorf("buckets %+v", b)
	}
	if none := get(50, "absent"); len(none.Times) != 0 || none.Times == nil {
		t.Errorf("a signal without data: %+v", none)
	}
}

func TestAnAuditEventIsProvedByAnybody(t *testing.T) {
	w := start(t)
	for i := range 3 {
		w.call(t, auth.Admin, "POST", "/users?reason=hired", apimodel.UserCreate{Name: fmt.Sprintf("u%d", i), Role: "viewer", Password: "long enough it is"})
	}
	var list apimodel.AuditEventList
	w.call(t, auth.Viewer, "GET", "/audit/events?action=user.&subject=User/u1", nil).into(t, &list)
	if len(list.Items) != 1 || list.Items[0].Reason == nil || *list.Items[0].Reason != "hired" || !strings.HasPrefix(list.Items[0].Actor, "token:") {
		t.Fatalf("events %+v", list.Items)
	}
	if size := value(list.TreeSize); size <= list.Items[0].Index {
		t.Errorf("the ledger has %d entries, and one at %d", size, list.Items[0].Index)
	}
	var p apimodel.InclusionProof
	w.call(t, auth.Viewer, "GET", fmt.Sprintf("/audit/events/%d/proof", list.Items[0].Index), nil).into(t, &p)
	leaf, err := base64.StdEncoding.DecodeString(p.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(append([]byte{0}, leaf...))
	if hex.EncodeToString(h[:]) != p.LeafHash {
		t.Errorf("leaf hash %x, said %s", h, p.LeafHash)
	}
	// RFC 6962, section 2.1.1, from the leaf upwards.
	hash, index, last := h[:], p.Index, p.TreeSize-1
	for _, s := range p.Hashes {
		sibling, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		left, right := hash, sibling
		if index%2 == 1 || index == last {
			left, right = sibling, hash
			for index%2 == 0 && index != 0 {
				index, last = index/2, last/2
			}
		}
		sum := sha256.Sum256(slices.Concat([]byte{1}, left, right))
		hash, index, last = sum[:], index/2, last/2
	}
	if hex.EncodeToString(hash) != p.RootHash {
		t.Errorf("the path leads to %x, the checkpoint says %s", hash, p.RootHash)
	}
	w.call(t, auth.Viewer, "GET", "/audit/events/9999/proof", nil).problem(t, 404, "not-found")
}

func TestARolloutIsTriedStartedPausedAndExplained(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2", "p3")
	policy := `{"apiVersion":"swell/v1","kind":"RolloutPolicy","metadata":{"name":"careful"%s},"spec":{"selector":"line=l1","waves":[{"name":"canary","devices":1,"soakSeconds":60},{"name":"rest","share":1,"soakSeconds":60}]}}`
	var stored apimodel.RolloutPolicy
	w.call(t, auth.Operator, "PUT", "/rollout-policies/careful", fmt.Sprintf(policy, "")).into(t, &stored)
	if *stored.Status.Devices != 3 || *stored.Metadata.ResourceVersion != "1" {
		t.Errorf("policy %+v", stored)
	}
	w.call(t, auth.Operator, "PUT", "/rollout-policies/careful", fmt.Sprintf(policy, `,"resourceVersion":"9"`)).problem(t, 409, "changed")

	start := apimodel.RolloutCreate{Release: "pump-anomaly-7", Policy: "careful"}
	a := w.call(t, auth.Operator, "POST", "/rollouts?dryRun=true&reason=look", start)
	var dry apimodel.Rollout
	a.into(t, &dry)
	if a.StatusCode != 201 || len(dry.Status.Waves) != 2 || dry.Status.Waves[0].Counts.Devices != 1 || dry.Status.Waves[1].Counts.Devices != 2 {
		t.Fatalf("dry run: %d %s, want 1 device in the first wave and 2 in the second", a.StatusCode, a.body)
	}
	w.call(t, auth.Viewer, "GET", "/rollouts/pump-anomaly-7", nil).problem(t, 404, "not-found")

	var ro apimodel.Rollout
	a = w.call(t, auth.Operator, "POST", "/rollouts?reason=better", start)
	a.into(t, &ro)
	if a.StatusCode != 201 || ro.Status.State != apimodel.RolloutStateRunning || ro.Status.Counts.Devices != 3 || value(ro.Spec.Reason) != "better" {
		t.Fatalf("start: %d %s", a.StatusCode, a.body)
	}
	w.call(t, auth.Operator, "POST", "/rollouts/pump-anomaly-7/actions/pause?reason=lunch", nil).into(t, &ro)
	if ro.Status.State != apimodel.RolloutStatePaused || !strings.Contains(ro.Status.Message, "lunch") {
		t.Errorf("paused: %s, %s", ro.Status.State, ro.Status.Message)
	}
	w.call(t, auth.Operator, "POST", "/rollouts/pump-anomaly-7/actions/pause?reason=again", nil).problem(t, 409, "conflict")
	var devices apimodel.RolloutDeviceList
	w.call(t, auth.Viewer, "GET", "/rollouts/pump-anomaly-7/devices?limit=2", nil).into(t, &devices)
	if len(devices.Items) != 2 || devices.NextCursor == nil {
		t.Errorf("devices %+v", devices)
	}
	var why apimodel.RolloutDecisionList
	w.call(t, auth.Viewer, "GET", "/rollouts/pump-anomaly-7/decisions", nil).into(t, &why)
	if len(why.Items) != 2 || why.Items[0].Actor == nil || why.Items[0].Evidence != nil {
		t.Errorf("decisions %+v", why.Items)
	}
	var one apimodel.RolloutDecision
	w.call(t, auth.Viewer, "GET", "/rollouts/pump-anomaly-7/decisions/"+why.Items[1].ID, nil).into(t, &one)
	if one.ID != why.Items[1].ID || one.Evidence == nil || one.SnapshotDigest == nil {
		t.Errorf("decision %+v, want its evidence", one)
	}
	for _, id := range []string{"0", "99", "x", "-1"} {
		w.call(t, auth.Viewer, "GET", "/rollouts/pump-anomaly-7/decisions/"+id, nil).problem(t, 404, "not-found")
	}
	w.ledgerHas(t, "rollout.pause", "Rollout/pump-anomaly-7", "lunch", "user:operator-1")
	var list apimodel.RolloutList
	w.call(t, auth.Viewer, "GET", "/rollouts?state=paused&release=pump-anomaly-7", nil).into(t, &list)
	if len(list.Items) != 1 {
		t.Errorf("list %+v", list.Items)
	}
	w.call(t, auth.Viewer, "GET", "/rollouts?state=promoted", nil).into(t, &list)
	if len(list.Items) != 0 {
		t.Errorf("list of another state: %+v", list.Items)
	}
	var o apimodel.Overview
	w.call(t, auth.Viewer, "GET", "/overview", nil).into(t, &o)
	if len(*o.Rollouts) != 1 || !slices.ContainsFunc(o.NeedsMe, func(n apimodel.NeedsMe) bool { return n.Kind == "Rollout" && value(n.Action) == "resume" }) {
		t.Errorf("a paused rollout needs somebody: %+v", o.NeedsMe)
	}
}

func TestNobodyApprovesTheirOwnRolloutThroughAnotherDoor(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2")
	policy := `{"apiVersion":"swell/v1","kind":"RolloutPolicy","metadata":{"name":"asked"},"spec":{"selector":"","waves":[{"name":"all","share":1,"approvals":1}]}}`
	if a := w.call(t, auth.Approver, "PUT", "/rollout-policies/asked", policy); a.StatusCode != 200 {
		t.Fatalf("policy: %d %s", a.StatusCode, a.body)
	}
	if a := w.call(t, auth.Approver, "POST", "/rollouts?reason=better", apimodel.RolloutCreate{Release: "pump-anomaly-7", Policy: "asked"}); a.StatusCode != 201 {
		t.Fatalf("start: %d %s", a.StatusCode, a.body)
	}
	in := w.call(t, "", "POST", "/session", apimodel.LoginRequest{User: "approver-1", Password: password})
	var s apimodel.Session
	in.into(t, &s)
	cookie, _, _ := strings.Cut(in.Header.Get("Set-Cookie"), ";")
	const approve = "/rollouts/pump-anomaly-7/actions/approve?reason=fine"
	w.call(t, "", "POST", approve, nil, "Cookie", cookie, csrfHeader, *s.CsrfToken).problem(t, 403, "role")
	w.call(t, auth.Approver, "POST", approve, nil).problem(t, 403, "role")
	if a := w.call(t, auth.Admin, "POST", approve, nil); a.StatusCode != 200 {
		t.Errorf("somebody else's approval: %d %s", a.StatusCode, a.body)
	}
	w.call(t, auth.Admin, "POST", approve, nil).problem(t, 409, "conflict") // once
}

func TestAnEndedRolloutIsReadOnceForLists(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1")
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range 3 {
		ro := rollout.Rollout{
			Name: fmt.Sprintf("r%d", i), Release: rollout.FromManifest(manifest, release7), State: rollout.Failed, Reason: "a gate said FAIL",
			Policy: rollout.Policy{Name: "p", Waves: []rollout.Wave{{Name: "all", Share: 1}}}, Created: now.Add(time.Duration(i) * time.Second), Started: now, Ended: now.Add(time.Minute),
		}
		if _, err := w.db.Dispatch().Commit(t.Context(), dispatch.Commit{Now: now, Rollout: ro}); err != nil {
			t.Fatal(err)
		}
	}
	var first, second apimodel.RolloutList
	w.call(t, auth.Viewer, "GET", "/rollouts?limit=2", nil).into(t, &first)
	if len(first.Items) != 2 || first.Items[0].Metadata.Name != "r2" || first.NextCursor == nil || first.Items[0].Status.State != apimodel.RolloutStateFailed {
		t.Fatalf("first page %+v", first)
	}
	w.srv.cfg.Rollouts = onlyList{w.srv.cfg.Rollouts.(parties)}
	w.call(t, auth.Viewer, "GET", "/rollouts?limit=2", nil).into(t, &second)
	if len(second.Items) != 2 || second.Items[1].Metadata.Name != "r1" {
		t.Errorf("second look %+v", second)
	}
}

// onlyList fails to load rollouts.
type onlyList struct{ parties }

func (onlyList) Load(context.Context, string) (dispatch.View, error) {
	return dispatch.View{}, errors.New("was read again")
}

func TestModelsShowWhereTheyRunAndHowTheyVerify(t *testing.T) {
	w := start(t)
	w.enrol(t, "p1", "p2")
	v := registry.Version{
		Family: "pump-anomaly", Counter: 7, Release: release7, Stage: registry.Promoted, Created: time.Now().UTC(), Card: "a card",
		Models: []registry.Model{{Classes: []artifact.Class{"pump"}, Kind: "pca", Threshold: 2, Metrics: map[string]float64{"flag_share": 0.01, registry.OfChampion + "flag_share": 0.03}}},
	}
	if err := w.db.Registry().SaveVersion(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	var m apimodel.Model
	w.call(t, auth.Viewer, "GET", "/models/pump-anomaly", nil).into(t, &m)
	if m.Status.Versions != 1 || m.Status.Promoted.ID != "pump-anomaly-7" || m.Status.RunsOn.Champion != 2 {
		t.Errorf("model %+v", m.Status)
	}
	var mv apimodel.ModelVersion
	w.call(t, auth.Viewer, "GET", "/models/pump-anomaly/versions/7", nil).into(t, &mv)
	if mv.Status.State != apimodel.ModelVersionStatePromoted || len(mv.Spec.Files) != 1 || len(mv.Status.Signatures) != 1 || len(mv.Status.Metrics) != 1 || mv.Status.Metrics[0].Value != 0.01 || value(mv.Status.Metrics[0].Champion) != 0.03 {
		t.Errorf("version %+v", mv)
	}
	var rep apimodel.VerifyReport
	w.call(t, auth.Viewer, "POST", "/models/pump-anomaly/versions/7/actions/verify", nil).into(t, &rep)
	if rep.Ok || rep.Checks[0].Message != "model.onnx differs" {
		t.Errorf("a failed check is an answer: %+v", rep)
	}
	w.call(t, auth.Viewer, "GET", "/models/other", nil).problem(t, 404, "not-found")
}

// reader reads a stream event by event.
func (w *world) listen(t *testing.T, token, lastID string) (next func() string, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", w.URL+Prefix+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Last-Event-ID", lastID)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream: %d %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(res.Body)
	return func() string {
		var out []string
		for lines.Scan() {
			if lines.Text() == "" {
				return strings.Join(out, "\n")
			}
			out = append(out, lines.Text())
		}
		return ""
	}, cancel
}

func TestTheStreamTellsWhatChangedAndWhatWasMissed(t *testing.T) {
	w := start(t)
	next, end := w.listen(t, w.tokens[auth.Viewer], "")
	if hello := next(); !strings.HasPrefix(hello, "event: hello\ndata: {\"id\":0,") {
		t.Errorf("first %q", hello)
	}
	w.enrol(t, "p1")
	first := next()
	if !strings.Contains(first, `"kind":"Device","name":"hall-1/p1"`) || !strings.HasPrefix(first, "id: 1\nevent: change\n") {
		t.Errorf("event %q", first)
	}
	end()
	w.stream.Publish(Change{Kind: "Rollout", Name: "r1", State: "running"})
	next, _ = w.listen(t, w.tokens[auth.Viewer], "1")
	next() // hello
	for {
		e := next()
		if strings.Contains(e, `"kind":"Rollout"`) {
			break
		}
		if e == "" {
			t.Fatal("the stream ended before what was missed")
		}
	}
}

func TestACrowdOfChangesIsOneEvent(t *testing.T) {
	s := NewStream()
	defer s.Close()
	r, _, _, ok := s.join(0)
	if !ok {
		t.Fatal("no room")
	}
	for i := range streamCrowd + 1 {
		s.Publish(Change{Kind: "Device", Name: fmt.Sprint(i)})
		s.Publish(Change{Kind: "Device", Name: fmt.Sprint(i)}) // twice in a tick is once
	}
	s.Publish(Change{Kind: "Rollout", Name: "r1"})
	a, b := <-r, <-r
	if a.Kind != "Device" || a.Name != "" || b.Kind != "Rollout" || b.Name != "r1" || b.ID != a.ID+1 {
		t.Errorf("events %+v %+v", a, b)
	}
}

func TestASlowReaderIsDroppedAndTheOthersGoOn(t *testing.T) {
	s := NewStream()
	defer s.Close()
	slow, _, _, _ := s.join(0)
	quick, _, _, _ := s.join(0)
	now := time.Now()
	for i := range streamBuffer + 50 {
		s.Publish(Change{Kind: "Device", Name: fmt.Sprint(i)})
		s.flush(now) // as a tick would
		if e, ok := <-quick; !ok || e.Name != fmt.Sprint(i) {
			t.Fatalf("the quick reader got %+v, %t after %d events", e, ok, i)
		}
	}
	n := 0
	for range slow {
		n++
	}
	if _, dropped := s.Readers(); dropped != 1 || n != streamBuffer {
		t.Errorf("the slow reader got %d events, %d readers were dropped", n, dropped)
	}
}

func TestTenThousandDevicesAreListedInTime(t *testing.T) {
	if testing.Short() {
		t.Skip("enrols ten thousand devices")
	}
	w := start(t)
	var recs []fleet.Record
	for i := range 10_000 {
		r := fleet.Record{ID: topic.ID{Site: fmt.Sprintf("hall-%d", i%10), Node: fmt.Sprintf("p%05d", i)}, Class: "pump", Labels: map[string]string{"line": "l1"}, EnrolledAt: time.Now(), Version: 1}
		recs = append(recs, r)
	}
	f, err := fleet.Open(t.Context(), fleet.Config{Store: many{recs}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	w.srv.cfg.Fleet = f
	var took []time.Duration
	for range 10 {
		began := time.Now()
		a := w.call(t, auth.Viewer, "GET", "/devices?limit=10000&selector=line%3Dl1", nil)
		took = append(took, time.Since(began))
		if a.StatusCode != 200 || len(a.body) < 1<<20 {
			t.Fatalf("%d, %d bytes", a.StatusCode, len(a.body))
		}
	}
	slices.Sort(took)
	t.Logf("10 000 devices in one answer: median %s, worst of ten %s", took[5], took[9])
	if took[5] > time.Second {
		t.Errorf("median %s", took[5])
	}
}

// many is a store of records that nobody changes.
type many struct{ recs []fleet.Record }

func (m many) Devices(_ context.Context, _ time.Time, yield func(fleet.Record, time.Time) error) error {
	for _, r := range m.recs {
		if err := yield(r, time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

func (many) SaveDevice(context.Context, fleet.Record) error                         { return nil }
func (many) SaveReports(context.Context, []fleet.Record, []fleet.Entry) error       { return nil }
func (many) Timeline(context.Context, topic.ID, uint64, int) ([]fleet.Entry, error) { return nil, nil }
