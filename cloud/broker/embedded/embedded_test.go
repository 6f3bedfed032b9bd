package embedded_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/swellfleet/swell/cloud/broker"
	"github.com/swellfleet/swell/cloud/broker/brokertest"
	"github.com/swellfleet/swell/cloud/broker/embedded"
	"github.com/swellfleet/swell/protocol/topic"
)

var press = topic.ID{Site: "plant", Node: "press-1"}

func TestExercisePlain(t *testing.T) {
	brokertest.Exercise(t, func(t *testing.T) brokertest.Fixture {
		b := open(t, embedded.Config{Listen: "127.0.0.1:0"})
		p := brokertest.NewProxy(t, func() string { return b.Addr().String() })
		return brokertest.Fixture{Broker: b, URL: func() string { return "tcp://" + p.Addr() }, Cut: p.Cut}
	})
}

func TestExerciseTLS(t *testing.T) {
	ca := newCA(t)
	brokertest.Exercise(t, func(t *testing.T) brokertest.Fixture {
		b := open(t, ca.config(t))
		p := brokertest.NewProxy(t, func() string { return b.Addr().String() })
		return brokertest.Fixture{
			Broker: b, URL: func() string { return "tls://" + p.Addr() }, Cut: p.Cut,
			Device: func(id topic.ID, o *mqtt.ClientOptions) {
				o.SetTLSConfig(ca.client(t, id.String(), time.Now().Add(time.Hour)))
			},
		}
	})
}

