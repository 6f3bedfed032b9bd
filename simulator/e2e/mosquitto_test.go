package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/enroll"
)

// TestKilledAtAnyMomentWithMosquitto is the same with a real broker between
// the devices and the hub, which is killed as well. mosquitto acknowledges a
// block as soon as it holds it in memory, so that a kill of it may cost what
// the hub had not taken yet; what it costs is counted and printed. A hub or an
// agent that is killed costs nothing here either.
func TestKilledAtAnyMomentWithMosquitto(t *testing.T) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path = "/usr/sbin/mosquitto"; !exists(path) {
			t.Skip("needs mosquitto: install the Debian package mosquitto")
		}
	}
	t.Run("kept alive", func(t *testing.T) {
		p := newPlant(t, max(killsOr(12)/2, 8))
		p.mosquitto(path)
		p.stable = true
		if f := p.torment("mosquitto, kept alive", killsOr(12)); f.Missing > 0 {
			t.Errorf("%d rows that devices hold for acknowledged are not stored", f.Missing)
		}
	})
	t.Run("killed too", func(t *testing.T) {
		p := newPlant(t, max(killsOr(16)/2, 8))
		p.mosquitto(path)
		p.torment("mosquitto", killsOr(16))
	})
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// mosquitto takes the place of the hub's own broker, with a certificate of the
// hub's CA, and starts the hub's program against it. Limits are those of the
// shipped configuration; who may use which topic is tested there.
func (p *plant) mosquitto(path string) {
	t := p.t
	t.Helper()
	// mosquitto acknowledges and forgets what comes before the hub's first
	// subscription, so the hub is to be there before the devices.
	for _, a := range p.agents {
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := enroll.OpenCA(filepath.Join(p.dir, "hub", "ca"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := ca.ServerTLS([]string{"localhost", "127.0.0.1"}, tls.NoClientCert)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := conf.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(p.dir, "mosquitto")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(data, "cert.pem"), string(chain))
	write(t, filepath.Join(data, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	_, port, _ := net.SplitHostPort(p.ports[2])
	config := filepath.Join(data, "mosquitto.conf")
	write(t, config, strings.ReplaceAll(fmt.Sprintf(`user %s
listener %s 127.0.0.1
cafile %s/ca.pem
certfile DATA/cert.pem
keyfile DATA/key.pem
allow_anonymous true
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 2000
persistence true
persistence_location DATA/
autosave_interval 1
`, me.Username, port, p.dir), "DATA", data))
	p.broker = &process{name: "mosquitto", args: []string{path, "-c", config}, log: filepath.Join(p.dir, "mosquitto.log")}
	if err := p.broker.start(); err != nil {
		t.Fatal(err)
	}
	until(t, startLimit, "mosquitto", func() (bool, error) {
		c, err := net.Dial("tcp", p.ports[2])
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
	p.serve(fmt.Sprintf("broker: {external: {url: \"tls://%s\", ca_file: %s}}\n", p.ports[2], filepath.Join(p.dir, "ca.pem")))
	until(t, startLimit, "the hub to be well", func() (bool, error) { return p.healthy(), nil })
	for i, a := range p.agents {
		p.witness(p.ids[i])
		if err := a.start(); err != nil {
			t.Fatal(err)
		}
	}
}
