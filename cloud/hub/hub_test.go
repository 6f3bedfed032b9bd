package hub_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apiclient"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/cloud/store/storetest"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

func TestMain(m *testing.M) {
	hub.MaybeRunChild()
	os.Exit(m.Run())
}

// onFreePorts is a configuration with nothing but the folder and ports that
// are free.
func onFreePorts(dir string) hub.Config {
	const free = "127.0.0.1:0"
	return hub.Config{DataDir: dir, HTTP: hub.HTTP{Listen: free}, Devices: hub.Devices{Listen: free}, Broker: hub.Broker{Listen: free}, Objects: hub.Objects{Listen: free}}
}

// running is a hub with a logged-in client.
type running struct {
	*hub.Hub
	api      *apiclient.ClientWithResponses
	password string
}

func start(t *testing.T, cfg hub.Config, password string) *running {
	t.Helper()
	r := &running{password: password}
	cfg.Password = func(_, password string) { r.password = password }
	var err error
	if r.Hub, err = hub.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	url := "http://" + r.Addrs().HTTP + api.Prefix
	plain, err := apiclient.NewClientWithResponses(url)
	if err != nil {
		t.Fatal(err)
	}
	in, err := plain.LoginWithResponse(t.Context(), apimodel.LoginRequest{User: "admin", Password: r.password})
	if err != nil || in.JSON200 == nil {
		t.Fatalf("log in: %v, %s", err, in.Body)
	}
	cookies, csrf := in.HTTPResponse.Cookies(), *in.JSON200.CsrfToken
	r.api, err = apiclient.NewClientWithResponses(url, apiclient.WithRequestEditorFn(func(_ context.Context, q *http.Request) error {
		for _, c := range cookies {
			q.AddCookie(c)
		}
		q.Header.Set("X-Swell-CSRF", csrf)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAHubStartsOnAnEmptyFolderAndKeepsItsWord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "hub")
	began := time.Now()
	first := start(t, onFreePorts(dir), "")
	took := time.Since(began)
	t.Logf("started on an empty folder and logged in after %s", took.Round(time.Millisecond))
	if first.password == "" {
		t.Error("the first start told no password")
	}
	if info, err := os.Stat(filepath.Join(dir, "admin-password")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v", info, err)
	}
	health, err := first.api.GetHealthWithResponse(t.Context())
	if err != nil || health.JSON200 == nil || !health.JSON200.Ok {
		t.Errorf("health: %s, %v", health.Body, err)
	}
	for _, path := range []string{"/healthz", "/metrics"} {
		res, err := http.Get("http://" + first.Addrs().HTTP + path)
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != 200 {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	ca, key := first.CAPEM(), first.ReleaseKeyPEM()
	if err := first.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if _, err := net.DialTimeout("tcp", first.Addrs().MQTT, time.Second); err == nil {
		t.Error("the broker still listens after Close")
	}
	again := start(t, onFreePorts(dir), first.password)
	if !bytes.Equal(ca, again.CAPEM()) || !bytes.Equal(key, again.ReleaseKeyPEM()) {
		t.Error("a restart made another CA or release key")
	}
}

func TestABusyPortIsNamedWithItsSetting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := l.Addr().String()
	for key, set := range map[string]func(*hub.Config){
		"http.listen":    func(c *hub.Config) { c.HTTP.Listen = busy },
		"devices.listen": func(c *hub.Config) { c.Devices.Listen = busy },
		"broker.listen":  func(c *hub.Config) { c.Broker.Listen = busy },
		"objects.listen": func(c *hub.Config) { c.Objects.Listen = busy },
	} {
		t.Run(key, func(t *testing.T) {
			cfg := onFreePorts(t.TempDir())
			set(&cfg)
			h, err := hub.New(t.Context(), cfg)
			if err == nil {
				h.Close()
				t.Fatal("started on a busy port")
			}
			if !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), busy) {
				t.Errorf("got %v, want %s and %s in it", err, key, busy)
			}
		})
	}
}

func TestTwoHubsOnOneFolderDoNotStart(t *testing.T) {
	cfg := onFreePorts(t.TempDir())
	start(t, cfg, "")
	h, err := hub.New(t.Context(), cfg)
	if err == nil {
		h.Close()
		t.Fatal("the second one started")
	}
	if !strings.Contains(err.Error(), "another hub") {
		t.Errorf("got %v", err)
	}
}

func TestAFolderThatCannotBeUsedIsNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "state.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ dir, says string }{
		"a file stands in its place":      {filepath.Join(file, "hub"), "data_dir"},
		"the store's file is a folder":    {blocked, "state.db"},
		"no folder is given":              {"", "data_dir"},
		"the system takes no files there": {"/proc/swell", "data_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := hub.New(t.Context(), onFreePorts(c.dir))
			if err == nil {
				h.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
		})
	}
}

