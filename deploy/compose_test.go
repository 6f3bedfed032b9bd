package deploy_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeFile is what the checks need of the Compose format.
type composeFile struct {
	Services map[string]composeService `yaml:"services"`
	Volumes  map[string]any            `yaml:"volumes"`
}

type composeService struct {
	Image       string            `yaml:"image"`
	Build       map[string]string `yaml:"build"`
	Restart     string            `yaml:"restart"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Healthcheck map[string]any    `yaml:"healthcheck"`
	DependsOn   map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
}

func loadCompose(t *testing.T) composeFile {
	t.Helper()
	var f composeFile
	if err := yaml.Unmarshal([]byte(read(t, "compose/compose.yaml")), &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Services) < 8 {
		t.Fatalf("%d services: the checks would hold for nothing", len(f.Services))
	}
	return f
}

// TestComposeFileHoldsTogether checks what can be checked without an engine.
func TestComposeFileHoldsTogether(t *testing.T) {
	f := loadCompose(t)
	published := map[string]string{}
	used := map[string]bool{}
	for name, s := range f.Services {
		if tag := s.Image[strings.LastIndexByte(s.Image, ':')+1:]; tag == s.Image || tag != "local" && !strings.ContainsAny(tag, "0123456789") {
			t.Errorf("%s: image %q is not pinned to a version", name, s.Image)
		}
		if once := s.Restart == "no"; !once && s.Healthcheck["test"] == nil {
			t.Errorf("%s has no health check", name)
		}
		for _, p := range s.Ports {
			rest, local := strings.CutPrefix(p, "127.0.0.1:")
			port, _, _ := strings.Cut(rest, ":")
			if !local {
				t.Errorf("%s publishes %s beyond this machine", name, p)
			}
			if published[port] != "" {
				t.Errorf("%s and %s both publish %s", name, published[port], port)
			}
			published[port] = name
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(from, ".") {
				if !exists(filepath.Join("compose", from)) {
					t.Errorf("%s mounts %s, which does not exist", name, from)
				}
				continue
			}
			used[from] = true
			if _, ok := f.Volumes[from]; !ok {
				t.Errorf("%s uses volume %s, which is not declared", name, from)
			}
		}
		for other, d := range s.DependsOn {
			o, ok := f.Services[other]
			switch {
			case !ok:
				t.Errorf("%s waits for %s, which does not exist", name, other)
			case d.Condition == "service_healthy" && o.Healthcheck["test"] == nil:
				t.Errorf("%s waits for the health of %s, which has no check", name, other)
			case d.Condition == "service_completed_successfully" && o.Restart != "no":
				t.Errorf("%s waits for the end of %s, which goes on", name, other)
			}
		}
		for k, v := range s.Environment {
			if strings.Contains(k, "PASSWORD") && !strings.HasPrefix(v, "/secrets/") || strings.Contains(k, "TOKEN") && !strings.HasPrefix(v, "/secrets/") {
				t.Errorf("%s: %s is not a file of the volume of secrets", name, k)
			}
		}
	}
	for v := range f.Volumes {
		if !used[v] {
			t.Errorf("nothing uses volume %s", v)
		}
	}
	if want := []string{"grafana", "hub", "influxdb", "minio", "mosquitto", "postgres", "prometheus"}; !slices.Equal(want, longRunning(f)) {
		t.Errorf("services %v, want %v", longRunning(f), want)
	}
}

func longRunning(f composeFile) []string {
	maps.DeleteFunc(f.Services, func(_ string, s composeService) bool { return s.Restart == "no" })
	return slices.Sorted(maps.Keys(f.Services))
}

// TestSecretsOfTheComposeFileAreMade compares the files that services read with
// those that init.sh writes.
func TestSecretsOfTheComposeFileAreMade(t *testing.T) {
	made := read(t, "compose/init.sh")
	for _, path := range []string{"compose/compose.yaml", "compose/hub.yaml", "compose/minio-init.sh", "compose/grafana/datasources/influxdb.yaml"} {
		for _, m := range regexp.MustCompile(`/secrets/([a-z0-9-]+(?:\.yaml)?)`).FindAllStringSubmatch(read(t, path), -1) {
			if !regexp.MustCompile(`secret \S+ ` + m[1] + `\n|\$secrets/` + m[1] + `"`).MatchString(made) {
				t.Errorf("%s reads %s, which init.sh does not make", path, m[0])
			}
		}
	}
}

func TestDockerfileCopiesWhatIsThere(t *testing.T) {
	text := read(t, "compose/Dockerfile")
	goMod := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))[1]
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "FROM":
			if !regexp.MustCompile(`^(node|golang|debian):\d+\.\d+`).MatchString(f[1]) {
				t.Errorf("image %s: want an official one, pinned", f[1])
			}
			if v, ok := strings.CutPrefix(f[1], "golang:"); ok && !strings.HasPrefix(v, goMod) {
				t.Errorf("image %s, and go.mod asks for %s", f[1], goMod)
			}
		case len(f) > 2 && f[0] == "COPY" && !strings.HasPrefix(f[1], "--from"):
			for _, from := range f[1 : len(f)-1] {
				if !exists(filepath.Join("..", from)) {
					t.Errorf("copies %s, which does not exist", from)
				}
			}
		}
	}
	c := loadCompose(t).Services["init"]
	if !exists(filepath.Join("compose", c.Build["context"], c.Build["dockerfile"])) {
		t.Errorf("builds %v", c.Build)
	}
}

// TestDockerReadsTheComposeFile asks Docker's own parser, which needs no engine.
func TestDockerReadsTheComposeFile(t *testing.T) {
	if exec.Command("docker", "compose", "version").Run() != nil {
		t.Skip("needs the Compose plugin of Docker: install docker-compose-plugin from Docker's packages")
	}
	command(t, nil, "docker", "compose", "-f", "compose/compose.yaml", "config", "--quiet")
}

func TestScriptsAreValidShell(t *testing.T) {
	scripts, err := filepath.Glob("*/*.sh")
	if err != nil || len(scripts) < 7 {
		t.Fatalf("%v: %v", scripts, err)
	}
	for _, path := range scripts {
		command(t, nil, "sh", "-n", path)
		if info, err := os.Stat(path); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be run: %v", path, err)
		}
	}
}
