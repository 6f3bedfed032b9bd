package hub

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/protocol/topic"
)

// Role is a part of a hub's work. A single hub does all of it; several hubs on
// the same external servers share it.
type Role string

// The roles.
const (
	RoleAll      Role = "all"
	RoleAPI      Role = "api"      // people: REST, stream, console
	RoleIngest   Role = "ingest"   // devices: MQTT, enrolment, release files
	RoleDispatch Role = "dispatch" // plans rollouts and publishes desired documents
	RoleTrainer  Role = "trainer"  // runs the nights
	RoleWorker   Role = "worker"   // fits and back-tests for the nights of others
)

// Config is what a hub is told. DataDir is the only setting it needs; every
// other field has its default beside it. Times are in seconds, so that a
// night can be made to fit into a minute.
type Config struct {
	DataDir string `yaml:"data_dir"` // required: everything the hub keeps itself
	Name    string `yaml:"name"`     // of this hub among those that share servers; default "hub"; never change it
	Roles   []Role `yaml:"roles"`    // default [all]
	// SharedDir is a folder that hubs which share the work have in common: the
	// devices' CA, the signing key and the ledger. Default DataDir.
	SharedDir string `yaml:"shared_dir"`

	HTTP     HTTP     `yaml:"http"`
	Devices  Devices  `yaml:"devices"`
	Broker   Broker   `yaml:"broker"`
	Store    Store    `yaml:"store"`
	Objects  Objects  `yaml:"objects"`
	Series   Series   `yaml:"series"`
	Segments Segments `yaml:"segments"`
	Fleet    Fleet    `yaml:"fleet"`
	Rollouts Rollouts `yaml:"rollouts"`
	Training Training `yaml:"training"`

	LogLevel string `yaml:"log_level"` // debug, info, warn or error; default info

	// The rest is for programs that embed a hub, and has no YAML form.

	Log     *slog.Logger     `yaml:"-"` // nil: nothing is logged
	Now     func() time.Time `yaml:"-"` // nil: time.Now
	Version string           `yaml:"-"` // of the program; empty: "devel"
	Commit  string           `yaml:"-"` // empty: not known
	// Password hears of the first admin's password, once, when the hub makes
	// that user. nil: it is only in the file admin-password of DataDir.
	Password func(user, password string) `yaml:"-"`
}

// HTTP is the listener for people.
type HTTP struct {
	Listen   string `yaml:"listen"`    // default 127.0.0.1:7440; port 0 picks a free one
	CertFile string `yaml:"cert_file"` // PEM; with key_file it serves HTTPS. Required when listen is not a loopback address, unless plain is set
	KeyFile  string `yaml:"key_file"`  // PEM
	Plain    bool   `yaml:"plain"`     // allow HTTP on other addresses: a proxy in front ends TLS
	// SecureCookies says that browsers come by HTTPS although this listener is
	// plain.
	SecureCookies     bool    `yaml:"secure_cookies"`
	SessionS          float64 `yaml:"session_s"`           // length of a session; default 43200
	RequestsPerSecond int     `yaml:"requests_per_second"` // sustained, per user or token; default 100
}

// Devices is the HTTPS listener for devices: enrolment and release files.
type Devices struct {
	Listen       string   `yaml:"listen"`        // default 127.0.0.1:7441
	Names        []string `yaml:"names"`         // DNS names and addresses by which devices reach the hub; default localhost, 127.0.0.1, ::1 and the host's name
	CertificateS float64  `yaml:"certificate_s"` // life of a device's certificate; default 604800
}

// Broker carries MQTT.
type Broker struct {
	Listen     string          `yaml:"listen"`      // of the broker in the hub; default 127.0.0.1:7883
	MaxClients int             `yaml:"max_clients"` // default 20000
	External   *ExternalBroker `yaml:"external"`    // another broker instead
}

// ExternalBroker is an MQTT 3.1.1 server with shared subscriptions.
type ExternalBroker struct {
	URL          string `yaml:"url"`     // tls://host:8883 or tcp://host:1883
	CAFile       string `yaml:"ca_file"` // PEM; default the system's roots
	CertFile     string `yaml:"cert_file"`
	KeyFile      string `yaml:"key_file"`
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	Group        string `yaml:"group"` // of the shared subscription; default "swell"
}

// Store is the hub's state.
type Store struct {
	PostgresURLFile string `yaml:"postgres_url_file"` // file with a postgres:// URL; default SQLite in data_dir
}