func open(t *testing.T, cfg embedded.Config) *embedded.Broker {
	t.Helper()
	b, err := embedded.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestPubackComesOnlyAfterDone(t *testing.T) {
	b := open(t, embedded.Config{Listen: "127.0.0.1:0"})
	h := &manual{Recorder: brokertest.NewRecorder(nil), done: make(chan func(error), 8)}
	mustStart(t, b, h)
	c := rawConnect(t, b, press.String())
	c.publish(t, topic.Of(press, topic.Blocks), 7, "a")
	c.publish(t, topic.Of(press, topic.Blocks), 8, "b")
	first, second := <-h.done, <-h.done
	// A ping is answered after both messages were read; had a PUBACK been
	// written for them, it would come before the answer.
	c.write(t, packets.NewControlPacket(packets.Pingreq))
	if _, ok := c.read(t).(*packets.PingrespPacket); !ok {
		t.Fatal("something came before the handler was done")
	}
	second(nil)
	if p, ok := c.read(t).(*packets.PubackPacket); !ok || p.MessageID != 8 {
		t.Fatalf("want PUBACK 8, got %v", p)
	}
	first(errors.New("disk is full"))
	if p, err := packets.ReadPacket(c.Conn); err == nil {
		t.Fatalf("want a closed connection after done(err), got %v", p)
	}
	await(t, func() bool { s := b.Stats(); return s.Acked == 1 && s.Failed == 1 && s.Pending == 0 })
}

func TestADeviceThatOutrunsTheHubIsReadMoreSlowlyAndLosesNothing(t *testing.T) {
	b := open(t, embedded.Config{Listen: "127.0.0.1:0", MaxInFlight: 4, MaxPacketBytes: 1 << 20, MaxPendingBytes: 1 << 20})
	h := &manual{Recorder: brokertest.NewRecorder(nil), done: make(chan func(error), 100)}
	mustStart(t, b, h)
	c := rawConnect(t, b, press.String())
	for i := range 20 {
		c.publish(t, topic.Of(press, topic.Blocks), uint16(i+1), strings.Repeat("x", 1000))
	}
	await(t, func() bool { return b.Stats().PendingFull >= 1 })
	if s := b.Stats(); s.Received != 4 || s.Pending != 4 {
		t.Errorf("%+v, want 4 handed over while none is done", s)
	}
	for range 20 {
		(<-h.done)(nil)
	}
	for i := range 20 {
		if p, ok := c.read(t).(*packets.PubackPacket); !ok || p.MessageID != uint16(i+1) {
			t.Fatalf("answer %d: %v", i, p)
		}
	}
}

func TestBytesPendingAreBoundedOverAllDevices(t *testing.T) {
	b := open(t, embedded.Config{Listen: "127.0.0.1:0", MaxPacketBytes: 600, MaxPendingBytes: 1000})
	h := &manual{Recorder: brokertest.NewRecorder(nil), done: make(chan func(error), 8)}
	mustStart(t, b, h)
	other := topic.ID{Site: "plant", Node: "press-2"}
	c1, c2 := rawConnect(t, b, press.String()), rawConnect(t, b, other.String())
	c1.publish(t, topic.Of(press, topic.Blocks), 1, strings.Repeat("x", 500))
	done := <-h.done
	c2.publish(t, topic.Of(other, topic.Blocks), 1, strings.Repeat("x", 501))
	await(t, func() bool { return b.Stats().PendingFull == 1 })
	done(nil)
	(<-h.done)(nil)
	if _, ok := c2.read(t).(*packets.PubackPacket); !ok {
		t.Error("the second device got no PUBACK")
	}
}

func TestSubscribedComesAfterSuback(t *testing.T) {
	b := open(t, embedded.Config{Listen: "127.0.0.1:0"})
	h := &greeter{Recorder: brokertest.NewRecorder(nil), b: b}
	mustStart(t, b, h)
	c := rawConnect(t, b, press.String())
	c.subscribe(t, 1, topic.Of(press, topic.Desired))
	if p, ok := c.read(t).(*packets.SubackPacket); !ok || p.ReturnCodes[0] != 1 {
		t.Fatalf("want SUBACK first, got %v", p)
	}
	p, ok := c.read(t).(*packets.PublishPacket)
	if !ok || string(p.Payload) != "desired" || p.Qos != 1 {
		t.Fatalf("want the desired document, got %v", p)
	}
}

func TestADeviceThatNeverAcknowledgesIsCutOff(t *testing.T) {
	b := open(t, embedded.Config{Listen: "127.0.0.1:0", MaxOutbound: 3})
	h := brokertest.NewRecorder(nil)
	mustStart(t, b, h)
	c := rawConnect(t, b, press.String())
	c.subscribe(t, 1, topic.Of(press, topic.Desired))
	c.read(t)
	for range 4 {
		if err := b.Publish(t.Context(), topic.Of(press, topic.Desired), []byte("x"), true); err != nil {
			t.Fatal(err)
		}
	}
	h.Await(t, "disconnection", func() bool { _, _, gone, _ := h.Counts("", press, ""); return gone == 1 })
	if s := b.Stats(); s.Dropped != 1 {
		t.Errorf("%+v, want one dropped", s)
	}
}

func TestASecondSessionTakesOverAndIsCounted(t *testing.T) {
	b := open(t, embedded.Config{Listen: "127.0.0.1:0"})
	h := brokertest.NewRecorder(nil)
	mustStart(t, b, h)
	first := rawConnect(t, b, press.String())
	second := rawConnect(t, b, press.String())
	for {
		p, err := packets.ReadPacket(first.Conn)
		if err != nil {
			break
		}
		if _, ok := p.(*packets.DisconnectPacket); !ok { // mochi says goodbye as MQTT 5 would
			t.Fatalf("the first session lives on: %v", p)
		}
	}
	await(t, func() bool { s := b.Stats(); return s.Takeovers == 1 && s.Clients == 1 })
	second.publish(t, topic.Of(press, topic.Events), 1, "mine")
	if _, ok := second.read(t).(*packets.PubackPacket); !ok {
		t.Error("the second session does not work")
	}
	if _, up, down, _ := h.Counts("", press, ""); up != 2 || down != 0 {
		t.Errorf("connected %d times and disconnected %d, want 2 and 0: the device was never away", up, down)
	}
	b.Kick(press)
	h.Await(t, "disconnection", func() bool { _, _, gone, _ := h.Counts("", press, ""); return gone == 1 })
}

func TestADeviceUsesItsOwnTopicsOnly(t *testing.T) {
	other := topic.ID{Site: "plant", Node: "press-2"}
	for name, c := range map[string]struct{ publish, subscribe string }{
		"publish for another device":        {publish: topic.Of(other, topic.Blocks)},
		"publish its own desired document":  {publish: topic.Of(press, topic.Desired)},
		"publish to $SYS":                   {publish: "$SYS/broker/version"},
		"publish as another Sparkplug node": {publish: topic.Sparkplug(other, topic.NDATA, "")},
		"subscribe to everything":           {subscribe: "#"},
		"subscribe to another's desired":    {subscribe: topic.Of(other, topic.Desired)},
		"subscribe to all desired":          {subscribe: "swell/v1/+/+/desired"},
		"subscribe to a share of another":   {subscribe: "$share/g/" + topic.Of(other, topic.Desired)},
		"subscribe to its own share":        {subscribe: "$share/g/" + topic.Of(press, topic.Desired)},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, embedded.Config{Listen: "127.0.0.1:0"})
			h := brokertest.NewRecorder(nil)
			mustStart(t, b, h)
			conn := rawConnect(t, b, press.String())
			if c.publish != "" {
				conn.publish(t, c.publish, 1, "evil")
				if p, err := packets.ReadPacket(conn.Conn); err == nil {
					if _, isAck := p.(*packets.PubackPacket); isAck {
						t.Error("the message was acknowledged")
					}
				}
			} else {
				conn.subscribe(t, 1, c.subscribe)
				if p, ok := conn.read(t).(*packets.SubackPacket); !ok || p.ReturnCodes[0] != 0x80 {
					t.Errorf("want a refusal, got %v", p)
				}
			}
			if n, _, _, s := h.Counts("evil", press, c.subscribe); n != 0 || s != 0 {
				t.Error("the handler was told")
			}
		})
	}
}

