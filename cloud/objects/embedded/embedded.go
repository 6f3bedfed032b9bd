// Package embedded is an S3 server that the hub runs for itself: versitygw over
// a directory, in a child process of the same binary, spoken to as any other S3
// server through objects/s3.
//
// The parties are the hub, which starts the server and puts and gets; the
// server, which listens on loopback only; and the operator, who may point any S3
// tool at it with the credentials in {directory}/credentials.json.
//
// It promises what objects.Store promises. versitygw does not sync what it
// writes, so Put syncs the file, its metadata and their directories here before
// it returns. A server that dies is started again, after a growing pause;
// meanwhile calls are tried again by minio-go and then fail. The server ends
// with the hub, also when the hub is killed.
//
// Why a child: versitygw changes the working directory of its process.
package embedded

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/cloud/objects/s3"
)

// Config says where the server keeps its objects and listens.
type Config struct {
	Dir       string // required; made if missing: data/, sidecar/ and credentials.json
	Listen    string // loopback host:port; default 127.0.0.1:7442; port 0 picks a free one
	ListenKey string // the name of that setting in the hub's configuration, for messages; default "objects.listen"
	Bucket    string // default swell

	StartTimeout time.Duration // for the server to answer after Open or a restart; default 20 s
	MinBackoff   time.Duration // pause before the first restart, doubled up to MaxBackoff; default 200 ms
	MaxBackoff   time.Duration // default 30 s

	Log *slog.Logger // nil discards; the server's own output goes there at debug level
}

// Store is the server and its bucket. It implements objects.Store.
type Store struct {
	*s3.Store
	cfg    Config
	listen string // the address in use
	root   string // of the objects of the bucket
	meta   string // the same below sidecar/; empty when attributes are in the files

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	pid      atomic.Int64
	restarts atomic.Uint64
}

// Open starts the server and waits until it answers. The caller's main must
// call MaybeRunChild before anything else.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.Listen = orDefault(cfg.Listen, "127.0.0.1:7442")
	cfg.ListenKey = orDefault(cfg.ListenKey, "objects.listen")
	cfg.Bucket = orDefault(cfg.Bucket, "swell")
	cfg.StartTimeout = orDefault(cfg.StartTimeout, 20*time.Second)
	cfg.MinBackoff = orDefault(cfg.MinBackoff, 200*time.Millisecond)
	cfg.MaxBackoff = orDefault(cfg.MaxBackoff, 30*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dir == "" {
		return nil, errors.New("objects: the directory of the embedded server is not set")
	}
	root, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	cfg.Dir = root
	listen, err := freeAddress(cfg.Listen, cfg.ListenKey)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(root, "data"), 0o700); err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	creds, err := credentials(filepath.Join(root, "credentials.json"))
	if err != nil {
		return nil, fmt.Errorf("objects: credentials of the embedded server: %w", err)
	}
	s := &Store{cfg: cfg, listen: listen, root: filepath.Join(root, "data", cfg.Bucket)}
	if !probe(filepath.Join(root, "data")) {
		s.meta = filepath.Join(root, "sidecar", cfg.Bucket)
		if err := os.MkdirAll(filepath.Join(root, "sidecar"), 0o700); err != nil {
			return nil, fmt.Errorf("objects: %w", err)
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	first := make(chan error, 1)
	s.wg.Go(func() { s.keep(first) })
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		s.Store, err = s3.Open(ctx, s3.Config{
			Endpoint: listen, Insecure: true, Bucket: cfg.Bucket,
			AccessKey: creds.AccessKey, SecretKey: creds.SecretKey,
		})
	}
	if err == nil {
		err = dir.Sync(filepath.Dir(root), s.root)
	}
	if err != nil {
		_ = s.Close() // why it could not start says more
		return nil, fmt.Errorf("cannot start the embedded object server on %s: %w", listen, err)
	}
	return s, nil
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// freeAddress checks that listen can be bound on loopback, and puts a free port
// for port 0, since the server does not tell which one it got.
func freeAddress(listen, key string) (string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("%s: %s is not a loopback address; the embedded object server speaks plain HTTP and serves this hub alone", key, listen)
	}
	l, err := net.Listen("tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return "", fmt.Errorf("cannot listen for objects on %s: another program uses this port; stop it or change %s: %w", listen, key, err)
	}
	if err != nil {
		return "", fmt.Errorf("cannot listen for objects on %s (%s): %w", listen, key, err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// secret is the root account of the server.
type secret struct {
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
}

// credentials reads the file at path, or makes it with new random keys.
func credentials(path string) (secret, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		var c secret
		if err := json.Unmarshal(b, &c); err != nil || c.AccessKey == "" || c.SecretKey == "" {
			return c, fmt.Errorf("%s is damaged; remove it to have new credentials made", path)
		}
		return c, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return secret{}, err
	}
	c := secret{AccessKey: "SWELL" + rand.Text()[:15], SecretKey: base32.StdEncoding.EncodeToString(random(30))}
	if b, err = json.Marshal(c); err != nil {
		return c, err
	}
	part := path + ".new"
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return c, err
	}
	if err := dir.Sync(filepath.Dir(path), part); err != nil {
		return c, err
	}
	if err := os.Rename(part, path); err != nil {
		return c, err
	}
	return c, dir.Sync(filepath.Dir(path), filepath.Dir(path))
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// keep runs the server until Close. first gets the outcome of the first start;
// a first start that fails is not tried again.
func (s *Store) keep(first chan<- error) {
	wait := s.cfg.MinBackoff
	for starting := true; ; starting = false {
		since := time.Now()
		answered, err := s.run(func() {
			if starting {
				first <- nil
			} else {
				s.cfg.Log.Info("object server runs again", "pid", s.pid.Load())
			}
		})
		if s.ctx.Err() != nil {
			return
		}
		if starting && !answered {
			first <- err
			return
		}
		s.cfg.Log.Error("object server ended; starting it again", "error", err, "after", time.Since(since))
		if time.Since(since) > s.cfg.MaxBackoff {
			wait = s.cfg.MinBackoff
		}
		pause := time.NewTimer(wait)
		select {
		case <-s.ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		wait = min(2*wait, s.cfg.MaxBackoff)
		s.restarts.Add(1)
	}
}

// run starts one child, calls ready when it answers, and returns when it ended.
func (s *Store) run(ready func()) (answered bool, err error) {
	// The kernel sends Pdeathsig when the thread that started the child ends,
	// not the process: this goroutine keeps the thread until the child is gone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	exe, err := os.Executable()
	if err != nil {
		return false, err
	}
	cmd := exec.Command(exe)
	cmd.Args = []string{os.Args[0], childArg, s.cfg.Dir, s.listen}
	if s.meta != "" {
		cmd.Args = append(cmd.Args, filepath.Dir(s.meta))
	}
	cmd.Env = []string{"GOMEMLIMIT=256MiB", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &lines{log: s.cfg.Log}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return false, err
	}
	s.pid.Store(int64(cmd.Process.Pid))
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		if err := s.await(ended); err == nil {
			answered = true
			ready()
		} else {
			_, _ = out.Write([]byte(err.Error() + "\n"))
			cmd.Process.Kill()
		}
		select {
		case <-ended:
		case <-s.ctx.Done():
			cmd.Process.Signal(syscall.SIGTERM)
			late := time.NewTimer(2 * time.Second)
			defer late.Stop()
			select {
			case <-ended:
			case <-late.C:
				cmd.Process.Kill()
			}
		}
	})
	err = cmd.Wait()
	close(ended)
	watch.Wait()
	if last := out.last(); last != "" {
		err = fmt.Errorf("%w: %s", orDefault(err, errEnded), last)
	}
	return answered, orDefault(err, errEnded)
}

var errEnded = errors.New("the server ended")

// await asks the server for its health until it answers.
func (s *Store) await(ended <-chan struct{}) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.NewTimer(s.cfg.StartTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := client.Get("http://" + s.listen + healthPath)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ended:
			return errEnded
		case <-s.ctx.Done():
			return s.ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("no answer within %v", s.cfg.StartTimeout)
		case <-tick.C:
		}
	}
}

