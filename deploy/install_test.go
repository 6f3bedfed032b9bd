package deploy_test

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/cloud/ctl"
	"github.com/swellfleet/swell/cloud/hub"
)

const installPage = "../docs/install.md"

// shellLines are the commands of the page, without their comments.
func shellLines(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(read(t, installPage), -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(line, " #")
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// TestInstallPageNamesCommandsThatExist asks swellctl for help on each command
// of the page, and looks its flags up there.
func TestInstallPageNamesCommandsThatExist(t *testing.T) {
	checked := 0
	for _, line := range shellLines(t) {
		words := strings.Fields(regexp.MustCompile(`'[^']*'`).ReplaceAllString(line, "quoted"))
		if words[0] != "swellctl" {
			continue
		}
		checked++
		var help, talk bytes.Buffer
		if code := ctl.Main(t.Context(), append(words[1:], "--help"), strings.NewReader(""), &help, &talk, "test"); code != ctl.CodeOK {
			t.Errorf("%s: exit %d: %s", line, code, talk.String())
			continue
		}
		use := regexp.MustCompile(`(?m)^  swellctl (.*)`).FindStringSubmatch(help.String())[1]
		for i, w := range words[1:] {
			switch {
			case strings.HasPrefix(w, "-"):
				if !regexp.MustCompile(`(?m)^ .*` + w + `\b`).MatchString(help.String()) {
					t.Errorf("%s: no flag %s:\n%s", line, w, help.String())
				}
			case i < len(subcommands(use)) && subcommands(use)[i] != w:
				t.Errorf("%s: swellctl understands %q", line, use)
			}
		}
	}
	if checked < 12 {
		t.Fatalf("%d commands checked: the page was not read", checked)
	}
}

// subcommands are the words of a usage line before its arguments and flags.
func subcommands(use string) (out []string) {
	for w := range strings.FieldsSeq(use) {
		if strings.ToLower(w) != w || strings.ContainsAny(w, "[-|") {
			break
		}
		out = append(out, w)
	}
	return out
}

// TestInstallPageNamesFilesAndKeysThatExist compares the page with packages,
// policies and programs.
func TestInstallPageNamesFilesAndKeysThatExist(t *testing.T) {
	page, packages := read(t, installPage), read(t, "packages/hub.yaml")
	for _, path := range regexp.MustCompile(`/usr/share/doc/\S+\.yaml`).FindAllString(page, -1) {
		if !strings.Contains(packages, "dst: "+path) {
			t.Errorf("no package installs %s", path)
		}
	}
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1) {
		if _, err := hub.Parse([]byte("data_dir: /var/lib/swell-hub\n" + m[1])); err != nil {
			t.Error(err)
		}
	}
	for _, w := range []string{"press-nightly", "name: press-nightly", "careful", "model: press-anomaly"} {
		name := strings.TrimPrefix(strings.TrimPrefix(w, "name: "), "model: ")
		if !strings.Contains(page, name) || !strings.Contains(read(t, rolloutFile)+read(t, retrainFile), w) {
			t.Errorf("page and policies do not agree on %s", w)
		}
	}
	c, err := agent.Load(agentConfig)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(page, "enroll token "+c.Site+"/"+c.Node+" --class "+string(c.Class)+" ") {
		t.Errorf("the page enrols another device than %s is for", agentConfig)
	}
}

// TestFingerprintOfTheInstallPage takes the hub's CA by the digest that openssl
// prints.
func TestFingerprintOfTheInstallPage(t *testing.T) {
	openssl := tool(t, "openssl", "openssl")
	s := newSite(t, nil)
	out, err := exec.Command(openssl, "x509", "-in", s.data("ca", "ca.pem"), "-noout", "-fingerprint", "-sha256").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, digest, ok := strings.Cut(strings.TrimSpace(string(out)), "=")
	if !ok {
		t.Fatalf("openssl prints %q", out)
	}
	s.runAgent("tls://"+s.hub.Addrs().MQTT, func(c *agent.Config) { c.Hub.CAFile, c.Hub.CAFingerprint = "", "sha256:"+digest })
	s.untilSamples()
}
