package deploy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nfpmCache is the folder in which build.sh finds nfpm, or a skip.
func nfpmCache(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("SWELL_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, ".cache", "swell")
	}
	if !exists(filepath.Join(cache, "bin", "nfpm")) {
		t.Skip("needs nfpm: `make packages` installs it once")
	}
	return cache
}

// build builds the packages of stand-ins for the programs, which keep it quick.
func build(t *testing.T, env ...string) map[string]string {
	t.Helper()
	tool(t, "dpkg-deb", "dpkg")
	cache, bin, out := nfpmCache(t), t.TempDir(), t.TempDir()
	for _, name := range []string{"swell-agent", "swell-hub", "swellctl"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho "+name+" $*\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(bin, "ort"), "a library")
	env = append([]string{"SWELL_CACHE=" + cache, "BIN=" + bin, "ORT=" + filepath.Join(bin, "ort"), "ARCH=amd64", "VERSION=v1.2.3", "SOURCE_DATE_EPOCH=1700000000"}, env...)
	packages := map[string]string{}
	for path := range strings.FieldsSeq(command(t, env, "packages/build.sh", out)) {
		name, _, _ := strings.Cut(filepath.Base(path), "_")
		packages[name] = path
	}
	return packages
}

func TestPackagesAreTheSameBitsEachTime(t *testing.T) {
	first, second := build(t), build(t)
	for name := range first {
		a, b := read(t, first[name]), read(t, second[name])
		if a != b {
			t.Errorf("%s differs between two builds", name)
		}
	}
	if later := build(t, "SOURCE_DATE_EPOCH=1700000001"); read(t, later["swell-hub"]) == read(t, first["swell-hub"]) {
		t.Error("the time of the commit is not in the package")
	}
}

func TestPackagesHoldWhatTheUnitsNeed(t *testing.T) {
	packages := build(t)
	for name, want := range map[string][]string{
		"swell-agent": {
			"-rwxr-xr-x root/root ./usr/bin/swell-agent", "-rw-r--r-- root/root ./usr/lib/swell/libonnxruntime.so.1",
			"-rw-r--r-- root/root ./usr/lib/systemd/system/swell-agent.service", "-rw-r--r-- root/root ./etc/swell/agent.yaml",
			"-rw-r--r-- root/root ./usr/share/doc/swell-agent/copyright", "-rw-r--r-- root/root ./usr/share/doc/swell-agent/NOTICE",
		},
		"swell-hub": {
			"-rwxr-xr-x root/root ./usr/bin/swell-hub", "-rwxr-xr-x root/root ./usr/bin/swellctl", "-rw-r--r-- root/root ./usr/lib/swell-hub/libonnxruntime.so.1",
			"-rw-r--r-- root/root ./usr/lib/systemd/system/swell-hub.service", "-rw-r--r-- root/root ./etc/swell/hub.yaml",
			"-rw-r--r-- root/root ./usr/share/doc/swell-hub/examples/rollout-careful.yaml", "-rw-r--r-- root/root ./usr/share/doc/swell-hub/examples/hub-external.yaml",
			"-rw-r--r-- root/root ./usr/share/doc/swell-hub/copyright", "-rw-r--r-- root/root ./usr/share/doc/swell-hub/NOTICE",
		},
	} {
		if packages[name] == "" {
			t.Fatalf("no package %s among %v", name, packages)
		}
		var have []string
		for line := range strings.Lines(command(t, nil, "dpkg-deb", "--contents", packages[name])) {
			f := strings.Fields(line)
			have = append(have, f[0]+" "+f[1]+" "+f[5])
			if f[3] != "2023-11-14" {
				t.Errorf("%s: %s is of %s, not of the commit", name, f[5], f[3])
			}
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(have, "\n"), w) {
				t.Errorf("%s does not hold %s:\n%s", name, w, strings.Join(have, "\n"))
			}
		}
		info := command(t, nil, "dpkg-deb", "--info", packages[name])
		for _, w := range []string{" Package: " + name, " Version: 1.2.3\n", " Architecture: amd64", " conffiles ", " postinst ", " prerm ", " Depends: libc6"} {
			if !strings.Contains(info, w) {
				t.Errorf("%s does not say %q:\n%s", name, w, info)
			}
		}
	}
}

// TestPackagesInstallUpgradeAndGo lets dpkg do it all in a folder: both packages
// side by side, then again as an upgrade that keeps the operator's
// configuration, then away.
func TestPackagesInstallUpgradeAndGo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: dpkg changes to the folder with chroot")
	}
	packages, upgrade := build(t), build(t, "VERSION=v1.2.4")
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg/updates"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "var/lib/dpkg/status"), "")
	dpkg := func(args ...string) string {
		t.Helper()
		// The dependencies are the machine's; scripts run here and not in the
		// folder, which has no shell, and find that systemd does not run.
		return command(t, nil, "dpkg", append([]string{"--root=" + root, "--force-depends", "--force-script-chrootless", "--force-not-root"}, args...)...)
	}
	out := dpkg("--install", packages["swell-agent"], packages["swell-hub"])
	for _, w := range []string{"swell-agent is installed", "swell-hub is installed"} {
		if !strings.Contains(out, w) {
			t.Errorf("the installation does not say %q:\n%s", w, out)
		}
	}
	if out := command(t, nil, filepath.Join(root, "usr/bin/swell-agent"), "version"); out != "swell-agent version\n" {
		t.Errorf("the installed program prints %q", out)
	}
	config := filepath.Join(root, "etc/swell/agent.yaml")
	write(t, config, "# mine\n")
	out = dpkg("--install", upgrade["swell-agent"], upgrade["swell-hub"])
	if strings.Contains(out, "is installed.") {
		t.Errorf("an upgrade explains the first steps:\n%s", out)
	}
	if read(t, config) != "# mine\n" {
		t.Error("an upgrade changed the operator's configuration")
	}
	dpkg("--purge", "swell-agent", "swell-hub")
	for _, gone := range []string{"usr/bin/swell-agent", "usr/bin/swell-hub", "etc/swell/agent.yaml"} {
		if exists(filepath.Join(root, gone)) {
			t.Errorf("%s is still there", gone)
		}
	}
}

// TestInstalledProgramRuns takes the real agent through its package.
func TestInstalledProgramRuns(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"swell-hub", "swellctl"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command(t, nil, "go", "build", "-ldflags", "-X main.version=1.2.3", "-o", filepath.Join(bin, "swell-agent"), "../agent/cmd/swell-agent")
	root := t.TempDir()
	command(t, nil, "dpkg-deb", "-x", build(t, "BIN="+bin)["swell-agent"], root)
	agent := filepath.Join(root, "usr/bin/swell-agent")
	if out := command(t, nil, agent, "version"); out != "swell-agent 1.2.3\n" {
		t.Errorf("prints %q", out)
	}
	// The shipped configuration is read; what is missing is the hub's key.
	config := filepath.Join(root, "etc/swell/agent.yaml")
	write(t, config, strings.ReplaceAll(read(t, config), "/var/lib/swell-agent", filepath.Join(root, "state")))
	c := exec.Command(agent, "--config", config, "run")
	var talk bytes.Buffer
	c.Stderr = &talk
	if err := c.Run(); err == nil || !strings.Contains(talk.String(), "cosign.pub") {
		t.Errorf("without the hub's key: %v: %s", err, talk.String())
	}
}
