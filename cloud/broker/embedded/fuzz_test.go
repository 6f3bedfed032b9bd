package embedded

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/swellfleet/swell/cloud/broker/brokertest"
)

// FuzzBytesOfADevice has a known device send anything at all. The broker must
// neither panic nor keep anything of it.
func FuzzBytesOfADevice(f *testing.F) {
	b, err := New(Config{Listen: "127.0.0.1:0", MaxPacketBytes: 1 << 16})
	if err != nil {
		f.Fatal(err)
	}
	if err := b.Start(f.Context(), brokertest.NewRecorder(nil)); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { b.Close() })
	connect := func(version byte) []byte {
		p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
		p.ProtocolName, p.ProtocolVersion, p.ClientIdentifier, p.CleanSession = "MQTT", version, "plant/press-1", true
		var buf bytes.Buffer
		p.Write(&buf)
		return buf.Bytes()
	}
	v3 := connect(4)
	f.Add(true, []byte{0xc0, 0})                                                      // PINGREQ
	f.Add(true, []byte("\x32\x22\x00\x1cswell/v1/plant/press-1/blocks\x00\x07xx"))    // PUBLISH
	f.Add(true, []byte("\x82\x22\x00\x01\x00\x1dswell/v1/plant/press-1/desired\x01")) // SUBSCRIBE
	f.Add(true, []byte{0x34, 0xff, 0xff, 0xff, 0x7f})                                 // a length of 256 MiB
	f.Add(true, []byte{0xe0, 0})                                                      // DISCONNECT
	f.Add(false, v3)
	f.Add(false, []byte("\x10\x1a\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x0dplant/press-1")) // CONNECT of MQTT 5
	f.Add(false, []byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, connected bool, data []byte) {
		device, server := net.Pipe()
		device.SetDeadline(time.Now().Add(5 * time.Second))
		var wg sync.WaitGroup
		wg.Go(func() { b.serve(server) })
		wg.Go(func() { io.Copy(io.Discard, device) })
		if connected {
			device.Write(v3)
		}
		device.Write(data)
		device.Close()
		wg.Wait()
		if s := b.Stats(); s.Clients != 0 {
			t.Fatalf("%+v: a session is left", s)
		}
	})
}