// Objects are segments and releases.
type Objects struct {
	Listen string `yaml:"listen"` // of the server in the hub; default 127.0.0.1:7442
	Dir    string `yaml:"dir"`    // a plain folder instead, for one hub
	S3     *S3    `yaml:"s3"`     // another server instead
}

// S3 is an S3 server.
type S3 struct {
	Endpoint      string `yaml:"endpoint"` // host:port
	Insecure      bool   `yaml:"insecure"` // plain HTTP
	Bucket        string `yaml:"bucket"`
	Region        string `yaml:"region"` // default us-east-1
	AccessKey     string `yaml:"access_key"`
	SecretKeyFile string `yaml:"secret_key_file"`
	Prefix        string `yaml:"prefix"` // of every key, ending in '/'
}

// Series are what people look at.
type Series struct {
	RetentionDays float64 `yaml:"retention_days"` // of rollups, from which charts of long times are drawn; default 90
	// RawDays is how long single rows can be charted. Default 14, or
	// RetentionDays where that is less. Training reads the segments instead.
	RawDays  float64 `yaml:"raw_days"`
	CacheMiB int     `yaml:"cache_mib"` // default 32
	// Influx keeps rollups in InfluxDB 2 as well; people's charts then read
	// them there, for as long as the bucket keeps them.
	Influx *Influx `yaml:"influx"`
}

// Influx is an InfluxDB 2 server.
type Influx struct {
	URL       string `yaml:"url"` // such as http://influxdb:8086
	TokenFile string `yaml:"token_file"`
	Org       string `yaml:"org"`
	Bucket    string `yaml:"bucket"` // must exist
}

// Segments are the raw data for training.
type Segments struct {
	IntervalS float64 `yaml:"interval_s"` // between flushes; default 300
	MaxMiB    int     `yaml:"max_mib"`    // of values that flush before; default 64
	// RetentionDays is how long raw data can be trained on and a past night be
	// repeated. 0, the default, keeps it for good.
	RetentionDays float64 `yaml:"retention_days"`
}

// Fleet says when a device counts as silent.
type Fleet struct {
	StaleS     float64 `yaml:"stale_s"`     // default 90
	MaxDevices int     `yaml:"max_devices"` // default 200000
}

// Rollouts says how often rollouts are looked at, and the policies that a new
// hub starts with.
type Rollouts struct {
	MinGapS float64 `yaml:"min_gap_s"` // least time between two looks; default 0.2
	PollS   float64 `yaml:"poll_s"`    // most time between two looks; default 10
	// Policies are stored under their names at start, unless a policy of that
	// name exists: people's changes win.
	Policies []api.RolloutPolicy `yaml:"policies"`
}

// Training says how nights run.
type Training struct {
	// Fits is how many fits a process works on at once; hubs that share the
	// work set the same. Default 1.
	Fits int `yaml:"fits"`
	// Labels say what this machine has: gpu takes the fits of policies whose
	// queue is gpu.
	Labels []string `yaml:"labels"`
	// Trainers are programs that fit models; policies name them external:NAME.
	// See docs/trainers.md.
	Trainers []ExternalTrainer `yaml:"trainers"`
	// KeepVersions and KeepDays let the hub remove, once a day, the files of
	// model versions that are neither among the newest of their family nor
	// younger than that, with models, snapshots and unlabelled frames that nobody
	// needs. What a device runs, has in its other slot or could go back to stays
	// in any case. Default 0 both: everything is kept.
	KeepVersions int     `yaml:"keep_versions"`
	KeepDays     float64 `yaml:"keep_days"`
	// DriftLookS is how often live data is compared with what champions learned,
	// for policies with a drift limit, in seconds. Default 3600.
	DriftLookS float64 `yaml:"drift_look_s"`
	// GardenPrivate lets people import models from addresses inside the plant,
	// which the hub reaches and they perhaps do not. Default false.
	GardenPrivate bool `yaml:"garden_private"`
	// Garden are models that are taken into the model garden at start; a file
	// that has changed becomes a new version.
	Garden []GardenModel `yaml:"garden"`
	// Policies are stored under their names at start, unless they exist.
	Policies []RetrainPolicy `yaml:"policies"`
}

// GardenModel is an ONNX file from outside, see docs/registry.md.
type GardenModel struct {
	Name   string `yaml:"name"` // that policies call it by
	File   string `yaml:"file"`
	Reason string `yaml:"reason"` // where it is from and under which licence
}

