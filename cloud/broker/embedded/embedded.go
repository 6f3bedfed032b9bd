// Package embedded is the MQTT broker inside the hub's process: mochi-mqtt
// reads and writes packets, and this package decides who may connect, what a
// device may say and hear, and when a message is acknowledged.
//
// The parties are devices, known by their client certificate, and the hub's
// broker.Handler. It promises what package broker promises, and that memory is
// bounded: by clients, by messages in flight per client, by bytes in flight
// altogether, and by what waits to be written to one client. A device that
// outruns the hub is read more slowly; it is not cut off and nothing is lost.
//
// Three traits of mochi shape the code. It acknowledges on its own unless the
// publish hook returns ErrRejectPacket, so the hook does, and the PUBACK is
// written here. Its path to subscribers drops QoS 1 messages under load and
// shares packet identifiers with the other direction, so messages to devices
// are written here as well. Its log prints whole packets, so it gets none.
package embedded

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/swellfleet/swell/cloud/broker"
	"github.com/swellfleet/swell/protocol/topic"
	"golang.org/x/sync/semaphore"
)

// Config says where the broker listens and what it bears.
type Config struct {
	Listen    string // host:port for devices; default 127.0.0.1:7883; port 0 picks a free one
	ListenKey string // the name of that setting in the hub's configuration, for messages; default "broker.listen"

	// TLS holds the server's certificate and the CA of the devices; ClientAuth
	// must be tls.RequireAndVerifyClientCert. nil makes a plain listener, which
	// takes a client id at its word and is allowed on a loopback address only:
	// for tests and load generators.
	TLS *tls.Config
	// Authorize turns a verified client certificate into an identity, or says
	// why not (revoked, foreign). It is asked once per connection. Required
	// with TLS.
	Authorize func(*x509.Certificate) (topic.ID, error)

	MaxClients      int           // connections at a time; default 20 000
	MaxPacketBytes  int           // largest packet; default 4 MiB and 4 KiB for its head
	MaxInFlight     int           // messages of one device handed over and not done; default 64
	MaxPendingBytes int64         // payloads of all devices handed over and not done; default 256 MiB
	MaxOutbound     int           // messages to one device not yet acknowledged by it; one more ends its session; default 64
	ConnectTimeout  time.Duration // from accept to CONNECT; default 10 s

	Log *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	c.Listen = or(c.Listen, "127.0.0.1:7883")
	c.ListenKey = or(c.ListenKey, "broker.listen")
	c.MaxClients = or(c.MaxClients, 20_000)
	c.MaxPacketBytes = or(c.MaxPacketBytes, 4<<20+4<<10)
	c.MaxInFlight = or(c.MaxInFlight, 64)
	c.MaxPendingBytes = or(c.MaxPendingBytes, 256<<20)
	c.MaxOutbound = or(c.MaxOutbound, 64)
	c.ConnectTimeout = or(c.ConnectTimeout, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	c = c.withDefaults()
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("%s: %w", c.ListenKey, err)
	}
	if c.TLS == nil {
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("%s: %s without TLS is open to everybody; use a loopback address or give a certificate", c.ListenKey, c.Listen)
		}
	} else {
		if c.TLS.ClientAuth != tls.RequireAndVerifyClientCert || c.TLS.ClientCAs == nil {
			return errors.New("broker: TLS must require and verify client certificates")
		}
		if c.Authorize == nil {
			return errors.New("broker: TLS needs Authorize")
		}
	}
	if int64(c.MaxPacketBytes) > c.MaxPendingBytes {
		return fmt.Errorf("broker: a packet of %d bytes does not fit in %d pending bytes", c.MaxPacketBytes, c.MaxPendingBytes)
	}
	if c.MaxClients < 1 || c.MaxInFlight < 1 || c.MaxInFlight > 65535 || c.MaxOutbound < 1 || c.MaxOutbound > 65534 {
		return errors.New("broker: MaxClients, MaxInFlight and MaxOutbound must be at least 1, the last two below 65 535")
	}
	return nil
}