func TestAFolderWithoutPermissionIsNamed(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("permissions do not bind root: run the tests as another user to see this one")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	h, err := hub.New(t.Context(), onFreePorts(dir))
	if err == nil {
		h.Close()
		t.Fatal("started")
	}
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

func TestConfigurationsThatCannotBeMeantSayWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ name, yaml, says string }{
		{"an empty file", "", "data_dir is required"},
		{"the folder alone", "data_dir: /var/lib/swell", ""},
		{"a key with another spelling", "dataDir: /x", "line 1: unknown key dataDir: did you mean data_dir?"},
		{"a misspelt key further in", "data_dir: /x\nbroker:\n  lisen: 127.0.0.1:1", "line 3: unknown key broker.lisen: did you mean broker.listen?"},
		{"a misspelt key in a list", "data_dir: /x\ntraining:\n  policies:\n    - nmae: night", "line 4: unknown key training.policies[0].nmae: did you mean training.policies[0].name?"},
		{"a key of the wrong depth", "data_dir: /x\nlisten: 127.0.0.1:1", "line 2: unknown key listen"},
		{"a text for a number", "data_dir: /x\nfleet: {stale_s: soon}", "cannot unmarshal"},
		{"no folder", "http: {listen: 127.0.0.1:1}", "data_dir: is required"},
		{"no port", "data_dir: /x\nhttp: {listen: localhost}", "http.listen"},
		{"the world without TLS", "data_dir: /x\nhttp: {listen: 0.0.0.0:7440}", "cert_file"},
		{"the world behind a proxy", "data_dir: /x\nhttp: {listen: 0.0.0.0:7440, plain: true}", ""},
		{"half a certificate", "data_dir: /x\nhttp: {cert_file: a.pem}", "go together"},
		{"an unknown role", "data_dir: /x\nroles: [cook]", "cook"},
		{"shared work without a shared store", "data_dir: /x\nroles: [api]", "postgres_url_file"},
		{"a negative time", "data_dir: /x\nsegments: {interval_s: -1}", "segments.interval_s"},
		{"a policy without waves", "data_dir: /x\nrollouts:\n  policies:\n    - selector: line=l1\n      policy: {name: careful}", "rollouts.policies[0]"},
		{"a policy", "data_dir: /x\nrollouts:\n  policies:\n    - selector: line=l1\n      policy: {name: careful, shadow_s: 1, waves: [{name: all, share: 1}]}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := hub.Parse([]byte(c.yaml))
			if c.says == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"data_dir: /x", "data_dir: [", "a: &a [*a]", "training: {policies: [{name: x}]}", "- 1", "data_dir: /x\nroles: all"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) { hub.Parse(b) })
}

// device is the least a device is: an identity and an MQTT 3.1.1 connection,
// written by hand so that the hub is tested against the protocol and not
// against another library's idea of it.
type device struct {
	id   topic.ID
	cert tls.Certificate
	pool *x509.CertPool
	conn net.Conn
}

