package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/agent/actions"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/frames"
	"github.com/swellfleet/swell/agent/interlock"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/images"
	"github.com/swellfleet/swell/agent/source/replay"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Config is everything an agent needs. The YAML form has strict keys. Fields
// without a note may stay at their zero value.
type Config struct {
	Site  string         `yaml:"site"`  // required; see topic.ValidName
	Node  string         `yaml:"node"`  // required; unique within the site
	Class artifact.Class `yaml:"class"` // required; which variant of a release this device takes
	// Labels travel with every report: line, hardware, product.
	Labels map[string]string `yaml:"labels"`
	// StateDir holds identity, slots, spool and journals. Required unless Disk is set.
	StateDir string `yaml:"state_dir"`
	// ONNXRuntime is the path of libonnxruntime; empty: where models/runtime finds it.
	ONNXRuntime string `yaml:"onnxruntime"`

	Hub       Hub            `yaml:"hub"`
	Trust     Trust          `yaml:"trust"`
	Source    Source         `yaml:"source"`
	Telemetry Telemetry      `yaml:"telemetry"`
	Spool     Spool          `yaml:"spool"`
	Pipeline  Pipeline       `yaml:"pipeline"`
	Update    Update         `yaml:"update"`
	Frames    frames.Config  `yaml:"frames"` // of cameras
	Actions   actions.Config `yaml:"actions"`

	// HeartbeatS is how often the device reports without being asked, in
	// seconds. 0 means 10.
	HeartbeatS float64 `yaml:"heartbeat_s"`
	// Status is the address of the local status page. Empty means
	// 127.0.0.1:7450; "off" means none.
	Status string `yaml:"status"`
	// LogLevel is debug, info, warn or error. Empty means info.
	LogLevel string `yaml:"log_level"`

	// The rest is for programs that embed an agent, and has no YAML form.

	Log     *slog.Logger     `yaml:"-"` // nil: nothing is logged
	Disk    disk.FS          `yaml:"-"` // nil: StateDir on the real disk
	Custom  source.Source    `yaml:"-"` // nil: the source that Source names
	Version string           `yaml:"-"` // of the program, for reports; empty: "devel"
	Now     func() time.Time `yaml:"-"` // nil: time.Now
	Uplink  Uplink           `yaml:"-"` // nil: MQTT by Hub.MQTT
	// Patient makes rows wait for as long as the disk takes, where a device
	// would rather lose blocks than stand still: for recordings, which can wait.
	Patient bool `yaml:"-"`
	// Slot is the slot that the boot loader started this program from, "a" or
	// "b". Empty: no loader did, and firmware cannot be updated.
	Slot string `yaml:"-"`
	// CheckArguments make a new program say its version after it has seen
	// whether it can work here. Empty: it is not asked before it is started.
	CheckArguments []string `yaml:"-"`
	// TrialCommand runs this program as a child that loads a model and scores
	// its golden vectors, before the model enters the agent's own process; the
	// path of the slot is appended. Empty: no child; the journal's counter of
	// crashes alone protects.
	TrialCommand []string `yaml:"-"`
}

// Hub says where the hub is and how the device becomes known to it.
type Hub struct {
	URL  string `yaml:"url"`  // required: https://host:7441, enrolment and releases
	MQTT string `yaml:"mqtt"` // required: tls://host:7883
	// CAFile or CAPEM hold the hub's CA, or CAFingerprint its digest
	// ("sha256:…" of the certificate's DER): one of them is required until the
	// device is enrolled.
	CAFile        string `yaml:"ca_file"`
	CAPEM         string `yaml:"ca_pem"`
	CAFingerprint string `yaml:"ca_fingerprint"`
	// Token or TokenFile is the single-use enrolment token. Not needed once
	// the device is enrolled.
	Token     string `yaml:"token"`
	TokenFile string `yaml:"token_file"`
	// ReconnectMinS and ReconnectMaxS bound the pause between attempts to
	// connect, in seconds. 0 means 1 and 60.
	ReconnectMinS float64 `yaml:"reconnect_min_s"`
	ReconnectMaxS float64 `yaml:"reconnect_max_s"`
	// InFlight is how many blocks may wait for acknowledgement. 0 means 16.
	InFlight int `yaml:"in_flight"`
	// ByteBudget caps what one offer may download, in MiB. 0 means 512.
	ByteBudgetMiB int `yaml:"byte_budget_mib"`
}

