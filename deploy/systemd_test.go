package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var units = map[string]string{"swell-agent": "../agent/cmd/swell-agent/main.go", "swell-hub": "../cloud/cmd/swell-hub/main.go"}

// maxExposure is the most that `systemd-analyze security` may say: from 0, safe,
// to 10.
const maxExposure = 2.0

func TestUnitsAreConfined(t *testing.T) {
	analyze := tool(t, "systemd-analyze", "systemd")
	level := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	for unit := range units {
		out := command(t, nil, analyze, "security", "--offline=true", "--no-pager", "systemd/"+unit+".service")
		m := level.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("systemd-analyze says: %s", out)
		}
		if v, err := strconv.ParseFloat(m[1], 64); err != nil || v > maxExposure {
			t.Errorf("%s: exposure %s, want at most %.1f\n%s", unit, m[1], maxExposure, out)
		}
	}
}

// TestUnitsAreValid lets systemd read the units with programs in place, so that
// it has nothing left to say.
func TestUnitsAreValid(t *testing.T) {
	analyze := tool(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for unit := range units {
		path := filepath.Join(dir, unit+".service")
		write(t, path, strings.ReplaceAll(read(t, "systemd/"+unit+".service"), "/usr/bin/"+unit, program))
		out, err := exec.Command(analyze, "verify", path).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// TestUnitsStartWhatIsThere compares the units with the programs' own words and
// with what the packages install.
func TestUnitsStartWhatIsThere(t *testing.T) {
	for unit, source := range units {
		text := read(t, "systemd/"+unit+".service")
		start := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/(\S+) (.*)$`).FindStringSubmatch(text)
		if start == nil || start[1] != unit {
			t.Fatalf("%s starts %v", unit, start)
		}
		usage := regexp.MustCompile("(?s)const usage = `(.*?)`").FindStringSubmatch(read(t, source))[1]
		pack := read(t, "packages/"+strings.TrimPrefix(unit, "swell-")+".yaml")
		for word := range strings.FieldsSeq(start[2]) {
			switch {
			case strings.HasPrefix(word, "/"):
				if !strings.Contains(pack, "dst: "+word) {
					t.Errorf("%s reads %s, which its package does not install", unit, word)
				}
			case !strings.Contains(usage, word):
				t.Errorf("%s says %q, which is not in the program's usage:\n%s", unit, word, usage)
			}
		}
		for _, m := range regexp.MustCompile(`SWELL_ONNXRUNTIME=(\S+)`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(pack, "dst: "+m[1]) {
				t.Errorf("%s uses %s, which its package does not install", unit, m[1])
			}
		}
		state := regexp.MustCompile(`StateDirectory=(\S+)`).FindStringSubmatch(text)[1]
		config := read(t, "configs/"+strings.TrimPrefix(unit, "swell-")+".yaml")
		if !strings.Contains(config, "_dir: /var/lib/"+state) {
			t.Errorf("%s may write to /var/lib/%s, and its configuration says otherwise", unit, state)
		}
	}
	// The fixed place of a unit's credentials, which the agent's configuration
	// names since it expands no variables.
	if !strings.Contains(read(t, "systemd/swell-agent.service"), "LoadCredential=enrol-token:") ||
		!strings.Contains(read(t, agentConfig), "token_file: /run/credentials/swell-agent.service/enrol-token") {
		t.Error("unit and configuration do not agree on the enrolment token")
	}
}