// lines passes the server's output to the log and keeps its last line, since it
// says why a server ended.
type lines struct {
	log  *slog.Logger
	mu   sync.Mutex
	line string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range strings.Lines(string(p)) {
		if s = strings.TrimSpace(s); s != "" {
			l.line = s[:min(len(s), 500)]
			l.log.Debug("object server", "output", l.line)
		}
	}
	return len(p), nil
}

func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}

// Put writes an object and makes it durable; see objects.Store.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := s.Store.Put(ctx, key, r, size); err != nil {
		return err
	}
	return s.sync(key)
}

// PutIfAbsent writes an object unless one is there, and makes it durable; see
// objects.Store.
func (s *Store) PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := s.Store.PutIfAbsent(ctx, key, r, size); err != nil {
		return err
	}
	return s.sync(key)
}

// sync makes the object at key durable: syncing a file covers its extended
// attributes, which hold the server's metadata where the file system has them.
func (s *Store) sync(key string) error {
	err := dir.Sync(s.root, filepath.Join(s.root, filepath.FromSlash(key)))
	if s.meta != "" && err == nil {
		at := filepath.Join(s.meta, filepath.FromSlash(key), "meta")
		var attrs []fs.DirEntry
		if attrs, err = os.ReadDir(at); err == nil {
			for _, a := range attrs {
				err = errors.Join(err, dir.Sync(filepath.Join(at, a.Name()), filepath.Join(at, a.Name())))
			}
			err = errors.Join(err, dir.Sync(s.meta, at))
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // replaced or deleted by somebody else meanwhile: not this put's to keep
	}
	if err != nil {
		return fmt.Errorf("make object %s durable: %w", key, err)
	}
	return nil
}

// Listen returns the address of the server.
func (s *Store) Listen() string { return s.listen }

// Restarts says how often the server was started again.
func (s *Store) Restarts() uint64 { return s.restarts.Load() }

// Close ends the server and waits for it.
func (s *Store) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}