func TestConnectionsThatAreRefused(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	revoked := topic.ID{Site: "plant", Node: "revoked"}
	hour := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		client   string
		tls      *tls.Config
		change   func(*packets.ConnectPacket)
		accepted bool
	}{
		"its own certificate":           {client: press.String(), tls: ca.client(t, press.String(), hour), accepted: true},
		"no certificate":                {client: press.String(), tls: &tls.Config{RootCAs: ca.pool}},
		"a certificate of a foreign CA": {client: press.String(), tls: withRoots(foreign.client(t, press.String(), hour), ca.pool)},
		"an expired certificate":        {client: press.String(), tls: ca.client(t, press.String(), time.Now().Add(-time.Minute))},
		"a revoked certificate":         {client: revoked.String(), tls: ca.client(t, revoked.String(), hour)},
		"another device's client id":    {client: "plant/press-2", tls: ca.client(t, press.String(), hour)},
		"an empty client id":            {client: "", tls: ca.client(t, press.String(), hour)},
		"a will on another device's topic": {client: press.String(), tls: ca.client(t, press.String(), hour), change: func(p *packets.ConnectPacket) {
			p.WillFlag, p.WillTopic, p.WillMessage = true, "spBv1.0/plant/NDEATH/press-2", []byte("x")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, ca.config(t))
			h := brokertest.NewRecorder(nil)
			mustStart(t, b, h)
			conn, err := tls.Dial("tcp", b.Addr().String(), c.tls)
			if err == nil {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(brokertest.Patience))
				p := connectPacket(c.client)
				if c.change != nil {
					c.change(p)
				}
				if err = p.Write(conn); err == nil {
					var answer packets.ControlPacket
					if answer, err = packets.ReadPacket(conn); err == nil {
						if ack, ok := answer.(*packets.ConnackPacket); !ok || ack.ReturnCode != 0 {
							err = errors.New("refused")
						}
					}
				}
			}
			if (err == nil) != c.accepted {
				t.Errorf("accepted: %v (%v), want %v", err == nil, err, c.accepted)
			}
			if !c.accepted {
				await(t, func() bool { return b.Stats().Rejected == 1 })
			}
		})
	}
}