// Broker is an MQTT broker in this process. It implements broker.Broker.
type Broker struct {
	cfg     Config
	handler broker.Handler
	server  *mqtt.Server
	pending *semaphore.Weighted

	ctx    context.Context // ends with Close; parent of every session's
	cancel context.CancelFunc
	wg     sync.WaitGroup // connections and writers

	mu       sync.RWMutex // guards what follows; never held while the Handler runs
	listener net.Listener // nil before Start
	conns    map[net.Conn]struct{}
	sessions map[topic.ID]*session
	closed   bool

	// presence orders Connected and Disconnected of one device.
	presence [64]sync.Mutex
	seed     maphash.Seed

	clients, pendingN                                                             atomic.Int64
	received, acked, failed, rejected, dropped, published, takeovers, pendingFull atomic.Uint64
}

// New checks cfg and returns a broker that Start opens.
func New(cfg Config) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	b := &Broker{
		cfg:      cfg,
		pending:  semaphore.NewWeighted(cfg.MaxPendingBytes),
		conns:    map[net.Conn]struct{}{},
		sessions: map[topic.ID]*session{},
		seed:     maphash.MakeSeed(),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// Start opens the listener and serves devices until Close.
func (b *Broker) Start(ctx context.Context, h broker.Handler) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return broker.ErrClosed
	}
	if b.listener != nil {
		return errors.New("broker was started before")
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", b.cfg.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("cannot listen for devices on %s: another program uses this port; stop it or change %s: %w", b.cfg.Listen, b.cfg.ListenKey, err)
	}
	if err != nil {
		return fmt.Errorf("cannot listen for devices on %s (%s): %w", b.cfg.Listen, b.cfg.ListenKey, err)
	}
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumClients = int64(b.cfg.MaxClients)
	caps.MaximumPacketSize = uint32(b.cfg.MaxPacketBytes)
	caps.MaximumSessionExpiryInterval = 0 // no sessions outlive a connection
	caps.ReceiveMaximum = uint16(b.cfg.MaxInFlight)
	caps.MaximumClientWritesPending = 1 // its queue is not used
	caps.TopicAliasMaximum = 0          // aliases pass mochi's access check unresolved
	caps.SharedSubAvailable = 0
	caps.MaximumQos = 1
	b.server = mqtt.New(&mqtt.Options{
		Capabilities:            caps,
		Logger:                  slog.New(slog.DiscardHandler),
		SysTopicResendInterval:  1 << 20, // s; each round stops the world to read memory statistics
		ClientNetReadBufferSize: 4 << 10,
	})
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := b.server.Serve(); err != nil {
		return errors.Join(err, l.Close())
	}
	b.handler, b.listener = h, l
	b.wg.Go(func() { b.accept(l) })
	b.cfg.Log.Info("broker listens", "address", l.Addr().String(), "tls", b.cfg.TLS != nil)
	return nil
}

// Addr returns the address of the listener, or nil before Start.
func (b *Broker) Addr() net.Addr {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.listener == nil {
		return nil
	}
	return b.listener.Addr()
}

