// Package hub builds a whole hub out of its parts, starts them in order and
// stops them in the reverse one.
//
// The parties are a configuration, the packages under cloud that each do one
// thing, and the operating system that wants to know when all of them serve.
// This is the composition root: here interfaces meet their implementations and
// nothing is decided. cmd/swell-hub runs it, and the simulator runs it beside
// its agents; a program that does so calls MaybeRunChild before anything else.
//
// It promises that New returns only when every listener is open, with an error
// that names the setting to change when one cannot be; and that Close leaves
// nothing running and loses nothing that was acknowledged.
package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/cloud/broker"
	mqttembedded "github.com/swellfleet/swell/cloud/broker/embedded"
	mqttexternal "github.com/swellfleet/swell/cloud/broker/external"
	"github.com/swellfleet/swell/cloud/console"
	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/frames"
	"github.com/swellfleet/swell/cloud/garden"
	"github.com/swellfleet/swell/cloud/ingest"
	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/objects/dir"
	s3embedded "github.com/swellfleet/swell/cloud/objects/embedded"
	"github.com/swellfleet/swell/cloud/objects/s3"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/release/signing"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/segments"
	"github.com/swellfleet/swell/cloud/series"
	seriesembedded "github.com/swellfleet/swell/cloud/series/embedded"
	"github.com/swellfleet/swell/cloud/series/influx"
	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/cloud/store/postgres"
	"github.com/swellfleet/swell/cloud/store/sqlite"
	"github.com/swellfleet/swell/protocol"
	"github.com/swellfleet/swell/protocol/topic"
)

// MaybeRunChild is to be called first in main of every program that runs a
// hub: in the processes that a hub started to serve objects or to fit a model
// it never returns.
func MaybeRunChild() {
	s3embedded.MaybeRunChild()
	retrain.MaybeFit()
}

// Addrs are the addresses that a hub listens on, host:port; empty for what it
// does not serve.
type Addrs struct {
	HTTP    string // people
	Devices string // enrolment and releases, HTTPS
	MQTT    string // devices
	Objects string // S3, loopback
}

// Hub is a running hub. Make one with New.
type Hub struct {
	cfg     Config
	log     *slog.Logger
	serving atomic.Bool
	stops   []stop // in the order of starting
	failed  chan error
	tasks   sync.WaitGroup
	cancel  context.CancelFunc // ends the background tasks
	addrs   Addrs

	lock       *os.File
	db         *store.DB
	ledger     *ledger.Log
	objects    objects.Store
	series     *seriesembedded.Store
	influx     *influx.Store // nil without one
	ingest     *ingest.Ingest
	keeper     *segments.Keeper
	frames     *frames.Keeper
	fleet      *fleet.Registry
	ca         *enroll.CA
	enroll     *enroll.Service
	broker     broker.Broker
	builder    *release.Builder
	plan       *planner
	feedback   *feedback.Service
	train      *training // nil without that role
	garden     *garden.Garden
	auth       *auth.Service
	stream     *api.Stream
	metrics    *prometheus.Registry
	rate       rate
	collecting sync.Mutex    // held by a collection of the registry
	events     *auth.Limiter // by device: events for the audit log
}

// stop ends one part.
type stop struct {
	name string
	do   func(context.Context) error
}

// closeTimeout bounds how long the parts may take to end together.
const closeTimeout = 30 * time.Second

// Run runs a hub until ctx ends or a part fails. ready is called once all
// listeners are open; nil is fine.
func Run(ctx context.Context, cfg Config, ready func(*Hub)) error {
	h, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(h)
	}
	select {
	case <-ctx.Done():
	case err = <-h.failed:
	}
	return errors.Join(err, h.Close())
}

