package link

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

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
