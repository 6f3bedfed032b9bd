// Package external is the hub as a client of an MQTT broker that somebody else
// runs: mosquitto, EMQX, HiveMQ or any MQTT 3.1.1 server with shared
// subscriptions.
//
// The parties are the devices, which the external broker knows and bounds by
// its own access rules (topic.FiltersFor says which); that broker; and one or
// more hubs, which share the devices' messages through `$share/{group}/…`.
//
// It promises that a message is acknowledged to the broker only after the
// Handler's done(nil); until then the broker keeps it and sends it again after a
// reconnect. It relies on the broker for two things that its operator must set:
// the topic says who sent a message only if access rules make it so, and the
// broker must queue enough (mosquitto drops QoS 1 messages above
// max_queued_messages, 1 000 unless raised). NATS accepts `$share` from 3.1.1
// clients and delivers nothing: do not use it.
//
// Devices come and go by their Sparkplug births and deaths, since a broker does
// not tell its clients about each other.
package external

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/swellfleet/swell/cloud/broker"
	"github.com/swellfleet/swell/protocol/topic"
)

// Config says which broker to use and how.
type Config struct {
	URL      string      // tls://host:8883 or tcp://host:1883
	TLS      *tls.Config // for tls://; a client certificate goes in here; nil = the system's roots
	Username string      // empty = none
	Password string
	ClientID string // the broker keeps unacknowledged messages under it: stable, and different for each hub; required
	Group    string // of the shared subscription; default "swell"

	// Allow says whether messages of a device are taken; an error has them
	// refused (acknowledged, counted, not handed over). It is asked for each
	// message and should answer from memory. nil = all are taken.
	Allow func(topic.ID) error

	MaxPending int           // messages handed over and not done; default 4 096; the broker's receive window should be smaller
	KeepAlive  time.Duration // default 30 s
	Timeout    time.Duration // of a connection attempt and of subscribing; default 10 s
	MinBackoff time.Duration // first wait between attempts, doubled up to MaxBackoff, each shortened by up to half at random; default 200 ms
	MaxBackoff time.Duration // default 30 s

	Log *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	if c.Group == "" {
		c.Group = "swell"
	}
	if c.MaxPending == 0 {
		c.MaxPending = 4096
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.KeepAlive, 30 * time.Second}, {&c.Timeout, 10 * time.Second}, {&c.MinBackoff, 200 * time.Millisecond}, {&c.MaxBackoff, 30 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "tcp" && u.Scheme != "tls" {
		return fmt.Errorf("broker url %q: want tls://host:port or tcp://host:port", c.URL)
	}
	if c.ClientID == "" {
		return errors.New("broker: an external broker needs a client id, stable and different for each hub")
	}
	if strings.ContainsAny(c.Group, "/+#") {
		return fmt.Errorf("broker group %q: no '/', '+' or '#'", c.Group)
	}
	if c.MaxPending < 0 {
		return errors.New("broker: MaxPending must be at least 1")
	}
	return nil
}

// Broker is a connection to an external broker, made again whenever it breaks.
// It implements broker.Broker.
type Broker struct {
	cfg     Config
	handler broker.Handler
	slot    chan struct{} // one place taken for each message pending
	queue   chan delivery // as large as slot, so that who has a place never waits

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	link    *link // nil while not connected
	started bool

	pending                                                                        atomic.Int64
	received, acked, failed, rejected, dropped, published, reconnects, pendingFull atomic.Uint64
}

// link is one connection.
type link struct {
	client mqtt.Client
	down   chan struct{} // closed when the connection is of no more use
	once   sync.Once
	why    error // set before down is closed
}

func (l *link) fail(err error) {
	l.once.Do(func() { l.why = err; close(l.down) })
}

// New checks cfg and returns a broker that Start connects.
func New(cfg Config) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	b := &Broker{cfg: cfg, slot: make(chan struct{}, cfg.MaxPending), queue: make(chan delivery, cfg.MaxPending)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// Start connects and subscribes. A broker that refuses the hub is an error; one
// that cannot be reached is tried again in the background, with a log line.
func (b *Broker) Start(ctx context.Context, h broker.Handler) error {
	b.mu.Lock()
	if b.started || b.ctx.Err() != nil {
		b.mu.Unlock()
		return errors.New("broker was started or closed before")
	}
	b.started, b.handler = true, h
	b.wg.Go(b.dispatch)
	b.mu.Unlock()
	l, err := b.connect(ctx)
	if refused(err) {
		b.cancel()
		return fmt.Errorf("cannot use broker %s: %w; check its user, password or certificate and access rules", b.cfg.URL, err)
	}
	if err != nil {
		b.cfg.Log.Warn("broker is not reachable; trying again", "url", b.cfg.URL, "error", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil { // Close came between
		if l != nil {
			l.client.Disconnect(0)
		}
		return broker.ErrClosed
	}
	b.link = l
	b.wg.Go(func() { b.keep(l) })
	return nil
}

// refused says whether the broker itself said no, which time does not heal.
func refused(err error) bool {
	for _, e := range []error{packets.ErrorRefusedBadUsernameOrPassword, packets.ErrorRefusedNotAuthorised, packets.ErrorRefusedIDRejected, packets.ErrorRefusedBadProtocolVersion, errSubscribe} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var errSubscribe = errors.New("broker refused the subscription")

// keep connects whenever there is no connection, until Close.
func (b *Broker) keep(l *link) {
	wait := b.cfg.MinBackoff
	for {
		if l != nil {
			since := time.Now()
			select {
			case <-b.ctx.Done():
			case <-l.down:
			}
			b.mu.Lock()
			b.link = nil
			b.mu.Unlock()
			l.client.Disconnect(100)
			if b.ctx.Err() != nil {
				return
			}
			b.cfg.Log.Warn("connection to the broker ended; connecting again", "url", b.cfg.URL, "error", l.why)
			if time.Since(since) > b.cfg.MaxBackoff {
				wait = b.cfg.MinBackoff
			}
		}
		pause := time.NewTimer(wait - rand.N(wait/2+1))
		select {
		case <-b.ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		wait = min(2*wait, b.cfg.MaxBackoff)
		var err error
		if l, err = b.connect(b.ctx); err != nil {
			b.cfg.Log.Warn("cannot connect to the broker; trying again", "url", b.cfg.URL, "error", err)
			continue
		}
		b.mu.Lock()
		b.link = l
		b.mu.Unlock()
		b.reconnects.Add(1)
		b.cfg.Log.Info("connected to the broker again", "url", b.cfg.URL)
	}
}

// connect makes one connection and its subscriptions.
func (b *Broker) connect(ctx context.Context) (*link, error) {
	l := &link{down: make(chan struct{})}
	o := mqtt.NewClientOptions().AddBroker(b.cfg.URL).
		SetClientID(b.cfg.ClientID).
		SetUsername(b.cfg.Username).SetPassword(b.cfg.Password).
		SetCleanSession(false). // the broker keeps what is unacknowledged
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetAutoAckDisabled(true).
		SetKeepAlive(b.cfg.KeepAlive).
		SetConnectTimeout(b.cfg.Timeout).
		SetWriteTimeout(b.cfg.Timeout). // without one, publishing blocks on a connection that just broke
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { b.receive(l, m) }).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { l.fail(err) })
	if b.cfg.TLS != nil {
		o.SetTLSConfig(b.cfg.TLS)
	}
	l.client = mqtt.NewClient(o)
	if err := b.wait(ctx, l, l.client.Connect()); err != nil {
		l.fail(err)
		l.client.Disconnect(0)
		return nil, err
	}
	// One by one: a broker may answer the whole of a large SUBSCRIBE with one
	// refusal, and the message should name the filter.
	for _, f := range b.filters() {
		tok := l.client.Subscribe(f, 1, nil)
		err := b.wait(ctx, l, tok)
		if err == nil && tok.(*mqtt.SubscribeToken).Result()[f] > 2 {
			err = fmt.Errorf("%w %s", errSubscribe, f)
		}
		if err != nil {
			l.fail(err)
			l.client.Disconnect(0)
			return nil, err
		}
	}
	return l, nil
}

// wait waits for tok on l; paho forgets tokens of a connection that breaks while
// they are made.
func (b *Broker) wait(ctx context.Context, l *link, tok mqtt.Token) error {
	timeout := time.NewTimer(b.cfg.Timeout)
	defer timeout.Stop()
	select {
	case <-tok.Done():
		return tok.Error()
	case <-l.down:
		return fmt.Errorf("connection ended: %w", l.why)
	case <-ctx.Done():
		return ctx.Err()
	case <-b.ctx.Done():
		return broker.ErrClosed
	case <-timeout.C:
		return fmt.Errorf("no answer within %v", b.cfg.Timeout)
	}
}

// filters are the hub's subscriptions: everything that devices publish.
func (b *Broker) filters() []string {
	share := "$share/" + b.cfg.Group + "/"
	fs := []string{share + topic.All(topic.Blocks), share + topic.All(topic.Frames), share + topic.All(topic.Reported), share + topic.All(topic.Events)}
	for _, m := range []topic.Message{topic.NBIRTH, topic.NDATA, topic.NDEATH} {
		fs = append(fs, share+"spBv1.0/+/"+string(m)+"/+")
	}
	for _, m := range []topic.Message{topic.DBIRTH, topic.DDATA, topic.DDEATH} {
		fs = append(fs, share+"spBv1.0/+/"+string(m)+"/+/+")
	}
	return fs
}

// receive handles one message on the connection's dispatching goroutine.
func (b *Broker) receive(l *link, m mqtt.Message) {
	t, err := topic.Parse(m.Topic())
	if err == nil && b.cfg.Allow != nil {
		err = b.cfg.Allow(t.ID)
	}
	if err != nil {
		b.rejected.Add(1)
		b.cfg.Log.Warn("message refused", "topic", m.Topic(), "error", err)
		m.Ack() // keeping it would not make it better
		return
	}
	select {
	case b.slot <- struct{}{}:
	default:
		b.pendingFull.Add(1)
		if m.Qos() == 0 {
			b.dropped.Add(1)
			return
		}
		select {
		case b.slot <- struct{}{}:
		case <-l.down:
			return
		case <-b.ctx.Done():
			return
		}
	}
	b.queue <- delivery{l, t, m}
}

// dispatch calls the Handler. It is not paho's goroutine, on which a Handler
// that publishes would wait for an answer that only this goroutine can read.
func (b *Broker) dispatch() {
	for {
		select {
		case <-b.ctx.Done():
			return
		case d := <-b.queue:
			b.deliver(d)
		}
	}
}

// delivery is one message on its way to the Handler.
type delivery struct {
	link  *link
	topic topic.Topic
	msg   mqtt.Message
}

func (b *Broker) deliver(d delivery) {
	id := d.topic.ID
	b.received.Add(1)
	b.pending.Add(1)
	if d.topic.Message == topic.NBIRTH {
		b.handler.Connected(id)
	}
	var once sync.Once
	b.handler.Message(id, d.topic, d.msg.Payload(), func(err error) {
		once.Do(func() {
			b.pending.Add(-1)
			<-b.slot
			switch {
			case err != nil:
				b.failed.Add(1)
				d.link.fail(fmt.Errorf("a message on %s was not kept: %w", d.topic, err)) // a reconnect makes the broker send it again
			case d.msg.Qos() > 0:
				select {
				case <-d.link.down:
				default:
					d.msg.Ack()
					b.acked.Add(1)
				}
			}
		})
	})
	switch d.topic.Message {
	case topic.NBIRTH:
		b.handler.Subscribed(id, topic.Of(id, topic.Desired))
	case topic.NDEATH:
		b.handler.Disconnected(id)
	}
}

// Publish sends payload to the broker and returns when the broker has
// acknowledged it. Without a connection it is an error: the caller keeps the
// document and publishes again.
func (b *Broker) Publish(ctx context.Context, name string, payload []byte, retain bool) error {
	if _, err := topic.Parse(name); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	b.mu.Lock()
	l := b.link
	b.mu.Unlock()
	if b.ctx.Err() != nil {
		return fmt.Errorf("publish to %s: %w", name, broker.ErrClosed)
	}
	if l == nil {
		return fmt.Errorf("publish to %s: not connected to broker %s", name, b.cfg.URL)
	}
	if err := b.wait(ctx, l, l.client.Publish(name, 1, retain, payload)); err != nil {
		return fmt.Errorf("publish to %s: %w", name, err)
	}
	b.published.Add(1)
	return nil
}

// Kick cannot end a session on a broker of somebody else. Config.Allow refuses
// the device's messages; its access ends in the broker's own rules.
func (b *Broker) Kick(id topic.ID) {
	b.cfg.Log.Warn("an external broker does not end sessions for the hub; remove the device there", "device", id.String())
}

// Stats returns the counters.
func (b *Broker) Stats() broker.Stats {
	return broker.Stats{
		Pending: b.pending.Load(), Received: b.received.Load(), Acked: b.acked.Load(),
		Failed: b.failed.Load(), Rejected: b.rejected.Load(), Dropped: b.dropped.Load(),
		Published: b.published.Load(), Reconnects: b.reconnects.Load(), PendingFull: b.pendingFull.Load(),
	}
}

// Close disconnects and waits. What was not done stays with the broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.cancel()
	b.mu.Unlock()
	b.wg.Wait()
	return nil
}