// ExternalTrainer is a program that fits models by the contract of
// docs/trainers.md.
type ExternalTrainer struct {
	Name      string   `yaml:"name"`
	Command   []string `yaml:"command"`    // program and arguments; the dataset's folder is added
	WallS     float64  `yaml:"wall_s"`     // of one fit; default 3600
	MemoryMiB int      `yaml:"memory_mib"` // of one fit; default no limit
	CPUs      float64  `yaml:"cpus"`       // that one fit may keep busy; default no limit
}

func (t Training) trainers() (out []retrain.ExternalTrainer) {
	for _, x := range t.Trainers {
		out = append(out, retrain.ExternalTrainer(x))
	}
	return out
}

// RetrainPolicy is what to learn, from which devices, and when.
type RetrainPolicy struct {
	Name         string   `yaml:"name"`
	Family       string   `yaml:"family"`   // default name
	Selector     string   `yaml:"selector"` // default all devices
	Cron         string   `yaml:"cron"`     // five fields; empty: by hand
	TimeZone     string   `yaml:"time_zone"`
	LookbackS    float64  `yaml:"lookback_s"`
	Channels     []string `yaml:"channels"`
	Exclude      []string `yaml:"exclude"`
	TrainRows    int      `yaml:"train_rows"`
	MinRows      int      `yaml:"min_rows"`
	Kinds        []string `yaml:"kinds"`
	MaxFlagShare float64  `yaml:"max_flag_share"`
	MinDetected  float64  `yaml:"min_detected"`
	Seed         uint64   `yaml:"seed"`

	WallS         float64 `yaml:"wall_s"`        // of a whole run; default no limit
	MaxCPUS       float64 `yaml:"max_cpu_s"`     // CPU-seconds of a whole run; default no limit
	MemoryMiB     int     `yaml:"memory_mib"`    // of one fit; default no limit
	CPUs          float64 `yaml:"cpus"`          // that one fit may keep busy; default no limit
	Priority      int     `yaml:"priority"`      // -1000 to 1000; higher goes first; default 0
	Queue         string  `yaml:"queue"`         // gpu: only for machines with that label
	MinNewShare   float64 `yaml:"min_new_share"` // of the rows; a scheduled run with less is skipped; default 0
	CatchUp       string  `yaml:"catch_up"`      // after a downtime: none, latest or all; default none
	KeepRuns      int     `yaml:"keep_runs"`     // ended runs with their logs; default all
	KeepDays      int     `yaml:"keep_days"`     // the same by age; default for good
	DriftLimit    float64 `yaml:"drift_limit"`   // population stability index of live data that starts a run; default none
	RolloutPolicy string  `yaml:"rollout_policy"`
	// Fit sets what the other fields do not; for programs that embed a hub.
	Fit func(*retrain.Policy) `yaml:"-"`
}

// LoadFile reads a configuration file. The error names the file, the line and
// the remedy.
func LoadFile(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	cfg, err := Parse(b)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return cfg, nil
}

