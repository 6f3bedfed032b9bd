// Package link is the device's connection to the hub's broker: MQTT 3.1.1 over
// mutually authenticated TLS.
//
// The parties are the agent's composition root, which runs it and publishes
// through it, and any MQTT broker. The session is clean: nothing is kept in
// memory across connections, because the spool keeps everything and the hub
// sends the desired document again. It promises to try for ever, ever more
// slowly and never in step with other devices; to call every done exactly once;
// that the broker publishes the will when the connection dies; and that Run ends
// soon after its context, whatever the network does.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/swellfleet/swell/protocol/topic"
)

// Config says where to connect and as whom.
type Config struct {
	URL  string             // tls://host:port
	ID   topic.ID           // the client id is its String
	TLS  func() *tls.Config // asked before each connection; nil: none, for tests of brokers without TLS
	Will []byte             // published by the broker on the reported topic when the connection dies
	// BackoffMin and BackoffMax bound the pause between attempts. 0 means 1 s
	// and 1 min.
	BackoffMin, BackoffMax time.Duration
	KeepAlive              time.Duration // 0 means 20 s
	Log                    *slog.Logger
}

// Handler hears what happens. Its methods must return quickly.
type Handler interface {
	Up()                    // connected and subscribed
	Down(err error)         // a connection or an attempt ended
	Desired(payload []byte) // a desired document came
}

// ErrOffline says that there is no connection.
var ErrOffline = errors.New("not connected to the hub")

// publishTimeout ends a publication that the broker does not acknowledge. Its
// block is sent again; the hub drops the double.
const publishTimeout = time.Minute

// writeTimeout bounds what one call of the client library takes.
const writeTimeout = 30 * time.Second

// Link is a connection that comes back. Run it once.
type Link struct {
	config Config
	client atomic.Pointer[session]

	mu      sync.RWMutex
	stopped bool           // no publication begins any more
	done    sync.WaitGroup // publications under way
}

type session struct {
	client mqtt.Client
	out    chan publication // to send, in their order
	lost   chan error       // has the reason when the connection was lost
	closed chan struct{}    // closed when the session is over
}

// publication is a message on its way to the client library.
type publication struct {
	topic   string
	qos     byte
	payload []byte
	token   chan mqtt.Token // has room for the one
}

// send hands publications to the client library, which takes none while the
// network stalls and holds its caller for up to writeTimeout if the session ends
// meanwhile. Only this goroutine waits that out.
func (s *session) send() {
	for {
		select {
		case p := <-s.out:
			p.token <- s.client.Publish(p.topic, p.qos, false, p.payload)
		case <-s.closed:
			return
		}
	}
}

// New makes a link that is not connected.
func New(c Config) *Link {
	if c.BackoffMin == 0 {
		c.BackoffMin = time.Second
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = time.Minute
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = 20 * time.Second
	}
	return &Link{config: c}
}

// Connected says whether a connection stands now.
func (l *Link) Connected() bool { return l.client.Load() != nil }

