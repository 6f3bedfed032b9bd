// Package brokertest checks that a broker keeps the promises of package broker.
// The embedded and the external one run the same Exercise. Only tests import
// it.
package brokertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/swellfleet/swell/cloud/broker"
	"github.com/swellfleet/swell/protocol/topic"
)

// Patience is how long a test waits for what must happen.
const Patience = 20 * time.Second

// Fixture is a broker that is ready to be started, and the way to it.
type Fixture struct {
	Broker broker.Broker
	// URL returns where devices connect, after Start.
	URL func() string
	// Cut breaks, once, the connections between the sender of messages and the
	// one that acknowledges them to it.
	Cut func()
	// Device may change the options of a device's client; nil changes nothing.
	Device func(topic.ID, *mqtt.ClientOptions)
}

// Exercise runs every promise against brokers made by open, one for each.
func Exercise(t *testing.T, open func(t *testing.T) Fixture) {
	t.Run("a message reaches the handler with its identity, topic and payload", func(t *testing.T) {
		x := start(t, open, nil)
		dev := x.device(t, topic.ID{Site: "plant", Node: "press-1"}, nil)
		publish(t, dev, topic.Of(x.id, topic.Blocks), "block 1")
		x.h.await(t, "the message", func(h *Recorder) bool { return h.seen["block 1"] == 1 })
		if s := x.Broker.Stats(); s.Received != 1 || s.Failed != 0 {
			t.Errorf("stats %+v, want one received", s)
		}
	})
	t.Run("a message that was not kept comes again", func(t *testing.T) {
		first := true
		x := start(t, open, func(string) error {
			if first {
				first = false
				return errors.New("disk is full")
			}
			return nil
		})
		dev := x.device(t, topic.ID{Site: "plant", Node: "press-1"}, nil)
		publish(t, dev, topic.Of(x.id, topic.Blocks), "again")
		x.h.await(t, "the second delivery", func(h *Recorder) bool { return h.kept["again"] == 1 })
		if s := x.Broker.Stats(); s.Failed != 1 {
			t.Errorf("stats %+v, want one failed", s)
		}
	})
	t.Run("a desired document reaches the device that subscribed", func(t *testing.T) {
		x := start(t, open, nil)
		dev := x.device(t, topic.ID{Site: "plant", Node: "press-1"}, nil)
		got := make(chan string, 8)
		wait(t, "subscribe", dev.Subscribe(topic.Of(x.id, topic.Desired), 1, func(_ mqtt.Client, m mqtt.Message) { got <- string(m.Payload()) }))
		if err := x.Broker.Publish(t.Context(), topic.Of(x.id, topic.Desired), []byte("run model 7"), true); err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-got:
			if s != "run model 7" {
				t.Errorf("device got %q", s)
			}
		case <-time.After(Patience):
			t.Fatal("the document did not arrive")
		}
	})
	t.Run("a document for a device that is away is no error", func(t *testing.T) {
		x := start(t, open, nil)
		if err := x.Broker.Publish(t.Context(), topic.Of(topic.ID{Site: "plant", Node: "away"}, topic.Desired), []byte("x"), true); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("publishing to a name that is no device's topic is refused", func(t *testing.T) {
		x := start(t, open, nil)
		for _, name := range []string{"", "swell/v1/a/b", "swell/v1/+/b/desired", "$SYS/x"} {
			if x.Broker.Publish(t.Context(), name, nil, false) == nil {
				t.Errorf("topic %q was accepted", name)
			}
		}
	})
	t.Run("the will of a device that vanishes is handed over before its absence", func(t *testing.T) {
		x := start(t, open, nil)
		id := topic.ID{Site: "plant", Node: "press-1"}
		death := topic.Sparkplug(id, topic.NDEATH, "")
		conns := make(chan net.Conn, 1)
		dev := x.device(t, id, func(o *mqtt.ClientOptions) {
			o.SetWill(death, "gone", 0, false).SetAutoReconnect(false)
			o.SetCustomOpenConnectionFn(func(u *url.URL, opts mqtt.ClientOptions) (net.Conn, error) {
				c, err := net.Dial("tcp", u.Host)
				if err == nil {
					conns <- c // the TCP connection, below TLS
				}
				if err == nil && u.Scheme == "tls" {
					cfg := opts.TLSConfig.Clone()
					cfg.ServerName = u.Hostname()
					return tls.Client(c, cfg), nil
				}
				return c, err
			})
		})
		publish(t, dev, topic.Sparkplug(id, topic.NBIRTH, ""), "born")
		x.h.await(t, "the device", func(h *Recorder) bool { return h.connected[id] >= 1 })
		(<-conns).Close() // no DISCONNECT: a power cut
		x.h.await(t, "its absence", func(h *Recorder) bool { return h.disconnected[id] == 1 })
		x.h.mu.Lock()
		defer x.h.mu.Unlock()
		if x.h.seen["gone"] != 1 {
			t.Errorf("the will was seen %d times when the device was gone, want once", x.h.seen["gone"])
		}
	})
	t.Run("nothing acknowledged is lost when connections break in the middle of 1000 messages", func(t *testing.T) {
		x := start(t, open, nil)
		const messages, batch = 1000, 50
		id := topic.ID{Site: "plant", Node: "press-1"}
		// A device publishes from its spool until the acknowledgement comes, over
		// a new client each time: paho's own reconnect races with Publish.
		var lost chan struct{}
		connect := func() mqtt.Client {
			gone := make(chan struct{})
			lost = gone
			return x.device(t, id, func(o *mqtt.ClientOptions) {
				// Publish blocks for 30 s on a connection that just broke, unless told.
				o.SetAutoReconnect(false).SetWriteTimeout(100 * time.Millisecond).SetConnectionLostHandler(func(mqtt.Client, error) { close(gone) })
			})
		}
		dev := connect()
		var spool, acked []string
		for i := range messages {
			spool = append(spool, fmt.Sprintf("m%d", i))
		}
		for round := 0; len(spool) > 0; round++ {
			n := min(batch, len(spool))
			var tokens []mqtt.Token
			for i, p := range spool[:n] {
				if i == n/2 && round%5 == 2 {
					x.Cut()
				}
				tokens = append(tokens, dev.Publish(topic.Of(id, topic.Blocks), 1, false, p))
			}
			var again []string
			for i, tok := range tokens {
				// paho forgets tokens of a connection that breaks while it publishes.
				select {
				case <-tok.Done():
				case <-lost:
				}
				select {
				case <-tok.Done():
					if tok.Error() == nil {
						acked = append(acked, spool[i])
						continue
					}
				default:
				}
				again = append(again, spool[i])
			}
			spool = append(again, spool[n:]...)
			if len(again) > 0 && t.Context().Err() == nil {
				dev = connect()
			}
		}
		x.h.await(t, "every acknowledged message", func(h *Recorder) bool {
			for _, p := range acked {
				if h.kept[p] == 0 {
					return false
				}
			}
			return true
		})
		n := len(acked)
		s := x.Broker.Stats()
		t.Logf("%d acknowledged, %d deliveries, %+v", n, s.Received, s)
		if n != messages {
			t.Errorf("%d of %d messages were acknowledged in the end", n, messages)
		}
	})
	t.Run("closing with messages pending waits for nobody and leaves done harmless", func(t *testing.T) {
		fx := open(t)
		held := make(chan func(error), 1)
		h := &holder{Recorder: NewRecorder(nil), held: held}
		if err := fx.Broker.Start(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		x := exercise{Fixture: fx, id: topic.ID{Site: "plant", Node: "press-1"}}
		dev := x.device(t, x.id, func(o *mqtt.ClientOptions) { o.SetAutoReconnect(false) })
		dev.Publish(topic.Of(x.id, topic.Blocks), 1, false, "held")
		var done func(error)
		select {
		case done = <-held:
		case <-time.After(Patience):
			t.Fatal("the message did not arrive")
		}
		closed := make(chan error, 1)
		go func() { closed <- fx.Broker.Close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Errorf("close: %v", err)
			}
		case <-time.After(Patience):
			t.Fatal("Close did not return")
		}
		done(nil)
		done(nil)
		if err := fx.Broker.Publish(context.Background(), topic.Of(x.id, topic.Desired), nil, false); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("publish after close: %v, want ErrClosed", err)
		}
		if err := fx.Broker.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
}

type exercise struct {
	Fixture
	h  *Recorder
	id topic.ID
}

func start(t *testing.T, open func(*testing.T) Fixture, keep func(string) error) *exercise {
	t.Helper()
	x := &exercise{Fixture: open(t), h: NewRecorder(keep), id: topic.ID{Site: "plant", Node: "press-1"}}
	if err := x.Broker.Start(t.Context(), x.h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Broker.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return x
}

func (x *exercise) device(t *testing.T, id topic.ID, change func(*mqtt.ClientOptions)) mqtt.Client {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker(x.URL()).SetClientID(id.String()).
		SetKeepAlive(30 * time.Second).SetMaxReconnectInterval(200 * time.Millisecond).SetOrderMatters(false)
	if x.Device != nil {
		x.Device(id, o)
	}
	if change != nil {
		change(o)
	}
	c := mqtt.NewClient(o)
	wait(t, "connect", c.Connect())
	t.Cleanup(func() { c.Disconnect(50) })
	return c
}

func wait(t *testing.T, what string, tok mqtt.Token) {
	t.Helper()
	if !tok.WaitTimeout(Patience) {
		t.Fatalf("%s: no answer", what)
	}
	if err := tok.Error(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func publish(t *testing.T, c mqtt.Client, name, payload string) {
	t.Helper()
	wait(t, "publish", c.Publish(name, 1, false, payload))
}

// Recorder is a Handler that remembers what it was told.
type Recorder struct {
	keep func(payload string) error // nil keeps all

	mu           sync.Mutex
	seen, kept   map[string]int
	connected    map[topic.ID]int
	disconnected map[topic.ID]int
	subscribed   map[string]int
	change       chan struct{} // closed and replaced at each change
}

// NewRecorder returns a Recorder that answers each message with keep's verdict.
func NewRecorder(keep func(payload string) error) *Recorder {
	return &Recorder{
		keep: keep, seen: map[string]int{}, kept: map[string]int{}, connected: map[topic.ID]int{},
		disconnected: map[topic.ID]int{}, subscribed: map[string]int{}, change: make(chan struct{}),
	}
}

func (r *Recorder) record(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.change)
	r.change = make(chan struct{})
}

// Message records the payload and answers from another goroutine.
func (r *Recorder) Message(id topic.ID, t topic.Topic, payload []byte, done func(error)) {
	var err error
	r.record(func() {
		if id != t.ID {
			err = fmt.Errorf("message of %s on a topic of %s", id, t.ID)
		}
		r.seen[string(payload)]++
		if err == nil && r.keep != nil {
			err = r.keep(string(payload))
		}
		if err == nil {
			r.kept[string(payload)]++
		}
	})
	go done(err)
}

// Connected counts.
func (r *Recorder) Connected(id topic.ID) { r.record(func() { r.connected[id]++ }) }

// Disconnected counts.
func (r *Recorder) Disconnected(id topic.ID) { r.record(func() { r.disconnected[id]++ }) }

// Subscribed counts.
func (r *Recorder) Subscribed(id topic.ID, filter string) {
	r.record(func() { r.subscribed[filter]++ })
}

// Counts returns how often each was seen: messages with that payload,
// connections and disconnections of id, subscriptions to filter.
func (r *Recorder) Counts(payload string, id topic.ID, filter string) (messages, connected, disconnected, subscribed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[payload], r.connected[id], r.disconnected[id], r.subscribed[filter]
}

// Await waits until cond holds, checking it at each news and every 20 ms.
func (r *Recorder) Await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(Patience)
	for !cond() {
		r.mu.Lock()
		change := r.change
		r.mu.Unlock()
		select {
		case <-change:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s did not come", what)
		}
	}
}

func (r *Recorder) await(t *testing.T, what string, cond func(*Recorder) bool) {
	t.Helper()
	r.Await(t, what, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return cond(r) })
}

// holder keeps the done of the first message for the test.
type holder struct {
	*Recorder
	held chan func(error)
}

func (h *holder) Message(id topic.ID, t topic.Topic, payload []byte, done func(error)) {
	select {
	case h.held <- done:
	default:
	}
}

// Proxy passes TCP connections on to another address and can break them.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool
}

// NewProxy listens on a free loopback port until the test ends and passes
// connections on to what target returns.
func NewProxy(t *testing.T, target func() string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, conns: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target())
			if err != nil {
				a.Close()
				continue
			}
			p.mu.Lock()
			p.conns[a], p.conns[b] = true, true
			p.mu.Unlock()
			p.wg.Go(func() { p.pass(a, b) })
			p.wg.Go(func() { p.pass(b, a) })
		}
	})
	t.Cleanup(func() { l.Close(); p.Cut(); p.wg.Wait() })
	return p
}

func (p *Proxy) pass(dst, src net.Conn) {
	io.Copy(dst, src)
	dst.Close()
	src.Close()
	p.mu.Lock()
	delete(p.conns, src)
	p.mu.Unlock()
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut breaks every connection that passes now.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}
