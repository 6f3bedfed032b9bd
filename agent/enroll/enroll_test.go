package enroll_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/enroll"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
)

var pump = topic.ID{Site: "hall-1", Node: "pump-03"}

// configure makes what a device that is given everything knows.
func configure(h *agenttest.Hub, d disk.FS) enroll.Config {
	return enroll.Config{
		Disk: d, ID: h.ID, URL: h.URL, CAPEM: []byte(h.CA), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Token: func() (string, error) { return h.Token, nil },
	}
}

func fingerprint(t *testing.T, ca string) string {
	t.Helper()
	b, _ := pem.Decode([]byte(ca))
	sum := sha256.Sum256(b.Bytes)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func must(t *testing.T, c enroll.Config) *enroll.Identity {
	t.Helper()
	i, err := enroll.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestDeviceEnrolsOnceAndRenewsByItself(t *testing.T) {
	hub, d := agenttest.NewHub(t, pump), &disk.Mem{}
	i := must(t, configure(hub, d))
	if i.Enrolled() {
		t.Fatal("enrolled before it was")
	}
	if err := i.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	// After a power cut it still is who it was, without token and CA.
	c := configure(hub, d.Crash(nil))
	c.CAPEM, c.Token = nil, nil
	i = must(t, c)
	if !i.Enrolled() {
		t.Fatal("the identity did not survive a power cut")
	}
	before, _, _ := i.Validity()
	if err := i.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, _, renewal := i.Validity()
	if hub.Issued() != 2 || after.Before(before) || renewal != nil {
		t.Errorf("%d certificates, valid from %s then %s, %v", hub.Issued(), before, after, renewal)
	}
}

func TestFingerprintOfTheCAIsEnough(t *testing.T) {
	hub := agenttest.NewHub(t, pump)
	c := configure(hub, &disk.Mem{})
	c.CAPEM, c.Fingerprint = nil, fingerprint(t, hub.CA)
	if err := must(t, c).Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestEnrolmentIsRefused(t *testing.T) {
	other := agenttest.NewHub(t, pump)
	for _, c := range []struct {
		name    string
		change  func(*testing.T, *agenttest.Hub, *enroll.Config)
		final   bool // another attempt cannot help
		says    string
		secrecy bool // the token must not have been sent
	}{
		{"a wrong token", func(_ *testing.T, _ *agenttest.Hub, c *enroll.Config) {
			c.Token = func() (string, error) { return "guess", nil }
		}, true, "401", false},
		{"no token", func(_ *testing.T, _ *agenttest.Hub, c *enroll.Config) {
			c.Token = func() (string, error) { return "", nil }
		}, true, "swellctl enroll token hall-1/pump-03", false},
		{"a hub of another CA", func(_ *testing.T, _ *agenttest.Hub, c *enroll.Config) { c.CAPEM = []byte(other.CA) }, false, "certificate", true},
		{"a hub whose CA has another fingerprint", func(t *testing.T, _ *agenttest.Hub, c *enroll.Config) {
			c.CAPEM, c.Fingerprint = nil, fingerprint(t, other.CA)
		}, true, "check the address and hub.ca_fingerprint", true},
		{"no CA at all", func(_ *testing.T, _ *agenttest.Hub, c *enroll.Config) { c.CAPEM = nil }, true, "give hub.ca_file", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := agenttest.NewHub(t, pump)
			conf := configure(hub, &disk.Mem{})
			asked := false
			c.change(t, hub, &conf)
			token := conf.Token
			conf.Token = func() (string, error) { asked = true; return token() }
			err := must(t, conf).Enroll(t.Context())
			if err == nil || errors.Is(err, enroll.ErrRefused) != c.final || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v: want final %t and %q", err, c.final, c.says)
			}
			if hub.Issued() != 0 || c.secrecy && c.final && asked {
				t.Errorf("%d certificates were issued; token asked for: %t", hub.Issued(), asked)
			}
		})
	}
}

// anchors are what a hub hands out: a release key and a ledger's key.
func anchors(t *testing.T) (trust.Anchors, []byte) {
	t.Helper()
	_, ledger, err := note.GenerateKey(rand.Reader, "ledger.example")
	if err != nil {
		t.Fatal(err)
	}
	a := trust.Anchors{ReleaseKeys: agenttest.NewPress().PublicKey(), LedgerKey: ledger}
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestTheHubsKeysAreTakenOnceAndKept(t *testing.T) {
	hub, d := agenttest.NewHub(t, pump), &disk.Mem{}
	want, answer := anchors(t)
	hub.Vouch(answer)
	c := configure(hub, d)
	c.NeedAnchors = true
	i := must(t, c)
	if err := i.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i.Anchors() != want {
		t.Errorf("the device holds %+v, want %+v", i.Anchors(), want)
	}
	_, other := anchors(t)
	hub.Vouch(other)
	c.Disk = d.Crash(nil)
	i = must(t, c)
	if err := i.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i.Anchors() != want {
		t.Errorf("after a power cut and another answer the device holds %+v, want what it had", i.Anchors())
	}
}

func TestAnswersThatAreNoKeysEnrolNothing(t *testing.T) {
	_, good := anchors(t)
	for name, answer := range map[string]string{
		"none":          "",
		"no JSON":       "<html>",
		"no keys":       "{}",
		"no ledger key": strings.Replace(string(good), "ledger.example+", "", 1),
		"unknown field": strings.Replace(string(good), "{", `{"more":1,`, 1),
		"two documents": string(good) + string(good),
		"too long":      string(good) + strings.Repeat(" ", trust.MaxAnchorsBytes),
	} {
		t.Run(name, func(t *testing.T) {
			hub := agenttest.NewHub(t, pump)
			hub.Vouch([]byte(answer))
			c := configure(hub, &disk.Mem{})
			c.NeedAnchors = true
			c.Token = func() (string, error) { t.Error("the token was asked for"); return hub.Token, nil }
			i := must(t, c)
			if err := i.Enroll(t.Context()); err == nil || i.Anchors() != (trust.Anchors{}) || errors.Is(err, enroll.ErrRefused) != (answer == "") {
				t.Errorf("%v, holds %+v", err, i.Anchors())
			}
		})
	}
}

// TestPowerCutWhileEnrolling cuts the power at each step of an enrolment: the
// device is enrolled afterwards or it is not, and never something between.
func TestPowerCutWhileEnrolling(t *testing.T) {
	for cut := 1; ; cut++ {
		hub, d := agenttest.NewHub(t, pump), &disk.Mem{}
		i := must(t, configure(hub, d))
		n := 0
		d.Fault(func(disk.Op, string) error {
			if n++; n == cut {
				return disk.ErrPowerCut
			}
			return nil
		})
		err := i.Enroll(t.Context())
		again := must(t, configure(hub, d.Crash(nil)))
		if err == nil {
			if !again.Enrolled() {
				t.Fatal("an enrolment that succeeded did not last")
			}
			if cut < 10 {
				t.Errorf("only %d steps", cut)
			}
			return
		}
		if again.Enrolled() && hub.Issued() == 0 {
			t.Fatalf("cut at %d: a certificate from nowhere", cut)
		}
	}
}

func TestIdentityOfAnotherDeviceIsNotUsed(t *testing.T) {
	hub, d := agenttest.NewHub(t, pump), &disk.Mem{}
	if err := must(t, configure(hub, d)).Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := configure(hub, d)
	c.ID.Node = "pump-04"
	if _, err := enroll.Open(c); err == nil || !strings.Contains(err.Error(), "enrol again") {
		t.Errorf("identity of pump-03 opened as pump-04: %v", err)
	}
}

func TestDeviceInTheYear1970StillReachesItsHub(t *testing.T) {
	hub := agenttest.NewHub(t, pump)
	c := configure(hub, &disk.Mem{})
	c.Now = func() time.Time { return time.Unix(0, 0) }
	if err := must(t, c).Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDeviceWhoseCertificateEndedEnrolsAgainWithANewToken(t *testing.T) {
	hub := agenttest.NewHub(t, pump)
	c := configure(hub, &disk.Mem{})
	hub.Certificates(-time.Second)
	i := must(t, c)
	if err := i.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	hub.Certificates(time.Hour)
	if err := i.Renew(t.Context()); err == nil {
		t.Fatal("a certificate that had ended was renewed")
	}
	if err := i.Enroll(t.Context()); !errors.Is(err, enroll.ErrRefused) {
		t.Fatalf("the token worked twice: %v", err)
	}
	if _, _, why := i.Validity(); why == nil {
		t.Error("nothing says that it failed")
	}
	hub.NewToken()
	if err := i.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, until, why := i.Validity(); !until.After(time.Now()) || why != nil {
		t.Errorf("valid until %s, %v", until, why)
	}
}