// enrol invites a device by the API and exchanges its token by EST.
func (r *running) enrol(t *testing.T, id topic.ID) *device {
	t.Helper()
	line := "l1"
	tok, err := r.api.CreateEnrollmentTokenWithResponse(t.Context(), nil, apimodel.EnrollmentTokenCreate{Site: id.Site, Node: id.Node, Class: "pump", Line: &line})
	if err != nil || tok.JSON201 == nil {
		t.Fatalf("invite: %v, %s", err, tok.Body)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{id: id, pool: x509.NewCertPool()}
	d.pool.AppendCertsFromPEM(r.CAPEM())
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+r.Addrs().Devices+"/.well-known/est/simpleenroll", strings.NewReader(base64.StdEncoding.EncodeToString(csr)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/pkcs10")
	req.SetBasicAuth(id.String(), tok.JSON201.Secret)
	res, err := d.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("enrol: %d %s, %v", res.StatusCode, body, err)
	}
	p7, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	d.cert = tls.Certificate{Certificate: [][]byte{onlyCertificate(t, p7)}, PrivateKey: key}
	return d
}

// onlyCertificate finds the certificate in a certs-only PKCS #7 answer: the
// one DER sequence in it that parses as a certificate.
func onlyCertificate(t *testing.T, p7 []byte) []byte {
	t.Helper()
	for i := 0; i+4 < len(p7); i++ {
		if p7[i] != 0x30 || p7[i+1] != 0x82 {
			continue
		}
		if n := 4 + int(binary.BigEndian.Uint16(p7[i+2:])); i+n <= len(p7) {
			if _, err := x509.ParseCertificate(p7[i : i+n]); err == nil {
				return p7[i : i+n]
			}
		}
	}
	t.Fatal("no certificate in the answer")
	return nil
}

func (d *device) client() *http.Client {
	conf := &tls.Config{RootCAs: d.pool, ServerName: "localhost"}
	if d.cert.PrivateKey != nil {
		conf.Certificates = []tls.Certificate{d.cert}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
}

// packet writes an MQTT control packet.
func (d *device) packet(t *testing.T, kind byte, body ...[]byte) {
	t.Helper()
	payload := bytes.Join(body, nil)
	head := []byte{kind}
	for n := len(payload); ; {
		b := byte(n % 128)
		if n /= 128; n > 0 {
			b |= 128
		}
		head = append(head, b)
		if n == 0 {
			break
		}
	}
	if _, err := d.conn.Write(append(head, payload...)); err != nil {
		t.Fatal(err)
	}
}

func text(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

// read reads control packets until one of kind, and returns its body.
func (d *device) read(t *testing.T, kind byte) []byte {
	t.Helper()
	d.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		head := make([]byte, 1)
		if _, err := io.ReadFull(d.conn, head); err != nil {
			t.Fatalf("waiting for packet %#x: %v", kind, err)
		}
		n, err := binary.ReadUvarint(byteReader{d.conn})
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(d.conn, body); err != nil {
			t.Fatal(err)
		}
		if head[0]&0xf0 == kind {
			return body
		}
	}
}

type byteReader struct{ io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}

// connect opens the MQTT session.
func (d *device) connect(t *testing.T, addr string) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: d.pool, ServerName: "localhost", Certificates: []tls.Certificate{d.cert}})
	if err != nil {
		t.Fatal(err)
	}
	d.session(t, conn)
}

// session begins an MQTT session on a connection.
func (d *device) session(t *testing.T, conn net.Conn) {
	t.Helper()
	d.conn = conn
	t.Cleanup(func() { conn.Close() })
	d.packet(t, 0x10, text("MQTT"), []byte{4, 2, 0, 60}, text(d.id.String()))
	if ack := d.read(t, 0x20); ack[1] != 0 {
		t.Fatalf("CONNACK %v", ack)
	}
}

// publish sends a message at QoS 1 and waits for its acknowledgement.
func (d *device) publish(t *testing.T, kind topic.Kind, payload []byte) {
	t.Helper()
	d.packet(t, 0x32, text(topic.Of(d.id, kind)), []byte{0, 7}, payload)
	d.read(t, 0x40)
}

