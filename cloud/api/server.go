package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/swellfleet/swell/cloud/api/apigen"
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
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Store keeps what belongs to the API itself.
type Store interface {
	Object(ctx context.Context, kind, name string) (store.Object, error)
	Objects(ctx context.Context, kind, after string, limit int) ([]store.Object, error)
	PutObject(ctx context.Context, o store.Object, now time.Time) (store.Object, error)
	Answer(ctx context.Context, actor, key string, since time.Time) (store.Answer, bool, error)
	SaveAnswer(ctx context.Context, actor, key string, a store.Answer, now, since time.Time) error
	Wanted(ctx context.Context) (map[topic.ID]store.Wanted, error)
}

// Enrolment makes and withdraws tokens for devices.
type Enrolment interface {
	// CreateToken returns the new token and its secret, which is kept nowhere.
	CreateToken(ctx context.Context, t enroll.Token, ttl time.Duration) (enroll.Token, string, error)
	Tokens(ctx context.Context) ([]enroll.Token, error)
	VoidToken(ctx context.Context, hash enroll.Hash) error
	// Retire revokes the device's certificates and ends its sessions.
	Retire(ctx context.Context, id topic.ID, reason string) error
}

// Series answers what devices measured.
type Series interface {
	Query(ctx context.Context, q series.Query) (series.Result, error)
	Signals(ctx context.Context, id topic.ID) ([]series.SignalInfo, error)
}

// Ledger is the log that people's acts are written to before they take effect.
type Ledger interface {
	Append(ctx context.Context, e ledger.Event) (ledger.Receipt, error)
	Events(ctx context.Context, f ledger.Filter, cursor string, limit int) ([]ledger.Entry, string, error)
	Leaf(ctx context.Context, index uint64) ([]byte, ledger.Event, error)
	Proof(ctx context.Context, index uint64) (ledger.Receipt, error)
	Head(ctx context.Context) (checkpoint string, tree tlog.Tree, err error)
}

// Proposal asks for a rollout.
type Proposal struct {
	Release string // "name-counter"
	Policy  string // name of a RolloutPolicy object
	// Inline is a policy that is not stored; nil reads Policy. Only a preview
	// takes it.
	Inline *RolloutPolicy
	Author string // as in the ledger
	Reason string
	DryRun bool
}

// Rollouts starts and steers rollouts and tells of them.
type Rollouts interface {
	// Rollouts lists all, newest first.
	Rollouts(ctx context.Context) ([]rollout.Rollout, error)
	// Load returns a rollout with its devices; dispatch.ErrNotFound.
	Load(ctx context.Context, name string) (dispatch.View, error)
	Decisions(ctx context.Context, name string, before uint64, limit int) ([]dispatch.Stored, error)
	// Propose starts a rollout, or with DryRun says how it would start.
	Propose(ctx context.Context, p Proposal) (dispatch.View, error)
	// Ask takes in a person's request, or with dry says what would follow.
	Ask(ctx context.Context, name string, r rollout.Request, dry bool) (dispatch.View, error)
	Desired(ctx context.Context, id topic.ID) (twin.Desired, bool, error)
	// Preview returns the rollout that p would make, and what it would do now.
	Preview(ctx context.Context, p Proposal) (rollout.Rollout, rollout.Preview, error)
	// Evidence returns what a decision rested on, or dispatch.ErrNoEvidence.
	Evidence(ctx context.Context, name string, id uint64) (rollout.Snapshot, error)
	// Replay decides again on the stored evidence under another policy.
	Replay(ctx context.Context, name string, p rollout.Policy) (dispatch.Replay, error)
	// Find returns a release by its name for people, or store.ErrNotFound.
	Find(ctx context.Context, release string) (rollout.Release, error)
}

// Releases knows what was released.
type Releases interface {
	// Manifest returns a release's manifest, or registry.ErrNoVersion.
	Manifest(ctx context.Context, d artifact.Digest) (artifact.Manifest, error)
	// Verify checks the stored files again.
	Verify(ctx context.Context, d artifact.Digest) ([]apimodel.VerifyCheck, error)
	Signatures(ctx context.Context, d artifact.Digest) ([]apimodel.Signature, error)
	// Command is how to check the same outside the hub.
	Command(d artifact.Digest) string
	// PublishFirmware signs and publishes a program as the next release of its
	// family. It writes the event that says so to the ledger.
	PublishFirmware(ctx context.Context, f Firmware) (apimodel.ReleaseRef, error)
}

// Firmware is a build of the agent to be released.
type Firmware struct {
	Name    string // family
	Classes []artifact.Class
	Arch    string // GOARCH
	Version string // of the program
	Program []byte
	Author  string // as the ledger names actors
	Reason  string // may be empty
}