// New starts a hub. ctx bounds the start alone; Close ends the hub.
func New(ctx context.Context, cfg Config) (*Hub, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("hub configuration: %w", err)
	}
	cfg = cfg.withDefaults()
	h := &Hub{cfg: cfg, log: cfg.Log, failed: make(chan error, 16), metrics: prometheus.NewRegistry(), events: auth.NewLimiter(eventEvery, eventBurst, cfg.Fleet.MaxDevices)}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.cancel = cancel
	for _, step := range []struct {
		name  string
		start func(context.Context, context.Context) error
	}{
		{"data folder", h.openData},
		{"store", h.openStore},
		{"ledger", h.openLedger},
		{"objects", h.openObjects},
		{"series", h.openSeries},
		{"frames", h.openFrames},
		{"fleet", h.openFleet},
		{"feedback", h.openFeedback},
		{"enrolment", h.openEnrolment},
		{"releases", h.openReleases},
		{"rollouts", h.openRollouts},
		{"broker", h.openBroker},
		{"dispatch", h.startRollouts},
		{"training", h.openTraining},
		{"devices", h.openDevices},
		{"api", h.openAPI},
	} {
		began := time.Now()
		if err := step.start(ctx, background); err != nil {
			return nil, errors.Join(fmt.Errorf("start %s: %w", step.name, err), h.Close())
		}
		h.log.Debug("started", slog.String("part", step.name), slog.Duration("took", time.Since(began)))
	}
	h.serving.Store(true)
	return h, nil
}

// Addrs returns where the hub listens.
func (h *Hub) Addrs() Addrs { return h.addrs }

// CAPEM returns the certificate of the devices' CA, for them to trust.
func (h *Hub) CAPEM() []byte { return h.ca.PEM() }

// ReleaseKeyPEM returns the public key that releases are signed with.
func (h *Hub) ReleaseKeyPEM() []byte {
	var out []byte
	for _, k := range h.builder.Roots().Keys() {
		out = append(out, k.PEM()...)
	}
	return out
}

// LedgerKey returns the verifier key of the ledger that releases are proved by.
func (h *Hub) LedgerKey() string { return h.ledger.VerifierKey() }

// Failed gives the error of a part that stopped by itself.
func (h *Hub) Failed() <-chan error { return h.failed }

// Close stops every part, the last started first.
func (h *Hub) Close() error {
	h.serving.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	h.cancel()
	var errs []error
	for _, s := range slices.Backward(h.stops) {
		if err := s.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
	}
	h.stops = nil
	h.tasks.Wait()
	return errors.Join(errs...)
}

func (h *Hub) onStop(name string, do func(context.Context) error) {
	h.stops = append(h.stops, stop{name, do})
}

// task runs f beside the hub until background ends. A task that ends with an
// error fails the hub.
func (h *Hub) task(name string, f func() error) {
	h.tasks.Go(func() {
		if err := f(); err != nil && !errors.Is(err, context.Canceled) {
			select {
			case h.failed <- fmt.Errorf("%s: %w", name, err):
			default:
			}
		}
	})
}