func (c Config) withDefaults() Config {
	def(&c.Name, "hub")
	def(&c.SharedDir, c.DataDir)
	if len(c.Roles) == 0 {
		c.Roles = []Role{RoleAll}
	}
	def(&c.HTTP.Listen, "127.0.0.1:7440")
	def(&c.HTTP.SessionS, 43200)
	def(&c.Devices.Listen, "127.0.0.1:7441")
	def(&c.Devices.CertificateS, 604800)
	if len(c.Devices.Names) == 0 {
		c.Devices.Names = []string{"localhost", "127.0.0.1", "::1"}
		if name, err := os.Hostname(); err == nil && name != "localhost" {
			c.Devices.Names = append(c.Devices.Names, name)
		}
	}
	def(&c.Broker.Listen, "127.0.0.1:7883")
	def(&c.Objects.Listen, "127.0.0.1:7442")
	def(&c.Series.RetentionDays, 90)
	def(&c.Series.RawDays, min(c.Series.RetentionDays, 14))
	def(&c.Series.CacheMiB, 32)
	def(&c.Segments.IntervalS, 300)
	def(&c.Segments.MaxMiB, 64)
	def(&c.Fleet.StaleS, 90)
	def(&c.Fleet.MaxDevices, 200_000)
	def(&c.Version, "devel")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate reports every setting that cannot work.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if c.DataDir == "" {
		bad("data_dir", "is required: the folder where the hub keeps its data")
	}
	if err := topic.ValidName(c.Name); err != nil {
		bad("name", "%v", err)
	}
	for _, r := range c.Roles {
		if !slices.Contains([]Role{RoleAll, RoleAPI, RoleIngest, RoleDispatch, RoleTrainer, RoleWorker}, r) {
			bad("roles", "unknown role %q: use all, api, ingest, dispatch, trainer or worker", r)
		}
	}
	for _, l := range []struct{ key, addr string }{{"http.listen", c.HTTP.Listen}, {"devices.listen", c.Devices.Listen}, {"broker.listen", c.Broker.Listen}, {"objects.listen", c.Objects.Listen}} {
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			bad(l.key, "%q is not host:port", l.addr)
		}
	}
	if (c.HTTP.CertFile == "") != (c.HTTP.KeyFile == "") {
		bad("http", "cert_file and key_file go together")
	}
	if c.HTTP.CertFile == "" && !c.HTTP.Plain && !loopback(c.HTTP.Listen) {
		bad("http.listen", "%s can be reached from elsewhere, and passwords would cross the network readable: set cert_file and key_file, or plain: true behind a proxy that ends TLS", c.HTTP.Listen)
	}
	if c.Objects.S3 != nil && c.Objects.Dir != "" {
		bad("objects", "set dir or s3, not both")
	}
	if i := c.Series.Influx; i != nil && (i.URL == "" || i.TokenFile == "" || i.Org == "" || i.Bucket == "") {
		bad("series.influx", "url, token_file, org and bucket are all required")
	}
	if !slices.Contains([]string{"", "debug", "info", "warn", "error"}, c.LogLevel) {
		bad("log_level", "%q: use debug, info, warn or error", c.LogLevel)
	}
	for name, v := range map[string]float64{
		"http.session_s": c.HTTP.SessionS, "devices.certificate_s": c.Devices.CertificateS, "series.retention_days": c.Series.RetentionDays,
		"series.raw_days":     c.Series.RawDays,
		"segments.interval_s": c.Segments.IntervalS, "fleet.stale_s": c.Fleet.StaleS,
	} {
		if !(v > 0) || v > 1e9 {
			bad(name, "%g: want more than 0 and at most 1e9", v)
		}
	}
	if d := c.Segments.RetentionDays; !(d >= 0) || d > 1e6 {
		bad("segments.retention_days", "%g: want 0 to keep everything, and at most 1e6", d)
	}
	if v, d := c.Training.KeepVersions, c.Training.KeepDays; v < 0 || !(d >= 0) || d > 1e6 || (v == 0) != (d == 0) {
		bad("training.keep_versions", "%d, with keep_days %g: set both to more than 0, or neither to keep everything", v, d)
	}
	if s := c.Training.DriftLookS; !(s >= 0) || s > 1e9 {
		bad("training.drift_look_s", "%g: want seconds, or 0 for an hour", s)
	}
	if c.Series.RawDays > c.Series.RetentionDays {
		bad("series.raw_days", "%g is more than retention_days %g: rows and their rollups end together then", c.Series.RawDays, c.Series.RetentionDays)
	}
	if !c.has(RoleAll) && (c.Store.PostgresURLFile == "" || c.SharedDir == c.DataDir || c.Objects.S3 == nil && c.Objects.Dir == "") {
		bad("roles", "hubs that share the work need a common store, folder and objects: set store.postgres_url_file, shared_dir, and objects.s3 or objects.dir")
	}
	for i, t := range c.Training.Trainers {
		if topic.ValidName(t.Name) != nil || len(t.Command) == 0 || t.WallS < 0 || t.MemoryMiB < 0 || t.CPUs < 0 {
			bad(fmt.Sprintf("training.trainers[%d]", i), "wants a name of letters, digits and dashes, a command, and limits that are not negative")
		}
	}
	if c.Training.Fits < 0 {
		bad("training.fits", "%d: want 1 or more", c.Training.Fits)
	}
	for i, p := range c.Rollouts.Policies {
		if err := p.Validate(); err != nil {
			bad(fmt.Sprintf("rollouts.policies[%d]", i), "%v", err)
		}
	}
	return errors.Join(errs...)
}

// has says whether this hub does a role.
func (c Config) has(r Role) bool {
	return slices.Contains(c.Roles, r) || r != RoleAll && slices.Contains(c.Roles, RoleAll)
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c Config) dir(parts ...string) string {
	return filepath.Join(append([]string{c.DataDir}, parts...)...)
}

func (c Config) shared(part string) string { return filepath.Join(c.SharedDir, part) }

func days(d float64) time.Duration { return duration(d * 24 * 3600) }

func duration(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// secretFile reads one line of a file that only the hub should read.
func secretFile(key, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}