func TestADeviceEnrolsStreamsReportsAndIsRetired(t *testing.T) {
	cfg := onFreePorts(t.TempDir())
	cfg.Rollouts.Policies = []api.RolloutPolicy{{Policy: rollout.Policy{Name: "all", Waves: []rollout.Wave{{Name: "all", Share: 1}}, Gates: []rollout.Gate{{Name: rollout.GateSuccess}}}}}
	r := start(t, cfg, "")
	d := r.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	d.connect(t, r.Addrs().MQTT)

	// Whoever is about to enrol gets the public keys without a certificate.
	public, err := (&device{pool: d.pool}).client().Get("https://" + r.Addrs().Devices + trust.AnchorsPath)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(public.Body)
	if given, bad := trust.ParseAnchors(answer); errors.Join(err, bad, public.Body.Close()) != nil || given.LedgerKey != r.LedgerKey() || given.ReleaseKeys != string(r.ReleaseKeyPEM()) {
		t.Errorf("public keys: %s, %v, %v", answer, err, bad)
	}

	doc, err := json.Marshal(twin.Reported{Schema: 1, Site: "hall-1", Node: "pump-1", Boot: "b", Seq: 1, Class: "pump", Stream: twin.Stream{WindowsScored: 5}})
	if err != nil {
		t.Fatal(err)
	}
	d.publish(t, topic.Reported, doc)
	begin := time.Now().Add(-time.Minute).UTC()
	block, err := telemetry.Block{Boot: 1, Seq: 1, Stream: telemetry.Raw, T0: begin.UnixNano(), RateHz: 10, Signals: []telemetry.Signal{{Name: "pressure", Unit: "bar", Values: []float32{1, 2, 3, 4}}}}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	d.publish(t, topic.Blocks, block)

	// What was acknowledged is there to be asked for.
	dev, err := r.api.GetDeviceWithResponse(t.Context(), "hall-1", "pump-1")
	if err != nil || dev.JSON200 == nil || dev.JSON200.Status.State != apimodel.DeviceStateOk || *dev.JSON200.Spec.Line != "l1" || !dev.JSON200.Status.Connected {
		t.Fatalf("device: %v, %s", err, dev.Body)
	}
	s, err := r.api.QuerySeriesWithResponse(t.Context(), &apimodel.QuerySeriesParams{Node: "hall-1/pump-1", Signal: "pressure", From: begin.Add(-time.Hour), To: begin.Add(time.Hour)})
	if err != nil || s.JSON200 == nil || fmt.Sprint(s.JSON200.Mean) != "[1 2 3 4]" {
		t.Fatalf("series: %v, %s", err, s.Body)
	}
	events, err := r.api.ListAuditEventsWithResponse(t.Context(), &apimodel.ListAuditEventsParams{Subject: new("Device/hall-1/pump-1")})
	if err != nil || events.JSON200 == nil || len(events.JSON200.Items) < 2 {
		t.Fatalf("audit: %v, %s", err, events.Body)
	}
	policies, err := r.api.ListRolloutPoliciesWithResponse(t.Context(), nil)
	if err != nil || policies.JSON200 == nil || len(policies.JSON200.Items) != 1 {
		t.Errorf("configured policies: %v, %s", err, policies.Body)
	}

	// Release files want the device's certificate.
	url := "https://" + r.Addrs().Devices + "/v1/releases/" + strings.Repeat("0", 64) + "/manifest.json"
	for want, c := range map[int]*http.Client{http.StatusUnauthorized: (&device{pool: d.pool}).client(), http.StatusNotFound: d.client()} {
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != want {
			t.Errorf("release file: %d, want %d", res.StatusCode, want)
		}
	}

	// A restart of the hub loses nothing of it.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = start(t, cfg, r.password)
	s, err = r.api.QuerySeriesWithResponse(t.Context(), &apimodel.QuerySeriesParams{Node: "hall-1/pump-1", Signal: "pressure", From: begin.Add(-time.Hour), To: begin.Add(time.Hour)})
	if err != nil || s.JSON200 == nil || len(s.JSON200.Mean) != 4 {
		t.Errorf("series after the restart: %v, %s", err, s.Body)
	}
	d.connect(t, r.Addrs().MQTT)

	gone, err := r.api.RetireDeviceWithResponse(t.Context(), "hall-1", "pump-1", nil)
	if err != nil || gone.JSON200 == nil || gone.JSON200.Status.State != apimodel.DeviceStateRetired {
		t.Fatalf("retire: %v, %s", err, gone.Body)
	}
	d.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, d.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a retired device keeps its session")
	}
	res, err := d.client().Get("https://" + r.Addrs().Devices + "/v1/releases/" + strings.Repeat("0", 64) + "/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	if res.Body.Close(); res.StatusCode != http.StatusForbidden {
		t.Errorf("a retired device gets %d for a release file", res.StatusCode)
	}
}

func TestALostPasswordIsReset(t *testing.T) {
	cfg := onFreePorts(t.TempDir())
	r := start(t, cfg, "")
	password, err := hub.ResetPassword(t.Context(), cfg, "admin")
	if err != nil || password == r.password {
		t.Fatalf("reset while the hub runs: %q, %v", password, err)
	}
	who, err := r.api.GetSessionWithResponse(t.Context())
	if err != nil || who.StatusCode() != http.StatusUnauthorized {
		t.Errorf("the old session: %d, %v", who.StatusCode(), err)
	}
	in, err := r.api.LoginWithResponse(t.Context(), apimodel.LoginRequest{User: "admin", Password: password})
	if err != nil || in.JSON200 == nil {
		t.Errorf("log in with the new one: %s, %v", in.Body, err)
	}
	if _, err := hub.ResetPassword(t.Context(), cfg, "nobody"); err == nil {
		t.Error("a user that is not there got a password")
	}
}