// openData makes the data folder and takes it: two hubs on one folder would
// write over each other.
func (h *Hub) openData(context.Context, context.Context) error {
	if err := os.MkdirAll(h.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	f, err := os.OpenFile(h.cfg.dir("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("data_dir: %w: the hub's user must be able to write there", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("data_dir %s is in use by another hub: stop it, or give this one a folder of its own", h.cfg.DataDir), f.Close())
	}
	h.lock = f
	h.onStop("data folder", func(context.Context) error { return h.lock.Close() })
	return nil
}

func (h *Hub) openStore(ctx, _ context.Context) error {
	url, err := secretFile("store.postgres_url_file", h.cfg.Store.PostgresURLFile)
	if err != nil {
		return err
	}
	if url != "" {
		h.db, err = postgres.Open(ctx, url)
	} else {
		h.db, err = sqlite.Open(ctx, h.cfg.dir("state.db"))
	}
	if err != nil {
		return err
	}
	h.onStop("store", func(context.Context) error { return h.db.Close() })
	return seed(ctx, h.db, h.cfg)
}

func (h *Hub) openLedger(ctx, _ context.Context) (err error) {
	h.ledger, err = ledger.Open(ctx, ledger.Config{Dir: h.cfg.shared("ledger"), Logger: h.log})
	if err != nil {
		return err
	}
	h.onStop("ledger", h.ledger.Close)
	return nil
}

func (h *Hub) openObjects(ctx, _ context.Context) error {
	o := h.cfg.Objects
	switch {
	case o.S3 != nil:
		secret, err := secretFile("objects.s3.secret_key_file", o.S3.SecretKeyFile)
		if err != nil {
			return err
		}
		h.objects, err = s3.Open(ctx, s3.Config{
			Endpoint: o.S3.Endpoint, Insecure: o.S3.Insecure, Bucket: o.S3.Bucket, Region: o.S3.Region, AccessKey: o.S3.AccessKey, SecretKey: secret, Prefix: o.S3.Prefix,
		})
		return err
	case o.Dir != "":
		var err error
		h.objects, err = dir.Open(o.Dir)
		return err
	}
	st, err := s3embedded.Open(ctx, s3embedded.Config{Dir: h.cfg.dir("objects"), Listen: o.Listen, Log: h.log})
	if err != nil {
		return err
	}
	h.objects, h.addrs.Objects = st, st.Listen()
	h.onStop("objects", func(context.Context) error { return st.Close() })
	return nil
}

func (h *Hub) openSeries(ctx, background context.Context) (err error) {
	h.series, err = seriesembedded.Open(seriesembedded.Config{
		Dir: h.cfg.dir("series"), Log: h.log, KeepHead: true, CacheBytes: int64(h.cfg.Series.CacheMiB) << 20,
		RetainRaw: days(h.cfg.Series.RawDays), RetainRollups: days(h.cfg.Series.RetentionDays),
	})
	if err != nil {
		return err
	}
	h.onStop("series", func(context.Context) error { return h.series.Close() })
	h.keeper, err = segments.New(segments.Config{Head: h.series, Objects: h.objects, Log: h.log, Interval: duration(h.cfg.Segments.IntervalS), MaxBytes: int64(h.cfg.Segments.MaxMiB) << 20})
	if err != nil {
		return err
	}
	h.worker("segments", background, h.keeper.Run)
	h.stream = api.NewStream()
	h.onStop("stream", func(context.Context) error { h.stream.Close(); return nil })
	rollups, err := h.openInflux(ctx)
	if err != nil {
		return err
	}
	h.ingest, err = ingest.New(ingest.Config{Head: h.series, Rollups: rollups, Sinks: []ingest.Sink{verdicts{h}}, Log: h.log, QuarantineDir: h.cfg.dir("quarantine")})
	if err != nil {
		return err
	}
	h.onStop("ingest", func(context.Context) error { return h.ingest.Close() })
	return nil
}

func (h *Hub) openFrames(context.Context, context.Context) (err error) {
	h.frames, err = frames.New(frames.Config{Objects: h.objects, Catalogue: h.db.Feedback(), Log: h.log, QuarantineDir: h.cfg.dir("quarantine-frames")})
	if err != nil {
		return err
	}
	h.onStop("frames", func(context.Context) error { return h.frames.Close() })
	return nil
}

// openInflux returns the rollups' store; nil without one. One that does not
// answer now does not keep the hub from taking data in: it is said in the
// log, in the health and to people, until it does.
func (h *Hub) openInflux(ctx context.Context) (series.Store, error) {
	i := h.cfg.Series.Influx
	if i == nil {
		return nil, nil
	}
	token, err := secretFile("series.influx.token_file", i.TokenFile)
	if err != nil {
		return nil, err
	}
	h.influx, err = influx.Open(influx.Config{URL: i.URL, Token: token, Org: i.Org, Bucket: i.Bucket, Log: h.log})
	if err != nil {
		return nil, fmt.Errorf("series.influx: %w", err)
	}
	h.onStop("influx", func(context.Context) error { return h.influx.Close() })
	ctx, cancel := context.WithTimeout(ctx, influxTimeout)
	defer cancel()
	if err := h.influx.Check(ctx); err != nil {
		h.log.Error("rollups wait for InfluxDB", slog.Any("error", err))
	}
	return h.influx, nil
}

// influxTimeout bounds the look at InfluxDB when the hub starts.
const influxTimeout = 5 * time.Second

// charts answers what people look at: raw rows from the hub's own series,
// rollups from InfluxDB where there is one.
type charts struct{ h *Hub }

// Query implements api.Series.
func (c charts) Query(ctx context.Context, q series.Query) (series.Result, error) {
	if c.h.influx != nil && q.MaxPoints > 0 {
		return c.h.influx.Query(ctx, q)
	}
	return c.h.series.Query(ctx, q)
}

// Signals implements api.Series.
func (c charts) Signals(ctx context.Context, id topic.ID) ([]series.SignalInfo, error) {
	if c.h.influx != nil {
		return c.h.influx.Signals(ctx, id)
	}
	return c.h.series.Signals(ctx, id)
}

// worker runs a loop until Close reaches it, in its place of the order.
func (h *Hub) worker(name string, background context.Context, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(background)
	done := make(chan struct{})
	h.task(name, func() error {
		defer close(done)
		return run(ctx)
	})
	h.onStop(name, func(limit context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-limit.Done():
			return limit.Err()
		}
	})
}

// refreshEvery is how often a hub that shares the work reads what the others
// stored about devices.
const refreshEvery = 2 * time.Second

func (h *Hub) openFleet(ctx, background context.Context) (err error) {
	refresh := time.Duration(0)
	if !h.cfg.has(RoleAll) {
		refresh = refreshEvery
	}
	h.fleet, err = fleet.Open(ctx, fleet.Config{
		Refresh: refresh,
		Store:   h.db.Fleet(), Log: h.log, StaleAfter: duration(h.cfg.Fleet.StaleS), MaxDevices: h.cfg.Fleet.MaxDevices, OnChange: h.deviceChanged, Audit: h.auditDevice, Now: h.cfg.Now,
	})
	if err != nil {
		return err
	}
	h.onStop("fleet", func(context.Context) error { h.fleet.Close(); return nil })
	h.worker("housekeeping", background, h.housekeeping)
	return nil
}

func (h *Hub) openEnrolment(context.Context, context.Context) (err error) {
	if h.ca, err = enroll.OpenCA(h.cfg.shared("ca"), h.cfg.Now); err != nil {
		return err
	}
	h.enroll, err = enroll.New(enroll.Config{
		CA: h.ca, Store: h.db.Enroll(), Lifetime: duration(h.cfg.Devices.CertificateS), Now: h.cfg.Now, Audit: h.auditEnrolment, Enrolled: h.enrolled, Log: h.log,
	})
	return err
}

func (h *Hub) openReleases(context.Context, context.Context) error {
	key, err := signing.OpenKeyPair(signing.KeyConfig{Dir: h.cfg.shared("signing")})
	if err != nil {
		return err
	}
	h.builder, err = release.NewBuilder(release.Config{Store: h.db.Releases(), Objects: h.objects, Ledger: h.ledger, Signer: key, Now: h.cfg.Now, Logger: h.log})
	return err
}

func (h *Hub) openBroker(ctx, _ context.Context) (err error) {
	if !h.cfg.has(RoleIngest) && !h.cfg.has(RoleDispatch) {
		return nil
	}
	if e := h.cfg.Broker.External; e != nil {
		h.broker, err = h.externalBroker(*e)
	} else {
		h.broker, err = h.embeddedBroker()
	}
	if err != nil {
		return err
	}
	if err := h.broker.Start(ctx, handler{h}); err != nil {
		return err
	}
	h.onStop("broker", func(context.Context) error { return h.broker.Close() })
	if b, ok := h.broker.(*mqttembedded.Broker); ok {
		h.addrs.MQTT = b.Addr().String()
	}
	return nil
}

func (h *Hub) embeddedBroker() (broker.Broker, error) {
	conf, err := h.ca.ServerTLS(h.cfg.Devices.Names, tls.RequireAndVerifyClientCert)
	if err != nil {
		return nil, err
	}
	return mqttembedded.New(mqttembedded.Config{
		Listen: h.cfg.Broker.Listen, TLS: conf, MaxClients: h.cfg.Broker.MaxClients, Log: h.log,
		Authorize: func(c *x509.Certificate) (topic.ID, error) {
			ctx, cancel := context.WithTimeout(context.Background(), authorizeTimeout)
			defer cancel()
			id, err := h.enroll.Authorize(ctx, c)
			if err != nil {
				return id, err
			}
			if d, err := h.fleet.Get(id); err == nil && c.NotAfter.After(d.CertExpiry) {
				if err := h.fleet.Renewed(ctx, id, c.NotAfter); err != nil {
					h.log.Error("cannot note a renewed certificate", slog.String("device", id.String()), slog.Any("error", err))
				}
			}
			return id, nil
		},
	})
}

// authorizeTimeout bounds the look-up of a certificate.
const authorizeTimeout = 10 * time.Second

func (h *Hub) externalBroker(e ExternalBroker) (broker.Broker, error) {
	password, err := secretFile("broker.external.password_file", e.PasswordFile)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CAFile != "" {
		pem, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, fmt.Errorf("broker.external.ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("broker.external.ca_file: %s holds no certificate", e.CAFile)
		}
	}
	if e.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("broker.external.cert_file: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return mqttexternal.New(mqttexternal.Config{
		URL: e.URL, TLS: conf, Username: e.Username, Password: password, ClientID: "swell-hub-" + h.cfg.Name, Group: e.Group, Log: h.log,
		Allow: func(id topic.ID) error {
			if d, err := h.fleet.Get(id); err == nil && d.Retired() {
				return fmt.Errorf("%s is retired", id)
			}
			return nil
		},
	})
}

