package embedded_test

import (
	"bufio"
	"bytes"
	"net"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/swellfleet/swell/cloud/broker/brokertest"
	"github.com/swellfleet/swell/cloud/broker/embedded"
	"github.com/swellfleet/swell/protocol/topic"
)

// instant is done with each message at once.
type instant struct{ *brokertest.Recorder }

func (instant) Message(_ topic.ID, _ topic.Topic, _ []byte, done func(error)) { done(nil) }

// BenchmarkPublishToPuback is one device that keeps 50 messages of 200 bytes in
// flight, client included.
func BenchmarkPublishToPuback(b *testing.B) {
	broker, err := embedded.New(embedded.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	defer broker.Close()
	if err := broker.Start(b.Context(), instant{brokertest.NewRecorder(nil)}); err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", broker.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if err := connectPacket(press.String()).Write(c); err != nil {
		b.Fatal(err)
	}
	in := bufio.NewReader(c)
	if _, err := packets.ReadPacket(in); err != nil {
		b.Fatal(err)
	}
	window := make(chan struct{}, 50)
	go func() {
		for i := range b.N {
			window <- struct{}{}
			p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
			p.Qos, p.TopicName, p.MessageID, p.Payload = 1, topic.Of(press, topic.Blocks), uint16(i%60000+1), make([]byte, 200)
			var buf bytes.Buffer
			p.Write(&buf)
			c.Write(buf.Bytes())
		}
	}()
	for range b.N {
		if _, err := packets.ReadPacket(in); err != nil {
			b.Fatal(err)
		}
		<-window
	}
}
