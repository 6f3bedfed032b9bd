// Package fleet runs many whole agents in one process against a hub: the same
// code that runs on devices, each with an identity, a state folder and a
// connection of its own.
//
// The parties are a Hub, which hands out enrolment tokens, and Devices, each
// with a source of samples. Demonstrations, back-tests and load tests use it.
// A device keeps its state in its folder, so the same fleet can come back with
// what it had on disk.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Device is one member.
type Device struct {
	ID     topic.ID
	Class  artifact.Class
	Labels map[string]string
	// Source makes the device's source anew, at every start.
	Source func() (source.Source, error)
}

// Hub is where the devices belong.
type Hub struct {
	URL     string // https://host:port for enrolment and releases
	MQTT    string // tls://host:port
	CAPEM   string
	KeysPEM string // release signing keys; empty: what the hub gives at enrolment
	// LedgerKey is the ledger's verifier key; empty: likewise.
	LedgerKey string
	// Token returns a fresh single-use enrolment token.
	Token func(ctx context.Context, d Device) (string, error)
}

// Config says what runs where.
type Config struct {
	Hub      Hub
	Devices  []Device
	StateDir string // one folder a device below it
	Version  string // of the agents, for reports
	// Adjust, when set, changes an agent's configuration before it starts.
	Adjust func(*agent.Config)
	Logger *slog.Logger
}

// Fleet is a set of running agents.
type Fleet struct {
	cfg Config
	ctx context.Context
	end context.CancelFunc

	mu      sync.Mutex
	members map[topic.ID]*member
	failed  error // the first agent's that ended by itself
}

type member struct {
	device Device
	token  string // for its first start; an enrolled device does not use it again
	agent  *agent.Agent
	cancel context.CancelFunc // nil: not running
	done   chan struct{}
}

// asking is how many tokens are asked for at once.
const asking = 8

// Start enrols and starts every device. Close ends them.
func Start(ctx context.Context, cfg Config) (*Fleet, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, end := context.WithCancel(ctx)
	f := &Fleet{cfg: cfg, ctx: ctx, end: end, members: map[topic.ID]*member{}}
	var tokens errgroup.Group
	tokens.SetLimit(asking)
	for _, d := range cfg.Devices {
		if f.members[d.ID] != nil {
			end()
			return nil, fmt.Errorf("start fleet: device %s is named twice", d.ID)
		}
		m := &member{device: d}
		f.members[d.ID] = m
		tokens.Go(func() (err error) {
			if m.token, err = cfg.Hub.Token(ctx, d); err != nil {
				return fmt.Errorf("get an enrolment token for device %s: %w", d.ID, err)
			}
			return nil
		})
	}
	if err := tokens.Wait(); err != nil {
		end()
		return nil, err
	}
	for _, d := range cfg.Devices {
		if err := f.start(d.ID); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// start makes and runs a device's agent.
func (f *Fleet) start(id topic.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[id]
	if m == nil {
		return fmt.Errorf("start device %s: no such device", id)
	}
	if m.cancel != nil {
		return fmt.Errorf("start device %s: it runs", id)
	}
	a, err := f.make(m)
	if err != nil {
		return fmt.Errorf("start device %s: %w", id, err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	m.agent, m.cancel, m.done = a, cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		if err := a.Run(ctx); err != nil && ctx.Err() == nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.failed = errors.Join(f.failed, fmt.Errorf("device %s: %w", id, err))
		}
	}(m.done)
	return nil
}

func (f *Fleet) make(m *member) (*agent.Agent, error) {
	d := m.device
	src, err := d.Source()
	if err != nil {
		return nil, err
	}
	c := agent.Config{
		Site: d.ID.Site, Node: d.ID.Node, Class: d.Class, Labels: d.Labels,
		StateDir: filepath.Join(f.cfg.StateDir, d.ID.Site, d.ID.Node),
		Hub:      agent.Hub{URL: f.cfg.Hub.URL, MQTT: f.cfg.Hub.MQTT, CAPEM: f.cfg.Hub.CAPEM, Token: m.token, ReconnectMinS: 0.2, ReconnectMaxS: 5},
		Trust:    agent.Trust{KeysPEM: f.cfg.Hub.KeysPEM, LedgerKey: f.cfg.Hub.LedgerKey},
		Status:   "off",
		Custom:   src,
		Version:  f.cfg.Version,
		Log:      f.cfg.Logger.With("device", d.ID.String()),
	}
	if f.cfg.Adjust != nil {
		f.cfg.Adjust(&c)
	}
	return agent.New(c)
}

// Reported returns what each running device would report now.
func (f *Fleet) Reported() map[topic.ID]twin.Reported {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[topic.ID]twin.Reported, len(f.members))
	for id, m := range f.members {
		if m.cancel != nil {
			out[id] = m.agent.Reported()
		}
	}
	return out
}

// Err returns why agents ended by themselves, joined; nil while all is well.
func (f *Fleet) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// Close ends every device and waits.
func (f *Fleet) Close() {
	f.end()
	f.mu.Lock()
	var waits []chan struct{}
	for _, m := range f.members {
		if m.done != nil {
			waits = append(waits, m.done)
		}
	}
	f.mu.Unlock()
	for _, w := range waits {
		<-w
	}
}