func TestAHubKeepsItsStateInPostgreSQL(t *testing.T) {
	database := storetest.Postgres(t)
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(database(t)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := onFreePorts(t.TempDir())
	cfg.Store.PostgresURLFile = file
	cfg.Objects.Dir = t.TempDir()
	r := start(t, cfg, "")
	r.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	list, err := r.api.ListDevicesWithResponse(t.Context(), nil)
	if err != nil || list.JSON200 == nil || list.JSON200.Total != 1 {
		t.Errorf("devices: %v, %s", err, list.Body)
	}
}

func TestHubsShareTheWorkByRole(t *testing.T) {
	database := storetest.Postgres(t)
	shared := t.TempDir()
	file := filepath.Join(shared, "url")
	if err := os.WriteFile(file, []byte(database(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	part := func(name string, roles ...hub.Role) hub.Config {
		cfg := onFreePorts(t.TempDir())
		cfg.Name, cfg.Roles, cfg.SharedDir = name, roles, shared
		cfg.Store.PostgresURLFile, cfg.Objects.Dir = file, filepath.Join(shared, "objects")
		return cfg
	}
	devices, err := hub.New(t.Context(), part("devices", hub.RoleIngest, hub.RoleDispatch))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { devices.Close() })
	if devices.Addrs().HTTP != "" {
		t.Errorf("a hub without the role api listens for people on %s", devices.Addrs().HTTP)
	}
	people := start(t, part("people", hub.RoleAPI), "")
	if a := people.Addrs(); a.MQTT != "" || a.Devices != "" {
		t.Errorf("a hub with the role api alone listens for devices: %+v", a)
	}
	both := &running{Hub: devices, api: people.api}
	d := both.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	d.connect(t, devices.Addrs().MQTT)
	doc, err := json.Marshal(twin.Reported{Schema: 1, Site: "hall-1", Node: "pump-1", Boot: "b", Seq: 1, Class: "pump"})
	if err != nil {
		t.Fatal(err)
	}
	d.publish(t, topic.Reported, doc)
	last := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		res, err := people.api.GetDeviceWithResponse(t.Context(), "hall-1", "pump-1")
		if err != nil {
			t.Fatal(err)
		}
		if last = string(res.Body); res.JSON200 != nil && res.JSON200.Status.State == apimodel.DeviceStateOk {
			return
		}
	}
	t.Errorf("the hub for people does not see what the hub for devices took in: %s", last)
}

func TestADeviceGetsItsDesiredDocumentWheneverItSubscribes(t *testing.T) {
	cfg := onFreePorts(t.TempDir())
	r := start(t, cfg, "")
	d := r.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	// What a dispatcher stored; the hub's own holds the lease under its name.
	db, err := sqlite.Open(t.Context(), filepath.Join(cfg.DataDir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	now := time.Now().UTC()
	if ok, err := db.Dispatch().Acquire(t.Context(), "hub", now, time.Minute); err != nil || !ok {
		t.Fatalf("the lease: %t, %v", ok, err)
	}
	doc := twin.Desired{Schema: 1, Site: "hall-1", Node: "pump-1", IssuedAt: now, ExpiresAt: now.Add(time.Hour), Floors: map[string]uint64{"pump-anomaly": 3}}
	ended := rollout.Rollout{Name: "r", State: rollout.Superseded, Created: now, Ended: now}
	if _, err := db.Dispatch().Commit(t.Context(), dispatch.Commit{Holder: "hub", Now: now, Rollout: ended, Desired: []twin.Desired{doc}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the broker keeps no session: each connection asks anew
		d.connect(t, r.Addrs().MQTT)
		d.packet(t, 0x82, []byte{0, 9}, text(topic.Of(d.id, topic.Desired)), []byte{1})
		body := d.read(t, 0x30)
		name := text(topic.Of(d.id, topic.Desired))
		if !bytes.HasPrefix(body, name) {
			t.Fatalf("a message on another topic: %q", body)
		}
		got, err := twin.ParseDesired(body[len(name)+2:], d.id)
		if err != nil || got.Generation != 1 || got.Floors["pump-anomaly"] != 3 {
			t.Errorf("desired %+v, %v", got, err)
		}
		d.conn.Close()
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cfg := onFreePorts(t.TempDir())
	cfg.Log = slog.New(slog.DiscardHandler)
	if err := hub.Run(ctx, cfg, func(*hub.Hub) { cancel() }); err != nil {
		t.Errorf("got %v", err)
	}
}
