package ctl_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/ctl"
)

// screen keeps what a command has said so far.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) until(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(s.String(), want) {
			return
		}
	}
	t.Fatalf("%q was not said: %s", want, s)
}

// answers is a hub that knows one answer a path, and a stream that says nothing.
type answers map[string]string

func (a answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/api/v1")
	if path == "/events" {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	}
	_, _ = io.WriteString(w, a[path])
}

// serve answers at addr until the result is called, which breaks every connection.
func serve(t *testing.T, addr string, h http.Handler) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	var once sync.Once
	stop = func() { once.Do(func() { _ = srv.Close(); <-done }) }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// run starts swellctl against a hub; code gets its exit code.
func run(t *testing.T, addr string, args ...string) (out, talk *screen, code chan int, interrupt func()) {
	t.Helper()
	t.Setenv("SWELL_URL", "http://"+addr)
	t.Setenv("SWELL_TOKEN", "x")
	out, talk, code = &screen{}, &screen{}, make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { code <- ctl.Main(ctx, args, strings.NewReader(""), out, talk, "test") }()
	return out, talk, code, cancel
}

func deviceList(names ...string) string {
	items := make([]string, len(names))
	for i, n := range names {
		items[i] = fmt.Sprintf(`{"metadata":{"name":"hall-1/%s"},"status":{"state":"ok"}}`, n)
	}
	return `{"items":[` + strings.Join(items, ",") + `],"total":` + fmt.Sprint(len(items)) + `}`
}

func TestAWatchOutlivesTheHub(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0", answers{"/devices": deviceList("p1")})
	out, talk, code, interrupt := run(t, addr, "get", "devices", "-w", "-o", "name")
	out.until(t, "hall-1/p1\n")
	stop()
	talk.until(t, "The connection to the hub is lost: ")
	serve(t, addr, answers{"/devices": deviceList("p1", "p2")})
	out.until(t, "hall-1/p2\n")
	talk.until(t, "The hub is back.")
	interrupt()
	if c := <-code; c != ctl.CodeOK {
		t.Errorf("exit code %d: %s", c, talk)
	}
	if n := strings.Count(out.String(), "p1"); n != 1 {
		t.Errorf("what had not changed was printed %d times", n)
	}
	if n := strings.Count(talk.String(), "lost"); n != 1 {
		t.Errorf("it said %d times that the hub is gone: %s", n, talk)
	}
}

func TestAWatchedRolloutOutlivesTheHub(t *testing.T) {
	rollout := func(state, wave, gate string, done int) string {
		return fmt.Sprintf(`{"metadata":{"name":"r"},"status":{"state":%q,"message":"so it is","counts":{"done":%d,"devices":2},
			"windows":[{"names":["night"],"zone":"UTC","devices":2,"open":false,"changeAt":"2026-11-23T22:00:00Z"}],
			"waves":[{"name":"canary","state":%q,"counts":{"done":%d,"devices":1,"inFlight":%d},"gates":[{"name":"shadow","verdict":%q,"value":1.9,"threshold":1.5,"comparison":"<=","eHarm":12,"eSafe":0.5,"eLimit":100,"message":""}]},
			{"name":"rest","state":"waiting","counts":{"done":0,"devices":0},"gates":[]}]}}`, state, done, wave, done, 1-done, gate)
	}
	addr, stop := serve(t, "127.0.0.1:0", answers{"/rollouts/r": rollout("running", "running", "INCONCLUSIVE", 0)})
	_, talk, code, _ := run(t, addr, "rollout", "watch", "r")
	talk.until(t, "running: 0 of 2 devices done. so it is")
	talk.until(t, "wave canary running: 0 of 1 devices done, 1 on their way")
	talk.until(t, "gate shadow INCONCLUSIVE: 1.9, must be <= 1.5 (e-value for harm 12, for safety 0.5, needed 100)")
	talk.until(t, "window night for 2 devices: shut, opens 2026-11-23 ")
	stop()
	talk.until(t, "The connection to the hub is lost: ")
	serve(t, addr, answers{"/rollouts/r": rollout("promoted", "passed", "PASS", 1)})
	if c := <-code; c != ctl.CodeOK {
		t.Errorf("exit code %d: %s", c, talk)
	}
	if !strings.Contains(talk.String(), "The hub is back.") || !strings.Contains(talk.String(), "gate shadow PASS") {
		t.Errorf("it said %s", talk)
	}
}

func TestAHubThatWasNeverThereIsNotWaitedFor(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0", answers{})
	stop()
	for _, args := range [][]string{{"get", "devices", "-w"}, {"rollout", "watch", "r"}} {
		_, talk, code, _ := run(t, addr, args...)
		if c := <-code; c != ctl.CodeFailed || !strings.Contains(talk.String(), "does it run, and at this address?") {
			t.Errorf("%v: exit code %d: %s", args, c, talk)
		}
	}
}

func TestWhyIsOneReadableBlock(t *testing.T) {
	addr, _ := serve(t, "127.0.0.1:0", answers{
		"/rollouts/pump-7": `{"spec":{"release":{"id":"pump-7"},"policy":"careful"},"status":{"state":"rolling-back","message":"a gate failed","waves":[{"name":"canary"}]}}`,
		"/rollouts/pump-7/decisions": `{"items":[
			{"id":"9","at":"2026-11-23T22:14:03Z","summary":"wave canary failed its shadow gate","state":"rolling-back","stateBefore":"held","wave":0,
			 "reasons":["L4 idle at 22:00"],"revoked":["hall-1/p1","hall-1/p2"],
			 "gates":[{"name":"success","verdict":"INCONCLUSIVE","message":"0 of 5 have ended"},
			          {"name":"shadow","verdict":"FAIL","value":1.9,"comparison":"<=","threshold":1.5,"n":412,"nUnit":"windows","eHarm":412,"eSafe":0.01,"eLimit":100,"message":"3 of 5 canaries flag 1.9x the champion, e-value 412 > 100"}]}]}`,
	})
	out, talk, code, _ := run(t, addr, "rollout", "why", "pump-7")
	if c := <-code; c != ctl.CodeOK {
		t.Fatalf("exit code %d: %s", c, talk)
	}
	want := "  rolling-back: wave canary failed its shadow gate; shadow: 3 of 5 canaries flag\n" +
		"  1.9x the champion, e-value 412 > 100; L4 idle at 22:00.\n" +
		"  called back: hall-1/p1, hall-1/p2\n" +
		"    VERDICT       GATE     VALUE  MUST BE  COUNTED      E-VALUE "
	if !strings.Contains(out.String(), want) {
		t.Errorf("it says\n%s\nwant in it\n%s", out, want)
	}
}
