package link

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/topic"
)

var pump = topic.ID{Site: "hall-1", Node: "pump-03"}

func TestPausesGrowAndSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		least := time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(t, "least"))
		most := least + time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "more"))
		n := rapid.IntRange(0, 1000).Draw(t, "failures")
		draw := rapid.Float64Range(0, 1).Draw(t, "draw")
		d := backoff(least, most, n, draw)
		if d < least/2 || d > most {
			t.Fatalf("pause %s after %d failures: want %s to %s", d, n, least/2, most)
		}
		if d < backoff(least, most, n, 0) || backoff(least, most, n+1, draw) < d {
			t.Fatalf("pauses shrink after %d failures", n)
		}
	})
}

// ear hears what a link says.
type ear struct{ down chan error }

func (e ear) Up()            {}
func (e ear) Desired([]byte) {}
func (e ear) Down(err error) { e.down <- err }

func TestHubThatIsAwayIsTriedForEverAndNothingIsPublished(t *testing.T) {
	// Somebody accepts the connection and says nothing MQTT understands.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			c.Close()
		}
	}()
	link := New(Config{URL: "tcp://" + l.Addr().String(), ID: pump, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	e := ear{make(chan error)}
	ended := make(chan error)
	go func() { ended <- link.Run(ctx, e) }()
	for range 4 {
		if err := <-e.down; err == nil {
			t.Error("an attempt failed for no reason")
		}
	}
	if link.Connected() {
		t.Error("it says it is connected")
	}
	answered := make(chan error, 1)
	link.Publish(topic.Topic{ID: pump, Kind: topic.Blocks}, []byte("x"), func(err error) { answered <- err })
	if err := <-answered; !errors.Is(err, ErrOffline) {
		t.Errorf("publication without a connection: %v", err)
	}
	stop()
	for {
		select {
		case <-e.down:
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}

// stalled is a broker that takes a connection and a subscription, says when the
// first publication begins and reads no more of it.
func stalled(t *testing.T) (url string, publishing <-chan struct{}) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	begun := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		t.Cleanup(func() { c.Close() })
		answer := func() error {
			in, err := packets.ReadPacket(c)
			if err != nil {
				return err
			}
			if s, ok := in.(*packets.SubscribePacket); ok {
				a := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
				a.MessageID, a.ReturnCodes = s.MessageID, []byte{1}
				return a.Write(c)
			}
			return packets.NewControlPacket(packets.Connack).Write(c)
		}
		if err := errors.Join(answer(), answer()); err != nil {
			t.Errorf("the stalled broker: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			close(begun)
		}
	}()
	return "tcp://" + l.Addr().String(), begun
}

// up says when a link is.
type up struct{ connected chan struct{} }

func (u up) Up()            { close(u.connected) }
func (u up) Desired([]byte) {}
func (u up) Down(error)     {}

func TestLinkEndsAtOnceWhileTheNetworkStalls(t *testing.T) {
	url, publishing := stalled(t)
	link := New(Config{URL: url, ID: pump, Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	u := up{make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- link.Run(ctx, u) }()
	<-u.connected

	// One is more than any socket buffer holds, so that the others wait behind it.
	const n = 16
	answers := make(chan error, n)
	big := make([]byte, 64<<20)
	for range n {
		go link.Publish(topic.Topic{ID: pump, Kind: topic.Blocks}, big, func(err error) { answers <- err })
	}
	<-publishing
	stop()
	soon := time.After(writeTimeout / 3)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-soon:
		t.Fatal("the link does not end")
	}
	for range n {
		select {
		case err := <-answers:
			if err == nil {
				t.Error("a publication that nobody took was acknowledged")
			}
		case <-soon:
			t.Fatal("a publication is not answered")
		}
	}
}
