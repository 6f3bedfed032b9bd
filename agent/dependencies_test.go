package agent_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestDependenciesAreTheListedOnes keeps the agent small: a module that a
// device carries is added to dependencies.txt in a visible diff, or not at all.
func TestDependenciesAreTheListedOnes(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", "./cmd/swell-agent")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	got = slices.Compact(got)
	b, err := os.ReadFile("dependencies.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			want = append(want, strings.Fields(line)[0])
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("swell-agent is built from these modules:\n%s\nand dependencies.txt names:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