func (b *Broker) accept(l net.Listener) {
	for {
		raw, err := l.Accept()
		if err != nil {
			if b.ctx.Err() != nil {
				return
			}
			// Out of file descriptors, most likely: wait for some to close.
			b.cfg.Log.Error("broker cannot accept a connection", "error", err)
			select {
			case <-b.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		b.mu.Lock()
		full := len(b.conns) >= b.cfg.MaxClients
		if full || b.closed {
			b.mu.Unlock()
			raw.Close()
			if full {
				b.rejected.Add(1)
				b.cfg.Log.Warn("broker refused a connection: too many clients", "remote", raw.RemoteAddr().String(), "max", b.cfg.MaxClients)
			}
			continue
		}
		b.conns[raw] = struct{}{}
		b.mu.Unlock()
		b.wg.Go(func() { b.serve(raw) })
	}
}

// serve carries one connection from its first byte to its end.
func (b *Broker) serve(raw net.Conn) {
	defer func() {
		raw.Close()
		b.mu.Lock()
		delete(b.conns, raw)
		b.mu.Unlock()
	}()
	log := b.cfg.Log.With("remote", raw.RemoteAddr().String())
	// One deadline for the handshake and CONNECT; mochi sets its own by
	// keep-alive once the device is known.
	_ = raw.SetDeadline(time.Now().Add(b.cfg.ConnectTimeout))
	c := &conn{Conn: raw, log: log}
	if b.cfg.TLS != nil {
		t := tls.Server(raw, b.cfg.TLS)
		if err := t.Handshake(); err != nil {
			if b.ctx.Err() == nil {
				b.rejected.Add(1)
				log.Warn("broker refused a connection", "error", err)
			}
			return
		}
		c.Conn, c.cert = t, t.ConnectionState().PeerCertificates[0]
	}
	b.establish(c)
	if c.session != nil {
		b.end(c.session)
	}
}

// establish has mochi read c to its end. A packet that makes it panic costs the
// device its connection, not all others theirs.
func (b *Broker) establish(c *conn) {
	defer func() {
		if r := recover(); r != nil {
			b.rejected.Add(1)
			c.log.Error("a packet made the broker panic; the connection is closed", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	if err := b.server.EstablishConnection("devices", c); err != nil && c.session == nil {
		c.log.Debug("connection ended before a session began", "error", err)
	}
}

// Publish sends payload to the device that name belongs to, when it is
// connected and has subscribed; retain means nothing here, since the hub
// publishes again on Subscribed. A device with MaxOutbound messages not
// acknowledged is disconnected, and gets the newest when it is back.
func (b *Broker) Publish(ctx context.Context, name string, payload []byte, retain bool) error {
	t, err := topic.Parse(name)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if max := b.cfg.MaxPacketBytes - len(name) - 16; len(payload) > max {
		return fmt.Errorf("publish to %s: %d bytes are more than %d", name, len(payload), max)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("publish to %s: %w", name, err)
	}
	b.mu.RLock()
	s, closed := b.sessions[t.ID], b.closed
	b.mu.RUnlock()
	if closed {
		return fmt.Errorf("publish to %s: %w", name, broker.ErrClosed)
	}
	if s != nil {
		s.publish(name, bytes.Clone(payload))
	}
	return nil
}

// Kick ends the session of id, if it has one.
func (b *Broker) Kick(id topic.ID) {
	b.mu.RLock()
	s := b.sessions[id]
	b.mu.RUnlock()
	if s != nil {
		s.stop(errors.New("kicked"))
	}
}

// Stats returns the counters.
func (b *Broker) Stats() broker.Stats {
	return broker.Stats{
		Clients: b.clients.Load(), Pending: b.pendingN.Load(),
		Received: b.received.Load(), Acked: b.acked.Load(), Failed: b.failed.Load(),
		Rejected: b.rejected.Load(), Dropped: b.dropped.Load(), Published: b.published.Load(),
		Takeovers: b.takeovers.Load(), PendingFull: b.pendingFull.Load(),
	}
}

// Close ends all connections and waits for them. The Handler hears
// Disconnected for each device, but no will messages: it is the broker that
// goes away, not the devices.
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.wg.Wait()
		return nil
	}
	b.closed = true
	b.cancel()
	l := b.listener
	for c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	if l == nil {
		return nil
	}
	err := l.Close()
	b.wg.Wait()
	if e := b.server.Close(); e != nil {
		err = errors.Join(err, e)
	}
	return err
}

// begin makes s the session of its device. It runs before CONNACK.
func (b *Broker) begin(s *session) {
	order := b.order(s.id)
	order.Lock()
	defer order.Unlock()
	b.mu.Lock()
	old := b.sessions[s.id]
	b.sessions[s.id] = s
	b.mu.Unlock()
	b.clients.Add(1)
	if old != nil {
		b.takeovers.Add(1)
		s.log.Warn("device connected again and takes over its session; two devices may share one identity", "old_remote", old.cl.Net.Remote)
		old.stop(packets.ErrSessionTakenOver)
	}
	b.handler.Connected(s.id)
}

// end forgets s after its connection is gone and nothing reads from it.
func (b *Broker) end(s *session) {
	s.stop(nil)
	if s.will != nil && !s.farewell && b.ctx.Err() == nil {
		b.received.Add(1)
		b.pendingN.Add(1)
		var once sync.Once
		b.handler.Message(s.id, s.will.topic, s.will.payload, func(err error) {
			once.Do(func() {
				b.pendingN.Add(-1)
				if err != nil {
					b.failed.Add(1)
				}
			})
		})
	}
	order := b.order(s.id)
	order.Lock()
	defer order.Unlock()
	b.clients.Add(-1)
	b.mu.Lock()
	current := b.sessions[s.id] == s
	if current {
		delete(b.sessions, s.id)
	}
	b.mu.Unlock()
	if current {
		b.handler.Disconnected(s.id)
	}
}

func (b *Broker) order(id topic.ID) *sync.Mutex {
	return &b.presence[maphash.Comparable(b.seed, id)%uint64(len(b.presence))]
}