// Run connects, and again whenever the connection is lost, until ctx ends.
func (l *Link) Run(ctx context.Context, h Handler) error {
	defer func() {
		l.mu.Lock()
		l.stopped = true
		l.mu.Unlock()
		l.done.Wait()
	}()
	for failures := 0; ; {
		began := time.Now()
		err := l.connect(ctx, h)
		if ctx.Err() != nil {
			return nil
		}
		h.Down(err)
		if time.Since(began) > l.config.BackoffMax {
			failures = 0
		}
		wait := backoff(l.config.BackoffMin, l.config.BackoffMax, failures, rand.Float64())
		failures++
		l.config.Log.Debug("no connection to the hub", "error", err, "next_try", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// backoff doubles from least to most; the upper half of each pause is drawn.
func backoff(least, most time.Duration, failures int, draw float64) time.Duration {
	d := least << min(failures, 20)
	if d > most || d <= 0 {
		d = most
	}
	return d/2 + time.Duration(draw*float64(d)/2)
}

// connect holds one connection until it is lost or ctx ends.
func (l *Link) connect(ctx context.Context, h Handler) error {
	s := &session{out: make(chan publication), lost: make(chan error, 1), closed: make(chan struct{})}
	o := mqtt.NewClientOptions().
		AddBroker(l.config.URL).
		SetClientID(l.config.ID.String()).
		SetProtocolVersion(4).
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetConnectTimeout(15 * time.Second).
		SetKeepAlive(l.config.KeepAlive).
		SetPingTimeout(10 * time.Second).
		SetWriteTimeout(writeTimeout).
		SetOrderMatters(true).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { s.lost <- err })
	if l.config.TLS != nil {
		o.SetTLSConfig(l.config.TLS())
	}
	if l.config.Will != nil {
		o.SetBinaryWill(topic.Of(l.config.ID, topic.Reported), l.config.Will, 1, false)
	}
	s.client = mqtt.NewClient(o)
	defer close(s.closed)
	if err := wait(ctx, s.client.Connect(), nil); err != nil {
		s.client.Disconnect(0)
		return fmt.Errorf("connect to %s: %w", l.config.URL, err)
	}
	defer s.client.Disconnect(250)
	desired := func(_ mqtt.Client, m mqtt.Message) { h.Desired(m.Payload()) }
	subscribed := make(chan error, 1)
	go func() { // the call may hang, as that of send
		subscribed <- wait(ctx, s.client.Subscribe(topic.Of(l.config.ID, topic.Desired), 1, desired), s.closed)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.lost:
		return fmt.Errorf("subscribe to the desired document: %w", err)
	case err := <-subscribed:
		if err != nil {
			return fmt.Errorf("subscribe to the desired document: %w", err)
		}
	}
	go s.send()
	l.client.Store(s)
	defer l.client.Store(nil)
	h.Up()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.lost:
		return err
	}
}

// wait returns what became of t. It is ErrOffline if closed is closed before.
func wait(ctx context.Context, t mqtt.Token, closed <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-closed:
		return ErrOffline
	case <-t.Done():
		if s, ok := t.(*mqtt.SubscribeToken); ok && t.Error() == nil {
			for filter, code := range s.Result() {
				if code == 0x80 {
					return fmt.Errorf("the broker refused %s", filter)
				}
			}
		}
		return t.Error()
	}
}

// Publish sends with QoS 1, or with QoS 0 for a Sparkplug topic, and calls done
// once: with nil when the broker has acknowledged. Messages go out in the order
// of the calls. It blocks while the network takes nothing, until the connection
// is given up.
func (l *Link) Publish(t topic.Topic, payload []byte, done func(error)) {
	l.mu.RLock()
	s := l.client.Load()
	if s == nil || l.stopped {
		l.mu.RUnlock()
		done(ErrOffline)
		return
	}
	l.done.Add(1)
	l.mu.RUnlock()
	p := publication{topic: t.String(), qos: 1, payload: payload, token: make(chan mqtt.Token, 1)}
	if t.Message != "" {
		p.qos = 0
	}
	select {
	case s.out <- p:
	case <-s.closed:
		done(ErrOffline)
		l.done.Done()
		return
	}
	go func() {
		defer l.done.Done()
		timeout := time.NewTimer(publishTimeout)
		defer timeout.Stop()
		var token mqtt.Token
		var acknowledged <-chan struct{}
		for {
			select {
			case token = <-p.token:
				acknowledged = token.Done()
				continue
			case <-acknowledged:
				done(token.Error())
			case <-s.closed:
				// The acknowledgement may have come in the same moment.
				select {
				case <-acknowledged:
					done(token.Error())
				default:
					done(ErrOffline)
				}
			case <-timeout.C:
				done(fmt.Errorf("no acknowledgement in %s", publishTimeout))
			}
			return
		}
	}()
}
