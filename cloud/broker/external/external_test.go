package external_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/swellfleet/swell/cloud/broker/brokertest"
	"github.com/swellfleet/swell/cloud/broker/external"
	"github.com/swellfleet/swell/protocol/topic"
)

func TestExercise(t *testing.T) {
	brokertest.Exercise(t, func(t *testing.T) brokertest.Fixture {
		addr := mosquitto(t, "allow_anonymous true\n")
		hub := brokertest.NewProxy(t, func() string { return addr })
		b := open(t, config("tcp://"+hub.Addr()))
		return brokertest.Fixture{Broker: b, URL: func() string { return "tcp://" + addr }, Cut: hub.Cut}
	})
}

func config(url string) external.Config {
	return external.Config{URL: url, ClientID: "hub-1", MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}
}

func open(t *testing.T, cfg external.Config) *external.Broker {
	t.Helper()
	b, err := external.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestABirthMakesTheHubSendTheDesiredDocumentAgain(t *testing.T) {
	addr := mosquitto(t, "allow_anonymous true\n")
	id := topic.ID{Site: "plant", Node: "press-1"}
	b := open(t, config("tcp://"+addr))
	h := brokertest.NewRecorder(nil)
	if err := b.Start(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	device(t, addr, id).Publish(topic.Sparkplug(id, topic.NBIRTH, ""), 0, false, "born").Wait()
	h.Await(t, "the birth", func() bool {
		_, up, _, sub := h.Counts("born", id, topic.Of(id, topic.Desired))
		return up == 1 && sub == 1
	})
}

func TestMessagesOfADeviceThatIsNotAllowedAreRefused(t *testing.T) {
	addr := mosquitto(t, "allow_anonymous true\n")
	id := topic.ID{Site: "plant", Node: "revoked"}
	cfg := config("tcp://" + addr)
	cfg.Allow = func(topic.ID) error { return errors.New("revoked") }
	b := open(t, cfg)
	h := brokertest.NewRecorder(nil)
	if err := b.Start(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	device(t, addr, id).Publish(topic.Of(id, topic.Blocks), 1, false, "evil").Wait()
	h.Await(t, "the refusal", func() bool { return b.Stats().Rejected == 1 })
	if n, _, _, _ := h.Counts("evil", id, ""); n != 0 {
		t.Error("the handler got the message")
	}
}

func TestStartSaysThatTheBrokerRefusesTheHub(t *testing.T) {
	addr := mosquitto(t, "allow_anonymous false\n")
	err := open(t, config("tcp://"+addr)).Start(t.Context(), brokertest.NewRecorder(nil))
	if err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("%v, want an error that names %s", err, addr)
	}
}

func TestABrokerThatIsAwayAtStartIsTriedAgain(t *testing.T) {
	addr := ""
	proxy := brokertest.NewProxy(t, func() string { return addr }) // nothing behind it yet
	b := open(t, config("tcp://"+proxy.Addr()))
	if err := b.Start(t.Context(), brokertest.NewRecorder(nil)); err != nil {
		t.Fatal(err)
	}
	id := topic.ID{Site: "plant", Node: "press-1"}
	if err := b.Publish(t.Context(), topic.Of(id, topic.Desired), nil, true); err == nil {
		t.Error("publishing without a connection was no error")
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	for want, c := range map[string]external.Config{
		"url":       {ClientID: "h"},
		"tls://":    {URL: "http://x:1", ClientID: "h"},
		"client id": {URL: "tcp://x:1"},
		"group":     {URL: "tcp://x:1", ClientID: "h", Group: "a/b"},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a word on %q", err, want)
		}
	}
}

func device(t *testing.T, addr string, id topic.ID) mqtt.Client {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id.String()))
	if tok := c.Connect(); !tok.WaitTimeout(brokertest.Patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	t.Cleanup(func() { c.Disconnect(50) })
	return c
}

// mosquitto runs the broker of Debian's package for one test.
func mosquitto(t *testing.T, conf string) string {
	t.Helper()
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		bin = "/usr/sbin/mosquitto"
		if _, err := os.Stat(bin); err != nil {
			t.Skip("mosquitto is not installed: apt-get install mosquitto")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	file := filepath.Join(t.TempDir(), "mosquitto.conf")
	_, port, _ := net.SplitHostPort(addr)
	conf = fmt.Sprintf("listener %s 127.0.0.1\nmax_queued_messages 100000\nmax_queued_bytes 0\npersistence false\n%s", port, conf)
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", file)
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log("mosquitto:\n" + out.String())
		}
	})
	brokertest.NewRecorder(nil).Await(t, "mosquitto", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}
