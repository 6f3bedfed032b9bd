package interlock_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/agent/interlock"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// check asks one predicate; a reason that lacks want fails, "" wants it to permit.
func check(t *testing.T, p interlock.Predicate, want string) {
	t.Helper()
	s, err := interlock.New([]interlock.Predicate{p}, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	err = s.Check(t.Context())
	switch {
	case want == "" && err != nil:
		t.Errorf("forbids: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %q", err, want)
	}
	if !errors.Is(s.Last(), err) {
		t.Errorf("remembers %v", s.Last())
	}
}

func TestAFilePermitsOnlyWhatItHolds(t *testing.T) {
	dir := t.TempDir()
	write := func(text string, age time.Duration) string {
		f := filepath.Join(dir, "state")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(f, noon.Add(-age), noon.Add(-age)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, tc := range []struct {
		name, text, field, equals string
		age                       time.Duration
		maxAge                    float64
		want                      string
	}{
		{name: "it holds ok", text: "ok\n"},
		{name: "it holds something else", text: "running", want: `says "running", not ok`},
		{name: "it is empty", text: "", want: `says "", not ok`},
		{name: "it holds the wanted word", text: "idle", equals: "idle"},
		{name: "a field", text: `{"line":{"state":"idle"}}`, field: "line.state", equals: "idle"},
		{name: "a number", text: `{"rpm":0}`, field: "rpm", equals: "0"},
		{name: "a truth value", text: `{"open":true}`, field: "open", equals: "true"},
		{name: "another number", text: `{"rpm":120}`, field: "rpm", equals: "0", want: "120"},
		{name: "no such field", text: `{"a":1}`, field: "b", want: "cannot be read, which forbids"},
		{name: "a field below no object", text: `{"a":1}`, field: "a.b", want: "cannot be read, which forbids"},
		{name: "a field that is an object", text: `{"a":{}}`, field: "a", want: "cannot be read, which forbids"},
		{name: "no JSON", text: "ok", field: "a", want: "no JSON"},
		{name: "young enough", text: "ok", age: time.Minute, maxAge: 90},
		{name: "too old", text: "ok", age: 2 * time.Minute, maxAge: 90, want: "older than"},
		{name: "from the future", text: "ok", age: -time.Hour, maxAge: 90, want: "ahead of this device's clock"},
		{name: "too large", text: strings.Repeat("x", 70_000), want: "larger than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &interlock.File{Path: write(tc.text, tc.age), MaxAgeS: tc.maxAge, Value: interlock.Value{Field: tc.field, Equals: tc.equals}}
			check(t, interlock.Predicate{File: f}, tc.want)
		})
	}
	gone := filepath.Join(dir, "gone")
	check(t, interlock.Predicate{File: &interlock.File{Path: gone}}, gone+" cannot be read, which forbids")
	check(t, interlock.Predicate{File: &interlock.File{Path: dir}}, "no regular file")
}

func TestAnAnswerPermitsOnlyWhatItSays(t *testing.T) {
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/state", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"mode":"maintenance"}`) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/state", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("x", 70_000)) })
	mux.HandleFunc("/short", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "ok")
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/secret", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	plain := httptest.NewServer(mux)
	secure := httptest.NewTLSServer(mux)
	t.Cleanup(func() { close(release); plain.Close(); secure.Close() })
	dir := t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	for name, b := range map[string][]byte{token: []byte("s3cret\n"), ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	closed := httptest.NewServer(mux)
	closed.Close()
	maintenance := interlock.Value{Field: "mode", Equals: "maintenance"}
	for _, tc := range []struct {
		name string
		http interlock.HTTP
		want string
	}{
		{"the status alone", interlock.HTTP{URL: plain.URL + "/state"}, ""},
		{"a field", interlock.HTTP{URL: plain.URL + "/state", Value: maintenance}, ""},
		{"another value", interlock.HTTP{URL: plain.URL + "/state", Value: interlock.Value{Field: "mode", Equals: "run"}}, `says "maintenance", not run`},
		{"another status", interlock.HTTP{URL: plain.URL + "/broken"}, "answers 500 Internal Server Error, not 200"},
		{"a status that is wanted", interlock.HTTP{URL: plain.URL + "/broken", Status: 500}, ""},
		{"a redirection is not followed", interlock.HTTP{URL: plain.URL + "/away"}, "answers 302 Found"},
		{"an answer that is too large", interlock.HTTP{URL: plain.URL + "/large", Value: interlock.Value{Equals: "x"}}, "larger than"},
		{"an answer that breaks off", interlock.HTTP{URL: plain.URL + "/short", Value: interlock.Value{Equals: "ok"}}, "cannot be read, which forbids"},
		{"no answer in time", interlock.HTTP{URL: plain.URL + "/slow", TimeoutS: 0.05}, "cannot be read, which forbids"},
		{"nobody there", interlock.HTTP{URL: closed.URL}, closed.URL + " cannot be read, which forbids"},
		{"a token", interlock.HTTP{URL: plain.URL + "/secret", TokenFile: token}, ""},
		{"without the token", interlock.HTTP{URL: plain.URL + "/secret"}, "401"},
		{"a token file that is gone", interlock.HTTP{URL: plain.URL + "/secret", TokenFile: token + "x"}, "read token_file"},
		{"a CA that is named", interlock.HTTP{URL: secure.URL + "/state", CAFile: ca, Value: maintenance}, ""},
		{"an unknown CA", interlock.HTTP{URL: secure.URL + "/state"}, "cannot be read, which forbids"},
		{"a CA file without one", interlock.HTTP{URL: secure.URL + "/state", CAFile: token}, "holds no certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) { check(t, interlock.Predicate{HTTP: &tc.http}, tc.want) })
	}

	u := strings.Replace(closed.URL, "http://", "http://user:hidden@", 1) + "/x?key=hidden"
	s, err := interlock.New([]interlock.Predicate{{HTTP: &interlock.HTTP{URL: u}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("the reason shows a secret: %v", err)
	}
}

// broker starts a mosquitto of its own.
func broker(t *testing.T, config string) (address string, stop func()) {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path = "/usr/sbin/mosquitto"; !fileThere(path) {
			t.Skip("needs mosquitto: install the Debian package mosquitto")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(conf, []byte("listener "+port+" 127.0.0.1\n"+config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(stop)
	for until := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return "tcp://" + address, stop
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func fileThere(name string) bool { _, err := os.Stat(name); return err == nil }

func publisher(t *testing.T, address string) func(topic, text string, retained bool) {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(address).SetClientID("plc"))
	if tok := c.Connect(); tok.Wait() && tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	t.Cleanup(func() { c.Disconnect(0) })
	return func(topic, text string, retained bool) {
		if tok := c.Publish(topic, 1, retained, text); tok.Wait() && tok.Error() != nil {
			t.Error(tok.Error())
		}
	}
}

func TestATopicPermitsOnlyWhatItHolds(t *testing.T) {
	address, stop := broker(t, "allow_anonymous true\n")
	publish := publisher(t, address)
	stamp := func(age time.Duration) string { return noon.Add(-age).Format(time.RFC3339) }
	publish("line/state", "ok", true)
	publish("line/json", `{"state":"idle","at":"`+stamp(30*time.Second)+`"}`, true)
	publish("line/millis", fmt.Sprintf(`{"state":"idle","at":%d}`, noon.Add(-30*time.Second).UnixMilli()), true)
	publish("line/old", `{"state":"idle","at":"`+stamp(time.Hour)+`"}`, true)
	publish("line/odd", `{"state":"idle","at":"soon"}`, true)
	publish("line/large", strings.Repeat("x", 70_000), true)
	idle := interlock.Value{Field: "state", Equals: "idle"}
	for _, tc := range []struct {
		name string
		mqtt interlock.MQTT
		want string
	}{
		{"the retained value", interlock.MQTT{Topic: "line/state"}, ""},
		{"another value", interlock.MQTT{Topic: "line/state", Value: interlock.Value{Equals: "idle"}}, `says "ok", not idle`},
		{"young enough", interlock.MQTT{Topic: "line/json", Value: idle, TimeField: "at", MaxAgeS: 60}, ""},
		{"young enough in milliseconds", interlock.MQTT{Topic: "line/millis", Value: idle, TimeField: "at", MaxAgeS: 60}, ""},
		{"too old", interlock.MQTT{Topic: "line/old", Value: idle, TimeField: "at", MaxAgeS: 60}, "older than"},
		{"no time", interlock.MQTT{Topic: "line/odd", Value: idle, TimeField: "at", MaxAgeS: 60}, "no time"},
		{"no such time field", interlock.MQTT{Topic: "line/json", Value: idle, TimeField: "when", MaxAgeS: 60}, `no field "when"`},
		{"too large", interlock.MQTT{Topic: "line/large", Value: interlock.Value{Equals: "x"}}, "larger than"},
		{"nothing retained", interlock.MQTT{Topic: "line/none", TimeoutS: 0.2}, "topic line/none at " + strings.TrimPrefix(address, "tcp://") + " cannot be read, which forbids: no value"},
		{"a retained value of unknown age", interlock.MQTT{Topic: "line/state", MaxAgeS: 0.2}, "does not say how old it is"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.mqtt.Broker = address
			check(t, interlock.Predicate{MQTT: &tc.mqtt}, tc.want)
		})
	}
	t.Run("a value published while it listens", func(t *testing.T) {
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				publish("line/state", "ok", true)
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		}()
		check(t, interlock.Predicate{MQTT: &interlock.MQTT{Broker: address, Topic: "line/state", MaxAgeS: 20}}, "")
		cancel()
		<-done
	})
	stop()
	check(t, interlock.Predicate{Name: "line 3", MQTT: &interlock.MQTT{Broker: address, Topic: "line/state"}}, "line 3 (topic line/state at "+strings.TrimPrefix(address, "tcp://")+") cannot be read, which forbids: connect")
}

func TestABrokerThatWantsAPasswordGetsIt(t *testing.T) {
	dir := t.TempDir()
	passwords := filepath.Join(dir, "passwords")
	tool, err := exec.LookPath("mosquitto_passwd")
	if err != nil {
		t.Skip("needs mosquitto_passwd: install the Debian package mosquitto")
	}
	if out, err := exec.Command(tool, "-b", "-c", passwords, "agent", "s3cret").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, mode := range map[string]os.FileMode{passwords: 0o644, dir: 0o755, filepath.Dir(dir): 0o755} { // mosquitto runs as another user
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address, _ := broker(t, "allow_anonymous false\npassword_file "+passwords+"\n")
	with := interlock.MQTT{Broker: address, Topic: "x", User: "agent", PasswordFile: secret, TimeoutS: 0.5}
	check(t, interlock.Predicate{MQTT: &with}, "nothing is retained there")
	without := interlock.MQTT{Broker: address, Topic: "x", TimeoutS: 0.5}
	check(t, interlock.Predicate{MQTT: &without}, "cannot be read, which forbids: connect")
}

// All have to permit; every one that forbids is named.
func TestOneThatForbidsIsEnough(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) interlock.Predicate {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return interlock.Predicate{Name: name, File: &interlock.File{Path: f}}
	}
	s, err := interlock.New([]interlock.Predicate{file("door", "ok"), file("line", "running"), file("batch", "open")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Check(t.Context())
	if err == nil || strings.Contains(err.Error(), "door") || !strings.Contains(err.Error(), "line (") || !strings.Contains(err.Error(), "; batch (") {
		t.Errorf("%v", err)
	}
	file("line", "ok")
	file("batch", "ok")
	if err := s.Check(t.Context()); err != nil || s.Last() != nil {
		t.Errorf("%v, %v", err, s.Last())
	}
	if err := (&interlock.Set{}).Check(t.Context()); err != nil {
		t.Errorf("no interlocks: %v", err)
	}
}

func TestWhatCanNeverWorkIsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"nothing named":              {"- name: x", "exactly one of file, http and mqtt, there are 0"},
		"two at once":                {"- {file: {path: /x}, http: {url: 'http://h/'}}", "there are 2"},
		"no path":                    {"- file: {}", "file.path is empty"},
		"another scheme":             {"- http: {url: 'ftp://h/'}", "want http://"},
		"no address":                 {"- http: {url: '://'}", "no address"},
		"a long timeout":             {"- http: {url: 'http://h/', timeout_s: 600}", "want 0 to 60"},
		"a wildcard":                 {"- mqtt: {broker: 'tcp://h:1', topic: 'a/+'}", "one topic"},
		"a password in the address":  {"- mqtt: {broker: 'tcp://u:p@h:1', topic: a}", "password_file"},
		"an age nobody can know":     {"- mqtt: {broker: 'tcp://h:1', topic: a, max_age_s: 600}", "does not say when it was published"},
		"a time that is not used":    {"- mqtt: {broker: 'tcp://h:1', topic: a, time_field: at}", "decides nothing"},
		"a key that does not exist":  {"- file: {path: /x, equal: ok}", "not found"},
		"more than can be looked at": {strings.Repeat("- file: {path: /x}\n", 17), "at most 16"},
	} {
		t.Run(name, func(t *testing.T) {
			d := yaml.NewDecoder(strings.NewReader(tc.text))
			d.KnownFields(true)
			var ps []interlock.Predicate
			err := d.Decode(&ps)
			if err == nil {
				_, err = interlock.New(ps, nil)
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