// Trust names the public keys that this device believes. What is left out it
// takes from the hub when it enrols, over TLS pinned to the hub's CA, and keeps
// for good: then that CA vouches for them. Whoever wants the keys to come by
// another way names them here.
type Trust struct {
	KeyFiles []string `yaml:"key_files"` // PEM, of keys that may sign releases
	KeysPEM  string   `yaml:"keys_pem"`  // the keys themselves
	// LedgerKey is the verifier key of the hub's ledger ("name+hash+key"): a
	// release must also prove that its signature is in the ledger.
	LedgerKey string `yaml:"ledger_key"`
}

// Source chooses one driver.
type Source struct {
	Kind      string           `yaml:"kind"` // replay | synthetic | images
	Replay    replay.Config    `yaml:"replay"`
	Synthetic synthetic.Config `yaml:"synthetic"`
	Images    images.Config    `yaml:"images"`
}

// Telemetry says how rows travel.
type Telemetry struct {
	// BlockRows and BlockS close a block, whichever comes first. 0 means 1000
	// rows and 5 seconds.
	BlockRows int     `yaml:"block_rows"`
	BlockS    float64 `yaml:"block_s"`
	// LiveS is how often the newest values are published for people, in
	// seconds. 0 means 1; below 0 means never.
	LiveS float64 `yaml:"live_s"`
}

// Spool bounds what waits on disk for the hub.
type Spool struct {
	MaxMiB int     `yaml:"max_mib"` // 0 means 256
	SyncS  float64 `yaml:"sync_s"`  // how long a block may wait for fsync, in seconds; 0 means 1
}

// Pipeline says how windows are cut.
type Pipeline struct {
	// MaxGapS breaks a window where two rows are further apart, in seconds. 0:
	// windows count rows and ignore the clock.
	MaxGapS float64 `yaml:"max_gap_s"`
	// HoldRows is for how many rows a missing value of a channel is taken to be
	// the last one that was there. Then windows with it alarm. 0 means 100; below
	// 0: for none.
	HoldRows int `yaml:"hold_rows"`
}

func (p Pipeline) hold() int {
	if p.HoldRows == 0 {
		return 100
	}
	return max(p.HoldRows, 0)
}

// Update bounds what a release may do to this device.
type Update struct {
	// MemoryMiB is the memory that must stay available after a model is
	// loaded. 0 means 32.
	MemoryMiB int `yaml:"memory_mib"`
	// Interlock is a file that must exist and hold "ok" for a release to be
	// activated; one that cannot be read forbids. Empty: no interlock.
	Interlock string `yaml:"interlock"`
	// Interlocks are further questions to the plant, in a file, behind an HTTP
	// address or on its MQTT broker. All have to permit before a release is
	// activated; one that cannot be read forbids. Empty: none.
	Interlocks []interlock.Predicate `yaml:"interlocks"`
}

// interlocks are all predicates, with the file of the old form.
func (u Update) interlocks() []interlock.Predicate {
	if u.Interlock == "" {
		return u.Interlocks
	}
	return append([]interlock.Predicate{{File: &interlock.File{Path: u.Interlock}}}, u.Interlocks...)
}

// Load reads and validates a configuration file. Unknown keys are errors.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the configuration: %w", err)
	}
	c, err := Parse(b)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse reads a configuration from YAML. Unknown keys are errors.
func Parse(b []byte) (Config, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var c Config
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, err
	}
	return c, c.Validate()
}

