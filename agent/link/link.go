// Package link is the device's connection to the hub's broker: MQTT 3.1.1 over
// mutually authenticated TLS.
//
// The parties are the agent's composition root, which runs it and publishes
// through it, and any MQTT broker. The session is clean: nothing is kept in
// memory across connections, because the spool keeps everything and the hub
// sends the desired document again. It promises to try for ever, ever more
// slowly and never in step with other devices; to call every done exactly once;
// and that the broker publishes the will when the connection dies.
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
	lost   chan error    // has the reason when the connection was lost
	closed chan struct{} // closed when the session is over
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
	s := &session{lost: make(chan error, 1), closed: make(chan struct{})}
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
		SetWriteTimeout(30 * time.Second).
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
	if err := wait(ctx, s.client.Subscribe(topic.Of(l.config.ID, topic.Desired), 1, desired), s.lost); err != nil {
		return fmt.Errorf("subscribe to the desired document: %w", err)
	}
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

func wait(ctx context.Context, t mqtt.Token, lost <-chan error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-lost:
		return err
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
// once: with nil when the broker has acknowledged.
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
	qos := byte(1)
	if t.Message != "" {
		qos = 0
	}
	token := s.client.Publish(t.String(), qos, false, payload)
	go func() {
		defer l.done.Done()
		timeout := time.NewTimer(publishTimeout)
		defer timeout.Stop()
		select {
		case <-token.Done():
			done(token.Error())
		case <-s.closed:
			// The acknowledgement may have come in the same moment.
			select {
			case <-token.Done():
				done(token.Error())
			default:
				done(ErrOffline)
			}
		case <-timeout.C:
			done(fmt.Errorf("no acknowledgement in %s", publishTimeout))
		}
	}()
}
