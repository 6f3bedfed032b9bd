package ctl_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/swellfleet/swell/cloud/ctl"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/series/embedded"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"swellctl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(ctl.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, "1.2.3"))
	}})
}

// TestStories runs swellctl as a process against a real hub, a hub for each
// story. A story finds the hub at $HUB and its admin's password in the file
// password; the fleet and the files are those of plant.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               plant,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"example": example,
			"until":   until,
			"login": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(ts.Exec("sh", "-c", "swellctl login $HUB --name factory --password-stdin < password"))
			},
		},
	})
}

// exits runs a program and wants one exit code: exits CODE PROGRAM ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// until waits for a file of a background command to have so many lines that
// match: until FILE COUNT REGEXP.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: until FILE COUNT REGEXP")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	line := regexp.MustCompile("(?m)^.*" + args[2] + ".*$")
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-t.C {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && len(line.FindAll(b, -1)) >= want {
			return
		}
	}
	ts.Fatalf("%s has not %d lines with %s after 30s", args[0], want, args[2])
}

// plant makes a small factory and starts its hub: three presses in two lines
// of hall-1, of which press-03 sent an hour of pressure and vibration; one
// release, pump-anomaly-1; and beside the story the release's files in
// release/, the hub's public key in release.pub, another key in other.pub and
// the log's key in ledger.pub.
func plant(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, ".hub")
	objects := filepath.Join(env.WorkDir, ".objects")
	ctx := context.Background()
	if err := os.MkdirAll(filepath.Join(dir, "series"), 0o700); err != nil {
		return err
	}
	if err := devices(ctx, filepath.Join(dir, "state.db")); err != nil {
		return err
	}
	if err := history(ctx, filepath.Join(dir, "series")); err != nil {
		return err
	}
	log, err := ledger.Open(ctx, ledger.Config{Dir: filepath.Join(dir, "ledger"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	vkey := log.VerifierKey()
	if err := log.Close(ctx); err != nil {
		return err
	}

	const free = "127.0.0.1:0"
	var password string
	h, err := hub.New(ctx, hub.Config{
		DataDir: dir, HTTP: hub.HTTP{Listen: free}, Devices: hub.Devices{Listen: free}, Broker: hub.Broker{Listen: free},
		Objects: hub.Objects{Listen: free, Dir: objects}, Version: "4.5.6", Password: func(_, p string) { password = p },
	})
	if err != nil {
		return err
	}
	env.Defer(func() {
		if err := h.Close(); err != nil {
			env.T().Fatal("close the hub: ", err)
		}
	})
	rel, err := h.PublishModel(ctx, release.Candidate{Name: "pump-anomaly", Kind: artifact.Model, Card: "A model for a test.", Variants: []release.Variant{{
		Classes: []artifact.Class{"press"}, Files: []release.File{
			release.Bytes("press/model.onnx", artifact.RoleModel, []byte("a model")),
			release.Bytes("press/golden.json", artifact.RoleGolden, []byte("{}")),
		},
	}}})
	if err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(env.WorkDir, "release"), os.DirFS(filepath.Join(objects, filepath.FromSlash(rel.Key)))); err != nil {
		return err
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		return err
	}
	// A listener that takes calls and never answers.
	deaf, err := net.Listen("tcp", free)
	if err != nil {
		return err
	}
	env.Defer(func() { _ = deaf.Close() })
	env.Setenv("HUB", "http://"+h.Addrs().HTTP)
	env.Setenv("DEAF", "http://"+deaf.Addr().String())
	env.Setenv("SWELL_CONFIG", filepath.Join(env.WorkDir, "config.yaml"))
	env.Setenv("LEDGER_KEY", vkey)
	for name, data := range map[string][]byte{
		"password": []byte(password + "\n"), "release.pub": h.ReleaseKeyPEM(), "ledger.pub": []byte(vkey + "\n"),
		"other.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func devices(ctx context.Context, file string) error {
	db, err := sqlite.Open(ctx, file)
	if err != nil {
		return err
	}
	for i, line := range []string{"l1", "l1", "l2"} {
		id := topic.ID{Site: "hall-1", Node: fmt.Sprintf("press-%02d", i+1)}
		r := fleet.Record{ID: id, Class: "press", Labels: map[string]string{"line": line}, EnrolledAt: time.Now().Add(-time.Hour).UTC(), Version: 1}
		if err := db.Fleet().SaveDevice(ctx, r); err != nil {
			return errors.Join(err, db.Close())
		}
	}
	return db.Close()
}

// rows is more than one answer of the hub can hold.
const rows = 36_000

// history is an hour of two signals at 10 Hz: a slow wave with one peak, and a
// signal that stands still.
func history(ctx context.Context, dir string) error {
	s, err := embedded.Open(embedded.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), KeepHead: true})
	if err != nil {
		return err
	}
	pressure, still := make([]float32, rows), make([]float32, rows)
	for i := range pressure {
		pressure[i] = float32(5 + math.Sin(float64(i)*2*math.Pi/rows))
		still[i] = 7
	}
	pressure[rows/2] = 42
	t0 := time.Now().Add(-rows * 100 * time.Millisecond).Truncate(time.Second)
	const part = 3_600
	var batches []series.Batch
	for i := 0; i < rows; i += part {
		batches = append(batches, series.Batch{
			ID: topic.ID{Site: "hall-1", Node: "press-03"}, Stream: "raw", Boot: 1, Seq: uint64(i/part + 1), First: uint64(i),
			T0: t0.Add(time.Duration(i) * 100 * time.Millisecond).UnixNano(), RateHz: 10,
			Columns: []series.Column{
				{Name: "pressure", Unit: "bar", Kind: series.Float32, Float32: pressure[i : i+part]},
				{Name: "vibration", Unit: "mm/s", Kind: series.Float32, Float32: still[i : i+part]},
			},
		})
	}
	if err := s.Append(ctx, batches); err != nil {
		return errors.Join(err, s.Close())
	}
	return s.Close()
}
