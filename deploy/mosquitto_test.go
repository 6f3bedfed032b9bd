package deploy_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// tool finds a program, also where only root's path reaches.
func tool(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path = "/usr/sbin/" + name; !exists(path) {
			t.Skipf("needs %s: install the Debian package %s", name, debian)
		}
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// command runs a program to its end and returns what it printed.
func command(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mosquitto runs the broker of the Compose file on this machine, by the shipped
// configuration with other paths, and returns its address.
func mosquitto(t *testing.T, pki string) string {
	t.Helper()
	broker := tool(t, "mosquitto", "mosquitto")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	acl, err := filepath.Abs("compose/acl")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "mosquitto.conf")
	text := strings.NewReplacer(
		"listener 8883", "listener "+port+" 127.0.0.1", "/pki/", pki+"/", "/mosquitto/config/acl", acl, "/mosquitto/data/", dir+"/",
	).Replace(read(t, "compose/mosquitto.conf"))
	write(t, config, text+"\nuser "+me.Username+"\n") // as root it would become a user who cannot read the test's files
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(broker, "-c", config)
	c.Stdout, c.Stderr = log, log
	l.Close()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM) // and not kill: it would keep its log to itself
		if err := c.Wait(); err != nil {
			t.Errorf("mosquitto: %v", err)
		}
		_ = log.Close()
		if t.Failed() {
			t.Log(read(t, log.Name()))
		}
	})
	until(t, "mosquitto", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return "tls://" + address
}

// identity finds the key and certificate in an agent's state.
func identity(t *testing.T, state string) tls.Certificate {
	t.Helper()
	var found tls.Certificate
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if b, err := os.ReadFile(path); err == nil {
			if c, err := tls.X509KeyPair(b, b); err == nil {
				found = c
			}
		}
		return nil
	})
	if err != nil || len(found.Certificate) == 0 {
		t.Fatalf("no certificate in %s: %v", state, err)
	}
	return found
}

// TestComposeBrokerKeepsDevicesApartAndLosesNothing runs the hub of the Compose
// file's design against the real mosquitto with the shipped keys, rules and
// limits.
func TestComposeBrokerKeepsDevicesApartAndLosesNothing(t *testing.T) {
	tool(t, "openssl", "openssl")
	dir := t.TempDir()
	data, pki := filepath.Join(dir, "hub"), filepath.Join(dir, "pki")
	env := []string{"HUB=" + data, "PKI=" + pki, "SECRETS=" + filepath.Join(dir, "secrets"), "HUB_CONFIG=compose/hub.yaml", "KEEP_OWNER=1"}
	command(t, env, "compose/init.sh")
	before := read(t, filepath.Join(pki, "broker.pem")) + read(t, filepath.Join(data, "ca/ca.pem")) + read(t, filepath.Join(dir, "secrets/s3-secret"))
	command(t, env, "compose/init.sh")
	if after := read(t, filepath.Join(pki, "broker.pem")) + read(t, filepath.Join(data, "ca/ca.pem")) + read(t, filepath.Join(dir, "secrets/s3-secret")); after != before {
		t.Error("a second start made new keys")
	}

	shipped, err := hub.LoadFile(filepath.Join(dir, "secrets", "hub.yaml"))
	if err != nil {
		t.Fatal(err)
	}

	url := mosquitto(t, pki)
	s := newSite(t, func(c *hub.Config) {
		c.DataDir = data
		c.Broker.External = &hub.ExternalBroker{
			URL: url, CAFile: filepath.Join(pki, "ca.pem"), CertFile: filepath.Join(pki, "hub.pem"), KeyFile: filepath.Join(pki, "hub.key"),
			Group: shipped.Broker.External.Group,
		}
	})
	state, stop := s.runAgent(url)
	s.untilSamples()
	stop()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read(t, filepath.Join(pki, "ca.pem"))))
	me, other := topic.ID{Site: "hall-1", Node: "press-03"}, topic.ID{Site: "hall-1", Node: "press-04"}
	must := func(what string, tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(20*time.Second) || tok.Error() != nil {
			t.Fatalf("%s: %v", what, tok.Error())
		}
	}
	certificate := identity(t, state)
	connect := func() mqtt.Client {
		t.Helper()
		c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(url).SetClientID(other.String()).SetAutoReconnect(false).
			SetTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}))
		must("connect", c.Connect())
		t.Cleanup(func() { c.Disconnect(0) })
		return c
	}
	device := connect()
	// What is not allowed is thrown away, and some versions end the connection.
	device.Publish(topic.Of(other, topic.Blocks), 1, false, "not a block").WaitTimeout(20 * time.Second)
	device.Disconnect(0)
	device = connect()
	// It grants any subscription and delivers only what may be read.
	heard := make(chan string, 100)
	hear := func(_ mqtt.Client, m mqtt.Message) { heard <- m.Topic() }
	for _, filter := range []string{topic.Of(me, topic.Desired), topic.Of(other, topic.Desired), topic.All(topic.Blocks), "$share/swell/" + topic.All(topic.Blocks)} {
		must("subscribe", device.Subscribe(filter, 1, hear))
	}
	seq := uint64(0)
	send := func(n int) {
		t.Helper()
		for range n {
			seq++
			b, err := telemetry.Block{Boot: 1, Seq: seq, Stream: telemetry.Raw, First: seq, T0: int64(seq) * 1e9, RateHz: 1,
				Signals: []telemetry.Signal{{Name: "pressure", Values: []float32{1}}}}.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			must(fmt.Sprint("block ", seq), device.Publish(topic.Of(me, topic.Blocks), 1, false, b))
		}
	}
	start := s.metrics()["swell_ingest_blocks_total"]
	send(50)
	until(t, "50 blocks although the device subscribed to them, too", func() bool { return s.metrics()["swell_ingest_blocks_total"]-start >= 50 })
	if n := s.metrics()["swell_ingest_malformed_total"]; n != 0 {
		t.Errorf("%v messages came under another's name", n)
	}
	// A frame takes the same way; one that cannot be read is acknowledged, too.
	must("frame", device.Publish(topic.Of(me, topic.Frames), 1, false, "not a frame"))
	until(t, "the frame", func() bool { return s.metrics()["swell_frames_malformed_total"] == 1 })
	for len(heard) > 0 {
		t.Errorf("the device reads %s", <-heard)
	}

	// More than mosquitto's default queue holds, while the hub is away.
	const blocks = 3000
	s.stop()
	send(blocks)
	s.start()
	until(t, "every block that mosquitto acknowledged", func() bool { return s.metrics()["swell_ingest_blocks_total"] >= blocks })
}