// listen opens a listener; the error names the setting and the remedy.
func listen(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is in use by another program: stop it, or set %s to a free port", key, addr, key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: cannot listen on %s: %w", key, addr, err)
	}
	return l, nil
}

// serve runs an HTTP server on l until Close.
func (h *Hub) serve(name string, l net.Listener, handler http.Handler) {
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: 5 * time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
	h.task(name, func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	h.onStop(name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			return srv.Close() // streams and slow downloads end here; their readers come back
		}
		return nil
	})
}

func (h *Hub) openDevices(context.Context, context.Context) error {
	if !h.cfg.has(RoleIngest) {
		return nil
	}
	conf, err := h.ca.ServerTLS(h.cfg.Devices.Names, tls.VerifyClientCertIfGiven)
	if err != nil {
		return err
	}
	l, err := listen("devices.listen", h.cfg.Devices.Listen)
	if err != nil {
		return err
	}
	h.addrs.Devices = l.Addr().String()
	h.serve("devices", tls.NewListener(l, conf), h.deviceRoutes())
	return nil
}

func (h *Hub) openAPI(ctx, _ context.Context) error {
	h.auth = auth.New(auth.Config{SessionTTL: duration(h.cfg.HTTP.SessionS), PasswordFile: h.cfg.dir(passwordFile), Now: h.cfg.Now}, h.db.Auth())
	if !h.cfg.has(RoleAPI) {
		return nil
	}
	password, err := h.auth.Bootstrap(ctx)
	if err != nil {
		return err
	}
	if password != "" && h.cfg.Password != nil {
		h.cfg.Password(auth.FirstAdmin, password)
	}
	h.registerMetrics()
	conf := api.Config{
		Auth: h.auth, Fleet: h.fleet, Store: h.db, Enroll: enrolment{h}, Series: charts{h}, Ledger: h.ledger, Rollouts: h.plan, Orders: h.plan, Registry: h.db.Registry(),
		Releases: releases{h.db.Releases(), h.objects, h.builder}, Stream: h.stream, Console: console.Handler(), Metrics: h.metrics,
		Health: h.health, ValuesPerSecond: h.rate.get, Secure: h.cfg.HTTP.CertFile != "" || h.cfg.HTTP.SecureCookies, Log: h.log, Now: h.cfg.Now,
		RequestsPerSecond: h.cfg.HTTP.RequestsPerSecond,
		Version:           apimodel.Version{Version: h.cfg.Version, Protocol: protocol.Version, APIVersion: "swell/v1", Commit: some(h.cfg.Commit), Go: some(runtime.Version())},
	}
	conf.Feedback = said{h}
	if h.train != nil {
		conf.Training, conf.Lineages = *h.train, lineages{h}
		conf.Garden = imports{h.garden}
	}
	srv, err := api.New(conf)
	if err != nil {
		return err
	}
	l, err := listen("http.listen", h.cfg.HTTP.Listen)
	if err != nil {
		return err
	}
	h.addrs.HTTP = l.Addr().String()
	if h.cfg.HTTP.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(h.cfg.HTTP.CertFile, h.cfg.HTTP.KeyFile)
		if err != nil {
			return errors.Join(fmt.Errorf("http.cert_file: %w", err), l.Close())
		}
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	}
	h.serve("api", l, srv)
	return nil
}

// passwordFile keeps the first admin's password until it is changed.
const passwordFile = "admin-password"

// ResetPassword gives a user of the hub in cfg.DataDir a new random password.
// The hub may run meanwhile.
func ResetPassword(ctx context.Context, cfg Config, user string) (password string, err error) {
	h := &Hub{cfg: cfg.withDefaults(), cancel: func() {}}
	if err := cfg.Validate(); err != nil {
		return "", err
	}
	if err := h.openStore(ctx, ctx); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, h.db.Close()) }()
	return auth.New(auth.Config{PasswordFile: h.cfg.dir(passwordFile)}, h.db.Auth()).Reset(ctx, user)
}