// Training runs nights. Its answers are those of the contract: the package
// that owns nights is heavy, and the composition root translates.
type Training interface {
	Policies(ctx context.Context, after string, limit int) ([]apimodel.RetrainPolicy, error)
	Policy(ctx context.Context, name string) (apimodel.RetrainPolicy, error)
	Apply(ctx context.Context, p apimodel.RetrainPolicy, dry bool) (apimodel.RetrainPolicy, error)
	// Runs lists the newest first, after the given one; policy and state ""
	// mean any.
	Runs(ctx context.Context, policy, state, after string, limit int) ([]apimodel.TrainingRun, error)
	Run(ctx context.Context, name string) (apimodel.TrainingRun, error)
	Start(ctx context.Context, policy string, seed *int64, by, reason string, dry bool) (apimodel.TrainingRun, error)
	Cancel(ctx context.Context, name string) (apimodel.TrainingRun, error)
	// Backfill queues the nights of a policy's schedule within from..to and
	// returns their runs.
	Backfill(ctx context.Context, policy string, from, to time.Time, by, reason string, dry bool) ([]string, error)
	// Rerun repeats an ended run from the named step on, as a new one.
	Rerun(ctx context.Context, name, step string) (apimodel.TrainingRun, error)
	// Logs returns what a run's steps said; step "" means all.
	Logs(ctx context.Context, name, step string) ([]apimodel.TrainingLogLine, error)
}

// Config names the parties. Training, Lineages and Garden may be nil on a hub
// that does not train, Feedback on one that keeps no frames, Console on one
// that serves none; everything else is required.
type Config struct {
	Auth     *auth.Service
	Fleet    *fleet.Registry
	Store    Store
	Enroll   Enrolment
	Series   Series
	Ledger   Ledger
	Rollouts Rollouts
	Orders   Orders
	Registry registry.Store
	Releases Releases
	Training Training
	Lineages Lineages
	Feedback Feedback
	Garden   Garden
	Stream   *Stream
	Console  http.Handler
	Metrics  *prometheus.Registry
	// Health says how the parts of the hub are; serving is false while it
	// starts and stops.
	Health func(ctx context.Context) (parts []apimodel.HealthPart, serving bool)
	// ValuesPerSecond is the present ingest rate. nil: not known.
	ValuesPerSecond func() float64
	Version         apimodel.Version
	Secure          bool // served over TLS: the cookie says so
	Log             *slog.Logger
	Now             func() time.Time // nil means time.Now

	RequestsPerSecond int // sustained, per user or token, and a fifth of it per address without one; 0 means 100
}

// Server is the HTTP side for people. Make one with New.
type Server struct {
	cfg     Config
	echo    *echo.Echo
	spec    *openapi3.T
	known   *auth.Limiter // by actor
	unknown *auth.Limiter // by address
	flight  inFlight
	seen    releaseCache
	ended   endedRollouts
	sent    *prometheus.HistogramVec
	refused *prometheus.CounterVec
}

// bodyLimit bounds a request's body, in bytes, where the contract's x-max-bytes
// does not say another number.
const bodyLimit = 1 << 20

// New builds the server. The error names what the contract and the table of
// routes disagree on.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RequestsPerSecond == 0 {
		cfg.RequestsPerSecond = 100
	}
	spec, err := apigen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("read the REST contract: %w", err)
	}
	second := time.Second / time.Duration(cfg.RequestsPerSecond)
	s := &Server{
		cfg: cfg, spec: spec,
		known:   auth.NewLimiter(second, 4*cfg.RequestsPerSecond, 10_000),
		unknown: auth.NewLimiter(5*second, cfg.RequestsPerSecond, 10_000),
		sent: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "swell_api_request_seconds", Help: "Time to answer a request, by operation and status class.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10},
		}, []string{"operation", "status"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "swell_api_refused_total", Help: "Requests refused before their handler, by reason."}, []string{"reason"}),
	}
	cfg.Metrics.MustRegister(s.sent, s.refused)

	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.Logger.SetOutput(io.Discard) // requests are counted, errors logged by slog
	e.JSONSerializer = strictJSON{}
	e.HTTPErrorHandler = s.answerError
	e.IPExtractor = echo.ExtractIPDirect()
	e.Use(s.guard)
	if err := s.mount(e); err != nil {
		return nil, err
	}
	metrics := promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{})
	e.GET("/metrics", echo.WrapHandler(metrics))
	e.GET("/healthz", s.healthz)
	if cfg.Console != nil {
		console := echo.WrapHandler(cfg.Console)
		e.GET("/*", console)
		e.HEAD("/*", console)
	}
	s.echo = e
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// healthz is for load balancers and watchdogs: one word, no login.
func (s *Server) healthz(c echo.Context) error {
	parts, serving := s.cfg.Health(c.Request().Context())
	if !serving {
		return c.String(http.StatusServiceUnavailable, "not serving\n")
	}
	for _, p := range parts {
		if !p.Ok {
			return c.String(http.StatusOK, "degraded\n")
		}
	}
	return c.String(http.StatusOK, "ok\n")
}

// guard is round every request: it turns a panic into a problem, and sets what
// every answer carries.
func (s *Server) guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		c.Response().Header().Set("X-Content-Type-Options", "nosniff")
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if e, ok := p.(error); ok && errors.Is(e, http.ErrAbortHandler) {
				panic(p)
			}
			s.cfg.Log.Error("panic while answering", slog.String("path", c.Request().URL.Path), slog.Any("panic", p), slog.String("stack", stack()))
			err = problem{status: http.StatusInternalServerError}
		}()
		return next(c)
	}
}