func TestASessionEndsWithItsCertificate(t *testing.T) {
	ca := newCA(t)
	b := open(t, ca.config(t))
	h := brokertest.NewRecorder(nil)
	mustStart(t, b, h)
	conn, err := tls.Dial("tcp", b.Addr().String(), ca.client(t, press.String(), time.Now().Add(2*time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := connectPacket(press.String()).Write(conn); err != nil {
		t.Fatal(err)
	}
	h.Await(t, "disconnection", func() bool { _, up, gone, _ := h.Counts("", press, ""); return up == 1 && gone == 1 })
}

func TestAStrangerThatSaysNothingIsCutOff(t *testing.T) {
	b := open(t, embedded.Config{Listen: "127.0.0.1:0", ConnectTimeout: 50 * time.Millisecond})
	mustStart(t, b, brokertest.NewRecorder(nil))
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(brokertest.Patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v, want a closed connection", err)
	}
}

func TestABusyPortIsNamedWithItsSetting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := open(t, embedded.Config{Listen: l.Addr().String(), ListenKey: "mqtt.listen"})
	err = b.Start(t.Context(), brokertest.NewRecorder(nil))
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "mqtt.listen") {
		t.Errorf("%v, want the address and the setting", err)
	}
}

func TestValidateRefusesAnOpenBroker(t *testing.T) {
	for _, c := range []embedded.Config{
		{Listen: "0.0.0.0:7883"},
		{Listen: ":7883"},
		{Listen: "nonsense"},
		{TLS: &tls.Config{}},
		{TLS: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}},
		{MaxPacketBytes: 10, MaxPendingBytes: 5},
	} {
		if c.Validate() == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// manual lets the test call done.
type manual struct {
	*brokertest.Recorder
	done chan func(error)
}

func (m *manual) Message(_ topic.ID, _ topic.Topic, _ []byte, done func(error)) { m.done <- done }

// greeter publishes as soon as it hears of a subscription, as the hub does.
type greeter struct {
	*brokertest.Recorder
	b broker.Broker
}

func (g *greeter) Subscribed(id topic.ID, filter string) {
	g.b.Publish(context.Background(), filter, []byte("desired"), true)
}

func mustStart(t *testing.T, b *embedded.Broker, h broker.Handler) {
	t.Helper()
	if err := b.Start(t.Context(), h); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, cond func() bool) {
	t.Helper()
	brokertest.NewRecorder(nil).Await(t, "the condition", cond)
}

// raw is a client without a mind of its own.
type raw struct {
	net.Conn
}

func connectPacket(id string) *packets.ConnectPacket {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.ClientIdentifier, p.CleanSession, p.Keepalive = "MQTT", 4, id, true, 60
	return p
}

func rawConnect(t *testing.T, b *embedded.Broker, id string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(brokertest.Patience))
	r := &raw{Conn: c}
	r.write(t, connectPacket(id))
	if p, ok := r.read(t).(*packets.ConnackPacket); !ok || p.ReturnCode != 0 {
		t.Fatalf("connect: %v", p)
	}
	return r
}

func (r *raw) write(t *testing.T, p packets.ControlPacket) {
	t.Helper()
	if err := p.Write(r.Conn); err != nil {
		t.Fatal(err)
	}
}

func (r *raw) read(t *testing.T) packets.ControlPacket {
	t.Helper()
	p, err := packets.ReadPacket(r.Conn)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (r *raw) publish(t *testing.T, name string, id uint16, payload string) {
	t.Helper()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.TopicName, p.MessageID, p.Payload = 1, name, id, []byte(payload)
	r.write(t, p)
}

func (r *raw) subscribe(t *testing.T, id uint16, filter string) {
	t.Helper()
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.Qos, p.MessageID, p.Topics, p.Qoss = 1, id, []string{filter}, []byte{1}
	r.write(t, p)
}

// testCA issues certificates whose common name is the identity.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t *testing.T) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &testCA{cert, key, pool}
}

func (ca *testCA) issue(t *testing.T, cn string, notAfter time.Time, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (ca *testCA) client(t *testing.T, cn string, notAfter time.Time) *tls.Config {
	return &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.issue(t, cn, notAfter, x509.ExtKeyUsageClientAuth)}}
}

func withRoots(c *tls.Config, pool *x509.CertPool) *tls.Config {
	c = c.Clone()
	c.RootCAs = pool
	return c
}

func (ca *testCA) config(t *testing.T) embedded.Config {
	return embedded.Config{
		Listen: "127.0.0.1:0",
		TLS: &tls.Config{
			Certificates: []tls.Certificate{ca.issue(t, "hub", time.Now().Add(time.Hour), x509.ExtKeyUsageServerAuth)},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.pool,
		},
		Authorize: func(c *x509.Certificate) (topic.ID, error) {
			id, err := topic.ParseID(c.Subject.CommonName)
			if err == nil && id.Node == "revoked" {
				err = errors.New("certificate is revoked")
			}
			return id, err
		},
	}
}