// Validate reports everything that keeps the agent from starting, joined.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := topic.ValidName(c.Site); err != nil {
		bad("site: %w", err)
	}
	if err := topic.ValidName(c.Node); err != nil {
		bad("node: %w", err)
	}
	if c.Class == "" {
		bad("class is empty: name the device class, as in the releases made for it")
	}
	if c.StateDir == "" && c.Disk == nil {
		bad("state_dir is empty: name a folder that survives a restart, as /var/lib/swell-agent")
	}
	if c.Uplink == nil {
		if err := checkURL(c.Hub.MQTT, "tls", "mqtts", "ssl"); err != nil {
			bad("hub.mqtt: %w", err)
		}
	}
	if err := checkURL(c.Hub.URL, "https"); err != nil {
		bad("hub.url: %w", err)
	}
	if c.Custom == nil {
		switch c.Source.Kind {
		case "replay", "synthetic", "images":
		case "":
			bad("source.kind is empty: want replay, synthetic or images")
		default:
			bad("source.kind %q is unknown: want replay, synthetic or images", c.Source.Kind)
		}
		if c.Source.Kind == "replay" && c.Source.Replay.Path == "" {
			bad("source.replay.path is empty: name the CSV file to play")
		}
		if c.Source.Kind == "images" {
			if err := c.Source.Images.Validate(); err != nil {
				errs = append(errs, err)
			}
		}
		if err := c.Source.Synthetic.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := c.Frames.Validate(); err != nil {
		errs = append(errs, err)
	}
	if c.HeartbeatS < 0 || c.Telemetry.BlockS < 0 || c.Telemetry.BlockRows < 0 || c.Spool.MaxMiB < 0 || c.Spool.SyncS < 0 || c.Pipeline.MaxGapS < 0 {
		bad("heartbeat_s, telemetry.block_rows, telemetry.block_s, spool.* and pipeline.max_gap_s may not be negative")
	}
	if c.Telemetry.BlockRows > maxBlockRows {
		bad("telemetry.block_rows %d: at most %d", c.Telemetry.BlockRows, maxBlockRows)
	}
	if c.Status != "" && c.Status != "off" {
		if _, _, err := net.SplitHostPort(c.Status); err != nil {
			bad("status: %w: want host:port or off", err)
		}
	}
	var level slog.Level
	if c.LogLevel != "" && level.UnmarshalText([]byte(strings.ToUpper(c.LogLevel))) != nil {
		bad("log_level %q: want debug, info, warn or error", c.LogLevel)
	}
	if err := interlock.Validate(c.Update.interlocks()); err != nil {
		bad("update.interlocks: %w", err)
	}
	if err := c.Actions.Validate(); err != nil {
		bad("actions: %w", err)
	}
	return errors.Join(errs...)
}

// maxBlockRows keeps a block well below the cap of the wire format.
const maxBlockRows = 16384

func checkURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme && u.Host != "" {
			return nil
		}
	}
	return fmt.Errorf("%q: want %s://host:port", s, schemes[0])
}

// id is the device's identity. Valid after Validate.
func (c Config) id() topic.ID { return topic.ID{Site: c.Site, Node: c.Node} }

// withDefaults fills what may be left out.
func (c Config) withDefaults() Config {
	set := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	set(&c.HeartbeatS, 10)
	set(&c.Telemetry.BlockS, 5)
	set(&c.Telemetry.LiveS, 1)
	set(&c.Spool.SyncS, 1)
	set(&c.Hub.ReconnectMinS, 1)
	set(&c.Hub.ReconnectMaxS, 60)
	for _, n := range []struct {
		v *int
		d int
	}{{&c.Telemetry.BlockRows, 1000}, {&c.Spool.MaxMiB, 256}, {&c.Hub.InFlight, 16}, {&c.Hub.ByteBudgetMiB, 512}, {&c.Update.MemoryMiB, 32}} {
		if *n.v == 0 {
			*n.v = n.d
		}
	}
	c.Status = c.StatusAddress()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Version == "" {
		c.Version = "devel"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.StateDir != "" {
		c.StateDir = filepath.Clean(c.StateDir)
	}
	return c
}

// StatusAddress is where the status page is, or "off".
func (c Config) StatusAddress() string {
	if c.Status == "" {
		return "127.0.0.1:7450"
	}
	return c.Status
}

// seconds turns a configured number of seconds into a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
