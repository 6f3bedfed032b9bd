package embedded

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/objects/objectstest"
)

func TestMain(m *testing.M) {
	MaybeRunChild()
	if root := os.Getenv("SWELL_TEST_OBJECT_PARENT"); root != "" {
		parent(root)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Listen = "127.0.0.1:0"
	cfg.MinBackoff, cfg.MaxBackoff = 10*time.Millisecond, 100*time.Millisecond
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestExercise(t *testing.T) { objectstest.Exercise(t, open(t, Config{})) }

func TestExerciseWithMetadataBesideTheFiles(t *testing.T) {
	defer func(f func(string) bool) { probe = f }(probe)
	probe = func(string) bool { return false }
	objectstest.Exercise(t, open(t, Config{}))
}

func TestAServerThatDiesIsStartedAgainAndKeepsItsObjects(t *testing.T) {
	s := open(t, Config{})
	if err := s.Put(t.Context(), "a/b", strings.NewReader("kept"), 4); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := syscall.Kill(int(s.pid.Load()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await(t, "the restart", func() bool { return s.Restarts() == uint64(i+1) && answers(s.Listen()) })
		r, _, err := s.Get(t.Context(), "a/b", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil || string(b) != "kept" {
			t.Fatalf("%q, %v", b, err)
		}
	}
}

func TestASecondOpenFindsTheObjectsAndCredentialsOfTheFirst(t *testing.T) {
	root := filepath.Join(t.TempDir(), "deep", "objects")
	s := open(t, Config{Dir: root})
	if err := s.Put(t.Context(), "a/b", strings.NewReader("kept"), 4); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if answers(s.Listen()) {
		t.Error("the server answers after Close")
	}
	st, err := os.Stat(filepath.Join(root, "credentials.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("credentials: %v %v, want mode 0600", st, err)
	}
	s = open(t, Config{Dir: root})
	if _, err := s.Stat(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
}

func TestTheServerEndsWhenTheHubIsKilled(t *testing.T) {
	root := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SWELL_TEST_OBJECT_PARENT="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		t.Fatal(err)
	}
	if !answers(addr) {
		t.Fatal("the server does not answer")
	}
	cmd.Process.Kill()
	cmd.Wait()
	await(t, "the end of the server", func() bool { return !answers(addr) })
}

// parent is the hub of the test above.
func parent(root string) {
	s, err := Open(context.Background(), Config{Dir: root, Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.Listen())
	select {}
}

func TestWhatCannotWorkIsSaidAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "credentials.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, cfg := range map[string]Config{
		"s3.listen":      {Dir: t.TempDir(), Listen: l.Addr().String(), ListenKey: "s3.listen"},
		"not a loopback": {Dir: t.TempDir(), Listen: "0.0.0.0:0"},
		"directory":      {Listen: "127.0.0.1:0"},
		"is damaged":     {Dir: damaged, Listen: "127.0.0.1:0"},
	} {
		s, err := Open(t.Context(), cfg)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a word on %q", err, want)
		}
	}
}

func answers(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("%s did not come", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
